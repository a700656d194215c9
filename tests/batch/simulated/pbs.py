"""A simulation of PBS's commands, as its manual pages describe them: no PBS is involved."""

from __future__ import annotations

import os
import re
import sys
import time
from getpass import getuser
from pathlib import Path

from batch.simulated.jobs import HELD, RUNNING, WAITING, Ending, Job, Start, Store
from batch.simulated.scripts import Refused, head_options, keep, login, options, scratch

COMMANDS = ("qsub", "qstat", "qselect", "qdel")
LETTERS = {WAITING: "Q", RUNNING: "R", HELD: "H"}
# PBS's error numbers are above 15000; their last byte is the exit code.
UNKNOWN_JOB, UNKNOWN_QUEUE, NOT_ALLOWED, FINISHED = 153, 170, 188, 35


def ending(_job: Job) -> Ending:
    return Ending()


def start(store: Store, job: Job) -> Start:
    folder = scratch(store, job)
    nodes = folder / "nodes"
    nodes.write_text("node1\n")
    cores = str(job.special["cores"])
    return Start(
        command=job.command,
        folder=str(Path.home()),
        environment=job.environment
        | login()
        | {
            "PATH": f"{store.folder / 'bin'}:{login()['PATH']}",
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "PBS_JOBID": _id(job),
            "PBS_JOBNAME": job.name,
            "PBS_JOBDIR": str(Path.home()),
            "PBS_QUEUE": job.queue,
            "PBS_NODEFILE": str(nodes),
            "PBS_O_WORKDIR": job.folder,
            "PBS_O_HOME": str(Path.home()),
            "PBS_O_HOST": "login",
            "PBS_O_LOGNAME": getuser(),
            "PBS_O_QUEUE": job.queue,
            "NCPUS": cores,
            "OMP_NUM_THREADS": cores,
            "TMPDIR": str(folder),
        },
        output=_file(job, job.output, "OU", "o"),
        errors=_file(job, job.errors, "ER", "e"),
    )


def _file(job: Job, path: str, suffix: str, letter: str) -> str:
    if Path(path).is_dir():
        return str(Path(path) / f"{_id(job)}.{suffix}")
    return path or str(Path(job.folder) / f"{job.name}.{letter}{job.number}")


def _id(job: Job) -> str:
    return f"{job.number}.pbs"


def qsub(store: Store, words: list[str]) -> None:
    valued = "-N -q -A -P -l -o -e -S -W -v -j -m -M -p -r -a -k -u -C"
    given, rest = options(words, "-V -h -z -I", valued)
    script = Path(rest[0]).read_text() if rest else sys.stdin.read()
    written, _ = options(head_options(script, "#PBS"), "-V -h -z", valued)
    told = written + given  # the command line comes last, and wins
    one = dict(told)
    settings = store.settings
    queue = one.get("-q", settings.queues[0])
    if queue not in settings.queues:
        raise Refused("qsub: Unknown queue", UNKNOWN_QUEUE)
    if settings.refusal:
        raise Refused(f"qsub: {settings.refusal}", NOT_ALLOWED)
    resources = [part for option, value in told if option == "-l" for part in value.split(",")]
    limits = [part.partition("=")[2] for part in resources if part.startswith("walltime=")]
    cores = re.search(r"(?:ncpus|ppn)=(\d+)", " ".join(resources))
    depends = re.search(r"depend=afterany:(\d+)", one.get("-W", ""))
    number = store.next_number()
    job = Job(
        number,
        name=one.get("-N", Path(rest[0]).name[:15] if rest else "STDIN"),
        queue=queue,
        command=["/bin/bash", keep(store, number, script)],
        folder=str(Path.cwd()),
        environment=dict(os.environ) if "-V" in one else _listed(one.get("-v", "")),
        output=one.get("-o", ""),
        errors=one.get("-e", ""),
        walltime_s=_seconds(limits[-1]) if limits else None,
        after=int(depends[1]) if depends else None,
        special={"cores": int(cores[1]) if cores else 1, "resources": resources},
        state=HELD if "-h" in one else WAITING,
    )
    store.add("pbs", job)
    print(_id(job))


