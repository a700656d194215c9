"""The light form: equal to the limit in one process, whatever the scheduler and the blocks."""

from __future__ import annotations

import json
import runpy
from math import isnan
from typing import TYPE_CHECKING, Any

import dask
import made_up
import numpy as np
import pytest
from dask.delayed import delayed
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml.errors import InputError
from hepdask_ml.inference.limit import Limit, upper_limit
from hepdask_ml.likelihood.compile import compile_model
from hepdask_ml.limits.graph import FAN_IN, MOST_BLOCKS, toy_limit_graph

if TYPE_CHECKING:
    from pathlib import Path

    from dask.delayed import Delayed

SCAN = [3.0, 0.5, 1.0, 2.0]
TOYS = 3_000
MODEL = compile_model(made_up.one_bin())


def compute(graph: Any, scheduler: str = "threads") -> Limit:
    limit = graph.compute(scheduler=scheduler)
    assert isinstance(limit, Limit)
    return limit


def assert_equal(limit: Limit, other: Limit) -> None:
    assert limit.to_json() == other.to_json()
    for point, twin in zip(limit.points, other.points, strict=True):
        for toys, same in ((point.toys_sb, twin.toys_sb), (point.toys_b, twin.toys_b)):
            np.testing.assert_array_equal(toys.q, same.q)
            np.testing.assert_array_equal(toys.poi_hat, same.poi_hat)
            np.testing.assert_array_equal(toys.status, same.status)


def keys(graph: Delayed, *kinds: str) -> set[str]:
    return {key for key in graph.dask if not kinds or key.split("-")[0] in kinds}


@pytest.fixture(scope="module")
def expected() -> Limit:
    return upper_limit(made_up.one_bin(), toys=TOYS, scan=SCAN)


@pytest.mark.parametrize("name", ["one bin", "control region", "one-sided"])
@pytest.mark.parametrize("test_statistic", ["qtilde", "t"])
def test_limit_is_the_one_of_upper_limit(name: str, test_statistic: str) -> None:
    options: dict[str, Any] = {"toys": 700, "scan": SCAN, "seed": 5, "cl": 0.9, "starts": 2}
    options["test_statistic"] = test_statistic
    model = made_up.MADE_UP[name]
    assert_equal(compute(toy_limit_graph(model, **options)), upper_limit(model, **options))


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_scheduler_does_not_matter(scheduler: str, expected: Limit) -> None:
    graph = toy_limit_graph(made_up.one_bin(), toys=TOYS, scan=SCAN)
    assert_equal(compute(graph, scheduler), expected)


