"""How fast a gang is: the time to form it, and epochs with one to four ranks on this machine.

``python tests/benchmarks/elastic.py [REPEATS]``; it needs torch.  Each rank has one
thread; what one process makes of as many threads is measured beside.  The processor time of a rank
in an epoch tells what sharing costs where others use the machine, too.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hepdask_ml.campaign.unit import Block
from hepdask_ml.training.elastic import GangRunner
from hepdask_ml.training.runner import TrialRunner

if TYPE_CHECKING:
    from hepdask_ml.training.context import Context

SAMPLES, BATCH, WIDTH, EPOCHS = 8192, 1024, 1024, 4


def train(params: dict[str, Any], context: Context) -> None:
    """Fit 1.6 M parameters to noise."""
    Path(params["begun"]).write_text(str(time.time()))
    torch = import_module("torch")
    torch.set_num_threads(params["threads"])
    torch.manual_seed(1)
    x, y = torch.randn(SAMPLES, WIDTH // 2), torch.randn(SAMPLES, 1)
    model = context.wrap(
        torch.nn.Sequential(
            torch.nn.Linear(WIDTH // 2, WIDTH),
            torch.nn.ReLU(),
            torch.nn.Linear(WIDTH, WIDTH),
            torch.nn.ReLU(),
            torch.nn.Linear(WIDTH, 1),
        )
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in context.epochs(model=model, optimiser=optimiser):
        begun = time.process_time()
        for indices, weight in context.batches(SAMPLES, BATCH, epoch):
            optimiser.zero_grad()
            loss = weight * torch.nn.functional.mse_loss(model(x[indices]), y[indices])
            loss.backward()
            optimiser.step()
        used = time.process_time() - begun
        context.report(epoch, {"loss": loss.item(), "used": used}, samples=SAMPLES)


def measured(world: int, threads: int) -> tuple[float, float, float]:
    """Give the seconds until the objective begins, of the fastest epoch, and of processors."""
    with tempfile.TemporaryDirectory() as folder:
        begun = Path(folder) / "begun"
        params = {"begun": str(begun), "threads": threads}
        spec = {"number": 0, "segment": "", "params": params, "epochs": EPOCHS}
        runner = GangRunner(TrialRunner(train, checkpoints=folder), world)
        start = time.time()
        done = runner.run(Block("trial", spec, 0, EPOCHS, "token"), lambda: False)
        rows = json.loads(done.result)["rows"]
        epoch = min(row[2] for row in rows[1:])
        return float(begun.read_text()) - start, epoch, min(row[1]["used"] for row in rows[1:])


def main(repeats: int) -> None:
    """Print a table; the best of some repeats, as others use the machine too."""
    print("ranks  threads  forming (s)  epoch (s)  processor (s)  samples/s  speed-up")
    cases = [(1, 1), (2, 1), (4, 1), (1, 2), (1, 4)]
    found = {case: [measured(*case) for _ in range(repeats)] for case in cases}
    one = min(epoch for _, epoch, _ in found[1, 1])
    for (world, threads), times in found.items():
        forming, epoch, used = (min(each) for each in zip(*times, strict=True))
        print(
            f"{world:5}  {threads:7}  {forming:11.1f}  {epoch:9.2f}  {used:13.2f}  "
            f"{SAMPLES / epoch:9.0f}  {one / epoch:8.2f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
