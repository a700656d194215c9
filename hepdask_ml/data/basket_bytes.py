"""What the bytes of a basket hold: a key that says how long all is, and blocks of compressed data.

A basket has the items of its events and, behind their *border*, where in them each event begins,
unless all are equally long.  Who knows the lengths from elsewhere needs no more than the items, and
then no more is decompressed: damage behind the border stays unnoticed.

References
----------
ROOT's `Format of a data record <https://root.cern/doc/master/datarecord.html>`_, and the streamers
of its classes ``TKey`` and ``TBasket``.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from threading import local
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hepdask_ml.data.with_uproot import library

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes: TypeAlias = NDArray[np.uint8]

# Of the key: bytes in the file, version, bytes of the object, bytes of the key.
_KEY = Struct(">ihi4xh")
# Behind two places in the file and three texts: events, end of the items, how offsets are stored.
_BASKET = Struct(">10xiiB")
_TEXTS, _LARGE_TEXTS, _LARGE_KEY = 26, 34, 1000
_LONG_TEXT = 255
# Of a block: algorithm and its version; two sizes of three bytes follow, and for LZ4 a checksum.
_SIZES, _BLOCK, _CHECKSUM = 3, 9, 8


class Room:
    """Memory that is used again from basket to basket: new memory costs more than what is in it."""

    def __init__(self) -> None:
        self._own = local()
        self._free: defaultdict[int, list[Bytes]] = defaultdict(list)

    def own(self, purpose: str, size: int) -> Bytes:
        """Give so many bytes of this thread, the same ones each time for one purpose."""
        kept: Bytes | None = getattr(self._own, purpose, None)
        if kept is None or len(kept) < size:
            kept = np.empty(size, np.uint8)
            setattr(self._own, purpose, kept)
        return kept[:size]

    def lend(self, size: int) -> Bytes:
        """Give so many bytes that nobody else has until they are given back."""
        whole = 1 << max(size - 1, 0).bit_length()
        try:
            return self._free[whole].pop()[:size]
        except IndexError:
            return np.empty(whole, np.uint8)[:size]

    def give_back(self, lent: Bytes) -> None:
        """Take back what was lent."""
        whole = lent.base
        assert isinstance(whole, np.ndarray)
        self._free[len(whole)].append(whole)


@dataclass(frozen=True, slots=True, eq=False)
class Basket:
    """A run of events of one branch.

    Attributes
    ----------
    data : (n_bytes,) uint8 array
        Their items, one event after the other, as ROOT stores them.
    byte_offsets : (n_events + 1,) int32 array or None
        Where in the data each event begins, and the last one ends; None if the basket does not
        say, or nobody asked.
    asked : bool
        Whether somebody did.  If not, lengths are known from elsewhere, and the data are those of
        the events that have still to be laid out.
    memory : (n,) uint8 array
        What the basket was decompressed into.
    """

    data: Bytes
    byte_offsets: NDArray[np.int32] | None
    asked: bool
    memory: Bytes


def unpacked(stored: Bytes, memory: Callable[[int], Bytes], *, offsets: bool = True) -> Basket:
    """Decompress a basket.

    Parameters
    ----------
    stored : (n_bytes,) uint8 array
        Key and blocks, as they lie in the file.
    memory : callable
        Gives memory of some size, which the basket then has.
    offsets : bool
        Also those, if there are any.

    Returns
    -------
    Basket
        The events.

    Raises
    ------
    ValueError, struct.error, IndexError, cramjam.DecompressionError, zlib.error
        If the bytes are none of a basket; a block of LZ4 has a checksum.
    NotImplementedError
        If they are stored in a way that is not known.
    """
    view = stored.data
    n_bytes, version, n_whole, header = _KEY.unpack_from(view)
    place = _LARGE_TEXTS if version > _LARGE_KEY else _TEXTS
    for _ in range(3):
        place += 1 + view[place] if view[place] < _LONG_TEXT else 5 + _number(view, place + 1)
    n_events, end, _ = _BASKET.unpack_from(view, place)
    if place + _BASKET.size != header:
        raise NotImplementedError("a basket has offsets that are not stored")
    border = end - header
    if not (n_bytes == len(view) and header <= n_bytes and 0 <= border <= n_whole):
        raise ValueError("the key of a basket is another one")
    wanted = n_whole if offsets else border
    whole = memory(n_whole)
    if n_whole == n_bytes - header:
        whole[...] = stored[header:]
    else:
        _decompress(view[header:], whole, wanted)
    data = whole[:border]
    if border == n_whole or not offsets:
        return Basket(data, None, offsets, whole)
    # Their number comes first.  They count from the begin of the key, and the last means nothing.
    found = whole[border : border + 4 * (n_events + 2)].view(">i4")[1:]
    if len(found) != n_events + 1:
        raise ValueError("a basket has too few offsets")
    byte_offsets = np.subtract(found, header, dtype=np.int32)
    byte_offsets[-1] = border
    return Basket(data, byte_offsets, offsets, whole)


def _number(view: memoryview, place: int) -> int:
    return int.from_bytes(view[place : place + 4], "big")


def _decompress(blocks: memoryview, whole: Bytes, wanted: int) -> None:
    """Fill the front of some memory, ``wanted`` bytes of it at least, with what blocks hold."""
    place, filled = 0, 0
    while filled < wanted:
        kind = bytes(blocks[place : place + 2])
        sizes = blocks[place + _SIZES : place + _BLOCK]
        n_packed, n_bytes = (int.from_bytes(each, "little") for each in (sizes[:3], sizes[3:]))
        begin = place + _BLOCK
        packed, into = blocks[begin : begin + n_packed], whole[filled : filled + n_bytes]
        if not (0 < n_packed == len(packed) and 0 < n_bytes == len(into)):
            raise ValueError("blocks of a basket are cut off")
        decompress = _DECOMPRESS.get(kind)
        if decompress is None:
            raise NotImplementedError(f"a basket is compressed by {kind!r}")
        if decompress(packed, into, min(n_bytes, wanted - filled)) != n_bytes:
            raise ValueError("a block of a basket is shorter than it says")
        place, filled = begin + n_packed, filled + n_bytes


# Each fills the memory of a block, at least the bytes that are wanted, and gives the block's size.


def _zstd(packed: memoryview, into: Bytes, wanted: int) -> int:
    codecs = library("cramjam")
    if wanted < len(into):
        try:
            codecs.zstd.decompress_into(packed, into[:wanted])
        except codecs.DecompressionError as error:
            # It fails when it wants to write more: all that is wanted is there.
            if "whole buffer" in str(error):
                return len(into)
    return int(codecs.zstd.decompress_into(packed, into))


def _lz4(packed: memoryview, into: Bytes, wanted: int) -> int:  # noqa: ARG001
    checksum, block = packed[:_CHECKSUM], packed[_CHECKSUM:]
    if library("xxhash").xxh64_digest(block) != checksum:
        raise ValueError("the checksum of a block is another one")
    return int(library("cramjam").lz4.decompress_block_into(block, into, output_len=len(into)))


def _zlib(packed: memoryview, into: Bytes, wanted: int) -> int:
    # Users may have chosen another library, which knows no parts.
    if wanted < len(into) and getattr(library().ZLIB, "library", "zlib") == "zlib":
        front = zlib.decompressobj().decompress(packed, wanted)
        into[: len(front)] = np.frombuffer(front, np.uint8)
        return len(into) if len(front) == wanted else len(front)
    return _by_uproot("ZLIB", packed, into)


def _lzma(packed: memoryview, into: Bytes, wanted: int) -> int:  # noqa: ARG001
    return _by_uproot("LZMA", packed, into)


def _by_uproot(name: str, packed: memoryview, into: Bytes) -> int:
    codec: Any = getattr(library(), name)(1)
    found = np.frombuffer(codec.decompress(packed, len(into)), np.uint8)
    if len(found) == len(into):
        into[...] = found
    return len(found)


_DECOMPRESS: dict[bytes, Callable[[memoryview, Bytes, int], int]] = {
    b"ZS": _zstd,
    b"L4": _lz4,
    b"ZL": _zlib,
    b"XZ": _lzma,
}
