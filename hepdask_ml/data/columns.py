"""Columns: the branches of a tree as its file stores them, each with its place in a stack.

A branch of plain numbers, one for each event or a list of them, is stored in *baskets*: runs of
events, which begin at other events in each branch of a file that ROOT wrote.  All else (fields of
an RNTuple, truncated floats, arrays of fixed size) uproot makes an array of awkward from; its
contents are laid out in the same planes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.data.basket_bytes import Basket
from hepdask_ml.data.scatter import KINDS, Outcome, pad
from hepdask_ml.data.with_uproot import UnreadableFile, branch_of, library, readable
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hepdask_ml.data.stacks import Stack, Tensors


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One branch, and where it goes.

    Attributes
    ----------
    stack : Stack
        What it is part of.
    row : int
        Its place there.
    branch : TBranch or RField
        As uproot has it.
    where : str
        File, tree and branch, for messages.
    dtype : dtype or None
        Of its numbers as they are stored; None where it has to come through awkward.
    header : int
        Bytes before the items of each event.
    follows : bool
        Whether a branch in its file counts its items and those of the first branch of the stack,
        so that it has the lengths of that one.
    edges : (n_baskets + 1,) tuple of int
        Events at which its baskets begin, and the end.
    places : sequence
        Of each basket its first byte and its end in the file, or the basket itself, where that lies
        in the tree.
    """

    stack: Stack
    row: int
    branch: Any
    where: str
    dtype: np.dtype[Any] | None
    header: int
    follows: bool
    edges: tuple[int, ...]
    places: Sequence[Any]

    def baskets(self, start: int, stop: int, *, begun: bool) -> Iterator[int]:
        """Give the numbers of the baskets that have events of a range.

        Parameters
        ----------
        start, stop : int
            The events.
        begun : bool
            Also those that began before it.

        Yields
        ------
        int
            In the order of their events.
        """
        first = bisect_right(self.edges, start) - 1 if begun else bisect_left(self.edges, start)
        for number in range(max(first, 0), min(bisect_left(self.edges, stop), len(self.places))):
            if max(self.edges[number], start) < self.edges[number + 1]:
                yield number


def columns_of(tree: Any, stacks: Sequence[Stack]) -> tuple[Column, ...]:
    """Find the branches of stacks in a tree.

    Parameters
    ----------
    tree : TTree or RNTuple
        As uproot has it.
    stacks : sequence of Stack
        What to find.

    Returns
    -------
    tuple of Column
        In the order of the stacks.

    Raises
    ------
    InputError
        If a branch is missing (the most similar one is named), or does not fit its stack.
    """
    where = f"{tree.file.file_path}:{tree.name}"
    found = []
    for stack in stacks:
        first = _column(tree, stack, 0, where)
        others = [_column(tree, stack, row, where) for row in range(1, len(stack.branches))]
        found += [first, *(replace(each, follows=_follows(each, first)) for each in others)]
    return tuple(found)


def _follows(column: Column, first: Column) -> bool:
    if column.stack.slots is None or column.dtype is None or column.header or first.dtype is None:
        return False
    counts = column.branch.count_branch
    return counts is not None and counts is first.branch.count_branch


def _column(tree: Any, stack: Stack, row: int, where: str) -> Column:
    name = stack.branches[row]
    branch = branch_of(tree, name, where)
    where = f'{where}, branch "{name}"'
    stored = _stored(branch, where) if isinstance(branch, library().TBranch) else None
    if stored is None:
        return Column(stack, row, branch, where, None, 0, False, (0,), ())
    dtype, header, jagged = stored
    _check_depth(1 + jagged, stack, where)
    with readable(where):
        edges = tuple(map(int, branch.entry_offsets))
        # Bytes in the file, or baskets that lie in the tree: uproot gives either, numbered.
        numbered = dict(branch.entries_to_ranges_or_baskets(0, edges[-1]))
        if edges[-1] != tree.num_entries:
            raise InputError(
                f"{where} has {edges[-1]} of the tree's {tree.num_entries} events: leave it out"
            )
        places = [
            (int(place[0]), int(place[1])) if isinstance(place, tuple) else place
            for place in (numbered.get(number) for number in range(len(edges) - 1))
        ]
    return Column(stack, row, branch, where, dtype, header, False, edges, places)


def _stored(branch: Any, where: str) -> tuple[np.dtype[Any], int, bool] | None:
    """Tell what the baskets of a branch hold, if that is plain numbers: dtype, header, jagged."""
    uproot = library()
    kind = branch.interpretation
    jagged = type(kind) is uproot.AsJagged
    header = int(kind.header_bytes) if jagged else 0
    content = kind.content if jagged else kind
    # uproot gives an exception for the kind of what it does not know.
    others = (uproot.AsStridedObjects, uproot.AsStrings, uproot.AsGrouped, Exception)
    of_a_class = isinstance(content, uproot.AsObjects) and isinstance(content.model, type)
    if of_a_class or isinstance(content, others):
        raise _no_numbers(where, branch.typename)
    if type(content) is not uproot.AsDtype or content.from_dtype.shape:
        return None
    dtype = content.from_dtype
    return (dtype, header, jagged) if (dtype.kind, dtype.itemsize) in KINDS else None


def _check_depth(depth: int, stack: Stack, where: str) -> None:
    if depth > 2:
        raise InputError(f"{where} has lists of lists in each event: give an expression of them")
    if depth == 2 and stack.slots is None:
        raise InputError(
            f'{where} has a list in each event, and "{stack.name}" has no slots: give it slots (a '
            "length), or take a number of it"
        )
    if depth == 1 and stack.slots is not None:
        raise InputError(
            f'{where} has one number in each event, and "{stack.name}" has slots for items: put it '
            "where there are none"
        )


