"""What is particular of limits where campaigns are run, watched and reported.

See `hepdask_ml.ui.kinds` for what such a module has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import HepdaskError, late
from hepdask_ml.limits.summary import limit
from hepdask_ml.ui.account import account
from hepdask_ml.ui.show import limit_view, progress_html, running_rows, table_html, units_view
from hepdask_ml.ui.watch import ToyTeller

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hepdask_ml.campaign.campaign import Campaign
    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.config import Settings
    from hepdask_ml.inference.limit import Limit

Teller = ToyTeller
view = limit_view
status_view = units_view


def campaign(settings: Settings, *, engine: str | None, retry_failed: bool) -> Campaign[Limit]:
    """Make the campaign that settings describe.

    Parameters
    ----------
    settings : Settings
        The settings.
    engine : str or None
        In place of theirs.
    retry_failed : bool
        Makes no difference: a limit needs every unit, and takes up again what was given up.

    Returns
    -------
    Campaign
        Not run yet.
    """
    del retry_failed
    asked = settings.limit
    made: Campaign[Limit] = late("limits.campaign").toy_limit(
        settings.model.workspace,
        ledger=settings.ledger,
        precision=asked.precision,
        max_toys=asked.max_toys,
        scan=asked.scan,
        toys=asked.toys,
        cl=asked.cl,
        test_statistic=asked.test_statistic,
        seed=asked.seed,
        starts=asked.starts,
        engine=engine or asked.engine,
        poi=settings.model.poi,
        measurement=settings.model.measurement,
        patch=list(settings.model.patch),
    )
    return made


def status_json(ledger: Ledger) -> dict[str, Any]:
    """Give how far a ledger is as a document."""
    return account(ledger).to_json()


def state(ledger: Ledger) -> str:
    """Say whether a ledger is at its end, or may be between two rounds."""
    told = account(ledger)
    return "waiting" if told.state == "finished" and told.imprecise else told.state


def kept_text(campaign: Campaign[Limit]) -> str:
    """Say what a ledger keeps."""
    return f"{campaign.status().progress.done:,} toys"


def report(ledger: Ledger, folder: Path) -> tuple[Limit, list[Path]]:
    """Report what a ledger holds."""
    return limit(ledger), late("ui.report").write_report(ledger, folder)


def write(found: Limit, folder: Path, *, seconds: float) -> list[Path]:
    """Write the files of a limit."""
    written: list[Path] = late("ui.files").write_limit(found, folder, seconds=seconds)
    return written


def failure(_: Limit) -> str | None:
    """Say what is wrong with a result: nothing, where there is one."""
    return None


def campaign_html(campaign: Campaign[Any]) -> str:
    """Give how far a campaign is as HTML, and its result once it is finished."""
    fragment = progress_html(campaign, running_rows)
    try:
        status = campaign.status()
    except HepdaskError:  # the fragment says so
        return fragment
    if status.workers is not None or not 0 < status.progress.total <= status.progress.done:
        return fragment
    try:
        result = campaign.results()
    except HepdaskError as error:
        return fragment + table_html("No result", ["", ""], [["reason", str(error)]], ())
    return fragment + (result._repr_html_() if hasattr(result, "_repr_html_") else "")


def merged(out: str, sources: Sequence[str]) -> tuple[Ledger, int]:
    """Merge ledgers, and give the one that took the others, and how many toys are new."""
    ledger, new = late("campaign.ledger").merge_ledgers(out, sources, late("limits.runner").cut)
    return ledger, new
