"""The driver as a job of a batch system, so that the session that submits it may end.

It knows no campaign: what the job runs is given as words.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import InputError, SiteError
from hepdask_ml.facility.allocation import AllocationOptions
from hepdask_ml.facility.jobs import Jobs, python_command, submit_script
from hepdask_ml.facility.systems import SYSTEMS

if TYPE_CHECKING:
    from hepdask_ml.facility.systems import BatchOptions


@dataclass(frozen=True, slots=True)
class DriverJob:
    """A job that runs a driver.

    Attributes
    ----------
    system : str
        Batch system, a key of `hepdask_ml.facility.systems.SYSTEMS`.
    options : BatchOptions
        What is asked for the job; of an allocation, how large that is.
    cores : int
        Processors, where it is no allocation.
    words : tuple of str
        What Python runs: ``("-m", "package", ...)``.
    folder : Path
        Where.
    workers : int or None
        Workers of the allocation; whole nodes if None.
    threads : int
        Threads of each.
    """

    system: str
    options: BatchOptions
    cores: int
    words: tuple[str, ...]
    folder: Path
    workers: int | None = None
    threads: int = 1

    @property
    def logs(self) -> Path:
        """Folder for what the job prints."""
        return Path(self.options.logs).expanduser().absolute()

    def scripts(self, chain: int = 1, after: str | None = None) -> list[str]:
        """Write what would be submitted.

        Parameters
        ----------
        chain : int
            Jobs, each of which waits for the end of the one before.
        after : str, optional
            Id of a job for which the first waits.

        Returns
        -------
        list of str
            The scripts; ids that are not known yet are ``JOB1``, ``JOB2``, ...
        """
        if self.system == "htcondor":
            return [self._job(after, chain).job_script()]
        before = [after, *(f"JOB{number}" for number in range(1, chain))]
        return [self._job(job, 1).job_script() for job in before]

    def submit(self, chain: int = 1, after: str | None = None) -> list[str]:
        """Submit it.

        Parameters
        ----------
        chain, after
            As for `scripts`.

        Returns
        -------
        list of str
            Ids of the jobs; of HTCondor one, which is started again.

        Raises
        ------
        SiteError
            If one is refused, with the batch system's own words.
        """
        by_stdin = SYSTEMS[self.system].by_stdin
        if self.system == "htcondor":
            return [submit_script(self._job(after, chain), by_stdin)]
        jobs: list[str] = []
        for number in range(chain):
            try:
                jobs.append(submit_script(self._job(jobs[-1] if jobs else after, 1), by_stdin))
            except SiteError as error:
                if not jobs:
                    raise
                raise SiteError(
                    f"job {number + 1} of {chain} was not submitted, {', '.join(jobs)} were: "
                    f"{error}"
                ) from None
        return jobs

    def _job(self, after: str | None, runs: int) -> Any:
        """Make a job of dask-jobqueue that runs the driver in place of a worker."""
        system = SYSTEMS[self.system]
        waits = [] if after is None else system.after(after)
        if after is not None and not waits:
            raise InputError(f"{system.title} has no jobs that wait for others: leave out --after")
        options = replace(self.options, workers_per_job=1)
        cores = self.cores
        if isinstance(options, AllocationOptions):
            cores = max(1, ceil((self.workers or 1) * self.threads / options.nodes))
            options = _sized(self, options, cores)
        else:
            options = replace(options, gpus=0, gpu_type=None)
        again = _again(runs) if self.system == "htcondor" else []
        options = replace(options, directives=(*options.directives, *again, *waits))
        return Jobs(self.system, cores, options).running(self._command())

    def _command(self) -> str:
        python = python_command(self.system, self.options)
        # PBS begins in the home folder.
        return f"cd {shlex.quote(str(self.folder))} && exec {python} {shlex.join(self.words)}"


# https://htcondor.readthedocs.io, attribute HoldReasonCode: JobDurationExceeded
_HELD_AT_WALLTIME = 46


def _again(runs: int) -> list[str]:
    """Let HTCondor run it again unless it has finished, or its input is wrong."""
    if runs == 1:
        return []
    return [
        f"max_retries = {runs - 1}",
        "success_exit_code = 0",
        # A number and no expression, whose value would not be known after a signal.
        "retry_until = 2",
        # At its walltime it has not ended, but is held, for this reason.
        f"periodic_release = HoldReasonCode == {_HELD_AT_WALLTIME} && NumJobStarts < {runs}",
    ]


def _sized(job: DriverJob, options: AllocationOptions, cores: int) -> AllocationOptions:
    """Say in the batch system's words how large the allocation is."""
    nodes, workers = options.nodes, job.workers
    memory_mb = ceil(options.memory / 2**20)
    if job.system == "slurm":
        lines = [f"--nodes={nodes}", f"--cpus-per-task={job.threads}"]
        if workers is None:
            lines.append("--exclusive")
        else:
            lines += [f"--ntasks={workers}", f"--mem-per-cpu={ceil(memory_mb / job.threads)}M"]
        if options.gpus and workers is not None:
            kind = f"{options.gpu_type}:" if options.gpu_type else ""
            lines.append(f"--gpus-per-task={kind}{options.gpus}")
        skip = ("#SBATCH -n 1", "#SBATCH --cpus-per-task=", "#SBATCH --mem=")
        return replace(
            options,
            gpus=0,
            gpu_type=None,
            skip=(*options.skip, *skip),
            directives=(*lines, *options.directives),
        )
    if workers is None and not options.resources:
        raise InputError(
            "the allocation does not say how large it is: set workers of the site, or its "
            "options.resources"
        )
    each = ceil((workers or 1) / nodes)
    if job.system == "pbs":
        model = f":gpu_model={options.gpu_type}" if options.gpu_type else ""
        gpus = f":ngpus={each * options.gpus}{model}" if options.gpus else ""
        size = f"select={nodes}:ncpus={cores}:mpiprocs={each}:mem={each * memory_mb}MB{gpus}"
        return replace(options, resources=options.resources or size, gpus=0)
    if nodes > 1 and job.system == "lsf":
        ptile = f'-R "span[ptile={cores}]"'
        lines = [f"-n {cores * nodes}", ptile]
        return replace(
            options,
            memory=options.memory * each,
            gpus=options.gpus * each,
            skip=(*options.skip, "#BSUB -n ", "span[hosts=1]"),
            directives=(*lines, *options.directives),
        )
    if nodes > 1 and not any("-pe " in line for line in options.directives):
        title = SYSTEMS[job.system].title
        advice = (
            "name a parallel environment in options.directives"
            if job.system == "sge"
            else "set options.nodes to 1"
        )
        raise InputError(f"an allocation of {nodes} nodes is not known on {title}: {advice}")
    return replace(options, memory=options.memory * each, gpus=options.gpus * each)
