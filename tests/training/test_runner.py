"""How a trial is worked: what its objective did becomes a result, or an error in a sentence."""

from __future__ import annotations

import json
import random
import sys
from copy import deepcopy
from dataclasses import replace
from math import inf, isnan, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hepdask_ml.campaign.unit import Block, Done
from hepdask_ml.errors import HepdaskError, InputError, WorkerFault
from hepdask_ml.training.checkpoint import Checkpoints
from hepdask_ml.training.runner import TrialRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from hepdask_ml.training.context import Context


def block(
    start: int = 0, stop: int = 3, epochs: int = 3, segment: str = "", **params: Any
) -> Block:
    spec = {"number": 0, "segment": segment, "params": params, "epochs": epochs}
    return Block("trial-0000", spec, start, stop, "token")


def run(
    train: Callable[[dict[str, Any], Context], Any], given: Block | None = None, **options: Any
) -> tuple[int, dict[str, Any]]:
    """Work a block; give what was reached, and the result."""
    enough = options.pop("enough", lambda: False)
    done = TrialRunner(train, **options).run(given or block(), enough)
    return done.reached, json.loads(done.result) if done.result else {}


def reports(params: Mapping[str, Any], context: Context) -> None:
    for epoch in context.epochs(kept=b"something"):
        context.report(epoch, {"loss": 1.0 / (1 + epoch)}, samples=10)


class TestValues:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (0.0, {"loss": 0.0}),
            (3, {"loss": 3.0}),
            ({"loss": 1, "auc": 0.5}, {"loss": 1.0, "auc": 0.5}),
            ((2.0,), {"loss": 2.0}),
        ],
    )
    def test_what_is_returned(self, value: Any, expected: dict[str, float]) -> None:
        reached, result = run(lambda params, context: value)
        assert reached == 3
        assert (result["value"], result["rows"], result["finished"]) == (expected, [], True)

    def test_what_was_reported_last_counts_where_nothing_is_returned(self) -> None:
        reached, result = run(reports)
        assert reached == 3
        assert [row[1]["loss"] for row in result["rows"]] == [1.0, 0.5, 1.0 / 3.0]
        assert [row[3] for row in result["rows"]] == [10, 10, 10]
        assert (result["value"], result["finished"]) == (None, False)
        assert result["seconds"] >= sum(row[2] for row in result["rows"]) - 1e-5

    def test_what_is_returned_may_complete_what_was_reported(self) -> None:
        def train(params: dict[str, Any], context: Context) -> dict[str, float]:
            reports(params, context)
            return {"memory": 3.0}

        assert run(train)[1]["value"] == {"memory": 3.0}

    def test_who_ends_before_its_epochs_is_finished(self) -> None:
        def train(params: dict[str, Any], context: Context) -> None:
            context.report(0, 0.5)

        reached, result = run(train)
        assert reached == 3
        assert (len(result["rows"]), result["finished"]) == (1, True)

    def test_who_never_stops_is_stopped(self) -> None:
        def train(params: dict[str, Any], context: Context) -> float:
            for epoch in range(10**9):
                context.report(epoch, 0.5)
            return 7.0

        reached, result = run(train, block(stop=2))
        assert (reached, len(result["rows"]), result["value"]) == (2, 2, None)

    @pytest.mark.parametrize("bad", [nan, inf])
    @pytest.mark.parametrize("at", [0, 1, 2])
    def test_a_loss_that_is_not_finite_ends_it_wherever_it_comes(self, bad: float, at: int) -> None:
        def train(params: dict[str, Any], context: Context) -> None:
            for epoch in context.epochs():
                context.report(epoch, bad if epoch == at else 1.0)

        for stop in range(at + 1, 4):  # in the midst, and just before a decision
            reached, result = run(train, block(stop=stop))
            assert (reached, len(result["rows"]), result["finished"]) == (stop, at + 1, True)
            assert result["rows"][-1][1]["loss"] != 1.0

    def test_numbers_of_numpy_are_taken(self) -> None:
        def train(params: dict[str, Any], context: Context) -> None:
            epochs: Any = np.arange(3)
            for epoch in epochs:
                context.report(epoch, {"loss": np.float32(0.5)}, samples=epoch + 7)

        _, result = run(train)
        assert [row[:2] + row[3:] for row in result["rows"]] == [
            [epoch, {"loss": 0.5}, epoch + 7] for epoch in range(3)
        ]

    def test_nan_survives(self) -> None:
        _, result = run(lambda params, context: nan)
        assert isnan(result["value"]["loss"])


