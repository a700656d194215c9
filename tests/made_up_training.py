"""A small training with everything that could make two runs differ.

Data are shuffled and units dropped by torch's global generator, noise is added by numpy's and by
one of its own, means are running, momenta are kept and the learning rate changes.  Python's global
generator would not do: the threads of a Dask worker draw from it, too.
"""

from __future__ import annotations

import os
import random
from importlib import import_module
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hepdask_ml.training.context import Context

torch: Any = import_module("torch")  # types need it nowhere

# Several threads are of no use for so little, and a hundred times slower where cores are shared.
torch.set_num_threads(1)

EPOCHS = 6
BATCHES = 4


class Interruption(Exception):
    """Ends a training where it should not end."""


def made(params: dict[str, Any]) -> dict[str, Any]:
    """Build what has a state."""
    model = torch.nn.Sequential(
        torch.nn.Linear(4, params.get("width", 12)),
        torch.nn.BatchNorm1d(params.get("width", 12)),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(params.get("width", 12), 1),
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=params.get("lr", 0.02))
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 2, gamma=0.5)
    jitter = random.Random(1)
    return {"model": model, "optimiser": optimiser, "scheduler": scheduler, "jitter": jitter}


def data() -> Any:
    """Give the same events to everyone."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16 * BATCHES, 4, generator=generator)
    return torch.utils.data.TensorDataset(x, x.prod(1, keepdim=True))


def loader() -> Any:
    """Give them in batches, in another order each time."""
    return torch.utils.data.DataLoader(data(), batch_size=16, shuffle=True)


def one_epoch(kept: dict[str, Any], epoch: int, disturb: Any = None) -> float:
    """Train for an epoch; give the mean loss."""
    kept["model"].train()
    losses = []
    for batch, (x, y) in enumerate(loader()):
        if disturb is not None:
            disturb(epoch, batch)
        noise = np.random.normal(size=tuple(x.shape))  # noqa: NPY002 - as scripts do
        x = x * kept["jitter"].uniform(0.9, 1.1) + 0.01 * torch.as_tensor(noise, dtype=x.dtype)
        loss = torch.nn.functional.mse_loss(kept["model"](x), y)
        kept["optimiser"].zero_grad()
        loss.backward()
        kept["optimiser"].step()
        losses.append(loss.item())
    kept["scheduler"].step()
    return float(np.mean(losses))


def train(params: dict[str, Any], context: Context) -> None:
    """A mature script: the loop's head and one line more are ours."""
    kept = made(params)
    for epoch in context.epochs(**kept):
        loss = one_epoch(kept, epoch, _disturbance(params))
        context.report(epoch, {"loss": loss}, samples=16 * BATCHES)


def train_saving_always(params: dict[str, Any], context: Context) -> None:
    """The same with a checkpoint after each epoch, taken in hand."""
    kept = made(params)
    for epoch in range(context.load(**kept), context.stop):
        loss = one_epoch(kept, epoch, _disturbance(params))
        context.report(epoch, {"loss": loss})
        context.save(**kept)
        if context.should_stop:
            break


def _disturbance(params: dict[str, Any]) -> Any:
    """Disturb at a batch, where there is a file with its epoch, its number and what happens.

    Once "held", it says so in another file, and stays there until the first one is gone.  Each
    epoch that begins is noted in a third one.
    """
    if "disturb" not in params:
        return None
    asked = Path(params["disturb"])

    def disturb(epoch: int, batch: int) -> None:
        if not batch:
            with asked.with_suffix(".journal").open("a") as journal:
                journal.write(f"{params.get('lr')} {epoch}\n")
        try:
            told = asked.read_text().split()
        except FileNotFoundError:
            return
        if told[:2] != [str(epoch), str(batch)]:
            return
        if told[2] == "raise":
            asked.unlink()
            raise Interruption
        asked.with_suffix(".held").write_text(str(os.getpid()))
        while asked.exists():
            sleep(0.01)

    return disturb
