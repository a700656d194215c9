"""An objective for several ranks, and what is done to them.  No test is here."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from hepdask_ml.campaign.unit import Block
from hepdask_ml.training.elastic import RANK, GangRunner
from hepdask_ml.training.runner import TrialRunner

if TYPE_CHECKING:
    from hepdask_ml.training.context import Context

SAMPLES, BATCH = 90, 16
"""The last batch has 10 samples: parts are uneven in worlds of three and four."""


def train(params: dict[str, Any], context: Context) -> None:
    """Fit a small network; note which rank of which world did which epoch.

    With a gate the second epoch lasts until the file is there, and longer than a block.
    """
    import torch  # noqa: PLC0415 - it need not be installed

    torch.manual_seed(context.seed)
    x = torch.linspace(-1.0, 1.0, SAMPLES, dtype=torch.float64).reshape(-1, 1)
    y = torch.sin(3.0 * x)
    model = torch.nn.Sequential(
        torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
    ).double()
    model = context.wrap(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=params.get("lr", 0.01))
    state = {"model": model, "optimiser": optimiser}
    for epoch in context.epochs(**state):
        note(params, f"{epoch} {context.rank} {context.world} {os.getpid()}")
        if "gate" in params and epoch == 1:
            while not (Path(params["gate"]).exists() and context.seconds > context.block_s):
                time.sleep(0.02)
        losses = []
        for indices, weight in context.batches(SAMPLES, BATCH, epoch):
            optimiser.zero_grad()
            loss = weight * torch.nn.functional.mse_loss(model(x[indices]), y[indices])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.item())
            time.sleep(params.get("batch_s", 0.0))
        context.report(epoch, {"loss": sum(losses) / len(losses)}, samples=SAMPLES)
        context.save(**state)
    if context.rank == 0 and "weights" in params:
        torch.save(getattr(model, "module", model).state_dict(), params["weights"])


def dies(params: dict[str, Any], context: Context) -> None:
    """Die as if killed."""
    os._exit(1)


def fails(params: dict[str, Any], context: Context) -> None:
    """Fail in one rank."""
    if context.rank == params["rank"]:
        raise ArithmeticError("made up")
    train(params, context)


def note(params: dict[str, Any], line: str) -> None:
    """Write a line that others can see at once."""
    if "notes" in params:
        with Path(params["notes"]).open("a") as file:
            file.write(f"{line}\n")


def notes(path: Path) -> list[tuple[int, int, int, int]]:
    """Give epoch, rank, world and process of what was begun."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    return [tuple(int(word) for word in line.split()) for line in lines]  # type: ignore[misc]


def block(stop: int = 4, start: int = 0, key: str = "trial-0000", **params: Any) -> Block:
    spec = {"number": 0, "segment": "", "params": params, "attributes": {}, "epochs": stop}
    return Block(key, spec, start, stop, "token")


def trials(folder: Path, objective: Any = train, block_s: float = 600.0) -> TrialRunner:
    return TrialRunner(objective, seed=5, checkpoints=str(folder / "checkpoints"), block_s=block_s)


def gang(folder: Path, size: int, objective: Any = train) -> GangRunner:
    return GangRunner(trials(folder, objective), size)


def processes(parent: int) -> list[int]:
    """Give the ranks that are children of a process."""
    children = psutil.Process(parent).children()
    return [child.pid for child in children if RANK in " ".join(child.cmdline())]


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
