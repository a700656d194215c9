"""Evaluation commands: what they find, what they give, and what becomes of them."""

from __future__ import annotations

import io
import json
import os
import pickle
import shlex
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from hepdask_ml.errors import HepdaskError, InputError, WorkerFault
from hepdask_ml.facility.node import End
from hepdask_ml.hpo import commands, payload, payload_output, payload_saving
from hepdask_ml.hpo.commands import Shipped, shipped
from hepdask_ml.hpo.containers import Container
from hepdask_ml.hpo.payload import Names, Payload
from hepdask_ml.hpo.payload_saving import Saving
from hepdask_ml.training.checkpoint import Checkpoints
from hepdask_ml.training.context import Context, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FINE = """echo '{"loss": 0.5}' > output.json"""


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Callable[..., Context]]:
    """Makes contexts, all of one trial."""
    made: list[Context] = []

    def make(
        segment: str = "",
        files: tuple[str, ...] = (),
        number: int = 7,
        losses: tuple[str, ...] = ("loss",),
        enough: Callable[[], bool] = lambda: False,
    ) -> Context:
        place = Place(number, segment, seed=11, start=0, stop=1, total=1, files=files)
        kept = Checkpoints(tmp_path / "checkpoints")
        made.append(Context(place, losses, kept, enough))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ran(command: str, context: Context, params: Any = None, **settings: Any) -> Any:
    """Run a payload; give its loss, and leave its folder to be looked at."""
    return Payload(command, **settings)(params or {"lr": 0.1}, context)


def left(context: Context, name: str) -> str:
    return (context.folder / "workDir" / name).read_text()


