"""How many workers a site should have."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.facility.demand import wanted

IDLE_S = 300.0


def demand(free: int = 0, busy: int = 0, dry_s: float = IDLE_S) -> dict[str, Any]:
    return {"free": free, "lent": busy, "busy": [f"tcp://{i}" for i in range(busy)], "dry_s": dry_s}


@pytest.mark.parametrize(
    ("asked", "workers"),
    [
        pytest.param(None, 8, id="no campaign yet"),
        pytest.param(demand(free=1, dry_s=0.0), 8, id="steps are free"),
        pytest.param(demand(busy=2, dry_s=IDLE_S - 1.0), 8, id="dry for a moment"),
        pytest.param(demand(busy=2), 2, id="dry for long"),
        pytest.param(demand(), 1, id="nothing to do at all"),
        pytest.param(demand(busy=20), 8, id="more are busy than were asked for"),
    ],
)
def test_workers_that_are_wanted(asked: dict[str, Any] | None, workers: int) -> None:
    assert wanted(8, asked, IDLE_S) == workers


@given(
    most=st.integers(1, 1000),
    free=st.integers(0, 3),
    busy=st.integers(0, 50),
    dry_s=st.floats(0.0, 1e6),
    idle_s=st.floats(0.0, 1e6),
)
def test_never_none_and_never_too_many(
    most: int, free: int, busy: int, dry_s: float, idle_s: float
) -> None:
    assert 1 <= wanted(most, demand(free, busy, dry_s), idle_s) <= most
