"""What a scan finds: joined from what each range of events adds, kept as JSON, shown as a table.

`Findings` are the part that is joined; a `Scan` says besides of which files and features they are.
Statistics are of items and events that pass the selection, each counted once: weights are summed
up for each data set, and no statistic uses them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hepdask_ml.config import nearest
from hepdask_ml.data.features import Features, Group
from hepdask_ml.data.identities import Identity
from hepdask_ml.data.scalers import Scaler, Scalers
from hepdask_ml.data.scan_table import html, notes, text
from hepdask_ml.data.stored import read_text, write_text
from hepdask_ml.data.summaries import Counts, Summary
from hepdask_ml.errors import InputError, late, words

if TYPE_CHECKING:
    from hepdask_ml.data.batch import Batch
    from hepdask_ml.data.stacks import Values

T = TypeVar("T")

FORMAT = 1
"""Of the JSON."""

WEIGHTS = "scan.weights"
"""The group that weights are while they are scanned: no name that a user would give."""


def looked_at(features: Features) -> Features:
    """Give the features that a scan reads.

    Items are not padded, as empty slots would pass for missing numbers; nothing is scaled; weights
    are one more group, so that unusable ones are counted and do not end the scan.

    Parameters
    ----------
    features : Features
        Those of the tensors.

    Returns
    -------
    Features
        The same for all that differ in slots, scales, forms, images and labels alone.

    Raises
    ------
    InputError
        If there are images alone.
    """
    if not features.groups:
        raise InputError(
            "the features have images alone, and nothing of these depends on a scan: make the "
            "tensors without one"
        )
    groups = [
        replace(
            group,
            slots=None,
            percentile=None,
            form="ragged" if group.jagged else group.form,
            scale=None,
        )
        for group in features.groups
    ]
    if features.weights is not None:
        groups.append(Group(WEIGHTS, (features.weights,), dtype="float64"))
    return Features(tuple(groups), selection=features.selection, tree=features.tree)


@dataclass(frozen=True, slots=True)
class Tally:
    """Events of one data set.

    Attributes
    ----------
    n_events, n_selected : int
        Those that were read, and those of them that pass the selection.
    weighted : float
        Sum of the weights of the selected ones, each 1 if the features have none.
    weighted_squares : float
        Sum of their squares.
    negative, unusable : int
        Selected events with a negative weight, and with one that is NaN or infinite, which no sum
        has.
    """

    n_events: int = 0
    n_selected: int = 0
    weighted: float = 0.0
    weighted_squares: float = 0.0
    negative: int = 0
    unusable: int = 0

    @classmethod
    def of(cls, n_events: int, n_selected: int, weights: Values | None) -> Tally:
        """Count events.

        Parameters
        ----------
        n_events, n_selected : int
            How many there are.
        weights : (n_selected,) array of float or None
            Their weights; each counts 1 if there are none.

        Returns
        -------
        Tally
            Of these.
        """
        if weights is None:
            return cls(n_events, n_selected, float(n_selected), float(n_selected))
        usable = weights[np.isfinite(weights)].astype(np.float64)
        return cls(
            n_events,
            n_selected,
            float(usable.sum()),
            float(np.square(usable).sum()),
            int(np.count_nonzero(usable < 0.0)),
            weights.size - usable.size,
        )

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in _TALLY))


_TALLY = tuple(Tally.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found in some events; adds up.

    Attributes
    ----------
    fields : mapping of str to mapping of str to Summary
        By group and field.
    lengths : mapping of str to Counts
        By group of jagged branches: how many events have how many items.
    datasets : mapping of str to Tally
        By name.
    skipped : tuple of str
        Events that could not be read and were passed over, a sentence for each range.
    """

    fields: Mapping[str, Mapping[str, Summary]] = field(default_factory=dict)
    lengths: Mapping[str, Counts] = field(default_factory=dict)
    datasets: Mapping[str, Tally] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    @classmethod
    def of(cls, batch: Batch, features: Features) -> Findings:
        """Look at the events of a batch.

        Parameters
        ----------
        batch : Batch
            Made by these features.
        features : Features
            Those that `looked_at` gives.

        Returns
        -------
        Findings
            Of these events.
        """
        fields = {
            group.name: {
                each.name: Summary.of(batch.inputs[group.name][:, row])
                for row, each in enumerate(group.fields)
            }
            for group in features.groups
            if group.name != WEIGHTS
        }
        lengths = {name: Counts.of(each) for name, each in batch.lengths.items()}
        weights = batch.inputs[WEIGHTS][:, 0] if WEIGHTS in batch.inputs else None
        tally = Tally.of(batch.stop - batch.start, len(batch), weights)
        return cls(fields, lengths, {batch.source.dataset: tally})

    def __add__(self, other: Findings) -> Findings:
        fields = {
            group: _added(self.fields.get(group, {}), other.fields.get(group, {}))
            for group in {**self.fields, **other.fields}
        }
        return Findings(
            fields,
            _added(self.lengths, other.lengths),
            _added(self.datasets, other.datasets),
            self.skipped + other.skipped,
        )

    def to_json(self) -> dict[str, Any]:
        """Give plain values.

        Returns
        -------
        dict
            For `of_json`.
        """
        return {
            "datasets": {name: asdict(each) for name, each in self.datasets.items()},
            "skipped": list(self.skipped),
            "lengths": {name: each.to_json() for name, each in self.lengths.items()},
            "fields": {
                group: {name: each.to_json() for name, each in fields.items()}
                for group, fields in self.fields.items()
            },
        }

    @classmethod
    def of_json(cls, written: Mapping[str, Any]) -> Findings:
        """Read what `to_json` gives.

        Parameters
        ----------
        written : mapping
            Plain values.

        Returns
        -------
        Findings
            The same.
        """
        return cls(
            {
                group: {name: Summary.of_json(each) for name, each in fields.items()}
                for group, fields in written["fields"].items()
            },
            {name: Counts.of_json(each) for name, each in written["lengths"].items()},
            {name: Tally(**each) for name, each in written["datasets"].items()},
            tuple(written["skipped"]),
        )


