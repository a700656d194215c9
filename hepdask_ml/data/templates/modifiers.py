"""What changes a sample: its modifiers, made of its templates as was chosen.

Each variation goes through the steps that `data.templates.variations` has the arithmetic of, and
each step leaves its entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.data.templates.cells import place
from hepdask_ml.data.templates.choices import Factor, fits, treatment_of
from hepdask_ml.data.templates.report import Entry
from hepdask_ml.data.templates.smoothing import FEWEST
from hepdask_ml.data.templates.variations import (
    mirrored_parts,
    norm_effect,
    parted,
    shape_effect,
    smoothed_to,
    symmetric,
)
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from hepdask_ml.data.templates.cells import Cell
    from hepdask_ml.data.templates.choices import Choices, Statistics, Treatment
    from hepdask_ml.data.templates.collect import Template, Templates
    from hepdask_ml.data.templates.histograms import Histogram
    from hepdask_ml.data.templates.variations import Parts

    Floats = NDArray[np.float64]
    Modifier = dict[str, Any]

_ROUNDING = 1e-12
"""Effects of this size are none."""


class Names:
    """Names of modifiers, and what each is, so that none is two things."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}

    def take(self, name: str, kind: str, where: str) -> None:
        """Note a name, or refuse it."""
        # A normsys and a histosys of one name share their parameter, and so they should.
        group = "systematic" if kind in ("normsys", "histosys") else kind
        before = self.kinds.setdefault(name, group)
        if before != group:
            raise InputError(f'{where}: "{name}" is a {before} and a {group}: rename one of them')
        if kind == "shapesys":
            self.kinds[name] = f"shapesys of {where}"


def samples(
    templates: Templates, channel: str, choices: Choices, names: Names, entries: list[Entry]
) -> list[dict[str, Any]]:
    """Make the samples of a channel.

    Parameters
    ----------
    templates : Templates
        Rebinned, and floored where that was chosen.
    channel : str
        Which of its channels.
    choices : Choices
        What is decided.
    names : Names
        Notes the names of all modifiers.
    entries : list of Entry
        Gets what is done.

    Returns
    -------
    list of dict
        As HistFactory JSON has them.

    Raises
    ------
    InputError
        If a template lacks what a choice needs, or names collide.
    """
    there = templates.channels[channel]
    quiet = _quiet_bins(channel, there, choices, entries)
    samples = []
    for process, template in there.items():
        where = place(channel, process)
        modifiers = [
            *_factor_modifiers(channel, process, choices),
            *_statistics_modifiers(channel, process, template.nominal, choices, quiet),
            *_norm_modifiers(channel, process, choices),
            *_systematic_modifiers(channel, process, template, choices, names, entries),
        ]
        seen = set()
        for modifier in modifiers:
            key = (modifier["type"], modifier["name"])
            names.take(modifier["name"], modifier["type"], where)
            if key in seen:
                raise InputError(f'{where} has the {key[0]} "{key[1]}" twice: rename one of them')
            seen.add(key)
        data = template.nominal.values.tolist()
        samples.append({"name": process, "data": data, "modifiers": modifiers})
    return samples


def _factor_modifiers(channel: str, process: str, choices: Choices) -> Iterator[Modifier]:
    for factor in factors(choices):
        if fits(factor, channel, process):
            yield {"name": factor.name, "type": factor.kind, "data": None}


def _norm_modifiers(channel: str, process: str, choices: Choices) -> Iterator[Modifier]:
    for norm in choices.norms:
        if fits(norm, channel, process):
            yield _normsys(norm.name, norm.down, norm.up)


def _normsys(name: str, down: float, up: float) -> Modifier:
    return {"name": name, "type": "normsys", "data": {"lo": down, "hi": up}}


def _histosys(name: str, down: Floats, up: Floats) -> Modifier:
    data = {"lo_data": down.tolist(), "hi_data": up.tolist()}
    return {"name": name, "type": "histosys", "data": data}


def _statistics_of(channel: str, process: str, choices: Choices) -> Statistics | None:
    found = next((each for each in choices.statistics if fits(each, channel, process)), None)
    return None if found is None or found.kind == "none" else found


def _statistics_name(found: Statistics, channel: str, process: str) -> str:
    return found.pattern.format(channel=channel, process=process)


def _quiet_bins(
    channel: str, there: Mapping[str, Template], choices: Choices, entries: list[Entry]
) -> dict[str, NDArray[np.bool_]]:
    """Bins whose uncertainty lies below the threshold, by name of the modifier."""
    sums: dict[str, tuple[Floats, Floats]] = {}
    thresholds: dict[str, float] = {}
    for process, template in there.items():
        found = _statistics_of(channel, process, choices)
        if found is None:
            continue
        if template.nominal.variances is None:
            raise InputError(
                f"{place(channel, process)} does not know its variances: fill a histogram with the "
                'storage Weight, or choose statistics of the kind "none"'
            )
        name = _statistics_name(found, channel, process)
        total, squares = sums.get(name, (np.zeros(1), np.zeros(1)))
        sums[name] = (total + template.nominal.values, squares + template.nominal.variances)
        thresholds[name] = max(found.threshold, thresholds.get(name, 0.0))
    quiet = {}
    for name, (total, squares) in sums.items():
        quiet[name] = (squares > 0) & (np.sqrt(squares) < thresholds[name] * total)
        if quiet[name].any():
            detail = f"{name}: {listed(quiet[name])}, below {thresholds[name]:g}"
            entries.append(Entry("statistics", channel, "", "", detail))
    return quiet


