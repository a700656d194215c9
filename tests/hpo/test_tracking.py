from __future__ import annotations

import threading
from contextlib import ExitStack
from time import sleep
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hpo.made_up_ledgers import search_ledger, work

from hepdask_ml.errors import HepdaskError, InputError
from hepdask_ml.hpo import tracking
from hepdask_ml.hpo.tracking import Tracking, follow, followers
from hepdask_ml.hpo.with_csv import Csv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hepdask_ml.campaign.ledger import Ledger


class Recorder:
    """A follower that writes down how far the search was."""

    name = "recorder"

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.came = threading.Event()

    def follow(self, ledger: Ledger) -> None:
        self.seen.append(ledger.progress().done)
        self.came.set()

    def wait(self) -> None:
        assert self.came.wait(60.0)
        self.came.clear()


class Broken(Recorder):
    """A follower whose tracker is down."""

    name = "broken"
    down = True

    def follow(self, ledger: Ledger) -> None:
        super().follow(ledger)
        if self.down:
            raise OSError("no route\nto host.")


class Hanging(Recorder):
    """A follower whose tracker does not answer until it is let go."""

    name = "hanging"

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def follow(self, ledger: Ledger) -> None:
        assert self.go.wait(60.0)
        super().follow(ledger)


def wait_for(what: Callable[[], object]) -> None:
    while not what():
        sleep(0.01)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with search_ledger() as made:
        yield made


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.go.set()


