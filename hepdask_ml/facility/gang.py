"""Processes on several workers that do one thing together, under one leader.

The *leader* is a thread of a process: of a Dask worker, or of any other.  Its *members* are
processes of their own, one on each *host*: the leader's worker and other workers of its scheduler,
or this machine alone where there is no Dask.  A worker has one *seat*, taken by one member of one
gang at a time, so that gangs that form at once do not share a worker; the one that comes too late
asks the next.

A member gets what it has to know from its own worker, through a pipe, and then connects to the
leader with a secret; so nobody else is listened to.  By these two connections it hears of every
death within a moment: it ends with its worker and with its leader, and the leader notices when it
ends.  Messages are JSON in lines; what they say is no matter of this module.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Protocol

import psutil
from distributed import Status, get_client, get_worker, secede
from distributed.comm.addressing import get_address_host

from hepdask_ml.errors import WorkerFault, words
from hepdask_ml.facility.member import LEAVE, keep_alive, line, messages, read
from hepdask_ml.facility.node import End, end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client, Worker

    from hepdask_ml.facility.member import Message

TASK = "hepdask-ml-member-"
"""Begins the names of the tasks that hold members."""

JOIN_S = 60.0
"""Time in which a member has to be there: torch may be read from a slow disk."""

LAST_S = 30.0
"""A worker with less time left is not asked, and a gang ends before one of its workers does."""

BUSY = "busy"
"""Said by a worker whose seat is taken."""

_LOOPBACK = "127.0.0.1"
_ALIVE = {Status.init, Status.running, Status.paused}
_STEP_S = 0.1
_LOOK_S = 2.0
_FREE_S = 2.0
_PAUSE_S = 0.01
_SEND_S = 10.0
_LONGEST_HELLO = 10_000

# A new interpreter with the modules of this one, wherever these were found.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from importlib import import_module; import_module(sys.argv[1]).main()"
)

_SEATS: set[str] = set()
"""Workers of this process whose seats are taken."""

_SEATS_LOCK = threading.Lock()


@dataclass(eq=False, slots=True)
class Member:
    """A process of a gang, as its leader knows it.

    Attributes
    ----------
    host : str
        Address of its worker; empty on this machine without Dask.
    said : dict
        What it said when it joined.
    """

    host: str
    said: Message
    connection: socket.socket
    received: bytearray = field(default_factory=bytearray)


class Gang:
    """The members that have joined; used from one thread.

    Attributes
    ----------
    host : str
        Address of the leader's worker; empty without Dask.
    members : list of Member
        In the order in which they were asked, that of the leader's own worker first.
    refusals : tuple of str
        Why those that were asked are not among them.
    """

    def __init__(self, host: str, members: list[Member], refusals: tuple[str, ...]) -> None:
        self.host = host
        self.members = members
        self.refusals = refusals
        self._selector = selectors.DefaultSelector()
        for member in members:
            self._selector.register(member.connection, selectors.EVENT_READ, member)

    @property
    def ends(self) -> float:
        """Unix time at which the first of the members' workers is ended; infinite if none is."""
        known = [member.said["end"] for member in self.members]
        return min((at for at in known if at is not None), default=float("inf"))

    def send(self, member: Member, message: Message) -> None:
        """Tell a member something; if it has gone, `receive` will say so."""
        with suppress(OSError):
            member.connection.sendall(line(message))

    def receive(self, patience_s: float) -> list[tuple[Member, Message | None]]:
        """Give what members say, as soon as one does; None is the last word of each."""
        heard: list[tuple[Member, Message | None]] = []
        for key, _ in self._selector.select(patience_s):
            member: Member = key.data
            more = read(member.connection, member.received)
            heard += [(member, message) for message in messages(member.received)]
            if not more:
                self._selector.unregister(member.connection)
                heard.append((member, None))
        return heard

    def close(self) -> None:
        """Let all members end."""
        self._selector.close()
        for member in self.members:
            member.connection.close()


@contextmanager
def gathered(module: str, payload: bytes, size: int, enough: Callable[[], bool]) -> Iterator[Gang]:
    """Form a gang; its members end with the block of the ``with`` statement.

    To be called in a Dask task, or in any thread of a process without Dask.

    Parameters
    ----------
    module : str
        What the members are: its ``main()`` is called in a new interpreter, and begins with
        `hepdask_ml.facility.member.arrive`.
    payload : bytes
        What that gives each of them.
    size : int
        Members wanted; on this machine alone, if there is no Dask, as many are there.
    enough : callable
        Whether to stop.

    Yields
    ------
    Gang
        Those that have joined: as many as could, maybe none.

    Raises
    ------
    WorkerFault
        If the others could not reach this worker.
    """
    worker = _worker()
    host = _host_of(worker)
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.create_server((host, 0), family=_family(host)))
        except OSError as error:
            raise WorkerFault(
                f"a gang cannot be led from {host}, the address of this worker ({words(error)}): "
                "start the worker with the address of one of its own network interfaces (--host)"
            ) from None
        address = listener.getsockname()[:2]
        places = _on_workers(worker, size) if worker else iter([partial(_Here, size=size)] * size)
        joined, refusals = _Gathering(listener, module, payload, address, stack).run(
            places, size, enough
        )
        listener.close()
        gang = Gang(worker.address if worker else "", joined, refusals)
        stack.callback(gang.close)
        yield gang


