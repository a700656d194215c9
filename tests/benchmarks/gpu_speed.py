"""Toys per second of a GPU and of the cores beside it, whether both agree, where the time goes."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from benchmarks.gpu_work import PHASES, rounds
from benchmarks.models import MU

from hepdask_ml.errors import GpuError
from hepdask_ml.inference.toys import ToySettings, evaluate, throw, throwing
from hepdask_ml.likelihood import device, kernels, kernels_gpu
from hepdask_ml.likelihood.fit import (
    DEFAULT_STARTS,
    available_processors,
    converged,
    fit_pair,
    random_shifts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.models import Prepared

    from hepdask_ml.inference.engines import Used

FIRST_TOYS = {"cpu": 512, "gpu": 4096}
MOST_TOYS, MOST_COMPARED = 1 << 25, 100_000
SEED = 1
TOLERANCE = 1e-6
"""Of test statistics: the contract of the two engines."""

TEAMS, RESIDENT = (1, 32, 64, 128, 256), (256, 512, 1024)
"""Threads of a team, and threads of a multiprocessor, that a sweep tries."""

LARGEST_ALONE = 64
"""Parameters and bins up to which it tries threads that fit alone."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Toys per second: the median of some repetitions, and all of them."""

    toys_per_s: float
    repetitions: list[float]
    toys: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the two engines on identical toys.

    Attributes
    ----------
    compared, converged : int
        Toys, and those of which both fits converged with both engines.
    statuses_differ : int
        Toys with a fit that ended otherwise.
    largest_dq : float
        Largest difference of a test statistic where both converged.
    """

    compared: int
    converged: int
    statuses_differ: int
    largest_dq: float

    @property
    def holds(self) -> bool:
        return self.statuses_differ == 0 and self.largest_dq < TOLERANCE


@dataclass(frozen=True, slots=True)
class Split:
    """Where the GPU's time goes.

    Attributes
    ----------
    toys_per_s : float
        By the device's clock, throws and fits alone.
    on_device : float
        Share of that in the whole; the rest are transfers, launches and the host.
    phases : dict
        Shares of the time on the device, by kernels that look at the clock.
    profiled : float
        How many times longer these kernels take.
    """

    toys_per_s: float
    on_device: float
    phases: dict[str, float]
    profiled: float


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a launch divides the device.

    Attributes
    ----------
    team, resident_teams : int
        Threads that share a fit, and teams that the device holds at once.
    scratch_bytes, shared_bytes, hot_bytes : int
        Of each team: in all, in shared memory, and what every evaluation needs.
    registers, local_bytes : int
        Of each thread; local memory is where registers do not suffice.
    """

    team: int
    resident_teams: int
    scratch_bytes: int
    shared_bytes: int
    hot_bytes: int
    registers: int
    local_bytes: int


