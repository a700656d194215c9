"""What is particular of searches where campaigns are run, watched and reported.

See `hepdask_ml.ui.kinds` for what such a module has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import InputError, late
from hepdask_ml.hpo.campaign import search
from hepdask_ml.hpo.objective import objective
from hepdask_ml.hpo.space import Space
from hepdask_ml.ui import search_view
from hepdask_ml.ui.search_watch import SearchTeller

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.config import SearchCampaignSettings, SearchSettings
    from hepdask_ml.hpo.campaign import Search
    from hepdask_ml.hpo.summary import SearchResult

Teller = SearchTeller
view = search_view.view
status_view = search_view.status_view
status_json = search_view.status_json
campaign_html = search_view.campaign_html
failure = search_view.lacking


def campaign(
    settings: SearchCampaignSettings, *, engine: str | None = None, retry_failed: bool = False
) -> Search:
    """Make the campaign that settings describe.

    Parameters
    ----------
    settings : SearchCampaignSettings
        The settings.
    engine : str or None
        Not for searches.
    retry_failed : bool
        Whether trials that failed before are tried again.

    Returns
    -------
    Search
        Not run yet.

    Raises
    ------
    InputError
        If an engine is asked for, or the objective or a setting is wrong.
    """
    if engine is not None:
        raise InputError("--engine is for limits: the objective of a search chooses its own device")
    asked = settings.search
    return search(
        objective(asked.train),
        _space(asked),
        optimiser=asked.optimiser,
        n_trials=asked.trials,
        ledger=settings.ledger,
        objectives=asked.objectives,
        constraints=asked.constraints,
        epochs=asked.epochs,
        pruning=asked.pruning,
        mode=asked.mode,
        parallel=asked.parallel,
        seed=asked.seed,
        segments=asked.segments,
        checkpoints=asked.checkpoints,
        keep=asked.keep,
        warm_start=asked.warm_start,
        gang=asked.gang,
        follow=asked.follow,
        retry_failed=retry_failed,
    )


def _space(asked: SearchSettings) -> Space | list[Space]:
    """Read the space; with segments there may be one for each."""
    if isinstance(asked.space, tuple):
        return [Space.read(each, asked.form) for each in asked.space]
    return Space.read(asked.space, asked.form)


def state(ledger: Ledger) -> str:
    """Say whether a ledger is at its end, or may be between two rounds."""
    return search_view.told_of(ledger).state


def kept_text(campaign: Search) -> str:
    """Say what a ledger keeps."""
    found = campaign.results()
    return f"{search_view.ended(found):,} of {search_view.asked(found):,} trials"


def report(ledger: Ledger, folder: Path) -> tuple[SearchResult, list[Path]]:
    """Report what a ledger holds."""
    made: tuple[SearchResult, list[Path]] = late("ui.search_report").write_report(ledger, folder)
    return made


def write(found: SearchResult, folder: Path, *, seconds: float) -> list[Path]:
    """Write the files of a search."""
    written: list[Path] = late("ui.search_report").write_search(found, folder, seconds=seconds)
    return written


def merged(out: str, sources: Sequence[str]) -> Any:
    """Refuse to merge: trials depend on those before them."""
    raise InputError(
        f"{sources[0]} is of a search, and searches are not merged: begin {out} as a new one with "
        "warm_start in its settings"
    )
