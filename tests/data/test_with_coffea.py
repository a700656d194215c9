"""Events as coffea has them: lazy, from whichever copy, with what a processor expects."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made_up
import numpy as np
import pytest

from hepdask_ml.data import replicas, with_coffea
from hepdask_ml.data.sources import Span
from hepdask_ml.data.streams import events
from hepdask_ml.data.with_coffea import Nano
from hepdask_ml.data.with_uproot import UnreadableFile
from hepdask_ml.errors import InputError

nanoevents: Any = pytest.importorskip("coffea.nanoevents")
ak: Any = pytest.importorskip("awkward")
uproot: Any = pytest.importorskip("uproot")

# coffea warns of branches that a schema looks for in vain.
pytestmark = pytest.mark.filterwarnings("ignore::Warning:coffea")

N_EVENTS = 50
NUMBERS = np.arange(N_EVENTS)
JET_PT = ak.unflatten(np.repeat(NUMBERS, NUMBERS % 3).astype("f4"), NUMBERS % 3)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coffea") / "nano.root"
    flat = {"run": NUMBERS // 10, "luminosityBlock": NUMBERS // 5, "event": NUMBERS}
    jets = ak.zip({"pt": JET_PT, "eta": JET_PT / 10, "phi": 0 * JET_PT, "mass": 0 * JET_PT})
    with uproot.recreate(path) as file:
        met = dict.fromkeys(("MET_pt", "MET_phi"), NUMBERS.astype("f4"))
        kinds = {name: array.dtype for name, array in {**flat, **met}.items()}
        file.mktree("Events", {**kinds, "Jet": jets.type.content})
        file["Events"].extend({**flat, **met, "Jet": jets})
    return path


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which branches coffea reads lazily."""

    class Log(list[str]):
        def append(self, access: Any) -> None:
            super().append(access.branch)

    log = Log()
    factory = nanoevents.NanoEventsFactory
    with_log = SimpleNamespace(from_root=partial(factory.from_root, access_log=log))
    monkeypatch.setattr(nanoevents, "NanoEventsFactory", with_log)
    monkeypatch.setattr(with_coffea, "signature", lambda _: SimpleNamespace(parameters="preload"))
    return log


def test_columns_are_lazy(path: Path, touched: list[str]) -> None:
    [part] = events(path, schema="nanoaod")
    assert touched == []
    assert ak.almost_equal(ak.without_parameters(part.Jet.pt), JET_PT)
    assert set(touched) == {"nJet", "Jet_pt"}


def test_branches_are_read_at_once(path: Path) -> None:
    stream = events(path, ["Jet_p*", "MET_p*"], schema="NanoAOD", size=20)
    parts = list(stream)
    assert [len(part) for part in parts] == [20, 20, 10]
    moved = path.rename(path.with_suffix(".moved"))
    try:
        pt = ak.concatenate([part.Jet.pt for part in parts])
        assert ak.almost_equal(ak.without_parameters(pt), JET_PT)
        assert ak.sum(parts[1].MET.pt) == NUMBERS[20:40].sum()
    finally:
        moved.rename(path)


def test_methods_of_the_schema(path: Path) -> None:
    [part] = events(path, schema="nanoaod")
    assert ak.almost_equal(
        ak.sum(part.Jet.px, axis=1), ak.sum(JET_PT, axis=1), check_parameters=False
    )


def test_metadata_is_what_a_processor_finds(path: Path) -> None:
    files = {"dy": {"files": {str(path): "Events"}, "metadata": {"xs": 6077.2}}}
    parts = list(events(files, schema="nanoaod", size=30))
    expected = {
        "dataset": "dy",
        "filename": str(path),
        "treename": "Events",
        "entrystart": 30,
        "entrystop": 50,
        "xs": 6077.2,
    }
    found = parts[1].metadata
    assert {name: found[name] for name in expected} == expected
    with uproot.open(path) as file:
        assert found["fileuuid"] == str(file.file.uuid)


