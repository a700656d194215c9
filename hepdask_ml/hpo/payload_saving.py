"""What is saved of a payload that may be cut short, and when.

The files that a payload names are looked at now and then.  If they have changed they become one
tarball, as a part of the trial's checkpoint; but they are given some time to come to rest, since
half of a file is no checkpoint.
"""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from hepdask_ml.errors import HepdaskError, words

if TYPE_CHECKING:
    from hepdask_ml.training.context import Context

LOG = logging.getLogger(__name__)

CHECKPOINT_BYTES = 5 * 10**8
"""Length of a checkpoint at most, as the service has it."""

INTERVAL_S = 300.0
"""Time between two looks."""

SETTLE_S = 1.0
"""Time for which the files must have been left alone."""

_LOOKS = 5
_PART = "payload"

Contents = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Saving:
    """What a payload wants to have saved.

    Attributes
    ----------
    names : tuple of str
        Files and folders; none if it saves nothing.
    tarball : str or None
        Where it wants to find the tarball again; the files themselves if None.
    interval_s : float
        Time between two looks, in seconds.
    """

    names: tuple[str, ...] = ()
    tarball: str | None = None
    interval_s: float = INTERVAL_S


class Saver:
    """Looks at the files that make up a checkpoint, and saves them when they have changed.

    Parameters
    ----------
    saving : Saving
        What is saved.
    work : Path
        The folder of the payload.
    tarball : Path
        Where to make the tarball.
    context : Context
        The trial.

    Attributes
    ----------
    saved : bool
        Whether anything was.
    """

    def __init__(self, saving: Saving, work: Path, tarball: Path, context: Context) -> None:
        self.saved = False
        self._saving, self._work, self._tarball = saving, work, tarball
        self._context = context
        self._known = self._contents()
        self._before: Contents | None = None
        self._looks = 0
        self._due = monotonic() + saving.interval_s

    def look(self) -> None:
        """Save what has changed, if it is time to, and once it has come to rest.

        What never comes to rest is saved as it is: it may consist of a log.
        """
        if not self._saving.names or monotonic() < self._due:
            return
        now = self._contents()
        if self._changed(now):
            resting = now == self._before
            if not resting and self._looks < _LOOKS:
                self._before, self._looks = now, self._looks + 1
                self._due = monotonic() + min(SETTLE_S, self._saving.interval_s)
                return
            self._save(now, resting=resting)
        self._before, self._looks = None, 0
        self._due = monotonic() + self._saving.interval_s

    def last(self, stop: Callable[[], bool]) -> None:
        """Stop the command; save what it has at rest before, and what it saves when it is told.

        If it was busy with its files, what it left of them may be torn: the checkpoint before
        stands.

        Parameters
        ----------
        stop : callable
            Stops it, and says whether it ended by itself.
        """
        before = self._contents()
        if self._changed(before):
            sleep(min(SETTLE_S, self._saving.interval_s))
        now = self._contents()
        resting = now == before
        if resting and self._changed(now):
            self._save(now)
        orderly = stop()
        now = self._contents()
        if resting and orderly and self._changed(now):
            self._save(now)

    def _contents(self) -> Contents:
        return contents(self._work, self._saving.names)

    def _changed(self, now: Contents) -> bool:
        return bool(now) and now != self._known

    def _save(self, now: Contents, *, resting: bool = True) -> None:
        """Save one tarball, if it can be; a payload that runs is worth more than its checkpoint."""
        size = sum(size for _, size, _ in now)
        if size > CHECKPOINT_BYTES:
            self._note(f"it has {size:,} bytes, and {CHECKPOINT_BYTES:,} is the most")
            return
        try:
            self._pack()
            if resting and self._contents() != now:
                return
            self._context.save(**{_PART: self._tarball})
        except (OSError, HepdaskError) as error:
            self._note(words(error))
            return
        self._known, self.saved = now, True

    def _pack(self) -> None:
        with tarfile.open(self._tarball, "w:gz", compresslevel=1) as archive:
            for name in self._saving.names:
                if (self._work / name).exists():
                    archive.add(self._work / name, name, filter=self._safe)

    def _safe(self, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """Leave out what will not be unpacked: devices, and links that lead away."""
        try:
            tarfile.data_filter(member, str(self._work))
        except tarfile.FilterError:
            return None
        return member

    def _note(self, why: str) -> None:
        note = f"a checkpoint of the payload was not saved: {why}"
        if note not in self._context.notes:
            self._context.notes = (*self._context.notes, note)
            LOG.warning("trial %d: %s", self._context.number, note)


def restore(saving: Saving, work: Path, context: Context) -> None:
    """Give a payload what its last attempt has saved.

    Parameters
    ----------
    saving : Saving
        What is saved of it.
    work : Path
        Its folder.
    context : Context
        The trial.

    Raises
    ------
    HepdaskError
        If it cannot be unpacked safely.
    """
    if not saving.names:
        return
    context.load()
    tarball = context.parts.get(_PART)
    if tarball is None:
        return
    if saving.tarball is not None:
        (work / saving.tarball).write_bytes(tarball)
        return
    try:
        with tarfile.open(fileobj=BytesIO(tarball), mode="r:gz") as archive:
            archive.extractall(work, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise HepdaskError(
            f"the payload's checkpoint cannot be unpacked ({error}): remove the checkpoint"
        ) from None


def contents(folder: Path, names: tuple[str, ...]) -> Contents:
    """List all files under some names.

    Parameters
    ----------
    folder : Path
        Where they are.
    names : tuple of str
        Of files and folders.

    Returns
    -------
    tuple of (str, int, int)
        Name, bytes and time of the last change in ns, by name.
    """
    found = []
    for name in names:
        top = folder / name
        paths = [top, *top.rglob("*")] if top.is_dir() else [top]
        for path in paths:
            with suppress(OSError):
                seen = path.lstat()
                if not path.is_dir():
                    found.append((str(path.relative_to(folder)), seen.st_size, seen.st_mtime_ns))
    return tuple(sorted(found))
