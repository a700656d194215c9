r"""Kinds of parameters: which values one of them may have, and how likely each is before any trial.

A dimension is a map from the unit interval to values, and back.  A number that is drawn uniformly
from [0, 1] becomes a value with the dimension's distribution: uniform, uniform in the logarithm,
or normal, by its quantile function.  So optimisers that know boxes alone can search any space.

Where values are discrete, each has a *cell* of the interval, as wide as the value is likely, and
its *place* is the middle of the cell.  Values ``low + k step`` with a logarithm have cells that
end half-way to their neighbours, so that :math:`k` is drawn with probability

.. math:: \ln\frac{v_k + s/2}{v_k - s/2} \Big/ \ln\frac{high + s/2}{low - s/2},
          \qquad v_k = low + k s

where the lowest cell begins at :math:`low / 2` if the step :math:`s` is larger than that.

All records check themselves when they are made.  A message begins with the field's name; whoever
reads a file puts the parameter's name in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import MISSING, dataclass, field, fields
from decimal import Decimal
from math import e, erfc, exp, floor, isfinite, log, sqrt
from numbers import Integral
from statistics import NormalDist
from typing import Any

import numpy as np

from hepdask_ml.config import nearest, settle
from hepdask_ml.errors import InputError
from hepdask_ml.hpo.values import identity, plain, shown

MOST = 10**12
"""Whole numbers, and numbers of steps, at most: so many cells of the unit interval are distinct."""

EDGE = 1e-9
"""Probability that a normal distribution is cut by on each side: six standard deviations."""

_GRAIN = 1e-6
"""Distance from a value on the grid, in steps, that is rounding."""

_ROUNDING = 1e-9
"""Distance beyond a bound, as part of the width, that is rounding."""

_EXACT = 2.0**53
"""Floats are whole numbers from here on."""

_LARGEST_LOG = 700.0
"""Largest logarithm of a number, a little below that of the largest float."""


def _positive(value: float) -> str | None:
    return None if value > 0.0 else "it must be above 0"


def _above_one(value: float) -> str | None:
    return None if value > 1.0 else "it must be above 1"


def _countable(value: int) -> str | None:
    return None if abs(value) <= MOST else "whole numbers must lie between -10^12 and 10^12"


def _conditions() -> Any:
    return field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Real:
    """A number between two others.

    Attributes
    ----------
    low, high : float
        Its bounds, both included.
    log : bool
        Whether its logarithm is what is uniform.
    step : float or None
        Distance of its values, ``low, low + step, ..., high``; it has to divide the width.
    when : mapping of str to tuple
        Values of other parameters with which this one counts; always if empty.

    Raises
    ------
    InputError
        If there is no such range.

    Examples
    --------
    >>> round(Real(1e-4, 1e-2, log=True).value_at(0.5), 9)
    0.001
    >>> [Real(0, 1, step=0.1).at(k) for k in (0, 3, 10)]
    [0.0, 0.3, 1.0]
    """

    low: float
    high: float
    log: bool = False
    step: float | None = field(default=None, metadata={"rule": _positive})
    when: Mapping[str, Any] = _conditions()

    def __post_init__(self) -> None:
        settle(self)
        _settle_conditions(self)
        _check_range(self.low, self.high, self.log)
        if self.step is not None:
            _check_steps(self.low, self.high, self.step)

    @property
    def count(self) -> int | None:
        """Number of values; None where they are continuous."""
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    def at(self, index: int) -> float:
        """Give the value of an index; with a step only."""
        if index + 1 == self.count:
            return self.high
        # In decimals, as it was written: three steps of 0.1 are 0.3, not 0.30000000000000004.
        return float(Decimal(repr(self.low)) + index * Decimal(repr(self._stepped)))

    def index_of(self, value: Any) -> int:
        """Give the index of a value; with a step only."""
        return round((self.checked(value) - self.low) / self._stepped)

    @property
    def _stepped(self) -> float:
        if self.step is None:
            raise InputError("a float without a step has no indices: give it a step")
        return self.step

    def value_at(self, u: float) -> float:
        """Give the value at a place of the unit interval."""
        u = _inside(u)
        if self.step is not None:
            return self.at(_Cells.of(self).index_at(u))
        if self.log:
            bottom, top = log(self.low), log(self.high)
            value = exp(bottom + u * (top - bottom))
        else:
            value = self.low + u * (self.high - self.low)
        ends = {0.0: self.low, 1.0: self.high}
        return ends.get(u, min(max(value, self.low), self.high))

    def place_of(self, value: Any) -> float:
        """Give the place of a value in the unit interval."""
        if self.step is not None:
            return _Cells.of(self).place_of(self.index_of(value))
        value = self.checked(value)
        if self.log:
            bottom, top = log(self.low), log(self.high)
            return _inside((log(value) - bottom) / (top - bottom))
        return _inside((value - self.low) / (self.high - self.low))

    def checked(self, value: Any) -> float:
        """Give the plain value, its rounding removed, or refuse it."""
        number = _number(value)
        margin = _ROUNDING * (self.high - self.low)
        if self.log:
            # At the lower end the width is no measure: 1e-9 of it may be more than the bound.
            margin = min(margin, _ROUNDING * abs(number))
        if not self.low - margin <= number <= self.high + margin:
            raise InputError(
                f"{shown(number)} is outside: it must lie between {self.low} and {self.high}"
            )
        number = min(max(number, self.low), self.high)
        if self.step is None:
            return number
        nearby = self.at(round((number - self.low) / self.step))
        if abs(number - nearby) > _GRAIN * self.step:
            raise InputError(
                f"{shown(number)} is between two values: they are {self.low} and steps of "
                f"{self.step} from there"
            )
        return nearby


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number between two others.

    Attributes
    ----------
    low, high : int
        Its bounds, both included.
    log : bool
        Whether small numbers are as likely as large ones on a logarithmic scale.
    step : int
        Distance of its values, ``low, low + step, ..., high``; it has to divide the width.
    when : mapping of str to tuple
        Values of other parameters with which this one counts; always if empty.

    Raises
    ------
    InputError
        If there is no such range.

    Examples
    --------
    >>> [Integer(1, 3).value_at(u) for u in (0.0, 0.3, 0.5, 1.0)]
    [1, 1, 2, 3]
    """

    low: int = field(metadata={"rule": _countable})
    high: int = field(metadata={"rule": _countable})
    log: bool = False
    step: int = field(default=1, metadata={"rule": _positive})
    when: Mapping[str, Any] = _conditions()

    def __post_init__(self) -> None:
        settle(self)
        _settle_conditions(self)
        _check_range(self.low, self.high, self.log)
        if (self.high - self.low) % self.step:
            raise InputError(_does_not_divide(self.low, self.high, self.step))

    @property
    def count(self) -> int:
        """Number of values."""
        return (self.high - self.low) // self.step + 1

    def at(self, index: int) -> int:
        """Give the value of an index."""
        return self.low + index * self.step

    def index_of(self, value: Any) -> int:
        """Give the index of a value."""
        return (self.checked(value) - self.low) // self.step

    def value_at(self, u: float) -> int:
        """Give the value at a place of the unit interval."""
        return self.at(_Cells.of(self).index_at(_inside(u)))

    def place_of(self, value: Any) -> float:
        """Give the place of a value in the unit interval: the middle of its cell."""
        return _Cells.of(self).place_of(self.index_of(value))

    def checked(self, value: Any) -> int:
        """Give the plain value, an integer even if it was a float, or refuse it."""
        number = _whole(value)
        if not self.low <= number <= self.high:
            raise InputError(f"{number} is outside: it must lie between {self.low} and {self.high}")
        if (number - self.low) % self.step:
            raise InputError(
                f"{number} is between two values: they are {self.low} and steps of {self.step} "
                "from there"
            )
        return number


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values.

    Attributes
    ----------
    values : tuple
        What there is to choose from: text, numbers, true and false, None, lists, mappings; 1, 1.0
        and True are three of them.
    ordered : bool
        Whether neighbours are alike, as among 32, 64 and 128.
    when : mapping of str to tuple
        Values of other parameters with which this one counts; always if empty.

    Raises
    ------
    InputError
        If there are none, or one stands there twice.

    Examples
    --------
    >>> Choice(("adam", "sgd")).value_at(0.7)
    'sgd'
    """

    values: tuple[Any, ...]
    ordered: bool = False
    when: Mapping[str, Any] = _conditions()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _values("values", self.values))
        if not isinstance(self.ordered, bool):
            raise InputError(f"ordered is {shown(self.ordered)}: it must be true or false")
        _settle_conditions(self)

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.values)

    def at(self, index: int) -> Any:
        """Give the value of an index."""
        return deepcopy(self.values[index])

    def index_of(self, value: Any) -> int:
        """Give the index of a value."""
        value = plain(value)
        names = [identity(each) for each in self.values]
        if identity(value) in names:
            return names.index(identity(value))
        # An optimiser, or a file on its way, may have made 32.0 of 32.
        alike = [i for i, each in enumerate(self.values) if _equal_numbers(each, value)]
        if alike:
            return alike[0]
        raise InputError(": ".join([f"{shown(value)} is none of them", self._advice(value)]))

    def _advice(self, value: Any) -> str:
        known = [each for each in self.values if isinstance(each, str)]
        near = nearest(value, known) if isinstance(value, str) else []
        return near[0] if near else f"choose from {', '.join(shown(v) for v in self.values)}"

    def value_at(self, u: float) -> Any:
        """Give the value at a place of the unit interval."""
        return self.at(_Cells(self.count).index_at(_inside(u)))

    def place_of(self, value: Any) -> float:
        """Give the place of a value in the unit interval: the middle of its cell."""
        return _Cells(self.count).place_of(self.index_of(value))

    def checked(self, value: Any) -> Any:
        """Give the value as it stands among the choices, or refuse it."""
        return self.at(self.index_of(value))


@dataclass(frozen=True, slots=True)
class Normal:
    """A number with a normal distribution, or a number whose logarithm has one.

    It has no bounds; nothing is proposed farther than six standard deviations from the middle.

    Attributes
    ----------
    mu : float
        Mean, of the logarithm if there is a base.
    sigma : float
        Standard deviation, of the logarithm if there is a base.
    base : float or None
        Base of the logarithm; the number itself is normal if None.
    step : float or None
        The number is rounded to a multiple of it; to a whole number if the step is one (2, not
        2.0).
    when : mapping of str to tuple
        Values of other parameters with which this one counts; always if empty.

    Raises
    ------
    InputError
        If there is no such distribution, or its numbers are too large for a float.

    Examples
    --------
    >>> Normal(-3, 1, base=10).value_at(0.5)
    0.001
    >>> Normal(20, 5, step=2).value_at(0.6)
    22
    """

    mu: float
    sigma: float = field(metadata={"rule": _positive})
    base: float | None = field(default=None, metadata={"rule": _above_one})
    step: float | None = field(default=None, metadata={"rule": _positive})
    when: Mapping[str, Any] = _conditions()

    def __post_init__(self) -> None:
        step: Any = self.step
        settle(self)
        _settle_conditions(self)
        if isinstance(step, Integral):
            object.__setattr__(self, "step", int(step))
        scale = log(self.base) if self.base is not None else 0.0
        farthest = abs(self.mu) + 6.0 * self.sigma
        if not isfinite(farthest) or scale * farthest > _LARGEST_LOG:
            raise InputError(
                f"mu is {self.mu} and sigma is {self.sigma}: the values would be too large or too "
                "small for a float"
            )

    @property
    def count(self) -> None:
        """None: there is no end of values."""
        return

    def value_at(self, u: float) -> float:
        """Give the value at a place of the unit interval."""
        z = NormalDist().inv_cdf(min(max(_inside(u), EDGE), 1.0 - EDGE))
        x = self.mu + self.sigma * z
        value = x if self.base is None else self._power(x)
        return value if self.step is None else self._multiple(value)

    def place_of(self, value: Any) -> float:
        """Give the place of a value in the unit interval."""
        value = self.checked(value)
        if self.step is None:
            return self._probability(value)
        half = 0.5 * self.step
        return 0.5 * (self._probability(value - half) + self._probability(value + half))

    def checked(self, value: Any) -> float:
        """Give the plain value, its rounding removed, or refuse it."""
        number = _number(value)
        if self.base is not None and number <= 0.0 and (self.step is None or number < 0.0):
            raise InputError(f"{shown(number)} is outside: it must be above 0")
        if self.step is None:
            return number
        nearby = self._multiple(number)
        if abs(number - nearby) > max(_GRAIN * self.step, 1e-15 * abs(number)):
            raise InputError(
                f"{shown(number)} is between two values: give a multiple of {self.step}"
            )
        return nearby

    def _power(self, x: float) -> float:
        base = e if self.base is None else self.base
        return float(base**x)

    def _multiple(self, value: float) -> float:
        step = self.step or 1.0
        number = value / step + 0.5
        if abs(number) > _EXACT:  # every float of this size is a multiple
            return int(value) if isinstance(step, int) else value
        # Whole steps give whole numbers; others are counted in decimals, as in a range of floats.
        whole = floor(number)
        return whole * step if isinstance(step, int) else float(whole * Decimal(repr(step)))

    def _probability(self, value: float) -> float:
        if self.base is not None:
            if value <= 0.0:
                return EDGE
            value = log(value) / log(self.base)
        # The complement keeps its digits in the lower tail.
        share = 0.5 * erfc((self.mu - value) / self.sigma / sqrt(2.0))
        return min(max(share, EDGE), 1.0 - EDGE)


@dataclass(frozen=True, slots=True)
class Fixed:
    """A value that is not varied.

    Attributes
    ----------
    value : Any
        The value.
    when : mapping of str to tuple
        Values of other parameters with which this one counts; always if empty.

    Raises
    ------
    InputError
        If JSON cannot hold it.
    """

    value: Any
    when: Mapping[str, Any] = _conditions()

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _plain("value", self.value))
        _settle_conditions(self)

    @property
    def count(self) -> int:
        """One."""
        return 1

    def at(self, index: int) -> Any:  # noqa: ARG002  there is but one
        """Give the value."""
        return deepcopy(self.value)

    def index_of(self, value: Any) -> int:
        """Give the index of the value."""
        value = plain(value)
        if identity(value) == identity(self.value) or _equal_numbers(value, self.value):
            return 0
        raise InputError(f"{shown(value)} cannot be chosen: it is fixed to {shown(self.value)}")

    def value_at(self, u: float) -> Any:  # noqa: ARG002  there is but one
        """Give the value."""
        return self.at(0)

    def place_of(self, value: Any) -> float:
        """Give the middle of the unit interval."""
        return 0.5 + self.index_of(value)

    def checked(self, value: Any) -> Any:
        """Give the value, or refuse another one."""
        return self.at(self.index_of(value))


Dimension = Real | Integer | Choice | Normal | Fixed
"""A kind of parameter."""

KINDS: dict[str, type[Dimension]] = {
    "float": Real,
    "int": Integer,
    "choice": Choice,
    "normal": Normal,
    "fixed": Fixed,
}
"""What ``type`` may be in a file."""


def to_json(dimension: Dimension) -> dict[str, Any]:
    """Write a dimension in the form in which it is read.

    Parameters
    ----------
    dimension : Dimension
        The dimension.

    Returns
    -------
    dict
        Its type and its fields, without those that have their default value.

    Examples
    --------
    >>> to_json(Integer(1, 8))
    {'type': 'int', 'low': 1, 'high': 8}
    """
    written = {"type": next(name for name, kind in KINDS.items() if type(dimension) is kind)}
    for each in fields(dimension):
        value = getattr(dimension, each.name)
        made = each.default_factory() if each.default_factory is not MISSING else each.default
        if made is MISSING or value != made:
            written[each.name] = plain(value)
    return written


@dataclass(frozen=True, slots=True)
class _Cells:
    """Cells of the unit interval: all of one width, or of values that are even in the logarithm."""

    count: int
    low: float = 1.0
    step: float = 1.0
    log: bool = False

    @classmethod
    def of(cls, dimension: Real | Integer) -> _Cells:
        step = dimension.step or 1.0
        return cls(dimension.count or 1, float(dimension.low), float(step), dimension.log)

    def index_at(self, u: float) -> int:
        if not self.log:
            return min(int(u * self.count), self.count - 1)
        bottom, top = self._edge(0), self._edge(self.count)
        value = exp(bottom + u * (top - bottom))
        return min(max(floor((value - self.low) / self.step + 0.5), 0), self.count - 1)

    def place_of(self, index: int) -> float:
        if not self.log:
            return (index + 0.5) / self.count
        bottom, top = self._edge(0), self._edge(self.count)
        return (0.5 * (self._edge(index) + self._edge(index + 1)) - bottom) / (top - bottom)

    def _edge(self, index: int) -> float:
        """Logarithm of the lower end of a cell, in units of the values."""
        if index == 0:
            return log(self.low - 0.5 * min(self.low, self.step))
        return log(self.low + (index - 0.5) * self.step)


def _inside(u: float) -> float:
    if not u == u:  # NaN, which min and max would let pass
        raise InputError("a place of the unit interval is NaN: give a number from 0 to 1")
    return min(max(float(u), 0.0), 1.0)


def _settle_conditions(dimension: Dimension) -> None:
    when: Any = dimension.when
    if not isinstance(when, Mapping):
        raise InputError(f"when is {shown(when)}: it must map a parameter to its values")
    settled = {}
    for name, values in when.items():
        if not isinstance(name, str):
            raise InputError(f"when holds the key {shown(name)}: keys must be text")
        several = isinstance(values, list | tuple)
        settled[name] = _values(f"when.{name}", values if several else [values])
    object.__setattr__(dimension, "when", settled)


def _values(name: str, values: Any) -> tuple[Any, ...]:
    """Make plain values of a list, each of which stands there once."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, list | tuple):
        raise InputError(f"{name} is {shown(values)}: it must be a list")
    if not values:
        raise InputError(f"{name} is []: it must not be empty")
    settled = tuple(_plain(name, value) for value in values)
    names = [identity(value) for value in settled]
    for i, value in enumerate(settled):
        if names[i] in names[:i]:
            raise InputError(f"{name} holds {shown(value)} twice: once is enough")
    return settled


