"""The contract of the GPU's kernels: on the same data, the same answers as on a processor."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass
from functools import cache, partial
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from made_up import (
    control_region,
    correlated,
    counting,
    data_driven,
    luminosity,
    many_channels,
    many_systematics,
    one_bin,
    one_sided,
    published,
    two_bins,
)

from hepdask_ml import compile_model
from hepdask_ml.errors import GpuError
from hepdask_ml.inference.toys import Ensemble, ensemble, throw, throwing
from hepdask_ml.likelihood import kernels, kernels_gpu
from hepdask_ml.likelihood.fit import (
    FitPairs,
    converged,
    data_terms,
    fit,
    fit_pair,
    random_shifts,
)
from hepdask_ml.likelihood.kernels_gpu import Pairs, Spent, Thrown, fit_pairs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpu.conftest import Card
    from gpu.emulator import Device
    from numpy.typing import NDArray

    from hepdask_ml import CompiledModel
    from hepdask_ml.likelihood.kernels import Lowered

    Floats = NDArray[np.float64]

MADE_UP: dict[str, Callable[[], dict[str, Any]]] = {
    "counting": counting,
    "one bin": one_bin,
    "two bins": two_bins,
    "correlated": correlated,
    "control region": control_region,
    "one sided": one_sided,
    "data driven": data_driven,
    "luminosity": luminosity,
    "many channels": partial(many_channels, 5),
    "many systematics": partial(many_systematics, 6, 8, 2),
    "more bins": partial(many_systematics, 20, 4, 2),
}
POI = 1.0
SEED = 5
every_model = pytest.mark.parametrize("name", list(MADE_UP))


@dataclass(frozen=True, eq=False)
class Case:
    """A model and the hypothesis that its toys are thrown from."""

    model: CompiledModel
    signal: Ensemble

    @property
    def lowered(self) -> Lowered:
        return kernels.lower(self.model)

    @property
    def start(self) -> Floats:
        return self.signal.pars[self.lowered.kept]

    def data(self, n_toys: int) -> Floats:
        return throw(self.model, self.signal, seed=SEED, start=0, stop=n_toys)

    def thrown(self, toys: range) -> Thrown:
        return Thrown(throwing(self.model, self.signal, SEED), toys)

    def pairs(self, data: Thrown | Floats, starts: int = 8, spent: Spent | None = None) -> Pairs:
        shifts = random_shifts(self.lowered, starts)
        return fit_pairs(
            self.lowered, data, POI, self.start, starts=starts, shifts=shifts, spent=spent
        )


@cache
def case(name: str) -> Case:
    return _prepared(MADE_UP[name]())


def _prepared(workspace: dict[str, Any]) -> Case:
    model = compile_model(workspace)
    conditional = fit(model, model.data, poi=POI)
    return Case(model, ensemble(model, "signal", conditional.pars[0]))


def agree(case: Case, data: Floats, pairs: Pairs, expected: FitPairs) -> None:
    """The same statuses, and the same test statistics and minima where both fits converged."""
    np.testing.assert_array_equal(pairs.status_fixed, expected.status_fixed)
    np.testing.assert_array_equal(pairs.status_free, expected.status_free)
    done = converged(expected.status_fixed) & converged(expected.status_free)
    assert done.mean() > 0.9
    q = 2.0 * (pairs.nll_fixed - pairs.nll_free)
    expected_q = expected.twice_nll_fixed - expected.twice_nll_free
    np.testing.assert_allclose(q[done], expected_q[done], rtol=0.0, atol=1e-6)
    twice_nll = 2.0 * pairs.nll_free + data_terms(case.model, data)
    np.testing.assert_allclose(twice_nll[done], expected.twice_nll_free[done], rtol=0, atol=1e-6)
    np.testing.assert_allclose(pairs.poi_hat[done], expected.poi_hat[done], rtol=1e-3, atol=1e-3)


def same(one: Pairs, other: Pairs) -> None:
    """The same to the last bit."""
    for name in ("poi_hat", "nll_fixed", "nll_free", "status_fixed", "status_free"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


# --- the same answers --------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("poi", [POI, np.nan], ids=["fixed", "free"])
def test_minimises_as_a_processor_does(card: Card, name: str, poi: float) -> None:
    some = case(name)
    data = some.data(card.n_toys)
    row = np.arange(len(data))[::-1]
    start = np.tile(some.start, (len(data), 1))
    held = np.full(len(data), poi)
    expected = kernels.minimise(some.lowered, data, row, start, held)
    on = card.cupy.asarray
    found = kernels_gpu.minimise(some.lowered, on(data), on(row), on(start), on(held))
    np.testing.assert_array_equal(_fetched(found.status), expected.status)
    done = converged(expected.status)
    for what in ("pars", "profiled"):
        values, others = _fetched(getattr(found, what)), getattr(expected, what)
        np.testing.assert_allclose(values[done], others[done], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(_fetched(found.nll)[done], expected.nll[done], rtol=0.0, atol=1e-7)


@every_model
def test_finds_the_other_basins_that_a_processor_finds(card: Card, name: str) -> None:
    some = case(name)
    data = some.data(card.n_toys)
    row, held = np.arange(len(data)), np.full(len(data), np.nan)
    start = np.tile(some.start, (len(data), 1))
    pars = kernels.minimise(some.lowered, data, row, start, held).pars
    index, points = kernels.other_starts(some.lowered, data, row, pars, held, 7)
    on = card.cupy.asarray
    found_index, found = kernels_gpu.other_starts(
        some.lowered, on(data), on(row), on(pars), on(held), 7
    )
    np.testing.assert_array_equal(_fetched(found_index), index)
    np.testing.assert_allclose(_fetched(found), points, rtol=1e-6, atol=1e-6)


def _fetched(array: Any) -> Any:
    return array.get() if hasattr(array, "get") else array


@every_model
@pytest.mark.parametrize("starts", [1, 8, 11])
def test_fits_pairs_as_a_processor_does(card: Card, name: str, starts: int) -> None:
    some = case(name)
    data = some.data(card.n_toys)
    expected = fit_pair(some.model, data, POI, starts=starts, init=some.signal.pars)
    agree(some, data, some.pairs(data, starts), expected)


@published
def test_fits_published_likelihoods_as_a_processor_does(card: Card, path: Path) -> None:
    some = _prepared(json.loads(path.read_text()))
    data = some.data(card.n_toys // 4)
    expected = fit_pair(some.model, data, POI, init=some.signal.pars)
    agree(some, data, some.pairs(data), expected)


@every_model
def test_throws_the_toys_that_a_processor_throws(card: Card, name: str) -> None:
    some = case(name)
    same(some.pairs(some.thrown(range(card.n_toys))), some.pairs(some.data(card.n_toys)))


# --- what must not matter ----------------------------------------------------------------------


def test_a_toy_is_the_same_whatever_range_it_is_fitted_in(card: Card) -> None:
    some, n = case("one sided"), card.n_toys
    whole = some.pairs(some.thrown(range(n)))
    pieces = [
        some.pairs(some.thrown(part)) for part in (range(3), range(3, n - 1), range(n - 1, n))
    ]
    joined = Pairs(
        *(
            np.concatenate([getattr(piece, name) for piece in pieces])
            for name in ("poi_hat", "nll_fixed", "nll_free", "status_fixed", "status_free")
        )
    )
    same(joined, whole)


@pytest.mark.parametrize("given", [False, True], ids=["thrown", "given"])
def test_batches_do_not_matter(card: Card, monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
    some, n = case("control region"), card.n_toys
    data = some.data(n) if given else some.thrown(range(n))
    whole = some.pairs(data)
    monkeypatch.setattr(kernels_gpu, "LARGEST_BATCH", n // 3)
    spent = Spent()
    same(some.pairs(data, spent=spent), whole)
    assert spent.batches == -(-n // (n // 3))
    assert 0.0 < spent.device_s < spent.total_s


def test_no_toys_are_no_work(card: Card) -> None:
    some = case("one bin")
    assert len(some.pairs(some.thrown(range(5, 5))).poi_hat) == 0
    none = kernels_gpu.minimise(
        some.lowered,
        *(card.cupy.zeros(shape) for shape in ((0, some.model.n_data), 0, (0, len(some.start)), 0)),
    )
    assert none.pars.shape == (0, len(some.start))


def test_threads_may_call_at_once(card: Card) -> None:
    some, n = case("correlated"), card.n_toys
    whole = some.pairs(some.thrown(range(n)))
    found: dict[int, Pairs] = {}

    def call(i: int) -> None:
        found[i] = some.pairs(some.thrown(range(n)))

    threads = [Thread(target=call, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        same(found[i], whole)


def test_one_transfer_brings_a_batch_back(pretended: Device) -> None:
    some = case("one bin")
    some.pairs(some.thrown(range(50)))
    assert pretended.fetched == 1
    assert len(pretended.launches) == 1


# --- the device's memory -----------------------------------------------------------------------


def test_a_model_stays_on_the_device_while_it_lives(pretended: Device) -> None:
    some = _prepared(one_bin())
    kernels.lower.cache_clear()
    lowered = kernels.lower(some.model)
    kernels.lower.cache_clear()
    for _ in range(2):
        fit_pairs(lowered, some.thrown(range(3)), POI, some.start, starts=1)
    held = pretended.used
    assert held > 0
    fit_pairs(lowered, some.thrown(range(3)), POI, some.start, starts=1)
    assert pretended.used == held
    del lowered
    gc.collect()
    assert pretended.used == 0


def test_scarce_memory_does_not_matter(card: Card) -> None:
    some, toys = case("one sided"), range(card.n_toys)
    whole = some.pairs(some.thrown(toys))
    card.cupy.get_default_memory_pool().free_all_blocks()
    card.leave(1 << 20)
    same(some.pairs(some.thrown(toys)), whole)


def test_scarce_memory_means_smaller_batches(pretended: Device) -> None:
    some, toys = case("two bins"), range(300)
    whole = some.pairs(some.thrown(toys))
    pretended.memory = pretended.used + (16 << 10)
    spent = Spent()
    same(some.pairs(some.thrown(toys), spent=spent), whole)
    assert spent.batches > 1


def test_what_others_took_is_found_out_by_trying(pretended: Device) -> None:
    """The driver said that there was room, and then another process took it."""
    some, toys = case("two bins"), range(300)
    whole = some.pairs(some.thrown(toys))
    pretended.claimed = 1 << 30
    pretended.memory = pretended.used + (12 << 10)
    same(some.pairs(some.thrown(toys)), whole)


def test_no_room_for_one_fit_is_an_error(pretended: Device) -> None:
    some = case("one sided")
    some.pairs(some.thrown(range(2)))
    pretended.memory = pretended.used + (8 << 10)
    with pytest.raises(GpuError, match="has no room for the fit of this model") as failure:
        some.pairs(some.thrown(range(2)))
    assert str(failure.value).count(". ") == 0
    pretended.memory = 1 << 30
    some.pairs(some.thrown(range(2)))  # the device is as good as before


# --- devices that fail -------------------------------------------------------------------------


def test_a_device_that_failed_is_not_asked_again(pretended: Device) -> None:
    some = case("one bin")
    pretended.failure = RuntimeError("cudaErrorIllegalAddress: an illegal memory access")
    with pytest.raises(GpuError, match="the GPU pretended failed while fitting toys: cudaErrorIll"):
        some.pairs(some.thrown(range(3)))
    pretended.failure = None
    assert "cudaErrorIllegalAddress" in kernels_gpu.unusable()
    with pytest.raises(GpuError, match="no GPU can be used here: the GPU pretended failed"):
        some.pairs(some.thrown(range(3)))
    with pytest.raises(GpuError):
        kernels_gpu.device_name()


def test_a_driver_without_memory_is_no_failed_device(pretended: Device) -> None:
    some = case("one bin")
    pretended.failure = RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory")
    with pytest.raises(GpuError, match="has no room"):
        some.pairs(some.thrown(range(3)))
    assert kernels_gpu.unusable() == ""
