"""What the pool lends, to whom and how much of it."""

from __future__ import annotations

from math import inf

import pytest

from hepdask_ml.campaign.pool import (
    ATTEMPTS,
    LOSSES,
    SHORTEST_S,
    WALLTIME_SHARE,
    Committed,
    Failed,
    Leave,
    Pool,
)
from hepdask_ml.campaign.unit import Block, Done, Unit

MANY = 1_000_000


def pool_of(*units: Unit, target_s: float = 30.0) -> Pool:
    pool = Pool("p", target_s=target_s)
    for unit in units:
        pool.offer(unit)
    return pool


def lend(
    pool: Pool, drain: str, worker: str = "", left: float = inf, pace: float | None = None
) -> Block:
    """Take a block, of which there is one; a drain alone on its worker."""
    block = pool.take(drain, worker or f"worker of {drain}", seconds_left=left, pace=pace)
    assert isinstance(block, Block)
    return block


def size(pool: Pool, drain: str = "a", left: float = inf, pace: float | None = None) -> int:
    block = lend(pool, drain, left=left, pace=pace)
    return block.stop - block.start


def finish(pool: Pool, block: Block) -> bool:
    return pool.commit(block.token, Done(block.stop, b"r"), 1.0)


def ranges(pool: Pool) -> list[tuple[int, int]]:
    """Give what has been committed, in the order of committing."""
    return [(event.start, event.stop) for event in pool.events if isinstance(event, Committed)]


class TestSize:
    def test_without_a_pace_it_is_one_grain(self) -> None:
        assert size(pool_of(Unit("u", MANY, grain=12))) == 12

    def test_a_unit_smaller_than_its_grain_is_one_block(self) -> None:
        assert size(pool_of(Unit("u", 5, grain=12)), pace=100.0) == 5

    def test_it_takes_the_target_time_at_the_pace(self) -> None:
        assert size(pool_of(Unit("u", MANY), target_s=30.0), pace=100.0) == 3000

    def test_it_is_a_multiple_of_the_grain(self) -> None:
        assert size(pool_of(Unit("u", MANY, grain=700), target_s=30.0), pace=100.0) == 2800

    def test_it_is_one_grain_where_that_takes_longer_than_the_target(self) -> None:
        assert size(pool_of(Unit("u", MANY, grain=700), target_s=1.0), pace=100.0) == 700

    def test_it_takes_at_most_a_part_of_the_walltime_left(self) -> None:
        left = 100.0
        expected = 50.0 * WALLTIME_SHARE * 100.0
        assert size(pool_of(Unit("u", MANY), target_s=1000.0), left=left, pace=50.0) == expected

    def test_drains_share_what_is_left(self) -> None:
        pool = pool_of(Unit("u", 1000))
        sizes = [size(pool, drain, pace=1000.0) for drain in "abcd"]
        assert sizes == [500, 125, 62, 50]  # a half, a quarter, a sixth; then 50 ms of the pace
        assert SHORTEST_S * 1000.0 == 50

    def test_no_less_is_shared_than_is_worth_a_message(self) -> None:
        pool = pool_of(Unit("u", 1000))
        for drain in "abc":
            pool.take(drain, drain, pace=1.0)
        assert pool.free == 910
        assert size(pool, "d", pace=MANY) == 910  # and not an eighth of it

    def test_a_unit_in_order_is_not_shared(self) -> None:
        pool = pool_of(Unit("u", 1000, ordered=True))
        assert pool.take("b", "west", pace=10.0) is not None
        assert pool.take("a", "east", pace=10.0) is None
        pool.leave("b")
        assert size(pool, "a", pace=1000.0) == 1000

    def test_a_block_that_begins_within_a_grain_ends_with_it(self) -> None:
        pool = pool_of(Unit("u", MANY, grain=10))
        block = lend(pool, "a")
        pool.commit(block.token, Done(3, b""), 1.0)
        assert [(b.start, b.stop) for b in (lend(pool, "a"), lend(pool, "b"))] == [
            (3, 10),
            (10, 20),
        ]

    def test_each_worker_lost_in_a_range_halves_what_is_lent_of_it(self) -> None:
        pool = pool_of(Unit("u", MANY), target_s=1.0)
        sizes = []
        for i in range(12):
            sizes.append(size(pool, f"d{i}", pace=1024.0))
            pool.lost(f"worker of d{i}")
        assert sizes == [1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1, 1]


