"""Results and campaigns as tables, for a terminal (rich) and a notebook (HTML), and as JSON.

Both kinds of table take their cells from the same functions, so that they show the same digits: a
number from toys is rounded to two significant digits of its error.
"""

from __future__ import annotations

import json
from collections import Counter
from html import escape
from math import floor, isfinite, log10, nan
from pathlib import Path
from time import time
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
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hepdask_ml.errors import HepdaskError
from hepdask_ml.inference.hypotest import number
from hepdask_ml.inference.pvalues import BAND_NAMES, BANDS
from hepdask_ml.likelihood.fit import FitStatus
from hepdask_ml.ui.account import account, largest_error
from hepdask_ml.ui.kinds import words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from rich.console import RenderableType

    from hepdask_ml.campaign.campaign import Campaign, Status
    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.inference.hypotest import Discovery, HypoTest
    from hepdask_ml.inference.limit import Limit
    from hepdask_ml.inference.pvalues import Measured
    from hepdask_ml.likelihood.fit import Fits
    from hepdask_ml.likelihood.model import CompiledModel
    from hepdask_ml.limits.forecast import Forecast
    from hepdask_ml.ui.account import Account

UNKNOWN = "–"  # noqa: RUF001 - the sign for "no number" in tables
MOST_FAILURES = 10
LONGEST_NAME = 16
LONGEST_CELL = 30
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
        rich_table(*_scan_cells(limit)),
        "",
        Text(_limit_title(limit), style="bold"),
        rich_table(*_limit_cells(limit)),
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
    return Group(Text(_hypotest_title(test), style="bold"), rich_table(*_hypotest_cells(test)))


def forecast_json(plan: Forecast) -> dict[str, Any]:
    """Give the plan of a campaign as a JSON document.

    Parameters
    ----------
    plan : Forecast
        The plan.

    Returns
    -------
    dict
        What ``limit --dry-run --json`` prints.
    """
    return {
        "schema": "hepdask-ml/plan/1",
        "first": [{"title": unit.title, "toys": unit.total} for unit in plan.units],
        "toys": plan.toys,
        "exact": plan.exact,
        "toys_per_s": plan.toys_per_s,
        "processor_s": plan.processor_s,
    }


def forecast_view(plan: Forecast) -> Group:
    """Give the plan of a campaign as a rich table and a sentence.

    Parameters
    ----------
    plan : Forecast
        The plan.

    Returns
    -------
    rich.console.Group
        To be printed by a rich console.
    """
    first = sum(unit.total for unit in plan.units)
    rows = [[unit.title, f"{unit.total:,}"] for unit in plan.units]
    whole = f"{plan.toys:,} toys" if plan.exact else f"about {plan.toys:,} toys in several rounds"
    return Group(
        Text("The plan" if plan.exact else "The first round", style="bold"),
        rich_table(["unit", "toys"], [*rows, ["all", f"{first:,}"]]),
        "",
        Text(
            f"In all: {whole}, {duration_text(plan.processor_s)} of one processor like this one "
            f"({plan.toys_per_s:,.0f} toys/s)."
        ),
    )


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


def engine_view(engine: str) -> Text:
    """Give what fitted the toys as rich text.

    Parameters
    ----------
    engine : str
        The engine, and why that.

    Returns
    -------
    rich.text.Text
        To be printed by a rich console.
    """
    return Text(f"engine: {engine}", style="dim")


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
    return table_html(_limit_title(limit), *_limit_cells(limit), limit.warnings, limit.engine)


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
    return table_html(_hypotest_title(test), *_hypotest_cells(test), test.warnings, test.engine)


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
    return table_html(title, ["", "toys", "asymptotic"], rows, found.warnings, found.engine)


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
    return table_html("Compiled model", ["", ""], rows, model.warnings)


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
    return table_html(f"{len(fits):,} fits", ["status", "rows", "meaning"], rows, ())


