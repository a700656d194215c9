"""Scalers bring fields to a common range, and back."""

from __future__ import annotations

import json
import pickle
from math import inf, nan
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hepdask_ml.data.scalers import SCALINGS, Scaler, Scalers
from hepdask_ml.data.summaries import Summary
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def seen(*rows: ArrayLike) -> dict[str, Summary]:
    return {f"field{i}": Summary.of(row) for i, row in enumerate(rows)}


def test_standard_has_mean_zero_and_deviation_one() -> None:
    values = np.random.default_rng(2).normal([[5.0], [-300.0]], [[2.0], [0.1]], (2, 10_000))
    planes = values.astype(np.float32)
    Scaler.fitted("standard", seen(*planes)).apply(planes)
    assert planes.mean(axis=1) == pytest.approx([0.0, 0.0], abs=1e-3)
    assert planes.std(axis=1) == pytest.approx([1.0, 1.0], rel=1e-3)


def test_minmax_ends_at_zero_and_one() -> None:
    planes = np.array([[3.0, 7.0, 5.0]])
    Scaler.fitted("minmax", seen(*planes)).apply(planes)
    assert planes.tolist() == [[0.0, 1.0, 0.5]]


def test_robust_ignores_what_lies_far_out() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 1e9], np.float32)
    scaler = Scaler.fitted("robust", seen(values))
    assert (scaler.centre, scaler.scale) == ((3.0,), (2.0,))


@pytest.mark.parametrize("kind", SCALINGS)
def test_a_field_that_never_changes_becomes_zero(kind: str) -> None:
    planes = np.full((1, 7), 0.1, np.float32)
    Scaler.fitted(kind, seen(*planes)).apply(planes)
    assert not planes.any()


def test_equal_quartiles_keep_the_unit() -> None:
    scaler = Scaler.fitted("robust", seen([0.0] * 9 + [8.0]))
    assert (scaler.centre, scaler.scale) == ((0.0,), (1.0,))


@pytest.mark.parametrize("kind", SCALINGS)
@given(values=arrays(np.float32, (2, 6, 3), elements=st.floats(-1e4, 1e4, width=16)))
def test_there_and_back(kind: str, values: np.ndarray) -> None:
    values[0, 1:3] = nan
    scaler = Scaler.fitted(kind, seen(*values))
    planes = values.copy()
    scaler.apply(planes)
    assert np.array_equal(np.isnan(planes), np.isnan(values))
    scaler.undo(planes)
    # The result is off by roundings of what it was in between, too.
    atol = 1e-6 * (np.nanmax(np.abs(values)) + max(map(abs, (*scaler.centre, *scaler.scale))))
    np.testing.assert_allclose(planes, values, rtol=1e-5, atol=atol)


def test_works_in_place_on_views_of_any_order() -> None:
    memory = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
    Scaler("standard", (1.0, 2.0), (2.0, 4.0)).apply(memory.T)
    assert memory.tolist() == [[0.0, 0.0], [1.0, 0.5], [2.0, 1.0]]


def test_groups_without_a_scaler_stay() -> None:
    scalers = Scalers({"jets": Scaler("minmax", (1.0,), (2.0,))})
    jets, event = np.array([[3.0]]), np.array([[3.0]])
    for name, planes in (("jets", jets), ("event", event)):
        scalers.apply(name, planes)
    assert (jets[0, 0], event[0, 0]) == (1.0, 3.0)
    for name, planes in (("jets", jets), ("event", event)):
        scalers.undo(name, planes)
    assert (jets[0, 0], event[0, 0]) == (3.0, 3.0)


def test_ways_through_json_and_pickle() -> None:
    scalers = Scalers({"a": Scaler("standard", (0.1,), (1 / 3,)), "b": Scaler("robust", (), ())})
    assert Scalers.of_json(json.loads(json.dumps(scalers.to_json()))) == scalers
    assert pickle.loads(pickle.dumps(scalers)) == scalers


def test_digest_names_the_numbers() -> None:
    a, b = Scaler("standard", (0.5,), (2.0,)), Scaler("standard", (0.5,), (3.0,))
    assert Scalers({"x": a, "y": b}).digest == Scalers({"y": b, "x": a}).digest
    assert Scalers({"x": a}).digest != Scalers({"x": b}).digest != Scalers({"y": b}).digest


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([nan, nan], '"field0" has no number in all the events that were scanned: scan more'),
        ([1e300, -1e300], '"field0" has numbers from -1e\\+300 to 1e\\+300, which a float32'),
        ([1e-300, 2e-300], "which a float32 cannot scale: bring them to another unit"),
    ],
)
def test_what_cannot_be_scaled(values: list[float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Scaler.fitted("standard", seen(values))


def test_unknown_ways_to_scale() -> None:
    with pytest.raises(InputError, match='"standards" is no way to scale: did you mean "standard"'):
        Scaler.fitted("standards", seen([1.0]))
    with pytest.raises(InputError, match="choose from standard, minmax, robust"):
        Scaler.fitted("zzz", seen([1.0]))


@pytest.mark.parametrize(
    ("centre", "scale", "said"),
    [
        ((1.0,), (), "1 centres and 0 scales"),
        ((1.0,), (0.0,), "centre 1 and scale 0: both must be"),
        ((nan,), (1.0,), "centre nan and scale 1"),
        ((0.0,), (inf,), "centre 0 and scale inf"),
    ],
)
def test_numbers_that_are_no_scaler(
    centre: tuple[float, ...], scale: tuple[float, ...], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        Scaler("standard", centre, scale)


@pytest.mark.parametrize("method", ["apply", "undo"])
def test_tensors_of_other_features_are_refused(method: str) -> None:
    scaler = Scaler("standard", (0.0,), (1.0,))
    with pytest.raises(InputError, match="a tensor has 2 fields, and its scaler 1"):
        getattr(scaler, method)(np.zeros((2, 3)))
