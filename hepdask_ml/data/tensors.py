"""Tensors: the events of files as batches for a model, as a declaration of features has them.

Groups of bare branches go from the baskets of a file straight into padded tensors
(`data.baskets`).  What has to be calculated (expressions, functions, the selection, weights and
labels) is made of arrays of the branches that it needs, and laid out by the same kernel.  A batch
has the events that pass the selection; which events are in it depends on nothing but the file, so
that batches of any size, joined, are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.config import nearest
from hepdask_ml.data.baskets import Reader
from hepdask_ml.data.batch import Batch
from hepdask_ml.data.computed import calculated, computed
from hepdask_ml.data.features import Features, Field
from hepdask_ml.data.features import features as read_features
from hepdask_ml.data.forms import Look, MissingBranch, look_at, tree_at
from hepdask_ml.data.jagged import truth
from hepdask_ml.data.layouts import of_group, of_image, of_stack
from hepdask_ml.data.ragged import part, take
from hepdask_ml.data.routes import calculated_fields, in_baskets, stacks_of
from hepdask_ml.data.sources import Files, Source
from hepdask_ml.data.streams import Stream, events
from hepdask_ml.data.with_uproot import UnreadableFile, branch_of, local
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hepdask_ml.data.jagged import Items
    from hepdask_ml.data.layouts import Layout
    from hepdask_ml.data.scalers import Scalers
    from hepdask_ml.data.scan import Scan
    from hepdask_ml.data.stacks import Tensors, Values

SIZE = 50_000
"""Events in a batch, if nobody says."""

STEP = 2**15
"""Events at least that fields are calculated of at a time."""


@dataclass(frozen=True, slots=True)
class FeatureForm:
    """Events as batches for a model: a form of streams; can be pickled.

    Attributes
    ----------
    features : Features
        What to make of them; with the slots of all its groups (`Features.resolved`).
    scalers : Scalers or None
        For the groups that are scaled.
    threads : int
        So many decompress and fill side by side.
    reuse : bool
        Make batches in the same memory each time where nothing has to be calculated, for those who
        are done with one when they ask for the next.

    Raises
    ------
    InputError
        If a group has its slots, or its scale, yet to be found by a scan, or there is no thread.
    """

    features: Features
    scalers: Scalers | None = None
    threads: int = 1
    reuse: bool = False

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise InputError(f"{self.threads} threads read nothing: give one or more")
        scaled = self.scalers.groups if self.scalers is not None else {}
        for group in self.features.groups:
            advice = "run hepdask_ml.scan on the files, and give what it finds as scan"
            if group.jagged and group.form == "padded" and group.slots is None:
                raise InputError(
                    f'group "{group.name}" has the length that holds {group.percentile:g} % of the '
                    f"events, which nobody has counted: {advice}, or give a length"
                )
            if group.scale not in (None, "none") and group.name not in scaled:
                raise InputError(
                    f'group "{group.name}" has the scale "{group.scale}", whose numbers nobody has '
                    f"found: {advice}"
                )

    @property
    def digest(self) -> str:
        """Names all that tensors depend on, but for the files."""
        state = blake2b(self.features.digest.encode(), digest_size=16)
        if self.scalers is not None:
            state.update(self.scalers.digest.encode())
        return state.hexdigest()

    def look(self, source: Source, url: str, **options: Any) -> Look:
        """Look into a file, as `data.forms.Looks` has it.

        Files may store a branch as different kinds of numbers: in the tensors they are the same.
        """
        try:
            found = look_at(self._with_tree(source), url, self.features.branches, **options)
        except MissingBranch as error:
            raise self._missing(error, error.branch) from None
        return replace(found, kinds={})

    def n_events(self, source: Source, url: str, **options: Any) -> int:
        """Tell how many events there are, as `data.forms.Form` has it."""
        return self.look(source, url, **options).n_events

    def batches(
        self,
        source: Source,
        url: str,
        start: int = 0,
        stop: int | None = None,
        size: int = SIZE,
        **options: Any,
    ) -> Iterator[tuple[int, Batch]]:
        """Read events part by part, as `data.forms.Form` has it.

        Parameters
        ----------
        source : Source
            The file.
        url : str
            The copy of it that is to be read.
        start, stop : int
            Events of the tree, half open; to the end if there is no stop.
        size : int
            Events that are looked at for each batch, before the selection.
        **options
            For ``uproot.open``.

        Yields
        ------
        stop : int
            The event behind the last one that was looked at.
        batch : Batch
            What the selection leaves of them, which may be nothing.

        Raises
        ------
        InputError
            If a branch is missing (the most similar one is named) or does not fit its group, an
            expression cannot be calculated, or weights or labels are no finite numbers.
        UnreadableFile
            If the copy cannot be read, or ends before ``stop``.
        """
        if size < 1:
            raise InputError(f"a batch of {size} events is none: give a size of one or more")
        with tree_at(self._with_tree(source), url, **options) as tree:
            n_events = int(tree.num_entries)
            stop = n_events if stop is None else stop
            if not 0 <= start <= stop:
                raise InputError(f"{url} has no events {start} to {stop}: it has {n_events}")
            if stop > n_events:
                raise UnreadableFile(
                    f"{url}:{tree.name} ends at event {n_events}, before {stop}: make or fetch the "
                    "file again"
                )
            yield from self._batches(source, url, tree, range(start, stop, size))

    def _batches(
        self, source: Source, url: str, tree: Any, starts: range
    ) -> Iterator[tuple[int, Batch]]:
        """Make batches of an open tree."""
        spec, where = self.features, f"{url}:{tree.name}"
        start, stop, size = starts.start, starts.stop, starts.step
        for name in spec.branches:
            try:
                branch_of(tree, name, where)
            except InputError as error:
                raise self._missing(error, name) from None
        read = in_baskets(tree, spec)
        fields = {field: f"{where}, {place}" for field, place in calculated_fields(spec, read)}
        laid_out: Iterator[Tensors] = iter(())
        if read:
            stacks = stacks_of(spec, read)
            reader = Reader(tree, stacks, path=local(url), threads=self.threads)
            laid_out = reader.batches(start, stop, size=size, reuse=self.reuse)
        maker = _Maker(self, source, where, read)
        step = size * -(-STEP // size)
        columns = computed(tree, fields, start, stop, step=step, threads=self.threads)
        for begin, found in columns:
            for first in range(begin, min(begin + step, stop), size):
                last = min(first + size, stop)
                cut = {
                    field: part(items, first - begin, last - begin)
                    for field, items in found.items()
                }
                yield last, maker.batch(first, last, cut, next(laid_out, None))

    def of(self, arrays: Mapping[str, Any], *, start: int = 0) -> Batch:
        """Make a batch of arrays that are at hand, as in a processor of coffea.

        Its numbers are those that a file with these branches gives.

        Parameters
        ----------
        arrays : mapping of str to array
            Of awkward or numpy, by the names of branches, all of the same events.  Weights and
            labels are made if their branches are there.
        start : int
            What the first event is counted as.

        Returns
        -------
        Batch
            What the selection leaves of the events.

        Raises
        ------
        InputError
            If an array is missing (the most similar one is named), has other events than the first
            or does not fit its group.
        """
        spec = _without_absent(self.features, arrays)
        n_events = _n_events(arrays, spec.branches)
        fields = {field: f"arrays, {place}" for field, place in calculated_fields(spec, {})}
        found = calculated(fields, arrays, n_events, "arrays")
        maker = _Maker(replace(self, features=spec), Source(""), "arrays", {})
        return maker.batch(start, start + n_events, found)

    def _missing(self, error: InputError, name: str) -> MissingBranch:
        return MissingBranch(f"{error} ({self.features.wanted_by(name)} needs it)", name)

    def _with_tree(self, source: Source) -> Source:
        return replace(source, tree=source.tree or self.features.tree)


class _Maker:
    """Makes batches of the numbers of events."""

    def __init__(
        self, form: FeatureForm, source: Source, where: str, read: Mapping[str, Sequence[Field]]
    ) -> None:
        self._form = form
        self._source = source
        self._where = where
        self._label = _label_of(source, form.features.labels)
        self._read = read

    def batch(
        self, first: int, last: int, found: Mapping[Field, Items], laid_out: Tensors | None = None
    ) -> Batch:
        """Make a batch of numbers that were calculated, and of others that are laid out."""
        spec, scalers = self._form.features, self._form.scalers
        events = np.arange(first, last)
        rows = self._rows(found, last - first)
        if rows is not None:
            events = events[rows]
            found = {field: take(items, rows) for field, items in found.items()}
        layouts: dict[str, Layout] = {}
        for group in spec.groups:
            fields = self._read.get(group.name, ())
            layout = of_stack(group.name, laid_out, rows) if laid_out and fields else None
            if layout is None or len(fields) < len(group.fields):
                layout = of_group(group, found, len(events), self._where, layout)
            if scalers is not None:
                scalers.apply(group.name, layout.planes)
            layouts[group.name] = layout
        drawn = {each.name: of_image(each, found, self._where) for each in spec.images}
        inputs: dict[str, Values] = {
            name: np.moveaxis(each.planes, 0, -1) for name, each in layouts.items()
        }
        return Batch(
            self._source,
            first,
            last,
            events,
            inputs | {name: each.pixels for name, each in drawn.items()},
            {name: each.lengths for name, each in layouts.items() if each.lengths is not None},
            {name: each.offsets for name, each in layouts.items() if each.offsets is not None},
            {name: each.collisions for name, each in drawn.items()},
            {name: each.outside for name, each in drawn.items()},
            self._per_event("weights", found, events),
            self._per_event("labels", found, events),
        )

    def _rows(self, found: Mapping[Field, Items], n_events: int) -> NDArray[np.intp] | None:
        """Tell which events pass the selection; None if all do."""
        selection = self._form.features.selection
        if selection is None:
            return None
        passed = truth(self._flat("selection", found[selection]))
        rows = np.flatnonzero(passed)
        return None if len(rows) == n_events else rows

    def _per_event(
        self, name: str, found: Mapping[Field, Items], events: NDArray[np.int64]
    ) -> NDArray[np.float32] | None:
        """Give the weights or labels, which have to be numbers."""
        field = getattr(self._form.features, name)
        if field is None:
            return None
        if not isinstance(field, Field):
            return np.full(len(events), self._label, np.float32)
        numbers = self._flat(name, found[field])
        with np.errstate(over="ignore"):
            kept = numbers.astype(np.float32)
        wrong = np.flatnonzero(~np.isfinite(kept))
        if len(wrong):
            first = wrong[0]
            beyond = ", which no float32 holds," if np.isfinite(numbers[first]) else ""
            raise InputError(
                f"{self._where}, {name}: {_said(field)} is {numbers[first]:g}{beyond} in event "
                f"{events[first]}: leave such events out by the selection, or make the file again"
            )
        return kept

    def _flat(self, name: str, items: Items) -> NDArray[Any]:
        if items.offsets is not None:
            raise InputError(
                f"{self._where}, {name}, gives a list of items in each event: reduce it to one, as "
                "any, all, sum and first do"
            )
        return items.values


def _without_absent(spec: Features, arrays: Mapping[str, Any]) -> Features:
    """Leave out weights and labels whose branches are not there, and labels of data sets."""

    def there(field: Any) -> Field | None:
        found = isinstance(field, Field) and all(name in arrays for name in field.branches)
        return field if found else None

    return replace(spec, weights=there(spec.weights), labels=there(spec.labels))


def _n_events(arrays: Mapping[str, Any], names: Sequence[str]) -> int:
    """Tell how many events arrays are of."""
    for name in names:
        if name not in arrays:
            near = nearest(name, list(arrays)) or [f"there are {', '.join(arrays) or 'none'}"]
            raise InputError(f'the arrays have no "{name}": {near[0]}')
        if len(arrays[name]) != len(arrays[names[0]]):
            raise InputError(
                f'array "{name}" is of {len(arrays[name])} events, and "{names[0]}" of '
                f"{len(arrays[names[0]])}: give those of the same events"
            )
    return len(arrays[names[0]])


def _said(field: Field) -> str:
    return f'"{field.expression or field.name}"'


def _label_of(source: Source, labels: Field | Mapping[str, float] | None) -> float | None:
    """Give the label of all events of a file, if its data set says it."""
    if labels is None or isinstance(labels, Field):
        return None
    if not source.dataset:
        raise InputError(
            f"{source.url} is of no data set, and labels are by data set: name the files as "
            f"{{{next(iter(labels))!r}: [...]}}"
        )
    if source.dataset not in labels:
        near = nearest(source.dataset, list(labels)) or [f"there are {', '.join(labels)}"]
        raise InputError(
            f'{source.url} is of the data set "{source.dataset}", which has no label: {near[0]}'
        )
    return labels[source.dataset]


def tensors(
    files: Files | Iterator[Source],
    features: Features | Mapping[str, Any] | str | Path,
    *,
    scan: Scan | None = None,
    size: int = SIZE,
    threads: int = 1,
    reuse: bool = False,
    **options: Any,
) -> Stream[Batch]:
    """Give the events of files as batches for a model.

    Parameters
    ----------
    files : str, Path, mapping, sequence or iterator
        What `data.sources.sources` takes, or sources one by one, as they come (`data.arrivals`).
    features : Features, mapping, str or Path
        What to make of the events; what a YAML file of features holds, or its name.
    scan : Scan, optional
        What was found in one pass over the files: needed for lengths by percentile, and for scales.
    size : int
        Events that are looked at for each batch, before the selection.
    threads : int
        So many decompress and fill side by side.
    reuse : bool
        Make batches in the same memory each time where nothing has to be calculated, for those who
        are done with one when they ask for the next.
    **options
        For `data.streams.events`: tree, redirectors, unreadable, attempts, timeout.

    Returns
    -------
    Stream of Batch
        Of which nothing is read yet.

    Raises
    ------
    InputError
        If there is no such file, the features are wrong, or a group needs a scan.
    """
    spec = read_features(features)
    scalers = None
    if scan is not None:
        if not hasattr(scan, "scalers"):
            raise InputError(
                f"the scan is {scan!r:.60}: give what hepdask_ml.scan has found, or Scan.load of "
                "the file in which it is kept"
            )
        scalers = scan.scalers(spec)
        spec = spec.resolved(scan)
    form = FeatureForm(spec, scalers, threads, reuse)
    found: Stream[Batch] = events(files, form=form, size=size, **{"tree": spec.tree, **options})
    return found
