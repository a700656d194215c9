"""Waiting no longer than is sensible for what another thread does.

Servers hang, and nothing calls back what waits for them in C.  So each copy of a file is read in a
thread of its own, which makes a step whenever it is asked for one; if it stands still for too long,
it is left alone, and ends should it ever come back.

To stand still is neither to end a step nor to use the processor: decompressing much takes long, but
it is no hanging.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from hepdask_ml.data.with_uproot import UnreadableFile

T = TypeVar("T")

_LOOKS = 20
"""So often the clock of a thread is read in the time that it may stand still."""

_BUSY = 0.01
"""A thread that uses this share of a processor does not stand still."""


def steps(work: Callable[[], Iterator[T]], timeout_s: float, what: str) -> Iterator[T]:
    """Iterate in another thread, whose steps may not stand still for long.

    Parameters
    ----------
    work : callable
        Gives the iterator; called and used in the other thread alone.
    timeout_s : float
        How long a step may stand still.
    what : str
        What is read, for the message.

    Yields
    ------
    object
        What the iterator gives; its next step begins when it is asked for.

    Raises
    ------
    UnreadableFile
        If a step stands still.
    Exception
        Whatever the iterator raises.
    """
    thread = _Stepping(work)
    thread.start()
    try:
        while (values := thread.step(timeout_s, what)) is not None:
            yield values[0]
    finally:
        thread.end()


def call(work: Callable[[], T], timeout_s: float, what: str) -> T:
    """Call a function in another thread, which may not stand still for long.

    Parameters
    ----------
    work : callable
        The function.
    timeout_s : float
        How long it may stand still.
    what : str
        What is read, for the message.

    Returns
    -------
    object
        Its result.

    Raises
    ------
    UnreadableFile
        If it stands still.
    Exception
        Whatever it raises.
    """

    def once() -> Iterator[T]:
        yield work()

    [value] = steps(once, timeout_s, what)
    return value


def begin(work: Callable[[], T]) -> Callable[[], T]:
    """Begin to call a function in another thread, which does not keep the process from ending.

    Parameters
    ----------
    work : callable
        The function.

    Returns
    -------
    callable
        Waits for its result, and gives that, or raises what it raised.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="hepdask-ml-begin", daemon=True).start()
    return future.result


class _Stepping(threading.Thread):
    """Makes a step of an iterator whenever it is told to."""

    def __init__(self, work: Callable[[], Iterator[Any]]) -> None:
        # A daemon: one that hangs may not keep the process from ending.
        super().__init__(name="hepdask-ml-read", daemon=True)
        self._work = work
        self._orders: SimpleQueue[bool] = SimpleQueue()
        self._results: SimpleQueue[tuple[Any] | BaseException | None] = SimpleQueue()
        self._clock: int | None = None

    def run(self) -> None:
        if hasattr(time, "pthread_getcpuclockid"):
            self._clock = time.pthread_getcpuclockid(threading.get_ident())
        iterator: Iterator[Any] = iter(())
        try:
            begun = False
            while self._orders.get():
                if not begun:
                    iterator, begun = self._work(), True
                self._results.put((next(iterator),))
        except StopIteration:
            self._results.put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised where the step was asked for
            self._results.put(error)
        # Whoever asked is gone, or has the error that matters.
        with suppress(Exception):
            getattr(iterator, "close", lambda: None)()

    def step(self, timeout_s: float, what: str) -> tuple[Any] | None:
        """Have a step made, and give what came of it; None at the end."""
        self._orders.put(True)
        used_s, alive_at = self._used_s(), time.monotonic()
        while True:
            try:
                result = self._results.get(timeout=timeout_s / _LOOKS)
            except Empty:
                now, used_now_s = time.monotonic(), self._used_s()
                if used_now_s - used_s > _BUSY * timeout_s / _LOOKS:
                    used_s, alive_at = used_now_s, now
                if now - alive_at > timeout_s:
                    raise UnreadableFile(
                        f"{what} does not answer within {timeout_s:g} s: look after its server, or "
                        "give a longer timeout"
                    ) from None
                continue
            if isinstance(result, BaseException):
                raise result
            return result

    def end(self) -> None:
        """Have the thread end as soon as its step is done."""
        self._orders.put(False)

    def _used_s(self) -> float:
        """Time that the thread has used the processor, where the system tells."""
        with suppress(OSError):
            return 0.0 if self._clock is None else time.clock_gettime(self._clock)
        return 0.0
