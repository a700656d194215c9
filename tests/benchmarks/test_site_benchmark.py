from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from benchmarks import site_share
from benchmarks.command import main
from benchmarks.paced import Paced, Task, work
from benchmarks.site_share import Share, Spent, absent, accounted, split

from hepdask_ml.campaign.unit import Block, Done

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENDED = """\
JobId=7 JobState=COMPLETED TimeLimit=1 StartTime=2026-01-02T03:04:05 EndTime=2026-01-02T03:05:04
JobId=8 JobState=CANCELLED TimeLimit=1 StartTime=Unknown EndTime=2026-01-02T03:05:04
JobId=77 JobState=TIMEOUT TimeLimit=1 StartTime=2026-01-02T03:04:05 EndTime=2026-01-02T03:05:30
"""
LOG = """\
[2026-01-02T03:04:04.900] _slurm_rpc_submit_batch_job: JobId=7 InitPrio=4294901759 usec=350
[2026-01-02T03:04:05.250] sched: Allocate JobId=7 NodeList=n1 #CPUs=1 Partition=main
[2026-01-02T03:04:05.500] sched: Allocate JobId=77 NodeList=n1 #CPUs=1 Partition=main
[2026-01-02T03:05:04.750] _job_complete: JobId=7 WEXITSTATUS 0
[2026-01-02T03:05:04.760] _job_complete: JobId=7 done
"""


class _Count:
    """A runner whose toys are their numbers."""

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        return Done(block.stop, bytes(range(block.start, block.stop)))


def test_times_of_jobs_are_those_of_slurms_own_account() -> None:
    times = accounted(ENDED, LOG)
    assert set(times) == {"7", "77"}
    assert times["7"][1] - times["7"][0] == pytest.approx(59.5)
    assert times["77"][1] - times["77"][0] == pytest.approx(84.5)
    whole = accounted(ENDED, "")["7"]
    assert whole[1] - whole[0] == 59.0


@pytest.mark.parametrize(
    ("journal", "expected"),
    [
        ("", Spent(60.0)),
        ("begin 103\nend 110\nbegin 111\nend 158\n", Spent(3.0, 54.0, 1.0, 2.0)),
        ("begin 103\nend 110\nbegin 111\n", Spent(3.0, 56.0, 1.0, 0.0)),
        ("begin 103\nend 165\n", Spent(3.0, 57.0, 0.0, 0.0)),
    ],
    ids=["no block", "leaves by itself", "killed in a block", "outlives its job"],
)
def test_all_time_of_a_job_is_booked(journal: str, expected: Spent) -> None:
    spent = split(100.0, 160.0, journal)
    assert spent == expected
    assert spent.allocated == 60.0


def test_shares_are_of_the_time_that_was_allocated() -> None:
    jobs = [Spent(10.0, 40.0, 5.0, 5.0), Spent(10.0, 30.0)]
    share = Share("somebody", 100, 60, 60.0, jobs, 60.0)
    assert share.useful == pytest.approx(0.6)
    assert share.after_start == pytest.approx(0.75)


def test_paced_work_is_that_of_its_runner_and_notes_its_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    paced = Paced(_Count(), 1e-5, str(tmp_path))
    assert work(Task("toys", 3, 200), paced, {"toys": {}}) == bytes(range(3, 200))
    assert paced.run(Block("toys", {}, 0, 200, ""), lambda: True) == Done(0, b"")
    words = [line.split()[0] for line in (tmp_path / "9").read_text().splitlines()]
    assert words == ["begin", "end"] * 2


def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(site_share, "missing", lambda *_: ["slurmctld", "munged"])
    assert main(["--only", "sites", "--quick"]).sites == []
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "skipped sites: slurmctld, munged not found: tests/batch/slurm.sh packages installs them"
        in said
    )


@pytest.mark.slurm
@pytest.mark.slow
def test_slurm_real_quick_form_measures_and_reports(tmp_path: Path) -> None:
    if reason := absent():
        (pytest.fail if os.environ.get("HEPDASK_ML_REAL") == "1" else pytest.skip)(reason)
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.md"
    asked = ["--only", "sites", "--quick", "--json", str(numbers), "--markdown", str(page)]
    ours, plain = main(asked).sites
    assert ours.done == ours.toys == plain.toys
    assert len(ours.jobs) >= 2
    assert 0.0 < ours.useful < ours.after_start <= 1.0
    assert ours.part("working") <= ours.allocated_s
    assert json.loads(numbers.read_text())["sites"][1]["name"] == plain.name
    assert "| hepdask-ml, scan |" in page.read_text()
