"""Drivers and schedulers that die, full disks, and ledgers that are damaged or of another."""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from random import Random
from time import monotonic, sleep
from typing import TYPE_CHECKING

import psutil
import pytest
from stories.campaigner import ERROR, INTERRUPTED
from stories.processes import Place, Process, drains
from stories.work import DEADLINE_S, Book, Rounds, wait_for

from hepdask_ml.errors import InputError, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LONG = Rounds(units=3, steps=10_000, rounds=2)


def sentence(driver: Process, *words: str) -> None:
    """See that a driver ended with one sentence of ours, in one line and without a traceback."""
    assert driver.wait() == ERROR, driver.output
    assert re.fullmatch(r"\w+Error: .+\n", driver.said), driver.said
    for word in words:
        assert word in driver.said


def test_a_killed_scheduler_ends_the_driver_in_a_sentence_and_another_one_goes_on(
    place: Place,
) -> None:
    book = Book(place.folder, LONG)
    scheduler = place.scheduler()
    workers = [place.worker(), place.worker(nanny=True)]
    driver = place.driver(book)
    wait_for(
        lambda: len(book.processes()) == 2 and book.done() > 500, "both workers' blocks"
    )  # a worker that has not come to work yet waits for its scheduler for ever
    scheduler.kill()
    sentence(driver, "SiteError: ", "run again to go on")
    kept = book.blocks()
    for worker in workers:  # they have lost their scheduler, too
        worker.wait()
    place.scheduler()
    again = [place.worker() for _ in range(2)]
    driver = place.driver(book)
    for worker in again:
        book.wait_until_working(worker.pid)
    book.hurry()
    assert driver.wait() == 0, driver.output
    book.check()
    assert book.blocks()[: len(kept)] == kept
    assert {worker.pid for worker in again} <= book.processes()


def kill_while_writing(book: Book, driver: Process) -> None:
    """Kill a driver within a transaction: its journal lies beside the ledger."""
    journal = book.path.with_name(book.path.name + "-journal")

    def within() -> bool:
        if not journal.exists():
            return False
        driver.stop()
        if journal.exists():
            return True
        driver.send(signal.SIGCONT)  # it was too quick
        return False

    deadline = monotonic() + DEADLINE_S
    while not within():
        assert driver.alive, driver.output
        assert monotonic() < deadline, "no transaction was seen"
    driver.kill()
    assert journal.exists()


def test_a_driver_killed_while_it_writes_again_and_again_loses_and_doubles_nothing(
    place: Place,
) -> None:
    book = Book(place.folder, LONG)
    place.scheduler()
    workers = [place.worker() for _ in range(2)]
    random = Random(7)
    for i in range(4):
        driver = place.driver(book, target_s=0.1)
        book.wait_to_grow()
        if i % 2:
            sleep(random.uniform(0.0, 0.3))
            driver.kill()
        else:
            kill_while_writing(book, driver)
    driver = place.driver(book)
    book.wait_to_grow()
    with place.client() as client:
        assert set(drains(client, book).values()) == {1}
        assert len(drains(client, book)) == len(workers)
    book.hurry()
    assert driver.wait() == 0, driver.output
    book.check()
    assert book.wasted() == 0  # the drains went on, and the pool kept what they did


def test_what_workers_did_while_there_was_no_driver_is_collected_by_the_next(
    place: Place,
) -> None:
    book = Book(place.folder, replace(LONG, steps=600))
    place.scheduler()
    place.worker()
    driver = place.driver(book)
    wait_for(lambda: book.done() > 0, "a block in the ledger")
    driver.kill()
    book.hurry()
    offered = book.plan.units * book.plan.steps
    wait_for(lambda: book.executed().total() == offered, "the first round to be done")
    assert book.done() < offered
    driver = place.driver(book)
    assert driver.wait() == 0, driver.output
    book.check()
    assert book.wasted() == 0


@pytest.mark.slow
def test_a_cluster_that_dies_with_its_driver_costs_what_was_not_written(place: Place) -> None:
    book = Book(place.folder, LONG)
    driver = place.driver(book, "--workers", "2", local=True)
    book.wait_to_grow(200)
    workers = driver.children()
    assert len(workers) == 2
    driver.send(signal.SIGKILL)
    driver.wait()
    for worker in workers:  # they notice by themselves
        wait_for(partial(ended, worker), "a worker to end by itself")
    book.hurry()
    driver = place.driver(book, "--workers", "2", local=True)
    assert driver.wait() == 0, driver.output
    book.check()


def ended(process: int) -> bool:
    """Whether a process that is not our child has ended; nobody may have reaped it."""
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("options", [["--threads", "2"], None], ids=["in one process", "on Dask"])
def test_the_second_driver_of_a_ledger_is_refused_and_the_first_goes_on(
    place: Place, options: list[str] | None
) -> None:
    book = Book(place.folder, LONG)
    if options is None:
        place.scheduler()
        place.worker()
    first = place.driver(book, *(options or []), local=options is not None)
    wait_for(lambda: book.done() > 0, "a block in the ledger")
    second = place.driver(book, *(options or []), local=options is not None)
    sentence(second, "CampaignError: ", f"process {first.pid} on ", "wait for it, or stop it")
    book.wait_to_grow()
    book.hurry()
    assert first.wait() == 0, first.output
    book.check(threads=1 if options is None else 2)
    assert book.wasted() == 0
    assert not book.path.with_name(book.path.name + ".lock").exists()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "stories", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_the_driver_in_a_sentence_and_room_lets_it_go_on(place: Place) -> None:
    if shutil.which("mount") is None:
        pytest.skip("needs mount")
    book = Book(place.folder, LONG)
    place.scheduler()
    place.worker()
    with small_disk(place.folder / "disk") as disk:
        book.path = disk / "campaign.ledger"
        driver = place.driver(book, target_s=0.1)
        wait_for(lambda: book.done() > 200, "blocks in the ledger")
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        sentence(driver, "CampaignError: ", "what was committed before is kept", "make room")
        done = book.done()
        assert done >= 200
        filler.unlink()
        driver = place.driver(book, target_s=0.1)
        wait_for(lambda: book.done() > done, "the driver to go on")
        driver.send(signal.SIGINT)
        assert driver.wait() == INTERRUPTED, driver.output
        shutil.copy(book.path, place.folder / "campaign.ledger")
    book.path = place.folder / "campaign.ledger"
    book.hurry()
    driver = place.driver(book)
    assert driver.wait() == 0, driver.output
    book.check()
    assert book.wasted() == 0  # what could not be written was kept by the pool


