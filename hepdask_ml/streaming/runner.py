"""How a block of events is worked: read part by part, each of which a function is called with."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hepdask_ml.campaign.unit import Done
from hepdask_ml.data.forms import Look
from hepdask_ml.data.replicas import Reading
from hepdask_ml.data.sources import Span, source_of
from hepdask_ml.data.streams import Stream
from hepdask_ml.data.with_uproot import UnreadableFile
from hepdask_ml.streaming.values import join, packed

if TYPE_CHECKING:
    from collections.abc import Callable

    from hepdask_ml.campaign.unit import Block
    from hepdask_ml.data.forms import Form
    from hepdask_ml.data.sources import Source

UNREADABLE = "no copy can be read: "
"""How the error of a unit begins whose file cannot be read, and not what the function raised."""


@dataclass(frozen=True, slots=True, eq=False)
class EventRunner:
    """Calls a function with the events of a block.

    The spec of a unit holds the ``source``, the ``uuid`` and the ``events`` of its file, and
    ``first``, the event that its step 0 is; None means that the file could not be read when it was
    planned: its only step is all that is in it.

    Attributes
    ----------
    function : callable
        From a part of the events, as the form has them, to a value that `values.join` joins.
    form : Form
        What events are read as.
    size : int
        Events in a part.
    attempts : int
        How often all copies of a file are tried without an event in between.
    timeout : float
        How long a copy may stand still, in seconds.
    """

    function: Callable[[Any], Any]
    form: Form[Any]
    size: int
    attempts: int
    timeout: float

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        """Work a block; the value of all its events is its result.

        Raises
        ------
        UnreadableFile
            If no copy of the file can be read.
        """
        source = source_of(block.spec["source"])
        first = block.spec["first"]
        value, reached = None, block.start
        try:
            if first is None:
                return self._whole(block, source)
            reading = Reading(self.form, self.attempts, self.timeout)
            servers = reading.servers()
            # Whichever copy is opened: it may have been written anew since it was planned.
            known = Look(block.spec["events"], uuid=block.spec["uuid"])
            span = Span(source, first + block.start, first + block.stop)
            with closing(reading.parts(span, self.size, servers, known)) as parts:
                while reached < block.stop and not enough():
                    behind, part = next(parts)
                    value, reached = join(value, self.function(part)), behind - first
        except UnreadableFile as error:
            raise UnreadableFile(f"{UNREADABLE}{error}") from None
        return Done(reached, packed({"events": reached - block.start, "value": value}))

    def _whole(self, block: Block, source: Source) -> Done:
        """Work a file of which nobody knows how many events it has."""
        stream = Stream(
            [source], self.form, size=self.size, attempts=self.attempts, timeout=self.timeout
        )
        value = None
        for part in stream:
            value = join(value, self.function(part))
        n_events = sum(span.stop - span.start for span in stream.spans())
        return Done(block.stop, packed({"events": n_events, "value": value}))
