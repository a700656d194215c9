"""Replicas: the copies of a file, tried in turn until one of them gives the events.

Where a copy stops in the middle, the next goes on behind the last event that was given: none is
lost, none comes twice.  All copies are tried several times, with pauses that grow; one that has
given events may fail as often again.

A server that failed is not asked first for a while, so that a dead one costs its time-out now and
then, and not with each file.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from hepdask_ml.data import bounded, with_xrootd
from hepdask_ml.data.forms import Form, Look, Looks
from hepdask_ml.data.sources import Source, Span
from hepdask_ml.data.with_uproot import UnreadableFile
from hepdask_ml.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

_PAUSE_S = 0.2
_GROWTH = 4
_LONGEST_PAUSE_S = 30.0
_REST = 10
"""A server that failed rests for so many time-outs."""


class Servers:
    """Which servers failed a while ago.

    Parameters
    ----------
    rest_s : float
        How long a server that failed is asked last.
    resting : iterable of str
        Those that have just failed.
    """

    def __init__(self, rest_s: float, resting: Iterable[str] = ()) -> None:
        self._rest_s = rest_s
        self._until: dict[str, float] = {}
        self.failed(resting)

    def failed(self, servers: Iterable[str]) -> None:
        """Have servers rest.

        Parameters
        ----------
        servers : iterable of str
            As `server_of` names them.
        """
        self._until |= dict.fromkeys(servers, time.time() + self._rest_s)

    def resting(self) -> tuple[str, ...]:
        """Name those that are to be asked last.

        Returns
        -------
        tuple of str
            As `server_of` names them.
        """
        now = time.time()
        return tuple(server for server, until in list(self._until.items()) if until > now)

    def order(self, urls: Sequence[str]) -> tuple[str, ...]:
        """Put copies into the order in which they are to be tried.

        Parameters
        ----------
        urls : sequence of str
            The copies, the best first.

        Returns
        -------
        tuple of str
            The same, those on servers that rest at the end.
        """
        resting = self.resting()
        return tuple(sorted(urls, key=lambda url: server_of(url) in resting))


def server_of(url: str) -> str:
    """Name the server of a URL.

    Parameters
    ----------
    url : str
        Of a file; a local path, too.

    Returns
    -------
    str
        Its host and port; a local file stands for itself.

    Examples
    --------
    >>> server_of("root://host:1094//store/a.root")
    'host:1094'
    """
    return urlsplit(url.rpartition("::")[2]).netloc or url


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """How events are read from the copies of a file: all that a worker has to know.

    Attributes
    ----------
    form : Form
        What they are read as.
    attempts : int
        How often all copies are tried without an event in between.
    timeout_s : float
        How long a copy may stand still.

    Raises
    ------
    InputError
        If a number is no sensible one.
    """

    form: Form[T]
    attempts: int = 3
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InputError(f"{self.attempts} attempts read nothing: give one or more")
        if not self.timeout_s > 0.0:
            raise InputError(f"no file answers within {self.timeout_s:g} s: give a longer timeout")

    def servers(self, resting: Iterable[str] = ()) -> Servers:
        """Begin to remember which servers fail.

        Parameters
        ----------
        resting : iterable of str
            Those that have just failed.

        Returns
        -------
        Servers
            For `look` and `parts`.
        """
        return Servers(_REST * self.timeout_s, resting)

    def look(self, source: Source, servers: Servers) -> Look:
        """Look into a file, whichever copy answers.

        Parameters
        ----------
        source : Source
            The file.
        servers : Servers
            Which to ask last.

        Returns
        -------
        Look
            How many events it has, and of what kind.

        Raises
        ------
        InputError
            If the file is not what was asked for.
        UnreadableFile
            If no copy can be read; the message has the reason for each.
        """

        def read(url: str) -> Generator[Look]:
            yield replace(self._looked(source, url), url=url)

        [look] = self._tried(source, servers, read, lambda: False)
        return look

    def parts(
        self, span: Span, size: int, servers: Servers, known: Look | None = None
    ) -> Generator[tuple[int, T]]:
        """Read a range of events part by part, whichever copies answer.

        Parameters
        ----------
        span : Span
            The events.
        size : int
            Of them in a part; the last one has what is left, and so has one behind a failure.
        servers : Servers
            Which to ask last.
        known : Look, optional
            What is known of the file: other copies have to be the same one.

        Yields
        ------
        stop : int
            The event behind the last one of the part.
        part : T
            As the form has it.

        Raises
        ------
        InputError
            If the file is not what was asked for.
        UnreadableFile
            If no copy can be read behind the last part; the message has the reason for each.
        """
        at = span.start

        def read(url: str) -> Generator[tuple[int, T]]:
            if known is not None and known.uuid and url != known.url:
                self._check_copy(span.source, url, known)
            options = options_of(url, self.timeout_s)
            work = partial(self.form.batches, span.source, url, at, span.stop, size, **options)
            yield from bounded.steps(work, self.timeout_s, url)
            if not complete():
                raise UnreadableFile(
                    f"{url} ends at event {at}, before {span.stop}: make or fetch it again"
                )

        def complete() -> bool:
            return at >= span.stop

        for stop, part in self._tried(span.source, servers, read, complete):
            at = stop
            yield stop, part

    def _check_copy(self, source: Source, url: str, known: Look) -> None:
        """Refuse another file under the name of a copy: its events are others."""
        found = self._looked(source, url)
        if found.uuid and (found.uuid, found.n_events) != (known.uuid, known.n_events):
            raise UnreadableFile(
                f"{url} is no copy of {known.url or source.url} as it was, but another file with "
                f"{found.n_events} events: name copies only, and write none of them anew meanwhile"
            )

    def _looked(self, source: Source, url: str) -> Look:
        work = partial(self._look, source, url, **options_of(url, self.timeout_s))
        return bounded.call(work, self.timeout_s, url)

    def _look(self, source: Source, url: str, **options: Any) -> Look:
        if isinstance(self.form, Looks):
            return self.form.look(source, url, **options)
        return Look(self.form.n_events(source, url, **options))

    def _tried(
        self,
        source: Source,
        servers: Servers,
        read: Callable[[str], Generator[R]],
        complete: Callable[[], bool],
    ) -> Iterator[R]:
        """Read from one copy after the other, until one of them comes to the end."""
        urls = deque(servers.order(source.urls))
        reasons: dict[str, str] = {}
        failures = 0
        while failures < self.attempts * len(urls):
            if failures and failures % len(urls) == 0:
                growth = _GROWTH ** (failures // len(urls) - 1)
                time.sleep(min(_PAUSE_S * growth, _LONGEST_PAUSE_S))
            try:
                with closing(read(urls[0])) as values:
                    for value in values:
                        failures = 0
                        yield value
                return
            except UnreadableFile as error:
                # Not even the close of a file that has given everything has to succeed.
                if complete():
                    return
                reasons[urls[0]] = reason(error)
                servers.failed([server_of(urls[0])])
            failures += 1
            urls.rotate(-1)
        raise self._unreadable(source, [reasons[url] for url in source.urls])

    def _unreadable(self, source: Source, reasons: list[str]) -> UnreadableFile:
        tried = "once" if self.attempts == 1 else f"{self.attempts} times"
        if len(reasons) == 1:
            found = f"{reasons[0]}, tried {tried}"
        else:
            found = f"no copy of {source.url} can be read, tried {tried} ({'; '.join(reasons)})"
        return UnreadableFile(f'{found}: mend it, or choose unreadable="skip" to go on without it')


def options_of(url: str, timeout_s: float) -> dict[str, Any]:
    """Give what ``uproot.open`` takes for a file.

    Parameters
    ----------
    url : str
        Of a copy.
    timeout_s : float
        How long it may stand still.

    Returns
    -------
    dict
        Nothing, but for files with XRootD servers.

    Raises
    ------
    InputError
        If what the URL needs is not installed.
    """
    return with_xrootd.options(timeout_s) if url.startswith(with_xrootd.SCHEMES) else {}


def reason(error: UnreadableFile) -> str:
    """Give what an error found, without what to do.

    Parameters
    ----------
    error : UnreadableFile
        Whose message ends with advice.

    Returns
    -------
    str
        The sentence up to there.
    """
    return str(error).rpartition(": ")[0] or str(error)
