"""The light form of a toy limit: a plain Dask graph, which keeps no ledger.

One node prepares the model, *blocks* of toys follow, a tree joins the blocks of each ensemble, one
node for each point compares them with the data, and the summary stands on top.  The graph runs on
any Dask scheduler, and its workspace may come out of another graph, such as the one that fills the
histograms.  What is lost is computed again; work that should outlive its cluster is a campaign.
"""

from __future__ import annotations

from itertools import pairwise
from math import isfinite
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import is_dask_collection, tokenize
from dask.delayed import Delayed, delayed

from hepdask_ml.errors import InputError
from hepdask_ml.inference.engines import on_workers
from hepdask_ml.inference.hypotest import (
    DEFAULT_TOYS,
    LIMIT_STATISTICS,
    Experiment,
    HypoTest,
    Observation,
    compare,
    ensembles_at,
    model_warnings,
    observe,
    prepare,
)
from hepdask_ml.inference.limit import (
    AUTO_POINTS,
    Limit,
    asymptotic_limits,
    checked_cl,
    checked_scan,
    first_scan,
    scan_values,
    summarise,
)
from hepdask_ml.inference.statistics import checked_test_statistic
from hepdask_ml.inference.toys import (
    MOST_ON_GPU,
    ToyResults,
    ToySettings,
    choose,
    evaluate_range,
)
from hepdask_ml.likelihood.compile import compile_model
from hepdask_ml.likelihood.fit import DEFAULT_STARTS, rows_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from hepdask_ml.inference.asymptotics import Asymptotic
    from hepdask_ml.inference.engines import Engine
    from hepdask_ml.inference.statistics import TestStatistic
    from hepdask_ml.likelihood.workspace import Patch

    Floats = NDArray[np.float64]

MOST_BLOCKS, LEAST_BLOCK = 64, 512
"""Blocks of one hypothesis at one point, at most, and toys of a block, at least, where the user
gives no number: a node costs a scheduler about a millisecond."""

FAN_IN = 8
"""Results that one node joins, so that no worker has to gather all blocks at once."""

_HYPOTHESES = ("sb", "b")


