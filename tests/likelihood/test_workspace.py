"""Bad workspaces get one sentence that names the place; nothing else ever comes out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import MADE_UP, control_region, luminosity, normsys, one_bin, per_bin, two_bins
from strategies import workspaces

from hepdask_ml import CompiledModel, InputError, compile_model


def changed(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Give a copy with one entry replaced; a value of ... deletes it."""
    spec = copy.deepcopy(spec)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    place: Any = spec
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return spec


SAMPLE = "channels/0/samples/1"
BAD = [
    ("channels", ..., 'has no "channels"'),
    ("channels", [], "no channels"),
    ("channels", "text", "a list was expected"),
    ("channels/0/name", ..., 'channel 0 has no "name"'),
    ("channels/0/name", 7, "names must be text"),
    ("channels/0/samples", [], "no samples"),
    (f"{SAMPLE}/data", ..., 'sample "b" has no "data"'),
    (f"{SAMPLE}/data", [1.0, 2.0], "has 2 bins, its channel 1"),
    (f"{SAMPLE}/data", [float("nan")], "finite"),
    (f"{SAMPLE}/data", [True], "a number was expected"),
    (f"{SAMPLE}/data", ["1"], "a number was expected"),
    (f"{SAMPLE}/name", "s", '"s" stands there twice'),
    (f"{SAMPLE}/modifiers", ..., 'has no "modifiers"'),
    (f"{SAMPLE}/modifiers/0/type", "normsis", "normsis"),
    (f"{SAMPLE}/modifiers/0/data", ..., 'normsys "sys" has no "data"'),
    (f"{SAMPLE}/modifiers/0/data", None, "a JSON object was expected"),
    (f"{SAMPLE}/modifiers/0/data/lo", ..., 'has no "lo"'),
    (f"{SAMPLE}/modifiers/0/data/lo", -0.5, "must be positive"),
    (f"{SAMPLE}/modifiers/0/data/hi", float("inf"), "finite"),
    (f"{SAMPLE}/modifiers/0/name", "mu", "cannot share a parameter"),
    ("observations", [], 'channel "c" has no observations'),
    ("observations/0/data", [-1.0], "must be zero or more"),
    ("observations/0/data", [1.0, 2.0], "has 2 bins, its channel 1"),
    ("observations/0/data", [None], "a number was expected"),
    ("measurements", [], "no measurements"),
    ("measurements/0/config", ..., 'has no "config"'),
    ("measurements/0/config/poi", ..., 'has no "poi"'),
    ("measurements/0/config/poi", "nu", 'no parameter "nu"'),
    ("measurements/0/config/parameters", [{"inits": [1.0]}], 'has no "name"'),
    ("measurements/0/config/parameters", [{"name": "mu", "inits": [1, 2]}], "2 inits"),
    (
        "measurements/0/config/parameters",
        [{"name": "mu", "bounds": [[3, 1]]}],
        "lower and an upper",
    ),
    ("measurements/0/config/parameters", [{"name": "mu", "fixed": 1}], "true or false"),
    ("measurements/0/config/parameters", [{"name": "mu", "sigmas": [1.0]}], "does not use sigmas"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), BAD)
