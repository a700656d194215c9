"""The choice of an engine: as asked for, or by a measurement that is made once."""

from __future__ import annotations

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from hepdask_ml import InputError, config
from hepdask_ml.errors import GpuError
from hepdask_ml.inference import engines
from hepdask_ml.inference.engines import ENGINES, START_S, checked_engine, chosen, on_workers
from hepdask_ml.likelihood import kernels_gpu

if TYPE_CHECKING:
    from hepdask_ml.inference.engines import Used

START = 20.0


class Bench:
    """Engines of given speed, on a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cpu: float, gpu: float) -> None:
        self.rates = {"cpu": cpu, "gpu": gpu}
        self.now = 0.0
        self.calls: Counter[str] = Counter()
        self.largest: dict[str, int] = {}
        self.threads: set[int] = set()
        self.key = uuid4().hex
        monkeypatch.setattr(engines, "perf_counter", lambda: self.now)

    def __call__(self, engine: Used, toys: int, threads: int) -> None:
        self.calls[engine] += 1
        self.largest[engine] = max(self.largest.get(engine, 0), toys)
        if engine == "cpu":
            self.threads.add(threads)
        first = engine == "gpu" and self.calls[engine] == 1
        self.now += toys / self.rates[engine] + (START if first else 0.001)

    def choose(self, **options: Any) -> engines.Choice:
        return chosen("auto", self, self.key, **{"threads": 4, **options})


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU, as far as anybody asks."""
    monkeypatch.setattr(kernels_gpu, "unusable", lambda: "")
    monkeypatch.setattr(kernels_gpu, "device_name", lambda: "Made-up 1")


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_gpu, "unusable", lambda: "CuPy is not installed")


def never(*_: object) -> None:
    pytest.fail("nothing is to be measured")


def test_every_list_of_engines_is_the_same() -> None:
    assert config.ENGINES == ENGINES
    assert [checked_engine(engine) for engine in ENGINES] == list(ENGINES)


@pytest.mark.parametrize("wrong", ["GPU", "cuda", "", None, 1])
def test_another_engine_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="choose from auto, cpu, gpu"):
        checked_engine(wrong)


def test_the_cpu_needs_no_look_at_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_gpu, "unusable", never)
    choice = chosen("cpu", never, "a", threads=1)
    assert choice.engine == "cpu"
    assert str(choice).startswith("CPU, 1 thread, ")
    assert str(choice).endswith(" (as asked for)")


@pytest.mark.usefixtures("no_card")
def test_without_a_gpu_the_cpu_is_taken_at_once() -> None:
    choice = chosen("auto", never, "a", threads=4)
    assert choice.engine == "cpu"
    assert choice.why == "no GPU can be used, for CuPy is not installed"
    assert "CPU, 4 threads, " in str(choice)


@pytest.mark.usefixtures("no_card")
def test_without_a_gpu_one_that_is_asked_for_is_an_error() -> None:
    with pytest.raises(
        GpuError, match=r"^the engine gpu was asked for, but CuPy is not installed$"
    ):
        chosen("gpu", never, "a")


@pytest.mark.usefixtures("card")
def test_a_gpu_that_is_asked_for_is_not_measured() -> None:
    assert str(chosen("gpu", never, "a")) == "GPU, Made-up 1 (as asked for)"


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(
    ("cpu", "gpu", "faster"),
    [
        (43_000.0, 910_000.0, "gpu"),
        (4e6, 1e5, "cpu"),
        (300.0, 301.0, "gpu"),
        (50.0, 20.0, "cpu"),
        (2e6, 1e8, "gpu"),
    ],
)
def test_the_faster_one_is_taken(
    monkeypatch: pytest.MonkeyPatch, cpu: float, gpu: float, faster: str
) -> None:
    bench = Bench(monkeypatch, cpu, gpu)
    choice = bench.choose()
    assert choice.engine == faster
    # A thousandth of a second is lost in each batch, of 0.2 s and more.
    assert choice.cpu_toys_per_s == pytest.approx(cpu, rel=0.01)
    assert choice.gpu_toys_per_s == pytest.approx(gpu, rel=0.01), "without its start"
    assert bench.threads == {4}
    worked = sum(bench.largest[name] / rate for name, rate in bench.rates.items())
    assert worked < 1.0 or gpu < 1e3, "batches grow no further than needed"


