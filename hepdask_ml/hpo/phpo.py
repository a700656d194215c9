"""Projects of phpo, as they are: what its ``--loadJson`` file says becomes a search.

Each option is used, or named in a warning as not used here.  Files are looked for where phpo looks
for them: in the folder from which it would be submitted.

``steeringExec``, ``steeringContainer``
    The optimiser, see `hepdask_ml.hpo.with_command`; ``searchSpaceFile`` is handed to it as it is.
``evaluationExec``, ``evaluationContainer``
    The objective, see `hepdask_ml.hpo.payload`.  ``evaluationInput``, ``evaluationTrainingData``,
    ``evaluationOutput``, ``evaluationMeta`` and ``evaluationMetrics`` are names of its files;
    ``checkPointToSave``, ``checkPointToLoad`` and ``checkPointInterval`` say what is saved of it.
``maxPoints``, ``nPointsPerIteration``
    Trials, and trials of a round, in each of the segments of ``segmentSpecFile``.
``nParallelEvaluation``
    Workers on this machine, unless another place to run is named.
``trainingDS``
    A folder of this name, as ``rucio download`` makes it, unless the data are given otherwise.
``outDS``
    Names the ledger and the folder for results.
``noSubmit``
    Nothing is run.

References
----------
| panda-client, ``pandaclient/PhpoScript.py``
| panda-docs, ``client/phpo.rst``
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hepdask_ml.config import nearest
from hepdask_ml.errors import InputError, WorkerFault
from hepdask_ml.hpo.campaign import Search, search
from hepdask_ml.hpo.commands import shipped
from hepdask_ml.hpo.containers import Container
from hepdask_ml.hpo.document import read_document
from hepdask_ml.hpo.optimisers import COMMAND, Optimiser
from hepdask_ml.hpo.payload import Names, Payload
from hepdask_ml.hpo.payload_saving import INTERVAL_S, Saving
from hepdask_ml.hpo.segments import Segment, read_segments
from hepdask_ml.hpo.values import shown
from hepdask_ml.hpo.with_command import Command

_TEXTS: dict[str, str | None] = {
    "steeringExec": None,
    "steeringContainer": None,
    "searchSpaceFile": None,
    "evaluationExec": None,
    "evaluationContainer": None,
    "evaluationInput": "input.json",
    "evaluationTrainingData": "input_ds.json",
    "evaluationOutput": "output.json",
    "evaluationMeta": None,
    "evaluationMetrics": None,
    "checkPointToSave": None,
    "checkPointToLoad": None,
    "segmentSpecFile": None,
    "trainingDS": None,
    "outDS": "phpo",
}
_NUMBERS = {
    "maxPoints": 10,
    "nPointsPerIteration": 2,
    "nParallelEvaluation": 1,
    "checkPointInterval": round(INTERVAL_S / 60.0),
}
_FLAGS = ("noSubmit",)
_PANDA = "it concerns PanDA alone"
_UNUSED = {
    "maxEvaluationJobs": "each trial has three attempts",
    "maxPointsPerEvaluationJob": "a worker takes trials as long as its walltime lasts",
    "minUnevaluatedPoints": "the next points are asked for when all have been evaluated",
    "alrbArgs": "containers are started without ALRB",
    "architecture": "choose a site that has it with --site",
    "site": "name a place to run with --site",
    "dumpJson": "--json prints the result",
    "loadJson": "one file is read",
    "workingGroup": _PANDA,
    "official": _PANDA,
    "vomsRoles": _PANDA,
    "noEmail": _PANDA,
    "intrSrv": _PANDA,
    "python3": _PANDA,
    "verbose": _PANDA,
    "version": _PANDA,
}
_DOCKER = ("run", "exec", "container", "compose")

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Project:
    """A project of phpo, ready to run.

    Attributes
    ----------
    search : Search
        The search.
    payload : Payload
        Its objective.
    warnings : tuple of str
        What in its configuration is not used here, and why.
    workers : int
        How many trials it wants to evaluate at once.
    output : Path
        Folder for what its payloads leave.
    submit : bool
        Whether it wants to be run at all.
    """

    search: Search
    payload: Payload
    warnings: tuple[str, ...]
    workers: int
    output: Path
    submit: bool


def read_project(  # noqa: PLR0913 - options, all keyword-only
    config: str | Path,
    *,
    folder: str | Path | None = None,
    changes: Options | None = None,
    data: Sequence[str | Path] = (),
    bare: bool = False,
    optimiser: str | None = None,
    objectives: Sequence[str] = ("loss",),
    model_id: bool = False,
    ledger: str | Path | None = None,
    output: str | Path | None = None,
    **settings: Any,
) -> Project:
    """Make a search of a project of phpo.

    Parameters
    ----------
    config : str or Path
        The file that phpo reads with ``--loadJson``.
    folder : str or Path, optional
        Folder from which it would be submitted; the current one if not given.
    changes : mapping, optional
        Options in place of those of the file, by name.
    data : sequence of str or Path, optional
        Folders, files and URLs of the training data; by default the folder that has the name of
        ``trainingDS``.
    bare : bool
        Run the commands without the containers that the file names.
    optimiser : str, optional
        One of ours in place of the steering command.
    objectives : sequence of str
        Names for the losses, where there are several.
    model_id : bool
        Whether ``input.json`` of a segmented project holds ``[model_id, {...}]``.
    ledger : str or Path, optional
        File in which the trials are kept; named after ``outDS`` if not given.
    output : str or Path, optional
        Folder for what payloads leave; named likewise.
    **settings
        What else `search` takes.

    Returns
    -------
    Project
        Ready to run.

    Raises
    ------
    InputError
        If an option is wrong, or something it names is not there.

    Examples
    --------
    >>> project = read_project("examples/phpo/config.json", folder="examples/phpo")
    >>> project.search.strategy.n_trials
    6
    """
    here = Path.cwd() if folder is None else Path(folder).absolute()
    options, warnings = _options(config, changes or {})
    task = options["outDS"].rstrip("/")
    book = here / f"{task}.ledger" if ledger is None else Path(ledger).absolute()
    results = here / f"{task}.output" if output is None else Path(output).absolute()
    segments = _segments(options, here)
    segments, files = _data(options, segments, data, here)
    steered = optimiser is None or optimiser.startswith(COMMAND)
    payload = Payload(
        command=_needed(options, "evaluationExec"),
        files=shipped(here, spared=(results, Path(f"{book}.checkpoints"))),
        names=Names(
            params=options["evaluationInput"],
            data=options["evaluationTrainingData"],
            output=options["evaluationOutput"],
            meta=options["evaluationMeta"],
            metrics=options["evaluationMetrics"],
        ),
        saving=_saving(options),
        container=_container(options["evaluationContainer"], bare),
        output=str(results),
        data=files,
        segments=tuple(segment.name for segment in segments),
        model_id=model_id,
        arrays=not steered,
        task=task,
    )
    spaces = _spaces(options, segments, here)
    return Project(
        search=search(
            payload,
            None if steered else _ours(spaces, options),
            optimiser=optimiser or _steering(options, spaces, segments, here, bare=bare),
            n_trials=options["maxPoints"],
            ledger=book,
            objectives=tuple(objectives),
            parallel=options["nPointsPerIteration"] * max(1, len(segments)),
            segments=segments or None,
            **settings,
        ),
        payload=payload,
        warnings=tuple(warnings),
        workers=options["nParallelEvaluation"],
        output=results,
        submit=not options["noSubmit"],
    )


def _options(config: str | Path, changes: Options) -> tuple[dict[str, Any], list[str]]:
    """Read all options; give them with warnings of those that are not used."""
    place = Path(config).expanduser()
    document = read_document(place)
    if not isinstance(document, Mapping):
        raise InputError(f"{config} holds {shown(document)}: it must map options to values")
    known = [*_TEXTS, *_NUMBERS, *_FLAGS, *_UNUSED]
    for name in changes:
        if name not in known:
            near = nearest(name, known)
            raise InputError(f"{name} is no option of phpo{f': {near[0]}' if near else ''}")
    options: dict[str, Any] = {**_TEXTS, **_NUMBERS, **dict.fromkeys(_FLAGS, False)}
    warnings = []
    for name, value in {**document, **changes}.items():
        if name not in known:
            near = nearest(str(name), known)
            asked = f": {near[0]}" if near else ""
            warnings.append(f"{name} is no option of phpo, which ignores it, too{asked}")
        elif name in _UNUSED:
            if value not in (None, False, "", 0):
                warnings.append(f"{name} is not used here: {_UNUSED[name]}")
        elif value is not None:
            options[name] = _value(name, value)
    return options, warnings


def _value(name: str, value: Any) -> Any:
    if name in _TEXTS:
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and value.strip():
            return value
        raise InputError(f"{name} is {shown(value)}: it must be text")
    if name in _FLAGS:
        if isinstance(value, bool) or value in ("true", "false"):
            return value in (True, "true")
        raise InputError(f"{name} is {shown(value)}: it must be true or false")
    try:
        number = int(value) if isinstance(value, str) else value  # as phpo does
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InputError(f"{name} is {shown(value)}: it must be a whole number from 1 on")
    return number


def _needed(options: Options, name: str) -> str:
    if options[name] is None:
        raise InputError(f"{name} is missing: add it to the configuration")
    return str(options[name])


def _container(image: str | None, bare: bool) -> Container | None:
    return None if image is None or bare else Container(image)


def _saving(options: Options) -> Saving:
    names = (options["checkPointToSave"] or "").split(",")
    kept = tuple(name.strip().removeprefix("./").rstrip("/") for name in names if name.strip())
    tarball = options["checkPointToLoad"]
    named = [("checkPointToSave", name) for name in kept]
    for option, name in [*named, *([] if tarball is None else [("checkPointToLoad", tarball)])]:
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(
                f"{option} names {shown(name)}: name what is in the folder of the payload"
            )
    return Saving(kept, tarball, 60.0 * options["checkPointInterval"])


def _segments(options: Options, here: Path) -> tuple[Segment, ...]:
    name = options["segmentSpecFile"]
    return () if name is None else read_segments(here / name)


def _spaces(options: Options, segments: Sequence[Segment], here: Path) -> list[Any]:
    """Give the search space of each segment, as it is written; one where there are none."""
    name = options["searchSpaceFile"]
    number = max(1, len(segments))
    if name is None:
        return [None] * number
    document = read_document(here / name)
    if not isinstance(document, list):
        return [document] * number
    if not segments:
        raise InputError(f"{name} holds a list, which is for segments: give segmentSpecFile, too")
    found: dict[int, Any] = {}
    for place, each in enumerate(document):
        numbered = isinstance(each, Mapping) and each.keys() == {"model_id", "search_space"}
        found[each["model_id"] if numbered else place] = each["search_space"] if numbered else each
    if sorted(map(str, found)) != sorted(map(str, range(number))) or len(document) != number:
        raise InputError(
            f"{name} holds {len(document)} spaces, and there are {number} segments: give one for "
            "each, or one for all"
        )
    return [found[place] for place in range(number)]


def _ours(spaces: Sequence[Any], options: Options) -> Any:
    """Give the spaces to an optimiser of ours."""
    if options["searchSpaceFile"] is None:
        raise InputError("searchSpaceFile is missing: an optimiser has to know the space")
    return spaces[0] if len(spaces) == 1 else list(spaces)


def _steering(
    options: Options, spaces: Sequence[Any], segments: Sequence[Segment], here: Path, *, bare: bool
) -> Optimiser | dict[str, Optimiser]:
    """Make the steering command of each segment."""
    text = options["steeringExec"]
    if text is None:
        raise InputError(
            "steeringExec is missing: add it to the configuration, or choose an optimiser with "
            "--optimiser"
        )
    container = _container(options["steeringContainer"], bare)
    docker = options["steeringContainer"] is None and (text.split() or [""])[0] in _DOCKER
    if docker and bare:
        raise InputError(
            f"steeringExec is {shown(text)}, which is for docker: to run it bare, give the command "
            "itself with --set steeringExec=..."
        )
    if docker and shutil.which("docker") is None:
        raise InputError(
            f"steeringExec is {shown(text)}, and there is no docker here: install it, or run bare "
            "with --bare and --set steeringExec=..."
        )
    if container is not None:
        # This one program stands in its way, or is found each time.
        container = Container(container.image, (program_of(container),))
    one = Command(
        text,
        folder=here,
        container=container,
        docker=docker,
        opt_space=spaces[0],
        max_points=options["maxPoints"],
    )
    if not segments:
        return one
    return {
        segment.name: replace(one, opt_space=space, model_id=place)
        for place, (segment, space) in enumerate(zip(segments, spaces, strict=True))
    }


def program_of(container: Container) -> str:
    """Say what runs a container on this machine.

    Parameters
    ----------
    container : Container
        The container.

    Returns
    -------
    str
        The program.

    Raises
    ------
    InputError
        If there is none.
    """
    try:
        return container.program
    except WorkerFault as fault:
        raise InputError(str(fault)) from None


def _data(
    options: Options, segments: tuple[Segment, ...], given: Sequence[str | Path], here: Path
) -> tuple[tuple[Segment, ...], tuple[str, ...]]:
    """Find the training data; give the segments with their files, and all files."""
    name = options["trainingDS"]
    if name is None and not given:
        return tuple(replace(each, files=None, datasets=None) for each in segments), ()
    places = [str(each) for each in given]
    if not places:
        folder = here / name.rpartition(":")[2].rstrip("/")
        if not folder.is_dir() and not (segments and all(each.datasets for each in segments)):
            raise InputError(
                f"trainingDS is {name}, and there is no folder of this name: download it (rucio "
                "download makes the folder), or say where the data are with --data"
            )
        places = [str(folder)] if folder.is_dir() else []
    files = _listed(places, here)
    chosen = []
    for segment in segments:
        if segment.datasets:
            inside = [_dataset(each, places, here) for each in segment.datasets]
            paths = tuple(_listed(inside, here).values())
        else:
            paths = tuple(_file(each, files, segment.name) for each in segment.files or ())
        chosen.append(replace(segment, files=paths or None, datasets=None))
    return tuple(chosen), () if segments else tuple(files.values())


def _listed(places: Sequence[str], here: Path) -> dict[str, str]:
    """Give all files by their names in the data."""
    found: dict[str, str] = {}
    for place in places:
        for name, path in _within(place, here):
            if found.setdefault(name, path) != path:
                raise InputError(
                    f"{name} is twice in the training data, in {path} and {found[name]}: payloads "
                    "see its name alone, so rename one"
                )
    return found


def _within(place: str, here: Path) -> list[tuple[str, str]]:
    if "://" in place:
        return [(place.partition("?")[0].rpartition("/")[2], place)]
    path = here / place
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        if not files:
            raise InputError(f"{path} holds no files: it should hold training data")
        return [(each.name, str(each.absolute())) for each in files]
    if path.is_file():
        return [(path.name, str(path.absolute()))]
    raise InputError(f"{path} is not there: it should be training data")


def _dataset(name: str, places: Sequence[str], here: Path) -> str:
    bare = name.rpartition(":")[2].rstrip("/")
    for root in (*places, str(here)):
        if "://" not in root and (here / root / bare).is_dir():
            return str(here / root / bare)
    raise InputError(f"dataset {name} is no folder here: download it, or give its place by --data")


def _file(name: str, files: Mapping[str, str], segment: str) -> str:
    found = files.get(name) or files.get(name.rpartition(":")[2])
    if found is None:
        near = nearest(name, list(files))
        advice = near[0] if near else f"there are {len(files)} other files"
        raise InputError(f"file {name} of segment {segment} is not in the training data: {advice}")
    return found
