"""Tensors hold what awkward arrays of the same branches give, whatever the batches."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml.data import baskets
from hepdask_ml.data import tensors as module
from hepdask_ml.data.batch import Batch
from hepdask_ml.data.computed import computed
from hepdask_ml.data.features import Field, features
from hepdask_ml.data.scalers import Scaler, Scalers
from hepdask_ml.data.scan import scan
from hepdask_ml.data.sources import Source
from hepdask_ml.data.tensors import FeatureForm, tensors
from hepdask_ml.data.with_uproot import UnreadableFile
from hepdask_ml.errors import InputError

uproot: Any = pytest.importorskip("uproot")
ak: Any = pytest.importorskip("awkward")

rntuples = pytest.mark.skipif(
    tuple(map(int, uproot.__version__.split(".")[:2])) < (5, 7),
    reason="older uproot does not give the fields of an RNTuple by name",
)

N_EVENTS = 200


def events() -> dict[str, Any]:
    rng = np.random.default_rng(11)
    n_jets, n_muons = rng.poisson(2.5, N_EVENTS), rng.poisson(0.6, N_EVENTS)

    def items(counts: Any, values: Any) -> Any:
        return ak.unflatten(values, counts)

    return {
        "met": rng.exponential(30.0, N_EVENTS).astype("f4"),
        "run": rng.integers(1, 9, N_EVENTS).astype("i4"),
        "genWeight": rng.normal(1.0, 0.2, N_EVENTS),
        "Jet_pt": items(n_jets, rng.exponential(40.0, n_jets.sum()).astype("f4")),
        "Jet_eta": items(n_jets, rng.normal(0.0, 2.0, n_jets.sum()).astype("f4")),
        "Jet_phi": items(n_jets, rng.uniform(-3.2, 3.2, n_jets.sum()).astype("f4")),
        "Jet_id": items(n_jets, rng.integers(0, 7, n_jets.sum()).astype("u1")),
        "Muon_pt": items(n_muons, rng.exponential(20.0, n_muons.sum())),
    }


EVENTS = events()
SPEC: dict[str, Any] = {
    "tree": "Events",
    "selection": "count(Jet_pt) >= 2 and met > 10",
    "weights": "genWeight",
    "labels": "run > 4",
    "features": {
        "event": ["met", "run"],
        "sums": ["met", {"name": "ht", "expression": "sum(Jet_pt)"}],
        "jets": {"branches": ["Jet_pt", "Jet_eta", "Jet_id"], "length": 3},
        "vectors": {
            "branches": ["Jet_pt", {"name": "px", "expression": "Jet_pt * cos(Jet_phi)"}],
            "length": 4,
            "dtype": "float64",
        },
        "muons": {"branches": ["Muon_pt"], "form": "ragged"},
    },
    "images": {
        "calo": {
            "x": {"expression": "Jet_eta", "bins": 3, "low": -4, "high": 4},
            "y": {"expression": "Jet_phi", "bins": 2, "low": -3.2, "high": 3.2},
            "views": ["counts", {"name": "pt", "weight": "Jet_pt"}],
        }
    },
}
ALL = {key: each for key, each in SPEC.items() if key != "selection"}


def padded(array: Any, slots: int, dtype: Any) -> Any:
    """What analyses write themselves."""
    full = ak.fill_none(ak.pad_none(array, slots, clip=True), np.nan)
    return ak.to_numpy(full).reshape(len(array), slots).astype(dtype)


def assert_as_awkward_has_it(batch: Batch, arrays: dict[str, Any], selected: bool) -> None:
    part = {name: each[batch.start : batch.stop] for name, each in arrays.items()}
    keep = ak.to_numpy(ak.num(part["Jet_pt"]) >= 2) & (part["met"] > 10)
    if not selected:
        keep[:] = True
    assert batch.events.tolist() == (batch.start + np.flatnonzero(keep)).tolist()
    a = {name: each[keep] for name, each in part.items()}
    found = batch.inputs
    same = np.testing.assert_array_equal
    same(found["event"], np.stack([a["met"], a["run"]], -1).astype("f4"))
    same(found["sums"][:, 0], a["met"])
    np.testing.assert_allclose(found["sums"][:, 1], ak.sum(a["Jet_pt"], axis=1), rtol=1e-5)
    for row, name in enumerate(("Jet_pt", "Jet_eta", "Jet_id")):
        same(found["jets"][..., row], padded(a[name], 3, "f4"))
    same(found["vectors"][..., 0], padded(a["Jet_pt"], 4, "f8"))
    px = a["Jet_pt"] * np.cos(ak.values_astype(a["Jet_phi"], "f8"))
    np.testing.assert_allclose(found["vectors"][..., 1], padded(px, 4, "f8"), rtol=1e-12)
    same(found["muons"][:, 0], ak.to_numpy(ak.flatten(a["Muon_pt"])).astype("f4"))
    same(np.diff(batch.offsets["muons"]), ak.num(a["Muon_pt"]))
    for name in ("jets", "vectors"):
        same(batch.lengths[name], ak.num(a["Jet_pt"]))
    same(batch.lengths["muons"], ak.num(a["Muon_pt"]))
    same(batch.weights, a["genWeight"].astype("f4"))
    same(batch.labels, (a["run"] > 4).astype("f4"))
    for event in range(len(batch)):
        jets = [ak.to_numpy(a[f"Jet_{name}"][event]) for name in ("phi", "eta", "pt")]
        edges = [np.linspace(-3.2, 3.2, 3), np.linspace(-4.0, 4.0, 4)]
        for view, weights in enumerate((None, jets[2])):
            expected = np.histogram2d(jets[0], jets[1], edges, weights=weights)[0]
            np.testing.assert_allclose(found["calo"][event, view], expected, rtol=1e-6)
        outside = np.sum((np.abs(jets[1]) > 4.0) | (np.abs(jets[0]) > 3.2))
        assert batch.outside["calo"][event] == outside
        counts = found["calo"][event, 0]
        assert batch.collisions["calo"][event] == counts[counts > 1].sum()


def write(path: Path, arrays: dict[str, Any], step: int = 70) -> Path:
    with uproot.recreate(path) as file:
        kinds = {
            name: each.dtype if isinstance(each, np.ndarray) else each.type.content
            for name, each in arrays.items()
        }
        file.mktree("Events", kinds)
        for start in range(0, N_EVENTS, step):
            file["Events"].extend({name: a[start : start + step] for name, a in arrays.items()})
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tensors") / "nano.root", EVENTS)


def source(path: Path) -> Source:
    return Source(str(path), "Events")


def read(path: Path, spec: Any, size: int = N_EVENTS, **options: Any) -> list[Batch]:
    form = FeatureForm(features(spec), **options)
    return [batch for _, batch in form.batches(source(path), str(path), size=size)]


def joined(batches: Sequence[Batch]) -> dict[str, Any]:
    """All numbers of batches, one after the other."""
    found: dict[str, Any] = {}
    for kind in ("inputs", "lengths", "collisions", "outside"):
        for name in getattr(batches[0], kind):
            found[f"{kind} {name}"] = np.concatenate([getattr(b, kind)[name] for b in batches])
    for name in batches[0].offsets:
        counts = np.concatenate([np.diff(each.offsets[name]) for each in batches])
        found[f"offsets {name}"] = counts
        assert all(each.offsets[name][0] == 0 for each in batches)
    for name in ("events", "weights", "labels"):
        found[name] = np.concatenate([getattr(each, name) for each in batches])
    return found


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name, each in left.items():
        assert each.dtype == right[name].dtype
        np.testing.assert_array_equal(each, right[name], err_msg=name)


@pytest.mark.parametrize("spec", [SPEC, ALL])
def test_each_form_is_what_awkward_gives(path: Path, spec: Any) -> None:
    for batch in read(path, spec, size=90):
        assert_as_awkward_has_it(batch, EVENTS, spec is SPEC)


@rntuples
def test_fields_of_an_rntuple(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*args: Any) -> None:
        raise AssertionError("arrays are made for each batch anew")

    monkeypatch.setattr(baskets, "lay_out_array", again)
    path = tmp_path / "tuple.root"
    kept = {name: each for name, each in EVENTS.items() if not name.startswith("Muon")}
    muons = ak.zip({"pt": EVENTS["Muon_pt"]})
    with uproot.recreate(path) as file:
        file.mkrntuple("Events", kept | {"Muon": muons})
    muon = {"branches": ["Muon.pt"], "form": "ragged"}
    spec = SPEC | {"features": SPEC["features"] | {"muons": muon}}
    for batch in read(path, spec, size=90):
        assert_as_awkward_has_it(batch, EVENTS, selected=True)


@settings(max_examples=20, deadline=None)
@given(
    borders=st.lists(st.integers(0, N_EVENTS), max_size=3).map(sorted),
    sizes=st.lists(st.integers(1, N_EVENTS), min_size=4, max_size=4),
    step=st.integers(1, N_EVENTS),
    threads=st.sampled_from([1, 2]),
    selected=st.booleans(),
)
def test_batches_of_any_spans_and_sizes_joined_are_one(
    path: Path,
    borders: list[int],
    sizes: list[int],
    step: int,
    threads: int,
    selected: bool,
) -> None:
    form = FeatureForm(features(SPEC if selected else ALL), threads=threads)
    [whole] = [batch for _, batch in form.batches(source(path), str(path), size=N_EVENTS)]
    parts: list[Batch] = []
    edges = [0, *borders, N_EVENTS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STEP", step)
        for start, stop, size in zip(edges, edges[1:], sizes, strict=False):
            at = start
            for end, batch in form.batches(source(path), str(path), start, stop, size):
                assert (batch.start, batch.stop) == (at, end) == (at, min(at + size, stop))
                at = end
                parts.append(batch)
            assert at == stop
    assert_same(joined(parts), joined([whole]))


items = st.lists(
    st.one_of(st.floats(width=32), st.integers(-5, 5).map(float)), max_size=5
)  # NaN and infinite ones, too


@settings(max_examples=25, deadline=None)
@given(lists=st.lists(items, min_size=1, max_size=12), slots=st.integers(1, 6))
def test_any_lists_are_padded_as_awkward_pads_them(
    tmp_path_factory: pytest.TempPathFactory, lists: list[list[float]], slots: int
) -> None:
    array = ak.values_astype(ak.Array([*lists, [0.0]]), "f4")[:-1]
    path = tmp_path_factory.mktemp("lists") / "a.root"
    with uproot.recreate(path) as file:
        file["Events"] = {"x": array, "n": np.arange(len(array))}
    spec = {
        "features": {
            "plain": {"branches": ["x"], "length": slots},
            "twice": {"branches": [{"name": "y", "expression": "2 * x"}, "x"], "length": slots},
            "ragged": {"branches": ["x"], "form": "ragged"},
        }
    }
    [batch] = read(path, spec)
    expected = padded(array, slots, "f4")
    np.testing.assert_array_equal(batch.inputs["plain"][..., 0], expected)
    np.testing.assert_array_equal(batch.inputs["twice"][..., 1], expected)
    with np.errstate(over="ignore"):
        double = (2.0 * expected.astype("f8")).astype("f4")
    np.testing.assert_array_equal(batch.inputs["twice"][..., 0], double)
    np.testing.assert_array_equal(batch.inputs["ragged"][:, 0], ak.to_numpy(ak.flatten(array)))
    assert batch.lengths["plain"].tolist() == [len(each) for each in lists]
    np.testing.assert_array_equal(
        batch.mask("twice"), np.arange(slots) < np.array([[len(each)] for each in lists])
    )


def test_functions_take_arrays_and_may_leave_values_out(path: Path) -> None:
    def leading(arrays: Any) -> Any:
        assert set(arrays) == {"Jet_pt"}
        return ak.firsts(arrays["Jet_pt"])

    def marked(arrays: Any) -> Any:
        return ak.mask(arrays["Jet_pt"], arrays["Jet_pt"] > 30)

    spec = {
        "features": {
            "event": [{"name": "leading", "call": leading, "branches": ["Jet_pt"]}],
            "jets": {
                "branches": [{"name": "hard", "call": marked, "branches": ["Jet_pt"]}],
                "length": 3,
            },
        }
    }
    [batch] = read(path, spec)
    first = padded(EVENTS["Jet_pt"], 1, "f4")
    np.testing.assert_array_equal(batch.inputs["event"], first)
    jets = padded(EVENTS["Jet_pt"], 3, "f4")
    np.testing.assert_array_equal(batch.inputs["jets"][..., 0], np.where(jets > 30, jets, np.nan))
    # What lacks a value is an item nevertheless.
    np.testing.assert_array_equal(batch.mask("jets"), ~np.isnan(jets))


@pytest.mark.parametrize("spec", [SPEC, ALL])
def test_arrays_at_hand_give_the_same_as_a_file(path: Path, spec: Any) -> None:
    form = FeatureForm(features(spec))
    [expected] = read(path, spec)
    assert_same(joined([form.of(EVENTS)]), joined([expected]))
    later = form.of({name: each[50:] for name, each in EVENTS.items()}, start=50)
    assert later.events.tolist() == [each for each in expected.events if each >= 50]
    some = {name: each for name, each in EVENTS.items() if name not in ("genWeight", "run")}
    bare = {"jets": SPEC["features"]["jets"]}
    found = FeatureForm(features(spec | {"features": bare})).of(some)
    assert found.weights is None
    assert found.labels is None
    np.testing.assert_array_equal(found.inputs["jets"], expected.inputs["jets"])
    by_dataset = {"labels": {"dy": 1.0}, "features": bare}
    assert FeatureForm(features(spec | by_dataset)).of(some).labels is None


def test_arrays_at_hand_that_do_not_fit() -> None:
    form = FeatureForm(features(SPEC))
    for arrays, message in (
        ({"Met": EVENTS["met"]}, 'the arrays have no "Jet_pt": there are Met'),
        (EVENTS | {"met": EVENTS["met"][:7]}, 'array "met" is of 7 events, and "Jet_pt" of 200'),
        (EVENTS | {"Jet_pt": EVENTS["met"]}, "arrays, selection: expression"),
    ):
        with pytest.raises(InputError) as caught:
            form.of(arrays)
        assert str(caught.value).startswith(message)


def test_branch_may_have_several_names(path: Path) -> None:
    again = [{"name": name, "expression": "Jet_pt"} for name in ("again", "once more")]
    other = {"name": "other", "expression": "Jet_pt - 1"}
    groups = {
        "bare": {"branches": ["Jet_pt", *again], "length": 2},
        "mixed": {"branches": ["Jet_eta", *again, other], "length": 2},
    }
    [batch] = read(path, {"features": groups})
    expected = padded(EVENTS["Jet_pt"], 2, "f4")
    for row in range(3):
        np.testing.assert_array_equal(batch.inputs["bare"][..., row], expected)
    for row in (1, 2):
        np.testing.assert_array_equal(batch.inputs["mixed"][..., row], expected)
    eta = padded(EVENTS["Jet_eta"], 2, "f4")
    np.testing.assert_array_equal(batch.inputs["mixed"][..., 0], eta)


def test_memory_is_used_again_if_asked_for(path: Path) -> None:
    spec = {"features": {name: SPEC["features"][name] for name in ("event", "jets")}}
    form = FeatureForm(features(spec), reuse=True)
    seen, addresses = [], set()
    for _, batch in form.batches(source(path), str(path), size=60):
        addresses.add(batch.inputs["jets"].__array_interface__["data"][0])
        seen.append(batch.inputs["jets"].copy())
    assert len(addresses) == 1
    [whole] = read(path, spec)
    np.testing.assert_array_equal(np.concatenate(seen), whole.inputs["jets"])


def test_scalers_are_applied(path: Path) -> None:
    [plain] = read(path, SPEC)
    scaled = {name: dict(each) for name, each in list(SPEC["features"].items())[2:]}
    for each in scaled.values():
        each["scale"] = "standard"
    scalers = Scalers(
        {
            "jets": Scaler("standard", (40.0, 0.0, 3.0), (30.0, 2.0, 1.0)),
            "vectors": Scaler("standard", (40.0, 1.0), (30.0, 2.0)),
            "muons": Scaler("standard", (20.0,), (5.0,)),
        }
    )
    spec = SPEC | {"features": SPEC["features"] | scaled}
    for reuse in (False, True):
        batches = read(path, spec, scalers=scalers, reuse=reuse)
        for name, scaler in scalers.groups.items():
            expected = (plain.inputs[name] - np.array(scaler.centre)) / np.array(scaler.scale)
            [found] = [each.inputs[name] for each in batches]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
            assert found.dtype == plain.inputs[name].dtype
        np.testing.assert_array_equal(batches[0].inputs["event"], plain.inputs["event"])


def test_nothing_is_lost_on_the_way_to_a_worker(path: Path) -> None:
    form = FeatureForm(features(SPEC), Scalers({"jets": Scaler("minmax", (0.0,) * 3, (1.0,) * 3)}))
    again = pickle.loads(pickle.dumps(form))
    assert again == form
    assert again.digest == form.digest != FeatureForm(features(SPEC)).digest
    [batch] = read(path, SPEC)
    assert_same(joined([pickle.loads(pickle.dumps(batch))]), joined([batch]))


def test_selection_that_keeps_nothing(path: Path) -> None:
    batches = read(path, SPEC | {"selection": "met < -1"}, size=60)
    assert [(batch.start, batch.stop) for batch in batches] == [
        (0, 60),
        (60, 120),
        (120, 180),
        (180, 200),
    ]
    for batch in batches:
        assert len(batch) == 0
        assert batch.inputs["jets"].shape == (0, 3, 3)
        assert batch.inputs["calo"].shape == (0, 2, 2, 3)
        assert batch.offsets["muons"].tolist() == [0]


def test_empty_tree(tmp_path: Path) -> None:
    path = write(tmp_path / "empty.root", {name: each[:0] for name, each in EVENTS.items()})
    assert read(path, SPEC) == []
    with pytest.raises(InputError, match="no events"):
        list(tensors(path, SPEC))


def test_many_files_are_a_stream(path: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "b.root", EVENTS, step=33)
    stream = tensors([path, other], SPEC, size=64)
    batches = list(stream)
    assert [Path(batch.source.url).name for batch in batches] == ["nano.root"] * 4 + ["b.root"] * 4
    assert_same(joined(batches[:4]), joined(batches[4:]))
    counts = list(stream.map(len, size=50))
    assert sum(counts) == sum(map(len, batches))
    spans = stream.spans(150)
    whole = [stream.read(span) for span in spans]
    assert_same(joined(whole), joined(batches))


def test_files_may_store_a_branch_as_other_kinds_of_numbers(path: Path, tmp_path: Path) -> None:
    kinds = {"run": "u8", "met": "f8", "Jet_id": "i4"}
    others = {
        name: each.astype(kinds.get(name, each.dtype)) if isinstance(each, np.ndarray) else each
        for name, each in EVENTS.items()
    }
    others["Jet_id"] = ak.values_astype(EVENTS["Jet_id"], kinds["Jet_id"])
    other = write(tmp_path / "b.root", others)
    one, two = tensors([path, other], SPEC, size=N_EVENTS)
    assert_same(joined([one]), joined([two]))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"x": np.zeros(3)}], 'branch "x", has 3 of the events 10 to 14: make or fetch the file'),
        ([], "events 10 to 14, are not there: make or fetch the file again"),
    ],
)
def test_branch_that_ends_before_its_tree(parts: list[Any], message: str) -> None:
    class Tree:
        file = SimpleNamespace(file_path="a.root")
        name = "Events"

        def __getitem__(self, name: str) -> Any:
            return name

        def iterate(self, names: list[str], **options: Any) -> Any:
            assert names == ["x"]
            return iter(parts)

    with pytest.raises(UnreadableFile) as caught:
        list(computed(Tree(), {Field("x", "x + 1"): "what"}, 10, 30, step=4))
    assert str(caught.value).startswith("a.root:Events, ")
    assert message in str(caught.value)


def test_missing_branch_is_said_before_anything_is_read(path: Path) -> None:
    stream = tensors(path, SPEC | {"selection": "Met > 10"})
    message = r'no branch "Met": did you mean "met"\? \(selection needs it\)'
    with pytest.raises(InputError, match=message):
        stream.spans()


def test_labels_by_data_set(path: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "b.root", EVENTS)
    spec = SPEC | {"labels": {"ttbar": 1, "dy": 0}}
    found = list(tensors({"dy": [str(path)], "ttbar": [str(other)]}, spec))
    assert [set(np.asarray(batch.labels)) for batch in found] == [{0.0}, {1.0}]
    with pytest.raises(InputError) as caught:
        list(tensors({"ttbarr": [str(path)]}, spec))
    assert str(caught.value).endswith(
        'is of the data set "ttbarr", which has no label: did you mean "ttbar"?'
    )
    with pytest.raises(InputError) as caught:
        list(tensors(path, spec))
    assert str(caught.value) == (
        f"{path} is of no data set, and labels are by data set: name the files as "
        "{'ttbar': [...]}"
    )


def test_another_copy_goes_on_where_one_ends(path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.root"
    whole = path.read_bytes()
    with uproot.open({str(path): None}) as file:
        seek = int(file["Events"]["Jet_phi"].member("fBasketSeek")[1])
    broken.write_bytes(whole[:seek] + bytes(400) + whole[seek + 400 :])
    stream = tensors([[str(broken), str(path)]], SPEC, size=30, attempts=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STEP", 1)
        with pytest.raises(UnreadableFile, match=r"broken\.root"):
            list(tensors(broken, SPEC, size=30, attempts=1))
        skipping = tensors(broken, SPEC, size=30, attempts=1, unreadable="skip")
        some = list(skipping)
        found = list(stream)
    assert 0 < len(some) < len(found)
    assert [each.start for each in skipping.skipped] == [some[-1].stop]
    assert_same(joined(found), joined(read(path, SPEC)))


def test_copy_that_ends_early(path: Path) -> None:
    form = FeatureForm(features(SPEC))
    with pytest.raises(UnreadableFile, match="ends at event 200, before 201"):
        list(form.batches(source(path), str(path), 0, 201))
    for start, stop in ((-1, 5), (7, 5)):
        with pytest.raises(InputError, match=f"no events {start} to {stop}: it has 200"):
            list(form.batches(source(path), str(path), start, stop))
    with pytest.raises(InputError, match="a batch of 0 events is none"):
        list(form.batches(source(path), str(path), size=0))
    with pytest.raises(InputError, match="0 threads read nothing"):
        tensors(path, SPEC, threads=0)


def test_small_batches_read_no_basket_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = uproot.models.TBasket.Model_TBasket
    original, seen = kind.read, []

    def counted(chunk: Any, *args: Any) -> Any:
        seen.append(chunk.start)
        return original(chunk, *args)

    monkeypatch.setattr(kind, "read", counted)
    made = {"name": "ht", "expression": "sum(Jet_pt * Jet_eta)"}
    read(path, {"features": {"sums": [made]}}, size=7)
    assert len(seen) == len(set(seen)) == 6


def changed(**fields: Any) -> dict[str, Any]:
    features = {"x": {"branches": [fields], "length": 2}}
    return {"tree": "Events", "features": features}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (changed(expression="Jet_Pt"), 'no branch "Jet_Pt": did you mean "Jet_pt"?'),
        (
            changed(expression="2 * Jet_Pt"),
            'no branch "Jet_Pt": did you mean "Jet_pt"? (features.x.2 * Jet_Pt needs it)',
        ),
        (changed(expression="2 * met"), "features.x.2 * met gives one number in each event"),
        (
            changed(expression="Jet_pt + Muon_pt"),
            "other numbers of items in the same event",
        ),
        (
            changed(name="y", call=lambda arrays: arrays["met"][:3], branches=["met"]),
            "features.x.y gives 3 values for 200 events",
        ),
        (
            changed(name="y", call=lambda arrays: "text", branches=["met"]),
            "features.x.y: its result is of the type str",
        ),
        (
            {"features": {"x": {"branches": ["-Jet_pt", "Muon_pt + 1"], "form": "ragged"}}},
            "features.x.Muon_pt + 1 has not as many items in each event as the other fields",
        ),
        (
            {"features": {"x": {"branches": ["2 * Jet_pt", "Muon_pt"], "length": 2}}},
            "features.x.2 * Jet_pt has not as many items in each event as the other fields",
        ),
        ({"features": {"x": ["2 * Jet_pt"]}}, "gives a list of items in each event: reduce it"),
        (SPEC | {"selection": "Jet_pt > 3"}, "selection, gives a list of items in each event"),
        (SPEC | {"weights": "Jet_pt"}, "weights, gives a list of items in each event"),
        (
            SPEC | {"images": {"a": SPEC["images"]["calo"] | {"views": ["met"]}}},
            "images.a.views.met gives one number in each event",
        ),
        (
            SPEC | {"images": {"a": SPEC["images"]["calo"] | {"views": ["Muon_pt"]}}},
            "images.a.views.Muon_pt has not as many items in each event as the other fields",
        ),
        (SPEC | {"weights": "log(met - 30)"}, 'weights: "log(met - 30)" is nan in event'),
        (SPEC | {"weights": "1e300 * met"}, ", which no float32 holds, in event"),
        (SPEC | {"labels": "0 / (run - 5)"}, 'labels: "0 / (run - 5)" is nan in event'),
    ],
)
def test_what_does_not_fit_is_said(path: Path, spec: Any, message: str) -> None:
    for size in (N_EVENTS, 30):
        with pytest.raises(InputError) as caught:
            read(path, spec, size=size)
        assert str(caught.value).startswith(f"{path}:Events")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        {"features": {"x": {"branches": ["Jet_pt"], "length": 10**10}}},
        {"features": {"x": {"branches": ["2 * Jet_pt"], "length": 10**30}}},
        {
            "images": {
                "x": {
                    "x": {"expression": "Jet_pt", "bins": 10**6, "low": 0, "high": 1},
                    "y": {"expression": "Jet_pt", "bins": 10**6, "low": 0, "high": 1},
                    "views": ["counts"],
                }
            }
        },
    ],
)
def test_batch_that_no_memory_holds_is_refused(path: Path, spec: Any) -> None:
    with pytest.raises(InputError, match=r'tensor "x" takes .* GB, more than this machine'):
        read(path, {"tree": "Events"} | spec)


@pytest.mark.parametrize("size", [N_EVENTS, 7])
def test_first_event_without_a_weight_is_named(tmp_path: Path, size: int) -> None:
    weights = EVENTS["genWeight"].copy()
    weights[[3, 20, 130]] = np.nan
    met = EVENTS["met"].copy()
    met[[3, 20, 130]] = [0.0, 50.0, 60.0]
    path = write(tmp_path / "nan.root", EVENTS | {"genWeight": weights, "met": met})
    # Event 3 does not pass the selection, so that its weight does not count.
    spec = SPEC | {"selection": "met > 10"}
    with pytest.raises(InputError) as caught:
        read(path, spec, size=size)
    assert str(caught.value) == (
        f'{path}:Events, weights: "genWeight" is nan in event 20: leave such events out by the '
        "selection, or make the file again"
    )
    read(path, spec | {"selection": "met > 10 and genWeight == genWeight"}, size=size)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (
            {"percentile": 95},
            'group "x" has the length that holds 95 % of the events, which nobody has counted: run',
        ),
        (
            {"length": 3, "scale": "standard"},
            'group "x" has the scale "standard", whose numbers nobody has found: run',
        ),
    ],
)
def test_what_a_scan_has_to_find_is_said(path: Path, group: Any, message: str) -> None:
    spec = {"features": {"x": {"branches": ["Jet_pt"], **group}}}
    with pytest.raises(InputError) as caught:
        tensors(path, spec)
    assert message in str(caught.value)


def test_scan_gives_lengths_and_scales(path: Path) -> None:
    group = {"branches": ["Jet_pt"], "percentile": 90, "scale": "minmax"}
    spec = {"tree": "Events", "features": {"x": group}}
    found = scan(path, spec)
    [batch] = tensors(path, spec, scan=found)
    items = ak.to_numpy(ak.flatten(EVENTS["Jet_pt"]))
    slots = int(np.percentile(ak.num(EVENTS["Jet_pt"]), 90, method="inverted_cdf"))
    low, high = items.min(), items.max()
    expected = (padded(EVENTS["Jet_pt"], slots, "f4") - low) / (high - low)
    np.testing.assert_allclose(batch.inputs["x"][..., 0], expected, rtol=1e-5)
    with pytest.raises(InputError, match="other features"):
        tensors(path, SPEC, scan=found)
    with pytest.raises(InputError, match=r"the scan is 'scan.json': give what hepdask_ml.scan has"):
        tensors(path, SPEC, scan="scan.json")  # type: ignore[arg-type]


# Files that nobody of this project wrote.

REAL = {
    "nanoAOD_2015_CMS_Open_Data_ttbar.root": "Events",
    "nano_dy.root": "Events",
    "nano_dimuon.root": "Events",
    "PHYSLITE_example.root": "CollectionTree",
    "uproot-HZZ.root": "events",
}


def numbers(tree: Any) -> Iterator[tuple[str, bool]]:
    """Branches of plain numbers, and whether they are jagged."""
    for name, branch in tree.iteritems(recursive=True, full_paths=False):
        kind = branch.interpretation
        jagged = isinstance(kind, uproot.AsJagged)
        content = kind.content if jagged else kind
        if type(content) is uproot.AsDtype and content.from_dtype.names is None:
            yield name, jagged


@made_up.real_data
@pytest.mark.parametrize("name", REAL)
def test_published_files(name: str) -> None:
    path = made_up.DATA / "root" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with uproot.open({str(path): None}) as file:
        tree = file[REAL[name]]
        chosen = dict(list(numbers(tree))[::17])
        arrays = {key: tree[key].array() for key in chosen}
        n_events = tree.num_entries
    groups: dict[str, Any] = {}
    for key, jagged in chosen.items():
        # No expression takes greater whole numbers.
        if np.max(ak.to_numpy(ak.flatten(arrays[key], axis=None)), initial=0) > 2.0**62:
            del arrays[key]
            continue
        bare = {"branch": key}
        also = {"name": "positive", "expression": f'branch("{key}") > 0'}
        length = {"length": 3} if jagged else {}
        groups[f"plain {len(groups)}"] = {"branches": [bare], **length}
        groups[f"mixed {len(groups)}"] = {"branches": [bare, also], **length}
    assert len(groups) > 4
    form = FeatureForm(features({"tree": REAL[name], "features": groups}))
    size = n_events // 3 + 1
    for _, batch in form.batches(Source(str(path)), str(path), size=size):
        made = iter(batch.inputs.values())
        for (key, array), plain, mixed in zip(arrays.items(), made, made, strict=True):
            part = array[batch.start : batch.stop]
            expected, positive = (
                padded(each, 3, "f4") if chosen[key] else ak.to_numpy(each).astype("f4")
                for each in (part, part > 0)
            )
            np.testing.assert_array_equal(plain[..., 0], expected, err_msg=key)
            np.testing.assert_array_equal(mixed[..., 0], expected, err_msg=key)
            np.testing.assert_array_equal(mixed[..., 1], positive, err_msg=key)
