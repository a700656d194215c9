from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.axes import axes, from_said, told
from hepdask_ml.hpo.optimisers import Past
from hepdask_ml.hpo.space import Space

FLOAT = {"type": "float", "low": 1.0, "high": 3.0}
INT = {"type": "int", "low": 1, "high": 9}
CASES: list[tuple[Any, str, float, float, bool]] = [
    (FLOAT, "number", 1.0, 3.0, False),
    ({**FLOAT, "log": True}, "number", 1.0, 3.0, True),
    ({**FLOAT, "step": 0.5}, "whole", 0, 4, False),
    ({**FLOAT, "step": 0.5, "log": True}, "number", 0.0, 1.0, False),
    (INT, "whole", 1, 9, False),
    ({**INT, "log": True}, "whole", 1, 9, True),
    ({**INT, "step": 2}, "whole", 0, 4, False),
    ({**INT, "step": 2, "log": True}, "number", 0.0, 1.0, False),
    (["a", None, [1, 2]], "choice", 0, 2, False),
    ({"type": "choice", "values": [32, 64, 128], "ordered": True}, "whole", 0, 2, False),
    ({"type": "normal", "mu": 0.0, "sigma": 2.0}, "number", 0.0, 1.0, False),
    ({"type": "normal", "mu": 5.0, "sigma": 2.0, "step": 1}, "number", 0.0, 1.0, False),
]


@pytest.mark.parametrize(("written", "kind", "low", "high", "log"), CASES)
def test_each_dimension_has_a_plain_axis(
    written: Any, kind: str, low: float, high: float, log: bool
) -> None:
    (axis,) = axes(Space.read({"p": written}))
    assert (axis.name, axis.kind, axis.low, axis.high, axis.log) == ("p", kind, low, high, log)


@pytest.mark.parametrize("written", [case[0] for case in CASES])
def test_values_go_in_and_come_out_again(written: Any) -> None:
    space = Space.read({"p": written})
    along = axes(space)
    for u in np.linspace(0.0, 1.0, 21):
        params = space.from_unit([float(u)])
        said = told(space, along, Past(0, params))
        back = from_said(space, said, along)
        assert type(back["p"]) is type(params["p"])
        if isinstance(back["p"], float):
            assert back["p"] == pytest.approx(params["p"], rel=1e-6, abs=1e-6)
        else:
            assert back == params


def test_numbers_of_numpy_become_plain() -> None:
    space = Space.read({"n": {**INT, "step": 2}, "x": FLOAT, "c": ["u", "v"]})
    said = {"n": np.int64(3), "x": np.float64(1.5), "c": np.int64(1)}
    params = from_said(space, said, axes(space))
    assert params == {"n": 7, "x": 1.5, "c": "v"}
    assert [type(value) for value in params.values()] == [int, float, str]


def test_what_has_one_value_is_no_axis() -> None:
    space = Space.read({"a": 1, "b": ["only"], "x": FLOAT})
    assert [axis.name for axis in axes(space)] == ["x"]
    assert from_said(space, {"x": 2.0}, axes(space)) == {"a": 1, "b": "only", "x": 2.0}


def test_conditions_may_hang_on_conditions() -> None:
    space = Space.read(
        {
            "deep": {"type": "int", "low": 1, "high": 5, "when": {"sort": "net"}},
            "sort": {"type": "choice", "values": ["net", "tree"], "when": {"use": True}},
            "use": [True, False],
        }
    )
    along = axes(space)
    said = {"deep": 4, "sort": 0, "use": 0}
    assert from_said(space, said, along) == {"deep": 4, "sort": "net", "use": True}
    assert from_said(space, {**said, "sort": 1}, along) == {"sort": "tree", "use": True}
    assert from_said(space, {**said, "use": 1}, along) == {"use": False}
    assert told(space, along, Past(0, {"use": False})) == {"use": 1}


def test_a_trial_has_to_be_of_the_space() -> None:
    space = Space.read({"x": FLOAT})
    with pytest.raises(InputError, match="trial 4 is not of this space: x"):
        told(space, axes(space), Past(4, {"x": 5.0}))
