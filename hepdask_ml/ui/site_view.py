"""Sites in a terminal: the list of them, and what was found in one."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from hepdask_ml.ui.show import UNKNOWN, duration_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from hepdask_ml.facility.check import Report
    from hepdask_ml.ui.sites import Entry

_AT_ONCE_S = 0.05
_TELLING = ("python", "hepdask-ml", "dask", "distributed", "numpy")
_MARKS = {None: Text("✓", "green"), False: Text("!", "yellow"), True: Text("✗", "red")}


class Waiting:
    """A line that says what is waited for, and for how long; silent where nobody looks.

    Parameters
    ----------
    quiet : bool
        Shows nothing, even in a terminal.

    Examples
    --------
    >>> with Waiting(quiet=True) as tell:
    ...     tell("waiting for a worker")
    """

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._line = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not (console.is_terminal or console.is_jupyter),
        )
        self._task = self._line.add_task("", total=None)

    def __call__(self, text: str) -> None:
        """Say what is waited for."""
        self._line.update(self._task, description=text)

    def __enter__(self) -> Waiting:
        if not self._line.disable:
            self._line.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._line.disable:
            self._line.stop()


def print_view(view: Any) -> None:
    """Print a view as a result.

    Parameters
    ----------
    view : Table or Group
        What the other functions here give.
    """
    Console(file=sys.stdout).print(view)


def sites_view(entries: Sequence[Entry]) -> Table:
    """Give the list of sites.

    Parameters
    ----------
    entries : sequence of Entry
        The sites.

    Returns
    -------
    Table
        One row a site.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("site", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("from")
    table.add_column("what it is")
    for entry in entries:
        cells = (entry.kind or UNKNOWN, entry.source, entry.description)
        table.add_row(Text(entry.name, "bold"), *map(Text, cells))
    return table


def report_view(report: Report) -> Group:
    """Give what was found in a site.

    Parameters
    ----------
    report : Report
        What was found.

    Returns
    -------
    Group
        Facts, then what is wrong with them; the sentence is last where the site works, and is an
        error for the caller where it does not.
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    for topic, (title, cell) in _CELLS.items():
        if topic in report.facts:
            worst = max(
                (each.is_fault for each in report.findings if each.topic == topic), default=None
            )
            table.add_row(_MARKS[worst], title, Text(cell(report.facts[topic])))
    told = report.findings if report.ok else report.findings[1:]
    lines = [Text.assemble(_MARKS[each.is_fault], " ", each.sentence) for each in told]
    parts: list[Any] = [table] if table.row_count else []
    parts += [Text("\n").join(lines)] if lines else []
    parts += [Text(report.sentence, "bold")] if report.ok else []
    spaced = [each for part in parts for each in (part, "")]
    return Group(*spaced[:-1])


def _worker(seen: Mapping[str, Any]) -> str:
    host = f"on {seen['host']}, " if "host" in seen else ""
    came = f"came after {duration_text(seen['waited_s'])}"
    return f"{host}{came if seen['waited_s'] >= _AT_ONCE_S else 'was there already'}"


def _versions(seen: Mapping[str, Mapping[str, str | None]]) -> str:
    sides = [seen[side] for side in ("here", "scheduler", "worker")]
    differ = {name for name in sides[0] if len({side[name] for side in sides}) > 1}
    texts = []
    for name in sides[0]:
        if name in differ:
            texts.append(f"{name} {' / '.join(side[name] or 'none' for side in sides)}")
        elif name in _TELLING:
            texts.append(f"{name} {sides[0][name]}")
    end = " (here / scheduler / worker)" if differ else ": the same everywhere"
    return ", ".join(texts) + end


def _processors(seen: Mapping[str, Any]) -> str:
    limits = sorted(set(seen["limits"].values()))
    libraries = f"limited to {' or '.join(limits)}" if limits else "not limited"
    threads = "1 thread" if seen["threads"] == 1 else f"{seen['threads']} threads"
    return f"{seen['usable']}, for {threads}; threads of libraries are {libraries}"


def _memory(seen: Mapping[str, Any]) -> str:
    limit, total = seen["limit_bytes"], _size(seen["total_bytes"])
    return f"{_size(limit)} of {total}" if limit else f"{total}, without a limit"


def _gpus(seen: Mapping[str, Any]) -> str:
    if not seen["seen"]:
        return f"none of {seen['asked']}" if seen["asked"] else "none, and none asked for"
    alike = Counter((each["name"], each["memory_bytes"]) for each in seen["seen"])
    texts = [
        f"{number} {name}" + (f", {_size(memory)}" if memory else "")
        for (name, memory), number in alike.items()
    ]
    toys = "toys can use them" if seen["cupy"] else "toys cannot use them without CuPy"
    return "; ".join([*texts, f"driver {seen['driver'] or UNKNOWN}", toys])


def _walltime(seen: Mapping[str, Any]) -> str:
    if seen["left_s"] is None:
        return "no end is known"
    return f"{duration_text(seen['left_s'])} left ({seen['source']})"


def _scratch(seen: Mapping[str, Any]) -> str:
    free = "" if seen["free_bytes"] is None else f", {_size(seen['free_bytes'])} free"
    return f"{seen['folder']} ({seen['filesystem'] or UNKNOWN}){free}"


def _connection(seen: Mapping[str, Any]) -> str:
    encrypted = "encrypted" if seen["encrypted"] else "not encrypted"
    where = " and ".join(seen["reach"])
    return f"{seen['worker']} to {seen['scheduler']}, {encrypted}; reached from {where}"


def _network(seen: Mapping[str, Any]) -> str:
    return f"round trip {_small(seen['round_trip_s'])}, {_size(seen['bytes_per_s'])}/s"


def _clock(seen: Mapping[str, Any]) -> str:
    apart, error = abs(seen["difference_s"]), seen["error_s"]
    if apart <= error:
        return f"agree, as far as can be told ({_small(error)})"
    return f"differ by {_small(apart)}"


_CELLS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "worker": ("worker", _worker),
    "versions": ("versions", _versions),
    "processors": ("processors", _processors),
    "memory": ("memory", _memory),
    "gpus": ("GPUs", _gpus),
    "walltime": ("walltime", _walltime),
    "scratch": ("scratch", _scratch),
    "connection": ("connection", _connection),
    "network": ("network", _network),
    "clock": ("clocks", _clock),
}


def _size(amount: float) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if amount >= unit:
            return f"{amount / unit:.3g} {name}"
    return f"{amount / 1e3:.3g} kB"


def _small(seconds: float) -> str:
    return f"{1e3 * seconds:.2g} ms" if seconds < 0.1 else duration_text(seconds)
