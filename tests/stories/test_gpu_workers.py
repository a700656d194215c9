"""A campaign whose GPU fails in its midst, and which CPUs then finish.

The worker and its death are real; the GPU is emulated, and executes the kernels' own text.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
from gpu.emulator import system_compiler
from made_up import control_region
from stories.work import wait_for

from hepdask_ml import SiteError, toy_limit, upper_limit

if TYPE_CHECKING:
    from pathlib import Path

    from stories.processes import Place

SCAN = [0.5, 1.0, 2.0]
TOYS = 20_000


def workers_of(ledger: Path) -> set[str]:
    """Who has committed toys."""
    reading = closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True))
    with reading as db, suppress(sqlite3.OperationalError):  # not made yet
        return {worker for (worker,) in db.execute("SELECT DISTINCT worker FROM block")}
    return set()


@pytest.mark.skipif(not system_compiler(), reason="there is no C++ compiler")
def test_a_gpu_that_fails_gives_its_toys_to_the_cpus(place: Place, tmp_path: Path) -> None:
    ledger = tmp_path / "limit.ledger"
    settings: dict[str, Any] = {"scan": SCAN, "toys": TOYS}

    def campaign(engine: Any) -> Any:
        return toy_limit(control_region(), **settings, ledger=ledger, engine=engine, block_s=0.2)

    place.scheduler()
    with_gpu = place.worker("--preload", "gpu.worker", env={"EMULATED_GPU": str(tmp_path)})
    without = place.worker()
    address, other = place.address_of(with_gpu.pid), place.address_of(without.pid)
    with place.client() as client:
        running = campaign("gpu").start(client)
        wait_for(lambda: ledger.exists() and workers_of(ledger), "toys of the GPU")
        wait_for(lambda: running.campaign.status().faults, "the worker without one")
        assert running.campaign.status().faults == (
            f"worker {other} cannot work: the engine gpu was asked for, but CuPy is not installed: "
            "install hepdask-ml[gpu]",
        )
        (tmp_path / "lost").touch()
        with pytest.raises(SiteError, match="uncorrectable ECC error"):
            running.result(120.0)
        assert with_gpu.alive
        assert workers_of(ledger) == {address}
        limit = campaign("cpu").run(client)
    assert workers_of(ledger) == {address, other}
    cpu = upper_limit(control_region(), **settings, engine="cpu")
    assert limit.to_json() == cpu.to_json()
