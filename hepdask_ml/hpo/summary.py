"""From the ledger of a search back to its trials, and the best of them; needs no objective."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from math import isfinite
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import CampaignError, InputError, late
from hepdask_ml.hpo.space import Space
from hepdask_ml.hpo.trials import Objective, Reader, settled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.campaign.unit import History
    from hepdask_ml.hpo.trials import Trial

SCHEMA = "hepdask-ml/search/1"

MANY = 10
"""Trials of which some should learn from others."""

UNLEARNED = ("skopt:dummy", "optuna:random", "optuna:grid")
"""Optimisers that never learn."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """The trials of a search, finished or not.

    Attributes
    ----------
    objectives : tuple of Objective
        What is minimised or maximised.
    constraints : tuple of str
        Names of numbers that must not be above zero.
    segments : tuple of str
        Names of the segments; one that is empty where there are none.
    trials : tuple of Trial
        Every trial, by segment and number.
    n_trials : int
        Trials that were asked for, in each segment.
    optimiser : str
        What proposed them.
    spaces : mapping of str to Space or None
        What could vary in each segment; None where only the optimiser knew.
    seed : int
        Of the search.
    warnings : tuple of str
        What a reader of the result has to know.
    """

    objectives: tuple[Objective, ...]
    constraints: tuple[str, ...]
    segments: tuple[str, ...]
    trials: tuple[Trial, ...]
    n_trials: int
    optimiser: str
    spaces: Mapping[str, Space | None]
    seed: int
    warnings: tuple[str, ...] = ()

    @property
    def best(self) -> Trial | None:
        """The best trial: complete and feasible; of equals the first.  None if there is none.

        Raises
        ------
        InputError
            If there are several objectives, or several segments.
        """
        if len(self.segments) > 1:
            raise InputError(
                f"the search has {len(self.segments)} segments, each with a best trial of its own: "
                "take bests"
            )
        return self.bests.get(self.segments[0])

    @property
    def bests(self) -> dict[str, Trial]:
        """The best trial of each segment that has one, by the segment's name.

        Raises
        ------
        InputError
            If there are several objectives.
        """
        if len(self.objectives) > 1:
            raise InputError(
                f"the search has {len(self.objectives)} objectives, and no trial is the best in "
                "all of them: take front"
            )
        found: dict[str, Trial] = {}
        for trial in self._eligible():
            best = found.get(trial.segment)
            if best is None or trial.losses(self.objectives) < best.losses(self.objectives):
                found[trial.segment] = trial
        return {name: found[name] for name in self.segments if name in found}

    @property
    def front(self) -> tuple[Trial, ...]:
        """The Pareto front: complete and feasible trials that no other one of their segment beats.

        One beats another that is nowhere worse, and somewhere better.
        """
        found: list[Trial] = []
        for segment in self.segments:
            trials = [trial for trial in self._eligible() if trial.segment == segment]
            losses = [trial.losses(self.objectives) for trial in trials]
            found += [
                trial
                for trial, loss in zip(trials, losses, strict=True)
                if not any(_beats(other, loss) for other in losses)
            ]
        return tuple(found)

    def of(self, state: str) -> list[Trial]:
        """Give the trials of a state.

        Parameters
        ----------
        state : {"complete", "pruned", "failed", "running"}
            The state.

        Returns
        -------
        list of Trial
            By segment and number.
        """
        return [trial for trial in self.trials if trial.state == state]

    def table(self) -> Any:
        """Give all trials as a table.

        Returns
        -------
        pandas.DataFrame
            A row for each trial: segment, number, state, the objectives and constraints by their
            names, parameters as ``params.NAME``, epochs, seconds and error.

        Raises
        ------
        InputError
            If pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ModuleNotFoundError:
            raise InputError(
                "a table of trials needs pandas: install hepdask-ml[hpo], or read trials"
            ) from None
        # Some parameters do not count in all trials.
        params = dict.fromkeys(name for trial in self.trials for name in trial.params)
        return pandas.DataFrame([self._row(trial, params) for trial in self.trials])

    def importances(self, segment: str | None = None) -> dict[str, float]:
        """Say how much each parameter matters for the first objective.

        Parameters
        ----------
        segment : str, optional
            Of this segment; needed where there are several.

        Returns
        -------
        dict of str to float
            Shares that add up to 1, the largest first.

        Raises
        ------
        InputError
            If there are too few trials, or optuna is not installed.
        """
        found: dict[str, float] = late("hpo.study").importances(self, segment)
        return found

    def plot(self, kind: str = "history", segment: str | None = None) -> Any:
        """Draw the search.

        Parameters
        ----------
        kind : {"history", "parallel", "contour", "slice", "importances", "pareto", "curves", \
                "segments"}
            What to draw.
        segment : str, optional
            Of this segment; needed where there are several, but for ``"segments"``.

        Returns
        -------
        matplotlib.figure.Figure
            The figure.

        Raises
        ------
        InputError
            If there is no such plot, or nothing to draw.
        """
        return late("ui.plots_search").figure(self, kind, segment)

    def to_json(self) -> dict[str, Any]:
        """Give everything as JSON can hold it.

        Returns
        -------
        dict
            The result; numbers that are not finite are None.
        """
        several = len(self.objectives) > 1
        best = {} if several else {name: trial.number for name, trial in self.bests.items()}
        return {
            "schema": SCHEMA,
            "optimiser": self.optimiser,
            "objectives": [
                {"name": each.name, "direction": "maximise" if each.maximise else "minimise"}
                for each in self.objectives
            ],
            "constraints": list(self.constraints),
            "seed": self.seed,
            "n_trials": self.n_trials,
            "segments": [name for name in self.segments if name],
            "best": None if several else (best if len(self.segments) > 1 else best.get("")),
            "front": [[trial.segment, trial.number] for trial in self.front] if several else None,
            "trials": [_trial_json(trial) for trial in self.trials],
            "warnings": list(self.warnings),
        }

    def _eligible(self) -> Iterable[Trial]:
        return (trial for trial in self.trials if trial.state == "complete" and trial.feasible)

    def _row(self, trial: Trial, params: Iterable[str]) -> dict[str, Any]:
        row: dict[str, Any] = {"segment": trial.segment} if self.segments != ("",) else {}
        row |= {"number": trial.number, "state": trial.state}
        row |= {each.name: trial.values.get(each.name) for each in self.objectives}
        row |= {name: trial.constraints.get(name) for name in self.constraints}
        row |= {f"params.{name}": trial.params.get(name) for name in params}
        return row | {"epochs": trial.epochs, "seconds": trial.seconds, "error": trial.error}

    def _repr_html_(self) -> str:
        return str(late("ui.search_view").result_html(self))