def processes_in(folder: Path) -> list[int]:
    """Give the processes that are alive in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder.resolve()):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline
        sleep(0.02)


def test_the_command_finds_its_parameters_and_its_files(context: Callable[..., Context]) -> None:
    here = context()
    script = Shipped("tools/run.sh", b"#!/bin/sh\ncp input.json seen\n", executable=True)
    plain = Shipped("start.sh", f"#!/bin/sh\ntools/run.sh\n{FINE}\n".encode())
    loss = ran("start.sh", here, {"lr": 0.1, "layers": [1, 2]}, files=(script, plain))
    assert loss == 0.5
    assert json.loads(left(here, "seen")) == {"lr": 0.1, "layers": [1, 2]}
    assert not (here.folder / "workDir" / "input_ds.json").exists()


def test_what_the_service_tells_in_variables(context: Callable[..., Context]) -> None:
    names = "$PandaID $PANDAID $PILOT_EXEC_ITERATION_COUNT $HEPDASK_ML_SEED $PanDA_TaskID"
    here = context("endcap")
    ran(f"echo {names} > seen; {FINE}", here, segments=("barrel", "endcap"))
    first, second, iteration, seed, task = left(here, "seen").split()
    assert (first, second, iteration, seed) == ("16", "16", "0", "11")
    assert int(task) > 0


def test_segments_and_training_data_are_put_into_the_command(
    context: Callable[..., Context], tmp_path: Path
) -> None:
    data = tmp_path / "data" / "f1.root"
    data.parent.mkdir()
    data.write_text("events")
    here = context("end cap", (str(data), "root://far/f2.root"))
    words = "echo '%SEGMENT_NAME' > who; echo \"%IN_DATA\" %IN_DATAX > which"
    ran(f"{words}; cat f1.root > seen; {FINE}", here)
    assert left(here, "who") == "end cap\n"
    assert left(here, "which") == "f1.root,root://far/f2.root %IN_DATAX\n"
    assert left(here, "seen") == "events"
    assert json.loads(left(here, "input_ds.json")) == ["f1.root", "root://far/f2.root"]


def test_without_segments_the_data_come_with_the_payload(
    context: Callable[..., Context], tmp_path: Path
) -> None:
    (tmp_path / "f.csv").write_text("1,2")
    here = context()
    ran(f"cat f.csv > seen; {FINE}", here, data=(str(tmp_path / "f.csv"),))
    assert left(here, "seen") == "1,2"


def test_arrays_are_joined_unless_the_steering_command_has_named_them_so(
    context: Callable[..., Context],
) -> None:
    params = {"w[0]": 1, "w[1]": 2}
    here, there = context(), context()
    ran(FINE, here, params)
    ran(FINE, there, params, arrays=False)
    assert json.loads(left(here, "input.json")) == {"w": [1, 2]}
    assert json.loads(left(there, "input.json")) == params


def test_the_model_can_be_written_with_the_parameters(context: Callable[..., Context]) -> None:
    here, whole = context("endcap"), context()
    names = Names(params="point.json", output="result.json")
    command = "echo '{\"loss\": 1}' > result.json"
    ran(command, here, segments=("barrel", "endcap"), model_id=True, names=names)
    assert json.loads(left(here, "point.json")) == [1, {"lr": 0.1}]
    ran(FINE, whole, model_id=True)
    assert json.loads(left(whole, "input.json")) == {"lr": 0.1}


@pytest.mark.parametrize(
    ("written", "loss"),
    [
        ('{"loss": 0.0}', 0.0),
        ('{"status": 0, "loss": 0, "message": "fine"}', 0),
        ('{"loss": -3e-2, "more": null}', -0.03),
        ('{"loss": [0.25]}', 0.25),
    ],
)
def test_a_loss_is_a_loss(context: Callable[..., Context], written: str, loss: float) -> None:
    assert ran(f"echo {shlex.quote(written)} > output.json", context()) == loss


def test_several_losses_are_given_in_order(context: Callable[..., Context]) -> None:
    command = "echo '{\"loss\": [0.25, 3]}' > output.json"
    assert ran(command, context(losses=("loss", "size"))) == [0.25, 3]
    with pytest.raises(HepdaskError, match="2 losses, and the search has 1"):
        ran(command, context())


def test_the_file_decides_and_not_the_exit_code(context: Callable[..., Context]) -> None:
    assert ran(f"{FINE}; rm nothing; exit 7", context()) == 0.5
    with pytest.raises(HepdaskError, match=r"has not written output.json.*\(exit code 0\)"):
        ran("true", context())


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('{"status": 3, "loss": 1}', "status 3"),
        ('{"status": 1, "message": "no\\nGPU"}', r'status 1: "no\\nGPU"'),
        ("{'loss': 1}", "output.json is not JSON"),
        ("", "output.json is not JSON"),
        ("0.5", "output.json holds 0.5"),
        ("{}", "holds no loss"),
        ('{"loss": null}', "holds the loss null"),
        ('{"loss": true}', "holds the loss true"),
        ('{"loss": "0.5"}', "holds the loss"),
        ('{"loss": NaN}', "NaN"),
        ('{"loss": -Infinity}', "Infinity"),
        ('{"loss": 1e999}', "holds the loss"),
        ('{"loss": []}', "0 losses"),
    ],
)
def test_what_is_no_loss_is_an_error(
    context: Callable[..., Context], written: str, message: str
) -> None:
    with pytest.raises(HepdaskError, match=message):
        ran(f"printf %s {shlex.quote(written)} > output.json", context())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("head -c 1000001 /dev/zero > output.json", "1,000,001 bytes, and 1,000,000 is the most"),
        ("mkfifo output.json", "no file"),
        ("mkdir output.json", "no file"),
        ("ln -s /dev/zero output.json", "no file"),
        (r"printf '\377' > output.json", "not UTF-8"),
        ("no-such-program", r"\(exit code 127, command not found\).*no-such-program"),
        ("echo out; echo oops >&2; kill -9 $$", r"killed by SIGKILL\); the last that it said: out"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_ends_with_what_was_said(
    context: Callable[..., Context], command: str, message: str
) -> None:
    with pytest.raises(HepdaskError, match=message):
        ran(command, context())


def test_nothing_is_left_running(context: Callable[..., Context]) -> None:
    here = context()
    ran(f"sleep 1000 & {FINE}", here)
    wait_for(lambda: not processes_in(here.folder))


def test_a_payload_that_has_to_stop_is_given_back(context: Callable[..., Context]) -> None:
    told = threading.Event()
    here = context(enough=told.is_set)
    timer = threading.Timer(0.3, told.set)
    timer.start()
    assert ran("sleep 1000; true", here) is None
    assert here.stopped
    wait_for(lambda: not processes_in(here.folder))
    timer.join()


def test_a_payload_that_ends_while_it_is_told_to_has_its_loss(
    context: Callable[..., Context],
) -> None:
    here = stopping(context)
    saving = Saving(("ready",), interval_s=600.0)  # so that it is waited for
    assert ran(f"{FINE}; touch ready; sleep 0.2", here, saving=saving) == 0.5


COUNTING = Saving(names=("state", "more"), interval_s=0.1)
"""The first attempt leaves a file and waits, the second one finds it."""

TWICE = f"""
if [ -e state/count ]; then cp state/count found; {FINE}; exit; fi
mkdir state; echo 5 > state/count; ln -s count state/latest; ln -s /etc state/away
touch ready; sleep 1000
"""


def stopping(context: Callable[..., Context]) -> Context:
    """Make a context that ends its payload when that says that it is ready."""
    here = context()
    here.enough = (here.folder / "workDir" / "ready").exists
    return here


def test_what_was_saved_is_found_by_the_next_attempt(context: Callable[..., Context]) -> None:
    first = stopping(context)
    assert ran(TWICE, first, saving=COUNTING) is None
    second = context()
    assert ran(TWICE, second, saving=COUNTING) == 0.5
    assert left(second, "found") == "5\n"
    state = second.folder / "workDir" / "state"
    assert (state / "latest").readlink() == Path("count")
    assert not (state / "away").exists()


def test_it_is_saved_while_the_payload_runs(
    context: Callable[..., Context], tmp_path: Path
) -> None:
    here = context()
    saved = tmp_path / "checkpoints"
    work = threading.Thread(target=ran, args=(TWICE, here), kwargs={"saving": COUNTING})
    here.enough = lambda: any(saved.glob("*.tar"))
    work.start()
    work.join(30.0)
    assert not work.is_alive()
    assert sorted(saved_names(tmp_path)) == ["state", "state/count", "state/latest"]


def newest(folder: Path) -> Any:
    found = Checkpoints(folder / "checkpoints").load()
    return {} if found is None else found.parts


def saved_names(folder: Path) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(newest(folder)["payload"])) as archive:
        return archive.getnames()


def test_the_tarball_itself_can_be_asked_for(context: Callable[..., Context]) -> None:
    saving = replace(COUNTING, tarball="saved.tgz")
    assert ran(TWICE, stopping(context), saving=saving) is None
    second = context()
    assert ran(f"tar xzf saved.tgz; cat state/count > found; {FINE}", second, saving=saving) == 0.5
    assert left(second, "found") == "5\n"


def test_what_a_payload_saves_when_it_is_told_to_end_counts(
    context: Callable[..., Context], tmp_path: Path
) -> None:
    command = "trap 'echo last > more; exit' TERM; touch ready; sleep 1000 & wait"
    saving = replace(COUNTING, interval_s=600.0)
    assert ran(command, stopping(context), saving=saving) is None
    assert saved_names(tmp_path) == ["more"]


def test_half_of_a_file_is_not_saved(context: Callable[..., Context], tmp_path: Path) -> None:
    command = "touch ready; while :; do echo more >> more; sleep 0.01; done"
    saving = replace(COUNTING, interval_s=600.0)
    assert ran(command, stopping(context), saving=saving) is None
    assert not newest(tmp_path)


def test_a_payload_that_never_rests_is_saved_at_last(
    context: Callable[..., Context], tmp_path: Path
) -> None:
    command = "while :; do echo more >> more; sleep 0.01; done"
    here = context()
    here.enough = lambda: any((tmp_path / "checkpoints").glob("*.tar"))
    assert ran(command, here, saving=replace(COUNTING, interval_s=0.05)) is None
    assert "payload" in newest(tmp_path)


def test_a_checkpoint_that_is_too_large_is_noted_and_not_saved(
    context: Callable[..., Context], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload_saving, "CHECKPOINT_BYTES", 1)
    here = stopping(context)
    assert ran(TWICE, here, saving=COUNTING) is None
    assert not newest(tmp_path)
    [note] = here.notes
    assert "1 is the most" in note


def test_a_checkpoint_that_cannot_be_saved_does_not_end_the_payload(
    context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = context()
    tried = here.folder / "workDir" / "tried"

    def fail(*_: Any) -> str:
        tried.touch()
        raise HepdaskError("there is no room")

    monkeypatch.setattr(Checkpoints, "save", fail)
    command = f"echo 1 > more; while [ ! -e tried ]; do sleep 0.02; done; {FINE}"
    assert ran(command, here, saving=replace(COUNTING, interval_s=0.05)) == 0.5
    assert here.notes == ("a checkpoint of the payload was not saved: there is no room",)


def test_a_payload_that_is_longer_than_the_walltime_costs_an_attempt(
    context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "_end", lambda: End(time() + 30.0, "declared"))
    monkeypatch.setattr(payload, "process_start", lambda: time() - 1000.0)
    assert ran("touch ready; sleep 1000", stopping(context)) is None  # it came late
    monkeypatch.setattr(payload, "process_start", lambda: time() + 29.9)
    with pytest.raises(HepdaskError, match=r"within the walltime .* the last that it said: busy"):
        ran("echo busy; touch ready; sleep 1000", stopping(context))
    assert ran(TWICE, stopping(context), saving=COUNTING) is None


def test_an_archive_that_leads_away_is_not_unpacked(
    context: Callable[..., Context], tmp_path: Path
) -> None:
    crafted = io.BytesIO()
    with tarfile.open(fileobj=crafted, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../../outside"))
    context().save(payload=crafted.getvalue())
    with pytest.raises(HepdaskError, match="cannot be unpacked"):
        ran(FINE, context(), saving=COUNTING)
    assert not list(tmp_path.rglob("outside"))


KEPT = Names(meta="meta.json", metrics="metrics.tgz")


def test_metadata_metrics_and_what_was_said_are_kept(
    context: Callable[..., Context], tmp_path: Path
) -> None:
    command = f"echo hello; echo '{{\"auc\": 1}}' > meta.json; echo x > metrics.tgz; {FINE}"
    folder = tmp_path / "out" / "here"
    ran(command, context("barrel"), names=KEPT, output=str(folder), segments=("endcap", "barrel"))
    assert sorted(path.name for path in folder.iterdir()) == [
        "barrel.log.000007.txt_0",
        "barrel.metadata.000007.json_0",
        "barrel.metrics.000007.tgz_0",
    ]
    assert (folder / "barrel.log.000007.txt_0").read_text() == "hello\n"
    assert json.loads((folder / "barrel.metadata.000007.json_0").read_text()) == {"auc": 1}
    with tarfile.open(folder / "barrel.metrics.000007.tgz_0") as archive:
        assert archive.getnames() == ["metrics.tgz_15"]


def test_a_folder_of_metrics_is_packed_and_nothing_need_be_there(
    context: Callable[..., Context], tmp_path: Path
) -> None:
    ran(
        f"mkdir metrics.tgz; echo x > metrics.tgz/a; {FINE}",
        context(),
        names=KEPT,
        output=str(tmp_path / "a"),
    )
    with tarfile.open(tmp_path / "a" / "metrics.000007.tgz_0") as archive:
        assert sorted(archive.getnames()) == ["metrics.tgz_7", "metrics.tgz_7/a"]
    ran(FINE, context(), names=KEPT, output=str(tmp_path / "b"))
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["log.000007.txt_0"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo '[1]' > meta.json", "metadata are a mapping"),
        ("echo '{' > meta.json", "meta.json is not JSON"),
        ("head -c 1000001 /dev/zero > meta.json", "meta.json has 1,000,001 bytes"),
        ("echo 12345 > metrics.tgz", "metrics.tgz has 6 bytes, and 5 is the most"),
    ],
)
def test_oversized_and_malformed_files_are_errors(
    context: Callable[..., Context],
    tmp_path: Path,
    command: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payload_output, "METRICS_BYTES", 5)
    with pytest.raises(HepdaskError, match=message):
        ran(f"{command}; {FINE}", context(), names=KEPT, output=str(tmp_path / "out"))


def test_a_loss_is_not_lost_where_nothing_can_be_kept(
    context: Callable[..., Context], tmp_path: Path
) -> None:
    here = context()
    (tmp_path / "out" / "log.000007.txt_0").mkdir(parents=True)
    assert ran(FINE, here, output=str(tmp_path / "out")) == 0.5
    [note] = here.notes
    assert "log.000007.txt_0 was not kept" in note
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["log.000007.txt_0"]


def test_a_machine_that_cannot_keep_them_is_told_at_once(
    context: Callable[..., Context], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    here = context()
    with pytest.raises(WorkerFault, match="cannot be made"):
        ran(FINE, here, output=str(tmp_path / "file" / "out"))
    assert not (here.folder / "workDir" / "output.json").exists()


def test_a_payload_travels_and_is_told_from_others() -> None:
    one = Payload("run", files=(Shipped("a.py", b"1"),), container=Container("image"))
    assert pickle.loads(pickle.dumps(one)) == one
    others = [
        replace(one, command="runs"),
        replace(one, files=(Shipped("a.py", b"2"),)),
        replace(one, container=None),
        replace(one, model_id=True),
    ]
    assert len({each.digest for each in [one, *others]}) == 5
    result = Shipped("results.json", b"{}")
    assert replace(one, output="elsewhere", files=(*one.files, result)).digest == one.digest


FAKE = """\
#!{python}
import json, os, subprocess, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
with open({log!r}, "a") as log:
    print(json.dumps([name, *arguments]), file=log)
