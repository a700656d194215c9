"""Expressions: what a feature is, in one line of text, such as ``sum(Jet_pt[Jet_pt > 30])``.

They look like Python and are no Python: everything that `hepdask_ml.data.vocabulary` does not list
is refused, and nothing else is ever called.  A name is a branch, whatever it is called.  All work
is done on whole arrays: item by item where an event has a list of them, event by event otherwise;
where both meet, the event's number goes to each item.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hepdask_ml.config import nearest
from hepdask_ml.data.grammar import Branch, Call, Node, Number, parsed, short
from hepdask_ml.data.jagged import Items, items_of
from hepdask_ml.errors import InputError


@dataclass(frozen=True, slots=True)
class Expression:
    """What to calculate of branches.

    It is small, and travels as its text.

    Attributes
    ----------
    text : str
        As it was written.

    Raises
    ------
    InputError
        If it is no expression; the place is named, and what is most like it.

    Examples
    --------
    >>> ht = Expression("sum(Jet_pt[Jet_pt > 30])")
    >>> ht.names
    ('Jet_pt',)
    """

    text: str

    def __post_init__(self) -> None:
        parsed(self.text)

    @property
    def names(self) -> tuple[str, ...]:
        """Branches that it needs, in the order in which they come."""
        return tuple(dict.fromkeys(_names(parsed(self.text))))

    @property
    def branch(self) -> str | None:
        """The branch that it is, if it is one and nothing else."""
        node = parsed(self.text)
        return node.name if isinstance(node, Branch) else None

    def items(self, arrays: Mapping[str, Any]) -> Items:
        """Calculate it.

        Parameters
        ----------
        arrays : mapping of str to array or Items
            The branches, of the same events.

        Returns
        -------
        Items
            A number or a list of numbers for each event.

        Raises
        ------
        InputError
            If a branch is missing or holds no numbers, lists have other lengths, or a whole number
            becomes too large.
        """
        found = {name: items_of(array_of(name, arrays), f'branch "{name}"') for name in self.names}
        try:
            return _value(parsed(self.text), found)
        except InputError as error:
            raise InputError(f'expression "{short(self.text)}": {error}') from None

    def evaluate(self, arrays: Mapping[str, Any]) -> Any:
        """Calculate it, as `items` does, with arrays of awkward.

        Parameters
        ----------
        arrays : mapping of str to array or Items
            The branches, of the same events.

        Returns
        -------
        ak.Array
            A number or a list of numbers for each event.

        Raises
        ------
        InputError
            As with `items`, and if awkward is not installed.
        """
        return self.items(arrays).awkward()


def expression(text: Any) -> Expression:
    """Read an expression.

    Parameters
    ----------
    text : str
        The expression.

    Returns
    -------
    Expression
        The same, known to be one.

    Raises
    ------
    InputError
        If it is none.

    Examples
    --------
    >>> expression("nJet >= 2 and MET_pt > 30").names
    ('nJet', 'MET_pt')
    """
    if not isinstance(text, str):
        raise InputError(f"{text!r:.60} is no expression: it must be text")
    return Expression(text)


def array_of(name: str, arrays: Mapping[str, Any]) -> Any:
    """Find the array of a branch.

    Parameters
    ----------
    name : str
        Of the branch.
    arrays : mapping of str to array
        The branches that there are.

    Returns
    -------
    array
        As it is.

    Raises
    ------
    InputError
        If it is not there; the most similar one is named.
    """
    if name in arrays:
        return arrays[name]
    near = nearest(name, list(arrays)) or ["give one of those that there are"]
    raise InputError(f'there is no branch "{name}": {near[0]}')


def _value(node: Node, found: Mapping[str, Items]) -> Items:
    if isinstance(node, Number):
        return Items(np.asarray(node.value))
    if isinstance(node, Branch):
        return found[node.name]
    return node.function(*[_value(each, found) for each in node.arguments])


def _names(node: Node) -> Iterator[str]:
    if isinstance(node, Branch):
        yield node.name
    elif isinstance(node, Call):
        for each in node.arguments:
            yield from _names(each)