def result(ledger: Ledger) -> SearchResult:
    """Give what the ledger of a search holds.

    Parameters
    ----------
    ledger : Ledger
        Of a search, finished or not.

    Returns
    -------
    SearchResult
        All trials so far; warnings say what is missing.

    Raises
    ------
    CampaignError
        If the ledger holds no search.
    """
    if ledger.identity.kind != "search":
        raise CampaignError(f"{ledger.path} is a ledger of the kind {ledger.identity.kind}")
    return result_of(ledger, ledger.facts, ledger.identity.seeds[0])


def result_of(history: History, facts: Mapping[str, Any], seed: int) -> SearchResult:
    """Give what a history holds.

    Parameters
    ----------
    history : History
        Of a search.
    facts : mapping
        What the search keeps of itself in its ledger.
    seed : int
        Of the search.

    Returns
    -------
    SearchResult
        All trials so far.
    """
    objectives = tuple(Objective(*each) for each in facts["objectives"])
    constraints = tuple(facts["constraints"])
    found = Reader(objectives, constraints).read(history)
    trials = [
        trial
        for segment in facts["segments"]
        for trial in settled(found.get(segment, []), facts["mode"])
    ]
    return SearchResult(
        objectives=objectives,
        constraints=constraints,
        segments=tuple(facts["segments"]),
        trials=tuple(trials),
        n_trials=facts["n_trials"],
        optimiser=facts["optimiser"],
        spaces={
            name: None if space is None else _space(json.dumps(space))
            for name, space in facts["spaces"].items()
        },
        seed=seed,
        warnings=(
            *_warnings(trials, facts["segments"], facts["n_trials"] * len(facts["segments"])),
            *_blindness(trials, facts),
        ),
    )


@lru_cache(maxsize=16)
def _space(text: str) -> Space:
    """Read a space; hundreds of segments have the same one."""
    return Space.read(json.loads(text), "own")


def _warnings(trials: Sequence[Trial], segments: Sequence[str], asked: int) -> tuple[str, ...]:
    said = []
    states = Counter(trial.state for trial in trials)
    ended = len(trials) - states["running"]
    if states["running"]:
        said.append(f"the search is not finished: {ended} of {asked} trials have ended")
    elif ended < asked:
        said.append(
            f"{ended} of {asked} trials were made: the search is not finished, or nothing was left "
            "to try"
        )
    if states["failed"]:
        first = next(trial for trial in trials if trial.state == "failed")
        said.append(
            f"{states['failed']} of {len(trials)} trials failed, first {first.unit.title} "
            f"({first.error})"
        )
    begun = [name for name in segments if name and any(t.segment == name for t in trials)]
    for name in begun:
        mine = [trial for trial in trials if trial.segment == name]
        if all(trial.state == "failed" for trial in mine):
            said.append(f"no trial of segment {name} has come to an end ({mine[0].error})")
    if states["complete"] and not any(t.state == "complete" and t.feasible for t in trials):
        said.append("no trial satisfies the constraints: there is no best one")
    odd = [(trial, trial.notes[0]) for trial in trials if trial.notes]
    if odd:
        said.append(f"{odd[0][0].unit.title}: {odd[0][1]}")
    return tuple(said)


def _blindness(trials: Sequence[Trial], facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Say so where the optimiser has learned nothing."""
    if len(trials) < MANY or facts["optimiser"] in UNLEARNED or facts["mode"] != "rounds":
        return ()
    if any(trial.state == "running" or trial.round > 1 for trial in trials):
        return ()
    return (
        "all trials were proposed at once, so that none could learn from another: give parallel, "
        "such as a tenth of the trials",
    )


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _trial_json(trial: Trial) -> dict[str, Any]:
    return {
        "segment": trial.segment,
        "number": trial.number,
        "round": trial.round,
        "state": trial.state,
        "params": dict(trial.params),
        "values": _finite(trial.values),
        "constraints": _finite(trial.constraints),
        "feasible": trial.feasible,
        "epochs": trial.epochs,
        "seconds": trial.seconds,
        "error": trial.error,
        "notes": list(trial.notes),
        "checkpoint": trial.checkpoint,
        "device": trial.device,
        "memory_mb": trial.memory_mb,
        "rows": [
            {
                "epoch": row.epoch,
                "metrics": _finite(row.metrics),
                "seconds": row.seconds,
                "samples": row.samples,
            }
            for row in trial.rows
        ],
    }


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if isfinite(value) else None for name, value in numbers.items()}
