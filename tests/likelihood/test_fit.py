"""Batched fits: true minima, kept bounds, a status for each row, and rows that do not mix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import MADE_UP, control_region, correlated, counting, one_bin, one_sided, published
from strategies import workspaces

from hepdask_ml import FitStatus, InputError, compile_model
from hepdask_ml.inference.toys import throw, unit
from hepdask_ml.likelihood import kernels
from hepdask_ml.likelihood.fit import CHUNK, fit, fit_pair
from hepdask_ml.likelihood.kernels import instruction_set
from hepdask_ml.likelihood.rates import expected_rates, twice_nll

if TYPE_CHECKING:
    from pathlib import Path

    from hepdask_ml import CompiledModel

models = pytest.mark.parametrize("spec", list(MADE_UP.values()), ids=list(MADE_UP))


def toys_of(model: CompiledModel, n: int) -> tuple[Any, Any]:
    """Toys at POI 1, and the conditional fit that they are thrown from."""
    start = model.fit(poi=1.0).pars[0]
    return throw(model, unit(model, "fit", start), seed=3, start=0, stop=n), start


def falls(model: CompiledModel, pars: Any, data: Any, held: set[int]) -> float:
    """Largest fall of -2 ln L that steps of a thousandth within the bounds still give."""
    trials = []
    for par in set(range(model.n_pars)) - held:
        for step in (-1e-3, 1e-3):
            trial = pars.copy()
            trial[par] = np.clip(trial[par] + step, model.lower[par], model.upper[par])
            trials.append(trial)
    with np.errstate(all="ignore"):
        values = twice_nll(model, np.array(trials), data)
    return float(np.nanmax(twice_nll(model, pars, data)[0] - values))


@models
@pytest.mark.parametrize("poi", [None, 0.5])
def test_minima_are_minima(spec: Any, poi: float | None) -> None:
    model = compile_model(spec)
    toys, start = toys_of(model, 40)
    fits = fit(model, toys, poi=poi, init=start)
    assert fits.converged.all()
    # The engine's vectorised exp and log are good to 1e-15; sums of -2 ln L reach a few hundred.
    np.testing.assert_allclose(fits.twice_nll, twice_nll(model, fits.pars, toys), rtol=1e-12)
    assert (fits.pars >= model.lower).all()
    assert (fits.pars <= model.upper).all()
    assert (fits.pars[:, model.fixed] == model.init[model.fixed]).all()
    held = set(np.flatnonzero(model.fixed).tolist())
    if poi is not None:
        assert (fits.pars[:, model.poi_index] == poi).all()
        held.add(model.poi_index)
    if len(held) < model.n_pars:
        # Newton's decrement is below 1e-8, so that a step of any length gains less than 1e-7.
        assert max(falls(model, *row, held) for row in zip(fits.pars, toys, strict=True)) < 1e-7


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(spec=workspaces(), seed=st.integers(0, 2**32 - 1))
def test_random_models_are_fitted_or_say_why(spec: Any, seed: int) -> None:
    model = compile_model(spec)
    rng = np.random.default_rng(seed)
    rates = np.maximum(expected_rates(model, model.init)[0], 0.0)
    data = np.tile(model.data, (12, 1))
    data[:, : model.n_main] = rng.poisson(rates, (12, model.n_main))
    fits = fit(model, data)
    assert (fits.pars >= model.lower - 1e-12)[:, ~model.fixed].all()
    assert (fits.pars <= model.upper + 1e-12)[:, ~model.fixed].all()
    sound = fits.status == FitStatus.CONVERGED
    with np.errstate(all="ignore"):
        values = twice_nll(model, fits.pars, data)
    np.testing.assert_allclose(fits.twice_nll[sound], values[sound], rtol=1e-10, atol=1e-8)
    assert np.isin(fits.status, list(FitStatus)).all()


@models
def test_free_minima_never_lie_above_fixed_ones(spec: Any) -> None:
    model = compile_model(spec)
    toys, start = toys_of(model, 200)
    pairs = fit_pair(model, toys, 0.7, init=start)
    assert (pairs.twice_nll_free <= pairs.twice_nll_fixed + 1e-9).all()


def test_rows_do_not_mix() -> None:
    model = compile_model(one_sided())
    toys, start = toys_of(model, CHUNK + 37)
    together = fit_pair(model, toys, 1.0, init=start, threads=1)
    by_threads = fit_pair(model, toys, 1.0, init=start, threads=3)
    np.testing.assert_array_equal(together.twice_nll_free, by_threads.twice_nll_free)
    order = np.random.default_rng(2).permutation(len(toys))
    shuffled = fit_pair(model, toys[order], 1.0, init=start, threads=2)
    for name in ("poi_hat", "twice_nll_fixed", "twice_nll_free", "status_fixed", "status_free"):
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(together, name)[order])
    alone = fit_pair(model, toys[5], 1.0, init=start)
    assert alone.twice_nll_free[0] == together.twice_nll_free[5]


@published
def test_most_second_minima_are_found(path: Path) -> None:
    """Against many random starts, which cost ten times as much, on few toys for the time's sake."""
    model = compile_model(path)
    toys, start = toys_of(model, 150)
    ours = fit(model, toys, poi=1.0, init=start).twice_nll
    best = ours.copy()
    rng = np.random.default_rng(7)
    for _ in range(30):
        shifts = rng.normal(0.0, 1.0, model.n_pars) * (model.constraint == 1) * model.sigma
        there = fit(model, toys, poi=1.0, init=start + shifts, starts=1)
        best = np.minimum(best, there.twice_nll)
    assert (ours - best > 1e-3).mean() <= 1 / 150


@pytest.mark.parametrize("counts", [0.0, 1.0, 1e7])
@models
def test_no_data_set_raises(spec: Any, counts: float) -> None:
    model = compile_model(spec)
    data = model.data.copy()
    data[: model.n_main] = counts
    fits = fit(model, data)
    assert np.isfinite(fits.pars).all()
    assert FitStatus(int(fits.status[0])).sentence


def test_nothing_free_is_answered() -> None:
    model = compile_model(counting())
    fits = fit(model, model.data, poi=1.0)
    assert fits.status[0] == FitStatus.CONVERGED
    np.testing.assert_allclose(fits.twice_nll, twice_nll(model, fits.pars, model.data), rtol=1e-12)


def test_no_data_sets_are_no_fits() -> None:
    model = compile_model(correlated())
    assert len(fit(model, np.empty((0, model.n_data)))) == 0


def test_a_model_without_poi_is_fitted_freely_only() -> None:
    model = compile_model(control_region(), poi="")
    assert model.fit().converged.all()
    with pytest.raises(InputError, match="no parameter of interest"):
        model.fit(poi=1.0)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([1.0], "do not match"),
        ([1.0, 2.0, 3.0], "do not match"),
        ([-1.0, 0.0], "negative count"),
        ([np.nan, 0.0], "finite"),
        ([[[1.0, 0.0]]], "do not match"),
        (["a", "b"], "not numbers"),
    ],
)
def test_bad_data(data: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        compile_model(one_bin()).fit(data)


def test_bad_settings() -> None:
    model = compile_model(one_bin())
    with pytest.raises(InputError, match="starts is 0"):
        model.fit(starts=0)
    with pytest.raises(InputError, match="cannot be fixed at nan"):
        model.fit(poi=np.nan)
    with pytest.raises(InputError, match="starting point"):
        model.fit(init=np.zeros(3))


def test_the_engine_names_its_instruction_set() -> None:
    assert instruction_set() in kernels.INSTRUCTION_SETS
