"""Summaries are what numpy finds in all numbers at once, however these were shared out."""

from __future__ import annotations

import json
import pickle
from functools import reduce
from math import inf, nan
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.data.summaries import BITS, Counts, Summary
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from random import Random

FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=32)
# What a field of a detector may hold: squares that neither overflow nor vanish.
MODERATE = st.one_of(
    st.floats(-1e6, 1e6, width=32), st.integers(-700, 700).map(float), st.just(nan)
)
SHARES = st.integers(0, 100).map(lambda percent: percent / 100)


@st.composite
def shared_out(draw: st.DrawFn, values: st.SearchStrategy[float]) -> list[list[float]]:
    """Lists of numbers, some of them empty, to be joined in the order that comes."""
    return draw(st.lists(st.lists(values, max_size=30), min_size=1, max_size=6))


@given(shared_out(MODERATE), st.randoms(use_true_random=False))
def test_joining_parts_in_any_order_gives_the_whole(
    parts: list[list[float]], order: Random
) -> None:
    whole = Summary.of([value for part in parts for value in part])
    summaries = [Summary.of(part) for part in parts]
    while len(summaries) > 1:
        # Any two are joined next: any tree over any permutation.
        one = summaries.pop(order.randrange(len(summaries)))
        other = summaries.pop(order.randrange(len(summaries)))
        summaries.append(one + other)
    found = summaries[0]
    exact = ("count", "missing", "infinite", "low", "high", "rounded")
    assert [getattr(found, name) for name in exact] == [getattr(whole, name) for name in exact]
    size = max(abs(whole.low), abs(whole.high)) if whole.count else 0.0
    assert found.mean == pytest.approx(whole.mean, rel=1e-12, abs=1e-12 * size)
    assert found.squares == pytest.approx(
        whole.squares, rel=1e-9, abs=1e-12 * size * size * whole.count
    )


@given(st.lists(MODERATE, min_size=1, max_size=60).filter(lambda v: not np.isnan(v).all()))
def test_summary_is_what_numpy_says(values: list[float]) -> None:
    array = np.array(values, np.float32)
    found = Summary.of(array)
    finite = array[np.isfinite(array)].astype(np.float64)
    assert (found.count, found.missing) == (finite.size, np.isnan(array).sum())
    assert (found.low, found.high) == (finite.min(), finite.max())
    assert found.mean == pytest.approx(finite.mean())
    assert found.std == pytest.approx(finite.std(), abs=1e-9)


@given(st.lists(FLOATS, min_size=1, max_size=60), SHARES)
def test_quantile_is_off_by_rounding_alone(values: list[float], share: float) -> None:
    array = np.array(values, np.float32)
    finite = array[np.isfinite(array)]
    if not finite.size:
        with pytest.raises(InputError, match="no numbers to take a quantile of"):
            Summary.of(array).quantile(share)
        return
    # The lowest number that at least this share do not exceed, with whole numbers alone.
    at = max(-(-round(share * 100) * finite.size // 100), 1) - 1
    exact = float(np.sort(finite)[at])
    small = float(np.finfo(np.float32).tiny)
    bound = max(abs(exact), small) * 2.0 ** -(BITS + 1)
    assert abs(Summary.of(array).quantile(share) - exact) <= bound


@given(st.lists(st.integers(-512, 512), min_size=1, max_size=60), SHARES)
def test_quantiles_of_whole_numbers_are_exact(values: list[int], share: float) -> None:
    expected = Counts.of(np.array(values)).quantile(share)
    assert Summary.of(np.array(values, np.float32)).quantile(share) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "bool"])
def test_kinds_of_numbers(dtype: str) -> None:
    found = Summary.of(np.array([0, 1, 1, 0, 1], dtype))
    assert (found.mean, found.quantile(0.4), found.quantile(0.5)) == (0.6, 0.0, 1.0)


def test_no_numbers() -> None:
    nothing = Summary.of([])
    assert (nothing.count, nothing.mean, nothing.std, nothing.low) == (0, 0.0, 0.0, inf)
    seen = Summary.of([[1.0, nan], [3.0, -inf]])
    assert nothing + seen + nothing == seen
    assert nothing + nothing == nothing
    assert (seen.count, seen.missing, seen.infinite, seen.mean) == (2, 1, 1, 2.0)


def test_a_large_offset_costs_no_precision() -> None:
    values = 1e9 + np.random.default_rng(1).normal(size=10_000)
    found = reduce(Summary.__add__, map(Summary.of, np.split(values, 100)))
    assert found.std == pytest.approx(values.std(), rel=1e-7)


def test_numbers_whose_squares_overflow_say_so() -> None:
    found = Summary.of([1e300, -1e300]) + Summary.of([5e299])
    assert found.std == inf
    assert found.high == 1e300
    assert found.quantile(1.0) <= 1e300
    assert Summary.of_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


@given(st.lists(MODERATE, max_size=30))
def test_ways_through_json_and_pickle(values: list[float]) -> None:
    found = Summary.of(values)
    assert Summary.of_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    assert pickle.loads(pickle.dumps(found)) == found


@given(st.lists(st.integers(0, 10**9), max_size=40), st.lists(st.integers(0, 5), max_size=40))
def test_counts_are_exact(some: list[int], others: list[int]) -> None:
    found = Counts.of(some) + Counts.of(others)
    numbers, times = np.unique([*some, *others], return_counts=True)
    assert found.numbers.tolist() == numbers.tolist()
    assert found.times.tolist() == times.tolist()
    assert found == Counts.of([*others, *some])
    assert found.total == len(some) + len(others)
    assert Counts.of_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_percentile_is_taken_as_it_is_written() -> None:
    # 0.07 * 100 is 7.000000000000001 in floating point, and the eighth number not asked for.
    assert Counts.of(np.arange(1, 101)).quantile(0.07) == 7


@pytest.mark.parametrize("share", [-0.1, 1.5, nan, inf])
def test_no_share_beyond_all(share: float) -> None:
    with pytest.raises(InputError, match="give a share from 0 to 1"):
        Counts.of([1]).quantile(share)


def test_histograms_are_near_those_of_the_numbers() -> None:
    values = np.random.default_rng(5).normal(0.0, 2.0, 20_000)
    edges = np.linspace(-5.0, 5.0, 41)
    found = Summary.of(values).histogram(edges)
    expected = np.histogram(values, edges)[0]
    assert found == pytest.approx(expected, abs=20)
    assert Summary.of([]).histogram(edges).tolist() == [0.0] * 40


def test_distinct_numbers() -> None:
    numbers, times = Summary.of([2.0, -1.0, 2.0, 0.0]).distinct()
    assert numbers.tolist() == [-1.0, 0.0, 2.0]
    assert times.tolist() == [1, 1, 2]