@pytest.mark.usefixtures("card")
def test_the_choice_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(Bench(monkeypatch, 43_000.0, 910_000.0).choose()) == (
        "GPU, Made-up 1 (it fits 910,000 toys/s of this model, against 43,000 of the CPU with 4 "
        "threads)"
    )
    choice = Bench(monkeypatch, 4e6, 1e5).choose()
    assert choice.why == (
        "it fits 4,000,000 toys/s of this model, against 100,000 of the GPU Made-up 1"
    )


@pytest.mark.usefixtures("card")
def test_it_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, 1e4, 1e5)
    choice = bench.choose()
    calls = bench.calls.total()
    assert bench.choose() == choice
    assert bench.choose(toys=10) == choice, "it is started already"
    assert bench.calls.total() == calls


@pytest.mark.usefixtures("card")
def test_a_gpu_is_not_started_for_little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, 1e4, 1e6)
    choice = bench.choose(toys=2_000)
    assert choice.engine == "cpu"
    assert choice.why == "it needs about 0.2 s, and a GPU longer to start"
    assert bench.calls["gpu"] == 0
    once = bench.calls["cpu"]
    assert bench.choose(toys=10).why.startswith("it needs less than 0.1 s")
    assert bench.choose(toys=int(2 * START_S * 1e4)).engine == "gpu"
    assert bench.calls["cpu"] == once


@pytest.mark.usefixtures("card")
def test_a_gpu_that_fails_when_it_is_tried_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, 1e4, 1e6)

    def fails(engine: Used, toys: int, threads: int) -> None:
        bench(engine, toys, threads)
        if engine == "gpu":
            raise GpuError("the GPU failed: it is made of cardboard")

    for _ in range(2):
        choice = chosen("auto", fails, bench.key, threads=2)
        assert choice.engine == "cpu"
        assert choice.why == ("a GPU was tried and failed: the GPU failed: it is made of cardboard")
    assert bench.calls["gpu"] == 1


@pytest.mark.usefixtures("card")
def test_another_error_is_raised_and_the_next_one_measures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, 1e4, 1e6)

    def fails(*_: object) -> None:
        raise InputError("the model is wrong")

    with pytest.raises(InputError, match="the model is wrong"):
        chosen("auto", fails, bench.key, threads=4)
    assert bench.choose().engine == "gpu"


@pytest.mark.usefixtures("card")
def test_threads_that_ask_at_once_wait_for_one_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, all_ask, asked = Bench(monkeypatch, 1e4, 1e6), Event(), 5

    def trial(engine: Used, toys: int, threads: int) -> None:
        if engine == "gpu":  # its start takes a while
            assert all_ask.wait(60)
        bench(engine, toys, threads)

    with ThreadPoolExecutor(asked) as pool:
        choices = [pool.submit(chosen, "auto", trial, bench.key) for _ in range(asked)]
        race = engines._RACES
        deadline = monotonic() + 60
        while (bench.key, None) not in race or race[bench.key, None].asking < asked:
            assert monotonic() < deadline
            sleep(0.001)
        all_ask.set()
        found = {choice.result(60) for choice in choices}
    assert len(found) == 1
    assert bench.threads == {asked}, "they would share the work"
    assert "the CPU with 5 threads" in str(found.pop())


@pytest.mark.usefixtures("card")
def test_a_choice_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engines._logged.cache_clear()
    bench = Bench(monkeypatch, 1e4, 1e6)
    with caplog.at_level(logging.INFO, engines.__name__):
        choices = [bench.choose() for _ in range(3)]
    assert caplog.messages == [f"engine: {choices[0]}"]


def test_a_wish_is_told_of_workers() -> None:
    assert [on_workers(engine) for engine in ENGINES] == [
        "CPU or GPU, as each worker chose",
        "CPU of each worker (as asked for)",
        "GPU of each worker (as asked for)",
    ]
