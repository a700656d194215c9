"""Each system is asked by a fake command that answers as the real one does.

The outputs are those of a real Slurm 22.05 and Grid Engine 8.1.9, and published ones of PBS Pro,
Torque, LSF and HTCondor, shortened and with times of our own.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from hepdask_ml.errors import InputError
from hepdask_ml.facility import node
from hepdask_ml.facility.node import End, end, process_start

Commands = Callable[..., dict[str, str]]
Calls = Callable[[], list[str]]

# 2026-07-01 12:00:00 in Geneva, two hours ahead of UTC then.
NOON = 1782900000.0

SCONTROL = """\
JobId=4242 JobName=dask-worker
   UserId=ada(1000) GroupId=ada(1000) MCS_label=N/A
   RunTime=00:21:28 TimeLimit=01:00:00 TimeMin=N/A
   SubmitTime=2026-07-01T10:59:58 EligibleTime=2026-07-01T10:59:58
   StartTime=2026-07-01T11:00:00 EndTime={end} Deadline=N/A
   PreemptEligibleTime=2026-07-01T11:00:00 PreemptTime=None
"""

PBS_PRO = """\
Job Id: 14.pbs
    Job_Name = dask-worker
    resources_used.cput = 00:00:00
    resources_used.walltime = 00:00:00
    job_state = R
    ctime = Wed Jul  1 10:13:12 2026
    Error_Path = node:/home/ada/a folder with a very long name/dask-worke
\tr.e14
    Resource_List.ncpus = 1
    Resource_List.walltime = 01:00:00
    stime = Wed Jul  1 11:00:00 2026
    Variable_List = PBS_O_HOME=/home/ada,PBS_O_LANG=C.UTF-8,
\tPBS_O_SYSTEM=Linux
"""

TORQUE = """\
Job Id: 114618.mike
    Job_Name = dask-worker
    resources_used.walltime = 00:09:33
    qtime = Wed Jul  1 10:25:59 2026
    Resource_List.cput = 7200:00:00
    Resource_List.nodes = 1:ppn=1
    Resource_List.walltime = 25:00:00
    session_id = 16750
    start_time = Tue Jun 30 11:00:00 2026
    Walltime.Remaining = 86000
