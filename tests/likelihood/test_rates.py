"""The numpy reference against pyhf's interpolations, and against formulae written out by hand."""

from __future__ import annotations

import json
from math import lgamma, log, pi
from typing import TYPE_CHECKING, Any

import numpy as np
import pyhf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import MADE_UP, counting, histosys, normsys, one_bin, published, sample, workspace
from strategies import rounding, workspaces

from hepdask_ml import InputError, compile_model
from hepdask_ml.likelihood.rates import (
    expected_data,
    expected_rates,
    norm_factors,
    shape_interpolation,
    twice_nll,
)

if TYPE_CHECKING:
    from pathlib import Path

    from hepdask_ml import CompiledModel

# Both sides evaluate the same polynomial or power in doubles, in another order of operations:
# a few roundings of 1e-16, times what the differences of nearby numbers cancel.
RELATIVE = 1e-12

CODES = [
    {"normsys": {"interpcode": norm}, "histosys": {"interpcode": shape}}
    for norm in ("code1", "code4")
    for shape in ("code0", "code2", "code4p")
]

alphas = st.lists(
    st.one_of(st.sampled_from([-4.0, -1.0, -0.0, 0.0, 1.0, 4.0]), st.floats(-4.0, 4.0)),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(alpha=alphas, low=st.floats(0.05, 3.0), high=st.floats(0.05, 3.0))
@pytest.mark.parametrize("code", [1, 4])
def test_norm_factors_are_pyhfs(alpha: list[float], low: float, high: float, code: int) -> None:
    interpolate = pyhf.interpolators.get(code)([[[[low], [1.0], [high]]]])
    theirs = np.asarray(interpolate(pyhf.tensorlib.astensor([alpha])))[0, 0, :, 0]
    ours = norm_factors(np.array(alpha)[:, None], np.array([low]), np.array([high]), code)[:, 0]
    # Code 4's sixth-order polynomial has coefficients of order 10 that cancel to a factor of 1.
    np.testing.assert_allclose(ours, theirs, rtol=RELATIVE, atol=10 * RELATIVE)


@settings(deadline=None)
@given(alpha=alphas, low=st.floats(0.0, 50.0), high=st.floats(0.0, 50.0))
@pytest.mark.parametrize(("code", "name"), [(0, 0), (2, 2), (4, "4p")])
def test_shape_shifts_are_pyhfs(
    alpha: list[float], low: float, high: float, code: int, name: int | str
) -> None:
    nominal = 20.0
    interpolate = pyhf.interpolators.get(name)([[[[low], [nominal], [high]]]])
    theirs = np.asarray(interpolate(pyhf.tensorlib.astensor([alpha])))[0, 0, :, 0]
    odd, even = shape_interpolation(np.array(alpha), code)
    ours = odd * (high - low) / 2 + even * ((high + low) / 2 - nominal)
    np.testing.assert_allclose(ours, theirs, rtol=RELATIVE, atol=1e3 * RELATIVE)


@pytest.mark.parametrize("code", [1, 4])
def test_norm_factors_pass_through_the_given_points(code: int) -> None:
    alpha = np.array([[-1.0], [0.0], [1.0], [2.0], [-2.0]])
    found = norm_factors(alpha, np.array([0.8]), np.array([1.3]), code)[:, 0]
    np.testing.assert_allclose(found, [0.8, 1.0, 1.3, 1.69, 0.64], rtol=RELATIVE)


@pytest.mark.parametrize("code", [0, 4])
def test_shapes_pass_through_the_given_points(code: int) -> None:
    odd, even = shape_interpolation(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), code)
    np.testing.assert_allclose(odd, [-2.0, -1.0, 0.0, 1.0, 2.0])
    np.testing.assert_allclose(even, [2.0, 1.0, 0.0, 1.0, 2.0])


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(spec=workspaces(), codes=st.sampled_from(CODES), seed=st.integers(0, 2**32 - 1))
def test_random_models_have_pyhfs_rates_everywhere(spec: Any, codes: Any, seed: int) -> None:
    poi = spec["measurements"][0]["config"]["poi"] or None
    theirs = pyhf.Workspace(spec).model(poi_name=poi, modifier_settings=codes)
    assert_pyhfs(compile_model(spec, modifier_settings=codes), theirs, np.random.default_rng(seed))


@published
@pytest.mark.parametrize("codes", CODES)
def test_published_models_have_pyhfs_rates_everywhere(path: Path, codes: Any) -> None:
    theirs = pyhf.Workspace(json.loads(path.read_text())).model(modifier_settings=codes)
    model = compile_model(path, modifier_settings=codes)
    assert_pyhfs(model, theirs, np.random.default_rng(3))


