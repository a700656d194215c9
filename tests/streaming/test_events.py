"""A function over all events: each counts once, however often it is begun again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.data.arrivals import arrivals
from hepdask_ml.data.sources import Source
from hepdask_ml.data.streams import Stream, events
from hepdask_ml.data.with_uproot import UnreadableFile
from hepdask_ml.errors import CampaignError, InputError, Interrupted
from hepdask_ml.streaming.campaign import process_events
from hepdask_ml.ui.cli import main
from hepdask_ml.ui.kinds import words_of


@dataclass(frozen=True)
class Counting:
    """Events of a file are the numbers from 0; how many there are is its only line."""

    def n_events(self, source: Source, url: str, **options: Any) -> int:
        try:
            return int(Path(url).read_text())
        except FileNotFoundError:
            raise UnreadableFile(f"{url} cannot be read: check it") from None

    def batches(
        self, source: Source, url: str, start: int, stop: int, size: int, **options: Any
    ) -> Iterator[tuple[int, Any]]:
        self.n_events(source, url)
        for at in range(start, stop, size):
            end = min(at + size, stop)
            yield end, np.arange(at, end)


def total(numbers: Any) -> dict[str, Any]:
    return {"n": len(numbers), "sum": int(numbers.sum())}


def expected(*lengths: int) -> dict[str, int]:
    return {"n": sum(lengths), "sum": sum(n * (n - 1) // 2 for n in lengths)}


def files(folder: Path, *lengths: int) -> list[Source]:
    found = []
    for number, length in enumerate(lengths):
        path = folder / f"file{number}"
        path.write_text(str(length))
        found.append(Source(str(path), "Events", "odd" if number % 2 else "even"))
    return found


def stream(found: Any, size: int = 10, **options: Any) -> Stream[Any]:
    return Stream(found, Counting(), size=size, **{"attempts": 1, **options})


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=5).filter(any),
    size=st.integers(1, 40),
    threads=st.integers(1, 4),
)
def test_each_event_counts_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], size: int, threads: int
) -> None:
    found = files(tmp_path_factory.mktemp("files"), *lengths)
    result = process_events(total, stream(found, size), block_s=1e-4).run(threads=threads)
    assert result.value == expected(*lengths)
    assert result.n_events == sum(lengths)
    assert result.datasets["even"] == (expected(*lengths[::2]) if any(lengths[::2]) else None)
    assert result.finished


class Nervous:
    """Interrupts its driver now and then."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, numbers: Any) -> dict[str, Any]:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return total(numbers)


def test_who_runs_it_again_goes_on_also_with_more_files(tmp_path: Path) -> None:
    found = files(tmp_path, 50, 70)
    ledger = tmp_path / "events.db"
    for _ in range(2):
        campaign = process_events(Nervous(3), stream(found), ledger=ledger, name="sum")
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            campaign.run(watch=lambda *_: signal.raise_signal(signal.SIGINT))
    campaign = process_events(total, stream(found), ledger=ledger, name="sum")
    assert campaign.run().value == expected(50, 70)
    assert campaign.finished
    more = process_events(total, stream(files(tmp_path, 50, 70, 33)), ledger=ledger, name="sum")
    assert not more.finished
    assert more.run().value == expected(50, 70, 33)
    with pytest.raises(InputError, match=r"file1, which is not among the files any more"):
        process_events(total, stream(found[:1]), ledger=ledger, name="sum").run()
    with pytest.raises(InputError, match="name"):
        process_events(total, stream(found), ledger=ledger, name="another").run()


def test_unreadable_file_ends_it_or_is_named(tmp_path: Path) -> None:
    found = files(tmp_path, 50, 70)
    Path(found[1].url).unlink()
    with pytest.raises(UnreadableFile, match="file1"):
        process_events(total, stream(found)).run()
    ledger = tmp_path / "events.db"
    chosen = stream(found, unreadable="skip")
    result = process_events(total, chosen, ledger=ledger).run()
    assert result.value == expected(50)
    assert list(result.missing) == [found[1].url]
    assert "1 files missing" in repr(result)
    assert "file1" in result._repr_html_()
    assert "file1" in str(words_of("events").failure(result))
    # It is tried again, and is all there.
    files(tmp_path, 50, 70)
    result = process_events(total, stream(found, unreadable="skip"), ledger=ledger).run()
    assert result.value == expected(50, 70)
    assert result.n_events == 120
    assert not result.missing


def test_events_that_are_missing_are_counted(tmp_path: Path) -> None:
    class Ending(Counting):
        def batches(self, *given: Any, **options: Any) -> Any:
            for stop, part in super().batches(*given, **options):
                if stop > 30:
                    raise UnreadableFile("bytes are missing")
                yield stop, part

    [found] = files(tmp_path, 50)
    chosen = Stream([found], Ending(), size=10, attempts=1, unreadable="skip")
    result = process_events(total, chosen, block_s=1e-9).run()
    assert result.value == expected(30)
    assert result.missing[found.url].startswith("events 30 to 50: no copy can be read: bytes")


