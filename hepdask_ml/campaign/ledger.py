"""The durable book of a campaign: one SQLite file with one writer, and all SQL.

It keeps facts: the units that were planned, the blocks that were done with their results, the
errors.  What is lent at the moment is no fact.  The done ranges of a unit never overlap, which the
book itself checks; a done block never changes.

SQLite's rollback journal is used, not its write-ahead log, whose shared memory breaks on network
file systems.  A lock file beside the ledger names the one driver that writes; where a file system
does not honour such locks, the *writer* row makes the older driver stop at its next transaction.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import defaultdict
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from socket import gethostname
from time import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from zlib import crc32

from hepdask_ml.campaign.pool import Committed
from hepdask_ml.campaign.unit import Record, Unit
from hepdask_ml.errors import CampaignError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from hepdask_ml.campaign.pool import Event

    Cut = Callable[[bytes, int, int], bytes]

SCHEMA = 1
MEMORY = ":memory:"
_APPLICATION = 0x68706D6C
"""SQLite's application id, by which a file is known as a ledger."""

_BUSY_S = 30.0

_TABLES = """
CREATE TABLE identity (
    schema INTEGER NOT NULL, campaign TEXT NOT NULL, kind TEXT NOT NULL, content TEXT NOT NULL,
    configuration TEXT NOT NULL, facts TEXT NOT NULL, version TEXT NOT NULL, seeds TEXT NOT NULL,
    made REAL NOT NULL
);
CREATE TABLE writer (token TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL);
CREATE TABLE unit (
    id INTEGER PRIMARY KEY, seed INTEGER NOT NULL, key TEXT NOT NULL, total INTEGER NOT NULL,
    spec TEXT NOT NULL, title TEXT NOT NULL, grain INTEGER NOT NULL, ordered INTEGER NOT NULL,
    done INTEGER NOT NULL DEFAULT 0, error TEXT, UNIQUE (seed, key)
);
CREATE TABLE block (
    unit INTEGER NOT NULL REFERENCES unit (id), start INTEGER NOT NULL, stop INTEGER NOT NULL,
    checksum INTEGER NOT NULL, worker TEXT NOT NULL, seconds REAL NOT NULL, at REAL NOT NULL,
    result BLOB NOT NULL, PRIMARY KEY (unit, start)
);
CREATE TABLE failure (
    unit INTEGER NOT NULL REFERENCES unit (id), start INTEGER NOT NULL, stop INTEGER NOT NULL,
    error TEXT NOT NULL, worker TEXT NOT NULL, at REAL NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a ledger is of; work of another identity is never mixed with it.

    Attributes
    ----------
    kind : str
        Kind of campaign.
    content : str
        Digest of what is worked on.
    configuration : dict
        The settings that decide what comes out, as JSON can hold them.
    version : str
        Of this package.
    seeds : tuple of int
        The seed; several in a merged ledger.
    """

    kind: str
    content: str
    configuration: Mapping[str, Any]
    version: str
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is.

    Attributes
    ----------
    done, total : int
        Steps of the units that were planned so far.
    blocks, failures : int
        Blocks done, and errors in blocks.
    worker_s : float
        Time that workers spent on the blocks, in seconds.
    first, last : float or None
        Unix time at which the first and the last block was written.
    """

    done: int
    total: int
    blocks: int
    failures: int
    worker_s: float
    first: float | None
    last: float | None


class Ledger:
    """A book of units, blocks and errors; made by `open_ledger` and `read_ledger`.

    Several processes may read it while one writes.  An instance is used from one thread at a time.

    Attributes
    ----------
    path : str
        Its file, or ``":memory:"``.
    identity : Identity
        What it is of.
    campaign : str
        Name of this very ledger.
    facts : dict
        What the kind of campaign wants to know again when it reads the ledger alone.
    """

    def __init__(self, path: str, connection: sqlite3.Connection, lock: _Lock | None) -> None:
        self.path = path
        self._db = connection
        self._lock = lock
        self._token = uuid4().hex
        self._records: dict[int, Record] = {}
        self._versions: dict[int, tuple[int, int, int, str | None]] = {}
        row = self._one(
            "SELECT kind, content, configuration, version, seeds, campaign, facts, schema "
            "FROM identity"
        )
        if row[7] != SCHEMA:
            raise InputError(
                f"{path} is a ledger of format {row[7]}, this version reads format {SCHEMA}: "
                f"use hepdask-ml {row[3]}"
            )
        self.identity = Identity(
            row[0], row[1], json.loads(row[2]), row[3], tuple(json.loads(row[4]))
        )
        self.campaign = str(row[5])
        self.facts: dict[str, Any] = json.loads(row[6])

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and let another driver write it."""
        self._db.close()
        if self._lock is not None:
            self._lock.release()

    def copy(self) -> Ledger:
        """Give a copy in memory as it stands, for another thread to read."""
        connection = _connected(self.path, MEMORY)
        with _sentences(self.path):
            self._db.backup(connection)
        return Ledger(self.path, connection, None)

    def records(self) -> list[Record]:
        """Give every unit, in the order in which they were planned."""
        now = self._all("SELECT id, total, done, error FROM unit ORDER BY id")
        # Of thousands of units few have changed since the last look.
        changed = [row[0] for row in now if self._versions.get(row[0]) != row]
        for unit in changed:
            self._records[unit] = self._record(unit)
        self._versions = {row[0]: row for row in now}
        return [self._records[row[0]] for row in now]

    def _record(self, unit: int) -> Record:
        key, total, spec, title, grain, ordered, seed, done, error = self._one(
            "SELECT key, total, spec, title, grain, ordered, seed, done, error FROM unit "
            "WHERE id = ?",
            (unit,),
        )
        of = Unit(key, total, json.loads(spec), title, grain, bool(ordered))
        return Record(of, seed, done, error)

    def results(self, key: str, seed: int | None = None) -> list[tuple[int, int, bytes]]:
        """Give ``(start, stop, result)`` of the blocks of a unit, by rising start.

        Parameters
        ----------
        key : str
            The unit.
        seed : int, optional
            Its seed; the first one of the ledger if not given.

        Returns
        -------
        list of (int, int, bytes)
            The blocks.

        Raises
        ------
        InputError
            If a result is not what was written.
        """
        rows = self._all(
            "SELECT start, stop, result, checksum FROM block JOIN unit ON unit.id = block.unit "
            "WHERE key = ? AND seed = ? ORDER BY start",
            (key, self.identity.seeds[0] if seed is None else seed),
        )
        for start, stop, result, checksum in rows:
            if crc32(result) != checksum:
                raise InputError(
                    f"{self.path} is damaged in steps {start} to {stop} of {key}: restore it from "
                    "a copy, or start a new ledger"
                )
        return [(start, stop, result) for start, stop, result, _ in rows]

    def done_ranges(self) -> dict[str, list[tuple[int, int]]]:
        """Give the done ranges of each unit, by rising start; those that touch are joined."""
        ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
        rows = self._all(
            "SELECT key, start, stop FROM block JOIN unit ON unit.id = block.unit "
            "ORDER BY unit, start"
        )
        for key, start, stop in rows:
            parts = ranges[key]
            if parts and parts[-1][1] == start:
                parts[-1] = parts[-1][0], stop
            else:
                parts.append((start, stop))
        return ranges

    def failures(self) -> list[tuple[str, str, str]]:
        """Give title of the unit, error and worker of everything that went wrong."""
        return self._all(
            "SELECT title, failure.error, worker FROM failure JOIN unit ON unit.id = unit "
            "ORDER BY failure.rowid"
        )

    def progress(self) -> Progress:
        """Give how far the campaign is."""
        done, total = self._one("SELECT TOTAL(done), TOTAL(total) FROM unit")
        blocks = self._one("SELECT COUNT(*), TOTAL(seconds), MIN(at), MAX(at) FROM block")
        (failures,) = self._one("SELECT COUNT(*) FROM failure")
        return Progress(int(done), int(total), blocks[0], failures, *blocks[1:])

    def paces(self) -> list[tuple[str, int, float]]:
        """Give the steps and seconds of each worker, in the order of their names."""
        return self._all(
            "SELECT worker, SUM(stop - start), TOTAL(seconds) FROM block GROUP BY worker "
            "ORDER BY worker"
        )

    def add(self, units: Sequence[Unit]) -> None:
        """Write units down, all or none; one that is known may grow.

        Parameters
        ----------
        units : sequence of Unit
            The units.
        """
        seed = self.identity.seeds[0]
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO unit (seed, key, total, spec, title, grain, ordered) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (seed, key) DO UPDATE SET total = MAX(total, excluded.total)",
                [_unit_row(unit, seed) for unit in units],
            )

    def write(self, events: Iterable[Event]) -> None:
        """Write down what happened, all or nothing; what is written already is passed over.

        Parameters
        ----------
        events : iterable of Committed or Failed
            From the pool.

        Raises
        ------
        CampaignError
            If the disk is full, the ledger has got another writer, or a block overlaps another.
        """
        seed, now = self.identity.seeds[0], time()
        with self._transaction() as db:
            for event in events:
                known = db.execute(
                    "SELECT id FROM unit WHERE seed = ? AND key = ? AND total >= ?",
                    (seed, event.key, event.stop),
                ).fetchone()
                if known is None:  # the pool served a newer copy of this ledger
                    continue
                (unit,) = known
                if isinstance(event, Committed):
                    self._write_block(db, unit, event, now)
                    continue
                db.execute(
                    "INSERT INTO failure VALUES (?, ?, ?, ?, ?, ?)",
                    (unit, event.start, event.stop, event.error, event.worker, now),
                )
                if event.final:
                    db.execute("UPDATE unit SET error = ? WHERE id = ?", (event.error, unit))

    def retry(self) -> None:
        """Take up the units again that were given up."""
        with self._transaction() as db:
            db.execute("UPDATE unit SET error = NULL")

    def absorb(self, other: Ledger, cut: Cut) -> int:
        """Take what another ledger has and this one has not, all or nothing.

        Blocks of the same seed are the same work and join; those of another seed stand beside them.

        Parameters
        ----------
        other : Ledger
            Of the same identity, but for the seed.
        cut : callable
            ``cut(result, start, stop)`` gives a part of a result, in steps from its beginning.

        Returns
        -------
        int
            Steps that are new; none if it was merged before.

        Raises
        ------
        InputError
            If it is a ledger of something else, or damaged.
        """
        difference = differing(other.identity, self.identity)
        if difference is not None:
            raise InputError(
                f"{other.path} is a ledger with {difference}: it cannot be merged with the others"
            )
        new = 0
        with self._transaction() as db:
            for record in other.records():
                unit = self._same_unit(db, record, other.path)
                new += self._absorb_blocks(db, unit, other._blocks(record), cut)
            seeds = tuple(sorted({*self.identity.seeds, *other.identity.seeds}))
            db.execute("UPDATE identity SET seeds = ?", (json.dumps(seeds),))
        self.identity = replace(self.identity, seeds=seeds)
        return new

    def _same_unit(self, db: sqlite3.Connection, record: Record, path: str) -> int:
        row = _unit_row(record.unit, record.seed)
        db.execute(
            "INSERT INTO unit (seed, key, total, spec, title, grain, ordered) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (seed, key) DO UPDATE SET total = MAX(total, excluded.total)",
            row,
        )
        unit, spec = db.execute(
            "SELECT id, spec FROM unit WHERE seed = ? AND key = ?", row[:2]
        ).fetchone()
        if spec != row[3]:
            raise InputError(
                f"{path} has {record.unit.title or record.unit.key} with other parameters, maybe "
                "from another kind of processor: it cannot be merged with the others"
            )
        return int(unit)

    def _absorb_blocks(
        self, db: sqlite3.Connection, unit: int, blocks: Sequence[Any], cut: Cut
    ) -> int:
        have = db.execute(
            "SELECT start, stop FROM block WHERE unit = ? ORDER BY start", (unit,)
        ).fetchall()
        new = 0
        for start, stop, result, worker, seconds, at in blocks:
            for low, high in _gaps(have, start, stop):
                part = cut(result, low - start, high - start)
                share = (high - low) / (stop - start)
                db.execute(
                    "INSERT INTO block VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (unit, low, high, crc32(part), worker, share * seconds, at, part),
                )
                new += high - low
        db.execute(
            "UPDATE unit SET done = done + ?, error = CASE WHEN done + ? = total THEN NULL ELSE "
            "error END WHERE id = ?",
            (new, new, unit),
        )
        return new

    def _blocks(self, record: Record) -> list[Any]:
        """Blocks of a unit with all that is known of them; their results are checked."""
        about = self._all(
            "SELECT worker, seconds, at FROM block JOIN unit ON unit.id = block.unit "
            "WHERE key = ? AND seed = ? ORDER BY start",
            (record.unit.key, record.seed),
        )
        results = self.results(record.unit.key, record.seed)
        return [(*result, *facts) for result, facts in zip(results, about, strict=True)]

    def _write_block(self, db: sqlite3.Connection, unit: int, event: Committed, now: float) -> None:
        overlap = db.execute(
            "SELECT start, stop FROM block WHERE unit = ? AND start < ? ORDER BY start DESC",
            (unit, event.stop),
        ).fetchone()
        if overlap == (event.start, event.stop):
            return
        if overlap is not None and overlap[1] > event.start:
            raise CampaignError(
                f"{self.path} has steps {overlap[0]} to {overlap[1]} of {event.key} already: run "
                "again, what is there counts"
            )
        db.execute(
            "INSERT INTO block VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                unit, event.start, event.stop, crc32(event.result), event.worker, event.seconds,
                now, event.result,
            ),
        )  # fmt: skip
        db.execute("UPDATE unit SET done = done + ? WHERE id = ?", (event.stop - event.start, unit))

    def take_over(self, facts: Mapping[str, Any]) -> None:
        """Become the one writer, and keep the newest facts."""
        self.facts = dict(facts)
        with _sentences(self.path), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("UPDATE identity SET facts = ?", (json.dumps(self.facts),))
            self._db.execute("DELETE FROM writer")
            self._db.execute(
                "INSERT INTO writer VALUES (?, ?, ?)", (self._token, gethostname(), os.getpid())
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _sentences(self.path), self._db as db:
            db.execute("BEGIN IMMEDIATE")
            token, host, pid = db.execute("SELECT token, host, pid FROM writer").fetchone()
            if token != self._token:
                raise CampaignError(
                    f"{self.path} was taken over by process {pid} on {host}: this one stops"
                )
            yield db

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with _sentences(self.path):
            return self._db.execute(query, values).fetchall()

    def _one(self, query: str, values: Sequence[Any] = ()) -> Any:
        with _sentences(self.path):
            return self._db.execute(query, values).fetchone()


def open_ledger(
    path: str | Path,
    identity: Identity,
    facts: Mapping[str, Any] | None = None,
    *,
    several_seeds: bool = False,
) -> Ledger:
    """Open a ledger for writing; make it if there is none.

    Parameters
    ----------
    path : str or Path
        Its file, or ``":memory:"``.
    identity : Identity
        What it has to be of.
    facts : dict, optional
        Kept in the ledger, as JSON can hold them.
    several_seeds : bool
        Whether it may be of other seeds; then it can be read and merged, and not run.

    Returns
    -------
    Ledger
        The ledger, of which this process is the one writer.

    Raises
    ------
    InputError
        If the file is no ledger, damaged, of another identity, or cannot be written.
    CampaignError
        If another process writes it.
    """
    name = str(path)
    target = name if name == MEMORY else f"{Path(name).absolute().as_uri()}?mode=rwc"
    with ExitStack() as undo:
        lock = None if name == MEMORY else _Lock(Path(name))
        if lock is not None:
            undo.callback(lock.release)
        connection = undo.enter_context(closing(_connected(name, target)))
        _prepare(connection, name, identity)
        ledger = Ledger(name, connection, lock)
        _check_identity(ledger, identity, several_seeds=several_seeds)
        ledger.take_over(facts or {})
        undo.pop_all()
    return ledger


def merge_ledgers(out: str | Path, sources: Sequence[str | Path], cut: Cut) -> tuple[Ledger, int]:
    """Join ledgers of one identity, or of several that differ by the seed alone.

    Parameters
    ----------
    out : str or Path
        File of the ledger that takes them; made if it is not there.
    sources : sequence of str or Path
        Files of the others, which stay as they are.
    cut : callable
        As in `Ledger.absorb`.

    Returns
    -------
    ledger : Ledger
        The joint ledger.
    new : int
        Steps that it did not have before.

    Raises
    ------
    InputError
        If one is a ledger of something else, or damaged; those before it are merged already.
    CampaignError
        If ``out`` is being written by another process, or cannot be written.
    """
    with ExitStack() as reading:
        ledgers = [reading.enter_context(read_ledger(source)) for source in sources]
        for ledger in ledgers[1:]:
            difference = differing(ledger.identity, ledgers[0].identity)
            if difference is not None:
                raise InputError(
                    f"{ledger.path} is a ledger with {difference}: it cannot be merged with "
                    f"{ledgers[0].path}"
                )
        joint = open_ledger(out, ledgers[0].identity, ledgers[0].facts, several_seeds=True)
        try:
            return joint, sum(joint.absorb(ledger, cut) for ledger in ledgers)
        except BaseException:
            joint.close()
            raise


def _gaps(have: Sequence[tuple[int, int]], start: int, stop: int) -> list[tuple[int, int]]:
    """Parts of a range that are in none of some others, which rise."""
    gaps = []
    for low, high in have:
        if high <= start:
            continue
        if low >= stop:
            break
        if start < low:
            gaps.append((start, low))
        start = max(start, high)
    if start < stop:
        gaps.append((start, stop))
    return gaps


def read_ledger(path: str | Path) -> Ledger:
    """Open a ledger for reading, while it may be written.

    Parameters
    ----------
    path : str or Path
        Its file.

    Returns
    -------
    Ledger
        The ledger.

    Raises
    ------
    InputError
        If there is none, or it is damaged.
    """
    name = str(path)
    if not Path(name).is_file():
        raise InputError(f"{name} is not there: give the file of a ledger")
    with ExitStack() as undo:
        target = f"{Path(name).absolute().as_uri()}?mode=ro"
        connection = undo.enter_context(closing(_connected(name, target)))
        _check_format(connection, name)
        ledger = Ledger(name, connection, None)
        undo.pop_all()
    return ledger


def _connected(name: str, target: str) -> sqlite3.Connection:
    with _sentences(name):
        return sqlite3.connect(
            target,
            timeout=_BUSY_S,
            uri=target != MEMORY,
            isolation_level=None,
            check_same_thread=False,
        )


def _prepare(connection: sqlite3.Connection, name: str, identity: Identity) -> None:
    """See that a ledger is sound, or make it; leave any other file alone."""
    with _sentences(name):
        new = not connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
        if not new:
            _check_format(connection, name)
            (fault,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if fault != "ok":
                raise _damaged(name)
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()
        connection.execute("PRAGMA synchronous = FULL")
        if new:
            _make(connection, identity)


def _make(connection: sqlite3.Connection, identity: Identity) -> None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        for statement in filter(str.strip, _TABLES.split(";")):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO identity VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                SCHEMA, uuid4().hex, identity.kind, identity.content,
                json.dumps(dict(identity.configuration), sort_keys=True),
                "{}", identity.version,
                json.dumps(list(identity.seeds)), time(),
            ),
        )  # fmt: skip


