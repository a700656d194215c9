"""Objectives by name: a function out of a file or a module, ready to travel to workers.

What is loaded from a file travels *by value*, and so do the modules beside it that it imports: the
workers need neither the file nor its folder.  Everything else has to be installed there.
"""

from __future__ import annotations

import importlib.util
import sys
from contextlib import contextmanager
from functools import update_wrapper
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]

from hepdask_ml.config import in_file, nearest
from hepdask_ml.errors import InputError, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

_MOST_NAMES = 8


class ByValue:
    """A function that is pickled with its code, whoever pickles it.

    A plain function would be pickled by its module's name, which workers may not know.

    Parameters
    ----------
    function : callable
        The function; it comes out of the pickle bare.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        update_wrapper(self, function)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function."""
        return self._function(*arguments, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        return cloudpickle.loads, (cloudpickle.dumps(self._function),)


def objective(name: str) -> Callable[..., Any]:
    """Load an objective.

    Parameters
    ----------
    name : str
        ``"FILE.py:FUNCTION"`` or ``"PACKAGE.MODULE:FUNCTION"``.

    Returns
    -------
    callable
        The function.  The code of a file is run once for each call of this one.

    Raises
    ------
    InputError
        If there is no such file, module or function, or its code fails.

    Examples
    --------
    >>> round(objective("examples/search_objective.py:branin")(3.1416, 2.275), 3)
    0.398
    """
    place, _, word = name.rpartition(":")
    module = _of_file(Path(place)) if in_file(name) else _of_path(place)
    found = getattr(module, word, None)
    if not callable(found):
        known = [
            each
            for each, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        ]
        near = nearest(word, known)
        listed = ", ".join(known[:_MOST_NAMES])
        advice = near[0] if near else f"there are {listed}" if known else "it has no functions"
        raise InputError(f"{place} has no function {word}: {advice}")
    function: Callable[..., Any] = ByValue(found) if in_file(name) else found
    return function


def _of_path(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise InputError(
                f"there is no module {name}: install it, or name a file, as in train.py:train"
            ) from None
        raise _unusable(name, error) from error
    except Exception as error:
        raise _unusable(name, error) from error


def _of_file(path: Path) -> ModuleType:
    """Run a file as a module of its own, whose name tells the file."""
    if not path.is_file():
        raise InputError(f"{path} is not there: check the name of the objective's file")
    path = path.absolute()
    digest = blake2b(str(path).encode(), digest_size=4).hexdigest()
    spec = importlib.util.spec_from_file_location(f"{path.stem}_{digest}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python: give a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pickle, dataclasses and typing look for it
    before = set(sys.modules)
    try:
        with _neighbours(path.parent):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise _unusable(str(path), error) from error
    cloudpickle.register_pickle_by_value(module)
    for name in set(sys.modules) - before:
        beside = sys.modules[name]
        source = getattr(beside, "__file__", None)
        if source and Path(source).is_relative_to(path.parent) and "site-packages" not in source:
            cloudpickle.register_pickle_by_value(beside)
    return module


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Let a file import those beside it, as a script does."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _unusable(place: str, error: Exception) -> InputError:
    return InputError(
        f"{place} cannot be loaded ({type(error).__name__}: {words(error)}): mend it there"
    )
