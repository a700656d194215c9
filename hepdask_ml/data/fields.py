"""Fields, and what is made of them: groups of numbers, and images.

A *field* is one number of an event or of each of its items: a branch, an expression, or a function
of some branches.  Fields that belong together are a *group*, which becomes one tensor; an *image*
counts the items of each event in bins of two fields.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from hepdask_ml.config import at_least_one, filled, one_of, settle
from hepdask_ml.data.expressions import Expression, array_of
from hepdask_ml.data.functions import checked_function, packed, unpacked
from hepdask_ml.data.jagged import Items, items_of
from hepdask_ml.data.stacks import DTYPES
from hepdask_ml.errors import InputError

SCALES = ("standard", "minmax", "robust")
"""How the numbers of a group can be scaled, beside not at all."""

FORMS = ("padded", "ragged")
"""What becomes of lists of items."""

# Tensors are named in files and folders, too.
_NAME = re.compile(r"\w[\w .+-]*")


def a_name(value: str) -> str | None:
    """Refuse what is no name of a tensor: a rule for a field of settings."""
    if _NAME.fullmatch(value):
        return None
    return "names are of letters, digits, and _ - + . within"


def a_share(value: float) -> str | None:
    """Refuse what is no percentile: a rule for a field of settings."""
    return None if 0 < value <= 100 else "it must lie above 0, and be 100 at most"


@dataclass(frozen=True, slots=True)
class Field:
    """One number of each event, or of each of its items.

    Attributes
    ----------
    name : str
        Of the field.
    expression : str
        What it is, as `hepdask_ml.data.expressions` has it; empty with a function.
    call : callable or None
        A function that takes the branches by name, as arrays of awkward, and gives an array.
    branches : tuple of str
        All that it needs; with an expression they are found in it.

    Raises
    ------
    InputError
        If there is neither expression nor function or there are both, it needs no branch, or the
        function cannot travel.

    Examples
    --------
    >>> Field("ht", "sum(Jet_pt)").branches
    ('Jet_pt',)
    """

    name: str
    expression: str = ""
    call: Callable[[Mapping[str, Any]], Any] | None = None
    branches: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        name: Any = self.name
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"a field has the name {name!r:.60}: it must be text")
        what = f'field "{self.name}"'
        text: Any = self.expression
        if not isinstance(text, str):
            raise InputError(f"{what} has the expression {text!r:.60}: it must be text")
        if (self.call is None) == (not self.expression):
            given = "neither" if self.call is None else "both"
            raise InputError(f"{what} has {given} of expression and function: give one of them")
        branches = self._of_the_call(what) if self.call is not None else self._of_the_text(what)
        object.__setattr__(self, "branches", branches)

    def _of_the_text(self, what: str) -> tuple[str, ...]:
        names = Expression(self.expression).names
        if not names:
            raise InputError(f"{what} is the same for all events: name a branch in it")
        if tuple(self.branches) not in ((), names):
            raise InputError(f"{what} has branches: only a function is given them")
        return names

    def _of_the_call(self, what: str) -> tuple[str, ...]:
        try:
            checked_function(self.call)
        except InputError as error:
            raise InputError(f"{what}: {error}") from None
        given: Any = self.branches
        if not isinstance(given, list | tuple) or not all(
            isinstance(each, str) and each for each in given
        ):
            raise InputError(f"{what} has the branches {given!r:.60}: give a list of names")
        if not given:
            raise InputError(f"{what} needs no branch: name those that its function takes")
        return tuple(dict.fromkeys(given))

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers may not know the module of a function, so that it travels with its code.
        return _field, (self.name, self.expression, packed(self.call), self.branches)

    @property
    def branch(self) -> str | None:
        """The branch that it is, if it is one and nothing else."""
        return None if self.call is not None else Expression(self.expression).branch

    def items(self, arrays: Mapping[str, Any]) -> Items:
        """Calculate it.

        Parameters
        ----------
        arrays : mapping of str to array
            At least the branches that it needs, of the same events; a function gets them as they
            are.

        Returns
        -------
        Items
            A number or a list of numbers for each event.

        Raises
        ------
        InputError
            If a branch is missing or holds no numbers, or the field cannot be calculated.
        """
        if self.call is None:
            return Expression(self.expression).items(arrays)
        given = _Given({name: array_of(name, arrays) for name in self.branches})
        return items_of(self.call(given), "its result")


class _Given(dict[str, Any]):
    """The branches that a function gets."""

    def __missing__(self, name: str) -> Any:
        raise InputError(
            f'its function asks for branch "{name}", and gets {", ".join(self)}: name all that it '
            "takes in its branches"
        )


def _field(name: str, expression: str, pickled: bytes, branches: tuple[str, ...]) -> Field:
    return Field(name, expression, unpacked(pickled), branches)


@dataclass(frozen=True, slots=True)
class Group:
    """Fields that become one tensor.

    Attributes
    ----------
    name : str
        Of the tensor.
    fields : tuple of Field
        In this order.
    jagged : bool
        Whether events have lists of items.
    slots : int or None
        Places for items; None where a scan has to find out, or where nothing is padded.
    percentile : float or None
        Share of events in percent whose items all find a place, instead of slots.
    form : {"padded", "ragged"}
        What becomes of lists.
    scale : {"standard", "minmax", "robust"} or None
        How numbers are scaled by what a scan finds; ``"none"`` is None.
    dtype : {"float32", "float64"}
        Of the tensor; whole numbers above 2^24 need float64.

    Raises
    ------
    InputError
        If there is no field or one twice, or the length of lists is not given once where it is
        needed.
    """

    name: str = field(metadata={"rule": a_name})
    fields: tuple[Field, ...]
    jagged: bool = False
    slots: int | None = field(default=None, metadata={"rule": at_least_one})
    percentile: float | None = field(default=None, metadata={"rule": a_share})
    form: str = field(default="padded", metadata={"rule": one_of(*FORMS)})
    scale: str | None = field(default=None, metadata={"rule": one_of("none", *SCALES)})
    dtype: str = field(default="float32", metadata={"rule": one_of(*DTYPES)})

    def __post_init__(self) -> None:
        where = f'group "{self.name}"'
        _settled(self, where)
        if self.scale == "none":
            object.__setattr__(self, "scale", None)
        if not self.fields:
            raise InputError(f"{where} has no fields: name those that it is made of")
        if twice := _twice(each.name for each in self.fields):
            raise InputError(f'{where} has two fields "{twice}": name one of them otherwise')
        lengths = [each for each in (self.slots, self.percentile) if each is not None]
        if len(lengths) > 1:
            raise InputError(f"{where} has both a length and a percentile: give one of them")
        if lengths and (self.form == "ragged" or not self.jagged):
            kind = "is ragged" if self.form == "ragged" else "is not jagged"
            raise InputError(f"{where} {kind} and has a length or a percentile: leave one out")
        if self.form == "ragged" and not self.jagged:
            raise InputError(f"{where} is ragged and not jagged: make it jagged")
        if self.jagged and self.form == "padded" and not lengths:
            raise InputError(
                f"{where} is jagged, and nothing says how long its lists become: give a length, a "
                'percentile, or the form "ragged"'
            )


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of an image.

    Attributes
    ----------
    field : Field
        Of each item.
    bins : int
        Of equal width.
    low, high : float
        Where the first one begins, and the last one ends.

    Raises
    ------
    InputError
        If there is no bin, or it has no width.
    """

    field: Field
    bins: int
    low: float
    high: float

    def __post_init__(self) -> None:
        _settled(self, f'axis "{getattr(self.field, "name", "")}"')
        if self.bins < 1:
            raise InputError(f"bins is {self.bins}: it must be at least one")
        if not 0 < self.high - self.low < inf:
            raise InputError(f"low is {self.low:g} and high {self.high:g}: low must be less")


