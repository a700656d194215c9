"""From a workspace to a compiled model, in pyhf's order of parameters and data.

pyhf collects *parameter sets* (one for each modifier name, of one or several components) by
modifier type, channel and sample; each set that is constrained brings auxiliary data in that order.
The order decides what a row of parameters or of data means, so it is kept to the letter.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.errors import InputError
from hepdask_ml.likelihood.model import CompiledModel
from hepdask_ml.likelihood.workspace import (
    KINDS,
    Channel,
    Modifier,
    ParameterSettings,
    Sample,
    Workspace,
    read,
    read_channels,
    read_parameters,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from hepdask_ml.likelihood.workspace import Patch, Source

    Floats = NDArray[np.float64]

NONE, NORMAL, POISSON = 0, 1, 2

_NORM_CODES = {"code1": 1, "code4": 4}
_SHAPE_CODES = {"code0": 0, "code2": 2, "code4p": 4}
_SENSIBLE_FACTOR = (0.01, 100.0)


@dataclass(frozen=True, slots=True)
class _ParameterSet:
    """One parameter, or one for each bin: pyhf's paramset."""

    constraint: int
    names: tuple[str, ...]
    inits: tuple[float, ...]
    bounds: tuple[tuple[float, float], ...]
    fixed: tuple[bool, ...]
    auxdata: tuple[float, ...] = ()
    widths: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def compile_model(
    workspace: Source | Any,
    *,
    poi: str | None = None,
    measurement: str | None = None,
    patch: Patch | Sequence[Patch] | None = None,
    modifier_settings: Mapping[str, Mapping[str, str]] | None = None,
    data: Sequence[float] | Floats | None = None,
) -> CompiledModel:
    """Compile a workspace into the arrays that are fitted.

    Parameters
    ----------
    workspace : dict, str, Path, pyhf.Workspace, pyhf.Model or CompiledModel
        The workspace, its file (packed with gzip or not), an fsspec URL, or a model of pyhf.
    poi : str, optional
        Parameter of interest; the measurement's if not given, none at all if empty.
    measurement : str, optional
        Which measurement to take; the first one if not given.
    patch : str, Path, list, or a sequence of these, optional
        JSON patches to apply first: lists of operations, files or URLs of them, or
        ``"patchset.json:NAME"``.
    modifier_settings : dict, optional
        Interpolation codes in pyhf's form, such as ``{"normsys": {"interpcode": "code1"}}``; code 4
        for normsys and 4p for histosys where not given.
    data : (n_data,) sequence of float, optional
        Observed main and auxiliary data in pyhf's order, in place of the workspace's.

    Returns
    -------
    CompiledModel
        The model with its observed data.

    Raises
    ------
    InputError
        If the workspace, a patch, the parameter of interest or the data are wrong.

    Examples
    --------
    >>> model = compile_model("examples/workspace.json")
    >>> model.poi_name
    'mu_SIG'
    """
    if isinstance(workspace, CompiledModel):
        model = workspace if poi is None else replace(workspace, poi_index=-1)
        names = model.par_names
        if poi:
            model = replace(
                model, poi_index=_poi_index(poi, {name: (name,) for name in names}, names)
            )
    elif hasattr(workspace, "config") and hasattr(workspace, "spec"):
        model = _from_pyhf(workspace, poi, modifier_settings)
    else:
        patches = _patches(patch)
        read_in = read(workspace, measurement=measurement, patches=patches)
        model = _compile(read_in, read_in.poi if poi is None else poi, modifier_settings or {})
        measurement = patch = None
    if measurement is not None or patch is not None:
        raise InputError(
            "a compiled or pyhf model takes no measurement and no patch: give a workspace"
        )
    return model if data is None else model.with_data(np.asarray(data))


def _patches(patch: Any) -> list[Patch]:
    """Tell a sequence of patches from the operations of one, and from none."""
    if patch is None:
        return []
    several = isinstance(patch, (list, tuple)) and not any(hasattr(item, "keys") for item in patch)
    return list(patch) if several else [patch]


