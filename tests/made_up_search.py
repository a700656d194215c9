"""Searches of the tests' own making: trials whose losses follow a formula."""

from __future__ import annotations

from math import log10, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.campaign.unit import Unit
from hepdask_ml.hpo.space import Space
from hepdask_ml.hpo.summary import SearchResult
from hepdask_ml.hpo.trials import Objective, Row, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SPACE = {
    "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
    "layers": {"type": "int", "low": 1, "high": 8},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5, "step": 0.05},
    "optimizer": {"type": "choice", "values": ["adam", "sgd"]},
    "momentum": {"type": "float", "low": 0, "high": 0.99, "when": {"optimizer": "sgd"}},
    "batch": 64,
}
EPOCHS = 6


def trial(
    number: int,
    params: Mapping[str, Any],
    values: Mapping[str, float],
    *,
    segment: str = "",
    state: str = "complete",
    epochs: int = EPOCHS,
    constraints: Mapping[str, float] | None = None,
    error: str | None = None,
    notes: Sequence[str] = (),
) -> Trial:
    """A trial whose losses fall from epoch to epoch."""
    name = f"trial-{number:04}"
    rows = tuple(
        Row(epoch, {key: value * (EPOCHS + 2) / (epoch + 3) for key, value in values.items()}, 1.5)
        for epoch in range(epochs)
    )
    return Trial(
        unit=Unit(
            f"{segment}/{name}" if segment else name,
            EPOCHS,
            title=f"trial {number}" + (f" of {segment}" if segment else ""),
            ordered=True,
        ),
        number=number,
        segment=segment,
        round=1 + number // 4,
        params=params,
        attributes={},
        state=state,
        values=values,
        constraints=constraints or {},
        rows=rows,
        epochs=epochs,
        most=EPOCHS,
        seconds=1.5 * epochs,
        error=error,
        notes=tuple(notes),
        device="cpu",
    )


def loss_of(params: Mapping[str, Any]) -> float:
    """Lowest at a learning rate of 1e-3 and four layers."""
    wrong = 0.1 if params["optimizer"] == "sgd" else 0.0
    return float(
        0.05
        + 0.2 * (log10(params["lr"]) + 3.0) ** 2
        + 0.01 * (params["layers"] - 4) ** 2
        + 0.1 * params["dropout"]
        + wrong
    )


def found(
    n: int = 30,
    *,
    segments: Sequence[str] = ("",),
    objectives: Sequence[Objective] = (Objective("loss"),),
    constraints: Sequence[str] = (),
    states: Mapping[int, str] | None = None,
    asked: int | None = None,
    space: Mapping[str, Any] | None = None,
) -> SearchResult:
    """A search with random trials, of which some did not complete."""
    states = {5: "failed", 7: "pruned", n - 1: "running"} if states is None else states
    known = Space.read(SPACE if space is None else dict(space))
    trials = []
    for place, segment in enumerate(segments):
        rng = np.random.default_rng([7, place])
        for number in range(n):
            params = known.sample(rng)
            loss = loss_of(params) if space is None else float(rng.random())
            numbers = (loss, 40.0 * params.get("layers", 1) * (1.0 - loss / 5.0), 1.0 - loss)
            values = {each.name: value for each, value in zip(objectives, numbers, strict=False)}
            state = states.get(number, "complete")
            if state == "failed":
                values = dict.fromkeys(values, nan)
            trials.append(
                trial(
                    number,
                    params,
                    values,
                    segment=segment,
                    state=state,
                    epochs={"complete": EPOCHS, "pruned": 2, "failed": 1, "running": 3}[state],
                    constraints={name: params.get("layers", 1) - 6.5 for name in constraints},
                    error="loss is nan" if state == "failed" else None,
                )
            )
    return SearchResult(
        objectives=tuple(objectives),
        constraints=tuple(constraints),
        segments=tuple(segments),
        trials=tuple(trials),
        n_trials=n if asked is None else asked,
        optimiser="optuna:tpe",
        spaces=dict.fromkeys(segments, known),
        seed=1,
    )
