"""Results as tables, for a terminal (rich) and a notebook (HTML), as JSON, and the toys' progress.

Both tables take their cells from the same functions, so that they show the same digits: a number
from toys is rounded to two significant digits of its error.
"""

from __future__ import annotations

import json
from html import escape
from math import floor, isfinite, log10
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from hepdask_ml.inference.hypotest import number
from hepdask_ml.inference.pvalues import BAND_NAMES, BANDS
from hepdask_ml.likelihood.fit import FitStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from hepdask_ml.inference.hypotest import Discovery, HypoTest
    from hepdask_ml.inference.limit import Limit
    from hepdask_ml.inference.pvalues import Measured
    from hepdask_ml.likelihood.fit import Fits
    from hepdask_ml.likelihood.model import CompiledModel

UNKNOWN = "–"  # noqa: RUF001 - the sign for "no number" in tables
STATISTIC_NAMES = {"q0": "q0", "q": "q", "qtilde": "q-tilde", "t": "t"}


class ToyProgress:
    """A bar with toys per second and the time left; silent where nobody looks.

    Use it as a context manager, and give it to `hepdask_ml.upper_limit` or
    `hepdask_ml.hypotest` as ``progress=``.

    Parameters
    ----------
    quiet : bool
        Shows nothing, even in a terminal.

    Examples
    --------
    >>> with ToyProgress(quiet=True) as progress:
    ...     progress.plan(100)
    ...     progress.advance(100)
    """

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("toys"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not (console.is_terminal or console.is_jupyter),
        )
        self._task = self._bar.add_task("toys", total=None)

    def plan(self, total: int) -> None:
        """Take the number of toys to be evaluated."""
        self._bar.update(self._task, total=total)

    def advance(self, toys: int) -> None:
        """Take the number of toys done since the last call."""
        self._bar.advance(self._task, toys)

    def __enter__(self) -> ToyProgress:
        if not self._bar.disable:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._bar.disable:  # older versions of rich end even a hidden bar with a new line
            self._bar.stop()


