"""A campaign ends with the same results, whoever works it and however often it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
from campaign.made_up_work import WHO, MadeUpRunner, OneRound, Rounds, joined, result_of
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml.campaign import driver
from hepdask_ml.campaign.driver import drive
from hepdask_ml.campaign.ledger import MEMORY, Ledger, open_ledger
from hepdask_ml.campaign.link import Collected, LocalLink
from hepdask_ml.campaign.pool import Pool
from hepdask_ml.campaign.unit import Block, Done, History, Record, Unit
from hepdask_ml.errors import CampaignError, GpuError, Interrupted, SiteError, WorkerFault

if TYPE_CHECKING:
    from hepdask_ml.campaign.link import Offer

NEVER = threading.Event()


class After:
    """Tells to stop after some rounds."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def is_set(self) -> bool:
        self.rounds -= 1
        return self.rounds < 0


def new_ledger() -> Ledger:
    return open_ledger(MEMORY, WHO)


def check_complete(ledger: Ledger) -> None:
    expected = Rounds().expected()
    assert {record.unit.key for record in ledger.records()} == expected.keys()
    assert {key: joined(ledger, key) for key in expected} == expected
    assert not any(record.open for record in ledger.records())


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("target_s", [1e-6, 1e-4, 30.0])
def test_threads_and_times_change_no_result(threads: int, target_s: float) -> None:
    with new_ledger() as ledger:
        drive(ledger, Rounds(), LocalLink(MadeUpRunner(), threads, target_s), NEVER)
        check_complete(ledger)
        assert ledger.failures() == []


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    stops=st.lists(st.integers(0, 6), max_size=4),
    threads=st.integers(1, 4),
    target_s=st.sampled_from([1e-6, 1e-5, 1.0]),
)
def test_stopping_anywhere_any_number_of_times_changes_no_result(
    seed: int, stops: list[int], threads: int, target_s: float
) -> None:
    moody = Random(seed)
    with new_ledger() as ledger:
        before: dict[str, list[tuple[int, int, bytes]]] = {}
        for rounds in stops:
            with suppress(Interrupted):
                link = LocalLink(MadeUpRunner(moody), threads, target_s)
                drive(ledger, Rounds(), link, After(rounds))
            # What is in the ledger stays there.
            for key, blocks in before.items():
                assert set(blocks) <= set(ledger.results(key))
            before = {r.unit.key: ledger.results(r.unit.key) for r in ledger.records()}
        drive(ledger, Rounds(), LocalLink(MadeUpRunner(moody), threads, target_s), NEVER)
        check_complete(ledger)


def test_what_the_workers_hold_is_written_when_it_is_stopped() -> None:
    class Patient:
        """Works until it is told to stop."""

        begun = threading.Semaphore(0)

        def run(self, block: Block, enough: Callable[[], bool]) -> Done:
            self.begun.release()
            while not enough():
                NEVER.wait(0.001)
            return Done(block.start + 3, result_of(block.key, block.start, block.start + 3))

    class Begun:
        def is_set(self) -> bool:
            return all(Patient.begun.acquire() for _ in range(2))

    with new_ledger() as ledger:
        link = LocalLink(Patient(), 2)
        with pytest.raises(Interrupted):
            drive(ledger, OneRound(Unit("u", 100, grain=10)), link, Begun())
        assert ledger.done_ranges() == {"u": [(0, 3), (10, 13)]}
        assert all(not thread.is_alive() for thread in link._threads)
        drive(ledger, OneRound(), LocalLink(MadeUpRunner(), 2), NEVER)
        assert joined(ledger, "u") == result_of("u", 0, 100)


