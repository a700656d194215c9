"""A search in one piece: from NanoAOD through a coffea processor to a limit from toys.

Higgs bosons that decay to two muons are looked for where two jets fly far apart.  One Dask client
does everything: it reads the files, fills the histograms, and throws the toys.

    python analysis.py                  files that make_nanoaod.py makes
    python analysis.py --small          fewer of them, for a quick look
    python analysis.py --real FOLDER    Drell-Yan pairs and data of published files: 40 events each,
                                        too few to learn anything from, but real ones

It leaves the workspace, what was done to make it, and a plot.  Needs the extra ``data``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import awkward as ak
import hist
import matplotlib.pyplot as plt
import numpy as np
from coffea import processor
from coffea.nanoevents import NanoAODSchema
from distributed import Client, LocalCluster
from make_nanoaod import EXPECTED, make_files

import hepdask_ml
from hepdask_ml.data.templates.build import Built, build
from hepdask_ml.data.templates.collect import collect

if TYPE_CHECKING:
    from hepdask_ml import Limit

    Regions = Callable[[Any], Mapping[str, Any]]

REAL = {"z": "nano_dy.root", "data": "nano_dimuon.root"}
LOOKS = {"top": ("top quarks", "#f89c20"), "z": ("Drell-Yan", "#5790fc")}


# ---------------------------------------------------------------- the processor


def by_jets(selected: Any) -> dict[str, Any]:
    """Two regions: jets far apart, as the signal has them, and all others."""
    leading = ak.pad_none(selected.Jet, 2)
    first, second = leading[:, 0], leading[:, 1]
    apart = ((first + second).mass > 400.0) & (abs(first.eta - second.eta) > 2.5)
    fusion = ak.fill_none(apart, False)
    return {"fusion": fusion, "other": ~fusion}


def everything(selected: Any) -> dict[str, Any]:
    """One region."""
    return {"dimuons": np.ones(len(selected), bool)}


class Nano(NanoAODSchema):
    """NanoAOD, of which the made files have a few branches only."""

    warn_missing_crossrefs = False


class Dimuons(processor.ProcessorABC):
    """Masses of pairs of muons with opposite charges, by region, process and systematic.

    Of simulated events those with odd numbers count, and the others are left for training.
    """

    def __init__(self, regions: Regions, mass: hist.axis.Regular) -> None:
        self.regions = regions
        self.mass = mass

    def process(self, events: Any) -> Any:
        process = events.metadata["dataset"]
        simulated = process != "data"
        if simulated:
            events = events[events.event % 2 == 1]
        generated = ak.sum(events.genWeight) if simulated else 0.0
        events = events[ak.num(events.Muon) == 2]
        events = events[ak.sum(events.Muon.charge, axis=1) == 0]
        filled: dict[str, hist.Hist] = {}
        for systematic, varied, weight in variations(events, simulated=simulated):
            mass = (varied.Muon[:, 0] + varied.Muon[:, 1]).mass
            for region, inside in self.regions(varied).items():
                filled.setdefault(region, self._histogram()).fill(
                    process=process, systematic=systematic, mass=mass[inside], weight=weight[inside]
                )
        return {"histograms": filled, "generated": {process: generated}}

    def postprocess(self, accumulator: Any) -> Any:
        return accumulator

    def _histogram(self) -> hist.Hist:
        names = [hist.axis.StrCategory([], growth=True, name=n) for n in ("process", "systematic")]
        return hist.Hist(*names, self.mass, storage="weight")


def variations(events: Any, *, simulated: bool) -> Any:
    """Events as they are, and with each systematic: its name, the events, and their weights."""
    weight = ak.to_numpy(events.genWeight) if simulated else np.ones(len(events))
    yield "nominal", events, weight
    if not simulated:
        return
    for side, sign in (("Up", 1.0), ("Down", -1.0)):
        jets, muons = events.Jet, events.Muon
        pileup = np.clip(ak.to_numpy(events.Pileup.nTrueInt) - 35.0, -50.0, 50.0)
        scale = 1.0 + sign * (0.02 + 0.01 * abs(jets.eta))
        shifted = ak.with_field(jets, jets.pt * scale, "pt")
        shifted = ak.with_field(shifted, jets.mass * scale, "mass")
        yield f"jes{side}", ak.with_field(events, shifted, "Jet"), weight
        shifted = ak.with_field(muons, muons.pt * (1.0 + sign * 0.002), "pt")
        yield f"muons{side}", ak.with_field(events, shifted, "Muon"), weight
        yield f"pileup{side}", events, weight * (1.0 + sign * 0.01 * pileup)


# ---------------------------------------------------------------- from files to a limit


def histograms(client: Client, files: Mapping[str, str], work: processor.ProcessorABC) -> Any:
    """Run a processor on files, on the workers of a client."""
    executor = processor.DaskExecutor(client=client, status=False)
    run = processor.Runner(executor, schema=Nano, chunksize=25_000)
    fileset = {process: {"files": {file: "Events"}} for process, file in files.items()}
    return run(fileset, work)


def workspace(found: Any, expected: Mapping[str, float] = EXPECTED, **choices: Any) -> Built:
    """Make a workspace of what the processor gave, for the luminosity of the data."""
    scales = {process: n / found["generated"][process] for process, n in expected.items()}
    templates = collect(found["histograms"], {"scales": scales})
    norms = [
        {"name": "luminosity", "up": 1.016, "down": 0.984},
        {"name": "z_rate", "processes": "z", "up": 1.04, "down": 0.96},
        {"name": "top_rate", "processes": "top", "up": 1.06, "down": 0.94},
    ]
    defaults = {"floor": 0.01, "treatment": {"prune_norm": 0.002, "prune_shape": 0.005}}
    return build(templates, signal="signal", norms=norms, **{**defaults, **choices})


def limit_of(client: Client, made: Built, precision: float) -> Limit:
    """Throw toys on the workers until the limits are known to such a precision."""
    return hepdask_ml.toy_limit(made.workspace, precision=precision).run(client)


def show(limit: Limit) -> None:
    print(f"observed: mu < {limit.observed.value:.2f} +- {limit.observed.error:.2f}")
    print(f"expected: mu < {limit.expected[2].value:.2f} +- {limit.expected[2].error:.2f}")
    for warning in limit.warnings:
        print("warning:", warning)


# ---------------------------------------------------------------- the plot


def draw_region(axes: Any, made: Built, region: str, mass: hist.axis.Regular) -> None:
    """Expected events of each process above each other, and the data."""
    channel = next(each for each in made.workspace["channels"] if each["name"] == region)
    [data] = [np.array(o["data"]) for o in made.workspace["observations"] if o["name"] == region]
    expected = {sample["name"]: np.array(sample["data"]) for sample in channel["samples"]}
    below = np.zeros(len(data))
    edges = np.linspace(mass.edges[0], mass.edges[-1], len(data) + 1)
    for process, (label, colour) in LOOKS.items():
        above = below + expected[process]
        axes.stairs(above, edges, baseline=below, fill=True, color=colour, label=label)
        below = above
    signal = 10.0 * expected["signal"]
    axes.stairs(signal, edges, color="#e42536", linewidth=2, label="signal, times 10")
    middle = (edges[1:] + edges[:-1]) / 2.0
    axes.errorbar(middle, data, np.sqrt(data), fmt="ko", markersize=4, label="data")
    highest = max(*below, *signal, *(data + np.sqrt(data)))
    axes.set(title=region, xlabel=mass.label, ylim=(0.0, 1.5 * highest))


def draw(made: Built, limits: Mapping[str, Limit], mass: hist.axis.Regular) -> Any:
    """Each region, and the limits beside each other."""
    regions = [channel["name"] for channel in made.workspace["channels"]]
    figure, axes = plt.subplots(
        1, len(regions) + 1, figsize=(4.2 * len(regions) + 3.6, 4.0), layout="constrained"
    )
    for one, region in zip(axes, regions, strict=False):
        draw_region(one, made, region, mass)
    axes[0].set_ylabel("events")
    axes[0].legend(loc="upper right", ncols=2, fontsize="small", frameon=False)
    draw_limits(axes[-1], limits)
    return figure


def draw_limits(axes: Any, limits: Mapping[str, Limit]) -> None:
    """The expected limit of each with its bands, and the observed one."""
    for at, limit in enumerate(limits.values()):
        low2, low, middle, high, high2 = (each.value for each in limit.expected)
        side = at + 0.3 * np.array([-1.0, 1.0])
        axes.fill_between(side, low2, high2, color="#ffde7f", label="2 sigma" if at == 0 else None)
        axes.fill_between(side, low, high, color="#607641", label="1 sigma" if at == 0 else None)
        axes.plot(side, [middle] * 2, "k--", label="expected" if at == 0 else None)
        axes.plot(at, limit.observed.value, "ko", label="observed" if at == 0 else None)
    axes.set_xticks(range(len(limits)), limits)
    axes.margins(y=0.4)
    axes.set(ylabel="upper limit on mu", ylim=(0.0, None), xlim=(-0.6, len(limits) - 0.4))
    axes.legend(loc="upper right", ncols=2, fontsize="small", frameon=False)


# ---------------------------------------------------------------- all of it


def local_cluster(*, processes: bool = True) -> LocalCluster:
    """Two workers on this machine; any other cluster of Dask would do."""
    return LocalCluster(
        n_workers=2, threads_per_worker=1, processes=processes, dashboard_address="127.0.0.1:0"
    )


def main(folder: Path, *, small: bool = False, real: Path | None = None) -> None:
    n_events, precision = (20_000, 0.1) if small else (80_000, 0.03)
    mass = hist.axis.Regular(16, 110.0, 142.0, name="mass", label="mass of the two muons [GeV]")
    files = make_files(folder / "files", n_events)
    regions, choices = by_jets, dict[str, Any]()
    if real is not None:
        mass = hist.axis.Regular(6, 60.0, 150.0, name="mass", label=mass.label)
        files, regions = files | {name: str(real / file) for name, file in REAL.items()}, everything
        # So few events leave bins empty that are not known to be, and have no shapes.
        choices = {
            "expected": {"signal": 1.0, "z": 16.0, "top": 4.0},
            "floor": 0.02,
            "treatment": {"form": "normsys"},
        }
    with local_cluster(processes=not small) as cluster, Client(cluster) as client:
        found = histograms(client, files, Dimuons(regions, mass))
        made = workspace(found, **choices)
        print(made.report)
        limit = limit_of(client, made, precision)
    show(limit)
    (folder / "workspace.json").write_text(json.dumps(made.workspace, indent=1))
    (folder / "report.json").write_text(json.dumps(made.report.to_json(), indent=1))
    draw(made, {"cuts": limit}, mass).savefig(folder / "analysis.png", dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--real", type=Path, metavar="FOLDER")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    main(given.folder, small=given.small, real=given.real)
