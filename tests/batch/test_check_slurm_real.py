"""``hepdask-ml site check`` on a real Slurm: what it finds, and what Slurm says where it fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from stories.work import wait_for

from hepdask_ml.ui.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from batch.real import Slurm

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture
def folder(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(folder: Path, *words: str, **options: object) -> Result:
    options = {
        "walltime": "00:05:00",
        "memory": "400 MB",
        "shared": folder / "shared",
        "host": "127.0.0.1",
        "worker_options": "[--host, 127.0.0.1]",
        **options,
    }
    changes = [word for name, value in options.items() for word in ("-O", f"{name}={value}")]
    return CliRunner().invoke(main, ["site", "check", "slurm", *changes, *words])


def test_slurm_real_site_works(slurm: Slurm, folder: Path) -> None:
    result = check(folder, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["ok"]
    assert found["warnings"] == []
    assert found["worker"]["waited_s"] > 0.0
    assert 0.0 < found["walltime"]["left_s"] <= 300.0
    assert found["walltime"]["asked_s"] == 300.0
    assert found["memory"]["limit_bytes"] == pytest.approx(4e8, rel=0.01)
    assert found["connection"]["encrypted"]
    assert found["connection"]["reach"] == ["this machine only"]
    assert found["processors"]["limits"]["OMP_NUM_THREADS"] == "1"
    wait_for(lambda: not slurm.jobs(), "the job to be cancelled")


@pytest.mark.usefixtures("slurm")
def test_slurm_real_gpu_without_a_driver_is_a_fault(folder: Path) -> None:
    result = check(folder, gpus=1, gpu_type="toy")
    assert result.exit_code == 1
    assert "the site slurm does not work: 1 GPU asked for" in result.stderr
    assert "CUDA_VISIBLE_DEVICES is" in result.stderr
    assert "walltime" in result.stdout


def test_slurm_real_job_that_waits_is_told_with_its_reason(slurm: Slurm, folder: Path) -> None:
    result = check(folder, "--timeout", "10s", directives="--begin=now+1hour")
    assert result.exit_code == 1
    assert "no worker came within 10 s (job " in result.stderr
    assert " waits: BeginTime)" in result.stderr
    wait_for(lambda: not slurm.jobs(), "the job to be cancelled")


@pytest.mark.usefixtures("slurm")
def test_slurm_real_refusal_is_told_in_its_own_words(folder: Path) -> None:
    result = check(folder, queue="nowhere")
    assert result.exit_code == 1
    assert "does not work: sbatch refused: sbatch: error: invalid partition" in result.stderr
    assert "Traceback" not in result.output
