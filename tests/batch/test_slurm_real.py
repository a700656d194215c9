"""Toy limits on a real Slurm, whatever happens to jobs, nodes and drivers."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from batch.campaigns import TESTS, Drive, audit, done, workers
from batch.slow_limit import Slow, campaign
from stories.processes import Place
from stories.work import wait_for

from hepdask_ml import open_site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batch.real import Slurm

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


@pytest.mark.timeout(900)
def test_slurm_real_campaign_of_several_walltimes_survives_all_that_happens(
    slurm: Slurm, place: Place
) -> None:
    drive = Drive(
        place, "slurm", toys=13_000, toy_s=0.0025, options={"workers": 4, "walltime": "00:01:00"}
    )
    driver = drive.start()
    drive.wait_for_toys(driver, 1)
    running = wait_for(
        lambda: (
            [row for row in slurm.jobs() if row.state == "RUNNING"][3:]
            and {row.node: row.id for row in slurm.jobs()}
        ),
        "all jobs to run",
    )
    assert len(running) == 2, "four workers on nodes of two processors"
    jobs = [row.id for row in slurm.jobs()]
    slurm.scancel(jobs[0])
    slurm.requeue(jobs[1])
    drive.wait_for_toys(driver, 20_000)
    # Its jobs go on for a while, unknown to Slurm, which starts them again elsewhere.
    slurm.kill_node(next(row.node for row in slurm.jobs() if row.node), jobs=False)
    drive.wait_for_toys(driver, 60_000)
    driver.send(signal.SIGKILL)
    driver.popen.wait()
    kept = done(drive.ledger)
    driver = drive.start()
    drive.wait_for_toys(driver, kept + 20_000)
    slurm.start_nodes()
    drive.check(driver)
    assert workers(drive.ledger) > 8, "jobs of several walltimes"
    wait_for(lambda: not slurm.jobs(), "the jobs to be cancelled")


def test_slurm_real_waiting_jobs_of_a_killed_driver_are_taken_over(
    slurm: Slurm, place: Place
) -> None:
    drive = Drive(
        place, "slurm", toys=64, toy_s=0.0, options={"workers": 2, "walltime": "00:05:00"}
    )
    full = [slurm.submit("sleep 600", "--exclusive", "--nodelist", name) for name in slurm.nodes]
    driver = drive.start()
    wait_for(lambda: driver.said.count("submitted a job") == 2, "both submissions")
    waiting = {row.id for row in slurm.jobs() if row.name == "hepdask-ml"}
    assert len(waiting) == 2
    driver.send(signal.SIGKILL)
    driver.popen.wait()
    driver = drive.start()
    wait_for(lambda: "took over 2 waiting jobs" in driver.said, "the second driver to look")
    slurm.scancel(*full)
    drive.check(driver)
    assert "submitted" not in driver.said, driver.said


def test_slurm_real_bad_partition_is_refused_in_its_own_words(slurm: Slurm, place: Place) -> None:
    drive = Drive(place, "slurm", toys=64, toy_s=0.0, options={"queue": "nowhere"})
    driver = drive.start()
    assert driver.wait() == 1
    assert driver.said.splitlines()[-1] == (
        "SiteError: sbatch refused: sbatch: error: invalid partition specified: nowhere "
        "sbatch: error: Batch job submission failed: Invalid partition name specified"
    )
    assert not list((place.folder / "shared").iterdir())


def test_slurm_real_jobs_that_end_at_once_are_not_repeated_for_ever(
    slurm: Slurm, place: Place
) -> None:
    drive = Drive(
        place, "slurm", toys=64, toy_s=0.0,
        options={"workers": 1, "setup": ["echo this node is broken", "exit 3"]},
    )  # fmt: skip
    driver = drive.start()
    assert driver.wait() == 1
    said = driver.said.splitlines()[-1]
    assert said.startswith("SiteError: 3 jobs in a row came to nothing")
    assert said.endswith('ended without a worker: "this node is broken"')


@pytest.mark.parametrize("workers_per_job", [1, 2])
def test_slurm_real_each_worker_sees_a_graphics_processor_of_its_own(
    slurm: Slurm, tmp_path: Path, workers_per_job: int
) -> None:
    with open_site(
        "slurm",
        workers=2,
        workers_per_job=workers_per_job,
        gpus=1,
        gpu_type="toy",
        memory="300 MB",
        host="127.0.0.1",
        worker_options=["--host", "127.0.0.1"],
        environment={"OF_MY_OWN": "two words"},
        logs=str(tmp_path / "logs"),
        shared=str(tmp_path / "shared"),
    ) as client:
        client.wait_for_workers(2, timeout=60)
        assert client.scheduler_info()["address"].startswith("tls://127.0.0.1:")
        names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "OF_MY_OWN")
        found = client.run(lambda: [os.environ.get(name) for name in names])
        assert [values[1:] for values in found.values()] == [["1", "two words"]] * 2
        seen = [values[0] for values in found.values()]
        assert set(seen) <= {"0", "1"}
        assert len(slurm.jobs()) == 2 / workers_per_job
        assert workers_per_job == 1 or set(seen) == {"0", "1"}
        task = client.submit(os.getpid, resources={"GPU": 1}, pure=False)
        assert task.result(timeout=30) > 0
    wait_for(lambda: not slurm.jobs(), "the jobs to be cancelled")


def test_slurm_real_workers_go_when_there_is_no_work_and_come_back(
    slurm: Slurm, place: Place
) -> None:
    folder = place.folder
    with open_site(
        "slurm",
        workers=3,
        idle="3 s",
        memory="300 MB",
        host="127.0.0.1",
        worker_options=["--host", "127.0.0.1"],
        environment={"PYTHONPATH": str(TESTS)},
        logs=str(folder / "logs"),
        shared=str(folder / "shared"),
    ) as client:
        for seed, name in enumerate(("first.ledger", "second.ledger")):
            slow = campaign(folder / name, 2_000)
            # One worker alone is still busy when the jobs of the others begin.
            slow.runner = Slow(slow.runner, 0.001)
            slow.run(client)
            audit(folder / name)
            assert workers(folder / name) == 3, seed
            wait_for(lambda: len(slurm.jobs()) == 1, "two of three jobs to be given up")
