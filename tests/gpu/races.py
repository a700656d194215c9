"""Fits toys on the emulated device under ThreadSanitizer; `test_races` runs it as a process.

Usage: races.py FOLDER, with ThreadSanitizer's library preloaded.  Exits with its code if two
threads touched the same memory without a barrier between them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from gpu.emulator import pretend
from made_up import control_region, many_systematics, one_sided

from hepdask_ml import compile_model
from hepdask_ml.likelihood import device, kernels, kernels_gpu

SANITISED = ("-fsanitize=thread", "-g")


def main(folder: Path) -> None:
    sys.modules["cupy"], emulated = pretend(folder)
    emulated.flags = SANITISED
    device.TEAMS = (4,)
    device.ALONE = 0
    # Few events: the search for other minima and all kinds of steps have their turn.
    for workspace in (one_sided(), control_region(), many_systematics(3, 4, 2)):
        model = compile_model(workspace)
        lowered = kernels.lower(model)
        data = np.random.default_rng(1).poisson(np.tile(model.data, (6, 1))).astype(float)
        row, poi = np.arange(len(data)), np.full(len(data), np.nan)
        start = model.init[lowered.kept]
        shifts = np.full((1, len(start)), 0.1)
        minima = kernels_gpu.minimise(lowered, data, row, np.tile(start, (len(data), 1)), poi)
        kernels_gpu.other_starts(lowered, data, row, minima.pars, poi, 3)
        kernels_gpu.fit_pairs(lowered, data, 1.0, start, starts=1)
        pairs = kernels_gpu.fit_pairs(lowered, data, 1.0, start, starts=5, shifts=shifts)
        assert np.isfinite(pairs.nll_free).all()
    assert len(emulated.launches) == 12


if __name__ == "__main__":
    main(Path(sys.argv[1]))
