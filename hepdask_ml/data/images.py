"""Images of events: their items in the pixels of any two variables, such as eta and phi.

An image has several *views* of the same items: how many lie in each pixel, or the sum of a weight
of theirs, such as the momentum.  Where items share a pixel, an image tells less than the items do;
how many do so is counted as *collisions*, and so are the items that lie outside the axes.

Axes are half open, as those of histograms: an item at the upper end lies outside.  An item without
a number in one of the variables is nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hepdask_ml.data.stacks import Lengths

BLOCK = 2**20
"""Pixels that are summed at a time: their sums stay in the cache of a core."""


class Binning(Protocol):
    """Pixels along one variable, all of the same width."""

    @property
    def bins(self) -> int:
        """How many."""

    @property
    def low(self) -> float:
        """Where the first one begins."""

    @property
    def high(self) -> float:
        """Where the last one ends."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Images of some events.

    Attributes
    ----------
    pixels : (event, view, y, x) float32 array
        Sums of weights.
    collisions : (event,) int32 array
        Items that share their pixel with another one.
    outside : (event,) int32 array
        Items outside the axes.
    """

    pixels: NDArray[np.float32]
    collisions: Lengths
    outside: Lengths


def draw(
    offsets: NDArray[np.int64],
    axes: tuple[Binning, Binning],
    places: tuple[NDArray[Any], NDArray[Any]],
    weights: Sequence[NDArray[Any] | None],
) -> Drawn:
    """Draw the items of events.

    Parameters
    ----------
    offsets : (n_events + 1,) int64 array
        Where the items of each event begin, from 0.
    axes : pair of axes
        Of x and y: their ``bins`` between ``low`` and ``high``.
    places : pair of (n_items,) arrays
        The items' x and y.
    weights : sequence of (n_items,) array or None
        For each view: what to sum; None counts.  A weight of NaN adds nothing.

    Returns
    -------
    Drawn
        Sums are made in float64, in the order of the items.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> axis = SimpleNamespace(bins=2, low=0.0, high=2.0)
    >>> x, y = np.array([0.5, 0.6, 7.0]), np.array([1.5, 1.5, 0.0])
    >>> drawn = draw(np.array([0, 3]), (axis, axis), (x, y), [None])
    >>> drawn.pixels[0, 0].tolist(), drawn.collisions.tolist(), drawn.outside.tolist()
    ([[0.0, 0.0], [2.0, 0.0]], [2], [1])
    """
    n_events = len(offsets) - 1
    across, down = axes
    n_pixels = across.bins * down.bins
    x, y = (_pixels(axis, each) for axis, each in zip(axes, places, strict=True))
    known = ~(np.isnan(places[0]) | np.isnan(places[1]))
    inside = (x >= 0) & (y >= 0)
    event = np.repeat(np.arange(n_events), np.diff(offsets))
    drawn = Drawn(
        np.empty((n_events, len(weights), down.bins, across.bins), np.float32),
        np.empty(n_events, np.int32),
        _counted(event[known & ~inside], n_events),
    )
    event, pixel = event[inside], (y * across.bins + x)[inside]
    added = [None if each is None else _without_nan(each[inside]) for each in weights]
    step = max(1, BLOCK // n_pixels)
    edges = [*range(0, n_events, step), n_events]
    borders = np.searchsorted(event, edges)
    for (start, stop), (first, last) in zip(pairwise(edges), pairwise(borders), strict=True):
        items = slice(first, last)
        own = event[items] - start
        at = own * n_pixels + pixel[items]
        size = (stop - start) * n_pixels
        counts = np.bincount(at, minlength=size)
        drawn.collisions[start:stop] = _counted(own[counts[at] > 1], stop - start)
        for view, weight in enumerate(added):
            sums = counts if weight is None else np.bincount(at, weight[items], size)
            # Sums beyond float32 become infinite, as numbers of tensors do.
            with np.errstate(over="ignore"):
                drawn.pixels[start:stop, view] = sums.reshape(-1, down.bins, across.bins)
    return drawn


def _pixels(axis: Binning, values: NDArray[Any]) -> NDArray[np.int64]:
    """Tell in which pixels of an axis items lie; -1 where in none."""
    with np.errstate(invalid="ignore", over="ignore"):
        share = (values.astype(np.float64) - axis.low) / (axis.high - axis.low)
    inside = (share >= 0.0) & (share < 1.0)
    # Just below the end, the product may be rounded up to it.
    found = np.minimum(np.where(inside, share, 0.0) * axis.bins, axis.bins - 1).astype(np.int64)
    return np.where(inside, found, -1)


def _without_nan(weights: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.isnan(weights), 0.0, weights)


def _counted(event: NDArray[np.int64], n_events: int) -> Lengths:
    return np.bincount(event, minlength=n_events).astype(np.int32)
