"""What a check of a site finds, with real workers; the judgement of facts, with made-up ones."""

from __future__ import annotations

import json
import logging
import os
import site as installed
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Client, LocalCluster

import hepdask_ml
from hepdask_ml.errors import SiteError
from hepdask_ml.facility.check import SCHEMA, Report, check, findings
from hepdask_ml.facility.site import site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hepdask_ml.facility.site import Site


@contextmanager
def scheduler(protocol: str = "tcp://") -> Iterator[LocalCluster]:
    """A scheduler without workers, as somebody may have started it."""
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=0,
        host="127.0.0.1",
        protocol=protocol,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster


@contextmanager
def worker(address: str, packages: Path, *words: str, **environment: str) -> Iterator[None]:
    """A worker whose Python has nothing but what is in a folder."""
    command = ["-S", "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--no-dashboard"]
    process = subprocess.Popen(
        [sys.executable, *command, "--host", "127.0.0.1", *words],
        cwd=packages,
        env={**os.environ, "PYTHONPATH": str(packages), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with Client(address) as client:  # type: ignore[no-untyped-call]
            client.wait_for_workers(1, timeout=60)
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """All packages that are installed, but hepdask-ml."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for place in installed.getsitepackages():
        for entry in Path(place).iterdir():
            if "hepdask_ml" not in entry.name and entry.suffix != ".pth":
                (folder / entry.name).symlink_to(entry)
    return folder


def checked(place: Site, patience_s: float = 60.0) -> Report:
    return check(place, name="here", kind="made up", patience_s=patience_s)


def test_a_local_site_works_real() -> None:
    told: list[str] = []
    report = check(
        site("local", workers=1), name="local", kind="local", patience_s=60.0, tell=told.append
    )
    assert report.ok, report.sentence
    assert report.sentence.startswith("the site local works")
    assert told[:2] == ["opening the site", "waiting for a worker"]
    facts = report.facts
    assert facts["versions"]["worker"]["hepdask-ml"] == hepdask_ml.__version__
    assert facts["processors"]["threads"] == 1
    assert facts["memory"]["limit_bytes"] <= facts["memory"]["total_bytes"]
    assert facts["scratch"]["free_bytes"] > 0
    assert facts["connection"]["reach"] == ["this machine only"]
    assert 0.0 < facts["network"]["round_trip_s"] < 10.0
    assert facts["network"]["bytes_per_s"] > 0.0
    assert abs(facts["clock"]["difference_s"]) <= facts["clock"]["error_s"] + 0.1
    assert facts["walltime"]["left_s"] is None


def test_the_report_is_a_document_real() -> None:
    document = checked(site("local", workers=1)).to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["schema"] == SCHEMA == "hepdask-ml/site-check/1"
    assert document["ok"] is True
    assert document["faults"] == []


def test_a_worker_without_hepdask_ml_is_told_and_asked_all_the_same_real(bare: Path) -> None:
    with scheduler() as cluster, worker(cluster.scheduler_address, bare):
        report = checked(site(cluster.scheduler_address))
    assert not report.ok
    assert "the worker has no hepdask-ml: install version" in report.sentence
    assert report.facts["versions"]["worker"]["hepdask-ml"] is None
    assert report.facts["versions"]["scheduler"]["hepdask-ml"] == hepdask_ml.__version__
    assert report.facts["scratch"]["free_bytes"] > 0


def test_a_worker_with_another_hepdask_ml_is_told_real(bare: Path) -> None:
    other = bare / "hepdask_ml-0.0.7.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: hepdask-ml\nVersion: 0.0.7\n")
    with scheduler() as cluster, worker(cluster.scheduler_address, bare):
        report = checked(site(cluster.scheduler_address))
    assert not report.ok
    assert "the worker has hepdask-ml 0.0.7: install version" in report.sentence


def test_a_gpu_that_is_asked_for_and_not_seen_is_a_fault_real(bare: Path) -> None:
    with (
        scheduler() as cluster,
        worker(
            cluster.scheduler_address,
            bare,
            "--resources",
            "GPU=1",
            PATH="/nowhere",
            CUDA_VISIBLE_DEVICES="3",
        ),
    ):
        report = checked(site(cluster.scheduler_address))
    [fault] = [each for each in report.findings if each.topic == "gpus"]
    assert fault.is_fault
    assert "1 GPU asked for" in fault.sentence
    assert "CUDA_VISIBLE_DEVICES is '3'" in fault.sentence


def test_gpus_are_told_where_the_driver_is_simulated(bare: Path, tmp_path: Path) -> None:
    command = tmp_path / "bin" / "nvidia-smi"
    command.parent.mkdir()
    command.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "*driver_version) echo 550.54.15 ;;\n"
        '*) echo "0, NVIDIA A100, 40960, GPU-1"; echo "1, NVIDIA A100, 40960, GPU-2" ;;\n'
        "esac\n"
    )
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    words = ("--resources", "GPU=1")
    with (
        scheduler() as cluster,
        worker(cluster.scheduler_address, bare, *words, PATH=path, CUDA_VISIBLE_DEVICES="1"),
    ):
        gpus = checked(site(cluster.scheduler_address)).facts["gpus"]
    assert gpus["asked"] == 1
    assert gpus["seen"] == [{"name": "NVIDIA A100", "memory_bytes": 40960 * 2**20}]
    assert gpus["driver"] == "550.54.15"
    assert gpus["cupy"] is (find_spec("cupy") is not None)


def test_a_scheduler_without_workers_is_a_fault_at_once_real() -> None:
    with scheduler() as cluster:
        report = checked(site(cluster.scheduler_address), patience_s=3600.0)
        assert f"dask worker {cluster.scheduler_address}" in report.sentence
    assert not report.ok
    assert report.facts == {}


@dataclass(frozen=True)
class Deserted:
    """A site whose worker never comes."""

    says: str = ""

    @contextmanager
    def open(self) -> Iterator[Client]:
        with scheduler() as cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
            if self.says:
                logging.getLogger("hepdask_ml.facility.keeper").info("%s", self.says)
            yield client


def test_a_worker_that_does_not_come_is_waited_for_so_long_real() -> None:
    report = checked(Deserted(), patience_s=1.0)
    assert not report.ok
    assert "no worker came within 1 s: wait for longer" in report.sentence


def test_what_the_batch_system_says_is_passed_on_real() -> None:
    report = checked(Deserted("job 7 waits: QOSMaxGRES"), patience_s=1.0)
    assert "(job 7 waits: QOSMaxGRES)" in report.sentence


@dataclass(frozen=True)
class Broken:
    """A site that breaks when it is opened, or while it is used."""

    error: Exception
    late: bool = False

    @contextmanager
    def open(self) -> Iterator[Client]:
        if not self.late:
            raise self.error
        # Closed twice, a default client would stay Dask's default for ever.
        quiet = {"set_as_default": False}
        with scheduler() as cluster, Client(cluster, **quiet) as client:  # type: ignore[no-untyped-call]
            client.close()
            try:
                yield client
            except SiteError:
                raise self.error from None


@pytest.mark.parametrize("late", [False, True])
def test_what_a_site_says_of_its_end_is_the_fault_real(late: bool) -> None:
    report = checked(Broken(SiteError("sbatch refused: no such partition"), late))
    assert report.sentence.endswith("does not work: sbatch refused: no such partition")


def test_a_lost_connection_is_a_fault() -> None:
    report = checked(Broken(OSError("reset by peer")))
    assert "the connection broke while it was checked (reset by peer)" in report.sentence


def test_logging_is_as_before() -> None:
    logger = logging.getLogger("hepdask_ml.facility")
    before = logger.level, logger.propagate, list(logger.handlers)
    checked(Broken(SiteError("it is away")))
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


@pytest.fixture(scope="module")
def sound() -> Report:
    """What a check of a site finds that is in order."""
    return checked(site("local", workers=1))


def wrong(sound: Report, topic: str, **changes: Any) -> list[tuple[bool, str]]:
    facts = {**sound.facts, topic: {**sound.facts[topic], **changes}}
    return [(each.is_fault, each.sentence) for each in findings(facts) if each.topic == topic]


@pytest.mark.parametrize(
    ("topic", "changes", "fault", "words"),
    [
        ("gpus", {"asked": 2}, True, "2 GPUs asked for, but nvidia-smi shows none"),
        (
            "gpus",
            {"asked": 1, "seen": [{"name": "A100", "memory_bytes": None}], "cupy": False},
            False,
            "CuPy is not installed where the worker runs",
        ),
        ("walltime", {"asked_s": 7200.0}, False, "cannot see when its job ends"),
        (
            "walltime",
            {"asked_s": 7200.0, "left_s": 600.0, "source": "squeue"},
            False,
            "the job ends in 10 min (squeue), though 2 h were asked for",
        ),
        ("walltime", {"fault": "HEPDASK_ML_END is 'x'"}, True, "HEPDASK_ML_END"),
        ("scratch", {"fault": "Read-only file system"}, True, "cannot write to"),
        ("scratch", {"free_bytes": 5e6}, False, "only 5 MB are free"),
        ("scratch", {"filesystem": "nfs4"}, False, "is on a network (nfs4)"),
        ("scratch", {"filesystem": "fuse.sshfs"}, False, "is on a network"),
        ("scratch", {"filesystem": "tmpfs"}, False, "is memory (tmpfs)"),
        ("processors", {"threads": 64, "usable": 2}, False, "64 threads on 2 processors"),
        ("connection", {"reach": ["every network"]}, False, "not encrypted"),
        ("network", {"round_trip_s": 0.5}, False, "takes 0.50 s"),
        ("network", {"bytes_per_s": 2e5}, False, "only 200 kB/s"),
        ("clock", {"difference_s": -90.0}, False, "differ by -90 s"),
        ("versions", {"workers": 3, "different": ["tcp://b:1"]}, False, "as tcp://b:1 is not"),
    ],
)
def test_what_is_wrong_is_told_of_made_up_facts(
    sound: Report, topic: str, changes: dict[str, Any], fault: bool, words: str
) -> None:
    assert wrong(sound, topic) == []
    [(is_fault, sentence)] = wrong(sound, topic, **changes)
    assert is_fault is fault
    assert words in sentence


@pytest.mark.parametrize(
    ("topic", "changes"),
    [
        ("connection", {"reach": ["every network"], "encrypted": True}),
        ("walltime", {"asked_s": 120.0, "left_s": 70.0}),
        ("walltime", {"asked_s": 7200.0, "left_s": 7100.0}),
        ("clock", {"difference_s": 60.0, "error_s": 90.0}),
        ("gpus", {"asked": 1, "seen": [{"name": "A100", "memory_bytes": None}], "cupy": True}),
    ],
)
def test_what_is_in_order_is_not_told_of_made_up_facts(
    sound: Report, topic: str, changes: dict[str, Any]
) -> None:
    assert wrong(sound, topic, **changes) == []


@pytest.mark.parametrize(
    ("package", "version", "fault", "words"),
    [
        ("python", "2.7.18", True, "runs Python 2.7.18"),
        ("hepdask-ml", None, True, "has no hepdask-ml"),
        ("distributed", "2020.1.0", False, "has another distributed than is here"),
        ("msgpack", None, False, "has another msgpack than is here"),
    ],
)
@pytest.mark.parametrize("side", ["scheduler", "worker"])
def test_other_versions_are_told_of_made_up_facts(
    sound: Report, side: str, package: str, version: str | None, fault: bool, words: str
) -> None:
    there = {**sound.facts["versions"][side], package: version}
    [(is_fault, sentence)] = wrong(sound, "versions", **{side: there})
    assert is_fault is fault
    assert words in sentence
    assert side in sentence


def test_faults_come_first(sound: Report) -> None:
    facts = {
        **sound.facts,
        "gpus": {**sound.facts["gpus"], "asked": 1},
        "processors": {**sound.facts["processors"], "threads": 1000},
        "scratch": {**sound.facts["scratch"], "filesystem": "nfs", "fault": None},
    }
    report = replace(sound, facts=facts, findings=tuple(findings(facts)))
    assert [each.is_fault for each in report.findings] == [True, False, False]
    assert "GPU" in report.sentence
    assert len(report.to_json()["warnings"]) == 2


def test_warnings_do_not_keep_a_site_from_working(sound: Report) -> None:
    facts = {**sound.facts, "network": {"round_trip_s": 1.0, "bytes_per_s": 1e8}}
    report = replace(sound, facts=facts, findings=tuple(findings(facts)))
    assert report.ok
    assert report.sentence == "the site here works, with 1 warning: campaigns can run there"
