"""Serves pools from the Dask scheduler: one of the two doors to its internals.

The pools live in the scheduler's memory, one for each campaign, and answer three messages: drains
*exchange*, the driver *collects*, and it *closes*.  Nothing here has to survive: what the ledger
does not have is done again, identically.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from distributed.diagnostics.plugin import SchedulerPlugin

import hepdask_ml
from hepdask_ml.campaign.messages import event_fields, exchange, offer, settle
from hepdask_ml.campaign.notice import GRACE_S
from hepdask_ml.campaign.pool import TARGET_S, Pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distributed import Scheduler

    from hepdask_ml.campaign.messages import Exchange

NAME = "hepdask-ml"
GATHER_S = 0.005
"""Time for which the driver is kept waiting for more after the first news."""

PATIENCE_S = 10.0
"""Time for which a drain is kept waiting for a block before it is told that there is none."""

DRAIN = "hepdask-ml-drain-"
"""Begins the names of drains among Dask's tasks."""

SILENCE_S = 60.0
"""Time without a heartbeat after which a worker's blocks are lent to others."""

ABANDONED_S = 600.0
"""Time without a driver after which drains without work are sent home."""

_RETIRED = ("retire-workers", "worker-close-gracefully")
"""Begin the stimuli by which Dask removes workers that live on for a moment, and commit then."""


