"""Campaigns inside allocations of a real Slurm, and drivers that are its jobs."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import made_up
import pytest
import yaml
from batch.campaigns import TESTS, audit, done, undisturbed, workers
from batch.slow_limit import SCAN
from click.testing import CliRunner
from stories.work import wait_for

from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.limits.summary import limit
from hepdask_ml.ui.cli import main

if TYPE_CHECKING:
    from batch.real import Slurm

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

WRAPPER = """\
#!/bin/sh
if [ "$2" = hepdask_ml ]; then shift 2; exec {python} -W ignore -m batch.slow_program "$@"; fi
exec {python} -W ignore "$@"
"""


@dataclass(frozen=True)
class Asked:
    """A configuration whose toys are slow, in a folder of its own."""

    folder: Path
    toys: int

    @property
    def ledger(self) -> Path:
        return self.folder / "toys.ledger"

    @property
    def logs(self) -> str:
        """All that the jobs have printed."""
        return "".join(path.read_text() for path in sorted((self.folder / "logs").glob("*")))

    def write(self, kind: str, toy_s: float, workers: int, **options: Any) -> None:
        python = self.folder / "python"
        python.write_text(WRAPPER.format(python=sys.executable))
        python.chmod(0o755)
        workspace = self.folder / "workspace.json"
        workspace.write_text(json.dumps(made_up.MADE_UP["one bin"]))
        plain = {
            "memory": "300 MB",
            "host": "127.0.0.1",
            "worker_options": ["--host", "127.0.0.1"],
            "environment": {"PYTHONPATH": str(TESTS), "HEPDASK_ML_TOY_S": str(toy_s)},
            "python": str(python),
            "logs": str(self.folder / "logs"),
            "shared": str(self.folder / "shared"),
            "walltime": "00:01:00",
        }
        document = {
            "kind": "toy-limit",
            "model": {"workspace": "workspace.json"},
            "ledger": "toys.ledger",
            "limit": {"scan": list(SCAN), "toys": self.toys, "seed": 7},
            "site": {"kind": kind, "workers": workers, "options": {**plain, **options}},
        }
        (self.folder / "campaign.yaml").write_text(yaml.safe_dump(document))

    def submit(self, *words: str) -> list[str]:
        """Submit its driver; give the ids of the jobs."""
        done = CliRunner().invoke(
            main, ["submit", str(self.folder / "campaign.yaml"), "--json", *words]
        )
        assert done.exit_code == 0, done.output
        jobs: list[str] = json.loads(done.stdout)["jobs"]
        return jobs

    def check(self) -> None:
        """See that the limit is that of one undisturbed process, and each toy counts once."""
        audit(self.ledger)
        with read_ledger(self.ledger) as ledger:
            assert json.loads(json.dumps(limit(ledger).to_json())) == undisturbed(self.toys)


@pytest.mark.timeout(900)
def test_slurm_real_chain_of_one_minute_allocations_finishes_what_one_began(
    slurm: Slurm, tmp_path: Path
) -> None:
    asked = Asked(tmp_path, toys=7_500)
    # 90,000 toys on four workers: about 60 s.
    asked.write("allocation", 0.0026, 4, system="slurm", nodes=2)
    jobs = asked.submit("--chain", "3")
    assert len(jobs) == 3
    assert slurm.state(jobs[2]) == "PENDING"
    wait_for(lambda: done(asked.ledger) > 1000, "the first toys", deadline_s=60)
    steps = {process.environ()["SLURMD_NODENAME"] for process in slurm.processes(jobs[0])}
    assert len(steps) == 2, "workers on both nodes"
    wait_for(lambda: not slurm.jobs(), "the chain to end", deadline_s=400)
    states = [slurm.state(job) for job in jobs]
    assert states[0] == "FAILED", f"it leaves before its walltime: {states} {asked.logs}"
    assert states[-1] == "COMPLETED", asked.logs
    assert "the walltime is near" in asked.logs
    asked.check()
    assert workers(asked.ledger) >= 8, "workers of more than one allocation"
    assert not list((tmp_path / "shared").iterdir()), "nothing is left behind"


def test_slurm_real_cancelled_allocation_keeps_its_toys(slurm: Slurm, tmp_path: Path) -> None:
    asked = Asked(tmp_path, toys=3_000)
    asked.write("allocation", 0.002, 4, system="slurm", nodes=2, walltime="00:05:00")
    [job] = asked.submit()
    wait_for(lambda: done(asked.ledger) > 1000, "the first toys", deadline_s=60)
    slurm.scancel(job)
    wait_for(lambda: not slurm.processes(job), "its processes to end", deadline_s=60)
    assert "the same command again goes on" in asked.logs
    kept = done(asked.ledger)
    [job] = asked.submit()
    wait_for(lambda: not slurm.jobs(), "the job to end", deadline_s=120)
    assert slurm.state(job) == "COMPLETED", asked.logs
    assert 1000 < kept < 36_000
    asked.check()


def test_slurm_real_driver_in_a_job_opens_a_slurm_site(slurm: Slurm, tmp_path: Path) -> None:
    asked = Asked(tmp_path, toys=600)
    asked.write("slurm", 0.001, 2, walltime="00:05:00")
    [job] = asked.submit("--walltime", "10min", "--memory", "500 MB")
    wait_for(lambda: len(slurm.jobs()) == 3, "the jobs of the workers", deadline_s=60)
    wait_for(lambda: not slurm.jobs(), "all jobs to end", deadline_s=120)
    assert slurm.state(job) == "COMPLETED", asked.logs
    asked.check()


def test_slurm_real_refusal_of_a_driver_has_the_words_of_slurm(
    slurm: Slurm, tmp_path: Path
) -> None:
    asked = Asked(tmp_path, toys=10)
    asked.write("slurm", 0.001, 2)
    done = CliRunner().invoke(
        main, ["submit", str(tmp_path / "campaign.yaml"), "--queue", "nowhere"]
    )
    assert done.exit_code == 1
    assert "invalid partition specified: nowhere" in done.stderr
    assert not slurm.jobs()
