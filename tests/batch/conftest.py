"""Batch systems for the tests.

``slurm`` and ``sge`` are real; they are started once and emptied after each test.  The daemons come
from Debian's packages: ``tests/batch/slurm.sh packages`` and ``tests/batch/sge.sh packages``.
Without them the tests are skipped, or fail where HEPDASK_ML_REAL=1 says that they have to be there.

``condor``, ``pbs`` and ``lsf`` are simulations: their commands come first in PATH, and their jobs
are processes of this machine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from batch.real import GridEngine, Slurm, missing, real_grid_engine, real_slurm
from batch.simulated.control import Simulated, simulated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _need(script: str, *commands: str, root: bool = False) -> None:
    reason = ""
    if absent := missing(*commands):
        reason = f"{', '.join(absent)} not found: tests/batch/{script} packages installs it"
    elif root and os.getuid() != 0:
        reason = f"tests/batch/{script} needs root"
    if reason and os.environ.get("HEPDASK_ML_REAL") == "1":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def slurm_system() -> Iterator[Slurm]:
    """Give a real Slurm of four nodes with two processors and two false GPUs each."""
    _need("slurm.sh", "slurmctld", "slurmd", "sbatch", "munged")
    with real_slurm(nodes=4, cpus=2) as system:
        yield system


@pytest.fixture
def slurm(slurm_system: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Give the real Slurm, empty, for the commands of this process, too."""
    for key, value in slurm_system.env.items():
        monkeypatch.setenv(key, value)
    yield slurm_system
    slurm_system.reset()


@pytest.fixture(scope="session")
def sge_system() -> Iterator[GridEngine]:
    """Give a real Grid Engine of four slots in a network of its own."""
    _need("sge.sh", "sge_qmaster", "sge_execd", "qsub", "unshare", "nsenter", "ip", root=True)
    with real_grid_engine(slots=4) as system:
        yield system


@pytest.fixture
def sge(sge_system: GridEngine) -> Iterator[GridEngine]:
    """Give the real Grid Engine, empty."""
    yield sge_system
    sge_system.reset()


@pytest.fixture
def condor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    """Give a simulation of HTCondor."""
    with simulated("condor", tmp_path / "condor", monkeypatch) as system:
        yield system


@pytest.fixture
def pbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    """Give a simulation of PBS."""
    with simulated("pbs", tmp_path / "pbs", monkeypatch) as system:
        yield system


@pytest.fixture
def lsf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    """Give a simulation of LSF."""
    with simulated("lsf", tmp_path / "lsf", monkeypatch) as system:
        yield system
