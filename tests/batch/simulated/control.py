"""What a test does with a simulated batch system."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from batch.simulated.command import SYSTEMS
from batch.simulated.jobs import HELD, RUNNING, WAITING, Job, Store, send, session_of
from stories.work import wait_for

if TYPE_CHECKING:
    import pytest

_COMMAND = """\
#!/bin/sh
exec {python} -I -c 'import sys; sys.path.insert(0, sys.argv.pop(1))
from batch.simulated.command import main; main(sys.argv[1:])' {tests} {kind} {folder} {name} "$@"
"""


class Simulated:
    """A simulated batch system: HTCondor, PBS or LSF.

    Attributes
    ----------
    store : Store
        Its jobs and settings.
    bin : Path
        The folder with its commands.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (folder / "owner").write_text(str(os.getpid()))
        self.store = Store(folder)
        for name in SYSTEMS[kind].COMMANDS:
            command = self.bin / name
            command.write_text(
                _COMMAND.format(
                    python=shlex.quote(sys.executable),
                    tests=shlex.quote(str(Path(__file__).parents[2])),
                    kind=kind,
                    folder=shlex.quote(str(folder)),
                    name=name,
                )
            )
            command.chmod(0o755)

    @property
    def env(self) -> dict[str, str]:
        """What finds its commands."""
        return {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}

    def jobs(self, state: str = "") -> list[Job]:
        """Give the jobs that have not ended, or those in a state."""
        return [job for job in self.store.jobs() if job.state == state or not state]

    def job(self, number: int) -> Job:
        """Give a job that has not ended, or has."""
        found = [job for job in [*self.store.jobs(), *self.store.ended()] if job.number == number]
        return found[0]

    def set(self, **changes: Any) -> None:
        """Change its settings: ``slots=0`` makes all jobs wait, ``refusal="..."`` refuses them."""
        self.store.set(**changes)

    def hold(self, number: int, reason: str) -> None:
        """Hold a job, as an administrator does."""
        self.store.change(number, asked="hold", reason=reason)
        self.wait_for_state(number, HELD)

    def release(self, number: int) -> None:
        """Let a job that is held wait for its turn again."""
        self.store.change(number, state=WAITING, reason="")

    def evict(self, number: int) -> None:
        """End a running job and put it back into the queue: it runs again under the same number."""
        self.store.change(number, asked="requeue")

    def kill(self, number: int) -> None:
        """Let the node of a job vanish: SIGKILL for all its processes."""
        send(signal.SIGKILL, self.job(number).pid, to_all=True)

    def wait_for_state(self, number: int, state: str) -> None:
        """Wait until a job is waiting, running, held or ended."""
        try:
            wait_for(lambda: self._is(number, state), f"job {number} to be {state}")
        except AssertionError as error:
            error.add_note(f"{self.job(number)}; {self._said()}")
            raise

    def _is(self, number: int, state: str) -> bool:
        job = self.job(number)
        return job.state == state and (state != RUNNING or job.pid > 0)

    def processes(self) -> list[int]:
        """Give all living processes of its jobs."""
        known = [*self.store.jobs(), *self.store.ended()]
        return [pid for job in known if job.pid for pid in session_of(job.pid)]

    def close(self) -> None:
        """End all jobs and their minders."""
        self.store.set(grace_s=0.0)
        for job in self.jobs():
            self.store.change(job.number, asked="remove")
        wait_for(lambda: not self.jobs(), "the jobs to be removed")
        wait_for(lambda: not self._minders(), "the minders to end")

    def _minders(self) -> list[int]:
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            if str(self.folder) in words and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        return found

    def _said(self) -> str:
        log = self.folder / "minders.log"
        return log.read_text() if log.exists() else ""


@contextmanager
def simulated(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    """Simulate a batch system whose commands this process finds; its jobs end with it."""
    system = Simulated(kind, folder)
    monkeypatch.setenv("PATH", system.env["PATH"])
    try:
        yield system
    finally:
        system.close()
