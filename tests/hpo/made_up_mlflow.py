"""An MLflow of the tests' own making: as much of it as a follower needs, and as strict."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class MlflowException(Exception):
    pass


class Metric(NamedTuple):
    key: str
    value: float
    timestamp: int
    step: int


class Param(NamedTuple):
    key: str
    value: str


class Page(list[Any]):
    token: str | None = None


@dataclass
class Run:
    run_id: str
    experiment: str
    run_name: str
    start_time: int
    tags: dict[str, str]
    status: str = "RUNNING"
    end_time: int | None = None
    lifecycle_stage: str = "active"
    params: dict[str, str] = field(default_factory=dict)
    history: dict[str, list[Metric]] = field(default_factory=dict)

    @property
    def info(self) -> Run:
        return self

    @property
    def data(self) -> Any:
        newest = {name: max(points, key=lambda p: p.step) for name, points in self.history.items()}
        return SimpleNamespace(
            tags=dict(self.tags),
            params=dict(self.params),
            metrics={name: point.value for name, point in newest.items()},
        )


class Server:
    """What a tracking server holds, and how often it was called.

    ``hook(method, calls)`` is called before each request is heard, and after it was.
    """

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, Run] = {}
        self.calls: list[str] = []
        self.sent = 0  # numbers, parameters and tags
        self.hook: Callable[[str, bool], None] = lambda _method, _heard: None
        self._ids = count()

    # The library as a follower sees it.

    MlflowException = MlflowException
    entities = SimpleNamespace(
        Metric=Metric, Param=Param, RunTag=Param, ViewType=SimpleNamespace(ALL=3)
    )

    def get_tracking_uri(self) -> str:
        return "http://made.up"

    def MlflowClient(self, tracking_uri: str | None) -> Server:
        return self

    def __getattr__(self, method: str) -> Any:
        answer = object.__getattribute__(self, f"do_{method}")

        def called(*arguments: Any, **options: Any) -> Any:
            self.calls.append(method)
            self.hook(method, False)
            given = answer(*arguments, **options)
            self.hook(method, True)
            return given

        return called

    def do_get_experiment_by_name(self, name: str) -> Any:
        known = self.experiments.get(name)
        return None if known is None else SimpleNamespace(experiment_id=known)

    def do_create_experiment(self, name: str, tags: dict[str, str]) -> str:
        if name in self.experiments:
            raise MlflowException(f"the experiment {name} exists")
        self.experiments[name] = f"e{next(self._ids)}"
        return self.experiments[name]

    def do_create_run(
        self, experiment: str, start_time: int, tags: dict[str, str], run_name: str
    ) -> Run:
        for name, value in tags.items():
            _check(name, value)
        run_id = f"{next(self._ids):032}"
        self.runs[run_id] = Run(run_id, experiment, run_name, start_time, dict(tags))
        return self.runs[run_id]

    def do_log_batch(
        self,
        run_id: str,
        metrics: list[Metric] | tuple[()] = (),
        params: list[Param] | tuple[()] = (),
        tags: list[Param] | tuple[()] = (),
    ) -> None:
        run = self._active(run_id)
        self.sent += len(metrics) + len(params) + len(tags)
        if len(metrics) > 1000 or len(params) > 100 or len(tags) > 100:
            raise MlflowException("the batch is too large")
        for param in params:
            _check(*param)
            if run.params.setdefault(param.key, param.value) != param.value:
                raise MlflowException(f"{param.key} is a parameter and stays as it is")
        for metric in metrics:
            _check(metric.key, "")
            run.history.setdefault(metric.key, []).append(metric)
        for tag in tags:
            _check(*tag)
            run.tags[tag.key] = tag.value

    def do_set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        run = self._active(run_id)
        run.status, run.end_time = status, end_time

    def do_update_run(self, run_id: str, status: str) -> None:
        self._active(run_id).status = status

    def do_delete_run(self, run_id: str) -> None:
        self._active(run_id).lifecycle_stage = "deleted"

    def do_get_metric_history(self, run_id: str, key: str) -> list[Metric]:
        return list(self.runs[run_id].history.get(key, ()))

    def do_search_runs(
        self,
        experiments: list[str],
        filter_string: str,
        run_view_type: int,
        max_results: int,
        order_by: list[str],
        page_token: str | None,
    ) -> Page:
        assert run_view_type == self.entities.ViewType.ALL
        assert order_by == ["attributes.start_time DESC"]
        asked = re.fullmatch(r"tags\.`([\w.]+)` = '(\w+)'", filter_string)
        assert asked
        found = [
            run
            for run in self.runs.values()
            if run.experiment in experiments and run.tags.get(asked[1]) == asked[2]
        ]
        found.sort(key=lambda run: -run.start_time)
        start = int(page_token or 0)
        stop = start + min(max_results, 7)
        page = Page(found[start:stop])
        page.token = str(stop) if stop < len(found) else None
        return page

    def _active(self, run_id: str) -> Run:
        run = self.runs[run_id]
        if run.lifecycle_stage != "active":
            raise MlflowException(f"the run {run_id} is deleted")
        return run


def _check(name: str, value: str) -> None:
    if not re.fullmatch(r"[/\w.\- :]{1,250}", name) or len(value) > 6000:
        raise MlflowException(f"{name} is no name, or its value too long")
