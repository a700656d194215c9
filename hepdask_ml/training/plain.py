"""Plain states as JSON: numbers, text, bytes and arrays, in dicts, lists and tuples.

JSON knows lists and dicts with names alone, and nothing of arrays.  All else is a mapping with one
name that says what it is: ``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``,
``{"bytes": "..."}``, ``{"array": "..."}``.  So what is read again is what was written, to the type
and to the bit, and nothing in a file can be made to run.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from io import BytesIO
from typing import Any

import numpy as np

from hepdask_ml.errors import HepdaskError, InputError


def packed(state: Any) -> bytes:
    """Write a state.

    Parameters
    ----------
    state : Any
        None, bool, int, float, str, bytes, numpy scalars and arrays of numbers, and dicts, lists
        and tuples of them.

    Returns
    -------
    bytes
        JSON.

    Raises
    ------
    InputError
        If anything else is in it.

    Examples
    --------
    >>> packed({"step": 3, "betas": (0.9, 0.999)})
    b'{"step": 3, "betas": {"tuple": [0.9, 0.999]}}'
    """
    return json.dumps(_written(state)).encode()


def unpacked(content: bytes) -> Any:
    """Read a state.

    Parameters
    ----------
    content : bytes
        Made by `packed`.

    Returns
    -------
    Any
        The state.

    Raises
    ------
    HepdaskError
        If it is none.

    Examples
    --------
    >>> unpacked(packed({7: (0.5, None)}))
    {7: (0.5, None)}
    """
    try:
        return _read(json.loads(content))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise HepdaskError(f"this is no state of ours ({error}): take another one") from None


def _written(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [_written(each) for each in value]
    if kind is tuple:
        return {"tuple": [_written(each) for each in value]}
    if kind is dict:
        # A single name might be one of ours.
        if len(value) != 1 and all(type(key) is str for key in value):
            return {key: _written(each) for key, each in value.items()}
        return {"dict": [[_written(key), _written(each)] for key, each in value.items()]}
    if kind is bytes:
        return {"bytes": b64encode(value).decode()}
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufcSU":
        buffer = BytesIO()
        np.save(buffer, value, allow_pickle=False)
        name = "scalar" if isinstance(value, np.generic) else "array"
        return {name: b64encode(buffer.getvalue()).decode()}
    raise InputError(f"a {kind.__module__}.{kind.__qualname__}")


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(each) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        return {key: _read(each) for key, each in value.items()}
    [(kind, content)] = value.items()
    if kind == "dict":
        return {_read(key): _read(each) for key, each in content}
    if kind == "tuple":
        return tuple(_read(each) for each in content)
    if kind == "bytes":
        return b64decode(content, validate=True)
    array = np.load(BytesIO(b64decode(content, validate=True)), allow_pickle=False)
    return {"array": array, "scalar": array[()]}[kind]
