"""Histograms in ROOT files become templates by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from made_up_templates import search

from hepdask_ml.data.templates.build import build
from hepdask_ml.data.templates.collect import collect
from hepdask_ml.data.templates.with_root import RootFiles, read_root
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

uproot = pytest.importorskip("uproot")
hist = pytest.importorskip("hist")


def written(path: Path, histograms: dict[str, Any]) -> str:
    """Write made-up histograms as TH1D."""
    with uproot.recreate(path) as file:
        for name, found in histograms.items():
            made = hist.Hist(hist.axis.Variable(found.edges.tolist()), storage="weight")
            made.view().value, made.view().variance = found.values, found.variances
            file[name] = made
    return str(path)


def named(pattern: str, nominal: str) -> dict[str, Any]:
    """Histograms of the search with names of a pattern."""
    return {
        (nominal if systematic == "nominal" else pattern).format(
            channel=channel, process=process, systematic=systematic
        ): found
        for channel, there in search().items()
        for process, by_systematic in there.items()
        for systematic, found in by_systematic.items()
    }


def refusal(*given: Any, **named: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_root(*given, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "nominal"),
    [
        ("{channel}/{process}_{systematic}", "{channel}/{process}"),
        ("h_{process}_{channel}_{systematic}", "h_{process}_{channel}"),
        ("{systematic}/{channel}/{process}", "nominal/{channel}/{process}"),
    ],
)
def test_names_are_taken_apart_by_patterns(tmp_path: Path, pattern: str, nominal: str) -> None:
    file = written(tmp_path / "made.root", named(pattern, nominal))
    found = read_root(file, [pattern, nominal], processes=("signal", "ttbar", "wjets", "data"))
    assert found.inputs == collect(search()).inputs
    assert found.sources == (file,)
    made = build(found, signal="signal", treatment={"symmetrise": "mirror"})
    assert made.report.sources == (file,)


def test_processes_tell_where_their_names_end(tmp_path: Path) -> None:
    one = search()["cr"]["wjets"]["nominal"]
    file = written(tmp_path / "made.root", {"single_top": one, "single_top_jes_Up": one})
    patterns = ["{process}_{systematic}", "{process}"]
    found = read_root(file, patterns, {"up": "_Up"}, processes=["single_top"])
    assert found.processes == ("single_top",)
    assert found.systematics == ("jes",)


def test_a_file_for_each_process(tmp_path: Path) -> None:
    one, two = (search()["sr"][name]["nominal"] for name in ("ttbar", "wjets"))
    files = {
        "tt": [written(tmp_path / "a.root", {"sr/m": one})],
        "w": written(tmp_path / "b.root", {"sr/m": two, "sr/n": two}),
    }
    found = read_root(files, "{channel}/m")
    assert found.channels["sr"]["w"].nominal.values.tolist() == two.values.tolist()
    (entry,) = found.entries
    assert entry.what == "left out"
    assert entry.detail.endswith("b.root that no pattern fits: sr/n")


def test_objects_of_uproot_are_histograms(tmp_path: Path) -> None:
    one = search()["sr"]["ttbar"]["nominal"]
    with uproot.open(written(tmp_path / "made.root", {"sr/z": one})) as file:
        found = collect({"sr": {"z": file["sr/z"]}})
    template = found.channels["sr"]["z"].nominal
    assert template.values.tolist() == one.values.tolist()
    assert template.edges.tolist() == one.edges.tolist()


def test_variances_of_an_unweighted_histogram_are_its_counts(tmp_path: Path) -> None:
    path = tmp_path / "plain.root"
    with uproot.recreate(path) as file:
        file["z"] = np.histogram([0.5, 1.5, 1.5], bins=2, range=(0, 2))
    with RootFiles() as files:
        found = files.histogram(str(path), "z", "it")
    assert found.variances is not None
    assert found.variances.tolist() == [1.0, 2.0]


def test_what_is_wrong_with_files_and_names_is_told(tmp_path: Path) -> None:
    file = written(tmp_path / "made.root", {"sr/z": search()["sr"]["ttbar"]["nominal"]})
    assert "no histogram of" in refusal(file, "h_{process}")
    assert "that no pattern fits: sr/z" in refusal(file, "h_{process}")
    assert "has {sample}: it may have {channel}, {process}, {systematic}" in refusal(
        file, "{sample}"
    )
    assert "has no {process}: put it in" in refusal(file, "{channel}/z")
    assert "which the files say" in refusal({"z": file}, "{channel}/{process}")
    twice = written(tmp_path / "twice.root", {"sr/z": search()["sr"]["ttbar"]["nominal"]})
    assert "is a second histogram of" in refusal([file, twice], "{channel}/{process}")
    assert "cannot be read" in refusal(str(tmp_path / "none.root"), "{process}")
    broken = tmp_path / "broken.root"
    broken.write_bytes(b"no root file at all, but of some length" * 10)
    assert "is no ROOT file that can be read" in refusal(str(broken), "{process}")
    with (
        RootFiles() as files,
        pytest.raises(InputError, match='has no histogram "sr/y": did you mean "sr/z"'),
    ):
        files.histogram(file, "sr/y", "it")


def test_a_truncated_file_is_told_by_name(tmp_path: Path) -> None:
    patterns = ["{channel}/{process}_{systematic}", "{channel}/{process}"]
    whole = tmp_path / "whole.root"
    written(whole, named(*patterns))
    content = whole.read_bytes()
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        cut = tmp_path / "cut.root"
        cut.write_bytes(content[: int(part * len(content))])
        assert str(cut) in refusal(str(cut), patterns)
