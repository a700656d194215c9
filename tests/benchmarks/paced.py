"""Work of a known length: toys that take a fixed time each, and a journal of when they were worked.

The workers import it, so it imports little.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from time import sleep, time
from typing import TYPE_CHECKING

from hepdask_ml.campaign.unit import Block, Done

if TYPE_CHECKING:
    from collections.abc import Callable

    from hepdask_ml.campaign.unit import Runner

PIECE_TOYS = 64


@dataclass(frozen=True, slots=True)
class Paced:
    """Works like another runner, and sleeps until so much time has gone for each toy.

    Attributes
    ----------
    runner : Runner
        It is faster than the pace.
    toy_s : float
        Time for each toy, in seconds.
    journal : str
        Folder in which each job of Slurm writes the beginning and end of its blocks.
    """

    runner: Runner
    toy_s: float
    journal: str

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        """Work a block; look every few toys whether it is enough."""
        began, at, pieces = time(), block.start, []
        self._note("begin", began)
        while at < block.stop and not enough():
            piece = replace(block, start=at, stop=min(at + PIECE_TOYS, block.stop))
            done = self.runner.run(piece, _never)
            pieces.append(done.result)
            at = done.reached
            sleep(max(began + self.toy_s * (at - block.start) - time(), 0.0))
        self._note("end", time())
        return Done(at, b"".join(pieces))

    def _note(self, what: str, when: float) -> None:
        path = Path(self.journal, os.environ["SLURM_JOB_ID"])
        with path.open("a") as file:
            file.write(f"{what} {when:.3f}\n")


@dataclass(frozen=True, slots=True)
class Task:
    """Some toys of a unit, as a task of ``client.map``."""

    key: str
    start: int
    stop: int


def work(task: Task, paced: Paced, specs: dict[str, dict[str, object]]) -> bytes:
    """Work a task."""
    block = Block(task.key, specs[task.key], task.start, task.stop, "")
    return paced.run(block, _never).result


def _never() -> bool:
    return False
