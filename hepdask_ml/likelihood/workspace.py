"""Workspaces as users have them, read and checked.

A workspace comes as a dictionary, a file, an fsspec URL, packed with gzip or not, with JSON patches
or a named patch of a patchset on top.  `read` gives a `Workspace`: small records whose numbers are
finite and whose lists have matching lengths, or one sentence that says what is wrong and where.
The records keep HistFactory's words: channel, sample, modifier, measurement.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
import jsonpatch
import jsonpointer

from hepdask_ml.errors import InputError

Source: TypeAlias = "Mapping[str, Any] | str | Path"
Patch: TypeAlias = "str | Path | Sequence[Mapping[str, Any]]"

KINDS = ("histosys", "lumi", "normfactor", "normsys", "shapefactor", "shapesys", "staterror")
"""Modifier types, in the order in which pyhf 0.7 collects their parameters."""

# Squares of all numbers, and their ratios, stay finite.
_LARGEST = 1e100
_GZIP_MAGIC = b"\x1f\x8b"
_NAMED_PATCH = re.compile(r"(?P<file>.+\.json(?:\.gz)?):(?P<name>.+)")


@dataclass(frozen=True, slots=True)
class Modifier:
    """What changes a sample: its type, its parameter's name and its numbers.

    ``low`` and ``high`` are a histosys' shapes or a normsys' factors (one number each); ``widths``
    are the uncertainties of a shapesys or staterror; all are empty where the type has none.
    """

    kind: str
    name: str
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    widths: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One process in one channel; of modifiers with equal type and name the last one counts."""

    name: str
    data: tuple[float, ...]
    modifiers: dict[tuple[str, str], Modifier]


@dataclass(frozen=True, slots=True)
class Channel:
    """One region of selected events."""

    name: str
    n_bins: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class ParameterSettings:
    """What a measurement says about one parameter; None where it says nothing."""

    inits: tuple[float, ...] | None = None
    bounds: tuple[tuple[float, float], ...] | None = None
    auxdata: tuple[float, ...] | None = None
    factors: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    fixed: bool | None = None


@dataclass(frozen=True, slots=True)
class Workspace:
    """A checked workspace with one of its measurements.

    Attributes
    ----------
    channels : tuple of Channel
        Sorted by name, their samples too, as pyhf sorts them.
    observations : dict
        Channel name to its observed counts.
    poi : str or None
        Name of the measurement's parameter of interest.
    parameters : dict
        Parameter name to the measurement's settings.
    warnings : tuple of str
        What the reader should know.
    """

    channels: tuple[Channel, ...]
    observations: dict[str, tuple[float, ...]]
    poi: str | None
    parameters: dict[str, ParameterSettings]
    warnings: tuple[str, ...] = field(default=())


def read(
    source: Source, *, measurement: str | None = None, patches: Sequence[Patch] = ()
) -> Workspace:
    """Read and check a workspace.

    Parameters
    ----------
    source : dict, str or Path
        The workspace, its file, or an fsspec URL of it.
    measurement : str, optional
        Which of its measurements to take; the first one if not given.
    patches : sequence
        JSON patches, applied in this order: each a list of operations, a file or URL of one, or
        ``"patchset.json:NAME"``.

    Returns
    -------
    Workspace
        The checked records.

    Raises
    ------
    InputError
        If something cannot be read or applied, or is no workspace that pyhf 0.7 would take.
    """
    document = _mapping(source if isinstance(source, Mapping) else load(source), _name_of(source))
    for patch in patches:
        document = _mapping(_patched(document, patch), "the patched workspace")
    chosen, warnings = _measurement(document, measurement)
    settings = _mapping(_entry(chosen, "config", "the measurement"), "the measurement's config")
    poi = _entry(settings, "poi", "the measurement's config")
    if not isinstance(poi, str):
        raise InputError(f"the measurement's poi is {_shown(poi)}: it must be a parameter's name")
    channels = read_channels(_entry(document, "channels", "the workspace"))
    return Workspace(
        channels=channels,
        observations=_observations(_entry(document, "observations", "the workspace"), channels),
        poi=poi or None,
        parameters=read_parameters(settings.get("parameters", [])),
        warnings=warnings,
    )


