"""Tables: the same rounded numbers in a terminal and a notebook."""

from __future__ import annotations

import copy
import html
import io
import re
from math import inf, nan
from typing import TYPE_CHECKING, Any

import made_up
import numpy as np
import pytest
from rich.console import Console

import hepdask_ml
from hepdask_ml.inference.pvalues import Measured
from hepdask_ml.ui import show

if TYPE_CHECKING:
    from hepdask_ml import Limit


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
