"""One-dimensional histograms of weighted events, whatever library filled them.

A `Histogram` is three arrays.  `read` takes any object that speaks the common interface of
histograms (UHI, the *PlottableHistogram* protocol): hist and boost-histogram's, uproot's of ROOT
files.  They are recognised by what they answer, so that none of these libraries is imported.

What lies outside the axis, in the underflow and the overflow, is dropped or folded into the first
and the last bin; how much was dropped is kept in `Histogram.outside`, and so is what a rebinning
leaves out.

References
----------
https://uhi.readthedocs.io: ``axes``, ``values()``, ``variances()``, ``kind``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.errors import InputError, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FLOWS = ("drop", "fold")
"""What may be done with what lies outside an axis."""

_SAME = 1e-9
"""Edges that differ by less, relative to the width of the axis, are the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Sums of weights in bins.

    Attributes
    ----------
    values : (bin,) float array
        Sums of weights.
    variances : (bin,) float array or None
        Their variances, the sums of squared weights; None if the histogram does not know them.
    edges : (bin + 1,) float array
        Ends of the bins, rising; whole numbers from zero on where the variable has no order.
    outside : float
        Sum of weights that lay outside and was left out.
    """

    values: Floats
    variances: Floats | None
    edges: Floats
    outside: float = 0.0

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return len(self.values)

    @property
    def total(self) -> float:
        """Sum of weights in all bins."""
        return float(self.values.sum())

    @property
    def blank(self) -> bool:
        """Whether nothing was filled into it."""
        no_spread = self.variances is None or not self.variances.any()
        return no_spread and not self.values.any() and not self.outside


def is_histogram(found: Any) -> bool:
    """Tell whether an object answers as a histogram does."""
    return isinstance(found, Histogram) or (hasattr(found, "axes") and hasattr(found, "values"))


def made(
    values: Sequence[float] | Floats,
    variances: Sequence[float] | Floats | None,
    edges: Sequence[float] | Floats | None,
    where: str,
    *,
    outside: float = 0.0,
) -> Histogram:
    """Make a histogram of arrays, and look at its numbers.

    Parameters
    ----------
    values : (bin,) array-like
        Sums of weights.
    variances : (bin,) array-like or None
        Their variances.
    edges : (bin + 1,) array-like or None
        Ends of the bins; 0, 1, 2 ... if None.
    where : str
        Which histogram it is, for messages.
    outside : float
        What was left out.

    Returns
    -------
    Histogram
        The histogram.

    Raises
    ------
    InputError
        If lengths do not match, a number is not finite or a variance negative, or edges fall.
    """
    sums = np.asarray(values, np.float64)
    ends = np.arange(len(sums) + 1.0) if edges is None else np.asarray(edges, np.float64)
    spreads = None if variances is None else np.asarray(variances, np.float64)
    if len(sums) == 0:
        raise InputError(f"{where} has no bins: at least one is needed")
    if len(ends) != len(sums) + 1 or (spreads is not None and len(spreads) != len(sums)):
        n = "no" if spreads is None else len(spreads)
        raise InputError(
            f"{where} has {len(sums)} values, {n} variances and {len(ends)} edges: they must match"
        )
    if not np.isfinite(ends).all() or (np.diff(ends) <= 0).any():
        raise InputError(f"{where} has edges that are not finite or do not rise: mend its binning")
    _refuse(where, "value", sums, ~np.isfinite(sums), "look for events with such weights")
    if spreads is not None:
        wrong = ~np.isfinite(spreads) | (spreads < 0)
        _refuse(where, "variance", spreads, wrong, "it is a sum of squared weights, so mend them")
    return Histogram(sums, spreads, ends, outside)


def _refuse(where: str, what: str, numbers: Floats, wrong: NDArray[np.bool_], advice: str) -> None:
    if wrong.any():
        place = int(np.argmax(wrong))
        raise InputError(f"{where} has the {what} {numbers[place]:g} in bin {place}: {advice}")


def read(source: Any, where: str, *, flow: str = "drop") -> Histogram:
    """Give the numbers of a histogram with one axis.

    Parameters
    ----------
    source : object
        A `Histogram`, or whatever answers as the common interface has it.
    where : str
        Which histogram it is, for messages.
    flow : {"drop", "fold"}
        What to do with what lies outside the axis.

    Returns
    -------
    Histogram
        Its numbers.

    Raises
    ------
    InputError
        If it is none, has several axes, holds something other than sums of weights, or has numbers
        that cannot be.
    """
    if isinstance(source, Histogram):
        return made(source.values, source.variances, source.edges, where, outside=source.outside)
    axes = axes_of(source, where)
    if len(axes) != 1:
        raise InputError(
            f"{where} has {len(axes)} axes ({', '.join(names_of(axes))}): one variable must be "
            "left, so project the histogram onto it"
        )
    values, variances = contents(source, where)
    return along(Line(axes[0], len(values)), values, variances, where, flow=flow)


def axes_of(source: Any, where: str) -> tuple[Any, ...]:
    """Give the axes of something that should be a histogram of weighted events.

    Parameters
    ----------
    source : object
        What was given.
    where : str
        Which it is, for messages.

    Returns
    -------
    tuple
        Its axes.

    Raises
    ------
    InputError
        If it is no histogram, or holds means.
    """
    if not is_histogram(source):
        raise InputError(
            f"{where} is of the type {type(source).__name__}, which is no histogram: give "
            "histograms of hist, boost-histogram or uproot only"
        )
    kind = getattr(source, "kind", "COUNT")
    if str(getattr(kind, "value", kind)) != "COUNT":
        raise InputError(
            f"{where} holds means, not sums of weights: fill a histogram with the storage Weight"
        )
    return tuple(source.axes)


def names_of(axes: Iterable[Any]) -> list[str]:
    """Give the names of axes, ``"?"`` where one has none."""
    return [str(getattr(axis, "name", "") or "?") for axis in axes]


def contents(source: Any, where: str) -> tuple[Floats, Floats | None]:
    """Give values and variances with underflow and overflow, as far as there are any.

    Parameters
    ----------
    source : object
        A histogram.
    where : str
        Which it is, for messages.

    Returns
    -------
    values, variances : float arrays
        One dimension for each axis; no variances where the histogram does not know them.

    Raises
    ------
    InputError
        If it does not tell.
    """
    try:
        try:
            values, variances = source.values(flow=True), source.variances(flow=True)
        except TypeError:  # the common interface asks for no such argument
            values, variances = source.values(), source.variances()
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise InputError(
            f"{where} does not give its values and variances ({words(error)}): fill a histogram "
            "with the storage Weight"
        ) from None
    if variances is not None:
        variances = np.asarray(variances, np.float64)
    return np.asarray(values, np.float64), variances


def inner(axis: Any, length: int) -> slice:
    """Give the place of an axis' own bins among so many with underflow and overflow."""
    extra = length - len(axis)
    # With one bin more it is the overflow, as for categories, unless the axis says otherwise.
    has_under = extra == 2 or (extra == 1 and not getattr(axis.traits, "overflow", True))
    return slice(int(has_under), int(has_under) + len(axis))


