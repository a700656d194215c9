"""Plots: what is drawn, not how it looks; every odd result can be drawn."""

from __future__ import annotations

from dataclasses import replace
from math import nan
from typing import TYPE_CHECKING

import made_up
import matplotlib as mpl
import numpy as np
import pytest

import hepdask_ml
from hepdask_ml.inference.asymptotics import Asymptotic, asymptotic_cls
from hepdask_ml.inference.pvalues import UNDEFINED, Measured
from hepdask_ml.inference.toys import ToyResults
from hepdask_ml.ui import plots

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from hepdask_ml import HypoTest, Limit


@pytest.fixture(scope="module")
def limit() -> Limit:
    return hepdask_ml.upper_limit(made_up.two_bins(), toys=400, scan=[0.2, 0.5, 1.0, 1.5])


@pytest.fixture(scope="module")
def hypotest() -> HypoTest:
    return hepdask_ml.hypotest(made_up.two_bins(), mu=0.7, toys=400)


def labels(figure: Figure) -> list[str]:
    return figure.axes[0].get_legend_handles_labels()[1]


def drawn(figure: Figure, folder: Path) -> int:
    path = folder / "figure.png"
    plots.save(figure, path, "png")
    assert path.read_bytes().startswith(b"\x89PNG")
    return path.stat().st_size


def test_limit_shows_what_the_field_expects(limit: Limit, tmp_path: Path) -> None:
    figure = limit.plot()
    axes = figure.axes[0]
    assert set(labels(figure)) == {
        r"expected $\pm2\sigma$", r"expected $\pm1\sigma$", "expected", "observed",
        "expected, asymptotic", "observed, asymptotic",
    }  # fmt: skip
    observed = next(
        line for line in axes.lines if line.get_marker() == "o" and line.get_ls() == "-"
    )
    assert list(observed.get_xdata()) == [point.mu for point in limit.points]
    assert list(observed.get_ydata()) == [point.cls.value for point in limit.points]
    marked = [line.get_xdata()[0] for line in axes.lines if line.get_color() == plots.SIGNAL]
    assert limit.observed.value in marked
    assert limit.expected[2].value in marked
    assert axes.get_xlabel() == "mu"
    assert drawn(figure, tmp_path) > 10_000


@pytest.mark.parametrize("cl", [0.5, 0.9999])
def test_level_is_in_sight_at_any_confidence_level(cl: float, tmp_path: Path) -> None:
    found = hepdask_ml.upper_limit(made_up.counting(), toys=50, scan=[1.0, 2.0], cl=cl)
    figure = found.plot()
    low, high = figure.axes[0].get_ylim()
    assert low < 1.0 - cl < high
    assert drawn(figure, tmp_path)


def test_odd_limits_can_be_drawn(limit: Limit, tmp_path: Path) -> None:
    point = limit.points[0]
    nothing = Asymptotic(nan, (nan,) * 5)
    empty = replace(
        point, cls=UNDEFINED, expected=(UNDEFINED,) * 5, asymptotic=nothing, poi=r"$\bad_{$"
    )
    zero = replace(point, cls=Measured(0.0, 0.01), expected=(Measured(0.0, 0.01),) * 5)
    for points in ((point,), (empty,), (zero,), (replace(empty, mu=-1.0), empty)):
        odd = replace(
            limit,
            poi=points[0].poi,
            points=points,
            observed=UNDEFINED,
            expected=(UNDEFINED,) * 5,
            asymptotic=nothing,
        )
        figure = odd.plot()
        assert "not in the scan" in figure.axes[0].get_title(loc="left")
        assert drawn(figure, tmp_path)


def test_histograms_hold_every_toy(hypotest: HypoTest, tmp_path: Path) -> None:
    figure = hypotest.plot()
    axes = figure.axes[0]
    edges = np.linspace(0.0, axes.get_xlim()[1], 41)
    assert hypotest.toys_sb.q.max() < edges[-1]
    assert hypotest.q_observed < edges[-1]
    stairs = [patch.get_data().values for patch in axes.patches if hasattr(patch, "get_data")]
    for toys in (hypotest.toys_sb, hypotest.toys_b):
        counts = np.histogram(toys.q, edges)[0]
        assert any(np.array_equal(counts, values) for values in stairs)
    assert drawn(figure, tmp_path) > 10_000


@pytest.mark.parametrize("kind", ["q", "qtilde", "t"])
@pytest.mark.parametrize("shift", [0.3, 1.7, 4.0])
def test_asymptotic_curves_give_the_asymptotic_cls(
    hypotest: HypoTest, kind: str, shift: float
) -> None:
    q = 1.9
    cls = asymptotic_cls(kind, q, shift**2)  # type: ignore[arg-type]
    test = replace(hypotest, test_statistic=kind, asymptotic=cls)
    found = plots._asimov_shift(test)
    assert found == pytest.approx(shift, rel=1e-6)
    edges = np.array([0.0, q])
    clsb, clb = (
        plots._tails(kind, tail, edges, found)[1] for tail in (plots._tail_sb, plots._tail_b)
    )
    assert clsb / clb == pytest.approx(cls.observed, rel=1e-6)


def test_asymptotic_curves_lie_on_the_toys_at_high_counts(tmp_path: Path) -> None:
    spec = made_up.counting(signal=100.0, background=10_000.0, observed=10_050.0)
    test = hepdask_ml.hypotest(spec, mu=1.5, toys=4000)
    shift = plots._asimov_shift(test)
    edges = np.array([0.0, 0.5, 1.0, 2.0, 4.0])
    for toys, tail in ((test.toys_sb, plots._tail_sb), (test.toys_b, plots._tail_b)):
        expected = plots._tails("qtilde", tail, edges, shift)
        for edge, share in zip(edges[1:], expected[1:], strict=True):
            error = np.sqrt(share * (1.0 - share) / 4000)
            assert np.mean(toys.q >= edge) == pytest.approx(share, abs=5.0 * error + 0.01)


def test_odd_tests_can_be_drawn(hypotest: HypoTest, tmp_path: Path) -> None:
    none = ToyResults(np.empty(0), np.empty(0), np.empty(0, np.int8))
    zeros = ToyResults(np.zeros(9), np.zeros(9), np.zeros(9, np.int8))
    nothing = Asymptotic(nan, (nan,) * 5)
    for toys in (none, zeros):
        odd = replace(
            hypotest, poi=r"a$_{", cls=UNDEFINED, asymptotic=nothing, toys_sb=toys, toys_b=toys
        )
        figure = odd.plot()
        assert not any("asymptotic" in label for label in labels(figure))
        assert drawn(figure, tmp_path)


def test_equal_figures_are_equal_files(limit: Limit, tmp_path: Path) -> None:
    for kind in ("png", "pdf"):
        one, two = (tmp_path / f"{name}.{kind}" for name in ("one", "two"))
        plots.save(limit.plot(), one, kind)
        plots.save(limit.plot(), two, kind)
        assert one.read_bytes() == two.read_bytes()


def test_plotting_changes_nothing_global(limit: Limit) -> None:
    before = dict(mpl.rcParams)
    limit.plot()
    limit.points[0].plot()
    assert dict(mpl.rcParams) == before
