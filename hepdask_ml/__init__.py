"""Limits from toys for HistFactory models, on a laptop or a Dask cluster.

A workspace is compiled into frozen arrays (`compile_model`), fitted toy by toy in large batches
(`CompiledModel.fit`), and asked questions: is this signal excluded (`hypotest`), how much signal
is excluded (`upper_limit`), is there a signal at all (`discovery`)?  A limit that takes longer is a
campaign (`toy_limit`): it runs on any Dask cluster, keeps every toy in a ledger, and can be stopped
and taken up at any moment.  `open_site` opens such a cluster, on a batch farm or in the cloud, by
its name.  `toy_limit_graph` is the same as a plain Dask graph.

Events of ROOT files are a stream (`events`), or padded tensors (`features`, `scan`, `tensors`); a
function goes over all of them as a campaign (`process_events`), also while files come (`arrivals`).

Importing this package is cheap: each public name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hepdask_ml.campaign.campaign import Campaign, Running, Status
    from hepdask_ml.data.arrivals import arrivals
    from hepdask_ml.data.features import features
    from hepdask_ml.data.scan import scan
    from hepdask_ml.data.streams import events
    from hepdask_ml.data.tensors import tensors
    from hepdask_ml.errors import (
        CampaignError,
        GpuError,
        HepdaskError,
        InputError,
        Interrupted,
        SiteError,
        WorkerFault,
    )
    from hepdask_ml.facility.site import open_site
    from hepdask_ml.hpo.campaign import Search, search
    from hepdask_ml.hpo.graph import search_graph
    from hepdask_ml.hpo.space import Space
    from hepdask_ml.hpo.summary import SearchResult
    from hepdask_ml.hpo.trials import Trial
    from hepdask_ml.inference.hypotest import Discovery, HypoTest, discovery, hypotest
    from hepdask_ml.inference.limit import Limit, upper_limit
    from hepdask_ml.likelihood.compile import compile_model
    from hepdask_ml.likelihood.fit import Fits, FitStatus
    from hepdask_ml.likelihood.model import CompiledModel
    from hepdask_ml.limits.campaign import toy_limit
    from hepdask_ml.limits.graph import toy_limit_graph
    from hepdask_ml.streaming.campaign import process_events
    from hepdask_ml.streaming.summary import EventsResult
    from hepdask_ml.training.context import Context

__version__ = "0.1.0"

__all__ = [
    "Campaign",
    "CampaignError",
    "CompiledModel",
    "Context",
    "Discovery",
    "EventsResult",
    "FitStatus",
    "Fits",
    "GpuError",
    "HepdaskError",
    "HypoTest",
    "InputError",
    "Interrupted",
    "Limit",
    "Running",
    "Search",
    "SearchResult",
    "SiteError",
    "Space",
    "Status",
    "Trial",
    "WorkerFault",
    "__version__",
    "arrivals",
    "compile_model",
    "discovery",
    "events",
    "features",
    "hypotest",
    "open_site",
    "process_events",
    "scan",
    "search",
    "search_graph",
    "tensors",
    "toy_limit",
    "toy_limit_graph",
    "upper_limit",
]

_HOMES = {
    "Campaign": "campaign.campaign",
    "CampaignError": "errors",
    "CompiledModel": "likelihood.model",
    "Context": "training.context",
    "Discovery": "inference.hypotest",
    "EventsResult": "streaming.summary",
    "FitStatus": "likelihood.fit",
    "Fits": "likelihood.fit",
    "GpuError": "errors",
    "HepdaskError": "errors",
    "HypoTest": "inference.hypotest",
    "InputError": "errors",
    "Interrupted": "errors",
    "Limit": "inference.limit",
    "Running": "campaign.campaign",
    "Search": "hpo.campaign",
    "SearchResult": "hpo.summary",
    "SiteError": "errors",
    "Space": "hpo.space",
    "Status": "campaign.campaign",
    "Trial": "hpo.trials",
    "WorkerFault": "errors",
    "arrivals": "data.arrivals",
    "compile_model": "likelihood.compile",
    "discovery": "inference.hypotest",
    "events": "data.streams",
    "features": "data.features",
    "hypotest": "inference.hypotest",
    "open_site": "facility.site",
    "process_events": "streaming.campaign",
    "scan": "data.scan",
    "search": "hpo.campaign",
    "search_graph": "hpo.graph",
    "tensors": "data.tensors",
    "toy_limit": "limits.campaign",
    "toy_limit_graph": "limits.graph",
    "upper_limit": "inference.limit",
}


if not TYPE_CHECKING:  # a type checker reads the imports above, and knows a misspelt name

    def __getattr__(name: str) -> object:
        """Load a public name from its module when it is first asked for."""
        if name not in _HOMES:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
