"""Jobs of batch systems: their scripts word by word, and the commands that are run for them.

No batch system is needed: scripts are compared, or their shell parts run here; the commands are
simulated ones that come first in PATH.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hepdask_ml.errors import InputError, SiteError
from hepdask_ml.facility import jobs as jobs_module
from hepdask_ml.facility.batch import BatchSite
from hepdask_ml.facility.jobs import THREADS, Jobs
from hepdask_ml.facility.security import of_files
from hepdask_ml.facility.systems import SYSTEMS, BatchOptions, State

KINDS = sorted(SYSTEMS)
LIMITS = "export " + " ".join(f"{name}=1" for name in THREADS)

FULL: dict[str, Any] = {
    "walltime": "12:30:00",
    "memory": "4 GiB",
    "workers_per_job": 2,
    "gpus": 1,
    "gpu_type": "a100",
    "queue": "long",
    "account": "higgs",
    "container": "/cvmfs/images/fit.sif",
    "container_options": ["--bind", "/data"],
    "scratch": "$TMPDIR",
    "interface": "ib0",
    "ports": "10000:10100",
    "python": "/opt/bin/python3",
    "logs": "/somewhere/logs",
    "setup": ["module load apptainer"],
    "environment": {"GREETING": 'it\'s "me"', "N": 3},
    "worker_options": ["--lifetime", "1h"],
}
WORKER = (
    "exec apptainer exec --nv --bind /data /cvmfs/images/fit.sif /opt/bin/python3"
    " -m distributed.cli.dask_worker tls://SCHEDULER:PORT --name WORKER --nthreads 3"
    " --memory-limit 4.00GiB --nworkers 2 --nanny --death-timeout 60 --local-directory $TMPDIR"
    " --no-dashboard --dashboard-address 127.0.0.1:0"
    " --scheduler-file SESSION/scheduler.json --worker-port 10000:10100"
    " --nanny-port 10000:10100 --resources GPU=1 --preload-nanny hepdask_ml.facility.cuda"
    " --protocol tls"
    " --tls-ca-file SESSION/certificate.pem --tls-cert SESSION/certificate.pem"
    " --tls-key SESSION/key.pem --lifetime 1h --interface ib0"
)
HEADS = {
    "slurm": """\
#SBATCH -J hepdask-ml
#SBATCH -e /somewhere/logs/hepdask-ml-%J.err
#SBATCH -o /somewhere/logs/hepdask-ml-%J.out
#SBATCH -p long
#SBATCH -A higgs
#SBATCH -n 1
#SBATCH --cpus-per-task=6
#SBATCH --mem=8G
#SBATCH -t 12:30:00
#SBATCH --gres=gpu:a100:2
""",
    "pbs": """\
#PBS -N hepdask-ml
#PBS -q long
#PBS -A higgs
#PBS -l select=1:ncpus=6:mem=8192MB:ngpus=2:gpu_model=a100
#PBS -l walltime=12:30:00
#PBS -e /somewhere/logs/
#PBS -o /somewhere/logs/
""",
    "lsf": """\
#BSUB -J hepdask-ml
#BSUB -e /somewhere/logs/WORKER-%J.err
#BSUB -o /somewhere/logs/WORKER-%J.out
#BSUB -q long
#BSUB -P "higgs"
#BSUB -n 6
#BSUB -R "span[hosts=1]"
#BSUB -M 8589935
#BSUB -W 12:30
#BSUB -gpu "num=2:gmodel=a100"
""",
    "sge": """\
#$ -N hepdask-ml
#$ -q long
#$ -P higgs
#$ -l h_rt=12:30:00
#$ -e /somewhere/logs/
#$ -o /somewhere/logs/
#$ -cwd
#$ -j y
#$ -S /bin/bash
#$ -pe smp 6
#$ -l gpu=2
#$ -l gpu_type=a100
""",
}
BODY = f"""\
{LIMITS}
export HEPDASK_ML_END=`date -d +45000sec +%s`
export GREETING='it'"'"'s "me"' N=3
module load apptainer
{WORKER}
"""
CONDOR = f"""\
#!/usr/bin/env condor_submit

