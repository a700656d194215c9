"""A campaign on thousands of workers that come and go, on a clock that is only counted.

The pool is the real one, asked by the real messages; scheduler, network, batch system and workers
are made up.  Plain ``client.map`` runs in the same world: the same workers, by the same seed.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from math import ceil, exp, inf
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from hepdask_ml.campaign.drain import MARGIN_S
from hepdask_ml.campaign.link import CENSUS_S
from hepdask_ml.campaign.messages import exchange
from hepdask_ml.campaign.plugin import PATIENCE_S, SILENCE_S
from hepdask_ml.campaign.pool import TARGET_S, Committed, Pool
from hepdask_ml.campaign.unit import Unit
from hepdask_ml.limits.runner import CHUNK_S, GRAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hepdask_ml.campaign.messages import Exchange

HOUR_S = 3600.0
BIN_S = 300.0
"""Width of the bins in which worker time is summed up."""

LATENCY_S = 0.005
"""Of a message, one way."""

EXCHANGE_S, WAKE_S, COLLECT_S, COLLECT_EACH_S = 250e-6, 20e-6, 1e-3, 3e-6
"""Time of the scheduler for one exchange, for one drain that is woken, for one collect, and once a
second for each worker in a collect that takes a census."""

DRIVER_S, DRIVER_EACH_S = 0.03, 100e-6
"""Time between two collects, and for each event that is written down in between."""

TASK_S = 0.9e-3
"""Time of the scheduler and client for one Dask task."""

TTL_S = 300.0
"""Dask's own time without a heartbeat until a worker is given up."""

ALLOWED_FAILURES = 3
"""Dask's own number of deaths that a task survives."""

PATIENCE = 4.0
"""After so many times the time that the work would take, a campaign is given up."""

PIECE = 512
"""Toys whose time on the median worker is given."""

COMMITTED, STARTING, MESSAGES, WAITING = "committed", "starting", "messages", "waiting"
KILLED, EXPIRED, LEAVING = "lost in deaths", "lost at walltime", "leaving"
TWICE = "done again"
KINDS = (COMMITTED, STARTING, MESSAGES, LEAVING, WAITING, KILLED, EXPIRED, TWICE)
"""Where the time of workers goes."""

COLOURS = dict(
    zip(
        KINDS,
        ("#2a6f97", "#8ecae6", "#ffd166", "#b5e48c", "#c9c9c9", "#d62839", "#f77f00", "#7b2cbf"),
        strict=True,
    )
)
LINES = ("black", "#2a9d8f", "#e76f51", "#7b2cbf", "#f4a261", "#b56576")

_BUSY = "busy"


@dataclass(frozen=True, slots=True)
class World:
    """Workers and work.

    Attributes
    ----------
    workers : int
        Slots of the batch system; a worker that ends is followed by another.
    hours : float
        Work: as much as all workers at once do in this time.
    grain_s : float
        Time of `PIECE` toys on the median worker.
    spread : float
        Standard deviation of the logarithm of the CPU workers' paces: 0.76 puts 95 % of them
        within a factor of 20.
    gpus, gpu_pace : float
        Share of workers that are that many times faster.
    trickle_s, queue_s, start_s : float
        Mean time until the first worker of a slot comes, and until it is replaced; time from the
        start of a job to its first message.
    walltimes_h : tuple of float
        In equal parts.
    unknown : float
        Share of the workers that do not know their walltime.
    death_h : float
        Mean time until a worker dies; a tenth of the deaths is silent.
    preemptible, preempt_h, notice_s : float
        Share of workers that are preempted, mean time until then, and from the notice to the end.
    """

    workers: int = 10_000
    hours: float = 4.0
    seed: int = 1
    units: int = 24
    grain_s: float = 1.0
    target_s: float = TARGET_S
    spread: float = 0.76
    gpus: float = 0.01
    gpu_pace: float = 100.0
    trickle_s: float = 900.0
    queue_s: float = 300.0
    start_s: float = 10.0
    walltimes_h: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0)
    unknown: float = 0.1
    death_h: float = 20.0
    silent: float = 0.1
    preemptible: float = 0.1
    preempt_h: float = 4.0
    notice_s: float = 30.0

    @property
    def median_pace(self) -> float:
        """Steps per second."""
        return PIECE / self.grain_s

    @property
    def total(self) -> int:
        """Steps of each unit: the work of all workers at once, over the number of units."""
        mean = (1.0 - self.gpus) * exp(self.spread**2 / 2.0) + self.gpus * self.gpu_pace
        steps = self.median_pace * mean * self.workers * self.hours * HOUR_S / self.units
        return ceil(steps / PIECE) * PIECE