class _Asked(Protocol):
    """A host that was asked for a member."""

    host: str

    def ended(self) -> str | None:
        """Say why there is no member, or no more; None while there may be one."""

    def close(self) -> None:
        """Take the question back, or end the member."""


class _Gathering:
    """Asks hosts, and waits until each has sent its member, or said why not."""

    def __init__(
        self,
        listener: socket.socket,
        module: str,
        payload: bytes,
        address: tuple[str, int],
        stack: ExitStack,
    ) -> None:
        self._listener, self._stack = listener, stack
        self._module, self._payload, self._address = module, payload, address
        self._asked: dict[str, _Asked] = {}  # by secret
        self._joined: dict[str, Member] = {}
        self._refusals: list[str] = []
        self._strangers: dict[socket.socket, bytearray] = {}  # who have not said who they are
        listener.setblocking(False)

    def run(
        self,
        places: Iterator[Callable[[str, Message, bytes], _Asked]],
        size: int,
        enough: Callable[[], bool],
    ) -> tuple[list[Member], tuple[str, ...]]:
        """Give those that have joined, in the order in which they were asked."""
        deadline = monotonic() + JOIN_S
        while True:
            while len(self._asked) < size and (place := next(places, None)) is not None:
                self._ask(place)
            if len(self._joined) == len(self._asked) or monotonic() > deadline or enough():
                break
            self._listen()
            self._drop_ended()
        for stranger in self._strangers:
            stranger.close()
        members = [self._joined[secret] for secret in self._asked if secret in self._joined]
        return members, tuple(self._refusals)

    def _ask(self, place: Callable[[str, Message, bytes], _Asked]) -> None:
        secret = secrets.token_hex(16)
        note = {"leader": self._address, "secret": secret, "index": len(self._asked)}
        try:
            asked = place(self._module, note, self._payload)
        except OSError as error:
            self._refusals.append(words(error))
            return
        self._stack.callback(asked.close)
        self._asked[secret] = asked

    def _drop_ended(self) -> None:
        for secret, asked in list(self._asked.items()):
            if secret not in self._joined and (why := asked.ended()) is not None:
                self._refusals.append(why)
                del self._asked[secret]

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for each in (self._listener, *self._strangers):
                selector.register(each, selectors.EVENT_READ)
            ready = {key.fileobj for key, _ in selector.select(_STEP_S)}
        for stranger in [each for each in self._strangers if each in ready]:
            self._hear(stranger)
        if self._listener in ready:
            with suppress(OSError):
                connection, _ = self._listener.accept()
                connection.settimeout(_SEND_S)
                keep_alive(connection)
                self._strangers[connection] = bytearray()

    def _hear(self, stranger: socket.socket) -> None:
        received = self._strangers[stranger]
        more = read(stranger, received)
        message = next(messages(received), None)
        if message is None and more and len(received) < _LONGEST_HELLO:
            return
        del self._strangers[stranger]
        secret = str((message or {}).get("secret"))
        if message is None or secret not in self._asked or secret in self._joined:
            stranger.close()
        elif "fault" in message:
            stranger.close()
            self._refusals.append(str(message["fault"]))
            self._asked.pop(secret).close()
        else:
            host = self._asked[secret].host
            self._joined[secret] = Member(host, message, stranger, received)


