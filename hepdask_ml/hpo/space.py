"""Search spaces: which parameters a search varies, and when each of them counts.

In a file each parameter has a type and the fields of its dimension:

.. code-block:: yaml

    lr: {type: float, low: 1e-5, high: 1e-1, log: true}
    layers: {type: int, low: 1, high: 8}
    width: {type: int, low: 32, high: 512, step: 32}
    weight_decay: {type: normal, mu: -4, sigma: 1, base: 10}
    optimizer: {type: choice, values: [adam, sgd]}
    momentum: {type: float, low: 0, high: 0.99, when: {optimizer: sgd}}
    activation: [relu, gelu]
    epochs: 20

A list is a choice, and anything but a list and a mapping is a fixed value.  With ``when`` a
parameter counts only where others have certain values: where it does not, it is absent from the
parameters of a trial.  The forms of other services are read, too: see `hepdask_ml.hpo.foreign`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hepdask_ml.config import nearest, record_of
from hepdask_ml.errors import InputError
from hepdask_ml.hpo.dimensions import KINDS, Choice, Dimension, Fixed, Integer, to_json
from hepdask_ml.hpo.document import read_document
from hepdask_ml.hpo.foreign import FOREIGN, recognised
from hepdask_ml.hpo.values import identity, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

FORMS = ("own", *FOREIGN)
"""Forms in which a space can be written."""


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """The parameters of a search, in the order in which they were written.

    Attributes
    ----------
    dimensions : mapping of str to Dimension
        What each parameter may be, by its name.

    Raises
    ------
    InputError
        If there is none, or one depends on what cannot be.

    Examples
    --------
    >>> space = Space.read(
    ...     {
    ...         "optimizer": ["adam", "sgd"],
    ...         "momentum": {"type": "float", "low": 0, "high": 0.5, "when": {"optimizer": "sgd"}},
    ...     }
    ... )
    >>> space.from_unit([0.9, 0.5])
    {'optimizer': 'sgd', 'momentum': 0.25}
    >>> space.from_unit([0.1, 0.5])
    {'optimizer': 'adam'}
    """

    dimensions: Mapping[str, Dimension]
    _order: tuple[str, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        if not self.dimensions:
            raise InputError("the space is empty: it must hold at least one parameter")
        given: Mapping[Any, Any] = self.dimensions
        for name, dimension in given.items():
            if not isinstance(name, str) or not name:
                raise InputError(f"{shown(name)} is no name of a parameter: names must be text")
            if not isinstance(dimension, Dimension):
                raise InputError(f"{name} is {shown(dimension)}: use Space.read for such a value")
        settled = {
            name: replace(dimension, when=self._settled(name, dimension))
            for name, dimension in self.dimensions.items()
        }
        object.__setattr__(self, "dimensions", settled)
        object.__setattr__(self, "_order", _parents_first(settled))

    def _settled(self, name: str, dimension: Dimension) -> dict[str, Any]:
        """Bring the values of a condition to those that its parameter can have."""
        settled = {}
        for other, values in dimension.when.items():
            if other not in self.dimensions:
                near = nearest(other, list(self.dimensions))
                advice = near[0] if near else f"choose from {', '.join(self.dimensions)}"
                raise InputError(f"{name}.when.{other} is no parameter: {advice}")
            condition = self.dimensions[other]
            if not isinstance(condition, Choice | Integer | Fixed):
                raise InputError(
                    f"{name}.when.{other} cannot be a condition, as it is no choice and no whole "
                    "number: make it one, or drop the condition"
                )
            settled[other] = tuple(
                _asked(f"{name}.when.{other}", condition.checked, value) for value in values
            )
        return settled

    @classmethod
    def read(cls, source: Space | Mapping[str, Any] | str | Path, form: str = "auto") -> Space:
        """Read a space.

        Parameters
        ----------
        source : Space or mapping or str or Path
            The space: parameters by name, or a YAML or JSON file of them.
        form : {"auto", "own", "hpogrid", "nevergrad", "bayesian"}
            Form in which it is written; recognised if ``"auto"``.

        Returns
        -------
        Space
            The space.

        Raises
        ------
        InputError
            If the file cannot be read, a parameter is wrong, or the form cannot be told.

        Examples
        --------
        >>> Space.read({"x": [-1, 1]}, form="bayesian").dimensions["x"].high
        1.0
        """
        if isinstance(source, Space):
            return source
        if form not in ("auto", *FORMS):
            near = nearest(str(form), FORMS)
            advice = near[0] if near else f"choose from auto, {', '.join(FORMS)}"
            raise InputError(f"{shown(form)} is no form of a space: {advice}")
        if isinstance(source, Mapping):
            return cls._of_mapping(source, form)
        document = read_document(source)
        try:
            return cls._of_mapping(document, form)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None

    @classmethod
    def _of_mapping(cls, mapping: Any, form: str) -> Space:
        if not isinstance(mapping, Mapping):
            raise InputError(f"the space is {shown(mapping)}: it must map names to parameters")
        form = recognised(mapping) if form == "auto" else form
        read = _own if form == "own" else FOREIGN[form]
        return cls(read(mapping))

    def to_json(self) -> dict[str, Any]:
        """Write the space in our own form.

        Returns
        -------
        dict
            The parameters by name; as JSON or YAML it is what `read` reads.
        """
        return {name: to_json(dimension) for name, dimension in self.dimensions.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """Names the content: equal spaces have equal digests; the order of parameters counts."""
        written = [[name, to_json(dimension)] for name, dimension in self.dimensions.items()]
        return blake2b(identity(written).encode(), digest_size=16).hexdigest()

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters that vary: the axes of the unit cube, in this order."""
        return tuple(name for name, each in self.dimensions.items() if each.count != 1)

    @property
    def conditional(self) -> bool:
        """Whether any parameter counts at certain values of others alone."""
        return any(dimension.when for dimension in self.dimensions.values())

    def active(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Say which parameters count.

        Parameters
        ----------
        params : mapping of str to Any
            Values by name; those on which others depend are looked at.

        Returns
        -------
        tuple of str
            Names of the parameters that belong to such a trial, in order.
        """
        counting: set[str] = set()
        for name in self._order:
            if self._counts(name, counting, params):
                counting.add(name)
        return tuple(name for name in self.dimensions if name in counting)

    def _counts(self, name: str, counting: set[str], params: Mapping[str, Any]) -> bool:
        return all(
            other in counting
            and other in params
            and identity(_asked(other, self.dimensions[other].checked, params[other]))
            in map(identity, values)
            for other, values in self.dimensions[name].when.items()
        )

    def checked(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Give the parameters of a trial as plain values of this space, or refuse them.

        Parameters
        ----------
        params : mapping of str to Any
            Values by name; one that has a single value may be left out.

        Returns
        -------
        dict
            Plain values of the parameters that count, in order.

        Raises
        ------
        InputError
            If one is missing, unknown, does not count, or has a wrong value.

        Examples
        --------
        >>> space = Space.read({"batch": [32, 64], "epochs": 5})
        >>> space.checked({"batch": 64.0})
        {'batch': 64, 'epochs': 5}
        """
        for name in params:
            if name not in self.dimensions:
                near = nearest(str(name), list(self.dimensions))
                advice = near[0] if near else f"choose from {', '.join(self.dimensions)}"
                raise InputError(f"{name} is no parameter of the space: {advice}")
        found: dict[str, Any] = {}
        counting: set[str] = set()
        for name in self._order:
            dimension = self.dimensions[name]
            if not self._counts(name, counting, found):
                if name in params:
                    raise InputError(f"{name} does not count {self._why(name)}: leave it out")
                continue
            counting.add(name)
            if name in params:
                found[name] = _asked(name, dimension.checked, params[name])
            elif dimension.count == 1:
                found[name] = dimension.value_at(0.5)
            else:
                raise InputError(f"{name} is missing: give its value")
        return {name: found[name] for name in self.dimensions if name in found}

    def _why(self, name: str) -> str:
        conditions = [
            f"{other} is {' or '.join(shown(value) for value in values)}"
            for other, values in self.dimensions[name].when.items()
        ]
        return f"unless {' and '.join(conditions)}"

    def from_unit(self, point: Sequence[float]) -> dict[str, Any]:
        """Give the parameters at a point of the unit cube.

        Parameters
        ----------
        point : sequence of float
            A number from 0 to 1 for each free parameter, in order.

        Returns
        -------
        dict
            Plain values of the parameters that count.

        Raises
        ------
        InputError
            If the point has another number of coordinates, or one is NaN.
        """
        free = self.free
        if len(point) != len(free):
            raise InputError(
                f"a point has {len(point)} coordinates: the space has {len(free)} free parameters"
            )
        places = dict(zip(free, point, strict=True))
        values = {
            name: _asked(name, dimension.value_at, places.get(name, 0.5))
            for name, dimension in self.dimensions.items()
        }
        return {name: values[name] for name in self.active(values)}

    def to_unit(self, params: Mapping[str, Any]) -> list[float]:
        """Give the point of the unit cube that belongs to a trial: the inverse of `from_unit`.

        Parameters
        ----------
        params : mapping of str to Any
            The parameters, as for `checked`.

        Returns
        -------
        list of float
            A number from 0 to 1 for each free parameter; 0.5 where it does not count.

        Raises
        ------
        InputError
            If they are no parameters of this space.
        """
        values = self.checked(params)
        return [
            self.dimensions[name].place_of(values[name]) if name in values else 0.5
            for name in self.free
        ]

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw parameters.

        Parameters
        ----------
        rng : numpy.random.Generator
            Draws one number for each free parameter, whether it counts or not.

        Returns
        -------
        dict
            Plain values of the parameters that count, each with its dimension's distribution.
        """
        return self.from_unit([float(u) for u in rng.random(len(self.free))])


def _own(mapping: Mapping[Any, Any]) -> dict[str, Dimension]:
    return {name: _own_dimension(name, written) for name, written in mapping.items()}


def _own_dimension(name: str, written: Any) -> Dimension:
    if isinstance(written, Dimension):
        return written
    if written is None:
        raise InputError(f"{name} is empty: give its values, or {{type: fixed, value: null}}")
    if not isinstance(written, Mapping):
        several = isinstance(written, list | tuple)
        try:
            return Choice(tuple(written)) if several else Fixed(written)
        except InputError as error:
            raise InputError(f"{name}.{error}") from None
    if "type" not in written:
        raise InputError(f"{name} has no type: choose from {', '.join(KINDS)}")
    kind = written["type"]
    if not isinstance(kind, str) or kind not in KINDS:
        near = nearest(str(kind), list(KINDS))
        advice = near[0] if near else f"choose from {', '.join(KINDS)}"
        raise InputError(f"{name}.type is {shown(kind)}: {advice}")
    fields = {key: value for key, value in written.items() if key != "type"}
    return record_of(KINDS[kind], fields, f"{name}.")


def _asked(name: str, question: Callable[[Any], Any], value: Any) -> Any:
    """Ask a dimension about a value, and name the parameter if it refuses."""
    try:
        return question(value)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _parents_first(dimensions: Mapping[str, Dimension]) -> tuple[str, ...]:
    graph = {name: list(dimension.when) for name, dimension in dimensions.items()}
    try:
        return tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = ", ".join(error.args[1][:-1])
        raise InputError(f"{circle}: the conditions go in a circle: drop one of them") from None
