"""Arrivals: files that are not all there yet, each given when it is (a data carousel).

Tapes, transfers and productions bring files one by one.  A folder or a list of names is looked at
now and then; a file counts when it stands still from one look to the next, is as long as it says
itself, and its tree can be read.  Files come in the order of arrival: by the time of their last
change, then by name, among those that a look finds.

A look opens files: servers that fetch a file from tape when it is opened will do so.  And writers
had better give a file its name when it is complete: one that ROOT has saved in between, and left
alone for longer than from look to look, cannot be told from a complete one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hepdask_ml.config import read_yaml
from hepdask_ml.data import bounded
from hepdask_ml.data.forms import check_whole
from hepdask_ml.data.replicas import options_of, reason
from hepdask_ml.data.sources import Files, Source, is_pattern, sources
from hepdask_ml.data.with_uproot import UnreadableFile, local, opened, readable, tree_of
from hepdask_ml.errors import InputError

LOG = logging.getLogger(__name__)

POLL_S = 10.0
"""From look to look, if nobody says."""

PATIENCE_S = 86_400.0
"""So long files that are named may stay away, if nobody says: a day."""

TIMEOUT_S = 60.0
"""How long a server may take for an answer, if nobody says."""

_LISTS = (".json", ".yaml", ".yml")
_LOOKERS = 8
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Found:
    """What one look finds.

    Attributes
    ----------
    here : tuple of Source
        Files that are there and complete, in the order of arrival; first those of the look before.
    sizes : mapping of str to int
        Of files that may still grow, by URL, in bytes.
    waiting : mapping of str to str
        Of what is not there or not complete, by name or URL: what is found instead.
    """

    here: tuple[Source, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, str] = field(default_factory=dict)


def look(
    files: Files,
    before: Found | None = None,
    *,
    tree: str | None = None,
    redirectors: str | Sequence[str] = (),
    whole: bool = False,
    timeout: float = TIMEOUT_S,
) -> Found:
    """Look once which files are there.

    Parameters
    ----------
    files : str, Path, mapping or sequence
        Names and patterns, as `data.sources.sources` takes them; what is not there may yet come.
    before : Found, optional
        Of the look before: without it no file is known to stand still.
    tree : str, optional
        Name of the tree, wherever none is given with the file.
    redirectors : str or sequence of str
        Servers that know logical names.
    whole : bool
        The writer has said that all is complete: whatever has a name counts, unopened.
    timeout : float
        How long a server may take for an answer, in seconds.

    Returns
    -------
    Found
        Which goes into the next look.

    Raises
    ------
    InputError
        If something is no name of a file.
    """
    before = before or Found()
    named, waiting = _named(files, tree, redirectors)
    new = _unknown(named, before.here)
    with ThreadPoolExecutor(_LOOKERS) as pool:
        work = partial(_glance, now_ns=time.time_ns(), timeout_s=None if whole else timeout)
        glances = list(pool.map(work, new))
    complete: list[tuple[int, str, Source]] = []
    sizes: dict[str, int] = {}
    for source, seen in zip(new, glances, strict=True):
        if isinstance(seen, str):
            waiting[source.url] = seen
        elif whole or before.sizes.get(source.url) == seen.size:
            complete.append((seen.changed_ns, source.url, source))
        else:
            sizes[source.url] = seen.size
            waiting[source.url] = f"{source.url} has {seen.size} bytes, and may grow"
    arrived = [source for *_, source in sorted(complete, key=lambda each: each[:2])]
    return Found((*before.here, *arrived), sizes, waiting)


class Arrivals(Iterator[Source]):
    """Files one by one, as they come; iterating waits for them, `look` does not.

    Parameters
    ----------
    files : str, Path, mapping or sequence
        Names and patterns, as `data.sources.sources` takes them, of files that may yet come.
    poll_s : float
        From look to look.
    expected : int, optional
        How many files there will be.
    until : str or Path, optional
        A local file that is there when all others are, and whole.
    quiet_s : float, optional
        When nothing has come for so long, nothing will.  Then names without a file are an error,
        and patterns have all their files.
    tree : str, optional
        Name of the tree, wherever none is given with the file.
    redirectors : str or sequence of str
        Servers that know logical names.
    timeout : float
        How long a server may take for an answer, in seconds.

    Attributes
    ----------
    poll_s : float
        From look to look.

    Raises
    ------
    InputError
        If something is no name of a file, or nothing tells when a pattern has all its files.

    Examples
    --------
    >>> coming = Arrivals("/tape/run7/*.root", until="/tape/run7/DONE")
    >>> for batch in events(coming, ["Jet_pt"]):  # doctest: +SKIP
    ...     use(batch)
    """

    def __init__(
        self,
        files: Files,
        *,
        poll_s: float = POLL_S,
        expected: int | None = None,
        until: str | Path | None = None,
        quiet_s: float | None = None,
        tree: str | None = None,
        redirectors: str | Sequence[str] = (),
        timeout: float = TIMEOUT_S,
    ) -> None:
        names = [name for name, _ in _leaves(files)]
        patterns = [name for name in names if is_pattern(name)]
        if not names:
            raise InputError("there are no files to wait for: name at least one")
        if not poll_s > 0.0:
            raise InputError(f"{poll_s:g} s from look to look are none: give more")
        if expected is not None and expected < 1:
            raise InputError(f"{expected} files are none to wait for: expect at least one")
        if patterns and expected is None and until is None and quiet_s is None:
            raise InputError(
                f"nothing tells when all files like {patterns[0]} have come: give their number as "
                "expected, a file as until, or quiet_s"
            )
        self._look = partial(look, files, tree=tree, redirectors=redirectors, timeout=timeout)
        self._shown = names[0] + (", ..." if len(names) > 1 else "")
        self.poll_s = poll_s
        self._wanted = expected if expected is not None or patterns else len(set(names))
        self._named = expected is None and not patterns
        self._until = None if until is None else Path(until)
        self._quiet_s = PATIENCE_S if quiet_s is None else quiet_s
        self._found: Found | None = None
        self._over = False
        self._news_at = time.monotonic()
        self._ready: deque[Source] = deque()
        self._n_given = 0

    def look(self) -> list[Source]:
        """Look once what has come since the look before; does not wait.

        Returns
        -------
        list of Source
            In the order of arrival.

        Raises
        ------
        InputError
            If something is no name of a file.
        """
        before = self._found or Found()
        # What the writer leaves last is looked for first, so that nothing comes in between.
        self._over = self._until is not None and self._until.exists()
        self._found = self._look(before, whole=self._over)
        for name, why in self._found.waiting.items():
            if before.waiting.get(name) != why:
                LOG.info("not yet: %s", why)
        new = list(self._found.here[len(before.here) :])
        if new or self._found.sizes != before.sizes:
            self._news_at = time.monotonic()
        return new

    def expects(self, n_files: int) -> bool:
        """Whether there is something to wait for.

        Parameters
        ----------
        n_files : int
            How many have come.

        Returns
        -------
        bool
            False if all are there.

        Raises
        ------
        InputError
            If time is over, and some never came; the message names them.
        """
        if self._wanted is not None and n_files >= self._wanted:
            return False
        waiting = self._found.waiting if self._found else {}
        if self._found and not waiting and (self._named or (self._over and self._wanted is None)):
            return False
        if not self._over and time.monotonic() - self._news_at < self._quiet_s:
            return True
        if self._until is None and self._wanted is None and not waiting:
            return False
        raise self._never_came(n_files, waiting)

    def __next__(self) -> Source:
        looked = self._found is not None
        while not self._ready:
            if looked and not self.expects(self._n_given):
                raise StopIteration
            if looked:
                time.sleep(self.poll_s)
            self._ready.extend(self.look())
            looked = True
        self._n_given += 1
        return self._ready.popleft()

    def _never_came(self, n_files: int, waiting: Mapping[str, str]) -> InputError:
        wanted = "" if self._wanted is None else f" of {self._wanted}"
        why = "; ".join(list(waiting.values())[:_SHOWN])
        more = f" and {len(waiting) - _SHOWN} more" if len(waiting) > _SHOWN else ""
        if self._over:
            when = f"and {self._until} says that this is all"
        else:
            when = f"and nothing new within {self._quiet_s:g} s"
            if self._until is not None:
                when += f", nor {self._until}"
        return InputError(
            f"{n_files}{wanted} files came of {self._shown}, {when}"
            f"{f' ({why}{more})' if why else ''}: see to their transfer, or wait for others"
        )


def arrivals(files: Files, **options: Any) -> Arrivals:
    """Give files one by one, as they come.

    Parameters
    ----------
    files : str, Path, mapping or sequence
        Names and patterns of files that may yet come.
    **options
        As `Arrivals` takes them: ``poll_s``, ``expected``, ``until``, ``quiet_s`` and others.

    Returns
    -------
    Arrivals
        An iterator, for `data.streams.events`.

    Raises
    ------
    InputError
        As `Arrivals`.
    """
    return Arrivals(files, **options)


def _unknown(named: Sequence[Source], here: Sequence[Source]) -> list[Source]:
    """Leave out what is there already, if only as another copy."""
    known = {(each.dataset, url, each.steps) for each in here for url in each.urls}
    new = []
    for source in named:
        keys = {(source.dataset, url, source.steps) for url in source.urls}
        if known.isdisjoint(keys):
            new.append(source)
        known |= keys
    return new


@dataclass(frozen=True, slots=True)
class _Glance:
    """What can be seen of one file: bytes, and when it last changed."""

    size: int
    changed_ns: int


def _glance(source: Source, now_ns: int, timeout_s: float | None) -> _Glance | str:
    """See whether a file is there and complete, or why it is not, whichever copy answers."""
    if timeout_s is None:
        return _Glance(0, _changed_ns(source.url, now_ns))
    reasons = []
    for url in source.urls:
        work = partial(_opened, source, url, now_ns, **options_of(url, timeout_s))
        try:
            return bounded.call(work, timeout_s, url)
        except UnreadableFile as error:
            reasons.append(reason(error))
        except InputError as error:
            # Its tree may come last.
            reasons.append(str(error))
    return "; ".join(reasons)


def _opened(source: Source, url: str, now_ns: int, **options: Any) -> _Glance:
    with opened(url, **options) as file:
        check_whole(file, url)
        tree = tree_of(file, source.tree, url)
        with readable(url):
            # An RNTuple is not looked into before somebody asks how long it is.
            assert tree.num_entries >= 0
            size = int(file.file.source.num_bytes or file.file.fEND)
    return _Glance(size, _changed_ns(url, now_ns))


def _changed_ns(url: str, now_ns: int) -> int:
    """Time of the last change; now, if nobody can tell."""
    path = local(url)
    with suppress(OSError):
        return path.stat().st_mtime_ns if path else now_ns
    return now_ns


def _named(
    files: Files, tree: str | None, redirectors: str | Sequence[str]
) -> tuple[list[Source], dict[str, str]]:
    """Find the files that have a name by now, and why the others have none."""
    found: dict[Source, None] = {}
    waiting: dict[str, str] = {}
    for name, copies in _leaves(files):
        here: list[Source] = []
        reasons = []
        for files_of_one in copies:
            try:
                here += sources(files_of_one, tree=tree, redirectors=redirectors)
            except InputError as error:
                reasons.append(str(error).rpartition(": ")[0])
        if len(copies) > 1 and here:
            here = list(sources([here], tree=tree))
        found |= dict.fromkeys(here)
        if not here:
            waiting[name] = "; ".join(reasons)
    return list(found), waiting


def _leaves(files: Any) -> Iterator[tuple[str, list[Files]]]:
    """Give each name on its own: as it is written, and what `sources` takes for each copy."""
    if isinstance(files, Source):
        yield files.url, [[files]]
    elif isinstance(files, str | Path):
        if str(files).endswith(_LISTS):
            yield from _leaves(read_yaml(Path(files)))
        else:
            yield str(files), [files]
    elif isinstance(files, Mapping):
        for key, value in files.items():
            yield from _entry(str(key), value)
    elif isinstance(files, Sequence):
        for each in files:
            if isinstance(each, list | tuple):
                parts = [part for name in each for part in _leaves(name)]
                yield parts[0][0] if parts else "", [copy for _, some in parts for copy in some]
            else:
                yield from _leaves(each)
    else:
        raise InputError(
            f"{files!r:.60} is no name of a file: give names, patterns, a mapping, or a list of "
            "them"
        )


def _entry(key: str, value: Any) -> Iterator[tuple[str, list[Files]]]:
    """Give the names of one item: a file with its tree, or a data set with its files."""
    if isinstance(value, Mapping) and "files" in value:
        for name, copies in _leaves(value["files"]):
            yield name, [{key: {**value, "files": copy}} for copy in copies]
    elif isinstance(value, list | tuple) or (isinstance(value, str) and ".root" in value):
        for name, copies in _leaves(value):
            yield name, [{key: {"files": copy}} for copy in copies]
    else:
        yield key, [{key: value}]
