"""Features as they stand in a file: mappings that become the records of `fields`, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hepdask_ml.config import at_least_one, filled, one_of, record_of, settle
from hepdask_ml.data.expressions import Expression
from hepdask_ml.data.fields import (
    FORMS,
    SCALES,
    Axis,
    Field,
    Group,
    Image,
    View,
    a_share,
)
from hepdask_ml.data.functions import function_of
from hepdask_ml.data.stacks import DTYPES
from hepdask_ml.errors import InputError

COUNTS = "counts"
"""The view that counts items."""

KINDS = ("expression", "branch", "call")
"""What a field can be made of."""

Named: TypeAlias = Callable[[Callable[..., Any]], Any]
"""Gives what is written for a function."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str | None = field(default=None, metadata={"rule": filled})
    expression: str | None = field(default=None, metadata={"rule": filled})
    branch: str | None = field(default=None, metadata={"rule": filled})
    call: Any = None
    branches: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True)
class _Group:
    branches: tuple[Any, ...] = field(metadata={"rule": filled})
    length: int | None = field(default=None, metadata={"rule": at_least_one})
    percentile: float | None = field(default=None, metadata={"rule": a_share})
    form: str = field(default="padded", metadata={"rule": one_of(*FORMS)})
    scale: str | None = field(default=None, metadata={"rule": one_of("none", *SCALES)})
    dtype: str = field(default="float32", metadata={"rule": one_of(*DTYPES)})

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True)
class _Axis:
    bins: int = field(metadata={"rule": at_least_one})
    low: float
    high: float
    # The rest is that of a field.
    name: Any = None
    expression: Any = None
    branch: Any = None
    call: Any = None
    branches: Any = ()

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True)
class _View:
    name: str | None = field(default=None, metadata={"rule": filled})
    weight: Any = None

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True)
class _Image:
    x: Any
    y: Any
    views: tuple[Any, ...] = field(default=(COUNTS,), metadata={"rule": filled})

    def __post_init__(self) -> None:
        settle(self)


def read_group(name: str, given: Any, where: str) -> Group:
    """Make a group of a list of fields, or of a mapping.

    Parameters
    ----------
    name : str
        Of the group.
    given : Any
        As it was written.
    where : str
        Where it stands, for messages.

    Returns
    -------
    Group
        The group; it is jagged if anything is said about lengths.

    Raises
    ------
    InputError
        If a key is unknown, or a value is wrong.
    """
    written = {"branches": given} if isinstance(given, list | tuple) else given
    about = record_of(_Group, mapping_of(written, where, "a list or a mapping"), f"{where}.")
    lengths = (about.length, about.percentile)
    return Group(
        name,
        tuple(read_field(each, f"{where}.branches[{i}]") for i, each in enumerate(about.branches)),
        jagged=lengths != (None, None) or about.form == "ragged",
        slots=about.length,
        percentile=about.percentile,
        form=about.form,
        scale=about.scale,
        dtype=about.dtype,
    )


def read_image(name: str, given: Any, where: str) -> Image:
    """Make an image of a mapping.

    Parameters
    ----------
    name : str
        Of the image.
    given : Any
        As it was written.
    where : str
        Where it stands, for messages.

    Returns
    -------
    Image
        The image; it counts if no views are named.

    Raises
    ------
    InputError
        If a key is unknown, or a value is wrong.
    """
    about = record_of(_Image, mapping_of(given, where), f"{where}.")
    x, y = _axis(about.x, f"{where}.x"), _axis(about.y, f"{where}.y")
    views = tuple(_view(each, f"{where}.views[{i}]") for i, each in enumerate(about.views))
    return Image(name, x, y, views)


def _axis(given: Any, where: str) -> Axis:
    about = record_of(_Axis, mapping_of(given, where), f"{where}.")
    written = {key: each for key, each in given.items() if key not in ("bins", "low", "high")}
    found = read_field(written, where)
    with _placed(where):
        return Axis(found, about.bins, about.low, about.high)


def _view(given: Any, where: str) -> View:
    if given == COUNTS:
        return View(COUNTS)
    written = {"weight": given} if isinstance(given, str) else given
    kinds = "counts, an expression, or a mapping"
    about = record_of(_View, mapping_of(written, where, kinds), f"{where}.")
    if about.weight is None:
        return View(about.name or COUNTS)
    weight = read_field(about.weight, f"{where}.weight")
    return View(about.name or weight.name, weight)


