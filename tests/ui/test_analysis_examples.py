"""The examples of a whole analysis run, from files that they make to limits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import made_up
import nbformat
import pyhf
import pytest
from nbclient import NotebookClient

EXAMPLES = made_up.ROOT / "examples"
REAL = made_up.DATA / "root"
LIMITS = re.compile(r"(observed|expected): mu < ([\d.]+) \+- ([\d.]+)")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("coffea") is None, reason="needs the extra data"),
]


def run(script: str, folder: Path, *options: str) -> str:
    command = [sys.executable, str(EXAMPLES / script), "--small", "--folder", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def limits(said: str) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value, _ in LIMITS.findall(said)]


@pytest.fixture
def minuit() -> Iterator[None]:
    """Have pyhf fit by minuit, which takes a tenth of the time here."""
    pyhf.set_backend("numpy", "minuit")
    yield
    pyhf.set_backend("numpy", "scipy")


def asymptotic(workspace: Any, mu: float) -> tuple[float, float]:
    """CLs of pyhf, observed and expected."""
    spec = pyhf.Workspace(workspace)
    model = spec.model()
    bounds = model.config.suggested_bounds()
    bounds[model.config.poi_index] = (0.0, 30.0)
    observed, expected = pyhf.infer.hypotest(
        mu, spec.data(model), model, par_bounds=bounds, return_expected_set=True
    )
    return float(observed), float(expected[2])


@pytest.mark.usefixtures("minuit")
def test_the_analysis_finds_limits_near_those_of_pyhf(tmp_path: Path) -> None:
    found = dict(limits(run("analysis.py", tmp_path)))
    workspace = json.loads((tmp_path / "workspace.json").read_text())
    assert asymptotic(workspace, found["observed"])[0] == pytest.approx(0.05, abs=0.02)
    assert asymptotic(workspace, found["expected"])[1] == pytest.approx(0.05, abs=0.02)
    assert json.loads((tmp_path / "report.json").read_text())["digest"]
    assert (tmp_path / "analysis.png").stat().st_size > 20_000


@made_up.real_data
@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not there")
def test_the_analysis_takes_real_files(tmp_path: Path) -> None:
    found = dict(limits(run("analysis.py", tmp_path, "--real", str(REAL))))
    assert found["observed"] > 0.0


@pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra train")
def test_the_limit_is_better_with_the_classifier(tmp_path: Path) -> None:
    (_, _), (_, by_cuts), (_, _), (_, by_score) = limits(run("classifier.py", tmp_path))
    assert by_score < 0.85 * by_cuts
    assert (tmp_path / "classifier.png").stat().st_size > 20_000


def test_the_notebook_goes_from_files_to_a_limit(tmp_path: Path) -> None:
    for name in ("analysis.py", "make_nanoaod.py"):
        (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    text = (EXAMPLES / "analysis.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells), "strip the outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {
        cell.source.splitlines()[-1]: "".join(map(str, cell.outputs))
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    assert "2 channels, 3 processes, 3 systematics" in shown["templates"]
    assert "upper limit on mu" in shown["limit"]
    assert "image/png" in shown['draw(made, {"cuts": limit}, mass)']
