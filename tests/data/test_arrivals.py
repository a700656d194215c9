"""Files count when they are there and whole, in the order in which they came."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from hepdask_ml.data import arrivals as arrivals_module
from hepdask_ml.data.arrivals import Arrivals, Found, arrivals, look
from hepdask_ml.data.sources import Source
from hepdask_ml.data.streams import events
from hepdask_ml.data.with_uproot import opened
from hepdask_ml.errors import InputError

uproot: Any = pytest.importorskip("uproot")

POLL: dict[str, Any] = {"poll_s": 0.01}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete file, which arrives under other names."""
    path = tmp_path_factory.mktemp("arrivals") / "made.root"
    with uproot.recreate(path) as file:
        file.mktree("Events", {"x": np.int64})
        file["Events"].extend({"x": np.arange(20)})
    return path


Arrive = Callable[..., Path]


@pytest.fixture
def arrive(made: Path, tmp_path: Path) -> Arrive:
    """Have a file arrive, with so many of its bytes, changed at such a time."""

    def arrive(name: str, *, n_bytes: int | None = None, at: int | None = None) -> Path:
        path = tmp_path / name
        path.write_bytes(made.read_bytes()[:n_bytes])
        if at is not None:
            os.utime(path, ns=(at, at))
        return path

    return arrive


def names(found: Any) -> list[str]:
    return [Path(source.url).name for source in found]


def looks(files: Any, number: int = 2, before: Found | None = None, **options: Any) -> Found:
    found = before or Found()
    for _ in range(number):
        found = look(files, found, **options)
    return found


def test_file_counts_when_it_stands_still(arrive: Arrive, tmp_path: Path) -> None:
    pattern = str(tmp_path / "*.root")
    assert look(pattern).waiting == {pattern: f"no file has a name like {pattern}"}
    path = arrive("a.root")
    first = look(pattern)
    assert names(first.here) == []
    assert list(first.waiting.values()) == [f"{path} has {path.stat().st_size} bytes, and may grow"]
    second = look(pattern, first)
    assert names(second.here) == ["a.root"]
    assert not second.waiting
    assert look(pattern, second) == second


@pytest.mark.parametrize("n_bytes", [0, 3, 200, -1500, -1])
def test_file_in_the_midst_of_writing_does_not_count(
    arrive: Arrive, tmp_path: Path, n_bytes: int
) -> None:
    url = str(arrive("a.root", n_bytes=n_bytes))
    found = looks(str(tmp_path / "*"), 3)
    assert found.here == ()
    assert list(found.waiting) == [url]
    arrive("a.root")
    assert names(looks(str(tmp_path / "*"), 2, found).here) == ["a.root"]


def test_file_without_its_tree_is_still_being_written(arrive: Arrive, tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "a.root"):
        pass
    found = looks(tmp_path / "a.root", 3)
    [why] = found.waiting.values()
    assert "has no tree" in why
    arrive("a.root")
    assert not looks(tmp_path / "a.root", 3, found, tree="Else").here
    assert looks(tmp_path / "a.root", 3, found, tree="Events").here[0].tree == "Events"


def test_order_is_that_of_arrival(arrive: Arrive, tmp_path: Path) -> None:
    for name, at in {"d": 30, "a": 20, "c": 10, "b": 20}.items():
        arrive(f"{name}.root", at=at)
    pattern = str(tmp_path / "*.root")
    found = looks(pattern)
    assert names(found.here) == ["c.root", "a.root", "b.root", "d.root"]
    arrive("0.root", at=5)
    assert names(looks(pattern, 2, found).here) == [*names(found.here), "0.root"]


def test_every_way_to_name_files(arrive: Arrive, tmp_path: Path) -> None:
    a, b, c = (str(tmp_path / f"{name}.root") for name in "abc")
    listed = tmp_path / "files.json"
    fileset = {
        "one": {"files": {f"{a}": "Events"}, "metadata": {"xs": 2.0}},
        "two": [b, str(tmp_path / "c*")],
    }
    listed.write_text(json.dumps(fileset))
    assert set(look(listed).waiting) == {a, b, str(tmp_path / "c*")}
    for name in "cba":
        arrive(f"{name}.root", at=1)
    found = looks([str(listed), {a: "Events"}, Path(b)])
    assert [(each.dataset, each.url, each.tree) for each in found.here] == [
        ("one", a, "Events"),
        ("", a, "Events"),
        ("two", b, None),
        ("", b, None),
        ("two", c, None),
    ]
    assert found.here[0].metadata == {"xs": 2.0}
    assert looks(Source(a)).here == (Source(a),)
    with pytest.raises(InputError, match=r"^5 is no name of a file: "):
        look([a, 5])


def test_copy_that_comes_later_is_no_other_file(arrive: Arrive, tmp_path: Path) -> None:
    copies = [str(tmp_path / "a.root"), str(tmp_path / "b.root")]
    arrive("b.root")
    found = looks([copies])
    assert found.here == (Source(copies[1]),)
    arrive("a.root")
    assert looks([copies], 3, found).here == found.here
    assert looks([copies]).here == (Source(copies[0], replicas=(copies[1],)),)


def test_files_on_a_server(made: Path) -> None:
    system = fsspec.filesystem("memory")
    url = "memory://test-arrivals/a.root"
    try:
        found = looks([url, "memory://test-arrivals/*.root"])
        assert set(found.waiting) == {url, "memory://test-arrivals/*.root"}
        system.pipe("/test-arrivals/a.root", made.read_bytes()[:900])
        assert not looks(url, 3).here
        system.pipe("/test-arrivals/a.root", made.read_bytes())
        assert looks(url).here == (Source(url),)
    finally:
        if system.exists("/test-arrivals"):
            system.rm("/test-arrivals", recursive=True)