@dataclass(frozen=True, slots=True)
class View:
    """One way to fill an image.

    Attributes
    ----------
    name : str
        Of the view.
    weight : Field or None
        What is added for each item; None counts them.
    """

    name: str = field(metadata={"rule": filled})
    weight: Field | None = None

    def __post_init__(self) -> None:
        _settled(self, f'view "{self.name}"')


@dataclass(frozen=True, slots=True)
class Image:
    """Items of events, filled into bins of two fields: ``(event, view, y, x)``.

    Attributes
    ----------
    name : str
        Of the tensor.
    x, y : Axis
        Its directions.
    views : tuple of View
        What is filled.

    Raises
    ------
    InputError
        If there is no view, or one twice.
    """

    name: str = field(metadata={"rule": a_name})
    x: Axis
    y: Axis
    views: tuple[View, ...] = field(default_factory=lambda: (View("counts"),))

    def __post_init__(self) -> None:
        where = f'image "{self.name}"'
        _settled(self, where)
        if not self.views:
            raise InputError(f"{where} has no views: name counts at least")
        if twice := _twice(each.name for each in self.views):
            raise InputError(f'{where} has two views "{twice}": name one of them otherwise')


def _settled(record: Any, where: str) -> None:
    try:
        settle(record)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _twice(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
