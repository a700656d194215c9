"""Real batch systems, started for the tests by ``slurm.sh`` and ``sge.sh``.

Each is one object: its folder, the environment in which its commands work, and what can be done to
its jobs and nodes.  A folder is named after the process that made it, so that the next run of the
tests ends what a killed one has left.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

import psutil
from stories.work import wait_for

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Row:
    """A job as its batch system lists it; ``state`` and ``reason`` are the system's own words."""

    id: str
    state: str
    reason: str = ""
    name: str = ""
    node: str = ""


class _System:
    """A batch system in a folder.

    Attributes
    ----------
    folder : Path
        All its state.
    env : mapping of str to str
        What its commands and drivers of jobs need beyond this process's environment.
    prefix : tuple of str
        Words before a command that is to run where the system is.
    """

    env: Mapping[str, str]
    prefix: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command where the system is, in a session of its own."""
        return subprocess.Popen(
            [*self.prefix, *command],
            env=_plain() | dict(self.env) | dict(env or {}),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, env: Mapping[str, str] | None = None, code: int = 0) -> str:
        """Run a command where the system is; give what it printed."""
        process = self.start(*command, env=env)
        output, errors = process.communicate()
        assert process.returncode == code, f"{command}: {process.returncode}: {output}{errors}"
        return output if code == 0 else errors

    def jobs(self) -> list[Row]:
        """Give the jobs that are waiting or running."""
        raise NotImplementedError

    def processes(self) -> list[psutil.Process]:
        """Give the living processes of its daemons and jobs."""
        raise NotImplementedError

    def state(self, job: str) -> str:
        """Give the state of a job; empty if it is not listed."""
        return next((row.state for row in self.jobs() if row.id == job), "")

    def wait_for_state(self, job: str, *states: str) -> None:
        """Wait until a job is in one of these states."""
        try:
            wait_for(lambda: self.state(job) in states, f"job {job} to be {states}")
        except AssertionError as error:
            error.add_note(str(self.jobs()))
            raise

    def _script(self, text: str) -> str:
        path = self.folder / "script.sh"
        path.write_text(f"#!/bin/sh\n{text}\n")
        return str(path)


class Slurm(_System):
    """Slurm (tried: 22.05) with nodes n1, n2, ..., its partitions main and urgent.

    A job in urgent takes the place of one in main, which goes back into the queue.  The smallest
    limit of time is a minute, and it is looked at every 30 s.
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        super().__init__(folder)
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self.env = {"SLURM_CONF": str(folder / "slurm.conf")}

    @property
    def cluster(self) -> str:
        """Its name, which the jobs see as SLURM_CLUSTER_NAME."""
        lines = (self.folder / "slurm.conf").read_text().splitlines()
        return lines[0].partition("=")[2]

    def jobs(self) -> list[Row]:
        lines = self.run("squeue", "--noheader", "--format", "%i|%T|%r|%j|%N").splitlines()
        return [Row(*line.split("|")) for line in lines]

    def submit(self, text: str, *options: str) -> str:
        """Submit a script of these lines; give the job's id."""
        said = self.run("sbatch", "--parsable", *options, self._script(text))
        return said.strip().partition(";")[0]

    def state(self, job: str) -> str:
        """Give the state of a job, also of one that has ended: COMPLETED, TIMEOUT, CANCELLED."""
        said = self.run("scontrol", "--oneliner", "show", "job", job)
        return said.partition("JobState=")[2].partition(" ")[0]

    def scancel(self, *jobs: str) -> None:
        self.run("scancel", *jobs)

    def requeue(self, job: str) -> None:
        """Put a running job back into the queue, where it waits for about 5 s."""
        self.run("scontrol", "requeue", job)

    def kill_node(self, name: str, *, jobs: bool = True) -> None:
        """Let a node vanish, its jobs with it or not; Slurm notices after 20 to 30 s."""
        pid = int((self.folder / f"slurmd.{name}.pid").read_text())
        steps = [p for p in self.processes() if _environment(p).get("SLURMD_NODENAME") == name]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if jobs:
            # Their parents first, who would tell of the jobs' end.
            _kill([parent for step in steps if (parent := _step_daemon(step)) is not None])
            _kill(steps)

    def start_nodes(self) -> None:
        """Start again the nodes that were killed."""
        _script("slurm.sh", "up", self.folder)

    def processes(self, job: str = "") -> list[psutil.Process]:
        """Give the living processes of its jobs, or of one job; without one its daemons, too."""
        wanted = {"SLURM_CLUSTER_NAME": self.cluster} | ({"SLURM_JOB_ID": job} if job else {})
        return [
            process
            for process in _living()
            if wanted.items() <= _environment(process).items()
            or (not job and _is_daemon(process, self.folder))
        ]

    def reset(self) -> None:
        """Cancel all jobs and wait until every node is free."""
        self.start_nodes()
        jobs = [row.id for row in self.jobs()]
        if jobs:
            with suppress(AssertionError):  # some have ended in the meantime
                self.scancel("--signal=KILL", "--full", *jobs)
            self.scancel(*jobs)
        wait_for(lambda: not self.jobs(), "the jobs to end")
        wait_for(
            lambda: (
                set(self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split()) == {"idle"}
            ),
            "all nodes to be idle",
        )


