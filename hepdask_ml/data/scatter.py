"""The native kernel that lays items of events out in planes with a fixed number of slots.

A *plane* is one field of a tensor, ``(event, slot)``.  Events have as many items as they like: what
has no slot is left out, slots without an item hold NaN.  The items may lie as a TTree stores them,
so that they are turned round, converted and padded in one pass over them.

This module is the one door to the compiled library (``native/``).  Calls release the GIL and keep
no state; one of them writes into the rows of its own events only, so that threads may fill one
plane side by side.
"""

from __future__ import annotations

import ctypes
import sys
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.errors import HepdaskError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float32] | NDArray[np.float64]

KINDS = frozenset(
    {("f", 4), ("f", 8), ("b", 1)}
    | {(kind, size) for kind in "iu" for size in (1, 2, 4, 8)}
)  # fmt: skip
"""What items may be: kind and bytes of their dtype."""


class Outcome(IntEnum):
    """What the kernel found: ``Outcome`` of native/scatter.cpp."""

    DONE = 0
    DAMAGED = 1
    OTHER_LENGTHS = 2
    UNKNOWN_KIND = 3


class _Record(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("n_bytes", ctypes.c_int64),
        ("offsets", ctypes.c_void_p),
        ("header", ctypes.c_int64),
        ("n_events", ctypes.c_int64),
        ("n_slots", ctypes.c_int64),
        ("lengths", ctypes.c_void_p),
        ("lengths_known", ctypes.c_int64),
        ("plane", ctypes.c_void_p),
    ]


@cache
def library() -> ctypes.CDLL:
    """Load the compiled kernel.

    Raises
    ------
    HepdaskError
        If the package was not built, as in a bare source tree.
    """
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    path = Path(__file__).parent / "native" / f"libscatter{suffix}"
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise HepdaskError(
            f"the compiled kernel {path.name} cannot be loaded ({error}): install with pip"
        ) from None
    loaded.hepdask_pad.argtypes = [ctypes.c_void_p, *[ctypes.c_int] * 4]
    return loaded


def pad(
    data: NDArray[Any],
    offsets: NDArray[Any] | None,
    dtype: np.dtype[Any],
    plane: Plane,
    lengths: NDArray[np.int32],
    *,
    header: int = 0,
    known: bool = False,
) -> Outcome:
    """Lay items out in the slots of their events.

    Parameters
    ----------
    data : (n_bytes,) uint8 array
        The items, one event after the other.
    offsets : (n_events + 1,) int32 or int64 array
        Where each event begins, and the last one ends, in bytes: int32 for items as a TTree stores
        them, int64 for items in the byte order of this machine.  None for items as a TTree stores
        them, without headers: those of each event lie behind those of the one before, and
        ``lengths`` says how many they are.
    dtype : dtype
        Kind and size of the items (`KINDS`); its byte order does not count.
    plane : (n_events, n_slots) float32 or float64 array, C-contiguous
        Takes the items.
    lengths : (n_events,) int32 array
        Takes the number of items of each event, those without a slot included.
    header : int
        Bytes to leave out at the begin of each event, as before the items of a ``std::vector``.
    known : bool
        Compare with ``lengths``, and leave them as they are.  So it is without offsets.

    Returns
    -------
    Outcome
        The plane was filled if it is ``DONE``, and nothing but lengths written otherwise.
    """
    n_events, n_slots = plane.shape
    in_memory = offsets is not None and offsets.dtype == np.int64
    for array, length in ((offsets, n_events + 1), (lengths, n_events)):
        if array is not None and (len(array) != length or not array.flags.c_contiguous):
            raise ValueError(f"{len(array)} values in one piece for {n_events} events are no match")
    if not (plane.flags.c_contiguous and data.flags.c_contiguous and plane.dtype.kind == "f"):
        raise ValueError("items and plane have to be C-contiguous, and the plane of floats")
    if not in_memory and offsets is not None and offsets.dtype != np.int32:
        raise ValueError(f"offsets are int32 or int64, not {offsets.dtype}")
    if offsets is None and header:
        raise ValueError("events with headers need offsets")
    if not n_events:
        return Outcome.DONE
    record = _Record(
        data.ctypes.data,
        data.nbytes,
        None if offsets is None else offsets.ctypes.data,
        header,
        n_events,
        n_slots,
        lengths.ctypes.data,
        known,
        plane.ctypes.data,
    )
    return Outcome(
        library().hepdask_pad(
            ctypes.addressof(record),
            ord(dtype.kind),
            dtype.itemsize,
            not in_memory,
            plane.dtype.itemsize == 8,
        )
    )
