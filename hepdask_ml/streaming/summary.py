"""What a campaign over events has found: its value, for all events and for each data set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from hepdask_ml.streaming.runner import UNREADABLE
from hepdask_ml.streaming.values import join, packed, unpacked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.campaign.unit import Record


@dataclass(frozen=True, slots=True, eq=False)
class EventsResult:
    """The joined values of all events that were read.

    Attributes
    ----------
    value : object
        Of all of them; None if there are none yet.
    datasets : mapping of str to object
        By data set, where there are any; None for one without events.
    n_events : int
        Which it is made of.
    n_files : int
        Whose events were read, or are to be.
    missing : mapping of str to str
        Files that could not be read and were passed over, with their events where these are
        known, and why.
    failed : mapping of str to str
        Ranges of events for which the function failed three times, and why.
    finished : bool
        Whether all that was planned has been done, or given up.
    """

    value: Any
    datasets: Mapping[str, Any]
    n_events: int
    n_files: int
    missing: Mapping[str, str]
    failed: Mapping[str, str]
    finished: bool

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is missing of it, a sentence for each file."""
        return tuple(f"{url}: {why}" for url, why in {**self.missing, **self.failed}.items())

    def to_json(self) -> dict[str, Any]:
        """Give a form that JSON takes.

        Returns
        -------
        dict
            Arrays and histograms as a ledger keeps them.
        """
        values = {"value": self.value, "datasets": dict(self.datasets)}
        return {
            **json.loads(packed(values)),
            "n_events": self.n_events,
            "n_files": self.n_files,
            "missing": dict(self.missing),
            "failed": dict(self.failed),
            "finished": self.finished,
        }

    def __repr__(self) -> str:
        return f"<EventsResult: {', '.join(_facts(self))}>"

    def _repr_html_(self) -> str:
        listed = "".join(f"<li>{escape(line)}</li>" for line in self.warnings)
        return f"<p>{escape(', '.join(_facts(self)))}</p>" + (
            f"<ul>{listed}</ul>" if listed else ""
        )


def result(ledger: Ledger) -> EventsResult:
    """Join what a ledger holds.

    Sums of floats depend by their last bits on where blocks began and ended; whole numbers do not.

    Parameters
    ----------
    ledger : Ledger
        Of a campaign over events, finished or not.

    Returns
    -------
    EventsResult
        In the order in which the files were planned.

    Raises
    ------
    InputError
        If the function gave values that cannot be joined.
    """
    records = ledger.records()
    datasets: dict[str, Any] = {}
    n_events, files = 0, set()
    missing: dict[str, str] = {}
    failed: dict[str, str] = {}
    for record in records:
        source = record.unit.spec["source"]
        files.add(record.unit.spec["file"])
        datasets.setdefault(source["dataset"], None)
        for _, _, document in ledger.results(record.unit.key):
            block = unpacked(document)
            n_events += block["events"]
            datasets[source["dataset"]] = join(datasets.get(source["dataset"]), block["value"])
        if record.error is not None:
            of = missing if record.error.startswith(UNREADABLE) else failed
            before = f"{of[source['url']]}; " if source["url"] in of else ""
            of[source["url"]] = f"{before}{_lost(record)}{record.error}"
    value = None
    for each in datasets.values():
        value = join(value, each)
    return EventsResult(
        value=value,
        datasets={name: each for name, each in datasets.items() if name},
        n_events=n_events,
        n_files=len(files),
        missing=missing,
        failed=failed,
        finished=bool(records) and not any(record.open for record in records),
    )


def _lost(record: Record) -> str:
    """Say which events are missing, where their number is known."""
    first = record.unit.spec["first"]
    if first is None:
        return ""
    return f"events {first + record.done:,} to {first + record.unit.total:,}: "


def _facts(found: EventsResult) -> list[str]:
    facts = [f"{found.n_events:,} events of {found.n_files:,} files"]
    facts += [] if found.finished else ["not finished"]
    facts += [f"{len(found.missing)} files missing"] if found.missing else []
    facts += [f"{len(found.failed)} failed"] if found.failed else []
    return facts
