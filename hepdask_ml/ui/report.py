"""The report of a campaign: files for programs, plots, and one page for an analysis note's backup.

The page needs nothing but itself: its plots and its style are in it, and it runs no script.
Equal ledgers give equal reports.
"""

from __future__ import annotations

from html import escape
from math import isfinite
from typing import TYPE_CHECKING

from hepdask_ml.errors import CampaignError, late
from hepdask_ml.inference.pvalues import BAND_NAMES, BANDS
from hepdask_ml.ui.account import account
from hepdask_ml.ui.files import nearest_point, writable_folder, write_figure, write_text
from hepdask_ml.ui.page import document, figure, lead, note, section, table, when
from hepdask_ml.ui.show import (
    STATISTIC_NAMES,
    UNKNOWN,
    done_text,
    duration_text,
    json_text,
    measured_text,
    number_text,
    percent_text,
    seed_text,
)

if TYPE_CHECKING:
    from pathlib import Path

    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.inference.limit import Limit
    from hepdask_ml.inference.pvalues import Measured
    from hepdask_ml.ui.account import Account

MOST_ROWS = 50
"""Workers, failures and unfinished units that the page names; ``campaign.json`` has all."""


def write_report(ledger: Ledger, folder: Path) -> list[Path]:
    """Write the report of a campaign that finds a limit, finished or not.

    Parameters
    ----------
    ledger : Ledger
        Of the campaign.
    folder : Path
        Where to; made if missing.

    Returns
    -------
    list of Path
        ``limit.json``, ``campaign.json``, ``limit.png``, ``limit.pdf``, ``q.png`` and
        ``report.html``.

    Raises
    ------
    CampaignError
        If the ledger holds no toys yet.
    InputError
        If a file cannot be written.
    """
    told = account(ledger)
    found = told.limit
    if found is None:
        raise CampaignError(
            f"{ledger.path} holds no toys of a limit: run the campaign first, then report it"
        )
    plots = late("ui.plots")
    writable_folder(folder)
    written = [
        write_text(folder / "limit.json", json_text(found.to_json())),
        write_text(folder / "campaign.json", json_text(told.to_json())),
        *write_figure(plots.limit(found), folder, "limit", ("png", "pdf")),
        *write_figure(plots.test_statistic(nearest_point(found)), folder, "q", ("png",)),
    ]
    images = {name: (folder / f"{name}.png").read_bytes() for name in ("limit", "q")}
    return [*written, write_text(folder / "report.html", page(told, found, images))]


def page(told: Account, found: Limit, images: dict[str, bytes]) -> str:
    """Give the page of a report.

    Parameters
    ----------
    told : Account
        Of the campaign.
    found : Limit
        Its limit.
    images : dict of bytes
        The plots ``"limit"`` and ``"q"`` as PNG.

    Returns
    -------
    str
        A whole HTML document.
    """
    title = f"{100 * found.cl:g} % CL upper limit on {found.poi}"
    nearest = nearest_point(found)
    parts = [
        _unfinished(told),
        lead(_glued(headline(found))),
        _notes(found),
        figure(
            images["limit"],
            f"CLs against {found.poi}, observed and expected; the observed limit is "
            f"{measured_text(found.observed)}",
            "CLs along the scan: observed with Monte-Carlo errors, expected without a signal with "
            "bands of one and two standard deviations, and asymptotic formulae (dotted).",
        ),
        section("Limits", _limits_table(found)),
        section("Scan", _scan_table(found)),
        section("Where the toys went", _bars(told)),
        section(
            "Test statistic",
            figure(
                images["q"],
                f"Distributions of the test statistic at {found.poi} = {nearest.mu:.4g}",
                f"Toys at {found.poi} = {nearest.mu:.4g}, the point nearest to the limit.",
            ),
        ),
        section("Provenance", _provenance(told, found)),
        section("Workers", _workers(told)),
        section("Failures", _failures(told)) if told.failures else "",
    ]
    made_from = "from the ledger alone. The same numbers are in limit.json and campaign.json."
    return document(title, _subtitle(told, found), parts, made_from)


