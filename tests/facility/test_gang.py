"""A gang is of those that could join, and ends as a whole."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import dask
import psutil
import pytest
from distributed import Client, LocalCluster
from facility.made_up_member import NAME
from stories.work import wait_for

from hepdask_ml.errors import WorkerFault
from hepdask_ml.facility import gang as gangs
from hepdask_ml.facility.gang import BUSY, Gang, Member, gathered
from hepdask_ml.facility.member import messages
from hepdask_ml.facility.node import End

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hepdask_ml.facility.member import Message

TESTS = Path(__file__).parents[1]


def never() -> bool:
    return False


def hear(gang: Gang, number: int) -> list[tuple[Member, Message | None]]:
    """Wait for so many messages."""
    heard: list[tuple[Member, Message | None]] = []
    deadline = monotonic() + 60.0
    while len(heard) < number and monotonic() < deadline:
        heard += gang.receive(1.0)
    return heard


def pids(gang: Gang) -> list[int]:
    return [member.said["pid"] for member in gang.members]


def gone(process: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    return True


def test_members_hear_and_say() -> None:
    with gathered(NAME, b"x" * 300_000, 3, never) as gang:
        assert len(gang.members) == 3
        assert not gang.refusals
        assert gang.ends == float("inf")
        for i, member in enumerate(gang.members):
            gang.send(member, {"number": i})
        heard = dict(hear(gang, 3))
        for i, member in enumerate(gang.members):
            assert heard[member] == {"heard": {"number": i}, "index": i, "payload": 300_000}
        processes = pids(gang)
    assert all(map(gone, processes))


def test_the_last_word_of_a_member_is_none() -> None:
    with gathered(NAME, b"", 2, never) as gang:
        first, second = gang.members
        os.kill(first.said["pid"], signal.SIGKILL)
        assert hear(gang, 1) == [(first, None)]
        gang.send(first, {"said": "in vain"})
        gang.send(second, {"leave": True})
        assert hear(gang, 1) == [(second, None)]


@pytest.mark.parametrize(
    ("payload", "members", "refusals"),
    [
        (b"one at most", 1, {"one is enough"}),
        (b"die", 0, {"its process ended with status 3"}),
    ],
)
def test_who_cannot_join_is_left_out(payload: bytes, members: int, refusals: set[str]) -> None:
    with gathered(NAME, payload, 2, never) as gang:
        assert len(gang.members) == members
        assert set(gang.refusals) == refusals


def test_who_does_not_join_in_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gangs, "JOIN_S", 0.2)
    with gathered(NAME, b"deaf", 1, never) as gang:
        assert not gang.members
    with gathered(NAME, b"deaf", 1, lambda: True) as gang:
        assert not gang.members


def test_strangers_are_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    strangers = []
    started = gangs._started

    def start_beside(module: str, note: Message, payload: bytes) -> Any:
        for line in (b'{"secret": "guessed"}\n', b"GET / HTTP/1.0\n", b"[]\n", b"\xff" * 20_000):
            stranger = socket.create_connection(tuple(note["leader"]))
            stranger.sendall(line)
            strangers.append(stranger)
        return started(module, note, payload)

    monkeypatch.setattr(gangs, "_started", start_beside)
    with gathered(NAME, b"", 1, never) as gang:
        assert len(gang.members) == 1
    for stranger in strangers:
        with stranger, suppress(ConnectionResetError):
            assert stranger.recv(1) == b""


def test_members_end_with_the_process_that_leads() -> None:
    leader = subprocess.Popen(
        [sys.executable, "-m", NAME, "2"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    with leader:
        assert leader.stdout is not None
        members = [int(word) for word in leader.stdout.readline().split()]
        assert len(members) == 2
        assert not any(map(gone, members))
        leader.kill()
    wait_for(lambda: all(map(gone, members)), "the members to end")


def test_an_address_that_is_not_ours_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # An address for documentation (RFC 5737), which no machine has.
    monkeypatch.setattr(gangs, "_host_of", lambda worker: "203.0.113.1")
    with (
        pytest.raises(WorkerFault, match=r"a gang cannot be led from 203\.0\.113\.1.*--host"),
        gathered(NAME, b"", 1, never),
    ):
        pass


def test_members_use_the_network_of_the_address() -> None:
    assert gangs._interface("127.0.0.1") in ("lo", "lo0")
    assert gangs._interface("203.0.113.1") == ""


@contextmanager
def workers(number: int) -> Iterator[tuple[Client, list[str]]]:
    """Give a client and the addresses of workers, which are threads of this process."""
    with (
        dask.config.set(scheduler=None),  # workers that ask for a client set it, in this process
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=number, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        yield client, sorted(client.nthreads())


@pytest.fixture(scope="module")
def three() -> Iterator[tuple[Client, list[str]]]:
    with workers(3) as three:
        yield three


def lead(size: int) -> list[tuple[Any, ...]]:
    """Form a gang as a task; give its members, and last the refusals."""
    with gathered(NAME, b"", size, never) as gang:
        members = [(each.host, each.said["threads"], each.said["end"]) for each in gang.members]
        return [*members, gang.refusals]


def led(client: Client, worker: str, size: int) -> list[tuple[Any, ...]]:
    """Give what `lead` gives on a worker."""
    found: list[tuple[Any, ...]] = client.submit(lead, size, workers=[worker], pure=False).result()
    return found


def test_each_worker_holds_one_member(three: tuple[Client, list[str]]) -> None:
    client, workers = three
    each = [(worker, 2, None) for worker in workers]
    assert led(client, workers[0], 2) == [*each[:2], ()]
    assert led(client, workers[1], 9) == [each[1], each[0], each[2], ()]
    assert led(client, workers[2], 1) == [each[2], ()]


def test_a_seat_is_taken_once(three: tuple[Client, list[str]]) -> None:
    client, (first, second, third) = three
    with gangs._seat(second) as free:
        assert free
        assert led(client, first, 3) == [(first, 2, None), (third, 2, None), (BUSY,)]
        with gangs._seat(first):
            assert led(client, first, 3) == [(third, 2, None), (BUSY, BUSY)]
    assert len(led(client, first, 3)) == 4


def test_who_has_no_time_left_is_not_taken(
    three: tuple[Client, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, (first, second, third) = three
    monkeypatch.setattr(gangs, "_end_of", lambda lifetime_s: End(1e9, "declared"))
    refusals = tuple(f"worker {worker} has no time left" for worker in (second, third))
    assert led(client, first, 3) == [(first, 2, None), refusals]


def lead_until_one_speaks(ready: str) -> list[Message | None]:
    with gathered(NAME, b"", 2, never) as gang:
        Path(ready).touch()
        return [message for _, message in hear(gang, 1)]


def test_a_member_says_that_its_worker_closes(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    with workers(2) as (client, (first, second)):
        future = client.submit(lead_until_one_speaks, str(ready), workers=[first])
        wait_for(ready.exists, "the gang")
        client.retire_workers([second], close_workers=True)
        assert future.result() == [{"leaving": True}]


def test_a_message_that_is_cut_is_waited_for() -> None:
    received = bytearray(b'{"a": 1}\nnonsense\n[1]\n{"b"')
    assert list(messages(received)) == [{"a": 1}]
    received += b": 2}\n"
    assert list(messages(received)) == [json.loads('{"b": 2}')]
