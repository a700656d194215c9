"""A search for the stories: small trainings whose losses hang on all random numbers drawn before.

The journal tells which epochs were begun, by which process and how often.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

from stories.work import wait_for

from hepdask_ml import search
from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.errors import CampaignError, InputError
from hepdask_ml.hpo.optimisers import Proposal
from hepdask_ml.hpo.summary import result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hepdask_ml.hpo.campaign import Search
    from hepdask_ml.hpo.optimisers import Past
    from hepdask_ml.hpo.space import Space
    from hepdask_ml.training.context import Context

PARALLEL = 4


@dataclass
class Walk:
    """A model: a walk with steps at random."""

    at: float = 0.0

    def state_dict(self) -> dict[str, float]:
        return {"at": self.at}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.at = state["at"]


@dataclass(frozen=True)
class Training:
    """Trains until there is a file that says that time is over.

    ``faults`` gives the trials that are faulty, by number: "raise" or "nan".
    """

    folder: str
    epoch_s: float = 0.0
    faults: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, params: dict[str, Any], context: Context) -> None:
        # The global generator is shared by the threads of a process.
        model, dice = Walk(), random.Random(context.seed)
        fault = self.faults.get(str(context.number))
        for epoch in context.epochs(model=model, dice=dice):
            self._write(f"{context.segment} {context.number} {epoch}")
            if not Path(self.folder, "hurry").exists():
                sleep(self.epoch_s)
            if fault == "raise" and epoch == 1:
                raise ValueError("no such event")
            model.at += dice.random()
            context.report(epoch, nan if fault == "nan" and epoch == 1 else model.at - params["x"])

    def _write(self, line: str) -> None:
        with Path(self.folder, f"{os.getpid()}.journal").open("a") as file:
            file.write(f"{line}\n")


@dataclass(frozen=True)
class Near:
    """Proposes by all that it was told; takes its time while there is a file that says so."""

    folder: str
    name: str = "near"
    several: bool = False

    def propose(self, space: Space, past: Sequence[Past], n: int, seed: int) -> list[Proposal]:
        while past and Path(self.folder, "slow").exists():
            Path(self.folder, "planning").touch()
            sleep(0.02)
        told = [(trial.number, trial.params, trial.losses, trial.failed) for trial in past]
        dice = random.Random(json.dumps([seed, told]))
        return [Proposal({"x": dice.uniform(0.0, 1.0)}) for _ in range(n)]


@dataclass
class Trials:
    """A search, its files, and what has to come out of it."""

    folder: Path
    n_trials: int = 8
    epochs: int = 5
    epoch_s: float = 0.0
    pruning: str | None = None
    faults: Mapping[str, str] = field(default_factory=dict)
    segments: Sequence[Any] | None = None

    @property
    def path(self) -> Path:
        return self.folder / "search.ledger"

    def campaign(self) -> Search:
        return search(
            Training(str(self.folder), self.epoch_s, self.faults),
            {"x": {"type": "float", "low": 0, "high": 1}},
            optimiser=Near(str(self.folder)),
            n_trials=self.n_trials,
            epochs=self.epochs,
            pruning=self.pruning,
            segments=self.segments,
            parallel=PARALLEL,
            ledger=self.path,
            interval_s=0.0,
        )

    def options(self) -> list[str]:
        """Give the arguments of the process that drives it."""
        document = {
            "n_trials": self.n_trials, "epochs": self.epochs, "epoch_s": self.epoch_s,
            "pruning": self.pruning, "faults": dict(self.faults), "segments": self.segments,
        }  # fmt: skip
        return [str(self.folder), json.dumps(document)]

    def hurry(self) -> None:
        """Let epochs take no time from now on."""
        (self.folder / "hurry").touch()

    def ended(self) -> int:
        """Count the trials in the ledger that have ended."""
        try:
            with read_ledger(self.path) as ledger:
                return sum(trial.state != "running" for trial in result(ledger).trials)
        except (InputError, CampaignError):  # not made yet, or just being written
            return 0

    def wait_until_ended(self, number: int) -> None:
        wait_for(lambda: self.ended() >= number, f"{number} trials that have ended")

    def begun(self, process: int | None = None) -> Counter[tuple[str, int, int]]:
        """Count how often each epoch was begun: segment, trial, epoch."""
        found: Counter[tuple[str, int, int]] = Counter()
        for path in self.folder.glob("*.journal"):
            if process in (None, int(path.stem)):
                for line in path.read_text().split("\n")[:-1]:
                    segment, number, epoch = line.split(" ")
                    found[segment, int(number), int(epoch)] += 1
        return found

    def document(self) -> Any:
        """Everything that the ledger says, but for times and names of files."""
        with read_ledger(self.path) as ledger:
            written = result(ledger).to_json()
        for trial in written["trials"]:
            trial.pop("seconds")
            trial.pop("checkpoint")
            for row in trial["rows"]:
                row.pop("seconds")
        return written

    def check(self) -> None:
        """See that the ledger holds what an undisturbed search gives."""
        other = Trials(
            self.folder / "undisturbed", self.n_trials, self.epochs, 0.0, self.pruning,
            self.faults, self.segments,
        )  # fmt: skip
        other.folder.mkdir()
        other.campaign().run(threads=2)
        assert self.document() == other.document()
