"""Searches: the same trials whoever works them, and whenever they were stopped."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from math import nan
from pathlib import Path
from random import Random
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Client, LocalCluster

from hepdask_ml import CampaignError, InputError, Interrupted, search
from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.errors import HepdaskError
from hepdask_ml.hpo.optimisers import Proposal
from hepdask_ml.hpo.pruning import Median
from hepdask_ml.hpo.summary import result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hepdask_ml.campaign.campaign import Status
    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.hpo.campaign import Search
    from hepdask_ml.hpo.optimisers import Past
    from hepdask_ml.hpo.space import Space
    from hepdask_ml.hpo.summary import SearchResult
    from hepdask_ml.training.context import Context

SPACE: Mapping[str, Any] = {
    "x": {"type": "float", "low": -5, "high": 5},
    "kind": {"type": "choice", "values": ["a", "b"]},
}


@dataclass(frozen=True)
class Near:
    """Proposes points near the best one so far: what it proposes hangs on all that it was told."""

    name: str = "near"
    several: bool = True

    def propose(self, space: Space, past: Sequence[Past], n: int, seed: int) -> list[Proposal]:
        dice = Random(seed)
        ended = [trial for trial in past if trial.losses]
        middle = min(ended, key=lambda trial: trial.losses or ()).params["x"] if ended else 0.0
        width = 5.0 / (1 + len(past))
        return [
            Proposal(
                {
                    "x": min(max(middle + dice.uniform(-width, width), -5.0), 5.0),
                    "kind": dice.choice("ab"),
                },
                {"seen": len(ended)},
            )
            for _ in range(n)
        ]


def parabola(params: dict[str, Any], context: Context) -> float:
    return float((params["x"] - 1.0) ** 2 + (params["kind"] == "b"))


def epochs(params: dict[str, Any], context: Context) -> None:
    """Losses that fall with a speed of the trial's own."""
    for epoch in context.epochs(note=b"kept"):
        context.report(epoch, {"loss": parabola(params, context) + 10.0 / (1 + epoch)})


def failing(params: dict[str, Any], context: Context) -> float:
    if context.number % 3 == 1:
        raise ValueError("no luck")
    return parabola(params, context)


def prepared(train: Any = parabola, space: Any = SPACE, **options: Any) -> Search:
    settings: dict[str, Any] = {"optimiser": Near(), "n_trials": 12, "parallel": 4} | options
    return search(train, space, **settings)


def run(
    train: Any = parabola, space: Any = SPACE, threads: int = 1, **options: Any
) -> SearchResult:
    found: SearchResult = prepared(train, space, **options).run(threads=threads)
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


def interrupted_after(looks: int) -> Any:
    left = [looks]

    def watch(_: Ledger, __: Status) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    return watch


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "epochs": {"train": epochs, "epochs": 4},
    "halving": {"train": epochs, "epochs": 9, "pruning": "halving"},
    "median": {"train": epochs, "epochs": 10, "pruning": "median"},
    "segments": {"segments": [{"name": "barrel", "params": {"eta": 1}}, {"name": "endcap"}]},
    "failures": {"train": failing},
}


