"""What drains, pool and driver say to each other: plain mappings, never pickles.

One message does most of the work: *commit the last block, lend the next one*.  The answers are the
same whether the pool lives in this process or in a Dask scheduler.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, TypedDict

from hepdask_ml.campaign.pool import Committed, Failed, Leave
from hepdask_ml.campaign.unit import Block, Done, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hepdask_ml.campaign.pool import Event, Pool


class Exchange(TypedDict, total=False):
    """A drain's message: who it is, how it goes, and what became of its last block."""

    drain: str
    worker: str
    seconds_left: float | None
    pace: float | None
    token: str
    reached: int
    result: bytes
    seconds: float
    error: str
    fault: str
    leaving: bool


def exchange(pool: Pool, message: Exchange, room: int | None = None) -> dict[str, Any]:
    """Commit what a drain brings, and lend it the next block.

    Parameters
    ----------
    pool : Pool
        The pool.
    message : Exchange
        The drain's message.
    room : int, optional
        Drains that its worker has threads for.

    Returns
    -------
    dict
        ``{"block": ...}``, ``{"leave": reason}``, or empty if nothing can be lent at present.
    """
    settle(pool, message)
    if message.get("leaving"):
        pool.leave(message["drain"])
        return {"leave": "asked"}
    left = message.get("seconds_left")
    answer = pool.take(
        message["drain"],
        message["worker"],
        seconds_left=inf if left is None else left,
        pace=message.get("pace"),
        room=room,
    )
    if answer is None:
        return {}
    if isinstance(answer, Leave):
        return {"leave": answer.reason}
    return {"block": [answer.key, dict(answer.spec), answer.start, answer.stop, answer.token]}


def settle(pool: Pool, message: Exchange) -> None:
    """Take what became of a drain's last block.

    Parameters
    ----------
    pool : Pool
        The pool.
    message : Exchange
        The drain's message; its result, error or fault is taken out, so that it counts once.
    """
    token = message.pop("token", None)
    if token is None:
        return
    if "fault" in message:
        # The block is handed back when this drain is told to leave.
        pool.fault(message["worker"], message.pop("fault"))
    elif "error" in message:
        pool.fail(token, message.pop("error"))
    else:
        done = Done(message.pop("reached"), message.pop("result"))
        pool.commit(token, done, message.pop("seconds"))


def block_of(fields: Iterable[Any]) -> Block:
    """Give the block that an answer holds.

    Parameters
    ----------
    fields : iterable
        Key, spec, start, stop, token.

    Returns
    -------
    Block
        The block.
    """
    return Block(*fields)


def offer_fields(unit: Unit, done: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """Give a unit as it travels from the driver to the pool.

    Parameters
    ----------
    unit : Unit
        The unit.
    done : iterable of (start, stop)
        Ranges that the ledger has.

    Returns
    -------
    dict
        For `offer`.
    """
    return {
        "key": unit.key,
        "total": unit.total,
        "spec": dict(unit.spec),
        "title": unit.title,
        "grain": unit.grain,
        "ordered": unit.ordered,
        "done": [list(part) for part in done],
    }


def offer(pool: Pool, fields: Mapping[str, Any]) -> None:
    """Offer a unit that has travelled.

    Parameters
    ----------
    pool : Pool
        The pool.
    fields : mapping
        Made by `offer_fields`.
    """
    unit = Unit(**{name: value for name, value in fields.items() if name != "done"})
    pool.offer(unit, [(start, stop) for start, stop in fields["done"]])


def event_fields(event: Event) -> list[Any]:
    """Give an event as it travels from the pool to the driver.

    Parameters
    ----------
    event : Committed or Failed
        The event.

    Returns
    -------
    list
        For `event_of`.
    """
    if isinstance(event, Committed):
        return [
            "done", event.number, event.key, event.start, event.stop, event.result, event.worker,
            event.seconds,
        ]  # fmt: skip
    return [
        "failed", event.number, event.key, event.start, event.stop, event.error, event.worker,
        event.final,
    ]  # fmt: skip


def event_of(fields: Iterable[Any]) -> Event:
    """Give the event that has travelled.

    Parameters
    ----------
    fields : iterable
        Made by `event_fields`.

    Returns
    -------
    Committed or Failed
        The event.
    """
    kind, *rest = fields
    return Committed(*rest) if kind == "done" else Failed(*rest)
