"""Every point of a space, once each, in an order left to chance.

Parameters need an end of values: choices, whole numbers, numbers with a step.  Points are counted
with their conditions: values of an inactive parameter make no new ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.dimensions import Normal
from hepdask_ml.hpo.optimisers import Proposal
from hepdask_ml.hpo.values import identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hepdask_ml.hpo.optimisers import Past
    from hepdask_ml.hpo.space import Space

MOST_POINTS = 100_000
"""Points of a grid at most."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Gives what was not tried yet; a trial that failed was tried.

    Attributes
    ----------
    name : str
        What it is called.
    several : bool
        True: it does not look at losses.
    """

    name: str
    several: bool = True

    def propose(self, space: Space, past: Sequence[Past], n: int, seed: int) -> list[Proposal]:
        """Give points that are left, none at the end."""
        points = list(islice(_points(space, {}, self.name), MOST_POINTS + 1))
        if len(points) > MOST_POINTS:
            raise InputError(
                f"the grid has more than {MOST_POINTS} points: make it coarser, or choose another "
                "optimiser"
            )
        tried = {identity(dict(trial.params)) for trial in past}
        left = [point for point in points if identity(point) not in tried]
        return [Proposal(point) for point in Random(seed).sample(left, min(n, len(left)))]


def optimiser(name: str) -> Grid:
    """Give the optimiser.

    Parameters
    ----------
    name : str
        What it is called.

    Returns
    -------
    Grid
        The optimiser.
    """
    return Grid(name)


def _points(space: Space, params: dict[str, Any], optimiser: str) -> Iterator[dict[str, Any]]:
    """Give all points that begin with these parameters."""
    active = space.active(params)
    missing = next((name for name in active if name not in params), None)
    if missing is None:
        yield {name: params[name] for name in active}
        return
    dimension = space.dimensions[missing]
    if isinstance(dimension, Normal) or dimension.count is None:
        raise InputError(
            f"{missing} has no end of values, and {optimiser} tries them all: give it a step, or "
            "choose another optimiser"
        )
    for index in range(dimension.count):
        yield from _points(space, {**params, missing: dimension.at(index)}, optimiser)
