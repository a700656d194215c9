"""A search space in the plain terms that every library of optimisers has.

Each parameter that can vary becomes an *axis* of one of three kinds: a number between two bounds,
a whole number between two bounds, or a choice between things without an order.  Of values with a
step the library is told the index; of what it has no name for, a normal distribution or a step and
a logarithm together, the place in the unit interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.dimensions import Choice, Integer, Real
from hepdask_ml.hpo.values import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hepdask_ml.hpo.dimensions import Dimension
    from hepdask_ml.hpo.optimisers import Past
    from hepdask_ml.hpo.space import Space


@dataclass(frozen=True, slots=True)
class Axis:
    """A parameter that can vary, as a library sees it.

    Attributes
    ----------
    name : str
        The parameter.
    dimension : Dimension
        What it is in the space.
    kind : {"number", "whole", "choice"}
        What it is for the library.
    low, high : float or int
        Both may be taken.
    inward, outward : callable
        Give what the library is told of a value, and the value that the library speaks of.
    log : bool
        Whether its logarithm is what matters.
    """

    name: str
    dimension: Dimension
    kind: str
    low: float
    high: float
    inward: Callable[[Any], Any]
    outward: Callable[[Any], Any]
    log: bool = False

    @property
    def middle(self) -> Any:
        """What stands for an inactive parameter where a library wants them all."""
        return self.inward(self.dimension.value_at(0.5))


def axes(space: Space) -> tuple[Axis, ...]:
    """Give the axes of a space: its parameters that have more than one value.

    Parameters
    ----------
    space : Space
        The space.

    Returns
    -------
    tuple of Axis
        In the order of the space.
    """
    every = (_axis(name, space.dimensions[name]) for name in space.free)
    return tuple(axis for axis in every if axis.low < axis.high)


def _axis(name: str, dimension: Dimension) -> Axis:
    match dimension:
        case Real(step=None) | Integer(step=1):
            kind = "whole" if isinstance(dimension, Integer) else "number"
            low, high, same = dimension.low, dimension.high, dimension.checked
            return Axis(name, dimension, kind, low, high, same, same, dimension.log)
        case Real(log=False) | Integer(log=False) | Choice():
            unordered = isinstance(dimension, Choice) and not dimension.ordered
            kind, high = "choice" if unordered else "whole", (dimension.count or 1) - 1
            return Axis(name, dimension, kind, 0, high, dimension.index_of, dimension.at)
    return Axis(name, dimension, "number", 0.0, 1.0, dimension.place_of, dimension.value_at)


def told(space: Space, along: Sequence[Axis], trial: Past) -> dict[str, Any]:
    """Give what a library is told of a trial.

    Parameters
    ----------
    space : Space
        The space.
    along : sequence of Axis
        Its axes.
    trial : Past
        The trial.

    Returns
    -------
    dict
        An entry for each axis that is active, in their order.

    Raises
    ------
    InputError
        If the trial does not lie in the space.
    """
    try:
        params = space.checked(trial.params)
    except InputError as error:
        raise InputError(f"trial {trial.number} is not of this space: {error}") from None
    return {axis.name: axis.inward(params[axis.name]) for axis in along if axis.name in params}


def assembled(space: Space, give: Callable[[str, Dimension], Any]) -> dict[str, Any]:
    """Put the parameters of a trial together, asking for those alone that are active.

    Parameters
    ----------
    space : Space
        The space.
    give : callable
        Takes the name of a parameter and its dimension, gives its value.

    Returns
    -------
    dict
        The active parameters, in the order of the space.
    """
    params: dict[str, Any] = {}
    # A parameter that became active may switch on others.
    while missing := [name for name in space.active(params) if name not in params]:
        params |= {name: give(name, space.dimensions[name]) for name in missing}
    return space.checked(params)


def from_said(space: Space, said: Mapping[str, Any], along: Sequence[Axis]) -> dict[str, Any]:
    """Give the parameters of a trial for what a library says of all axes.

    Parameters
    ----------
    space : Space
        The space.
    said : dict
        An entry for each axis.
    along : sequence of Axis
        The axes.

    Returns
    -------
    dict
        The active parameters, in the order of the space.
    """
    by_name = {axis.name: axis for axis in along}

    def give(name: str, dimension: Dimension) -> Any:
        axis = by_name.get(name)
        # A library may speak in numpy's numbers.
        return dimension.value_at(0.5) if axis is None else axis.outward(plain(said[name]))

    return assembled(space, give)
