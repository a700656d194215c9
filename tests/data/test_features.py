"""Specifications of features: what they say, and what is wrong with those that say nothing."""

from __future__ import annotations

import builtins
import copy
import dataclasses
import json
import math
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hepdask_ml.data.features import (
    Axis,
    Features,
    Field,
    Group,
    Image,
    View,
    features,
    plain,
)
from hepdask_ml.data.functions import function_of, identity, name_of
from hepdask_ml.data.vocabulary import CONSTANTS, FUNCTIONS
from hepdask_ml.errors import InputError

EXAMPLE = Path(__file__).parents[2] / "configs" / "features.yaml"

SPEC: dict[str, Any] = {
    "tree": "Events",
    "selection": "nJet >= 2 and MET_pt > 30",
    "weights": "genWeight",
    "labels": {"ttbar": 1, "dy": 0},
    "features": {
        "event": ["MET_pt", {"name": "ht", "expression": "sum(Jet_pt)"}],
        "jets": {"branches": ["Jet_pt", "Jet_pt * cos(Jet_phi)"], "length": 8, "scale": "standard"},
        "muons": {"branches": ["Muon_pt"], "percentile": 95, "scale": "none"},
        "tracks": {"branches": [{"branch": "Track/pt"}], "form": "ragged", "dtype": "float64"},
    },
    "images": {
        "calo": {
            "x": {"expression": "Jet_eta", "bins": 32, "low": -4, "high": 4},
            "y": {"branch": "Jet_phi", "bins": 16, "low": -3.2, "high": 3.2},
            "views": ["counts", "Jet_pt", {"name": "energy", "weight": "Jet_pt * cosh(Jet_eta)"}],
        },
        "map": {
            "x": {"name": "eta", "branch": "Jet_eta", "bins": 4, "low": 0, "high": 1},
            "y": {"branch": "Jet_phi", "bins": 4, "low": 0, "high": 1},
        },
    },
}

JETS = {"branches": ["Jet_pt"], "length": 2}


def spec(**changes: Any) -> dict[str, Any]:
    return {"features": {"jets": JETS}, **changes}


def jets(**changes: Any) -> dict[str, Any]:
    given_keys = {**JETS, **changes}
    return spec(
        features={"jets": {key: each for key, each in given_keys.items() if each is not None}}
    )


def with_field(written: Any) -> dict[str, Any]:
    return jets(branches=[written])


def image(**changes: Any) -> dict[str, Any]:
    axis = {"branch": "Jet_eta", "bins": 2, "low": 0, "high": 1}
    return spec(images={"calo": {"x": axis, "y": axis, **changes}})


def of_event(arrays: Any) -> Any:
    return arrays["MET_pt"] * 2


def test_specification_becomes_records() -> None:
    found = features(SPEC)
    event, of_jets, muons, tracks = found.groups
    assert found.tree == "Events"
    assert found.selection == Field("selection", "nJet >= 2 and MET_pt > 30")
    assert found.weights == Field("weights", "genWeight")
    assert found.labels == {"ttbar": 1.0, "dy": 0.0}
    assert event == Group("event", (Field("MET_pt", "MET_pt"), Field("ht", "sum(Jet_pt)")))
    assert [each.name for each in of_jets.fields] == ["Jet_pt", "Jet_pt * cos(Jet_phi)"]
    assert (of_jets.jagged, of_jets.slots, of_jets.scale) == (True, 8, "standard")
    assert (muons.jagged, muons.slots, muons.percentile, muons.scale) == (True, None, 95.0, None)
    assert (tracks.jagged, tracks.form, tracks.dtype) == (True, "ragged", "float64")
    assert tracks.fields == (Field("Track/pt", 'branch("Track/pt")'),)
    calo, small = found.images
    assert calo.x == Axis(Field("Jet_eta", "Jet_eta"), 32, -4.0, 4.0)
    assert [each.name for each in calo.views] == ["counts", "Jet_pt", "energy"]
    assert small.views == (View("counts"),)
    assert small.x.field.name == "eta"
    assert found.branches == (
        *("nJet", "MET_pt", "genWeight", "Jet_pt", "Jet_phi", "Muon_pt", "Track/pt", "Jet_eta"),
    )


def test_groups_of_bare_branches_are_plain() -> None:
    assert [plain(group) for group in features(SPEC).groups] == [False, False, True, True]


