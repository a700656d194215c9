"""Search spaces as other services write them.

``hpogrid``
    The *unified* form of hpogrid 1.3.3, which phpo's ``searchSpaceFile`` usually holds:
    ``{"lr": {"method": "loguniform", "dimension": {"low": 1e-5, "high": 0.1, "base": 10}}}``.
``nevergrad``
    The form of the iDDS optimiser of that name:
    ``{"A": {"type": "Choice", "params": {"choices": [1, 4]}},
    "B": {"type": "Scalar", "bounds": [0, 5]}}``.
``bayesian``
    The form of the iDDS optimiser of that name, the bounds of bayes_opt: ``{"x": [0, 5]}``.

Where a form leaves something open, or its programs differ from each other, this is how it is read:

- Both bounds are values.  hpogrid says that ``uniformint`` leaves out ``high``, and then includes
  it in its spaces for scikit-optimize, optuna and nevergrad.
- ``loguniformint``, which hpogrid's converters know and its table does not, is read as well, and
  ``quniformint``.
- The base of a log-uniform number makes no difference.  That of a log-normal one does: the number
  is ``base ** x`` with a normal x, and its base is e if none is given.
- ``q`` makes the multiples of q between the bounds.  They are whole numbers if all three numbers
  were written as such, without a decimal point.
- A category that is repeated counts once, and ``grid_search`` is left to the optimiser.
- What tells nevergrad where to begin and how to move (``init`` beside two bounds, ``transitions``,
  ``deterministic``, ``mutable_sigma``, the way to bounce off a bound) is no matter of the space.
  A ``Scalar`` without bounds is normal with a deviation of 1 about its ``init``; a ``Log`` without
  bounds is log-normal about its ``init`` with a deviation of one factor of its ``exponent``.
- An ``Array``, and a choice with ``repetitions``, becomes a parameter for each component, ``A[0]``
  or ``A[0,1]``; `joined` makes the array of them again.

References
----------
| hpogrid 1.3.3, ``search_space/`` and ``core/defaults.py`` (``kSearchSpaceFormat``)
| panda-docs, ``client/phpo.rst``
| iDDS, ``atlas/lib/idds/atlas/processing/hyperparameteropt_nevergrad.py`` and ``..._bayesian.py``
| nevergrad 1.0.12, ``parametrization/data.py`` and ``choice.py``
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from itertools import product
from math import ceil, e, floor, isfinite, log
from typing import Any

from hepdask_ml.config import nearest
from hepdask_ml.errors import InputError
from hepdask_ml.hpo.dimensions import Choice, Dimension, Fixed, Integer, Normal, Real
from hepdask_ml.hpo.values import identity, plain, shown

Fields = Mapping[str, Any]

_NEVERGRAD = ("Choice", "TransitionChoice", "Array", "Scalar", "Log")

MOST_COMPONENTS = 10_000
"""Components of an array at most."""


def recognised(mapping: Mapping[Any, Any]) -> str:
    """Tell in which form a space is written.

    Parameters
    ----------
    mapping : mapping
        The space as it was read.

    Returns
    -------
    {"own", "hpogrid", "nevergrad"}
        The form.

    Raises
    ------
    InputError
        If every parameter is a list of two numbers: bounds of bayes_opt, or choices of two.

    Examples
    --------
    >>> recognised({"lr": {"method": "uniform", "dimension": {"low": 0, "high": 1}}})
    'hpogrid'
    """
    written = list(mapping.values())
    records = [each for each in written if isinstance(each, Mapping)]
    if any("method" in each for each in records):
        return "hpogrid"
    if any(each.get("type") in _NEVERGRAD for each in records):
        return "nevergrad"
    if written and all(_pair(each) for each in written):
        raise InputError(
            "every parameter is a list of two numbers, which are their bounds in the form bayesian "
            "and all their values in the form own: name the form"
        )
    return "own"


def _pair(written: Any) -> bool:
    return isinstance(written, list | tuple) and len(written) == 2 and all(map(_numeric, written))


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def hpogrid(mapping: Mapping[Any, Any]) -> dict[str, Dimension]:
    """Read the unified form of hpogrid.

    Parameters
    ----------
    mapping : mapping
        ``{"method": ..., "dimension": {...}}`` by name.

    Returns
    -------
    dict
        Dimensions by name.

    Raises
    ------
    InputError
        If something in it is of another form, or has a wrong value.
    """
    found = {}
    for name, written in mapping.items():
        fields = _fields(name, written, ("method", "dimension"))
        method = _one_of(f"{name}.method", fields["method"], tuple(_METHODS))
        needed, optional, make = _METHODS[method]
        where = f"{name}.dimension"
        values = _fields(where, fields["dimension"], needed, optional)
        found[name] = _made(where, make, values)
    return found


def _categorical(values: Fields) -> Dimension:
    return Choice(_distinct(_list("categories", values["categories"])))


def _uniform(values: Fields) -> Dimension:
    return Real(values["low"], values["high"])


def _uniformint(values: Fields) -> Dimension:
    return Integer(values["low"], values["high"])


def _loguniform(values: Fields) -> Dimension:
    _base(values)
    return Real(values["low"], values["high"], log=True)


def _loguniformint(values: Fields) -> Dimension:
    _base(values)
    return Integer(values["low"], values["high"], log=True)


def _quniform(values: Fields) -> Dimension:
    return _multiples(values, logarithmic=False)


def _qloguniform(values: Fields) -> Dimension:
    _base(values)
    return _multiples(values, logarithmic=True)


def _multiples(values: Fields, logarithmic: bool) -> Dimension:
    """Multiples of q from low to high."""
    whole = all(isinstance(values[key], int) for key in ("low", "high", "q"))
    low, high, q = (_finite(key, values[key]) for key in ("low", "high", "q"))
    # The record looks for itself, but at bounds that the file does not hold.
    Real(low, high, log=logarithmic)
    _above(0, "q", q)
    first, last = ceil(_rounded(low / q)), floor(_rounded(high / q))
    if first >= last:
        raise InputError(f"q is {q}: two of its multiples at least must lie between low and high")
    if whole:
        step = int(q)
        return Integer(first * step, last * step, log=logarithmic, step=step)
    lowest, highest = (float(n * Decimal(repr(q))) for n in (first, last))
    return Real(lowest, highest, log=logarithmic, step=q)


def _rounded(ratio: float) -> float:
    """Remove the rounding of a quotient, so that 0.3 is three times 0.1."""
    nearby = round(ratio)
    return nearby if abs(ratio - nearby) < 1e-9 * max(1.0, abs(ratio)) else ratio


def _normal(values: Fields) -> Dimension:
    return Normal(values["mu"], values["sigma"], step=_step(values))


def _lognormal(values: Fields) -> Dimension:
    return Normal(values["mu"], values["sigma"], base=_base(values), step=_step(values))


def _step(values: Fields) -> float | None:
    if "q" not in values:
        return None
    _above(0, "q", _finite("q", values["q"]))
    step: float = values["q"]
    return step


def _base(values: Fields) -> float:
    return float(_above(1, "base", _finite("base", values.get("base", e))))


def _fixed(values: Fields) -> Dimension:
    return Fixed(values["value"])


_METHODS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable[[Fields], Dimension]]] = {
    "categorical": (("categories",), ("grid_search",), _categorical),
    "uniform": (("low", "high"), (), _uniform),
    "uniformint": (("low", "high"), (), _uniformint),
    "quniform": (("low", "high", "q"), (), _quniform),
    "quniformint": (("low", "high", "q"), (), _quniform),
    "loguniform": (("low", "high"), ("base",), _loguniform),
    "loguniformint": (("low", "high"), ("base",), _loguniformint),
    "qloguniform": (("low", "high", "q"), ("base",), _qloguniform),
    "normal": (("mu", "sigma"), (), _normal),
    "qnormal": (("mu", "sigma", "q"), (), _normal),
    "lognormal": (("mu", "sigma"), ("base",), _lognormal),
    "qlognormal": (("mu", "sigma", "q"), ("base",), _lognormal),
    "fixed": (("value",), (), _fixed),
}
"""Methods of hpogrid: the fields that each needs, those that it may have, and how it is read."""


def nevergrad(mapping: Mapping[Any, Any]) -> dict[str, Dimension]:
    """Read the form of the iDDS optimiser nevergrad.

    Parameters
    ----------
    mapping : mapping
        ``{"type": ..., "params": {...}, "bounds": [...]}`` by name.

    Returns
    -------
    dict
        Dimensions by name; components of an array have names of their own.

    Raises
    ------
    InputError
        If something in it is of another form, or has a wrong value.
    """
    found: dict[str, Dimension] = {}
    for name, written in mapping.items():
        fields = _fields(name, written, ("type",), ("params", "bounds"))
        kind = _one_of(f"{name}.type", fields["type"], _NEVERGRAD)
        if "Choice" in kind and "bounds" in fields:
            raise InputError(f"{name}.bounds is no setting of a {kind}: drop it")
        params = fields.get("params") or {}
        needed, optional, make = _TYPES[kind]
        params = _fields(f"{name}.params", params, needed, optional)
        if "bounds" in fields:
            params = {**params, **_bounds(name, fields["bounds"], params)}
        components = _made(f"{name}.params", make, params)
        for place, dimension in components.items():
            whole = f"{name}[{','.join(map(str, place))}]" if place else str(name)
            if whole in found:
                raise InputError(f"{name} makes the parameter {whole}, which is there: rename one")
            found[whole] = dimension
    return found


Components = dict[tuple[int, ...], Dimension]


def _bounds(name: str, bounds: Any, params: Fields) -> dict[str, Any]:
    """Take ``bounds`` for ``lower`` and ``upper``, as ``set_bounds`` does."""
    if not isinstance(bounds, list | tuple) or len(bounds) not in (2, 3):
        raise InputError(f"{name}.bounds is {shown(bounds)}: it must be a list of low and high")
    for key in ("lower", "upper"):
        if key in params:
            raise InputError(f"{name} has bounds and params.{key}: drop one of them")
    return {"lower": bounds[0], "upper": bounds[1]}


def _choice(params: Fields, ordered: bool = False) -> Components:
    choices = params["choices"]
    if isinstance(choices, int) and not isinstance(choices, bool):
        if not 1 <= choices <= MOST_COMPONENTS:
            raise InputError(f"choices is {choices}: it must lie between 1 and {MOST_COMPONENTS}")
        choices = list(range(choices))
    values = _distinct(_list("choices", choices))
    repetitions = params.get("repetitions")
    shape = [] if repetitions is None else [repetitions]
    return {place: Choice(values, ordered=ordered) for place in _places("repetitions", shape)}


def _transition_choice(params: Fields) -> Components:
    return _choice(params, ordered=params.get("ordered", True))


def _scalar(params: Fields) -> Components:
    return {(): _number("", params, params.get("init"))}


def _log(params: Fields) -> Components:
    low, high = _both(params.get("lower"), params.get("upper"))
    if low is not None:
        return {(): Real(low, high, log=True)}
    if params.get("init") is None:
        raise InputError("init is missing: add it, or two bounds")
    init = float(_above(0, "init", _finite("init", params["init"])))
    base = float(_above(1, "exponent", _finite("exponent", params.get("exponent") or 2.0)))
    return {(): Normal(log(init) / log(base), 1.0, base=base)}


def _array(params: Fields) -> Components:
    init, shape = params.get("init"), params.get("shape")
    if init is None and shape is None:
        raise InputError("shape is missing: add it, or init")
    if init is not None and shape is not None:
        raise InputError("shape is given beside init: drop one of them")
    if shape is None:
        shape = _shape_of(_list("init", init))
    return {
        place: _number(
            f" at {list(place)}",
            {key: _component(key, params.get(key), place) for key in ("lower", "upper")},
            None if init is None else _component("init", init, place),
        )
        for place in _places("shape", _list("shape", shape))
    }


def _number(where: str, bounds: Fields, init: Any) -> Dimension:
    low, high = _both(bounds.get("lower"), bounds.get("upper"), where)
    if low is not None:
        return Real(low, high)
    return Normal(0.0 if init is None else _finite("init", init), 1.0)


def _both(low: Any, high: Any, where: str = "") -> tuple[Any, Any]:
    if (low is None) != (high is None):
        name = "lower" if low is None else "upper"
        raise InputError(f"{name} is missing{where}: give both bounds, or none")
    return low, high


def _shape_of(values: Any) -> list[int]:
    shape = []
    while isinstance(values, list | tuple):
        shape.append(len(values))
        values = values[0] if values else None
    return shape


def _component(key: str, values: Any, place: tuple[int, ...]) -> Any:
    """Take the component of a nested list; a number, or a shorter nesting, stands for all."""
    nested = len(_shape_of(values))
    for index in place[len(place) - nested :] if nested else ():
        if not isinstance(values, list | tuple) or index >= len(values):
            raise InputError(f"{key} has no value for {list(place)}: give it the shape of the rest")
        values = values[index]
    return values


def _places(key: str, shape: list[Any]) -> list[tuple[int, ...]]:
    number = 1
    for length in shape:
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise InputError(f"{key} is {shown(shape)}: lengths must be whole and at least 1")
        number *= length
    if number > MOST_COMPONENTS:
        raise InputError(f"{key} is {shown(shape)}: at most {MOST_COMPONENTS} components can be")
    return list(product(*map(range, shape)))


_RANGE = ("lower", "upper", "mutable_sigma")
_TYPES: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable[[Fields], Components]]] = {
    "Choice": (("choices",), ("repetitions", "deterministic"), _choice),
    "TransitionChoice": (
        ("choices",),
        ("repetitions", "transitions", "ordered"),
        _transition_choice,
    ),
    "Array": ((), ("init", "shape", *_RANGE), _array),
    "Scalar": ((), ("init", *_RANGE), _scalar),
    "Log": ((), ("init", "exponent", *_RANGE), _log),
}
"""Types of nevergrad: the fields that each needs, those that it may have, and how it is read."""


def bayesian(mapping: Mapping[Any, Any]) -> dict[str, Dimension]:
    """Read the form of the iDDS optimiser bayesian.

    Parameters
    ----------
    mapping : mapping
        ``[low, high]`` by name.

    Returns
    -------
    dict
        Dimensions by name.

    Raises
    ------
    InputError
        If one is anything but two rising numbers.
    """
    found: dict[str, Dimension] = {}
    for name, written in mapping.items():
        if not isinstance(written, list | tuple) or len(written) != 2:
            raise InputError(f"{name} is {shown(written)}: it must be a list of low and high")
        found[name] = _made(str(name), lambda ends: Real(*ends), written)
    return found


FOREIGN: dict[str, Callable[[Mapping[Any, Any]], dict[str, Dimension]]] = {
    "hpogrid": hpogrid,
    "nevergrad": nevergrad,
    "bayesian": bayesian,
}
"""Readers of the forms."""


_COMPONENT = re.compile(r"(.+)\[(\d+(?:,\d+)*)\]", re.DOTALL)


def joined(params: Mapping[str, Any]) -> dict[str, Any]:
    """Make arrays of the parameters that are components of them.

    Parameters
    ----------
    params : mapping of str to Any
        Parameters of a trial.

    Returns
    -------
    dict
        The same with a nested list in place of parameters like ``A[0]``.

    Raises
    ------
    InputError
        If the components make no array.

    Examples
    --------
    >>> joined({"w[0]": 0.5, "w[1]": 0.25, "n": 3})
    {'w': [0.5, 0.25], 'n': 3}
    """
    made: dict[str, Any] = {}
    arrays: dict[str, dict[tuple[int, ...], Any]] = {}
    for name, value in params.items():
        found = _COMPONENT.fullmatch(name)
        if found is None:
            made[name] = value
            continue
        place = tuple(int(index) for index in found[2].split(","))
        arrays.setdefault(found[1], {})[place] = value
        made.setdefault(found[1], None)
    for name, components in arrays.items():
        if name in params:
            raise InputError(f"{name} is a parameter and an array: rename one of them")
        made[name] = _nested(name, components)
    return made


def _nested(name: str, components: dict[tuple[int, ...], Any]) -> Any:
    if list(components) == [()]:
        return components[()]
    rows: dict[int, dict[tuple[int, ...], Any]] = {}
    for place, value in components.items():
        if not place:
            raise InputError(f"the components of {name} make no array: some are missing")
        rows.setdefault(place[0], {})[place[1:]] = value
    if sorted(rows) != list(range(len(rows))):
        raise InputError(f"the components of {name} make no array: some are missing")
    return [_nested(name, rows[index]) for index in range(len(rows))]


def parted(params: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Make parameters of the components of arrays: the inverse of `joined`.

    Parameters
    ----------
    params : mapping of str to Any
        Parameters as a payload has them.
    names : collection of str
        Names of the space; a list under one of them is a value, and stays as it is.

    Returns
    -------
    dict
        The parameters by their names in the space.

    Examples
    --------
    >>> parted({"w": [0.5, 0.25], "n": 3}, ["w[0]", "w[1]", "n"])
    {'w[0]': 0.5, 'w[1]': 0.25, 'n': 3}
    """
    made: dict[str, Any] = {}
    for name, value in params.items():
        if name in names:
            made[name] = value
        else:
            made.update(_components(name, (), plain(value), names))
    return made


