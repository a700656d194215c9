r"""Asymptotic p-values: brackets for scans, and a number to hold the toys against.

All follow from :math:`\sqrt{q}` of the data and :math:`\sqrt{q_A}` of the *Asimov* data, the
expectation of the background-only model.

References
----------
G. Cowan et al., Eur. Phys. J. C 71 (2011) 1554; pyhf.infer.calculators.AsymptoticCalculator.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, nan, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

from hepdask_ml.inference.pvalues import BANDS

if TYPE_CHECKING:
    from hepdask_ml.inference.statistics import TestStatistic

_NORMAL = NormalDist()
_ROOT_TWO = sqrt(2.0)


@dataclass(frozen=True, slots=True)
class Asymptotic:
    """An observed number and the five expected ones, from asymptotic formulae; nan if undefined."""

    observed: float
    expected: tuple[float, ...]


UNKNOWN = Asymptotic(nan, (nan,) * len(BANDS))


def asymptotic_cls(kind: TestStatistic, q: float, q_asimov: float) -> Asymptotic:
    """Give CLs by the asymptotic formulae.

    Parameters
    ----------
    kind : {"q", "qtilde", "t"}
        Test statistic.
    q : float
        Its observed value.
    q_asimov : float
        Its value on the Asimov data of the background-only model.

    Returns
    -------
    Asymptotic
        CLs observed and expected; nan where the Asimov data do not tell the hypotheses apart.
    """
    if not q_asimov > 0.0:
        return UNKNOWN
    root, shift = sqrt(q), sqrt(q_asimov)
    if kind == "t":
        expected = tuple(_two_sided_cls(_two_sided_root(band, shift), shift) for band in BANDS)
        return Asymptotic(_two_sided_cls(root, shift), expected)
    distance = root - shift
    if kind == "qtilde" and root > shift:
        distance = (q - q_asimov) / (2.0 * shift)
    return Asymptotic(
        _one_sided_cls(distance, shift), tuple(_one_sided_cls(-band, shift) for band in BANDS)
    )


def asymptotic_discovery(q0: float) -> tuple[float, float]:
    """Give p-value and significance of an excess (eqs. 52 and 53).

    Parameters
    ----------
    q0 : float
        Observed test statistic.

    Returns
    -------
    p_value, significance : float
        The significance in standard deviations, one-sided.
    """
    return normal_tail(sqrt(q0)), sqrt(q0)


def normal_tail(z: float) -> float:
    """Give the probability above z standard deviations.

    Parameters
    ----------
    z : float
        Standard deviations.

    Returns
    -------
    float
        1 - Phi(z), not zero far out.
    """
    # NormalDist.cdf rounds to zero beyond 8.3 standard deviations.
    return 0.5 * erfc(z / _ROOT_TWO)


def _one_sided_cls(distance: float, shift: float) -> float:
    """CLs where the statistic lies ``distance`` standard deviations from its background median."""
    clb = normal_tail(distance)
    return normal_tail(distance + shift) / clb if clb > 0.0 else nan


def _two_sided_cls(root: float, shift: float) -> float:
    """CLs of t_mu, whose root is |z| with signal and |z + shift| without (eq. 35)."""
    clb = _two_sided_clb(root, shift)
    return 2.0 * normal_tail(root) / clb if clb > 0.0 else nan


def _two_sided_clb(root: float, shift: float) -> float:
    return normal_tail(root + shift) + normal_tail(root - shift)


def _two_sided_root(band: int, shift: float) -> float:
    """Root of t_mu that a share of background-only experiments exceeds: by bisection."""
    share = _NORMAL.cdf(band)
    low, high = 0.0, shift + 10.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _two_sided_clb(middle, shift) > share else (low, middle)
    return 0.5 * (low + high)
