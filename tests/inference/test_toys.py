"""Toys: thrown about the expectation, fitted alike by any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyhf
import pytest
from made_up import MADE_UP, MU, control_region, luminosity, one_bin, sample, two_bins, workspace

from hepdask_ml import InputError, compile_model
from hepdask_ml.inference.toys import LARGEST_RATE, Ensemble, ToySettings, ensemble, evaluate, throw
from hepdask_ml.likelihood.fit import FitPairs, FitStatus

TOYS = 20_000


@pytest.mark.parametrize("name", ["two bins", "control region", "luminosity", "one-sided"])
def test_toys_have_the_mean_and_spread_of_pyhf(name: str) -> None:
    model = compile_model(MADE_UP[name])
    pars = model.fit(poi=1.0).pars[0]
    toys = throw(model, ensemble(model, "moments", pars), seed=3, start=0, stop=TOYS)
    source = pyhf.Workspace(MADE_UP[name]).model()
    expected = np.array(source.expected_data(pars.tolist()), float)
    normal = model.constraint == 1
    variance = expected.copy()
    variance[model.aux_index[normal]] = model.sigma[normal] ** 2
    spread = np.sqrt(variance)
    pulls = (toys.mean(axis=0) - expected) / np.maximum(spread, 1e-9) * np.sqrt(TOYS)
    # At most 20 data a model: five standard deviations happen once in 1e5 seeds.
    assert np.abs(pulls).max() < 5.0
    np.testing.assert_allclose(toys.std(axis=0), spread, rtol=0.05, atol=1e-9)
    np.testing.assert_array_equal(toys[:, : model.n_main] % 1.0, 0.0)


def test_units_and_seeds_make_different_toys() -> None:
    model = compile_model(two_bins())
    one, other = ensemble(model, "one", model.init), ensemble(model, "other", model.init)
    toys = throw(model, one, seed=1, start=0, stop=100)
    assert not np.array_equal(toys, throw(model, other, seed=1, start=0, stop=100))
    assert not np.array_equal(toys, throw(model, one, seed=2, start=0, stop=100))


@pytest.mark.parametrize("at", [0, 5, 512, 1300])
def test_an_empty_range_has_no_toys(at: int) -> None:
    model = compile_model(one_bin())
    toys = throw(model, ensemble(model, "empty", model.init), seed=1, start=at, stop=at)
    assert toys.shape == (0, model.n_data)


@pytest.mark.parametrize("make", [one_bin, control_region, luminosity])
def test_results_do_not_depend_on_threads_or_their_number(make: Any) -> None:
    model = compile_model(make())
    start = model.fit(poi=0.5).pars[0]
    ensembles = [ensemble(model, "a", start), ensemble(model, "b", start)]

    def results(threads: int, toys: int) -> Any:
        found = evaluate(model, ensembles, 0.5, "qtilde", ToySettings(toys, 4, threads=threads))
        return [np.array([each.q, each.poi_hat, each.status]) for each in found]

    serial = results(1, 1500)
    for threads in (2, 5):
        np.testing.assert_array_equal(results(threads, 1500), serial)
    np.testing.assert_array_equal(results(2, 700), [each[:, :700] for each in serial])


def test_progress_is_told_of_every_toy() -> None:
    class Count:
        done = 0

        def plan(self, total: int) -> None: ...

        def advance(self, toys: int) -> None:
            self.done += toys

    model, count = compile_model(one_bin()), Count()
    evaluate(
        model, [ensemble(model, "a", model.init)] * 2, 1.0, "t", ToySettings(1025, progress=count)
    )
    assert count.done == 2050


def negative(rate: float) -> Any:
    return workspace(
        {"c": [sample("s", [1.0, 1.0], MU), sample("b", [rate, 5.0])]}, {"c": [1.0, 5.0]}
    )


def test_a_negative_rate_throws_zeros_and_says_so() -> None:
    model = compile_model(negative(-3.0))
    background = ensemble(model, "b", np.array([1.0]))
    assert background.floored
    toys = throw(model, background, seed=1, start=0, stop=50)
    np.testing.assert_array_equal(toys[:, 0], 0.0)


@pytest.mark.parametrize("mu", [np.nan, 10.0 * LARGEST_RATE])
def test_rates_that_cannot_be_drawn_are_refused(mu: float) -> None:
    model = compile_model(two_bins())
    pars = model.init.copy()
    pars[model.poi_index] = mu
    with pytest.raises(InputError, match="cannot be thrown"):
        ensemble(model, "b", pars)


@pytest.mark.parametrize("toys", [0, -1, 1.5, float("nan"), "many", None])
def test_a_wrong_number_of_toys_is_refused(toys: Any) -> None:
    with pytest.raises(InputError, match="toys is"):
        ToySettings(toys)


@pytest.mark.parametrize("option", ["threads", "starts"])
@pytest.mark.parametrize("value", [0, -2, 0.5, "two"])
def test_wrong_options_are_refused(option: str, value: Any) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(InputError, match=f"{option} is"):
        ToySettings(10, **options)


@pytest.mark.parametrize("seed", [1.5, "one", None, float("nan")])
def test_a_wrong_seed_is_refused(seed: Any) -> None:
    with pytest.raises(InputError, match="seed is"):
        ToySettings(10, seed)


def test_toys_without_convergence_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = int(FitStatus.MAX_ITERATIONS)

    def pairs(model: Any, data: Any, poi: float, **options: Any) -> FitPairs:
        zero, status = np.zeros(len(data)), np.zeros(len(data), np.int8)
        status_free = status.copy()
        status_free[::4] = failed
        return FitPairs(poi, zero, zero + 1.0, zero, status, status_free)

    monkeypatch.setattr("hepdask_ml.inference.toys.fit_pair", pairs)
    model = compile_model(one_bin())
    background: Ensemble = ensemble(model, "b", model.init)
    [result] = evaluate(model, [background], 1.0, "t", ToySettings(400))
    assert len(result.q) == 400
    assert len(result.counted) == 300
