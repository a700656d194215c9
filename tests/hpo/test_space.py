"""Search spaces: reading, writing, conditions, the unit cube, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
import tempfile
from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hpo.made_up_spaces import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.dimensions import Choice, Fixed, Integer, Normal, Real
from hepdask_ml.hpo.space import FORMS, Space
from hepdask_ml.hpo.values import identity

DOCUMENTED = """\
lr: {type: float, low: 1e-5, high: 1e-1, log: true}
layers: {type: int, low: 1, high: 8}
width: {type: int, low: 32, high: 512, step: 32}
weight_decay: {type: normal, mu: -4, sigma: 1, base: 10}
optimizer: {type: choice, values: [adam, sgd]}
momentum: {type: float, low: 0, high: 0.99, when: {optimizer: sgd}}
activation: [relu, gelu]
epochs: 20
"""

CHAIN = {
    "kind": ["mlp", "gnn", "bdt"],
    "depth": {"type": "int", "low": 1, "high": 3, "when": {"kind": ["mlp", "gnn"]}},
    "width": {"type": "int", "low": 8, "high": 64, "step": 8, "when": {"depth": [2, 3]}},
    "trees": {"type": "int", "low": 10, "high": 1000, "log": True, "when": {"kind": "bdt"}},
}

letters = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)


def read(text: str, name: str = "space.yaml", form: str = "auto") -> Space:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_text(text, encoding="utf-8")
        return Space.read(path, form=form)


def refusal(written: Any) -> str:
    with pytest.raises(InputError) as caught:
        Space.read(written)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def same(one: Any, other: Any) -> bool:
    return identity(one) == identity(other)


# -- Reading and writing ---------------------------------------------------------------------------


def test_the_documented_space_is_read() -> None:
    assert dict(read(DOCUMENTED).dimensions) == {
        "lr": Real(1e-5, 0.1, log=True),
        "layers": Integer(1, 8),
        "width": Integer(32, 512, step=32),
        "weight_decay": Normal(-4, 1, base=10),
        "optimizer": Choice(("adam", "sgd")),
        "momentum": Real(0, 0.99, when={"optimizer": ("sgd",)}),
        "activation": Choice(("relu", "gelu")),
        "epochs": Fixed(20),
    }


@given(spaces())
@settings(deadline=None)
def test_json_round_trip(space: Space) -> None:
    written = json.dumps(space.to_json())
    for back in (
        Space.read(space.to_json(), form="own"),
        Space.read(json.loads(written)),
        read(written, "space.json"),
    ):
        assert back == space
        assert list(back.dimensions) == list(space.dimensions)
        assert json.dumps(back.to_json()) == written
        assert back.dimensions == space.dimensions


@given(spaces())
@settings(deadline=None)
def test_json_is_yaml(space: Space) -> None:
    written = json.dumps(space.to_json(), ensure_ascii=False)
    assert json.dumps(read(written).to_json(), ensure_ascii=False) == written


@given(spaces(names=letters))
@settings(deadline=None)
def test_yaml_round_trip(space: Space) -> None:
    # Quoted, as other writers of YAML take "1e5" and "1:30" for text, which ours are as well only
    # with quotes.
    class Writer(yaml.SafeDumper):
        def represent_str(self, text: str) -> yaml.ScalarNode:
            return self.represent_scalar("tag:yaml.org,2002:str", text, style='"')

        def ignore_aliases(self, data: Any) -> bool:
            return True

    Writer.add_representer(str, Writer.represent_str)
    written = yaml.dump(space.to_json(), Dumper=Writer, sort_keys=False, allow_unicode=True)
    assert same(list(read(written).to_json().items()), list(space.to_json().items()))


@given(spaces())
@settings(deadline=None)
def test_spaces_travel(space: Space) -> None:
    for back in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space), Space.read(space)):
        assert back == space
        assert hash(back) == hash(space)
        assert back.digest == space.digest


def test_unlike_spaces_have_unlike_digests() -> None:
    written: list[dict[str, Any]] = [
        {"a": [1, 2], "b": 3},
        {"b": 3, "a": [1, 2]},
        {"a": [2, 1], "b": 3},
        {"a": [1.0, 2.0], "b": 3},
        {"a": [True, 2], "b": 3},
        {"a": [1, 2], "b": 3.0},
        {"a": [1, 2], "b": "3"},
        {"a": [1, 2], "b": {"type": "fixed", "value": 3, "when": {"a": 1}}},
        {"a": {"type": "choice", "values": [1, 2], "ordered": True}, "b": 3},
    ]
    digests = {Space.read(each, form="own").digest for each in written}
    assert len(digests) == len(written)
    assert Space.read(written[0], form="own") != Space.read(written[4], form="own")
    assert Space.read(written[0], form="own") != "a space"


def test_a_space_is_made_of_python_values_too() -> None:
    space = Space.read({"x": Real(0, 1), "y": (np.int64(1), "a"), "z": np.float64(0.5)})
    assert json.dumps(space.to_json()["y"]) == '{"type": "choice", "values": [1, "a"]}'
    assert space.to_json()["z"] == {"type": "fixed", "value": 0.5}
    space = Space.read({"n": {"type": "int", "low": np.int64(1), "high": np.int32(4)}})
    assert json.dumps(space.to_json()) == '{"n": {"type": "int", "low": 1, "high": 4}}'


def test_two_numbers_are_bounds_or_values() -> None:
    written = {"x": [0, 1], "y": [0.5, 2]}
    assert "name the form" in refusal(written)
    assert Space.read(written, form="own").dimensions["x"] == Choice((0, 1))
    assert Space.read(written, form="bayesian").dimensions["x"] == Real(0, 1)
    assert Space.read({**written, "z": ["a"]}).dimensions["x"] == Choice((0, 1))


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(InputError, match='"hpogird" is no form of a space: did you mean "hpogrid"'):
        Space.read({"x": 1}, form="hpogird")
    assert FORMS == ("own", "hpogrid", "nevergrad", "bayesian")


# -- What is refused -------------------------------------------------------------------------------

FLOAT = {"type": "float", "low": 0, "high": 1}


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({}, "the space is empty: it must hold at least one parameter"),
        ({"": 1}, '"" is no name of a parameter: names must be text'),
        ({3: ["a"]}, "3 is no name of a parameter: names must be text"),
        ({"lr": None}, "lr is empty: give its values, or {type: fixed, value: null}"),
        ({"lr": {"low": 0}}, "lr has no type: choose from float, int, choice, normal, fixed"),
        ({"lr": {"type": "floatt"}}, 'lr.type is "floatt": did you mean "float"?'),
        ({"lr": {"type": ["float"]}}, 'lr.type is ["float"]: did you mean "float"?'),
        ({"lr": {"type": 3}}, "lr.type is 3: choose from float, int, choice, normal, fixed"),
        ({"lr": FLOAT | {"hihg": 1}}, 'lr.hihg is no setting: did you mean "high"?'),
        ({"lr": {"type": "float", "low": 0}}, "lr.high is missing: add it"),
        ({"lr": FLOAT | {"low": 1}}, "lr.low is 1.0 and high is 1.0: low must lie below high"),
        ({"lr": FLOAT | {"log": True}}, "lr.low is 0.0: with log it must be above 0"),
        ({"lr": FLOAT | {"log": "yes"}}, 'lr.log is "yes": it must be true or false'),
        ({"lr": FLOAT | {"low": float("nan")}}, "lr.low is nan: it must be a finite number"),
        ({"lr": FLOAT | {"high": "1"}}, 'lr.high is "1": it must be a finite number'),
        ({"lr": FLOAT | {"high": True}}, "lr.high is true: it must be a finite number"),
        ({"lr": FLOAT | {"step": 0.3}}, "lr.step is 0.3: it must divide the distance"),
        ({"lr": FLOAT | {"step": 3}}, "lr.step is 3.0: it must divide the distance"),
        ({"lr": FLOAT | {"step": -1}}, "lr.step is -1: it must be above 0"),
        ({"lr": FLOAT | {"step": 1e-15}}, "lr.step is 1e-15: it must be at least 10^-12"),
        ({"x": {"type": "float", "low": -1e308, "high": 1e308}}, "their distance must be finite"),
        ({"n": {"type": "int", "low": 0.5, "high": 3}}, "n.low is 0.5: it must be a whole number"),
        ({"n": {"type": "int", "low": 1, "high": 4, "step": 2}}, "n.step is 2: it must divide"),
        ({"n": {"type": "int", "low": 1, "high": 10**13}}, "between -10^12 and 10^12"),
        ({"n": {"type": "int", "low": 0, "high": 9, "log": True}}, "with log it must be above 0"),
        ({"o": []}, "o.values is []: it must not be empty"),
        ({"o": ["adam", "adam"]}, 'o.values holds "adam" twice: once is enough'),
        ({"o": {"type": "choice", "values": "adam"}}, 'o.values is "adam": it must be a list'),
        ({"o": ["a", float("inf")]}, "o.values: inf is no value: numbers must be finite"),
        ({"o": {"type": "choice", "values": [1], "ordered": 1}}, "o.ordered is 1: it must be true"),
        ({"x": float("nan")}, "x.value: nan is no value: numbers must be finite"),
        ({"x": {"type": "normal", "mu": 0, "sigma": 0}}, "x.sigma is 0: it must be above 0"),
        ({"x": {"type": "normal", "mu": 0, "sigma": 1, "base": 1}}, "x.base is 1: it must be"),
        ({"x": {"type": "normal", "mu": 0, "sigma": 99, "base": 10}}, "too large or too small"),
        ({"x": FLOAT | {"when": "sgd"}}, 'x.when is "sgd": it must be a mapping'),
        ({"x": {"type": "fixed", "value": 1, "when": [1]}}, "x.when is [1]: it must map"),
        ({"o": ["a", "b"], "x": FLOAT | {"when": {"O": "a"}}}, 'x.when.O is no parameter: did you'),
        ({"o": ["ab", "cd"], "x": FLOAT | {"when": {"o": "abc"}}}, 'x.when.o: "abc" is none of'),
        ({"o": ["a", "b"], "x": FLOAT | {"when": {"o": []}}}, "x.when.o is []: it must not be"),
        ({"y": FLOAT, "x": FLOAT | {"when": {"y": 1}}}, "x.when.y cannot be a condition"),
        ({"x": {"type": "int", "low": 0, "high": 1, "when": {"x": 1}}}, "go in a circle"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(written: Any, sentence: str) -> None:
    assert sentence in refusal(written)


def test_what_is_wrong_in_python_is_said() -> None:
    with pytest.raises(InputError, match=r"x is \[1, 2, 3\]: use Space.read for such a value"):
        Space({"x": [1, 2, 3]})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="when holds the key 1: keys must be text"):
        Choice(("a", "b"), when={1: "a"})  # type: ignore[dict-item]
    with pytest.raises(
        InputError, match=r"values: \{\(1, 2\): 3\} has the key \[1, 2\]: keys must"
    ):
        Choice(({(1, 2): 3},))
    assert Choice(np.array([32, 64])) == Choice((32, 64))  # type: ignore[arg-type]


def test_the_file_is_named() -> None:
    with pytest.raises(InputError) as caught:
        read("lr: {type: float, low: 1, high: 0}")
    assert str(caught.value).endswith(
        "space.yaml: lr.low is 1.0 and high is 0.0: low must lie below high"
    )
    with pytest.raises(InputError, match=r"space.yaml: the space is \[1, 2\]: it must map names"):
        read("[1, 2]")
    with pytest.raises(InputError, match=r"space.yaml: .* go in a circle"):
        read("a: {type: fixed, value: 1, when: {b: 1}}\nb: {type: fixed, value: 1, when: {a: 1}}")


# -- Conditions ------------------------------------------------------------------------------------


def test_a_condition_may_have_a_condition() -> None:
    space = Space.read(CHAIN)
    assert space.conditional
    assert space.active({"kind": "mlp", "depth": 1}) == ("kind", "depth")
    assert space.active({"kind": "gnn", "depth": 3}) == ("kind", "depth", "width")
    # The depth does not count here, so that its value makes no width count either.
    assert space.active({"kind": "bdt", "depth": 3}) == ("kind", "trees")
    assert space.from_unit([0.9, 0.9, 0.9, 0.0]) == {"kind": "bdt", "trees": 10}
    assert space.from_unit([0.0, 0.9, 0.0, 0.0]) == {"kind": "mlp", "depth": 3, "width": 8}


def test_the_order_of_writing_does_not_matter_to_conditions() -> None:
    space = Space.read(dict(reversed(CHAIN.items())))
    params = {"kind": "mlp", "depth": 2, "width": 16}
    assert space.checked(params) == params
    assert list(space.checked(params)) == ["width", "depth", "kind"]


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"kind": "bdt"}, "trees is missing: give its value"),
        ({}, "kind is missing: give its value"),
        ({"kind": "bdt", "trees": 10, "depth": 1},
         'depth does not count unless kind is "mlp" or "gnn": leave it out'),
        ({"kind": "mpl", "depth": 1}, 'kind: "mpl" is none of them: did you mean "mlp"?'),
        ({"kind": "bdt", "tree": 10}, 'tree is no parameter of the space: did you mean "trees"?'),
        ({"kind": "bdt", "trees": 5}, "trees: 5 is outside: it must lie between 10 and 1000"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        Space.read(CHAIN).checked(params)
    assert str(caught.value) == sentence


def test_values_of_conditions_become_those_of_the_parameter() -> None:
    space = Space.read({"n": [1, 2], "x": FLOAT | {"when": {"n": [np.float64(2.0)]}}}, form="own")
    assert same(space.to_json()["x"]["when"], {"n": [2]})
    assert space.active({"n": np.int64(2)}) == ("n", "x")
    assert space.active({"n": 1}) == ("n",)


# -- The unit cube ---------------------------------------------------------------------------------


@given(spaces(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_points_of_the_cube_are_trials(space: Space, random: Any) -> None:
    point = [random.random() for _ in space.free]
    params = space.from_unit(point)
    assert json.loads(json.dumps(params)) == params
    assert tuple(params) == space.active(params)
    checked = space.checked(params)
    assert same(list(checked.items()), list(params.items()))
    back = space.to_unit(params)
    assert len(back) == len(space.free)
    assert all(0.0 <= place <= 1.0 for place in back)
    again = space.from_unit(back)
    assert tuple(again) == tuple(params)
    for name, place in zip(space.free, back, strict=True):
        if name not in params:
            assert place == 0.5
        elif space.dimensions[name].count is not None:
            assert same(again[name], params[name])


@given(spaces(), st.integers(0, 2**32))
@settings(deadline=None)
def test_samples_depend_on_the_generator_alone(space: Space, seed: int) -> None:
    one, other = np.random.default_rng(seed), np.random.default_rng(seed)
    params = space.sample(one)
    assert same(params, space.sample(other))
    assert same(params, space.from_unit(np.random.default_rng(seed).random(len(space.free))))  # type: ignore[arg-type]
    # One number for each free parameter, so that the next trial is the same one, too.
    assert one.random() == other.random()


def test_samples_are_distributed_as_the_dimensions_and_independent() -> None:
    """Shares of the 16 cells of two parameters, each given the other.

    By Hoeffding a share of n samples is farther than sqrt(ln(2 / p) / 2n) from what it should be
    with a probability of p at most; with p of 1e-9 for each, 1.6e-8 for the test.
    """
    space = Space.read({"lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
                        "n": {"type": "int", "low": 0, "high": 3}})  # fmt: skip
    rng, number = np.random.default_rng(7), 20_000
    shares = np.zeros((4, 4))
    for _ in range(number):
        params = space.sample(rng)
        shares[int(log(params["lr"] / 1e-4, 10)), params["n"]] += 1 / number
    assert np.abs(shares - 1 / 16).max() < sqrt(log(2e9) / (2 * number))


def test_conditions_do_not_change_the_distribution() -> None:
    """A conditional parameter is uniform where it counts; at most 1e-9 by chance (Massart)."""
    space = Space.read({"o": ["adam", "sgd"], "m": FLOAT | {"when": {"o": "sgd"}}})
    rng = np.random.default_rng(8)
    samples = [space.sample(rng) for _ in range(20_000)]
    values = np.sort([params["m"] for params in samples if "m" in params])
    number = len(values)
    assert abs(number / len(samples) - 0.5) < sqrt(log(2e9) / (2 * len(samples)))
    distance = np.abs(values - np.arange(number) / number).max() + 1 / number
    assert distance < sqrt(log(2e9) / (2 * number))


def test_fixed_parameters_are_no_axes() -> None:
    space = Space.read({"epochs": 20, "only": ["a"], "x": FLOAT})
    assert space.free == ("x",)
    assert not space.conditional
    assert space.from_unit([1.0]) == {"epochs": 20, "only": "a", "x": 1.0}
    assert space.checked({"x": 0}) == {"epochs": 20, "only": "a", "x": 0.0}
    assert Space.read({"epochs": 20}).sample(np.random.default_rng(1)) == {"epochs": 20}


def test_a_wrong_point_is_refused() -> None:
    space = Space.read({"x": FLOAT, "y": FLOAT})
    with pytest.raises(InputError, match="a point has 1 coordinates: the space has 2"):
        space.from_unit([0.5])
    with pytest.raises(InputError, match="y: a place of the unit interval is NaN"):
        space.from_unit([0.5, float("nan")])


def test_a_trial_does_not_change_the_space() -> None:
    space = Space.read({"layers": [[8, 8], [16]]})
    digest = space.digest
    space.from_unit([0.0])["layers"].append(1)
    space.checked({"layers": [16]})["layers"].append(1)
    space.to_json()["layers"]["values"].append(1)
    assert space.digest == digest