def load(source: str | Path) -> Any:
    """Parse a JSON file, packed with gzip or not, from a path or an fsspec URL.

    Parameters
    ----------
    source : str or Path
        Path or URL.

    Returns
    -------
    object
        What the file holds.

    Raises
    ------
    InputError
        If it cannot be read or is not JSON.
    """
    try:
        with fsspec.open(str(source), "rb") as file:
            content = file.read()
    except (OSError, ValueError, ImportError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{source} cannot be read ({reason}): check the name") from None
    try:
        if content.startswith(_GZIP_MAGIC):
            content = gzip.decompress(content)
        return json.loads(content)
    except (OSError, EOFError, zlib.error):
        raise InputError(f"{source} is a damaged gzip file: fetch or make it again") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} is not JSON ({error}): give a workspace file") from None


def read_channels(value: Any) -> tuple[Channel, ...]:
    """Check a workspace's channels.

    Parameters
    ----------
    value : list
        The ``channels`` of a workspace or a pyhf model specification.

    Returns
    -------
    tuple of Channel
        Sorted by name.

    Raises
    ------
    InputError
        If something is missing, is no finite number, or does not match.
    """
    channels = [_channel(item, place) for place, item in enumerate(_list(value, "channels"))]
    if not channels:
        raise InputError("the workspace has no channels: at least one is needed")
    _refuse_repeated([channel.name for channel in channels], "channel")
    return tuple(sorted(channels, key=lambda channel: channel.name))


def read_parameters(value: Any) -> dict[str, ParameterSettings]:
    """Check a measurement's parameter settings.

    Parameters
    ----------
    value : list
        The ``parameters`` of a measurement or a pyhf model specification.

    Returns
    -------
    dict
        Parameter name to its settings.

    Raises
    ------
    InputError
        If a setting has another form than pyhf's.
    """
    items = [
        (_text(_entry(_mapping(item, "a parameter setting"), "name", "a parameter setting")), item)
        for item in _list(value, "the measurement's parameters")
    ]
    _refuse_repeated([name for name, _ in items], "parameter setting")
    return {name: _settings(item, f'the settings of parameter "{name}"') for name, item in items}


def _channel(value: Any, place: int) -> Channel:
    record = _mapping(value, f"channel {place}")
    name = _text(_entry(record, "name", f"channel {place}"))
    where = f'channel "{name}"'
    items = _list(_entry(record, "samples", where), f"the samples of {where}")
    if not items:
        raise InputError(f"{where} has no samples: at least one is needed")
    samples = [_sample(item, where) for item in items]
    _refuse_repeated([sample.name for sample in samples], f"{where}: sample")
    n_bins = len(samples[0].data)
    for sample in samples:
        _expect_length(len(sample.data), n_bins, f'{where}, sample "{sample.name}"')
    return Channel(name, n_bins, tuple(sorted(samples, key=lambda sample: sample.name)))


def _sample(value: Any, channel: str) -> Sample:
    record = _mapping(value, f"a sample of {channel}")
    name = _text(_entry(record, "name", f"a sample of {channel}"))
    where = f'{channel}, sample "{name}"'
    data = _numbers(_entry(record, "data", where), where)
    modifiers: dict[tuple[str, str], Modifier] = {}
    for item in _list(_entry(record, "modifiers", where), f"the modifiers of {where}"):
        modifier = _modifier(item, where, len(data))
        key = (modifier.kind, modifier.name)
        if modifier.kind == "shapesys" and key in modifiers:
            raise InputError(f'{where}: shapesys "{modifier.name}" stands there twice: rename one')
        modifiers[key] = modifier
    return Sample(name, data, modifiers)


