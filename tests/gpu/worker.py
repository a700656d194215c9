"""Gives a Dask worker an emulated GPU: ``dask worker --preload gpu.worker``.

``EMULATED_GPU`` is the folder for compiled kernels; a file ``lost`` in it is the end of the GPU.
"""

import os
import sys
from pathlib import Path
from threading import Thread
from time import sleep

from distributed import Worker
from gpu.emulator import CUDARuntimeError, pretend

from hepdask_ml.likelihood import device


def dask_setup(worker: Worker) -> None:
    del worker
    folder = Path(os.environ["EMULATED_GPU"])
    cupy, emulated = pretend(folder)
    sys.modules["cupy"] = cupy
    device.ALONE = 1000  # each thread fits alone, which is the faster way to emulate

    def lose_it() -> None:
        while not (folder / "lost").exists():
            sleep(0.01)
        emulated.failure = CUDARuntimeError("cudaErrorECCUncorrectable: uncorrectable ECC error")

    Thread(target=lose_it, daemon=True).start()
