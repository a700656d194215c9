"""Payloads whose worker or driver dies, or that fail."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from stories.payloads import PATIENT, WAITING, Traces, gone
from stories.work import wait_for

from hepdask_ml.errors import CampaignError, Interrupted

if TYPE_CHECKING:
    from pathlib import Path

    from stories.processes import Place

pytest.importorskip("optuna")


def saved(folder: Path, number: int) -> bool:
    places = folder.glob(f"payloads.ledger.checkpoints/*/trial-{number:04d}/*.tar")
    return any(places)


def test_a_worker_killed_within_a_payload_leaves_nothing_and_another_one_goes_on(
    place: Place,
) -> None:
    traces = Traces(place.folder / "traces")
    place.scheduler()
    victim = place.worker()
    with place.client() as client:
        running = traces.search(WAITING, trials=1).start(client)
        first = traces.wait_for_attempt(0)
        wait_for(lambda: saved(place.folder, 0), "a checkpoint")
        victim.send(signal.SIGKILL)
        wait_for(lambda: gone(first), "the payload to end with its worker")
        place.worker()
        found = running.result(120)
    assert [trial.values for trial in found.trials] == [{"loss": 0.25}]
    assert len(traces.attempts(0)) == 2


def test_a_payload_goes_on_while_its_driver_is_dead(place: Place) -> None:
    traces = Traces(place.folder / "traces")
    place.scheduler()
    place.worker()
    command = ("-m", "stories.payloads", str(traces.folder), str(place.scheduler_file))
    driver = place.start("driver", *command)
    traces.wait_for_attempt(0)
    driver.kill()
    traces.hurry()
    wait_for(lambda: traces.attempts(1), "the worker to take the other trial")
    assert place.start("driver", *command).wait() == 0
    found = traces.search(PATIENT).results()
    assert [trial.state for trial in found.trials] == ["complete"] * 2
    assert [len(traces.attempts(number)) for number in range(2)] == [1, 1]


def test_a_search_that_is_stopped_takes_its_payloads_up_from_their_checkpoints(
    tmp_path: Path,
) -> None:
    traces = Traces(tmp_path / "traces")
    running = traces.search(WAITING).start(threads=2)
    attempts = [traces.wait_for_attempt(number) for number in range(2)]
    wait_for(lambda: saved(tmp_path, 0) and saved(tmp_path, 1), "two checkpoints")
    running.stop()
    with pytest.raises(Interrupted):
        running.result()
    wait_for(lambda: all(map(gone, attempts)), "the payloads to end")
    found = traces.search(WAITING).run(threads=2)
    assert [trial.values for trial in found.trials] == [{"loss": 0.25}] * 2
    assert [len(traces.attempts(number)) for number in range(2)] == [2, 2]


def test_a_bad_payload_gets_three_attempts_and_the_search_goes_on(tmp_path: Path) -> None:
    traces = Traces(tmp_path / "traces")
    text = """
    echo $$ >> {traces}/$PandaID
    case $PandaID in
    1) echo '{{"status": 5, "message": "no such layer"}}' > output.json;;
    2) if mkdir {traces}/first; then echo '{{"loss": NaN}}' > output.json; fi;;
    3) if mkdir {traces}/second; then head -c 1000001 /dev/zero > output.json; fi;;
    esac
    [ -e output.json ] || echo '{{"loss": 0}}' > output.json
    """
    found = traces.search(text, trials=4).run(threads=2)
    assert [len(traces.attempts(number)) for number in range(4)] == [3, 2, 2, 1]
    assert [trial.state for trial in found.trials] == ["failed", *["complete"] * 3]
    assert 'status 5: "no such layer"' in str(found.trials[0].error)
    assert found.best is not None
    assert found.best.values == {"loss": 0.0}


def test_where_every_payload_fails_the_search_says_why(tmp_path: Path) -> None:
    traces = Traces(tmp_path / "traces")
    with pytest.raises(CampaignError, match="no-such-program"):
        traces.search("no-such-program", trials=4).run(threads=2)
