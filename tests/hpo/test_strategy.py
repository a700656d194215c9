"""Which trials a search makes, and which go on; without workers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.campaign.unit import Record, Unit
from hepdask_ml.hpo.optimisers import Past, Proposal
from hepdask_ml.hpo.pruning import Halving, Median
from hepdask_ml.hpo.space import Space
from hepdask_ml.hpo.strategy import SearchStrategy, key_of, least_loss
from hepdask_ml.hpo.trials import Objective, Reader, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hepdask_ml.hpo.trials import Trial

SPACE = Space.read({"x": {"type": "float", "low": 0, "high": 1}})


@dataclass
class Remembering:
    """Proposes at random, and keeps what it was asked."""

    several: bool = True
    most: int = 10**6
    asked: list[tuple[Sequence[Past], int, int]] = field(default_factory=list)

    def propose(self, space: Space, past: Sequence[Past], n: int, seed: int) -> list[Proposal]:
        self.asked.append((past, n, seed))
        dice = Random(seed)
        left = max(self.most - sum(trial.number >= 0 for trial in past), 0)
        return [Proposal({"x": dice.random()}, {"seed": seed}) for _ in range(min(n, left))]


@dataclass
class Book:
    """A history that is worked by hand."""

    units: dict[str, Unit] = field(default_factory=dict)
    blocks: dict[str, list[tuple[int, int, bytes]]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def records(self) -> list[Record]:
        return [
            Record(unit, 1, self.done(key), self.errors.get(key))
            for key, unit in self.units.items()
        ]

    def results(self, key: str, seed: int | None = None) -> list[tuple[int, int, bytes]]:
        return self.blocks.get(key, [])

    def done(self, key: str) -> int:
        return max((stop for _, stop, _ in self.blocks.get(key, [])), default=0)

    def add(self, units: Sequence[Unit]) -> list[Unit]:
        for unit in units:
            known = self.units.get(unit.key)
            assert known is None or (known.spec == unit.spec and known.total < unit.total)
            self.units[unit.key] = unit
        return list(units)

    def work(self, unit: Unit | str, loss: Callable[[int], float], **more: Any) -> None:
        unit = self.units[unit if isinstance(unit, str) else unit.key]
        start = self.done(unit.key)
        rows = [[epoch, {"loss": loss(epoch)}, 0.1, None] for epoch in range(start, unit.total)]
        document = {
            "rows": rows, "value": None, "finished": False, "checkpoint": None, "notes": [],
            "device": "", "memory_mb": None, "seconds": 0.1, **more,
        }  # fmt: skip
        block = start, unit.total, json.dumps(document).encode()
        self.blocks.setdefault(unit.key, []).append(block)

    def trials(self, segment: str = "") -> list[Trial]:
        return Reader((Objective("loss"),)).read(self)[segment]


def strategy(optimiser: Remembering | None = None, **options: Any) -> SearchStrategy:
    settings: dict[str, Any] = {
        "spaces": {"": SPACE}, "n_trials": 10, "objectives": (Objective("loss"),), "parallel": 4,
    }  # fmt: skip
    settings |= options
    proposer = Remembering() if optimiser is None else optimiser
    return SearchStrategy(optimisers=dict.fromkeys(settings["spaces"], proposer), **settings)


def numbers(units: Sequence[Unit]) -> list[int]:
    return [unit.spec["number"] for unit in units]


def by_number(unit: Unit) -> Callable[[int], float]:
    return lambda epoch: float(unit.spec["number"])


class TestRounds:
    def test_a_round_has_as_many_trials_as_run_at_once_and_the_last_one_the_rest(self) -> None:
        book, plan = Book(), strategy().plan
        for expected in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9], []):
            new = book.add(plan(book))
            assert numbers(new) == expected
            assert {unit.spec["round"] for unit in new} <= {len(book.units) // 4 + 1, 1, 2, 3}
            for unit in new:
                book.work(unit, by_number(unit))

    def test_the_next_one_waits_for_all_trials_of_a_round(self) -> None:
        book, plan = Book(), strategy().plan
        first = book.add(plan(book))
        for unit in first[:3]:
            book.work(unit, by_number(unit))
            assert plan(book) == []
        book.errors[first[3].key] = "no memory"
        assert numbers(plan(book)) == [4, 5, 6, 7]

    def test_the_optimiser_is_told_everything(self) -> None:
        remembering = Remembering()
        book, plan = Book(), strategy(remembering, n_trials=8).plan
        units = book.add(plan(book))
        for unit in units[:3]:
            book.work(unit, by_number(unit))
        book.errors[units[3].key] = "no memory"
        plan(book)
        past, n, seed = remembering.asked[-1]
        assert n == 4
        assert [trial.losses for trial in past] == [(0.0,), (1.0,), (2.0,), None]
        assert [trial.failed for trial in past] == [False, False, False, True]
        assert [trial.attributes for trial in past] == [unit.spec["attributes"] for unit in units]
        assert seed != remembering.asked[0][2]

    @given(st.permutations(range(4)))
    def test_the_order_of_the_work_does_not_matter(self, order: list[int]) -> None:
        book, plan = Book(), strategy().plan
        units = book.add(plan(book))
        for i in order:
            book.work(units[i], by_number(units[i]))
        straight = Book()
        for unit in straight.add(strategy().plan(straight)):
            straight.work(unit, by_number(unit))
        assert plan(book) == strategy().plan(straight)

    def test_an_older_search_keeps_its_rounds(self) -> None:
        book = Book()
        for unit in book.add(strategy().plan(book)):
            book.work(unit, by_number(unit))
        assert len(strategy(parallel=2).plan(book)) == 4

    def test_an_optimiser_with_nothing_left_to_try_ends_the_search(self) -> None:
        book, plan = Book(), strategy(Remembering(most=6)).plan
        for expected in (4, 2, 0):
            units = book.add(plan(book))
            assert len(units) == expected
            for unit in units:
                book.work(unit, by_number(unit))

    def test_more_trials_can_be_asked_for(self) -> None:
        book = Book()
        while units := book.add(strategy(n_trials=5).plan(book)):
            for unit in units:
                book.work(unit, by_number(unit))
        assert numbers(strategy(n_trials=7).plan(book)) == [5, 6]

    def test_where_all_fail_no_more_are_tried(self) -> None:
        book, plan = Book(), strategy().plan
        for unit in book.add(plan(book)):
            book.errors[unit.key] = "no such file"
        assert plan(book) == []


class TestAsynchronous:
    def test_a_trial_is_proposed_whenever_one_ends(self) -> None:
        book, plan = Book(), strategy(mode="async").plan
        units = book.add(plan(book))
        assert numbers(units) == [0, 1, 2, 3]
        assert plan(book) == []
        book.work(units[2], by_number(units[2]))
        assert numbers(book.add(plan(book))) == [4]

    def test_the_optimiser_hears_what_is_pending(self) -> None:
        remembering = Remembering()
        book, plan = Book(), strategy(remembering, mode="async").plan
        units = book.add(plan(book))
        book.work(units[2], by_number(units[2]))
        plan(book)
        assert [trial.pending for trial in remembering.asked[-1][0]] == [True, True, False, True]


class TestSegments:
    def test_each_has_trials_of_its_own(self) -> None:
        remembering = Remembering()
        plan = strategy(remembering, spaces={"barrel": SPACE, "endcap": SPACE}).plan
        book = Book()
        units = book.add(plan(book))
        assert [unit.key for unit in units] == [
            key_of(segment, number) for segment in ("barrel", "endcap") for number in (0, 1)
        ]
        for unit in units[:2]:
            book.work(unit, by_number(unit))
        assert [unit.spec["segment"] for unit in plan(book)] == ["barrel", "barrel"]
        assert len(remembering.asked[-1][0]) == 2

    def test_what_one_tries_does_not_depend_on_the_others(self) -> None:
        one, two = strategy(spaces={"a": SPACE}), strategy(spaces={"a": SPACE, "b": SPACE})
        one.parallel, two.parallel = 2, 4
        assert one.plan(Book()) == two.plan(Book())[:2]

    def test_many_are_searched_one_trial_at_a_time_each(self) -> None:
        spaces = {f"eta{i}": SPACE for i in range(300)}
        assert len(strategy(spaces=spaces).plan(Book())) == 300


class TestPruning:
    def test_halving_keeps_the_best_third_of_a_round_at_each_rung(self) -> None:
        book = Book()
        plan = strategy(pruner=Halving(), epochs=9, n_trials=9, parallel=9).plan
        units = book.add(plan(book))
        assert {unit.total for unit in units} == {1}
        for unit in units[:8]:
            book.work(unit, by_number(unit))
            assert plan(book) == []  # it waits for the whole round
        book.work(units[8], by_number(units[8]))
        grown = book.add(plan(book))
        assert [(unit.spec["number"], unit.total) for unit in grown] == [(0, 3), (1, 3), (2, 3)]
        assert plan(book) == []
        for unit in grown:
            book.work(unit, lambda epoch, unit=unit: -float(unit.spec["number"]))  # type: ignore[misc]
        assert [(unit.spec["number"], unit.total) for unit in book.add(plan(book))] == [(2, 9)]
        book.work("trial-0002", lambda epoch: 1.0)
        assert plan(book) == []
        states = [trial.state for trial in settled(book.trials(), "rounds")]
        assert states == ["pruned"] * 2 + ["complete"] + ["pruned"] * 6

    def test_the_median_compares_with_earlier_rounds_alone(self) -> None:
        book, plan = Book(), strategy(pruner=Median(startup=3), epochs=20, parallel=4).plan
        first = book.add(plan(book))
        assert {unit.total for unit in first} == {5}
        for unit in first:
            book.work(unit, by_number(unit))
            # Nobody was there before them: all go on, each as soon as it has come so far.
            assert [each.key for each in book.add(plan(book))] == [unit.key]
        while growing := [unit for unit in first if book.done(unit.key) < 20]:
            for unit in growing:
                if book.done(unit.key) < book.units[unit.key].total:
                    book.work(unit, by_number(unit))
            book.add(plan(book))
        second = [unit for unit in book.units.values() if unit.spec["round"] == 2]
        assert len(second) == 4
        for unit, loss in zip(second, (1.4, 1.5, 1.6, 9.0), strict=True):
            book.work(unit, lambda epoch, loss=loss: loss)  # type: ignore[misc]
        assert numbers(plan(book)) == [4, 5]  # the median is 1.5

    def test_a_trial_that_was_pruned_counts_with_its_last_loss(self) -> None:
        remembering = Remembering()
        made = strategy(remembering, pruner=Halving(), epochs=3, n_trials=6, parallel=3)
        book = Book()
        for unit in book.add(made.plan(book)):
            book.work(unit, by_number(unit))
        book.add(made.plan(book))
        book.work("trial-0000", lambda epoch: -5.0)
        assert numbers(made.plan(book)) == [3, 4, 5]
        assert [trial.losses for trial in remembering.asked[-1][0]] == [(-5.0,), (1.0,), (2.0,)]

    def test_asynchronous_halving_takes_up_what_waits_when_it_becomes_one_of_the_best(self) -> None:
        book = Book()
        made = strategy(pruner=Halving(), epochs=3, n_trials=30, mode="async", parallel=1)
        order = []
        for _ in range(4):
            (unit,) = book.add(made.plan(book))
            order.append((unit.spec["number"], unit.total))
            book.work(unit, by_number(unit))
        # The first one is the best third of one; three more have to come until there are two.
        assert order == [(0, 1), (0, 3), (1, 1), (2, 1)]

    def test_a_trial_that_ends_by_itself_is_complete(self) -> None:
        book, made = Book(), strategy(pruner=Halving(), epochs=9, parallel=1, n_trials=1)
        (unit,) = book.add(made.plan(book))
        book.work(unit, by_number(unit), finished=True)
        assert made.plan(book) == []
        assert [trial.state for trial in book.trials()] == ["complete"]

    @pytest.mark.parametrize("epochs", range(1, 30))
    @pytest.mark.parametrize("pruner", [Median(), Halving(), Halving(2)])
    def test_rungs_rise_and_end_before_the_last_epoch(self, pruner: Any, epochs: int) -> None:
        rungs = pruner.rungs(epochs)
        assert list(rungs) == sorted(set(rungs))
        assert all(0 < rung < epochs for rung in rungs)


class TestTrials:
    def test_a_loss_that_is_no_number_makes_a_trial_fail(self) -> None:
        book, made = Book(), strategy(parallel=2, n_trials=2)
        one, two = book.add(made.plan(book))
        book.work(one, lambda epoch: float("nan"))
        book.work(two, lambda epoch: 0.0)
        first, second = book.trials()
        assert (first.state, first.error) == ("failed", "loss is nan")
        assert (second.state, second.values) == ("complete", {"loss": 0.0})  # zero is a loss

    def test_the_least_loss_counts_at_a_rung(self) -> None:
        book, made = Book(), strategy(parallel=1, n_trials=1, epochs=4)
        (unit,) = book.add(made.plan(book))
        book.work(unit, lambda epoch: [3.0, 1.0, 2.0, 0.5][epoch])
        (trial,) = book.trials()
        found = [least_loss(trial, Objective("loss"), epochs) for epochs in (1, 2, 3, 4, 5)]
        assert found == [3.0, 1.0, 1.0, 0.5, None]

    def test_the_parameter_that_holds_the_epochs(self) -> None:
        space = Space.read({"x": [1], "epochs": 7})
        made = strategy(spaces={"": space}, epochs="epochs", parallel=1)
        made = replace(made, optimisers={"": _Fixed()})
        (unit,) = made.plan(Book())
        assert (unit.total, unit.spec["epochs"]) == (7, 7)


class _Fixed:
    several = True

    def propose(self, space: Space, past: Sequence[Past], n: int, seed: int) -> list[Proposal]:
        return [Proposal({"x": 1})]
