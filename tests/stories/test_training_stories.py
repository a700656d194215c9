"""Trainings whose worker or driver is killed, whose disk is full, or whose checkpoint is damaged.

Whatever happens, the weights in the end are those of a search that nobody disturbed.
"""

from __future__ import annotations

import os
import resource
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch")

from made_up_training import EPOCHS
from stories.trainings import Outcome, begun, outcome, search
from stories.work import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stories.processes import Place


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    made = search(tmp_path_factory.mktemp("undisturbed"))
    found = outcome(made, made.run())
    assert [state for state, _, _ in found] == ["complete"] * 2
    return found


def hold(folder: Path, epoch: int) -> None:
    """Let every trial stay in the middle of an epoch."""
    (folder / "disturb").write_text(f"{epoch} 2 hold")


def held(folder: Path) -> int:
    """Wait until one does; give its process."""
    file = folder / "disturb.held"
    return int(wait_for(lambda: file.exists() and file.read_text(), "a trial in mid-epoch"))


def release(folder: Path) -> None:
    (folder / "disturb").unlink()


def newest(folder: Path) -> Path:
    """The newest checkpoint of any trial that begun."""
    return max(folder.glob("search.ledger.checkpoints/*/*/*.tar"), key=lambda file: file.name)


def test_a_worker_killed_in_mid_epoch_costs_that_epoch_alone(
    place: Place, undisturbed: Outcome
) -> None:
    place.scheduler()
    workers = [place.worker() for _ in range(2)]
    made = search(place.folder)
    hold(place.folder, 3)
    with place.client() as client:
        running = made.start(client)
        victim = held(place.folder)
        os.kill(victim, signal.SIGKILL)
        release(place.folder)
        found = running.result(120)
    assert any(not worker.alive for worker in workers)
    assert outcome(made, found) == undisturbed
    again = {name: times for name, times in begun(place.folder).items() if times > 1}
    assert list(again.values()) == [2]
    assert next(iter(again)).endswith(" 3")


def test_the_driver_may_be_killed_while_trials_go_on(place: Place, undisturbed: Outcome) -> None:
    place.scheduler()
    place.worker()
    command = ("-m", "stories.trainings", str(place.folder), str(place.scheduler_file))
    hold(place.folder, 2)
    driver = place.start("driver", *command)
    held(place.folder)
    driver.kill()
    release(place.folder)
    wait_for(lambda: len(begun(place.folder)) == 2 * EPOCHS, "the worker to go on alone")
    assert place.start("driver", *command).wait() == 0
    made = search(place.folder)
    assert outcome(made, made.results()) == undisturbed
    assert set(begun(place.folder).values()) == {1}


def test_after_worker_and_driver_are_killed_the_search_goes_on(
    place: Place, undisturbed: Outcome
) -> None:
    place.scheduler()
    worker = place.worker()
    command = ("-m", "stories.trainings", str(place.folder), str(place.scheduler_file))
    hold(place.folder, 4)
    driver = place.start("driver", *command)
    held(place.folder)
    driver.kill()
    worker.kill()
    release(place.folder)
    made = search(place.folder)
    assert outcome(made, made.run()) == undisturbed  # where it went on matters as little


def test_a_damaged_checkpoint_is_passed_over_and_the_trial_says_so(
    place: Place, undisturbed: Outcome
) -> None:
    place.scheduler()
    worker = place.worker()
    made = search(place.folder)
    hold(place.folder, 4)
    with place.client() as client:
        running = made.start(client)
        held(place.folder)
        worker.kill()
        damaged = newest(place.folder)
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        release(place.folder)
        place.worker()
        found = running.result(120)
    assert outcome(made, found) == undisturbed
    [notes] = [trial.notes for trial in found.trials if trial.notes]
    assert len(notes) == 1
    assert notes[0].startswith("the checkpoint of epoch 4 in ")
    assert "is damaged" in notes[0]
    again = {name[-1] for name, times in begun(place.folder).items() if times > 1}
    assert again == {"3", "4"}


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow larger, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_fails_the_trial_with_a_sentence_and_the_search_goes_on(tmp_path: Path) -> None:
    options: dict[str, Any] = {"space": {"lr": 0.02, "width": [8, 4096]}}
    (tmp_path / "undisturbed").mkdir()
    reference = search(tmp_path / "undisturbed", **options)
    expected = outcome(reference, reference.run())
    made = search(tmp_path, **options)
    with file_limit(200_000):
        found = made.run()
    fails = next(trial for trial in found.trials if trial.params["width"] == 4096)
    assert sorted(trial.state for trial in found.trials) == ["complete", "failed"]
    assert fails.state == "failed"
    assert fails.error is not None
    assert fails.error.startswith("the checkpoint of epoch 1 cannot be written to ")
    assert "(File too large): make room there" in fails.error
    # Once there is room, it is tried again.
    again = search(tmp_path, retry_failed=True, **options)
    assert outcome(again, again.run()) == expected
