"""GPUs, simulated by a command that answers as the driver's does; processes are real, CUDA is not.

What ``nvidia-smi`` printed for the fixtures' format is its documented one: no GPU was at hand.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
from distributed import Client
from stories.work import wait_for

from hepdask_ml.errors import InputError, SiteError
from hepdask_ml.facility.cuda import Gpu, dask_setup, gpu_cluster, gpus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Driver = Callable[..., None]

DEVICES = """\
0, NVIDIA A100-SXM4-40GB, 40960, GPU-aaaa1111-0000
1, NVIDIA A100-SXM4-40GB, 40960, GPU-bbbb2222-0000
2, NVIDIA GH200 480GB, [N/A], GPU-bbcc3333-0000
"""
LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa1111-0000)
  MIG 3g.20gb     Device  0: (UUID: MIG-dddd4444-0000)
  MIG 3g.20gb     Device  1: (UUID: MIG-eeee5555-0000)
"""


@pytest.fixture
def driver_sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Put a made-up nvidia-smi in front of the path."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(devices: str = DEVICES, code: int = 0) -> None:
        command = tmp_path / "nvidia-smi"
        command.write_text(
            f"#!{sys.executable}\nimport sys\n"
            f"print({LISTED!r} if '-L' in sys.argv else {devices!r}, end='')\nsys.exit({code})\n"
        )
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return install


@pytest.fixture
def no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_cuda_sim_gives_the_devices(driver_sim: Driver) -> None:
    driver_sim()
    first, _, shared = gpus()
    assert first == Gpu("NVIDIA A100-SXM4-40GB", 40960 * 2**20, "GPU-aaaa1111-0000", "0")
    assert shared.memory_bytes is None


@pytest.mark.usefixtures("no_driver")
def test_without_a_driver_there_are_none() -> None:
    assert gpus() == ()


def test_cuda_sim_of_a_driver_that_fails_gives_none(driver_sim: Driver) -> None:
    driver_sim("NVIDIA-SMI has failed, the driver is not running.\n", code=9)
    assert gpus() == ()
    with pytest.raises(SiteError, match=r"sees none \(nvidia-smi says: NVIDIA-SMI has failed"):
        gpu_cluster(1)


@pytest.mark.parametrize(
    ("visible", "masks"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", ["1"]),
        ("2,0", ["2", "0"]),
        ("0, 1", ["0", "1"]),
        ("0,-1,1", ["0"]),
        ("0,7,1", ["0"]),
        ("GPU-aaaa1111-0000,2", ["GPU-aaaa1111-0000", "2"]),
        ("GPU-aa", ["GPU-aa"]),
        ("GPU-bb", []),
        ("MIG-eeee5555-0000,MIG-dddd4444-0000", ["MIG-eeee5555-0000", "MIG-dddd4444-0000"]),
    ],
)
def test_cuda_sim_sees_what_cuda_would(
    driver_sim: Driver, monkeypatch: pytest.MonkeyPatch, visible: str, masks: list[str]
) -> None:
    driver_sim()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.mask for gpu in gpus()] == masks


def test_cuda_sim_starts_a_worker_for_each_device(
    driver_sim: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver_sim()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-aaaa1111-0000,1")

    def seen() -> tuple[int, str]:
        return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]

    with (
        gpu_cluster(2) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        client.wait_for_workers(2)
        found = client.run(seen)
        assert sorted(mask for _, mask in found.values()) == ["2", "GPU-aaaa1111-0000"]
        assert all(address.startswith("tcp://127.0.0.1:") for address in found)
        threads = client.nthreads()
        assert set(threads.values()) == {1}
        resources = [one["resources"] for one in client.scheduler_info()["workers"].values()]
        assert resources == [{"GPU": 1}] * 2
        before = dict(found.values())
        victim = min(before)
        os.kill(victim, 9)

        def again() -> dict[int, str]:
            now = dict(client.run(seen, on_error="ignore").values())
            return now if len(now) == 2 and victim not in now else {}

        after = wait_for(again, "another worker")
        assert sorted(after.values()) == sorted(before.values()), "on the same device"


def test_cuda_sim_refuses_more_than_there_are(
    driver_sim: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver_sim()
    with pytest.raises(SiteError, match=r"4 GPUs are asked for, .* sees 3 \(nvidia-smi lists 3\)"):
        gpu_cluster(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(SiteError, match=r'sees 1 \(.* lists 3, CUDA_VISIBLE_DEVICES is "1"\)'):
        gpu_cluster(2)


@pytest.mark.usefixtures("no_driver")
def test_asked_for_and_absent_is_an_error_and_never_a_run_on_the_processor() -> None:
    with pytest.raises(SiteError, match=r"1 GPU is asked .* sees none \(no NVIDIA driver"):
        gpu_cluster(1)


def test_other_numbers_of_workers_are_refused() -> None:
    with pytest.raises(InputError, match="workers is 3 and gpus is 2: there is one worker for"):
        gpu_cluster(2, workers=3)


@dataclass
class OneOfSeveral:
    """What a nanny tells of its worker."""

    name: str
    resources: dict[str, float]
    env: dict[str, str] = field(default_factory=dict)


def masked(name: str, number: int) -> str:
    nanny: Any = OneOfSeveral(name, {"GPU": float(number)})
    dask_setup(nanny)
    return cast("str", nanny.env["CUDA_VISIBLE_DEVICES"])


def test_workers_of_one_job_share_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-bbbb,5,6")
    assert [masked(f"job-7-{i}", 2) for i in (0, 1)] == ["3,GPU-bbbb", "5,6"]


def test_cuda_sim_workers_share_all_devices_where_none_were_given(driver_sim: Driver) -> None:
    driver_sim()
    assert [masked(f"job-{i}", 1) for i in (0, 1, 2)] == ["0", "1", "2"]


def test_a_worker_without_its_devices_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(
        SiteError, match="worker job-1 has 0 of 1 GPUs: CUDA_VISIBLE_DEVICES is '0'"
    ):
        masked("job-1", 1)
