"""Smoothing of a sequence with running medians: Friedman's 353QH, twice.

Medians of 3, 5 and 3 neighbours, a parabola where three values in a row are equal, and a running
mean (*hanning*); then the same again for what was taken away (*twicing*), so that peaks are not cut
off.  cabinetry has the same algorithm after ROOT's ``TH1::Smooth``; tests hold the numbers equal to
cabinetry's.

References
----------
J. H. Friedman, Data analysis techniques for high energy particle physics, Proceedings of the 1974
CERN School of Computing, p. 292, https://cds.cern.ch/record/186223.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FEWEST = 3
"""Values that are needed."""


def smoothed(values: Floats) -> Floats:
    """Smooth a sequence of numbers.

    Parameters
    ----------
    values : (n,) float array
        The sequence, of three numbers at least; it knows nothing of their errors.

    Returns
    -------
    (n,) float array
        The smooth sequence; without negative numbers if there were none before.

    Examples
    --------
    >>> print(smoothed(np.array([1.0, 1.0, 5.0, 1.0, 1.0])))
    [1. 1. 1. 1. 1.]
    """
    smooth = _once(values)
    smooth = smooth + _once(values - smooth)
    return smooth if values.min() < 0 else np.maximum(smooth, 0.0)


def _once(values: Floats) -> Floats:
    z = _median_of_three(values)
    z[0] = np.median([3 * z[1] - 2 * z[2], values[0], z[1]])
    z[-1] = np.median([z[-2], values[-1], 3 * z[-2] - 2 * z[-3]])
    z = _median_of_three(_median_of_five(z))
    y = _parabolas(z)
    z = y.copy()
    z[1:-1] = 0.25 * y[:-2] + 0.5 * y[1:-1] + 0.25 * y[2:]
    return z


def _median_of_three(z: Floats) -> Floats:
    """Keep the ends."""
    out = z.copy()
    out[1:-1] = np.median([z[:-2], z[1:-1], z[2:]], axis=0)
    return out


def _median_of_five(z: Floats) -> Floats:
    """Keep the ends, and take three values next to them."""
    out = z.copy()
    if len(z) >= 5:
        out[2:-2] = np.median([z[:-4], z[1:-3], z[2:-2], z[3:-1], z[4:]], axis=0)
    out[1] = np.median(z[:3])
    out[-2] = np.median(z[-3:])
    return out


def _parabolas(z: Floats) -> Floats:
    """Bend flat pieces of three between neighbours that both lie above, or both below."""
    out = z.copy()
    for i in range(2, len(z) - 2):
        left, right = z[i - 2] - z[i], z[i + 2] - z[i]
        if not (z[i - 1] == z[i] == z[i + 1]) or left * right <= 0:
            continue
        # Towards the side that is flatter.
        step = -1 if abs(right) > abs(left) else 1
        out[i] = -0.5 * z[i - 2 * step] + z[i] / 0.75 + z[i + 2 * step] / 6
        out[i + step] = 0.5 * (z[i + 2 * step] - z[i - 2 * step]) + z[i]
    return out
