"""Forms: what events are read as.

A stream knows which events it wants, from which copy of a file; its *form* turns them into what
they are used as: arrays of awkward here, those of coffea in `data.with_coffea`, tensors in
`data.tensors`.  A form opens one copy, once, and gives its events part by part; what it does when
the copy fails is to raise, since the stream knows the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypeVar, runtime_checkable

from hepdask_ml.config import nearest
from hepdask_ml.data.sources import Source
from hepdask_ml.data.with_uproot import (
    UnreadableFile,
    branch_of,
    library,
    opened,
    readable,
    tree_of,
)
from hepdask_ml.errors import InputError

T_co = TypeVar("T_co", covariant=True)

_PATTERN = frozenset("*?[")


class MissingBranch(InputError):
    """A file has no such branch; the message names the most similar one.

    Parameters
    ----------
    message : str
        The sentence.
    branch : str
        What is missing.
    """

    def __init__(self, message: str, branch: str = "") -> None:
        super().__init__(message)
        self.branch = branch

    def __reduce__(self) -> tuple[type[MissingBranch], tuple[str, str]]:
        return type(self), (str(self), self.branch)


class Form(Protocol[T_co]):
    """What events are read as; can be pickled.

    An error of any other class than `UnreadableFile` ends the stream: it would be the same with
    every copy.  Both methods are called in a thread of the stream's, never in two at a time for
    one file.
    """

    def batches(
        self, source: Source, url: str, start: int, stop: int, size: int, **options: Any
    ) -> Iterator[tuple[int, T_co]]:
        """Read events part by part.

        Parameters
        ----------
        source : Source
            The file, with the tree that is meant.
        url : str
            The copy of it that is to be read.
        start, stop : int
            The first event, and the one behind the last.
        size : int
            Events in each part, but for the last one.
        **options
            For ``uproot.open``.

        Yields
        ------
        stop : int
            The event behind the last one of the part.
        part : T
            Its events.

        Raises
        ------
        UnreadableFile
            If this copy fails; another one goes on behind the last part.
        InputError
            If the file is not what was asked for.
        """
        ...

    def n_events(self, source: Source, url: str, **options: Any) -> int:
        """Tell how many events there are; parameters and errors are as for `batches`.

        Returns
        -------
        int
            Of the tree.
        """
        ...


@dataclass(frozen=True, slots=True)
class Look:
    """What one look into a file finds.

    Attributes
    ----------
    n_events : int
        Of the tree.
    kinds : mapping of str to str
        Of the branches that are read: their types, in the words of C++.
    uuid : str
        What the file calls itself; empty if nobody looked.
    size : int
        Of the file, in bytes, as it says itself; zero if nobody looked.
    edges : tuple of int
        Events at which a range had better begin: what is stored in one piece of every branch that
        is read ends there.
    url : str
        The copy that was looked into; empty if nobody noted it.
    """

    n_events: int
    kinds: Mapping[str, str] = field(default_factory=dict)
    uuid: str = ""
    size: int = 0
    edges: tuple[int, ...] = ()
    url: str = ""


@runtime_checkable
class Looks(Protocol):
    """A form that can also tell the kinds of its branches: they may not change between files."""

    def look(self, source: Source, url: str, **options: Any) -> Look:
        """Look into a file; parameters and errors are as for `Form.batches`.

        Returns
        -------
        Look
            How many events there are, and of what kind.
        """
        ...


@contextmanager
def tree_at(source: Source, url: str, **options: Any) -> Iterator[Any]:
    """Open a copy of a file, and give the tree that is meant.

    Parameters
    ----------
    source : Source
        The file.
    url : str
        The copy.
    **options
        For ``uproot.open``.

    Yields
    ------
    TTree or RNTuple
        As uproot has it, while the file is open.

    Raises
    ------
    InputError
        If there is no such tree.
    UnreadableFile
        If the copy cannot be opened.
    """
    with opened(url, **options) as file:
        yield tree_of(file, source.tree, url)


def where_of(tree: Any, url: str) -> str:
    """Name a tree for messages.

    Parameters
    ----------
    tree : TTree or RNTuple
        As uproot has it.
    url : str
        Of its file.

    Returns
    -------
    str
        The file and the tree.

    Raises
    ------
    UnreadableFile
        If the file is damaged: an RNTuple knows its name only when it is read.
    """
    with readable(url):
        return f"{url}:{tree.name}"


def check_whole(file: Any, url: str) -> None:
    """Compare the length of a file with what it says itself.

    Parameters
    ----------
    file : object
        What `data.with_uproot.opened` gives.
    url : str
        Of the file, for the message.

    Raises
    ------
    UnreadableFile
        If its end is missing.
    """
    with readable(url):
        said, size = file.file.fEND, file.file.source.num_bytes
    # Not all servers tell how long a file is.
    if size is not None and size < said:
        raise UnreadableFile(f"{url} has only {size} of its {said} bytes: fetch it again")


def branches_of(tree: Any, names: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Find the branches that are meant.

    Parameters
    ----------
    tree : TTree or RNTuple
        As uproot has it.
    names : sequence of str or None
        Names, and patterns with ``*``, which stand for what can be an array of awkward; None
        means all.
    where : str
        The file and the tree, for messages.

    Returns
    -------
    tuple of str
        Each once, in the order of the names; those of a pattern in that of the tree.

    Raises
    ------
    MissingBranch
        If there is no such branch; the most similar one is named.
    InputError
        If a branch that is named cannot be an array.
    """
    # uproot trusts what it reads: any question to a tree can end in any error.
    with readable(where):
        known = tree.keys()
        found: dict[str, None] = {}
        for name in ["*"] if names is None else names:
            # Some branches have such a sign in their name.
            if name in known or _PATTERN.isdisjoint(name):
                _check_array(tree, name, where)
                found[name] = None
            else:
                found |= dict.fromkeys(_fitting(tree, name, known, where))
        return tuple(found)


