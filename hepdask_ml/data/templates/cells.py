"""Cells: the histograms of an analysis, each with the channel, process and systematic it is of.

A processor returns them in many forms.  `cells` walks through dictionaries and along axes of
categories, and takes apart what a `Layout` gives the names of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from hepdask_ml.config import one_of, settle
from hepdask_ml.data.templates.histograms import (
    FLOWS,
    Histogram,
    Line,
    along,
    axes_of,
    contents,
    inner,
    names_of,
    read,
)
from hepdask_ml.errors import InputError

LEVELS = ("channel", "process", "systematic")
"""What tells templates apart, from outside in."""

Cell: TypeAlias = tuple[str, str, str]


def _levels(value: tuple[str, ...]) -> str | None:
    if set(value) <= set(LEVELS) and len(set(value)) == len(value):
        return None
    return f"it must hold some of {', '.join(LEVELS)}, each once"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What things are called in the histograms.

    Attributes
    ----------
    channel, process, systematic : str
        Names of the axes.
    keys : tuple of str or None
        Which of ``channel``, ``process`` and ``systematic`` the keys of the dictionaries are, from
        outside in.  If None they are those that no axis is: the process first of all, then the
        channel, then the systematic.
    nominal : str
        The systematic that is none.
    up, down : str
        How the names of variations end: ``jesUp`` is ``jes``, one standard deviation up.  A name
        with neither ending is a systematic with one side only.
    data : str
        The process that is observed.
    flow : {"drop", "fold"}
        What to do with underflow and overflow: leave them out, or add them to the first and the
        last bin.
    groups : mapping
        Process to the list of those that are added up to it, such as data sets.
    scales : mapping
        Process, or data set of a group, to the factor that its weights are multiplied with.
    """

    channel: str = "channel"
    process: str = "process"
    systematic: str = "systematic"
    keys: tuple[str, ...] | None = field(default=None, metadata={"rule": _levels})
    nominal: str = "nominal"
    up: str = "Up"
    down: str = "Down"
    data: str = "data"
    flow: str = field(default="drop", metadata={"rule": one_of(*FLOWS)})
    groups: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settle(self)


def cells(histograms: Any, layout: Layout) -> tuple[dict[Cell, Histogram], set[Cell]]:
    """Take histograms apart into cells.

    Parameters
    ----------
    histograms : histogram or nested dict
        What a processor returns.
    layout : Layout
        What things are called there.

    Returns
    -------
    found : dict
        Histograms of the variable by channel, process and systematic.
    unfilled : set
        Cells of axes of categories that nothing was filled into; a blank histogram that was given
        as such is none of them.

    Raises
    ------
    InputError
        If something is no histogram, its axes and keys do not say what it is of, or two are of the
        same.
    """
    found: dict[Cell, Histogram] = {}
    unfilled = set()
    for path, leaf in _leaves(histograms, ()):
        for cell, histogram, several in _cells_of(path, leaf, layout):
            if cell in found:
                raise InputError(f"{place(*cell)} stands there twice: add the histograms up before")
            found[cell] = histogram
            if several and histogram.blank:
                unfilled.add(cell)
    return found, unfilled


def place(channel: str, process: str = "", systematic: str = "") -> str:
    """Name a template as messages do."""
    parts = zip(LEVELS, (channel, process, systematic), strict=True)
    return ", ".join(f'{level} "{name}"' for level, name in parts if name)