def test_what_is_no_function_or_no_stream_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 is no function: give one"):
        process_events(3, stream(files(tmp_path, 5)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'nano/\*.root' is no stream: give what events"):
        process_events(total, "nano/*.root")  # type: ignore[arg-type]


def broken(numbers: Any) -> dict[str, Any]:
    if numbers[0] >= 30:
        raise RuntimeError("a muon without momentum")
    return total(numbers)


@pytest.mark.parametrize("unreadable", ["error", "skip"])
def test_function_that_fails_is_no_unreadable_file(tmp_path: Path, unreadable: str) -> None:
    campaign = process_events(broken, stream(files(tmp_path, 50), unreadable=unreadable))
    with pytest.raises(CampaignError, match=r"a muon without momentum.* mend"):
        campaign.run()


def test_ledger_is_shown_and_reported(tmp_path: Path) -> None:
    ledger = tmp_path / "events.db"
    campaign = process_events(total, stream(files(tmp_path, 50)), ledger=ledger)
    assert "not run yet" in campaign._repr_html_()
    campaign.run()
    assert "50 events of 1 files" in campaign._repr_html_()
    words = words_of("events")
    assert words.kept_text(campaign) == "the values of 50 events"
    with read_ledger(ledger) as book:
        found, [path] = words.report(book, tmp_path / "out")
        assert words.state(book) == "waiting"
        teller = words.Teller()
        teller.look(book)
        assert teller.bar(campaign.status()) == ("1 file", 50, 50)
    assert '"n_events": 50' in path.read_text()
    assert str(words.view(found)) == "EventsResult: 50 events of 1 files"


@pytest.mark.timeout(120)
def test_killed_worker_loses_no_event(tmp_path: Path) -> None:
    found = files(tmp_path, 3000, 50, 2000)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,  # type: ignore[no-untyped-call]
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        killed: list[int] = []

        def kill(*_: Any) -> None:
            if not killed:
                killed.extend(client.run(os.getpid).values())
                os.kill(killed[0], signal.SIGKILL)

        campaign = process_events(slow, stream(found, 50), block_s=0.2)
        result = campaign.run(client, watch=kill)
    assert killed
    assert result.value == expected(3000, 50, 2000)


def slow(numbers: Any) -> dict[str, Any]:
    sleep(0.02)
    return total(numbers)


def written(folder: Path, name: str, n_events: int) -> Path:
    """Write a file as a careful writer does, who gives it its name when it is complete."""
    uproot = pytest.importorskip("uproot")
    with uproot.recreate(folder / f"{name}.part") as file:
        file["Events"] = {"x": np.arange(n_events)}
    return (folder / f"{name}.part").rename(folder / name)


def summed(arrays: Any) -> dict[str, Any]:
    return total(np.asarray(arrays["x"]))


def test_files_are_worked_as_they_come(tmp_path: Path) -> None:
    written(tmp_path, "b.root", 40)
    to_come = {1: ("a.root", 30), 2: ("empty.root", 0), 3: ("c.root", 50)}
    seen: list[int] = []

    def watch(book: Any, status: Any) -> None:
        n_files = len(book.records())
        if n_files not in seen:
            seen.append(n_files)
            if n_files in to_come:
                written(tmp_path, *to_come[n_files])
            elif n_files == 4:
                (tmp_path / "DONE").touch()

    coming = arrivals(f"{tmp_path}/*.root", until=tmp_path / "DONE", poll_s=0.1)
    ledger = tmp_path / "carousel.db"
    campaign = process_events(summed, events(coming, ["x"], size=20), ledger=ledger)
    result = campaign.run(watch=watch)
    assert result.value == expected(40, 30, 50)
    assert result.n_files == 4
    with read_ledger(ledger) as book:
        came = [Path(record.unit.spec["source"]["url"]).name for record in book.records()]
    assert came == ["b.root", "a.root", "empty.root", "c.root"]
    again = arrivals(f"{tmp_path}/*.root", until=tmp_path / "DONE", poll_s=0.1)
    done = process_events(summed, events(again, ["x"], size=20), ledger=ledger).run()
    assert done.value == expected(40, 30, 50)


def test_file_that_is_written_anew_is_another_file(tmp_path: Path) -> None:
    written(tmp_path, "a.root", 400)

    def write_anew(*_: Any) -> None:
        if len(calls) < 2:
            calls.append(written(tmp_path, "a.root", 500))

    def slowly(arrays: Any) -> dict[str, Any]:
        sleep(0.3)
        return summed(arrays)

    calls: list[Path] = []
    found = events(f"{tmp_path}/a.root", ["x"], size=50, attempts=1)
    campaign = process_events(slowly, found, block_s=0.01)
    with pytest.raises(CampaignError, match=r"a\.root is no copy of .* another file with 500"):
        campaign.run(watch=write_anew)


def test_what_never_comes_is_named(tmp_path: Path) -> None:
    here = written(tmp_path, "a.root", 30)
    coming = arrivals([str(here), f"{tmp_path}/b.root"], poll_s=0.05, quiet_s=3.0)
    ledger = tmp_path / "carousel.db"
    campaign = process_events(summed, events(coming, ["x"]), ledger=ledger)
    with pytest.raises(InputError, match=r"1 of 2 files came .*b\.root"):
        campaign.run()
    assert campaign.results().value == expected(30)


def test_command_line_tells_of_it(tmp_path: Path) -> None:
    ledger = tmp_path / "events.db"
    process_events(total, stream(files(tmp_path, 50)), ledger=ledger).run()
    for arguments, says in (
        (["status", str(ledger)], "50"),
        (["status", str(ledger), "--json"], '"events"'),
        (["report", str(ledger), "-o", str(tmp_path / "out")], "50 events of 1 files"),
    ):
        told = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert told.exit_code == 0, told.output
        assert says in told.output
    told = CliRunner().invoke(main, ["merge", str(tmp_path / "all.db"), str(ledger)])
    assert told.exit_code == 2
    assert "are not merged" in told.output
