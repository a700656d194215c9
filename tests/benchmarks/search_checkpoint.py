"""What a checkpoint costs: against writing the same bytes, and against what torch does by itself.

The state is that of a model and of Adam, which keeps two numbers for each parameter.  All ways are
measured in turns, in one folder; each writes anew, as an epoch does.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from importlib import import_module
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.pool_overhead import Measured

from hepdask_ml.training import state
from hepdask_ml.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEGABYTES, REPETITIONS = 100, 9
QUICK_MEGABYTES, QUICK_REPETITIONS = 1, 2
LAYERS = 8


def checkpoint_cost(*, quick: bool) -> list[Measured]:
    """Measure all ways to keep a state, and to read it again."""
    megabytes, repetitions = MEGABYTES, REPETITIONS
    if quick:
        megabytes, repetitions = QUICK_MEGABYTES, QUICK_REPETITIONS
    torch: Any = import_module("torch")
    kept = trained(torch, megabytes)
    took: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for ways in _rounds(torch, kept, Path(folder), repetitions):
            for way, act in ways.items():
                began = perf_counter()
                act()
                took[way].append(1e3 * (perf_counter() - began))
    return [Measured(f"{megabytes} MB: {way}", values, "ms") for way, values in took.items()]


def _rounds(
    torch: Any, kept: dict[str, Any], folder: Path, n: int
) -> Iterator[dict[str, Callable[[], Any]]]:
    """Give the ways to keep a state and to read it, so many times."""
    plain, own, synced = folder / "plain", folder / "own", folder / "synced"
    whole = b"".join(bytes(part) for part in state.packed(kept).values() if isinstance(part, bytes))
    checkpoints = Checkpoints(folder / "trial")

    def states() -> dict[str, Any]:
        return {name: each.state_dict() for name, each in kept.items()}

    epochs = count(1)
    for _ in range(n):
        yield {
            "write the bytes, fsync": lambda: _write(plain, lambda file: file.write(whole)),
            "torch.save": lambda: torch.save(states(), own),
            "torch.save, fsync": lambda: _write(synced, lambda file: torch.save(states(), file)),
            "state.packed": lambda: state.packed(kept),
            "Checkpoints.save": lambda: checkpoints.save(next(epochs), {"whole": whole}),
            "Context.save, both of these": lambda: checkpoints.save(
                next(epochs), state.packed(kept)
            ),
            "read the bytes": plain.read_bytes,
            "torch.load": lambda: torch.load(own, weights_only=True),
            "Checkpoints.load": checkpoints.load,
            "Context.load": lambda: state.restore(kept, _parts(checkpoints)),
        }


def trained(torch: Any, megabytes: int) -> dict[str, Any]:
    """Give a model and its optimiser after a step, which have so many megabytes together."""
    width = round((megabytes * 1_000_000 / (4 * 3 * LAYERS)) ** 0.5)
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width, bias=False) for _ in range(LAYERS)))
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, width)).sum().backward()
    optimiser.step()
    return {"model": model, "optimiser": optimiser}


def _write(path: Path, put: Callable[[Any], Any]) -> None:
    with path.open("wb") as file:
        put(file)
        file.flush()
        os.fsync(file.fileno())


def _parts(checkpoints: Checkpoints) -> dict[str, bytes]:
    found = checkpoints.load()
    if found is None:
        raise RuntimeError("the checkpoint that was saved is not there")
    return dict(found.parts)
