"""Toy limits on simulations of HTCondor, PBS and LSF: of their commands and limits of time."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from batch.campaigns import TESTS, Drive, workers
from batch.simulated.jobs import RUNNING, WAITING
from stories.processes import Place
from stories.work import wait_for

from hepdask_ml import open_site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch.simulated.control import Simulated
    from batch.simulated.jobs import Job
    from stories.processes import Process

pytestmark = [pytest.mark.slow]

KINDS = {"condor": "htcondor", "pbs": "pbs", "lsf": "lsf"}

REFUSED = {
    "condor": "condor_submit refused: ERROR: Failed to commit job submission into the queue. "
    "ERROR: the moon is full",
    "pbs": "qsub refused: qsub: the moon is full",
    "lsf": "bsub refused: the moon is full. Job not submitted.",
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def ended(system: Simulated) -> dict[int, str]:
    """Give why jobs have ended."""
    return {job.number: job.reason for job in system.store.ended()}


def remembered(place: Place) -> list[int]:
    """Give the jobs that a driver leaves to the next."""
    (file,) = (place.folder / "shared").glob("*/jobs.json")
    return [int(job.partition(".")[0]) for job in json.loads(file.read_text())]


def over_walltimes(
    system: Simulated, place: Place, by_hand: Callable[[Job], object], **options: Any
) -> Process:
    """Drive a limit with three jobs in two slots; a driver is killed after the first walltime."""
    system.set(slots=2)
    drive = Drive(
        place, KINDS[system.kind], 1_300, 0.0025, {"workers": 3, "walltime": "18 s", **options}
    )
    driver = drive.start()
    drive.wait_for_toys(driver, 1)
    first = system.jobs(RUNNING)
    by_hand(first[0])
    whole = re.compile(rf"^job {first[-1].number}(\.0)? has ended$", re.MULTILINE)
    wait_for(lambda: whole.search(driver.said), "the walltime of another to end")
    wait_for(lambda: first[-1].number in ended(system), "its job to be gone")
    system.set(slots=0)  # those that wait begin only when the second driver has seen them
    waiting = wait_for(
        lambda: [job for job in system.jobs(WAITING) if job.number in remembered(place)],
        "a job that waits",
    )
    driver.send(signal.SIGKILL)
    driver.popen.wait()
    driver = drive.start()
    wait_for(lambda: "took over" in driver.said or not driver.alive, "the second driver to look")
    assert "took over 0" not in driver.said, driver.output
    system.set(slots=2)
    drive.check(driver)
    assert "of work" not in driver.said, "no job has failed"
    assert system.job(waiting[0].number).starts == 1
    assert workers(drive.ledger) >= 5
    wait_for(lambda: not system.jobs(), "the jobs to be cancelled")
    assert not list((place.folder / "shared").iterdir())
    return driver


def test_condor_sim_campaign_replaces_jobs_that_are_held(condor: Simulated, place: Place) -> None:
    def hold(job: Job) -> None:
        assert not {"HOME", "PATH"} & job.environment.keys()
        condor.hold(job.number, "an operator does not like it")

    # The jobs believe that they have longer.
    over_walltimes(
        condor,
        place,
        hold,
        walltime="25 s",
        directives=["allowed_job_duration = 18"],
        environment={"PYTHONPATH": str(TESTS), "_CONDOR_JOB_AD": "/dev/null"},
    )
    assert ended(condor)[1] == ended(condor)[2] == "removed", "held by hand, and at the walltime"


def test_pbs_sim_campaign_goes_on_with_a_job_that_runs_again(pbs: Simulated, place: Place) -> None:
    over_walltimes(pbs, place, lambda job: pbs.evict(job.number))
    assert pbs.job(1).starts == 2


def test_lsf_sim_campaign_replaces_killed_jobs(lsf: Simulated, place: Place) -> None:
    # Minutes of 4.5 seconds: jobs believe that they have longer than they do.
    lsf.set(minute_s=4.5)
    over_walltimes(lsf, place, lambda job: lsf.kill(job.number), walltime="4 min")
    assert "walltime" in ended(lsf).values()


def test_condor_sim_without_a_shared_folder_sends_certificates_with_the_jobs(
    condor: Simulated, place: Place
) -> None:
    condor.set(slots=1)
    home = place.folder / "home"
    drive = Drive(
        place, "htcondor", 200, 0.0025, {"workers": 2, "walltime": "5 min", "shared": None},
        env={"HOME": str(home)},
    )  # fmt: skip
    driver = drive.start()
    drive.wait_for_toys(driver, 1)
    running, waiting = condor.jobs()
    (folder,) = (home / ".hepdask-ml/sites").iterdir()
    names = ("certificate.pem", "key.pem")
    assert running.special["inputs"] == [str(folder / name) for name in names]
    assert " --tls-ca-file certificate.pem --tls-cert certificate.pem " in running.command[-1]
    assert " tls://127.0.0.1:" in running.command[-1]
    assert "--scheduler-file" not in running.command[-1]
    driver.send(signal.SIGKILL)
    driver.popen.wait()
    driver = drive.start()
    wait_for(lambda: ended(condor).get(waiting.number) == "removed", "the old job to be cancelled")
    drive.check(driver)
    wait_for(lambda: not condor.jobs(), "the jobs to be cancelled")
    assert not list(folder.parent.iterdir())


@pytest.mark.parametrize("kind", KINDS, ids=[f"{kind}_sim" for kind in KINDS])
def test_refused_jobs_end_the_driver_with_the_words_of(
    kind: str, request: pytest.FixtureRequest, place: Place
) -> None:
    system: Simulated = request.getfixturevalue(kind)
    system.set(refusal="the moon is full")
    driver = Drive(place, KINDS[kind], 64, 0.0, {}).start()
    assert driver.wait() == 1
    assert driver.said.splitlines()[-1] == f"SiteError: {REFUSED[kind]}"
    assert not list((place.folder / "shared").iterdir())


@pytest.mark.parametrize("kind", KINDS, ids=[f"{kind}_sim" for kind in KINDS])
def test_workers_that_hold_results_end_by_themselves_with_the_site(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    system: Simulated = request.getfixturevalue(kind)
    system.set(slots=2)
    with open_site(
        KINDS[kind],
        workers=3,
        memory="300 MB",
        host="127.0.0.1",
        worker_options=["--host", "127.0.0.1"],
        logs=str(tmp_path / "logs"),
        shared=str(tmp_path / "shared"),
    ) as client:
        client.wait_for_workers(2, timeout=60)
        kept = client.map(abs, range(8), pure=False)
        client.gather(kept)  # type: ignore[no-untyped-call]
        running = [job.number for job in system.jobs(RUNNING)]
    assert len(running) == 2
    assert {job: ended(system)[job] for job in running} == dict.fromkeys(running, "exit 0")
    wait_for(lambda: not system.jobs(), "the third job to be cancelled")