def test_labels_may_be_an_expression() -> None:
    assert features(spec(labels="nGenJet > 4")).labels == Field("labels", "nGenJet > 4")
    written = {"expression": "nGenJet > 4"}
    assert features(spec(labels=written)).labels == Field("labels", "nGenJet > 4")
    assert features(spec(labels={"call": 1, "branch": 0})).labels == {"call": 1, "branch": 0}


def test_commented_example_is_read() -> None:
    found = features(EXAMPLE)
    assert features(str(EXAMPLE)) == found
    assert [group.name for group in found.groups] == ["event", "jets", "muons", "tracks"]
    assert [each.name for each in found.images] == ["calorimeter"]
    commented = yaml.safe_load(
        "\n".join(
            line.replace("# - {", "- {").replace("    # dtype", "    dtype")
            for line in EXAMPLE.read_text(encoding="utf-8").splitlines()
        )
    )
    function = commented["features"]["event"].pop()
    assert features(commented) == found
    with pytest.raises(InputError, match=r"analysis\.variables:mt2. is not there"):
        features(with_field(function))


def test_file_is_named_with_what_is_wrong_in_it(tmp_path: Path) -> None:
    path = tmp_path / "features.yaml"
    path.write_text("features:\n  jets: {branches: [Jet_pt], lengths: 8}\n")
    with pytest.raises(InputError) as caught:
        features(path)
    assert str(caught.value) == (
        f'{path}: features.jets.lengths is no setting: did you mean "length"?'
    )
    path.write_text("features: [")
    with pytest.raises(InputError, match="is not YAML"):
        features(path)
    path.write_text("- 1")
    with pytest.raises(InputError, match="the specification is \\[1\\]: it must be a mapping"):
        features(path)
    path.write_text("")
    with pytest.raises(InputError, match="the specification is empty"):
        features(path)


# The guide.

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "features.md"


def fences() -> list[Any]:
    tokens = MarkdownIt().parse(GUIDE.read_text(encoding="utf-8"))
    return [token for token in tokens if token.type == "fence"]


def test_the_guide_knows_all_words() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    for word in (*FUNCTIONS, *CONSTANTS):
        assert f"`{word}" in text, word
    written = [features(yaml.safe_load(each.content)) for each in fences() if each.info == "yaml"]
    assert [group.name for group in written[0].groups] == ["event", "jets", "muons", "tracks"]
    for kind in (Features, Group):
        for setting in dataclasses.fields(kind):
            key = {"groups": "features", "fields": "branches", "slots": "length"}.get(setting.name)
            name = key or setting.name
            assert name in ("name", "jagged") or f"| `{name}" in text, name


# Round trips and digests.


def test_written_form_is_read_again() -> None:
    found = features(SPEC)
    for again in (
        features(found.to_json()),
        features(json.loads(json.dumps(found.to_json()))),
        features(yaml.safe_load(yaml.safe_dump(found.to_json()))),
        features(found),
        pickle.loads(pickle.dumps(found)),
        copy.deepcopy(found),
    ):
        assert again == found
        assert hash(again) == hash(found)
        assert again.digest == found.digest
        assert again.to_json() == found.to_json()


NAMES = st.from_regex(r"[A-Z][A-Za-z0-9_]{0,8}", fullmatch=True).filter(
    lambda word: word not in ("True", "False", "None")
)
FIELDS = st.one_of(
    NAMES.map(lambda word: Field(word, word)),
    st.builds(lambda name, word: Field(name, f"sum({word}) / 2"), NAMES, NAMES),
    st.builds(lambda name, word: Field(name, f'branch("{word}/{name}")'), NAMES, NAMES),
)
SEVERAL = st.lists(FIELDS, min_size=1, max_size=4, unique_by=lambda each: each.name).map(tuple)
SCALES = st.sampled_from([None, "standard", "minmax", "robust"])
DTYPES = st.sampled_from(["float32", "float64"])
GROUPS = st.one_of(
    st.builds(Group, NAMES, SEVERAL, scale=SCALES, dtype=DTYPES),
    st.builds(Group, NAMES, SEVERAL, jagged=st.just(True), slots=st.integers(1, 99), scale=SCALES),
    st.builds(
        Group, NAMES, SEVERAL, jagged=st.just(True), percentile=st.floats(0.1, 100), dtype=DTYPES
    ),
    st.builds(Group, NAMES, SEVERAL, jagged=st.just(True), form=st.just("ragged")),
)
AXES = st.builds(Axis, FIELDS, st.integers(1, 50), st.floats(-5, 0), st.floats(1, 5))
VIEWS = st.lists(
    st.builds(View, NAMES, st.none() | FIELDS), min_size=1, max_size=3, unique_by=lambda v: v.name
).map(tuple)
SPECS = st.builds(
    Features,
    st.lists(GROUPS, min_size=1, max_size=3, unique_by=lambda each: each.name).map(tuple),
    st.just(()),
    selection=st.none() | FIELDS,
    weights=st.none() | FIELDS,
    labels=st.none() | FIELDS | st.dictionaries(NAMES, st.floats(-9, 9), min_size=1, max_size=3),
    tree=st.none() | NAMES,
)


