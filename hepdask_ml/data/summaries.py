"""Summaries of numbers that are seen in parts: what two parts hold is joined into what both hold.

Counts, extremes, lengths and quantiles are the same to the last bit however the numbers were shared
out and in which order the parts are joined; mean and standard deviation are so up to rounding.

Quantiles come from a histogram of fixed bins: each number is rounded to `BITS` bits behind its
leading one, as it stands in a float32, and equal ones are counted.  Rounding keeps the order, so
what is found is the quantile itself, rounded: at most 0.2 % off wherever float32 is exact to more
than that (magnitudes from 1e-38 to 3e38), and not at all for whole numbers up to 512.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, inf, isfinite, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Integers = NDArray[np.int64]

BITS = 8
"""Of a number's mantissa that its place in the histogram keeps; more make larger summaries."""

_SHIFT = 23 - BITS
_MAGNITUDE = np.int32(0x7FFFFFFF)
_LAST = int(np.finfo(np.float32).max.view(np.int32)) >> _SHIFT
# So many bins are counted without sorting, however few numbers there are: the whole histogram.
_DENSE = 2 * _LAST + 1
_WHOLE = ("count", "missing", "infinite")
_FLOATS = ("mean", "squares", "low", "high")


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """How often each of some whole numbers was seen.

    Attributes
    ----------
    numbers : (n,) int64 array
        Those that were seen, ascending.
    times : (n,) int64 array
        How often each.
    """

    numbers: Integers
    times: Integers

    @classmethod
    def of(cls, numbers: ArrayLike) -> Counts:
        """Count whole numbers.

        Parameters
        ----------
        numbers : (n,) array of int
            In any order.

        Returns
        -------
        Counts
            Of these.

        Examples
        --------
        >>> Counts.of([3, 0, 3]).to_json()
        {'numbers': [0, 3], 'times': [1, 2]}
        """
        given = np.asarray(numbers)
        if not given.size:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64))
        first = int(given.min())
        width = int(given.max()) - first + 1
        if width > _DENSE + 4 * given.size:
            found, times = np.unique(given, return_counts=True)
            return cls(found.astype(np.int64), times.astype(np.int64))
        dense = np.bincount(given - first)
        there = np.flatnonzero(dense)
        return cls(there.astype(np.int64) + first, dense[there].astype(np.int64))

    @property
    def total(self) -> int:
        """How many numbers were seen."""
        return int(self.times.sum())

    def __add__(self, other: Counts) -> Counts:
        numbers = np.union1d(self.numbers, other.numbers)
        times = np.zeros(numbers.size, np.int64)
        for each in (self, other):
            times[np.searchsorted(numbers, each.numbers)] += each.times
        return Counts(numbers, times)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Counts)
            and np.array_equal(self.numbers, other.numbers)
            and np.array_equal(self.times, other.times)
        )

    __hash__ = None  # type: ignore[assignment]

    def quantile(self, share: float | Fraction) -> int:
        """Give the lowest number seen that at least a share of all do not exceed.

        Parameters
        ----------
        share : float or Fraction
            From 0 to 1; a float stands for the decimal number that it is written as.

        Returns
        -------
        int
            One of those seen: numpy's quantile by the method "inverted_cdf".

        Raises
        ------
        InputError
            If the share is another one, or nothing was seen.

        Examples
        --------
        >>> Counts.of([1, 1, 2, 7]).quantile(0.75)
        2
        """
        # As it is written: 0.07 * 100 is a little more than 7, which is the seventh of a hundred.
        exact = share if isinstance(share, Fraction) else _written(share)
        if not 0 <= exact <= 1:
            raise InputError(f"there is no quantile {float(share):g}: give a share from 0 to 1")
        if not self.times.size:
            raise InputError("there are no numbers to take a quantile of: scan more events")
        rank = max(ceil(exact * self.total), 1)
        return int(self.numbers[np.searchsorted(np.cumsum(self.times), rank)])

    def to_json(self) -> dict[str, list[int]]:
        """Give plain values.

        Returns
        -------
        dict
            For `of_json`.
        """
        return {"numbers": self.numbers.tolist(), "times": self.times.tolist()}

    @classmethod
    def of_json(cls, written: Mapping[str, Any]) -> Counts:
        """Read what `to_json` gives.

        Parameters
        ----------
        written : mapping
            Plain values.

        Returns
        -------
        Counts
            The same.
        """
        return cls(np.array(written["numbers"], np.int64), np.array(written["times"], np.int64))