if arguments[0] == "kill":
    sys.exit()
mounts, inside, variables, rest = dict(), None, dict(os.environ), arguments[1:]
while rest and rest[0].startswith("-"):
    option = rest.pop(0)
    if option in ("--rm", "--init", "--nv"):
        continue
    value = rest.pop(0)
    if option in ("-v", "--bind"):
        outside, at = value.split(":")[:2]
        mounts[at] = outside
    elif option in ("-w", "--pwd"):
        inside = value
    elif option == "-e":
        variables.update([value.split("=", 1)])
image, *command = rest
sys.exit(subprocess.run(command, cwd=mounts[inside], env=variables).returncode)
"""


@pytest.fixture
def programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Callable[[], list[Any]]]:
    """Puts programs on the path that run containers without any, and gives what they were told."""
    folder, log = tmp_path / "programs", tmp_path / "programs.log"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr("shutil.which", lambda name: name if (folder / name).exists() else None)

    def make(*names: str) -> Callable[[], list[Any]]:
        for name in names:
            path = folder / name
            path.write_text(FAKE.format(python=sys.executable, log=str(log)))
            path.chmod(0o755)
        return lambda: [json.loads(line) for line in log.read_text().splitlines()]

    return make


def test_an_image_is_run_by_apptainer_first(
    context: Callable[..., Context],
    tmp_path: Path,
    programs: Callable[..., Callable[[], list[Any]]],
) -> None:
    told = programs("docker", "singularity", "apptainer")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "f1").write_text("events")
    here = context(files=(str(tmp_path / "data" / "f1"),))
    container = Container("docker://registry/evaluation:1")
    assert ran(f"pwd > where; cat f1 > seen; {FINE}", here, container=container) == 0.5
    assert left(here, "seen") == "events"
    [[program, word, *rest]] = told()
    assert (program, word) == ("apptainer", "exec")
    assert rest[-3:] == ["docker://registry/evaluation:1", "/bin/sh", "__run_main_exec.sh"]
    assert rest[rest.index("--pwd") + 1] == "/srv"
    mounts = [rest[i + 1] for i, part in enumerate(rest) if part == "--bind"]
    assert mounts[:2] == [f"{here.folder}:/srv", f"{tmp_path / 'data'}:{tmp_path / 'data'}:ro"]


def test_docker_gets_what_it_does_not_inherit(
    context: Callable[..., Context],
    programs: Callable[..., Callable[[], list[Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("X509_USER_PROXY", "/somewhere/proxy")
    told = programs("docker")
    here = context()
    command = f"echo $PandaID $X509_USER_PROXY $HOME > seen; {FINE}"
    assert ran(command, here, container=Container("docker://registry/image:1")) == 0.5
    assert left(here, "seen") == "8 /srv/x509up /srv\n"
    [[program, word, *rest]] = told()
    assert (program, word) == ("docker", "run")
    assert rest[-3:] == ["registry/image:1", "/bin/sh", "__run_main_exec.sh"]
    assert rest[rest.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    assert "/somewhere/proxy:/srv/x509up:ro" in rest


def test_a_container_of_docker_is_ended_by_its_name(
    context: Callable[..., Context], programs: Callable[..., Callable[[], list[Any]]]
) -> None:
    told = programs("docker")
    command = "trap '' TERM; touch ready; sleep 1000"
    assert ran(command, stopping(context), container=Container("i")) is None
    (first, last) = told()
    assert last == ["docker", "kill", first[first.index("--name") + 1]]


def test_a_name_without_a_registry_is_one_of_docker(
    context: Callable[..., Context], programs: Callable[..., Callable[[], list[Any]]]
) -> None:
    told = programs("singularity")
    for image in ("registry/image:1", "/images/my.sif"):
        ran(FINE, context(), container=Container(image))
    assert [call[-3] for call in told()] == ["docker://registry/image:1", "/images/my.sif"]


@pytest.mark.parametrize("image", ["registry/image:1", "/images/my.sif"])
def test_a_machine_without_programs_is_told_of_bare(
    context: Callable[..., Context],
    programs: Callable[..., Callable[[], list[Any]]],
    image: str,
) -> None:
    if image.startswith("/"):
        programs("docker")
    with pytest.raises(WorkerFault, match=r"no apptainer.*--bare"):
        ran(FINE, context(), container=Container(image))


def test_files_of_a_project_travel_with_it(tmp_path: Path) -> None:
    for name in ("a.py", "b.txt", "c/d.sh", "out/e.json", "c/f.yaml", "c/g.yml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    (tmp_path / "c/d.sh").chmod(0o755)
    (tmp_path / "h.py").symlink_to("a.py")
    (tmp_path / "i.py").symlink_to("nowhere")
    found = shipped(tmp_path, spared=[tmp_path / "out"])
    assert [(each.name, each.executable) for each in found] == [
        ("a.py", False), ("c/d.sh", True), ("c/f.yaml", False), ("h.py", False),
    ]  # fmt: skip
    assert found[3].content == b"a.py"


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "SHIPPED_BYTES", 1000)
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "big.py").write_text("x" * 900)
    (tmp_path / "z.py").write_text("x" * 200)
    with pytest.raises(InputError, match="most of it in venv"):
        shipped(tmp_path)