class Line:
    """An axis of a variable, read once for the many histograms that share it.

    Parameters
    ----------
    axis : object
        The axis.
    length : int
        Bins of the contents along it, with underflow and overflow if there are any.
    """

    def __init__(self, axis: Any, length: int) -> None:
        self.own = inner(axis, length)
        bins = [axis[i] for i in range(len(axis))]
        self.edges: Floats | None = None
        if all(isinstance(each, tuple) and len(each) == 2 for each in bins):
            ends = [*(low for low, _ in bins), *(high for _, high in bins[-1:])]
            self.edges = np.array(ends, np.float64)


def along(
    line: Line, values: Floats, variances: Floats | None, where: str, *, flow: str = "drop"
) -> Histogram:
    """Give the histogram of an axis and its contents.

    Parameters
    ----------
    line : Line
        The axis.
    values, variances : float arrays
        Contents, with underflow and overflow if there are any.
    where : str
        Which histogram it is, for messages.
    flow : {"drop", "fold"}
        What to do with what lies outside.

    Returns
    -------
    Histogram
        Its numbers.

    Raises
    ------
    InputError
        If numbers cannot be.
    """
    own = line.own
    outside = float(values[: own.start].sum() + values[own.stop :].sum())
    if not np.isfinite(outside):
        raise InputError(
            f"{where} holds {outside:g} outside its axis: look for events with such weights"
        )
    if flow == "fold" and own.stop > own.start:
        values, outside = _folded(values, own), 0.0
        variances = None if variances is None else _folded(variances, own)
    else:
        values, variances = values[own], None if variances is None else variances[own]
    return made(values, variances, line.edges, where, outside=outside)