@given(SPECS, st.builds(Image, st.just("an image"), AXES, AXES, VIEWS))
@settings(max_examples=40, deadline=None)
def test_any_specification_survives_the_way_through_json(found: Features, one: Image) -> None:
    found = replace(found, images=(one,))
    again = features(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert again.digest == found.digest


def turned(written: Any) -> Any:
    """Write the keys of all mappings in the other order."""
    if isinstance(written, dict):
        return {key: turned(each) for key, each in reversed(written.items())}
    return [turned(each) for each in written] if isinstance(written, list) else written


@given(SPECS)
@settings(max_examples=40, deadline=None)
def test_order_of_keys_does_not_matter_to_the_digest(found: Features) -> None:
    assert features(turned(found.to_json())).digest == found.digest


def test_digest_is_the_same_everywhere_and_for_ever() -> None:
    # Scans and caches are kept by it: a change of this number makes all of them anew.
    assert features(SPEC).digest == "4bf0d1ee14c3e1cdf1605a5112900ae4"
    code = f"from hepdask_ml.data.features import features; print(features({SPEC!r}).digest)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == features(SPEC).digest


def changed(path: str, new: Any) -> dict[str, Any]:
    written = copy.deepcopy(SPEC)
    *outer, last = path.split("/")
    there = written
    for key in outer:
        there = there[key]
    there[last] = new
    return written


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("tree", "Other"),
        ("selection", "nJet >= 3"),
        ("weights", None),
        ("labels", {"ttbar": 1, "dy": 0.5}),
        ("labels", "isSignal"),
        ("features/event", ["MET_pt"]),
        ("features/event", [{"name": "ht", "expression": "sum(Jet_pt)"}, "MET_pt"]),
        ("features/event", ["MET_pt", {"name": "HT", "expression": "sum(Jet_pt)"}]),
        ("features/jets/length", 9),
        ("features/jets/scale", "robust"),
        ("features/jets/dtype", "float64"),
        ("features/muons/percentile", 94),
        ("features/muons", {"branches": ["Muon_pt"], "form": "ragged"}),
        ("images/calo/x/bins", 33),
        ("images/calo/y/high", 3.3),
        ("images/calo/views", ["counts"]),
    ],
)
def test_whatever_matters_changes_the_digest(path: str, new: Any) -> None:
    assert features(changed(path, new)).digest != features(SPEC).digest


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("features/event", ["MET_pt", {"expression": "sum(Jet_pt)", "name": "ht"}]),
        ("features/muons/scale", None),
        ("features/muons/percentile", 95.0),
        ("features/muons/form", "padded"),
        ("images/map/views", ["counts"]),
        ("images/map/views", [{"name": "counts"}]),
        ("labels", {"dy": 0.0, "ttbar": 1.0}),
    ],
)
def test_whatever_does_not_matter_leaves_the_digest(path: str, new: Any) -> None:
    assert features(changed(path, new)).digest == features(SPEC).digest


# Bad ones.

