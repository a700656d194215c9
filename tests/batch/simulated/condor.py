"""A simulation of HTCondor's commands, as its manual describes them: no HTCondor is involved.

Of submit descriptions it knows: macros and ``$F(...)``, both kinds of quotes of arguments and
environment, files that go with a job, limits of time, attributes and graphics processors; of
``queue`` only one job a cluster.  A job runs in a scratch folder and without the environment of
the place where it was submitted.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from getpass import getuser
from pathlib import Path

from batch.simulated.jobs import HELD, RUNNING, WAITING, Ending, Job, Start, Store
from batch.simulated.scripts import Refused, options, scratch

COMMANDS = ("condor_submit", "condor_q", "condor_rm")
STATUS = {WAITING: 1, RUNNING: 2, HELD: 5}
REMOVED = 3
LIMITS = {
    "allowed_job_duration": "AllowedJobDuration",
    "allowed_execute_duration": "AllowedExecuteDuration",
    "my.maxruntime": "",
}
"""Limits of time in seconds: jobs beyond the first two are held; the third is a site's own."""


def ending(job: Job) -> Ending:
    return Ending(all_processes=False, hold=job.special["hold"])


def start(store: Store, job: Job) -> Start:
    folder = scratch(store, job)
    for path in job.special["inputs"]:
        _copy(Path(path), folder)
    ad = folder / ".job.ad"
    ad.write_text("".join(f"{key} = {value}\n" for key, value in attributes(job).items()))
    asked = job.special["ad"].get("RequestCpus", "1")
    cores = job.special["ad"].get(asked.lower().removeprefix("my."), asked)
    system = {
        "_CONDOR_JOB_AD": str(ad),
        "_CONDOR_SCRATCH_DIR": str(folder),
        "_CONDOR_JOB_IWD": str(folder),
        "_CONDOR_SLOT": "slot1_1",
        "BATCH_SYSTEM": "HTCondor",
        "OMP_NUM_THREADS": cores,
        "TMPDIR": str(folder),
    }
    gpus = int(job.special["ad"].get("RequestGpus", "0"))
    if gpus:
        system["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(gpus)))
    return Start(
        command=job.command,
        folder=str(folder if job.special["transfers"] else job.folder),
        environment=job.environment | system,
        output=job.output or "/dev/null",
        errors=job.errors or "/dev/null",
    )


def _copy(path: Path, folder: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, folder / path.name)
    else:
        shutil.copy2(path, folder)


def attributes(job: Job) -> dict[str, object]:
    """Give a job's ad: the names and values as they are written there."""
    ad: dict[str, object] = {
        "ClusterId": job.number,
        "ProcId": 0,
        "JobStatus": REMOVED if job.asked == "remove" else STATUS[job.state],
        "Owner": f'"{getuser()}"',
        "Iwd": f'"{job.folder}"',
        "Cmd": f'"{job.command[0]}"',
        "QDate": int(job.submitted),
        "NumJobStarts": job.starts,
    }
    if job.starts:
        ad |= {"JobStartDate": int(job.started), "JobCurrentStartDate": int(job.started)}
    if job.state == HELD:
        ad["HoldReason"] = f'"{job.reason or "via condor_hold (by user " + getuser() + ")"}"'
    return {**ad, **job.special["ad"]}


def condor_submit(store: Store, words: list[str]) -> None:
    given, rest = options(
        words, "-spool -terse -verbose -disable", "-name -remote -pool -append -batch-name -addr"
    )
    added = [value for option, value in given if option == "-append"]
    added += [word for word in rest if "=" in word]
    files = [word for word in rest if "=" not in word]
    text = Path(files[0]).read_text() if files and files[0] != "-" else sys.stdin.read()
    print("Submitting job(s)", end="", flush=True)
    commands = _Commands(_read(text, added), store.next_number())
    _check(commands)
    if refusal := store.settings.refusal:
        raise Refused(f"\nERROR: Failed to commit job submission into the queue.\nERROR: {refusal}")
    job = _job(commands)
    store.add("condor", job)
    print(f".\n1 job(s) submitted to cluster {job.number}.")


def _read(text: str, added: list[str]) -> dict[str, str]:
    """Read a submit description: commands by their lower names, as they are written."""
    lines = text.replace("\\\n", " ").splitlines()
    queues = [i for i, line in enumerate(lines) if re.match(r"\s*queue\b", line, re.IGNORECASE)]
    if len(queues) != 1 or lines[queues[0]].split()[1:] not in ([], ["1"]):
        raise Refused("\nERROR: this simulation takes one queue command for one job")
    commands = {}
    for number, line in enumerate([*lines[: queues[0]], *added], start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, sign, value = line.partition("=")
        if not sign or not re.fullmatch(r"\+?[\w.]+", key.strip()):
            raise Refused(
                f"\nERROR: on Line {number} of submit file: \nERROR: Failed to parse command file "
                f"(line {number})."
            )
        commands[re.sub(r"^\+", "my.", key.strip().lower())] = value.strip()
    return commands


class _Commands:
    """Submit commands, whose macros are replaced when they are asked for."""

    def __init__(self, commands: Mapping[str, str], number: int) -> None:
        self.commands = commands
        self.number = number
        self.macros = dict(commands) | dict.fromkeys(("clusterid", "cluster"), str(number))
        self.macros |= dict.fromkeys(("procid", "process"), "0")

    def get(self, key: str, default: str = "") -> str:
        return self.replaced(self.commands.get(key, default))

    def replaced(self, text: str) -> str:
        def value(found: re.Match[str]) -> str:
            kind, name, default = found[1], found[2], found[3] or ""
            if kind == "ENV":
                return os.environ.get(name, default)
            plain = self.replaced(self.macros.get(name.lower(), default))
            return plain.strip('"') if kind.startswith("F") else plain

        return re.sub(r"(?<!\$)\$(ENV|F[a-z]*|)\(([\w.]+)(?::([^)]*))?\)", value, text)


def _check(commands: _Commands) -> None:
    if not commands.get("executable"):
        raise Refused("\nERROR: No 'executable' parameter was provided")
    folder = Path(commands.get("initialdir") or Path.cwd())
    outputs = [commands.get(key) for key in ("output", "error", "log")]
    for path in [commands.get("executable"), *_inputs(commands)]:
        if not (folder / path).exists():
            raise Refused(f'\nERROR: Can\'t open "{folder / path}"  with flags 00 (No such file or '
                          "directory)")  # fmt: skip
    for path in filter(None, outputs):
        if not (folder / path).parent.is_dir():
            raise Refused(f'\nERROR: Can\'t open "{folder / path}"  with flags 01101 (No such file '
                          "or directory)")  # fmt: skip


def _inputs(commands: _Commands) -> list[str]:
    return [
        path.strip() for path in commands.get("transfer_input_files").split(",") if path.strip()
    ]


def _job(commands: _Commands) -> Job:
    folder = Path(commands.get("initialdir") or Path.cwd())
    limits = {key: float(commands.get(key)) for key in LIMITS if commands.get(key)}
    first = min(limits, key=lambda key: limits[key], default="")
    hold = ""
    if first.startswith("allowed"):
        what = first.split("_")[1]
        hold = f"The job exceeded allowed {what} duration of {_duration(limits[first])}"
    outputs = [commands.get(key) and str(folder / commands.get(key)) for key in ("output", "error")]
    return Job(
        commands.number,
        name=commands.get("batch_name").strip('"'),
        queue="",
        command=[str(folder / commands.get("executable")), *_arguments(commands)],
        folder=str(folder),
        environment=_environment(commands),
        output=outputs[0],
        errors=outputs[1],
        walltime_s=limits.get(first),
        special={
            "ad": {name: commands.get(key) for key in commands.commands if (name := _spelled(key))},
            "inputs": [str(folder / path) for path in _inputs(commands)],
            "transfers": commands.get("should_transfer_files").upper() != "NO",
            "hold": hold,
        },
    )


def _spelled(key: str) -> str:
    """Give the attribute that a command sets: its name without case, or the usual one."""
    if key.startswith("my."):
        return key[3:]
    if found := re.fullmatch(r"request_?(cpus|memory|disk|gpus)", key):
        return f"Request{found[1].title()}"
    return LIMITS.get(key, "")


def _duration(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86400)
    return f"{days}+{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"


def _arguments(commands: _Commands) -> list[str]:
    text = commands.get("arguments")
    if not text.startswith('"'):
        return [word.replace('\\"', '"') for word in text.split()]
    return split_quoted(_inner(text))


def _environment(commands: _Commands) -> dict[str, str]:
    text = commands.get("environment")
    pairs = split_quoted(_inner(text)) if text.startswith('"') else text.split(";")
    whole = commands.get("getenv").lower() == "true"
    given = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return (dict(os.environ) if whole else {}) | given


def _inner(text: str) -> str:
    if len(text) < 2 or not text.endswith('"') or '"' in text[1:-1].replace('""', ""):
        raise Refused(f"\nERROR: Unterminated or unescaped double-quote: {text}")
    return text[1:-1].replace('""', '"')


def split_quoted(text: str) -> list[str]:
    """Split words at blanks outside of single quotes, two of which are one within them."""
    words = re.findall(r"(?:'(?:[^']|'')*'|[^\s'])+", text)
    quoted = re.compile(r"'((?:[^']|'')*)'")
    return [quoted.sub(lambda found: found[1].replace("''", "'"), word) for word in words]


def condor_q(store: Store, words: list[str]) -> None:
    columns: list[str] = []
    for flag in ("-af", "-autoformat"):
        if flag in words:
            columns = words[words.index(flag) + 1 :]
            words = words[: words.index(flag)]
    _, rest = options(words, "-nobatch -all -allusers", "-name -pool -submitter")
    jobs = [job for job in store.jobs() if not rest or _matches(job, rest)]
    if not columns:
        print("\n\n-- Schedd: simulated : <127.0.0.1:9618>")
        print(" ID      OWNER          SUBMITTED   ST CMD")
        columns = ["ClusterId", "Owner", "JobStatus", "Cmd"]
    for job in jobs:
        ad = {key.lower(): str(value) for key, value in attributes(job).items()}
        print(" ".join(ad.get(name.lower(), "undefined").strip('"') for name in columns))


def _matches(job: Job, words: list[str]) -> bool:
    return bool({str(job.number), f"{job.number}.0", getuser()} & set(words))


def condor_rm(store: Store, words: list[str]) -> None:
    _, rest = options(words, "-all -forcex", "-name -pool -reason")
    known = {job.number for job in store.jobs()}
    for word in rest:
        cluster, _, process = word.partition(".")
        if not cluster.isdigit() or int(cluster) not in known or process not in ("", "0"):
            if process:
                raise Refused(f"Job {word} not found")
            raise Refused(f"Couldn't find/remove all jobs in cluster {word}")
        store.change(int(cluster), asked="remove")
        if process:
            print(f"Job {word} marked for removal")
        else:
            print(f"All jobs in cluster {word} have been marked for removal")
