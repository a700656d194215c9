"""Caches: tensors kept on a disk or in a store, so that they are made once.

An *entry* has the events of one *cell*, a range of events of one file; cells are the spans of the
stream, whatever ranges are asked for later.  Its name is made of what its numbers depend on: the
identity of the file, the features, and what the scalers were fitted to.  So nothing in a cache ever
gets out of date; whatever is in the way may be removed.

An entry is one file, which gets its name when it is whole, and has checksums.  As a rule it is an
uncompressed ``.npz`` file, which `numpy.load` opens.  On a local disk it is not read but mapped
into memory, so that what is used often stays there.  (Measured on 50,000 events of 17 MB: 5 GB/s
mapped and used, once checked with 2 GB/s; 2.6 GB/s for Zarr and 0.5 GB/s for Parquet.)  It may also
be a Parquet file, which takes less room, and which many tools read (`data.with_parquet`).
"""

from __future__ import annotations

import json
import logging
import mmap
import re
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from hepdask_ml.config import nearest
from hepdask_ml.data.batch import Batch
from hepdask_ml.data.identities import identity
from hepdask_ml.data.mixing import joined, mixture
from hepdask_ml.data.sources import Span
from hepdask_ml.errors import InputError, late, words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hepdask_ml.data.forms import Look
    from hepdask_ml.data.mixing import Batches, Mixture
    from hepdask_ml.data.sources import Source

    Arrays: TypeAlias = Mapping[str, NDArray[Any]]
    Pack: TypeAlias = Callable[[IO[bytes], Arrays, Mapping[str, Any]], None]
    Unpacked: TypeAlias = Callable[..., dict[str, NDArray[Any]]]

LOG = logging.getLogger(__name__)

FORMAT = 1
"""Of the entries."""

FORMATS = ("npz", "parquet")
"""What the files of a cache may be."""

_ALONE = ("events", "weights", "labels")
_NAMED = ("inputs", "lengths", "offsets", "collisions", "outside")
_ABOUT = "about.json"
_ALIGNED = 64
# Of a member of a ZIP file: what stands before its name, and where the lengths of that lie.
_HEADER, _LENGTHS = 30, 26
# An extra field that means nothing has this number, and the length of the rest.
_NOTHING = b"\x35\xd9"
# Read-only stores of fsspec have not implemented writing.
_FAULTS = (OSError, NotImplementedError, RuntimeError, ValueError)


def cached(stream: Batches, where: str | Path, format: str = "npz") -> Cached:
    """Keep the tensors of a stream.

    Parameters
    ----------
    stream : Stream of Batch
        What `hepdask_ml.data.tensors.tensors` gives.
    where : str or Path
        A folder, or a URL that fsspec knows; it is made with the first entry.  Several processes
        and streams may share it.
    format : {"npz", "parquet"}
        What its files are: arrays of numpy, which are read most quickly; or Parquet, with a column
        for each field, which other tools read as well.

    Returns
    -------
    Cached
        To be used in place of the stream.

    Raises
    ------
    InputError
        If nothing can be kept there, the form of the stream has no digest, or there is no such
        format.

    Examples
    --------
    >>> stream = cached(tensors("*.root", "features.yaml"), "cache")  # doctest: +SKIP
    """
    return Cached(stream, where, format)


