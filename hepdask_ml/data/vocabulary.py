"""The words of expressions: functions, operators and constants, and what each of them does.

Whatever is not in one of these tables cannot be said.  Functions and operators go item by item, or
event by event, unless they bring the items of an event together: ``sum``, ``prod``, ``mean``,
``count``, ``any``, ``all``, ``first``, and ``min`` and ``max`` with one argument.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import numpy as np

from hepdask_ml.data import arithmetic, jagged
from hepdask_ml.data.jagged import Items, elementwise, floating, numeric, truth
from hepdask_ml.errors import InputError


@dataclass(frozen=True, slots=True)
class Function:
    """What an expression may call.

    Attributes
    ----------
    apply : callable
        Takes and gives `Items`.
    fewest, most : int
        Arguments.
    """

    apply: Callable[..., Items]
    fewest: int = 1
    most: int = 1


_MOST_ARGUMENTS = 8

_NAN = Items(np.asarray(np.nan))


def _floats(ufunc: Callable[..., Any]) -> Function:
    """Make a function of one number out of one of numpy's."""
    return Function(partial(elementwise, lambda values: ufunc(floating(values))))


def _pairs(ufunc: Callable[..., Any]) -> Function:
    """Make a function of two numbers out of one of numpy's."""
    return Function(partial(elementwise, lambda x, y: ufunc(floating(x), floating(y))), 2, 2)


def _extreme(ufunc: np.ufunc) -> Function:
    """Make the least or greatest: of the items of each event, or of several numbers."""

    def apply(first: Items, *others: Items) -> Items:
        if not others:
            return jagged.reduced(first, ufunc, np.nan, floating)
        return reduce(
            partial(elementwise, lambda x, y: ufunc(numeric(x), numeric(y))), others, first
        )

    return Function(apply, 1, _MOST_ARGUMENTS)


def _rounded(values: Any) -> Any:
    return numeric(values) if values.dtype.kind in "bi" else np.round(values)


def _delta_phi(x: Any, y: Any) -> Any:
    return np.mod(x - y + np.pi, 2 * np.pi) - np.pi


def _where(condition: Any, yes: Any, no: Any) -> Any:
    return np.where(truth(condition), yes, no)


def _first(given: Items, missing: Items = _NAN) -> Items:
    return jagged.nth(given, 0, missing)


def chain(functions: Sequence[Callable[..., Any]], *values: Any) -> Any:
    """Compare neighbours: ``a < b < c`` is ``a < b and b < c``, as in Python.

    Parameters
    ----------
    functions : sequence of callable
        One for each pair.
    *values : array
        Of one shape.

    Returns
    -------
    array of bool
        Whether all hold.
    """
    pairs = zip(functions, pairwise(values), strict=True)
    return reduce(np.logical_and, [compare(left, right) for compare, (left, right) in pairs])


def one_of(value: Any, *others: Any) -> Any:
    """Tell whether a number is one of several: ``value in (a, b)``."""
    return reduce(np.logical_or, [value == other for other in others])


def square_brackets(given: Items, index: Items) -> Items:
    """Give an item of each event, or those for which a condition holds.

    Parameters
    ----------
    given : Items
        With a list in each event.
    index : Items
        A whole constant, or a condition.

    Returns
    -------
    Items
        One number for each event, NaN without such an item; or lists.

    Raises
    ------
    InputError
        If the index is neither.
    """
    if index.values.ndim == 0 and index.values.dtype.kind == "i":
        return jagged.nth(given, int(index.values), _NAN)
    if index.values.dtype.kind != "b":
        raise InputError(
            "square brackets take a whole number, as in x[0], or a condition, as in x[x > 30]"
        )
    return jagged.chosen(given, index)


FUNCTIONS: Mapping[str, Function] = {
    **{
        name: _floats(ufunc)
        for name, ufunc in {
            "sqrt": np.sqrt,
            "exp": np.exp,
            "expm1": np.expm1,
            "log": np.log,
            "log2": np.log2,
            "log10": np.log10,
            "log1p": np.log1p,
            "sin": np.sin,
            "cos": np.cos,
            "tan": np.tan,
            "asin": np.arcsin,
            "acos": np.arccos,
            "atan": np.arctan,
            "sinh": np.sinh,
            "cosh": np.cosh,
            "tanh": np.tanh,
            "asinh": np.arcsinh,
            "acosh": np.arccosh,
            "atanh": np.arctanh,
            "floor": np.floor,
            "ceil": np.ceil,
            "sign": np.sign,
            "float": np.positive,
            "isnan": np.isnan,
            "isfinite": np.isfinite,
        }.items()
    },
    "atan2": _pairs(np.arctan2),
    "hypot": _pairs(np.hypot),
    "delta_phi": _pairs(_delta_phi),
    "abs": Function(partial(elementwise, arithmetic.absolute)),
    "round": Function(partial(elementwise, _rounded)),
    "where": Function(partial(elementwise, _where), 3, 3),
    "min": _extreme(np.minimum),
    "max": _extreme(np.maximum),
    "sum": Function(jagged.total),
    "prod": Function(lambda x: jagged.reduced(x, np.multiply, 1.0, floating)),
    "mean": Function(jagged.mean),
    "count": Function(jagged.count),
    "any": Function(lambda x: jagged.reduced(x, np.logical_or, False, truth)),
    "all": Function(lambda x: jagged.reduced(x, np.logical_and, True, truth)),
    "first": Function(_first, 1, 2),
}
"""What an expression may call; ``branch("...")`` is beside them."""

CONSTANTS: Mapping[str, float] = {"pi": np.pi, "inf": np.inf, "nan": np.nan}
"""Names that are no branches."""

OTHER_WORDS: Mapping[str, str] = {
    "len": "count",
    "size": "count",
    "num": "count",
    "avg": "mean",
    "ln": "log",
    "fabs": "abs",
    "pow": "the operator **",
    "mod": "the operator %",
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "tan2")},
}
"""What other languages call them."""

OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: arithmetic.add,
    ast.Sub: arithmetic.subtract,
    ast.Mult: arithmetic.multiply,
    ast.Div: arithmetic.divide,
    ast.FloorDiv: arithmetic.floor_divide,
    ast.Mod: arithmetic.modulo,
    ast.Pow: arithmetic.power,
    ast.BitAnd: arithmetic.bit_and,
    ast.BitOr: arithmetic.bit_or,
    ast.BitXor: arithmetic.bit_xor,
    ast.LShift: arithmetic.shift_left,
    ast.RShift: arithmetic.shift_right,
    ast.USub: arithmetic.negative,
    ast.UAdd: numeric,
    ast.Invert: arithmetic.bit_not,
    ast.Not: lambda x: ~truth(x),
    ast.And: lambda *values: reduce(np.logical_and, map(truth, values)),
    ast.Or: lambda *values: reduce(np.logical_or, map(truth, values)),
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
"""What each operator does with arrays of one shape; ``and`` and ``or`` take many."""