class TestLeaving:
    def test_no_time_is_left(self) -> None:
        assert pool_of(Unit("u", 10)).take("a", "east", seconds_left=0.0) == Leave("walltime")

    def test_the_time_left_is_too_short_for_the_smallest_step(self) -> None:
        pool = pool_of(Unit("u", 100, grain=10))
        left = 9.0
        assert pool.take("a", "east", seconds_left=left, pace=1.0) == Leave("walltime")
        assert (pool.drains, pool.free, pool.lent) == ({}, 100, [])
        assert isinstance(pool.take("a", "east", seconds_left=left + 1.0, pace=1.0), Block)

    def test_one_that_does_not_know_its_pace_tries(self) -> None:
        assert size(pool_of(Unit("u", 100, grain=10)), left=0.1) == 10

    def test_the_pool_is_closed(self) -> None:
        pool = pool_of(Unit("u", 10))
        block = lend(pool, "a", "east")
        pool.closed = True
        assert pool.take("b", "west") == Leave("closed")
        assert finish(pool, block)
        assert pool.take("a", "east") == Leave("closed")
        assert pool.drains == {}

    def test_a_worker_has_more_drains_than_threads(self) -> None:
        pool = pool_of(Unit("u", 10))
        for drain in ("a", "b"):
            assert isinstance(pool.take(drain, "east", room=2), Block)
        assert pool.take("c", "east", room=2) == Leave("surplus")
        assert isinstance(pool.take("a", "east", room=2), Block)
        assert isinstance(pool.take("c", "west", room=2), Block)
        assert pool.drains == {"east": 2, "west": 1}

    def test_all_drains_of_a_worker_that_cannot_work_leave(self) -> None:
        pool = pool_of(Unit("u", 40, grain=10))
        held, goes_on = lend(pool, "a", "east"), lend(pool, "b", "east")
        pool.fault("east", "no GPU")
        pool.fault("east", "no GPU, says another thread")
        assert pool.faults == {"east": "no GPU"}
        assert pool.take("a", "east") == Leave("fault")
        assert not finish(pool, held)
        assert finish(pool, goes_on)
        assert pool.take("b", "east") == Leave("fault")
        assert pool.take("c", "east", seconds_left=0.0) == Leave("fault")
        assert (pool.drains, pool.lent, ranges(pool)) == ({}, [], [(10, 20)])

    def test_one_that_comes_back_under_the_same_address_is_tried_again(self) -> None:
        pool = pool_of(Unit("u", 40, grain=10))
        pool.fault("east", "no GPU")
        pool.lost("west")
        assert pool.take("a", "east") == Leave("fault")
        pool.lost("east")
        assert pool.faults == {}
        assert isinstance(pool.take("a", "east"), Block)

    def test_what_one_held_who_has_to_leave_is_lent_to_another(self) -> None:
        pool = pool_of(Unit("u", 10, grain=10))
        first = lend(pool, "a", "east")
        assert pool.take("a", "east", seconds_left=0.0) == Leave("walltime")
        assert not finish(pool, first)
        assert finish(pool, lend(pool, "b", "west"))
        assert ranges(pool) == [(0, 10)]


