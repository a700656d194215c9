"""What the plugin tells those who bring workers: steps that are free, and who is busy."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hepdask_ml.campaign import plugin as plugin_module
from hepdask_ml.campaign.messages import offer_fields
from hepdask_ml.campaign.plugin import DRAIN, PoolPlugin
from hepdask_ml.campaign.unit import Unit

if TYPE_CHECKING:
    from hepdask_ml.campaign.messages import Exchange


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(plugin_module, "time", made)
    return made


class Scheduler(SimpleNamespace):
    """As much of a scheduler as the plugin looks at, made up."""

    def __init__(self, *addresses: str) -> None:
        workers = {
            each: SimpleNamespace(nthreads=2, processing={}, last_seen=0.0) for each in addresses
        }
        super().__init__(handlers={}, workers=workers)

    def works(self, address: str, *keys: str) -> None:
        self.workers[address].processing = [SimpleNamespace(key=key) for key in keys]

    def demand(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.handlers["hepdask_ml_demand"]()
        return answer


def started(*addresses: str) -> tuple[PoolPlugin, Scheduler]:
    plugin, scheduler = PoolPlugin(), Scheduler(*addresses)
    asyncio.run(plugin.start(scheduler))  # type: ignore[arg-type]
    return plugin, scheduler


def offer(plugin: PoolPlugin, campaign: str, steps: int) -> None:
    fields = offer_fields(Unit(campaign, steps, {}, "steps"), [])
    asyncio.run(plugin.collect(campaign, 0, [fields], False, 0.0))


def take(plugin: PoolPlugin, campaign: str, worker: str) -> dict[str, Any]:
    return asyncio.run(plugin.exchange(campaign, {"drain": f"drain at {worker}", "worker": worker}))


def test_nothing_is_asked_for_before_there_is_a_campaign(clock: Clock) -> None:
    _, scheduler = started("tcp://a")
    assert scheduler.demand() == {"free": 0, "lent": 0, "busy": [], "dry_s": 0.0}


def test_free_and_lent_are_those_of_all_campaigns(clock: Clock) -> None:
    plugin, scheduler = started("tcp://a", "tcp://b", "tcp://c")
    offer(plugin, "one", 100)
    offer(plugin, "two", 10)
    assert scheduler.demand() == {"free": 110, "lent": 0, "busy": [], "dry_s": 0.0}
    take(plugin, "one", "tcp://b")
    take(plugin, "two", "tcp://a")
    found = scheduler.demand()
    assert found["lent"] == 2
    assert found["free"] < 110
    assert found["busy"] == ["tcp://a", "tcp://b"]


def test_worker_of_other_tasks_is_busy_and_one_of_drains_alone_is_not(clock: Clock) -> None:
    _, scheduler = started("tcp://a", "tcp://b", "tcp://c")
    scheduler.works("tcp://a", f"{DRAIN}one-1", f"{DRAIN}one-2")
    scheduler.works("tcp://b", f"{DRAIN}one-3", "somebody's fit")
    assert scheduler.demand()["busy"] == ["tcp://b"]


def test_dry_time_runs_from_the_first_question_without_a_free_step(clock: Clock) -> None:
    plugin, scheduler = started("tcp://a")
    assert scheduler.demand()["dry_s"] == 0.0
    clock.now += 40.0
    assert scheduler.demand()["dry_s"] == 40.0
    offer(plugin, "one", 1)
    assert scheduler.demand()["dry_s"] == 0.0
    take(plugin, "one", "tcp://a")
    assert scheduler.demand()["dry_s"] == 0.0
    clock.now += 30.0
    assert scheduler.demand()["dry_s"] == 30.0


def test_round_that_is_offered_and_lent_between_two_questions_ends_the_dry_time(
    clock: Clock,
) -> None:
    plugin, scheduler = started("tcp://a")
    scheduler.demand()
    clock.now += 400.0
    offer(plugin, "one", 1)
    take(plugin, "one", "tcp://a")
    assert scheduler.demand() == {"free": 0, "lent": 1, "busy": ["tcp://a"], "dry_s": 0.0}


def census(plugin: PoolPlugin, campaign: str) -> dict[str, Any]:
    return asyncio.run(plugin.collect(campaign, 0, [], True, 0.0))


def test_census_tells_whether_somebody_brings_workers(clock: Clock) -> None:
    plugin, scheduler = started("tcp://a")
    offer(plugin, "one", 100)
    assert not census(plugin, "one")["brought"]
    scheduler.demand()
    assert census(plugin, "one")["brought"]


def test_census_tells_of_workers_that_cannot_work_until_they_are_gone(clock: Clock) -> None:
    plugin, scheduler = started("tcp://a", "tcp://b")
    offer(plugin, "one", 3)
    token = take(plugin, "one", "tcp://a")["block"][4]
    message: Exchange = {
        "drain": "drain at tcp://a", "worker": "tcp://a", "token": token, "fault": "no GPU",
    }  # fmt: skip
    assert asyncio.run(plugin.exchange("one", message)) == {"leave": "fault"}
    found = census(plugin, "one")
    assert found["faults"] == {"tcp://a": "no GPU"}
    assert found["left"] == [["tcp://a", "fault"]]
    assert (found["free"], found["lent"], found["events"]) == (3, 0, [])
    plugin.remove_worker(scheduler, "tcp://a", stimulus_id="handle-worker-cleanup-1")  # type: ignore[arg-type]
    assert census(plugin, "one")["faults"] == {}


def test_closed_campaign_asks_for_nothing(clock: Clock) -> None:
    plugin, scheduler = started("tcp://a")
    offer(plugin, "one", 100)
    take(plugin, "one", "tcp://a")
    plugin.close_campaign("one")
    assert scheduler.demand() == {"free": 0, "lent": 0, "busy": [], "dry_s": 0.0}


def test_blocks_of_a_lost_worker_are_free_again(clock: Clock) -> None:
    plugin, scheduler = started("tcp://a")
    offer(plugin, "one", 3)
    take(plugin, "one", "tcp://a")
    del scheduler.workers["tcp://a"]
    plugin.remove_worker(scheduler, "tcp://a", stimulus_id="handle-worker-cleanup-1")  # type: ignore[arg-type]
    assert scheduler.demand() == {"free": 3, "lent": 0, "busy": [], "dry_s": 0.0}
