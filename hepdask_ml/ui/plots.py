"""Plots of limits and of test statistics: the one door to matplotlib.

Figures are made without pyplot, so that nothing global stays changed; what other libraries draw
with it is `taken` out of its hands.
"""

from __future__ import annotations

from importlib import import_module
from io import BytesIO
from math import isfinite, nan, sqrt
from typing import TYPE_CHECKING, Any, cast

import matplotlib as mpl
import mplhep
import numpy as np
from matplotlib.figure import Figure

from hepdask_ml.inference.asymptotics import asymptotic_cls, normal_tail
from hepdask_ml.inference.pvalues import BANDS
from hepdask_ml.ui.show import measured_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from hepdask_ml.inference.hypotest import HypoTest
    from hepdask_ml.inference.limit import Limit
    from hepdask_ml.inference.statistics import TestStatistic

    Floats = NDArray[np.float64]
    Tail = Callable[[float, float, str], float]

STYLE: Any = {
    **mplhep.style.ROOT,
    "figure.figsize": (8.0, 6.0),
    "font.size": 15,
    "axes.linewidth": 1.2,
    "xtick.major.size": 8,
    "ytick.major.size": 8,
    "xtick.minor.size": 4,
    "ytick.minor.size": 4,
    "savefig.dpi": 150,
}
GREEN, YELLOW = "#7fc97f", "#fde28a"  # light, so that black lines stand out on both
SIGNAL, BACKGROUND = "#e42536", "#5790fc"
SYMBOLS = {"q0": "q_0", "q": r"q_\mu", "qtilde": r"\tilde{q}_\mu", "t": r"t_\mu"}

_FLOOR, _CEILING = 0.08, 6.0
"""Lower end of the CLs axis in units of 1 - CL, and its upper end, with room for the legend."""
_BINS = 40


