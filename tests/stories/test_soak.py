"""The soak in its short form."""

from pathlib import Path

import pytest
from stories.kills import Soak


@pytest.mark.slow
def test_a_dozen_random_kills_change_nothing(tmp_path: Path) -> None:
    summary = Soak(tmp_path, kills=12, seed=3, pause_s=0.7).run()
    assert not summary.faults
    assert summary.kills.total() == 12
    assert summary.drivers["done"] == 1
