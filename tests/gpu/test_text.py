"""The kernels' text and the Python beside it say the same."""

import re
from pathlib import Path

import pytest

from hepdask_ml.likelihood import device, fit, kernels

NATIVE = Path(kernels.__file__).parent / "native"
CONSTANT = re.compile(r"^constexpr (?:int|double) (\w+) = ([^;]+);", re.MULTILINE)


@pytest.mark.parametrize("name", ["MAX_ROUNDS", "DISTINCT", "RUNNER_UP", "SAME_MINIMUM"])
def test_rules_of_the_search_are_those_of_the_cpu(name: str) -> None:
    constants = dict(CONSTANT.findall((NATIVE / "pairs.h").read_text()))
    assert float(constants[name]) == getattr(fit, name)


def test_statuses_are_those_of_the_cpu() -> None:
    (listed,) = re.findall(r"enum Status \{([^}]+)\}", (NATIVE / "algorithm.h").read_text())
    named = dict(pair.strip().split(" = ") for pair in listed.split(","))
    assert {name: int(code) for name, code in named.items()} == {
        status.name: int(status) for status in fit.FitStatus
    }


def test_blocks_are_those_that_are_launched() -> None:
    text = (NATIVE / "team.h").read_text()
    assert f"constexpr int BLOCK = TEAM == 1 ? {device.BLOCK_ALONE} : TEAM;" in text
    assert f"constexpr int BLOCKS = {device.RESIDENT_THREADS} / BLOCK;" in text
