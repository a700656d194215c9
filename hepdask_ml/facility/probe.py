"""What a worker and a scheduler see, told by themselves.

These functions travel there by value (`sent_by_value`), so that they run where hepdask-ml is
missing or of another version.  They use the standard library and what Dask itself needs, and give
plain values; what cannot be seen is None, and no reason to fail.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]
import psutil

from hepdask_ml.facility.cuda import VISIBLE, gpus

if TYPE_CHECKING:
    from collections.abc import Iterator

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables that limit the threads of numerical libraries."""

PINGS = 20
"""Messages of which the median is the time of a round trip."""

SMALL_BYTES, LARGE_BYTES = 2**20, 2**25
"""What is sent there and back: the large amount only where the small one is quick."""

QUICK_S = 0.1
"""That quick."""

COMMAND_S = 10.0
"""Time that ``nvidia-smi`` may take."""


@contextmanager
def sent_by_value() -> Iterator[None]:
    """Let the functions of this module travel as they are, and not as names to be imported."""
    modules = [sys.modules[name] for name in (__name__, gpus.__module__)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def seen_by_worker(dask_worker: Any) -> dict[str, Any]:
    """Tell what a worker has.

    Parameters
    ----------
    dask_worker : distributed.Worker
        Filled in by Dask.

    Returns
    -------
    dict
        By topic: ``host``, ``processors``, ``memory``, ``gpus``, ``walltime``, ``scratch``.
        Sizes are in bytes, times in seconds.
    """
    return {
        "host": socket.gethostname(),
        "processors": {
            "usable": import_module("dask.system").CPU_COUNT,
            "threads": dask_worker.state.nthreads,
            "limits": {name: os.environ[name] for name in THREADS if name in os.environ},
        },
        "memory": {
            "limit_bytes": dask_worker.memory_manager.memory_limit,
            "total_bytes": psutil.virtual_memory().total,
        },
        "gpus": _gpus(dask_worker.state.total_resources.get("GPU")),
        "walltime": _walltime(dask_worker.lifetime),
        "scratch": _scratch(dask_worker.local_directory),
    }


async def network(dask_worker: Any) -> dict[str, float]:
    """Measure the way from a worker to its scheduler and back, through Dask.

    Parameters
    ----------
    dask_worker : distributed.Worker
        Filled in by Dask.

    Returns
    -------
    dict
        ``round_trip_s``, the median of 20, and ``bytes_per_s``, both ways together.
    """
    scheduler = dask_worker.scheduler
    pings = []
    for _ in range(PINGS):
        begun = time.perf_counter()
        await scheduler.echo(data=b"")
        pings.append(time.perf_counter() - begun)
    speed = 0.0
    for size in (SMALL_BYTES, LARGE_BYTES):
        data = os.urandom(size)  # cannot be compressed
        begun = time.perf_counter()
        await scheduler.echo(data=data)
        took = time.perf_counter() - begun
        speed = 2 * size / took
        if took > QUICK_S:
            break
    return {"round_trip_s": median(pings), "bytes_per_s": speed}


def seen_by_scheduler(dask_scheduler: Any) -> dict[str, Any]:
    """Tell where a scheduler listens.

    Parameters
    ----------
    dask_scheduler : distributed.Scheduler
        Filled in by Dask.

    Returns
    -------
    dict
        ``host``, its ``address``, and all addresses on which it ``listens``.
    """
    return {
        "host": socket.gethostname(),
        "address": dask_scheduler.address,
        "listens": [listener.listen_address for listener in dask_scheduler.listeners],
    }


def _gpus(resource: float | None) -> dict[str, Any]:
    seen = [{"name": gpu.name, "memory_bytes": gpu.memory_bytes} for gpu in gpus()]
    return {
        "seen": seen,
        "driver": _driver() if seen else None,
        "cupy": find_spec("cupy") is not None,
        "visible": os.environ.get(VISIBLE),
        "resource": resource,
    }


def _driver() -> str | None:
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMMAND_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(said.split()), None)


def _walltime(lifetime: float | None) -> dict[str, Any]:
    """Tell what a drain would know of its end."""
    try:
        end = import_module("hepdask_ml.facility.node").end(lifetime_s=lifetime)
    except (ImportError, AttributeError):
        return {"end": None, "left_s": None, "source": None}
    except ValueError as error:  # a person declared what cannot be read
        return {"end": None, "left_s": None, "source": None, "fault": str(error)}
    left = None if end.at is None else end.left()
    return {"end": end.at, "left_s": left, "source": end.source}


def _scratch(folder: str) -> dict[str, Any]:
    place = Path(folder).resolve()
    mounts = {
        part.mountpoint: part.fstype
        for part in psutil.disk_partitions(all=True)
        if place.is_relative_to(part.mountpoint)
    }
    seen: dict[str, Any] = {
        "folder": str(place),
        "filesystem": mounts[max(mounts, key=len)] if mounts else None,
        "free_bytes": None,
        "fault": None,
    }
    try:
        seen["free_bytes"] = shutil.disk_usage(place).free
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(2**16))
    except OSError as error:
        seen["fault"] = error.strerror or str(error)
    return seen
