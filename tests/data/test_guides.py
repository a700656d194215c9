"""The code of the guides to data runs where its libraries are, and prints what stands below it."""

from __future__ import annotations

import contextlib
import io
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import pytest
from markdown_it import MarkdownIt

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
NEEDS = {
    "datasets": ["uproot", "torch"],
    "event-campaigns": ["uproot", "hist", "awkward"],
    "features": ["awkward"],
    "scan": ["uproot", "awkward"],
    "streams": ["uproot", "awkward", "coffea"],
    "templates": ["uproot", "hist"],
    "tensors": ["uproot", "awkward"],
}


@pytest.mark.filterwarnings("ignore::Warning:coffea")
@pytest.mark.parametrize("name", NEEDS)
def test_the_guide_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in NEEDS[name]:
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    guide = GUIDES / f"{name}.md"
    tokens = [t for t in MarkdownIt().parse(guide.read_text(encoding="utf-8")) if t.type == "fence"]
    names: dict[str, object] = {"__name__": "__main__"}
    for token, after in pairwise([*tokens, tokens[0]]):
        if token.info != "py":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), mpl.rc_context({"backend": "agg"}):
            exec(compile(token.content, str(guide), "exec"), names)
        if printed.getvalue():
            assert after.info == "text"
            assert printed.getvalue() == after.content