def _from_pyhf(
    pyhf_model: Any, poi: str | None, settings: Mapping[str, Mapping[str, str]] | None
) -> CompiledModel:
    """Compile a pyhf.Model; it holds no observed main data."""
    main = getattr(pyhf_model, "main_model", None)
    for clip in ("clip_sample_data", "clip_bin_data"):
        if getattr(main, clip, None) is not None:
            raise InputError(
                f"the pyhf model uses {clip}, which is not supported: build it without"
            )
    spec = pyhf_model.spec
    channels = read_channels(spec["channels"])
    workspace = Workspace(
        channels=channels,
        observations={channel.name: (float("nan"),) * channel.n_bins for channel in channels},
        poi=pyhf_model.config.poi_name,
        parameters=read_parameters(spec.get("parameters", [])),
    )
    return _compile(
        workspace,
        workspace.poi if poi is None else poi,
        settings or pyhf_model.config.modifier_settings,
    )


def _compile(
    workspace: Workspace, poi: str | None, settings: Mapping[str, Mapping[str, str]]
) -> CompiledModel:
    sets = {
        name: _configured(name, found, workspace.parameters.get(name, ParameterSettings()))
        for name, found in _parameter_sets(workspace.channels).items()
    }
    if not sets:
        raise InputError(
            "the workspace has no modifiers and so no parameters: nothing can be fitted"
        )
    par_names = tuple(name for found in sets.values() for name in found.names)
    n_main = sum(channel.n_bins for channel in workspace.channels)
    observed = [
        count for channel in workspace.channels for count in workspace.observations[channel.name]
    ]
    auxdata = [value for found in sets.values() for value in found.auxdata]
    bounds = np.array([pair for found in sets.values() for pair in found.bounds], np.float64)
    constraint = np.array(
        [found.constraint for found in sets.values() for _ in found.names], np.int8
    )
    widths = np.array(
        [w for found in sets.values() for w in (found.widths or (1.0,) * len(found))], np.float64
    )
    return CompiledModel(
        par_names=par_names,
        poi_index=_poi_index(poi, {name: found.names for name, found in sets.items()}, par_names),
        init=np.array([value for found in sets.values() for value in found.inits], np.float64),
        lower=bounds[:, 0].copy(),
        upper=bounds[:, 1].copy(),
        fixed=np.array([value for found in sets.values() for value in found.fixed], np.bool_),
        data=np.array([*observed, *auxdata], np.float64),
        n_main=n_main,
        constraint=constraint,
        aux_index=np.where(constraint > 0, n_main + np.cumsum(constraint > 0) - 1, -1),
        sigma=np.where(constraint == NORMAL, widths, 1.0),
        tau=np.where(constraint == POISSON, widths, 1.0),
        norm_code=_code(settings, "normsys", _NORM_CODES, 4),
        shape_code=_code(settings, "histosys", _SHAPE_CODES, 4),
        warnings=(
            *workspace.warnings,
            *_strange_factors(workspace.channels),
            *_jumping_shapes(workspace.channels, settings),
        ),
        **_terms(workspace.channels, _offsets_by_name(sets)),
    )


def _code(
    settings: Mapping[str, Mapping[str, str]], kind: str, known: dict[str, int], default: int
) -> int:
    code = settings.get(kind, {}).get("interpcode")
    if code is None:
        return default
    if code not in known:
        raise InputError(
            f'interpolation "{code}" of {kind} is unknown: use one of {", ".join(known)}'
        )
    return known[code]


def _poi_index(
    poi: str | None, components: Mapping[str, tuple[str, ...]], par_names: tuple[str, ...]
) -> int:
    if not poi:
        return -1
    if poi not in components:
        close = ", ".join(list(components)[:20])
        raise InputError(f'the model has no parameter "{poi}" to be the POI: choose from {close}')
    if len(components[poi]) > 1:
        raise InputError(
            f'parameter "{poi}" has {len(components[poi])} components: a POI must have one'
        )
    return par_names.index(components[poi][0])


