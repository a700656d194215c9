"""Campaigns and graphs on CPUs and made-up GPUs, mixed and failing: one limit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from made_up import counting, one_bin, two_bins
from made_up_gpu import SomeHaveGpus, made_up_gpu
from rich.console import Console

from hepdask_ml import HepdaskError, InputError, toy_limit, toy_limit_graph, upper_limit
from hepdask_ml.campaign.ledger import MEMORY, open_ledger, read_ledger
from hepdask_ml.campaign.unit import Block
from hepdask_ml.errors import GpuError
from hepdask_ml.inference import engines
from hepdask_ml.inference.toys import FIRST_ON_GPU
from hepdask_ml.limits import runner as runner_module
from hepdask_ml.limits.forecast import forecast
from hepdask_ml.limits.runner import MOST_TOYS
from hepdask_ml.ui import show
from hepdask_ml.ui.account import account

if TYPE_CHECKING:
    from pathlib import Path

    from hepdask_ml.campaign.campaign import Campaign
    from hepdask_ml.inference.limit import Limit

SCAN = [0.5, 1.0, 2.0, 4.0]


def document(found: Limit) -> str:
    """Everything that a limit says."""
    return json.dumps(found.to_json())


@pytest.fixture(scope="module")
def coarse() -> str:
    """The limit of a coarse adaptive scan on the CPU."""
    return document(toy_limit(two_bins(), precision=0.15, engine="cpu").run())


@pytest.mark.parametrize("make", [two_bins, counting])
def test_a_campaign_on_gpus_is_the_quick_limit(make: Any) -> None:
    quick = upper_limit(make(), scan=SCAN, toys=700, seed=5, engine="cpu")
    with made_up_gpu() as gpu:
        campaign = toy_limit(make(), scan=SCAN, toys=700, seed=5, block_s=0.05, engine="gpu")
        found = campaign.run(threads=3)
    assert sum(gpu.launches) >= 700 * 2 * len(SCAN)
    assert document(found) == document(quick)


def test_workers_with_and_without_gpus_share_a_campaign(coarse: str, tmp_path: Path) -> None:
    campaign: Campaign[Limit] = toy_limit(
        two_bins(), precision=0.15, ledger=tmp_path / "a", block_s=0.01
    )
    campaign.runner = mixed = SomeHaveGpus(campaign.runner)  # type: ignore[arg-type]
    with made_up_gpu() as gpu:
        found = campaign.run(threads=4)
    assert document(found) == coarse
    assert mixed.used["cpu"]
    assert mixed.used["gpu"]
    assert gpu.launches


@pytest.mark.parametrize("fails_at", [1, 3])
def test_a_gpu_that_fails_gives_its_block_back(fails_at: int, coarse: str) -> None:
    campaign: Campaign[Limit] = toy_limit(two_bins(), precision=0.15, block_s=0.001)
    campaign.runner = SomeHaveGpus(campaign.runner)  # type: ignore[arg-type]
    with made_up_gpu(fails_at) as gpu:
        found = campaign.run(threads=2)
        failures = campaign._kept.failures()  # type: ignore[union-attr]
    assert gpu.failed
    assert document(found) == coarse
    assert not failures, "no block is to blame"


def test_without_a_gpu_the_campaign_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hepdask_ml.likelihood.kernels_gpu.unusable", lambda: "there is none")
    with pytest.raises(HepdaskError, match="the engine gpu was asked for, but there is none"):
        toy_limit(one_bin(), scan=[1.0], toys=50, engine="gpu").run()


def test_a_ledger_is_taken_up_with_another_engine(tmp_path: Path, coarse: str) -> None:
    path = tmp_path / "a.ledger"
    with made_up_gpu():
        loose = toy_limit(two_bins(), precision=0.3, ledger=path, engine="gpu").run()
    assert loose.engine == "GPU of each worker (as asked for)"
    found = toy_limit(two_bins(), precision=0.15, ledger=path, engine="cpu").run()
    assert found.engine == "CPU of each worker (as asked for)"
    with read_ledger(path) as ledger:
        told = account(ledger)
        assert told.engine == found.engine
        assert told.to_json()["engine"] == "cpu"
        console = Console(width=100)
        with console.capture() as shown:
            console.print(show.status_view(ledger))
    assert "engine       CPU of each worker (as asked for)" in shown.get()


def test_each_process_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_RACES", {})
    monkeypatch.setattr(engines, "TRIAL_S", 1e-4)
    campaign = toy_limit(two_bins(), scan=SCAN, toys=700, block_s=0.01)
    with made_up_gpu() as gpu:
        found = campaign.run(threads=3)
    assert found.engine == "CPU or GPU, as each worker chose"
    assert gpu.launches
    [race] = engines._RACES.values()
    assert race.threads in {1, 2, 3}


def block_of(campaign: Campaign[Any], toys: int) -> Block:
    with open_ledger(MEMORY, campaign.identity) as ledger:
        unit = campaign.strategy.plan(ledger)[0]
    return Block(unit.key, unit.spec, 0, toys, "token")


def test_ranges_on_a_gpu_grow_until_they_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = toy_limit(one_bin(), scan=[1.0], toys=10, engine="gpu")
    clock = iter([0.0, 0.1, 0.1, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8])
    monkeypatch.setattr(runner_module, "monotonic", lambda: next(clock))
    with made_up_gpu() as gpu:
        done = campaign.runner.run(block_of(campaign, 13 * FIRST_ON_GPU), lambda: False)
    assert done.reached == 13 * FIRST_ON_GPU
    assert gpu.launches == [FIRST_ON_GPU * n for n in (1, 2, 4, 4)] + [2 * FIRST_ON_GPU]
    assert MOST_TOYS >= FIRST_ON_GPU


def test_a_gpu_is_not_started_for_a_worker_that_has_to_go() -> None:
    campaign = toy_limit(one_bin(), scan=[1.0], toys=10)
    with made_up_gpu() as gpu:
        done = campaign.runner.run(block_of(campaign, 10), lambda: True)
    assert done.reached == 0
    assert not gpu.launches


def test_a_plan_is_made_with_the_cpu() -> None:
    with made_up_gpu() as gpu:
        plan = forecast(toy_limit(one_bin(), scan=[1.0], toys=50, engine="gpu"))
    assert plan.toys == 100
    assert not gpu.launches


def test_a_graph_on_gpus_is_the_quick_limit() -> None:
    quick = upper_limit(two_bins(), scan=[1.0, 2.0], toys=700, engine="cpu")
    with made_up_gpu() as gpu:
        graph = toy_limit_graph(two_bins(), scan=[1.0, 2.0], toys=700, blocks=3, engine="gpu")
        found = graph.compute(scheduler="threads")  # type: ignore[no-untyped-call]
    assert sum(gpu.launches) == 2800
    assert document(found) == document(quick)
    assert found.engine == "GPU of each worker (as asked for)"


def test_graphs_of_unlike_engines_share_no_toys() -> None:
    cpu, gpu = (
        {key for key in dict(graph.dask) if str(key).startswith(("toys", "point", "limit"))}
        for graph in (
            toy_limit_graph(two_bins(), scan=[1.0], toys=50, engine=engine)
            for engine in ("cpu", "gpu")
        )
    )
    assert cpu
    assert not cpu & gpu


def test_a_graph_needs_the_gpu_that_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hepdask_ml.likelihood.kernels_gpu.unusable", lambda: "there is none")
    graph = toy_limit_graph(one_bin(), scan=[1.0], toys=50, engine="gpu")
    with pytest.raises(GpuError, match="but there is none"):
        graph.compute(scheduler="threads")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("make", [toy_limit, toy_limit_graph])
def test_another_engine_is_refused(make: Any) -> None:
    with pytest.raises(InputError, match="the engine is 'cuda': choose from auto, cpu, gpu"):
        make(one_bin(), engine="cuda")


def test_the_engine_is_no_part_of_what_a_ledger_is_of() -> None:
    one, other = (toy_limit(one_bin(), engine=engine) for engine in ("auto", "gpu"))
    assert one.identity == other.identity