def _leaves(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    if not tree:
        raise InputError(f"{_path(path)} is empty: there must be histograms in it")
    for key, below in tree.items():
        if not isinstance(key, str):
            raise InputError(f"{_path(path)} has the key {key!r}: keys must be text")
        yield from _leaves(below, (*path, key))


def _path(path: tuple[str, ...]) -> str:
    return "histograms" + "".join(f'["{key}"]' for key in path)


def _cells_of(
    path: tuple[str, ...], leaf: Any, layout: Layout
) -> Iterator[tuple[Cell, Histogram, bool]]:
    """Cut a histogram along its axes of categories, and tell whether it has any."""
    where = _path(path)
    if isinstance(leaf, Histogram):
        keyed = dict(zip(_keys(path, [], layout, where, ()), path, strict=True))
        cell = _cell(keyed, "", layout)
        yield cell, read(leaf, place(*cell), flow=layout.flow), False
        return
    axes = axes_of(leaf, where)
    names_there = names_of(axes)
    found = [level for level in LEVELS if getattr(layout, level) in names_there]
    at = [names_there.index(getattr(layout, level)) for level in found]
    rest = [i for i in range(len(axes)) if i not in at]
    fixed = dict(zip(_keys(path, found, layout, where, names_there), path, strict=True))
    if len(rest) != 1:
        raise InputError(
            f"{where} has the axes {', '.join(names_there)}, {len(rest)} of them variables: there "
            "must be one, so project the others out, or name the axes in the layout"
        )
    values, variances = contents(leaf, where)
    own = [inner(axes[i], values.shape[i]) for i in at]
    for i, part in zip(at, own, strict=True):
        _refuse_unnamed(np.moveaxis(values, i, 0), part, f'{where}, axis "{names_there[i]}"')
    order = (*at, *rest)
    values = values.transpose(order)
    variances = None if variances is None else variances.transpose(order)
    listed = [[str(axes[i][k]) for k in range(len(axes[i]))] for i in at]
    variable = Line(axes[rest[0]], values.shape[-1])
    for index in product(*(range(len(each)) for each in listed)):
        names = {level: each[k] for level, each, k in zip(found, listed, index, strict=True)}
        cell = _cell(fixed | names, names_there[rest[0]], layout)
        spot = tuple(part.start + k for part, k in zip(own, index, strict=True))
        spreads = None if variances is None else variances[spot]
        histogram = along(variable, values[spot], spreads, place(*cell), flow=layout.flow)
        yield cell, histogram, bool(found)


def _refuse_unnamed(values: Any, own: slice, where: str) -> None:
    lost = np.concatenate([values[: own.start], values[own.stop :]])
    if lost.any():
        raise InputError(
            f"{where} holds a sum of weights of {lost.sum():g} that belongs to none of its "
            "categories: make it with growth=True, or with all categories"
        )


def _cell(names: Mapping[str, str], variable: str, layout: Layout) -> Cell:
    only = variable if variable and variable != "?" else "channel"
    return names.get("channel", only), names["process"], names.get("systematic", layout.nominal)


def _keys(
    path: tuple[str, ...],
    found: Sequence[str],
    layout: Layout,
    where: str,
    axes: Sequence[str],
) -> tuple[str, ...]:
    """Tell what the keys on the way to a histogram are."""
    missing = [level for level in LEVELS if level not in found]
    shown = f"has the axes {', '.join(axes)}" if axes else "has no axes with names"
    if layout.keys is not None:
        missing = [level for level in layout.keys if level not in found]
        wanted: Sequence[str] = missing
    else:
        by_need = [level for level in ("process", "channel", "systematic") if level in missing]
        taken = by_need[: len(path)]
        wanted = [level for level in missing if level in taken]
    if len(wanted) != len(path):
        raise InputError(
            f"{where} lies under {len(path)} keys and {shown}, which leaves "
            f"{', '.join(missing) or 'nothing'} for the keys: nest the dictionaries in that order, "
            "or say in the layout what the axes and keys are"
        )
    if "process" not in (*found, *wanted):
        raise InputError(
            f'{where} {shown}, but none "{layout.process}", and no key that is the process: name '
            'the axis in the layout, as in layout={"process": "dataset"}'
        )
    return tuple(wanted)


def split(name: str, layout: Layout) -> tuple[str, str]:
    """Take the name of a variation apart.

    Parameters
    ----------
    name : str
        As the histograms have it.
    layout : Layout
        Says how names end.

    Returns
    -------
    base, side : str
        The systematic, and ``"up"`` or ``"down"``; a name with neither ending goes up.

    Examples
    --------
    >>> split("jesDown", Layout()), split("herwig", Layout())
    (('jes', 'down'), ('herwig', 'up'))
    """
    for side, ending in (("up", layout.up), ("down", layout.down)):
        if ending and name.endswith(ending) and name != ending:
            return name.removesuffix(ending), side
    return name, "up"
