import json
from dataclasses import replace
from math import isclose
from pathlib import Path

import numpy as np
import pytest
from benchmarks.command import main
from benchmarks.search_contestants import Ours
from benchmarks.search_functions import PROBLEMS, branin, currin, hartmann, hypervolume
from benchmarks.search_overhead import Load, asking, overhead
from benchmarks.search_quality import Case, Run, cases, comparisons, make_runs, read_runs, search

BRANIN, HARTMANN, NOISY, PARETO = PROBLEMS
PLAIN = Case(BRANIN.name, "optuna:random", "ours", "rounds", False, 1)


def test_the_quick_form_measures_and_reports(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("torch")
    numbers, page, runs = tmp_path / "numbers.json", tmp_path / "page.md", tmp_path / "runs"
    asked = ["--only", "quality", "--only", "checkpoint", "--quick", "--runs", str(runs)]
    results = main([*asked, "--json", str(numbers), "--markdown", str(page)])
    restarted = [each for each in results.quality if "ours" in each.first and "rest" in each.first]
    assert len(restarted) == 4
    assert all(each.same == each.seeds == 2 for each in restarted)
    assert json.loads(numbers.read_text())["quality"][0]["second"] == "library alone, rounds"
    assert "| 1 MB: Checkpoints.save |" in page.read_text()
    assert len(read_runs(runs)) == len(runs.read_text().splitlines()) > 20


@pytest.mark.slow
def test_idle_workers_are_measured() -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("torch")
    found = overhead((Load("optuna:tpe", 8, 0.02),), lambda text: None, spreads=(True,))
    assert len(found) == 6
    assert all(0.0 < each.idle < 1.0 and each.driver_s > 0.0 for each in found)


def test_proposals_are_timed() -> None:
    pytest.importorskip("optuna")
    (tpe,) = asking(quick=True)
    assert len(tpe.told) == len(tpe.one_s) == len(tpe.four_s)
    assert min(*tpe.one_s, *tpe.four_s) > 0.0


def test_functions_have_their_minima_where_they_are_known() -> None:
    for x, y in ((-np.pi, 12.275), (np.pi, 2.275), (9.42478, 2.475)):
        assert branin(x, y) == pytest.approx(BRANIN.best, abs=1e-6)
    lowest = [0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573]
    assert hartmann(lowest) == pytest.approx(HARTMANN.best, abs=1e-6)
    assert currin(0.0, 0.0) == 3.0


def test_the_hypervolume_is_that_of_a_fine_grid() -> None:
    points = [tuple(map(float, point)) for point in np.random.default_rng(1).random((12, 2))]
    grid = (np.arange(200) + 0.5) / 200
    covered = np.zeros((200, 200), bool)
    for x, y in points:
        covered |= (grid[:, None] >= x) & (grid[None, :] >= y)
    assert hypervolume(points, (1.0, 1.0)) == pytest.approx(covered.mean(), abs=0.02)
    assert hypervolume([(2.0, 0.0), (0.0, 2.0)], (1.0, 1.0)) == 0.0


def test_regret_is_of_what_looked_best() -> None:
    low, high = {f"x{i}": 0.5 for i in range(6)}, {f"x{i}": 0.0 for i in range(6)}
    trials = [(low, (-0.5,)), (high, (-0.6,))]
    assert NOISY.regret(trials) == HARTMANN.losses(high)[0] - HARTMANN.best
    assert NOISY.seen(low, 1, 2) == NOISY.seen(low, 1, 2) != NOISY.seen(low, 1, 3)
    assert BRANIN.seen({"x0": 0.0, "x1": 0.0}, 1, 2) == BRANIN.losses({"x0": 0.0, "x1": 0.0})


@pytest.mark.parametrize("mode", ["rounds", "async"])
def test_restarts_change_nothing_for_ours(mode: str) -> None:
    pytest.importorskip("optuna")
    case = replace(PLAIN, optimiser="optuna:tpe", mode=mode)
    assert search(replace(case, restarts=True), 33).regret == search(case, 33).regret


@pytest.mark.parametrize("optimiser", ["skopt:gp", "optuna:cmaes"])
@pytest.mark.parametrize("way", ["ours", "library alone"])
def test_everybody_can_be_restarted(optimiser: str, way: str) -> None:
    pytest.importorskip(optimiser.split(":")[0])
    pytest.importorskip("cmaes")
    case = replace(PLAIN, optimiser=optimiser, way=way, mode="async", restarts=True)
    assert search(case, 12).regret >= 0.0


def test_a_restart_keeps_the_past_as_it_was() -> None:
    pytest.importorskip("cmaes")
    ours = Ours("optuna:cmaes", HARTMANN, 1)
    for i, params in enumerate(ours.ask(3)[:2]):
        ours.tell(i, HARTMANN.losses(params))
    before = list(ours.past)
    ours.restart()
    assert ours.past == before
    assert [trial.pending for trial in ours.past] == [False, False, True]


def test_runs_are_made_once(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    file = tmp_path / "runs"
    said: list[str] = []
    first = make_runs([PLAIN], file, 1, said.append, budget=4)
    assert make_runs([PLAIN], file, 1, said.append, budget=4) == first
    assert said == ["1 of 1 searches"]


def test_comparisons_say_how_sure_they_are() -> None:
    noise = np.random.default_rng(1).lognormal(0.0, 0.1, (2, 20))
    runs = [
        Run(replace(PLAIN, way=way, seed=seed), factor * float(noise[i, seed]), 0.1)
        for i, (way, factor) in enumerate((("ours", 1.0), ("library alone", 2.0)))
        for seed in range(20)
    ]
    (found,) = comparisons(runs)
    low, middle, high = found.ratio
    assert low < 0.5 < high or isclose(middle, 0.5, rel_tol=0.1)
    assert high < 0.6
    assert found.p < 1e-3
    (equal,) = comparisons([*runs[:20], *(replace_way(run) for run in runs[:20])])
    assert (equal.p, equal.same, equal.ratio) == (1.0, 20, (1.0, 1.0, 1.0))


def replace_way(run: Run) -> Run:
    return replace(run, case=replace(run.case, way="library alone"))


def test_every_search_is_listed_once() -> None:
    every = list(cases(2))
    assert len(every) == len(set(every))
    assert {case.seed for case in every} == {0, 1}
