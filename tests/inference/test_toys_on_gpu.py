"""Questions that are answered with a GPU, which is made up: the same answers, and who gave them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_up import control_region, counting, one_bin, one_sided, two_bins
from made_up_gpu import NAME, made_up_gpu

from hepdask_ml import InputError, compile_model, discovery, hypotest, upper_limit
from hepdask_ml.errors import GpuError
from hepdask_ml.inference import engines
from hepdask_ml.inference.toys import FIRST_ON_GPU, ToySettings, ensemble, evaluate
from hepdask_ml.ui import show


class Count:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.planned: list[int] = []
        self.told: list[int] = []

    def plan(self, total: int) -> None:
        self.planned.append(total)

    def advance(self, toys: int) -> None:
        self.told.append(toys)


@pytest.mark.parametrize("make", [one_bin, control_region, one_sided])
@pytest.mark.parametrize("starts", [8, 11])
def test_toys_are_those_of_the_cpu(make: Any, starts: int) -> None:
    model = compile_model(make())
    start = model.fit(poi=0.5).pars[0]
    ensembles = [ensemble(model, "a", start), ensemble(model, "b", start)]
    settings = ToySettings(700, 4, starts)
    expected = evaluate(model, ensembles, 0.5, "qtilde", settings)
    with made_up_gpu() as gpu:
        found = evaluate(model, ensembles, 0.5, "qtilde", settings, "gpu")
    assert gpu.launches == [700, 700]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.q, theirs.q, rtol=0.0, atol=1e-6)
        np.testing.assert_array_equal(ours.poi_hat, theirs.poi_hat)
        np.testing.assert_array_equal(ours.status, theirs.status)


def test_ranges_grow_and_progress_is_told_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("hepdask_ml.inference.toys.monotonic", lambda: 0.2 * next(clock))
    model, count = compile_model(one_bin()), Count()
    both = [ensemble(model, name, model.init) for name in "ab"]
    toys = 4 * FIRST_ON_GPU
    with made_up_gpu() as gpu:
        evaluate(model, both, 1.0, "t", ToySettings(toys, progress=count), "gpu")
    assert gpu.launches == count.told
    assert count.told == [FIRST_ON_GPU * n for n in (1, 2, 1, 4)]


@pytest.mark.parametrize("engine", ["gpu", "cpu"])
def test_every_question_tells_its_engine(engine: Any) -> None:
    with made_up_gpu() as gpu:
        test = hypotest(two_bins(), mu=1.0, toys=50, engine=engine)
        found = upper_limit(two_bins(), scan=[1.0, 3.0], toys=50, engine=engine)
        excess = discovery(two_bins(), toys=50, engine=engine)
    expected = f"GPU, {NAME} (as asked for)" if engine == "gpu" else "CPU, "
    answers: list[Any] = [test, found, *found.points, excess]
    for answer in answers:
        assert answer.engine.startswith(expected)
        assert f"engine: {expected}" in answer._repr_html_()
        if not isinstance(answer, type(excess)):
            assert "engine" not in answer.to_json(), "it changes nothing that is written there"
    assert bool(gpu.launches) == (engine == "gpu")
    assert show.engine_view(test.engine).plain == f"engine: {test.engine}"


@pytest.mark.parametrize("make", [counting, control_region])
def test_limits_are_those_of_the_cpu(make: Any) -> None:
    # In a counting experiment most toys have the very numbers of others, or of the data.
    cpu = upper_limit(make(), toys=600, engine="cpu")
    with made_up_gpu():
        gpu = upper_limit(make(), toys=600, engine="gpu")
    assert gpu.to_json()["limits"] == cpu.to_json()["limits"]
    assert [point.mu for point in gpu.points] == [point.mu for point in cpu.points]


def test_the_faster_engine_is_chosen_for_the_work_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_RACES", {})
    monkeypatch.setattr(engines, "START_S", 0.0)
    monkeypatch.setattr(engines, "TRIAL_S", 1e-4)
    with made_up_gpu() as gpu:
        found = upper_limit(two_bins(), scan=[1.0, 3.0], toys=100, threads=1)
        trials = len(gpu.launches)
        assert trials >= 2
        again = upper_limit(two_bins(), scan=[2.0], toys=100, threads=1)
    [race] = engines._RACES.values()
    assert race.cpu is not None
    assert race.gpu is not None
    assert "toys/s of this model, against " in found.engine
    assert again.engine == found.engine
    if found.engine.startswith("CPU"):
        assert len(gpu.launches) == trials, "tried once"


def test_a_question_that_is_answered_soon_starts_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_RACES", {})
    monkeypatch.setattr(engines, "START_S", 1e9)
    with made_up_gpu() as gpu:
        found = hypotest(one_bin(), mu=1.0, toys=100)
    assert not gpu.launches
    assert found.engine.startswith("CPU, ")
    assert "a GPU longer to start" in found.engine


def test_a_gpu_that_fails_at_work_is_an_error() -> None:
    with made_up_gpu(fails_at=1) as gpu:
        with pytest.raises(GpuError, match="it fell off the bus"):
            hypotest(one_bin(), mu=1.0, toys=50, engine="gpu")
        with pytest.raises(GpuError, match="gpu was asked for, but it has failed before"):
            hypotest(one_bin(), mu=1.0, toys=50, engine="gpu")
        assert "it has failed before" in hypotest(one_bin(), mu=1.0, toys=50).engine
    assert gpu.launches == [50]


@pytest.mark.parametrize("ask", [hypotest, upper_limit, discovery])
def test_without_a_gpu_it_is_an_error(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hepdask_ml.likelihood.kernels_gpu.unusable", lambda: "there is none")
    with pytest.raises(GpuError, match=r"^the engine gpu was asked for, but there is none$"):
        ask(one_bin(), toys=50, engine="gpu")


@pytest.mark.parametrize("ask", [hypotest, upper_limit, discovery])
def test_another_engine_is_refused(ask: Any) -> None:
    with pytest.raises(InputError, match="the engine is 'cuda': choose from auto, cpu, gpu"):
        ask(one_bin(), toys=50, engine="cuda")