def limit(found: Limit) -> Figure:
    """Draw CLs along the scan, with expected bands and limits.

    Parameters
    ----------
    found : Limit
        The limit.

    Returns
    -------
    matplotlib.figure.Figure
        CLs against the parameter of interest, logarithmic.
    """
    with mpl.rc_context(STYLE):
        figure, axes = one_panel()
        level = 1.0 - found.cl
        mu = np.array([point.mu for point in found.points])
        margin = 0.0 if len(mu) > 1 else 0.5 * max(abs(float(mu[0])), 1.0)
        axes.set(xlabel=_plain(found.poi), ylabel=r"$\mathrm{CL}_s$", yscale="log")
        axes.set(xlim=(mu[0] - margin, mu[-1] + margin), ylim=(_FLOOR * level, _CEILING))
        _draw_expected(axes, found, mu)
        observed = np.array([[point.cls.value, point.cls.error] for point in found.points])
        axes.errorbar(
            mu, observed[:, 0], observed[:, 1], fmt="o-", color="black", ms=5, label="observed"
        )
        formula = [point.asymptotic.observed for point in found.points]
        axes.plot(mu, formula, ":", color=SIGNAL, label="observed, asymptotic")
        axes.axhline(level, color=SIGNAL, lw=1)
        axes.annotate(
            f"{100 * found.cl:g} % CL", (1.0, level), (-6, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="bottom", color=SIGNAL, fontsize="x-small",
        )  # fmt: skip
        _mark_limits(axes, found, level)
        axes.legend(ncols=2, loc="upper right", fontsize="small")
        axes.set_title(_limit_text(found), loc="left", fontsize="small")
        return figure


def _draw_expected(axes: Axes, found: Limit, mu: Floats) -> None:
    """Bands and medians, from toys and from asymptotic formulae."""
    bands = np.array([[cls.value for cls in point.expected] for point in found.points])
    # Zero cannot be drawn on a logarithmic axis: the bands go on below its lower end.
    bands = np.maximum(bands, 0.1 * _FLOOR * (1.0 - found.cl))
    for low, high, color in ((0, 4, YELLOW), (1, 3, GREEN)):
        label = rf"expected $\pm{BANDS[high]}\sigma$"
        axes.fill_between(mu, bands[:, low], bands[:, high], color=color, lw=0, label=label)
    median = BANDS.index(0)
    axes.plot(mu, bands[:, median], "--", color="black", label="expected")
    formula = [point.asymptotic.expected[median] for point in found.points]
    axes.plot(mu, formula, ":", color="0.35", label="expected, asymptotic")


def _mark_limits(axes: Axes, found: Limit, level: float) -> None:
    """Drop a line from each crossing of the level, observed and expected, to the axis."""
    crossings = ((found.observed, "black", "-"), (found.expected[BANDS.index(0)], "black", "--"))
    for crossing, color, line in crossings:
        if isfinite(crossing.value):
            axes.vlines(crossing.value, _FLOOR * level, level, color=color, ls=line, lw=1)
            axes.plot(crossing.value, level, "o", color=SIGNAL, mec="white", ms=8, zorder=5)


def test_statistic(test: HypoTest) -> Figure:
    """Draw the distributions of a test statistic.

    Parameters
    ----------
    test : HypoTest
        The test.

    Returns
    -------
    matplotlib.figure.Figure
        Toys of both hypotheses as histograms, the asymptotic distributions as curves, and the
        observed value.
    """
    with mpl.rc_context(STYLE):
        figure, axes = one_panel()
        q_sb, q_b = test.toys_sb.counted, test.toys_b.counted
        everything = np.concatenate([q_sb, q_b, [test.q_observed]])
        edges = np.linspace(0.0, max(1.05 * float(everything.max()), 1.0), _BINS + 1)
        histograms = [np.histogram(q, edges)[0] for q in (q_sb, q_b)]
        axes.set(xlabel=f"${SYMBOLS[test.test_statistic]}$", ylabel="toys per bin", yscale="log")
        highest = max(1, *(int(counts.max()) for counts in histograms))
        axes.set(xlim=(0.0, edges[-1]), ylim=(0.5, 30.0 * highest))
        shift = _asimov_shift(test)
        hypotheses = (
            (SIGNAL, "signal + background", _tail_sb),
            (BACKGROUND, "background only", _tail_b),
        )
        for counts, (color, label, tail) in zip(histograms, hypotheses, strict=True):
            axes.stairs(counts, edges, color=color, label=label, fill=True, alpha=0.25)
            axes.stairs(counts, edges, color=color, lw=1.2)
            if isfinite(shift):
                expected = counts.sum() * -np.diff(_tails(test.test_statistic, tail, edges, shift))
                axes.stairs(
                    expected, edges, color=color, ls=":", lw=1.8, label=f"{label}, asymptotic"
                )
        axes.axvline(test.q_observed, color="black", label=f"observed, {test.q_observed:.3g}")
        axes.legend(loc="upper right", fontsize="small")
        title = f"{_plain(test.poi)} = {test.mu:.4g}:  CLs {measured_text(test.cls)}"
        axes.set_title(title, loc="left", fontsize="small")
        return figure


test_statistic.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's


def save(figure: Figure, path: Path, kind: str) -> None:
    """Write a figure, the same bytes for the same figure.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    path : Path
        Its file.
    kind : {"png", "pdf"}
        Format.
    """
    dates = {"CreationDate": None} if kind == "pdf" else {}
    with mpl.rc_context(STYLE):
        figure.savefig(path, format=kind, metadata=dates)


class _Shown(Figure):
    """A figure that notebooks show by themselves, without pyplot and its state."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


def styled() -> Any:
    """Give the context in which figures are drawn: the style, for as long as it lasts.

    Returns
    -------
    context manager
        Matplotlib's settings are as before at its end.
    """
    return mpl.rc_context(STYLE)


def one_panel() -> tuple[Figure, Axes]:
    """Make a figure with one panel.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The figure.
    axes : matplotlib.axes.Axes
        Its panel.
    """
    figure = _Shown(layout="constrained")
    return figure, figure.add_subplot()


def taken(draw: Callable[[], Any]) -> tuple[Figure, list[Axes]]:
    """Draw with a function that uses pyplot, and keep nothing of it there.

    Parameters
    ----------
    draw : callable
        Gives axes, or an array of them.

    Returns
    -------
    figure : matplotlib.figure.Figure
        The figure, which no window shows.
    axes : list of matplotlib.axes.Axes
        Those that ``draw`` gave.
    """
    pyplot = import_module("matplotlib.pyplot")
    with mpl.rc_context({**STYLE, "figure.constrained_layout.use": True}):
        axes = list(np.ravel(draw()))
        figure = axes[0].figure
        pyplot.close(figure)
    return figure, axes


def without_windows() -> None:
    """Keep pyplot from looking for a screen, in a program that shows nothing on one."""
    mpl.use("agg")


def _plain(name: str) -> str:
    """Give a name as text that matplotlib does not read as a formula."""
    return name.replace("$", r"\$")


def _limit_text(found: Limit) -> str:
    parts = [
        f"{name} {measured_text(value)}"
        for name, value in (
            ("observed", found.observed),
            ("expected", found.expected[BANDS.index(0)]),
        )
        if isfinite(value.value)
    ]
    title = f"Upper limit on {_plain(found.poi)}"
    return f"{title}: {', '.join(parts)}" if parts else f"{title}: not in the scan"


def _asimov_shift(test: HypoTest) -> float:
    """Find the root of the Asimov test statistic that gives the asymptotic median CLs, or nan."""
    median = BANDS.index(0)
    target = test.asymptotic.expected[median]
    if not 0.0 < target < 1.0:
        return nan
    kind = cast("TestStatistic", test.test_statistic)
    low, high = 1e-6, 38.0  # beyond, a normal tail is no double any more
    for _ in range(50):
        middle = 0.5 * (low + high)
        above = asymptotic_cls(kind, 0.0, middle**2).expected[median] > target
        low, high = (middle, high) if above else (low, middle)
    return 0.5 * (low + high)


def _tails(kind: str, tail: Tail, edges: Floats, shift: float) -> Floats:
    """Asymptotic P(q >= edge), 1 at zero, whose steps are the contents of the bins."""
    above = [tail(sqrt(q), shift, kind) for q in edges.tolist()]
    return np.array([1.0, *above[1:]])


def _tail_sb(root: float, shift: float, kind: str) -> float:
    """P(q >= root^2 | s+b), eqs. 36, 57 and 65 of Eur. Phys. J. C 71 (2011) 1554."""
    if kind == "t":
        return 2.0 * normal_tail(root)
    if kind == "qtilde" and root > shift:
        return normal_tail((root**2 + shift**2) / (2.0 * shift))
    return normal_tail(root)


def _tail_b(root: float, shift: float, kind: str) -> float:
    """P(q >= root^2 | b), eqs. 35, 56 and 64 of Eur. Phys. J. C 71 (2011) 1554."""
    if kind == "t":
        return normal_tail(root + shift) + normal_tail(root - shift)
    if kind == "qtilde" and root > shift:
        return normal_tail((root**2 - shift**2) / (2.0 * shift))
    return normal_tail(root - shift)
