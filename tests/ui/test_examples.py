"""The examples run, and the example workspace is what its script writes."""

from __future__ import annotations

import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import made_up
import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = made_up.ROOT / "examples"
MUONS = [made_up.DATA / "root" / name for name in ("nano_dimuon.root", "nano_dy.root")]


def test_make_workspace_writes_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "make_workspace.py"
    script.write_bytes((EXAMPLES / "make_workspace.py").read_bytes())
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "workspace.json").read_bytes() == (EXAMPLES / "workspace.json").read_bytes()


def test_limit_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "limit.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("observed: ")
    assert (tmp_path / "limit.png").stat().st_size > 10_000


@pytest.mark.slow
def test_campaign_runs_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        runpy.run_path(str(EXAMPLES / "campaign.py"), run_name="__main__")
    first, second = capsys.readouterr().out.split("observed ")[1:]
    assert first == second
    assert "points are in campaign.ledger" in first


@made_up.real_data
@pytest.mark.slow
@pytest.mark.skipif(not all(map(Path.exists, MUONS)), reason=f"{MUONS[0].parent} is not there")
@pytest.mark.skipif(find_spec("coffea") is None, reason="needs the extra data")
def test_coffea_and_limit_are_one_graph() -> None:
    command = [sys.executable, str(EXAMPLES / "coffea_dimuons.py"), *map(str, MUONS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "observed: 0." in done.stdout


@pytest.mark.slow
def test_the_notebook_runs_and_shows_how_it_goes(tmp_path: Path) -> None:
    (tmp_path / "workspace.json").write_bytes((EXAMPLES / "workspace.json").read_bytes())
    text = (EXAMPLES / "campaign.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells), "strip the outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {
        cell.source.splitlines()[0]: "".join(
            str(output.get("data", output)) for output in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    live = next(text for source, text in shown.items() if source.startswith("campaign = "))
    assert "<svg" in live, "the live view has drawn CLs"
    assert "image/png" in shown["limit.plot()"]
    assert "upper limit on mu_SIG" in shown["limit = running.result()"]
