"""Layouts: numbers of events as the tensors of groups, and as images.

All is field-major here, as in `data.stacks`: each field fills a plane of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.data.images import draw
from hepdask_ml.data.scatter import Outcome, pad
from hepdask_ml.data.stacks import check_room
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hepdask_ml.data.features import Field, Group, Image
    from hepdask_ml.data.images import Drawn
    from hepdask_ml.data.jagged import Items
    from hepdask_ml.data.stacks import Lengths, Tensors, Values


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """One tensor of some events.

    Attributes
    ----------
    planes : (field, event), (field, event, slot) or (field, item) array
        Its numbers.
    lengths : (event,) int32 array or None
        Items of each event, if there are any.
    offsets : (event + 1,) int64 array or None
        Where those of each event begin, if the tensor is ragged.
    """

    planes: Values
    lengths: Lengths | None = None
    offsets: NDArray[np.int64] | None = None


def of_stack(name: str, tensors: Tensors, rows: NDArray[np.intp] | None) -> Layout:
    """Take a tensor that was read as it is.

    Parameters
    ----------
    name : str
        Of the stack.
    tensors : Tensors
        Of consecutive events.
    rows : (n,) integer array or None
        Which of these to take; None for all.

    Returns
    -------
    Layout
        In the same memory, if all are taken.
    """
    planes, lengths = tensors.values[name], tensors.lengths.get(name)
    if rows is None:
        return Layout(planes, lengths)
    # An index would interleave the planes.
    kept: Any = np.take(planes, rows, axis=1)
    return Layout(kept, None if lengths is None else lengths[rows])


def of_group(
    group: Group,
    found: Mapping[Field, Items],
    n_events: int,
    where: str,
    read: Layout | None = None,
) -> Layout:
    """Lay out the fields of a group.

    Parameters
    ----------
    group : Group
        What they are to become.
    found : mapping of Field to Items
        Numbers of those that were calculated: of one at least.
    n_events : int
        Of how many events.
    where : str
        The file and the tree, for messages.
    read : Layout, optional
        The other fields of the group, in their order, if there are any.

    Returns
    -------
    Layout
        With NaN in slots without an item.  Numbers beyond the dtype become infinite.

    Raises
    ------
    InputError
        If a field has lists where the group has none, or the other way round, or other numbers of
        items than the others; if no memory holds the tensor.
    """
    columns = [found.get(each) for each in group.fields]
    offsets: NDArray[np.int64] | None = next(each for each in columns if each is not None).offsets
    if read is not None and read.lengths is not None:
        offsets = np.concatenate([[0], np.cumsum(read.lengths, dtype=np.int64)])
    for field, items in zip(group.fields, columns, strict=True):
        if items is not None:
            what = f"{where}, features.{group.name}.{field.name}"
            _check(items, offsets, group.jagged, what)
    lengths = None if offsets is None else np.diff(offsets).astype(np.int32)
    shape: tuple[int, ...] = (n_events,)
    if offsets is not None:
        shape = (int(offsets[-1]),) if group.slots is None else (n_events, group.slots)
    check_room((len(columns), *shape), group.dtype, group.name)
    planes: Values = np.empty((len(columns), *shape), group.dtype)
    others = iter(() if read is None else read.planes)
    for plane, items in zip(planes, columns, strict=True):
        if items is None:
            plane[...] = next(others)
        else:
            _fill(plane, items, lengths)
    return Layout(planes, lengths, None if group.form == "padded" else offsets)


def _fill(plane: Values, items: Items, lengths: Lengths | None) -> None:
    """Put numbers into a plane: as they are, or into slots."""
    values = items.values
    if plane.ndim == 1:
        with np.errstate(over="ignore"):
            plane[...] = values
        return
    assert items.offsets is not None
    assert lengths is not None
    starts = items.offsets * values.itemsize
    outcome = pad(values.view(np.uint8), starts, values.dtype, plane, lengths, known=True)
    assert outcome is Outcome.DONE


def of_image(image: Image, found: Mapping[Field, Items], where: str) -> Drawn:
    """Draw an image of each event.

    Parameters
    ----------
    image : Image
        What to draw.
    found : mapping of Field to Items
        The numbers of its fields.
    where : str
        The file and the tree, for messages.

    Returns
    -------
    Drawn
        One view behind the other.

    Raises
    ------
    InputError
        If a field has no lists, or other numbers of items than the first; if no memory holds the
        images.
    """
    x, y = found[image.x.field], found[image.y.field]
    weights = [None if each.weight is None else found[each.weight] for each in image.views]
    named = {"x": x, "y": y} | {
        f"views.{view.name}": items
        for view, items in zip(image.views, weights, strict=True)
        if items is not None
    }
    for name, items in named.items():
        _check(items, x.offsets, True, f"{where}, images.{image.name}.{name}")
    assert x.offsets is not None
    shape = (len(x.offsets) - 1, len(image.views), image.y.bins, image.x.bins)
    check_room(shape, "float32", image.name)
    return draw(
        x.offsets,
        (image.x, image.y),
        (x.values, y.values),
        [None if each is None else each.values for each in weights],
    )


def _check(items: Items, offsets: NDArray[np.int64] | None, jagged: bool, what: str) -> None:
    if items.offsets is None:
        if jagged:
            raise InputError(
                f"{what} gives one number in each event, where each item needs one: take a field "
                "of items here, and put this one in a group without a length"
            )
    elif not jagged:
        raise InputError(
            f"{what} gives a list of items in each event: reduce it to a number, as sum and first "
            "do, or give its group a length"
        )
    elif offsets is None or not np.array_equal(items.offsets, offsets):
        raise InputError(
            f"{what} has not as many items in each event as the other fields: take fields of the "
            "same items"
        )
