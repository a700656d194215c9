"""A CuPy that has no GPU: its arrays are NumPy's, and its kernels run as threads of this process.

`pretend` makes the module, with the parts of CuPy that the package uses and a small device: what
is allocated is full of rubbish, memory runs out, transfers back are counted, and the device can be
told to fail.  The kernels' text is compiled by the system's compiler, inside ``emulator.cpp``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import weakref
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from time import perf_counter
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

MULTIPROCESSORS = 2
H100 = {
    "MultiProcessorCount": MULTIPROCESSORS,
    "MaxSharedMemoryPerMultiprocessor": 233472,
    "MaxSharedMemoryPerBlockOptin": 232448,
    "ReservedSharedMemoryPerBlock": 1024,
}
"""Attributes of a real device as CuPy names them, but for the number of its processors."""

FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-DEMULATED")
SHARED_WITHOUT_ASKING = 48 << 10


def system_compiler() -> list[str]:
    """The command of the system's C++ compiler, or an empty list."""
    if chosen := os.environ.get("CXX"):
        return shlex.split(chosen)
    return [found for c in ("c++", "g++", "clang++") if (found := shutil.which(c))][:1]


def build(folder: Path, code: str, options: Sequence[str]) -> Path:
    """Compile the kernels' text for this processor, once for each text and options."""
    address = hashlib.sha256("\0".join([code, *options]).encode()).hexdigest()[:16]
    library = folder / f"emulator-{address}.so"
    if not library.exists():
        kernels = folder / f"kernels-{address}.h"
        kernels.write_text(code)
        source = Path(__file__).with_name("emulator.cpp")
        include = f'-DKERNELS="{kernels}"'
        command = [*system_compiler(), *FLAGS, *options, include, str(source), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        assert not done.stderr, done.stderr
    return library


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class CompileException(Exception):
    pass


class Array(np.ndarray[Any, Any]):
    """What CuPy's arrays have and NumPy's have not."""

    owner: Device | None

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def __array_finalize__(self, source: Any) -> None:
        self.owner = getattr(source, "owner", None)

    def get(self) -> np.ndarray[Any, Any]:
        assert self.owner is not None
        self.owner.fetched += 1
        return np.array(self)


@dataclass
class Device:
    """The state of the device, much of it for the tests to set.

    ``flags`` are options of the compiler, ``memory`` is what there is, ``claimed`` what the driver
    says is free if that is more, and ``failure`` what every launch raises.
    """

    folder: Path
    flags: tuple[str, ...] = ()
    memory: int = 1 << 30
    claimed: int = 0
    failure: Exception | None = None
    used: int = 0
    fetched: int = 0
    launches: list[tuple[str, int, int]] = field(default_factory=list)

    def empty(self, shape: Any, dtype: Any = np.float64) -> Array:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self.used + size > self.memory:
            raise OutOfMemoryError(f"Out of memory allocating {size} bytes")
        plain = np.frombuffer(bytearray(b"\xff" * size), dtype).reshape(shape)
        self.used += size
        weakref.finalize(plain, self._free, size)
        array = plain.view(Array)
        array.owner = self
        return array

    def _free(self, size: int) -> None:
        self.used -= size

    def zeros(self, shape: Any, dtype: Any = np.float64) -> Array:
        array = self.empty(shape, dtype)
        array[...] = 0
        return array

    def asarray(self, plain: Any, dtype: Any = None) -> Array:
        if isinstance(plain, Array) and plain.dtype == (dtype or plain.dtype):
            return plain
        plain = np.asarray(plain, dtype)
        array = self.empty(plain.shape, plain.dtype)
        array[...] = plain
        return array

    def ascontiguousarray(self, plain: Any, dtype: Any = None) -> Array:
        array = self.asarray(plain, dtype)
        return array if array.flags.c_contiguous else self.asarray(np.array(array), dtype)


class RawModule:
    def __init__(self, device: Device, code: str, options: Sequence[str], backend: str) -> None:
        assert backend == "nvrtc"
        self.device = device
        teams = [option for option in options if option.startswith("-DTEAM=")]
        self.library = ctypes.CDLL(str(build(device.folder, code, [*teams, *device.flags])))

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self, name)


class Shape(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint),
        ("block", ctypes.c_uint),
        ("shared_bytes", ctypes.c_int64),
        ("argument", ctypes.c_uint64 * 4),
    ]


class RawKernel:
    shared_size_bytes = 0

    def __init__(self, module: RawModule, name: str) -> None:
        self.module, self.name = module, name
        self.max_dynamic_shared_size_bytes = SHARED_WITHOUT_ASKING
        self.kernel = SimpleNamespace(ptr=1)

    def __call__(
        self, grid: tuple[int], block: tuple[int], arguments: tuple[np.uint64], *, shared_mem: int
    ) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        assert shared_mem <= H100["MaxSharedMemoryPerBlockOptin"]
        device = self.module.device
        if device.failure is not None:
            raise device.failure
        device.launches.append((self.name, grid[0], block[0]))
        addresses = (ctypes.c_uint64 * 4)(*map(int, arguments))
        shape = Shape(grid[0], block[0], shared_mem, addresses)
        assert not self.module.library.emulate(self.name.encode(), ctypes.byref(shape))


class Event:
    def record(self) -> None:
        self.at = perf_counter()

    def synchronize(self) -> None:
        pass


def pretend(folder: Path) -> tuple[ModuleType, Device]:
    """Make a module ``cupy`` and the device that it has; compiled kernels go to ``folder``."""
    device = Device(folder)
    cupy: Any = ModuleType("cupy")
    cupy.__spec__ = ModuleSpec("cupy", None)
    cupy.empty, cupy.zeros = device.empty, device.zeros
    cupy.asarray, cupy.ascontiguousarray = device.asarray, device.ascontiguousarray
    cupy.nonzero, cupy.arange = np.nonzero, np.arange
    cupy.RawModule = lambda **kwargs: RawModule(device, **kwargs)
    pool = SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=lambda: None)
    cupy.get_default_memory_pool = lambda: pool
    cupy.cuda = SimpleNamespace(
        Event=Event,
        get_elapsed_time=lambda began, ended: 1000.0 * (ended.at - began.at),
        Device=lambda: SimpleNamespace(id=0, attributes=H100),
        runtime=SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDeviceCount=lambda: 1,
            getDevice=lambda: 0,
            getDeviceProperties=lambda number: {"name": b"pretended"},
            memGetInfo=lambda: (max(device.memory - device.used, device.claimed), device.memory),
        ),
        driver=SimpleNamespace(
            occupancyMaxActiveBlocksPerMultiprocessor=lambda kernel, threads, shared: 1
        ),
        nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
        compiler=SimpleNamespace(CompileException=CompileException),
    )
    return cupy, device
