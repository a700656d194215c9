"""From events to an upper limit in one Dask graph.

Chunks of events are histogrammed, the histograms are added up in a tree, a workspace is made of
them, and its toys follow.  `histograms` is what a coffea processor does: docs/guides/graph.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from dask.delayed import delayed

from hepdask_ml import toy_limit_graph

if TYPE_CHECKING:
    from dask.delayed import Delayed

    Histograms = dict[str, np.ndarray[Any, np.dtype[np.float64]]]

EDGES = np.linspace(100.0, 160.0, 13)  # GeV
EVENTS = 2_000
CHUNKS = {"signal": 4, "background": 20, "data": 1}
WEIGHTS = {"signal": 0.004, "background": 0.05, "data": 1.0}
SCALES = {"nominal": 1.0, "scale_down": 0.98, "scale_up": 1.02}


def histograms(sample: str, chunk: int) -> Histograms:
    """Fill the masses of a chunk of events, once for each energy scale."""
    rng = np.random.default_rng([list(CHUNKS).index(sample), chunk])
    if sample == "signal":
        mass = rng.normal(125.0, 3.0, EVENTS)
    else:
        mass = 100.0 + rng.exponential(25.0, EVENTS)
    filled = {
        f"{sample}_{name}": WEIGHTS[sample] * np.histogram(scale * mass, EDGES)[0]
        for name, scale in SCALES.items()
    }
    return {**filled, f"{sample}_squares": WEIGHTS[sample] * filled[f"{sample}_nominal"]}


def added(*parts: Histograms) -> Histograms:
    """Add histograms of the same name."""
    names = {name for part in parts for name in part}
    return {name: np.sum([part[name] for part in parts if name in part], axis=0) for name in names}


def workspace(filled: Histograms) -> dict[str, Any]:
    """Write histograms as a pyhf workspace with one channel."""

    def sample(name: str, *modifiers: dict[str, Any]) -> dict[str, Any]:
        down, up = (filled[f"{name}_scale_{side}"].tolist() for side in ("down", "up"))
        errors = np.sqrt(filled[f"{name}_squares"]).tolist()
        scale = {"name": "scale", "type": "histosys", "data": {"lo_data": down, "hi_data": up}}
        simulated = {"name": "simulated", "type": "staterror", "data": errors}
        nominal = filled[f"{name}_nominal"].tolist()
        return {"name": name, "data": nominal, "modifiers": [*modifiers, scale, simulated]}

    signal = sample("signal", {"name": "mu", "type": "normfactor", "data": None})
    return {
        "channels": [{"name": "mass", "samples": [signal, sample("background")]}],
        "observations": [{"name": "mass", "data": filled["data_nominal"].tolist()}],
        "measurements": [{"name": "search", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }


def graph(toys: int) -> Delayed:
    """Give the whole analysis as a graph: nothing runs before it is computed."""
    nodes = [
        delayed(histograms, pure=True)(sample, chunk)
        for sample, chunks in CHUNKS.items()
        for chunk in range(chunks)
    ]
    while len(nodes) > 1:
        nodes = [delayed(added, pure=True)(*nodes[at : at + 8]) for at in range(0, len(nodes), 8)]
    return toy_limit_graph(delayed(workspace, pure=True)(nodes[0]), toys=toys)


def main() -> None:
    limit = graph(toys=2_000).compute()
    print(f"observed: {limit.observed.value:.2f} +- {limit.observed.error:.2f}")
    print(f"expected: {limit.expected[2].value:.2f} +- {limit.expected[2].error:.2f}")
    for warning in limit.warnings:
        print("warning:", warning)


if __name__ == "__main__":
    main()
