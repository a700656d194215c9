"""How a block of toys is worked, and what is kept of each toy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from hepdask_ml.campaign.unit import Done
from hepdask_ml.inference.toys import (
    FIRST_ON_GPU,
    ToyResults,
    ToySettings,
    choose,
    ensemble,
    evaluate_range,
)
from hepdask_ml.likelihood.fit import rows_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hepdask_ml.campaign.unit import Block
    from hepdask_ml.inference.engines import Engine, Used
    from hepdask_ml.inference.statistics import TestStatistic
    from hepdask_ml.inference.toys import Ensemble
    from hepdask_ml.likelihood.model import CompiledModel

TOY = np.dtype([("q", "<f8"), ("poi_hat", "<f8"), ("status", "i1")])
"""What is kept of a toy: 17 bytes, one after the other, so that results can be cut and joined."""

MOST_TOYS = 2**20
"""Toys of one result at most, 18 MB: a message should not hold a scheduler up."""

GRAIN = 64
"""Toys of the smallest step: some seconds where a toy takes long."""

CHUNK_S = 0.25
"""Time between two looks at whether it is enough."""


@dataclass(frozen=True, slots=True, eq=False)
class ToyRunner:
    """Throws and fits the toys of a block, in one thread or on the GPU of this process.

    The spec of a unit holds ``mu``, the value of the parameter of interest that is tested, and
    ``pars``, what its toys are thrown from; its key addresses their random numbers.

    Attributes
    ----------
    model : CompiledModel
        The model.
    kind : {"qtilde", "q", "t"}
        Test statistic.
    seed : int
        Seed of the campaign.
    starts : int
        Fits at most in each round of the search for the lowest minimum.
    engine : {"auto", "cpu", "gpu"}
        What does the work; each process chooses for itself if ``"auto"``.
    """

    model: CompiledModel
    kind: TestStatistic
    seed: int
    starts: int
    engine: Engine = "auto"

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        """Work a block; results are those of `hepdask_ml.inference.toys.evaluate`.

        Raises
        ------
        GpuError
            If a GPU is asked for and cannot be used, or fails.
        """
        toys = _ensemble(self.model, block.key, tuple(block.spec["pars"]))
        mu = float(block.spec["mu"])
        if enough():  # before a GPU is started
            return Done(block.start, b"")
        engine = self._engine(toys, mu)
        on_gpu = engine == "gpu"
        rows, most = (FIRST_ON_GPU, MOST_TOYS) if on_gpu else (GRAIN, rows_at_once(self.model))
        stop = min(block.stop, block.start + MOST_TOYS)
        at, pieces = block.start, []
        while at < stop and not enough():
            begun = monotonic()
            to = min(stop, at + rows)
            piece = evaluate_range(
                self.model, toys, mu, self.kind, self.seed, self.starts, at, to, engine
            )
            pieces.append(packed(piece))
            if monotonic() - begun < CHUNK_S / 2.0:
                rows = min(2 * rows, most)
            at = to
        return Done(at, b"".join(pieces))

    def _engine(self, toys: Ensemble, mu: float) -> Used:
        settings = ToySettings(1, self.seed, self.starts, engine=self.engine)
        return choose(self.model, toys, mu, self.kind, settings).engine


@lru_cache(maxsize=64)
def _ensemble(model: CompiledModel, key: str, pars: tuple[float, ...]) -> Ensemble:
    return ensemble(model, key, np.array(pars))


def packed(toys: ToyResults) -> bytes:
    """Give toys as bytes, `TOY` by `TOY`.

    Parameters
    ----------
    toys : ToyResults
        The toys.

    Returns
    -------
    bytes
        17 for each toy.
    """
    rows = np.empty(len(toys.q), TOY)
    rows["q"], rows["poi_hat"], rows["status"] = toys.q, toys.poi_hat, toys.status
    return rows.tobytes()


def unpacked(results: Sequence[bytes]) -> ToyResults:
    """Give the toys of some blocks, joined.

    Parameters
    ----------
    results : sequence of bytes
        Made by `packed`.

    Returns
    -------
    ToyResults
        All toys, in this order.
    """
    rows = np.frombuffer(b"".join(results), TOY)
    return ToyResults(rows["q"].copy(), rows["poi_hat"].copy(), rows["status"].copy())


def cut(result: bytes, start: int, stop: int) -> bytes:
    """Cut some toys out of a result.

    Parameters
    ----------
    result : bytes
        Made by `packed`.
    start, stop : int
        Half-open range, counted from its first toy.

    Returns
    -------
    bytes
        Their part.
    """
    return result[start * TOY.itemsize : stop * TOY.itemsize]
