"""Pseudo-experiments, *toys*: thrown, fitted twice, and reduced to a test statistic.

Main data fluctuate about their expectation and so do auxiliary data, as in the procedure of the
LHC experiments and in pyhf's toy calculator.  A toy belongs to an *ensemble*, which names the
hypothesis that it is thrown from and the value of the parameter of interest that is tested.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from numbers import Integral
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hepdask_ml.errors import InputError
from hepdask_ml.inference.engines import checked_engine, chosen
from hepdask_ml.inference.statistics import test_statistic
from hepdask_ml.likelihood import kernels_gpu
from hepdask_ml.likelihood.fit import (
    DEFAULT_STARTS,
    FitPairs,
    available_processors,
    converged,
    fit_pair,
    random_shifts,
    rows_at_once,
)
from hepdask_ml.likelihood.kernels import lower
from hepdask_ml.likelihood.rates import expected_data
from hepdask_ml.likelihood.throw import Throwing
from hepdask_ml.likelihood.throw import throw as throw_data
from hepdask_ml.seeds import key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from hepdask_ml.inference.engines import Choice, Engine, Used
    from hepdask_ml.inference.statistics import TestStatistic
    from hepdask_ml.likelihood.model import CompiledModel

    Floats = NDArray[np.float64]
    _Chunk = tuple[int, slice]  # which ensemble, and which of its toys

LARGEST_RATE = 1e15
"""Counts above are not drawn exactly any more: doubles end to hold every integer soon after."""

LEAST_CHUNK = 64
"""Toys that one thread takes at least: what surrounds the fits costs as much as some of them."""

FIRST_ON_GPU, MOST_ON_GPU = 4096, 1 << 22
"""Toys of the first range of a GPU, which cost it hardly more than one, and of the largest."""

LOOK_S = 0.5
"""Time of a range on a GPU above which ranges grow no more."""


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
        The unit, whose random numbers they get.
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
        Threads to use on the CPU; all processors of this process if None.
    progress : Progress or None
        Is told of every chunk that is done.
    engine : {"auto", "cpu", "gpu"}
        What is to throw and fit them; see `choose`.
    """

    toys: int
    seed: int = 1
    starts: int = DEFAULT_STARTS
    threads: int | None = None
    progress: Progress | None = None
    engine: Engine = "auto"

    def __post_init__(self) -> None:
        _check_count("toys", self.toys)
        _check_count("starts", self.starts)
        if self.threads is not None:
            _check_count("threads", self.threads)
        _check_integer("seed", self.seed)
        checked_engine(self.engine)


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
        The unit, whose random numbers the toys get.
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


def throwing(model: CompiledModel, ensemble: Ensemble, seed: int) -> Throwing:
    """Give what the toys of an ensemble fluctuate about.

    Parameters
    ----------
    model : CompiledModel
        The model.
    ensemble : Ensemble
        The hypothesis.
    seed : int
        The user's seed.

    Returns
    -------
    Throwing
        Of all main and auxiliary data.
    """
    counts, normal = model.count_index, model.constraint == 1
    gauss, expected = model.aux_index[normal], ensemble.expected
    return Throwing(
        key=key(seed, ensemble.name),
        count_index=counts,
        rate=expected[counts],
        normal_index=gauss,
        mean=expected[gauss],
        width=model.sigma[normal],
    )


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
        Main and auxiliary data; each toy is the same whatever the range it is thrown in.
    """
    return throw_data(throwing(model, ensemble, seed), start, stop - start, model.n_data)


def evaluate_range(  # noqa: PLR0913 - toys have many facts, and each is named once
    model: CompiledModel,
    ensemble: Ensemble,
    poi: float,
    kind: TestStatistic,
    seed: int,
    starts: int,
    start: int,
    stop: int,
    engine: Used = "cpu",
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
    engine : {"cpu", "gpu"}
        What does it.

    Returns
    -------
    ToyResults
        Of ``stop - start`` toys; each is the same whatever the range it is evaluated in.  Both
        engines throw the same toys, and what they make of them differs by less than 1e-6.

    Raises
    ------
    GpuError
        If the GPU fails.
    """
    if engine == "gpu":
        pairs = _pairs_on_gpu(model, ensemble, poi, seed, starts, range(start, stop))
    else:
        data = throw(model, ensemble, seed=seed, start=start, stop=stop)
        pairs = fit_pair(model, data, poi, starts=starts, init=ensemble.pars, threads=1)
    return ToyResults(test_statistic(kind, pairs), pairs.poi_hat, worse_status(pairs))


