"""Steering commands: what they are told, and what is made of their answers."""

from __future__ import annotations

import json
import pickle
import shlex
import sys
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hepdask_ml.errors import HepdaskError, InputError
from hepdask_ml.hpo import with_command
from hepdask_ml.hpo.campaign import search
from hepdask_ml.hpo.containers import Container
from hepdask_ml.hpo.optimisers import Past, find
from hepdask_ml.hpo.space import Space
from hepdask_ml.hpo.with_command import Command, optimiser

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SPACE = Space.read({"x": {"type": "float", "low": 0.0, "high": 1.0}})
TOLD = [Past(1, {"x": 0.25}, (0.0,)), Past(0, {"x": 0.5}, (0.3,)), Past(2, {"x": 2.0})]


def saying(written: Any) -> str:
    """Give a command that writes something, whatever it is told."""
    text = written if isinstance(written, str) else json.dumps(written)
    return f"printf %s {shlex.quote(text)} > %OUT"


def proposed(command: str, n: int = 2, past: Sequence[Past] = (), **settings: Any) -> list[Any]:
    made = Command(command, **settings).propose(SPACE, past, n, 1)
    return [dict(each.params) for each in made]


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., Any]:
    """Gives what a command finds in its file."""

    def ask(past: Sequence[Past] = (), space: Space | None = SPACE, **settings: Any) -> Any:
        copy = tmp_path / "copy"
        command = Command(f"cp $PWD/%IN {copy}; echo '[]' > %OUT", **settings)
        assert command.propose(space, past, 2, 1) == []
        return json.loads(copy.read_text())

    return ask


def test_it_is_told_all_points_in_order_and_a_loss_of_zero_is_a_loss(
    told: Callable[..., Any],
) -> None:
    points = [[{"x": 0.5}, 0.3], [{"x": 0.25}, 0.0], [{"x": 2.0}, None]]
    assert told(TOLD) == {"points": points, "opt_space": SPACE.to_json()}
    assert told([], None) == {"points": [], "opt_space": None}


def test_a_point_that_failed_has_the_worst_loss_and_none_where_there_is_none(
    told: Callable[..., Any],
) -> None:
    failed = [Past(3, {"x": 1.0}, failed=True), Past(4, {"x": 0.1}, (nan,))]
    assert [loss for _, loss in told([*TOLD, *failed])["points"]] == [0.3, 0.0, None, 0.3, 0.3]
    assert [loss for _, loss in told(failed)["points"]] == [None, None]


def test_the_space_is_handed_over_as_it_was_written(told: Callable[..., Any]) -> None:
    written = {"x": {"type": "Scalar", "bounds": [0, 5]}}
    assert told(opt_space=written)["opt_space"] == written


def test_a_segment_is_told_of_itself_alone(told: Callable[..., Any]) -> None:
    given = told(TOLD[:1], opt_space={"x": [0, 1]}, model_id=2)
    assert given["points"] == [[[2, {"x": 0.25}], 0.0]]
    assert given["opt_space"] == [{"model_id": 2, "search_space": {"x": [0, 1]}}]
    assert told([], None, model_id=2)["opt_space"] is None


def test_its_words_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X509_USER_PROXY", "/some/where/x509up_u1")
    said = tmp_path / "said"
    words = "%NUM_POINTS %MAX_POINTS $HEPDASK_ML_SEED %X509_USER_PROXY_FULLNAME"
    command = f"echo {words} %X509_USER_PROXY_BASENAME %INX > {said}; echo [] > $PWD/%OUT"
    Command(command).propose(SPACE, TOLD, 2, 2**32 + 5)
    proxy = "/some/where/x509up_u1 x509up_u1"
    assert said.read_text() == f"2 5 5 {proxy} idds_input.jsonX\n"
    Command(command, max_points=40).propose(SPACE, TOLD, 2, 6)
    assert said.read_text().startswith("2 40 6 ")


def test_what_it_writes_is_taken_as_it_is_and_cut_to_what_was_asked() -> None:
    points = [{"x": 7, "new": [1, {"a": None}], "w[0]": True}, {}, {"x": 2}]
    assert proposed(saying(points)) == points[:2]
    assert proposed(saying(points), 5) == points
    assert proposed(saying([])) == []


def test_points_of_other_segments_are_left_away() -> None:
    points = [[0, {"x": 1}], [1, {"x": 2}], [0, {"x": 3}], [1, {"x": 4}], [1, {"x": 5}]]
    assert proposed(saying(points), model_id=1) == [{"x": 2}, {"x": 4}]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (saying("[{]"), "output.json is not JSON"),
        (saying('[{"x": NaN}]'), "NaN"),
        (saying('[{"x": 1e999}]'), "inf is no value"),
        (saying({"x": 1}), "has to write a list"),
        (saying([[0, {"x": 1}]]), "point 0 .* has to map names"),
        ("true", "has not written output.json"),
        ("echo no room; false", r"failed \(exit code 1\); the last that it said: no room"),
        ("no-such-program %IN %OUT", "command not found"),
        ("head -c 10000001 /dev/zero > %OUT", "10,000,001 bytes"),
    ],
)
def test_what_cannot_be_used_is_an_error(command: str, message: str) -> None:
    with pytest.raises(HepdaskError, match=message):
        proposed(command)


