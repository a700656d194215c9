"""Plots of searches: each kind is drawn, nothing global stays changed, and odd ones are told."""

from __future__ import annotations

import sys
from io import BytesIO
from typing import TYPE_CHECKING, Any

import made_up_search
import matplotlib as mpl
import pytest

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.trials import Objective
from hepdask_ml.ui import plots_search

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("optuna")

ONE = ("history", "curves", "importances", "slice", "parallel", "contour")
TWO = [Objective("loss"), Objective("time")]


def png(figure: Any) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def test_kinds_are_those_that_there_can_be() -> None:
    assert plots_search.kinds(made_up_search.found(4)) == ONE
    assert plots_search.kinds(made_up_search.found(4, objectives=TWO))[0] == "pareto"
    segments = made_up_search.found(4, segments=["a", "b"])
    assert plots_search.kinds(segments)[0] == "segments"
    one = made_up_search.found(4, space={"x": {"type": "float", "low": 0, "high": 1}})
    assert plots_search.kinds(one) == ("history", "curves", "slice")


@pytest.mark.parametrize("kind", ONE)
def test_each_kind_is_drawn_and_leaves_nothing_behind(kind: str) -> None:
    from matplotlib import pyplot  # noqa: PLC0415 - its state is what is looked at

    before, open_ = dict(mpl.rcParams), pyplot.get_fignums()
    figure = plots_search.figure(made_up_search.found(25), kind)
    assert png(figure).startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == open_
    words = {text.get_text() for text in figure.findobj(mpl.text.Text)}
    assert not any("Objective Value" in word or "Plot" in word for word in words)


def test_history_names_what_it_shows() -> None:
    figure = plots_search.figure(made_up_search.found(25, constraints=["memory"]), "history")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    words = {text.get_text() for text in legend.get_texts()}
    assert words == {"constraint violated", "loss", "best so far"}


@pytest.mark.parametrize("n", [2, 3])
def test_front_is_drawn(n: int) -> None:
    aims = [*TWO, Objective("auc", maximise=True)][:n]
    found = made_up_search.found(20, objectives=aims, constraints=["memory"])
    assert png(plots_search.figure(found, "pareto"))


@pytest.mark.parametrize("n", [2, 60])
def test_segments_are_drawn_with_and_without_names(n: int) -> None:
    found = made_up_search.found(3, segments=[f"part ${i}" for i in range(n)], states={})
    figure = plots_search.figure(found, "segments")
    assert png(figure)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert (r"part \$1" in labels) is (n == 2)
    assert png(plots_search.figure(found, "curves", "part $1"))


def test_names_are_no_formulae() -> None:
    space = {
        "$x": {"type": "float", "low": 0, "high": 1},
        "a_very_long_name_of_a_parameter_of_a_layer": {"type": "float", "low": 0, "high": 1},
    }
    found = made_up_search.found(12, space=space, objectives=[Objective("$loss")])
    for kind in ("history", "curves", "importances"):
        assert png(plots_search.figure(found, kind))


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"n": 4}, "hist", '"hist" is no plot of a search: choose from history, '),
        ({"n": 0, "states": {}}, "history", "no trial is complete"),
        ({"n": 2, "segments": ["a", "b"]}, "history", "name one of a, b"),
        ({"n": 4}, "pareto", "a Pareto front of 1 objectives cannot be drawn"),
        ({"n": 4, "objectives": TWO, "segments": ["a", "b"]}, "segments", "take front"),
        ({"n": 2, "states": {0: "failed", 1: "failed"}}, "segments", "no segment has a best"),
    ],
)
def test_what_cannot_be_drawn_is_told(options: dict[str, Any], kind: str, words: str) -> None:
    with pytest.raises(InputError, match=words.replace('"', ".")):
        plots_search.figure(made_up_search.found(**options), kind)


def test_curves_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert png(plots_search.figure(made_up_search.found(4), "curves"))
    monkeypatch.setitem(sys.modules, "optuna.visualization.matplotlib", None)
    with pytest.raises(InputError, match="need optuna"):
        plots_search.figure(made_up_search.found(4), "history")
