"""Configurations of cabinetry, read without cabinetry: its templates, and its choices as ours.

``General``, ``Regions``, ``Samples``, ``NormFactors`` and ``Systematics`` mean what they mean
there, as far as histograms are concerned: these are taken from the ``HistogramFolder``, where
cabinetry has put them, or from the ROOT files that ``InputPath`` names.  Filling histograms from
ntuples stays with cabinetry.  `data.templates.build.build` of what comes out gives the same
numbers as ``cabinetry.workspace.build``, with two differences on purpose: an unknown key, or a name
that is not there, is an error; and ``Fixed`` holds a systematic under its ``ModifierName``, where
cabinetry names a parameter that the model does not have.

References
----------
https://cabinetry.readthedocs.io/en/latest/config.html
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hepdask_ml.config import filled, nearest, one_of, read_yaml, record_of, settle
from hepdask_ml.data.templates.cells import place
from hepdask_ml.data.templates.choices import Choices, Factor, Norm, Rule, Statistics, Treatment
from hepdask_ml.data.templates.collect import Template, Templates, Variation, known
from hepdask_ml.data.templates.histograms import made
from hepdask_ml.data.templates.with_root import RootFiles
from hepdask_ml.errors import InputError, words

if TYPE_CHECKING:
    from hepdask_ml.data.templates.histograms import Histogram

SOURCES = ("folder", "inputs")
"""Where the histograms may be taken from."""


def read_cabinetry(
    config: str | Path | Mapping[str, Any], *, source: str = "folder", folder: str | Path = "."
) -> tuple[Templates, Choices]:
    """Read a configuration of cabinetry and the histograms that it names.

    Parameters
    ----------
    config : str, Path or dict
        The YAML file, or what it holds.
    source : {"folder", "inputs"}
        Take the histograms from the ``HistogramFolder``, as ``cabinetry.workspace.build`` does,
        with what its postprocessing made of them; or from the ROOT files of ``InputPath``, as
        ``cabinetry.templates.collect`` does, and choose the smoothing that it would apply.
    folder : str or Path
        Where relative paths in the configuration begin: the working directory, as for cabinetry.

    Returns
    -------
    templates, choices
        For `hepdask_ml.data.templates.build.build`.

    Raises
    ------
    InputError
        If the configuration or a histogram is missing, or wrong.
    """
    if source not in SOURCES:
        near = nearest(source, SOURCES) or [f"choose from {', '.join(SOURCES)}"]
        raise InputError(f'source is "{source}": {near[0]}')
    document = config if isinstance(config, Mapping) else read_yaml(Path(config))
    if not isinstance(document, Mapping):
        raise InputError(f"{config} holds no mapping: give a configuration of cabinetry")
    checked = record_of(_Config, document, "")
    choices = _choices(checked, smooth=source == "inputs")
    if source == "folder":
        return _templates(checked, _Folder(checked, Path(folder))), choices
    with RootFiles() as files:
        return _templates(checked, _Inputs(checked, Path(folder), files)), choices


# --- the configuration, with cabinetry's own names ------------------------------------------------

_ONE_NAME: dict[str, Any] = {"text": lambda text: (text,), "form": "one text"}


class _Settled:
    """Checks itself when it is made."""

    __slots__ = ()

    def __post_init__(self) -> None:
        settle(self)  # type: ignore[arg-type]  # what is made of it is a dataclass


@dataclass(frozen=True, slots=True)
class _Fixed(_Settled):
    Name: str
    Value: float


@dataclass(frozen=True, slots=True)
class _General(_Settled):
    Measurement: str
    InputPath: str
    HistogramFolder: str
    POI: str = ""
    Fixed: tuple[_Fixed, ...] = ()
    VariationPath: str = ""


@dataclass(frozen=True, slots=True)
class _Region(_Settled):
    Name: str
    Variable: str | None = None
    Binning: tuple[float, ...] | None = None
    Filter: str | None = None
    RegionPath: str | None = None


@dataclass(frozen=True, slots=True)
class _Sample(_Settled):
    Name: str
    Tree: str | None = None
    Filter: str | None = None
    Weight: str | None = None
    SamplePath: tuple[str, ...] | None = field(default=None, metadata=_ONE_NAME)
    Data: bool = False
    DisableStaterror: bool = False
    Regions: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)


@dataclass(frozen=True, slots=True)
class _NormFactor(_Settled):
    Name: str
    Regions: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)
    Samples: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)
    Nominal: float | None = None
    Bounds: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Side(_Settled):
    Tree: str | None = None
    Weight: str | None = None
    Variable: str | None = None
    Filter: str | None = None
    RegionPath: str | None = None
    SamplePath: tuple[str, ...] | None = field(default=None, metadata=_ONE_NAME)
    Normalization: float | None = None
    Symmetrize: bool = False
    VariationPath: str | None = None


@dataclass(frozen=True, slots=True)
class _Smoothing(_Settled):
    Algorithm: str = field(metadata={"rule": one_of("353QH, twice")})
    Regions: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)
    Samples: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)


@dataclass(frozen=True, slots=True)
class _Systematic(_Settled):
    Name: str
    Type: str = field(metadata={"rule": one_of("Normalization", "NormPlusShape")})
    Up: _Side
    Down: _Side
    Regions: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)
    Samples: tuple[str, ...] = field(default=(), metadata=_ONE_NAME)
    Smoothing: _Smoothing | None = None
    ModifierName: str | None = None

    def __post_init__(self) -> None:
        settle(self)
        norms = (self.Up.Normalization, self.Down.Normalization)
        if self.Type == "Normalization" and None in norms:
            raise InputError(f'"{self.Name}" lacks the Normalization of Up or Down: add it')
        if self.Up.Symmetrize:
            raise InputError(
                f'"{self.Name}" symmetrises Up: cabinetry mirrors Down, so exchange them'
            )

    @property
    def modifier(self) -> str:
        """Name of its parameter."""
        return self.ModifierName or self.Name


@dataclass(frozen=True, slots=True)
class _Config(_Settled):
    """A whole configuration."""

    General: _General
    Regions: tuple[_Region, ...] = field(metadata={"rule": filled})
    Samples: tuple[_Sample, ...] = field(metadata={"rule": filled})
    NormFactors: tuple[_NormFactor, ...]
    Systematics: tuple[_Systematic, ...] = ()

    def __post_init__(self) -> None:
        settle(self)
        if len([each for each in self.Samples if each.Data]) != 1:
            raise InputError(
                "Samples hold no sample that is data, or several: one of them must have Data: true"
            )
        self._check_names()

    @property
    def data(self) -> _Sample:
        """The one sample that is data."""
        return next(each for each in self.Samples if each.Data)

    @property
    def expected(self) -> tuple[_Sample, ...]:
        """All samples but the data."""
        return tuple(each for each in self.Samples if not each.Data)

    def _check_names(self) -> None:
        for what in ("Regions", "Samples", "NormFactors", "Systematics"):
            names = [each.Name for each in getattr(self, what)]
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f'{what}: the name "{name}" stands there twice: rename one')
        regions, samples = ([each.Name for each in s] for s in (self.Regions, self.Samples))
        sections: list[tuple[str, _Sample | _Selected]] = []
        sections += [(each.Name, each) for each in self.Samples]
        sections += [(each.Name, each) for each in self.NormFactors]
        for systematic in self.Systematics:
            sections.append((systematic.Name, systematic))
            if systematic.Smoothing is not None:
                sections.append((systematic.Name, systematic.Smoothing))
        for owner, section in sections:
            for name in section.Regions:
                known(name, regions, "region", f'"{owner}"')
            for name in getattr(section, "Samples", ()):
                known(name, samples, "sample", f'"{owner}"')


_Selected: TypeAlias = _NormFactor | _Systematic | _Smoothing


def _concerns(section: _Selected, region: _Region, sample: _Sample) -> bool:
    return (not section.Regions or region.Name in section.Regions) and (
        not section.Samples or sample.Name in section.Samples
    )


# --- histograms ----------------------------------------------------------------------------------


def _templates(config: _Config, take: _Folder | _Inputs) -> Templates:
    channels = {
        region.Name: {
            sample.Name: _template(config, region, sample, take)
            for sample in config.expected
            if not sample.Regions or region.Name in sample.Regions
        }
        for region in config.Regions
    }
    data = {region.Name: take(region, config.data) for region in config.Regions}
    return Templates(channels, data, (), tuple(take.sources))


def _template(
    config: _Config, region: _Region, sample: _Sample, take: _Folder | _Inputs
) -> Template:
    variations = {}
    for each in config.Systematics:
        if each.Type == "NormPlusShape" and _concerns(each, region, sample):
            up = take(region, sample, each, "Up")
            down = None if each.Down.Symmetrize else take(region, sample, each, "Down")
            variations[each.Name] = Variation(up, down)
    return Template(take(region, sample), variations)


class _Folder:
    """Takes histograms from where cabinetry has put them."""

    def __init__(self, config: _Config, root: Path) -> None:
        self.folder = root / config.General.HistogramFolder
        self.sources: Sequence[str] = (str(self.folder),)

    def __call__(
        self,
        region: _Region,
        sample: _Sample,
        systematic: _Systematic | None = None,
        side: str = "",
    ) -> Histogram:
        """Read a histogram, the postprocessed one if there is one."""
        parts = [region.Name, sample.Name, *([systematic.Name, side] if systematic else [])]
        name = "_".join(parts).replace(" ", "-")
        files = [self.folder / f"{name}_modified.npz", self.folder / f"{name}.npz"]
        file = next((each for each in files if each.exists()), None)
        if file is None:
            raise InputError(
                f"{files[-1]} is missing: let cabinetry.templates build or collect it, or read "
                'the histograms of InputPath with source="inputs"'
            )
        try:
            with np.load(file, allow_pickle=False) as arrays:
                yields, stdev, bins = (arrays[key] for key in ("yields", "stdev", "bins"))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{file} is no histogram of cabinetry ({words(error)}): let it make it again"
            ) from None
        return made(yields, np.square(stdev), bins, place(parts[0], parts[1], "_".join(parts[2:])))


class _Inputs:
    """Takes histograms from the ROOT files that ``InputPath`` names."""

    def __init__(self, config: _Config, root: Path, files: RootFiles) -> None:
        self.pattern = config.General.InputPath
        self.default = config.General.VariationPath
        self.root = root
        self.files = files

    @property
    def sources(self) -> Sequence[str]:
        """Files that were read so far."""
        return self.files.names

    def __call__(
        self,
        region: _Region,
        sample: _Sample,
        systematic: _Systematic | None = None,
        side: str = "",
    ) -> Histogram:
        """Read a histogram."""
        where = place(region.Name, sample.Name, systematic.Name if systematic else "")
        override: _Side = getattr(systematic, side) if systematic else _Side()
        variation = override.VariationPath
        path = self.pattern
        for key, values in (
            ("RegionPath", None if region.RegionPath is None else (region.RegionPath,)),
            ("SamplePath", override.SamplePath or sample.SamplePath),
            ("VariationPath", (self.default if variation is None else variation,)),
        ):
            path = _replaced(path, key, values, where)
        file, colon, name = path.rpartition(":")
        if not colon:
            raise InputError(
                f'InputPath gives "{path}", which names no histogram: write FILE.root:HISTOGRAM, '
                'or take those that cabinetry filled from ntuples with source="folder"'
            )
        located = file if "://" in file else str(self.root / file)
        return self.files.histogram(located, name, where)


def _replaced(path: str, key: str, values: tuple[str, ...] | None, where: str) -> str:
    slot = "{" + key + "}"
    if slot not in path:
        return path
    if values is None or len(values) != 1:
        found = f"holds {len(values)} texts" if values else "is missing"
        raise InputError(f"{where}: {key} {found}, and InputPath needs it: give one text")
    return path.replace(slot, values[0])


# --- choices -------------------------------------------------------------------------------------


def _choices(config: _Config, *, smooth: bool) -> Choices:
    without = tuple(each.Name for each in config.expected if each.DisableStaterror)
    statistics = [Statistics(kind="none", processes=without)] if without else []
    # A blank cannot be in the name of a parameter there.
    statistics += [
        Statistics(name=_plain(f"staterror_{name}".replace(" ", "-")), channels=(name,))
        for name in (each.Name for each in config.Regions)
    ]
    return Choices(
        poi=config.General.POI,
        measurement=config.General.Measurement,
        rules=tuple(rule for each in config.Systematics for rule in _rules(each, smooth)),
        statistics=tuple(statistics),
        factors=tuple(
            Factor(name=each.Name, init=each.Nominal, bounds=each.Bounds, **_selection(each))
            for each in config.NormFactors
        ),
        norms=tuple(
            Norm(
                name=each.modifier,
                up=1.0 + each.Up.Normalization,
                down=1.0 + each.Down.Normalization,
                **_selection(each),
            )
            for each in config.Systematics
            if each.Type == "Normalization"
            and each.Up.Normalization is not None
            and each.Down.Normalization is not None
        ),
        parameters=_fixed(config),
    )


def _plain(text: str) -> str:
    """Keep braces as they are in a name that may have something to fill in."""
    return text.replace("{", "{{").replace("}", "}}")


def _selection(section: _Selected) -> dict[str, Any]:
    return {"processes": section.Samples, "channels": section.Regions}


def _rules(systematic: _Systematic, smooth: bool) -> Iterator[Rule]:
    if systematic.Type != "NormPlusShape":
        return
    plain = Treatment(
        name=_plain(systematic.modifier),
        symmetrise="mirror-parts" if systematic.Down.Symmetrize else "none",
    )
    names = (systematic.Name,)
    if smooth and systematic.Smoothing is not None:
        smoothed = replace(plain, smooth="353QH")
        yield Rule(treatment=smoothed, systematics=names, **_selection(systematic.Smoothing))
    yield Rule(treatment=plain, systematics=names)


def _fixed(config: _Config) -> dict[str, Any]:
    names = {each.Name: each.modifier for each in config.Systematics}
    inits = {each.Name: each.Nominal for each in config.NormFactors}
    parameters: dict[str, Any] = {}
    for i, each in enumerate(config.General.Fixed):
        known(each.Name, [*inits, *names, *names.values()], "parameter", f"General.Fixed[{i}]")
        # A Nominal of its own comes first, as in cabinetry.
        init = inits.get(each.Name)
        parameters[names.get(each.Name, each.Name)] = {
            "inits": [each.Value if init is None else init],
            "fixed": True,
        }
    return parameters
