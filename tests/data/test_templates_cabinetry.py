"""Configurations of cabinetry give cabinetry's workspaces."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made_up_templates import histogram, rates

from hepdask_ml.data.templates.build import build
from hepdask_ml.data.templates.cabinetry_config import read_cabinetry
from hepdask_ml.data.templates.smoothing import smoothed
from hepdask_ml.errors import InputError

CONFIG: dict[str, Any] = {
    "General": {
        "Measurement": "minimal_example",
        "POI": "Signal_norm",
        "HistogramFolder": "histograms/",
        "InputPath": "inputs/{SamplePath}.root:{RegionPath}/{VariationPath}",
        "VariationPath": "nominal",
        "Fixed": [{"Name": "Luminosity", "Value": 0.5}],
    },
    "Regions": [
        {"Name": "Signal region", "RegionPath": "sr"},
        {"Name": "Control_region", "RegionPath": "cr"},
    ],
    "Samples": [
        {"Name": "Data", "SamplePath": "data", "Data": True},
        {"Name": "Signal", "SamplePath": "signal", "Regions": "Signal region"},
        {"Name": "Background", "SamplePath": "background"},
        {"Name": "Fakes", "SamplePath": "fakes", "DisableStaterror": True},
    ],
    "NormFactors": [
        {"Name": "Signal_norm", "Samples": "Signal", "Nominal": 1, "Bounds": [-5, 10]},
        {"Name": "Background_norm", "Samples": ["Background"], "Regions": ["Signal region"]},
    ],
    "Systematics": [
        {
            "Name": "Luminosity",
            "Type": "Normalization",
            "Up": {"Normalization": 0.05},
            "Down": {"Normalization": -0.04},
            "Samples": ["Signal", "Background"],
        },
        {
            "Name": "Modeling",
            "Type": "NormPlusShape",
            "Up": {"SamplePath": "background_alt"},
            "Down": {"Symmetrize": True},
            "Samples": "Background",
            "ModifierName": "Background_modeling",
        },
        {
            "Name": "WeightBasedModeling",
            "Type": "NormPlusShape",
            "Up": {"VariationPath": "weight_up"},
            "Down": {"VariationPath": "weight_down"},
            "Smoothing": {"Algorithm": "353QH, twice", "Regions": "Signal region"},
            "Samples": "Background",
            "Regions": ["Signal region", "Control_region"],
        },
    ],
}
"""Like the one of cabinetry's tutorial, for histograms."""


def numbers(seed: int, n: int, scale: float) -> Any:
    rng = np.random.default_rng(seed)
    return histogram(scale * rng.uniform(0.8, 1.2, n), rng.uniform(0.5, 2.0, n))


def histograms() -> dict[str, dict[str, Any]]:
    """Histograms by file and name: eight bins in the signal region, one in the control region."""
    files: dict[str, dict[str, Any]] = {}
    for region, n in (("sr", 8), ("cr", 1)):
        for i, name in enumerate(("data", "signal", "background", "fakes", "background_alt")):
            scale = {"signal": 5.0, "data": 130.0}.get(name, 50.0)
            files.setdefault(name, {})[f"{region}/nominal"] = numbers(i, n, scale)
        files["background"][f"{region}/weight_up"] = numbers(11, n, 60.0)
        files["background"][f"{region}/weight_down"] = numbers(12, n, 44.0)
    return files


def close(one: Any, other: Any) -> None:
    if isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in other:
            close(one[key], other[key])
    elif isinstance(other, list):
        key = "name" if other and isinstance(other[0], dict) else None
        if key:
            one, other = (
                sorted(each, key=lambda x: (x["name"], x.get("type"))) for each in (one, other)
            )
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            close(a, b)
    elif isinstance(other, float):
        assert one == pytest.approx(other, rel=1e-12)
    else:
        assert one == other


