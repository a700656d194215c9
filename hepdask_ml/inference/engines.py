"""Which engine throws and fits the toys: the CPU's or the GPU's, as asked for or as measured.

An *engine* is asked for by name, and ``"auto"`` leaves the *choice* to a short *trial* on the model
at hand: some toys on the CPU, some on the GPU, and the faster one does the work.  Small models are
faster on the CPU, and where no GPU can be used it is taken at once.  Both engines throw the same
toys, and their fits agree, so that the choice changes how long it takes and nothing else.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from hepdask_ml.errors import GpuError, InputError
from hepdask_ml.likelihood import kernels_gpu
from hepdask_ml.likelihood.kernels import instruction_set

if TYPE_CHECKING:
    from collections.abc import Callable

Engine = Literal["auto", "cpu", "gpu"]
Used = Literal["cpu", "gpu"]
"""What does the work in the end."""

ENGINES: tuple[Engine, ...] = ("auto", "cpu", "gpu")

TRIAL_S = 0.2
"""Time of the last and longest batch of a trial, in seconds."""

START_S = 5.0
"""Work that a CPU does in so many seconds is done before a GPU is ready: its library has to be
loaded, and its kernels compiled."""

FIRST_CPU, FIRST_GPU = 16, 1024
"""Toys of the first batch of a trial: of one thread, and of a GPU, which does that many at once."""

AS_ASKED = "as asked for"

_ON_WORKERS = {
    "auto": "CPU or GPU, as each worker chose",
    "cpu": f"CPU of each worker ({AS_ASKED})",
    "gpu": f"GPU of each worker ({AS_ASKED})",
}

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine that is used.

    Attributes
    ----------
    engine : {"cpu", "gpu"}
        The engine.
    name : str
        The same for people: ``"CPU, 4 threads, avx2"``.
    why : str
        Why this one, as a sentence without its end.
    cpu_toys_per_s, gpu_toys_per_s : float or None
        Toys that each engine throws and fits in a second, where that was measured; without the
        time that it takes to start.
    """

    engine: Used
    name: str
    why: str
    cpu_toys_per_s: float | None = None
    gpu_toys_per_s: float | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


class Trial(Protocol):
    """Does real work for a measurement."""

    def __call__(self, engine: Used, toys: int, threads: int, /) -> object:
        """Throw and fit so many toys; ``threads`` are those of the CPU's engine."""


def checked_engine(engine: Any) -> Engine:
    """Check the name of an engine.

    Parameters
    ----------
    engine : str
        Its name.

    Returns
    -------
    {"auto", "cpu", "gpu"}
        The same.

    Raises
    ------
    InputError
        If it is none of them.
    """
    if engine not in ENGINES:
        raise InputError(f"the engine is {engine!r}: choose from {', '.join(ENGINES)}")
    return cast("Engine", engine)


def chosen(
    wanted: Engine,
    trial: Trial,
    key: str,
    *,
    threads: int | None = None,
    toys: int | None = None,
) -> Choice:
    """Choose the engine, by a measurement where one is needed.

    Threads that ask for the same ``key`` at once wait for one measurement; its answer holds for
    the life of the process.

    Parameters
    ----------
    wanted : {"auto", "cpu", "gpu"}
        What the user asks for.
    trial : Trial
        Throws and fits toys of the model.
    key : str
        Names what is measured: the model, and how it is fitted.
    threads : int, optional
        Threads that would do the work on the CPU; as many as ask at once if not given.
    toys : int, optional
        Toys to be done.  A GPU is not tried where the CPU does them in `START_S`.

    Returns
    -------
    Choice
        Engine and reason.

    Raises
    ------
    GpuError
        If ``"gpu"`` is asked for and cannot be used.
    """
    if wanted == "cpu":
        return _logged(Choice("cpu", _cpu_name(threads), AS_ASKED))
    unusable = kernels_gpu.unusable()
    if unusable and wanted == "gpu":
        raise GpuError(f"the engine gpu was asked for, but {unusable}")
    if unusable:
        return _logged(Choice("cpu", _cpu_name(threads), f"no GPU can be used, for {unusable}"))
    if wanted == "gpu":
        return _logged(Choice("gpu", _gpu_name(), AS_ASKED))
    with _RACES.setdefault((key, threads), _Race(threads)) as race:
        return _logged(race.winner(trial, toys))


