"""What drains, pool and driver say to each other arrives as it was sent."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.campaign.messages import (
    Exchange,
    block_of,
    event_fields,
    event_of,
    exchange,
    offer,
    offer_fields,
    settle,
)
from hepdask_ml.campaign.pool import Committed, Event, Failed, Pool
from hepdask_ml.campaign.unit import Block, Unit

keys = st.text(max_size=10)
numbers = st.integers(0, 2**53)
seconds = st.floats(0.0, 1e6)
specs = st.dictionaries(keys, st.none() | st.booleans() | numbers | seconds | keys, max_size=3)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Committed, numbers, keys, numbers, numbers, st.binary(max_size=20), keys, seconds),
    st.builds(Failed, numbers, keys, numbers, numbers, keys, keys, st.booleans()),
)
ranges = st.lists(st.integers(1, 5), max_size=6).map(
    lambda sizes: [(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(0, len(sizes), 2)]
)


def travelled(message: Any) -> Any:
    """Send a message as Dask does: lists become tuples."""
    if isinstance(message, dict):
        return {name: travelled(value) for name, value in message.items()}
    return tuple(map(travelled, message)) if isinstance(message, list | tuple) else message


def pool_of(*units: Unit) -> Pool:
    pool = Pool("p")
    for unit in units:
        pool.offer(unit)
    return pool


def lent(answer: dict[str, Any]) -> Block:
    return block_of(answer["block"])


@given(events)
def test_events_arrive(event: Event) -> None:
    assert event_of(travelled(event_fields(event))) == event


@given(
    st.builds(Unit, keys, st.integers(0, 100), specs, keys, st.integers(1, 9), st.booleans()),
    ranges,
)
def test_offers_arrive(unit: Unit, done: list[tuple[int, int]]) -> None:
    here, there = Pool("p"), Pool("p")
    here.offer(unit, done)
    offer(there, travelled(offer_fields(unit, done)))
    assert there.free == here.free
    message: Exchange = {"drain": "d", "worker": "w"}
    assert exchange(there, message) == exchange(here, message)


def test_messages_are_plain() -> None:
    fields = offer_fields(Unit("u", 10, {"mu": 1.5}), [(0, 2)])
    assert json.loads(json.dumps(fields)) == fields
    event = event_fields(Failed(1, "u", 0, 1, "error", "w", True))
    assert json.loads(json.dumps(event)) == event


def test_one_message_commits_and_takes() -> None:
    pool = pool_of(Unit("u", 20, {"mu": 1.5}, grain=10))
    first = lent(travelled(exchange(pool, {"drain": "d", "worker": "w"})))
    assert (first.key, first.spec, first.start, first.stop) == ("u", {"mu": 1.5}, 0, 10)
    message: Exchange = {
        "drain": "d", "worker": "w", "seconds_left": None, "pace": 100.0,
        "token": first.token, "reached": 10, "result": b"r", "seconds": 0.1,
    }  # fmt: skip
    second = lent(exchange(pool, travelled(message)))
    assert (second.start, second.stop) == (10, 20)
    assert second.token != first.token
    assert pool.collect() == [Committed(1, "u", 0, 10, b"r", "w", 0.1)]


def test_a_result_counts_once_however_often_the_drain_asks() -> None:
    pool = pool_of(Unit("u", 1))
    block = lent(exchange(pool, {"drain": "d", "worker": "w"}))
    message: Exchange = {
        "drain": "d", "worker": "w",
        "token": block.token, "reached": 1, "result": b"r", "seconds": 0.1,
    }  # fmt: skip
    again: Exchange = dict(message)  # type: ignore[assignment]
    assert exchange(pool, message) == {}
    assert exchange(pool, message) == {}
    assert exchange(pool, again) == {}  # sent twice, since the answer was lost
    assert len(pool.collect()) == 1


def test_an_error_is_told_once() -> None:
    pool = pool_of(Unit("u", 1))
    block = lent(exchange(pool, {"drain": "d", "worker": "w"}))
    message: Exchange = {"drain": "d", "worker": "w", "token": block.token, "error": "no GPU"}
    again = lent(exchange(pool, message))
    assert (again.start, again.stop) == (0, 1)
    settle(pool, message)
    assert pool.collect() == [Failed(1, "u", 0, 1, "no GPU", "w", False)]
    assert pool.lent == [("u", 0, 1, "w")]


def test_a_fault_frees_the_block_and_sends_the_drain_home() -> None:
    pool = pool_of(Unit("u", 1))
    block = lent(exchange(pool, {"drain": "d", "worker": "w"}))
    message: Exchange = {"drain": "d", "worker": "w", "token": block.token, "fault": "no GPU"}
    again: Exchange = dict(message)  # type: ignore[assignment]
    assert exchange(pool, message) == {"leave": "fault"}
    assert exchange(pool, again) == {"leave": "fault"}  # sent twice, since the answer was lost
    assert (pool.free, pool.lent, pool.collect()) == (1, [], [])
    assert pool.faults == {"w": "no GPU"}
    assert lent(exchange(pool, {"drain": "e", "worker": "v"})).token != block.token


@pytest.mark.parametrize(
    ("message", "room", "answer"),
    [
        ({"leaving": True}, None, {"leave": "asked"}),
        ({"leaving": True, "token": "t", "fault": "no GPU"}, None, {"leave": "asked"}),
        ({"seconds_left": 0.0}, None, {"leave": "walltime"}),
        ({}, 0, {"leave": "surplus"}),
    ],
)
def test_a_drain_is_told_to_leave(
    message: Exchange, room: int | None, answer: dict[str, str]
) -> None:
    pool = pool_of(Unit("u", 10))
    message = {"drain": "d", "worker": "w", **message}
    assert exchange(pool, message, room) == answer
    assert pool.drains == {}


def test_who_leaves_brings_what_it_has() -> None:
    pool = pool_of(Unit("u", 10, grain=10))
    block = lent(exchange(pool, {"drain": "d", "worker": "w"}))
    message: Exchange = {
        "drain": "d", "worker": "w", "leaving": True,
        "token": block.token, "reached": 4, "result": b"4", "seconds": 0.1,
    }  # fmt: skip
    assert exchange(pool, message) == {"leave": "asked"}
    assert pool.collect() == [Committed(1, "u", 0, 4, b"4", "w", 0.1)]
    assert pool.free == 6


def test_a_closed_pool_still_takes_results() -> None:
    pool = pool_of(Unit("u", 1))
    block = lent(exchange(pool, {"drain": "d", "worker": "w"}))
    pool.closed = True
    message: Exchange = {
        "drain": "d", "worker": "w",
        "token": block.token, "reached": 1, "result": b"r", "seconds": 0.1,
    }  # fmt: skip
    assert exchange(pool, message) == {"leave": "closed"}
    assert len(pool.collect()) == 1


def test_blocks_can_be_pickled() -> None:
    block = Block("u", {"mu": 1.5}, 0, 10, "p-0")
    assert pickle.loads(pickle.dumps(block)) == block
