"""What an objective is given beside its parameters: a trial's place, state and way to report.

Epochs are counted from 0.  What was reported of an epoch is a *row*.  A checkpoint holds the rows
since the ledger's last, so that nothing that is durable has to be done again: not the training,
and not the book-keeping.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from numbers import Real
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import HepdaskError, InputError
from hepdask_ml.training import state as states
from hepdask_ml.training.ranks import ALONE, batches, seed_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from hepdask_ml.training.checkpoint import Checkpoint, Checkpoints
    from hepdask_ml.training.ranks import Ranks

ROWS = "rows.json"
"""Part of a checkpoint that holds what was reported."""

SAVE_SHARE = 0.05
"""Part of the time that `Context.epochs` spends on checkpoints at most, but for the last one."""


class Over(BaseException):
    """Ends an objective that goes on although its epochs are done; not to be caught as an error."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which part of which trial is worked.

    Attributes
    ----------
    number : int
        The trial's place in the search, from 0; counted by segment.
    segment : str
        Its segment; empty where there are none.
    seed : int
        32 bits that belong to the trial: the same in every attempt.
    start, stop, total : int
        Epochs that are in the ledger, those after which this call ends, and those of the trial at
        most.
    files : tuple of str
        Inputs of the segment.
    """

    number: int
    segment: str
    seed: int
    start: int
    stop: int
    total: int
    files: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class Context:
    """A trial, as its objective sees it.

    Attributes
    ----------
    place : Place
        Which part of which trial this is.
    losses : tuple of str
        Names of the objectives.
    checkpoints : Checkpoints or None
        Where its state is kept.
    enough : callable
        Whether the worker wants to stop.
    block_s, interval_s : float
        Time in seconds after which this call ends at the next epoch, and between two checkpoints.
    ranks : Ranks
        The processes that train the model together: this one alone but in a gang.
    """

    place: Place
    losses: tuple[str, ...] = ("loss",)
    checkpoints: Checkpoints | None = None
    enough: Callable[[], bool] = lambda: False
    block_s: float = 600.0
    interval_s: float = 60.0
    ranks: Ranks = ALONE
    rows: list[list[Any]] = field(default_factory=list, init=False)
    stopped: bool = field(default=False, init=False)
    diverged: bool = field(default=False, init=False)
    reference: str | None = field(default=None, init=False)
    notes: tuple[str, ...] = field(default=(), init=False)
    used: str = field(default="", init=False)  # device, as soon as somebody wants to know
    _next: int | None = field(default=None, init=False)
    _parts: Mapping[str, bytes] = field(default_factory=dict, init=False)
    _begun: float = field(default_factory=monotonic, init=False)
    _lap: float = field(default_factory=monotonic, init=False)
    _folder: Path | None = field(default=None, init=False)

    @property
    def number(self) -> int:
        """The trial's place in the search, from 0; counted by segment."""
        return self.place.number

    @property
    def segment(self) -> str:
        """Name of the segment; empty where there are none."""
        return self.place.segment

    @property
    def files(self) -> tuple[str, ...]:
        """Inputs of the segment: files or URLs."""
        return self.place.files

    @property
    def seed(self) -> int:
        """A seed of 32 bits that belongs to the trial: the same in every attempt.

        The global generators of Python, NumPy and torch begin at it.  Where several threads of a
        process train they share these, so draw from generators of your own there.
        """
        return self.place.seed

    @property
    def start(self) -> int:
        """Epochs that are in the ledger."""
        return self.place.start

    @property
    def stop(self) -> int:
        """Epochs after which this call ends: the last ones, or those before a decision."""
        return self.place.stop

    @property
    def total(self) -> int:
        """Epochs of the trial at most."""
        return self.place.total

    @property
    def device(self) -> str:
        """``"cuda"`` where there is a GPU that torch can use, else ``"cpu"``."""
        if not self.used:
            self.used = states.device()
        return self.used

    @property
    def folder(self) -> Path:
        """An empty folder for this call alone; removed afterwards."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="hepdask-ml-"))
        return self._folder

    @property
    def parts(self) -> Mapping[str, bytes]:
        """Parts of the checkpoint that `load` found, by name."""
        return MappingProxyType(self._parts)

    @property
    def done(self) -> int:
        """Epochs that are done: reported, or in the checkpoint that was loaded."""
        return self._next or 0

    @property
    def seconds(self) -> float:
        """Time since this call began."""
        return monotonic() - self._begun

    @property
    def should_stop(self) -> bool:
        """Whether to come to an end now.

        True where the epochs of this call are done, a loss is not finite, the worker's walltime is
        near, or the call has taken its time.  In the two latter cases the trial goes on later, from
        its newest checkpoint.
        """
        return self._is_to_stop()

    @property
    def rank(self) -> int:
        """Place of this process among those that train the model together; 0 but in a gang."""
        return self.ranks.rank

    @property
    def world(self) -> int:
        """Number of processes that train the model together; 1 but in a gang."""
        return self.ranks.world

    def wrap(self, model: Any) -> Any:
        """Let the ranks of a gang train a torch model together.

        Parameters
        ----------
        model : torch.nn.Module
            The model, on its device.

        Returns
        -------
        torch.nn.Module
            The same where this process is alone.
        """
        return self.ranks.wrap(model)

    def batches(self, n: int, batch: int, epoch: int) -> Iterator[tuple[Any, float]]:
        """Go through the samples of an epoch in an order that the trial's seed decides.

        Parameters
        ----------
        n : int
            Number of samples.
        batch : int
            Samples of a batch, of all ranks together.
        epoch : int
            Index of the epoch.

        Yields
        ------
        indices : (n_here,) ndarray of int
            Samples of the next batch that are for this rank.
        weight : float
            Factor for their mean loss, with which the ranks' gradients are those of the whole
            batch.
        """
        return batches(n, batch, epoch, self.seed, self.rank, self.world)

    def load(self, **state: Any) -> int:
        """Take up the newest checkpoint.

        Parameters
        ----------
        **state
            What is to be restored, under the names that `save` got: objects with
            ``load_state_dict`` or ``set_state``.  Random states of Python, NumPy and torch are
            restored as well.

        Returns
        -------
        int
            The first epoch to do: 0 where there is no checkpoint.

        Raises
        ------
        InputError
            If the checkpoint does not fit.
        """
        found = self._newest()
        if found is None:
            self._next = 0
        else:
            checkpoint, self.rows = found
            self._parts = {name: part for name, part in checkpoint.parts.items() if name != ROWS}
            states.restore(state, self._parts)
            self._next, self.reference = checkpoint.epoch, checkpoint.reference
        if self.rank:
            states.seed(seed_of(self.seed, self._next, self.rank))
        self._lap = monotonic()
        return self._next

    def save(self, **state: Any) -> None:
        """Save a checkpoint of the epochs reported so far; on return it is durable.

        Parameters
        ----------
        **state
            What makes up the state: bytes, a Path, or an object with ``state_dict`` or
            ``get_state``.  Random states of Python, NumPy and torch are saved as well.

        Raises
        ------
        InputError
            If something cannot be saved, or there is no place for it.
        HepdaskError
            If it could not be written.
        """
        if self.rank:  # the first one does it for all
            return
        if self.checkpoints is None:
            raise InputError("there is no place for checkpoints: give one with checkpoints=")
        parts = {**states.packed(state), ROWS: json.dumps(self.rows).encode()}
        self.reference = self.checkpoints.save(self.done, parts)

    def report(
        self, epoch: int, metrics: Mapping[str, Any] | float, *, samples: int | None = None
    ) -> None:
        """Tell how an epoch went.

        Parameters
        ----------
        epoch : int
            Index of the epoch, from 0.
        metrics : mapping of str to float, or float
            Numbers by name, or the loss alone.
        samples : int, optional
            Training samples of this epoch, for the throughput.

        Raises
        ------
        InputError
            If epochs are left out, or something is no number.
        """
        due = self._next
        if due is None:  # it has no checkpoints, and does all of its epochs again
            due = epoch if 0 <= epoch <= self.start else self.start
        if epoch != due:
            raise InputError(
                f"epoch {epoch} was reported, and epoch {due} is due: begin with the epoch that "
                "context.load() gives, and report each epoch once"
            )
        if epoch >= self.stop:
            raise Over
        now = monotonic()
        numbers, wanted = self.ranks.agree(
            numbers_of(metrics, self.losses), self.world > 1 and self._wants_to_stop(reported=True)
        )
        if epoch >= self.start:
            counted = None if samples is None else int(samples)
            self.rows.append([int(epoch), numbers, round(now - self._lap, 6), counted])
        self.stopped = self.stopped or wanted
        self.diverged = any(not isfinite(numbers.get(name, 0.0)) for name in self.losses)
        self._next, self._lap = epoch + 1, now

    def epochs(self, **state: Any) -> Iterator[int]:
        """Go through the epochs that are left, with checkpoints.

        It is a loop's whole frame: it takes up the newest checkpoint, saves one after an epoch now
        and then and after the last, and ends where it is time to.  Each epoch has to be reported.

        Parameters
        ----------
        **state
            As in `load` and `save`.

        Yields
        ------
        int
            Index of the next epoch.

        Raises
        ------
        InputError
            If an epoch is not reported.
        """
        epoch, took, saved = self.load(**state), 0.0, monotonic()
        end = self._is_to_stop()
        while not end:  # who is to stop just after this was asked is not left without a checkpoint
            yield epoch
            if self.done != epoch + 1:
                raise InputError(
                    f"epoch {epoch} was not reported: call context.report({epoch}, ...) in the loop"
                )
            epoch += 1
            end, now = self._is_to_stop(), monotonic()
            if end or now - saved > max(self.interval_s, took / SAVE_SHARE):
                if self.checkpoints is not None and not self.diverged:
                    self.save(**state)
                saved = monotonic()
                took = saved - now
                self._lap = saved

    def _is_to_stop(self) -> bool:
        if self.done >= self.stop or self.diverged:
            return True
        if self.world == 1 and self._wants_to_stop():
            self.stopped = True
        return self.stopped

    def _wants_to_stop(self, *, reported: bool = False) -> bool:
        begun = reported or bool(self.rows)
        return self.enough() or (begun and self.seconds > self.block_s)

    def _newest(self) -> tuple[Checkpoint, list[list[Any]]] | None:
        """Give the newest checkpoint, and the rows since the ledger's last that belong to it."""
        if self.checkpoints is None:
            return None
        for at_most in (self.stop, self.start):
            found = self.ranks.checkpoint(partial(self.checkpoints.load, at_most))
            self.notes = self.checkpoints.faults
            if found is None:
                return None
            rows = [row for row in json.loads(found.parts[ROWS]) if row[0] >= self.start]
            if len(rows) == max(found.epoch - self.start, 0):
                return found, rows
            # The ledger is an older copy, and lacks rows of which this checkpoint knows nothing.
        return None

    def close(self) -> None:
        """Remove the folder of this call."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def numbers_of(given: Any, names: tuple[str, ...]) -> dict[str, float]:
    """Give what an objective returned or reported as numbers by name.

    Parameters
    ----------
    given : mapping, number, or sequence of numbers
        Numbers by name, or those of the objectives alone.
    names : tuple of str
        Names of the objectives.

    Returns
    -------
    dict
        Plain numbers.

    Raises
    ------
    InputError
        If something is no number, or there are as many as there should not be.
    """
    if hasattr(given, "items"):
        return {str(name): _number(str(name), value) for name, value in given.items()}
    values = list(given) if isinstance(given, list | tuple) else [given]
    if len(values) != len(names):
        raise InputError(
            f"the objective gives {len(values)} numbers, and there are {len(names)} objectives: "
            f"give {', '.join(names)}"
        )
    return {name: _number(name, value) for name, value in zip(names, values, strict=True)}


def _number(name: str, value: Any) -> float:
    try:
        # A tensor or an array of one element is taken for the number in it.
        single = value.item() if callable(getattr(value, "item", None)) else value
        if isinstance(single, Real) or hasattr(single, "__float__"):
            return float(single)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is no single number ({error}): give one") from None
    raise InputError(f"{name} is a {type(value).__name__}: it must be a number")


def missing(names: tuple[str, ...], numbers: Mapping[str, float]) -> HepdaskError:
    """Give the error of an objective that does not say what is minimised."""
    lacking = next(name for name in names if name not in numbers)
    known = ", ".join(numbers) or "nothing"
    return InputError(
        f'the objective gives no "{lacking}" ({known}): return it, or report it with each epoch'
    )
