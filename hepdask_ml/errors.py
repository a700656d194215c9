"""Every error of the package, and the way to modules that are loaded late.

The class says whose turn it is: with `InputError` the input has to be mended, any other
`HepdaskError` is no fault of it.  A message says what was found and where, what is allowed, and
what to do, in one sentence.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class HepdaskError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes
    ----------
    exit_code : int
        What the command line returns for it: 1 where the job failed, 2 where the input is wrong.
    """

    exit_code = 1


class InputError(HepdaskError, ValueError):
    """The input is wrong; the message says where and what to do."""

    exit_code = 2


class CampaignError(HepdaskError):
    """A campaign cannot go on; the message says what was kept and what to do."""


class Interrupted(CampaignError):
    """The campaign was stopped before its end; it can be taken up again."""


class SiteError(HepdaskError):
    """A place to run cannot be used: its scheduler, its workers, or the way to them."""


class WorkerFault(HepdaskError):
    """A worker cannot do such work at all; another one may."""


class GpuError(WorkerFault):
    """There is no GPU for a worker, or it fails."""


def words(error: BaseException) -> str:
    """Give what an error of another library says, in one line and not too long.

    Parameters
    ----------
    error : Exception
        Whatever was raised.

    Returns
    -------
    str
        Without a full stop; its class where it says nothing.

    Examples
    --------
    >>> words(OSError("the queue is closed."))
    'the queue is closed'
    """
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(said).split()).rstrip(".:")[:300] or type(error).__name__


def late(name: str) -> Any:
    """Import a module of this package when it is first used, so that the start stays quick.

    Parameters
    ----------
    name : str
        The module, relative to the package: ``"ui.plots"``.

    Returns
    -------
    module
        The imported module.
    """
    return import_module(f"hepdask_ml.{name}")
