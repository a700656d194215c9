"""Templates are collected from all forms that a processor returns, and say what they left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from made_up_templates import Axis, Plottable, histogram, search, trees

from hepdask_ml.data.templates.collect import Templates, collect
from hepdask_ml.data.templates.histograms import borders, made, rebinned
from hepdask_ml.errors import InputError

EDGES = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]


def refusal(histograms: Any, layout: Any = None) -> str:
    with pytest.raises(InputError) as caught:
        collect(histograms, layout)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- forms -----------------------------------------------------------------------------------------


def test_dictionaries_of_histograms() -> None:
    found = collect(search())
    assert found.processes == ("signal", "ttbar", "wjets")
    assert found.systematics == ("jes", "isr", "herwig")
    assert found.channels["sr"]["ttbar"].variations["jes"].up.values.tolist() == [21.0, 15.0, 9.5]
    assert found.channels["cr"]["wjets"].variations["herwig"].down is None
    assert found.data["cr"].total == 135.0
    assert found.entries == ()
    assert "135" in found._repr_html_()


def test_fewer_keys_are_processes_then_channels() -> None:
    alone = collect({"z": histogram([1.0])})
    assert list(alone.channels) == ["channel"]
    assert alone.processes == ("z",)
    both = collect({"sr": {"z": histogram([1.0])}})
    assert list(both.channels) == ["sr"]
    turned = collect({"z": {"sr": histogram([1.0])}}, {"keys": ["process", "channel"]})
    assert turned.inputs == both.inputs


def categories(*names: str) -> Plottable:
    """Processes z and data, systematics as named, three bins: 100 p + 10 s + b + 1."""
    shape = (2, len(names), 3)
    values = np.add.outer(np.add.outer([0, 100], 10 * np.arange(len(names))), [1, 2, 3])
    assert values.shape == shape
    return Plottable(
        values, values, Axis(["z", "data"], "process"), Axis(names, "systematic"), Axis(EDGES, "m")
    )


def test_axes_of_categories_of_any_library() -> None:
    found = collect(categories("nominal", "jesUp", "jesDown"))
    template = found.channels["m"]["z"]
    assert template.nominal.values.tolist() == [1, 2, 3]
    assert template.nominal.edges.tolist() == [0, 1, 2, 3]
    assert template.variations["jes"].down.values.tolist() == [21, 22, 23]  # type: ignore[union-attr]
    assert found.data["m"].values.tolist() == [101, 102, 103]
    # Data have no systematics, but the cells are there.
    assert [(e.what, e.process) for e in found.entries] == [("left out", "data")]


def test_hist_and_boost_histogram() -> None:
    hist = pytest.importorskip("hist")
    filled = hist.Hist(
        hist.axis.StrCategory([], growth=True, name="dataset"),
        hist.axis.StrCategory([], growth=True, name="systematic"),
        hist.axis.StrCategory([], growth=True, name="channel"),
        hist.axis.Regular(3, 0, 3, name="m"),
        storage="weight",
    )
    for channel in ("sr", "cr"):
        for systematic, weight in (("nominal", 2.0), ("jesUp", 2.5), ("jesDown", 1.5)):
            filled.fill("z", systematic, channel, [-1.0, 0.5, 0.5, 2.5], weight=weight)
        filled.fill("top", "nominal", channel, [1.5], weight=0.5)
    found = collect(filled, {"process": "dataset"})
    z = found.channels["sr"]["z"]
    assert z.nominal.values.tolist() == [4.0, 0.0, 2.0]
    assert z.nominal.variances is not None
    assert z.nominal.variances.tolist() == [8.0, 0.0, 4.0]
    assert z.nominal.outside == 2.0
    # The category jesUp exists for top, too, but nothing was filled into it.
    assert found.channels["cr"]["top"].variations == {}
    said = [(e.what, e.where) for e in found.entries if e.channel == "cr"]
    assert said == [("absent", "cr/top/jes"), ("outside", "cr/z")]
    assert found.entries[0].detail == "nothing was filled into jesUp, jesDown"

    folded = collect(filled, {"process": "dataset", "flow": "fold"})
    assert folded.channels["sr"]["z"].nominal.values.tolist() == [6.0, 0.0, 2.0]
    names = ("nominal", "jesUp", "jesDown")
    apart = {
        channel: {name: filled[{"channel": channel, "systematic": name}] for name in names}
        for channel in ("sr", "cr")
    }
    keyed = collect(apart, {"process": "dataset", "keys": ["channel", "systematic"]})
    assert keyed.digest == found.digest


def test_no_events_are_not_the_same_as_nothing_filled() -> None:
    none = histogram([0.0, 0.0], edges=[0.0, 1.0, 2.0])
    one = histogram([1.0, 2.0], edges=[0.0, 1.0, 2.0])
    seen = collect({"sr": {"z": one, "data": none}})
    assert seen.data["sr"].values.tolist() == [0.0, 0.0]
    values = [[1.0, 2.0], [0.0, 0.0]]
    both = Plottable(values, values, Axis(["z", "data"], "process"), Axis(EDGES[:2], "m"))
    unknown = collect({"sr": both})
    assert unknown.data == {}
    assert [(e.what, e.where) for e in unknown.entries] == [("left out", "sr/data")]


def test_a_sum_of_accumulators_is_the_accumulator_of_the_sum() -> None:
    hist = pytest.importorskip("hist")
    processor = pytest.importorskip("coffea.processor")

    def filled(masses: list[float]) -> Any:
        made_up = hist.Hist.new.StrCat([], growth=True, name="process").Reg(3, 0, 3, name="m")
        return {"sr": made_up.Weight().fill("z", masses, weight=0.5)}

    both = processor.accumulate([filled([0.5, 1.5]), filled([1.5])])
    assert collect(both).digest == collect(filled([0.5, 1.5, 1.5])).digest


def test_groups_are_added_and_scaled() -> None:
    tree = {
        "sr": {
            "tt_2l": {"nominal": histogram([10.0]), "jesUp": histogram([12.0]),
                      "jesDown": histogram([9.0])},
            "tt_1l": {"nominal": histogram([4.0])},
        }
    }  # fmt: skip
    found = collect(tree, {"groups": {"tt": ["tt_2l", "tt_1l"]}, "scales": {"tt_1l": 0.5}})
    tt = found.channels["sr"]["tt"]
    assert tt.nominal.values.tolist() == [12.0]
    assert tt.nominal.variances is not None
    assert tt.nominal.variances.tolist() == pytest.approx([1.1])
    assert tt.variations["jes"].up.values.tolist() == [14.0]
    assert [(e.what, e.systematic) for e in found.entries] == [
        ("absent", "jesUp"),
        ("absent", "jesDown"),
    ]
    assert "tt_1l" in found.entries[0].detail


@given(trees())
def test_the_digest_names_numbers_and_names_but_no_order(tree: Any) -> None:
    found = collect(tree)
    turned = {c: dict(reversed(there.items())) for c, there in reversed(tree.items())}
    assert collect(turned).digest == found.digest
    assert collect(turned).inputs == found.inputs
    first = next(iter(tree))
    values = tree[first]["signal"]["nominal"].values.copy()
    values[0] += 1e-9
    changed = {**tree, first: {**tree[first], "signal": {"nominal": histogram(values)}}}
    assert collect(changed).digest != found.digest
    renamed = {c: {("s" if p == "signal" else p): h for p, h in t.items()} for c, t in tree.items()}
    assert collect(renamed).digest != found.digest


# -- bad input -------------------------------------------------------------------------------------


def test_what_is_no_histogram_is_named() -> None:
    tree: Any = {"sr": {"z": histogram([1.0]), "sumw": 12.0}}
    assert refusal(tree) == (
        'histograms["sr"]["sumw"] is of the type float, which is no histogram: give histograms of '
        "hist, boost-histogram or uproot only"
    )
    assert "is empty" in refusal({"sr": {}})
    assert "keys must be text" in refusal({("sr", 1): histogram([1.0])})


def test_missing_names_are_told() -> None:
    assert refusal(Plottable([1], [1], Axis(EDGES[:1], "m"))).endswith(
        'name the axis in the layout, as in layout={"process": "dataset"}'
    )
    central = categories("central", "jesUp", "jesDown")
    assert refusal(central) == (
        'channel "m", process "z" has no systematic "nominal" but central, jesUp, jesDown: fill '
        "it, or say in the layout what the nominal is called"
    )
    only_down = {"z": {"c": {"nominal": histogram([1.0]), "jesDown": histogram([1.0])}}}
    assert 'systematic "jes" goes down but not up: fill "jesUp"' in refusal(only_down)
    assert refusal({}, {"nominl": "x"}) == 'layout.nominl is no setting: did you mean "nominal"?'
    group = {"groups": {"tt": ["ttbra"]}}
    assert 'there is no process "ttbra": did you mean "ttbar"?' in refusal(search(), group)
    scale = {"scales": {"ttbar": "much"}}
    assert "layout.scales.ttbar is 'much': it must be a finite number" in refusal(search(), scale)
    twice = {"groups": {"a": ["ttbar"], "b": ["ttbar"]}}
    assert "it can be in one" in refusal(search(), twice)
    assert 'no process but "data"' in refusal({"data": histogram([1.0])})
    alone = collect({"sr": {"z": histogram([1.0])}, "cr": {"data": histogram([1.0])}})
    assert alone.data == {}
    assert [(e.what, e.channel) for e in alone.entries] == [("left out", "cr")]
    assert "lies under 4 keys" in refusal({"a": {"b": {"c": {"d": histogram([1.0])}}}})
    assert "each once" in refusal({}, {"keys": ["process", "procs"]})


def test_different_bins_are_told() -> None:
    tree = {"sr": {"z": histogram([1.0, 2.0]), "w": histogram([1.0])}}
    assert refusal(tree) == (
        'channel "sr", process "w" has 1 bins (0, 1), others of the channel '
        "2 bins (0, 1, 2): give all histograms of a channel the same bins"
    )
    up = histogram([1.0], edges=[0.0, 2.0])
    varied = {"sr": {"z": {"nominal": histogram([1.0]), "jesUp": up}}}
    assert 'systematic "jes up" has 1 bins (0, 2)' in refusal(varied)
    groups = {"groups": {"all": ["z", "w"]}}
    assert "adds up histograms of different bins" in refusal(tree, groups)


@pytest.mark.parametrize(
    ("values", "variances", "expected"),
    [
        ([1.0, np.nan], [1.0, 1.0], "has the value nan in bin 1"),
        ([1.0, 1.0], [1.0, -2.0], "has the variance -2 in bin 1"),
        ([1.0, 1.0], [np.inf, 2.0], "has the variance inf in bin 0"),
        ([1.0, np.inf], None, "has the value inf in bin 1"),
    ],
)
def test_numbers_that_cannot_be_are_told(values: Any, variances: Any, expected: str) -> None:
    given = Plottable(values, variances, Axis(EDGES[:2], "m"))
    said = refusal({"sr": {"z": given}})
    assert said.startswith('channel "sr", process "z", systematic "nominal" has')
    assert expected in said


def test_other_things_than_sums_of_weights_are_refused() -> None:
    means = Plottable([1.0], [1.0], Axis(EDGES[:1], "m"), kind="MEAN")
    assert "holds means, not sums of weights" in refusal({"z": means})
    plane = Plottable([[1.0]], [[1.0]], Axis(EDGES[:1], "m"), Axis(EDGES[:1], "pt"))
    assert "has the axes m, pt, 2 of them variables" in refusal({"z": plane})


def test_a_weight_of_no_category_is_told() -> None:
    hist = pytest.importorskip("hist")
    filled = hist.Hist(
        hist.axis.StrCategory(["z"], name="process"), hist.axis.Regular(1, 0, 1, name="m"),
        storage="weight",
    )  # fmt: skip
    filled.fill("z", [0.5])
    filled.fill("w", [0.5, 0.5])
    assert 'axis "process" holds a sum of weights of 2 that belongs to none' in refusal(filled)


def test_a_storage_without_variances_is_no_fault_before_they_are_asked_for() -> None:
    hist = pytest.importorskip("hist")
    filled = hist.Hist(hist.axis.Regular(1, 0, 1, name="m")).fill([0.5], weight=[3.0])
    found = collect({"z": filled})
    assert found.channels["m"]["z"].nominal.variances is None
    profile = hist.Hist(hist.axis.Regular(1, 0, 1, name="m"), storage="mean")
    assert "holds means" in refusal({"z": profile})


# -- bins ------------------------------------------------------------------------------------------


def test_rebinning_keeps_edges_and_sums() -> None:
    fine = histogram([1.0, 2.0, 3.0, 4.0], edges=[0.0, 1.0, 2.0, 3.0, 5.0])
    pairs = rebinned(fine, borders(fine.edges, 2, "m"))
    assert pairs.values.tolist() == [3.0, 7.0]
    assert pairs.edges.tolist() == [0.0, 2.0, 5.0]
    part = rebinned(fine, borders(fine.edges, [1.0, 3.0], "m"))
    assert part.values.tolist() == [5.0]
    assert part.outside == 5.0
    for wanted, expected in (
        (3, "which 3 does not divide"),
        ([0.0, 2.5], "no edge at 2.5"),
        ([0.0], "two at least"),
        ([3.0, 1.0], "and rise"),
    ):
        with pytest.raises(InputError, match=expected):
            borders(fine.edges, wanted, "m")


def test_edges_must_rise_and_match() -> None:
    with pytest.raises(InputError, match="do not rise"):
        made([1.0, 2.0], None, [0.0, 2.0, 1.0], "it")
    with pytest.raises(InputError, match="it has 2 values, no variances and 2 edges"):
        made([1.0, 2.0], None, [0.0, 2.0], "it")
    with pytest.raises(InputError, match="it has no bins"):
        made([], None, None, "it")


def test_templates_can_be_made_by_hand() -> None:
    assert Templates({}).processes == ()
