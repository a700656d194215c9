"""Checkpoints of one trial: whole or not at all, durable once saved, found out when damaged.

A *checkpoint* is the state of a trial after so many epochs, as named *parts*: bytes or files, of
which this module knows nothing.  It is one file, a tar archive that any tool opens: the parts, then
a manifest with the size and the digest of each.  The manifest is written last, so that a file which
ends too early has none, whatever the file system promises; what was changed later has other
digests.  On a local disk the file gets its name when it is whole and durable; an object store shows
it when it is whole.

Each save has a name that no other has, of epoch, serial number and a random token.  So writers of
one trial, such as a worker given up for lost and the one that took its place, never write into each
other's files, and all readers agree which one is the newest: the highest epoch, then the highest
serial number, which is above all that its writer saw.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from time import time
from typing import IO, Any, NamedTuple, Protocol, TypeAlias

import fsspec
from fsspec.implementations.local import LocalFileSystem

from hepdask_ml.errors import HepdaskError, InputError, words

LOG = logging.getLogger(__name__)

Part: TypeAlias = "bytes | bytearray | memoryview | Path"

MANIFEST = "manifest.json"
"""The last file in the archive."""

FORMAT = 1
"""Of the manifest."""

_NAME = re.compile(r"(\d{8,})-(\d{6,})-([0-9a-f]{16})")
_PART_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_SUFFIX = ".tar"
_UNFINISHED = ".unfinished"
_DIGEST_BYTES = 32
_CHUNK = 4 << 20
# Hashing falls behind writing by this many chunks at most: memory, where the part is a file.
_BEHIND = 16
_ROUNDS = 20
# Read-only stores of fsspec have not implemented writing.
_FAULTS = (OSError, NotImplementedError)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_THERE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
}  # fmt: skip
# Stores say it by the class alone.
_REFUSALS = (PermissionError, FileExistsError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a trial, as it was saved.

    Attributes
    ----------
    epoch : int
        Epochs that were done; the next one has this index.
    parts : mapping of str to bytes
        What was saved, by name.
    reference : str
        What `Checkpoints.save` gave.
    faults : tuple of str
        What is wrong with newer ones, for which this one stands in; a sentence for each.
    """

    epoch: int
    parts: Mapping[str, bytes]
    reference: str
    faults: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of one trial, as one writer or reader has them.

    Several may be at work on one trial at once, in other threads, processes and machines; each has
    an object of its own, which is not shared among threads.  A writer removes nothing but what was
    there when it last loaded (or first saved) and what it has saved since, and of that it keeps
    the newest ``keep`` and the one that it loaded: who is given the same epochs again, because it
    was lost, begins from that.

    Parameters
    ----------
    where : str or Path
        Folder or fsspec URL, of this trial alone; it is made with the first checkpoint.
    keep : int
        How many are kept, besides the one that was loaded.

    Attributes
    ----------
    where : str
        The same, in full.
    faults : tuple of str
        What was found wrong at the last load; a sentence for each damaged checkpoint.

    Raises
    ------
    InputError
        If nothing can be kept there, whatever happens: an unknown protocol, or one whose library is
        not installed.

    Examples
    --------
    >>> checkpoints = Checkpoints("memory://example/trial-7")
    >>> reference = checkpoints.save(3, {"weights": b"...", "state.json": b"{}"})
    >>> found = checkpoints.load()
    >>> found.epoch, found.parts["weights"]
    (3, b'...')
    >>> checkpoints.remove()
    """

    def __init__(self, where: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise InputError(f"keep is {keep}: at least one checkpoint has to be kept")
        self._place = _place(where)
        self.where = _without_password(str(self._place))
        self.faults: tuple[str, ...] = ()
        self._keep = keep
        self._known: set[_Name] = set()
        self._damaged: set[_Name] = set()
        self._loaded: _Name | None = None
        self._at_home = False

    def save(self, epoch: int, parts: Mapping[str, Part]) -> str:
        """Save the state of the trial; on return it is durable, and older ones were removed.

        Parameters
        ----------
        epoch : int
            Epochs that are done.
        parts : mapping of str to bytes-like or Path
            What makes up the state: contents, or files to be copied.  Names are file names of
            letters, digits, ``.``, ``_`` and ``-``.

        Returns
        -------
        str
            Its reference, for `read`; it holds wherever the folder is moved.

        Raises
        ------
        InputError
            If a part cannot be read, or nothing may be written there.
        HepdaskError
            If it could not be written, for want of room or else.  In either case nothing was
            removed.
        """
        _check(epoch, parts)
        try:
            if not self._at_home:
                self._known |= self._names()
                self._place.clean()
                self._at_home = True
            serial = 1 + max((name.serial for name in self._known), default=0)
            name = _Name(epoch, serial, token_hex(8))
            with self._place.writing(name.file) as (file, settle):
                _pack(file, epoch, parts, settle)
        except _FAULTS as error:
            what = f"the checkpoint of epoch {epoch} cannot be written to {self.where}"
            raise _failure(what, error, "those before it are kept") from None
        self._known.add(name)
        self._retire(name)
        return name.reference

    def load(self, at_most: int | None = None) -> Checkpoint | None:
        """Give the newest checkpoint that is sound.

        One that is damaged, or cannot be read for now, is passed over for the one before: a warning
        is logged, and the result says so.

        Parameters
        ----------
        at_most : int, optional
            Pass over those of later epochs.

        Returns
        -------
        Checkpoint or None
            None if there is none, or all are damaged; then `faults` says so.

        Raises
        ------
        InputError
            If nothing may be read there.
        HepdaskError
            If none could be read, and some of them may be sound.
        """
        found, before = None, None
        for _ in range(_ROUNDS):
            try:
                self._known = self._names()
            except OSError as error:
                raise _failure(f"the checkpoints in {self.where} cannot be read", error) from None
            if self._known == before:
                break  # what is gone is no more than a name
            found, gone = self._newest(at_most)
            if not gone:
                break
            # It made room for a newer one, meanwhile.
            before = self._known
        else:
            if found is None:
                raise HepdaskError(
                    f"the checkpoints in {self.where} change faster than they can be read: see who "
                    "else writes there"
                )
        end = f"training goes on from epoch {found.epoch}" if found else "training starts anew"
        for fault in self.faults:
            LOG.warning("%s: %s", fault, end)
        return found

    def read(self, reference: str) -> Checkpoint:
        """Give a certain checkpoint.

        Parameters
        ----------
        reference : str
            What `save` gave.

        Returns
        -------
        Checkpoint
            The state that was saved.

        Raises
        ------
        InputError
            If this is no reference, or nothing may be read there.
        HepdaskError
            If the checkpoint was removed, is damaged, or cannot be read.
        """
        name = _Name.parse(reference)
        if name is None:
            raise InputError(f"{reference!r} is no reference of a checkpoint: give what save gave")
        try:
            return Checkpoint(name.epoch, self._parts(name), reference)
        except FileNotFoundError:
            raise HepdaskError(
                f"there is no checkpoint {reference} in {self.where}: it was removed, or the trial "
                "is another"
            ) from None
        except _Damaged as error:
            raise HepdaskError(f"{self._fault(name, error)}: take another one") from None
        except OSError as error:
            raise _failure(
                f"checkpoint {reference} of {self.where} cannot be read", error
            ) from None

    def remove(self) -> None:
        """Remove all checkpoints and what killed writers left, then the folder if nothing is left.

        Raises
        ------
        InputError, HepdaskError
            If something cannot be removed.
        """
        try:
            for name in self._names():
                with suppress(FileNotFoundError):
                    self._place.delete(name.file)
            self._place.leave()
        except _FAULTS as error:
            raise _failure(f"the checkpoints in {self.where} cannot be removed", error) from None
        self._known, self._damaged, self._loaded = set(), set(), None

    def _names(self) -> set[_Name]:
        return {name for file in self._place.files() if (name := _Name.of_file(file))}

    def _newest(self, at_most: int | None) -> tuple[Checkpoint | None, bool]:
        """Give the newest sound one of those known, and whether one of them is there no more."""
        faults: list[str] = []
        gone, unreadable = False, None
        for name in sorted(self._known, reverse=True):
            if at_most is not None and name.epoch > at_most:
                continue
            try:
                parts = self._parts(name)
            except FileNotFoundError:
                gone = True
                continue
            except _Damaged as error:
                self._damaged.add(name)
                faults.append(self._fault(name, error))
                continue
            except OSError as error:
                unreadable = unreadable or error
                faults.append(self._fault(name, error))
                continue
            self._loaded = name
            self.faults = tuple(faults)
            return Checkpoint(name.epoch, parts, name.reference, self.faults), gone
        self.faults = tuple(faults)
        if unreadable:
            raise _failure(f"the checkpoints in {self.where} cannot be read", unreadable)
        return None, gone

    def _parts(self, name: _Name) -> dict[str, bytes]:
        with self._place.reading(name.file) as file:
            return _unpack(file, name.epoch)

    def _fault(self, name: _Name, error: Exception) -> str:
        state = "is damaged" if isinstance(error, _Damaged) else "cannot be read"
        return f"the checkpoint of epoch {name.epoch} in {self.where} {state} ({_reason(error)})"

    def _retire(self, newest: _Name) -> None:
        """Remove what the newest one, which is durable, makes superfluous."""
        last = {name.epoch: name for name in sorted(self._known - self._damaged)}
        before = [last[epoch] for epoch in sorted(last, reverse=True) if epoch < newest.epoch]
        spared = {newest, self._loaded, *before[: self._keep - 1]}
        past = {name for name in self._known if name.epoch <= newest.epoch}
        for name in (past | self._damaged) - spared:
            self._known.discard(name)
            self._damaged.discard(name)
            try:
                self._place.delete(name.file)
            except FileNotFoundError:
                pass
            except OSError as error:
                LOG.warning("%s stays in %s (%s)", name.file, self.where, _reason(error))


class _Name(NamedTuple):
    """Names of checkpoints; they rise from the oldest to the newest."""

    epoch: int
    serial: int
    token: str

    @classmethod
    def parse(cls, reference: str) -> _Name | None:
        found = _NAME.fullmatch(reference)
        return cls(int(found[1]), int(found[2]), found[3]) if found else None

    @classmethod
    def of_file(cls, file: str) -> _Name | None:
        return cls.parse(file.removesuffix(_SUFFIX)) if file.endswith(_SUFFIX) else None

    @property
    def reference(self) -> str:
        return f"{self.epoch:08d}-{self.serial:06d}-{self.token}"

    @property
    def file(self) -> str:
        return f"{self.reference}{_SUFFIX}"


class _Damaged(HepdaskError):
    """A checkpoint is not what was saved."""


class _Place(Protocol):
    """Where the files of a trial are kept; errors are those of the system."""

    def files(self) -> list[str]:
        """List what is there; nothing where the place itself is not."""

    def reading(self, file: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file."""

    def writing(self, file: str) -> AbstractContextManager[tuple[IO[bytes], Callable[[], None]]]:
        """Give a new file, which is durable at the end of the block, or else is not there at all.

        What comes with it makes durable what was written so far, where that can be done.
        """

    def delete(self, file: str) -> None:
        """Remove a file."""

    def clean(self) -> None:
        """Remove what killed writers left unfinished."""

    def leave(self) -> None:
        """Remove all that was left unfinished, then the place if it is empty."""


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder of a local or shared disk.

    An unfinished file has another name, and its writer holds a lock on it, by which it is told from
    those that killed writers left.  On a file system without locks these stay until the end.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def files(self) -> list[str]:
        try:
            return [path.name for path in self.path.iterdir()]
        except FileNotFoundError:
            return []

    def reading(self, file: str) -> IO[bytes]:
        return (self.path / file).open("rb")

    @contextmanager
    def writing(self, file: str) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
        self._make()
        unfinished = self.path / f".{file}{_UNFINISHED}"
        try:
            with unfinished.open("xb") as opened:
                with suppress(OSError):
                    fcntl.flock(opened, fcntl.LOCK_EX)

                def settle() -> None:
                    opened.flush()
                    os.fsync(opened.fileno())

                yield opened, settle
                settle()
                # With the lock: those who clean up take what has none for a leftover.
                unfinished.replace(self.path / file)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
        _sync(self.path)

    def delete(self, file: str) -> None:
        (self.path / file).unlink()

    def clean(self) -> None:
        for left in self._unfinished():
            with suppress(OSError), left.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # An empty one may be so new that its writer has no lock yet.
                if os.fstat(file.fileno()).st_size:
                    left.unlink()

    def leave(self) -> None:
        for left in self._unfinished():
            left.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    def _unfinished(self) -> list[Path]:
        return [
            self.path / file
            for file in self.files()
            if file.endswith(_UNFINISHED)
            and _Name.of_file(file.removeprefix(".").removesuffix(_UNFINISHED))
        ]

    def _make(self) -> None:
        """Make the folder, durably: a file is lost with the name of its folder."""
        missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        for path in missing:
            _sync(path.parent)


