"""A search as a campaign: where its parts are joined."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from hashlib import blake2b
from numbers import Integral
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, cast
from weakref import finalize

import hepdask_ml
from hepdask_ml.campaign.campaign import Campaign
from hepdask_ml.campaign.ledger import MEMORY, Identity, read_ledger
from hepdask_ml.config import nearest
from hepdask_ml.errors import CampaignError, InputError, late
from hepdask_ml.facility.scheduler import threads_of
from hepdask_ml.hpo.dimensions import Choice, Fixed, Integer
from hepdask_ml.hpo.kept import Housekeeping
from hepdask_ml.hpo.optimisers import DEFAULT, find
from hepdask_ml.hpo.pruning import pruner
from hepdask_ml.hpo.segments import read_segments
from hepdask_ml.hpo.space import Space
from hepdask_ml.hpo.strategy import MODES, SearchStrategy, past_of
from hepdask_ml.hpo.summary import SearchResult, result
from hepdask_ml.hpo.tracking import Tracking, followers
from hepdask_ml.hpo.trials import Objective
from hepdask_ml.hpo.values import identity
from hepdask_ml.training import state
from hepdask_ml.training.checkpoint import Checkpoints
from hepdask_ml.training.context import ROWS
from hepdask_ml.training.runner import TrialRunner

if TYPE_CHECKING:
    import threading

    from distributed import Client

    from hepdask_ml.campaign.campaign import Status
    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.campaign.unit import Runner
    from hepdask_ml.hpo.optimisers import Optimiser, Past
    from hepdask_ml.hpo.pruning import Pruner
    from hepdask_ml.hpo.segments import Segment
    from hepdask_ml.hpo.tracking import Follower
    from hepdask_ml.hpo.trials import Trial

    Watch = Callable[[Ledger, Status], None]

KIND = "search"
N_TRIALS = 100
KEEP = ("best", "all")
BLOCK_S = 600.0
INTERVAL_S = 60.0


def search(  # noqa: PLR0913 - options, all keyword-only
    train: Callable[..., Any],
    space: Any,
    *,
    optimiser: str | Optimiser | Mapping[str, Optimiser] = DEFAULT,
    n_trials: int | None = None,
    ledger: str | Path | None = None,
    objectives: str | Sequence[str] | Mapping[str, str] = "loss",
    constraints: str | Sequence[str] = (),
    epochs: int | str = 1,
    pruning: str | Pruner | None = None,
    mode: str = "rounds",
    parallel: int | None = None,
    seed: int = 1,
    segments: str | Path | Sequence[Any] | None = None,
    checkpoints: str | Path | None = None,
    keep: str = "best",
    warm_start: str | Path | None = None,
    follow: Sequence[str | Follower] = (),
    retry_failed: bool = False,
    gang: int | None = None,
    block_s: float = BLOCK_S,
    interval_s: float = INTERVAL_S,
) -> Search:
    """Prepare a search for the best parameters of whatever can be trained.

    Parameters
    ----------
    train : callable
        The objective, ``train(params, context)``: gives the loss as a number, several numbers by
        name, or nothing where it reports them epoch by epoch; see `Context`.
    space : Space, mapping, str or Path
        What may vary, or a file of it; see `Space`.  With segments, a list has one for each.
    optimiser : str, Optimiser, or mapping of str to Optimiser
        What proposes trials: ``"skopt:gp"``, ``"optuna:tpe"`` and others, see `optimisers.names`;
        or one of your own, or one for each segment.
    n_trials : int, optional
        Trials in all, in each segment; 100 if not given, or one where nothing varies.  A ledger may
        be taken up with more.
    ledger : str or Path, optional
        File in which the trials are kept; with the same one again the search goes on.  In memory if
        not given.
    objectives : str, sequence of str, or mapping of str to {"minimise", "maximise"}
        Numbers that count, by the names under which they are reported.  With several there is no
        best trial, but a Pareto front.
    constraints : str or sequence of str
        Names of numbers above zero where a trial must not be the best.
    epochs : int or str
        Epochs of a trial at most, or the parameter that holds them.
    pruning : {"median", "halving"}, Pruner or None
        How trials are stopped that are worse than others after some epochs.
    mode : {"rounds", "async"}
        Whether trials are proposed in rounds, which makes equal seeds give equal searches, or
        whenever one ends, which keeps workers busy where trials last differently long.
    parallel : int, optional
        Trials at once, in all segments together; as many as there are workers' threads when the
        search begins, if not given.
    seed : int
        Of the proposals, and of the seeds that trials get.
    segments : str, Path or sequence, optional
        Parts of the problem, each with a model of its own: a file, or ``[{"name": ..., "files":
        [...], "params": {...}}, ...]``.  A trial gets the files of its segment alone.
    checkpoints : str or Path, optional
        Folder or fsspec URL for checkpoints, which all workers can reach; beside the ledger if not
        given.
    keep : {"best", "all"}
        Whose checkpoints are kept when trials end.
    warm_start : str or Path, optional
        Ledger of an older search, from whose trials this one learns.
    follow : sequence of str or Follower
        Where else to write what happens: ``"mlflow"``, ``"tensorboard:DIR"``, ``"csv:FILE"``.
    retry_failed : bool
        Whether trials that failed before are tried again.
    gang : int, optional
        Workers at most that train one model together, with torch's distributed data parallelism.
    block_s : float
        Seconds after which a call of the objective ends at the next epoch; the trial goes on in
        another one.
    interval_s : float
        Seconds between two checkpoints of a trial, in `Context.epochs`.

    Returns
    -------
    Search
        ``run(client)`` gives a `SearchResult`.

    Raises
    ------
    InputError
        If a setting is wrong.

    Examples
    --------
    >>> def train(params, context):
    ...     return (params["x"] - 1.0) ** 2
    >>> found = search(train, {"x": {"type": "float", "low": -5, "high": 5}}, n_trials=20).run()
    >>> found.best.values["loss"] < 1.0
    True
    """
    aims = _objectives(objectives)
    limits = _names("constraints", constraints)
    _check(train, mode, keep, aims, limits)
    times = [_seconds(*each) for each in (("block_s", block_s), ("interval_s", interval_s))]
    seed = _whole("seed", seed)
    parts = None if segments is None else read_segments(segments)
    spaces = _spaces(space, parts)
    proposers = _proposers(optimiser, spaces)
    name = ", ".join(dict.fromkeys(map(_name, proposers.values())))
    name = optimiser if isinstance(optimiser, str) else name
    if len(aims) > 1 and not all(proposer.several for proposer in proposers.values()):
        raise InputError(
            f"the optimiser {name} takes one objective, and there are {len(aims)}: choose "
            "optuna:tpe or optuna:nsga2"
        )
    rule = pruner(pruning)
    if rule is not None and len(aims) > 1:
        raise InputError("trials with several objectives cannot be pruned: leave pruning out")
    _check_epochs(epochs, spaces, rule)
    trials = _n_trials(n_trials, spaces)
    warm = {} if warm_start is None else _warm(warm_start, aims, limits, spaces)
    strategy = SearchStrategy(
        spaces=spaces,
        optimisers=proposers,
        n_trials=trials,
        objectives=aims,
        constraints=limits,
        epochs=epochs,
        pruner=rule,
        mode=mode,
        parallel=None if parallel is None else _at_least_one("parallel", parallel),
        seed=seed,
        warm=warm,
    )
    runner = TrialRunner(
        train,
        losses=tuple(aim.name for aim in aims),
        seed=seed,
        inputs={part.name: part.inputs for part in parts or ()},
        fixed={part.name: part.params for part in parts or ()},
        block_s=times[0],
        interval_s=times[1],
    )
    return Search(
        identity=Identity(
            kind=KIND,
            content=str(getattr(train, "digest", "")),
            configuration={
                "optimiser": name,
                "objectives": [[aim.name, aim.maximise] for aim in aims],
                "constraints": list(limits),
                "epochs": epochs,
                "pruning": None if rule is None else _text(rule),
                "mode": mode,
                "space": _digest([each and each.to_json() for each in spaces.values()]),
                "segments": _digest([[part.name, part.params] for part in parts or ()]),
                "warm_start": _digest(
                    [[name, [[p.params, p.losses] for p in past]] for name, past in warm.items()]
                ),
            },
            version=hepdask_ml.__version__,
            seeds=(seed,),
        ),
        strategy=strategy,
        runner=runner,
        summary=result,
        ledger=ledger,
        facts={
            "objectives": [[aim.name, aim.maximise] for aim in aims],
            "constraints": list(limits),
            "segments": list(spaces),
            "spaces": {name: each and each.to_json() for name, each in spaces.items()},
            "n_trials": trials,
            "optimiser": name,
            "mode": mode,
        },
        tolerant=True,
        retries=retry_failed,
        checkpoints=None if checkpoints is None else str(checkpoints),
        keep=keep,
        follow=followers(follow),
        gang=None if gang is None else _at_least_one("gang", gang),
    )


class Search(Campaign[SearchResult]):
    """A search; made by `search`.

    Parameters
    ----------
    checkpoints : str or None
        Folder or URL for the checkpoints of its trials; beside the ledger if None.
    keep : {"best", "all"}
        Whose checkpoints are kept when trials end.
    follow : tuple of Follower
        Who else is told what happens.
    gang : int or None
        Workers at most that train one model together.
    **parts
        As for `Campaign`.
    """

    strategy: SearchStrategy
    runner: TrialRunner

    def __init__(
        self,
        *,
        checkpoints: str | None,
        keep: str,
        follow: tuple[Follower, ...],
        gang: int | None,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self._place, self._keep, self._follow, self._gang = checkpoints, keep, follow, gang
        self._temporary: str | None = None
        self._before_the_end = ExitStack()

    @property
    def best(self) -> Trial | None:
        """The best trial so far; see `SearchResult.best`."""
        return self.results().best

    @property
    def bests(self) -> dict[str, Trial]:
        """The best trial of each segment so far."""
        return self.results().bests

    @property
    def front(self) -> tuple[Trial, ...]:
        """The Pareto front so far; see `SearchResult.front`."""
        return self.results().front

    @property
    def trials(self) -> Any:
        """All trials so far, a `pandas.DataFrame`; see `SearchResult.table`."""
        return self.results().table()

    def importances(self, segment: str | None = None) -> dict[str, float]:
        """Say how much each parameter matters; see `SearchResult.importances`."""
        return self.results().importances(segment)

    def plot(self, kind: str = "history", segment: str | None = None) -> Any:
        """Draw the search so far; see `SearchResult.plot`."""
        return self.results().plot(kind, segment)

    def load(self, trial: Trial | None, **objects: Any) -> Mapping[str, bytes]:
        """Load what a trial has saved last.

        Parameters
        ----------
        trial : Trial
            The best one, say.
        **objects
            Objects to be restored, under the names under which they were saved: ``model=model``.

        Returns
        -------
        mapping of str to bytes
            What was saved, as it is stored.

        Raises
        ------
        InputError
            If it has no checkpoint, or that does not fit.
        HepdaskError
            If the checkpoint was removed, or is damaged.
        """
        if trial is None:
            raise InputError("no trial was given: the search has no best one yet")
        if trial.checkpoint is None:
            raise InputError(f"{trial.unit.title} has saved no checkpoint: save one when training")
        if self._kept is not None:
            root = self._root(self._kept)
        else:
            with read_ledger(self.path) as ledger:
                root = self._root(ledger)
        place = f"{root}/{trial.key}"
        parts = Checkpoints(place).read(trial.checkpoint).parts
        kept = {
            name: part
            for name, part in parts.items()
            if name != ROWS and not name.startswith(state.OURS)
        }
        state.restore(objects, kept)
        return kept

    def _run(
        self,
        client: Client | None,
        threads: int,
        watch: Watch | None,
        told: threading.Event,
    ) -> SearchResult:
        if self.strategy.parallel is None:
            there = [threads] if client is None else threads_of(client)
            # A worker holds one rank of a gang, however many threads it has.
            most = sum(there) if self._gang is None else len(there) // self._gang
            self.strategy.parallel = max(most, 1) if there else None
        tracking = Tracking(self._follow)
        housekeeping: Housekeeping | None = None

        def look(ledger: Ledger, status: Status) -> None:
            nonlocal housekeeping
            if housekeeping is None:
                housekeeping = Housekeeping(self._root(ledger), keep_all=self._keep == "all")
            tracking(ledger)
            if status.workers is None:  # the last time
                housekeeping.look(ledger)
            else:
                housekeeping(ledger)
            if watch is not None:
                watch(ledger, status)

        with self._before_the_end:
            self._before_the_end.enter_context(tracking)
            found = super()._run(client, threads, look, told)
        found = replace(found, warnings=(*found.warnings, *tracking.warnings))
        if not found.trials:
            raise CampaignError("the optimiser has proposed no trial: choose another one")
        if not (found.of("complete") or found.of("pruned")):
            first = next((trial for trial in found.trials if trial.error), None)
            why = "" if first is None else f", {first.unit.title} with ({first.error})"
            raise CampaignError(
                f"no trial of {len(found.trials)} has come to an end{why}: mend the cause and try "
                "the failed ones again with retry_failed"
            )
        return found

    def _end(self, ledger: Ledger) -> None:
        """Let the trackers have the last of the ledger, then close it."""
        try:
            # Where it was interrupted, they are waited for a little only.
            self._before_the_end.__exit__(*sys.exc_info())
        finally:
            super()._end(ledger)

    def _runner_for(self, ledger: Ledger) -> Runner:
        runner = replace(self.runner, checkpoints=self._root(ledger))
        if self._gang is None:
            return runner
        gang: Runner = late("training.elastic").GangRunner(runner, self._gang)
        return gang

    def _root(self, ledger: Ledger) -> str:
        """Give the place for checkpoints; one of its own for each ledger that is made."""
        return f"{self._checkpoints().rstrip('/')}/{ledger.campaign[:12]}"

    def _checkpoints(self) -> str:
        if self._place is not None:
            return self._place if "://" in self._place else str(Path(self._place).absolute())
        if self.path != MEMORY:
            return f"{Path(self.path).absolute()}.checkpoints"
        if self._temporary is None:
            self._temporary = tempfile.mkdtemp(prefix="hepdask-ml-")
            finalize(self, rmtree, self._temporary, ignore_errors=True)
        return self._temporary


def _objectives(asked: str | Sequence[str] | Mapping[str, str]) -> tuple[Objective, ...]:
    if isinstance(asked, str):
        return (Objective(asked),)
    if not isinstance(asked, Mapping):
        return tuple(map(Objective, _names("objectives", asked)))
    ways = {"minimise": False, "minimize": False, "maximise": True, "maximize": True}
    for name, way in asked.items():
        if way not in list(ways):  # it may be unhashable
            raise InputError(f"objectives.{name} is {way!r}: give minimise or maximise")
    return tuple(Objective(name, ways[way]) for name, way in asked.items())


def _names(what: str, asked: Any) -> tuple[str, ...]:
    names = [asked] if isinstance(asked, str) else asked
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{what} is {asked!r}: give a name, or a list of names")
    return tuple(names)


def _check(
    train: Any, mode: str, keep: str, aims: Sequence[Objective], limits: Sequence[str]
) -> None:
    if not callable(train):
        raise InputError(
            f"the objective is {train!r}: give a function train(params, context) that returns the "
            "loss"
        )
    for name, value, known in (("mode", mode, MODES), ("keep", keep, KEEP)):
        if value not in known:
            near = nearest(str(value), known)
            advice = near[0] if near else f"choose from {', '.join(known)}"
            raise InputError(f"{name} is {value!r}: {advice}")
    names = [aim.name for aim in aims] + list(limits)
    if not aims or len(set(names)) < len(names):
        raise InputError(
            f"objectives and constraints are {', '.join(names) or 'none'}: give at least one "
            "objective, and each name once"
        )


def _spaces(space: Any, parts: Sequence[Segment] | None) -> dict[str, Space | None]:
    """Give the space of each segment."""
    if parts is None:
        if isinstance(space, list | tuple):
            raise InputError("a list of spaces is for segments: give one space, or segments")
        return {"": None if space is None else Space.read(space)}
    if isinstance(space, list | tuple):
        if len(space) != len(parts):
            raise InputError(
                f"there are {len(space)} spaces for {len(parts)} segments: give one for each, or "
                "one for all"
            )
        return {part.name: Space.read(each) for part, each in zip(parts, space, strict=True)}
    one = None if space is None else Space.read(space)
    for part in parts:
        both = [] if one is None else sorted(one.dimensions.keys() & part.params.keys())
        if both:
            raise InputError(
                f"{both[0]} is searched, and segment {part.name} has it in its params: drop it in "
                "one of them"
            )
    return dict.fromkeys((part.name for part in parts), one)


def _proposers(
    asked: str | Optimiser | Mapping[str, Optimiser], spaces: Mapping[str, Space | None]
) -> dict[str, Optimiser]:
    one = find(asked) if isinstance(asked, str) else asked
    each = one if isinstance(one, Mapping) else dict.fromkeys(spaces, one)
    found = {}
    for segment, space in spaces.items():
        proposer = each.get(segment)
        if not callable(getattr(proposer, "propose", None)):
            raise InputError(
                f"the optimiser is {asked!r}: give the name of one, such as {DEFAULT}, an object "
                "with a method propose(), or one for each segment"
            )
        found[segment] = cast("Optimiser", proposer)
        if space is None and not getattr(proposer, "unchecked", False):
            raise InputError(
                f"there is no space for the optimiser {_name(found[segment])}: say what may vary"
            )
    return found


def _name(proposer: Optimiser) -> str:
    return str(getattr(proposer, "name", type(proposer).__name__))


def _check_epochs(
    epochs: int | str, spaces: Mapping[str, Space | None], rule: Pruner | None
) -> None:
    if not isinstance(epochs, str):
        if _at_least_one("epochs", epochs) == 1 and rule is not None:
            raise InputError("trials of one epoch cannot be pruned: give epochs")
        return
    for space in spaces.values():
        if space is None:
            continue
        if epochs not in space.dimensions:
            raise InputError(
                f'epochs is "{epochs}", which is no parameter of the space: give a number or the '
                "name of one"
            )
        dimension = space.dimensions[epochs]
        whole = isinstance(dimension, Integer | Choice | Fixed) and not dimension.when
        for value in _ends(dimension) if whole else [None]:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(
                    f"{epochs} holds the epochs: let it have whole numbers from 1 on, without when"
                )


def _ends(dimension: Any) -> Sequence[Any]:
    """Give the least and the largest value of a parameter, or all of them."""
    if isinstance(dimension, Integer):
        return dimension.low, dimension.high
    return dimension.values if isinstance(dimension, Choice) else (dimension.value,)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} is {value!r}: it must be a whole number")
    return int(value)


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise InputError(f"{name} is {value!r}: it must be a number of seconds")
    return float(value)


def _text(rule: Pruner) -> str:
    """Give a pruner in words that are the same in the next process."""
    plain = type(rule).__repr__ is object.__repr__
    return type(rule).__qualname__ if plain else repr(rule)


def _at_least_one(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}: it must be a whole number from 1 on")
    return value


def _n_trials(asked: int | None, spaces: Mapping[str, Space | None]) -> int:
    if asked is not None:
        return _at_least_one("n_trials", asked)
    free = any(space is None or space.free for space in spaces.values())
    return N_TRIALS if free else 1


def _warm(
    source: str | Path,
    aims: Sequence[Objective],
    limits: Sequence[str],
    spaces: Mapping[str, Space | None],
) -> dict[str, tuple[Past, ...]]:
    """Give the trials of an older search that have a loss, and lie in the space."""
    with read_ledger(source) as ledger:
        older = result(ledger)
    if older.objectives != tuple(aims):
        names = ", ".join(aim.name for aim in older.objectives)
        raise InputError(
            f"{source} is a search with the objectives {names}: it cannot warm up this one"
        )
    if older.constraints != tuple(limits):
        names = ", ".join(older.constraints) or "none"
        raise InputError(
            f"{source} is a search with the constraints {names}: it cannot warm up this one"
        )
    found = {}
    for segment, space in spaces.items():
        trials = [
            trial
            for trial in older.trials
            if trial.segment == segment and trial.state in ("complete", "pruned")
        ]
        known = [past_of(trial, aims, limits, i - len(trials)) for i, trial in enumerate(trials)]
        found[segment] = tuple(
            # What the optimiser of that search remembers says nothing to this one's.
            replace(past, attributes={})
            for past in known
            if space is None or _lies_in(space, past.params)
        )
    if not any(found.values()):
        raise InputError(
            f"{source} has no trial that lies in this space and has a loss: leave warm_start out"
        )
    return found


def _lies_in(space: Space, params: Mapping[str, Any]) -> bool:
    try:
        space.checked(params)
    except InputError:
        return False
    return True


def _digest(content: Any) -> str:
    return blake2b(identity(content).encode(), digest_size=4).hexdigest()
