"""Jobs of a batch system that are Dask workers: their scripts, and the commands for them.

dask-jobqueue writes the scripts; the commands are run here, so that their words reach the user.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask

from hepdask_ml.errors import InputError, SiteError
from hepdask_ml.facility.systems import SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from distributed import Security

    from hepdask_ml.facility.systems import BatchOptions, Listed

COMMAND_S = 60.0
"""Time that a command of a batch system may take."""

DEATH_S = 60
"""Time in seconds after which a worker without a scheduler ends."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables that limit the threads of numerical libraries: each thread works a block of its own."""

NURSED_S = 900.0
"""Walltime in seconds from which a nanny, that starts a worker again, is worth its own start."""

_END_BYTES = 10_000

_TLS_OPTIONS = {"ca_file": "--tls-ca-file", "cert": "--tls-cert", "key": "--tls-key"}

_PLACEHOLDER = "tls://SCHEDULER:PORT"


class Jobs:
    """The jobs of one site.

    Parameters
    ----------
    system : str
        Batch system, a key of `SYSTEMS`.
    threads : int
        Threads of each worker.
    options : BatchOptions
        What is asked for each job.
    """

    def __init__(self, system: str, threads: int, options: BatchOptions) -> None:
        self.system = SYSTEMS[system]
        self.threads = threads
        self.options = options
        self.logs = Path(options.logs).expanduser().absolute()
        self._kind = system
        self._class = _job_class(self.system.job)

    @property
    def digest(self) -> str:
        """Equal for sites of which one may take over the waiting jobs of the other."""
        text = json.dumps(
            [self._kind, self.threads, asdict(self.options)], sort_keys=True, default=str
        )
        return sha256(text.encode()).hexdigest()[:8]

    def script(
        self,
        name: str,
        *,
        address: str = _PLACEHOLDER,
        scheduler_file: Path | None = None,
        security: Security | None = None,
        carried: Sequence[Path] = (),
    ) -> str:
        """Write the script of one job.

        Parameters
        ----------
        name : str
            Name of the job's worker; where it has several, the beginning of their names.
        address : str
            Address of the scheduler, for those that do not find it in a file.
        scheduler_file : Path, optional
            File in which the workers find the address.
        security : Security, optional
            Certificates, by the paths that the workers see.
        carried : sequence of Path
            Files that travel with the job.

        Returns
        -------
        str
            The script.
        """
        new = [path for path in (self.logs, *self.logs.parents) if not path.exists()]
        job = self._job(
            name,
            address=address,
            scheduler_file=scheduler_file,
            security=security,
            carried=carried,
        )
        with suppress(OSError):  # somebody else may use them by now
            for path in new:
                path.rmdir()  # which dask-jobqueue has made
        return str(job.job_script())

    def running(self, command: str) -> Any:
        """Make a job of dask-jobqueue that runs a command in place of a worker.

        Parameters
        ----------
        command : str
            For the shell.

        Returns
        -------
        dask_jobqueue.core.Job
            To be submitted with `submit_script`.
        """
        job = self._job("driver")
        if self._kind == "htcondor":
            command = _unread("; ".join([*self._prologue(), command]))
        job._command_template = command
        return job

    def submit(self, name: str, **found: Any) -> str:
        """Submit one job.

        Parameters
        ----------
        name : str
            Name of its worker.
        **found
            As for `script`.

        Returns
        -------
        str
            Its id.

        Raises
        ------
        SiteError
            If it is refused, with the batch system's own words.
        """
        return submit_script(self._job(name, **found), self.system.by_stdin)

    def listed(self) -> dict[str, Listed]:
        """Give this user's jobs that have not ended, by their ids.

        Raises
        ------
        SiteError
            If the batch system does not answer.
        """
        try:
            said = _said(self.system.command())
        except SiteError as error:
            if self.system.nothing and self.system.nothing in str(error):
                return {}
            raise
        return self.system.listed(said)

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs; those that are gone already are passed over.

        Parameters
        ----------
        jobs : sequence of str
            Their ids.
        """
        command = shlex.split(self._job("cancel").cancel_command)
        for job in jobs:
            try:
                _said([*command, job])
            except SiteError:
                continue

    def last_words(self, job: str) -> str:
        """Give the last line that a job has printed; empty if there is none."""
        number = job.split(".")[0]
        # Errors come first in the alphabet, and HTCondor's own log last.
        for path in sorted(self.logs.glob(f"*{number}*")):
            if not re.search(rf"(?<!\d){number}(?!\d)", path.name):
                continue
            if said := last_line(path):
                return said
        return ""

    def _job(
        self,
        name: str,
        *,
        address: str = _PLACEHOLDER,
        scheduler_file: Path | None = None,
        security: Security | None = None,
        carried: Sequence[Path] = (),
    ) -> Any:
        options, system = self.options, self.system
        cores, gpus = (n * options.workers_per_job for n in (self.threads, options.gpus))
        directives = [*system.directives(options, cores, gpus), *options.directives]
        if carried:
            directives.append(f"transfer_input_files = {','.join(map(str, carried))}")
            directives.append("should_transfer_files = YES")
        words: dict[str, Any] = {
            "queue": options.queue,
            "walltime": system.walltime(options.walltime),
        }
        if self._kind == "htcondor":
            words = {}
        if system.account:
            words[system.account] = options.account
        job = self._class(
            scheduler=address,
            name=name,
            job_name="hepdask-ml",
            cores=cores,
            memory=int(options.memory * options.workers_per_job),
            processes=options.workers_per_job,
            nanny=self._nursed,
            interface=options.interface,
            death_timeout=DEATH_S,
            local_directory=options.scratch,
            log_directory=str(self.logs),
            # In place of the shell, it gets the signals that some systems send to that alone.
            python=f"exec {python_command(self._kind, options)}",
            job_script_prologue=self._prologue(),
            job_directives_skip=[] if self._kind == "htcondor" else list(options.skip),
            job_extra_directives=(
                dict(_key_and_value(line) for line in directives)
                if self._kind == "htcondor"
                else directives
            ),
            worker_extra_args=self._worker_words(scheduler_file, security),
            **words,
            **system.keywords(options, cores, gpus),
        )
        if self._kind == "htcondor":
            self._mend_description(job, {_key_and_value(line)[0] for line in directives})
        return job

    def _mend_description(self, job: Any, own: Collection[str]) -> None:
        """Skip lines as the other systems do, and keep HTCondor from reading the shell's signs."""
        skip, head = self.options.skip, job.job_header_dict
        job.job_header_dict = {
            key: value
            for key, value in head.items()
            if key in own or not any(text in f"{key} = {value}" for text in skip)
        }
        if "\n" in job._command_template:
            raise InputError(
                "a text among the options holds a line break, and HTCondor takes one line: write "
                "the commands of options.setup as several texts, or put them into a script"
            )
        job._command_template = _unread(job._command_template)

    @property
    def _nursed(self) -> bool:
        return self.options.workers_per_job > 1 or self.options.walltime >= NURSED_S

    def _worker_words(self, scheduler_file: Path | None, security: Security | None) -> list[str]:
        options = self.options
        # Its address is that of the server of measures, too, which is there without a dashboard.
        words = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        if scheduler_file is not None:
            words += ["--scheduler-file", shlex.quote(str(scheduler_file))]
        if options.ports is not None:
            words += ["--worker-port", options.ports]
        if options.ports is not None and self._nursed:
            words += ["--nanny-port", options.ports]
        if options.gpus:
            words += ["--resources", f"GPU={options.gpus}"]
        if options.gpus and options.workers_per_job > 1:
            words += ["--preload-nanny", "hepdask_ml.facility.cuda"]
        if security is not None:
            words += ["--protocol", "tls", *tls_words(security)]
        return [*words, *options.worker_options]

    def _prologue(self) -> list[str]:
        """Give the shell commands before the worker."""
        options = self.options
        limits = " ".join(f"{name}=1" for name in THREADS)
        end = f"`date -d +{int(options.walltime)}sec +%s`"
        values = [
            f"{name}={shlex.quote(str(value))}" for name, value in options.environment.items()
        ]
        return [
            f"export {limits}",
            # A walltime from its own start would count anew where a nanny starts a worker again.
            f"export HEPDASK_ML_END={end}",
            *([f"export {' '.join(values)}"] if values else []),
            *options.setup,
        ]


