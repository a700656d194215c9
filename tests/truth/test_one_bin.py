"""One bin without nuisance parameters: every answer is a sum over counts."""

from __future__ import annotations

from math import exp, lgamma, log

import numpy as np
import pytest
from made_up import counting, sample, workspace

from hepdask_ml import discovery, hypotest, upper_limit
from hepdask_ml.inference.pvalues import BANDS

SIGNAL, BACKGROUND = 5.0, 10.0
TOYS = 40_000


def at_most(n: int, mean: float) -> float:
    """P(N <= n): q-tilde falls with the count, so that these are the toys at or above the data."""
    return sum(exp(k * log(mean) - mean - lgamma(k + 1.0)) for k in range(n + 1))


def exact_cls(n: int, mu: float) -> float:
    if n >= BACKGROUND + mu * SIGNAL:
        return 1.0  # q-tilde is zero, and every toy lies at or above
    return at_most(n, BACKGROUND + mu * SIGNAL) / at_most(n, BACKGROUND)


def exact_observed(n: int, mu: float) -> tuple[float, float]:
    return at_most(n, BACKGROUND + mu * SIGNAL), at_most(n, BACKGROUND)


@pytest.mark.parametrize("observed", [6, 9, 12])
@pytest.mark.parametrize("mu", [1.0, 2.0])
def test_p_values(observed: int, mu: float) -> None:
    test = hypotest(counting(SIGNAL, BACKGROUND, observed), mu=mu, toys=TOYS, threads=2)
    clsb, clb = exact_observed(observed, mu)
    # Four errors each: with the seeds free one of these 18 numbers would fail in 1e3 choices.
    for found, truth in [(test.clsb, clsb), (test.clb, clb), (test.cls, clsb / clb)]:
        assert abs(found.value - truth) < 4.0 * found.error


@pytest.mark.parametrize("mu", [1.0, 2.0])
def test_bands(mu: float) -> None:
    test = hypotest(counting(SIGNAL, BACKGROUND, 10.0), mu=mu, toys=TOYS, threads=2)
    quantiles = dict(zip(BANDS, (0.02275, 0.15866, 0.5, 0.84134, 0.97725), strict=True))
    for band, found in zip(BANDS, test.expected, strict=True):
        n = next(n for n in range(100) if at_most(n, BACKGROUND) > quantiles[band])
        assert abs(found.value - exact_cls(n, mu)) < 4.0 * found.error, band


@pytest.mark.parametrize("observed", [3, 7, 12])
@pytest.mark.parametrize("cl", [0.9, 0.95])
def test_limits(observed: int, cl: float) -> None:
    low, high = 0.0, 20.0
    while high - low > 1e-9:
        middle = 0.5 * (low + high)
        clsb, clb = exact_observed(observed, middle)
        low, high = (middle, high) if clsb / clb > 1.0 - cl else (low, middle)
    scan = np.linspace(0.8, 1.2, 5) * low
    limit = upper_limit(
        counting(SIGNAL, BACKGROUND, observed), scan=scan, toys=TOYS, cl=cl, threads=2
    )
    assert abs(limit.observed.value - low) < 4.0 * limit.observed.error
    assert limit.observed.error < 0.03 * low


@pytest.mark.parametrize("observed", [12, 18, 22])
def test_discovery(observed: int) -> None:
    """q0 rises with the count: p0 = P(N >= n | background)."""
    found = discovery(counting(SIGNAL, BACKGROUND, observed), toys=TOYS, threads=2)
    truth = 1.0 - at_most(observed - 1, BACKGROUND)
    assert abs(found.p_value.value - truth) < 4.0 * found.p_value.error


def test_many_events_are_asymptotic() -> None:
    spec = workspace(
        {
            "c": [
                sample("s", [2000.0], {"name": "mu", "type": "normfactor", "data": None}),
                sample("b", [1e6]),
            ]
        },
        {"c": [1_000_300.0]},
    )
    test = hypotest(spec, mu=1.0, toys=TOYS, threads=2)
    assert abs(test.cls.value - test.asymptotic.observed) < 4.0 * test.cls.error
    for band, found, formula in zip(BANDS, test.expected, test.asymptotic.expected, strict=True):
        # Toys beyond mu-hat = mu have q-tilde = 0 and CLs = 1, of which the formula knows nothing.
        if band < 2:
            assert abs(found.value - formula) < 4.0 * found.error, band
    excess = discovery(spec, toys=TOYS, threads=2)
    assert abs(excess.p_value.value - excess.asymptotic_p_value) < 4.0 * excess.p_value.error