def _offsets_by_name(sets: Mapping[str, _ParameterSet]) -> dict[str, tuple[int, int]]:
    """First parameter and number of parameters of each set."""
    offsets, at = {}, 0
    for name, found in sets.items():
        offsets[name] = (at, len(found))
        at += len(found)
    return offsets


# --- parameter sets ----------------------------------------------------------------------------


def _parameter_sets(channels: tuple[Channel, ...]) -> dict[str, _ParameterSet]:
    """Collect the sets in pyhf's order: by type, then by first use (staterror: by name)."""
    sets: dict[str, _ParameterSet] = {}
    users: dict[str, str] = {}
    for kind in KINDS:
        for name, found in _sets_of_kind(kind, channels):
            if name in sets and sets[name] != found:
                raise InputError(
                    f'modifier name "{name}" is used by {users[name]} and by {kind}, which cannot '
                    "share a parameter: rename one of them"
                )
            sets[name] = found
            users.setdefault(name, kind)
    return sets


def _sets_of_kind(kind: str, channels: tuple[Channel, ...]) -> Iterator[tuple[str, _ParameterSet]]:
    seen: set[str] = set()
    used = [(c, s, m) for c in channels for s in c.samples for m in _of_kind(s, kind)]
    if kind == "staterror":
        for name in sorted({modifier.name for _, _, modifier in used}):
            yield name, _staterror_set(name, channels)
        return
    for channel, sample, modifier in used:
        if modifier.name not in seen:
            yield modifier.name, _set_of(channel, sample, modifier)
        elif kind == "shapesys":
            raise InputError(
                f'channel "{channel.name}", sample "{sample.name}": shapesys "{modifier.name}" is '
                "used before: a shapesys belongs to one sample in one channel, rename it"
            )
        seen.add(modifier.name)


def _of_kind(sample: Sample, kind: str) -> list[Modifier]:
    found = [modifier for modifier in sample.modifiers.values() if modifier.kind == kind]
    return sorted(found, key=lambda modifier: modifier.name)


def _set_of(channel: Channel, sample: Sample, modifier: Modifier) -> _ParameterSet:
    """Parameters that a modifier needs (``required_parset`` of pyhf.modifiers)."""
    name, n = modifier.name, channel.n_bins
    components = tuple(f"{name}[{i}]" for i in range(n))
    if modifier.kind == "normfactor":
        return _ParameterSet(NONE, (name,), (1.0,), ((0.0, 10.0),), (False,))
    if modifier.kind == "shapefactor":
        return _ParameterSet(NONE, components, (1.0,) * n, ((0.0, 10.0),) * n, (False,) * n)
    if modifier.kind == "lumi":
        # pyhf has no defaults: the measurement must give all of them.
        return _ParameterSet(NORMAL, (name,), (), (), (False,), (), ())
    if modifier.kind == "shapesys":
        return _shapesys_set(components, sample.data, modifier.widths)
    return _ParameterSet(NORMAL, (name,), (0.0,), ((-5.0, 5.0),), (False,), (0.0,), (1.0,))


def _shapesys_set(
    names: tuple[str, ...], nominal: tuple[float, ...], widths: tuple[float, ...]
) -> _ParameterSet:
    """One gamma for each bin, with the effective count (nominal / width)^2 as auxiliary datum."""
    valid = [rate > 0 and width > 0 for rate, width in zip(nominal, widths, strict=True)]
    tau = tuple(
        rate**2 / width**2 if good else 1.0
        for rate, width, good in zip(nominal, widths, valid, strict=True)
    )
    fixed = tuple(not good for good in valid)
    n = len(names)
    return _ParameterSet(POISSON, names, (1.0,) * n, ((1e-10, 10.0),) * n, fixed, tau, tau)


