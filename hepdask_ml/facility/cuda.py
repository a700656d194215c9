"""The graphics processors (GPUs) of this machine, and one worker process for each.

The driver's own command says which there are, so that no library is needed; what a batch system
has left of them stands in ``CUDA_VISIBLE_DEVICES``.  Each worker sees one, as its device 0, from
its first moment, and so has a batch job's usual view: nothing in the work knows of the others.

dask-cuda does this as well, for dataframes that lie on GPUs.  Each of its versions is for one
version of Dask alone, which a package for existing facilities cannot ask for; and of what it adds,
memory pools, spilling and fast links between GPUs, independent blocks of work use nothing.
"""

from __future__ import annotations

import logging
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distributed import Nanny, Scheduler, SpecCluster

from hepdask_ml.errors import InputError, SiteError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Variable that tells CUDA which devices a process sees, and in which order."""

_PATIENCE_S = 30.0  # a driver that sleeps takes some seconds to wake
_MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device that this process sees.

    Attributes
    ----------
    name : str
        Its product name.
    memory_bytes : int or None
        Its memory in bytes; None for a part of a device.
    uuid : str
        Names it for ever, ``GPU-...`` or ``MIG-...``.
    mask : str
        What shows it alone, as a value of ``CUDA_VISIBLE_DEVICES``.
    """

    name: str
    memory_bytes: int | None
    uuid: str
    mask: str


def gpus(environ: Mapping[str, str] | None = None) -> tuple[Gpu, ...]:
    """Give the GPUs that this process sees.

    Parameters
    ----------
    environ : mapping of str to str, or None
        The environment to look in, also that of the command; that of this process if None.

    Returns
    -------
    tuple of Gpu
        In CUDA's order; empty where there is no NVIDIA driver.

    Examples
    --------
    >>> gpus({"PATH": "", "CUDA_VISIBLE_DEVICES": "0"})
    ()
    """
    return _seen(os.environ if environ is None else environ)[0]


def gpu_cluster(number: int, workers: int | None = None, threads: int = 1) -> SpecCluster:
    """Start one worker process for each of some GPUs, on the loopback address alone.

    Workers have the resource ``GPU=1``; a worker that dies is started again on its GPU.

    Parameters
    ----------
    number : int
        GPUs that are used, of those that this process sees the first ones.
    workers : int or None
        As many, or None.
    threads : int
        Threads of each worker.

    Returns
    -------
    distributed.SpecCluster
        A context manager, which closes it.

    Raises
    ------
    InputError
        If another number of workers is asked for.
    SiteError
        If there are fewer GPUs: work is never left to the processor in silence.
    """
    if workers not in {None, number}:
        raise InputError(
            f"workers is {workers} and gpus is {number}: there is one worker for each GPU, drop "
            "workers"
        )
    found, why = _seen(os.environ)
    if len(found) < number:
        raise SiteError(
            f"{number} GPU{'s are' if number > 1 else ' is'} asked for, but this process sees "
            f"{len(found) or 'none'} ({why}): ask for what is there, or run where there are more"
        )
    return SpecCluster(  # type: ignore[no-untyped-call]
        workers=_workers(found[:number], threads),
        scheduler={
            "cls": Scheduler,
            "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"},
        },
        silence_logs=logging.CRITICAL,  # what goes wrong with a block is in the ledger
    )


def dask_setup(nanny: Nanny) -> None:
    """Let the worker of a nanny see its own GPUs: ``dask worker --preload-nanny`` of this module.

    Parameters
    ----------
    nanny : distributed.Nanny
        One of several with names that end in ``-0``, ``-1``, ..., each with a resource ``GPU``;
        they share what ``CUDA_VISIBLE_DEVICES`` shows.

    Raises
    ------
    SiteError
        If there are too few.
    """
    number = int(nanny.resources["GPU"])
    first = number * int(str(nanny.name).rpartition("-")[2])
    shown = os.environ.get(VISIBLE)
    masks = [gpu.mask for gpu in gpus()] if shown is None else shown.split(",")
    own = masks[first : first + number]
    if len(own) < number:
        raise SiteError(
            f"worker {nanny.name} has {len(own)} of {number} GPUs: {VISIBLE} is {shown!r}"
        )
    nanny.env[VISIBLE] = ",".join(own)


def _workers(used: Sequence[Gpu], threads: int) -> dict[int, dict[str, Any]]:
    return {
        i: {
            "cls": Nanny,
            "options": {
                "host": "127.0.0.1",
                "dashboard_address": "127.0.0.1:0",
                "nthreads": threads,
                "memory_limit": 1.0 / len(used),
                "resources": {"GPU": 1},
                "env": {VISIBLE: gpu.mask},
            },
        }
        for i, gpu in enumerate(used)
    }


def _seen(environ: Mapping[str, str]) -> tuple[tuple[Gpu, ...], str]:
    """Give the GPUs that are seen, and what there is to say about their number."""
    rows, why = _told(environ, "--query-gpu=index,name,memory.total,uuid")
    devices = [_device(*(part.strip() for part in row.split(","))) for row in rows]
    visible = environ.get(VISIBLE)
    if visible is None:
        return tuple(devices), why or f"nvidia-smi lists {len(devices)}"
    if any(entry.strip().startswith("MIG-") for entry in visible.split(",")):
        devices += _parts(environ)
    shown: list[Gpu] = []
    for entry in visible.split(","):
        # Like CUDA: an identifier may be shortened, and what follows an unknown one is not seen.
        match = [gpu for gpu in devices if _is_meant(gpu, entry.strip())]
        if len(match) != 1:
            break
        shown.append(Gpu(match[0].name, match[0].memory_bytes, match[0].uuid, entry.strip()))
    return tuple(shown), why or f'nvidia-smi lists {len(devices)}, {VISIBLE} is "{visible}"'


def _is_meant(gpu: Gpu, entry: str) -> bool:
    return entry == gpu.mask or (entry.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(entry))


def _device(index: str, name: str, memory: str, uuid: str) -> Gpu:
    # Devices that share the host's memory have "[N/A]" of their own.
    return Gpu(name, int(memory) * _MEBIBYTE if memory.isdecimal() else None, uuid, index)


def _parts(environ: Mapping[str, str]) -> list[Gpu]:
    """Give the parts into which devices are divided, which only the plain list names."""
    found = []
    for line in _told(environ, "-L")[0]:
        kind, _, rest = line.strip().partition("(UUID: ")
        if kind.startswith("MIG "):
            uuid = rest.rstrip(")")
            found.append(Gpu(kind.split("Device")[0].strip(), None, uuid, uuid))
    return found


def _told(environ: Mapping[str, str], question: str) -> tuple[list[str], str]:
    """Ask the driver; give its lines, or none and the reason."""
    style = ("--format=csv,noheader,nounits",) if question.startswith("--query") else ()
    try:
        done = subprocess.run(
            ["nvidia-smi", question, *style],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
            env=dict(environ),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        absent = isinstance(error, FileNotFoundError)
        return [], "no NVIDIA driver: nvidia-smi is not there" if absent else f"nvidia-smi: {error}"
    if done.returncode:
        said = " ".join((done.stdout or done.stderr).split())
        return [], f"nvidia-smi says: {said[:200].rstrip('.')}"
    return [line for line in done.stdout.splitlines() if line.strip()], ""
