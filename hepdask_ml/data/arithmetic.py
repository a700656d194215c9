"""Operators on arrays of numbers that never lose a whole number unseen.

All take and give arrays of numpy of one shape, or constants, of the three kinds that
`hepdask_ml.data.jagged` knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hepdask_ml.data.jagged import MOST, SURELY_INSIDE, floating, numeric, overflow
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from hepdask_ml.data.jagged import Numbers


def _counted(ufunc: np.ufunc) -> Callable[[Numbers, Numbers], Numbers]:
    """Calculate with whole numbers as long as all results are in range, and refuse the rest."""

    def calculate(left: Numbers, right: Numbers) -> Numbers:
        left, right = numeric(left), numeric(right)
        result: Numbers = ufunc(left, right)
        if result.dtype.kind == "i" and result.size and not _surely(ufunc, left, right):
            nearly = np.abs(ufunc(floating(left), floating(right)))
            if nearly.max() > SURELY_INSIDE:
                raise overflow()
        return result

    return calculate


def _surely(ufunc: np.ufunc, left: Numbers, right: Numbers) -> bool:
    """Tell whether no result can leave the range, of the largest numbers alone."""
    corners = [
        abs(ufunc(float(a), float(b)))
        for a in (left.min(), left.max())
        for b in (right.min(), right.max())
    ]
    return bool(max(corners) < SURELY_INSIDE)


add = _counted(np.add)
subtract = _counted(np.subtract)
multiply = _counted(np.multiply)


def divide(left: Numbers, right: Numbers) -> Numbers:
    """Divide in floating point."""
    return np.asarray(floating(left) / floating(right))


def power(left: Numbers, right: Numbers) -> Numbers:
    """Raise to a power in floating point."""
    return np.asarray(floating(left) ** floating(right))


def floor_divide(left: Numbers, right: Numbers) -> Numbers:
    """Divide and round down; whole numbers remain if the divisor is a constant."""
    if _whole_constant(left, right):
        if int(right) == -1:
            return negative(left)
        return np.asarray(numeric(left) // right)
    return np.asarray(np.floor_divide(floating(left), floating(right)))


def modulo(left: Numbers, right: Numbers) -> Numbers:
    """Give the remainder, with the divisor's sign; whole if the divisor is a whole constant."""
    if _whole_constant(left, right):
        return np.asarray(numeric(left) % right)
    return np.asarray(np.mod(floating(left), floating(right)))


def _whole_constant(left: Numbers, right: Numbers) -> bool:
    # The kind of result depends on the expression alone, and not on the events of a batch.
    whole = left.dtype.kind in "bi" and right.dtype.kind == "i"
    return bool(whole and right.ndim == 0 and right != 0)


def negative(values: Numbers) -> Numbers:
    """Change the sign."""
    return np.asarray(np.negative(_with_opposite(values)))


def absolute(values: Numbers) -> Numbers:
    """Drop the sign."""
    return np.asarray(np.abs(_with_opposite(values)))


def _with_opposite(values: Numbers) -> Numbers:
    """Refuse the least whole number, which has none."""
    values = numeric(values)
    if values.dtype.kind == "i" and values.size and values.min() < -MOST:
        raise overflow()
    return values


def _bits(sign: str, function: Callable[..., Numbers]) -> Callable[..., Numbers]:
    """Make an operator on bits, or on conditions.

    It refuses what most often is a comparison without its brackets, as comparisons bind less.
    """

    def apply(*values: Numbers) -> Numbers:
        kinds = {each.dtype.kind for each in values}
        if kinds not in ({"b"}, {"i"}):
            # What may be missing is NaN, which no whole number is.
            nor = ", nor floating point (x[0] is, unlike first(x, 0))" if "f" in kinds else ""
            raise InputError(
                f"{sign} takes conditions or whole numbers, not both{nor}: put comparisons in "
                "brackets, or write and, or, not"
            )
        return function(*values)

    return apply


bit_and = _bits("&", np.bitwise_and)
bit_or = _bits("|", np.bitwise_or)
bit_xor = _bits("^", np.bitwise_xor)
bit_not = _bits("~", np.invert)


def shift_left(values: Numbers, places: Numbers) -> Numbers:
    """Multiply a whole number by a power of two."""
    return multiply(values, np.asarray(np.left_shift(np.int64(1), _places(values, places))))


def shift_right(values: Numbers, places: Numbers) -> Numbers:
    """Divide a whole number by a power of two, and round down."""
    return np.asarray(np.right_shift(values, _places(values, places)))


def _places(values: Numbers, places: Numbers) -> Numbers:
    whole = values.dtype.kind == places.dtype.kind == "i"
    if not whole or (places.size and not 0 <= places.min() <= places.max() <= 62):
        raise InputError("<< and >> shift whole numbers by 0 to 62 places: write * or // otherwise")
    return places
