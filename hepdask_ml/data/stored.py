"""Small documents on a disk or in a store: whole or not at all.

On a local or shared disk a document is written beside its place, made durable and then renamed;
stores that fsspec knows show it when all of it is there.  So a reader finds the one before or the
new one, whoever is killed and whoever writes at the same time.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from hepdask_ml.errors import HepdaskError, InputError, words

# Read-only stores of fsspec have not implemented writing.
_REFUSALS = (
    PermissionError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
)
_FAULTS = (OSError, NotImplementedError, RuntimeError, ValueError)


def read_text(where: str | Path) -> str | None:
    """Read a document.

    Parameters
    ----------
    where : str or Path
        A path, or a URL that fsspec knows.

    Returns
    -------
    str or None
        What it holds; None if there is none.

    Raises
    ------
    InputError
        If it may not be read, or is no text.

    Examples
    --------
    >>> write_text("memory://example/scan.json", "{}")
    >>> read_text("memory://example/scan.json")
    '{}'
    """
    system, path = _place(where)
    try:
        return str(system.cat_file(path).decode("utf-8"))
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise InputError(f"{where} is no text: give another name") from None
    except _FAULTS as error:
        raise InputError(
            f"{where} cannot be read ({_reason(error)}): give a file that may be read"
        ) from None


def write_text(where: str | Path, text: str) -> None:
    """Write a document, in place of the one that is there.

    Parameters
    ----------
    where : str or Path
        A path, or a URL that fsspec knows; folders are made.
    text : str
        What it is to hold.

    Raises
    ------
    InputError
        If it may not be written there.
    HepdaskError
        If it cannot be, for want of room or else; what was there is kept.
    """
    system, path = _place(where)
    try:
        if isinstance(system, LocalFileSystem):
            _write_local(Path(path), text.encode())
        else:
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.pipe_file(path, text.encode())
    except _REFUSALS as error:
        raise InputError(
            f"{where} cannot be written ({_reason(error)}): give a name where that is allowed"
        ) from None
    except _FAULTS as error:
        raise HepdaskError(
            f"{where} cannot be written ({_reason(error)}): look at the disk or the store"
        ) from None


def _write_local(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{token_hex(8)}.unfinished")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def _place(where: str | Path) -> tuple[Any, str]:
    try:
        system, path = fsspec.core.url_to_fs(str(where))
    except (ValueError, ImportError) as error:
        raise InputError(
            f"nothing can be kept in {where} ({words(error)}): give a file or another URL"
        ) from None
    return system, path


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or words(error)
