"""Which trials go on: decisions at *rungs*, numbers of epochs at which trials are compared.

References
----------
K. Jamieson, A. Talwalkar, Proc. AISTATS (2016) 240 (successive halving);
L. Li et al., Proc. MLSys 2 (2020) 230 (its asynchronous form);
D. Golovin et al., Proc. KDD (2017) 1487, section 3.2 (the median rule).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from hepdask_ml.config import nearest
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

REDUCTION = 3
"""One of so many trials goes on at a rung of successive halving."""

STARTUP = 5
"""Trials that must have come to a rung before the median counts."""


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
    """

    startup: int = STARTUP
    by_round: bool = False

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Give each tenth of the epochs."""
        step = ceil(epochs / 10)
        return tuple(range(step, epochs, step))

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
    """

    reduction: int = REDUCTION
    by_round: bool = True

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
    if not isinstance(asked, str):
        return asked  # type: ignore[no-any-return]
    if asked in PRUNERS:
        return PRUNERS[asked]
    near = nearest(asked, list(PRUNERS))
    advice = near[0] if near else f"choose from {', '.join(PRUNERS)}"
    raise InputError(f'pruning is "{asked}", which is no way to prune: {advice}')