class _Here:
    """A host that is this process."""

    def __init__(
        self, module: str, note: Message, payload: bytes, size: int = 1, worker: str = ""
    ) -> None:
        self.host = worker
        # The processes on one machine share its processors and GPUs.
        share = max(1, _processors() // size)
        note = {**note, "host": note["leader"][0], "end": None, "threads": share, "beside": size}
        if worker:
            note["threads"] = get_worker().state.nthreads
        self._process = _started(module, note, payload)

    def ended(self) -> str | None:
        status = self._process.poll()
        return None if status is None else f"its process ended with status {status}"

    def close(self) -> None:
        _ended(self._process)


class _Seated:
    """The leader's own worker as a host: it has a seat, too."""

    def __init__(self, worker: str, module: str, note: Message, payload: bytes) -> None:
        self.host = worker
        self._seat = ExitStack()
        self._here: _Here | None = None
        if self._seat.enter_context(_seat(worker)):
            self._here = _Here(module, note, payload, worker=worker)

    def ended(self) -> str | None:
        return BUSY if self._here is None else self._here.ended()

    def close(self) -> None:
        if self._here is not None:
            self._here.close()
        self._seat.close()


class _There:
    """Another worker as a host."""

    def __init__(
        self, client: Client, worker: str, module: str, note: Message, payload: bytes
    ) -> None:
        self.host = worker
        self._client, self._next_look = client, monotonic() + _LOOK_S
        self._future = client.submit(
            host,
            module,
            note,
            payload,
            key=f"{TASK}{secrets.token_hex(8)}",
            workers=[worker],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )

    def ended(self) -> str | None:
        if not self._future.done():  # type: ignore[no-untyped-call]
            return f"worker {self.host} has gone" if self._is_gone() else None
        if self._future.status != "finished":
            return f"worker {self.host} cannot hold a member of a gang ({self._future.status})"
        try:
            return str(self._future.result(timeout=_SEND_S))
        except OSError:
            return f"worker {self.host} has gone"

    def close(self) -> None:
        # The next gang is formed at once, and should not find the seat taken.
        deadline = monotonic() + _FREE_S
        while self.ended() is None and monotonic() < deadline:
            sleep(_PAUSE_S)
        self._future.release()  # type: ignore[no-untyped-call]

    def _is_gone(self) -> bool:
        """Look for the worker: Dask lets a pinned task wait for one that never comes back."""
        if monotonic() < self._next_look:
            return False
        self._next_look = monotonic() + _LOOK_S
        return self.host not in self._client.nthreads()  # type: ignore[no-untyped-call]


def host(module: str, note: Message, payload: bytes) -> str:
    """Hold a member on this Dask worker until it ends.

    Parameters
    ----------
    module : str
        What it is.
    note : dict
        What it has to know of its leader.
    payload : bytes
        What its leader gives it.

    Returns
    -------
    str
        Why there is none, or no more: `BUSY` if the seat is taken.
    """
    worker = get_worker()
    # Others may use the worker meanwhile.
    secede()  # type: ignore[no-untyped-call]
    until = _end_of(worker.lifetime)
    if until.left() < LAST_S:
        return f"worker {worker.address} has no time left"
    with _seat(worker.address) as free:
        if not free:
            return BUSY
        note = {
            **note, "host": _host_of(worker), "end": until.at, "index": 0, "beside": 1,
            "threads": worker.state.nthreads,
        }  # fmt: skip
        process = _started(module, note, payload)
        told = False
        try:
            while _lives(process):
                if not told and worker.status not in _ALIVE:
                    _tell(process, LEAVE)
                    told = True
        finally:
            _ended(process)
    return f"its process ended with status {process.returncode}"


def _started(module: str, note: Message, payload: bytes) -> subprocess.Popen[bytes]:
    interface = _interface(note["host"])
    chosen = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 - a string as the others
    process = subprocess.Popen(
        [sys.executable, "-c", _START, module, json.dumps(path)],
        stdin=subprocess.PIPE,
        env={
            **({name: value for name, value in chosen.items() if value}),
            **os.environ,
            "OMP_NUM_THREADS": str(note["threads"]),
            "PYTHONUNBUFFERED": "1",  # it may end at any moment
        },
    )
    _tell(process, line({**note, "bytes": len(payload)}), payload)
    return process


def _tell(process: subprocess.Popen[bytes], *pieces: bytes) -> None:
    if process.stdin is not None:
        with suppress(OSError):
            for piece in pieces:
                process.stdin.write(piece)
            process.stdin.flush()


def _lives(process: subprocess.Popen[bytes]) -> bool:
    """Wait a moment for the end of a process."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STEP_S)
    return process.returncode is None


def _ended(process: subprocess.Popen[bytes]) -> None:
    """End a process: the end of its pipe tells it to, and it has no more to do."""
    process.kill()
    process.wait()
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()


@contextmanager
def _seat(worker: str) -> Iterator[bool]:
    """Take the seat of a worker; say whether it was free."""
    with _SEATS_LOCK:
        free = worker not in _SEATS
        _SEATS.add(worker)
    try:
        yield free
    finally:
        if free:
            _SEATS.discard(worker)


def _worker() -> Worker | None:
    """Give the Dask worker that this thread works for."""
    try:
        return get_worker()
    except ValueError:
        return None


def _host_of(worker: Worker | None) -> str:
    # Workers that are threads of one process are not on the network.
    if worker is None or worker.address.startswith("inproc://"):
        return _LOOPBACK
    return str(get_address_host(worker.address))


def _on_workers(worker: Worker, size: int) -> Iterator[Callable[[str, Message, bytes], _Asked]]:
    """Give hosts: this worker, then others, the near ones first."""
    yield partial(_Seated, worker.address)
    if size == 1:
        return
    client = get_client()
    near = _host_of(worker)
    others = set(client.nthreads()) - {worker.address}  # type: ignore[no-untyped-call]
    for address in sorted(others, key=lambda at: (get_address_host(at) != near, at)):
        yield partial(_There, client, address)


def _processors() -> int:
    """Count the processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _interface(host: str) -> str:
    """Name the network interface of an address; the libraries of gangs ask for that."""
    with suppress(OSError):
        host = str(socket.getaddrinfo(host, None)[0][4][0])
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.partition("%")[0] == host for address in addresses):
            return name
    return ""


@lru_cache(maxsize=1)
def _end_of(lifetime_s: float | None) -> End:
    return end(lifetime_s=lifetime_s)
