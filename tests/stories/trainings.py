"""A search over a small training, whose process can be killed.

``python -m stories.trainings FOLDER SCHEDULER_FILE``
"""

from __future__ import annotations

import sys
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import made_up_training
from distributed import Client
from made_up_training import EPOCHS, torch, train_saving_always

import hepdask_ml

if TYPE_CHECKING:
    from hepdask_ml import Search, SearchResult

Outcome = list[tuple[str, list[tuple[int, float]], Any]]


def search(folder: Path, **options: Any) -> Search:
    """Two trials side by side, which save a checkpoint after each epoch."""
    space = {"lr": [0.02, 0.01], "disturb": str(folder / "disturb"), **options.pop("space", {})}
    return hepdask_ml.search(
        options.pop("train", train_saving_always),
        space,
        optimiser="optuna:grid",
        n_trials=2,
        parallel=2,
        epochs=EPOCHS,
        keep="all",
        ledger=folder / "search.ledger",
        **options,
    )


def outcome(made: Search, found: SearchResult) -> Outcome:
    """What became of each trial: its state, its curve, and its final weights bit by bit."""
    outcomes: Outcome = []
    for trial in found.trials:
        curve = [(row.epoch, row.metrics["loss"]) for row in trial.rows]
        content = made.load(trial)["model"]
        weights = torch.load(BytesIO(content), weights_only=True)
        bits = {name: tensor.numpy().tobytes() for name, tensor in weights.items()}
        outcomes.append((trial.state, curve, bits))
    return outcomes


def begun(folder: Path) -> Counter[str]:
    """How often each epoch of each trial was begun."""
    return Counter((folder / "disturb.journal").read_text().splitlines())


def main() -> None:
    folder, scheduler = Path(sys.argv[1]), sys.argv[2]
    with Client(scheduler_file=scheduler, timeout=60) as client:  # type: ignore[no-untyped-call]
        search(folder).run(client)
    print("done", made_up_training.__name__, flush=True)


if __name__ == "__main__":
    main()
