r"""Test statistics from a fixed-POI fit and a free fit of the same data set.

==========  =======================  ============================================================
name        symbol                   value
==========  =======================  ============================================================
``t``       :math:`t_\mu`            -2 ln of the profile likelihood ratio at mu
``q``       :math:`q_\mu`            the same, 0 where the best fit lies above mu
``qtilde``  :math:`\tilde q_\mu`     as ``q`` with the best fit kept at 0 or above
``q0``      :math:`q_0`              the ratio at mu = 0, 0 where the best fit lies below
==========  =======================  ============================================================
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hepdask_ml.likelihood.fit import FitPairs
    from hepdask_ml.likelihood.model import CompiledModel

    Floats = NDArray[np.float64]

TestStatistic = Literal["q0", "q", "qtilde", "t"]


def test_statistic(kind: TestStatistic, pairs: FitPairs) -> Floats:
    """Evaluate a test statistic on fitted data sets.

    Parameters
    ----------
    kind : {"q0", "q", "qtilde", "t"}
        Which one; the bound at zero of ``qtilde`` is `bounded`'s part.
    pairs : FitPairs
        Both fits of each data set.

    Returns
    -------
    (n_toys,) float array
        Its values, zero or more.

    References
    ----------
    G. Cowan et al., Eur. Phys. J. C 71 (2011) 1554, eqs. 8, 12, 14 and 16;
    pyhf.infer.test_statistics.
    """
    ratio = np.maximum(pairs.twice_nll_fixed - pairs.twice_nll_free, 0.0)
    if kind == "t":
        return ratio
    if kind == "q0":
        return np.where(pairs.poi_hat < 0.0, 0.0, ratio)
    return np.where(pairs.poi_hat > pairs.poi_test, 0.0, ratio)


# pytest would collect it otherwise, wherever it is imported.
test_statistic.__test__ = False  # type: ignore[attr-defined]


def bounded(model: CompiledModel, kind: TestStatistic) -> CompiledModel:
    """Give the model with the bounds that a test statistic asks for.

    Parameters
    ----------
    model : CompiledModel
        The model.
    kind : {"q0", "q", "qtilde", "t"}
        The test statistic.

    Returns
    -------
    CompiledModel
        For ``qtilde`` the parameter of interest is bounded at zero from below, as the statistic is
        defined; the model itself otherwise.
    """
    if kind != "qtilde" or model.lower[model.poi_index] >= 0.0:
        return model
    lower = model.lower.copy()
    lower[model.poi_index] = 0.0
    return replace(model, lower=lower)


def checked_test_statistic(kind: str, allowed: tuple[str, ...]) -> TestStatistic:
    """Check the name of a test statistic.

    Parameters
    ----------
    kind : str
        Its name.
    allowed : tuple of str
        Those that make sense here.

    Returns
    -------
    str
        The same.

    Raises
    ------
    InputError
        If it is none of them.
    """
    if kind not in allowed:
        raise InputError(
            f'test statistic "{kind}" cannot be used: choose from {", ".join(allowed)}'
        )
    return cast("TestStatistic", kind)
