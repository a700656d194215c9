import json
from pathlib import Path

import pytest
from benchmarks.command import main
from benchmarks.models import MADE_UP, prepared


def test_the_quick_form_measures_and_reports(tmp_path: Path) -> None:
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.md"
    parts = ["--only", "speed", "--only", "minima"]
    models = ["--model", "one bin", "--model", "two bins"]
    results = main([*parts, *models, "--quick", "--json", str(numbers), "--markdown", str(page)])
    assert set(results.speed) == {"one bin", "two bins"}
    assert results.speed["one bin"].all_cores.toys_per_s > 0.0
    assert results.minima["two bins"].free == 0.0
    assert json.loads(numbers.read_text())["speed"]["one bin"]["parameters"] == 2
    assert "| two bins | 3 / 2 |" in page.read_text()


@pytest.mark.slow
def test_start_up_memory_and_summary_are_measured() -> None:
    results = main(["--only", "footprint", "--quick"])
    assert all(quantity.value == quantity.value for quantity in results.footprint)


def test_the_models_are_those_asked_for() -> None:
    sizes = {case.name: prepared(case).model for case in MADE_UP}
    assert [(model.n_pars, model.n_main) for model in sizes.values()] == [
        (2, 1),
        (3, 2),
        (201, 200),
        (31, 100),
    ]
