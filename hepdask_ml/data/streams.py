"""Streams: events of many files, wherever they lie, in whatever form they are used.

A *stream* is sources, a *form* (what events are read as), and what becomes of a file that no copy
of can be read: it ends the stream with its name, or is passed over and noted, if that was chosen.

A stream can be iterated, file by file; split into *spans*, which are read one by one wherever there
is a worker; or mapped: a function goes over all spans, in threads or on a Dask cluster.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from itertools import chain
from operator import index
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from hepdask_ml.data import bounded
from hepdask_ml.data.arrivals import Arrivals
from hepdask_ml.data.forms import Arrays, Form, Look, MissingBranch
from hepdask_ml.data.replicas import Reading, reason
from hepdask_ml.data.sources import Files, Source, Span, sources, spans
from hepdask_ml.data.with_coffea import Nano
from hepdask_ml.data.with_uproot import UnreadableFile
from hepdask_ml.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

Unreadable: TypeAlias = Literal["error", "skip"]

LOG = logging.getLogger(__name__)

SIZE = 100_000
"""Events in a part, if nobody says."""

_LIST = re.compile(r"(?:vector|ROOT::(?:VecOps::)?RVec)<(?P<items>.*)>")
_LOOKERS = 8
_UNDER_WAY = 32
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Skipped:
    """Events that are missing, because no copy of their file can be read.

    Attributes
    ----------
    url : str
        The file.
    urls : tuple of str
        The copies that were tried.
    start : int
        The first event that is missing.
    stop : int or None
        The one behind the last; None if nobody knows how many the file has.
    reason : str
        Why, for each copy.
    """

    url: str
    urls: tuple[str, ...]
    start: int
    stop: int | None
    reason: str

    def __str__(self) -> str:
        stop = "the end" if self.stop is None else self.stop
        return f"events {self.start} to {stop} of {self.url}: {self.reason}"


class Stream(Generic[T]):
    """Events of many files.

    Can be pickled, unless its files are still coming; what it has found out goes along.

    Parameters
    ----------
    files : sequence of Source, or iterator of Source
        The files; an iterator (`data.arrivals`) gives each when it is there.
    form : Form
        What events are read as.
    size : int
        Events in a part.
    unreadable : {"error", "skip"}
        What becomes of a file that no copy of can be read.
    attempts : int
        How often all copies are tried without an event in between.
    timeout : float
        How long a copy may stand still, in seconds.

    Attributes
    ----------
    form, size, unreadable, attempts, timeout
        As given.
    coming : iterator of Source or None
        The files that are still to come.
    skipped : list of Skipped
        Events that are missing, so far.

    Raises
    ------
    InputError
        If a number is no sensible one.
    """

    def __init__(
        self,
        files: Sequence[Source] | Iterator[Source],
        form: Form[T],
        *,
        size: int = SIZE,
        unreadable: Unreadable = "error",
        attempts: int = 3,
        timeout: float = 60.0,
    ) -> None:
        if unreadable not in ("error", "skip"):
            raise InputError(
                f'"{unreadable}" is no way with unreadable files: choose error or skip'
            )
        self.coming = files if isinstance(files, Iterator) else None
        self._sources = () if isinstance(files, Iterator) else tuple(files)
        self._reading = Reading(form, attempts, timeout)
        self._servers = self._reading.servers()
        self._looks: dict[Source, Look] = {}
        self.form = form
        self.size = _sensible(size)
        self.unreadable = unreadable
        self.attempts = attempts
        self.timeout = timeout
        self.skipped: list[Skipped] = []

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files; of those that are still coming, those that came."""
        return self._sources

    @property
    def arrivals(self) -> Arrivals | None:
        """Where files that are still coming are waited for, if they are."""
        return self.coming if isinstance(self.coming, Arrivals) else None

    @property
    def looks(self) -> Mapping[Source, Look]:
        """What looks into the files have found, so far."""
        return dict(self._looks)

    def look(self) -> Mapping[Source, Look]:
        """Look into each file that is not known yet, several at a time.

        Returns
        -------
        mapping of Source to Look
            How many events there are and of what kind, without files that were passed over.

        Raises
        ------
        InputError
            If a file has no such tree or branch, or has a branch of another type than the file
            before; if not all files are there yet.
        UnreadableFile
            If no copy of a file can be read, unless such are passed over.
        """
        self._check_listed()
        return dict(self._looked())

    def spans(self, size: int | None = None) -> tuple[Span, ...]:
        """Split all events into ranges that can be read on their own; looks into each file once.

        Parameters
        ----------
        size : int, optional
            About so many events are in a range; as in the stream if not given.  Borders are moved
            to where all branches begin another piece, if there is such an event near.

        Returns
        -------
        tuple of Span
            In the order of the files.

        Raises
        ------
        InputError
            As `look`; and if there are no events at all.
        UnreadableFile
            As `look`.
        """
        self._check_listed()
        return tuple(self._spans(self._parts_of(size)))

    def read(self, span: Span) -> T:
        """Read one range of events, in one piece.

        Parameters
        ----------
        span : Span
            The events.

        Returns
        -------
        T
            As the form has them.

        Raises
        ------
        InputError
            If the file is not what was asked for.
        UnreadableFile
            If no copy of it can be read, whatever was chosen: there is nothing else to give.
        """
        known = self._looks.get(span.source)
        [(_, part)] = self._reading.parts(span, _length(span), self._servers, known)
        return part

    def batches(self, span: Span | None = None, size: int | None = None) -> Iterator[T]:
        """Read events part by part; no part has events of two files.

        Parameters
        ----------
        span : Span, optional
            The events; all if not given.
        size : int, optional
            Of them in a part; as in the stream if not given.

        Yields
        ------
        T
            As the form has them.

        Raises
        ------
        InputError, UnreadableFile
            As `spans`.
        """
        size = self._parts_of(size)
        for each in [span] if span else self._spans(None):
            at = each.start
            try:
                known = self._looks.get(each.source)
                for stop, part in self._reading.parts(each, size, self._servers, known):
                    at = stop
                    yield part
            except UnreadableFile as error:
                self._pass_over(each.source, at, each.stop, error)

    def __iter__(self) -> Iterator[T]:
        return self.batches()

    def map(
        self,
        function: Callable[[T], R],
        client: Any = None,
        *,
        size: int | None = None,
        threads: int = 1,
    ) -> Iterator[R]:
        """Apply a function to each range of events, where they are read.

        Some ranges are under way at a time, so that results which are used as they come need no
        more memory than these.

        Parameters
        ----------
        function : callable
            From what the form gives to a result, which should be small; if there is a client, it
            has to be one that can be pickled.
        client : distributed.Client, optional
            Of the cluster whose workers read; threads do if not given.
        size : int, optional
            About so many events are in a range, as for `spans`.
        threads : int
            How many read, without a client.

        Yields
        ------
        R
            In the order of the ranges; there is none for those that were passed over.

        Raises
        ------
        InputError, UnreadableFile
            As `spans`; what the function raises comes as it is.
        """
        ranges = self._spans(self._parts_of(size))
        if client is not None:
            if not hasattr(client, "asynchronous"):
                raise InputError(
                    f"{client!r:.60} is no client: give a distributed.Client of the cluster"
                )
            if client.asynchronous:
                raise InputError("the client is asynchronous: give one that waits for its results")
            yield from self._results(
                ranges, function, partial(client.submit, pure=False), partial(_window, client)
            )
            return
        if _whole(threads) < 1:
            raise InputError(f"{threads!r} threads read nothing: give one or more")
        pool = ThreadPoolExecutor(threads)
        try:
            yield from self._results(ranges, function, pool.submit, lambda: 2 * threads)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _parts_of(self, size: int | None) -> int:
        return self.size if size is None else _sensible(size)

    def _results(
        self,
        ranges: Iterator[Span],
        function: Callable[[T], R],
        submit: Callable[..., Any],
        window: Callable[[], int],
    ) -> Iterator[R]:
        """Have ranges read, so many at a time, and give the results in order."""
        under_way: deque[tuple[Span, Any]] = deque()
        try:
            for span in chain(ranges, [None]):
                if span is not None:
                    work = partial(_applied, self._reading, function, self._servers.resting())
                    known = self._looks.get(span.source)
                    under_way.append((span, submit(work, span, known and replace(known, edges=()))))
                # What is done is given before others are asked for: files may still have to come.
                while under_way and (
                    span is None or under_way[0][1].done() or len(under_way) >= window()
                ):
                    each, future = under_way.popleft()
                    try:
                        result, resting = future.result()
                    except UnreadableFile as error:
                        self._pass_over(each.source, each.start, each.stop, error)
                        continue
                    self._servers.failed(resting)
                    yield result
        finally:
            for _, future in under_way:
                future.cancel()

    def _spans(self, size: int | None) -> Iterator[Span]:
        """Give ranges of events as files are looked into; whole files if there is no size."""
        n_events = 0
        for source, look in self._looked():
            n_events += look.n_events
            yield from spans(source, look.n_events, size or max(look.n_events, 1), edges=look.edges)
        if not n_events:
            raise self._nothing()

    def _looked(self) -> Iterator[tuple[Source, Look]]:
        """Look into the files in order, and compare their branches with those of the first."""
        first: tuple[Source, Look] | None = None
        for source, looked in self._looking():
            try:
                look = looked()
            except UnreadableFile as error:
                for start, stop in source.steps or ((0, None),):
                    self._pass_over(source, start, stop, error)
                continue
            except MissingBranch as error:
                raise _there(error, first[0]) if first else error from None
            if look.n_events:
                first = first or (source, look)
                _check_kinds(source, look, *first)
            self._looks[source] = look
            yield source, look

    def _looking(self) -> Iterator[tuple[Source, Callable[[], Look]]]:
        """Look into the files, some ahead of need, and give what waits for the outcome."""
        ahead: deque[tuple[Source, Callable[[], Look]]] = deque()
        for source in self._sources:
            known = self._looks.get(source)
            work = partial(self._reading.look, source, self._servers)
            ahead.append((source, bounded.begin(work) if known is None else partial(_same, known)))
            if len(ahead) >= _LOOKERS:
                yield ahead.popleft()
        yield from ahead
        for source in self.coming or ():
            self._sources = (*self._sources, source)
            yield source, partial(self._reading.look, source, self._servers)

    def _check_listed(self) -> None:
        if self.coming is not None:
            raise InputError(
                "files that are still coming cannot be looked into all at once: iterate over them, "
                "or give a list"
            )

    def _pass_over(
        self, source: Source, start: int, stop: int | None, error: UnreadableFile
    ) -> None:
        """Note that events are missing, or raise the error if nobody chose to go on."""
        if self.unreadable == "error":
            raise error
        skipped = Skipped(source.url, source.urls, start, stop, reason(error))
        if skipped not in self.skipped:
            self.skipped.append(skipped)
        LOG.warning("passed over: %s", skipped)

    def _nothing(self) -> InputError:
        if len(self.skipped) >= len(self._sources) > 0:
            return InputError(
                f"not one of {len(self._sources)} files can be read, the first because "
                f"{self.skipped[0].reason}: give files that can"
            )
        shown = ", ".join(each.url for each in self._sources[:_SHOWN]) or "no files"
        more = ", ..." if len(self._sources) > _SHOWN else ""
        return InputError(f"there are no events in {shown}{more}: give files that have some")

    def __getstate__(self) -> dict[str, Any]:
        if self.coming is not None:
            raise InputError(
                "files that are still coming cannot go to another process: make a stream there, or "
                "one of the files that came"
            )
        return self.__dict__

    def __repr__(self) -> str:
        return f"<Stream: {', '.join(self._facts())}>"

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(str(each))}</li>" for each in self.skipped)
        listed = f"<ul>{lines}</ul>" if lines else ""
        return f"<p>Stream: {escape(', '.join(self._facts()))}</p>{listed}"

    def _facts(self) -> list[str]:
        n_files = len(self._sources)
        so_far = " so far" if self.coming is not None else ""
        facts = [f"{_counted(n_files, 'file')}{so_far}"]
        if n_files and all(source in self._looks for source in self._sources):
            n_events = sum(self._looks[source].n_events for source in self._sources)
            facts.append(_counted(n_events, "event"))
        facts.append(f"as {type(self.form).__name__}")
        if self.skipped:
            n_missing = len({each.url for each in self.skipped})
            facts.append(f"events of {_counted(n_missing, 'file')} missing")
        return facts


