"""Reports of searches: files for programs, and a page that needs nothing but itself."""

from __future__ import annotations

import csv
import json
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import made_up_search
import pyarrow.parquet as pq
import pytest

from hepdask_ml.campaign.ledger import Identity, Progress, read_ledger
from hepdask_ml.errors import CampaignError
from hepdask_ml.hpo.campaign import search
from hepdask_ml.hpo.trials import Objective
from hepdask_ml.ui import plots, plots_search, search_report, show
from hepdask_ml.ui.search_view import Told, told_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hepdask_ml.hpo.summary import SearchResult

EVIL = "<script>alert('$')</script>\"&amp;"


def told(found: SearchResult) -> Told:
    identity = Identity("search", "", {"mode": "rounds", "epochs": 6}, "0.1.0", (1,))
    progress = Progress(900, 1000, 30, 1, 100.0, 0.0, 1000.0)
    workers = [(f"tcp://node:{i}", 500 - i, 50.0) for i in range(60)]
    failures = [("trial 5", f"ValueError: {EVIL}", "tcp://node:1")] * 60
    return Told("a.ledger", "abc", identity, progress, workers, failures, found)


class Words(HTMLParser):
    """The text of a page, the sources of its images, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(found: SearchResult, images: Mapping[str, bytes] | None = None) -> Words:
    return Words(search_report.page(told(found), dict(images or {})))


def train(params: dict[str, Any], context: Any) -> None:
    for epoch in context.epochs():
        context.report(epoch, {"loss": (params["x"] - 0.3) ** 2 + 1.0 / (1 + epoch)})


def test_report_of_a_ledger_is_whole(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = {
        "x": {"type": "float", "low": 0.0, "high": 1.0},
        "layers": [[1, 2], [3]],
    }
    path = tmp_path / "a.ledger"
    campaign = search(train, space, optimiser="optuna:random", n_trials=8, epochs=3, ledger=path)
    result = campaign.run()
    with read_ledger(path) as ledger:
        found, written = search_report.write_report(ledger, tmp_path / "one")
        images = {path.stem: path.read_bytes() for path in written if path.suffix == ".png"}
        again = search_report.page(told_of(ledger), images)
        status = show.status_json(ledger)
    assert [path.name for path in written] == [
        "search.json", "trials.csv", "trials.parquet", "campaign.json", "history.png",
        "curves.png", "importances.png", "slice.png", "parallel.png", "contour.png", "report.html",
    ]  # fmt: skip
    assert written[-1].read_text(encoding="utf-8") == again
    history = plots_search.figure(result, "history")
    plots.save(history, tmp_path / "again.png", "png")
    assert (tmp_path / "again.png").read_bytes() == images["history"]
    folder = tmp_path / "one"
    assert json.loads((folder / "search.json").read_text()) == result.to_json() == found.to_json()
    assert json.loads((folder / "campaign.json").read_text()) == status
    lines = (folder / "trials.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(lines))
    table = pq.read_table(folder / "trials.parquet").to_pylist()
    for row, cells, trial in zip(table, rows, found.trials, strict=True):
        assert row["loss"] == float(cells["loss"]) == trial.values["loss"]
        assert json.loads(cells["params.layers"]) == trial.params["layers"]
    made = Words((folder / "report.html").read_text(encoding="utf-8"))
    assert "Search for the smallest loss" in made.text
    assert "script" not in made.tags
    assert len(made.sources) == 6
    assert all(source.startswith("data:image/png;base64,") for source in made.sources)


def test_columns_of_several_types_become_text(tmp_path: Path) -> None:
    space = {"mixed": {"type": "choice", "values": [1, "a", None, 2.5]}, "x": [1, 2]}
    found = made_up_search.found(12, space=space, states={})
    written = search_report._write_numbers(found, tmp_path, "a.ledger")
    column = pq.read_table(written[2]).column("params.mixed").to_pylist()
    assert set(column) <= {"1", "a", None, "2.5"}


def test_page_of_one_objective() -> None:
    found = made_up_search.found(80, asked=100)
    text = page(found).text
    assert "79 of 100 trials are at their end: unfinished" in text
    assert found.best is not None
    assert f"Trial {found.best.number}: loss" in text
    assert "from 1e-05 to 0.1, logarithmic" in text
    assert "from 0 to 0.99, where optimizer is sgd" in text
    assert "30 others are in trials.csv" in text
    assert "10 more are in campaign.json" in text
    assert "10 others" in text
    assert "Pareto" not in text


def test_page_of_several_objectives() -> None:
    aims = [Objective("loss"), Objective("auc", maximise=True)]
    found = made_up_search.found(20, objectives=aims, constraints=["memory"], states={})
    text = page(found).text
    assert "Search for the smallest loss and the largest auc" in text
    assert "Pareto front" in text
    assert "complete, infeasible" in text


def test_page_of_many_segments_has_them_all() -> None:
    names = [f"eta {i:03}" for i in range(300)]
    text = page(made_up_search.found(2, segments=names, states={})).text
    assert all(name in text for name in names)
    assert "600 trials, a best loss in 300 segments" in text


def test_page_trusts_no_name() -> None:
    space = {EVIL: {"type": "choice", "values": [EVIL, "b"], "when": {"a": 1}}, "a": [1, 2]}
    found = made_up_search.found(
        8, space=space, states={}, objectives=[Objective(EVIL)], segments=[EVIL]
    )
    made = page(found, {"history": b"png"})
    assert "script" not in made.tags
    assert EVIL in made.text


def test_ledger_without_trials_is_told(tmp_path: Path) -> None:
    search(train, {"x": [1, 2, 3]}, optimiser="optuna:grid", ledger=tmp_path / "a.ledger").check()
    with (
        read_ledger(tmp_path / "a.ledger") as ledger,
        pytest.raises(CampaignError, match="holds no trials yet: run the search first"),
    ):
        search_report.write_report(ledger, tmp_path / "out")


def test_missing_library_costs_the_plots_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("optuna", "optuna.visualization.matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    found = made_up_search.found(8)
    files = search_report.write_search(found, tmp_path, seconds=3.5)
    assert [path.name for path in files] == [
        "search.json", "trials.csv", "trials.parquet", "curves.png", "run.json",
    ]  # fmt: skip
    assert json.loads(files[-1].read_text())["trials_per_second"] == 2.0
    _, reason = search_report._write_plots(found, tmp_path)
    assert reason is not None
    assert "install hepdask-ml[hpo]" in reason
