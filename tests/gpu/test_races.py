"""The threads of a team never race: ThreadSanitizer watches them fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpu.emulator import system_compiler

FOUND = 66


def _runtime() -> Path | None:
    """ThreadSanitizer's library, where the compiler has one that can be preloaded."""
    if not (compiler := system_compiler()):
        return None
    asked = [*compiler, "-print-file-name=libtsan.so"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    path = Path(answer)
    return path.resolve() if path.is_absolute() and path.exists() else None


def _watched(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    tests = Path(__file__).parents[1]
    environment = os.environ | {
        "LD_PRELOAD": str(_runtime()),
        "TSAN_OPTIONS": f"exitcode={FOUND}",
        "PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(
        [sys.executable, source, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.fixture
def sanitiser(tmp_path: Path) -> None:
    if _runtime() is None:
        pytest.skip("the compiler has no ThreadSanitizer to preload")
    probe = tmp_path / "probe.py"
    probe.write_text("")
    if (done := _watched(tmp_path, str(probe))).returncode:
        pytest.skip(f"ThreadSanitizer does not start here: {done.stderr.strip()[:200]}")


@pytest.mark.slow
@pytest.mark.usefixtures("sanitiser")
def test_threads_of_a_team_do_not_race(tmp_path: Path) -> None:
    done = _watched(tmp_path, str(Path(__file__).with_name("races.py")))
    assert not done.returncode, done.stderr[:5000]
