"""Watching: what is shown of a campaign while it runs, how often, and where nobody looks."""

from __future__ import annotations

import io
import logging
import sys
from dataclasses import replace
from math import inf, nan
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import made_up_ledger
import pytest
from rich.console import Console

from hepdask_ml import toy_limit
from hepdask_ml.campaign.campaign import Status
from hepdask_ml.campaign.ledger import Progress
from hepdask_ml.errors import InputError
from hepdask_ml.inference.asymptotics import Asymptotic
from hepdask_ml.inference.pvalues import UNDEFINED, Measured
from hepdask_ml.limits.summary import limit
from hepdask_ml.ui import account, show, sketch, watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hepdask_ml.campaign.ledger import Ledger

WORKSPACE = "examples/workspace.json"


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """Three quarters of the toys are done, and five per cent asked for."""
    with made_up_ledger.toy_ledger(precision=0.05) as found:
        made_up_ledger.work(found, 0.75)
        yield found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes only where a test lets it, and while limits are worked out."""
    time = SimpleNamespace(now=100.0, limits=0, takes=0.0)

    def slowly(ledger: Ledger) -> Any:
        time.limits += 1
        time.now += time.takes
        return account.limit_so_far(ledger)

    def sleep(seconds: float) -> None:
        time.now += seconds

    monkeypatch.setattr(watch, "monotonic", lambda: time.now)
    monkeypatch.setattr(watch, "sleep", sleep)
    monkeypatch.setattr(watch, "limit_so_far", slowly)
    return time


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=80)
    monkeypatch.setattr(watch, "Console", lambda **_: terminal)
    return stream


class Cell:
    """The output of a cell: IPython's display and its handle."""

    def __init__(self) -> None:
        self.pages: list[str] = []

    def __call__(self, page: Any, *, display_id: bool) -> Cell:
        assert display_id
        self.update(page)
        return self

    def update(self, page: Any) -> None:
        self.pages.append(page._repr_html_())


def running(ledger: Ledger, rate: float = 500.0, workers: int = 3) -> Status:
    return Status(ledger.progress(), rate, {str(i): 1 for i in range(workers)}, workers)


def test_terminal_shows_round_speed_limits_and_time_left(
    ledger: Ledger, screen: io.StringIO
) -> None:
    with watch.CampaignProgress() as progress:
        progress(ledger, running(ledger))
    text = screen.getvalue()
    found = limit(ledger)
    assert "round 1" in text
    assert "12,000/16,000 toys" in text
    assert "3 workers, 500 toys/s, about" in text
    assert f"observed {show.measured_text(found.observed)}, median" in text
    assert "(5 % asked for)" in text
    lines = watch._lines(ledger, running(ledger), found)
    assert max(map(len, lines)) <= 80


def test_terminal_says_that_no_worker_is_there(ledger: Ledger, screen: io.StringIO) -> None:
    with watch.CampaignProgress() as progress:
        progress(ledger, running(ledger, nan, workers=0))
    assert "waiting for workers" in screen.getvalue()
    assert " left" not in screen.getvalue()
    assert "nan" not in screen.getvalue()


def test_terminal_is_silent_where_nobody_looks(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], clock: SimpleNamespace
) -> None:
    with watch.CampaignProgress() as progress:
        progress(ledger, running(ledger))
    assert capsys.readouterr() == ("", "")
    assert clock.limits == 0


def test_terminal_is_silent_if_asked(ledger: Ledger, screen: io.StringIO) -> None:
    with watch.CampaignProgress(quiet=True) as progress:
        progress(ledger, running(ledger))
    assert not screen.getvalue()


def test_new_round_begins_where_more_is_planned() -> None:
    rounds = watch._Rounds()
    assert rounds.look(0, 100) == (0, 100)
    assert rounds.look(100, 100) == (100, 100)
    assert rounds.number == 1
    assert rounds.look(120, 400) == (20, 300)
    assert rounds.number == 2


@pytest.mark.parametrize(("takes", "every"), [(0.0, 2.0), (1.0, 10.0)])
@pytest.mark.parametrize("kind", ["terminal", "notebook"])
def test_limits_take_little_of_the_time(
    ledger: Ledger,
    screen: io.StringIO,
    clock: SimpleNamespace,
    takes: float,
    every: float,
    kind: str,
) -> None:
    clock.takes = takes
    terminal = watch.CampaignProgress()
    watcher = terminal if kind == "terminal" else watch.NotebookView(Cell())
    with terminal:
        begun = clock.now
        for _ in range(200):
            watcher(ledger, running(ledger))
            clock.now += 0.5
    assert clock.limits == pytest.approx((clock.now - begun) / (every + takes), rel=0.3)


@pytest.mark.parametrize(
    ("rate", "errors", "precision", "most", "seconds"),
    [
        (10.0, [], None, inf, 100.0),
        (10.0, [0.04], 0.02, inf, 300.0),
        (10.0, [0.04, 0.01], 0.02, inf, 150.0),
        (10.0, [0.04], 0.02, 2500, 150.0),
        (10.0, [0.01], 0.02, inf, 100.0),
        (10.0, [], 0.02, inf, nan),
        (0.0, [0.04], 0.02, inf, nan),
        (nan, [0.04], None, inf, nan),
    ],
)
def test_time_left(
    rate: float, errors: list[float], precision: float | None, most: float, seconds: float
) -> None:
    progress = Progress(1000, 2000, 4, 0, 10.0, 0.0, 1.0)
    left = account.time_left(progress, rate, errors, precision=precision, most=most)
    assert left == pytest.approx(seconds, nan_ok=True)