"""

GRID_ENGINE = """\
==============================================================
job_number:                 1
submission_time:            Sat Nov 21 09:07:19 2026
account:                    sge
{requests}
notify:                     FALSE
job_name:                   dask-worker
usage         1:            cpu=00:00:00, mem=0.00000 GB s, io=0.00000 GB, vmem=N/A, maxvmem=N/A
"""

JOB_AD = """\
MaxHosts = 1
Requirements = (TARGET.Arch == "X86_64") && (TARGET.OpSys == "LINUX")
PeriodicRemove = (JobStatus == 2) && (time() - JobCurrentStartDate > 60)
JobStartDate = 1782800000
JobCurrentStartDate = 1782896400
JobDuration = 12.5
Owner = "ada"
"""


@pytest.fixture
def geneva(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time as at CERN, by the rule itself: no zone data are needed."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """Put fake commands on the PATH of an environment; each notes down how it was called."""

    def environ(variables: dict[str, str], **outputs: str) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, output in outputs.items():
            (tmp_path / f"{name}.txt").write_text(output, encoding="utf-8")
            script = f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/calls\ncat {tmp_path}/{name}.txt\n'
            (folder / name).write_text(script, encoding="utf-8")
            (folder / name).chmod(0o755)
        return {"PATH": f"{folder}:/usr/bin:/bin", **variables}

    return environ


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    """The commands that were run so far, with their arguments."""

    def read() -> list[str]:
        path = tmp_path / "calls"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    return read


def test_nothing_is_said() -> None:
    assert end(environ={}) == End(None, "none")


def test_without_its_variables_no_command_is_run(commands: Commands, calls: Calls) -> None:
    # JOB_ID alone is any program's, and LSB_JOBINDEX no job.
    environ = commands(
        {"JOB_ID": "7", "LSB_JOBINDEX": "1", "SLURM_JOB_ID": "", "PBS_JOBID": ""},
        squeue="2026-07-01T12:00:00",
        scontrol=SCONTROL,
        qstat=PBS_PRO,
        bjobs="1:00 L",
    )
    assert end(environ=environ) == End(None, "none")
    assert calls() == []


def test_the_process_itself_is_asked_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEPDASK_ML_END", "1000000000")
    assert end() == End(1e9, "declared")


@pytest.mark.parametrize(
    ("at", "now", "left"),
    [(100.0, 40.0, 60.0), (100.0, 100.0, 0.0), (100.0, 140.0, 0.0), (None, 140.0, math.inf)],
)
def test_seconds_left(at: float | None, now: float, left: float) -> None:
    assert End(at, "declared").left(now) == left


def test_seconds_left_from_now_on() -> None:
    assert 50 < End(time.time() + 60, "declared").left() <= 60


def test_a_process_began_before_it_asks() -> None:
    began = time.time()
    code = "import time; from hepdask_ml.facility import node; print(node.process_start())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert began - 2 < float(said.stdout) < time.time() + 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5400", 5400),
        ("0.5", 0.5),
        (" 90 ", 90),
        ("1:30:00", 5400),
        ("00:02:03", 123),
        ("100:00:00", 360_000),
        ("2-01:00:00", 176_400),
    ],
)
def test_a_declared_walltime_counts_from_the_start(text: str, seconds: float) -> None:
    found = end(environ={"HEPDASK_ML_WALLTIME": text})
    assert found == End(process_start() + seconds, "declared")


@pytest.mark.parametrize(
    "text", ["0", "-5", "soon", "1h", "01:30", "1-00", "1:60:00", "nan", "inf", "1e3", "00:00:00"]
)
def test_a_walltime_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"HEPDASK_ML_WALLTIME is .* give a time"):
        end(environ={"HEPDASK_ML_WALLTIME": text})


@pytest.mark.parametrize(
    "text", ["3600", "01:00:00", "-1", "nan", "inf", "1782900000000", "2026-07-01T12:00:00"]
)
def test_an_end_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"HEPDASK_ML_END is .* give a Unix time"):
        end(environ={"HEPDASK_ML_END": text})


def test_an_empty_declaration_is_none() -> None:
    assert end(environ={"HEPDASK_ML_WALLTIME": "", "HEPDASK_ML_END": " "}).at is None


def test_dasks_lifetime_counts_from_the_start() -> None:
    assert end(lifetime_s=90.0, environ={}) == End(process_start() + 90, "Dask's lifetime")


def test_the_earliest_wins() -> None:
    start = process_start()
    environ = {"SLURM_JOB_END_TIME": f"{start + 3600:.0f}", "HEPDASK_ML_END": f"{start + 7200:.0f}"}
    assert end(environ=environ).source == "SLURM_JOB_END_TIME"
    assert end(lifetime_s=3000.0, environ=environ).source == "Dask's lifetime"
    environ["HEPDASK_ML_WALLTIME"] = "50"
    assert end(lifetime_s=3000.0, environ=environ) == End(start + 50, "declared")


def test_slurm_states_its_end(commands: Commands, calls: Calls) -> None:
    variables = {"SLURM_JOB_ID": "4242", "SLURM_JOB_END_TIME": "1782900000"}
    environ = commands(variables, squeue="2026-07-01T11:00:00")
    assert end(environ=environ) == End(NOON, "SLURM_JOB_END_TIME")
    assert calls() == []


@pytest.mark.usefixtures("geneva")
@pytest.mark.parametrize(
    "stated", [{}, {"SLURM_JOB_END_TIME": "unknown"}, {"SLURM_JOB_END_TIME": "0"}]
)
def test_squeue(stated: dict[str, str], commands: Commands, calls: Calls) -> None:
    environ = commands(
        {"SLURM_JOB_ID": "4242", **stated}, squeue="2026-07-01T12:00:00           \n"
    )
    assert end(environ=environ) == End(NOON, "squeue")
    assert calls() == ["squeue -h -j 4242 -O EndTime:30"]


@pytest.mark.usefixtures("geneva")
def test_squeue_of_one_array_task(commands: Commands, calls: Calls) -> None:
    variables = {
        "SLURM_JOB_ID": "4242",
        "SLURM_ARRAY_JOB_ID": "4242",
        "SLURM_ARRAY_TASK_ID": "3",
    }
    environ = commands(variables, squeue="2026-07-01T12:00:00\n")
    assert end(environ=environ).at == NOON
    assert calls() == ["squeue -h -j 4242_3 -O EndTime:30"]


@pytest.mark.usefixtures("geneva")
@pytest.mark.parametrize(
    ("said", "at"),
    [
        # The hour of 25 October 2026 that comes twice: the first of them.
        ("2026-10-25T02:30:00", 1792888200.0),
        ("2026-01-01T00:00:00", 1767222000.0),
    ],
)
def test_local_time_has_no_zone(said: str, at: float, commands: Commands) -> None:
    assert end(environ=commands({"SLURM_JOB_ID": "1"}, squeue=said)).at == at


def test_times_are_asked_for_in_full(tmp_path: Path, commands: Commands) -> None:
    environ = commands({"SLURM_JOB_ID": "1", "SLURM_TIME_FORMAT": "relative"}, squeue="")
    script = f'#!/bin/sh\necho "$SLURM_TIME_FORMAT $LC_ALL" >{tmp_path}/told\n'
    (tmp_path / "bin" / "squeue").write_text(script, encoding="utf-8")
    assert end(environ=environ).at is None
    assert (tmp_path / "told").read_text(encoding="utf-8") == "standard C\n"


@pytest.mark.usefixtures("geneva")
@pytest.mark.parametrize("squeue", ["N/A\n", "NONE", "UNKNOWN", "", "2026-13-01T12:00:00"])
def test_scontrol_where_squeue_is_silent(squeue: str, commands: Commands) -> None:
    said = SCONTROL.format(end="2026-07-01T12:00:00")
    environ = commands({"SLURM_JOB_ID": "4242"}, squeue=squeue, scontrol=said)
    assert end(environ=environ) == End(NOON, "scontrol")


def test_a_slurm_job_without_limit(commands: Commands, calls: Calls) -> None:
    said = SCONTROL.format(end="Unknown")
    environ = commands({"SLURM_JOB_ID": "4242"}, squeue="N/A\n", scontrol=said)
    assert end(environ=environ).at is None
    assert calls()[1:] == ["scontrol show job 4242"]


def test_a_command_that_fails_says_nothing(tmp_path: Path, commands: Commands) -> None:
    environ = commands({"SLURM_JOB_ID": "1"}, squeue="2026-07-01T12:00:00\n")
    script = tmp_path / "bin" / "squeue"
    script.write_text(script.read_text(encoding="utf-8") + "exit 1\n", encoding="utf-8")
    assert end(environ=environ).at is None


def test_a_command_that_is_missing_says_nothing(tmp_path: Path) -> None:
    variables = {"SLURM_JOB_ID": "1", "PBS_JOBID": "1", "LSB_JOBID": "1", "JOB_ID": "1"}
    environ = {"PATH": str(tmp_path), "SGE_ROOT": "/sge", **variables}
    assert end(environ=environ) == End(None, "none")


def test_a_command_that_hangs_says_nothing(
    tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "_PATIENCE_S", 0.1)
    environ = commands({"LSB_JOBID": "1"}, bjobs="1:00 L")
    (tmp_path / "bin" / "bjobs").write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    began = time.monotonic()
    assert end(environ=environ).at is None
    assert time.monotonic() - began < 50


def test_output_that_is_no_text_says_nothing(tmp_path: Path, commands: Commands) -> None:
    environ = commands({"LSB_JOBID": "1"}, bjobs="")
    (tmp_path / "bjobs.txt").write_bytes(b"\xff\xfe\x00")
    assert end(environ=environ).at is None


@pytest.mark.parametrize(
    ("lines", "seconds", "name"),
    [
        ("MaxRuntime = 7200", 7200, "MaxRuntime"),
        ("MaxRunTime = 7200", 7200, "MaxRuntime"),
        ("AllowedJobDuration = 600", 600, "AllowedJobDuration"),
        ("AllowedExecuteDuration = 600", 600, "AllowedExecuteDuration"),
        ("MaxWallTime = 90", 5400, "MaxWallTime"),
        ("MaxWallTimeMins = 90\nMaxRuntime = 6000", 5400, "MaxWallTimeMins"),
        ('JobFlavour = "espresso"', 1200, "JobFlavour"),
        ('JobFlavour = "nextweek"', 604_800, "JobFlavour"),
        ('JobFlavour = "espresso"\nMaxRuntime = 7200', 7200, "MaxRuntime"),
    ],
)
def test_htcondor(lines: str, seconds: float, name: str, tmp_path: Path) -> None:
    ad = tmp_path / ".job.ad"
    ad.write_text(JOB_AD + lines + "\n", encoding="utf-8")
    expected = End(1782896400 + seconds, f"HTCondor {name}")
    assert end(environ={"_CONDOR_JOB_AD": str(ad)}) == expected


def test_htcondor_without_a_later_start(tmp_path: Path) -> None:
    ad = tmp_path / ".job.ad"
    ad.write_text("JobStartDate = 1782800000\nMaxRuntime = 60\n", encoding="utf-8")
    assert end(environ={"_CONDOR_JOB_AD": str(ad)}).at == 1782800060
    ad.write_text("MaxRuntime = 60\n", encoding="utf-8")
    assert end(environ={"_CONDOR_JOB_AD": str(ad)}).at == process_start() + 60


@pytest.mark.parametrize(
    "lines",
    ["", 'JobFlavour = "forever"', "MaxRuntime = undefined", "MaxWallTimeMins = 0", "MaxRuntime"],
)
def test_htcondor_without_a_limit(lines: str, tmp_path: Path) -> None:
    ad = tmp_path / ".job.ad"
    ad.write_text(JOB_AD + lines + "\n", encoding="utf-8")
    assert end(environ={"_CONDOR_JOB_AD": str(ad)}).at is None


def test_htcondor_without_its_ad(tmp_path: Path) -> None:
    assert end(environ={"_CONDOR_JOB_AD": str(tmp_path / "gone")}).at is None


def test_torque_states_its_walltime(
    commands: Commands, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "_session_start", lambda: NOON)
    environ = commands({"PBS_JOBID": "114618.mike", "PBS_WALLTIME": "3600"}, qstat=TORQUE)
    assert end(environ=environ) == End(NOON + 3600, "PBS_WALLTIME")
    assert calls() == []


@pytest.mark.usefixtures("geneva")
@pytest.mark.parametrize("said", [PBS_PRO, TORQUE])
def test_pbs(said: str, commands: Commands, calls: Calls) -> None:
    environ = commands({"PBS_JOBID": "14.pbs"}, qstat=said)
    assert end(environ=environ) == End(NOON, "qstat")
    assert calls() == ["qstat -f 14.pbs"]


def test_pbs_without_a_start(commands: Commands) -> None:
    """Then by the time used, which is old, and so never later than by the job's own age."""
    said = "    resources_used.walltime = 100:00:00\n    Resource_List.walltime = 101:00:00\n"
    left = end(environ=commands({"PBS_JOBID": "14"}, qstat=said)).left()
    assert 3590 < left <= 3600
    said = "    Resource_List.walltime = 00:10:00\n"
    found = end(environ=commands({"PBS_JOBID": "14"}, qstat=said))
    assert found.at is not None
    assert found.at <= process_start() + 600


