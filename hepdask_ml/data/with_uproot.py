"""ROOT files, trees, branches: the one door to uproot and awkward, which need not be there.

Only public names of uproot are used here and by those who read through this module: its files and
sources, ``TBranch``, the interpretations and compressions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from lzma import LZMAError
from os import preadv
from pathlib import Path
from queue import SimpleQueue
from struct import error as StructError
from typing import IO, TYPE_CHECKING, Any, TypeAlias
from zlib import error as ZlibError

import numpy as np

from hepdask_ml.config import nearest
from hepdask_ml.data import with_xrootd
from hepdask_ml.errors import InputError, words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Piece: TypeAlias = Callable[[Callable[[int], NDArray[np.uint8]]], NDArray[np.uint8]]

PATIENCE_S = 60.0
"""How long an XRootD server may take for an answer, if nobody says."""

_SHOWN = 8
_TREES = ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple")


class UnreadableFile(InputError):
    """A file, or this copy of it, cannot be read; another copy may be whole."""


def library(name: str = "uproot") -> Any:
    """Import uproot, or what comes with it.

    Parameters
    ----------
    name : {"uproot", "awkward", "cramjam", "xxhash"}
        Which.

    Returns
    -------
    module
        The library.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise InputError(f"ROOT files are read by {name}: install hepdask-ml[data]") from None


@contextmanager
def opened(url: str, **options: Any) -> Iterator[Any]:
    """Open a ROOT file, and say in one sentence what is wrong with it.

    Parameters
    ----------
    url : str
        A local path, or a URL that fsspec knows.
    **options
        For ``uproot.open``, such as ``timeout``; if not given, those of `data.with_xrootd` for a
        file with an XRootD server.

    Yields
    ------
    object
        What uproot opens.

    Raises
    ------
    UnreadableFile
        If it cannot be opened.
    """
    uproot = library()
    if url.startswith(with_xrootd.SCHEMES):
        options = {**with_xrootd.options(PATIENCE_S), **options}
    with readable(url):
        # As a mapping, so that no colon of the name is taken for the begin of a tree's name.
        file = uproot.open({url: None}, **options)
    with file:
        yield file


def local(url: str) -> Path | None:
    """Give the path of a local file, or None for what fsspec has to fetch.

    Parameters
    ----------
    url : str
        A local path, or a URL.

    Returns
    -------
    Path or None
        Of the file.

    Examples
    --------
    >>> local("root://host//store/a.root") is None
    True
    """
    if "::" in url:
        return None
    path = Path(url.removeprefix("file://"))
    return path if path.is_file() else None


def chunks(tree: Any, ranges: Sequence[tuple[int, int]], file: IO[bytes] | None) -> list[Piece]:
    """Ask for bytes of a tree's file.

    Parameters
    ----------
    tree : TTree
        As uproot has it.
    ranges : sequence of (int, int)
        First byte and end of each piece.
    file : file or None
        The same file, if it is a local one: its bytes are then read where they are used, by
        whichever thread does it.  Otherwise all are asked for in one request, and come while
        others are used.

    Returns
    -------
    list of Piece
        In the order of the ranges.  Each is called with what gives memory of some size, and gives
        its bytes, there or elsewhere.
    """
    if not ranges:
        return []
    if file is None:
        return [
            partial(_arrived, chunk) for chunk in tree.source.chunks(list(ranges), SimpleQueue())
        ]
    return [partial(_read, file.fileno(), start, stop) for start, stop in ranges]


def _arrived(chunk: Any, memory: Callable[[int], NDArray[np.uint8]]) -> NDArray[np.uint8]:  # noqa: ARG001
    cursor = library().source.cursor.Cursor(chunk.start)
    found: NDArray[np.uint8] = chunk.get(chunk.start, chunk.stop, cursor, {})
    return found


def _read(
    file: int, start: int, stop: int, memory: Callable[[int], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    into = memory(stop - start)
    if preadv(file, [into.data], start) != len(into):
        raise EOFError(f"it ends before byte {stop}")
    return into


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Say in one sentence that something cannot be read, whoever finds out.

    Parameters
    ----------
    what : str
        The file, and what of it.

    Raises
    ------
    UnreadableFile
        For what the file system, uproot and the decompressors raise; uproot trusts the bytes that
        it reads, so that damaged ones end in errors of any kind.
    InputError
        If a library that fsspec asks for is not installed, or it does not know the protocol.
    """
    uproot = library()
    codecs = library("cramjam")
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"{what} needs what is not installed ({words(error)}): install hepdask-ml[data]"
        ) from None
    except OSError as error:
        raise UnreadableFile(
            f"{what} cannot be read ({error.strerror or words(error)}): check that it is there, "
            "and that you may read it"
        ) from None
    except (
        ValueError,
        LookupError,
        TypeError,
        AssertionError,
        NotImplementedError,
        AttributeError,
        ArithmeticError,
        EOFError,
        MemoryError,
        NameError,
        RecursionError,
        StructError,
        ZlibError,
        LZMAError,
        codecs.DecompressionError,
        uproot.deserialization.DeserializationError,
    ) as error:
        if "Protocol not known" in str(error):
            raise InputError(
                f"{what} begins as no URL does that can be read ({words(error)}): give a local "
                "path, or a URL that fsspec knows"
            ) from None
        raise UnreadableFile(
            f"{what} is damaged, or is no ROOT file that can be read ({words(error)}): make or "
            "fetch it again"
        ) from None


def tree_of(file: Any, name: str | None, url: str) -> Any:
    """Find a tree in a file.

    Parameters
    ----------
    file : object
        What `opened` gives.
    name : str or None
        Its name, folders included; None where there is only one.
    url : str
        Of the file, for messages.

    Returns
    -------
    TTree or RNTuple
        As uproot has it.

    Raises
    ------
    InputError
        If there is none of that name, or more than one to choose from.
    """
    with readable(url):
        kinds = file.classnames(recursive=True, cycle=False)
    trees = [key for key, kind in kinds.items() if kind in _TREES]
    shown = ", ".join(trees[:_SHOWN]) + (", ..." if len(trees) > _SHOWN else "")
    if not trees:
        raise InputError(f"{url} has no tree: give a file of events")
    if name is None:
        if len(trees) > 1:
            raise InputError(f"{url} has {len(trees)} trees, {shown}: name the one to be read")
        name = trees[0]
    if name.partition(";")[0] not in trees:
        near = nearest(name, trees) or [f"there is {shown}"]
        raise InputError(f'{url} has no tree "{name}": {near[0]}')
    with readable(f"{url}:{name}"):
        return file[name]


def branch_of(tree: Any, name: str, where: str) -> Any:
    """Find a branch of a TTree, or a field of an RNTuple.

    Parameters
    ----------
    tree : TTree or RNTuple
        What `tree_of` gives.
    name : str
        As uproot names it.
    where : str
        The file and the tree, for messages.

    Returns
    -------
    TBranch or RField
        As uproot has it.

    Raises
    ------
    InputError
        If there is none of that name; the most similar one is named.
    """
    try:
        return tree[name]
    except KeyError:
        near = nearest(name, tree.keys()) or ["give one of those that it has"]
        raise InputError(f'{where} has no branch "{name}": {near[0]}') from None
