"""The one command: measures ours and the peers in one run, prints tables, writes JSON.

``python -m tests.benchmarks [--only PART] [--model NAME] [--quick] [--json FILE]``

The parts ``toys``, ``pool`` and ``simulation`` are those of campaigns, ``sites`` that of places to
run, ``search``, ``quality`` and ``checkpoint`` those of searches, ``reading`` that of files of
events; they run when they are asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.footprint import footprint
from benchmarks.minima import misses
from benchmarks.models import CASES, EXAMPLE, MISSING, SBOTTOM, Case
from benchmarks.peers import peers
from benchmarks.pool_overhead import pool_overhead
from benchmarks.reading import reading
from benchmarks.report import Results, about, markdown, rich_table, tables
from benchmarks.search_checkpoint import checkpoint_cost
from benchmarks.search_overhead import LOADS, QUICK_LOADS, asking, overhead
from benchmarks.search_quality import quality
from benchmarks.simulation import plot, simulation
from benchmarks.site_share import absent, site_share
from benchmarks.speed import speed
from benchmarks.toys_needed import toys_needed
from made_up import ROOT
from rich.console import Console

from hepdask_ml.likelihood.fit import available_processors
from hepdask_ml.likelihood.kernels import instruction_set

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = ("speed", "peers", "minima", "footprint")
CAMPAIGN_PARTS = ("toys", "pool", "simulation", "sites")
SEARCH_PARTS = ("search", "quality", "checkpoint")
DATA_PARTS = ("reading",)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure."""

    seconds: float = 1.5
    repetitions: int = 3
    budget_s: float = 10.0
    minima_toys: int = 1000
    memory_toys: int = 1_000_000
    precision: float = 0.02
    seeds: int = 4
    searches: int = 20


QUICK = Effort(
    seconds=0.02,
    repetitions=1,
    budget_s=0.5,
    minima_toys=100,
    memory_toys=10_000,
    precision=0.2,
    seeds=1,
    searches=2,
)


def measured(
    parts: Sequence[str],
    cases: Sequence[Case],
    effort: Effort,
    console: Console,
    runs: Path | None = None,
    events: int | None = None,
) -> Results:
    """Measure some parts of some cases, and say what is being done."""
    machine = {**_machine(), "load_before": _load()}
    results = Results(machine)
    for case in cases:
        if "speed" in parts:
            console.print(f"{case.name}: ours")
            results.speed[case.name] = speed(case, effort.seconds, effort.repetitions)
        if "peers" in parts:
            console.print(f"{case.name}: peers")
            results.peers[case.name] = peers(case, effort.budget_s)
    # Other models have one minimum; where none of the published ones is there, it is tried on them.
    for case in [case for case in cases if case in SBOTTOM] or cases:
        if "minima" in parts:
            console.print(f"{case.name}: minima")
            results.minima[case.name] = misses(case, effort.minima_toys)
    if "footprint" in parts:
        console.print("start-up, memory, summary")
        results.footprint.extend(footprint(effort.memory_toys, build=effort is not QUICK))
    _measure_campaigns(results, parts, effort, console)
    _measure_searches(results, parts, effort, console, runs)
    if "reading" in parts:
        results.reading.append(reading(quick=effort is QUICK, say=console.print, events=events))
    machine["load_after"] = _load()
    return results


def _measure_campaigns(
    results: Results, parts: Sequence[str], effort: Effort, console: Console
) -> None:
    cases = (EXAMPLE,) if effort is QUICK else (EXAMPLE, *SBOTTOM)
    for case in cases if "toys" in parts else ():
        console.print(f"{case.name}: toys needed")
        results.toys[case.name] = toys_needed(case, effort.precision, effort.seeds)
    if "pool" in parts:
        console.print("pool")
        results.pool.extend(pool_overhead(quick=effort is QUICK))
    if "simulation" in parts:
        console.print("simulation")
        outcomes, variants = simulation(quick=effort is QUICK)
        results.simulation.extend(outcomes)
        results.variants.extend(variants)
    if "sites" in parts:
        console.print(f"skipped {fault}" if (fault := absent()) else "sites")
        results.sites.extend([] if fault else site_share(quick=effort is QUICK, say=console.print))


def _measure_searches(
    results: Results, parts: Sequence[str], effort: Effort, console: Console, runs: Path | None
) -> None:
    quick = effort is QUICK
    if "quality" in parts:
        console.print("quality of searches")
        results.quality.extend(
            quality(
                quick=quick,
                seeds=effort.searches,
                runs=runs,
                processes=1 if quick else available_processors(),
                say=console.print,
            )
        )
    if "search" in parts:
        console.print("searches")
        results.asking.extend(asking(quick=quick))
        results.search.extend(overhead(QUICK_LOADS if quick else LOADS, console.print))
    if "checkpoint" in parts:
        console.print("checkpoints")
        results.checkpoint.extend(checkpoint_cost(quick=quick))


def _machine() -> dict[str, Any]:
    versions = {}
    for name in (
        "hepdask-ml", "numpy", "pyhf", "jax", "nextstat", "distributed", "dask-jobqueue",
        "scikit-optimize", "scikit-learn", "optuna", "cmaes", "torch", "uproot", "awkward",
        "cramjam", "coffea",
    ):  # fmt: skip
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": available_processors(),
        "instructions": instruction_set(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _load() -> tuple[float, ...]:
    return os.getloadavg() if hasattr(os, "getloadavg") else (float("nan"),) * 3


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        choices=[*PARTS, *CAMPAIGN_PARTS, *SEARCH_PARTS, *DATA_PARTS],
        help="measure this part; gpu runs by itself: --only gpu --help",
    )
    parser.add_argument(
        "--model",
        action="append",
        choices=[case.name for case in CASES],
        help="measure only this model",
    )
    parser.add_argument("--budget", type=float, help="seconds for each peer and model")
    parser.add_argument("--quick", action="store_true", help="see whether everything runs")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--runs", type=Path, help="keep searches in this file, make none again")
    parser.add_argument("--events", type=int, help="of the files that reading makes: 1,000,000")
    parser.add_argument("--plots", type=Path, help="draw the simulation into this folder")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run the command."""
    chosen = _arguments(arguments)
    effort = QUICK if chosen.quick else Effort(budget_s=chosen.budget or Effort().budget_s)
    cases = [case for case in CASES if not chosen.model or case.name in chosen.model]
    console = Console()
    for line in MISSING:
        console.print(f"skipped {line}")
    results = measured(
        chosen.only or PARTS, cases, effort, Console(stderr=True), chosen.runs, chosen.events
    )
    # As wide as the tables need: a narrow terminal or a file wraps lines and not cells.
    wide = Console(width=max(console.width, 200))
    for table in tables(results):
        wide.print(rich_table(table))
    console.print(about(results.machine), highlight=False)
    if chosen.json:
        chosen.json.write_text(json.dumps(asdict(results), indent=1) + "\n")
    if chosen.markdown:
        chosen.markdown.write_text(markdown(results))
    if chosen.plots and results.simulation:
        figure = plot(results.simulation)
        figure.savefig(chosen.plots / "simulation.svg")
    return results


if __name__ == "__main__":
    main()
