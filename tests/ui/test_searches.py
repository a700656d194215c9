"""Searches from the command line, as somebody would run them."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.hpo.summary import result
from hepdask_ml.ui.cli import main

SETTINGS = """\
kind: search
search:
  train: train.py:train
  space: {{x: {{type: float, low: 0, high: 1, step: 0.25}}}}
  optimiser: optuna:grid
  trials: {trials}
  {more}
ledger: a.ledger
site: {{kind: local, workers: 1}}
output: out
"""
TRAIN = """\
from beside_{name} import loss

def train(params, context):
    if context.files:
        assert open(context.files[0]).read() == context.segment
    return loss(params["x"])
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with an objective, whose names no other test has."""
    name = tmp_path.name.replace("-", "_")
    (tmp_path / f"beside_{name}.py").write_text("def loss(x):\n    return (x - 0.5) ** 2\n")
    (tmp_path / "train.py").write_text(TRAIN.format(name=name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(folder: Path, trials: int = 5, more: str = "seed: 1") -> Path:
    path = folder / "search.yaml"
    path.write_text(SETTINGS.format(trials=trials, more=more))
    return path


def test_the_same_verbs_run_watch_and_report_a_search(folder: Path) -> None:
    # From elsewhere: the file's own folder is what counts, and the worker needs no file.
    os.chdir("/")
    path = settings(folder)
    first = run("run", path, "--json")
    assert first.exit_code == 0, first.output
    document = json.loads(first.stdout)
    assert document["schema"] == "hepdask-ml/search/1"
    assert document["trials"][document["best"]]["params"] == {"x": 0.5}
    assert json.loads((folder / "out" / "search.json").read_text()) == document
    again = run("run", path)
    assert again.exit_code == 0, again.output
    assert "5 trials, best loss 0 (trial " in again.stdout

    os.chdir(folder)
    assert "finished" in run("status", "a.ledger").stdout
    status = json.loads(run("status", "a.ledger", "--json").stdout)
    assert (status["state"], status["trials"]["ended"]) == ("finished", 5)
    assert run("status", "a.ledger", "--watch", "--json").stdout.count("\n") == 1
    told = run("report", "a.ledger", "-o", "report", "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout) == document
    assert (folder / "report" / "report.html").read_text().startswith("<!DOCTYPE html>")
    tracked = run("track", "a.ledger", "--to", "csv:t.csv")
    assert tracked.exit_code == 0, tracked.output
    assert len((folder / "t.csv").read_text().splitlines()) == 6
    refused = run("merge", "b.ledger", "a.ledger")
    assert (refused.exit_code, "searches are not merged" in refused.stderr) == (2, True)


def test_segment_without_a_best_trial_is_a_failure_until_it_is_mended(folder: Path) -> None:
    (folder / "barrel.txt").write_text("barrel")
    more = "segments: [{name: barrel, files: [barrel.txt]}, {name: endcap, files: [endcap.txt]}]"
    path = settings(folder, trials=2, more=more)
    found = run("run", path, "--quiet")
    assert found.exit_code == 1, found.output
    said = found.stderr.strip().splitlines()
    assert said[-1].startswith("Error: 1 of 2 segments have no best trial (endcap)")
    assert "endcap.txt" in found.stderr
    (folder / "endcap.txt").write_text("endcap")
    assert run("run", path, "--quiet").exit_code == 1
    mended = run("run", path, "--quiet", "--retry-failed")
    assert mended.exit_code == 0, mended.output
    assert "4 trials, a best loss in 2 segments" in mended.stdout


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("train.py:train", "train.py:traim", 'has no function traim: did you mean "train"?'),
        ("train.py:train", "missing.py:train", "missing.py is not there"),
        ("optuna:grid", "optuna:gridd", 'did you mean "optuna:grid"?'),
        ("trials: 5", "trails: 5", 'search.trails is no setting: did you mean "trials"?'),
        ("type: float", "type: floaat", "float"),
        ("trials: 5", "warm_start: old.ledger", "old.ledger is not there"),
    ],
)
def test_slips_get_a_sentence(folder: Path, old: str, new: str, words: str) -> None:
    path = settings(folder)
    path.write_text(path.read_text().replace(old, new))
    found = run("run", path)
    assert found.exit_code == 2, found.output
    assert len(found.stderr.strip().splitlines()) == 1
    assert words in found.stderr


def test_engine_is_for_limits(folder: Path) -> None:
    found = run("run", settings(folder), "--engine", "cpu")
    assert found.exit_code == 2
    assert "--engine is for limits" in found.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_a_search_that_goes_on(folder: Path) -> None:
    (folder / "train.py").write_text(
        "from time import sleep\n\ndef train(params, context):\n"
        "    sleep(0.2)\n    return params['x']\n"
    )
    path = settings(folder, trials=21)
    path.write_text(path.read_text().replace("0.25", "0.05"))
    driver, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hepdask_ml", "run", str(path)],
        stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        wait_for_trials(folder / "a.ledger")
        os.killpg(process.pid, signal.SIGINT)
        said = read_to_end(driver)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.wait()
        os.close(driver)
    assert "/21 trials" in said
    last = said.strip().splitlines()[-1]
    assert re.search(r"interrupted: \d+ of 21 trials are in .*, the same command again", last), said
    assert "Traceback" not in said
    found = run("run", path, "--quiet")
    assert found.exit_code == 0, found.output
    assert "21 trials, best loss 0 (trial " in found.stdout


def wait_for_trials(path: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists() and path.stat().st_size:
            with read_ledger(path) as ledger:
                if ledger.progress().done:
                    return
        time.sleep(0.1)
    pytest.fail("no trial within a minute")


def read_to_end(terminal: int) -> str:
    said = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # nobody writes any more
            part = b""
        if not part:
            return said.decode(errors="replace")
        said += part


def test_example_is_what_the_guide_says(tmp_path: Path) -> None:
    """The objective of the configured example, without a cluster."""
    pytest.importorskip("optuna")
    from hepdask_ml.hpo.campaign import search  # noqa: PLC0415 - for this one alone
    from hepdask_ml.hpo.objective import objective  # noqa: PLC0415

    train: Any = objective("examples/search_objective.py:train")
    space = {
        "x": {"type": "float", "low": -5, "high": 10},
        "y": {"type": "float", "low": 0, "high": 15},
        "optimizer": ["adam", "sgd"],
    }
    path = tmp_path / "a.ledger"
    search(train, space, optimiser="optuna:random", n_trials=3, epochs=3, ledger=path).run()
    with read_ledger(path) as ledger:
        assert [trial.epochs for trial in result(ledger).trials] == [3, 3, 3]
