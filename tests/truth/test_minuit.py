"""The engine finds minima that are never higher than minuit's, on the same data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from made_up import MADE_UP, published
from reference import minuit_pairs

from hepdask_ml import compile_model
from hepdask_ml.inference.toys import ensemble, throw
from hepdask_ml.likelihood.fit import converged, fit_pair

if TYPE_CHECKING:
    from pathlib import Path

TOYS = 200
FEW = 100
"""Toys of the published likelihoods, for each of which minuit takes a tenth of a second."""


@published
def test_published_likelihoods(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_never_higher(path, capsys, FEW)


@pytest.mark.parametrize("name", MADE_UP)
def test_made_up_likelihoods(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_never_higher(MADE_UP[name], capsys, TOYS)


def assert_never_higher(source: Any, capsys: pytest.CaptureFixture[str], n_toys: int) -> None:
    model = compile_model(source)
    start = model.fit(poi=1.0).pars[0]
    toys = throw(model, ensemble(model, "minuit", start), seed=11, start=0, stop=n_toys)
    ours = fit_pair(model, toys, 1.0, init=start, threads=None)
    assert converged(ours.status_fixed).all()
    assert converged(ours.status_free).all()
    mine = np.column_stack([ours.twice_nll_fixed, ours.twice_nll_free])
    theirs = minuit_pairs(source, toys, 1.0, start)
    gap = mine - theirs
    with capsys.disabled():
        print(
            f"\n  ours lower in {(gap < -1e-3).sum()} fits, minuit in {(gap > 1e-3).sum()}, "
            f"of {gap.size}; largest {gap.max():.1e}"
        )
    # A thousandth of a unit of -2 ln L: a thousand times less than what a toy's q matters by.
    assert (gap <= 1e-3).all()
    # Both in the same minimum: what is left is minuit's own tolerance, 2e-6 in this setting.
    same = (np.abs(gap) < 1e-4).all(axis=1)
    assert same.mean() > 0.6
    q = np.maximum(mine[:, 0] - mine[:, 1], 0.0)
    q_minuit = np.maximum(theirs[:, 0] - theirs[:, 1], 0.0)
    np.testing.assert_allclose(q[same], q_minuit[same], atol=1e-5)
