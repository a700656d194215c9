"""Segments: one model for each part of a problem, searched and trained side by side.

A file of segments is a list, in JSON or YAML; the *id* of a segment is its position.  That of
phpo's ``--segmentSpecFile`` is one:

.. code-block:: json

    [{"name": "barrel", "files": ["f1", "f3"]}, {"name": "endcap", "files": ["f2"]}]

References
----------
panda-docs, ``client/phpo.rst`` (Segmented HPO).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hepdask_ml.config import filled, record_of, settle
from hepdask_ml.errors import InputError
from hepdask_ml.hpo.document import read_document
from hepdask_ml.hpo.values import plain, shown

if TYPE_CHECKING:
    from pathlib import Path


def _usable(name: str) -> str | None:
    """Refuse what cannot stand in a file's name: payloads put the segment's name there."""
    if not name.strip():
        return "it must not be empty"
    if not name.isprintable() or set(name) & set("/\\") or set(name) == {"."}:
        return "it must be fit for the name of a file"
    return None


@dataclass(frozen=True, slots=True)
class Segment:
    """One of the parts.

    Attributes
    ----------
    name : str
        Its name, which no other segment has.
    files : tuple of str or None
        Files that it is trained on, by their names in the training data or their URLs.
    datasets : tuple of str or None
        The same by datasets, in place of files.
    params : mapping
        Parameters that are the same in all of its trials.

    Raises
    ------
    InputError
        If the name is not fit for one, a list is empty, or there are files and datasets.
    """

    name: str = field(metadata={"rule": _usable})
    files: tuple[str, ...] | None = field(default=None, metadata={"rule": filled})
    datasets: tuple[str, ...] | None = field(default=None, metadata={"rule": filled})
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        settle(self)
        if self.files is not None and self.datasets is not None:
            raise InputError("files is given beside datasets: drop one of them")
        if not all(self.inputs):
            kind = "files" if self.files else "datasets"
            raise InputError(f"{kind} holds an empty name: fill it or drop it")
        try:
            object.__setattr__(self, "params", plain(self.params))
        except InputError as error:
            raise InputError(f"params: {error}") from None

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it is trained on: its files, or its datasets."""
        return self.files or self.datasets or ()


def read_segments(source: str | Path | Sequence[Any]) -> tuple[Segment, ...]:
    """Read segments.

    Parameters
    ----------
    source : str or Path or sequence of Segment or mapping
        A JSON or YAML file that holds a list of segments, or such a list.

    Returns
    -------
    tuple of Segment
        The segments; the id of each is its position.

    Raises
    ------
    InputError
        If the file cannot be read, a segment is wrong, or two have one name.

    Examples
    --------
    >>> first, second = read_segments(
    ...     [{"name": "barrel", "files": ["f1", "f3"]}, {"name": "endcap", "files": ["f2"]}]
    ... )
    >>> first.inputs
    ('f1', 'f3')
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        return _segments(source)
    document = read_document(source)
    try:
        return _segments(document)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _segments(written: Any) -> tuple[Segment, ...]:
    if not isinstance(written, list | tuple) or not written:
        raise InputError(f"the segments are {shown(written)}: they must be a list of mappings")
    segments = tuple(_segment(number, each) for number, each in enumerate(written))
    names: dict[str, int] = {}
    for number, segment in enumerate(segments):
        if segment.name in names:
            first = names[segment.name]
            raise InputError(
                f"[{number}].name is {shown(segment.name)}, as [{first}].name is: rename one"
            )
        names[segment.name] = number
    return segments


def _segment(number: int, written: Any) -> Segment:
    if isinstance(written, Segment):
        return written
    if not isinstance(written, Mapping):
        raise InputError(f"[{number}] is {shown(written)}: it must be a mapping with a name")
    return record_of(Segment, written, f"[{number}].")
