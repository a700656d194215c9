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
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from ipaddress import ip_address
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
    [6, 2, 1, 6, 4]
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


class _Mishap(Exception):  # noqa: N818 - it is no error
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
    return [(unit, *ends[i : i + 2]) for i in range(len(ends) - 1)]


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
            middle = unit.total // 2 if not unit.ordered else 0
            self._stopped(self.runner(), replace(unit, total=unit.total), 0, middle)

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
            try:
                done = _run(self.runner(), unit, 0, unit.total)
            except Exception:  # noqa: BLE001, S112 - whatever the author likes
                continue
            raise AssertionError(
                "run() has to raise where a block cannot be worked: for the broken unit "
                f"{unit.key} it returned steps 0 to {done.reached}"
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
            assert self._same(mine, self._whole(unit)), f"{rule}: that of {unit.key} does"

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
            f"run() has to look at enough() about every second, and to stop where it is true: "
            f"it went on for {took:.1f} s in {unit.key}"
        )
        return done

    def _pickle(self) -> bytes:
        try:
            return pickle.dumps(self.runner())
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
    """

    most_rounds = 50
    shuffles = 4

    def strategy(self) -> Strategy:
        """Make the strategy; of the same settings each time."""
        raise NotImplementedError("override strategy(): it makes the strategy that is tested")

    def runner(self) -> Runner:
        """Make the runner that works what it plans; throws dice if not overridden."""
        return DiceRunner()

    def test_it_ends(self) -> None:
        """A campaign begins, and comes to its end."""
        played = self._play()
        assert played.units, "plan() has to begin: it gives no unit for an empty history"

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

        self._play(look=look)
        self._play(Random(2), look=look)

    def test_nothing_is_planned_twice(self) -> None:
        """Units that are there are not planned again, unless with more steps."""

        def look(_: Strategy, history: History, units: list[Unit]) -> None:
            known = _known(history)
            again = [unit for unit in units if known.get(unit.key, unit).total == unit.total]
            again = [unit for unit in again if unit.key in known]
            assert not again, (
                "plan() has to give units that are new or have grown, none that the history has: "
                f"it gave {_keys(again)} again"
            )

        self._play(look=look)

    def test_totals_never_shrink(self) -> None:
        """What was planned stays planned."""

        def look(_: Strategy, history: History, units: list[Unit]) -> None:
            known = _known(history)
            for unit in units:
                before = known.get(unit.key, unit).total
                assert unit.total >= before, (
                    f"the total of a unit must not shrink: {unit.key} had {before} steps and was "
                    f"planned with {unit.total}"
                )

        self._play(look=look)

    def test_a_unit_grows_in_its_total_alone(self) -> None:
        """What a unit is does not change."""

        def look(_: Strategy, history: History, units: list[Unit]) -> None:
            known = _known(history)
            for unit in units:
                before = known.get(unit.key, unit)
                assert replace(unit, total=before.total) == before, (
                    "a unit may be planned again with more steps, and with no other change: "
                    f"{unit.key} was {before} and became {unit}"
                )

        self._play(look=look)

    def test_keys_are_unique(self) -> None:
        """A key names one unit."""

        def look(_: Strategy, __: History, units: list[Unit]) -> None:
            keys = [unit.key for unit in units]
            assert len(keys) == len(set(keys)), (
                f"the key of a unit has to be unique: one plan holds {', '.join(keys)}"
            )

        self._play(look=look)

    def test_specs_survive_json(self) -> None:
        """A ledger gives back the spec that was planned."""
        self._play(look=_each(_check_spec))

    def test_units_are_well_formed(self) -> None:
        """Totals and grains are whole numbers that can be worked."""
        self._play(look=_each(_check_numbers))

    def test_people_can_read_what_is_done(self) -> None:
        """Units have titles in the words of their field."""
        self._play(look=_each(_check_title))

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
        """A campaign ends where a unit was given up; once mended it goes on to its end."""
        first = next(iter(self._play().units), None)
        if first is None:
            return
        with open_ledger(MEMORY, _identity()) as ledger:
            try:
                self._play(Random(1), ledger=ledger, fails=first)
            except CampaignError:
                pass
            self._play(Random(2), ledger=ledger)
            errors = [record for record in ledger.records() if record.error is not None]
            assert not errors, f"{errors[0].unit.key} is given up still: {errors[0].error}"

    def _play(
        self,
        dice: Random | None = None,
        *,
        stops: int = 0,
        look: Look | None = None,
        ledger: Ledger | None = None,
        fails: str | None = None,
    ) -> _Played:
        """Play a campaign to its end; in good order without dice."""
        told = _Told(dice, stops)
        planner = _Planner(self, look)
        book = ledger or open_ledger(MEMORY, _identity())
        while True:
            runner: Runner = _FailingRunner(self.runner(), fails)
            planner.strategy = self.strategy()
            try:
                drive(book, planner, _PlayedLink(runner, dice, told), told)
            except (_CtrlC, _Killed, Interrupted):
                continue
            finally:
                if ledger is None and sys.exception() is None:
                    pass
            break
        played = _Played(
            {record.unit.key: record.unit for record in book.records()},
            {
                record.unit.key: self.joined([r for _, _, r in book.results(record.unit.key)])
                for record in book.records()
            },
        )
        if ledger is None:
            book.close()
        return played

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
