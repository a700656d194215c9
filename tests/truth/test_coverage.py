"""A 95 % limit lies above the truth in 95 % of experiments, and with CLs in more."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from made_up import one_bin

from hepdask_ml import compile_model
from hepdask_ml.inference.hypotest import prepare, test_point
from hepdask_ml.inference.toys import ToySettings, ensemble, throw
from hepdask_ml.likelihood.fit import DEFAULT_STARTS

EXPERIMENTS = 2000
TOYS = 1000
LEVEL = 0.05
MU, ALPHA = 3.0, 0.5


@pytest.mark.slow
def test_limits_cover() -> None:
    spec = one_bin()
    # Many events, so that counts are fine steps: one count of 130 moves a p-value by less than 1 %.
    for sample in spec["channels"][0]["samples"]:
        sample["data"] = [10.0 * rate for rate in sample["data"]]
    model = compile_model(spec)
    truth = np.empty(model.n_pars)
    truth[model.poi_index], truth[1 - model.poi_index] = MU, ALPHA
    data = throw(model, ensemble(model, "truth", truth), seed=17, start=0, stop=EXPERIMENTS)
    kept_sb = kept_cls = 0
    for experiment, row in enumerate(data):
        ready = prepare(model, row, "qtilde", DEFAULT_STARTS)
        test = test_point(ready, MU, ToySettings(TOYS, seed=experiment, threads=1))
        # The limit lies at or above the truth if and only if the truth is not excluded.
        kept_sb += test.clsb.value >= LEVEL
        kept_cls += test.cls.value >= LEVEL
    # Binomial error of the coverage: 0.5 %; three of them, and what a step of the count is worth.
    error = sqrt(LEVEL * (1.0 - LEVEL) / EXPERIMENTS)
    assert abs(kept_sb / EXPERIMENTS - (1.0 - LEVEL)) < 3.0 * error
    assert kept_cls >= kept_sb
