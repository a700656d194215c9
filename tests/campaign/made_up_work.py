"""Made-up work: eight bytes for each step, to be checked, and rounds that build on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from threading import Lock
from typing import TYPE_CHECKING

from hepdask_ml.campaign.ledger import Identity
from hepdask_ml.campaign.unit import Block, Done, History, Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WHO = Identity("made-up", "content", {}, "1.0", (1,))


def result_of(key: str, start: int, stop: int) -> bytes:
    """Give what working the steps of a unit has to give."""
    return b"".join(
        blake2b(f"{key}/{step}".encode(), digest_size=8).digest() for step in range(start, stop)
    )


def joined(history: History, key: str) -> bytes:
    """Give the results of a unit from its beginning to where they end, without a gap."""
    blocks = history.results(key)
    starts = [start for start, _, _ in blocks]
    stops = [stop for _, stop, _ in blocks]
    assert starts == [0, *stops[:-1]][: len(starts)]
    return b"".join(result for _, _, result in blocks)


@dataclass
class MadeUpRunner:
    """Works at once, but stops where it likes.

    Attributes
    ----------
    moody : Random, optional
        Decides how much of a block is done; all of it if not given.
    broken : dict
        Errors that are still to be raised, by the unit's key; a step of them can be given.
    """

    moody: Random | None = None
    broken: dict[str, int] = field(default_factory=dict)
    runs: list[Block] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        with self.lock:
            self.runs.append(block)
            left = self.broken.get(block.key, 0)
            if left:
                self.broken[block.key] = left - 1
                raise RuntimeError(f"step {block.start} went\nwrong")
            reached = block.stop
            if self.moody is not None:
                reached = self.moody.randint(block.start, block.stop)
        if enough():
            reached = min(reached, block.start + 1)
        return Done(reached, result_of(block.key, block.start, reached))


class OneRound:
    """Plans the units that it was given."""

    def __init__(self, *units: Unit) -> None:
        self.units = units

    def plan(self, history: History) -> Sequence[Unit]:
        known = {record.unit.key for record in history.records()}
        return [unit for unit in self.units if unit.key not in known]


class Rounds:
    """Plans three units; for each that is done one more; and then enlarges the first ones.

    How many steps come next depends on the results.
    """

    first = ("ada", "bob", "cyd")

    def plan(self, history: History) -> Sequence[Unit]:
        records = {record.unit.key: record for record in history.records()}
        units: list[Unit] = []
        for i, key in enumerate(self.first):
            next_key = f"after {key}"
            if key not in records:
                units.append(Unit(key, 40 + i, {"round": 1}, f"made-up {key}", grain=4 - i))
            elif records[key].open:
                continue
            elif next_key not in records:
                total = 20 + sum(joined(history, key)) % 13
                units.append(Unit(next_key, total, {"round": 2}, ordered=i == 0))
            elif not records[next_key].open and records[key].unit.total == 40 + i:
                more = 1 + sum(joined(history, next_key)) % 29
                units.append(Unit(key, 40 + i + more, {"round": 1}, f"made-up {key}", grain=4 - i))
        return units

    def expected(self) -> dict[str, bytes]:
        """Give all results."""
        found = {}
        for i, key in enumerate(self.first):
            total = 20 + sum(result_of(key, 0, 40 + i)) % 13
            found[f"after {key}"] = result_of(f"after {key}", 0, total)
            found[key] = result_of(key, 0, 41 + i + sum(found[f"after {key}"]) % 29)
        return found