@pytest.mark.parametrize("said", ["", "qstat: Unknown Job Id 14", "    job_state = R\n"])
def test_pbs_without_a_limit(said: str, commands: Commands) -> None:
    assert end(environ=commands({"PBS_JOBID": "14"}, qstat=said)).at is None


@pytest.mark.parametrize(
    ("said", "left"), [("0:12 L\n", 720), ("26:03 L   \n", 93_780), ("1:00 E\n", 3600)]
)
def test_lsf(said: str, left: float, commands: Commands, calls: Calls) -> None:
    variables = {"LSB_JOBID": "42", "LSB_JOBINDEX": "0"}
    found = end(environ=commands(variables, bjobs=said))
    assert found.source == "bjobs"
    assert found.left() == pytest.approx(left, abs=5)
    assert calls() == ["bjobs -noheader -o time_left 42"]


@pytest.mark.parametrize(
    ("after_s", "source"), [(30.0, "declared"), (-30.0, "declared"), (90.0, "bjobs")]
)
def test_lsf_cuts_minutes_off_and_what_was_declared_is_exact(
    after_s: float, source: str, commands: Commands
) -> None:
    declared = time.time() + 600 + after_s
    variables = {"LSB_JOBID": "42", "HEPDASK_ML_END": f"{declared:.0f}"}
    assert end(environ=commands(variables, bjobs="0:10 L")).source == source


