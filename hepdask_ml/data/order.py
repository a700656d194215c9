"""Orders: which events come after which in an epoch, and which process has them.

Spans are shuffled first, so that those of each data set (of each file, where no data set is named)
are spread evenly over the epoch.  Then they are dealt out to *shards*: processes, of which each
goes through its part alone.  All shards have as many events as each other, to within one; a span
that two of them share is cut.  Then come *portions*: spans of a shard, of several files as a rule,
that are read together and whose events are mixed.  A portion is what has to be in memory.

All this follows from the seed, the epoch and the number of shards; nothing has to be read for it,
and no process has to ask another.  What a selection keeps of a portion is known when it is read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from hepdask_ml import seeds
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hepdask_ml.data.sources import Span

    Portion: TypeAlias = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """How events are shuffled.

    Attributes
    ----------
    seed : int
        Whatever was drawn, is drawn again with it.
    shuffle : bool
        Whether at all.  If not, events come in the order of the spans.
    buffer : int
        Events of a portion, at most, but where a single span has more.

    Raises
    ------
    InputError
        If a portion would have no events.

    Examples
    --------
    >>> from hepdask_ml.data.sources import Source, Span
    >>> spans = [Span(Source("a.root"), 0, 10), Span(Source("b.root"), 0, 6)]
    >>> [portion] = Order(seed=1).portions(spans, epoch=0, shard=1, n_shards=2)
    >>> [(span.source.url, span.start, span.stop) for span in portion]
    [('a.root', 8, 10), ('b.root', 0, 6)]
    """

    seed: int = 0
    shuffle: bool = True
    buffer: int = 200_000

    def __post_init__(self) -> None:
        if self.buffer < 1:
            raise InputError(f"a buffer of {self.buffer} events mixes none: give one or more")

    def portions(
        self, spans: Sequence[Span], epoch: int, shard: int = 0, n_shards: int = 1
    ) -> tuple[Portion, ...]:
        """Give the portions of a shard, in the order in which they are to be read.

        Parameters
        ----------
        spans : sequence of Span
            All that there is to be read.
        epoch : int
            Index of the epoch.
        shard, n_shards : int
            Which part of how many.

        Returns
        -------
        tuple of tuple of Span
            All shards together have each event of the spans once.

        Raises
        ------
        InputError
            If there is no such shard.
        """
        if not 0 <= shard < n_shards:
            raise InputError(f"there is no part {shard} of {n_shards}: they are counted from 0")
        n_events = sum(span.stop - span.start for span in spans)
        begin, end = (n_events * part // n_shards for part in (shard, shard + 1))
        ordered = [spans[place] for place in self._places(spans, epoch)]
        return tuple(self._together(_cut(ordered, begin, end)))

    def rows(self, n: int, epoch: int, shard: int, portion: int) -> NDArray[np.int64] | None:
        """Give the order of the events of a portion.

        Parameters
        ----------
        n : int
            How many there are, after the selection.
        epoch, shard, portion : int
            Which portion.

        Returns
        -------
        (n,) int64 array or None
            A permutation; None where they stay as they are.
        """
        if not self.shuffle:
            return None
        return self._drawn(f"portion {portion} of part {shard} of epoch {epoch}").permutation(n)

    def _places(self, spans: Sequence[Span], epoch: int) -> Sequence[int]:
        if not self.shuffle:
            return range(len(spans))
        drawn = self._drawn(f"epoch {epoch}")
        kinds: dict[str, list[int]] = {}
        for place, span in enumerate(spans):
            kinds.setdefault(span.source.dataset or span.source.url, []).append(place)
        # Each kind is shuffled, and has one span in each of as many equal parts of the epoch.
        when = np.empty(len(spans))
        for places in kinds.values():
            n = len(places)
            when[drawn.permutation(places)] = (np.arange(n) + drawn.random(n)) / n
        return [int(place) for place in np.argsort(when, kind="stable")]

    def _together(self, spans: Sequence[Span]) -> Iterator[Portion]:
        """Put as many spans into a portion as it has room for."""
        portion: list[Span] = []
        room = self.buffer
        for span in spans:
            n_events = span.stop - span.start
            # Without shuffling there is nothing to be mixed, and less to be kept in memory.
            if portion and (n_events > room or not self.shuffle):
                yield tuple(portion)
                portion, room = [], self.buffer
            portion.append(span)
            room -= n_events
        if portion:
            yield tuple(portion)

    def _drawn(self, name: str) -> np.random.Generator:
        return np.random.default_rng(seeds.key(self.seed, f"order of {name}"))


def _cut(spans: Sequence[Span], begin: int, end: int) -> list[Span]:
    """Give the events ``begin`` to ``end`` of consecutive spans, counted through all of them."""
    if begin == end:
        return []
    edges = [0, *accumulate(span.stop - span.start for span in spans)]
    cut = []
    for place in range(bisect_right(edges, begin) - 1, len(spans)):
        span, first = spans[place], edges[place]
        if first >= end:
            break
        start = span.start + max(begin - first, 0)
        stop = min(span.stop, span.start + end - first)
        if start < stop:
            cut.append(replace(span, start=start, stop=stop))
    return cut