def _statistics_modifiers(
    channel: str,
    process: str,
    nominal: Histogram,
    choices: Choices,
    quiet: Mapping[str, NDArray[np.bool_]],
) -> Iterator[Modifier]:
    found = _statistics_of(channel, process, choices)
    if found is not None and nominal.variances is not None:
        name = _statistics_name(found, channel, process)
        widths = np.where(quiet[name], 0.0, np.sqrt(nominal.variances))
        yield {"name": name, "type": found.kind, "data": widths.tolist()}


def _systematic_modifiers(
    channel: str,
    process: str,
    template: Template,
    choices: Choices,
    names: Names,
    entries: list[Entry],
) -> Iterator[Modifier]:
    nominal = template.nominal.values
    for systematic, sides in template.variations.items():
        treatment = treatment_of(choices, channel, process, systematic)
        name = treatment.name.format(systematic=systematic, channel=channel, process=process)
        # Here too, so that settings of a parameter that was pruned everywhere are not misspelt.
        names.take(name, "normsys", place(channel, process))
        case = _Case((channel, process, systematic), name, treatment, choices.floor, entries)
        up = _smooth(case, nominal, sides.up.values, "up")
        down = None if sides.down is None else _smooth(case, nominal, sides.down.values, "down")
        yield from _modifiers_of(case, nominal, up, down)


@dataclass(frozen=True, slots=True)
class _Case:
    """A variation that becomes modifiers: what it is, what is chosen for it, and who is told."""

    cell: Cell
    name: str
    treatment: Treatment
    floor: float | None
    entries: list[Entry]

    @property
    def where(self) -> str:
        """Its place, as messages name it."""
        return place(*self.cell)

    def tell(self, what: str, detail: str) -> None:
        """Leave an entry."""
        self.entries.append(Entry(what, *self.cell, detail))

    def floored(self, values: Floats, side: str) -> Floats:
        """Set what lies below the floor to it."""
        return floored(values, self.floor, self.cell, self.entries, f"{side}: ")


def _smooth(case: _Case, nominal: Floats, varied: Floats, side: str) -> Floats:
    if case.treatment.smooth == "none":
        return varied
    if len(nominal) < FEWEST:
        case.tell("smoothed", f"{side}: not, as there are fewer than {FEWEST} bins")
        return varied
    smooth = smoothed_to(nominal, varied, f"{case.where} {side}")
    change = 100 * np.max(np.abs((smooth - varied) / nominal))
    how = case.treatment.smooth
    case.tell("smoothed", f"{side}: {how}, which moved bins by up to {change:.3g} % of the nominal")
    return smooth


def _modifiers_of(
    case: _Case, nominal: Floats, up: Floats, down: Floats | None
) -> Iterator[Modifier]:
    how = case.treatment.symmetrise
    if down is None and how == "none":
        raise InputError(
            f"{case.where} goes up but not down: fill the other side, choose to "
            'symmetrise="mirror" it, or say in the layout how the names of both sides end'
        )
    if down is None or how == "average":
        case.tell("symmetrised", how if down is not None else f"{how}, there is one side only")
    if down is None and how == "mirror-parts" and case.treatment.form != "histosys":
        parts = mirrored_parts(nominal, case.floored(up, "up"), case.where)
        yield from _in_parts(case, nominal, parts)
        return
    down, up = symmetric(nominal, up, down, how)
    down, up = case.floored(down, "down"), case.floored(up, "up")
    _tell_of_sides(case, *(float(varied.sum() - nominal.sum()) for varied in (down, up)))
    if case.treatment.form == "histosys":
        if not _pruned_shape(case, nominal, down, up):
            yield _histosys(case.name, down, up)
        return
    yield from _in_parts(case, nominal, parted(nominal, down, up, case.where))


def _tell_of_sides(case: _Case, down: float, up: float) -> None:
    if down * up > 0:
        case.tell("same side", f"the yield changes by {up:+.3g} up and by {down:+.3g} down")


def _in_parts(case: _Case, nominal: Floats, parts: Parts) -> Iterator[Modifier]:
    size, threshold = norm_effect(parts), case.treatment.prune_norm
    if threshold is not None and size <= threshold + _ROUNDING:
        case.tell("pruned", f"normsys of {100 * size:.3g} %")
    else:
        yield _normsys(case.name, parts.norm_down, parts.norm_up)
    if len(nominal) == 1:
        return
    if case.treatment.form == "normsys":
        change = shape_effect(nominal, parts.shape_down, parts.shape_up)
        case.tell("pruned", f"shape of {100 * change:.3g} %, by its form")
    elif not _pruned_shape(case, nominal, parts.shape_down, parts.shape_up):
        yield _histosys(case.name, parts.shape_down, parts.shape_up)


def _pruned_shape(case: _Case, nominal: Floats, down: Floats, up: Floats) -> bool:
    size, threshold = shape_effect(nominal, down, up), case.treatment.prune_shape
    if threshold is None or size > threshold + _ROUNDING:
        return False
    case.tell("pruned", f"histosys of {100 * size:.3g} %")
    return True


def floored(
    values: Floats, floor: float | None, cell: Cell, entries: list[Entry], side: str = ""
) -> Floats:
    """Set what lies below a floor to it, if there is one, and tell of it."""
    if floor is None or not (values < floor).any():
        return values
    entries.append(Entry("floored", *cell, f"{side}{listed(values < floor)} set to {floor:g}"))
    return np.maximum(values, floor)


def listed(which: NDArray[np.bool_]) -> str:
    """Give the numbers of marked bins in words."""
    numbers = np.flatnonzero(which).tolist()
    return f"bin{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def factors(choices: Choices) -> tuple[Factor, ...]:
    """Give all free factors, that of the signal first."""
    own = (Factor(name=choices.poi, processes=choices.signal),)
    return (*(own if choices.poi and choices.signal else ()), *choices.factors)
