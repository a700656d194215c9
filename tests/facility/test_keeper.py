"""The keeper, rule by rule, over a made-up batch system (simulated) with a made-up clock."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from made_up_farm import Farm

from hepdask_ml.errors import SiteError
from hepdask_ml.facility import keeper as keeper_module
from hepdask_ml.facility.keeper import (
    FAILURES,
    HASTE_S,
    LIST_S,
    PAUSE_S,
    QUICK_S,
    SETTLE_S,
    Crowd,
    KeeperThread,
)
from hepdask_ml.facility.systems import State


def demand(free: int = 0, busy: list[str] | None = None, dry_s: float = 1e6) -> dict[str, Any]:
    return {"free": free, "lent": len(busy or []), "busy": busy or [], "dry_s": dry_s}


def test_wanted_number_is_submitted_at_once_and_remembered() -> None:
    farm = Farm()
    keeper = farm.keeper(most=3)
    keeper.begin()
    assert farm.alive() == keeper.jobs == ["1", "2", "3"]
    assert set(farm.remembered) == {"1", "2", "3"}
    assert sorted(farm.remembered.values()) == ["w-0", "w-1", "w-2"]


@pytest.mark.parametrize(("workers", "jobs"), [(1, 1), (3, 1), (4, 2), (6, 2), (7, 3)])
def test_jobs_of_several_workers_are_counted_by_their_workers(workers: int, jobs: int) -> None:
    farm = Farm(workers_per_job=3)
    farm.keeper(most=workers).begin()
    assert len(farm.alive()) == jobs


def test_nothing_changes_while_nothing_happens() -> None:
    farm = Farm()
    keeper = farm.keeper()
    keeper.begin()
    farm.start()
    farm.run(keeper, 3600)
    assert len(farm.submitted) == 2
    assert not farm.cancellations


def test_batch_system_is_asked_rarely_while_nothing_happens() -> None:
    farm = Farm()
    keeper = farm.keeper()
    keeper.begin()
    farm.start()
    farm.run(keeper, 300)
    quiet = len(farm.listings)
    farm.run(keeper, 600)
    assert len(farm.listings) - quiet <= 600 / LIST_S
    busy = len(farm.listings)
    farm.end("1")
    farm.run(keeper, 20)
    assert len(farm.listings) - busy >= 20 / HASTE_S - 1


@pytest.mark.parametrize("number", ["1", "2"])
def test_job_that_ends_is_replaced_within_seconds(number: str) -> None:
    farm = Farm()
    keeper = farm.keeper()
    keeper.begin()
    farm.start()
    farm.run(keeper, 600)
    farm.end(number)  # its walltime is over
    farm.run(keeper, 3)
    assert len(farm.submitted) == 3
    assert sorted(keeper.jobs) == sorted(farm.alive()) == sorted(farm.remembered)


def test_job_that_vanishes_from_the_queue_is_replaced() -> None:
    farm = Farm()
    keeper = farm.keeper()
    keeper.begin()
    farm.run(keeper, 400)
    farm.end("2")  # cancelled by somebody while it waited
    farm.run(keeper, LIST_S + HASTE_S)
    assert len(farm.alive()) == 2


def test_job_that_is_too_young_for_the_list_is_not_missed() -> None:
    farm = Farm(lag_s=HASTE_S)
    keeper = farm.keeper()
    keeper.begin()
    farm.run(keeper, 60)
    assert len(farm.submitted) == 2


def test_list_that_cannot_be_had_changes_nothing_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    farm = Farm(silent=True)
    keeper = farm.keeper()
    keeper.begin()
    with caplog.at_level(logging.WARNING):
        farm.run(keeper, 600)
    assert [record.getMessage() for record in caplog.records] == ["squeue does not answer"]
    assert len(farm.submitted) == 2
    farm.end("1")
    farm.silent = False
    farm.run(keeper, LIST_S + 1)
    assert len(farm.alive()) == 2


def test_list_that_cannot_be_had_is_not_asked_for_at_every_look() -> None:
    farm = Farm(silent=True)
    keeper = farm.keeper()
    keeper.begin()
    farm.run(keeper, 330)
    assert len(farm.listings) <= SETTLE_S / HASTE_S + 300 / LIST_S + 2


def test_held_job_is_cancelled_and_replaced_with_its_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    farm = Farm(reason="JobHeldAdmin", words="nothing")
    keeper = farm.keeper()
    keeper.begin()
    farm.jobs["1"].state = State.STUCK
    with caplog.at_level(logging.WARNING):
        farm.run(keeper, 3)
    assert farm.cancellations == ["1"]
    assert farm.alive() == ["2", "3"]
    assert caplog.messages == ['job 1 ended without a worker: "JobHeldAdmin"']


def test_requeued_job_waits_for_its_turn_again_and_is_not_replaced() -> None:
    farm = Farm()
    keeper = farm.keeper()
    keeper.begin()
    farm.start()
    farm.run(keeper, 600)
    farm.requeue("1")
    farm.run(keeper, 600)
    assert len(farm.submitted) == 2
    farm.start("1")
    farm.run(keeper, 600)
    assert len(farm.submitted) == 2
    assert not farm.cancellations


def test_job_that_was_not_listed_while_it_was_queued_anew_is_known_again() -> None:
    farm = Farm()
    keeper = farm.keeper()
    keeper.begin()
    farm.start()
    farm.run(keeper, 600)
    farm.end("1")  # as it looks: Slurm calls it completing
    farm.run(keeper, 10)
    assert keeper.jobs == ["2", "3"]
    farm.jobs["1"].ended = False
    farm.requeue("1")
    farm.run(keeper, 10)
    assert set(keeper.jobs) == set(farm.alive()) == set(farm.remembered)
    assert len(farm.alive()) == 2
    farm.run(keeper, 60, farm.start)
    assert len(farm.alive()) == 2


def test_worker_that_its_nanny_starts_again_is_waited_for() -> None:
    farm = Farm()
    keeper = farm.keeper()
    keeper.begin()
    farm.start()
    farm.run(keeper, 600)
    farm.jobs["1"].workers = 0
    farm.run(keeper, SETTLE_S - 5)
    farm.jobs["1"].workers = 1
    farm.run(keeper, 600)
    assert len(farm.submitted) == 2


def test_running_job_whose_worker_does_not_come_back_is_cancelled_and_replaced() -> None:
    farm = Farm()
    keeper = farm.keeper()
    keeper.begin()
    farm.start()
    farm.run(keeper, 600)
    farm.jobs["1"].workers = 0
    farm.run(keeper, SETTLE_S + LIST_S)
    assert farm.cancellations == ["1"]
    assert len(farm.alive()) == 2


def test_job_without_a_worker_yet_has_all_the_time() -> None:
    farm = Farm()
    keeper = farm.keeper()
    keeper.begin()
    farm.start(workers=False)
    farm.run(keeper, 3600)
    assert len(farm.submitted) == 2


def test_job_keeps_while_one_of_its_workers_is_there() -> None:
    farm = Farm(workers_per_job=2)
    keeper = farm.keeper()
    keeper.begin()
    farm.start()
    farm.run(keeper, 60)
    farm.jobs["1"].workers = 1
    farm.run(keeper, 600)
    assert len(farm.submitted) == 1


def test_workers_of_another_job_are_not_taken_for_its_own() -> None:
    farm = Farm()
    keeper = farm.keeper(most=12)
    keeper.begin()
    # w-1 has no worker, w-10 and w-11 have.
    for job in farm.jobs.values():
        if job.name in {"w-10", "w-11"}:
            job.state, job.workers = State.RUNNING, 1
    farm.run(keeper, 60)
    farm.demand = demand()
    farm.run(keeper, 1)
    assert {job.name for job in farm.jobs.values() if not job.ended} <= {"w-10", "w-11"}


# Failures.


def dies_at_once(farm: Farm, *, worked_s: float | None = None) -> None:
    """Let every job end as soon as it has begun, or after some seconds of a worker."""
    for job in farm.waiting():
        farm.start(job, workers=worked_s is not None)
    for job in farm.alive():
        if farm.now - farm.jobs[job].born >= (worked_s or 0.0):
            farm.end(job)


@pytest.mark.parametrize("worked_s", [None, 2.0, QUICK_S - 3.0])
def test_jobs_that_end_at_once_are_an_error_with_their_last_words(worked_s: float | None) -> None:
    farm = Farm(words="python: No such file or directory")
    keeper = farm.keeper(most=1)
    keeper.begin()
    with pytest.raises(SiteError, match=f"^{FAILURES} jobs in a row .*No such file or directory"):
        farm.run(keeper, 300, lambda: dies_at_once(farm, worked_s=worked_s))
    assert len(farm.submitted) == FAILURES


def test_many_jobs_that_end_at_once_are_not_repeated() -> None:
    farm = Farm()
    keeper = farm.keeper(most=20)
    keeper.begin()
    with pytest.raises(SiteError, match="jobs in a row came to nothing"):
        farm.run(keeper, 300, lambda: dies_at_once(farm))
    assert len(farm.submitted) <= 20 + FAILURES


def test_jobs_that_fail_beside_one_that_works_are_tried_again_after_a_pause() -> None:
    farm = Farm()
    keeper = farm.keeper(most=4)
    keeper.begin()
    farm.start("1")
    farm.run(keeper, 60)

    def others_die() -> None:
        for job in farm.alive():
            if job != "1":
                farm.end(job)

    before = len(farm.submitted)
    farm.run(keeper, 600, others_die)
    tried = len(farm.submitted) - before
    assert 3 < tried <= 3 + 3 * (600 / PAUSE_S + 1)
    farm.run(keeper, 2 * PAUSE_S, farm.start)
    assert len(farm.alive()) == 4


def test_job_that_worked_ends_the_row_of_failures() -> None:
    farm = Farm()
    keeper = farm.keeper(most=1)
    keeper.begin()
    for _ in range(5):
        for _ in range(FAILURES - 1):
            farm.end(*farm.alive())
            farm.run(keeper, 3 * HASTE_S)
        farm.start()
        farm.run(keeper, 2 * QUICK_S)
        farm.end(*farm.alive())
        farm.run(keeper, 3 * HASTE_S)
    assert len(farm.alive()) == 1


def test_cancelled_job_of_a_dry_pool_is_no_failure() -> None:
    farm = Farm()
    keeper = farm.keeper(most=6)
    keeper.begin()
    farm.demand = demand()
    farm.run(keeper, 60)
    assert len(farm.alive()) == 1
    farm.demand = demand(free=10, dry_s=0.0)
    farm.run(keeper, 1)  # without a pause
    assert len(farm.alive()) == 6


# Refusals.


def test_first_refusal_is_an_error_and_nothing_more_is_submitted() -> None:
    farm = Farm(refuse=100)
    with pytest.raises(SiteError, match="sbatch refused: too many jobs"):
        farm.keeper(most=8).begin()
    assert farm.refuse == 99


def test_refusal_of_the_second_job_is_lived_with() -> None:
    farm = Farm()
    keeper = farm.keeper(most=3)
    submit, allowed = farm.submit, [True]

    def one_only(name: str) -> str:
        if not allowed:
            raise SiteError("no more")
        allowed.pop()
        return submit(name)

    farm.submit = one_only  # type: ignore[method-assign]
    keeper.begin()
    farm.start()
    farm.run(keeper, 30)
    assert farm.alive() == ["1"]
    allowed += [True, True]
    farm.run(keeper, 2 * PAUSE_S)
    assert len(farm.alive()) == 3


def test_refusal_beside_other_jobs_is_told_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    farm = Farm()
    keeper = farm.keeper()
    keeper.begin()
    farm.start()
    farm.run(keeper, 60)
    farm.refuse = 5
    farm.end("1")
    with caplog.at_level(logging.WARNING):
        farm.run(keeper, 5 * PAUSE_S)
    assert caplog.messages.count("sbatch refused: too many jobs") == 1
    assert farm.alive() == ["2"]
    farm.run(keeper, 2 * PAUSE_S)
    assert len(farm.alive()) == 2


def test_later_refusals_without_any_job_are_an_error() -> None:
    farm = Farm()
    keeper = farm.keeper(most=1)
    keeper.begin()
    farm.start()
    farm.run(keeper, 60)
    farm.refuse = 1000
    farm.end("1")
    with pytest.raises(SiteError, match="too many jobs"):
        farm.run(keeper, 600)
    assert 1000 - farm.refuse == FAILURES


def test_refusals_while_others_work_do_not_count_when_those_have_ended() -> None:
    farm = Farm()
    keeper = farm.keeper()
    keeper.begin()
    farm.start()
    farm.run(keeper, 60)
    farm.refuse = 1000
    farm.end("1")
    farm.run(keeper, 20 * PAUSE_S)
    farm.end("2")
    farm.run(keeper, 2 * HASTE_S)
    farm.refuse = 0
    farm.run(keeper, 2 * PAUSE_S)
    assert len(farm.alive()) == 2


def test_whatever_a_submission_raises_the_other_jobs_are_known() -> None:
    farm = Farm()
    keeper = farm.keeper(most=6)
    submit = farm.submit
    after_first: list[str] = []

    def full_disk(name: str) -> str:
        if after_first and name == "w-1":
            raise OSError("no space left on device")
        after_first.append(name)
        return submit(name)

    farm.submit = full_disk  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no space left"):
        keeper.begin()
    assert set(keeper.jobs) == set(farm.alive()) == set(farm.remembered)
    keeper.end()
    assert not farm.alive()


# Demand.


def test_idle_workers_are_given_back_and_busy_ones_kept() -> None:
    farm = Farm()
    keeper = farm.keeper(most=4)
    keeper.begin()
    farm.start("1", "2", "3")
    farm.run(keeper, 60)
    busy = [farm.address(farm.jobs["2"], 0)]
    farm.demand = demand(busy=busy)
    farm.run(keeper, 10)
    assert farm.alive() == ["2"]
    assert farm.cancellations == ["4"]  # it waited
    assert not set(busy) & set(farm.retired)
    assert set(farm.remembered) == {"2"}


def test_jobs_that_wait_are_given_up_first_and_the_youngest_of_them() -> None:
    farm = Farm()
    keeper = farm.keeper(most=4)
    keeper.begin()
    farm.start("1", "2")
    farm.run(keeper, 60)
    farm.demand = demand(busy=["tcp://elsewhere/1", "tcp://elsewhere/2", "tcp://elsewhere/3"])
    farm.run(keeper, 1)
    assert farm.cancellations == ["4"]
    assert not farm.retired


def test_one_worker_stays_for_whatever_comes() -> None:
    farm = Farm()
    keeper = farm.keeper(most=4)
    keeper.begin()
    farm.start()
    farm.demand = demand()
    farm.run(keeper, 600)
    assert len(farm.alive()) == 1


def test_job_is_kept_while_one_of_its_workers_is_busy() -> None:
    farm = Farm(workers_per_job=2)
    keeper = farm.keeper(most=4)
    keeper.begin()
    farm.start()
    farm.run(keeper, 30)
    farm.demand = demand(busy=[farm.address(farm.jobs["2"], 1)])
    farm.run(keeper, 30)
    assert farm.alive() == ["2"]


def test_short_dry_time_gives_nobody_up() -> None:
    farm = Farm()
    keeper = farm.keeper(idle_s=300.0)
    keeper.begin()
    farm.start()
    farm.demand = demand(dry_s=299.0)
    farm.run(keeper, 60)
    assert len(farm.alive()) == 2


def test_dismissed_job_that_stays_is_cancelled() -> None:
    farm = Farm()
    keeper = farm.keeper()
    keeper.begin()
    farm.start()
    farm.run(keeper, 60)
    gone: list[str] = []
    farm.retire = gone.extend  # type: ignore[method-assign, assignment]
    farm.demand = demand()
    farm.run(keeper, 1)
    [job] = [job for job in farm.alive() if farm.address(farm.jobs[job], 0) in gone]
    farm.jobs[job].workers = 0  # but its job runs on
    farm.run(keeper, SETTLE_S + LIST_S)
    assert farm.cancellations == [job]
    assert len(farm.submitted) == 2


def test_cancelling_that_the_system_fails_to_do_is_repeated() -> None:
    farm = Farm(deaf=True)
    keeper = farm.keeper(most=3)
    keeper.begin()
    farm.demand = demand()
    farm.run(keeper, 10)
    assert set(keeper.jobs) == set(farm.alive()) == {"1", "2", "3"}
    farm.deaf = False
    farm.run(keeper, LIST_S + HASTE_S)
    assert farm.alive() == ["1"]
    assert set(keeper.jobs) == set(farm.remembered) == {"1"}


# Takeover and end.


def test_waiting_jobs_of_a_killed_driver_are_kept_and_its_others_cancelled() -> None:
    farm = Farm()
    farm.keeper(most=3).begin()
    farm.start("1", workers=False)
    farm.end("2")
    left = farm.remembered
    second = farm.keeper(most=3)
    second.begin(left)
    assert farm.cancellations == ["1"]
    assert second.jobs == ["3", "4", "5"]
    assert set(farm.remembered) == {"3", "4", "5"}
    assert farm.remembered["3"] == left["3"]
    farm.start("3")
    farm.run(second, 600)
    assert len(farm.alive()) == 3


def test_waiting_jobs_that_cannot_find_a_second_scheduler_are_cancelled() -> None:
    farm = Farm()
    farm.keeper(most=2).begin()
    second = farm.keeper(most=2)
    second.begin(farm.remembered, adopt=False)
    assert farm.cancellations == ["1", "2"]
    assert second.jobs == ["3", "4"]


def test_held_jobs_of_a_killed_driver_are_cancelled() -> None:
    farm = Farm()
    farm.keeper(most=1).begin()
    farm.jobs["1"].state = State.STUCK
    farm.keeper(most=1).begin(farm.remembered)
    assert farm.alive() == ["2"]


def test_what_was_taken_over_is_remembered_although_nothing_is_submitted() -> None:
    farm = Farm()
    farm.keeper(most=2).begin()
    left = farm.remembered
    farm.start("1", workers=False)
    farm.keeper(most=1).begin(left)
    assert farm.remembered == {"2": left["2"]}
    assert len(farm.submitted) == 2


def test_too_many_jobs_of_a_killed_driver_are_given_up() -> None:
    farm = Farm()
    farm.keeper(most=4).begin()
    second = farm.keeper(most=2)
    second.begin(farm.remembered)
    farm.run(second, 1)
    assert farm.alive() == ["1", "2"]


def test_refusal_after_a_takeover_is_lived_with_and_not_repeated() -> None:
    farm = Farm()
    farm.keeper(most=1).begin()
    farm.refuse = 100
    second = farm.keeper(most=8)
    second.begin(farm.remembered)
    assert second.jobs == ["1"]
    assert farm.refuse == 99


def test_end_cancels_everything() -> None:
    farm = Farm()
    keeper = farm.keeper(most=3)
    keeper.begin()
    farm.start("1")
    farm.run(keeper, 20)
    keeper.end()
    assert not farm.alive()
    assert not keeper.jobs


# The thread.


def test_thread_tells_why_the_keeper_gave_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "LOOK_S", 0.001)
    farm, told = Farm(), threading.Event()

    def broken() -> Crowd:
        raise RuntimeError("the loop is closed")

    farm.look = broken  # type: ignore[method-assign]
    thread = KeeperThread(farm.keeper(), told.set)
    assert told.wait(60)
    thread.end()
    assert str(thread.error) == "the jobs cannot be kept: RuntimeError: the loop is closed"


def test_thread_passes_errors_of_the_site_on_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "LOOK_S", 0.001)
    farm, told = Farm(refuse=1000), threading.Event()

    def tick() -> float:
        farm.now += 10.0
        return farm.now

    keeper = farm.keeper(clock=tick)
    thread = KeeperThread(keeper, told.set)
    assert told.wait(60)
    thread.end()
    assert str(thread.error) == "sbatch refused: too many jobs"


def test_thread_ends_when_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "LOOK_S", 0.001)
    farm, looked = Farm(), threading.Event()
    keeper = farm.keeper()
    keeper.begin()
    look = farm.look

    def watched() -> Crowd:
        looked.set()
        return look()

    farm.look = watched  # type: ignore[method-assign]
    thread = KeeperThread(keeper, lambda: None)
    assert looked.wait(60)
    thread.end()
    assert thread.error is None
    assert not [each for each in threading.enumerate() if each.name == "hepdask-ml-keeper"]
