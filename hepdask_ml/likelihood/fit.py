"""Bounded maximum-likelihood fits of a whole batch of data sets at once.

Two words: a *fit* minimises -2 ln L of one data set, with the parameter of interest free or
fixed; a *pair* is the fixed and the free fit of the same data set, which is all that a test
statistic needs.  A batch never raises for one of its rows: each row carries a `FitStatus`, whose
``sentence`` says what happened.

Real likelihoods have several minima, because many systematic uncertainties are one-sided.  Each
row is therefore fitted from up to ``starts`` starting points and keeps the lowest minimum.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hepdask_ml.likelihood.model import CompiledModel

    Floats = NDArray[np.float64]

DEFAULT_STARTS = 8


class FitStatus(IntEnum):
    """How the fit of one data set ended; ``sentence`` tells it in words."""

    CONVERGED = 0
    MAX_ITERATIONS = 1
    STALLED = 2
    RATE_FLOOR = 3
    NOT_FINITE = 4

    @property
    def sentence(self) -> str:
        """What the status means, for the reader of a result."""
        return _SENTENCES[self]


_SENTENCES = {
    FitStatus.CONVERGED: "the projected gradient vanishes within the tolerance",
    FitStatus.MAX_ITERATIONS: "the iterations ran out before the projected gradient vanished",
    FitStatus.STALLED: "no step lowers -2 ln L further though the projected gradient is not zero",
    FitStatus.RATE_FLOOR: "the minimum lies where an expected rate is not positive",
    FitStatus.NOT_FINITE: "-2 ln L is not finite at any starting point",
}


@dataclass(frozen=True, slots=True, eq=False)
class Fits:
    """Fitted parameters of a batch of data sets, one row each.

    Attributes
    ----------
    pars : (n_toys, n_pars) float array
        Parameters at the minimum, in pyhf's order.
    twice_nll : (n_toys,) float array
        -2 ln L there, constants included (pyhf's convention).
    status : (n_toys,) int8 array
        A `FitStatus` for each row.
    """

    pars: Floats
    twice_nll: Floats
    status: NDArray[np.int8]

    @property
    def converged(self) -> NDArray[np.bool_]:
        """(n_toys,) bool array: rows whose projected gradient vanishes."""
        return self.status == FitStatus.CONVERGED

    def __len__(self) -> int:
        """Give the number of data sets fitted."""
        return len(self.status)


@dataclass(frozen=True, slots=True, eq=False)
class FitPairs:
    """The fixed-POI and the free fit of each data set of a batch.

    Attributes
    ----------
    poi_test : float
        Value of the parameter of interest in the fixed fits.
    poi_hat : (n_toys,) float array
        Its best-fit value in the free fits.
    twice_nll_fixed, twice_nll_free : (n_toys,) float array
        -2 ln L at both minima; the free one never lies above the fixed one.
    status_fixed, status_free : (n_toys,) int8 array
        A `FitStatus` for each row.
    """

    poi_test: float
    poi_hat: Floats
    twice_nll_fixed: Floats
    twice_nll_free: Floats
    status_fixed: NDArray[np.int8]
    status_free: NDArray[np.int8]


def fit(
    model: CompiledModel,
    data: Floats,
    *,
    poi: float | None = None,
    starts: int = DEFAULT_STARTS,
    init: Floats | None = None,
    threads: int | None = None,
) -> Fits:
    """Fit every row of ``data``, with the parameter of interest free or fixed (interface)."""
    raise NotImplementedError


def fit_pair(
    model: CompiledModel,
    data: Floats,
    poi: float,
    *,
    starts: int = DEFAULT_STARTS,
    init: Floats | None = None,
    threads: int | None = 1,
) -> FitPairs:
    """Fit every row of ``data`` twice, at ``poi`` and with it free (interface)."""
    raise NotImplementedError
