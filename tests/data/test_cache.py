"""Tensors that were kept are those that were made; what is damaged is made again, and said.

It is the same whatever the files of the cache are.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import pickle
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_batches import Made, MadeForm

from hepdask_ml.data import cache, with_parquet
from hepdask_ml.data.batch import Batch
from hepdask_ml.data.cache import Cached, cached
from hepdask_ml.data.forms import Arrays
from hepdask_ml.data.sources import Source, Span
from hepdask_ml.errors import InputError

LENGTHS = (250, 0, 130)


@pytest.fixture(params=cache.FORMATS)
def format(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


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
            np.testing.assert_array_equal(found[name], array)
            assert_same_bits(found[name], array)


def assert_same_bits(found: Any, expected: Any) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_kept_is_given_without_the_files(tmp_path: Path, format: str) -> None:
    stream = Made(LENGTHS, selection=True, reuse=True)
    made = [cached(stream, tmp_path, format).read(span) for span in stream.spans()]
    assert len(entries(tmp_path)) == len(stream.spans())
    again = Made(LENGTHS, selection=True)
    kept = [cached(again, tmp_path, format).read(span) for span in again.spans()]
    assert not again.reads
    for one, other, span in zip(made, kept, stream.spans(), strict=True):
        assert_equal(one, stream.read(span))
        assert_equal(other, stream.read(span))


@pytest.mark.parametrize("format", cache.FORMATS)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_range_of_events_is_given(format: str, data: st.DataObject) -> None:
    stream = Made(LENGTHS, selection=True)
    # Entries of one example serve another: what is in a cache cannot be out of date.
    found = cached(stream, "memory://cache-of-ranges", format)
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


@st.composite
def tensors_of_events(draw: st.DrawFn) -> dict[str, Any]:
    """Arrays of a batch by their names, of any bits, so that there are NaNs of all kinds."""
    n = draw(st.integers(0, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def numbers(*shape: int) -> Any:
        dtype = np.dtype(draw(st.sampled_from(["float32", "float64"])))
        special = np.array([np.nan, -np.nan, np.inf, -0.0, 0.0], dtype)
        found = np.frombuffer(random.bytes(math.prod(shape) * dtype.itemsize), dtype).copy()
        chosen = random.random(found.shape) < 0.3
        found[chosen] = random.choice(special, chosen.sum())
        return found.reshape(shape)

    n_slots, n_fields = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    lengths = random.integers(0, 7, n, np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    jets = np.moveaxis(numbers(n_fields, n, n_slots), 0, -1)
    jets[np.arange(n_slots) >= lengths[:, None]] = np.nan
    arrays = {
        "events": np.sort(random.integers(0, 2**62, n)),
        "inputs/event": numbers(n, n_fields),
        "inputs/jets": jets if draw(st.booleans()) else np.ascontiguousarray(jets),
        "inputs/tracks": numbers(offsets[-1], n_fields),
        "inputs/calo": numbers(n, 2, n_slots, 3),
        "lengths/jets": lengths,
        "lengths/tracks": lengths,
        "offsets/tracks": offsets,
        "collisions/calo": lengths[::-1].copy(),
        "outside/calo": lengths + 1,
    }
    for name in draw(st.sets(st.sampled_from(["weights", "labels"]))):
        arrays[name] = numbers(n)
    return arrays


@pytest.mark.parametrize("format", cache.FORMATS)
@settings(max_examples=60, deadline=None)
@given(tensors_of_events())
def test_what_comes_out_is_to_the_last_bit_what_went_in(
    format: str, arrays: dict[str, Any]
) -> None:
    pack, unpacked = cache._functions(format)
    file = BytesIO()
    pack(file, arrays, {"fields": {"calo": ["counts", "pt"]}})
    found = unpacked(bytearray(file.getvalue()), check=True)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert_same_bits(found[name], array)
        assert found[name].flags.writeable


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


class Named(Made):
    """The same tensors, with names of all fields but one, which is of another kind."""

    @property
    def form(self) -> Any:
        def named(*names: str) -> Any:
            return [SimpleNamespace(name=name) for name in names]

        groups = [
            SimpleNamespace(name="event", fields=named("met", "MET_pt * cos(MET_phi)")),
            SimpleNamespace(name="jets", fields=named("pt", "pt?")),
        ]
        images = [SimpleNamespace(name="calo", views=named("counts"))]
        return SimpleNamespace(
            digest="0123", features=SimpleNamespace(groups=groups, images=images)
        )


def test_an_entry_of_parquet_is_a_table_for_others(tmp_path: Path) -> None:
    stream = Named((50,))
    list(cached(stream, tmp_path, "parquet"))
    [entry] = entries(tmp_path)
    batch = stream.read(Span(stream.sources[0], 0, 50))
    table = pq.read_table(entry)
    assert table.column_names == [
        "events", "weights", "labels",
        "event_met", "event_MET_pt_cos_MET_phi", "jets_pt", "jets_pt_", "calo_counts",
        "tracks_0", "tracks_1", "lengths_jets", "lengths_tracks", "collisions_calo", "outside_calo",
    ]  # fmt: skip
    assert table["event_met"].to_pylist() == batch.inputs["event"][:, 0].tolist()
    mask = batch.mask("jets")
    jets = batch.inputs["jets"][..., 1]
    assert table["jets_pt_"].to_pylist() == [
        each[there].tolist() for each, there in zip(jets, mask, strict=True)
    ]
    assert table["calo_counts"].to_pylist() == batch.inputs["calo"].reshape(50, 4).tolist()
    assert table["lengths_jets"].to_pylist() == batch.lengths["jets"].tolist()
    assert b'"digest": "0123"' in table.schema.metadata[b"hepdask-ml"]
    assert pq.read_metadata(entry).row_group(0).column(0).compression == "ZSTD"


def test_awkward_and_pandas_read_an_entry_of_parquet(tmp_path: Path) -> None:
    awkward = pytest.importorskip("awkward")
    pandas = pytest.importorskip("pandas")
    stream = Named((50,))
    list(cached(stream, tmp_path, "parquet"))
    [entry] = entries(tmp_path)
    batch = stream.read(Span(stream.sources[0], 0, 50))
    found = awkward.from_parquet(entry, columns=["jets_pt", "tracks_0", "calo_counts", "labels"])
    kinds = {name: str(found[name].type) for name in found.fields}
    assert kinds == {
        "jets_pt": "50 * var * float32",
        "tracks_0": "50 * var * float32",
        "calo_counts": "50 * 4 * float32",
        "labels": "50 * float32",
    }
    padded = awkward.to_numpy(awkward.pad_none(found.jets_pt, 3, clip=True)).filled(np.nan)
    np.testing.assert_array_equal(padded, batch.inputs["jets"][..., 0])
    np.testing.assert_array_equal(awkward.flatten(found.tracks_0), batch.inputs["tracks"][:, 0])
    frame = pandas.read_parquet(entry, columns=["event_met", "jets_pt"])
    np.testing.assert_array_equal(frame.event_met, batch.inputs["event"][:, 0])
    np.testing.assert_array_equal(frame.jets_pt[3], batch.inputs["jets"][3, :, 0])


def test_other_features_files_and_ranges_have_other_entries(tmp_path: Path, format: str) -> None:
    list(cached(Made((50,)), tmp_path, format))
    for other in (Other((50,)), Made((51,)), Made((150,)), Made((0, 50))):
        list(cached(other, tmp_path, format))
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


def other_table(path: Path) -> None:
    pq.write_table(pa.table({"events": [1, 2]}), path)


def other_number(path: Path) -> None:
    """As it may come from another tool, which leaves the metadata as they are."""
    table = pq.read_table(path)
    labels = pa.array(np.zeros(len(table), np.float32))
    pq.write_table(table.set_column(table.column_names.index("labels"), "labels", labels), path)


DAMAGES = [("npz", each) for each in (cut, flip, empty, objects, another, newer)]
DAMAGES += [("parquet", each) for each in (cut, flip, empty, other_table, other_number)]


@pytest.mark.parametrize(("format", "damage"), DAMAGES)
def test_a_damaged_entry_is_made_again_and_said(
    tmp_path: Path, format: str, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Made((250,))
    list(cached(stream, tmp_path, format))
    whole = {entry: entry.read_bytes() for entry in entries(tmp_path)}
    damaged = entries(tmp_path)[1]
    damage(damaged)
    found = cached(Made((250,)), tmp_path, format)
    with caplog.at_level(logging.WARNING, "hepdask_ml"):
        for batch, span in zip(found, stream.spans(), strict=True):
            assert_equal(batch, stream.read(span))
    [note] = found.notes
    assert note.startswith(f"the tensors in {damaged} cannot be used (")
    assert note.endswith("), and are made again")
    assert note in caplog.text
    assert {entry: entry.read_bytes() for entry in entries(tmp_path)} == whole


def test_no_flipped_bit_of_parquet_goes_unnoticed(tmp_path: Path) -> None:
    list(cached(Made((5,)), tmp_path, "parquet"))
    [entry] = entries(tmp_path)
    whole = entry.read_bytes()
    expected = with_parquet.unpacked(whole, check=True)
    for place in range(0, len(whole), max(1, len(whole) // 150)):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        try:
            found = with_parquet.unpacked(content, check=True)
        except (ValueError, LookupError, OSError):
            continue
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert_same_bits(found[name], array)


def test_an_entry_is_whole_or_not_there(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack, unpacked = cache._functions(format)

    def interrupted(*given: Any) -> None:
        pack(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_functions", lambda _: (interrupted, unpacked))
    found = cached(Made((50,)), tmp_path, format)
    with pytest.raises(KeyboardInterrupt):
        list(found)
    assert not entries(tmp_path)


def test_where_nothing_can_be_written_tensors_are_made_each_time(
    tmp_path: Path, format: str
) -> None:
    (tmp_path / "file").touch()
    found = cached(Made((250,)), tmp_path / "file", format)
    assert [len(batch) for batch in found] == [len(batch) for batch in found]
    first, *others = found.notes
    assert "cannot be used (Not a directory)" in first
    assert sum("tensors cannot be kept in" in note for note in others) == 1


def test_a_store_keeps_tensors(tmp_path: Path, format: str) -> None:
    where = f"memory://{tmp_path.name}/cache"
    stream = Made(LENGTHS)
    list(cached(stream, where, format))
    again = Made(LENGTHS)
    for batch, span in zip(cached(again, where, format), stream.spans(), strict=True):
        assert_equal(batch, stream.read(span))
        assert batch.events.flags.writeable
    assert not again.reads
    assert len(fsspec.filesystem("memory").find(f"{tmp_path.name}/cache")) == len(stream.spans())


class Locked(Made):
    """Files behind a password."""

    @property
    def sources(self) -> tuple[Source, ...]:
        return (Source("https://me:secret@store/0.root", "Events"),)


def test_no_password_is_kept(tmp_path: Path, format: str) -> None:
    list(cached(Locked((5,)), tmp_path, format))
    [entry] = entries(tmp_path)
    assert b"https://store/0.root" in entry.read_bytes()
    assert b"secret" not in entry.read_bytes()


def test_what_was_passed_over_is_not_kept(tmp_path: Path, format: str) -> None:
    stream = Made(LENGTHS, broken=2, unreadable="skip")
    found = cached(stream, tmp_path, format)
    assert sum(map(len, found)) == 250
    assert found.skipped == ["/data/2.root"]
    assert sum(map(len, cached(Made(LENGTHS), tmp_path, format))) == 380


class EndsEarly(Made):
    """A copy that can be read to the middle of a range, and no further."""

    def batches(self, span: Span | None = None, size: int | None = None) -> Iterator[Batch]:
        yield next(super().batches(span, size))
        self.skipped.append("the rest")


def test_a_range_that_ends_early_is_given_and_not_kept(tmp_path: Path, format: str) -> None:
    [batch] = cached(EndsEarly((50,)), tmp_path, format)
    assert (batch.start, batch.stop, len(batch)) == (0, 7, 7)
    assert not entries(tmp_path)


def test_a_range_without_a_selected_event_is_kept(tmp_path: Path, format: str) -> None:
    stream = Made((1,), selection=True)
    span = Span(stream.sources[0], 0, 1)
    assert_equal(cached(stream, tmp_path, format).read(span), stream.read(span))
    again = Made((1,), selection=True)
    [batch] = cached(again, tmp_path, format)
    assert len(batch) == 0
    assert batch.inputs["jets"].shape == (0, 3, 2)
    assert not again.reads


def test_a_cache_goes_to_other_processes(tmp_path: Path, format: str) -> None:
    found = cached(Made((50,)), tmp_path, format)
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

    with pytest.raises(InputError, match=r"not kept as 'parket': did you mean \"parquet\"\?"):
        cached(stream, tmp_path, "parket")

    class Plain(Made):
        form: Any = Arrays()

    with pytest.raises(InputError, match="Arrays has no digest"):
        cached(Plain((5,)), tmp_path)
