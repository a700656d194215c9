"""The pool as a state machine: whatever happens when, no step is lost or counted twice.

A model beside it counts steps one by one, where the pool keeps ranges.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from math import inf
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from hepdask_ml.campaign import pool as pool_module
from hepdask_ml.campaign.pool import ATTEMPTS, Committed, Event, Failed, Leave, Pool
from hepdask_ml.campaign.unit import Block, Done, Unit

LOSSES = 2
"""Fewer than really, so that units are given up for them, too."""

KEYS = st.sampled_from(["ada", "bob"])
WORKER_OF = {"d0": "east", "d1": "east", "d2": "west"}
DRAINS = st.sampled_from(sorted(WORKER_OF))
Terms = tuple[float, float | None, int | None]
TERMS: st.SearchStrategy[Terms] = st.one_of(
    st.sampled_from([(inf, 7.0, None), (inf, None, None), (inf, 1e9, 2), (60.0, 1.0, None)]),
    st.tuples(
        st.sampled_from([-1.0, 0.0, 0.5, 60.0, inf]),
        st.sampled_from([None, 0.01, 1.0, 1e9]),
        st.sampled_from([None, 1, 2]),
    ),
)
"""Seconds left, pace, room: mostly healthy ones."""
MOODS = st.sampled_from(
    [
        ["whole", "part", "error", "nothing", "answer lost", "before", "beyond"],
        ["whole", "part", "part"],
        ["part", "error", "error"],
        ["error", "error", "nothing", "answer lost"],
    ]
)
"""What becomes of blocks."""
WORKERS = st.sampled_from(sorted(set(WORKER_OF.values())))


def joined(steps: set[int]) -> list[tuple[int, int]]:
    """Give a set of steps as ranges."""
    ranges: list[tuple[int, int]] = []
    for step in sorted(steps):
        if ranges and ranges[-1][1] == step:
            ranges[-1] = ranges[-1][0], step + 1
        else:
            ranges.append((step, step + 1))
    return ranges


def free_ranges(pool: Pool) -> dict[str, list[tuple[int, int]]]:
    """Give the free ranges of every unit: the only look inside."""
    # Only units in _open can be lent from.
    assert {key for key, state in pool._units.items() if state.free} == set(pool._open)
    return {
        key: [(place.start, place.stop) for place in state.free]
        for key, state in pool._units.items()
    }


@dataclass
class Step:
    """What went wrong in a step since it was last offered or its neighbour before was done."""

    errors: int = 0
    losses: int = 0
    failed_on: set[str] = field(default_factory=set)


@dataclass
class Known:
    """A unit as the pool should have it."""

    unit: Unit
    done: set[int]
    free: dict[int, Step]
    ends: set[int]
    """Where something ended, maybe inside a grain."""


@dataclass
class Lent:
    key: str
    steps: dict[int, Step]
    drain: str

    @property
    def range(self) -> range:
        return range(min(self.steps), max(self.steps) + 1)


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.fewer = patch.object(pool_module, "LOSSES", LOSSES)
        self.fewer.start()
        self.known: dict[str, Known] = {}
        self.lent: dict[str, Lent] = {}
        self.dead: list[str] = []
        self.events: list[Event] = []
        self.newest = 0
        self.drains: set[str] = set()
        self.faulty: set[str] = set()
        # The driver's side: what the ledger has, and up to which event.
        self.shape: dict[str, Unit] = {}
        self.ledger: dict[str, set[int]] = {}
        self.written = 0

    @initialize(
        target_s=st.sampled_from([0.1, 3.0, 30.0]),
        mood=MOODS,
        ordered=st.booleans(),
        done=st.sets(st.integers(0, 29)),
    )
    def start(self, target_s: float, mood: list[str], ordered: bool, done: set[int]) -> None:
        self.pool = Pool("p", target_s=target_s)
        self.mood = mood
        self.offer("ada", 30, 3, ordered, done, apart=False)

    # What the driver does

    @rule(
        key=KEYS,
        total=st.integers(1, 30),
        grain=st.integers(1, 7),
        ordered=st.booleans(),
        done=st.one_of(st.just(set()), st.sets(st.integers(0, 29))),
        apart=st.booleans(),
    )
    def offer(
        self, key: str, total: int, grain: int, ordered: bool, done: set[int], apart: bool
    ) -> None:
        """Offer a new unit, one that was withdrawn or given up, or one that has grown."""
        if key not in self.shape:
            done = set(range(len(done))) if ordered else done
            self.shape[key] = Unit(key, total, {"of": key}, grain=grain, ordered=ordered)
            self.ledger[key] = {i for i in done if i < total}
        unit = replace(self.shape[key], total=total)
        if key not in self.known:
            unit = self.shape[key] = replace(unit, total=max(total, self.shape[key].total))
            self.expect(unit)
        elif total > self.known[key].unit.total:
            self.expect_more(unit)
        parts = [(i, i + 1) for i in sorted(self.ledger[key])]
        self.pool.offer(unit, parts if apart else joined(self.ledger[key]))

    def expect(self, unit: Unit) -> None:
        kept = {
            step
            for event in self.events
            if isinstance(event, Committed) and event.key == unit.key
            for step in range(event.start, event.stop)
        }
        done = self.ledger[unit.key] | kept
        free = {i: Step() for i in range(unit.total) if i not in done}
        self.known[unit.key] = Known(unit, done, free, {i + 1 for i in done})

    def expect_more(self, unit: Unit) -> None:
        known = self.known[unit.key]
        known.ends.add(known.unit.total)
        known.free.update({i: Step() for i in range(known.unit.total, unit.total)})
        known.unit = self.shape[unit.key] = unit

    @rule(key=KEYS)
    def withdraw(self, key: str) -> None:
        self.pool.withdraw(key)
        self.forgotten(key)

    def forgotten(self, key: str) -> None:
        self.known.pop(key, None)
        for token in [token for token, lent in self.lent.items() if lent.key == key]:
            self.ended(token)

    @rule(most=st.sampled_from([1, 3, 1000]), acknowledged=st.booleans())
    def collect(self, most: int, acknowledged: bool) -> None:
        """Write down what comes; the acknowledgement may be lost."""
        written = self.written if acknowledged else 0
        self.events = [event for event in self.events if event.number > written]
        found = self.pool.collect(written, most)
        assert found == self.events[:most]
        for event in found:
            if isinstance(event, Committed):
                self.ledger[event.key].update(range(event.start, event.stop))
            self.written = max(self.written, event.number)

    # What the drains do

    @rule(talks=st.lists(st.tuples(DRAINS, TERMS), min_size=1, max_size=6), data=st.data())
    def exchange(self, talks: list[tuple[str, Terms]], data: st.DataObject) -> None:
        """Bring what became of the last block, if there was one, and take the next."""
        for drain, terms in talks:
            self.bring(drain, data)
            self.take(drain, *terms)

    @rule(drain=DRAINS, data=st.data())
    def bring(self, drain: str, data: st.DataObject) -> None:
        for token in self.tokens_of(drain):
            news = data.draw(st.sampled_from(self.mood))
            if news == "error":
                assert self.pool.fail(token, "no convergence")
                self.failed(token)
            elif news != "answer lost":
                self.commit(token, news, data)

    def take(self, drain: str, seconds_left: float, pace: float | None, room: int | None) -> None:
        worker = WORKER_OF[drain]
        self.given_back(drain)
        free_before = {key: dict(known.free) for key, known in self.known.items()}
        here = sum(WORKER_OF[other] == worker for other in self.drains)
        answer = self.pool.take(drain, worker, seconds_left=seconds_left, pace=pace, room=room)
        if worker in self.faulty:
            assert answer == Leave("fault")
            self.drains.discard(drain)
            return
        if isinstance(answer, Leave):
            crowded = room is not None and here >= room and drain not in self.drains
            assert answer.reason == ("surplus" if crowded and seconds_left > 0.0 else "walltime")
            self.drains.discard(drain)
            return
        assert seconds_left > 0.0
        self.drains.add(drain)
        if answer is None:
            assert not any(self.may_lend(known, worker) for known in self.known.values())
            return
        known = self.known[answer.key]
        assert answer.token not in self.lent
        assert answer.token not in self.dead
        assert answer.spec == known.unit.spec
        self.check_range(known, answer, pace, free_before[answer.key])
        steps = {i: known.free.pop(i) for i in range(answer.start, answer.stop)}
        first = steps[answer.start]
        assert all(step == first for step in steps.values())
        assert worker not in first.failed_on or self.workers() <= first.failed_on
        if pace is not None:
            assert known.unit.grain <= pace * seconds_left
        self.lent[answer.token] = Lent(answer.key, steps, drain)

    def check_range(
        self, known: Known, block: Block, pace: float | None, free: dict[int, Step]
    ) -> None:
        grain = known.unit.grain
        assert 0 <= block.start < block.stop <= known.unit.total
        assert block.start % grain == 0 or block.start in known.ends
        assert set(range(block.start, block.stop)) <= free.keys()
        if not known.unit.ordered:
            assert pace is not None or block.stop - block.start <= grain
        else:
            assert not any(lent.key == block.key for lent in self.lent.values())
            assert set(range(block.start)) <= known.done

    def workers(self) -> set[str]:
        return {WORKER_OF[drain] for drain in self.drains}

    def may_lend(self, known: Known, worker: str) -> bool:
        """Whether a worker should not be kept waiting for this unit."""
        steps = [known.free[i] for i in sorted(known.free)]
        if known.unit.ordered:
            if any(lent.key == known.unit.key for lent in self.lent.values()):
                return False
            steps = steps[:1]
        return any(
            worker not in step.failed_on or self.workers() <= step.failed_on for step in steps
        )

    def tokens_of(self, drain: str) -> list[str]:
        return [token for token, lent in self.lent.items() if lent.drain == drain]

    def ended(self, token: str) -> Lent:
        self.dead.append(token)
        return self.lent.pop(token)

    def given_back(self, drain: str) -> None:
        for token in self.tokens_of(drain):
            lent = self.ended(token)
            self.known[lent.key].free.update(lent.steps)

    def commit(self, token: str, part: str, data: st.DataObject) -> None:
        steps = self.lent[token].range
        reached = {
            "whole": steps.stop,
            "part": data.draw(st.integers(steps.start, steps.stop)),
            "nothing": steps.start,
            "before": steps.start - 1,
            "beyond": steps.stop + 1,
        }[part]
        if reached not in range(steps.start, steps.stop + 1):
            assert self.pool.commit(token, Done(reached, b""), 1.0)
            self.failed(token)
            return
        assert self.pool.commit(token, Done(reached, token.encode()), 1.0)
        self.committed(token, reached)

    def committed(self, token: str, reached: int) -> None:
        lent = self.ended(token)
        known, start = self.known[lent.key], lent.range.start
        if reached > start:
            self.happened(
                Committed(0, lent.key, start, reached, token.encode(), WORKER_OF[lent.drain], 1.0)
            )
            known.done.update(range(start, reached))
            known.ends.add(reached)
            known.free.update({i: Step() for i in range(reached, lent.range.stop)})
        else:
            known.free.update(lent.steps)

    def happened(self, expected: Event) -> None:
        """See that this event is new, and no other."""
        assert len(self.pool.events) == len(self.events) + 1
        event = self.pool.events[-1]
        assert event.number > self.newest
        assert event == replace(expected, number=event.number)
        self.newest = event.number
        self.events.append(event)

    @precondition(lambda self: self.dead)
    @rule(data=st.data(), error=st.booleans())
    def too_late(self, data: st.DataObject, error: bool) -> None:
        """Bring the result or the error of a lease that has ended."""
        token = data.draw(st.sampled_from(self.dead))
        if error:
            assert not self.pool.fail(token, "late")
        else:
            assert not self.pool.commit(token, Done(data.draw(st.integers(0, 40)), b""), 1.0)

    def failed(self, token: str) -> None:
        lent = self.ended(token)
        worker = WORKER_OF[lent.drain]
        for step in lent.steps.values():
            step.errors += 1
            step.failed_on.add(worker)
        errors = {step.errors for step in lent.steps.values()}
        assert errors <= set(range(1, ATTEMPTS + 1))
        self.tried_again(lent, final=errors == {ATTEMPTS})

    def tried_again(self, lent: Lent, *, final: bool) -> None:
        worker, steps = WORKER_OF[lent.drain], lent.range
        error = self.pool.events[-1].error if isinstance(self.pool.events[-1], Failed) else ""
        self.happened(Failed(0, lent.key, steps.start, steps.stop, error, worker, final))
        if final:
            self.forgotten(lent.key)
        else:
            self.known[lent.key].free.update(lent.steps)

    @rule(worker=WORKERS)
    def lose(self, worker: str) -> None:
        """A worker dies."""
        self.pool.lost(worker)
        self.faulty.discard(worker)
        gone = sorted(drain for drain in self.drains if WORKER_OF[drain] == worker)
        events = list(self.pool.events[len(self.events) :])
        for drain in gone:
            for token in self.tokens_of(drain):
                lent = self.ended(token)
                for step in lent.steps.values():
                    step.losses += 1
                if max(step.losses for step in lent.steps.values()) < LOSSES:
                    self.known[lent.key].free.update(lent.steps)
                    continue
                event = events.pop(0)
                assert isinstance(event, Failed)
                assert (event.key, event.worker, event.final) == (lent.key, worker, True)
                assert range(event.start, event.stop) == lent.range
                assert event.number > self.newest
                self.newest = event.number
                self.events.append(event)
                self.forgotten(lent.key)
        self.drains.difference_update(gone)

    @rule(worker=WORKERS)
    def fault(self, worker: str) -> None:
        """A worker says that it cannot work; what its drains hold they hold until they ask."""
        self.pool.fault(worker, "no GPU")
        self.faulty.add(worker)

    @rule(drain=DRAINS)
    def leave(self, drain: str) -> None:
        self.given_back(drain)
        self.pool.leave(drain)
        self.drains.discard(drain)

    # What always holds

    @invariant()
    def every_step_is_in_one_place(self) -> None:
        if not hasattr(self, "pool"):
            return
        free = free_ranges(self.pool)
        assert free.keys() == self.known.keys()
        for key, known in self.known.items():
            places = list(known.done)
            for start, stop in [*free[key], *self.lent_ranges(key)]:
                places += range(start, stop)
            assert sorted(places) == list(range(known.unit.total))
            assert free[key] == sorted(free[key])
            assert [i for start, stop in free[key] for i in range(start, stop)] == sorted(
                known.free
            )

    def lent_ranges(self, key: str) -> list[tuple[int, int]]:
        return [(start, stop) for name, start, stop, _ in self.pool.lent if name == key]

    @invariant()
    def what_it_says_is_what_it_did(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert list(self.pool.events) == self.events
        assert self.pool.free == sum(len(known.free) for known in self.known.values())
        assert sorted(self.pool.lent) == sorted(
            (lent.key, lent.range.start, lent.range.stop, WORKER_OF[lent.drain])
            for lent in self.lent.values()
        )
        assert self.pool.drains == Counter(WORKER_OF[drain] for drain in self.drains)
        assert self.pool.faults == dict.fromkeys(self.faulty, "no GPU")

    @invariant()
    def leases_are_few(self) -> None:
        holders = [lent.drain for lent in self.lent.values()]
        assert len(holders) == len(set(holders))
        ordered = [lent.key for lent in self.lent.values() if self.known[lent.key].unit.ordered]
        assert len(ordered) == len(set(ordered))

    def teardown(self) -> None:
        """Let one healthy drain work what is left: it ends, with everything done once."""
        self.fewer.stop()
        if not hasattr(self, "pool"):
            return
        for drain in sorted(self.drains):
            self.leave(drain)
        while block := self.pool.take("healthy", "south", pace=7.0):
            assert isinstance(block, Block)
            known = self.known[block.key]
            self.check_range(known, block, 7.0, known.free)
            steps = {i: known.free.pop(i) for i in range(block.start, block.stop)}
            assert self.pool.commit(block.token, Done(block.stop, b"well"), 1.0)
            known.done.update(steps)
        while events := self.pool.collect(self.written, 7):
            for event in events:
                assert event.number > self.written
                self.written = event.number
                if isinstance(event, Committed):
                    steps_done = set(range(event.start, event.stop))
                    self.ledger[event.key] |= steps_done
        for key, known in self.known.items():
            assert self.ledger[key] == set(range(known.unit.total))


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_pool = PoolMachine.TestCase
