"""Writes small files of NanoAOD for the examples: Higgs bosons, Drell-Yan pairs, top quarks, data.

The signal are Higgs bosons from the fusion of vector bosons that decay to two muons: two jets that
fly far apart come with them.  Drell-Yan pairs ("z") and pairs of top quarks ("top") are its
backgrounds; the data are these two.  Cross sections, resolutions and shapes are made up.
Run it as ``python make_nanoaod.py FOLDER [EVENTS]``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

Floats = np.ndarray[Any, np.dtype[np.float64]]

EXPECTED = {"signal": 16.0, "z": 8000.0, "top": 1600.0}
"""Events of each process that the luminosity of the data gives, before any selection."""

SIZES = {"signal": 0.25, "z": 1.0, "top": 0.3}
"""Sizes of the simulated files, of the number of events that is asked for."""


def muons(mass: Floats, pt: Floats, rng: np.random.Generator) -> dict[str, Any]:
    """Two muons from each particle of such masses and transverse momenta, in GeV."""
    n = len(mass)
    angle, rapidity = rng.uniform(-np.pi, np.pi, n), rng.normal(0.0, 1.0, n)
    transverse = np.hypot(mass, pt)
    parent = np.stack([pt * np.cos(angle), pt * np.sin(angle), transverse * np.sinh(rapidity)])
    energy = transverse * np.cosh(rapidity)
    cos, phi = rng.uniform(-1.0, 1.0, n), rng.uniform(-np.pi, np.pi, n)
    sin = np.sqrt(1.0 - cos**2)
    at_rest = mass / 2.0 * np.stack([sin * np.cos(phi), sin * np.sin(phi), cos])
    # The Lorentz transformation of momenta, for particles whose masses are small.
    first = at_rest + parent * ((at_rest * parent).sum(axis=0) / (mass * (energy + mass)) + 0.5)
    x, y, z = np.stack([first, parent - first], axis=-1) * rng.normal(1.0, 0.015, (n, 2))
    charge = rng.permuted(np.tile([1, -1], (n, 1)), axis=1).astype("i4")
    found = {"pt": np.hypot(x, y), "eta": np.arcsinh(z / np.hypot(x, y)), "phi": np.arctan2(y, x)}
    found |= {"mass": np.full((n, 2), 0.1057)}
    order = np.argsort(-found["pt"], axis=1)
    in_order = {name: np.take_along_axis(each, order, axis=1) for name, each in found.items()}
    return {name: each.astype("f4") for name, each in in_order.items()} | {"charge": charge}


def jets(process: str, n_events: int, rng: np.random.Generator) -> dict[str, Any]:
    """Jets of each event; the leading two of the signal fly apart, those of top are of b quarks."""
    mean, n_own = {"signal": (0.6, 2), "z": (1.5, 0), "top": (0.6, 2)}[process]
    counts = rng.poisson(mean, n_events) + n_own
    n = int(counts.sum())
    own = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts) < n_own
    pt = 25.0 + rng.exponential(np.where(own, 40.0, 28.0))
    eta = rng.normal(0.0, 1.4 if process == "top" else 2.2, n)
    tag = rng.beta(1.0, 6.0, n)
    if process == "signal":
        side = np.where(np.cumsum(own) % 2, 1.0, -1.0)
        eta = np.where(own, side * rng.normal(2.0, 1.1, n), eta)
    if process == "top":
        tag = np.where(own, rng.beta(2.5, 1.5, n), tag)
    phi = rng.uniform(-np.pi, np.pi, n)
    found = {"pt": pt, "eta": np.clip(eta, -4.7, 4.7), "phi": phi, "mass": 0.12 * pt}
    found |= {"btagDeepFlavB": tag}
    jagged = ak.unflatten(ak.zip({k: each.astype("f4") for k, each in found.items()}), counts)
    jagged = jagged[ak.argsort(jagged.pt, axis=1, ascending=False)]
    return {name: jagged[name] for name in jagged.fields}


def events(process: str, n_events: int, rng: np.random.Generator) -> dict[str, Any]:
    """Events of a process, in the manner of NanoAOD."""
    n = n_events
    mass, pt, met = {
        "signal": lambda: (rng.normal(125.0, 0.1, n), rng.gamma(2.5, 22.0, n), 20.0),
        "z": lambda: (105.0 / rng.uniform(0.65, 1.0, n), rng.gamma(2.0, 18.0, n), 20.0),
        "top": lambda: (rng.uniform(105.0, 160.0, n), rng.gamma(2.0, 30.0, n), 60.0),
    }[process]()
    return {
        "Muon": ak.zip({k: ak.from_regular(v) for k, v in muons(mass, pt, rng).items()}),
        "Jet": ak.zip(jets(process, n, rng)),
        "MET_pt": rng.exponential(met, n).astype("f4"),
        "MET_phi": rng.uniform(-np.pi, np.pi, n).astype("f4"),
        "Pileup_nTrueInt": rng.poisson(35.0, n).astype("f4"),
        "genWeight": np.ones(n, "f4"),
        "run": np.ones(n, "u4"),
        "luminosityBlock": np.ones(n, "u4"),
        "event": np.arange(n, dtype="u8"),
    }


def write(path: Path, *parts: dict[str, Any]) -> str:
    """Write a file of these events."""
    made = {name: ak.concatenate([part[name] for part in parts]) for name in parts[0]}
    with uproot.recreate(path) as file:
        file.mktree("Events", {name: each.type.content for name, each in made.items()})
        file["Events"].extend(made)
    return str(path.absolute())


def make_files(folder: Path, n_events: int = 40_000) -> dict[str, str]:
    """Write a file for each process, and one of data; gives their names."""
    rng = np.random.default_rng(2026)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        process: write(folder / f"{process}.root", events(process, int(size * n_events), rng))
        for process, size in SIZES.items()
    }
    seen = [events(process, rng.poisson(EXPECTED[process]), rng) for process in ("z", "top")]
    return files | {"data": write(folder / "data.root", *seen)}


if __name__ == "__main__":
    print(make_files(Path(sys.argv[1]), *map(int, sys.argv[2:])))
