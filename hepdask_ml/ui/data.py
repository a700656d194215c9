"""What the command line does with events and histograms: scans the ones, builds of the others."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

from dask.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from hepdask_ml.data.scan_table import PERCENTILES, QUANTILES
from hepdask_ml.errors import HepdaskError, InputError, SiteError, late, words
from hepdask_ml.ui.campaigns import site_asked
from hepdask_ml.ui.show import json_text, visible, warning_view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType

    from dask.delayed import Delayed
    from distributed import Future

    from hepdask_ml.config import SiteSettings
    from hepdask_ml.data.findings import Scan
    from hepdask_ml.data.summaries import Summary
    from hepdask_ml.data.templates.build import Built
    from hepdask_ml.facility.site import Site

READING = "found-"
"""How the keys of the nodes begin that read events (`hepdask_ml.data.scan_graph`)."""

ADVICE = {
    'choose unreadable="skip"': "give --skip-unreadable",
    'with source="inputs"': "with --source inputs",
}
"""What errors advise in Python, and what it is called on the command line."""

TELLERS = ("hepdask_ml.data", "hepdask_ml.facility")
"""Loggers that tell something while a scan goes on."""


def scan(options: Mapping[str, Any]) -> None:
    """Scan events, print what was found, and keep it where that is asked for.

    Parameters
    ----------
    options : mapping
        Of the command ``scan``.

    Raises
    ------
    HepdaskError
        If the scan was made and cannot be kept; it is printed before.
    """
    place, where = site_asked(options), options["output"]
    with _advice(), ScanProgress(quiet=options["quiet"]) as progress:
        found = _scanned(options, place, progress)
    if options["as_json"]:
        sys.stdout.write(json_text(scan_json(found)))
    else:
        sys.stdout.write(_plain(found))
    if progress.failures:
        raise HepdaskError("; ".join(progress.failures))
    if where is not None and progress.total is not None:
        sys.stderr.write(f"wrote {where}\n")


def _scanned(
    options: Mapping[str, Any], place: SiteSettings | None, progress: ScanProgress
) -> Scan:
    """Scan there, or take up what is kept."""
    files, features = list(options["files"]), options["features"]
    given = {
        "path": options["output"],
        "tree": options["tree"],
        "redirectors": options["redirectors"],
        "unreadable": "skip" if options["skip_unreadable"] else "error",
    }
    make: Callable[..., Scan] = late("data.scan").scan
    if place is None:
        with progress.of_threads():
            return make(files, features, threads=options["threads"], **given)
    # What goes wrong is said in a sentence; Dask would tell it in tracebacks.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    site = late("facility.site").site(place)
    return make(files, features, client=_Watched(site, progress), **given)


def scan_json(found: Scan) -> dict[str, Any]:
    """Give what the tables of a scan show as a JSON document.

    Parameters
    ----------
    found : Scan
        The scan.

    Returns
    -------
    dict
        What ``scan --json`` prints; None where there is no number.
    """
    return {
        "schema": "hepdask-ml/scan/1",
        "digest": found.digest,
        "inputs": [each.to_json() for each in found.inputs],
        "n_events": found.n_events,
        "n_selected": found.n_selected,
        "datasets": {name: asdict(each) for name, each in found.datasets.items()},
        "fields": {
            group: {name: _field_json(seen) for name, seen in fields.items()}
            for group, fields in found.fields.items()
        },
        "slots": {
            group: {f"{each:g}": found.slots(group, each) for each in PERCENTILES if lengths.total}
            for group, lengths in found.lengths.items()
        },
        "notes": list(found.notes),
        "skipped": list(found.skipped),
    }


def _field_json(seen: Summary) -> dict[str, Any]:
    numbers = {"mean": seen.mean, "std": seen.std, "low": seen.low, "high": seen.high}
    return {
        "count": seen.count,
        "missing": seen.missing,
        "infinite": seen.infinite,
        **{name: value if isfinite(value) else None for name, value in numbers.items()},
        "quantiles": {f"{each:g}": seen.quantile(each) for each in QUANTILES if seen.count},
    }


def workspace(config: str, output: str | None, *, source: str, folder: str, as_json: bool) -> None:
    """Build a workspace of a configuration of cabinetry, and tell what was done on the way.

    Parameters
    ----------
    config : str
        The YAML file.
    output : str or None
        Where the workspace is written: a file, or a URL that fsspec knows.  If None it is printed,
        and the report goes to standard error.
    source : {"folder", "inputs"}
        Where the histograms are taken from.
    folder : str
        Where relative paths in the configuration begin.
    as_json : bool
        Print the report as JSON.

    Raises
    ------
    InputError
        If the configuration or a histogram is missing or wrong, or the workspace may not be written
        there.
    """
    if as_json and output is None:
        raise InputError(
            "without -o the workspace itself is printed, which leaves no place for --json: name a "
            "file with -o"
        )
    read = late("data.templates.cabinetry_config").read_cabinetry
    with _advice():
        templates, choices = read(config, source=source, folder=folder)
    made: Built = late("data.templates.build").build(templates, choices)
    text = json_text(made.workspace)
    if output is None:
        sys.stdout.write(text)
        sys.stderr.write(_plain(made.report))
        return
    late("data.stored").write_text(output, text)
    if as_json:
        document = {"workspace": output, "report": made.report.to_json()}
        sys.stdout.write(json_text({"schema": "hepdask-ml/workspace/1", **document}))
    else:
        sys.stdout.write(_plain(made.report))
    sys.stderr.write(f"wrote {output}\n")


@contextmanager
def _advice() -> Iterator[None]:
    """Let errors advise options of the command line in place of those of Python."""
    try:
        yield
    except InputError as error:
        said = str(error)
        for python, option in ADVICE.items():
            said = said.replace(python, option)
        raise InputError(said) from error


def _plain(shown: object) -> str:
    """Give lines for a terminal, whatever names they have in them."""
    return "".join(f"{visible(line)}\n" for line in str(shown).splitlines())


class ScanProgress:
    """How far a scan is and what it tells, on standard error; no bar where nobody looks.

    Use it as a context manager.

    Parameters
    ----------
    quiet : bool
        Shows no bar, and of what is told only warnings.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("looking into the files", total=None)
        self._notes = _Notes(console)
        self._level = logging.WARNING if quiet else logging.INFO
        self._before: list[int] = []  # levels of the loggers

    @property
    def total(self) -> int | None:
        """Nodes that read; None where nothing was read, as of a scan that was kept."""
        return None if (total := self._bar.tasks[0].total) is None else int(total)

    @property
    def done(self) -> int:
        """Those that have."""
        return int(self._bar.tasks[0].completed)

    @property
    def failures(self) -> list[str]:
        """What was told as an error, so far."""
        return self._notes.failures

    def plan(self, keys: Iterable[Any]) -> list[Any]:
        """Take the keys of all nodes, and give those that read."""
        reading = [key for key in keys if str(key).startswith(READING)]
        self._bar.update(self._task, total=len(reading), description="reading")
        return reading

    def advance(self, key: Any) -> None:
        """Count a node that is done, if it reads."""
        if str(key).startswith(READING):
            self._bar.advance(self._task)

    def of_threads(self) -> Callback:
        """Watch the graph that threads of this process compute.

        Returns
        -------
        dask.callbacks.Callback
            A context manager.
        """
        return Callback(  # type: ignore[no-untyped-call]
            start_state=lambda nodes, _: self.plan(nodes),
            posttask=lambda key, *_: self.advance(key),
        )

    def __enter__(self) -> ScanProgress:
        for name in TELLERS:
            logger = logging.getLogger(name)
            self._before.append(logger.level)
            logger.addHandler(self._notes)
            logger.setLevel(self._level)
        if not self._bar.disable:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._bar.disable:
            self._bar.stop()
        for name in reversed(TELLERS):
            logger = logging.getLogger(name)
            logger.removeHandler(self._notes)
            logger.setLevel(self._before.pop())