def on_workers(wanted: Engine) -> str:
    """Tell which engine does the work where workers choose it.

    Parameters
    ----------
    wanted : {"auto", "cpu", "gpu"}
        What was asked of them.

    Returns
    -------
    str
        For the reader of a result.
    """
    return _ON_WORKERS[wanted]


@dataclass(slots=True)
class _Race:
    """Which engine is faster, as found by the first thread that asks while others wait."""

    threads: int | None
    asking: int = 0
    cpu: float | None = None
    gpu: float | None = None
    failed: str = ""
    counting: Lock = field(default_factory=Lock)
    running: Lock = field(default_factory=Lock)

    def __enter__(self) -> _Race:
        with self.counting:
            self.asking += 1
        self.running.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.running.release()
        with self.counting:
            self.asking -= 1

    def winner(self, trial: Trial, toys: int | None) -> Choice:
        tried = self.gpu is not None or self.failed
        if toys is not None and not tried:
            cpu = self._cpu(trial)
            if toys < START_S * cpu:
                return self._take_cpu(
                    f"it needs {_time_text(toys / cpu)}, and a GPU longer to start"
                )
        if not tried:
            self._try_gpu(trial)
        # After the GPU, whose start leaves time for all threads of the process to come here.
        cpu = self._cpu(trial)
        if self.gpu is None:
            return self._take_cpu(f"a GPU was tried and failed: {self.failed}")
        if cpu >= self.gpu:
            rival = f"the GPU {kernels_gpu.device_name()}"
            return self._take_cpu(_comparison(cpu, self.gpu, rival))
        rival = f"the CPU with {_threads_text(self.threads)}"
        return Choice("gpu", _gpu_name(), _comparison(self.gpu, cpu, rival), cpu, self.gpu)

    def _take_cpu(self, why: str) -> Choice:
        return Choice("cpu", _cpu_name(self.threads), why, self.cpu, self.gpu)

    def _cpu(self, trial: Trial) -> float:
        if self.cpu is None:
            self.threads = threads = self.threads or self.asking
            self.cpu = _toys_per_s(lambda toys: trial("cpu", toys, threads), FIRST_CPU * threads)
        return self.cpu

    def _try_gpu(self, trial: Trial) -> None:
        try:
            trial("gpu", FIRST_GPU, 1)  # loads and compiles what is needed
            self.gpu = _toys_per_s(lambda toys: trial("gpu", toys, 1), FIRST_GPU)
        except GpuError as error:
            self.failed = str(error)


_RACES: dict[tuple[str, int | None], _Race] = {}
"""Those of this process, whose threads share one GPU and the processors."""


def _toys_per_s(work: Callable[[int], object], toys: int) -> float:
    """Measure with growing batches, until one takes long enough to tell."""
    while True:
        begun = perf_counter()
        work(toys)
        seconds = perf_counter() - begun
        if seconds >= TRIAL_S:
            return toys / seconds
        # A little more than seems to be needed: larger batches are faster ones.
        toys *= min(max(round(1.3 * TRIAL_S / max(seconds, 1e-6)), 2), 16)


@lru_cache(maxsize=64)
def _logged(choice: Choice) -> Choice:
    """Tell who watches the worker, once."""
    _LOG.info("engine: %s", choice)
    return choice


def _cpu_name(threads: int | None) -> str:
    return ", ".join(
        ["CPU", *([] if threads is None else [_threads_text(threads)]), instruction_set()]
    )


def _gpu_name() -> str:
    return f"GPU, {kernels_gpu.device_name()}"


def _comparison(mine: float, its: float, rival: str) -> str:
    return f"it fits {_rate_text(mine)} toys/s of this model, against {_rate_text(its)} of {rival}"


def _threads_text(threads: int | None) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _rate_text(toys_per_s: float) -> str:
    return f"{float(f'{toys_per_s:.2g}'):,.0f}"


def _time_text(seconds: float) -> str:
    return f"about {seconds:.1g} s" if seconds >= 0.1 else "less than 0.1 s"