def _pairs_on_gpu(
    model: CompiledModel, ensemble: Ensemble, poi: float, seed: int, starts: int, toys: range
) -> FitPairs:
    lowered = lower(model)
    found = kernels_gpu.fit_pairs(
        lowered,
        kernels_gpu.Thrown(throwing(model, ensemble, seed), toys),
        poi,
        ensemble.pars[lowered.kept],
        starts=starts,
        shifts=random_shifts(lowered, starts),
    )
    return FitPairs(
        poi_test=poi,
        poi_hat=found.poi_hat,
        # Without the terms of the data alone, which cancel in any test statistic.
        twice_nll_fixed=2.0 * found.nll_fixed,
        twice_nll_free=2.0 * found.nll_free,
        status_fixed=found.status_fixed,
        status_free=found.status_free,
    )


def choose(
    model: CompiledModel,
    ensemble: Ensemble,
    poi: float,
    kind: TestStatistic,
    settings: ToySettings,
    *,
    threads: int | None = None,
    toys: int | None = None,
) -> Choice:
    """Choose the engine for toys of a model; see `hepdask_ml.inference.engines.chosen`.

    Parameters
    ----------
    model : CompiledModel
        The model.
    ensemble : Ensemble
        A hypothesis.
    poi : float
        A value of the parameter of interest that is tested.
    kind : {"q0", "q", "qtilde", "t"}
        Test statistic.
    settings : ToySettings
        What is asked for.
    threads : int, optional
        Threads that would do the work on the CPU; as many as ask at once if not given.
    toys : int, optional
        Toys in all, if that is known.

    Returns
    -------
    Choice
        The engine, and why that.

    Raises
    ------
    GpuError
        If a GPU is asked for and cannot be used.
    """

    def trial(engine: Used, toys: int, threads: int) -> None:
        some = replace(settings, toys=toys, threads=threads, progress=None)
        evaluate(model, [ensemble], poi, kind, some, engine)

    key = f"{model.digest} {settings.starts}"
    return chosen(settings.engine, trial, key, threads=threads, toys=toys)


def evaluate(
    model: CompiledModel,
    ensembles: Sequence[Ensemble],
    poi: float,
    kind: TestStatistic,
    settings: ToySettings,
    engine: Used = "cpu",
) -> list[ToyResults]:
    """Throw and fit the toys of some ensembles: side by side in threads, or on the GPU.

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
        How many toys, from which seed, and how; what engine it asks for does not matter here.
    engine : {"cpu", "gpu"}
        What does it.

    Returns
    -------
    list of ToyResults
        One for each ensemble; the same whatever the number of threads.

    Raises
    ------
    GpuError
        If the GPU fails.
    """
    toys = settings.toys
    results = [
        ToyResults(np.empty(toys), np.empty(toys), np.empty(toys, np.int8)) for _ in ensembles
    ]

    def work(chunk: _Chunk) -> int:
        of, rows = chunk
        piece = evaluate_range(
            model,
            ensembles[of],
            poi,
            kind,
            settings.seed,
            settings.starts,
            rows.start,
            rows.stop,
            engine,
        )
        results[of].q[rows], results[of].poi_hat[rows] = piece.q, piece.poi_hat
        results[of].status[rows] = piece.status
        return len(piece.q)

    def tell(done: int) -> None:
        if settings.progress is not None:
            settings.progress.advance(done)

    if engine == "gpu":
        _work_on_gpu(work, len(ensembles), toys, tell)
    else:
        threads = settings.threads or available_processors()
        fair = -(-toys * len(ensembles) // (2 * threads))
        size = min(rows_at_once(model), max(fair, LEAST_CHUNK))
        _work_in_threads(work, len(ensembles), toys, tell, size=size, threads=threads)
    return results


def _work_in_threads(
    work: Callable[[_Chunk], int],
    n_ensembles: int,
    toys: int,
    tell: Callable[[int], None],
    *,
    size: int,
    threads: int,
) -> None:
    chunks = [
        (of, slice(at, min(at + size, toys)))
        for of in range(n_ensembles)
        for at in range(0, toys, size)
    ]
    pool = ThreadPoolExecutor(threads)
    try:
        for done in pool.map(work, chunks):
            tell(done)
    finally:
        pool.shutdown(cancel_futures=True)


def _work_on_gpu(
    work: Callable[[_Chunk], int], n_ensembles: int, toys: int, tell: Callable[[int], None]
) -> None:
    """Work in ranges that grow until one takes long enough to keep the device busy."""
    size = FIRST_ON_GPU
    for of in range(n_ensembles):
        at = 0
        while at < toys:
            begun = monotonic()
            done = work((of, slice(at, min(at + size, toys))))
            if monotonic() - begun < LOOK_S:
                size = min(2 * size, MOST_ON_GPU)
            at += done
            tell(done)


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
