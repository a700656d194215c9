"""Toys that an adaptive scan needs, against fixed scans of equal precision."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np

from hepdask_ml import toy_limit, upper_limit
from hepdask_ml.likelihood.fit import available_processors

if TYPE_CHECKING:
    from benchmarks.models import Case

    from hepdask_ml.inference.limit import Limit


STEPS = 20
"""Values of the even scan: from zero to a fifth above the largest limit."""


@dataclass(frozen=True, slots=True)
class Need:
    """Mean numbers of toys: adaptive, at points that `upper_limit` chooses, and at even steps."""

    precision: float
    seeds: int
    adaptive: float
    chosen: float
    even: float


def toys_needed(case: Case, precision: float, seeds: int) -> Need:
    """Run all scans with some seeds.

    Errors fall with the square root of the toys: from the error that a fixed scan has follow the
    toys with which it would have the precision.
    """
    spec = case.workspace()
    toys = min(round(16.0 / precision**2), 40_000)
    adaptive, chosen, even = [], [], []
    for seed in range(1, seeds + 1):
        campaign = toy_limit(spec, precision=precision, seed=seed)
        found: Limit = campaign.run(threads=available_processors())
        adaptive.append(found.toys)
        chosen.append(_toys_for(upper_limit(spec, toys=toys, seed=seed), precision))
        values = np.linspace(0.0, 1.2 * found.expected[-1].value, STEPS + 1)[1:]
        even.append(_toys_for(upper_limit(spec, toys=toys, seed=seed, scan=values), precision))
    return Need(precision, seeds, mean(adaptive), mean(chosen), mean(even))


def _toys_for(found: Limit, precision: float) -> float:
    return found.toys * (_largest_error(found) / precision) ** 2


def _largest_error(found: Limit) -> float:
    errors = [one.error / one.value for one in (found.observed, *found.expected)]
    return max(error for error in errors if isfinite(error))
