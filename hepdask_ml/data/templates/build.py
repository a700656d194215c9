"""A workspace made of templates: nominal, normsys and histosys, staterror, data, measurement.

`build` takes `Templates` and `Choices`, and gives a `Built`: the workspace, a plain dictionary that
pyhf, cabinetry and `hepdask_ml.compile_model` read, and a `Report` of all that was done.  The steps
are, in this order: rebin; set the nominal to the floor; smooth, symmetrise and set to the floor
each variation; part it into yield and shape; prune.  In pyhf's model the yields at the nominal
point, and with any one parameter one standard deviation up or down, are those of the templates,
but for what the report lists.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.config import nearest, record_of
from hepdask_ml.data.templates.choices import Choices, Factor, fits
from hepdask_ml.data.templates.collect import Template, Templates, Variation, known
from hepdask_ml.data.templates.histograms import Histogram, borders, rebinned
from hepdask_ml.data.templates.modifiers import Names, factors, floored, listed, samples
from hepdask_ml.data.templates.report import Entry, Report, ordered
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SETTINGS = ("inits", "bounds", "fixed", "auxdata", "sigmas", "factors")
"""What a measurement may say of a parameter."""


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A workspace and how it came about.

    Attributes
    ----------
    workspace : dict
        HistFactory JSON of pyhf's version 1.0.0, as plain values.
    report : Report
        What was done on the way.
    """

    workspace: dict[str, Any]
    report: Report

    def __repr__(self) -> str:
        n = len(self.workspace["channels"])
        return f"<Built: {n} channels, digest {self.report.digest[:12]}>"

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


def build(
    templates: Templates, choices: Choices | Mapping[str, Any] | None = None, /, **changes: Any
) -> Built:
    """Make a workspace of templates.

    Parameters
    ----------
    templates : Templates
        From `hepdask_ml.data.templates.collect.collect`, or from files.
    choices : Choices or dict, optional
        What is decided; the defaults of `Choices` if not given.
    **changes
        Single choices, instead of those.

    Returns
    -------
    Built
        Workspace and report.

    Raises
    ------
    InputError
        If a choice is unknown or names something that is not there, a template lacks what a choice
        needs, or names of modifiers collide.

    Examples
    --------
    >>> from hepdask_ml.data.templates.histograms import made
    >>> from hepdask_ml.data.templates.collect import Template, Templates
    >>> found = Templates({"sr": {"z": Template(made([2.0, 3.0], [0.2, 0.3], None, "z"))}})
    >>> build(found, poi="", observed="asimov").workspace["observations"]
    [{'name': 'sr', 'data': [2.0, 3.0]}]
    """
    chosen = _chosen(choices, changes)
    _look_up_names(templates, chosen)
    entries = list(templates.entries)
    binned = _rebinned(templates, chosen, entries)
    ready = _floored_nominals(binned, chosen, entries)
    _describe(ready, entries)
    names = Names()
    channels = [
        {"name": channel, "samples": samples(ready, channel, chosen, names, entries)}
        for channel in ready.channels
    ]
    workspace = {
        "channels": channels,
        "observations": [
            {"name": channel, "data": _observed(ready, channel, chosen, entries).tolist()}
            for channel in ready.channels
        ],
        "measurements": [_measurement(channels, chosen, names, entries)],
        "version": "1.0.0",
    }
    report = Report(
        ordered(entries), _digest(templates, chosen), templates.inputs, templates.sources
    )
    return Built(workspace, report)


# --- choices -------------------------------------------------------------------------------------


def _chosen(choices: Choices | Mapping[str, Any] | None, changes: Mapping[str, Any]) -> Choices:
    if isinstance(choices, Choices):
        choices = {each.name: getattr(choices, each.name) for each in fields(choices)}
    given = {} if choices is None else choices
    if not isinstance(given, Mapping):
        raise InputError(f"choices are of the type {type(given).__name__}: give them by name")
    return record_of(Choices, {**given, **changes}, "")


def _look_up_names(templates: Templates, choices: Choices) -> None:
    """Refuse names of what is not there: a misspelt one would silently concern nothing."""
    processes, channels = templates.processes, tuple(templates.channels)
    for name in choices.signal:
        known(name, processes, "process", "signal")
    for what in ("blind", "rebin"):
        for name in getattr(choices, what):
            known(name, channels, "channel", what)
    for what in ("rules", "statistics", "factors", "norms"):
        for i, each in enumerate(getattr(choices, what)):
            where = f"{what}[{i}]"
            for name in each.processes:
                known(name, processes, "process", where)
            for name in each.channels:
                known(name, channels, "channel", where)
            for name in getattr(each, "systematics", ()):
                known(name, templates.systematics, "systematic", where)