def test_one_sentence_for_each_mistake(path: str, value: Any, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        compile_model(changed(one_bin(), path, value))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_lumi_are_needed() -> None:
    spec = luminosity()
    spec["measurements"][0]["config"]["parameters"] = []
    with pytest.raises(InputError, match='"lumi" has no inits'):
        compile_model(spec)


def test_a_poi_of_several_components_is_refused() -> None:
    with pytest.raises(InputError, match="has 2 components"):
        compile_model(two_bins(), poi="uncorrelated")


def test_a_shapesys_belongs_to_one_sample() -> None:
    spec = control_region()
    for channel in spec["channels"]:
        for item in channel["samples"]:
            item["modifiers"].append(per_bin("shapesys", "twice", [0.1] * len(item["data"])))
    with pytest.raises(InputError, match="is used before"):
        compile_model(spec)


def test_uncertainties_whose_squares_vanish_are_refused() -> None:
    spec = two_bins()
    spec["channels"][0]["samples"][1]["modifiers"][0]["data"] = [1e-200, 1.0]
    with pytest.raises(InputError, match="almost zero"):
        compile_model(spec)


def test_a_shapefactor_needs_equal_binnings() -> None:
    spec = control_region()
    for channel in spec["channels"]:
        item = channel["samples"][0]
        item["modifiers"].append({"name": "f", "type": "shapefactor", "data": None})
    with pytest.raises(InputError, match='shapefactor "f" has 1 components'):
        compile_model(spec)


def test_repeated_modifiers_count_once_the_last_one() -> None:
    spec = one_bin()
    spec["channels"][0]["samples"][1]["modifiers"].append(normsys("sys", 0.5, 1.5))
    model = compile_model(spec)
    assert model.norm_lo.tolist() == [0.5]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"", "is not JSON"),
        ("a.json", b"\xff\xfe\x00", "is not JSON"),
        ("a.json", b"[1, 2]", "a JSON object was expected"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.json.gz", b"\x1f\x8b\x08\x00broken", "damaged gzip"),
        ("missing.json", None, "cannot be read"),
        ("nowhere://a.json", None, "cannot be read"),
    ],
)
def test_bad_files(name: str, content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / name if "://" not in name else name
    if content is not None:
        Path(path).write_bytes(content)
    with pytest.raises(InputError, match=sentence) as error:
        compile_model(path)
    assert "\n" not in str(error.value)


PATCHSET = {
    "metadata": {"digests": {"md5": "0" * 32}},
    "patches": [{"metadata": {"name": "point", "values": [1]}, "patch": []}],
}


@pytest.mark.parametrize(
    ("content", "suffix", "sentence"),
    [
        ([{"op": "remove", "path": "/nothing/here"}], "", "does not apply"),
        ([{"op": "replace"}], "", "does not apply"),
        (["text"], "", "does not apply"),
        (7, "", "does not apply"),
        (PATCHSET, "", "name one of its patches"),
        (PATCHSET, ":other", 'no patch "other": choose from point'),
        (PATCHSET, ":point", "made for another workspace"),
        ({"patches": [3]}, ":point", "a JSON object was expected"),
        ([{"op": "replace", "path": "", "value": 3}], "", "a JSON object was expected"),
    ],
)
def test_bad_patches(content: Any, suffix: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "patch.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence) as error:
        compile_model(one_bin(), patch=f"{path}{suffix}")
    assert "\n" not in str(error.value)


def test_unknown_measurement() -> None:
    with pytest.raises(InputError, match='no measurement "x": choose from measurement'):
        compile_model(one_bin(), measurement="x")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a JSON document, as a path of keys."""
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            found += places(inner, (*path, place))
    return found


STRANGE = st.sampled_from(
    [None, "", "mu", float("nan"), float("inf"), -1.0, 0.0, 1e308, 10**400, True, [], {}, [[1.0]],
     [1.0, 2.0, 3.0], {"lo": 1.0}, "normsys"]
)  # fmt: skip


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(spec=st.one_of(workspaces(), st.sampled_from(list(MADE_UP.values()))), data=st.data())
def test_mutated_workspaces_compile_or_say_why(spec: Any, data: st.DataObject) -> None:
    spec = copy.deepcopy(spec)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(spec)))
        if not path:
            continue
        place = spec
        for key in path[:-1]:
            place = place[key]
        action = data.draw(st.sampled_from(["replace", "delete", "repeat"]))
        if action == "replace":
            place[path[-1]] = copy.deepcopy(data.draw(STRANGE))
        elif action == "delete":
            del place[path[-1]]
        elif isinstance(place, list):
            place.append(copy.deepcopy(place[path[-1]]))
    model = compiled_or_refused(spec)
    if model is not None:
        assert np.isfinite(model.nominal).all()
        assert np.isfinite(model.init).all()
        assert np.isfinite(model.data).all()


def compiled_or_refused(spec: Any) -> CompiledModel | None:
    sentence = "one"
    model = None
    try:
        model = compile_model(spec)
    except InputError as error:
        sentence = str(error)
    assert sentence
    assert "\n" not in sentence
    return model
