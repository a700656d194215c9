"""``hepdask-ml submit``, and drivers that batch systems end; Slurm is simulated."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import made_up
import pytest
import yaml
from click.testing import CliRunner, Result
from made_up_slurm import simulated_slurm

from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.ui.cli import main

if TYPE_CHECKING:
    from made_up_slurm import SimulatedSlurm

EXPORTS = "export OMP_NUM_THREADS=1"


@pytest.fixture
def slurm_sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedSlurm]:
    with simulated_slurm(tmp_path, monkeypatch) as system:
        yield system


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def config(folder: Path, site: Any, toys: int = 60) -> Path:
    (folder / "workspace.json").write_text(json.dumps(made_up.MADE_UP["one bin"]))
    document = {
        "kind": "toy-limit",
        "model": {"workspace": "workspace.json"},
        "ledger": "toys.ledger",
        "limit": {"scan": "0.5:4:3", "toys": toys},
        "site": site,
    }
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def batch(folder: Path, **options: Any) -> dict[str, Any]:
    return {"kind": "slurm", "options": {"logs": str(folder / "logs"), "queue": "long", **options}}


def assert_one_sentence(result: Result, *words: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    [line] = result.stderr.strip().splitlines()
    for word in words:
        assert word in line


def test_slurm_sim_tells_the_job_and_how_to_watch_it(
    slurm_sim: SimulatedSlurm, tmp_path: Path
) -> None:
    (slurm_sim.folder / "waits").touch()
    path = config(tmp_path, batch(tmp_path, walltime="1 h", memory="9 GB", gpus=2))
    result = run("submit", path, "-O", "account=higgs")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "submitted job 1 to Slurm",
        f"what is printed goes to {tmp_path / 'logs'}",
        f"how far it is: hepdask-ml status {tmp_path / 'toys.ledger'} --watch",
    ]
    script = slurm_sim.script("1")
    for line in ("-p long", "-A higgs", "--mem=2G", "-t 24:00:00", "--cpus-per-task=1"):
        assert f"#SBATCH {line}\n" in script
    assert "gres" not in script
    assert f"run {path} --quiet -O account=higgs" in script


def test_slurm_sim_runs_the_driver_of_a_local_site(
    slurm_sim: SimulatedSlurm, tmp_path: Path
) -> None:
    path = config(tmp_path, {"kind": "local", "workers": 2})
    site = tmp_path / "farm.yaml"
    site.write_text(yaml.safe_dump(batch(tmp_path)))
    result = run("submit", path, "--site", site, "--walltime", "10min", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["jobs"] == ["1"]
    assert found["ledger"] == str(tmp_path / "toys.ledger")
    script = slurm_sim.script("1")
    assert "--cpus-per-task=2\n" in script
    assert "-t 00:10:00\n" in script
    deadline = time.monotonic() + 120
    while slurm_sim.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    with read_ledger(tmp_path / "toys.ledger") as ledger:
        assert ledger.progress().done == 60 * 2 * 3


def test_dry_run_shows_a_chain(tmp_path: Path) -> None:
    path = config(tmp_path, {"kind": "allocation", "workers": 4, "options": {"system": "slurm"}})
    words = ["submit", path, "--nodes", 2, "--chain", 2, "--after", 5, "--dry-run"]
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert result.stdout.count(EXPORTS) == 2
    assert "--nodes=2\n" in result.stdout
    assert "afterany:5\n" in result.stdout
    assert "afterany:JOB1\n" in result.stdout
    assert len(json.loads(run(*words, "--json").stdout)["scripts"]) == 2


def test_slurm_sim_refusal_is_one_sentence(slurm_sim: SimulatedSlurm, tmp_path: Path) -> None:
    (slurm_sim.folder / "refusal").write_text("sbatch: error: no such account")
    path = config(tmp_path, batch(tmp_path))
    assert_one_sentence(run("submit", path), "sbatch refused:", "no such account", code=1)


@pytest.mark.parametrize(
    ("site", "words", "sentence"),
    [
        ("local", ["--site", "slurm"], "site.workers is not set"),
        ("local", [], "the site local has no batch system"),
        ("slurm", ["--nodes", "2"], "--nodes is for a site of the kind allocation"),
        ("allocation", [], "does not say which batch system gives it"),
        ("allocation", ["--site", "slurm"], "leave out --site"),
        ("slurm", ["--walltime", "soon"], '"soon" is no duration'),
    ],
)
def test_what_cannot_be_submitted_gets_a_sentence(
    tmp_path: Path, site: str, words: list[str], sentence: str
) -> None:
    assert_one_sentence(run("submit", config(tmp_path, site), *words), sentence)


def test_driver_stops_before_its_walltime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEPDASK_ML_END", str(int(time.time()) + 15))
    path = config(tmp_path, {"kind": "local", "workers": 1}, toys=10_000_000)
    result = run("run", path, "--quiet")
    assert_one_sentence(result, "the walltime is near: ", "the same command again goes on", code=1)


def test_sigterm_acts_like_ctrl_c(tmp_path: Path) -> None:
    path = config(tmp_path, {"kind": "local", "workers": 1}, toys=10_000_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "hepdask_ml", "run", str(path), "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not done(tmp_path / "toys.ledger"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert said.strip().splitlines()[-1].endswith("the same command again goes on")
    assert f"{done(tmp_path / 'toys.ledger'):,} toys are in" in said


def test_sigterm_is_as_it_was_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run("run", config(tmp_path, {"kind": "local", "workers": 1}), "--quiet")
    assert signal.getsignal(signal.SIGTERM) == before


def done(path: Path) -> int:
    if not path.exists():
        return 0
    with read_ledger(path) as ledger:
        return ledger.progress().done