def _digest(templates: Templates, choices: Choices) -> str:
    text = json.dumps([templates.digest, asdict(choices)], sort_keys=True, default=_plain)
    return blake2b(text.encode(), digest_size=32).hexdigest()


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else list(value)


# --- bins ----------------------------------------------------------------------------------------


def _mapped(templates: Templates, change: Any) -> Templates:
    """Apply a function of channel and histogram to all templates and data."""

    def template(channel: str, found: Template) -> Template:
        return Template(
            change(channel, found.nominal),
            {
                name: Variation(
                    change(channel, sides.up),
                    None if sides.down is None else change(channel, sides.down),
                )
                for name, sides in found.variations.items()
            },
        )

    return replace(
        templates,
        channels={
            channel: {process: template(channel, found) for process, found in there.items()}
            for channel, there in templates.channels.items()
        },
        data={channel: change(channel, found) for channel, found in templates.data.items()},
    )


def _rebinned(templates: Templates, choices: Choices, entries: list[Entry]) -> Templates:
    kept = {}
    for channel, wanted in choices.rebin.items():
        nominal = next(iter(templates.channels[channel].values())).nominal
        kept[channel] = borders(nominal.edges, _coarser(channel, wanted), f'channel "{channel}"')
        n = len(kept[channel]) - 1
        entries.append(Entry("rebinned", channel, "", "", f"{nominal.n_bins} bins became {n}"))
        for process, template in templates.channels[channel].items():
            lost = rebinned(template.nominal, kept[channel]).outside - template.nominal.outside
            if abs(lost) > 0:
                detail = f"a sum of weights of {lost:.6g} lies outside of the edges that stay"
                entries.append(Entry("outside", channel, process, "", detail))

    def change(channel: str, found: Histogram) -> Histogram:
        return rebinned(found, kept[channel]) if channel in kept else found

    return _mapped(templates, change)


def _coarser(channel: str, wanted: Any) -> int | list[float]:
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        return wanted
    try:
        if not isinstance(wanted, str):
            return [float(edge) for edge in wanted]
    except (TypeError, ValueError):
        pass
    raise InputError(
        f"rebin.{channel} is {wanted!r}: it must be the number of bins that become one, or a list "
        "of the edges that stay"
    )


def _floored_nominals(templates: Templates, choices: Choices, entries: list[Entry]) -> Templates:
    def template(channel: str, process: str, found: Template) -> Template:
        values = floored(found.nominal.values, choices.floor, (channel, process, ""), entries)
        return replace(found, nominal=replace(found.nominal, values=values))

    return replace(
        templates,
        channels={
            channel: {
                process: template(channel, process, found) for process, found in there.items()
            }
            for channel, there in templates.channels.items()
        },
    )


def _describe(templates: Templates, entries: list[Entry]) -> None:
    """Tell of bins that are empty or negative."""
    for channel, there in templates.channels.items():
        for process, template in there.items():
            nominal = template.nominal.values
            for what, which in (("negative", nominal < 0), ("empty", nominal == 0)):
                if which.any():
                    entries.append(Entry(what, channel, process, "", listed(which)))
            for systematic, sides in template.variations.items():
                for side, found in (("up", sides.up), ("down", sides.down)):
                    newly = (found.values < 0) & (nominal >= 0) if found else np.zeros(1, np.bool_)
                    if newly.any():
                        detail = f"{side}: {listed(newly)}"
                        entries.append(Entry("negative", channel, process, systematic, detail))
        total = np.sum([template.nominal.values for template in there.values()], axis=0)
        if (total <= 0).any():
            entries.append(Entry("no rate", channel, "", "", listed(total <= 0)))


# --- data and measurement ------------------------------------------------------------------------


def _observed(templates: Templates, channel: str, choices: Choices, entries: list[Entry]) -> Floats:
    """Give the counts of a channel, with what is expected in bins that are covered."""
    covered = _blinded(templates, channel, choices)
    if choices.observed == "asimov":
        covered = np.ones_like(covered)
        at = f" at {choices.poi} = {choices.asimov_poi:g}" if choices.poi else ""
        entries.append(Entry("asimov", channel, "", "", f"expected{at}"))
    elif covered.any():
        entries.append(Entry("blinded", channel, "", "", listed(covered)))
    counts = np.zeros(len(covered)) if covered.all() else _counts(templates, channel)
    if not covered.any():
        return counts
    expected = np.where(covered, _expected(templates, channel, choices), 0.0)
    if (expected < 0).any():
        worst = int(expected.argmin())
        raise InputError(
            f'channel "{channel}" expects {expected[worst]:g} events in bin {worst}, which cannot '
            "stand for data: rebin, or set a floor"
        )
    return np.where(covered, expected, counts)


