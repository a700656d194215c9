"""Every event is somebody's, once an epoch, in an order that seed and epoch decide."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.data.order import Order
from hepdask_ml.data.sources import Source, Span
from hepdask_ml.errors import InputError

LENGTHS = st.lists(st.integers(0, 40), max_size=12)


def spans_of(lengths: list[int]) -> list[Span]:
    """Spans of three files, that do not begin at their first event."""
    return [
        Span(Source(f"{place % 3}.root"), 100 * place, 100 * place + length)
        for place, length in enumerate(lengths)
    ]


def events(spans: tuple[Span, ...] | list[Span]) -> list[tuple[str, int]]:
    return [(span.source.url, event) for span in spans for event in range(span.start, span.stop)]


@given(LENGTHS, st.integers(1, 7), st.integers(1, 60), st.booleans(), st.integers(0, 3))
def test_every_event_is_in_one_shard_once(
    lengths: list[int], n_shards: int, buffer: int, shuffle: bool, epoch: int
) -> None:
    spans = spans_of(lengths)
    order = Order(5, shuffle, buffer)
    shards = [order.portions(spans, epoch, shard, n_shards) for shard in range(n_shards)]
    found = [events(list(chain.from_iterable(portions))) for portions in shards]
    assert sorted(chain.from_iterable(found)) == sorted(events(spans))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    if not shuffle:
        assert list(chain.from_iterable(found)) == events(spans)


@given(LENGTHS, st.integers(1, 60))
def test_a_portion_has_no_more_events_than_the_buffer_unless_one_span_has(
    lengths: list[int], buffer: int
) -> None:
    for portion in Order(5, buffer=buffer).portions(spans_of(lengths), 0):
        assert len(events(portion)) <= buffer or len(portion) == 1


@given(LENGTHS, st.integers(0, 2**40), st.integers(0, 3))
def test_an_order_is_a_function_of_seed_and_epoch(
    lengths: list[int], seed: int, epoch: int
) -> None:
    spans = spans_of(lengths)
    assert Order(seed).portions(spans, epoch) == Order(seed).portions(spans, epoch)


def test_epochs_seeds_shards_and_portions_are_shuffled_each_in_its_own_way() -> None:
    spans = spans_of([10] * 20)
    orders = {
        tuple(map(tuple, Order(seed, buffer=30).portions(spans, epoch)))
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert len(orders) == 4
    drawn = {
        tuple(rows)
        for seed in (1, 2)
        for place in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
        if (rows := Order(seed).rows(50, *place)) is not None
    }
    assert len(drawn) == 8
    assert all(sorted(rows) == list(range(50)) for rows in drawn)


def test_portions_have_their_share_of_each_data_set() -> None:
    names = {"signal": 20, "background": 80}
    spans = [
        Span(Source(f"{name}-{i}.root", dataset=name), 0, 10)
        for name, n in names.items()
        for i in range(n)
    ]
    for epoch in range(20):
        for portion in Order(3, buffer=200).portions(spans, epoch):
            signal = sum(span.source.dataset == "signal" for span in portion)
            assert abs(signal - len(portion) / 5) <= 2


def test_one_data_set_is_shuffled_as_a_whole() -> None:
    spans = spans_of([10] * 30)
    first = {Order(seed, buffer=10).portions(spans, 0)[0][0].start for seed in range(60)}
    assert len(first) > 20


def test_without_shuffling_nothing_is_drawn_and_no_spans_are_kept_together() -> None:
    order = Order(shuffle=False)
    assert order.rows(5, 0, 0, 0) is None
    assert [len(portion) for portion in order.portions(spans_of([3, 4, 5]), 0)] == [1, 1, 1]


def test_a_shard_that_is_not_there_and_a_buffer_for_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="there is no part 2 of 2: they are counted from 0"):
        Order().portions([], 0, 2, 2)
    with pytest.raises(InputError, match="a buffer of 0 events mixes none"):
        Order(buffer=0)
