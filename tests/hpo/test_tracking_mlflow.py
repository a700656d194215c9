from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hpo.made_up_ledgers import EPOCHS, fail, loss, search_ledger, unit, work
from hpo.made_up_mlflow import Server

from hepdask_ml.errors import HepdaskError, InputError
from hepdask_ml.hpo import with_mlflow
from hepdask_ml.hpo.tracking import followers
from hepdask_ml.hpo.with_mlflow import Mlflow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hepdask_ml.campaign.ledger import Ledger


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(with_mlflow, "_library", lambda: made)
    return made


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with search_ledger(tmp_path / "jets.ledger") as made:
        for number in range(3):
            work(made, number)
        work(made, 3, stop=2)
        yield made


def state(server: Server) -> dict[str, Any]:
    """All that people see, by the names of the runs; each is there once."""
    alive = [run for run in server.runs.values() if run.lifecycle_stage == "active"]
    names = {run.run_id: run.run_name for run in alive}
    assert len(set(names.values())) == len(alive)
    return {
        run.run_name: {
            "status": run.status,
            "end": run.end_time,
            "params": run.params,
            "metrics": run.history,
            "tags": {
                name: names.get(value, value) if name == "mlflow.parentRunId" else value
                for name, value in run.tags.items()
            },
        }
        for run in alive
    }


def test_trials_are_runs_below_that_of_the_search(server: Server, ledger: Ledger) -> None:
    fail(ledger, 4)
    Mlflow().follow(ledger)
    seen = state(server)
    assert list(server.experiments) == ["hepdask-ml"]
    assert set(seen) == {"jets.ledger", *(f"trial-000{number}" for number in range(5))}
    search = seen.pop("jets.ledger")
    assert search["status"] == "RUNNING"
    assert search["params"]["optimiser"] == "optuna:tpe"
    assert search["params"]["objectives"] == "minimise loss"
    assert search["tags"]["n_trials"] == "5"
    newest = {name: points[-1][1:] for name, points in search["metrics"].items()}
    assert newest["best/loss"][0] == 0.25
    assert newest["trials/complete"][0] == 3.0
    for each in seen.values():
        assert each["tags"]["mlflow.parentRunId"] == "jets.ledger"
    statuses = [seen[f"trial-000{number}"]["status"] for number in range(5)]
    assert statuses == ["FINISHED", "FINISHED", "FINISHED", "RUNNING", "FAILED"]
    first = seen["trial-0001"]
    assert first["params"] == {"lr": "0.01", "name _a.u._": "relu", "flag": "false"}
    steps = [(point.step, point.value) for point in first["metrics"]["loss"]]
    assert steps == [(epoch, loss(1, epoch)) for epoch in range(EPOCHS)]
    times = [point.timestamp for point in first["metrics"]["loss"]]
    assert [time - times[0] for time in times] == [0, 250, 500, 750]
    assert [(point.step, point.value) for point in first["metrics"]["objective/loss"]] == [(4, 0.5)]
    assert seen["trial-0004"]["tags"]["error"] == "ValueError: no"


def test_following_again_adds_nothing(server: Server, ledger: Ledger) -> None:
    one = Mlflow()
    one.follow(ledger)
    before = repr(state(server))
    calls = len(server.calls)
    one.follow(ledger)
    assert len(server.calls) == calls
    Mlflow().follow(ledger)
    assert repr(state(server)) == before
    assert set(server.calls[calls:]) == {"get_experiment_by_name", "search_runs"}


def test_what_is_new_alone_is_told(server: Server, ledger: Ledger) -> None:
    one = Mlflow()
    one.follow(ledger)
    calls, sent = len(server.calls), server.sent
    work(ledger, 3)
    one.follow(ledger)
    # Two epochs of four numbers, the objective, two tags; and two counts.
    assert server.sent - sent == 8 + 1 + 2 + 2
    # The rest of the trial and its end; the counts, and that no trial runs but one not begun.
    assert server.calls[calls:] == ["log_batch", "set_terminated", "log_batch"]
    points = state(server)["trial-0003"]["metrics"]
    assert [point.step for point in points["loss"]] == [0, 1, 2, 3]
    assert [point.step for point in points["objective/loss"]] == [2, 4]


