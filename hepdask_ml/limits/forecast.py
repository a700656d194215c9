"""What a campaign will do and cost, told before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from hepdask_ml.campaign.ledger import MEMORY, open_ledger
from hepdask_ml.campaign.unit import Block
from hepdask_ml.limits.strategy import AdaptiveScan, needed_by_formulae
from hepdask_ml.seeds import MICRO_BATCH

if TYPE_CHECKING:
    from hepdask_ml.campaign.campaign import Campaign
    from hepdask_ml.campaign.unit import Unit
    from hepdask_ml.inference.limit import Limit

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
        Of one thread on this machine, from a trial.
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
    """Tell what a campaign will do, with a trial of one micro-batch of toys.

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
    block = Block(unit.key, unit.spec, 0, MICRO_BATCH, "trial")
    begun = perf_counter()
    campaign.runner.run(block, lambda: False)
    return MICRO_BATCH / (perf_counter() - begun)
