"""The command line: answers, exit codes, and one sentence for every mistake."""

from __future__ import annotations

import copy
import gzip
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import made_up
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hepdask_ml
from hepdask_ml.errors import late
from hepdask_ml.ui.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

FEW = ["--toys", "60", "--scan", "0.5:4:3"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def written(folder: Path, workspace: Any, name: str = "workspace.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(workspace), encoding="utf-8")
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return written(tmp_path, made_up.control_region())


def assert_one_sentence(result: Result, *words: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in result.output
    assert not result.stdout
    for word in words:
        assert word in lines[0]


def no_nan(document: Any) -> None:
    json.dumps(document, allow_nan=False)


def test_limit_prints_a_table_of_80_columns(workspace: Path) -> None:
    result = run("limit", workspace, *FEW)
    assert result.exit_code == 0, result.output
    assert "95 % CL upper limit on mu: q-tilde, 60 toys of each hypothesis" in result.stdout
    for row in ("observed", "expected, -2 sigma", "expected, median", "expected, +2 sigma"):
        assert f"\n{row}" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "warning: 60 toys are too few for the -2 sigma band" in result.stderr


def test_limit_prints_its_document_alone(workspace: Path) -> None:
    result = run("limit", workspace, *FEW, "--json", "--cl", "0.9", "--seed", "3")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout, parse_constant=pytest.fail)
    assert list(document) == [
        "schema", "poi", "cl", "test_statistic", "seed", "toys", "points", "limits", "warnings",
        "versions",
    ]  # fmt: skip
    assert document["schema"] == "hepdask-ml/limit/1"
    assert (document["poi"], document["cl"], document["seed"]) == ("mu", 0.9, 3)
    assert [point["poi"] for point in document["points"]] == [0.5, 2.25, 4.0]
    bands = ["-2", "-1", "0", "1", "2"]
    for point in document["points"]:
        assert set(point["observed"]) == {"clsb", "clb", "cls", "cls_error"}
        assert list(point["expected"]) == bands
        assert len(point["asymptotic"]["expected"]) == 5
        assert point["toys"]["sb"] + point["toys"]["b"] + point["unconverged"] == 120
    assert list(document["limits"]["expected"]) == bands
    assert set(document["limits"]["observed"]) == {"value", "error"}
    assert len(document["limits"]["asymptotic"]["expected"]) == 5
    assert document["versions"]["hepdask-ml"] == hepdask_ml.__version__


def test_threads_do_not_change_a_byte(workspace: Path, tmp_path: Path) -> None:
    options = ["--toys", "1100", "--scan", "1:3:2", "--quiet"]
    for threads in ("1", "3"):
        place = ["--threads", threads, "-o", tmp_path / threads]
        assert run("limit", workspace, *options, *place).exit_code == 0
    for name in ("limit.json", "toys.parquet", "limit.png", "limit.pdf", "q.png"):
        one, three = (tmp_path / threads / name for threads in ("1", "3"))
        assert one.read_bytes() == three.read_bytes(), name


def test_seeds_change_the_toys(workspace: Path) -> None:
    one, two = (run("limit", workspace, *FEW, "--json", "--seed", seed) for seed in "12")
    assert json.loads(one.stdout)["points"] != json.loads(two.stdout)["points"]


def test_limit_writes_its_files(workspace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "limit"
    result = run("limit", workspace, *FEW, "-o", folder, "--hepdata", "--json")
    assert result.exit_code == 0, result.output
    assert (folder / "limit.json").read_text(encoding="utf-8") == result.stdout
    assert sorted(path.name for path in folder.iterdir()) == [
        "hepdata", "limit.json", "limit.pdf", "limit.png", "q.png", "run.json", "toys.parquet",
    ]  # fmt: skip
    assert sorted(path.name for path in (folder / "hepdata").iterdir()) == [
        "cls.yaml", "limits.yaml", "submission.yaml",
    ]  # fmt: skip
    assert f"wrote {folder / 'limit.json'}" in result.stderr


def test_hypotest_answers_and_writes(workspace: Path, tmp_path: Path) -> None:
    options = ["--mu", "2", "--toys", "60", "-o", tmp_path / "out"]
    result = run("hypotest", workspace, *options)
    assert result.exit_code == 0, result.output
    assert "Test of mu = 2: q-tilde, 60 toys of each hypothesis, seed 1" in result.stdout
    assert "CLs+b" in result.stdout
    document = json.loads((tmp_path / "out" / "hypotest.json").read_text(encoding="utf-8"))
    no_nan(document)
    assert document["schema"] == "hepdask-ml/hypotest/1"
    assert document["point"]["poi"] == 2.0
    assert json.loads(run("hypotest", workspace, *options, "--json").stdout) == document


@pytest.mark.parametrize("statistic", ["q", "qtilde", "t"])
def test_every_test_statistic(workspace: Path, tmp_path: Path, statistic: str) -> None:
    result = run("limit", workspace, *FEW, "--test-statistic", statistic, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output


def test_compressed_workspace_and_patch(tmp_path: Path) -> None:
    path = tmp_path / "workspace.json.gz"
    path.write_bytes(gzip.compress(json.dumps(made_up.counting()).encode()))
    patch = [{"op": "replace", "path": "/channels/0/samples/0/data/0", "value": 2.5}]
    options = [*FEW, "--json", "--patch", written(tmp_path, patch, "patch.json")]
    patched = json.loads(run("limit", path, *options).stdout)
    plain = json.loads(run("limit", path, *FEW, "--json").stdout)
    assert patched["limits"]["asymptotic"]["observed"] == pytest.approx(
        2.0 * plain["limits"]["asymptotic"]["observed"], rel=1e-3
    )


def test_measurement_and_poi_are_chosen(tmp_path: Path) -> None:
    spec = made_up.counting()
    spec["channels"][0]["samples"].append(made_up.sample("s2", [2.0], made_up.factor("nu")))
    spec["measurements"].append({"name": "other", "config": {"poi": "nu", "parameters": []}})
    path = written(tmp_path, spec)
    for options in (["--measurement", "other"], ["--poi", "nu"]):
        result = run("limit", path, "--toys", "20", "--scan", "1.5:2:2", "--json", *options)
        assert json.loads(result.stdout)["poi"] == "nu"


@pytest.mark.parametrize(
    ("scan", "words"),
    [
        ("1:2", "neither"),
        ("a:b:c", "neither"),
        ("1:2:3:4", "neither"),
        ("nan:2:3", "finite"),
        ("0:inf:3", "finite"),
        ("1:2:0", "empty"),
        ("1:2:-3", "empty"),
        ("2:1:3", "rise"),
        ("1:1:3", "rise"),
        ("", "neither"),
    ],
)
def test_bad_scan_is_a_usage_error(workspace: Path, scan: str, words: str) -> None:
    result = run("limit", workspace, "--scan", scan)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_scan_of_one_point(workspace: Path, tmp_path: Path) -> None:
    result = run("limit", workspace, "--scan", "1:1:1", "--toys", "30", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "does not cross" in " ".join(result.stderr.split())


@pytest.mark.parametrize("cl", ["0", "1", "-0.5", "95", "nan", "inf"])
def test_confidence_level_lies_between_0_and_1(workspace: Path, cl: str) -> None:
    assert_one_sentence(run("limit", workspace, "--cl", cl), "confidence level", "0 and 1")


@pytest.mark.parametrize("mu", ["nan", "inf", "-1", "1e9"])
def test_tested_value_lies_within_its_bounds(workspace: Path, mu: str) -> None:
    assert_one_sentence(run("hypotest", workspace, "--mu", mu), "bounds")


@pytest.mark.parametrize(
    "options",
    [["--toys", "0"], ["--toys", "x"], ["--threads", "0"], ["--starts", "0"], ["--seed", "x"],
     ["--test-statistic", "q0"], ["--cl", "x"], ["--wrong"]],
    ids=" ".join,
)  # fmt: skip
def test_bad_option_is_a_usage_error(workspace: Path, options: list[str]) -> None:
    result = run("limit", workspace, *options)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def changed(path: list[Any], value: Any) -> dict[str, Any]:
    """The workspace with a control region, one place of it changed."""
    spec = copy.deepcopy(made_up.control_region())
    place: Any = spec
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return spec


BACKGROUND = ["channels", 0, "samples", 1]
BAD_WORKSPACES = {
    "a list": [],
    "a number": 3,
    "empty": {},
    "no channels": changed(["channels"], []),
    "unknown poi": changed(["measurements", 0, "config", "poi"], "tau"),
    "nan data": changed(["observations", 0, "data"], [float("nan"), 2.0]),
    "negative data": changed(["observations", 0, "data"], [-1.0, 2.0]),
    "infinite nominal": changed([*BACKGROUND, "data"], [float("inf"), 2.0]),
    "shapes that do not match": changed(["observations", 0, "data"], [1.0]),
    "sample shapes that do not match": changed([*BACKGROUND, "data"], [1.0, 2.0, 3.0]),
    "staterror of another shape": changed([*BACKGROUND, "modifiers", 2, "data"], [0.1]),
    "modifier data missing": changed([*BACKGROUND, "modifiers", 1, "data"], None),
    "modifier data of the wrong kind": changed([*BACKGROUND, "modifiers", 1, "data"], [1, 2]),
    "unknown modifier": changed([*BACKGROUND, "modifiers", 1, "type"], "magic"),
    "no observation": changed(["observations"], []),
}


@pytest.mark.parametrize("spec", BAD_WORKSPACES.values(), ids=list(BAD_WORKSPACES))
def test_bad_workspace_gets_a_sentence(tmp_path: Path, spec: Any) -> None:
    assert_one_sentence(run("limit", written(tmp_path, spec), *FEW))


def test_bad_files_get_a_sentence(workspace: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{'not': json", encoding="utf-8")
    binary = tmp_path / "binary.json"
    binary.write_bytes(bytes(range(256)))
    truncated = tmp_path / "truncated.json.gz"
    truncated.write_bytes(gzip.compress(b"[" * 1000)[:-9])
    absent = tmp_path / "absent.json"
    for path in (broken, binary, truncated, absent, tmp_path, "https://host.invalid/x.json"):
        assert_one_sentence(run("limit", path, *FEW))
    assert_one_sentence(run("limit", workspace, "--measurement", "other"), "other")
    assert_one_sentence(run("limit", workspace, "--poi", "tau"), "tau")
    assert_one_sentence(run("limit", workspace, "--poi", ""))


def test_bad_patches_get_a_sentence(workspace: Path, tmp_path: Path) -> None:
    wrong = [{"op": "replace", "path": "/channels/7/name", "value": "x"}]
    patches = [
        written(tmp_path, wrong, "wrong.json"),
        written(tmp_path, [{"op": "dance"}], "dance.json"),
        written(tmp_path, {"patches": []}, "empty.json"),
        written(tmp_path, 3, "number.json"),
        "absent.json",
        f"{written(tmp_path, wrong, 'plain.json')}:name",
        f"{written(tmp_path, {'patches': []}, 'set.json')}:name",
    ]
    for patch in patches:
        assert_one_sentence(run("limit", workspace, *FEW, "--patch", patch))


@pytest.mark.parametrize("command", [["limit", *FEW], ["hypotest", "--mu", "1"]], ids=" ".join)
def test_unwritable_folder_is_told_before_the_toys(
    workspace: Path, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in (("limit", "upper_limit"), ("hypotest", "hypotest")):
        monkeypatch.setattr(late(f"inference.{module}"), name, pytest.fail)
    taken = tmp_path / "taken"
    taken.write_text("", encoding="utf-8")
    for folder in (taken, taken / "below", Path("/proc/nowhere"), tmp_path / ("x" * 300)):
        result = run(command[0], workspace, *command[1:], "-o", folder)
        assert_one_sentence(result, "cannot be written", "-o")


def test_hepdata_needs_a_folder(workspace: Path) -> None:
    assert_one_sentence(run("limit", workspace, "--hepdata"), "-o")


def raising(error: BaseException) -> Any:
    def ask(*_: Any, **__: Any) -> None:
        raise error

    return ask


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("strange"), 1, "--debug"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "fewer toys"),
        (hepdask_ml.HepdaskError("the fit failed: look at it"), 1, "look at it"),
    ],
)
def test_failures_are_sentences(
    workspace: Path, error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late("inference.limit"), "upper_limit", raising(error))
    assert_one_sentence(run("limit", workspace), words, code=code)


@pytest.mark.parametrize("error", [RuntimeError("strange"), hepdask_ml.InputError("wrong")])
def test_debug_shows_the_traceback(
    workspace: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late("inference.limit"), "upper_limit", raising(error))
    assert run("limit", workspace, "--debug").exception is error


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = list(node.items() if isinstance(node, dict) else enumerate(node))
    found = [(*path, key) for key, _ in below]
    for key, value in below:
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


JUNK = st.sampled_from(
    [None, True, 0, -1, 1e300, float("nan"), float("inf"), "", "x", [], [1], {}, {"lo": 1}]
)


# A fit without any finite likelihood subtracts infinities on its way to a status.
@pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    spec=st.sampled_from(sorted(made_up.MADE_UP)[:6]).map(made_up.MADE_UP.__getitem__),
    data=st.data(),
)
def test_mutated_workspaces_never_end_in_a_traceback(
    spec: dict[str, Any], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = copy.deepcopy(spec)
    for _ in range(data.draw(st.integers(1, 2))):
        *above, key = data.draw(st.sampled_from(places(spec)))
        place: Any = spec
        for step in above:
            place = place[step]
        if data.draw(st.booleans()):
            del place[key]
        else:
            place[key] = copy.deepcopy(data.draw(JUNK))
        if not spec:
            break
    path = written(tmp_path_factory.mktemp("mutated"), spec)
    result = run("limit", path, "--toys", "20", "--scan", "1:2:2", "--json")
    if result.exit_code == 0:
        json.loads(result.stdout, parse_constant=pytest.fail)
    else:
        assert "--debug" not in result.stderr, result.stderr
        assert_one_sentence(result, code=1 if "did not converge" in result.stderr else 2)


def process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hepdask_ml", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_program_answers_and_fails_as_a_process(workspace: Path, tmp_path: Path) -> None:
    done = process("limit", workspace, *FEW, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["poi"] == "mu"
    assert "warning: " in done.stderr
    failed = process("limit", tmp_path / "absent.json")
    assert failed.returncode == 2
    assert failed.stderr.startswith("Error: ")
    assert "Traceback" not in failed.stderr
    assert not failed.stdout


def test_help_and_version() -> None:
    shown = process("--help")
    assert shown.returncode == 0
    assert "hepdask-ml limit examples/workspace.json" in shown.stdout
    assert "_HEPDASK_ML_COMPLETE" in shown.stdout
    assert process("--version").stdout.split()[-1] == hepdask_ml.__version__


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, hepdask_ml.ui.cli; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "rich", "matplotlib", "pyarrow", "yaml", "fsspec"} & {
        *shown.stdout.split()
    }


def test_shell_completion() -> None:
    environment = {**os.environ, "_HEPDASK_ML_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": "hepdask-ml hy", "COMP_CWORD": "1"}
    code = "from hepdask_ml.ui.cli import main; main(prog_name='hepdask-ml')"
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "plain,hypotest"


def test_reader_that_leaves_early_gets_no_traceback(workspace: Path) -> None:
    command = [sys.executable, "-m", "hepdask_ml", "limit", str(workspace), *FEW, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        complaint = program.stderr.read().decode()
    assert "Traceback" not in complaint
    assert "Error: " not in complaint


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_interrupt_ends_in_a_sentence(workspace: Path) -> None:
    code = (
        "import os, signal, sys;"
        # A test run in the background of a shell inherits the signal ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from hepdask_ml.ui import show; from hepdask_ml.ui.cli import main;"
        "show.ToyProgress.advance = lambda *_: os.kill(os.getpid(), signal.SIGINT);"
        "main(['limit', sys.argv[1], '--toys', '5000000', '--scan', '1:2:2'])"
    )
    command = [sys.executable, "-c", code, str(workspace)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 130
    assert not done.stdout
    assert done.stderr == "Error: interrupted before the end: there is no result\n"


@pytest.mark.parametrize(
    ("command", "ask"), [("limit", hepdask_ml.upper_limit), ("hypotest", hepdask_ml.hypotest)]
)
def test_defaults_are_those_of_python(command: str, ask: Callable[..., Any]) -> None:
    # The command line writes them out, because it starts without the modules that hold them.
    parameters = inspect.signature(ask).parameters
    options = {option.name: option.default for option in main.commands[command].params}
    shared = ("toys", "seed", "test_statistic", "starts")
    assert {name: options[name] for name in shared} == {
        name: parameters[name].default for name in shared
    }
