"""Questions that are answered by the kernels' own text: as on a processor, toy by toy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from made_up import control_region, counting, one_sided

from hepdask_ml import hypotest, toy_limit, upper_limit
from hepdask_ml.inference import engines
from hepdask_ml.likelihood import kernels_gpu

if TYPE_CHECKING:
    from gpu.conftest import Card

SCAN = [0.5, 2.0]


@pytest.mark.parametrize("make", [counting, control_region, one_sided])
@pytest.mark.parametrize("kind", ["qtilde", "q", "t"])
def test_hypothesis_tests_are_those_of_the_cpu(card: Card, make: Any, kind: str) -> None:
    options: dict[str, Any] = {"mu": 1.0, "toys": card.n_toys, "test_statistic": kind}
    cpu = hypotest(make(), **options, engine="cpu")
    gpu = hypotest(make(), **options, engine="gpu")
    assert gpu.engine == f"GPU, {kernels_gpu.device_name()} (as asked for)"
    for ours, theirs in ((gpu.toys_sb, cpu.toys_sb), (gpu.toys_b, cpu.toys_b)):
        np.testing.assert_array_equal(ours.status, theirs.status)
        np.testing.assert_allclose(ours.q, theirs.q, rtol=0.0, atol=1e-6)
    assert gpu.to_json() == cpu.to_json()


def test_a_campaign_is_that_of_the_cpu(card: Card) -> None:
    cpu = upper_limit(control_region(), scan=SCAN, toys=card.n_toys, engine="cpu")
    campaign = toy_limit(control_region(), scan=SCAN, toys=card.n_toys, engine="gpu")
    assert campaign.run(threads=2).to_json() == cpu.to_json()


def test_auto_measures_both(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_RACES", {})
    monkeypatch.setattr(engines, "START_S", 0.0)
    monkeypatch.setattr(engines, "TRIAL_S", 1e-4)
    monkeypatch.setattr(engines, "FIRST_GPU", card.n_toys)
    found = hypotest(counting(), mu=1.0, toys=card.n_toys)
    assert "toys/s of this model, against " in found.engine
    [race] = engines._RACES.values()
    assert race.gpu is not None
