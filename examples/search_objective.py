"""An objective to try a search on: Branin's function, epoch by epoch.

``train`` stands for a training: it goes down to the value of the function along a curve, reports
each epoch, and can be stopped and taken up at any of them.
"""

from __future__ import annotations

from math import cos, exp, pi
from time import sleep
from typing import Any

EPOCH_S = 0.02
"""Seconds that an epoch takes, so that there is something to watch."""


def branin(x: float, y: float) -> float:
    """Give a function with three lowest places, where it is 0.398."""
    hill = y - 5.1 / (4 * pi**2) * x**2 + 5 / pi * x - 6
    return hill**2 + 10 * (1 - 1 / (8 * pi)) * cos(x) + 10


def train(params: dict[str, Any], context: Any) -> float:
    """Give the loss after the last epoch."""
    lowest = branin(params["x"], params["y"])
    speed = {"adam": 0.5, "sgd": 0.3}[params["optimizer"]]
    loss = lowest + 100.0
    for epoch in context.epochs():
        sleep(EPOCH_S)
        loss = lowest + 100.0 * exp(-speed * (epoch + 1))
        context.report(epoch, {"loss": loss})
    return loss