def test_points_without_a_segment_are_an_error_where_there_are_segments() -> None:
    with pytest.raises(HepdaskError, match=r"\[model_id, \{...\}\]"):
        proposed(saying([{"x": 1}]), model_id=0)


def test_it_does_not_run_for_ever() -> None:
    with pytest.raises(HepdaskError, match="has not ended after 0 s"):
        proposed("echo busy; sleep 1000", timeout_s=0.3)


def test_several_losses_are_refused() -> None:
    with pytest.raises(InputError, match="takes one loss"):
        proposed(saying([]), past=[Past(0, {"x": 0.5}, (1.0, 2.0))])


def test_a_bare_command_finds_the_files_of_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "points.json").write_text('[{"x": 0.75}]')
    (tmp_path / "output.json").write_text("of an earlier test")
    monkeypatch.chdir(tmp_path)
    made = find("command: cat points.json > %OUT")
    monkeypatch.chdir("/")
    assert [each.params for each in made.propose(SPACE, [], 1, 1)] == [{"x": 0.75}]
    assert (tmp_path / "output.json").read_text() == "of an earlier test"
    assert not made.several


def test_its_name_is_its_command_line() -> None:
    made = optimiser("command: python steer.py %IN %OUT ")
    assert made.name == "command:python steer.py %IN %OUT"
    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(InputError, match="names no command"):
        find("command: ")


FAKE = f"""\
#!{sys.executable}
import json, subprocess, sys
arguments = sys.argv[1:]
open({{log!r}}, "w").write(json.dumps(arguments))
if "-w" in arguments:
    folder = arguments[arguments.index("-w") + 1]
    sys.exit(subprocess.run(arguments[-2:], cwd=folder).returncode)
open("output.json", "w").write("[]")
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Puts a docker on the path that has no containers; gives what it was told."""
    program, log = tmp_path / "programs" / "docker", tmp_path / "log"
    program.parent.mkdir()
    program.write_text(FAKE.format(log=str(log)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr("shutil.which", lambda name: name if name == "docker" else None)
    return lambda: list(json.loads(log.read_text()))


def test_in_a_container_it_finds_its_file_at_the_same_place(
    docker: Callable[[], list[str]],
) -> None:
    made = Command(saying([{"x": 1}]), folder=Path("/"), container=Container("registry/steer:1"))
    assert [each.params for each in made.propose(SPACE, [], 1, 1)] == [{"x": 1}]
    arguments = docker()
    assert arguments[-3:] == ["registry/steer:1", "/bin/sh", "__run_steering_exec.sh"]
    folder = arguments[arguments.index("-w") + 1]
    assert f"{folder}:{folder}" in arguments


def test_without_an_image_the_command_is_what_follows_docker(
    docker: Callable[[], list[str]],
) -> None:
    command = 'run --rm -v "$(pwd)":/here image "opt.py --n %NUM_POINTS"'
    assert Command(command, docker=True).propose(SPACE, [], 3, 1) == []
    first, *_, last = docker()
    assert (first, last) == ("run", "opt.py --n 3")


STEER = """
import json, sys
given = json.load(open(sys.argv[1]))
known = len(given["points"])
new = [{"x": 0.1 * (known + i)} for i in range(9)]
json.dump(new if known < 5 else [], open(sys.argv[2], "w"))
"""


def test_a_search_ends_when_its_command_says_so(tmp_path: Path) -> None:
    (tmp_path / "steer.py").write_text(STEER)
    command = f"{shlex.quote(sys.executable)} {tmp_path}/steer.py %IN %OUT"
    found = search(
        lambda params, context: (params["x"] - 0.3) ** 2,
        None,
        optimiser=f"command:{command}",
        n_trials=20,
        parallel=2,
    ).run()
    assert [trial.params["x"] for trial in found.trials] == pytest.approx(
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    )
    assert found.best is not None
    assert found.best.number == 3


def test_each_call_is_a_new_one(tmp_path: Path) -> None:
    count = tmp_path / "count"
    made = replace(optimiser(f"command:echo $PWD >> {count}; echo [] > %OUT"), folder=None)
    for _ in range(2):
        made.propose(None, [], 1, 1)
    first, second = count.read_text().split()
    assert first != second
    assert not Path(first).exists()
    assert with_command.INPUT not in {path.name for path in tmp_path.iterdir()}