class _Rate(ProgressColumn):
    """Toys per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} toys/s", style="progress.data.speed")


def number_text(value: float) -> str:
    """Give a number with four significant digits.

    Parameters
    ----------
    value : float
        The number, nan if unknown.

    Returns
    -------
    str
        Its text.
    """
    return f"{value:.4g}" if isfinite(value) else UNKNOWN


def measured_text(measured: Measured) -> str:
    """Give a number and its error, rounded to two significant digits of the error.

    Parameters
    ----------
    measured : Measured
        Number and error, nan where unknown.

    Returns
    -------
    str
        Their text.

    Examples
    --------
    >>> from hepdask_ml.inference.pvalues import Measured
    >>> measured_text(Measured(2.31975, 0.03141))
    '2.320 ± 0.031'
    """
    value, error = measured.value, measured.error
    if not isfinite(value):
        return UNKNOWN
    if not isfinite(error) or error <= 0.0:
        return number_text(value)
    decimals = max(0, 1 - floor(log10(float(f"{error:.1e}"))))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def hypotest_json(test: HypoTest) -> dict[str, Any]:
    """Give the document of a single hypothesis test.

    Parameters
    ----------
    test : HypoTest
        The test.

    Returns
    -------
    dict
        What ``hypotest.json`` holds: one point of a scan, and what it needs to stand alone.
    """
    return {
        "schema": "hepdask-ml/hypotest/1",
        "poi": test.poi,
        "test_statistic": test.test_statistic,
        "seed": test.seed,
        "poi_hat": number(test.poi_hat),
        "point": test.to_json(),
        "warnings": list(test.warnings),
    }


def json_text(document: dict[str, Any]) -> str:
    """Give a document as JSON text.

    Parameters
    ----------
    document : dict
        Numbers in it are finite.

    Returns
    -------
    str
        Indented, with a final newline.
    """
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def limit_view(limit: Limit) -> Group:
    """Give a limit as rich tables: the scan, and below it the limits.

    Parameters
    ----------
    limit : Limit
        The limit.

    Returns
    -------
    rich.console.Group
        To be printed by a rich console.
    """
    return Group(
        _rich_table(*_scan_cells(limit)),
        "",
        Text(_limit_title(limit), style="bold"),
        _rich_table(*_limit_cells(limit)),
    )


def hypotest_view(test: HypoTest) -> Group:
    """Give a hypothesis test as a rich table with its title.

    Parameters
    ----------
    test : HypoTest
        The test.

    Returns
    -------
    rich.console.Group
        To be printed by a rich console.
    """
    return Group(Text(_hypotest_title(test), style="bold"), _rich_table(*_hypotest_cells(test)))


def warning_view(warnings: Sequence[str]) -> Group:
    """Give warnings as rich text.

    Parameters
    ----------
    warnings : sequence of str
        Sentences.

    Returns
    -------
    rich.console.Group
        To be printed by a rich console.
    """
    return Group(*(Text(f"warning: {warning}", style="yellow") for warning in warnings))


def limit_html(limit: Limit) -> str:
    """Give a limit as HTML.

    Parameters
    ----------
    limit : Limit
        The limit.

    Returns
    -------
    str
        A fragment for a notebook.
    """
    return _html(_limit_title(limit), *_limit_cells(limit), limit.warnings)


def hypotest_html(test: HypoTest) -> str:
    """Give a hypothesis test as HTML.

    Parameters
    ----------
    test : HypoTest
        The test.

    Returns
    -------
    str
        A fragment for a notebook.
    """
    return _html(_hypotest_title(test), *_hypotest_cells(test), test.warnings)


def discovery_html(found: Discovery) -> str:
    """Give a discovery test as HTML.

    Parameters
    ----------
    found : Discovery
        The test.

    Returns
    -------
    str
        A fragment for a notebook.
    """
    rows = [
        ["p-value", measured_text(found.p_value), number_text(found.asymptotic_p_value)],
        [
            "significance",
            measured_text(found.significance),
            number_text(found.asymptotic_significance),
        ],
    ]
    title = f"Background only against {found.poi}: {len(found.toys.q):,} toys, seed {found.seed}"
    return _html(title, ["", "toys", "asymptotic"], rows, found.warnings)


def model_html(model: CompiledModel) -> str:
    """Give a summary of a model as HTML.

    Parameters
    ----------
    model : CompiledModel
        The model.

    Returns
    -------
    str
        A fragment for a notebook.
    """
    rows = [
        ["channels", ", ".join(model.channel_names)],
        ["samples", ", ".join(model.sample_names)],
        ["bins", str(model.n_main)],
        ["parameters", f"{model.n_pars}, of which {int((~model.fixed).sum())} are free"],
        ["auxiliary data", str(model.n_aux)],
        ["parameter of interest", model.poi_name or UNKNOWN],
    ]
    return _html("Compiled model", ["", ""], rows, model.warnings)


def fits_html(fits: Fits) -> str:
    """Give a summary of a batch of fits as HTML.

    Parameters
    ----------
    fits : Fits
        The fits.

    Returns
    -------
    str
        A fragment for a notebook.
    """
    counts = [(status, int((fits.status == status).sum())) for status in FitStatus]
    rows = [[status.name, f"{count:,}", status.sentence] for status, count in counts if count]
    return _html(f"{len(fits):,} fits", ["status", "rows", "meaning"], rows, ())


def _limit_title(limit: Limit) -> str:
    toys = (
        f"{limit.toys:,} toys"
        if limit.toys_per_point is None
        else f"{limit.toys_per_point:,} toys of each hypothesis"
    )
    return (
        f"{100 * limit.cl:g} % CL upper limit on {limit.poi}: "
        f"{STATISTIC_NAMES[limit.test_statistic]}, {toys}, {seed_text(limit.seed)}"
    )


def seed_text(seed: int | tuple[int, ...]) -> str:
    """Name the seed, or the seeds of merged runs.

    Parameters
    ----------
    seed : int or tuple of int
        One or several.

    Returns
    -------
    str
        Their text.
    """
    if isinstance(seed, int):
        return f"seed {seed}"
    return f"seeds {', '.join(map(str, seed))}"


def _limit_cells(limit: Limit) -> tuple[list[str], list[list[str]]]:
    rows = [["observed", measured_text(limit.observed), number_text(limit.asymptotic.observed)]]
    formulae = limit.asymptotic.expected
    for name, toys, formula in zip(BAND_NAMES, limit.expected, formulae, strict=True):
        rows.append([f"expected, {name}", measured_text(toys), number_text(formula)])
    return ["limit", "toys", "asymptotic"], rows


def _scan_cells(limit: Limit) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            number_text(point.mu),
            number_text(point.q_observed),
            measured_text(point.cls),
            number_text(point.asymptotic.observed),
            measured_text(point.expected[BANDS.index(0)]),
        ]
        for point in limit.points
    ]
    return [limit.poi, "q", "CLs", "asymptotic", "expected CLs"], rows


def _hypotest_title(test: HypoTest) -> str:
    return (
        f"Test of {test.poi} = {test.mu:g}: {STATISTIC_NAMES[test.test_statistic]}, "
        f"{len(test.toys_sb.q):,} toys of each hypothesis, {seed_text(test.seed)}"
    )


def _hypotest_cells(test: HypoTest) -> tuple[list[str], list[list[str]]]:
    rows = [
        [f"q (best fit {number_text(test.poi_hat)})", number_text(test.q_observed), ""],
        ["CLs+b", measured_text(test.clsb), ""],
        ["CLb", measured_text(test.clb), ""],
        ["CLs", measured_text(test.cls), number_text(test.asymptotic.observed)],
    ]
    formulae = test.asymptotic.expected
    for name, toys, formula in zip(BAND_NAMES, test.expected, formulae, strict=True):
        rows.append([f"expected CLs, {name}", measured_text(toys), number_text(formula)])
    return ["", "toys", "asymptotic"], rows


def _rich_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _html(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], warnings: Sequence[str]
) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    notes = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return (
        f"<div><p><b>{escape(title)}</b></p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        + (f"<ul>{notes}</ul>" if notes else "")
        + "</div>"
    )
