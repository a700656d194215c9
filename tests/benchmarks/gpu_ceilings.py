"""What the card does at best, measured: the ceilings that fits are held against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.likelihood.device import COMPILER_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK, BLOCKS_EACH, REPETITIONS = 256, 8, 5
CHAINS, CELLS_READ, READS_AT_ONCE = 8, 8, 4


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Of one card.

    Attributes
    ----------
    flops : float
        Operations per second in double precision, a fused product and sum being two.
    memory, l2, shared : float
        Bytes per second: copied in memory (read and written), read from the L2 cache, and read from
        all multiprocessors' shared memory.
    """

    flops: float
    memory: float
    l2: float
    shared: float


def ceilings(cupy: Any, scale: float = 1.0) -> Ceilings:
    """Measure them, the best of five each; ``scale`` is how long that takes, about 1 s for one."""
    text = Path(__file__).with_name("gpu_ceilings.cu").read_text(encoding="utf-8")
    module = cupy.RawModule(code=text, options=COMPILER_OPTIONS, backend="nvrtc")
    blocks = BLOCKS_EACH * cupy.cuda.Device().attributes["MultiProcessorCount"]
    threads = blocks * BLOCK
    out = cupy.zeros(threads)

    def rate(name: str, amount: float, *arguments: Any) -> float:
        kernel = module.get_function(name)
        return amount / _shortest(cupy, lambda: kernel((blocks,), (BLOCK,), arguments))

    rounds = max(1, int(100_000 * scale))
    flops = rate("fused", 2.0 * CHAINS * rounds * threads, _address(out), np.int64(rounds))
    shared = rate(
        "shared_again", 8.0 * CELLS_READ * rounds * threads, _address(out), np.int64(rounds)
    )
    # 8.7 MB on an H100: an L2 cache holds them, and what surrounds one multiprocessor does not.
    cached, again = cupy.zeros(READS_AT_ONCE * threads), max(1, int(2000 * scale))
    arguments = (_address(cached), _address(out), np.int64(len(cached)), np.int64(again))
    l2 = rate("read_again", 8.0 * len(cached) * again, *arguments)
    large = max(threads, int((1 << 27) * scale))
    first, second = cupy.zeros(large), cupy.zeros(large)
    memory = rate("copied", 16.0 * large, _address(first), _address(second), np.int64(large))
    return Ceilings(flops, memory, l2, shared)


def _address(array: Any) -> np.uint64:
    return np.uint64(array.data.ptr)


def _shortest(cupy: Any, launch: Callable[[], object]) -> float:
    """Seconds by the device's clock, the best of some launches after one that does not count."""
    launch()
    times = []
    for _ in range(REPETITIONS):
        began, ended = cupy.cuda.Event(), cupy.cuda.Event()
        began.record()
        launch()
        ended.record()
        ended.synchronize()
        times.append(cupy.cuda.get_elapsed_time(began, ended) / 1000.0)
    return float(min(times))
