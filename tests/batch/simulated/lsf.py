"""A simulation of LSF's commands, as its manual describes them: no LSF is involved."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from getpass import getuser
from pathlib import Path

from batch.simulated.jobs import HELD, RUNNING, WAITING, Ending, Job, Start, Store
from batch.simulated.scripts import Refused, head_options, keep, options

COMMANDS = ("bsub", "bjobs", "bkill")
LETTERS = {WAITING: "PEND", RUNNING: "RUN", HELD: "PSUSP"}
# bsub(1) -W: "the job is sent a SIGUSR2 signal, and is killed if it does not terminate within ten
# minutes"; bkill(1): "sends the signals INT, TERM, and KILL in sequence".
KILLED = (signal.SIGINT, signal.SIGTERM)


def ending(_job: Job) -> Ending:
    return Ending(removed=KILLED, over=(signal.SIGUSR2, *KILLED))


def start(store: Store, job: Job) -> Start:
    def place(path: str) -> str:
        path = path.replace("%J", str(job.number)).replace("%I", "0") or "/dev/null"
        return str(Path(job.folder, path))

    return Start(
        command=job.command,
        folder=job.folder,
        environment=job.environment
        | {
            "LSB_JOBID": str(job.number),
            "LSB_JOBINDEX": "0",
            "LSB_JOBNAME": job.name,
            "LSB_QUEUE": job.queue,
            "LSB_HOSTS": " ".join(["node1"] * job.special["cores"]),
            "LSB_DJOB_NUMPROC": str(job.special["cores"]),
            "LS_SUBCWD": job.folder,
            "PATH": f"{store.folder / 'bin'}:{job.environment.get('PATH', '/usr/bin:/bin')}",
        },
        output=place(job.output),
        errors=place(job.errors or job.output),
    )


def bsub(store: Store, words: list[str]) -> None:
    valued = "-J -q -P -n -R -M -W -We -o -oo -e -eo -gpu -w -cwd -env -app -G -m -u -sp -L"
    flags = "-r -rn -x -B -N -H -K"
    given, rest = options(words, flags, valued)
    script = "" if rest else sys.stdin.read()
    if len(rest) == 1 and Path(rest[0]).is_file():
        # LSB_BSUB_PARSE_SCRIPT=Y, as on most sites: a file's head is read.
        script = Path(rest[0]).read_text()
    one = dict(options(head_options(script, "#BSUB"), flags, valued)[0]) | dict(given)
    settings = store.settings
    queue = one.get("-q", settings.queues[0])
    if queue not in settings.queues:
        raise Refused(f"{queue}: No such queue. Job not submitted.", 255)
    if settings.refusal:
        raise Refused(f"{settings.refusal}. Job not submitted.", 255)
    limit = _minutes(one["-W"]) if "-W" in one else None
    depends = re.search(r"ended\((\d+)\)", one.get("-w", ""))
    number = store.next_number()
    # A file that is named runs from where it lies; one that is read is copied.
    run = ["-c", " ".join(rest)] if rest else [keep(store, number, script)]
    job = Job(
        number,
        name=one.get("-J", " ".join(rest)[:20] or "script"),
        queue=queue,
        command=["/bin/sh", *run],
        folder=one.get("-cwd", str(Path.cwd())),
        environment=dict(os.environ),
        output=one.get("-o", one.get("-oo", "")),
        errors=one.get("-e", one.get("-eo", "")),
        walltime_s=None if limit is None else limit * settings.minute_s,
        after=int(depends[1]) if depends else None,
        special={"cores": int(one.get("-n", "1"))},
        state=HELD if "-H" in one else WAITING,
    )
    store.add("lsf", job)
    default = "" if "-q" in one else "default "
    print(f"Job <{number}> is submitted to {default}queue <{queue}>.")


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition("/")[0].rpartition(":")
    return 60 * int(hours or 0) + int(minutes)


def _reason(job: Job) -> str:
    if job.state == RUNNING:
        return ""
    if job.state == HELD:
        return job.reason or "The job was suspended by the user while pending;"
    return job.reason or "Job slot limit reached;"


def _time_left(store: Store, job: Job) -> str:
    if job.walltime_s is None or job.state != RUNNING:
        return ""
    minutes = int((job.started + job.walltime_s - time.time()) / store.settings.minute_s)
    return f"{max(0, minutes) // 60}:{max(0, minutes) % 60} L"


def bjobs(store: Store, words: list[str]) -> None:
    given, rest = options(words, "-noheader -w -a -r -p", "-o -u -q -J")
    one = dict(given)
    jobs = store.jobs()
    for word in rest:
        if word.partition("[")[0] not in {str(job.number) for job in jobs}:
            raise Refused(f"Job <{word}> is not found", 255)
    if rest:
        jobs = [job for job in jobs if str(job.number) in {w.partition("[")[0] for w in rest}]
    if not jobs or one.get("-u", getuser()) not in (getuser(), "all"):
        print("No unfinished job found", file=sys.stderr)
        return
    columns = one.get("-o", "jobid user stat queue job_name")
    mark = re.search(r"delimiter='(.*?)'", columns)
    names = re.sub(r"delimiter='.*?'", "", columns).split()
    if "-noheader" not in one:
        print((mark[1] if mark else " ").join(name.upper() for name in names))
    for job in jobs:
        values = {
            "jobid": str(job.number),
            "user": getuser(),
            "stat": LETTERS[job.state],
            "queue": job.queue,
            "job_name": job.name,
            "pend_reason": _reason(job),
            "time_left": _time_left(store, job),
        }
        unknown = set(names) - values.keys()
        if unknown:
            raise Refused(f"{unknown.pop()}: Bad output format field", 255)
        print((mark[1] if mark else " ").join(values[name] or "-" for name in names))


def bkill(store: Store, words: list[str]) -> None:
    _, rest = options(words, "-r", "-s -u")
    jobs = store.jobs()
    wanted = [str(job.number) for job in jobs] if rest == ["0"] else rest
    code = 0
    for word in wanted:
        if word in {str(job.number) for job in jobs}:
            store.change(int(word), asked="remove")
            print(f"Job <{word}> is being terminated")
        elif word in {str(job.number) for job in store.ended()}:
            print(f"Job <{word}>: Job has already finished", file=sys.stderr)
            code = 255
        else:
            print(f"Job <{word}>: No matching job found", file=sys.stderr)
            code = 255
    if code:
        raise SystemExit(code)