def assert_pyhfs(model: CompiledModel, theirs: pyhf.Model, rng: np.random.Generator) -> None:
    """Compare at random points, with data thrown there, alphas at +-4 and where forms change."""
    pars, data = points(model, rng)
    expected = np.array([theirs.expected_data(row) for row in pars])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        expected_data(model, pars), expected, rtol=RELATIVE, atol=RELATIVE * scale
    )
    with np.errstate(all="ignore"):
        nll = np.array(
            [-2.0 * theirs.logpdf(p, d)[0] for p, d in zip(pars, data, strict=True)], float
        )
        ours = twice_nll(model, pars, data)
    # ln nu of a rate that is the small difference of large ones loses the digits that cancelled,
    # and a negative rate has no likelihood: pyhf gives nan or, without events, any reward.
    defined = np.isfinite(nll) & (expected[:, : model.n_main] > 1e-4 * scale).all(axis=1)
    np.testing.assert_allclose(
        ours[defined], nll[defined], rtol=RELATIVE, atol=rounding(data.max(axis=0))
    )


def points(model: CompiledModel, rng: np.random.Generator) -> tuple[Any, Any]:
    """Parameters within +-4 widths of the start, some exactly at whole widths, and toys there."""
    width = np.where(model.constraint == 1, model.sigma, 0.2)
    pull = rng.uniform(-4.0, 4.0, (10, model.n_pars))
    pull[:3] = np.round(pull[:3])
    pull[3] = 0.0
    pull[7:] *= 0.1
    centre = np.where((model.constraint == 1) & (model.init == 0), 0.0, model.init)
    pars = np.clip(centre + pull * width, np.maximum(model.lower, -4.0), model.upper)
    data = expected_data(model, pars)
    data[:, : model.n_main] = rng.poisson(np.clip(data[:, : model.n_main], 0.0, 1e6))
    return pars, data


def test_one_bin_by_hand() -> None:
    model = compile_model(one_bin())
    mu, alpha = 1.7, 2.0
    rate, n, aux = 5.0 * mu + 10.0 * 1.1**2, 13.0, 0.4
    expected = rate - n * log(rate) + lgamma(n + 1) + 0.5 * (alpha - aux) ** 2 + 0.5 * log(2 * pi)
    row = dict(zip(model.par_names, model.init, strict=True)) | {"mu": mu, "sys": alpha}
    pars = np.array([row[name] for name in model.par_names])
    np.testing.assert_allclose(expected_rates(model, pars), [[rate]], rtol=1e-14)
    np.testing.assert_allclose(twice_nll(model, pars, np.array([n, aux])), 2 * expected, rtol=1e-14)


@pytest.mark.parametrize("name", MADE_UP)
def test_rows_do_not_depend_on_each_other(name: str) -> None:
    model = compile_model(MADE_UP[name])
    pars, data = points(model, np.random.default_rng(2))
    with np.errstate(all="ignore"):
        together = twice_nll(model, pars, data)
        alone = [twice_nll(model, p, d)[0] for p, d in zip(pars, data, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-14, equal_nan=True)


def test_one_point_serves_many_data_sets_and_one_data_set_many_points() -> None:
    model = compile_model(one_bin())
    data = np.repeat(model.data[None], 3, axis=0)
    data[:, 0] = [4.0, 9.0, 15.0]
    assert twice_nll(model, model.init, data).shape == (3,)
    assert twice_nll(model, np.repeat(model.init[None], 3, axis=0), model.data).shape == (3,)


def test_no_events_where_none_are_expected_have_probability_one() -> None:
    model = compile_model(counting(signal=5.0, background=0.0))
    assert twice_nll(model, np.array([0.0]), np.array([0.0])).tolist() == [0.0]
    assert twice_nll(model, np.array([0.0]), np.array([1.0])).tolist() == [np.inf]


def test_a_negative_rate_with_events_is_no_number() -> None:
    model = compile_model(counting(signal=5.0, background=-10.0))
    assert np.isnan(twice_nll(model, np.array([1.0]), np.array([1.0]))).all()


def test_negative_rates_are_told_and_not_hidden() -> None:
    spec = workspace(
        {"c": [sample("b", [2.0], histosys("a", [4.0], [0.0]), normsys("a", 0.9, 1.1))]},
        {"c": [1.0]},
        poi="",
    )
    model = compile_model(spec)
    np.testing.assert_allclose(expected_rates(model, np.array([3.0])), [[-4.0 * 1.1**3]])


def test_another_number_of_parameters_is_refused() -> None:
    model = compile_model(one_bin())
    with pytest.raises(InputError, match="give 2 in each row"):
        expected_rates(model, np.zeros((4, 3)))
