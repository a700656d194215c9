"""The folder through which the jobs of a batch site find their scheduler.

It is seen by the nodes.  Jobs are given its path and not the scheduler's address, so that jobs that
still wait in a queue when their driver is killed find the next one.  One driver at a time holds
it, by a lock that the operating system drops when the process ends.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hepdask_ml.errors import SiteError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SCHEDULER_FILE = "scheduler.json"
"""Tells workers the address."""

_LOCK = "lock"

_DRIVERS = 100
"""Drivers of the same site and settings at a time."""


@dataclass(frozen=True, slots=True)
class Session:
    """A held folder.

    Attributes
    ----------
    folder : Path
        Where it is.
    """

    folder: Path

    def announce(self, address: str) -> None:
        """Tell workers the address of the scheduler."""
        self._write(SCHEDULER_FILE, json.dumps({"address": address}))

    def keep_secrets(self, secrets: Mapping[str, str]) -> list[Path]:
        """Write certificates and keys into files that nobody else can read.

        Parameters
        ----------
        secrets : mapping of str to str
            Their texts by file name.

        Returns
        -------
        list of Path
            The files.
        """
        return [self._write(name, text) for name, text in secrets.items()]

    @property
    def jobs(self) -> dict[str, str]:
        """Names of workers, by ids of jobs that are not known to have ended."""
        with suppress(OSError, ValueError, AttributeError):
            found = json.loads((self.folder / "jobs.json").read_bytes())
            return {str(job): str(name) for job, name in found.items()}
        return {}

    def keep_jobs(self, jobs: Mapping[str, str]) -> None:
        """Remember jobs for the next driver."""
        self._write("jobs.json", json.dumps(dict(jobs)))

    def _write(self, name: str, text: str) -> Path:
        """Write a file whole or not at all, for this user alone."""
        path, new = self.folder / name, self.folder / f".{name}.new"
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        new.replace(path)
        return path


@contextmanager
def held(parent: Path, name: str) -> Iterator[Session]:
    """Hold the first folder of a name that no other driver holds.

    Parameters
    ----------
    parent : Path
        Where the folders are; made if need be.
    name : str
        What sites of the same settings share.

    Yields
    ------
    Session
        The folder; removed afterwards.

    Raises
    ------
    SiteError
        If it cannot be made or locked.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder, lock = _locked(parent, name)
    except OSError as error:
        raise SiteError(
            f"{parent} cannot be shared with the jobs ({error.strerror}): name a folder that this "
            "machine and the nodes can write to as options.shared"
        ) from None
    try:
        yield Session(folder)
    finally:
        _remove(folder)
        os.close(lock)


def _locked(parent: Path, name: str) -> tuple[Path, int]:
    for number in range(_DRIVERS):
        folder = parent / (f"{name}-{number}" if number else name)
        # Its last holder may be removing it: mkdir then says that it exists, or open that not.
        with suppress(FileNotFoundError, FileExistsError):
            folder.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            if _is_open_at(lock, folder / _LOCK):
                return folder, lock
            os.close(lock)
    raise SiteError(f"{_DRIVERS} drivers run with {parent / name}: end some of them")


def _remove(folder: Path) -> None:
    """Remove a held folder, its lock last: from then on what is in it may be the next holder's."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name != _LOCK:
                path.unlink()
        (folder / _LOCK).unlink()
        folder.rmdir()


def _is_open_at(lock: int, path: Path) -> bool:
    """Whether the file is still there: it may have been removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False
