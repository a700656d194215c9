"""Mixtures: events of several files joined, in any order.

A `Batch` is read from one file and lies in memory as it is read, field by field.  What a model is
given comes from many files, and each event of it in one piece, since nothing else is quick to
shuffle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hepdask_ml.data.ragged import places_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hepdask_ml.data.batch import Batch, Offsets
    from hepdask_ml.data.forms import Look
    from hepdask_ml.data.sources import Source, Span
    from hepdask_ml.data.stacks import Lengths, Values

_ARRAYS = ("files", "events", "weights", "labels")
_MAPPINGS = ("inputs", "lengths", "collisions", "outside")


class Batches(Protocol):
    """What batches of events come from: a stream, or the cache of one; can be pickled."""

    @property
    def sources(self) -> Sequence[Source]:
        """The files."""

    @property
    def form(self) -> Any:
        """What events are read as."""

    @property
    def skipped(self) -> Sequence[Any]:
        """What could not be read, and was left out."""

    @property
    def looks(self) -> Mapping[Source, Look]:
        """What looks into the files have found; `spans` looks into all of them."""

    def spans(self, size: int | None = None) -> tuple[Span, ...]:
        """Give all events of the files, in ranges of about so many."""

    def read(self, span: Span) -> Batch:
        """Read a range of events in one piece."""

    def batches(self, span: Span | None = None, size: int | None = None) -> Iterator[Batch]:
        """Read a range of events, which may be a part of one of `spans`."""


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Events of several files.

    Attributes
    ----------
    files : (n,) int32 array
        Which file each event is of, counted in the sources.
    events : (n,) int64 array
        Which event of its tree it is.
    inputs, lengths, offsets, collisions, outside, weights, labels
        As in `Batch`.
    """

    files: NDArray[np.int32]
    events: NDArray[np.int64]
    inputs: Mapping[str, Values]
    lengths: Mapping[str, Lengths] = field(default_factory=dict)
    offsets: Mapping[str, Offsets] = field(default_factory=dict)
    collisions: Mapping[str, Lengths] = field(default_factory=dict)
    outside: Mapping[str, Lengths] = field(default_factory=dict)
    weights: NDArray[np.float32] | None = None
    labels: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.events)

    def part(self, start: int, stop: int) -> Mixture:
        """Give consecutive events, in the same memory.

        Parameters
        ----------
        start, stop : int
            Which, half open, counted here.

        Returns
        -------
        Mixture
            Views.
        """
        ragged = {}
        for name, offsets in self.offsets.items():
            begins = offsets[start : stop + 1]
            items = slice(int(begins[0]), int(begins[-1]))
            ragged[name] = items, begins - begins[0]
        return self._chosen(lambda array: array[start:stop], ragged)

    def take(self, rows: NDArray[np.int64]) -> Mixture:
        """Give some of the events, in any order.

        Parameters
        ----------
        rows : (n,) int64 array
            Which, counted here.

        Returns
        -------
        Mixture
            Copies, with each event in one piece of memory.
        """
        ragged = {name: places_of(offsets, rows) for name, offsets in self.offsets.items()}
        return self._chosen(lambda array: np.take(array, rows, axis=0), ragged)

    def _chosen(
        self,
        chosen: Callable[[NDArray[Any]], Any],
        ragged: Mapping[str, tuple[Any, NDArray[np.int64]]],
    ) -> Mixture:
        """Give what is chosen of each array; of ragged ones, certain items with new offsets."""

        def each(arrays: Mapping[str, Any]) -> dict[str, Any]:
            return {name: chosen(array) for name, array in arrays.items()}

        inputs = {
            name: values[ragged[name][0]] if name in ragged else chosen(values)
            for name, values in self.inputs.items()
        }
        return Mixture(
            chosen(self.files),
            chosen(self.events),
            inputs,
            each(self.lengths),
            {name: offsets for name, (_, offsets) in ragged.items()},
            each(self.collisions),
            each(self.outside),
            None if self.weights is None else chosen(self.weights),
            None if self.labels is None else chosen(self.labels),
        )

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Tell which slots have an item.

        Returns
        -------
        dict of str to (event, slot) bool array
            By padded group.
        """
        return {
            name: np.arange(self.inputs[name].shape[1]) < lengths[:, None]
            for name, lengths in self.lengths.items()
            if name in self.inputs and name not in self.offsets
        }


def mixture(batch: Batch, file: int) -> Mixture:
    """Give a batch as a mixture of one file.

    Parameters
    ----------
    batch : Batch
        The events.
    file : int
        Number of its file.

    Returns
    -------
    Mixture
        In the same memory.
    """
    return Mixture(
        np.full(len(batch), file, np.int32),
        batch.events,
        batch.inputs,
        batch.lengths,
        batch.offsets,
        batch.collisions,
        batch.outside,
        batch.weights,
        batch.labels,
    )


def joined(parts: Iterable[Mixture], n_events: int) -> Mixture | None:
    """Join events, in the order of the parts.

    Parameters
    ----------
    parts : iterable of Mixture
        All with the same tensors; each is done with when the next one is asked for.
    n_events : int
        How many events they have at most.

    Returns
    -------
    Mixture or None
        With each event in one piece of memory; None if there is no event.
    """
    return Room().joined(parts, n_events)


class Room:
    """Memory in which events are joined, and others afterwards.

    What the system has given is kept: to be given as much once more takes about as long as to fill
    it.  What is not filled takes no memory, as the system gives a page when it is written to.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], NDArray[Any]] = {}

    def joined(self, parts: Iterable[Mixture], n_events: int) -> Mixture | None:
        """Join events, as the function `joined` does, in place of those that were here before.

        Parameters
        ----------
        parts : iterable of Mixture
            All with the same tensors; each is done with when the next one is asked for.
        n_events : int
            How many events they have at most.

        Returns
        -------
        Mixture or None
            Its arrays lie here; None if there is no event.
        """
        items: dict[str, list[NDArray[Any]]] = {}
        lengths: dict[str, list[NDArray[np.int64]]] = {}
        n = 0
        for part in parts:
            if not len(part):
                continue
            for key, array in _by_event(part).items():
                self._at(key, array, n_events)[n : n + len(part)] = array
            for name, offsets in part.offsets.items():
                items.setdefault(name, []).append(np.array(part.inputs[name], order="C"))
                lengths.setdefault(name, []).append(np.diff(offsets))
            n += len(part)
        if not n:
            return None
        named: dict[str, dict[str, Any]] = {attribute: {} for attribute in _MAPPINGS}
        alone: dict[str, Any] = {}
        for (attribute, name), array in self._made.items():
            within = named[attribute] if name else alone
            within[name or attribute] = array[:n]
        offsets_by_name = {}
        for name, each in items.items():
            named["inputs"][name] = np.concatenate(each)
            offsets_by_name[name] = np.zeros(n + 1, np.int64)
            np.cumsum(np.concatenate(lengths[name]), out=offsets_by_name[name][1:])
        return Mixture(**{**alone, **named, "offsets": offsets_by_name})

    def _at(self, key: tuple[str, str], like: NDArray[Any], n_events: int) -> NDArray[Any]:
        """Give the memory of an array for so many events."""
        made = self._made.get(key)
        if made is None or len(made) < n_events:
            made = self._made[key] = np.empty((n_events, *like.shape[1:]), like.dtype)
        return made


def _by_event(events: Mixture) -> dict[tuple[str, str], NDArray[Any]]:
    """Give all arrays with a row for each event, by attribute and name."""
    found: dict[tuple[str, str], NDArray[Any]] = {}
    for attribute in _ARRAYS:
        array = getattr(events, attribute)
        if array is not None:
            found[attribute, ""] = array
    for attribute in _MAPPINGS:
        for name, array in getattr(events, attribute).items():
            if attribute != "inputs" or name not in events.offsets:
                found[attribute, name] = array
    return found
