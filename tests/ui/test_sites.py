"""The commands of ``hepdask-ml site``, as somebody would run them."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import click
import dask
import pytest
from click.testing import CliRunner, Result
from distributed import LocalCluster

from hepdask_ml.config import read_site
from hepdask_ml.errors import InputError
from hepdask_ml.facility import site as site_module
from hepdask_ml.facility.site import kinds, ready, settled
from hepdask_ml.ui.cli import main
from hepdask_ml.ui.sites import HIDDEN, overrides

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["site", *(str(argument) for argument in arguments)])


def answer(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert not result.stderr
    return result.stdout


def document(*arguments: object) -> Any:
    return json.loads(answer(*arguments, "--json"))


def assert_one_sentence(result: Result, *words: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in result.output
    for word in words:
        assert word in lines[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_list_has_every_kind_and_every_ready_site_once() -> None:
    names = [each["name"] for each in document("list")["sites"]]
    assert sorted(names) == sorted({*kinds(), *ready()})
    shown = answer("list")
    for name in names:
        assert name in shown


def test_the_list_says_what_a_site_is_and_where_it_comes_from() -> None:
    found = {each["name"]: each for each in document("list")["sites"]}
    assert found["slurm"] == {
        "name": "slurm",
        "kind": "slurm",
        "source": "hepdask-ml",
        "description": "Any Slurm cluster",
    }
    assert found["cern-lxbatch"]["kind"] == "htcondor"
    assert found["cern-lxbatch"]["source"] == "ready site"


def test_the_list_has_the_sites_of_dasks_configuration() -> None:
    sites = {
        "mine": {"kind": "slurm", "options": {"queue": "long"}},
        "cern_lxbatch": {"workers": 99},
        "odd": {"kind": "slrum"},
    }
    with dask.config.set({"hepdask-ml.sites": sites}):
        found = {each["name"]: each for each in document("list")["sites"]}
    assert found["mine"]["kind"] == "slurm"
    assert found["mine"]["source"] == "Dask's configuration"
    assert found["cern-lxbatch"]["source"] == "ready site, changed by Dask's configuration"
    assert "cern_lxbatch" not in found
    assert found["odd"]["kind"] == ""
    assert 'did you mean "slurm"?' in found["odd"]["description"]


@pytest.mark.parametrize("name", sorted(ready().keys() - kinds()))
def test_what_is_shown_of_a_ready_site_is_a_file_of_the_same_settings(
    name: str, folder: Path
) -> None:
    (folder / "shown.yaml").write_text(answer("show", name), encoding="utf-8")
    again = read_site(folder / "shown.yaml")
    assert again == settled(name)
    assert document("show", name)["options"] == again.options


def test_it_is_shown_where_a_setting_comes_from(folder: Path) -> None:
    (folder / "mine.yaml").write_text("kind: fnal-lpc\noptions:\n  memory: 3 GB\n")
    said = {"fnal-lpc": {"options": {"disk": "7 GB"}}}
    with dask.config.set({"hepdask-ml.sites": said}):
        shown = answer("show", "mine.yaml", "-O", "walltime=04:00:00", "-O", "threads=2")
    source = {
        line.split(":")[0].strip(): line.partition("  # ")[2]
        for line in shown.splitlines()
        if not line.startswith("#")
    }
    assert source["walltime"] == source["threads"] == "-O"
    assert source["memory"] == "mine.yaml"
    assert source["disk"] == "Dask's configuration"
    assert source["workers"] == "fnal-lpc"
    assert "kind: htcondor" in shown


def test_a_file_called_like_a_site_does_not_hide_it(folder: Path) -> None:
    (folder / "slurm").write_text("no: settings", encoding="utf-8")
    assert "kind: slurm" in answer("show", "slurm", "-O", "queue=short")


def test_it_is_shown_whether_a_site_was_tried() -> None:
    assert "# Tried: " in answer("show", "cern-lxbatch")


def test_a_kind_tells_where_its_options_are() -> None:
    shown = answer("show", "slurm")
    assert "kind: slurm\n" in shown
    assert shown.rstrip().endswith(f"see {ready()['slurm']}")


def test_secrets_are_hidden() -> None:
    option = "environment={MY_TOKEN: hush, DB_PASSWORD: hush, KEYBOARD: us}"
    for words in ([], ["--json"]):
        shown = answer("show", "slurm", "-O", option, *words)
        assert "hush" not in shown
        assert HIDDEN in shown
        assert '"us"' in shown


def test_a_job_script_is_shown_without_submitting_it(folder: Path) -> None:
    changes = ["-O", "queue=short", "-O", "gpus=2", "-O", "walltime=01:30:00"]
    script = answer("show", "slurm", *changes, "--dry-run")
    assert script == answer("check", "slurm", *changes, "--dry-run")
    assert script.startswith("#!")
    for line in ("#SBATCH -p short", "#SBATCH -t 01:30:00", "#SBATCH --gres=gpu:2"):
        assert line in script
    assert document("show", "slurm", *changes, "--dry-run")["script"] == script
    assert list(folder.iterdir()) == []


def test_a_kind_that_submits_nothing_says_so() -> None:
    assert answer("show", "local", "--dry-run") == "a site of the kind local submits nothing\n"
    assert document("check", "local", "--dry-run")["script"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "slrum"], ['did you mean "slurm"?']),
        (["check", "slrum"], ['did you mean "slurm"?']),
        (["show", "none.yaml"], ["none.yaml cannot be read"]),
        (["show", "slurm", "-O", "queue"], ["-O queue", "NAME=VALUE"]),
        (["show", "slurm", "-O", "que=short"], ["options.que", 'did you mean "queue"?']),
        (["show", "slurm", "-O", "walltime=soon"], ["walltime", "is no duration"]),
        (["check", "slurm", "-O", "queue=[a", "--dry-run"], ["-O queue", "is not YAML"]),
        (["check", "slurm", "-O", "queue=a", "-O", "queue=b"], ["-O queue is given twice"]),
        (["show", "slurm", "-O", "place=here"], ["-O place is no option"]),
        (["check", "tcp://127.0.0.1:9"], ["no Dask scheduler answers"]),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_module, "CONNECT_S", 0.5)
    assert_one_sentence(run(*arguments), *words)


@pytest.mark.parametrize("timeout", ["soon", "", "-1"])
def test_a_wrong_timeout_is_a_usage_error(timeout: str) -> None:
    result = run("check", "local", f"--timeout={timeout}")
    assert result.exit_code == 2
    assert "no duration" in result.stderr


def test_a_check_of_this_machine_works_real() -> None:
    shown = answer("check", "local")
    for topic in ("worker", "versions", "processors", "GPUs", "walltime", "scratch", "network"):
        assert topic in shown
    assert shown.splitlines()[-1] == "the site local works: campaigns can run there"


def test_a_check_is_a_document_real() -> None:
    found = document("check", "local", "-O", "threads=2")
    assert found["schema"] == "hepdask-ml/site-check/1"
    assert found["ok"] is True
    assert found["kind"] == "local"
    assert found["processors"]["threads"] == 2


def test_a_check_starts_one_worker_unless_told_otherwise_real() -> None:
    assert document("check", "local")["versions"]["workers"] == 1


def test_a_scheduler_without_workers_is_a_fault_in_one_sentence_real() -> None:
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=0,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        result = run("check", cluster.scheduler_address)
        as_json = run("check", cluster.scheduler_address, "--json")
    assert_one_sentence(result, "does not work", "has no workers", "dask worker tcp://", code=1)
    assert as_json.exit_code == 1
    found = json.loads(as_json.stdout)
    assert found["ok"] is False
    assert len(found["faults"]) == 1


def test_a_cluster_that_runs_already_is_checked_real() -> None:
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        found = document("check", cluster.scheduler_address)
    assert found["kind"] == "scheduler"
    assert found["versions"]["workers"] == 2


def test_a_refused_job_is_one_sentence_simulated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = folder / "sbatch"
    command.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: nowhere' >&2; exit 1\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    options = ["-O", f"shared={folder}/shared", "-O", "host=127.0.0.1", "-O", "queue=nowhere"]
    result = run("check", "slurm", *options)
    assert_one_sentence(result, "the site slurm does not work", "invalid partition", code=1)


def test_a_batch_system_that_is_not_there_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    options = ["-O", f"shared={folder}/shared", "-O", "host=127.0.0.1"]
    result = run("check", "slurm", *options)
    assert_one_sentence(result, "there is no sbatch on this machine", code=1)


@pytest.mark.parametrize("name", ["list", "show", "check"])
def test_help_shows_an_example(name: str) -> None:
    shown = answer(name, "--help")
    assert f"hepdask-ml site {name}" in shown
    assert "Example" in shown


def test_the_group_has_help() -> None:
    shown = answer("--help")
    for name in ("list", "show", "check"):
        assert name in shown
    assert isinstance(main.commands["site"], click.Group)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("queue=short", {"queue": "short"}),
        ("options.queue=short", {"queue": "short"}),
        ("gpus=2", {"gpus": 2}),
        ("tls=false", {"tls": False}),
        ("walltime=01:00:00", {"walltime": "01:00:00"}),
        ("host=127.0.0.1", {"host": "127.0.0.1"}),
        ("directives=[--gres=gpu:a100:1, --exclusive]",
         {"directives": ["--gres=gpu:a100:1", "--exclusive"]}),
        ("setup=export A=1", {"setup": "export A=1"}),
        ("queue=", {"queue": None}),
    ],
)  # fmt: skip
def test_an_override_is_read_as_in_a_file(text: str, values: dict[str, Any]) -> None:
    assert overrides([text]) == values


def test_overrides_add_up() -> None:
    assert overrides(["a=1", "b=x"]) == {"a": 1, "b": "x"}
    with pytest.raises(InputError, match="given twice"):
        overrides(["a=1", "options.a=2"])
