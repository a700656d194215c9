"""A batch site as a whole, over a simulated Slurm: what is opened, kept, told and left behind."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hepdask_ml.errors import InputError, SiteError
from hepdask_ml.facility import batch as batch_module
from hepdask_ml.facility import keeper as keeper_module
from hepdask_ml.facility.batch import BatchSite
from hepdask_ml.facility.systems import BatchOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from made_up_slurm import SimulatedSlurm


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., BatchSite]:
    def make(workers: int = 1, **options: Any) -> BatchSite:
        plain: dict[str, Any] = {
            "shared": str(tmp_path / "shared"),
            "logs": str(tmp_path / "logs"),
            "host": "127.0.0.1",
            "worker_options": ["--host", "127.0.0.1"],
            "memory": "500 MB",
        }
        return BatchSite("slurm", workers=workers, options=BatchOptions(**{**plain, **options}))

    return make


def test_slurm_sim_works_and_is_gone_afterwards(
    slurm_sim: SimulatedSlurm, made: Callable[..., BatchSite], tmp_path: Path
) -> None:
    with made(2).open() as client:
        client.wait_for_workers(2, timeout=120)
        assert client.submit(sum, [1, 2]).result() == 3
        assert slurm_sim.jobs() == ["1", "2"]
        [folder] = (tmp_path / "shared").iterdir()
        assert set(json.loads((folder / "jobs.json").read_text())) == {"1", "2"}
    assert slurm_sim.cancelled() == ["1", "2"]
    assert client.status == "closed"
    assert not list((tmp_path / "shared").iterdir())


def test_slurm_sim_refusal_is_an_error_with_its_words_and_nothing_is_left(
    slurm_sim: SimulatedSlurm, made: Callable[..., BatchSite], tmp_path: Path
) -> None:
    (slurm_sim.folder / "refusal").write_text("sbatch: error: invalid partition specified: nope")
    with pytest.raises(SiteError, match="invalid partition specified: nope"), made(3).open():
        pass
    assert slurm_sim.jobs() == []
    assert not list((tmp_path / "shared").iterdir())


def test_slurm_sim_jobs_that_end_at_once_are_an_error_with_their_last_words(
    slurm_sim: SimulatedSlurm,
    made: Callable[..., BatchSite],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper_module, "LOOK_S", 0.05)
    monkeypatch.setattr(keeper_module, "HASTE_S", 0.2)

    with (
        pytest.raises(SiteError, match=r'came to nothing.*"there is no such module"'),
        made(setup=["echo there is no such module >&2; exit 1"]).open() as client,
    ):
        client.submit(sum, [1, 2]).result()


def test_slurm_sim_waiting_jobs_of_a_killed_driver_are_taken_over(
    slurm_sim: SimulatedSlurm, made: Callable[..., BatchSite], tmp_path: Path
) -> None:
    (slurm_sim.folder / "waits").touch()
    with made(2).open():
        [folder] = (tmp_path / "shared").iterdir()
        left = (folder / "jobs.json").read_text()
    for gone in slurm_sim.folder.glob("*.gone"):  # as if the driver had been killed
        gone.unlink()
    folder.mkdir()
    (folder / "jobs.json").write_text(left)
    with made(2).open():
        assert slurm_sim.jobs() == ["1", "2"]
        assert slurm_sim.cancelled() == []
    assert slurm_sim.cancelled() == ["1", "2"]


def test_error_within_passes_and_the_jobs_are_cancelled(
    slurm_sim: SimulatedSlurm, made: Callable[..., BatchSite]
) -> None:
    (slurm_sim.folder / "waits").touch()

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), made().open():
        fail()
    assert slurm_sim.cancelled() == ["1"]


def test_scheduler_takes_the_next_port_where_one_is_taken(
    slurm_sim: SimulatedSlurm, made: Callable[..., BatchSite]
) -> None:
    (slurm_sim.folder / "waits").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with made(ports=f"{port}:{port + 20}").open() as client:
            found = int(client.scheduler.address.rpartition(":")[2])  # type: ignore[union-attr]
            assert port < found <= port + 20
        with (
            pytest.raises(
                SiteError, match=rf"cannot listen on 127\.0\.0\.1, ports {port} to {port}"
            ),
            made(ports=f"{port}").open(),
        ):
            pass


@pytest.mark.parametrize(
    "ports", ["", "a", "10:", ":10", "0", "10100:10000", "1:70000", "1:2:3", "-1:5"]
)
def test_ports_that_are_no_range_are_refused(ports: str) -> None:
    with pytest.raises(InputError, match=r"is no range of ports"):
        BatchSite("slurm", options=BatchOptions(ports=ports))


def test_interface_that_is_not_there_is_told(
    slurm_sim: SimulatedSlurm, made: Callable[..., BatchSite]
) -> None:
    with (
        pytest.raises(InputError, match=r"options\.interface is no-such-interface"),
        made(host=None, interface="no-such-interface").open(),
    ):
        pass


def test_workers_that_are_not_asked_for_are_four(
    slurm_sim: SimulatedSlurm, made: Callable[..., BatchSite]
) -> None:
    (slurm_sim.folder / "waits").touch()
    plain = made()
    with BatchSite("slurm", options=plain.options).open():
        assert len(slurm_sim.jobs()) == batch_module.WORKERS == 4
