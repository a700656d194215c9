"""Workers that are told to go, or know when they have to."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from stories.processes import Place, Process
from stories.work import Book, Rounds, wait_for

from hepdask_ml.campaign.drain import MARGIN_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from stories.work import Line

LONG = Rounds(units=3, steps=10_000, rounds=2)


def signal_alone(worker: Process, process: int) -> None:
    os.kill(process, signal.SIGTERM)


def signal_all(worker: Process, process: int) -> None:
    worker.send_all(signal.SIGCONT)  # as Slurm does
    worker.send_all(signal.SIGTERM)


def last_block(book: Book, process: int) -> tuple[Line, Line]:
    """Give begin and end of the block that a process did last."""
    begin, end = [line for line in book.lines(process) if line.what != "step"][-2:]
    assert (begin.what, end.what) == ("begin", "end")
    assert begin.token == end.token
    return begin, end


@pytest.mark.parametrize(
    ("nanny", "tell"),
    [(False, signal_alone), (True, signal_alone), (True, signal_all)],
    ids=["without nanny", "with nanny", "with nanny, both"],
)
def test_a_worker_that_gets_sigterm_commits_what_it_has_and_ends(
    place: Place, nanny: bool, tell: Callable[[Process, int], None]
) -> None:
    book = Book(place.folder, LONG)
    place.scheduler()
    goes = place.worker(nanny=nanny)
    driver = place.driver(book, target_s=1.5)
    process = wait_for(lambda: min(book.processes(), default=0), "the worker to work")
    book.wait_until_working(process, steps=100)
    wait_for(lambda: in_long_block(book, process), "a block that takes a while")
    tell(goes, process)
    if nanny and tell is signal_alone:  # its nanny starts another one
        wait_for(lambda: book.processes() - {process}, "another worker")
    else:
        goes.wait()
    begin, end = last_block(book, process)
    assert begin.start < end.stop < begin.stop  # it stopped early
    block = begin.key, begin.start, end.stop
    wait_for(lambda: block in [found[:3] for found in book.blocks()], "the partial block")
    stays = place.worker()
    book.wait_until_working(stays.pid)
    book.hurry()
    assert driver.wait() == 0, driver.output
    book.check()
    assert book.wasted() == 0


def in_long_block(book: Book, process: int) -> bool:
    """Whether a process is in the first tenth of a block of many steps."""
    line = book.working(process)
    if line is None or line.stop - line.start < 200:
        return False
    last = book.lines(process)[-1]
    return last.stop - line.start < (line.stop - line.start) / 10


@pytest.mark.slow
def test_workers_that_know_their_end_commit_before_it_and_others_finish(place: Place) -> None:
    book = Book(place.folder, LONG)
    place.scheduler()
    seconds = f"{MARGIN_S + 9.0:.0f}"
    go = [
        place.worker(env={"HEPDASK_ML_WALLTIME": seconds}),
        place.worker("--lifetime", f"{seconds} seconds"),
        place.worker("--lifetime", f"{seconds} seconds", nanny=True),
    ]
    driver = place.driver(book, target_s=3.0)
    wait_for(lambda: len(book.processes()) == 3, "three workers to work")
    for worker in go:
        worker.wait()
    assert driver.alive
    assert book.wasted() == 0
    wait_for(lambda: book.done() == book.executed().total(), "all that was done in the ledger")
    stays = place.worker()
    book.wait_until_working(stays.pid)
    book.hurry()
    assert driver.wait() == 0, driver.output
    book.check()
    assert book.wasted() == 0


def test_a_worker_without_time_takes_nothing_and_is_sent_away(place: Place) -> None:
    book = Book(place.folder, LONG)
    place.scheduler()
    driver = place.driver(book)
    late = place.worker(env={"HEPDASK_ML_WALLTIME": "0.5"})
    late.wait()
    assert not book.processes()
    place.worker()
    wait_for(lambda: book.done() > 0, "another worker's block")
    book.hurry()
    assert driver.wait() == 0, driver.output
    book.check()
