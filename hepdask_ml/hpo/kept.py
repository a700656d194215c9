"""Which checkpoints are kept: those of trials that go on, and of the best ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from hepdask_ml.errors import HepdaskError
from hepdask_ml.hpo.summary import result
from hepdask_ml.hpo.trials import ENDED
from hepdask_ml.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.hpo.summary import SearchResult

LOG = logging.getLogger(__name__)

EVERY_S = 10.0
"""Time between two looks."""


@dataclass(slots=True)
class Housekeeping:
    """Removes the checkpoints of trials that have ended and are not among the best.

    Attributes
    ----------
    place : str
        Folder or URL of the checkpoints of all trials.
    keep_all : bool
        Whether nothing is removed.
    """

    place: str
    keep_all: bool = False
    _removed: set[str] = field(default_factory=set)
    _due: float = -inf

    def __call__(self, ledger: Ledger) -> None:
        """Look now and then."""
        if monotonic() >= self._due:
            self.look(ledger)
            self._due = monotonic() + EVERY_S

    def look(self, ledger: Ledger) -> None:
        """Remove what is not needed any more.

        Parameters
        ----------
        ledger : Ledger
            Of the search.
        """
        if self.keep_all:
            return
        found = result(ledger)
        spared = _best(found)
        for trial in found.trials:
            if trial.state not in ENDED or trial.checkpoint is None:
                continue
            if trial.key in spared or trial.key in self._removed:
                continue
            try:
                Checkpoints(f"{self.place}/{trial.key}").remove()
            except HepdaskError as error:
                LOG.warning("%s: it stays", error)
            self._removed.add(trial.key)


def _best(found: SearchResult) -> set[str]:
    trials = found.front if len(found.objectives) > 1 else found.bests.values()
    return {trial.key for trial in trials}
