"""Strategies and runners of searches keep their contracts."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hepdask_ml.campaign.unit import Unit
from hepdask_ml.hpo.optimisers import Proposal, find
from hepdask_ml.hpo.pruning import Halving, Median
from hepdask_ml.hpo.space import Space
from hepdask_ml.hpo.strategy import SearchStrategy
from hepdask_ml.hpo.trials import Objective
from hepdask_ml.testing import RunnerContract, StrategyContract
from hepdask_ml.training.runner import TrialRunner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from hepdask_ml.campaign.unit import Runner
    from hepdask_ml.hpo.optimisers import Past
    from hepdask_ml.training.context import Context

SPACE = Space.read({"x": {"type": "float", "low": -5, "high": 5}, "batch": [32, 64, 128]})


class Walk:
    """A model: a walk with steps at random."""

    def __init__(self) -> None:
        self.at = 0.0

    def state_dict(self) -> dict[str, float]:
        return {"at": self.at}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.at = state["at"]


def walked(params: dict[str, Any], context: Context) -> None:
    """Losses that follow from all random numbers drawn so far."""
    model = Walk()
    for epoch in context.epochs(model=model):
        model.at += random.random() + np.random.rand()  # noqa: NPY002
        context.report(epoch, {"loss": model.at - params.get("x", 0.0)})


def opaque(params: dict[str, Any], context: Context) -> float:
    return float((params["x"] - 1.0) ** 2 + random.random())


def joined(results: Sequence[bytes]) -> Any:
    """What neighbouring blocks say together, but for times and the names of files."""
    rows: list[Any] = []
    value, finished = None, False
    for document in map(json.loads, results):
        rows += [[epoch, metrics, samples] for epoch, metrics, _, samples in document["rows"]]
        value, finished = document["value"], document["finished"]
    return rows, value, finished


def trial(number: int, epochs: int, **params: Any) -> Unit:
    spec = {"number": number, "segment": "", "params": params, "epochs": epochs}
    return Unit(f"trial-{number:04d}", epochs, spec, f"trial {number}", ordered=True)


class TestTrials(RunnerContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self._places = (str(tmp_path / str(i)) for i in range(10**6))

    def runner(self) -> Runner:
        return TrialRunner(walked, checkpoints=next(self._places), interval_s=0.0)

    def units(self) -> Sequence[Unit]:
        return [trial(0, 6), trial(1, 1, x=0.5)]

    def broken_units(self) -> Sequence[Unit]:
        return [trial(0, 3, x="text"), Unit("trial-0001", 3, {"number": 1}, ordered=True)]

    def joined(self, results: Sequence[bytes]) -> Any:
        return joined(results)


class TestTrialsThatKeepNothing(TestTrials):
    def runner(self) -> Runner:
        return TrialRunner(walked)


class TestOpaqueTrials(TestTrials):
    def runner(self) -> Runner:
        return TrialRunner(opaque)

    def units(self) -> Sequence[Unit]:
        return [trial(i, 1, x=float(i)) for i in range(3)]


@dataclass(frozen=True)
class Near:
    """Proposes by all that it was told."""

    several: bool = True

    def propose(self, space: Space, past: Sequence[Past], n: int, seed: int) -> list[Proposal]:
        told = [(t.number, t.params, t.losses, t.failed, t.attributes) for t in past]
        dice = random.Random(json.dumps([seed, told]))
        return [
            Proposal(
                {"x": dice.uniform(-5, 5), "batch": dice.choice([32, 64, 128])}, {"told": len(told)}
            )
            for _ in range(n)
        ]


class Searches(StrategyContract):
    """Where a trial fails, the next ones are others: they turn away from it."""

    failures_matter = True
    options: Mapping[str, Any] = {}

    def strategy(self) -> SearchStrategy:
        options: dict[str, Any] = {"spaces": {"": SPACE}, "n_trials": 10, "parallel": 4}
        options |= self.options
        return SearchStrategy(
            optimisers=dict.fromkeys(options["spaces"], self.optimiser()),
            objectives=(Objective("loss"),),
            **options,
        )

    def optimiser(self) -> Any:
        return Near()

    def runner(self) -> Runner:
        return TrialRunner(walked)

    def joined(self, results: Sequence[bytes]) -> Any:
        return joined(results)


class TestRounds(Searches):
    def runner(self) -> Runner:
        return TrialRunner(opaque)


class TestRoundsWithEpochs(Searches):
    options = {"epochs": 4}  # noqa: RUF012 - read alone


class TestRoundsOfALibrary(Searches):
    shuffles = 2

    def optimiser(self) -> Any:
        return find("optuna:tpe")

    def runner(self) -> Runner:
        return TrialRunner(opaque)


class TestHalving(Searches):
    options = {"epochs": 9, "pruner": Halving(), "parallel": 5}  # noqa: RUF012


class TestMedian(Searches):
    most_rounds = 200
    options = {"epochs": 6, "pruner": Median(startup=2)}  # noqa: RUF012


class TestSegments(Searches):
    options = {"spaces": {"barrel": SPACE, "endcap": SPACE}, "n_trials": 5}  # noqa: RUF012

    def runner(self) -> Runner:
        return TrialRunner(opaque)


class TestOneTrialAtATime(Searches):
    options = {"parallel": 1, "n_trials": 6, "mode": "async"}  # noqa: RUF012

    def runner(self) -> Runner:
        return TrialRunner(opaque)
