"""Tensors as columns of a Parquet file, which other tools read: a door to pyarrow.

Each field of a tensor is a column: of numbers where the group is flat, of lists of the items where
it is padded or ragged; each view of an image is one of lists of its pixels.  Empty slots are not
stored.  How many there are, the shape of an image, and what is in which column, is in the metadata
of the file, with a checksum of all of that.

What is read is what was written, to the last bit.  So no column has a dictionary, to which one NaN
is as good as another.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepdask_ml.data.scatter import Outcome, pad

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays: TypeAlias = Mapping[str, NDArray[Any]]
    # The numbers of a column, and where those of each row begin if they are lists.
    Numbers: TypeAlias = tuple[NDArray[Any], NDArray[np.int64] | None]

_ABOUT, _CHECKSUM = b"hepdask-ml", b"hepdask-ml-checksum"


def pack(file: IO[bytes], arrays: Arrays, about: Mapping[str, Any]) -> None:
    """Write the tensors of some events.

    Parameters
    ----------
    file : binary file
        Takes them.
    arrays : mapping of str to array
        By what they are in a `Batch`: ``events``, ``inputs/jets``, ``lengths/jets``.
    about : mapping
        What else there is to say, as JSON takes it.  ``fields`` has the names of those of tensors;
        others are numbered.

    Raises
    ------
    ValueError
        If they cannot be written.
    """
    columns: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    for name, array in arrays.items():
        kind, _, tensor = name.partition("/")
        if kind == "offsets":  # lists have their own
            continue
        planes, axis = array[None], None
        stem, titles = kind, [tensor]
        offsets, filled = None, None
        if kind == "inputs":
            axis = 1 if f"collisions/{tensor}" in arrays else -1
            planes = np.moveaxis(array, axis, 0)
            stem, titles = tensor, about["fields"].get(tensor) or list(range(len(planes)))
            offsets = arrays.get(f"offsets/{tensor}")
            if offsets is None and f"lengths/{tensor}" in arrays:
                offsets, filled = _slots(arrays[f"lengths/{tensor}"], planes.shape[2])
        names = []
        for title, plane in zip(titles, planes, strict=True):
            names.append(_unused(f"{stem}_{title}", columns))
            columns[names[-1]] = _column(plane if filled is None else plane[filled], offsets)
        tensors[name] = {
            "columns": names,
            "axis": axis,
            "padded": filled is not None,
            "shape": planes.shape[2:],
        }
    told = json.dumps({**about, "tensors": tensors}).encode()
    with _said():
        _write(file, columns, {_ABOUT: told})


def _slots(lengths: NDArray[np.int32], n_slots: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Tell where the items of each event begin that have a slot, and which slots have one."""
    taken = np.minimum(lengths, n_slots)
    offsets = np.concatenate([[0], np.cumsum(taken, dtype=np.int64)])
    return offsets, np.arange(n_slots) < taken[:, None]


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    """Make a name that other tools take without quotes, and that is not taken yet."""
    name = re.sub(r"\W+", "_", name).strip("_")
    while name in taken:
        name += "_"
    return name


def _column(values: NDArray[Any], offsets: NDArray[np.int64] | None) -> Any:
    """Give numbers as a column: as they are, or in lists."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    item = pa.field("element", flat.type, nullable=False)
    if offsets is not None:
        return pa.LargeListArray.from_arrays(offsets, flat, type=pa.large_list(item))
    if values.ndim > 1:
        kind = pa.list_(item, prod(values.shape[1:]))
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return flat


def _write(file: IO[bytes], columns: Mapping[str, Any], metadata: dict[bytes, bytes]) -> None:
    numbers = {name: _numbers(column) for name, column in columns.items()}
    metadata[_CHECKSUM] = _checksum(metadata[_ABOUT], numbers)
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    table = pa.Table.from_arrays(list(columns.values()), schema=pa.schema(fields, metadata))
    pq.write_table(
        table,
        file,
        row_group_size=max(1, len(table)),
        compression="zstd",
        use_dictionary=False,
        # Smaller, and quicker to read; not all that reads Parquet knows it for integers.
        use_byte_stream_split=[
            name if pa.types.is_floating(column.type) else f"{name}.list.element"
            for name, column in columns.items()
            if numbers[name][0].dtype.kind == "f"
        ],
    )


def _numbers(column: Any) -> Numbers:
    if pa.types.is_large_list(column.type):
        return column.flatten().to_numpy(), column.offsets.to_numpy()
    if pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    return column.to_numpy(), None


def _checksum(about: bytes, columns: Mapping[str, Numbers]) -> bytes:
    total = zlib.crc32(about)
    for name, numbers in columns.items():
        for each in numbers:
            if each is not None:
                total = zlib.crc32(f"{name} {each.dtype.str} {len(each)}".encode(), total)
                total = zlib.crc32(each.view(np.uint8).data, total)
    return f"{total:08x}".encode()


def unpacked(content: Any, *, check: bool) -> dict[str, NDArray[Any]]:
    """Give what `pack` has written.

    Parameters
    ----------
    content : bytes-like
        Of the file.
    check : bool
        Whether to look at the checksum.

    Returns
    -------
    dict of str to array
        The arrays, in memory of their own; tensors field by field.

    Raises
    ------
    ValueError, LookupError, TypeError, OSError
        If the file is damaged, or another one.
    """
    with _said():
        # In one thread: data sets that want more have threads and processes of their own.
        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(content)))
        table = file.read(use_threads=False)
        columns = {name: _numbers(table[name].combine_chunks()) for name in table.column_names}
    metadata = table.schema.metadata or {}
    if _ABOUT not in metadata:
        raise ValueError("it has no tensors")
    if check and metadata.get(_CHECKSUM) != _checksum(metadata[_ABOUT], columns):
        raise ValueError("it is not what was written")
    arrays = {}
    for name, told in json.loads(metadata[_ABOUT])["tensors"].items():
        found = [columns[each] for each in told["columns"]]
        planes = _planes(found, told["shape"], padded=told["padded"])
        axis = told["axis"]
        arrays[name] = planes[0] if axis is None else np.moveaxis(planes, 0, axis)
        offsets = found[0][1]
        if offsets is not None and not told["padded"]:
            arrays[f"offsets/{name.partition('/')[2]}"] = offsets.copy()
    return arrays


def _planes(columns: list[Numbers], shape: list[int], *, padded: bool) -> NDArray[Any]:
    """Lay the numbers of some columns out, one plane behind the other."""
    values, offsets = columns[0]
    n_rows = len(offsets) - 1 if padded and offsets is not None else len(values) // prod(shape)
    planes = np.empty((len(columns), n_rows, *shape), values.dtype)
    for plane, (values, offsets) in zip(planes, columns, strict=True):
        if not padded or offsets is None:
            plane[...] = values.reshape(plane.shape)
            continue
        lengths = np.diff(offsets).astype(np.int32)
        starts = offsets * values.itemsize
        outcome = pad(values.view(np.uint8), starts, values.dtype, plane, lengths, known=True)
        if outcome is not Outcome.DONE:
            raise ValueError("its lists have other lengths than they should")
    return planes


@contextmanager
def _said() -> Iterator[None]:
    """Say what pyarrow says as other errors of values."""
    try:
        yield
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
