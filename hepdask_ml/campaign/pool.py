"""What may be lent next, how much of it and to whom: leases and ranges, in memory.

The pool knows no Dask, no disk and no clock: it is told of everything and answers at once, from one
thread at a time.  It serves *drains*, the loops that work on the workers.  A drain holds at most
one *lease*; only the newest lease of a range can commit it.  What was committed stays here until
`collect` is told that it has been written down.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING

from hepdask_ml.campaign.unit import Block, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hepdask_ml.campaign.unit import Done

TARGET_S = 30.0
"""Time that a block should take: long against a message, short against a walltime."""

SHORTEST_S = 0.05
"""Time below which it is not worth while to share what is left among the drains."""

WALLTIME_SHARE = 0.2
"""Part of the walltime left that one block may take."""

ATTEMPTS = 3
"""Errors in one range after which its unit is given up."""

LOSSES = 30
"""Workers lost in one range after which its unit is given up."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The answer to a drain that is to end, and why.

    The reason is ``closed``, ``fault``, ``walltime`` or ``surplus``.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Committed:
    """A range that was done."""

    number: int
    key: str
    start: int
    stop: int
    result: bytes
    worker: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """An error in a block; ``final`` if its unit is given up for it."""

    number: int
    key: str
    start: int
    stop: int
    error: str
    worker: str
    final: bool


Event = Committed | Failed

_START = attrgetter("start")


@dataclass(slots=True)
class _Range:
    """Steps that are free, with what went wrong in them."""

    start: int
    stop: int
    errors: int = 0
    losses: int = 0
    failed_on: frozenset[str] = frozenset()

    @property
    def untried(self) -> bool:
        return not (self.errors or self.losses)


@dataclass(slots=True)
class _State:
    """A unit with the ranges that are free, by rising start, and the tokens that are out."""

    unit: Unit
    free: list[_Range] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Lease:
    state: _State
    range: _Range
    drain: str
    worker: str


