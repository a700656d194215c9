"""Measures the GPU's engine and the CPU's beside it, in one run on one machine.

``python -m tests.benchmarks --only gpu [--model NAME] [--quick] [--sweep] [--predict]
[--json FILE] [--markdown FILE]``

`benchmarks.gpu_machine` does the same where nothing can be downloaded.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.gpu_ceilings import ceilings
from benchmarks.gpu_report import Results, about, counted_tables, markdown, tables
from benchmarks.gpu_speed import speed, sweep
from benchmarks.gpu_work import Work, work
from benchmarks.models import GPU_CASES, MISSING, Case, prepared
from benchmarks.report import Table, rich_table
from gpu.emulator import system_compiler
from rich.console import Console

from hepdask_ml import __version__
from hepdask_ml.errors import GpuError
from hepdask_ml.likelihood import device, kernels_gpu
from hepdask_ml.likelihood.fit import available_processors
from hepdask_ml.likelihood.kernels import instruction_set

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure, and how many toys to count on."""

    seconds: float = 2.0
    repetitions: int = 3
    counted_toys: int = 100
    sweep_seconds: float = 0.3
    ceilings: float = 1.0


QUICK = Effort(0.02, 1, 10, 0.01, 1e-4)


def counted(cases: Sequence[Case], effort: Effort) -> dict[str, Work]:
    """Count what a toy of each case costs, on this processor."""
    found = {}
    with TemporaryDirectory() as folder:
        for case in cases:
            Console(stderr=True).print(f"{case.name}: counted")
            found[case.name] = work(prepared(case), effort.counted_toys, Path(folder))
    return found


def measure(
    results: Results, cases: Sequence[Case], effort: Effort, *, swept: bool, written: Path | None
) -> None:
    """Measure some cases, say what is being done, and write down each one's numbers at once."""
    cupy, say = import_module("cupy"), Console(stderr=True)
    for case in cases:
        say.print(f"{case.name}: GPU and CPU")
        at = prepared(case)
        try:
            found = speed(cupy, at, effort.seconds, effort.repetitions)
            results.speed[case.name] = found
            if not found.agreement.holds:
                results.failed.append(f"{case.name}: the engines do not agree.")
            if swept:
                say.print(f"{case.name}: other ways to divide the device")
                usual = found.split.toys_per_s
                results.sweep[case.name] = list(sweep(at, effort.sweep_seconds, usual))
        except GpuError as error:
            results.failed.append(f"{case.name}: {error}.")
        if written:
            written.write_text(json.dumps(asdict(results), indent=1) + "\n")


def _machine(cupy: Any) -> dict[str, Any]:
    runtime = cupy.cuda.runtime
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "GPU": kernels_gpu.device_name(),
        "driver": runtime.driverGetVersion(),
        "runtime": runtime.runtimeGetVersion(),
        "NVRTC": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
        "CuPy": cupy.__version__,
        "cores": available_processors(),
        "processor": names[0] if names else platform.machine(),
        "instructions": instruction_set(),
        "Python": platform.python_version(),
        "numpy": np.__version__,
        "hepdask-ml": __version__,
        "kernels": sha256(device.source().encode()).hexdigest()[:12],
    }


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.benchmarks --only gpu", description=__doc__)
    parser.add_argument("--only", choices=["gpu"], help="this part, which runs by itself")
    parser.add_argument(
        "--model",
        action="append",
        choices=[case.name for case in GPU_CASES],
        help="measure only this model",
    )
    parser.add_argument("--quick", action="store_true", help="see whether everything runs")
    parser.add_argument(
        "--sweep", action="store_true", help="try other teams and shares of the shared memory"
    )
    parser.add_argument(
        "--predict", action="store_true", help="only count and predict, which needs no GPU"
    )
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the command; gives what went wrong, in words, or nothing."""
    chosen = _arguments(arguments)
    if not system_compiler():
        return "there is no C++ compiler, which counts the operations: install g++ or set CXX"
    effort = QUICK if chosen.quick else Effort()
    cases = [case for case in GPU_CASES if not chosen.model or case.name in chosen.model]
    if chosen.predict:
        _print(counted_tables(counted(cases, effort)))
        return ""
    if reason := kernels_gpu.unusable():
        return f"nothing can be measured on a GPU, for {reason}"
    for line in MISSING:
        Console().print(f"skipped {line}")
    try:
        with device.opened("measuring its ceilings") as cupy:
            results = Results(_machine(cupy), ceilings(cupy, effort.ceilings))
    except GpuError as error:
        return str(error)
    results.work.update(counted(cases, effort))
    measure(results, cases, effort, swept=chosen.sweep, written=chosen.json)
    _print(tables(results))
    Console().print(about(results.machine), highlight=False)
    if chosen.markdown:
        chosen.markdown.write_text(markdown(results))
    return "\n".join(results.failed)


def _print(made: Sequence[Table]) -> None:
    # As wide as the tables need: a narrow terminal or a file wraps lines and not cells.
    wide = Console(width=max(Console().width, 200))
    for table in made:
        wide.print(rich_table(table))


if __name__ == "__main__":
    sys.exit(main() or 0)