def _applied(
    reading: Reading[T],
    function: Callable[[T], R],
    resting: Sequence[str],
    span: Span,
    known: Look | None,
) -> tuple[R, tuple[str, ...]]:
    """Apply a function to a range of events, and tell which servers failed: a worker's task."""
    servers = reading.servers(resting)
    [(_, part)] = reading.parts(span, _length(span), servers, known)
    return function(part), tuple(set(servers.resting()) - set(resting))


def _same(known: Look) -> Look:
    return known


def _window(client: Any) -> int:
    """Ranges under way: two for each thread of a cluster, which grows and shrinks."""
    return max(2 * int(sum(client.nthreads().values())), _UNDER_WAY)


def _sensible(size: int) -> int:
    if _whole(size) < 1:
        raise InputError(f"parts of {size!r} events are none: give a size of one or more")
    return int(size)


def _whole(number: Any) -> int:
    """Give a whole number, and 0 for what is none."""
    try:
        return index(number)
    except TypeError:
        return 0


def _length(span: Span) -> int:
    if not 0 <= span.start < span.stop:
        raise InputError(
            f"events {span.start} to {span.stop} of {span.source.url} are none: name some"
        )
    return span.stop - span.start


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _check_kinds(source: Source, look: Look, first: Source, expected: Look) -> None:
    """Say which branch is not what it was in the first file."""
    for name in (*expected.kinds, *look.kinds):
        before, now = expected.kinds.get(name), look.kinds.get(name)
        if before is None or now is None:
            there, lacking = (first, source) if now is None else (source, first)
            raise InputError(
                f'branch "{name}" is in {there.url}, but not in {lacking.url}: name the branches '
                "that all files have, or leave one of the files out"
            )
        if _general(before) != _general(now):
            raise InputError(
                f'branch "{name}" is {before} in {first.url}, but {now} in {source.url}: read them '
                "as two streams, or make one of them again"
            )


