"""Values of events: joined as coffea accumulates, kept as JSON."""

from __future__ import annotations

import json
from functools import reduce
from math import inf, isnan, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.errors import InputError
from hepdask_ml.streaming.values import join, packed, unpacked

NUMBERS = st.integers(-(2**40), 2**40)
VALUES = st.fixed_dictionaries(
    {"n": NUMBERS, "files": st.lists(st.text(max_size=3), max_size=3)},
    optional={"muons": NUMBERS, "by": st.dictionaries(st.sampled_from("abc"), NUMBERS)},
)


@given(values=st.lists(VALUES, min_size=1, max_size=6), cut=st.integers(0, 6))
def test_pieces_do_not_matter(values: list[Any], cut: int) -> None:
    whole = reduce(join, values)
    parts = [reduce(join, part, None) for part in (values[:cut], values[cut:])]
    assert join(*parts) == whole
    assert whole["n"] == sum(value["n"] for value in values)


@given(value=VALUES)
def test_what_is_kept_is_read_again(value: Any) -> None:
    assert unpacked(packed(value)) == value


@pytest.mark.parametrize("dtype", ["bool", "int16", "uint64", "float32", "float64"])
def test_arrays_are_kept_to_the_last_bit(dtype: str) -> None:
    array = (np.random.default_rng(3).normal(size=(3, 4)) * 100).astype(dtype)
    found = unpacked(packed({"x": array, "empty": array[:0]}))
    assert found["x"].dtype == dtype
    np.testing.assert_array_equal(found["x"], array)
    assert found["empty"].shape == (0, 4)


@pytest.mark.parametrize(
    ("part", "whole"),
    [
        (np.uint8(200), 200_000),
        (np.float32(0.1), 1000 * float(np.float32(0.1))),
        (np.array([200, 1], "u1"), [200_000, 1000]),
        (np.array([2**30], "i4"), [1000 * 2**30]),
        (np.array([2**53], "u8"), [1000 * 2**53]),
        (np.array([16777217.0], "f4"), [1000 * 16777216.0]),
        (np.array([True, False]), [1000, 0]),
        (np.bool_(True), 1000),
    ],
)
def test_sums_have_64_bits(part: Any, whole: Any) -> None:
    found = reduce(join, [{"x": part}] * 1000, None)["x"]
    np.testing.assert_allclose(found, whole, rtol=1e-13)
    # One part alone is of the same kind, so that the number of parts is not seen.
    [alone] = join(None, {"x": part}).values()
    assert np.asarray(alone).dtype == np.asarray(found).dtype


def test_numbers_that_json_does_not_know_are_kept() -> None:
    found = unpacked(packed([nan, inf, -inf, np.float32(1.5), np.array([nan, 1.0])]))
    assert isnan(found[0])
    assert found[1:4] == [inf, -inf, 1.5]
    np.testing.assert_array_equal(found[4], [nan, 1.0])
    json.loads(packed([nan]), parse_constant=pytest.fail)


def test_histograms_grow_when_they_are_joined() -> None:
    hist = pytest.importorskip("hist")

    def filled(process: str, *masses: float) -> Any:
        made = hist.Hist.new.StrCat([], growth=True, name="process").Reg(4, 0, 4, name="m").Weight()
        return made.fill(process, list(masses), weight=0.5)

    kept = [unpacked(packed({"sr": each})) for each in (filled("a", 1.5), filled("b", 1.5, 9.0))]
    both = join(*kept)["sr"]
    assert both == filled("a", 1.5) + filled("b", 1.5, 9.0)
    assert both["b", sum].variance == 0.5


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (1, "a", "not joined"),
        ("a", "b", "equal texts"),
        ({"n": 1}, [1], "same kind"),
        (np.zeros(2), np.zeros(3), "cannot be added"),
    ],
)
def test_what_does_not_fit_is_said(one: Any, other: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        join(one, other)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({1: 2}, "keys have to be texts"),
        (object(), "gave a object, which a ledger cannot keep"),
        (np.array(["a"]), "array of <U1"),
        ({"x": {1, 2}}, "gave a set"),
        ({"hepdask_ml_array": 3}, 'the key "hepdask_ml_array", which marks'),
        ({"x": {"uhi_schema": 1}}, 'the key "uhi_schema", which marks'),
    ],
)
def test_what_cannot_be_kept_is_said(value: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        packed(value)
