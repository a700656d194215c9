"""A gang trains as one process does, whoever of it is killed, leaves or comes."""

from __future__ import annotations

import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
from campaign.made_up_work import WHO, OneRound
from distributed import Client, LocalCluster
from stories.processes import local_cluster
from stories.work import wait_for
from training.made_up_ranks import block, dies, fails, gang, kill, notes, processes, train, trials

from hepdask_ml.campaign.driver import drive
from hepdask_ml.campaign.ledger import MEMORY, open_ledger
from hepdask_ml.campaign.link import DaskLink, LocalLink
from hepdask_ml.campaign.unit import Unit
from hepdask_ml.errors import HepdaskError, InputError
from hepdask_ml.training import elastic
from hepdask_ml.training.elastic import GangRunner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from hepdask_ml.campaign.link import Link

torch = pytest.importorskip("torch")

EPOCHS = 6
RELATIVE = 1e-9
"""Sums of 16 terms of double precision in another order, through 36 steps of Adam.

Adam divides by the root of the squared gradients, so that rounding of 1e-16 grows by some orders
where gradients are small; 1e-14 is what was seen.
"""


def never() -> bool:
    return False


def losses(*results: bytes) -> list[float]:
    rows = [row for result in results for row in json.loads(result)["rows"]]
    assert [row[0] for row in rows] == list(range(len(rows)))
    return [row[1]["loss"] for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], dict[str, Any]]:
    """Losses and weights of one process, without any gang."""
    folder = tmp_path_factory.mktemp("one")
    done = trials(folder).run(block(EPOCHS, weights=str(folder / "weights")), never)
    return losses(done.result), torch.load(folder / "weights", weights_only=True)


def test_a_gang_trains_as_one_process_does(
    undisturbed: tuple[list[float], dict[str, Any]], tmp_path: Path
) -> None:
    weights, world = tmp_path / "weights", 3
    there = block(EPOCHS, notes=str(tmp_path / "notes"), weights=str(weights))
    done = gang(tmp_path, world).run(there, never)
    assert done.reached == EPOCHS
    np.testing.assert_allclose(losses(done.result), undisturbed[0], rtol=RELATIVE)
    found = torch.load(weights, weights_only=True)
    for name, expected in undisturbed[1].items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-7, err_msg=name)
    assert {(rank, size) for _, rank, size, _ in notes(tmp_path / "notes")} == {
        (rank, world) for rank in range(world)
    }


def test_it_stops_early_and_goes_on_without_a_gang(
    undisturbed: tuple[list[float], dict[str, Any]], tmp_path: Path
) -> None:
    seen = tmp_path / "notes"

    def some() -> bool:
        return len(notes(seen)) >= 4

    first = gang(tmp_path, 2).run(block(EPOCHS, notes=str(seen), batch_s=0.05), some)
    assert 0 < first.reached < EPOCHS
    rest = trials(tmp_path).run(block(EPOCHS, first.reached), never)
    assert rest.reached == EPOCHS
    np.testing.assert_allclose(losses(first.result, rest.result), undisturbed[0], rtol=RELATIVE)


def test_a_killed_rank_costs_one_interval(
    undisturbed: tuple[list[float], dict[str, Any]], tmp_path: Path
) -> None:
    seen = tmp_path / "notes"
    there = block(EPOCHS, notes=str(seen), batch_s=0.05)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(gang(tmp_path, 2).run, there, never)
        kill(wait_for(lambda: begun(seen, 3, 0, 2), "the fourth epoch"))
        done = running.result()
    np.testing.assert_allclose(losses(done.result), undisturbed[0], rtol=RELATIVE)
    # A checkpoint of each epoch: the one that was at work when it was killed is done again, and
    # the one before it if it was not saved yet.
    of_first = [epoch for epoch, rank, *_ in notes(seen) if rank == 0]
    last, again = next(pair for pair in pairwise(of_first) if pair[1] <= pair[0])
    assert last >= 3
    assert again >= last - 1
    assert of_first == [*range(last + 1), *range(again, EPOCHS)]
    assert not processes(os.getpid())


def test_an_error_in_one_rank_is_that_of_the_block(tmp_path: Path) -> None:
    with pytest.raises(HepdaskError, match=r"rank 1: ArithmeticError: made up \(made_up_ranks.py"):
        gang(tmp_path, 2, fails).run(block(rank=1), never)
    assert not processes(os.getpid())


