"""Baskets are decompressed as uproot does it, all or the front; damaged ones are told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml.data import basket_bytes
from hepdask_ml.data.basket_bytes import Room, unpacked
from hepdask_ml.data.with_uproot import UnreadableFile, library, readable

uproot: Any = pytest.importorskip("uproot")
ak: Any = pytest.importorskip("awkward")

CODECS = ("ZLIB", "LZ4", "ZSTD", "LZMA")
N_EVENTS = 3000


def written(path: Path, codec: str | None, n_events: int = N_EVENTS) -> Path:
    """A tree of one basket for each branch."""
    rng = np.random.default_rng(2)
    lists = ak.unflatten(np.arange(4 * n_events, dtype="f4"), np.full(n_events, 4))
    lists = ak.concatenate([lists, ak.unflatten(rng.random(n_events), np.ones(n_events, int))], 1)
    compression = codec and getattr(uproot, codec)(1)
    with uproot.recreate(path, compression=compression) as file:
        kinds = {"flat": np.dtype("i8"), "lists": lists.type.content}
        file.mktree("t", kinds).extend({"flat": np.arange(n_events), "lists": lists})
    return path


def pieces(path: Path, *, most: int = 3) -> list[tuple[Any, Any]]:
    """Bytes of baskets, and what uproot makes of them."""
    content, found = np.fromfile(path, np.uint8), []
    with uproot.open(path) as file:
        for key, kind in file.classnames(recursive=True, cycle=False).items():
            branches = file[key].itervalues(recursive=True) if kind == "TTree" else ()
            for branch in branches:
                if branch.num_entries and branch.num_baskets:
                    places = branch.entries_to_ranges_or_baskets(0, branch.num_entries)
                    for number, place in list(places)[:most]:
                        if isinstance(place, tuple):
                            start, stop = map(int, place)
                            found.append((content[start:stop], branch.basket(number)))
    return found


def own(size: int) -> Any:
    return np.empty(size, np.uint8)


def assert_same(stored: Any, theirs: Any, memory: Any) -> None:
    ours = unpacked(stored, memory)
    np.testing.assert_array_equal(ours.data, theirs.data)
    if theirs.byte_offsets is None:
        assert ours.byte_offsets is None
    else:
        np.testing.assert_array_equal(ours.byte_offsets, theirs.byte_offsets)
    front = unpacked(stored, memory, offsets=False)
    np.testing.assert_array_equal(front.data, theirs.data)
    assert front.byte_offsets is None


@pytest.mark.parametrize("codec", [None, *CODECS])
def test_as_uproot_has_it(tmp_path: Path, codec: str | None) -> None:
    found = pieces(written(tmp_path / "a.root", codec))
    assert len(found) == 3
    for stored, theirs in found:
        assert_same(stored, theirs, partial(Room().own, "unpacked"))


@pytest.mark.parametrize("codec", [None, "ZLIB", "LZ4", "ZSTD"])
def test_several_blocks(tmp_path: Path, codec: str) -> None:
    found = pieces(written(tmp_path / "a.root", codec, 1_000_000))
    assert not codec or max(len(theirs.block_compression_info) for _, theirs in found) > 1
    for stored, theirs in found:
        assert_same(stored, theirs, own)


@made_up.real_data
def test_baskets_that_root_wrote() -> None:
    found = []
    for path in sorted((made_up.DATA / "root").glob("*.root")):
        found += pieces(path, most=2)
    assert len(found) > 1000
    room = Room()
    for stored, theirs in found:
        assert_same(stored, theirs, partial(room.own, "unpacked"))


def test_memory_is_used_again_when_it_is_given_back() -> None:
    room = Room()
    first, second = room.lend(100), room.lend(100)
    assert len(first) == len(second) == 100
    assert not np.shares_memory(first, second)
    room.give_back(first)
    assert np.shares_memory(room.lend(128), first)
    assert np.shares_memory(room.own("stored", 10), room.own("stored", 5))
    assert not np.shares_memory(room.own("stored", 10), room.own("unpacked", 10))
    assert len(room.own("stored", 1000)) == 1000
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(room.own, "stored", 10).result()
    assert not np.shares_memory(other, room.own("stored", 10))
    assert len(room.lend(0)) == 0


def test_library_that_users_choose_for_zlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, asked = pieces(written(tmp_path / "a.root", "ZLIB")), []

    def decompress(self: Any, data: Any, n_bytes: int) -> bytes:
        asked.append(n_bytes)
        return bytes(n_bytes)

    monkeypatch.setattr(uproot.ZLIB, "library", "isal")
    monkeypatch.setattr(uproot.ZLIB, "decompress", decompress)
    for stored, _ in found:
        assert not unpacked(stored, own, offsets=False).data.any()
    assert len(asked) == len(found)


def test_words_of_a_codec_that_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The front alone is decompressed where the codec's failure is understood, else all is."""

    class Zstd:
        DecompressionError = library("cramjam").DecompressionError

        class zstd:
            @staticmethod
            def decompress_into(packed: Any, into: Any) -> int:
                try:
                    return int(real.zstd.decompress_into(packed, into))
                except real.DecompressionError:
                    raise real.DecompressionError("other words") from None

    real = library("cramjam")
    found = pieces(written(tmp_path / "a.root", "ZSTD"))
    monkeypatch.setattr(basket_bytes, "library", lambda name: Zstd)
    for stored, theirs in found:
        assert_same(stored, theirs, own)


@pytest.fixture(scope="module")
def baskets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bytes")
    return {codec: pieces(written(folder / f"{codec}.root", codec))[-1][0] for codec in CODECS}


@settings(max_examples=200, deadline=None)
@given(data=st.data(), codec=st.sampled_from(CODECS), offsets=st.booleans())
def test_damaged_bytes_end_in_a_sentence(
    baskets: dict[str, Any], data: st.DataObject, codec: str, offsets: bool
) -> None:
    stored = baskets[codec].copy()
    begin = data.draw(st.sampled_from([0, 60, len(stored) - 60]))
    for _ in range(data.draw(st.integers(1, 3))):
        stored[begin + data.draw(st.integers(0, 59))] = data.draw(st.integers(0, 255))
    stored = stored[: data.draw(st.sampled_from([0, 5, 40, 90, len(stored) - 1, len(stored)]))]
    with suppress(UnreadableFile), readable("a.root"):
        assert len(unpacked(stored, own, offsets=offsets).data) < 2**31


def test_checksums_of_lz4_are_compared(baskets: dict[str, Any]) -> None:
    stored = baskets["LZ4"].copy()
    stored[-1] ^= 1
    with pytest.raises(ValueError, match="the checksum of a block is another one"):
        unpacked(stored, own, offsets=False)


def test_compression_that_nobody_knows(baskets: dict[str, Any]) -> None:
    stored = baskets["ZSTD"].copy()
    stored[int.from_bytes(stored[14:16].tobytes(), "big") :][:2] = np.frombuffer(b"CS", np.uint8)
    with pytest.raises(NotImplementedError, match="compressed by b'CS'"):
        unpacked(stored, own)
