"""The files of a search: numbers for programs, plots, and one page that holds everything.

Equal ledgers give equal reports; what depends on the machine goes to run.json alone.
"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import CampaignError, InputError, late
from hepdask_ml.ui.files import (
    run_document,
    writable_folder,
    write_figure,
    write_rows,
    write_text,
)
from hepdask_ml.ui.page import document, figure, lead, note, section, table, when
from hepdask_ml.ui.search_view import (
    asked,
    bests_table,
    ended,
    headline,
    ordered,
    params_text,
    rate_text,
    state_text,
    states_text,
    status_json,
    told_of,
    trials_table,
    value_text,
)
from hepdask_ml.ui.show import (
    UNKNOWN,
    done_text,
    duration_text,
    json_text,
    number_text,
    seed_text,
)

if TYPE_CHECKING:
    from pathlib import Path

    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.hpo.summary import SearchResult
    from hepdask_ml.hpo.trials import Trial
    from hepdask_ml.ui.search_view import Told

MOST_ROWS = 50
"""Trials, workers and failures that the page names; ``search.json`` and ``campaign.json`` have all.
"""

_CAPTIONS = {
    "segments": "The best trial of each segment, with the others in grey.",
    "pareto": "Trials by their objectives; those that no other one beats are the front.",
    "history": "Trials in the order in which they were proposed, and the best one so far.",
    "curves": "The objective by epoch, for each trial.",
    "importances": "How much each parameter matters, by PED-ANOVA.",
    "slice": "The objective against each parameter.",
    "parallel": "Trials as lines through all of their parameters.",
    "contour": "The objective over pairs of parameters, those that matter most.",
}


def write_report(ledger: Ledger, folder: Path) -> tuple[SearchResult, list[Path]]:
    """Write the report of a search, finished or not.

    Parameters
    ----------
    ledger : Ledger
        Of the search.
    folder : Path
        Where to; made if missing.

    Returns
    -------
    found : SearchResult
        The search.
    written : list of Path
        ``search.json``, ``campaign.json``, ``trials.csv``, ``trials.parquet``, the plots that
        there can be, and ``report.html``.

    Raises
    ------
    CampaignError
        If there are no trials yet.
    InputError
        If a file cannot be written.
    """
    told = told_of(ledger)
    written = _write_numbers(told.found, folder, ledger.path)
    written.append(write_text(folder / "campaign.json", json_text(status_json(ledger))))
    plots, lacking = _write_plots(told.found, folder)
    images = {path.stem: path.read_bytes() for path in plots}
    written += [*plots, write_text(folder / "report.html", page(told, images, lacking))]
    return told.found, written


def write_search(found: SearchResult, folder: Path, *, seconds: float) -> list[Path]:
    """Write the files of a search.

    Parameters
    ----------
    found : SearchResult
        The search.
    folder : Path
        Where to; made if missing.
    seconds : float
        What it took, for run.json.

    Returns
    -------
    list of Path
        ``search.json``, ``trials.csv``, ``trials.parquet``, the plots that there can be, and
        ``run.json``.

    Raises
    ------
    CampaignError
        If there are no trials yet.
    InputError
        If a file cannot be written.
    """
    written = _write_numbers(found, folder, "the search")
    plots, _ = _write_plots(found, folder)
    about = run_document(seconds, trials=ended(found))
    return [*written, *plots, write_text(folder / "run.json", json_text(about))]


def rows_of(found: SearchResult) -> list[dict[str, Any]]:
    """Give all trials as rows with the same columns.

    Parameters
    ----------
    found : SearchResult
        The search.

    Returns
    -------
    list of dict
        The columns of `SearchResult.table` and some more; None where a trial has no such number.
    """
    names = list(dict.fromkeys(name for trial in found.trials for name in trial.params))
    return [
        {
            "segment": trial.segment,
            "number": trial.number,
            "round": trial.round,
            "state": trial.state,
            **{each.name: trial.values.get(each.name) for each in found.objectives},
            **{name: trial.constraints.get(name) for name in found.constraints},
            "feasible": trial.feasible,
            **{f"params.{name}": _cell(trial.params.get(name)) for name in names},
            "epochs": trial.epochs,
            "seconds": trial.seconds,
            "error": trial.error,
            "checkpoint": trial.checkpoint,
        }
        for trial in found.trials
    ]


def page(told: Told, images: dict[str, bytes], lacking: str | None = None) -> str:
    """Give the page of a report.

    Parameters
    ----------
    told : Told
        What the ledger says.
    images : dict of bytes
        Plots by their kind, as PNG.
    lacking : str or None
        Why plots are missing.

    Returns
    -------
    str
        A whole HTML document.
    """
    found = told.found
    names = " and the ".join(
        f"{'largest' if each.maximise else 'smallest'} {each.name}" for each in found.objectives
    )
    warnings = [*found.warnings, *([lacking] if lacking else [])]
    several = len(found.objectives) > 1
    parts = [
        _unfinished(told),
        lead(f"{headline(found)}: {states_text(found)}."),
        note("Warnings", warnings) if warnings else "",
        section("Pareto front", _front(found)) if several else "",
        section("Best trial", _best(found)) if not several and len(found.segments) == 1 else "",
        section(
            "Plots",
            "".join(
                figure(image, _CAPTIONS[kind], _CAPTIONS[kind]) for kind, image in images.items()
            ),
        ),
        section("Segments", _bests(found)) if not several and len(found.segments) > 1 else "",
        section("Search space", _spaces(found)),
        section("Trials", _trials(found)),
        section("Provenance", _provenance(told)),
        section("Workers", _workers(told)),
        section("Failures", _failures(told)),
    ]
    when_ = "" if told.progress.last is None else f", {when(told.progress.last)}"
    subtitle = (
        f"{found.optimiser}, {seed_text(told.identity.seeds)}, "
        f"hepdask-ml {told.identity.version}{when_}"
    )
    made_from = "from the ledger alone. The same numbers are in search.json and campaign.json."
    return document(f"Search for the {names}", subtitle, parts, made_from)


def _write_numbers(found: SearchResult, folder: Path, where: str) -> list[Path]:
    if not found.trials:
        raise CampaignError(f"{where} holds no trials yet: run the search first, then report it")
    writable_folder(folder)
    rows = rows_of(found)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return [
        write_text(folder / "search.json", json_text(found.to_json())),
        write_text(folder / "trials.csv", text.getvalue()),
        write_rows(folder / "trials.parquet", rows),
    ]


def _write_plots(found: SearchResult, folder: Path) -> tuple[list[Path], str | None]:
    """Write the plots that there can be, and say why others are missing that could be there."""
    late("ui.plots").without_windows()
    plots, written, reason = late("ui.plots_search"), [], None
    kinds = plots.kinds(found)
    if len(found.segments) > 1:
        kinds = tuple(kind for kind in kinds if kind == "segments")
    for kind in kinds:
        try:
            drawn = plots.figure(found, kind)
        except InputError as error:
            # Too few trials for a plot are no news; a library that is not there is.
            reason = str(error) if "install" in str(error) else reason
            continue
        written += write_figure(drawn, folder, kind, ("png",))
    return written, reason


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _unfinished(told: Told) -> str:
    """Say what is missing, in a box; nothing if nothing is."""
    if told.state == "finished":
        return ""
    n, all_ = ended(told.found), asked(told.found)
    return note(f"{done_text(n, all_)} trials are at their end: {state_text(told)}.", ())


def _best(found: SearchResult) -> str:
    best = found.best
    if best is None:
        return ""
    rows = [[name, value_text(value)] for name, value in ordered(found, best)]
    values = ", ".join(f"{name} {number_text(value)}" for name, value in best.values.items())
    epochs = f", {best.epochs:,} epochs" if best.most > 1 else ""
    caption = f"Trial {best.number}: {values}; {duration_text(best.seconds)}{epochs}"
    return table(["parameter", "value"], rows, caption)


def _front(found: SearchResult) -> str:
    header, rows = trials_table(found, found.front)
    caption = "Trials that no other one beats in everything"
    return table(header, rows, caption, kind="mixed") if rows else ""


def _bests(found: SearchResult) -> str:
    header, rows = bests_table(found)
    return table(header, rows, "The best trial of each segment", kind="mixed")


def _spaces(found: SearchResult) -> str:
    """Describe the space; that of the first segment where all have the same."""
    known = {name: space for name, space in found.spaces.items() if space is not None}
    if not known:
        return ""
    first = next(iter(known.values()))
    rows = [
        [name, str(each.get("type", "")), _range_text(each)]
        for name, each in ((name, _written(each)) for name, each in first.to_json().items())
    ]
    alike = all(space == first for space in known.values())
    caption = None if alike else f"That of {next(iter(known))}; other segments have others"
    return table(["parameter", "type", "values"], rows, caption, kind="words")


def _written(each: Any) -> dict[str, Any]:
    if isinstance(each, dict):
        return each
    return {"type": "choice" if isinstance(each, list) else "fixed", "values": each}


def _range_text(each: dict[str, Any]) -> str:
    parts = []
    if "low" in each:
        parts.append(f"from {value_text(each['low'])} to {value_text(each['high'])}")
    parts += [
        f"{name}: {_joined(value, ', ')}"
        for name, value in each.items()
        if name not in ("type", "low", "high", "when", "log") and value is not None
    ]
    if each.get("log"):
        parts.append("logarithmic")
    if each.get("when"):
        conditions = [f"{name} is {_joined(value, ' or ')}" for name, value in each["when"].items()]
        parts.append(f"where {' and '.join(conditions)}")
    return ", ".join(parts)


def _joined(value: Any, sign: str) -> str:
    return sign.join(map(value_text, value)) if isinstance(value, list) else value_text(value)


def _trials(found: SearchResult) -> str:
    """List the trials, the best ones where they are many."""
    if len(found.segments) > 1:
        return ""
    trials = sorted(found.trials, key=lambda trial: _order(found, trial))
    aims = [each.name for each in found.objectives]
    rows = [
        [
            str(trial.number),
            trial.state if trial.feasible else f"{trial.state}, infeasible",
            *(
                number_text(trial.values[name]) if name in trial.values else UNKNOWN
                for name in aims
            ),
            *(
                number_text(trial.constraints[name]) if name in trial.constraints else UNKNOWN
                for name in found.constraints
            ),
            f"{trial.epochs:,}",
            duration_text(trial.seconds),
            params_text(found, trial),
        ]
        for trial in trials[:MOST_ROWS]
    ]
    rest = len(trials) - MOST_ROWS
    caption = "By the first objective"
    if rest > 0:
        caption += f"; {rest:,} others are in trials.csv"
    header = ["trial", "state", *aims, *found.constraints, "epochs", "time", "parameters"]
    return table(header, rows, caption, kind="mixed")


def _order(found: SearchResult, trial: Trial) -> tuple[bool, float, int]:
    first = found.objectives[0]
    counts = trial.state == "complete" and trial.feasible
    loss = first.loss(trial.values[first.name]) if counts else 0.0
    return not counts, loss, trial.number


def _provenance(told: Told) -> str:
    identity, progress, found = told.identity, told.progress, told.found
    rate = rate_text(told.rate)
    begun, last = (UNKNOWN if t is None else when(t) for t in (progress.first, progress.last))
    rows = [
        ["ledger", f"{told.path} ({told.campaign})"],
        ["optimiser", found.optimiser],
        ["seed", ", ".join(map(str, identity.seeds))],
        *(
            [name.replace("_", " "), value_text(value)]
            for name, value in sorted(identity.configuration.items())
            if value not in (None, [], "") and name != "optimiser"
        ),
        ["trials", f"{done_text(ended(found), asked(found))}: {states_text(found)}"],
        ["epochs", f"{done_text(progress.done, progress.total)}, in {progress.blocks:,} blocks"],
        ["first block written", begun],
        ["last block written", f"{last}; {rate} between them" if rate else last],
        ["worker time", duration_text(progress.worker_s)],
        ["ledger made with", f"hepdask-ml {identity.version}"],
    ]
    return table(None, rows, None, kind="words")


def _workers(told: Told) -> str:
    most = sorted(told.paces, key=lambda pace: -pace[1])
    rows = [
        [worker, f"{epochs:,}", duration_text(seconds)]
        for worker, epochs, seconds in most[:MOST_ROWS]
    ]
    if rest := most[MOST_ROWS:]:
        epochs, seconds = sum(pace[1] for pace in rest), sum(pace[2] for pace in rest)
        rows.append([f"{len(rest):,} others", f"{epochs:,}", duration_text(seconds)])
    return table(["worker", "epochs", "time"], rows, None) if rows else ""


def _failures(told: Told) -> str:
    if not told.failures:
        return ""
    rows = [list(each) for each in told.failures[:MOST_ROWS]]
    rest = len(told.failures) - MOST_ROWS
    caption = "What went wrong and was done again, or given up"
    if rest > 0:
        caption += f"; {rest:,} more are in campaign.json"
    return table(["trial", "error", "worker"], rows, caption, kind="words")
