"""Optimisers by name: given what was tried, each says what to try next.

An *optimiser* keeps nothing between two calls.  It is given the *past* of a search, every trial
that was ever asked for, and gives *proposals*; what its library wants to remember of a trial comes
with the proposal, and is given back with the past.  So a search has no state to be saved, and equal
pasts give equal proposals, whatever the order in which the trials ended.

All losses are minimised.  Optimisers have their libraries behind doors, `with_skopt`, `with_optuna`
and `with_cmaes`, for which `axes` puts a space in plainer terms; `grid` needs no library.  Those of
other packages are entry points of the group ``hepdask_ml.optimisers``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import entry_points
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol

from hepdask_ml.config import nearest
from hepdask_ml.errors import InputError, late

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hepdask_ml.hpo.space import Space

GROUP = "hepdask_ml.optimisers"
DEFAULT = "skopt:gp"
COMMAND = "command:"
"""Begins the name of an optimiser that is a program: the rest is its command line."""


_OURS = {
    "skopt:gp": "with_skopt",
    "skopt:forest": "with_skopt",
    "skopt:dummy": "with_skopt",
    "optuna:tpe": "with_optuna",
    "optuna:gp": "with_optuna",
    "optuna:cmaes": "with_cmaes",
    "optuna:nsga2": "with_optuna",
    "optuna:random": "with_optuna",
    "optuna:grid": "grid",
}
"""Names, and the module that makes an optimiser of this name."""

_MOST_SEEDS = 2**32


@dataclass(frozen=True, slots=True)
class Past:
    """A trial that was asked for.

    Attributes
    ----------
    number : int
        Its place in the search.
    params : dict
        Its parameters: the active ones, as the space has them.
    losses : tuple of float or None
        One for each objective; None while it is pending, and where it failed.
    constraints : tuple of float
        The trial is feasible where all of them are zero or less.
    attributes : dict
        Those of its proposal.
    failed : bool
        Whether it was given up.  A trial with a loss or a constraint that is not finite has failed,
        too.
    """

    number: int
    params: Mapping[str, Any]
    losses: tuple[float, ...] | None = None
    constraints: tuple[float, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False

    @property
    def pending(self) -> bool:
        """Whether it has no end yet."""
        return self.losses is None and not self.failed

    @property
    def feasible(self) -> bool:
        """Whether it violates no constraint."""
        return all(value <= 0.0 for value in self.constraints)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A trial to be made.

    Attributes
    ----------
    params : dict
        Its parameters, as JSON can hold them.
    attributes : dict
        What the optimiser wants back with the trial's past, as JSON can hold it.
    """

    params: Mapping[str, Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Optimiser(Protocol):
    """Says what to try next; it keeps nothing between two calls.

    One with an attribute ``unchecked`` that is true may propose what is not in the space; one with
    ``forgetful`` is not told the past, which does not matter to it.
    """

    @property
    def several(self) -> bool:
        """Whether it takes trials with several losses."""

    def propose(self, space: Space, past: Sequence[Past], n: int, seed: int) -> list[Proposal]:
        """Give proposals, as a pure function of the arguments.

        Parameters
        ----------
        space : Space
            What may vary.
        past : sequence of Past
            Every trial of the search, in any order: the answer depends on their numbers alone.
            Pending trials count: what they try is not proposed again as if nobody had.
        n : int
            How many trials are wanted, at least one.
        seed : int
            Of random numbers.  It differs from call to call.

        Returns
        -------
        list of Proposal
            As many as were wanted; fewer, or none, where there is nothing else to try.
        """


def names() -> tuple[str, ...]:
    """Give the names of all optimisers, those of other packages last."""
    return (*_OURS, *(point.name for point in _outside() if point.name not in _OURS))


def find(name: str = DEFAULT) -> Optimiser:
    """Give an optimiser.

    Parameters
    ----------
    name : str
        One of `names`, or ``"command:"`` and a command line.

    Returns
    -------
    Optimiser
        Ready to be asked.

    Raises
    ------
    InputError
        If there is none of this name, or its library is not installed.

    Examples
    --------
    >>> find("optuna:grid").several
    True
    """
    made: Optimiser
    if name.startswith(COMMAND):
        made = late("hpo.with_command").optimiser(name)
        return made
    if name in _OURS:
        made = late(f"hpo.{_OURS[name]}").optimiser(name)
        return made
    for point in _outside():
        if point.name == name:
            made = point.load()()
            return made
    near = nearest(name, names())
    advice = near[0] if near else f"there are {', '.join(names())}"
    raise InputError(f'"{name}" is no optimiser: {advice}')


def _outside() -> Iterable[Any]:
    return entry_points(group=GROUP)


def library(module: str, optimiser: str, package: str, extra: str = "hpo") -> Any:
    """Import a library that an optimiser needs.

    Parameters
    ----------
    module : str
        The module to import.
    optimiser : str
        The optimiser's name.
    package : str
        What the library is called where it is installed from.
    extra : str
        The extra of this package that brings it.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise InputError(
            f"the optimiser {optimiser} needs {package}: install hepdask-ml[{extra}]"
        ) from None


def settled(past: Iterable[Past]) -> list[Past]:
    """Put the past in order, and give failed trials the worst that any trial got.

    So an optimiser turns away from where trials fail.  What is worse than a number by how much, no
    one knows; the worst that was seen keeps the scale of the losses.

    Parameters
    ----------
    past : iterable of Past
        In any order.

    Returns
    -------
    list of Past
        By rising number.  Each is pending or has finite losses; failed trials are left out as long
        as no trial got a loss.

    Raises
    ------
    InputError
        If trials differ in how many losses or constraints they have.

    Examples
    --------
    >>> trials = [Past(2, {"x": 2}, (0.5,)), Past(1, {"x": 1}, (float("nan"),)), Past(3, {"x": 3})]
    >>> [trial.losses for trial in settled(trials)]
    [(0.5,), (0.5,), None]
    """
    ordered = sorted(past, key=lambda trial: trial.number)
    good = [trial for trial in ordered if _usable(trial)]
    losses = _worst(good, [trial.losses or () for trial in good], "losses")
    constraints = _worst(good, [trial.constraints for trial in good], "constraints")
    kept = []
    for trial in ordered:
        if trial.pending or _usable(trial):
            kept.append(trial)
        elif good:
            kept.append(replace(trial, losses=losses, constraints=constraints, failed=True))
    return kept


def _usable(trial: Past) -> bool:
    values = (*(trial.losses or ()), *trial.constraints)
    return bool(trial.losses) and not trial.failed and all(map(isfinite, values))


def _worst(
    trials: Sequence[Past], rows: Sequence[tuple[float, ...]], what: str
) -> tuple[float, ...]:
    for trial, row in zip(trials, rows, strict=True):
        if len(row) != len(rows[0]):
            raise InputError(
                f"trial {trials[0].number} has {len(rows[0])} {what} and trial {trial.number} has "
                f"{len(row)}: all trials of a search must have as many"
            )
    return tuple(float(max(column)) for column in zip(*rows, strict=True))


def one_loss(past: Iterable[Past], optimiser: str) -> list[tuple[Past, float | None]]:
    """Put the past in order, for a library that knows one loss and no constraints.

    An infeasible trial is given the worst loss that any trial got.

    Parameters
    ----------
    past : iterable of Past
        In any order.
    optimiser : str
        Name for the error.

    Returns
    -------
    list of (Past, float or None)
        As in `settled`, each with its loss; None for the pending ones.

    Raises
    ------
    InputError
        If there are several losses.
    """
    trials = settled(past)
    found = [trial.losses for trial in trials if trial.losses]
    if any(len(losses) > 1 for losses in found):
        raise InputError(
            f"the optimiser {optimiser} takes one loss, and the trials have {len(found[0])}: "
            "choose optuna:tpe, optuna:nsga2 or optuna:gp"
        )
    worst = max((losses[0] for losses in found), default=0.0)
    given = []
    for trial in trials:
        loss = trial.losses[0] if trial.losses else None
        given.append((trial, worst if loss is not None and not trial.feasible else loss))
    return given


def small(seed: int) -> int:
    """Give a seed that fits into 32 bits, which is what the libraries take."""
    return seed % _MOST_SEEDS
