"""Dimensions: the maps to and from the unit interval, the distributions, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from math import exp, isclose, log, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hpo.made_up_spaces import (
    continuous,
    countable,
    dimensions,
    integers,
    normals,
    numbers,
    some_step,
    stepped,
    units,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.dimensions import (
    EDGE,
    Choice,
    Dimension,
    Fixed,
    Integer,
    Normal,
    Real,
    to_json,
)
from hepdask_ml.hpo.values import identity

if TYPE_CHECKING:
    from collections.abc import Callable

Countable = Real | Integer | Choice | Fixed

CERTAIN = 1e-9
"""Rate of false alarms of each test of a distribution."""


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same one: 1 is not 1.0, and not True."""
    return identity(one) == identity(other)


def dimension_count(dimension: Countable) -> int:
    assert dimension.count is not None
    return dimension.count


@given(dimensions, units)
@settings(deadline=None)
def test_every_place_has_a_valid_value(dimension: Dimension, u: float) -> None:
    value = dimension.value_at(u)
    assert alike(dimension.checked(value), value)
    assert 0.0 <= dimension.place_of(value) <= 1.0


@given(countable, units)
@settings(deadline=None)
def test_a_value_comes_back_from_its_place(dimension: Countable, u: float) -> None:
    value = dimension.value_at(u)
    assert alike(dimension.value_at(dimension.place_of(value)), value)


@given(normals(some_step), st.floats(1e-6, 1.0 - 1e-6))
@settings(deadline=None)
def test_a_rounded_normal_value_comes_back_from_its_place(dimension: Normal, u: float) -> None:
    value = dimension.value_at(u)
    # Beyond, neighbours are closer than the places can be told apart.
    if abs(value) < 1e9:
        assert alike(dimension.value_at(dimension.place_of(value)), value)


@given(countable, units)
@settings(deadline=None)
def test_a_place_lies_in_the_cell_of_its_value(dimension: Countable, u: float) -> None:
    """Between the middles of the cells beside it."""
    index = dimension.index_of(dimension.value_at(u))
    if index > 0:
        assert dimension.place_of(dimension.at(index - 1)) <= u
    if index < dimension_count(dimension) - 1:
        assert u <= dimension.place_of(dimension.at(index + 1))


@given(countable, units)
@settings(deadline=None)
def test_indices_and_values_are_inverse(dimension: Countable, u: float) -> None:
    count = dimension_count(dimension)
    index = min(int(u * count), count - 1)
    assert dimension.index_of(dimension.at(index)) == index
    assert alike(dimension.value_at(dimension.place_of(dimension.at(index))), dimension.at(index))


@given(continuous(), units)
@settings(deadline=None)
def test_a_continuous_place_comes_back_from_its_value(dimension: Real, u: float) -> None:
    low, high = dimension.low, dimension.high
    spread = log(high / low) if dimension.log else (high - low) / max(abs(low), abs(high))
    # Four roundings of the value, or of its logarithm, on the scale of the width.
    largest = max(1.0, abs(log(low)), abs(log(high))) if dimension.log else 1.0
    assert abs(dimension.place_of(dimension.value_at(u)) - u) <= 1e-15 * largest / spread + 1e-15


@given(continuous(), units)
@settings(deadline=None)
def test_a_continuous_value_comes_back_from_its_place(dimension: Real, u: float) -> None:
    value = dimension.value_at(u)
    back = dimension.value_at(dimension.place_of(value))
    scale = value * 40.0 if dimension.log else max(abs(dimension.low), abs(dimension.high))
    assert abs(back - value) <= 1e-14 * scale


@given(
    st.floats(-10, 10),
    st.floats(0.01, 5),
    st.floats(1e-6, 1.0 - 1e-6),
    st.sampled_from([None, 10.0]),
)
def test_a_normal_place_comes_back(mu: float, sigma: float, u: float, base: float | None) -> None:
    dimension = Normal(mu, sigma, base=base)
    # A value is rounded by 1e-16 of itself: by that times mu / sigma on the normal's own scale.
    assert abs(dimension.place_of(dimension.value_at(u)) - u) <= 1e-12


@given(numbers, units, units)
@settings(deadline=None)
def test_values_rise(dimension: Real | Integer | Normal, one: float, other: float) -> None:
    low, high = sorted([one, other])
    assert dimension.value_at(low) <= dimension.value_at(high)


@given(st.one_of(continuous(), stepped(), integers()))
@settings(deadline=None)
def test_the_ends_are_values(dimension: Real | Integer) -> None:
    assert dimension.value_at(0.0) == dimension.low
    assert dimension.value_at(1.0) == dimension.high
    assert dimension.value_at(-3.0) == dimension.low
    assert dimension.value_at(7.0) == dimension.high
    if dimension.count is not None:
        assert (dimension.at(0), dimension.at(dimension.count - 1)) == (
            dimension.low,
            dimension.high,
        )


