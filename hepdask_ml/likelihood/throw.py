"""Toys' data: counts and normal numbers, each drawn at an address of its own.

Datum ``i`` of toy ``t`` comes from the random words that the generator Philox4x32-10 gives for the
key of a `Throwing` and the counter ``(t, i, attempt)``, and from nothing else.  So a toy is the
same whoever throws it, and beside which others.  Counts about less than ten are drawn by inversion,
others by transformed rejection, normal numbers by their quantile.  All arithmetic is in
``native/throw.h``: one text for CPUs and GPUs, which rounds alike on both.

References
----------
J. K. Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC11 (2011).
W. Hörmann, The transformed rejection method for generating Poisson random variables,
Insurance: Mathematics and Economics 12 (1993) 39.
M. J. Wichura, Algorithm AS 241, Applied Statistics 37 (1988) 477.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.likelihood.kernels import library

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

ARRAYS = ("count_index", "rate", "normal_index", "mean", "width")
"""Arrays of a `Throwing`, in the order of the pointers in its record."""


@dataclass(frozen=True, slots=True, eq=False)
class Throwing:
    """What toys fluctuate about, and the key of their random numbers.

    All arrays are C-contiguous, so that they can be handed to the engine or copied to a device as
    they are.  Datum ``i`` of a toy is count ``i``, or normal number ``i - n_counts``.

    Attributes
    ----------
    key : int
        64 bits, of `hepdask_ml.seeds.key`.
    count_index : (n_counts,) int64 array
        Positions of the Poisson data in a row.
    rate : (n_counts,) float64 array
        Their expectations, from 0 to 1e15.
    normal_index : (n_normals,) int64 array
        Positions of the normal data in a row.
    mean, width : (n_normals,) float64 array
        Their means and standard deviations.
    """

    key: int
    count_index: Ints
    rate: Floats
    normal_index: Ints
    mean: Floats
    width: Floats

    def __post_init__(self) -> None:
        for name in ARRAYS:
            kind = np.int64 if name.endswith("index") else np.float64
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), kind))


class Record(ctypes.Structure):
    """``Throw`` of ``native/throw.h``: key, lengths, and pointers to host or device memory."""

    _fields_ = [
        ("key", ctypes.c_uint64),
        ("n_counts", ctypes.c_int64),
        ("n_normals", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ARRAYS),
    ]


def throw(throwing: Throwing, first: int, n_toys: int, n_data: int) -> Floats:
    """Throw some toys, in this thread.

    Parameters
    ----------
    throwing : Throwing
        What they fluctuate about.
    first : int
        The first toy, from 0.
    n_toys : int
        How many.
    n_data : int
        Length of a data row.

    Returns
    -------
    (n_toys, n_data) float array
        Toys ``first`` to ``first + n_toys``; each is the same in any other range.  Positions that
        are in neither index are zero.
    """
    data = np.zeros((n_toys, n_data))
    pointers = [getattr(throwing, name).ctypes.data for name in ARRAYS]
    record = Record(throwing.key, len(throwing.rate), len(throwing.mean), *pointers)
    _entry()(ctypes.byref(record), first, n_toys, n_data, data.ctypes.data)
    return data


@cache
def _entry() -> Any:
    entry = library().hepdask_throw
    entry.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    entry.restype = None
    return entry
