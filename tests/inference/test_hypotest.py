"""Hypothesis tests against pyhf's asymptotic ones, and their bad input."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyhf
import pytest
from made_up import control_region, correlated, counting, one_bin, one_sided, published, two_bins

from hepdask_ml import InputError, compile_model, discovery, hypotest
from hepdask_ml.inference.hypotest import prepare

if TYPE_CHECKING:
    from pathlib import Path


def model_and_data(spec: dict[str, Any]) -> tuple[pyhf.Model, Any]:
    source = pyhf.Workspace(spec)
    model = source.model()
    return model, source.data(model)


@pytest.mark.parametrize("spec", [one_bin(), two_bins(), correlated(), control_region()])
@pytest.mark.parametrize("mu", [0.4, 1.0, 2.0])
def test_asymptotics_are_pyhfs(spec: Any, mu: float) -> None:
    model, data = model_and_data(spec)
    with np.errstate(all="ignore"):
        observed, expected = pyhf.infer.hypotest(mu, data, model, return_expected_set=True)
    ours = prepare(model, data, "qtilde", 8).asymptotic(mu)
    # Their minimiser stops at a relative precision of 1e-6 of -2 ln L or so.
    assert ours.observed == pytest.approx(float(observed), abs=2e-4)
    assert ours.expected == pytest.approx([float(value) for value in expected], abs=2e-4)


@published
def test_asymptotics_of_published_likelihoods_are_pyhfs(path: Path) -> None:
    model, data = model_and_data(json.loads(path.read_text()))
    ours = prepare(model, data, "qtilde", 8).asymptotic(1.0)
    pyhf.set_backend("numpy", "scipy")
    observed, expected = pyhf.infer.hypotest(1.0, data, model, return_expected_set=True)
    # SLSQP with numerical gradients, on 64 parameters.
    assert ours.observed == pytest.approx(float(observed), abs=5e-3)
    assert ours.expected == pytest.approx([float(value) for value in expected], abs=5e-3)


@pytest.mark.parametrize("kind", ["qtilde", "q", "t"])
def test_a_test_is_complete_and_its_json_has_no_nan(kind: str) -> None:
    test = hypotest(one_sided(), mu=1.0, toys=600, test_statistic=kind)
    document = json.loads(json.dumps(test.to_json(), allow_nan=False))
    assert document["toys"] == {"sb": 600, "b": 600}
    assert document["unconverged"] == 0
    assert list(document["expected"]) == ["-2", "-1", "0", "1", "2"]
    assert 0.0 <= document["observed"]["cls"] <= 1.0
    values = [cls.value for cls in test.expected]
    assert values == sorted(values)


def test_a_signal_of_zero_is_never_excluded() -> None:
    test = hypotest(one_bin(), mu=0.0, toys=200)
    assert test.cls.value == 1.0


def test_pyhf_models_and_workspaces_give_the_same() -> None:
    model, data = model_and_data(two_bins())
    ours = hypotest(model, data, 1.0, toys=500)
    again = hypotest(two_bins(), mu=1.0, toys=500)
    assert ours.to_json() == again.to_json()


def test_threads_and_seeds() -> None:
    one = hypotest(control_region(), mu=1.0, toys=1200, threads=1, seed=9)
    many = hypotest(control_region(), mu=1.0, toys=1200, threads=3, seed=9)
    other = hypotest(control_region(), mu=1.0, toys=1200, seed=10)
    assert one.to_json() == many.to_json()
    assert one.to_json() != other.to_json()


def test_more_toys_begin_with_the_same_toys() -> None:
    few = hypotest(control_region(), mu=1.0, toys=700)
    more = hypotest(control_region(), mu=1.0, toys=1500)
    np.testing.assert_array_equal(more.toys_b.q[:700], few.toys_b.q)


def test_qtilde_bounds_the_poi_at_zero() -> None:
    spec = one_bin()
    spec["measurements"][0]["config"]["parameters"] = [{"name": "mu", "bounds": [[-5.0, 10.0]]}]
    assert hypotest(spec, mu=1.0, toys=50).toys_b.poi_hat.min() >= 0.0
    unbounded = hypotest(spec, mu=1.0, toys=50, test_statistic="q")
    assert unbounded.toys_b.poi_hat.min() < 0.0
    assert not any("q-tilde" in warning for warning in unbounded.warnings)
    bounded = hypotest(one_bin(), mu=1.0, toys=50, test_statistic="q")
    assert any("q-tilde" in warning for warning in bounded.warnings)


def test_too_few_toys_are_told() -> None:
    warnings = hypotest(one_bin(), mu=1.0, toys=100).warnings
    assert any("too few" in warning for warning in warnings)


def test_data_far_from_the_background_leave_cls_undefined() -> None:
    test = hypotest(counting(observed=0.0, background=40.0), mu=1.0, toys=50)
    assert test.to_json()["observed"]["cls"] is None
    assert any("undefined" in warning for warning in test.warnings)


def test_discovery() -> None:
    excess = discovery(counting(signal=5.0, background=4.0, observed=9.0), toys=20_000)
    assert excess.poi_hat == pytest.approx(1.0, abs=1e-4)
    # P(n >= 9 | 4) = 0.0214, and binomial errors of 20,000 toys: within four of them.
    assert excess.p_value.value == pytest.approx(0.02136, abs=4 * excess.p_value.error)
    assert excess.significance.value == pytest.approx(2.03, abs=5 * excess.significance.error)
    assert discovery(counting(observed=5.0), toys=100).p_value.value == 1.0


def test_no_toy_beyond_the_data_is_told() -> None:
    found = discovery(counting(observed=60.0, background=5.0, signal=60.0), toys=100)
    assert found.p_value.value == 0.0
    assert np.isnan(found.significance.value)
    assert any("throw more" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"mu": -1.0}, "bounds"),
        ({"mu": 11.0}, "bounds"),
        ({"mu": float("nan")}, "bounds"),
        ({"toys": 0}, "toys is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"starts": 0}, "starts is 0"),
        ({"test_statistic": "q0"}, "q0"),
        ({"test_statistic": "nonsense"}, "nonsense"),
        ({"data": [1.0]}, "do not match"),
        ({"data": [[1.0, 0.0], [2.0, 0.0]]}, "2 data sets"),
    ],
)
def test_bad_input(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        hypotest(one_bin(), **{"toys": 10, **wrong})


def test_a_poi_is_needed() -> None:
    with pytest.raises(InputError, match="no parameter of interest"):
        hypotest(compile_model(one_bin(), poi=""), toys=10)
