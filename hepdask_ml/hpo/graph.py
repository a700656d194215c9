"""The light form of a search: fixed rounds as a plain Dask graph, which keeps no ledger.

A node proposes the trials of a round, a node works each of them, and the next round's proposals
follow from all that is known then; the summary stands on top.  The graph runs on any Dask
scheduler, and its inputs may come out of another graph.  What is lost is computed again; work that
should outlive its cluster is a campaign.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dask.delayed import Delayed, delayed

from hepdask_ml.campaign.unit import Block, Record
from hepdask_ml.errors import WorkerFault
from hepdask_ml.hpo.campaign import search
from hepdask_ml.hpo.summary import SearchResult, result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from hepdask_ml.campaign.unit import Runner, Unit
    from hepdask_ml.hpo.optimisers import Optimiser
    from hepdask_ml.hpo.strategy import SearchStrategy

    Worked = tuple[bytes, str | None]
    """Result of a trial, and what went wrong if anything did."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A history in memory: trials that have ended."""

    trials: tuple[tuple[Unit, Worked], ...] = ()
    seed: int = 1

    def records(self) -> list[Record]:
        """Give every unit, in the order in which they were planned."""
        return [
            Record(unit, self.seed, 0 if error else unit.total, error)
            for unit, (_, error) in self.trials
        ]

    def results(self, key: str, seed: int | None = None) -> list[tuple[int, int, bytes]]:  # noqa: ARG002
        """Give the result of a unit."""
        return [(0, unit.total, result) for unit, (result, _) in self.trials if unit.key == key]


def search_graph(  # noqa: PLR0913 - options, all keyword-only
    train: Callable[..., Any],
    space: Any,
    *,
    rounds: int = 10,
    parallel: int = 4,
    optimiser: str | Optimiser = "skopt:gp",
    objectives: str | Sequence[str] | Mapping[str, str] = "loss",
    constraints: str | Sequence[str] = (),
    epochs: int | str = 1,
    seed: int = 1,
    segments: str | Path | Sequence[Any] | None = None,
    checkpoints: str | Path | None = None,
) -> Delayed:
    """Write a search as a Dask graph.

    Parameters
    ----------
    train, space, optimiser, objectives, constraints, epochs, seed, segments
        As for `search`.
    rounds : int
        Rounds of trials.
    parallel : int
        Trials of a round, in all segments together.
    checkpoints : str or Path, optional
        Folder or URL for checkpoints, in a folder of this graph; without one, trials cannot save
        any.

    Returns
    -------
    dask.delayed.Delayed
        ``compute()`` gives a `SearchResult`, with the trials that a campaign makes with so many in
        parallel.  A trial that fails is not tried again.

    Raises
    ------
    InputError
        If a setting is wrong.

    Examples
    --------
    >>> def train(params, context):
    ...     return (params["x"] - 1.0) ** 2
    >>> space = {"x": {"type": "float", "low": -5, "high": 5}}
    >>> graph = search_graph(train, space, rounds=3, parallel=2)
    >>> len(graph.compute(scheduler="threads").trials)
    6
    """
    asked: dict[str, Any] = {
        "optimiser": optimiser,
        "objectives": objectives,
        "constraints": constraints,
        "epochs": epochs,
        "seed": seed,
        "segments": segments,
        "parallel": parallel,
    }
    campaign = search(train, space, n_trials=rounds, **asked)
    each = campaign.strategy.width
    strategy = replace(campaign.strategy, n_trials=rounds * each)
    facts = {**campaign.facts, "n_trials": rounds * each}
    token = uuid4().hex[:12]
    place = None if checkpoints is None else f"{checkpoints}/{token}"
    # One call works a trial to its end.
    runner = replace(campaign.runner, checkpoints=place, block_s=inf)
    made: Any = _Made(seed=seed)
    size = each * len(strategy.spaces)
    for round_ in range(rounds):
        planned = _node(f"propose-{token}-{round_}", _plan, strategy, made)
        worked = [
            _node(f"trial-{token}-{round_}-{i}", _work, runner, planned, i) for i in range(size)
        ]
        made = _node(f"round-{token}-{round_}", _joined, made, planned, *worked)
    return _node(f"search-{token}", _summary, made, facts)


def _node(key: str, work: Callable[..., Any], *inputs: Any) -> Delayed:
    # Plain objects are handed over as they are: dask would look into each for graphs.
    node: Delayed = delayed(work, traverse=False)(*inputs, dask_key_name=key)
    return node


def _plan(strategy: SearchStrategy, made: _Made) -> list[Unit]:
    return replace(strategy).plan(made)


def _work(runner: Runner, planned: Sequence[Unit], i: int) -> Worked | None:
    """Work a trial; None where the optimiser proposed fewer."""
    if i >= len(planned):
        return None
    unit = planned[i]
    try:
        done = runner.run(Block(unit.key, unit.spec, 0, unit.total, ""), lambda: False)
    except WorkerFault:
        raise
    except Exception as error:  # noqa: BLE001 - the door around what others wrote
        return b"", str(error)
    return done.result, None


def _joined(made: _Made, planned: Sequence[Unit], *worked: Worked | None) -> _Made:
    new = [(unit, each) for unit, each in zip(planned, worked, strict=False) if each is not None]
    return _Made((*made.trials, *new), made.seed)


def _summary(made: _Made, facts: Mapping[str, Any]) -> SearchResult:
    return result_of(made, facts, made.seed)
