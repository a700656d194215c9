"""Features: what a model gets to see of each event, said once, in YAML or in Python.

.. code-block:: yaml

    tree: Events
    selection: nJet >= 2 and MET_pt > 30
    weights: genWeight
    labels: {ttbar: 1, dy: 0}
    features:
      event: [MET_pt, {name: ht, expression: sum(Jet_pt)}]
      jets: {branches: [Jet_pt, Jet_eta, Jet_pt * cos(Jet_phi)], length: 8, scale: standard}
      muons: {branches: [Muon_pt], percentile: 95}
      tracks: {branches: [Track_pt], form: ragged}
    images:
      calo:
        x: {expression: Jet_eta, bins: 32, low: -4, high: 4}
        y: {expression: Jet_phi, bins: 32, low: -3.2, high: 3.2}
        views: [counts, {name: pt, weight: Jet_pt}]

A group with a ``length``, a ``percentile`` of the lengths or the ``form: ragged`` is one of items;
without, its fields are one number for each event.  `hepdask_ml.data.fields` has the records of
which a specification consists.  Nothing is read here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from hepdask_ml.config import read_yaml, record_of, settle
from hepdask_ml.data.feature_document import (
    KINDS,
    Named,
    mapping_of,
    read_field,
    read_group,
    read_image,
    write_field,
    write_group,
    write_image,
)
from hepdask_ml.data.fields import FORMS, SCALES, Axis, Field, Group, Image, View
from hepdask_ml.data.functions import identity, name_of
from hepdask_ml.errors import InputError

__all__ = [
    "FORMS",
    "SCALES",
    "Axis",
    "Features",
    "Field",
    "Group",
    "Image",
    "Lengths",
    "View",
    "features",
    "plain",
]


class Lengths(Protocol):
    """What has looked at the lengths of lists, as a scan has."""

    def slots(self, group: str, percentile: float) -> int:
        """Give so many slots that all items of this share of events, in percent, have a place."""


@dataclass(frozen=True, slots=True, repr=False)
class Features:
    """What a model gets to see of each event.

    Attributes
    ----------
    groups : tuple of Group
        Tensors of numbers.
    images : tuple of Image
        Tensors of bins.
    selection : Field or None
        Which events are taken: those for which it holds.
    weights : Field or None
        A number for each event.
    labels : Field, mapping of str to float, or None
        A number for each event, or one for all events of each data set.
    tree : str or None
        Name of the tree, where the files do not say it.

    Raises
    ------
    InputError
        If there is neither a group nor an image, or two of them have the same name.
    """

    groups: tuple[Group, ...] = ()
    images: tuple[Image, ...] = ()
    selection: Field | None = None
    weights: Field | None = None
    labels: Field | Mapping[str, float] | None = field(default=None, hash=False)
    tree: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", _all_of(Group, self.groups, "groups"))
        object.__setattr__(self, "images", _all_of(Image, self.images, "images"))
        names = [*(each.name for each in self.groups), *(each.name for each in self.images)]
        if not names:
            raise InputError("features holds nothing: name a group of branches, or an image")
        for name in names:
            if names.count(name) > 1:
                raise InputError(f'there are two tensors "{name}": name one of them otherwise')
        for name in ("selection", "weights"):
            if not isinstance(getattr(self, name), Field | None):
                raise InputError(f"{name} is {getattr(self, name)!r:.60}: it must be a Field")
        tree: Any = self.tree
        if tree is not None and (not isinstance(tree, str) or not tree):
            raise InputError(f"tree is {tree!r:.60}: it must be the name of a tree")
        if not isinstance(self.labels, Field | None):
            object.__setattr__(self, "labels", _numbers(self.labels))

    def __repr__(self) -> str:
        parts = [_shape_text(group) for group in self.groups]
        parts += [f"{each.name} ({len(each.views)} views)" for each in self.images]
        others = [name for name in ("selection", "weights", "labels") if getattr(self, name)]
        said = f"; with {', '.join(others)}" if others else ""
        return f"<Features: {', '.join(parts)}{said}>"

    def places(self) -> Iterator[tuple[str, Field]]:
        """Go over all fields.

        Yields
        ------
        str
            Where it stands, such as ``"features.jets.px"``.
        Field
            The field.
        """
        for name in ("selection", "weights", "labels"):
            found = getattr(self, name)
            if isinstance(found, Field):
                yield name, found
        for group in self.groups:
            for each in group.fields:
                yield f"features.{group.name}.{each.name}", each
        for image in self.images:
            yield f"images.{image.name}.x", image.x.field
            yield f"images.{image.name}.y", image.y.field
            for view in image.views:
                if view.weight is not None:
                    yield f"images.{image.name}.views.{view.name}", view.weight

    @property
    def branches(self) -> tuple[str, ...]:
        """All branches that are needed, each once."""
        return tuple(dict.fromkeys(name for _, each in self.places() for name in each.branches))

    def wanted_by(self, branch: str) -> str:
        """Say which field needs a branch.

        Parameters
        ----------
        branch : str
            One of `branches`.

        Returns
        -------
        str
            Where the first such field stands, such as ``"features.jets.px"``.
        """
        return next(place for place, each in self.places() if branch in each.branches)

    @property
    def digest(self) -> str:
        """Names the content, whatever the order of keys, in 32 hexadecimal digits.

        The order of the fields in a group counts, and what functions do: see
        `hepdask_ml.data.functions`.
        """
        written = json.dumps(_written(self, identity), sort_keys=True, allow_nan=False)
        return blake2b(written.encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Give a form that JSON and YAML take; `features` reads it.

        Returns
        -------
        dict
            As in a file, with functions by their names.
        """
        return _written(self, name_of)

    def resolved(self, scan: Lengths) -> Features:
        """Replace percentiles by numbers of slots.

        Parameters
        ----------
        scan : Lengths
            What knows how long lists are.

        Returns
        -------
        Features
            Without percentiles.
        """
        groups = []
        for group in self.groups:
            if group.percentile is None:
                groups.append(group)
            else:
                slots = max(1, scan.slots(group.name, group.percentile))
                groups.append(replace(group, slots=slots, percentile=None))
        return replace(self, groups=tuple(groups))