CAMPAIGN = """
import sys, threading, time
from campaign.made_up_work import WHO, MadeUpRunner, Rounds
from hepdask_ml.campaign.driver import drive
from hepdask_ml.campaign.ledger import open_ledger
from hepdask_ml.campaign.link import LocalLink

class Slow(MadeUpRunner):
    def run(self, block, enough):
        time.sleep(0.01)
        return super().run(block, enough)

with open_ledger(sys.argv[1], WHO) as ledger:
    drive(ledger, Rounds(), LocalLink(Slow(), 2, 1e-6), threading.Event(),
          lambda *_: print("round", flush=True))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_process_stopped_at_any_moment_has_lost_nothing(
    tmp_path: Path, how: signal.Signals
) -> None:
    path = tmp_path / "l"
    tests = str(Path(__file__).parents[1])
    for rounds in (1, 5):
        with subprocess.Popen(
            [sys.executable, "-c", CAMPAIGN, str(path)],
            env={**os.environ, "PYTHONPATH": tests},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdout is not None
            assert [other.stdout.readline() for _ in range(rounds)] == ["round\n"] * rounds
            other.send_signal(how)
            _, errors = other.communicate(timeout=60.0)
        assert other.returncode == -how
        assert how == signal.SIGKILL or errors.endswith("KeyboardInterrupt\n")
    with open_ledger(path, WHO) as ledger:
        assert ledger.progress().done > 0
        drive(ledger, Rounds(), LocalLink(MadeUpRunner(), 2), NEVER)
        check_complete(ledger)


def test_an_interrupt_of_the_keyboard_keeps_what_was_done() -> None:
    def press(_: Ledger, collected: Collected) -> None:
        if collected.events:
            raise KeyboardInterrupt

    with new_ledger() as ledger:
        link = LocalLink(MadeUpRunner(), 2, 1e-6)
        with pytest.raises(KeyboardInterrupt):
            drive(ledger, Rounds(), link, NEVER, press)
        assert ledger.progress().blocks > 0
        drive(ledger, Rounds(), LocalLink(MadeUpRunner(), 2), NEVER)
        check_complete(ledger)


def test_planning_again_adds_nothing() -> None:
    with new_ledger() as ledger:
        drive(ledger, Rounds(), LocalLink(MadeUpRunner(), 2), NEVER)
        blocks = ledger.progress().blocks
        assert Rounds().plan(ledger) == []
        runner = MadeUpRunner()
        drive(ledger, Rounds(), LocalLink(runner, 2), NEVER)
        assert ledger.progress().blocks == blocks
        assert runner.runs == []


def test_whoever_watches_sees_every_round() -> None:
    seen = []
    with new_ledger() as ledger:
        link = LocalLink(MadeUpRunner(), 2, 1e-6)
        drive(ledger, Rounds(), link, NEVER, lambda book, _: seen.append(book.progress().done))
        assert seen == sorted(seen)
        assert seen[-1] == ledger.progress().total


def test_an_error_or_two_in_a_block_are_forgiven() -> None:
    with new_ledger() as ledger:
        runner = MadeUpRunner(broken={"ada": 1, "bob": 2})
        drive(ledger, Rounds(), LocalLink(runner, 1), NEVER)
        check_complete(ledger)
        assert ledger.failures() == [
            ("made-up ada", "RuntimeError: step 0 went wrong", "0"),
            ("made-up bob", "RuntimeError: step 0 went wrong", "0"),
            ("made-up bob", "RuntimeError: step 0 went wrong", "0"),
        ]


def test_a_unit_that_always_fails_stops_no_other() -> None:
    units = [Unit("bad", 10, title="toys at mu = 1"), Unit("good", 50), Unit("fine", 50)]
    with new_ledger() as ledger:
        runner = MadeUpRunner(broken={"bad": 1000})
        words = r"^1 of the units failed, first toys at mu = 1 \(RuntimeError: step 0 went wrong\)"
        with pytest.raises(CampaignError, match=words):
            drive(ledger, OneRound(*units), LocalLink(runner, 2), NEVER)
        assert joined(ledger, "good") == result_of("good", 0, 50)
        assert joined(ledger, "fine") == result_of("fine", 0, 50)
        assert ledger.records()[0] == Record(units[0], 1, 0, "RuntimeError: step 0 went wrong")
        drive(ledger, OneRound(*units), LocalLink(MadeUpRunner(), 2), NEVER)
        assert joined(ledger, "bad") == result_of("bad", 0, 10)


class Faulty(MadeUpRunner):
    """Cannot work in some threads; in others not before these have tried."""

    def __init__(self, threads: int, error: WorkerFault) -> None:
        super().__init__()
        self.left = threads
        self.tried = threading.Event()
        self.error = error

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        with self.lock:
            mine = self.left > 0
            self.left -= mine
            if not self.left:
                self.tried.set()
        if mine:
            raise self.error
        self.tried.wait()
        return super().run(block, enough)


def test_a_thread_that_cannot_work_leaves_it_to_the_others() -> None:
    seen = set[tuple[str, ...]]()
    with new_ledger() as ledger:
        runner = Faulty(2, GpuError("out of\nmemory."))
        link = LocalLink(runner, 3, 1e-5)
        drive(ledger, Rounds(), link, NEVER, lambda _, collected: seen.add(collected.faults))
        check_complete(ledger)
        assert ledger.failures() == []
    assert ("a thread of this process cannot work: out of memory",) in seen
    assert sum(thread.is_alive() for thread in link._threads) <= 1


@pytest.mark.parametrize("threads", [1, 4])
def test_where_no_thread_can_work_the_campaign_ends_and_can_go_on(threads: int) -> None:
    with new_ledger() as ledger:
        with pytest.raises(Interrupted):
            drive(ledger, Rounds(), LocalLink(MadeUpRunner(), 2, 1e-6), After(0))
        done = ledger.done_ranges()
        with pytest.raises(SiteError) as useless:
            drive(ledger, Rounds(), LocalLink(Faulty(threads, WorkerFault()), threads), NEVER)
        assert str(useless.value) == (
            "no worker can be used (a thread of this process cannot work: WorkerFault): what was "
            "committed is in the ledger, mend the cause and run again"
        )
        assert ledger.failures() == []
        assert ledger.done_ranges() == done
        drive(ledger, Rounds(), LocalLink(MadeUpRunner(), 2), NEVER)
        check_complete(ledger)


def test_what_was_done_before_a_fault_is_kept() -> None:
    class Breaks:
        """Gives what it has when its GPU is lost, and says so afterwards."""

        works = True

        def run(self, block: Block, enough: Callable[[], bool]) -> Done:
            if not self.works:
                raise GpuError("lost")
            self.works = False
            return Done(block.start + 3, result_of(block.key, block.start, block.start + 3))

    with new_ledger() as ledger:
        unit = Unit("u", 10, grain=10)
        with pytest.raises(SiteError, match="lost"):
            drive(ledger, OneRound(unit), LocalLink(Breaks(), 1), NEVER)
        assert ledger.done_ranges() == {"u": [(0, 3)]}
        drive(ledger, OneRound(unit), LocalLink(MadeUpRunner(), 1), NEVER)
        assert joined(ledger, "u") == result_of("u", 0, 10)


@pytest.mark.parametrize(
    ("answer", "words"),
    [(None, "AttributeError"), (Done(10, "text"), "TypeError"), (Done(11, b""), "the runner says")],  # type: ignore[arg-type]
)
def test_a_runner_that_answers_nonsense_is_named(answer: Done, words: str) -> None:
    class Careless:
        def run(self, block: Block, enough: Callable[[], bool]) -> Done:
            return answer

    with new_ledger() as ledger, pytest.raises(CampaignError, match=rf"first u \({words}"):
        drive(ledger, OneRound(Unit("u", 10, grain=10)), LocalLink(Careless(), 2), NEVER)


def test_a_runner_may_answer_with_numbers_and_bytes_of_other_kinds() -> None:
    class Arrays:
        def run(self, block: Block, enough: Callable[[], bool]) -> Done:
            result = bytearray(result_of(block.key, block.start, block.stop))
            return Done(np.int64(block.stop), memoryview(result))  # type: ignore[arg-type]

    with new_ledger() as ledger:
        drive(ledger, OneRound(Unit("u", 10)), LocalLink(Arrays(), 2), NEVER)
        assert joined(ledger, "u") == result_of("u", 0, 10)


def test_a_full_disk_stops_it_until_there_is_room() -> None:
    units = [Unit("u", 30_000)]
    with new_ledger() as ledger:
        (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
        ledger._db.execute(f"PRAGMA max_page_count = {pages + 20}")
        link = LocalLink(MadeUpRunner(), 1, 1e-3)
        with pytest.raises(CampaignError, match="make room on the disk and run again"):
            drive(ledger, OneRound(*units), link, NEVER)
        link.close()
        ledger._db.execute("PRAGMA max_page_count = 1000000")
        drive(ledger, OneRound(*units), LocalLink(MadeUpRunner(), 1), NEVER)
        assert joined(ledger, "u") == result_of("u", 0, 30_000)


class OldPool:
    """A pool that outlived its driver, and is worked while the next one collects."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.closed = 0

    def collect(self, written: int, offers: Sequence[Offer], patience_s: float) -> Collected:
        for unit, done in offers:
            self.pool.offer(unit, done)
        events = self.pool.collect(written)
        if not events:
            self.work()
            events = self.pool.collect(written)
        return Collected(events, self.pool.drains, self.pool.n_lent, self.pool.free)

    def work(self) -> None:
        while isinstance(block := self.pool.take("drain", "worker"), Block):
            result = result_of(block.key, block.start, block.stop)
            self.pool.commit(block.token, Done(block.stop, result), 1.0)

    def interrupt(self) -> None:
        """Nobody works while nobody collects."""

    def close(self) -> None:
        self.closed += 1
        assert self.closed < 5
        self.pool = Pool(f"pool {self.closed}")


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_what_an_old_pool_takes_for_done_is_done_again(kept: int) -> None:
    """The ledger was restored from an older copy; the pool still has the last ``kept`` blocks."""
    unit = Unit("u", 50, grain=10)
    link = OldPool(Pool("old"))
    link.pool.offer(unit)
    link.work()
    link.pool.collect(link.pool.events[-1].number - kept)
    with new_ledger() as ledger:
        drive(ledger, OneRound(unit), link, NEVER)
        assert joined(ledger, "u") == result_of("u", 0, 50)
        assert link.closed == 2  # once in between, once at the end


