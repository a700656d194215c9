"""Fits of whole batches: right, within bounds, the same for every row whatever is beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import (
    MADE_UP,
    MU,
    counting,
    data_driven,
    one_bin,
    one_sided,
    published,
    sample,
    workspace,
)
from reference import minuit, slopes
from strategies import rounding, workspaces

from hepdask_ml import InputError, compile_model
from hepdask_ml.inference.toys import ensemble, throw
from hepdask_ml.likelihood.fit import FitStatus, fit, fit_pair
from hepdask_ml.likelihood.rates import expected_rates, twice_nll

if TYPE_CHECKING:
    from pathlib import Path

    from hepdask_ml import CompiledModel

CODES = [
    {"normsys": {"interpcode": norm}, "histosys": {"interpcode": shape}}
    for norm in ("code1", "code4")
    for shape in ("code0", "code2", "code4p")
]


def toys_of(model: CompiledModel, n: int = 40, seed: int = 3) -> Any:
    return throw(model, ensemble(model, "fit tests", model.init), seed=seed, start=0, stop=n)


def random_toys(model: CompiledModel, seed: int, n: int = 6) -> Any:
    """Rows about the observed one, auxiliary data within their widths."""
    rng = np.random.default_rng(seed)
    data = np.repeat(model.data[None], n, axis=0)
    data[:, : model.n_main] = rng.poisson(data[:, : model.n_main] + 1.0)
    for kind in (1, 2):
        aux = model.aux_index[model.constraint == kind]
        data[:, aux] = (
            rng.normal(data[:, aux], model.sigma[model.constraint == 1])
            if kind == 1
            else rng.poisson(data[:, aux])
        )
    return data


def assert_honest(model: CompiledModel, data: Any, fits: Any, poi: float | None) -> None:
    """Statuses are known, constant parameters constant, and -2 ln L is that of the parameters."""
    assert set(fits.status.tolist()) <= set(FitStatus)
    assert np.isfinite(fits.pars).all()
    held = model.fixed.copy()
    values = model.init.copy()
    if poi is not None:
        held[model.poi_index], values[model.poi_index] = True, poi
    constant = fits.pars[:, held]
    np.testing.assert_array_equal(constant, np.tile(values[held], (len(constant), 1)))
    free = fits.pars[:, ~held]
    assert (free >= model.lower[~held]).all()
    assert (free <= model.upper[~held]).all()
    # Below zero lies the engine's floor; above, a rate is a sum of terms up to a few hundred, known
    # to 1e-13, and n ln nu to n / nu of that, which shows where the terms cancel.
    rates = expected_rates(model, fits.pars)
    above = (fits.status == FitStatus.CONVERGED) & (rates > 1e-4).all(axis=1)
    theirs = twice_nll(model, fits.pars[above], data[above])
    cancelled = 2e-13 * (data[above, : model.n_main] / rates[above]).sum(axis=1)
    allowed = 1e-12 * np.abs(theirs) + 1e-9 + cancelled + rounding(data.max(axis=0))
    assert (np.abs(fits.twice_nll[above] - theirs) <= allowed).all()


def projected(model: CompiledModel, pars: Any, row: Any, poi: float | None) -> Any:
    """Slopes of -2 ln L that a step within the bounds could follow downwards."""
    slope = slopes(model, pars, row)
    slope[model.fixed] = 0.0
    if poi is not None:
        slope[model.poi_index] = 0.0
    slope[(pars <= model.lower) & (slope > 0)] = 0.0
    slope[(pars >= model.upper) & (slope < 0)] = 0.0
    return slope


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(spec=workspaces(), codes=st.sampled_from(CODES), seed=st.integers(0, 10_000))
def test_fits_of_random_models_are_honest(spec: Any, codes: Any, seed: int) -> None:
    model = compile_model(spec, modifier_settings=codes)
    data = random_toys(model, seed)
    for poi in (None, 1.3) if model.poi_index >= 0 else (None,):
        assert_honest(model, data, fit(model, data, poi=poi), poi)


@pytest.mark.parametrize("poi", [None, 0.7])
@pytest.mark.parametrize("name", MADE_UP)
def test_the_projected_gradient_vanishes(name: str, poi: float | None) -> None:
    model = compile_model(MADE_UP[name])
    data = toys_of(model, 12)
    fits = fit(model, data, poi=poi)
    assert fits.converged.all()
    assert_honest(model, data, fits, poi)
    for pars, row in zip(fits.pars, data, strict=True):
        slope = projected(model, pars, row, poi)
        step = 1e-4 * np.maximum(np.abs(pars), 0.1)
        bend = np.array(
            [
                (slopes(model, pars + h, row)[k] - slopes(model, pars - h, row)[k]) / (2 * h[k])
                for k, h in enumerate(np.diag(step))
            ]
        )
        # What -2 ln L could still fall along each parameter; the engine stops at 1e-8 of -ln L.
        fall = 0.5 * slope**2 / np.maximum(bend, 1e-3)
        assert fall.max() < 1e-6


@settings(
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(spec=workspaces(), seed=st.integers(0, 10_000))
def test_minuit_finds_nothing_lower_on_random_models(spec: Any, seed: int) -> None:
    model = compile_model(spec)
    data = random_toys(model, seed, n=2)
    fits = fit(model, data)
    for row, ours, status in zip(data, fits.twice_nll, fits.status, strict=True):
        theirs, place = minuit(model, row, None, model.init)
        # Where a rate is negative minuit may be paid for it, and the engine is not.
        if status == FitStatus.CONVERGED and (expected_rates(model, place) > 1e-4).all():
            assert ours - theirs < 1e-3


@pytest.mark.parametrize("name", MADE_UP)
def test_neighbours_chunks_and_threads_change_no_bit(name: str) -> None:
    model = compile_model(MADE_UP[name])
    data = np.tile(toys_of(model, 150), (4, 1))  # more than one chunk
    order = np.random.default_rng(8).permutation(len(data))
    whole = fit(model, data, threads=1)
    for other, rows in (
        (fit(model, data, threads=2), slice(None)),
        (fit(model, data[order], threads=2), order),
        (fit(model, data[:3], threads=1), slice(3)),
        (fit(model, data[7], threads=1), slice(7, 8)),
    ):
        np.testing.assert_array_equal(other.pars, whole.pars[rows])
        np.testing.assert_array_equal(other.status, whole.status[rows])
        # numpy sums ln n! in another order for a batch of one row: that is the last bits' size.
        np.testing.assert_array_equal(other.twice_nll, whole.twice_nll[rows])


@pytest.mark.parametrize("name", MADE_UP)
@pytest.mark.parametrize("starts", [1, 8])
def test_the_free_minimum_is_never_above_the_fixed_one(name: str, starts: int) -> None:
    model = compile_model(MADE_UP[name])
    pairs = fit_pair(model, toys_of(model), 1.0, starts=starts)
    noise = 1e-9 * np.abs(pairs.twice_nll_fixed)
    assert (pairs.twice_nll_free <= pairs.twice_nll_fixed + np.maximum(noise, 1e-7)).all()
    assert pairs.poi_test == 1.0


@pytest.mark.parametrize("name", MADE_UP)
def test_more_starts_are_never_worse(name: str) -> None:
    model = compile_model(MADE_UP[name])
    data = toys_of(model, 100)
    one, many = (fit(model, data, starts=starts).twice_nll for starts in (1, 8))
    assert (many <= one + 1e-6).all()


@pytest.mark.parametrize("name", MADE_UP)
def test_hopeless_data_do_not_harm_their_neighbours(name: str) -> None:
    model = compile_model(MADE_UP[name])
    data = toys_of(model, 6)
    alone = fit(model, data)
    data[1, : model.n_main] = 0.0
    data[3, : model.n_main] = 1e7
    data[5, model.n_main :] = 0.0
    together = fit(model, data)
    assert_honest(model, data, together, None)
    for row in (0, 2, 4):
        np.testing.assert_array_equal(together.pars[row], alone.pars[row])
        # Counts beyond the table of ln n! are summed in another order.
        np.testing.assert_array_equal(together.twice_nll[row], alone.twice_nll[row])
        assert together.status[row] == alone.status[row]


def test_a_fit_with_nothing_to_fit_gives_the_likelihood() -> None:
    model = compile_model(counting())
    data = np.array([[0.0], [7.0], [25.0]])
    fits = fit(model, data, poi=2.0)
    assert fits.converged.all()
    np.testing.assert_allclose(fits.twice_nll, twice_nll(model, fits.pars, data), rtol=1e-13)


def test_one_bin_has_the_analytic_minimum() -> None:
    model = compile_model(counting(signal=5.0, background=10.0))
    counts = np.arange(0.0, 40.0)
    fits = fit(model, counts[:, None])
    assert fits.converged.all()
    np.testing.assert_allclose(fits.pars[:, 0], np.clip((counts - 10.0) / 5.0, 0, 10), atol=2e-3)


def test_a_saturated_model_reproduces_its_data() -> None:
    model = compile_model(data_driven())
    data = np.array([[104.0, 55.0, 24.0, 11.0, 6.0, 4.0]])
    fits = fit(model, data)
    free = expected_rates(model, fits.pars)[0]
    np.testing.assert_allclose(free.sum(), data.sum(), rtol=1e-4)


def test_no_rows_give_no_fits() -> None:
    model = compile_model(one_bin())
    assert len(fit(model, np.empty((0, model.n_data)))) == 0


def test_a_runaway_negative_rate_has_a_floor_and_a_status() -> None:
    spec = workspace({"c": [sample("s", [-3.0], MU), sample("b", [4.0])]}, {"c": [0.0]})
    fits = fit(compile_model(spec), np.array([[0.0]]))
    assert fits.status[0] in (FitStatus.RATE_FLOOR, FitStatus.CONVERGED)
    assert fits.twice_nll[0] > -1.0
    assert fits.converged.all()


def test_every_status_has_a_sentence() -> None:
    assert len({status.sentence for status in FitStatus}) == len(FitStatus)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (np.ones((2, 5)), "do not match the model"),
        (np.ones((2, 2, 2)), "do not match the model"),
        (np.array([[1.0, np.nan]]), "must be finite"),
        (np.array([[-1.0, 0.0]]), "negative count"),
        ([["many", "few"]], "not numbers"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused(data: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fit(compile_model(one_bin()), data)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"poi": np.nan}, "cannot be fixed"),
        ({"starts": 0}, "at least one fit"),
        ({"init": np.zeros(7)}, "starting point"),
        ({"init": np.array([np.nan, 1.0])}, "starting point"),
    ],
)
def test_impossible_wishes_are_refused(options: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        compile_model(one_bin()).fit(**options)


def test_a_poi_is_needed_to_hold_one() -> None:
    model = compile_model(one_sided(), poi="")
    with pytest.raises(InputError, match="no parameter of interest"):
        model.fit(poi=1.0)


def test_random_starts_hardly_improve_on_the_search() -> None:
    model = compile_model(MADE_UP["one-sided"])
    start = model.fit(poi=1.0).pars[0]
    toys = throw(model, ensemble(model, "starts", start), seed=4, start=0, stop=400)
    search, random = (fit(model, toys, poi=1.0, init=start, starts=n).twice_nll for n in (8, 30))
    assert (random <= search + 1e-9).all()
    assert (search > random + 1e-3).mean() <= 0.01


@published
def test_rows_of_published_likelihoods_do_not_mix(path: Path) -> None:
    """Here fits are long enough to use all that the engine remembers of its last steps."""
    model = compile_model(path)
    start = model.fit(poi=1.0).pars[0]
    toys = throw(model, ensemble(model, "rows", start), seed=6, start=0, stop=700)
    together = fit_pair(model, toys, 1.0, init=start, threads=1)
    order = np.random.default_rng(3).permutation(len(toys))
    shuffled = fit_pair(model, toys[order], 1.0, init=start, threads=2)
    for name in ("poi_hat", "twice_nll_fixed", "twice_nll_free", "status_free"):
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(together, name)[order])