def _check_array(tree: Any, name: str, where: str) -> None:
    try:
        branch = branch_of(tree, name, where)
    except UnreadableFile:
        raise
    except InputError as error:
        raise MissingBranch(str(error), name) from None
    if not _is_array(branch, named=True):
        raise InputError(
            f'{where} has a branch "{name}", but uproot makes no array of it '
            f"({branch.typename or 'of unknown type'}): leave it out"
        )


def _fitting(tree: Any, pattern: str, known: Sequence[str], where: str) -> list[str]:
    """Names that a pattern stands for."""
    fitting = [key for key in known if fnmatchcase(key, pattern)]
    if not fitting:
        near = nearest(pattern, known) or ["give one of those that it has"]
        raise MissingBranch(f'{where} has no branch like "{pattern}": {near[0]}', pattern)
    fitting = [key for key in fitting if _is_array(tree[key])]
    if not fitting:
        raise InputError(
            f'{where} has branches like "{pattern}", but none that uproot makes an array of: name '
            "others"
        )
    return fitting


def _is_array(branch: Any, *, named: bool = False) -> bool:
    """Whether a branch can be an array of awkward, on its own."""
    uproot = library()
    if not isinstance(branch, uproot.TBranch):
        # A part of a field of an RNTuple comes with the field, if nobody asks for it alone.
        return (named or "." not in branch.path) and not branch.path.startswith("_collection")
    kind = branch.interpretation
    # What has branches of its own holds nothing beside them that could be read, and uproot gives an
    # exception for the kind of what it does not know.
    if branch.branches or isinstance(kind, uproot.AsGrouped | Exception):
        return False
    try:
        form = kind.awkward_form(None)
    except uproot.interpretation.objects.CannotBeAwkward:
        return False
    # A record without fields is the base of a class.
    return not (form.is_record and not form.fields)


def look_at(source: Source, url: str, names: Sequence[str] | None, **options: Any) -> Look:
    """Look into a copy of a file.

    Parameters
    ----------
    source : Source
        The file.
    url : str
        The copy.
    names : sequence of str or None
        The branches that are to be read, or patterns; None means all.
    **options
        For ``uproot.open``.

    Returns
    -------
    Look
        How many events there are, and of what kind, if there are any.

    Raises
    ------
    InputError
        If there is no such tree, or no such branch.
    UnreadableFile
        If the copy cannot be opened.
    """
    with opened(url, **options) as file:
        check_whole(file, url)
        tree = tree_of(file, source.tree, url)
        where = where_of(tree, url)
        with readable(where):
            n_events = int(tree.num_entries)
        # Writers leave out the branches that they never filled.
        found = branches_of(tree, names, where) if n_events else ()
        with readable(where):
            return Look(
                n_events,
                {name: tree[name].typename for name in found},
                str(tree.file.uuid),
                int(tree.file.fEND),
                _edges(tree, found),
            )


def _edges(tree: Any, names: Sequence[str]) -> tuple[int, ...]:
    """Events at which all branches begin another basket, or at which a cluster begins."""
    if not isinstance(tree, library().TTree):
        return tuple(int(cluster.num_first_entry) for cluster in tree.cluster_summaries)
    common: set[int] | None = None
    for name in names:
        begun = set(map(int, tree[name].entry_offsets))
        common = begun if common is None else common & begun
    return tuple(sorted(common or ()))


@dataclass(frozen=True, slots=True)
class Arrays:
    """Events as arrays of awkward, read by uproot.

    Attributes
    ----------
    branches : tuple of str or None
        Their names, or patterns with ``*``; None means all.
    """

    branches: tuple[str, ...] | None = None

    def look(self, source: Source, url: str, **options: Any) -> Look:
        """Look into a file, as `Looks` has it."""
        return look_at(source, url, self.branches, **options)

    def n_events(self, source: Source, url: str, **options: Any) -> int:
        """Tell how many events there are, as `Form` has it."""
        return self.look(source, url, **options).n_events

    def batches(
        self, source: Source, url: str, start: int, stop: int, size: int, **options: Any
    ) -> Iterator[tuple[int, Any]]:
        """Read events part by part, as `Form` has it: records with a field for each branch."""
        with tree_at(source, url, **options) as tree:
            where = where_of(tree, url)
            names = branches_of(tree, self.branches, where)
            with readable(where):
                parts = tree.iterate(
                    list(names),
                    step_size=size,
                    entry_start=start,
                    entry_stop=stop,
                    library="ak",
                )
            at = start
            while at < stop:
                with readable(f"{where}, events {at} to {min(at + size, stop)},"):
                    part = next(parts, None)
                if part is None or len(part) != min(size, stop - at):
                    raise UnreadableFile(
                        f"{where} ends at event {at + (0 if part is None else len(part))}, before "
                        f"{stop}: make or fetch the file again"
                    )
                at += len(part)
                yield at, part
