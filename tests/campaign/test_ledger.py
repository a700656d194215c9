"""The ledger keeps every block once, whatever happens to its file, its disk or its writer."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from errno import ENOLCK
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml.campaign import ledger as ledger_module
from hepdask_ml.campaign.ledger import (
    MEMORY,
    Identity,
    Ledger,
    Progress,
    open_ledger,
    read_ledger,
)
from hepdask_ml.campaign.pool import Committed, Event, Failed
from hepdask_ml.campaign.unit import Record, Unit
from hepdask_ml.errors import CampaignError, InputError

WHO = Identity("toys", "digest", {"levels": [0.95], "n_toys": 100}, "1.0", (7,))
UNIT = Unit("u", 1000, {"mu": 1.5}, "toys at mu = 1.5", grain=10)

PRELUDE = """
import os, sys, time
from itertools import count
from hepdask_ml.campaign.ledger import Identity, open_ledger
from hepdask_ml.campaign.pool import Committed
from hepdask_ml.campaign.unit import Unit
from hepdask_ml.errors import CampaignError

who = Identity("toys", "digest", {"levels": [0.95], "n_toys": 100}, "1.0", (7,))
"""
"""Begins the other processes of these tests."""

COME_AND_GO = f"""{PRELUDE}
opened = 0
while opened < 25:
    try:
        ledger = open_ledger(sys.argv[1], who)
    except CampaignError:
        time.sleep(0.001)
        continue
    os.close(os.open(sys.argv[1] + ".inside", os.O_CREAT | os.O_EXCL))
    os.unlink(sys.argv[1] + ".inside")
    ledger.close()
    opened += 1
"""

HOLD = f"""{PRELUDE}
ledger = open_ledger(sys.argv[1], who)
print("ready", flush=True)
time.sleep(600)
"""

WRITE = f"""{PRELUDE}
ledger = open_ledger(sys.argv[1], who)
unit = Unit("u", 10**9)
ledger.add([unit])
at = ledger.records()[0].done
for number in count(1):
    stop = at + 1 + number % 7
    ledger.write([Committed(number, "u", i, i + 1, bytes([i % 256]) * 3000, "w", 0.5)
                  for i in range(at, stop)])
    at = stop
    if number == 1:
        print("ready", flush=True)
    time.sleep(0.002)
"""


def done(start: int, stop: int, result: bytes = b"r", key: str = "u", number: int = 1) -> Committed:
    return Committed(number, key, start, stop, result, "tcp://node:1", 2.0)


def failed(error: str = "no convergence", *, key: str = "u", final: bool = False) -> Failed:
    return Failed(1, key, 0, 10, error, "tcp://node:1", final)


def filled(path: Path, *events: Event) -> Ledger:
    ledger = open_ledger(path, WHO)
    ledger.add([UNIT])
    ledger.write(events)
    return ledger


@contextmanager
def process(script: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a script on a ledger; kill it at the end of the block."""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            yield other
        finally:
            other.kill()


OPENERS: list[Callable[[Path], Ledger]] = [lambda path: open_ledger(path, WHO), read_ledger]


def raw(path: Path, statement: str, *values: Any) -> list[Any]:
    """Work on the file behind the ledger's back."""
    with closing(sqlite3.connect(path)) as db, db:
        return db.execute(statement, values).fetchall()


def check_whole(path: Path) -> None:
    """See that the file is sound, and its blocks tile what it says is done."""
    assert raw(path, "PRAGMA quick_check") == [("ok",)]
    for key, total in raw(path, "SELECT id, done FROM unit"):
        blocks = raw(path, "SELECT start, stop FROM block WHERE unit = ? ORDER BY start", key)
        assert sum(stop - start for start, stop in blocks) == total
        assert all(one[1] <= two[0] for one, two in pairwise(blocks))


