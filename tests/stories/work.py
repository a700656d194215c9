"""Small exact work for the stories, what has to come out of it, and a journal of what was run.

A step's result is eight bytes that follow from the unit and the step alone.  The journal tells what
the ledger cannot: which steps were executed, by which process, and how often.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import hepdask_ml
from hepdask_ml.campaign.campaign import Campaign
from hepdask_ml.campaign.ledger import Identity, Ledger, open_ledger, read_ledger
from hepdask_ml.campaign.unit import Done, Unit
from hepdask_ml.errors import CampaignError, GpuError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hepdask_ml.campaign.unit import Block, History

STEP_BYTES = 8
LOOK_EVERY = 5
"""Steps between two looks at what the outside wants."""

DEADLINE_S = 120.0
"""Time after which a condition is taken for one that never comes; nothing is timed by it."""

BAD = "STORIES_BAD_WORKER"
"""Set in the environment of a worker on which some units raise."""

NO_GPU = "STORIES_NO_GPU"
"""Set in the environment of a worker that cannot work at all."""


def step_bytes(key: str, salt: str, step: int) -> bytes:
    return blake2b(f"{key}/{salt}/{step}".encode(), digest_size=STEP_BYTES).digest()


def unit_bytes(unit: Unit) -> bytes:
    return b"".join(step_bytes(unit.key, unit.spec["salt"], i) for i in range(unit.total))


@dataclass(frozen=True)
class Rounds:
    """Units in rounds; what the next round is follows from all results of the last one.

    ``faults`` gives units of the first round that raise: "always", or "bad worker".
    """

    units: int = 3
    steps: int = 400
    rounds: int = 2
    grain: int = 5
    ordered: bool = False
    faults: Mapping[str, str] = field(default_factory=dict)

    def plan(self, history: History) -> Sequence[Unit]:
        planned: list[Unit] = []
        salt = "begin"
        have = {record.unit.key: record for record in history.records()}
        for number in range(self.rounds):
            units = self.round(number, salt)
            planned += [unit for unit in units if unit.key not in have]
            if any(unit.key not in have or have[unit.key].done < unit.total for unit in units):
                break
            salt = _digest(
                b"".join(result for _, _, result in history.results(unit.key)) for unit in units
            )
        return planned

    def round(self, number: int, salt: str) -> list[Unit]:
        """Give the units of a round; later ones are smaller by what the results say."""
        less = 0 if number == 0 else int(salt[:4], 16) % (self.steps // 2)
        return [
            Unit(
                f"round {number} unit {i}",
                self.steps - less,
                {"salt": salt, "fault": self.faults.get(f"round {number} unit {i}", "")},
                title=f"steps of unit {i} in round {number}",
                grain=self.grain,
                ordered=self.ordered,
            )
            for i in range(self.units)
        ]

    def expected(self) -> dict[str, bytes]:
        """Give what an undisturbed run gives, without any campaign."""
        expected: dict[str, bytes] = {}
        salt = "begin"
        for number in range(self.rounds):
            results = {unit.key: unit_bytes(unit) for unit in self.round(number, salt)}
            expected |= results
            salt = _digest(results.values())
        return expected


def _digest(parts: Any) -> str:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True)
class Steps:
    """Runs steps that take a while each, until there is a file that says that time is over."""

    folder: str
    step_s: float = 0.002

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        journal = _journal(self.folder)
        thread = threading.get_ident()
        journal.write(f"begin\t{thread}\t{block.token}\t{block.start}\t{block.stop}\t{block.key}\n")
        parts, step, hurry = [], block.start, False
        while step < block.stop:
            if (step - block.start) % LOOK_EVERY == 0:
                if enough():
                    break
                if self._lost_gpu():
                    journal.write(f"end\t{thread}\t{block.token}\t{step}\t{step}\t{block.key}\n")
                    raise GpuError("the GPU of this process is lost.")
                hurry = hurry or Path(self.folder, "hurry").exists()
            if not hurry:
                sleep(self.step_s)
            _raise_if(str(block.spec.get("fault", "")))
            journal.write(f"step\t{thread}\t{block.token}\t{step}\t{step + 1}\t{block.key}\n")
            parts.append(step_bytes(block.key, block.spec["salt"], step))
            step += 1
        journal.write(f"end\t{thread}\t{block.token}\t{block.start}\t{step}\t{block.key}\n")
        return Done(step, b"".join(parts))

    def _lost_gpu(self) -> bool:
        return NO_GPU in os.environ or Path(self.folder, f"{os.getpid()}.lost").exists()


def _raise_if(fault: str) -> None:
    if fault == "always" or (fault == "bad worker" and os.environ.get(BAD)):
        raise ValueError(f"no step of this unit can be done ({fault})")


class _Lines:
    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, line: str) -> None:
        os.write(self._file, line.encode())


@lru_cache
def _journal(folder: str) -> _Lines:
    return _Lines(Path(folder, f"{os.getpid()}.journal"))


@dataclass(frozen=True, slots=True)
class Line:
    """What a process did: it began or ended a block, or did a step."""

    what: str
    process: int
    thread: str
    token: str
    start: int
    stop: int
    key: str


class Book:
    """Everything that a story looks at: the ledger's file, the journals, the switch for haste.

    Parameters
    ----------
    folder : Path
        Holds them all.
    plan : Rounds
        What the campaign does.
    """

    def __init__(self, folder: Path, plan: Rounds | None = None) -> None:
        self.folder = folder
        self.plan = plan or Rounds()
        self.path = folder / "campaign.ledger"

    @property
    def identity(self) -> Identity:
        return Identity("stories", "the model", {}, hepdask_ml.__version__, (1,))

    def ledger(self) -> Ledger:
        """Open the ledger for writing."""
        return open_ledger(self.path, self.identity)

    def campaign(self, *, step_s: float = 0.004, target_s: float = 0.2) -> Campaign[int]:
        return Campaign(
            identity=self.identity,
            strategy=self.plan,
            runner=Steps(str(self.folder), step_s),
            summary=lambda ledger: ledger.progress().done,
            ledger=self.path,
            target_s=target_s,
        )

    def hurry(self) -> None:
        """Let steps take no time from now on."""
        (self.folder / "hurry").touch()

    def lose_gpu(self, process: int, *, back: bool = False) -> None:
        """Let a process be unable to work from now on, or able again."""
        path = self.folder / f"{process}.lost"
        if back:
            path.unlink()
        else:
            path.touch()

    def done(self) -> int:
        """Count the steps that the ledger has; 0 while it is not there."""
        try:
            with read_ledger(self.path) as ledger:
                return ledger.progress().done
        except (InputError, CampaignError):  # not made yet, or just being written
            return 0

    def blocks(self) -> list[tuple[str, int, int, str]]:
        """Give key, start, stop and worker of all blocks in the ledger, in the order of writing."""
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as db:
            return db.execute(
                "SELECT key, start, stop, worker FROM block JOIN unit ON unit.id = block.unit "
                "ORDER BY block.rowid"
            ).fetchall()

    def lines(self, process: int | None = None) -> list[Line]:
        """Give the journal of one process or of all, each in its order."""
        found = []
        for path in sorted(self.folder.glob("*.journal")):
            number = int(path.stem)
            if process not in (None, number):
                continue
            for line in path.read_text().split("\n")[:-1]:
                what, thread, token, start, stop, key = line.split("\t")
                found.append(Line(what, number, thread, token, int(start), int(stop), key))
        return found

    def processes(self) -> set[int]:
        return {int(path.stem) for path in self.folder.glob("*.journal")}

    def executed(self, process: int | None = None) -> Counter[tuple[str, int]]:
        """Count the executions of each step."""
        lines = self.lines(process)
        return Counter((line.key, line.start) for line in lines if line.what == "step")

    def wasted(self) -> int:
        """Count the executions beyond the first of each step."""
        executed = self.executed()
        return executed.total() - len(executed)

    def working(self, process: int) -> Line | None:
        """Give the block that a process is in, if it is within one and has done a step of it."""
        lines = self.lines(process)
        if lines and lines[-1].what == "step":
            return next(line for line in reversed(lines) if line.what == "begin")
        return None

    def wait_until_working(self, process: int, *, steps: int = 1) -> None:
        """Wait until a process has done steps, and is within a block."""
        wait_for(
            lambda: self.working(process) is not None and self.executed(process).total() >= steps,
            f"process {process} to be within a block",
        )

    def wait_to_grow(self, steps: int = 1) -> None:
        """Wait until the ledger has more steps than now."""
        done = self.done()
        wait_for(lambda: self.done() >= done + steps, "more steps in the ledger")

    def check(self, threads: int = 1) -> None:
        """See that the ledger holds what an undisturbed run gives, each step once."""
        check_exact(self.path, self.plan.expected())
        self.check_drains(threads)

    def check_drains(self, threads: int = 1) -> None:
        """See by the journals that no process worked at more blocks than it has threads."""
        for process, most in self.drains_at_once().items():
            assert most <= threads, f"{most} drains at once in process {process}"

    def drains_at_once(self) -> dict[int, int]:
        """Count by the journals at how many blocks each process worked at the same time."""
        most: dict[int, int] = defaultdict(int)
        at_once: Counter[int] = Counter()
        inside: dict[tuple[int, str], str] = {}
        for line in self.lines():
            place = line.process, line.thread
            if line.what == "begin":
                # A block that raised has no end; its thread has gone on.
                at_once[line.process] += place not in inside
                inside[place] = line.token
                most[line.process] = max(most[line.process], at_once[line.process])
            elif line.what == "end":
                del inside[place]
                at_once[line.process] -= 1
        return dict(most)


def check_exact(path: Path, expected: Mapping[str, bytes]) -> None:
    """See that a ledger holds exactly these bytes, its blocks joined without gap or overlap."""
    with read_ledger(path) as ledger:
        found = {record.unit.key: _joined(ledger, record.unit) for record in ledger.records()}
        assert all(record.done == record.unit.total for record in ledger.records())
    assert found.keys() == expected.keys()
    for key, result in expected.items():
        assert found[key] == result, f"{key} differs"


def _joined(ledger: Ledger, unit: Unit) -> bytes:
    blocks = ledger.results(unit.key)
    assert blocks, f"{unit.key} has no blocks"
    assert blocks[0][0] == 0
    assert blocks[-1][1] == unit.total
    for (_, stop, _), (start, _, _) in pairwise(blocks):
        assert stop == start, f"{unit.key}: a block ends at {stop}, the next begins at {start}"
    for start, stop, result in blocks:
        assert len(result) == STEP_BYTES * (stop - start)
    return b"".join(result for _, _, result in blocks)


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Poll until a condition holds; give what it gave."""
    deadline = monotonic() + deadline_s
    while not (found := condition()):
        if monotonic() > deadline:
            raise AssertionError(f"waited {deadline_s:.0f} s in vain for {what}")
        sleep(0.02)
    return found


def steps_by_worker(book: Book) -> dict[str, int]:
    """Count the steps in the ledger by worker."""
    counts: dict[str, int] = defaultdict(int)
    for _, start, stop, worker in book.blocks():
        counts[worker] += stop - start
    return dict(counts)
