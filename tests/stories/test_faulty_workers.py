"""Workers that cannot do the work, as without a GPU: others do it, and nothing counts for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from stories.processes import Place, tell
from stories.work import NO_GPU, Book, Rounds, wait_for

from hepdask_ml.campaign import link
from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.errors import SiteError

if TYPE_CHECKING:
    from distributed import Client
    from stories.processes import Process

WORK = Rounds(units=3, steps=4000)
BROKEN = {NO_GPU: "1"}


def fault_of(place: Place, worker: Process) -> str:
    return f"worker {place.address_of(worker.pid)} cannot work: the GPU of this process is lost"


def failures(book: Book) -> int:
    with read_ledger(book.path) as ledger:
        return len(ledger.failures())


def test_a_worker_that_loses_its_gpu_gives_its_block_back(place: Place) -> None:
    book = Book(place.folder, WORK)
    place.scheduler()
    stays, breaks = place.worker(), place.worker()
    fault = fault_of(place, breaks)
    with place.client() as client:
        running = book.campaign().start(client)
        for worker in (stays, breaks):
            book.wait_until_working(worker.pid, steps=20)
        book.lose_gpu(breaks.pid)
        wait_for(lambda: fault in running.campaign.status().faults, "the fault to be shown")
        done = book.executed(breaks.pid)
        book.wait_to_grow(200)
        assert running.campaign.status().faults == (fault,)
        # It may be of use to others, and nobody would bring another one for it.
        assert breaks.alive
        book.hurry()
        assert running.result(60.0) == book.done()
    assert book.executed(breaks.pid) == done  # no new drain
    assert failures(book) == 0
    book.check()


def test_without_a_worker_that_can_work_the_campaign_ends_and_can_go_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "HOPE_S", 0.0)
    book = Book(place.folder, WORK)
    place.scheduler()
    workers = [place.worker(), place.worker()]
    faults = sorted(fault_of(place, worker) for worker in workers)
    with place.client() as client:
        running = book.campaign().start(client)
        for worker in workers:
            book.wait_until_working(worker.pid, steps=20)
        for worker in workers:
            book.lose_gpu(worker.pid)
        with pytest.raises(SiteError) as useless:
            running.result(60.0)
        assert str(useless.value) == (
            f"no worker can be used ({faults[0].replace(' cannot', ' and 1 more cannot')}): what "
            "was committed is in the ledger, mend the cause and run again"
        )
        assert book.done() > 0
        assert failures(book) == 0
        # Who runs it again has mended something.
        book.lose_gpu(workers[0].pid, back=True)
        book.hurry()
        book.campaign().run(client)
    book.check()
    assert failures(book) == 0


def see_somebody_bring_workers(client: Client) -> None:
    """Ask what those ask who bring workers."""
    wait_for(lambda: client.run_on_scheduler(_is_served), "the plugin")  # type: ignore[no-untyped-call]
    tell(client, "demand")


def _is_served(dask_scheduler: object) -> bool:
    return "hepdask_ml_demand" in dask_scheduler.handlers  # type: ignore[attr-defined]


def test_where_workers_are_brought_one_that_cannot_work_gives_its_place_back(
    place: Place,
) -> None:
    book = Book(place.folder, WORK)
    place.scheduler()
    with place.client() as client:
        running = book.campaign().start(client)
        see_somebody_bring_workers(client)
        place.worker(nanny=True, env=BROKEN).wait()
        assert not running.done  # it waits for others
        good = place.worker()
        book.wait_until_working(good.pid)
        # While there is one that works, any number may be faulty.
        for broken in [place.worker(env=BROKEN) for _ in range(link.FAULTY + 1)]:
            broken.wait()
        wait_for(lambda: len(running.campaign.status().faults) == 2 + link.FAULTY, "all the faults")
        assert good.alive
        book.hurry()
        assert running.result(60.0) == book.done()
    assert failures(book) == 0
    book.check()


def test_where_all_that_are_brought_cannot_work_no_more_are_waited_for(place: Place) -> None:
    book = Book(place.folder, WORK)
    place.scheduler()
    with place.client() as client:
        running = book.campaign().start(client)
        see_somebody_bring_workers(client)
        for _ in range(link.FAULTY - 1):
            place.worker(env=BROKEN).wait()
        assert not running.done
        place.worker(env=BROKEN)
        with pytest.raises(SiteError, match="no worker can be used") as useless:
            running.result(60.0)
        assert " and 2 more cannot work: the GPU of this process is lost" in str(useless.value)
    assert failures(book) == 0
    assert book.done() == 0
