"""Workers that die, hang, come late, or are sent away."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from distributed import Client
from stories.processes import Place, drains, local_cluster, pids, register
from stories.work import Book, Rounds, steps_by_worker, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distributed import LocalCluster

LONG = Rounds(units=3, steps=10_000, rounds=2)
"""Never done before its story lets it hurry."""

SILENCE_S = 2.5


@contextmanager
def nannies(workers: int) -> Iterator[tuple[LocalCluster, Client]]:
    """A cluster of this process, and a client of it."""
    with (
        local_cluster(workers) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        yield cluster, client


def test_a_worker_killed_within_a_block_loses_that_block_alone(tmp_path: Path) -> None:
    book = Book(tmp_path, LONG)
    with nannies(2) as (_, client):
        running = book.campaign().start(client)
        victim = next(iter(pids(client).values()))
        book.wait_until_working(victim, steps=50)
        os.kill(victim, signal.SIGSTOP)  # so that it is certain where it is
        wait_for(lambda: book.done() > 0, "a block in the ledger")
        within = book.working(victim)
        os.kill(victim, signal.SIGKILL)
        if within is not None:
            wait_for(
                lambda: book.executed()[within.key, within.start] > 1,
                "the block to be done again",
            )
        wait_for(lambda: len(book.processes()) == 3, "the worker to be started again")
        book.hurry()
        assert running.result(300) == sum(len(part) // 8 for part in LONG.expected().values())
    book.check()
    if within is not None:
        assert 0 < book.wasted() <= within.stop - within.start


@pytest.mark.slow
def test_ten_workers_killed_in_a_row_change_nothing(tmp_path: Path) -> None:
    book = Book(tmp_path, LONG)
    with nannies(3) as (_, client):
        running = book.campaign().start(client)
        killed: set[int] = set()
        for _ in range(10):
            victim = wait_for(
                lambda: next(
                    (pid for pid in book.processes() - killed if book.working(pid) is not None),
                    0,
                ),
                "a worker within a block",
            )
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
        wait_for(lambda: book.processes() - killed, "a worker that lives")
        book.hurry()
        running.result(300)
    book.check()


def test_all_workers_killed_at_once_are_started_again_and_go_on(tmp_path: Path) -> None:
    book = Book(tmp_path, LONG)
    with nannies(3) as (_, client):
        running = book.campaign().start(client)
        victims = list(pids(client).values())
        for victim in victims:
            book.wait_until_working(victim)
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len(book.processes()) == 6, "three new workers at work")
        book.hurry()
        running.result(300)
    book.check()


def test_after_all_workers_are_gone_new_ones_take_up_the_campaign(place: Place) -> None:
    book = Book(place.folder, LONG)
    place.scheduler()
    first = [place.worker() for _ in range(2)]
    driver = place.driver(book)
    for worker in first:
        book.wait_until_working(worker.pid)
    for worker in first:
        worker.kill()
    second = [place.worker() for _ in range(2)]
    for worker in second:
        book.wait_until_working(worker.pid)
    book.hurry()
    assert driver.wait() == 0
    book.check()
    assert {worker.pid for worker in first + second} == book.processes()


def test_workers_may_come_late_and_more_may_join(place: Place) -> None:
    book = Book(place.folder, LONG)
    place.scheduler()
    driver = place.driver(book)
    wait_for(book.path.exists, "the driver to begin")
    one = place.worker()
    book.wait_until_working(one.pid, steps=100)
    three = [place.worker() for _ in range(3)]
    for worker in three:
        book.wait_until_working(worker.pid, steps=100)
    wait_for(lambda: len(steps_by_worker(book)) == 4, "blocks of all four in the ledger")
    book.hurry()
    assert driver.wait() == 0
    book.check()
    assert book.wasted() == 0


def test_the_block_of_a_worker_that_hangs_is_done_by_another(place: Place) -> None:
    book = Book(place.folder, LONG)
    place.scheduler()
    with place.client() as client:
        register(client, SILENCE_S)
        hangs, works = place.worker(), place.worker()
        running = book.campaign().start(client)
        book.wait_until_working(works.pid)
        within = None
        while within is None:
            book.wait_until_working(hangs.pid)
            hangs.send(signal.SIGSTOP)
            within = book.working(hangs.pid)
            if within is None:
                hangs.send(signal.SIGCONT)
        wait_for(
            lambda: book.executed(works.pid)[within.key, within.start],
            "the block to be done by the other worker",
        )
        blocks = wait_for(
            lambda: [
                block
                for block in book.blocks()
                if block[0] == within.key and block[1] <= within.start < block[2]
            ],
            "the block in the ledger",
        )
        before = len(book.lines(hangs.pid))
        hangs.send(signal.SIGCONT)
        wait_for(
            lambda: any(
                line.what == "end" and line.token == within.token
                for line in book.lines(hangs.pid)[before:]
            ),
            "the late commit",
        )
        wait_for(
            lambda: (
                len([line for line in book.lines(hangs.pid)[before:] if line.what == "begin"]) > 2
            ),
            "the worker to go on drawing",
        )
        book.hurry()
        running.result(300)
        assert set(blocks) <= set(book.blocks())  # what was done stays
    book.check()
    assert book.wasted() > 0


def test_workers_may_be_retired_in_the_middle(place: Place) -> None:
    book = Book(place.folder, LONG)
    place.scheduler()
    leaves, stays = place.worker(), place.worker()
    driver = place.driver(book)
    for worker in (leaves, stays):
        book.wait_until_working(worker.pid, steps=100)
    address = place.address_of(leaves.pid)
    with place.client() as client:
        client.retire_workers([address], close_workers=True)
        leaves.wait()
        wait_for(lambda: set(drains(client, book)) == {place.address_of(stays.pid)}, "one drain")
    book.hurry()
    assert driver.wait() == 0
    book.check()
    assert book.wasted() == 0  # what it had of its block was committed


def test_a_cluster_may_be_scaled_down_and_up_again(tmp_path: Path) -> None:
    book = Book(tmp_path, LONG)
    with nannies(3) as (cluster, client):
        running = book.campaign().start(client)
        for pid in pids(client).values():
            book.wait_until_working(pid)
        cluster.scale(1)  # type: ignore[no-untyped-call]
        wait_for(lambda: len(pids(client)) == 1, "one worker")
        cluster.scale(3)  # type: ignore[no-untyped-call]
        wait_for(lambda: len(book.processes()) == 5, "two new workers at work")
        book.hurry()
        running.result(300)
    book.check()
    assert book.wasted() == 0