class TestParameters:
    def test_those_of_the_segment_come_along_and_are_the_trials_own(self, tmp_path: Path) -> None:
        file = tmp_path / "a.root"
        file.touch()
        seen = []

        def train(params: dict[str, Any], context: Context) -> float:
            seen.append((deepcopy(params), context.files, context.segment))
            params["x"].append("changed")
            return 0.0

        given = block(segment="barrel", x=[1])
        options: dict[str, Any] = {
            "inputs": {"barrel": (str(file), "s3://bucket/b.root")},
            "fixed": {"barrel": {"eta": 0.5}},
        }
        run(train, given, **options)
        run(train, given, **options)
        files = (str(file), "s3://bucket/b.root")
        assert seen == [({"eta": 0.5, "x": [1]}, files, "barrel")] * 2

    def test_files_that_are_missing_get_a_sentence_before_anything_is_called(self) -> None:
        with pytest.raises(InputError, match=r"^/none/a of segment barrel is not there: see"):
            run(reports, block(segment="barrel"), inputs={"barrel": ("/none/a",)})

    def test_seeds_belong_to_the_trial(self) -> None:
        def train(params: dict[str, Any], context: Context) -> dict[str, float]:
            return {"loss": context.seed, "drawn": random.random()}

        one = run(train)[1]["value"]
        assert run(train)[1]["value"] == one
        assert run(train, seed=2)[1]["value"]["loss"] != one["loss"]
        other = run(train, replace(block(), key="trial-0001"))[1]["value"]
        assert other["loss"] != one["loss"]
        assert other["drawn"] != one["drawn"]
        assert 0 <= one["loss"] < 2**32

    def test_the_random_numbers_of_the_process_go_on_as_if_nothing_was(self) -> None:
        random.seed(5)
        expected = random.random()
        random.seed(5)
        run(lambda params, context: random.random())
        assert random.random() == expected


class TestStops:
    def test_a_worker_without_time_gets_nothing(self) -> None:
        assert TrialRunner(reports).run(block(start=1), lambda: True) == Done(1, b"")

    def test_who_stops_early_goes_on_later(self, tmp_path: Path) -> None:
        looks = iter([False, False, False])
        reached, result = run(reports, checkpoints=str(tmp_path), enough=lambda: next(looks, True))
        assert 0 < reached < 3
        assert len(result["rows"]) == reached
        assert (result["finished"], result["value"]) == (False, None)
        assert result["checkpoint"] is not None
        rest, more = run(reports, block(start=reached), checkpoints=str(tmp_path))
        assert rest == 3
        assert [row[0] for row in more["rows"]] == list(range(reached, 3))

    def test_who_stops_before_its_first_epoch_has_done_nothing(self) -> None:
        def train(params: dict[str, Any], context: Context) -> None:
            assert not context.should_stop or context.stopped

        looks = iter([False])
        done = TrialRunner(train).run(block(), lambda: next(looks, True))
        assert done == Done(0, b"")

    def test_a_value_counts_although_it_was_told_to_stop(self) -> None:
        def train(params: dict[str, Any], context: Context) -> float:
            assert context.should_stop
            return 0.5

        looks = iter([False])
        reached, result = run(train, enough=lambda: next(looks, True))
        assert (reached, result["value"]) == (3, {"loss": 0.5})

    def test_a_call_ends_when_its_time_is_up(self, tmp_path: Path) -> None:
        at, calls = 0, 0
        while at < 3:
            at, result = run(reports, block(start=at), checkpoints=str(tmp_path), block_s=0.0)
            calls += 1
            assert len(result["rows"]) == 1
        assert calls == 3

    def test_a_lost_block_costs_no_epoch_that_is_in_a_checkpoint(self, tmp_path: Path) -> None:
        trained = []

        def train(params: dict[str, Any], context: Context) -> None:
            for epoch in context.epochs():
                trained.append(epoch)
                context.report(epoch, 1.0)

        first = run(train, checkpoints=str(tmp_path))  # its result is lost
        again = run(train, checkpoints=str(tmp_path))
        assert trained == [0, 1, 2]
        assert [row[:2] for row in again[1]["rows"]] == [row[:2] for row in first[1]["rows"]]

    def test_a_promoted_trial_goes_on_from_its_checkpoint(self, tmp_path: Path) -> None:
        _, first = run(reports, block(stop=1), checkpoints=str(tmp_path))
        reached, second = run(reports, block(start=1, stop=3), checkpoints=str(tmp_path))
        assert reached == 3
        assert [row[0] for row in first["rows"] + second["rows"]] == [0, 1, 2]

    def test_what_is_damaged_is_noted(self, tmp_path: Path) -> None:
        run(reports, block(stop=1), checkpoints=str(tmp_path))
        run(reports, block(start=1, stop=2), checkpoints=str(tmp_path))
        kept = Checkpoints(tmp_path / "trial-0000")
        newest = kept.load()
        assert newest is not None
        (file,) = (tmp_path / "trial-0000").glob(f"{newest.reference}*")
        file.write_bytes(file.read_bytes()[:100])
        reached, result = run(reports, block(start=2, stop=3), checkpoints=str(tmp_path))
        assert reached == 3
        assert [row[0] for row in result["rows"]] == [2]
        (note,) = result["notes"]
        assert note.startswith("the checkpoint of epoch 2 in ")


