"""What the pool costs: blocks without work, blocks of a second, bytes on disk, and its peers.

All of it runs on real workers: four processes of one thread each on this machine.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from math import fsum
from pathlib import Path
from random import Random
from statistics import mean, median
from time import monotonic, perf_counter, process_time, sleep, thread_time
from typing import TYPE_CHECKING, Any, cast

import psutil
from distributed import Client, LocalCluster, as_completed
from made_up import ROOT

from hepdask_ml.campaign.driver import drive
from hepdask_ml.campaign.ledger import Identity, open_ledger
from hepdask_ml.campaign.link import DaskLink, LocalLink
from hepdask_ml.campaign.messages import exchange
from hepdask_ml.campaign.pool import Committed, Pool
from hepdask_ml.campaign.unit import Done, Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.campaign.link import Link
    from hepdask_ml.campaign.messages import Exchange
    from hepdask_ml.campaign.unit import Block, History

WORKERS = 4
STEP_S = 0.01
"""Time of one step of the work that is timed."""

TOY_BYTES = 17
_BUFFER = bytes(2**16)
_STAMPS = struct.Struct("<dddq")


@dataclass(frozen=True, slots=True)
class Measured:
    """A quantity: all its repetitions, its unit, and the aim for the median."""

    name: str
    values: list[float]
    unit: str
    aim: str = ""

    @property
    def median(self) -> float:
        """Middle of the repetitions."""
        return median(self.values)


@dataclass(frozen=True, slots=True)
class PoolEffort:
    """How long to measure."""

    blocks: int = 10_000
    tasks: int = 3_000
    repetitions: int = 5
    seconds: float = 8.0
    toys: int = 4_000_000
    drains: int = 10_000


QUICK_POOL = PoolEffort(blocks=300, tasks=100, repetitions=1, seconds=0.3, toys=200_000, drains=100)


@dataclass(frozen=True, slots=True)
class Empty:
    """A runner without work."""

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        return Done(block.stop, b"")


@dataclass(frozen=True, slots=True)
class Busy:
    """A runner whose steps are rounds of arithmetic; it says when it began and ended, and where."""

    rounds: int

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        began, cpu_s, at = monotonic(), thread_time(), block.start
        while at < block.stop and not enough():
            _compute(self.rounds)
            at += 1
        return Done(at, _STAMPS.pack(began, monotonic(), thread_time() - cpu_s, os.getpid()))


@dataclass(frozen=True, slots=True)
class One:
    """A strategy of one unit."""

    steps: int

    def plan(self, history: History) -> Sequence[Unit]:
        return [] if history.records() else [Unit("steps", self.steps)]


def pool_overhead(*, quick: bool) -> list[Measured]:
    """Measure everything, ours and the peers in turns."""
    effort = QUICK_POOL if quick else PoolEffort()
    with _cluster() as client:
        found = [*rates(client, effort), *second_blocks(client, effort)]
    return [*found, *apart(effort), *sizes(effort.toys), *costs(effort.drains)]


def rates(client: Client, effort: PoolEffort) -> list[Measured]:
    """Blocks and tasks per second where client and scheduler share a process."""
    found: dict[str, list[float]] = defaultdict(list)
    _campaign(client, effort.blocks // 10)  # imports, tables
    for _ in range(effort.repetitions):
        for name, blocks, measure in (
            ("pool, ledger on disk", effort.blocks, _campaign),
            ("pool, ledger in memory", effort.blocks, _campaign_in_memory),
            ("pool and 4 threads in this process", effort.blocks, _in_process),
            ("client.map and as_completed", effort.tasks, _map),
            ("rolling window of 8 futures", effort.tasks // 3, _window(8)),
            ("rolling window of 64 futures", effort.tasks // 3, _window(64)),
        ):
            found[name].append(blocks / measure(client, blocks))
    aims = {"pool, ledger on disk": ">= 2,500"}
    return [Measured(name, values, "/s", aims.get(name, "")) for name, values in found.items()]


def apart(effort: PoolEffort) -> list[Measured]:
    """What driver, scheduler and workers spend, each in a process of its own."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with processes() as (client, scheduler, workers):
        _campaign(client, effort.blocks // 10)  # imports, tables
        for _ in range(effort.repetitions):
            for what, many, n, measure in (
                ("block", "blocks", effort.blocks, _campaign),
                ("task of client.map", "tasks of client.map", effort.tasks, _map),
            ):
                before = process_time(), _cpu_s(scheduler), sum(map(_cpu_s, workers))
                found[f"scheduler apart: {many}", "/s"].append(n / measure(client, n))
                after = process_time(), _cpu_s(scheduler), sum(map(_cpu_s, workers))
                for i, who in enumerate(("client", "scheduler", "workers")):
                    name = f"scheduler apart: CPU of the {who}, each {what}"
                    found[name, "us"].append(1e6 * (after[i] - before[i]) / n)
    return [Measured(name, values, unit) for (name, unit), values in found.items()]


def sizes(toys: int) -> list[Measured]:
    """Bytes of a ledger for each toy, by the size of its blocks."""
    return [
        Measured(f"ledger, blocks of {size:,} toys", [_bytes(toys, size)], "bytes/toy", "< 30")
        for size in (200_000, 20_000, 2_048, 512)
    ]


def costs(drains: int) -> list[Measured]:
    """Time of the pool alone for one message, at so many drains."""
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(3):
        _ask_all(drains, found)
    return [
        Measured(f"pool alone, {drains:,} drains: {name}", values, "us", "< 20")
        for name, values in found.items()
    ]


def _ask_all(drains: int, found: dict[str, list[float]]) -> None:
    pool = Pool("costs")
    for i in range(24):
        pool.offer(Unit(f"unit {i}", 10**9))
    order = list(range(drains))
    held: list[list[Any]] = [[]] * drains

    def each(name: str, told: Callable[[list[Any]], dict[str, Any]]) -> None:
        messages = [cast("Exchange", {**_drain(i), **told(held[i])}) for i in order]
        began = perf_counter()
        answers = [exchange(pool, message) for message in messages]
        found[name].append(1e6 * (perf_counter() - began) / drains)
        for i, answer in zip(order, answers, strict=True):
            held[i] = answer.get("block", [])

    each("first message", lambda block: {})
    each("commit and next block", lambda block: _commit(block, block[3]))
    Random(1).shuffle(order)
    each(
        "all leave with half a block",
        lambda block: _commit(block, (block[2] + block[3]) // 2) | {"leaving": True},
    )
    each("first message after that", lambda block: {})


def _drain(i: int) -> dict[str, Any]:
    return {"drain": f"drain {i}", "worker": f"worker {i}", "seconds_left": 1e4, "pace": 10.0}


def _commit(block: list[Any], reached: int) -> dict[str, Any]:
    return {"token": block[4], "reached": reached, "result": b"", "seconds": 30.0}


def second_blocks(client: Client, effort: PoolEffort) -> list[Measured]:
    """Rate of the same arithmetic under the pool, in blocks of a second, and bare.

    Each of four processes counts from its first to its last whole block, or step: that is the
    steady state, without start and end.
    """
    rounds = _calibrated()
    block_s = min(1.0, effort.seconds / 4.0)
    steps = round(effort.seconds / STEP_S)
    bare, pooled = [], []
    for _ in range(effort.repetitions):
        bare.append(_bare(rounds, steps))
        pooled.append(_timed(client, rounds, WORKERS * steps, block_s))
    pairs = list(zip(pooled, bare, strict=True))
    blocks = f"blocks of {block_s:g} s"
    return [
        Measured(
            f"{blocks}: from the end of one to the next", [1e3 * p.gap_s for p in pooled], "ms"
        ),
        Measured(
            f"{blocks}: share of that", [100.0 * p.gap_s / block_s for p in pooled], "%", "< 1"
        ),
        Measured(
            f"{blocks}: more CPU time for a step than bare",
            [100.0 * (p.cpu_s / b.cpu_s - 1.0) for p, b in pairs],
            "%",
            "< 1",
        ),
        Measured(
            f"{blocks}: fewer steps/s than bare",
            [100.0 * (1.0 - p.rate / b.rate) for p, b in pairs],
            "%",
            "< 1",
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Steady:
    """Steps per second of four processes, CPU time of a step, and time between blocks."""

    rate: float
    cpu_s: float
    gap_s: float = 0.0


def _campaign(client: Client, blocks: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return _driven(
            f"{folder}/ledger", blocks, lambda name: DaskLink(client, name, Empty(), target_s=0.0)
        )


def _campaign_in_memory(client: Client, blocks: int) -> float:
    return _driven(":memory:", blocks, lambda name: DaskLink(client, name, Empty(), target_s=0.0))


def _in_process(client: Client, blocks: int) -> float:
    return _driven(":memory:", blocks, lambda _: LocalLink(Empty(), WORKERS, target_s=0.0))


def _driven(
    path: str, steps: int, link: Callable[[str], Link], look: Callable[[Ledger], None] | None = None
) -> float:
    """Run a campaign, give its wall time without the closing of the ledger."""
    with open_ledger(path, Identity("benchmark", "none", {}, "0", (1,))) as ledger:
        began = perf_counter()
        drive(ledger, One(steps), link(ledger.campaign), threading.Event())
        took = perf_counter() - began
        if look is not None:
            look(ledger)
        return took


def _nothing(index: int) -> int:
    return index


def _map(client: Client, tasks: int) -> float:
    began = perf_counter()
    futures = client.map(_nothing, range(tasks), pure=False)
    done = len(list(_as_completed(futures)))
    took = perf_counter() - began
    _complete(done, tasks)
    return took


def _window(width: int) -> Callable[[Client, int], float]:
    def measure(client: Client, tasks: int) -> float:
        began = perf_counter()
        submit = (client.submit(_nothing, i, pure=False) for i in range(tasks))
        running = _as_completed([next(submit) for _ in range(min(width, tasks))])
        done = 0
        for _ in running:
            done += 1
            if (following := next(submit, None)) is not None:
                running.add(following)
        took = perf_counter() - began
        _complete(done, tasks)
        return took

    return measure


def _as_completed(futures: list[Any]) -> Any:
    return as_completed(futures, with_results=True)  # type: ignore[no-untyped-call]


def _complete(done: int, tasks: int) -> None:
    if done != tasks:
        raise RuntimeError(f"{done} of {tasks} tasks came back")


def _bytes(toys: int, size: int) -> float:
    """Write toys as a driver does; give the size of the file over their number."""
    worker, result = "tcp://192.168.100.100:40000", os.urandom(TOY_BYTES * size)
    events = [
        Committed(i + 1, "toys", i * size, (i + 1) * size, result, worker, 30.0)
        for i in range(toys // size)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ledger")
        with open_ledger(path, Identity("benchmark", "none", {}, "0", (1,))) as ledger:
            ledger.add([Unit("toys", toys, grain=512)])
            for i in range(0, len(events), 100):
                ledger.write(events[i : i + 100])
        return path.stat().st_size / (len(events) * size)


def _compute(rounds: int) -> None:
    for _ in range(rounds):
        sha256(_BUFFER).digest()  # lets go of the interpreter's lock, as a fit does


def _calibrated() -> int:
    """Rounds of arithmetic that take `STEP_S`."""
    took = []
    for _ in range(5):
        began = perf_counter()
        _compute(100)
        took.append((perf_counter() - began) / 100)
    return max(round(STEP_S / min(took)), 1)


def _timed(client: Client, rounds: int, steps: int, block_s: float) -> _Steady:
    """Work steps under the pool."""
    rows: list[tuple[int, int, bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        _driven(
            f"{folder}/ledger",
            steps,
            lambda name: DaskLink(client, name, Busy(rounds), target_s=block_s),
            lambda ledger: rows.extend(ledger.results("steps")),
        )
    blocks: dict[int, list[tuple[float, float, float, int]]] = defaultdict(list)
    for start, stop, result in rows:
        began, ended, cpu_s, process = _STAMPS.unpack(result)
        blocks[process].append((began, ended, cpu_s, stop - start))
    rate, cpu_s, done, gaps = 0.0, 0.0, 0, []
    for own in blocks.values():
        own.sort()
        whole = [i for i, part in enumerate(own) if part[1] - part[0] > 0.7 * block_s]
        steady = own[whole[0] : whole[-1] + 1]
        rate += sum(part[3] for part in steady) / (steady[-1][1] - steady[0][0])
        cpu_s += sum(part[2] for part in steady)
        done += sum(part[3] for part in steady)
        gaps += [after[0] - before[1] for before, after in pairwise(steady)]
    return _Steady(rate, cpu_s / done, mean(gaps))


_BARE = """
import sys
from hashlib import sha256
from time import monotonic, thread_time
steps, rounds, size = map(int, sys.argv[1:])
buffer = bytes(size)
print("ready", flush=True)
sys.stdin.readline()
began, cpu_s = monotonic(), thread_time()
for _ in range(steps):
    for _ in range(rounds):
        sha256(buffer).digest()
print(steps / (monotonic() - began), (thread_time() - cpu_s) / steps)
"""


def _bare(rounds: int, steps: int) -> _Steady:
    """Work steps in as many processes that do nothing else, each from start to end."""
    command = [sys.executable, "-c", _BARE, str(steps), str(rounds), str(len(_BUFFER))]
    with ExitStack() as stack:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        running: list[Any] = [
            stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(WORKERS)
        ]
        for process in running:
            process.stdout.readline()
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        found = [tuple(map(float, process.stdout.readline().split())) for process in running]
    return _Steady(fsum(rate for rate, _ in found), mean(cpu_s for _, cpu_s in found))


@contextmanager
def _cluster() -> Iterator[Client]:
    """Four worker processes; scheduler and client share this one."""
    with (
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=WORKERS, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        yield client


@contextmanager
def processes() -> Iterator[tuple[Client, psutil.Process, list[psutil.Process]]]:
    """A scheduler and four workers, each in a process of its own, as at a computing site."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        file = Path(folder, "scheduler.json")
        common = ["--host", "127.0.0.1", "--scheduler-file", str(file)]
        scheduler = stack.enter_context(
            _process("dask_scheduler", *common, "--port", "0", "--dashboard-address", "127.0.0.1:0")
        )
        while not file.exists():
            sleep(0.05)
        workers = [
            stack.enter_context(
                _process(
                    "dask_worker", *common, "--nthreads", "1", "--no-nanny", "--no-dashboard",
                    "--local-directory", folder,
                )
            )
            for _ in range(WORKERS)
        ]  # fmt: skip
        client = Client(scheduler_file=str(file))  # type: ignore[no-untyped-call]
        stack.enter_context(client)
        client.wait_for_workers(WORKERS)
        yield client, scheduler, workers


@contextmanager
def _process(module: str, *arguments: str) -> Iterator[psutil.Process]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    with subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
