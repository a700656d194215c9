"""Searches in words and tables: for a terminal (rich), a notebook (HTML), and as JSON.

A search is told in trials, and where each has several epochs, in epochs, too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from html import escape
from math import isfinite, nan
from time import time
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hepdask_ml.errors import HepdaskError
from hepdask_ml.hpo.summary import result
from hepdask_ml.hpo.trials import ENDED
from hepdask_ml.hpo.values import shown
from hepdask_ml.inference.hypotest import number
from hepdask_ml.ui.show import (
    UNKNOWN,
    done_text,
    duration_text,
    failure_lines,
    number_text,
    percent_text,
    progress_html,
    rich_table,
    seed_text,
    table_html,
    visible,
    workers_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hepdask_ml.campaign.campaign import Campaign, Status
    from hepdask_ml.campaign.ledger import Identity, Ledger, Progress
    from hepdask_ml.hpo.summary import SearchResult
    from hepdask_ml.hpo.trials import Trial

STATUS_SCHEMA = "hepdask-ml/search-status/1"
MOST_ROWS = 20
"""Segments, or trials of a front, that a terminal is shown."""

_LONGEST_VALUE = 40


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What the ledger of a search says at one moment.

    Attributes
    ----------
    path, campaign : str
        Its file and its name.
    identity : Identity
        What it is of.
    progress : Progress
        How far it is, in epochs.
    paces : list of (str, int, float)
        Each worker with its epochs and seconds.
    failures : list of (str, str, str)
        Title of the trial, error and worker of everything that went wrong.
    found : SearchResult
        Its trials.
    """

    path: str
    campaign: str
    identity: Identity
    progress: Progress
    paces: list[tuple[str, int, float]]
    failures: list[tuple[str, str, str]]
    found: SearchResult

    @property
    def state(self) -> str:
        """One of ``"empty"``, ``"unfinished"``, ``"waiting"`` and ``"finished"``.

        A search waits where all planned trials are at their end, and fewer than were asked for:
        between two rounds, or because the optimiser has nothing more to try.
        """
        if not self.found.trials:
            return "empty"
        if ended(self.found) < len(self.found.trials):
            return "unfinished"
        return "finished" if ended(self.found) >= asked(self.found) else "waiting"

    @property
    def rate(self) -> float:
        """Trials per second from the first block to the last, with pauses; nan if unknown."""
        first, last = self.progress.first, self.progress.last
        if first is None or last is None or not last > first:
            return nan
        return ended(self.found) / (last - first)


def told_of(ledger: Ledger) -> Told:
    """Read what a ledger says.

    Parameters
    ----------
    ledger : Ledger
        Of a search; it may be written meanwhile.

    Returns
    -------
    Told
        Of this moment.
    """
    return Told(
        path=ledger.path,
        campaign=ledger.campaign,
        identity=ledger.identity,
        progress=ledger.progress(),
        paces=ledger.paces(),
        failures=ledger.failures(),
        found=result(ledger),
    )


def ended(found: SearchResult) -> int:
    """Count the trials that are at their end.

    Parameters
    ----------
    found : SearchResult
        The search.

    Returns
    -------
    int
        Complete, pruned and failed ones.
    """
    return sum(trial.state in ENDED for trial in found.trials)


def asked(found: SearchResult) -> int:
    """Count the trials that were asked for.

    Parameters
    ----------
    found : SearchResult
        The search.

    Returns
    -------
    int
        Those of all segments.
    """
    return found.n_trials * len(found.segments)


def status_json(ledger: Ledger) -> dict[str, Any]:
    """Give how far a search is as a document.

    Parameters
    ----------
    ledger : Ledger
        Of a search.

    Returns
    -------
    dict
        What a report's ``campaign.json`` holds.
    """
    told = told_of(ledger)
    found, progress = told.found, told.progress
    several = len(found.objectives) > 1
    by_segment: dict[str, list[Trial]] = {name: [] for name in found.segments}
    for trial in found.trials:
        by_segment[trial.segment].append(trial)
    bests = {} if several else found.bests
    return {
        "schema": STATUS_SCHEMA,
        "ledger": told.path,
        "campaign": told.campaign,
        "state": told.state,
        "identity": {
            "kind": told.identity.kind,
            "content": told.identity.content,
            "configuration": dict(told.identity.configuration),
            "version": told.identity.version,
            "seeds": list(told.identity.seeds),
        },
        "trials": {
            "asked": asked(found),
            "planned": len(found.trials),
            "ended": ended(found),
            "states": states(found),
            "per_second": number(told.rate),
        },
        "epochs": {"done": progress.done, "planned": progress.total},
        "progress": {
            "blocks": progress.blocks,
            "failures": progress.failures,
            "worker_s": progress.worker_s,
            "first": progress.first,
            "last": progress.last,
        },
        "segments": [
            {
                "name": name,
                "planned": len(trials),
                "ended": sum(trial.state in ENDED for trial in trials),
                "best": _best_json(bests.get(name)),
            }
            for name, trials in by_segment.items()
        ],
        "front": [_best_json(trial) for trial in found.front] if several else None,
        "workers": [
            {"worker": worker, "epochs": epochs, "seconds": seconds}
            for worker, epochs, seconds in told.paces
        ],
        "failures": [
            {"trial": title, "error": error, "worker": worker}
            for title, error, worker in told.failures
        ],
        "warnings": list(found.warnings),
    }