class TestBook:
    def test_a_new_one_is_empty(self, tmp_path: Path) -> None:
        with open_ledger(tmp_path / "l", WHO, {"workspace": "w.json"}) as ledger:
            assert ledger.identity == WHO
            assert ledger.facts == {"workspace": "w.json"}
            assert ledger.records() == []
            assert ledger.results("u") == []
            assert ledger.done_ranges() == {}
            assert ledger.progress() == Progress(0, 0, 0, 0, 0.0, None, None)

    def test_what_is_written_is_there_when_it_is_opened_again(self, tmp_path: Path) -> None:
        with filled(tmp_path / "l", done(0, 10, b"\x00a"), done(20, 30), failed()) as ledger:
            name = ledger.campaign
        for reopened in (read_ledger(tmp_path / "l"), open_ledger(tmp_path / "l", WHO)):
            with reopened as ledger:
                assert ledger.campaign == name
                assert ledger.records() == [Record(UNIT, 7, 20)]
                assert ledger.results("u") == [(0, 10, b"\x00a"), (20, 30, b"r")]
                assert ledger.done_ranges() == {"u": [(0, 10), (20, 30)]}
                assert ledger.failures() == [("toys at mu = 1.5", "no convergence", "tcp://node:1")]
                assert ledger.paces() == [("tcp://node:1", 20, 4.0)]
                progress = ledger.progress()
                assert progress == replace(
                    Progress(20, 1000, 2, 1, 4.0, None, None),
                    first=progress.first,
                    last=progress.last,
                )
        assert not (tmp_path / "l.lock").exists()

    def test_names_of_two_ledgers_differ(self) -> None:
        with open_ledger(MEMORY, WHO) as one, open_ledger(MEMORY, WHO) as other:
            assert one.campaign != other.campaign

    @pytest.mark.parametrize("name", ["a b?mode=ro#c%20", "très.ledger", "'; DROP"])
    def test_its_name_may_be_odd(self, tmp_path: Path, name: str) -> None:
        filled(tmp_path / name, done(0, 10)).close()
        assert [path.name for path in tmp_path.iterdir()] == [name]
        with read_ledger(tmp_path / name) as ledger:
            assert ledger.results("u") == [(0, 10, b"r")]

    def test_units_stand_in_the_order_of_planning(self) -> None:
        with open_ledger(MEMORY, WHO) as ledger:
            ledger.add([Unit("z", 1), Unit("m", 1)])
            ledger.add([Unit("a", 1), Unit("z", 5)])
            assert [(record.unit.key, record.unit.total) for record in ledger.records()] == [
                ("z", 5), ("m", 1), ("a", 1),
            ]  # fmt: skip

    def test_a_unit_grows_and_never_shrinks(self) -> None:
        with open_ledger(MEMORY, WHO) as ledger:
            for total in (10, 30, 20):
                ledger.add([Unit("u", total)])
            (record,) = ledger.records()
            assert record.unit.total == 30
            ledger.write([done(0, 30)])
            assert not ledger.records()[0].open
            ledger.add([Unit("u", 31)])
            assert ledger.records()[0].open

    def test_units_are_added_all_or_none(self) -> None:
        with open_ledger(MEMORY, WHO) as ledger:
            with pytest.raises(TypeError):
                ledger.add([Unit("a", 1), Unit("b", 1, {"mu": {1.0}})])
            assert ledger.records() == []

    def test_a_unit_is_given_up_and_taken_up_again(self) -> None:
        with open_ledger(MEMORY, WHO) as ledger:
            ledger.add([UNIT, Unit("v", 5)])
            ledger.write([failed("first"), failed("second", final=True)])
            assert [record.error for record in ledger.records()] == ["second", None]
            assert [record.open for record in ledger.records()] == [False, True]
            ledger.retry()
            assert [record.error for record in ledger.records()] == [None, None]
            assert [error for _, error, _ in ledger.failures()] == ["first", "second"]

    def test_the_same_block_again_is_passed_over(self) -> None:
        with open_ledger(MEMORY, WHO) as ledger:
            ledger.add([UNIT])
            ledger.write([done(0, 10), done(10, 20)])
            ledger.write([done(10, 20), done(0, 10), done(20, 30), done(20, 30)])
            assert ledger.progress().blocks == 3
            assert ledger.records()[0].done == 30

    @pytest.mark.parametrize(
        ("start", "stop"), [(5, 15), (15, 25), (12, 18), (5, 25), (10, 15), (15, 20), (0, 40)]
    )
    def test_overlapping_blocks_are_refused_with_all_that_came_with_them(
        self, start: int, stop: int
    ) -> None:
        with open_ledger(MEMORY, WHO) as ledger:
            ledger.add([UNIT])
            ledger.write([done(10, 20)])
            with pytest.raises(CampaignError, match="has steps 10 to 20 of u already"):
                ledger.write([done(100, 110), failed(final=True), done(start, stop)])
            assert ledger.done_ranges() == {"u": [(10, 20)]}
            assert ledger.records() == [Record(UNIT, 7, 10)]
            assert ledger.failures() == []

    def test_blocks_of_other_units_do_not_overlap(self) -> None:
        with open_ledger(MEMORY, WHO) as ledger:
            ledger.add([UNIT, Unit("v", 20)])
            ledger.write([done(0, 10), done(5, 15, key="v")])
            assert ledger.done_ranges() == {"u": [(0, 10)], "v": [(5, 15)]}

    def test_results_of_units_that_were_never_planned_here_are_passed_over(self) -> None:
        """A pool may know more than a ledger that was restored from an older copy."""
        with open_ledger(MEMORY, WHO) as ledger:
            ledger.add([Unit("u", 20)])
            ledger.write([done(0, 10, key="x"), failed(key="x"), done(15, 25), done(0, 10)])
            assert ledger.done_ranges() == {"u": [(0, 10)]}
            assert ledger.records() == [Record(Unit("u", 20), 7, 10)]

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_the_order_of_writing_leaves_no_trace(self, data: st.DataObject) -> None:
        cuts = sorted(data.draw(st.sets(st.integers(0, 60), min_size=2, max_size=12)))
        blocks = [done(start, stop, bytes(range(start, stop))) for start, stop in pairwise(cuts)]
        kept = data.draw(st.lists(st.sampled_from(blocks), unique=True, min_size=1))
        expected: set[int] = set()
        for block in kept:
            expected.update(block.result)
        with open_ledger(MEMORY, WHO) as one, open_ledger(MEMORY, WHO) as other:
            for ledger, events in ((one, kept), (other, data.draw(st.permutations(kept)))):
                ledger.add([UNIT])
                rest = list(events)
                while rest:
                    n = data.draw(st.integers(1, len(rest)))
                    ledger.write(rest[:n])
                    del rest[:n]
            assert one.results("u") == other.results("u")
            assert one.done_ranges() == other.done_ranges()
            assert one.records() == other.records()
            ranges = one.done_ranges()["u"]
            assert {i for start, stop in ranges for i in range(start, stop)} == expected
            assert all(a[1] < b[0] for a, b in pairwise(ranges))
            assert b"".join(r for _, _, r in one.results("u")) == bytes(sorted(expected))


