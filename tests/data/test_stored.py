"""Small documents are there whole or not at all, wherever they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from hepdask_ml.data.stored import read_text, write_text
from hepdask_ml.errors import HepdaskError, InputError


@pytest.fixture(params=["disk", "store"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = request.node.name.replace("[", "-").replace("]", "")
    return str(tmp_path / "new" / "a.json") if request.param == "disk" else f"memory://{name}/a"


def test_there_and_back(where: str) -> None:
    assert read_text(where) is None
    write_text(where, "Häufung")
    write_text(where, "jets")
    assert read_text(where) == "jets"


def test_nothing_is_left_of_what_cannot_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_text(path, "before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HepdaskError, match=r"a\.json cannot be written \(No space left"):
        write_text(path, "after")
    assert read_text(path) == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_folders_and_files_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path, "x")
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / "file" / "a.json", "x")
    with pytest.raises(InputError, match="cannot be read"):
        read_text(tmp_path)


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no text"):
        read_text(tmp_path / "a")


def test_unknown_protocols() -> None:
    with pytest.raises(InputError, match="nothing can be kept in nowhere://a"):
        read_text("nowhere://a")


def test_stores_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **options: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refused)
    with pytest.raises(InputError, match="give a name where that is allowed"):
        write_text("memory://read-only/a", "x")
