"""Which trials a search makes: rounds of proposals, and which trials go on.

In *rounds* as many trials as there are workers are proposed together, and the next ones when all of
them have ended.  What is proposed depends on no accident, so that a search with a seed always makes
the same trials.  In the *asynchronous* mode a trial is proposed whenever one ends: no worker waits
for a longer trial, at the price of proposals that know less, and that differ from run to run.

Segments are searched side by side, and know nothing of each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, inf, isfinite
from typing import TYPE_CHECKING

from hepdask_ml import seeds
from hepdask_ml.campaign.unit import Unit
from hepdask_ml.hpo.optimisers import Past
from hepdask_ml.hpo.trials import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hepdask_ml.campaign.unit import History
    from hepdask_ml.hpo.optimisers import Optimiser, Proposal
    from hepdask_ml.hpo.pruning import Pruner
    from hepdask_ml.hpo.space import Space
    from hepdask_ml.hpo.trials import Objective, Trial

MODES = ("rounds", "async")

PARALLEL = 4
"""Trials at once where nobody says how many, and no worker is there to be counted."""

HOPELESS = 3
"""Trials that must have failed, and none have not, before no more are tried."""


@dataclass(slots=True, eq=False)
class SearchStrategy:
    """Proposes trials until there are as many as were asked for.

    Attributes
    ----------
    spaces : mapping of str to Space or None
        What may vary in each segment; None where only the optimiser knows.
    optimisers : mapping of str to Optimiser
        What proposes, in each segment.
    n_trials : int
        Trials of each segment.
    objectives : tuple of Objective
        What is minimised or maximised.
    constraints : tuple of str
        Names of numbers that must not be above zero.
    epochs : int or str
        Most epochs of a trial, or the parameter that says it.
    pruner : Pruner or None
        Which trials go on.
    mode : {"rounds", "async"}
        When trials are proposed.
    parallel : int or None
        Trials at once, in all segments together, if the history does not tell.
    seed : int
        Of the search.
    warm : mapping of str to tuple of Past
        Trials of an older search, by segment, with numbers below zero.
    """

    spaces: Mapping[str, Space | None]
    optimisers: Mapping[str, Optimiser]
    n_trials: int
    objectives: tuple[Objective, ...]
    constraints: tuple[str, ...] = ()
    epochs: int | str = 1
    pruner: Pruner | None = None
    mode: str = "rounds"
    parallel: int | None = None
    seed: int = 1
    warm: Mapping[str, tuple[Past, ...]] = field(default_factory=dict)
    _reader: Reader | None = field(default=None, init=False)

    def plan(self, history: History) -> list[Unit]:
        """Give the trials to begin, and those to go on with."""
        if self._reader is None:
            self._reader = Reader(self.objectives, self.constraints)
        found = self._reader.read(history)
        width = self._width(found)
        return [
            unit
            for segment in self.spaces
            for unit in self._plan(segment, found.get(segment, []), width)
        ]

    @property
    def width(self) -> int:
        """Trials at once of a segment."""
        return max(1, ceil((self.parallel or PARALLEL) / len(self.spaces)))

    def _width(self, found: Mapping[str, Sequence[Trial]]) -> int:
        """Give the trials at once of a segment: a search that goes on keeps its rounds."""
        first = next((trials[0] for trials in found.values()), None)
        return self.width if first is None else int(first.unit.spec["width"])

    def _plan(self, segment: str, trials: list[Trial], width: int) -> list[Unit]:
        grown = [
            replace(trial.unit, total=self._rung_after(trial)) for trial in self._promoted(trials)
        ]
        going = len(grown) + sum(trial.state == "running" and not trial.waiting for trial in trials)
        room = min(width - going, self.n_trials - len(trials))
        if self.mode == "rounds" and going:
            room = 0
        if room < 1 or _hopeless(trials, width):
            return grown
        return grown + self._begun(segment, trials, room, width)

    def _begun(self, segment: str, trials: Sequence[Trial], n: int, width: int) -> list[Unit]:
        number = len(trials)
        optimiser, space = self.optimisers[segment], self.spaces[segment]
        past: tuple[Past, ...] = ()
        if not getattr(optimiser, "forgetful", False):
            past = (*self.warm.get(segment, ()), *map(self._past, trials))
        seed = seeds.key(self.seed, f"{segment}/proposals/{number}")
        proposals = optimiser.propose(space, past, n, seed)  # type: ignore[arg-type]
        round_ = 1 + max((trial.round for trial in trials), default=0)
        return [
            self._new(segment, number + i, round_, proposal, width)
            for i, proposal in enumerate(proposals[:n])
        ]

    def _new(self, segment: str, number: int, round_: int, proposal: Proposal, width: int) -> Unit:
        space = self.spaces[segment]
        params = dict(proposal.params)
        if space is not None and not getattr(self.optimisers[segment], "unchecked", False):
            params = space.checked(params)
        most = params[self.epochs] if isinstance(self.epochs, str) else self.epochs
        spec = {
            "number": number,
            "segment": segment,
            "round": round_,
            "params": params,
            "attributes": dict(proposal.attributes),
            "epochs": int(most),
            "width": width,
        }
        total = next(iter(self._rungs(int(most))), int(most))
        return Unit(key_of(segment, number), total, spec, title_of(segment, number), ordered=True)

    def _promoted(self, trials: Sequence[Trial]) -> list[Trial]:
        """Give the trials that have come to a rung and go on."""
        waiting = [trial for trial in trials if trial.waiting]
        if self.pruner is None or not waiting:
            return []
        promoted: list[Trial] = []
        for rung in sorted({trial.planned for trial in waiting}):
            here = [trial for trial in waiting if trial.planned == rung]
            by_round = self.pruner.by_round and self.mode == "rounds"
            for round_ in sorted({trial.round for trial in here}) if by_round else [0]:
                mates = [trial for trial in trials if not by_round or trial.round == round_]
                if by_round and any(_on_the_way(mate, rung) for mate in mates):
                    continue
                promoted += self._kept(rung, here, mates)
        return promoted

    def _kept(self, rung: int, here: Iterable[Trial], mates: Iterable[Trial]) -> list[Trial]:
        assert self.pruner is not None
        losses = {}
        for mate in mates:
            loss = least_loss(mate, self.objectives[0], rung)
            if loss is not None:
                losses[mate.number] = loss
        asked = [trial for trial in here if trial.number in losses]
        if self.mode == "rounds" and not self.pruner.by_round:
            # What came to this rung in the same round came by accident before or after.
            return [
                trial
                for trial in asked
                if self.pruner.kept(
                    {
                        mate.number: losses[mate.number]
                        for mate in mates
                        if mate.number in losses and (mate.round < trial.round or mate is trial)
                    },
                    {trial.number},
                )
            ]
        kept = self.pruner.kept(losses, {trial.number for trial in asked})
        return [trial for trial in asked if trial.number in kept]

    def _rungs(self, most: int) -> tuple[int, ...]:
        return () if self.pruner is None else self.pruner.rungs(most)

    def _rung_after(self, trial: Trial) -> int:
        later = [rung for rung in self._rungs(trial.most) if rung > trial.planned]
        return min(later, default=trial.most)

    def _past(self, trial: Trial) -> Past:
        return past_of(trial, self.objectives, self.constraints, trial.number)


def past_of(
    trial: Trial, objectives: Sequence[Objective], constraints: Sequence[str], number: int
) -> Past:
    """Give a trial as an optimiser knows it.

    Parameters
    ----------
    trial : Trial
        The trial.
    objectives : sequence of Objective
        Those of the search.
    constraints : sequence of str
        Names of its constraints.
    number : int
        The number to give it.

    Returns
    -------
    Past
        With its last losses where it was pruned, or waits; pending where it is running.  What was
        pruned before it gave a constraint is taken for satisfying it: nobody knows better.
    """
    ended = trial.state in ("complete", "pruned") or trial.waiting
    return Past(
        number=number,
        params=trial.params,
        losses=trial.losses(objectives) if ended and len(trial.values) == len(objectives) else None,
        constraints=tuple(trial.constraints.get(name, 0.0) for name in constraints)
        if ended
        else (),
        attributes=trial.attributes,
        failed=trial.state == "failed",
    )


def least_loss(trial: Trial, objective: Objective, epochs: int) -> float | None:
    """Give the least loss of a trial's first epochs.

    Parameters
    ----------
    trial : Trial
        The trial.
    objective : Objective
        Of the search.
    epochs : int
        So many epochs.

    Returns
    -------
    float or None
        The least loss; infinity where none is finite, None where it has not come so far.
    """
    if trial.epochs < epochs:
        return None
    losses = [
        objective.loss(row.metrics[objective.name])
        for row in trial.rows
        if row.epoch < epochs and objective.name in row.metrics
    ]
    return min((loss for loss in losses if isfinite(loss)), default=inf)


def key_of(segment: str, number: int) -> str:
    """Give the key of a trial's unit."""
    return f"{segment}/trial-{number:04d}" if segment else f"trial-{number:04d}"


def title_of(segment: str, number: int) -> str:
    """Give a trial as people read it."""
    return f"trial {number} of {segment}" if segment else f"trial {number}"


def _on_the_way(trial: Trial, rung: int) -> bool:
    """Whether a trial may still come to a rung."""
    return (
        trial.state == "running"
        and trial.epochs < rung
        and not (trial.waiting and trial.planned < rung)
    )


def _hopeless(trials: Sequence[Trial], width: int) -> bool:
    """Whether all that was tried has failed, and more would."""
    return len(trials) >= max(HOPELESS, width) and all(trial.state == "failed" for trial in trials)
