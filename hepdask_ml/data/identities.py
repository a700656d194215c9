"""Identities of files: by which the same file is known again, and a changed one found out.

A ROOT file carries a number of its own (a UUID), which a copy shares and which is another one when
the file is written anew; with it go the bytes that it says it has and the events of its tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hepdask_ml.data.forms import Look
    from hepdask_ml.data.sources import Source


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file was when it was looked into.

    Attributes
    ----------
    url : str
        Where it lay.
    tree : str or None
        Name of its tree; None where it has only one.
    dataset : str
        What it is part of.
    uuid : str
        Its own number; empty if it has none.
    size : int
        Bytes that it says it has.
    n_events : int
        Of its tree.
    steps : tuple of (int, int)
        Ranges of events to be read; none means all.
    """

    url: str
    tree: str | None
    dataset: str
    uuid: str
    size: int
    n_events: int
    steps: tuple[tuple[int, int], ...] = ()

    @property
    def key(self) -> str:
        """Equal for equal events, wherever the file lies; it has no blank."""
        steps = ",".join(f"{start}-{stop}" for start, stop in self.steps)
        parts = (
            self.uuid or self.url, self.tree or "", self.dataset, self.size, self.n_events, steps,
        )  # fmt: skip
        return ":".join(str(part).replace(" ", "_") for part in parts)

    def to_json(self) -> dict[str, Any]:
        """Give plain values.

        Returns
        -------
        dict
            For `of_json`.
        """
        return asdict(self)

    @classmethod
    def of_json(cls, written: Mapping[str, Any]) -> Identity:
        """Read what `to_json` gives.

        Parameters
        ----------
        written : mapping
            Plain values.

        Returns
        -------
        Identity
            The same.
        """
        steps = tuple((int(start), int(stop)) for start, stop in written["steps"])
        return cls(**{**written, "steps": steps})


def identity(source: Source, look: Look) -> Identity:
    """Say what a file is.

    Parameters
    ----------
    source : Source
        The file.
    look : Look
        What a look into it has found.

    Returns
    -------
    Identity
        Of the file.

    Examples
    --------
    >>> from hepdask_ml.data.forms import Look
    >>> from hepdask_ml.data.sources import Source
    >>> identity(Source("/data/a.root", "Events"), Look(10, uuid="2f6c", size=999)).key
    '2f6c:Events::999:10:'
    """
    return Identity(
        source.url,
        source.tree,
        source.dataset,
        look.uuid if look.uuid.strip("0-") else "",
        look.size,
        look.n_events,
        source.steps,
    )
