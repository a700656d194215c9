"""Numbers of events: one in each event, or a list of items, and what expressions do with them.

There are three kinds of numbers, those of Python: conditions (bool), whole numbers (int64) and
floating point (float64).  Nothing is lost on the way: a whole number that leaves the range of
int64 is an error, and float32 is calculated with as float64.  What has no value is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hepdask_ml.data.with_uproot import library
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers: TypeAlias = NDArray[Any]
    Offsets: TypeAlias = NDArray[np.int64]

MOST = 2**63 - 1
"""The greatest whole number."""

SURELY_INSIDE = float(2**63 - 2**14)
"""Whole numbers up to here are in range, although they were calculated in floating point."""


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """Numbers of consecutive events.

    Attributes
    ----------
    values : (n_events,) or (n_items,) or () array of bool, int64 or float64
        One number for each event; or the items of all events, one event after the other; or a
        constant.
    offsets : (n_events + 1,) int64 array or None
        Where the items of each event begin, from 0 on, and the end; None without a list of items.
    """

    values: Numbers
    offsets: Offsets | None = None

    @property
    def lengths(self) -> Offsets:
        """Items of each event; `offsets` must be there."""
        assert self.offsets is not None
        return np.diff(self.offsets)

    def awkward(self) -> Any:
        """Give them as an array of awkward.

        Returns
        -------
        ak.Array
            ``n_events * number`` or ``n_events * var * number``.

        Raises
        ------
        InputError
            If awkward is not installed.
        """
        ak = library("awkward")
        content = ak.contents.NumpyArray(self.values)
        if self.offsets is None:
            return ak.Array(content)
        return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(self.offsets), content))


def items_of(array: Any, what: str) -> Items:
    """Take numbers of events out of whatever holds them.

    Parameters
    ----------
    array : Items, numpy array or awkward array
        One number, or one list of numbers, for each event.
    what : str
        What it is, for messages.

    Returns
    -------
    Items
        The same numbers; NaN for those that are missing or masked, and a list without items for an
        event whose list is missing.

    Raises
    ------
    InputError
        If it holds no numbers, lists of lists, or whole numbers above `MOST`.

    Examples
    --------
    >>> items_of(np.array([[1, 2], [3, 4]], np.uint8), "x").offsets
    array([0, 2, 4])
    """
    if isinstance(array, Items):
        return array
    if isinstance(array, np.ndarray):
        return _of_numpy(array, what)
    return _of_awkward(array, what)


def _of_numpy(array: Numbers, what: str) -> Items:
    if not 1 <= array.ndim <= 2:
        raise _too_deep(what) if array.ndim else InputError(f"{what} is one number for all events")
    values = _settled(array.reshape(-1), what)
    if array.ndim == 1:
        return Items(values)
    n_events, n_items = array.shape
    return Items(values, np.arange(n_events + 1, dtype=np.int64) * n_items)


def _of_awkward(array: Any, what: str) -> Items:
    ak = library("awkward")
    if not isinstance(array, ak.Array):
        raise InputError(f"{what} is of the type {type(array).__name__}: it must be an array")
    if array.ndim > 2:
        raise _too_deep(what)
    kind = str(array.type.content)
    offsets = None
    try:
        if array.ndim == 2:
            if isinstance(array.type.content, ak.types.OptionType):
                array = ak.fill_none(array, [], axis=0)
            offsets = np.zeros(len(array) + 1, np.int64)
            np.cumsum(ak.to_numpy(ak.num(array)), out=offsets[1:])
            array = ak.flatten(array)
        values = ak.to_numpy(array)
    except (TypeError, ValueError):
        raise _no_numbers(what, kind) from None
    if len(values) == 0 and values.dtype.kind not in "biuf":
        values = np.zeros(0)
    return Items(_settled(values, what, kind), offsets)


def _settled(values: Numbers, what: str, kind: str | None = None) -> Numbers:
    """Bring numbers to one of the three kinds."""
    if values.dtype.kind not in "biuf":
        raise _no_numbers(what, kind or str(values.dtype))
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    if values.dtype.kind == "u" and values.itemsize == 8 and values.size and values.max() > MOST:
        raise InputError(
            f"{what} holds {values.max()}, and no whole number above {MOST} can be calculated "
            "with: give a function instead of an expression"
        )
    aims = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float64}
    return np.ascontiguousarray(values, aims[values.dtype.kind])


def _no_numbers(what: str, kind: str) -> InputError:
    return InputError(f"{what} has no numbers but {kind}: leave it out")


def _too_deep(what: str) -> InputError:
    return InputError(
        f"{what} has lists of lists in each event, and one list at most can be calculated with: "
        "give a function instead of an expression"
    )


def aligned(*given: Items) -> tuple[list[Numbers], Offsets | None]:
    """Bring numbers to one shape: each event's number goes to all of its items.

    Parameters
    ----------
    *given : Items
        Numbers of the same events, or constants.

    Returns
    -------
    list of array
        Their values, which fit each other; constants stay as they are.
    (n_events + 1,) int64 array or None
        Offsets of all of them.

    Raises
    ------
    InputError
        If two have other numbers of items in an event.
    """
    offsets: Offsets | None = None
    n_events = {_n_events(each) for each in given if each.offsets is not None or each.values.ndim}
    if len(n_events) > 1:
        raise InputError(
            f"it brings branches of {' and '.join(map(str, sorted(n_events)))} events together: "
            "read all of them for the same events"
        )
    for each in given:
        if each.offsets is None:
            continue
        if offsets is None:
            offsets = each.offsets
        elif each.offsets is not offsets and not np.array_equal(each.offsets, offsets):
            raise InputError(
                "it brings lists together that have other numbers of items in the same event: "
                "reduce one of them to a number, as sum and first do, or cut both alike"
            )
    if offsets is None:
        return [each.values for each in given], None
    counts = np.diff(offsets)
    return [
        np.repeat(each.values, counts) if each.offsets is None and each.values.ndim else each.values
        for each in given
    ], offsets


def _n_events(given: Items) -> int:
    return len(given.values) if given.offsets is None else len(given.offsets) - 1


def elementwise(function: Callable[..., Any], *given: Items) -> Items:
    """Apply a function to each event or item.

    Parameters
    ----------
    function : callable
        Takes and gives arrays of numpy of one shape.
    *given : Items
        Its arguments.

    Returns
    -------
    Items
        Without a warning where something is divided by zero or has no logarithm.
    """
    arrays, offsets = aligned(*given)
    with np.errstate(all="ignore"):
        return Items(np.asarray(function(*arrays)), offsets)


def numeric(values: Numbers) -> Numbers:
    """Give conditions as 0 and 1, and numbers as they are."""
    return values.astype(np.int64) if values.dtype.kind == "b" else values


def floating(values: Numbers) -> Numbers:
    """Give numbers in floating point."""
    return values.astype(np.float64, copy=False)


def truth(values: Numbers) -> NDArray[np.bool_]:
    """Give numbers as conditions: true is what is neither zero nor NaN."""
    if values.dtype.kind == "b":
        return values
    true: NDArray[np.bool_] = (values != 0) & ~np.isnan(values)
    return true


def overflow() -> InputError:
    """Give the error for whole numbers that leave the range."""
    return InputError(
        f"its whole numbers go beyond {MOST}: put float(...) around one of them, to calculate in "
        "floating point"
    )


def reduced(
    given: Items, ufunc: np.ufunc, empty: Any, change: Callable[[Numbers], Numbers] = numeric
) -> Items:
    """Bring the items of each event together.

    Parameters
    ----------
    given : Items
        With a list in each event.
    ufunc : numpy.ufunc
        Of two numbers.
    empty : bool, int or float
        What an event without items gets; its type is that of the result, if it is not an int.
    change : callable
        Applied to the items before.

    Returns
    -------
    Items
        A number for each event.

    Raises
    ------
    InputError
        If there are no lists.
    """
    offsets = _lists(given)
    values = change(given.values)
    filled = np.diff(offsets) > 0
    result = np.full(len(filled), empty, np.result_type(values, np.asarray(empty).dtype))
    if filled.any():
        # From each begin to the next one: events without items, which have none, do not count.
        with np.errstate(all="ignore"):
            result[filled] = ufunc.reduceat(values, offsets[:-1][filled])
    return Items(result)


def total(given: Items) -> Items:
    """Add the items of each event; 0 without items."""
    values = numeric(given.values)
    if values.dtype.kind == "i" and values.size:
        largest = max(abs(float(values.min())), abs(float(values.max())))
        longest = float(given.lengths.max()) if given.offsets is not None else 1.0
        if largest * longest > SURELY_INSIDE:
            sums = reduced(given, np.add, 0.0, lambda items: np.abs(floating(items))).values
            if sums.max() > SURELY_INSIDE:
                raise overflow()
    return reduced(given, np.add, 0 if values.dtype.kind == "i" else 0.0)


def count(given: Items) -> Items:
    """Count the items of each event."""
    return Items(np.diff(_lists(given)))


def mean(given: Items) -> Items:
    """Give the mean of the items of each event; NaN without items."""
    sums = reduced(given, np.add, 0.0, floating)
    with np.errstate(all="ignore"):
        return Items(sums.values / count(given).values)


def nth(given: Items, number: int, missing: Items) -> Items:
    """Give one item of each event.

    Parameters
    ----------
    given : Items
        With a list in each event.
    number : int
        Which, from 0 on; negative ones are counted from the end.
    missing : Items
        What an event gets that has no such item: a constant, or a number for each event.

    Returns
    -------
    Items
        A number for each event.
    """
    offsets = _lists(given)
    places = offsets[:-1] + number if number >= 0 else offsets[1:] + number
    there = (places >= offsets[:-1]) & (places < offsets[1:])
    if missing.offsets is not None:
        raise InputError("what stands for a missing item must be one number for each event")
    kind = np.result_type(given.values, missing.values)
    result = np.empty(len(there), kind)
    result[...] = missing.values
    result[there] = given.values[places[there]]
    return Items(result)


def chosen(given: Items, condition: Items) -> Items:
    """Keep the items for which a condition holds.

    Parameters
    ----------
    given : Items
        With a list in each event.
    condition : Items
        For each item, or for all items of an event.

    Returns
    -------
    Items
        The lists, which may be shorter.
    """
    _lists(given)
    (values, keep), offsets = aligned(given, condition)
    assert offsets is not None
    keep = np.broadcast_to(truth(keep), values.shape)
    before = np.zeros(len(values) + 1, np.int64)
    np.cumsum(keep, out=before[1:])
    return Items(values[keep], before[offsets])


def _lists(given: Items) -> Offsets:
    if given.offsets is None:
        raise InputError(
            "sum, count, square brackets and the like take a list of items in each event, and "
            "there is one number: leave them out"
        )
    return given.offsets
