"""Runs of MLflow: the one door to mlflow, which need not be installed.

A search is a run, and each of its trials a run below it, with a tag of the campaign and of the
trial by which it is found again.  Another tag says what was told of a trial.  It is written after
the numbers, so that after a crash between the two the numbers themselves are looked at: their times
are a function of the run's beginning and of the ledger.

The server is asked what it knows once, and again after each error.  Two processes that follow one
search at the same moment may both begin a run: it is looked for after each beginning, and the later
one of the two is deleted.

MLflow would report its use to its makers; this door switches that off for the process.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from posixpath import normpath
from time import time
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import HepdaskError, InputError, words
from hepdask_ml.hpo.summary import result
from hepdask_ml.hpo.tracking import numbers, title

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.hpo.summary import SearchResult
    from hepdask_ml.hpo.trials import Trial

EXPERIMENT = "hepdask-ml"
"""Experiment that runs belong to if none is given, here or by MLFLOW_EXPERIMENT_NAME."""

_CAMPAIGN, _TRIAL, _TOLD = "hepdask_ml.campaign", "hepdask_ml.trial", "hepdask_ml.told"
"""Tags by which a run is known, and what was told of it."""

_BOUNDS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Settings for the time of a call: a server that is down would be waited for for many minutes."""

_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has the pages of an experiment show runs first, and not chats with language models."""

_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "running": "RUNNING"}
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_PAGE = 1000
_METRICS, _PARAMS = 500, 100
"""Numbers and parameters of one request; the server takes a million bytes."""

_ATTEMPTS = 3
"""Runs may vanish while they are told of, where two processes follow one search."""

_LONGEST_NAME = 250
_LONGEST_PARAM = 6000
_LONGEST_ERROR = 1000


@dataclass(slots=True)
class _Run:
    """A run, as far as the server is known to know it."""

    id: str
    start_ms: int
    status: str = "RUNNING"
    told: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    steps: dict[str, set[int]] = field(default_factory=dict)
    old: bool = False  # it may hold numbers that are not known here
    deleted: bool = False


class Mlflow:
    """Tells MLflow of searches.

    Parameters
    ----------
    uri : str, optional
        Where the runs are kept; what MLflow's environment variables say if not given.
    experiment : str, optional
        Experiment that they belong to.

    Attributes
    ----------
    name : str
        How it is asked for.
    """

    def __init__(self, uri: str | None = None, experiment: str | None = None) -> None:
        self._uri = uri or None
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        shown = re.sub(r"//[^/@]*@", "//", uri or "")
        self.name = ":".join(filter(None, ["mlflow", shown]))
        if experiment:
            self.name += f"{'' if shown else ':'}#{experiment}"
        self._library = _library()
        self._check()
        self._campaign = ""
        self._home = ""
        self._runs: dict[str, _Run] = {}

    def follow(self, ledger: Ledger) -> None:
        """Tell what the server does not know yet.

        Raises
        ------
        HepdaskError
            If it cannot be reached, or refuses.
        """
        found = result(ledger)
        with _bounded():
            for left in reversed(range(_ATTEMPTS)):
                try:
                    self._follow(ledger, found)
                except BaseException as error:
                    # Whether the last request was heard is not known.
                    self._campaign = ""
                    if not isinstance(error, self._library.MlflowException):
                        raise
                    fault = _bottom(error)
                    if isinstance(fault, OSError) or not left:
                        reason = getattr(fault, "strerror", None) or words(fault)
                        raise HepdaskError(reason) from error
                else:
                    return

    def _check(self) -> None:
        """Refuse stores for which a library is missing, before anything runs."""
        uri = self._uri or self._library.get_tracking_uri()
        scheme = uri.partition(":")[0].partition("+")[0]
        if scheme in _DATABASES:
            if find_spec("sqlalchemy") is None:
                raise InputError(
                    f"MLflow keeps runs in {self.name} with the whole of mlflow alone: install "
                    "mlflow, or give a server, as in mlflow:http://localhost:5000"
                )
            return  # it would be made, or brought up to date, which takes seconds
        try:
            self._client()
        except self._library.MlflowException as error:
            raise InputError(
                f"MLflow does not keep runs in {self.name} ({words(error)}): give a server, as in "
                "mlflow:http://localhost:5000"
            ) from None

    def _client(self) -> Any:
        return self._library.MlflowClient(tracking_uri=self._uri)

    def _follow(self, ledger: Ledger, found: SearchResult) -> None:
        client = self._client()
        moment_ms = int(1000.0 * (ledger.progress().last or time()))
        if self._campaign != ledger.campaign:
            self._home = self._found_experiment(client)
            self._runs = self._look(client, ledger.campaign)
            self._campaign = ledger.campaign
        parent = self._parent(client, ledger, found)
        self._begin(client, ledger.campaign, parent, found, moment_ms)
        for trial in found.trials:
            if trial.key in self._runs:
                self._tell(client, self._runs[trial.key], trial)
        self._tell_best(client, parent, found, moment_ms)

    def _found_experiment(self, client: Any) -> str:
        known = client.get_experiment_by_name(self._experiment)
        if known is None:
            try:
                return str(client.create_experiment(self._experiment, tags=_KIND))
            except self._library.MlflowException:
                # Somebody else may have been quicker.
                known = client.get_experiment_by_name(self._experiment)
                if known is None:
                    raise
        return str(known.experiment_id)

    def _look(self, client: Any, campaign: str, newest: int | None = None) -> dict[str, _Run]:
        """Give the runs of a campaign by trial; of runs of one trial all but the first go.

        Parameters
        ----------
        client : MlflowClient
            The way to the server.
        campaign : str
            Name of the ledger.
        newest : int, optional
            Look at so many, the newest; at all if not given.

        Returns
        -------
        dict of str to _Run
            The run of the search itself has no trial: its name is empty.
        """
        found: dict[str, list[Any]] = {}
        token = None
        while True:
            page = client.search_runs(
                [self._home],
                filter_string=f"tags.`{_CAMPAIGN}` = '{campaign}'",
                run_view_type=self._library.entities.ViewType.ALL,
                max_results=min(newest or _PAGE, _PAGE),
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            for run in page:
                found.setdefault(run.data.tags.get(_TRIAL, ""), []).append(run)
            token = page.token
            if not token or (newest is not None and sum(map(len, found.values())) >= newest):
                break
        kept = {}
        for trial, runs in found.items():
            alive = [run for run in runs if run.info.lifecycle_stage == "active"]
            first, *later = sorted(
                alive or runs, key=lambda run: (run.info.start_time, run.info.run_id)
            )
            for run in later if alive else ():
                client.delete_run(run.info.run_id)
            kept[trial] = _known(first)
        return kept

    def _parent(self, client: Any, ledger: Ledger, found: SearchResult) -> _Run:
        name = title(ledger)
        if "" not in self._runs:
            at_ms = int(1000.0 * (ledger.progress().first or time()))
            tags = {"mlflow.source.name": "hepdask-ml", _CAMPAIGN: ledger.campaign}
            client.create_run(self._home, start_time=at_ms, tags=tags, run_name=name)
            self._runs[""] = self._look(client, ledger.campaign)[""]
        parent = self._runs[""]
        if parent.deleted:
            raise HepdaskError(
                f"the run of {name} was deleted there: restore it, or give another experiment, as "
                "in mlflow:http://localhost:5000#EXPERIMENT"
            )
        # What may be another one when the search is taken up again is a tag: parameters stay.
        said = f"{found.n_trials} trials"
        if parent.told != said:
            tags = {
                "n_trials": str(found.n_trials),
                "version": ledger.identity.version,
                _TOLD: said,
            }
            params = {} if parent.told else _about(ledger, found)
            self._send(client, parent, params=params, tags=tags)
            parent.told = said
        return parent

    def _begin(
        self, client: Any, campaign: str, parent: _Run, found: SearchResult, moment_ms: int
    ) -> None:
        """Make the runs of trials of which there is something to tell."""
        begun = [
            trial
            for trial in found.trials
            if trial.key not in self._runs and (trial.epochs or trial.error)
        ]
        for trial in begun:
            tags = {
                "mlflow.parentRunId": parent.id,
                "mlflow.source.name": "hepdask-ml",
                _CAMPAIGN: campaign,
                _TRIAL: trial.key,
                **({"segment": trial.segment} if trial.segment else {}),
            }
            at_ms = moment_ms - int(1000.0 * trial.seconds)
            run = client.create_run(self._home, start_time=at_ms, tags=tags, run_name=trial.key)
            self._runs[trial.key] = _Run(run.info.run_id, at_ms)
        if begun:
            seen = self._look(client, campaign, newest=2 * len(begun) + 100)
            mine = {trial.key for trial in begun}
            self._runs |= {
                key: run
                for key, run in seen.items()
                if key in mine and run.id != self._runs[key].id
            }

    def _tell(self, client: Any, run: _Run, trial: Trial) -> None:
        """Tell of a trial what is new."""
        if run.deleted:  # somebody does not want to see it
            return
        said = f"{len(trial.rows)} {trial.epochs} {trial.state}"
        if run.told != said:
            metrics = _metrics(trial, run)
            if run.old:
                metrics = [each for each in metrics if not self._holds(client, run, each)]
            params = {name: _shown(value) for name, value in trial.params.items()}
            tags = {"state": trial.state, _TOLD: said}
            if trial.error is not None:
                tags["error"] = trial.error[:_LONGEST_ERROR]
            self._send(client, run, metrics, {} if run.told else params, tags)
            run.told, run.old = said, False
        status = _STATUS[trial.state]
        if run.status != status:
            self._end(client, run, status, run.start_ms + int(1000.0 * trial.seconds))

    def _tell_best(self, client: Any, parent: _Run, found: SearchResult, moment_ms: int) -> None:
        """Tell how good the best trials are, and how many have ended."""
        ended = len(found.trials) - len(found.of("running"))
        now = {f"trials/{state}": float(len(found.of(state))) for state in _STATUS}
        if len(found.objectives) > 1:
            now["best/front"] = float(len(found.front))
        else:
            for segment, trial in found.bests.items():
                for name, value in trial.values.items():
                    now[_named(f"best/{segment or name}")] = value
        news = {name: value for name, value in now.items() if parent.metrics.get(name) != value}
        self._send(client, parent, [(name, news[name], moment_ms, ended) for name in news])
        parent.metrics |= news
        status = "RUNNING" if found.of("running") or not found.trials else "FINISHED"
        if parent.status != status:
            self._end(client, parent, status, moment_ms)

    def _holds(self, client: Any, run: _Run, metric: tuple[str, float, int, int]) -> bool:
        """Whether the server has a number already; asked once for each name."""
        name, _, _, step = metric
        if name not in run.metrics:
            return False
        known = run.steps.get(name)
        if known is None:
            history = client.get_metric_history(run.id, name)
            known = run.steps[name] = {each.step for each in history}
        return step in known

    def _send(
        self,
        client: Any,
        run: _Run,
        metrics: list[tuple[str, float, int, int]] | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Send numbers as (name, value, time in ms, step), and last the tags that say so.

        Of one request the server keeps parameters first, then numbers, then tags.
        """
        entities = self._library.entities
        about = [
            entities.Param(_named(name), str(value)[:_LONGEST_PARAM])
            for name, value in (params or {}).items()
        ]
        if len(about) > _PARAMS:  # the library would send tags before the rest of them
            client.log_batch(run.id, params=about)
            about = []
        every = [entities.Metric(*each) for each in metrics or ()]
        while len(every) > _METRICS:
            client.log_batch(run.id, metrics=every[:_METRICS])
            every = every[_METRICS:]
        labels = [entities.RunTag(name, value) for name, value in (tags or {}).items()]
        if about or every or labels:
            client.log_batch(run.id, metrics=every, params=about, tags=labels)

    def _end(self, client: Any, run: _Run, status: str, at_ms: int) -> None:
        if status == "RUNNING":
            client.update_run(run.id, status=status)
        else:
            client.set_terminated(run.id, status=status, end_time=at_ms)
        run.status = status