def test_named_files_come_until_all_are_there(arrive: Arrive, tmp_path: Path) -> None:
    coming = Arrivals([tmp_path / "a.root", tmp_path / "b.root"], **POLL)
    assert coming.look() == []
    arrive("b.root")
    assert [coming.look(), names(coming.look())] == [[], ["b.root"]]
    assert coming.expects(1)
    arrive("a.root")
    assert [coming.look(), names(coming.look()), coming.look()] == [[], ["a.root"], []]
    assert not coming.expects(2)


def test_file_that_is_named_twice_comes_once(arrive: Arrive, tmp_path: Path) -> None:
    arrive("a.root")
    again = tmp_path / "." / "a.root"
    assert names(Arrivals([tmp_path / "a.root", str(again)], **POLL)) == ["a.root"]


def test_number_that_is_expected(arrive: Arrive, tmp_path: Path) -> None:
    for name in ("a.root", "b.root"):
        arrive(name)
    coming = arrivals(str(tmp_path / "*.root"), expected=2, **POLL)
    assert names(coming) == ["a.root", "b.root"]
    assert list(coming) == []


def test_file_that_says_that_all_is_there(arrive: Arrive, tmp_path: Path) -> None:
    pattern, done = str(tmp_path / "*.root"), tmp_path / "DONE"
    arrive("a.root")
    coming = Arrivals(pattern, until=done, **POLL)
    assert names([next(coming)]) == ["a.root"]
    arrive("b.root")
    done.touch()
    # What is whole by the word of its writer need not stand still.
    assert names(coming.look()) == ["b.root"]
    assert not coming.expects(2)


def test_nothing_comes_for_a_while(arrive: Arrive, tmp_path: Path) -> None:
    arrive("a.root")
    assert names(Arrivals(str(tmp_path / "*.root"), quiet_s=0.1, **POLL)) == ["a.root"]


NEVER: dict[str, tuple[dict[str, Any], str]] = {
    "name": (
        {"files": ["a.root", "b.root", "c.root"], "quiet_s": 0.05},
        r"^1 of 3 files came of .*a.root, ..., and nothing new within 0.05 s "
        r"\(there is no file .*b.root; there is no file .*c.root\): see to their transfer",
    ),
    "number": (
        {"files": ["*.root"], "expected": 3, "quiet_s": 0.05},
        r"^1 of 3 files came of .*\*.root, and nothing new within 0.05 s: ",
    ),
    "pattern": (
        {"files": ["*.root", "b*"], "quiet_s": 0.05},
        r"^1 files came of .*, and nothing new within 0.05 s \(no file has a name like",
    ),
    "last file": (
        {"files": ["*.root"], "until": "DONE", "quiet_s": 0.05},
        r"^1 files came of .*, and nothing new within 0.05 s, nor .*DONE: ",
    ),
    "before the last file": (
        {"files": ["a.root", "b.root"], "until": "."},
        r"^1 of 2 files came of .*, and .* says that this is all \(there is no file",
    ),
}


@pytest.mark.parametrize("case", NEVER)
def test_what_never_came_is_named(case: str, arrive: Arrive, tmp_path: Path) -> None:
    settings, match = NEVER[case]
    arrive("a.root")
    settings = {**settings, "files": [str(tmp_path / name) for name in settings["files"]]}
    if "until" in settings:
        settings["until"] = tmp_path / settings["until"]
    coming = arrivals(**settings, **POLL)
    assert names([next(coming)]) == ["a.root"]
    with pytest.raises(InputError, match=match) as caught:
        next(coming)
    assert "\n" not in str(caught.value)


def test_nobody_says_when_a_pattern_is_complete() -> None:
    with pytest.raises(InputError, match=r"nothing tells when all files like x\*.root have come"):
        arrivals(["a.root", "x*.root"])
    for files, options, match in (
        ([], {}, "no files to wait for"),
        ("a.root", {"poll_s": 0.0}, "0 s from look to look are none"),
        ("a.root", {"expected": 0}, "0 files are none to wait for"),
    ):
        with pytest.raises(InputError, match=match):
            arrivals(files, **options)


def test_server_that_does_not_answer_is_no_reason_to_stop(
    arrive: Arrive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = threading.Event()

    def slow(url: str, **options: Any) -> Any:
        if url.endswith("b.root"):
            hanging.wait()
        return opened(url, **options)

    monkeypatch.setattr(arrivals_module, "opened", slow)
    urls = [str(arrive(name)) for name in ("a.root", "b.root")]
    try:
        found = looks(urls, timeout=0.1)
        assert names(found.here) == ["a.root"]
        assert found.waiting == {urls[1]: f"{urls[1]} does not answer within 0.1 s"}
    finally:
        hanging.set()


def test_events_are_read_as_files_come(made: Path, tmp_path: Path) -> None:
    coming = arrivals(str(tmp_path / "*.root"), until=tmp_path / "DONE", tree="Events", **POLL)
    stream = events(coming, "x", size=15)
    assert stream.arrivals is coming
    lengths = []
    shutil.copy(made, tmp_path / "b.root")
    for part in stream:
        lengths.append(len(part))
        if len(lengths) == 2:
            # In between: another has its name when it is whole.
            shutil.copy(made, tmp_path / "a.part")
            (tmp_path / "a.part").rename(tmp_path / "a.root")
            (tmp_path / "DONE").touch()
    assert lengths == [15, 5, 15, 5]
    assert names(stream.sources) == ["b.root", "a.root"]
