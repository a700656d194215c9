"""The driver: collect, write down, plan, offer, until the strategy asks for no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hepdask_ml.campaign.pool import Committed
from hepdask_ml.campaign.unit import Expectant
from hepdask_ml.errors import CampaignError, InputError, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.campaign.link import Collected, Link, Offer
    from hepdask_ml.campaign.unit import Record, Strategy

    Watcher = Callable[[Ledger, Collected], None]

PATIENCE_S = 0.5
"""Time for which the pool may keep the driver waiting for news."""


class Told(Protocol):
    """Whether the driver has been told to stop."""

    def is_set(self) -> bool:
        """Look."""


def drive(
    ledger: Ledger,
    strategy: Strategy,
    link: Link,
    told: Told,
    watch: Watcher | None = None,
    *,
    tolerant: bool = False,
    retries: bool = True,
) -> None:
    """Run a campaign to its end.

    Parameters
    ----------
    ledger : Ledger
        The book, of which this process is the writer.
    strategy : Strategy
        What is to be done.
    link : Link
        The way to the pool.
    told : object with is_set()
        True where the driver has to stop early.
    watch : callable, optional
        Is shown the ledger, and what was collected, at least twice a second.
    tolerant : bool
        Whether a unit that was given up is a result like others.
    retries : bool
        Whether units that were given up before are tried again.

    Raises
    ------
    Interrupted
        If it was told to stop.  What the workers held is in the ledger, as after a
        KeyboardInterrupt.
    InputError
        If the strategy finds its input wrong on the way; likewise.
    CampaignError
        If a unit was given up and that is not tolerated, or the ledger cannot be written.
    SiteError
        If the workers cannot be used or reached.
    """
    if retries:
        ledger.retry()
    try:
        _rounds(ledger, strategy, link, told, watch)
    except (KeyboardInterrupt, Interrupted, InputError):
        link.interrupt()
        _write_rest(ledger, link)
        link.close()
        raise
    link.close()
    given_up = [record for record in ledger.records() if record.error is not None]
    if given_up and not tolerant:
        first = given_up[0]
        raise CampaignError(
            f"{len(given_up)} of the units failed, first {first.unit.title or first.unit.key} "
            f"({first.error}): what was committed is in the ledger, mend the cause and run again"
        )


def _rounds(
    ledger: Ledger, strategy: Strategy, link: Link, told: Told, watch: Watcher | None
) -> None:
    """Serve the workers until no unit is open, none is planned and none is expected."""
    offered: dict[str, int] = {}
    written = 0
    expecting = _expects(strategy, ledger)
    records = _planned(ledger, strategy)
    while (open_units := any(record.open for record in records)) or expecting:
        collected = link.collect(written, _offers(ledger, records, offered), PATIENCE_S)
        if collected.events:
            ledger.write(collected.events)
            written = collected.events[-1].number
        elif open_units and not (collected.free or collected.lent):
            # The pool is of another time, and takes for done what this ledger does not have.
            link.close()
            offered.clear()
            written = 0  # the next one counts anew
        if collected.events or expecting:
            # Asked first: what comes between the two is planned, or expected at the next look.
            expecting = _expects(strategy, ledger)
            records = _planned(ledger, strategy)
        if watch is not None:
            watch(ledger, collected)
        if told.is_set():
            raise Interrupted(
                f"the campaign was stopped: what was committed is in {ledger.path}, run again to "
                "go on"
            )


def _write_rest(ledger: Ledger, link: Link) -> None:
    """Write down what is still in the pool."""
    written = 0
    while events := link.collect(written, (), 0.0).events:
        # Errors may have been written already, and are not told from new ones as blocks are.
        ledger.write([event for event in events if isinstance(event, Committed)])
        written = events[-1].number


def _planned(ledger: Ledger, strategy: Strategy) -> list[Record]:
    """Let the strategy plan, and give all units."""
    units = strategy.plan(ledger)
    if units:
        ledger.add(units)
    return ledger.records()


def _expects(strategy: Strategy, ledger: Ledger) -> bool:
    return isinstance(strategy, Expectant) and strategy.expects(ledger)


def _offers(ledger: Ledger, records: list[Record], offered: dict[str, int]) -> list[Offer]:
    """Give the units that the pool does not know, or knows smaller."""
    new = [
        record.unit
        for record in records
        if record.open and offered.get(record.unit.key, 0) < record.unit.total
    ]
    if not new:
        return []
    offered.update({unit.key: unit.total for unit in new})
    done = ledger.done_ranges()
    return [(unit, done.get(unit.key, [])) for unit in new]