class TestTrouble:
    def test_a_block_that_failed_goes_to_another_worker(self) -> None:
        pool = pool_of(Unit("u", 20, grain=10))
        lend(pool, "b", "west")
        failed = lend(pool, "a", "east")
        pool.fail(failed.token, "no GPU")
        assert pool.take("a", "east") is None
        pool.leave("b")
        again = lend(pool, "c", "north")
        assert (again.start, again.stop) == (0, 10)

    def test_the_rest_of_the_unit_is_for_everybody(self) -> None:
        pool = pool_of(Unit("u", 30, grain=10))
        lend(pool, "b", "west")
        failed = lend(pool, "a", "east")
        pool.fail(failed.token, "no GPU")
        assert lend(pool, "a", "east").start == 20

    def test_nobody_waits_for_another_worker_if_there_is_none(self) -> None:
        pool = pool_of(Unit("u", 10, grain=10))
        for _ in range(ATTEMPTS - 1):
            pool.fail(lend(pool, "a", "east").token, "no GPU")
        assert finish(pool, lend(pool, "a", "east"))

    def test_nor_if_it_failed_on_all_of_them(self) -> None:
        pool = pool_of(Unit("u", 10, grain=10))
        pool.fail(lend(pool, "a", "east").token, "no GPU")
        pool.fail(lend(pool, "b", "west").token, "no GPU")
        assert finish(pool, lend(pool, "a", "east"))

    def test_a_worker_on_which_it_failed_does_not_skip_a_block_in_order(self) -> None:
        pool = pool_of(Unit("u", 30, grain=10, ordered=True))
        block = lend(pool, "a", "east")
        assert pool.take("b", "west") is None
        pool.fail(block.token, "no GPU")
        assert pool.take("a", "east") is None
        assert lend(pool, "b", "west").start == 0

    def test_a_unit_in_order_is_lent_whole(self) -> None:
        pool = pool_of(Unit("u", 1000, ordered=True), target_s=0.1)
        block = lend(pool, "a")  # although nobody knows how long it takes
        assert (block.start, block.stop) == (0, 1000)
        pool.commit(block.token, Done(3, b""), 1.0)
        assert size(pool, "a", pace=1.0) == 997

    def test_a_unit_in_order_that_was_begun_comes_before_others(self) -> None:
        pool = pool_of(*(Unit(key, 10, ordered=True) for key in "abc"))
        block = lend(pool, "x")
        pool.commit(block.token, Done(3, b""), 1.0)
        assert [lend(pool, drain).key for drain in "xyz"] == ["a", "b", "c"]

    def test_a_unit_is_given_up_after_three_errors_in_one_range(self) -> None:
        pool = pool_of(Unit("bad", 20, grain=10))
        held = lend(pool, "b", "west")
        for attempt in range(ATTEMPTS):
            # The one before waits for another block, and is not there when the next one comes.
            block = lend(pool, "a", f"east{attempt}")
            assert block.start == 10
            pool.fail(block.token, f"error {attempt}")
            pool.leave("a")
        assert pool.collect() == [
            Failed(i + 1, "bad", 10, 20, f"error {i}", f"east{i}", i == ATTEMPTS - 1)
            for i in range(ATTEMPTS)
        ]
        assert not finish(pool, held)
        assert (pool.lent, pool.free) == ([], 0)
        pool.offer(Unit("good", 10))
        assert lend(pool, "b", "west").key == "good"

    def test_a_block_is_none_the_worse_for_workers_that_cannot_work(self) -> None:
        pool = pool_of(Unit("u", 20, grain=10))
        pool.fail(lend(pool, "a", "east").token, "error")
        for i in range(max(ATTEMPTS, LOSSES) + 1):
            worker = f"west{i}"
            assert lend(pool, "b", worker).start == 0
            pool.fault(worker, "no GPU")
            assert pool.take("b", worker) == Leave("fault")
        assert [event.number for event in pool.collect()] == [1]
        pool.fail(lend(pool, "c", "north").token, "error")
        assert finish(pool, lend(pool, "c", "north", pace=1e9))  # and not halved
        assert finish(pool, lend(pool, "c", "north", pace=1e9))
        assert ranges(pool) == [(0, 10), (10, 20)]

    def test_errors_in_other_ranges_do_not_add_up(self) -> None:
        pool = pool_of(Unit("u", 100, grain=10))
        blocks = [lend(pool, f"d{i}") for i in range(10)]
        for block in blocks:
            pool.fail(block.token, "bad luck")
        assert not any(event.final for event in pool.events if isinstance(event, Failed))

    def test_doing_nothing_of_a_block_does_not_undo_its_errors(self) -> None:
        pool = pool_of(Unit("u", 10, grain=10))
        for _ in range(ATTEMPTS):
            pool.commit(lend(pool, "a", "east").token, Done(0, b""), 1.0)
            pool.fail(lend(pool, "a", "east").token, "no GPU")
        assert [event.final for event in pool.events if isinstance(event, Failed)][-1]
        assert pool.free == 0

    def test_a_range_in_which_workers_die_again_and_again_ends_its_unit(self) -> None:
        pool = pool_of(Unit("u", 10, grain=10))
        for i in range(LOSSES):
            assert pool.free == 10
            lend(pool, f"d{i}")
            pool.lost(f"worker of d{i}")
        (event,) = pool.collect()
        assert isinstance(event, Failed)
        assert event.final
        assert event.error == "30 workers died in it, one by one"
        assert (pool.free, pool.drains) == (0, {})

    @pytest.mark.parametrize("reached", [-1, 11])
    def test_a_runner_that_says_nonsense_has_failed(self, reached: int) -> None:
        pool = pool_of(Unit("u", 20, grain=10))
        pool.commit(lend(pool, "a").token, Done(reached, b""), 1.0)
        (event,) = pool.collect()
        assert isinstance(event, Failed)
        assert event.error == f"the runner says {reached} of steps 0 to 10"

    def test_all_drains_of_a_lost_worker_are_forgotten(self) -> None:
        pool = pool_of(Unit("u", 40, grain=10))
        blocks = [lend(pool, drain, "east") for drain in "abc"]
        held = lend(pool, "d", "west")
        pool.lost("east")
        assert not any(finish(pool, block) for block in blocks)
        assert pool.drains == {"west": 1}
        assert pool.lent == [("u", 30, 40, "west")]
        assert finish(pool, held)

    def test_losing_a_worker_that_is_not_known_does_nothing(self) -> None:
        pool = pool_of(Unit("u", 10))
        pool.lost("nowhere")
        pool.leave("nobody")
        pool.withdraw("nothing")
        assert pool.free == 10


