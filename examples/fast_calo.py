"""A fast simulation of a calorimeter: one small generator for each particle and slice of eta.

Showers of photons, electrons and charged pions are simulated with a simple parametrisation, one
file for each *segment* (a particle and a slice of pseudorapidity).  A generator learns to make the
energies in five layers from noise and the true energy.  Each segment has its own search for the
best network; all of them are one campaign with one ledger:

    python fast_calo.py                   3 particles x 5 slices, 8 trials each
    python fast_calo.py --segments 300    3 particles x 100 slices, tiny networks, 2 trials each
    python fast_calo.py --small           3 x 5, for a quick look

What counts is chi2/ndf between the distributions of visible energy of generated and of simulated
showers, in bands of true energy: 1 where nobody can tell them apart.  Kill it, and run it again.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from distributed import Client, LocalCluster

import hepdask_ml

if TYPE_CHECKING:
    from hepdask_ml import Context, Search, SearchResult

    Floats = np.ndarray[Any, np.dtype[np.float64]]

PARTICLES = ("photon", "electron", "pion")
ETA_MAX = 2.5
ENERGIES = (2.0, 128.0)  # GeV
BANDS = np.geomspace(*ENERGIES, 4)
LAYERS = {"presampler": (1.5, 2.5), "strips": (2.5, 7.0), "middle": (7.0, 23.0),
          "back": (23.0, 27.0), "hadronic": (27.0, 220.0)}  # fmt: skip
"""Radiation lengths at normal incidence; in front of them is dead material."""


# ---------------------------------------------------------------- the simulation


def profile(depth: Floats, start: Floats, shape: Floats, scale: float) -> Floats:
    """Part of the energy that each shower leaves before each depth: a gamma distribution."""
    grid = np.geomspace(0.05, 400.0, 160)  # radiation lengths after its start
    middle = np.sqrt(grid[1:] * grid[:-1])
    density = (shape[:, None] - 1.0) * np.log(scale * middle) - scale * middle
    left = np.exp(density - density.max(axis=1, keepdims=True)) * np.diff(grid)
    before = np.cumsum(left, axis=1) / left.sum(axis=1, keepdims=True)
    rows = zip(depth, start, before, strict=True)
    return np.array([np.interp(d - s, grid[1:], b, left=0.0) for d, s, b in rows])


def showers(particle: str, eta: Floats, energy: Floats, rng: np.random.Generator) -> Floats:
    """Simulate showers; gives the visible energies, (shower, layer), in GeV.

    Longitudinal profiles as in G. Grindhammer, S. Peters, hep-ex/0001020, simplified: depth and
    shape of a shower fluctuate, so the energies of the layers are correlated.
    """
    n = len(energy)
    # Through a barrel and then an end-cap, at an angle.
    way = np.where(eta < 1.5, np.cosh(eta), 1.0 / np.tanh(np.maximum(eta, 1.5)))
    edges = way[:, None] * [edge for layer in LAYERS.values() for edge in layer]
    y = np.log(energy / 0.010)  # in units of the critical energy
    deepest = np.exp(rng.normal(np.log(y - 0.5), 1.0 / (-1.4 + 1.26 * y)))
    # A photon has to make a pair first, a pion to meet a nucleus.
    start = {"photon": 9.0 / 7.0, "electron": 0.0, "pion": 25.0}[particle] * rng.exponential(size=n)
    visible = np.diff(profile(edges, start, 1.0 + 0.5 * deepest, 0.5))[:, ::2]
    if particle == "pion":
        share = 1.0 - 0.8 * energy**-0.15  # that becomes neutral pions, which make such showers
        share = rng.beta(6.0 * share, 6.0 * (1.0 - share))[:, None]
        others = np.diff(profile(edges, start, np.full(n, 2.0), 0.05))[:, ::2]
        visible = share * visible + 0.7 * (1.0 - share) * others
    mean = visible * energy[:, None]
    sampling = np.where(np.arange(len(LAYERS)) < 4, 0.10, 0.50)
    noise = rng.normal(size=mean.shape) * np.hypot(sampling * np.sqrt(mean), 0.03)
    constant = 1.0 + 0.007 * rng.normal(size=(n, 1))
    return np.maximum(mean * constant + noise, 0.0)


def simulated(name: str, slices: int, n: int, seed: int) -> dict[str, Floats]:
    """Simulate showers of a segment, with true energies flat in their logarithm."""
    particle, _, number = name.partition("-eta")
    rng = np.random.default_rng([seed, PARTICLES.index(particle), int(number), slices])
    eta = ETA_MAX / slices * (int(number) + rng.random(n))
    energy = np.exp(rng.uniform(*np.log(ENERGIES), n))
    return {"energy": energy, "layers": showers(particle, eta, energy, rng)}


# ---------------------------------------------------------------- the generator


class Generator(torch.nn.Module):
    """Makes the energies of the layers, in units of the true energy, from noise and that energy.

    It gives their sum, and how that is shared among them.
    """

    def __init__(self, width: int, noise: int) -> None:
        super().__init__()
        self.noise = noise
        self.net = torch.nn.Sequential(
            torch.nn.Linear(noise + 1, width), torch.nn.SiLU(),
            torch.nn.Linear(width, width), torch.nn.SiLU(),
            torch.nn.Linear(width, 1 + len(LAYERS)),
        )  # fmt: skip
        # What the data are like: their sum, how it is shared, and spreads for the loss.
        self.register_buffer("mean", torch.ones(1))
        self.register_buffer("spread", torch.ones(1))
        self.register_buffer("shares", torch.ones(len(LAYERS)))
        self.register_buffer("spreads", torch.ones(len(LAYERS)))

    def forward(self, energy: torch.Tensor) -> torch.Tensor:
        low, high = np.log(ENERGIES)
        scaled = (2.0 * torch.log(energy) - low - high)[:, None] / (high - low)
        noise = torch.randn(len(energy), self.noise)
        total, shares = self.net(torch.cat([noise, scaled], 1)).split([1, len(LAYERS)], 1)
        # Before it has learned anything, a Gaussian whose width falls as 1/sqrt(E).
        total = self.mean + self.spread * (total + 0.7 * noise[:, :1] * torch.exp(-scaled))
        return torch.relu(total) * torch.softmax(self.shares + shares, 1)


def energy_score(model: Generator, energy: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Loss that is least where the generator has the distribution of the data.

    See T. Gneiting, A. E. Raftery, JASA 102 (2007) 359, eq. (21).  It is that of the layers and
    that of their sum, each in units of its spread, which falls with the energy.
    """
    loss = torch.zeros(())
    scale = energy[:, None] ** 0.4
    one, other = model(energy), model(energy)
    for seen in (lambda x: x / model.spreads, lambda x: x.sum(1, keepdim=True) / model.spread):
        a, b, data = (scale * seen(x) for x in (one, other, truth))
        near = (a - data).norm(dim=1) + (b - data).norm(dim=1)
        loss = loss + (near - (a - b).norm(dim=1)).mean() / 2.0
    return loss


