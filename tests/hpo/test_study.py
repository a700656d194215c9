"""Searches as studies of Optuna: every trial is there, and importances name what matters."""

from __future__ import annotations

import sys

import pytest

optuna = pytest.importorskip("optuna")

import made_up_search  # noqa: E402 - after the library that it is about

from hepdask_ml.errors import InputError  # noqa: E402
from hepdask_ml.hpo import study  # noqa: E402
from hepdask_ml.hpo.trials import Objective  # noqa: E402

TYPES = {
    "real": {"type": "float", "low": 0.0, "high": 1.0},
    "log": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
    "steps": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.1},
    "whole": {"type": "int", "low": 0, "high": 10, "step": 5},
    "log_steps": {"type": "int", "low": 4, "high": 64, "log": True, "step": 4},
    "normal": {"type": "normal", "mu": 0.0, "sigma": 1.0},
    "log_normal": {"type": "normal", "mu": -3, "sigma": 1, "base": 10},
    "rounded": {"type": "normal", "mu": 20, "sigma": 5, "step": 2},
    "choice": {"type": "choice", "values": ["a", 1, 1.5, True, None, [1, 2], {"x": [3]}]},
    "fixed": 3,
}


def test_every_trial_is_there_with_its_state() -> None:
    found = made_up_search.found(12)
    made = study.study(found)
    states = [trial.state.name for trial in made.trials]
    assert states == ["COMPLETE"] * 5 + ["FAIL", "COMPLETE", "PRUNED"] + ["COMPLETE"] * 3 + [
        "RUNNING"
    ]
    assert found.best is not None
    assert made.best_trial.number == found.best.number
    assert made.best_trial.params == {
        name: value for name, value in found.best.params.items() if name != "batch"
    }


@pytest.mark.parametrize("known", [True, False])
def test_every_type_of_parameter_can_be_told(known: bool) -> None:
    found = made_up_search.found(20, space=TYPES, states={})
    if not known:  # as where an external program steers
        object.__setattr__(found, "spaces", {"": None})
    made = study.study(found)
    for mine, trial in zip(found.trials, made.trials, strict=True):
        for name, value in trial.params.items():
            assert value == study.shown(mine.params[name])
    assert ("fixed" in made.trials[0].params) is not known


def test_several_objectives_constraints_and_directions() -> None:
    aims = [Objective("loss"), Objective("auc", maximise=True)]
    found = made_up_search.found(30, objectives=aims, constraints=["memory"], states={})
    made = study.study(found)
    assert [direction.name for direction in made.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert [trial.number for trial in made.best_trials] == [trial.number for trial in found.front]


def test_importances_name_what_matters() -> None:
    shares = study.importances(made_up_search.found(200))
    assert next(iter(shares)) == "lr"
    assert sum(shares.values()) == pytest.approx(1.0)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert study.importances(made_up_search.found(200)) == shares


def test_importances_of_the_first_of_several_objectives() -> None:
    aims = [Objective("loss"), Objective("time")]
    several = study.importances(made_up_search.found(200, objectives=aims))
    assert several == pytest.approx(study.importances(made_up_search.found(200)))
    best = study.importances(made_up_search.found(200, objectives=[Objective("loss", True)]))
    assert best != pytest.approx(several)


def test_too_few_trials_say_nothing() -> None:
    with pytest.raises(InputError, match="3 trials with unlike losses are too few"):
        study.importances(made_up_search.found(3, states={}))
    with pytest.raises(InputError, match="0 trials with unlike losses"):
        study.importances(made_up_search.found(0, states={}))


def test_segments_have_to_be_named() -> None:
    found = made_up_search.found(4, segments=["barrel", "endcap"], states={})
    assert len(study.study(found, "endcap").trials) == 4
    with pytest.raises(InputError, match="name one of barrel, endcap"):
        study.study(found)
    with pytest.raises(InputError, match='"forward" is no segment: there are barrel, endcap'):
        study.study(found, "forward")


def test_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"need optuna: install hepdask-ml\[hpo\]"):
        study.study(made_up_search.found(3))