def test_steps_are_counted_in_decimals() -> None:
    tenths = Real(0, 1, step=0.1)
    assert [tenths.at(k) for k in range(11)] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert Real(0.1, 0.7, step=0.2).count == 4
    thirds = Real(0, 1, step=1 / 3)
    assert [thirds.at(k) for k in range(4)] == [0, 1 / 3, 2 / 3, 1]
    assert Normal(0, 1, step=0.1).value_at(0.617) == 0.3


def test_a_whole_step_makes_whole_numbers() -> None:
    assert alike(Normal(20, 5, step=1).value_at(0.5), 20)
    assert alike(Normal(20, 5, step=1.0).value_at(0.5), 20.0)
    assert alike(Normal(2, 1, base=10, step=5).value_at(0.5), 100)
    huge = Normal(10, 3, base=10, step=1)
    assert alike(huge.checked(huge.value_at(1.0)), huge.value_at(1.0))


def test_a_normal_number_ends_at_six_deviations() -> None:
    dimension = Normal(1, 2)
    assert dimension.value_at(0.0) == dimension.value_at(EDGE / 2)
    assert 1 - 2 * 6.0 < dimension.value_at(0.0) < 1 - 2 * 5.99
    assert (dimension.place_of(-1e9), dimension.place_of(1e9)) == (EDGE, 1.0 - EDGE)
    assert Normal(0, 1, base=10, step=1).place_of(0) > 0.0


# -- Distributions ---------------------------------------------------------------------------------


def farthest(values: Any, share_up_to: Callable[[float], float]) -> float:
    """Give the largest distance of the share of values at or below a value from what it should be.

    At the values themselves and just below them, since shares jump there.
    """
    found, counts = np.unique(values, return_counts=True)
    shares = np.cumsum(counts) / len(values)
    expected = np.array([share_up_to(float(value)) for value in found])
    return float(np.abs(shares - expected).max())


def allowed(number: int) -> float:
    """Give the distance that chance exceeds with the probability CERTAIN (Dvoretzky, Massart)."""
    return sqrt(log(2.0 / CERTAIN) / (2.0 * number))


def log_steps(low: float, high: float, step: float) -> Callable[[float], float]:
    """Probability of values up to one of these, by the formula in the module's docstring."""
    start, end = low - min(low, step) / 2.0, high + step / 2.0
    return lambda value: log((value + step / 2.0) / start) / log(end / start)


CASES: list[tuple[str, Dimension, Callable[[float], float]]] = [
    ("uniform", Real(-2, 3), lambda x: (x + 2) / 5),
    ("log", Real(1e-5, 1e-1, log=True), lambda x: log(x / 1e-5) / log(1e4)),
    ("steps", Real(0, 1, step=0.25), lambda x: (x / 0.25 + 1) / 5),
    ("log steps", Real(0.5, 8, log=True, step=0.5), log_steps(0.5, 8, 0.5)),
    ("wide log steps", Real(1, 16, log=True, step=5), log_steps(1, 16, 5)),
    ("whole", Integer(3, 7), lambda x: (x - 2) / 5),
    ("whole steps", Integer(32, 512, step=32), lambda x: x / 512),
    ("whole log", Integer(1, 100, log=True), log_steps(1, 100, 1)),
    ("normal", Normal(3, 0.5), NormalDist(3, 0.5).cdf),
    ("log-normal", Normal(-3, 1, base=10), lambda x: NormalDist(-3, 1).cdf(log(x, 10))),
    ("normal steps", Normal(1, 3, step=2), lambda x: NormalDist(1, 3).cdf(x + 1)),
    (
        "log-normal steps",
        Normal(1, 1, base=2, step=1),
        lambda x: NormalDist(1, 1).cdf(log(x + 0.5, 2)),
    ),
    ("choice", Choice((10, 20, 30)), lambda x: x / 30),
]


@pytest.mark.parametrize(("dimension", "share"), [case[1:] for case in CASES],
                         ids=[case[0] for case in CASES])  # fmt: skip
def test_values_are_distributed_as_they_should(
    dimension: Dimension, share: Callable[[float], float]
) -> None:
    rng = np.random.default_rng(20_260)
    values = [dimension.value_at(u) for u in rng.random(20_000)]
    assert farthest(values, share) < allowed(len(values))


def test_the_test_of_a_distribution_sees_a_wrong_one() -> None:
    """Rounding a log-uniform number to whole ones is the usual mistake: 1 is too rare."""
    rng = np.random.default_rng(1)
    values = np.round(np.exp(rng.random(20_000) * log(100)))
    assert farthest(values, log_steps(1, 100, 1)) > allowed(len(values))


