"""Payloads that leave a trace of each attempt, and a program that searches with them."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from distributed import Client
from stories.work import wait_for

from hepdask_ml.hpo.campaign import search
from hepdask_ml.hpo.payload import Payload
from hepdask_ml.hpo.payload_saving import Saving

if TYPE_CHECKING:
    from hepdask_ml.hpo.campaign import Search

# The first attempt saves something and waits to be disturbed; who finds it comes to an end.
WAITING = """
echo $$ >> {traces}/$PandaID
if [ -e state ]; then echo '{{"loss": 0.25}}' > output.json; exit; fi
echo saved > state
sleep 1000
"""

# Waits until it may end.
PATIENT = """
echo $$ >> {traces}/$PandaID
while [ ! -e {traces}/hurry ]; do sleep 0.05; done
echo '{{"loss": 0.25}}' > output.json
"""

SPACE = {"x": {"type": "float", "low": 0.0, "high": 1.0}}


@dataclass(frozen=True)
class Traces:
    """What payloads have left in a folder."""

    folder: Path

    def attempts(self, number: int) -> list[int]:
        """Give the processes that tried a trial, in order."""
        path = self.folder / str(number + 1)
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def wait_for_attempt(self, number: int) -> int:
        wait_for(lambda: self.attempts(number), f"an attempt of trial {number}")
        return self.attempts(number)[-1]

    def hurry(self) -> None:
        (self.folder / "hurry").touch()

    def payload(self, text: str) -> Payload:
        """Make a payload whose script leaves traces here."""
        self.folder.mkdir(exist_ok=True)
        script = text.format(traces=shlex.quote(str(self.folder)))
        return Payload(f"sh -c {shlex.quote(script)}", saving=Saving(("state",), interval_s=0.1))

    def search(self, text: str, trials: int = 2) -> Search:
        """Make a search with it, with a ledger in the folder above."""
        return search(
            self.payload(text),
            SPACE,
            optimiser="optuna:random",
            n_trials=trials,
            parallel=2,
            ledger=self.folder.parent / "payloads.ledger",
        )


def gone(process: int) -> bool:
    """Whether a process has ended; one whose parent does not care is a zombie."""
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def main(folder: str, scheduler_file: str) -> None:
    """Drive a search whose payloads are patient."""
    with Client(scheduler_file=scheduler_file, timeout=60) as client:  # type: ignore[no-untyped-call]
        Traces(Path(folder)).search(PATIENT).run(client)


if __name__ == "__main__":
    main(*sys.argv[1:])
