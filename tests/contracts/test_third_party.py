"""Plug-ins of other packages: good ones keep the contracts, and bad ones are caught."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from math import nan
from pathlib import Path
from time import sleep, time_ns
from types import ModuleType
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from hepdask_ml.campaign.unit import Block, Done, History, Runner, Strategy, Unit
from hepdask_ml.testing import DiceRunner, RunnerContract, StrategyContract

GUIDE = Path(__file__).parents[2] / "docs/guides/plugins.md"
Enough = Callable[[], bool]
RED, GREEN = (
    Unit("red", 90, {"sides": 6}, "throws of the red die"),
    Unit("green", 130, {"sides": 20}, "throws of the green die", grain=7),
)


# Good ones.


class TestDice(RunnerContract):
    def runner(self) -> Runner:
        return DiceRunner()

    def units(self) -> Sequence[Unit]:
        return [RED, GREEN]

    def broken_units(self) -> Sequence[Unit]:
        return [replace(RED, spec={"sides": "six"}), replace(RED, spec={"sides": 0})]


class TestSums(RunnerContract):
    """Results that are not put one after the other."""

    def runner(self) -> Runner:
        return Sums()

    def units(self) -> Sequence[Unit]:
        return [RED]

    def joined(self, results: Sequence[bytes]) -> int:
        return sum(map(int, results))


class Sums:
    def run(self, block: Block, enough: Enough) -> Done:
        done = DiceRunner().run(block, enough)
        return Done(done.reached, str(sum(done.result)).encode())


class InAFolder:
    folder: Path

    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path


class TestWalk(InAFolder, RunnerContract):
    """Ordered units, whose steps go on from a file that the ones before have left."""

    def runner(self) -> Runner:
        return Walk(tempfile.mkdtemp(dir=self.folder))

    def units(self) -> Sequence[Unit]:
        return [Unit("walk", 60, {}, "a walk", ordered=True)]


@dataclass(frozen=True)
class Walk:
    folder: str

    def run(self, block: Block, enough: Enough) -> Done:
        place = 0
        if block.start:
            place = int(Path(self.folder, f"{block.key} {block.start}").read_text())
        done = DiceRunner().run(block, enough)
        places = bytearray()
        for face in done.result:
            place = (place + face) % 256
            places.append(place)
        Path(self.folder, f"{block.key} {done.reached}").write_text(str(place))
        return Done(done.reached, bytes(places))


class Best:
    """Throws the die that has shown most so far twice as often, three times."""

    def plan(self, history: History) -> list[Unit]:
        records = history.records()
        if not records:
            return [Unit(f"die {i}", 20, {}, f"throws of die {i}") for i in range(4)]
        if any(r.done < r.unit.total for r in records) or sum(r.done for r in records) > 300:
            return []
        sums = {r.unit.key: sum(map(mean, history.results(r.unit.key))) for r in records}
        best = max(records, key=lambda record: sums[record.unit.key])
        return [replace(best.unit, total=2 * best.unit.total)]


def mean(block: tuple[int, int, bytes]) -> int:
    return sum(block[2])


class TestBest(StrategyContract):
    def strategy(self) -> Strategy:
        return Best()


class Chains:
    """Two chains of units, neither of which waits for the other."""

    def plan(self, history: History) -> list[Unit]:
        known = {record.unit.key: record for record in history.records()}
        units = []
        for chain in "ab":
            mine = [record for key, record in known.items() if key.startswith(chain)]
            if len(mine) < 4 and not any(record.open for record in mine):
                units.append(
                    Unit(
                        f"{chain}{len(mine)}", 30, {}, f"link {len(mine)} of {chain}", ordered=True
                    )
                )
        return units


class TestChains(InAFolder, StrategyContract):
    def strategy(self) -> Strategy:
        return Chains()

    def runner(self) -> Runner:
        return Walk(tempfile.mkdtemp(dir=self.folder))


# Bad runners.


class Bad:
    """Throws dice, and then does something wrong with them."""

    def run(self, block: Block, enough: Enough) -> Done:
        done = DiceRunner().run(block, enough)
        return replace(done, result=bytes(face ^ self.wrong(block) for face in done.result))

    def wrong(self, block: Block) -> int:
        return 0


class ByStart(Bad):
    def wrong(self, block: Block) -> int:
        return block.start % 251


class ByClock(Bad):
    def wrong(self, block: Block) -> int:
        return time_ns() // 1000 % 251


class ByToken(Bad):
    def wrong(self, block: Block) -> int:
        return block.token.encode()[0]


class ByMemory:
    farthest: dict[str, int] = {}  # noqa: RUF012 - that is what is wrong

    def run(self, block: Block, enough: Enough) -> Done:
        done = DiceRunner().run(block, enough)
        went_back = block.stop < self.farthest.get(block.key, 0)
        self.farthest[block.key] = block.stop
        return replace(done, result=done.result[::-1] if went_back else done.result)


class ByThread(Bad):
    def wrong(self, block: Block) -> int:
        return int(threading.current_thread() is not threading.main_thread())


class NotForThreads:
    block: Block

    def run(self, block: Block, enough: Enough) -> Done:
        self.block = block
        sleep(0.002)
        return replace(DiceRunner().run(self.block, enough), reached=block.stop)


class ByProcess(Bad):
    def wrong(self, block: Block) -> int:
        return int(sys.argv[0] == "-c")


class WithLock(Bad):
    def __init__(self) -> None:
        self.lock = threading.Lock()


class ForgetsItsSeed(DiceRunner):
    def __reduce__(self) -> Any:
        return ForgetsItsSeed, (2,)


class Heavy(DiceRunner):
    def __reduce__(self) -> Any:
        return partial(Heavy.made, bytes(17 * 2**20)), ()

    @staticmethod
    def made(_: bytes) -> Heavy:
        return Heavy()


@dataclass
class Wrong:
    """Says what a function makes of what was done."""

    change: Callable[[Block, Done], Any]

    def run(self, block: Block, enough: Enough) -> Done:
        done: Done = self.change(block, DiceRunner().run(block, enough))
        return done


class Deaf:
    def run(self, block: Block, enough: Enough) -> Done:
        sleep(0.1)
        return DiceRunner().run(block, lambda: False)


class LosesTheLast:
    def run(self, block: Block, enough: Enough) -> Done:
        done = DiceRunner().run(block, enough)
        stopped = block.start < done.reached < block.stop
        return replace(done, result=done.result[:-1]) if stopped else done


class HidesErrors:
    def run(self, block: Block, enough: Enough) -> Done:
        with suppress(Exception):
            return DiceRunner().run(block, enough)
        return Done(block.stop, bytes(block.stop - block.start))


class HidesWrongSpecs:
    def run(self, block: Block, enough: Enough) -> Done:
        with suppress(ValueError, ZeroDivisionError):
            return DiceRunner().run(block, enough)
        return Done(block.stop, bytes(block.stop - block.start))


def changed_spec(block: Block, done: Done) -> Done:
    spec: Any = block.spec
    spec["seen"] = True
    return done


BAD_RUNNERS: list[tuple[Callable[[], Runner], str, str]] = [
    (ByStart, "test_ranges_join", "where a range is cut"),
    (ByClock, "test_same_block_gives_the_same", "on key, spec and range alone"),
    (ByToken, "test_same_block_gives_the_same", "on key, spec and range alone"),
    (ByMemory, "test_order_does_not_matter", "on what was worked before"),
    (ByThread, "test_threads_do_not_matter", "on the thread"),
    (NotForThreads, "test_threads_do_not_matter", "what others do meanwhile"),
    (ByProcess, "test_process_does_not_matter", "must not depend on the process"),
    (WithLock, "test_pickled_runner_is_the_same", "has to be pickled"),
    (WithLock, "test_process_does_not_matter", "has to be pickled"),
    (ForgetsItsSeed, "test_pickled_runner_is_the_same", "must be the same after pickling"),
    (Heavy, "test_pickle_is_small", "has to be small: pickled, it takes 17,8"),
    (Deaf, "test_stops_when_it_is_enough", "has to look at enough"),
    (Deaf, "test_returns_soon_when_it_is_enough_from_the_beginning", "has to look at enough"),
    (LosesTheLast, "test_stops_when_it_is_enough", "the rest joins it"),
    (HidesErrors, "test_errors_are_raised", "it hid one in red"),
    (HidesWrongSpecs, "test_errors_are_raised", "for the broken unit red it returned"),
    (
        lambda: Wrong(lambda block, done: Done(block.stop + 1, done.result)),
        "test_ranges_join",
        "has to lie within the block",
    ),
    (
        lambda: Wrong(lambda block, done: Done(block.start, b"")),
        "test_ranges_join",
        "has to do at least one step",
    ),
    (
        lambda: Wrong(lambda _, done: Done(np.int64(done.reached), done.result)),  # type: ignore[arg-type]
        "test_ranges_join",
        "has to be an int",
    ),
    (
        lambda: Wrong(lambda _, done: Done(done.reached, bytearray(done.result))),  # type: ignore[arg-type]
        "test_ranges_join",
        "has to be bytes",
    ),
    (lambda: Wrong(lambda _, done: done.result), "test_ranges_join", "has to return a Done"),
    (lambda: Wrong(changed_spec), "test_ranges_join", "has to leave the spec as it is"),
]


@pytest.mark.parametrize(("make", "method", "words"), BAD_RUNNERS)
def test_bad_runner_is_caught(make: Callable[[], Runner], method: str, words: str) -> None:
    class Contract(TestDice):
        soon_s = 0.05 if make is Deaf else 5.0

        def runner(self) -> Runner:
            return make()

    with pytest.raises(AssertionError, match=words):
        getattr(Contract(), method)()


# Bad strategies.


@dataclass
class Planned:
    """Plans what a function says."""

    function: Callable[[History], list[Unit]]

    def plan(self, history: History) -> list[Unit]:
        return self.function(history)


def first(*units: Unit) -> Callable[[History], list[Unit]]:
    return lambda history: [] if history.records() else list(units)


def by_keys(plans: Mapping[tuple[str, ...], Sequence[Unit]]) -> Callable[[History], list[Unit]]:
    """Plan by the keys that are there, once they are done."""

    def plan(history: History) -> list[Unit]:
        records = history.records()
        if any(record.open for record in records):
            return []
        return list(plans.get(tuple(record.unit.key for record in records), ()))

    return plan


class Counts:
    """Plans something when it is asked for the first time."""

    def __init__(self) -> None:
        self.asked = 0

    def plan(self, history: History) -> list[Unit]:
        self.asked += 1
        return [RED] if self.asked == 1 and not history.records() else []


class HasAName:
    def __init__(self) -> None:
        self.name = uuid4().hex

    def plan(self, history: History) -> list[Unit]:
        return [] if history.records() else [replace(RED, spec={"name": self.name})]


class ByHash(StrategyContract):
    def strategy(self) -> Strategy:
        return Planned(first(replace(RED, title=f"die {hash('dice')}")))


def one_more(history: History) -> list[Unit]:
    n = len(history.records())
    return [replace(RED, key=f"red {n}")] if n < 5 else []


def without_end(history: History) -> list[Unit]:
    records = history.records()
    return [replace(RED, key=f"red {len(records)}")] if all(not r.open for r in records) else []


def by_steps(history: History) -> list[Unit]:
    records = history.records()
    if not records:
        return [RED]
    done = records[0].done
    return [replace(RED, key=f"after {done}")] if len(records) == 1 and done else []


def by_blocks(history: History) -> list[Unit]:
    records = history.records()
    if not records:
        return [RED]
    if records[0].open or len(records) > 1:
        return []
    return [replace(RED, key="more", total=10 * len(history.results("red")))]


def by_failure(history: History) -> list[Unit]:
    records = history.records()
    if not records:
        return [RED]
    if records[0].error is None or any(record.open for record in records):
        return []
    return [replace(RED, key=f"again {len(records)}")]


def without(history: History) -> list[Unit]:
    records = history.records()
    if not records:
        return [RED]
    return [GREEN] if len(records) == 1 and records[0].error is not None else []


class TestWithout(StrategyContract):
    failures_matter = True

    def strategy(self) -> Strategy:
        return Planned(without)


def spec(**what: Any) -> Callable[[], Strategy]:
    return lambda: Planned(first(replace(RED, spec=what)))


BAD_STRATEGIES: list[tuple[Callable[[], Strategy], str, str]] = [
    (Counts, "test_plan_is_pure", "without state of its own"),
    (HasAName, "test_plan_is_pure", "on settings and history alone"),
    (lambda: Planned(one_more), "test_planning_again_adds_nothing", "nothing more until"),
    (lambda: Planned(without_end), "test_it_ends", "more than most_rounds = 8 times, last red 8"),
    (lambda: Planned(first()), "test_it_ends", "has to begin"),
    (lambda: Planned(by_steps), "test_order_of_work_does_not_matter", "any part: unit after"),
    (lambda: Planned(by_blocks), "test_order_of_work_does_not_matter", "the size of blocks"),
    (lambda: Planned(by_blocks), "test_stops_do_not_matter", "when a campaign was stopped"),
    (lambda: Planned(by_failure), "test_a_unit_that_fails_can_be_taken_up", "has to end"),
    (
        lambda: Planned(without),
        "test_a_unit_that_fails_can_be_taken_up",
        "must not depend on whether a unit was given up",
    ),
    (
        lambda: Planned(by_keys({(): [RED], ("red",): [RED]})),
        "test_it_ends",
        r"still gave red \(90\), which is there already",
    ),
    (
        lambda: Planned(by_keys({(): [RED], ("red",): [RED, GREEN]})),
        "test_units_only_grow",
        "it gave red again",
    ),
    (
        lambda: Planned(by_keys({(): [RED], ("red",): [replace(RED, total=10), GREEN]})),
        "test_units_only_grow",
        "red had 90 steps and was planned with 10",
    ),
    (
        lambda: Planned(by_keys({(): [RED], ("red",): [replace(GREEN, key="red")]})),
        "test_units_only_grow",
        "no other change",
    ),
    (
        lambda: Planned(first(RED, GREEN, replace(RED, total=10))),
        "test_units_are_well_formed",
        "one plan holds red, green, red",
    ),
    (spec(pair=(1, 2)), "test_specs_survive_json", "no tuples"),
    (spec(mass=nan), "test_specs_survive_json", "no nan"),
    (spec(mass=np.ones(2)), "test_specs_survive_json", "no arrays"),
    (spec(table={1: "one"}), "test_specs_survive_json", "keys are str"),
    (spec(n=np.int64(1)), "test_specs_survive_json", "JSON gives back"),
    (lambda: Planned(first(replace(RED, total=0))), "test_units_are_well_formed", "positive"),
    (lambda: Planned(first(replace(RED, grain=0))), "test_units_are_well_formed", "grain"),
    (
        lambda: Planned(first(replace(RED, total=90.0))),  # type: ignore[arg-type]
        "test_units_are_well_formed",
        "total of a unit has to be an int",
    ),
    (
        lambda: Planned(first(replace(RED, title=" "))),
        "test_units_are_well_formed",
        "red has none",
    ),
]


@pytest.mark.parametrize(("make", "method", "words"), BAD_STRATEGIES)
def test_bad_strategy_is_caught(make: Callable[[], Strategy], method: str, words: str) -> None:
    class Contract(StrategyContract):
        most_rounds = 8

        def strategy(self) -> Strategy:
            return make()

    with pytest.raises(AssertionError, match=words):
        getattr(Contract(), method)()


def test_strategy_that_depends_on_the_process_is_caught() -> None:
    with pytest.raises(AssertionError, match="must not depend on the process"):
        ByHash().test_process_does_not_matter()


def test_contract_that_another_process_cannot_import_says_so() -> None:
    class Hidden(TestBest):
        pass

    with pytest.raises(AssertionError, match="at the top of a module"):
        Hidden().test_process_does_not_matter()


@pytest.mark.parametrize(
    "method",
    [RunnerContract().test_ranges_join, StrategyContract().test_it_ends],
)
def test_contract_says_what_to_override(method: Callable[[], None]) -> None:
    with pytest.raises(NotImplementedError, match="override"):
        method()


def test_contracts_are_light_to_import() -> None:
    code = "import sys, hepdask_ml.testing; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"dask", "distributed", "numpy", "pytest"} & set(done.stdout.split())


# The guide's.


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The plug-ins of the guide and their tests, as a module."""
    text = GUIDE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    file = tmp_path_factory.mktemp("guide") / "guide_plugins.py"
    file.write_text("\n\n".join(block for block in blocks if "class " in block), encoding="utf-8")
    found = spec_from_file_location(file.stem, file)
    assert found
    assert found.loader
    sys.modules[file.stem] = module = module_from_spec(found)
    found.loader.exec_module(module)
    yield module
    del sys.modules[file.stem]


@pytest.mark.parametrize("name", ["TestAcceptance", "TestUntilPrecise", "TestThreads"])
def test_plug_ins_of_the_guide_keep_their_contracts(guide: ModuleType, name: str) -> None:
    contract = getattr(guide, name)()
    for method in dir(contract):
        if method.startswith("test_"):
            getattr(contract, method)()
