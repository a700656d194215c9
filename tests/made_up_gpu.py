"""A made-up GPU for tests: the door to the real one, behind which a CPU does the work.

It shows what is done with a GPU, not what a GPU does: `tests/gpu` runs the real kernels' text.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from hepdask_ml.errors import GpuError
from hepdask_ml.inference import toys as toys_module
from hepdask_ml.likelihood import kernels_gpu
from hepdask_ml.likelihood.fit import data_terms, fit_pair
from hepdask_ml.likelihood.kernels import lower
from hepdask_ml.likelihood.kernels_gpu import Pairs
from hepdask_ml.likelihood.throw import throw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hepdask_ml.campaign.unit import Block, Done
    from hepdask_ml.inference.engines import Used
    from hepdask_ml.likelihood.kernels import Lowered
    from hepdask_ml.likelihood.kernels_gpu import Thrown
    from hepdask_ml.likelihood.model import CompiledModel
    from hepdask_ml.limits.runner import ToyRunner

NAME = "Made-up 1"

ROUNDING = 1e-9
"""What -ln L differs by, for arithmetic is done in another order there."""


@dataclass
class MadeUpGpu:
    """What is in place of the functions of `kernels_gpu`.

    Attributes
    ----------
    fails_at : int or None
        The launch, counted from 1, that fails; nothing works after it.
    launches : list of int
        Toys of each.
    """

    fails_at: int | None = None
    launches: list[int] = field(default_factory=list)
    failed: bool = False
    models: dict[int, CompiledModel] = field(default_factory=dict)
    lock: Any = field(default_factory=Lock)

    def unusable(self) -> str:
        return "it has failed before" if self.failed else ""

    def device_name(self) -> str:
        return NAME

    def lower(self, model: CompiledModel) -> Lowered:
        lowered = lower(model)
        self.models[id(lowered)] = model
        return lowered

    def fit_pairs(
        self, lowered: Lowered, data: Thrown, poi: float, start: Any, *, starts: int, shifts: Any
    ) -> Pairs:
        assert shifts.shape == (max(starts - 8, 0), len(lowered.kept))
        with self.lock:
            self.launches.append(len(data.toys))
            self.failed = self.failed or len(self.launches) == self.fails_at
            if self.failed:
                raise GpuError(f"the GPU {NAME} failed: it fell off the bus")
        model = self.models[id(lowered)]
        rows = throw(data.throwing, data.toys.start, len(data.toys), model.n_data)
        init = model.init.copy()
        init[lowered.kept] = start
        pairs = fit_pair(model, rows, poi, starts=starts, init=init)
        terms = data_terms(model, rows)
        return Pairs(
            pairs.poi_hat,
            (pairs.twice_nll_fixed - terms) / 2.0 + ROUNDING * np.sin(np.array(data.toys)),
            (pairs.twice_nll_free - terms) / 2.0,
            pairs.status_fixed,
            pairs.status_free,
        )


@contextmanager
def made_up_gpu(fails_at: int | None = None) -> Iterator[MadeUpGpu]:
    """Give this process a GPU for a while."""
    gpu = MadeUpGpu(fails_at)
    with (
        patch.object(kernels_gpu, "unusable", gpu.unusable),
        patch.object(kernels_gpu, "device_name", gpu.device_name),
        patch.object(kernels_gpu, "fit_pairs", gpu.fit_pairs),
        patch.object(toys_module, "lower", gpu.lower),
    ):
        yield gpu


_KEPT = ExitStack()


@dataclass(frozen=True)
class OnMadeUpGpu:
    """A runner for processes that have such a GPU until their end.

    Attributes
    ----------
    runner : ToyRunner
        The runner.
    """

    runner: ToyRunner

    def run(self, block: Block, enough: Any) -> Done:
        if not isinstance(getattr(kernels_gpu.fit_pairs, "__self__", None), MadeUpGpu):
            _KEPT.enter_context(made_up_gpu())
        return self.runner.run(block, enough)


@dataclass
class SomeHaveGpus:
    """A runner of which some threads have a GPU and others don't, like workers of a campaign.

    Attributes
    ----------
    runner : ToyRunner
        The runner.
    used : dict
        Blocks that were begun on each engine.
    """

    runner: ToyRunner
    used: Counter[str] = field(default_factory=Counter)
    lock: Any = field(default_factory=Lock)
    threads: list[int] = field(default_factory=list)

    def run(self, block: Block, enough: Any) -> Done:
        with self.lock:
            if get_ident() not in self.threads:
                self.threads.append(get_ident())
            engine: Used = "cpu" if self.threads.index(get_ident()) % 2 else "gpu"
            self.used[engine] += 1
        return replace(self.runner, engine=engine).run(block, enough)
