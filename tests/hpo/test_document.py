"""Files of JSON and YAML: what is read, and what is refused."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.document import parse_json, read_document

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"lr": 1e-3,\n\t"values": [1, "x", null]}'),
        ("a.JSON", '\ufeff{"lr": 1e-3, "values": [1, "x", null]}'),
        ("a.yaml", "lr: 1e-3\nvalues: [1, x, null]\n"),
        ("a.txt", '{"lr": 1e-3, "values": [1, "x", null]}'),
    ],
)
def test_files_are_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_document(tmp_path / name) == {"lr": 0.001, "values": [1, "x", None]}
    assert read_document(str(tmp_path / name))["lr"] == 0.001


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", b"{", "a.json is not JSON (line 1, column 2: Expecting"),
        ("a.json", b'{"a": NaN}', "a.json holds NaN: numbers must be finite"),
        ("a.json", b'{"a": -Infinity}', "a.json holds -Infinity: numbers must be finite"),
        ("a.json", b'{"a": 1, "a": 2}', 'a.json has the key "a" twice: drop one of them'),
        ("a.json", b"[" * 100_000, "a.json is nested too deeply: a few levels are enough"),
        ("a.json", b"1" * 5_000, "a.json is not JSON ("),
        ("a.json", b" \n", "a.json is empty: fill it"),
        ("a.yaml", b"a: [1", "is not YAML (line 1, column 6"),
        ("a.yaml", b"a: 1\na: 2", 'the key "a" stands there twice'),
        ("a.yaml", b"!!python/object/apply:os.system [exit]", "is not YAML"),
        ("a.yaml", b"\xff\xfe\x00", "a.yaml is not UTF-8 text: give a YAML file"),
        ("a.pkl", pickle.dumps({"a": 1}), "a.pkl is not UTF-8 text"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_document(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.json cannot be read \(No such file"):
        read_document(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        read_document(tmp_path)


def test_json_is_read_from_text() -> None:
    assert parse_json("[0.0, 1]", "output.json") == [0.0, 1]
    with pytest.raises(InputError, match=r"^output.json is not JSON"):
        parse_json("loss: 1", "output.json")