class GridEngine(_System):
    """Son of Grid Engine with one host, its queue main.q and the parallel environment smp.

    Its network is its own: a driver of jobs has to be started by `start` or `run`.  Limits of time
    are exact to about a second.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.env = {"SGE_ROOT": "/var/lib/gridengine", "SGE_CELL": "default"}
        self.prefix = (str(HERE / "sge.sh"), "exec", str(folder))

    def jobs(self) -> list[Row]:
        lines = self.run("qstat", "-u", "*").splitlines()[2:]
        return [Row(id=words[0], state=words[4], name=words[2]) for words in map(str.split, lines)]

    def submit(self, text: str, *options: str) -> str:
        """Submit a script of these lines; give the job's id."""
        said = self.run("qsub", "-terse", *options, self._script(text))
        return said.strip()

    def qdel(self, *jobs: str) -> None:
        self.run("qdel", *jobs)

    def accounting(self, job: str) -> dict[str, str]:
        """Give what is written about a job that has ended; empty before."""
        for line in self._accounts():
            words = line.split(":")
            if len(words) > 12 and words[5] == job:
                return {
                    "start": words[9],
                    "end": words[10],
                    "failed": words[11],
                    "exit_status": words[12],
                }
        return {}

    def _accounts(self) -> list[str]:
        with suppress(FileNotFoundError):
            return (self.folder / "cell/common/accounting").read_text().splitlines()
        return []

    def processes(self) -> list[psutil.Process]:
        network = _network(int((self.folder / "holder.pid").read_text()))
        return [process for process in _living() if _network(process.pid) == network]

    def reset(self) -> None:
        """Delete all jobs and wait until they are gone."""
        if self.jobs():
            with suppress(AssertionError):  # some have ended in the meantime
                self.qdel("-f", *(row.id for row in self.jobs()))
        wait_for(lambda: not self.jobs(), "the jobs to end")


@contextmanager
def real_slurm(nodes: int = 4, cpus: int = 2) -> Iterator[Slurm]:
    """Run a Slurm; no process of it is left afterwards."""
    with _folder("slurm") as folder:
        _script("slurm.sh", "up", folder, str(nodes), str(cpus), str(_free_ports(nodes + 1)))
        yield Slurm(folder, nodes)


@contextmanager
def real_grid_engine(slots: int = 4) -> Iterator[GridEngine]:
    """Run a Grid Engine; no process of it is left afterwards."""
    with _folder("sge") as folder:
        _script("sge.sh", "up", folder, str(slots))
        yield GridEngine(folder)


@contextmanager
def _folder(kind: str) -> Iterator[Path]:
    # Not below pytest's own folder, whose path is too long for a socket.
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"hepdask-{kind}-*"):
        owner = int(left.name.split("-")[2])
        with suppress(FileNotFoundError):  # another run ends it, too
            if left.stat().st_uid == os.getuid() and not _is_living(owner):
                _down(kind, left)
    folder = Path(tempfile.mkdtemp(prefix=f"hepdask-{kind}-{os.getpid()}-"))
    try:
        yield folder
    finally:
        _down(kind, folder)


def _down(kind: str, folder: Path) -> None:
    _script(f"{kind}.sh", "down", folder)
    shutil.rmtree(folder, ignore_errors=True)


def _script(name: str, verb: str, folder: Path, *words: str) -> None:
    # Daemons keep what they inherit open: a pipe would never end.
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run(
            [str(HERE / name), verb, str(folder), *words],
            env=_plain(),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            check=False,
        )
        said.seek(0)
        assert done.returncode == 0, f"{name} {verb}: {said.read()}"


def _plain() -> dict[str, str]:
    """Give this process's environment without what a batch system around it has set."""
    return {key: value for key, value in os.environ.items() if key[:6] != "SLURM_"}


def _free_ports(number: int) -> int:
    """Give the first of so many free ports, below those that connections are given."""
    for _ in range(100):
        first = SystemRandom().randrange(20000, 30000)
        if all(_is_free(port) for port in range(first, first + number)):
            return first
    raise AssertionError(f"no {number} free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _living() -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _is_living(process.pid)]


def _is_living(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def _environment(process: psutil.Process) -> dict[str, str]:
    with suppress(psutil.Error):
        return process.environ()
    return {}


def _is_daemon(process: psutil.Process, folder: Path) -> bool:
    with suppress(psutil.Error):
        words = process.cmdline()
        name = Path(words[0]).name if words else ""
        return name.startswith(("slurm", "munged")) and str(folder) in " ".join(words)
    return False


def _step_daemon(process: psutil.Process) -> psutil.Process | None:
    with suppress(psutil.Error):
        parent = process.parent()
        if parent is not None and parent.name().startswith("slurmstepd"):
            return parent
    return None


def _network(pid: int) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    return ""


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def missing(*commands: str) -> list[str]:
    """Give those commands that are not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [command for command in commands if shutil.which(command, path=path) is None]
