"""A campaign: a strategy, a runner and a ledger, run wherever there is a pool."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hepdask_ml.campaign.driver import drive
from hepdask_ml.campaign.ledger import MEMORY, open_ledger, read_ledger
from hepdask_ml.campaign.link import DaskLink, LocalLink
from hepdask_ml.campaign.pool import TARGET_S
from hepdask_ml.campaign.unit import Expectant
from hepdask_ml.errors import CampaignError, late

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from distributed import Client

    from hepdask_ml.campaign.ledger import Identity, Ledger, Progress
    from hepdask_ml.campaign.link import Collected, Link
    from hepdask_ml.campaign.unit import Runner, Strategy

Result = TypeVar("Result")

RATE_S = 20.0
"""Time over which the rate is averaged."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a campaign goes.

    Attributes
    ----------
    progress : Progress
        What the ledger has.
    rate : float
        Steps per second lately; nan if unknown.
    workers : dict or None
        Number of drains of each worker; None where it does not run, or has come to its end.
    lent : int
        Blocks that are out.
    faults : tuple of str
        Why some workers get no work.
    """

    progress: Progress
    rate: float = nan
    workers: Mapping[str, int] | None = None
    lent: int = 0
    faults: tuple[str, ...] = ()


class Campaign(Generic[Result]):
    """Durable work with a result.

    Whoever runs it again goes on where it was: with the same ledger nothing is done twice.

    Parameters
    ----------
    identity : Identity
        What its ledger is of.
    strategy : Strategy
        What is to be done.
    runner : Runner
        How a block is worked.
    summary : callable
        Gives the result that a ledger holds.
    ledger : str or Path, optional
        File of the ledger; in memory if not given, and then as durable as this object.
    facts : dict, optional
        What the summary has to know of it.
    target_s : float
        Time that a block should take, in seconds.
    tolerant : bool
        Whether a unit that was given up is a result like others, and no failure of the campaign.
    retries : bool
        Whether units that were given up before are tried again.
    """

    def __init__(  # noqa: PLR0913 - the parts of a kind, all keyword-only
        self,
        *,
        identity: Identity,
        strategy: Strategy,
        runner: Runner,
        summary: Callable[[Ledger], Result],
        ledger: str | Path | None = None,
        facts: Mapping[str, Any] | None = None,
        target_s: float = TARGET_S,
        tolerant: bool = False,
        retries: bool = True,
    ) -> None:
        self.identity = identity
        self.strategy = strategy
        self.path = MEMORY if ledger is None else str(ledger)
        self.runner = runner
        self._summary = summary
        self.facts = dict(facts or {})
        self._target_s = target_s
        self._tolerant, self._retries = tolerant, retries
        self._kept: Ledger | None = None  # in memory
        self._status: Status | None = None

    def run(
        self,
        client: Client | None = None,
        *,
        threads: int = 1,
        watch: Callable[[Ledger, Status], None] | None = None,
    ) -> Any:
        """Run it to its end.

        Parameters
        ----------
        client : distributed.Client, optional
            Where to; in this process if not given.  With an asynchronous client the result has to
            be awaited.
        threads : int
            Threads to use in this process.
        watch : callable, optional
            Is shown ledger and status about twice a second, in the thread that drives.

        Returns
        -------
        Result
            The summary of the ledger.

        Raises
        ------
        InputError
            If the ledger is of something else.
        CampaignError
            If a unit was given up, the ledger is being written by another process, or cannot be
            written.
        SiteError
            If the workers cannot be used or reached.
        """
        if client is not None and client.asynchronous:
            return self._run_beside(client, watch)
        return self._run(client, threads, watch, threading.Event())

    def start(
        self,
        client: Client | None = None,
        *,
        threads: int = 1,
        watch: Callable[[Ledger, Status], None] | None = None,
    ) -> Running[Result]:
        """Run it in the background.

        Parameters
        ----------
        client, threads, watch
            As in `run`; in a notebook the cell shows how it goes if no other watcher is given.

        Returns
        -------
        Running
            Gives the result, shows how it goes, stops it.
        """
        seen = watch or late("ui.watch").notebook_watch()
        return Running(self, lambda told: self._run(client, threads, seen, told))

    def check(self) -> None:
        """Make the ledger, or see that it is of this campaign, before a place to run is opened.

        Raises
        ------
        InputError
            If the ledger is of something else, or cannot be written.
        CampaignError
            If another process writes it.
        """
        if self.path != MEMORY:
            open_ledger(self.path, self.identity, self.facts).close()

    @property
    def finished(self) -> bool:
        """Whether its ledger holds all that the strategy asks for."""
        if self.path == MEMORY or not Path(self.path).exists():
            return False
        with open_ledger(self.path, self.identity, self.facts) as ledger:
            records = ledger.records()
            if any(record.open for record in records):
                return False
            if any(record.error is not None for record in records) and self._retries:
                return False
            if isinstance(self.strategy, Expectant) and self.strategy.expects(ledger):
                return False
            return bool(records) and not self.strategy.plan(ledger)

    def status(self) -> Status:
        """Give how far it is; from the ledger alone if it does not run here.

        Returns
        -------
        Status
            The status.
        """
        if self._status is not None:
            return self._status
        if self._kept is not None:
            return Status(self._kept.progress())
        if self.path == MEMORY or not Path(self.path).exists():
            raise CampaignError("the campaign was not run yet: call run() or start()")
        with read_ledger(self.path) as ledger:
            return Status(ledger.progress())

    def results(self) -> Result:
        """Give the result as far as it is there.

        Returns
        -------
        Result
            The summary of the ledger.
        """
        if self._kept is not None:
            return self._summary(self._kept)
        if self.path == MEMORY:
            raise CampaignError("the campaign was not run yet: call run() or start()")
        with read_ledger(self.path) as ledger:
            return self._summary(ledger)

    async def _run_beside(
        self, client: Client, watch: Callable[[Ledger, Status], None] | None
    ) -> Result:
        told = threading.Event()
        try:
            return await asyncio.to_thread(self._run, client, 1, watch, told)
        finally:
            told.set()

    def _run(
        self,
        client: Client | None,
        threads: int,
        watch: Callable[[Ledger, Status], None] | None,
        told: threading.Event,
    ) -> Result:
        ledger = self._kept or open_ledger(self.path, self.identity, self.facts)
        with ExitStack() as ending:
            ending.callback(self._end, ledger)
            link: Link
            if client is None:
                link = LocalLink(self._runner_for(ledger), threads, self._target_s)
                ending.callback(link.close)  # its threads would work on
            else:
                runner = self._runner_for(ledger)
                link = DaskLink(client, ledger.campaign, runner, self._target_s)
            drive(
                ledger,
                self.strategy,
                link,
                told,
                self._watching(watch),
                tolerant=self._tolerant,
                retries=self._retries,
            )
            if watch is not None:
                watch(ledger, Status(ledger.progress()))
            return self._summary(ledger)

    def _runner_for(self, ledger: Ledger) -> Runner:  # noqa: ARG002 - for kinds that need it
        """Give the runner for the campaign of a ledger."""
        return self.runner

    def _end(self, ledger: Ledger) -> None:
        """Keep a ledger in memory, close another."""
        self._status = None
        if self.path == MEMORY:
            self._kept = ledger
        else:
            ledger.close()

    def _watching(
        self, watch: Callable[[Ledger, Status], None] | None
    ) -> Callable[[Ledger, Collected], None]:
        seen: deque[tuple[float, int]] = deque()
        due = -inf

        def look(ledger: Ledger, collected: Collected) -> None:
            nonlocal due
            now = monotonic()
            if now < due:
                return
            progress = ledger.progress()
            seen.append((now, progress.done))
            while seen[-1][0] - seen[0][0] > RATE_S:
                seen.popleft()
            took = now - seen[0][0]
            rate = (progress.done - seen[0][1]) / took if took > 0.0 else nan
            self._status = Status(
                progress, rate, collected.drains, collected.lent, collected.faults
            )
            if watch is not None:
                watch(ledger, self._status)
            # A look may take a tenth of the time.
            due = now + max(0.5, 10.0 * (monotonic() - now))

        return look

    def __repr__(self) -> str:
        return f"<Campaign: {self.identity.kind}, ledger {self.path}>"

    def _repr_html_(self) -> str:
        return str(late("ui.show").campaign_html(self))


class Running(Generic[Result]):
    """A campaign in the background of this process.

    Parameters
    ----------
    campaign : Campaign
        The campaign.
    work : callable
        Runs it, and stops early when the event that it is given is set.
    """

    def __init__(
        self, campaign: Campaign[Result], work: Callable[[threading.Event], Result]
    ) -> None:
        self.campaign = campaign
        self._told = threading.Event()
        self._work = work
        self._result: Result | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has come to an end."""
        return not self._thread.is_alive()

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the result.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        Result
            The summary of the ledger.

        Raises
        ------
        TimeoutError
            If it is not done by then.
        HepdaskError
            If the campaign failed or was stopped.
        """
        self._thread.join(timeout)
        if not self.done:
            raise TimeoutError("the campaign is still running: wait longer, or stop() it")
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # set where there is no error

    def stop(self) -> None:
        """Stop it; what the workers hold is committed first."""
        self._told.set()
        self._thread.join()

    def __await__(self) -> Generator[Any, None, Result]:
        return asyncio.to_thread(self.result).__await__()

    def _run(self) -> None:
        try:
            self._result = self._work(self._told)
        except Exception as error:  # noqa: BLE001 - raised again by result()
            self._error = error

    def _repr_html_(self) -> str:
        return str(late("ui.show").campaign_html(self.campaign))