def _added(some: Mapping[str, T], others: Mapping[str, T]) -> dict[str, T]:
    """Add up by name."""
    result = dict(some)
    for name, each in others.items():
        result[name] = result[name] + each if name in result else each  # type: ignore[operator]
    return result


@dataclass(frozen=True, slots=True, repr=False)
class Scan:
    """What one pass over all events has found.

    Attributes
    ----------
    digest : str
        Of the features, as far as a scan depends on them: fields, selection, weights.
    inputs : tuple of Identity
        The files.
    findings : Findings
        What was found.

    Examples
    --------
    >>> found = Scan.load("scan.json")  # doctest: +SKIP
    >>> found.slots("jets", 95)  # doctest: +SKIP
    6
    """

    digest: str
    inputs: tuple[Identity, ...]
    findings: Findings

    @property
    def fields(self) -> Mapping[str, Mapping[str, Summary]]:
        """By group and field, what its numbers are like."""
        return self.findings.fields

    @property
    def lengths(self) -> Mapping[str, Counts]:
        """By group of jagged branches, how many events have how many items."""
        return self.findings.lengths

    @property
    def datasets(self) -> Mapping[str, Tally]:
        """By data set, its events and weights."""
        return self.findings.datasets

    @property
    def skipped(self) -> tuple[str, ...]:
        """Events that could not be read and were passed over, a sentence for each range."""
        return self.findings.skipped

    @property
    def n_events(self) -> int:
        """Events that were read."""
        return sum(each.n_events for each in self.datasets.values())

    @property
    def n_selected(self) -> int:
        """Those that pass the selection."""
        return sum(each.n_selected for each in self.datasets.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about the data, a sentence for each."""
        return tuple(notes(self))

    def slots(self, group: str, percentile: float) -> int:
        """Give the slots that hold all items of so many events.

        Parameters
        ----------
        group : str
            Of jagged branches.
        percentile : float
            Percent of the selected events that lose no item, at least; up to 100.

        Returns
        -------
        int
            The smallest such number; one or more.

        Raises
        ------
        InputError
            If the group was not scanned or has no items, if there is no such percentile, or if no
            event was selected.
        """
        if not 0 <= percentile <= 100:
            raise InputError(f"{percentile:g} is no percentile: give a number up to 100")
        lengths = self._lengths(group)
        if not lengths.total:
            raise InputError(
                f"no event of {self.n_events} passes the selection, so that lengths of "
                f'"{group}" are not known: check it, or scan more events'
            )
        return max(lengths.quantile(Fraction(repr(float(percentile))) / 100), 1)

    def cut(self, group: str, slots: int) -> tuple[float, float]:
        """Tell what would find no slot.

        Parameters
        ----------
        group : str
            Of jagged branches.
        slots : int
            In each event.

        Returns
        -------
        items, events : float
            Shares of all items that would be cut, and of all events that would lose some.

        Raises
        ------
        InputError
            If the group was not scanned, or has no items.
        """
        lengths = self._lengths(group)
        beyond = np.maximum(lengths.numbers - slots, 0)
        items = int(lengths.numbers @ lengths.times)
        return (
            int(beyond @ lengths.times) / items if items else 0.0,
            int(lengths.times[beyond > 0].sum()) / lengths.total if lengths.total else 0.0,
        )

    def _lengths(self, group: str) -> Counts:
        if group in self.lengths:
            return self.lengths[group]
        if group in self.fields:
            raise InputError(
                f'"{group}" has one number for each event: slots are for jagged branches'
            )
        near = nearest(group, list(self.fields)) or [f"it has {', '.join(self.fields) or 'none'}"]
        raise InputError(f'the scan has no group "{group}": {near[0]}')

    def scalers(self, features: Features) -> Scalers:
        """Fit scalers.

        Parameters
        ----------
        features : Features
            Those that were scanned; how each group is scaled may be another one.

        Returns
        -------
        Scalers
            Of the groups that are to be scaled.

        Raises
        ------
        InputError
            If other features were scanned, or a field cannot be scaled.
        """
        if looked_at(features).digest != self.digest:
            raise InputError(
                "the scan is of other features, or of another selection: scan these again"
            )
        return Scalers(
            {
                group.name: Scaler.fitted(
                    group.scale,
                    {each.name: self.fields[group.name][each.name] for each in group.fields},
                )
                for group in features.groups
                if group.scale is not None and group.scale != "none"
            }
        )

    def changed(self, inputs: tuple[Identity, ...]) -> tuple[str, ...]:
        """Tell which files are others than those that were scanned.

        Parameters
        ----------
        inputs : tuple of Identity
            What the files are now, in any order.

        Returns
        -------
        tuple of str
            Where they lie: new, changed, and gone ones.
        """
        before, now = ({each.key: each.url for each in some} for some in (self.inputs, inputs))
        differing = before.keys() ^ now.keys()
        return tuple(sorted({{**before, **now}[key] for key in differing}))

    def to_json(self) -> dict[str, Any]:
        """Give plain values.

        Returns
        -------
        dict
            For `of_json`.
        """
        inputs = [each.to_json() for each in self.inputs]
        about = {"format": FORMAT, "digest": self.digest, "inputs": inputs}
        return about | self.findings.to_json()

    @classmethod
    def of_json(cls, written: Mapping[str, Any]) -> Scan:
        """Read what `to_json` gives.

        Parameters
        ----------
        written : mapping
            Plain values.

        Returns
        -------
        Scan
            The same.

        Raises
        ------
        InputError
            If it is something else, or of another version of this package.
        """
        try:
            form = written["format"]
            if form != FORMAT:
                raise InputError(
                    f"the scan has format {form}, and this version knows {FORMAT}: scan again"
                )
            inputs = tuple(Identity.of_json(each) for each in written["inputs"])
            return cls(str(written["digest"]), inputs, Findings.of_json(written))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"this is no scan ({words(error)}): scan again") from None

    def save(self, path: str | Path) -> None:
        """Write the scan as JSON, whole or not at all.

        Parameters
        ----------
        path : str or Path
            A file, or a URL that fsspec knows.

        Raises
        ------
        InputError, HepdaskError
            If it cannot be written there.
        """
        write_text(path, json.dumps(self.to_json(), allow_nan=False, separators=(",", ":")))

    @classmethod
    def load(cls, path: str | Path) -> Scan:
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or Path
            A file, or a URL that fsspec knows.

        Returns
        -------
        Scan
            The same.

        Raises
        ------
        InputError
            If there is none, or it is something else.
        """
        written = read_text(path)
        if written is None:
            raise InputError(f"there is no scan {path}: make one, or check the name")
        try:
            return cls.of_json(json.loads(written))
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is no JSON ({words(error)}): scan again") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def plot(self, group: str) -> Any:
        """Draw how the numbers of a group are spread, and how long its lists are.

        Parameters
        ----------
        group : str
            Its name.

        Returns
        -------
        matplotlib.figure.Figure
            A panel for each field, and one for the lengths.

        Raises
        ------
        InputError
            If the group was not scanned.
        """
        return late("ui.plots_scan").group(self, group)

    def __repr__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        return html(self)