def test_notebook_shows_one_cell_from_begin_to_end(ledger: Ledger, clock: SimpleNamespace) -> None:
    cell = Cell()
    view = watch.NotebookView(cell)
    assert "begins" in cell.pages[0]
    view(ledger, running(ledger))
    assert "12,000 of 16,000 toys" in cell.pages[1]
    assert "3 workers, 500 toys/s" in cell.pages[1]
    assert cell.pages[1].count("<svg") == 1
    made_up_ledger.work(ledger)
    view(ledger, Status(ledger.progress()))
    assert limit(ledger)._repr_html_() in cell.pages[2]
    assert "<progress" not in cell.pages[2]
    for page in cell.pages:
        ElementTree.fromstring(page)


def test_notebook_before_the_first_toys() -> None:
    cell = Cell()
    with made_up_ledger.toy_ledger(poi="<b>") as ledger:
        view = watch.NotebookView(cell)
        view(ledger, running(ledger))
        view(ledger, Status(ledger.progress()))
    assert "0 of 16,000 toys" in cell.pages[1]
    assert "svg" not in "".join(cell.pages)


def test_notebook_of_a_real_campaign() -> None:
    cell = Cell()
    campaign = toy_limit(WORKSPACE, scan=[0.5, 1.0, 2.0], toys=300)
    campaign.run(watch=watch.NotebookView(cell))
    assert len(cell.pages) > 1


def test_missing_ipython_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(InputError, match="pip install ipython"):
        watch.NotebookView()


def test_notebook_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(kernel=None)
    cell = Cell()
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert watch.notebook_watch() is None
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=cell))
    assert watch.notebook_watch() is None
    shell.kernel = "a kernel"
    assert isinstance(watch.notebook_watch(), watch.NotebookView)
    assert len(cell.pages) == 1


def test_following_ends_with_the_campaign(
    tmp_path: Path, screen: io.StringIO, monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    looks = []
    with made_up_ledger.toy_ledger(tmp_path / "a.ledger", precision=0.5) as ledger:
        made_up_ledger.work(ledger, 0.75)

        def sleep(seconds: float) -> None:
            looks.append(seconds)
            clock.now += seconds
            if len(looks) == 2:
                made_up_ledger.work(ledger)

        monkeypatch.setattr(watch, "sleep", sleep)
        watch.follow(tmp_path / "a.ledger")
    assert looks == [2.0, 2.0]
    assert "unfinished" in screen.getvalue()
    assert "2,000 toys/s" in screen.getvalue()
    assert "finished" in screen.getvalue().rsplit("state", 1)[1]


def test_between_two_rounds_nobody_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    with made_up_ledger.toy_ledger(precision=0.001) as ledger:
        made_up_ledger.work(ledger)
        last = ledger.progress().last
        assert last is not None
        assert not watch.settled(ledger)
        monkeypatch.setattr(watch, "time", lambda: last + 31.0)
        assert watch.settled(ledger)


def test_following_needs_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        watch.follow(tmp_path / "a.ledger")


def test_sketch_draws_odd_limits(ledger: Ledger) -> None:
    found = limit(ledger)
    point = found.points[0]
    nothing = Asymptotic(nan, (nan,) * 5)
    empty = replace(point, cls=UNDEFINED, expected=(UNDEFINED,) * 5, asymptotic=nothing)
    zero = replace(point, cls=Measured(0.0, nan), expected=(Measured(0.0, 0.01),) * 5)
    for points in (
        (point,),
        (empty,),
        (zero,),
        (replace(empty, mu=-1e-9), empty),
        (point, replace(empty, mu=9.0)),
    ):
        drawing = sketch.sketch(replace(found, poi="<&'\"", points=points))
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing


def test_sketch_shows_every_point(ledger: Ledger) -> None:
    drawing = ElementTree.fromstring(sketch.sketch(limit(ledger)))
    space = "{http://www.w3.org/2000/svg}"
    assert len(list(drawing.iter(f"{space}circle"))) == 3
    texts = [element.text for element in drawing.iter(f"{space}text")]
    assert "mu" in texts
    assert {"0.1", "0.01", "1"} <= set(texts)


def test_what_a_site_tells_is_shown_above_the_bar(screen: io.StringIO) -> None:
    logger = logging.getLogger("hepdask_ml.facility.keeper")
    with watch.CampaignProgress():
        logger.info("submitted %d jobs", 3)
        logger.warning("job 7 ended [without] a worker")
    logger.info("afterwards")
    assert "submitted 3 jobs" in screen.getvalue()
    assert "job 7 ended [without] a worker" in screen.getvalue()
    assert "afterwards" not in screen.getvalue()
    assert logging.getLogger("hepdask_ml.facility").level == logging.NOTSET