@dataclass(frozen=True, slots=True)
class _Objects:
    """A prefix of an object store, or whatever else fsspec knows.

    What the store shows before it is whole has no manifest yet.
    """

    system: Any
    path: str

    def __str__(self) -> str:
        return str(self.system.unstrip_protocol(self.path))

    def files(self) -> list[str]:
        with _errors_of_store():
            self.system.invalidate_cache(self.path)
            try:
                listed = self.system.ls(self.path, detail=False)
            except FileNotFoundError:
                return []
        return [str(path).rpartition("/")[2] for path in listed]

    @contextmanager
    def reading(self, file: str) -> Iterator[IO[bytes]]:
        with _errors_of_store(), self.system.open(f"{self.path}/{file}", "rb") as opened:
            yield opened

    @contextmanager
    def writing(self, file: str) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
        try:
            with _errors_of_store():
                self.system.makedirs(self.path, exist_ok=True)
                with self.system.open(f"{self.path}/{file}", "wb") as opened:
                    yield opened, lambda: None
        except BaseException:
            # To close the file has stored what there was of it.
            with suppress(*_FAULTS):
                self.delete(file)
            raise

    def delete(self, file: str) -> None:
        with _errors_of_store():
            self.system.rm_file(f"{self.path}/{file}")

    def clean(self) -> None:
        """Nothing is left but files without manifest, which have the names of checkpoints."""

    def leave(self) -> None:
        """There are no folders, and to ask for their removal may remove a whole bucket."""


