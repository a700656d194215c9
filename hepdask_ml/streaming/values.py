"""What a function makes of events: numbers, arrays, histograms, and dictionaries and lists of them.

Values of neighbouring ranges are joined as coffea accumulates: numbers, arrays and histograms are
added, dictionaries are joined item by item, lists one behind the other.  Sums have 64 bits,
whatever the parts have: those of float32 would lose digits, and those of uint8 wrap round, the more
the smaller the parts are.  In a ledger they are JSON, so that nobody who opens one runs code of
whoever wrote it; histograms are written in the form that their libraries agree on (UHI).

References
----------
coffea.processor.accumulate; https://uhi.readthedocs.io, "Serialization".
"""

from __future__ import annotations

import json
from importlib import import_module
from math import isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np

from hepdask_ml.errors import InputError

_SCHEMA = "uhi_schema"
_ARRAY = "hepdask_ml_array"
_WIDE = {"b": np.int64, "i": np.int64, "u": np.uint64, "f": np.float64}
_KINDS = "numbers, texts, arrays, histograms, and dictionaries and lists of them"


def join(one: Any, other: Any) -> Any:
    """Join the values of two ranges of events, neither of which is changed.

    Numbers and arrays become those of 64 bits; conditions are counted.

    Parameters
    ----------
    one, other : object
        Values; None is what no events give.

    Returns
    -------
    object
        The value of both ranges.

    Raises
    ------
    InputError
        If they are not of the same kind.

    Examples
    --------
    >>> join({"n": 3, "files": ["a"]}, {"n": 4, "files": ["b"], "muons": 2})
    {'n': 7, 'files': ['a', 'b'], 'muons': 2}
    """
    if one is None or other is None:
        return _wide(other if one is None else one)
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: join(one.get(key), other.get(key)) for key in dict.fromkeys([*one, *other])}
    if isinstance(one, list) and isinstance(other, list):
        return [*one, *other]
    if isinstance(one, str) and one == other:
        return one
    if isinstance(one, str | dict | list) or isinstance(other, str | dict | list):
        raise InputError(
            f"a {type(one).__name__} ({one!r:.40}) and a {type(other).__name__} ({other!r:.40}) "
            "are not joined: let the function give the same kind for all events, and equal texts"
        )
    try:
        return _wide(one) + _wide(other)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"what the function gave for two ranges of events cannot be added ({error}): let it "
            "give the same shapes and axes for all events"
        ) from None


def _wide(value: Any) -> Any:
    """Give numbers in 64 bits, as sums of them need it."""
    if isinstance(value, dict):
        return {key: _wide(each) for key, each in value.items()}
    if isinstance(value, np.integer | np.floating | np.bool_):
        return float(value) if isinstance(value, np.floating) else int(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in _WIDE and value.itemsize <= 8:
        whole = value.dtype.kind == "u" and value.itemsize < 8
        return value.astype(_WIDE["i" if whole else value.dtype.kind], copy=False)
    return value


def packed(value: Any) -> bytes:
    """Give a value as a ledger keeps it.

    Parameters
    ----------
    value : object
        The value.

    Returns
    -------
    bytes
        JSON.

    Raises
    ------
    InputError
        If it is of no kind that can be kept.
    """
    return json.dumps(_plain(value), separators=(",", ":")).encode()


def unpacked(document: bytes) -> Any:
    """Read what `packed` wrote.

    Parameters
    ----------
    document : bytes
        JSON.

    Returns
    -------
    object
        The value; numbers of numpy as plain ones, tuples as lists.
    """
    return json.loads(document, object_hook=_of_plain)


def _plain(value: Any) -> Any:
    """Give what JSON can hold."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, dict):
        _check_keys(value)
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise InputError(f"the function gave an array of {value.dtype}: give one of numbers")
        # Through a list: repr of a float is read back as the same one.
        return {_ARRAY: [str(value.dtype), list(value.shape), _plain(value.ravel().tolist())]}
    if isinstance(value, Integral | np.bool_):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if isfinite(number) else {_ARRAY: ["float", [], [str(number)]]}
    if hasattr(value, "_to_uhi_"):
        return json.loads(json.dumps(value, default=import_module("uhi.io.json").default))
    raise InputError(
        f"the function gave a {type(value).__name__}, which a ledger cannot keep: give {_KINDS}"
    )


def _check_keys(value: dict[Any, Any]) -> None:
    """Refuse keys that JSON would change, or that mean something else in a ledger."""
    wrong = next((key for key in value if not isinstance(key, str)), None)
    if wrong is not None:
        raise InputError(f"the function gave the key {wrong!r:.40}: keys have to be texts")
    taken = next((key for key in (_ARRAY, _SCHEMA) if key in value), None)
    if taken is not None:
        raise InputError(
            f'the function gave the key "{taken}", which marks what a ledger keeps: '
            "call it otherwise"
        )


def _of_plain(value: dict[str, Any]) -> Any:
    if _SCHEMA in value:
        return _histogram(value)
    if value.keys() == {_ARRAY}:
        dtype, shape, items = value[_ARRAY]
        array = np.array(items, float if dtype == "float" else np.dtype(dtype)).reshape(shape)
        return float(array) if dtype == "float" else array
    return value


def _histogram(value: dict[str, Any]) -> Any:
    try:
        # Of this library if both are there: what fits templates, and boost-histogram's as well.
        return import_module("hist").Hist(import_module("uhi.io.json").object_hook(value))
    except ModuleNotFoundError:
        raise InputError("histograms are read by hist: install hepdask-ml[data]") from None