def test_lsf_array(commands: Commands, calls: Calls) -> None:
    end(environ=commands({"LSB_JOBID": "42", "LSB_JOBINDEX": "7"}, bjobs="-\n"))
    assert calls() == ["bjobs -noheader -o time_left 42[7]"]


@pytest.mark.parametrize("said", ["-\n", "0:0 X\n", "Job <42> is not found\n", "TIME_LEFT\n-\n"])
def test_lsf_without_a_limit(said: str, commands: Commands) -> None:
    assert end(environ=commands({"LSB_JOBID": "42"}, bjobs=said)).at is None


@pytest.mark.parametrize(
    ("requests", "seconds"),
    [
        ("hard resource_list:         h_rt=120,s_rt=90,h_vmem=8G", 90),
        ("hard resource_list:         s_rt=300,h_rt=120", 120),
        ("hard resource_list:         h_vmem=8G,h_rt=00:30:00", 1800),
    ],
)
def test_grid_engine(
    requests: str,
    seconds: float,
    commands: Commands,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node, "_session_start", lambda: NOON)
    said = GRID_ENGINE.format(requests=requests)
    found = end(environ=commands({"JOB_ID": "1", "SGE_ROOT": "/sge"}, qstat=said))
    assert found == End(NOON + seconds, "qstat")
    assert calls() == ["qstat -j 1"]


