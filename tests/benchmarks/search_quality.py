"""How good a search is: ours against the same library alone, with four trials in flight.

Functions are evaluated on a clock that is only counted, so that nothing but the order of asking and
telling matters.  In *rounds* four points are asked for together, and the next four when all have
ended; with *async* one is asked for whenever one ends, and trials last unequally, which is the same
for all.  A *restart* at every tenth trial takes away whatever is not on disk.

A run that is in the file of runs is not made again, so that hours of it can be made in pieces.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from multiprocessing import get_context
from statistics import median
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.search_contestants import WAYS, contestant, one_thread
from benchmarks.search_functions import PROBLEMS, Problem
from scipy.stats import norm, wilcoxon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.search_contestants import Contestant
    from benchmarks.search_functions import Losses

    Tried = list[tuple[dict[str, float], Losses]]

IN_FLIGHT = 4
RESTART_EVERY = 10
MODES = ("rounds", "async")
QUICK_BUDGET = 12
SPREAD = 0.5
"""Standard deviation of the logarithm of how long a trial lasts."""

FLOOR = 1e-9
"""Regrets below it are equal: they are rounding of the minimum as it is known."""

SINGLE = (
    "skopt:gp", "skopt:forest", "skopt:dummy",
    "optuna:tpe", "optuna:gp", "optuna:cmaes", "optuna:random",
)  # fmt: skip
SEVERAL = ("optuna:nsga2", "optuna:tpe", "optuna:gp", "optuna:random")


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """One search: who searches what, and how."""

    problem: str
    optimiser: str
    way: str
    mode: str
    restarts: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Run:
    """What a search came to: the regret, and the CPU seconds of asking for each trial."""

    case: Case
    regret: float
    asking_s: float


@dataclass(frozen=True, slots=True)
class Compared:
    """Two ways to search, over as many seeds.

    Attributes
    ----------
    problem, optimiser : str
        What was searched, and by whom.
    first, second : str
        What is compared with what.
    seeds : int
        How many.
    regret, other : tuple of float
        Quartiles and median of both: lower, middle, upper.
    ratio : tuple of float
        Of the regrets, the first over the second, by the pairs' logarithms: lower end of the 95 %
        interval, Hodges-Lehmann estimate, upper end.
    p : float
        Of Wilcoxon's signed rank test, two-sided: that such pairs come by chance.
    same : int
        Pairs that are equal to the last bit.
    asking_s, other_asking_s : float
        Median CPU seconds of asking for one trial.
    """

    problem: str
    optimiser: str
    first: str
    second: str
    seeds: int
    regret: tuple[float, float, float]
    other: tuple[float, float, float]
    ratio: tuple[float, float, float]
    p: float
    same: int
    asking_s: float
    other_asking_s: float


def search(case: Case, budget: int | None = None) -> Run:
    """Make one search."""
    problem = next(each for each in PROBLEMS if each.name == case.problem)
    who = contestant(case.way, case.optimiser, problem, case.seed)
    timed = _Timed(who)
    go = _in_rounds if case.mode == "rounds" else _one_by_one
    tried = go(timed, problem, case, budget or problem.budget)
    return Run(case, problem.regret(tried), timed.spent_s / len(tried))


class _Timed:
    """A contestant whose asking is timed."""

    def __init__(self, who: Contestant) -> None:
        self.who, self.spent_s, self._tenth = who, 0.0, 0

    def ask(self, n: int) -> list[dict[str, float]]:
        began = process_time()
        points = [dict(params) for params in self.who.ask(n)]
        self.spent_s += process_time() - began
        return points

    def restart_if_due(self, case: Case, done: int) -> None:
        if case.restarts and done // RESTART_EVERY > self._tenth:
            self._tenth = done // RESTART_EVERY
            self.who.restart()


def _in_rounds(timed: _Timed, problem: Problem, case: Case, budget: int) -> Tried:
    tried: Tried = []
    while len(tried) < budget:
        timed.restart_if_due(case, len(tried))
        for params in timed.ask(min(IN_FLIGHT, budget - len(tried))):
            losses = problem.seen(params, case.seed, len(tried))
            timed.who.tell(len(tried), losses)
            tried.append((params, losses))
    return tried


def _one_by_one(timed: _Timed, problem: Problem, case: Case, budget: int) -> Tried:
    lengths = np.random.default_rng([case.seed, 1]).lognormal(0.0, SPREAD, budget)
    running: list[tuple[float, int, dict[str, float]]] = []
    for number, params in enumerate(timed.ask(IN_FLIGHT)):
        heappush(running, (float(lengths[number]), number, params))
    asked, tried = len(running), []
    while running:
        now, number, params = heappop(running)
        losses = problem.seen(params, case.seed, number)
        timed.who.tell(number, losses)
        tried.append((params, losses))
        timed.restart_if_due(case, len(tried))
        if asked < budget:
            (params,) = timed.ask(1)
            heappush(running, (now + float(lengths[asked]), asked, params))
            asked += 1
    return tried


def quality(
    *, quick: bool, seeds: int, runs: Path | None, processes: int, say: Callable[[str], None]
) -> list[Compared]:
    """Make all searches, or a few short ones, and compare them."""
    wanted = [case for case in cases(seeds) if not quick or _is_quick(case)]
    return comparisons(make_runs(wanted, runs, processes, say, QUICK_BUDGET if quick else None))


def _is_quick(case: Case) -> bool:
    first = PROBLEMS[0].name, "optuna:tpe", PROBLEMS[-1].name, "optuna:random"
    return (case.problem, case.optimiser) in (first[:2], first[2:])


def cases(seeds: int) -> Iterator[Case]:
    """Give every search of the comparison, for each seed in turn."""
    for seed in range(seeds):
        for problem in PROBLEMS:
            for optimiser in SEVERAL if problem.reference else SINGLE:
                for mode in MODES:
                    for way, restarts in _variants(optimiser, mode):
                        yield Case(problem.name, optimiser, way, mode, restarts, seed)


def _variants(optimiser: str, mode: str) -> Iterator[tuple[str, bool]]:
    yield "ours", False
    yield "ours", True
    yield "library alone", False
    if optimiser.startswith("optuna:"):
        yield "library alone", True
    if optimiser == "optuna:cmaes":
        yield "library alone, from a table", True
    if optimiser == "skopt:gp" and mode == "async":
        yield "ours, pending told as best", False


def read_runs(file: Path) -> dict[Case, Run]:
    """Give the runs that were made already."""
    if not file.exists():
        return {}
    found = [json.loads(line) for line in file.read_text().splitlines()]
    runs = [Run(Case(**each["case"]), each["regret"], each["asking_s"]) for each in found]
    return {run.case: run for run in runs}


def make_runs(
    wanted: Iterable[Case],
    file: Path | None,
    processes: int,
    say: Callable[[str], None],
    budget: int | None = None,
) -> list[Run]:
    """Make the runs that are not in the file yet, and add them to it."""
    every = list(wanted)
    done = read_runs(file) if file else {}
    runs = [done[case] for case in every if case in done]
    missing = [case for case in every if case not in done]
    with one_thread(), ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        futures = [pool.submit(search, case, budget) for case in missing]
        for i, future in enumerate(as_completed(futures)):
            runs.append(future.result())
            if file:
                with file.open("a") as opened:
                    opened.write(json.dumps(asdict(runs[-1])) + "\n")
            if i % 100 == 0:
                say(f"{i + 1} of {len(missing)} searches")
    return runs


def comparisons(runs: Sequence[Run]) -> list[Compared]:
    """Compare ways to search, wherever both were tried with the same seeds."""
    found: dict[tuple[str, str, str, str, bool], dict[int, Run]] = {}
    for run in runs:
        case = run.case
        key = case.problem, case.optimiser, case.way, case.mode, case.restarts
        found.setdefault(key, {})[case.seed] = run
    made = []
    for problem in PROBLEMS:
        for optimiser in SEVERAL if problem.reference else SINGLE:
            for first, second in _PAIRS:
                one = found.get((problem.name, optimiser, *first), {})
                other = found.get((problem.name, optimiser, *second), {})
                if seeds := sorted(one.keys() & other.keys()):
                    pairs = [(one[seed], other[seed]) for seed in seeds]
                    made.append(_compared(problem.name, optimiser, first, second, pairs))
    return made


_OURS, _ALONE = ("ours", "rounds", False), ("library alone", "rounds", False)
_OURS_ASYNC, _ALONE_ASYNC = ("ours", "async", False), ("library alone", "async", False)
_PAIRS: tuple[tuple[tuple[str, str, bool], tuple[str, str, bool]], ...] = (
    (_OURS, _ALONE),
    (_OURS_ASYNC, _ALONE_ASYNC),
    (_OURS_ASYNC, _OURS),
    ((WAYS[2], "async", False), _OURS_ASYNC),
    *(((way, mode, True), (way, mode, False)) for way in WAYS[:2] for mode in MODES),
    *(((WAYS[3], mode, True), (WAYS[1], mode, False)) for mode in MODES),
)
"""What is compared with what."""


def _compared(
    problem: str,
    optimiser: str,
    first: tuple[str, str, bool],
    second: tuple[str, str, bool],
    pairs: Sequence[tuple[Run, Run]],
) -> Compared:
    ones, others = ([run.regret for run in column] for column in zip(*pairs, strict=True))
    logs = np.log([max(a, FLOOR) / max(b, FLOOR) for a, b in zip(ones, others, strict=True)])
    return Compared(
        problem,
        optimiser,
        _words(*first),
        _words(*second),
        len(pairs),
        _quartiles(ones),
        _quartiles(others),
        _shift(logs),
        float(wilcoxon(logs).pvalue) if np.any(logs) else 1.0,
        sum(a == b for a, b in zip(ones, others, strict=True)),
        median(run.asking_s for run, _ in pairs),
        median(run.asking_s for _, run in pairs),
    )


def _words(way: str, mode: str, restarts: bool) -> str:
    return f"{way}, {mode}{', restarts' if restarts else ''}"


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)


def _shift(logs: Any) -> tuple[float, float, float]:
    """Give the ratio that signed ranks speak of: the median of all pairs' means, and 95 %.

    The interval holds what the test would not refuse, with its normal approximation.
    """
    n = len(logs)
    rows, columns = np.triu_indices(n)
    means = np.sort((logs[rows] + logs[columns]) / 2.0)
    width = norm.ppf(0.975) * np.sqrt(n * (n + 1) * (2 * n + 1) / 24.0)
    outer = max(int(np.floor(n * (n + 1) / 4.0 - width)), 0)
    low, middle, high = np.exp([means[outer], np.median(means), means[-1 - outer]])
    return float(low), float(middle), float(high)