class TestIdentity:
    @pytest.mark.parametrize(
        ("asked", "words"),
        [
            (replace(WHO, kind="training"), "with work of the kind toys, not training"),
            (replace(WHO, version="2.0"), "with toys of hepdask-ml 1.0, not 2.0"),
            (replace(WHO, content="another"), "with another model or other data"),
            (
                replace(WHO, configuration={**WHO.configuration, "n_toys": 200}),
                "with n toys 100, not 200",
            ),
            (
                replace(WHO, configuration={**WHO.configuration, "strategy": "grid"}),
                "with strategy None, not grid",
            ),
            (replace(WHO, configuration={"n_toys": 100}), r"with levels \[0.95\], not None"),
            (replace(WHO, seeds=(8,)), "with seed 7, not 8"),
        ],
    )
    def test_other_work_is_refused_in_one_sentence(
        self, tmp_path: Path, asked: Identity, words: str
    ) -> None:
        filled(tmp_path / "l", done(0, 10)).close()
        before = (tmp_path / "l").read_bytes()
        with pytest.raises(InputError, match=rf"^{tmp_path / 'l'} is a ledger {words}: start"):
            open_ledger(tmp_path / "l", asked)
        assert (tmp_path / "l").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["l"]
        open_ledger(tmp_path / "l", WHO).close()

    def test_the_order_of_settings_is_no_difference(self, tmp_path: Path) -> None:
        filled(tmp_path / "l").close()
        turned = dict(reversed(list(WHO.configuration.items())))
        open_ledger(tmp_path / "l", replace(WHO, configuration=turned)).close()

    def test_a_ledger_of_another_format_names_the_version_that_reads_it(
        self, tmp_path: Path
    ) -> None:
        filled(tmp_path / "l").close()
        raw(tmp_path / "l", "UPDATE identity SET schema = 99")
        for opened in OPENERS:
            with pytest.raises(InputError, match=r"of format 99, .* use hepdask-ml 1\.0"):
                opened(tmp_path / "l")

    def test_a_merged_ledger_can_be_read_but_not_run(self, tmp_path: Path) -> None:
        filled(tmp_path / "l").close()
        raw(tmp_path / "l", "UPDATE identity SET seeds = '[7, 8]'")
        with pytest.raises(InputError, match=r"with the seeds 7, 8\W.* can be reported"):
            open_ledger(tmp_path / "l", WHO)
        with read_ledger(tmp_path / "l") as ledger:
            assert ledger.identity.seeds == (7, 8)


