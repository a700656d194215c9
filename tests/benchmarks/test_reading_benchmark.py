"""The measurement of reading measures the same tensors in all forms, and what a training waits."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from benchmarks.command import main
from benchmarks.reading import Readings, alone, measured, others
from benchmarks.reading_forms import FLOOR, FORMS, OURS, A, B, C, Events, parts, plain, read, write
from benchmarks.report import Results, tables

pytest.importorskip("uproot")
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Events:
    return write(tmp_path_factory.mktemp("reading") / "events.root", "lz4", 1000)


def test_all_forms_read_a_file(events: Events) -> None:
    rates = measured("lz4", events, alone(), 1)
    assert [rate.form for rate in rates] == [*FORMS] == [A, B, OURS]
    assert all(len(rate.seconds) == len(rate.processor) == 1 for rate in rates)
    peers = others(rates, rates[2])
    assert (times := rates[2].times(peers[B])) is not None
    assert times[0] == rates[1].seconds[0] / rates[2].seconds[0]
    assert rates[0].times(peers[A]) is None
    (table,) = tables(Results({}, reading=[Readings(rates, [], [])]))
    assert [row[:3] for row in table.rows] == [["lz4", "1", form] for form in FORMS]


def test_coffea_returns_the_columns_and_baskets_are_decompressed(events: Events) -> None:
    pytest.importorskip("coffea")
    ways = {key: way for key, way in alone(all_forms=True).items() if key[1] not in FORMS}
    rates = measured("lz4", events, ways, 1, check=False)
    assert {rate.form for rate in rates} == {C, FLOOR}
    assert all(rate.seconds[0] > 0.0 for rate in rates)


def test_an_open_tree_gives_the_same(events: Events) -> None:
    with plain(Path(events.path), events.tree) as found:
        assert set(found.branches) == {*events.branches, "nJet", "nMuon", "nElectron"}
        assert all(read(form, found, 0, 1000) == 1 for form in FORMS)
        measured("open", found, {}, 1)


def test_files_are_cut_at_borders_of_batches(events: Events) -> None:
    long = Events("a.root", "t", 950_000, events.stacks)
    assert parts(long, 4) == [
        (0, 250_000),
        (250_000, 500_000),
        (500_000, 750_000),
        (750_000, 950_000),
    ]


def test_memory_and_a_training_are_measured(tmp_path: Path) -> None:
    script: Any = import_module("benchmarks.reading_alone")
    path = str(write(tmp_path / "events.root", "zstd", 1000).path)
    peaks = script.memory(path)
    assert 0.0 < peaks["nothing"] <= peaks["stream"] <= peaks["data set"]
    found = script.training(path, 100)
    assert found["steps"] == 10
    assert 0.0 < found["waited"] < 1.0


@pytest.mark.slow
def test_the_quick_form_measures_and_reports(tmp_path: Path) -> None:
    pytest.importorskip("coffea")
    numbers = tmp_path / "numbers.json"
    results = main(["--only", "reading", "--quick", "--json", str(numbers)])
    (found,) = results.reading
    assert {rate.workers for rate in found.rates} == {"1", "4 threads", "4 Dask workers"}
    kept = json.loads(numbers.read_text())["reading"][0]
    assert kept["growth"] == [asdict(each) for each in found.growth]