def _modifier(value: Any, sample: str, n_bins: int) -> Modifier:
    record = _mapping(value, f"a modifier of {sample}")
    name = _text(_entry(record, "name", f"a modifier of {sample}"))
    kind = _text(_entry(record, "type", f'{sample}, modifier "{name}"'))
    where = f'{sample}, {kind} "{name}"'
    if kind not in KINDS:
        raise InputError(
            f'{sample}, modifier "{name}": type "{kind}" is unknown: use one of {", ".join(KINDS)}'
        )
    if kind in ("normfactor", "lumi", "shapefactor"):
        return Modifier(kind, name)
    data = _entry(record, "data", where)
    if kind in ("shapesys", "staterror"):
        widths = _numbers(data, where)
        if any(0.0 < width < 1.0 / _LARGEST for width in widths):
            raise InputError(f"{where} has uncertainties that are almost zero: give zero for none")
        _expect_length(len(widths), n_bins, where)
        return Modifier(kind, name, widths=widths)
    data = _mapping(data, f"the data of {where}")
    if kind == "normsys":
        low, high = (_number(_entry(data, key, where), f"{where}, {key}") for key in ("lo", "hi"))
        if low <= 0 or high <= 0:
            raise InputError(
                f"{where}: lo {low:g} and hi {high:g} are factors: they must be positive"
            )
        return Modifier(kind, name, (low,), (high,))
    low_data, high_data = (
        _numbers(_entry(data, key, where), f"{where}, {key}") for key in ("lo_data", "hi_data")
    )
    for shape in (low_data, high_data):
        _expect_length(len(shape), n_bins, where)
    return Modifier(kind, name, low_data, high_data)


def _settings(item: Mapping[str, Any], where: str) -> ParameterSettings:
    fixed = item.get("fixed")
    if fixed is not None and not isinstance(fixed, bool):
        raise InputError(f"{where}: fixed is {_shown(fixed)}: it must be true or false")
    numbers = {
        key: _numbers(item[key], f"{where}, {key}")
        for key in ("inits", "auxdata", "factors", "sigmas")
        if item.get(key) is not None
    }
    bounds = None
    if item.get("bounds") is not None:
        bounds = tuple(_pair(pair, where) for pair in _list(item["bounds"], f"{where}, bounds"))
    return ParameterSettings(bounds=bounds, fixed=fixed, **numbers)


def _pair(value: Any, where: str) -> tuple[float, float]:
    pair = _numbers(value, f"{where}, bounds")
    if len(pair) != 2 or pair[0] > pair[1]:
        raise InputError(
            f"{where}: bounds {_shown(value)} are no pair of a lower and an upper value"
        )
    return pair[0], pair[1]


