"""How many workers a site should have, from what the pools in its scheduler ask for.

Dask's own scaling counts tasks, and a campaign has one for each thread whatever there is to do.
What counts is whether steps are *free*, that is, may be lent: then every worker finds work.  A site
is *dry* while none is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def wanted(most: int, demand: Mapping[str, Any] | None, idle_s: float) -> int:
    """Give the number of workers that a site should have.

    Parameters
    ----------
    most : int
        Workers that were asked for.
    demand : mapping or None
        The scheduler's answer to ``hepdask_ml_demand``: steps that are ``free``, addresses of the
        workers that are ``busy``, and ``dry_s``, the time in seconds for which nothing was free.
        None before a campaign has begun.
    idle_s : float
        Dry time in seconds after which only the busy workers are kept.

    Returns
    -------
    int
        At least one, so that the next steps find a worker, and at most ``most``.

    Examples
    --------
    >>> wanted(8, {"free": 0, "busy": ["tcp://a:1", "tcp://b:1"], "dry_s": 400.0}, 300.0)
    2
    >>> wanted(8, {"free": 5, "busy": [], "dry_s": 0.0}, 300.0)
    8
    """
    if demand is None or demand["free"] > 0 or demand["dry_s"] < idle_s:
        return most
    return min(most, max(1, len(demand["busy"])))