def toy_limit_graph(  # noqa: PLR0913 - options, all keyword-only
    workspace: Any,
    *,
    scan: Sequence[float] | Floats | str = "auto",
    toys: int = DEFAULT_TOYS,
    blocks: int | None = None,
    cl: float = 0.95,
    test_statistic: str = "qtilde",
    seed: int = 1,
    starts: int = DEFAULT_STARTS,
    engine: Engine = "auto",
    poi: str | None = None,
    measurement: str | None = None,
    patch: Patch | Sequence[Patch] | None = None,
) -> Delayed:
    """Give the graph that finds an upper limit with toys, to be computed by any Dask scheduler.

    The limit is the one of `hepdask_ml.upper_limit` for the same seed and scan, to the last bit,
    whatever the scheduler and the number of blocks.

    Parameters
    ----------
    workspace : dict, str, Path, pyhf.Workspace, CompiledModel or Delayed
        What `compile_model` takes, which is compiled at once; or a part of a Dask graph that makes
        it, which is compiled in the graph.
    scan : sequence of float or "auto"
        Values of the parameter of interest to test.  ``"auto"`` places a fixed number of them by
        the asymptotic limits, in the graph; as a graph cannot grow, a limit that they do not cross
        is nan, with a warning.
    toys : int
        Toys of each hypothesis at each point.
    blocks : int, optional
        Nodes that share the toys of one hypothesis at one point.  If not given, up to
        `MOST_BLOCKS`, of `LEAST_BLOCK` toys or more each.
    cl : float
        Confidence level, between 0 and 1.
    test_statistic : {"qtilde", "q", "t"}
        Test statistic.
    seed : int
        Equal seeds give equal limits.
    starts : int
        Fits at most in each round of the search for the lowest minimum.
    engine : {"auto", "cpu", "gpu"}
        What throws and fits the toys; each worker chooses for itself if ``"auto"``.
    poi, measurement, patch
        As in `compile_model`.

    Returns
    -------
    dask.delayed.Delayed
        Its ``compute()`` gives a `Limit`.  Equal input gives equal keys, so that graphs that are
        computed together share what they have in common.

    Raises
    ------
    InputError
        If a setting is wrong, or the workspace where it is at hand.  Computing raises it for a
        workspace from the graph and for values outside the bounds of the parameter of interest,
        and `HepdaskError` if a fit to the observed data does not converge; `GpuError` if a GPU is
        asked for and cannot be used, or fails.

    Examples
    --------
    >>> graph = toy_limit_graph("examples/workspace.json", toys=600, scan=[0.5, 1.0, 2.0, 4.0])
    >>> limit = graph.compute(scheduler="threads")
    >>> limit.observed.value > 0
    True
    """
    cl = checked_cl(cl)
    kind = checked_test_statistic(test_statistic, LIMIT_STATISTICS)
    edges = _edges(ToySettings(toys, seed, starts, engine=engine).toys, blocks)
    values = _scan_values(scan)
    options = {"poi": poi, "measurement": measurement, "patch": patch}
    experiment = _experiment_node(workspace, options, kind, starts)
    token = tokenize(experiment.key, cl)
    asymptotic = _node(f"asymptotic-{token}", asymptotic_limits, experiment, 1.0 - cl)
    if values:
        token = tokenize(experiment.key, values)
        scanned = _node(f"scan-{token}", checked_scan, experiment, values)
        labels = [f"mu={value!r}".removesuffix(".0") for value in values]
    else:
        scanned = _node(f"scan-{token}", first_scan, experiment, asymptotic)
        labels = [f"point{at}" for at in range(AUTO_POINTS)]
    points = [
        _point_node(experiment, scanned, at, label, seed, engine, edges)
        for at, label in enumerate(labels)
    ]
    token = tokenize(asymptotic.key, [point.key for point in points])
    return _node(f"limit-{token}", _limit, asymptotic, cl, *points)


