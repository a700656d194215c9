"""How fast events become batches of tensors, from the file on.

All forms (`benchmarks.reading_forms`) take turns, and what is told are medians of the ratios of
each turn, since the machine may be used by others, too; processor time says what that costs.  Files
lie in the page cache and are opened anew each time.  Published ones have so few events that opening
them, in which all forms are alike, is most of the work: they are open already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import made_up
import numpy as np
from benchmarks.reading_forms import (
    COMPRESSIONS,
    FLOOR,
    FORMS,
    OURS,
    C,
    Events,
    coffea,
    decompressed,
    loop,
    megabytes,
    ours,
    plain,
    read,
    read_by_dask,
    read_by_threads,
    write,
)

WORKERS = 4
EVENTS, REPEATS = 1_000_000, 5
QUICK_EVENTS, QUICK_REPEATS = 4_000, 1
UNALIGNED = 30_000
"""Events of batches that cut baskets in two."""

MLP_BATCH = 1000
REAL = {
    "nanoAOD_2015_CMS_Open_Data_ttbar.root": "Events",
    "nano_dy.root": "Events",
    "PHYSLITE_example.root": "CollectionTree",
    "uproot-HZZ.root": "events",
}


@dataclass(slots=True)
class Rate:
    """One form of reading one file: seconds of each turn, by the clock and of this process."""

    file: str
    workers: str
    form: str
    events: int
    megabytes: float
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def times(self, other: Rate | None) -> tuple[float, float] | None:
        """How many times as fast as another one by clock and processor, in the median of turns."""
        if other is None or other is self:
            return None
        return (
            median(b / a for a, b in zip(self.seconds, other.seconds, strict=True)),
            median(b / a for a, b in zip(self.processor, other.processor, strict=True)),
        )


@dataclass(frozen=True, slots=True)
class Growth:
    """Peak memory (MB) of a way to read, for a file and one four times as long."""

    way: str
    events: int
    short: float
    long: float


@dataclass(frozen=True, slots=True)
class Training:
    """What a training on one core waited for."""

    file: str
    batch: int
    steps: int
    events_per_s: float
    waited: float
    longest_s: float
    first_s: float


@dataclass(frozen=True, slots=True)
class Readings:
    """All that this part measured."""

    rates: list[Rate]
    growth: list[Growth]
    training: list[Training]


def reading(*, quick: bool, say: Callable[[str], Any], events: int | None = None) -> Readings:
    """Read files made here, and those that are there.

    Parameters
    ----------
    quick : bool
        See in seconds whether everything runs.
    say : callable
        Told what is being done.
    events : int, optional
        Of the files made here.
    """
    n_events, repeats = (QUICK_EVENTS, QUICK_REPEATS) if quick else (events or EVENTS, REPEATS)
    rates: list[Rate] = []
    growth: list[Growth] = []
    trained: list[Training] = []
    with tempfile.TemporaryDirectory() as folder, _cluster() as client:
        for name in COMPRESSIONS:
            say(f"{name}: {n_events} events")
            found = write(Path(folder, f"{name}.root"), name, n_events)
            cut = replace(found, size=UNALIGNED)
            rates += measured(name, found, alone(all_forms=True), repeats)
            rates += measured(f"{name}, baskets cut", cut, alone(), repeats, check=False)
            if name == "zlib":
                continue
            with ThreadPoolExecutor(WORKERS) as pool:
                rates += measured(name, found, side_by_side(pool, client), repeats, check=False)
            say(f"{name}: a training")
            trained.append(training(name, Path(found.path)))
            if name == "zstd":
                say("memory")
                short = write(Path(folder, "short.root"), name, n_events // WORKERS)
                growth = memory(short, found)
            Path(found.path).unlink()
    for name, tree in REAL.items():
        path = made_up.DATA / "root" / name
        if path.exists():
            say(name)
            with plain(path, tree) as found:
                rates += measured(name.removesuffix(".root"), found, alone(), 3 * repeats)
    return Readings(rates, growth, trained)


Way = Callable[[Events], Any]


def alone(*, all_forms: bool = False) -> dict[tuple[str, str], Way]:
    """What one core does."""
    ways: dict[tuple[str, str], Way] = {("1", form): partial(_read_all, form) for form in FORMS}
    if all_forms:
        ways["1", FLOOR] = decompressed
        executor = import_module("coffea.processor").IterativeExecutor(status=False)
        ways["1", C] = partial(_coffea, executor)
    return ways


def side_by_side(pool: ThreadPoolExecutor, client: Any) -> dict[tuple[str, str], Way]:
    """What four workers do: threads of one process, and processes of Dask."""
    threads, processes = f"{WORKERS} threads", f"{WORKERS} Dask workers"
    ways: dict[tuple[str, str], Way] = {}
    for form in FORMS:
        ways[threads, form] = partial(_threads, pool, form)
        ways[processes, form] = partial(_dask, client, form)
    executor = import_module("coffea.processor").DaskExecutor(client=client, status=False)
    ways[processes, C] = partial(_coffea, executor)
    return ways


def _read_all(form: str, events: Events) -> None:
    read(form, events, 0, events.n_events)


def _threads(pool: ThreadPoolExecutor, form: str, events: Events) -> None:
    # Ours has threads that share a batch; the others read a part of the file each.
    if form == OURS:
        _read_all(form, replace(events, threads=WORKERS))
    else:
        read_by_threads(pool, form, events, WORKERS)


def _dask(client: Any, form: str, events: Events) -> None:
    read_by_dask(client, form, events, WORKERS)


def _coffea(executor: Any, events: Events) -> None:
    coffea(events, executor)


def measured(
    name: str,
    events: Events,
    ways: dict[tuple[str, str], Way],
    repeats: int,
    *,
    check: bool = True,
) -> list[Rate]:
    """Read one file in all ways, which take turns; the tensors of two of them must be equal."""
    if check:
        equal(events)
    size = megabytes(events)
    rates = {key: Rate(name, *key, events.n_events, size) for key in ways}
    # In a turn before the first one workers import what they need.
    for turn in range(-1 if repeats > 1 else 0, repeats):
        for key, way in ways.items():
            began, before = time.perf_counter(), time.process_time()
            way(events)
            if turn >= 0:
                rates[key].seconds.append(time.perf_counter() - began)
                rates[key].processor.append(time.process_time() - before)
    return list(rates.values())


def equal(events: Events) -> None:
    """Compare our tensors with those of the loop, on every event."""
    end = events.n_events
    for theirs, found in zip(loop(events, 0, end), ours(events, 0, end), strict=True):
        for stack, values in theirs.items():
            np.testing.assert_array_equal(found[stack].numpy(), values)


def others(rates: list[Rate], rate: Rate) -> dict[str, Rate]:
    """Give what a rate is compared with, by form: of the same file, by as many workers."""
    same = (rate.file, rate.workers)
    return {each.form: each for each in rates if (each.file, each.workers) == same}


def memory(short: Events, long: Events) -> list[Growth]:
    """Measure how memory grows with a file."""
    few, many = (_alone("memory", each.path) for each in (short, long))
    return [Growth(way, short.n_events, few[way], many[way]) for way in few]


def training(name: str, path: Path) -> Training:
    """Measure what a training waits for."""
    found = _alone("training", str(path), str(MLP_BATCH))
    return Training(
        name,
        MLP_BATCH,
        int(found["steps"]),
        found["events"],
        found["waited"],
        found["longest"],
        found["first"],
    )


def _alone(*arguments: str) -> dict[str, float]:
    script = Path(__file__).with_name("reading_alone.py")
    tests = str(script.parents[1])
    path = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def _cluster() -> Iterator[Any]:
    """Worker processes with the settings that Dask gives them."""
    distributed = import_module("distributed")
    with (
        distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
