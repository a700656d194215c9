"""The three lines of the guide are three, and the training that they change stays the same."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import hepdask_ml

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "training.md"


def diff() -> list[str]:
    found = re.search(r"```diff\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1].splitlines()


def side(mark: str) -> str:
    """The script before ("-") or after ("+") the change."""
    return "\n".join(line[1:] for line in diff() if not line or line[0] in (" ", mark)) + "\n"


def of_train(text: str) -> list[str]:
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("def train("))
    return lines[begin : lines.index('if __name__ == "__main__":')]


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    pytest.importorskip("torch").set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    paths = {"before": tmp_path / "before.py", "after": tmp_path / "after.py"}
    paths["before"].write_text(side("-"))
    paths["after"].write_text(side("+").replace("n_trials=12", "n_trials=3"))
    return {name: str(path) for name, path in paths.items()}


def test_three_lines_are_changed() -> None:
    before, after = of_train(side("-")), of_train(side("+"))
    assert len(before) == len(after)
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 3


def test_the_training_stays_the_same(
    scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_path(scripts["before"], run_name="__main__")
    printed = re.findall(r"loss ([\d.]+)", capsys.readouterr().out)
    names: dict[str, Any] = runpy.run_path(scripts["after"])
    space = {"width": 32, "lr": 1e-2}
    found = hepdask_ml.search(
        names["train"], space, epochs=names["EPOCHS"], block_s=0.01, interval_s=0.0
    ).run()
    assert found.best is not None
    assert [f"{row.metrics['loss']:.6f}" for row in found.best.rows] == printed
    assert {row.samples for row in found.best.rows} == {2000}


def test_the_search_of_the_guide_runs(
    scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skopt")
    names = runpy.run_path(scripts["after"], run_name="__main__")
    assert capsys.readouterr().out.startswith("the best loss is 0.")
    model = pytest.importorskip("torch").nn.Linear(1, 1)
    with pytest.raises(hepdask_ml.InputError, match='"model" does not take its state'):
        names["search"].load(names["best"], model=model)