def _plain(name: str, value: Any) -> Any:
    try:
        return plain(value)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _check_range(low: float, high: float, logarithmic: bool) -> None:
    if not low < high:
        raise InputError(f"low is {low} and high is {high}: low must lie below high")
    if not isfinite(high - low):
        raise InputError(f"low is {low} and high is {high}: their distance must be finite")
    if logarithmic and low <= 0:
        raise InputError(f"low is {low}: with log it must be above 0")


def _check_steps(low: float, high: float, step: float) -> None:
    if max(abs(low), abs(high)) > MOST * step:
        raise InputError(f"step is {step}: it must be at least 10^-12 of the bounds")
    number = (Decimal(repr(high)) - Decimal(repr(low))) / Decimal(repr(step))
    if round(number) < 1 or abs(number - round(number)) > _GRAIN:
        raise InputError(_does_not_divide(low, high, step))


def _does_not_divide(low: float, high: float, step: float) -> str:
    return f"step is {step}: it must divide the distance of {low} and {high}"


def _number(value: Any) -> float:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{shown(value)} is no number: give one")
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{shown(value)} is too large: give a smaller number") from None


def _whole(value: Any) -> int:
    number = plain(value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        raise InputError(f"{shown(value)} is no whole number: give one")
    return number


def _equal_numbers(one: Any, other: Any) -> bool:
    numbers = [one, other]
    kinds = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    return kinds and one == other
