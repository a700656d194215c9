"""What every strategy, runner and site keeps to, as tests that a plug-in inherits.

A *contract* is a class of tests.  Whoever writes a plug-in derives from it in a test module, says
how the plug-in is made, and lets pytest run it:

>>> class TestDice(RunnerContract):
...     def runner(self):
...         return DiceRunner(seed=7)
...
...     def units(self):
...         return [Unit("red", 100, {"sides": 6}, "throws of the red die")]

`RunnerContract` cuts, shuffles, stops and moves blocks; `StrategyContract` plays whole campaigns in
which workers are lost and drivers are killed; `SiteContract` opens a place, works there, and looks
for what is left behind.  A broken rule is an AssertionError whose message says which.

Nothing here needs pytest, and the tests take no fixtures: any runner of tests will do.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from ipaddress import ip_address
from itertools import pairwise
from multiprocessing import resource_tracker
from random import Random
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from unittest import SkipTest
from uuid import uuid4

import psutil

import hepdask_ml
from hepdask_ml.campaign.driver import drive
from hepdask_ml.campaign.ledger import MEMORY, Identity, open_ledger
from hepdask_ml.campaign.pool import TARGET_S, Pool
from hepdask_ml.campaign.unit import Block, Done, Record, Unit
from hepdask_ml.errors import CampaignError, InputError, Interrupted, late

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from distributed import Client

    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.campaign.link import Collected, Offer
    from hepdask_ml.campaign.unit import History, Runner, Strategy
    from hepdask_ml.facility.site import Site

    Piece = tuple[Unit, int, int]
    Look = Callable[[Strategy, History, list[Unit]], None]

__all__ = ["DiceRunner", "RunnerContract", "SiteContract", "StrategyContract"]

_ANSWER_S = 120.0
"""Time that another process may take."""


@dataclass(frozen=True, slots=True)
class DiceRunner:
    """Throws dice, one in each step: a made-up runner for the tests of strategies and sites.

    The spec of a unit may hold ``sides``.

    Attributes
    ----------
    seed : int
        Seed of the campaign.
    throw_s : float
        Time that a throw takes, in seconds.

    Examples
    --------
    >>> block = Block("red", {"sides": 6}, 0, 5, "token")
    >>> list(DiceRunner(seed=1).run(block, lambda: False).result)
    [1, 3, 3, 1, 4]
    """

    seed: int = 1
    throw_s: float = 0.0

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        """Throw the dice of a block, a byte for each."""
        faces = bytearray()
        for step in range(block.start, block.stop):
            if enough():
                break
            address = f"{self.seed}\n{block.key}\n{step}".encode()
            digest = blake2b(address, digest_size=8).digest()
            faces.append(1 + int.from_bytes(digest, "little") % int(block.spec.get("sides", 6)))
            sleep(self.throw_s)
        return Done(block.start + len(faces), bytes(faces))


class _Mishap(Exception):
    """What happens on purpose."""


def _never() -> bool:
    return False


def _run(
    runner: Runner, unit: Unit, start: int, stop: int, enough: Callable[[], bool] = _never
) -> Done:
    """Work a block once, and see that what comes out is well-formed."""
    block = Block(unit.key, copy.deepcopy(dict(unit.spec)), start, stop, uuid4().hex)
    done = runner.run(block, enough)
    what = f"steps {start} to {stop} of {unit.key}"
    assert isinstance(done, Done), f"run() has to return a Done; for {what} it returned {done!r}"
    assert type(done.reached) is int, (
        f"Done.reached has to be an int, which the ledger can keep; for {what} it is a "
        f"{type(done.reached).__name__}"
    )
    assert type(done.result) is bytes, (
        f"Done.result has to be bytes, which travel as they are; for {what} it is a "
        f"{type(done.result).__name__}"
    )
    assert start <= done.reached <= stop, (
        f"Done.reached has to lie within the block; for {what} it is {done.reached}"
    )
    assert block.spec == unit.spec, (
        f"run() has to leave the spec as it is, other blocks share it; it changed that of {what}"
    )
    return done


def _worked(runner: Runner, piece: Piece) -> list[bytes]:
    """Work a range to its end, in as many blocks as the runner wants."""
    unit, at, stop = piece
    results = []
    while at < stop:
        done = _run(runner, unit, at, stop)
        assert done.reached > at, (
            "run() has to do at least one step if nobody asks it to stop; it did none of steps "
            f"{at} to {stop} of {unit.key}"
        )
        results.append(done.result)
        at = done.reached
    return results


def _all_worked(runner: Runner, pieces: Iterable[Piece]) -> list[list[bytes]]:
    return [_worked(runner, piece) for piece in pieces]


def _pieces(unit: Unit, dice: Random, cuts: int = 5) -> list[Piece]:
    """Cut a unit anywhere: the pool does so where a worker stopped, or a unit has grown."""
    places = {0, 1, unit.total, *(dice.randrange(unit.total) for _ in range(cuts))}
    ends = sorted(place for place in places if place <= unit.total)
    return [(unit, start, stop) for start, stop in pairwise(ends)]


class _Joining:
    """How the results of neighbouring ranges become one."""

    def joined(self, results: Sequence[bytes]) -> Any:
        """Join the results of neighbouring ranges into something that can be compared.

        Parameters
        ----------
        results : sequence of bytes
            By rising start.

        Returns
        -------
        object
            The bytes one after the other, if not overridden.
        """
        return b"".join(results)


class RunnerContract(_Joining):
    """What a runner keeps to.

    Override `runner` and `units`; `joined` if results are not simply put one after the other.
    Of a unit that is ``ordered`` the ranges are worked by rising start, each time by a new
    ``runner()``.

    Attributes
    ----------
    most_pickle_bytes : int
        Size of the pickled runner at most.
    soon_s : float
        Time after which a runner has to have stopped when it is enough, in seconds.
    """

    most_pickle_bytes = 16 * 2**20
    soon_s = 5.0

    def runner(self) -> Runner:
        """Make the runner; of the same settings each time."""
        raise NotImplementedError("override runner(): it makes the runner that is tested")

    def units(self) -> Sequence[Unit]:
        """Give some units that are worked in a second or so altogether."""
        raise NotImplementedError("override units(): they are worked by the runner")

    def broken_units(self) -> Sequence[Unit]:
        """Give units that cannot be worked, such as with a wrong spec; none if not overridden."""
        return ()

    def test_ranges_join(self) -> None:
        """Cut anywhere, the pieces of a unit have the result of the whole."""
        dice = Random(1)
        for unit in self.units():
            whole = self._whole(unit)
            for _ in range(3):
                pieces = _all_worked(self.runner(), _pieces(unit, dice))
                assert self._same(pieces, whole), (
                    "the result must not depend on where a range is cut: pieces of "
                    f"{unit.key} do not join to the result of the whole"
                )

    def test_same_block_gives_the_same(self) -> None:
        """A block has the same result whenever it is worked, and under whatever token."""
        for unit in self.units():
            runner, whole = self.runner(), self._whole(unit)
            for _ in range(2):
                worked = _worked(self.runner() if unit.ordered else runner, (unit, 0, unit.total))
                assert self.joined(worked) == whole, (
                    "the result must depend on key, spec and range alone: worked again, "
                    f"{unit.key} gave another one"
                )

    def test_order_does_not_matter(self) -> None:
        """Ranges have the same results in whatever order they are worked."""
        dice, runner = Random(2), self.runner()
        pieces = [piece for unit in self._loose_units() for piece in _pieces(unit, dice)]
        shuffled = pieces[:]
        dice.shuffle(shuffled)
        for order in (pieces[::-1], shuffled):
            results = dict(zip(map(_name, order), _all_worked(runner, order), strict=True))
            self._compare(
                pieces,
                [results[_name(piece)] for piece in pieces],
                "the result must not depend on what was worked before",
            )

    def test_threads_do_not_matter(self) -> None:
        """Several threads may use one runner at once."""
        dice, runner = Random(3), self.runner()
        pieces = [piece for unit in self._loose_units() for piece in _pieces(unit, dice)]
        at_once = threading.Barrier(4, timeout=_ANSWER_S)

        def work(shift: int) -> list[list[bytes]]:
            at_once.wait()
            turned = pieces[shift:] + pieces[:shift]
            results = _all_worked(runner, turned)
            back = len(pieces) - shift
            return results[back:] + results[:back]

        with ThreadPoolExecutor(4) as threads:
            for results in list(threads.map(work, (i * len(pieces) // 4 for i in range(4)))):
                self._compare(
                    pieces,
                    results,
                    "the result must not depend on the thread, nor on what others do meanwhile",
                )

    def test_pickled_runner_is_the_same(self) -> None:
        """A runner that has travelled gives the same results."""
        runner = pickle.loads(self._pickle())
        for unit in self.units():
            assert self.joined(_worked(runner, (unit, 0, unit.total))) == self._whole(unit), (
                f"a runner must be the same after pickling: it gives another result for {unit.key}"
            )

    def test_pickle_is_small(self) -> None:
        """A runner can be sent to every worker."""
        size = len(self._pickle())
        assert size <= self.most_pickle_bytes, (
            "a runner travels to every worker and has to be small: pickled, it takes "
            f"{size:,} bytes, more than {self.most_pickle_bytes:,}; keep names of files in it, "
            "and load what is large where it runs"
        )

    def test_process_does_not_matter(self) -> None:
        """Another process gives the same results."""
        dice = Random(4)
        units = self.units()
        cut = [_pieces(unit, dice) for unit in units]
        runner = self.runner()
        self._pickle()  # for its better message
        for unit, pieces, worked in zip(
            units, cut, _elsewhere([runner], _cut_worked, runner, cut), strict=True
        ):
            assert self._same(worked, self._whole(unit)), (
                "the result must not depend on the process (its number, its hashes, what it has "
                f"imported): another one gave another result for {len(pieces)} pieces of {unit.key}"
            )

    def test_stops_when_it_is_enough(self) -> None:
        """A runner stops early where it is asked to; the rest can be worked later."""
        for unit in self.units():
            whole = self._whole(unit)
            for looks in (1, 2, 5):
                runner = self.runner()
                done = self._stopped(runner, unit, looks)
                early = [done.result] if done.reached > 0 else []
                rest = _worked(runner, (unit, done.reached, unit.total))
                assert self.joined([*early, *rest]) == whole, (
                    "a block that stops early has the result of the steps that it reached, and "
                    f"the rest joins it: {unit.key}, stopped at step {done.reached}, does not"
                )

    def test_returns_soon_when_it_is_enough_from_the_beginning(self) -> None:
        """A worker that has to go gets its block back at once."""
        for unit in self.units():
            self._stopped(self.runner(), unit, 0, 0 if unit.ordered else unit.total // 2)

    def test_errors_are_raised(self) -> None:
        """An exception in a block is told, so that the block can be tried elsewhere."""
        asked = False

        def fails() -> bool:
            nonlocal asked
            asked = True
            raise _Mishap("of enough()")

        for unit in self.units():
            try:
                _run(self.runner(), unit, 0, unit.total, fails)
            except _Mishap:
                continue
            assert not asked, f"run() has to let exceptions pass: it hid one in {unit.key}"
        for unit in self.broken_units():
            block = Block(unit.key, copy.deepcopy(dict(unit.spec)), 0, unit.total, uuid4().hex)
            try:
                done = self.runner().run(block, _never)
            except Exception:  # noqa: BLE001 - whatever the author likes
                continue
            raise AssertionError(
                "run() has to raise where a block cannot be worked: for the broken unit "
                f"{unit.key} it returned {done!r:.100}"
            )

    def _loose_units(self) -> list[Unit]:
        return [unit for unit in self.units() if not unit.ordered]

    def _whole(self, unit: Unit) -> Any:
        return self.joined(_worked(self.runner(), (unit, 0, unit.total)))

    def _same(self, worked: Iterable[Sequence[bytes]], whole: Any) -> bool:
        return bool(self.joined([result for results in worked for result in results]) == whole)

    def _compare(
        self, pieces: Sequence[Piece], results: Sequence[Sequence[bytes]], rule: str
    ) -> None:
        for unit in self._loose_units():
            mine = [
                worked
                for (other, _, _), worked in zip(pieces, results, strict=True)
                if other.key == unit.key
            ]
            assert self._same(mine, self._whole(unit)), f"{rule}: {unit.key} has another result"

    def _stopped(self, runner: Runner, unit: Unit, looks: int, start: int = 0) -> Done:
        """Work a unit, and say that it is enough after some looks; see that it stops soon."""
        asked, since = 0, monotonic()

        def enough() -> bool:
            nonlocal asked, since
            if asked <= looks:
                since = monotonic()
            asked += 1
            return asked > looks

        done = _run(runner, unit, start, unit.total, enough)
        took = monotonic() - since
        assert took <= self.soon_s, (
            "run() has to look at enough() about every second, and to stop where it is true: "
            f"it went on for {took:.1f} s in {unit.key}"
        )
        return done

    def _pickle(self) -> bytes:
        runner = self.runner()
        try:
            return pickle.dumps(runner)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise AssertionError(
                f"a runner travels to the workers, and has to be pickled for it: {error}"
            ) from error


def _name(piece: Piece) -> tuple[str, int, int]:
    unit, start, stop = piece
    return unit.key, start, stop


def _cut_worked(runner: Runner, cut: Iterable[Iterable[Piece]]) -> list[list[list[bytes]]]:
    return [_all_worked(runner, pieces) for pieces in cut]


class StrategyContract(_Joining):
    """What a strategy keeps to.

    Override `strategy`; `runner` if it reads the results, and `joined` as in `RunnerContract`.
    Campaigns are played to their end some twenty times: let one take a second at most.

    Attributes
    ----------
    most_rounds : int
        Times that it may plan something before its campaign has to be done.
    shuffles : int
        Campaigns that are played in a random order, and as many with stops.
    failures_matter : bool
        Whether it may go on without a unit that was given up, and so end with other units.
    """

    most_rounds = 50
    shuffles = 4
    failures_matter = False

    def strategy(self) -> Strategy:
        """Make the strategy; of the same settings each time."""
        raise NotImplementedError("override strategy(): it makes the strategy that is tested")

    def runner(self) -> Runner:
        """Make the runner that works what it plans; throws dice if not overridden."""
        return DiceRunner()

    def test_it_ends(self) -> None:
        """A campaign begins, and comes to its end."""
        last: list[Unit] = []

        def look(_: Strategy, __: History, units: list[Unit]) -> None:
            last[:] = units

        played = self._play(look=look)
        assert played.units, "plan() has to begin: it gives no unit for an empty history"
        assert not last, (
            "plan() has to come to its end by giving nothing: when all was done it still gave "
            f"{_keys(last)}, which is there already"
        )

    def test_plan_is_pure(self) -> None:
        """Equal histories give equal plans, whoever asks, and however often."""

        def look(strategy: Strategy, history: History, units: list[Unit]) -> None:
            again = list(strategy.plan(_Copy.of(history)))
            assert again == units, (
                "plan() has to give equal units for equal histories, without state of its own: "
                f"asked again it gave {_keys(again)}, not {_keys(units)}"
            )
            anew = list(self.strategy().plan(_Copy.of(history)))
            assert anew == units, (
                "plan() has to depend on settings and history alone, since to start again is to "
                f"resume: a new strategy gave {_keys(anew)}, not {_keys(units)}"
            )

        self._play(look=look)
        self._play(Random(1), look=look)

    def test_process_does_not_matter(self) -> None:
        """The next process gives the same plans."""
        seen: list[tuple[_Copy, list[Unit]]] = []

        def look(_: Strategy, history: History, units: list[Unit]) -> None:
            if units:
                seen.append((_Copy.of(history), units))

        self._play(look=look)
        histories = [history for history, _ in seen]
        found = _elsewhere([self], _planned, type(self), histories)
        for units, plan in zip((units for _, units in seen), found, strict=True):
            assert plan == units, (
                "plan() must not depend on the process (its hashes, the time, its environment): "
                f"another one gave {_keys(plan)}, not {_keys(units)}"
            )

    def test_planning_again_adds_nothing(self) -> None:
        """Planning goes by results, not by how often it is asked for."""

        def look(strategy: Strategy, history: History, units: list[Unit]) -> None:
            again = list(strategy.plan(_Copy.of(history, units)))
            assert not again, (
                "plan() has to give nothing more until there are results, as nobody knows how "
                f"often it is called: after {_keys(units)} it gave {_keys(again)}"
            )

        self._play(Random(2), look=look)

    def test_units_only_grow(self) -> None:
        """What was planned stays as it is, but for its steps, which may become more."""

        def look(_: Strategy, history: History, units: list[Unit]) -> None:
            known = {record.unit.key: record.unit for record in history.records()}
            for unit in units:
                if unit.key in known:
                    _check_growth(known[unit.key], unit)

        self._play(look=look)

    def test_units_are_well_formed(self) -> None:
        """Keys are unique, totals and grains can be worked, titles can be read."""

        def look(_: Strategy, __: History, units: list[Unit]) -> None:
            keys = [unit.key for unit in units]
            assert len(keys) == len(set(keys)), (
                f"the key of a unit has to be unique: one plan holds {', '.join(keys)}"
            )
            for unit in units:
                _check_form(unit)

        self._play(look=look)

    def test_specs_survive_json(self) -> None:
        """A ledger gives back the spec that was planned."""

        def look(_: Strategy, __: History, units: list[Unit]) -> None:
            for unit in units:
                _check_spec(unit)

        self._play(look=look)

    def test_order_of_work_does_not_matter(self) -> None:
        """Workers, blocks and the order of commits change neither units nor results."""
        expected = self._play()
        for seed in range(self.shuffles):
            self._compare(
                self._play(Random(seed)),
                expected,
                "units and results must not depend on the number of workers, the size of blocks "
                "and the order in which they are committed; an open unit may hold any part",
            )

    def test_stops_do_not_matter(self) -> None:
        """To start again is to resume, after Ctrl-C as after a kill."""
        expected = self._play()
        for seed in range(self.shuffles):
            self._compare(
                self._play(Random(seed), stops=6),
                expected,
                "units and results must not depend on when a campaign was stopped and taken up",
            )

    def test_a_unit_that_fails_can_be_taken_up(self) -> None:
        """A campaign ends where a unit was given up; once mended it goes on to the same end."""
        expected = self._play()
        first = next(iter(expected.units), "")
        with open_ledger(MEMORY, _identity()) as ledger:
            with suppress(CampaignError):
                self._go_on(ledger, _FailingRunner(self.runner(), first), Random(1))
            played = self._go_on(ledger, self.runner(), Random(2))
        if not self.failures_matter:
            self._compare(
                played,
                expected,
                "units and results must not depend on whether a unit was given up and taken up "
                "again, unless failures_matter",
            )

    def _play(
        self, dice: Random | None = None, *, stops: int = 0, look: Look | None = None
    ) -> _Played:
        """Play a campaign from its beginning to its end; in good order without dice."""
        with open_ledger(MEMORY, _identity()) as ledger:
            return self._go_on(ledger, self.runner(), dice, stops=stops, look=look)

    def _go_on(
        self,
        ledger: Ledger,
        runner: Runner,
        dice: Random | None,
        *,
        stops: int = 0,
        look: Look | None = None,
    ) -> _Played:
        """Play a campaign from where its ledger is, with a new driver after each stop."""
        told = _Told(dice, stops)
        planner = _Planner(self.strategy, self.most_rounds, look)
        while True:
            planner.begin()
            try:
                drive(ledger, planner, _PlayedLink(runner, dice, told), told)
                break
            except (_CtrlC, _Killed, Interrupted):
                continue
        units = [record.unit for record in ledger.records()]
        return _Played(
            {unit.key: unit for unit in units},
            {
                unit.key: self.joined([result for _, _, result in ledger.results(unit.key)])
                for unit in units
            },
        )

    def _compare(self, played: _Played, expected: _Played, rule: str) -> None:
        strange = [
            key
            for key in {**expected.units, **played.units}
            if played.units.get(key) != expected.units.get(key)
        ]
        assert not strange, (
            f"{rule}: unit {strange[0]} is {played.units.get(strange[0])}, and was "
            f"{expected.units.get(strange[0])} when everything was done in order"
        )
        for key, result in expected.results.items():
            assert played.results[key] == result, f"{rule}: the result of {key} is another"


@dataclass(frozen=True, slots=True)
class _Played:
    """What a campaign ended with, by key."""

    units: dict[str, Unit]
    results: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Copy:
    """A history that stays as it is."""

    kept: list[Record]
    blocks: dict[str, list[tuple[int, int, bytes]]]

    @classmethod
    def of(cls, history: History, more: Iterable[Unit] = ()) -> _Copy:
        """Copy a history, with units planned but not begun."""
        records = {record.unit.key: record for record in history.records()}
        blocks = {key: history.results(key) for key in records}
        for unit in more:
            records[unit.key] = replace(records.get(unit.key, Record(unit, _SEED, 0)), unit=unit)
        return cls(list(records.values()), blocks)

    def records(self) -> list[Record]:
        return copy.deepcopy(self.kept)

    def results(self, key: str, seed: int | None = None) -> list[tuple[int, int, bytes]]:  # noqa: ARG002
        return list(self.blocks.get(key, ()))


class _Planner:
    """The strategy of a played campaign, with somebody who looks at what it plans."""

    def __init__(
        self, strategy: Callable[[], Strategy], most_rounds: int, look: Look | None
    ) -> None:
        self._make, self._most, self._look = strategy, most_rounds, look
        self._rounds = 0

    def begin(self) -> None:
        """Begin with a new strategy, as a new driver does."""
        self._strategy = self._make()

    def plan(self, history: History) -> list[Unit]:
        units = list(self._strategy.plan(history))
        self._rounds += bool(units)
        assert self._rounds <= self._most, (
            "a campaign has to end: plan() has given units more than most_rounds = "
            f"{self._most} times, last {_keys(units)}"
        )
        if self._look is not None:
            self._look(self._strategy, history, units)
        return units


class _CtrlC(KeyboardInterrupt):
    """Somebody at the keyboard of a played campaign."""


class _Killed(BaseException):
    """The driver of a played campaign is gone, and its pool with it."""


class _Told:
    """When a played campaign is stopped, and how."""

    def __init__(self, dice: Random | None, stops: int) -> None:
        self._dice, self._left = dice, stops

    def is_set(self) -> bool:
        """Stop it in good order, sometimes."""
        return self._due()

    def maybe_stop(self) -> None:
        """Stop it rudely, sometimes."""
        if self._dice is not None and self._due():
            raise _CtrlC if self._dice.random() < 0.5 else _Killed

    def _due(self) -> bool:
        if self._dice is None or not self._left or self._dice.random() > _STOP_SHARE:
            return False
        self._left -= 1
        return True


_STOP_SHARE, _LOSS_SHARE, _CUT_SHARE = 0.15, 0.1, 0.3
"""How often a campaign is stopped, a worker is lost, and a block is done in part only."""

_TURNS = 100_000
"""Turns of drains after which a played campaign is taken for endless."""

_SEED = 1


class _PlayedLink:
    """A pool whose drains take turns by the dice, so that everything happens that may.

    Without dice there is one drain, which does one block after the other.
    """

    def __init__(self, runner: Runner, dice: Random | None, told: _Told) -> None:
        self._runner, self._dice, self._told = runner, dice, told
        self._pool = Pool(uuid4().hex[:8])
        self._drains = [str(i) for i in range(dice.choice((1, 2, 3, 7)) if dice else 1)]
        self._held: dict[str, Block] = {}
        self._turns = 0

    def collect(self, written: int, offers: Sequence[Offer], patience_s: float) -> Collected:  # noqa: ARG002
        offers = list(offers)
        if self._dice is not None:
            self._dice.shuffle(offers)
        for unit, done in offers:
            self._pool.offer(unit, done)
        self._pool.collect(written)
        self._told.maybe_stop()
        for _ in range(self._dice.randint(1, 3 * len(self._drains)) if self._dice else 2):
            self._turn(self._dice.choice(self._drains) if self._dice else self._drains[0])
        pool = self._pool
        collected: Collected = late("campaign.link").Collected(
            pool.collect(written), pool.drains, pool.n_lent, pool.free
        )
        return collected

    def interrupt(self) -> None:
        for drain in list(self._held):
            self._turn(drain)

    def close(self) -> None:
        self._held.clear()
        self._pool = Pool(uuid4().hex[:8])

    def _turn(self, drain: str) -> None:
        """Let a drain take a block, or bring the one that it has."""
        self._turns += 1
        assert self._turns < _TURNS, "a campaign has to end: this one does nothing any more"
        block = self._held.pop(drain, None)
        if block is None:
            taken = self._pool.take(drain, f"worker of {drain}", pace=self._pace())
            if isinstance(taken, Block):
                self._held[drain] = taken
            return
        if self._happens(_LOSS_SHARE):
            self._pool.lost(f"worker of {drain}")  # and yet it brings what it has
        stop = block.stop
        if self._dice is not None and self._happens(_CUT_SHARE):
            stop = self._dice.randint(block.start, block.stop)
        try:
            done = self._runner.run(replace(block, stop=stop), _never)
        except _Mishap as error:
            self._pool.fail(block.token, str(error))
        else:
            self._pool.commit(block.token, done, 1.0)

    def _pace(self) -> float:
        """Pace with which a block is all that is left, or a small part of it."""
        share = self._dice.choice((1, 2, 5, 20)) if self._dice else 1
        return 2.0 * self._pool.free / TARGET_S / share

    def _happens(self, share: float) -> bool:
        return self._dice is not None and self._dice.random() < share


@dataclass(frozen=True, slots=True)
class _FailingRunner:
    """A runner that cannot work one unit."""

    runner: Runner
    key: str

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        if block.key == self.key:
            raise _Mishap("made up, to see what follows")
        return self.runner.run(block, enough)


def _identity() -> Identity:
    return Identity("contract", "", {}, hepdask_ml.__version__, (_SEED,))


def _planned(contract: type[StrategyContract], histories: Iterable[History]) -> list[list[Unit]]:
    return [list(contract().strategy().plan(history)) for history in histories]


def _keys(units: Iterable[Unit]) -> str:
    return ", ".join(f"{unit.key} ({unit.total})" for unit in units) or "nothing"


def _check_growth(before: Unit, unit: Unit) -> None:
    assert unit.total >= before.total, (
        f"the total of a unit must not shrink: {unit.key} had {before.total} steps and was planned "
        f"with {unit.total}"
    )
    assert unit.total > before.total, (
        "plan() has to give units that are new or have grown, none that the history has: it gave "
        f"{unit.key} again"
    )
    assert replace(unit, total=before.total) == before, (
        "a unit may be planned again with more steps, and with no other change: "
        f"{unit.key} was {before} and became {unit}"
    )


def _check_spec(unit: Unit) -> None:
    rule = (
        "the spec of a unit has to be what JSON gives back (no tuples, no nan or inf, no arrays, "
        f"keys are str): that of {unit.key} is not"
    )
    try:
        written = json.dumps(dict(unit.spec), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{rule} ({error})") from error
    assert json.loads(written) == unit.spec, f"{rule}: {unit.spec}"


def _check_form(unit: Unit) -> None:
    assert type(unit.key) is str, f"the key of a unit has to be a str: {unit.key!r} is not"
    assert unit.key, "the key of a unit must not be empty"
    for name, value in (("total", unit.total), ("grain", unit.grain)):
        assert type(value) is int, (
            f"the {name} of a unit has to be an int: that of {unit.key} is a {type(value).__name__}"
        )
        assert value > 0, f"the {name} of a unit has to be positive: that of {unit.key} is {value}"
    assert unit.title.strip(), (
        f'a unit has to have a title that people can read, as "toys at mu = 1.2": {unit.key} has '
        "none"
    )


class SiteContract:
    """What a site keeps to.

    Override `site`; its options should ask for one or two workers.

    Attributes
    ----------
    local : bool
        Whether everything runs on this machine, where it has to listen on loopback alone.
    start_s : float
        Time in which a worker has to come, in seconds.
    work_s : float
        Time that a campaign of half a second may take, in seconds.
    close_s : float
        Time in which everything that was started has to be gone afterwards, in seconds.
    """

    local = True
    start_s = 120.0
    work_s = 120.0
    close_s = 20.0

    def site(self, **options: Any) -> Site:
        """Make the site, with these options beside its own."""
        raise NotImplementedError("override site(): it makes the site that is tested")

    def test_opens_into_a_connected_client(self) -> None:
        """Within is a client, connected, and a worker comes."""
        with self.site().open() as client:
            self._wait(client)
        assert client.status == "closed", (
            f"a site has to close its client: afterwards it is {client.status}"
        )

    def test_works_a_campaign(self) -> None:
        """A campaign comes to the right result."""
        units = [
            Unit(key, 200, {"sides": sides}, f"throws of the {key} die")
            for key, sides in (("red", 6), ("green", 20))
        ]
        with self.site().open() as client:
            self._wait(client)
            result = self._campaign(client, units)
        expected = {
            unit.key: b"".join(_worked(DiceRunner(), (unit, 0, unit.total))) for unit in units
        }
        assert result == expected, (
            "a site has to give the results that any other gives: a campaign of dice differs"
        )

    def test_starts_nothing_before_it_is_opened(self) -> None:
        """To make a site costs nothing."""
        with self._all_gone():
            before = _children()
            self.site()
            started = _children() - before
            assert not started, (
                "a site has to start nothing before it is opened: making it started "
                f"{_described(started)}"
            )

    def test_leaves_nothing_behind(self) -> None:
        """Everything is gone that was started, after an error as well; it can be opened again."""
        site, told = self.site(), False
        with self._all_gone() as seen, site.open() as client:
            self._wait(client)
            seen |= _children()
        with self._all_gone() as seen:
            try:
                with site.open() as client:
                    self._wait(client)
                    seen |= _children()
                    raise _Mishap("made up, to see what follows")
            except _Mishap:
                told = True
        assert told, "a site has to let errors pass: it hid one"

    def test_listens_on_loopback_alone(self) -> None:
        """Nobody on the network reaches a place that is local; skipped where ``local`` is false."""
        if not self.local:
            raise SkipTest("not on this machine alone")
        before = _listening()
        with self.site().open() as client:
            self._wait(client)
            strange = {
                f"{address}:{port}"
                for _, address, port in _listening() - before
                if not _loopback(address)
            }
        assert not strange, (
            "a site on this machine has to listen on loopback alone, or anybody on the network "
            f"can run code here: it listens on {', '.join(sorted(strange))}"
        )

    def test_wrong_option_is_an_input_error(self) -> None:
        """Who misspells an option is told."""
        rule = "a site has to raise an InputError that names an option that it does not have"
        said = ""
        try:
            with self.site(no_such_option=1).open():
                pass
        except InputError as error:
            said = str(error)
        except Exception as error:
            raise AssertionError(f"{rule}; it raises {type(error).__name__}: {error}") from error
        assert "no_such_option" in said, f"{rule}; it {f'says {said}' if said else 'opens'}"

    def _wait(self, client: Client) -> None:
        """See that a client is connected, and wait for a worker."""
        assert getattr(client, "status", None) == "running", (
            f"open() has to give a connected distributed.Client, not {client!r}"
        )
        assert not client.asynchronous, "open() has to give a client that is not asynchronous"
        try:
            client.wait_for_workers(1, timeout=self.start_s)
        except TimeoutError:
            raise AssertionError(
                f"workers have to come: after start_s = {self.start_s:g} s there was none"
            ) from None

    def _campaign(self, client: Client, units: Sequence[Unit]) -> Any:
        def results(ledger: Ledger) -> dict[str, bytes]:
            return {
                unit.key: b"".join(result for _, _, result in ledger.results(unit.key))
                for unit in units
            }

        campaign = late("campaign.campaign").Campaign(
            identity=_identity(),
            strategy=_AllAtOnce(units),
            runner=DiceRunner(throw_s=0.001),
            summary=results,
        )
        running = campaign.start(client)
        try:
            return running.result(self.work_s)
        except TimeoutError:
            running.stop()
            raise AssertionError(
                "a site has to work: a campaign of half a second was not done after "
                f"{self.work_s:g} s"
            ) from None

    @contextmanager
    def _all_gone(self) -> Iterator[set[psutil.Process]]:
        """Watch that no process stays; those that are seen within are put into the set."""
        before, seen = _children(), set[psutil.Process]()
        try:
            yield seen
        finally:
            started = (seen | _children()) - before
            _, alive = psutil.wait_procs(started, timeout=self.close_s)
            left = _described(alive)
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        assert not alive, (
            f"a site has to close what it opened: {self.close_s:g} s later there still is {left}"
        )


@dataclass(frozen=True, slots=True)
class _AllAtOnce:
    """A strategy that wants some units."""

    units: Sequence[Unit]

    def plan(self, history: History) -> list[Unit]:
        return [] if history.records() else list(self.units)


def _children() -> set[psutil.Process]:
    """Give the processes below this one, but for the one that Python itself keeps to its end."""
    resource_tracker.ensure_running()
    return set(psutil.Process().children(recursive=True))


def _described(processes: Iterable[psutil.Process]) -> str:
    words = []
    for process in processes:
        try:
            words.append(f"process {process.pid} ({' '.join(process.cmdline())[:100]})")
        except psutil.Error:
            words.append(f"process {process.pid}")
    return ", ".join(words)


def _listening() -> set[tuple[int, str, int]]:
    """Process, address and port of every socket that listens in this process and below it."""
    found = set()
    for process in (psutil.Process(), *_children()):
        with suppress(psutil.NoSuchProcess):
            # psutil 6 has given it another name.
            connections = getattr(process, "net_connections", None) or process.connections
            found |= {
                (process.pid, connection.laddr.ip, connection.laddr.port)
                for connection in connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            }
    return found


def _loopback(address: str) -> bool:
    found = ip_address(address)
    return bool((getattr(found, "ipv4_mapped", None) or found).is_loopback)


def _elsewhere(needs: Iterable[object], function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call a function of this module in another process, which has other hashes.

    The modules of what it ``needs`` need not be installed: test modules are not.
    """
    modules = {
        name: getattr(sys.modules[name], "__file__", None)
        for name in (type(thing).__module__ for thing in needs)
    }
    try:
        call = pickle.dumps(partial(function, *arguments))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise AssertionError(
            f"it has to be usable from another process, at the top of a module of its own: {error}"
        ) from error
    done = subprocess.run(
        [sys.executable, "-c", "from hepdask_ml.testing import _answer; _answer()"],
        input=pickle.dumps((modules, call)),
        capture_output=True,
        timeout=_ANSWER_S,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONHASHSEED": "271828",
        },
    )
    assert done.returncode == 0, (
        "it has to be usable from another process, which failed with "
        f"{done.stderr.decode(errors='replace').strip()[-2000:]}"
    )
    return list(pickle.loads(done.stdout))


def _answer() -> None:
    """Answer `_elsewhere`, in the other process."""
    modules: Mapping[str, str | None]
    modules, call = pickle.load(sys.stdin.buffer)
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever is printed does not disturb
    for name, file in modules.items():
        _import(name, file)
    answers.buffer.write(pickle.dumps(pickle.loads(call)()))


def _import(name: str, file: str | None) -> None:
    """Import a module, from its file if it cannot be found."""
    try:
        import_module(name)
    except ImportError:
        spec = spec_from_file_location(name, file) if file else None
        if spec is None or spec.loader is None:
            raise
        sys.modules[name] = module = module_from_spec(spec)
        spec.loader.exec_module(module)
