"""One allocation: the driver runs inside a batch job, and its workers on the nodes of that job.

dask-jobqueue's runners and dask-mpi make one rank the scheduler, one the client, and start the
script once for each rank; the driver's state, its ledger, and Ctrl-C then hang on a rank, and a
dead rank ends all.  Here only the workers are started by the launcher, without MPI in Python:
whatever happens to them, the driver lives on, and starts the launcher again.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from distributed import Client, Scheduler

from hepdask_ml.config import at_least_one, filled, one_of
from hepdask_ml.errors import InputError, SiteError
from hepdask_ml.facility.jobs import DEATH_S, THREADS, last_line, python_command, tls_words
from hepdask_ml.facility.node import end
from hepdask_ml.facility.scheduler import (
    certificates,
    close_workers,
    cut_off,
    port_range,
    started,
    worker_words,
)
from hepdask_ml.facility.session import held
from hepdask_ml.facility.systems import SYSTEMS, BatchOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import SpecCluster

LOG = logging.getLogger(__name__)

PART_S = 10.0
"""Time in seconds that the launcher has for ending before it is killed."""

QUICK_S = 10.0
"""A launcher that ends sooner has failed."""

FAILURES = 3
"""Failures in a row after which it is not started again."""

LOOK_S = 0.5
"""Time in seconds between two looks at the launcher."""

JOB_IDS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
"""Variables by which batch systems tell a job its id."""

_MPI = ("PBS_NODEFILE", "LSB_JOBID", "PE_HOSTFILE")


@dataclass(frozen=True, slots=True)
class AllocationOptions(BatchOptions):
    """How the workers are started: ``options:`` of an allocation.

    All options of a batch site are known, too.  Those of a job (``walltime``, ``queue``,
    ``directives``, ...) are for ``hepdask-ml submit``; ``idle`` has no meaning, since nothing can
    be given back.

    Attributes
    ----------
    launcher : tuple of str
        What starts the workers on the nodes: ``"srun"``, ``"mpiexec"``, ``"local"`` for processes
        of the driver's own node, the words of another command with ``{workers}`` and ``{threads}``
        in them, or ``"auto"`` for what the batch system has.
    launcher_options : tuple of str
        More words for it.
    system : str or None
        Batch system to which ``hepdask-ml submit`` gives the allocation.
    nodes : int
        Nodes that it asks for.
    workers_per_job : int
        One: the launcher is told how many workers there are.
    """

    launcher: tuple[str, ...] = field(
        default=("auto",),
        metadata={"rule": filled, "text": lambda text: (text,), "form": "one text"},
    )
    launcher_options: tuple[str, ...] = field(
        default=(), metadata={"text": lambda text: (text,), "form": "one text"}
    )
    system: str | None = field(default=None, metadata={"rule": one_of(*SYSTEMS)})
    nodes: int = field(default=1, metadata={"rule": at_least_one})
    workers_per_job: int = field(
        default=1,
        metadata={"rule": lambda n: None if n == 1 else "an allocation is one job: set workers"},
    )


@dataclass(frozen=True, slots=True)
class AllocationSite:
    """Workers inside the allocation in which the driver runs.

    Attributes
    ----------
    workers : int or None
        Worker processes; as many as the allocation has tasks if None, or processors for them where
        tasks were not asked for.
    threads : int
        Threads of each.
    options : AllocationOptions
        How they are started.
    """

    workers: int | None = None
    threads: int = 1
    options: AllocationOptions = field(default_factory=AllocationOptions)

    def __post_init__(self) -> None:
        if self.options.shared is None:
            raise InputError(
                "the site allocation has no folder that its nodes see: name one as options.shared"
            )
        port_range(self.options.ports)
        port_range(self.options.scheduler_ports)

    def script(self) -> str:
        """Give the command that starts the workers.

        Returns
        -------
        str
            What is known only in the allocation is in capital letters.
        """
        launcher = self.options.launcher
        words = _launched(self, "srun" if launcher == ("auto",) else None, self.workers or "TASKS")
        worker = _worker(self, worker_words(self.options, Path("SESSION")), None)
        return f"{shlex.join(words)} bash -c {shlex.quote(worker)}\n"

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Start a scheduler in this process and the workers on the nodes, and connect.

        Yields
        ------
        Client
            Connected; workers come as soon as they have started.

        Raises
        ------
        InputError
            If it is not known how to start them here.
        SiteError
            If the launcher fails as often as it is started.
        """
        kind = _kind(self.options)
        workers = self.workers or tasks(self.threads, os.environ, local=kind == "local")
        parent = Path(str(self.options.shared)).expanduser()
        job = next((os.environ[name] for name in JOB_IDS if name in os.environ), uuid4().hex[:8])
        with ExitStack() as ending:
            session = ending.enter_context(held(parent, f"allocation-{job}"))
            security = certificates(self.options, session)
            cluster = ending.enter_context(started(self.options, security))
            session.announce(cluster.scheduler_address)
            client = ending.enter_context(Client(cluster))  # type: ignore[no-untyped-call]
            worker = _worker(
                self,
                worker_words(self.options, session.folder),
                workers if kind == "local" else None,
            )
            log = _log(self.options, job)
            command = [*_launched(self, kind, workers), "bash", "-c", worker]
            launcher = Launcher(command, log, lambda: cut_off(cluster))
            ending.callback(lambda: launcher.end(patient=_part(cluster)))
            launcher.start()
            try:
                yield client
            except BaseException:
                # The connection broke because the launcher was given up, and said why.
                if launcher.error is not None:
                    raise launcher.error from None
                raise


