"""Tensors read from baskets hold what the loop gives that analyses write themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml.data import baskets, columns, with_uproot
from hepdask_ml.data.basket_bytes import Basket, unpacked
from hepdask_ml.data.baskets import Reader, reader
from hepdask_ml.data.stacks import Stack, Tensors
from hepdask_ml.data.with_uproot import UnreadableFile, opened
from hepdask_ml.errors import InputError

uproot: Any = pytest.importorskip("uproot")
ak: Any = pytest.importorskip("awkward")

rntuples = pytest.mark.skipif(
    tuple(map(int, uproot.__version__.split(".")[:2])) < (5, 7),
    reason="older uproot does not give the fields of an RNTuple by name",
)

N_EVENTS = 300
JETS = ("Jet_pt", "Jet_flavour", "Jet_tag")
MUONS = ("Muon_pt", "Muon_charge")
FLAT = ("met", "n_vertices", "passed", "event")
STACKS = [
    Stack("event", FLAT, dtype="float64"),
    Stack("jets", JETS, slots=3),
    Stack("muons", MUONS, slots=5),
]
# Events in each basket, for the branches of each tree.
STEPS = {"jets": 37, "rest": 110}


def events() -> dict[str, Any]:
    rng = np.random.default_rng(4)
    made: dict[str, Any] = {
        "met": rng.exponential(30.0, N_EVENTS).astype("f4"),
        "n_vertices": rng.integers(0, 80, N_EVENTS).astype("u1"),
        "passed": rng.random(N_EVENTS) < 0.5,
        "event": 2**40 + np.arange(N_EVENTS),
    }
    n_jets, n_muons = rng.poisson(2.5, N_EVENTS), rng.poisson(0.5, N_EVENTS)
    for names, counts in ((JETS, n_jets), (MUONS, n_muons)):
        for name, kind in zip(names, ("f4", "i4", "?"), strict=False):
            items = rng.normal(0.0, 40.0, counts.sum()).astype(kind)
            made[name] = ak.unflatten(items, counts)
    return made


EVENTS = events()


def users_loop(arrays: Any, stacks: list[Stack]) -> dict[str, Any]:
    """Tensors as analyses make them."""
    made = {}
    for stack in stacks:
        planes = []
        for name in stack.branches:
            array = arrays[name]
            if stack.slots is not None:
                array = ak.fill_none(ak.pad_none(array, stack.slots, clip=True), np.nan)
            planes.append(ak.to_numpy(array).astype(stack.dtype))
        made[stack.name] = np.stack(planes)
    return made


EXPECTED = users_loop(EVENTS, STACKS)


def assert_same(found: Tensors) -> None:
    part = slice(found.start, found.stop)
    for stack in STACKS:
        np.testing.assert_array_equal(found.values[stack.name], EXPECTED[stack.name][:, part])
    for name, branch in (("jets", "Jet_pt"), ("muons", "Muon_pt")):
        np.testing.assert_array_equal(found.lengths[name], ak.num(EVENTS[branch])[part])


def write(path: Path, compression: Any = None) -> Path:
    """One tree with all branches, and one for each of two lengths of baskets."""
    alike = {name: EVENTS[name] for name in (*FLAT, *MUONS)}
    jets = {name: EVENTS[name] for name in JETS}
    trees = {
        "Events": (EVENTS, 90),
        "jets": (jets, STEPS["jets"]),
        "rest": (alike, STEPS["rest"]),
    }
    with uproot.recreate(path, compression=compression) as file:
        for name, (arrays, step) in trees.items():
            kinds = {
                key: a.dtype if isinstance(a, np.ndarray) else a.type.content
                for key, a in arrays.items()
            }
            file.mktree(name, kinds)
            for start in range(0, N_EVENTS, step):
                file[name].extend({key: a[start : start + step] for key, a in arrays.items()})
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("baskets") / "nano.root", uproot.ZSTD(3))


@dataclass
class Unaligned:
    """A tree as ROOT writes them: its branches have baskets of their own lengths."""

    file: Any
    source: Any
    branches: dict[str, Any]
    num_entries: int = N_EVENTS
    name: str = "Events"

    def __getitem__(self, name: str) -> Any:
        return self.branches[name]

    def keys(self) -> list[str]:
        return list(self.branches)


@pytest.fixture(scope="module")
def unaligned(path: Path) -> Iterator[Unaligned]:
    with opened(str(path)) as file:
        branches = {b.name: b for name in STEPS for b in file[name].branches}
        assert len({tuple(b.entry_offsets) for b in branches.values()}) == len(STEPS)
        yield Unaligned(file["jets"].file, file["jets"].source, branches)


@pytest.mark.parametrize("codec", [None, "ZLIB", "LZ4", "ZSTD", "LZMA"])
def test_whole_file_with_each_compression(tmp_path: Path, codec: str | None) -> None:
    compression = codec and getattr(uproot, codec)(1)
    path = write(tmp_path / "nano.root", compression)
    with reader(str(path), STACKS, tree="Events") as found:
        assert found.n_events == N_EVENTS
        assert_same(found.read())


def test_file_behind_a_url(path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/test-baskets.root", path.read_bytes())
    try:
        with reader("memory://test-baskets.root", STACKS, tree="Events", threads=2) as found:
            for batch in found.batches(size=70):
                assert_same(batch)
    finally:
        system.rm("/test-baskets.root")
    assert with_uproot.local(f"file://{path}") == with_uproot.local(str(path)) == path


def test_protocol_that_nobody_knows() -> None:
    with (
        pytest.raises(InputError, match="Protocol not known: foo") as caught,
        opened("foo://a.root"),
    ):
        pass
    assert not isinstance(caught.value, UnreadableFile)


def test_library_that_a_url_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*args: Any, **options: Any) -> Any:
        raise ImportError("install s3fs to open s3:// URLs")

    monkeypatch.setattr(uproot, "open", absent)
    with (
        pytest.raises(InputError, match=r"//a.root needs .*install hepdask-ml\[data\]"),
        reader("s3://h//a.root", STACKS),
    ):
        pass


@settings(max_examples=60, deadline=None)
@given(
    borders=st.tuples(st.integers(0, N_EVENTS), st.integers(0, N_EVENTS)).map(sorted),
    size=st.integers(1, 120),
    threads=st.sampled_from([1, 2]),
    reuse=st.booleans(),
    local=st.booleans(),
)
def test_any_range_in_batches_of_any_size(
    path: Path,
    unaligned: Unaligned,
    borders: list[int],
    size: int,
    threads: int,
    reuse: bool,
    local: bool,
) -> None:
    start, stop = borders
    found = Reader(unaligned, STACKS, path=path if local else None, threads=threads)
    seen = start
    for batch in found.batches(start, stop, size=size, reuse=reuse):
        assert batch.start == seen
        assert_same(batch)
        seen = batch.stop
    assert seen == stop
    assert_same(found.read(start, stop))


def test_each_basket_is_decompressed_once(
    unaligned: Unaligned, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, seen = unpacked, []

    def counted(stored: Any, *args: Any, **options: Any) -> Any:
        seen.append(stored.tobytes())
        return read(stored, *args, **options)

    monkeypatch.setattr(baskets, "unpacked", counted)
    for _ in Reader(unaligned, STACKS).batches(size=13):
        pass
    n_baskets = sum(unaligned[n].num_baskets for stack in STACKS for n in stack.branches)
    assert len(seen) == len(set(seen)) == n_baskets


def test_the_same_branch_may_be_in_two_stacks(path: Path) -> None:
    stacks = [Stack("a", ("Jet_pt",), 2), Stack("b", ("Jet_pt",), 9), Stack("n", ("nJet_pt",))]
    with reader(str(path), stacks, tree="Events") as found:
        tensors = found.read(5, 95)
    two, nine, number = (tensors.values[name][0] for name in "abn")
    np.testing.assert_array_equal(two, nine[:, :2])
    np.testing.assert_array_equal(tensors.lengths["a"], number)
    np.testing.assert_array_equal(np.isfinite(nine).sum(axis=1), np.minimum(number, 9))


@rntuples
def test_fields_of_an_rntuple(tmp_path: Path) -> None:
    path = tmp_path / "tuple.root"
    muons = ak.zip({"pt": EVENTS["Muon_pt"], "charge": EVENTS["Muon_charge"]})
    kept = {name: EVENTS[name] for name in (*FLAT, *JETS)}
    with uproot.recreate(path) as file:
        file.mkrntuple("Events", kept | {"Muon": muons})
    stacks = [*STACKS[:2], Stack("muons", ("Muon.pt", "Muon.charge"), slots=5)]
    with reader(str(path), stacks) as found:
        for batch in found.batches(7, N_EVENTS, size=70, reuse=True):
            assert_same(batch)


def test_arrays_of_fixed_size_come_through_awkward(tmp_path: Path) -> None:
    path = tmp_path / "fixed.root"
    values = np.arange(12.0).reshape(4, 3)
    with uproot.recreate(path) as file:
        file.mktree("t", {"x": np.dtype(("f8", (3,)))})
        file["t"].extend({"x": values})
    with reader(str(path), [Stack("x", ("x",), 2), Stack("y", ("x",), 4)]) as found:
        tensors = found.read(1)
    np.testing.assert_array_equal(tensors.values["x"][0], values[1:, :2])
    np.testing.assert_array_equal(tensors.values["y"][0, :, :3], values[1:])
    assert np.isnan(tensors.values["y"][0, :, 3]).all()
    assert tensors.lengths["x"].tolist() == [3, 3, 3]


def test_numbers_beyond_float32_become_infinite(tmp_path: Path) -> None:
    path = tmp_path / "large.root"
    with uproot.recreate(path) as file:
        file["t"] = {"x": np.array([1e300, 1.0]), "y": ak.Array([[-1e300], [2.0, np.nan]])}
    with reader(str(path), [Stack("x", ("x",)), Stack("y", ("y",), 2)]) as found:
        tensors = found.read()
    np.testing.assert_array_equal(tensors.values["x"], [[np.inf, 1.0]])
    np.testing.assert_array_equal(tensors.values["y"], [[[-np.inf, np.nan], [2.0, np.nan]]])
    assert tensors.lengths["y"].tolist() == [1, 2]


def test_empty_tree(tmp_path: Path) -> None:
    path = tmp_path / "empty.root"
    with uproot.recreate(path) as file:
        file.mktree("t", {"x": np.dtype("f4"), "y": EVENTS["Jet_pt"].type.content})
    with reader(str(path), [Stack("x", ("x",)), Stack("y", ("y",), 2)]) as found:
        assert list(found.batches(size=5)) == []
        tensors = found.read()
    assert tensors.values["y"].shape == (1, 0, 2)
    assert tensors.lengths["y"].shape == (0,)


@pytest.mark.parametrize(
    ("stacks", "message"),
    [
        ([Stack("a", ("Jet_Pt",), 2)], ':Events has no branch "Jet_Pt": did you mean "Jet_pt"?'),
        (
            [Stack("a", ("Jet_pt",))],
            'branch "Jet_pt" has a list in each event, and "a" has no slots: give',
        ),
        (
            [Stack("a", ("met",), 2)],
            'branch "met" has one number in each event, and "a" has slots for',
        ),
        ([Stack("a", ("met",)), Stack("a", ("event",))], "two stacks have the same name"),
        ([Stack("a", ("Jet_pt", "Muon_pt"), 2)], 'not as many items as "Jet_pt" in each of the'),
    ],
)
def test_branches_that_do_not_fit(path: Path, stacks: list[Stack], message: str) -> None:
    with (
        pytest.raises(InputError) as caught,
        reader(str(path), stacks, tree="Events") as found,
    ):
        found.read()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", ()), 'stack "a" has no branches'),
        (("a", ("x", "y", "x")), 'stack "a" has branch "x" twice'),
        (("a", ("x",), 0), 'stack "a" has 0 slots'),
        (("a", ("x",), 1, "int32"), 'stack "a" has dtype int32: it may be float32 or float64'),
    ],
)
def test_stacks_check_themselves(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Stack(*arguments)


@rntuples
def test_what_is_no_number_is_said(tmp_path: Path) -> None:
    path = tmp_path / "text.root"
    deep = ak.Array([[[1.0], []], [[2.0]]])
    with uproot.recreate(path) as file:
        file.mkrntuple("t", {"name": ak.Array(["a", "b"]), "deep": deep})
    for stack, message in (
        (Stack("a", ("name",)), 'branch "name" has no numbers but string: leave it out'),
        (Stack("a", ("deep",), 2), 'branch "deep" has lists of lists in each event'),
    ):
        with pytest.raises(InputError, match=message), reader(str(path), [stack]) as found:
            found.read()


def test_branch_with_fewer_events_than_its_tree(unaligned: Unaligned) -> None:
    longer = replace(unaligned, num_entries=N_EVENTS + 1)
    with pytest.raises(InputError, match="has 300 of the tree's 301 events: leave it out"):
        Reader(longer, STACKS)


def test_ranges_and_settings_that_make_no_sense(path: Path) -> None:
    with reader(str(path), STACKS, tree="Events") as found:
        with pytest.raises(InputError, match=f"has no events 4 to 301: it has {N_EVENTS}"):
            found.read(4, 301)
        with pytest.raises(InputError, match="a batch of 0 events is none"):
            found.batches(size=0)
    with (
        pytest.raises(InputError, match="0 threads read nothing"),
        reader(str(path), STACKS, tree="Events", threads=0),
    ):
        pass


def test_tree_has_to_be_named_where_there_are_several(path: Path, tmp_path: Path) -> None:
    for name, message in (
        (None, "has 3 trees, Events, jets, rest: name the one to be read"),
        ("Event", 'has no tree "Event": did you mean "Events"?'),
    ):
        with pytest.raises(InputError) as caught, reader(str(path), STACKS, tree=name):
            pass
        assert message in str(caught.value)
    with uproot.recreate(tmp_path / "none.root") as file:
        file["text"] = "no tree"
    with (
        pytest.raises(InputError, match=r"none\.root has no tree"),
        reader(str(tmp_path / "none.root"), STACKS),
    ):
        pass


@pytest.mark.parametrize("kept", [0, 50, 5_000])
def test_truncated_file(path: Path, tmp_path: Path, kept: int) -> None:
    broken = tmp_path / "broken.root"
    broken.write_bytes(path.read_bytes()[:kept])
    with (
        pytest.raises(UnreadableFile, match=r"broken\.root"),
        reader(str(broken), STACKS, tree="Events") as found,
    ):
        found.read()


def test_missing_file(tmp_path: Path) -> None:
    with (
        pytest.raises(UnreadableFile, match=r"none\.root cannot be read"),
        reader(str(tmp_path / "none.root"), STACKS),
    ):
        pass


@pytest.mark.parametrize("codec", ["ZLIB", "LZ4", "ZSTD"])
def test_damaged_basket(tmp_path: Path, codec: str) -> None:
    path = write(tmp_path / "nano.root", getattr(uproot, codec)(1))
    with opened(str(path)) as file:
        branch = file["Events"]["Jet_flavour"]
        seek = int(branch.member("fBasketSeek")[1]) + branch.basket_compressed_bytes(1) - 60
    damaged = bytearray(path.read_bytes())
    damaged[seek : seek + 50] = bytes(50)
    path.write_bytes(damaged)
    with reader(str(path), STACKS, tree="Events") as found:
        assert_same(found.read(0, 90))
        with pytest.raises(UnreadableFile, match=r'branch "Jet_flavour" is damaged'):
            found.read(80, 100)


def test_lengths_of_the_first_branch_stand_in_for_offsets(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, without = unpacked, []

    def counted(*args: Any, offsets: bool) -> Any:
        without.append(not offsets)
        return read(*args, offsets=offsets)

    monkeypatch.setattr(baskets, "unpacked", counted)
    jets = ak.zip(
        {"pt": EVENTS["Jet_pt"], "tag": EVENTS["Jet_tag"], "flavour": EVENTS["Jet_flavour"]}
    )
    path = path.with_name("zipped.root")
    with uproot.recreate(path) as file:
        file.mktree("Events", {"Jet": jets.type.content})
        for start in range(0, N_EVENTS, 100):
            file["Events"].extend({"Jet": jets[start : start + 100]})
    stack = Stack("jets", JETS, slots=3)
    with reader(str(path), [stack]) as found:
        for start, stop, n_without in ((0, N_EVENTS, 6), (0, 150, 4), (100, 200, 2), (110, 190, 0)):
            tensors = found.read(start, stop)
            np.testing.assert_array_equal(
                tensors.values["jets"], EXPECTED["jets"][:, start:stop], strict=True
            )
            assert sum(without) == n_without
            without.clear()
        for batch in found.batches(40, N_EVENTS, size=70):
            part = slice(batch.start, batch.stop)
            np.testing.assert_array_equal(batch.values["jets"], EXPECTED["jets"][:, part])


def test_items_that_are_not_those_of_the_lengths(path: Path) -> None:
    with opened(str(path)) as file:
        [column] = columns.columns_of(file["Events"], [Stack("jets", ("Jet_pt",), slots=3)])
    first, last = column.edges[:2]
    lengths = np.ones(last, np.int32)
    whole = Tensors(first, last, {"jets": np.empty((1, last, 3), np.float32)}, {"jets": lengths})
    for n_items, batch in ((last - 1, whole), (last + 1, whole), (20, whole.part(0, 30))):
        items = np.zeros(4 * n_items, np.uint8)
        basket = Basket(items, None, False, items)
        with pytest.raises(UnreadableFile, match="basket 0 does not hold what it says"):
            columns.lay_out(column, 0, basket, batch)


def test_counts_stand_in_for_offsets(unaligned: Unaligned) -> None:
    [column] = columns.columns_of(unaligned, [Stack("jets", ("Jet_pt",), slots=3)])
    first, last = column.edges[1:3]
    basket = SimpleNamespace(byte_offsets=None, data=column.branch.basket(1).data)
    batch = Tensors(
        first,
        last,
        {"jets": np.empty((1, last - first, 3), np.float32)},
        {"jets": np.empty(last - first, np.int32)},
    )
    columns.lay_out(column, 1, basket, batch)
    np.testing.assert_array_equal(batch.values["jets"], EXPECTED["jets"][:1, first:last])


def test_uproot_need_not_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(with_uproot, "import_module", absent)
    with pytest.raises(InputError, match=r"read by uproot: install hepdask-ml\[data\]"):
        with_uproot.library()


# Files that nobody of this project wrote.

REAL = {
    "nanoAOD_2015_CMS_Open_Data_ttbar.root": "Events",
    "nano_dy.root": "Events",
    "nano_dimuon.root": "Events",
    "PHYSLITE_example.root": "CollectionTree",
    "uproot-HZZ.root": "events",
}


def numbers(tree: Any) -> Iterator[Stack]:
    """A stack of each branch of plain numbers."""
    for name, branch in tree.iteritems(recursive=True):
        kind = branch.interpretation
        jagged = isinstance(kind, uproot.AsJagged)
        content = kind.content if jagged else kind
        if type(content) is uproot.AsDtype and content.from_dtype.names is None:
            yield Stack(name, (name,), 3 if jagged else None, "float64")


@made_up.real_data
@pytest.mark.parametrize("name", REAL)
def test_published_files(name: str) -> None:
    path = made_up.DATA / "root" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with opened(str(path)) as file:
        tree = file[REAL[name]]
        stacks = list(numbers(tree))
        assert len(stacks) > 40
        arrays = {stack.name: tree[stack.name].array() for stack in stacks}
        expected = users_loop(arrays, stacks)
        size = tree.num_entries // 3 + 1
        for batch in Reader(tree, stacks, path=path).batches(size=size):
            part = slice(batch.start, batch.stop)
            for stack in stacks:
                np.testing.assert_array_equal(
                    batch.values[stack.name], expected[stack.name][:, part], err_msg=stack.name
                )
                if stack.slots is not None:
                    lengths = ak.num(arrays[stack.name])[part]
                    np.testing.assert_array_equal(batch.lengths[stack.name], lengths)


@made_up.real_data
def test_what_cannot_be_read_of_a_published_file_is_said() -> None:
    path = made_up.DATA / "root" / "PHYSLITE_example.root"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    reasons = set()
    with opened(str(path)) as file:
        tree = file["CollectionTree"]
        plain = {stack.name for stack in numbers(tree)}
        for name in set(tree.keys()) - plain:
            with pytest.raises(InputError) as caught:
                Reader(tree, [Stack("x", (name,), slots=2)]).read(0, 5)
            reasons.add(str(caught.value).partition('" ')[2][:14])
    assert reasons == {"has no numbers", "has lists of l"}
