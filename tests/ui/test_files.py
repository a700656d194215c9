"""Files of a result: complete, equal for equal runs, and whole or absent."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import made_up
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import hepdask_ml
from hepdask_ml.errors import InputError
from hepdask_ml.inference.pvalues import UNDEFINED, Measured
from hepdask_ml.likelihood.fit import FitStatus
from hepdask_ml.ui import files

if TYPE_CHECKING:
    from hepdask_ml import Limit


@pytest.fixture(scope="module")
def limit() -> Limit:
    return hepdask_ml.upper_limit(made_up.control_region(), toys=300, scan=[0.5, 2.0, 4.0])


@pytest.fixture(scope="module")
def folder(limit: Limit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("limit")
    paths = files.write_limit(limit, place, seconds=2.0, hepdata=True)
    assert all(path.is_file() for path in paths)
    assert {path for path in place.rglob("*") if path.is_file()} == set(paths)
    return place


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_limit_json_is_the_document(limit: Limit, folder: Path) -> None:
    text = (folder / "limit.json").read_text(encoding="utf-8")
    assert text == json.dumps(limit.to_json(), indent=2, allow_nan=False) + "\n"


def test_run_json_holds_what_differs_between_equal_runs(folder: Path) -> None:
    document = read(folder / "run.json")
    assert document["schema"] == "hepdask-ml/run/1"
    assert document["seconds"] == 2.0
    assert document["toys_per_second"] == 900.0
    assert document["version"] == hepdask_ml.__version__
    assert set(document) == {
        "schema", "command", "finished", "seconds", "toys_per_second", "processors",
        "instruction_set", "system", "python", "version", "engine",
    }  # fmt: skip


def test_every_toy_is_a_row(limit: Limit, folder: Path) -> None:
    table = pq.read_table(folder / "toys.parquet")
    assert table.column_names == ["poi", "hypothesis", "index", "q", "poi_hat", "status"]
    columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    for point in limit.points:
        for name, toys in (("sb", point.toys_sb), ("b", point.toys_b)):
            rows = (columns["poi"] == point.mu) & (columns["hypothesis"] == name)
            assert np.array_equal(columns["index"][rows], np.arange(len(toys.q)))
            assert np.array_equal(columns["q"][rows], toys.q)
            assert np.array_equal(columns["poi_hat"][rows], toys.poi_hat)
            statuses = [FitStatus(int(code)).name.lower() for code in toys.status]
            assert columns["status"][rows].tolist() == statuses


def test_cls_follows_from_the_rows(limit: Limit, folder: Path) -> None:
    rows = pq.read_table(folder / "toys.parquet").to_pylist()
    for point in limit.points:
        above = {
            name: np.mean(
                [
                    row["q"] >= point.q_observed
                    for row in rows
                    if row["poi"] == point.mu
                    and row["hypothesis"] == name
                    and row["status"] in {"converged", "not_needed"}
                ]
            )
            for name in ("sb", "b")
        }
        assert above["sb"] / above["b"] == pytest.approx(point.cls.value)


def test_equal_runs_give_equal_files(limit: Limit, folder: Path, tmp_path: Path) -> None:
    files.write_limit(limit, tmp_path, seconds=7.0, hepdata=True)
    for path in folder.rglob("*.*"):
        if path.name != "run.json":
            assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


def test_hepdata_tables_hold_the_numbers(limit: Limit, folder: Path) -> None:
    place = folder / "hepdata"
    general, *tables = yaml.safe_load_all((place / "submission.yaml").read_text(encoding="utf-8"))
    assert "comment" in general
    for table in tables:
        assert {"name", "description", "keywords", "data_file"} <= set(table)
        data = yaml.safe_load((place / table["data_file"]).read_text(encoding="utf-8"))
        assert set(data) == {"independent_variables", "dependent_variables"}
        columns = data["independent_variables"] + data["dependent_variables"]
        assert len({len(column["values"]) for column in columns}) == 1
        assert all(column["header"]["name"] for column in columns)
    limits = yaml.safe_load((place / "limits.yaml").read_text(encoding="utf-8"))
    observed = limits["dependent_variables"][0]["values"][0]
    assert observed == {
        "value": limit.observed.value,
        "errors": [{"symerror": limit.observed.error, "label": "MC stat"}],
    }


def test_hepdata_has_no_nan(limit: Limit, tmp_path: Path) -> None:
    odd = replace(limit, observed=UNDEFINED, expected=(Measured(1.0, 0.0), *limit.expected[1:]))
    files.write_limit(odd, tmp_path, seconds=1.0, hepdata=True)
    limits = yaml.safe_load((tmp_path / "hepdata" / "limits.yaml").read_text(encoding="utf-8"))
    assert limits["dependent_variables"][0]["values"][:2] == [{"value": "-"}, {"value": 1.0}]
    for path in (tmp_path / "hepdata").iterdir():
        assert "nan" not in path.read_text(encoding="utf-8")


def test_test_statistic_is_drawn_at_the_point_nearest_to_the_limit(limit: Limit) -> None:
    def at(observed: Measured, median: Measured) -> float:
        expected = (*limit.expected[:2], median, *limit.expected[3:])
        return files.nearest_point(replace(limit, observed=observed, expected=expected)).mu

    assert at(Measured(3.9, 0.1), UNDEFINED) == 4.0
    assert at(UNDEFINED, Measured(0.6, 0.1)) == 0.5
    assert at(UNDEFINED, UNDEFINED) == 2.0


def test_full_disk_leaves_the_old_file_and_no_part(
    limit: Limit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "limit.json").write_text("old", encoding="utf-8")

    def full(self: Path, *_: Any, **__: Any) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match=r"limit\.json cannot be written \(No space left"):
        files.write_limit(limit, tmp_path, seconds=1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["limit.json"]
    assert (tmp_path / "limit.json").read_bytes() == b"old"


def test_unwritable_folder_is_told(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    with pytest.raises(InputError, match="cannot be written"):
        files.writable_folder(taken / "below")
    assert files.writable_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list((tmp_path / "a" / "b").iterdir())
