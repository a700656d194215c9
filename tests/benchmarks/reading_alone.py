"""What has to be measured in a process of its own: peak memory, and how long a training waits.

``python reading_alone.py memory FILE`` reads a file that `reading_forms.write` wrote, batch by
batch (*stream*) and then shuffled (*data set*).  ``python reading_alone.py training FILE BATCH``
trains a network of three hidden layers of 256 on one core while a thread reads on another.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from benchmarks.reading_forms import BASKET, COLLECTIONS, FLOATS, SCALARS, WHOLES

from hepdask_ml.data.tensors import tensors
from hepdask_ml.training.datasets import Dataset
from hepdask_ml.training.loaders import Loader

WIDTH, LAYERS = 256, 3
WARM_UP = 3


def stream_of(path: str) -> Any:
    """The events of a file, with the labels that some branch makes."""
    groups: dict[str, Any] = {"event": [f"scalar{i}" for i in range(SCALARS)]}
    for name, (_, slots) in COLLECTIONS.items():
        branches = [f"{name}_{i}" for i in range(FLOATS + WHOLES)]
        groups[name] = {"branches": branches, "length": slots}
    spec = {"tree": "Events", "labels": "scalar0 > 20", "features": groups}
    return tensors(path, spec, size=BASKET)


def peak_megabytes() -> float:
    """Most memory of this process so far."""
    status = Path("/proc/self/status")
    # What the other way gives is at least what the parent had.
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def memory(path: str) -> dict[str, float]:
    """Peak memory behind each of two ways to read a file."""
    found = {"nothing": peak_megabytes()}
    for _ in stream_of(path):
        pass
    found["stream"] = peak_megabytes()
    for _ in Dataset(stream_of(path), 1000, buffer=BASKET):
        pass
    found["data set"] = peak_megabytes()
    return found


def flat(batch: dict[str, Any]) -> Any:
    """All numbers of a batch, those without an item as zero."""
    inputs = [each.reshape(len(each), -1) for each in batch["inputs"].values()]
    return torch.nan_to_num(torch.cat(inputs, 1))


def network() -> Any:
    """Full layers."""
    n_inputs = SCALARS + (FLOATS + WHOLES) * sum(slots for _, slots in COLLECTIONS.values())
    layers: list[Any] = []
    for _ in range(LAYERS):
        layers += [torch.nn.Linear(n_inputs, WIDTH), torch.nn.ReLU()]
        n_inputs = WIDTH
    return torch.nn.Sequential(*layers, torch.nn.Linear(n_inputs, 1))


def training(path: str, size: int) -> dict[str, float]:
    """Train for one epoch: seconds of it, and those of them that steps waited for their batch."""
    data = Dataset(stream_of(path), size, buffer=BASKET)
    model = network()
    optimiser = torch.optim.Adam(model.parameters())
    criterion = torch.nn.BCEWithLogitsLoss()
    began = perf_counter()
    batches: Iterator[dict[str, Any]] = iter(Loader(data))
    waits, ends = [], []
    while True:
        asked = perf_counter()
        batch = next(batches, None)
        waits.append(perf_counter() - asked)
        if batch is None:
            break
        optimiser.zero_grad()
        loss = criterion(model(flat(batch))[:, 0], batch["labels"])
        loss.backward()
        optimiser.step()
        # To give its memory back takes half a millisecond, and is no waiting for the next one.
        del batch, loss
        ends.append(perf_counter())
    steady = ends[-1] - ends[WARM_UP - 1]
    waited = sum(waits[WARM_UP:-1])
    n_events = size * (len(ends) - WARM_UP)
    return {
        "first": ends[0] - began,
        "steps": len(ends),
        "waited": waited / steady,
        "longest": max(waits[WARM_UP:-1]),
        "events": n_events / steady,
    }


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    torch.set_num_threads(1)
    if what == "training":
        with suppress(AttributeError, OSError):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    result = memory(*arguments) if what == "memory" else training(arguments[0], int(arguments[1]))
    sys.stdout.write(json.dumps(result) + "\n")