def test_small_whole_numbers_are_as_likely_as_the_logarithm_says() -> None:
    dimension = Integer(1, 8, log=True)
    places = [dimension.place_of(value) for value in range(1, 9)]
    cells = [log((value + 0.5) / (value - 0.5)) / log(17) for value in range(1, 9)]
    for (low, high), (one, other) in zip(pairwise(places), pairwise(cells), strict=True):
        assert isclose(high - low, (one + other) / 2)
    assert isclose(exp(log(17) * places[0]) * 0.5, sqrt(0.5 * 1.5))


# -- Values that are checked -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dimension", "given", "plain"),
    [
        (Real(0, 1), np.float32(0.5), 0.5),
        (Real(0, 1), 1, 1.0),
        (Real(1e-5, 0.1, log=True), 0.10000000000000002, 0.1),
        (Real(1e-5, 0.1, log=True), 0.99999999999e-5, 1e-5),
        (Real(0, 1, step=0.1), np.float64(0.30000000000000004), 0.3),
        (Integer(1, 8), np.int64(3), 3),
        (Integer(1, 8), 3.0, 3),
        (Choice((32, 64)), np.float64(64.0), 64),
        (Choice((1, 1.0, True)), True, True),
        (Choice((1, 1.0, True)), 1.0, 1.0),
        (Choice(([1, 2], {"a": None})), (1, 2), [1, 2]),
        (Choice(("adam", "sgd")), np.str_("sgd"), "sgd"),
        (Normal(0, 1, step=0.1), 0.30000000000000004, 0.3),
        (Normal(0, 1, step=2), 4.0, 4),
        (Fixed(3), 3.0, 3),
        (Fixed(np.array([1.5, 2.5])), [1.5, 2.5], [1.5, 2.5]),
    ],
)
def test_checked_values_are_plain(dimension: Dimension, given: Any, plain: Any) -> None:
    found = dimension.checked(given)
    assert alike(found, plain)
    assert type(found) is type(plain)


@pytest.mark.parametrize(
    ("dimension", "value", "sentence"),
    [
        (Real(0, 1), 1.1, "1.1 is outside: it must lie between 0.0 and 1.0"),
        (Real(0, 1), float("nan"), "nan is no value: numbers must be finite"),
        (Real(0, 1), True, "true is no number: give one"),
        (Real(0, 1), "0.5", '"0.5" is no number: give one'),
        (Real(0, 1), None, "null is no number: give one"),
        (Real(0, 1), 10**400, "is too large: give a smaller number"),
        (Real(1e-9, 1, log=True), 0.5e-9, "5e-10 is outside"),
        (Real(0, 1, step=0.5), 0.3, "0.3 is between two values: they are 0.0 and steps of 0.5"),
        (Integer(1, 8), 9, "9 is outside: it must lie between 1 and 8"),
        (Integer(1, 8), 2.5, "2.5 is no whole number: give one"),
        (Integer(1, 9, step=2), 4, "4 is between two values: they are 1 and steps of 2"),
        (Choice(("adam", "sgd")), "sdg", '"sdg" is none of them: did you mean "sgd"?'),
        (Choice((1, 2)), 3, "3 is none of them: choose from 1, 2"),
        (Choice((1, 2)), True, "true is none of them"),
        (Normal(0, 1, base=10), 0.0, "0.0 is outside: it must be above 0"),
        (Normal(0, 1, step=0.5), 0.3, "0.3 is between two values: give a multiple of 0.5"),
        (Fixed(1), 2, "2 cannot be chosen: it is fixed to 1"),
        (Choice((1, 2)), {1, 2}, "is no value: give text, a number, true or false"),
        (Choice((1, 2)), {1: 2}, "keys must be text"),
    ],
)
def test_other_values_are_refused(dimension: Dimension, value: Any, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        dimension.checked(value)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_place_that_is_no_number_is_refused() -> None:
    for dimension in (Real(0, 1), Integer(0, 1), Choice((1, 2)), Normal(0, 1)):
        with pytest.raises(InputError, match="NaN"):
            dimension.value_at(float("nan"))


def test_a_value_can_be_changed_without_changing_the_dimension() -> None:
    dimension = Choice(([1], [2]))
    dimension.value_at(0.0).append(9)
    dimension.checked([1]).append(9)
    assert dimension.values == ([1], [2])
    fixed = Fixed({"a": [1]})
    fixed.value_at(0.5)["a"].append(2)
    to_json(fixed)["value"]["a"].append(2)
    assert fixed.value == {"a": [1]}


def test_a_continuous_number_has_no_indices() -> None:
    assert Real(0, 1).count is None
    assert Normal(0, 1).count is None
    with pytest.raises(InputError, match="give it a step"):
        Real(0, 1).at(0)
