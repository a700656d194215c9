"""A training that is cut, killed and promoted gives the weights of one that nobody disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml.campaign.unit import Block
from hepdask_ml.errors import HepdaskError
from hepdask_ml.training.checkpoint import Checkpoints
from hepdask_ml.training.runner import TrialRunner

torch: Any = pytest.importorskip("torch")

from made_up_training import (  # noqa: E402 - it imports torch
    BATCHES,
    EPOCHS,
    Interruption,
    train,
    train_saving_always,
)

TESTS = Path(__file__).parents[1]
TRAINERS = {"epochs": train, "by hand": train_saving_always}

Outcome = tuple[list[list[Any]], dict[str, Any]]


def runner(folder: Path, trainer: Any = train) -> TrialRunner:
    return TrialRunner(trainer, checkpoints=str(folder), seed=3, interval_s=0.0)


def block(start: int, stop: int, folder: Path | None = None) -> Block:
    params = {} if folder is None else {"disturb": str(folder / "disturb")}
    spec = {"number": 7, "segment": "", "params": params, "epochs": EPOCHS}
    return Block("trial-0007", spec, start, stop, "token")


def worked(
    runs: TrialRunner, to: int, *, at: int = 0, enough: Any = lambda: False, folder: Any = None
) -> tuple[int, list[list[Any]]]:
    """Work a block; give where it came to, and its rows."""
    done = runs.run(block(at, to, folder), enough)
    return done.reached, json.loads(done.result)["rows"] if done.result else []


def outcome(folder: Path, rows: list[list[Any]]) -> Outcome:
    """Give the curve, and everything in the last checkpoint, tensors by their digests.

    But for Python's global generator, from which other threads draw.
    """
    found = Checkpoints(folder / "trial-0007").load()
    assert found is not None
    assert found.epoch == EPOCHS
    held = {
        name: plain(torch.load(BytesIO(part), weights_only=True))
        if part[:2] == b"PK"
        else plain(part)
        for name, part in found.parts.items()
        if name not in ("rows.json", "random.python")
    }
    assert {
        "model",
        "optimiser",
        "scheduler",
        "random.numpy",
        "random.torch",
    } <= held.keys()
    return [[row[0], row[1]] for row in rows], held


def plain(value: Any) -> Any:
    """Give what can be compared bit by bit."""
    if isinstance(value, bytes):
        return blake2b(value, digest_size=8).hexdigest()
    if isinstance(value, torch.Tensor):
        return str(value.dtype), plain(value.numpy().tobytes())
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("undisturbed")
    reached, rows = worked(runner(folder), EPOCHS)
    assert reached == EPOCHS
    return outcome(folder, rows)


@pytest.fixture(params=TRAINERS)
def trainer(request: pytest.FixtureRequest) -> Any:
    return TRAINERS[request.param]


def test_it_learns(undisturbed: Outcome) -> None:
    curve, _ = undisturbed
    assert [epoch for epoch, _ in curve] == list(range(EPOCHS))
    assert curve[-1][1]["loss"] < curve[0][1]["loss"]


def test_another_trial_is_another_training(tmp_path: Path, undisturbed: Outcome) -> None:
    other = TrialRunner(train, checkpoints=str(tmp_path), seed=4)
    _, rows = worked(other, EPOCHS)
    assert rows[0][1] != undisturbed[0][0][1]


@pytest.mark.parametrize("cuts", [[1], [3], [1, 2, 3, 4, 5], [2, 4]])
def test_promotions_change_nothing(
    cuts: list[int], trainer: Any, tmp_path: Path, undisturbed: Outcome
) -> None:
    rows: list[list[Any]] = []
    for at, to in zip([0, *cuts], [*cuts, EPOCHS], strict=True):
        torch.rand(at + 1)  # others use the generator meanwhile
        reached, more = worked(runner(tmp_path, trainer), to, at=at)
        assert reached == to
        rows += more
    assert outcome(tmp_path, rows) == undisturbed


@pytest.mark.parametrize("looks", [2, 3, 5])
def test_walltimes_change_nothing(
    looks: int, trainer: Any, tmp_path: Path, undisturbed: Outcome
) -> None:
    at, rows, calls = 0, [], 0
    while at < EPOCHS:
        left = iter([False] * looks)
        at, more = worked(
            runner(tmp_path, trainer), EPOCHS, at=at, enough=lambda left=left: next(left, True)
        )
        rows += more
        calls += 1
    assert calls > 1
    assert outcome(tmp_path, rows) == undisturbed


@pytest.mark.parametrize("epoch", [0, 1, 4])
@pytest.mark.parametrize("batch", [0, BATCHES - 1])
def test_an_exception_in_mid_epoch_changes_nothing(
    epoch: int, batch: int, trainer: Any, tmp_path: Path, undisturbed: Outcome
) -> None:
    (tmp_path / "disturb").write_text(f"{epoch} {batch} raise")
    with pytest.raises(HepdaskError, match=Interruption.__name__):
        worked(runner(tmp_path, trainer), EPOCHS, folder=tmp_path)
    reached, rows = worked(runner(tmp_path, trainer), EPOCHS, folder=tmp_path)
    assert reached == EPOCHS
    assert outcome(tmp_path, rows) == undisturbed


DISTURBANCES = st.lists(
    st.tuples(
        st.integers(1, EPOCHS),  # the block's end
        st.integers(0, 8),  # looks after which the worker's time is over
        st.integers(0, EPOCHS - 1),  # where it is broken off, if it comes there
        st.integers(0, BATCHES),
    ),
    max_size=6,
)


@settings(max_examples=15, deadline=None)
@given(disturbances=DISTURBANCES, by_hand=st.booleans())
def test_whatever_happens_the_weights_are_the_same(
    disturbances: list[tuple[int, int, int, int]], by_hand: bool, undisturbed: Outcome
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = runner(folder, train_saving_always if by_hand else train)
        at, rows = 0, []
        for stop, looks, epoch, batch in [*disturbances, (EPOCHS, 10**6, -1, 0)]:
            if stop <= at:
                continue
            (folder / "disturb").write_text(f"{epoch} {batch} raise")
            left = iter([False] * looks)
            with suppress(HepdaskError):
                at, more = worked(
                    runs, stop, at=at, folder=folder, enough=partial(next, left, looks < 10**6)
                )
                rows += more
        assert at == EPOCHS
        assert outcome(folder, rows) == undisturbed


CHILD = """
import sys
from pathlib import Path
from training.test_torch_training import block, runner, worked, TRAINERS
folder = Path(sys.argv[1])
worked(runner(folder, TRAINERS[sys.argv[2]]), 6, folder=folder)
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Any]:
    """Start a process that trains, and stays within an epoch."""
    started = []

    def start(how: str, epoch: int) -> subprocess.Popen[bytes]:
        (tmp_path / "disturb").write_text(f"{epoch} 2 hold")
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), how],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        started.append(child)
        while not (tmp_path / "disturb.held").exists():
            assert child.poll() is None
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.02)
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()


