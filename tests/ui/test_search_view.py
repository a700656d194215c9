"""Searches in words: what is shown in a terminal, in a notebook, and while one runs."""

from __future__ import annotations

import io
import json
from math import nan
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from xml.etree import ElementTree

import made_up_search
import pytest
from rich.console import Console

from hepdask_ml.campaign.campaign import Status
from hepdask_ml.campaign.ledger import Progress, read_ledger
from hepdask_ml.hpo.campaign import search
from hepdask_ml.hpo.trials import Objective
from hepdask_ml.ui import search_sketch, search_view, search_watch, show, watch

if TYPE_CHECKING:
    from pathlib import Path

    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.hpo.campaign import Search

TWO = [Objective("loss"), Objective("time")]
EVIL = "<b>&\x1b[31m"


def printed(view: Any, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(view)
    stream: Any = console.file
    return str(stream.getvalue())


def quickly(params: dict[str, Any], context: Any) -> float:
    if params["x"] > 0.9:
        message = "too [large]"
        raise ValueError(message)
    for epoch in context.epochs():
        context.report(epoch, {"loss": params["x"] / (1 + epoch)})
    return float(params["x"])


def small(path: Path | None = None, **options: Any) -> Search:
    options = {"optimiser": "optuna:grid", "n_trials": 4, "epochs": 2, "high": 0.75, **options}
    space = {"x": {"type": "float", "low": 0.0, "high": options.pop("high"), "step": 0.25}}
    return search(quickly, space, ledger=path, **options)


def test_best_trial_is_said_in_one_line() -> None:
    found = made_up_search.found(60)
    assert found.best is not None
    text = f"59 of 60 trials, best loss {found.best.values['loss']:.4g} (trial 6)"
    assert search_view.headline(found) == text
    assert search_view.states_text(found) == "57 complete, 1 pruned, 1 failed, 1 running"
    shown = printed(search_view.view(found))
    assert text in shown
    rows = [line.split()[0] for line in shown.splitlines()[4:]]
    assert rows == ["lr", "layers", "dropout", "optimizer", "batch"]


def test_nothing_found_is_said() -> None:
    none = made_up_search.found(0, states={}, asked=10)
    assert search_view.headline(none) == "0 of 10 trials, no best loss yet"
    assert search_view.states_text(none) == "no trial has begun"
    assert "no trial has begun" in search_view.result_html(none)
    failed = made_up_search.found(2, states={0: "failed", 1: "failed"})
    assert search_view.headline(failed) == "2 trials, no best loss yet"
    assert search_view.lacking(failed) == "no trial is the best one: give it more trials"
    assert search_view.lacking(made_up_search.found(3, states={})) is None


def test_front_is_a_table() -> None:
    found = made_up_search.found(40, objectives=TWO, constraints=["memory"], states={})
    n = len(found.front)
    assert (
        search_view.headline(found) == f"40 trials, {n} of them on the Pareto front of loss, time"
    )
    assert "infeasible)" in search_view.states_text(found)
    lines = printed(search_view.view(found)).splitlines()
    assert len(lines) == 4 + n
    assert lines[3].split() == ["trial", "loss", "time", "parameters"]


def test_many_segments_stay_readable() -> None:
    names = [f"photon eta {i:03}" for i in range(300)]
    found = made_up_search.found(2, segments=names, states={})
    failed = made_up_search.found(2, states={0: "failed", 1: "failed"}, segments=[names[250]])
    trials = tuple(trial for trial in found.trials if trial.segment != names[250])
    object.__setattr__(found, "trials", trials + failed.trials)
    assert search_view.headline(found) == "600 trials, a best loss in 299 of 300 segments"
    lines = printed(search_view.view(found), width=80).splitlines()
    assert len(lines) < 30
    assert lines[4].startswith("photon eta 250")  # it needs somebody
    assert lines[-1].startswith("and 280 others")
    assert all(name in search_view.result_html(found) for name in names)
    assert search_view.lacking(found) == (
        "1 of 300 segments have no best trial (photon eta 250): give it more trials"
    )


def test_names_are_nothing_but_names() -> None:
    space = {EVIL: {"type": "choice", "values": [EVIL, "[red]b"]}}
    found = made_up_search.found(4, space=space, states={}, objectives=[Objective(EVIL)])
    assert "\x1b" not in printed(search_view.view(found))
    assert "<b>&" not in search_view.result_html(found)
    segments = made_up_search.found(3, segments=[EVIL, "[red]b"], states={})
    assert "[red]b" in printed(search_view.view(segments))
    assert "<b>&" not in search_view.result_html(segments) + search_sketch.sketch(found)


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(250.0, "250 trials/s"), (1.0, "1 trial/s"), (0.5, "30 trials/min"), (1e-4, "0.36 trials/h"),
     (nan, ""), (0.0, "")],
)  # fmt: skip
def test_rate_has_the_unit_that_fits(per_second: float, text: str) -> None:
    assert search_view.rate_text(per_second) == text