def inputs_written(folder: Path) -> None:
    uproot = pytest.importorskip("uproot")
    hist = pytest.importorskip("hist")
    (folder / "inputs").mkdir()
    for name, found in histograms().items():
        with uproot.recreate(folder / "inputs" / f"{name}.root") as file:
            for place, each in found.items():
                made = hist.Hist(hist.axis.Variable(each.edges.tolist()), storage="weight")
                made.view().value, made.view().variance = each.values, each.variances
                file[place] = made


def folder_written(folder: Path) -> None:
    """Put histograms where cabinetry would, with names as it would."""
    (folder / "histograms").mkdir()
    given = histograms()
    for region in CONFIG["Regions"]:
        for sample in CONFIG["Samples"]:
            cells = {"": (sample["SamplePath"], "nominal")}
            if sample["Name"] == "Background":
                cells["_Modeling_Up"] = ("background_alt", "nominal")
                cells["_WeightBasedModeling_Up"] = ("background", "weight_up")
                cells["_WeightBasedModeling_Down"] = ("background", "weight_down")
            for ending, (file, name) in cells.items():
                each = given[file][f"{region['RegionPath']}/{name}"]
                path = f"{region['Name']}_{sample['Name']}{ending}.npz".replace(" ", "-")
                np.savez(
                    folder / "histograms" / path,
                    yields=each.values,
                    stdev=np.sqrt(each.variances),
                    bins=each.edges,
                )


@pytest.mark.parametrize("source", ["inputs", "folder"])
def test_workspaces_are_those_of_cabinetry(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cabinetry = pytest.importorskip("cabinetry")
    monkeypatch.chdir(tmp_path)
    inputs_written(tmp_path)
    config = copy.deepcopy(CONFIG)
    cabinetry.configuration.validate(config)
    cabinetry.templates.collect(config)
    cabinetry.templates.postprocess(config)
    wanted = cabinetry.workspace.build(config)
    # It lists factors that it has nothing to say of.
    settings = wanted["measurements"][0]["config"]
    settings["parameters"] = [each for each in settings["parameters"] if len(each) > 1]
    templates, choices = read_cabinetry(config, source=source)
    made = build(templates, choices)
    close(made.workspace, wanted)
    if source == "inputs":
        assert [entry.where for entry in made.report.of("smoothed")] == 2 * [
            "Signal region/Background/WeightBasedModeling"
        ]
        assert len(templates.sources) == 5


def test_smoothing_has_the_numbers_of_cabinetry() -> None:
    smooth = pytest.importorskip("cabinetry.smooth")
    rng = np.random.default_rng(5)
    for n in (3, 4, 5, 6, 7, 20, 50):
        steps = rng.integers(0, 4, n).astype(np.float64)
        for values in (rng.normal(10, 1, n), rng.normal(0, 1, n), steps):
            assert np.allclose(smoothed(values), smooth.smooth_353qh_twice(values), atol=1e-12)


def test_the_folder_of_cabinetry_is_read_without_cabinetry(tmp_path: Path) -> None:
    folder_written(tmp_path)
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(CONFIG))
    templates, choices = read_cabinetry(path, folder=tmp_path)
    made = build(templates, choices)
    given = histograms()
    up = rates(made.workspace, WeightBasedModeling=1.0)
    # Luminosity is held at half a standard deviation.
    scale = (rates(made.workspace)["Control_region", "Background"][0]
             / given["background"]["cr/nominal"].values[0])  # fmt: skip
    wanted = given["background"]["sr/weight_up"].values
    assert up["Signal region", "Background"] == pytest.approx((scale * wanted).tolist())
    assert made.workspace["measurements"][0] == {
        "name": "minimal_example",
        "config": {
            "poi": "Signal_norm",
            "parameters": [
                {"name": "Signal_norm", "inits": [1.0], "bounds": [[-5.0, 10.0]]},
                {"name": "Luminosity", "inits": [0.5], "fixed": True},
            ],
        },
    }
    found = {
        (channel["name"], sample["name"]): {(m["type"], m["name"]) for m in sample["modifiers"]}
        for channel in made.workspace["channels"]
        for sample in channel["samples"]
    }
    assert found["Signal region", "Fakes"] == set()
    assert found["Signal region", "Signal"] == {
        ("staterror", "staterror_Signal-region"),
        ("normfactor", "Signal_norm"),
        ("normsys", "Luminosity"),
    }
    assert ("Control_region", "Signal") not in found
    assert ("normsys", "Background_modeling") in found["Control_region", "Background"]


