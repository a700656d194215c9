"""p-values from counts: ties, empty tails, bands and their errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hepdask_ml.inference.pvalues import BANDS, Measured, cls_value, expected_cls, p_value

# Few different values, as q-tilde has with few events: many ties.
statistics = arrays(np.float64, st.integers(1, 60), elements=st.sampled_from([0.0, 0.0, 0.5, 1, 3]))
PERCENTILES = [2.27501319, 15.86552539, 50.0, 84.13447461, 97.72498681]


@settings(deadline=None)
@given(q=statistics, observed=st.sampled_from([0.0, 0.5, 0.7, 3.0, 4.0]))
def test_ties_lie_above(q: Any, observed: float) -> None:
    found = p_value(q, observed)
    assert found.value == sum(value >= observed for value in q.tolist()) / len(q)
    assert found.error > 0.0


@settings(deadline=None)
@given(q_sb=statistics, q_b=statistics)
def test_bands_are_pyhfs(q_sb: Any, q_b: Any) -> None:
    # pyhf.infer.calculators.ToyCalculator.expected_pvalues, in its O(n^2) form.
    each = [np.mean(q_sb >= q) / np.mean(q_b >= q) for q in q_b]
    expected = np.percentile(each, PERCENTILES)
    found = expected_cls(q_sb, q_b)
    np.testing.assert_allclose([cls.value for cls in found], expected, rtol=1e-6, atol=1e-12)


@settings(deadline=None)
@given(q_sb=statistics, q_b=statistics, seed=st.integers(0, 99))
def test_the_order_of_toys_does_not_matter(q_sb: Any, q_b: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert expected_cls(q_sb, q_b) == expected_cls(rng.permutation(q_sb), rng.permutation(q_b))


@settings(deadline=None)
@given(
    q_sb=statistics,
    q_b=statistics,
    observed=st.sampled_from([0.0, 0.5, 3.0]),
    seed=st.integers(0, 99),
)
def test_the_last_digits_do_not_break_ties(q_sb: Any, q_b: Any, observed: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rounded = [q + rng.uniform(-4e-7, 4e-7, len(q)) for q in (q_sb, q_b)]
    assert p_value(rounded[0], observed) == p_value(q_sb, observed)
    values = [cls.value for cls in expected_cls(*rounded)]
    np.testing.assert_array_equal(values, [cls.value for cls in expected_cls(q_sb, q_b)])


def test_without_toys_nothing_is_known() -> None:
    empty = np.empty(0)
    assert math.isnan(p_value(empty, 1.0).value)
    assert all(math.isnan(cls.value) for cls in expected_cls(empty, np.ones(3)))


def test_no_background_toy_above_leaves_cls_undefined() -> None:
    assert math.isnan(cls_value(Measured(0.1, 0.01), Measured(0.0, 0.01)).value)


def test_an_empty_tail_has_an_error() -> None:
    found = p_value(np.zeros(100), 1.0)
    assert found.value == 0.0
    assert found.error == pytest.approx(0.00995, rel=1e-3)


def test_errors_are_the_spread_of_repetitions() -> None:
    """Exponential statistics whose bands are known; 400 repetitions give the spread to 4 %."""
    rng = np.random.default_rng(4)
    n = 2_000
    runs = [
        expected_cls(rng.exponential(1.0, n), rng.exponential(1.5, n) + 0.1) for _ in range(400)
    ]
    for i, band in enumerate(BANDS):
        values = np.array([run[i].value for run in runs])
        quoted = np.sqrt(np.mean([run[i].error ** 2 for run in runs]))
        assert values.std() == pytest.approx(quoted, rel=0.25), f"band {band}"


def test_a_million_toys_sort_once() -> None:
    rng = np.random.default_rng(1)
    q = rng.exponential(1.0, 1_000_000)
    assert len(expected_cls(q, 1.3 * q)) == len(BANDS)
