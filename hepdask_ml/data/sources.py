"""Sources: the files that are to be read, however an analysis names them, and ranges of events.

A *source* is one file, or one of several copies of it (*replicas*), with the tree to be read and
the data set that it is part of.  A *span* is a range of its events: what is read at a time.

Files are named by paths and patterns with ``*``, by URLs that fsspec knows (``root://`` through
fsspec-xrootd), with the tree as in ``file.root:Events``, by logical names (``/store/...``) for
which *redirectors* are given, and by file sets as coffea has them, as mappings or in JSON and YAML
files.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from math import inf
from operator import index
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
from fsspec.implementations.local import LocalFileSystem

from hepdask_ml.config import read_yaml
from hepdask_ml.errors import InputError, words

LOG = logging.getLogger(__name__)

Files: TypeAlias = "str | Path | Mapping[str, Any] | Sequence[Any]"

LOGICAL = "/store/"
"""How logical names begin."""

# The name of a tree stands behind a file's name, and that behind any port: h:1094//a.root:Events.
_WITH_TREE = re.compile(r"(?P<url>.+\.root(?:\.\d+)?(?:\?[^:]*)?):(?P<tree>[^:?]+)")
_LISTS = (".json", ".json.gz", ".yaml", ".yml")


class MissingFile(InputError):
    """There is no such file."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file to be read.

    Attributes
    ----------
    url : str
        Where it lies: a local path in full, or a URL.
    tree : str or None
        Name of the tree, folders included; None where the file has only one.
    dataset : str
        What it is part of; empty if nobody said.
    replicas : tuple of str
        Where copies lie, to be tried in this order.
    steps : tuple of (int, int)
        Ranges of events to be read; none means all.
    metadata : mapping
        What its file set says of the data set.
    """

    url: str
    tree: str | None = None
    dataset: str = ""
    replicas: tuple[str, ...] = ()
    steps: tuple[tuple[int, int], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def urls(self) -> tuple[str, ...]:
        """The file, and its copies."""
        return (self.url, *self.replicas)

    def spec(self) -> dict[str, Any]:
        """Give a form that JSON takes; `source_of` reads it.

        Returns
        -------
        dict
            By attribute.

        Examples
        --------
        >>> source_of(Source("/data/a.root", "Events").spec()).tree
        'Events'
        """
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Span:
    """A range of events of one source, half open.

    Attributes
    ----------
    source : Source
        The file.
    start, stop : int
        The first event, and the one behind the last.
    """

    source: Source
    start: int
    stop: int


def source_of(spec: Mapping[str, Any]) -> Source:
    """Read what `Source.spec` gives, after a way through JSON or not.

    Parameters
    ----------
    spec : mapping
        By attribute.

    Returns
    -------
    Source
        The same.
    """
    steps = tuple((int(start), int(stop)) for start, stop in spec["steps"])
    return Source(**{**spec, "replicas": tuple(spec["replicas"]), "steps": steps})


def sources(
    files: Files, *, tree: str | None = None, redirectors: str | Sequence[str] = ()
) -> tuple[Source, ...]:
    """Find all files that are meant.

    Parameters
    ----------
    files : str, Path, mapping or sequence
        A name or pattern; a mapping of files to trees, or of data sets to their files, as coffea
        has them; the name of a JSON or YAML file with one of these; or a list.  A list within a
        list holds the replicas of one file.
    tree : str, optional
        Name of the tree, wherever none is given with the file.
    redirectors : str or sequence of str
        Servers that know logical names, such as ``root://xrootd.example.org``; all but the first
        are replicas.

    Returns
    -------
    tuple of Source
        In the order given; those of a pattern by name.

    Raises
    ------
    InputError
        If a local file is missing with all its replicas, a pattern fits nothing, an event is there
        twice in one data set, or something is no name of a file.

    Examples
    --------
    >>> [found] = sources("/store/mc/a.root:Events", redirectors="root://xrootd.example.org")
    >>> found.url, found.tree
    ('root://xrootd.example.org//store/mc/a.root', 'Events')
    """
    servers = (redirectors,) if isinstance(redirectors, str) else tuple(redirectors)
    for server in servers:
        if "://" not in server:
            raise InputError(f'redirector "{server}" is no URL: write it like root://host')
    try:
        expanded = list(_expanded(files, servers, "files"))
    except RecursionError:
        raise InputError("the file set is nested too deeply, or names itself: mend it") from None
    found = tuple(replace(source, tree=source.tree or tree) for source in expanded)
    if not found:
        raise InputError("there are no files to read: name at least one")
    _check_once(found)
    return found


def is_pattern(name: str) -> bool:
    """Tell whether a name may stand for many files.

    Parameters
    ----------
    name : str
        A path or URL.

    Returns
    -------
    bool
        Whether it has ``*``, ``[`` or, in a path, ``?``, which begins the query of a URL.

    Examples
    --------
    >>> is_pattern("nano_?.root"), is_pattern("https://host/a.root?token=b")
    (True, False)
    """
    return not frozenset("*[" if "://" in name else "*?[").isdisjoint(name)


def spans(
    source: Source, n_events: int, size: int, *, edges: Sequence[int] = ()
) -> tuple[Span, ...]:
    """Split the events of a source into ranges of about the same size.

    Parameters
    ----------
    source : Source
        The file.
    n_events : int
        How many events it has.
    size : int
        Most events in a range, were it not for the edges.
    edges : sequence of int, ascending
        Events at which a range had better begin, as the baskets of the file do: a border goes to
        the nearest one if that is less than half a range away.

    Returns
    -------
    tuple of Span
        Which follow each other, and have all events of the source's steps once.

    Raises
    ------
    InputError
        If a step lies beyond the file's end, or the size is no number of events.

    Examples
    --------
    >>> [(span.start, span.stop) for span in spans(Source("a.root"), 10, 4)]
    [(0, 3), (3, 6), (6, 10)]
    """
    if size < 1:
        raise InputError(f"ranges of {size} events are none: give a size of one or more")
    found = []
    for start, stop in source.steps or ((0, n_events),):
        if not 0 <= start <= stop <= n_events:
            raise InputError(
                f"{source.url} has {n_events} events, and not those of the step {start} to "
                f"{stop}: make the file set again"
            )
        parts = -(-(stop - start) // size)
        borders = [start + (stop - start) * part // parts for part in range(1, parts)]
        reach = (stop - start) / parts / 2 if parts else 0
        inside = sorted({_nearest(border, edges, reach) for border in borders} - {start, stop})
        all_borders = [start, *inside, stop]
        found += [Span(source, *pair) for pair in pairwise(all_borders) if start < stop]
    return tuple(found)


def _nearest(border: int, edges: Sequence[int], reach: float) -> int:
    near = min(edges, key=lambda edge: abs(edge - border), default=border)
    return near if abs(near - border) < reach else border


def _check_once(found: Sequence[Source]) -> None:
    """No event of a data set may count twice."""
    ranges: dict[tuple[str, str, str | None], list[tuple[float, float]]] = {}
    for source in found:
        key = (source.dataset, source.url, source.tree)
        ranges.setdefault(key, []).extend(source.steps or ((0, inf),))
    for (dataset, url, _), steps in ranges.items():
        behind = 0.0
        for start, stop in sorted(step for step in steps if step[0] < step[1]):
            if start < behind:
                part = f' of data set "{dataset}"' if dataset else ""
                twice = (
                    f"{url} is there twice{part}, so that its events"
                    if inf in (behind, stop)
                    else f"{url}{part} has events {start} to {min(behind, stop)} in two of its "
                    "steps, so that they"
                )
                raise InputError(f"{twice} would count twice: name each once")
            behind = stop


def _expanded(files: Any, servers: Sequence[str], where: str) -> Iterator[Source]:
    """Give the sources of whatever names files."""
    if isinstance(files, Source):
        yield files
    elif isinstance(files, Path):
        yield from _named(str(files), servers)
    elif isinstance(files, str):
        yield from _named(files, servers)
    elif isinstance(files, Mapping):
        for name, value in files.items():
            yield from _entry(str(name), value, servers)
    elif isinstance(files, Sequence):
        for each in files:
            if isinstance(each, list | tuple):
                yield _copies(each, servers, where)
            else:
                yield from _expanded(each, servers, where)
    else:
        raise InputError(
            f"{where} holds {files!r:.60}, which names no file: give names, patterns, a mapping, "
            "or a list of them"
        )


def _entry(name: str, value: Any, servers: Sequence[str]) -> Iterator[Source]:
    """Give the sources of one item: a file with its tree, or a data set with its files."""
    if isinstance(value, Mapping) and "files" in value:
        given = dict(value.get("metadata") or {})
        for source in _expanded(value["files"], servers, f'data set "{name}"'):
            tree = source.tree or value.get("treename")
            yield replace(source, dataset=name, tree=tree, metadata=given)
    elif isinstance(value, list | tuple) or (isinstance(value, str) and ".root" in value):
        for source in _expanded(value, servers, f'data set "{name}"'):
            yield replace(source, dataset=name)
    elif value is None or isinstance(value, str | Mapping):
        about = value if isinstance(value, Mapping) else {"object_path": value}
        for source in _named(name, servers):
            yield replace(
                source,
                tree=about.get("object_path") or source.tree,
                steps=_steps(about.get("steps"), name),
            )
    else:
        raise InputError(
            f'"{name}" has {value!r:.60}: give the name of its tree, or a list of its files'
        )


def _steps(given: Any, name: str) -> tuple[tuple[int, int], ...]:
    try:
        steps = tuple((index(start), index(stop)) for start, stop in given or ())
        ascending = all(0 <= start <= stop for start, stop in steps)
    except (TypeError, ValueError):
        ascending = False
    if not ascending:
        raise InputError(
            f"{name} has the steps {given!r:.60}: each is a pair, the first event and the one "
            "behind the last"
        )
    return steps


def _copies(names: Sequence[Any], servers: Sequence[str], where: str) -> Source:
    """One source of several that are the same file."""
    found: list[Source] = []
    missing: MissingFile | None = None
    for name in names:
        try:
            found += _expanded(name, servers, where)
        except MissingFile as error:
            # Copies come and go: that is what the others are for.
            LOG.warning("%s; its other copies are read", error)
            missing = error
    if not found:
        raise missing or InputError(
            f"{where} has a list of replicas with nothing in it: name a file"
        )
    urls = tuple(dict.fromkeys(url for source in found for url in source.urls))
    return replace(found[0], url=urls[0], replicas=urls[1:])


def _named(name: str, servers: Sequence[str]) -> Iterator[Source]:
    """Give the sources of one name: a file, a pattern, a logical name, or a list of files."""
    if name.endswith(_LISTS):
        yield from _expanded(_listed(Path(name)), servers, name)
        return
    split = _WITH_TREE.fullmatch(name)
    url, tree = (split["url"], split["tree"]) if split else (name, None)
    if url.startswith(LOGICAL) and servers:
        first, *others = [_at(server, url) for server in servers]
        yield Source(first, tree, replicas=tuple(others))
        return
    for found in _remote(url) if "://" in url else _local(url):
        yield Source(found, tree)


def _at(server: str, name: str) -> str:
    """URL of a logical name: XRootD wants the path from its root, with a slash of its own."""
    slash = "/" if server.startswith(("root://", "roots://", "xroot://")) else ""
    return f"{server.rstrip('/')}/{slash}{name.lstrip('/')}"


def _listed(path: Path) -> Any:
    if path.name.endswith((".yaml", ".yml")):
        return read_yaml(path)
    try:
        packed = path.read_bytes()
        return json.loads(gzip.decompress(packed) if path.suffix == ".gz" else packed)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or words(error)}): check the name"
        ) from None
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is no JSON ({words(error)}): mend it there") from None


def _local(name: str) -> list[str]:
    if not name.strip():
        raise InputError("a file has the empty name: leave it out, or write it whole")
    path = Path(name).expanduser()
    if path.is_file():
        return [str(path.absolute())]
    if is_pattern(name):
        found = [each for each in LocalFileSystem().glob(str(path)) if Path(each).is_file()]
        if not found:
            raise InputError(f"no file has a name like {name}: check the pattern")
        return sorted(found)
    if path.is_dir():
        raise InputError(f"{name} is a folder: write {name.rstrip('/')}/*.root for its files")
    advice = "give redirectors for logical names" if name.startswith(LOGICAL) else "check the name"
    raise MissingFile(f"there is no file {name}: {advice}")


def _remote(url: str) -> list[str]:
    if not is_pattern(url):
        return [url]
    try:
        system, path = fsspec.core.url_to_fs(url)
        found = sorted(system.unstrip_protocol(each) for each in system.glob(path))
    except (ImportError, ValueError) as error:
        raise InputError(
            f"files like {url} cannot be listed ({words(error)}): install what reads such URLs, "
            "or check the name"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise InputError(
            f"files like {url} cannot be listed ({words(error)}): name each of them"
        ) from None
    if not found:
        raise InputError(f"no file has a name like {url}: check the pattern")
    return found
