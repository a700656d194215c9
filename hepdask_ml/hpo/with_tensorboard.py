"""Event files for TensorBoard: a run for each trial, and one for the search.

The files are written without TensorBoard, whose libraries are large and quarrel with those of
others about versions; it need not be installed where the search runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.event_file import (
    FAILURE,
    NAME,
    SUCCESS,
    append,
    ended,
    head,
    scalar,
    started,
)
from hepdask_ml.hpo.summary import result
from hepdask_ml.hpo.tracking import numbers, title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.hpo.event_file import Event
    from hepdask_ml.hpo.summary import SearchResult
    from hepdask_ml.hpo.trials import Trial

_STATUS = {"complete": SUCCESS, "pruned": SUCCESS, "failed": FAILURE}


@dataclass(slots=True, eq=False)
class TensorBoard:
    """Keeps event files in a folder: one folder for each search, in it one for each trial.

    Attributes
    ----------
    folder : Path
        What TensorBoard is to be shown.
    """

    folder: Path
    _told: dict[tuple[str, str], tuple[int, int, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How it is asked for."""
        return f"tensorboard:{self.folder}"

    def follow(self, ledger: Ledger) -> None:
        """Write what the files do not hold yet."""
        found = result(ledger)
        moment = ledger.progress().last or time()
        place = self.folder / f"{_plain(Path(title(ledger)).stem)}-{ledger.campaign[:8]}"
        news = False
        for trial in found.trials:
            # What became of a trial, as far as this object has told it.
            version = len(trial.rows), trial.epochs, trial.state
            name = ledger.campaign, trial.key
            if self._told.get(name) == version or not (trial.epochs or trial.error):
                continue
            at = place.joinpath(*map(_plain, trial.key.split("/")))
            append(at / NAME, _events(trial, moment))
            self._told[name] = version
            news = True
        if news:
            append(place / NAME, _overall(found, moment))


def follower(where: str) -> TensorBoard:
    """Give the follower that keeps event files in a folder.

    Parameters
    ----------
    where : str
        The folder.

    Returns
    -------
    TensorBoard
        The follower.

    Raises
    ------
    InputError
        If no folder is given, or it is a file.
    """
    if not where:
        raise InputError("tensorboard follows a search into a folder: give one, tensorboard:runs")
    folder = Path(where)
    if folder.is_file():
        raise InputError(f"{folder} is a file: give a folder, as in tensorboard:runs")
    return TensorBoard(folder)


def _events(trial: Trial, moment: float) -> Iterator[Event]:
    """Give all of a trial; an epoch is as long before the moment as the later ones took."""
    at = moment - sum(row.seconds for row in trial.rows)
    yield head(at)
    yield started(trial.params, trial.key, at)
    for row in trial.rows:
        at += row.seconds
        for name, value in numbers(row).items():
            yield scalar(name, value, row.epoch, at)
    for name, value in trial.values.items():
        yield scalar(f"objective/{name}", value, trial.epochs, moment)
    for name, value in trial.constraints.items():
        yield scalar(f"constraint/{name}", value, trial.epochs, moment)
    if trial.state in _STATUS:
        yield ended(_STATUS[trial.state], moment)


def _overall(found: SearchResult, moment: float) -> Iterator[Event]:
    """Give the best values so far, by the number of trials that have ended."""
    yield head(moment)
    done = sum(trial.state != "running" for trial in found.trials)
    if len(found.objectives) > 1:
        yield scalar("front", len(found.front), done, moment)
        return
    for segment, best in found.bests.items():
        for name, value in best.values.items():
            yield scalar(f"best/{segment or name}", value, done, moment)


def _plain(name: str) -> str:
    """Give a name that a folder can have."""
    return re.sub(r"[^\w.+=-]|^\.+$", "_", name) or "_"
