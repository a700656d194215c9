"""Events read through XRootD are those of the local file, whatever happens to the servers."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from xrootd.servers import Server, Servers

from hepdask_ml.data.baskets import reader
from hepdask_ml.data.stacks import Stack
from hepdask_ml.data.streams import Stream, events
from hepdask_ml.data.tensors import tensors
from hepdask_ml.errors import InputError

uproot: Any = pytest.importorskip("uproot")
ak: Any = pytest.importorskip("awkward")

pytestmark = [pytest.mark.xrootd, pytest.mark.timeout(60)]

N_EVENTS = 20_000
SIZE = 1_000
BRANCHES = ("MET_pt", "Jet_pt", "event")
STACKS = [Stack("event", ("MET_pt", "event"), dtype="float64"), Stack("jets", ("Jet_pt",), slots=3)]


def write(path: Path, first: int = 0) -> Path:
    """A tree whose baskets hold as many events as a part of a stream."""
    rng = np.random.default_rng(first)
    n_jets = rng.poisson(2.5, N_EVENTS)
    arrays = {
        "MET_pt": rng.exponential(30.0, N_EVENTS).astype("f4"),
        "Jet_pt": ak.unflatten(rng.exponential(40.0, n_jets.sum()).astype("f4"), n_jets),
        "event": first + np.arange(N_EVENTS),
    }
    kinds = {
        name: array.dtype if isinstance(array, np.ndarray) else array.type.content
        for name, array in arrays.items()
    }
    with uproot.recreate(path, compression=uproot.ZSTD(1)) as file:
        file.mktree("Events", kinds)
        for start in range(0, N_EVENTS, SIZE):
            part = {name: array[start : start + SIZE] for name, array in arrays.items()}
            file["Events"].extend(part)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("xrootd") / "a.root")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("xrootd") / "b.root", N_EVENTS)


def stream(files: Any, **options: Any) -> Stream[Any]:
    return events(files, BRANCHES, tree="Events", **{"size": SIZE, "timeout": 2.0, **options})


def in_order(parts: Iterator[Any]) -> Any:
    return ak.concatenate(list(parts))


def assert_same(found: Any, *paths: Path) -> None:
    expected = ak.concatenate(
        [uproot.open({path: "Events"}).arrays(list(BRANCHES)) for path in paths]
    )
    assert ak.array_equal(found, expected)


def test_tensors_are_those_of_the_local_file(servers: Servers, path: Path) -> None:
    server = servers.data(path)
    with reader(server.url("a.root"), STACKS) as remote, reader(str(path), STACKS) as local:
        for found, expected in zip(
            remote.batches(size=1_700), local.batches(size=1_700), strict=True
        ):
            for name in ("event", "jets"):
                np.testing.assert_array_equal(found.values[name], expected.values[name])


def test_a_pattern_finds_the_files_of_a_server(servers: Servers, path: Path, other: Path) -> None:
    server = servers.data(path, other)
    assert_same(in_order(iter(stream(server.url("*.root")))), path, other)
    with pytest.raises(InputError, match="no file has a name like"):
        stream(server.url("c*.root"))


def test_a_logical_name_goes_through_a_redirector(servers: Servers, path: Path) -> None:
    redirector = servers.redirector(servers.data(path))
    found = stream("/store/a.root", redirectors=redirector.address)
    assert found.sources[0].url == redirector.url("a.root")
    assert_same(in_order(iter(found)), path)


def test_the_next_redirector_is_asked_if_one_is_dead(servers: Servers, path: Path) -> None:
    first = servers.data(path)
    dead, living = servers.redirector(first), servers.redirector(first)
    dead.kill()
    found = stream("/store/a.root", redirectors=(dead.address, living.address))
    assert_same(in_order(iter(found)), path)


def test_a_file_that_a_server_does_not_have_is_named(servers: Servers, path: Path) -> None:
    server = servers.data(path)
    with pytest.raises(InputError, match=r"//store/c\.root") as said:
        list(stream(server.url("c.root"), attempts=1))
    assert "\n" not in str(said.value)


def test_a_replica_serves_where_another_is_cut_off(
    servers: Servers, path: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "a.root"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    copies = [servers.data(cut).url("a.root"), servers.data(path).url("a.root")]
    assert_same(in_order(iter(stream([copies]))), path)


def after(parts: Iterator[Any], n: int, happens: Any) -> Iterator[Any]:
    """Let something happen when so many parts have come."""
    for i, part in enumerate(parts):
        if i == n:
            happens()
        yield part


@pytest.mark.parametrize("fate", [Server.kill, Server.hang])
def test_a_replica_goes_on_where_a_server_fails(servers: Servers, path: Path, fate: Any) -> None:
    first, second = servers.data(path), servers.data(path)
    found = stream([[first.url("a.root"), second.url("a.root")]])
    assert_same(in_order(after(iter(found), 5, lambda: fate(first))), path)
    assert not found.skipped


@pytest.mark.parametrize("fate", [Server.kill, Server.hang])
def test_a_server_that_fails_is_said_in_one_sentence(
    servers: Servers, path: Path, fate: Any
) -> None:
    server = servers.data(path)
    with pytest.raises(InputError, match=server.url("a.root")) as said:
        list(after(iter(stream(server.url("a.root"), attempts=2)), 5, lambda: fate(server)))
    assert "tried 2 times" in str(said.value)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("fate", [Server.kill, Server.hang])
def test_what_a_failed_server_does_not_give_is_passed_over_by_name(
    servers: Servers, path: Path, other: Path, fate: Any
) -> None:
    failing, whole = servers.data(path), servers.data(other)
    found = stream([failing.url("a.root"), whole.url("b.root")], unreadable="skip", attempts=2)
    parts = in_order(after(iter(found), 5, lambda: fate(failing)))
    [skipped] = found.skipped
    assert (skipped.url, skipped.stop) == (failing.url("a.root"), N_EVENTS)
    missing = np.arange(skipped.start, N_EVENTS)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([parts.event, missing])), np.arange(2 * N_EVENTS)
    )


def test_a_server_that_comes_back_is_used_again(servers: Servers, path: Path) -> None:
    server = servers.data(path)

    def restart() -> None:
        server.kill()
        server.start_later(0.5)

    found = stream(server.url("a.root"), attempts=5)
    assert_same(in_order(after(iter(found), 5, restart)), path)


def test_a_server_that_dies_before_it_is_asked_costs_only_its_files(
    servers: Servers, path: Path, other: Path
) -> None:
    dead, living = servers.data(path), servers.data(other)
    dead.kill()
    found = stream([dead.url("a.root"), living.url("b.root")], unreadable="skip", attempts=2)
    assert_same(in_order(iter(found)), other)
    assert [skipped.url for skipped in found.skipped] == [dead.url("a.root")]


def test_workers_go_on_with_a_replica(servers: Servers, path: Path) -> None:
    first, second = servers.data(path), servers.data(path)
    found = stream([[first.url("a.root"), second.url("a.root")]], size=200)
    with (
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        read = found.map(attrgetter("event"), client)
        numbers = np.concatenate(list(after(read, 5, first.kill)))
    np.testing.assert_array_equal(numbers, np.arange(N_EVENTS))
    assert not found.skipped


def test_batches_of_tensors_go_on_with_a_replica(servers: Servers, path: Path) -> None:
    spec = {
        "features": {
            "event": ["event", {"name": "ht", "expression": "sum(Jet_pt)"}],
            "jets": {"branches": ["Jet_pt"], "length": 3},
        }
    }
    first, second = servers.data(path), servers.data(path)
    copies = [first.url("a.root"), second.url("a.root")]
    remote = tensors([copies], spec, size=SIZE, timeout=2.0)
    local = tensors(str(path), spec, size=SIZE)
    for found, expected in zip(after(iter(remote), 5, first.kill), local, strict=True):
        assert (found.start, found.stop) == (expected.start, expected.stop)
        for name, values in expected.inputs.items():
            np.testing.assert_array_equal(found.inputs[name], values)