class TestWriters:
    def test_a_second_one_is_refused_and_told_which_process_is_the_first(
        self, tmp_path: Path
    ) -> None:
        with process(HOLD, tmp_path / "l") as other:
            with pytest.raises(CampaignError, match=rf"written by process {other.pid} on .*: wait"):
                open_ledger(tmp_path / "l", WHO)
            with read_ledger(tmp_path / "l") as ledger:
                assert ledger.identity == WHO

    def test_also_in_the_same_process(self, tmp_path: Path) -> None:
        with filled(tmp_path / "l") as first:
            with pytest.raises(CampaignError, match=f"process {os.getpid()} on"):
                open_ledger(tmp_path / "l", WHO)
            first.write([done(0, 10)])
        open_ledger(tmp_path / "l", WHO).close()

    def test_what_a_killed_one_leaves_behind_stops_nobody(self, tmp_path: Path) -> None:
        with process(HOLD, tmp_path / "l") as other:
            other.kill()
            other.wait()
        assert (tmp_path / "l.lock").exists()
        filled(tmp_path / "l", done(0, 10)).close()
        assert not (tmp_path / "l.lock").exists()

    def test_never_two_at_once_however_many_come_and_go(self, tmp_path: Path) -> None:
        open_ledger(tmp_path / "l", WHO).close()
        others = [
            subprocess.Popen(
                [sys.executable, "-c", COME_AND_GO, str(tmp_path / "l")],
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for other in others:
            _, errors = other.communicate()
            assert (other.returncode, errors) == (0, "")
        assert [path.name for path in tmp_path.iterdir()] == ["l"]

    def test_where_locks_do_not_work_the_older_one_stops(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger_module, "flock", lambda *_: None)
        older, newer = filled(tmp_path / "l", done(0, 10)), open_ledger(tmp_path / "l", WHO)
        newer.write([done(10, 20)])
        words = rf"taken over by process {os.getpid()} on .*: this one stops"
        with pytest.raises(CampaignError, match=words):
            older.write([done(20, 30)])
        with pytest.raises(CampaignError, match=words):
            older.add([Unit("v", 5)])
        with pytest.raises(CampaignError, match=words):
            older.retry()
        assert older.done_ranges() == newer.done_ranges() == {"u": [(0, 20)]}
        assert newer.records() == [Record(UNIT, 7, 20)]
        older.close()
        newer.write([done(20, 30)])
        newer.close()

    def test_where_there_are_no_locks_at_all_it_can_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def flock(*_: object) -> None:
            raise OSError(ENOLCK, os.strerror(ENOLCK))

        monkeypatch.setattr(ledger_module, "flock", flock)
        with filled(tmp_path / "l", done(0, 10)) as ledger:
            assert ledger.progress().done == 10

    def test_a_take_over_that_fails_leaves_the_writer_in_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger_module, "flock", lambda *_: None)

        def refuse(action: int, table: str | None, *_: str | None) -> int:
            refused = action == sqlite3.SQLITE_INSERT and table == "writer"
            return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

        with filled(tmp_path / "l") as first:
            second = read_ledger(tmp_path / "l")
            second.close()
            second._db = sqlite3.connect(tmp_path / "l", isolation_level=None)
            second._db.set_authorizer(refuse)
            with pytest.raises(InputError):
                second.take_over({})
            second.close()
            first.write([done(0, 10)])
            assert first.progress().done == 10

    def test_it_is_read_while_it_is_written(self, tmp_path: Path) -> None:
        with process(WRITE, tmp_path / "l"):
            seen = 0
            while seen < 60:
                with read_ledger(tmp_path / "l") as ledger:
                    results = ledger.results("u")
                    assert [i for i, _, _ in results] == list(range(len(results)))
                    assert len(results) >= seen
                    assert ledger.records()[0].done >= len(results)
                    seen = len(results)

    def test_a_writer_killed_in_the_middle_loses_nothing_that_it_had_written(
        self, tmp_path: Path
    ) -> None:
        path, before = tmp_path / "l", 0
        for i in range(6):
            with process(WRITE, path) as other:
                time.sleep(0.05 + 0.017 * i)
                other.send_signal(signal.SIGKILL)
                other.wait()
            with open_ledger(path, WHO) as ledger:
                results = ledger.results("u")
                assert [(a, b) for a, b, _ in results] == [(i, i + 1) for i in range(len(results))]
                assert ledger.records()[0].done == len(results) >= before
                before = len(results)
            check_whole(path)
        assert before >= 6


class TestDisk:
    def test_a_full_one_rolls_the_whole_transaction_back(self, tmp_path: Path) -> None:
        with filled(tmp_path / "l", done(0, 10)) as ledger:
            (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
            ledger._db.execute(f"PRAGMA max_page_count = {pages + 2}")
            with pytest.raises(CampaignError, match=r"cannot be written .*: what was .* make room"):
                ledger.write([failed(final=True), done(10, 20), done(20, 30, bytes(100_000))])
            assert ledger.done_ranges() == {"u": [(0, 10)]}
            assert ledger.failures() == []
            assert ledger.records() == [Record(UNIT, 7, 10)]
            ledger._db.execute(f"PRAGMA max_page_count = {pages + 100}")
            ledger.write([done(10, 20), done(20, 30, bytes(100_000))])
        check_whole(tmp_path / "l")

    def write_on(self, ledger: Ledger) -> None:
        for start in count(10, step=10):
            ledger.write([done(start, start + 10, bytes(10_000))])
            assert start < 1000

    @pytest.fixture
    def small_disk(self, tmp_path: Path) -> Iterator[Path]:
        folder = tmp_path / "disk"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
        with suppress(FileNotFoundError):
            if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
                yield folder
                subprocess.run(["umount", str(folder)], check=True)
                return
        pytest.skip("cannot mount a file system")

    def test_a_real_one_too(self, small_disk: Path) -> None:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(200_000))
        with filled(small_disk / "l", done(0, 10)) as ledger:
            with pytest.raises(CampaignError, match="make room on the disk and run again"):
                self.write_on(ledger)
            written = ledger.records()[0].done
            assert ledger.done_ranges() == {"u": [(0, written)]}
            ballast.unlink()
            ledger.write([done(written, written + 10, bytes(10_000))])
        check_whole(small_disk / "l")
        ballast.write_bytes(bytes(100_000))
        with suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1000))
        with read_ledger(small_disk / "l") as ledger:
            assert ledger.progress().done == written + 10
        with pytest.raises((CampaignError, InputError), match="cannot be written"):
            open_ledger(small_disk / "new", WHO)
        ballast.unlink()
        with open_ledger(small_disk / "l", WHO) as ledger:
            assert ledger.progress().done == written + 10


