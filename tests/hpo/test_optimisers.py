from __future__ import annotations

import json
import random
import warnings
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from math import inf, log10, nan
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.optimisers import GROUP, Past, Proposal, find, names, one_loss, settled
from hepdask_ml.hpo.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hepdask_ml.hpo.optimisers import Optimiser

    Function = Callable[[dict[str, Any]], tuple[float, ...]]

NAMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            find_spec(name.split(":")[0]) is None
            or (name == "optuna:gp" and find_spec("torch") is None)
            or (name == "optuna:cmaes" and find_spec("cmaes") is None),
            reason="its library is not installed",
        ),
    )
    for name in names()
    if name != "optuna:grid"
]
SEVERAL = [name for name in NAMES if name.values[0] in {"optuna:tpe", "optuna:nsga2", "optuna:gp"}]
SINGLE = [
    name for name in NAMES if name.values[0] in {"skopt:gp", "skopt:forest", "skopt:dummy"}
] + [name for name in NAMES if name.values[0] == "optuna:cmaes"]

MIXED = Space.read(
    {
        "lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
        "layers": {"type": "int", "low": 1, "high": 8},
        "width": {"type": "int", "low": 32, "high": 512, "step": 32},
        "units": {"type": "int", "low": 4, "high": 256, "log": True},
        "method": ["adam", "sgd", None],
        "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"method": "sgd"}},
        "dropout": {"type": "float", "low": 0.0, "high": 0.5, "step": 0.1},
        "scale": {"type": "normal", "mu": 0.0, "sigma": 1.0},
        "batch": 64,
    }
)
LINE = Space.read({"x": {"type": "float", "low": -1.0, "high": 1.0}})
SQUARE = Space.read({name: {"type": "float", "low": 0.0, "high": 1.0} for name in "xy"})


def mixed(params: dict[str, Any]) -> tuple[float, ...]:
    away = (log10(params["lr"]) + 3.0) ** 2 + 0.1 * (params["layers"] - 3) ** 2
    return (away + params["dropout"] + params["scale"] ** 2 + params.get("momentum", 0.5),)


def bowl(params: dict[str, Any]) -> tuple[float, ...]:
    return ((params["x"] - 0.3) ** 2 + (params["y"] - 0.7) ** 2,)


def search(
    optimiser: Optimiser, space: Space, function: Function, n_trials: int, round_: int = 4
) -> list[Past]:
    past: list[Past] = []
    while len(past) < n_trials:
        proposals = optimiser.propose(space, past, round_, seed=1000 + len(past))
        if not proposals:
            break
        for each in proposals:
            losses = function(dict(each.params))
            past.append(Past(len(past), each.params, losses, attributes=each.attributes))
    return past


def best(past: Sequence[Past]) -> float:
    return min(trial.losses[0] for trial in past if trial.losses)


