"""How often a fit misses the lowest minimum known: of its own search and of many random starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.models import MU, prepared

from hepdask_ml.inference.toys import throw
from hepdask_ml.likelihood.fit import DEFAULT_STARTS, converged, data_terms, fit, fit_pair
from hepdask_ml.likelihood.kernels import lower, minimise

if TYPE_CHECKING:
    from typing import Any

    from benchmarks.models import Case, Prepared

MISSED = 1e-3
"""-2 ln L above the lowest known at which a minimum is called missed."""

RANDOM_STARTS = 30


@dataclass(frozen=True, slots=True)
class Misses:
    """Shares of toys whose fit misses the lowest minimum, with the default starts and with one."""

    toys: int
    fixed: float
    free: float
    one_start_fixed: float
    one_start_free: float


def misses(case: Case, toys: int) -> Misses:
    """Compare both fits of each toy with the reference."""
    at = prepared(case)
    data = throw(at.model, at.signal, seed=1, start=0, stop=toys)
    pairs = [
        fit_pair(at.model, data, MU, starts=starts, init=at.signal.pars, threads=None)
        for starts in (DEFAULT_STARTS, 1)
    ]
    known = [(pair.twice_nll_fixed, pair.twice_nll_free) for pair in pairs]
    fixed, free = (
        np.minimum.reduce([*(pair[i] for pair in known), reference(at, data, poi)])
        for i, poi in enumerate((MU, None))
    )
    shares = [
        (float((pair[0] > fixed + MISSED).mean()), float((pair[1] > free + MISSED).mean()))
        for pair in known
    ]
    return Misses(toys, *shares[0], *shares[1])


def reference(at: Prepared, data: Any, poi: float | None) -> Any:
    """(n_toys,) lowest -2 ln L from random starts about the hypothesis and about the toy's own fit.

    Constrained parameters start a prior width about the hypothesis, or 1.5 of them about the first
    minimum; free ones at a random multiple of their value.
    """
    rng = np.random.default_rng(1)
    model, lowered = at.model, lower(at.model)
    kept, rows = lowered.kept, np.arange(len(data))
    held = np.full(len(data), np.nan if poi is None else poi)
    first = fit(model, data, poi=poi, starts=1, init=at.signal.pars).pars[:, kept]
    constrained = model.constraint[kept] == 1
    best = np.full(len(data), np.inf)
    for start in range(RANDOM_STARTS):
        about = first if start % 2 else at.signal.pars[kept]
        spread = (1.5 if start % 2 else 1.0) * model.sigma[kept]
        away = rng.normal(size=first.shape)
        points = np.where(constrained, about + spread * away, about * np.exp(away))
        points = np.where(model.fixed[kept], first, points)
        found = minimise(
            lowered, data, rows, np.clip(points, model.lower[kept], model.upper[kept]), held
        )
        best = np.minimum(best, np.where(converged(found.status), found.nll, np.inf))
    return 2.0 * best + data_terms(model, data)