def chi2(energy: Floats, truth: Floats, made: Floats, bins: int = 15) -> float:
    """chi2/ndf between two distributions of visible energy, averaged over bands of true energy."""
    found = []
    for low, high in pairwise(BANDS):
        within = (energy >= low) & (energy < high)
        a, b = (total[within] / energy[within] for total in (truth, made))
        edges = np.quantile(a, np.linspace(0.0, 1.0, bins + 1))
        edges[[0, -1]] = -np.inf, np.inf
        na, nb = np.histogram(a, edges)[0], np.histogram(b, edges)[0]
        found.append(((na - nb) ** 2 / (na + nb)).sum() / (bins - 1))
    return float(np.mean(found))


def train(params: dict[str, Any], context: Context) -> None:
    """Train the generator of a segment; only the file of that segment is opened."""
    with np.load(context.files[0]) as file:
        energy, layers = file["energy"], file["layers"]
    half = len(energy) // 2  # the other half is for validation
    e = torch.tensor(energy, dtype=torch.float32)
    x = torch.tensor(layers / energy[:, None], dtype=torch.float32)
    model = Generator(params["width"], params["noise"])
    total = x[:half].sum(1)
    model.mean, model.spread = total.mean()[None], total.std()[None]
    model.shares, model.spreads = torch.log(x[:half].mean(0)), x[:half].std(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=params["lr"])
    steps = context.total * -(-half // params["batch"])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimiser, params["lr"], steps)
    for epoch in context.epochs(model=model, optimiser=optimiser, scheduler=scheduler):
        for batch in torch.randperm(half).split(params["batch"]):
            optimiser.zero_grad()
            loss = energy_score(model, e[batch], x[batch])
            loss.backward()
            optimiser.step()
            scheduler.step()
        made = generated(model, energy[half:])
        distance = chi2(energy[half:], layers[half:].sum(1), made.sum(1))
        context.report(epoch, {"chi2": distance, "score": loss.item()}, samples=half)


def generated(model: Generator, energy: Floats) -> Floats:
    """Make showers; gives the visible energies, (shower, layer), in GeV."""
    with torch.no_grad():
        parts = model(torch.tensor(energy, dtype=torch.float32))
    return parts.numpy().astype(float) * energy[:, None]


# ---------------------------------------------------------------- the campaign


@dataclass(frozen=True)
class Form:
    """How much is done."""

    name: str
    slices: int
    events: int
    trials: int
    epochs: int
    widths: tuple[int, ...]


FULL = Form("full", slices=5, events=10_000, trials=8, epochs=20, widths=(16, 32, 64))
SMALL = Form("small", slices=5, events=3_000, trials=2, epochs=10, widths=(16, 32))
TINY = Form("tiny", slices=100, events=3_000, trials=2, epochs=8, widths=(8, 16))


def campaign(form: Form, folder: Path) -> Search:
    """Write the file of each segment, and prepare the search."""
    segments = []
    (folder / "showers").mkdir(parents=True, exist_ok=True)
    for particle in PARTICLES:
        for number in range(form.slices):
            name = f"{particle}-eta{number:0{len(str(form.slices - 1))}}"
            file = folder / "showers" / f"{name}.npz"
            if not file.exists():
                part = file.with_suffix(".part.npz")  # so that a file is whole, or not there
                np.savez(part, **simulated(name, form.slices, form.events, seed=1))
                part.replace(file)
            segments.append({"name": name, "files": [str(file)]})
    space = {
        "width": list(form.widths),
        "noise": {"type": "int", "low": 4, "high": 12},
        "lr": {"type": "float", "low": 3e-3, "high": 3e-2, "log": True},
        "batch": [100, 200],
    }
    return hepdask_ml.search(
        train,
        space,
        optimiser="optuna:tpe",
        n_trials=form.trials,
        epochs=form.epochs,
        objectives="chi2",
        segments=segments,
        ledger=folder / "fast_calo.ledger",
    )


def best_models(search: Search, found: SearchResult) -> dict[str, Generator]:
    """Load the best generator of each segment from its checkpoint."""
    models = {}
    for name, trial in found.bests.items():
        models[name] = Generator(trial.params["width"], trial.params["noise"])
        search.load(trial, model=models[name])
    return models


def table(found: SearchResult, checked: dict[str, float]) -> str:
    """One line for each segment: its best trial, and chi2/ndf against showers seen by nobody."""
    lines = [f"{'segment':<16}{'trial':>6}{'chi2/ndf':>10}{'checked':>9}  parameters"]
    for name, trial in found.bests.items():
        params = ", ".join(f"{key} {value:.3g}" for key, value in trial.params.items())
        chi2_best = trial.values["chi2"]
        lines.append(
            f"{name:<16}{trial.number:>6}{chi2_best:>10.2f}{checked[name]:>9.2f}  {params}"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Pair:
    """Showers that nobody has seen, and those of the same true energies that were generated."""

    energy: Floats
    simulated: Floats
    generated: Floats

    def chi2(self) -> float:
        return chi2(self.energy, self.simulated.sum(1), self.generated.sum(1))


def draw(form: Form, pairs: dict[str, Pair], file: Path) -> None:
    """Draw mean and spread of the visible energy, generated and simulated, and chi2/ndf."""
    figure, axes = plt.subplots(3, 3, figsize=(12, 9), sharey="row", layout="constrained")
    edges = np.geomspace(*ENERGIES, 9)
    at = np.sqrt(edges[1:] * edges[:-1])
    for column, particle in zip(axes.T, PARTICLES, strict=True):
        names = [name for name in pairs if name.startswith(particle)]
        for name in names[:: max(1, len(names) // 5)]:
            number = int(name.partition("-eta")[2])
            pair = pairs[name]
            bins = np.digitize(pair.energy, edges) - 1
            colour = plt.get_cmap("viridis")(number / form.slices)
            for layers, style in ((pair.simulated, "-"), (pair.generated, "o")):
                ratio = layers.sum(1) / pair.energy
                mean = np.array([ratio[bins == i].mean() for i in range(len(at))])
                spread = np.array([ratio[bins == i].std() for i in range(len(at))])
                label = f"{ETA_MAX * number / form.slices:.2f}" if style == "-" else None
                column[0].plot(at, mean, style, color=colour, label=label, markersize=4)
                column[1].plot(at, spread / mean, style, color=colour, markersize=4)
        eta = [ETA_MAX * (i + 0.5) / form.slices for i in range(len(names))]
        column[2].plot(
            eta, [pairs[name].chi2() for name in names], "o", color="black", markersize=4
        )
        column[2].axhline(1.0, color="grey", linewidth=1)
        column[0].set(title=particle, xscale="log", xlabel="true energy [GeV]")
        column[1].set(xscale="log", yscale="log", xlabel="true energy [GeV]")
        column[2].set(yscale="log", xlabel="eta")
    axes[0, 0].legend(title="eta from", fontsize=8)
    axes[0, 0].set_ylabel("mean visible / true energy\n(lines: simulated, points: generated)")
    axes[1, 0].set_ylabel("relative spread of it")
    axes[2, 0].set_ylabel("chi2/ndf of the best, checked")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--segments", type=int, choices=(15, 300), default=15)
    parser.add_argument("--small", action="store_true", help="a quick look at 15 segments")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="for everything that is written")
    asked = parser.parse_args()
    form = TINY if asked.segments == 300 else SMALL if asked.small else FULL
    folder: Path = asked.folder or Path(f"fast_calo_{form.name}")
    search = campaign(form, folder)
    with (
        LocalCluster(
            n_workers=asked.workers, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        found = search.run(client)
    torch.manual_seed(1)
    pairs = {}
    for name, model in best_models(search, found).items():
        fresh = simulated(name, form.slices, form.events, seed=2)
        pairs[name] = Pair(fresh["energy"], fresh["layers"], generated(model, fresh["energy"]))
    checked = {name: pair.chi2() for name, pair in pairs.items()}
    print(table(found, checked))
    print(f"{len(found.trials)} trials of {len(found.bests)} segments are in {search.path}")
    print(f"median chi2/ndf of the {len(checked)} bests: {np.median(list(checked.values())):.2f}")
    draw(form, pairs, folder / "fast_calo.png")


if __name__ == "__main__":
    main()
