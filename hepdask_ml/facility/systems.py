"""Batch systems: one table of what differs between them.

What is alike, how a job is asked for, is in `BatchOptions`; how a script is written and sent is
dask-jobqueue's business.  A row adds what that library leaves open: how resources are named, which
jobs there are, and why one of them does not start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from getpass import getuser
from math import ceil
from typing import Any

from hepdask_ml.config import at_least_one, filled, parse_duration, parse_size, settle


class State(Enum):
    """What has become of a job that the batch system still lists."""

    WAITING = "waiting"
    RUNNING = "running"
    STUCK = "stuck"
    """It will not run by itself: held, or in error."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A job as its batch system lists it.

    Attributes
    ----------
    state : State
        Its state.
    reason : str
        Why it waits or is stuck, in the system's own words; empty if it does not say.
    """

    state: State
    reason: str = ""


_TEXTS = {"text": lambda text: (text,), "form": "one text"}
_DURATION = {"text": parse_duration, "form": "a duration as text"}
_SIZE = {"rule": at_least_one, "text": parse_size, "form": "a size as text"}


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What is asked of a batch system for each of its jobs: ``options:`` of a batch site.

    Attributes
    ----------
    walltime : float
        Time after which the system ends a job, in seconds; as text ``"02:00:00"`` or ``"2 h"``.
    memory : float
        Memory of each worker in bytes; as text ``"4 GB"``.
    workers_per_job : int
        Worker processes in one job.
    gpus : int
        Graphics processors of each worker.
    gpu_type : str or None
        Their type, as the system names it.
    queue : str or None
        Queue or partition.
    account : str or None
        Account or project that is charged.
    resources : str or None
        Resources in the system's own words: what follows ``-l`` on PBS, in place of ``select=1``,
        and on Grid Engine.
    directives : tuple of str
        More lines for the head of the script, without the system's prefix; for HTCondor
        ``"key = value"``.
    skip : tuple of str
        Lines of the head that hold one of these texts are left out.
    submit_options : tuple of str
        More words for the command that submits; HTCondor only.
    disk : float
        Disk of each job in bytes, as text ``"4 GB"``; HTCondor only.
    setup : tuple of str
        Shell commands before the worker starts: ``module load``, ``source venv/bin/activate``.
    environment : mapping of str to str
        Variables for the worker.
    python : str or None
        The interpreter on the nodes; the one that runs now if None, ``python`` in a container.
    container : str or None
        Image in which the worker runs, through apptainer.
    container_options : tuple of str
        More words for ``apptainer exec``, as ``--bind /data``.
    scratch : str or None
        Folder for the worker's temporary files on its node; variables are replaced there.
    logs : str
        Folder for what the jobs print, seen by the nodes and here.
    shared : str or None
        Folder that the nodes see, too: there the workers find the scheduler and the certificates,
        and a driver that was killed leaves its waiting jobs to the next.  None where there is no
        such folder: the address is written into the jobs, and certificates travel with them.
    interface : str or None
        Network interface by which nodes and scheduler reach each other: ``ib0``.
    host : str or None
        Address on which the scheduler listens; found from the interface or the host's name if None.
    ports : str or None
        Ports on which workers and scheduler listen, where a firewall leaves only some open:
        ``"10000:10100"``.
    scheduler_ports : str or None
        Those of the scheduler, if they are others.
    tls : bool
        Encrypt and authenticate all connections, with the certificates of Dask's configuration or
        with temporary ones.
    idle : float
        Seconds without work for any worker after which the idle ones are given back.
    worker_options : tuple of str
        More words for ``dask worker``.
    """

    walltime: float = field(default=7200.0, metadata={"rule": at_least_one, **_DURATION})
    memory: float = field(default=2e9, metadata=_SIZE)
    workers_per_job: int = field(default=1, metadata={"rule": at_least_one})
    gpus: int = field(default=0, metadata={"rule": lambda n: None if n >= 0 else "it is negative"})
    gpu_type: str | None = None
    queue: str | None = None
    account: str | None = None
    resources: str | None = None
    directives: tuple[str, ...] = field(default=(), metadata=_TEXTS)
    skip: tuple[str, ...] = field(default=(), metadata=_TEXTS)
    submit_options: tuple[str, ...] = field(default=(), metadata=_TEXTS)
    disk: float = field(default=2e9, metadata=_SIZE)
    setup: tuple[str, ...] = field(default=(), metadata=_TEXTS)
    environment: Mapping[str, Any] = field(default_factory=dict, hash=False)
    python: str | None = None
    container: str | None = None
    container_options: tuple[str, ...] = field(default=(), metadata=_TEXTS)
    scratch: str | None = None
    logs: str = field(default="hepdask-ml-logs", metadata={"rule": filled, "path": True})
    shared: str | None = "~/.hepdask-ml/sites"
    interface: str | None = None
    host: str | None = None
    ports: str | None = None
    scheduler_ports: str | None = None
    tls: bool = True
    idle: float = field(default=300.0, metadata=_DURATION)
    worker_options: tuple[str, ...] = field(default=(), metadata=_TEXTS)

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True)
class System:
    """What a batch system does in its own way.

    Attributes
    ----------
    title : str
        Its name to people.
    job : str
        dask-jobqueue's class for its jobs, ``module:class``.
    account : str
        That class's word for the account; empty where it has none.
    listing : tuple of str
        Command that lists the user's jobs; ``{user}`` is replaced.
    listed : callable
        Makes the jobs, by their ids, of that command's output.
    walltime : callable
        Writes seconds as that class's word ``walltime`` has them; empty where it has no such word.
    directives : callable
        What dask-jobqueue does not write into the head of a script: of the options, the processors
        and the graphics processors of a job.
    after : callable
        Directives that make a job wait for the end of another, whatever that was; none where it
        cannot.
    keywords : callable
        More keywords for the class, of the same.
    by_stdin : bool
        The script is read from standard input.
    nothing : str
        Part of the words with which the command that lists jobs fails where there is none; empty
        where it does not fail.
    """

    title: str
    job: str
    account: str
    listing: tuple[str, ...]
    listed: Callable[[str], dict[str, Listed]]
    walltime: Callable[[float], str]
    directives: Callable[[BatchOptions, int, int], list[str]]
    after: Callable[[str], list[str]]
    keywords: Callable[[BatchOptions, int, int], dict[str, Any]] = lambda *_: {}
    by_stdin: bool = False
    nothing: str = ""

    def command(self) -> list[str]:
        """Give the command that lists this user's jobs."""
        return [word.format(user=getuser()) for word in self.listing]


