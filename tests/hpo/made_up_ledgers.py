"""Ledgers of searches of the tests' own making, as a driver would have written them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hepdask_ml.campaign.ledger import MEMORY, Identity, Ledger, open_ledger
from hepdask_ml.campaign.pool import Committed, Failed
from hepdask_ml.campaign.unit import Unit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EPOCHS = 4
SPACE = {"lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}}


def search_ledger(
    path: str | Path = MEMORY,
    n: int = 5,
    *,
    segments: Sequence[str] = ("",),
    objectives: Sequence[str] = ("loss",),
    constraints: Sequence[str] = (),
    kind: str = "search",
) -> Ledger:
    """A ledger with all of its trials planned, and none begun."""
    identity = Identity(kind=kind, content="", configuration={}, version="0.1.0", seeds=(1,))
    facts = {
        "objectives": [[name, False] for name in objectives],
        "constraints": list(constraints),
        "segments": list(segments),
        "spaces": dict.fromkeys(segments, SPACE),
        "n_trials": n,
        "optimiser": "optuna:tpe",
        "mode": "async",
    }
    ledger = open_ledger(path, identity, facts)
    ledger.add([unit(number, segment) for segment in segments for number in range(n)])
    return ledger


def unit(number: int, segment: str = "", most: int = EPOCHS) -> Unit:
    name = f"trial-{number:04}"
    spec: dict[str, Any] = {
        "number": number,
        "segment": segment,
        "round": 1,
        "params": {"lr": 10.0 ** -(1 + number % 4), "name [a.u.]": "relu", "flag": number % 2 == 0},
        "attributes": {},
        "epochs": most,
    }
    return Unit(f"{segment}/{name}" if segment else name, EPOCHS, spec, f"trial {number}", 1, True)


def work(
    ledger: Ledger, number: int, stop: int = EPOCHS, segment: str = "", most: int = EPOCHS
) -> None:
    """Do the epochs of a trial up to this one."""
    known = unit(number, segment, most)
    start = next(record.done for record in ledger.records() if record.unit.key == known.key)
    rows = [
        [epoch, {"loss": loss(number, epoch), "size": float(number)}, 0.25, 1000]
        for epoch in range(start, stop)
    ]
    result = {
        "rows": rows,
        "value": None,
        "finished": stop == known.spec["epochs"],
        "checkpoint": None,
        "notes": [],
        "device": "cpu",
        "memory_mb": None,
        "seconds": 0.25 * len(rows),
    }
    done = Committed(1, known.key, start, stop, json.dumps(result).encode(), "worker", 0.5)
    ledger.write([done])


def fail(ledger: Ledger, number: int) -> None:
    """Have a trial given up before its first epoch is done."""
    ledger.write([Failed(1, unit(number).key, 0, EPOCHS, "ValueError: no", "worker", final=True)])


def loss(number: int, epoch: int) -> float:
    return (number + 1) / (epoch + 1)
