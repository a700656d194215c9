"""The kernel pads items as a plain loop does, and trusts no position that a file gives."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.data import scatter
from hepdask_ml.data.scatter import KINDS, Outcome, pad
from hepdask_ml.errors import HepdaskError

items = st.lists(st.lists(st.integers(0, 100), max_size=20), max_size=30)


@given(
    lists=items,
    kind=st.sampled_from(sorted(KINDS)),
    n_slots=st.integers(1, 19),
    stored=st.booleans(),
    header=st.integers(0, 11),
    dtype=st.sampled_from(["f4", "f8"]),
)
def test_items_get_slots_in_their_events(
    lists: list[list[int]],
    kind: tuple[str, int],
    n_slots: int,
    stored: bool,
    header: int,
    dtype: str,
) -> None:
    stores = np.dtype(f"{'>' if stored else '='}{kind[0]}{kind[1]}")
    packed = [b"\xff" * header + np.array(each, stores).tobytes() for each in lists]
    data = np.frombuffer(b"".join(packed), np.uint8)
    offsets = np.cumsum([0, *map(len, packed)], dtype=np.int32 if stored else np.int64)
    room = np.full((len(lists) + 2, n_slots), -1.0, dtype)
    lengths = np.empty(len(lists), np.int32)
    plane = room[1:-1]
    assert pad(data, offsets, stores, plane, lengths, header=header) is Outcome.DONE
    expected = np.full((len(lists), n_slots), np.nan)
    for event, each in enumerate(lists):
        expected[event, : len(each)] = np.array(each, stores)[:n_slots]
    np.testing.assert_array_equal(plane, expected.astype(dtype))
    assert lengths.tolist() == [len(each) for each in lists]
    # Neighbours may be filled by other threads.
    assert (room[[0, -1]] == -1.0).all()
    again = pad(data, offsets, stores, plane, lengths, header=header, known=True)
    assert again is Outcome.DONE
    if stored and not header:
        room[...] = -1.0
        assert pad(data, None, stores, plane, lengths) is Outcome.DONE
        np.testing.assert_array_equal(plane, expected.astype(dtype))
        assert (room[[0, -1]] == -1.0).all()


@given(lists=items.filter(len), data=st.data())
def test_damaged_offsets_are_found_out(lists: list[list[int]], data: st.DataObject) -> None:
    offsets = np.cumsum([0, *(4 * len(each) for each in lists)], dtype=np.int32)
    content = np.zeros(int(offsets[-1]), np.uint8)
    place = data.draw(st.integers(0, len(lists)))
    beyond = int(offsets[-1]) + 4
    wrong = st.sampled_from([int(offsets[place]) + 1, -4, beyond, 2**31 - 1, -(2**31)])
    offsets[place] = data.draw(wrong)
    plane = np.full((len(lists), 3), -1.0, np.float32)
    lengths = np.zeros(len(lists), np.int32)
    assert pad(content, offsets, np.dtype(">f4"), plane, lengths) is Outcome.DAMAGED
    assert (plane == -1.0).all()


def test_other_lengths_are_found_out() -> None:
    offsets, plane = np.array([0, 4, 12], np.int32), np.full((2, 2), -1.0, np.float32)
    content, kind = np.zeros(12, np.uint8), np.dtype(">f4")
    for lengths, outcome in (([1, 2], Outcome.DONE), ([1, 1], Outcome.OTHER_LENGTHS)):
        given_lengths = np.array(lengths, np.int32)
        assert pad(content, offsets, kind, plane, given_lengths, known=True) is outcome
        assert given_lengths.tolist() == lengths


@pytest.mark.parametrize("lengths", [[1, 1], [1, 3], [-1, 4], [2**31 - 1, 2**31 - 1]])
def test_lengths_that_are_none_of_the_items(lengths: list[int]) -> None:
    plane = np.full((2, 2), -1.0, np.float32)
    content, known = np.zeros(12, np.uint8), np.array(lengths, np.int32)
    assert pad(content, None, np.dtype(">f4"), plane, known) is Outcome.DAMAGED
    assert (plane == -1.0).all()
    with pytest.raises(ValueError, match="headers need offsets"):
        pad(content, None, np.dtype(">f4"), plane, known, header=4)


def test_kinds_that_the_kernel_does_not_know() -> None:
    for kind in ("c8", "f2", "S4"):
        outcome = pad(
            np.zeros(8, np.uint8),
            np.array([0, 8], np.int32),
            np.dtype(kind),
            np.empty((1, 1), np.float32),
            np.empty(1, np.int32),
        )
        assert outcome is Outcome.UNKNOWN_KIND


def test_a_package_that_was_not_built_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    scatter.library.cache_clear()
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(HepdaskError, match=r"libscatter\.dll cannot be loaded .*install with pip"):
        scatter.library()
    scatter.library.cache_clear()