def status_view(ledger: Ledger, *, rate: float = nan) -> RenderableType:
    """Give how far a campaign is, as its ledger has it.

    Parameters
    ----------
    ledger : Ledger
        Of any kind of campaign.
    rate : float
        Steps per second of late, where somebody has watched; the mean is shown otherwise.

    Returns
    -------
    renderable
        To be printed by a rich console.
    """
    shown: RenderableType = words_of(ledger.identity.kind).status_view(ledger, rate=rate)
    return shown


def status_json(ledger: Ledger) -> dict[str, Any]:
    """Give how far a campaign is as a document.

    Parameters
    ----------
    ledger : Ledger
        Of any kind of campaign.

    Returns
    -------
    dict
        What a report's ``campaign.json`` holds.
    """
    document: dict[str, Any] = words_of(ledger.identity.kind).status_json(ledger)
    return document


def campaign_html(campaign: Campaign[Any]) -> str:
    """Give how far a campaign is as HTML, and its result as far as it is.

    Parameters
    ----------
    campaign : Campaign
        Not run yet, running here, running elsewhere, or finished.

    Returns
    -------
    str
        A fragment for a notebook.
    """
    return str(words_of(campaign.identity.kind).campaign_html(campaign))


def units_view(ledger: Ledger, *, rate: float = nan) -> Group:
    """Give how far a campaign is by its units, or the points of its scan.

    Parameters
    ----------
    ledger : Ledger
        Of any kind of campaign.
    rate : float
        Steps per second of late, where somebody has watched; the mean is shown otherwise.

    Returns
    -------
    rich.console.Group
        To be printed by a rich console.
    """
    told = account(ledger)
    facts = Table.grid(padding=(0, 2, 0, 0))
    for name, *cells in _status_rows(told, rate):
        facts.add_row(Text(name, style="bold"), *cells)
    parts: list[Any] = [
        Text(visible(f"{told.identity.kind}, {seed_text(told.identity.seeds)}"), style="bold"),
        facts,
    ]
    if told.records:
        parts += ["", rich_table(*_work_cells(told))]
    if told.failures:
        parts += ["", Text("failures", style="bold red"), *map(Text, failure_lines(told.failures))]
    return Group(*parts)


def progress_html(campaign: Campaign[Any], rows: Callable[[Status], list[list[str]]]) -> str:
    """Give how far a campaign is as HTML.

    Parameters
    ----------
    campaign : Campaign
        Not run yet, running here, running elsewhere, or finished.
    rows : callable
        Gives names and texts for a status.

    Returns
    -------
    str
        A fragment for a notebook.
    """
    title = f"Campaign: {campaign.identity.kind}, {seed_text(campaign.identity.seeds)}"
    in_memory = campaign.path == ":memory:"
    place = ["ledger", "in memory" if in_memory else campaign.path]
    try:
        status = campaign.status()
    except HepdaskError as error:
        new = in_memory or not Path(campaign.path).exists()
        state = "not run yet: call run() or start()" if new else str(error)
        return table_html(title, ["", ""], [place, ["state", state]], ())
    return table_html(title, ["", ""], [place, *rows(status)], ())


def limits_text(limit: Limit) -> str:
    """Give the observed and the median limit in one line.

    Parameters
    ----------
    limit : Limit
        The limits.

    Returns
    -------
    str
        ``observed 1.23 ± 0.05, median 1.34 ± 0.03``.
    """
    median = limit.expected[BANDS.index(0)]
    return f"observed {measured_text(limit.observed)}, median {measured_text(median)}"


def precision_text(limit: Limit, precision: float | None) -> str:
    """Give how precise limits are.

    Parameters
    ----------
    limit : Limit
        The limits.
    precision : float or None
        Relative error that was asked for, if one was.

    Returns
    -------
    str
        ``largest error 6 % (2 % asked for)``.
    """
    text = f"largest error {percent_text(largest_error(limit))}"
    return text if precision is None else f"{text} ({percent_text(precision)} asked for)"


