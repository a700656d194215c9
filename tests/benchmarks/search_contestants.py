"""Who takes part in the comparison of searches: our optimisers, and their libraries used alone.

A *contestant* is asked for points and told of their losses.  Ours keeps the past of the search and
nothing else.  The libraries alone are used as their own documentation has it for several trials at
a time: skopt's ``ask(n_points=...)``, by constant liar, and Optuna's ``ask`` and ``tell``, which
are what ``study.optimize(n_jobs=...)`` calls.

A *restart* leaves what is on disk.  That is the past for ours; a table of points and losses for
scikit-optimize; for Optuna, whose storage keeps all trials, these with all their attributes.
"""

from __future__ import annotations

import json
import os
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hepdask_ml.hpo.optimisers import Past, find

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.search_functions import Losses, Problem

    Params = Mapping[str, float]

WAYS = ("ours", "library alone", "ours, pending told as best", "library alone, from a table")


class Contestant(Protocol):
    """Says where to look next; trials are numbered from 0 as they are asked for."""

    def ask(self, n: int) -> list[Params]:
        """Give so many points."""

    def tell(self, number: int, losses: Losses) -> None:
        """Take what a trial came to."""

    def restart(self) -> None:
        """Lose all that is not on disk."""


def contestant(way: str, optimiser: str, problem: Problem, seed: int) -> Contestant:
    """Give who searches a problem.

    Parameters
    ----------
    way : str
        One of `WAYS`.
    optimiser : str
        Its name, as `hepdask_ml.hpo.optimisers.find` has it.
    problem : Problem
        What is searched.
    seed : int
        Of its random numbers.

    Returns
    -------
    Contestant
        With no trial yet.
    """
    if way.startswith("ours"):
        return Ours(optimiser, problem, seed, best_for_pending=way != "ours")
    if optimiser.startswith("skopt:"):
        return SkoptAlone(optimiser, problem, seed)
    return OptunaAlone(optimiser, problem, seed, attributes=way == "library alone")


@dataclass(slots=True)
class Ours:
    """An optimiser of the package; asked with the past, as a strategy asks it."""

    optimiser: str
    problem: Problem
    seed: int
    best_for_pending: bool = False
    past: list[Past] = field(default_factory=list)

    def ask(self, n: int) -> list[Params]:
        past = self.past
        known = [trial.losses for trial in past if trial.losses]
        if self.best_for_pending and known:
            past = [replace(trial, losses=trial.losses or min(known)) for trial in past]
        seed = int(np.random.SeedSequence([self.seed, len(past)]).generate_state(1)[0])
        proposals = find(self.optimiser).propose(self.problem.space, past, n, seed)
        self.past += [
            Past(len(past) + i, proposal.params, attributes=proposal.attributes)
            for i, proposal in enumerate(proposals)
        ]
        return [proposal.params for proposal in proposals]

    def tell(self, number: int, losses: Losses) -> None:
        self.past[number] = replace(self.past[number], losses=losses)

    def restart(self) -> None:
        kept = json.loads(json.dumps([asdict(trial) for trial in self.past]))
        self.past = [Past(**{**trial, **_tuples(trial)}) for trial in kept]


def _tuples(trial: dict[str, Any]) -> dict[str, Any]:
    """Give the fields that JSON has as lists."""
    losses = trial["losses"]
    return {"losses": losses and tuple(losses), "constraints": tuple(trial["constraints"])}


class SkoptAlone:
    """An Optimizer of scikit-optimize with its default options."""

    def __init__(self, optimiser: str, problem: Problem, seed: int) -> None:
        # Its own dummy raises with scikit-learn 1.9: the first points, which are random, never end.
        self._random = optimiser == "skopt:dummy"
        self._estimator = "GP" if optimiser == "skopt:gp" else "ET"
        self._seed = seed
        self._skopt: Any = import_module("skopt")
        self._names = list(problem.space.dimensions)
        self._bounds = bounds(problem)
        self._points: list[list[float]] = []
        self._waiting: dict[int, float] = {}
        self._told: list[tuple[list[float], float]] = []
        self._optimizer = self._new(0)

    def _new(self, told: int) -> Any:
        return self._skopt.Optimizer(
            self._bounds,
            self._estimator,
            n_initial_points=10**6 if self._random else 10,
            random_state=self._seed + 1000 * told,
        )

    def ask(self, n: int) -> list[Params]:
        with quiet():
            # A round is told together, as its documentation has it.
            if self._waiting:
                new = [(self._points[i], self._waiting[i]) for i in sorted(self._waiting)]
                self._optimizer.tell([x for x, _ in new], [y for _, y in new])
                self._told += new
                self._waiting = {}
            points = self._optimizer.ask(n_points=n) if n > 1 else [self._optimizer.ask()]
        self._points += points
        return [dict(zip(self._names, map(float, x), strict=True)) for x in points]

    def tell(self, number: int, losses: Losses) -> None:
        self._waiting[number] = losses[0]

    def restart(self) -> None:
        with quiet():
            self._optimizer = self._new(len(self._told))
            if self._told:
                self._optimizer.tell([x for x, _ in self._told], [y for _, y in self._told])


class OptunaAlone:
    """A study of Optuna in memory whose sampler has its default options."""

    def __init__(self, optimiser: str, problem: Problem, seed: int, *, attributes: bool) -> None:
        self._optuna: Any = import_module("optuna")
        self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
        self._sampler = {
            "optuna:tpe": "TPESampler",
            "optuna:gp": "GPSampler",
            "optuna:cmaes": "CmaEsSampler",
            "optuna:nsga2": "NSGAIISampler",
            "optuna:random": "RandomSampler",
        }[optimiser]
        self._seed, self._attributes = seed, attributes
        self._directions = ["minimize"] * max(len(problem.reference), 1)
        box = zip(problem.space.dimensions, bounds(problem), strict=True)
        kind = self._optuna.distributions.FloatDistribution
        self._distributions = {name: kind(low, high) for name, (low, high) in box}
        self._numbers: list[int] = []
        self._study = self._new(0)

    def _new(self, told: int) -> Any:
        with quiet():
            sampler = getattr(self._optuna.samplers, self._sampler)(seed=self._seed + 1000 * told)
            return self._optuna.create_study(sampler=sampler, directions=self._directions)

    def ask(self, n: int) -> list[Params]:
        with quiet():
            asked = [self._study.ask(self._distributions) for _ in range(n)]
        self._numbers += [trial.number for trial in asked]
        return [trial.params for trial in asked]

    def tell(self, number: int, losses: Losses) -> None:
        with quiet():
            self._study.tell(self._numbers[number], list(losses))

    def restart(self) -> None:
        trials = self._study.get_trials()
        if not self._attributes:
            for trial in trials:
                trial.system_attrs = {}
        self._study = self._new(len(trials))
        with quiet():
            self._study.add_trials(trials)


def bounds(problem: Problem) -> list[tuple[float, float]]:
    """Give the lowest and the highest value of each parameter."""
    every = problem.space.dimensions.values()
    return [(float(each.value_at(0.0)), float(each.value_at(1.0))) for each in every]


@contextmanager
def quiet() -> Iterator[None]:
    """Let pass what a library says of a surrogate that fits badly, and of options that are new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Let this process, and those that start here, use one core each: the matrices are small."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        with import_module("threadpoolctl").threadpool_limits(1):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
