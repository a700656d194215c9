"""Files as analyses name them, and ranges of their events."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.data.sources import Source, source_of, sources, spans
from hepdask_ml.errors import InputError

SERVERS = ["root://one.example.org/", "root://two.example.org:1094"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.root", "a.root", "deep/c.root", "notes.txt"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    return tmp_path


def urls(files: Any, **options: Any) -> list[str]:
    return [source.url for source in sources(files, **options)]


def test_path_is_given_in_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert urls("a.root") == urls(Path("a.root")) == [str(folder / "a.root")]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.root", ["a.root", "b.root"]),
        ("[b]*.root", ["b.root"]),
        ("?.root", ["a.root", "b.root"]),
        ("**/*.root", ["a.root", "b.root", "deep/c.root"]),
    ],
)
def test_pattern_gives_files_by_name(folder: Path, pattern: str, names: list[str]) -> None:
    assert urls(str(folder / pattern)) == [str(folder / name) for name in names]


@pytest.mark.parametrize(
    ("name", "url", "tree"),
    [
        ("root://h:1094//x/a.root", "root://h:1094//x/a.root", None),
        ("root://h:1094//x/a.root:Events", "root://h:1094//x/a.root", "Events"),
        ("https://h/a.root?token=b:dir/Events", "https://h/a.root?token=b", "dir/Events"),
        ("simplecache::root://h//a.root", "simplecache::root://h//a.root", None),
        ("root://h//a.root.1:Events", "root://h//a.root.1", "Events"),
    ],
)
def test_tree_stands_behind_the_file(name: str, url: str, tree: str | None) -> None:
    [found] = sources(name)
    assert (found.url, found.tree) == (url, tree)


def test_tree_of_the_file_comes_before_that_for_all(folder: Path) -> None:
    found = sources([f"{folder}/a.root:Other", f"{folder}/b.root"], tree="Events")
    assert [source.tree for source in found] == ["Other", "Events"]


def test_remote_pattern_is_listed() -> None:
    system = fsspec.filesystem("memory")
    for name in ("2.root", "1.root"):
        system.pipe(f"/test-sources/{name}", b"")
    try:
        found = urls("memory://test-sources/*.root")
        assert found == [f"memory:///test-sources/{n}.root" for n in (1, 2)]
    finally:
        system.rm("/test-sources", recursive=True)


def test_logical_name_has_a_replica_at_each_redirector() -> None:
    [found] = sources("/store/mc/a.root:Events", redirectors=SERVERS)
    assert found.urls == (
        "root://one.example.org//store/mc/a.root",
        "root://two.example.org:1094//store/mc/a.root",
    )
    assert found.tree == "Events"
    assert urls("/store/a.root", redirectors="https://h/") == ["https://h/store/a.root"]


def test_list_within_a_list_holds_replicas() -> None:
    both = ["root://a//f.root:Events", "root://b//f.root:Events"]
    one, other = sources([both, "root://a//g.root"])
    assert one.urls == ("root://a//f.root", "root://b//f.root")
    assert one.tree == "Events"
    assert other.urls == ("root://a//g.root",)


def test_copy_that_is_gone_leaves_the_others(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [one] = sources([["gone.root", str(folder / "a.root"), "root://h//a.root"]])
    assert one.urls == (str(folder / "a.root"), "root://h//a.root")
    assert "there is no file gone.root" in caplog.text


def test_file_may_be_named_for_each_of_its_ranges() -> None:
    ranges = [{"root://h//a.root": {"steps": [step]}} for step in ([5, 9], [0, 5], [5, 5])]
    assert len(sources(ranges)) == 3


FILESET = {
    "ttbar": {
        "files": {
            "root://h//a.root": {"object_path": "Events", "steps": [[0, 5], [5, 9]], "uuid": "x"},
            "root://h//b.root": "Other",
        },
        "metadata": {"xs": 831.8},
    },
    "data": ["root://h//c.root", "root://h//d.root"],
    "old": {"treename": "Delphes", "files": ["root://h//e.root"]},
}
EXPECTED = [
    ("ttbar", "root://h//a.root", "Events", ((0, 5), (5, 9)), {"xs": 831.8}),
    ("ttbar", "root://h//b.root", "Other", (), {"xs": 831.8}),
    ("data", "root://h//c.root", None, (), {}),
    ("data", "root://h//d.root", None, (), {}),
    ("old", "root://h//e.root", "Delphes", (), {}),
]


def told(found: tuple[Source, ...]) -> list[tuple[Any, ...]]:
    return [(s.dataset, s.url, s.tree, s.steps, dict(s.metadata)) for s in found]


def test_file_set_of_coffea() -> None:
    assert told(sources(FILESET)) == EXPECTED


@pytest.mark.parametrize("name", ["files.json", "files.json.gz", "files.yaml"])
def test_file_set_in_a_file(tmp_path: Path, name: str) -> None:
    text = json.dumps(FILESET).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    assert told(sources(str(tmp_path / name))) == EXPECTED


def test_mapping_of_files_to_trees(folder: Path) -> None:
    found = sources({f"{folder}/*.root": "Events", "root://h//x.root": None})
    assert [(Path(s.url).name, s.tree) for s in found] == [
        ("a.root", "Events"),
        ("b.root", "Events"),
        ("x.root", None),
    ]


def test_source_survives_json() -> None:
    for source in sources(FILESET):
        again = source_of(json.loads(json.dumps(source.spec())))
        assert again == source
        assert again.metadata == source.metadata


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("missing.root", "there is no file missing.root: check the name"),
        ("/store/mc/a.root", "there is no file /store/mc/a.root: give redirectors for logical"),
        ("none*.root", r"no file has a name like none\*.root"),
        (".", r"\. is a folder: write \./\*.root"),
        ([], "there are no files to read"),
        (7, "files holds 7, which names no file"),
        ({"a": 7}, '"a" has 7: give the name of its tree'),
        (["root://h//a.root"] * 2, "a.root is there twice, so that its events would count twice"),
        ({"tt": ["root://h//a.root"] * 2}, 'is there twice of data set "tt"'),
        ({"tt": {"files": [3]}}, 'data set "tt" holds 3'),
        ([["root://h//a.root"], []], "a list of replicas with nothing in it"),
        ({"root://h//a.root": {"steps": [3]}}, r"has the steps \[3\]: each is a pair"),
        ({"root://h//a.root": {"steps": [[9, 5]]}}, r"has the steps \[\[9, 5\]\]: each is a pair"),
        ({"root://h//a.root": {"steps": [[0, 5.5]]}}, "each is a pair"),
        (
            {"root://h//a.root": {"steps": [[0, 50], [60, 70], [20, 60]]}},
            "a.root has events 20 to 50 in two of its steps, so that they would count twice",
        ),
        (
            {"tt": {"files": [{"root://h//a.root": {"steps": [[0, 5]]}}, "root://h//a.root"]}},
            'a.root is there twice of data set "tt"',
        ),
        ("", "a file has the empty name"),
        ([["missing.root", "also.root"]], "there is no file also.root"),
        ("nowhere.json", "nowhere.json cannot be read"),
        ("nosuch://h/*.root", "install what reads such URLs"),
        ("bad.json", "bad.json is no JSON"),
        ("circle.json", "nested too deeply, or names itself"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{", encoding="utf-8")
    Path("circle.json").write_text('["circle.json"]', encoding="utf-8")
    with pytest.raises(InputError, match=message):
        sources(files)


def test_redirector_is_a_url() -> None:
    with pytest.raises(InputError, match='redirector "host" is no URL: write it like root://host'):
        sources("/store/a.root", redirectors="host")


@given(
    n_events=st.integers(0, 10_000),
    size=st.integers(1, 3_000),
    edges=st.lists(st.integers(0, 10_000), max_size=20).map(sorted),
)
def test_spans_have_each_event_once(n_events: int, size: int, edges: list[int]) -> None:
    found = spans(Source("a.root"), n_events, size, edges=edges)
    assert [e for span in found for e in range(span.start, span.stop)] == list(range(n_events))
    assert all(span.start < span.stop for span in found)
    if not edges:
        assert all(span.stop - span.start <= size for span in found)


def test_spans_begin_at_edges_that_are_near() -> None:
    found = spans(Source("a.root"), 100, 25, edges=[0, 30, 52, 100])
    assert [span.start for span in found] == [0, 30, 52, 75]


def test_spans_keep_to_the_steps() -> None:
    source = Source("a.root", steps=((0, 10), (20, 26)))
    assert [(s.start, s.stop) for s in spans(source, 30, 6)] == [(0, 5), (5, 10), (20, 26)]
    with pytest.raises(InputError, match="has 25 events, and not those of the step 20 to 26"):
        spans(source, 25, 6)
    with pytest.raises(InputError, match="ranges of 0 events are none"):
        spans(source, 30, 0)
