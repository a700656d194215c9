"""Test statistics are pyhf's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyhf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import control_region, correlated, one_bin, two_bins

from hepdask_ml import InputError, compile_model
from hepdask_ml.inference.hypotest import LIMIT_STATISTICS
from hepdask_ml.inference.statistics import (
    TestStatistic,
    bounded,
    checked_test_statistic,
    test_statistic,
)
from hepdask_ml.inference.toys import ensemble, throw
from hepdask_ml.likelihood.fit import FitPairs, fit_pair

KINDS: list[TestStatistic] = ["q0", "q", "qtilde", "t"]
PYHF = {
    "q0": pyhf.infer.test_statistics.q0,
    "q": pyhf.infer.test_statistics.qmu,
    "qtilde": pyhf.infer.test_statistics.qmu_tilde,
    "t": pyhf.infer.test_statistics.tmu,
}


def pairs(mu: float, poi_hat: Any, fixed: Any, free: Any) -> FitPairs:
    status = np.zeros(len(poi_hat), np.int8)
    return FitPairs(mu, np.array(poi_hat), np.array(fixed), np.array(free), status, status)


numbers = st.floats(-5.0, 5.0)


@given(
    kind=st.sampled_from(KINDS),
    mu=numbers,
    rows=st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=20),
)
@settings(deadline=None)
def test_statistics_are_never_negative_and_vanish_on_their_side(
    kind: TestStatistic, mu: float, rows: list[tuple[float, float, float]]
) -> None:
    hat, fixed, free = (list(column) for column in zip(*rows, strict=True))
    values = test_statistic(kind, pairs(mu, hat, fixed, free))
    for value, best, high, low in zip(values, hat, fixed, free, strict=True):
        zero = {"q0": best < 0.0, "t": False}.get(kind, best > mu)
        assert value == (0.0 if zero else max(high - low, 0.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [one_bin, two_bins, correlated, control_region])
@pytest.mark.parametrize("lower", [0.0, -5.0])
def test_statistics_of_toys_are_those_of_pyhf(
    kind: TestStatistic, make: Any, lower: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make()
    bounds = [[lower, 10.0]]
    spec["measurements"][0]["config"]["parameters"].append({"name": "mu", "bounds": bounds})
    model = bounded(compile_model(spec), kind)
    mu = 0.0 if kind == "q0" else 0.7
    start = model.fit(poi=mu).pars[0]
    toys = throw(model, ensemble(model, "pyhf", start), seed=5, start=0, stop=6)
    ours = test_statistic(kind, fit_pair(model, toys, mu, init=start))
    theirs_model = pyhf.Workspace(spec).model()
    config = theirs_model.config
    limits = config.suggested_bounds()
    if kind == "qtilde":
        # pyhf asks its user for this bound, by a warning.
        limits[config.poi_index] = (0.0, 10.0)
    # pyhf tells by log when a bound suits another statistic.
    theirs = [
        float(
            PYHF[kind](
                mu,
                pyhf.tensorlib.astensor(toy),
                theirs_model,
                config.suggested_init(),
                limits,
                config.suggested_fixed(),
            )
        )
        for toy in toys
    ]
    # SLSQP stops within some 1e-4 of its minimum.
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_qtilde_bounds_the_parameter_at_zero_and_leaves_the_rest() -> None:
    spec = one_bin()
    parameters = spec["measurements"][0]["config"]["parameters"]
    parameters.append({"name": "mu", "bounds": [[-5.0, 10.0]], "inits": [-1.0]})
    model = compile_model(spec)
    assert bounded(model, "q") is model
    assert bounded(model, "t") is model
    narrow = bounded(model, "qtilde")
    assert narrow.lower[model.poi_index] == 0.0
    assert model.lower[model.poi_index] == -5.0
    assert narrow.fit().pars[0, model.poi_index] >= 0.0
    assert narrow.fit().converged.all()


@pytest.mark.parametrize("kind", ["q0", "qmu", "", "Q", None, 3])
def test_unknown_statistics_are_refused(kind: Any) -> None:
    with pytest.raises(InputError, match="choose from qtilde, q, t"):
        checked_test_statistic(kind, LIMIT_STATISTICS)