def refusal(change: Any, folder: Path, **named: Any) -> str:
    config = copy.deepcopy(CONFIG)
    change(config)
    with pytest.raises(InputError) as caught:
        read_cabinetry(config, folder=folder, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_wrong_with_a_configuration_is_told(tmp_path: Path) -> None:
    def changed(*path: Any, to: Any) -> Any:
        def change(config: Any) -> None:
            for key in path[:-1]:
                config = config[key]
            config[path[-1]] = to

        return change

    for change, expected in (
        (changed("Genrl", to={}), 'Genrl is no setting: did you mean "General"?'),
        (changed("Samples", 1, "Region", to="x"), "Samples[1].Region is no setting: did you mean"),
        (changed("Samples", 0, "Data", to=False), "no sample that is data"),
        (changed("Samples", 1, "Name", to="Data"), 'the name "Data" stands there twice'),
        (changed("Samples", 1, "Regions", to="SR"), '"Signal": there is no region "SR"'),
        (changed("NormFactors", 0, "Samples", to="Signl"), 'did you mean "Signal"?'),
        (changed("Systematics", 0, "Type", to="Shape"), "choose from Normalization, NormPlusShape"),
        (changed("Systematics", 0, "Up", to={}), "lacks the Normalization of Up or Down"),
        (changed("Systematics", 1, "Up", to={"Symmetrize": True}), "symmetrises Up"),
        (changed("Systematics", 2, "Smoothing", "Algorithm", to="TTb"), "choose from 353QH, twice"),
        (changed("NormFactors", to={}), "NormFactors is {}: it must be a list"),
        (changed("General", to=[]), "General is []: it must be a mapping"),
        (changed("General", to={"InputPath": "x"}), "General.Measurement is missing"),
        (lambda config: None, "Signal-region_Signal.npz is missing: let cabinetry.templates build"),
    ):
        assert expected in refusal(change, tmp_path)
    assert 'source is "file": ' in refusal(lambda config: None, tmp_path, source="file")


def test_what_is_wrong_with_inputs_is_told(tmp_path: Path) -> None:
    inputs_written(tmp_path)

    def path(to: str) -> Any:
        return lambda config: config["General"].update(InputPath=to)

    for change, expected in (
        (path("inputs/{SamplePath}.root"), "which names no histogram"),
        (path("inputs/{SamplePath}.root:{RegionPath}/nominl"), 'did you mean "sr/nominal"?'),
        (path("nowhere/{SamplePath}.root:x"), "cannot be read"),
        (lambda config: config["Regions"][0].pop("RegionPath"), "RegionPath is missing"),
        (lambda config: config["Samples"][1].update(SamplePath=["a", "b"]), "give one text"),
    ):
        assert expected in refusal(change, tmp_path, source="inputs")


def test_without_uproot_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uproot", None)
    assert refusal(lambda config: None, tmp_path, source="inputs") == (
        "ROOT files are read by uproot: install hepdask-ml[data]"
    )


def test_a_broken_histogram_of_the_folder_is_told(tmp_path: Path) -> None:
    folder_written(tmp_path)
    file = tmp_path / "histograms" / "Signal-region_Signal.npz"
    for content in (b"", b"PK no zip", b"nothing"):
        file.write_bytes(content)
        assert "is no histogram of cabinetry" in refusal(lambda config: None, tmp_path)
    np.savez(file, yields=[1.0])
    assert "is no histogram of cabinetry" in refusal(lambda config: None, tmp_path)