@dataclass(frozen=True, slots=True)
class Speed:
    """One model on one machine; ``start_s`` is the first call, which compiles."""

    parameters: int
    bins: int
    kept: int
    start_s: float
    gpu: Rate
    cores: Rate
    one_core: Rate
    agreement: Agreement
    split: Split
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to divide the device, and toys per second by the device's clock.

    ``note`` says why there is no number.
    """

    team: int
    resident: int
    toys_per_s: float | None
    note: str = ""


def speed(cupy: Any, at: Prepared, seconds: float, repetitions: int) -> Speed:
    """Measure everything about one model, each for about ``seconds``."""
    began = perf_counter()
    _evaluated(at, 1, "gpu", 1)
    start_s = perf_counter() - began
    ways: list[tuple[Used, int]] = [("gpu", 1), ("cpu", available_processors()), ("cpu", 1)]
    toys = [_enough(partial(_evaluated, at, engine=e, threads=t), seconds, e) for e, t in ways]
    found: list[list[float]] = [[] for _ in ways]
    for _ in range(repetitions):
        for i, (engine, threads) in enumerate(ways):
            found[i].append(toys[i] / _evaluated(at, toys[i], engine, threads))
    gpu, cores, one_core = (
        Rate(median(each), each, n) for each, n in zip(found, toys, strict=True)
    )
    lowered = kernels.lower(at.model)
    return Speed(
        parameters=at.model.n_pars,
        bins=at.model.n_main,
        kept=len(lowered.kept),
        start_s=start_s,
        gpu=gpu,
        cores=cores,
        one_core=one_core,
        agreement=_agreement(at, min(*toys, MOST_COMPARED)),
        split=_split(cupy, at, toys[0]),
        geometry=_geometry(cupy, at),
    )


def _evaluated(at: Prepared, toys: int, engine: Used, threads: int) -> float:
    """Throw, fit and reduce some toys as a limit does it; gives the time."""
    settings = ToySettings(toys, SEED, threads=threads)
    began = perf_counter()
    evaluate(at.model, [at.signal], MU, "qtilde", settings, engine)
    return perf_counter() - began


def _enough(timed: Callable[[int], float], seconds: float, engine: Used) -> int:
    """Toys that take about ``seconds``, found by growing."""
    toys = FIRST_TOYS[engine]
    timed(toys)  # loads what is needed
    while (took := timed(toys)) < 0.2 * seconds and toys < MOST_TOYS:
        toys *= 4
    return min(ceil(toys * seconds / took), MOST_TOYS)


def _fitted(at: Prepared, toys: int, spent: kernels_gpu.Spent) -> kernels_gpu.Pairs:
    lowered = kernels.lower(at.model)
    thrown = kernels_gpu.Thrown(throwing(at.model, at.signal, SEED), range(toys))
    start, shifts = at.signal.pars[lowered.kept], random_shifts(lowered, DEFAULT_STARTS)
    return kernels_gpu.fit_pairs(
        lowered, thrown, MU, start, starts=DEFAULT_STARTS, shifts=shifts, spent=spent
    )


def _agreement(at: Prepared, toys: int) -> Agreement:
    ours = _fitted(at, toys, kernels_gpu.Spent())
    data = throw(at.model, at.signal, seed=SEED, start=0, stop=toys)
    theirs = fit_pair(at.model, data, MU, init=at.signal.pars)
    same = (ours.status_fixed == theirs.status_fixed) & (ours.status_free == theirs.status_free)
    done = same & converged(ours.status_fixed) & converged(ours.status_free)
    q = 2.0 * (ours.nll_fixed - ours.nll_free)
    apart = np.abs(q - (theirs.twice_nll_fixed - theirs.twice_nll_free))[done]
    return Agreement(toys, int(done.sum()), int((~same).sum()), float(apart.max(initial=0.0)))


def _split(cupy: Any, at: Prepared, toys: int) -> Split:
    plain, profiled = kernels_gpu.Spent(), kernels_gpu.Spent()
    _fitted(at, toys, plain)
    ticks = cupy.zeros(len(PHASES), np.uint64)
    with _profiled(ticks):
        _fitted(at, 1, kernels_gpu.Spent())  # compiles
        before = ticks.get()
        _fitted(at, toys, profiled)
    spent = (ticks.get() - before).astype(float)
    shares = (spent / spent.sum()).tolist()
    return Split(
        toys_per_s=toys / plain.device_s,
        on_device=plain.device_s / plain.total_s,
        phases=dict(zip(PHASES, shares, strict=True)),
        profiled=profiled.device_s / plain.device_s,
    )


@contextmanager
def _profiled(ticks: Any) -> Iterator[None]:
    """Let kernels add up the ticks of each phase."""
    room = partial(device._Room, spent=ticks.data.ptr)
    with _compiled_from("#define PROFILE\n" + device.source()), patch.object(device, "_Room", room):
        yield


@contextmanager
def _compiled_from(text: str) -> Iterator[None]:
    """Let kernels be compiled from another text."""
    modules: dict[int, Any] = {}

    def module(cupy: Any, team: int) -> Any:
        if team not in modules:
            options = (*device.COMPILER_OPTIONS, f"-DTEAM={team}")
            modules[team] = cupy.RawModule(code=text, options=options, backend="nvrtc")
        return modules[team]

    with patch.object(device, "_module", module):
        yield


def _geometry(cupy: Any, at: Prepared) -> Geometry:
    lowered = kernels.lower(at.model)
    launch = device.prepared(cupy, lowered, "hepdask_pairs", *rounds(lowered))
    _, hot = device._scratch(lowered, launch.team, *rounds(lowered))
    return Geometry(
        team=launch.team,
        resident_teams=launch.resident_blocks * device._teams_in_block(launch.team),
        scratch_bytes=8 * launch.per_team,
        shared_bytes=8 * launch.shared,
        hot_bytes=8 * hot,
        registers=launch.kernel.num_regs,
        local_bytes=launch.kernel.local_size_bytes,
    )


def sweep(at: Prepared, seconds: float, usual: float) -> Iterator[Setting]:
    """Try teams and shares of the shared memory; ``usual`` is the rate as the rules have it."""
    toys = max(FIRST_TOYS["gpu"], ceil(usual * seconds))
    ruled = "512 / BLOCK"
    assert device.source().count(ruled) == 1, "the kernels' text says otherwise how many blocks fit"
    for resident in RESIDENT:
        text = device.source().replace(ruled, f"{resident} / BLOCK")
        with _compiled_from(text), patch.object(device, "RESIDENT_THREADS", resident):
            for team in filter(partial(_fits, at), TEAMS):
                yield _tried(at, toys, team, resident)


def _fits(at: Prepared, team: int) -> bool:
    """Whether a team is worth a try: not one thread for a large model, nor many for a small one."""
    record = kernels.lower(at.model).record
    size: int = max(record.n_pars, record.n_bins)
    return size <= LARGEST_ALONE if team == 1 else team <= 32 or team <= 2 * size


def _tried(at: Prepared, toys: int, team: int, resident: int) -> Setting:
    spent = kernels_gpu.Spent()
    with (
        patch.object(device, "TEAMS", (team,)),
        patch.object(device, "ALONE", 1 << 30 if team == 1 else 0),
        patch.object(device, "_failures", []),  # a setting that fails says nothing about the others
    ):
        try:
            _fitted(at, 1, kernels_gpu.Spent())  # compiles
            _fitted(at, toys, spent)
        except GpuError as error:
            return Setting(team, resident, None, str(error))
    return Setting(team, resident, toys / spent.device_s)