BAD: list[tuple[Any, str]] = [
    (3, "the features are 3: give a mapping, or the name of a YAML file"),
    ("nowhere.yaml", "nowhere.yaml cannot be read"),
    ({}, "features holds nothing: name a group of branches, or an image"),
    ({"features": None}, "features holds nothing"),
    ({"feature": {}}, 'feature is no setting: did you mean "features"?'),
    ({"features": ["Jet_pt"]}, "features is ['Jet_pt']: it must be a mapping"),
    ({"features": {3: ["x"]}}, "features holds the key 3: keys must be text"),
    ({3: 4}, "the specification has the key 3: keys must be text"),
    ({"features": {"jets": None}}, "features.jets is empty: it must be a list or a mapping"),
    ({"features": {"jets": "Jet_pt"}}, "features.jets is 'Jet_pt': it must be a list or a mapping"),
    ({"features": {"a/b": ["x"]}}, 'group "a/b": name is "a/b": names are of letters'),
    ({"features": {"": ["x"]}}, 'group "": name is "": names are of letters'),
    ({"features": {"jets": []}}, "features.jets.branches is []: it must not be empty"),
    (jets(branches=None), "features.jets.branches is missing: add it"),
    (jets(branches="Jet_pt"), 'features.jets.branches is "Jet_pt": it must be a list'),
    (jets(branches=["Jet_pt", "Jet_pt"]), 'group "jets" has two fields "Jet_pt"'),
    (jets(lengths=8), 'features.jets.lengths is no setting: did you mean "length"?'),
    (jets(length=0), "features.jets.length is 0: it must be at least one"),
    (jets(length="8"), 'features.jets.length is "8": it must be a whole number'),
    (jets(length=True), "features.jets.length is true: it must be a whole number"),
    (jets(percentile=95), 'group "jets" has both a length and a percentile'),
    (jets(length=None, percentile=0), "features.jets.percentile is 0: it must lie above 0"),
    (jets(length=None, percentile=101), "features.jets.percentile is 101"),
    (jets(length=None, percentile=math.nan), "features.jets.percentile is nan"),
    (jets(form="raged"), 'features.jets.form is "raged": choose from padded, ragged: did you mean'),
    (jets(form="ragged"), 'group "jets" is ragged and has a length or a percentile'),
    (jets(scale="std"), 'features.jets.scale is "std": choose from none, standard, minmax, robust'),
    (jets(dtype="int32"), 'features.jets.dtype is "int32": choose from float32, float64'),
    (with_field(3), "features.jets.branches[0] is 3: it must be an expression, or a mapping"),
    (with_field(None), "features.jets.branches[0] is empty: it must be an expression, or"),
    (
        with_field({"names": "x"}),
        'features.jets.branches[0].names is no setting: did you mean "name"?',
    ),
    (with_field({"name": "x"}), "features.jets.branches[0] has nothing to calculate: give one of"),
    (with_field({"name": 3, "branch": "x"}), "features.jets.branches[0].name is 3: it must be"),
    (with_field({"name": "", "branch": "x"}), 'features.jets.branches[0].name is "": it must not'),
    (with_field({"expression": "x", "branch": "y"}), "has expression and branch: give one of"),
    (with_field({"expression": "x", "branches": ["x"]}), "branches are for functions only"),
    (with_field("cso(Jet_phi)"), 'features.jets.branches[0]: "cso(Jet_phi)" is no expression'),
    (with_field("1 + 2"), 'field "1 + 2" is the same for all events: name a branch in it'),
    (with_field({"name": "x", "call": "os.path", "branches": ["x"]}), "names no function: write"),
    (with_field({"call": "no.where:f", "branches": ["x"]}), '"no.where:f" is not there'),
    (with_field({"call": "math:hypto", "branches": ["x"]}), 'did you mean "hypot"?'),
    (with_field({"call": "math:pi", "branches": ["x"]}), "math has no function pi"),
    (with_field({"call": "__main__:f", "branches": ["x"]}), "has to be handed over itself"),
    (with_field({"call": "math:hypot"}), 'field "hypot" needs no branch: name those'),
    (with_field({"call": of_event, "branches": "x"}), '.branches is "x": it must be a list'),
    (with_field({"call": of_event, "branches": [3]}), ".branches[0] is 3: it must be text"),
    (with_field({"call": 3, "branches": ["x"]}), "it is of the type int: give a function"),
    (spec(selection=True), "selection is True: it must be an expression, or a mapping"),
    (spec(selection="nJet >"), 'selection: "nJet >" is no expression: invalid syntax'),
    (spec(weights="1"), 'weights: field "weights" is the same for all events'),
    (spec(labels=1), "labels is 1: it must be an expression, or give each data set its number"),
    (spec(labels={}), "labels is {}: it must be an expression"),
    (spec(labels={"dy": "one"}), "labels.dy is 'one': it must be a finite number"),
    (spec(labels={"dy": math.inf}), "labels.dy is inf: it must be a finite number"),
    (spec(labels={"dy": True}), "labels.dy is True: it must be a finite number"),
    (spec(labels={1: 1}), "labels has the key 1: data sets have names of text"),
    (spec(tree=3), "tree is 3: it must be text"),
    (spec(tree=""), "tree is '': it must be the name of a tree"),
    (spec(images={"jets": image()["images"]["calo"]}), 'there are two tensors "jets"'),
    (spec(images={"calo": 3}), "images.calo is 3: it must be a mapping"),
    (image(z=3), "images.calo.z is no setting: choose from x, y, views"),
    (image(x={"branch": "x", "bins": 0, "low": 0, "high": 1}), "images.calo.x.bins is 0"),
    (image(x={"branch": "x", "bins": 2.5, "low": 0, "high": 1}), "images.calo.x.bins is 2.5"),
    (image(x={"branch": "x", "bins": 2, "low": 1, "high": 1}), "images.calo.x: low is 1 and high"),
    (image(x={"branch": "x", "bins": 2, "low": 0, "high": math.inf}), "high is inf: it must be a"),
    (image(x={"branch": "x", "bin": 2}), 'images.calo.x.bin is no setting: did you mean "bins"?'),
    (image(x={"bins": 2, "low": 0, "high": 1}), "images.calo.x has nothing to calculate"),
    (image(y="Jet_phi"), "images.calo.y is 'Jet_phi': it must be a mapping"),
    (image(views=[]), "images.calo.views is []: it must not be empty"),
    (image(views=["counts", "counts"]), 'image "calo" has two views "counts"'),
    (image(views=[3]), "images.calo.views[0] is 3: it must be counts, an expression, or a mapping"),
    (image(views=[{"weights": "x"}]), 'views[0].weights is no setting: did you mean "weight"?'),
    (image(views=[{"weight": "x +"}]), 'images.calo.views[0].weight: "x +" is no expression'),
]


