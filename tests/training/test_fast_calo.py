"""The example of a segmented training makes showers that look like those it was given."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

pytest.importorskip("torch")
pytest.importorskip("optuna")

EXAMPLE = Path(__file__).parents[2] / "examples" / "fast_calo.py"


@pytest.mark.slow
def test_fast_calo_finds_a_good_generator_for_each_segment(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE), "--small", "--folder", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"MPLBACKEND": "agg"}
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(\w+-eta\d) +\d +([\d.]+) +([\d.]+)  batch", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in rows] == [
        f"{particle}-eta{number}"
        for particle in ("photon", "electron", "pion")
        for number in range(5)
    ]
    # chi2/ndf between generated showers and others that nobody has seen; 1 is perfect.
    checked = [float(chi2) for _, _, chi2 in rows]
    assert median(checked) < 3.0
    assert max(checked) < 12.0
    assert "30 trials of 15 segments are in" in done.stdout
    assert (tmp_path / "fast_calo.png").stat().st_size > 10_000
