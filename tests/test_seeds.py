"""Streams are addressed by what they are for."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import control_region, two_bins

from hepdask_ml import compile_model
from hepdask_ml.inference.toys import ensemble, throw
from hepdask_ml.seeds import MICRO_BATCH, stream

if TYPE_CHECKING:
    from hepdask_ml import CompiledModel

MODELS = [compile_model(two_bins()), compile_model(control_region())]
TOYS = 3 * MICRO_BATCH + 7


@given(
    seed=st.integers(-(2**70), 2**70), name=st.text(max_size=20), micro_batch=st.integers(0, 2**40)
)
@settings(deadline=None, max_examples=50)
def test_a_stream_can_be_opened_again(seed: int, name: str, micro_batch: int) -> None:
    first, again = stream(seed, name, micro_batch), stream(seed, name, micro_batch)
    np.testing.assert_array_equal(first.random(10), again.random(10))


def test_streams_of_other_addresses_differ_and_are_uncorrelated() -> None:
    addresses = [(1, "a", 0), (1, "a", 1), (1, "b", 0), (2, "a", 0), (12, "a", 0), (1, "2a", 0)]
    draws = np.array([stream(*address).standard_normal(20_000) for address in addresses])
    correlations = np.corrcoef(draws)[np.triu_indices(len(addresses), 1)]
    # Fifteen correlations of width 1/sqrt(20,000): beyond five widths once in 1e5 choices of seeds.
    assert np.abs(correlations).max() < 5.0 / np.sqrt(20_000)


def test_the_toys_of_a_seed_stay_what_they_are() -> None:
    """A change of these numbers changes every published limit: it belongs in the changelog."""
    assert stream(1, "mu=1.0/b", 0).poisson(50.0, 4).tolist() == [57, 49, 49, 51]
    assert MICRO_BATCH == 512


@given(
    cuts=st.lists(st.integers(0, TOYS), max_size=6),
    seed=st.integers(0, 2**32),
    model=st.sampled_from(MODELS),
)
@settings(deadline=None, max_examples=40)
def test_pieces_of_a_unit_are_the_whole(cuts: list[int], seed: int, model: CompiledModel) -> None:
    background = ensemble(model, "mu=1.0/b", model.init)
    whole = throw(model, background, seed=seed, start=0, stop=TOYS)
    pieces = [
        throw(model, background, seed=seed, start=start, stop=stop)
        for start, stop in pairwise([0, *sorted(cuts), TOYS])
    ]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
