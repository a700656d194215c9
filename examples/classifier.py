"""A classifier in the analysis: trained on the files, applied in the processor, seen in the limit.

    python classifier.py             about a minute
    python classifier.py --small     fewer events, for a quick look

The search is that of analysis.py.  There, cuts on the jets make two regions.  Here a small network
looks at all jets of an event, and its score makes three.  It is trained on the simulated events
with even numbers; the histograms are of those with odd ones.  It leaves a plot.  Needs the extras
``data`` and ``train``, and hist.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hist
import numpy as np
import torch
from analysis import Dimuons, by_jets, draw, histograms, limit_of, local_cluster, show, workspace
from distributed import Client
from make_nanoaod import make_files

from hepdask_ml import scan, tensors
from hepdask_ml.data.tensors import FeatureForm
from hepdask_ml.training.datasets import Dataset
from hepdask_ml.training.layers import DeepSets, mlp
from hepdask_ml.training.loaders import Loader

FEATURES = {
    "tree": "Events",
    "selection": "event % 2 == 0",
    "labels": {"signal": 1, "z": 0, "top": 0},
    "features": {
        "jets": {
            "branches": [
                {"name": "log_pt", "expression": "log(Jet_pt)"},
                "Jet_eta",
                "Jet_btagDeepFlavB",
            ],
            "percentile": 99,
            "scale": "standard",
        },
        "event": {
            "branches": [
                {"name": "log_met", "expression": "log(MET_pt + 1)"},
                {
                    "name": "pair_pt",
                    "expression": "sqrt(sum(Muon_pt * cos(Muon_phi)) ** 2 "
                    "+ sum(Muon_pt * sin(Muon_phi)) ** 2)",
                },
            ],
            "scale": "standard",
        },
    },
}
"""What the network sees: nothing that tells the mass of the pair."""


class Network(torch.nn.Module):
    """The logit of being signal."""

    def __init__(self) -> None:
        super().__init__()
        self.jets = DeepSets(mlp(3, 24, (24,)), mlp(24, 16, (24,)))
        self.rest = mlp(16 + 2, 1, (24,))

    def forward(self, inputs: Mapping[str, Any], masks: Mapping[str, Any]) -> Any:
        jets = self.jets(inputs["jets"], masks["jets"])
        return self.rest(torch.cat([jets, inputs["event"]], dim=1)).squeeze(1)


@dataclass
class ByScore:
    """Regions by the score that a network gives to events of coffea."""

    network: Network
    form: FeatureForm
    borders: tuple[float, ...] = ()

    def __call__(self, selected: Any) -> dict[str, Any]:
        found = np.digitize(self.scores(selected), self.borders)
        return {name: found == at for at, name in enumerate(("low", "middle", "high"))}

    def scores(self, selected: Any) -> Any:
        """Give the logit of each event, from the tensors that a file with it would give."""
        batch = self.form.of({name: branch(selected, name) for name in self.form.features.branches})
        inputs = {name: torch.from_numpy(each) for name, each in batch.inputs.items()}
        masks = {"jets": torch.from_numpy(batch.mask("jets"))}
        with torch.no_grad():
            return self.network(inputs, masks).numpy()


def branch(selected: Any, name: str) -> Any:
    """Give what a branch of the file has become: Jet_pt is Jet.pt, whatever was done to it."""
    collection, _, field = name.partition("_")
    return selected[collection][field]


def train(client: Client, files: Mapping[str, str], epochs: int) -> ByScore:
    """Train a network on the simulated events with even numbers."""
    torch.manual_seed(1)
    torch.set_num_threads(1)  # so small a network is no work for several
    simulated = {name: [file] for name, file in files.items() if name != "data"}
    stream = tensors(simulated, FEATURES, scan=scan(simulated, FEATURES, client=client))
    loader = Loader(Dataset(stream, 500, seed=1))
    network = Network()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    criterion = torch.nn.BCEWithLogitsLoss()
    for epoch in range(epochs):
        losses = []
        for batch in loader:
            loss = criterion(network(batch["inputs"], batch["masks"]), batch["labels"])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {np.mean(losses):.3f}")
    # In the processor all events are looked at, and none has a label.
    features = replace(stream.form.features, selection=None, labels=None)
    return ByScore(network, replace(stream.form, features=features), borders(network, loader))


def borders(network: Network, loader: Loader) -> tuple[float, float]:
    """Have half the signal in the last region, and three tenths in the one before."""
    scores = []
    with torch.no_grad():
        for batch in loader:
            logits = network(batch["inputs"], batch["masks"])
            scores.append(logits[batch["labels"] == 1])
    low, high = np.quantile(torch.cat(scores).numpy(), [0.2, 0.5])
    return float(low), float(high)


def main(folder: Path, *, small: bool = False) -> None:
    n_events, precision, epochs = (20_000, 0.1, 5) if small else (80_000, 0.03, 10)
    mass = hist.axis.Regular(16, 110.0, 142.0, name="mass", label="mass of the two muons [GeV]")
    files = make_files(folder / "files", n_events)
    limits = {}
    with local_cluster(processes=not small) as cluster, Client(cluster) as client:
        for name, regions in (("cuts", by_jets), ("classifier", train(client, files, epochs))):
            made = workspace(histograms(client, files, Dimuons(regions, mass)))
            limits[name] = limit_of(client, made, precision)
            print(f"with {name}:")
            show(limits[name])
    draw(made, limits, mass).savefig(folder / "classifier.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    main(given.folder, small=given.small)