class Launcher:
    """Runs a command again whenever it ends, until it is told to end.

    Parameters
    ----------
    command : sequence of str
        The command; its processes are a session of their own, so that Ctrl-C does not reach them.
    log : Path
        File for what it prints.
    give_up : callable
        Is called when it has failed too often.

    Attributes
    ----------
    error : SiteError or None
        Why it was given up.
    """

    def __init__(self, command: Sequence[str], log: Path, give_up: Callable[[], None]) -> None:
        self.error: SiteError | None = None
        self._command, self._log, self._give_up = list(command), log, give_up
        self._told = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="hepdask-ml-launcher", daemon=True)

    def start(self) -> None:
        """Start it for the first time.

        Raises
        ------
        SiteError
            If it cannot be started at all.
        """
        self._begin()
        self._thread.start()

    def end(self, *, patient: bool) -> None:
        """End it, and kill what does not end in time.

        Parameters
        ----------
        patient : bool
            Its processes were told to end: wait for that before they get a signal.
        """
        self._told.set()
        if self._thread.ident is not None:
            self._thread.join()
        process = self._process
        if process is None:
            return
        signs = (signal.SIGTERM, signal.SIGKILL)
        for sign in (None, *signs) if patient else signs:
            if sign is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                process.wait(PART_S)
                break
        with suppress(ProcessLookupError):  # what it may have left in its session
            os.killpg(process.pid, signal.SIGKILL)

    def _begin(self) -> None:
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise SiteError(
                f"the workers cannot be started by {self._command[0]} ({error.strerror}): name "
                "another options.launcher"
            ) from None

    def _keep(self) -> None:
        failures, began = 0, monotonic()
        while not self._told.wait(LOOK_S):
            process = cast("subprocess.Popen[bytes]", self._process)
            if process.poll() is None:
                continue
            failures = failures + 1 if monotonic() - began < QUICK_S else 0
            said = last_line(self._log) or "it printed nothing"
            LOG.warning("%s ended with %s: %s", self._command[0], process.returncode, said)
            if failures >= FAILURES:
                self.error = SiteError(
                    f"{self._command[0]} ended {failures} times as soon as it had begun: {said} "
                    f"(all it printed is in {self._log})"
                )
                self._give_up()
                return
            began = monotonic()
            try:
                self._begin()
            except SiteError as error:
                self.error = error
                self._give_up()
                return