@pytest.mark.parametrize(("written", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_specification_is_refused_in_one_sentence(written: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        features(written)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


FIELD = Field("pt", "Jet_pt")


def loose(kind: Any) -> Any:
    """Make records with values of any type, as scripts do that nobody checks."""
    return kind


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: loose(Field)("", "x"), "a field has the name '': it must be text"),
        (lambda: loose(Field)("x"), 'field "x" has neither of expression and function'),
        (lambda: loose(Field)("x", "x", of_event, ("x",)), "has both of expression and function"),
        (lambda: loose(Field)("x", 3), 'field "x" has the expression 3: it must be text'),
        (
            lambda: loose(Field)("x", "y", branches=("z",)),
            "has branches: only a function",
        ),
        (
            lambda: loose(Field)("x", call=of_event, branches="MET_pt"),
            "branches 'MET_pt': give",
        ),
        (lambda: loose(Field)("x", call=of_event), 'field "x" needs no branch'),
        (lambda: loose(Group)("g", ()), 'group "g" has no fields'),
        (lambda: loose(Group)("g", "Jet_pt"), 'group "g": fields is "Jet_pt": it must be a list'),
        (lambda: loose(Group)("g", (FIELD, FIELD)), 'group "g" has two fields "pt"'),
        (
            lambda: loose(Group)("g", (FIELD,), jagged=True),
            "nothing says how long",
        ),
        (lambda: loose(Group)("g", (FIELD,), slots=3), "is not jagged and has a length"),
        (lambda: loose(Group)("g", (FIELD,), form="ragged"), "is ragged and not jagged"),
        (
            lambda: loose(Group)("g", (FIELD,), jagged=True, slots=0),
            "slots is 0: it must be",
        ),
        (lambda: loose(Group)("g", (FIELD,), scale="std"), 'scale is "std"'),
        (lambda: loose(Axis)(FIELD, 0, 0, 1), "bins is 0: it must be at least one"),
        (lambda: loose(Axis)(FIELD, 2, 0, math.nan), "high is nan: it must be a finite number"),
        (lambda: loose(Axis)("x", 2, 0, 1), 'field is "x"'),
        (lambda: View(""), 'name is "": it must not be empty'),
        (lambda: Image("i", Axis(FIELD, 1, 0, 1), Axis(FIELD, 1, 0, 1), ()), "has no views"),
        (lambda: loose(Features)(), "features holds nothing"),
        (lambda: loose(Features)(("jets",)), "groups is ('jets',): it must be a tuple of Group"),
        (lambda: loose(Features)(Group("g", (FIELD,))), "it must be a tuple of Group"),
        (
            lambda: loose(Features)((Group("g", (FIELD,)),), selection="x"),
            "selection is 'x': it must be",
        ),
        (lambda: loose(Features)((Group("g", (FIELD,)),), labels="x"), "labels is 'x': it must be"),
    ],
)
def test_bad_record_is_refused_in_one_sentence(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# What a tree has, and what a scan finds.


def test_it_is_known_who_wants_a_branch() -> None:
    found = features(SPEC)
    wanted = {
        "nJet": "selection",
        "genWeight": "weights",
        "MET_pt": "selection",
        "Jet_phi": "features.jets.Jet_pt * cos(Jet_phi)",
        "Muon_pt": "features.muons.Muon_pt",
        "Track/pt": "features.tracks.Track/pt",
        "Jet_eta": "images.calo.x",
    }
    assert {name: found.wanted_by(name) for name in wanted} == wanted
    places = dict(found.places())
    for name in found.branches:
        assert name in places[found.wanted_by(name)].branches


class Found:
    """Lengths as a scan has them."""

    def slots(self, group: str, percentile: float) -> int:
        assert group == "muons"
        return int(percentile) - 92


def test_percentiles_become_slots() -> None:
    found = features(SPEC).resolved(Found())
    assert [group.slots for group in found.groups] == [None, 8, 3, None]
    assert all(group.percentile is None for group in found.groups)
    assert features(changed("features/muons/percentile", 90)).resolved(Found()).groups[2].slots == 1


# Functions.

FACTOR = 2.0


def scaled(arrays: Any) -> Any:
    return arrays["MET_pt"] * FACTOR


def helped(arrays: Any) -> Any:
    return scaled(arrays) + np.sqrt(4.0)


def test_function_gets_its_branches_and_no_others() -> None:
    seen = []

    def call(arrays: Any) -> Any:
        seen.append(sorted(arrays))
        return arrays["x"] + arrays["y"]

    field = Field("sum", call=call, branches=("x", "y", "x"))
    arrays = {name: np.asarray([1.0, 2.0]) for name in "xyz"}
    assert field.branches == ("x", "y")
    assert field.items(arrays).values.tolist() == [2.0, 4.0]
    assert seen == [["x", "y"]]
    assert field.branch is None


def test_function_without_its_branch_is_not_called() -> None:
    field = Field("double", call=of_event, branches=("MET_pt",))
    with pytest.raises(InputError, match='there is no branch "MET_pt": did you mean'):
        field.items({"MET_Pt": np.asarray([1.0])})


def test_function_that_asks_for_more_is_told() -> None:
    field = Field("sum", call=lambda arrays: arrays["x"] + arrays["y"], branches=("x",))
    with pytest.raises(InputError, match='its function asks for branch "y", and gets x: name all'):
        field.items({name: np.asarray([1.0]) for name in "xy"})


class Tool:
    """Its state is in no source text."""

    def method(self, arrays: Any) -> Any:
        return arrays["x"]

    __call__ = method


@pytest.mark.parametrize("call", [Tool(), Tool().method, Tool, partial(of_event), np.hypot])
def test_what_is_no_plain_function_is_refused(call: Any) -> None:
    with pytest.raises(InputError, match=r'field "x": it is of the type \w+: give a function'):
        Field("x", call=call, branches=("x",))


def test_function_may_give_lists() -> None:
    ak = pytest.importorskip("awkward")
    field = Field("px", call=lambda arrays: arrays["pt"] * 2, branches=("pt",))
    found = field.items({"pt": ak.Array([[1.0, 2.0], []])})
    assert found.awkward().to_list() == [[2.0, 4.0], []]
    with pytest.raises(InputError, match="its result is of the type str"):
        Field("px", call=lambda _: "text", branches=("pt",)).items({"pt": ak.Array([1.0])})


def test_function_travels_with_its_code() -> None:
    power = 3
    found = features(with_field({"call": lambda a: a["x"] ** power, "branches": ["x"]}))
    again = pickle.loads(pickle.dumps(found))
    [[field]] = [group.fields for group in again.groups]
    assert field.items({"x": np.asarray([2.0])}).values.tolist() == [8.0]
    assert again.digest == found.digest


def test_function_that_cannot_travel_is_refused() -> None:
    lock = threading.Lock()

    def call(arrays: Any) -> Any:
        with lock:
            return arrays["x"]

    with pytest.raises(InputError, match=r"call cannot travel to workers .* when it is called"):
        features(with_field({"call": call, "branches": ["x"]}))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_made_up_module.py").write_text(
        "def double(arrays):\n    return arrays['x'] * 2\n\n\nclass Tool:\n    def f(self): ...\n"
    )
    (tmp_path / "a_broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("a_made_up_module", "a_broken_module"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "a_made_up_module"


def test_function_of_a_module_is_found_by_its_name(module: str) -> None:
    found = features(with_field({"call": f"{module}:double", "branches": ["x"]}))
    assert found.to_json()["features"]["jets"]["branches"] == [
        {"name": "double", "call": f"{module}:double", "branches": ["x"]}
    ]
    again = features(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert again.digest == found.digest
    with pytest.raises(InputError, match=r"a_broken_module cannot be imported .ZeroDivisionError"):
        function_of("a_broken_module:f")
    with pytest.raises(InputError, match="has to be handed over itself"):
        function_of(f"{module}:Tool.f")


def test_function_without_a_module_is_written_but_not_found() -> None:
    found = features(with_field({"call": lambda a: a["x"], "branches": ["x"]}))
    with pytest.raises(InputError, match="has to be handed over itself"):
        features(found.to_json())


def lambdas() -> list[Callable[[Any], Any]]:
    return [lambda a: a["x"], lambda a: -a["x"]]


def closed_over(value: Any) -> Callable[[Any], Any]:
    return lambda arrays: arrays["x"] * value


def with_default(value: Any) -> Callable[[Any], Any]:
    def call(arrays: Any, factor: Any = value) -> Any:
        return arrays["x"] * factor

    return call


def test_identity_is_the_source_and_what_it_takes_from_around(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, source, around = identity(scaled)
    assert name == name_of(scaled)
    assert 'return arrays["MET_pt"] * FACTOR' in source
    assert around["FACTOR"] == ["float", "2.0"]
    json.dumps(identity(helped), allow_nan=False)
    before = [identity(scaled), identity(helped)]
    assert before == [identity(scaled), identity(helped)]
    monkeypatch.setitem(scaled.__globals__, "FACTOR", 3.0)
    assert identity(scaled) != before[0]
    assert identity(helped) != before[1]


def test_functions_that_differ_have_other_identities() -> None:
    one, other = lambdas()
    assert identity(one) != identity(other)
    assert identity(one) == identity(lambdas()[0])
    values = [2, 2.0, 3, "x", None, (1, 2), [1, 3], {"a": 1}, {"b"}, np.arange(3), np.arange(4)]
    for make in (closed_over, with_default):
        found = [json.dumps(identity(make(value))) for value in values]
        assert len(set(found)) == len(values)
        assert found == [json.dumps(identity(make(copy.deepcopy(value)))) for value in values]


def test_functions_without_source_are_told_apart_by_their_code() -> None:
    texts = ("lambda a: a['x'] + 1", "lambda a: a['x'] + 2", "lambda a: a['y'] + 1")
    found = [json.dumps(identity(eval(text))) for text in texts]
    assert len(set(found)) == 3
    assert json.dumps(identity(eval("lambda a: a['x'] + 1"))) == found[0]


def test_function_that_calls_itself_has_an_identity() -> None:
    def call(arrays: Any) -> Any:
        return call(arrays) if arrays else 0

    assert identity(call)[2]["call"] == [name_of(call)]

    def early(arrays: Any) -> Any:
        return late(arrays)

    assert "late" not in identity(early)[2]

    def late(arrays: Any) -> Any:
        return arrays

    assert "return arrays" in identity(early)[2]["late"][1]
    assert identity(builtins.len) == ["builtins:len"]
