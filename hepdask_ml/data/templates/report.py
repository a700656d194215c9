"""What was done to templates on their way into a workspace, and what is odd about them.

Nothing is done silently: whatever changes, drops or replaces a number leaves an `Entry`, and so
does a bin that is empty or negative.  A `Report` is the list of them, as text, as a table in a
notebook, and as JSON; its digest names the numbers that went in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

KINDS = {
    "left out": "not taken from the input",
    "absent": "a systematic that a process does not have, so that it gets no modifier",
    "outside": "underflow, overflow, or bins that a rebinning left out",
    "rebinned": "bins that were merged",
    "negative": "bins with a negative sum of weights",
    "empty": "bins with a sum of weights of zero",
    "no rate": "bins where all processes together expect nothing, or less",
    "floored": "bins that were set to the floor",
    "smoothed": "variations whose ratio to the nominal was smoothed",
    "symmetrised": "variations that were replaced by symmetric ones",
    "same side": "variations that both raise, or both lower, the yield",
    "pruned": "modifiers that were left out because their effect is small",
    "statistics": "uncertainties of the number of simulated events that were left out",
    "blinded": "bins whose data were replaced by what is expected",
    "asimov": "channels whose data are what is expected",
}
"""What an entry can be about, in the order in which a report has them."""

_MOST_ROWS = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was done or found.

    Attributes
    ----------
    what : str
        One of `KINDS`.
    channel, process, systematic : str
        Where; empty where it concerns all.
    detail : str
        What exactly, in words.
    """

    what: str
    channel: str = ""
    process: str = ""
    systematic: str = ""
    detail: str = ""

    @property
    def where(self) -> str:
        """Its place, as ``channel/process/systematic``."""
        return "/".join(part for part in (self.channel, self.process, self.systematic) if part)


@dataclass(frozen=True, slots=True)
class Report:
    """What was done on the way to a workspace.

    Attributes
    ----------
    entries : tuple of Entry
        By kind, in the order of `KINDS`.
    digest : str
        Of all templates and choices: other inputs have another one.
    inputs : mapping
        Digest of each template by its name, ``channel/process/systematic``.
    sources : tuple of str
        Files that they are from.
    """

    entries: tuple[Entry, ...]
    digest: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    def of(self, what: str) -> tuple[Entry, ...]:
        """Give the entries of one kind.

        Parameters
        ----------
        what : str
            One of `KINDS`.

        Returns
        -------
        tuple of Entry
            None where there was nothing to say.
        """
        return tuple(entry for entry in self.entries if entry.what == what)

    def to_json(self) -> dict[str, Any]:
        """Give everything as plain values, to be kept beside the workspace.

        Returns
        -------
        dict
            For `json.dumps`.
        """
        return {
            "digest": self.digest,
            "sources": list(self.sources),
            "inputs": dict(self.inputs),
            "entries": [asdict(entry) for entry in self.entries],
        }

    def __str__(self) -> str:
        lines = [self._title()]
        lines += [f"{e.what:<12}{e.where}: {e.detail}" for e in self.entries]
        return "\n".join(lines)

    def _title(self) -> str:
        counts = Counter(entry.what for entry in self.entries)
        listed = ", ".join(f"{n} {what}" for what, n in counts.items())
        return f"{len(self.inputs)} templates, digest {self.digest[:12]}: {listed or 'as given'}"

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><td title="{escape(KINDS[e.what])}">{escape(e.what)}</td>'
            f"<td>{escape(e.where)}</td><td>{escape(e.detail)}</td></tr>"
            for e in self.entries[:_MOST_ROWS]
        )
        if len(self.entries) > _MOST_ROWS:
            rest = len(self.entries) - _MOST_ROWS
            rows += f"<tr><td></td><td></td><td>{rest} more in its entries</td></tr>"
        head = "<thead><tr><th></th><th>where</th><th>what</th></tr></thead>"
        table = f"<table>{head}<tbody>{rows}</tbody></table>" if rows else ""
        return f"<p>{escape(self._title())}</p>{table}"


def ordered(entries: list[Entry]) -> tuple[Entry, ...]:
    """Put entries into the order of a report, each kind as it came."""
    place = {what: i for i, what in enumerate(KINDS)}
    return tuple(sorted(entries, key=lambda entry: place[entry.what]))
