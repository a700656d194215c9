"""Share of allocated time that ends in committed toys: ours and plain dask-jobqueue on one Slurm.

The Slurm is a real one, on this machine, with walltimes of one minute.  Everybody works the same
toys on as many workers, one after the other.  A toy takes a fixed time, most of it asleep, so that
four cores do not limit eight processes.

What is *allocated* is what Slurm accounts: from the start of a job to its end, in its file of ended
jobs.  That has whole seconds; its log adds the milliseconds.  What is *useful* are the toys that
reached the ledger, or the client, once each, at the time that a toy takes.  In between tells the
journal that the work itself writes.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import pairwise
from math import fsum
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import dask
import made_up
from batch.real import HERE, missing, real_slurm
from benchmarks.paced import Paced, Task, work
from distributed import Client, as_completed, wait
from stories.work import wait_for

from hepdask_ml import open_site, toy_limit
from hepdask_ml.campaign.ledger import read_ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from batch.real import Slurm
    from distributed import Future

    from hepdask_ml import Campaign, Limit
    from hepdask_ml.campaign.unit import Unit

TESTS = HERE.parent
WALLTIME = "00:01:00"
MEMORY = "500 MB"
SCAN = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
STALLED_S = 60.0
"""Time without a single result after which no more are expected."""

LIFETIME = ("--lifetime", "50s", "--lifetime-stagger", "5s")
"""Words of dask-jobqueue's documentation for walltimes, for one of a minute."""


@dataclass(frozen=True, slots=True)
class SiteEffort:
    """How much to measure.

    Attributes
    ----------
    workers : int
        Workers that are asked for.
    toy_s : float
        Time of a toy, in seconds.
    toys : int
        Toys of each hypothesis at each point of the scan.
    precision : float or None
        That of the campaign which plans by itself; left out if None.
    rounds : int
        How often each is measured.
    patience : float
        How long plain dask-jobqueue may take, in parts of what ours took.
    """

    workers: int = 4
    toy_s: float = 0.005
    toys: int = 12_000
    precision: float | None = 0.05
    rounds: int = 1
    patience: float = 2.0


QUICK_SITE = SiteEffort(workers=2, toys=256, precision=None, patience=4.0)


@dataclass(frozen=True, slots=True)
class Spent:
    """Where the allocated time of one job went, in seconds.

    Attributes
    ----------
    starting : float
        From the job's start to its first block: the batch system, Python, the connection.
    working : float
        In blocks, whatever became of them.
    between : float
        Between two blocks.
    ending : float
        From the last block to the job's end.
    """

    starting: float
    working: float = 0.0
    between: float = 0.0
    ending: float = 0.0

    @property
    def allocated(self) -> float:
        """All of it."""
        return self.starting + self.working + self.between + self.ending


@dataclass(frozen=True, slots=True)
class Share:
    """What one way of working made of the time that it was given.

    Attributes
    ----------
    name : str
        Who it was.
    toys, done : int
        Toys asked for, and those that came, once each.
    useful_s : float
        Time of those that came, in seconds.
    jobs : list of Spent
        Where the time of each job went.
    took_s : float
        From the beginning until the result was there, or was given up.
    """

    name: str
    toys: int
    done: int
    useful_s: float
    jobs: list[Spent]
    took_s: float

    @property
    def allocated_s(self) -> float:
        """Time of all jobs, in seconds."""
        return fsum(job.allocated for job in self.jobs)

    @property
    def useful(self) -> float:
        """Share of the allocated time that is useful."""
        return self.useful_s / self.allocated_s

    @property
    def after_start(self) -> float:
        """The same of the time after the first block of each job began."""
        return self.useful_s / max(self.allocated_s - self.part("starting"), 1e-9)

    def part(self, kind: str) -> float:
        """Give the time of all jobs that went in one way, in seconds."""
        return fsum(getattr(job, kind) for job in self.jobs)


