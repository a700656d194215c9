"""Ledgers of the tests' own making: toy limits with toys from a normal distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.campaign.ledger import MEMORY, Identity, Ledger, open_ledger
from hepdask_ml.campaign.pool import Committed, Failed
from hepdask_ml.campaign.unit import Unit
from hepdask_ml.inference.asymptotics import Asymptotic, asymptotic_cls
from hepdask_ml.inference.toys import ToyResults
from hepdask_ml.limits.campaign import KIND
from hepdask_ml.limits.runner import packed
from hepdask_ml.limits.summary import asymptotic_fields

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VALUES = (0.5, 1.0, 2.0, 3.0)
TOYS = 2000


def toy_ledger(
    path: str | Path = MEMORY,
    *,
    poi: str = "mu",
    values: Sequence[float] = VALUES,
    precision: float | None = None,
    kind: str = KIND,
) -> Ledger:
    """A ledger with all of its units planned, and no toys."""
    identity = Identity(
        kind=kind,
        content="0123456789abcdef",
        configuration={"cl": 0.95, "scan": "adaptive", "starts": 8, "test_statistic": "qtilde"},
        version="0.1.0",
        seeds=(1,),
    )
    limits = Asymptotic(1.63, (0.9, 1.2, 1.63, 2.2, 3.0))
    facts = {"poi": poi, "asymptotic": asymptotic_fields(limits), "precision": precision}
    ledger = open_ledger(path, identity, facts)
    ledger.add([unit for mu in values for unit in units_at(mu, poi)])
    return ledger


def units_at(mu: float, poi: str = "mu", toys: int = TOYS) -> list[Unit]:
    q = (1.2 * mu) ** 2
    formula = asymptotic_cls("qtilde", q, q)
    about: dict[str, Any] = {
        "q": q,
        "poi_hat": 0.0,
        "asymptotic": asymptotic_fields(formula),
        "warnings": [],
    }
    return [
        Unit(
            f"mu={mu!r}/{hypothesis}",
            toys,
            {"mu": mu, "hypothesis": hypothesis, "pars": [mu], **more},
            f"toys at {poi} = {mu:.4g}, {name}",
        )
        for hypothesis, name, more in (
            ("sb", "signal plus background", about),
            ("b", "background only", {}),
        )
    ]


def work(ledger: Ledger, share: float = 1.0) -> None:
    """Finish this share of the open units, the first ones."""
    records = [record for record in ledger.records() if record.open]
    events = [
        block(record.unit, record.done, record.unit.total)
        for record in records[: round(share * len(records))]
    ]
    ledger.write(events)


def block(unit: Unit, start: int, stop: int, worker: str = "tcp://node:1") -> Committed:
    shift = 1.2 * unit.spec["mu"] if unit.spec["hypothesis"] == "b" else 0.0
    rng = np.random.default_rng([start, int(1000 * unit.spec["mu"]), int(shift > 0.0)])
    roots = np.maximum(rng.normal(shift, 1.0, stop - start), 0.0)
    toys = ToyResults(roots**2, roots, np.zeros(stop - start, np.int8))
    return Committed(1, unit.key, start, stop, packed(toys), worker, 2.0)


def failed(unit: Unit, error: str, *, final: bool = False) -> Failed:
    return Failed(1, unit.key, 0, 10, error, "tcp://node:2", final)