def status_view(ledger: Ledger, *, rate: float = nan) -> Group:
    """Give how far a search is, as its ledger has it.

    Parameters
    ----------
    ledger : Ledger
        Of a search.
    rate : float
        Epochs per second of late; shown where trials have several.

    Returns
    -------
    rich.console.Group
        To be printed by a rich console.
    """
    told = told_of(ledger)
    facts = Table.grid(padding=(0, 2, 0, 0))
    for name, *cells in _status_rows(told, rate):
        facts.add_row(Text(name, style="bold"), *cells)
    title = f"search, {told.found.optimiser}, {seed_text(told.identity.seeds)}"
    parts: list[Any] = [Text(visible(title), style="bold"), facts]
    if table := _table(told.found, MOST_ROWS):
        parts += ["", _rich(table), *_cut_note(told.found)]
    if told.failures:
        parts += ["", Text("failures", style="bold red"), *map(Text, failure_lines(told.failures))]
    return Group(*parts)


def view(found: SearchResult) -> Group:
    """Give a search as rich tables.

    Parameters
    ----------
    found : SearchResult
        The search.

    Returns
    -------
    rich.console.Group
        To be printed by a rich console.
    """
    parts: list[Any] = [Text(visible(headline(found)), style="bold"), Text(states_text(found))]
    if table := _table(found, MOST_ROWS):
        parts += ["", _rich(table), *_cut_note(found)]
    return Group(*parts)


def result_html(found: SearchResult) -> str:
    """Give a search as HTML.

    Parameters
    ----------
    found : SearchResult
        The search.

    Returns
    -------
    str
        A fragment for a notebook; with all segments.
    """
    table = _table(found, len(found.segments) + len(found.trials))
    if table is None:
        return (
            f"<div><p><b>{escape(headline(found))}</b></p><p>{escape(states_text(found))}</p>"
            + "".join(f"<p>{escape(text)}</p>" for text in found.warnings)
            + "</div>"
        )
    warnings = [states_text(found), *found.warnings]
    return table_html(headline(found), *table, warnings)


def campaign_html(campaign: Campaign[Any]) -> str:
    """Give how far a search is as HTML, and what it has found so far.

    Parameters
    ----------
    campaign : Campaign
        Not run yet, running here, running elsewhere, or finished.

    Returns
    -------
    str
        A fragment for a notebook.
    """
    fragment = progress_html(campaign, _running_rows)
    try:
        campaign.status()
    except HepdaskError:  # the fragment says so
        return fragment
    try:
        return fragment + result_html(campaign.results())
    except HepdaskError as error:
        return fragment + table_html("No result", ["", ""], [["reason", str(error)]], ())


def headline(found: SearchResult) -> str:
    """Give a search in one line.

    Parameters
    ----------
    found : SearchResult
        The search.

    Returns
    -------
    str
        ``17 of 100 trials, best loss 0.031 (trial 12)``.
    """
    trials = f"{done_text(ended(found), asked(found))} trial{'s' if asked(found) != 1 else ''}"
    if len(found.objectives) > 1:
        n = len(found.front)
        names = ", ".join(each.name for each in found.objectives)
        return f"{trials}, {n:,} of them on the Pareto front of {names}"
    bests, aim = found.bests, found.objectives[0].name
    if len(found.segments) > 1:
        return f"{trials}, a best {aim} in {done_text(len(bests), len(found.segments))} segments"
    if not bests:
        return f"{trials}, no best {aim} yet"
    best = next(iter(bests.values()))
    return f"{trials}, best {aim} {number_text(best.values[aim])} (trial {best.number})"


def states(found: SearchResult) -> dict[str, int]:
    """Count trials by their state.

    Parameters
    ----------
    found : SearchResult
        The search.

    Returns
    -------
    dict of str to int
        Every state, and ``"infeasible"``, those of the complete ones that violate a constraint.
    """
    counts = Counter(trial.state for trial in found.trials)
    infeasible = sum(trial.state == "complete" and not trial.feasible for trial in found.trials)
    return {name: counts[name] for name in (*ENDED, "running")} | {"infeasible": infeasible}


