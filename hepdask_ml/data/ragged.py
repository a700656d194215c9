"""Some of the events of jagged numbers: consecutive ones, or any rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hepdask_ml.data.jagged import Items

if TYPE_CHECKING:
    from numpy.typing import NDArray


def part(items: Items, start: int, stop: int) -> Items:
    """Give the numbers of consecutive events.

    Parameters
    ----------
    items : Items
        One number for each event, or a list of them.
    start, stop : int
        Which events, half open, counted there.

    Returns
    -------
    Items
        Their values in the same memory.
    """
    if items.offsets is None:
        return Items(items.values[start:stop])
    offsets = items.offsets[start : stop + 1]
    return Items(items.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def take(items: Items, rows: NDArray[np.integer]) -> Items:
    """Give the numbers of some events, in any order.

    Parameters
    ----------
    items : Items
        One number for each event, or a list of them.
    rows : (n,) integer array
        Which events, counted there.

    Returns
    -------
    Items
        Copies.
    """
    if items.offsets is None:
        return Items(items.values[rows])
    places, offsets = places_of(items.offsets, rows)
    return Items(items.values[places], offsets)


def places_of(
    offsets: NDArray[np.int64], rows: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the items of some events.

    Parameters
    ----------
    offsets : (n_events + 1,) int64 array
        Where the items of each event begin, and those of the last one end.
    rows : (n,) integer array
        Which events, in any order.

    Returns
    -------
    places : (n_items,) int64 array
        Where their items lie.
    offsets : (n + 1,) int64 array
        Where those of each event begin in ``places``, from 0.

    Examples
    --------
    >>> places_of(np.array([0, 2, 2, 5]), np.array([2, 0]))
    (array([2, 3, 4, 0, 1]), array([0, 3, 5]))
    """
    lengths = np.diff(offsets)[rows]
    found = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=found[1:])
    # How far the items of each event move, added to where they are to lie.
    shifts = np.repeat(offsets[:-1][rows] - found[:-1], lengths)
    return np.arange(found[-1]) + shifts, found
