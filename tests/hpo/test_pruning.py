"""Which trials go on at a rung."""

from __future__ import annotations

from math import ceil, inf
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.pruning import PRUNERS, Halving, Median, pruner

LOSSES = st.dictionaries(
    st.integers(0, 50), st.sampled_from([0.0, 0.5, 1.0, 2.0, inf]) | st.floats(-5, 5), min_size=1
)


class TestHalving:
    @pytest.mark.parametrize(
        ("epochs", "rungs"),
        [(1, ()), (2, ()), (3, (1,)), (9, (1, 3)), (10, (1, 3)), (81, (1, 3, 9, 27))],
    )
    def test_rungs_are_parts_of_the_epochs(self, epochs: int, rungs: tuple[int, ...]) -> None:
        assert Halving().rungs(epochs) == rungs

    @given(LOSSES, st.integers(2, 5))
    def test_the_best_part_goes_on_of_equals_the_first(
        self, losses: dict[int, float], reduction: int
    ) -> None:
        kept = Halving(reduction).kept(losses, set(losses))
        assert len(kept) == ceil(len(losses) / reduction)
        for one in kept:
            for other in losses.keys() - kept:
                assert (losses[one], one) < (losses[other], other)

    @given(LOSSES, st.data())
    def test_only_those_who_ask_are_told(
        self, losses: dict[int, float], data: st.DataObject
    ) -> None:
        asked = data.draw(st.sets(st.sampled_from(sorted(losses))))
        assert Halving().kept(losses, asked) == asked & Halving().kept(losses, set(losses))

    @pytest.mark.parametrize("reduction", [1, 0, -3])
    def test_one_of_one_would_be_none(self, reduction: int) -> None:
        with pytest.raises(InputError, match=f"reduction is {reduction}: it must be 2 or more"):
            Halving(reduction)


class TestMedian:
    @pytest.mark.parametrize(
        ("epochs", "rungs"),
        [(1, ()), (2, (1,)), (3, (1, 2)), (4, (1, 2, 3)), (10, (3, 5, 8)), (25, (7, 13, 19))],
    )
    def test_rungs_are_quarters(self, epochs: int, rungs: tuple[int, ...]) -> None:
        assert Median().rungs(epochs) == rungs

    @given(LOSSES, st.integers(1, 6))
    def test_what_is_not_worse_than_the_median_of_the_others_goes_on(
        self, losses: dict[int, float], startup: int
    ) -> None:
        kept = Median(startup).kept(losses, set(losses))
        for number, loss in losses.items():
            others = [value for other, value in losses.items() if other != number]
            expected = len(others) < startup or loss <= median(others)
            assert (number in kept) == expected

    def test_somebody_has_to_have_come_before(self) -> None:
        with pytest.raises(InputError, match="startup is 0: it must be 1 or more"):
            Median(0)


class TestNames:
    @pytest.mark.parametrize("name", PRUNERS)
    def test_each_has_its_pruner(self, name: str) -> None:
        assert pruner(name) is PRUNERS[name]

    def test_none_is_none_and_ones_own_is_taken(self) -> None:
        mine = Halving(4)
        assert pruner(None) is None
        assert pruner(mine) is mine

    @pytest.mark.parametrize(
        ("asked", "sentence"),
        [
            ("halvin", 'pruning is "halvin", which is no way to prune: did you mean "halving"'),
            ("x", "choose from median, halving"),
            (3, "pruning is 3: give median, halving, or an object that prunes"),
        ],
    )
    def test_what_is_none_gets_a_sentence(self, asked: object, sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            pruner(asked)
