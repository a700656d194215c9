"""Values of parameters: what JSON can hold, and nothing else.

Trials live in the ledger and in the files of other people's programs, so a value is plain Python:
text, a finite number, true or false, None, or a list or a mapping of those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np

from hepdask_ml.errors import InputError

_LONGEST_SHOWN = 60


def plain(value: Any) -> Any:
    """Make a plain value of one that may hold scalars or arrays of numpy, or tuples.

    Parameters
    ----------
    value : Any
        What an optimiser or a user gave.

    Returns
    -------
    Any
        An equal value that JSON can hold; lists and mappings are copies.

    Raises
    ------
    InputError
        If it is something else, or holds NaN, an infinity, or a key that is no text.

    Examples
    --------
    >>> import numpy as np
    >>> plain((np.float64(0.5), np.int64(3), "adam"))
    [0.5, 3, 'adam']
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise InputError(f"{float(value)} is no value: numbers must be finite")
        return float(value)
    for kind in (int, str):
        if isinstance(value, kind):
            return kind(value)
    return _plain_of_many(value)


def _plain_of_many(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if not isinstance(value, Mapping):
        raise InputError(
            f"{shown(value)} is no value: give text, a number, true or false, or a list of those"
        )
    for key in value:
        if not isinstance(key, str):
            raise InputError(f"{shown(value)} has the key {shown(key)}: keys must be text")
    return {str(key): plain(item) for key, item in value.items()}


def identity(value: Any) -> str:
    """Give a text that plain values share only if they are the same one.

    To Python 1, 1.0 and True are equal; to a training script they are not.

    Parameters
    ----------
    value : Any
        A plain value.

    Returns
    -------
    str
        JSON, the keys sorted.

    Examples
    --------
    >>> identity(1), identity(1.0), identity(True)
    ('1', '1.0', 'true')
    """
    return json.dumps(value, sort_keys=True, allow_nan=False)


def shown(value: Any) -> str:
    """Show a value in a message, as JSON and not too long.

    Parameters
    ----------
    value : Any
        Any value.

    Returns
    -------
    str
        A line.

    Examples
    --------
    >>> shown("adam"), shown([1, None])
    ('"adam"', '[1, null]')
    """
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (TypeError, ValueError):
        text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."