def _listed(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {key: value if sign else os.environ.get(key, "") for key, sign, value in pairs}


def _seconds(text: str) -> float:
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def _clock(seconds: float | None) -> str:
    minutes, rest = divmod(int(seconds or 0), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


def _letter(job: Job) -> str:
    return "E" if job.asked == "remove" and job.state == RUNNING else LETTERS[job.state]


def _comment(job: Job) -> str:
    if job.state == RUNNING:
        return f"Job run at {time.strftime('%a %b %d at %H:%M', time.localtime(job.started))}"
    return job.reason or "Not Running: Insufficient amount of resource: ncpus"


def _found(store: Store, command: str, words: list[str]) -> list[Job]:
    jobs = {str(job.number): job for job in store.jobs()}
    ended = {str(job.number) for job in store.ended()}
    for word in words:
        number = word.partition(".")[0]
        if number in ended:
            asks = ", use -x or -H to obtain historical job information" * (command == "qstat")
            raise Refused(f"{command}: {number}.pbs Job has finished{asks}", FINISHED)
        if number not in jobs:
            raise Refused(f"{command}: Unknown Job Id {number}.pbs", UNKNOWN_JOB)
    return [jobs[word.partition(".")[0]] for word in words]


def qstat(store: Store, words: list[str]) -> None:
    given, rest = options(words, "-f -a -n -s -w -x -t", "-u")
    one = dict(given)
    jobs = _found(store, "qstat", rest) if rest else store.jobs()
    if one.get("-u", getuser()) != getuser() or not jobs:
        return
    if "-f" in one:
        for job in jobs:
            _full(job)
    elif "-u" in one or "-a" in one:
        _table(jobs, comments="-s" in one)
    else:
        print("Job id            Name             User              Time Use S Queue")
        print("----------------  ---------------- ----------------  -------- - -----")
        for job in jobs:
            time_used = _clock(0) if job.state == RUNNING else "0"
            print(f"{_id(job):<17.17} {job.name:<16.16} {getuser():<16.16}  "
                  f"{time_used:>8} {_letter(job)} {job.queue}")  # fmt: skip


def _table(jobs: list[Job], *, comments: bool) -> None:
    print("\npbs: ")
    print("                                                            Req'd  Req'd   Elap")
    print("Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time")
    print("--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----")
    for job in jobs:
        memory = re.search(r"mem=(\w+)", " ".join(job.special["resources"]))
        asked = _clock(job.walltime_s)[:5] if job.walltime_s else "--"
        elapsed = _clock(time.time() - job.started)[:5] if job.state == RUNNING else "--"
        print(f"{_id(job):<15.15} {getuser():<8.8} {job.queue:<8.8} {job.name:<10.10} "
              f"{job.pid or '--':>6} {1:>3} {job.special['cores']:>3} "
              f"{memory[1].lower() if memory else '--':>6.6} {asked:>5} {_letter(job)} "
              f"{elapsed:>5}")  # fmt: skip
        if comments:
            print(f"   {_comment(job)}")


def _full(job: Job) -> None:
    def day(at: float) -> str:
        return time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(at))

    fields = {
        "Job_Name": job.name,
        "Job_Owner": f"{getuser()}@login",
        "job_state": _letter(job),
        "queue": job.queue,
        "server": "pbs",
        "ctime": day(job.submitted),
        "Resource_List.ncpus": job.special["cores"],
    }
    if job.walltime_s is not None:
        fields["Resource_List.walltime"] = _clock(job.walltime_s)
    if job.state == RUNNING:
        fields["resources_used.walltime"] = _clock(time.time() - job.started)
        fields["stime"] = day(job.started)
        fields["session_id"] = job.pid
    fields["comment"] = _comment(job)
    print(f"Job Id: {_id(job)}")
    for key, value in fields.items():
        print(f"    {key} = {value}")
    print()


def qselect(store: Store, words: list[str]) -> None:
    one = dict(options(words, "-x -H", "-u -s -q -N")[0])
    for job in store.jobs():
        fits = (
            one.get("-u", getuser()) == getuser()
            and _letter(job) in one.get("-s", _letter(job))
            and job.queue == one.get("-q", job.queue)
            and job.name == one.get("-N", job.name)
        )
        if fits:
            print(_id(job))


def qdel(store: Store, words: list[str]) -> None:
    _, rest = options(words, "-x", "-W")
    for job in _found(store, "qdel", rest):
        store.change(job.number, asked="remove")