def headline(found: Limit) -> str:
    """Give a limit in words.

    Parameters
    ----------
    found : Limit
        The limit.

    Returns
    -------
    str
        Two or three sentences.
    """
    level = f"{100 * found.cl:g} % CL"
    median = BANDS.index(0)
    if isfinite(found.observed.value):
        text = f"The observed {level} upper limit on {found.poi} is {_with_share(found.observed)}. "
    else:
        text = f"The scan does not reach an observed {level} upper limit on {found.poi}. "
    if isfinite(found.expected[median].value):
        between = [
            f"between {measured_text(low)} and {measured_text(high)} in {share} % of experiments"
            for low, high, share in (
                (found.expected[1], found.expected[3], 68),
                (found.expected[0], found.expected[4], 95),
            )
            if isfinite(low.value) and isfinite(high.value)
        ]
        text += f"Without a signal {_with_share(found.expected[median])} is expected"
        text += f", {' and '.join(between)}. " if between else ". "
    return f"{text}Errors are those of the {found.toys:,} toys."


def _glued(text: str) -> str:
    """Keep numbers on one line with their errors and signs."""
    return text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}").replace(
        " %", "\N{NO-BREAK SPACE}%"
    )


def _with_share(measured: Measured) -> str:
    share = percent_text(measured.error / measured.value) if measured.value else UNKNOWN
    return f"{measured_text(measured)} ({share})"


def _subtitle(told: Account, found: Limit) -> str:
    parts = [
        f"{STATISTIC_NAMES[found.test_statistic]} with toys",
        seed_text(told.identity.seeds),
        f"hepdask-ml {told.identity.version}",
    ]
    if told.progress.last is not None:
        parts.append(when(told.progress.last))
    return ", ".join(parts)


def _unfinished(told: Account) -> str:
    """Say what is missing, in a box; nothing if nothing is."""
    progress = told.progress
    missing = [record for record in told.records if record.done < record.unit.total]
    if missing:
        sentence = (
            f"This campaign is not finished: {progress.done:,} of {progress.total:,} planned toys "
            f"are done ({percent_text(progress.done / progress.total)})."
        )
        lines = [
            f"{record.unit.title or record.unit.key}: "
            f"{record.unit.total - record.done:,} of {record.unit.total:,} toys are missing"
            + ("" if record.error is None else f"; given up ({record.error})")
            for record in sorted(missing, key=lambda record: record.error is None)
        ]
        return note(sentence, _cut(lines))
    if told.imprecise:
        return note(
            f"The precision that was asked for, {percent_text(told.precision or 0.0)}, is not "
            f"reached: the largest error of a limit is {percent_text(told.error)}.",
            (),
        )
    return ""


def _notes(found: Limit) -> str:
    """List the warnings, but that of an unfinished campaign, which has its own box."""
    warnings = [text for text in found.warnings if "campaign is not finished" not in text]
    return note("Warnings", warnings) if warnings else ""


def _cut(lines: list[str]) -> list[str]:
    rest = len(lines) - MOST_ROWS
    return lines if rest <= 0 else [*lines[:MOST_ROWS], f"and {rest:,} others: see campaign.json"]


def _limits_table(found: Limit) -> str:
    rows = []
    limits = (found.observed, *found.expected)
    formulae = (found.asymptotic.observed, *found.asymptotic.expected)
    names = ("observed", *(f"expected, {name}" for name in BAND_NAMES))
    for name, limit, formula in zip(names, limits, formulae, strict=True):
        apart = f"{100.0 * (formula / limit.value - 1.0):+.1f} %" if limit.value else UNKNOWN
        rows.append(
            [
                name,
                measured_text(limit),
                percent_text(limit.error / limit.value) if limit.value else UNKNOWN,
                number_text(formula),
                apart if isfinite(formula) and isfinite(limit.value) else UNKNOWN,
            ]
        )
    header = ["limit", "from toys", "error", "asymptotic", "asymptotic to toys"]
    return table(header, rows, f"Upper limits on {found.poi}")