def _place(where: str | Path) -> _Place:
    try:
        system, path = fsspec.core.url_to_fs(str(where))
    except (ValueError, ImportError) as error:
        raise InputError(
            f"checkpoints cannot be kept in {_without_password(str(where))} ({words(error)}): give "
            "a folder or another URL"
        ) from None
    if isinstance(system, LocalFileSystem):
        return _Folder(Path(path))
    return _Objects(system, path.rstrip("/"))


@contextmanager
def _errors_of_store() -> Iterator[None]:
    """Turn what the library of a store raises into an error of the system."""
    try:
        yield
    except (*_FAULTS, HepdaskError, MemoryError):
        raise
    except Exception as error:
        # Each library has classes of its own; most of them come as OSError, some do not.
        raise OSError(words(error)) from error


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot, and do it with the file.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _check(epoch: int, parts: Mapping[str, Part]) -> None:
    if epoch < 0:
        raise InputError(f"epoch is {epoch}: it counts the epochs that are done")
    for name, part in parts.items():
        if not _PART_NAME.fullmatch(name) or name == MANIFEST:
            raise InputError(
                f"a part of a checkpoint is called {name!r}: use letters, digits, '.', '_' and '-' "
                f"(100 at most, '{MANIFEST}' is taken)"
            )
        if not isinstance(part, (bytes, bytearray, memoryview, Path)):
            raise InputError(
                f'part "{name}" of a checkpoint is of type {type(part).__name__}: give bytes or a '
                "Path"
            )


