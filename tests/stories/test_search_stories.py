"""Searches whose workers, drivers and schedulers die; trials that fail; disks that are full."""

from __future__ import annotations

import re
import signal
from functools import partial
from typing import TYPE_CHECKING

from stories.campaigner import ERROR
from stories.trials import Trials
from stories.work import wait_for

if TYPE_CHECKING:
    from stories.processes import Place, Process

EPOCHS = 6


def driver(place: Place, trials: Trials, *options: str, local: bool = False) -> Process:
    where = [] if local else ["--scheduler-file", str(place.scheduler_file)]
    return place.start("searcher", "-m", "stories.searcher", *trials.options(), *where, *options)


def is_within(trials: Trials, worker: Process, epoch: int) -> tuple[str, int, int] | None:
    """Give what a worker has begun last, if it is this epoch of a trial, or a later one."""
    journal = trials.folder / f"{worker.pid}.journal"
    lines = journal.read_text().split("\n")[:-1] if journal.exists() else []
    if not lines:
        return None
    segment, number, last = lines[-1].split(" ")
    return (segment, int(number), int(last)) if int(last) >= epoch else None


def stopped_within(trials: Trials, worker: Process, epoch: int) -> tuple[str, int, int] | None:
    """Stop a worker where it has begun this epoch of a trial, or a later one; give where."""
    if is_within(trials, worker, epoch) is None:
        return None
    worker.stop()
    found = is_within(trials, worker, epoch)
    if found is None:  # it was quicker
        worker.send(signal.SIGCONT)
    return found


def saved(trials: Trials, number: int) -> int:
    """Give the epochs that are in the newest checkpoint of a trial."""
    files = trials.folder.glob(f"search.ledger.checkpoints/*/trial-{number:04d}/*.tar")
    return max(int(file.name.partition("-")[0]) for file in files)


def ends_well(process: Process, trials: Trials) -> None:
    assert process.wait() == 0, process.output
    trials.check()


def sentence(process: Process, *words: str) -> None:
    assert process.wait() == ERROR, process.output
    assert re.fullmatch(r"\w+Error: .+\n", process.said), process.said
    for word in words:
        assert word in process.said


def test_a_worker_killed_within_an_epoch_costs_the_epochs_since_the_checkpoint(
    place: Place,
) -> None:
    trials = Trials(place.folder, epochs=EPOCHS, epoch_s=0.2)
    place.scheduler()
    workers = [place.worker() for _ in range(2)]
    drives = driver(place, trials)
    victim = workers[0]
    segment, number, last = wait_for(
        partial(stopped_within, trials, victim, EPOCHS - 2), "a worker late in a trial"
    )
    kept = saved(trials, number)
    assert kept > 0
    victim.kill()
    place.worker()
    trials.hurry()
    ends_well(drives, trials)
    again = {epoch for epoch, times in trials.begun().items() if times > 1}
    assert again == {(segment, number, epoch) for epoch in range(kept, last + 1)}


def test_all_workers_killed_and_pruned_trials_come_out_the_same(place: Place) -> None:
    trials = Trials(place.folder, epochs=9, epoch_s=0.1, pruning="halving")
    place.scheduler()
    workers = [place.worker() for _ in range(2)]
    drives = driver(place, trials)
    for worker in workers:
        wait_for(partial(is_within, trials, worker, 1), "a promoted trial")
    for worker in workers:
        worker.kill()
    for _ in range(2):
        place.worker()
    trials.hurry()
    ends_well(drives, trials)


def test_a_driver_killed_at_every_tenth_trial_makes_the_trials_of_an_undisturbed_one(
    place: Place,
) -> None:
    trials = Trials(place.folder, n_trials=60, epochs=2, epoch_s=0.1)
    for ended in (10, 20, 30):
        drives = driver(place, trials, local=True)
        trials.wait_until_ended(ended)
        drives.kill()
        assert trials.ended() < 60
    trials.hurry()
    ends_well(driver(place, trials, local=True), trials)


