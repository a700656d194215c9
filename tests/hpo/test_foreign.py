"""Spaces as hpogrid and iDDS write them."""

from __future__ import annotations

import json
from math import e, log
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.dimensions import Choice, Dimension, Fixed, Integer, Normal, Real
from hepdask_ml.hpo.foreign import FOREIGN, joined, parted, recognised
from hepdask_ml.hpo.space import Space

if TYPE_CHECKING:
    from pathlib import Path

PHPO = """\
{
  "auto_lr": {
    "method": "categorical",
    "dimension": {"categories": [true, false], "grid_search": 0}
  },
  "batch_size": {"method": "uniformint", "dimension": {"low": 10, "high": 30}},
  "epoch": {"method": "uniformint", "dimension": {"low": 5, "high": 10}},
  "cnn_block_depths_1": {
    "method": "categorical",
    "dimension": {"categories": [1, 1, 2], "grid_search": 0}
  },
  "cnn_block_depths_2": {"method": "uniformint", "dimension": {"low": 1, "high": 3}}
}
"""
"""The example of phpo's manual."""


def hpogrid(method: str, **dimension: Any) -> Dimension:
    space = Space.read({"x": {"method": method, "dimension": dimension}})
    return space.dimensions["x"]


def nevergrad(kind: str, bounds: Any = None, **params: Any) -> dict[str, Dimension]:
    written = {"type": kind, "params": params} | ({"bounds": bounds} if bounds else {})
    return dict(Space.read({"A": written}).dimensions)


def refusal(written: Any, form: str = "auto") -> str:
    with pytest.raises(InputError) as caught:
        Space.read(written, form=form)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- hpogrid ---------------------------------------------------------------------------------------


def test_the_example_of_phpo_is_read(tmp_path: Path) -> None:
    path = tmp_path / "search_space_example2.json"
    path.write_text(PHPO)
    space = Space.read(path)
    assert dict(space.dimensions) == {
        "auto_lr": Choice((True, False)),
        "batch_size": Integer(10, 30),
        "epoch": Integer(5, 10),
        "cnn_block_depths_1": Choice((1, 2)),
        "cnn_block_depths_2": Integer(1, 3),
    }
    assert Space.read(space.to_json()) == space
    assert space == Space.read(path, form="hpogrid")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (hpogrid("categorical", categories=["a", "b"], grid_search=1), Choice(("a", "b"))),
        (hpogrid("categorical", categories=[2, 1, 2, 1.0, True]), Choice((2, 1, 1.0, True))),
        (hpogrid("categorical", categories=[[8, 8], [8, 8], None]), Choice(([8, 8], None))),
        (hpogrid("uniform", low=0, high=1), Real(0, 1)),
        (hpogrid("uniformint", low=1, high=30), Integer(1, 30)),
        (hpogrid("quniform", low=0.05, high=1, q=0.1), Real(0.1, 1, step=0.1)),
        (hpogrid("quniform", low=0.3, high=0.9, q=0.1), Real(0.3, 0.9, step=0.1)),
        (hpogrid("quniform", low=-0.7, high=0.7, q=0.5), Real(-0.5, 0.5, step=0.5)),
        (hpogrid("quniform", low=10, high=100, q=32), Integer(32, 96, step=32)),
        (hpogrid("quniform", low=10, high=100.0, q=32), Real(32, 96, step=32)),
        (hpogrid("quniformint", low=0, high=10, q=5), Integer(0, 10, step=5)),
        (hpogrid("loguniform", low=1e-5, high=0.1, base=10), Real(1e-5, 0.1, log=True)),
        (hpogrid("loguniform", low=1e-5, high=0.1), Real(1e-5, 0.1, log=True)),
        (hpogrid("loguniformint", low=1, high=1000, base=10), Integer(1, 1000, log=True)),
        (hpogrid("qloguniform", low=1e-4, high=0.1, q=5e-5), Real(1e-4, 0.1, log=True, step=5e-5)),
        (hpogrid("qloguniform", low=16, high=64, q=16, base=2), Integer(16, 64, log=True, step=16)),
        (hpogrid("normal", mu=0, sigma=2), Normal(0, 2)),
        (hpogrid("qnormal", mu=20, sigma=5, q=2), Normal(20, 5, step=2)),
        (hpogrid("qnormal", mu=20, sigma=5, q=0.5), Normal(20, 5, step=0.5)),
        (hpogrid("lognormal", mu=-3, sigma=1, base=10), Normal(-3, 1, base=10)),
        (hpogrid("lognormal", mu=-3, sigma=1), Normal(-3, 1, base=e)),
        (hpogrid("qlognormal", mu=2, sigma=1, q=1, base=10), Normal(2, 1, base=10, step=1)),
        (hpogrid("fixed", value=[1, "a"]), Fixed([1, "a"])),
    ],
)  # fmt: skip
def test_methods_of_hpogrid(found: Dimension, expected: Dimension) -> None:
    assert found == expected
    assert type(found) is type(expected)
    assert json.dumps(Space({"x": found}).to_json()) == json.dumps(Space({"x": expected}).to_json())


