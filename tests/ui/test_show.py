"""Tables: the same rounded numbers in a terminal and a notebook."""

from __future__ import annotations

import copy
import html
import io
import json
import re
from math import inf, nan
from typing import TYPE_CHECKING, Any

import made_up
import made_up_ledger
import numpy as np
import pytest
from rich.console import Console

import hepdask_ml
from hepdask_ml.inference.pvalues import Measured
from hepdask_ml.limits.summary import limit as limit_of
from hepdask_ml.ui import show

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hepdask_ml import Limit
    from hepdask_ml.campaign.ledger import Ledger


@pytest.fixture(scope="module")
def limit() -> Limit:
    return hepdask_ml.upper_limit(made_up.one_sided(), toys=300, scan=[0.5, 2.0, 4.0, 8.0])


def printed(view: Any, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(view)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (2.31975, 0.03141, "2.320 ± 0.031"),
        (2.31975, 0.0996, "2.32 ± 0.10"),
        (2.31975, 0.0994, "2.320 ± 0.099"),
        (12.3, 4.56, "12.3 ± 4.6"),
        (1234.5, 321.0, "1234 ± 321"),
        (0.0, 0.0013, "0.0000 ± 0.0013"),
        (0.5, 0.0, "0.5"),
        (0.5, nan, "0.5"),
        (nan, nan, show.UNKNOWN),
        (inf, 1.0, show.UNKNOWN),
    ],
)
def test_two_digits_of_the_error_are_shown(value: float, error: float, text: str) -> None:
    assert show.measured_text(Measured(value, error)) == text


def test_terminal_and_notebook_show_the_same_limits(limit: Limit) -> None:
    terminal, notebook = printed(show.limit_view(limit)), limit._repr_html_()
    cells = re.findall(r"<td>(.*?)</td>", notebook)
    assert len(cells) == 18
    for cell in cells:
        assert html.unescape(cell) in terminal
    for point in limit.points:
        assert show.measured_text(point.cls) in terminal
    assert max(map(len, terminal.splitlines())) <= 80


def test_names_are_escaped() -> None:
    spec = copy.deepcopy(made_up.counting())
    spec["channels"][0]["samples"][0]["modifiers"][0]["name"] = "<b>[red]$"
    spec["measurements"][0]["config"]["poi"] = "<b>[red]$"
    test = hepdask_ml.hypotest(spec, mu=1.0, toys=20)
    for fragment in (test._repr_html_(), hepdask_ml.compile_model(spec)._repr_html_()):
        assert "<b>[red]$" not in fragment
        assert "&lt;b&gt;[red]$" in fragment
    assert "<b>[red]$" in printed(show.hypotest_view(test))


def test_every_result_has_a_fragment() -> None:
    model = hepdask_ml.compile_model(made_up.one_bin())
    fits = model.fit(np.tile(model.data, (3, 1)))
    found = hepdask_ml.discovery(model, toys=50)
    for fragment, words in (
        (model._repr_html_(), "parameter of interest"),
        (show.fits_html(fits), "3 fits"),
        (found._repr_html_(), "significance"),
        (hepdask_ml.hypotest(model, mu=1.0, toys=50)._repr_html_(), "CLs+b"),
    ):
        assert words in fragment
        assert fragment.count("<table>") == fragment.count("</table>") == 1
        assert "nan" not in fragment


def test_warnings_are_listed(limit: Limit) -> None:
    assert limit.warnings
    text = " ".join(printed(show.warning_view(limit.warnings)).split())
    for warning in limit.warnings:
        assert f"warning: {warning}" in text
        assert html.escape(warning) in limit._repr_html_()


def test_progress_counts_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=100)
    monkeypatch.setattr(show, "Console", lambda **_: terminal)
    with show.ToyProgress() as progress:
        hepdask_ml.hypotest(made_up.one_bin(), mu=1.0, toys=600, progress=progress)
    assert "1200/1200" in stream.getvalue()
    assert "toys/s" in stream.getvalue()


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show.ToyProgress() as progress:
        progress.plan(10)
        progress.advance(10)
    assert capsys.readouterr() == ("", "")