def absent() -> str:
    """Say what is missing for this benchmark; empty if nothing is."""
    commands = missing("slurmctld", "slurmd", "sbatch", "munged")
    if not commands:
        return ""
    script = (HERE / "slurm.sh").relative_to(TESTS.parent)
    return f"sites: {', '.join(commands)} not found: {script} packages installs them, as root"


def site_share(*, quick: bool, say: Callable[[str], None] = print) -> list[Share]:
    """Measure everything, one after the other."""
    effort = QUICK_SITE if quick else SiteEffort()
    found = []
    with tempfile.TemporaryDirectory() as folder, _slurm() as slurm:
        for turn in range(effort.rounds):
            place = _Place(Path(folder, str(turn)), slurm, effort)
            first = place.campaign("hepdask-ml, scan", scan=SCAN, toys=effort.toys)
            found.append(first)
            say(_said(first))
            if effort.precision is not None:
                found.append(place.campaign("hepdask-ml, adaptive", precision=effort.precision))
                say(_said(found[-1]))
            for plain in PLAIN[-1:] if quick else PLAIN:
                found.append(place.plain(plain, effort.patience * first.took_s))
                say(_said(found[-1]))
    return found


def _said(share: Share) -> str:
    return (
        f"{share.name}: {share.done} of {share.toys} toys in {share.took_s:.0f} s, "
        f"{share.useful:.1%} useful, {share.after_start:.1%} after start-up"
    )


@dataclass(frozen=True, slots=True)
class Plain:
    """A way to use dask-jobqueue.

    Attributes
    ----------
    name : str
        To people.
    task_s : float
        Time of a task, in seconds.
    one_by_one : bool
        Take results as they come and let go of their futures, in place of waiting for all.
    adapt : bool
        Keep the number by ``adapt`` and let workers end by ``--lifetime``; else by ``scale`` alone.
    tuned : bool
        Let workers end one after the other (``--lifetime-stagger``), start without a nanny, and be
        missed at once.
    """

    name: str
    task_s: float
    one_by_one: bool = True
    adapt: bool = True
    tuned: bool = True


PLAIN = (
    Plain("dask-jobqueue, scale, tasks of 8 s, as_completed", 8.0, adapt=False),
    Plain("dask-jobqueue, adapt, tasks of 8 s, gather", 8.0, one_by_one=False, tuned=False),
    Plain("dask-jobqueue, adapt, tuned, tasks of 8 s, gather", 8.0, one_by_one=False),
    Plain("dask-jobqueue, adapt, tuned, tasks of 8 s, as_completed", 8.0),
    Plain("dask-jobqueue, adapt, tuned, tasks of 1 s, as_completed", 1.0),
)


