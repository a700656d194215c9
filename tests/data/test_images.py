"""Images hold the items of each event once, and say which of them they cannot tell apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.data import images
from hepdask_ml.data.images import Drawn, draw

ACROSS: Any = SimpleNamespace(bins=4, low=-2.0, high=2.0)
DOWN: Any = SimpleNamespace(bins=3, low=0.0, high=1.5)

# Halves lie on edges, too; some items are beyond them, and some have no number.
numbers = st.one_of(
    st.integers(-6, 6).map(lambda each: each / 2),
    st.floats(-3.0, 3.0),
    st.sampled_from([np.nan, np.inf, -np.inf]),
)
items = st.tuples(numbers, numbers, st.floats(-5.0, 5.0))
events = st.lists(st.lists(items, max_size=6), max_size=6)


def drawn_of(lists: list[list[tuple[float, float, float]]]) -> Drawn:
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    flat = np.array([item for each in lists for item in each], np.float64).reshape(-1, 3)
    x, y, weight = flat.T
    return draw(offsets, (ACROSS, DOWN), (x, y), [None, weight])


@given(lists=events, block=st.sampled_from([1, 25, images.BLOCK]))
def test_each_item_is_in_its_pixel(
    lists: list[list[tuple[float, float, float]]], block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "BLOCK", block)
        found = drawn_of(lists)
    assert found.pixels.shape == (len(lists), 2, 3, 4)
    assert found.pixels.dtype == np.float32
    for event, each in enumerate(lists):
        pixels: Counter[tuple[int, int]] = Counter()
        sums: defaultdict[tuple[int, int], float] = defaultdict(float)
        outside = 0
        for x, y, weight in each:
            if np.isnan(x) or np.isnan(y):
                continue
            if not (-2.0 <= x < 2.0 and 0.0 <= y < 1.5):
                outside += 1
                continue
            at = (int(np.floor(y / 0.5)), int(np.floor(x + 2.0)))
            pixels[at] += 1
            sums[at] += weight
        expected = np.zeros((2, 3, 4))
        for at, count in pixels.items():
            expected[0][at] = count
            expected[1][at] = sums[at]
        np.testing.assert_allclose(found.pixels[event], expected, rtol=1e-6, atol=1e-6)
        assert found.outside[event] == outside
        assert found.collisions[event] == sum(each for each in pixels.values() if each > 1)


@given(lists=events, border=st.integers(0, 6))
def test_events_are_drawn_on_their_own(
    lists: list[list[tuple[float, float, float]]], border: int
) -> None:
    whole, parts = drawn_of(lists), [drawn_of(lists[:border]), drawn_of(lists[border:])]
    for name in ("pixels", "collisions", "outside"):
        joined = np.concatenate([getattr(each, name) for each in parts])
        np.testing.assert_array_equal(getattr(whole, name), joined)


def test_weights_that_are_missing_add_nothing() -> None:
    offsets, at = np.array([0, 2]), np.array([0.1, 0.1])
    weights = np.array([np.nan, 3.0], np.float32)
    found = draw(offsets, (ACROSS, DOWN), (at, at), [weights, np.array([True, True])])
    assert found.pixels[0, 0].sum() == 3.0
    assert found.pixels[0, 1].sum() == 2.0
    assert found.collisions.tolist() == [2]


def test_sums_beyond_float32_become_infinite() -> None:
    at = np.array([0.1])
    found = draw(np.array([0, 1]), (ACROSS, DOWN), (at, at), [np.array([1e300])])
    assert np.isposinf(found.pixels.max())


def test_the_last_number_below_the_end_is_inside() -> None:
    for bins in range(1, 200):
        axis: Any = SimpleNamespace(bins=bins, low=0.1, high=0.7)
        at = np.array([np.nextafter(0.7, 0.0)])
        found = draw(np.array([0, 1]), (axis, axis), (at, at), [None])
        assert found.outside.tolist() == [0]
        assert found.pixels[0, 0, -1, -1] == 1.0