class Worker:
    """One life of a slot: what the batch system and chance have laid down for it."""

    __slots__ = (
        "begin", "cause", "done", "end", "gone", "held", "known_end", "message", "name", "notice",
        "pace", "phase", "silent", "since", "slot", "told",
    )  # fmt: skip

    def __init__(self, world: World, slot: int, number: int, begin: float, rng: Random) -> None:
        walltime_s = rng.choice(world.walltimes_h) * HOUR_S
        known = rng.random() >= world.unknown
        death_s = rng.expovariate(1.0 / (world.death_h * HOUR_S))
        self.silent = rng.random() < world.silent
        notice_s = rng.expovariate(1.0 / (world.preempt_h * HOUR_S))
        if rng.random() >= world.preemptible:
            notice_s = inf
        factor = rng.lognormvariate(0.0, world.spread)
        if slot < world.gpus * world.workers:
            factor = world.gpu_pace
        self.pace = world.median_pace * factor
        self.slot, self.name = slot, f"tcp://10.0.{slot >> 8}.{slot & 255}:{40000 + number}"
        ends = (walltime_s, EXPIRED), (min(death_s, notice_s + world.notice_s), KILLED)
        lives_s, self.cause = min(ends)
        self.silent &= lives_s == death_s
        self.begin, self.end = begin, begin + lives_s
        self.notice = begin + notice_s
        self.known_end = begin + walltime_s if known else inf
        self.told = min(self.notice, self.known_end - MARGIN_S)
        self.phase, self.since, self.done, self.gone = STARTING, begin, begin, False
        self.message: Exchange = {}
        self.held: list[int] = []  # results in its memory, of plain Dask


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the time of workers went, and what it took.

    Attributes
    ----------
    makespan_s : float
        Until everything was committed; nan if it was given up.
    worker_s : float
        Time of all workers, from their start to their end or the end of the campaign.
    shares : dict
        Of that time, by `KINDS`.
    once : bool
        Whether every step was committed exactly once.
    messages, per_second, most_per_second : float
        At the pool or the scheduler.
    over_deaths : int
        Tasks that died oftener than Dask allows.
    exchange_us : float
        What the real pool took; zero for plain Dask.
    timeline : dict
        Number of workers by kind, in bins of `BIN_S`.
    """

    name: str
    makespan_s: float
    worker_s: float
    workers_seen: int
    shares: dict[str, float]
    once: bool
    messages: int
    per_second: float
    most_per_second: int
    blocks: int
    over_deaths: int = 0
    exchange_us: float = 0.0
    timeline: dict[str, list[float]] = field(default_factory=dict)

    @property
    def committed(self) -> float:
        """Share of worker time that ends in committed steps."""
        return self.shares[COMMITTED]


class _World:
    """The clock, the workers that come and go, and the book of what they spend their time on."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = self.server = 0.0
        self.seen = self.asked = 0
        self.alive: dict[Worker, None] = {}
        self.per_second: Counter[int] = Counter()
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()
        self._time: dict[str, defaultdict[int, float]] = {k: defaultdict(float) for k in KINDS}
        self._chance = [Random(f"{world.seed} slot {slot}") for slot in range(world.workers)]
        rng = Random(f"{world.seed} jitter")
        self._jitter = [rng.lognormvariate(0.0, 0.05) for _ in range(1021)]
        self._blocks, self._lived_s = 0, 0.0
        for slot, chance in enumerate(self._chance):
            self.at(chance.expovariate(1.0 / world.trickle_s), self.start, slot)

    def at(self, when: float, what: Callable[..., None], *arguments: Any) -> None:
        """Do something later."""
        heappush(self._agenda, (when, next(self._order), what, arguments))

    def go(self, finished: Callable[[], bool], latest: float) -> float:
        """Let time pass until it is finished; give the time."""
        while not finished():
            self.now, _, what, arguments = heappop(self._agenda)
            if self.now > latest:
                break
            what(*arguments)
        for worker in self.alive:
            self._lived_s += self.now - worker.begin
            self.spend(TWICE if worker.phase == _BUSY else worker.phase, worker.since, self.now)
        return self.now if finished() else float("nan")

    def start(self, slot: int) -> None:
        """Start a worker; it asks for work when it is up."""
        worker = Worker(self.world, slot, self.seen % 20000, self.now, self._chance[slot])
        self.seen += 1
        self.alive[worker] = None
        self.at(worker.end, self.die, worker)
        up = self.now + self.world.start_s * (0.5 + self._chance[slot].random())
        if up < worker.end:
            self.up(worker, up)

    def up(self, worker: Worker, when: float) -> None:
        raise NotImplementedError

    def die(self, worker: Worker) -> None:
        """End a worker that has not left before."""
        if worker.gone:
            return
        if worker.phase != _BUSY:
            self.spend(worker.phase, worker.since)
        elif worker.done > worker.end:  # else its last message is under way
            self.spend(worker.cause, worker.since)
        self.bury(worker, self.now)

    def bury(self, worker: Worker, when: float) -> None:
        """Take a worker away, and order another one."""
        worker.gone = True
        self._lived_s += when - worker.begin
        self.alive.pop(worker, None)
        delay = self._chance[worker.slot].expovariate(1.0 / self.world.queue_s)
        self.at(when + delay, self.start, worker.slot)

    def spend(self, kind: str, begin: float, end: float | None = None, sign: float = 1.0) -> None:
        """Book time of a worker."""
        end = self.now if end is None else end
        book, i = self._time[kind], int(begin // BIN_S)
        while end > (edge := (i + 1) * BIN_S):
            book[i] += sign * (edge - begin)
            begin, i = edge, i + 1
        book[i] += sign * (end - begin)

    def served(self, cost_s: float) -> float:
        """Pass through the one thread of the scheduler; give the time at which it answers."""
        self.asked += 1
        self.per_second[int(self.now)] += 1
        self.server = max(self.server, self.now) + cost_s
        return self.server

    def speed(self, worker: Worker) -> float:
        """Pace of a worker in its next block."""
        self._blocks += 1
        return worker.pace * self._jitter[self._blocks % len(self._jitter)]

    def outcome(self, name: str, makespan_s: float, *, once: bool, **more: Any) -> Outcome:
        """Sum up."""
        spent = {kind: sum(book.values()) for kind, book in self._time.items()}
        bins = int(self.now // BIN_S) + 1
        width_s = [BIN_S] * (bins - 1) + [self.now % BIN_S or BIN_S]
        return Outcome(
            name,
            makespan_s,
            self._lived_s,
            self.seen,
            {kind: seconds / self._lived_s for kind, seconds in spent.items()},
            once,
            self.asked,
            self.asked / self.now,
            max(self.per_second.values()),
            self._blocks,
            timeline={k: [b[i] / s for i, s in enumerate(width_s)] for k, b in self._time.items()},
            **more,
        )


class _Ours(_World):
    """Drains, a scheduler that serves the pool, and a driver that collects."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.pool = Pool("simulation", target_s=world.target_s)
        for i in range(world.units):
            self.pool.offer(Unit(f"unit {i}", world.total, grain=GRAIN))
        self.waiting: dict[Worker, None] = {}
        self.left = world.units * world.total
        self.ranges = {f"unit {i}": (array("q"), array("q")) for i in range(world.units)}
        self.written = 0
        self.took = 0.0
        self.census = 0.0
        self.at(0.0, self.collect)

    def up(self, worker: Worker, when: float) -> None:
        """Let the driver's next census find a worker."""
        census = when + CENSUS_S * (0.5 + self._chance[worker.slot].random())
        worker.message = _message(worker, census, None)
        self.at(census + LATENCY_S, self.arrive, worker)

    def arrive(self, worker: Worker) -> None:
        """Take a drain's message, as the plugin does."""
        answered = self.served(EXCHANGE_S) + LATENCY_S
        before = self.pool.events[-1].number if self.pool.events else 0
        held = "token" in worker.message
        began = perf_counter()
        answer = exchange(self.pool, worker.message, 1)
        self.took += perf_counter() - began
        if held:
            counts = self.pool.events and self.pool.events[-1].number > before
            self.spend(COMMITTED if counts else TWICE, worker.since, worker.done)
            worker.phase, worker.since = MESSAGES, worker.done
        if answer:
            self.answer(worker, answer, answered)
        else:
            self.spend(worker.phase, worker.since)
            worker.phase, worker.since = WAITING, self.now
            self.waiting[worker] = None
            self.at(self.now + PATIENCE_S, self.bored, worker)
        if self.pool.free:
            self.wake()

    def answer(self, worker: Worker, answer: dict[str, Any], when: float) -> None:
        """Let a drain have its answer: a block, or the end."""
        if when >= worker.end:
            return
        self.spend(worker.phase, worker.since, when)
        if "block" in answer:
            self.work(worker, answer["block"], when)
            return
        # The driver retires who has no time left; who was told to go goes.
        stays = CENSUS_S * 1.5 if answer["leave"] == "walltime" else 0.1
        gone = min(when + stays, worker.end)
        self.spend(LEAVING, when, gone)
        self.at(gone, self.lost, worker)
        self.bury(worker, gone)

    def work(self, worker: Worker, block: list[Any], when: float) -> None:
        """Work a block as the runner of toys does: in chunks, until it is enough."""
        _, _, start, stop, token = block
        speed = self.speed(worker)
        reached, done = stop, when + (stop - start) / speed
        if done > worker.told:
            chunk = max(int(CHUNK_S * speed) // GRAIN, 1) * GRAIN
            chunks = ceil(max(worker.told - when, 0.0) * speed / chunk)
            reached = min(start + chunks * chunk, stop)
            done = when + (reached - start) / speed
        pace = worker.message.get("pace") if reached == start else speed
        worker.message = _message(worker, done, pace)
        worker.message |= {
            "token": token, "reached": reached, "result": b"", "seconds": done - when,
        }  # fmt: skip
        worker.phase, worker.since, worker.done = _BUSY, when, done
        if done <= worker.end:
            self.at(done + LATENCY_S, self.arrive, worker)

    def bored(self, worker: Worker) -> None:
        """Let a drain that got nothing ask again."""
        if worker in self.waiting:
            del self.waiting[worker]
            if not worker.gone:
                worker.message = _message(worker, self.now, worker.message.get("pace"))
                self.at(self.now + 2 * LATENCY_S, self.arrive, worker)

    def wake(self) -> None:
        """Let all drains that wait ask again."""
        for worker in list(self.waiting):
            self.server = max(self.server, self.now) + WAKE_S
            if worker.gone:
                del self.waiting[worker]
                continue
            began = perf_counter()
            answer = exchange(self.pool, worker.message, 1)
            self.took += perf_counter() - began
            self.asked += 1
            if answer:
                del self.waiting[worker]
                self.answer(worker, answer, self.server + LATENCY_S)

    def die(self, worker: Worker) -> None:
        """Let the scheduler find out after a while."""
        if not worker.gone:
            self.at(self.now + (SILENCE_S if worker.silent else 0.2), self.lost, worker)
        super().die(worker)

    def lost(self, worker: Worker) -> None:
        """Let the pool know that a worker has gone."""
        self.pool.lost(worker.name)
        self.waiting.pop(worker, None)
        self.wake()

    def collect(self) -> None:
        """Write down what was committed."""
        cost_s = COLLECT_S
        if self.now >= self.census:
            cost_s += COLLECT_EACH_S * len(self.alive)
            self.census = self.now + CENSUS_S
        self.server = max(self.server, self.now) + cost_s
        self.pool.collect(self.written)
        events = self.pool.collect(self.written)
        for event in events:
            if isinstance(event, Committed):
                starts, stops = self.ranges[event.key]
                starts.append(event.start)
                stops.append(event.stop)
                self.left -= event.stop - event.start
                self.written = event.number
        self.at(self.server + DRIVER_S + DRIVER_EACH_S * len(events), self.collect)

    @property
    def once(self) -> bool:
        """Whether the ranges tile every unit."""
        return all(
            _tiles(np.array(starts), np.array(stops), self.world.total)
            for starts, stops in self.ranges.values()
        )


def _message(worker: Worker, now: float, pace: float | None) -> Exchange:
    return {
        "drain": worker.name,
        "worker": worker.name,
        "seconds_left": None if worker.known_end == inf else worker.known_end - now - MARGIN_S,
        "pace": pace,
        "leaving": now >= worker.notice,
    }


def _tiles(starts: Any, stops: Any, total: int) -> bool:
    order = np.argsort(starts)
    edges = np.concatenate([[0], stops[order]])
    return bool(np.array_equal(edges[:-1], starts[order]) and edges[-1] == total)


class _Map(_World):
    """Plain ``client.map``: tasks of one size, handed out one by one by the scheduler.

    Kinder than Dask is: no task is sent ahead to a busy worker, and none is given up.
    """

    def __init__(self, world: World, task_s: float, *, gathered: bool) -> None:
        super().__init__(world)
        self.gathered = gathered
        self.steps = task_s * world.median_pace
        self.tasks = self.left = ceil(world.units * world.total / self.steps)
        self.fresh: Iterator[int] = iter(range(self.tasks))
        self.again: list[int] = []
        self.idle: dict[Worker, None] = {}
        self.deaths: Counter[int] = Counter()
        self.doing: dict[Worker, int] = {}
        self.when: dict[int, tuple[float, float]] = {}

    def up(self, worker: Worker, when: float) -> None:
        """Ask at once; SIGTERM ends a Dask worker, however long the notice."""
        if worker.notice < worker.end:
            worker.end, worker.cause = worker.notice, KILLED
            self.at(worker.end, self.die, worker)
        if when < worker.end:
            self.at(when, self.take, worker)

    def take(self, worker: Worker) -> None:
        """Give a worker the next task."""
        if worker.gone:
            return
        task = heappop(self.again) if self.again else next(self.fresh, None)
        if task is None:
            self.idle[worker] = None
            self.spend(worker.phase, worker.since)
            worker.phase, worker.since = WAITING, self.now
            return
        begin = self.served(TASK_S) + LATENCY_S
        self.spend(worker.phase, worker.since, min(begin, worker.end))
        worker.phase, worker.since = _BUSY, min(begin, worker.end)
        worker.done = begin + self.steps / self.speed(worker)
        self.doing[worker] = task
        if worker.done <= worker.end:
            self.at(worker.done, self.finish, worker)

    def finish(self, worker: Worker) -> None:
        """Take the result of a task."""
        task = self.doing.pop(worker)
        self.spend(COMMITTED, worker.since)
        if not self.gathered:
            self.when[task] = worker.since, self.now
            worker.held.append(task)
        self.left -= 1
        worker.phase, worker.since = MESSAGES, self.now
        self.at(self.now + LATENCY_S, self.take, worker)

    def die(self, worker: Worker) -> None:
        """Let the scheduler find out after a while."""
        if not worker.gone:
            self.idle.pop(worker, None)
            self.at(self.now + (TTL_S if worker.silent else 0.2), self.lost, worker)
        super().die(worker)

    def lost(self, worker: Worker) -> None:
        """Do again what a worker did last, and all results that it held."""
        task = self.doing.pop(worker, None)
        if task is not None:
            self.deaths[task] += 1
            heappush(self.again, task)
        for task in worker.held:
            begin, end = self.when[task]
            self.spend(COMMITTED, begin, end, -1.0)
            self.spend(TWICE, begin, end)
            heappush(self.again, task)
        self.left += len(worker.held)
        for idle in list(self.idle)[: len(self.again)]:
            del self.idle[idle]
            self.take(idle)


def ours(world: World, name: str = "pool") -> Outcome:
    """Run a campaign on the real pool."""
    made = _Ours(world)
    makespan_s = made.go(lambda: not made.left, PATIENCE * world.hours * HOUR_S)
    return made.outcome(
        name,
        makespan_s,
        once=made.once,
        exchange_us=1e6 * made.took / made.asked,
    )


def plain_map(world: World, task_s: float, *, gathered: bool, name: str) -> Outcome:
    """Run the same work by ``client.map`` with tasks of so many seconds on the median worker."""
    made = _Map(world, task_s, gathered=gathered)
    makespan_s = made.go(lambda: not made.left, PATIENCE * world.hours * HOUR_S)
    over = sum(times > ALLOWED_FAILURES for times in made.deaths.values())
    return made.outcome(name, makespan_s, once=not made.left, over_deaths=over)


def peers(world: World) -> Iterator[Outcome]:
    """``client.map`` in the same world, with tasks of several sizes."""
    for size, task_s, gathered in (
        ("30 s", 30.0, True),
        ("5 min", 300.0, True),
        ("30 min", 1800.0, True),
        ("5 min", 300.0, False),
        ("30 min", 1800.0, False),
    ):
        kind = "gathered" if gathered else "kept on workers"
        yield plain_map(world, task_s, gathered=gathered, name=f"map of {size}, {kind}")


def variants(world: World) -> Iterator[Outcome]:
    """Ours in other worlds: each differs in one thing."""
    for name, change in (
        ("nothing", {}),
        ("another seed", {"seed": 2}),
        ("work of 1 hour", {"hours": world.hours / 4.0}),
        ("all walltimes known", {"unknown": 0.0}),
        ("no walltime known", {"unknown": 1.0}),
        ("deaths after 4 h", {"death_h": 4.0}),
        ("all workers preempted after 1 h", {"preemptible": 1.0, "preempt_h": 1.0}),
        ("blocks of 10 s", {"target_s": 10.0}),
        ("blocks of 2 min", {"target_s": 120.0}),
        ("blocks of 10 min", {"target_s": 600.0}),
        ("512 toys take 10 s", {"grain_s": 10.0}),
        ("512 toys take 1 min", {"grain_s": 60.0}),
        ("512 toys take 5 min", {"grain_s": 300.0}),
    ):
        yield ours(replace(world, **change), name)


def simulation(*, quick: bool) -> tuple[list[Outcome], list[Outcome]]:
    """Run ours and the peers in one world, and ours in others."""
    world = World(workers=200, hours=0.5, trickle_s=60.0) if quick else World()
    fewer = replace(world, workers=world.workers // 10)
    return [ours(world), *peers(world)], list(variants(fewer))


def plot(outcomes: Sequence[Outcome]) -> Figure:
    """Draw where the time of the workers goes, and when."""
    figure = Figure(figsize=(9.0, 7.5), layout="constrained")
    bars, lines = figure.subplots(2, 1)
    names = [outcome.name for outcome in outcomes]
    left = np.zeros(len(outcomes))
    for kind, colour in COLOURS.items():
        share = np.array([100.0 * outcome.shares[kind] for outcome in outcomes])
        bars.barh(names, share, left=left, color=colour, label=kind, height=0.7)
        left += share
    for i, outcome in enumerate(outcomes):
        text = f"{100.0 * outcome.committed:.1f} %"
        bars.text(1.0, i, text, va="center", color="white", weight="bold")
        ended = outcome.makespan_s == outcome.makespan_s
        end = f"{outcome.makespan_s / HOUR_S:.1f} h" if ended else "not done"
        bars.text(101.0, i, end, va="center")
    bars.text(101.0, -0.75, "done after", va="center", style="italic")
    bars.invert_yaxis()
    bars.set(xlim=(0.0, 100.0), xlabel="share of the workers' time (%)")
    bars.spines[["top", "right"]].set_visible(False)
    bars.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.4, -0.18), frameon=False)
    latest = 1.6 * outcomes[0].makespan_s / HOUR_S
    for outcome, colour in zip(outcomes, LINES, strict=False):
        counts = outcome.timeline[COMMITTED]
        hours = (np.arange(len(counts)) + 0.5) * BIN_S / HOUR_S
        seen = hours < latest
        lines.plot(hours[seen], np.array(counts)[seen], color=colour, label=outcome.name)
    lines.set(xlim=(0.0, latest), xlabel="time (h)", ylabel="workers whose work counts")
    lines.set_ylim(0.0)
    lines.spines[["top", "right"]].set_visible(False)
    lines.legend(frameon=False, loc="center", bbox_to_anchor=(0.36, 0.52))
    return figure