def test_distributed_workers_give_the_same(expected: Limit) -> None:
    distributed = pytest.importorskip("distributed")
    graph: Any = toy_limit_graph(made_up.one_bin(), toys=TOYS, scan=SCAN)
    with (
        distributed.LocalCluster(n_workers=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        assert_equal(graph.compute(), expected)


@pytest.mark.parametrize("blocks", [1, 2, 5, 200])
def test_blocks_do_not_matter(blocks: int, expected: Limit) -> None:
    graph = toy_limit_graph(made_up.one_bin(), toys=TOYS, scan=SCAN, blocks=blocks)
    assert_equal(compute(graph), expected)


@pytest.mark.parametrize("what", ["dict", "file", "text", "model", "delayed", "delayed file"])
def test_workspace_comes_in_any_form(what: str, expected: Limit, tmp_path: Path) -> None:
    file = tmp_path / "workspace.json"
    file.write_text(json.dumps(made_up.one_bin()), encoding="utf-8")
    forms: dict[str, Any] = {
        "dict": made_up.one_bin(),
        "file": file,
        "text": str(file),
        "model": compile_model(made_up.one_bin()),
        "delayed": delayed(made_up.one_bin)(),
        "delayed file": delayed(str)(file),
    }
    assert_equal(compute(toy_limit_graph(forms[what], toys=TOYS, scan=SCAN)), expected)


@pytest.mark.parametrize("wrap", [lambda workspace: workspace, delayed])
def test_options_reach_the_model(wrap: Any) -> None:
    workspace = made_up.control_region()
    config = {"poi": "mu_b", "parameters": []}
    workspace["measurements"].append({"name": "other", "config": config})
    patch = [{"op": "replace", "path": "/observations/0/data", "value": [14.0, 1.0]}]
    options: dict[str, Any] = {"poi": "mu", "measurement": "other", "patch": patch}
    limit = compute(toy_limit_graph(wrap(workspace), toys=100, scan=SCAN, **options))
    assert_equal(limit, upper_limit(compile_model(workspace, **options), toys=100, scan=SCAN))
    assert limit.poi == "mu"


def test_automatic_scan_is_the_first_of_upper_limit() -> None:
    workspace = made_up.control_region()
    limit = compute(toy_limit_graph(workspace, toys=1_000))
    assert_equal(limit, upper_limit(workspace, toys=1_000))
    assert_equal(limit, upper_limit(workspace, toys=1_000, scan=[p.mu for p in limit.points]))


def test_limit_that_the_scan_does_not_cross_is_undefined() -> None:
    workspace = made_up.one_bin()
    parameters = [{"name": "mu", "bounds": [[0.0, 0.5]], "inits": [0.1]}]
    workspace["measurements"][0]["config"]["parameters"] = parameters
    limit = compute(toy_limit_graph(workspace, toys=500))
    assert isnan(limit.observed.value)
    assert any("does not cross the level" in warning for warning in limit.warnings)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scan": "linear"}, 'the scan is "linear": give "auto" or a list of values'),
        ({"scan": []}, 'the scan is empty: give at least one value, or "auto"'),
        ({"scan": [1.0, float("nan")]}, "the scan holds nan: give finite values"),
        ({"scan": [1.0, "two"]}, "the scan holds something that is no number"),
        ({"scan": [delayed(1.0)]}, "the scan holds something that is no number"),
        ({"blocks": 0}, "blocks is 0: give an integer of at least one"),
        ({"blocks": 1.5}, "blocks is 1.5: give an integer of at least one"),
        ({"toys": 0}, "toys is 0: it must be at least one"),
        ({"seed": "x"}, "seed is 'x': give an integer"),
        ({"cl": 95}, "the confidence level is 95"),
        ({"test_statistic": "q0"}, "q0"),
        ({"poi": "nu"}, 'the model has no parameter "nu"'),
    ],
)
def test_bad_input_is_told_at_once(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        toy_limit_graph(made_up.one_bin(), **options)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_value_outside_the_bounds_is_told_before_any_toy_is_thrown() -> None:
    graph = toy_limit_graph(made_up.one_bin(), scan=[1.0, 11.0])
    with pytest.raises(InputError, match=r"mu = 11 cannot be tested: the bounds .* 0 and 10"):
        compute(graph)
    (scan,) = keys(graph, "scan")
    assert all(scan in graph.dask.dependencies[key] for key in keys(graph, "observed"))


def test_bad_workspace_from_the_graph_is_told_when_computed() -> None:
    graph = toy_limit_graph(delayed(dict)(), scan=SCAN)
    with pytest.raises(InputError, match=r"measurements|channels"):
        compute(graph)


@settings(deadline=None, max_examples=50)
@given(toys=st.integers(1, 150_000), blocks=st.none() | st.integers(1, 400))
def test_blocks_cover_the_toys_evenly(toys: int, blocks: int | None) -> None:
    graph = toy_limit_graph(MODEL, toys=toys, scan=[1.0], blocks=blocks)
    for hypothesis in ("sb", "b"):
        thrown = {key for key in keys(graph, "toys") if f"-{hypothesis}-" in key}
        ranges = sorted(tuple(map(int, key.rsplit("-", 2)[1:])) for key in thrown)
        edges = [0, *(stop for _, stop in ranges)]
        assert edges[-1] == toys
        assert [start for start, _ in ranges] == edges[:-1]
        sizes = [stop - start for start, stop in ranges]
        assert max(sizes) - min(sizes) <= 1
        assert len(ranges) == min(blocks or MOST_BLOCKS, toys if blocks else max(toys // 512, 1))


@pytest.mark.parametrize("blocks", [1, 7, 8, 9, 64, 65, 200])
def test_no_node_gathers_all_blocks(blocks: int) -> None:
    graph = toy_limit_graph(MODEL, toys=100_000, scan=[1.0, 2.0], blocks=blocks)
    below = graph.dask.dependencies
    assert len(keys(graph, "toys")) == 2 * 2 * blocks
    for key, inputs in below.items():
        assert len([name for name in inputs if name.split("-")[0] in ("toys", "join")]) <= FAN_IN
        assert len(inputs) > 1 or not key.startswith("join")
    assert all(len(below[key]) == 4 for key in keys(graph, "point"))
    (experiment,) = keys(graph, "experiment")
    assert all(experiment in below[key] for key in keys(graph, "toys", "point", "observed"))


def test_keys_tell_what_is_computed() -> None:
    graph = toy_limit_graph(MODEL, toys=1_000, scan=[2.0, 0.25], blocks=1)
    names = {key.rsplit("-", 3)[0] for key in keys(graph, "toys")}
    assert names == {"toys-mu=2-sb", "toys-mu=2-b", "toys-mu=0.25-sb", "toys-mu=0.25-b"}
    assert {key.rsplit("-", 1)[0] for key in keys(graph, "point")} == {
        "point-mu=2",
        "point-mu=0.25",
    }


def test_equal_input_gives_equal_keys(tmp_path: Path) -> None:
    file = tmp_path / "workspace.json"
    file.write_text(json.dumps(made_up.one_bin()), encoding="utf-8")
    graph = toy_limit_graph(file, scan=SCAN)
    assert keys(graph) == keys(toy_limit_graph(made_up.one_bin(), scan=np.array(SCAN)))
    file.write_text(json.dumps(made_up.two_bins()), encoding="utf-8")
    assert keys(graph).isdisjoint(keys(toy_limit_graph(file, scan=SCAN)))
    upstream = delayed(made_up.one_bin, pure=True)()
    assert keys(toy_limit_graph(upstream)) == keys(toy_limit_graph(upstream))


@pytest.mark.parametrize(
    ("options", "shared"),
    [
        ({"cl": 0.9}, {"experiment", "scan", "observed", "toys", "join", "point"}),
        ({"seed": 2}, {"experiment", "asymptotic", "scan", "observed"}),
        ({"scan": [1.0, 2.0]}, {"experiment", "asymptotic"}),
        ({"toys": 20_480}, {"experiment", "asymptotic", "scan", "observed", "toys", "join"}),
        ({"starts": 2}, set()),
        ({"test_statistic": "t"}, set()),
    ],
)
def test_graphs_share_what_they_have_in_common(options: dict[str, Any], shared: set[str]) -> None:
    settings: dict[str, Any] = {"scan": [1.0], "toys": 10_240}
    one = keys(toy_limit_graph(MODEL, **settings))
    other = keys(toy_limit_graph(MODEL, **{**settings, **options}))
    assert {key.split("-")[0] for key in one & other} == {"model", *shared}


def test_equal_keys_have_equal_inputs() -> None:
    settings: dict[str, Any] = {"scan": [1.0], "toys": 10_000}
    graphs = [toy_limit_graph(MODEL, blocks=blocks, **settings) for blocks in (1, 2, 16, 17, None)]
    graphs += [toy_limit_graph(MODEL, scan=scan) for scan in ([1.0, 2.0], "auto")]
    seen: dict[str, set[str]] = {}
    for graph in graphs:
        for key, inputs in graph.dask.dependencies.items():
            assert seen.setdefault(key, inputs) == inputs


def test_limits_are_computed_together(expected: Limit) -> None:
    options: dict[str, Any] = {"toys": TOYS, "scan": SCAN}
    graphs = [toy_limit_graph(MODEL, blocks=blocks, **options) for blocks in (1, 3, None)]
    graphs.append(toy_limit_graph(MODEL, cl=0.9, **options))
    *equal, other = delayed(graphs).compute(scheduler="threads")
    for limit in equal:
        assert_equal(limit, expected)
    assert_equal(other, upper_limit(MODEL, cl=0.9, **options))


def test_example_prints_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(made_up.ROOT / "examples" / "coffea_graph.py"))
    with dask.config.set(scheduler=None):  # as in a fresh process
        example["main"]()
    assert capsys.readouterr().out.startswith("observed: ")
