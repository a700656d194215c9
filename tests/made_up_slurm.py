"""A Slurm for the tests of what stands on one: simulated, of three commands and a folder.

Its jobs are processes of this machine, each in a session of its own; it has room for all of them
and knows no limits.  The real Slurm is in ``tests/batch``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

_SBATCH = """\
#!{python}
import os, pathlib, subprocess, sys
place = pathlib.Path({folder!r})
if (place / "refusal").exists():
    sys.exit((place / "refusal").read_text())
number = str(1 + len(list(place.glob("*.sh"))))
while True:  # several at a time
    try:
        file = open(place / (number + ".sh"), "x")
    except FileExistsError:
        number = str(int(number) + 1)
        continue
    break
script = pathlib.Path(sys.argv[-1]).read_text()
with file:
    file.write(script)
log = next((line.split()[-1] for line in script.splitlines() if line.startswith("#SBATCH -e")), "")
if not (place / "waits").exists():
    with open(log.replace("%J", number), "w") as said:
        process = subprocess.Popen(
            ["bash", file.name],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
            env={{**os.environ, "SLURM_JOB_ID": number}},
        )
    (place / (number + ".pid")).write_text(str(process.pid))
print("Submitted batch job", number)
"""

_SQUEUE = """\
#!{python}
import pathlib
place = pathlib.Path({folder!r})
for script in place.glob("*.sh"):
    job = script.stem
    if (place / (job + ".gone")).exists():
        continue
    pid = place / (job + ".pid")
    if not pid.exists():
        print(job + "|PENDING|Resources")
        continue
    try:
        said = pathlib.Path("/proc", pid.read_text(), "stat").read_text()
    except FileNotFoundError:
        continue
    if said.rpartition(")")[2].split()[0] != "Z":
        print(job + "|RUNNING|None")
"""

_SCANCEL = """\
#!{python}
import os, pathlib, signal, sys
place = pathlib.Path({folder!r})
for job in sys.argv[1:]:
    (place / (job + ".gone")).touch()
    try:
        os.killpg(int((place / (job + ".pid")).read_text()), signal.SIGTERM)
    except (FileNotFoundError, ProcessLookupError):
        pass
"""


@dataclass(frozen=True, slots=True)
class SimulatedSlurm:
    """Its folder.

    Attributes
    ----------
    folder : Path
        Scripts of its jobs as ``ID.sh``, ids of their processes as ``ID.pid``, and ``ID.gone`` for
        those that were cancelled; ``refusal`` holds the words with which it refuses jobs, and with
        ``waits`` none starts.
    """

    folder: Path

    def jobs(self) -> list[str]:
        """Give the ids of all jobs that were ever submitted."""
        return sorted((path.stem for path in self.folder.glob("*.sh")), key=int)

    def cancelled(self) -> list[str]:
        return sorted((path.stem for path in self.folder.glob("*.gone")), key=int)

    def script(self, job: str) -> str:
        return (self.folder / f"{job}.sh").read_text()

    def processes(self) -> list[psutil.Process]:
        """Give the living processes of its jobs."""
        sessions = {int(path.read_text()) for path in self.folder.glob("*.pid")}
        found = []
        for process in psutil.process_iter(["status"]):
            with suppress(ProcessLookupError):
                if os.getsid(process.pid) in sessions and process.info["status"] != "zombie":
                    found.append(process)
        return found


@contextmanager
def simulated_slurm(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedSlurm]:
    """Simulate a Slurm whose commands come first in PATH; its jobs end with it."""
    with_commands, folder = place / "slurm-bin", place / "slurm"
    with_commands.mkdir()
    folder.mkdir()
    for name, text in (("sbatch", _SBATCH), ("squeue", _SQUEUE), ("scancel", _SCANCEL)):
        command = with_commands / name
        command.write_text(text.format(python=sys.executable, folder=str(folder)))
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{with_commands}{os.pathsep}{os.environ['PATH']}")
    system = SimulatedSlurm(folder)
    try:
        yield system
    finally:
        for process in system.processes():
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
