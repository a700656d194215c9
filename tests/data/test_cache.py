"""Tensors that were kept are those that were made; what is damaged is made again, and said."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_batches import Made, MadeForm

from hepdask_ml.data import cache
from hepdask_ml.data.batch import Batch
from hepdask_ml.data.cache import Cached, cached
from hepdask_ml.data.forms import Arrays
from hepdask_ml.data.sources import Span
from hepdask_ml.errors import InputError

LENGTHS = (250, 0, 130)


class Other(Made):
    """The same files with other features."""

    @property
    def form(self) -> MadeForm:
        return MadeForm(digest="4567")


def assert_equal(one: Batch, other: Batch) -> None:
    assert (one.source, one.start, one.stop) == (other.source, other.start, other.stop)
    for field in dataclasses.fields(Batch)[3:]:
        found, expected = getattr(one, field.name), getattr(other, field.name)
        if not isinstance(expected, dict):
            found, expected = {"": found}, {"": expected}
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_kept_is_given_without_the_files(tmp_path: Path) -> None:
    stream = Made(LENGTHS, selection=True, reuse=True)
    made = [cached(stream, tmp_path).read(span) for span in stream.spans()]
    assert len(entries(tmp_path)) == len(stream.spans())
    again = Made(LENGTHS, selection=True)
    kept = [cached(again, tmp_path).read(span) for span in again.spans()]
    assert not again.reads
    for one, other, span in zip(made, kept, stream.spans(), strict=True):
        assert_equal(one, stream.read(span))
        assert_equal(other, stream.read(span))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_range_of_events_is_given(data: st.DataObject) -> None:
    stream = Made(LENGTHS, selection=True)
    # Entries of one example serve another: what is in a cache cannot be out of date.
    found = cached(stream, "memory://cache-of-ranges")
    source = data.draw(st.sampled_from([stream.sources[0], stream.sources[2]]))
    n_events = LENGTHS[stream.sources.index(source)]
    start = data.draw(st.integers(0, n_events - 1))
    span = Span(source, start, data.draw(st.integers(start + 1, n_events)))
    assert_equal(found.read(span), stream.read(span))
    size = data.draw(st.integers(1, 300))
    parts = list(found.batches(span, size))
    assert max(part.stop - part.start for part in parts) <= size
    assert [part.start for part in parts] == [span.start, *(part.stop for part in parts[:-1])]
    assert np.concatenate([part.events for part in parts]).tolist() == [
        event for event in range(span.start, span.stop) if event % 3
    ]


def test_numbers_of_a_local_entry_are_mapped_and_can_be_written_to(tmp_path: Path) -> None:
    stream = Made((50,))
    list(cached(stream, tmp_path))
    [batch] = cached(stream, tmp_path)
    [entry] = entries(tmp_path)
    before = entry.read_bytes()
    for array in [*batch.inputs.values(), batch.events, batch.labels]:
        assert array is not None
        assert array.flags.writeable
        assert array.flags.aligned
        assert array.ctypes.data % 64 == 0
    batch.inputs["jets"][...] = 0.0
    assert entry.read_bytes() == before


def test_an_entry_is_a_file_of_numpy(tmp_path: Path) -> None:
    stream = Made((50,))
    list(cached(stream, tmp_path))
    [entry] = entries(tmp_path)
    with np.load(entry) as found:
        np.testing.assert_array_equal(found["events"], np.arange(50))
        expected = stream.read(Span(stream.sources[0], 0, 50)).inputs["jets"]
        np.testing.assert_array_equal(found["inputs/jets"], expected)


def test_other_features_files_and_ranges_have_other_entries(tmp_path: Path) -> None:
    list(cached(Made((50,)), tmp_path))
    for other in (Other((50,)), Made((51,)), Made((150,)), Made((0, 50))):
        list(cached(other, tmp_path))
        assert other.reads
    assert len(entries(tmp_path)) == 6


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def objects(path: Path) -> None:
    """An array of objects, which only pickle could read."""
    np.savez(path, events=np.array([{}], object))


def another(path: Path) -> None:
    np.savez(path, numbers=np.arange(3))


def newer(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("events.npy", "w") as member:
        np.lib.format.write_array(member, np.arange(3), version=(2, 0))


@pytest.mark.parametrize("damage", [cut, flip, empty, objects, another, newer])
def test_a_damaged_entry_is_made_again_and_said(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Made((250,))
    list(cached(stream, tmp_path))
    whole = {entry: entry.read_bytes() for entry in entries(tmp_path)}
    damaged = entries(tmp_path)[1]
    damage(damaged)
    found = cached(Made((250,)), tmp_path)
    with caplog.at_level(logging.WARNING, "hepdask_ml"):
        for batch, span in zip(found, stream.spans(), strict=True):
            assert_equal(batch, stream.read(span))
    [note] = found.notes
    assert note.startswith(f"the tensors in {damaged} cannot be used (")
    assert note.endswith("), and are made again")
    assert note in caplog.text
    assert {entry: entry.read_bytes() for entry in entries(tmp_path)} == whole


def test_an_entry_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = cache._pack

    def interrupted(*given: Any) -> None:
        pack(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_pack", interrupted)
    found = cached(Made((50,)), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        list(found)
    assert not entries(tmp_path)


def test_where_nothing_can_be_written_tensors_are_made_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = cached(Made((250,)), tmp_path / "file")
    assert [len(batch) for batch in found] == [len(batch) for batch in found]
    first, *others = found.notes
    assert "cannot be used (Not a directory)" in first
    assert sum("tensors cannot be kept in" in note for note in others) == 1


def test_a_store_keeps_tensors(tmp_path: Path) -> None:
    where = f"memory://{tmp_path.name}/cache"
    stream = Made(LENGTHS)
    list(cached(stream, where))
    again = Made(LENGTHS)
    for batch, span in zip(cached(again, where), stream.spans(), strict=True):
        assert_equal(batch, stream.read(span))
        assert batch.events.flags.writeable
    assert not again.reads
    assert len(fsspec.filesystem("memory").find(f"{tmp_path.name}/cache")) == len(stream.spans())


def test_what_was_passed_over_is_not_kept(tmp_path: Path) -> None:
    stream = Made(LENGTHS, broken=2, unreadable="skip")
    found = cached(stream, tmp_path)
    assert sum(map(len, found)) == 250
    assert found.skipped == ["/data/2.root"]
    assert sum(map(len, cached(Made(LENGTHS), tmp_path))) == 380


class EndsEarly(Made):
    """A copy that can be read to the middle of a range, and no further."""

    def batches(self, span: Span | None = None, size: int | None = None) -> Iterator[Batch]:
        yield next(super().batches(span, size))
        self.skipped.append("the rest")


def test_a_range_that_ends_early_is_given_and_not_kept(tmp_path: Path) -> None:
    [batch] = cached(EndsEarly((50,)), tmp_path)
    assert (batch.start, batch.stop, len(batch)) == (0, 7, 7)
    assert not entries(tmp_path)


def test_a_range_without_a_selected_event_is_kept(tmp_path: Path) -> None:
    stream = Made((1,), selection=True)
    span = Span(stream.sources[0], 0, 1)
    assert_equal(cached(stream, tmp_path).read(span), stream.read(span))
    again = Made((1,), selection=True)
    [batch] = cached(again, tmp_path)
    assert len(batch) == 0
    assert batch.inputs["jets"].shape == (0, 3, 2)
    assert not again.reads


def test_a_cache_goes_to_other_processes(tmp_path: Path) -> None:
    found = cached(Made((50,)), tmp_path)
    [expected] = found
    copy: Cached = pickle.loads(pickle.dumps(found))
    [batch] = copy
    assert_equal(batch, expected)
    assert copy.sources == found.sources
    assert str(tmp_path) in repr(copy)


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    stream: Any = dataclasses.replace(Made((5,)))
    with pytest.raises(InputError, match="no tensors can be kept in nowhere://a"):
        cached(stream, "nowhere://a")

    class Plain(Made):
        form: Any = Arrays()

    with pytest.raises(InputError, match="Arrays has no digest"):
        cached(Plain((5,)), tmp_path)
