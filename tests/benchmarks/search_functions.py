"""Functions whose minima are known, on which searches are judged.

References
----------
L. C. W. Dixon, G. P. Szego, Towards Global Optimization 2 (North-Holland, 1978): Branin, Hartmann.
S. Belakaria, A. Deshwal, J. R. Doppa, NeurIPS 2019: Branin and Currin as two objectives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import cos, exp, pi
from typing import TYPE_CHECKING

import numpy as np

from hepdask_ml.hpo.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Losses = tuple[float, ...]

_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14],
     [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)  # fmt: skip
_P = 1e-4 * np.array(
    [[1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
     [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381]]
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A function to be searched.

    Attributes
    ----------
    name : str
        What it is called.
    space : Space
        Where it is defined.
    losses : callable
        Gives its values without noise.
    best : float
        The lowest value; with two objectives the hypervolume of the front.
    budget : int
        Trials of a search.
    noise : float
        Standard deviation of what is added to each value that an optimiser sees.
    reference : tuple of float
        With two objectives: the corner from which the hypervolume is counted.
    """

    name: str
    space: Space
    losses: Callable[[Mapping[str, float]], Losses]
    best: float
    budget: int
    noise: float = 0.0
    reference: Losses = field(default=())

    def seen(self, params: Mapping[str, float], seed: int, number: int) -> Losses:
        """Give what an optimiser is told of a trial."""
        noise = np.random.default_rng([seed, number]).normal(0.0, 1.0, 2)
        true = self.losses(params)
        return tuple(x + self.noise * float(z) for x, z in zip(true, noise, strict=False))

    def regret(self, trials: Sequence[tuple[Mapping[str, float], Losses]]) -> float:
        """Give the distance from the best of what one holds after some trials.

        With noise it is the true value of the trial that looked best.
        """
        if self.reference:
            return self.best - hypervolume([seen for _, seen in trials], self.reference)
        params, _ = min(trials, key=lambda trial: trial[1])
        return self.losses(params)[0] - self.best


def branin(x: float, y: float) -> float:
    """Three equal minima of 0.397887 for x in [-5, 10] and y in [0, 15]."""
    bowl = y - 5.1 / (4 * pi**2) * x**2 + 5 / pi * x - 6
    return float(bowl**2 + 10 * (1 - 1 / (8 * pi)) * cos(x) + 10)


def hartmann(x: Sequence[float]) -> float:
    """Six minima in the unit cube of six dimensions, the lowest -3.32237."""
    return float(-_ALPHA @ np.exp(-np.sum(_A * (np.asarray(x) - _P) ** 2, axis=1)))


def currin(x: float, y: float) -> float:
    """Smooth in the unit square."""
    rise = 1.0 - exp(-1.0 / (2.0 * y)) if y > 0.0 else 1.0
    over = 2300 * x**3 + 1900 * x**2 + 2092 * x + 60
    return rise * over / (100 * x**3 + 500 * x**2 + 4 * x + 20)


def hypervolume(points: Sequence[Losses], reference: Losses) -> float:
    """Give the area that points of two losses dominate, up to the reference.

    Examples
    --------
    >>> hypervolume([(1.0, 3.0), (2.0, 1.0), (2.0, 2.0), (5.0, 0.0)], (4.0, 4.0))
    7.0
    """
    right, top = reference
    front: list[tuple[float, float]] = []
    for x, y in sorted(point for point in points if point[0] < right):
        if y < (front[-1][1] if front else top):
            front.append((x, y))
    edges = [*(x for x, _ in front), right]
    return sum((b - a) * (top - y) for (a, b), (_, y) in zip(pairwise(edges), front, strict=True))


def _box(*bounds: tuple[float, float]) -> Space:
    return Space.read(
        {f"x{i}": {"type": "float", "low": a, "high": b} for i, (a, b) in enumerate(bounds)}
    )


def _branin(params: Mapping[str, float]) -> Losses:
    return (branin(params["x0"], params["x1"]),)


def _hartmann(params: Mapping[str, float]) -> Losses:
    return (hartmann(list(params.values())),)


def _branin_currin(params: Mapping[str, float]) -> Losses:
    x, y = params["x0"], params["x1"]
    return branin(15 * x - 5, 15 * y), currin(x, y)


PROBLEMS = (
    Problem("Branin", _box((-5, 10), (0, 15)), _branin, 0.39788735772973816, 60),
    Problem("Hartmann-6", _box(*[(0, 1)] * 6), _hartmann, -3.322368011415515, 100),
    Problem("Hartmann-6, noise 0.1", _box(*[(0, 1)] * 6), _hartmann, -3.322368011415515, 100, 0.1),
    Problem(
        "Branin-Currin", _box((0, 1), (0, 1)), _branin_currin, 59.36011874867746, 200,
        reference=(18.0, 6.0),
    ),
)  # fmt: skip