def states_text(found: SearchResult) -> str:
    """Give the states of trials in words.

    Parameters
    ----------
    found : SearchResult
        The search.

    Returns
    -------
    str
        ``15 complete (2 infeasible), 2 failed``.
    """
    counts = states(found)
    infeasible = counts.pop("infeasible")
    texts = [f"{count:,} {name}" for name, count in counts.items() if count]
    if infeasible:
        texts[0] += f" ({infeasible:,} infeasible)"
    return ", ".join(texts) or "no trial has begun"


def params_text(found: SearchResult, trial: Trial) -> str:
    """Give the parameters that vary in one line.

    Parameters
    ----------
    found : SearchResult
        The search that the trial is of.
    trial : Trial
        The trial.

    Returns
    -------
    str
        ``lr=0.001, layers=4``.
    """
    space = found.spaces.get(trial.segment)
    names = trial.params if space is None else space.free
    given = ((name, trial.params[name]) for name in names if name in trial.params)
    return ", ".join(f"{name}={value_text(value)}" for name, value in given)


def ordered(found: SearchResult, trial: Trial) -> list[tuple[str, Any]]:
    """Give all parameters of a trial in the order of its space.

    Parameters
    ----------
    found : SearchResult
        The search that the trial is of.
    trial : Trial
        The trial.

    Returns
    -------
    list of (str, Any)
        Names and values.
    """
    space = found.spaces.get(trial.segment)
    first = [] if space is None else [name for name in space.dimensions if name in trial.params]
    return [(name, trial.params[name]) for name in dict.fromkeys([*first, *trial.params])]


