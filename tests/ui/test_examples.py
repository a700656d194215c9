"""The examples run, and the example workspace is what its script writes."""

from __future__ import annotations

import runpy
from typing import TYPE_CHECKING

import made_up
import pytest

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = made_up.ROOT / "examples"


def test_make_workspace_writes_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "make_workspace.py"
    script.write_bytes((EXAMPLES / "make_workspace.py").read_bytes())
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "workspace.json").read_bytes() == (EXAMPLES / "workspace.json").read_bytes()


def test_limit_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "limit.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("observed: ")
    assert (tmp_path / "limit.png").stat().st_size > 10_000