def _edges(toys: int, blocks: Any) -> list[int]:
    """Where blocks of toys begin, and the end: shared out evenly."""
    if blocks is None:
        blocks = min(MOST_BLOCKS, max(toys // LEAST_BLOCK, 1))
    elif not isinstance(blocks, Integral) or blocks < 1:
        raise InputError(f"blocks is {blocks!r}: give an integer of at least one")
    blocks = min(blocks, toys)
    return [toys * block // blocks for block in range(blocks + 1)]


def _scan_values(scan: Any) -> list[float]:
    """Check a scan as far as it goes without the model; empty for an automatic one."""
    if isinstance(scan, str):
        if scan != "auto":
            raise InputError(f'the scan is "{scan}": give "auto" or a list of values')
        return []
    values = scan_values(scan)
    for value in values:
        if not isfinite(value):
            raise InputError(f"the scan holds {value:g}: give finite values")
    return values


# --- nodes -------------------------------------------------------------------------------------
#
# Equal keys have equal inputs, down to the keys of the nodes that they come from: a distributed
# scheduler that meets one key with unlike inputs may come to a standstill.


def _node(key: str, work: Callable[..., Any], *inputs: Any) -> Delayed:
    node: Delayed = delayed(work)(*inputs, dask_key_name=key)
    return node


def _experiment_node(
    workspace: Any, options: dict[str, Any], kind: TestStatistic, starts: int
) -> Delayed:
    if is_dask_collection(workspace):
        source = delayed(workspace)
    else:
        # Compiled here, errors come at once, workers need no file, and keys follow the content.
        model = compile_model(workspace, **options)
        source, options = delayed(model, name=f"model-{model.digest}", traverse=False), {}
    token = tokenize(source.key, options, kind, starts)
    return _node(f"experiment-{token}", _experiment, source, options, kind, starts)


def _point_node(
    experiment: Delayed,
    scanned: Delayed,
    at: int,
    label: str,
    seed: int,
    engine: Engine,
    edges: list[int],
) -> Delayed:
    """Give the node of one value, to be called by a label, with everything below it."""
    token = tokenize(scanned.key, at)
    seen = _node(f"observed-{label}-{token}", _observation, experiment, scanned, at)
    thrown = [
        _ensemble_node(f"{label}-{name}", experiment, seen, hypothesis, seed, engine, edges)
        for hypothesis, name in enumerate(_HYPOTHESES)
    ]
    token = tokenize(seed, engine, [node.key for node in thrown])
    return _node(f"point-{label}-{token}", _point, experiment, seen, seed, engine, *thrown)


def _ensemble_node(
    name: str,
    experiment: Delayed,
    seen: Delayed,
    hypothesis: int,
    seed: int,
    engine: Engine,
    edges: list[int],
) -> Delayed:
    """Give the node with all toys of a hypothesis: the top of a tree over its blocks."""
    token = tokenize(seen.key, seed, engine)
    inputs = (experiment, seen, hypothesis, seed, engine)
    parts = [
        _node(f"toys-{name}-{token}-{start}-{stop}", _toys, *inputs, start, stop)
        for start, stop in pairwise(edges)
    ]
    while len(parts) > 1:
        edges = [*edges[:-1:FAN_IN], edges[-1]]
        batches = [parts[at : at + FAN_IN] for at in range(0, len(parts), FAN_IN)]
        parts = [
            _join_node(name, batch, start, stop)
            for batch, (start, stop) in zip(batches, pairwise(edges), strict=True)
        ]
    return parts[0]


def _join_node(name: str, parts: list[Delayed], start: int, stop: int) -> Delayed:
    if len(parts) == 1:
        return parts[0]
    token = tokenize([part.key for part in parts])
    return _node(f"join-{name}-{token}-{start}-{stop}", _joined, *parts)


# --- what the nodes do -------------------------------------------------------------------------


def _experiment(
    workspace: Any, options: dict[str, Any], kind: TestStatistic, starts: int
) -> Experiment:
    return prepare(compile_model(workspace, **options), None, kind, starts)


def _observation(experiment: Experiment, scan: list[float], at: int) -> Observation:
    return observe(experiment, scan[at])


def _toys(
    experiment: Experiment,
    seen: Observation,
    hypothesis: int,
    seed: int,
    engine: Engine,
    start: int,
    stop: int,
) -> ToyResults:
    """Evaluate toys in chunks, so that memory does not grow with the block."""
    model, kind, starts = experiment.model, experiment.kind, experiment.starts
    ensemble = ensembles_at(model, seen, experiment.null)[hypothesis]
    settings = ToySettings(stop - start, seed, starts, engine=engine)
    used = choose(model, ensemble, seen.mu, kind, settings).engine
    size = MOST_ON_GPU if used == "gpu" else rows_at_once(model)
    chunks = [(at, min(at + size, stop)) for at in range(start, stop, size)]
    return _joined(
        *(
            evaluate_range(model, ensemble, seen.mu, kind, seed, starts, first, last, used)
            for first, last in chunks
        )
    )


def _joined(*parts: ToyResults) -> ToyResults:
    return ToyResults(
        q=np.concatenate([part.q for part in parts]),
        poi_hat=np.concatenate([part.poi_hat for part in parts]),
        status=np.concatenate([part.status for part in parts]),
    )


def _point(
    experiment: Experiment,
    seen: Observation,
    seed: int,
    engine: Engine,
    toys_sb: ToyResults,
    toys_b: ToyResults,
) -> HypoTest:
    model, kind = experiment.model, experiment.kind
    ensembles = ensembles_at(model, seen, experiment.null)
    return compare(
        seen,
        toys_sb,
        toys_b,
        poi=str(model.poi_name),
        kind=kind,
        seed=seed,
        warnings=model_warnings(model, kind, ensembles),
        engine=on_workers(engine),
    )


def _limit(asymptotic: Asymptotic, cl: float, *points: HypoTest) -> Limit:
    return summarise(points, asymptotic, cl=cl)
