"""A scan finds what numpy finds in all events at once, wherever it runs, and is made only once."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from dataclasses import replace
from itertools import pairwise
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from hepdask_ml.data.features import Features, features
from hepdask_ml.data.scan import Scan, scan
from hepdask_ml.data.scan_graph import MOST_NODES, scan_graph
from hepdask_ml.data.summaries import Summary
from hepdask_ml.data.tensors import tensors
from hepdask_ml.data.with_uproot import UnreadableFile
from hepdask_ml.errors import InputError

uproot: Any = pytest.importorskip("uproot")
ak: Any = pytest.importorskip("awkward")

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "scan.md"

SPEC: dict[str, Any] = {
    "tree": "Events",
    "weights": "weight",
    "features": {
        "event": {"branches": ["met", {"name": "twice", "expression": "2 * met"}]},
        "jets": {"branches": ["Jet_pt", "Jet_eta"], "percentile": 90, "scale": "standard"},
    },
}
SELECTED = {**SPEC, "selection": "met > 20"}


def made(seed: int, n_events: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    n_jets = rng.poisson(2.5, n_events)
    pt = rng.exponential(40.0, n_jets.sum()).astype("f4")
    pt[::17] = nan
    return {
        "met": rng.exponential(30.0, n_events).astype("f4"),
        "weight": rng.normal(1.0, 1.0, n_events).astype("f4"),
        "Jet_pt": ak.unflatten(pt, n_jets),
        "Jet_eta": ak.unflatten(rng.normal(0.0, 2.0, n_jets.sum()).astype("f4"), n_jets),
    }


def write(path: Path, arrays: dict[str, Any]) -> Path:
    with uproot.recreate(path) as file:
        kinds = {
            name: each.dtype if isinstance(each, np.ndarray) else each.type.content
            for name, each in arrays.items()
        }
        file.mktree("Events", kinds)
        file["Events"].extend(arrays)
    return path


PARTS = {"signal": made(1, 300), "background": made(2, 170)}
EVENTS = {name: ak.concatenate([part[name] for part in PARTS.values()]) for name in PARTS["signal"]}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[str]]:
    return {name: [str(write(tmp_path / f"{name}.root", part))] for name, part in PARTS.items()}


def assert_is_of(found: Summary, expected: Any) -> None:
    values = np.asarray(ak.to_numpy(ak.flatten(expected, axis=None)), np.float64)
    there = values[~np.isnan(values)]
    assert (found.count, found.missing) == (there.size, values.size - there.size)
    assert (found.low, found.high) == (there.min(), there.max())
    assert (found.mean, found.std) == pytest.approx((there.mean(), there.std()))
    for share in (0.01, 0.5, 0.99):
        exact = np.quantile(there, share, method="inverted_cdf")
        assert found.quantile(share) == pytest.approx(exact, rel=0.002)


def assert_same(found: Scan, expected: Scan) -> None:
    """Equal to rounding, and to the last bit where nothing rounds."""
    for group, fields in expected.fields.items():
        for name, summary in fields.items():
            other = found.fields[group][name]
            assert (other.mean, other.squares) == pytest.approx((summary.mean, summary.squares))
            assert replace(other, mean=0.0, squares=0.0) == replace(summary, mean=0.0, squares=0.0)
    assert found.lengths == expected.lengths


def test_all_events_are_seen_once(files: dict[str, list[str]]) -> None:
    found = scan(files, SPEC, threads=2)
    assert (found.n_events, found.n_selected) == (470, 470)
    assert_is_of(found.fields["event"]["met"], EVENTS["met"])
    assert_is_of(found.fields["event"]["twice"], 2 * EVENTS["met"])
    assert_is_of(found.fields["jets"]["Jet_pt"], EVENTS["Jet_pt"])
    lengths = ak.to_numpy(ak.num(EVENTS["Jet_pt"]))
    for percentile in (1, 50, 90, 95, 99.5, 100):
        exact = np.quantile(lengths, percentile / 100, method="inverted_cdf")
        assert found.slots("jets", percentile) == max(exact, 1)
    beyond = np.maximum(lengths - 4, 0)
    shares = beyond.sum() / lengths.sum(), np.count_nonzero(beyond) / lengths.size
    assert found.cut("jets", 4) == pytest.approx(shares)


def test_only_selected_events_count(files: dict[str, list[str]]) -> None:
    found = scan(files, SELECTED)
    chosen: Any = EVENTS["met"] > 20
    assert found.n_events == 470
    assert found.n_selected == ak.sum(chosen)
    assert_is_of(found.fields["jets"]["Jet_eta"], EVENTS["Jet_eta"][chosen])
    assert found.lengths["jets"].total == found.n_selected


def test_weights_are_counted_for_each_data_set(tmp_path: Path) -> None:
    part = made(3, 100)
    part["weight"][[5, 6]] = nan
    path = write(tmp_path / "a.root", part)
    found = scan({"odd": [str(path)]}, SPEC)
    tally = found.datasets["odd"]
    usable = part["weight"][~np.isnan(part["weight"])].astype(float)
    assert (tally.unusable, tally.negative) == (2, int(np.count_nonzero(usable < 0)))
    assert tally.weighted == pytest.approx(usable.sum())
    assert tally.weighted_squares == pytest.approx((usable**2).sum())
    assert '2 of 100 selected events of data set "odd" have a weight that is NaN' in repr(found)


def test_without_weights_each_event_counts_one(files: dict[str, list[str]]) -> None:
    found = scan(files, {**SPEC, "weights": None})
    assert found.datasets["signal"].weighted == 300.0


@pytest.mark.parametrize("size", [1000, 64, 37])
def test_ranges_do_not_matter(size: int, files: dict[str, list[str]]) -> None:
    assert_same(scan(files, SELECTED, size=size), scan(files, SELECTED))


def test_threads_and_workers_agree_to_the_last_bit(files: dict[str, list[str]]) -> None:
    distributed = pytest.importorskip("distributed")
    expected = scan(files, SELECTED, size=20, threads=1)
    assert scan(files, SELECTED, size=20, threads=4) == expected
    graph: Any = scan_graph(files, SELECTED, size=20)
    assert graph.compute(scheduler="synchronous") == expected
    with (
        distributed.LocalCluster(n_workers=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert scan(files, SELECTED, size=20, client=client) == expected


def test_equal_scans_are_equal_graphs(files: dict[str, list[str]]) -> None:
    graphs: list[Any] = [
        scan_graph(files, spec, size=size)
        for spec, size in ((SPEC, 50), (SPEC, 50), (SPEC, 60), (SELECTED, 50))
    ]
    assert set(graphs[0].dask) == set(graphs[1].dask)
    assert len({graph.key for graph in graphs}) == 3


def test_there_are_not_too_many_nodes(
    files: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hepdask_ml.data.scan_graph.MOST_NODES", 4)
    graph: Any = scan_graph(files, SPEC, size=1)
    reading = [key for key in graph.dask if str(key).startswith("found-")]
    assert 4 <= len(reading) <= 6
    assert MOST_NODES > 100


# --- kept -------------------------------------------------------------------------------------


def unread(*args: Any, **options: Any) -> Any:
    raise AssertionError("a file was read that need not be")


def test_a_scan_is_kept_and_taken_up_again(
    files: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"memory://{tmp_path.name}/scan.json"
    first = scan(files, SPEC, path=where)
    monkeypatch.setattr("hepdask_ml.data.tensors.FeatureForm.batches", unread)
    assert scan(files, SPEC, path=where) == first
    assert scan(dict(reversed(files.items())), SPEC, path=where) == first
    # What does not change what is found needs no other scan.
    other = {**SPEC, "labels": {"signal": 1, "background": 0}}
    other["features"] = {**SPEC["features"]}
    other["features"]["jets"] = {"branches": ["Jet_pt", "Jet_eta"], "length": 3}
    assert scan(files, other, path=where) == first


def test_a_moved_file_is_the_same(files: dict[str, list[str]], tmp_path: Path) -> None:
    path = tmp_path / "scan.json"
    first = scan(files, SPEC, path=path)
    moved = Path(files["signal"][0]).rename(tmp_path / "moved.root")
    assert scan({**files, "signal": [str(moved)]}, SPEC, path=path) == first


def test_a_changed_file_is_scanned_again(
    files: dict[str, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "scan.json"
    first = scan(files, SPEC, path=path)
    write(tmp_path / "signal.root", made(7, 300))
    with caplog.at_level(logging.WARNING, "hepdask_ml"):
        second = scan(files, SPEC, path=path)
    assert "scan.json is of other files" in caplog.text
    assert "signal.root" in caplog.text
    assert "background.root" not in caplog.text
    assert second != first
    assert Scan.load(path) == second


def test_other_features_are_scanned_anew(
    files: dict[str, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "scan.json"
    scan(files, SPEC, path=path)
    with caplog.at_level(logging.WARNING, "hepdask_ml"):
        found = scan(files, SELECTED, path=path)
    assert "is of other features: it is replaced" in caplog.text
    assert Scan.load(path) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "this is no scan"),
        ('{"format": 1}', "this is no scan ('inputs'|this is no scan (inputs"),
        ('{"format": 99}', "the scan has format 99, and this version knows 1"),
    ],
)
def test_what_is_no_scan_is_replaced(
    text: str,
    said: str,
    files: dict[str, list[str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "scan.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"scan\.json") as caught:
        Scan.load(path)
    assert any(each in str(caught.value) for each in said.split("|"))
    with caplog.at_level(logging.WARNING, "hepdask_ml"):
        found = scan(files, SPEC, path=path)
    assert any(each in caplog.text for each in said.split("|"))
    assert Scan.load(path) == found


def test_a_scan_that_finds_no_room_is_given_all_the_same(
    files: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with caplog.at_level(logging.ERROR, "hepdask_ml"):
        found = scan(files, SPEC, path=tmp_path / "scan.json")
    assert found.n_events == 470
    assert "(No space left on device): look at the disk" in caplog.text
    assert "the scan is not kept" in caplog.text


def test_where_nothing_can_be_kept_is_said_before_anything_is_read(
    files: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hepdask_ml.data.tensors.FeatureForm.batches", unread)
    with pytest.raises(InputError, match="nothing can be kept in nowhere://scan"):
        scan(files, SPEC, path="nowhere://scan")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be read"):
        scan(files, SPEC, path=tmp_path / "file" / "scan.json")


def test_no_scan_is_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no scan .*: make one, or check the name"):
        Scan.load(tmp_path / "scan.json")


def test_json_is_plain(files: dict[str, list[str]]) -> None:
    found = scan(files, SPEC)
    assert Scan.of_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


# --- what goes wrong --------------------------------------------------------------------------


def test_unreadable_files_are_named_or_passed_over(
    files: dict[str, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.root"
    broken.write_bytes(b"<html>" + bytes(100))
    given = {**files, "broken": [str(broken)]}
    with pytest.raises(UnreadableFile, match=r"broken\.root"):
        scan(given, SPEC, attempts=1)
    path = tmp_path / "scan.json"
    found = scan(given, SPEC, attempts=1, unreadable="skip", path=path)
    assert found.n_events == 470
    assert "broken.root" in found.skipped[0]
    assert "Passed over: " in repr(found)
    with caplog.at_level(logging.WARNING, "hepdask_ml"):
        assert scan(given, SPEC, attempts=1, unreadable="skip", path=path) == found
    assert "lacks events that could not be read: it is replaced" in caplog.text


def test_missing_branches_are_named(files: dict[str, list[str]]) -> None:
    with pytest.raises(InputError, match='"Jet_ptt"'):
        scan(files, {"features": {"jets": {"branches": ["Jet_ptt"], "percentile": 95}}})


def test_no_event_is_selected(files: dict[str, list[str]]) -> None:
    spec = {**SPEC, "selection": "met < 0"}
    found = scan(files, spec)
    assert found.notes[0] == "No event of 470 passes the selection."
    with pytest.raises(InputError, match=r'of 470 passes the selection, so that lengths of "jets"'):
        found.slots("jets", 95)
    with pytest.raises(InputError, match='"Jet_pt" has no number in all the events'):
        found.scalers(features(spec))
    assert found._repr_html_()


@pytest.mark.parametrize(
    ("group", "percentile", "said"),
    [
        ("jetz", 95, 'no group "jetz": did you mean "jets"'),
        ("event", 95, '"event" has one number for each event'),
        ("jets", 101, "101 is no percentile"),
        ("jets", nan, "nan is no percentile"),
    ],
)
def test_questions_that_make_no_sense(
    group: str, percentile: float, said: str, files: dict[str, list[str]]
) -> None:
    with pytest.raises(InputError, match=said):
        scan(files, SPEC).slots(group, percentile)


def test_images_need_no_scan(files: dict[str, list[str]]) -> None:
    axis = {"expression": "Jet_pt", "bins": 2, "low": 0, "high": 1}
    image = {"x": axis, "y": axis, "views": ["counts"]}
    with pytest.raises(InputError, match="the features have images alone, and nothing of these"):
        scan(files, {"images": {"one": image}})


def test_nobody_to_read(files: dict[str, list[str]]) -> None:
    with pytest.raises(InputError, match="0 threads read nothing"):
        scan(files, SPEC, threads=0)
    with pytest.raises(InputError, match="the client is asynchronous"):
        scan(files, SPEC, client=SimpleNamespace(asynchronous=True))


# --- used -------------------------------------------------------------------------------------


def test_tensors_are_scaled_and_padded_by_the_scan(files: dict[str, list[str]]) -> None:
    found = scan(files, SPEC)
    stream = tensors(files, SPEC, scan=found, size=1000)
    jets = [batch.inputs["jets"] for batch in stream]
    assert {each.shape[1] for each in jets} == {found.slots("jets", 90)}
    joined = np.concatenate([each.reshape(-1, 2) for each in jets])
    assert np.nanmean(joined[:, 1]) == pytest.approx(0.0, abs=0.05)
    assert np.nanstd(joined[:, 1]) == pytest.approx(1.0, abs=0.05)


def test_scalers_are_of_the_features_that_were_scanned(files: dict[str, list[str]]) -> None:
    found = scan(files, SPEC)
    assert set(found.scalers(features(SPEC)).groups) == {"jets"}
    resolved: Features = features(SPEC).resolved(found)
    assert found.scalers(resolved) == found.scalers(features(SPEC))
    with pytest.raises(InputError, match="of other features, or of another selection"):
        found.scalers(features(SELECTED))


def test_tables(files: dict[str, list[str]]) -> None:
    found = scan(files, SPEC)
    shown = repr(found)
    assert shown.startswith("Scan of 2 files: 470 events, 470 selected")
    for part in ("signal", "Jet_eta", "sum of weights", "missing", "items cut", "90 %"):
        assert part in shown
        assert part in found._repr_html_()
    assert (
        "&lt;b&gt;"
        in replace(found, findings=replace(found.findings, skipped=("<b>",)))._repr_html_()
    )


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokens = [t for t in MarkdownIt().parse(GUIDE.read_text(encoding="utf-8")) if t.type == "fence"]
    names: dict[str, object] = {}
    for token, after in pairwise([*tokens, tokens[0]]):
        if token.info != "py":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(token.content, str(GUIDE), "exec"), names)
        if printed.getvalue():
            assert after.info == "text"
            assert printed.getvalue() == after.content
