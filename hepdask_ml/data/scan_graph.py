"""A scan as a plain Dask graph: only what was found travels, and a tree joins it.

One node reads each range of events, and gives what it found there; a tree joins the findings, in
the order of the files.  The graph runs on any Dask scheduler, and the result is the same on each,
to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from dask.base import tokenize
from dask.delayed import Delayed, delayed

from hepdask_ml.data.features import Features
from hepdask_ml.data.features import features as read_features
from hepdask_ml.data.findings import Findings, Scan, looked_at
from hepdask_ml.data.identities import Identity, identity
from hepdask_ml.data.sources import Files, Span, sources
from hepdask_ml.data.streams import SIZE, Stream
from hepdask_ml.data.tensors import FeatureForm

MOST_NODES = 1024
"""Nodes that read, about: where there are more events, each reads more of them."""

FAN_IN = 8
"""Findings that one node joins, so that no worker has to gather all at once."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be scanned, once the files were looked into.

    Attributes
    ----------
    features : Features
        What is read.
    digest : str
        Of these.
    inputs : tuple of Identity
        The files.
    spans : tuple of Span
        Ranges of events, one for each node that reads.
    skipped : tuple of str
        Files that could not be looked into and were passed over, a sentence for each.
    options : mapping
        Of the stream that reads a range.
    """

    features: Features
    digest: str
    inputs: tuple[Identity, ...]
    spans: tuple[Span, ...]
    skipped: tuple[str, ...]
    options: Mapping[str, Any]


def scan_graph(
    files: Files,
    features: Features | Mapping[str, Any] | str | Path,
    *,
    tree: str | None = None,
    redirectors: str | Sequence[str] = (),
    **options: Any,
) -> Delayed:
    """Give the graph that scans files, to be computed by any Dask scheduler.

    Each file is looked into once now, for its identity and the number of its events.

    Parameters
    ----------
    files : str, Path, mapping or sequence
        As in `data.sources.sources`.
    features : Features, mapping, str or Path
        What to look at, as `data.features.features` reads it.
    tree : str, optional
        Name of the tree, wherever none is given with the file or the features.
    redirectors : str or sequence of str
        Servers that know logical names.
    **options
        ``size``, ``unreadable``, ``attempts`` and ``timeout`` of the `data.streams.Stream`.

    Returns
    -------
    dask.delayed.Delayed
        Its ``compute()`` gives a `Scan`.  Equal input gives equal keys.

    Raises
    ------
    InputError
        If files or features are wrong; computing raises it for what only the events show.
    UnreadableFile
        If a file cannot be read, unless such are passed over.

    Examples
    --------
    >>> graph = scan_graph("nano/*.root", "features.yaml")  # doctest: +SKIP
    >>> graph.compute(scheduler="threads").slots("jets", 95)  # doctest: +SKIP
    6
    """
    return graph(plan(files, features, tree=tree, redirectors=redirectors, **options))


def plan(
    files: Files,
    features: Features | Mapping[str, Any] | str | Path,
    *,
    tree: str | None = None,
    redirectors: str | Sequence[str] = (),
    size: int = SIZE,
    **options: Any,
) -> Plan:
    """Look into files, and share out their events.

    Parameters
    ----------
    files, features, tree, redirectors, **options
        As in `scan_graph`.
    size : int
        Events that are in memory at once in each node.

    Returns
    -------
    Plan
        What is to be scanned.

    Raises
    ------
    InputError, UnreadableFile
        As `scan_graph`.
    """
    read = looked_at(read_features(features))
    found = sources(files, tree=tree or read.tree, redirectors=redirectors)
    options = {**options, "size": size}
    stream = Stream(found, FeatureForm(read), **options)
    spans = stream.spans()
    if len(spans) > MOST_NODES:
        n_events = sum(span.stop - span.start for span in spans)
        spans = stream.spans(-(-n_events // MOST_NODES))
    inputs = tuple(identity(*each) for each in stream.looks.items())
    skipped = tuple(str(each) for each in stream.skipped)
    return Plan(read, read.digest, inputs, spans, skipped, options)


def graph(planned: Plan) -> Delayed:
    """Give the graph of a plan.

    Parameters
    ----------
    planned : Plan
        What is to be scanned.

    Returns
    -------
    dask.delayed.Delayed
        Its ``compute()`` gives a `Scan`.
    """
    token = tokenize(planned.digest, sorted(planned.options.items()))
    form = _held(f"form-{token}", FeatureForm(planned.features))
    keys = {each.url: each.key for each in planned.inputs}
    parts = []
    for span in planned.spans:
        part = tokenize(token, keys[span.source.url], span)
        held = _held(f"span-{part}", span)
        parts.append(_node(f"found-{part}", _found, form, held, planned.options))
    while len(parts) > 1:
        batches = [parts[at : at + FAN_IN] for at in range(0, len(parts), FAN_IN)]
        parts = [_join_node(batch) for batch in batches]
    token = tokenize(planned.digest, planned.inputs, planned.skipped, [each.key for each in parts])
    inputs = _held(f"inputs-{token}", planned.inputs)
    return _node(f"scan-{token}", _scan, planned.digest, inputs, planned.skipped, *parts)


# Equal keys have equal inputs, down to the keys of the nodes that they come from: a distributed
# scheduler that meets one key with unlike inputs may come to a standstill.


def _node(key: str, work: Callable[..., Any], *inputs: Any) -> Delayed:
    node: Delayed = delayed(work)(*inputs, dask_key_name=key)
    return node


def _held(key: str, value: Any) -> Delayed:
    """Make a node of a value, which dask does not look into."""
    node: Delayed = delayed(value, name=key, traverse=False)
    return node


def _join_node(parts: list[Delayed]) -> Delayed:
    if len(parts) == 1:
        return parts[0]
    return _node(f"join-{tokenize([part.key for part in parts])}", _joined, *parts)


def _found(form: FeatureForm, span: Span, options: Mapping[str, Any]) -> Findings:
    """Read a range of events, and give what was found there."""
    stream = Stream((span.source,), form, **options)
    parts = (Findings.of(batch, form.features) for batch in stream.batches(span))
    found = reduce(Findings.__add__, parts, Findings())
    return found + Findings(skipped=tuple(str(each) for each in stream.skipped))


def _joined(*parts: Findings) -> Findings:
    return reduce(Findings.__add__, parts, Findings())


def _scan(
    digest: str, inputs: tuple[Identity, ...], skipped: tuple[str, ...], *parts: Findings
) -> Scan:
    return Scan(digest, inputs, _joined(*parts, Findings(skipped=skipped)))
