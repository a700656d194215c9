"""Batch systems: the scheduler runs here, its workers are jobs that are kept alive."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from distributed import Client

from hepdask_ml.errors import HepdaskError, InputError
from hepdask_ml.facility.jobs import Jobs
from hepdask_ml.facility.keeper import Crowd, Keeper, KeeperThread
from hepdask_ml.facility.scheduler import (
    certificates,
    close_workers,
    cut_off,
    port_range,
    started,
    worker_words,
)
from hepdask_ml.facility.session import Session, held
from hepdask_ml.facility.systems import BatchOptions, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from distributed import Scheduler, SpecCluster

    from hepdask_ml.facility.systems import Listed

LOG = logging.getLogger(__name__)

PART_S = 10.0
"""Time in seconds that jobs have for ending before they are cancelled."""

WORKERS = 4
"""Workers of a site that does not say how many it wants."""

_PRIVATE = Path("~/.hepdask-ml/sites")
"""For what the nodes need not see."""


@dataclass(frozen=True, slots=True)
class BatchSite:
    """Workers as jobs of a batch system.

    Attributes
    ----------
    system : str
        Batch system, a key of `hepdask_ml.facility.systems.SYSTEMS`.
    workers : int or None
        Workers that are kept; four if None.
    threads : int
        Threads of each.
    options : BatchOptions
        What is asked for each job.
    """

    system: str
    workers: int | None = None
    threads: int = 1
    options: BatchOptions = field(default_factory=BatchOptions)

    def __post_init__(self) -> None:
        if self.options.shared is None and self.system != "htcondor":
            raise InputError(
                f"the site {self.system} has no folder that the nodes see, too: name one as "
                "options.shared"
            )
        port_range(self.options.ports)
        port_range(self.options.scheduler_ports)

    def script(self) -> str:
        """Give the script of one job, as it would be submitted.

        Returns
        -------
        str
            The script; what is known only when the site is opened is in capital letters.
        """
        words = worker_words(self.options, Path("SESSION"))
        return Jobs(self.system, self.threads, self.options).script("WORKER", **words)

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Start a scheduler, submit the jobs and connect.

        Yields
        ------
        Client
            Connected; workers come as soon as the batch system lets them.

        Raises
        ------
        SiteError
            If the jobs are refused, or end as soon as they begin.
        """
        jobs = Jobs(self.system, self.threads, self.options)
        parent = Path(self.options.shared or _PRIVATE).expanduser()
        with ExitStack() as ending:
            session = ending.enter_context(held(parent, f"{self.system}-{jobs.digest}"))
            security = certificates(self.options, session)
            cluster = ending.enter_context(started(self.options, security))
            session.announce(cluster.scheduler_address)
            client = ending.enter_context(Client(cluster))  # type: ignore[no-untyped-call]
            work = _Work(jobs, session, cluster, worker_words(self.options, session.folder))
            keeper = Keeper(
                work,
                prefix=f"hepdask-ml-{uuid4().hex[:6]}",
                most=WORKERS if self.workers is None else self.workers,
                workers_per_job=self.options.workers_per_job,
                idle_s=self.options.idle,
            )
            ending.callback(keeper.end)
            ending.callback(_part, work, keeper)
            # Where the address is in the jobs, those of another scheduler do not find this one.
            keeper.begin(session.jobs, adopt=self.options.shared is not None)
            thread = KeeperThread(keeper, lambda: cut_off(cluster))
            ending.callback(thread.end)
            try:
                yield client
            except BaseException:
                # The connection broke because the keeper had given up, and said why.
                if thread.error is not None:
                    raise thread.error from None
                raise


def _part(work: _Work, keeper: Keeper) -> None:
    """Let the workers end by themselves: a signal while they do can keep them for ever."""
    if not keeper.jobs:
        return
    try:
        told = close_workers(work.cluster)
        listed = work.listed()
        work.cancel([job for job in keeper.jobs if _state(listed, job) is not State.RUNNING])
        deadline = monotonic() + PART_S
        while monotonic() < deadline and any(
            _state(listed, job) is State.RUNNING for job in keeper.jobs
        ):
            sleep(0.25)
            told |= close_workers(work.cluster, told)  # some may come only now
            listed = work.listed()
    except (OSError, HepdaskError) as error:
        LOG.warning("the workers could not be told to end: %s", error)


def _state(listed: Mapping[str, Listed], job: str) -> State | None:
    return listed[job].state if job in listed else None


@dataclass(frozen=True, slots=True)
class _Work:
    """What the keeper can do, with this scheduler and these jobs."""

    jobs: Jobs
    session: Session
    cluster: SpecCluster
    words: Mapping[str, Any]

    def submit(self, name: str) -> str:
        """Submit a job."""
        return self.jobs.submit(name, address=self.cluster.scheduler_address, **self.words)

    def listed(self) -> Mapping[str, Listed]:
        """Give the jobs that have not ended."""
        return self.jobs.listed()

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs."""
        self.jobs.cancel(jobs)

    def last_words(self, job: str) -> str:
        """Give the last line of a job."""
        return self.jobs.last_words(job)

    def look(self) -> Crowd:
        """See who works, in the loop of the scheduler."""
        scheduler = self._scheduler

        async def look() -> Crowd:
            demand = scheduler.handlers.get("hepdask_ml_demand")
            names = {address: str(worker.name) for address, worker in scheduler.workers.items()}
            return Crowd(names, None if demand is None else demand())

        return cast("Crowd", self.cluster.sync(look))  # type: ignore[no-untyped-call]

    def retire(self, addresses: Sequence[str]) -> None:
        """Let workers end."""
        self.cluster.sync(self._scheduler.retire_workers, addresses, close_workers=True)  # type: ignore[no-untyped-call]

    def remember(self, names: Mapping[str, str]) -> None:
        """Keep the jobs for the next driver."""
        self.session.keep_jobs(names)

    @property
    def _scheduler(self) -> Scheduler:
        return cast("Scheduler", self.cluster.scheduler)