class TestFile:
    @pytest.mark.parametrize("opened", OPENERS)
    def test_a_cut_one_is_damaged(self, tmp_path: Path, opened: Callable[[Path], Ledger]) -> None:
        filled(tmp_path / "l", *(done(i, i + 10, bytes(3000)) for i in range(0, 100, 10))).close()
        whole = (tmp_path / "l").read_bytes()
        for size in (2, 50, 100, 4096, 5000, len(whole) // 2, len(whole) - 4096):
            (tmp_path / "l").write_bytes(whole[:size])
            with pytest.raises(InputError, match="is damaged: restore it from a copy"):
                opened(tmp_path / "l")

    def test_wherever_it_is_cut_or_changed_nothing_false_is_read(self, tmp_path: Path) -> None:
        events = [done(i, i + 10, os.urandom(3000)) for i in range(0, 100, 10)]
        filled(tmp_path / "l", *events).close()
        whole = (tmp_path / "l").read_bytes()
        for size in range(len(whole) - 4096, len(whole), 97):
            (tmp_path / "l").write_bytes(whole[:size])
            with suppress(InputError), open_ledger(tmp_path / "l", WHO) as ledger:
                assert ledger.results("u") == [(e.start, e.stop, e.result) for e in events]

    @pytest.mark.parametrize("opened", OPENERS)
    @pytest.mark.parametrize("content", [b"kind: toy-limit\n" * 100, bytes(10_000), b"xy"])
    def test_one_that_is_no_database_is_left_alone(
        self, tmp_path: Path, opened: Callable[[Path], Ledger], content: bytes
    ) -> None:
        (tmp_path / "l").write_bytes(content)
        with pytest.raises(InputError, match="is damaged: restore it from a copy"):
            opened(tmp_path / "l")
        assert (tmp_path / "l").read_bytes() == content
        assert [path.name for path in tmp_path.iterdir()] == ["l"]

    def test_an_empty_one_becomes_a_ledger(self, tmp_path: Path) -> None:
        (tmp_path / "l").touch()
        with pytest.raises(InputError, match="is no ledger of hepdask-ml"):
            read_ledger(tmp_path / "l")
        filled(tmp_path / "l", done(0, 10)).close()
        check_whole(tmp_path / "l")

    @pytest.mark.parametrize("opened", OPENERS)
    @pytest.mark.parametrize("mode", ["DELETE", "WAL"])
    def test_another_database_is_left_alone(
        self, tmp_path: Path, opened: Callable[[Path], Ledger], mode: str
    ) -> None:
        raw(tmp_path / "l", f"PRAGMA journal_mode = {mode}")
        raw(tmp_path / "l", "CREATE TABLE identity (schema INTEGER)")
        before = (tmp_path / "l").read_bytes()
        with pytest.raises(InputError, match="is no ledger of hepdask-ml: give another file"):
            opened(tmp_path / "l")
        assert (tmp_path / "l").read_bytes() == before

    def test_a_folder_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"cannot be (opened|written) .*: choose a file"):
            open_ledger(tmp_path, WHO)
        with pytest.raises(InputError, match="is not there: give the file of a ledger"):
            read_ledger(tmp_path)

    def test_its_folder_is_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "nowhere" / "l"
        with pytest.raises(InputError, match=r"cannot be written \(No such file or directory\)"):
            open_ledger(path, WHO)
        with pytest.raises(InputError, match="is not there: give the file of a ledger"):
            read_ledger(path)

    def test_its_folder_cannot_be_written(self, tmp_path: Path) -> None:
        filled(tmp_path / "l", done(0, 10)).close()
        tmp_path.chmod(0o500)
        try:
            if os.access(tmp_path, os.W_OK):  # root may write everywhere, but not there
                with pytest.raises(InputError, match=r"/proc/l cannot be written"):
                    open_ledger("/proc/l", WHO)
                return
            with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
                open_ledger(tmp_path / "l", WHO)
            with read_ledger(tmp_path / "l") as ledger:
                assert ledger.progress().done == 10
        finally:
            tmp_path.chmod(0o700)

    def test_a_changed_result_is_noticed(self, tmp_path: Path) -> None:
        filled(tmp_path / "l", done(0, 10, b"good"), done(10, 20, b"good")).close()
        raw(tmp_path / "l", "UPDATE block SET result = ? WHERE start = 10", b"gold")
        with read_ledger(tmp_path / "l") as ledger:
            with pytest.raises(InputError, match="damaged in steps 10 to 20 of u: restore it"):
                ledger.results("u")
            assert ledger.done_ranges() == {"u": [(0, 20)]}

    def test_one_left_in_the_middle_of_a_write_is_mended_by_its_next_writer(
        self, tmp_path: Path
    ) -> None:
        """Its journal lies beside it; a reader must not play it back, maybe its writer lives."""
        filled(tmp_path / "l", done(0, 10)).close()
        with closing(sqlite3.connect(tmp_path / "l", isolation_level=None)) as db:
            db.execute("PRAGMA cache_size = 1")
            db.execute("BEGIN IMMEDIATE")
            db.execute("UPDATE unit SET done = 500, title = ?", ("x" * 200_000,))
            db.execute("CREATE TABLE more AS SELECT * FROM unit")
            copy = tmp_path / "copy"
            copy.write_bytes((tmp_path / "l").read_bytes())
            (tmp_path / "copy-journal").write_bytes((tmp_path / "l-journal").read_bytes())
        assert copy.read_bytes() != (tmp_path / "l").read_bytes()
        with pytest.raises(InputError, match="run the campaign again"):
            read_ledger(copy)
        for _ in range(2):
            with open_ledger(copy, WHO) as ledger:
                assert ledger.records() == [Record(UNIT, 7, 10)]
            with read_ledger(copy) as ledger:
                assert ledger.results("u") == [(0, 10, b"r")]
        check_whole(copy)
