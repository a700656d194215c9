"""Files that lie with XRootD servers: the one door to its client, which need not be there.

uproot's own source for XRootD is used rather than that of fsspec-xrootd: it makes a new handle each
time, where the other keeps the one of a server that died.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

from hepdask_ml.errors import InputError

SCHEMES = ("root://", "roots://", "xroot://", "xroots://")
"""How URLs of such files begin."""

# What the client takes for patience is left to those who call it: a dead server is not asked again
# behind their backs, one that came back is not refused for half an hour, and time-outs are looked
# after each second, not each 15.  The user's XRD_CONNECTIONRETRY and the like are stronger.
_SETTINGS = {"ConnectionRetry": 1, "StreamErrorWindow": 0, "TimeoutResolution": 1}


def options(timeout_s: float) -> dict[str, Any]:
    """Give what ``uproot.open`` takes for a file with an XRootD server.

    Parameters
    ----------
    timeout_s : float
        How long the server may take for an answer.

    Returns
    -------
    dict
        The source, and the time-out in whole seconds.

    Raises
    ------
    InputError
        If the client of XRootD is not installed.
    """
    settle()
    source = import_module("uproot.source.xrootd").XRootDSource
    return {"handler": source, "timeout": max(1, round(timeout_s))}


@lru_cache(maxsize=1)
def settle() -> None:
    """Set the client, once in a process: it looks at its settings when it first connects.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        client = import_module("XRootD.client")
    except ModuleNotFoundError:
        raise InputError(
            "files with XRootD servers are read by its client: install hepdask-ml[data]"
        ) from None
    for name, value in _SETTINGS.items():
        client.EnvPutInt(name, value)