def lay_out(column: Column, number: int, basket: Any, batch: Tensors) -> Any:
    """Put what a batch takes of a basket into its place.

    Parameters
    ----------
    column : Column
        The branch.
    number : int
        Of the basket.
    basket : Basket or Model_TBasket
        Decompressed.  Without offsets nothing else of it was laid out but in the batches before,
        and lengths are known.
    batch : Tensors
        Whose events to take.

    Returns
    -------
    Basket or Model_TBasket
        What has to be given for the next batch, if it takes of this basket as well.

    Raises
    ------
    InputError
        If there are other lengths than in the branch before.
    UnreadableFile
        If the basket is damaged.
    """
    assert column.dtype is not None
    first, last = column.edges[number : number + 2]
    begin, end = max(first, batch.start), min(last, batch.stop)
    rows = slice(begin - batch.start, end - batch.start)
    plane = batch.values[column.stack.name][column.row, rows]
    if column.stack.slots is None:
        items = basket.data.view(column.dtype)
        if len(items) != last - first:
            raise _damaged(column, number)
        # Numbers beyond float32 become infinite, as in the kernel.
        with np.errstate(over="ignore"):
            plane[...] = items[begin - first : end - first]
        return basket
    lengths = batch.lengths[column.stack.name][rows]
    data, offsets, rest = basket.data, None, basket
    if isinstance(basket, Basket) and not basket.asked:
        n_bytes = int(lengths.sum(dtype=np.int64)) * column.dtype.itemsize
        data, rest = data[:n_bytes], replace(basket, data=data[n_bytes:])
        if end == last and len(rest.data):
            raise _damaged(column, number)
    else:
        offsets = _offsets(column, basket, first, last)
        if len(offsets) != last - first + 1:
            raise _damaged(column, number)
        offsets = offsets[begin - first : end - first + 1]
    outcome = pad(
        data, offsets, column.dtype, plane, lengths, header=column.header, known=column.row > 0
    )
    if outcome is Outcome.OTHER_LENGTHS:
        raise _other_lengths(column, begin, end)
    if outcome is not Outcome.DONE:
        raise _damaged(column, number)
    return rest


def _offsets(column: Column, basket: Any, first: int, last: int) -> NDArray[np.int32]:
    """Positions in bytes at which the events of a basket begin, and the end."""
    if basket.byte_offsets is not None:
        return np.ascontiguousarray(basket.byte_offsets, np.int32)
    if column.branch.count_branch is None:
        raise UnreadableFile(f"{column.where} says nowhere how many items its events have")
    counts = column.branch.count_branch.array(
        entry_start=first, entry_stop=last, library="np", array_cache=None
    )
    assert column.dtype is not None
    offsets = np.zeros(last - first + 1, np.int32)
    np.cumsum(counts * column.dtype.itemsize, out=offsets[1:])
    return offsets


def lay_out_array(column: Column, batch: Tensors) -> None:
    """Read a column of a batch through awkward, and put it into its place.

    Parameters
    ----------
    column : Column
        A branch without baskets of plain numbers.
    batch : Tensors
        Whose events to read.

    Raises
    ------
    InputError
        If it has no numbers, or does not fit its stack.
    UnreadableFile
        If it cannot be read.
    """
    with readable(column.where):
        try:
            array = column.branch.array(
                entry_start=batch.start, entry_stop=batch.stop, library="ak", array_cache=None
            )
        except library().interpretation.objects.CannotBeAwkward:
            raise _no_numbers(column.where, column.branch.typename) from None
    if len(array) != batch.stop - batch.start:
        raise UnreadableFile(
            f"{column.where} has {len(array)} of the events {batch.start} to {batch.stop}: make or "
            "fetch the file again"
        )
    items, lengths = _contents(column, array)
    plane = batch.values[column.stack.name][column.row]
    if lengths is None:
        with np.errstate(over="ignore"):
            plane[...] = items
        return
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths * items.itemsize, out=offsets[1:])
    outcome = pad(
        items.view(np.uint8),
        offsets,
        items.dtype,
        plane,
        batch.lengths[column.stack.name],
        known=column.row > 0,
    )
    if outcome is Outcome.OTHER_LENGTHS:
        raise _other_lengths(column, batch.start, batch.stop)


def _contents(column: Column, array: Any) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
    """Numbers of an array in one piece, and how many each event has, unless it has just one."""
    ak = library("awkward")
    _check_depth(array.ndim, column.stack, column.where)
    jagged = array.ndim > 1
    kind = str(array.type.content)
    try:
        items = ak.to_numpy(ak.flatten(array) if jagged else array)
    except (TypeError, ValueError):
        items = np.zeros(0, np.void)
    if isinstance(items, np.ma.MaskedArray) and items.dtype.kind in "fiub":
        items = np.ma.filled(items.astype(np.float64), np.nan)
    if (items.dtype.kind, items.dtype.itemsize) not in KINDS:
        raise _no_numbers(column.where, kind)
    native = np.ascontiguousarray(items, items.dtype.newbyteorder("="))
    return native, np.asarray(ak.num(array), np.int64) if jagged else None


def _damaged(column: Column, number: int) -> UnreadableFile:
    return UnreadableFile(
        f"{column.where} is damaged: basket {number} does not hold what it says; make or fetch the "
        "file again"
    )


def _no_numbers(where: str, kind: str) -> InputError:
    return InputError(f"{where} has no numbers but {kind or 'objects'}: leave it out")


def _other_lengths(column: Column, start: int, stop: int) -> InputError:
    first = column.stack.branches[0]
    return InputError(
        f'{column.where} has not as many items as "{first}" in each of the events {start} to '
        f"{stop}: put them apart"
    )