def test_a_file_that_may_not_grow_is_as_a_full_disk(place: Place) -> None:
    book = Book(place.folder, LONG)
    place.scheduler()
    place.worker()
    book.ledger().close()
    limit = book.path.stat().st_size + 8192  # a few blocks
    driver = place.driver(book, "--file-limit", str(limit), target_s=0.1)
    sentence(driver, "CampaignError: ", "what was committed before is kept", "make room")
    assert book.done() > 0
    book.hurry()
    driver = place.driver(book)
    assert driver.wait() == 0, driver.output
    book.check()
    assert book.wasted() == 0


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _cut_short(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)


def _scribble(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(range(256)) * 40)


def _other_file(path: Path) -> None:
    path.write_text("toys: 1000\n" * 100)


def _other_model(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE identity SET content = 'of others'")
    db.close()


def _other_version(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE identity SET version = '0.0.9'")
    db.close()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_cut, "is damaged"),
        (_cut_short, "is damaged"),
        (_scribble, "is damaged"),
        (_other_file, "is damaged"),
        (_other_model, "another model or other data"),
        (_other_version, "0.0.9"),
    ],
)
def test_a_ledger_that_is_cut_or_of_another_is_refused_and_left_as_it_is(
    tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    book = Book(tmp_path, Rounds(steps=2000))
    book.hurry()
    book.campaign().run(threads=2)
    harm(book.path)
    before = book.path.read_bytes()
    with pytest.raises(InputError, match=words) as refused:
        book.campaign().run(threads=2)
    assert "\n" not in str(refused.value)
    assert book.path.read_bytes() == before
    assert not book.path.with_name(book.path.name + ".lock").exists()


def interrupt_and_resume(
    place: Place, book: Book, driver: Process, again: Callable[[], Process]
) -> None:
    """Interrupt a driver; see that the blocks in hand are in the ledger; run to the end."""
    assert driver.wait() == INTERRUPTED, driver.output
    assert driver.said == "KeyboardInterrupt\n"
    ends = {line.token: line for line in book.lines() if line.what == "end"}
    cut = [
        (end.key, end.start, end.stop)
        for line in book.lines()
        if line.what == "begin" and (end := ends.get(line.token)) and end.stop < line.stop
    ]
    assert cut, "no block was cut short"
    kept = {block[:3] for block in book.blocks()}
    assert {part for part in cut if part[1] < part[2]} <= kept
    assert book.done() == book.executed().total()  # all that was done
    book.hurry()
    driver = again()
    assert driver.wait() == 0, driver.output
    book.check()
    assert book.wasted() == 0


def test_an_interrupted_driver_writes_what_its_workers_hold(place: Place) -> None:
    book = Book(place.folder, LONG)
    place.scheduler()
    workers = [place.worker() for _ in range(2)]
    driver = place.driver(book, target_s=2.0)
    for worker in workers:
        book.wait_until_working(worker.pid, steps=100)
    wait_for(lambda: book.done() > 0, "a block in the ledger")
    driver.send(signal.SIGINT)
    interrupt_and_resume(place, book, driver, lambda: place.driver(book))


def test_an_interrupt_before_the_workers_begin_reaches_them_too(place: Place) -> None:
    book = Book(place.folder, LONG)
    place.scheduler()
    for _ in range(2):
        place.worker()

    def at_once(*_: object) -> None:
        raise Interrupted

    with place.client() as client:
        client.wait_for_workers(2)
        with pytest.raises(Interrupted):
            book.campaign(target_s=30.0).run(client, watch=at_once)
    # Who begins just when the pool is closed loses its first steps.
    assert book.executed().total() - book.done() < 100


def test_an_interrupted_driver_without_a_cluster_writes_what_its_threads_hold(
    place: Place,
) -> None:
    book = Book(place.folder, LONG)
    start = ["--threads", "2"]
    driver = place.driver(book, *start, local=True, target_s=2.0)
    wait_for(lambda: book.done() > 0, "a block in the ledger")
    driver.send(signal.SIGINT)
    assert driver.wait() == INTERRUPTED, driver.output
    assert book.done() == book.executed().total()
    book.hurry()
    driver = place.driver(book, *start, local=True)
    assert driver.wait() == 0, driver.output
    book.check(threads=2)
    assert book.wasted() == 0


def test_a_ctrl_c_that_reaches_the_workers_too_loses_nothing_either(place: Place) -> None:
    book = Book(place.folder, LONG)
    driver = place.driver(book, "--workers", "2", local=True, target_s=2.0)
    wait_for(lambda: len(book.processes()) == 2 and book.done() > 0, "both workers to work")
    for process in book.processes():
        book.wait_until_working(process)
    driver.send_all(signal.SIGINT)  # as a terminal does
    interrupt_and_resume(
        place, book, driver, lambda: place.driver(book, "--workers", "2", local=True)
    )