def _general(kind: str) -> str:
    """Name a type as TTrees and RNTuples both would, which become the same arrays."""
    kind = kind.replace("std::", "").replace(" ", "")
    found = _LIST.fullmatch(kind)
    return f"{_general(found['items'])}[]" if found else kind


def _there(error: MissingBranch, first: Source) -> InputError:
    """Say that another file has what one has not."""
    return InputError(f"{error}; {first.url} has it")


def _names_of(branches: Any) -> tuple[str, ...]:
    if not isinstance(branches, Iterable):
        raise InputError(f"branches are {branches!r:.60}: give a list of names")
    names = (branches,) if isinstance(branches, str) else tuple(branches)
    wrong = next((each for each in names if not isinstance(each, str) or not each), None)
    if wrong is not None:
        raise InputError(f"branches hold {wrong!r:.60}: give names, or patterns with *")
    if not names:
        raise InputError("branches are an empty list: name at least one, or leave it out for all")
    return names


def events(
    files: Files | Iterator[Any],
    branches: str | Iterable[str] | None = None,
    *,
    tree: str | None = None,
    redirectors: str | Sequence[str] = (),
    schema: str | None = None,
    form: Form[Any] | None = None,
    size: int = SIZE,
    **options: Any,
) -> Stream[Any]:
    """Give the events of files as a stream.

    Parameters
    ----------
    files : str, Path, mapping, sequence or iterator
        What `data.sources.sources` takes, or an iterator that gives such names as files come;
        `data.arrivals` waits for them.
    branches : sequence of str, optional
        Names, or patterns with ``*``; all if not given.  With a schema, those that are read at
        once: all others are lazy.
    tree : str, optional
        Name of the tree, wherever none is given with the file.
    redirectors : str or sequence of str
        Servers that know logical names.
    schema : str, optional
        Of coffea, such as ``"nanoaod"`` or ``"physlite"``; bare arrays of awkward if not given.
    form : Form, optional
        What else events are read as.
    size : int
        Events in a part.
    **options
        As `Stream` takes them: ``unreadable``, ``attempts``, ``timeout``.

    Returns
    -------
    Stream
        Of which nothing is read yet.

    Raises
    ------
    InputError
        If there is no such file, or an option is no sensible one.

    Examples
    --------
    >>> stream = events("nano_*.root", ["Jet_pt", "Muon_*"], tree="Events")  # doctest: +SKIP
    >>> n_jets = sum(stream.map(count_jets, client))  # doctest: +SKIP
    """
    named = None if branches is None else _names_of(branches)
    if form is not None and (named is not None or schema is not None):
        raise InputError("a form knows its branches and its schema: give them to the form")
    if form is None and schema is not None:
        form = Nano(schema, named or ())
    elif form is None:
        form = Arrays(named)
    if not isinstance(files, Iterator):
        found = sources(files, tree=tree, redirectors=redirectors)
        return Stream(found, form, size=size, **options)
    if not isinstance(files, Arrivals):
        coming = (
            one for each in files for one in sources(each, tree=tree, redirectors=redirectors)
        )
        return Stream(coming, form, size=size, **options)
    if tree is not None or redirectors:
        raise InputError("arrivals know their trees and servers: name them there")
    return Stream(files, form, size=size, **options)