def follower(where: str) -> Mlflow:
    """Give the follower that tells MLflow.

    Parameters
    ----------
    where : str
        ``URI``, ``URI#EXPERIMENT``, or nothing.

    Returns
    -------
    Mlflow
        The follower; no server was asked yet.

    Raises
    ------
    InputError
        If mlflow is not installed, or cannot keep runs there.
    """
    uri, _, experiment = where.partition("#")
    return Mlflow(uri, experiment)


def _library() -> Any:
    # Read at each of its calls; heeded from the import on.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        return import_module("mlflow")
    except ModuleNotFoundError:
        raise InputError(
            "to follow a search, MLflow needs mlflow-skinny: install hepdask-ml[hpo]"
        ) from None


@contextmanager
def _bounded() -> Iterator[None]:
    """Set what the user has not set, for the time of a call."""
    mine = {name: value for name, value in _BOUNDS.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


def _known(run: Any) -> _Run:
    return _Run(
        id=run.info.run_id,
        start_ms=run.info.start_time,
        status=run.info.status,
        told=run.data.tags.get(_TOLD, ""),
        metrics=dict(run.data.metrics),
        old=True,
        deleted=run.info.lifecycle_stage != "active",
    )


def _metrics(trial: Trial, run: _Run) -> list[tuple[str, float, int, int]]:
    """Give the numbers of a trial that were not told yet."""
    rows, epochs = (int(number) for number in (run.told or "0 -1").split()[:2])
    found, seconds = [], 0.0
    for index, row in enumerate(trial.rows):
        seconds += row.seconds
        if index >= rows:
            at_ms = run.start_ms + int(1000.0 * seconds)
            found += [
                (_named(name), value, at_ms, row.epoch) for name, value in numbers(row).items()
            ]
    if epochs == trial.epochs:
        return found
    values = {f"objective/{name}": value for name, value in trial.values.items()}
    values |= {f"constraint/{name}": value for name, value in trial.constraints.items()}
    at_ms = run.start_ms + int(1000.0 * trial.seconds)
    return [*found, *((_named(name), value, at_ms, trial.epochs) for name, value in values.items())]


def _about(ledger: Ledger, found: SearchResult) -> dict[str, Any]:
    """Give the parameters of a search."""
    spaces = {json.dumps(space) for space in ledger.facts["spaces"].values()}
    return {
        "optimiser": found.optimiser,
        "objectives": ", ".join(
            f"{'maximise' if each.maximise else 'minimise'} {each.name}"
            for each in found.objectives
        ),
        "seed": found.seed,
        **({"constraints": ", ".join(found.constraints)} if found.constraints else {}),
        **({"segments": ", ".join(found.segments)} if found.segments != ("",) else {}),
        **({"space": spaces.pop()} if len(spaces) == 1 else {}),
    }


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _named(name: str) -> str:
    """Give a name that MLflow takes: letters, digits and a few signs, and a plain path."""
    plain = re.sub(r"[^\w/.\- :]", "_", name)[:_LONGEST_NAME]
    if normpath(plain) == plain and not plain.startswith((".", "/")):
        return plain
    return re.sub(r"[./]", "_", plain)


def _bottom(error: BaseException) -> BaseException:
    """Give the error of the system from which one of MLflow comes, or the same if there is none."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError):
            error = below
        below = below.__cause__ or below.__context__
    return error
