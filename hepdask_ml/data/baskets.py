"""Events of one tree, from its file straight into padded tensors.

No array of awkward stands in between where branches hold plain numbers: a basket is decompressed,
and one pass over its bytes turns them round, converts and pads them.

Baskets of different branches begin at different events in files that ROOT wrote, and a batch of
events ends anywhere.  So each basket goes where its own events go, and those that reach beyond a
batch are kept for the next one: in order, each basket is decompressed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain, pairwise, zip_longest
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from hepdask_ml.data.basket_bytes import Basket, Room, unpacked
from hepdask_ml.data.columns import Column, columns_of, lay_out, lay_out_array
from hepdask_ml.data.stacks import Tensors, empty
from hepdask_ml.data.with_uproot import chunks, local, opened, readable, tree_of
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from hepdask_ml.data.stacks import Stack

_Key: TypeAlias = "tuple[int, int]"
_Map: TypeAlias = "Callable[[Callable[[_Key], Any], Iterable[_Key]], Iterable[Any]]"

# Into so many parts for each thread work is cut, since baskets differ.
_SHARES = 4


class Reader:
    """Reads tensors from one open tree.

    It has no state but its settings.  Its own threads share the tensors that they fill.

    Parameters
    ----------
    tree : TTree or RNTuple
        What uproot gives; its file stays open while the reader is used.
    stacks : sequence of Stack
        What to read.
    path : Path, optional
        The file, if it is a local one: its bytes are then read where they are used, and not in
        one request for each batch.
    threads : int
        So many decompress and fill side by side.

    Attributes
    ----------
    n_events : int
        Of the tree.

    Raises
    ------
    InputError
        If a branch is missing (the most similar one is named), or is of no kind that fits its
        stack.

    Examples
    --------
    >>> from hepdask_ml.data.stacks import Stack
    >>> jets = Stack("jets", ("Jet_pt", "Jet_eta"), slots=4)
    >>> with reader("nano.root", [jets], tree="Events") as events:  # doctest: +SKIP
    ...     for batch in events.batches(size=50_000):
    ...         train(batch.values["jets"])
    """

    def __init__(
        self, tree: Any, stacks: Sequence[Stack], *, path: Path | None = None, threads: int = 1
    ) -> None:
        names = [stack.name for stack in stacks]
        if len(set(names)) < len(names):
            raise InputError(f"two stacks have the same name, of {', '.join(names)}: rename one")
        if threads < 1:
            raise InputError(f"{threads} threads read nothing: give one or more")
        self.n_events = int(tree.num_entries)
        self._tree = tree
        self._stacks = tuple(stacks)
        self._path = path
        self._threads = threads
        self._where = f"{tree.file.file_path}:{tree.name}"
        self._columns: Sequence[Column] = columns_of(tree, stacks)

    def read(self, start: int = 0, stop: int | None = None) -> Tensors:
        """Read a range of events.

        Parameters
        ----------
        start, stop : int
            Events of the tree, half open; to the end if there is no stop.

        Returns
        -------
        Tensors
            Of these events.

        Raises
        ------
        InputError
            If there are no such events, or branches of one stack have different lengths.
        UnreadableFile
            If the file cannot be read there.
        """
        start, stop = self._range(start, stop)
        room = empty(self._stacks, start, stop)
        if start < stop:
            for _ in self._batches([start, stop], room):
                pass
        return room

    def batches(
        self, start: int = 0, stop: int | None = None, *, size: int, reuse: bool = False
    ) -> Iterator[Tensors]:
        """Read a range of events in batches; the bytes of one are fetched while another is used.

        Parameters
        ----------
        start, stop : int
            Events of the tree, half open; to the end if there is no stop.
        size : int
            Events in a batch; the last one has what is left.
        reuse : bool
            Give the same memory each time, with the next events: for those who are done with a
            batch when they ask for another.

        Returns
        -------
        iterator of Tensors
            Of consecutive events.

        Raises
        ------
        InputError, UnreadableFile
            As `read`.
        """
        if size < 1:
            raise InputError(f"a batch of {size} events is none: give a size of one or more")
        start, stop = self._range(start, stop)
        room = empty(self._stacks, start, min(start + size, stop)) if reuse else None
        return self._batches([*range(start, stop, size), stop], room)

    def _range(self, start: int, stop: int | None) -> tuple[int, int]:
        stop = self.n_events if stop is None else stop
        if not 0 <= start <= stop <= self.n_events:
            raise InputError(
                f"{self._where} has no events {start} to {stop}: it has {self.n_events}"
            )
        return start, stop

    def _batches(self, edges: Sequence[int], room: Tensors | None) -> Iterator[Tensors]:
        """Fill batches between consecutive edges, in ``room`` if there is any."""
        kept: dict[_Key, Any] = {}
        memory = Room()
        ranges = list(pairwise(edges))
        with _mapped(self._threads) as run, self._bytes() as file:
            ahead = self._requested(ranges[0], file, begun=True) if ranges else {}
            for (start, stop), after in zip_longest(ranges, ranges[1:]):
                at_hand = {**kept, **ahead}
                ahead = self._requested(after, file, begun=False) if after else {}
                batch = room.part(start, stop) if room else empty(self._stacks, start, stop)
                kept = self._filled(batch, at_hand, memory, run)
                yield batch

    @contextmanager
    def _bytes(self) -> Iterator[IO[bytes] | None]:
        """Open the file once more for its bytes, if it is a local one."""
        if self._path is None:
            yield None
            return
        with readable(self._where):
            file = self._path.open("rb", buffering=0)
        with file:
            yield file

    def _requested(
        self, events: tuple[int, int], file: IO[bytes] | None, *, begun: bool
    ) -> dict[_Key, Any]:
        """Ask for the baskets of a range of events: all, or those that begin there."""
        places = {
            (index, number): column.places[number]
            for index, column in enumerate(self._columns)
            for number in column.baskets(*events, begun=begun)
        }
        distinct = sorted({place for place in places.values() if isinstance(place, tuple)})
        with readable(self._where):
            at = dict(zip(distinct, chunks(self._tree, distinct, file), strict=True))
        return {
            key: at[place] if isinstance(place, tuple) else place for key, place in places.items()
        }

    def _filled(
        self, batch: Tensors, at_hand: dict[_Key, Any], room: Room, run: _Map
    ) -> dict[_Key, Any]:
        """Fill a batch; give the baskets that reach beyond it."""
        kept: dict[_Key, Any] = {}
        # The first branch of a stack says the lengths, which the others are compared with.
        for leading in (True, False):
            keys: list[_Key] = []
            for index, column in enumerate(self._columns):
                if leading is not (column.row == 0):
                    continue
                if column.dtype is None:
                    lay_out_array(column, batch)
                numbers = column.baskets(batch.start, batch.stop, begun=True)
                keys += [(index, number) for number in numbers]
            placed = zip(keys, run(partial(self._placed, batch, at_hand, room), keys), strict=True)
            kept |= {key: basket for key, basket in placed if basket is not None}
        return kept

    def _placed(self, batch: Tensors, at_hand: dict[_Key, Any], room: Room, key: _Key) -> Any:
        """Lay out what a batch takes of a basket; give the basket if it reaches beyond."""
        index, number = key
        column, basket = self._columns[index], at_hand.pop(key)
        first, last = column.edges[number : number + 2]
        beyond = last > batch.stop
        stored = callable(basket)
        with readable(column.where):
            if stored:
                memory = room.lend if beyond else partial(room.own, "unpacked")
                # Of events before this batch no lengths are known.
                offsets = not column.follows or first < batch.start
                basket = unpacked(basket(partial(room.own, "stored")), memory, offsets=offsets)
            rest = lay_out(column, number, basket, batch)
        if beyond:
            return rest
        if not stored and isinstance(basket, Basket):
            room.give_back(basket.memory)
        return None


@contextmanager
def reader(
    url: str, stacks: Sequence[Stack], *, tree: str | None = None, threads: int = 1, **options: Any
) -> Iterator[Reader]:
    """Open a file and give what reads tensors from it.

    Parameters
    ----------
    url : str
        A local path, or a URL that fsspec knows.
    stacks : sequence of Stack
        What to read.
    tree : str, optional
        Name of the tree, folders included, where there are several.
    threads : int
        So many decompress and fill side by side.
    **options
        For ``uproot.open``, such as ``timeout``.

    Yields
    ------
    Reader
        While the file is open.

    Raises
    ------
    InputError
        If there is no such tree or branch, or a branch does not fit its stack.
    UnreadableFile
        If the file cannot be opened.
    """
    with opened(url, **options) as file:
        found = tree_of(file, tree, url)
        yield Reader(found, stacks, path=local(url), threads=threads)


@contextmanager
def _mapped(threads: int) -> Iterator[_Map]:
    """Give what applies a function to each of many: in this thread, or in so many."""
    if threads == 1:
        yield map
        return

    def run(function: Callable[[_Key], Any], keys: Iterable[_Key]) -> Iterable[Any]:
        """Hand out several at a time: each time takes some 30 µs."""
        given = list(keys)
        step = -(-len(given) // (_SHARES * threads)) or 1
        parts = [given[at : at + step] for at in range(0, len(given), step)]
        return chain.from_iterable(pool.map(lambda part: list(map(function, part)), parts))

    with ThreadPoolExecutor(threads) as pool:
        yield run
