"""Limits from toys as a campaign: where its parts are joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import hepdask_ml
from hepdask_ml.campaign.campaign import Campaign
from hepdask_ml.campaign.ledger import Identity
from hepdask_ml.campaign.pool import TARGET_S
from hepdask_ml.errors import InputError
from hepdask_ml.inference.hypotest import LIMIT_STATISTICS, prepare
from hepdask_ml.inference.limit import Limit, asymptotic_limits, checked_cl, checked_scan
from hepdask_ml.inference.statistics import checked_test_statistic
from hepdask_ml.inference.toys import ToySettings
from hepdask_ml.likelihood.compile import compile_model
from hepdask_ml.likelihood.fit import DEFAULT_STARTS
from hepdask_ml.limits.runner import ToyRunner
from hepdask_ml.limits.strategy import AdaptiveScan, FixedScan
from hepdask_ml.limits.summary import asymptotic_fields, limit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from hepdask_ml.campaign.unit import Strategy
    from hepdask_ml.inference.engines import Engine

    Floats = NDArray[np.float64]

KIND = "toy-limit"
PRECISION = 0.02
MAX_TOYS = 10_000_000
FEWEST_TOYS = 20_000
"""Toys that an adaptive scan needs to begin with."""


def toy_limit(  # noqa: PLR0913 - options, all keyword-only
    workspace: Any,
    *,
    ledger: str | Path | None = None,
    precision: float | None = None,
    max_toys: int | None = None,
    scan: Sequence[float] | Floats | None = None,
    toys: int | None = None,
    cl: float = 0.95,
    test_statistic: str = "qtilde",
    seed: int = 1,
    starts: int = DEFAULT_STARTS,
    engine: Engine = "auto",
    data: Sequence[float] | Floats | None = None,
    poi: str | None = None,
    measurement: str | None = None,
    patch: Any = None,
    block_s: float = TARGET_S,
) -> Campaign[Limit]:
    """Prepare a campaign that finds an upper limit with toys.

    Parameters
    ----------
    workspace : CompiledModel, pyhf.Model, pyhf.Workspace, dict, str or Path
        The model, or whatever `compile_model` takes.
    ledger : str or Path, optional
        File in which the toys are kept; with the same one again the campaign goes on.  In memory if
        not given.
    precision : float, optional
        Relative Monte-Carlo error of each limit that is enough, observed and expected; 0.02 if not
        given.  A ledger may be taken up with another one.
    max_toys : int, optional
        Toys in all that are not exceeded; ten million if not given.  May be changed likewise.
    scan : sequence of float, optional
        Values of the parameter of interest, with ``toys`` at each of them in place of
        ``precision``; chosen by the campaign if not given.
    toys : int, optional
        Toys of each hypothesis at each value of ``scan``; 10,000 if not given.
    cl : float
        Confidence level, between 0 and 1.
    test_statistic : {"qtilde", "q", "t"}
        Test statistic.
    seed : int
        Equal seeds give equal limits, whatever the workers did in whatever order.
    starts : int
        Fits at most in each round of the search for the lowest minimum.
    engine : {"auto", "cpu", "gpu"}
        What throws and fits the toys.  With ``"auto"`` each worker takes its GPU if it has one and
        a short measurement finds it the faster one; with ``"gpu"`` workers without one get no work.
        The toys are the same, so that a ledger may be taken up with another engine.
    data : (n_data,) sequence of float, optional
        Observed main and auxiliary data in pyhf's order; the workspace's if not given.
    poi, measurement, patch
        As in `compile_model`.
    block_s : float
        Time that a block of toys should take, in seconds.

    Returns
    -------
    Campaign
        ``run(client)`` gives a `Limit`.

    Raises
    ------
    InputError
        If the model, the data or a setting is wrong.
    HepdaskError
        If a fit to the observed data does not converge.

    Examples
    --------
    >>> campaign = toy_limit("examples/workspace.json", scan=[0.5, 1.0, 2.0, 4.0], toys=500)
    >>> campaign.run().observed.value > 0
    True
    """
    level = 1.0 - checked_cl(cl)
    kind = checked_test_statistic(test_statistic, LIMIT_STATISTICS)
    settings = ToySettings(
        toys=10_000 if toys is None else toys, seed=seed, starts=starts, engine=engine
    )
    _check_stopping(precision, max_toys, scan, toys)
    model = compile_model(workspace, poi=poi, measurement=measurement, patch=patch)
    experiment = prepare(model, data, kind, starts)
    asymptotic = asymptotic_limits(experiment, level)
    strategy: Strategy
    if scan is None:
        strategy = AdaptiveScan(
            experiment,
            asymptotic,
            level,
            PRECISION if precision is None else float(precision),
            MAX_TOYS if max_toys is None else int(max_toys),
        )
        where: Any = "adaptive"
    else:
        values = checked_scan(experiment, scan)
        strategy = FixedScan(experiment, tuple(values), settings.toys)
        where = {"values": values, "toys": settings.toys}
    return Campaign(
        identity=Identity(
            kind=KIND,
            content=experiment.model.digest,
            configuration={
                "cl": float(cl),
                "scan": where,
                "starts": int(starts),
                "test_statistic": kind,
            },
            version=hepdask_ml.__version__,
            seeds=(int(seed),),
        ),
        strategy=strategy,
        runner=ToyRunner(experiment.model, kind, int(seed), int(starts), settings.engine),
        summary=limit,
        ledger=ledger,
        facts={
            "poi": experiment.model.poi_name,
            "asymptotic": asymptotic_fields(asymptotic),
            "precision": getattr(strategy, "precision", None),
            "max_toys": getattr(strategy, "max_toys", None),
            "engine": settings.engine,
        },
        target_s=block_s,
    )


def _check_stopping(precision: Any, max_toys: Any, scan: Any, toys: Any) -> None:
    if scan is None and toys is not None:
        raise InputError(
            f"toys = {toys} are toys of each point of a scan: give scan, too, or max_toys"
        )
    if scan is not None and (precision is not None or max_toys is not None):
        name = "precision" if precision is not None else "max_toys"
        raise InputError(f"{name} is for scans that the campaign chooses: leave it or scan out")
    if precision is not None and not 0.0 < float(precision) < 1.0:
        raise InputError(f"the precision is {precision!r}: it must lie between 0 and 1, as 0.02")
    if max_toys is not None and int(max_toys) < FEWEST_TOYS:
        raise InputError(f"max_toys is {max_toys}: a scan needs {FEWEST_TOYS:,} toys to begin with")
