"""p-values from counted toys, with their Monte-Carlo errors.

A toy lies *above* an observation if its test statistic is at least as large: ties count, since
q-tilde is exactly zero in many toys, and in a counting experiment many toys are equal to the data.
Values are taken for tied if no fit could tell them apart, for another engine, or another starting
point, rounds otherwise.  Everything sorts once, so that a million toys take less than
a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, nan, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BANDS = (-2, -1, 0, 1, 2)
"""Standard deviations of the expected bands; -2 is the smallest CLs and the strongest limit."""

BAND_NAMES = tuple(f"{band:+d} sigma" if band else "median" for band in BANDS)


@dataclass(frozen=True, slots=True)
class Measured:
    """A number from toys with its Monte-Carlo error; both nan where it is undefined."""

    value: float
    error: float


UNDEFINED = Measured(nan, nan)

TIE = 1e-6
"""Difference of test statistics up to which they are tied: engines differ by less."""

_PART_OF_TAIL = 0.25
"""Part of the toys beyond a band over which the change of CLs with the band is averaged."""


@dataclass(frozen=True, slots=True)
class MeasuredCLs:
    """CLs, and its error in two parts: from toys with the signal and from those without."""

    value: float
    error_sb: float
    error_b: float

    @property
    def error(self) -> float:
        """The whole error."""
        return hypot(self.error_sb, self.error_b)

    @property
    def total(self) -> Measured:
        """CLs with its whole error."""
        return Measured(self.value, self.error)


def p_value(q: Floats, observed: float) -> Measured:
    """Give the share of toys at or above an observation.

    Parameters
    ----------
    q : (n_toys,) float array
        Test statistics.
    observed : float
        The observed one.

    Returns
    -------
    Measured
        The share and its binomial error; undefined without toys.

    Examples
    --------
    >>> p_value(np.array([0.0, 0.0, 1.0, 2.0]), 1.0)
    Measured(value=0.5, error=0.25)
    """
    if not len(q):
        return UNDEFINED
    share = float(np.count_nonzero(q >= observed - TIE)) / len(q)
    return Measured(share, _binomial_error(share, len(q)))


def cls_value(clsb: Measured, clb: Measured) -> MeasuredCLs:
    r"""Give CLs from CLs+b and CLb.

    .. math:: \mathrm{CL}_s = \mathrm{CL}_{s+b} / \mathrm{CL}_b

    Parameters
    ----------
    clsb, clb : Measured
        Shares of toys at or above the observation, from independent toys.

    Returns
    -------
    MeasuredCLs
        CLs and its error; undefined where no background-only toy lies above.

    References
    ----------
    A. L. Read, J. Phys. G 28 (2002) 2693.

    Examples
    --------
    >>> cls = cls_value(Measured(0.05, 0.01), Measured(0.5, 0.02)).total
    >>> print(f"{cls.value:.3f} +- {cls.error:.3f}")
    0.100 +- 0.020
    """
    if not clb.value > 0.0:
        return MeasuredCLs(nan, nan, nan)
    value = clsb.value / clb.value
    return MeasuredCLs(value, clsb.error / clb.value, value * clb.error / clb.value)


def expected_cls(q_sb: Floats, q_b: Floats) -> tuple[MeasuredCLs, ...]:
    r"""Give the CLs expected without a signal: its quantiles among background-only toys.

    The error has two parts.  The count of signal-plus-background toys is binomial; and the shares
    of background-only toys fluctuate by :math:`\delta = \sqrt{p(1-p)/n_b}`, which takes the band to
    the toy that was at :math:`p \mp \delta` and adds :math:`\pm\delta` to its CLb.  Where q is
    continuous CLb so stays at p and CLs+b alone moves; where many toys share one q the band stays
    at it and CLb alone moves.

    Parameters
    ----------
    q_sb, q_b : (n_sb,), (n_b,) float array
        Test statistics of toys with and without the signal.

    Returns
    -------
    tuple of MeasuredCLs
        One for each of `BANDS`; undefined without toys.  The values are those of pyhf
        (pyhf.infer.calculators.ToyCalculator.expected_pvalues).
    """
    if not len(q_sb) or not len(q_b):
        return (MeasuredCLs(nan, nan, nan),) * len(BANDS)
    q_sb, q_b = np.sort(q_sb), np.sort(q_b)
    cls = _share_above(q_sb, q_b) / _share_above(q_b, q_b)
    quantiles = np.array([NormalDist().cdf(band) for band in BANDS])
    values = np.quantile(cls, quantiles)
    return tuple(
        MeasuredCLs(float(value), *_band_errors(q_sb, q_b, 1.0 - p))
        for value, p in zip(values, quantiles.tolist(), strict=True)
    )


def _band_errors(q_sb: Floats, q_b: Floats, p: float) -> tuple[float, float]:
    """Errors of CLs where a share p of the sorted background-only toys lies below."""
    delta = sqrt(p * (1.0 - p) / len(q_b))
    # One delta apart there are too few toys for a difference: it is taken over a wider part.
    wide = max(delta, _PART_OF_TAIL * min(p, 1.0 - p))
    at = np.quantile(q_b, np.clip([p - wide, p, p + wide], 0.0, 1.0), method="lower")
    clsb, clb = _share_above(q_sb, at), _share_above(q_b, at)
    # All toys lie above the lowest q: its share cannot fluctuate.
    shifts = np.array([-1.0, 0.0, 1.0]) * np.sqrt(clb * (1.0 - clb) / len(q_b)) * wide / delta
    cls = clsb / np.maximum(clb + shifts, 1.0 / len(q_b))
    moved = float(cls[0] - cls[2]) / 2.0 * delta / wide
    counted = _binomial_error(float(clsb[1]), len(q_sb)) / float(clb[1])
    return counted, abs(moved)


def _share_above(q_sorted: Floats, at: Floats) -> Floats:
    """Share of the toys at or above each value."""
    return 1.0 - np.searchsorted(q_sorted, at - TIE, side="left") / len(q_sorted)


def _binomial_error(share: float, n: int) -> float:
    # A count of zero is given the variance of a count of one, so that an empty tail is never a
    # certain tail; likewise a full one.
    inside = min(max(share, 1.0 / n), 1.0 - 1.0 / n) if n > 1 else 0.5
    return sqrt(inside * (1.0 - inside) / n)
