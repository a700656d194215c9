"""Optimisers of scikit-optimize: the one door to skopt, which need not be installed.

It knows one loss and neither constraints nor conditions: an infeasible trial is told with the worst
loss that was seen, and an inactive parameter stands in the middle of its range.  The first ten
trials are random.  Where a point would be tried a second time, a random one is taken.

The trials of a round are asked for one after the other, as if each had ended with what the
surrogate expects of it (*kriging believer*); those that were pending before are told so, too.
Such a lie takes the doubt away from where a trial is, and changes nothing else.  The best loss so
far, which the library tells, looks like success there, and the mean bends the surrogate next to the
minimum: either harms a search that asks for one trial whenever one ends.  The library would also
fit the surrogate's hyperparameters again after every lie; here they are fitted once, to what is
true, and a lie only conditions the surrogate.  With a Gaussian process the point to try has the
lowest confidence bound: expected improvement, as the library has it, comes to rest a hundredth
above the minimum.

References
----------
D. Ginsbourger, R. Le Riche, L. Carraro, in Computational Intelligence in Expensive Optimization
Problems (Springer, 2010), p. 131.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.hpo.axes import axes, from_said, told
from hepdask_ml.hpo.optimisers import Proposal, library, one_loss, small

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hepdask_ml.hpo.axes import Axis
    from hepdask_ml.hpo.optimisers import Past
    from hepdask_ml.hpo.space import Space

FIRST = 10
"""Trials that must have ended before a surrogate is asked."""

_SOUGHT: dict[str, dict[str, Any]] = {
    "skopt:gp": {
        "acq_func": "LCB",
        "acq_optimizer_kwargs": {"n_points": 1000, "n_restarts_optimizer": 2},
    },
    "skopt:forest": {"acq_func": "EI"},
}
"""What makes a point the next one, and how it is sought: among so many, then downhill from some."""

_ENOUGH_SEEDS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Skopt:
    """An optimiser of scikit-optimize.

    Attributes
    ----------
    name : {"skopt:gp", "skopt:forest", "skopt:dummy"}
        A Gaussian process, extremely randomised trees, or no surrogate at all.
    several : bool
        False: it takes one loss.
    """

    name: str
    several: bool = False

    def propose(self, space: Space, past: Sequence[Past], n: int, seed: int) -> list[Proposal]:
        """Give the next round."""
        along = axes(space)
        trials = one_loss(past, self.name)
        known = [_point(space, along, trial) for trial, _ in trials]
        losses = [loss for _, loss in trials]
        rng = np.random.RandomState(small(seed))
        if not along:
            points: list[list[Any]] = [[] for _ in range(n)]
        elif self.name == "skopt:dummy" or sum(loss is not None for loss in losses) < FIRST:
            points = _space(along).rvs(n, random_state=rng)
        else:
            points = self._round(along, known, losses, n, rng)
        names = [axis.name for axis in along]
        return [Proposal(from_said(space, dict(zip(names, p, strict=True)), along)) for p in points]

    def _round(
        self,
        along: Sequence[Axis],
        known: list[list[Any]],
        losses: list[float | None],
        n: int,
        rng: np.random.RandomState,
    ) -> list[list[Any]]:
        """Ask, lie, and ask again.

        One thread does it: the matrices are small, and several make it up to six times slower.
        """
        data = [(x, loss) for x, loss in zip(known, losses, strict=True) if loss is not None]
        pending = [x for x, loss in zip(known, losses, strict=True) if loss is None]
        skopt = _library("skopt", self.name)
        with _quiet(), _library("threadpoolctl", self.name).threadpool_limits(1):
            surrogate = self._surrogate(along, data, rng.randint(_ENOUGH_SEEDS))
            optimiser = skopt.Optimizer(
                _space(along).dimensions,
                surrogate,
                n_initial_points=0,
                **_SOUGHT[self.name],
                random_state=rng.randint(_ENOUGH_SEEDS),
            )
            if pending:
                surrogate.fit(optimiser.space.transform([x for x, _ in data]), [y for _, y in data])
                data += zip(pending, _believed(surrogate, optimiser, pending), strict=True)
            optimiser.tell([x for x, _ in data], [loss for _, loss in data])
            points = [optimiser.ask()]
            while len(points) < n:
                newest = points[-1:]
                optimiser.tell(newest, _believed(optimiser.models[-1], optimiser, newest))
                points.append(optimiser.ask())
        return points

    def _surrogate(
        self, along: Sequence[Axis], true: list[tuple[list[Any], float]], seed: int
    ) -> Any:
        """Give a surrogate that can be conditioned; a Gaussian process with its hyperparameters."""
        utils = _library("skopt.utils", self.name)
        if self.name == "skopt:forest":
            return utils.cook_estimator("ET", random_state=seed)
        space = utils.normalize_dimensions(_space(along).dimensions)
        free = utils.cook_estimator("GP", space=space, random_state=seed, n_restarts_optimizer=0)
        free.fit(space.transform([x for x, _ in true]), [loss for _, loss in true])
        learning = _library("skopt.learning", self.name)
        # The fitted kernel is a sum, with the noise as its second term.
        return learning.GaussianProcessRegressor(
            kernel=free.kernel_.k1, noise=free.noise_, optimizer=None, normalize_y=True
        )


def optimiser(name: str) -> Skopt:
    """Give an optimiser of this library.

    Parameters
    ----------
    name : {"skopt:gp", "skopt:forest", "skopt:dummy"}
        Which one.

    Returns
    -------
    Skopt
        The optimiser.

    Raises
    ------
    InputError
        If scikit-optimize is not installed.
    """
    _library("skopt", name)
    return Skopt(name)


def _library(module: str, name: str) -> Any:
    return library(module, name, "scikit-optimize")


def _space(along: Sequence[Axis]) -> Any:
    """Make the library's own space."""
    space = _library("skopt.space", "skopt")
    made = []
    for axis in along:
        prior = "log-uniform" if axis.log else "uniform"
        if axis.kind == "choice":
            made.append(space.Categorical(list(range(int(axis.high) + 1)), name=axis.name))
        elif axis.kind == "whole":
            made.append(space.Integer(axis.low, axis.high, prior, name=axis.name))
        else:
            made.append(space.Real(axis.low, axis.high, prior, name=axis.name))
    return space.Space(made)


def _point(space: Space, along: Sequence[Axis], trial: Past) -> list[Any]:
    values = told(space, along, trial)
    return [values.get(axis.name, axis.middle) for axis in along]


def _believed(surrogate: Any, optimiser: Any, points: list[list[Any]]) -> list[float]:
    """Give what a fitted surrogate expects of some points."""
    return [float(loss) for loss in surrogate.predict(optimiser.space.transform(points))]


@contextmanager
def _quiet() -> Iterator[None]:
    """Let pass what the library has to say of a surrogate that fits badly."""
    with warnings.catch_warnings():
        for text in ("The objective has been evaluated at", "Predicted variances smaller than 0"):
            warnings.filterwarnings("ignore", text)
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="skopt")
        warnings.filterwarnings("ignore", module="sklearn.gaussian_process")
        yield
