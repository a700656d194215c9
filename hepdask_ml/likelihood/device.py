"""The GPU of this process: whether there is one, its memory, and launches of the kernels on it.

The threads that share one fit are a *team*.  Only as many teams as the device holds at once are
*resident*; each has its own scratch and takes the next fit from a queue when it has finished one,
so that none waits for the slowest.

This module is the one door to CuPy, which need not be installed.  The kernels are the text of
``native/device.cu``, compiled for the device when they are first used.  Any thread may call, and
waits for the others: one launch fills the device.  Whatever goes wrong there is a `GpuError`, and a
device that has failed once is not asked again by this process, since its memory may be lost.
"""

from __future__ import annotations

import ctypes
import re
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hepdask_ml.errors import GpuError, words
from hepdask_ml.likelihood import kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from hepdask_ml.likelihood.kernels import Lowered

TEAMS: tuple[int, ...] = (32, 64, 128)
"""Threads that share a fit, unless the model is so small that each thread fits alone."""

ALONE = 4
"""Parameters and bins up to which each thread fits alone."""

BLOCK_ALONE = 64
"""Threads of a block in which each fits alone."""

RESIDENT_THREADS = 512
"""Threads of one multiprocessor at most among which its shared memory is divided: enough that some
compute while others wait, and few enough that each team has its matrices close by."""

COMPILER_OPTIONS = ("-std=c++17",)
_ALIGNMENT = 256
_RESERVED = 1024
_NATIVE = Path(__file__).parent / "native"
_LOCAL_INCLUDE = re.compile(r'^#include "([^"]+)"\n', re.MULTILINE)
_NO_ROOM = re.compile("OUT_OF_MEMORY|MemoryAllocation")
Result = TypeVar("Result")

_lock = RLock()
_failures: list[str] = []
_models: dict[tuple[int, int], tuple[Held, Held]] = {}


class _Room(ctypes.Structure):
    _fields_ = [
        ("scratch", ctypes.c_void_p),
        ("per_team", ctypes.c_int64),
        ("shared", ctypes.c_int64),
        ("queue", ctypes.c_void_p),
        ("spent", ctypes.c_void_p),  # of benchmarks only
    ]


def unusable() -> str:
    """Say why this process cannot use a GPU.

    Returns
    -------
    str
        The reason in words, without a full stop; empty if it can.
    """
    if _failures:
        return _failures[0]
    if find_spec("cupy") is None:
        return "CuPy is not installed: install hepdask-ml[gpu]"
    try:
        cupy = import_module("cupy")
        count = cupy.cuda.runtime.getDeviceCount()
    except (ImportError, OSError, RuntimeError) as error:
        return f"CuPy sees no GPU: {words(error)}"
    if not count:
        return "CuPy sees no GPU"
    try:
        cupy.cuda.nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        return (
            f"CuPy finds no compiler for the GPU ({words(error)}): install hepdask-ml[gpu] or load "
            "the CUDA toolkit"
        )
    return ""


def device_name() -> str:
    """Name the GPU that this process uses.

    Returns
    -------
    str
        As the driver calls it.

    Raises
    ------
    GpuError
        If there is none.
    """
    with opened("telling its name") as cupy:
        return _name(cupy)


@contextmanager
def opened(doing: str) -> Iterator[Any]:
    """Give CuPy to one thread at a time.

    Parameters
    ----------
    doing : str
        What is done within, in words: "fitting toys".

    Yields
    ------
    module
        CuPy.

    Raises
    ------
    GpuError
        If there is no GPU, or it fails within.
    """
    with _lock:
        if reason := unusable():
            raise GpuError(f"no GPU can be used here: {reason}")
        cupy = import_module("cupy")
        name = "of this process"
        try:
            name = _name(cupy)
            yield cupy
        except (MemoryError, RuntimeError, cupy.cuda.compiler.CompileException) as error:
            failure = f"the GPU {name} failed while {doing}: {words(error)}"
            if not _out_of_memory(error):
                _failures.append(failure)
            raise GpuError(f"{failure}; use the engine cpu, or another machine") from error


def _name(cupy: Any) -> str:
    runtime = cupy.cuda.runtime
    name: bytes = runtime.getDeviceProperties(runtime.getDevice())["name"]
    return name.decode()


