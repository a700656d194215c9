"""Keeps the wanted number of batch jobs alive.

Jobs end at their walltime, are cancelled, preempted, lost with their node.  The keeper compares,
every second, the workers that are connected with the jobs that it has submitted, asks the batch
system where they differ, and submits what is missing.  Jobs that end at once show that something is
wrong, and are not repeated for ever.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil, inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from hepdask_ml.errors import SiteError
from hepdask_ml.facility.demand import wanted
from hepdask_ml.facility.systems import State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from hepdask_ml.facility.systems import Listed

LOG = logging.getLogger(__name__)

LOOK_S = 1.0
"""Time between two looks at the workers."""

LIST_S = 30.0
"""Time between two questions to the batch system while nothing happens."""

HASTE_S = 2.0
"""The same while something does: jobs come or go."""

SETTLE_S = 30.0
"""Time after an event for which more are expected, and that a job has for ending."""

QUICK_S = 10.0
"""A job that had a worker for less has failed."""

FAILURES = 3
"""Failures in a row after which no more jobs are tried, or not for a while."""

PAUSE_S = 60.0
"""That while."""

_AT_A_TIME = 4
"""Submissions."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who works.

    Attributes
    ----------
    names : mapping of str to str
        Names of the connected workers by their addresses.
    demand : mapping or None
        What the pools ask for; None where there is no pool.
    """

    names: Mapping[str, str]
    demand: Mapping[str, Any] | None = None


class Work(Protocol):
    """What a keeper can do."""

    def submit(self, name: str) -> str:
        """Submit a job whose workers have this name, or names that begin with it; give its id."""

    def listed(self) -> Mapping[str, Listed]:
        """Give the jobs that have not ended."""

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs."""

    def last_words(self, job: str) -> str:
        """Give the last line of a job."""

    def look(self) -> Crowd:
        """See who works."""

    def retire(self, addresses: Sequence[str]) -> None:
        """Let workers end."""

    def remember(self, names: Mapping[str, str]) -> None:
        """Keep the names of workers, by ids of their jobs, for a driver that comes after this."""


@dataclass(slots=True)
class _Job:
    """A job of the keeper."""

    name: str
    submitted: float
    waits: bool = True
    reason: str = ""  # why it waits
    came: float | None = None  # its first worker
    left: float | None = None  # its last worker, for now
    proven: bool = False  # it had one for long enough
    dismissed: bool = False  # it is not wanted any more
    cancelled: bool = False  # nor left to itself

    def has(self, worker: str) -> bool:
        """Whether a worker is of this job."""
        return worker == self.name or worker.startswith(f"{self.name}-")


