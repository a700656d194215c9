"""A function over events as a campaign: where its parts are joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hepdask_ml
from hepdask_ml.campaign.campaign import Campaign
from hepdask_ml.campaign.ledger import Identity
from hepdask_ml.campaign.pool import TARGET_S
from hepdask_ml.data.streams import Stream
from hepdask_ml.errors import CampaignError, InputError
from hepdask_ml.streaming.runner import EventRunner
from hepdask_ml.streaming.strategy import Arriving, Listed
from hepdask_ml.streaming.summary import EventsResult, result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hepdask_ml.campaign.ledger import Ledger

KIND = "events"


def process_events(
    function: Callable[[Any], Any],
    stream: Stream[Any],
    *,
    ledger: str | Path | None = None,
    name: str | None = None,
    block_s: float = TARGET_S,
) -> Campaign[EventsResult]:
    """Prepare a campaign in which a function goes over all events of a stream.

    Each event counts once, whatever dies meanwhile; who runs it again with the same ledger goes on
    where it was, also with more files.  A stream over `data.arrivals.arrivals` is worked as its
    files come, in the order of their arrival.

    Parameters
    ----------
    function : callable
        From a part of the events, as the stream's form has them, to numbers, arrays, histograms,
        or dictionaries and lists of these; see `streaming.values`.  It has to be one that can be
        pickled.
    stream : Stream
        The events, of `data.streams.events` or `data.tensors.tensors`.  Files of which no copy can
        be read end the campaign, or are named in its result, as the stream has it; they are tried
        again when the campaign is run again.
    ledger : str or Path, optional
        File in which the values are kept; in memory if not given.
    name : str, optional
        What the ledger is of: another name is another campaign.  The function's own if not given;
        what it does is not looked at, so that its mistakes can be mended on the way.
    block_s : float
        Time that a block of events should take, in seconds.

    Returns
    -------
    Campaign
        ``run(client)`` gives an `EventsResult`.

    Raises
    ------
    InputError
        If the ledger is of something else, or there is no function or no stream.

    Examples
    --------
    >>> from hepdask_ml.data.streams import events
    >>> stream = events("nano_*.root", ["Muon_pt"], tree="Events")  # doctest: +SKIP
    >>> campaign = process_events(fill, stream, ledger="muons.db")  # doctest: +SKIP
    >>> campaign.run(client).value["pt"].plot()  # doctest: +SKIP
    """
    if not callable(function):
        raise InputError(
            f"{function!r:.60} is no function: give one that takes a part of the events"
        )
    if not isinstance(stream, Stream):
        raise InputError(
            f"{stream!r:.60} is no stream: give what events or tensors make of the names of files"
        )
    strategy = Listed(stream) if stream.arrivals is None else Arriving(stream, stream.arrivals)
    form = getattr(stream.form, "digest", None) or repr(stream.form)
    return Campaign(
        identity=Identity(
            kind=KIND,
            content="",
            configuration={
                "name": name or getattr(function, "__qualname__", type(function).__qualname__),
                "form": form,
            },
            version=hepdask_ml.__version__,
            seeds=(0,),
        ),
        strategy=strategy,
        runner=EventRunner(function, stream.form, stream.size, stream.attempts, stream.timeout),
        summary=_complete,
        ledger=ledger,
        target_s=block_s,
        tolerant=stream.unreadable == "skip",
    )


def _complete(ledger: Ledger) -> EventsResult:
    """Give the result; what is chosen to be passed over is unreadable files, and nothing else."""
    found = result(ledger)
    if found.finished and found.failed:
        url, why = next(iter(found.failed.items()))
        raise CampaignError(
            f"events of {len(found.failed)} files could not be worked, first of {url} ({why}): "
            "what was committed is in the ledger, mend the cause and run again"
        )
    return found
