"""Bounded maximum-likelihood fits of a whole batch of data sets at once.

Two words: a *fit* minimises -2 ln L of one data set, with the parameter of interest free or
fixed; a *pair* is the fixed and the free fit of the same data set, which is all that a test
statistic needs.  A batch never raises for one of its rows: each row carries a `FitStatus`, whose
``sentence`` says what happened.

Real likelihoods have several minima, because many systematic uncertainties are one-sided.  From
each minimum found the engine looks along every such parameter for another basin (`kernels`), fits
from there, and keeps the lowest minimum.  ``starts`` bounds the fits of one round of this search;
those beyond the default begin at random points around the first minimum, for likelihoods in which
many parameters have to move together.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from math import lgamma
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from hepdask_ml.errors import InputError, late
from hepdask_ml.likelihood.kernels import Lowered, Minima, lower, minimise, other_starts

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from hepdask_ml.likelihood.model import CompiledModel

    Floats = NDArray[np.float64]

DEFAULT_STARTS = 8
"""Fits of one data set in one round of the search; few data sets need more than one."""

NORMAL = 1
UNCONSTRAINED_SPREAD = 0.5
"""Standard deviation of the random starts of parameters without a Gaussian constraint."""

DISTINCT = 1e-4
RUNNER_UP = 1.0
"""-ln L above the best that a minimum of the fixed fit may lie to be tried in the free one."""

MAX_ROUNDS = 4
CHUNK = 512
SMALL_CHUNK = 1 << 15
"""Rows of a model with one parameter in a chunk; fewer with more parameters, at least `CHUNK`."""

SAME_MINIMUM = 1e-7
"""Minima whose -ln L differ by less are taken for the same."""

_TABLE_LIMIT = 1 << 17
Part = TypeVar("Part")


class FitStatus(IntEnum):
    """How the fit of one data set ended; ``sentence`` tells it in words."""

    CONVERGED = 0
    MAX_ITERATIONS = 1
    STALLED = 2
    RATE_FLOOR = 3
    NOT_FINITE = 4

    @property
    def converged(self) -> bool:
        """Whether the projected gradient vanished."""
        return self in CONVERGED

    @property
    def sentence(self) -> str:
        """What the status means, for the reader of a result."""
        return _SENTENCES[self]


_SENTENCES = {
    FitStatus.CONVERGED: "the projected gradient vanishes within the tolerance",
    FitStatus.MAX_ITERATIONS: "the iterations ran out before the projected gradient vanished",
    FitStatus.STALLED: "no step lowers -2 ln L further though the projected gradient is not zero",
    FitStatus.RATE_FLOOR: "converged where an expected rate is negative and was counted as zero",
    FitStatus.NOT_FINITE: "-2 ln L is not finite at any starting point",
}

CONVERGED = frozenset({FitStatus.CONVERGED, FitStatus.RATE_FLOOR})


def converged(status: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Tell for each status of an array whether that fit converged."""
    return np.isin(status, sorted(CONVERGED))


@dataclass(frozen=True, slots=True, eq=False)
class Fits:
    """Fitted parameters of a batch of data sets, one row each.

    Attributes
    ----------
    pars : (n_toys, n_pars) float array
        Parameters at the minimum, in pyhf's order.
    twice_nll : (n_toys,) float array
        -2 ln L there, constants included (pyhf's convention).
    status : (n_toys,) int8 array
        A `FitStatus` for each row.
    """

    pars: Floats
    twice_nll: Floats
    status: NDArray[np.int8]

    @property
    def converged(self) -> NDArray[np.bool_]:
        """(n_toys,) bool array: rows whose projected gradient vanishes."""
        return converged(self.status)

    def __len__(self) -> int:
        """Give the number of data sets fitted."""
        return len(self.status)

    def _repr_html_(self) -> str:
        return str(late("ui.show").fits_html(self))


@dataclass(frozen=True, slots=True, eq=False)
class FitPairs:
    """The fixed-POI and the free fit of each data set of a batch.

    Attributes
    ----------
    poi_test : float
        Value of the parameter of interest in the fixed fits.
    poi_hat : (n_toys,) float array
        Its best-fit value in the free fits.
    twice_nll_fixed, twice_nll_free : (n_toys,) float array
        -2 ln L at both minima; the free one never lies above the fixed one.
    status_fixed, status_free : (n_toys,) int8 array
        A `FitStatus` for each row.
    """

    poi_test: float
    poi_hat: Floats
    twice_nll_fixed: Floats
    twice_nll_free: Floats
    status_fixed: NDArray[np.int8]
    status_free: NDArray[np.int8]


