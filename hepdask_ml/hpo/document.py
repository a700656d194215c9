"""Files of other people: JSON or YAML, read with care."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hepdask_ml.config import read_yaml
from hepdask_ml.errors import InputError
from hepdask_ml.hpo.values import shown


def read_document(path: str | Path) -> Any:
    """Read a file of JSON, if that is how its name ends, or of YAML.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    Any
        What it holds: plain values, lists and mappings.

    Raises
    ------
    InputError
        If it cannot be read, is neither JSON nor YAML, or has a key twice.
    """
    place = Path(path)
    if place.suffix.lower() != ".json":
        document = read_yaml(place)
        if document is None:
            raise InputError(f"{path} is empty: fill it")
        return document
    try:
        text = place.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: give a YAML or JSON file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path} cannot be read ({reason}): check the name") from None
    if not text.strip():
        raise InputError(f"{path} is empty: fill it")
    return parse_json(text, str(path))


def parse_json(text: str, where: str) -> Any:
    """Read JSON as the standard has it: no NaN, no infinities, each key once.

    Parameters
    ----------
    text : str
        The JSON.
    where : str
        Where it is from, for messages.

    Returns
    -------
    Any
        What it holds.

    Raises
    ------
    InputError
        If it is something else.

    Examples
    --------
    >>> parse_json('{"lr": 1e-3}', "input.json")
    {'lr': 0.001}
    """
    try:
        return json.loads(
            text.removeprefix("\ufeff"), object_pairs_hook=_each_once, parse_constant=_no_number
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise InputError(f"{where} is not JSON ({place}): mend it there") from None
    except RecursionError:
        raise InputError(f"{where} is nested too deeply: a few levels are enough") from None
    except InputError as error:
        raise InputError(f"{where} {error}") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise InputError(f"{where} is not JSON ({error}): mend it there") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise InputError(f"has the key {shown(key)} twice: drop one of them")
        made[key] = value
    return made


def _no_number(name: str) -> Any:
    raise InputError(f"holds {name}: numbers must be finite")
