"""The worker's loop: take a block, run it, commit it, while walltime remains.

A process learns its end once, and hears when it is told to go: by SIGTERM, by the closing of its
Dask worker, or by the driver.  Then every drain commits what it has of its block and ends.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from functools import lru_cache
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from distributed import Status, get_worker, secede
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.utils import sync

from hepdask_ml.campaign.messages import Exchange, block_of
from hepdask_ml.campaign.notice import GRACE_S, NOTICE
from hepdask_ml.errors import HepdaskError, WorkerFault, words
from hepdask_ml.facility.node import End, end, process_start

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Worker

    from hepdask_ml.campaign.unit import Block, Runner

ANSWER_S = 60.0
"""Time for which an answer of the scheduler is waited for."""

RETRIES = 5
"""Messages that may be lost in a row."""

MARGIN_S = 5.0
"""Time that is kept at the end of a walltime for the last message, at most."""

MARGIN_SHARE = 0.03
"""The same as a part of the walltime, for short ones."""

_ALIVE = {Status.init, Status.running, Status.paused}

_CLOSING = "hepdask-ml-closing"

_INTERRUPTED: set[str] = set()
"""Campaigns whose driver has asked the drains of this process for what they have."""


class Ask(Protocol):
    """Sends a message to the pool and gives its answer; raises OSError if it gets lost."""

    def __call__(self, message: Exchange) -> dict[str, Any]:
        """Send it."""


def drain(campaign: str, runner: Runner) -> str:
    """Work blocks on this Dask worker until there is no time, or no work, left.

    Parameters
    ----------
    campaign : str
        Name of the campaign's pool.
    runner : Runner
        How a block is worked.

    Returns
    -------
    str
        Why it ended.
    """
    worker = get_worker()
    # Others may use the worker meanwhile, and Dask does not take it for idle.
    secede()  # type: ignore[no-untyped-call]
    worker.loop.add_callback(_listen, worker)
    _INTERRUPTED.discard(campaign)

    def ask(message: Exchange) -> dict[str, Any]:
        answer = sync(
            worker.loop,
            worker.scheduler.hepdask_ml_exchange,
            campaign=campaign,
            message=message,
            callback_timeout=ANSWER_S,
        )
        return dict(answer)

    def told_to_go() -> bool:
        return NOTICE.given or campaign in _INTERRUPTED or worker.status not in _ALIVE

    return loop(runner, ask, worker.address, _end_of(worker.lifetime), told_to_go)


class _Closing(WorkerPlugin):
    """Lets a Dask worker that is closed, or retired, commit first: it is still connected."""

    async def teardown(self, worker: Worker) -> None:
        stream, deadline = worker.batched_stream, monotonic() + GRACE_S
        while NOTICE.held(worker.address) and monotonic() < deadline:
            if stream.closed():  # type: ignore[no-untyped-call]  # nobody to commit it to
                return
            await asyncio.sleep(0.02)


async def _listen(worker: Worker) -> None:
    NOTICE.listen()
    if _CLOSING not in worker.plugins:
        await worker.plugin_add(_Closing(), _CLOSING)


def interrupt(campaign: str) -> None:
    """Ask the drains of this process for what they have of a campaign.

    Parameters
    ----------
    campaign : str
        Name of the campaign's pool.
    """
    _INTERRUPTED.add(campaign)


def loop(runner: Runner, ask: Ask, worker: str, end: End, told_to_go: Callable[[], bool]) -> str:
    """Take blocks, run them and commit them.

    Parameters
    ----------
    runner : Runner
        How a block is worked.
    ask : Ask
        The way to the pool.
    worker : str
        Address of the worker.
    end : End
        When this process is ended.
    told_to_go : callable
        Whether it has been told to go already.

    Returns
    -------
    str
        Why it ended.
    """
    name = uuid4().hex
    pace: float | None = None
    message: Exchange = {}
    margin_s = min(MARGIN_S, MARGIN_SHARE * (end.left() + time() - process_start()))

    def enough() -> bool:
        return told_to_go() or end.left() < margin_s

    with ExitStack() as holding:
        while True:
            message["drain"], message["worker"] = name, worker
            message["seconds_left"] = None if end.at is None else end.left() - margin_s
            message["pace"], message["leaving"] = pace, told_to_go()
            answer = _answer(ask, message)
            holding.close()
            if "leave" in answer:
                return str(answer["leave"])
            message = {}
            if "block" in answer:
                holding.enter_context(NOTICE.holding(worker))
                block = block_of(answer["block"])
                begun = monotonic()
                message = _worked(runner, block, enough)
                seconds = monotonic() - begun
                message["seconds"] = seconds
                if message.get("reached", block.start) > block.start:
                    pace = (message["reached"] - block.start) / max(seconds, 1e-6)


def _worked(runner: Runner, block: Block, enough: Callable[[], bool]) -> Exchange:
    """Run a block; give what is to be told of it."""
    try:
        done = runner.run(block, enough)
        reached, result = int(done.reached), bytes(done.result)
    except WorkerFault as fault:
        return {"token": block.token, "fault": words(fault)}
    except Exception as error:  # noqa: BLE001 - the door around what others wrote
        kind = "" if isinstance(error, HepdaskError) else f"{type(error).__name__}: "
        return {"token": block.token, "error": " ".join(f"{kind}{error}".split())[:2000]}
    return {"token": block.token, "reached": reached, "result": result}


def _answer(ask: Ask, message: Exchange) -> dict[str, Any]:
    """Ask, several times if the connection fails; without a pool there is no work."""
    for attempt in range(RETRIES):
        try:
            return ask(message)
        except OSError:
            if message["leaving"]:
                break
            sleep(0.1 * 2**attempt)
    return {"leave": "no answer"}


@lru_cache(maxsize=1)
def _end_of(lifetime_s: float | None) -> End:
    return end(lifetime_s=lifetime_s)