def value_text(value: Any) -> str:
    """Give a value of a parameter, not too long.

    Parameters
    ----------
    value : Any
        A plain value.

    Returns
    -------
    str
        Numbers with four significant digits.
    """
    if isinstance(value, float):
        return number_text(value)
    text = value if isinstance(value, str) else shown(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def rate_text(per_second: float) -> str:
    """Give a rate of trials in the unit that people use for it.

    Parameters
    ----------
    per_second : float
        The rate, nan if unknown.

    Returns
    -------
    str
        Its text; nothing if it is not known.

    Examples
    --------
    >>> rate_text(12.0), rate_text(0.05), rate_text(0.002)
    ('12 trials/s', '3 trials/min', '7.2 trials/h')
    """
    if not isfinite(per_second) or per_second <= 0.0:
        return ""
    for unit, seconds in (("s", 1.0), ("min", 60.0), ("h", 3600.0)):
        if per_second * seconds >= 1.0 or unit == "h":
            break
    rate = per_second * seconds
    text = f"{rate:,.0f}" if rate >= 9.95 else f"{rate:.2g}"
    return f"{text} trial{'' if text == '1' else 's'}/{unit}"


def lacking(found: SearchResult) -> str | None:
    """Say what a result lacks.

    Parameters
    ----------
    found : SearchResult
        The search.

    Returns
    -------
    str or None
        A sentence if a segment has no best trial; None if each has one.
    """
    several = len(found.objectives) > 1
    with_one = {trial.segment for trial in found.front} if several else found.bests.keys()
    without = [name for name in found.segments if name not in with_one]
    if not without:
        return None
    why = "see the warnings" if found.warnings else "give it more trials"
    if found.segments == ("",):
        return f"no trial is the best one: {why}"
    few = ", ".join(without[:3]) + (f" and {len(without) - 3:,} others" if without[3:] else "")
    return f"{len(without):,} of {len(found.segments):,} segments have no best trial ({few}): {why}"


def bests_table(found: SearchResult) -> tuple[list[str], list[list[str]]]:
    """Give the best trial of each segment.

    Parameters
    ----------
    found : SearchResult
        A search with one objective.

    Returns
    -------
    header : list of str
        Names of the columns.
    rows : list of list of str
        A row for each segment, in their order.
    """
    aim, bests = found.objectives[0].name, found.bests
    counts: Counter[tuple[str, bool]] = Counter()
    counts.update((trial.segment, trial.state in ENDED) for trial in found.trials)
    rows = []
    for name in found.segments:
        best = bests.get(name)
        trials = done_text(counts[name, True], found.n_trials)
        if best is None:
            rows.append([name, UNKNOWN, UNKNOWN, trials, ""])
            continue
        value = number_text(best.values[aim])
        rows.append([name, value, str(best.number), trials, params_text(found, best)])
    return ["segment", aim, "trial", "trials", "parameters"], rows


def trials_table(found: SearchResult, trials: Sequence[Trial]) -> tuple[list[str], list[list[str]]]:
    """Give some trials with their objectives.

    Parameters
    ----------
    found : SearchResult
        The search that they are of.
    trials : sequence of Trial
        Those to be shown.

    Returns
    -------
    header : list of str
        Names of the columns.
    rows : list of list of str
        A row for each trial.
    """
    aims = [each.name for each in found.objectives]
    rows = []
    for trial in trials:
        numbers = [number_text(trial.values.get(name, nan)) for name in aims]
        where = f"{trial.segment}, {trial.number}" if trial.segment else str(trial.number)
        rows.append([where, *numbers, params_text(found, trial)])
    return ["trial", *aims, "parameters"], rows


def _table(found: SearchResult, most: int) -> tuple[list[str], list[list[str]]] | None:
    """Give the table that says most: the front, the bests, or the best one's parameters."""
    if len(found.objectives) > 1:
        header, rows = trials_table(found, found.front)
        return (header, rows[:most]) if rows else None
    if len(found.segments) > 1:
        header, rows = bests_table(found)
        if len(rows) > most:  # those that need somebody first
            rows.sort(key=lambda row: row[1] != UNKNOWN)
        return header, rows[:most]
    best = next(iter(found.bests.values()), None)
    if best is None:
        return None
    rows = [[name, value_text(value)] for name, value in ordered(found, best)]
    return ["parameter", "best value"], rows[:most]


def _cut_note(found: SearchResult) -> list[Text]:
    """Say that a terminal is shown a part."""
    several = len(found.objectives) > 1
    n = len(found.front) if several else len(found.segments)
    if n <= MOST_ROWS:
        return []
    rest = f"and {n - MOST_ROWS:,} others: hepdask-ml report writes them all"
    return [Text(rest, style="dim")]


def _rich(table: tuple[list[str], list[list[str]]]) -> Table:
    header, rows = table
    seen = [visible(name) for name in header], [[visible(cell) for cell in row] for row in rows]
    return rich_table(*seen, words_last=header[-1] == "parameters")


def _status_rows(told: Told, rate: float) -> list[tuple[Any, ...]]:
    found, progress = told.found, told.progress
    n, all_ = ended(found), asked(found)
    style = {"finished": "green"}.get(told.state, "yellow")
    done = Table.grid(padding=(0, 2, 0, 0))
    bar = ProgressBar(total=max(all_, 1), completed=n, width=24)
    done.add_row(done_text(n, all_), bar, percent_text(n / all_) if all_ else "")
    rows: list[tuple[Any, ...]] = [
        ("ledger", Text(visible(told.path), overflow="fold")),
        ("state", Text(state_text(told), style=style)),
        ("trials", done),
        ("", Text(states_text(found))),
    ]
    if any(trial.most > 1 for trial in found.trials):
        speed = f", {rate:.3g} epochs/s" if isfinite(rate) and rate > 0.0 else ""
        rows.append(("epochs", Text(f"{done_text(progress.done, progress.total)}{speed}")))
    if progress.last is not None:
        speed = rate_text(told.rate)
        ago = duration_text(max(time() - progress.last, 0.0))
        speed = f"{speed} on average, " if speed else ""
        rows.append(("speed", Text(f"{speed}last written {ago} ago")))
        used = f"{duration_text(progress.worker_s)}, {workers_text(len(told.paces))}"
        rows.append(("worker time", used))
    if n:
        rows.append(("result", Text(visible(headline(found).split(", ", 1)[1]))))
    return rows


def state_text(told: Told) -> str:
    """Give the state of a search in words.

    Parameters
    ----------
    told : Told
        What its ledger says.

    Returns
    -------
    str
        A sentence without its end.
    """
    return {
        "empty": "nothing is planned yet",
        "unfinished": "unfinished: run it again to go on, if nobody does",
        "waiting": "all planned trials are at their end: run it again for more, if nobody does",
        "finished": "finished",
    }[told.state]


def _running_rows(status: Status) -> list[list[str]]:
    """Tell how a search goes that may run in this process."""
    progress = status.progress
    rows = []
    if status.workers is not None:
        rate = f", {status.rate:.3g} epochs/s" if isfinite(status.rate) and status.rate else ""
        rows.append(["running", f"{workers_text(len(status.workers))}{rate}"])
    elif progress.last is not None:
        rows.append(["last written", f"{duration_text(max(time() - progress.last, 0.0))} ago"])
    rows.append(["worker time", duration_text(progress.worker_s)])
    if progress.failures:
        rows.append(["errors", f"{progress.failures:,}"])
    return rows


def _best_json(trial: Trial | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    values = {name: number(value) for name, value in trial.values.items()}
    return {
        "segment": trial.segment,
        "number": trial.number,
        "values": values,
        "params": dict(trial.params),
        "checkpoint": trial.checkpoint,
    }
