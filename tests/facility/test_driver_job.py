"""The driver as a job: its scripts word by word, and what is submitted, to a simulated Slurm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hepdask_ml.errors import InputError, SiteError
from hepdask_ml.facility.allocation import AllocationOptions
from hepdask_ml.facility.driver_job import DriverJob
from hepdask_ml.facility.jobs import THREADS
from hepdask_ml.facility.systems import SYSTEMS, BatchOptions

if TYPE_CHECKING:
    from made_up_slurm import SimulatedSlurm

BODY = f"""\
export {" ".join(f"{name}=1" for name in THREADS)}
export HEPDASK_ML_END=`date -d +86400sec +%s`
module load root
cd '/w/a b' && exec /opt/bin/python3 -m hepdask_ml run /w/my.yaml
"""
PLAIN: dict[str, Any] = {
    "logs": "/somewhere/logs",
    "python": "/opt/bin/python3",
    "setup": "module load root",
    "walltime": "24 h",
    "memory": "2 GB",
    "queue": "long",
}
WORDS = ("-m", "hepdask_ml", "run", "/w/my.yaml")
AFTER = {
    "slurm": "#SBATCH --dependency=afterany:41",
    "pbs": "#PBS -W depend=afterany:41",
    "lsf": '#BSUB -w "ended(41)"',
    "sge": "#$ -hold_jid 41",
}
ALLOCATIONS = {
    "slurm": """\
#SBATCH -p long
#SBATCH -t 24:00:00
#SBATCH --nodes=2
#SBATCH --cpus-per-task=2
#SBATCH --ntasks=8
#SBATCH --mem-per-cpu=954M
#SBATCH --gpus-per-task=a100:1
""",
    "pbs": """\
#PBS -q long
#PBS -l select=2:ncpus=8:mpiprocs=4:mem=7632MB:ngpus=4:gpu_model=a100
#PBS -l walltime=24:00:00
""",
    "lsf": """\
#BSUB -q long
#BSUB -M 8000000
#BSUB -W 24:00
#BSUB -gpu "num=4:gmodel=a100"
#BSUB -n 16
#BSUB -R "span[ptile=8]"
""",
}


def batch(system: str, cores: int = 1, **options: Any) -> DriverJob:
    return DriverJob(system, BatchOptions(**{**PLAIN, **options}), cores, WORDS, Path("/w/a b"))


def allocation(system: str, workers: int | None = 8, **options: Any) -> DriverJob:
    made = AllocationOptions(**{**PLAIN, "nodes": 2, "gpus": 1, "gpu_type": "a100", **options})
    return DriverJob(system, made, 1, WORDS, Path("/w/a b"), workers=workers, threads=2)


def test_script_for_slurm() -> None:
    [script] = batch("slurm", gpus=1, workers_per_job=4).scripts()
    assert script.strip() == (
        "#!/usr/bin/env bash\n\n"
        "#SBATCH -J hepdask-ml\n"
        "#SBATCH -e /somewhere/logs/hepdask-ml-%J.err\n"
        "#SBATCH -o /somewhere/logs/hepdask-ml-%J.out\n"
        "#SBATCH -p long\n"
        "#SBATCH -n 1\n"
        "#SBATCH --cpus-per-task=1\n"
        "#SBATCH --mem=2G\n"
        "#SBATCH -t 24:00:00\n" + BODY.strip()
    )


@pytest.mark.parametrize("system", AFTER)
def test_job_waits_for_another(system: str) -> None:
    [script] = batch(system).scripts(after="41")
    assert AFTER[system] in script.splitlines()
    assert script.strip().endswith(BODY.strip())


@pytest.mark.parametrize("system", AFTER)
def test_jobs_of_a_chain_wait_for_each_other(system: str) -> None:
    first, second, third = batch(system).scripts(chain=3)
    assert AFTER[system].replace("41", "JOB1") in second.splitlines()
    assert AFTER[system].replace("41", "JOB2") in third.splitlines()
    assert AFTER[system].split("41")[0] not in first


def test_htcondor_starts_a_chain_again_and_again() -> None:
    [script] = batch("htcondor", walltime="2 h").scripts(chain=4)
    lines = script.splitlines()
    assert "max_retries = 3" in lines
    assert "success_exit_code = 0" in lines
    assert "retry_until = 2" in lines
    assert "periodic_release = HoldReasonCode == 46 && NumJobStarts < 4" in lines
    assert "; module load root; cd ''/w/a b'' && exec /opt/bin/python3 -m hepdask_ml" in script
    assert "max_retries" not in batch("htcondor").scripts()[0]
    with pytest.raises(InputError, match="HTCondor has no jobs that wait for others"):
        batch("htcondor").scripts(after="41")


@pytest.mark.parametrize("system", ALLOCATIONS)
def test_allocation_says_how_large_it_is(system: str) -> None:
    [script] = allocation(system).scripts()
    head = script[script.index(ALLOCATIONS[system].splitlines()[0]) :]
    head = "".join(line for line in head.splitlines(keepends=True) if "logs" not in line)
    assert head.strip() == (ALLOCATIONS[system] + BODY).strip()


def test_allocation_of_whole_nodes() -> None:
    [script] = allocation("slurm", None, gpus=0).scripts()
    assert "#SBATCH --exclusive" in script
    assert "--ntasks" not in script
    with pytest.raises(InputError, match="does not say how large it is: set workers"):
        allocation("lsf", None).scripts()


@pytest.mark.parametrize("system", ["sge", "htcondor"])
def test_allocation_of_several_nodes_has_to_be_known(system: str) -> None:
    with pytest.raises(InputError, match="an allocation of 2 nodes is not known on"):
        allocation(system).scripts()


def test_parallel_environment_of_grid_engine() -> None:
    [script] = allocation("sge", 2, nodes=1, gpus=0, directives="-pe mpi 4").scripts()
    assert "#$ -pe mpi 4" in script


def test_slurm_sim_chain_is_submitted(slurm_sim: SimulatedSlurm, tmp_path: Path) -> None:
    (slurm_sim.folder / "waits").touch()
    job = batch("slurm", logs=str(tmp_path))
    assert job.submit(chain=3, after="7") == ["1", "2", "3"]
    scripts = [slurm_sim.script(number) for number in "123"]
    assert [text.partition("afterany:")[2].split()[0] for text in scripts] == ["7", "1", "2"]


def test_slurm_sim_refusal_has_its_words(slurm_sim: SimulatedSlurm, tmp_path: Path) -> None:
    (slurm_sim.folder / "refusal").write_text("sbatch: error: no such account")
    with pytest.raises(SiteError, match=r"sbatch refused: .*no such account"):
        batch("slurm", logs=str(tmp_path)).submit(chain=2)


def test_every_system_has_a_script() -> None:
    for system in SYSTEMS:
        assert "hepdask_ml run /w/my.yaml" in batch(system).scripts()[0]