class PoolPlugin(SchedulerPlugin):
    """Pools by campaign, with the handlers through which the others reach them.

    Parameters
    ----------
    silence_s : float
        Time without a heartbeat after which a worker's blocks are lent to others.
    abandoned_s : float
        Time without a driver after which drains without work are sent home.
    """

    idempotent = True
    name = NAME

    def __init__(self, *, silence_s: float = SILENCE_S, abandoned_s: float = ABANDONED_S) -> None:
        self._silence_s, self._abandoned_s = silence_s, abandoned_s
        self._served: dict[str, _Served] = {}
        self._dry_since: float | None = None
        self._brought = False

    async def start(self, scheduler: Scheduler) -> None:
        """Register the handlers."""
        self._scheduler = scheduler
        scheduler.handlers.update(
            {
                "hepdask_ml_version": self.version,
                "hepdask_ml_exchange": self.exchange,
                "hepdask_ml_collect": self.collect,
                "hepdask_ml_close": self.close_campaign,
                "hepdask_ml_demand": self.demand,
            }
        )

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:  # noqa: ARG002
        """Let the drivers hear at once of a worker that has come."""
        for served in self._served.values():
            served.news = True
            served.something.set()

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str = "", **_: Any
    ) -> None:
        """Free the blocks of a worker that has gone, or has had the time to commit them."""
        if stimulus_id.startswith(_RETIRED):
            scheduler.loop.call_later(GRACE_S, self._lose, worker)
            for served in self._served.values():
                served.wake()  # its drains that wait
        else:
            self._lose(worker)

    def _lose(self, worker: str) -> None:
        for served in self._served.values():
            served.pool.lost(worker)
            served.wake()

    def version(self) -> str:
        """Give the version that serves: the one that was registered first stays."""
        return hepdask_ml.__version__

    async def exchange(self, campaign: str, message: Exchange) -> dict[str, Any]:
        """Commit the last block of a drain, and lend it the next one as soon as there is one."""
        served = self._served.get(campaign)
        if served is None:
            return {"leave": "closed"}
        worker = self._scheduler.workers.get(message["worker"])
        if worker is None:
            # Retired, it commits what it has; or lost, and that has been lent to another.
            settle(served.pool, message)
            return self._left(served, message)
        message = dict(message)  # type: ignore[assignment]
        deadline = min(time() + PATIENCE_S, served.collected + self._abandoned_s)
        answer = exchange(served.pool, message, worker.nthreads)
        if served.pool.events:
            served.something.set()
        if served.pool.free:  # what this drain gave back
            served.wake()
        while not answer and time() < deadline:
            await served.wait(deadline - time())
            if message["worker"] not in self._scheduler.workers:
                return self._left(served, message)
            answer = exchange(served.pool, message, worker.nthreads)
        if not answer and time() - served.collected > self._abandoned_s:
            # The driver that comes back sends new ones; meanwhile the worker may be given up.
            served.pool.leave(message["drain"])
            answer = {"leave": "abandoned"}
        if "leave" in answer:
            served.left.append([message["worker"], answer["leave"]])
            served.news = True
            served.something.set()
        return answer

    async def collect(
        self,
        campaign: str,
        written: int,
        offers: Sequence[dict[str, Any]],
        census: bool,
        patience_s: float,
        target_s: float = TARGET_S,
    ) -> dict[str, Any]:
        """Take offers, and give what was committed as soon as there is something."""
        served = self._served.get(campaign)
        if served is None:
            served = self._served[campaign] = _Served(Pool(uuid4().hex[:8], target_s=target_s))
        pool = served.pool
        served.collected = time()
        for fields in offers:
            offer(pool, fields)
        if offers:
            self._dry_since = None
            served.wake()
        if census:
            self._notice_silence(pool)
        pool.collect(written)
        if not (pool.events or served.news):
            served.something.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(served.something.wait(), patience_s)
                # What ends at the same time is written down at once, which takes longer than this.
                await asyncio.sleep(GATHER_S)
        answer: dict[str, Any] = {
            "events": [event_fields(event) for event in pool.collect(written)],
            "lent": pool.n_lent,
            "free": pool.free,
            "news": served.news,
        }
        served.news = False
        if census:
            workers = self._scheduler.workers.items()
            answer["threads"] = {address: worker.nthreads for address, worker in workers}
            answer["drains"] = pool.drains
            answer["left"], served.left = served.left, []
            answer["faults"] = pool.faults
            answer["brought"] = self._brought
        return answer

    def demand(self) -> dict[str, Any]:
        """Tell those who bring workers how many of them have work.

        Returns
        -------
        dict
            ``free``: steps that may be lent; ``lent``: blocks that are out; ``busy``: addresses of
            workers that hold one, or work something else; ``dry_s``: seconds for which no step was
            free, as far as that was asked.
        """
        self._brought = True  # by whoever asks this
        pools = [served.pool for served in self._served.values()]
        free = sum(pool.free for pool in pools)
        if free:
            self._dry_since = None
        elif self._dry_since is None:
            self._dry_since = time()
        return {
            "free": free,
            "lent": sum(pool.n_lent for pool in pools),
            "busy": sorted(self._busy(pools)),
            "dry_s": 0.0 if self._dry_since is None else time() - self._dry_since,
        }

    def _busy(self, pools: Sequence[Pool]) -> set[str]:
        busy = {worker for pool in pools for *_, worker in pool.lent}
        for address, worker in self._scheduler.workers.items():
            if any(not str(task.key).startswith(DRAIN) for task in worker.processing):
                busy.add(address)
        return busy

    def close_campaign(self, campaign: str) -> None:
        """Send the drains of a campaign home and forget its pool."""
        served = self._served.pop(campaign, None)
        if served is not None:
            served.pool.closed = True
            served.wake()

    def _left(self, served: _Served, message: Exchange) -> dict[str, Any]:
        served.pool.leave(message["drain"])
        served.something.set()
        served.wake()
        return {"leave": "lost"}

    def _notice_silence(self, pool: Pool) -> None:
        for address in list(pool.drains):
            worker = self._scheduler.workers.get(address)
            if worker is not None and time() - worker.last_seen > self._silence_s:
                pool.silent(address)


class _Served:
    """A pool, and those who wait for it to change."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.something = asyncio.Event()  # to be collected
        self.left: list[list[str]] = []  # workers whose drains have ended, and why
        self.collected = time()  # by the driver
        self.news = False  # workers have come, or drains ended, since it was last asked
        self._changed = asyncio.Event()
        self._waiting = 0

    def wake(self) -> None:
        """Let everybody who waits for a block ask again."""
        if self._waiting:
            self._changed.set()
            self._changed = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait until something changes, for a while."""
        self._waiting += 1
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(seconds, 0.0))
        finally:
            self._waiting -= 1