MY.DaskWorkerName = "htcondor--$F(MY.JobId)--"
batch_name = WORKER
RequestCpus = MY.DaskWorkerCores
RequestMemory = floor(MY.DaskWorkerMemory / 1048576)
RequestDisk = floor(MY.DaskWorkerDisk / 1024)
MY.JobId = "$(ClusterId).$(ProcId)"
MY.DaskWorkerCores = 6
MY.DaskWorkerMemory = 8589934592
MY.DaskWorkerDisk = 5000000000
LogDirectory = /somewhere/logs
Output = $(LogDirectory)/worker-$F(MY.JobId).out
Error = $(LogDirectory)/worker-$F(MY.JobId).err
Log = $(LogDirectory)/worker-$(ClusterId).log
Stream_Output = True
Stream_Error = True
allowed_job_duration = 45000
accounting_group = higgs
request_gpus = 2
require_gpus = DeviceName == "a100"
+JobFlavour = "longlunch"

Arguments = "-c '{LIMITS}; export HEPDASK_ML_END=`date -d +45000sec +%s`; \
export GREETING=''it''""''""''s ""me""'' N=3; module load apptainer; {WORKER}'"
Executable = /bin/sh

Queue
"""


def jobs(kind: str, threads: int = 1, **options: Any) -> Jobs:
    return Jobs(kind, threads, BatchOptions(**options))


def script(kind: str, threads: int = 1, **options: Any) -> str:
    return BatchSite(kind, threads=threads, options=BatchOptions(**options)).script()


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_script_word_by_word(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LSF_ENVDIR", raising=False)
    expected = f"#!/usr/bin/env bash\n\n{HEADS[kind]}{BODY}"
    assert script(kind, 3, **FULL) == expected


def test_description_for_htcondor_word_by_word() -> None:
    asked = {"directives": ['+JobFlavour = "longlunch"'], "disk": "5 GB"}
    assert script("htcondor", 3, **FULL, **asked) == CONDOR


@pytest.mark.parametrize("kind", KINDS)
def test_plain_script_asks_for_nothing_more(kind: str) -> None:
    text = script(kind)
    assert "-m distributed.cli.dask_worker" in text
    for word in ("gpu", "GPU", "apptainer", "--interface", "--worker-port", "None", "--resources"):
        assert word not in text, text


@pytest.mark.parametrize("kind", KINDS)
def test_walltime_is_declared_to_the_worker_a_single_time(kind: str) -> None:
    assert script(kind, walltime="0:10:00").count("HEPDASK_ML_END=`date -d +600sec +%s`") == 1


def test_without_encryption_there_are_no_certificates() -> None:
    text = script("slurm", tls=False)
    assert "tls-" not in text
    assert "--protocol" not in text


def test_without_a_shared_folder_address_and_certificates_travel() -> None:
    site = BatchSite("htcondor", options=BatchOptions(shared=None))
    text = site.script()
    assert "--scheduler-file" not in text
    assert "tls://SCHEDULER:PORT" in text
    assert "transfer_input_files = SESSION/certificate.pem,SESSION/key.pem" in text
    assert "--tls-ca-file certificate.pem --tls-cert certificate.pem --tls-key key.pem" in text


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"htcondor"}))
def test_only_htcondor_can_do_without_a_shared_folder(kind: str) -> None:
    with pytest.raises(InputError, match=r"options\.shared"):
        BatchSite(kind, options=BatchOptions(shared=None))


@pytest.mark.parametrize("kind", KINDS)
def test_lines_of_the_head_are_left_out_and_own_ones_kept(kind: str) -> None:
    own = "Log = mine.log" if kind == "htcondor" else "-e mine.log"
    text = script(kind, skip=["Log", "-e "], directives=[own], logs="/somewhere/logs")
    assert "mine.log" in text
    assert "/somewhere/logs/worker-$(ClusterId).log" not in text
    assert "-e /somewhere" not in text
    assert script(kind, skip=["no line holds this"]) == script(kind)


def test_directive_for_htcondor_is_a_key_and_a_value() -> None:
    with pytest.raises(InputError, match='"key = value"'):
        script("htcondor", directives=["getenv"])


def test_line_break_cannot_be_told_to_htcondor() -> None:
    with pytest.raises(InputError, match="line break"):
        script("htcondor", setup=["if true\nthen true\nfi"])


@pytest.mark.parametrize("kind", KINDS)
def test_asking_for_a_script_leaves_no_folder(kind: str, tmp_path: Path) -> None:
    script(kind, logs=str(tmp_path / "a/b/logs"))
    assert not list(tmp_path.iterdir())
    logs = tmp_path / "logs"
    logs.mkdir()
    script(kind, logs=str(logs))
    assert logs.is_dir()


# What a shell makes of it.

NASTY = {
    "SPACES": "one two  three",
    "QUOTES": 'it\'s "me"',
    "MACRO": "$(ClusterId) $HOME",
    "TICKS": "`date` \\ ; & | > # %",
}
PRINTING = """\
#!/bin/sh
env > "$(dirname "$0")/environment"
for word in "$@"; do printf '%s\\n' "$word"; done > "$(dirname "$0")/words"
"""


def condor_arguments(description: str) -> list[str]:
    """Read the arguments as HTCondor documents them: macros first, then quotes."""
    [line] = re.findall(r'^Arguments = "(.*)"$', description, re.MULTILINE)
    # Without macros of its own: the only one that may be there stands for a dollar.
    assert not re.findall(r"\$\((?!DOLLAR\))", line)
    text = line.replace("$(DOLLAR)", "$").replace('""', '"')
    words: list[str] = []
    i = 0
    word, quoted = "", False
    while i < len(text):
        if text[i] == "'" and quoted and text[i + 1 : i + 2] == "'":
            word, i = word + "'", i + 1
        elif text[i] == "'":
            quoted = not quoted
        elif text[i] == " " and not quoted:
            words, word = [*words, word], ""
        else:
            word += text[i]
        i += 1
    return [*words, word]


@pytest.mark.parametrize("kind", KINDS)
def test_shell_gives_the_worker_what_was_asked_for(kind: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(PRINTING)
    python.chmod(0o755)
    shared = tmp_path / "it's a folder"
    made = jobs(kind, environment=NASTY, python=str(python), setup=["cd /", "export LATE=1"])
    text = made.script(
        "me",
        scheduler_file=shared / "scheduler.json",
        security=of_files(shared / "certificate.pem", shared / "key.pem"),
    )
    command = condor_arguments(text) if kind == "htcondor" else ["-c", text]
    subprocess.run(["/bin/sh", *command], check=True, env={"PATH": os.environ["PATH"]})
    found = dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines())
    assert {name: found[name] for name in NASTY} == NASTY
    assert {name: found[name] for name in THREADS} == dict.fromkeys(THREADS, "1")
    assert found["LATE"] == "1"
    assert found["HEPDASK_ML_END"].isdigit()
    words = (tmp_path / "words").read_text().splitlines()
    assert words[words.index("--scheduler-file") + 1] == str(shared / "scheduler.json")
    assert words[words.index("--tls-ca-file") + 1] == str(shared / "certificate.pem")
    assert words[words.index("--tls-key") + 1] == str(shared / "key.pem")


# Which jobs may be taken over.


def test_digest_is_that_of_everything_that_is_asked_for() -> None:
    plain = jobs("slurm").digest
    assert jobs("slurm").digest == plain
    others = [
        jobs("pbs"),
        jobs("slurm", threads=2),
        jobs("slurm", queue="long"),
        jobs("slurm", walltime="3 h"),
        jobs("slurm", environment={"A": 1}),
    ]
    assert len({plain, *(each.digest for each in others)}) == len(others) + 1


def test_digest_of_values_that_are_no_json() -> None:
    assert jobs("slurm", environment={"DATA": Path("/data")}).digest


# Commands, simulated.

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put commands into PATH, in front of everything."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def put(**commands: str) -> Path:
        for name, text in commands.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        return folder

    return put


SAID = {
    "slurm": ("sbatch", "Submitted batch job 1234", "1234"),
    "htcondor": (
        "condor_submit",
        "Submitting job(s).\n1 job(s) submitted to cluster 1234.",
        "1234.0",
    ),
    "pbs": ("qsub", "1234.pbs-server", "1234"),
    "lsf": ("bsub", "Job <1234> is submitted to queue <normal>.", "1234"),
    "sge": ("qsub", 'Your job 1234 ("hepdask-ml") has been submitted', "1234"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_submission_gives_the_id_and_hands_the_script_over(kind: str, install: Install) -> None:
    command, words, number = SAID[kind]
    seen = "$(dirname $0)/seen"
    place = install(**{command: f"cat ${{1:+\"$1\"}} > {seen}; echo '{words}'"})
    made = jobs(kind)
    assert made.submit("me") == number
    assert (place / "seen").read_text() == made.script("me")


@pytest.mark.parametrize("kind", KINDS)
def test_refused_submission_is_told_in_the_systems_own_words(kind: str, install: Install) -> None:
    command = SAID[kind][0]
    install(**{command: "echo 'noise'; echo 'error: invalid   queue\nsorry' >&2; exit 3"})
    with pytest.raises(SiteError, match=f"^{command} refused: error: invalid queue sorry$"):
        jobs(kind).submit("me")


def test_refusal_without_a_word_has_its_exit_code(install: Install) -> None:
    install(sbatch="exit 7")
    with pytest.raises(SiteError, match=r"^sbatch refused: exit code 7$"):
        jobs("slurm").submit("me")


def test_refusal_on_the_standard_output_is_heard(install: Install) -> None:
    install(sbatch="echo the cluster is closed; exit 1")
    with pytest.raises(SiteError, match="the cluster is closed"):
        jobs("slurm").submit("me")


@pytest.mark.parametrize("kind", KINDS)
def test_answer_without_an_id_is_an_error(kind: str, install: Install) -> None:
    command = SAID[kind][0]
    install(**{command: "echo welcome to the cluster"})
    with pytest.raises(SiteError, match=f"{command} gave no id .*welcome to the cluster"):
        jobs(kind).submit("me")


def test_missing_command_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SiteError, match="there is no sbatch on this machine"):
        jobs("slurm").submit("me")
    with pytest.raises(SiteError, match="there is no squeue on this machine"):
        jobs("slurm").listed()
    jobs("slurm").cancel(["1"])  # nothing is left to be done


def test_command_that_hangs_is_ended(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "COMMAND_S", 0.2)
    install(sbatch="sleep 60", squeue="exec sleep 60")
    for ask in (lambda: jobs("slurm").submit("me"), jobs("slurm").listed):
        with pytest.raises(SiteError, match=r"does not answer: .*timed out"):
            ask()


def test_listing_is_that_of_this_user(install: Install) -> None:
    install(
        whoami="echo nobody",
        squeue='echo "$@" > $(dirname $0)/words; echo "7|RUNNING|None"',
    )
    assert jobs("slurm").listed()["7"].state is State.RUNNING


def test_no_job_at_all_is_an_empty_list_on_lsf(install: Install) -> None:
    install(bjobs="echo 'No unfinished job found' >&2; exit 255")
    assert jobs("lsf").listed() == {}
    install(bjobs="echo 'LSF is down. Please wait ...' >&2; exit 255")
    with pytest.raises(SiteError, match="LSF is down"):
        jobs("lsf").listed()


def test_cancelling_goes_on_after_a_job_that_is_gone(install: Install) -> None:
    place = install(scancel='test "$1" != 2 && echo $1 >> $(dirname $0)/cancelled')
    jobs("slurm").cancel(["1", "2", "3"])
    assert (place / "cancelled").read_text().split() == ["1", "3"]


# Last words.


def logged(folder: Path, files: Mapping[str, str]) -> Jobs:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return jobs("slurm", logs=str(folder))


@pytest.mark.parametrize(
    ("files", "job", "words"),
    [
        pytest.param({"hepdask-ml-12.err": "one\ntwo \n\n"}, "12", "two", id="slurm"),
        pytest.param({"a-12.err": "error", "a-12.out": "output"}, "12", "error", id="errors first"),
        pytest.param({"a-12.err": "\n", "a-12.out": "output"}, "12", "output", id="empty errors"),
        pytest.param({"hepdask-ml.o12": "said"}, "12", "said", id="grid engine"),
        pytest.param(
            {"worker-12.0.err": "oh", "worker-12.0.out": "", "worker-12.log": "..."},
            "12.0",
            "oh",
            id="htcondor",
        ),
        pytest.param(
            {"a-112.err": "no", "a-123.err": "no", "a-12.err": "yes"}, "12", "yes", id="id"
        ),
        pytest.param({"a-112.err": "no"}, "12", "", id="another job"),
        pytest.param({}, "12", "", id="none"),
        pytest.param({"a-12.err": "x" * 1000}, "12", "x" * 300, id="long"),
    ],
)
def test_last_words_are_those_of_the_job(
    files: Mapping[str, str], job: str, words: str, tmp_path: Path
) -> None:
    assert logged(tmp_path / "logs", files).last_words(job) == words


def test_last_words_of_a_large_or_unreadable_log(tmp_path: Path) -> None:
    made = logged(tmp_path / "logs", {"a-12.out": "é" * 100_001 + "\nthe end\n"})
    (tmp_path / "logs/a-12.err").mkdir()
    assert made.last_words("12") == "the end"
    assert jobs("slurm", logs=str(tmp_path / "none")).last_words("12") == ""


def test_script_travels_in_a_file_for_this_user_alone(install: Install) -> None:
    place = install(sbatch='stat -c %a "$1" > $(dirname $0)/mode; echo Submitted batch job 1')
    jobs("slurm").submit("me")
    assert (place / "mode").read_text().strip() == "600"