def percent_text(share: float) -> str:
    """Give a share in per cent, with two digits.

    Parameters
    ----------
    share : float
        The share, nan if unknown.

    Returns
    -------
    str
        Its text.

    Examples
    --------
    >>> percent_text(0.0376), percent_text(1.23)
    ('3.8 %', '123 %')
    """
    if not isfinite(share):
        return UNKNOWN
    return f"{100.0 * share:.0f} %" if share >= 0.095 else f"{100.0 * share:.2g} %"


def duration_text(seconds: float) -> str:
    """Give a time in the units that people use for it.

    Parameters
    ----------
    seconds : float
        The time, nan if unknown.

    Returns
    -------
    str
        Its text.

    Examples
    --------
    >>> duration_text(3.21), duration_text(200.0), duration_text(9000.0), duration_text(2e5)
    ('3.2 s', '3 min 20 s', '2 h 30 min', '2 d 7 h')
    """
    if not isfinite(seconds):
        return UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, name, small, below in (
        (86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"),
    ):  # fmt: skip
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {name}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def done_text(done: int, total: int) -> str:
    """Give how many of some steps are done.

    Parameters
    ----------
    done, total : int
        Steps done and planned.

    Returns
    -------
    str
        One number if all are done.
    """
    return f"{done:,}" if done == total else f"{done:,} of {total:,}"


def workers_text(workers: int) -> str:
    """Give a number of workers.

    Parameters
    ----------
    workers : int
        How many.

    Returns
    -------
    str
        Its text.
    """
    return f"{workers:,} worker{'' if workers == 1 else 's'}" if workers else "waiting for workers"


def state_text(told: Account) -> str:
    """Give the state of a campaign in words.

    Parameters
    ----------
    told : Account
        Its account.

    Returns
    -------
    str
        A sentence without its end.
    """
    match told.state:
        case "empty":
            return "nothing is planned yet"
        case "failed":
            n = len(told.given_up)
            return f"{n:,} unit{'' if n == 1 else 's'} failed: mend the cause and run again"
        case "unfinished":
            return "unfinished: run it again to go on, if nobody does"
    if told.imprecise:
        return "all planned toys are done, but the precision is not reached"
    return "finished"


def _status_rows(told: Account, rate: float) -> list[tuple[Any, ...]]:
    progress = told.progress
    style = {"failed": "red", "finished": "green"}.get(told.state, "yellow")
    noun = _steps(told.identity.kind)
    done = Table.grid(padding=(0, 2, 0, 0))
    done.add_row(
        done_text(progress.done, progress.total),
        ProgressBar(total=max(progress.total, 1), completed=progress.done, width=24),
        percent_text(progress.done / progress.total) if progress.total else "",
    )
    rows: list[tuple[Any, ...]] = [
        ("ledger", Text(visible(told.path), overflow="fold")),
        ("state", Text(state_text(told), style=style)),
        (noun, done),
    ]
    if progress.last is not None:
        speed, when = (rate, "") if isfinite(rate) else (told.rate, " on average")
        speed_text = f"{speed:,.0f} {noun}/s{when}, " if isfinite(speed) else ""
        ago = duration_text(max(time() - progress.last, 0.0))
        rows.append(("speed", Text(f"{speed_text}last written {ago} ago")))
        rows.append(
            ("worker time", f"{duration_text(progress.worker_s)}, {workers_text(len(told.paces))}")
        )
    if told.engine:
        rows.append(("engine", Text(told.engine)))
    if told.limit is not None:
        rows.append(("limits", Text(limits_text(told.limit))))
        rows.append(("precision", Text(precision_text(told.limit, told.precision))))
    return rows


def _steps(kind: str) -> str:
    """Name the steps of a kind of campaign."""
    return "toys" if kind.startswith("toy-") else "steps"


def _work_cells(told: Account) -> tuple[list[str], list[list[str]]]:
    """Give the points of a scan, or else the units."""
    if points := told.points():
        name = visible(told.poi)
        name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
        header = [name, "toys s+b", "toys b", "CLs observed"]
        return header, [
            [
                number_text(point.mu),
                done_text(*point.sb),
                done_text(*point.b),
                measured_text(point.cls),
            ]
            for point in points
        ]
    return ["unit", _steps(told.identity.kind), ""], [
        [
            visible(record.unit.title or record.unit.key),
            done_text(record.done, record.unit.total),
            "failed" if record.error is not None else "",
        ]
        for record in told.records
    ]


def failure_lines(failures: Sequence[tuple[str, str, str]]) -> list[str]:
    """Tell the commonest failures, equal ones in one line.

    Parameters
    ----------
    failures : sequence of (str, str, str)
        Title of the unit, error and worker.

    Returns
    -------
    list of str
        Lines for a terminal.
    """
    counts = Counter((title, error) for title, error, _ in failures).most_common()
    lines = [
        visible(f"{title}: {error}") + (f" ({count} times)" if count > 1 else "")
        for (title, error), count in counts[:MOST_FAILURES]
    ]
    rest = len(counts) - MOST_FAILURES
    return [*lines, f"and {rest:,} others: status --json lists them"] if rest > 0 else lines


def running_rows(status: Status) -> list[list[str]]:
    """Tell how a campaign goes that may run in this process, in steps.

    Parameters
    ----------
    status : Status
        Its status.

    Returns
    -------
    list of [str, str]
        Names and texts.
    """
    progress = status.progress
    share = progress.done / progress.total if progress.total else nan
    rows = [["done", f"{done_text(progress.done, progress.total)} ({percent_text(share)})"]]
    if status.workers is not None:
        rate = f", {status.rate:,.0f} a second" if isfinite(status.rate) else ""
        rows.append(["running", f"{workers_text(len(status.workers))}{rate}"])
    elif progress.last is not None:
        rows.append(["last written", f"{duration_text(max(time() - progress.last, 0.0))} ago"])
    rows.append(["worker time", duration_text(progress.worker_s)])
    if progress.failures:
        rows.append(["errors in blocks", f"{progress.failures:,}"])
    return rows


def visible(text: str) -> str:
    """Give a text without what a terminal would obey.

    Parameters
    ----------
    text : str
        Anybody's text.

    Returns
    -------
    str
        The same, with blanks.
    """
    return "".join(sign if sign.isprintable() else " " for sign in text)


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
    if isinstance(seed, int) or len(seed) == 1:
        return f"seed {seed if isinstance(seed, int) else seed[0]}"
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


def rich_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, words_last: bool = False
) -> Table:
    """Give a table for a terminal, its first column to the left and the others to the right.

    Parameters
    ----------
    header : sequence of str
        Names of the columns.
    rows : sequence of sequence of str
        The cells.
    words_last : bool
        Whether the last column is to the left, too, and cut where it does not fit.

    Returns
    -------
    rich.table.Table
        To be printed by a rich console.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(header):
        words = words_last and i == len(header) - 1
        longest = max(len(name), *(len(row[i]) for row in rows), 0)
        table.add_column(
            name,
            justify="left" if i == 0 or words else "right",
            no_wrap=True,
            min_width=min(longest, LONGEST_CELL) if words_last and not words else None,
        )
    for row in rows:
        # Names are anybody's: nothing in them is markup.
        table.add_row(*map(Text, row))
    return table


def table_html(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    warnings: Sequence[str],
    engine: str = "",
) -> str:
    """Give a table for a notebook.

    Parameters
    ----------
    title : str
        Stands above it.
    header : sequence of str
        Names of the columns.
    rows : sequence of sequence of str
        The cells.
    warnings : sequence of str
        Stand below it.
    engine : str
        What did the work, if that is to be said.

    Returns
    -------
    str
        A fragment.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    notes = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return (
        f"<div><p><b>{escape(title)}</b></p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        + (f"<p>engine: {escape(engine)}</p>" if engine else "")
        + (f"<ul>{notes}</ul>" if notes else "")
        + "</div>"
    )
