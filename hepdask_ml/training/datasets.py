"""Data sets: the batches of an epoch from a stream of events, in an order that can be taken up.

A data set knows where it stands: an iteration goes on from there, and an epoch ends where its
events do.  ``state_dict`` gives the place behind the last batch that was handed out, and
``load_state_dict`` takes it, so that a training which goes on from a checkpoint is given the
batches that it would have been given, bit by bit.

Batches are dictionaries of numpy arrays here, and of tensors in `hepdask_ml.training.loaders`:

==================  =============================================================================
``inputs``          by group and image, as in `hepdask_ml.data.batch.Batch`
``masks``           by padded group, ``(event, slot)``: where there is an item
``lengths``         by jagged group, ``(event,)``: items, also those that found no slot
``offsets``         by ragged group, ``(event + 1,)``: where the items of each event begin
``weights``         ``(event,)``, if the features have some
``labels``          ``(event,)``, if the features have some
``files``           ``(event,)``: the file of each event, counted in the sources of the stream
``events``          ``(event,)``: which event of its tree it is
==================  =============================================================================
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING, Any

from hepdask_ml.data.batch import Batch
from hepdask_ml.data.mixing import Mixture, Room, joined, mixture
from hepdask_ml.data.order import Order
from hepdask_ml.errors import InputError
from hepdask_ml.training.ahead import ahead
from hepdask_ml.training.pieces import Held, Mark, Piece

if TYPE_CHECKING:
    from hepdask_ml.data.mixing import Batches
    from hepdask_ml.data.sources import Source, Span

STEPS = ("drop", "repeat")
"""How ranks come to the same number of batches."""

GATHERED = 2
"""Batches that are gathered from what was read before they are asked for."""


@dataclass(slots=True)
class _Place:
    """Where an iteration stands: marks are of its workers, and one of them is next."""

    epoch: int = 0
    index: int = 0
    marks: tuple[Mark, ...] | None = None
    turn: int = 0


class Dataset:
    """The batches of a stream, shuffled, and shared among ranks.

    Each rank has its part of the events, and each event is some rank's once an epoch, unless
    ``steps`` says otherwise.  While a batch is used, a thread reads the next portion of events, and
    another one gathers the next batches; they end with the iteration.  In memory are at most
    ``prefetch + 1`` portions, some batches, and what is read of a span at a time.

    Parameters
    ----------
    stream : Stream of Batch, or the cache of one
        See `hepdask_ml.data.tensors` and `hepdask_ml.data.cache`.
    batch : int
        Events of a batch of this rank.  The last one of an epoch has what is left.
    seed : int
        Of the order, such as ``context.seed``.
    shuffle : bool
        Whether events are shuffled: by spans, and within portions.  If not, they come as they are.
    buffer : int
        Events of a portion: all that is read together, and mixed.
    span : int, optional
        Events of a span: what is read from one file for a portion, that of the stream if not given.
        Many spans in a portion mix better; spans shorter than the baskets of a file are slower to
        read.
    rank, world : int
        Which of how many processes this is, such as ``context.rank`` and ``context.world``.
    steps : {"drop", "repeat"} or int, optional
        How many batches each rank has, all of them full, where gradients meet and no rank may be
        missing: as many as there are for all (the events that are left over are left out), or so
        many that none are left over (some are given twice), or a number.  A rank that has not
        enough events begins its own again.
    n_events : int, optional
        Events of an epoch for ``steps``, where a selection leaves some out: that is
        ``scan.n_selected``.
    drop_last : bool
        Leave the last batch out where it is not full.
    prefetch : int
        Portions that are read ahead; with 0 there is no thread.

    Attributes
    ----------
    epoch, index : int
        Where it stands: the epoch, and batches of it that were handed out.
    rank, world : int
        As given.

    Raises
    ------
    InputError
        If a number is none, or ``steps`` needs ``n_events``.

    Examples
    --------
    >>> data = Dataset(stream, 512, seed=context.seed)  # doctest: +SKIP
    >>> for epoch in context.epochs(model=model, data=data):  # doctest: +SKIP
    ...     for batch in data:
    ...         train(batch["inputs"], batch["masks"], batch["labels"])
    """

    def __init__(  # noqa: PLR0913 - options, all but two keyword-only
        self,
        stream: Batches,
        batch: int = 1000,
        *,
        seed: int = 0,
        shuffle: bool = True,
        buffer: int = 200_000,
        span: int | None = None,
        rank: int = 0,
        world: int = 1,
        steps: str | int | None = None,
        n_events: int | None = None,
        drop_last: bool = False,
        prefetch: int = 1,
    ) -> None:
        if batch < 1:
            raise InputError(f"a batch of {batch} events is none: give one or more")
        if not 0 <= rank < world:
            raise InputError(f"there is no rank {rank} of {world}: they are counted from 0")
        if prefetch < 0:
            raise InputError(f"{prefetch} portions cannot be read ahead: give none, or more")
        if steps is not None and steps not in STEPS and not (isinstance(steps, int) and steps > 0):
            raise InputError(
                f"steps is {steps!r}: it may be {' or '.join(STEPS)}, or a number of batches"
            )
        features = getattr(stream.form, "features", None)
        if steps in STEPS and n_events is None and getattr(features, "selection", None):
            raise InputError(
                "how many events the selection keeps is not known before they are read: give "
                "n_events, as a scan finds it, or the number of steps"
            )
        self.rank, self.world = rank, world
        self._stream = stream
        self._batch = int(batch)
        self._order = Order(int(seed), shuffle, buffer)
        self._span = span
        self._steps = steps
        self._n_events = n_events
        self._drop_last = drop_last
        self._prefetch = prefetch
        self._place = _Place()
        self._elsewhere: list[Any] = []

    @property
    def epoch(self) -> int:
        """The epoch, from 0."""
        return self._place.epoch

    @property
    def index(self) -> int:
        """Batches of the epoch that were handed out."""
        return self._place.index

    @property
    def sources(self) -> Sequence[Source]:
        """The files of the stream, as ``files`` of a batch counts them."""
        return self._stream.sources

    @property
    def skipped(self) -> tuple[Any, ...]:
        """What could not be read, and was left out: here, and by the workers of a loader."""
        return (*self._stream.skipped, *self._elsewhere)

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """All that there is to be read; it is known when each file was looked into."""
        return self._stream.spans(self._span)

    @cached_property
    def steps(self) -> int | None:
        """Batches of this rank in an epoch; None where the events decide.

        Raises
        ------
        InputError
            If there are too few events for a single batch on each rank.
        """
        if self._steps is None or isinstance(self._steps, int):
            return self._steps
        n_events = self._n_events
        if n_events is None:
            n_events = sum(span.stop - span.start for span in self.spans)
        together = self._batch * self.world
        found = n_events // together if self._steps == "drop" else -(-n_events // together)
        if not found:
            raise InputError(
                f"{n_events} events are too few for {self.world} ranks with a batch of "
                f"{self._batch} each: take smaller batches, or fewer ranks"
            )
        return found

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Go on with the epoch from where the data set stands, to its end.

        Returns
        -------
        iterator of dict
            Batches, see the head of this module; their arrays are the consumer's own.
        """
        return self.finished(batch_of)

    def finished(self, finish: Callable[[Mixture], Any]) -> Iterator[Any]:
        """Go on as an iteration does, with batches that are finished by a function.

        Parameters
        ----------
        finish : callable
            Makes a batch of events; in another thread, ahead of need.

        Returns
        -------
        iterator
            Of what it made.
        """
        return self.handed_out(1, partial(self._alone, finish))

    def seek(self, epoch: int) -> None:
        """Go to the beginning of an epoch.

        Parameters
        ----------
        epoch : int
            Its index.
        """
        self._place = _Place(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Give the place behind the last batch that was handed out.

        Returns
        -------
        dict
            Numbers and text.
        """
        place = self._place
        if not place.index:
            return {"epoch": place.epoch, "index": 0}
        return {
            "epoch": place.epoch,
            "index": place.index,
            "rank": self.rank,
            "marks": None if place.marks is None else [list(mark) for mark in place.marks],
            "turn": place.turn,
            "order": self._digest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place.

        At the beginning of an epoch the events may be shared among another number of ranks than
        before.  A rank that is given the place of another one goes to the same index.

        Parameters
        ----------
        state : mapping
            What `state_dict` gave.

        Raises
        ------
        InputError
            If it is in the midst of an epoch of other batches.
        """
        place = _Place(int(state["epoch"]), int(state["index"]))
        if place.index:
            if state["order"] != self._digest:
                raise InputError(
                    f"it stands behind batch {place.index} of an epoch of other batches: take the "
                    "same files, features, batch, seed, buffer and ranks, or begin with an epoch"
                )
            if state["rank"] == self.rank and state["marks"] is not None:
                place.marks = tuple(Mark(*map(int, mark)) for mark in state["marks"])
                place.turn = int(state["turn"])
        self._place = place

    def handed_out(
        self,
        workers: int,
        course: Callable[[int, Sequence[Mark], int], Iterator[tuple[int, Mark, Any]]],
    ) -> Iterator[Any]:
        """Hand out the batches of an epoch, and keep account of the place.

        Parameters
        ----------
        workers : int
            Number of those that make the batches.
        course : callable
            Given the epoch, a mark for each worker, and the worker whose turn it is: gives batches
            in turn, each with its worker and the mark behind it.

        Yields
        ------
        object
            A batch.

        Raises
        ------
        InputError
            If the place is one of another number of workers.
        """
        place = self._place
        marks = place.marks
        if marks is not None and len(marks) != workers:
            raise InputError(
                f"it stands in the midst of an epoch of {len(marks)} workers, and there are "
                f"{workers}: take as many, or begin with an epoch"
            )
        # Without marks of its own it goes through the epoch from the beginning.
        index = 0 if marks is None else place.index
        reached = list(marks or [Mark()] * workers)
        for worker, mark, batch in course(place.epoch, tuple(reached), place.turn):
            reached[worker] = mark
            index += 1
            if index > place.index:
                after = (worker + 1) % workers
                self._place = _Place(place.epoch, index, tuple(reached), after)
                yield batch
        self._place = _Place(place.epoch + 1)

    def missed(self, skipped: Sequence[Any]) -> None:
        """Take note of what a worker could not read.

        Parameters
        ----------
        skipped : sequence
            What the stream of the worker says.
        """
        self._elsewhere += [each for each in skipped if each not in self.skipped]

    def course(
        self, epoch: int, begin: Mark | None = None, *, worker: int = 0, workers: int = 1
    ) -> Iterator[tuple[Mark, Mixture]]:
        """Go through the batches of one worker of this rank, whatever the data set's own place.

        Parameters
        ----------
        epoch : int
            Index of the epoch.
        begin : Mark, optional
            Where to begin, if not with the epoch.
        worker, workers : int
            Which of how many.

        Yields
        ------
        mark : Mark
            The place behind the batch.
        events : Mixture
            The batch.
        """
        yield from self._course(epoch, begin or Mark(), (worker, workers), _never)

    def _course(
        self, epoch: int, mark: Mark, part: tuple[int, int], over: Callable[[], bool]
    ) -> Iterator[tuple[Mark, Mixture]]:
        """Go through the batches of one worker, until nobody wants them any more."""
        worker, workers = part
        total = None
        if self.steps is not None:
            total = self.steps // workers + (worker < self.steps % workers)
            if mark.done == total:
                return
        shard, n_shards = self.rank * workers + worker, self.world * workers
        held, begin = Held(), mark

        def make(unwanted: Callable[[], bool]) -> Iterator[Piece]:
            return self._pieces(
                epoch, (shard, n_shards), begin, held.free, lambda: unwanted() or over()
            )

        for piece in ahead(make, self._prefetch):
            held.add(piece)
            del piece
            while len(held) >= self._batch:
                mark, events = held.first(self._batch, mark)
                yield mark, events
                if mark.done == total:
                    return
            held.make_room()
        if len(held) and not self._drop_last:
            yield held.first(self._batch, mark)

    def _alone(
        self, finish: Callable[[Mixture], Any], epoch: int, marks: Sequence[Mark], _turn: int
    ) -> Iterator[tuple[int, Mark, Any]]:
        def make(over: Callable[[], bool]) -> Iterator[tuple[int, Mark, Any]]:
            for mark, events in self._course(epoch, marks[0], (0, 1), over):
                yield 0, mark, finish(events)

        # Shuffled events are gathered behind the back of whoever trains.
        return ahead(make, GATHERED if self._prefetch else 0)

    def _pieces(
        self,
        epoch: int,
        part: tuple[int, int],
        mark: Mark,
        free: deque[Room],
        over: Callable[[], bool],
    ) -> Iterator[Piece]:
        """Read portions from a mark on; again and again, where there is a number of steps."""
        shard, n_shards = part
        portions = self._order.portions(self.spans, epoch, shard, n_shards)
        numbers = range(mark.portion, len(portions)) if self.steps is None else count(mark.portion)
        found = mark.portion - 1
        for number in numbers:
            # Whoever goes round once without an event would go round for ever.
            if number - found > len(portions):
                raise InputError(
                    f"rank {self.rank} of {self.world} has no events to fill its steps with: take "
                    "fewer ranks or workers, or more files"
                )
            row = 0
            for events, room in self._read(portions[number % len(portions)], free, over):
                begin = max(mark.row - row, 0) if number == mark.portion else 0
                if begin < len(events):
                    found = number
                    rows = self._order.rows(len(events), epoch, shard, number)
                    yield Piece(number, row + begin, begin, events, rows, room, room is not None)
                row += len(events)
            if over():
                return

    def _read(
        self, portion: Sequence[Span], free: deque[Room], over: Callable[[], bool]
    ) -> Iterator[tuple[Mixture, Room | None]]:
        """Read a portion: as a whole, or in the parts that it is read in if none are mixed."""
        parts = self._parts(portion, over)
        if not self._order.shuffle:
            # What is read ahead must not lie where the next part will be read into.
            reuse = getattr(self._stream.form, "reuse", False)
            for part in parts:
                yield (joined([part], len(part)) or part) if reuse else part, None
            return
        room = free.pop() if free else Room()
        events = room.joined(parts, sum(span.stop - span.start for span in portion))
        if events is not None:
            yield events, room

    def _parts(self, portion: Sequence[Span], over: Callable[[], bool]) -> Iterator[Mixture]:
        for span in portion:
            for batch in self._stream.batches(span):
                if over():
                    return
                if not isinstance(batch, Batch):
                    raise InputError(
                        f"the stream gives a {type(batch).__name__}, and a data set is made of "
                        "tensors: give it a stream of hepdask_ml.tensors"
                    )
                if len(batch):
                    yield mixture(batch, self._files[span.source])

    @cached_property
    def _files(self) -> dict[Source, int]:
        return {source: number for number, source in enumerate(self._stream.sources)}

    @cached_property
    def _digest(self) -> str:
        """Tell the batches of an epoch from those of others, wherever the files lie."""
        order = self._order
        told = [
            [order.seed, order.shuffle, order.buffer, self._batch, self.steps, self._drop_last],
            [self.world, getattr(self._stream.form, "digest", None)],
            [
                [span.source.dataset, span.source.url.rpartition("/")[2], span.start, span.stop]
                for span in self.spans
            ],
        ]
        return blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()


def batch_of(events: Mixture) -> dict[str, Any]:
    """Give events as the dictionary that a batch is.

    Parameters
    ----------
    events : Mixture
        The events.

    Returns
    -------
    dict
        See the head of this module.
    """
    whole = {"weights": events.weights, "labels": events.labels}
    return {
        "inputs": dict(events.inputs),
        "masks": events.masks(),
        "lengths": dict(events.lengths),
        "offsets": dict(events.offsets),
        **{name: values for name, values in whole.items() if values is not None},
        "files": events.files,
        "events": events.events,
    }


def _never() -> bool:
    return False
