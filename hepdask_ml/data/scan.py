"""One pass over all events, before anything is trained: lengths, ranges, means, missing numbers.

The scan says how many slots hold the items of so many percent of events, and fits the scalers.  It
is kept as JSON, and taken up again as long as neither the files nor what is looked at have changed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hepdask_ml.data.features import Features
from hepdask_ml.data.findings import Findings, Scan, Tally
from hepdask_ml.data.scan_graph import Plan, graph, plan
from hepdask_ml.data.sources import Files
from hepdask_ml.data.stored import read_text
from hepdask_ml.data.streams import SIZE, Unreadable
from hepdask_ml.errors import HepdaskError, InputError

__all__ = ["Findings", "Scan", "Tally", "scan"]

LOG = logging.getLogger(__name__)

_SHOWN = 3


def scan(  # noqa: PLR0913 - options, all keyword-only
    files: Files,
    features: Features | Mapping[str, Any] | str | Path,
    *,
    path: str | Path | None = None,
    client: Any = None,
    threads: int | None = None,
    tree: str | None = None,
    redirectors: str | Sequence[str] = (),
    size: int = SIZE,
    unreadable: Unreadable = "error",
    attempts: int = 3,
    timeout: float = 60.0,
) -> Scan:
    """Look at all events once.

    Parameters
    ----------
    files : str, Path, mapping or sequence
        As in `data.sources.sources`.
    features : Features, mapping, str or Path
        What to look at, as `data.features.features` reads it.
    path : str or Path, optional
        Where the scan is kept: a file, or a URL that fsspec knows.  If there is one of the same
        files and features, nothing is read but the heads of the files; otherwise it is replaced,
        and the log says why, as it does if the scan cannot be written there.
    client : distributed.Client, optional
        Of the cluster whose workers read; threads of this process do if not given.
    threads : int, optional
        How many read, without a client; as many as there are cores if not given.
    tree : str, optional
        Name of the tree, wherever none is given with the file or the features.
    redirectors : str or sequence of str
        Servers that know logical names.
    size : int
        Events that each reader has in memory at once.
    unreadable : {"error", "skip"}
        What becomes of a file that no copy of can be read.
    attempts : int
        How often each copy is tried.
    timeout : float
        How long a copy may stand still, in seconds.

    Returns
    -------
    Scan
        The same for any number of threads and workers.

    Raises
    ------
    InputError
        If files, features or a number are wrong, or no scan can be kept there.
    UnreadableFile
        If a file cannot be read, unless such are passed over.

    Examples
    --------
    >>> found = scan("nano/*.root", "features.yaml", path="scan.json")  # doctest: +SKIP
    >>> found.slots("jets", 95)  # doctest: +SKIP
    6
    """
    if threads is not None and threads < 1:
        raise InputError(f"{threads} threads read nothing: give one or more")
    if client is not None and client.asynchronous:
        raise InputError("the client is asynchronous: give one that waits for its results")
    planned = plan(
        files,
        features,
        tree=tree,
        redirectors=redirectors,
        size=size,
        unreadable=unreadable,
        attempts=attempts,
        timeout=timeout,
    )
    kept = None if path is None else _kept(path, planned)
    if kept is not None:
        return kept
    nodes: Any = graph(planned)
    found: Scan = (
        nodes.compute(scheduler="threads", num_workers=threads)
        if client is None
        else client.compute(nodes, sync=True)
    )
    if path is not None:
        try:
            found.save(path)
        except HepdaskError as error:
            # Hours of reading may be in it: whoever asked has it all the same.
            LOG.error("%s; the scan is not kept", error)
    return found


def _kept(path: str | Path, planned: Plan) -> Scan | None:
    """Give the scan that is there, if it is the one that would be made; say if it is another."""
    if read_text(path) is None:
        return None
    try:
        there = Scan.load(path)
    except InputError as error:
        LOG.warning("%s; it is replaced by a new scan", error)
        return None
    if there.digest != planned.digest:
        LOG.warning("%s is of other features: it is replaced by a new scan", path)
        return None
    changed = there.changed(planned.inputs)
    if changed:
        shown = ", ".join(changed[:_SHOWN]) + (", ..." if len(changed) > _SHOWN else "")
        LOG.warning("%s is of other files (%s): it is replaced by a new scan", path, shown)
        return None
    if there.skipped:
        LOG.warning("%s lacks events that could not be read: it is replaced by a new scan", path)
        return None
    LOG.info("%s is of these files and features: nothing is read", path)
    return there
