"""Ways from a file of events to what a training takes, each as a function of a range of events.

*(a)* is ``uproot.iterate`` to arrays of awkward and no further.  *(b)* is the loop that analyses
write themselves.  *(c)* is coffea's ``Runner``, whose processor returns columns.  *Ours* is a
stream of tensors.  *Decompress* does only that, for all baskets.  Dask workers import all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hepdask_ml.data.basket_bytes import Room, unpacked
from hepdask_ml.data.baskets import Reader
from hepdask_ml.data.columns import columns_of
from hepdask_ml.data.sources import Span
from hepdask_ml.data.stacks import Stack
from hepdask_ml.data.tensors import tensors
from hepdask_ml.data.with_uproot import chunks

Form: TypeAlias = Callable[["Events", int, int], Iterator[Any]]

COMPRESSIONS = {"zstd": ("ZSTD", 5), "lz4": ("LZ4", 1), "zlib": ("ZLIB", 1)}
COLLECTIONS = {"Jet": (5.0, 8), "Muon": (1.0, 4), "Electron": (1.0, 4)}
"""Mean number of items, and slots."""

FLOATS, WHOLES, SCALARS = 8, 2, 30
"""Branches of each collection, and those with one number for each event."""

BASKET = 50_000


@dataclass(frozen=True, slots=True)
class Events:
    """A tree of a file, and what to read of it.

    Attributes
    ----------
    path, tree : str
        Where it is.
    n_events : int
        It has.
    stacks : tuple of Stack
        What to read.
    size : int
        Events of a batch.
    threads : int
        Of ours, for one batch.
    opened : TTree or None
        The tree, if it is open already.
    """

    path: str
    tree: str
    n_events: int
    stacks: tuple[Stack, ...]
    size: int = BASKET
    threads: int = 1
    opened: Any = None

    @property
    def branches(self) -> list[str]:
        return [branch for stack in self.stacks for branch in stack.branches]

    @property
    def features(self) -> dict[str, Any]:
        """What to read as a declaration."""
        groups = {
            stack.name: {"branches": list(stack.branches), "length": stack.slots}
            if stack.slots is not None
            else list(stack.branches)
            for stack in self.stacks
        }
        return {"tree": self.tree, "features": groups}


def rounded(values: Any) -> Any:
    """Keep ten bits of each number, as NanoAOD does, so that there is something to compress."""
    return (values.astype("f4").view("u4") & np.uint32(0xFFFFE000)).view("f4")


def write(path: Path, compression: str, n_events: int) -> Events:
    """Write events like those of NanoAOD: 60 branches, half of them jagged."""
    uproot, ak = import_module("uproot"), import_module("awkward")
    rng = np.random.default_rng(1)
    kind, level = COMPRESSIONS[compression]
    scalars = [f"scalar{i}" for i in range(SCALARS)]
    stacks = [Stack("event", tuple(scalars))]
    stacks += [
        Stack(name, tuple(f"{name}_{i}" for i in range(FLOATS + WHOLES)), slots)
        for name, (_, slots) in COLLECTIONS.items()
    ]
    with uproot.recreate(path, compression=getattr(uproot, kind)(level)) as file:
        for start in range(0, n_events, BASKET):
            n = min(BASKET, n_events - start)
            arrays = {name: rounded(rng.exponential(30.0, n)) for name in scalars}
            for name, (mean, _) in COLLECTIONS.items():
                counts = rng.poisson(mean, n)
                total = int(counts.sum())
                fields = [rounded(rng.exponential(30.0, total)) for _ in range(FLOATS)]
                fields += [rng.integers(0, 6, total).astype("i4") for _ in range(WHOLES)]
                items = {str(i): ak.unflatten(each, counts) for i, each in enumerate(fields)}
                arrays[name] = ak.zip(items)
            if not start:
                kinds = {
                    name: each.dtype if isinstance(each, np.ndarray) else each.type.content
                    for name, each in arrays.items()
                }
                file.mktree("Events", kinds)
            file["Events"].extend(arrays)
    return Events(str(path), "Events", n_events, tuple(stacks))


@contextmanager
def plain(path: Path, name: str) -> Iterator[Events]:
    """All branches of numbers of a tree: one stack without slots, and one for each with lists."""
    uproot = import_module("uproot")
    scalars: list[str] = []
    lists: list[str] = []
    with uproot.open({str(path): name}) as tree:
        for branch, each in tree.iteritems(recursive=True):
            kind = each.interpretation
            jagged = isinstance(kind, uproot.AsJagged)
            content = kind.content if jagged else kind
            if type(content) is uproot.AsDtype and content.from_dtype.names is None:
                (lists if jagged else scalars).append(branch)
        stacks = [Stack("event", tuple(scalars)), *(Stack(each, (each,), 4) for each in lists)]
        yield Events(str(path), name, int(tree.num_entries), tuple(stacks), opened=tree)


@contextmanager
def tree_of(events: Events) -> Iterator[Any]:
    """Open the tree, if it is not open."""
    if events.opened is not None:
        yield events.opened
        return
    with import_module("uproot").open({events.path: events.tree}) as tree:
        yield tree


def megabytes(events: Events) -> float:
    """Size of the branches that are read, decompressed."""
    with tree_of(events) as tree:
        return sum(int(tree[branch].uncompressed_bytes) for branch in events.branches) / 1e6


def awkward(events: Events, start: int, stop: int) -> Iterator[Any]:
    """Form (a): arrays of awkward and no more."""
    with tree_of(events) as tree:
        yield from tree.iterate(
            events.branches, step_size=events.size, entry_start=start, entry_stop=stop
        )


def loop(events: Events, start: int, stop: int) -> Iterator[Any]:
    """Form (b): what analyses write."""
    torch = import_module("torch")
    for arrays in awkward(events, start, stop):
        yield {
            stack.name: torch.from_numpy(
                np.stack([padded(arrays[b], stack) for b in stack.branches])
            )
            for stack in events.stacks
        }


def padded(array: Any, stack: Stack) -> Any:
    """One branch, padded as everybody does it."""
    ak = import_module("awkward")
    if stack.slots is not None:
        array = ak.fill_none(ak.pad_none(array, stack.slots, clip=True), np.nan)
    return ak.to_numpy(array).astype("f4")


def ours(events: Events, start: int, stop: int) -> Iterator[Any]:
    """Batches of a stream, or of the reader behind it for an open tree, in the same memory."""
    torch = import_module("torch")
    if events.opened is not None:
        reader = Reader(events.opened, events.stacks, path=Path(events.path))
        for part in reader.batches(start, stop, size=events.size, reuse=True):
            yield {name: torch.from_numpy(planes) for name, planes in part.values.items()}
        return
    stream = tensors(
        events.path, events.features, size=events.size, threads=events.threads, reuse=True
    )
    for batch in stream.batches(Span(stream.sources[0], start, stop)):
        planes = {name: np.moveaxis(values, -1, 0) for name, values in batch.inputs.items()}
        yield {name: torch.from_numpy(each) for name, each in planes.items()}


FORMS: dict[str, Form] = {"(a) awkward": awkward, "(b) loop": loop, "ours": ours}
A, B, OURS, C, FLOOR = (*FORMS, "(c) coffea", "decompress")


def decompressed(events: Events) -> None:
    """Decompress all baskets that forms read, in whole, and do nothing with them."""
    room = Room()
    stored, unpacking = partial(room.own, "stored"), partial(room.own, "unpacked")
    with tree_of(events) as tree, Path(events.path).open("rb") as file:
        for column in columns_of(tree, events.stacks):
            for piece in chunks(tree, column.places, file):
                unpacked(piece(stored), unpacking)


@cache
def _columns() -> Any:
    processor = import_module("coffea.processor")

    class Columns(processor.ProcessorABC):  # type: ignore[misc, name-defined]
        """Gives events as columns, padded as in (b)."""

        __qualname__ = "Columns"

        def __init__(self, stacks: tuple[Stack, ...]) -> None:
            self._stacks = stacks

        def process(self, events: Any) -> dict[str, Any]:
            return {
                stack.name: processor.column_accumulator(
                    np.stack([padded(events[each], stack) for each in stack.branches], axis=-1)
                )
                for stack in self._stacks
            }

        def postprocess(self, accumulator: Any) -> Any:
            return accumulator

        def __reduce__(self) -> tuple[Any, ...]:
            return _made_columns, (self._stacks,)

    return Columns


def _made_columns(stacks: tuple[Stack, ...]) -> Any:
    return _columns()(stacks)


def coffea(events: Events, executor: Any) -> Any:
    """Form (c): columns of all events, returned by a processor."""
    processor = import_module("coffea.processor")
    torch = import_module("torch")
    runner = processor.Runner(
        executor,
        pre_executor=processor.IterativeExecutor(status=False),
        schema=import_module("coffea.nanoevents").BaseSchema,
        chunksize=events.size,
        savemetrics=False,
    )
    files = {"events": {"treename": events.tree, "files": [events.path]}}
    # It draws bars, also where none are asked for.
    with redirect_stdout(StringIO()):
        found = runner(files, processor_instance=_made_columns(events.stacks))
    return {name: torch.from_numpy(column.value) for name, column in found.items()}


def read(form: str, events: Events, start: int, stop: int) -> int:
    """Read a range of events to the end, and throw all away; gives how many batches there were."""
    return sum(1 for _ in FORMS[form](events, start, stop))


def parts(events: Events, n: int) -> list[tuple[int, int]]:
    """Cut a file for so many workers, at borders of batches."""
    step = -(-events.n_events // (n * events.size)) * events.size
    edges = [*range(0, events.n_events, step), events.n_events]
    return list(pairwise(edges))


def read_by_threads(pool: Any, form: str, events: Events, n: int) -> int:
    """Read a file by the threads of a pool."""
    return sum(pool.map(lambda ends: read(form, events, *ends), parts(events, n)))


def read_by_dask(client: Any, form: str, events: Events, n: int) -> int:
    """Read a file by the workers of a cluster, where tensors stay."""
    starts, stops = zip(*parts(events, n), strict=True)
    work = partial(read, form, events)
    return sum(client.gather(client.map(work, starts, stops, pure=False)))