def clock(seconds: float) -> str:
    """Write a duration as ``HH:MM:SS``, rounded up.

    Examples
    --------
    >>> clock(93784.2)
    '26:03:05'
    """
    minutes, rest = divmod(ceil(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


def _hours_and_minutes(seconds: float) -> str:
    minutes = ceil(seconds / 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _slurm_jobs(output: str) -> dict[str, Listed]:
    jobs = {}
    for line in output.splitlines():
        job, state, reason = (*line.strip().split("|", 2), "", "")[:3]
        if state in _SLURM_ENDED or not state:
            continue
        reason = "" if reason == "None" else reason.strip("()")
        waits = state in {"PENDING", "CONFIGURING", "REQUEUED"}
        stuck = state in {"REQUEUE_HOLD", "SPECIAL_EXIT"} or _SLURM_HELD.search(reason)
        jobs[job] = Listed(
            State.STUCK if stuck else State.WAITING if waits else State.RUNNING, reason
        )
    return jobs


# JobHeldUser, JobHeldAdmin, JobHoldMaxRequeue, "launch failed requeued held"
_SLURM_HELD = re.compile(r"^JobH(?:eld|old)|\bheld$")

# https://slurm.schedmd.com/squeue.html, "JOB STATE CODES"
_SLURM_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "COMPLETING", "DEADLINE", "FAILED", "NODE_FAIL",
    "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip


def _htcondor_jobs(output: str) -> dict[str, Listed]:
    jobs = {}
    for line in output.splitlines():
        words = line.split(maxsplit=3)
        if len(words) < 3 or words[2] not in _CONDOR_STATES:  # removed, or completed
            continue
        reason = words[3].strip() if len(words) > 3 and words[3] != "undefined" else ""
        # What is sent with -spool is held until it is there.
        spools = words[2] == "5" and reason.startswith("Spooling input data files")
        state = State.WAITING if spools else _CONDOR_STATES[words[2]]
        jobs[f"{words[0]}.{words[1]}"] = Listed(state, reason)
    return jobs


# https://htcondor.readthedocs.io, attribute JobStatus
_CONDOR_STATES = {
    "1": State.WAITING,
    "2": State.RUNNING,
    "5": State.STUCK,
    "6": State.RUNNING,
    "7": State.RUNNING,
}


def _pbs_jobs(output: str) -> dict[str, Listed]:
    """Read the table of ``qstat -u``, which PBS and Torque share: id first, state last but one."""
    jobs = {}
    for line in output.splitlines():
        words = line.split()
        found = re.match(r"(\d+(?:\[\d*\])?)", words[0]) if len(words) >= 10 else None
        if found and words[-2] in _PBS_STATES:
            jobs[found[1]] = Listed(_PBS_STATES[words[-2]])
    return jobs


# qstat(1B); C, E and F have ended or are about to.
_PBS_STATES = {
    "Q": State.WAITING,
    "W": State.WAITING,
    "T": State.WAITING,
    "R": State.RUNNING,
    "B": State.RUNNING,
    "S": State.STUCK,
    "H": State.STUCK,
}


def _lsf_jobs(output: str) -> dict[str, Listed]:
    jobs = {}
    for line in output.splitlines():
        job, state, reason = (*line.strip().split("|", 2), "", "")[:3]
        if state in _LSF_STATES:
            jobs[job] = Listed(_LSF_STATES[state], "" if reason == "-" else reason)
    return jobs


# bjobs(1); DONE, EXIT and ZOMBI have ended.
_LSF_STATES = {
    "PEND": State.WAITING,
    "WAIT": State.WAITING,
    "PROV": State.WAITING,
    "RUN": State.RUNNING,
    "UNKWN": State.RUNNING,
    "PSUSP": State.STUCK,
    "USUSP": State.STUCK,
    "SSUSP": State.STUCK,
}


def _grid_engine_jobs(output: str) -> dict[str, Listed]:
    jobs = {}
    for line in output.splitlines():
        words = line.split()
        if len(words) < 5 or not words[0].isdigit():
            continue
        state = words[4]  # letters, several at a time: qw, hqw, Eqw, r, t, Rr, dr
        if "d" in state:
            continue
        if "E" in state or "h" in state or "s" in state.lower():
            jobs[words[0]] = Listed(State.STUCK, f"state {state}")
        else:
            jobs[words[0]] = Listed(State.WAITING if "w" in state else State.RUNNING)
    return jobs


def _slurm_directives(options: BatchOptions, _cores: int, gpus: int) -> list[str]:
    kind = f"{options.gpu_type}:" if options.gpu_type else ""
    return [f"--gres=gpu:{kind}{gpus}"] if gpus else []


def _htcondor_directives(options: BatchOptions, _cores: int, gpus: int) -> list[str]:
    lines = [f"allowed_job_duration = {ceil(options.walltime)}"]
    if options.account:
        lines.append(f"accounting_group = {options.account}")
    if gpus:
        lines.append(f"request_gpus = {gpus}")
    if gpus and options.gpu_type:
        lines.append(f'require_gpus = DeviceName == "{options.gpu_type}"')
    return lines


def _htcondor_keywords(options: BatchOptions, _cores: int, _gpus: int) -> dict[str, Any]:
    more = list(options.submit_options)
    return {"disk": int(options.disk), "submit_command_extra": more}


def _pbs_keywords(options: BatchOptions, cores: int, gpus: int) -> dict[str, Any]:
    if options.resources:
        return {"resource_spec": options.resources}
    megabytes = ceil(options.workers_per_job * options.memory / 2**20)
    model = f":gpu_model={options.gpu_type}" if gpus and options.gpu_type else ""
    processors = f":ngpus={gpus}{model}" if gpus else ""
    return {"resource_spec": f"select=1:ncpus={cores}:mem={megabytes}MB{processors}"}


def _lsf_directives(options: BatchOptions, _cores: int, gpus: int) -> list[str]:
    model = f":gmodel={options.gpu_type}" if options.gpu_type else ""
    return [f'-gpu "num={gpus}{model}"'] if gpus else []


def _grid_engine_directives(options: BatchOptions, cores: int, gpus: int) -> list[str]:
    # Without it the queue's shell reads the script, which may be a csh.
    lines = ["-S /bin/bash", *([f"-pe smp {cores}"] if cores > 1 else [])]
    if gpus:
        lines.append(f"-l gpu={gpus}")
    if gpus and options.gpu_type:
        lines.append(f"-l gpu_type={options.gpu_type}")
    return lines


SYSTEMS: Mapping[str, System] = {
    "slurm": System(
        title="Slurm",
        job="dask_jobqueue.slurm:SLURMJob",
        account="account",
        listing=("squeue", "--noheader", "--user", "{user}", "--format", "%i|%T|%r"),
        listed=_slurm_jobs,
        walltime=clock,
        directives=_slurm_directives,
        after=lambda job: [f"--dependency=afterany:{job}"],
    ),
    "htcondor": System(
        title="HTCondor",
        job="dask_jobqueue.htcondor:HTCondorJob",
        account="",
        listing=("condor_q", "-af", "ClusterId", "ProcId", "JobStatus", "HoldReason"),
        listed=_htcondor_jobs,
        walltime=lambda _: "",
        directives=_htcondor_directives,
        after=lambda _: [],
        keywords=_htcondor_keywords,
    ),
    "pbs": System(
        title="PBS",
        job="dask_jobqueue.pbs:PBSJob",
        account="account",
        listing=("qstat", "-u", "{user}"),
        listed=_pbs_jobs,
        walltime=clock,
        directives=lambda *_: [],
        after=lambda job: [f"-W depend=afterany:{job}"],
        keywords=_pbs_keywords,
    ),
    "lsf": System(
        title="LSF",
        job="dask_jobqueue.lsf:LSFJob",
        account="project",
        listing=("bjobs", "-noheader", "-o", "jobid stat pend_reason delimiter='|'"),
        listed=_lsf_jobs,
        walltime=_hours_and_minutes,
        directives=_lsf_directives,
        after=lambda job: [f'-w "ended({job})"'],
        keywords=lambda *_: {"use_stdin": True},
        by_stdin=True,
        nothing="No unfinished job found",
    ),
    "sge": System(
        title="Grid Engine",
        job="dask_jobqueue.sge:SGEJob",
        account="project",
        listing=("qstat", "-u", "{user}"),
        listed=_grid_engine_jobs,
        walltime=clock,
        directives=_grid_engine_directives,
        after=lambda job: [f"-hold_jid {job}"],
        keywords=lambda options, *_: {"resource_spec": options.resources},
    ),
}
"""The batch systems by the kind of their sites."""