class _Notes(logging.Handler):
    """Prints what is told, above the bar; keeps errors for the end."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self.failures: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        said = visible(record.getMessage())
        if record.levelno >= logging.ERROR:
            self.failures.append(said)
        elif record.levelno >= logging.WARNING:
            self._console.print(warning_view([said]), soft_wrap=True)
        else:
            self._console.print(Text(said, "dim"), soft_wrap=True)


class _Watched:
    """As much of a client as a scan needs, which counts the nodes that are done.

    Parameters
    ----------
    site : Site
        Where the workers are; opened when there is something to read.
    progress : ScanProgress
        Who counts.
    """

    asynchronous = False

    def __init__(self, site: Site, progress: ScanProgress) -> None:
        self._site = site
        self._progress = progress

    def compute(self, nodes: Delayed, *, sync: bool) -> Any:
        """Compute a graph, and give its result."""
        del sync  # there is no other way here
        graph = dict(nodes.__dask_graph__())
        keys = [nodes.key, *self._progress.plan(graph)]
        try:
            with self._site.open() as client:
                result, *parts = client.get(graph, keys, sync=False)  # type: ignore[no-untyped-call]
                for part in parts:
                    part.add_done_callback(self._done)
                return result.result()
        except HepdaskError:
            raise
        except Exception as error:
            raise SiteError(
                f"the workers cannot scan ({type(error).__name__}: {words(error)}): `hepdask-ml "
                "site check` tells what is wrong with them"
            ) from error

    def _done(self, part: Future[Any]) -> None:
        self._progress.advance(part.key)
        # Held only to be counted: what needs it keeps it on the cluster.
        part.release()  # type: ignore[no-untyped-call]