class TestLeases:
    def test_one_who_asks_again_gets_the_same_range_under_a_new_token(self) -> None:
        pool = pool_of(Unit("u", 30, grain=10))
        first = lend(pool, "a", "east")
        again = lend(pool, "a", "east")
        assert (again.start, again.stop) == (first.start, first.stop)
        assert not finish(pool, first)
        assert not pool.fail(first.token, "late")
        assert finish(pool, again)
        assert not finish(pool, again)
        assert ranges(pool) == [(0, 10)]

    def test_the_rest_of_a_block_is_lent_next(self) -> None:
        pool = pool_of(Unit("u", 30, grain=10))
        block = lend(pool, "a", "east")
        pool.commit(block.token, Done(10, b""), 1.0)
        block = lend(pool, "a", "east", pace=20.0)
        pool.commit(block.token, Done(15, b""), 1.0)
        while block := pool.take("a", "east"):  # type: ignore[assignment]
            assert finish(pool, block)
        assert ranges(pool) == [(0, 10), (10, 15), (15, 20), (20, 30)]

    def test_tokens_of_other_pools_mean_nothing(self) -> None:
        one, other = Pool("one"), Pool("other")
        for pool in (one, other):
            pool.offer(Unit("u", 10))
        token = lend(one, "a").token
        assert token != lend(other, "a").token
        assert not other.commit(token, Done(1, b""), 1.0)


