"""Thrown data: the generator's known answers, the distributions, and addresses that do not matter.

Keys are fixed, so that nothing here flakes.  Beside each cut stands how often it would raise a
false alarm if the keys were free.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from itertools import pairwise
from math import exp, lgamma, log
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hepdask_ml.likelihood.kernels import library
from hepdask_ml.likelihood.throw import Throwing, throw

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

TOYS = 200_000
RATES = [1e-3, 0.05, 0.7, 2.0, 6.5, 9.99, 10.0, 10.5, 14.0, 27.3, 60.0, 250.0, 1e3, 3e4, 1e6]
LARGE_RATES = [1e6, 1e9, 1e14, 9.9e14]

STABLE = [
    [0.0, 5.0, 49.0, 99977.0, 100000007254198.0, -0.3380660659962015, 4.792599497302392],
    [0.0, 4.0, 43.0, 99887.0, 100000020343257.0, 0.5067267285084017, 4.578255787533562],
    [0.0, 4.0, 40.0, 99865.0, 100000006961843.0, -0.4152451175511554, 5.5018327554253945],
]


def about(rates: Any = (), means: Any = (), widths: Any = None, key: int = 20_26) -> Throwing:
    """Counts first, then normal numbers, in the order of the row."""
    counts, normals = len(rates), len(means)
    return Throwing(
        key=key,
        count_index=np.arange(counts),
        rate=np.array(rates, float),
        normal_index=np.arange(counts, counts + normals),
        mean=np.array(means, float),
        width=np.ones(normals) if widths is None else np.array(widths, float),
    )


def random_words(key: int, toy: int, datum: int, attempt: int = 0) -> list[int]:
    words = np.empty(4, np.uint32)
    entry = library().hepdask_random_words
    entry.argtypes = [ctypes.c_uint64] * 2 + [ctypes.c_uint32] * 2 + [ctypes.c_void_p]
    entry.restype = None
    entry(key, toy, datum, attempt, words.ctypes.data)
    return [int(word) for word in words]


def one_count(rate: float, toys: int = TOYS, key: int = 1) -> Floats:
    return throw(about([rate], key=key), 0, toys, 1)[:, 0]


# --- random words ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_words_are_the_known_answers_of_random123(
    counter: tuple[int, ...], key: tuple[int, ...], words: str
) -> None:
    low, high, datum, attempt = counter
    found = random_words(key[1] << 32 | key[0], high << 32 | low, datum, attempt)
    assert " ".join(f"{word:08x}" for word in found) == words


def test_a_normal_number_is_the_quantile_of_its_words() -> None:
    thrown = throw(about(means=[3.0], widths=[0.5], key=77), 0, 20_000, 1)[:, 0]
    pull = (thrown - 3.0) / 0.5
    for toy in [*range(200), int(pull.argmin()), int(pull.argmax())]:
        high, low, _, _ = random_words(77, toy, 0)
        joint = high << 32 | low
        distance = ((joint & (2**63 - 1)) >> 11) + 0.5
        quantile = NormalDist().inv_cdf(distance * 2.0**-53)
        expected = -quantile if joint >> 63 else quantile
        assert pull[toy] == pytest.approx(expected, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("rate", [0.3, 4.0, 9.5])
def test_a_small_count_is_the_quantile_of_its_words(rate: float) -> None:
    thrown = throw(about([rate], key=78), 0, 300, 1)[:, 0]
    for toy, count in enumerate(thrown.tolist()):
        high, low, _, _ = random_words(78, toy, 0)
        uniform = (((high << 32 | low) >> 11) + 1) * 2.0**-53
        terms = np.exp(log_poisson(np.arange(count + 1.0), rate))
        below = 0.0 if count == 0.0 else terms[:-1].sum()
        assert below < uniform * (1 + 1e-14)
        assert uniform <= terms.sum() * (1 + 1e-14)


# --- distributions -----------------------------------------------------------------------------


def log_poisson(counts: Floats, rate: float) -> Floats:
    factorials = np.array([lgamma(count + 1.0) for count in counts])
    return np.asarray(counts * log(rate) - rate - factorials)


def chi_square(counts: Floats, rate: float) -> tuple[float, int]:
    """Of counts against their probabilities, in some 100 classes of at least 20 expected counts."""
    reach = 9.0 * np.sqrt(rate) + 12.0
    values = np.arange(max(0.0, np.floor(rate - reach)), np.ceil(rate + reach) + 1.0)
    expected = np.exp(log_poisson(values, rate)) * len(counts)
    found = np.bincount((counts - values[0]).astype(np.int64), minlength=len(values))
    assert len(found) == len(values), "nothing lies nine standard deviations away"
    least, edges, sum_ = max(20.0, len(counts) / 100), [0], 0.0
    for place, number in enumerate(expected):
        sum_ += number
        if sum_ >= least and expected[place + 1 :].sum() >= 20.0:
            edges.append(place + 1)
            sum_ = 0.0
    expected = np.add.reduceat(expected, edges)
    found = np.add.reduceat(found, edges)
    return float(((found - expected) ** 2 / expected).sum()), len(edges) - 1


def unlikely(chi2: float, dof: int) -> float:
    """Width of a normal number that is as improbable (E. B. Wilson and M. M. Hilferty, 1931)."""
    scale = 2.0 / (9.0 * dof)
    return float(((chi2 / dof) ** (1.0 / 3.0) - 1.0 + scale) / np.sqrt(scale))


@pytest.mark.parametrize("rate", RATES)
def test_counts_have_the_probabilities_of_poisson(rate: float) -> None:
    # Two-sided at 4.5 on 15 rates: one false alarm in 1e4 choices of the key.
    chi2, dof = chi_square(one_count(rate, key=RATES.index(rate)), rate)
    assert abs(unlikely(chi2, dof)) < 4.5


@pytest.mark.parametrize("rate", [0.7, 6.5, 14.0, 250.0])
def test_counts_have_the_probabilities_of_numpy(rate: float) -> None:
    # Two samples of equal size: the chi-square of their difference has one class each.
    ours, theirs = one_count(rate, key=2), np.random.default_rng(3).poisson(rate, TOYS)
    size = int(max(ours.max(), theirs.max())) + 1
    a, b = (np.bincount(counts.astype(np.int64), minlength=size) for counts in (ours, theirs))
    used = a + b >= 40
    chi2 = float(((a - b)[used] ** 2 / (a + b)[used]).sum())
    # At 4.5 on 4 rates: one false alarm in 4e4 choices.
    assert abs(unlikely(chi2, int(used.sum()))) < 4.5


@pytest.mark.parametrize("rate", LARGE_RATES)
def test_large_counts_are_nearly_normal(rate: float) -> None:
    counts = one_count(rate, key=LARGE_RATES.index(rate))
    np.testing.assert_array_equal(counts % 1.0, 0.0)
    check_normal((counts - rate) / np.sqrt(rate))


def test_normal_numbers() -> None:
    check_normal(throw(about(means=[0.0], key=5), 0, TOYS, 1)[:, 0])


def check_normal(pulls: Floats) -> None:
    # Four moments of five samples, within five errors: one false alarm in 8e4 choices of the keys.
    for power, variance in ((1, 1.0), (2, 2.0), (3, 15.0), (4, 96.0)):
        moment = {2: 1.0, 4: 3.0}.get(power, 0.0)
        assert abs(np.mean(pulls**power) - moment) < 5.0 * np.sqrt(variance / len(pulls))
    # Kolmogorov's distance of five samples: beyond 2.6 / sqrt(n) once in 7e4 choices of the keys.
    expected = np.array([NormalDist().cdf(pull) for pull in np.sort(pulls)[:: TOYS // 2000]])
    found = (np.arange(0, TOYS, TOYS // 2000) + 0.5) / TOYS
    assert np.abs(expected - found).max() < 2.6 / np.sqrt(TOYS)


def test_means_and_widths_are_those_asked_for() -> None:
    throwing = about([], [5.0, -2e3, 0.0], [0.1, 50.0, 0.0])
    rows = throw(throwing, 0, TOYS, 3)
    # Six pulls beyond five: once in 3e5 choices.
    assert np.abs((rows.mean(0) - throwing.mean)[:2] / throwing.width[:2]).max() < 5 / TOYS**0.5
    assert np.abs(rows.std(0)[:2] / throwing.width[:2] - 1.0).max() < 5.0 / np.sqrt(2.0 * TOYS)
    np.testing.assert_array_equal(rows[:, 2], 0.0)


def test_where_nothing_is_expected_nothing_is_thrown() -> None:
    rows = throw(about([0.0, 1e-300, 1e-20]), 0, 1000, 3)
    np.testing.assert_array_equal(rows, 0.0)


@pytest.mark.parametrize("rate", [9.999999, 10.0, 15.9, 16.0, 16.1])
def test_both_methods_meet(rate: float) -> None:
    # Mean and variance on 5 rates within five errors: one false alarm in 2e5 choices.
    counts = one_count(rate, key=9)
    assert abs(counts.mean() - rate) < 5.0 * np.sqrt(rate / TOYS)
    error = np.sqrt((2.0 * rate**2 + rate) / TOYS)
    assert abs(((counts - rate) ** 2).mean() - rate) < 5.0 * error


def test_far_tails_are_thrown() -> None:
    counts, rate = one_count(2.0, toys=2_000_000, key=4), 2.0
    beyond = float((counts >= 10).mean())
    expected = 1.0 - sum(exp(value) for value in log_poisson(np.arange(10.0), rate))
    # Some 93 of them: five errors, one false alarm in 2e6 choices.
    assert abs(beyond - expected) < 5.0 * np.sqrt(expected / len(counts))


# --- addresses ---------------------------------------------------------------------------------

MIXED = about([0.4, 3.0, 40.0, 1e5], [0.0, 5.0], key=11)


@given(
    first=st.integers(0, 2**63 - 2_000),
    cuts=st.lists(st.integers(0, 200), max_size=5),
)
@example(first=2**32 - 100, cuts=[100])
@settings(deadline=None, max_examples=60)
def test_pieces_are_the_whole(first: int, cuts: list[int]) -> None:
    whole = throw(MIXED, first, 200, 6)
    pieces = [
        throw(MIXED, first + start, stop - start, 6)
        for start, stop in pairwise([0, *sorted(cuts), 200])
    ]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_data_are_put_where_they_belong() -> None:
    counts, normals = np.array([5, 0, 3, 1]), np.array([4, 2])
    shuffled = replace(MIXED, count_index=counts, normal_index=normals)
    rows = throw(shuffled, 0, 50, 6)
    np.testing.assert_array_equal(rows[:, [*counts, *normals]], throw(MIXED, 0, 50, 6))


def test_a_datum_does_not_depend_on_the_others() -> None:
    less = about([0.4, 7.7, 40.0], [], key=11)
    rows = throw(less, 0, 50, 3)
    np.testing.assert_array_equal(rows[:, [0, 2]], throw(MIXED, 0, 50, 6)[:, [0, 2]])


def test_arrays_are_made_contiguous() -> None:
    sparse = replace(MIXED, rate=np.repeat(MIXED.rate, 2)[::2])
    assert sparse.rate.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(throw(sparse, 0, 50, 6), throw(MIXED, 0, 50, 6))


def neighbours_in_toy(throwing: Callable[[int], Throwing]) -> tuple[Floats, Floats]:
    rows = throw(throwing(1), 0, TOYS + 1, 2)
    return rows[:-1, 0], rows[1:, 0]


def neighbours_in_datum(throwing: Callable[[int], Throwing]) -> tuple[Floats, Floats]:
    rows = throw(throwing(1), 0, TOYS, 2)
    return rows[:, 0], rows[:, 1]


def neighbours_in_key(throwing: Callable[[int], Throwing]) -> tuple[Floats, Floats]:
    return throw(throwing(6), 0, TOYS, 2)[:, 0], throw(throwing(7), 0, TOYS, 2)[:, 0]


@pytest.mark.parametrize("pair", [neighbours_in_toy, neighbours_in_datum, neighbours_in_key])
@pytest.mark.parametrize("rate", [0.0, 3.0, 50.0])
def test_neighbours_are_independent(pair: Any, rate: float) -> None:
    def throwing(key: int) -> Throwing:
        return about([rate, rate], key=key) if rate else about(means=[0.0, 0.0], key=key)

    one, other = pair(throwing)
    # Correlations of the values and of their squares, nine pairs of neighbours: beyond five widths
    # once in 1e5 choices of the keys.
    for power in (1, 2):
        deviations = [(each - rate) ** power for each in (one, other)]
        assert abs(np.corrcoef(*deviations)[0, 1]) < 5.0 / np.sqrt(TOYS)


def test_thrown_data_stay_what_they_are() -> None:
    """A change of these numbers changes every published limit: it belongs in the changelog."""
    rows = throw(about([0.4, 3.0, 40.0, 1e5, 1e14], [0.0, 5.0], key=11), 2**40, 3, 7)
    np.testing.assert_array_equal(rows, STABLE)
