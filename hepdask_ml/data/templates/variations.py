"""The arithmetic of variations: smoothed, made symmetric, parted into yield and shape, pruned.

A variation becomes a change in yield, two factors, and a change in shape, two templates with the
yield of the nominal one.  Their products are the varied templates again, up and down, so that
nothing is lost where nothing is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hepdask_ml.data.templates.smoothing import smoothed
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Change in yield and change in shape, one standard deviation down and up."""

    norm_down: float
    norm_up: float
    shape_down: Floats
    shape_up: Floats


def smoothed_to(nominal: Floats, varied: Floats, where: str) -> Floats:
    """Smooth the ratio of a variation to the nominal, and keep its yield.

    Parameters
    ----------
    nominal, varied : (bin,) float array
        Sums of weights, in three bins at least.
    where : str
        Which variation it is, for messages.

    Returns
    -------
    (bin,) float array
        The smooth variation.

    Raises
    ------
    InputError
        If the nominal is zero in a bin, or the smooth one has no yield.
    """
    if (nominal == 0).any():
        empty = int(np.argmax(nominal == 0))
        raise InputError(
            f"{where} cannot be smoothed: the nominal is zero in bin {empty}, so rebin, or set a "
            "floor"
        )
    smooth = smoothed(varied / nominal) * nominal
    total = smooth.sum()
    if total == 0:
        raise InputError(f"{where} cannot be smoothed: nothing is left of it, so do not smooth it")
    scaled: Floats = smooth * (varied.sum() / total)
    return scaled


def symmetric(nominal: Floats, up: Floats, down: Floats | None, how: str) -> tuple[Floats, Floats]:
    """Give both sides of a variation.

    Parameters
    ----------
    nominal, up : (bin,) float array
        Sums of weights.
    down : (bin,) float array or None
        The other side, if there is one.
    how : {"mirror", "average"}
        Mirror a single side about the nominal, or average both.

    Returns
    -------
    down, up : (bin,) float array
        Both sides.

    Examples
    --------
    >>> symmetric(np.array([10.0]), np.array([13.0]), np.array([9.0]), "average")
    (array([8.]), array([12.]))
    """
    if down is None:
        return 2.0 * nominal - up, up
    if how == "average":
        half = (up - down) / 2.0
        return nominal - half, nominal + half
    return down, up


def parted(nominal: Floats, down: Floats, up: Floats, where: str) -> Parts:
    """Part a variation into yield and shape.

    Parameters
    ----------
    nominal, down, up : (bin,) float array
        Sums of weights.
    where : str
        Which variation it is, for messages.

    Returns
    -------
    Parts
        Both parts.

    Raises
    ------
    InputError
        If a yield is zero or has another sign than the nominal one: the normsys must be positive.
    """
    norm_down, norm_up = (_ratio(nominal, varied, where) for varied in (down, up))
    return Parts(norm_down, norm_up, down / norm_down, up / norm_up)


def mirrored_parts(nominal: Floats, up: Floats, where: str) -> Parts:
    """Part one side of a variation into yield and shape, and mirror each about the nominal.

    Parameters
    ----------
    nominal, up : (bin,) float array
        Sums of weights.
    where : str
        Which variation it is, for messages.

    Returns
    -------
    Parts
        Both parts, with their images.

    Raises
    ------
    InputError
        If the image of the yield is not positive.
    """
    norm = _ratio(nominal, up, where)
    if norm >= 2.0:
        raise InputError(
            f"{where} multiplies the yield by {norm:g}, whose image about 1 is not positive: give "
            "the other side, too"
        )
    shape = up / norm
    return Parts(2.0 - norm, norm, 2.0 * nominal - shape, shape)


def _ratio(nominal: Floats, varied: Floats, where: str) -> float:
    before, after = float(nominal.sum()), float(varied.sum())
    if before == 0 or after / before <= 0:
        raise InputError(
            f"{where} changes the yield from {before:g} to {after:g}, which no positive factor "
            'does: choose the form "histosys" for it'
        )
    return after / before


def norm_effect(parts: Parts) -> float:
    """Give the larger change in yield, as a fraction."""
    return max(abs(parts.norm_down - 1.0), abs(parts.norm_up - 1.0))


def shape_effect(nominal: Floats, down: Floats, up: Floats) -> float:
    """Give the largest change of a bin, as a fraction of the nominal; infinite above zero."""
    change = np.maximum(np.abs(down - nominal), np.abs(up - nominal))
    size = np.abs(nominal)
    ratio = np.where(
        size > 0, change / np.where(size > 0, size, 1.0), np.where(change > 0, np.inf, 0)
    )
    return float(ratio.max())