class _Place:
    """Where everybody works the same toys."""

    def __init__(self, folder: Path, slurm: Slurm, effort: SiteEffort) -> None:
        self._folder, self._slurm, self._effort = folder, slurm, effort
        self._units: list[Unit] = []
        self._results: dict[str, bytes] = {}

    def campaign(self, name: str, **asked: Any) -> Share:
        """Run a campaign on our site."""
        with self._measured(name) as (folder, jobs):
            made: Campaign[Limit] = toy_limit(
                made_up.MADE_UP["one bin"], ledger=folder / "ledger", seed=7, **asked
            )
            made.runner = self._paced = Paced(made.runner, self._effort.toy_s, str(jobs.journal))
            with open_site(
                "slurm",
                workers=self._effort.workers,
                walltime=WALLTIME,
                memory=MEMORY,
                host="127.0.0.1",
                worker_options=["--host", "127.0.0.1"],
                environment={"PYTHONPATH": str(TESTS)},
                logs=str(folder / "logs"),
                shared=str(folder / "shared"),
            ) as client:
                made.run(client)
                jobs.stop()
        with read_ledger(folder / "ledger") as ledger:
            units = [record.unit for record in ledger.records()]
            results = {
                unit.key: b"".join(result for *_, result in ledger.results(unit.key))
                for unit in units
            }
        if not self._units:
            self._units, self._results = units, results
        toys = sum(unit.total for unit in units)
        return jobs.share(toys, toys, self._effort.toy_s)

    def plain(self, plain: Plain, deadline_s: float) -> Share:
        """Run the toys of the first campaign by dask-jobqueue."""
        steps = round(plain.task_s / self._effort.toy_s)
        tasks = [
            Task(unit.key, start, min(start + steps, unit.total))
            for unit in self._units
            for start in range(0, unit.total, steps)
        ]
        with self._measured(plain.name) as (folder, jobs):
            paced = replace(self._paced, journal=str(jobs.journal))
            specs = {unit.key: dict(unit.spec) for unit in self._units}
            with self._jobqueue(plain, folder) as client:
                futures = client.map(partial(work, paced=paced, specs=specs), tasks, pure=False)
                collect = _one_by_one if plain.one_by_one else _all_at_once
                results = collect(futures, monotonic() + deadline_s)
                jobs.stop()
        done = {tasks[index]: result for index, result in results.items()}
        self._compare(done)
        toys = sum(unit.total for unit in self._units)
        return jobs.share(toys, sum(task.stop - task.start for task in done), self._effort.toy_s)

    def _compare(self, done: Mapping[Task, bytes]) -> None:
        """See that it was the same work."""
        sizes = {unit.key: len(self._results[unit.key]) // unit.total for unit in self._units}
        for task, result in done.items():
            size = sizes[task.key]
            if result != self._results[task.key][task.start * size : task.stop * size]:
                raise RuntimeError(f"{task} gave another result than in the campaign")

    @contextmanager
    def _jobqueue(self, plain: Plain, folder: Path) -> Iterator[Client]:
        from dask_jobqueue.slurm import SLURMCluster  # noqa: PLC0415 - an extra

        workers = self._effort.workers
        # By default a task is given up after four dead workers, and a dead worker after 15 s.
        tuned = {
            "distributed.scheduler.allowed-failures": 100,
            "distributed.deploy.lost-worker-timeout": "1s",
        }
        ends = (LIFETIME if plain.tuned else LIFETIME[:2]) if plain.adapt else ()
        with (
            dask.config.set(tuned if plain.tuned else {}),
            SLURMCluster(
                cores=1,
                processes=1,
                memory=MEMORY,
                walltime=WALLTIME,
                nanny=not plain.tuned,  # without one it starts faster
                worker_extra_args=["--host", "127.0.0.1", "--no-dashboard", *ends],
                job_script_prologue=[f"export PYTHONPATH={TESTS} OMP_NUM_THREADS=1"],
                local_directory=str(folder),
                log_directory=str(folder / "logs"),
                scheduler_options={"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
                silence_logs="CRITICAL",
            ) as cluster,
            Client(cluster) as client,  # type: ignore[no-untyped-call]
        ):
            if plain.adapt:
                cluster.adapt(minimum_jobs=workers, maximum_jobs=workers)
            else:
                cluster.scale(jobs=workers)
            yield client

    @contextmanager
    def _measured(self, name: str) -> Iterator[tuple[Path, _Jobs]]:
        """Give a folder, and what will know of the jobs that are run within."""
        folder = self._folder / re.sub(r"\W+", "-", name)
        jobs = _Jobs(name, self._slurm, folder / "journal")
        yield folder, jobs
        self._slurm.reset()  # jobs that nobody has cancelled


class _Jobs:
    """The jobs that Slurm ran since this was made."""

    def __init__(self, name: str, slurm: Slurm, journal: Path) -> None:
        self.journal = journal
        journal.mkdir(parents=True)
        self._name, self._slurm = name, slurm
        self._before = set(accounted(self._text("jobs.txt"), ""))
        self._began = self._ended = monotonic()

    def stop(self) -> None:
        """Say that the result is there."""
        self._ended = monotonic()

    def share(self, toys: int, done: int, toy_s: float) -> Share:
        """Sum up, once all have ended."""
        wait_for(lambda: not self._slurm.jobs(), "the jobs to end")
        jobs = accounted(self._text("jobs.txt"), self._text("slurmctld.log"))
        spent = [
            split(*times, self._noted(job))
            for job, times in jobs.items()
            if job not in self._before and times[1] > times[0]
        ]
        took_s = self._ended - self._began
        return Share(self._name, toys, done, done * toy_s, spent, took_s)

    def _text(self, name: str) -> str:
        path = self._slurm.folder / name
        return path.read_text() if path.exists() else ""

    def _noted(self, job: str) -> str:
        path = self.journal / job
        return path.read_text() if path.exists() else ""


def accounted(ended: str, log: str) -> dict[str, tuple[float, float]]:
    """Read when jobs began and ended, as Unix times, from Slurm's file of jobs that have ended.

    The file has whole seconds.  The log has milliseconds: a line of it that names the job within
    the second tells the rest, for a start the first such line, and for an end.
    """
    lines = defaultdict(list)
    for stamp, job in re.findall(r"^\[(\S+)\] .*?\bJobId=(\d+)", log, re.MULTILINE):
        lines[job].append(datetime.fromisoformat(stamp).timestamp())

    def exact(job: str, text: str) -> float:
        second = datetime.fromisoformat(text).timestamp()
        return next((at for at in lines[job] if second <= at < second + 1.0), second)

    found = {}
    for line in ended.splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split())
        job, times = fields["JobId"], (fields["StartTime"], fields["EndTime"])
        if "Unknown" not in times:
            found[job] = (exact(job, times[0]), exact(job, times[1]))
    return found


def split(start: float, end: float, journal: str) -> Spent:
    """Split the time of a job by what it wrote of its blocks."""
    notes = [line.split() for line in journal.splitlines()]
    times = [(what, min(float(when), end)) for what, when in notes]
    if not times:
        return Spent(starting=end - start)
    if times[-1][0] == "begin":  # it was killed in a block
        times.append(("end", end))
    parts = {"begin": 0.0, "end": 0.0}
    for (what, when), (_, until) in pairwise(times):
        parts[what] += until - when
    return Spent(times[0][1] - start, parts["begin"], parts["end"], end - times[-1][1])


def _one_by_one(futures: Sequence[Future[bytes]], deadline: float) -> dict[int, bytes]:
    """Take each result as it comes; give all that have come by their places."""
    places = {future.key: index for index, future in enumerate(futures)}
    found: dict[int, bytes] = {}
    coming: Any = as_completed(futures, with_results=True)  # type: ignore[no-untyped-call]
    last = monotonic()
    while len(found) < len(futures) and monotonic() < min(deadline, last + STALLED_S):
        if not coming.has_ready():
            sleep(0.01)
            continue
        future, result = next(coming)
        last = monotonic()
        found[places[future.key]] = result
        future.release()
    return found


def _all_at_once(futures: Sequence[Future[bytes]], deadline: float) -> dict[int, bytes]:
    """Wait for all results and gather them; give none if they are not there in time."""
    patience_s = max(deadline - monotonic(), 0.1)
    try:
        wait(futures, timeout=patience_s)  # type: ignore[no-untyped-call]
        results = futures[0].client.gather(list(futures))
    except TimeoutError:
        return {}
    return dict(enumerate(results))


@contextmanager
def _slurm() -> Iterator[Slurm]:
    """Run a Slurm that the commands of this process use."""
    with real_slurm(nodes=4, cpus=2) as slurm:
        before = {key: os.environ.get(key) for key in slurm.env}
        os.environ.update(slurm.env)
        try:
            yield slurm
        finally:
            for key, value in before.items():
                os.environ.pop(key)
                if value is not None:
                    os.environ[key] = value
