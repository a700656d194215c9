"""Files of segments, phpo's among them."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.segments import Segment, read_segments

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENTED = [
    {"files": ["file_1", "file_3"], "name": "name_A"},
    {"files": ["file_2"], "name": "name_B"},
]
"""The example of phpo's manual."""


def test_a_file_of_phpo_is_read(tmp_path: Path) -> None:
    path = tmp_path / "seg.json"
    path.write_text(json.dumps(DOCUMENTED), encoding="utf-8")
    assert read_segments(path) == (
        Segment("name_A", ("file_1", "file_3")),
        Segment("name_B", ("file_2",)),
    )
    assert read_segments(str(path)) == read_segments(DOCUMENTED)


def test_segments_have_files_or_datasets_or_parameters(tmp_path: Path) -> None:
    path = tmp_path / "seg.yaml"
    path.write_text(
        "- {name: a, datasets: [d1, d2]}\n- {name: b, params: {eta: 0.5}}\n- {name: c}\n"
    )
    a, b, c = read_segments(path)
    assert a.inputs == ("d1", "d2")
    assert (b.inputs, b.params) == ((), {"eta": 0.5})
    assert c == Segment("c")
    assert pickle.loads(pickle.dumps(b)) == b


def test_parameters_become_plain() -> None:
    segment = Segment("a", params={"eta": np.float64(0.5), "bins": (1, 2)})
    assert json.dumps(segment.params) == '{"eta": 0.5, "bins": [1, 2]}'
    assert read_segments([segment, {"name": "b"}])[0] is segment


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ([], "the segments are []: they must be a list of mappings"),
        ({"name": "a"}, 'the segments are {"name": "a"}: they must be a list of mappings'),
        ([3], "[0] is 3: it must be a mapping with a name"),
        ([{"files": ["f"]}], "[0].name is missing: add it"),
        ([{"name": "a", "file": ["f"]}], '[0].file is no setting: did you mean "files"?'),
        ([{"name": " "}], '[0].name is " ": it must not be empty'),
        ([{"name": "../a"}], '[0].name is "../a": it must be fit for the name of a file'),
        ([{"name": "a\n"}], "it must be fit for the name of a file"),
        ([{"name": 1}], "[0].name is 1: it must be text"),
        ([{"name": "a"}, {"name": "a"}], '[1].name is "a", as [0].name is: rename one'),
        ([{"name": "a", "files": []}], "[0].files is []: it must not be empty"),
        ([{"name": "a", "files": "f"}], '[0].files is "f": it must be a list'),
        ([{"name": "a", "files": [1]}], "[0].files[0] is 1: it must be text"),
        ([{"name": "a", "files": [""]}], "[0].files holds an empty name: fill it or drop it"),
        ([{"name": "a", "files": ["f"], "datasets": ["d"]}], "[0].files is given beside datasets"),
    ],
)  # fmt: skip
def test_wrong_segments_are_refused(tmp_path: Path, written: Any, sentence: str) -> None:
    path = tmp_path / "seg.json"
    path.write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_segments(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert sentence in str(caught.value)


def test_a_parameter_that_is_no_value_is_refused() -> None:
    with pytest.raises(InputError, match=r"\[0\].params: nan is no value"):
        read_segments([{"name": "a", "params": {"x": float("nan")}}])
