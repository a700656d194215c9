"""A data set gives every event once an epoch, and goes on where it was left."""

from __future__ import annotations

import json
import threading
from collections import Counter
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_batches import Made, assert_whole

from hepdask_ml.data.mixing import Room
from hepdask_ml.errors import InputError
from hepdask_ml.training.ahead import ahead
from hepdask_ml.training.checkpoint import Checkpoints
from hepdask_ml.training.context import Context, Place
from hepdask_ml.training.datasets import Dataset
from hepdask_ml.training.pieces import Mark

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=5).map(tuple)
few = settings(max_examples=40, deadline=None)

Event = tuple[int, int]


def events_of(batches: Any) -> list[Event]:
    return [
        event
        for batch in batches
        for event in zip(batch["files"].tolist(), batch["events"].tolist(), strict=True)
    ]


def all_events(stream: Made) -> list[Event]:
    return [
        (file, event)
        for file, length in enumerate(stream.lengths)
        for event in range(length)
        if not stream.selection or event % 3
    ]


def same(one: Any, other: Any) -> bool:
    """Whether two batches are equal bit by bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(
        one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    )


def assert_same(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    assert all(map(same, found, expected))


@few
@given(
    LENGTHS,
    st.booleans(),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 25),
    st.integers(1, 80),
    st.booleans(),
)
def test_every_selected_event_is_given_once_an_epoch(
    lengths: tuple[int, ...],
    selection: bool,
    world: int,
    workers: int,
    batch: int,
    buffer: int,
    shuffle: bool,
) -> None:
    stream = Made(lengths, selection)
    found = []
    for rank in range(world):
        data = Dataset(
            stream, batch, shuffle=shuffle, buffer=buffer, rank=rank, world=world, prefetch=0
        )
        for worker in range(workers):
            course = data.course(2, worker=worker, workers=workers)
            parts = [events for _, events in course]
            assert all(len(part) == batch for part in parts[:-1])
            found += [
                (int(f), int(e)) for p in parts for f, e in zip(p.files, p.events, strict=True)
            ]
    assert sorted(found) == all_events(stream)
    if not shuffle and not selection:
        assert found == all_events(stream)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("reuse", [True, False])
def test_batches_hold_the_numbers_of_their_events(
    shuffle: bool, prefetch: int, reuse: bool
) -> None:
    stream = Made((50, 0, 33), reuse=reuse)
    data = Dataset(stream, 16, shuffle=shuffle, buffer=40, prefetch=prefetch)
    batches = list(data)
    for batch in batches:
        assert_whole(batch)
    assert [len(batch["events"]) for batch in batches] == [16] * 5 + [3]
    shuffled = events_of(batches) != all_events(Made((50, 0, 33)))
    assert shuffled is shuffle


def test_epochs_and_seeds_differ_and_come_again() -> None:
    stream = Made((80,))
    data = Dataset(stream, 16, seed=1)
    first, second = events_of(data), events_of(data)
    assert first != second
    assert sorted(first) == sorted(second)
    assert (data.epoch, data.index) == (2, 0)
    data.seek(0)
    assert events_of(data) == first
    assert events_of(Dataset(stream, 16, seed=2)) != first


def test_a_last_batch_that_is_not_full_can_be_left_out() -> None:
    data = Dataset(Made((50,)), 16, drop_last=True)
    assert [len(batch["events"]) for batch in data] == [16, 16, 16]


@few
@given(
    LENGTHS,
    st.booleans(),
    st.booleans(),
    st.integers(1, 20),
    st.integers(0, 30),
    st.sampled_from([None, "repeat", 9]),
)
def test_an_epoch_goes_on_where_it_was_left(
    lengths: tuple[int, ...],
    selection: bool,
    shuffle: bool,
    batch: int,
    at: int,
    steps: Any,
) -> None:
    stream = Made((*lengths, 5), selection)
    options: dict[str, Any] = {
        "shuffle": shuffle, "buffer": 30, "prefetch": 0, "steps": steps, "n_events": 20,
    }  # fmt: skip
    data = Dataset(stream, batch, **options)
    undisturbed = [*data, *data]
    data.seek(0)
    before = list(islice(chain(data, data), at))
    state = json.loads(json.dumps(data.state_dict()))
    again = Dataset(stream, batch, **options)
    again.load_state_dict(state)
    after: list[Any] = []
    while again.epoch < 2:
        after += list(again)
    assert_same([*before, *after], undisturbed)


def test_portions_before_the_place_are_not_read_again() -> None:
    options: dict[str, Any] = {"buffer": 50, "span": 10, "prefetch": 0}
    data = Dataset(Made((1000,)), 20, **options)
    list(islice(data, 40))
    stream = Made((1000,))
    again = Dataset(stream, 20, **options)
    again.load_state_dict(data.state_dict())
    next(iter(again))
    assert sum(span.stop - span.start for span in stream.reads) == 50


def test_another_rank_goes_to_the_same_index() -> None:
    stream = Made((60, 43), selection=True)
    ranks = [Dataset(stream, 6, rank=rank, world=2) for rank in range(2)]
    expected = list(ranks[1])
    list(islice(ranks[0], 3))
    ranks[1].load_state_dict(ranks[0].state_dict())
    assert ranks[1].index == 3
    assert_same(list(ranks[1]), expected[3:])


def test_another_world_begins_with_an_epoch() -> None:
    stream = Made((60,))
    data = Dataset(stream, 6)
    list(data)
    pair = [Dataset(stream, 6, rank=rank, world=2) for rank in range(2)]
    for each in pair:
        each.load_state_dict(data.state_dict())
        assert each.epoch == 1
    assert sorted(chain(*map(events_of, pair))) == all_events(stream)
    list(islice(data, 3))
    with pytest.raises(InputError, match="it stands behind batch 3 of an epoch of other batches"):
        pair[0].load_state_dict(data.state_dict())


def test_an_iteration_after_a_break_goes_on() -> None:
    data = Dataset(Made((50,)), 10, seed=4)
    expected = list(Dataset(Made((50,)), 10, seed=4))
    found = []
    for batch in data:
        found.append(batch)
        break
    assert (data.epoch, data.index) == (0, 1)
    assert_same([*found, *data], expected)


@pytest.mark.parametrize(("steps", "expected"), [("drop", 3), ("repeat", 4), (6, 6)])
@pytest.mark.parametrize("world", [1, 3])
def test_ranks_can_have_the_same_number_of_full_batches(
    steps: Any, expected: int, world: int
) -> None:
    stream = Made((37 * world,))
    ranks = [Dataset(stream, 10, rank=rank, world=world, steps=steps) for rank in range(world)]
    assert [data.steps for data in ranks] == [expected] * world
    found = [list(data) for data in ranks]
    assert {len(each["events"]) for each in chain(*found)} == {10}
    assert {len(each) for each in found} == {expected}
    times = Counter(chain(*map(events_of, found)))
    if steps == "drop":
        assert set(times.values()) == {1}
    else:
        assert set(times) == set(all_events(stream))
        assert max(times.values()) == 2


def test_a_rank_of_a_selection_comes_to_its_steps() -> None:
    stream = Made((60, 60), selection=True)
    with pytest.raises(InputError, match="how many events the selection keeps is not known"):
        Dataset(stream, 10, steps="drop")
    for rank in range(3):
        data = Dataset(stream, 10, rank=rank, world=3, steps="repeat", n_events=80)
        assert [len(batch["events"]) for batch in data] == [10, 10, 10]


def test_steps_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="5 events are too few for 1 ranks with a batch of 10"):
        list(Dataset(Made((5,)), 10, steps="drop"))
    empty = Made((9, 9), broken=0, unreadable="skip", selection=True)
    data = Dataset(empty, 3, steps=4, rank=0, world=2, shuffle=False)
    with pytest.raises(InputError, match="rank 0 of 2 has no events to fill its steps with"):
        list(data)


def test_what_was_passed_over_is_shown() -> None:
    stream = Made((20, 20, 20), broken=1, unreadable="skip")
    data = Dataset(stream, 8)
    assert sorted(events_of(data)) == [each for each in all_events(stream) if each[0] != 1]
    assert data.skipped == ("/data/1.root",)
    assert data.sources == stream.sources


def ours() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "hepdask-ml ahead"]


def test_errors_of_the_thread_come_out_where_batches_are_used() -> None:
    data = Dataset(Made((50, 50), broken=1), 10, shuffle=False, buffer=20)
    found: list[Any] = []
    with pytest.raises(InputError, match=r"/data/1\.root is damaged"):
        found.extend(data)
    assert not ours()
    assert data.index == 5


def test_threads_work_ahead_and_end_with_the_iteration() -> None:
    stream = Made((100,))
    data = Dataset(stream, 10, buffer=20, span=20)
    iterator = iter(data)
    next(iterator)
    assert len(ours()) == 2  # one reads, one gathers batches
    del iterator
    assert not ours()
    assert stream.threads == {"hepdask-ml ahead"}
    list(data)
    assert not ours()


def test_no_more_is_made_ahead_than_was_asked_for() -> None:
    made: list[int] = []
    halted = threading.Event()

    def make(over: Any) -> Any:
        for number in range(9):
            made.append(number)
            yield number
            if over():
                halted.set()

    things: Any = ahead(make, 2)
    assert next(things) == 0
    while len(made) < 3:  # the thread makes two more, and then waits
        halted.wait(0.001)
    assert not halted.wait(0.05)
    assert made == [0, 1, 2]
    things.close()
    assert not ours()


@pytest.mark.parametrize("prefetch", [0, 1, 2])
def test_memory_is_bounded_by_portions(prefetch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[Room] = []

    class Counted(Room):
        def __init__(self) -> None:
            super().__init__()
            rooms.append(self)

    monkeypatch.setattr("hepdask_ml.training.datasets.Room", Counted)
    stream = Made((1000,), size=30)
    # Batches reach over the borders of portions, and what is given stays what it is.
    found = list(Dataset(stream, 37, buffer=100, span=25, prefetch=prefetch))
    for batch in found:
        assert_whole(batch)
    assert sorted(events_of(found)) == all_events(stream)
    assert len(rooms) <= prefetch + 1


def test_a_training_takes_up_its_data(tmp_path: Any) -> None:
    def train(stop: int, seen: list[Event]) -> Context:
        context = Context(
            Place(0, "", 5, 0, stop, 4), checkpoints=Checkpoints(tmp_path / "trial"), interval_s=0.0
        )
        data = Dataset(Made((50, 20)), 16, seed=context.seed)
        for epoch in context.epochs(data=data):
            seen += events_of(data)
            context.report(epoch, 1.0)
        return context

    cut: list[Event] = []
    train(1, cut)
    train(3, cut)
    data = Dataset(Made((50, 20)), 16, seed=5)
    assert cut == [*events_of(data), *events_of(data), *events_of(data)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "a batch of 0 events is none"),
        ({"rank": 2, "world": 2}, "there is no rank 2 of 2"),
        ({"prefetch": -1}, "-1 portions cannot be read ahead"),
        ({"steps": "both"}, "steps is 'both': it may be drop or repeat, or a number of batches"),
        ({"steps": 0}, "steps is 0: it may be drop or repeat"),
        ({"buffer": 0}, "a buffer of 0 events mixes none"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Dataset(Made((9,)), **options)


def test_a_place_among_workers_is_for_as_many() -> None:
    data = Dataset(Made((90,)), 9)
    state = {"epoch": 0, "index": 2, "rank": 0, "marks": [[0, 9, 1]] * 2, "turn": 0}
    data.load_state_dict({**state, "order": data._digest})
    with pytest.raises(InputError, match="in the midst of an epoch of 2 workers, and there are 1"):
        next(iter(data))
    assert Mark() == (0, 0, 0)


def test_stream_without_tensors_is_refused() -> None:
    stream: Any = Made((3,))
    stream.batches = lambda *_: iter([[1, 2, 3]])
    with pytest.raises(InputError, match=r"the stream gives a list, .* hepdask_ml\.tensors"):
        list(Dataset(stream, 2))
