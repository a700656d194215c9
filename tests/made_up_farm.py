"""A made-up batch system with a clock of its own, for the keeper of jobs.

It is simulated: jobs are entries in a table, and nothing happens but what a test lets happen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hepdask_ml.errors import SiteError
from hepdask_ml.facility.keeper import Crowd, Keeper
from hepdask_ml.facility.systems import Listed, State


@dataclass
class FarmJob:
    """A job: whether it waits, runs or is stuck, and how many of its workers are connected."""

    name: str
    born: float
    state: State = State.WAITING
    workers: int = 0
    busy: bool = False
    ended: bool = False
    cancelled: bool = False


@dataclass
class Farm:
    """The table of jobs, and what is wrong with the system.

    Attributes
    ----------
    refuse : int
        Submissions that will be refused.
    silent : bool
        Whether the listing fails.
    lag_s : float
        Age of a listing: jobs that are younger do not stand in it.
    deaf : bool
        Whether cancelling does nothing.
    """

    now: float = 1000.0
    jobs: dict[str, FarmJob] = field(default_factory=dict)
    refuse: int = 0
    silent: bool = False
    lag_s: float = 0.0
    deaf: bool = False
    reason: str = ""
    words: str = ""
    demand: Mapping[str, Any] | None = None
    workers_per_job: int = 1
    remembered: dict[str, str] = field(default_factory=dict)
    submitted: list[float] = field(default_factory=list)
    listings: list[float] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    cancellations: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    # What the keeper asks for.

    def submit(self, name: str) -> str:
        with self.lock:
            if self.refuse:
                self.refuse -= 1
                raise SiteError("sbatch refused: too many jobs")
            self.submitted.append(self.now)
            job = str(len(self.submitted))
            self.jobs[job] = FarmJob(name, self.now)
            return job

    def listed(self) -> Mapping[str, Listed]:
        self.listings.append(self.now)
        if self.silent:
            raise SiteError("squeue does not answer")
        return {
            job: Listed(it.state, self.reason)
            for job, it in self.jobs.items()
            if not it.ended and self.now - it.born >= self.lag_s
        }

    def cancel(self, jobs: Sequence[str]) -> None:
        for job in jobs:
            self.cancellations.append(job)
            self.jobs[job].cancelled = True
            if not self.deaf:
                self.end(job)

    def last_words(self, job: str) -> str:
        return self.words

    def look(self) -> Crowd:
        return Crowd(self.names(), self.demand)

    def retire(self, addresses: Sequence[str]) -> None:
        self.retired += addresses
        for it in self.jobs.values():
            if it.workers and self.address(it, 0) in addresses:
                it.workers = 0
                it.ended = True

    def remember(self, names: Mapping[str, str]) -> None:
        self.remembered = dict(names)

    # What happens.

    def keeper(
        self, most: int = 2, idle_s: float = 300.0, clock: Any = None, prefix: str = "w"
    ) -> Keeper:
        return Keeper(
            self,
            prefix=prefix,
            most=most,
            workers_per_job=self.workers_per_job,
            idle_s=idle_s,
            now=clock or (lambda: self.now),
        )

    def address(self, job: FarmJob, number: int) -> str:
        return f"tcp://{job.name}/{number}"

    def names(self) -> dict[str, str]:
        several = self.workers_per_job > 1
        return {
            self.address(job, i): f"{job.name}-{i}" if several else job.name
            for job in self.jobs.values()
            for i in range(job.workers)
        }

    def alive(self) -> list[str]:
        return [job for job, it in self.jobs.items() if not it.ended]

    def waiting(self) -> list[str]:
        return [job for job in self.alive() if self.jobs[job].state is State.WAITING]

    def start(self, *jobs: str, workers: bool = True) -> None:
        for job in jobs or self.waiting():
            self.jobs[job].state = State.RUNNING
            if workers:
                self.jobs[job].workers = self.workers_per_job

    def end(self, *jobs: str) -> None:
        for job in jobs:
            self.jobs[job].ended = True
            self.jobs[job].workers = 0

    def requeue(self, job: str) -> None:
        self.jobs[job].state, self.jobs[job].workers = State.WAITING, 0

    def run(
        self, keeper: Keeper, seconds: float, every: Callable[[], object] = lambda: None
    ) -> None:
        """Let the keeper look every second, and something happen before it does."""
        for _ in range(int(seconds)):
            self.now += 1.0
            every()
            keeper.step()