def test_a_driver_killed_in_the_midst_of_planning_plans_the_same_again(place: Place) -> None:
    trials = Trials(place.folder, epochs=2)
    for flag in ("slow", "planning"):
        (place.folder / flag).unlink(missing_ok=True)
    (place.folder / "slow").touch()
    for _ in range(2):
        drives = driver(place, trials, local=True)
        wait_for((place.folder / "planning").exists, "the driver to plan")
        drives.kill()
        (place.folder / "planning").unlink()
    assert trials.ended() == 4
    (place.folder / "slow").unlink()
    ends_well(driver(place, trials, local=True), trials)
    assert set(trials.begun().values()) == {1}


def test_workers_go_on_without_their_driver_and_nothing_is_done_twice(place: Place) -> None:
    trials = Trials(place.folder, epochs=EPOCHS, epoch_s=0.1)
    place.scheduler()
    worker = place.worker()
    drives = driver(place, trials)
    wait_for(partial(is_within, trials, worker, 1), "a worker within a trial")
    drives.kill()
    trials.hurry()
    wait_for(
        lambda: sum(trials.begun().values()) >= 4 * EPOCHS, "the round to be done without a driver"
    )
    ends_well(driver(place, trials), trials)
    assert set(trials.begun().values()) == {1}


def test_a_killed_scheduler_ends_in_a_sentence_and_another_one_goes_on(place: Place) -> None:
    trials = Trials(place.folder, epochs=EPOCHS, epoch_s=0.1)
    scheduler = place.scheduler()
    worker = place.worker()
    drives = driver(place, trials)
    trials.wait_until_ended(1)
    scheduler.kill()
    sentence(drives, "SiteError: ", "run again to go on")
    worker.kill()
    assert trials.ended() >= 1
    place.scheduler()
    place.worker()
    trials.hurry()
    ends_well(driver(place, trials), trials)


def test_trials_that_fail_are_tried_three_times_and_the_search_goes_on(place: Place) -> None:
    trials = Trials(place.folder, faults={"1": "raise", "2": "nan"})
    place.scheduler()
    for _ in range(2):
        place.worker()
    ends_well(driver(place, trials), trials)
    begun = trials.begun()
    assert [begun["", 1, epoch] for epoch in range(3)] == [1, 3, 0]
    assert [begun["", 2, epoch] for epoch in range(3)] == [1, 1, 0]
    found = {trial["number"]: trial for trial in trials.document()["trials"]}
    assert [found[number]["state"] for number in range(4)] == [
        "complete", "failed", "failed", "complete",
    ]  # fmt: skip
    assert found[1]["error"].startswith("ValueError: no such event (trials.py, line ")
    assert found[2]["error"] == "loss is nan"
    assert len(found) == 8


def test_a_segment_whose_files_are_missing_fails_and_the_others_go_on(place: Place) -> None:
    (place.folder / "barrel.root").touch()
    trials = Trials(
        place.folder,
        n_trials=4,
        epochs=2,
        segments=[
            {"name": "barrel", "files": [str(place.folder / "barrel.root")]},
            {"name": "endcap", "files": [str(place.folder / "endcap.root")]},
        ],
    )
    ends_well(driver(place, trials, local=True), trials)
    found = trials.document()
    states = {(trial["segment"], trial["state"]) for trial in found["trials"]}
    assert states == {("barrel", "complete"), ("endcap", "failed")}
    assert list(found["best"]) == ["barrel"]
    (said,) = [each for each in found["warnings"] if each.startswith("no trial of segment endcap")]
    assert "endcap.root of segment endcap is not there: see its path" in said
    assert {segment for segment, _, _ in trials.begun()} == {"barrel"}


def test_a_full_disk_at_the_ledger_ends_in_a_sentence_and_nothing_is_lost(place: Place) -> None:
    trials = Trials(place.folder, n_trials=200, epochs=2)
    drives = driver(place, trials, "--file-limit", "60000", local=True)
    sentence(drives, "CampaignError: ", "what was committed before is kept", "make room")
    kept = trials.ended()
    assert 0 < kept < 200
    trials.n_trials = kept + 8
    ends_well(driver(place, trials, local=True), trials)


def test_a_ledger_cut_short_is_refused_in_a_sentence(place: Place) -> None:
    trials = Trials(place.folder, epochs=1)
    ends_well(driver(place, trials, local=True), trials)
    with trials.path.open("r+b") as file:
        file.truncate(trials.path.stat().st_size // 2)
    sentence(driver(place, trials, local=True), "InputError: ", "is damaged")
