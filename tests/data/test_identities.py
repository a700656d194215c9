"""A file is the same wherever it lies, and another one once it was written anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hepdask_ml.data.forms import Look, look_at
from hepdask_ml.data.identities import Identity, identity
from hepdask_ml.data.sources import Source

uproot: Any = pytest.importorskip("uproot")


def write(path: Path, n_events: int = 10) -> Path:
    with uproot.recreate(path) as file:
        file["Events"] = {"x": np.zeros(n_events)}
    return path


def seen(path: Path, **about: Any) -> Identity:
    source = Source(str(path), "Events", **about)
    return identity(source, look_at(source, source.url, ()))


def test_a_copy_is_the_same_file(tmp_path: Path) -> None:
    first = write(tmp_path / "a.root")
    copy = Path(shutil.copy(first, tmp_path / "b.root"))
    assert seen(first).key == seen(copy).key
    assert seen(first).n_events == 10


def test_a_file_written_anew_is_another(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    before, after = seen(write(path)), seen(write(path))
    assert before.size == after.size
    assert before.key != after.key


def test_what_is_read_of_it_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.root")
    keys = {
        seen(path).key,
        seen(path, dataset="signal").key,
        seen(path, steps=((0, 5),)).key,
        seen(path, steps=((0, 5), (5, 10))).key,
    }
    assert len(keys) == 4


@pytest.mark.parametrize("uuid", ["", "00000000-0000-0000-0000-000000000000"])
def test_a_file_without_a_number_is_known_by_its_place(uuid: str) -> None:
    look = Look(3, uuid=uuid, size=7)
    keys = {identity(Source(url), look).key for url in ("a.root", "b.root")}
    assert len(keys) == 2


def test_way_through_json() -> None:
    found = identity(Source("a.root", "t", "d", steps=((0, 2),)), Look(3, uuid="12", size=7))
    assert Identity.of_json(json.loads(json.dumps(found.to_json()))) == found
