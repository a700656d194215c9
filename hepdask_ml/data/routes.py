"""Routes: which fields go straight from baskets into tensors, and which are calculated.

Bare branches need no arrays in between, if a tree has them in baskets of plain numbers.  All else
is calculated, and so is what would otherwise be read twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hepdask_ml.data.columns import columns_of
from hepdask_ml.data.stacks import Stack

if TYPE_CHECKING:
    from hepdask_ml.data.features import Features, Field


def in_baskets(tree: Any, spec: Features) -> dict[str, tuple[Field, ...]]:
    """Choose the fields that go straight from baskets into the tensor of their group.

    These are bare branches of padded groups that the tree has in baskets of plain numbers, as an
    RNTuple never has.  Where a group has other fields, too, those are left out that have to be read
    for a calculation anyway.

    Parameters
    ----------
    tree : TTree or RNTuple
        As uproot has it.
    spec : Features
        Of which groups.

    Returns
    -------
    dict of str to tuple of Field
        By group, in its order; a group without such fields is not there.

    Raises
    ------
    InputError
        If a branch is missing (the most similar one is named), or does not fit its group.
    """
    bare = _bare(spec)
    fields = [(group.name, field) for group in spec.groups for field in bare.get(group.name, ())]
    # A reader would make arrays of other branches for each batch anew.
    stored = {
        field
        for field, column in zip(fields, columns_of(tree, stacks_of(spec, bare)), strict=True)
        if column.dtype is not None
    }
    kept = {
        name: tuple(each for each in bare[name] if (name, each) in stored) for name, _ in fields
    }
    return {name: each for name, each in kept.items() if each}


def _bare(spec: Features) -> dict[str, tuple[Field, ...]]:
    padded = [each for each in spec.groups if each.form == "padded"]
    bare = Counter(field for group in padded for field in group.fields if field.branch)
    others = Counter(field for _, field in spec.places()) - bare
    needed = {name for field in others for name in field.branches}
    found = {}
    for group in padded:
        fields = [field for field in group.fields if field.branch]
        if len(fields) < len(group.fields):
            fields = [field for field in fields if field.branch not in needed]
        # A stack takes no branch twice.
        distinct = {field.branch: field for field in reversed(fields)}
        kept = tuple(field for field in fields if distinct[field.branch] is field)
        if kept:
            found[group.name] = kept
    return found


def calculated_fields(
    spec: Features, read: Mapping[str, Sequence[Field]]
) -> Iterator[tuple[Field, str]]:
    """Go over the fields that are calculated.

    Parameters
    ----------
    spec : Features
        All fields.
    read : mapping of str to sequence of Field
        Those that are not, by group.

    Yields
    ------
    Field
        Each once.
    str
        Where it stands, such as ``"features.jets.px"``.
    """
    as_they_are = Counter(field for fields in read.values() for field in fields)
    others = Counter(field for _, field in spec.places()) - as_they_are
    places = {field: place for place, field in reversed(list(spec.places()))}
    for field in others:
        yield field, places[field]


def stacks_of(spec: Features, read: Mapping[str, Sequence[Field]]) -> list[Stack]:
    """Give the stacks of fields that are read as they are.

    Parameters
    ----------
    spec : Features
        Of which groups.
    read : mapping of str to sequence of Field
        Their fields, bare branches all.

    Returns
    -------
    list of Stack
        Of each group that has some, with its name.
    """
    return [
        Stack(
            group.name,
            tuple(each.branch for each in read[group.name] if each.branch is not None),
            group.slots if group.jagged else None,
            group.dtype,
        )
        for group in spec.groups
        if group.name in read
    ]
