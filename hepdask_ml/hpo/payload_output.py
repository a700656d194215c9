"""What payloads leave: metadata, metrics, and the end of what they said.

The names are those of the service of PanDA, which has the number of a job where ours has the
trial's: ``barrel.metrics.000007.tgz_0``.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import HepdaskError, WorkerFault
from hepdask_ml.hpo.commands import read_result
from hepdask_ml.hpo.payload_saving import contents
from hepdask_ml.hpo.values import shown

if TYPE_CHECKING:
    from hepdask_ml.training.context import Context

META_BYTES = 10**6
"""Length of the metadata at most, as the service has it."""

METRICS_BYTES = 2 * 10**9
"""Length of the metrics at most."""

_LOG_BYTES = 10**6


class Kept:
    """The folder for what payloads leave, and the names in it.

    Parameters
    ----------
    folder : Path
        The folder; it is made.
    context : Context
        The trial.

    Raises
    ------
    WorkerFault
        If this machine cannot make it.
    """

    def __init__(self, folder: Path, context: Context) -> None:
        self._folder, self._context = folder, context
        self._prefix = f"{context.segment}." if context.segment else ""
        self._number = context.number
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkerFault(
                f"the folder {folder} for what payloads leave cannot be made ({error.strerror}): "
                "give one that all workers can write, with -o"
            ) from None

    def log(self, log: Path) -> None:
        """Keep the end of what a payload said.

        Parameters
        ----------
        log : Path
            File with all of it.
        """
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
            content = file.read()
        self._write("log", ".txt", lambda path: path.write_bytes(content))

    def meta(self, path: Path) -> None:
        """Keep metadata, if there are any.

        Parameters
        ----------
        path : Path
            Their file.

        Raises
        ------
        HepdaskError
            If they are malformed, or too large.
        """
        with suppress(FileNotFoundError):
            found = read_result(path, META_BYTES, "the payload")
            if not isinstance(found, dict):
                raise HepdaskError(f"{path.name} holds {shown(found)}: metadata are a mapping")
            self._write("metadata", ".json", lambda to: copyfile(path, to))

    def metrics(self, path: Path, name: str) -> None:
        """Keep metrics, if there are any.

        Parameters
        ----------
        path : Path
            A file or a folder.
        name : str
            What it is called in the archive that it becomes.

        Raises
        ------
        HepdaskError
            If they are too large.
        """
        if not path.exists():
            return
        size = sum(size for _, size, _ in contents(path.parent, (path.name,)))
        if size > METRICS_BYTES:
            raise HepdaskError(
                f"{path.name} has {size:,} bytes, and {METRICS_BYTES:,} is the most: the payload "
                "has to write less into it"
            )

        def pack(to: Path) -> None:
            with tarfile.open(to, "w:gz") as archive:
                archive.add(path, name)

        self._write("metrics", ".tgz", pack)

    def _write(self, kind: str, suffix: str, make: Callable[[Path], Any]) -> None:
        """Make a file; nobody sees half of it, and no loss is lost where there is no room."""
        name = f"{self._prefix}{kind}.{self._number:06d}{suffix}_0"
        unfinished = self._folder / f".{name}.{os.getpid()}"
        try:
            make(unfinished)
            unfinished.replace(self._folder / name)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            note = f"{name} was not kept in {self._folder}: {error.strerror or error}"
            self._context.notes = (*self._context.notes, note)