def test_a_new_driver_takes_what_the_old_one_left_in_the_pool() -> None:
    unit = Unit("u", 50, grain=10)
    link = OldPool(Pool("old"))
    with new_ledger() as ledger:
        with pytest.raises(Interrupted):
            drive(ledger, OneRound(unit), link, After(0))
        assert ledger.done_ranges() == {"u": [(0, 50)]}
        drive(ledger, OneRound(unit), link, NEVER)
        assert ledger.progress().blocks == 5


def test_results_that_belong_to_no_unit_of_this_ledger_are_passed_over() -> None:
    link = OldPool(Pool("old"))
    link.pool.offer(Unit("later", 30, grain=10))
    link.pool.offer(Unit("u", 100, grain=10), [(0, 50)])
    link.work()
    with new_ledger() as ledger:
        drive(ledger, OneRound(Unit("u", 50, grain=10)), link, NEVER)
        assert [record.unit.key for record in ledger.records()] == ["u"]
        assert joined(ledger, "u") == result_of("u", 0, 50)


def test_an_interrupt_reaches_a_thread_that_is_about_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has asked whether to go just before it was told to."""
    link = LocalLink(MadeUpRunner(), 0)
    link._going = True
    answers = []
    asker = threading.Thread(
        target=lambda: answers.append(link._ask({"drain": "d", "worker": "w", "leaving": False})),
        daemon=True,
    )
    asker.start()
    asker.join(10.0)
    assert answers == [{"leave": "asked"}]


def test_the_driver_looks_up_twice_a_second() -> None:
    assert driver.PATIENCE_S <= 0.5


class Arriving:
    """Plans a unit for each input that has come; one comes every few looks."""

    def __init__(self, inputs: int, looks: int) -> None:
        self.inputs, self.looks, self.asked = inputs, looks, 0

    def expects(self, history: History) -> bool:
        self.asked += 1
        return self.asked // self.looks < self.inputs

    def plan(self, history: History) -> list[Unit]:
        known = len(history.records())
        there = min(self.inputs, self.asked // self.looks)
        return [Unit(f"input{i}", 40, grain=10) for i in range(known, there)]


@pytest.mark.parametrize("looks", [1, 2, 5])
def test_units_may_come_while_nothing_is_open(looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "PATIENCE_S", 0.01)
    with new_ledger() as ledger:
        drive(ledger, Arriving(4, looks), LocalLink(MadeUpRunner(), 2), NEVER)
        assert [record.unit.key for record in ledger.records()] == [f"input{i}" for i in range(4)]
        for record in ledger.records():
            assert joined(ledger, record.unit.key) == result_of(record.unit.key, 0, 40)


def test_who_waits_for_inputs_can_be_stopped() -> None:
    with new_ledger() as ledger:
        with pytest.raises(Interrupted):
            drive(ledger, Arriving(1, 10**6), LocalLink(MadeUpRunner(), 2), After(2))
        assert ledger.records() == []
