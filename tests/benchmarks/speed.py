"""Toys per second of ours: thrown, fitted twice, reduced to q-tilde, as a limit does it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.models import MU, prepared

from hepdask_ml.inference.toys import ToyResults, ToySettings, evaluate
from hepdask_ml.likelihood.fit import DEFAULT_STARTS, available_processors

if TYPE_CHECKING:
    from benchmarks.models import Case, Prepared

CHUNK, CHUNKS = 512, 8
"""Toys of a chunk, and chunks of a thread at least: with fewer, the last would be waited for."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Toys per second: the median of some repetitions, and all of them."""

    toys_per_s: float
    repetitions: list[float]
    toys: int
    unconverged: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Rates of one model, on one core and on all, with the default starts and with one."""

    parameters: int
    bins: int
    one_core: Rate
    all_cores: Rate
    one_start_one_core: Rate
    one_start_all_cores: Rate

    @property
    def scaling(self) -> float:
        """One core over its share of all."""
        return self.one_core.toys_per_s * available_processors() / self.all_cores.toys_per_s


def speed(case: Case, seconds: float, repetitions: int) -> Speed:
    """Measure the four rates, each ``repetitions`` times for about ``seconds``, in turns."""
    at = prepared(case)
    settings = [
        (starts, threads)
        for starts in (DEFAULT_STARTS, 1)
        for threads in (1, available_processors())
    ]
    toys = [_enough(at, starts, threads, seconds) for starts, threads in settings]
    rates: list[list[float]] = [[] for _ in settings]
    lost = [0.0] * len(settings)
    for _ in range(repetitions):
        for i, (starts, threads) in enumerate(settings):
            took, results = _timed(at, toys[i], starts, threads)
            rates[i].append(toys[i] / took)
            lost[i] = 1.0 - float(results.converged.mean())
    measured = [
        Rate(median(rate), rate, n, share) for rate, n, share in zip(rates, toys, lost, strict=True)
    ]
    return Speed(at.model.n_pars, at.model.n_main, *measured)


def _enough(at: Prepared, starts: int, threads: int, seconds: float) -> int:
    """Toys that take about ``seconds``, a whole number of chunks for each thread."""
    least = CHUNK * threads
    _timed(at, least, starts, threads)  # loads the library, makes the tables
    took, _ = _timed(at, least, starts, threads)
    return least * max(ceil(seconds / took), CHUNKS)


def _timed(at: Prepared, toys: int, starts: int, threads: int) -> tuple[float, ToyResults]:
    settings = ToySettings(toys, starts=starts, threads=threads)
    began = perf_counter()
    [results] = evaluate(at.model, [at.signal], MU, "qtilde", settings)
    return perf_counter() - began, results
