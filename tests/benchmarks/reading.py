"""How fast events become padded tensors, from the file on.

``python tests/benchmarks/reading.py [EVENTS [REPEATS]]``; it needs uproot.  Each file is read
(a) by ``uproot`` into arrays of awkward and no further, (b) by the loop that analyses write
themselves, and by the reader in one thread and in two.  All take turns, and the file lies in the
page cache.  Processor time tells what sharing costs where others use the machine, too.

Files made here are opened anew each time.  Published ones have so few events that opening them, in
which all forms are alike, is most of the work: they are open already.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import made_up
import numpy as np

from hepdask_ml.data.baskets import Reader
from hepdask_ml.data.stacks import Stack

Form: TypeAlias = Callable[[Any, Path, list[Stack]], Iterator[Any]]

COMPRESSIONS = {"zstd": ("ZSTD", 5), "lz4": ("LZ4", 1), "zlib": ("ZLIB", 1)}
COLLECTIONS = {"Jet": (5.0, 8), "Muon": (1.0, 4), "Electron": (1.0, 4)}
"""Mean number of items, and slots."""

FLOATS, WHOLES, SCALARS = 8, 2, 30
"""Branches of each collection, and those with one number for each event."""

BASKET = 50_000
REAL = {
    "nanoAOD_2015_CMS_Open_Data_ttbar.root": "Events",
    "nano_dy.root": "Events",
    "PHYSLITE_example.root": "CollectionTree",
    "uproot-HZZ.root": "events",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """One file: its size, and seconds of each form, by the clock and of processors."""

    file: str
    events: int
    branches: int
    megabytes: float
    seconds: dict[str, float]
    processors: dict[str, float]


def rounded(values: Any) -> Any:
    """Keep ten bits of each number, as NanoAOD does, so that there is something to compress."""
    return (values.astype("f4").view("u4") & np.uint32(0xFFFFE000)).view("f4")


def write(path: Path, compression: str, n_events: int) -> list[Stack]:
    """Write events like those of NanoAOD, and say what to read of them."""
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
    return stacks


def plain(tree: Any) -> list[Stack]:
    """All branches of numbers of a tree: one stack without slots, and one for each with lists."""
    uproot = import_module("uproot")
    scalars: list[str] = []
    lists: list[str] = []
    for name, branch in tree.iteritems(recursive=True):
        kind = branch.interpretation
        jagged = isinstance(kind, uproot.AsJagged)
        content = kind.content if jagged else kind
        if type(content) is uproot.AsDtype and content.from_dtype.names is None:
            (lists if jagged else scalars).append(name)
    return [Stack("event", tuple(scalars)), *(Stack(name, (name,), 4) for name in lists)]


def awkward(tree: Any, path: Path, stacks: list[Stack]) -> Iterator[Any]:
    """Form (a): arrays of awkward and no more."""
    names = [name for stack in stacks for name in stack.branches]
    yield from tree.iterate(names, step_size=BASKET)


def loop(tree: Any, path: Path, stacks: list[Stack]) -> Iterator[Any]:
    """Form (b): what analyses write."""
    ak = import_module("awkward")
    for arrays in awkward(tree, path, stacks):
        made = {}
        for stack in stacks:
            planes = []
            for name in stack.branches:
                array = arrays[name]
                if stack.slots is not None:
                    array = ak.fill_none(ak.pad_none(array, stack.slots, clip=True), np.nan)
                planes.append(ak.to_numpy(array).astype("f4"))
            made[stack.name] = np.stack(planes)
        yield made


def ours(threads: int) -> Form:
    """Read by so many threads, each batch into the same memory."""

    def read(tree: Any, path: Path, stacks: list[Stack]) -> Iterator[Any]:
        reader = Reader(tree, stacks, path=path, threads=threads)
        for batch in reader.batches(size=BASKET, reuse=True):
            yield batch.values

    return read


FORMS: dict[str, Form] = {"a": awkward, "b": loop, "ours": ours(1), "ours, 2 threads": ours(2)}


def measured(path: Path, name: str, stacks: list[Stack], repeats: int, *, anew: bool) -> Reading:
    """Read one file in all forms, which take turns; the tensors of two of them must be equal."""
    uproot = import_module("uproot")

    def opened() -> Any:
        return uproot.open({str(path): name})

    tree = opened()
    branches = [branch for stack in stacks for branch in stack.branches]
    for theirs, found in zip(loop(tree, path, stacks), ours(1)(tree, path, stacks), strict=True):
        for stack, values in theirs.items():
            np.testing.assert_array_equal(found[stack], values)
    clock: dict[str, list[float]] = {form: [] for form in FORMS}
    used: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(repeats):
        for form, function in FORMS.items():
            began, before = time.perf_counter(), time.process_time()
            for _ in function(opened() if anew else tree, path, stacks):
                pass
            clock[form].append(time.perf_counter() - began)
            used[form].append(time.process_time() - before)
    return Reading(
        path.name,
        int(tree.num_entries),
        len(branches),
        sum(tree[branch].uncompressed_bytes for branch in branches) / 1e6,
        {form: median(values) for form, values in clock.items()},
        {form: median(values) for form, values in used.items()},
    )


def reading(n_events: int = 200_000, repeats: int = 7) -> Iterator[Reading]:
    """Read files made here, and those that are there."""
    uproot = import_module("uproot")
    with tempfile.TemporaryDirectory() as folder:
        for name in COMPRESSIONS:
            path = Path(folder) / f"{name}.root"
            stacks = write(path, name, n_events)
            yield measured(path, "Events", stacks, repeats, anew=True)
            path.unlink()
    for name, tree in REAL.items():
        path = made_up.DATA / "root" / name
        if path.exists():
            with uproot.open({str(path): tree}) as opened:
                stacks = plain(opened)
            yield measured(path, tree, stacks, repeats, anew=False)


def main() -> None:
    """Print a table, and all numbers to the other stream."""
    head = ("file", "events", "MB", "form", "k events/s", "MB/s", "x(a)", "x(b)", "CPU s")
    print("{:20} {:>8} {:>6} {:16} {:>10} {:>6} {:>5} {:>5} {:>7}  x(a)  x(b)".format(*head))
    for found in reading(*(int(argument) for argument in sys.argv[1:])):
        for form in FORMS:
            took, used = found.seconds[form], found.processors[form]
            print(
                f"{found.file[:20]:20} {found.events:8} {found.megabytes:6.1f} {form:16} "
                f"{found.events / took / 1e3:10.1f} {found.megabytes / took:6.0f} "
                f"{found.seconds['a'] / took:5.2f} {found.seconds['b'] / took:5.2f} {used:7.3f} "
                f"{found.processors['a'] / used:5.2f} {found.processors['b'] / used:5.2f}"
            )
        print(json.dumps(asdict(found)), file=sys.stderr)


if __name__ == "__main__":
    main()
