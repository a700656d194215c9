"""Minds one job of a simulated batch system from its submission to its end."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from batch.simulated.command import SYSTEMS
from batch.simulated.jobs import HELD, LOOK_EVERY_S, WAITING, Ending, Job, Store, send, session_of


def mind(kind: str, folder: str, number: int) -> None:
    """Run a job when it is its turn, as often as it is put back into the queue."""
    store = Store(Path(folder))
    while (job := store.job(number)) is not None:
        if job.asked == "remove" or store.deserted():
            store.end(number, "removed")
        elif job.asked == "hold":
            store.change(number, state=HELD, asked="")
        elif (job := store.take_turn(number)) is not None:
            _run(kind, store, job)
        else:
            time.sleep(LOOK_EVERY_S)


def _run(kind: str, store: Store, job: Job) -> None:
    system = SYSTEMS[kind]
    ending = system.ending(job)
    start = system.start(store, job)
    with Path(start.output).open("ab") as output, Path(start.errors).open("ab") as errors:
        popen = subprocess.Popen(
            start.command,
            cwd=start.folder,
            env=dict(start.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    store.change(job.number, pid=popen.pid)
    why = _wait(store, job, popen)
    if why:
        _end(store, popen, ending, ending.over if why == "walltime" else ending.removed)
    send(signal.SIGKILL, popen.pid, to_all=True)  # what the job has left behind
    if why == "requeue":
        store.change(job.number, state=WAITING, asked="", pid=0)
    elif why == "hold":
        store.change(job.number, state=HELD, asked="", pid=0)
    elif why == "walltime" and ending.hold:
        store.change(job.number, state=HELD, reason=ending.hold, pid=0)
    else:
        store.end(job.number, {"remove": "removed"}.get(why, why) or f"exit {popen.returncode}")


def _wait(store: Store, job: Job, popen: subprocess.Popen[bytes]) -> str:
    """Wait until the job has ended or has to; give why, empty if it has by itself."""
    while popen.poll() is None:
        now = store.job(job.number)
        if now is None or store.deserted():
            return "remove"
        if now.asked:
            return now.asked
        if job.walltime_s is not None and time.time() > job.started + job.walltime_s:
            return "walltime"
        time.sleep(LOOK_EVERY_S)
    return ""


def _end(
    store: Store,
    popen: subprocess.Popen[bytes],
    ending: Ending,
    signals: tuple[signal.Signals, ...],
) -> None:
    for number in signals:
        send(number, popen.pid, to_all=ending.all_processes)
        limit = time.time() + store.settings.grace_s
        while time.time() < limit:
            gone = popen.poll() is not None
            if gone and not (ending.all_processes and session_of(popen.pid)):
                return
            time.sleep(LOOK_EVERY_S)
    send(signal.SIGKILL, popen.pid, to_all=True)
    popen.wait()
