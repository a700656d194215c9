"""Objectives by name: where they are found, how they travel, and what is said if they are not."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.objective import objective

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """\
from dataclasses import dataclass

import beside_{name}


@dataclass
class Model:
    width: int


def train(params, context):
    return beside_{name}.loss(Model(params["width"]).width)


number = 3
"""
BESIDE = "def loss(width):\n    return float(width) ** 2\n"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script with a module beside it, whose names no other test has."""
    name = tmp_path.name.replace("-", "_")
    (tmp_path / f"beside_{name}.py").write_text(BESIDE)
    path = tmp_path / "my training.py"
    path.write_text(SCRIPT.format(name=name))
    return path


def test_function_of_a_file_is_found(script: Path) -> None:
    train = objective(f"{script}:train")
    assert train({"width": 3}, None) == 9.0
    assert train.__name__ == "train"
    assert str(script.parent) not in sys.path


def test_function_of_a_file_travels_with_what_is_beside_it(script: Path) -> None:
    packed = pickle.dumps(objective(f"{script}:train"))
    done = subprocess.run(
        [sys.executable, "-c", "import pickle, sys\n"
         "train = pickle.load(sys.stdin.buffer)\nprint(train({'width': 4}, None))"],
        input=packed, capture_output=True, check=True, cwd="/",
    )  # fmt: skip
    assert done.stdout == b"16.0\n"


def test_function_of_a_module_is_itself() -> None:
    assert objective("math:sqrt")(4.0) == 2.0
    assert pickle.loads(pickle.dumps(objective("os.path:join"))) is objective("os.path:join")


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("", "missing.py:train", "missing.py is not there: check the name"),
        ("def train(): pass", "a.py:traim", 'a.py has no function traim: did you mean "train"?'),
        ("def f(): pass\ndef g(): pass", "a.py:train", "has no function train: there are f, g"),
        ("x = 1", "a.py:x", "has no function x: it has no functions"),
        ("def f(:", "a.py:f", "a.py cannot be loaded (SyntaxError: "),
        ("import torhc", "a.py:f", "(ModuleNotFoundError: No module named 'torhc')"),
        ("1 / 0", "a.py:f", "a.py cannot be loaded (ZeroDivisionError: division by zero)"),
        ("", "no.such.module:f", "there is no module no.such.module: install it, or name a file"),
        ("", "math:sqqrt", 'math has no function sqqrt: did you mean "sqrt"?'),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(InputError) as caught:
        objective(name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
