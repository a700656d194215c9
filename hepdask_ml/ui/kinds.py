"""The kinds of campaigns, and the module that speaks of each in the words of its field.

What the verbs of the command line, the watchers and the notebook views do alike for all campaigns
they do themselves; the rest they ask of such a module, which has

``campaign(settings, engine, retry_failed)``
    Makes the campaign that settings describe.
``Teller``
    Says how a running campaign goes; see `hepdask_ml.ui.watch.Teller`.
``status_view(ledger, rate)``, ``status_json(ledger)``
    Say how far a ledger is.
``state(ledger)``
    One of ``"finished"``, ``"waiting"`` where all that is planned is done and more may come, and
    other words where it is not.
``kept_text(campaign)``
    Says what its ledger keeps: ``"1,200 toys"``.
``report(ledger, folder)``, ``write(found, folder, seconds)``
    Write files of a ledger, and of a result.
``view(found)``, ``failure(found)``
    Show a result, and say what is wrong with it, if anything is.
``campaign_html(campaign)``
    Shows a campaign in a notebook.
``merged(out, sources)``
    Merges ledgers.
"""

from __future__ import annotations

from typing import Any

from hepdask_ml.errors import late

_MODULES = {"toy-limit": "ui.limits", "search": "ui.searches", "events": "ui.events"}


def words_of(kind: str) -> Any:
    """Give the module of a kind.

    Parameters
    ----------
    kind : str
        Of a ledger or of settings.

    Returns
    -------
    module
        That of limits for a kind that has none: it tells of any campaign by its units.
    """
    return late(_MODULES.get(kind, "ui.limits"))
