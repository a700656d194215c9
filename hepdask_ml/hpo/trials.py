"""What became of the trials of a search, read from its history."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hepdask_ml.campaign.unit import History, Record, Unit

ENDED = ("complete", "pruned", "failed")
"""States in which nothing more is to be expected of a trial."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A number that a search makes as small, or as large, as it can.

    Attributes
    ----------
    name : str
        What trials report it as.
    maximise : bool
        Whether more is better.
    """

    name: str
    maximise: bool = False

    def loss(self, value: float) -> float:
        """Give a value as what is to be minimised."""
        return -value if self.maximise else value


@dataclass(frozen=True, slots=True)
class Row:
    """An epoch of a trial.

    Attributes
    ----------
    epoch : int
        Its index, from 0.
    metrics : mapping of str to float
        What was reported.
    seconds : float
        What it took.
    samples : int or None
        Training samples, if they were told.
    """

    epoch: int
    metrics: Mapping[str, float]
    seconds: float
    samples: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A trial, as far as it is.

    Attributes
    ----------
    unit : Unit
        Its unit.
    number : int
        Its place in the search, from 0; counted by segment.
    segment : str
        Its segment; empty where there are none.
    round : int
        Trials of a round are proposed together.
    params : mapping
        Its parameters.
    attributes : mapping
        What the optimiser wants to remember of it.
    state : {"complete", "pruned", "failed", "running"}
        What became of it; running are those, too, that wait for a worker or a decision.
    values : mapping of str to float
        The newest value of each objective, as it was reported.
    constraints : mapping of str to float
        The value of each constraint; it is violated where that is above zero.
    rows : tuple of Row
        Its epochs.
    epochs, most : int
        Epochs that are done, and that it may ever do.
    seconds : float
        Time that workers spent on it.
    error : str or None
        Why it failed.
    notes : tuple of str
        What was odd, such as a damaged checkpoint.
    checkpoint : str or None
        Reference of its newest checkpoint.
    device : str
        Where it was worked last, ``"cpu"`` or ``"cuda"``; empty if the objective did not ask.
    memory_mb : float or None
        The most memory of a GPU that it took.
    """

    unit: Unit = field(repr=False)
    number: int
    segment: str
    round: int
    params: Mapping[str, Any]
    attributes: Mapping[str, Any]
    state: str
    values: Mapping[str, float]
    constraints: Mapping[str, float]
    rows: tuple[Row, ...]
    epochs: int
    most: int
    seconds: float
    error: str | None = None
    notes: tuple[str, ...] = ()
    checkpoint: str | None = None
    device: str = ""
    memory_mb: float | None = None

    @property
    def key(self) -> str:
        """Name of its unit."""
        return self.unit.key

    @property
    def feasible(self) -> bool:
        """Whether it violates no constraint."""
        return all(value <= 0.0 for value in self.constraints.values())

    @property
    def waiting(self) -> bool:
        """Whether it has come to a decision whether to go on."""
        return self.state == "running" and self.epochs == self.planned

    @property
    def planned(self) -> int:
        """Epochs after which it is decided whether it goes on, or after which it ends."""
        return self.unit.total

    def losses(self, objectives: Sequence[Objective]) -> tuple[float, ...]:
        """Give what is minimised, one number for each objective.

        Parameters
        ----------
        objectives : sequence of Objective
            Those of the search; the trial has values of them.

        Returns
        -------
        tuple of float
            The losses.
        """
        return tuple(each.loss(self.values[each.name]) for each in objectives)


@dataclass(slots=True)
class Reader:
    """Reads the trials of a history again and again, and each ended one once.

    Attributes
    ----------
    objectives : tuple of Objective
        Those of the search.
    constraints : tuple of str
        Names of its constraints.
    """

    objectives: tuple[Objective, ...]
    constraints: tuple[str, ...] = ()
    _history: History | None = None
    _known: dict[tuple[int, str], tuple[tuple[int, int, str | None], Trial]] = field(
        default_factory=dict
    )

    def read(self, history: History) -> dict[str, list[Trial]]:
        """Give the trials of each segment, by rising number.

        Parameters
        ----------
        history : History
            Of a search.

        Returns
        -------
        dict of str to list of Trial
            By segment.
        """
        if history is not self._history:
            self._history, self._known = history, {}
        found: dict[str, list[Trial]] = {}
        for record in history.records():
            trial = self._trial(history, record)
            found.setdefault(trial.segment, []).append(trial)
        for trials in found.values():
            trials.sort(key=lambda trial: trial.number)
        return found

    def _trial(self, history: History, record: Record) -> Trial:
        name = record.seed, record.unit.key
        version = record.done, record.unit.total, record.error
        known = self._known.get(name)
        if known is None or known[0] != version:
            known = self._known[name] = version, self._read(history, record)
        return known[1]

    def _read(self, history: History, record: Record) -> Trial:
        spec = record.unit.spec
        blocks = []
        if record.done:
            results = history.results(record.unit.key, record.seed)
            blocks = [json.loads(result) for _, _, result in results]
        rows = tuple(Row(*row) for block in blocks for row in block["rows"])
        last = blocks[-1] if blocks else {}
        numbers = {**(rows[-1].metrics if rows else {}), **(last.get("value") or {})}
        values = {each.name: numbers[each.name] for each in self.objectives if each.name in numbers}
        constraints = {name: numbers[name] for name in self.constraints if name in numbers}
        ended = bool(last.get("finished")) or record.done >= spec["epochs"]
        state, error = "complete" if ended else "running", record.error
        if ended and error is None:
            error = self._flaw(values, constraints)
        memory = [block["memory_mb"] for block in blocks if block["memory_mb"] is not None]
        return Trial(
            unit=record.unit,
            number=spec["number"],
            segment=spec["segment"],
            round=spec["round"],
            params=spec["params"],
            attributes=spec["attributes"],
            state="failed" if error is not None else state,
            values=values,
            constraints=constraints,
            rows=rows,
            epochs=len(rows) if rows and last.get("finished") else record.done,
            most=spec["epochs"],
            seconds=sum(block["seconds"] for block in blocks),
            error=error,
            notes=tuple(note for block in blocks for note in block["notes"]),
            checkpoint=last.get("checkpoint"),
            device=last.get("device", ""),
            memory_mb=max(memory, default=None),
        )

    def _flaw(self, values: Mapping[str, float], constraints: Mapping[str, float]) -> str | None:
        """Say what keeps an ended trial from counting."""
        for name, value in {**values, **constraints}.items():
            if not isfinite(value):
                return f"{name} is {value}"
        for name in (*(each.name for each in self.objectives), *self.constraints):
            if name not in values and name not in constraints:
                return f"{name} was not given"
        return None


def settled(trials: Sequence[Trial], mode: str) -> list[Trial]:
    """Say of the trials of a segment that wait whether they were pruned.

    Parameters
    ----------
    trials : sequence of Trial
        Of one segment.
    mode : {"rounds", "async"}
        Of the search.

    Returns
    -------
    list of Trial
        The same; what waits is pruned where a later round has begun, or nothing else goes on.
    """
    going = any(trial.state == "running" and not trial.waiting for trial in trials)
    last = max((trial.round for trial in trials), default=0)
    return [
        replace(trial, state="pruned")
        if trial.waiting and (not going or (mode == "rounds" and trial.round < last))
        else trial
        for trial in trials
    ]