def _pack(
    file: IO[bytes], epoch: int, parts: Mapping[str, Part], settle: Callable[[], None]
) -> None:
    """Write the archive; another thread makes the digests while this one writes and settles."""
    entries: dict[str, Any] = {}
    with ThreadPoolExecutor(1) as hashing:
        digests = {}
        behind: deque[Future[None]] = deque()
        for name, part in parts.items():
            digests[name] = blake2b(digest_size=_DIGEST_BYTES)
            with _opened(name, part) as (size, chunks):
                file.write(_header(name, size))
                for chunk in chunks:
                    behind.append(hashing.submit(digests[name].update, chunk))
                    file.write(chunk)
                    if len(behind) > _BEHIND:
                        behind.popleft().result()
            file.write(_padding(size))
            entries[name] = {"size": size}
        settle()
    for name, digest in digests.items():
        entries[name]["blake2b"] = digest.hexdigest()
    manifest = json.dumps({"format": FORMAT, "epoch": epoch, "parts": entries}, indent=1).encode()
    file.write(_header(MANIFEST, len(manifest)) + manifest + _padding(len(manifest)))
    file.write(bytes(2 * tarfile.BLOCKSIZE))


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = size, int(time())
    return entry.tobuf()


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


@contextmanager
def _opened(name: str, part: Part) -> Iterator[tuple[int, Iterator[bytes | memoryview]]]:
    """Give the size of a part and its contents, piece by piece."""
    if not isinstance(part, Path):
        view = memoryview(part).cast("B")
        yield view.nbytes, (view[i : i + _CHUNK] for i in range(0, view.nbytes, _CHUNK))
        return
    try:
        opened = part.open("rb")
    except OSError as error:
        raise InputError(
            f'part "{name}" of a checkpoint, {part}, cannot be read ({_reason(error)}): check the '
            "name"
        ) from None
    with opened:
        size = os.fstat(opened.fileno()).st_size
        yield size, _pieces(opened, size, f'part "{name}" of a checkpoint, {part},')