@pytest.mark.parametrize(
    "requests",
    [
        "hard resource_list:         h_vmem=8G",
        "hard resource_list:         h_rt=INFINITY",
        "soft resource_list:         h_rt=120",
        "hard_queue_list:            !gpu.q",
    ],
)
def test_grid_engine_without_a_limit(requests: str, commands: Commands) -> None:
    said = GRID_ENGINE.format(requests=requests)
    assert end(environ=commands({"JOB_ID": "1", "SGE_ROOT": "/sge"}, qstat=said)).at is None


def test_a_worker_started_again_counts_from_the_start_of_its_job() -> None:
    """The job's script leads a session; the worker in it is younger."""
    code = "from hepdask_ml.facility import node; print(node.end().at, node.process_start())"
    said = subprocess.run(
        ["/bin/sh", "-c", f"sleep 0.4; {sys.executable} -c '{code}'; true"],
        env={**os.environ, "PBS_WALLTIME": "100"},
        start_new_session=True,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    at, start = (float(part) for part in said.split())
    assert at - 100 < start - 0.3


@pytest.mark.parametrize("fault", [psutil.NoSuchProcess(1), psutil.AccessDenied(1)])
def test_a_session_without_its_leader(fault: psutil.Error, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under Slurm, whose first process of a session is gone when the job runs."""
    start = process_start()

    def leader(pid: int) -> psutil.Process:
        raise fault

    monkeypatch.setattr(node, "process_start", lambda: start)
    monkeypatch.setattr(psutil, "Process", leader)
    assert end(environ={"PBS_WALLTIME": "100"}) == End(start + 100, "PBS_WALLTIME")


def test_a_daemons_session_is_no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    start = process_start()
    monkeypatch.setattr(os, "getuid", lambda: -1)
    assert end(environ={"PBS_WALLTIME": "100"}) == End(start + 100, "PBS_WALLTIME")
