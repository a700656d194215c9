"""Making things ahead: a thread makes the next ones while the last one is used.

The thread belongs to one iteration and ends with it: when all are made, when something goes wrong,
or when the consumer wants no more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def ahead(make: Callable[[Callable[[], bool]], Iterator[T]], n: int) -> Iterator[T]:
    """Go through things that are made by a thread.

    Parameters
    ----------
    make : callable
        Gives an iterator of them; it is told by a function, which it may call now and then,
        whether nobody wants them any more.
    n : int
        So many are made ahead at most, one that is in the making included.  With none they are
        made where they are asked for, without a thread.

    Yields
    ------
    object
        One after the other.

    Raises
    ------
    Exception
        Whatever the thread met with, behind what it made before.

    Examples
    --------
    >>> list(ahead(lambda over: iter("abc"), 2))
    ['a', 'b', 'c']
    """
    if n == 0:
        yield from make(lambda: False)
        return
    over = threading.Event()
    room = threading.Semaphore(n)
    made: SimpleQueue[tuple[list[T], BaseException | None]] = SimpleQueue()
    thread = threading.Thread(
        target=_work, args=(make, over, room, made), name="hepdask-ml ahead", daemon=True
    )
    thread.start()
    try:
        while True:
            things, error = made.get()
            if error is not None:
                raise error
            if not things:
                return
            room.release()
            yield things.pop()
    finally:
        over.set()
        room.release()
        # Whoever collects garbage closes what was left behind, be it the thread itself.
        if thread is not threading.current_thread():
            thread.join()


def _work(
    make: Callable[[Callable[[], bool]], Iterator[T]],
    over: threading.Event,
    room: threading.Semaphore,
    made: SimpleQueue[tuple[list[T], BaseException | None]],
) -> None:
    try:
        things = make(over.is_set)
        while room.acquire() and not over.is_set():
            try:
                made.put(([next(things)], None))
            except StopIteration:
                break
        made.put(([], None))
    except BaseException as error:  # noqa: BLE001 - it is the consumer's
        made.put(([], error))