def _components(
    name: str, place: tuple[int, ...], value: Any, names: Collection[str]
) -> dict[str, Any]:
    whole = f"{name}[{','.join(map(str, place))}]" if place else name
    if whole in names or not isinstance(value, list):
        return {whole: value}
    made: dict[str, Any] = {}
    for index, each in enumerate(value):
        made.update(_components(name, (*place, index), each, names))
    return made


def _fields(
    where: str, written: Any, needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Fields:
    """Look at the keys of a mapping."""
    if not isinstance(written, Mapping):
        raise InputError(
            f"{where} is {shown(written)}: it must be a mapping with {' and '.join(needed)}"
        )
    known = (*needed, *optional)
    for key in written:
        if key not in known:
            near = nearest(str(key), known)
            advice = near[0] if near else f"choose from {', '.join(known)}"
            raise InputError(f"{where}.{key} is no setting: {advice}")
    for key in needed:
        if key not in written:
            raise InputError(f"{where}.{key} is missing: add it")
    return written


def _one_of(where: str, value: Any, names: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in names:
        return value
    near = nearest(value, names) if isinstance(value, str) else []
    advice = near[0] if near else f"choose from {', '.join(names)}"
    raise InputError(f"{where} is {shown(value)}: {advice}")


def _made(where: str, make: Callable[[Any], Any], values: Any) -> Any:
    try:
        return make(values)
    except InputError as error:
        raise InputError(f"{where}.{error}") from None


def _list(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{key} is {shown(value)}: it must be a list with something in it")
    return list(value)


def _distinct(values: list[Any]) -> tuple[Any, ...]:
    found: dict[str, Any] = {}
    for value in values:
        found.setdefault(identity(plain(value)), value)
    return tuple(found.values())


def _finite(key: str, value: Any) -> float:
    if not _numeric(value) or not isfinite(value):
        raise InputError(f"{key} is {shown(value)}: it must be a finite number")
    number: float = value
    return number


def _above(bound: int, key: str, value: float) -> float:
    if value <= bound:
        raise InputError(f"{key} is {shown(value)}: it must be above {bound}")
    return value