@pytest.mark.parametrize("name", NAMES)
class TestEveryOptimiser:
    def test_proposes_plain_trials_of_the_space(self, name: str) -> None:
        for trial in search(find(name), MIXED, mixed, 16):
            assert MIXED.checked(trial.params) == trial.params
            assert json.loads(json.dumps([trial.params, trial.attributes])) == [
                trial.params,
                trial.attributes,
            ]
            assert {type(value) for value in trial.params.values()} <= {
                int,
                float,
                str,
                type(None),
            }
            assert ("momentum" in trial.params) == (trial.params["method"] == "sgd")
            assert trial.params["batch"] == 64

    def test_does_not_look_at_the_order_of_the_past(self, name: str) -> None:
        optimiser = find(name)
        past = search(optimiser, MIXED, mixed, 16)
        past[13:] = [replace(trial, losses=None) for trial in past[13:]]
        shuffled = random.Random(3).sample(past, len(past))
        assert optimiser.propose(MIXED, past, 3, 7) == optimiser.propose(MIXED, shuffled, 3, 7)

    def test_takes_seeds_of_any_size(self, name: str) -> None:
        first, second = (find(name).propose(MIXED, [], 2, seed) for seed in (5, 2**64 - 1))
        assert len(first) == len(second) == 2
        assert first != second

    def test_goes_on_where_trials_fail(self, name: str) -> None:
        ends = iter([(nan,), None, (inf,), *[(0.1 * i,) for i in range(20)]])
        past: list[Past] = []
        for start in range(0, 20, 4):
            for each in find(name).propose(SQUARE, past, 4, start):
                end = next(ends)
                number = len(past)
                past.append(Past(number, each.params, end, (), each.attributes, failed=end is None))
        assert len(find(name).propose(SQUARE, past, 2, 9)) == 2

    def test_asks_where_every_trial_failed(self, name: str) -> None:
        past = [Past(i, {"x": 0.1 * i, "y": 0.5}, failed=True) for i in range(12)]
        assert len(find(name).propose(SQUARE, past, 3, 1)) == 3

    def test_asks_where_all_losses_are_equal(self, name: str) -> None:
        assert len(search(find(name), SQUARE, lambda _: (0.0,), 20)) == 20

    def test_searches_a_line(self, name: str) -> None:
        past = search(find(name), LINE, lambda params: (params["x"] ** 2,), 20)
        assert all(-1.0 <= trial.params["x"] <= 1.0 for trial in past)

    def test_gives_the_one_point_of_a_fixed_space(self, name: str) -> None:
        fixed = Space.read({"x": 1, "y": ["only"]})
        past = search(find(name), fixed, lambda _: (1.0,), 12)
        assert [trial.params for trial in past] == [{"x": 1, "y": "only"}] * 12

    def test_takes_trials_that_it_did_not_propose(self, name: str) -> None:
        rng = np.random.default_rng(1)
        past = [Past(i, point := SQUARE.sample(rng), bowl(point)) for i in range(15)]
        assert len(find(name).propose(SQUARE, past, 4, 1)) == 4

    def test_names_a_trial_of_another_space(self, name: str) -> None:
        with pytest.raises(InputError, match="trial 3 is not of this space: x"):
            find(name).propose(SQUARE, [Past(3, {"x": 7.0, "y": 0.0}, (1.0,))], 1, 1)

    def test_finds_the_minimum_better_than_chance(self, name: str) -> None:
        if name in {"skopt:dummy", "optuna:random", "optuna:nsga2"}:
            pytest.skip("chance itself, or nearly so for so few trials")
        found = [best(search(find(name), SQUARE, bowl, 40)) for _ in range(1)]
        chance = [best(search(find("optuna:random"), SQUARE, bowl, 40)) for _ in range(1)]
        assert np.median(found) < 0.01
        assert np.median(found) < 2.0 * np.median(chance)


@pytest.mark.parametrize("name", NAMES)
def test_pending_trials_are_not_proposed_again(name: str) -> None:
    optimiser = find(name)
    past = search(optimiser, SQUARE, bowl, 24)
    first = optimiser.propose(SQUARE, past, 1, 5)[0]
    pending = Past(len(past), first.params, attributes=first.attributes)
    second = optimiser.propose(SQUARE, [*past, pending], 1, 6)[0]
    assert second.params != first.params