def _out_of_memory(error: BaseException) -> bool:
    """Whether CuPy's pool, the runtime or the driver had no room: the device itself is sound."""
    return isinstance(error, MemoryError) or bool(_NO_ROOM.search(str(error)))


class Budget:
    """Bytes that a launch may take: half of what is free, and half as much each time that fails.

    Parameters
    ----------
    cupy : module
        From `opened`.
    """

    def __init__(self, cupy: Any) -> None:
        self._pool = cupy.get_default_memory_pool()
        free, _ = cupy.cuda.runtime.memGetInfo()
        self._size = (free + self._pool.free_bytes()) // 2

    def spend(self, work: Callable[[int], Result]) -> Result:
        """Do some work, again with less memory where there was not enough.

        Parameters
        ----------
        work : callable
            Takes the bytes that it may allocate, and raises `GpuError` if these are too few.

        Returns
        -------
        object
            What the work gives.
        """
        while True:
            try:
                return work(self._size)
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
            # Only now does nothing refer to what the failed attempt had allocated.
            self._pool.free_all_blocks()
            self._size //= 2


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Arrays and records side by side in one buffer on the device.

    Attributes
    ----------
    buffer : CuPy array
        Keeps them there.
    addresses : list of int
        Where each of them begins.
    """

    buffer: Any
    addresses: list[int]


def held(cupy: Any, parts: Iterable[NDArray[Any] | ctypes.Structure]) -> Held:
    """Copy arrays and records to the device, in one transfer.

    Parameters
    ----------
    cupy : module
        From `opened`.
    parts : iterable of arrays and ctypes structures
        What is to be copied, byte by byte.

    Returns
    -------
    Held
        The copies.
    """
    raw = [bytes(part) for part in parts]
    starts = [0]
    for part in raw:
        starts.append(starts[-1] + -(-len(part) // _ALIGNMENT) * _ALIGNMENT)
    host = np.zeros(starts[-1], np.uint8)
    for start, part in zip(starts, raw, strict=False):
        host[start : start + len(part)] = np.frombuffer(part, np.uint8)
    buffer = cupy.asarray(host)
    return Held(buffer, [buffer.data.ptr + start for start in starts[:-1]])


def _model(cupy: Any, lowered: Lowered) -> int:
    """Give the address of a model on the current device, where it stays while the model lives."""
    key = (id(lowered.record), cupy.cuda.Device().id)
    if key not in _models:
        arrays = held(cupy, lowered.arrays.values())
        record = type(lowered.record).from_buffer_copy(lowered.record)
        for name, address in zip(lowered.arrays, arrays.addresses, strict=True):
            setattr(record, name, address)
        _models[key] = (arrays, held(cupy, [record]))
        weakref.finalize(lowered.record, _models.pop, key, None).atexit = False
    return _models[key][1].addresses[0]


def team_size(lowered: Lowered) -> int:
    """Choose how many threads share a fit.

    Parameters
    ----------
    lowered : Lowered
        The model.

    Returns
    -------
    int
        One for a model of few parameters and bins, otherwise the size of `TEAMS` that is nearest
        to the number of kept parameters or of bins, whichever are more: loops go over these.
    """
    length = max(lowered.record.n_pars, lowered.record.n_bins)
    if length <= ALONE:
        return 1
    return min(TEAMS, key=lambda size: abs(size - length))


@cache
def source() -> str:
    """Join the kernels' text and all of this package that it includes.

    Returns
    -------
    str
        One text, so that whoever keeps compiled kernels sees every change in it.
    """
    seen: set[str] = set()

    def text(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        own = (_NATIVE / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _LOCAL_INCLUDE.sub(lambda include: text(include[1]), own)

    return text("device.cu")


@cache
def _module(cupy: Any, team: int) -> Any:
    options = (*COMPILER_OPTIONS, f"-DTEAM={team}")
    return cupy.RawModule(code=source(), options=options, backend="nvrtc")


@dataclass(slots=True, eq=False)
class Launch:
    """A kernel and the model that it works on, ready for one task after the other.

    Attributes
    ----------
    cupy : module
        From `opened`.
    kernel : CuPy kernel
        Compiled.
    model : int
        Its address on the device.
    team : int
        Threads of a team.
    per_team, shared : int
        Doubles of scratch of a team, and how many of them lie in shared memory.
    resident_blocks : int
        Blocks that the device holds at once.
    device_s : float
        Time of all launches, by the device's clock.
    """

    cupy: Any
    kernel: Any
    model: int
    team: int
    per_team: int
    shared: int
    resident_blocks: int
    device_s: float = 0.0

    def run(self, n_rows: int, task: ctypes.Structure, size: int) -> None:
        """Work off a task, and wait for its end.

        Parameters
        ----------
        n_rows : int
            Its rows.
        task : ctypes structure
            What the kernel reads, with addresses on the device.
        size : int
            Bytes that the scratch may take.

        Raises
        ------
        GpuError
            If one block does not fit in there.
        """
        if not n_rows:
            return
        cupy, teams = self.cupy, _teams_in_block(self.team)
        block_bytes = 8 * self.per_team * teams
        blocks = min(self.resident_blocks, -(-n_rows // teams), size // block_bytes)
        if blocks < 1:
            raise GpuError(
                f"the GPU {_name(cupy)} has no room for the fit of this model, which takes "
                f"{block_bytes} bytes: use one with more free memory, or the engine cpu"
            )
        scratch, queue = cupy.empty(blocks * block_bytes // 8), cupy.zeros(1, np.uint64)
        options = kernels.Options(kernels.TOLERANCE, kernels.MAX_ITERATIONS)
        room = _Room(scratch.data.ptr, self.per_team, self.shared, queue.data.ptr)
        records = held(cupy, [options, task, room])
        began, ended = cupy.cuda.Event(), cupy.cuda.Event()
        began.record()
        self.kernel(
            (blocks,),
            (teams * self.team,),
            tuple(np.uint64(address) for address in (self.model, *records.addresses)),
            shared_mem=8 * self.shared * teams,
        )
        ended.record()
        ended.synchronize()
        self.device_s += cupy.cuda.get_elapsed_time(began, ended) / 1000.0


def prepared(
    cupy: Any, lowered: Lowered, name: str, n_starts: int = 1, n_shifts: int = 0
) -> Launch:
    """Compile a kernel if need be, and divide the device among its teams.

    Parameters
    ----------
    cupy : module
        From `opened`.
    lowered : Lowered
        The model.
    name : str
        The kernel.
    n_starts, n_shifts : int
        Fits of one round of the search for the lowest minimum, and those besides that are random.

    Returns
    -------
    Launch
        Ready to run.
    """
    team = team_size(lowered)
    teams = _teams_in_block(team)
    kernel = _module(cupy, team).get_function(name)
    per_team, hot = _scratch(lowered, team, n_starts, n_shifts)
    attributes = cupy.cuda.Device().attributes

    def resident(shared_bytes: int) -> int:
        most: int = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
            kernel.kernel.ptr, team * teams, shared_bytes
        )
        return most

    blocks = max(1, min(resident(0), RESIDENT_THREADS // (team * teams)))
    fair = attributes["MaxSharedMemoryPerMultiprocessor"] // blocks
    fair -= attributes.get("ReservedSharedMemoryPerBlock", _RESERVED)
    room = min(fair, attributes["MaxSharedMemoryPerBlockOptin"]) - kernel.shared_size_bytes
    shared = min(hot, max(0, room) // (8 * teams))
    if team == 1 and shared:
        shared = (shared - 1) | 1  # an odd distance lets threads read from banks of their own
    shared_bytes = 8 * shared * teams
    kernel.max_dynamic_shared_size_bytes = shared_bytes
    resident_blocks = resident(shared_bytes) * attributes["MultiProcessorCount"]
    model = _model(cupy, lowered)
    return Launch(cupy, kernel, model, team, per_team, shared, resident_blocks)


def _teams_in_block(team: int) -> int:
    return BLOCK_ALONE if team == 1 else 1


def _scratch(lowered: Lowered, team: int, n_starts: int, n_shifts: int) -> tuple[int, int]:
    """Doubles of scratch of a team, and how many of them are worth shared memory."""
    entry = kernels.library().hepdask_scratch
    entry.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    entry.restype = ctypes.c_int64
    hot = ctypes.c_int64()
    model = ctypes.addressof(lowered.record)
    needed = entry(model, n_starts, n_shifts, team, ctypes.addressof(hot))
    return needed, hot.value
