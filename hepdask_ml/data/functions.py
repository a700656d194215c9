"""Functions of Python in a specification: found by name, and known by what they do.

What is made with a function is kept and used again, so that another function of the same name must
not be taken for it.  Its *identity* is its source text, with the numbers and texts that it takes
from around, and the functions of the same module that it calls.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import blake2b
from importlib import import_module
from pickle import PicklingError
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np

from hepdask_ml.config import nearest
from hepdask_ml.errors import InputError, words

MAIN = "__main__"


def function_of(name: str) -> Callable[..., Any]:
    """Find a function by its name.

    Parameters
    ----------
    name : str
        ``"PACKAGE.MODULE:FUNCTION"``.

    Returns
    -------
    callable
        The function.

    Raises
    ------
    InputError
        If there is none, or its module cannot be imported.

    Examples
    --------
    >>> function_of("math:hypot")(3, 4)
    5.0
    """
    place, _, word = name.partition(":")
    if not (place and word) or any(not part.isidentifier() for part in place.split(".")):
        raise InputError(f'"{name}" names no function: write it as PACKAGE.MODULE:FUNCTION')
    if place == MAIN or not word.isidentifier():
        raise InputError(
            f'"{name}" is a function that has to be handed over itself: do so, or put it into a '
            "module, at the top"
        )
    try:
        module = import_module(place)
    except ModuleNotFoundError as error:
        raise InputError(
            f'"{name}" is not there ({words(error)}): install it, or check the name'
        ) from None
    except Exception as error:
        raise InputError(
            f"{place} cannot be imported ({type(error).__name__}: {words(error)}): mend it there"
        ) from error
    found = getattr(module, word, None)
    if not callable(found):
        known = [each for each, value in vars(module).items() if callable(value)]
        near = nearest(word, known) or ["check the name"]
        raise InputError(f"{place} has no function {word}: {near[0]}")
    function: Callable[..., Any] = found
    return function


def checked_function(function: Any) -> Callable[..., Any]:
    """Refuse what cannot travel to workers, or cannot be told from another.

    Parameters
    ----------
    function : callable
        Any.

    Returns
    -------
    callable
        The same.

    Raises
    ------
    InputError
        If it is none, or one that cannot be pickled.
    """
    if not isinstance(function, FunctionType | BuiltinFunctionType):
        # What an object has in it, to which a method belongs, no source text tells.
        kind = type(function).__name__
        raise InputError(f"it is of the type {kind}: give a function, as def or lambda makes it")
    try:
        packed(function)
    except (PicklingError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{name_of(function)} cannot travel to workers ({words(error)}): let it take files and "
            "the like by name, when it is called"
        ) from None
    return function


def packed(function: Callable[..., Any] | None) -> bytes:
    """Pickle a function, with its code where no module has it."""
    found: bytes = cloudpickle.dumps(function)
    return found


def unpacked(pickled: bytes) -> Callable[..., Any] | None:
    """Give the function that `packed` has pickled, in this session or in one that started it."""
    found: Callable[..., Any] | None = cloudpickle.loads(pickled)
    return found


def name_of(function: Callable[..., Any]) -> str:
    """Name a function, as `function_of` reads it.

    Parameters
    ----------
    function : callable
        A function.

    Returns
    -------
    str
        ``"PACKAGE.MODULE:FUNCTION"``.

    Examples
    --------
    >>> name_of(name_of)
    'hepdask_ml.data.functions:name_of'
    """
    return f"{function.__module__}:{function.__qualname__}"


def identity(function: Callable[..., Any]) -> list[Any]:
    """Say what tells a function from others.

    Parameters
    ----------
    function : callable
        A function.

    Returns
    -------
    list
        For JSON: its name, its source text, and what it takes from around.  Functions of other
        modules count by their names, and objects without a plain value by their types.
    """
    return _identity(function, function.__module__, set())


def _identity(function: Any, home: str, seen: set[int]) -> list[Any]:
    if not isinstance(function, FunctionType) or function.__module__ != home:
        return [name_of(function)]
    if id(function) in seen:
        return [name_of(function)]
    seen.add(id(function))
    around = {name: _known(value, home, seen) for name, value in _around(function)}
    return [name_of(function), _source(function), around]


def _around(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Give what a function takes from its module, from the functions around it, by default."""
    for code in _codes(function.__code__):
        for step in dis.get_instructions(code):
            if step.opname == "LOAD_GLOBAL" and step.argval in function.__globals__:
                yield step.argval, function.__globals__[step.argval]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # of a cell that nothing was put into yet
            yield name, cell.cell_contents
    yield "(defaults)", [function.__defaults__, function.__kwdefaults__]


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Give the code of a function and of those within it."""
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _known(value: Any, home: str, seen: set[int]) -> Any:
    """Give a form for JSON that differs where values do, as far as they are plain."""
    if value is None or isinstance(value, bool | int | float | str | bytes | complex):
        return [type(value).__name__, repr(value)]
    if isinstance(value, list | tuple):
        return [_known(each, home, seen) for each in value]
    if isinstance(value, dict):
        pairs = [[repr(key), _known(each, home, seen)] for key, each in value.items()]
        return sorted(pairs, key=lambda pair: str(pair[0]))
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        numbers = np.ascontiguousarray(value)
        return [str(numbers.dtype), numbers.shape, blake2b(numbers.tobytes()).hexdigest()]
    if isinstance(value, ModuleType):
        return value.__name__
    if callable(value) and hasattr(value, "__qualname__"):
        return _identity(value, home, seen)
    return name_of(type(value))


def _source(function: FunctionType) -> str:
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        return _compiled(function.__code__)
    # All lambdas of a line have the same text; what Python made of them tells them apart.
    return text + _compiled(function.__code__) if text.count("lambda") > 1 else text


def _compiled(code: CodeType) -> str:
    """Digest of compiled code, which another version of Python compiles differently."""
    state = blake2b(digest_size=16)
    for each in _codes(code):
        constants = [_known(value, "", set()) for value in each.co_consts]
        state.update(repr((each.co_code, each.co_names, constants)).encode())
    return state.hexdigest()
