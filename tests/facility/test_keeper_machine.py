"""The keeper as a state machine: whatever happens when, no job is forgotten and none too many.

The batch system is made up (simulated), and so is the clock.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from made_up_farm import Farm

from hepdask_ml.errors import SiteError
from hepdask_ml.facility.keeper import FAILURES, HASTE_S, LIST_S, PAUSE_S, QUICK_S, SETTLE_S, Keeper
from hepdask_ml.facility.systems import State

IDLE_S = 100.0
RECOVERY_S = 2 * PAUSE_S + SETTLE_S + 2 * LIST_S
"""Time in which the wanted number is there when nothing fails any more."""


class KeeperMachine(RuleBasedStateMachine):
    """A farm on which everything may go wrong."""

    keeper: Keeper
    most = 3
    drivers = 0

    def __init__(self) -> None:
        super().__init__()
        self.farm = Farm()
        self.over = False

    @initialize(most=st.integers(1, 6), per_job=st.sampled_from([1, 1, 2]))
    def begin(self, most: int, per_job: int) -> None:
        self.farm.workers_per_job, self.most = per_job, most
        self.keeper = self.made()
        self.keeper.begin()

    def made(self) -> Keeper:
        self.drivers += 1
        return self.farm.keeper(most=self.most, idle_s=IDLE_S, prefix=f"w{self.drivers}")

    @property
    def jobs_wanted(self) -> int:
        return -(-self.most // self.farm.workers_per_job)

    def wanted_alive(self) -> list[str]:
        """Give the jobs that live and that the keeper has not given up."""
        retired = {address.split("/")[2] for address in self.farm.retired}
        return [
            job
            for job in self.farm.alive()
            if not self.farm.jobs[job].cancelled and self.farm.jobs[job].name not in retired
        ]

    # Time.

    @rule(seconds=st.sampled_from([1, 1, 2, 5, 12, 31, 61]))
    def look(self, seconds: int) -> None:
        if self.over:
            return
        try:
            self.farm.run(self.keeper, seconds)
        except SiteError:
            assert not self.wanted_alive()
            self.farm.deaf = False
            self.keeper.end()
            self.over = True

    # Jobs.

    def one_of(self, data: st.DataObject, jobs: list[str]) -> list[str]:
        return [data.draw(st.sampled_from(jobs))] if jobs and not self.over else []

    @rule(data=st.data(), workers=st.sampled_from([True, True, False]))
    def job_starts(self, data: st.DataObject, workers: bool) -> None:
        for job in self.one_of(data, self.farm.waiting()):
            self.farm.start(job, workers=workers)

    @rule(data=st.data())
    def job_ends(self, data: st.DataObject) -> None:
        self.farm.end(*self.one_of(data, self.farm.alive()))

    @rule(data=st.data())
    def job_is_queued_anew(self, data: st.DataObject) -> None:
        for job in self.one_of(data, self.farm.alive()):
            self.farm.requeue(job)

    @rule(data=st.data())
    def job_is_held(self, data: st.DataObject) -> None:
        for job in self.one_of(data, self.farm.waiting()):
            self.farm.jobs[job].state = State.STUCK

    @rule(data=st.data(), back=st.booleans())
    def worker_goes_or_comes_back(self, data: st.DataObject, back: bool) -> None:
        running = [job for job in self.farm.alive() if self.farm.jobs[job].state is State.RUNNING]
        for job in self.one_of(data, running):
            self.farm.jobs[job].workers = self.farm.workers_per_job if back else 0

    # The system.

    @rule(refuse=st.sampled_from([0, 1, 2, 100]))
    def submissions_are_refused(self, refuse: int) -> None:
        self.farm.refuse = refuse

    @rule(silent=st.booleans(), deaf=st.booleans(), lag_s=st.sampled_from([0.0, 1.0, HASTE_S]))
    def system_is_odd(self, silent: bool, deaf: bool, lag_s: float) -> None:
        self.farm.silent, self.farm.deaf, self.farm.lag_s = silent, deaf, lag_s

    @rule(free=st.sampled_from([0, 0, 5]), data=st.data())
    def demand_changes(self, free: int, data: st.DataObject) -> None:
        addresses = sorted(self.farm.names())
        busy = data.draw(st.lists(st.sampled_from(addresses), unique=True)) if addresses else []
        dry_s = 0.0 if free else IDLE_S
        self.farm.demand = {"free": free, "lent": len(busy), "busy": busy, "dry_s": dry_s}

    @rule()
    def driver_is_killed_and_another_comes(self) -> None:
        if self.over:
            return
        self.farm.now += HASTE_S + 1.0
        self.farm.silent = self.farm.deaf = False
        self.keeper = self.made()
        try:
            self.keeper.begin(self.farm.remembered)
        except SiteError:
            assert not self.wanted_alive()
            self.over = True
        for job in self.keeper.jobs:
            # Its first driver had cancelled it and was not heard; to this one it is as good as any.
            self.farm.jobs[job].cancelled = False

    # What always holds.

    @invariant()
    def every_job_is_known(self) -> None:
        if not self.over:
            assert set(self.farm.alive()) <= set(self.keeper.jobs)

    @invariant()
    def every_job_is_remembered_for_the_next_driver(self) -> None:
        if not self.over:
            assert set(self.farm.remembered) == set(self.keeper.jobs)
            names = {job: self.farm.jobs[job].name for job in self.keeper.jobs}
            assert self.farm.remembered == names

    @invariant()
    def names_are_never_given_twice(self) -> None:
        if not self.over:
            names = list(self.farm.remembered.values())
            assert len(names) == len(set(names))

    @precondition(lambda self: hasattr(self, "keeper"))
    @invariant()
    def there_are_never_too_many(self) -> None:
        assert len(self.wanted_alive()) <= self.jobs_wanted

    def teardown(self) -> None:
        if not hasattr(self, "keeper"):
            return
        if not self.over:
            self.recovers()
        self.keeper.end()
        assert not self.farm.alive()

    def recovers(self) -> None:
        farm = self.farm
        farm.refuse, farm.silent, farm.deaf, farm.lag_s, farm.demand = 0, False, False, 0.0, None

        def all_is_well() -> None:
            farm.start()
            for job in farm.alive():
                if farm.jobs[job].state is State.RUNNING:
                    farm.jobs[job].workers = farm.workers_per_job

        try:
            farm.run(self.keeper, RECOVERY_S, all_is_well)
        except SiteError:  # of what had happened before
            assert not self.wanted_alive()
            return
        assert len(self.wanted_alive()) == self.jobs_wanted
        submitted = len(farm.submitted)
        farm.run(self.keeper, 120, all_is_well)
        assert len(farm.submitted) == submitted


TestKeeper = KeeperMachine.TestCase
TestKeeper.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@given(
    most=st.integers(1, 8),
    healthy=st.integers(0, 3),
    worked=st.lists(st.sampled_from([None, 0.0, 3.0, QUICK_S - 3.0]), min_size=1, max_size=20),
)
@settings(deadline=None, max_examples=30)
def test_immediate_failures_come_to_a_pause(
    most: int, healthy: int, worked: list[float | None]
) -> None:
    farm = Farm()
    keeper = farm.keeper(most=most)
    keeper.begin()
    well = farm.alive()[:healthy]
    farm.start(*well) if well else None

    def others_fail() -> None:
        for job, it in farm.jobs.items():
            stays = worked[int(job) % len(worked)]
            if job in well or it.ended:
                continue
            if it.state is State.WAITING:
                farm.start(job, workers=stays is not None)
            if farm.now - it.born > (stays or 0.0):
                farm.end(job)

    try:
        farm.run(keeper, 4 * PAUSE_S, others_fail)
        assert well
    except SiteError:
        assert not well
        assert len(farm.submitted) <= most + FAILURES
    for begin in farm.submitted:
        at_once = [at for at in farm.submitted if begin <= at < begin + PAUSE_S]
        # Each job that works ends a row of failures, once.
        assert len(at_once) <= most + FAILURES * (1 + len(well))
