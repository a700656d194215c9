import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.command import main
from benchmarks.simulation import COMMITTED, WAITING, World, ours, plain_map

WORLD = World(workers=60, hours=0.5, trickle_s=60.0, death_h=1.0, preemptible=0.3, preempt_h=0.5)


def test_the_quick_form_measures_and_reports(tmp_path: Path) -> None:
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.md"
    parts = ["--only", "toys", "--only", "pool", "--only", "simulation", "--plots", str(tmp_path)]
    results = main([*parts, "--quick", "--json", str(numbers), "--markdown", str(page)])
    found = {what.name: what.median for what in results.pool}
    assert found["pool, ledger on disk"] > 0.0
    assert 17.0 < found["ledger, blocks of 20,000 toys"] < 30.0
    assert results.toys["examples/workspace.json"].adaptive > 0.0
    assert all(outcome.once for outcome in results.variants)
    assert json.loads(numbers.read_text())["simulation"][0]["name"] == "pool"
    assert "| pool, ledger on disk |" in page.read_text()
    assert (tmp_path / "simulation.svg").stat().st_size < 200_000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_toy_is_committed_exactly_once(seed: int) -> None:
    outcome = ours(replace(WORLD, seed=seed))
    assert outcome.once
    assert outcome.workers_seen > WORLD.workers


def test_the_same_seed_gives_the_same_numbers() -> None:
    def run(seed: int) -> object:
        return replace(ours(replace(WORLD, seed=seed)), exchange_us=0.0)

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_all_time_of_the_workers_is_booked() -> None:
    for outcome in (
        ours(WORLD),
        plain_map(WORLD, 60.0, gathered=True, name="map"),
        plain_map(WORLD, 60.0, gathered=False, name="map, kept"),
    ):
        assert sum(outcome.shares.values()) == pytest.approx(1.0, abs=1e-3)


def test_workers_without_dangers_lose_nothing_but_the_end() -> None:
    calm = replace(WORLD, death_h=1e9, preemptible=0.0, walltimes_h=(24.0,), start_s=0.0, hours=1.0)
    shares = ours(calm).shares
    assert shares[COMMITTED] + shares[WAITING] > 0.995
