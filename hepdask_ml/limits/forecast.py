"""What a campaign will do and cost, told before it begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, cast

from hepdask_ml.campaign.ledger import MEMORY, open_ledger
from hepdask_ml.campaign.unit import Block
from hepdask_ml.limits.strategy import AdaptiveScan, needed_by_formulae

if TYPE_CHECKING:
    from hepdask_ml.campaign.campaign import Campaign
    from hepdask_ml.campaign.unit import Unit
    from hepdask_ml.inference.limit import Limit
    from hepdask_ml.limits.runner import ToyRunner

TRIAL = 512
"""Toys that are thrown and fitted to measure the pace."""

DETOUR = 2.0
"""Toys that an adaptive scan throws for each one that it would need if it knew the limits."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The plan of a campaign.

    Attributes
    ----------
    units : list of Unit
        What is done first.
    toys : int
        Toys in all: exactly for a fixed scan, by asymptotic formulae otherwise.
    exact : bool
        Which of the two.
    toys_per_s : float
        Of one thread of this machine's CPU, from a trial.
    """

    units: list[Unit]
    toys: int
    exact: bool
    toys_per_s: float

    @property
    def processor_s(self) -> float:
        """Time of one processor like this one, in seconds."""
        return self.toys / self.toys_per_s


def forecast(campaign: Campaign[Limit]) -> Forecast:
    """Tell what a campaign will do, with a trial of some toys.

    Parameters
    ----------
    campaign : Campaign
        Made by `toy_limit`.

    Returns
    -------
    Forecast
        Plan and cost.
    """
    strategy = campaign.strategy
    with open_ledger(MEMORY, campaign.identity) as empty:
        units = list(strategy.plan(empty))
    toys = sum(unit.total for unit in units)
    if isinstance(strategy, AdaptiveScan):
        toys = max(toys, min(strategy.max_toys, round(DETOUR * needed_by_formulae(strategy))))
    return Forecast(units, toys, not isinstance(strategy, AdaptiveScan), _pace(campaign, units))


def _pace(campaign: Campaign[Limit], units: list[Unit]) -> float:
    unit = units[len(units) // 2]
    block = Block(unit.key, unit.spec, 0, TRIAL, "trial")
    # What the GPUs of some workers make of it is known when they are there.
    runner = replace(cast("ToyRunner", campaign.runner), engine="cpu")
    begun = perf_counter()
    runner.run(block, lambda: False)
    return TRIAL / (perf_counter() - begun)