def _pieces(opened: IO[bytes], size: int, what: str) -> Iterator[bytes]:
    while size:
        piece = opened.read(min(size, _CHUNK))
        if not piece:
            raise InputError(f"{what} became shorter while it was saved: save it when it is whole")
        size -= len(piece)
        yield piece


def _unpack(file: IO[bytes], epoch: int) -> dict[str, bytes]:
    """Read an archive and hold its parts against its manifest."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive.getmembers():
                file.seek(member.offset_data)
                contents[member.name] = file.read(member.size)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise _Damaged(words(error)) from None
    if MANIFEST not in contents:
        raise _Damaged("its end is missing")
    try:
        manifest = json.loads(contents.pop(MANIFEST))
    except (ValueError, RecursionError):
        raise _Damaged("its manifest cannot be read") from None
    entries = {
        name: {
            "size": len(content),
            "blake2b": blake2b(content, digest_size=_DIGEST_BYTES).hexdigest(),
        }
        for name, content in contents.items()
    }
    if manifest != {"format": FORMAT, "epoch": epoch, "parts": entries}:
        raise _Damaged(_difference(manifest, entries))
    return contents


def _difference(manifest: Any, entries: Mapping[str, Any]) -> str:
    known = manifest.get("parts") if isinstance(manifest, dict) else None
    if isinstance(known, dict) and known.keys() == entries.keys():
        for name, entry in entries.items():
            if known[name] != entry:
                return f'part "{name}" is not what was saved'
    return "its manifest is of another checkpoint"


def _failure(what: str, error: Exception, comfort: str = "") -> HepdaskError:
    """Put an error of the system into words; its class says whose turn it is."""
    kind: type[HepdaskError] = HepdaskError
    advice = "look at the disk or the store"
    number = getattr(error, "errno", None)
    if number in _NO_ROOM:
        advice = "make room there"
    elif number in _NOT_THERE or isinstance(error, _REFUSALS):
        kind, advice = InputError, "give a folder that may be read and written"
    return kind("; ".join(filter(None, [f"{what} ({_reason(error)}): {advice}", comfort])))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or words(error)


def _without_password(where: str) -> str:
    return re.sub(r"//[^/@]*@", "//", where)
