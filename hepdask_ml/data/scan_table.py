"""A scan as people read it: tables of fields, lengths and data sets, and what is odd about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hepdask_ml.data.findings import Scan
    from hepdask_ml.data.summaries import Counts, Summary

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
"""Which ones a table has."""

PERCENTILES = (50, 90, 95, 99, 99.9, 100)
"""Percent of events whose items all find a slot, for which a table has the number of slots."""


@dataclass(frozen=True, slots=True)
class _Table:
    """Rows of numbers in words; the first column has names."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def text(scan: Scan) -> str:
    """Show a scan in a terminal.

    Parameters
    ----------
    scan : Scan
        What was found.

    Returns
    -------
    str
        Lines.
    """
    lines = [_title(scan)]
    for table in _tables(scan):
        cells = [[table.title, *table.head], *table.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines.append("")
        for first, *others in cells:
            aligned = [each.rjust(width) for each, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *aligned]))
    found = scan.notes
    return "\n".join([*lines, *([""] if found else []), *found])


def html(scan: Scan) -> str:
    """Show a scan in a notebook.

    Parameters
    ----------
    scan : Scan
        What was found.

    Returns
    -------
    str
        HTML.
    """
    parts = [f"<p>{escape(_title(scan))}</p>"]
    for table in _tables(scan):
        head = "".join(f"<th>{escape(each)}</th>" for each in (table.title, *table.head))
        rows = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows
        )
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
    listed = "".join(f"<li>{escape(note)}</li>" for note in scan.notes)
    return "".join([*parts, f"<ul>{listed}</ul>" if listed else ""])


def notes(scan: Scan) -> Iterator[str]:
    """Say what is odd about the data.

    Parameters
    ----------
    scan : Scan
        What was found.

    Yields
    ------
    str
        A sentence.
    """
    if scan.n_events and not scan.n_selected:
        yield f"No event of {scan.n_events} passes the selection."
    for group, fields in scan.fields.items():
        for name, seen in fields.items():
            yield from _odd(f'"{name}" of "{group}"', seen)
    for dataset, tally in scan.datasets.items():
        if tally.unusable:
            what = f'data set "{dataset}"' if dataset else "the files"
            yield (
                f"{tally.unusable} of {tally.n_selected} selected events of {what} have a weight "
                "that is NaN or infinite."
            )
    for each in scan.skipped:
        yield f"Passed over: {each}."


def _odd(what: str, seen: Summary) -> Iterator[str]:
    if seen.infinite:
        yield f"{what} is infinite {seen.infinite} times, which no statistic has."
    if seen.missing and not seen.count:
        yield f"{what} is always missing."
    if seen.count > 1 and seen.low == seen.high:
        yield f"{what} is {seen.low:g} wherever it is there."


def _title(scan: Scan) -> str:
    n_files = len(scan.inputs)
    return (
        f"Scan of {n_files} file{'s' * (n_files != 1)}: {scan.n_events} events, "
        f"{scan.n_selected} selected"
    )


def _tables(scan: Scan) -> Iterator[_Table]:
    rows = [
        (
            name or "(no data set)",
            str(each.n_events),
            str(each.n_selected),
            f"{each.weighted:.6g}",
            str(each.negative),
            str(each.unusable),
        )
        for name, each in scan.datasets.items()
    ]
    if rows:
        about = ("events", "selected", "sum of weights", "negative", "unusable")
        yield _Table("data set", about, rows)
    quantiles = [f"{100 * share:g} %" for share in QUANTILES]
    head = ("mean", "std", "lowest", *quantiles, "highest", "missing")
    for group, fields in scan.fields.items():
        yield _Table(group, head, [(name, *_statistics(seen)) for name, seen in fields.items()])
        if group in scan.lengths and scan.lengths[group].total:
            yield _slots(scan, group, scan.lengths[group])


def _statistics(seen: Summary) -> list[str]:
    if not seen.count:
        return [*["-"] * (4 + len(QUANTILES)), str(seen.missing)]
    quantiles = [seen.quantile(share) for share in QUANTILES]
    numbers = (seen.mean, seen.std, seen.low, *quantiles, seen.high)
    return [*(f"{number:.4g}" for number in numbers), str(seen.missing)]


def _slots(scan: Scan, group: str, lengths: Counts) -> _Table:
    """Slots for all items of so many events, and what they cut; once where several are equal."""
    wanted: dict[int, float] = {}
    for percentile in PERCENTILES:
        wanted.setdefault(scan.slots(group, percentile), percentile)
    rows = []
    for slots, percentile in wanted.items():
        shares = [f"{100 * share:.2g} %" for share in scan.cut(group, slots)]
        rows.append((f"all of {percentile:g} % of events", str(slots), *shares))
    mean = int(lengths.numbers @ lengths.times) / lengths.total
    title = f"{group}: {mean:.3g} items on average"
    return _Table(title, ("slots", "items cut", "events cut"), rows)
