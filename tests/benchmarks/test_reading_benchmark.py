"""The measurement of the readers measures the same tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.reading import FORMS, measured, plain, write

from hepdask_ml.data.with_uproot import opened

pytest.importorskip("uproot")


def test_all_forms_read_a_file(tmp_path: Path) -> None:
    path = tmp_path / "events.root"
    stacks = write(path, "lz4", 1000)
    found = measured(path, "Events", stacks, 1, anew=True)
    assert (found.events, found.branches) == (1000, 60)
    assert set(found.seconds) == set(found.processors) == set(FORMS)
    with opened(str(path)) as file:
        names = {name for stack in plain(file["Events"]) for name in stack.branches}
    assert names == {name for stack in stacks for name in stack.branches} | {
        "nJet",
        "nMuon",
        "nElectron",
    }
