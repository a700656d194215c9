"""Scheduler, workers and drivers as processes of their own, all gone in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from distributed import Client, LocalCluster
from stories.work import wait_for

from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.campaign.plugin import ABANDONED_S, NAME, SILENCE_S, PoolPlugin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stories.work import Book

TESTS = Path(__file__).parents[1]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Process:
    """A process, its children and its output."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    @property
    def said(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    @property
    def output(self) -> str:
        """What it has printed, and what it and Dask have logged."""
        return self.said + self.log.with_suffix(".err").read_text(errors="replace")

    def send(self, number: int) -> None:
        """Send a signal to this process alone."""
        with suppress(ProcessLookupError):
            self.popen.send_signal(number)

    def stop(self) -> None:
        """Let it stand still until it gets SIGCONT."""
        self.send(signal.SIGSTOP)
        process = psutil.Process(self.pid)
        wait_for(lambda: process.status() == psutil.STATUS_STOPPED, f"{self.name} to stop")

    def send_all(self, number: int) -> None:
        """Send a signal to it and its children, as a batch system does."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def children(self) -> list[int]:
        """Give its children that are workers: the interpreters that a nanny has spawned."""
        with suppress(psutil.Error):
            return [
                child.pid
                for child in psutil.Process(self.pid).children(recursive=True)
                if "spawn_main" in " ".join(child.cmdline())
            ]
        return []

    def wait(self) -> int:
        """Wait until it has ended; give its exit code."""
        wait_for(lambda: not self.alive, f"{self.name} to end; it said {self.output}")
        return int(self.popen.returncode)

    def kill(self) -> None:
        """Kill it and its children."""
        self.send_all(signal.SIGKILL)
        self.popen.wait()
        self.send_all(signal.SIGKILL)  # what it has started in its last moment


class Place:
    """Starts processes on the loopback address, and ends them all when it is closed.

    Parameters
    ----------
    folder : Path
        For logs and what the processes write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Process] = []
        self.scheduler_file = folder / "none.json"
        self._numbers = count()

    def close(self) -> None:
        for process in self.started:
            process.kill()

    def start(self, name: str, *command: str, env: Mapping[str, str] | None = None) -> Process:
        """Start ``python COMMAND`` in a session of its own."""
        log = self.folder / f"{next(self._numbers):03d}-{name}.out"
        paths = [(env or {}).get("PYTHONPATH"), str(TESTS)]
        with log.open("wb") as output, log.with_suffix(".err").open("wb") as errors:
            popen = subprocess.Popen(
                [sys.executable, "-W", "ignore", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
                cwd=self.folder,
                env={
                    **os.environ,
                    **dict.fromkeys(THREADS, "1"),
                    **(env or {}),
                    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                },
            )
        process = Process(name, popen, log)
        self.started.append(process)
        return process

    def scheduler(self, env: Mapping[str, str] | None = None) -> Process:
        """Start a scheduler; what is started afterwards uses it."""
        self.scheduler_file = self.folder / f"scheduler-{next(self._numbers)}.json"
        process = self.start(
            "scheduler", "-m", "distributed.cli.dask_scheduler",
            "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0",
            "--scheduler-file", str(self.scheduler_file),
            env=env,
        )  # fmt: skip
        wait_for(self._written, "the scheduler's file")
        return process

    def _written(self) -> bool:
        with suppress(OSError, ValueError):
            return bool(json.loads(self.scheduler_file.read_text())["address"])
        return False

    def worker(
        self, *options: str, nanny: bool = False, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a worker of one thread."""
        return self.start(
            "worker", "-m", "distributed.cli.dask_worker",
            "--scheduler-file", str(self.scheduler_file), "--nthreads", "1",
            "--host", "127.0.0.1", "--no-dashboard", "--memory-limit", "0",
            *([] if nanny else ["--no-nanny"]), *options,
            env=env,
        )  # fmt: skip

    def driver(
        self,
        book: Book,
        *options: str,
        local: bool = False,
        step_s: float = 0.004,
        target_s: float = 0.2,
    ) -> Process:
        """Start a driver of a campaign, on the scheduler or as its options say."""
        return self.start(
            "driver", "-m", "stories.campaigner", str(book.folder),
            "--ledger", str(book.path), "--units", str(book.plan.units),
            "--steps", str(book.plan.steps), "--rounds", str(book.plan.rounds),
            "--faults", json.dumps(dict(book.plan.faults)),
            "--step-s", str(step_s), "--target-s", str(target_s),
            *([] if local else ["--scheduler-file", str(self.scheduler_file)]), *options,
        )  # fmt: skip

    def client(self) -> Client:
        """Connect to the scheduler."""
        return Client(scheduler_file=str(self.scheduler_file), timeout=60)  # type: ignore[no-untyped-call]

    def address_of(self, process: int) -> str:
        """Give the address of the worker in a process."""
        with self.client() as client:
            found: str = wait_for(
                lambda: next((a for a, pid in pids(client).items() if pid == process), ""),
                f"the worker in process {process}",
            )
            return found


def local_cluster(workers: int) -> LocalCluster:
    """Start workers of one thread, each started again by its nanny if it dies."""
    return LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    )


def pids(client: Client) -> dict[str, int]:
    """Give the process of each worker."""
    found: dict[str, Any] = client.run(os.getpid, on_error="ignore")
    return found


def tell(client: Client, operation: str, **message: Any) -> Any:
    """Send a message to the plugin, as drains and drivers do."""
    handler = getattr(client.scheduler, f"hepdask_ml_{operation}")
    return client.sync(handler, **message)  # type: ignore[no-untyped-call]


def drains(client: Client, book: Book) -> dict[str, int]:
    """Ask the pool of a campaign for the number of drains of each worker, taking nothing."""
    with read_ledger(book.path) as ledger:
        campaign = ledger.campaign
    answer = tell(
        client,
        "collect",
        campaign=campaign,
        written=0,
        offers=[],
        census=True,
        patience_s=0.0,
    )
    return dict(answer["drains"])


def register(
    client: Client, silence_s: float = SILENCE_S, abandoned_s: float = ABANDONED_S
) -> None:
    """Register the plugin before a driver does, maybe with another patience."""
    client.register_plugin(PoolPlugin(silence_s=silence_s, abandoned_s=abandoned_s), NAME)