def test_ranks_that_die_again_and_again_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elastic, "LOSSES", 1)
    with pytest.raises(
        HepdaskError, match=r"ranks died 1 times \(rank 0 of 1 has died\): .* memory"
    ):
        gang(tmp_path, 1, dies).run(block(), never)


def test_what_a_gang_needs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a gang of 0 was asked for"):
        gang(tmp_path, 0)
    with pytest.raises(InputError, match="needs checkpoints"):
        GangRunner(type(trials(tmp_path))(train), 2)


class Trial:
    """A campaign of one trial."""

    def __init__(self, runner: GangRunner, client: Client | None, **params: Any) -> None:
        self.runner, self.client = runner, client
        self.told = threading.Event()
        self.unit = Unit("trial-0000", EPOCHS, block(EPOCHS, **params).spec, ordered=True)

    def run(self) -> list[bytes]:
        """Work it to its end; give the results of its blocks."""
        with open_ledger(MEMORY, WHO) as ledger:
            link = self._link(ledger.campaign)
            try:
                drive(ledger, OneRound(self.unit), link, self.told)
            finally:
                link.close()
            return [result for _, _, result in ledger.results(self.unit.key)]

    def _link(self, campaign: str) -> Link:
        if self.client is None:
            return LocalLink(self.runner, 1)
        return DaskLink(self.client, campaign, self.runner)


@contextmanager
def working(trial: Trial) -> Iterator[Future[list[bytes]]]:
    """Work a trial in a thread, which ends with the test."""
    with ThreadPoolExecutor(1) as thread:
        try:
            yield thread.submit(trial.run)
        finally:
            trial.told.set()


@contextmanager
def workers(number: int) -> Iterator[tuple[LocalCluster, Client]]:
    with local_cluster(number) as cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
        yield cluster, client


def begun(seen: Path, epoch: int, rank: int, world: int) -> int:
    """Give the process that began so far an epoch or a later one; 0 if there is none."""
    found = [note for note in notes(seen) if note[0] >= epoch and note[1:3] == (rank, world)]
    return found[-1][3] if found else 0


@pytest.mark.slow
def test_workers_join_between_stretches(
    undisturbed: tuple[list[float], dict[str, Any]], tmp_path: Path
) -> None:
    seen, gate = tmp_path / "notes", tmp_path / "gate"
    runner = GangRunner(trials(tmp_path, block_s=2.0), 2)
    with workers(1) as (cluster, client):
        trial = Trial(runner, client, notes=str(seen), gate=str(gate))
        with working(trial) as running:
            wait_for(lambda: begun(seen, 1, 0, 1), "a world of one")
            cluster.scale(2)  # type: ignore[no-untyped-call]
            client.wait_for_workers(2)
            gate.touch()
            results = running.result()
    worlds = [world for _, rank, world, _ in notes(seen) if rank == 0]
    assert worlds[:2] == [1, 1]
    assert set(worlds[2:]) == {2}
    np.testing.assert_allclose(losses(*results), undisturbed[0], rtol=RELATIVE)


@pytest.mark.slow
def test_the_worker_that_leads_is_killed(
    undisturbed: tuple[list[float], dict[str, Any]], tmp_path: Path
) -> None:
    seen = tmp_path / "notes"
    with workers(2) as (_, client):
        trial = Trial(gang(tmp_path, 2), client, notes=str(seen), batch_s=0.05)
        with working(trial) as running:
            rank = wait_for(lambda: begun(seen, 2, 0, 2), "the third epoch of two")
            others = {note[3] for note in notes(seen)} - {rank}
            kill(psutil.Process(rank).ppid())
            # The ranks end with their leader.
            wait_for(lambda: not any(map(psutil.pid_exists, {rank, *others})), "the ranks to end")
            results = running.result()
    np.testing.assert_allclose(losses(*results), undisturbed[0], rtol=RELATIVE)
    of_first = [epoch for epoch, rank, *_ in notes(seen) if rank == 0]
    assert len(of_first) <= EPOCHS + 2


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "guides" / "elastic.md"
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    for code in re.findall(
        r"^```\{code-block\} python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    ):
        exec(compile(code, str(page), "exec"), names)
    [trial] = names["result"].trials
    assert len(trial.rows) == 3
    assert trial.rows[-1].metrics["loss"] < 1.0