def _measurement(
    document: Mapping[str, Any], name: str | None
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    items = _list(_entry(document, "measurements", "the workspace"), "measurements")
    named = {
        _text(_entry(_mapping(item, "a measurement"), "name", "a measurement")): item
        for item in items
    }
    if not named:
        raise InputError("the workspace has no measurements: at least one is needed")
    known = ", ".join(named)
    if name is not None and name not in named:
        raise InputError(f'the workspace has no measurement "{name}": choose from {known}')
    first = next(iter(named))
    several = f'the first of {len(named)} measurements ({known}) was taken, "{first}"'
    return named[name or first], (several,) if name is None and len(named) > 1 else ()


def _observations(value: Any, channels: tuple[Channel, ...]) -> dict[str, tuple[float, ...]]:
    observed = {}
    for item in _list(value, "observations"):
        record = _mapping(item, "an observation")
        name = _text(_entry(record, "name", "an observation"))
        where = f'the observations of channel "{name}"'
        observed[name] = _numbers(_entry(record, "data", where), where)
        if min(observed[name], default=0.0) < 0:
            raise InputError(f"{where} hold {min(observed[name]):g}: counts must be zero or more")
    for channel in channels:
        if channel.name not in observed:
            raise InputError(f'channel "{channel.name}" has no observations: add its counts')
        where = f'the observations of channel "{channel.name}"'
        _expect_length(len(observed[channel.name]), channel.n_bins, where)
    return observed


def _patched(document: Mapping[str, Any], patch: Patch) -> Any:
    name, operations = _operations(document, patch)
    try:
        return jsonpatch.JsonPatch(operations).apply(document)
    except (
        jsonpatch.JsonPatchException,
        jsonpointer.JsonPointerException,
        # What the library raises for operations of the wrong type.
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{name} does not apply to the workspace ({reason}): check that they belong together"
        ) from None


def _operations(document: Mapping[str, Any], patch: Patch) -> tuple[str, Any]:
    """Name and operations of a patch, looked up in its patchset where it is one."""
    if not isinstance(patch, (str, Path)):
        return "the patch", patch
    parts = _NAMED_PATCH.fullmatch(str(patch))
    if not parts or Path(str(patch)).exists():
        content = load(patch)
        if isinstance(content, Mapping):
            names = ", ".join(_patches(content, str(patch)))
            raise InputError(
                f"{patch} is a patchset: name one of its patches as {patch}:NAME ({names})"
            )
        return str(patch), content
    file, name = parts["file"], parts["name"]
    patchset = _mapping(load(file), file)
    patches = _patches(patchset, file)
    if name not in patches:
        raise InputError(f'{file} has no patch "{name}": choose from {", ".join(patches)}')
    _verify(document, patchset, file)
    return f'patch "{name}" of {file}', patches[name]


def _patches(patchset: Mapping[str, Any], file: str) -> dict[str, Any]:
    found = {}
    for item in _list(_entry(patchset, "patches", file), f"the patches of {file}"):
        record = _mapping(item, f"a patch of {file}")
        metadata = _mapping(_entry(record, "metadata", f"a patch of {file}"), "a patch's metadata")
        found[_text(_entry(metadata, "name", f"a patch of {file}"))] = _entry(record, "patch", file)
    return found


def _verify(document: Mapping[str, Any], patchset: Mapping[str, Any], file: str) -> None:
    """Compare the workspace with the patchset's digests of it (pyhf.PatchSet.verify)."""
    digests = _mapping(patchset.get("metadata", {}), f"the metadata of {file}").get("digests", {})
    canonical = json.dumps(document, sort_keys=True, ensure_ascii=False).encode()
    for algorithm, digest in _mapping(digests, f"the digests of {file}").items():
        if algorithm not in ("md5", "sha256"):
            continue
        if hashlib.new(algorithm, canonical, usedforsecurity=False).hexdigest() != digest:
            raise InputError(
                f"{file} was made for another workspace ({algorithm} differs): "
                "use the background-only workspace that came with it"
            )


def _name_of(source: Source) -> str:
    return "the workspace" if isinstance(source, Mapping) else str(source)


def _entry(record: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in record:
        raise InputError(f'{where} has no "{key}": add it as in the HistFactory JSON schema')
    return record[key]


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} is {_shown(value)}: a JSON object was expected")
    return value


def _list(value: Any, where: str) -> Sequence[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise InputError(f"{where}: {_shown(value)} stands there, a list was expected")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"a name is {_shown(value)}: names must be text")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{where}: {_shown(value)} stands there, a number was expected")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) < _LARGEST:
        raise InputError(f"{where}: {_shown(value)} stands there, a finite number was expected")
    return number


def _numbers(value: Any, where: str) -> tuple[float, ...]:
    return tuple(_number(item, where) for item in _list(value, where))


def _expect_length(found: int, expected: int, where: str) -> None:
    if found != expected:
        raise InputError(f"{where} has {found} bins, its channel {expected}: make them match")


def _refuse_repeated(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f'{what} "{name}" stands there twice: rename or merge them')


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
