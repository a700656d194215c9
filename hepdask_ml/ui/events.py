"""What is particular of campaigns over events where campaigns are watched and reported.

See `hepdask_ml.ui.kinds` for what such a module has.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Any

from rich.text import Text

from hepdask_ml.errors import CampaignError, HepdaskError, InputError
from hepdask_ml.streaming.summary import result
from hepdask_ml.ui.account import account
from hepdask_ml.ui.show import duration_text, progress_html, running_rows, units_view, workers_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hepdask_ml.campaign.campaign import Campaign, Status
    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.streaming.summary import EventsResult

RESULT = "events.json"
"""Name of the file of a result."""

status_view = units_view


class Teller:
    """Says how a campaign over events goes: in events."""

    noun = "events"

    def __init__(self) -> None:
        self._files = 0

    def look(self, ledger: Ledger) -> None:
        """Count the files."""
        self._files = len({record.unit.spec["file"] for record in ledger.records()})

    def bar(self, status: Status) -> tuple[str, int, int]:
        """Give the events that are done, of those whose files are there."""
        files = f"{self._files:,} file{'' if self._files == 1 else 's'}"
        return files, status.progress.done, status.progress.total

    def lines(self, ledger: Ledger, status: Status) -> tuple[str, ...]:  # noqa: ARG002
        """Say how fast it goes."""
        said = [workers_text(len(status.workers or {}))]
        if isfinite(status.rate) and status.rate > 0.0:
            left = (status.progress.total - status.progress.done) / status.rate
            said += [f"{status.rate:,.0f} events a second", f"about {duration_text(left)} left"]
        return (", ".join(said),)

    def drawing(self) -> str:
        """Draw nothing: the value may be anything."""
        return ""

    def result(self) -> str:
        """Give nothing: the value may be large."""
        return ""


def campaign(settings: Any, *, engine: str | None, retry_failed: bool) -> Campaign[EventsResult]:
    """Refuse: settings describe no function over events."""
    del engine, retry_failed
    raise InputError(f"settings of kind {settings.kind} are not run from here: use Python")


def status_json(ledger: Ledger) -> dict[str, Any]:
    """Give how far a ledger is as a document."""
    return account(ledger).to_json()


def state(ledger: Ledger) -> str:
    """Say whether a ledger is at its end; files may still come wherever it is."""
    told = account(ledger)
    return "waiting" if told.state == "finished" else told.state


def kept_text(campaign: Campaign[EventsResult]) -> str:
    """Say what a ledger keeps."""
    return f"the values of {campaign.status().progress.done:,} events"


def report(ledger: Ledger, folder: Path) -> tuple[EventsResult, list[Path]]:
    """Report what a ledger holds."""
    found = result(ledger)
    return found, write(found, folder)


def write(found: EventsResult, folder: Path, *, seconds: float | None = None) -> list[Path]:
    """Write the file of a result: its value as the ledger keeps it."""
    del seconds
    path = folder / RESULT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found.to_json(), indent=2) + "\n")
    except OSError as error:
        raise CampaignError(f"{path} cannot be written: {error.strerror}") from None
    return [path]


def view(found: EventsResult) -> Text:
    """Show a result: what it is made of."""
    return Text(repr(found).strip("<>"))


def failure(found: EventsResult) -> str | None:
    """Say what is wrong with a result."""
    return f"events are missing, first of {found.warnings[0]}" if found.warnings else None


def campaign_html(campaign: Campaign[Any]) -> str:
    """Give how far a campaign is as HTML, and its result so far."""
    fragment = progress_html(campaign, running_rows)
    try:
        found = campaign.results()
    except HepdaskError:  # the fragment says so
        return fragment
    return fragment + str(found._repr_html_())


def merged(out: str, sources: Sequence[str]) -> tuple[Ledger, int]:
    """Refuse to merge: the same events may be in several."""
    raise InputError(
        f"{sources[0]} is of events, and such ledgers are not merged: begin {out} as a new one "
        "with all files"
    )
