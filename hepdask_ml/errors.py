"""Every error of the package, and the doors to modules that are loaded late.

There is one base and three families that say whose turn it is: `InputError` (mend the input),
`CampaignError` (look at the ledger or the plan) and `SiteError` (something is missing on this
machine: workers, a GPU, a package).  A message says what was found and where, what is allowed, and
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
    """A job cannot go on; its ledger or its plan says why."""


class SiteError(HepdaskError):
    """The machine or site lacks something that the job needs."""


def require(name: str, extra: str) -> Any:
    """Import an optional package, or say which extra brings it.

    Parameters
    ----------
    name : str
        The module.
    extra : str
        The extra of this package that installs it.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    SiteError
        If it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise SiteError(
            f"{name} is not installed here: run pip install 'hepdask-ml[{extra}]'"
        ) from None


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
