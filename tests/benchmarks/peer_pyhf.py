"""pyhf's two fits of each toy, toy by toy, in one or several processes.  Stands alone.

``python peer_pyhf.py WORKSPACE TOYS MU BUDGET_S {minuit|jax} PROCESSES``
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyhf

READY_S = 200.0
"""How long the processes wait for each other to compile."""


def optimiser(backend: str) -> None:
    """Choose how pyhf fits."""
    if backend == "minuit":
        pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer())
    else:
        pyhf.set_backend("jax", pyhf.optimize.scipy_optimizer())


def pair(model: Any, data: Any, mu: float) -> tuple[float, float] | None:
    """-2 ln L of the fixed and of the free fit; None where pyhf gives up."""
    try:
        _, fixed = pyhf.infer.mle.fixed_poi_fit(mu, data, model, return_fitted_val=True)
        _, free = pyhf.infer.mle.fit(data, model, return_fitted_val=True)
    except pyhf.exceptions.FailedMinimization:
        return None
    return float(fixed), float(free)


def work(job: list[str], rank: int, ready: Any, answers: Any) -> None:
    """Fit toys ``rank``, ``rank + processes``, ... until the budget is spent."""
    workspace, toys, mu, budget_s, backend, processes = job
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    optimiser(backend)
    model = pyhf.Workspace(json.loads(Path(workspace).read_text())).model()
    with np.load(toys) as file:
        data = file["data"]
    if backend == "jax":
        pair(model, data[rank], float(mu))  # compiles
    ready.wait(READY_S)
    found: list[tuple[int, tuple[float, float] | None]] = []
    began = perf_counter()
    while not found or perf_counter() - began < float(budget_s):
        toy = (rank + len(found) * int(processes)) % len(data)
        found.append((toy, pair(model, data[toy], float(mu))))
    answers.put((found, perf_counter() - began))


def main(job: list[str]) -> None:
    processes = int(job[-1])
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=work, args=(job, rank, ready, answers), daemon=True)
        for rank in range(processes)
    ]
    for worker in workers:
        worker.start()
    parts = [answers.get() for _ in workers]
    found = [toy for part, _ in parts for toy in part]
    good = {toy: values for toy, values in found if values is not None}
    answer = {
        "toys_per_s": sum(len(part) / seconds for part, seconds in parts),
        "toys": len(found),
        "seconds": max(seconds for _, seconds in parts),
        "failed": len(found) - sum(values is not None for _, values in found),
        "index": list(good),
        "fixed": [fixed for fixed, _ in good.values()],
        "free": [free for _, free in good.values()],
        "note": f"{processes} process{'es' * (processes > 1)}",
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
