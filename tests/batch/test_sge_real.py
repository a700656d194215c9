"""Toy limits on a real Grid Engine, whose limits of time are exact to a second."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from batch.campaigns import Drive, workers
from stories.processes import Place
from stories.work import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batch.real import GridEngine

pytestmark = [pytest.mark.sge, pytest.mark.slow]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def drive_on(sge: GridEngine, place: Place, toys: int, toy_s: float, **options: Any) -> Drive:
    return Drive(place, "sge", toys, toy_s, options, env=sge.env, prefix=sge.prefix)


def running(sge: GridEngine) -> list[str]:
    return [row.id for row in sge.jobs() if row.state == "r"]


def test_sge_real_campaign_of_several_walltimes_survives_all_that_happens(
    sge: GridEngine, place: Place
) -> None:
    drive = drive_on(sge, place, 4_600, 0.0025, workers=3, walltime="20 s")
    driver = drive.start()
    drive.wait_for_toys(driver, 1)
    first = wait_for(lambda: running(sge)[2:] and running(sge), "three jobs to run")
    sge.qdel(first[0])
    wait_for(lambda: len(set(running(sge)) - set(first)) == 3, "the others to end at the walltime")
    driver.send(signal.SIGKILL)
    driver.popen.wait()
    driver = drive.start()
    drive.check(driver)
    assert "took over" in driver.said, driver.said
    assert workers(drive.ledger) >= 8, "jobs of several walltimes"
    wait_for(lambda: not sge.jobs(), "the jobs to be deleted")
    assert not list((place.folder / "shared").iterdir())


def test_sge_real_bad_queue_is_refused_in_its_own_words(sge: GridEngine, place: Place) -> None:
    driver = drive_on(sge, place, 64, 0.0, queue="nowhere.q").start()
    assert driver.wait() == 1
    assert driver.said.splitlines()[-1] == (
        "SiteError: qsub refused: Unable to run job: Job was rejected because job requests unknown "
        'queue "nowhere.q" Exiting.'
    )
    assert not sge.jobs()
    assert not list((place.folder / "shared").iterdir())


def test_sge_real_script_is_read_by_bash_whatever_the_shell_of_the_queue(
    sge: GridEngine, place: Place
) -> None:
    before = {
        words[0]: words[1]
        for words in map(str.split, sge.run("qconf", "-sq", "main.q").splitlines())
        if words[0] in ("shell", "shell_start_mode")
    }
    set_up(sge, shell="/bin/false", shell_start_mode="posix_compliant")
    try:
        said = sge.folder / "said.txt"
        sge.submit(f"echo hello >{said}")
        wait_for(lambda: not sge.jobs(), "a job without a shell to end")
        assert not said.exists()
        drive = drive_on(sge, place, 64, 0.0, workers=1, setup=["words=(1 2)", "[[ ${words[1]} ]]"])
        drive.check(drive.start())
    finally:
        set_up(sge, **before)


def set_up(sge: GridEngine, **values: str) -> None:
    for name, value in values.items():
        sge.run("qconf", "-mattr", "queue", name, value, "main.q")
