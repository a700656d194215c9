"""Projects of phpo on the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hepdask_ml.ui.cli import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "phpo"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example, in which somebody works."""
    folder = tmp_path / "project"
    shutil.copytree(EXAMPLE, folder)
    monkeypatch.chdir(folder)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["phpo", "--loadJson", "config.json", *arguments])


@pytest.mark.slow
def test_an_unchanged_project_runs_with_one_command(project: Path) -> None:
    unchanged = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    command = [sys.executable, "-m", "hepdask_ml", "phpo", "--loadJson", "config.json", "--json"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONWARNINGS": "ignore"}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    trials = found["trials"]
    assert [(trial["segment"], trial["number"]) for trial in trials] == [
        (segment, number) for segment in ("barrel", "endcap") for number in range(6)
    ]
    assert {trial["state"] for trial in trials} == {"complete"}
    assert all(path.read_bytes() == content for path, content in unchanged.items())
    assert len(list((project / "phpo.output").glob("*.metrics.*"))) == 12
    again = run("--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["trials"] == trials


def test_nothing_is_run_where_nothing_is_to_be_submitted(project: Path) -> None:
    result = run("--set", "noSubmit=true", "--set", "site=ANALY_GPU")
    assert result.exit_code == 0
    assert "site is not used here" in result.stderr
    assert "nothing was run" in result.stderr
    assert not (project / "phpo.ledger").exists()


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("option", ["steeringContainer", "evaluationContainer"])
def test_a_container_that_cannot_be_run_here_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    result = run("--set", f"{option}=registry/image:1")
    assert result.exit_code == 2
    assert "--bare" in result.stderr
    bare = run("--set", f"{option}=registry/image:1", "--bare", "--set", "noSubmit=true")
    assert bare.exit_code == 0, bare.output


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("maxPoints", "write it as NAME=VALUE"),
        ("maxPoint=3", 'did you mean "maxPoints"?'),
        ("noSubmit=perhaps", "it must be true or false"),
    ],
)
def test_a_change_that_is_wrong_is_said(written: str, message: str) -> None:
    result = run("--set", written)
    assert result.exit_code == 2
    assert message in result.stderr
