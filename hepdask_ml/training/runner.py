"""How a trial is worked: the objective is called, and what it said becomes a result."""

from __future__ import annotations

import json
import traceback
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hepdask_ml import seeds
from hepdask_ml.campaign.unit import Done
from hepdask_ml.errors import HepdaskError, InputError, WorkerFault, words
from hepdask_ml.training import state
from hepdask_ml.training.checkpoint import Checkpoints
from hepdask_ml.training.context import Context, Over, Place, missing, numbers_of
from hepdask_ml.training.ranks import ALONE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hepdask_ml.campaign.unit import Block
    from hepdask_ml.training.ranks import Ranks

    Objective = Callable[[dict[str, Any], Context], Any]

MOST_BYTES = 2**20
"""Length of a result at most: what is reported of a trial is some numbers for each epoch."""

KEEP = 2
"""Checkpoints of a trial."""


@dataclass(frozen=True, slots=True, eq=False)
class TrialRunner:
    """Works trials, epoch by epoch.

    The spec of a unit holds ``number``, ``segment``, ``params`` and ``epochs``, the most that the
    trial may have.

    Attributes
    ----------
    train : callable
        The objective: ``train(params, context)`` gives the loss, several numbers by name, or
        nothing if it has reported them.
    losses : tuple of str
        Names of the objectives, which each trial has to give.
    seed : int
        Seed of the campaign.
    checkpoints : str or None
        Folder or fsspec URL for the checkpoints of all trials.
    inputs : mapping of str to tuple of str
        Files of each segment.
    fixed : mapping of str to mapping
        Parameters of each segment that are not searched.
    block_s, interval_s : float
        Seconds after which a call ends at the next epoch, and between two checkpoints.
    """

    train: Objective
    losses: tuple[str, ...] = ("loss",)
    seed: int = 1
    checkpoints: str | None = None
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    block_s: float = 600.0
    interval_s: float = 60.0

    def run(self, block: Block, enough: Callable[[], bool], ranks: Ranks = ALONE) -> Done:
        """Work a block: call the objective once, in each of the ranks."""
        if block.start == block.stop or (ranks is ALONE and enough()):
            return Done(block.start, b"")
        context = self.context(block, enough, ranks)
        try:
            with state.session(context.seed):
                value = self.called(block, context)
            return self.done(block, context, value)
        finally:
            context.close()

    def context(self, block: Block, enough: Callable[[], bool], ranks: Ranks = ALONE) -> Context:
        """Give the context of a block.

        Parameters
        ----------
        block : Block
            The block.
        enough : callable
            Whether the worker wants to stop.
        ranks : Ranks
            The processes that train the model together.

        Returns
        -------
        Context
            For `called`.

        Raises
        ------
        InputError
            If an input of the segment is not there.
        """
        segment = block.spec["segment"]
        files = tuple(self.inputs.get(segment, ()))
        for name in files:
            if "://" not in name and not Path(name).exists():
                raise InputError(f"{name} of segment {segment} is not there: see its path")
        kept = None
        if self.checkpoints is not None:
            kept = Checkpoints(f"{self.checkpoints}/{block.key}", keep=KEEP)
        return Context(
            place=Place(
                number=block.spec["number"],
                segment=segment,
                seed=seeds.key(self.seed, block.key) % 2**32,
                start=block.start,
                stop=block.stop,
                total=block.spec["epochs"],
                files=files,
            ),
            losses=self.losses,
            checkpoints=kept,
            enough=enough,
            block_s=self.block_s,
            interval_s=self.interval_s,
            ranks=ranks,
        )

    def called(self, block: Block, context: Context) -> dict[str, float] | None:
        """Call the objective.

        Parameters
        ----------
        block : Block
            The block.
        context : Context
            Of this block.

        Returns
        -------
        dict or None
            Its value as numbers by name; None if it gave none.

        Raises
        ------
        HepdaskError
            If it failed; the message says where.
        """
        params = {**self.fixed.get(block.spec["segment"], {}), **block.spec["params"]}
        params = deepcopy(params)  # whatever is done to it, the next attempt has it as it was
        try:
            value = self.train(params, context)
        except Over:
            return None
        except (HepdaskError, WorkerFault):
            raise
        except SystemExit as error:  # it would end the worker's thread, and nobody were told
            raise HepdaskError(
                f"the objective has called sys.exit({error.code!r}): let it return, or raise"
            ) from error
        except Exception as error:
            raise HepdaskError(_located(error)) from error
        return None if value is None else numbers_of(value, self.losses)

    def done(self, block: Block, context: Context, value: Mapping[str, float] | None) -> Done:
        """Say what was done of a block.

        Parameters
        ----------
        block : Block
            The block.
        context : Context
            What was reported.
        value : mapping or None
            What `called` gave.

        Returns
        -------
        Done
            The epochs that were reported; all of them if the objective ended on its own.

        Raises
        ------
        HepdaskError
            If it has given no loss.
        """
        rows = context.rows
        reached = block.start + len(rows)
        whole = reached >= block.stop
        if not whole and context.stopped and (rows or value is None):
            if not rows:
                return Done(block.start, b"")
            return Done(reached, self._result(context, None, finished=False))
        last = rows[-1][1] if rows else {}
        numbers = {**last, **(value or {})}
        if not set(self.losses) <= numbers.keys():
            raise missing(self.losses, numbers)
        finished = not whole or context.diverged
        return Done(block.stop, self._result(context, value, finished=finished))

    def _result(
        self, context: Context, value: Mapping[str, float] | None, *, finished: bool
    ) -> bytes:
        result = json.dumps(
            {
                "rows": context.rows,
                "value": value,
                "finished": finished,
                "seconds": round(context.seconds, 6),
                "checkpoint": context.reference,
                "notes": list(context.notes),
                "device": context.used,
                "memory_mb": state.memory_mb(),
            }
        ).encode()
        if len(result) > MOST_BYTES:
            raise InputError(
                f"what was reported has {len(result):,} bytes, and {MOST_BYTES:,} are the most: "
                "report some numbers for each epoch, and save the rest as files"
            )
        return result


def _located(error: Exception) -> str:
    """Say what went wrong, and in which line of the objective."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # without ours
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {words(error)}{where}"
