"""Optimisers of Optuna: the one door to optuna, which need not be installed.

A study in memory is made anew for each round.  It is told of every trial, of the pending ones as
trials that are running, and asked for the parameters one by one, so that conditional parameters are
asked for where they are active.  Trials with several losses and constraints are the library's
own.  Nothing keeps it from trying a point twice.

What its samplers write down of a trial, the generation that it was made for or what they tell each
other, comes as the proposal's attributes.  It is text and numbers with these samplers; Optuna's own
CMA-ES would write pickles, which must never be read from a ledger: hence `with_cmaes`.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hepdask_ml.hpo.axes import assembled, axes, told
from hepdask_ml.hpo.optimisers import Proposal, library, settled, small

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hepdask_ml.hpo.axes import Axis
    from hepdask_ml.hpo.dimensions import Dimension
    from hepdask_ml.hpo.optimisers import Past
    from hepdask_ml.hpo.space import Space

_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "optuna:tpe": ("TPESampler", {"constant_liar": True}),
    "optuna:gp": ("GPSampler", {"warn_independent_sampling": False}),
    "optuna:nsga2": ("NSGAIISampler", {}),
    "optuna:random": ("RandomSampler", {}),
}
"""Class of each sampler, and its options beside the seed."""


@dataclass(frozen=True, slots=True)
class Optuna:
    """An optimiser of Optuna.

    Attributes
    ----------
    name : {"optuna:tpe", "optuna:gp", "optuna:nsga2", "optuna:random"}
        Tree-structured Parzen estimator, Gaussian process, genetic algorithm, or chance.
    several : bool
        True: it takes several losses.
    """

    name: str
    several: bool = True

    @property
    def forgetful(self) -> bool:
        """Whether the past does not matter."""
        return self.name == "optuna:random"

    def propose(self, space: Space, past: Sequence[Past], n: int, seed: int) -> list[Proposal]:
        """Give the next round."""
        optuna = library("optuna", self.name, "optuna")
        along = axes(space)
        distributions = {axis.name: _distribution(optuna, axis) for axis in along}
        trials = settled(past)
        threads = library("threadpoolctl", self.name, "threadpoolctl")
        # Several threads make the Gaussian process up to twenty times slower on a busy machine.
        with _quiet(optuna), threads.threadpool_limits(1):
            study = optuna.create_study(
                sampler=self._sampler(optuna, seed),
                directions=["minimize"] * next((len(t.losses) for t in trials if t.losses), 1),
            )
            study.add_trials(
                _trial(optuna, trial, told(space, along, trial), distributions) for trial in trials
            )
            return [_asked(study, space, along, distributions) for _ in range(n)]

    def _sampler(self, optuna: Any, seed: int) -> Any:
        sampler, options = _SAMPLERS[self.name]
        return getattr(optuna.samplers, sampler)(seed=small(seed), **options)


def optimiser(name: str) -> Optuna:
    """Give an optimiser of this library.

    Parameters
    ----------
    name : {"optuna:tpe", "optuna:gp", "optuna:nsga2", "optuna:random"}
        Which one.

    Returns
    -------
    Optuna
        The optimiser.

    Raises
    ------
    InputError
        If optuna is not installed, or torch, which its Gaussian process needs.
    """
    library("optuna", name, "optuna")
    if name == "optuna:gp":
        library("scipy", name, "scipy")
        library("torch", name, "torch", "train")
    return Optuna(name)


def _distribution(optuna: Any, axis: Axis) -> Any:
    kinds = optuna.distributions
    if axis.kind == "choice":
        return kinds.CategoricalDistribution(range(int(axis.high) + 1))
    kind = kinds.IntDistribution if axis.kind == "whole" else kinds.FloatDistribution
    return kind(axis.low, axis.high, log=axis.log)


def _trial(
    optuna: Any, trial: Past, params: dict[str, Any], distributions: Mapping[str, Any]
) -> Any:
    """Make the library's own record of a trial."""
    states = optuna.trial.TrialState
    made = optuna.trial.create_trial(
        state=states.RUNNING if trial.pending else states.COMPLETE,
        values=trial.losses,
        params=params,
        distributions={name: distributions[name] for name in params},
        system_attrs=dict(trial.attributes),
        constraints={str(i): value for i, value in enumerate(trial.constraints)},
    )
    made.__class__ = _kind_of_trial(optuna)
    return made


@lru_cache(maxsize=1)
def _kind_of_trial(optuna: Any) -> type:
    """Give a record that nobody else holds: a study need not copy all that is in it.

    To copy what is in hundreds of trials takes longer than to propose the next.
    """

    class Told(optuna.trial.FrozenTrial):  # type: ignore[misc]
        def __deepcopy__(self, _: Any) -> Any:
            return copy(self)

    return Told


def _asked(
    study: Any, space: Space, along: Sequence[Axis], distributions: Mapping[str, Any]
) -> Proposal:
    trial = study.ask()
    by_name = {axis.name: axis for axis in along}

    def give(name: str, dimension: Dimension) -> Any:
        axis = by_name.get(name)
        if axis is None:
            return dimension.value_at(0.5)
        if axis.kind == "choice":
            return axis.outward(trial.suggest_categorical(name, distributions[name].choices))
        suggest = trial.suggest_int if axis.kind == "whole" else trial.suggest_float
        return axis.outward(suggest(name, axis.low, axis.high, log=axis.log))

    params = assembled(space, give)
    written = study.get_trials(deepcopy=False)[trial.number].system_attrs
    return Proposal(params, dict(written))


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Keep the library from reporting each study, and each option that may change one day."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        logger.setLevel(level)
