"""How a worker process hears that it has to go, and does not go before its work is committed."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

GRACE_S = 15.0
"""Time after SIGTERM that commits may take; batch systems kill after 30 s or so."""


class Notice:
    """Holds SIGTERM back for as long as blocks of this process wait to be committed.

    Attributes
    ----------
    given : bool
        Whether the signal has come.
    """

    def __init__(self) -> None:
        self.given = False
        self._holders: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._before: Any = None
        self._listening = self._late = False

    def listen(self) -> None:
        """Hear SIGTERM from now on; nothing happens outside the main thread."""
        if self._listening or threading.current_thread() is not threading.main_thread():
            return
        self._listening = True
        self._before = signal.signal(signal.SIGTERM, self._hear)

    @contextmanager
    def holding(self, worker: str) -> Iterator[None]:
        """Hold work of a worker that would be lost."""
        with self._lock:
            self._holders[worker] += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders[worker] -= 1

    def held(self, worker: str) -> bool:
        """Whether work of a worker would be lost."""
        with self._lock:
            return self._holders[worker] > 0

    def _hear(self, number: int, _: Any) -> None:
        if not self.given:
            self.given = True
            threading.Thread(target=self._wait, daemon=True).start()
        elif self._late:
            signal.signal(number, self._before)
            os.kill(os.getpid(), number)

    def _wait(self) -> None:
        """Let the holders finish; then send the signal again, for the main thread to pass it on."""
        deadline = monotonic() + GRACE_S
        while self._any() and monotonic() < deadline:
            sleep(0.02)
        self._late = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _any(self) -> bool:
        with self._lock:
            return self._holders.total() > 0


NOTICE = Notice()
"""The one of this process: it has one SIGTERM."""