def _folded(numbers: Floats, own: slice) -> Floats:
    folded = numbers[own].copy()
    folded[0] += numbers[: own.start].sum()
    folded[-1] += numbers[own.stop :].sum()
    return folded


def added(parts: Sequence[Histogram], where: str) -> Histogram:
    """Add histograms; the sum knows its variances if all of them do.

    Parameters
    ----------
    parts : sequence of Histogram
        One at least.
    where : str
        What the sum is, for messages.

    Returns
    -------
    Histogram
        The sum.

    Raises
    ------
    InputError
        If they have different bins.
    """
    if not all(same_binning(parts[0], part) for part in parts):
        raise InputError(f"{where} adds up histograms of different bins: give all the same ones")
    spreads = [part.variances for part in parts if part.variances is not None]
    return Histogram(
        np.sum([part.values for part in parts], axis=0),
        np.sum(spreads, axis=0) if len(spreads) == len(parts) else None,
        parts[0].edges,
        sum(part.outside for part in parts),
    )


def scaled(found: Histogram, by: float) -> Histogram:
    """Multiply all weights."""
    variances = None if found.variances is None else by**2 * found.variances
    return replace(found, values=by * found.values, variances=variances, outside=by * found.outside)


def same_binning(one: Histogram, other: Histogram) -> bool:
    """Tell whether two histograms have the same bins."""
    return len(one.edges) == len(other.edges) and bool(
        (np.abs(one.edges - other.edges) <= _SAME * np.ptp(one.edges)).all()
    )


def borders(edges: Floats, wanted: int | Sequence[float], where: str) -> NDArray[np.intp]:
    """Find the edges that a coarser binning keeps.

    Parameters
    ----------
    edges : (bin + 1,) float array
        Edges that there are.
    wanted : int or sequence of float
        How many bins to merge into one, or the edges to keep: some of those that there are.
        What lies outside the first and the last one is left out.
    where : str
        What is rebinned, for messages.

    Returns
    -------
    int array
        Indices of the edges that stay.

    Raises
    ------
    InputError
        If bins are left over, or an edge is none of those that there are.

    Examples
    --------
    >>> borders(np.array([0.0, 1.0, 2.0, 5.0]), [0, 2, 5], "mass").tolist()
    [0, 2, 3]
    """
    n = len(edges) - 1
    if isinstance(wanted, int):
        if wanted < 1 or n % wanted:
            raise InputError(
                f"{where} has {n} bins, which {wanted} does not divide: choose a divisor"
            )
        return np.arange(0, n + 1, wanted, dtype=np.intp)
    kept = [int(np.argmin(np.abs(edges - edge))) for edge in wanted]
    for edge, index in zip(wanted, kept, strict=True):
        if abs(edges[index] - edge) > _SAME * np.ptp(edges):
            raise InputError(
                f"{where} has no edge at {edge:g}: keep edges that it has, the nearest one is "
                f"{edges[index]:g}"
            )
    if len(kept) < 2 or any(low >= high for low, high in pairwise(kept)):
        raise InputError(f"the edges of {where} must be two at least, and rise")
    return np.array(kept, np.intp)


def rebinned(found: Histogram, kept: NDArray[np.intp]) -> Histogram:
    """Merge the bins between edges that are kept.

    Parameters
    ----------
    found : Histogram
        The histogram.
    kept : int array
        Indices of the edges that stay, from `borders`.

    Returns
    -------
    Histogram
        With fewer bins; what lies before the first and behind the last edge counts as outside.
    """

    def merged(numbers: Floats) -> Floats:
        return np.add.reduceat(numbers[: kept[-1]], kept[:-1])

    left_out = found.values[: kept[0]].sum() + found.values[kept[-1] :].sum()
    return Histogram(
        merged(found.values),
        None if found.variances is None else merged(found.variances),
        found.edges[kept],
        found.outside + float(left_out),
    )
