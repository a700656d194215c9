"""The processes that train one model together, as the objective of a trial meets them.

A *rank* is one of them, and the *world* is their number.  Every rank has the whole model, takes its
part of each *global batch* and has the mean of all gradients, so that all models stay equal.  The
first rank (0) reads and writes the checkpoints, and what it gives counts.  A trial that is trained
by one process alone is a world of one, `ALONE`, in which nothing is to be agreed upon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hepdask_ml import seeds
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from hepdask_ml.training.checkpoint import Checkpoint

    Indices = NDArray[np.int64]


class Ranks(Protocol):
    """What a rank does together with the others.

    Each method is called by all ranks, in the same order: one that waits for a rank which does not
    call waits in vain.
    """

    @property
    def rank(self) -> int:
        """Place of this process, from 0."""

    @property
    def world(self) -> int:
        """Number of processes."""

    def wrap(self, model: Any) -> Any:
        """Give a model whose gradients are the mean of those of all ranks; equal in all of them.

        Its ``state_dict`` is that of the model itself, whatever the world.
        """

    def checkpoint(self, load: Callable[[], Checkpoint | None]) -> Checkpoint | None:
        """Give all ranks what the first one loads."""

    def agree(self, metrics: Mapping[str, float], stop: bool) -> tuple[dict[str, float], bool]:
        """Give the mean of each number over the ranks, and whether any of them wants to stop."""


class Alone:
    """A world of one."""

    rank = 0
    world = 1

    def wrap(self, model: Any) -> Any:
        """Give the model itself."""
        return model

    def checkpoint(self, load: Callable[[], Checkpoint | None]) -> Checkpoint | None:
        """Give what is loaded."""
        return load()

    def agree(self, metrics: Mapping[str, float], stop: bool) -> tuple[dict[str, float], bool]:
        """Give the same."""
        return dict(metrics), stop


ALONE = Alone()
"""The one process of a trial that is in no gang."""


def batches(
    n: int, batch: int, epoch: int, seed: int, rank: int = 0, world: int = 1
) -> Iterator[tuple[Indices, float]]:
    r"""Go through the samples of an epoch, in the same global batches for any number of ranks.

    The order is a permutation that seed and epoch decide.  Rank :math:`r` of :math:`W` has
    :math:`b_r` of the :math:`b` samples of a global batch.  The mean loss of the batch is

    .. math:: \frac{1}{b} \sum_i \ell_i = \frac{1}{W} \sum_r w_r \bar\ell_r,
              \qquad w_r = \frac{W b_r}{b},

    and the ranks' gradients are averaged with :math:`1 / W`: with its mean loss times the weight
    :math:`w_r`, each rank contributes what is its due, also where the parts are uneven.

    Parameters
    ----------
    n : int
        Number of samples.
    batch : int
        Samples of a global batch; the last one of an epoch holds what is left.
    epoch : int
        Index of the epoch.
    seed : int
        Seed of the trial.
    rank, world : int
        Which of how many processes this is.

    Yields
    ------
    indices : (n_here,) ndarray of int
        Samples of this rank; at least one.  Where there are fewer samples than ranks, some ranks
        have one of another rank and the weight zero, as none may be missing where gradients meet.
    weight : float
        Factor for the mean loss of these samples; one in a world of one.

    Raises
    ------
    InputError
        If there are no samples, or there is no batch.

    Examples
    --------
    >>> [(len(indices), weight) for indices, weight in batches(10, 4, 0, 1, rank=0, world=3)]
    [(2, 1.5), (2, 1.5), (1, 1.5)]
    >>> [(len(indices), weight) for indices, weight in batches(10, 4, 0, 1, rank=2, world=3)]
    [(1, 0.75), (1, 0.75), (1, 0.0)]
    """
    if n < 1 or batch < 1:
        raise InputError(f"there are {n} samples in batches of {batch}: give at least one of each")
    order = np.random.default_rng([seed, epoch]).permutation(n)
    for start in range(0, n, batch):
        whole = order[start : start + batch]
        part = np.array_split(whole, world)[rank]
        yield (part, world * len(part) / len(whole)) if len(part) else (whole[:1], 0.0)


def seed_of(seed: int, epoch: int, rank: int) -> int:
    """Give the seed of a rank's own random numbers, from an epoch on.

    All ranks begin with the random states of the first one.  The others go on from a seed of their
    own, so that not all of them drop the same units out.

    Parameters
    ----------
    seed : int
        Of the trial.
    epoch : int
        The first one to do.
    rank : int
        Which process this is.

    Returns
    -------
    int
        32 bits.
    """
    return seeds.key(seed, f"epoch {epoch} of rank {rank}") % 2**32
