"""When this process will be ended, so that it takes no more work than fits.

A *source* is a function of the environment: what a person declared, or one batch system.  It
answers with a Unix time and its name, or with nothing.  The earliest answer is the *end*, and a
new system is one more function in `_SOURCES`.

Only a declaration can be wrong aloud.  A batch system that is silent or odd is passed over: a
worker that knows no end still does its work, and what it leaves undone is done by another.  In
doubt every source errs to an earlier end, which costs minutes where a later one costs the work.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from hepdask_ml.errors import InputError

Source = Callable[[Mapping[str, str]], "tuple[float, str] | None"]

_PATIENCE_S = 5.0
# Month names in English, and Slurm's times in full even where a user prefers "Tomorr 12:00".
_PLAIN = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}

_NUMBER = re.compile(r"\d+(?:\.\d*)?")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d)")
_ATTRIBUTE = re.compile(r"^\s*([\w.]+) = (.*?)\s*$", re.MULTILINE)

# Limits in a job ad, with their unit in seconds.  `JobDuration` is none of them: it is how long
# an earlier run of the job took.
_CONDOR_LIMITS = {
    "AllowedJobDuration": 1.0,
    "AllowedExecuteDuration": 1.0,
    "MaxRuntime": 1.0,
    "MaxWallTime": 60.0,
    "MaxWallTimeMins": 60.0,
}
# https://batchdocs.web.cern.ch/local/submit.html
_CERN_FLAVOURS_S = {
    "espresso": 1200.0,
    "microcentury": 3600.0,
    "longlunch": 7200.0,
    "workday": 28800.0,
    "tomorrow": 86400.0,
    "testmatch": 259200.0,
    "nextweek": 604800.0,
}


@dataclass(frozen=True, slots=True)
class End:
    """When this process will be ended, and who says so.

    Attributes
    ----------
    at : float or None
        Unix time in seconds; None where no end is known.
    source : str
        Where it was read: ``"SLURM_JOB_END_TIME"``, ``"squeue"``, ``"declared"``, ..., ``"none"``.
    """

    at: float | None
    source: str

    def left(self, now: float | None = None) -> float:
        """Seconds that are left.

        Parameters
        ----------
        now : float or None
            Unix time in seconds; the clock's if None.

        Returns
        -------
        float
            At least zero, and infinity where no end is known.

        Examples
        --------
        >>> End(at=1000.0, source="declared").left(now=940.0)
        60.0
        """
        if self.at is None:
            return math.inf
        return max(0.0, self.at - (time.time() if now is None else now))


def process_start() -> float:
    """Unix time at which this process began.

    Returns
    -------
    float
        In seconds, exact to about one.
    """
    return psutil.Process().create_time()


def end(*, lifetime_s: float | None = None, environ: Mapping[str, str] | None = None) -> End:
    """When this process will be ended: the earliest of all that is said about it.

    Sources are, in this order, the variables ``HEPDASK_ML_WALLTIME`` (seconds, ``HH:MM:SS`` or
    ``D-HH:MM:SS``, from the start of this process) and ``HEPDASK_ML_END`` (Unix time), Slurm,
    HTCondor, PBS and Torque, LSF, Grid Engine, and Dask's own lifetime.  A pod cannot see its
    ``activeDeadlineSeconds`` and needs one of the two variables.  Ask once a process, never once
    a block: a batch system may be asked by its command, for at most five seconds each, and
    without its variables none is run.

    A worker that its nanny starts again counts a walltime anew; a job's script that knows its own
    limit had better set ``HEPDASK_ML_END``.

    Parameters
    ----------
    lifetime_s : float or None
        Dask's lifetime of the worker in seconds, from the start of this process.
    environ : mapping of str to str, or None
        The environment to look in, also that of the commands; that of this process if None.

    Returns
    -------
    End
        The earliest end and its source; without any, ``End(None, "none")``.

    Raises
    ------
    InputError
        If ``HEPDASK_ML_WALLTIME`` or ``HEPDASK_ML_END`` cannot be read.

    Examples
    --------
    >>> end(environ={"HEPDASK_ML_END": "1893456000"})
    End(at=1893456000.0, source='declared')
    >>> end(environ={})
    End(at=None, source='none')
    """
    place = os.environ if environ is None else environ
    said = [answer for source in _SOURCES if (answer := source(place)) is not None]
    if lifetime_s is not None:
        said.append((process_start() + lifetime_s, "Dask's lifetime"))
    return End(*min(said)) if said else End(None, "none")


def _declared_walltime(environ: Mapping[str, str]) -> tuple[float, str] | None:
    text = environ.get("HEPDASK_ML_WALLTIME", "").strip()
    if not text:
        return None
    walltime_s = _seconds(text)
    if not walltime_s:
        raise InputError(
            f"HEPDASK_ML_WALLTIME is {text!r}: give a time greater than zero as seconds, HH:MM:SS "
            "or D-HH:MM:SS, such as 5400 or 01:30:00, or unset it"
        )
    return process_start() + walltime_s, "declared"


def _declared_end(environ: Mapping[str, str]) -> tuple[float, str] | None:
    text = environ.get("HEPDASK_ML_END", "").strip()
    if not text:
        return None
    at = float(text) if _NUMBER.fullmatch(text) else math.nan
    # Anything else is a duration or in milliseconds: the years 2001 to 5138.
    if not 1e9 <= at < 1e11:
        raise InputError(
            f"HEPDASK_ML_END is {text!r}: give a Unix time in seconds, as `date +%s` prints it, "
            "or set HEPDASK_ML_WALLTIME for a duration"
        )
    return at, "declared"


def _slurm(environ: Mapping[str, str]) -> tuple[float, str] | None:
    if stated := _seconds(environ.get("SLURM_JOB_END_TIME", "")):
        return stated, "SLURM_JOB_END_TIME"
    job = environ.get("SLURM_JOB_ID")
    if not job:
        return None
    # The plain id of one array task is that of the whole array too.
    if environ.get("SLURM_ARRAY_JOB_ID") and environ.get("SLURM_ARRAY_TASK_ID"):
        job = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    for key, command in (
        ("", ("squeue", "-h", "-j", job, "-O", "EndTime:30")),
        ("EndTime=", ("scontrol", "show", "job", job)),
    ):
        found = re.search(rf"(?:^|\s){key}(\d{{4}}-\S+)", _output(environ, *command))
        at = _local(found[1], "%Y-%m-%dT%H:%M:%S") if found else None
        if at is not None:
            return at, command[0]
    return None


def _htcondor(environ: Mapping[str, str]) -> tuple[float, str] | None:
    try:
        text = Path(environ["_CONDOR_JOB_AD"]).read_text(encoding="utf-8", errors="replace")
    except (KeyError, OSError):
        return None
    # The names of attributes know no case: users write MaxRunTime as well.
    ad = {name.lower(): value.strip('"') for name, value in _ATTRIBUTE.findall(text)}
    limits_s = {
        name: unit_s * limit
        for name, unit_s in _CONDOR_LIMITS.items()
        if (limit := _seconds(ad.get(name.lower(), "")))
    }
    # The flavour may be CERN's default, and then gives way to what the user set.
    if "MaxRuntime" not in limits_s and ad.get("jobflavour") in _CERN_FLAVOURS_S:
        limits_s["JobFlavour"] = _CERN_FLAVOURS_S[ad["jobflavour"]]
    if not limits_s:
        return None
    # JobStartDate is that of the first run, and this one may be a later one.
    start = _seconds(ad.get("jobcurrentstartdate", "")) or _seconds(ad.get("jobstartdate", ""))
    limit_s, name = min((limit_s, name) for name, limit_s in limits_s.items())
    return (start or process_start()) + limit_s, f"HTCondor {name}"


def _pbs(environ: Mapping[str, str]) -> tuple[float, str] | None:
    if walltime_s := _seconds(environ.get("PBS_WALLTIME", "")):
        return _session_start() + walltime_s, "PBS_WALLTIME"
    job = environ.get("PBS_JOBID")
    if not job:
        return None
    fields = dict(_ATTRIBUTE.findall(_output(environ, "qstat", "-f", job)))
    walltime_s = _seconds(fields.get("Resource_List.walltime", ""))
    if not walltime_s:
        return None
    # PBS says stime, Torque start_time.
    started = fields.get("stime") or fields.get("start_time", "")
    start = _local(started, "%a %b %d %H:%M:%S %Y")
    if start is None:
        # The time used is old by up to a minute or two, so that it alone gives too late an end.
        used_s = _seconds(fields.get("resources_used.walltime", "")) or 0.0
        start = min(_session_start(), time.time() - used_s)
    return start + walltime_s, "qstat"


def _lsf(environ: Mapping[str, str]) -> tuple[float, str] | None:
    job = environ.get("LSB_JOBID")
    if not job:
        return None
    # Zero for a job that is no array; all elements of an array have one id.
    if environ.get("LSB_JOBINDEX", "0") not in ("", "0"):
        job = f"{job}[{environ['LSB_JOBINDEX']}]"
    said = _output(environ, "bjobs", "-noheader", "-o", "time_left", job)
    # L: until the run limit; E: until the estimate, which hides the limit after it.  With X the
    # estimate is over and the limit unknown; "-" is a job without either.
    found = re.fullmatch(r"\s*(\d+):(\d+)\s+[LE]\s*", said)
    if found is None:
        return None
    at = time.time() + 3600 * int(found[1]) + 60 * int(found[2])
    # Its minutes are whole ones, cut off: what was declared within the next is exact.
    declared = _declared_end(environ)
    return None if declared and at <= declared[0] < at + 60.0 else (at, "bjobs")


def _grid_engine(environ: Mapping[str, str]) -> tuple[float, str] | None:
    job = environ.get("JOB_ID")
    if not (job and environ.get("SGE_ROOT")):
        return None
    requests = re.search(
        r"^hard resource_list:(.*)$", _output(environ, "qstat", "-j", job), re.MULTILINE
    )
    # At s_rt the job gets SIGUSR1, which ends a process as surely as h_rt does.
    limits_s = [
        limit_s
        for text in re.findall(r"\b[hs]_rt=([\d:]+)", requests[1] if requests else "")
        if (limit_s := _seconds(text))
    ]
    return (_session_start() + min(limits_s), "qstat") if limits_s else None


_SOURCES: tuple[Source, ...] = (
    _declared_walltime,
    _declared_end,
    _slurm,
    _htcondor,
    _pbs,
    _lsf,
    _grid_engine,
)


def _seconds(text: str) -> float | None:
    """Seconds in ``90``, ``0:01:30`` or ``0-00:01:30``."""
    if _NUMBER.fullmatch(text):
        return float(text)
    found = _CLOCK.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 60.0 * (60 * (24 * days + hours) + minutes) + seconds


def _local(text: str, form: str) -> float | None:
    """Unix time of a local time without zone; of the hour that comes twice, the first."""
    try:
        return datetime.strptime(text, form).timestamp()
    except (ValueError, OverflowError):
        return None


def _session_start() -> float:
    """Unix time at which the job began, where its batch system opens a session for it.

    The leader of the session is the job's script.  A worker may be much younger: its nanny starts
    it again after a failure, and the job's clock does not.
    """
    try:
        leader = psutil.Process(os.getsid(0))
        # A daemon's session is no job's; it runs as another user.
        began = leader.create_time() if leader.uids().real == os.getuid() else math.inf
    except (psutil.Error, ValueError):
        began = math.inf
    return min(began, process_start())


def _output(environ: Mapping[str, str], *command: str) -> str:
    """Output of a command; nothing if it is missing, fails or takes too long."""
    try:
        return subprocess.run(
            command,
            env={**environ, **_PLAIN},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
