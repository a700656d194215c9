"""The light form: the trials that a campaign makes, on any Dask scheduler."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from dask.delayed import delayed

from hepdask_ml import InputError, search, search_graph
from hepdask_ml.hpo.optimisers import Proposal
from hepdask_ml.hpo.summary import SearchResult

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dask.delayed import Delayed

    from hepdask_ml.hpo.optimisers import Past
    from hepdask_ml.hpo.space import Space
    from hepdask_ml.training.context import Context

SPACE = {"x": {"type": "float", "low": -5, "high": 5}}


@dataclass(frozen=True)
class Near:
    """Proposes by all that it was told."""

    most: int = 10**6
    several: bool = True

    def propose(self, space: Space, past: Sequence[Past], n: int, seed: int) -> list[Proposal]:
        dice = Random(json.dumps([seed, [[t.number, t.params, t.losses, t.failed] for t in past]]))
        n = min(n, self.most - len(past))
        return [Proposal({"x": dice.uniform(-5, 5)}, {"told": len(past)}) for _ in range(n)]


def parabola(params: dict[str, Any], context: Context) -> float:
    return float((params["x"] - 1.0) ** 2)


def epochs(params: dict[str, Any], context: Context) -> None:
    for epoch in context.epochs(note=b"kept"):
        context.report(epoch, parabola(params, context) + 1.0 / (1 + epoch))


def failing(params: dict[str, Any], context: Context) -> float:
    if context.number % 3 == 1:
        raise ValueError("no luck")
    return parabola(params, context)


def graph(train: Any = parabola, **options: Any) -> Delayed:
    settings: dict[str, Any] = {"optimiser": Near(), "rounds": 3, "parallel": 4} | options
    return search_graph(train, SPACE, **settings)


def computed(made: Delayed, scheduler: str = "threads") -> SearchResult:
    found = made.compute(scheduler=scheduler)  # type: ignore[no-untyped-call]
    assert isinstance(found, SearchResult)
    return found


def document(found: SearchResult) -> Any:
    """Everything that a search says but for times, and for names that no two files share."""
    written = found.to_json()
    for trial in written["trials"]:
        trial.pop("seconds")
        trial.pop("checkpoint")
        for row in trial["rows"]:
            row.pop("seconds")
    return written


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"train": epochs, "epochs": 3},
        {"train": failing},
        {"segments": [{"name": "barrel"}, {"name": "endcap", "params": {"eta": 2}}]},
        {"objectives": {"loss": "maximise"}, "seed": 5},
    ],
    ids=["plain", "epochs", "failing", "segments", "maximised"],
)
def test_the_trials_are_those_of_a_campaign(options: dict[str, Any]) -> None:
    found = computed(graph(**options))
    rest = dict(options)
    train = rest.pop("train", parabola)
    n_trials = 6 if "segments" in options else 12
    expected = search(train, SPACE, optimiser=Near(), n_trials=n_trials, parallel=4, **rest).run()
    assert document(found) == document(expected)


@pytest.mark.parametrize("scheduler", ["sync", "processes"])
def test_the_scheduler_does_not_matter(scheduler: str) -> None:
    options: dict[str, Any] = {"rounds": 2, "parallel": 2, "optimiser": "optuna:random"}
    # By value: other processes do not know this file.
    made = graph(lambda params, context: (params["x"] - 1.0) ** 2, **options)
    assert document(computed(made, scheduler)) == document(computed(graph(**options)))


def test_distributed_workers_give_the_same() -> None:
    distributed = pytest.importorskip("distributed")
    made: Any = graph()
    with (
        distributed.LocalCluster(n_workers=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        found = made.compute()
    assert document(found) == document(computed(graph()))


def test_a_trial_that_fails_is_not_tried_again_and_the_others_go_on() -> None:
    tried = []

    def train(params: dict[str, Any], context: Context) -> float:
        tried.append(context.number)
        return failing(params, context)

    found = computed(graph(train), "sync")
    assert sorted(tried) == list(range(12))
    failed = found.of("failed")
    assert [trial.number for trial in failed] == [1, 4, 7, 10]
    assert failed[0].error is not None
    assert failed[0].error.startswith("ValueError: no luck (test_graph.py, line ")


def test_where_all_fail_the_result_says_so() -> None:
    found = computed(graph(lambda params, context: 1 / 0))
    assert found.best is None
    assert {trial.state for trial in found.trials} == {"failed"}
    assert "trials failed, first trial 0 (ZeroDivisionError" in " ".join(found.warnings)


def test_an_optimiser_with_nothing_left_makes_fewer_trials() -> None:
    assert len(computed(graph(optimiser=Near(most=6))).trials) == 6


def test_it_stands_in_another_graph() -> None:
    best: Any = delayed(lambda found: found.best.params["x"])(graph())
    assert abs(best.compute(scheduler="threads") - 1.0) < 3.0
    both: Any = delayed(lambda one, other: document(one) == document(other))(graph(), graph())
    assert both.compute(scheduler="threads")


def test_checkpoints_of_two_graphs_do_not_meet(tmp_path: Path) -> None:
    for parallel in (4, 2):
        found = computed(graph(epochs, epochs=2, parallel=parallel, checkpoints=tmp_path))
        expected = computed(graph(epochs, epochs=2, parallel=parallel))
        assert document(found) == document(expected)
        assert all(trial.checkpoint is not None for trial in found.trials)


def test_a_call_works_a_trial_to_its_end() -> None:
    made = graph(epochs, epochs=50, rounds=1, parallel=1)
    (trial,) = computed(made).trials
    assert len(trial.rows) == 50


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rounds": 0}, "rounds is 0|n_trials is 0"),
        ({"parallel": 0}, "parallel is 0"),
        ({"optimiser": "optuna:tpr"}, "did you mean"),
        ({"epochs": 0}, "epochs is 0"),
    ],
)
def test_wrong_settings_get_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        graph(**options)
