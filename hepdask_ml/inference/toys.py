"""Pseudo-experiments, *toys*: thrown, fitted twice, and reduced to a test statistic.

Main data fluctuate about their expectation and so do auxiliary data, as in the procedure of the
LHC experiments and in pyhf's toy calculator.  A toy belongs to an *ensemble*, which names the
hypothesis that it is thrown from and the value of the parameter of interest that is tested.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hepdask_ml.errors import InputError
from hepdask_ml.inference.statistics import test_statistic
from hepdask_ml.likelihood.fit import (
    DEFAULT_STARTS,
    available_processors,
    converged,
    fit_pair,
    rows_at_once,
)
from hepdask_ml.likelihood.rates import expected_data
from hepdask_ml.seeds import MICRO_BATCH, stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hepdask_ml.inference.statistics import TestStatistic
    from hepdask_ml.likelihood.fit import FitPairs
    from hepdask_ml.likelihood.model import CompiledModel

    Floats = NDArray[np.float64]

LARGEST_RATE = 1e15
"""Counts above are not drawn exactly any more: doubles end to hold every integer soon after."""


class Progress(Protocol):
    """Who wants to know how far the toys are; called from one thread only."""

    def plan(self, total: int) -> None:
        """Take the number of toys to be evaluated; a later call corrects it."""

    def advance(self, toys: int) -> None:
        """Take the number of toys done since the last call."""


@dataclass(frozen=True, slots=True, eq=False)
class ToyResults:
    """What is kept of each toy.

    Attributes
    ----------
    q : (n_toys,) float array
        Test statistic.
    poi_hat : (n_toys,) float array
        Best-fit parameter of interest.
    status : (n_toys,) int8 array
        `hepdask_ml.likelihood.fit.FitStatus` of the worse of its two fits.
    """

    q: Floats
    poi_hat: Floats
    status: NDArray[np.int8]

    @property
    def converged(self) -> NDArray[np.bool_]:
        """(n_toys,) bool array: toys of which both fits converged."""
        return converged(self.status)

    @property
    def counted(self) -> Floats:
        """(n_converged,) float array: test statistics of the toys that count."""
        return self.q[self.converged]


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble:
    """Toys of one hypothesis; `ensemble` makes it.

    Attributes
    ----------
    name : str
        Addresses the random streams.
    pars : (n_pars,) float array
        What they are thrown from, and where their fits start.
    expected : (n_data,) float array
        Expected main and auxiliary data; a negative expected rate counts as zero.
    floored : bool
        Whether there was one.
    """

    name: str
    pars: Floats
    expected: Floats
    floored: bool


@dataclass(frozen=True, slots=True)
class ToySettings:
    """How toys are made and fitted; the first three decide what comes out.

    Attributes
    ----------
    toys : int
        Toys of each ensemble.
    seed : int
        The user's seed.
    starts : int
        Fits at most in each round of the search for the lowest minimum.
    threads : int or None
        Threads to use; all processors of this process if None.
    progress : Progress or None
        Is told of every chunk that is done.
    """

    toys: int
    seed: int = 1
    starts: int = DEFAULT_STARTS
    threads: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        _check_count("toys", self.toys)
        _check_count("starts", self.starts)
        if self.threads is not None:
            _check_count("threads", self.threads)
        _check_integer("seed", self.seed)


def _check_count(what: str, count: Any) -> None:
    _check_integer(what, count)
    if count < 1:
        raise InputError(f"{what} is {count}: it must be at least one")


def _check_integer(what: str, value: Any) -> None:
    if not isinstance(value, Integral):
        raise InputError(f"{what} is {value!r}: give an integer")


def ensemble(model: CompiledModel, name: str, pars: Floats) -> Ensemble:
    """Make the ensemble of a hypothesis.

    Parameters
    ----------
    model : CompiledModel
        The model.
    name : str
        Addresses the random streams.
    pars : (n_pars,) float array
        The hypothesis: the conditional fit to the observed data.

    Returns
    -------
    Ensemble
        With the expectation that toys fluctuate about.

    Raises
    ------
    InputError
        If an expected rate is not finite or too large to be drawn.
    """
    expected = expected_data(model, pars)[0]
    counts = model.count_index
    if not (expected[counts] < LARGEST_RATE).all():
        place = int(counts[np.argmax(~(expected[counts] < LARGEST_RATE))])
        raise InputError(
            f"toys cannot be thrown: datum {place} is expected at {expected[place]:g}, and rates "
            f"must be finite and below {LARGEST_RATE:g}"
        )
    floored = bool((expected[counts] < 0.0).any())
    expected[counts] = np.maximum(expected[counts], 0.0)
    return Ensemble(name, pars, expected, floored)


def throw(model: CompiledModel, ensemble: Ensemble, *, seed: int, start: int, stop: int) -> Floats:
    """Throw the toys ``start`` to ``stop`` of an ensemble.

    Parameters
    ----------
    model : CompiledModel
        The model.
    ensemble : Ensemble
        The hypothesis.
    seed : int
        The user's seed.
    start, stop : int
        Half-open range of toys.

    Returns
    -------
    (stop - start, n_data) float array
        Main and auxiliary data.
    """
    counts, normal = model.count_index, model.constraint == 1
    rates, gauss = ensemble.expected[counts], model.aux_index[normal]
    means, widths = ensemble.expected[gauss], model.sigma[normal]
    first, last = start // MICRO_BATCH, -(-stop // MICRO_BATCH)
    data = np.empty(((last - first) * MICRO_BATCH, model.n_data))
    for micro_batch in range(first, last):
        rng = stream(seed, ensemble.name, micro_batch)
        rows = data[(micro_batch - first) * MICRO_BATCH :][:MICRO_BATCH]
        rows[:, counts] = rng.poisson(rates, (MICRO_BATCH, len(rates)))
        rows[:, gauss] = rng.normal(means, widths, (MICRO_BATCH, len(means)))
    return data[start - first * MICRO_BATCH : stop - first * MICRO_BATCH]


def evaluate_range(
    model: CompiledModel,
    ensemble: Ensemble,
    poi: float,
    kind: TestStatistic,
    seed: int,
    starts: int,
    start: int,
    stop: int,
) -> ToyResults:
    """Throw and fit the toys ``start`` to ``stop`` of an ensemble, in this thread.

    Parameters
    ----------
    model : CompiledModel
        The model.
    ensemble : Ensemble
        The hypothesis.
    poi : float
        Value of the parameter of interest that is tested.
    kind : {"q0", "q", "qtilde", "t"}
        Test statistic.
    seed, starts : int
        As in `ToySettings`.
    start, stop : int
        Half-open range of toys.

    Returns
    -------
    ToyResults
        Of ``stop - start`` toys; each is the same whatever the range it is evaluated in.
    """
    data = throw(model, ensemble, seed=seed, start=start, stop=stop)
    pairs = fit_pair(model, data, poi, starts=starts, init=ensemble.pars, threads=1)
    return ToyResults(test_statistic(kind, pairs), pairs.poi_hat, worse_status(pairs))


def evaluate(
    model: CompiledModel,
    ensembles: Sequence[Ensemble],
    poi: float,
    kind: TestStatistic,
    settings: ToySettings,
) -> list[ToyResults]:
    """Throw and fit the toys of some ensembles, side by side in threads.

    Parameters
    ----------
    model : CompiledModel
        The model.
    ensembles : sequence of Ensemble
        The hypotheses.
    poi : float
        Value of the parameter of interest that is tested.
    kind : {"q0", "q", "qtilde", "t"}
        Test statistic.
    settings : ToySettings
        How many toys, from which seed, and how.

    Returns
    -------
    list of ToyResults
        One for each ensemble; the same whatever the number of threads.
    """
    toys, starts = settings.toys, settings.starts
    threads = settings.threads or available_processors()
    fair = -(-toys * len(ensembles) // (2 * threads * MICRO_BATCH)) * MICRO_BATCH
    size = min(rows_at_once(model), max(fair, MICRO_BATCH))
    results = [
        ToyResults(np.empty(toys), np.empty(toys), np.empty(toys, np.int8)) for _ in ensembles
    ]
    chunks = [
        (ensemble, result, slice(at, min(at + size, toys)))
        for ensemble, result in zip(ensembles, results, strict=True)
        for at in range(0, toys, size)
    ]

    def work(chunk: tuple[Ensemble, ToyResults, slice]) -> int:
        ensemble, result, rows = chunk
        piece = evaluate_range(
            model, ensemble, poi, kind, settings.seed, starts, rows.start, rows.stop
        )
        result.q[rows], result.poi_hat[rows] = piece.q, piece.poi_hat
        result.status[rows] = piece.status
        return len(piece.q)

    pool = ThreadPoolExecutor(threads)
    try:
        for done in pool.map(work, chunks):
            if settings.progress is not None:
                settings.progress.advance(done)
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def worse_status(pairs: FitPairs) -> NDArray[np.int8]:
    """Give the status of the worse of the two fits.

    Parameters
    ----------
    pairs : FitPairs
        Both fits.

    Returns
    -------
    (n_toys,) int8 array
        The fixed fit's status where that failed, the free fit's otherwise.
    """
    return np.where(converged(pairs.status_fixed), pairs.status_free, pairs.status_fixed)