class Cached:
    """A stream whose tensors are kept; can be pickled, as the stream can.

    Parameters
    ----------
    stream, where, format
        As for `cached`.

    Attributes
    ----------
    form
        That of the stream.
    notes : list of str
        A sentence for each entry that was damaged and had to be made again, and one if entries
        cannot be written.
    """

    def __init__(self, stream: Batches, where: str | Path, format: str = "npz") -> None:
        if format not in FORMATS:
            near = nearest(str(format), FORMATS) or [f"give {' or '.join(FORMATS)}"]
            raise InputError(f"tensors are not kept as {format!r:.60}: {near[0]}")
        if not hasattr(stream.form, "digest"):
            raise InputError(
                f"{type(stream.form).__name__} has no digest, by which its results would be known "
                "again: keep a stream of tensors"
            )
        try:
            self._system, self._folder = fsspec.core.url_to_fs(str(where))
        except (ValueError, ImportError) as error:
            raise InputError(
                f"no tensors can be kept in {where} ({words(error)}): give a folder or another URL"
            ) from None
        self.form = stream.form
        self.notes: list[str] = []
        self._where = _public(str(where))
        self._stream = stream
        self._format = format
        self._cells: dict[Source, list[Span]] = {}
        self._checked: set[str] = set()

    @property
    def sources(self) -> Sequence[Source]:
        """The files."""
        return self._stream.sources

    @property
    def looks(self) -> Mapping[Source, Look]:
        """What looks into the files have found so far."""
        return self._stream.looks

    @property
    def skipped(self) -> Sequence[Any]:
        """Events that are missing, so far."""
        return self._stream.skipped

    def spans(self, size: int | None = None) -> tuple[Span, ...]:
        """Split all events into ranges, as the stream does."""
        return self._stream.spans(size)

    def read(self, span: Span) -> Batch:
        """Give one range of events, in one piece.

        Parameters
        ----------
        span : Span
            The events.

        Returns
        -------
        Batch
            Of these events.

        Raises
        ------
        InputError, UnreadableFile
            As the stream does.
        """
        parts = [mixture(each, 0) for each in self.batches(span)]
        if len(parts) == 1:
            return _batch(parts[0], span)
        whole = joined(parts, span.stop - span.start)
        return self._stream.read(span) if whole is None else _batch(whole, span)

    def batches(self, span: Span | None = None, size: int | None = None) -> Iterator[Batch]:
        """Give events cell by cell; those that are not kept yet are made.

        Parameters
        ----------
        span : Span, optional
            The events; all if not given.
        size : int, optional
            Events in a batch at most; a whole cell if not given.

        Yields
        ------
        Batch
            Its arrays may be written to; that changes no entry.

        Raises
        ------
        InputError, UnreadableFile
            As the stream does.
        """
        for each in [span] if span else self.spans():
            for cell in self._cells_of(each):
                for batch in self._cell(cell):
                    start, stop = max(cell.start, each.start), min(batch.stop, each.stop)
                    for begin in range(start, stop, size or cell.stop - cell.start):
                        end = min(begin + (size or stop), stop)
                        yield _part(batch, Span(cell.source, begin, end))

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def __repr__(self) -> str:
        return f"<Cached: {self._stream!r} in {self._where}>"

    def __getstate__(self) -> dict[str, Any]:
        # Each process checks for itself what it maps.
        return {**self.__dict__, "_checked": set()}

    def _cells_of(self, span: Span) -> Sequence[Span]:
        """Give the cells that have events of a range."""
        if not self._cells:
            for cell in self._stream.spans():
                self._cells.setdefault(cell.source, []).append(cell)
        cells = self._cells.get(span.source, [])
        first = bisect_right([cell.start for cell in cells], span.start) - 1
        touched = (cell for cell in cells[max(first, 0) :] if cell.start < span.stop)
        return [cell for cell in touched if cell.stop > span.start]

    def _cell(self, cell: Span) -> Iterator[Batch]:
        """Give the events of a cell: those of its entry, or those that one is made of."""
        name = self._name(cell)
        kept = self._kept(name, cell)
        if kept is not None:
            yield kept
            return
        at = cell.start
        nothing: Batch | None = None

        def parts() -> Iterator[Mixture]:
            nonlocal at, nothing
            for batch in self._stream.batches(cell):
                at = batch.stop
                nothing = batch if not len(batch) else nothing
                yield mixture(batch, 0)

        made = joined(parts(), cell.stop - cell.start)
        if made is not None:
            batch = _batch(made, replace(cell, stop=at))
        elif nothing is not None:
            batch = replace(nothing, start=cell.start, stop=at)
        else:
            return
        # What ends too early was passed over, and may be whole another time.
        if at == cell.stop:
            self._keep(name, cell, batch)
        yield batch

    def _name(self, cell: Span) -> str:
        told = json.dumps([FORMAT, self._key(cell), self.form.digest, cell.start, cell.stop])
        name = blake2b(told.encode(), digest_size=20).hexdigest()
        return f"{self._folder}/{name[:2]}/{name}.{self._format}"

    def _key(self, cell: Span) -> str:
        return identity(cell.source, self._stream.looks[cell.source]).key

    def _kept(self, name: str, cell: Span) -> Batch | None:
        """Give what an entry has; None if there is none, or it is damaged."""
        _, unpacked = _functions(self._format)
        try:
            arrays = unpacked(self._bytes(name), check=name not in self._checked)
            batch = _batch_of(arrays, cell)
        except FileNotFoundError:
            return None
        except (*_FAULTS, zipfile.BadZipFile, LookupError, EOFError, TypeError) as error:
            said = getattr(error, "strerror", None) or words(error)
            self._note(f"the tensors in {name} cannot be used ({said}), and are made again")
            return None
        self._checked.add(name)
        return batch

    def _bytes(self, name: str) -> Any:
        if not isinstance(self._system, LocalFileSystem):
            return bytearray(self._system.cat_file(name))
        with Path(name).open("rb") as file:
            # What is written to goes to a copy.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def _keep(self, name: str, cell: Span, batch: Batch) -> None:
        about = {
            "url": _public(cell.source.url),
            "start": cell.start,
            "stop": cell.stop,
            "key": _public(self._key(cell)),
            "digest": self.form.digest,
            "fields": _fields(self.form),
        }
        pack, _ = _functions(self._format)
        try:
            if isinstance(self._system, LocalFileSystem):
                _write(Path(name), pack, _arrays(batch), about)
            else:
                packed = BytesIO()
                pack(packed, _arrays(batch), about)
                self._system.makedirs(name.rpartition("/")[0], exist_ok=True)
                self._system.pipe_file(name, packed.getvalue())
        except _FAULTS as error:
            said = getattr(error, "strerror", None) or words(error)
            self._note(f"tensors cannot be kept in {self._where} ({said}), and are made each time")

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
            LOG.warning("%s", note)


