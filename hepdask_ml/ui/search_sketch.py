"""A sketch of how a search goes, as a small SVG that follows the colours of the page around it.

Like `hepdask_ml.ui.sketch` it is for views that are drawn again and again while somebody works.
"""

from __future__ import annotations

from html import escape
from math import isfinite, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hepdask_ml.hpo.summary import SearchResult
    from hepdask_ml.hpo.trials import Trial

    Dots = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 560, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 28
_MOST = 2000
"""Trials that are drawn at most, the newest."""


def sketch(found: SearchResult) -> str:
    """Draw the first objective of each trial, in the order of the trials, and the best so far.

    Parameters
    ----------
    found : SearchResult
        The search, as far as it is.

    Returns
    -------
    str
        An ``svg`` element; nothing where there is no trial with a value, or several segments.
    """
    aim = found.objectives[0]
    trials = [trial for trial in found.trials if trial.state == "complete"][-_MOST:]
    values = [(trial, trial.values.get(aim.name, float("nan"))) for trial in trials]
    known = [(trial, value) for trial, value in values if isfinite(value)]
    if len(found.segments) > 1 or len(known) < 2:
        return ""
    every = [value for _, value in known]
    low, high = min(every), max(every)
    log = low > 0.0 and high > 100.0 * low
    axes = _Axes(found.n_trials, low, high, log=log)
    words = f"{aim.name} of {len(known)} trials, and the best so far"
    dots = "".join(
        f'<circle cx="{axes.x(trial.number)}" cy="{axes.y(value)}" r="2.5" '
        f'fill-opacity="{0.55 if trial.feasible else 0.2}"/>'
        for trial, value in known
    )
    steps = " ".join(
        f"{axes.x(number)},{axes.y(value)}" for number, value in _best_so_far(known, aim.maximise)
    )
    best = f'<polyline points="{steps}" fill="none" stroke="#e42536" stroke-width="1.5"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'width="{_WIDTH}" style="max-width:100%;height:auto" aria-label="{escape(words)}" '
        f'font-family="sans-serif" font-size="12" fill="currentColor">'
        f"{axes.frame(aim.name)}{dots}{best if steps else ''}</svg>"
    )


class _Axes:
    """From trials and values to places."""

    def __init__(self, trials: int, low: float, high: float, *, log: bool) -> None:
        self.trials, self.log = max(trials - 1, 1), log
        self.low, self.high = low, high

    def x(self, number: int) -> float:
        share = min(number / self.trials, 1.0)
        return round(_LEFT + 6 + share * (_WIDTH - _LEFT - _RIGHT - 12), 1)

    def y(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = log10(low), log10(high), log10(value)
        share = (at - low) / (high - low) if high > low else 0.5
        return round(_HEIGHT - _BOTTOM - 6 - share * (_HEIGHT - _TOP - _BOTTOM - 12), 1)

    def frame(self, name: str) -> str:
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        name = name if len(name) <= 40 else f"{name[:39]}…"
        ends = {self.low, self.high}
        numbers = "".join(
            f'<text x="{_LEFT - 6}" y="{self.y(value) + 4}" text-anchor="end">{value:.3g}</text>'
            for value in sorted(ends)
        )
        return (
            f'<rect x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{bottom - _TOP}" '
            f'fill="none" stroke="currentColor" stroke-opacity="0.6"/>{numbers}'
            f'<text x="{_LEFT}" y="{_HEIGHT - 10}">{escape(name)}'
            f"{' (logarithmic)' if self.log else ''}</text>"
            f'<text x="{right}" y="{_HEIGHT - 10}" text-anchor="end">'
            f"trial 0 to {self.trials}</text>"
        )


def _best_so_far(known: Sequence[tuple[Trial, float]], maximise: bool) -> list[tuple[int, float]]:
    """Give the corners of the line of the best value so far, of trials that may be the best."""
    steps: list[tuple[int, float]] = []
    for trial, value in known:
        if not trial.feasible:
            continue
        best = steps[-1][1] if steps else value
        now = max(best, value) if maximise else min(best, value)
        if steps:
            steps.append((trial.number, best))
        steps.append((trial.number, now))
    return steps