def _counts(templates: Templates, channel: str) -> Floats:
    if channel not in templates.data:
        raise InputError(
            f'channel "{channel}" has no data: say in the layout which process is observed, or '
            'choose observed="asimov"'
        )
    counts = templates.data[channel].values
    if (counts < 0).any():
        raise InputError(
            f'channel "{channel}" has data of {counts.min():g} in bin {int(counts.argmin())}: '
            "counts must be zero or more"
        )
    return counts


def _blinded(templates: Templates, channel: str, choices: Choices) -> NDArray[np.bool_]:
    edges = next(iter(templates.channels[channel].values())).nominal.edges
    wanted = choices.blind.get(channel, False)
    if isinstance(wanted, bool):
        return np.full(len(edges) - 1, wanted)
    try:
        low, high = (float(end) for end in wanted)
    except (TypeError, ValueError):
        raise InputError(
            f"blind.{channel} is {wanted!r}: it must be true, or the two ends of a range"
        ) from None
    covered: NDArray[np.bool_] = (edges[1:] > low) & (edges[:-1] < high)
    if not covered.any():
        raise InputError(
            f"blind.{channel} goes from {low:g} to {high:g}, where there is no bin: the channel "
            f"goes from {edges[0]:g} to {edges[-1]:g}"
        )
    return covered


def _expected(templates: Templates, channel: str, choices: Choices) -> Floats:
    """Sum of all processes, with free factors where fits begin."""
    total = np.zeros(len(next(iter(templates.channels[channel].values())).nominal.values))
    for process, template in templates.channels[channel].items():
        scale = 1.0
        for factor in factors(choices):
            if fits(factor, channel, process):
                scale *= _start(factor, choices)
        total = total + scale * template.nominal.values
    return total


def _start(factor: Factor, choices: Choices) -> float:
    if factor.name == choices.poi:
        return choices.asimov_poi
    said = choices.parameters.get(factor.name, {})
    inits = said.get("inits") if isinstance(said, Mapping) else None
    if factor.init is None and inits:
        return float(inits[0])
    return 1.0 if factor.init is None else factor.init


def _measurement(
    channels: Iterable[Mapping[str, Any]], choices: Choices, names: Names, entries: list[Entry]
) -> dict[str, Any]:
    settings: dict[str, dict[str, Any]] = {}
    for factor in choices.factors:
        own = settings.setdefault(factor.name, {})
        if factor.init is not None:
            own["inits"] = [factor.init]
        if factor.bounds is not None:
            own["bounds"] = [list(factor.bounds)]
    for name, said in choices.parameters.items():
        known(name, list(names.kinds), "parameter", "parameters")
        settings.setdefault(name, {}).update(_said(name, said))
    used = {
        modifier["name"]
        for channel in channels
        for sample in channel["samples"]
        for modifier in sample["modifiers"]
    }
    entries += [
        Entry("left out", detail=f"settings of {name}, which no modifier has")
        for name in settings
        if name not in used
    ]
    _look_up_poi(choices, used)
    parameters = [{"name": name, **own} for name, own in settings.items() if own and name in used]
    config = {"poi": choices.poi, "parameters": parameters}
    return {"name": choices.measurement, "config": config}


def _said(name: str, said: Any) -> dict[str, Any]:
    if not isinstance(said, Mapping):
        raise InputError(f"parameters.{name} is {said!r}: it must be a mapping of settings")
    for key in said:
        if key not in SETTINGS:
            near = nearest(str(key), SETTINGS) or [f"choose from {', '.join(SETTINGS)}"]
            raise InputError(f"parameters.{name}.{key} is no setting: {near[0]}")
    return dict(said)


def _look_up_poi(choices: Choices, used: set[str]) -> None:
    if not choices.poi or choices.poi in used:
        return
    if not choices.signal:
        raise InputError(
            f'nothing has the parameter of interest "{choices.poi}": name the signal, as in '
            'signal="higgs", or choose poi="" for none'
        )
    raise InputError(f'the parameter of interest "{choices.poi}" was left out: scale some process')
