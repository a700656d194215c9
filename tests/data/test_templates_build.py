"""Workspaces made of templates have their yields, and tell of all that was done on the way."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyhf
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from made_up import published
from made_up_templates import histogram, rates, search, trees

from hepdask_ml import compile_model
from hepdask_ml.data.templates.build import Built, build
from hepdask_ml.data.templates.choices import Choices, Treatment
from hepdask_ml.data.templates.collect import Templates, collect
from hepdask_ml.data.templates.smoothing import smoothed
from hepdask_ml.data.templates.workspaces import from_workspace
from hepdask_ml.errors import InputError
from hepdask_ml.likelihood.rates import expected_rates

if TYPE_CHECKING:
    from pathlib import Path

MIRROR = {"symmetrise": "mirror"}


def built(choices: Any = None, /, *, tree: Any = None, **changes: Any) -> Built:
    return build(collect(tree or search()), choices, **{"signal": "signal"} | changes)


def refusal(tree: Any = None, /, **changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        built(tree=tree, **{"treatment": MIRROR} | changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def modifiers(made: Built, channel: str, process: str) -> dict[tuple[str, str], Any]:
    channels = {each["name"]: each for each in made.workspace["channels"]}
    samples = {each["name"]: each for each in channels[channel]["samples"]}
    return {(m["type"], m["name"]): m["data"] for m in samples[process]["modifiers"]}


def said(made: Built, what: str) -> list[str]:
    return [f"{entry.where}: {entry.detail}" for entry in made.report.of(what)]


# -- yields ----------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(trees(), st.sampled_from(["split", "histosys"]))
def test_pyhf_has_the_yields_of_the_templates(tree: Any, form: str) -> None:
    made = built(tree=tree, treatment={"form": form})
    nominal = rates(made.workspace)
    templates = collect(tree)
    for channel, there in templates.channels.items():
        for process, template in there.items():
            assert nominal[channel, process] == pytest.approx(template.nominal.values.tolist())
    for systematic in templates.systematics:
        for value, side in ((1.0, "up"), (-1.0, "down")):
            varied = rates(made.workspace, **{systematic: value})
            for channel, there in templates.channels.items():
                for process, template in there.items():
                    variation = template.variations.get(systematic)
                    wanted = getattr(variation, side) if variation else template.nominal
                    assert varied[channel, process] == pytest.approx(wanted.values.tolist())


treatments = st.fixed_dictionaries(
    {
        "form": st.sampled_from(["split", "histosys", "normsys"]),
        "symmetrise": st.sampled_from(["none", "mirror", "mirror-parts", "average"]),
        "smooth": st.sampled_from(["none", "353QH"]),
        "prune_shape": st.one_of(st.none(), st.floats(0.0, 1.0)),
        "name": st.sampled_from(["{systematic}", "{systematic}_{channel}_{process}"]),
    }
)


@settings(max_examples=25, deadline=None)
@given(trees(), treatments, st.sampled_from(["staterror", "shapesys", "none"]))
def test_whatever_is_chosen_the_workspace_is_valid(tree: Any, treatment: Any, kind: str) -> None:
    try:
        made = built(tree=tree, treatment=treatment, statistics=[{"kind": kind}], floor=0.1)
    except InputError:
        # An average may leave no yield at all.
        if treatment["symmetrise"] != "average":
            raise
        reject()
    nominal = rates(json.loads(json.dumps(made.workspace)))
    for channel, there in collect(tree).channels.items():
        for process, template in there.items():
            assert nominal[channel, process] == pytest.approx(template.nominal.values.tolist())
    assert compile_model(made.workspace).poi_name == "mu"
    changed = {
        entry.systematic for what in ("smoothed", "symmetrised") for entry in made.report.of(what)
    }
    asked = treatment["smooth"] != "none" or treatment["symmetrise"] == "average"
    assert changed == (set(collect(tree).systematics) if asked else set())


@settings(max_examples=15, deadline=None)
@given(trees())
def test_a_workspace_of_templates_of_a_workspace_is_the_same(tree: Any) -> None:
    first = built(tree=tree).workspace
    templates, choices = from_workspace(first)
    again = build(templates, choices).workspace
    assert_close(pyhf.Workspace.sorted(pyhf.Workspace(again)),
                 pyhf.Workspace.sorted(pyhf.Workspace(first)))  # fmt: skip


def assert_close(one: Any, other: Any) -> None:
    """Equal but for rounding."""
    if isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in other:
            assert_close(one[key], other[key])
    elif isinstance(other, list) and other and not isinstance(other[0], (int, float)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_close(a, b)
    elif isinstance(other, (list, float)):
        assert one == pytest.approx(other, rel=1e-12, abs=1e-12)
    else:
        assert one == other


@published
def test_published_likelihoods_go_round(path: Path) -> None:
    workspace = json.loads(path.read_text())
    made = build(*from_workspace(workspace))
    before, after = compile_model(workspace), compile_model(made.workspace)
    assert after.par_names == before.par_names
    assert after.data.tolist() == pytest.approx(before.data.tolist())
    # Yields are the same with any one parameter a standard deviation off; between these points a
    # shape whose yield is not the nominal one moves a part of it to the normsys.
    points = np.tile(before.init, (2 * before.n_pars + 1, 1))
    for i in range(before.n_pars):
        step = before.sigma[i] if before.constraint[i] else 0.5
        points[1 + 2 * i, i] += step
        points[2 + 2 * i, i] -= step
    wanted = expected_rates(before, points)
    assert np.allclose(expected_rates(after, points), wanted, rtol=1e-10, atol=1e-10)


# -- modifiers -------------------------------------------------------------------------------------


def test_split_makes_yield_and_shape_and_one_bin_yield_only() -> None:
    made = built(treatment=MIRROR)
    found = modifiers(made, "sr", "ttbar")
    assert found["normsys", "jes"]["hi"] == pytest.approx(45.5 / 43.0)
    assert sum(found["histosys", "jes"]["hi_data"]) == pytest.approx(43.0)
    assert modifiers(made, "cr", "ttbar") == {
        ("normsys", "jes"): {"lo": 0.96, "hi": 1.07},
        ("staterror", "staterror_cr"): [pytest.approx(np.sqrt(10.0))],
    }
    assert modifiers(made, "sr", "signal")["normfactor", "mu"] is None
    pyhf.Workspace(made.workspace)
    assert compile_model(made.workspace).poi_name == "mu"


def test_one_side_is_mirrored_if_that_is_chosen() -> None:
    made = built(treatment=MIRROR)
    assert modifiers(made, "cr", "wjets")["normsys", "herwig"] == {
        "lo": pytest.approx(0.9),
        "hi": pytest.approx(1.1),
    }
    assert said(made, "symmetrised") == ["cr/wjets/herwig: mirror, there is one side only"]
    assert refusal(treatment={}) == (
        'channel "cr", process "wjets", systematic "herwig" goes up but not down: fill the other '
        'side, choose to symmetrise="mirror" it, or say in the layout how the names of both sides '
        "end"
    )


def test_mirrors_of_the_template_and_of_its_parts_differ_in_the_shape() -> None:
    tree = {"sr": {"signal": {"nominal": histogram([4.0, 4.0]), "altUp": histogram([6.0, 4.0])}}}
    whole = built(tree=tree, treatment=MIRROR, observed="asimov").workspace
    parts = built(tree=tree, treatment={"symmetrise": "mirror-parts"}, observed="asimov").workspace
    assert rates(whole, alt=-1.0)["sr", "signal"] == pytest.approx([2.0, 4.0])
    # Three quarters of the yield, and the image of the shape (4.8, 3.2).
    assert rates(parts, alt=-1.0)["sr", "signal"] == pytest.approx([0.75 * 3.2, 0.75 * 4.8])
    assert rates(parts, alt=1.0)["sr", "signal"] == pytest.approx([6.0, 4.0])


def test_average_takes_half_the_difference() -> None:
    made = built(treatment={"symmetrise": "average", "form": "histosys"})
    jes = modifiers(made, "sr", "ttbar")["histosys", "jes"]
    assert jes["hi_data"] == pytest.approx([21.5, 14.75, 9.25])
    assert jes["lo_data"] == pytest.approx([18.5, 13.25, 8.75])
    assert "sr/ttbar/jes: average" in said(made, "symmetrised")


def test_small_effects_are_pruned_if_a_threshold_is_chosen() -> None:
    same = {"nominal": histogram([10.0, 20.0]), "jesUp": histogram([11.0, 22.0]),
            "jesDown": histogram([9.0, 18.0]), "isrUp": histogram([11.0, 19.0]),
            "isrDown": histogram([9.0, 21.0])}  # fmt: skip
    tree = {"sr": {"signal": {"nominal": histogram([1.0, 1.0])}, "z": same}}
    zero = built(tree=tree, observed="asimov", treatment={"prune_norm": 0, "prune_shape": 0})
    assert set(modifiers(zero, "sr", "z")) == {
        ("normsys", "jes"),
        ("histosys", "isr"),
        ("staterror", "staterror_sr"),
    }
    assert said(zero, "pruned") == ["sr/z/jes: histosys of 0 %", "sr/z/isr: normsys of 0 %"]
    more = built(tree=tree, observed="asimov", treatment={"prune_norm": 0.1, "prune_shape": 0.1})
    assert set(modifiers(more, "sr", "z")) == {("staterror", "staterror_sr")}
    none = built(tree=tree, observed="asimov")
    assert not none.report.of("pruned")
    assert len(modifiers(none, "sr", "z")) == 5
    flat = built(tree=tree, observed="asimov", treatment={"form": "normsys"})
    assert said(flat, "pruned")[1] == "sr/z/isr: shape of 10 %, by its form"


def test_rules_give_some_variations_another_treatment_and_name() -> None:
    made = built(
        treatment=MIRROR,
        rules=[
            {
                "systematics": "jes",
                "channels": "cr",
                "treatment": {"name": "{systematic}_{channel}"},
            },
            {"systematics": ["jes", "isr"], "treatment": {"form": "histosys"}},
        ],
    )
    assert ("normsys", "jes_cr") in modifiers(made, "cr", "ttbar")
    assert ("histosys", "jes") in modifiers(made, "sr", "ttbar")
    assert ("normsys", "jes") not in modifiers(made, "sr", "ttbar")


def test_smoothing_keeps_the_yield_and_is_listed() -> None:
    rough = [101.0, 112.0, 99.0, 108.0, 104.0, 96.0]
    tree = {"sr": {"signal": {"nominal": histogram([100.0] * 6), "jesUp": histogram(rough)}}}
    made = built(
        tree=tree, observed="asimov", treatment={"smooth": "353QH", "form": "histosys"} | MIRROR
    )
    up = np.array(modifiers(made, "sr", "signal")["histosys", "jes"]["hi_data"])
    assert up.sum() == pytest.approx(sum(rough))
    assert np.abs(np.diff(up)).max() < np.abs(np.diff(rough)).max()
    (line,) = said(made, "smoothed")
    assert line.startswith("sr/signal/jes: up: 353QH, which moved bins by up to ")
    few = built(treatment={"smooth": "353QH"} | MIRROR)
    assert any("fewer than 3 bins" in line for line in said(few, "smoothed"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # What cabinetry.smooth (0.6.0) makes of them.
        ([5.0, 1.0, 2.0, 3.0, 2.0], [2.0, 2.0, 2.0, 2.0, 2.0]),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]),
        ([-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]),
        ([2.0, 7.0, 1.0], [2.0, 2.0, 2.0]),
        ([3.0, 9.0, 4.0, 4.0, 8.0, 1.0, 7.0, 2.0], [4.0, 4.0, 4.0, 4.0, 4.0, 3.5, 2.5, 2.0]),
        (
            [1.0, 1.0, 1.0, 1.0, 5.0, 5.0, 5.0, 1.0, 1.0, 1.0],
            [1.0, 1.0, 1.0, 2.0, 13 / 3, 17 / 3, 13 / 3, 2.0, 1.0, 1.0],
        ),
    ],
)
def test_smoothing_by_running_medians(given: list[float], expected: list[float]) -> None:
    assert smoothed(np.array(given)).tolist() == pytest.approx(expected)


# -- statistics ------------------------------------------------------------------------------------


def test_statistics_are_square_roots_of_variances() -> None:
    made = built(treatment=MIRROR)
    widths = modifiers(made, "sr", "wjets")["staterror", "staterror_sr"]
    assert widths == pytest.approx(np.sqrt([0.5, 0.3, 0.1]).tolist())
    each = built(treatment=MIRROR, statistics=[{"kind": "shapesys"}])
    assert ("shapesys", "shapesys_sr_wjets") in modifiers(each, "sr", "wjets")
    pyhf.Workspace(each.workspace).model()
    some = built(
        treatment=MIRROR,
        statistics=[{"kind": "none", "processes": "signal"}, {"name": "mc_{channel}"}],
    )
    assert not any(kind == "staterror" for kind, _ in modifiers(some, "sr", "signal"))
    assert ("staterror", "mc_sr") in modifiers(some, "sr", "ttbar")
    assert not any("stat" in name for name in compile_model(
        built(treatment=MIRROR, statistics=[]).workspace).par_names)  # fmt: skip


def test_pyhf_has_the_widths_of_all_processes_together() -> None:
    model = pyhf.Workspace(built(treatment=MIRROR).workspace).model()
    # The variances are a tenth of the yields, of 26, 21 and 12 events.
    widths = model.config.param_set("staterror_sr").sigmas
    assert widths == pytest.approx((0.1 / np.array([26.0, 21.0, 12.0])) ** 0.5)


def test_bins_below_the_threshold_have_no_statistical_uncertainty() -> None:
    # Relative errors of all processes together: sqrt(V / 10) / V with V = 26, 21, 12 and 140.
    made = built(treatment=MIRROR, statistics=[{"threshold": 0.065}])
    assert said(made, "statistics") == ["sr: staterror_sr: bin 0, below 0.065",
                                        "cr: staterror_cr: bin 0, below 0.065"]  # fmt: skip
    assert modifiers(made, "sr", "ttbar")["staterror", "staterror_sr"][0] == 0.0
    model = pyhf.Workspace(made.workspace).model()
    assert model.config.suggested_fixed()[model.config.par_slice("staterror_sr")] == [
        True,
        False,
        False,
    ]


# -- data ------------------------------------------------------------------------------------------


def observations(made: Built) -> dict[str, list[float]]:
    return {each["name"]: each["data"] for each in made.workspace["observations"]}


def test_data_are_observed_expected_or_blinded() -> None:
    assert observations(built(treatment=MIRROR)) == {"sr": [25.0, 19.0, 10.0], "cr": [135.0]}
    background = built(treatment=MIRROR, observed="asimov")
    assert observations(background) == {"sr": [25.0, 17.0, 10.0], "cr": [140.0]}
    signal = built(treatment=MIRROR, observed="asimov", asimov_poi=2.0)
    assert observations(signal)["sr"] == [27.0, 25.0, 14.0]
    covered = built(treatment=MIRROR, blind={"sr": [1.0, 2.0]})
    assert observations(covered) == {"sr": [25.0, 17.0, 10.0], "cr": [135.0]}
    assert said(covered, "blinded") == ["sr: bin 1"]
    whole = built(treatment=MIRROR, blind={"sr": True})
    assert observations(whole)["sr"] == [25.0, 17.0, 10.0]
    factor = {"name": "k", "processes": "wjets", "init": 2.0, "bounds": [0, 5]}
    scaled = built(treatment=MIRROR, observed="asimov", factors=[factor])
    assert observations(scaled)["cr"] == [180.0]
    assert scaled.workspace["measurements"][0]["config"]["parameters"] == [
        {"name": "k", "inits": [2.0], "bounds": [[0.0, 5.0]]}
    ]


def test_a_blinded_channel_needs_no_data() -> None:
    tree = search()
    del tree["sr"]["data"]
    assert "has no data" in refusal(tree)
    assert observations(built(tree=tree, treatment=MIRROR, blind={"sr": True}))["cr"] == [135.0]


# -- bins ------------------------------------------------------------------------------------------


def test_odd_bins_are_told_and_floored_if_that_is_chosen() -> None:
    tree = {
        "sr": {
            "signal": {"nominal": histogram([1.0, 0.0, 2.0])},
            "z": {
                "nominal": histogram([-0.5, 0.0, 3.0]),
                "jesUp": histogram([1.0, -1.0, 3.0]),
                "jesDown": histogram([0.5, 0.5, 3.0]),
            },
        }
    }
    kept = built(tree=tree, observed="asimov", asimov_poi=1.0, treatment={"form": "histosys"})
    assert said(kept, "negative") == ["sr/z: bin 0", "sr/z/jes: up: bin 1"]
    assert said(kept, "empty") == ["sr/signal: bin 1", "sr/z: bin 1"]
    assert said(kept, "no rate") == ["sr: bin 1"]
    raised = built(tree=tree, observed="asimov", floor=1e-3)
    assert said(raised, "floored") == [
        "sr/signal: bin 1 set to 0.001",
        "sr/z: bins 0, 1 set to 0.001",
        "sr/z/jes: up: bin 1 set to 0.001",
    ]
    assert not raised.report.of("negative")[1:]
    assert rates(raised.workspace)["sr", "z"] == [1e-3, 1e-3, 3.0]
    assert rates(raised.workspace, jes=1.0)["sr", "z"] == pytest.approx([1.0, 1e-3, 3.0])


def test_rebinned_templates_and_data_belong_together() -> None:
    made = built(treatment=MIRROR, rebin={"sr": [0.0, 2.0, 3.0]})
    assert rates(made.workspace, jes=1.0)["sr", "ttbar"] == pytest.approx([36.0, 9.5])
    assert observations(made)["sr"] == [44.0, 10.0]
    assert said(made, "rebinned") == ["sr: 3 bins became 2"]
    cut = built(treatment=MIRROR, rebin={"sr": [0.0, 2.0]})
    assert "sr/ttbar: a sum of weights of 9 lies outside" in said(cut, "outside")[1]


def test_both_sides_on_one_side_are_told() -> None:
    tree = search()
    tree["cr"]["ttbar"]["jesDown"] = histogram([103.0])
    assert said(built(tree=tree, treatment=MIRROR), "same side") == [
        "cr/ttbar/jes: the yield changes by +7 up and by +3 down"
    ]


# -- report ----------------------------------------------------------------------------------------


def test_the_report_is_text_table_and_json() -> None:
    made = built(treatment=MIRROR, blind={"sr": True})
    text = str(made.report)
    assert text.splitlines()[0].startswith("16 templates, digest ")
    assert "1 symmetrised, 1 blinded" in text
    assert "<td>cr/wjets/herwig</td>" in made._repr_html_()
    kept = json.loads(json.dumps(made.report.to_json()))
    assert kept["digest"] == made.report.digest
    assert "sr/ttbar/jes up" in kept["inputs"]
    assert repr(made).startswith("<Built: 2 channels")
    json.dumps(made.workspace)


def test_the_digest_is_of_templates_and_choices() -> None:
    made = built(treatment=MIRROR)
    again = built(Choices(signal=("signal",), treatment=Treatment(symmetrise="mirror")))
    assert made.report.digest == again.report.digest
    assert built(treatment=MIRROR, floor=1e-6).report.digest != made.report.digest
    other = search()
    other["sr"]["data"]["nominal"] = histogram([25.0, 19.0, 11.0])
    assert built(tree=other, treatment=MIRROR).report.digest != made.report.digest


# -- bad input -------------------------------------------------------------------------------------


def test_choices_name_what_is_there() -> None:
    assert refusal(signl="x") == 'signl is no setting: did you mean "signal"?'
    assert refusal(signal="signl") == (
        'signal: there is no process "signl": did you mean "signal"?'
    )
    assert refusal(blind={"srr": True}) == 'blind: there is no channel "srr": did you mean "sr"?'
    rule = {"systematics": "jse", "treatment": {}}
    assert refusal(rules=[rule]) == 'rules[0]: there is no systematic "jse": did you mean "jes"?'
    assert "treatment.form is " in refusal(treatment={"form": "spilt"})
    assert 'did you mean "split"?' in refusal(treatment={"form": "spilt"})
    assert "plain text" in refusal(treatment={"name": "{bin}"})
    assert "to prune" in refusal(treatment={"form": "histosys", "prune_norm": 0.1})
    assert 'parameters: there is no parameter "jess"' in refusal(parameters={"jess": {}})
    wrong = {"jes": {"init": [1.0]}}
    assert refusal(parameters=wrong) == 'parameters.jes.init is no setting: did you mean "inits"?'


def test_a_signal_or_no_parameter_of_interest() -> None:
    assert refusal(signal=()) == (
        'nothing has the parameter of interest "mu": name the signal, as in signal="higgs", or '
        'choose poi="" for none'
    )
    none = built(signal=(), poi="", treatment=MIRROR)
    assert none.workspace["measurements"][0]["config"]["poi"] == ""
    by_hand = built(signal=(), factors=[{"name": "mu", "processes": "signal"}], treatment=MIRROR)
    assert ("normfactor", "mu") in modifiers(by_hand, "sr", "signal")


def test_names_do_not_collide() -> None:
    assert '"jes" is a systematic and a normfactor' in refusal(factors=[{"name": "jes"}])
    norm = {"name": "jes", "up": 1.1, "down": 0.9, "processes": "ttbar"}
    assert 'process "ttbar" has the normsys "jes" twice' in refusal(norms=[norm])
    shared = [{"kind": "shapesys", "name": "mc"}]
    assert "rename one of them" in refusal(statistics=shared)


def test_bins_that_cannot_be_are_told() -> None:
    assert "no edge at 1.5" in refusal(rebin={"sr": [0.0, 1.5]})
    assert "rebin.sr is 'two'" in refusal(rebin={"sr": "two"})
    assert "blind.sr is 3" in refusal(blind={"sr": 3})
    assert "where there is no bin" in refusal(blind={"sr": [7.0, 9.0]})
    tree = search()
    tree["sr"]["data"]["nominal"] = histogram([25.0, -1.0, 10.0])
    assert "has data of -1 in bin 1" in refusal(tree)
    tree = search()
    tree["sr"]["wjets"]["nominal"] = histogram([-50.0, 1.0, 1.0])
    assert "expects -30 events in bin 0, which cannot stand for data" in refusal(
        tree, observed="asimov"
    )


def test_what_a_choice_needs_is_told() -> None:
    tree = search()
    tree["sr"]["wjets"]["nominal"] = histogram([5.0, 3.0, 1.0], None)
    assert refusal(tree) == (
        'channel "sr", process "wjets" does not know its variances: fill a histogram with the '
        'storage Weight, or choose statistics of the kind "none"'
    )
    tree = search()
    tree["sr"]["ttbar"]["jesUp"] = histogram([-50.0, 1.0, 1.0])
    assert 'choose the form "histosys" for it' in refusal(tree)
    tree["sr"]["ttbar"]["nominal"] = histogram([20.0, 0.0, 9.0])
    smooth = {"smooth": "353QH"} | MIRROR
    assert "the nominal is zero in bin 1, so rebin, or set a floor" in refusal(
        tree, treatment=smooth
    )
    double = {"sr": {"signal": {"nominal": histogram([1.0]), "altUp": histogram([3.0])}}}
    assert "whose image about 1 is not positive" in refusal(
        double, treatment={"symmetrise": "mirror-parts"}, observed="asimov"
    )


def test_what_is_no_workspace_is_told() -> None:
    with pytest.raises(InputError, match="this is no workspace"):
        from_workspace({"channels": [{"name": "sr"}]})
    made = built(treatment=MIRROR).workspace
    with pytest.raises(InputError, match='no measurement "measuremnt": did you mean'):
        from_workspace(made, measurement="measuremnt")
    with pytest.raises(InputError, match='edges: there is no channel "srr"'):
        from_workspace(made, edges={"srr": [0, 1]})
    made["channels"][0]["samples"][0]["modifiers"].append(
        {"name": "x", "type": "shapesys", "data": [1.0, 1.0, 1.0]}
    )
    with pytest.raises(InputError, match="which one set of variances cannot hold"):
        from_workspace(made)


def test_a_workspace_may_be_blinded_and_rebinned_on_the_way_round() -> None:
    made = built(treatment=MIRROR).workspace
    templates, choices = from_workspace(made, edges={"sr": [0.0, 10.0, 20.0, 40.0]})
    again = build(templates, choices, rebin={"sr": [0.0, 20.0, 40.0]}, blind={"sr": [0.0, 20.0]})
    assert observations(again)["sr"] == [42.0, 10.0]
    assert isinstance(templates, Templates)
