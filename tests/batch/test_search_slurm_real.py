"""A search on a real Slurm, whose trials are longer than the walltime of a job."""

from __future__ import annotations

import sys
from time import sleep
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest
from stories.work import wait_for

from hepdask_ml import open_site, search
from hepdask_ml.campaign.ledger import read_ledger

if TYPE_CHECKING:
    from pathlib import Path

    from batch.real import Slurm

    from hepdask_ml import Context

# The nodes do not have this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SPACE = {"rate": {"type": "float", "low": 0.1, "high": 0.9}}
EPOCHS = 68


class Walk:
    """A model of sorts: where it goes depends on every step before."""

    def __init__(self) -> None:
        self.place = 0.0

    def get_state(self) -> dict[str, float]:
        return {"place": self.place}

    def set_state(self, state: dict[str, float]) -> None:
        self.place = state["place"]


def objective(epoch_s: float) -> Any:
    """Give an objective whose epochs take some time."""

    def train(params: dict[str, Any], context: Context) -> None:
        walk, dice = Walk(), np.random.default_rng(context.seed)
        for epoch in context.epochs(walk=walk, dice=dice):
            sleep(epoch_s)
            walk.place = (1.0 - params["rate"]) * walk.place + dice.normal()
            context.report(epoch, {"loss": abs(walk.place)})

    return train


@pytest.mark.timeout(600)
def test_slurm_real_trials_go_on_in_the_next_walltime_where_they_were(
    slurm: Slurm, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "optimiser": "optuna:random", "n_trials": 4, "parallel": 4, "epochs": EPOCHS,
    }  # fmt: skip
    undisturbed = search(objective(0.0), SPACE, **options).run()
    ledger = tmp_path / "search.ledger"
    campaign = search(objective(0.9), SPACE, ledger=ledger, interval_s=5.0, **options)
    campaign.check()
    with open_site(
        "slurm",
        workers=4,
        walltime="00:01:00",
        memory="300 MB",
        host="127.0.0.1",
        worker_options=["--host", "127.0.0.1"],
        shared=str(tmp_path / "shared"),
    ) as client:
        running = campaign.start(client)
        wait_for(lambda: running.done or campaign.status().lent == 4, "all trials to be worked")
        sleep(10.0)
        slurm.scancel(slurm.jobs()[0].id)
        found = running.result(timeout=400)
    for trial, expected in zip(found.trials, undisturbed.trials, strict=True):
        assert trial.params == expected.params
        assert [row.metrics for row in trial.rows] == [row.metrics for row in expected.rows]
    with read_ledger(ledger) as book:
        blocks = {record.unit.key: book.results(record.unit.key) for record in book.records()}
        assert len({worker for worker, *_ in book.paces()}) > 4, "jobs of several walltimes"
    for parts in blocks.values():
        assert parts[0][0] == 0
        assert parts[-1][1] == EPOCHS
        assert [stop for _, stop, _ in parts[:-1]] == [start for start, _, _ in parts[1:]]
    assert sum(map(len, blocks.values())) > 4, "trials were handed back and taken up again"
