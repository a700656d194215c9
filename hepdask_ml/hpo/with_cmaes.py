"""The evolution strategy CMA-ES: the one door to cmaes, which need not be installed.

It is the library that Optuna has under its own sampler of this name.  Points are drawn from a
normal distribution in the unit cube, a *generation* of them at a time, and the better half moves
and reshapes the distribution.  The distribution is made anew at each call by going through all
complete generations.  Only where a point lay, and in which generation, is kept with a trial: Optuna
would keep the distribution as a pickle, and a ledger without pickles runs nobody's code.

A generation is at least as large as the rule of the reference has it, and a multiple of the first
round, so that no trial of a round is left over.  One loss is known and no constraints: an
infeasible trial is told with the worst loss that was seen.  Choices without an order are left to
chance.  Trials that were not proposed here, as those of an older search, tell where to begin.

References
----------
N. Hansen, The CMA Evolution Strategy: A Tutorial, arXiv:1604.00772.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.axes import assembled, axes, told
from hepdask_ml.hpo.optimisers import Proposal, library, one_loss, small

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hepdask_ml.hpo.axes import Axis
    from hepdask_ml.hpo.dimensions import Dimension
    from hepdask_ml.hpo.optimisers import Past
    from hepdask_ml.hpo.space import Space

    Told = tuple[Past, float | None]

FIRST_WIDTH = 1.0 / 6.0
"""Standard deviation of the first generation in the unit cube."""


@dataclass(frozen=True, slots=True)
class CmaEs:
    """The evolution strategy.

    Attributes
    ----------
    name : str
        What it is called.
    several : bool
        False: it takes one loss.
    """

    name: str
    several: bool = False

    def propose(self, space: Space, past: Sequence[Past], n: int, seed: int) -> list[Proposal]:
        """Give the next points of a generation that is not complete."""
        every = axes(space)
        along = [axis for axis in every if axis.kind != "choice"]
        if every and not along:
            raise InputError(
                f"the optimiser {self.name} needs numbers, and this space has choices alone: "
                "choose optuna:tpe"
            )
        trials = one_loss(past, self.name)
        rng = np.random.default_rng(seed)
        if not along:
            return [Proposal(_params(space, along, [], rng)) for _ in range(n)]
        population = _population(trials, len(along), n)
        cma = library("cmaes", self.name, "cmaes").CMA(
            mean=_start(space, along, trials),
            sigma=FIRST_WIDTH,
            bounds=np.array([[0.0, 1.0]] * len(along)),
            n_max_resampling=10 * len(along),
            population_size=population,
            seed=small(seed),
        )
        _replay(cma, trials, len(along))
        proposals = []
        for _ in range(n):
            x = [float(u) for u in cma.ask()]
            attributes = {"population": population, "generation": int(cma.generation), "x": x}
            proposals.append(Proposal(_params(space, along, x, rng), attributes))
        return proposals


def optimiser(name: str) -> CmaEs:
    """Give the optimiser of this library.

    Parameters
    ----------
    name : str
        What it is called.

    Returns
    -------
    CmaEs
        The optimiser.

    Raises
    ------
    InputError
        If cmaes is not installed.
    """
    library("cmaes", name, "cmaes")
    return CmaEs(name)


def _population(trials: Sequence[Told], dimensions: int, n: int) -> int:
    """Give the size of a generation: that of the trials that were made, or a new one."""
    for trial, _ in trials:
        if "population" in trial.attributes:
            return int(trial.attributes["population"])
    return n * ceil((4 + floor(3 * log(dimensions))) / n)


def _start(space: Space, along: Sequence[Axis], trials: Sequence[Told]) -> Any:
    """Give the middle of the first generation: the best of the trials of another search, if any."""
    others = [
        (loss, trial)
        for trial, loss in trials
        if loss is not None and "x" not in trial.attributes and not trial.failed
    ]
    if not others:
        return np.full(len(along), 0.5)
    _, best = min(others, key=lambda other: other[0])
    params = told(space, along, best)
    return np.array(
        [
            axis.dimension.place_of(best.params[axis.name]) if axis.name in params else 0.5
            for axis in along
        ]
    )


def _replay(cma: Any, trials: Sequence[Told], dimensions: int) -> None:
    """Let every complete generation act."""
    generations: dict[int, list[tuple[Any, float]]] = {}
    for trial, loss in trials:
        x = trial.attributes.get("x", ())
        if loss is not None and len(x) == dimensions:
            members = generations.setdefault(int(trial.attributes["generation"]), [])
            members.append((np.array(x, float), loss))
    while len(members := generations.get(cma.generation, [])) >= cma.population_size:
        cma.tell(members[: cma.population_size])


def _params(
    space: Space, along: Sequence[Axis], x: Sequence[float], rng: np.random.Generator
) -> dict[str, Any]:
    places = {axis.name: place for axis, place in zip(along, x, strict=True)}

    def give(name: str, dimension: Dimension) -> Any:
        return dimension.value_at(places[name] if name in places else rng.random())

    return assembled(space, give)
