"""What a search costs beside its trials: workers that wait, and the time of the driver.

A trial sleeps, and writes down from when to when: neither the objective nor the speed of the
machine matters, but planning does.  How long a trial lasts depends on its number alone, and is the
same for all.  Four workers are processes of one thread each, and the scheduler is a process of its
own, so that what this process spends is what the driver spends.  Optuna's own parallelism is four
threads of this process, or four processes that share a journal.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from dataclasses import dataclass
from importlib import import_module
from math import fsum
from os import getpid
from pathlib import Path
from statistics import median
from threading import get_ident
from time import monotonic, process_time, sleep
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.pool_overhead import WORKERS, processes
from benchmarks.search_contestants import contestant, one_thread, quiet
from benchmarks.search_functions import PROBLEMS
from benchmarks.search_quality import SEVERAL, SINGLE
from distributed import as_completed

import hepdask_ml
from hepdask_ml.hpo.optimisers import Past, find

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from distributed import Client

    Params = Mapping[str, float]

PROBLEM = PROBLEMS[1]
SPREAD = 0.5
"""Standard deviation of the logarithm of how long a trial lasts, where lengths are spread."""


@dataclass(frozen=True, slots=True)
class Load:
    """Trials of a search: so many, of such a mean length, proposed by somebody."""

    optimiser: str
    trials: int
    seconds: float


LOADS = (Load("optuna:tpe", 200, 1.0), Load("skopt:gp", 100, 5.0))
QUICK_LOADS = (Load("optuna:tpe", 8, 0.02), Load("skopt:gp", 12, 0.02))


@dataclass(frozen=True, slots=True)
class Waited:
    """Where the time of the workers went.

    Attributes
    ----------
    name : str
        Who searched.
    load : Load
        What was searched.
    spread : bool
        Whether lengths differ.
    wall_s : float
        From the call to its return.
    idle : float
        Part of the workers' time in which no trial ran: from when all have begun their first one to
        the end of the last trial.
    driver_s : float
        CPU seconds of the driver, for each trial; with Optuna those of all that it runs in.
    regret : float
        What was found, of the function that the trials stand for.
    """

    name: str
    load: Load
    spread: bool
    wall_s: float
    idle: float
    driver_s: float
    regret: float


@dataclass(frozen=True, slots=True)
class Asking:
    """What it costs to be told of some trials, and to propose one more, or four.

    Attributes
    ----------
    optimiser : str
        Its name.
    told : tuple of int
        Numbers of trials.
    one_s, four_s : tuple of float
        CPU seconds, for each of them.
    """

    optimiser: str
    told: tuple[int, ...]
    one_s: tuple[float, ...]
    four_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """The objective: sleeps, notes its times, and gives the value of the function."""

    folder: str
    seconds: tuple[float, ...]

    def __call__(self, params: Params, context: Any) -> float:
        return self.at(context.number, params)

    def at(self, number: int, params: Params) -> float:
        """Make one trial."""
        began = monotonic()
        sleep(self.seconds[number])
        loss = PROBLEM.losses(params)[0]
        with Path(self.folder, f"{getpid()}-{get_ident()}").open("a") as file:
            file.write(f"{began} {monotonic()} {loss}\n")
        return loss


def overhead(
    loads: tuple[Load, ...], say: Callable[[str], None], spreads: tuple[bool, ...] = (False, True)
) -> list[Waited]:
    """Let everybody search, one after the other."""
    found = []
    with one_thread(), processes() as (client, _, _):
        for optimiser in sorted({load.optimiser for load in loads}):
            _warm_up(client, optimiser)
        for load in loads:
            for spread in spreads:
                for name, go in _searchers(client, load.optimiser).items():
                    waited = _measured(name, go, load, spread=spread)
                    say(f"{name}, {waited.wall_s:.0f} s, {100 * waited.idle:.1f} % idle")
                    found.append(waited)
    return found


def _searchers(client: Client, optimiser: str) -> dict[str, Callable[[Load, Work], float]]:
    """Give who searches; each returns CPU seconds that were spent in other processes."""
    sampler = _sampler(optimiser)
    who = {
        f"hepdask-ml, {optimiser}, rounds": _ours(client, "rounds"),
        f"hepdask-ml, {optimiser}, async": _ours(client, "async"),
        f"client.map, {optimiser}, rounds": _mapped(client),
        f"as_completed, {optimiser}, one by one": _one_by_one(client),
        f"Optuna, {sampler}, n_jobs=4": _threads(sampler),
    }
    if sampler == optimiser:
        who[f"Optuna, {sampler}, 4 processes, journal"] = _journal(sampler)
    return who


def _measured(name: str, go: Callable[[Load, Work], float], load: Load, *, spread: bool) -> Waited:
    lengths = np.random.default_rng(7).lognormal(-(SPREAD**2) / 2, SPREAD, load.trials)
    factors = lengths / lengths.mean() if spread else np.ones(load.trials)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "times").mkdir()
        work = Work(f"{folder}/times", tuple(map(float, load.seconds * factors)))
        began, spent = monotonic(), process_time()
        elsewhere_s = go(load, work)
        wall_s, spent_s = monotonic() - began, process_time() - spent
        workers = [
            [tuple(map(float, line.split())) for line in file.read_text().splitlines()]
            for file in Path(folder, "times").iterdir()
        ]
    losses = [loss for trials in workers for _, _, loss in trials]
    if len(losses) != load.trials:
        raise RuntimeError(f"{name} made {len(losses)} of {load.trials} trials")
    idle = idle_share([[(began, ended) for began, ended, _ in trials] for trials in workers])
    driver_s = (spent_s + elsewhere_s) / load.trials
    return Waited(name, load, spread, wall_s, idle, driver_s, min(losses) - PROBLEM.best)


def asking(*, quick: bool) -> list[Asking]:
    """Measure what each optimiser costs the driver."""
    names = ("optuna:tpe",) if quick else SINGLE + SEVERAL[:1]
    told = (4, 8) if quick else (20, 100, 200)
    with one_thread():
        return [
            Asking(
                name,
                told,
                tuple(_asking_s(name, known, 1) for known in told),
                tuple(_asking_s(name, known, WORKERS) for known in told),
            )
            for name in names
        ]


def _asking_s(name: str, known: int, n: int) -> float:
    """Give the median of five, after one that imports what is needed."""
    rng = np.random.default_rng(1)
    points = [PROBLEM.space.from_unit(rng.random(6).tolist()) for _ in range(known)]
    past = [Past(i, params, PROBLEM.losses(params)) for i, params in enumerate(points)]
    optimiser, took = find(name), []
    for seed in range(6):
        began = process_time()
        optimiser.propose(PROBLEM.space, past, n, seed)
        took.append(process_time() - began)
    return median(took[1:])


def idle_share(workers: list[list[tuple[float, float]]]) -> float:
    """Give the part of the workers' time in which none of their trials ran.

    Examples
    --------
    >>> idle_share([[(0.0, 2.0), (3.0, 5.0)], [(1.0, 3.0)], [(1.0, 5.0)], [(1.0, 3.0)]])
    0.3125
    """
    start = max(min(began for began, _ in trials) for trials in workers)
    stop = max(ended for trials in workers for _, ended in trials)
    busy_s = fsum(
        max(ended - max(began, start), 0.0) for trials in workers for began, ended in trials
    )
    return 1.0 - busy_s / (WORKERS * (stop - start))


def _warm_up(client: Client, optimiser: str) -> None:
    """Let everything be imported, here and on the workers."""
    with tempfile.TemporaryDirectory() as folder:
        load, work = Load(optimiser, 12, 0.0), Work(folder, (0.0,) * 12)
        _ours(client, "rounds")(load, work)
        _mapped(client)(load, work)
        _threads(_sampler(optimiser))(load, work)


def _sampler(optimiser: str) -> str:
    """Give what Optuna has in the place of an optimiser."""
    return optimiser if optimiser.startswith("optuna:") else "optuna:gp"


def _ours(client: Client, mode: str) -> Callable[[Load, Work], float]:
    def go(load: Load, work: Work) -> float:
        with tempfile.TemporaryDirectory() as folder:
            campaign = hepdask_ml.search(
                work,
                PROBLEM.space,
                optimiser=load.optimiser,
                n_trials=load.trials,
                mode=mode,
                ledger=f"{folder}/ledger",
            )
            campaign.run(client)
        return 0.0

    return go


def _mapped(client: Client) -> Callable[[Load, Work], float]:
    def go(load: Load, work: Work) -> float:
        who = contestant("library alone", load.optimiser, PROBLEM, 1)
        for first in range(0, load.trials, WORKERS):
            numbers = range(first, min(first + WORKERS, load.trials))
            points = who.ask(len(numbers))
            losses: Any = client.gather(  # type: ignore[no-untyped-call]
                client.map(work.at, numbers, points, pure=False)
            )
            for number, loss in zip(numbers, losses, strict=True):
                who.tell(number, (loss,))
        return 0.0

    return go


def _one_by_one(client: Client) -> Callable[[Load, Work], float]:
    def go(load: Load, work: Work) -> float:
        who = contestant("library alone", load.optimiser, PROBLEM, 1)
        points = who.ask(WORKERS)
        futures = client.map(work.at, range(WORKERS), points, pure=False)
        numbers = {future.key: number for number, future in enumerate(futures)}
        running: Any = as_completed(futures, with_results=True)  # type: ignore[no-untyped-call]
        for future, loss in running:
            who.tell(numbers[future.key], (loss,))
            if (number := len(numbers)) < load.trials:
                (point,) = who.ask(1)
                future = client.submit(work.at, number, point, pure=False)
                numbers[future.key] = number
                running.add(future)
        return 0.0

    return go


def _threads(sampler: str) -> Callable[[Load, Work], float]:
    def go(load: Load, work: Work) -> float:
        study = _study(sampler, None)
        with quiet():
            study.optimize(_objective(work), n_trials=load.trials, n_jobs=WORKERS)
        return 0.0

    return go


def _journal(sampler: str) -> Callable[[Load, Work], float]:
    def go(load: Load, work: Work) -> float:
        context = multiprocessing.get_context("spawn")
        with tempfile.TemporaryDirectory() as folder, context.Pool(WORKERS) as pool:
            journal = f"{folder}/journal"
            _study(sampler, journal)
            share = [(sampler, journal, work, load.trials)] * WORKERS
            return fsum(pool.starmap(_optimise, share, chunksize=1))

    return go


def _optimise(sampler: str, journal: str, work: Work, trials: int) -> float:
    """Take part in a study of several processes, until it has so many trials."""
    optuna: Any = import_module("optuna")
    study = _study(sampler, journal)
    spent = process_time()
    objective = _objective(work)
    with quiet():
        # The library's own callback looks after a trial, when three others have begun.
        while (trial := study.ask(_distributions(optuna))).number < trials:
            study.tell(trial, objective(trial))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return process_time() - spent


def _study(sampler: str, journal: str | None) -> Any:
    optuna: Any = import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds = {"optuna:tpe": "TPESampler", "optuna:gp": "GPSampler"}
    with quiet():
        storage = None
        if journal is not None:
            journals = optuna.storages.journal
            storage = optuna.storages.JournalStorage(journals.JournalFileBackend(journal))
        return optuna.create_study(
            study_name="search" if journal else None,
            storage=storage,
            sampler=getattr(optuna.samplers, kinds[sampler])(),
            load_if_exists=True,
        )


def _distributions(optuna: Any) -> dict[str, Any]:
    kind = optuna.distributions.FloatDistribution
    return {name: kind(0.0, 1.0) for name in PROBLEM.space.dimensions}


def _objective(work: Work) -> Callable[[Any], float]:
    def objective(trial: Any) -> float:
        params = {name: trial.suggest_float(name, 0.0, 1.0) for name in PROBLEM.space.dimensions}
        return work.at(trial.number, params)

    return objective