class TestOffers:
    def test_units_are_lent_in_the_order_in_which_they_came(self) -> None:
        pool = pool_of(*(Unit(key, 2) for key in ("z", "m", "a")))
        keys = [lend(pool, f"d{i}").key for i in range(6)]
        assert keys == ["z", "z", "m", "m", "a", "a"]

    def test_what_is_done_is_not_lent(self) -> None:
        pool = Pool("p")
        pool.offer(Unit("u", 50, grain=10), [(0, 10), (15, 20), (30, 50)])
        assert pool.free == 15
        blocks = [lend(pool, f"d{i}") for i in range(2)]
        assert [(block.start, block.stop) for block in blocks] == [(10, 15), (20, 30)]
        assert pool.take("c", "north") is None

    def test_a_unit_that_grows_is_lent_further(self) -> None:
        pool = pool_of(Unit("u", 10, grain=10))
        finish(pool, lend(pool, "a"))
        assert pool.take("a", "worker of a") is None
        pool.offer(Unit("u", 25, grain=10))
        assert pool.free == 15
        assert [(b.start, b.stop) for b in (lend(pool, "a"), lend(pool, "b"))] == [
            (10, 20),
            (20, 25),
        ]

    def test_a_unit_does_not_shrink(self) -> None:
        pool = pool_of(Unit("u", 10))
        held = lend(pool, "a", pace=1.0)
        pool.offer(Unit("u", 3))
        pool.offer(Unit("u", 12))
        assert pool.free == 12 - (held.stop - held.start)

    def test_a_unit_that_is_withdrawn_is_forgotten(self) -> None:
        pool = pool_of(Unit("u", 10), Unit("v", 10))
        held = lend(pool, "a")
        pool.withdraw("u")
        assert not finish(pool, held)
        assert (pool.free, pool.lent) == (10, [])
        assert lend(pool, "a").key == "v"

    def test_one_that_comes_again_is_lent_but_for_what_is_still_to_be_collected(self) -> None:
        pool = pool_of(Unit("u", 30, grain=10))
        finish(pool, lend(pool, "a"))
        pool.withdraw("u")
        pool.offer(Unit("u", 30, grain=10))
        assert pool.free == 20
        assert lend(pool, "a").start == 10

    def test_also_if_that_lies_within_what_the_ledger_has(self) -> None:
        pool = Pool("p")
        pool.offer(Unit("u", 30, grain=10), [(0, 10), (20, 30)])
        finish(pool, lend(pool, "a"))
        pool.withdraw("u")
        # The driver wrote it down, but its acknowledgement has not come.
        pool.offer(Unit("u", 30, grain=10), [(0, 30)])
        assert pool.free == 0


class TestCollecting:
    def test_results_are_kept_until_they_are_acknowledged(self) -> None:
        pool = pool_of(Unit("u", 30, grain=10))
        for _ in range(3):
            finish(pool, lend(pool, "a"))
        everything = pool.collect()
        assert [event.number for event in everything] == [1, 2, 3]
        assert pool.collect() == everything
        assert pool.collect(0, most=2) == everything[:2]
        assert pool.collect(2) == everything[2:]
        assert pool.collect(0) == everything[2:]
        assert pool.collect(3) == []
        assert not pool.events

    def test_a_result_says_who_did_it_and_how_long_it_took(self) -> None:
        pool = pool_of(Unit("u", 30, grain=10))
        block = lend(pool, "a", "east")
        assert pool.commit(block.token, Done(7, b"seven"), 2.5)
        assert pool.collect() == [Committed(1, "u", 0, 7, b"seven", "east", 2.5)]

    def test_nothing_done_is_no_news(self) -> None:
        pool = pool_of(Unit("u", 30, grain=10))
        assert pool.commit(lend(pool, "a").token, Done(0, b""), 1.0)
        assert pool.collect() == []
        assert pool.free == 30
