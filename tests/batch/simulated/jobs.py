"""Jobs of a simulated batch system: files in a folder, and one process that minds each job.

Nothing here is real.  A job is a process of this machine in a session of its own, started by its
*minder* when there is a free slot; the minder ends it as the system that is simulated would.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

WAITING, RUNNING, HELD = "waiting", "running", "held"
LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Settings:
    """What the simulated system is like.

    Attributes
    ----------
    slots : int
        Jobs that run at the same time.
    queues : list of str
        Those that exist; the first is the default.
    refusal : str
        Words with which all submissions are refused; empty if they are not.
    grace_s : float
        Seconds between two signals to a job that has to end.
    minute_s : float
        Seconds that a minute of walltime lasts, where the unit of the system is a minute.
    """

    slots: int = 4
    queues: list[str] = field(default_factory=lambda: ["normal", "short"])
    refusal: str = ""
    grace_s: float = 3.0
    minute_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """A job; ``asked`` is what its minder is to do with it: remove, requeue or hold."""

    number: int
    name: str
    queue: str
    command: list[str]
    folder: str
    environment: dict[str, str]
    output: str
    errors: str
    walltime_s: float | None = None
    after: int | None = None
    special: dict[str, Any] = field(default_factory=dict)
    state: str = WAITING
    reason: str = ""
    asked: str = ""
    starts: int = 0
    submitted: float = 0.0
    started: float = 0.0
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a system ends a running job.

    Attributes
    ----------
    removed, over : tuple of signals
        What is sent before SIGKILL if it is removed, and if its walltime is over.
    all_processes : bool
        Whether these go to all its processes or to the first alone.
    hold : str
        Reason for which a job whose walltime is over is held; empty if it is gone.
    """

    removed: tuple[signal.Signals, ...] = (signal.SIGTERM,)
    over: tuple[signal.Signals, ...] = (signal.SIGTERM,)
    all_processes: bool = True
    hold: str = ""


class Store:
    """The folder with all jobs and settings, shared by commands, minders and tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, name: str, record: Settings | Job) -> None:
        new = self.folder / f"{name}.new"
        new.parent.mkdir(exist_ok=True)
        new.write_text(json.dumps(asdict(record)))
        new.replace(self.folder / f"{name}.json")

    def _read(self, kind: str) -> list[Job]:
        found = []
        for path in (self.folder / kind).glob("*.json"):
            with suppress(FileNotFoundError):  # it has just ended
                found.append(Job(**json.loads(path.read_text())))
        return sorted(found, key=lambda job: job.number)

    @property
    def settings(self) -> Settings:
        with suppress(FileNotFoundError):
            return Settings(**json.loads((self.folder / "settings.json").read_text()))
        return Settings()

    def set(self, **changes: Any) -> None:
        """Change settings."""
        with self._alone():
            self._write("settings", replace(self.settings, **changes))

    def jobs(self) -> list[Job]:
        """Give the jobs that have not ended, by their numbers."""
        return self._read("jobs")

    def ended(self) -> list[Job]:
        """Give those that have; their reason is the exit code, "removed" or "walltime"."""
        return self._read("ended")

    def job(self, number: int) -> Job | None:
        return next((job for job in self.jobs() if job.number == number), None)

    def next_number(self) -> int:
        """Give a number that no job has had."""
        with self._alone():
            last = self.folder / "last"
            number = 1 + (int(last.read_text()) if last.exists() else 0)
            last.write_text(str(number))
            return number

    def add(self, kind: str, job: Job) -> None:
        """Add a job and start its minder."""
        with self._alone():
            self._write(f"jobs/{job.number}", replace(job, submitted=time.time()))
        with (self.folder / "minders.log").open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-I", "-c", _MINDER, str(Path(__file__).parents[2]), kind,
                 str(self.folder), str(job.number)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )  # fmt: skip

    def deserted(self) -> bool:
        """Tell whether the process for which all this is done has gone."""
        with suppress(OSError, ValueError):
            return not _is_living(int((self.folder / "owner").read_text()))
        return True

    def change(self, number: int, **changes: Any) -> None:
        """Change a job that has not ended."""
        with self._alone():
            if (job := self.job(number)) is not None:
                self._write(f"jobs/{number}", replace(job, **changes))

    def end(self, number: int, reason: str) -> None:
        with self._alone():
            if (job := self.job(number)) is not None:
                self._write(f"ended/{number}", replace(job, state="ended", reason=reason))
                (self.folder / f"jobs/{number}.json").unlink()

    def take_turn(self, number: int) -> Job | None:
        """Make a waiting job a running one if it is its turn."""
        with self._alone():
            jobs = self.jobs()
            job = next((job for job in jobs if job.number == number), None)
            running = sum(other.state == RUNNING for other in jobs)
            first = min((other.number for other in jobs if _may_run(other, jobs)), default=0)
            if job is None or first != number or running >= self.settings.slots:
                return None
            job = replace(job, state=RUNNING, reason="", starts=job.starts + 1, started=time.time())
            self._write(f"jobs/{number}", job)
            return job


_MINDER = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from batch.simulated.minder import mind; mind(sys.argv[2], sys.argv[3], int(sys.argv[4]))"
)


def _may_run(job: Job, jobs: list[Job]) -> bool:
    depends = any(other.number == job.after for other in jobs)
    return job.state == WAITING and not job.asked and not depends


@dataclass(frozen=True, slots=True)
class Start:
    """What is run for a job: words, folder, environment and files of its output."""

    command: list[str]
    folder: str
    environment: Mapping[str, str]
    output: str
    errors: str


def session_of(pid: int) -> list[int]:
    """Give the processes of a session that are alive."""
    found = []
    for other in psutil.pids():
        with suppress(OSError):
            if os.getsid(other) == pid and _is_living(other):
                found.append(other)
    return found


def _is_living(pid: int) -> bool:
    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def send(number: int, pid: int, *, to_all: bool) -> None:
    """Send a signal to the first process of a job, or to all."""
    for other in session_of(pid) if to_all else [pid]:
        with suppress(ProcessLookupError):
            os.kill(other, number)