def fit(
    model: CompiledModel,
    data: Floats,
    *,
    poi: float | None = None,
    starts: int = DEFAULT_STARTS,
    init: Floats | None = None,
    threads: int | None = None,
) -> Fits:
    """Fit every row of ``data``, with the parameter of interest free or fixed.

    Parameters
    ----------
    model : CompiledModel
        The model.
    data : (n_toys, n_data) or (n_data,) float array
        Main then auxiliary data of each data set, in pyhf's order.
    poi : float, optional
        Value at which the parameter of interest is held; free if not given.
    starts : int
        Fits of one data set at most in each round of the search for the lowest minimum; 1 keeps
        the first minimum found, more than `DEFAULT_STARTS` adds random starting points.
    init : (n_pars,) float array, optional
        Where the first fit starts; the model's initial values if not given.
    threads : int, optional
        Threads to use; all processors of this process if not given.

    Returns
    -------
    Fits
        One row for each data set.

    Raises
    ------
    InputError
        If the data have another shape, are not finite or are negative in a bin, or if ``poi`` is
        not finite or the model has none.
    """
    data = checked_data(model, data)
    held = _checked_poi(model, poi)
    starts = _checked_starts(starts)
    lowered = lower(model)
    start = _checked_init(model, init)[lowered.kept]

    def fit_rows(rows: slice) -> Fits:
        part = data[rows]
        found = _lowest(_Problem(lowered, part, held, starts), _repeated(start, len(part))).minima
        pars = np.empty((len(part), model.n_pars))
        pars[:, lowered.kept] = found.pars
        pars[:, lowered.profiled] = found.profiled
        return Fits(pars, 2.0 * found.nll + data_terms(model, part), found.status)

    parts = _over_rows(fit_rows, len(data), rows_at_once(model), threads)
    return Fits(
        pars=np.concatenate([part.pars for part in parts]),
        twice_nll=np.concatenate([part.twice_nll for part in parts]),
        status=np.concatenate([part.status for part in parts]),
    )


def fit_pair(
    model: CompiledModel,
    data: Floats,
    poi: float,
    *,
    starts: int = DEFAULT_STARTS,
    init: Floats | None = None,
    threads: int | None = 1,
) -> FitPairs:
    """Fit every row of ``data`` twice: with the parameter of interest at ``poi``, and free.

    The free fit starts from the fixed one, and each takes over the basins that the other finds, so
    that the free minimum never lies above the fixed one.

    Parameters
    ----------
    model, data, starts, init, threads
        As in `fit`.
    poi : float
        Value of the parameter of interest in the fixed fits.

    Returns
    -------
    FitPairs
        One row for each data set.

    Raises
    ------
    InputError
        As in `fit`.
    """
    data = checked_data(model, data)
    held = _checked_poi(model, poi)
    starts = _checked_starts(starts)
    lowered = lower(model)
    start = _checked_init(model, init)[lowered.kept]
    poi_place = int(np.searchsorted(lowered.kept, model.poi_index))

    def fit_rows(rows: slice) -> FitPairs:
        part = data[rows]
        at_poi = _Problem(lowered, part, held, starts)
        anywhere = _Problem(lowered, part, np.nan, starts)
        at = _lowest(at_poi, _repeated(start, len(part)))
        found = _lowest(anywhere, at.minima.pars, at.runners_up)
        fixed, free = at.minima, found.minima
        improved = _refit(at_poi, fixed, np.flatnonzero(found.moved), free.pars)
        _refit(anywhere, free, improved, fixed.pars)
        terms = data_terms(model, part)
        return FitPairs(
            poi_test=float(poi),
            poi_hat=free.pars[:, poi_place].copy(),
            twice_nll_fixed=2.0 * fixed.nll + terms,
            twice_nll_free=2.0 * free.nll + terms,
            status_fixed=fixed.status,
            status_free=free.status,
        )

    parts = _over_rows(fit_rows, len(data), rows_at_once(model), threads)
    return FitPairs(
        poi_test=float(poi),
        poi_hat=np.concatenate([part.poi_hat for part in parts]),
        twice_nll_fixed=np.concatenate([part.twice_nll_fixed for part in parts]),
        twice_nll_free=np.concatenate([part.twice_nll_free for part in parts]),
        status_fixed=np.concatenate([part.status_fixed for part in parts]),
        status_free=np.concatenate([part.status_free for part in parts]),
    )


@dataclass(frozen=True, slots=True)
class _Problem:
    """One kind of fit to a chunk of data sets: the POI at ``poi``, or free where that is nan."""

    lowered: Lowered
    data: Floats
    poi: float
    starts: int

    def minima(self, rows: NDArray[np.int64], start: Floats) -> Minima:
        return minimise(self.lowered, self.data, rows, start, np.full(len(rows), self.poi))

    def beside(self, rows: NDArray[np.int64], pars: Floats) -> _Starts:
        """Points in other basins than the minima ``pars``."""
        poi = np.full(len(rows), self.poi)
        most = min(self.starts, DEFAULT_STARTS) - 1
        index, points = other_starts(self.lowered, self.data, rows, pars, poi, most)
        return _Starts(rows[index], points)

    def around(self, rows: NDArray[np.int64], pars: Floats) -> _Starts:
        """Points anywhere around the minima ``pars``, for starts beyond the default."""
        shifts = random_shifts(self.lowered, self.starts)
        points = pars[None, :, :] + shifts[:, None, :]
        return _Starts(np.tile(rows, len(shifts)), points.reshape(-1, pars.shape[1]))