def _raises(error: BaseException) -> Callable[..., None]:
    def train(params: dict[str, Any], context: Context) -> None:
        raise error

    return train


class TestErrors:
    def test_the_line_of_the_objective_is_told(self) -> None:
        with pytest.raises(HepdaskError, match=r"^ValueError: no luck \(test_runner.py, line \d+"):
            run(_raises(ValueError("no\n luck.")))

    def test_sentences_of_ours_stay_as_they_are(self) -> None:
        with pytest.raises(InputError, match=r"^give more$"):
            run(_raises(InputError("give more")))

    def test_a_worker_that_is_of_no_use_is_told_apart(self) -> None:
        with pytest.raises(WorkerFault, match="no GPU"):
            run(_raises(WorkerFault("no GPU")))

    def test_ctrl_c_is_not_hidden(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(_raises(KeyboardInterrupt()))

    def test_a_script_that_exits_is_an_error_of_the_trial(self) -> None:
        with pytest.raises(HepdaskError, match=r"has called sys.exit\(3\): let it return"):
            run(lambda params, context: sys.exit(3))

    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            ("a", "loss is a str: it must be a number"),
            (None, r'the objective gives no "loss" \(nothing\): return it, or report it'),
            ({"auc": 1.0}, r'the objective gives no "loss" \(auc\)'),
            ((1.0, 2.0), "gives 2 numbers, and there are 1 objectives"),
        ],
    )
    def test_what_is_no_loss_gets_a_sentence(self, value: Any, sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            run(lambda params, context: value)

    def test_every_objective_is_needed(self) -> None:
        with pytest.raises(InputError, match='gives no "time" \\(loss\\)'):
            run(lambda params, context: {"loss": 1.0}, losses=("loss", "time"))

    def test_a_result_that_is_too_large_gets_a_sentence(self) -> None:
        def train(params: dict[str, Any], context: Context) -> None:
            context.report(0, {"loss": 1.0, **{f"weight {i}": 1.0 for i in range(80_000)}})

        with pytest.raises(InputError, match="1,048,576 are the most: report some numbers for"):
            run(train)

    def test_its_folder_is_gone_whatever_happens(self) -> None:
        folders = []

        def train(params: dict[str, Any], context: Context) -> None:
            folders.append(context.folder)
            raise ValueError

        with pytest.raises(HepdaskError):
            run(train)
        assert not folders[0].exists()