def n_jets(part: Any) -> int:
    return int(ak.sum(part.Jet.pt > 10.0))


def test_map_and_read(path: Path) -> None:
    stream = events(path, schema="nanoaod", size=20)
    assert sum(stream.map(n_jets, threads=2)) == int(ak.sum(JET_PT > 10.0))
    part = pickle.loads(pickle.dumps(stream)).read(Span(stream.sources[0], 40, 45))
    assert part.event.to_list() == [40, 41, 42, 43, 44]


def test_copy_goes_on_where_a_damaged_one_ends(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "_PAUSE_S", 0.0)
    content = bytearray(path.read_bytes())
    with uproot.open(path) as file:
        start, stop = file["Events"]["Jet_pt"].entries_to_ranges_or_baskets(0, N_EVENTS)[0][1]
    content[start:stop] = b"\xff" * (stop - start)
    damaged = tmp_path / "damaged.root"
    damaged.write_bytes(content)
    parts = list(events([[damaged, path]], ["Jet_pt"], schema="nanoaod", size=20))
    assert ak.almost_equal(
        ak.without_parameters(ak.concatenate([part.Jet.pt for part in parts])), JET_PT
    )
    with pytest.raises(UnreadableFile, match=r"damaged.root:Events, events 0 to 20, .*tried once"):
        list(events(damaged, ["Jet_pt"], schema="nanoaod", size=20, attempts=1))


def test_wrong_names(path: Path) -> None:
    with pytest.raises(InputError, match='coffea has no schema "nanoad": did you mean "NanoAOD"'):
        events(path, schema="nanoad")
    with pytest.raises(InputError, match='Events has no branch "Jet_ptt": did you mean "Jet_pt"'):
        list(events(path, "Jet_ptt", schema="nanoaod"))
    with pytest.raises(InputError, match=r'has no tree "CollectionTree": there is Events'):
        list(events(path, schema="physlite"))


def test_file_that_does_not_fit_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "skim.root"
    with uproot.recreate(path) as file:
        file.mktree("Events", {"run": np.int64})
        file["Events"].extend({"run": NUMBERS})
    match = r"^.*skim.root:Events does not fit coffea's NanoAODSchema \(There are missing event ID"
    with pytest.raises(InputError, match=match) as caught:
        list(events(path, schema="nanoaod"))
    assert "\n" not in str(caught.value)


def test_without_coffea(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(with_coffea, "import_module", missing)
    with pytest.raises(InputError, match=r"made by coffea: install hepdask-ml\[data\]"):
        Nano("nanoaod")


def test_coffea_without_lazy_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(from_root=lambda file, delayed: (file, delayed))
    monkeypatch.setattr(nanoevents, "NanoEventsFactory", old)
    with pytest.raises(InputError, match=r"this coffea has no lazy columns: install coffea>="):
        Nano("nanoaod")


REAL = {
    "nano_dy.root": ("nanoaod", "Jet", ("Jet_pt", "Jet_eta"), "nJet"),
    "PHYSLITE_example.root": (
        "physlite",
        "Electrons",
        ("AnalysisElectronsAuxDyn.pt", "AnalysisElectronsAuxDyn.eta"),
        "AnalysisElectronsAuxDyn.trackParticleLinks",
    ),
}


@made_up.real_data
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("name", REAL)
def test_published_files(name: str, ahead: bool, touched: list[str]) -> None:
    path = made_up.DATA / "root" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    schema, collection, branches, lengths = REAL[name]
    tree = with_coffea.TREES[Nano(schema).schema]
    with uproot.open(path) as file:
        expected = file[tree].arrays(list(branches))
    form = Nano(schema, branches if ahead else ())
    [part] = events(path, form=form)
    for field, branch in zip(("pt", "eta"), branches, strict=True):
        found = ak.without_parameters(part[collection, field])
        assert ak.almost_equal(found, ak.without_parameters(expected[branch]))
    # None of the other hundreds, but for what tells the lengths of lists.
    assert set(touched) - {lengths} == set(branches)