@dataclass(frozen=True, slots=True)
class Summary:
    """What numbers are like that were seen once: those of one field.

    Attributes
    ----------
    count : int
        Finite numbers; all that follows is about these.
    missing, infinite : int
        How many are NaN, and how many are infinite.
    mean : float
        Of all; 0 if there are none.
    squares : float
        Sum of squared distances from the mean.
    low, high : float
        The lowest and the highest; inf and -inf if there are none.
    rounded : Counts
        How often each place in the histogram of rounded numbers was hit.

    Examples
    --------
    >>> seen = Summary.of([1.0, 2.0]) + Summary.of([6.0, float("nan")])
    >>> seen.count, seen.missing, seen.mean, seen.quantile(0.5)
    (3, 1, 3.0, 2.0)
    """

    count: int
    missing: int
    infinite: int
    mean: float
    squares: float
    low: float
    high: float
    rounded: Counts

    @classmethod
    def of(cls, values: ArrayLike) -> Summary:
        """Summarise numbers.

        Parameters
        ----------
        values : array of float
            Of any shape; NaN where one is missing.

        Returns
        -------
        Summary
            Of these; computed in float64.
        """
        given = np.asarray(values).reshape(-1)
        if given.dtype not in (np.float32, np.float64):
            given = given.astype(np.float64)
        there = np.isfinite(given)
        finite = given if there.all() else given[there]
        missing = int(np.count_nonzero(np.isnan(given))) if finite.size < given.size else 0
        infinite = given.size - finite.size - missing
        if not finite.size:
            return cls(0, missing, infinite, 0.0, 0.0, inf, -inf, Counts.of([]))
        # Squares of numbers beyond 1e154 are infinite, and so is the deviation then.
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(np.mean(finite, dtype=np.float64))
            distances = np.subtract(finite, mean, dtype=np.float64)
            squares = float(np.sum(np.square(distances, out=distances)))
        low, high = float(finite.min()), float(finite.max())
        places = Counts.of(_places(finite))
        return cls(finite.size, missing, infinite, mean, squares, low, high, places)

    def __add__(self, other: Summary) -> Summary:
        """Join two that have no number in common.

        Mean and squares follow T. F. Chan, G. H. Golub and R. J. LeVeque, Updating formulae and a
        pairwise algorithm for computing sample variances, COMPSTAT 1982, eq. 2.1.
        """
        count = self.count + other.count
        share = other.count / count if count else 0.0
        apart = other.mean - self.mean
        return Summary(
            count=count,
            missing=self.missing + other.missing,
            infinite=self.infinite + other.infinite,
            # Either one is the whole, if the other one is empty.
            mean=self.mean + apart * share if self.count else other.mean,
            squares=self.squares + other.squares + apart * apart * share * self.count
            if self.count and other.count
            else self.squares + other.squares,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            rounded=self.rounded + other.rounded,
        )

    @property
    def std(self) -> float:
        """Standard deviation of these numbers, as ``numpy.std`` has it; 0 if there are none."""
        return sqrt(self.squares / self.count) if self.count else 0.0

    def quantile(self, share: float) -> float:
        """Give the lowest number that at least a share of all do not exceed.

        Parameters
        ----------
        share : float
            From 0 to 1.

        Returns
        -------
        float
            At most 0.2 % off, and never beyond the lowest and the highest.

        Raises
        ------
        InputError
            If there are no numbers, or the share is another one.
        """
        return min(max(_value(self.rounded.quantile(share)), self.low), self.high)

    def histogram(self, edges: ArrayLike) -> NDArray[np.float64]:
        """Give how many numbers lie between edges, about: for a picture.

        Parameters
        ----------
        edges : (n + 1,) array of float
            Ascending.

        Returns
        -------
        (n,) float64 array
            Numbers in each bin, where those that are rounded to the same are spread evenly.
        """
        at = np.asarray(edges, np.float64)
        if not self.count:
            return np.zeros(at.size - 1)
        # The borders of a place lie half a place away.
        halves = self.rounded.numbers[:, None] * 2 + [-1, 1]
        bits = (np.abs(halves) << (_SHIFT - 1)).astype(np.int32)
        borders = np.copysign(bits.view(np.float32).astype(np.float64), halves)
        below = np.cumsum(self.rounded.times)[:, None] - self.rounded.times[:, None] * [1, 0]
        return np.diff(np.interp(at, borders.ravel(), below.ravel()))

    def distinct(self) -> tuple[NDArray[np.float64], Integers]:
        """Give the numbers that were seen, rounded, and how often each was.

        Returns
        -------
        numbers : (n,) float64 array
            Ascending.
        times : (n,) int64 array
            How often.
        """
        numbers = [_value(place) for place in self.rounded.numbers.tolist()]
        return np.array(numbers, np.float64), self.rounded.times

    def to_json(self) -> dict[str, Any]:
        """Give plain values.

        Returns
        -------
        dict
            For `of_json`; None for what is not finite.
        """
        numbers = {
            name: value if isfinite(value := getattr(self, name)) else None for name in _FLOATS
        }
        whole = {name: getattr(self, name) for name in _WHOLE}
        return {**whole, **numbers, "rounded": self.rounded.to_json()}

    @classmethod
    def of_json(cls, written: Mapping[str, Any]) -> Summary:
        """Read what `to_json` gives.

        Parameters
        ----------
        written : mapping
            Plain values.

        Returns
        -------
        Summary
            The same.
        """
        count = int(written["count"])
        mean, squares, low, high = (
            inf if written[name] is None else float(written[name]) for name in _FLOATS
        )
        return cls(
            count,
            int(written["missing"]),
            int(written["infinite"]),
            mean,
            squares,
            low,
            high if count else -inf,
            Counts.of_json(written["rounded"]),
        )


def _places(finite: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.int32]:
    """Where numbers are in the histogram: in their order, symmetric about zero."""
    # What float32 cannot hold goes to the last place; its extremes are kept beside.
    with np.errstate(over="ignore", under="ignore"):
        bits = finite.astype(np.float32).view(np.int32)
    places: NDArray[np.int32] = ((bits & _MAGNITUDE) + np.int32(1 << (_SHIFT - 1))) >> _SHIFT
    np.minimum(places, _LAST, out=places)
    # Negates where the sign bit is set: all of its bits are, in two's complement.
    sign = bits >> 31
    places ^= sign
    places -= sign
    return places


def _value(place: int) -> float:
    """Give the number that all in one place are rounded to."""
    magnitude = float(np.int32(abs(place) << _SHIFT).view(np.float32))
    return -magnitude if place < 0 else magnitude


def _written(share: float) -> Fraction:
    return Fraction(repr(float(share))) if isfinite(share) else Fraction(-1)
