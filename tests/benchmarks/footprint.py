"""Start-up, compilation, memory, and the time to summarise toys: all but the fits."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.models import CASES
from made_up import ROOT, two_bins

from hepdask_ml import compile_model
from hepdask_ml.inference.pvalues import cls_value, expected_cls, p_value

if TYPE_CHECKING:
    from collections.abc import Callable

REPETITIONS = 5


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measured number, its unit, and the aim for it."""

    name: str
    value: float
    unit: str
    aim: float | None = None


def footprint(toys: int, *, build: bool) -> list[Quantity]:
    """Measure everything; ``toys`` is the larger number of toys, compared with a tenth of it."""
    return [*start_up(), *(built() if build else []), *compiled(), *memory(toys), summary(toys)]


def start_up() -> list[Quantity]:
    """Wall time of fresh processes, whose files the operating system holds in memory."""
    example = str(ROOT / "examples" / "workspace.json")
    cli = ["-m", "hepdask_ml"]
    few = [*cli, "hypotest", example, "--mu", "1", "--toys", "100"]
    return [
        Quantity("bare interpreter", _process_s(["-c", "pass"]), "s"),
        Quantity("import hepdask_ml", _process_s(["-c", "import hepdask_ml"]), "s", 0.3),
        Quantity("hepdask-ml limit --help", _process_s([*cli, "limit", "--help"]), "s", 0.7),
        Quantity("hepdask-ml hypotest, 100 toys", _process_s(few), "s", 0.7),
    ]


def built() -> list[Quantity]:
    """Time to compile the engine, as an installation from source does; needs the build's tools."""
    if find_spec("hatchling") is None:
        return []
    build = run_path(str(ROOT / "hatch_build.py"))
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, f"engine{build['SUFFIX']}")
        took = _median_s(lambda: build["build_library"](ROOT / build["NATIVE"], library), 1)
    return [Quantity("engine compiled", took, "s", 10.0)]


def compiled() -> list[Quantity]:
    """Time to compile the largest workspace that is there."""
    workspace = CASES[-1].workspace()
    took = _median_s(lambda: compile_model(workspace), REPETITIONS)
    return [Quantity(f"compile_model, {CASES[-1].name}", took, "s")]


def memory(toys: int) -> list[Quantity]:
    """Peak resident memory with ``toys`` toys of each hypothesis and with a tenth of them."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder, "workspace.json")
        workspace.write_text(json.dumps(two_bins()))
        script = str(Path(__file__).with_name("memory.py"))
        few, many = (
            json.loads(_output([script, str(workspace), str(n)])) for n in (toys // 10, toys)
        )
    per_toy = (many["peak_bytes"] - few["peak_bytes"]) / (2 * (toys - toys // 10))
    return [
        Quantity(f"peak memory, 2 x {toys // 10} toys", few["peak_bytes"] / 1e6, "MB"),
        Quantity(f"peak memory, 2 x {toys} toys", many["peak_bytes"] / 1e6, "MB"),
        Quantity("memory for each further toy", per_toy, "bytes"),
        Quantity(f"test with 2 x {toys} toys", many["seconds"], "s"),
    ]


def summary(toys: int) -> Quantity:
    """Time from the test statistics of ``toys`` toys to CLs and its bands."""
    rng = np.random.default_rng(1)
    q_sb, q_b = (np.maximum(rng.normal(mean, 1.0, toys // 2), 0.0) ** 2 for mean in (0.0, 1.5))

    def summarise() -> None:
        cls_value(p_value(q_sb, 2.0), p_value(q_b, 2.0))
        expected_cls(q_sb, q_b)

    took = _median_s(summarise, REPETITIONS)
    return Quantity(f"{toys} toys summarised", took, "s", 1.0)


def _process_s(arguments: list[str]) -> float:
    _output(arguments)  # fills the caches
    return _median_s(lambda: _output(arguments), REPETITIONS)


def _output(arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout


def _median_s(work: Callable[[], object], repetitions: int) -> float:
    took = []
    for _ in range(repetitions):
        began = perf_counter()
        work()
        took.append(perf_counter() - began)
    return median(took)
