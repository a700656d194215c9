"""A coffea analysis and its limit as one Dask graph: a narrow resonance among pairs of muons.

    python examples/coffea_dimuons.py DATA.root MC.root

Both files are NanoAOD; the second one holds simulated Z bosons.  Needs the extra ``data``.
"""

from __future__ import annotations

import sys
from typing import Any

import awkward as ak
import hist
import numpy as np
from coffea import processor
from coffea.nanoevents import NanoAODSchema
from dask.delayed import delayed

from hepdask_ml import toy_limit_graph


class Dimuons(processor.ProcessorABC):
    """Masses of pairs of muons with opposite charges, in GeV."""

    def process(self, events: Any) -> Any:
        pairs = events.Muon[ak.num(events.Muon) == 2]
        pairs = pairs[ak.sum(pairs.charge, axis=1) == 0]
        mass = (pairs[:, 0] + pairs[:, 1]).mass
        filled = hist.Hist.new.Reg(12, 60.0, 120.0, name="mass").Weight().fill(mass=mass)
        return {events.metadata["dataset"]: filled}

    def postprocess(self, accumulator: Any) -> Any:
        return accumulator


def histograms(dataset: str, file: str) -> Any:
    """Run the processor on a file, in the thread of this node."""
    run = processor.Runner(processor.IterativeExecutor(status=False), schema=NanoAODSchema)
    return run({dataset: {"files": {file: "Events"}}}, Dimuons())


def added(*parts: Any) -> Any:
    """Add the histograms of all files."""
    return processor.accumulate(parts)


def workspace(filled: Any) -> dict[str, Any]:
    """Ask for a resonance at 95 GeV; simulated Z bosons, scaled to the data, are its background."""
    data, simulated = filled["data"], filled["z"]
    scale = data.values().sum() / simulated.values().sum()
    # A bin without simulated events is not known to be empty.
    background = np.maximum(scale * simulated.values(), 0.1)
    errors = scale * np.sqrt(np.maximum(simulated.variances(), 1.0))
    centers = data.axes[0].centers
    signal = 10.0 * np.exp(-0.5 * ((centers - 95.0) / 4.0) ** 2)
    return {
        "channels": [
            {
                "name": "dimuons",
                "samples": [
                    {
                        "name": "resonance",
                        "data": signal.tolist(),
                        "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
                    },
                    {
                        "name": "z",
                        "data": background.tolist(),
                        "modifiers": [
                            {"name": "simulated", "type": "staterror", "data": errors.tolist()},
                            {"name": "rate", "type": "normsys", "data": {"lo": 0.9, "hi": 1.1}},
                        ],
                    },
                ],
            }
        ],
        "observations": [{"name": "dimuons", "data": data.values().tolist()}],
        "measurements": [{"name": "search", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }


def main(data: str, simulated: str) -> None:
    nodes = [delayed(histograms)("data", data), delayed(histograms)("z", simulated)]
    limit = toy_limit_graph(delayed(workspace)(delayed(added)(*nodes)), toys=2_000).compute()
    print(f"observed: {limit.observed.value:.2f} +- {limit.observed.error:.2f}")
    print(f"expected: {limit.expected[2].value:.2f} +- {limit.expected[2].error:.2f}")
    for warning in limit.warnings:
        print("warning:", warning)


if __name__ == "__main__":
    main(*sys.argv[1:])
