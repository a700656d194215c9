"""What is said of a search while it runs."""

from __future__ import annotations

from math import nan
from time import monotonic
from typing import TYPE_CHECKING

from hepdask_ml.hpo.summary import result
from hepdask_ml.ui.search_sketch import sketch
from hepdask_ml.ui.search_view import (
    asked,
    ended,
    headline,
    rate_text,
    result_html,
    states_text,
)
from hepdask_ml.ui.show import duration_text, workers_text

if TYPE_CHECKING:
    from hepdask_ml.campaign.campaign import Status
    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.hpo.summary import SearchResult


class SearchTeller:
    """Says how a search goes: in trials, with the best one so far."""

    noun = "trials"

    def __init__(self) -> None:
        self._found: SearchResult | None = None
        self._first: tuple[float, int] | None = None
        self._rate = nan

    def look(self, ledger: Ledger) -> None:
        """Read the trials."""
        self._found = result(ledger)
        now, n = monotonic(), ended(self._found)
        if self._first is None:
            self._first = now, n
        begun, before = self._first
        if n > before:
            self._rate = (n - before) / max(now - begun, 1e-9)

    def bar(self, status: Status) -> tuple[str, int, int]:  # noqa: ARG002 - that is in epochs
        """Give the trials that are at their end."""
        if self._found is None:
            return "search", 0, 0
        return "search", ended(self._found), asked(self._found)

    def lines(self, ledger: Ledger, status: Status) -> tuple[str, ...]:  # noqa: ARG002
        """Say how fast it goes, and what the best trial is."""
        said = [_workers_text(status)]
        if self._found is None:
            return (", ".join(said),)
        if speed := rate_text(self._rate):
            left = (asked(self._found) - ended(self._found)) / self._rate
            said.append(speed)
            if status.workers and left > 0.0:
                said.append(f"about {duration_text(left)} left")
        words = headline(self._found).split(", ", 1)[1]
        return ", ".join(said), words, states_text(self._found)

    def drawing(self) -> str:
        """Draw the history."""
        return "" if self._found is None else sketch(self._found)

    def result(self) -> str:
        """Give the result."""
        if self._found is None:
            return ""
        return self.drawing() + result_html(self._found)


def _workers_text(status: Status) -> str:
    """Name the workers, and how many places of theirs have nothing to do."""
    workers = status.workers or {}
    idle = sum(workers.values()) - status.lent
    return workers_text(len(workers)) + (f" ({idle:,} idle)" if workers and idle > 0 else "")