class Pool:
    """Lends blocks of units to drains.

    Parameters
    ----------
    name : str
        Begins every token; unique among the pools that ever served a campaign.
    target_s : float
        Time that a block should take, in seconds.
    """

    def __init__(self, name: str, *, target_s: float = TARGET_S) -> None:
        self._name = name
        self._target_s = target_s
        self._units: dict[str, _State] = {}
        self._open: OrderedDict[str, _State] = OrderedDict()  # those that can be lent from
        self._leases: dict[str, _Lease] = {}
        self._lease_of: dict[str, str] = {}  # token of each drain
        self._worker_of: dict[str, str] = {}  # worker of each drain
        self._drains_of: dict[str, set[str]] = {}  # drains of each worker
        self._faults: dict[str, str] = {}  # why a worker cannot work
        self._events: list[Event] = []
        self._tokens, self._numbers = count(), count(1)
        self._free = 0
        self.closed = False

    @property
    def events(self) -> Sequence[Event]:
        """What has not been collected yet."""
        return self._events

    @property
    def free(self) -> int:
        """Steps that may be lent."""
        return self._free

    @property
    def drains(self) -> dict[str, int]:
        """Number of drains of each worker."""
        return {worker: len(drains) for worker, drains in self._drains_of.items()}

    @property
    def faults(self) -> dict[str, str]:
        """Why workers cannot work, by their names; these get no blocks."""
        return dict(self._faults)

    @property
    def n_lent(self) -> int:
        """Number of blocks that are out."""
        return len(self._leases)

    @property
    def lent(self) -> list[tuple[str, int, int, str]]:
        """Key, start, stop and worker of every block that is out."""
        return [
            (lease.state.unit.key, lease.range.start, lease.range.stop, lease.worker)
            for lease in self._leases.values()
        ]

    def offer(self, unit: Unit, done: Iterable[tuple[int, int]] = ()) -> None:
        """Take a unit in, or more steps of one that is here.

        Parameters
        ----------
        unit : Unit
            The unit; one that is known may have grown.
        done : iterable of (start, stop)
            Ranges that need not be done, by rising start; ignored for a unit that is known.
        """
        state = self._units.get(unit.key)
        if state is not None:
            if unit.total > state.unit.total:
                old, state.unit = state.unit.total, unit
                self._put(state, _Range(old, unit.total))
            return
        state = self._units[unit.key] = _State(unit)
        kept = [
            (event.start, event.stop)
            for event in self._events
            if isinstance(event, Committed) and event.key == unit.key
        ]
        at = 0
        for start, stop in sorted({*done, *kept}):
            self._put(state, _Range(at, start))
            at = max(at, stop)  # what is kept may lie within what is done
        self._put(state, _Range(at, unit.total))

    def withdraw(self, key: str) -> None:
        """Forget a unit; what is out of it will not count."""
        state = self._units.pop(key, None)
        if state is None:
            return
        self._free -= sum(place.stop - place.start for place in state.free)
        self._open.pop(key, None)
        for token in list(state.tokens):
            self._end(token)

    def take(
        self,
        drain: str,
        worker: str,
        *,
        seconds_left: float = inf,
        pace: float | None = None,
        room: int | None = None,
    ) -> Block | Leave | None:
        """Lend a block.

        Parameters
        ----------
        drain, worker : str
            Who asks.  A block that this drain still holds is given back first: the answer that
            lent it was lost.
        seconds_left : float
            Time for work, until the worker has to hand back.
        pace : float, optional
            Steps per second of this drain, if known.
        room : int, optional
            Drains that the worker has threads for.

        Returns
        -------
        Block, Leave or None
            None if nothing can be lent at present.
        """
        self._give_back(drain)
        leave = self._reason_to_leave(drain, worker, seconds_left, room)
        if leave is not None:
            self.leave(drain)
            return leave
        self._worker_of[drain] = worker
        self._drains_of.setdefault(worker, set()).add(drain)
        found = self._choose(worker)
        if found is None:
            return None
        state, place = found
        if pace is not None and state.unit.grain > pace * seconds_left:
            self.leave(drain)
            return Leave("walltime")
        return self._lend(state, place, drain, worker, self._size(state, place, seconds_left, pace))

    def commit(self, token: str, done: Done, seconds: float) -> bool:
        """Take what was done under a lease.

        Parameters
        ----------
        token : str
            The lease.
        done : Done
            What was done.
        seconds : float
            What it took.

        Returns
        -------
        bool
            Whether it counts: False if the lease is not the newest of its range any more.
        """
        lease = self._leases.get(token)
        if lease is None:
            return False
        start, stop = lease.range.start, lease.range.stop
        if not start <= done.reached <= stop:
            return self.fail(token, f"the runner says {done.reached} of steps {start} to {stop}")
        self._end(token)
        if done.reached == start:  # nothing done, nothing forgiven
            self._put(lease.state, lease.range)
            return True
        number, key = next(self._numbers), lease.state.unit.key
        self._events.append(
            Committed(number, key, start, done.reached, done.result, lease.worker, seconds)
        )
        self._put(lease.state, _Range(done.reached, stop))
        return True

    def fail(self, token: str, error: str) -> bool:
        """Take an error in a block; give its unit up if there were too many.

        Parameters
        ----------
        token : str
            The lease.
        error : str
            What happened.

        Returns
        -------
        bool
            Whether the lease was the newest of its range.
        """
        if token not in self._leases:
            return False
        lease = self._end(token)
        place = lease.range
        place.errors += 1
        place.failed_on |= {lease.worker}
        self._retry(lease, error, final=place.errors >= ATTEMPTS)
        return True

    def fault(self, worker: str, said: str) -> None:
        """Lend nothing more to a worker that cannot work; no block is the worse for it.

        Its drains are told to leave when they ask, and what they hold then is free again.

        Parameters
        ----------
        worker : str
            The worker.
        said : str
            Why it cannot.
        """
        self._faults.setdefault(worker, said)

    def leave(self, drain: str) -> None:
        """Forget a drain; what it holds is free again."""
        self._give_back(drain)
        worker = self._worker_of.pop(drain, None)
        if worker is not None:
            self._drains_of[worker].discard(drain)
            if not self._drains_of[worker]:
                del self._drains_of[worker]

    def lost(self, worker: str) -> None:
        """Forget a worker that has died; the blocks of its drains are free again."""
        self.silent(worker)
        self._faults.pop(worker, None)
        for drain in sorted(self._drains_of.get(worker, ())):
            self.leave(drain)

    def silent(self, worker: str) -> None:
        """Free the blocks of a worker that seems to be dead; if it is not, its drains go on."""
        for drain in sorted(self._drains_of.get(worker, ())):
            token = self._lease_of.get(drain)
            if token is not None:
                lease = self._end(token)
                lease.range.losses += 1
                if lease.range.losses < LOSSES:
                    self._put(lease.state, lease.range)
                else:
                    self._retry(lease, f"{LOSSES} workers died in it, one by one", final=True)

    def collect(self, written: int = 0, most: int = 1000) -> list[Event]:
        """Give what has been committed, and forget what has been written down.

        Parameters
        ----------
        written : int
            Number of the last event that the ledger has.
        most : int
            Events at most.

        Returns
        -------
        list of Committed or Failed
            By rising number.
        """
        kept = [event for event in self._events if event.number > written]
        self._events = kept
        return kept[:most]

    def _reason_to_leave(
        self, drain: str, worker: str, seconds_left: float, room: int | None
    ) -> Leave | None:
        if self.closed:
            return Leave("closed")
        if worker in self._faults:
            return Leave("fault")
        if seconds_left <= 0.0:
            return Leave("walltime")
        here = self._drains_of.get(worker, ())
        if room is not None and drain not in here and len(here) >= room:
            return Leave("surplus")
        return None

    def _choose(self, worker: str) -> tuple[_State, _Range] | None:
        """First free range, but for one that failed on this worker and not on all others."""
        for state in self._open.values():
            if state.unit.ordered and state.tokens:
                continue
            for place in state.free[:1] if state.unit.ordered else state.free:
                # Waiting for another worker would be for ever if it has failed on all of them.
                if worker not in place.failed_on or self._drains_of.keys() <= place.failed_on:
                    return state, place
        return None

    def _size(self, state: _State, place: _Range, seconds_left: float, pace: float | None) -> int:
        unit, steps = state.unit, place.stop - place.start
        if unit.ordered:  # nobody else could do the rest meanwhile: the runner stops in time
            return steps
        if pace is None:
            return min(steps, unit.grain)
        seconds = min(self._target_s, WALLTIME_SHARE * seconds_left) / 2**place.losses
        # A part of what is left, so that all drains come to the end together.
        fair = self._free // (2 * len(self._worker_of))
        most = min(int(pace * seconds), max(fair, int(pace * SHORTEST_S)))
        return min(steps, max(most // unit.grain, 1) * unit.grain)

    def _lend(self, state: _State, place: _Range, drain: str, worker: str, steps: int) -> Block:
        stop = place.start + steps
        grain = state.unit.grain
        if stop < place.stop:  # what was cut within a grain is mended here
            stop = max(stop // grain, place.start // grain + 1) * grain
        stop = min(stop, place.stop)
        lent = _Range(place.start, stop, place.errors, place.losses, place.failed_on)
        self._free -= stop - place.start
        place.start = stop
        if place.start == place.stop:
            del state.free[bisect_left(state.free, place.start, key=_START)]
            if not state.free:
                del self._open[state.unit.key]
        token = f"{self._name}-{next(self._tokens)}"
        self._leases[token] = _Lease(state, lent, drain, worker)
        self._lease_of[drain] = token
        state.tokens.add(token)
        return Block(state.unit.key, state.unit.spec, lent.start, lent.stop, token)

    def _end(self, token: str) -> _Lease:
        lease = self._leases.pop(token)
        del self._lease_of[lease.drain]
        lease.state.tokens.remove(token)
        return lease

    def _give_back(self, drain: str) -> None:
        token = self._lease_of.get(drain)
        if token is not None:
            lease = self._end(token)
            self._put(lease.state, lease.range)

    def _retry(self, lease: _Lease, error: str, *, final: bool) -> None:
        """Tell of an error in a range; then free it, or give its unit up."""
        key, place = lease.state.unit.key, lease.range
        number = next(self._numbers)
        self._events.append(
            Failed(number, key, place.start, place.stop, error, lease.worker, final)
        )
        if final:
            self.withdraw(key)
        else:
            self._put(lease.state, place)

    def _put(self, state: _State, place: _Range) -> None:
        """Make a range free; it grows together with untried neighbours."""
        if place.start >= place.stop:
            return
        self._free += place.stop - place.start
        free = state.free
        i = bisect_left(free, place.start, key=_START)
        if place.untried:
            if i < len(free) and free[i].untried and free[i].start == place.stop:
                place.stop = free.pop(i).stop
            if i and free[i - 1].untried and free[i - 1].stop == place.start:
                i -= 1
                place.start = free.pop(i).start
        free.insert(i, place)
        self._open[state.unit.key] = state
        if state.unit.ordered and place.start:  # what was begun comes before what was not
            self._open.move_to_end(state.unit.key, last=False)
