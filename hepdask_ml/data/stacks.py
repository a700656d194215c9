"""Stacks: which branches of a tree become which tensors, and the tensors of a range of events.

Tensors are field-major, ``(field, event, slot)``: each branch has a *plane* of its own, in one
piece, that a reader fills without looking at the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import psutil

from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
    Lengths: TypeAlias = NDArray[np.int32]

DTYPES = ("float32", "float64")
"""What tensors may hold: numbers that know NaN."""


_LARGE = 2**30


@dataclass(frozen=True, slots=True)
class Stack:
    """Branches that become one tensor.

    Attributes
    ----------
    name : str
        Of the tensor.
    branches : tuple of str
        Its fields, as uproot names the branches.
    slots : int or None
        For jagged branches, which have the same number of items in each event: how many of them
        have a place.  None for branches with one number for each event.
    dtype : {"float32", "float64"}
        Of the tensor; whole numbers above 2^24 need float64.

    Raises
    ------
    InputError
        If there is no branch or slot, a branch is there twice, or the dtype is another one.
    """

    name: str
    branches: tuple[str, ...]
    slots: int | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "branches", tuple(self.branches))
        twice = sorted({each for each in self.branches if self.branches.count(each) > 1})
        if not self.branches:
            raise InputError(f'stack "{self.name}" has no branches: name those that it is made of')
        if twice:
            raise InputError(f'stack "{self.name}" has branch "{twice[0]}" twice: name it once')
        if self.slots is not None and self.slots < 1:
            raise InputError(
                f'stack "{self.name}" has {self.slots} slots: give at least one, or none at all '
                "for branches with one number for each event"
            )
        if self.dtype not in DTYPES:
            raise InputError(
                f'stack "{self.name}" has dtype {self.dtype}: it may be {" or ".join(DTYPES)}'
            )


@dataclass(frozen=True, slots=True, eq=False)
class Tensors:
    """Consecutive events of one tree.

    Attributes
    ----------
    start, stop : int
        Which events, counted in the tree.
    values : mapping of str to array
        By stack: ``(field, event, slot)``, NaN in slots without an item, or ``(field, event)``.
    lengths : mapping of str to (event,) int32 array
        By stack with slots: items of each event, also those that found no slot.
    """

    start: int
    stop: int
    values: Mapping[str, Values]
    lengths: Mapping[str, Lengths]

    def part(self, start: int, stop: int) -> Tensors:
        """Give the rows in front as the tensors of other events, in the same memory.

        Parameters
        ----------
        start, stop : int
            Events that these rows are to stand for; at most as many as there are now.

        Returns
        -------
        Tensors
            Views.
        """
        n_events = stop - start
        values = {name: each[:, :n_events] for name, each in self.values.items()}
        lengths = {name: each[:n_events] for name, each in self.lengths.items()}
        return Tensors(start, stop, values, lengths)


def empty(stacks: Sequence[Stack], start: int, stop: int) -> Tensors:
    """Make room for a range of events.

    Parameters
    ----------
    stacks : sequence of Stack
        What the tensors are of.
    start, stop : int
        Which events.

    Returns
    -------
    Tensors
        Whose numbers mean nothing yet.

    Raises
    ------
    InputError
        If no memory holds them.
    """
    n_events = stop - start
    values: dict[str, Values] = {}
    lengths: dict[str, Lengths] = {}
    for stack in stacks:
        shape: tuple[int, ...] = (len(stack.branches), n_events)
        if stack.slots is not None:
            shape = (*shape, stack.slots)
            lengths[stack.name] = np.empty(n_events, np.int32)
        check_room(shape, stack.dtype, stack.name)
        values[stack.name] = np.empty(shape, stack.dtype)
    return Tensors(start, stop, values, lengths)


def check_room(shape: tuple[int, ...], dtype: str, name: str) -> None:
    """Make sure that this machine can hold a tensor.

    Systems promise more memory than there is, and end whoever fills it.

    Parameters
    ----------
    shape : tuple of int
        Of the tensor.
    dtype : str
        Of its numbers.
    name : str
        Of the tensor, for the message.

    Raises
    ------
    InputError
        If it is larger than all memory.
    """
    n_bytes = prod(shape) * np.dtype(dtype).itemsize
    if n_bytes > _LARGE and n_bytes > psutil.virtual_memory().total:
        raise InputError(
            f'a batch of tensor "{name}" takes {n_bytes / 1e9:,.0f} GB, more than this machine '
            "has: give it a smaller length, fewer bins or fields, or give batches a smaller size"
        )
