"""Fits on a GPU: the functions of `kernels` for CuPy arrays, and toys thrown where they are fitted.

`fit_pairs` throws each toy and fits it twice within one launch; of each toy only what its test
statistic needs comes back, in one transfer for a batch.  What is a GPU's own business, `device`
knows.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.likelihood import kernels, throw
from hepdask_ml.likelihood.device import Budget, device_name, held, opened, prepared, unusable
from hepdask_ml.likelihood.kernels import Lowered, Minima

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from hepdask_ml.likelihood.device import Launch
    from hepdask_ml.likelihood.throw import Throwing

    Floats = NDArray[np.float64]

__all__ = [
    "Pairs",
    "Spent",
    "Thrown",
    "device_name",
    "fit_pairs",
    "minimise",
    "other_starts",
    "unusable",
]

LARGEST_BATCH = 1 << 20
"""Toys of one launch at most."""

_RESULT_BYTES = 26
"""Three numbers and two statuses of each toy."""


@dataclass(frozen=True, slots=True, eq=False)
class Thrown:
    """Toys that are thrown on the device.

    Attributes
    ----------
    throwing : Throwing
        What they fluctuate about, and the key of their random numbers.
    toys : range
        Their numbers, one after the other.
    """

    throwing: Throwing
    toys: range


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """What comes back of each toy.

    Attributes
    ----------
    poi_hat : (n_toys,) float array
        Best-fit parameter of interest.
    nll_fixed, nll_free : (n_toys,) float array
        -ln L at both minima without the terms that depend on the data alone.
    status_fixed, status_free : (n_toys,) int8 array
        `hepdask_ml.likelihood.fit.FitStatus` of both fits.
    """

    poi_hat: Floats
    nll_fixed: Floats
    nll_free: Floats
    status_fixed: NDArray[np.int8]
    status_free: NDArray[np.int8]


@dataclass(slots=True)
class Spent:
    """Adds up where the time of `fit_pairs` went.

    Attributes
    ----------
    device_s : float
        Throws and fits, by the device's clock.
    total_s : float
        All of it, transfers and compiling included.
    batches : int
        Launches.
    """

    device_s: float = 0.0
    total_s: float = 0.0
    batches: int = 0


class _Pairs(ctypes.Structure):
    _fields_ = [
        ("n_toys", ctypes.c_int64),
        ("first", ctypes.c_int64),
        ("data", ctypes.c_void_p),
        ("thrown", throw.Record),
        ("start", ctypes.c_void_p),
        ("poi", ctypes.c_double),
        ("n_starts", ctypes.c_int64),
        ("n_shifts", ctypes.c_int64),
        ("shifts", ctypes.c_void_p),
        ("threshold", ctypes.c_double),
        ("reach", ctypes.c_double),
        ("poi_hat", ctypes.c_void_p),
        ("nll_fixed", ctypes.c_void_p),
        ("nll_free", ctypes.c_void_p),
        ("status_fixed", ctypes.c_void_p),
        ("status_free", ctypes.c_void_p),
    ]


def minimise(lowered: Lowered, data: Any, row: Any, start: Any, poi: Any) -> Minima:
    """Run a batch of bounded fits.

    Parameters
    ----------
    lowered, data, row, start, poi
        As in `kernels.minimise`, in CuPy arrays on the current device.

    Returns
    -------
    Minima
        Of CuPy arrays, one row for each fit.

    Raises
    ------
    GpuError
        If there is no GPU, or it fails, or it has no room for one fit.
    """
    with opened("fitting") as cupy:
        n_fits = len(row)
        out = Minima(
            pars=cupy.empty((n_fits, len(lowered.kept))),
            profiled=cupy.empty((n_fits, len(lowered.profiled))),
            nll=cupy.empty(n_fits),
            status=cupy.empty(n_fits, np.int8),
        )
        arrays = _contiguous(cupy, data, row, start, poi)
        arrays += [out.pars, out.profiled, out.nll, out.status]
        record = kernels.Batch(n_fits, *(array.data.ptr for array in arrays))
        launch = prepared(cupy, lowered, "hepdask_minimise")
        Budget(cupy).spend(lambda size: launch.run(n_fits, record, size))
        return out


def other_starts(
    lowered: Lowered, data: Any, row: Any, pars: Any, poi: Any, n_starts: int
) -> tuple[Any, Any]:
    """Points in other basins than the given minima, most promising first.

    Parameters
    ----------
    lowered, data, row, pars, poi, n_starts
        As in `kernels.other_starts`, in CuPy arrays on the current device.

    Returns
    -------
    index, start
        As there, in CuPy arrays.

    Raises
    ------
    GpuError
        As in `minimise`.
    """
    with opened("looking for other minima") as cupy:
        n_rows, n_kept = pars.shape
        starts = cupy.empty((n_rows, n_starts, n_kept))
        found = cupy.zeros(n_rows, np.int32)
        arrays = [*_contiguous(cupy, data, row, pars, poi), starts, found]
        limits = (kernels.THRESHOLD, kernels.REACH)
        record = kernels.Search(n_rows, n_starts, *limits, *(array.data.ptr for array in arrays))
        launch = prepared(cupy, lowered, "hepdask_search", n_starts)
        Budget(cupy).spend(lambda size: launch.run(n_rows, record, size))
        index, place = cupy.nonzero(cupy.arange(n_starts) < found[:, None])
        return index, starts[index, place]


def _contiguous(cupy: Any, data: Any, row: Any, pars: Any, poi: Any) -> list[Any]:
    return [
        cupy.ascontiguousarray(data, np.float64),
        cupy.ascontiguousarray(row, np.int64),
        cupy.ascontiguousarray(pars, np.float64),
        cupy.ascontiguousarray(poi, np.float64),
    ]


def fit_pairs(
    lowered: Lowered,
    data: Thrown | Floats,
    poi: float,
    start: Floats,
    *,
    starts: int,
    shifts: Floats | None = None,
    spent: Spent | None = None,
) -> Pairs:
    """Fit toys twice, with the parameter of interest at ``poi`` and free, thrown on the device.

    Parameters
    ----------
    lowered : Lowered
        The model.
    data : Thrown or (n_toys, n_data) float array
        Which toys to throw, or data sets.
    poi : float
        Value of the parameter of interest in the fixed fits.
    start : (n_kept,) float array
        Where the first fixed fit of each toy starts.
    starts : int
        Fits of one toy at most in each round of the search for the lowest minimum, as in
        `hepdask_ml.likelihood.fit.fit_pair`.
    shifts : (n_shifts, n_kept) float array, optional
        Those of the ``starts`` that are random: steps from the first minimum.
    spent : Spent, optional
        Is told where the time went.

    Returns
    -------
    Pairs
        One row for each toy, which is the same whatever toys it is fitted beside.

    Raises
    ------
    GpuError
        As in `minimise`.
    """
    began = perf_counter()
    steps = np.empty((0, len(start))) if shifts is None else np.asarray(shifts, np.float64)
    tables = [np.asarray(start, np.float64), steps]
    if isinstance(data, Thrown):
        tables += [getattr(data.throwing, name) for name in throw.ARRAYS]
    with opened("fitting toys") as cupy:
        given = held(cupy, tables)
        task = _Pairs(
            start=given.addresses[0],
            poi=poi,
            n_starts=starts - len(steps),
            n_shifts=len(steps),
            shifts=given.addresses[1],
            threshold=kernels.THRESHOLD,
            reach=kernels.REACH,
        )
        if isinstance(data, Thrown):
            about = data.throwing
            lengths = (len(about.rate), len(about.mean))
            task.thrown = throw.Record(about.key, *lengths, *given.addresses[2:])
        launch = prepared(cupy, lowered, "hepdask_pairs", task.n_starts, task.n_shifts)
        batches = list(_batches(launch, task, data))
    if spent is not None:
        spent.device_s += launch.device_s
        spent.total_s += perf_counter() - began
        spent.batches += len(batches)
    return _joined(batches)


def _batches(launch: Launch, task: _Pairs, data: Thrown | Floats) -> Iterator[NDArray[np.uint8]]:
    """Fits as many toys at a time as there is room for; gives the bytes of each batch's results."""
    cupy, budget, done = launch.cupy, Budget(launch.cupy), 0
    toys = data.toys if isinstance(data, Thrown) else range(len(data))
    row_bytes = _RESULT_BYTES + (0 if isinstance(data, Thrown) else data[:1].nbytes)

    def fit(size: int) -> NDArray[np.uint8]:
        rows = max(1, min(LARGEST_BATCH, len(toys) - done, size // 2 // row_bytes))
        results = cupy.empty(_RESULT_BYTES * rows, np.uint8)
        at = results.data.ptr
        task.n_toys, task.first = rows, toys.start + done
        task.poi_hat, task.nll_fixed, task.nll_free = at, at + 8 * rows, at + 16 * rows
        task.status_fixed, task.status_free = at + 24 * rows, at + 25 * rows
        if not isinstance(data, Thrown):
            given = cupy.asarray(np.ascontiguousarray(data[done : done + rows], np.float64))
            task.data = given.data.ptr
        launch.run(rows, task, size // 2)
        fetched: NDArray[np.uint8] = results.get()
        return fetched

    while done < len(toys):
        batch = budget.spend(fit)
        done += len(batch) // _RESULT_BYTES
        yield batch


def _joined(batches: Sequence[NDArray[np.uint8]]) -> Pairs:
    """Take the results of all batches apart."""
    floats, codes = [np.empty((3, 0))], [np.empty((2, 0), np.int8)]
    for batch in batches:
        border = 24 * (len(batch) // _RESULT_BYTES)
        floats.append(batch[:border].view(np.float64).reshape(3, -1))
        codes.append(batch[border:].view(np.int8).reshape(2, -1))
    return Pairs(*np.concatenate(floats, axis=1), *np.concatenate(codes, axis=1))