class Keeper:
    """Keeps jobs alive.

    Parameters
    ----------
    work : Work
        What can be done with jobs.
    prefix : str
        Begins the names of the workers.
    most : int
        Workers that are wanted.
    workers_per_job : int
        Workers of each job.
    idle_s : float
        Time in seconds after which workers without work are given up.
    now : callable
        Clock in seconds.
    """

    def __init__(
        self,
        work: Work,
        *,
        prefix: str,
        most: int,
        workers_per_job: int,
        idle_s: float,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._work, self._prefix = work, prefix
        self._most, self._per_job, self._idle_s = most, workers_per_job, idle_s
        self._now = now
        self._jobs: dict[str, _Job] = {}
        self._ended: dict[str, str] = {}
        self._number = 0
        self._event = now()
        self._asked = -inf
        self._failures = self._refusals = 0
        self._paused_until = -inf
        self._last_fault = ""
        self._lock = threading.Lock()

    @property
    def jobs(self) -> list[str]:
        """Ids of the jobs that are kept."""
        return list(self._jobs)

    def begin(self, left: Mapping[str, str] | None = None, *, adopt: bool = True) -> None:
        """Take over what a former driver has left, and submit what is missing.

        Parameters
        ----------
        left : mapping of str to str, optional
            Names of workers by ids of jobs.  Those that wait are kept; the others cannot find
            back to a scheduler, and are cancelled.
        adopt : bool
            Whether those that wait will find this scheduler; if not, they are cancelled, too.

        Raises
        ------
        SiteError
            If a job is refused.
        """
        if left:
            listed = self._work.listed()
            alive = {job: listed[job] for job in left if job in listed}
            kept = [job for job, it in alive.items() if adopt and it.state is State.WAITING]
            self._work.cancel([job for job in alive if job not in kept])
            for job in kept:
                self._jobs[job] = _Job(left[job], self._now())
            self._remember()
            LOG.info(
                "took over %d waiting jobs of a driver that was killed, cancelled %d others",
                len(kept),
                len(alive) - len(kept),
            )
        missing = self._wanted(None) - len(self._jobs)
        if missing > 0:
            self._submit(1)  # one refusal is enough
        if missing > 1 and self._now() >= self._paused_until:
            self._submit(missing - 1)

    def step(self) -> None:
        """Look once, and do what is needed.

        Raises
        ------
        SiteError
            If jobs end as soon as they begin, or are refused while there are no others.
        """
        crowd = self._work.look()
        self._note_workers(crowd.names.values())
        if self._now() - self._asked >= (HASTE_S if self._is_busy() else LIST_S):
            self._ask()
        target = self._wanted(crowd.demand)
        kept = self._kept()
        if kept < target and self._now() >= self._paused_until:
            self._submit(target - kept)
        elif kept > target:
            self._shrink(kept - target, crowd)
        self._give_up_if_hopeless(crowd)

    def end(self) -> None:
        """Cancel all jobs."""
        self._work.cancel(list(self._jobs))
        self._jobs.clear()

    def _wanted(self, demand: Mapping[str, Any] | None) -> int:
        return ceil(wanted(self._most, demand, self._idle_s) / self._per_job)

    def _kept(self) -> int:
        return sum(not job.dismissed for job in self._jobs.values())

    def _is_busy(self) -> bool:
        return self._now() - self._event < SETTLE_S

    def _note_workers(self, names: Collection[str]) -> None:
        """See whose workers have come or gone."""
        for job in self._jobs.values():
            here = any(job.has(name) for name in names)
            if here and job.came is None:
                job.came = self._event = self._now()
            if here:
                job.left, job.waits = None, False
                self._prove(job)
            elif job.came is not None and job.left is None:
                job.left = self._event = self._now()

    def _prove(self, job: _Job) -> None:
        """End a row of failures, once for each job that has had a worker for long enough."""
        if job.came is not None and not job.proven and self._now() - job.came >= QUICK_S:
            job.proven = True
            self._failures = 0

    def _ask(self) -> None:
        """Ask the batch system, and drop what has ended."""
        begun = self._now()
        try:
            listed = self._work.listed()
        except SiteError as error:
            self._tell(str(error))
            self._asked = self._now()
            return
        self._asked = self._now()
        self._take_back(listed)
        for name, job in list(self._jobs.items()):
            it = listed.get(name)
            if it is None:
                # A list may be older than the answer to a submission.
                if begun - job.submitted > HASTE_S:
                    self._note_end(name, job, "")
                    self._ended[name] = self._jobs.pop(name).name
                    self._remember()
            elif job.cancelled:  # which the system may have failed to do
                self._work.cancel([name])
            elif it.state is State.STUCK:
                self._note_end(name, job, it.reason or "it is held")
                self._cancel([name])
            elif job.left is not None and begun - job.left > SETTLE_S:
                self._note_end(name, job, "")
                self._cancel([name])
            else:
                self._note_state(name, job, it)

    def _note_state(self, name: str, job: _Job, it: Listed) -> None:
        """See how far a job is that the batch system lists."""
        waits = it.state is State.WAITING
        if waits and it.reason != job.reason:
            LOG.info("job %s waits: %s", name, it.reason or "no reason is given")
        if job.waits and not waits:
            LOG.info("job %s has begun", name)
        job.waits, job.reason = waits, it.reason
        if waits and job.came is not None:  # queued anew
            job.came = job.left = None

    def _take_back(self, listed: Collection[str]) -> None:
        """Know jobs again that were not listed for a while, as when they are queued anew."""
        back = [name for name in self._ended if name in listed]
        for name in back:
            self._jobs[name] = _Job(self._ended.pop(name), self._now())
        if back:
            self._event = self._now()
            self._remember()

    def _cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs, which are known until they are gone."""
        self._work.cancel(jobs)
        for name in jobs:
            self._jobs[name].dismissed = self._jobs[name].cancelled = True

    def _note_end(self, name: str, job: _Job, reason: str) -> None:
        """See whether a job that ends has failed."""
        self._event = self._now()
        if job.dismissed:
            return
        left = self._now() if job.left is None else job.left
        stayed = 0.0 if job.came is None else left - job.came
        if stayed >= QUICK_S:
            self._failures = 0
            LOG.info("job %s has ended", name)
            return
        self._failures += 1
        what = "without a worker" if job.came is None else f"after {stayed:.0f} s of work"
        words = reason or self._work.last_words(name)
        self._last_fault = f"job {name} ended {what}" + (f': "{words}"' if words else "")
        LOG.warning("%s", self._last_fault)
        if self._failures >= FAILURES:
            self._paused_until = self._now() + PAUSE_S

    def _submit(self, number: int) -> None:
        """Submit jobs; all that were not refused are kept."""
        names = [f"{self._prefix}-{self._number + i}" for i in range(number)]
        self._number += number
        before = set(self._jobs)
        try:
            with ThreadPoolExecutor(_AT_A_TIME) as pool:
                refusals = list(pool.map(self._submit_one, names))
        finally:  # whatever happened, what was submitted is known
            submitted = [job for job in self._jobs if job not in before]
            if submitted:
                self._event, self._refusals = self._now(), 0
                said = "a job" if len(submitted) == 1 else f"{len(submitted)} jobs"
                LOG.info("submitted %s: %s", said, ", ".join(submitted))
        for refusal in [each for each in refusals if each is not None][-1:]:
            self._refused(refusal)

    def _submit_one(self, name: str) -> SiteError | None:
        """Submit a job; give its refusal.  It is in a thread, and the job known when it ends."""
        try:
            job = self._work.submit(name)
        except SiteError as refusal:
            return refusal
        with self._lock:  # at once: the driver may be killed before the next one
            self._jobs[job] = _Job(name, self._now())
            self._remember()
        return None

    def _refused(self, refusal: SiteError) -> None:
        kept = self._kept()
        self._refusals = 0 if kept else self._refusals + 1
        if not kept and (self._asked == -inf or self._refusals >= FAILURES):
            raise refusal
        self._paused_until = self._now() + (PAUSE_S if kept else SETTLE_S)
        self._tell(str(refusal))

    def _remember(self) -> None:
        self._work.remember({job: it.name for job, it in self._jobs.items()})

    def _shrink(self, number: int, crowd: Crowd) -> None:
        """Give up jobs that wait, and then those without work."""
        waiting = [name for name, job in self._jobs.items() if job.waits and not job.dismissed]
        waiting = waiting[::-1][:number]
        self._cancel(waiting)
        busy = set((crowd.demand or {}).get("busy", ()))
        idle: list[str] = []
        for job in self._jobs.values():
            workers = [address for address, name in crowd.names.items() if job.has(name)]
            if len(waiting) + len(idle) < number and workers and not busy.intersection(workers):
                job.dismissed = True
                idle += workers
        if idle:
            self._work.retire(idle)
        if idle or waiting:
            self._event = self._now()
            LOG.info(
                "no work: %d waiting jobs cancelled, %d workers retired", len(waiting), len(idle)
            )

    def _give_up_if_hopeless(self, crowd: Crowd) -> None:
        if self._failures >= FAILURES and not self._kept() and not crowd.names:
            raise SiteError(
                f"{self._failures} jobs in a row came to nothing, the last one so: "
                f"{self._last_fault}"
            )

    def _tell(self, fault: str) -> None:
        """Say what is wrong, once."""
        if fault != self._last_fault:
            LOG.warning("%s", fault)
        self._last_fault = fault


class KeeperThread:
    """Lets a keeper look every second, until it is ended or gives up.

    Parameters
    ----------
    keeper : Keeper
        It has begun.
    give_up : callable
        Is called, in the thread, when the keeper does.

    Attributes
    ----------
    error : SiteError or None
        Why it gave up.
    """

    def __init__(self, keeper: Keeper, give_up: Callable[[], None]) -> None:
        self.error: SiteError | None = None
        self._keeper, self._give_up = keeper, give_up
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hepdask-ml-keeper", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                self._keeper.step()
            except Exception as error:  # noqa: BLE001 - the place without a keeper would be of no use
                self.error = (
                    error
                    if isinstance(error, SiteError)
                    else SiteError(f"the jobs cannot be kept: {type(error).__name__}: {error}")
                )
                self._give_up()
                return