def _scan_table(found: Limit) -> str:
    rows = [
        [
            number_text(point.mu),
            number_text(point.q_observed),
            measured_text(point.cls),
            number_text(point.asymptotic.observed),
            measured_text(point.expected[BANDS.index(0)]),
            f"{len(point.toys_sb.q):,}",
            f"{len(point.toys_b.q):,}",
        ]
        for point in found.points
    ]
    header = [
        found.poi, "q observed", "CLs observed", "asymptotic", "CLs expected", "toys s+b", "toys b",
    ]  # fmt: skip
    return table(header, rows, "Values of the parameter of interest, with toys of each hypothesis")


def _bars(told: Account) -> str:
    """Draw a bar for each point and hypothesis, in proportion to its toys."""
    points = told.points()
    most = max((max(point.sb[1], point.b[1]) for point in points), default=1) or 1
    rows = "".join(
        f"<tr><th scope='row'>{escape(number_text(point.mu))}</th><td class='bar'>"
        f"{_bar('sb', *point.sb, most)}{_bar('b', *point.b, most)}</td>"
        f"<td>{done_text(*point.sb)}<br>{done_text(*point.b)}</td></tr>"
        for point in points
    )
    key = "<i class='sb'></i>signal plus background<i class='b'></i>background only"
    if told.progress.done < told.progress.total:
        key += "<i class='gap'></i>planned"
    return (
        f"<div class='wide'><table class='bars'><caption class='key'>{key}</caption>"
        f"<thead><tr><th scope='col'>{escape(told.poi)}</th><th scope='col'></th>"
        f"<th scope='col'>toys</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _bar(hypothesis: str, done: int, total: int, most: int) -> str:
    inner = 100.0 * done / total if total else 0.0
    return (
        f"<span style='width:{100.0 * total / most:.2f}%' role='presentation'>"
        f"<i class='{hypothesis}' style='width:{inner:.2f}%'></i></span>"
    )


def _provenance(told: Account, found: Limit) -> str:
    identity, progress = told.identity, told.progress
    begun, last = (UNKNOWN if t is None else when(t) for t in (progress.first, progress.last))
    rate = f"{told.rate:,.0f} toys a second between them" if isfinite(told.rate) else UNKNOWN
    rows = [
        ["ledger", f"{told.path} ({told.campaign})"],
        ["model digest", identity.content],
        ["parameter of interest", found.poi],
        ["seed" if len(identity.seeds) == 1 else "seeds", ", ".join(map(str, identity.seeds))],
        *(
            [name.replace("_", " "), _setting(value)]
            for name, value in sorted(identity.configuration.items())
        ),
    ]
    if told.precision is not None:
        rows.append(
            ["precision", f"{percent_text(told.error)}, {percent_text(told.precision)} asked for"]
        )
    if told.engine:
        rows.append(["engine", told.engine])
    rows += [
        ["toys", f"{done_text(progress.done, progress.total)}, in {progress.blocks:,} blocks"],
        ["first block written", begun],
        ["last block written", f"{last}; {rate}"],
        ["worker time", duration_text(progress.worker_s)],
        ["made with", ", ".join(f"{name} {text}" for name, text in found.versions.items())],
        ["ledger made with", f"hepdask-ml {identity.version}"],
    ]
    return table(None, rows, None, kind="words")


def _setting(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_setting(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _workers(told: Account) -> str:
    most = sorted(told.paces, key=lambda pace: -pace[1])
    rows = [
        [
            worker,
            f"{toys:,}",
            duration_text(seconds),
            f"{toys / seconds:,.0f}" if seconds > 0.0 else UNKNOWN,
        ]
        for worker, toys, seconds in most[:MOST_ROWS]
    ]
    rest = most[MOST_ROWS:]
    if rest:
        toys, seconds = sum(pace[1] for pace in rest), sum(pace[2] for pace in rest)
        rate = f"{toys / seconds:,.0f}" if seconds > 0.0 else UNKNOWN
        rows.append([f"{len(rest):,} others", f"{toys:,}", duration_text(seconds), rate])
    return table(["worker", "toys", "time", "toys a second"], rows, None)


def _failures(told: Account) -> str:
    rows = [list(failure) for failure in told.failures[:MOST_ROWS]]
    rest = len(told.failures) - MOST_ROWS
    caption = "What went wrong and was done again, or given up"
    if rest > 0:
        caption += f"; {rest:,} more are in campaign.json"
    return table(["unit", "error", "worker"], rows, caption, kind="words")
