"""Where events come from: a list of files, or files that are still coming."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from math import inf
from pathlib import PurePosixPath
from time import monotonic
from typing import TYPE_CHECKING, Any

from hepdask_ml.campaign.unit import Unit
from hepdask_ml.data.forms import Look
from hepdask_ml.data.sources import spans
from hepdask_ml.data.streams import Stream
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hepdask_ml.campaign.unit import History
    from hepdask_ml.data.arrivals import Arrivals
    from hepdask_ml.data.sources import Source


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """Plans all events of the files of a stream, a unit for each file.

    Attributes
    ----------
    stream : Stream
        The files, and how they are opened.
    """

    stream: Stream[Any]

    def plan(self, history: History) -> Sequence[Unit]:
        """Give the files that are not planned yet, in their order; looks into each of them.

        Raises
        ------
        InputError
            If a file that was planned before is not listed any more: its events count.
        """
        listed = {_name(source) for source in self.stream.sources}
        for record in history.records():
            if record.unit.spec["file"] not in listed:
                raise InputError(
                    f"the ledger has events of {record.unit.spec['source']['url']}, which is not "
                    "among the files any more: name it, too, or begin another ledger"
                )
        return units(self.stream, self.stream.sources, history)


class Arriving:
    """Plans the events of files as these come, in the order of their arrival.

    Parameters
    ----------
    stream : Stream
        How they are opened.
    arrivals : Arrivals
        What says which files are there.
    """

    def __init__(self, stream: Stream[Any], arrivals: Arrivals) -> None:
        self._stream, self._arrivals = stream, arrivals
        self._due = -inf

    def expects(self, history: History) -> bool:
        """Say whether more files may come."""
        return self._arrivals.expects(len(_files(history)))

    def plan(self, history: History) -> Sequence[Unit]:
        """Give the files that have come and are not planned yet; looks now and then."""
        if monotonic() < self._due:
            return ()
        came = self._arrivals.look()
        self._due = monotonic() + self._arrivals.poll_s
        return units(self._stream, came, history)


def units(stream: Stream[Any], sources: Sequence[Source], history: History) -> list[Unit]:
    """Give the units of files that a campaign does not have yet.

    Parameters
    ----------
    stream : Stream
        How files are opened, and whether those that cannot be read are passed over.
    sources : sequence of Source
        The files.
    history : History
        What the campaign has.

    Returns
    -------
    list of Unit
        One for each range of events of each file.

    Raises
    ------
    InputError, UnreadableFile
        As `Stream.spans`.
    """
    known = _files(history)
    new = [source for source in sources if _name(source) not in known]
    if not new:
        return []
    looked = Stream(
        new,
        stream.form,
        size=stream.size,
        unreadable=stream.unreadable,
        attempts=stream.attempts,
        timeout=stream.timeout,
    )
    looks = looked.look()
    found = []
    for source in new:
        look = looks.get(source)
        if look is None:
            found.append(_unit(source, Look(0), None, 1))
        elif look.n_events == 0:
            # Planned all the same: known files are not looked into again.
            found.append(_unit(source, look, 0, 0))
        else:
            found += [
                _unit(source, look, span.start, span.stop - span.start, stream.size)
                for span in spans(source, look.n_events, look.n_events)
            ]
    return found


def _unit(source: Source, look: Look, first: int | None, total: int, grain: int = 1) -> Unit:
    name = _name(source)
    part = f" from {first:,}" if first else ""
    of = f" of {source.dataset}" if source.dataset else ""
    return Unit(
        f"{name}/{first or 0}",
        total,
        spec={
            "source": replace(source, steps=()).spec(),
            "file": name,
            "uuid": look.uuid,
            "events": look.n_events,
            "first": first,
        },
        title=f"events{part} in {PurePosixPath(source.url).name}{of}",
        grain=max(1, min(grain, total)),
    )


def _name(source: Source) -> str:
    """Name a file: by its address, in short."""
    text = f"{source.dataset}\n{source.url}\n{source.tree}\n{source.steps}"
    short = blake2b(text.encode(), digest_size=6).hexdigest()
    return f"{PurePosixPath(source.url).name}-{short}"


def _files(history: History) -> set[str]:
    return {str(record.unit.spec["file"]) for record in history.records()}