def tls_words(security: Security) -> list[str]:
    """Name the files with the certificates to ``dask worker``.

    Parameters
    ----------
    security : Security
        It holds paths.

    Returns
    -------
    list of str
        Quoted; dask-jobqueue's own would break at a space.
    """
    found = security.get_tls_config_for_role("worker")  # type: ignore[no-untyped-call]
    return [
        word
        for key, option in _TLS_OPTIONS.items()
        if found[key] is not None
        for word in (option, shlex.quote(found[key]))
    ]


def submit_script(job: Any, by_stdin: bool) -> str:
    """Submit the script of a job of dask-jobqueue; give its id.

    Raises
    ------
    SiteError
        If it is refused, with the batch system's own words.
    """
    command = shlex.split(job.submit_command)
    with tempfile.NamedTemporaryFile("w+", prefix="hepdask-ml-", suffix=".sh") as file:
        file.write(job.job_script())
        file.flush()
        file.seek(0)
        said = _said(command, stdin=file) if by_stdin else _said([*command, file.name])
    try:
        return str(job._job_id_from_submit_output(said))
    except ValueError:
        raise SiteError(f"{command[0]} gave no id of a job; it said: {_one_line(said)}") from None


def _said(command: Sequence[str], stdin: Any = subprocess.DEVNULL) -> str:
    """Run a command of a batch system; give what it prints."""
    try:
        done = subprocess.run(
            command,
            stdin=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMMAND_S,
            check=False,
        )
    except FileNotFoundError:
        raise SiteError(
            f"there is no {command[0]} on this machine: log in to one that submits jobs"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SiteError(f"{command[0]} does not answer: {error}") from None
    if done.returncode != 0:
        words = _one_line(done.stderr) or _one_line(done.stdout) or f"exit code {done.returncode}"
        raise SiteError(f"{command[0]} refused: {words}")
    return done.stdout


def last_line(path: Path) -> str:
    """Give the last line of a log.

    Parameters
    ----------
    path : Path
        Its file.

    Returns
    -------
    str
        Its first 300 characters; empty if there is none.
    """
    said: list[str] = []
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        said = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    return next((line[:300] for line in reversed(said) if line), "")


def _unread(command: str) -> str:
    """Write a command so that HTCondor takes no part of it for a macro of its own."""
    return command.replace("$(", "$(DOLLAR)(")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


def python_command(kind: str, options: BatchOptions) -> str:
    """Give the command that runs Python on the nodes.

    Parameters
    ----------
    kind : str
        Batch system, whose section of dask-jobqueue's configuration may name it, too.
    options : BatchOptions
        Interpreter and container.

    Returns
    -------
    str
        Words for a shell.
    """
    if options.container is None:
        named = options.python or dask.config.get(f"jobqueue.{kind}.python", None)
        return str(named or sys.executable)
    words = ["apptainer", "exec", *(["--nv"] if options.gpus else []), *options.container_options]
    return " ".join([*words, options.container, options.python or "python"])


def _key_and_value(line: str) -> tuple[str, str]:
    key, sign, value = line.partition("=")
    if not sign or not key.strip():
        raise InputError(f'options.directives holds {line!r}: for HTCondor each is "key = value"')
    return key.strip(), value.strip()


def _job_class(name: str) -> Any:
    """Load a class of dask-jobqueue, whose import takes Ctrl-C away from whoever had it."""
    module, _, attribute = name.partition(":")
    before = signal.getsignal(signal.SIGINT)
    try:
        found = getattr(import_module(module), attribute)
    except ModuleNotFoundError:
        raise InputError("batch sites need dask-jobqueue: install hepdask-ml[batch]") from None
    except ValueError:
        raise InputError(
            "dask-jobqueue has to be imported in the main thread: write import dask_jobqueue there"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, before)
    return found
