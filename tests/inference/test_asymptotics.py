"""Asymptotic numbers are pyhf's."""

from __future__ import annotations

import json
from math import isnan, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pyhf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import MADE_UP, published

from hepdask_ml import discovery, upper_limit
from hepdask_ml.inference.asymptotics import (
    asymptotic_cls,
    asymptotic_discovery,
)
from hepdask_ml.inference.hypotest import prepare
from hepdask_ml.inference.pvalues import BANDS
from hepdask_ml.likelihood.fit import DEFAULT_STARTS

if TYPE_CHECKING:
    from pathlib import Path

    from hepdask_ml.inference.statistics import TestStatistic

SMALL = ["counting", "one bin", "two bins", "correlated", "control region", "data-driven"]


def minuit_pyhf(source: Any) -> tuple[pyhf.Model, Any]:
    workspace = pyhf.Workspace(source)
    model = workspace.model()
    # pyhf's minuit fit fails where no parameter is left free.
    pyhf.set_backend("numpy", "minuit" if model.config.npars > 1 else "scipy")
    return model, workspace.data(model)


@pytest.fixture(autouse=True)
def _scipy_after() -> Any:
    yield
    pyhf.set_backend("numpy", "scipy")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("kind", ["qtilde", "q"])
@pytest.mark.parametrize("mu", [0.3, 1.0, 2.5])
def test_cls_is_that_of_pyhf(name: str, kind: TestStatistic, mu: float) -> None:
    compare_cls(MADE_UP[name], kind, mu, tolerance=2e-4)


@published
@pytest.mark.slow
def test_cls_of_published_likelihoods_is_that_of_pyhf(path: Path) -> None:
    compare_cls(json.loads(path.read_text()), "qtilde", 1.0, tolerance=1e-3)


def compare_cls(source: Any, kind: TestStatistic, mu: float, tolerance: float) -> None:
    ours = prepare(source, None, kind, DEFAULT_STARTS).asymptotic(mu)
    model, data = minuit_pyhf(source)
    observed, _, expected = pyhf.infer.hypotest(
        mu,
        data,
        model,
        test_stat=kind,
        calctype="asymptotics",
        return_expected_set=True,
        return_tail_probs=True,
    )
    assert ours.observed == pytest.approx(float(observed), abs=tolerance)
    np.testing.assert_allclose(ours.expected, [float(cls) for cls in expected], atol=tolerance)


@pytest.mark.parametrize("name", SMALL)
def test_discovery_is_that_of_pyhf(name: str) -> None:
    ours = discovery(MADE_UP[name], toys=1)
    model, data = minuit_pyhf(MADE_UP[name])
    p0 = pyhf.infer.hypotest(0.0, data, model, test_stat="q0", calctype="asymptotics")
    assert ours.asymptotic_p_value == pytest.approx(float(p0), abs=5e-3)


@pytest.mark.parametrize("name", ["counting", "one bin", "two bins", "correlated"])
@pytest.mark.parametrize("cl", [0.95, 0.68])
def test_limits_are_those_of_pyhf(name: str, cl: float) -> None:
    ours = upper_limit(MADE_UP[name], toys=1, scan=[1.0], cl=cl).asymptotic
    model, data = minuit_pyhf(MADE_UP[name])
    observed, expected = pyhf.infer.intervals.upper_limits.toms748_scan(
        data, model, 0.1, 8.0, level=1.0 - cl, rtol=1e-5
    )
    assert ours.observed == pytest.approx(float(observed), rel=1e-3)
    np.testing.assert_allclose(ours.expected, [float(limit) for limit in expected], rtol=1e-3)


@given(
    kind=st.sampled_from(["q", "qtilde", "t"]),
    beyond=st.floats(-6.0, 6.0),
    shift=st.floats(0.6, 6.0),
)
@settings(deadline=None)
def test_cls_is_a_probability_and_bands_are_ordered(
    kind: TestStatistic, beyond: float, shift: float
) -> None:
    found = asymptotic_cls(kind, max(shift + beyond, 0.0) ** 2, shift**2)
    assert 0.0 <= found.observed <= 1.0 + 1e-9
    assert (np.diff(found.expected) >= -1e-9).all()


@given(shift=st.floats(0.1, 3.0))
@settings(deadline=None, max_examples=8)
def test_bands_are_quantiles_of_the_asymptotic_distribution(shift: float) -> None:
    """Eq. 35: without a signal the root of t_mu is the size of a normal number about the shift."""
    z = np.array([NormalDist(shift).inv_cdf((i + 0.5) / 4000) for i in range(4000)])
    for kind, values in {"t": np.abs(z), "q": np.maximum(z, 0.0)}.items():
        cls = np.sort([asymptotic_cls(kind, root**2, shift**2).observed for root in values])  # type: ignore[arg-type]
        quantiles = np.quantile(cls, [NormalDist().cdf(band) for band in BANDS])
        found = asymptotic_cls(kind, 1.0, shift**2).expected  # type: ignore[arg-type]
        # For q the toys at zero share one value, which the continuous formula does not know.
        continuous = [kind == "t" or shift - band > 0.05 for band in BANDS]
        np.testing.assert_allclose(np.array(found)[continuous], quantiles[continuous], atol=0.005)


@pytest.mark.parametrize("q_asimov", [0.0, float("nan")])
def test_hypotheses_that_are_alike_have_no_cls(q_asimov: float) -> None:
    found = asymptotic_cls("qtilde", 0.0, q_asimov)
    assert isnan(found.observed)
    assert all(isnan(cls) for cls in found.expected)


@given(q0=st.floats(0.0, 60.0))
def test_significance_is_the_root(q0: float) -> None:
    p, z = asymptotic_discovery(q0)
    assert z == sqrt(q0)
    assert p > 0.0
    assert p == pytest.approx(1.0 - NormalDist().cdf(z), abs=1e-12)