def test_a_trial_that_is_pruned_and_promoted_goes_on_in_its_run(
    server: Server, tmp_path: Path
) -> None:
    with search_ledger(tmp_path / "short.ledger", n=0) as ledger:
        planned = unit(0, most=2 * EPOCHS)
        ledger.add([planned])
        work(ledger, 0, EPOCHS, most=2 * EPOCHS)
        Mlflow().follow(ledger)
        assert state(server)["trial-0000"]["status"] == "KILLED"
        assert state(server)["short.ledger"]["status"] == "FINISHED"
        ledger.add([replace(planned, total=2 * EPOCHS)])
        one = Mlflow()
        one.follow(ledger)
        assert state(server)["trial-0000"]["status"] == "RUNNING"
        assert state(server)["short.ledger"]["status"] == "RUNNING"
        work(ledger, 0, 2 * EPOCHS, most=2 * EPOCHS)
        one.follow(ledger)
    seen = state(server)["trial-0000"]
    assert seen["status"] == "FINISHED"
    assert [point.step for point in seen["metrics"]["loss"]] == list(range(2 * EPOCHS))


def test_what_is_pruned_without_another_epoch_is_told_no_number(
    server: Server, tmp_path: Path
) -> None:
    with search_ledger(tmp_path / "short.ledger", n=0) as ledger:
        ledger.add([unit(0, most=2 * EPOCHS), unit(1)])
        work(ledger, 0, EPOCHS, most=2 * EPOCHS)
        one = Mlflow()
        one.follow(ledger)
        assert state(server)["trial-0000"]["status"] == "RUNNING"
        work(ledger, 1)
        one.follow(ledger)
    seen = state(server)["trial-0000"]
    assert seen["status"] == "KILLED"
    assert [point.step for point in seen["metrics"]["objective/loss"]] == [EPOCHS]


class Killed(BaseException):
    pass


