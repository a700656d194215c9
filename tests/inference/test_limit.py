"""Limits: crossings, scans that find them, errors that hold."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyhf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import control_region, counting, one_bin, one_sided, two_bins

from hepdask_ml import InputError, upper_limit
from hepdask_ml.inference.limit import crossing

GRID = np.array([1.0, 2.0, 3.0, 4.0])


def limit_at(cls: list[float], level: float = 0.05) -> float:
    return crossing(GRID, np.array(cls), np.full(4, 0.01), level).value


@given(rate=st.floats(0.3, 5.0), level=st.floats(0.01, 0.3))
def test_exponential_curves_are_crossed_exactly(rate: float, level: float) -> None:
    grid = np.linspace(0.1, 30.0, 60)
    found = crossing(grid, np.exp(-rate * grid), np.full(60, 1e-4), level)
    true = -math.log(level) / rate
    if grid[0] < true < grid[-1]:
        assert found.value == pytest.approx(true, rel=1e-9)


def test_crossings_of_odd_curves() -> None:
    assert 2.0 < limit_at([0.5, 0.2, 0.0, 0.0]) < 3.0
    assert 3.0 < limit_at([0.5, 0.04, 0.2, 0.01]) < 4.0, "the last crossing counts"
    assert math.isnan(limit_at([0.5, 0.4, 0.3, 0.2]))
    assert math.isnan(limit_at([0.01, 0.01, 0.01, 0.01]))
    assert 1.0 < limit_at([0.5, float("nan"), 0.01, float("nan")]) < 3.0
    assert math.isnan(limit_at([float("nan")] * 4))


@pytest.mark.parametrize("spec", [one_bin(), two_bins(), control_region(), one_sided()])
def test_the_scan_finds_every_limit(spec: Any) -> None:
    found = upper_limit(spec, toys=1_000)
    values = [limit.value for limit in found.expected]
    assert all(math.isfinite(value) for value in (*values, found.observed.value))
    assert values == sorted(values)
    assert all(limit.error > 0.0 for limit in (found.observed, *found.expected))
    mu = [point.mu for point in found.points]
    assert mu == sorted(mu)


@pytest.mark.parametrize("spec", [one_bin(), two_bins(), control_region()])
@pytest.mark.parametrize("cl", [0.9, 0.95])
def test_asymptotic_limits_are_pyhfs(spec: Any, cl: float) -> None:
    source = pyhf.Workspace(spec)
    model = source.model()
    # upper_limit of pyhf 0.7.6 forgets its level on the way to this function.
    observed, expected = pyhf.infer.intervals.upper_limits.toms748_scan(
        source.data(model), model, 0.1, 8.0, level=1.0 - cl
    )
    found = upper_limit(spec, toys=20, scan=[1.0], cl=cl).asymptotic
    # Theirs follow from fits that stop at 1e-6 or so, and from a root search.
    assert found.observed == pytest.approx(float(observed), rel=2e-3)
    assert found.expected == pytest.approx([float(value) for value in expected], rel=2e-3)


def test_errors_are_the_spread_of_seeds() -> None:
    scan = [0.5, 0.8, 1.1, 1.4, 1.7, 2.0, 2.4]
    runs = [upper_limit(two_bins(), toys=400, scan=scan, seed=seed) for seed in range(60)]
    values = np.array([run.observed.value for run in runs])
    quoted = math.sqrt(np.mean([run.observed.error**2 for run in runs]))
    # The spread of 60 is known to 9 %.
    assert values.std() == pytest.approx(quoted, rel=0.3)


def test_equal_seeds_give_equal_files_whatever_the_threads() -> None:
    texts = {
        json.dumps(
            upper_limit(control_region(), toys=700, scan=[0.5, 1.0, 2.0], threads=n).to_json(),
            allow_nan=False,
        )
        for n in (1, 2, 4)
    }
    assert len(texts) == 1


def test_the_document_is_complete() -> None:
    document = upper_limit(one_bin(), toys=300, scan=[0.5, 3.0]).to_json()
    assert document["schema"] == "hepdask-ml/limit/1"
    assert set(document) >= {"poi", "cl", "test_statistic", "seed", "toys", "points", "limits"}
    assert set(document["limits"]) == {"observed", "expected", "asymptotic"}
    assert len(document["limits"]["asymptotic"]["expected"]) == 5


def test_a_scan_that_does_not_cross_says_so() -> None:
    found = upper_limit(one_bin(), toys=200, scan=[0.01, 0.02])
    assert found.to_json()["limits"]["observed"] == {"value": None, "error": None}
    assert any("does not cross" in warning for warning in found.warnings)


def test_bounds_end_the_automatic_scan() -> None:
    found = upper_limit(counting(signal=0.01), toys=100)
    assert max(point.mu for point in found.points) == 10.0
    assert any("bounds of the parameter" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"cl": 0.0}, "between 0 and 1"),
        ({"cl": 1.0}, "between 0 and 1"),
        ({"cl": float("nan")}, "between 0 and 1"),
        ({"scan": []}, "empty"),
        ({"scan": ["a"]}, "no number"),
        ({"scan": "automatic"}, '"auto"'),
        ({"scan": [1.0, 99.0]}, "bounds"),
        ({"scan": [float("nan")]}, "bounds"),
        ({"test_statistic": "q0"}, "q0"),
    ],
)
def test_bad_input(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        upper_limit(one_bin(), **{"toys": 10, **wrong})
