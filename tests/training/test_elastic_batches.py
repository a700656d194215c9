"""The parts of the ranks make up the batches of one process; these tests need no torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.errors import InputError
from hepdask_ml.training.checkpoint import Checkpoint
from hepdask_ml.training.rank import _packed, _unpacked
from hepdask_ml.training.ranks import ALONE, batches, seed_of

SEED = 3


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 8), st.integers(0, 5))
def test_weighted_parts_have_the_mean_of_the_whole_batch(
    n: int, batch: int, world: int, epoch: int
) -> None:
    loss = np.random.default_rng(1).exponential(size=n)
    whole = list(batches(n, batch, epoch, SEED))
    parts = [list(batches(n, batch, epoch, SEED, rank, world)) for rank in range(world)]
    assert {len(part) for part in parts} == {len(whole)}
    assert sorted(np.concatenate([indices for indices, _ in whole])) == list(range(n))
    for step, (indices, weight) in enumerate(whole):
        assert weight == 1.0
        here = [part[step] for part in parts]
        assert all(len(of_rank) for of_rank, _ in here)
        counted = [of_rank for of_rank, factor in here if factor]
        assert list(np.concatenate(counted)) == list(indices)
        mean = sum(factor * loss[of_rank].mean() for of_rank, factor in here) / world
        assert mean == pytest.approx(loss[indices].mean(), rel=1e-12)


def test_each_epoch_and_seed_has_its_order() -> None:
    orders = {
        tuple(np.concatenate([indices for indices, _ in batches(50, 7, epoch, seed)]))
        for epoch in range(3)
        for seed in range(3)
    }
    assert len(orders) == 9


@pytest.mark.parametrize(("n", "batch"), [(0, 4), (4, 0)])
def test_nothing_makes_no_batches(n: int, batch: int) -> None:
    with pytest.raises(InputError, match="give at least one of each"):
        next(batches(n, batch, 0, SEED))


def test_ranks_have_random_numbers_of_their_own() -> None:
    seeds = {seed_of(SEED, epoch, rank) for epoch in range(4) for rank in range(4)}
    assert len(seeds) == 16
    assert max(seeds) < 2**32


def test_alone_nothing_is_to_be_agreed_upon() -> None:
    found = Checkpoint(3, {}, "reference")
    assert ALONE.wrap(found) is found
    assert ALONE.checkpoint(lambda: found) is found
    assert ALONE.agree({"loss": 1.0}, True) == ({"loss": 1.0}, True)


@given(st.dictionaries(st.text(min_size=1), st.binary()), st.lists(st.text()))
def test_a_checkpoint_is_sent_whole(parts: dict[str, bytes], faults: list[str]) -> None:
    checkpoint = Checkpoint(7, parts, "reference", tuple(faults))
    assert _unpacked(_packed(checkpoint)) == checkpoint
