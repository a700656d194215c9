"""What the tests of places share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from made_up_slurm import SimulatedSlurm, simulated_slurm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def slurm_sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedSlurm]:
    """Give a simulated Slurm whose commands come first in PATH; its jobs end with the test."""
    with simulated_slurm(tmp_path, monkeypatch) as system:
        yield system