def undisturbed(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> tuple[str, int]:
    server = Server()
    monkeypatch.setattr(with_mlflow, "_library", lambda: server)
    Mlflow().follow(ledger)
    return repr(state(server)), len(server.calls)


@pytest.mark.parametrize("heard", [False, True])
def test_a_crash_anywhere_changes_nothing_in_the_end(
    heard: bool, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    fail(ledger, 4)
    expected, calls = undisturbed(monkeypatch, ledger)
    for fatal in range(1, calls + 1):
        server = Server()
        monkeypatch.setattr(with_mlflow, "_library", lambda server=server: server)

        def hook(_: str, after: bool, server: Server = server, fatal: int = fatal) -> None:
            if len(server.calls) == fatal and after == heard:
                raise Killed

        server.hook = hook
        with pytest.raises(Killed):
            Mlflow().follow(ledger)
        Mlflow().follow(ledger)
        assert repr(state(server)) == expected


@pytest.mark.parametrize("heard", [False, True])
def test_an_outage_anywhere_is_caught_up_by_the_same_follower(
    heard: bool, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    expected, calls = undisturbed(monkeypatch, ledger)
    for fatal in range(1, calls + 1):
        server = Server()
        monkeypatch.setattr(with_mlflow, "_library", lambda server=server: server)

        def hook(_: str, after: bool, server: Server = server, fatal: int = fatal) -> None:
            if len(server.calls) == fatal and after == heard:
                raise server.MlflowException("lost") from ConnectionResetError(104, "reset by peer")

        server.hook = hook
        one = Mlflow()
        # That an experiment was made is found out at once.
        with suppress(HepdaskError):
            one.follow(ledger)
        one.follow(ledger)
        assert repr(state(server)) == expected


def test_a_crash_between_two_numbers_repeats_none(server: Server, ledger: Ledger) -> None:
    Mlflow().follow(ledger)
    expected = repr(state(server))
    # The server itself died within the last request: some numbers are there, and no tag.
    run = next(run for run in server.runs.values() if run.run_name == "trial-0001")
    del run.tags["hepdask_ml.told"], run.history["objective/loss"]
    for name in ("size", "loss"):
        del run.history[name][2:]
    Mlflow().follow(ledger)
    assert sorted(expected) == sorted(repr(state(server)))
    assert [point.step for point in run.history["loss"]] == [0, 1, 2, 3]


def test_two_processes_at_once_leave_one_run_of_each(server: Server, ledger: Ledger) -> None:
    inner = Mlflow()
    begun: list[str] = []

    def hook(method: str, after: bool) -> None:
        # Another process follows from its beginning to its end just before a run is made.
        if method == "create_run" and not after and len(begun) < 3:
            begun.append(method)
            server.hook = lambda _method, _after: None
            inner.follow(ledger)
            server.hook = hook

    server.hook = hook
    outer = Mlflow()
    outer.follow(ledger)
    work(ledger, 3)
    inner.follow(ledger)
    outer.follow(ledger)
    seen = state(server)
    assert len(seen) == 5
    for number in range(4):
        points = seen[f"trial-000{number}"]["metrics"]["loss"]
        assert [point.step for point in points] == [0, 1, 2, 3]
    for run in server.runs.values():
        if run.run_name == "trial-0000":
            run.lifecycle_stage = "deleted"
    Mlflow().follow(ledger)
    assert len(state(server)) == 4


def test_what_people_deleted_does_not_come_back(server: Server, ledger: Ledger) -> None:
    one = Mlflow()
    one.follow(ledger)
    by_name = {run.run_name: run for run in server.runs.values()}
    by_name["trial-0003"].lifecycle_stage = "deleted"
    work(ledger, 3)
    one.follow(ledger)
    assert "trial-0003" not in state(server)
    Mlflow().follow(ledger)
    assert "trial-0003" not in state(server)
    by_name["jets.ledger"].lifecycle_stage = "deleted"
    with pytest.raises(HepdaskError, match=r"the run of jets.ledger was deleted there: restore it"):
        Mlflow().follow(ledger)


def test_searches_do_not_mix(server: Server, ledger: Ledger, tmp_path: Path) -> None:
    one = Mlflow()
    one.follow(ledger)
    with search_ledger(tmp_path / "other.ledger", n=2, segments=("barrel", "end cap")) as other:
        work(other, 1, segment="end cap")
        one.follow(other)
        one.follow(ledger)
    seen = state(server)
    assert len(seen) == 7
    assert seen["end cap/trial-0001"]["tags"]["segment"] == "end cap"
    assert seen["other.ledger"]["params"]["segments"] == "barrel, end cap"
    assert seen["other.ledger"]["metrics"]["best/end cap"][0].value == 0.5


def test_several_objectives_have_a_front(server: Server, tmp_path: Path) -> None:
    with search_ledger(objectives=("loss", "size"), constraints=("size",)) as ledger:
        work(ledger, 0)
        work(ledger, 1)
        Mlflow().follow(ledger)
    seen = state(server)
    assert seen["search"]["metrics"]["best/front"][0].value == 1.0
    assert seen["trial-0001"]["metrics"]["constraint/size"][0].value == 1.0
    assert "best/loss" not in seen["search"]["metrics"]


def test_long_histories_go_in_pieces(
    server: Server, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(with_mlflow, "_METRICS", 3)
    monkeypatch.setattr(with_mlflow, "_PARAMS", 2)
    Mlflow().follow(ledger)
    assert [point.step for point in state(server)["trial-0000"]["metrics"]["loss"]] == [0, 1, 2, 3]
    assert len(state(server)["trial-0000"]["params"]) == 3


def test_more_trials_may_be_asked_for(server: Server, tmp_path: Path) -> None:
    for n in (2, 3):
        with search_ledger(tmp_path / "jets.ledger", n=n) as ledger:
            work(ledger, n - 1)
            Mlflow().follow(ledger)
    assert state(server)["jets.ledger"]["tags"]["n_trials"] == "3"


def test_the_experiment_is_chosen(
    server: Server, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment")
    (asked,) = followers("mlflow:http://me:secret@made.up#asked for")
    asked.follow(ledger)
    (plain,) = followers("mlflow")
    plain.follow(ledger)
    assert list(server.experiments) == ["asked for", "from the environment"]
    assert asked.name == "mlflow:http://made.up#asked for"  # type: ignore[attr-defined]
    assert plain.name == "mlflow"  # type: ignore[attr-defined]
    assert len(server.runs) == 10


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("loss", "loss"),
        ("train/loss", "train/loss"),
        ("ΔR", "ΔR"),
        ("p_T [GeV]", "p_T _GeV_"),
        ("../x", "___x"),
        ("a//b", "a__b"),
        ("/root", "_root"),
    ],
)
def test_names_are_made_such_that_mlflow_takes_them(name: str, told: str) -> None:
    assert with_mlflow._named(name) == told


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"needs mlflow-skinny: install hepdask-ml\[hpo\]"):
        followers("mlflow")


def test_a_database_needs_the_whole_of_mlflow(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(with_mlflow, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="the whole of mlflow alone: install mlflow, or give"):
        followers("mlflow:sqlite:///runs.db")


def test_who_cannot_be_reached_is_asked_once(server: Server, ledger: Ledger) -> None:
    def hook(_method: str, _after: bool) -> None:
        raise server.MlflowException("no") from ConnectionRefusedError(111, "Connection refused")

    server.hook = hook
    with pytest.raises(HepdaskError, match=r"^Connection refused$"):
        Mlflow().follow(ledger)
    assert len(server.calls) == 1


def test_settings_of_a_call_are_gone_after_it(
    server: Server, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in with_mlflow._BOUNDS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "6")
    seen: dict[str, str] = {}
    server.hook = lambda _method, _after: seen.update(os.environ)
    before = dict(os.environ)
    Mlflow().follow(ledger)
    assert int(seen["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 30
    assert seen["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "6"
    assert dict(os.environ) == before


# The real library.


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    found = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return found


def test_mlflow_keeps_fifty_trials_below_their_search(
    mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = (tmp_path / "mlruns").as_uri()
    with search_ledger(tmp_path / "jets.ledger", n=50) as ledger:
        for number in range(50):
            work(ledger, number)
        # Killed twice on the way.
        for fatal in ("set_terminated", "log_batch"):
            with monkeypatch.context() as context:
                method = getattr(mlflow.MlflowClient, fatal)
                context.setattr(mlflow.MlflowClient, fatal, _die_at(method, 9))
                with pytest.raises(Killed):
                    Mlflow(uri, "jets").follow(ledger)
        Mlflow(uri, "jets").follow(ledger)
        Mlflow(uri, "jets").follow(ledger)
    client = mlflow.MlflowClient(tracking_uri=uri)
    home = client.get_experiment_by_name("jets").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([home], max_results=1000)}
    assert len(runs) == 51
    search = runs.pop("jets.ledger")
    assert search.info.status == "FINISHED"
    assert search.data.metrics["best/loss"] == 0.25
    for name, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == search.info.run_id
        assert run.info.status == "FINISHED"
        assert run.info.end_time - run.info.start_time == 1000
        number = int(name[-4:])
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [point.step for point in history] == [0, 1, 2, 3]
        assert run.data.metrics["objective/loss"] == loss(number, EPOCHS - 1)


def _die_at(method: Any, fatal: int) -> Any:
    calls = []

    def dying(*arguments: Any, **options: Any) -> Any:
        calls.append(method)
        if len(calls) == fatal:
            raise Killed
        return method(*arguments, **options)

    return dying


def test_mlflow_says_what_it_does_not_keep(mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"MLflow does not keep runs in mlflow:gopher://x"):
        followers("mlflow:gopher://x")


def test_a_server_that_is_not_there_is_an_error(
    mlflow: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(HepdaskError, match="Connection refused"):
        Mlflow(f"http://127.0.0.1:{port}").follow(ledger)


def test_a_server_that_never_answers_is_an_error(
    mlflow: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        one = Mlflow(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(HepdaskError, match="timed out"):
            one.follow(ledger)
