"""The best trials, the Pareto front and the sentences of a search."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, nan
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_search import found, trial

from hepdask_ml.campaign.ledger import Identity, open_ledger, read_ledger
from hepdask_ml.errors import CampaignError, InputError
from hepdask_ml.hpo.summary import SearchResult, result
from hepdask_ml.hpo.trials import Objective, settled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hepdask_ml.hpo.trials import Trial

TWO = (Objective("loss"), Objective("auc", maximise=True))


def made(
    trials: Sequence[Trial],
    objectives: Sequence[Objective] = (Objective("loss"),),
    segments: Sequence[str] = ("",),
    **more: Any,
) -> SearchResult:
    options: dict[str, Any] = {"constraints": (), "n_trials": len(trials), **more}
    return SearchResult(
        objectives=tuple(objectives),
        segments=tuple(segments),
        trials=tuple(trials),
        optimiser="optuna:tpe",
        spaces=dict.fromkeys(segments),
        seed=1,
        **options,
    )


class TestBest:
    def test_the_least_loss_of_equals_the_first(self) -> None:
        trials = [trial(i, {}, {"loss": loss}) for i, loss in enumerate([2.0, 1.0, 3.0, 1.0])]
        best = made(trials).best
        assert best is not None
        assert best.number == 1

    def test_the_largest_where_more_is_better(self) -> None:
        trials = [trial(i, {}, {"auc": auc}) for i, auc in enumerate([0.2, 0.9, 0.5])]
        best = made(trials, [Objective("auc", maximise=True)]).best
        assert best is not None
        assert best.number == 1

    @pytest.mark.parametrize("state", ["pruned", "failed", "running"])
    def test_it_is_complete(self, state: str) -> None:
        one = trial(0, {}, {"loss": 2.0})
        other = trial(1, {}, {"loss": 1.0}, state=state)
        assert made([one, other]).best is one
        assert made([other]).best is None

    @pytest.mark.parametrize(("value", "is_best"), [(-1.0, True), (0.0, True), (1e-9, False)])
    def test_it_violates_nothing(self, value: float, is_best: bool) -> None:
        one = trial(0, {}, {"loss": 2.0}, constraints={"a": -1.0, "b": -2.0})
        other = trial(1, {}, {"loss": 1.0}, constraints={"a": -1.0, "b": value})
        assert made([one, other]).best is (other if is_best else one)

    def test_each_segment_has_one(self) -> None:
        trials = [
            trial(0, {}, {"loss": 2.0}, segment="a"),
            trial(0, {}, {"loss": 1.0}, segment="c"),
        ]
        whole = made(trials, segments="abc")
        assert whole.bests == {"a": trials[0], "c": trials[1]}
        with pytest.raises(InputError, match="3 segments, each with a best trial of its own: take"):
            _ = whole.best

    def test_a_single_segment_needs_no_name(self) -> None:
        trials = [trial(0, {}, {"loss": 2.0}, segment="a")]
        assert made(trials, segments="a").best is trials[0]


numbers = st.sampled_from([0.0, 1.0, 2.0]) | st.floats(-3, 3)


class TestFront:
    @given(
        st.lists(
            st.tuples(numbers, numbers, st.sampled_from(["complete", "pruned"]), st.booleans()),
            max_size=12,
        )
    )
    def test_nobody_beats_those_on_it_and_somebody_all_others(
        self, drawn: list[tuple[float, float, str, bool]]
    ) -> None:
        trials = [
            trial(
                i, {}, {"loss": loss, "auc": auc}, state=state,
                constraints={"memory": -1.0 if feasible else 1.0},
            )
            for i, (loss, auc, state, feasible) in enumerate(drawn)
        ]  # fmt: skip
        front = {each.number for each in made(trials, TWO).front}
        counting = [
            (i, loss, -auc)
            for i, (loss, auc, state, feasible) in enumerate(drawn)
            if state == "complete" and feasible
        ]
        expected = {
            i
            for i, loss, cost in counting
            if not any(
                other <= loss and more <= cost and (other < loss or more < cost)
                for _, other, more in counting
            )
        }
        assert front == expected
        assert bool(front) == bool(counting)

    def test_segments_do_not_beat_each_other(self) -> None:
        trials = [
            trial(0, {}, {"loss": loss, "auc": 0.5}, segment=segment)
            for segment, loss in (("a", 1.0), ("b", 2.0))
        ]
        assert made(trials, TWO, "ab").front == tuple(trials)

    def test_with_one_objective_it_is_all_of_the_best(self) -> None:
        trials = [trial(i, {}, {"loss": loss}) for i, loss in enumerate([1.0, 2.0, 1.0])]
        assert [each.number for each in made(trials).front] == [0, 2]

    def test_there_is_no_best_one(self) -> None:
        with pytest.raises(InputError, match="has 2 objectives, and no trial is the best in all"):
            _ = made([], TWO).bests


class TestTable:
    def test_a_row_for_each_trial(self) -> None:
        pytest.importorskip("pandas")
        table = found(12, constraints=["memory"]).table()
        assert len(table) == 12
        assert list(table.columns[:4]) == ["number", "state", "loss", "memory"]
        assert list(table.columns[-3:]) == ["epochs", "seconds", "error"]
        assert "params.momentum" in table.columns
        assert table["params.momentum"].isna().any()  # it does not always count
        assert table.loc[5, "error"] == "loss is nan"

    def test_segments_have_a_column(self) -> None:
        pytest.importorskip("pandas")
        table = found(4, segments=["a", "b"], states={}).table()
        assert list(table["segment"]) == ["a"] * 4 + ["b"] * 4

    def test_an_empty_one(self) -> None:
        pytest.importorskip("pandas")
        assert len(made([]).table()) == 0


class TestJson:
    def test_it_is_plain(self) -> None:
        whole = found(12, constraints=["memory"])
        document = json.loads(json.dumps(whole.to_json(), allow_nan=False))
        assert document["objectives"] == [{"name": "loss", "direction": "minimise"}]
        assert whole.best is not None
        assert document["best"] == whole.best.number
        assert document["front"] is None
        assert len(document["trials"]) == 12

    def test_what_is_not_finite_is_none(self) -> None:
        for bad in (nan, inf, -inf):
            (written,) = made([trial(0, {}, {"loss": bad}, state="failed")]).to_json()["trials"]
            assert written["values"] == {"loss": None}
            assert written["rows"][0]["metrics"] == {"loss": None}

    def test_of_segments_and_of_several_objectives(self) -> None:
        trials = [trial(0, {}, {"loss": 1.0, "auc": 0.5}, segment=name) for name in "ab"]
        assert made(trials, segments="ab").to_json()["best"] == {"a": 0, "b": 0}
        document = made(trials, TWO, "ab").to_json()
        assert document["best"] is None
        assert document["front"] == [["a", 0], ["b", 0]]


class TestSettled:
    def waiting(self, number: int, round_: int, epochs: int = 2, planned: int = 2) -> Trial:
        one = trial(number, {}, {"loss": 1.0}, state="running", epochs=epochs)
        return replace(one, round=round_, unit=replace(one.unit, total=planned))

    def states(self, trials: Sequence[Trial], mode: str) -> list[str]:
        return [each.state for each in settled(trials, mode)]

    def test_what_waits_is_pruned_when_the_next_round_has_begun(self) -> None:
        trials = [self.waiting(0, 1), self.waiting(1, 2, epochs=1)]
        assert self.states(trials, "rounds") == ["pruned", "running"]
        assert self.states(trials, "async") == ["running", "running"]

    def test_or_when_nothing_goes_on(self) -> None:
        trials = [self.waiting(0, 1), trial(1, {}, {"loss": 1.0})]
        assert self.states(trials, "rounds") == ["pruned", "complete"]
        assert self.states(trials, "async") == ["pruned", "complete"]

    def test_in_its_own_round_it_waits(self) -> None:
        trials = [self.waiting(0, 1), self.waiting(1, 1, epochs=1)]
        assert self.states(trials, "rounds") == ["running", "running"]


def test_a_ledger_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    open_ledger(path, Identity("toy-limit", "", {}, "0.1", (1,))).close()
    with read_ledger(path) as ledger, pytest.raises(CampaignError, match="of the kind toy-limit"):
        result(ledger)


def test_trials_of_a_state() -> None:
    whole = found(12)
    assert [each.number for each in whole.of("failed")] == [5]
    assert [each.number for each in whole.of("running")] == [11]
