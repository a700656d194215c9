"""From the ledger of a toy-limit campaign back to points and limits; needs no model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.errors import CampaignError
from hepdask_ml.inference.asymptotics import Asymptotic
from hepdask_ml.inference.engines import on_workers
from hepdask_ml.inference.hypotest import Observation, compare, number
from hepdask_ml.inference.limit import summarise
from hepdask_ml.limits.runner import unpacked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.campaign.unit import History, Record
    from hepdask_ml.inference.limit import Limit
    from hepdask_ml.inference.toys import ToyResults


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """One value of the parameter of interest with the toys that are there so far."""

    seen: Observation
    toys_sb: ToyResults
    toys_b: ToyResults
    warnings: tuple[str, ...]


def points(history: History) -> list[Point]:
    """Give the points of a scan.

    Parameters
    ----------
    history : History
        Of a toy-limit campaign; in the midst of a campaign the toys are those done so far.

    Returns
    -------
    list of Point
        By rising value of the parameter of interest; toys by seed and index.
    """
    units: dict[float, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in sorted(history.records(), key=lambda record: record.seed):
        spec = record.unit.spec
        units[spec["mu"]][spec["hypothesis"]].append(record)
    return [
        Point(
            seen=_observation(hypotheses["sb"][0].unit.spec),
            toys_sb=_toys(history, hypotheses["sb"]),
            toys_b=_toys(history, hypotheses["b"]),
            warnings=tuple(hypotheses["sb"][0].unit.spec["warnings"]),
        )
        for _, hypotheses in sorted(units.items())
    ]


def limit(ledger: Ledger) -> Limit:
    """Give the limit that a ledger holds.

    Parameters
    ----------
    ledger : Ledger
        Of a toy-limit campaign, finished or not.

    Returns
    -------
    Limit
        From the toys done so far; a warning says so if some are missing.

    Raises
    ------
    CampaignError
        If there are no toys yet.
    """
    facts, seeds = ledger.facts, ledger.identity.seeds
    found = [
        compare(
            point.seen,
            point.toys_sb,
            point.toys_b,
            poi=facts["poi"],
            kind=ledger.identity.configuration["test_statistic"],
            seed=seeds[0] if len(seeds) == 1 else seeds,
            warnings=point.warnings,
            engine=on_workers(facts["engine"]) if "engine" in facts else "",
        )
        for point in points(ledger)
        if len(point.toys_sb.q) and len(point.toys_b.q)
    ]
    if not found:
        raise CampaignError(f"{ledger.path} holds no toys yet: run the campaign first")
    made = summarise(
        found, asymptotic_of(facts["asymptotic"]), cl=ledger.identity.configuration["cl"]
    )
    return replace(made, warnings=(*_unfinished(ledger, made), *made.warnings))


def asymptotic_fields(asymptotic: Asymptotic) -> dict[str, Any]:
    """Give asymptotic numbers as JSON can hold them.

    Parameters
    ----------
    asymptotic : Asymptotic
        The numbers.

    Returns
    -------
    dict
        For `asymptotic_of`.
    """
    return {
        "observed": number(asymptotic.observed),
        "expected": [number(value) for value in asymptotic.expected],
    }


def asymptotic_of(fields: Mapping[str, Any]) -> Asymptotic:
    """Give asymptotic numbers back.

    Parameters
    ----------
    fields : mapping
        Made by `asymptotic_fields`.

    Returns
    -------
    Asymptotic
        The numbers.
    """
    return Asymptotic(_float(fields["observed"]), tuple(map(_float, fields["expected"])))


def _observation(spec: Mapping[str, Any]) -> Observation:
    return Observation(
        mu=spec["mu"],
        q=spec["q"],
        poi_hat=spec["poi_hat"],
        pars=np.array(spec["pars"]),
        asymptotic=asymptotic_of(spec["asymptotic"]),
    )


def _toys(history: History, records: Sequence[Record]) -> ToyResults:
    return unpacked(
        [
            result
            for record in records
            for _, _, result in history.results(record.unit.key, record.seed)
        ]
    )


def _unfinished(ledger: Ledger, made: Limit) -> tuple[str, ...]:
    progress, precision = ledger.progress(), ledger.facts.get("precision")
    if progress.done < progress.total:
        return (
            f"the campaign is not finished: {progress.done:,} of {progress.total:,} toys, at "
            f"{len(made.points)} points",
        )
    errors = [found.error / found.value for found in (made.observed, *made.expected)]
    largest = max((error for error in errors if isfinite(error)), default=nan)
    if precision is not None and largest > precision:
        return (
            f"the largest error is {100 * largest:.2g} %, and {100 * precision:.2g} % was asked "
            "for: raise max_toys and run again",
        )
    return ()


def _float(value: float | None) -> float:
    return nan if value is None else value
