"""``--engine``: what the command line says of it, and does with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import made_up
import pytest
from click.testing import CliRunner, Result
from made_up_gpu import NAME, made_up_gpu

from hepdask_ml.inference.engines import ENGINES
from hepdask_ml.ui import cli, site_view
from hepdask_ml.ui.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from made_up_gpu import MadeUpGpu

FEW = ["--toys", "60", "--scan", "0.5:4:3"]
ON_GPU = f"engine: GPU, {NAME} (as asked for)"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "workspace.json"
    path.write_text(json.dumps(made_up.control_region()), encoding="utf-8")
    return path


@pytest.fixture
def gpu() -> Iterator[MadeUpGpu]:
    with made_up_gpu() as made_up_card:
        yield made_up_card


def said(result: Result) -> str:
    """Give what was said on standard error, in one line."""
    return " ".join(result.stderr.split())


@pytest.mark.parametrize("command", [["limit", *FEW], ["hypotest", "--mu", "1", "--toys", "60"]])
def test_the_engine_is_used_and_told(gpu: MadeUpGpu, workspace: Path, command: list[str]) -> None:
    name, *options = command
    result = run(name, workspace, *options, "--engine", "gpu")
    assert result.exit_code == 0, result.output
    assert ON_GPU in said(result)
    assert gpu.launches
    launches = len(gpu.launches)
    other = run(name, workspace, *options, "--engine", "cpu")
    assert "engine: CPU, " in said(other)
    assert len(gpu.launches) == launches
    assert other.stdout == result.stdout


@pytest.mark.usefixtures("gpu")
def test_documents_do_not_depend_on_it(workspace: Path, tmp_path: Path) -> None:
    for engine in ("cpu", "gpu"):
        result = run(
            "limit", workspace, *FEW, "--engine", engine, "--json", "-o", tmp_path / engine
        )
        assert (tmp_path / engine / "limit.json").read_text(encoding="utf-8") == result.stdout
        told = json.loads((tmp_path / engine / "run.json").read_text(encoding="utf-8"))
        assert f"engine: {told['engine']}" in said(result)
    one, other = (tmp_path / engine / "limit.json" for engine in ("cpu", "gpu"))
    assert json.loads(one.read_text())["limits"] == json.loads(other.read_text())["limits"]


@pytest.mark.usefixtures("gpu")
def test_quiet_says_nothing_of_it(workspace: Path) -> None:
    assert "engine" not in run("limit", workspace, *FEW, "--engine", "gpu", "--quiet").stderr


def test_without_a_gpu_auto_says_why(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hepdask_ml.likelihood.kernels_gpu.unusable", lambda: "there is none")
    result = run("limit", workspace, *FEW)
    assert "(no GPU can be used, for there is none)" in said(result)


@pytest.mark.parametrize("more", [[], ["--ledger", "a.ledger"]])
def test_a_gpu_that_is_not_there_is_one_sentence(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hepdask_ml.likelihood.kernels_gpu.unusable", lambda: "there is none")
    if more:  # its workers are other processes, without a GPU wherever the tests run
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = run("limit", workspace, *FEW, "--engine", "gpu", "--threads", 1, *more)
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("Error: ")
    assert "the engine gpu was asked for, but " in result.stderr


def test_another_engine_is_refused(workspace: Path) -> None:
    result = run("limit", workspace, "--engine", "cuda")
    assert result.exit_code == 2
    assert "'auto', 'cpu', 'gpu'" in result.stderr


@pytest.mark.usefixtures("gpu")
def test_a_campaign_tells_what_was_asked_of_its_workers(workspace: Path) -> None:
    result = run("limit", workspace, "--precision", "0.3", "--engine", "gpu")
    assert result.exit_code == 0, result.output
    assert "engine: GPU of each worker (as asked for)" in said(result)


def settings(folder: Path, engine: str) -> Path:
    path = folder / "campaign.yaml"
    path.write_text(
        "kind: toy-limit\nmodel: {workspace: workspace.json}\nledger: my.ledger\n"
        f"limit: {{scan: '1,2', toys: 60, engine: {engine}}}\nsite: {{kind: local, workers: 1}}\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize(
    ("option", "expected"), [([], "CPU of each worker"), (["--engine", "auto"], "CPU or GPU, as")]
)
def test_run_takes_it_from_the_file_or_the_command(
    workspace: Path, option: list[str], expected: str
) -> None:
    config = settings(workspace.parent, "cpu")
    result = run("run", config, *option)
    assert result.exit_code == 0, result.output
    assert f"engine: {expected}" in said(result)
    ledger = workspace.parent / "my.ledger"
    assert expected in run("status", ledger).stdout
    assert json.loads(run("status", ledger, "--json").stdout)["engine"] == (
        option[1] if option else "cpu"
    )
    folder = workspace.parent / "report"
    assert run("report", ledger, "-o", folder).exit_code == 0
    assert f"<th scope='row'>engine</th><td>{expected}" in (folder / "report.html").read_text(
        encoding="utf-8"
    )


def test_the_shell_completes_it() -> None:
    environment = {**os.environ, "_HEPDASK_ML_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": "hepdask-ml limit a.json --engine g", "COMP_CWORD": "4"}
    code = "from hepdask_ml.ui.cli import main; main(prog_name='hepdask-ml')"
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "plain,gpu"


def test_the_list_of_engines_is_that_of_the_package() -> None:
    assert cli._ENGINES == ENGINES


@pytest.mark.parametrize(
    ("cupy", "words"), [(True, "can use them"), (False, "cannot use them without CuPy")]
)
def test_a_checked_site_tells_whether_toys_can_use_its_gpus(cupy: bool, words: str) -> None:
    card = {"name": "NVIDIA A100", "memory_bytes": 40e9}
    cell = site_view._gpus({"seen": [card, card], "driver": "550.54", "cupy": cupy, "asked": 2})
    assert cell == f"2 NVIDIA A100, 40 GB; driver 550.54; toys {words}"