def test_progress_is_silent_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True)
    monkeypatch.setattr(show, "Console", lambda **_: terminal)
    with show.ToyProgress(quiet=True) as progress:
        progress.plan(10)
        progress.advance(10)
    assert not stream.getvalue()


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with made_up_ledger.toy_ledger(poi="<b>[red]\x1b[31m", precision=0.5) as found:
        yield found


def test_status_of_a_campaign_fits_a_terminal(ledger: Ledger) -> None:
    assert "unfinished" in printed(show.status_view(ledger))
    assert "0 of 2,000" in printed(show.status_view(ledger))
    made_up_ledger.work(ledger, 0.75)
    ledger.write([made_up_ledger.failed(ledger.records()[7].unit, "ValueError: no")] * 3)
    text = printed(show.status_view(ledger, rate=1234.0))
    assert "toy-limit, seed 1" in text
    assert "12,000 of 16,000" in text
    assert "75 %" in text
    assert "1,234 toys/s" in text
    assert "12 s, 1 worker" in text
    assert "(50 % asked for)" in text
    assert "ValueError: no (3 times)" in text
    assert "\x1b" not in text
    assert "<b>[red]" in text
    point = limit_of(ledger).points[0]
    assert show.measured_text(point.cls) in text
    assert max(map(len, text.splitlines())) <= 80


def test_status_says_how_a_campaign_stands(ledger: Ledger) -> None:
    made_up_ledger.work(ledger)
    assert "state        finished" in printed(show.status_view(ledger))
    ledger.add(made_up_ledger.units_at(9.0))
    unit = ledger.records()[-1].unit
    ledger.write([made_up_ledger.failed(unit, "ValueError: no", final=True)])
    assert "1 unit failed: mend the cause" in printed(show.status_view(ledger))
    with made_up_ledger.toy_ledger(values=()) as empty:
        assert "nothing is planned yet" in printed(show.status_view(empty))
    with made_up_ledger.toy_ledger(precision=1e-3) as vague:
        made_up_ledger.work(vague)
        assert "the precision is not reached" in printed(show.status_view(vague))


def test_status_of_other_work_shows_its_units() -> None:
    with made_up_ledger.toy_ledger(kind="training") as ledger:
        made_up_ledger.work(ledger, 0.5)
        text = printed(show.status_view(ledger))
        assert "toys at mu = 3, background only" in text
        assert "steps" in text
        document = show.status_json(ledger)
    assert document["limits"] is None
    assert document["points"] == []
    assert json.loads(show.json_text(document)) == document


def test_many_failures_are_cut(ledger: Ledger) -> None:
    units = [record.unit for record in ledger.records()]
    ledger.write([made_up_ledger.failed(unit, f"no {i}") for unit in units for i in range(2)])
    assert "and 6 others: status --json" in printed(show.status_view(ledger))


def test_campaign_in_a_notebook(tmp_path: Path) -> None:
    path = tmp_path / "<a>.ledger"
    campaign = hepdask_ml.toy_limit(made_up.counting(), ledger=path, scan=[0.5, 1.0, 2.0], toys=300)
    assert "not run yet" in campaign._repr_html_()
    assert "&lt;a&gt;.ledger" in campaign._repr_html_()
    running = []
    limit = campaign.run(watch=lambda *_: running.append(campaign._repr_html_()))
    assert "worker" in running[0]
    assert "of 1,800" in running[0]
    assert "1,800 (100 %)" in campaign._repr_html_()
    assert limit._repr_html_() in campaign._repr_html_()
    path.write_bytes(b"something else entirely")
    assert "&lt;a&gt;.ledger" in campaign._repr_html_()
    assert "not run yet" not in campaign._repr_html_()


def test_campaign_in_memory_in_a_notebook() -> None:
    campaign = hepdask_ml.toy_limit(made_up.counting(), scan=[0.5, 1.0], toys=100)
    assert "not run yet" in campaign._repr_html_()
    running = campaign.start()
    assert "in memory" in running._repr_html_()
    running.result()
    assert "in memory" in running._repr_html_()