def test_ledger_tells_how_far_a_search_is(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    campaign = small(path)
    campaign.check()
    with read_ledger(path) as ledger:
        assert "nothing is planned yet" in printed(show.status_view(ledger))
        assert not watch.settled(ledger)
    campaign.run()
    with read_ledger(path) as ledger:
        text = printed(show.status_view(ledger, rate=3.0))
        document = show.status_json(ledger)
        assert watch.settled(ledger)
    assert "best loss 0 (trial " in text
    assert "8, 3 epochs/s" in text
    assert "finished" in text
    assert document["schema"] == "hepdask-ml/search-status/1"
    assert (document["state"], document["trials"]["ended"]) == ("finished", 4)
    assert document["segments"][0]["best"]["params"] == {"x": 0.0}
    json.dumps(document, allow_nan=False)


def test_search_that_has_nothing_more_to_try_is_settled_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ledger"
    small(path, n_trials=9).run()
    with read_ledger(path) as ledger:
        assert show.status_json(ledger)["state"] == "waiting"
        assert not watch.settled(ledger)
        last = ledger.progress().last
        assert last is not None
        monkeypatch.setattr(watch, "time", lambda: last + 31.0)
        assert watch.settled(ledger)


def test_failures_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    small(path, n_trials=5, high=1.0).run()
    with read_ledger(path) as ledger:
        text = printed(show.status_view(ledger))
    assert "ValueError: too [large]" in text
    assert "failed" in text


def test_search_in_a_notebook(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    campaign = small(path)
    assert "not run yet" in campaign._repr_html_()
    found = campaign.run()
    for text in (campaign._repr_html_(), found._repr_html_()):
        assert "best loss 0 (trial " in text
    assert "worker time" in campaign._repr_html_()
    in_memory = small()
    assert "in memory" in in_memory._repr_html_()


def test_notebook_shows_a_search_from_begin_to_end() -> None:
    pages: list[str] = []

    def show_(page: Any, *, display_id: bool) -> Any:
        assert display_id
        pages.append(page._repr_html_())
        return SimpleNamespace(update=lambda page: pages.append(page._repr_html_()))

    campaign = small()
    campaign.run(watch=watch.NotebookView(show_))
    assert "best loss 0 (trial " in pages[-1]
    assert "<svg" in pages[-1]
    for page in pages:
        ElementTree.fromstring(page)


def test_terminal_counts_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=80)
    monkeypatch.setattr(watch, "Console", lambda **_: terminal)
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(search_watch, "monotonic", lambda: now.time)
    campaign = small()
    campaign.run()
    ledger = campaign._kept
    assert ledger is not None
    teller = search_watch.SearchTeller()
    status = Status(ledger.progress(), 3.0, {"a": 1, "b": 1}, 2)
    assert teller.bar(status) == ("search", 0, 0)
    assert teller.lines(ledger, status) == ("2 workers",)
    teller.look(ledger)
    assert teller.lines(ledger, status)[0] == "2 workers"
    with watch.CampaignProgress() as progress:
        progress(ledger, status)
    assert "4/4 trials" in stream.getvalue()
    assert "best loss 0 (trial " in stream.getvalue()


def test_time_left_is_that_of_the_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(time=0.0, found=made_up_search.found(10, states={}, asked=40))
    monkeypatch.setattr(search_watch, "monotonic", lambda: now.time)
    monkeypatch.setattr(search_watch, "result", lambda _: now.found)
    teller, ledger = search_watch.SearchTeller(), cast("Ledger", None)
    status = Status(Progress(20, 40, 2, 0, 1.0, 0.0, 1.0), workers={"a": 3}, lent=2)
    teller.look(ledger)
    now.time, now.found = 20.0, made_up_search.found(20, states={}, asked=40)
    teller.look(ledger)
    assert teller.bar(status) == ("search", 20, 40)
    first, second, third = teller.lines(ledger, status)
    assert first == "1 worker (1 idle), 30 trials/min, about 40 s left"
    assert second.startswith("best loss 0.0")
    assert third == "20 complete"


@pytest.mark.parametrize(
    "options",
    [
        {"n": 2, "states": {}},
        {"n": 20, "constraints": ["memory"]},
        {"n": 20, "objectives": [Objective("auc", maximise=True)]},
        {"n": 5, "objectives": TWO},
    ],
)
def test_sketch_draws_odd_searches(options: dict[str, Any]) -> None:
    drawing = search_sketch.sketch(made_up_search.found(**options))
    ElementTree.fromstring(drawing)
    assert "nan" not in drawing


def test_sketch_of_nothing_is_empty() -> None:
    assert not search_sketch.sketch(made_up_search.found(0, states={}))
    assert not search_sketch.sketch(made_up_search.found(5, segments=["a", "b"]))
