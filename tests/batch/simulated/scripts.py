"""What PBS and LSF have in common: a shell script whose head holds options as comments."""

from __future__ import annotations

import shlex
from getpass import getuser
from pathlib import Path

from batch.simulated.jobs import Job, Store


class Refused(Exception):
    """A submission or request that the system does not take, in its words, and its exit code."""

    def __init__(self, words: str, code: int = 1) -> None:
        super().__init__(words)
        self.code = code


def head_options(script: str, mark: str) -> list[str]:
    """Give the words of the lines ``#PBS ...`` before the first command of a script."""
    words = []
    for line in script.splitlines():
        if line.startswith(mark):
            words += shlex.split(line.removeprefix(mark))
        elif line.strip() and not line.startswith("#"):
            break
    return words


def options(words: list[str], flags: str, valued: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Split words into options, with their values, and the rest from the first other word on."""
    found = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        option = rest.pop(0)
        if option in flags.split():
            found.append((option, ""))
        elif option in valued.split() and rest:
            found.append((option, rest.pop(0)))
        else:
            raise Refused(f"invalid option {option}", 2)
    return found, rest


def keep(store: Store, number: int, script: str) -> str:
    """Copy a script, as a system does when it is submitted; give the copy's path."""
    folder = store.folder / "scripts"
    folder.mkdir(exist_ok=True)
    path = folder / f"{number}.sh"
    path.write_text(script)
    return str(path)


def login() -> dict[str, str]:
    """Give the variables that a login sets on a node."""
    return {
        "HOME": str(Path.home()),
        "LOGNAME": getuser(),
        "USER": getuser(),
        "SHELL": "/bin/bash",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }


def scratch(store: Store, job: Job) -> Path:
    """Make the scratch folder of one start of a job."""
    folder = store.folder / "scratch" / f"{job.number}.{job.starts}"
    folder.mkdir(parents=True)
    return folder
