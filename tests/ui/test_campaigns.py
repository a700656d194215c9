"""Campaigns from the command line, as somebody would run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from distributed import LocalCluster
from made_up import ROOT, many_systematics, two_bins

from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.facility import site as site_module
from hepdask_ml.ui.cli import main

COARSE = ["--precision", "0.2"]
FEW = ["--scan", "0.5:4:3", "--toys", "1000"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def document(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def assert_one_sentence(result: Result, *words: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in result.output
    for word in words:
        assert word in lines[0]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "workspace.json"
    path.write_text(json.dumps(two_bins()), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_precision_without_a_ledger_is_quick(workspace: Path) -> None:
    found = document("limit", workspace, *COARSE)
    assert found["toys"]["per_point"] is None
    assert 0.0 < found["limits"]["observed"]["value"] < 10.0


def test_an_embedded_cluster_keeps_a_ledger(workspace: Path, folder: Path) -> None:
    quick = document("limit", workspace, *FEW)
    first = run("limit", workspace, *FEW, "--ledger", "my.ledger", "--threads", 2, "-o", "out")
    assert first.exit_code == 0, first.output
    assert json.loads((folder / "out" / "limit.json").read_text()) == quick
    assert [path.name for path in folder.glob("my.ledger*")] == ["my.ledger"]
    again = document("limit", workspace, *FEW, "--ledger", "my.ledger")
    assert again == quick

    told = document("status", "my.ledger")
    assert (told["state"], told["progress"]["done"]) == ("finished", 6000)
    assert "finished" in run("status", "my.ledger").stdout
    assert "finished" in run("status", "my.ledger", "--watch").stdout
    assert run("status", "my.ledger", "--watch", "--json").stdout.count("\n") == 1

    assert document("report", "my.ledger", "-o", "report") == quick
    assert (folder / "report" / "report.html").read_text().startswith("<!DOCTYPE html>")

    merged = document("merge", "all.ledger", "my.ledger", "my.ledger")
    assert (merged["new"], merged["toys"]) == (6000, 6000)
    result = run("merge", "all.ledger", "my.ledger")
    assert result.stdout == "all.ledger: 0 new toys, 6,000 in all, seed 1\n"


def test_a_cluster_that_runs_is_used(workspace: Path, folder: Path) -> None:
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, processes=False, dashboard_address=None
    ) as cluster:
        found = document("limit", workspace, *FEW, "--scheduler", cluster.scheduler_address)
    assert found == document("limit", workspace, *FEW)


def test_a_file_describes_it_all(workspace: Path, folder: Path) -> None:
    (folder / "settings.yaml").write_text(
        "kind: toy-limit\n"
        f"model: {{workspace: {workspace.name}}}\n"
        "ledger: a.ledger\n"
        "limit: {scan: 0.5:4:3, toys: 1000}\n"
        "site: {kind: local, workers: 1}\n"
        "output: out\n"
    )
    found = document("run", "settings.yaml")
    assert found == document("limit", workspace, *FEW)
    assert (folder / "out" / "limit.png").exists()
    assert document("run", "settings.yaml") == found


def test_the_plan_is_shown(workspace: Path) -> None:
    shown = run("limit", workspace, *COARSE, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "The first round" in shown.stdout
    assert "of one processor like this one" in " ".join(shown.stdout.split())
    fixed = document("limit", workspace, *FEW, "--dry-run")
    assert (fixed["toys"], fixed["exact"], len(fixed["first"])) == (6000, True, 6)
    assert fixed["processor_s"] > 0.0


@pytest.mark.slow
def test_ctrl_c_leaves_a_ledger_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "workspace.json"
    path.write_text(json.dumps(many_systematics(60, 30, 3)), encoding="utf-8")
    ledger = tmp_path / "my.ledger"
    command = [sys.executable, "-m", "hepdask_ml", "limit", str(path), "--ledger", str(ledger)]
    command += ["--scan", "0.5:2:2", "--toys", "200000", "--threads", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_for_toys(ledger)
        # As a terminal does: every process of the group is told.
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].endswith("the same command again goes on"), said
    assert "Traceback" not in said
    with read_ledger(ledger) as found:
        done = found.progress().done
    assert f"{done:,} toys are in" in said
    assert 0 < done < 800_000


def wait_for_toys(path: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and path.stat().st_size:
            with read_ledger(path) as ledger:
                if ledger.progress().done:
                    return
        time.sleep(0.2)
    pytest.fail("no toy within two minutes")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scheduler", "tcp://127.0.0.1:9"], ["no Dask scheduler answers at tcp://127.0.0.1:9"]),
        (["--scheduler", "nonsense://x"], ["no Dask scheduler answers at nonsense://x"]),
        (["--site", "locl"], ['"locl" is no site: did you mean "local"?']),
        (["--site", "missing.yaml"], ["missing.yaml"]),
        (["--site", "local", "--scheduler", "tcp://127.0.0.1:9"], ["name two places"]),
        (["--precision", "7"], ["the precision is 7.0: it must lie between 0 and 1"]),
        (["--max-toys", "7"], ["max_toys is 7"]),
        (["--ledger", "missing/x.ledger"], ["missing/x.ledger cannot be written"]),
        ([*COARSE, "--toys", "100"], ["toys = 100 are toys of each point of a scan"]),
        ([*FEW, *COARSE], ["precision is for scans that the campaign chooses"]),
    ],
)
def test_wrong_input_gets_a_sentence(
    workspace: Path,
    folder: Path,
    arguments: list[str],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(site_module, "CONNECT_S", 0.5)
    assert_one_sentence(run("limit", workspace, *arguments), *words)


@pytest.mark.parametrize("command", ["status", "report", "merge"])
def test_wrong_ledgers_get_a_sentence(folder: Path, command: str) -> None:
    more = {"status": [], "report": ["-o", "out"], "merge": []}[command]
    first = ["out.ledger"] if command == "merge" else []
    assert_one_sentence(run(command, *first, "missing.ledger", *more), "missing.ledger")
    (folder / "garbage").write_text("no ledger at all, but long enough to be one" * 100)
    assert_one_sentence(run(command, *first, "garbage", *more), "garbage")
    assert_one_sentence(run(command, *first, ROOT / "examples", *more), "examples")


def test_a_ledger_in_use_is_refused(workspace: Path, folder: Path) -> None:
    result = run("limit", workspace, *FEW, "--ledger", "my.ledger", "--site", "local")
    assert result.exit_code == 0, result.output
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, "my.ledger"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        result = run("limit", workspace, *FEW, "--ledger", "my.ledger")
        assert_one_sentence(result, f"is being written by process {holder.pid}", code=1)
    finally:
        holder.kill()
        holder.communicate()


HOLD = """
import sys, time
from hepdask_ml.campaign.ledger import open_ledger, read_ledger
with read_ledger(sys.argv[1]) as ledger:
    identity = ledger.identity
ledger = open_ledger(sys.argv[1], identity)
print("held", flush=True)
time.sleep(600)
"""


def test_settings_with_a_slip_get_a_sentence(folder: Path) -> None:
    text = (ROOT / "configs" / "toy-limit.yaml").read_text().replace("precision:", "precison:")
    (folder / "slip.yaml").write_text(text)
    assert_one_sentence(run("run", "slip.yaml"), "slip.yaml: limit.precison", 'mean "precision"')
    assert_one_sentence(run("run", "missing.yaml"), "missing.yaml")