def _staterror_set(name: str, channels: tuple[Channel, ...]) -> _ParameterSet:
    """One gamma for each bin: relative errors of the samples that carry it, in quadrature."""
    relative: list[Floats] = []
    covered: dict[str, set[str]] = {}
    for channel in channels:
        nominal, squares = np.zeros(channel.n_bins), np.zeros(channel.n_bins)
        for sample in channel.samples:
            modifier = sample.modifiers.get(("staterror", name))
            if modifier is None:
                continue
            covered.setdefault(sample.name, set()).add(channel.name)
            squares += np.square(modifier.widths)
            nominal += sample.data
        total = np.where(nominal > 0, nominal, np.inf)
        if any(channel.name in names for names in covered.values()):
            relative.append(np.sqrt(squares) / total)
    if len({frozenset(names) for names in covered.values()}) > 1:
        raise InputError(
            f'staterror "{name}" covers other channels in one sample than in another: give each '
            "channel a staterror of its own"
        )
    widths = np.concatenate(relative)
    fixed = widths == 0
    n = len(widths)
    return _ParameterSet(
        NORMAL,
        tuple(f"{name}[{i}]" for i in range(n)),
        (1.0,) * n,
        ((1e-10, 10.0),) * n,
        tuple(fixed.tolist()),
        (1.0,) * n,
        tuple(np.where(fixed, 1.0, widths).tolist()),
    )


def _configured(name: str, found: _ParameterSet, settings: ParameterSettings) -> _ParameterSet:
    """Apply the measurement's settings to a set (pyhf.parameters.reduce_paramsets_requirements)."""
    n = len(found)
    where = f'parameter "{name}"'
    is_alpha = found.constraint == NORMAL and found.auxdata == (0.0,)
    allowed = {
        "inits": True,
        "bounds": True,
        "auxdata": found.constraint != NONE,
        "sigmas": found.constraint == NORMAL and not is_alpha,
        "factors": found.constraint == POISSON,
    }
    for key, usable in allowed.items():
        value = getattr(settings, key)
        if value is not None and not usable:
            raise InputError(f"{where} does not use {key}: take them out of the measurement")
        if value is not None and len(value) != n:
            raise InputError(
                f"{where} has {n} components but {len(value)} {key} in the measurement"
            )
    configured = replace(
        found,
        inits=settings.inits or found.inits,
        bounds=settings.bounds or found.bounds,
        auxdata=settings.auxdata or found.auxdata,
        widths=settings.sigmas or settings.factors or found.widths,
        fixed=found.fixed if settings.fixed is None else (settings.fixed,) * n,
    )
    if not configured.inits or not configured.bounds:
        raise InputError(f"{where} has no inits or no bounds: give both in the measurement")
    if configured.constraint != NONE and not (configured.auxdata and configured.widths):
        raise InputError(f"{where} has no auxdata or no sigmas: give both in the measurement")
    if any(width <= 0 for width in configured.widths):
        raise InputError(
            f"{where} has a width of zero or less: sigmas and factors must be positive"
        )
    if configured.constraint == POISSON and min(configured.auxdata) < 0:
        raise InputError(f"{where} has negative auxdata: counts must be zero or more")
    return configured


# --- rates ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pieces:
    """What scales and shifts the terms, collected modifier by modifier."""

    scales: list[tuple[int, int]] = field(default_factory=list)
    norms: list[tuple[int, int, float, float]] = field(default_factory=list)
    shapes: list[tuple[int, int, Floats, Floats]] = field(default_factory=list)
    factors: list[tuple[int, int]] = field(default_factory=list)


