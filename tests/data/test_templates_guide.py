"""The code of the guide runs where hist and uproot are, and prints what stands below it."""

from __future__ import annotations

import contextlib
import io
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "templates.md"


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hist")
    pytest.importorskip("uproot")
    monkeypatch.chdir(tmp_path)
    tokens = [t for t in MarkdownIt().parse(GUIDE.read_text(encoding="utf-8")) if t.type == "fence"]
    names: dict[str, object] = {}
    for token, after in pairwise([*tokens, tokens[0]]):
        if token.info != "py":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(token.content, str(GUIDE), "exec"), names)
        if printed.getvalue():
            assert after.info == "text"
            assert printed.getvalue() == after.content
