"""Projects of phpo: each option is used or named, and an unchanged one runs."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hepdask_ml.errors import InputError
from hepdask_ml.hpo.phpo import Project, read_project
from hepdask_ml.hpo.with_command import Command

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = Path(__file__).parents[2] / "examples" / "phpo"

PLAIN = {"steeringExec": "steer %IN %OUT", "evaluationExec": "train"}


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Project]:
    """Reads a project with some options."""

    def read(options: dict[str, Any] | None = None, **settings: Any) -> Project:
        config = tmp_path / "config.json"
        given = {name: value for name, value in (options or {}).items() if value != "gone"}
        config.write_text(json.dumps({**PLAIN, **given}))
        for name in [name for name, value in (options or {}).items() if value == "gone"]:
            config.write_text(json.dumps({k: v for k, v in PLAIN.items() if k != name}))
        return read_project(config, folder=tmp_path, **settings)

    return read


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example, in which somebody works."""
    folder = tmp_path / "project"
    shutil.copytree(EXAMPLE, folder)
    monkeypatch.chdir(folder)
    return folder


def steering(project: Project, segment: str = "") -> Command:
    found = project.search.strategy.optimisers[segment]
    assert isinstance(found, Command)
    return found


def test_an_unchanged_project_runs(copied: Path) -> None:
    read = read_project("config.json", changes={"maxPoints": 3})
    assert read.warnings == ()
    assert read.workers == 2
    found = read.search.run(threads=2)
    assert [(trial.segment, trial.number, trial.round) for trial in found.trials] == [
        (segment, number, 1 + number // 2)
        for segment in ("barrel", "endcap")
        for number in range(3)
    ]
    assert all(trial.state == "complete" for trial in found.trials)
    assert all(best.values["loss"] < 0.5 for best in found.bests.values())
    assert (copied / "phpo.ledger").exists()
    kept = copied / "phpo.output"
    events = {"barrel": 60, "endcap": 40}
    for segment, number in events.items():
        meta = json.loads((kept / f"{segment}.metadata.000002.json_0").read_text())
        assert meta["events"] == number  # those of its files alone
        with tarfile.open(kept / f"{segment}.metrics.000002.tgz_0") as archive:
            assert archive.getnames() == [f"metrics.tgz_{4 + (segment == 'endcap')}"]
    again = read_project("config.json", changes={"maxPoints": 3})
    assert again.search.finished


def test_what_phpo_fills_in(project: Callable[..., Project], tmp_path: Path) -> None:
    read = project()
    payload = read.payload
    assert (payload.command, payload.container, payload.saving.names) == ("train", None, ())
    assert (payload.names.params, payload.names.data) == ("input.json", "input_ds.json")
    assert (payload.names.output, payload.names.meta, payload.names.metrics) == (
        "output.json", None, None,
    )  # fmt: skip
    assert read.search.strategy.n_trials == 10
    assert read.search.strategy.parallel == 2
    assert read.workers == 1
    assert read.submit
    assert not read.warnings
    assert steering(read) == Command("steer %IN %OUT", folder=tmp_path, max_points=10)
    assert read.search.path == str(tmp_path / "phpo.ledger")
    assert read.output == tmp_path / "phpo.output"


def test_every_option_is_used(project: Callable[..., Project], tmp_path: Path) -> None:
    read = project(
        {
            "evaluationContainer": "docker://registry/train:1",
            "evaluationInput": "point.json",
            "evaluationTrainingData": "data.json",
            "evaluationOutput": "result.json",
            "evaluationMeta": "meta.json",
            "evaluationMetrics": "metrics.tgz",
            "checkPointToSave": "./model.h5, logs/",
            "checkPointToLoad": "saved.tgz",
            "checkPointInterval": "2",
            "maxPoints": "12",
            "nPointsPerIteration": 3,
            "nParallelEvaluation": 5,
            "outDS": "user.me.search/",
            "noSubmit": True,
        }
    )
    payload = read.payload
    assert payload.container is not None
    assert payload.container.image == "docker://registry/train:1"
    assert payload.names.params == "point.json"
    assert payload.names.data == "data.json"
    assert payload.names.output == "result.json"
    assert (payload.names.meta, payload.names.metrics) == ("meta.json", "metrics.tgz")
    assert payload.saving.names == ("model.h5", "logs")
    assert (payload.saving.tarball, payload.saving.interval_s) == ("saved.tgz", 120.0)
    assert payload.task == "user.me.search"
    assert (read.search.strategy.n_trials, read.search.strategy.parallel) == (12, 3)
    assert (read.workers, read.submit) == (5, False)
    assert read.search.path == str(tmp_path / "user.me.search.ledger")
    assert project({"evaluationContainer": "image"}, bare=True).payload.container is None


def test_what_is_not_used_is_named(project: Callable[..., Project]) -> None:
    names = [
        "maxEvaluationJobs", "maxPointsPerEvaluationJob", "minUnevaluatedPoints", "alrbArgs",
        "architecture", "site", "dumpJson", "workingGroup", "official", "vomsRoles", "noEmail",
        "intrSrv", "python3", "verbose",
    ]  # fmt: skip
    read = project({**dict.fromkeys(names, "1"), "maxpoints": 3, "noEmail": False, "site": None})
    said = [warning.split(" ")[0] for warning in read.warnings]
    assert sorted(said) == sorted({*names, "maxpoints"} - {"noEmail", "site"})
    [wrong] = [warning for warning in read.warnings if warning.startswith("maxpoints")]
    assert "no option of phpo" in wrong
    assert '"maxPoints"' in wrong
    assert read.search.strategy.n_trials == 10


def test_options_can_be_changed(project: Callable[..., Project]) -> None:
    assert project({"maxPoints": 5}, changes={"maxPoints": "7"}).search.strategy.n_trials == 7
    with pytest.raises(InputError, match='maxPoint is no option of phpo: did you mean "maxPoints"'):
        project(changes={"maxPoint": "7"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maxPoints": 0}, "maxPoints is 0: it must be a whole number from 1 on"),
        ({"maxPoints": "many"}, 'maxPoints is "many"'),
        ({"nPointsPerIteration": 1.5}, "nPointsPerIteration is 1.5"),
        ({"checkPointInterval": True}, "checkPointInterval is true"),
        ({"evaluationExec": ["a", "b"]}, "evaluationExec is .* it must be text"),
        ({"evaluationExec": " "}, "it must be text"),
        ({"noSubmit": "yes"}, "noSubmit is .* it must be true or false"),
        ({"evaluationExec": "gone"}, "evaluationExec is missing"),
        ({"steeringExec": "gone"}, "steeringExec is missing.*--optimiser"),
        ({"checkPointToSave": "a,/etc"}, "checkPointToSave names"),
        ({"checkPointToSave": "../a"}, "checkPointToSave names"),
        ({"checkPointToLoad": "/tmp/a"}, "checkPointToLoad names"),
        ({"searchSpaceFile": "none.json"}, "none.json cannot be read"),
        ({"segmentSpecFile": "none.json"}, "none.json cannot be read"),
        ({"trainingDS": "user.me.data"}, "no folder of this name: download it"),
    ],
)
def test_what_is_wrong_is_said(
    project: Callable[..., Project], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        project(options)


def test_a_configuration_is_a_mapping(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("[1]")
    with pytest.raises(InputError, match="must map options"):
        read_project(config, folder=tmp_path)
    config.write_text('{"evaluationExec": "a",}')
    with pytest.raises(InputError, match="is not JSON"):
        read_project(config, folder=tmp_path)


SEGMENTS = [{"name": "A", "files": ["f1", "f3"]}, {"name": "B", "files": ["f2"]}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two segments, and training data as rucio leaves them."""
    (tmp_path / "seg.json").write_text(json.dumps(SEGMENTS))
    folder = tmp_path / "user.me.data"
    (folder / "inner").mkdir(parents=True)
    for name in ("f1", "inner/f2", "f3", "f4"):
        (folder / name).write_text(name)
    return folder


SEGMENTED = {"segmentSpecFile": "seg.json", "trainingDS": "user.me:user.me.data/"}


def inputs(read: Project) -> Any:
    runner: Any = read.search.runner
    return runner.inputs


def test_each_segment_gets_its_files(project: Callable[..., Project], data: Path) -> None:
    read = project(SEGMENTED)
    assert inputs(read) == {
        "A": (str(data / "f1"), str(data / "f3")),
        "B": (str(data / "inner" / "f2"),),
    }
    assert read.payload.segments == ("A", "B")
    assert read.payload.data == ()
    assert read.search.strategy.parallel == 4  # two in each


def test_without_segments_all_files_are_given(project: Callable[..., Project], data: Path) -> None:
    read = project({"trainingDS": "user.me.data"})
    assert [Path(name).name for name in read.payload.data] == ["f1", "f3", "f4", "f2"]


def test_data_may_be_elsewhere(project: Callable[..., Project], data: Path, tmp_path: Path) -> None:
    data.rename(tmp_path / "moved")
    places = ["moved", "root://far//dir/f5?token=1"]
    read = project({"trainingDS": "user.me.data"}, data=places)
    assert read.payload.data[-1] == places[-1]
    segmented = project({**SEGMENTED, "trainingDS": None}, data=["moved"])
    assert inputs(segmented)["B"] == (str(tmp_path / "moved" / "inner" / "f2"),)
    assert inputs(project({**SEGMENTED, "trainingDS": None}))["B"] == ()
    with pytest.raises(InputError, match="none is not there"):
        project(data=["none"])


def test_segments_may_name_datasets(project: Callable[..., Project], data: Path) -> None:
    segments = [{"name": "A", "datasets": ["user.me:inner"]}, {"name": "B", "files": ["f1"]}]
    (data.parent / "seg.json").write_text(json.dumps(segments))
    read = project(SEGMENTED)
    assert inputs(read) == {"A": (str(data / "inner" / "f2"),), "B": (str(data / "f1"),)}
    (data.parent / "seg.json").write_text(json.dumps([{"name": "A", "datasets": ["outer"]}]))
    with pytest.raises(InputError, match="dataset outer is no folder"):
        project(SEGMENTED)


def test_files_that_are_missing_or_twice_are_named(
    project: Callable[..., Project], data: Path
) -> None:
    (data / "f3").rename(data / "f33")
    with pytest.raises(InputError, match="file f3 of segment A is not in the training data"):
        project(SEGMENTED)
    (data / "inner" / "f1").write_text("")
    with pytest.raises(InputError, match="f1 is twice in the training data"):
        project(SEGMENTED)


WRITTEN = {"x": {"method": "uniform", "dimension": {"low": 0, "high": 1}}}
OTHER = {"y": [0, 1]}


@pytest.mark.parametrize(
    ("written", "given"),
    [
        (WRITTEN, [WRITTEN, WRITTEN]),
        ([WRITTEN, OTHER], [WRITTEN, OTHER]),
        (
            [{"model_id": 1, "search_space": OTHER}, {"model_id": 0, "search_space": WRITTEN}],
            [WRITTEN, OTHER],
        ),
    ],
)
def test_each_segment_has_its_space(
    project: Callable[..., Project], data: Path, written: Any, given: list[Any]
) -> None:
    (data.parent / "space.json").write_text(json.dumps(written))
    read = project({**SEGMENTED, "searchSpaceFile": "space.json"})
    commands = [steering(read, name) for name in "AB"]
    assert [each.opt_space for each in commands] == given
    assert [each.model_id for each in commands] == [0, 1]


def test_spaces_that_do_not_fit_are_refused(project: Callable[..., Project], data: Path) -> None:
    space = data.parent / "space.json"
    space.write_text(json.dumps([WRITTEN]))
    with pytest.raises(InputError, match="1 spaces, and there are 2 segments"):
        project({**SEGMENTED, "searchSpaceFile": "space.json"})
    with pytest.raises(InputError, match="which is for segments"):
        project({"searchSpaceFile": "space.json"})
    space.write_text(json.dumps([{"model_id": 1, "search_space": OTHER}] * 2))
    with pytest.raises(InputError, match="2 spaces"):
        project({**SEGMENTED, "searchSpaceFile": "space.json"})


def test_an_optimiser_of_ours_may_take_the_place_of_steering(
    project: Callable[..., Project], tmp_path: Path
) -> None:
    (tmp_path / "space.json").write_text(json.dumps(WRITTEN))
    options = {"searchSpaceFile": "space.json"}
    read = project(options, optimiser="optuna:grid")
    space = read.search.strategy.spaces[""]
    assert space is not None
    assert list(space.dimensions) == ["x"]
    assert read.payload.arrays
    assert not project(options).payload.arrays
    with pytest.raises(InputError, match="searchSpaceFile is missing"):
        project(optimiser="optuna:grid")


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No program that runs containers, but for those that a test adds."""
    there: list[str] = []
    monkeypatch.setattr("shutil.which", lambda name: name if name in there else None)
    return there


def test_a_container_for_steering_needs_its_program_here(
    project: Callable[..., Project], nothing_installed: list[str]
) -> None:
    options = {"steeringContainer": "registry/steer:1"}
    with pytest.raises(InputError, match=r"no apptainer and no singularity and no docker.*--bare"):
        project(options)
    assert steering(project(options, bare=True)).container is None
    nothing_installed.append("docker")
    container = steering(project(options)).container
    assert container is not None
    assert container.image == "registry/steer:1"


def test_steering_may_be_what_follows_docker(
    project: Callable[..., Project], nothing_installed: list[str]
) -> None:
    options = {"steeringExec": "run --rm -v $(pwd):/here image opt.py %IN %OUT"}
    with pytest.raises(InputError, match="there is no docker here"):
        project(options)
    nothing_installed.append("docker")
    assert steering(project(options)).docker
    with pytest.raises(InputError, match="to run it bare"):
        project(options, bare=True)
    assert not steering(project({**options, "steeringContainer": "image"})).docker


def test_the_files_of_the_project_travel_but_not_its_results(
    project: Callable[..., Project], tmp_path: Path
) -> None:
    (tmp_path / "phpo.output").mkdir()
    (tmp_path / "phpo.output" / "old.json").write_text("{}")
    (tmp_path / "train.py").write_text("pass")
    read = project()
    assert [file.name for file in read.payload.files] == ["config.json", "train.py"]
    assert read.search.identity.content == read.payload.digest