def _terms(channels: tuple[Channel, ...], place: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Arrays of `CompiledModel` that the rates are made of."""
    samples = tuple(sorted({sample.name for channel in channels for sample in channel.samples}))
    first_bin = _offsets([channel.n_bins for channel in channels])
    terms = [
        (int(first), channel, sample)
        for first, channel in zip(first_bin[:-1], channels, strict=True)
        for sample in channel.samples
    ]
    pieces = _pieces(channels, place)
    norms, shapes = pieces.norms, pieces.shapes
    return {
        "channel_names": tuple(channel.name for channel in channels),
        "channel_start": first_bin,
        "sample_names": samples,
        "term_sample": _ints([samples.index(sample.name) for *_, sample in terms]),
        "term_bin": _ints([first for first, _, _ in terms]),
        "term_start": _offsets([channel.n_bins for _, channel, _ in terms]),
        "nominal": np.array([rate for *_, sample in terms for rate in sample.data], np.float64),
        "scale_term": _ints([t for t, _ in pieces.scales]),
        "scale_par": _ints([par for _, par in pieces.scales]),
        "norm_term": _ints([t for t, _, _, _ in norms]),
        "norm_par": _ints([par for _, par, _, _ in norms]),
        "norm_lo": np.array([low for _, _, low, _ in norms], np.float64),
        "norm_hi": np.array([high for _, _, _, high in norms], np.float64),
        "shape_term": _ints([t for t, _, _, _ in shapes]),
        "shape_par": _ints([par for _, par, _, _ in shapes]),
        "shape_start": _offsets([len(linear) for _, _, linear, _ in shapes]),
        "shape_linear": np.concatenate([np.empty(0), *(linear for _, _, linear, _ in shapes)]),
        "shape_curved": np.concatenate([np.empty(0), *(curved for _, _, _, curved in shapes)]),
        "factor_cell": _ints([cell for cell, _ in pieces.factors]),
        "factor_par": _ints([par for _, par in pieces.factors]),
    }


def _pieces(channels: tuple[Channel, ...], place: Mapping[str, tuple[int, int]]) -> _Pieces:
    """Sort the modifiers of each term into what they do to its rates."""
    pieces = _Pieces()
    staterror_offset = _staterror_offsets(channels)
    terms = [(channel, sample) for channel in channels for sample in channel.samples]
    cell = 0
    for t, (channel, sample) in enumerate(terms):
        for (kind, name), modifier in sorted(sample.modifiers.items()):
            first, size = place[name]
            if kind in ("normfactor", "lumi"):
                pieces.scales.append((t, first))
            elif kind == "normsys":
                pieces.norms.append((t, first, modifier.low[0], modifier.high[0]))
            elif kind == "histosys":
                low, high = np.array(modifier.low), np.array(modifier.high)
                curved = (high + low) / 2 - np.array(sample.data)
                pieces.shapes.append((t, first, (high - low) / 2, curved))
            else:
                if kind == "staterror":
                    first += staterror_offset[name, channel.name]
                elif size < channel.n_bins:
                    raise InputError(
                        f'shapefactor "{name}" has {size} components but channel '
                        f'"{channel.name}" has {channel.n_bins} bins: give each binning its own'
                    )
                pieces.factors += [(cell + b, first + b) for b in range(channel.n_bins)]
        cell += channel.n_bins
    return pieces


def _staterror_offsets(channels: tuple[Channel, ...]) -> dict[tuple[str, str], int]:
    """Component of a staterror that serves the first bin of a channel."""
    offsets: dict[tuple[str, str], int] = {}
    length: dict[str, int] = {}
    for channel in channels:
        for name in {m.name for s in channel.samples for m in _of_kind(s, "staterror")}:
            offsets[name, channel.name] = length.get(name, 0)
            length[name] = length.get(name, 0) + channel.n_bins
    return offsets


def _strange_factors(channels: tuple[Channel, ...]) -> Iterator[str]:
    low, high = _SENSIBLE_FACTOR
    for channel in channels:
        for sample in channel.samples:
            for modifier in _of_kind(sample, "normsys"):
                values = (*modifier.low, *modifier.high)
                if not all(low <= value <= high for value in values):
                    yield (
                        f'channel "{channel.name}", sample "{sample.name}": normsys '
                        f'"{modifier.name}" scales by {values[0]:g} and {values[1]:g}, outside '
                        f"[{low:g}, {high:g}]"
                    )


def _jumping_shapes(
    channels: tuple[Channel, ...], settings: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    shapes = any(_of_kind(sample, "histosys") for channel in channels for sample in channel.samples)
    if shapes and _code(settings, "histosys", _SHAPE_CODES, 4) == 2:
        yield (
            "interpolation code2 of histosys jumps at +-1, as pyhf's does: fits may stop there, "
            "prefer code4p"
        )


def _ints(values: list[int]) -> NDArray[np.intp]:
    return np.array(values, np.intp)


def _offsets(lengths: list[int]) -> NDArray[np.intp]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.intp)
