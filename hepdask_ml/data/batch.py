"""Batches: events as a model takes them, with the numbers of each tensor and which of them count.

Events come first in each array, whatever the form.  A *padded* tensor has a fixed number of slots
for the items of an event, and NaN in those that are empty; a *ragged* one has all items of all
events, one behind the other, and *offsets* that say where each event begins; an *image* has the
pixels of each of its views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hepdask_ml.config import nearest
from hepdask_ml.data.ragged import places_of
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hepdask_ml.data.sources import Source
    from hepdask_ml.data.stacks import Lengths, Values

    Offsets: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Events of one file, ready for a model.

    Attributes
    ----------
    source : Source
        The file.
    start, stop : int
        The events of its tree that were looked at, before the selection.
    events : (n,) int64 array
        Which of them are here, counted in the tree.
    inputs : mapping of str to array
        By group and image: ``(event, field)``; padded ``(event, slot, field)``, with NaN in slots
        without an item; ragged ``(item, field)``; images ``(event, view, y, x)``.
    lengths : mapping of str to (n,) int32 array
        By group of jagged branches: items of each event, also those that found no slot.
    offsets : mapping of str to (n + 1,) int64 array
        By ragged group: where the items of each event begin, and the last ones end.
    collisions : mapping of str to (n,) int32 array
        By image: items of each event that share their pixel with another one.
    outside : mapping of str to (n,) int32 array
        By image: items of each event that lie outside its axes.
    weights : (n,) float32 array or None
        Of the events.
    labels : (n,) float32 array or None
        What a model is to say of them.
    """

    source: Source
    start: int
    stop: int
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

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Tell which slots of a padded tensor have an item.

        An item may still have NaN in a field: a value that its file lacks.

        Parameters
        ----------
        name : str
            Of its group.

        Returns
        -------
        (event, slot) bool array
            True where there is an item.

        Raises
        ------
        InputError
            If there is no such group, or it has no slots.
        """
        if name not in self.inputs:
            near = nearest(name, list(self.inputs)) or [
                f"there is {', '.join(self.inputs) or 'none'}"
            ]
            raise InputError(f'the batch has no tensor "{name}": {near[0]}')
        if name not in self.lengths or name in self.offsets:
            raise InputError(
                f'tensor "{name}" has no slots, so that nothing of it is masked: ask for that of a '
                "padded group"
            )
        slots = np.arange(self.inputs[name].shape[1])
        return np.less(slots, self.lengths[name][:, None])

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Batch:
        """Give some of the events, in any order.

        Parameters
        ----------
        rows : integer or (n,) bool array
            Which, counted in this batch.

        Returns
        -------
        Batch
            Copies of their numbers; padded tensors stay field-major in memory.
        """
        rows = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows, np.intp)
        inputs: dict[str, Values] = {}
        offsets: dict[str, Offsets] = {}
        for name, values in self.inputs.items():
            if name in self.offsets:
                places, offsets[name] = places_of(self.offsets[name], rows)
                inputs[name] = values[places]
            elif name in self.collisions:
                inputs[name] = values[rows]
            else:
                # By planes, as they lie in memory; an index would interleave them.
                planes: Any = np.take(np.moveaxis(values, -1, 0), rows, axis=1)
                inputs[name] = np.moveaxis(planes, 0, -1)

        def taken(found: Mapping[str, Lengths]) -> dict[str, Lengths]:
            return {name: each[rows] for name, each in found.items()}

        return Batch(
            self.source,
            self.start,
            self.stop,
            self.events[rows],
            inputs,
            taken(self.lengths),
            offsets,
            taken(self.collisions),
            taken(self.outside),
            None if self.weights is None else self.weights[rows],
            None if self.labels is None else self.labels[rows],
        )

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {each.shape}" for name, each in self.inputs.items())
        return f"<Batch: {self._summary()}; {shapes}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{self._form(name)}</td>"
            f"<td>{escape(str(each.shape))}</td><td>{each.dtype}</td></tr>"
            for name, each in self.inputs.items()
        )
        head = "".join(f"<th>{each}</th>" for each in ("tensor", "form", "shape", "dtype"))
        return (
            f"<p>Batch: {escape(self._summary())}</p><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )

    def _summary(self) -> str:
        also = [name for name in ("weights", "labels") if getattr(self, name) is not None]
        with_ = f", with {' and '.join(also)}" if also else ""
        return f"{len(self)} of the events {self.start} to {self.stop} of {self.source.url}{with_}"

    def _form(self, name: str) -> str:
        if name in self.collisions:
            return "image"
        if name in self.offsets:
            return "ragged"
        return "padded" if name in self.lengths else "flat"