def tasks(threads: int, environ: Mapping[str, str], *, local: bool = False) -> int:
    """Count the workers for which an allocation has room.

    Parameters
    ----------
    threads : int
        Threads of each.
    environ : mapping of str to str
        What the batch system says.
    local : bool
        On this node alone.

    Returns
    -------
    int
        At least one.

    Examples
    --------
    >>> tasks(1, {"SLURM_NTASKS": "8"})
    8
    >>> tasks(4, {"SLURM_JOB_CPUS_PER_NODE": "16(x2),8"})
    10
    """
    if local:
        return max(1, len(os.sched_getaffinity(0)) // threads)
    if "SLURM_NTASKS" in environ:
        return int(environ["SLURM_NTASKS"])
    if "SLURM_JOB_CPUS_PER_NODE" in environ:
        return max(1, _slurm_room(environ["SLURM_JOB_CPUS_PER_NODE"], threads))
    if "PBS_NODEFILE" in environ:
        with suppress(OSError):
            # One line for each process of MPI.
            return max(1, len(Path(environ["PBS_NODEFILE"]).read_text().split()))
    for name in ("LSB_DJOB_NUMPROC", "NSLOTS"):
        if environ.get(name, "").isdecimal():
            return max(1, int(environ[name]) // threads)
    raise InputError(
        "it is not known for how many workers the allocation has room: say it as workers"
    )


def _slurm_room(text: str, threads: int) -> int:
    room = 0
    for part in text.split(","):
        processors, _, times = part.rstrip(")").partition("(x")
        room += int(processors) // threads * int(times or 1)
    return room


def _kind(options: AllocationOptions) -> str:
    """Give the launcher: one that is known, or the first word of another command."""
    if options.launcher != ("auto",):
        return options.launcher[0]
    if "SLURM_JOB_ID" in os.environ and shutil.which("srun"):
        return "srun"
    if any(name in os.environ for name in _MPI) and shutil.which("mpiexec"):
        return "mpiexec"
    raise InputError(
        "the site allocation finds neither srun in a job of Slurm nor mpiexec in one of PBS, LSF "
        'or Grid Engine: name what starts processes on the nodes as options.launcher, or "local"'
    )


def _launched(site: AllocationSite, kind: str | None, workers: int | str) -> list[str]:
    """Give the words before the worker's own."""
    options = site.options
    kind = kind or options.launcher[0]
    if len(options.launcher) > 1 or kind not in {"srun", "mpiexec", "local"}:
        words = [
            word.replace("{workers}", str(workers)).replace("{threads}", str(site.threads))
            for word in options.launcher
        ]
    elif kind == "srun":
        words = [
            "srun",
            f"--ntasks={workers}",
            f"--cpus-per-task={site.threads}",
            # The driver itself may be a step, and waits for this one.
            "--overlap",
            # A dead worker is started again by its nanny; the others go on.
            "--kill-on-bad-exit=0",
            "--wait=0",
            *([f"--gpus-per-task={options.gpus}"] if options.gpus else []),
        ]
    elif kind == "mpiexec":
        words = ["mpiexec", "-n", str(workers)]
    else:
        words = []
    return [*words, *options.launcher_options]


def _worker(site: AllocationSite, found: Mapping[str, Any], number: int | None) -> str:
    """Write the shell command of one process; several workers in it if a number is given."""
    options = site.options
    at = end().at
    values = {
        **dict.fromkeys(THREADS, "1"),
        # Launchers of MPI do not hand over the environment, from which the end is known.
        **({} if at is None else {"HEPDASK_ML_END": str(int(at))}),
        **options.environment,
    }
    exports = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in values.items())
    security = found.get("security")
    words = [
        f"--scheduler-file {shlex.quote(str(found['scheduler_file']))}",
        f"--nthreads {site.threads}",
        f"--memory-limit {int(options.memory)}",
        "--nanny",
        f"--death-timeout {DEATH_S}",
        "--no-dashboard",
        "--dashboard-address 127.0.0.1:0",
        *([] if number is None else [f"--nworkers {number}"]),
        # Not quoted: variables are replaced on the node.
        *([f"--local-directory {options.scratch}"] if options.scratch else []),
        *([f"--interface {options.interface}"] if options.interface else []),
        *([f"--worker-port {options.ports} --nanny-port {options.ports}"] if options.ports else []),
        *([f"--resources GPU={options.gpus}"] if options.gpus else []),
        *([] if security is None else ["--protocol tls", *tls_words(security)]),
        *map(shlex.quote, options.worker_options),
    ]
    run = (
        f"exec {python_command('slurm', options)} -m distributed.cli.dask_worker {' '.join(words)}"
    )
    return "; ".join([f"export {exports}", *options.setup, run])


def _log(options: AllocationOptions, job: str) -> Path:
    folder = Path(options.logs).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SiteError(f"options.logs cannot be made at {folder}: {error.strerror}") from None
    return folder / f"allocation-{job}.log"


def _part(cluster: SpecCluster) -> bool:
    """Let the workers end by themselves, and their nannies with them; whether there are any."""
    scheduler = cast("Scheduler", cluster.scheduler)
    if not scheduler.workers:
        return False
    try:
        close_workers(cluster)
        deadline = monotonic() + PART_S
        while scheduler.workers and monotonic() < deadline:
            sleep(0.1)
    except OSError as error:
        LOG.warning("the workers could not be told to end: %s", error)
        return False
    return True
