"""What a checkpoint of a training holds: the states of objects, and of all random numbers.

An object has a state where it can give and take it: ``state_dict()`` and ``load_state_dict()`` (a
model, an optimiser, a scheduler), ``get_state()`` and ``set_state()`` (``torch.Generator``), or it
is a generator of Python or numpy.  Bytes and files are kept as they are.  With them go the states
of the global generators of Python, numpy and torch, since data are shuffled and units are dropped
by these: so a training that goes on from a checkpoint draws what it would have drawn.

States without tensors are JSON (see `plain`), those with tensors are torch's own files (see
`with_torch`); torch is never imported where it is not in use.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.errors import HepdaskError, InputError, words
from hepdask_ml.facility.cuda import gpus
from hepdask_ml.training import plain, with_torch

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = "random."
"""Begins the names of the parts that hold states of global generators."""

_PYTHON, _NUMPY, _TORCH = f"{OURS}python", f"{OURS}numpy", f"{OURS}torch"


def packed(state: Mapping[str, Any]) -> dict[str, bytes | Path]:
    """Give the parts of a checkpoint.

    Parameters
    ----------
    state : mapping of str to Any
        Bytes, Paths, and objects that have a state.

    Returns
    -------
    dict
        Bytes or a Path for each of them, under its name, and the states of the global generators.

    Raises
    ------
    InputError
        If one of them has no state, or a state that could not be read safely.

    Examples
    --------
    >>> parts = packed({"note": b"...", "order": random.Random(1)})
    >>> [name for name in parts if not name.startswith(OURS)]
    ['note', 'order']
    """
    parts = {name: _part(name, each) for name, each in state.items()}
    parts[_PYTHON] = plain.packed(random.getstate())
    parts[_NUMPY] = plain.packed(_numpy_state())
    states = with_torch.random_states()
    if states:
        parts[_TORCH] = with_torch.packed(states)
    return parts


def restore(state: Mapping[str, Any], parts: Mapping[str, bytes]) -> None:
    """Bring objects, files and the global generators to where they were.

    Parameters
    ----------
    state : mapping of str to Any
        As for `packed`: objects take their states, files are written again; bytes are left alone.
    parts : mapping of str to bytes
        Of the checkpoint.

    Raises
    ------
    InputError
        If a part is missing, or an object does not take its state.
    HepdaskError
        If a part cannot be read, or a file not be written.
    """
    for name, each in state.items():
        if isinstance(each, bytes | bytearray | memoryview):
            continue
        if name not in parts:
            held = ", ".join(part for part in parts if not part.startswith(OURS)) or "nothing"
            raise InputError(
                f'the checkpoint has no "{name}", it holds {held}: load what was saved, or begin '
                "with another ledger"
            )
        _restore(name, each, parts[name])
    if _PYTHON in parts:
        random.setstate(_unpacked(_PYTHON, parts[_PYTHON]))
    if _NUMPY in parts:
        _set_numpy_state(_unpacked(_NUMPY, parts[_NUMPY]))
    if _TORCH in parts:
        with_torch.set_random_states(_unpacked(_TORCH, parts[_TORCH]))


@contextmanager
def session(seed: int) -> Iterator[None]:
    """Let the global generators begin at a seed, and be afterwards what they were before.

    The peak of `memory_mb` begins here, too.

    Parameters
    ----------
    seed : int
        32 bits.
    """
    before = random.getstate(), _numpy_state()
    _seed(seed)
    with_torch.forget_peak()
    try:
        with with_torch.seeded(seed):
            yield
    finally:
        random.setstate(before[0])
        _set_numpy_state(before[1])


def seed(number: int) -> None:
    """Let the global generators of Python, numpy and torch begin at a seed.

    Parameters
    ----------
    number : int
        32 bits.
    """
    _seed(number)
    torch = with_torch.loaded()
    if torch is not None:
        with_torch.seed(torch, number)


def _seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - the global one is what objectives may use


def memory_mb() -> float | None:
    """Give the peak of GPU memory in 10^6 bytes; None where torch uses no GPU."""
    return with_torch.memory_mb()


@cache
def device() -> str:
    """Say where to train: on the GPU if there is one that torch can use.

    Returns
    -------
    {"cuda", "cpu"}
        Name of a torch device.
    """
    # torch takes a second or two to import, so the driver is asked first.
    there = with_torch.loaded() is not None or gpus()
    return "cuda" if there and with_torch.sees_gpu() else "cpu"


def _numpy_state() -> dict[str, Any]:
    return dict(np.random.get_state(legacy=False))  # noqa: NPY002 - as above


def _set_numpy_state(state: dict[str, Any]) -> None:
    np.random.set_state(state)  # noqa: NPY002 - as above


def _part(name: str, each: Any) -> bytes | Path:
    if name.startswith(OURS):
        raise InputError(f'a part of a checkpoint is called "{name}": no name begins with "{OURS}"')
    if isinstance(each, bytes | Path):
        return each
    if isinstance(each, bytearray | memoryview):
        return bytes(each)
    found = _state(each)
    if found is None:
        raise InputError(
            f'"{name}" is of type {type(each).__name__}, which a checkpoint cannot keep: give '
            "bytes, a Path, a random generator, or an object with state_dict() and "
            "load_state_dict()"
        )
    try:
        return _content(found[0])
    except InputError as error:
        raise InputError(
            f'the state of "{name}" cannot be kept in a checkpoint, as it holds {error}: let it '
            "hold numbers, text, arrays or tensors"
        ) from None


def _content(state: Any) -> bytes:
    if with_torch.holds_tensors(state):
        return with_torch.packed(state)
    try:
        return plain.packed(state)
    except InputError:
        # Some of torch's schedulers have containers of their own.
        if with_torch.loaded() is None:
            raise
        return with_torch.packed(state)


def _state(each: Any) -> tuple[Any] | None:
    """Give the state of an object, in a tuple, or None if it has none."""
    if isinstance(each, random.Random):
        return (each.getstate(),)
    if isinstance(each, np.random.Generator):
        return (each.bit_generator.state,)
    if isinstance(each, np.random.RandomState):
        return (each.get_state(legacy=False),)
    for give, take in (("state_dict", "load_state_dict"), ("get_state", "set_state")):
        if callable(getattr(each, give, None)) and callable(getattr(each, take, None)):
            return (getattr(each, give)(),)
    return None


def _restore(name: str, each: Any, content: bytes) -> None:
    if isinstance(each, Path):
        try:
            each.write_bytes(content)
        except OSError as error:
            raise HepdaskError(
                f'"{name}" of the checkpoint cannot be written to {each} '
                f"({error.strerror or words(error)}): look at the disk"
            ) from None
        return
    found = _unpacked(name, content)
    try:
        if isinstance(each, random.Random):
            each.setstate(found)
        elif isinstance(each, np.random.Generator):
            each.bit_generator.state = found
        elif callable(getattr(each, "load_state_dict", None)):
            each.load_state_dict(found)
        else:
            each.set_state(found)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'"{name}" does not take its state from the checkpoint ({words(error)}): build it as '
            "it was built when that was saved, or begin with another ledger"
        ) from None


def _unpacked(name: str, content: bytes) -> Any:
    read = with_torch.unpacked if content.startswith(with_torch.FIRST) else plain.unpacked
    try:
        return read(content)
    except InputError:
        raise
    except HepdaskError as error:
        raise HepdaskError(f'"{name}" of the checkpoint cannot be read: {error}') from None