def random_shifts(lowered: Lowered, starts: int) -> Floats:
    """Give the steps from a first minimum to the random starts, the same for every data set.

    Parameters
    ----------
    lowered : Lowered
        The model.
    starts : int
        Fits of one data set at most in each round of the search.

    Returns
    -------
    (max(starts - DEFAULT_STARTS, 0), n_kept) float array
        Normally distributed, with the width of each parameter's constraint.
    """
    arrays = lowered.arrays
    scale = np.where(arrays["par_kind"] == NORMAL, arrays["par_width"], UNCONSTRAINED_SPREAD)
    return _normals(max(starts - DEFAULT_STARTS, 0), len(scale)) * scale


@cache
def _normals(n_starts: int, n_pars: int) -> Floats:
    return np.random.default_rng(0).normal(size=(n_starts, n_pars))


@dataclass(frozen=True, slots=True)
class _Starts:
    """Where to fit from: ``pars[i]`` is a point for data set ``rows[i]``."""

    rows: NDArray[np.int64]
    pars: Floats

    def __add__(self, other: _Starts) -> _Starts:
        return _Starts(
            np.concatenate([self.rows, other.rows]), np.concatenate([self.pars, other.pars])
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """The lowest minima of a chunk, which rows left their first basin, and minima hardly higher."""

    minima: Minima
    moved: NDArray[np.bool_]
    runners_up: _Starts


def _lowest(problem: _Problem, start: Floats, also: _Starts | None = None) -> _Found:
    """Fit from ``start``, then from ``also`` and promising basins beside, until none is lower."""
    rows = np.arange(len(problem.data))
    best = problem.minima(rows, start)
    moved = np.zeros(len(rows), bool)
    tried, found = [rows], [best.copy()]
    for _ in range(MAX_ROUNDS if problem.starts > 1 else 0):
        beside = problem.beside(rows, best.pars[rows])
        if len(tried) == 1:
            beside += problem.around(rows, best.pars)
            beside += _Starts(rows[:0], best.pars[:0]) if also is None else also
        if not len(beside.rows):
            break
        tried.append(beside.rows)
        found.append(problem.minima(beside.rows, beside.pars))
        rows = _take_lower(best, tried[-1], found[-1])
        moved[rows] = True
        if not len(rows):
            break
    return _Found(best, moved, _runners_up(best, np.concatenate(tried), found))


def _runners_up(best: Minima, rows: NDArray[np.int64], found: list[Minima]) -> _Starts:
    """Minima other than the best of their row and not much higher, each once."""
    nll = np.concatenate([minima.nll for minima in found])
    finite = np.flatnonzero(np.isfinite(nll))
    gap = nll[finite] - best.nll[rows[finite]]
    near = finite[(gap > DISTINCT) & (gap < RUNNER_UP)]
    key = np.column_stack([rows[near], np.round(nll[near] / DISTINCT)])
    near = near[np.unique(key, axis=0, return_index=True)[1]]
    pars = np.concatenate([minima.pars for minima in found])
    return _Starts(rows[near], pars[near])


def _refit(
    problem: _Problem, best: Minima, rows: NDArray[np.int64], start: Floats
) -> NDArray[np.int64]:
    """Fit ``rows`` from other points as well; gives the rows that became lower."""
    if not len(rows):
        return rows
    return _take_lower(best, rows, problem.minima(rows, start[rows]))


def _take_lower(best: Minima, rows: NDArray[np.int64], found: Minima) -> NDArray[np.int64]:
    """Put each lower minimum in place of the one of its row; gives the rows that changed."""
    order = np.lexsort((found.nll, rows))
    first = order[np.unique(rows[order], return_index=True)[1]]
    higher = found.nll[first] > best.nll[rows[first]] - SAME_MINIMUM
    lower_now = first[np.isfinite(found.nll[first]) & ~higher]
    changed = rows[lower_now]
    best.pars[changed] = found.pars[lower_now]
    best.profiled[changed] = found.profiled[lower_now]
    best.nll[changed] = found.nll[lower_now]
    best.status[changed] = found.status[lower_now]
    return changed


def data_terms(model: CompiledModel, data: Floats) -> Floats:
    """Terms of -2 ln L that depend on the data alone.

    Parameters
    ----------
    model : CompiledModel
        The model.
    data : (n_toys, n_data) float array
        Data sets.

    Returns
    -------
    (n_toys,) float array
        2 ln n! of every Poisson count, and ln(2 pi sigma^2) of every Gaussian constraint.
    """
    normal = model.constraint == 1
    widths = float(np.log(2.0 * np.pi * model.sigma[normal] ** 2).sum())
    # Contiguous rows: numpy then sums each in the same order, whatever its neighbours.
    counts = np.ascontiguousarray(data[:, model.count_index])
    return np.asarray(2.0 * _log_factorial(counts).sum(axis=1) + widths)


def _log_factorial(counts: Floats) -> Floats:
    """Give ln n!, by table where all counts are integers below the limit, as those of toys are."""
    whole = counts.astype(np.int64)
    if not counts.size or (whole.max() < _TABLE_LIMIT and (whole == counts).all()):
        size = 1 << int(whole.max(initial=1)).bit_length()
        return _log_factorial_table(size)[whole]
    values, place = np.unique(counts, return_inverse=True)
    exact = np.array([lgamma(value + 1.0) for value in values.tolist()])
    return exact[place].reshape(counts.shape)


@cache
def _log_factorial_table(size: int) -> Floats:
    return np.array([lgamma(n + 1.0) for n in range(size)])


def _repeated(start: Floats, n_rows: int) -> Floats:
    return np.broadcast_to(start, (n_rows, len(start)))


def rows_at_once(model: CompiledModel) -> int:
    """Count the rows of a chunk: many for small models, where Python's part would show.

    Parameters
    ----------
    model : CompiledModel
        The model.

    Returns
    -------
    int
        A multiple of `CHUNK`.
    """
    return CHUNK * max(1, SMALL_CHUNK // (CHUNK * model.n_pars))


def _over_rows(
    work: Callable[[slice], Part], n_rows: int, size: int, threads: int | None
) -> list[Part]:
    """Work on chunks of rows, side by side in threads; the answer does not depend on how many."""
    n_threads = threads or available_processors()
    size = min(size, CHUNK * max(1, -(-n_rows // (CHUNK * n_threads))))
    chunks = [slice(at, min(at + size, n_rows)) for at in range(0, n_rows, size)] or [slice(0, 0)]
    n_threads = min(n_threads, len(chunks))
    if n_threads <= 1:
        return [work(chunk) for chunk in chunks]
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(work, chunks))


def available_processors() -> int:
    """Count the processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def checked_data(model: CompiledModel, data: Floats) -> Floats:
    """Check data sets against a model.

    Parameters
    ----------
    model : CompiledModel
        The model.
    data : (n_toys, n_data) or (n_data,) float array
        Data sets.

    Returns
    -------
    (n_toys, n_data) float array
        The same.

    Raises
    ------
    InputError
        If they have another shape, are not finite, or a count is negative.
    """
    try:
        data = np.atleast_2d(np.asarray(data, np.float64))
    except (TypeError, ValueError):
        raise InputError("the data are not numbers: give one row of numbers per data set") from None
    if data.ndim != 2 or data.shape[1] != model.n_data:
        raise InputError(
            f"data of shape {data.shape} do not match the model: give {model.n_data} numbers for "
            f"each data set, {model.n_main} bins then {model.n_data - model.n_main} auxiliary data"
        )
    if not np.isfinite(data).all():
        toy, place = np.argwhere(~np.isfinite(data))[0]
        raise InputError(
            f"data set {toy} has {data[toy, place]} at position {place}: all data must be finite"
        )
    counts = model.count_index
    if (data[:, counts] < 0).any():
        toy, place = np.argwhere(data[:, counts] < 0)[0]
        raise InputError(
            f"data set {toy} has the negative count {data[toy, counts[place]]} at position "
            f"{counts[place]}: counts must be zero or more"
        )
    return data


def _checked_poi(model: CompiledModel, poi: float | None) -> float:
    if poi is None:
        return float("nan")
    if model.poi_index < 0:
        raise InputError("the model has no parameter of interest to fix: name one with poi=")
    if not np.isfinite(poi):
        raise InputError(f"the parameter of interest cannot be fixed at {poi}: give a finite value")
    return float(poi)


def _checked_init(model: CompiledModel, init: Floats | None) -> Floats:
    start = model.init if init is None else np.asarray(init, np.float64)
    if start.shape != (model.n_pars,) or not np.isfinite(start).all():
        raise InputError(
            f"the starting point has shape {start.shape} or is not finite: give one finite value "
            f"for each of the {model.n_pars} parameters"
        )
    return start


def _checked_starts(starts: int) -> int:
    if starts < 1:
        raise InputError(f"starts is {starts}: each data set needs at least one fit")
    return starts
