"""A table of the trials as a file: one row for each, for spreadsheets and for whoever reads text.

The file is written whole each time, beside its place, and then moved there: who reads it sees the
trials of one moment.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.summary import result

if TYPE_CHECKING:
    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.hpo.summary import SearchResult
    from hepdask_ml.hpo.trials import Trial


@dataclass(frozen=True, slots=True)
class Csv:
    """Keeps a table of the trials in a file.

    Attributes
    ----------
    path : Path
        The file.
    """

    path: Path

    @property
    def name(self) -> str:
        """How it is asked for."""
        return f"csv:{self.path}"

    def follow(self, ledger: Ledger) -> None:
        """Write the table, if it is another one than that in the file."""
        text = table(result(ledger)).encode()
        if self.path.exists() and self.path.read_bytes() == text:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Two processes may follow one search.
        beside = self.path.with_name(f".{self.path.name}.{token_hex(4)}")
        try:
            beside.write_bytes(text)
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)


def follower(where: str) -> Csv:
    """Give the follower that keeps a table in a file.

    Parameters
    ----------
    where : str
        The file.

    Returns
    -------
    Csv
        The follower.

    Raises
    ------
    InputError
        If no file is given, or it is a folder.
    """
    if not where:
        raise InputError("csv follows a search into a file: give one, as in csv:trials.csv")
    path = Path(where)
    if path.is_dir():
        raise InputError(f"{path} is a folder: give a file, as in csv:{path / 'trials.csv'}")
    return Csv(path)


def table(found: SearchResult) -> str:
    """Write the trials as comma-separated values, a line for each after one with the names.

    Parameters
    ----------
    found : SearchResult
        The trials.

    Returns
    -------
    str
        The table: segment (if there are any), number, state, parameters as ``params.NAME``,
        objectives and constraints by their names, epochs, seconds, and error.  What does not apply
        is empty; what is no number, text or truth value stands there as JSON.
    """
    rows = [_row(trial) for trial in found.trials]
    params = dict.fromkeys(f"params.{name}" for trial in found.trials for name in trial.params)
    numbers = [*(each.name for each in found.objectives), *found.constraints]
    segment = [] if found.segments == ("",) else ["segment"]
    names = [*segment, "number", "state", *params, *numbers, "epochs", "seconds", "error"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(trial: Trial) -> dict[str, Any]:
    return {
        **trial.values,
        **trial.constraints,
        **{f"params.{name}": _cell(value) for name, value in trial.params.items()},
        "segment": trial.segment,
        "number": trial.number,
        "state": trial.state,
        "epochs": trial.epochs,
        "seconds": round(trial.seconds, 3),
        "error": trial.error,
    }


def _cell(value: Any) -> Any:
    return value if isinstance(value, (str, int, float)) else json.dumps(value)
