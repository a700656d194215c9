"""A search as a study of Optuna: for its measures of importance, and for its plots.

Optimisers are told of a space in terms that they can search (`hepdask_ml.hpo.axes`); a study made
here is for people, and holds every parameter as they know it.  It lives in memory, and nothing is
asked of it that depends on chance.
"""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import contextmanager
from importlib import import_module
from math import isfinite
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.dimensions import Choice, Integer, Normal, Real

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from hepdask_ml.hpo.dimensions import Dimension
    from hepdask_ml.hpo.summary import SearchResult
    from hepdask_ml.hpo.trials import Trial

FEWEST = 4
"""Complete trials with unlike losses that it takes to say which parameter matters."""

_STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING"}


def segment_of(result: SearchResult, segment: str | None) -> str:
    """Say which segment is meant.

    Parameters
    ----------
    result : SearchResult
        The search.
    segment : str or None
        Its name; may be left out where there is one.

    Returns
    -------
    str
        Its name.

    Raises
    ------
    InputError
        If there is none of this name, or it has to be named.
    """
    names = ", ".join(name for name in result.segments if name)
    if segment is None:
        if len(result.segments) > 1:
            raise InputError(f"the search has several segments: name one of {names}")
        return result.segments[0]
    if segment not in result.segments:
        raise InputError(f'"{segment}" is no segment: {f"there are {names}" if names else "none"}')
    return segment


def study(result: SearchResult, segment: str | None = None) -> Any:
    """Make a study of the trials of one segment.

    Parameters
    ----------
    result : SearchResult
        The search.
    segment : str, optional
        Which segment; needed where there are several.

    Returns
    -------
    optuna.study.Study
        In memory, with every trial that has begun.

    Raises
    ------
    InputError
        If optuna is not installed, or the segment is unknown.
    """
    optuna = _library("optuna")
    name = segment_of(result, segment)
    trials = [trial for trial in result.trials if trial.segment == name]
    scales = _scales(optuna, result, name, trials)
    with quiet():
        made = optuna.create_study(
            directions=["maximize" if each.maximise else "minimize" for each in result.objectives]
        )
        made.add_trials([_trial(optuna, result, trial, scales) for trial in trials])
    return made


def importances(result: SearchResult, segment: str | None = None) -> dict[str, float]:
    """Say how much each parameter matters for the first objective, by PED-ANOVA.

    Parameters
    ----------
    result : SearchResult
        The search.
    segment : str, optional
        Which segment; needed where there are several.

    Returns
    -------
    dict of str to float
        Shares that add up to 1, the largest first.

    Raises
    ------
    InputError
        If there are too few trials, or optuna is not installed.

    References
    ----------
    S. Watanabe, A. Bansal, F. Hutter, "PED-ANOVA", IJCAI 2023.
    """
    made = study(result, segment)
    importance = _library("optuna.importance")
    losses = {trial.values[0] for trial in made.get_trials(deepcopy=False) if _complete(trial)}
    if len(losses) < FEWEST:
        raise InputError(
            f"{len(losses)} trials with unlike losses are too few to say which parameter matters: "
            f"run {FEWEST} at least"
        )
    with quiet():
        found = importance.get_param_importances(
            made,
            evaluator=importance.PedAnovaImportanceEvaluator(),
            target=target(result) if len(result.objectives) > 1 else None,
        )
    return {str(name): float(share) for name, share in found.items()}


def target(result: SearchResult) -> Callable[[Any], float]:
    """Give the first loss of one of a study's trials, where there are several objectives.

    Parameters
    ----------
    result : SearchResult
        The search.

    Returns
    -------
    callable
        For functions of Optuna that take one number for each trial, less being better.
    """
    first = result.objectives[0]
    return lambda trial: first.loss(float(trial.values[0]))


def plots() -> Any:
    """Load Optuna's own plots.

    Returns
    -------
    module
        ``optuna.visualization.matplotlib``.

    Raises
    ------
    InputError
        If optuna is not installed.
    """
    return _library("optuna.visualization.matplotlib")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library from reporting each study, and each function that may change one day."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _complete(trial: Any) -> bool:
    return trial.values is not None and trial.state.name == "COMPLETE"


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise InputError(
            "plots of a search and importances need optuna: install hepdask-ml[hpo]"
        ) from None


def _trial(optuna: Any, result: SearchResult, trial: Trial, scales: Mapping[str, Any]) -> Any:
    """Make the library's own record of a trial."""
    values = [trial.values[each.name] for each in result.objectives if each.name in trial.values]
    known = len(values) == len(result.objectives) and all(map(isfinite, values))
    name = _STATES[trial.state]
    if name == "COMPLETE" and not known:
        name = "FAIL"
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[name],
        values=values if name == "COMPLETE" else None,
        params={key: shown(trial.params[key]) for key in scales if key in trial.params},
        distributions={key: scale for key, scale in scales.items() if key in trial.params},
        constraints=dict(trial.constraints),
    )


def shown(value: Any) -> Any:
    """Give a value of a parameter as a study can hold it: lists and mappings as JSON.

    Parameters
    ----------
    value : Any
        A plain value.

    Returns
    -------
    Any
        A scalar.
    """
    return json.dumps(value) if isinstance(value, list | dict) else value


def _scales(
    optuna: Any, result: SearchResult, segment: str, trials: Sequence[Trial]
) -> dict[str, Any]:
    """Give the range of each parameter that varies."""
    kinds, space = optuna.distributions, result.spaces.get(segment)
    seen: dict[str, list[Any]] = {}
    for trial in trials:
        for name, value in trial.params.items():
            seen.setdefault(name, []).append(shown(value))
    if space is not None:
        return {
            name: _scale(kinds, space.dimensions[name], seen.get(name, ())) for name in space.free
        }
    # Only the optimiser knew what could vary: what did.
    return {name: _scale_of(kinds, values) for name, values in seen.items()}


def _scale(kinds: Any, dimension: Dimension, seen: Sequence[Any]) -> Any:
    match dimension:
        case Real():
            step = None if dimension.log else dimension.step
            return kinds.FloatDistribution(
                dimension.low, dimension.high, log=dimension.log, step=step
            )
        case Integer():
            step = 1 if dimension.log else dimension.step
            return kinds.IntDistribution(
                dimension.low, dimension.high, log=dimension.log, step=step
            )
        case Normal():
            # It has no bounds: as far as trials went, and two standard deviations at least.
            values = [dimension.value_at(0.023), dimension.value_at(0.977), *seen]
            low, high = float(min(values)), float(max(values))
            return kinds.FloatDistribution(low, high, log=dimension.base is not None and low > 0.0)
        case Choice():
            return kinds.CategoricalDistribution([shown(value) for value in dimension.values])
    raise InputError(f"{dimension} has one value")


def _scale_of(kinds: Any, values: Sequence[Any]) -> Any:
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) == len(values) and not any(isinstance(value, bool) for value in values):
        return kinds.FloatDistribution(min(numbers), max(numbers))
    return kinds.CategoricalDistribution(list(dict.fromkeys(values)))