def _all_of(kind: type, given: Any, name: str) -> tuple[Any, ...]:
    if isinstance(given, list | tuple) and all(isinstance(each, kind) for each in given):
        return tuple(given)
    raise InputError(f"{name} is {given!r:.60}: it must be a tuple of {kind.__name__}")


def _numbers(labels: Any) -> dict[str, float]:
    """Give the labels of data sets, finite numbers all."""
    if not isinstance(labels, Mapping) or not labels:
        raise InputError(
            f"labels is {labels!r:.60}: it must be an expression, or give each data set its number"
        )
    for name, each in labels.items():
        number = type(each) is not bool and isinstance(each, Real) and isfinite(each)
        if not isinstance(name, str):
            raise InputError(f"labels has the key {name!r:.60}: data sets have names of text")
        if not number:
            raise InputError(f"labels.{name} is {each!r:.60}: it must be a finite number")
    return {name: float(each) for name, each in labels.items()}


def plain(group: Group) -> bool:
    """Tell whether all fields of a group are branches as they are.

    Parameters
    ----------
    group : Group
        Any.

    Returns
    -------
    bool
        Whether nothing is to be calculated.
    """
    return all(each.branch is not None for each in group.fields)


def features(spec: Features | Mapping[str, Any] | str | Path) -> Features:
    """Read a specification.

    Parameters
    ----------
    spec : Features, mapping, str or Path
        What a YAML file holds, in Python; or the name of such a file.

    Returns
    -------
    Features
        The specification, checked.

    Raises
    ------
    InputError
        If the file cannot be read, a key is unknown, or a value is wrong.

    Examples
    --------
    >>> spec = features({"features": {"jets": {"branches": ["Jet_pt / MET_pt"], "length": 4}}})
    >>> spec.branches
    ('Jet_pt', 'MET_pt')
    >>> features(spec.to_json()) == spec
    True
    """
    if isinstance(spec, Features):
        return spec
    if isinstance(spec, Mapping):
        return _features(spec)
    if not isinstance(spec, str | Path):
        raise InputError(
            f"the features are {spec!r:.60}: give a mapping, or the name of a YAML file"
        )
    document = read_yaml(Path(spec))
    try:
        return _features(document)
    except InputError as error:
        raise InputError(f"{spec}: {error}") from None


def _shape_text(group: Group) -> str:
    if not group.jagged:
        places = ""
    elif group.form == "ragged":
        places = "items, "
    else:
        places = f"{group.slots} slots, " if group.slots else f"{group.percentile:g} %, "
    return f"{group.name} ({places}{len(group.fields)} fields)"


@dataclass(frozen=True, slots=True)
class _Document:
    features: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, Any] = field(default_factory=dict)
    selection: Any = None
    weights: Any = None
    labels: Any = None
    tree: str | None = None

    def __post_init__(self) -> None:
        settle(self)


def _features(given: Any) -> Features:
    document = record_of(_Document, mapping_of(given, "the specification"), "")
    groups = tuple(
        read_group(name, each, f"features.{name}") for name, each in document.features.items()
    )
    images = tuple(
        read_image(name, each, f"images.{name}") for name, each in document.images.items()
    )
    return Features(
        groups,
        images,
        selection=_optional(document.selection, "selection"),
        weights=_optional(document.weights, "weights"),
        labels=_labels(document.labels),
        tree=document.tree,
    )


def _labels(given: Any) -> Any:
    # A data set may be called like one of these, too; its label is a number.
    a_field = isinstance(given, Mapping) and any(
        isinstance(given.get(key), str) or callable(given.get(key)) for key in KINDS
    )
    return _optional(given, "labels") if isinstance(given, str) or a_field else given


def _optional(given: Any, name: str) -> Field | None:
    return None if given is None else read_field(given, name, name)


def _written(spec: Features, named: Named) -> dict[str, Any]:
    """Write a specification as it stands in a file, with functions in one form or another."""
    written: dict[str, Any] = {"tree": spec.tree}
    for name in ("selection", "weights", "labels"):
        found = getattr(spec, name)
        written[name] = write_field(found, named) if isinstance(found, Field) else found
    written["features"] = {group.name: write_group(group, named) for group in spec.groups}
    written["images"] = {image.name: write_image(image, named) for image in spec.images}
    return {key: each for key, each in written.items() if each not in (None, {})}
