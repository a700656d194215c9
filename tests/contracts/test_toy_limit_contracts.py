"""The strategies and the runner of toy limits keep their contracts."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import made_up
import pytest
from made_up_gpu import OnMadeUpGpu, made_up_gpu

from hepdask_ml.campaign.unit import Unit
from hepdask_ml.inference.hypotest import prepare
from hepdask_ml.inference.limit import asymptotic_limits
from hepdask_ml.likelihood.compile import compile_model
from hepdask_ml.likelihood.fit import DEFAULT_STARTS
from hepdask_ml.limits.runner import TOY, ToyRunner
from hepdask_ml.limits.strategy import AdaptiveScan, FixedScan, units_at
from hepdask_ml.testing import RunnerContract, StrategyContract

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hepdask_ml.campaign.unit import Runner, Strategy
    from hepdask_ml.inference.asymptotics import Asymptotic
    from hepdask_ml.inference.hypotest import Experiment
    from hepdask_ml.inference.statistics import TestStatistic

LEVEL = 0.05


@lru_cache
def experiment(name: str, kind: TestStatistic = "qtilde") -> Experiment:
    return prepare(compile_model(made_up.MADE_UP[name]), None, kind, DEFAULT_STARTS)


@lru_cache
def asymptotic(name: str) -> Asymptotic:
    return asymptotic_limits(experiment(name), LEVEL)


def toys_of(name: str, kind: TestStatistic = "qtilde") -> ToyRunner:
    return ToyRunner(experiment(name, kind).model, kind, 1, DEFAULT_STARTS)


class Toys(RunnerContract):
    workspace: str
    kind: TestStatistic = "qtilde"
    most_pickle_bytes = 100_000

    def runner(self) -> Runner:
        return toys_of(self.workspace, self.kind)

    def units(self) -> Sequence[Unit]:
        return units_at(experiment(self.workspace, self.kind), 1.5, (700, 1100))

    def broken_units(self) -> Sequence[Unit]:
        unit = self.units()[0]
        return [
            Unit("no parameters", 10, {"mu": 1.0}),
            Unit("no mu", 10, {"pars": unit.spec["pars"]}),
        ]


class TestToysOfOneBin(Toys):
    workspace = "one bin"


class TestToysOfSeveralMinima(Toys):
    workspace = "one-sided"
    kind: TestStatistic = "t"


class TestToysOnGpus(Toys):
    workspace = "control region"

    @pytest.fixture(autouse=True)
    def gpu(self) -> Iterator[None]:
        with made_up_gpu():
            yield

    def runner(self) -> Runner:
        return OnMadeUpGpu(replace(toys_of(self.workspace), engine="gpu"))


class TestFixedScan(StrategyContract):
    def strategy(self) -> Strategy:
        return FixedScan(experiment("two bins"), (0.5, 1.0, 2.0), 1500)

    def runner(self) -> Runner:
        return toys_of("two bins")


class TestAdaptiveScan(StrategyContract):
    shuffles = 3

    def strategy(self) -> Strategy:
        return AdaptiveScan(experiment("one bin"), asymptotic("one bin"), LEVEL, 0.06, 10_000_000)

    def runner(self) -> Runner:
        return toys_of("one bin")


class TestAdaptiveScanThatMayThrowFewToys(StrategyContract):
    shuffles = 2

    def strategy(self) -> Strategy:
        return AdaptiveScan(experiment("counting"), asymptotic("counting"), LEVEL, 0.01, 30_000)

    def runner(self) -> Runner:
        return toys_of("counting")


def test_results_of_toys_are_as_long_as_they_should() -> None:
    unit = TestToysOfOneBin().units()[0]
    assert len(TestToysOfOneBin()._whole(unit)) == unit.total * TOY.itemsize