@given(
    st.decimals(-100, 100, places=3),
    st.decimals("0.001", 100, places=3),
    st.decimals("0.001", 10, places=3),
)
def test_quantised_values_are_all_the_multiples_between_the_bounds(
    low: Any, width: Any, q: Any
) -> None:
    """Counted with exact decimals."""
    first, last = -(-low // q), (low + width) // q
    first += 1 if first * q < low else 0  # Decimal's // cuts towards zero
    first -= 1 if (first - 1) * q >= low else 0
    last -= 1 if last * q > low + width else 0
    last += 1 if (last + 1) * q <= low + width else 0
    written = {"low": float(low), "high": float(low + width), "q": float(q)}
    if last <= first:
        assert "two of its multiples" in refusal(
            {"x": {"method": "quniform", "dimension": written}}
        )
        return
    found = hpogrid("quniform", **written)
    assert isinstance(found, Real)
    assert (found.low, found.high, found.count) == (
        float(first * q),
        float(last * q),
        last - first + 1,
    )
    assert found.at(1) == float((first + 1) * q)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"method": "uniformm", "dimension": {}}, 'x.method is "uniformm": did you mean "uni'),
        ({"method": 3, "dimension": {}}, "x.method is 3: choose from categorical, uniform"),
        ({"method": "uniform"}, "x.dimension is missing: add it"),
        ({"method": "uniform", "dimension": [0, 1]}, "x.dimension is [0, 1]: it must be a mapping"),
        ({"method": "uniform", "dimensions": {}}, 'x.dimensions is no setting: did you mean "dim'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_method_is_said(written: Any, sentence: str) -> None:
    assert sentence in refusal({"x": written})


@pytest.mark.parametrize(
    ("method", "dimension", "sentence"),
    [
        ("uniform", {"low": 0, "hihg": 1}, 'x.dimension.hihg is no setting: did you mean "high"?'),
        ("uniform", {"low": 0}, "x.dimension.high is missing: add it"),
        ("uniform", {"low": 1, "high": 0}, "x.dimension.low is 1.0 and high is 0.0: low must lie"),
        ("uniform", {"low": "0", "high": 1}, 'x.dimension.low is "0": it must be a finite number'),
        ("loguniform", {"low": 0, "high": 1}, "x.dimension.low is 0.0: with log it must be"),
        ("loguniform", {"low": 1, "high": 2, "base": 0}, "base is 0: it must be above 1"),
        ("quniform", {"low": 0, "high": 1, "q": 0}, "q is 0: it must be above 0"),
        ("quniform", {"low": 0, "high": 1, "q": True}, "q is true: it must be a finite number"),
        ("quniform", {"low": 0.1, "high": 0.5, "q": 0.3}, "q is 0.3: two of its multiples"),
        ("uniformint", {"low": 0.5, "high": 3}, "low is 0.5: it must be a whole number"),
        ("categorical", {"categories": []}, "categories is []: it must be a list with something"),
        ("categorical", {"categories": "ab"}, 'categories is "ab": it must be a list'),
        ("qnormal", {"mu": 0, "sigma": 1, "q": -1}, "q is -1: it must be above 0"),
        ("normal", {"mu": 0, "sigma": -1}, "x.dimension.sigma is -1: it must be above 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_hpogrid_is_said(
    method: str, dimension: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal({"x": {"method": method, "dimension": dimension}})


def test_every_parameter_has_the_same_form() -> None:
    good = {"method": "uniform", "dimension": {"low": 0, "high": 1}}
    assert refusal({"x": good, "y": 3}) == "y is 3: it must be a mapping with method and dimension"
    own = {"type": "float", "low": 0, "high": 1}
    assert "y.type is no setting" in refusal({"x": good, "y": own})


# -- nevergrad -------------------------------------------------------------------------------------


def test_the_example_of_idds_is_read() -> None:
    space = Space.read(
        {
            "A": {"type": "Choice", "params": {"choices": [1, 4]}},
            "B": {"type": "Scalar", "bounds": [0, 5]},
        }
    )
    assert dict(space.dimensions) == {"A": Choice((1, 4)), "B": Real(0, 5)}
    assert Space.read(space.to_json(), form="own") == space


TWO = {"A[0]": Real(0, 1), "A[1]": Real(0, 1)}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (nevergrad("Choice", choices=[1, 1, 4], deterministic=True), {"A": Choice((1, 4))}),
        (nevergrad("Choice", choices=3), {"A": Choice((0, 1, 2))}),
        (nevergrad("Choice", choices=["a", "b"], repetitions=2),
         {"A[0]": Choice(("a", "b")), "A[1]": Choice(("a", "b"))}),
        (nevergrad("TransitionChoice", choices=[32, 64], transitions=[1.0, 1.0]),
         {"A": Choice((32, 64), ordered=True)}),
        (nevergrad("TransitionChoice", choices=[32, 64], ordered=False), {"A": Choice((32, 64))}),
        (nevergrad("Scalar", [0, 5, "clipping"]), {"A": Real(0, 5)}),
        (nevergrad("Scalar", lower=-3, upper=-1, init=-2, mutable_sigma=True), {"A": Real(-3, -1)}),
        (nevergrad("Scalar", init=3), {"A": Normal(3, 1)}),
        (nevergrad("Scalar"), {"A": Normal(0, 1)}),
        (nevergrad("Log", lower=1e-4, upper=0.1, exponent=2), {"A": Real(1e-4, 0.1, log=True)}),
        (nevergrad("Log", [1e-4, 0.1]), {"A": Real(1e-4, 0.1, log=True)}),
        (nevergrad("Log", init=0.01), {"A": Normal(log(0.01) / log(2), 1, base=2)}),
        (nevergrad("Log", init=100.0, exponent=10), {"A": Normal(log(100) / log(10), 1, base=10)}),
        (nevergrad("Array", [0, 1], shape=[2]), TWO),
        (nevergrad("Array", [[0, 0], [1, 1]], init=[0.5, 0.5]), TWO),
        (nevergrad("Array", shape=[2], lower=0, upper=[1, 1]), TWO),
        (nevergrad("Array", init=[[1, 2]]), {"A[0,0]": Normal(1, 1), "A[0,1]": Normal(2, 1)}),
        (nevergrad("Array", [[0, -1], [1, 1]], shape=[1, 2]),
         {"A[0,0]": Real(0, 1), "A[0,1]": Real(-1, 1)}),
    ],
)  # fmt: skip
def test_types_of_nevergrad(found: Any, expected: Any) -> None:
    assert found == expected
    assert list(found) == list(expected)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"type": "Chioce"}, 'A.type is "Chioce": did you mean "Choice"?'),
        ({"params": {}}, "A.type is missing: add it"),
        ({"type": "Choice"}, "A.params.choices is missing: add it"),
        ({"type": "Choice", "params": {"choices": [1]}, "bounds": [0, 1]}, "A.bounds is no"),
        ({"type": "Scalar", "bounds": 3}, "A.bounds is 3: it must be a list of low and high"),
        ({"type": "Scalar", "bounds": [5, 0]}, "A.params.low is 5.0 and high is 0.0: low must lie"),
        ({"type": "Scalar", "bounds": [0, 1], "params": {"upper": 1}}, "A has bounds and params"),
        ({"type": "Array", "params": {"shape": [2]}, "bounds": [[0], [1, 1]]}, "no value for [1]"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_nevergrad_is_said(written: Any, sentence: str) -> None:
    good = {"type": "Scalar", "bounds": [0, 5]}
    assert sentence in refusal({"A": written, "B": good})


@pytest.mark.parametrize(
    ("kind", "params", "sentence"),
    [
        ("Choice", {"choices": []}, "A.params.choices is []: it must be a list"),
        ("Choice", {"choices": 0}, "A.params.choices is 0: it must lie between 1"),
        ("Choice", {"choices": [1], "bounds": 1}, "A.params.bounds is no setting"),
        ("Choice", {"choices": [1], "repetitions": 0}, "A.params.repetitions is [0]"),
        ("TransitionChoice", {"choices": [1], "ordered": "no"}, 'A.params.ordered is "no"'),
        ("Scalar", {"lower": 1}, "A.params.upper is missing: give both bounds"),
        ("Scalar", {"init": "x"}, 'A.params.init is "x": it must be a finite'),
        ("Scalar", {"init": float("nan")}, "A.params.init is NaN: it must be a finite number"),
        ("Log", {}, "A.params.init is missing: add it, or two bounds"),
        ("Log", {"init": 0}, "A.params.init is 0: it must be above 0"),
        ("Log", {"lower": 0, "upper": 1}, "A.params.low is 0.0: with log it must be above 0"),
        ("Array", {}, "A.params.shape is missing: add it, or init"),
        ("Array", {"shape": [1], "init": [1]}, "A.params.shape is given beside init"),
        ("Array", {"shape": [2, 0]}, "lengths must be whole and at least 1"),
        ("Array", {"shape": [10**6]}, "at most 10000 components"),
        ("Array", {"init": [[1, 2], [3]]}, "init has no value for [1, 1]"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_type_is_said(
    kind: str, params: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal({"A": {"type": kind, "params": params}})


def test_components_have_names_of_their_own() -> None:
    array = {"type": "Array", "params": {"shape": [1]}}
    sentence = refusal({"A[0]": {"type": "Scalar"}, "A": array})
    assert sentence == "A makes the parameter A[0], which is there: rename one"


# -- bayesian --------------------------------------------------------------------------------------


def test_bounds_of_bayes_opt_are_read() -> None:
    space = Space.read({"A": (1, 4), "B": [1e-3, 10]}, form="bayesian")
    assert dict(space.dimensions) == {"A": Real(1, 4), "B": Real(1e-3, 10)}


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ([1, 2, 3], "x is [1, 2, 3]: it must be a list of low and high"),
        (3, "x is 3: it must be a list of low and high"),
        ([2, 1], "x.low is 2.0 and high is 1.0: low must lie below high"),
        ([None, 1], "x.low is empty: it must be a finite number"),
    ],
)
def test_what_is_wrong_with_bounds_is_said(written: Any, sentence: str) -> None:
    assert sentence in refusal({"x": written}, form="bayesian")


# -- Which form it is ------------------------------------------------------------------------------


def test_forms_are_recognised() -> None:
    assert recognised({"x": {"method": "fixed"}, "y": 3}) == "hpogrid"
    assert recognised({"x": {"type": "Scalar"}, "y": {"type": "float"}}) == "nevergrad"
    assert recognised({"x": {"type": "float"}}) == "own"
    assert recognised({"x": [1, 2, 3]}) == "own"
    assert recognised({"x": ["a", "b"]}) == "own"
    assert recognised({"x": [True, False]}) == "own"
    assert recognised({}) == "own"
    assert sorted(FOREIGN) == ["bayesian", "hpogrid", "nevergrad"]


def test_a_form_that_is_named_is_taken() -> None:
    assert "x.type is no setting" in refusal({"x": {"type": "Scalar"}}, form="hpogrid")
    assert "x.type is missing" in refusal({"x": {}}, form="nevergrad")
    assert 'x.type is "Scalar"' in refusal({"x": {"type": "Scalar"}}, form="own")


# -- Arrays ----------------------------------------------------------------------------------------

shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3)


@given(shapes, st.randoms(use_true_random=False))
def test_arrays_come_back_from_their_components(shape: list[int], random: Any) -> None:
    def array(lengths: list[int]) -> Any:
        return [array(lengths[1:]) for _ in range(lengths[0])] if lengths else random.random()

    params = {"before": [1, 2], "w": array(shape), "after": "x"}
    written = {"w": {"type": "Array", "params": {"shape": shape}}}
    names = ["before", *Space.read(written).dimensions, "after"]
    flat = parted(params, names)
    assert sorted(flat) == sorted(names)
    assert joined(flat) == params
    assert list(joined(flat)) == list(params)


def test_names_that_are_none_of_the_space_are_kept_for_its_answer() -> None:
    assert parted({"v": [1, 2], "x": 3}, ["w[0]"]) == {"v[0]": 1, "v[1]": 2, "x": 3}


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"w[0]": 1, "w[2]": 2}, "the components of w make no array: some are missing"),
        ({"w[0]": 1, "w[0,1]": 2}, "the components of w make no array: some are missing"),
        ({"w": 1, "w[0]": 2}, "w is a parameter and an array: rename one of them"),
    ],
)
def test_components_that_make_no_array_are_refused(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        joined(params)
    assert str(caught.value) == sentence