def test_a_kill_in_mid_epoch_changes_nothing(
    held: Any, tmp_path: Path, undisturbed: Outcome
) -> None:
    child = held("by hand", 3)
    child.send_signal(signal.SIGKILL)
    child.wait()
    found = Checkpoints(tmp_path / "trial-0007").load()
    assert found is not None
    assert found.epoch == 3
    (tmp_path / "disturb").unlink()
    reached, rows = worked(runner(tmp_path), EPOCHS, folder=tmp_path)
    assert reached == EPOCHS
    assert outcome(tmp_path, rows) == undisturbed


LOADING = """
import sys
from pathlib import Path
from training.test_torch_training import EPOCHS, outcome, runner, train_with_loader, worked

outcomes = []
for cuts in ([EPOCHS], [2, EPOCHS]):
    folder, at, rows = Path(sys.argv[1], str(len(cuts))), 0, []
    for to in cuts:
        at, more = worked(runner(folder, train_with_loader), to, at=at)
        rows += more
    outcomes.append(outcome(folder, rows))
assert outcomes[0] == outcomes[1], outcomes
"""


def test_workers_of_a_loader_change_nothing(tmp_path: Path) -> None:
    """Those that are made anew for each epoch; docs/guides/training.md says so.

    They are forked, which needs a process without the threads that other tests leave.
    """
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


class Noisy(torch.utils.data.Dataset):  # type: ignore[misc]
    """Events that are smeared when they are read."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        return torch.full((4,), float(index)) + torch.randn(4)


def train_with_loader(params: dict[str, Any], context: Any) -> None:
    model = torch.nn.Linear(4, 1)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.9)
    kept = {"model": model, "optimiser": optimiser, "scheduler": scheduler}
    loader = torch.utils.data.DataLoader(
        Noisy(), batch_size=8, shuffle=True, num_workers=1, multiprocessing_context="fork"
    )
    for epoch in context.epochs(**kept):
        for x in loader:
            loss = model(x).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        scheduler.step()
        context.report(epoch, loss.item())
