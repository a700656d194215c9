"""A stream of batches that needs no files.  No test is here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hepdask_ml.data.batch import Batch
from hepdask_ml.data.forms import Look
from hepdask_ml.data.sources import Source, Span, spans
from hepdask_ml.errors import InputError

SLOTS = 3


@dataclass(frozen=True)
class Features:
    """What a data set wants to know of features."""

    selection: str | None = None


@dataclass(frozen=True)
class MadeForm:
    features: Features = Features()
    digest: str = "0123"
    reuse: bool = False


@dataclass
class Made:
    """Files with so many events; each number of an event says which one it is.

    With a selection every third event is left out; ``broken`` is a file that ends in an error, or
    is passed over where ``unreadable`` says so.  With ``reuse`` a batch is spoilt when the next one
    is asked for.
    """

    lengths: tuple[int, ...]
    selection: bool = False
    size: int = 7
    broken: int | None = None
    unreadable: str = "error"
    reuse: bool = False
    skipped: list[str] = field(default_factory=list)
    reads: list[Span] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    @property
    def sources(self) -> tuple[Source, ...]:
        names = [f"/data/{number}.root" for number in range(len(self.lengths))]
        return tuple(Source(name, "Events", dataset="made") for name in names)

    @property
    def form(self) -> MadeForm:
        return MadeForm(Features("x > 0" if self.selection else None), reuse=self.reuse)

    @property
    def looks(self) -> dict[Source, Look]:
        return {
            source: Look(length, uuid=f"{number + 1:032x}", size=length)
            for number, (source, length) in enumerate(zip(self.sources, self.lengths, strict=True))
        }

    def spans(self, size: int | None = None) -> tuple[Span, ...]:
        found: list[Span] = []
        for source, length in zip(self.sources, self.lengths, strict=True):
            found += spans(source, length, size or 100)
        return tuple(found)

    def batches(self, span: Span | None = None, size: int | None = None) -> Iterator[Batch]:
        for each in [span] if span else self.spans():
            self.reads.append(each)
            self.threads.add(threading.current_thread().name)
            if self.broken == self.sources.index(each.source):
                if self.unreadable == "error":
                    raise InputError(f"{each.source.url} is damaged: fetch it again")
                if each.source.url not in self.skipped:
                    self.skipped.append(each.source.url)
                continue
            step = size or self.size
            for start in range(each.start, each.stop, step):
                found = self.read(Span(each.source, start, min(start + step, each.stop)))
                yield found
                if self.reuse:
                    for array in (found.events, *found.inputs.values(), *found.lengths.values()):
                        array[...] = -1

    def read(self, span: Span) -> Batch:
        events = np.arange(span.start, span.stop)
        if self.selection:
            events = events[events % 3 > 0]
        return batch(span, self.sources.index(span.source), events)


def batch(span: Span, file: int, events: Any) -> Batch:
    """Every form of tensor, of certain events."""
    numbers = (1000.0 * file + events).astype(np.float32)
    lengths = (events % 5).astype(np.int32)
    planes = numbers[None, :, None] + np.arange(SLOTS)[None, None] / 8 + np.arange(2)[:, None, None]
    planes[:, np.arange(SLOTS) >= lengths[:, None]] = np.nan
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    tracks = (
        np.repeat(numbers, lengths)
        + (np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)) / 8
    )
    return Batch(
        span.source,
        span.start,
        span.stop,
        events,
        {
            "event": np.stack([numbers, -numbers]).T,
            "jets": np.moveaxis(planes.astype(np.float32), 0, -1),
            "tracks": np.stack([tracks, -tracks]).astype(np.float32).T,
            "calo": np.broadcast_to(numbers[:, None, None, None], (len(events), 1, 2, 2)).copy(),
        },
        {"jets": lengths, "tracks": lengths},
        {"tracks": offsets},
        {"calo": lengths},
        {"calo": lengths},
        weights=numbers / 2,
        labels=(events % 2).astype(np.float32),
    )


def assert_whole(found: dict[str, Any]) -> None:
    """All numbers of a batch are those of its events; tensors and arrays alike."""
    events, files = np.asarray(found["events"]), np.asarray(found["files"])
    assert len(events) == len(files)
    expected = batch(Span(Source(""), 0, 0), 0, events)
    add = (1000.0 * files).astype(np.float32)
    event = expected.inputs["event"] + np.stack([add, -add], axis=1)
    np.testing.assert_array_equal(found["inputs"]["event"], event)
    jets = expected.inputs["jets"] + add[:, None, None]
    np.testing.assert_array_equal(found["inputs"]["jets"], jets)
    np.testing.assert_array_equal(found["masks"]["jets"], ~np.isnan(jets[..., 0]))
    np.testing.assert_array_equal(found["inputs"]["calo"][:, 0, 1, 1], event[:, 0])
    offsets = expected.offsets["tracks"]
    np.testing.assert_array_equal(found["offsets"]["tracks"], offsets)
    shifts = np.repeat(add, np.diff(offsets))
    tracks = expected.inputs["tracks"] + np.stack([shifts, -shifts], axis=1)
    np.testing.assert_array_equal(found["inputs"]["tracks"], tracks)
    np.testing.assert_array_equal(found["lengths"]["jets"], events % 5)
    np.testing.assert_array_equal(found["weights"], event[:, 0] / 2)
    np.testing.assert_array_equal(found["labels"], events % 2)
