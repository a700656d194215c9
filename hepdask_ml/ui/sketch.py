"""A sketch of CLs along a scan, as a small SVG that follows the colours of the page around it.

It is for views that are drawn again and again while somebody works: unlike a figure of
`hepdask_ml.ui.plots` it takes a millisecond, and touches none of matplotlib's settings, which
belong to the thread of the user.
"""

from __future__ import annotations

from html import escape
from math import ceil, floor, isfinite, log10
from typing import TYPE_CHECKING

from hepdask_ml.inference.pvalues import BANDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hepdask_ml.inference.limit import Limit

    Pairs = Sequence[tuple[float, float]]

GREEN, YELLOW, RED = "#4daf4a", "#e6b800", "#e42536"
_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40
_TICKS = 6
"""Numbers below the axis, about."""


class _Axes:
    """From values to places: ``mu`` even, CLs logarithmic."""

    def __init__(self, low: float, high: float, floor_: float) -> None:
        self.low, self.high = low, high
        self.floor = floor_

    def x(self, mu: float) -> float:
        share = (mu - self.low) / (self.high - self.low)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, cls: float) -> float:
        share = log10(min(max(cls, self.floor), 1.3) / self.floor) / log10(1.3 / self.floor)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    def path(self, pairs: Pairs) -> str:
        return " ".join(f"{self.x(mu)},{self.y(cls)}" for mu, cls in pairs)


def sketch(found: Limit) -> str:
    """Draw CLs along a scan, observed and expected.

    Parameters
    ----------
    found : Limit
        The limit, as far as it is known.

    Returns
    -------
    str
        An ``svg`` element.
    """
    level = 1.0 - found.cl
    mu = [point.mu for point in found.points]
    margin = 0.0 if len(mu) > 1 else 0.5 * max(abs(mu[0]), 1.0)
    axes = _Axes(mu[0] - margin, mu[-1] + margin, 0.08 * level)
    median = BANDS.index(0)
    parts = [
        _band(axes, found, 0, 4, YELLOW, 0.35),
        _band(axes, found, 1, 3, GREEN, 0.45),
        _line(axes, _curve(found, median), "currentColor", "6 4"),
        *_frame(axes, found),
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{axes.y(level)}" y2="{axes.y(level)}" '
        f'stroke="{RED}"/>',
        *_observed(axes, found),
    ]
    words = f"CLs against {found.poi} at {len(mu)} points, observed and expected"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'width="{_WIDTH}" style="max-width:100%;height:auto" aria-label="{escape(words)}" '
        f'font-family="sans-serif" font-size="12" fill="currentColor">{"".join(parts)}</svg>'
    )


def _curve(found: Limit, band: int) -> list[tuple[float, float]]:
    pairs = [(point.mu, point.expected[band].value) for point in found.points]
    return [(mu, cls) for mu, cls in pairs if isfinite(cls)]


def _band(axes: _Axes, found: Limit, low: int, high: int, color: str, opacity: float) -> str:
    outline = [*_curve(found, low), *reversed(_curve(found, high))]
    return f'<polygon points="{axes.path(outline)}" fill="{color}" fill-opacity="{opacity}"/>'


def _line(axes: _Axes, pairs: Pairs, color: str, dashes: str = "none") -> str:
    return (
        f'<polyline points="{axes.path(pairs)}" fill="none" stroke="{color}" stroke-width="1.5" '
        f'stroke-dasharray="{dashes}"/>'
    )


def _observed(axes: _Axes, found: Limit) -> list[str]:
    """Observed CLs with its errors, above the formula."""
    formula = [(point.mu, point.asymptotic.observed) for point in found.points]
    known = [(point.mu, point.cls) for point in found.points if isfinite(point.cls.value)]
    parts = [
        _line(axes, [pair for pair in formula if isfinite(pair[1])], RED, "2 3"),
        _line(axes, [(mu, cls.value) for mu, cls in known], "currentColor"),
    ]
    for mu, cls in known:
        if cls.value < axes.floor:
            continue
        x, error = axes.x(mu), cls.error if isfinite(cls.error) else 0.0
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{axes.y(cls.value - error)}" '
            f'y2="{axes.y(cls.value + error)}" stroke="currentColor"/>'
            f'<circle cx="{x}" cy="{axes.y(cls.value)}" r="3"/>'
        )
    return parts


def _frame(axes: _Axes, found: Limit) -> list[str]:
    """Axes with their numbers and names, and what the lines are."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f'<rect x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{bottom - _TOP}" '
        'fill="none" stroke="currentColor" stroke-opacity="0.6"/>'
    ]
    for mu in _even(axes.low, axes.high):
        x = axes.x(mu)
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom - 5}" stroke="currentColor"/>'
            f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{mu:g}</text>'
        )
    for exponent in range(ceil(log10(axes.floor)), 1):
        y = axes.y(10.0**exponent)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + 5}" y1="{y}" y2="{y}" stroke="currentColor"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{10.0**exponent:g}</text>'
        )
    poi = found.poi if len(found.poi) <= 60 else f"{found.poi[:59]}…"
    parts.append(f'<text x="{right}" y="{_HEIGHT - 6}" text-anchor="end">{escape(poi)}</text>')
    parts.append(f'<text x="12" y="{_TOP + 12}">CLs</text>')
    words = "● observed   – – expected   ··· observed, asymptotic"  # noqa: RUF001 - drawn lines
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 6}" xml:space="preserve">{words}</text>')
    return parts


def _even(low: float, high: float) -> list[float]:
    """Round numbers between two others, about `_TICKS` of them."""
    step = 10.0 ** floor(log10((high - low) / _TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= _TICKS)
    return [
        round(i * step, 12) for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)
    ]
