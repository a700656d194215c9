"""Which trials go on: decisions at *rungs*, numbers of epochs at which trials are compared.

References
----------
| K. Jamieson, A. Talwalkar, Proc. AISTATS (2016) 240 (successive halving)
| L. Li et al., Proc. MLSys 2 (2020) 230 (its asynchronous form)
| D. Golovin et al., Proc. KDD (2017) 1487, section 3.2 (the median rule)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from hepdask_ml.config import nearest
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

REDUCTION = 3
"""One of so many trials goes on at a rung of successive halving."""

STARTUP = 5
"""Trials that must have come to a rung before the median counts."""


@runtime_checkable
class Pruner(Protocol):
    """Says at which epochs trials are compared, and which go on."""

    @property
    def by_round(self) -> bool:
        """Whether a trial is compared with its own round, and not with all others."""

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Give the epochs after which it decides, all less than ``epochs``, by rising number."""

    def kept(self, losses: Mapping[int, float], numbers: set[int]) -> set[int]:
        """Say which trials go on.

        Parameters
        ----------
        losses : mapping of int to float
            Least loss up to the rung of each trial that has come to it, by its number.
        numbers : set of int
            Trials that wait for a decision, all among them.

        Returns
        -------
        set of int
            Those that go on.
        """


@dataclass(frozen=True, slots=True)
class Median:
    """Keeps the better half, compared with all that came to the rung before.

    Attributes
    ----------
    startup : int
        Trials that must have come to a rung before one is stopped there.
    by_round : bool
        False.

    Raises
    ------
    InputError
        If there is no such number.
    """

    startup: int = STARTUP
    by_round: bool = False

    def __post_init__(self) -> None:
        if self.startup < 1:
            raise InputError(f"startup is {self.startup}: it must be 1 or more")

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Give a quarter, a half and three quarters of the epochs.

        More rungs would cost more than they save: at each of them half of what is average goes.
        """
        parts = {ceil(epochs * quarter / 4) for quarter in (1, 2, 3)}
        return tuple(sorted(part for part in parts if part < epochs))

    def kept(self, losses: Mapping[int, float], numbers: set[int]) -> set[int]:
        """Keep what is not worse than the median of the others."""
        kept = set()
        for number in numbers:
            others = [loss for other, loss in losses.items() if other != number]
            if len(others) < self.startup or losses[number] <= median(others):
                kept.add(number)
        return kept


@dataclass(frozen=True, slots=True)
class Halving:
    """Successive halving: keeps the best part of a round at each rung.

    Attributes
    ----------
    reduction : int
        One of so many goes on, for so many times the epochs.
    by_round : bool
        True.

    Raises
    ------
    InputError
        If there is no such number.
    """

    reduction: int = REDUCTION
    by_round: bool = True

    def __post_init__(self) -> None:
        if self.reduction < 2:
            raise InputError(f"reduction is {self.reduction}: it must be 2 or more")

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Give the epochs divided by powers of the reduction."""
        found: list[int] = []
        at = epochs // self.reduction
        while at >= 1:
            found.append(at)
            at //= self.reduction
        return tuple(reversed(found))

    def kept(self, losses: Mapping[int, float], numbers: set[int]) -> set[int]:
        """Keep those among the best; of equals the ones proposed first."""
        best = sorted(losses, key=lambda number: (losses[number], number))
        return numbers.intersection(best[: ceil(len(losses) / self.reduction)])


PRUNERS: dict[str, Pruner] = {"median": Median(), "halving": Halving()}


def pruner(asked: Any) -> Pruner | None:
    """Give a pruner.

    Parameters
    ----------
    asked : str or Pruner or None
        ``"median"``, ``"halving"``, or one of your own.

    Returns
    -------
    Pruner or None
        None where nothing is pruned.

    Raises
    ------
    InputError
        If there is none of this name.
    """
    if asked is not None and not isinstance(asked, str | Pruner):
        raise InputError(f"pruning is {asked!r}: give median, halving, or an object that prunes")
    if not isinstance(asked, str):
        return asked
    if asked in PRUNERS:
        return PRUNERS[asked]
    near = nearest(asked, list(PRUNERS))
    advice = near[0] if near else f"choose from {', '.join(PRUNERS)}"
    raise InputError(f'pruning is "{asked}", which is no way to prune: {advice}')
