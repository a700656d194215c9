"""What a process of a gang does to be one: it arrives, joins, speaks and listens.

Its leader is in `hepdask_ml.facility.gang`.  The two speak in lines of JSON.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

    Message = dict[str, Any]

LEAVE = b"leave\n"
"""What a worker that closes writes into the pipe to its member."""

_SEND_S = 10.0
_MOST_BYTES = 64 << 20
_SILENCE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


@dataclass(eq=False, slots=True)
class Arrived:
    """What a member is, as it sees itself, before and after it has joined.

    Attributes
    ----------
    payload : bytes
        What the leader gives every member.
    host : str
        Address at which the others can reach this machine.
    index, beside : int
        Which of how many members on this machine it is, that know of each other.
    threads : int
        Processors that are for it.
    messages : queue.Queue
        What the leader says.
    """

    payload: bytes
    host: str
    index: int
    beside: int
    threads: int
    messages: queue.Queue[Message]
    _note: Message
    _connection: socket.socket | None = None

    def join(self, **said: Any) -> None:
        """Connect to the leader; from now on this process ends when the leader does.

        Parameters
        ----------
        **said
            What the leader is told at once; ``fault="..."`` says why this process cannot join.
        """
        try:
            self._connection = socket.create_connection(tuple(self._note["leader"]), _SEND_S)
        except OSError:
            _leave()  # the leader has gone, or does not wait any more
        self._connection.settimeout(None)
        keep_alive(self._connection)
        self.say(secret=self._note["secret"], end=self._note["end"], **said)
        threading.Thread(target=self._hear, daemon=True).start()

    def say(self, **message: Any) -> None:
        """Tell the leader something."""
        if self._connection is not None:
            with suppress(OSError):
                self._connection.sendall(line(message))

    def _hear(self) -> None:
        received = bytearray()
        while self._connection is not None and read(self._connection, received):
            for message in messages(received):
                self.messages.put(message)
        _leave()

    def _watch(self) -> None:
        """Look after the pipe to the worker."""
        for said in sys.stdin.buffer:
            if said == LEAVE:
                self.say(leaving=True)
        _leave()


def arrive() -> Arrived:
    """Begin as a member of a gang: the first call of its ``main()``.

    Returns
    -------
    Arrived
        What this process is to do.
    """
    # The worker hears these, too, and says what is to be done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    note = json.loads(sys.stdin.buffer.readline())
    payload = sys.stdin.buffer.read(note["bytes"])
    if len(payload) < note["bytes"]:
        _leave()
    fields = {name: note[name] for name in ("host", "index", "beside", "threads")}
    arrived = Arrived(payload, messages=queue.Queue(), _note=note, **fields)
    threading.Thread(target=arrived._watch, daemon=True).start()
    return arrived


def _leave() -> NoReturn:
    """End this process, whatever its other threads are at."""
    os._exit(0)


def keep_alive(connection: socket.socket) -> None:
    """Notice within half a minute that the other machine is gone without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SILENCE.items():
        if hasattr(socket, name):  # macOS has not all of them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def line(message: Message) -> bytes:
    """Write a message."""
    return json.dumps(message).encode() + b"\n"


def read(connection: socket.socket, received: bytearray) -> bool:
    """Read what is there; say whether there may be more."""
    try:
        piece = connection.recv(1 << 16)
    except (BlockingIOError, TimeoutError):
        return True
    except OSError:
        return False
    received += piece
    return bool(piece) and len(received) < _MOST_BYTES


def messages(received: bytearray) -> Iterator[Message]:
    """Take the lines that are whole."""
    while (stop := received.find(b"\n")) >= 0:
        whole = bytes(received[:stop])
        del received[: stop + 1]
        with suppress(ValueError):
            message = json.loads(whole)
            if isinstance(message, dict):
                yield message
