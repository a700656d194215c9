"""Keys follow from what their random numbers are for; toys do not depend on how they are cut."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import control_region, two_bins

from hepdask_ml import compile_model
from hepdask_ml.inference.toys import ensemble, throw
from hepdask_ml.seeds import key

if TYPE_CHECKING:
    from hepdask_ml import CompiledModel

MODELS = [compile_model(two_bins()), compile_model(control_region())]
TOYS = 1543
FIRST = [
    [87.0, 10.0, 4.0, 0.2842337623323746, 1.0232238075598603, 0.9884909596068132],
    [90.0, 6.0, 9.0, 0.3541585373298051, 0.9074915484703754, 1.0861962931756517],
]


@given(seed=st.integers(-(2**70), 2**70), unit=st.text(max_size=20))
@settings(deadline=None, max_examples=50)
def test_a_key_has_64_bits_and_stays_the_same(seed: int, unit: str) -> None:
    assert 0 <= key(seed, unit) < 2**64
    assert key(seed, unit) == key(seed, unit)


def test_other_seeds_and_units_have_other_keys() -> None:
    addresses = [(1, "a"), (1, "b"), (2, "a"), (12, "a"), (1, "2a"), (-1, "a"), (0, ""), (1, "")]
    assert len({key(*address) for address in addresses}) == len(addresses)


def test_the_toys_of_a_seed_stay_what_they_are() -> None:
    """A change of these numbers changes every published limit: it belongs in the changelog."""
    model = MODELS[1]
    toys = throw(model, ensemble(model, "mu=1.0/b", model.init), seed=1, start=0, stop=2)
    assert key(1, "mu=1.0/b") == 13742751632655106039
    np.testing.assert_array_equal(toys, FIRST)


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