class TestTheSameTrials:
    @pytest.mark.parametrize("kind", KINDS)
    def test_for_any_number_of_threads(self, kind: str) -> None:
        expected = document(run(**KINDS[kind]))
        assert len(expected["trials"]) >= 12
        assert document(run(**KINDS[kind], threads=4)) == expected

    @pytest.mark.parametrize("kind", KINDS)
    def test_after_any_stop(self, kind: str, tmp_path: Path) -> None:
        """Each run is stopped a little later than the one before."""
        expected = document(run(**KINDS[kind]))
        path = tmp_path / "a.ledger"
        for events in range(1, 60):
            stopped = prepared(**KINDS[kind], ledger=path)
            stopped.strategy = Stopping(stopped.strategy, events)  # type: ignore[assignment]
            with suppress(KeyboardInterrupt):
                stopped.run()
                break
        else:
            raise AssertionError("it does not come to its end")
        assert events > 2
        with read_ledger(path) as ledger:
            assert document(result(ledger)) == expected
        again = prepared(**KINDS[kind], ledger=path)
        assert again.finished
        assert document(again.run()) == expected

    def test_with_other_seeds_there_are_others(self) -> None:
        one, other = run(), run(seed=2)
        assert {t.params["x"] for t in one.trials}.isdisjoint(t.params["x"] for t in other.trials)

    def test_when_more_are_asked_for_later(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ledger"
        for n in (4, 8, 12):
            found = run(ledger=path, n_trials=n)
            assert len(found.trials) == n
        assert document(found) == document(run())
        assert len(run(ledger=path, n_trials=2).trials) == 12, "trials are not thrown away"

    def test_rounds_stay_as_they_were_with_other_workers(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ledger"
        first = prepared(ledger=path, parallel=None, n_trials=6)
        first.run(threads=2)
        found = prepared(ledger=path, parallel=None).run(threads=4)
        assert document(found) == document(run(parallel=2))

    def test_in_the_background_and_stopped(self, tmp_path: Path) -> None:
        path, looked = tmp_path / "a.ledger", threading.Event()
        release = threading.Event()

        def waits(params: dict[str, Any], context: Context) -> float:
            if context.number > 4:
                assert release.wait(60)
            return parabola(params, context)

        running = prepared(waits, ledger=path).start(watch=lambda _, __: looked.set())
        assert looked.wait(60)
        release.set()
        running.stop()
        with suppress(Interrupted):
            running.result()
        assert document(run(ledger=path)) == document(run())


@dataclass
class Stopping:
    """A strategy in whose midst somebody presses Ctrl-C: after it has planned, or before."""

    strategy: Any
    left: int
    parallel: int | None = 4

    def plan(self, history: Any) -> Any:
        self.left -= 1
        if self.left <= 0:
            if self.left % 2:
                self.strategy.plan(history)
            raise KeyboardInterrupt
        return self.strategy.plan(history)


class TestAsynchronous:
    def test_every_trial_is_made(self) -> None:
        found = run(mode="async", threads=3, parallel=3)
        assert [trial.number for trial in found.trials] == list(range(12))
        assert {trial.state for trial in found.trials} == {"complete"}
        assert max(trial.round for trial in found.trials) >= 4

    def test_with_one_worker_it_is_the_same_after_a_stop(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"mode": "async", "parallel": 1}
        for looks in (0, 1):
            with suppress(KeyboardInterrupt):
                prepared(**options, ledger=tmp_path / "a").run(watch=interrupted_after(looks))
        assert document(run(**options, ledger=tmp_path / "a")) == document(run(**options))

    def test_with_halving(self) -> None:
        found = run(epochs, mode="async", threads=3, epochs=9, pruning="halving")
        states = {trial.state for trial in found.trials}
        assert states == {"complete", "pruned"}
        assert found.warnings == ()


class TestObjectives:
    def test_maximised(self) -> None:
        found = run(
            lambda params, context: -parabola(params, context), objectives={"loss": "maximise"}
        )
        best = found.best
        assert best is not None
        assert best.values["loss"] == max(trial.values["loss"] for trial in found.trials)
        assert [trial.params for trial in found.trials] == [trial.params for trial in run().trials]

    def test_several_with_constraints(self) -> None:
        def train(params: dict[str, Any], context: Context) -> dict[str, float]:
            x = params["x"]
            return {"loss": x**2, "time": (x - 1.0) ** 2, "memory": x - 0.5}

        campaign = prepared(
            train, objectives=["loss", "time"], constraints="memory", optimiser="optuna:nsga2"
        )
        found = campaign.run()
        assert found.front
        assert all(trial.params["x"] <= 0.5 for trial in found.front)
        assert campaign.front
        with pytest.raises(InputError, match="has 2 objectives, and no trial is the best in all"):
            _ = campaign.best

    def test_constraints_that_a_pruned_trial_never_gave(self) -> None:
        """They come with the end, which some trials do not see."""

        def train(params: dict[str, Any], context: Context) -> dict[str, float] | None:
            epochs(params, context)
            return {"memory": -1.0} if context.done == context.total else None

        found = run(
            train, constraints="memory", optimiser="optuna:tpe", epochs=4, pruning="halving"
        )
        assert len(found.trials) == 12
        assert {trial.state for trial in found.trials} == {"complete", "pruned"}

    def test_where_none_is_feasible_none_is_the_best(self) -> None:
        found = run(lambda params, context: {"loss": 1.0, "memory": 1.0}, constraints=["memory"])
        assert found.best is None
        assert "no trial satisfies the constraints" in found.warnings[0]

    def test_zero_is_a_loss(self) -> None:
        found = run(lambda params, context: 0.0, n_trials=2)
        assert found.best is not None
        assert found.best.values == {"loss": 0.0}


class TestSpaces:
    def test_conditional_parameters_are_there_where_they_count(self) -> None:
        space = {
            "opt": {"type": "choice", "values": ["adam", "sgd"]},
            "momentum": {"type": "float", "low": 0, "high": 1, "when": {"opt": "sgd"}},
        }

        def train(params: dict[str, Any], context: Context) -> float:
            assert ("momentum" in params) == (params["opt"] == "sgd")
            return float(params.get("momentum", 0.5))

        found = run(train, space, optimiser="optuna:tpe", n_trials=16)
        assert {trial.params["opt"] for trial in found.trials} == {"adam", "sgd"}

    def test_epochs_as_a_parameter(self) -> None:
        space = {**SPACE, "epochs": {"type": "int", "low": 1, "high": 3}}

        def train(params: dict[str, Any], context: Context) -> None:
            assert context.total == params["epochs"]
            epochs(params, context)

        found = run(train, space, epochs="epochs", optimiser="optuna:random")
        assert all(len(trial.rows) == trial.params["epochs"] for trial in found.trials)
        assert {trial.epochs for trial in found.trials} == {1, 2, 3}

    def test_where_nothing_varies_there_is_one_trial(self) -> None:
        found = run(
            lambda params, context: params["x"],
            {"x": 2.0},
            n_trials=None,
            optimiser="optuna:random",
        )
        assert [trial.params for trial in found.trials] == [{"x": 2.0}]

    def test_a_grid_ends_when_it_is_through(self) -> None:
        found = run(lambda params, context: params["x"], {"x": [1, 2, 3]}, optimiser="optuna:grid")
        assert sorted(trial.params["x"] for trial in found.trials) == [1, 2, 3]
        assert "3 of 12 trials were made" in found.warnings[0]


class TestSegments:
    def test_each_has_files_params_and_a_best_of_its_own(self, tmp_path: Path) -> None:
        for name in ("barrel", "endcap"):
            (tmp_path / name).write_text(name)
        seen: set[tuple[str, tuple[str, ...], Any]] = set()

        def train(params: dict[str, Any], context: Context) -> float:
            seen.add((context.segment, context.files, params.get("eta")))
            return parabola(params, context)

        campaign = prepared(
            train,
            segments=[
                {"name": "barrel", "files": [str(tmp_path / "barrel")], "params": {"eta": 1}},
                {"name": "endcap", "files": [str(tmp_path / "endcap")]},
            ],
        )
        found = campaign.run(threads=2)
        assert seen == {
            ("barrel", (str(tmp_path / "barrel"),), 1),
            ("endcap", (str(tmp_path / "endcap"),), None),
        }
        assert len(found.trials) == 24
        assert list(found.bests) == ["barrel", "endcap"]
        assert campaign.bests.keys() == found.bests.keys()
        with pytest.raises(InputError, match="has 2 segments, each with a best trial of its own"):
            _ = found.best
        assert all("eta" not in trial.params for trial in found.trials), "it is not searched"

    def test_spaces_and_optimisers_of_their_own(self) -> None:
        found = run(
            lambda params, context: params["x"],
            [{"x": [1, 2, 3]}, {"x": [8, 9, 10]}],
            segments=[{"name": "a"}, {"name": "b"}],
            optimiser=dict.fromkeys("ab", Any_()),
            n_trials=4,
        )
        for segment, values in (("a", {1, 2, 3}), ("b", {8, 9, 10})):
            assert {t.params["x"] for t in found.trials if t.segment == segment} <= values

    def test_one_whose_files_are_missing_fails_with_a_sentence_and_the_others_go_on(self) -> None:
        found = run(segments=[{"name": "barrel"}, {"name": "endcap", "files": ["/none/a.root"]}])
        good = [trial for trial in found.trials if trial.segment == "barrel"]
        bad = [trial for trial in found.trials if trial.segment == "endcap"]
        assert [trial.state for trial in good] == ["complete"] * 12
        assert [trial.state for trial in bad] == ["failed"] * len(bad)
        assert len(bad) < 6, "it is not tried for ever"
        assert any(
            "no trial of segment endcap has come to an end (/none/a.root of segment endcap is not"
            in warning
            for warning in found.warnings
        )
        assert list(found.bests) == ["barrel"]


@dataclass(frozen=True)
class Any_:
    """Proposes any point of the space."""

    several: bool = False

    def propose(self, space: Space, past: Sequence[Past], n: int, seed: int) -> list[Proposal]:
        dice = Random(seed)
        return [Proposal(space.from_unit([dice.random() for _ in space.free])) for _ in range(n)]


class TestFailures:
    def test_the_search_goes_on_and_says_so(self) -> None:
        tries: list[int] = []

        def train(params: dict[str, Any], context: Context) -> float:
            tries.append(context.number)
            return failing(params, context)

        found = run(train)
        failed = found.of("failed")
        assert [trial.number for trial in failed] == [1, 4, 7, 10]
        assert [tries.count(number) for number in (0, 1, 4)] == [1, 3, 3]
        assert failed[0].error is not None
        assert failed[0].error.startswith("ValueError: no luck (test_search.py, line ")
        assert found.warnings[0].startswith("4 of 12 trials failed, first trial 1 (ValueError: no")
        assert found.best is not None

    def test_they_stay_failed_unless_they_are_to_be_tried_again(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ledger"
        run(failing, ledger=path)
        assert len(run(parabola, ledger=path).of("failed")) == 4
        again = prepared(parabola, ledger=path, retry_failed=True)
        assert not again.finished
        found = again.run()
        assert found.of("failed") == []
        assert len(found.trials) == 12
        assert again.finished

    def test_what_fails_again_stays_a_result(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ledger"
        run(failing, ledger=path)
        assert len(run(failing, ledger=path, retry_failed=True).of("failed")) == 4

    def test_where_all_fail_it_ends_soon_and_can_be_taken_up(self, tmp_path: Path) -> None:
        def train(params: dict[str, Any], context: Context) -> float:
            raise ValueError("no data")

        path = tmp_path / "a.ledger"
        with pytest.raises(CampaignError) as told:
            run(train, ledger=path)
        assert str(told.value).startswith(
            "no trial of 4 has come to an end, trial 0 with (ValueError: no data (test_search.py"
        )
        assert str(told.value).endswith("try the failed ones again with retry_failed")
        assert len(run(ledger=path, retry_failed=True).of("complete")) == 12

    def test_nan_is_a_failure_of_the_trial(self) -> None:
        found = run(lambda p, context: nan if context.number == 1 else parabola(p, context))
        (failed,) = found.of("failed")
        assert (failed.number, failed.error) == (1, "loss is nan")
        assert len(found.trials) == 12

    @pytest.mark.parametrize("at", range(4))
    def test_nan_in_an_epoch_ends_a_trial_also_just_before_a_decision(self, at: int) -> None:
        def train(params: dict[str, Any], context: Context) -> None:
            for epoch in context.epochs():
                bad = context.number == 2 and epoch == at
                context.report(epoch, nan if bad else context.number)

        found = run(train, epochs=9, pruning=Median(startup=99), n_trials=4)
        (failed,) = found.of("failed")
        assert (failed.number, failed.error, len(failed.rows)) == (2, "loss is nan", at + 1)

    def test_a_script_that_exits_fails_alone(self) -> None:
        def train(params: dict[str, Any], context: Context) -> float:
            return sys.exit(2) if context.number == 0 else 1.0

        found = run(train, n_trials=4, threads=2)
        assert [trial.number for trial in found.of("failed")] == [0]


class TestWarmStart:
    def test_it_learns_from_an_older_search(self, tmp_path: Path) -> None:
        path = tmp_path / "old.ledger"
        old = run(ledger=path)
        assert old.best is not None
        found = run(warm_start=path, ledger=tmp_path / "new.ledger")
        assert found.trials[0].attributes == {"seen": 12}
        assert abs(found.trials[0].params["x"] - old.best.params["x"]) < 5.0 / 13 + 1e-9
        assert [trial.number for trial in found.trials] == list(range(12))

    def test_with_one_objective_less_or_one_constraint_more_it_is_refused(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "old.ledger"
        run(ledger=path, n_trials=2)
        with pytest.raises(InputError, match="with the objectives loss: it cannot warm up this"):
            prepared(warm_start=path, objectives="auc")
        with pytest.raises(InputError, match="with the constraints none: it cannot warm up this"):
            prepared(warm_start=path, constraints="memory")
        with pytest.raises(InputError, match="has no trial that lies in this space and has a loss"):
            prepared(space={"y": [1, 2, 3]}, warm_start=path)


class TestCheckpoints:
    def test_those_of_the_best_alone_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ledger"
        found = run(epochs, epochs=2, ledger=path)
        assert found.best is not None
        (root,) = Path(f"{path}.checkpoints").iterdir()
        assert [each.name for each in root.iterdir()] == [found.best.key]

    def test_or_all(self, tmp_path: Path) -> None:
        run(epochs, epochs=2, checkpoints=tmp_path / "kept", keep="all")
        (root,) = (tmp_path / "kept").iterdir()
        assert len(list(root.iterdir())) == 12

    @pytest.mark.parametrize("kept", ["in memory", "ledger", "folder"])
    def test_the_best_can_be_loaded(self, kept: str, tmp_path: Path) -> None:
        options: dict[str, Any] = {
            "in memory": {},
            "ledger": {"ledger": tmp_path / "a.ledger"},
            "folder": {"checkpoints": tmp_path / "kept"},
        }[kept]
        campaign = prepared(epochs, epochs=2, **options)
        found = campaign.run()
        assert found.best is not None
        assert campaign.load(found.best) == {"note": b"kept"}
        with pytest.raises(HepdaskError):
            campaign.load(found.trials[-1] if found.best.number == 0 else found.trials[0])

    def test_what_saved_nothing_gets_a_sentence(self) -> None:
        campaign = prepared(n_trials=1)
        found = campaign.run()
        with pytest.raises(InputError, match="trial 0 has saved no checkpoint: save one when"):
            campaign.load(found.trials[0])

    def test_pruned_and_promoted(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ledger"
        campaign = prepared(epochs, epochs=9, pruning="halving", ledger=path)
        found = campaign.run(threads=3)
        assert all(
            [row.epoch for row in trial.rows] == list(range(trial.epochs)) for trial in found.trials
        )
        assert found.best is not None
        assert found.best.epochs == 9
        assert campaign.load(found.best)


class TestIdentity:
    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"seed": 2}, "seed 1, not 2"),
            ({"optimiser": "optuna:random"}, "optimiser near, not optuna:random"),
            ({"objectives": "auc"}, "objectives"),
            ({"constraints": "memory"}, "constraints"),
            ({"epochs": 2}, "epochs 1, not 2"),
            ({"epochs": 3, "pruning": "halving"}, "epochs 1, not 3"),
            ({"mode": "async"}, "mode rounds, not async"),
            ({"space": {**SPACE, "y": 1}}, "space"),
            ({"segments": [{"name": "a"}]}, "segments|space"),
        ],
    )
    def test_another_search_is_refused(
        self, options: dict[str, Any], sentence: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "a.ledger"
        run(ledger=path, n_trials=2)
        with pytest.raises(InputError, match=sentence) as refused:
            run(ledger=path, **options)
        assert "\n" not in str(refused.value)

    def test_a_pruner_of_ones_own_is_the_same_in_the_next_process(self, tmp_path: Path) -> None:
        class Mine:
            by_round = True

            def rungs(self, epochs: int) -> tuple[int, ...]:
                return (1,)

            def kept(self, losses: Mapping[int, float], numbers: set[int]) -> set[int]:
                return {number for number in numbers if number % 2}

        path = tmp_path / "a.ledger"
        for _ in range(2):
            found = run(epochs, epochs=2, pruning=Mine(), ledger=path)
        assert [trial.epochs for trial in found.trials] == [1, 2] * 6

    def test_other_ledgers_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("something else\n" * 100)
        with pytest.raises(InputError):
            run(ledger=tmp_path / "a")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"train": None}, r"the objective is None: give a function train\(params, context\)"),
    ({"space": None}, "there is no space for the optimiser near: say what may vary"),
    ({"space": {}}, "the space is empty"),
    ({"space": [SPACE]}, "a list of spaces is for segments: give one space, or segments"),
    ({"optimiser": "optuna:tpr"}, '"optuna:tpr" is no optimiser: did you mean "optuna:tpe"'),
    ({"optimiser": None}, "the optimiser is None: give the name of one, such as skopt:gp"),
    ({"optimiser": {}}, "give the name of one, .* or one for each segment"),
    ({"n_trials": 0}, "n_trials is 0: it must be a whole number from 1 on"),
    ({"n_trials": 2.0}, "n_trials is 2.0"),
    ({"parallel": True}, "parallel is True"),
    ({"epochs": 0}, "epochs is 0"),
    ({"epochs": "n"}, 'epochs is "n", which is no parameter of the space'),
    ({"epochs": "x"}, "x holds the epochs: let it have whole numbers from 1 on, without when"),
    ({"epochs": "kind"}, "kind holds the epochs"),
    ({"space": {**SPACE, "n": 0}, "epochs": "n"}, "n holds the epochs"),
    ({"objectives": {"loss": "smaller"}}, "objectives.loss is 'smaller': give minimise or max"),
    ({"objectives": {"loss": ["minimise"]}}, "objectives.loss is"),
    ({"objectives": [1]}, r"objectives is \[1\]: give a name, or a list of names"),
    ({"objectives": []}, "objectives and constraints are none: give at least one objective"),
    ({"objectives": ["a", "a"]}, "are a, a: give at least one objective, and each name once"),
    ({"constraints": "loss"}, "are loss, loss: give"),
    ({"constraints": 3}, "constraints is 3: give a name, or a list of names"),
    ({"mode": "round"}, "mode is 'round': did you mean \"rounds\""),
    ({"keep": "none"}, "keep is 'none': choose from best, all"),
    ({"pruning": "meidan", "epochs": 4}, 'pruning is "meidan", .*: did you mean "median"'),
    ({"pruning": 3, "epochs": 4}, "pruning is 3: give median, halving, or an object that prunes"),
    ({"pruning": "median"}, "trials of one epoch cannot be pruned: give epochs"),
    (
        {"pruning": "median", "epochs": 4, "objectives": ["a", "b"]},
        "trials with several objectives cannot be pruned: leave pruning out",
    ),
    (
        {"optimiser": Near(several=False), "objectives": ["a", "b"]},
        "the optimiser near takes one objective, and there are 2: choose optuna:tpe or",
    ),
    ({"seed": 1.5}, "seed is 1.5: it must be a whole number"),
    ({"block_s": -1}, "block_s is -1: it must be a number of seconds"),
    ({"interval_s": nan}, "interval_s is nan"),
    ({"gang": 0}, "gang is 0"),
    ({"follow": ["csw:x"]}, '"csw:x" is nobody who could follow a search: did you mean "csv"'),
    ({"segments": []}, "the segments are"),
    ({"segments": [{"name": "a"}, {"name": "a"}]}, "rename one"),
    ({"space": [SPACE], "segments": [{"name": "a"}, {"name": "b"}]}, "1 spaces for 2 segments"),
    ({"segments": [{"name": "a", "params": {"x": 1}}]}, "x is searched, and segment a has it in"),
    ({"segments": [{"name": ".."}]}, "it must be fit for the name of a file"),
    ({"warm_start": "/none/a.ledger"}, "/none/a.ledger is not there: give the file of a ledger"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG, ids=[str(each[0])[:40] for each in WRONG])
def test_wrong_settings_get_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as told:
        prepared(**options)
    assert "\n" not in str(told.value)


def test_what_was_not_run_has_nothing_to_say(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match=r"was not run yet: call run\(\) or start\(\)"):
        _ = prepared().best
    with pytest.raises(InputError, match="is not there"):
        _ = prepared(ledger=tmp_path / "a.ledger").best


def test_an_optimiser_that_proposes_nothing_gets_a_sentence() -> None:
    class Silent:
        several = True

        def propose(self, space: Space, past: Sequence[Past], n: int, seed: int) -> list[Proposal]:
            return []

    with pytest.raises(CampaignError, match="has proposed no trial: choose another one"):
        run(optimiser=Silent())


def test_a_search_may_be_run_again_and_without_its_ledger_anew(tmp_path: Path) -> None:
    for options in ({}, {"ledger": tmp_path / "a.ledger"}):
        campaign = prepared(epochs, epochs=2, **options)
        first = campaign.run()
        assert campaign.run().to_json() == first.to_json()
    (tmp_path / "a.ledger").unlink()
    assert document(campaign.run()) == document(first)


def test_checkpoints_that_were_removed_get_a_sentence(tmp_path: Path) -> None:
    campaign = prepared(epochs, epochs=2, ledger=tmp_path / "a.ledger")
    best = campaign.run().best
    rmtree(tmp_path / "a.ledger.checkpoints")
    assert best is not None
    with pytest.raises(HepdaskError, match="it was removed, or the trial is another"):
        campaign.load(best)


def test_of_several_objectives_the_front_is_kept(tmp_path: Path) -> None:
    def train(params: dict[str, Any], context: Context) -> None:
        for epoch in context.epochs():
            context.report(epoch, {"a": params["x"] ** 2, "b": (params["x"] - 1.0) ** 2})

    path = tmp_path / "a.ledger"
    found = run(train, epochs=2, objectives=["a", "b"], ledger=path)
    (root,) = Path(f"{path}.checkpoints").iterdir()
    assert {each.name for each in root.iterdir()} == {trial.key for trial in found.front}


def test_every_thing_may_be_asked_of_a_search_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    campaign = prepared(ledger=path)
    seen = []

    def watch(_: Ledger, __: Status) -> None:
        seen.append(result(_))

    campaign.run(watch=watch)
    assert len(seen[-1].trials) == 12
    assert campaign.best is not None
    assert campaign.results().best is not None
    assert len(campaign.results().trials) == 12
    assert json.dumps(campaign.results().to_json())


def test_facts_are_those_of_the_newest_run(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    run(ledger=path, n_trials=2)
    run(ledger=path, n_trials=3)
    with read_ledger(path) as ledger:
        assert ledger.identity.kind == "search"
        assert ledger.facts["n_trials"] == 3
        assert ledger.facts["objectives"] == [["loss", False]]
        assert result(ledger).spaces[""] is not None


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2,
        threads_per_worker=2,
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster


class TestOnDask:
    """Objectives are lambdas here: such as stand in a notebook, and travel by value."""

    def test_the_trials_are_the_same(self, cluster: LocalCluster, tmp_path: Path) -> None:
        path = tmp_path / "a.ledger"
        with Client(cluster) as client:  # type: ignore[no-untyped-call]
            campaign = prepared(
                lambda params, context: (params["x"] - 1.0) ** 2 + (params["kind"] == "b"),
                ledger=path,
            )
            found = campaign.run(client)
        assert document(found) == document(run())

    def test_an_asynchronous_client_is_awaited(self, cluster: LocalCluster) -> None:
        async def run_it() -> SearchResult:
            address = cluster.scheduler_address
            async with Client(address, asynchronous=True) as client:  # type: ignore[no-untyped-call]
                campaign = prepared(lambda params, context: params["x"] ** 2, parallel=None)
                found: SearchResult = await campaign.run(client)
                return found

        found = asyncio.run(run_it())
        assert len(found.trials) == 12
        assert max(trial.round for trial in found.trials) == 3  # four threads

    def test_a_script_that_exits_does_not_take_its_worker_along(
        self, cluster: LocalCluster
    ) -> None:
        with Client(cluster) as client:  # type: ignore[no-untyped-call]
            found = prepared(
                lambda params, context: sys.exit(2) if context.number == 0 else 1.0, n_trials=4
            ).run(client)
        assert [trial.number for trial in found.of("failed")] == [0]

    def test_an_objective_of_main_travels(self, cluster: LocalCluster) -> None:
        script = f"""
if __name__ == "__main__":
    from distributed import Client
    from hepdask_ml import search

    def loss(params, context):
        return scale * params["x"] ** 2

    scale = 2.0
    with Client("{cluster.scheduler_address}") as client:
        found = search(loss, {{"x": {{"type": "float", "low": -1, "high": 1}}}}, n_trials=3,
                       optimiser="optuna:random").run(client)
    print(len(found.trials), found.best.values["loss"] == 2.0 * found.best.params["x"] ** 2)
"""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert done.stdout == "3 True\n", done.stderr
