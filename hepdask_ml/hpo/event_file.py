"""TensorBoard's event files: numbers by step, and what a run was, one record after the other.

A record is a length, a message of protocol buffers, and a checksum of each; a message begins with
the time, in nine bytes.  All else of it is a function of what is told, so that a record which is
there already is known by its bytes: to write the same again writes nothing.  So a file needs no
library, no reader of messages, and no second file that says how far it is.

References
----------
``tensorflow/core/lib/io/record_writer.h`` and ``tensorflow/core/util/event.proto`` of TensorFlow,
``tensorboard/plugins/hparams/plugin_data.proto`` of TensorBoard.
"""

from __future__ import annotations

import os
import struct
from fcntl import LOCK_EX, flock
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

NAME = "events.out.tfevents.0.hepdask-ml"
"""Name of a file: TensorBoard looks for the word in its middle."""

SUCCESS, FAILURE = 1, 2
"""How a run ended."""

_TIME = 9
"""Bytes of the time, the first field of a message."""

_CASTAGNOLI = 0x82F63B78
_MASK = 0xA282EAD8


class Event(NamedTuple):
    """Something that is told of a run.

    Attributes
    ----------
    at : float
        When it happened, in seconds of Unix time.
    body : bytes
        What: the message without its time.
    """

    at: float
    body: bytes


def head(at: float) -> Event:
    """Give what a file begins with."""
    return Event(at, _text(3, "brain.Event:2"))


def scalar(tag: str, value: float, step: int, at: float) -> Event:
    """Give a number.

    Parameters
    ----------
    tag : str
        Its name.
    value : float
        The number, of which four bytes are kept.
    step : int
        Its place on the axis.
    at : float
        When, in seconds of Unix time.

    Returns
    -------
    Event
        For `append`.
    """
    number = _text(1, tag) + _key(2, 5) + struct.pack("<f", _single(value))
    return Event(at, _key(2, 0) + _varint(step) + _message(5, _message(1, number)))


def started(params: Mapping[str, Any], group: str, at: float) -> Event:
    """Give the parameters of a run.

    Parameters
    ----------
    params : mapping of str
        Numbers, truth values, and whatever else, which is shown as text.
    group : str
        Name of the run.
    at : float
        When it started, in seconds of Unix time.

    Returns
    -------
    Event
        For `append`.
    """
    entries = b"".join(
        _message(1, _text(1, name) + _message(2, _value(value))) for name, value in params.items()
    )
    return _about("_hparams_/session_start_info", _message(3, entries + _text(4, group)), at)


def ended(status: int, at: float) -> Event:
    """Give how a run ended.

    Parameters
    ----------
    status : int
        `SUCCESS` or `FAILURE`.
    at : float
        When, in seconds of Unix time.

    Returns
    -------
    Event
        For `append`.
    """
    return _about("_hparams_/session_end_info", _message(4, _key(1, 0) + _varint(status)), at)


def append(path: Path, events: Iterable[Event]) -> int:
    """Write events that a file does not hold yet to its end.

    What a writer that was killed left of a record is cut off.  Several processes may do this at a
    time.

    Parameters
    ----------
    path : Path
        The file; it is made if it is not there, with its folder.
    events : iterable of Event
        What it should hold.

    Returns
    -------
    int
        How many were new.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        flock(file, LOCK_EX)
        whole = list(_records(file))
        known = {body for body, _ in whole}
        file.seek(whole[-1][1] if whole else 0)
        file.truncate()
        new = 0
        for at, body in events:
            if body not in known:
                known.add(body)
                file.write(_record(_key(1, 1) + struct.pack("<d", at) + body))
                new += 1
    return new


def _records(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Give each whole record without its time, and where it ends."""
    while len(length := file.read(8)) == 8:
        checksum = file.read(4)
        if checksum != _checksum(length):
            return
        (size,) = struct.unpack("<Q", length)
        data = file.read(size)
        if len(data) < size or file.read(4) != _checksum(data):
            return
        yield data[_TIME:], file.tell()


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _about(tag: str, content: bytes, at: float) -> Event:
    """Give what TensorBoard's page of hyperparameters reads."""
    plugin = _text(1, "hparams") + _message(2, content)
    value = _text(1, tag) + _message(9, _message(1, plugin))
    return Event(at, _message(5, _message(1, value)))


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return _key(4, 0) + _varint(value)
    if isinstance(value, (int, float)):
        return _key(2, 1) + struct.pack("<d", value)
    return _text(3, str(value))


def _single(value: float) -> float:
    """Give a number that has room in four bytes; one that is too large becomes infinite."""
    try:
        struct.pack("<f", value)
    except OverflowError:
        return float("inf") if value > 0.0 else float("-inf")
    return value


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _text(number: int, text: str) -> bytes:
    return _message(number, text.encode())


def _message(number: int, content: bytes) -> bytes:
    return _key(number, 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _checksum(data: bytes) -> bytes:
    """Give the CRC-32C of some bytes, masked as records have it."""
    rest = 0xFFFFFFFF
    for byte in data:
        rest = rest >> 8 ^ _REMAINDERS[(rest ^ byte) & 0xFF]
    crc = rest ^ 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_CASTAGNOLI if byte & 1 else 0)
    return byte


_REMAINDERS = tuple(map(_remainder, range(256)))
