"""Events of many files come once each, whatever fails, or it is said which are missing."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import distributed
import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml.data import bounded, replicas, with_xrootd
from hepdask_ml.data.arrivals import Arrivals
from hepdask_ml.data.forms import Look, MissingBranch
from hepdask_ml.data.replicas import Reading, server_of
from hepdask_ml.data.sources import Source, Span
from hepdask_ml.data.streams import Skipped, Stream, events
from hepdask_ml.data.with_uproot import UnreadableFile
from hepdask_ml.errors import InputError

uproot: Any = pytest.importorskip("uproot")
ak: Any = pytest.importorskip("awkward")

N_EVENTS = 100


@pytest.fixture(autouse=True, scope="module")
def _impatient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replicas, "_PAUSE_S", 0.0)
        yield


@dataclass
class MadeUp:
    """Events that are numbers; each copy fails at given events, and then goes on."""

    lengths: Mapping[str, int]
    failures: Mapping[str, list[int]] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    calls: list[tuple[str, int]] = field(default_factory=list)
    done: set[tuple[str, int]] = field(default_factory=set)

    def look(self, source: Source, url: str, **options: Any) -> Look:
        if -1 in self.failures.get(url, ()):
            raise UnreadableFile(f"{url} is away: wait")
        return Look(self.lengths[source.url], self.kinds.get(source.url, {}))

    def n_events(self, source: Source, url: str, **options: Any) -> int:
        return self.look(source, url, **options).n_events

    def batches(
        self, source: Source, url: str, start: int, stop: int, size: int, **options: Any
    ) -> Iterator[tuple[int, list[int]]]:
        del options
        self.calls.append((url, start))
        for begin in range(start, stop, size):
            end = min(begin + size, stop)
            for failure in self.failures.get(url, ()):
                # Events below zero never come, others do when they are asked for again.
                key = (url, failure)
                if failure < 0 or (begin <= failure < end and key not in self.done):
                    self.done.add(key)
                    raise UnreadableFile(f"{url} fails at event {failure}: try again")
            yield end, list(range(begin, end))


def made_up_stream(form: MadeUp, **options: Any) -> Stream[list[int]]:
    urls = {url for url in form.failures if url not in form.lengths}
    found = [
        Source(url, replicas=tuple(sorted(each for each in urls if each.startswith(url))))
        for url in form.lengths
    ]
    return Stream(found, form, **options)


def joined(parts: Iterator[list[int]]) -> list[int]:
    return [event for part in parts for event in part]


failing = st.lists(st.integers(0, N_EVENTS - 1), max_size=6)


@given(
    failures=st.tuples(failing, failing, failing),
    size=st.integers(1, 2 * N_EVENTS),
    ways=st.sampled_from(["iterate", "map", "read"]),
)
@settings(deadline=None, max_examples=60)
def test_no_event_is_lost_or_comes_twice(
    failures: tuple[list[int], list[int], list[int]], size: int, ways: str
) -> None:
    copies = dict(zip(["a", "a-1", "a-2"], failures, strict=True))
    stream = made_up_stream(MadeUp({"a": N_EVENTS}, copies), size=size, attempts=8)
    if ways == "iterate":
        found = joined(iter(stream))
    elif ways == "map":
        found = joined(stream.map(list, threads=2))
    else:
        found = joined(map(stream.read, stream.spans()))
    assert found == list(range(N_EVENTS))
    assert not stream.skipped


@given(failures=failing, size=st.integers(1, N_EVENTS), attempts=st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_what_is_missing_is_what_did_not_come(
    failures: list[int], size: int, attempts: int
) -> None:
    stream = made_up_stream(
        MadeUp({"a": N_EVENTS, "b": 5}, {"a": failures}),
        size=size,
        attempts=attempts,
        unreadable="skip",
    )
    found = joined(iter(stream))
    missing = [event for each in stream.skipped for event in range(each.start, each.stop or 0)]
    assert found == [*(set(range(N_EVENTS)) - set(missing)), *range(5)]


def test_copies_are_tried_in_turn_and_those_that_give_events_again() -> None:
    form = MadeUp({"a": 30}, {"a": [12, 25], "a-1": [17]})
    assert joined(iter(made_up_stream(form, size=5))) == list(range(30))
    assert form.calls == [("a", 0), ("a-1", 10), ("a", 15), ("a-1", 25)]


def test_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(replicas, "_PAUSE_S", 0.2)
    monkeypatch.setattr("hepdask_ml.data.replicas.time.sleep", pauses.append)
    stream = made_up_stream(MadeUp({"a": 3}, {"a": [-1], "a-1": [-1]}), attempts=6)
    with pytest.raises(UnreadableFile):
        stream.spans()
    assert pauses == pytest.approx([0.2, 0.8, 3.2, 12.8, 30.0])


def test_server_that_failed_is_asked_last_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("hepdask_ml.data.replicas.time.time", lambda: now)
    urls = [("root://one//a", "root://two//a"), ("root://one//b", "root://two//b")]
    form = MadeUp({"root://one//a": 3, "root://one//b": 3}, {"root://one//a": [-2]})
    found = [Source(first, replicas=(other,)) for first, other in urls]
    reading = Reading(form, timeout_s=2.0)
    servers = reading.servers()
    for source in found:
        list(reading.parts(Span(source, 0, 3), 3, servers))
    assert [server_of(url) for url, _ in form.calls] == ["one", "two", "two"]
    now = 21.0
    list(reading.parts(Span(found[1], 0, 3), 3, servers))
    assert form.calls[-1] == ("root://one//b", 0)


@pytest.mark.parametrize("threads", [1, 3])
def test_unreadable_file_is_named_with_its_copies_and_reasons(threads: int) -> None:
    form = MadeUp({"a": 9, "b": 9}, {"b": [-2], "b-1": [-2]})
    match = (
        r"^no copy of b can be read, tried 2 times \(b fails at event -2; b-1 fails at event -2\): "
        'mend it, or choose unreadable="skip" to go on without it$'
    )
    with pytest.raises(UnreadableFile, match=match):
        list(made_up_stream(form, attempts=2).map(list, threads=threads))
    with pytest.raises(UnreadableFile, match=match):
        list(made_up_stream(form, attempts=2))


def test_skipped_file_is_noted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    form = MadeUp({"a": 9, "b": 9, "c": 9}, {"a": [-1], "b": [7]})
    stream = made_up_stream(form, attempts=1, unreadable="skip", size=4)
    with caplog.at_level(logging.WARNING):
        assert joined(iter(stream)) == [*range(4), *range(9)]
    assert stream.skipped == [
        Skipped("a", ("a",), 0, None, "a is away, tried once"),
        Skipped("b", ("b",), 4, 9, "b fails at event 7, tried once"),
    ]
    assert [record.message for record in caplog.records] == [
        "passed over: events 0 to the end of a: a is away, tried once",
        "passed over: events 4 to 9 of b: b fails at event 7, tried once",
    ]
    assert repr(stream) == "<Stream: 3 files, as MadeUp, events of 2 files missing>"
    assert "<li>events 4 to 9 of b" in stream._repr_html_()


def test_form_that_ends_early_is_not_silently_short() -> None:
    class Short(MadeUp):
        def batches(self, *given: Any, **options: Any) -> Iterator[tuple[int, list[int]]]:
            return (each for each in super().batches(*given, **options) if each[0] <= 100)

    with pytest.raises(UnreadableFile, match="a ends at event 100, before 1000, tried 2 times"):
        list(made_up_stream(Short({"a": 1000}), size=50, attempts=2))


@dataclass
class Slow(MadeUp):
    """Its copies stand still, or compute for long."""

    hanging: threading.Event = field(default_factory=threading.Event)
    busy_s: float = 0.0
    closed: list[str] = field(default_factory=list)

    def batches(
        self, source: Source, url: str, start: int, stop: int, size: int, **options: Any
    ) -> Iterator[tuple[int, list[int]]]:
        try:
            for end, part in super().batches(source, url, start, stop, size, **options):
                if url == "a" and end > 10:
                    self.hanging.wait()
                until = time.thread_time() + self.busy_s
                while time.thread_time() < until:
                    pass
                yield end, part
        finally:
            self.closed.append(url)


def test_copy_that_stands_still_is_left_alone() -> None:
    form = Slow({"a": 30}, {"a": [], "a-1": []})
    try:
        assert joined(iter(made_up_stream(form, size=5, timeout=0.2))) == list(range(30))
        assert form.calls == [("a", 0), ("a-1", 10)]
        with pytest.raises(UnreadableFile, match=r"^a does not answer within 0\.1 s, tried once: "):
            list(made_up_stream(replace(form, failures={}), size=5, timeout=0.1, attempts=1))
    finally:
        form.hanging.set()


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="no clocks of threads")
def test_computing_is_not_standing_still() -> None:
    form = Slow({"b": 2}, busy_s=0.3)
    assert joined(iter(made_up_stream(form, timeout=0.1, attempts=1))) == [0, 1]


def test_file_is_closed_when_nobody_reads_on() -> None:
    form = Slow({"b": 30})
    reading = iter(made_up_stream(form, size=5))
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    until = time.monotonic() + 5.0
    while not form.closed and time.monotonic() < until:
        time.sleep(0.01)
    assert form.closed == ["b"]


def test_file_that_cannot_be_closed_has_given_all() -> None:
    class Open(MadeUp):
        def batches(self, *given: Any, **options: Any) -> Iterator[tuple[int, list[int]]]:
            yield from super().batches(*given, **options)
            raise UnreadableFile("a cannot be closed: wait")

    form = Open({"a": 7})
    assert joined(iter(made_up_stream(form))) == list(range(7))
    assert len(form.calls) == 1


class Plain:
    """A form that only does what it has to."""

    def n_events(self, source: Source, url: str, **options: Any) -> int:
        del url, options
        return int(source.url)

    def batches(
        self, source: Source, url: str, start: int, stop: int, size: int, **options: Any
    ) -> Iterator[tuple[int, int]]:
        del source, url, options
        for begin in range(start, stop, size):
            yield min(begin + size, stop), begin


def test_files_come_in_order_however_many() -> None:
    stream = Stream([Source(str(number)) for number in range(1, 40)], Plain(), size=100)
    assert [span.stop for span in stream.spans()] == list(range(1, 40))
    assert [look.n_events for look in stream.look().values()] == list(range(1, 40))
    assert list(stream) == [0] * 39


def test_error_of_a_function_in_another_thread_comes_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        bounded.call(lambda: 1 // 0, 1.0, "it")


@pytest.mark.parametrize(
    ("kinds", "match"),
    [
        (
            {"a": {"x": "float"}, "b": {"x": "double"}},
            '^branch "x" is float in a, but double in b: ',
        ),
        ({"a": {"x": "int", "y": "int"}, "b": {"x": "int"}}, '^branch "y" is in a, but not in b: '),
        ({"a": {"x": "int"}, "b": {"x": "int", "y": "int"}}, '^branch "y" is in b, but not in a: '),
    ],
)
def test_branches_are_the_same_in_all_files(kinds: Any, match: str) -> None:
    stream = made_up_stream(MadeUp({"a": 1, "b": 1}, kinds=kinds))
    with pytest.raises(InputError, match=match):
        stream.spans()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("float[]", "std::vector<float>"),
        ("vector<vector<int32_t> >", "std::vector<std::vector<std::int32_t>>"),
        ("float[]", "ROOT::VecOps::RVec<float>"),
        ("uint32_t", "std::uint32_t"),
    ],
)
def test_trees_and_ntuples_may_be_in_one_stream(one: str, other: str) -> None:
    kinds = {"a": {"x": one}, "b": {"x": other}}
    assert len(made_up_stream(MadeUp({"a": 1, "b": 1}, kinds=kinds)).spans()) == 2


def test_file_without_events_has_no_branches() -> None:
    form = MadeUp({"a": 0, "b": 2}, kinds={"b": {"x": "int"}})
    assert joined(iter(made_up_stream(form))) == [0, 1]


def test_no_events_at_all() -> None:
    with pytest.raises(InputError, match=r"^there are no events in a, b: give files"):
        list(made_up_stream(MadeUp({"a": 0, "b": 0})))
    nothing = made_up_stream(MadeUp({"a": 5}, {"a": [-1]}), unreadable="skip", attempts=1)
    with pytest.raises(InputError, match=r"^not one of 1 files can be read, the first because a"):
        nothing.spans()
    assert nothing.look() == {}
    assert len(nothing.skipped) == 1


def test_steps_of_a_file_set_are_what_is_read() -> None:
    form = MadeUp({"a": 100})
    stream = Stream([Source("a", steps=((0, 5), (50, 60)))], form, size=8)
    assert joined(iter(stream)) == [*range(5), *range(50, 60)]
    assert [(each.start, each.stop) for each in stream.spans()] == [(0, 5), (50, 55), (55, 60)]


def test_missing_steps_are_known_though_the_file_is_not() -> None:
    found = [Source("a", steps=((0, 5), (50, 60))), Source("b")]
    form = MadeUp({"a": 100, "b": 3}, {"a": [-1]})
    stream = Stream(found, form, unreadable="skip", attempts=1)
    assert joined(iter(stream)) == [0, 1, 2]
    assert [(each.start, each.stop) for each in stream.skipped] == [(0, 5), (50, 60)]


def test_results_are_given_while_files_still_come() -> None:
    asked: list[str] = []
    counted = threading.Event()

    def coming() -> Iterator[Source]:
        for url in "abc":
            asked.append(url)
            yield Source(url)
            assert counted.wait(5.0)
            time.sleep(0.1)

    def count(part: list[int]) -> int:
        counted.set()
        return len(part)

    results = Stream(coming(), MadeUp({"a": 1, "b": 2, "c": 3})).map(count, threads=4)
    assert next(results) == 1
    assert asked == ["a", "b"]
    assert list(results) == [2, 3]


def test_map_has_few_ranges_under_way() -> None:
    begun: list[int] = []

    def slow(part: list[int]) -> int:
        begun.append(part[0])
        return part[0]

    results = made_up_stream(MadeUp({"a": 1000}), size=1).map(slow, threads=2)
    assert [next(results), next(results)] == [0, 1]
    assert len(begun) < 10
    results.close()  # type: ignore[attr-defined]


def first_and_length(part: Sequence[int]) -> tuple[int, int]:
    return part[0], len(part)


def test_map_on_a_cluster() -> None:
    form = MadeUp({"a": 90, "b": 7}, {"a": [], "b": [-1]})
    stream = made_up_stream(form, size=10, attempts=1, unreadable="skip")
    with (
        distributed.LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        found = list(stream.map(first_and_length, client))
        form.failures["a"].append(-2)
        assert list(stream.map(first_and_length, client, size=45)) == []
    assert found == [(start, 10) for start in range(0, 90, 10)]
    assert [(each.url, each.start, each.stop) for each in stream.skipped] == [
        ("b", 0, None),
        ("a", 0, 45),
        ("a", 45, 90),
    ]


def test_stream_over_files_that_are_still_coming() -> None:
    came: list[str] = []

    def coming() -> Iterator[Source]:
        for url in "ab":
            came.append(url)
            yield Source(url)

    stream = Stream(coming(), MadeUp({"a": 4, "b": 2}), size=3)
    reading = iter(stream)
    assert next(reading) == [0, 1, 2]
    assert came == ["a"]
    assert repr(stream) == "<Stream: 1 file so far, 4 events, as MadeUp>"
    assert list(reading) == [[3], [0, 1]]
    assert joined(iter(stream)) == [0, 1, 2, 3, 0, 1]
    with pytest.raises(InputError, match="still coming cannot be looked into all at once"):
        stream.spans()
    with pytest.raises(InputError, match="still coming cannot go to another process"):
        pickle.dumps(stream)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "size": (lambda _: made_up_stream(MadeUp({"a": 1}), size=0), "parts of 0 events are none"),
    "map size": (
        lambda _: list(made_up_stream(MadeUp({"a": 1})).map(len, size=0)),
        "parts of 0 events are none",
    ),
    "threads": (
        lambda _: list(made_up_stream(MadeUp({"a": 1})).map(len, threads=0)),
        "0 threads read nothing",
    ),
    "attempts": (
        lambda _: made_up_stream(MadeUp({"a": 1}), attempts=0),
        "0 attempts read nothing",
    ),
    "timeout": (
        lambda _: made_up_stream(MadeUp({"a": 1}), timeout=0),
        "no file answers within 0 s",
    ),
    "unreadable": (
        lambda _: made_up_stream(MadeUp({"a": 1}), unreadable="ignore"),
        '"ignore" is no way with unreadable files: choose error or skip',
    ),
    "client": (
        lambda _: list(
            made_up_stream(MadeUp({"a": 1})).map(len, SimpleNamespace(asynchronous=True))
        ),
        "the client is asynchronous",
    ),
    "no client": (
        lambda _: list(made_up_stream(MadeUp({"a": 1})).map(len, "tcp://host:8786")),
        "'tcp://host:8786' is no client: give",
    ),
    "half a size": (
        lambda _: made_up_stream(MadeUp({"a": 1}), size=1.5),
        "parts of 1.5 events are none",
    ),
    "half a thread": (
        lambda _: list(made_up_stream(MadeUp({"a": 1})).map(len, threads=cast("int", 1.5))),
        "1.5 threads read nothing",
    ),
    "span before the first event": (
        lambda _: made_up_stream(MadeUp({"a": 9})).read(Span(Source("a"), -3, 3)),
        "events -3 to 3 of a are none",
    ),
    "no branches": (lambda path: events(path, []), "branches are an empty list"),
    "number for a branch": (
        lambda path: events(path, ["met", cast("str", 3)]),
        "branches hold 3: give names",
    ),
    "number for branches": (
        lambda path: events(path, cast("str", 3)),
        "branches are 3: give a list of names",
    ),
    "span": (
        lambda _: made_up_stream(MadeUp({"a": 1})).read(Span(Source("a"), 3, 3)),
        "events 3 to 3 of a are none",
    ),
    "form and branches": (
        lambda path: events(str(path), "x", form=MadeUp({})),
        "a form knows its branches",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_senseless_numbers_are_refused(case: str, path: Path) -> None:
    call, match = BAD[case]
    with pytest.raises(InputError, match=match):
        call(path)


# Files


def arrays(start: int, stop: int) -> dict[str, Any]:
    numbers = np.arange(start, stop)
    return {
        "event": numbers,
        "met": numbers.astype("f4") / 2,
        "Jet_pt": ak.unflatten(np.repeat(numbers, numbers % 4).astype("f4"), numbers % 4),
        "Jet_tag": ak.unflatten(np.repeat(numbers, numbers % 4) % 2 == 0, numbers % 4),
    }


def write(path: Path, start: int = 0, stop: int = N_EVENTS, **changes: Any) -> Path:
    made = {**arrays(start, stop), **changes}
    made = {name: array for name, array in made.items() if array is not None}
    kinds = {
        name: array.dtype if isinstance(array, np.ndarray) else array.type.content
        for name, array in made.items()
    }
    with uproot.recreate(path) as file:
        file.mktree("Events", kinds)
        file["Events"].extend(made)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("streams") / "a.root")


def test_ranges_begin_where_baskets_do(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("Events", {"x": np.int64, "y": np.int64})
        for start in range(0, N_EVENTS, 30):
            numbers = np.arange(start, min(start + 30, N_EVENTS))
            file["Events"].extend({"x": numbers, "y": numbers})
        file.mkrntuple("ntuple", {"x": np.int64})
        file["ntuple"].extend({"x": np.arange(30)})
        file["ntuple"].extend({"x": np.arange(70)})
    for tree, expected in {"Events": [0, 30, 60], "ntuple": [0, 30, 66]}.items():
        stream = events(tmp_path / "a.root", "x", tree=tree, size=34)
        assert [span.start for span in stream.spans()] == expected


@pytest.mark.parametrize("size", [1, 7, N_EVENTS, 10 * N_EVENTS])
def test_arrays_of_files(path: Path, tmp_path: Path, size: int) -> None:
    other = write(tmp_path / "b.root", N_EVENTS, N_EVENTS + 9)
    stream = events([str(path), other], ["Jet_*", "event"], tree="Events", size=size)
    parts = list(stream)
    assert all(len(part) <= size for part in parts)
    found = ak.concatenate(parts)
    assert found.fields == ["Jet_pt", "Jet_tag", "event"]
    for name, expected in arrays(0, N_EVENTS + 9).items():
        if name in found.fields:
            assert ak.almost_equal(found[name], expected)
    assert repr(stream) == "<Stream: 2 files, 109 events, as Arrays>"
    copied = pickle.loads(pickle.dumps(stream))
    assert [len(part) for part in copied] == [len(part) for part in parts]
    assert copied.looks[copied.sources[1]].n_events == 9


def test_arrays_of_an_rntuple(tmp_path: Path) -> None:
    pytest.importorskip("uproot", minversion="5.7")
    path = tmp_path / "ntuple.root"
    with uproot.recreate(path) as file:
        ntuple = file.mkrntuple(
            "Events", {"x": np.float32, "Jet_pt": ak.Array([[1.0]]).type.content}
        )
        ntuple.extend(
            {"x": np.arange(5, dtype="f4"), "Jet_pt": ak.Array([[1.0], [], [2.0], [], []])}
        )
    assert [part.x.to_list() for part in events(path, "x", size=3)] == [[0, 1, 2], [3, 4]]
    [part] = events(path)
    assert part.fields == ["x", "Jet_pt"]
    assert part.Jet_pt.to_list() == [[1.0], [], [2.0], [], []]


def test_field_within_a_field_of_an_rntuple(tmp_path: Path) -> None:
    pytest.importorskip("uproot", minversion="5.7")
    path = tmp_path / "ntuple.root"
    with uproot.recreate(path) as file:
        file.mkrntuple(
            "Events", {"jet": ak.Array([{"pt": 1.0, "eta": 0.5}, {"pt": 2.0, "eta": 0}])}
        )
    [part] = events(path, ["jet.pt"])
    assert part.jet.to_list() == [{"pt": 1.0}, {"pt": 2.0}]
    [part] = events(path, ["*"])
    assert part.fields == ["jet"]


def test_name_with_the_sign_of_a_pattern(tmp_path: Path) -> None:
    path = write(tmp_path / "a.root", **dict[str, Any]({"pt[GeV]": np.arange(N_EVENTS)}))
    [part] = events(path, ["pt[GeV]", "pt[[]G*"])
    assert part.fields == ["pt[GeV]"]


def test_copy_with_fewer_events_is_no_copy(path: Path, tmp_path: Path) -> None:
    damaged, other = damage(path, tmp_path / "damaged.root"), write(tmp_path / "b.root", 0, 60)
    with pytest.raises(UnreadableFile, match=r"b.root is no copy .*, but another file with 60 "):
        list(events([[damaged, other]], "met", attempts=1))


READ: dict[str, Callable[[Any], Any]] = {
    "iterate": list,
    "map": lambda stream: list(stream.map(len)),
    "read": lambda stream: stream.read(stream.spans()[0]),
}


@pytest.mark.parametrize("way", READ)
def test_another_file_under_the_name_of_a_copy(way: str, path: Path, tmp_path: Path) -> None:
    damaged = damage(path, tmp_path / "damaged.root")
    other = write(tmp_path / "b.root", met=np.zeros(N_EVENTS, "f4"))
    stream = events([[damaged, other]], "met", attempts=1)
    stream.spans()
    with pytest.raises(UnreadableFile, match=r"b.root is no copy of .*damaged.root"):
        READ[way](stream)


def test_range_beyond_the_end(path: Path) -> None:
    stream = events(path, "met", attempts=1)
    with pytest.raises(UnreadableFile, match="Events ends at event 100, before 130"):
        stream.read(Span(stream.sources[0], 90, 130))


def test_copy_goes_on_where_a_damaged_one_ends(path: Path, tmp_path: Path) -> None:
    damaged = damage(path, tmp_path / "damaged.root")
    with pytest.raises(
        UnreadableFile, match=r"damaged.root:Events, events 0 to 100, .*, tried once"
    ):
        list(events(damaged, "met", attempts=1))
    stream = events([[damaged, path]], "met", size=30)
    assert ak.concatenate(list(stream)).met.to_list() == [each / 2 for each in range(N_EVENTS)]


def damage(path: Path, to: Path) -> Path:
    """Overwrite the basket of a branch, but not what says where it lies."""
    content = bytearray(path.read_bytes())
    with uproot.open(path) as file:
        start, stop = file["Events"]["met"].entries_to_ranges_or_baskets(0, N_EVENTS)[0][1]
    content[start:stop] = b"\xff" * (stop - start)
    to.write_bytes(content)
    return to


def truncated(path: Path, to: Path) -> Path:
    to.write_bytes(path.read_bytes()[:-1500])
    return to


WRONG: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "missing branch": (
        lambda path, _: events(path, ["met", "Jet_p"]),
        r'a.root:Events has no branch "Jet_p": did you mean "Jet_pt"\?$',
    ),
    "missing pattern": (
        lambda path, _: events(path, "Muon_*"),
        'a.root:Events has no branch like "Muon_\\*": ',
    ),
    "missing elsewhere": (
        lambda path, folder: events([path, write(folder / "b.root", met=None)], "met"),
        r'b.root:Events has no branch "met": .*; .*a.root has it$',
    ),
    "missing elsewhere, of all": (
        lambda path, folder: events([path, write(folder / "b.root", met=None)]),
        r'^branch "met" is in .*a.root, but not in .*b.root: ',
    ),
    "other dtype": (
        lambda path, folder: events([path, write(folder / "b.root", met=np.arange(100.0))], "met"),
        r'^branch "met" is float in .*a.root, but double in .*b.root: ',
    ),
    "truncated": (
        lambda path, folder: events(truncated(path, folder / "b.root"), attempts=1),
        r"b.root has only \d+ of its \d+ bytes, tried once: ",
    ),
    "no tree": (lambda path, _: events(path, tree="Event"), 'no tree "Event": did you mean'),
    "empty": (
        lambda _, folder: events(write(folder / "b.root", 0, 0)),
        "^there are no events in .*b.root: ",
    ),
    "step": (
        lambda path, _: events({str(path): {"object_path": "Events", "steps": [[50, 200]]}}),
        "a.root has 100 events, and not those of the step 50 to 200",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_named(case: str, path: Path, tmp_path: Path) -> None:
    make, match = WRONG[case]
    with pytest.raises(InputError, match=match) as caught:
        list(make(path, tmp_path))
    assert "\n" not in str(caught.value)


def test_names_one_by_one(path: Path) -> None:
    stream = events(path.parent.glob("*.root"), "met", tree="Events")
    assert sum(map(len, stream)) == N_EVENTS
    assert [source.tree for source in stream.sources] == ["Events"]
    with pytest.raises(InputError, match="arrivals know their trees and servers"):
        events(Arrivals(path), "met", tree="Events")


def test_xrootd_needs_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    with_xrootd.settle.cache_clear()
    monkeypatch.setattr(with_xrootd, "import_module", missing)
    with pytest.raises(InputError, match=r"read by its client: install hepdask-ml\[data\]"):
        list(events("root://example.org//a.root", "met"))


def test_xrootd_is_given_whole_seconds() -> None:
    pytest.importorskip("XRootD")
    found = [replicas.options_of("root://example.org//a.root", t)["timeout"] for t in (0.1, 2.6)]
    assert found == [1, 3]
    assert replicas.options_of("https://example.org/a.root", 1.0) == {}


def test_missing_branch_goes_from_process_to_process() -> None:
    error = pickle.loads(pickle.dumps(MissingBranch("there is no x", "x")))
    assert (str(error), error.branch) == ("there is no x", "x")


def test_empty_file_among_others(path: Path, tmp_path: Path) -> None:
    empty = write(tmp_path / "b.root", 0, 0)
    assert sum(map(len, events([empty, path], "met"))) == N_EVENTS


@made_up.real_data
def test_branch_that_is_no_array_is_left_out_of_a_pattern() -> None:
    path = made_up.DATA / "root" / "PHYSLITE_example.root"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    some = ["AnalysisElectronsAuxDyn.pt", "EventInfoAuxDyn.*"]
    [part] = events(path, some, tree="CollectionTree")
    assert "EventInfoAuxDyn.eventNumber" in part.fields
    assert "EventInfoAuxDyn.hardScatterVertexLink" not in part.fields
    link = "EventInfoAuxDyn.hardScatterVertexLink/EventInfoAuxDyn.hardScatterVertexLink"
    association = "METAssoc_AnalysisMET"
    for name in (link, link.replace("/", "*"), association):
        with pytest.raises(
            InputError, match=r"(uproot makes no array of it|none that uproot makes)"
        ):
            list(events(path, name, tree="CollectionTree"))