@pytest.mark.parametrize(("name", "n"), [("skopt:gp", 1), ("skopt:gp", 3), ("skopt:forest", 1)])
def test_lies_are_what_the_surrogate_expects(
    name: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    skopt = pytest.importorskip("skopt")
    told: list[tuple[float, float]] = []
    tell = skopt.Optimizer.tell

    def heard(self: Any, x: Any, y: Any) -> Any:
        told.extend((point[0], float(loss)) for point, loss in zip(x, y, strict=True))
        return tell(self, x, y)

    monkeypatch.setattr(skopt.Optimizer, "tell", heard)
    past = [Past(i, {"x": x}, (x**2,)) for i, x in enumerate(np.linspace(-1.0, 1.0, 21).tolist())]
    find(name).propose(LINE, [*past, Past(21, {"x": 0.73})], n, 1)
    assert told[:21] == [(trial.params["x"], trial.losses[0]) for trial in past if trial.losses]
    assert len(told) == 21 + n
    for x, loss in told[21:]:
        assert loss == pytest.approx(x**2, abs=0.1)


@pytest.mark.parametrize("name", SEVERAL)
def test_several_losses_and_constraints(name: str) -> None:
    def losses(params: dict[str, Any]) -> tuple[float, ...]:
        return (params["x"], 1.0 - params["x"] + params["y"])

    optimiser = find(name)
    assert optimiser.several
    past: list[Past] = []
    for start in range(0, 32, 4):
        for each in optimiser.propose(SQUARE, past, 4, start):
            values = losses(dict(each.params))
            constraints = (0.2 - each.params["x"],)
            number = len(past)
            trial = Past(number, each.params, values, constraints, each.attributes, number % 9 == 4)
            past.append(trial)
    assert len(past) == 32


@pytest.mark.parametrize("name", SINGLE)
def test_several_losses_are_refused(name: str) -> None:
    assert not find(name).several
    past = [Past(0, {"x": 0.1, "y": 0.2}, (1.0, 2.0))]
    with pytest.raises(InputError, match=f"{name} takes one loss, and the trials have 2"):
        find(name).propose(SQUARE, past, 1, 1)


@pytest.mark.parametrize("name", [name for name in NAMES if name.values[0] != "optuna:cmaes"])
def test_a_space_of_choices(name: str) -> None:
    space = Space.read({"a": ["u", "v", "w"], "b": [1, 1.0, True, [2, 3]], "c": [32, 64, 128]})
    past = search(find(name), space, lambda p: (p["c"] / 32 + (p["a"] != "v"),), 24)
    assert best(past) == 1.0


def test_an_infeasible_trial_keeps_optimisers_away() -> None:
    pytest.importorskip("skopt")

    def function(params: dict[str, Any]) -> tuple[float, ...]:
        return (-params["x"],)

    past: list[Past] = []
    for start in range(0, 40, 4):
        for each in find("skopt:gp").propose(LINE, past, 4, start):
            x = each.params["x"]
            past.append(Past(len(past), each.params, (-x,), (x - 0.5,)))
    assert max(t.params["x"] for t in past if t.feasible) > 0.45
    assert sum(t.params["x"] > 0.75 for t in past[12:]) < 8


class TestGrid:
    def test_gives_every_point_once(self) -> None:
        space = Space.read(
            {
                "a": ["u", "v"],
                "b": {"type": "int", "low": 1, "high": 3},
                "c": {"type": "float", "low": 0, "high": 1, "step": 0.25, "when": {"a": "v"}},
                "d": 7,
            }
        )
        past = search(find("optuna:grid"), space, lambda _: (1.0,), 1000, round_=4)
        points = {json.dumps(trial.params, sort_keys=True) for trial in past}
        assert len(past) == len(points) == 3 + 3 * 5
        assert find("optuna:grid").propose(space, past, 4, 1) == []

    def test_needs_an_end_of_values(self) -> None:
        with pytest.raises(InputError, match="x has no end of values"):
            find("optuna:grid").propose(LINE, [], 1, 1)

    def test_has_to_be_of_a_reasonable_size(self) -> None:
        huge = Space.read({"n": {"type": "int", "low": 1, "high": 10**9}})
        with pytest.raises(InputError, match="more than 100000 points"):
            find("optuna:grid").propose(huge, [], 1, 1)


class TestCmaEs:
    def test_keeps_where_a_point_lay_and_nothing_that_runs(self) -> None:
        pytest.importorskip("cmaes")
        past = search(find("optuna:cmaes"), SQUARE, bowl, 40)
        assert [trial.attributes["generation"] for trial in past] == [i // 8 for i in range(40)]
        assert {trial.attributes["population"] for trial in past} == {8}

    def test_rebuilt_in_every_round_it_is_as_good_as_undisturbed(self) -> None:
        optuna = pytest.importorskip("optuna")
        pytest.importorskip("cmaes")
        space = Space.read({f"x{i}": {"type": "float", "low": -2, "high": 2} for i in range(4)})

        def rosenbrock(params: dict[str, Any]) -> tuple[float, ...]:
            x = [params[f"x{i}"] for i in range(4)]
            pairs = pairwise(x)
            return (sum(100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2 for a, b in pairs),)

        ours, theirs = [], []
        optuna.logging.disable_default_handler()
        for seed in range(5):
            optimiser = find("optuna:cmaes")
            past: list[Past] = []
            while len(past) < 400:
                for each in optimiser.propose(space, past, 8, 10_000 * seed + len(past)):
                    losses = rosenbrock(dict(each.params))
                    past.append(Past(len(past), each.params, losses, (), each.attributes))
            ours.append(best(past))
            study = optuna.create_study(sampler=optuna.samplers.CmaEsSampler(seed=seed))
            study.optimize(
                lambda t: rosenbrock({f"x{i}": t.suggest_float(f"x{i}", -2, 2) for i in range(4)})[
                    0
                ],
                400,
            )
            theirs.append(study.best_value)
        assert np.median(ours) < 2.0 * np.median(theirs)

    def test_needs_numbers(self) -> None:
        pytest.importorskip("cmaes")
        with pytest.raises(InputError, match="needs numbers"):
            find("optuna:cmaes").propose(Space.read({"a": ["u", "v"]}), [], 1, 1)

    def test_begins_at_the_best_of_an_older_search(self) -> None:
        pytest.importorskip("cmaes")
        older = [Past(i, {"x": x, "y": 0.9}, (x,)) for i, x in enumerate((0.5, 0.1, 0.3))]
        proposals = find("optuna:cmaes").propose(SQUARE, older, 64, 1)
        assert np.mean([each.params["x"] for each in proposals]) < 0.35
        assert np.mean([each.params["y"] for each in proposals]) > 0.65


class TestSettled:
    def test_failed_trials_get_the_worst_of_each(self) -> None:
        past = [
            Past(3, {}, None, failed=True),
            Past(1, {}, (1.0, 5.0), (-1.0,)),
            Past(2, {}, (2.0, 4.0), (0.5,)),
            Past(4, {}, (nan, 1.0), (0.0,)),
            Past(5, {}),
        ]
        assert [(t.number, t.losses, t.constraints) for t in settled(past)] == [
            (1, (1.0, 5.0), (-1.0,)),
            (2, (2.0, 4.0), (0.5,)),
            (3, (2.0, 5.0), (0.5,)),
            (4, (2.0, 5.0), (0.5,)),
            (5, None, ()),
        ]

    def test_a_loss_of_zero_is_a_loss(self) -> None:
        assert [loss for _, loss in one_loss([Past(0, {}, (0.0,))], "a")] == [0.0]

    def test_failed_trials_are_left_out_where_there_is_nothing_to_compare(self) -> None:
        assert settled([Past(0, {}, failed=True), Past(1, {})]) == [Past(1, {})]

    def test_an_infeasible_trial_gets_the_worst_loss(self) -> None:
        past = [Past(0, {}, (1.0,), (-1.0,)), Past(1, {}, (0.1,), (0.1,)), Past(2, {})]
        assert [loss for _, loss in one_loss(past, "a")] == [1.0, 1.0, None]

    @pytest.mark.parametrize("what", ["losses", "constraints"])
    def test_trials_have_as_many_of_each(self, what: str) -> None:
        second = ((1.0, 2.0), (0.0,)) if what == "losses" else ((1.0,), (0.0, 1.0))
        with pytest.raises(InputError, match=f"trial 0 has 1 {what} and trial 1 has 2"):
            settled([Past(0, {}, (1.0,), (0.0,)), Past(1, {}, *second)])


class TestFinding:
    def test_an_unknown_name_gets_advice(self) -> None:
        with pytest.raises(InputError, match='"optuna:tep" is no optimiser: did you mean "optuna:'):
            find("optuna:tep")

    def test_a_hopeless_name_gets_the_list(self) -> None:
        with pytest.raises(InputError, match="there are skopt:gp, skopt:forest"):
            find("?")

    @pytest.mark.parametrize(
        ("name", "missing", "advice"),
        [
            ("skopt:gp", "skopt", r"needs scikit-optimize: install hepdask-ml\[hpo\]"),
            ("optuna:tpe", "optuna", r"needs optuna: install hepdask-ml\[hpo\]"),
            ("optuna:cmaes", "cmaes", r"needs cmaes: install hepdask-ml\[hpo\]"),
        ],
    )
    def test_an_absent_library_is_named(
        self, name: str, missing: str, advice: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(module: str) -> Any:
            if module == missing:
                raise ModuleNotFoundError(module)
            return import_module(module)

        monkeypatch.setattr("hepdask_ml.hpo.optimisers.import_module", refuse)
        with pytest.raises(InputError, match=advice):
            find(name)

    def test_other_packages_may_bring_optimisers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Theirs:
            several = False

            def propose(
                self, space: Space, past: Sequence[Past], n: int, seed: int
            ) -> list[Proposal]:
                return [Proposal({"x": seed})] * n

        point = SimpleNamespace(name="theirs", load=lambda: Theirs)
        monkeypatch.setattr(
            "hepdask_ml.hpo.optimisers.entry_points", lambda group: [point] * (group == GROUP)
        )
        assert names()[-1] == "theirs"
        assert find("theirs").propose(LINE, [], 1, 5) == [Proposal({"x": 5})]


def test_libraries_stay_silent(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("skopt:gp", "optuna:tpe"):
        pytest.importorskip(name.split(":")[0])
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            search(find(name), LINE, lambda _: (0.0,), 16)
        assert not heard
    assert capfd.readouterr().err == ""
