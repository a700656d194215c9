"""CLs+b, CLb, CLs and bands are those of pyhf's toys within the errors of both."""

from __future__ import annotations

from math import hypot
from typing import Any

import numpy as np
import pyhf
import pytest
from made_up import correlated, one_bin, two_bins
from pyhf.infer.calculators import ToyCalculator
from pyhf.tensor.numpy_backend import numpy_backend

from hepdask_ml import hypotest
from hepdask_ml.inference.pvalues import cls_value, expected_cls, p_value

PYHF_TOYS = 400


@pytest.fixture(autouse=True)
def _percentile_of_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyhf 0.7.6 calls numpy.percentile with interpolation=, which numpy 2.4 does not know."""

    def percentile(
        self: Any, values: Any, q: Any, axis: Any = None, interpolation: str = "linear"
    ) -> Any:
        return np.percentile(values, q, axis=axis, method=interpolation)  # type: ignore[call-overload]

    monkeypatch.setattr(numpy_backend, "percentile", percentile)


@pytest.mark.slow
@pytest.mark.parametrize("make", [one_bin, two_bins, correlated])
def test_cls_and_bands(make: Any) -> None:
    spec, mu = make(), 0.8
    workspace = pyhf.Workspace(spec)
    model = workspace.model()
    np.random.seed(7)  # noqa: NPY002 - pyhf draws from the global stream
    calculator = ToyCalculator(workspace.data(model), model, ntoys=PYHF_TOYS, track_progress=False)
    q_observed = float(calculator.teststatistic(mu))
    sb, b = calculator.distributions(mu)
    clsb, clb, _ = calculator.pvalues(q_observed, sb, b)
    bands = calculator.expected_pvalues(sb, b)[2]
    ours = hypotest(spec, mu=mu, toys=20_000, threads=2)
    assert ours.q_observed == pytest.approx(q_observed, abs=1e-3)
    theirs_sb, theirs_b = p_value(sb.samples, q_observed), p_value(b.samples, q_observed)
    assert theirs_sb.value == pytest.approx(float(clsb))
    assert theirs_b.value == pytest.approx(float(clb))
    expected = expected_cls(sb.samples, b.samples)
    np.testing.assert_allclose([cls.value for cls in expected], np.array(bands, float), rtol=1e-6)
    mine = [ours.clsb, ours.clb, ours.cls, *ours.expected]
    cls = cls_value(theirs_sb, theirs_b).total
    theirs = [theirs_sb, theirs_b, cls, *(band.total for band in expected)]
    # Four joint errors on 24 numbers: one false alarm in 600 choices of the fixed seeds.
    for left, right in zip(mine, theirs, strict=True):
        assert abs(left.value - right.value) < 4.0 * hypot(left.error, right.error)
