"""The batch systems of the tests do what the tests rely on; names say which are real."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from batch.real import real_grid_engine, real_slurm
from batch.simulated.condor import split_quoted
from batch.simulated.jobs import HELD, RUNNING, WAITING
from dask_jobqueue.htcondor import HTCondorJob
from dask_jobqueue.htcondor import quote_arguments as untyped_quote_arguments
from dask_jobqueue.lsf import LSFJob
from dask_jobqueue.pbs import PBSJob
from stories.work import wait_for

if TYPE_CHECKING:
    from batch.real import GridEngine, Slurm
    from batch.simulated.control import Simulated

quote_arguments: Any = untyped_quote_arguments

LISTING = {
    "condor": ["condor_q", "-af", "ClusterId", "ProcId", "JobStatus", "HoldReason"],
    "lsf": ["bjobs", "-noheader", "-o", "jobid stat pend_reason delimiter='|'"],
}


def run(*command: str, code: int = 0, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
    return str(done.stdout if code == 0 else done.stderr)


def submitted(*command: str, **options: Any) -> int:
    """Submit a job; give its number."""
    found = re.search(r"(\d+)(?:\.pbs|> is|\.$)", run(*command, **options))
    assert found is not None
    return int(found[1])


def written(kind: Any, folder: Path, **words: Any) -> tuple[str, Any]:
    """Give the script that dask-jobqueue writes, and how it reads the answer to it."""
    job = kind(
        scheduler="tcp://x", name="w1", cores=2, memory="1 GB", log_directory=str(folder), **words
    )
    return str(job.job_script()), job._job_id_from_submit_output


def description(folder: Path, script: str, *lines: str) -> str:
    """Write a submit description whose job is a line of shell."""
    path = folder / "job.sub"
    arguments = f'"{quote_arguments(["-c", script])}"'
    path.write_text(
        "\n".join([f"Arguments = {arguments}", "Executable = /bin/sh", *lines, "Queue"])
    )
    return str(path)


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


# ---- Slurm


@pytest.mark.slurm
def test_slurm_real_runs_jobs_with_false_gpus(slurm: Slurm) -> None:
    output = slurm.folder / "said.txt"
    job = slurm.submit(
        'echo "$CUDA_VISIBLE_DEVICES on $SLURMD_NODENAME"', "--gres=gpu:toy:1", "-o", str(output)
    )
    slurm.wait_for_state(job, "COMPLETED")
    assert output.read_text() == "0 on n1\n"


@pytest.mark.slurm
def test_slurm_real_is_found_by_commands_of_this_process(slurm: Slurm) -> None:
    job = slurm.submit("sleep 600", "--hold")
    listed = run("squeue", "--noheader", "--format", "%i|%T|%r")
    assert listed == f"{job}|PENDING|JobHeldUser\n"


@pytest.mark.slurm
def test_slurm_real_refuses_an_unknown_partition(slurm: Slurm) -> None:
    said = slurm.run("sbatch", "--partition=nope", "--wrap", "true", code=1)
    assert "invalid partition specified: nope" in said


@pytest.mark.slurm
def test_slurm_real_sends_signals_when_a_job_is_cancelled(slurm: Slurm) -> None:
    output = slurm.folder / "end.txt"
    job = slurm.submit("trap 'echo told; exit' TERM; sleep 600 & wait", "-o", str(output))
    wait_for(lambda: len(slurm.processes(job)) >= 2, "the job to begin")
    slurm.run("scancel", "--full", job)
    slurm.wait_for_state(job, "CANCELLED")
    wait_for(lambda: not slurm.processes(job), "its processes to end")
    assert "told" in output.read_text()


@pytest.mark.slurm
def test_slurm_real_runs_a_requeued_job_again(slurm: Slurm) -> None:
    output = slurm.folder / "starts.txt"
    job = slurm.submit(
        'echo "start ${SLURM_RESTART_COUNT:-0}"; sleep 600',
        *("--requeue", "--open-mode=append", "-o", str(output)),
    )
    wait_for(lambda: "start 0" in text_of(output), "the job to begin")
    slurm.requeue(job)
    wait_for(lambda: "start 1" in text_of(output), "the job to begin again")


@pytest.mark.slow
@pytest.mark.slurm
def test_slurm_real_puts_jobs_of_a_dead_node_back(slurm: Slurm) -> None:
    output = slurm.folder / "nodes.txt"
    job = slurm.submit(
        'echo "on $SLURMD_NODENAME"; sleep 600',
        *("--requeue", "--open-mode=append", "-o", str(output)),
    )
    wait_for(lambda: "on n1" in text_of(output), "the job to begin")
    slurm.kill_node("n1")
    wait_for(lambda: not slurm.processes(job), "its processes to end")
    wait_for(lambda: "on n2" in text_of(output), "the job to begin elsewhere")


@pytest.mark.slurm
def test_two_slurm_real_side_by_side_leave_nothing_behind(slurm: Slurm) -> None:
    with real_slurm(nodes=1, cpus=1) as other:
        assert other.cluster != slurm.cluster
        job = other.submit("setsid sleep 600 & sleep 600")
        # The second sleep has left the session of the job.
        wait_for(lambda: len(other.processes(job)) >= 3, "the job to begin")
        started = other.processes()
        assert slurm.jobs() == []
    assert [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert not other.folder.exists()
    assert slurm.run("sinfo", "-h", "-o", "%D", "-p", "main") == "4\n"


@pytest.mark.slurm
def test_slurm_real_of_a_killed_run_is_ended_by_the_next(slurm: Slurm, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    killed = slurm.start(
        sys.executable,
        "-c",
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from batch.real import real_slurm\n"
        "with real_slurm(1, 1) as system:\n"
        "    open(sys.argv[2] + '.new', 'w').write(str(system.folder))\n"
        "    __import__('os').replace(sys.argv[2] + '.new', sys.argv[2])\n"
        "    time.sleep(600)\n",
        str(Path(__file__).parents[1]),
        str(ready),
    )
    wait_for(ready.exists, "the other run to begin")
    killed.kill()
    killed.communicate()
    folder = Path(ready.read_text())
    assert folder.exists()
    with real_slurm(1, 1):
        assert not folder.exists()


# ---- Grid Engine


@pytest.mark.sge
def test_sge_real_ends_a_job_at_its_walltime(sge: GridEngine) -> None:
    job = sge.submit("sleep 600", "-l", "h_rt=00:00:03")
    account = wait_for(lambda: sge.accounting(job), "the job to end")
    assert account["exit_status"] == str(128 + signal.SIGKILL)
    assert sge.jobs() == []


@pytest.mark.sge
def test_sge_real_warns_at_the_soft_limit(sge: GridEngine) -> None:
    output = sge.folder / "soft.txt"
    job = sge.submit(
        "trap 'echo warned; exit' USR1; while true; do sleep 0.1; done",
        *("-l", "s_rt=00:00:04,h_rt=00:01:00", "-j", "y", "-o", str(output)),
    )
    wait_for(lambda: sge.accounting(job), "the job to end")
    assert "warned" in output.read_text()


@pytest.mark.sge
def test_sge_real_refuses_an_unknown_queue(sge: GridEngine) -> None:
    said = sge.run("qsub", "-b", "y", "-q", "nope", "true", code=1)
    assert 'unknown queue "nope"' in said


@pytest.mark.sge
def test_sge_real_lists_jobs_that_run_wait_and_are_held(sge: GridEngine) -> None:
    jobs = [
        sge.submit("sleep 600", "-pe", "smp", "4"),
        sge.submit("sleep 600"),
        sge.submit("sleep 600", "-h"),
    ]
    sge.wait_for_state(jobs[0], "r")
    assert [sge.state(job) for job in jobs[1:]] == ["qw", "hqw"]


@pytest.mark.sge
def test_sge_real_has_a_network_of_its_own(sge: GridEngine) -> None:
    addresses = sge.run("ip", "-brief", "address").split()
    assert addresses[0] == "lo"
    assert "127.0.0.1/8" in addresses
    assert len(sge.run("ip", "-brief", "link").splitlines()) == 1


@pytest.mark.sge
def test_two_sge_real_side_by_side_leave_nothing_behind(sge: GridEngine) -> None:
    with real_grid_engine(slots=1) as other:
        job = other.submit("setsid sleep 600 & sleep 600")
        other.wait_for_state(job, "r")
        driver = other.start("sleep", "600")
        # It enters the other network first.
        wait_for(
            lambda: driver.pid in {process.pid for process in other.processes()},
            "the driver to be where its system is",
        )
        started = other.processes()
        assert sge.jobs() == []
    driver.communicate()
    assert [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert not other.folder.exists()


# ---- HTCondor


def test_condor_sim_runs_what_dask_jobqueue_writes(condor: Simulated, tmp_path: Path) -> None:
    script, id_of = written(
        HTCondorJob,
        tmp_path,
        disk="1 GB",
        python="printf '%s|' \"it's\"",
        job_script_prologue=["echo 'a  b'", "env"],
        config_name="htcondor",
    )
    path = tmp_path / "job.sub"
    path.write_text(script)
    said = run("condor_submit", str(path))
    assert said == "Submitting job(s).\n1 job(s) submitted to cluster 1.\n"
    assert id_of(said) == "1.0"
    condor.wait_for_state(1, "ended")
    lines = (tmp_path / "worker-1.0.out").read_text().splitlines()
    assert lines[0] == "a  b"
    assert lines[-1].startswith("it's|-m|distributed.cli.dask_worker|tcp://x|--name|w1|")
    assert {"OMP_NUM_THREADS=2", "_CONDOR_SLOT=slot1_1"} <= set(lines)
    assert not any(line.startswith("HOME=") for line in lines)


@pytest.mark.parametrize(
    "words", [["-c", "a 'b c' \"d\" $(e)"], ["plain", "it's"], ['"', "''", "a b"]]
)
def test_condor_sim_quotes_are_those_of_dask_jobqueue(words: list[str]) -> None:
    assert split_quoted(quote_arguments(words).replace('""', '"')) == words


def test_condor_sim_takes_files_along_and_tells_the_job_about_itself(
    condor: Simulated, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    path = description(
        tmp_path,
        "cat one two; pwd; echo $CUDA_VISIBLE_DEVICES; cat $_CONDOR_JOB_AD",
        "transfer_input_files = one, two",
        "request_gpus = 2",
        "+MaxRuntime = 600",
        "environment = \"A=1 B='2 3'\"",
        "output = $(Cluster).out",
    )
    number = submitted("condor_submit", path, cwd=tmp_path)
    condor.wait_for_state(number, "ended")
    first, gpus, *ad = (tmp_path / f"{number}.out").read_text().splitlines()
    assert first == f"onetwo{condor.folder}/scratch/{number}.1"
    assert gpus == "0,1"
    assert {f"ClusterId = {number}", "maxruntime = 600", "RequestGpus = 2"} <= set(ad)
    assert condor.job(number).environment == {"A": "1", "B": "2 3"}


def test_condor_sim_holds_a_job_at_its_limit(condor: Simulated, tmp_path: Path) -> None:
    condor.set(grace_s=0.2)
    path = description(tmp_path, "sleep 600", "allowed_job_duration = 1")
    number = submitted("condor_submit", path)
    condor.wait_for_state(number, HELD)
    assert run(*LISTING["condor"]) == (
        f"{number} 0 5 The job exceeded allowed job duration of 0+00:00:01\n"
    )
    assert run("condor_rm", f"{number}.0") == f"Job {number}.0 marked for removal\n"
    condor.wait_for_state(number, "ended")
    assert run(*LISTING["condor"]) == ""
    assert condor.processes() == []


def test_condor_sim_lists_and_removes_jobs(condor: Simulated, tmp_path: Path) -> None:
    condor.set(slots=1)
    path = description(tmp_path, "sleep 600")
    first, second = submitted("condor_submit", path), submitted("condor_submit", path)
    condor.wait_for_state(first, RUNNING)
    assert run(*LISTING["condor"]) == f"{first} 0 2 undefined\n{second} 0 1 undefined\n"
    run("condor_rm", str(first))
    condor.wait_for_state(second, RUNNING)
    assert "not found" in run("condor_rm", "99.0", code=1)


def test_condor_sim_runs_an_evicted_job_again(condor: Simulated, tmp_path: Path) -> None:
    path = description(tmp_path, "sleep 600")
    number = submitted("condor_submit", path)
    condor.wait_for_state(number, RUNNING)
    condor.evict(number)
    wait_for(lambda: condor.job(number).starts == 2, "the job to begin again")


def test_condor_sim_refuses(condor: Simulated, tmp_path: Path) -> None:
    missing = description(tmp_path, "true", "transfer_input_files = nothing")
    assert "ERROR: Can't open \"" in run("condor_submit", missing, code=1)
    condor.set(refusal="no accounting group was given")
    said = run("condor_submit", description(tmp_path, "true"), code=1)
    assert said.endswith("ERROR: no accounting group was given\n")
    assert condor.jobs() == []


# ---- PBS


def test_pbs_sim_runs_what_dask_jobqueue_writes(pbs: Simulated, tmp_path: Path) -> None:
    script, id_of = written(
        PBSJob,
        tmp_path,
        walltime="00:10:00",
        queue="short",
        python="echo",
        job_script_prologue=['qstat -f "$PBS_JOBID"', "env"],
        config_name="pbs",
    )
    path = tmp_path / "job.sh"
    path.write_text(script)
    said = run("qsub", str(path))
    assert said == "1.pbs\n"
    assert id_of(said) == "1"
    pbs.wait_for_state(1, "ended")
    said = (tmp_path / "1.pbs.OU").read_text()
    assert "    Resource_List.walltime = 00:10:00\n" in said
    assert "    stime = " in said
    assert {"PBS_JOBID=1.pbs", "PBS_QUEUE=short", "NCPUS=2"} <= set(said.splitlines())
    assert "-m distributed.cli.dask_worker tcp://x" in said


def test_pbs_sim_ends_a_job_at_its_walltime(pbs: Simulated, tmp_path: Path) -> None:
    script = "#PBS -l select=1:ncpus=1,walltime=00:00:03\ntrap 'echo told' TERM\nsleep 600\n"
    number = submitted("qsub", "-o", str(tmp_path / "out"), input=script)
    pbs.wait_for_state(number, "ended")
    assert pbs.job(number).reason == "walltime"
    assert (tmp_path / "out").read_text() == "told\n"
    assert pbs.processes() == []


def test_pbs_sim_lists_jobs_that_run_wait_and_are_held(pbs: Simulated) -> None:
    pbs.set(slots=1)
    first, second, third = (submitted("qsub", "-N", "toys", input="sleep 600") for _ in range(3))
    pbs.wait_for_state(first, RUNNING)
    pbs.hold(third, "")
    user = getuser()
    rows = [line.split() for line in run("qstat", "-u", user).splitlines() if ".pbs" in line]
    assert [(row[0], row[3], row[-2]) for row in rows] == [
        (f"{first}.pbs", "toys", "R"),
        (f"{second}.pbs", "toys", "Q"),
        (f"{third}.pbs", "toys", "H"),
    ]
    assert run("qselect", "-u", user, "-s", "QH") == f"{second}.pbs\n{third}.pbs\n"


def test_pbs_sim_runs_a_job_after_another(pbs: Simulated) -> None:
    first = submitted("qsub", input="sleep 600")
    second = submitted("qsub", "-W", f"depend=afterany:{first}", input="sleep 600")
    pbs.wait_for_state(first, RUNNING)
    assert pbs.job(second).state == WAITING
    run("qdel", str(first))
    pbs.wait_for_state(second, RUNNING)


@pytest.mark.parametrize(
    ("command", "words", "code"),
    [
        ("qsub -q nope", "qsub: Unknown queue\n", 170),
        ("qdel 99", "qdel: Unknown Job Id 99.pbs\n", 153),
        ("qstat -f 99.pbs", "qstat: Unknown Job Id 99.pbs\n", 153),
    ],
)
def test_pbs_sim_refuses(pbs: Simulated, command: str, words: str, code: int) -> None:
    assert run(*shlex.split(command), code=code, input="true") == words


# ---- LSF


def test_lsf_sim_runs_what_dask_jobqueue_writes(lsf: Simulated, tmp_path: Path) -> None:
    script, id_of = written(
        LSFJob,
        tmp_path,
        walltime="00:10",
        queue="short",
        python="echo",
        job_script_prologue=['bjobs -noheader -o time_left "$LSB_JOBID"', "env"],
        config_name="lsf",
    )
    said = run("bsub", input=script)
    assert said == "Job <1> is submitted to queue <short>.\n"
    assert id_of(said) == "1"
    lsf.wait_for_state(1, "ended")
    said = (tmp_path / "w1-1.out").read_text()
    assert said.splitlines()[0] == "0:9 L"
    assert {"LSB_JOBID=1", "LSB_DJOB_NUMPROC=2"} <= set(said.splitlines())
    assert "-m distributed.cli.dask_worker tcp://x" in said


def test_lsf_sim_warns_then_ends_a_job_at_its_limit(lsf: Simulated, tmp_path: Path) -> None:
    lsf.set(minute_s=3.0, grace_s=1.0)
    script = (
        "#BSUB -W 1\ntrap 'echo usr2' USR2; trap 'echo int' INT; trap 'echo term' TERM\n"
        "while true; do sleep 0.1; done\n"
    )
    number = submitted("bsub", "-o", str(tmp_path / "out"), input=script)
    lsf.wait_for_state(number, "ended")
    assert lsf.job(number).reason == "walltime"
    said = (tmp_path / "out").read_text().splitlines()
    assert [line for line in said if line in {"usr2", "int", "term"}] == ["usr2", "int", "term"]
    assert lsf.processes() == []


def test_lsf_sim_lists_jobs_that_run_wait_and_are_held(lsf: Simulated) -> None:
    lsf.set(slots=1)
    first, second, third = (submitted("bsub", "sleep", "600") for _ in range(3))
    lsf.wait_for_state(first, RUNNING)
    lsf.hold(third, "")
    assert run(*LISTING["lsf"]).splitlines() == [
        f"{first}|RUN|-",
        f"{second}|PEND|Job slot limit reached;",
        f"{third}|PSUSP|The job was suspended by the user while pending;",
    ]
    assert run("bkill", str(first)) == f"Job <{first}> is being terminated\n"
    lsf.wait_for_state(second, RUNNING)


def test_lsf_sim_refuses(lsf: Simulated) -> None:
    said = run("bsub", "-q", "nope", code=255, input="true")
    assert said == "nope: No such queue. Job not submitted.\n"
    assert "No matching job found" in run("bkill", "99", code=255)
    assert run(*LISTING["lsf"]) == ""


# ---- all simulations


def test_jobs_of_a_sim_whose_node_vanishes_are_gone(pbs: Simulated) -> None:
    number = submitted("qsub", input="sleep 600 & sleep 600")
    pbs.wait_for_state(number, RUNNING)
    wait_for(lambda: len(pbs.processes()) == 3, "the job to begin")
    pbs.kill(number)
    pbs.wait_for_state(number, "ended")
    assert pbs.job(number).reason == "exit -9"
    assert pbs.processes() == []
