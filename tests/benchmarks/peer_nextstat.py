"""NextStat's toy-based hypothesis test, with all its threads.  Stands alone.

``python peer_nextstat.py WORKSPACE TOYS MU BUDGET_S``

It throws toys itself and redraws main data only: auxiliary data stay as observed, so that its
distribution of the test statistic, and its CLs, belong to another ensemble than ours.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import nextstat

COMPARED = 100


def timed(model: Any, mu: float, toys: int) -> float:
    """Seconds for ``toys`` toys of each hypothesis."""
    began = perf_counter()
    nextstat.hypotest_toys(mu, model, n_toys=toys, seed=1)
    return perf_counter() - began


def main(workspace: str, _toys: str, mu: str, budget_s: str) -> None:
    model = nextstat.HistFactoryModel.from_workspace(Path(workspace).read_text())
    budget = float(budget_s)
    toys, took = 1, timed(model, float(mu), 1)
    while took < 0.05 * budget:
        toys *= 4
        took = timed(model, float(mu), toys)
    if took < 0.5 * budget:
        toys = int(0.5 * toys * budget / took)
        took = timed(model, float(mu), toys)
    main_data = nextstat.poisson_toys(model, model.suggested_init(), n_toys=COMPARED, seed=1)
    few = main_data[: max(1, int(0.2 * toys * budget / took))]
    answer = {
        "toys_per_s": 2 * toys / took,  # of both hypotheses
        "toys": 2 * toys,
        "seconds": took,
        "failed": 0,
        "names": model.parameter_names(),
        "main": few,
        "pars": [found.parameters for found in nextstat.fit_batch(model, few)],
        "note": "auxiliary data not redrawn",
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
