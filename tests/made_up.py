"""Workspaces of the tests' own making, and where the published ones lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Workspace = dict[str, Any]
Modifier = dict[str, Any]

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HEPDASK_ML_DATA", ROOT.parent / "shared" / "data"))
PUBLISHED = {
    "sbottom A": DATA / "workspaces" / "sbottom_1300_205_60_regionA.json",
    "sbottom C": DATA / "workspaces" / "sbottom_900_550_60_regionC.json",
}
ARCHIVE = DATA / "workspaces" / "ins1748602-probability-models.tar.gz"

real_data = pytest.mark.real_data
published = pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            marks=[
                real_data,
                pytest.mark.skipif(not path.exists(), reason=f"{path} is not there"),
            ],
        )
        for path in PUBLISHED.values()
    ],
    ids=list(PUBLISHED),
)

MU: Modifier = {"name": "mu", "type": "normfactor", "data": None}


def factor(name: str) -> Modifier:
    return {"name": name, "type": "normfactor", "data": None}


def normsys(name: str, low: float, high: float) -> Modifier:
    return {"name": name, "type": "normsys", "data": {"lo": low, "hi": high}}


def histosys(name: str, low: list[float], high: list[float]) -> Modifier:
    return {"name": name, "type": "histosys", "data": {"lo_data": low, "hi_data": high}}


def per_bin(kind: str, name: str, widths: list[float]) -> Modifier:
    return {"name": name, "type": kind, "data": widths}


def sample(name: str, data: list[float], *modifiers: Modifier) -> dict[str, Any]:
    return {"name": name, "data": data, "modifiers": list(modifiers)}


def workspace(
    channels: dict[str, list[dict[str, Any]]],
    observed: dict[str, list[float]],
    *,
    parameters: list[dict[str, Any]] | None = None,
    poi: str = "mu",
) -> Workspace:
    config = {"poi": poi, "parameters": parameters or []}
    return {
        "channels": [{"name": name, "samples": items} for name, items in channels.items()],
        "observations": [{"name": name, "data": data} for name, data in observed.items()],
        "measurements": [{"name": "measurement", "config": config}],
        "version": "1.0.0",
    }


def counting(signal: float = 5.0, background: float = 10.0, observed: float = 9.0) -> Workspace:
    """One bin without nuisance parameters."""
    return workspace(
        {"c": [sample("s", [signal], MU), sample("b", [background])]}, {"c": [observed]}
    )


def one_bin() -> Workspace:
    """One bin with one rate uncertainty."""
    return workspace(
        {"c": [sample("s", [5.0], MU), sample("b", [10.0], normsys("sys", 0.9, 1.1))]},
        {"c": [9.0]},
    )


def two_bins() -> Workspace:
    """The uncorrelated background of pyhf.simplemodels."""
    background = sample("b", [50.0, 52.0], per_bin("shapesys", "uncorrelated", [3.0, 7.0]))
    return workspace({"c": [sample("s", [12.0, 11.0], MU), background]}, {"c": [51.0, 48.0]})


def correlated() -> Workspace:
    """The correlated background of pyhf.simplemodels."""
    background = sample("b", [50.0, 52.0], histosys("shape", [45.0, 57.0], [55.0, 47.0]))
    return workspace({"c": [sample("s", [12.0, 11.0], MU), background]}, {"c": [51.0, 48.0]})


def control_region() -> Workspace:
    """A free background normalisation from a control region, with simulation statistics."""
    return workspace(
        {
            "sr": [
                sample("s", [1.0, 3.0], MU, per_bin("staterror", "mc_sr", [0.1, 0.2])),
                sample(
                    "b",
                    [9.0, 3.0],
                    factor("mu_b"),
                    normsys("sys", 0.85, 1.2),
                    per_bin("staterror", "mc_sr", [0.6, 0.4]),
                ),
            ],
            "cr": [sample("b", [90.0], factor("mu_b"), normsys("sys", 0.95, 1.04))],
        },
        {"sr": [11.0, 2.0], "cr": [97.0]},
    )


def one_sided() -> Workspace:
    """One-sided and same-sided uncertainties in few bins: several minima."""
    return workspace(
        {
            "sr": [
                sample("s", [0.5, 2.0], MU, normsys("a", 0.9, 1.1)),
                sample(
                    "b",
                    [6.0, 3.0],
                    normsys("a", 1.0, 1.3),
                    normsys("b", 0.75, 0.8),
                    histosys("c", [6.0, 3.0], [7.5, 2.0]),
                    per_bin("staterror", "mc", [0.3, 0.3]),
                ),
                sample("d", [2.0, 1.0], normsys("b", 1.2, 1.0), histosys("a", [2, 1], [3, 0.6])),
            ]
        },
        {"sr": [7.0, 6.0]},
    )


def data_driven() -> Workspace:
    """A background shape that two channels share through a shapefactor."""
    parameters = [{"name": "mu", "bounds": [[0.0, 20.0]], "inits": [1.0]}]
    return workspace(
        {
            "cr": [sample("qcd", [100.0, 60.0, 20.0], {**factor("shape"), "type": "shapefactor"})],
            "sr": [
                sample("qcd", [10.0, 6.0, 2.0], {**factor("shape"), "type": "shapefactor"}),
                sample("s", [0.5, 1.0, 2.0], MU),
            ],
        },
        {"cr": [104.0, 55.0, 24.0], "sr": [11.0, 6.0, 4.0]},
        parameters=parameters,
    )


def luminosity() -> Workspace:
    """A luminosity uncertainty, a constant parameter, and custom settings."""
    parameters: list[dict[str, Any]] = [
        {
            "name": "lumi",
            "auxdata": [1.0],
            "sigmas": [0.03],
            "bounds": [[0.5, 1.5]],
            "inits": [1.0],
        },
        {"name": "frozen", "inits": [0.4], "fixed": True},
        {"name": "sys", "inits": [0.1], "bounds": [[-3.0, 3.0]], "auxdata": [0.2]},
    ]
    lumi = {"name": "lumi", "type": "lumi", "data": None}
    background = sample(
        "b", [20.0, 0.0, 8.0], lumi, normsys("frozen", 0.9, 1.2), normsys("sys", 0.8, 1.2)
    )
    return workspace(
        {"c": [sample("s", [4.0, 2.0, 1.0], MU, lumi), background]},
        {"c": [22.0, 1.0, 8.0]},
        parameters=parameters,
    )


def many_channels(n: int = 12) -> Workspace:
    """``n`` channels of four bins with a Poisson-constrained gamma in each."""
    return workspace(
        {
            f"c{i:02d}": [
                sample("s", [1.0, 2.0, 3.0, 1.0], MU),
                sample(
                    "b",
                    [50.0 + i, 52.0, 30.0, 20.0],
                    per_bin("shapesys", f"gamma_{i}", [3.0, 7.0, 4.0, 3.0]),
                ),
            ]
            for i in range(n)
        },
        {f"c{i:02d}": [51.0 + i, 50.0, 33.0, 18.0] for i in range(n)},
    )


def many_systematics(n_bins: int = 20, n_systematics: int = 10, n_samples: int = 3) -> Workspace:
    """Correlated normsys and histosys in every sample, made with a fixed seed."""
    rng = np.random.default_rng(5)
    shape = 100.0 * np.exp(-3.0 * np.arange(n_bins) / n_bins)
    centre = np.exp(-0.5 * ((np.arange(n_bins) - 0.6 * n_bins) / (0.05 * n_bins)) ** 2)
    samples = [sample("signal", (5.0 * centre + 0.05).tolist(), MU)]
    total = np.zeros(n_bins)
    for i in range(n_samples):
        nominal = shape * rng.uniform(0.2, 1.0)
        total += nominal
        modifiers = []
        for k in range(n_systematics):
            size = rng.uniform(0.01, 0.08)
            tilt = size * np.linspace(-1.0, 1.0, n_bins)
            modifiers.append(normsys(f"sys{k}", 1.0 - size, 1.0 + 1.2 * size))
            modifiers.append(
                histosys(
                    f"sys{k}", (nominal * (1 - tilt)).tolist(), (nominal * (1 + tilt)).tolist()
                )
            )
        samples.append(sample(f"background{i}", nominal.tolist(), *modifiers))
    return workspace({"c": samples}, {"c": rng.poisson(total).astype(float).tolist()})


def dense_systematics() -> Workspace:
    """180 parameters in 40 bins: 177 correlated uncertainties, most of them in most samples.

    Two signal regions and a control region for each of the two backgrounds whose normalisation is
    free, of ten bins each.  Every tenth shape is one-sided.  Made with a fixed seed.
    """
    rng = np.random.default_rng(7)
    n_bins, names = 10, [f"sys{k:03d}" for k in range(177)]
    peak = np.exp(-0.5 * ((np.arange(n_bins) - 6.0) / 2.0) ** 2)
    regions = {  # expected signal and backgrounds
        "sr1": (8.0, (24.0, 15.0, 12.0, 6.0, 3.0)),
        "sr2": (5.0, (45.0, 45.0, 30.0, 15.0, 15.0)),
        "cr1": (0.5, (1600.0, 200.0, 100.0, 60.0, 40.0)),
        "cr2": (0.2, (500.0, 3750.0, 500.0, 150.0, 100.0)),
    }
    channels, observed = {}, {}
    for name, (signal, backgrounds) in regions.items():
        samples = [_dense_sample(rng, "signal", signal * peak / peak.sum(), [MU], names[:60])]
        total = np.zeros(n_bins)
        for i, expected in enumerate(backgrounds):
            falling = np.exp(-(0.5 + 0.5 * i) * np.arange(n_bins) / n_bins)
            nominal = expected * falling / falling.sum() * rng.uniform(0.9, 1.1, n_bins)
            own = [factor(f"norm{i}")] if i < 2 else []
            samples.append(_dense_sample(rng, f"background{i}", nominal, own, names))
            total += nominal
        channels[name], observed[name] = samples, rng.poisson(total).astype(float).tolist()
    return workspace(channels, observed)


def _dense_sample(
    rng: np.random.Generator,
    name: str,
    nominal: np.ndarray[Any, np.dtype[np.float64]],
    own: list[Modifier],
    systematics: list[str],
) -> dict[str, Any]:
    modifiers = list(own)
    position = np.linspace(-1.0, 1.0, len(nominal))
    for k, systematic in enumerate(systematics):
        if rng.uniform() < 0.7:
            size = rng.uniform(0.002, 0.04)
            modifiers.append(normsys(systematic, 1.0 - size, 1.0 + rng.uniform(0.7, 1.3) * size))
        if rng.uniform() < 0.5:
            shape = rng.uniform(0.002, 0.04) * (position * rng.choice([-1.0, 1.0]) + 0.2)
            low = nominal * (1.0 - shape) if k % 10 else nominal
            modifiers.append(histosys(systematic, low.tolist(), (nominal * (1 + shape)).tolist()))
    return sample(name, nominal.tolist(), *modifiers)


MADE_UP = {
    "counting": counting(),
    "one bin": one_bin(),
    "two bins": two_bins(),
    "correlated": correlated(),
    "control region": control_region(),
    "one-sided": one_sided(),
    "data-driven": data_driven(),
    "luminosity": luminosity(),
    "many channels": many_channels(),
    "many systematics": many_systematics(),
}