def _check_format(connection: sqlite3.Connection, name: str) -> None:
    with _sentences(name):
        connection.execute("SELECT 1 FROM sqlite_schema").fetchone()  # fails for a cut header
        (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != _APPLICATION:
        raise InputError(f"{name} is no ledger of hepdask-ml: give another file")


def _check_identity(ledger: Ledger, asked: Identity, *, several_seeds: bool) -> None:
    difference, seeds = differing(ledger.identity, asked), ledger.identity.seeds
    if difference is None and not several_seeds and seeds != asked.seeds:
        names = ", ".join(map(str, seeds))
        difference = (
            f"seed {names}, not {asked.seeds[0]}"
            if len(seeds) == 1
            else f"the seeds {names} in one: it can be reported, not run"
        )
    if difference is not None:
        raise InputError(f"{ledger.path} is a ledger with {difference}: start a new one")


def differing(one: Identity, other: Identity) -> str | None:
    """Say in what two identities differ, but for their seeds.

    Parameters
    ----------
    one, other : Identity
        The identities.

    Returns
    -------
    str or None
        The first difference, in words that follow "with"; None if there is none.
    """
    if one.kind != other.kind:
        return f"work of the kind {one.kind}, not {other.kind}"
    if one.version != other.version:
        return f"toys of hepdask-ml {one.version}, not {other.version}"
    if one.content != other.content:
        return "another model or other data"
    for name in sorted({*one.configuration, *other.configuration}):
        mine, yours = one.configuration.get(name), other.configuration.get(name)
        if mine != yours:
            return f"{name.replace('_', ' ')} {mine}, not {yours}"
    return None


def _unit_row(unit: Unit, seed: int) -> tuple[Any, ...]:
    spec = json.dumps(dict(unit.spec), sort_keys=True)
    return seed, unit.key, unit.total, spec, unit.title, unit.grain, int(unit.ordered)


def _damaged(name: str) -> InputError:
    return InputError(f"{name} is damaged: restore it from a copy, or start a new ledger")


@contextmanager
def _sentences(name: str) -> Iterator[None]:
    """Turn SQLite's errors into sentences."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorname", "") or ""
        if code.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            raise CampaignError(
                f"{name} cannot be written ({error}): what was committed before is kept; make room "
                "on the disk and run again"
            ) from None
        if code == "SQLITE_READONLY_ROLLBACK":
            raise InputError(
                f"{name} was left in the middle of a write: run the campaign again, which mends it"
            ) from None
        if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
            raise InputError(
                f"{name} cannot be opened ({error}): choose a file in a folder that can be written"
            ) from None
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise CampaignError(
                f"{name} is locked by another process for too long: run again"
            ) from None
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or isinstance(
            error, sqlite3.OperationalError
        ):
            raise _damaged(name) from None
        raise


class _Lock:
    """The lock file beside a ledger, held for as long as its driver lives."""

    def __init__(self, ledger: Path) -> None:
        self._path = ledger.with_name(ledger.name + ".lock")
        while True:
            try:
                self._file = self._path.open("a+b", buffering=0)
            except OSError as error:
                raise InputError(
                    f"{ledger} cannot be written ({error.strerror}): choose a file in a folder "
                    "that can be written"
                ) from None
            try:
                flock(self._file, LOCK_EX | LOCK_NB)
            except (BlockingIOError, PermissionError):
                self._file.seek(0)
                holder = self._file.read().decode().strip() or "another process"
                self._file.close()
                raise CampaignError(
                    f"{ledger} is being written by {holder}: wait for it, or stop it first"
                ) from None
            except OSError:  # this file system has no such locks: the writer row has to do
                break
            if self._is_there():
                break
            self._file.close()
        try:
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {gethostname()}\n".encode())
        except OSError as error:
            self.release()
            raise CampaignError(
                f"{ledger} cannot be written ({error.strerror}): make room on the disk and run "
                "again"
            ) from None

    def _is_there(self) -> bool:
        """Whether the file is still in its folder: who released it before us has removed it."""
        try:
            return self._path.stat().st_ino == os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let another driver have the ledger."""
        if not self._file.closed:
            self._path.unlink(missing_ok=True)
            self._file.close()