def read_field(given: Any, where: str, name: str | None = None) -> Field:
    """Make a field of a text, or of a mapping that says of what kind it is.

    Parameters
    ----------
    given : Any
        As it was written.
    where : str
        Where it stands, for messages.
    name : str, optional
        Of the field, where it is not written; its branch, text or function if not given.

    Returns
    -------
    Field
        The field.

    Raises
    ------
    InputError
        If a key is unknown, a value is wrong, or it is no expression.

    Examples
    --------
    >>> read_field({"branch": "Jet/pt"}, "selection").expression
    'branch("Jet/pt")'
    """
    written = {"expression": given} if isinstance(given, str) else given
    kinds = "an expression, or a mapping"
    about = record_of(_Field, mapping_of(written, where, kinds), f"{where}.")
    ways = [kind for kind in KINDS if getattr(about, kind) is not None]
    if len(ways) != 1:
        raise InputError(
            f"{where} has {' and '.join(ways) or 'nothing to calculate'}: give one of "
            f"{', '.join(KINDS)}"
        )
    if about.branches and about.call is None:
        raise InputError(f"{where}.branches are for functions only: leave them out")
    with _placed(where):
        if about.call is not None:
            call = function_of(about.call) if isinstance(about.call, str) else about.call
            known_as = str(getattr(call, "__name__", "function"))
            return Field(about.name or name or known_as, "", call, about.branches)
        text = about.expression or _quoted(about.branch or "")
        return Field(about.name or name or about.branch or text.strip(), text)


def _quoted(name: str) -> str:
    """Give the expression of a branch of any name."""
    try:
        if Expression(name).branch == name:
            return name
    except InputError:  # such as the name Jet/pt[0]
        pass
    return f"branch('{name}')" if '"' in name else f'branch("{name}")'


@contextmanager
def _placed(where: str) -> Iterator[None]:
    """Put the place in front of what is wrong there."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def mapping_of(given: Any, where: str, kinds: str = "a mapping") -> Mapping[str, Any]:
    """Refuse what is no mapping of text to anything.

    Parameters
    ----------
    given : Any
        As it was written.
    where : str
        Where it stands.
    kinds : str
        What may stand there.

    Returns
    -------
    mapping
        The same.

    Raises
    ------
    InputError
        If it is none.
    """
    if not isinstance(given, Mapping):
        shown = "empty" if given is None else f"{given!r:.60}"
        raise InputError(f"{where} is {shown}: it must be {kinds}")
    for key in given:
        if not isinstance(key, str):
            raise InputError(f"{where} has the key {key!r:.60}: keys must be text")
    return given


def write_field(each: Field, named: Named) -> dict[str, Any]:
    """Give what `read_field` reads.

    Parameters
    ----------
    each : Field
        The field.
    named : callable
        Gives what is written for a function.

    Returns
    -------
    dict
        For JSON, as far as what is written for functions is.
    """
    if each.call is not None:
        return {"name": each.name, "call": named(each.call), "branches": list(each.branches)}
    return {"name": each.name, "expression": each.expression}


def write_group(group: Group, named: Named) -> dict[str, Any]:
    """Give what `read_group` reads; the parameters are those of `write_field`."""
    written = {
        "branches": [write_field(each, named) for each in group.fields],
        "length": group.slots,
        "percentile": group.percentile,
        "form": group.form,
        "scale": group.scale,
        "dtype": group.dtype,
    }
    return {key: each for key, each in written.items() if each is not None}


def write_image(image: Image, named: Named) -> dict[str, Any]:
    """Give what `read_image` reads; the parameters are those of `write_field`."""
    axes = {
        name: {
            **write_field(axis.field, named),
            "bins": axis.bins,
            "low": axis.low,
            "high": axis.high,
        }
        for name, axis in (("x", image.x), ("y", image.y))
    }
    views = [
        {"name": view.name}
        if view.weight is None
        else {"name": view.name, "weight": write_field(view.weight, named)}
        for view in image.views
    ]
    return {**axes, "views": views}
