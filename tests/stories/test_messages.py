"""Messages that come late, twice or not at all."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from stories.processes import Place, register, tell
from stories.work import Book, Rounds, Steps, check_exact, step_bytes, wait_for

from hepdask_ml.campaign import drain
from hepdask_ml.campaign.driver import drive
from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.campaign.link import Collected, LocalLink
from hepdask_ml.campaign.messages import exchange, offer_fields
from hepdask_ml.campaign.pool import Committed, Pool
from hepdask_ml.campaign.unit import Unit
from hepdask_ml.facility.node import End

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hepdask_ml.campaign.messages import Exchange

UNIT = Unit("u", 200, {"salt": "begin"}, grain=5)


class Wire:
    """A way to a pool on which some messages, or their answers, get lost."""

    def __init__(self, pool: Pool, lost: Callable[[int], str]) -> None:
        self.pool = pool
        self.count = 0
        self._lost = lost

    def __call__(self, message: Exchange) -> dict[str, Any]:
        fate = self._lost(self.count)
        self.count += 1
        if fate == "message":
            raise OSError("the message is lost")
        answer = exchange(self.pool, deepcopy(message))
        if not answer:
            answer = {"leave": "nothing left"}
        if fate == "answer":
            raise TimeoutError("the answer is lost")
        return answer


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "sleep", lambda _: None)


def results(pool: Pool) -> bytes:
    """Join what was committed, without gap or overlap."""
    at, parts = 0, []
    for event in sorted(pool.events, key=lambda event: event.start):
        assert isinstance(event, Committed)
        assert event.start == at
        at = event.stop
        parts.append(event.result)
    assert at == UNIT.total
    return b"".join(parts)


EXPECTED = b"".join(step_bytes("u", "begin", i) for i in range(UNIT.total))


@pytest.mark.parametrize("fate", ["message", "answer"])
@pytest.mark.parametrize("period", [2, 3, 5])
def test_what_gets_lost_on_the_way_is_sent_again(tmp_path: Path, fate: str, period: int) -> None:
    pool = Pool("p", target_s=0.05)
    pool.offer(UNIT)
    wire = Wire(pool, lambda i: fate if i % period == period - 1 else "")
    why = drain.loop(Steps(str(tmp_path), 0.0), wire, "w", End(None, "none"), lambda: False)
    assert why == "nothing left"
    assert results(pool) == EXPECTED
    assert not pool.lent


def test_a_drain_that_hears_nothing_any_more_ends(tmp_path: Path) -> None:
    pool = Pool("p", target_s=0.05)
    pool.offer(UNIT)
    wire = Wire(pool, lambda i: "answer" if i >= 2 else "")
    why = drain.loop(Steps(str(tmp_path), 0.0), wire, "w", End(None, "none"), lambda: False)
    assert why == "no answer"
    assert wire.count == 2 + drain.RETRIES
    # Its last block is lent to another as soon as its worker is known to be gone.
    pool.lost("w")
    whole = Wire(pool, lambda i: "")
    drain.loop(Steps(str(tmp_path), 0.0), whole, "v", End(None, "none"), lambda: False)
    assert results(pool) == EXPECTED


class Stuttering:
    """A link whose answers to the driver get lost, and are asked for again."""

    def __init__(self, link: LocalLink) -> None:
        self._link = link

    def collect(self, written: int, offers: Sequence[Any], patience_s: float) -> Collected:
        self._link.collect(written, offers, patience_s)
        return self._link.collect(written, offers, patience_s)

    def interrupt(self) -> None:
        self._link.interrupt()

    def close(self) -> None:
        self._link.close()


class Never:
    def is_set(self) -> bool:
        return False


def test_a_driver_may_collect_and_offer_the_same_twice(tmp_path: Path) -> None:
    book = Book(tmp_path, Rounds(steps=300))
    runner = Steps(str(tmp_path), 0.0)
    with book.ledger() as ledger:
        drive(ledger, book.plan, Stuttering(LocalLink(runner, 2, 0.02)), Never())
    check_exact(book.path, book.plan.expected())


def test_a_commit_after_its_lease_was_given_away_does_not_count(place: Place) -> None:
    book = Book(place.folder, Rounds(units=1, steps=10, rounds=1, grain=5))
    place.scheduler()
    worker = place.worker()
    address = place.address_of(worker.pid)
    with place.client() as client:
        register(client)

        def take(drain: str, **brings: Any) -> Any:
            message = {"drain": drain, "worker": address, "seconds_left": None, **brings}
            return tell(client, "exchange", campaign="c", message={"pace": None, **message})

        def collect(written: int = 0, offers: Sequence[Any] = ()) -> Any:
            return tell(
                client, "collect", campaign="c", written=written, offers=list(offers),
                census=False, patience_s=0.0,
            )  # fmt: skip

        collect(offers=[offer_fields(book.plan.round(0, "begin")[0], [])])
        key, _, start, stop, token = take("one")["block"]
        assert (start, stop) == (0, 5)
        # The first drain hangs, leaves, and what it held is given to another one.
        assert take("one", leaving=True) == {"leave": "asked"}
        second = take("two")["block"]
        assert (second[0], *second[2:4]) == (key, start, stop)
        assert second[4] != token
        late = {"token": token, "reached": stop, "result": b"late", "seconds": 1.0}
        assert take("one", **late, leaving=True) == {"leave": "asked"}
        assert not collect()["events"]
        good = {"token": second[4], "reached": stop, "result": b"good", "seconds": 1.0}
        assert take("two", **good, leaving=True) == {"leave": "asked"}
        assert take("two", **good, leaving=True) == {"leave": "asked"}  # the same once more
        [event] = collect()["events"]
        assert tuple(event[2:6]) == (key, start, stop, b"good")
        assert not collect(written=event[1])["events"]
        # A drain whose pool is gone is sent home, whatever it brings.
        tell(client, "close", campaign="c")
        assert take("two", **good) == {"leave": "closed"}


def test_drains_without_work_and_without_a_driver_go_home_and_are_sent_anew(place: Place) -> None:
    place.scheduler()
    place.worker()
    book = Book(place.folder, Rounds(units=1, steps=500, rounds=1))
    with place.client() as client:
        register(client, abandoned_s=0.3)
        client.wait_for_workers(1)
        driver = place.driver(book)
        wait_for(lambda: book.done() > 0, "a block")
        driver.kill()
        wait_for(
            lambda: not any(client.processing().values()), "the drain to leave Dask's worker", 30.0
        )
        assert place.driver(book).wait() == 0
    book.check()


def test_a_campaign_stopped_in_the_middle_goes_on_with_the_same_workers(place: Place) -> None:
    book = Book(place.folder, Rounds(units=1, steps=10_000, rounds=1))
    place.scheduler()
    worker = place.worker()
    with place.client() as client:
        running = book.campaign(target_s=0.1).start(client)
        book.wait_until_working(worker.pid, steps=200)
        running.stop()  # writes, closes the pool
        done = book.done()
        with read_ledger(book.path) as ledger:
            assert ledger.progress().failures == 0
        assert wait_for(lambda: done == book.executed().total(), "all that was done")
        book.hurry()
        book.campaign().run(client)
    book.check()
    assert book.wasted() == 0