def _public(url: str) -> str:
    """Give a URL that anybody may see: without a name and a password."""
    return re.sub(r"//[^/@]*@", "//", url)


def _functions(format: str) -> tuple[Pack, Unpacked]:
    """Give what makes a file of arrays, and what takes it apart."""
    if format == "npz":
        return _pack, _unpacked
    parquet = late("data.with_parquet")
    return parquet.pack, parquet.unpacked


def _fields(form: Any) -> dict[str, list[str]]:
    """Give the names of the fields of each tensor, and of the views of images."""
    features = getattr(form, "features", None)
    groups, images = (getattr(features, each, ()) for each in ("groups", "images"))
    named = {group.name: [each.name for each in group.fields] for group in groups}
    return named | {image.name: [each.name for each in image.views] for image in images}


def _batch(events: Mixture, span: Span) -> Batch:
    """Give events of one file as a batch of a range."""
    return Batch(
        span.source,
        span.start,
        span.stop,
        events.events,
        events.inputs,
        events.lengths,
        events.offsets,
        events.collisions,
        events.outside,
        events.weights,
        events.labels,
    )


def _part(batch: Batch, span: Span) -> Batch:
    """Give the events of a batch that are in a range, in the same memory."""
    start, stop = np.searchsorted(batch.events, [span.start, span.stop])
    return _batch(mixture(batch, 0).part(int(start), int(stop)), span)


def _arrays(batch: Batch) -> dict[str, NDArray[Any]]:
    """Give all arrays of a batch by their names in an entry."""
    alone = {name: getattr(batch, name) for name in _ALONE}
    named = {
        f"{kind}/{name}": array for kind in _NAMED for name, array in getattr(batch, kind).items()
    }
    return {name: array for name, array in {**alone, **named}.items() if array is not None}


def _batch_of(arrays: Arrays, span: Span) -> Batch:
    """Make a batch of what `_arrays` gave."""
    named: dict[str, dict[str, Any]] = {kind: {} for kind in _NAMED}
    for key, array in arrays.items():
        kind, _, name = key.partition("/")
        if name:
            named[kind][name] = array
    alone = {name: arrays.get(name) for name in _ALONE[1:]}
    made: dict[str, Any] = {**named, **alone, "events": arrays["events"]}
    return Batch(span.source, span.start, span.stop, **made)


def _write(path: Path, pack: Pack, arrays: Arrays, about: Mapping[str, Any]) -> None:
    """Write a file that has its name when it is whole; a power cut is found by its checksums."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{token_hex(8)}.unfinished")
    try:
        with unfinished.open("xb") as file:
            pack(file, arrays, about)
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def _pack(file: IO[bytes], arrays: Arrays, about: Mapping[str, Any]) -> None:
    """Write an entry; each array begins where processors like it."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, given in arrays.items():
            # What is field-major may be called Fortran's order otherwise, and is not written so.
            array = np.ascontiguousarray(given)
            header = BytesIO()
            np.lib.format.write_array_header_1_0(
                header, np.lib.format.header_data_from_array_1_0(array)
            )
            member = zipfile.ZipInfo(f"{name}.npy")
            member.file_size = header.tell() + array.nbytes
            begin = file.tell() + _HEADER + len(member.filename.encode()) + header.tell() + 4
            n_empty = -begin % _ALIGNED
            member.extra = _NOTHING + n_empty.to_bytes(2, "little") + bytes(n_empty)
            with archive.open(member, "w") as opened:
                opened.write(header.getvalue())
                # In bytes, as a member of a ZIP file counts them.
                opened.write(array.reshape(-1).view(np.uint8).data)
        # Without the time of day: equal tensors make equal files.
        archive.writestr(zipfile.ZipInfo(_ABOUT), json.dumps(about))


def _unpacked(content: Any, *, check: bool) -> dict[str, NDArray[Any]]:
    """Give the arrays of an entry, in the memory that it lies in."""
    arrays = {}
    view = memoryview(content)
    file: Any = content if isinstance(content, mmap.mmap) else BytesIO(content)
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            lengths = view[member.header_offset + _LENGTHS : member.header_offset + _HEADER]
            before = int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
            begin = member.header_offset + _HEADER + before
            packed = view[begin : begin + member.file_size]
            if check and zlib.crc32(packed) != member.CRC:
                raise ValueError(f"{member.filename} is not what was written")
            if member.filename != _ABOUT:
                arrays[member.filename.removesuffix(".npy")] = _array(packed)
    return arrays


def _array(packed: memoryview) -> NDArray[Any]:
    """Give the array of an ``.npy`` file in its own memory."""
    header = BytesIO(packed[: 1 << 12])
    if np.lib.format.read_magic(header) != (1, 0):
        raise ValueError("it is of another version")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(header)
    array = np.frombuffer(packed, dtype, offset=header.tell())
    return array.reshape(shape, order="F" if by_columns else "C")
