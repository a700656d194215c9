"""The soak: a campaign whose processes are killed at random, hundreds of times.

Worker processes, the scheduler and the driver are killed, told to end, or stopped for a while;
what has died is started again.  In the end the ledger has to hold exactly what an undisturbed run
gives.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from stories.campaigner import ERROR, INTERRUPTED
from stories.processes import Place, Process, register
from stories.work import Book, Rounds, check_exact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORKERS = 4
SILENCE_S = 3.0
STEP_S = 0.005

KINDS = {
    "worker, SIGKILL": 0.45,
    "worker, SIGTERM": 0.17,
    "worker, SIGSTOP and SIGCONT": 0.15,
    "driver, SIGKILL": 0.12,
    "driver, SIGINT": 0.06,
    "scheduler, SIGKILL": 0.05,
}
"""What happens, and its part of all that happens."""


@dataclass
class Summary:
    """What a soak did, and what was wrong."""

    kills: Counter[str] = field(default_factory=Counter)
    drivers: Counter[str] = field(default_factory=Counter)
    workers: int = 0
    schedulers: int = 0
    steps: int = 0
    disturbed: int = 0  # steps that were in the ledger after the last kill
    blocks: int = 0
    executions: int = 0
    wasted: int = 0
    doubled: int = 0  # processes that worked at two blocks at once after they were stopped
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def table(self) -> Table:
        """Give it as a table."""
        table = Table("what", "number", title="soak")
        for kind in KINDS:
            table.add_row(kind, str(self.kills[kind]))
        table.add_section()
        for end, number in sorted(self.drivers.items()):
            table.add_row(f"driver ended: {end}", str(number))
        for name, value in [
            ("resumes", str(self.drivers.total() - 1)),
            ("schedulers", str(self.schedulers)),
            ("workers", str(self.workers)),
            ("blocks in the ledger", str(self.blocks)),
            ("steps in the ledger after the last kill", str(self.disturbed)),
            ("steps in the ledger", str(self.steps)),
            ("executions of steps", str(self.executions)),
            ("wasted executions", f"{self.wasted} ({self.wasted / max(self.executions, 1):.2%})"),
            ("processes with two blocks after a stop", str(self.doubled)),
            ("seconds", f"{self.seconds:.0f}"),
            ("faults", str(len(self.faults))),
        ]:
            table.add_row(name, value)
        return table


class Soak:
    """One campaign, and those who disturb it.

    Parameters
    ----------
    folder : Path
        For everything.
    kills : int
        How often.
    seed : int
        Of what happens to whom, and when.
    pause_s : float
        Mean time between two of them.
    """

    def __init__(self, folder: Path, kills: int, seed: int, pause_s: float = 1.3) -> None:
        self.kills = kills
        self.pause_s = pause_s
        self.summary = Summary()
        self.place = Place(folder)
        self.book = Book(folder, Rounds(units=4, steps=3000, rounds=max(4, kills // 6)))
        self._random = Random(seed)
        self._workers: list[Process] = []
        self._driver: Process | None = None
        self._scheduler: Process | None = None
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._done = 0
        self._stopped: set[int] = set()

    def run(self) -> Summary:
        """Run it; whatever is wrong is in the summary."""
        begun = monotonic()
        try:
            self._disturb()
            self._finish()
            self._examine()
        finally:
            self.place.close()
            self.summary.seconds = monotonic() - begun
        return self.summary

    def _disturb(self) -> None:
        while self.summary.kills.total() < self.kills and not self.summary.faults:
            self._keep()
            sleep(self.pause_s * self._random.uniform(0.2, 1.8))
            [kind] = self._random.choices(list(KINDS), list(KINDS.values()))
            if self._happens(kind):
                self.summary.kills[kind] += 1

    def _finish(self) -> None:
        """Let the campaign come to its end, undisturbed."""
        self.summary.disturbed = self.book.done()
        self.book.hurry()
        deadline = monotonic() + 600.0
        while not self.summary.drivers["done"] and not self.summary.faults:
            self._keep()
            sleep(0.2)
            if monotonic() > deadline:
                self._wrong("the campaign does not come to its end")

    def _keep(self) -> None:
        """Start what has died; do what is due."""
        now = monotonic()
        for due in [due for due in self._due if due[0] <= now]:
            self._due.remove(due)
            due[1]()
        if self._scheduler is None:
            self._scheduler = self.place.scheduler()
            self.summary.schedulers += 1
            with self.place.client() as client:
                register(client, SILENCE_S)
        self._workers = [worker for worker in self._workers if worker.alive]
        while len(self._workers) < WORKERS:
            nanny = not any(worker.name == "nanny" for worker in self._workers)
            worker = self.place.worker(nanny=nanny)
            worker.name = "nanny" if nanny else "worker"
            self._workers.append(worker)
            self.summary.workers += 1
        if self._driver is not None and not self._driver.alive:
            self._account(self._driver)
            self._driver = None
        if self._driver is None and not self.summary.drivers["done"]:
            self._done = self.book.done()
            self._driver = self.place.driver(self.book, step_s=STEP_S, target_s=0.5)

    def _account(self, driver: Process) -> None:
        code = driver.wait()
        if code == 0:
            self.summary.drivers["done"] += 1
        elif code == -signal.SIGKILL:
            self.summary.drivers["killed"] += 1
        elif code == INTERRUPTED:
            self.summary.drivers["interrupted"] += 1
        elif code == ERROR and driver.said.startswith("SiteError: "):
            self.summary.drivers["SiteError"] += 1
        else:
            self._wrong(f"a driver ended with {code}: {driver.output[-3000:]}")

    def _happens(self, kind: str) -> bool:
        who, _, what = kind.partition(", ")
        if who == "driver":
            return self._to_driver(what)
        if who == "scheduler":
            return self._to_scheduler()
        worker = self._random.choice(self._workers)
        process = worker.pid
        if worker.name == "nanny" and self._random.random() < 0.5:
            process = next(iter(worker.children()), worker.pid)
        if not worker.alive:
            return False
        if what == "SIGSTOP and SIGCONT":
            _send(process, signal.SIGSTOP)
            self._stopped.add(process)
            until = monotonic() + self._random.uniform(0.5, 3.0 * SILENCE_S)
            self._due.append((until, lambda: _send(process, signal.SIGCONT)))
        elif what == "SIGTERM":
            _send(process, signal.SIGTERM)
        elif process == worker.pid:
            worker.kill()
        else:
            _send(process, signal.SIGKILL)
        return True

    def _working(self) -> bool:
        """Whether the driver has begun to write."""
        return self._driver is not None and self._driver.alive and self.book.done() > self._done

    def _to_driver(self, what: str) -> bool:
        if self._driver is None or not self._driver.alive:
            return False
        if what == "SIGKILL":
            self._driver.kill()
            return True
        if not self._working():  # the interpreter itself may say it then, in many lines
            return False
        self._driver.send(signal.SIGINT)
        return True

    def _to_scheduler(self) -> bool:
        if self._scheduler is None or not self._working():
            return False
        assert self._driver is not None
        self._scheduler.kill()
        self._scheduler = None
        self._driver.wait()
        # Workers that were coming look for it for ever.
        for worker in self._workers:
            worker.kill()
        return True

    def _examine(self) -> None:
        if self.summary.faults:
            return
        try:
            check_exact(self.book.path, self.book.plan.expected())
        except AssertionError as error:
            self._wrong(str(error))
        for process, drains in self.book.drains_at_once().items():
            self.summary.doubled += drains > 1
            # What it had when it was stopped it finishes beside what it was given afterwards.
            if drains > 1 + (process in self._stopped):
                self._wrong(f"{drains} drains at once in process {process}")
        executed = self.book.executed()
        steps = [(block[0], step) for block in self.book.blocks() for step in range(*block[1:3])]
        if len(set(steps)) != len(steps):
            self._wrong("a step is in the ledger twice")
        if not executed.keys() >= set(steps):
            self._wrong("a step is in the ledger and was never executed")
        self.summary.blocks = len(self.book.blocks())
        self.summary.steps = len(steps)
        self.summary.executions = executed.total()
        self.summary.wasted = executed.total() - len(steps)

    def _wrong(self, what: str) -> None:
        self.summary.faults.append(what)


def _send(process: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.stories.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hepdask-ml-soak-") as folder:
        summary = Soak(Path(folder), asked.kills, asked.seed).run()
    Console().print(summary.table())
    for fault in summary.faults:
        print(fault)
    return 1 if summary.faults else 0


if __name__ == "__main__":
    sys.exit(main())
