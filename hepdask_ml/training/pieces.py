"""Pieces of portions, and the batches that are cut out of them.

What is read has other lengths than batches, which reach over the borders of portions.  A *mark*
says where a batch begins, so that it can be cut again from there without what was before.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from hepdask_ml.data.mixing import joined

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hepdask_ml.data.mixing import Mixture, Room


class Mark(NamedTuple):
    """A place in the course of one shard: where its next batch begins.

    Attributes
    ----------
    portion, row : int
        The portion, counted on where a shard is gone through again, and the event in it.
    done : int
        Batches before it.
    """

    portion: int = 0
    row: int = 0
    done: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Events of a portion, or of a part of it, of which some were taken already.

    Attributes
    ----------
    portion, row : int
        The portion, and the place in it of the next event.
    begin : int
        The place of the next event in this piece.
    events : Mixture
        All events of the piece.
    rows : int64 array or None
        Their order; None for that in which they are.
    room : Room or None
        Where they lie, if nobody else has them there.
    ends : bool
        Whether it is known that the portion ends with it.
    """

    portion: int
    row: int
    begin: int
    events: Mixture
    rows: NDArray[np.int64] | None
    room: Room | None
    ends: bool

    def first(self, n_events: int) -> Mixture:
        """Give the next events: copies where they are in another order."""
        end = self.begin + n_events
        if self.rows is None:
            return self.events.part(self.begin, end)
        return self.events.take(self.rows[self.begin : end])

    def __len__(self) -> int:
        return len(self.events) - self.begin

    def behind(self, n_events: int) -> Piece:
        """Give the piece without the next events."""
        return replace(self, row=self.row + n_events, begin=self.begin + n_events)


class Held:
    """Pieces in the order in which they are used.

    Attributes
    ----------
    free : deque of Room
        Those that are free again; a thread that reads ahead takes them.
    """

    def __init__(self) -> None:
        self.free: deque[Room] = deque()
        self._pieces: deque[Piece] = deque()

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def add(self, piece: Piece) -> None:
        """Put a piece behind the others."""
        self._pieces.append(piece)

    def make_room(self) -> None:
        """Take what is left out of its room, since another piece is going to be read there."""
        for _ in range(len(self._pieces)):
            piece = self._pieces.popleft()
            room = piece.room
            if room is not None:
                events = piece.first(len(piece))
                piece = replace(piece, begin=0, events=events, rows=None, room=None)
                self.free.append(room)
            self._pieces.append(piece)

    def first(self, size: int, mark: Mark) -> tuple[Mark, Mixture]:
        """Take the next events, as many as there are; give the mark behind them, too."""
        taken: list[Mixture] = []
        portion = row = 0
        left = size
        while left and self._pieces:
            piece = self._pieces.popleft()
            n_events = min(left, len(piece))
            taken.append(piece.first(n_events))
            left -= n_events
            rest = piece.behind(n_events)
            portion, row = rest.portion, rest.row
            if len(rest):
                self._pieces.appendleft(rest)
                continue
            if piece.room is not None:
                self.free.append(piece.room)
            if piece.ends:
                portion, row = portion + 1, 0
        events = taken[0] if len(taken) == 1 else joined(taken, size - left)
        assert events is not None
        return Mark(portion, row, mark.done + 1), events
