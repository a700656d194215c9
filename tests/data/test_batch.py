"""Batches say what they hold, mask empty slots, and give any of their events."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.data.batch import Batch
from hepdask_ml.data.sources import Source
from hepdask_ml.errors import InputError


def batch(lengths: list[int]) -> Batch:
    """Events whose items have numbers of their own."""
    n = len(lengths)
    items = np.arange(sum(lengths), dtype=np.float32)
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    planes = np.full((2, n, 3), np.nan, np.float32)
    for event, length in enumerate(lengths):
        kept = items[offsets[event] :][: min(length, 3)]
        planes[:, event, : len(kept)] = [kept, -kept]
    return Batch(
        Source("/data/a<b>.root", "Events"),
        start=10,
        stop=10 + 2 * n,
        events=10 + 2 * np.arange(n),
        inputs={
            "event": np.moveaxis(np.arange(2.0 * n).reshape(2, n), 0, -1),
            "jets": np.moveaxis(planes, 0, -1),
            "tracks": np.stack([items, -items], axis=-1),
            "calo": np.arange(n * 12, dtype=np.float32).reshape(n, 1, 3, 4),
        },
        lengths={name: np.array(lengths, np.int32) for name in ("jets", "tracks")},
        offsets={"tracks": offsets},
        collisions={"calo": np.arange(n, dtype=np.int32)},
        outside={"calo": np.arange(n, dtype=np.int32)[::-1].copy()},
        weights=np.arange(n, dtype=np.float32),
    )


def test_items_beyond_the_slots_are_counted_and_masked() -> None:
    found = batch([0, 2, 5])
    assert found.mask("jets").tolist() == [[False] * 3, [True, True, False], [True] * 3]
    np.testing.assert_array_equal(found.mask("jets"), ~np.isnan(found.inputs["jets"][..., 0]))
    assert found.lengths["jets"].tolist() == [0, 2, 5]


@given(st.data())
def test_any_events_in_any_order(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=8))
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=12))
    whole = batch(lengths)
    found = whole.take(np.array(rows, np.int64))
    assert len(found) == len(rows)
    assert (found.source, found.start, found.stop) == (whole.source, whole.start, whole.stop)
    for name in ("event", "jets", "calo"):
        np.testing.assert_array_equal(found.inputs[name], whole.inputs[name][rows])
    for kind in ("lengths", "collisions", "outside"):
        for name, numbers in getattr(whole, kind).items():
            np.testing.assert_array_equal(getattr(found, kind)[name], numbers[rows])
    np.testing.assert_array_equal(found.events, whole.events[rows])
    np.testing.assert_array_equal(found.weights, np.asarray(whole.weights)[rows])
    begins, tracks = whole.offsets["tracks"], whole.inputs["tracks"]
    expected = [tracks[begins[row] : begins[row + 1]] for row in rows]
    np.testing.assert_array_equal(found.inputs["tracks"], np.concatenate([tracks[:0], *expected]))
    assert found.offsets["tracks"].tolist() == np.cumsum([0, *map(len, expected)]).tolist()
    assert found.labels is None


def test_events_by_a_mask_keep_their_planes() -> None:
    whole = batch([1, 2, 3])
    found = whole.take(np.array([True, False, True]))
    assert found.events.tolist() == [10, 14]
    for each in (whole, found):
        assert all(plane.flags.c_contiguous for plane in np.moveaxis(each.inputs["jets"], -1, 0))


def test_it_says_what_it_holds() -> None:
    found = batch([1, 2])
    assert repr(found) == (
        "<Batch: 2 of the events 10 to 14 of /data/a<b>.root, with weights; event (2, 2), "
        "jets (2, 3, 2), tracks (3, 2), calo (2, 1, 3, 4)>"
    )
    page = found._repr_html_()
    assert "/data/a&lt;b&gt;.root" in page
    for name, form in (
        ("event", "flat"),
        ("jets", "padded"),
        ("tracks", "ragged"),
        ("calo", "image"),
    ):
        assert f"<tr><td>{name}</td><td>{form}</td>" in page


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jet", 'no tensor "jet": did you mean "jets"?'),
        ("x", 'no tensor "x": there is event, jets, tracks, calo'),
        ("event", 'tensor "event" has no slots'),
        ("tracks", 'tensor "tracks" has no slots'),
        ("calo", 'tensor "calo" has no slots'),
    ],
)
def test_what_has_no_mask(name: str, message: str) -> None:
    found: Any = batch([1])
    with pytest.raises(InputError) as caught:
        found.mask(name)
    assert message in str(caught.value)
