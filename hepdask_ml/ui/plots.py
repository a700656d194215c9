"""Plots of limits and of test statistics: the one door to matplotlib.

Figures are made without pyplot, so that nothing global stays changed.
"""

from __future__ import annotations

from math import erfc, isfinite, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import mplhep
import numpy as np
from matplotlib.figure import Figure

from hepdask_ml.inference.pvalues import BANDS

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from hepdask_ml.inference.hypotest import HypoTest
    from hepdask_ml.inference.limit import Limit

    Floats = NDArray[np.float64]

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
GREEN, YELLOW = "#607641", "#F5BB54"  # the bands' colours, told apart by the colour-blind, too
SIGNAL, BACKGROUND = "#e42536", "#5790fc"
SYMBOLS = {"q0": "q_0", "q": r"q_\mu", "qtilde": r"\tilde{q}_\mu", "t": r"t_\mu"}

_LOWEST_CLS = 1e-4
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
        figure, axes = _one_panel()
        level = 1.0 - found.cl
        mu = np.array([point.mu for point in found.points])
        bands = np.array([[cls.value for cls in point.expected] for point in found.points])
        # Zero cannot be drawn on a logarithmic axis: the bands go on to its lower end.
        bands = np.maximum(bands, _LOWEST_CLS)
        axes.fill_between(
            mu, bands[:, 0], bands[:, 4], color=YELLOW, label=r"expected $\pm2\sigma$"
        )
        axes.fill_between(mu, bands[:, 1], bands[:, 3], color=GREEN, label=r"expected $\pm1\sigma$")
        axes.plot(mu, bands[:, 2], "--", color="black", label="expected")
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
        if isfinite(found.observed.value):
            axes.axvline(found.observed.value, ymax=0.55, color="black", lw=1, alpha=0.5)
        axes.set(xlabel=found.poi, ylabel=r"$\mathrm{CL}_s$", yscale="log", xlim=(mu[0], mu[-1]))
        axes.set_ylim(0.08 * level, 6.0)
        axes.legend(ncols=2, loc="upper right", fontsize="small")
        axes.set_title(_limit_text(found), loc="left", fontsize="small")
        return figure


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
        figure, axes = _one_panel()
        q_sb, q_b = test.toys_sb.counted, test.toys_b.counted
        everything = np.concatenate([q_sb, q_b, [test.q_observed]])
        edges = np.linspace(0.0, max(1.05 * float(everything.max()), 1.0), _BINS + 1)
        hypotheses = (
            (q_sb, SIGNAL, f"signal + background ({test.poi} = {test.mu:.4g})", _tail_sb),
            (q_b, BACKGROUND, "background only", _tail_b),
        )
        for q, color, label, tail in hypotheses:
            counts, _ = np.histogram(q, edges)
            mplhep.histplot(
                counts, edges, ax=axes, color=color, label=label, histtype="fill", alpha=0.25
            )
            mplhep.histplot(counts, edges, ax=axes, color=color, yerr=False, lw=1.2)
            expected = len(q) * -np.diff(_tails(test, tail, edges))
            axes.stairs(expected, edges, color=color, ls=":", lw=1.8, label="asymptotic")
        axes.axvline(test.q_observed, color="black", label=f"observed, {test.q_observed:.3g}")
        symbol = SYMBOLS[test.test_statistic]
        axes.set(xlabel=f"${symbol}$", ylabel="toys per bin", yscale="log", xlim=(0, edges[-1]))
        axes.set_ylim(0.5, 50.0 * max(len(q_sb), len(q_b), 1))
        axes.legend(loc="upper right", fontsize="small")
        title = f"{test.poi} = {test.mu:.4g}:  CLs = {test.cls.value:.3g}"
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


def _one_panel() -> tuple[Figure, Axes]:
    figure = Figure(layout="constrained")
    return figure, figure.add_subplot()


def _limit_text(found: Limit) -> str:
    observed, median = found.observed, found.expected[BANDS.index(0)]
    parts = [
        f"{name} {value.value:.3g} $\\pm$ {value.error:.1g}"
        for name, value in (("observed", observed), ("expected", median))
        if isfinite(value.value)
    ]
    name = found.poi.replace("_", r"\_") if "$" in found.poi else found.poi
    return f"{name} limit: {', '.join(parts)}" if parts else f"{name}: no limit in the scan"


def _tails(test: HypoTest, tail: Any, edges: Floats) -> Floats:
    """Asymptotic P(q >= edge), 1 at zero, whose steps are the contents of the bins."""
    median = test.asymptotic.expected[BANDS.index(0)]
    if test.test_statistic == "t" or not 0.0 < median < 1.0:
        return np.full(len(edges), np.nan)
    # The median of CLs holds the Asimov value: CLs+b = 1 - Phi(sqrt(q_A)) where CLb = 1/2.
    root_asimov = -NormalDist().inv_cdf(0.5 * median)
    above = [tail(sqrt(q), root_asimov, test.test_statistic == "qtilde") for q in edges.tolist()]
    return np.array([1.0, *above[1:]])


def _tail_sb(root: float, root_asimov: float, bounded: bool) -> float:
    """P(q >= root^2 | s+b), eqs. 57 and 65 of Eur. Phys. J. C 71 (2011) 1554."""
    if bounded and root > root_asimov:
        return _tail((root**2 + root_asimov**2) / (2.0 * root_asimov))
    return _tail(root)


def _tail_b(root: float, root_asimov: float, bounded: bool) -> float:
    """P(q >= root^2 | b), eqs. 56 and 64 of Eur. Phys. J. C 71 (2011) 1554."""
    if bounded and root > root_asimov:
        return _tail((root**2 - root_asimov**2) / (2.0 * root_asimov))
    return _tail(root - root_asimov)


def _tail(z: float) -> float:
    return 0.5 * erfc(z / sqrt(2.0))
