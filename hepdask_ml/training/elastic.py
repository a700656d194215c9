"""One trial trained by several workers at once, of which any may come and go.

Each rank is a process of its own (`hepdask_ml.training.rank`), so that a rank that is killed takes
no worker with it and each stretch of epochs may have another world.  A stretch is one block: it
begins with a new gang of those workers that are there, at the newest checkpoint, and ends where the
trial does, or is to be decided about; where a rank's worker is about to go; and after the block's
time.  If a rank dies the others are ended, too, and the same block begins again without it, so that
the epochs since the newest checkpoint are all that is lost.
"""

from __future__ import annotations

import logging
from base64 import b64decode
from dataclasses import dataclass, field
from time import sleep, time
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]

from hepdask_ml.campaign.unit import Done
from hepdask_ml.errors import HepdaskError, InputError, WorkerFault
from hepdask_ml.facility.gang import BUSY, LAST_S, gathered

if TYPE_CHECKING:
    from collections.abc import Callable

    from hepdask_ml.campaign.unit import Block
    from hepdask_ml.facility.gang import Gang, Member
    from hepdask_ml.training.runner import TrialRunner

LOG = logging.getLogger(__name__)

RANK = "hepdask_ml.training.rank"
"""What the members of a gang are."""

LOSSES = 5
"""Times that ranks of one block may die."""

SETTLE_S = 2.0
"""Time to learn that a rank fails because another one has died."""

SEAT_S = 2.0
"""Time between two looks for a free worker."""

_LOOK_S = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class GangRunner:
    """Works trials with several processes each.

    In a campaign on Dask these are on as many workers, one on each; without Dask they are processes
    of this machine.

    Attributes
    ----------
    runner : TrialRunner
        How each rank works its part.
    size : int
        Ranks at most; a trial goes on with those that can be had, and be it one.

    Raises
    ------
    InputError
        If there are no ranks, or no checkpoints.
    """

    runner: TrialRunner
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"a gang of {self.size} was asked for: give the number of its ranks")
        if self.runner.checkpoints is None:
            raise InputError(
                "a gang needs checkpoints, as its ranks may come and go: give checkpoints="
            )

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        """Work a block: a stretch of epochs.

        Raises
        ------
        HepdaskError
            If the objective fails in a rank, or ranks die again and again.
        WorkerFault
            If this worker, or this machine, cannot train at all.
        """
        payload = cloudpickle.dumps((self.runner, block))
        losses: list[str] = []
        while not enough():
            with gathered(RANK, payload, self.size, enough) as gang:
                members = _alike(gang.members)
                if enough():
                    break
                if members:
                    stretch = _Stretch(gang, members)
                    done = stretch.led(block, enough)
                    if done is not None:
                        return done
                    losses.append(stretch.loss)
                elif BUSY not in gang.refusals:
                    raise WorkerFault("; ".join(gang.refusals) or "no rank came in time")
            if len(losses) >= LOSSES:
                raise HepdaskError(
                    f"ranks died {LOSSES} times ({losses[-1]}): see whether they have enough "
                    "memory, and the logs of the workers"
                )
            if not members:
                sleep(SEAT_S)  # all are taken
        return Done(block.start, b"")


def _alike(members: list[Member]) -> list[Member]:
    """Give those on GPUs, or else all: gradients meet on one kind of device."""
    on_gpu = [member for member in members if member.said["device"] == "cuda"]
    return on_gpu or members


@dataclass(slots=True, eq=False)
class _Stretch:
    """What the leader knows while its gang works.

    Attributes
    ----------
    loss : str
        Which rank has died, if one has.
    """

    gang: Gang
    members: list[Member]
    loss: str = ""
    _done: dict[str, Any] | None = None
    _failed: tuple[Member, dict[str, Any]] | None = None
    _ended: set[int] = field(default_factory=set)  # ranks that have said their last word
    _told: bool = False

    def led(self, block: Block, enough: Callable[[], bool]) -> Done | None:
        """Lead the gang through a stretch; give nothing if a rank has died.

        Parameters
        ----------
        block : Block
            What it works.
        enough : callable
            Whether to stop at the next epoch.

        Returns
        -------
        Done or None
            What the first rank did.
        """
        LOG.info("%s: %d ranks, epoch %d", block.key, len(self.members), block.start)
        for rank, member in enumerate(self.members):
            self.gang.send(member, {"rank": rank, "world": len(self.members)})
        while not self._is_over():
            patience_s = SETTLE_S if self._failed else _LOOK_S
            heard = self.gang.receive(patience_s)
            for member, message in heard:
                if member in self.members:
                    self._take(member, message)
            all_said = len(self._ended) == len(self.members)
            if self._failed and not self._is_over() and (all_said or not heard):
                raise self._error(*self._failed)
            if enough() or self.gang.ends - time() < LAST_S:
                self._stop()
        if self._done is not None:
            return Done(int(self._done["reached"]), b64decode(self._done["result"]))
        LOG.warning("%s: %s; it goes on from its newest checkpoint", block.key, self.loss)
        return None

    def _is_over(self) -> bool:
        return self._done is not None or bool(self.loss)

    def _take(self, member: Member, message: dict[str, Any] | None) -> None:
        rank = self.members.index(member)
        if message is None:
            if rank not in self._ended:
                self.loss = f"rank {rank} of {len(self.members)} has died{_at(member)}"
        elif "store" in message:
            for other in self.members[1:]:
                self.gang.send(other, {"store": message["store"]})
        elif "leaving" in message:
            self._stop()
        elif "reached" in message:
            self._ended.add(rank)
            self._done = self._done if rank else message
        elif "error" in message:
            self._ended.add(rank)
            self._failed = self._failed or (member, message)

    def _stop(self) -> None:
        """Let all ranks stop at the next epoch, together."""
        if not self._told:
            self._told = True
            for member in self.members:
                self.gang.send(member, {"stop": True})

    def _error(self, member: Member, message: dict[str, Any]) -> HepdaskError:
        rank = self.members.index(member)
        text = str(message["error"])
        if message["fault"] and member.host == self.gang.host:
            return WorkerFault(text)
        return HepdaskError(f"rank {rank}: {text}" if rank else text)


def _at(member: Member) -> str:
    return f" on worker {member.host}" if member.host else ""
