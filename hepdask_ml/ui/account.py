"""The account of a campaign: what its ledger says, read once, for every view of it.

`hepdask_ml.ui.show` tells it in a terminal and `hepdask_ml.ui.report` on a page; ``status --json``
prints its document.  An account is of one moment: the campaign may go on meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import CampaignError
from hepdask_ml.inference.engines import on_workers
from hepdask_ml.inference.hypotest import number
from hepdask_ml.inference.pvalues import BANDS, UNDEFINED
from hepdask_ml.limits.summary import limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hepdask_ml.campaign.ledger import Identity, Ledger, Progress
    from hepdask_ml.campaign.unit import Record
    from hepdask_ml.inference.limit import Limit
    from hepdask_ml.inference.pvalues import Measured

SCHEMA = "hepdask-ml/campaign/1"
LIMITS = "toy-limit"
"""The kind that has points and limits; `hepdask_ml.limits.campaign` is too slow to import here."""


@dataclass(frozen=True, slots=True)
class PointToys:
    """The toys at one value of the parameter of interest.

    Attributes
    ----------
    mu : float
        The value.
    sb, b : (int, int)
        Toys done and planned, with the signal and without.
    cls : Measured
        CLs of the observation from the toys so far; undefined without any.
    """

    mu: float
    sb: tuple[int, int]
    b: tuple[int, int]
    cls: Measured


@dataclass(frozen=True, slots=True, eq=False)
class Account:
    """What a ledger says.

    Attributes
    ----------
    path : str
        Its file.
    campaign : str
        Its name.
    identity : Identity
        What it is of.
    facts : dict
        What the campaign keeps with it.
    progress : Progress
        How far it is.
    records : list of Record
        Its units.
    paces : list of (str, int, float)
        Each worker with its steps and seconds.
    failures : list of (str, str, str)
        Title of the unit, error and worker of everything that went wrong.
    limit : Limit or None
        From the toys so far; None without any, and for other kinds of campaign.
    """

    path: str
    campaign: str
    identity: Identity
    facts: dict[str, Any]
    progress: Progress
    records: list[Record]
    paces: list[tuple[str, int, float]]
    failures: list[tuple[str, str, str]]
    limit: Limit | None

    @property
    def state(self) -> str:
        """One of ``"empty"``, ``"unfinished"``, ``"failed"`` and ``"finished"``."""
        if not self.records:
            return "empty"
        if self.given_up:
            return "failed"
        return "finished" if self.progress.done >= self.progress.total else "unfinished"

    @property
    def given_up(self) -> list[Record]:
        """Units that were given up."""
        return [record for record in self.records if record.error is not None]

    @property
    def rate(self) -> float:
        """Steps per second from the first block to the last, with pauses; nan if unknown."""
        first, last = self.progress.first, self.progress.last
        if first is None or last is None or not last > first:
            return nan
        return self.progress.done / (last - first)

    @property
    def error(self) -> float:
        """Largest relative error of a limit; nan if unknown."""
        return nan if self.limit is None else largest_error(self.limit)

    @property
    def precision(self) -> float | None:
        """Relative error that was asked for; None where the toys were given."""
        found = self.facts.get("precision")
        return None if found is None else float(found)

    @property
    def imprecise(self) -> bool:
        """Whether a limit has a larger error than was asked for, or is not there."""
        if self.limit is None or self.precision is None:
            return False
        known = all(isfinite(found.value) for found in (self.limit.observed, *self.limit.expected))
        return not (known and self.error <= self.precision)

    @property
    def engine(self) -> str:
        """What works on the workers, as was asked for last; nothing where that is not kept."""
        return on_workers(self.facts["engine"]) if "engine" in self.facts else ""

    @property
    def poi(self) -> str:
        """The parameter of interest."""
        return str(self.facts.get("poi", "mu"))

    def points(self) -> list[PointToys]:
        """Give the toys of each point, those of all seeds together.

        Returns
        -------
        list of PointToys
            By rising value; none for other kinds of campaign.
        """
        if self.identity.kind != LIMITS:
            return []
        toys: dict[float, dict[str, tuple[int, int]]] = defaultdict(dict)
        for record in self.records:
            mu, hypothesis = record.unit.spec["mu"], record.unit.spec["hypothesis"]
            done, total = toys[mu].get(hypothesis, (0, 0))
            toys[mu][hypothesis] = done + record.done, total + record.unit.total
        cls = {} if self.limit is None else {point.mu: point.cls for point in self.limit.points}
        return [
            PointToys(mu, pair.get("sb", (0, 0)), pair.get("b", (0, 0)), cls.get(mu, UNDEFINED))
            for mu, pair in sorted(toys.items())
        ]

    def to_json(self) -> dict[str, Any]:
        """Give the account as a JSON document: numbers or null, never nan.

        Returns
        -------
        dict
            What ``campaign.json`` holds.
        """
        return {
            "schema": SCHEMA,
            "ledger": self.path,
            "campaign": self.campaign,
            "state": self.state,
            "identity": {
                "kind": self.identity.kind,
                "content": self.identity.content,
                "configuration": dict(self.identity.configuration),
                "version": self.identity.version,
                "seeds": list(self.identity.seeds),
            },
            "progress": {
                "done": self.progress.done,
                "total": self.progress.total,
                "blocks": self.progress.blocks,
                "failures": self.progress.failures,
                "worker_s": self.progress.worker_s,
                "first": self.progress.first,
                "last": self.progress.last,
                "steps_per_second": number(self.rate),
            },
            "engine": self.facts.get("engine"),
            "limits": self._limits_json(),
            "points": [
                {
                    "mu": point.mu,
                    "sb": {"done": point.sb[0], "total": point.sb[1]},
                    "b": {"done": point.b[0], "total": point.b[1]},
                    "cls": _measured_json(point.cls),
                }
                for point in self.points()
            ],
            "units": [
                {
                    "key": record.unit.key,
                    "seed": record.seed,
                    "title": record.unit.title,
                    "total": record.unit.total,
                    "done": record.done,
                    "error": record.error,
                }
                for record in self.records
            ],
            "workers": [
                {
                    "worker": worker,
                    "done": steps,
                    "seconds": seconds,
                    "steps_per_second": number(steps / seconds if seconds > 0.0 else nan),
                }
                for worker, steps, seconds in self.paces
            ],
            "failures": [
                {"unit": unit, "error": error, "worker": worker}
                for unit, error, worker in self.failures
            ],
        }

    def _limits_json(self) -> dict[str, Any] | None:
        if self.limit is None:
            return None
        return {
            "observed": _measured_json(self.limit.observed),
            "expected": {
                str(band): _measured_json(found)
                for band, found in zip(BANDS, self.limit.expected, strict=True)
            },
            "largest_error": number(self.error),
            "precision": self.precision,
        }


def account(ledger: Ledger) -> Account:
    """Read what a ledger says.

    Parameters
    ----------
    ledger : Ledger
        It may be written meanwhile.

    Returns
    -------
    Account
        Of this moment.
    """
    found = limit_so_far(ledger)
    return Account(
        path=ledger.path,
        campaign=ledger.campaign,
        identity=ledger.identity,
        facts=ledger.facts,
        progress=ledger.progress(),
        records=ledger.records(),
        paces=ledger.paces(),
        failures=ledger.failures(),
        limit=found,
    )


def limit_so_far(ledger: Ledger) -> Limit | None:
    """Give the limit from the toys that are there.

    Parameters
    ----------
    ledger : Ledger
        Of any kind.

    Returns
    -------
    Limit or None
        None if there are no toys yet, or it is of another kind.
    """
    if ledger.identity.kind != LIMITS:
        return None
    try:
        return limit(ledger)
    except CampaignError:
        return None


def largest_error(found: Limit) -> float:
    """Give the largest relative error of the limits, observed and expected.

    Parameters
    ----------
    found : Limit
        The limits.

    Returns
    -------
    float
        The error; nan if there is no limit.
    """
    return max(relative_errors(found), default=nan)


def relative_errors(found: Limit) -> list[float]:
    """Give the relative errors of the limits, observed and expected.

    Parameters
    ----------
    found : Limit
        The limits.

    Returns
    -------
    list of float
        The errors of those that are known.
    """
    return [
        measured.error / measured.value
        for measured in (found.observed, *found.expected)
        if isfinite(measured.error) and measured.value > 0.0
    ]


def time_left(
    progress: Progress,
    rate: float,
    errors: Sequence[float],
    *,
    precision: float | None,
    most: float = inf,
) -> float:
    """Estimate how long a campaign still takes.

    The toys that a limit needs grow with the square of its error; those that are there are taken
    to be shared among the limits evenly.

    Parameters
    ----------
    progress : Progress
        How far it is.
    rate : float
        Steps per second.
    errors : sequence of float
        Relative errors of the limits so far.
    precision : float or None
        The one that was asked for; None if the planned steps decide.
    most : float
        Steps at most.

    Returns
    -------
    float
        Seconds; nan if nothing can be said.

    Examples
    --------
    >>> from hepdask_ml.campaign.ledger import Progress
    >>> half = Progress(1000, 2000, 1, 0, 1.0, 0.0, 1.0)
    >>> time_left(half, 100.0, [0.06, 0.02], precision=None)
    10.0
    >>> time_left(half, 100.0, [0.06, 0.02], precision=0.02)
    40.0
    """
    wanted = float(progress.total)
    if precision is not None:
        if not errors:
            return nan
        growth = sum(max(error / precision, 1.0) ** 2 for error in errors) / len(errors)
        wanted = min(max(wanted, growth * progress.done), most)
    return max(wanted - progress.done, 0.0) / rate if rate > 0.0 else nan


def _measured_json(measured: Measured) -> dict[str, float | None]:
    return {"value": number(measured.value), "error": number(measured.error)}