def test_names_become_followers() -> None:
    recorder = Recorder()
    table, board, same = followers(["csv:a.csv", "tensorboard:runs", recorder, recorder])
    assert (table.name, board.name) == ("csv:a.csv", "tensorboard:runs")  # type: ignore[attr-defined]
    assert same is recorder
    assert followers() == ()
    assert followers(recorder) == (recorder,)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("mlfow:x", '"mlfow:x" is nobody who could follow a search: did you mean "mlflow"'),
        ("paper", "there are mlflow, tensorboard, csv"),
        ("csv", "give one, as in csv:trials.csv"),
        ("tensorboard", "give one, tensorboard:runs"),
        ([7], "7 cannot follow a search: give the name of a follower"),
    ],
)
def test_what_cannot_follow_is_refused(asked: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        followers(asked)
    assert said in str(error.value)


def test_a_folder_is_no_table_and_a_file_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a folder: give a file"):
        followers(f"csv:{tmp_path}")
    with pytest.raises(InputError, match="is a file: give a folder"):
        followers(f"tensorboard:{tmp_path / 'file'}")


def test_followers_of_other_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(group: str) -> list[Any]:
        assert group == tracking.GROUP
        return [SimpleNamespace(name="paper", load=lambda: Paper)]

    class Paper(Recorder):
        def __init__(self, where: str) -> None:
            super().__init__()
            self.where = where

    monkeypatch.setattr(tracking, "entry_points", entry_points)
    (made,) = followers("paper:on my desk")
    assert isinstance(made, Paper)
    assert made.where == "on my desk"


def test_followers_are_told_when_there_is_news(ledger: Ledger) -> None:
    recorder = Recorder()
    with Tracking([recorder], every_s=0.0) as told:
        told(ledger)
        recorder.wait()
        for _ in range(20):
            told(ledger)
            sleep(0.005)
        work(ledger, 0)
        # The end tells it if the look came too early.
        told(ledger)
    assert recorder.seen[0] == 0
    assert recorder.seen[-1] == 4
    assert len(recorder.seen) == 2
    assert list(told.warnings) == []


def test_looks_are_spaced(ledger: Ledger) -> None:
    recorder = Recorder()
    with Tracking([recorder], every_s=1000.0) as told:
        told(ledger)
        recorder.wait()
        work(ledger, 0)
        for _ in range(20):
            told(ledger)
            sleep(0.005)
        assert not recorder.came.is_set()
    assert recorder.seen == [0, 4]


def test_who_hangs_holds_nobody_up(ledger: Ledger, hanging: Hanging) -> None:
    recorder = Recorder()
    with Tracking([hanging, recorder], every_s=0.0, last_s=0.2) as told:
        told(ledger)
        recorder.wait()
        work(ledger, 0)
        while recorder.seen[-1] < 4:
            told(ledger)
        assert list(told.warnings) == []
    assert list(told.warnings) == [
        "hanging was not told everything (no answer so far): run it again to tell the rest",
    ]
    assert hanging.seen == []


def test_who_is_slow_is_told_the_newest(ledger: Ledger, hanging: Hanging) -> None:
    with Tracking([hanging], every_s=0.0) as told:
        told(ledger)
        work(ledger, 0)
        told(ledger)
        work(ledger, 1)
        hanging.go.set()
    assert hanging.seen == [0, 8]
    assert list(told.warnings) == []


def test_who_is_down_is_tried_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_SHORTEST_S", 0.0)
    broken = Broken()
    with Tracking([broken], every_s=0.0) as told:
        while len(broken.seen) < 3:
            told(ledger)
        wait_for(lambda: told.warnings)
        assert list(told.warnings) == [
            "broken is not told how the search goes (no route to host): it is tried again",
        ]
        broken.down = False
        work(ledger, 0)
        while told.warnings:
            told(ledger)
    assert broken.seen[-1] == 4
    assert list(told.warnings) == []


def test_who_is_down_is_left_alone_for_a_while(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_SHORTEST_S", 1e6)
    broken = Broken()
    with Tracking([broken], every_s=0.0) as told:
        told(ledger)
        wait_for(lambda: told.warnings)
        for _ in range(100):
            told(ledger)
        assert broken.seen == [0]
    # The end tries once more.
    assert broken.seen == [0, 0]


def test_the_end_says_what_was_not_told(tmp_path: Path) -> None:
    path = tmp_path / "search.ledger"
    with search_ledger(path) as ledger, Tracking([Broken()]) as told:
        told(ledger)
    assert list(told.warnings) == [
        f"broken was not told everything (no route to host): hepdask-ml track {path} --to broken "
        "tells the rest later",
    ]


def test_an_error_of_the_campaign_comes_through(ledger: Ledger) -> None:
    recorder = Recorder()

    def stopped() -> None:
        with Tracking([recorder]) as told:
            told(ledger)
            work(ledger, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert recorder.seen[-1] == 4


def test_a_campaign_that_was_stopped_waits_less(
    ledger: Ledger, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_HURRIED_S", 0.05)

    def stopped() -> None:
        with ExitStack() as outer:
            inner = ExitStack()
            outer.callback(inner.close)
            inner.enter_context(Tracking([hanging], last_s=1e6))(ledger)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert hanging.seen == []


def test_nobody_to_tell_is_no_work() -> None:
    with Tracking([]) as told:
        told(None)  # type: ignore[arg-type]
    assert list(told.warnings) == []


def test_a_file_is_followed_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "search.ledger"
    with search_ledger(path) as ledger:
        work(ledger, 0)
    recorder = Recorder()
    follow(path, [recorder, f"csv:{tmp_path / 'trials.csv'}"])
    assert recorder.seen == [4]
    assert (tmp_path / "trials.csv").exists()


def test_a_tracker_that_is_down_afterwards_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "search.ledger"
    search_ledger(path).close()
    with pytest.raises(HepdaskError) as error:
        follow(path, Broken())
    assert str(error.value) == (
        f"broken was not told all of {path} (no route to host): try again later, nothing is told "
        "twice"
    )


def test_the_ledger_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "toys.ledger"
    search_ledger(path, kind="toy-limit").close()
    with pytest.raises(InputError, match="of the kind toy-limit: give that of a search"):
        follow(path, Recorder())


def test_the_table_is_whole(ledger: Ledger, tmp_path: Path) -> None:
    for number in range(3):
        work(ledger, number)
    work(ledger, 3, stop=1)
    path = tmp_path / "results" / "trials.csv"
    Csv(path).follow(ledger)
    assert path.read_text(encoding="utf-8").splitlines() == [
        "number,state,params.flag,params.lr,params.name [a.u.],loss,epochs,seconds,error",
        "0,complete,True,0.1,relu,0.25,4,1.0,",
        "1,complete,False,0.01,relu,0.5,4,1.0,",
        "2,complete,True,0.001,relu,0.75,4,1.0,",
        "3,running,False,0.0001,relu,4.0,1,0.25,",
        "4,running,True,0.1,relu,,0,0,",
    ]
    assert [each.name for each in path.parent.iterdir()] == ["trials.csv"]


def test_a_table_that_is_there_is_left_alone(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    Csv(path).follow(ledger)
    first = path.stat()
    Csv(path).follow(ledger)
    assert path.stat().st_ino == first.st_ino
    work(ledger, 0)
    Csv(path).follow(ledger)
    assert path.stat().st_ino != first.st_ino


def test_the_table_of_segments_names_them(tmp_path: Path) -> None:
    with search_ledger(n=1, segments=("barrel", "endcap")) as ledger:
        Csv(tmp_path / "trials.csv").follow(ledger)
    lines = (tmp_path / "trials.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [["barrel", "0"], ["endcap", "0"]]
