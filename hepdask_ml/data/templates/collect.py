"""Templates: the histograms of each process in each channel, with and without each systematic.

`collect` takes what a coffea processor returns: a histogram whose axes are called process,
systematic and channel, beside the one variable; a dictionary of histograms, ``{channel: {process:
{systematic: histogram}}}``; or a dictionary of histograms with some of these axes.  A `Layout` says
what they are called.  `hepdask_ml.data.templates.build` makes a workspace of the templates.

A *systematic* of a process is a `Variation`: its histogram one standard deviation up, and the one
down.  A template that was never filled is none: categories of an axis are the same for
all processes, so that a histogram has cells which mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from html import escape
from typing import Any

import numpy as np

from hepdask_ml.config import nearest, record_of
from hepdask_ml.data.templates.cells import Cell, Layout, cells, place, split
from hepdask_ml.data.templates.histograms import Histogram, added, same_binning, scaled
from hepdask_ml.data.templates.report import Entry
from hepdask_ml.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Variation:
    """A systematic of a process in a channel: one standard deviation up, and down if there is."""

    up: Histogram
    down: Histogram | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A process in a channel.

    Attributes
    ----------
    nominal : Histogram
        As expected.
    variations : mapping
        By systematic.
    """

    nominal: Histogram
    variations: Mapping[str, Variation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Templates:
    """Templates of all channels.

    Attributes
    ----------
    channels : mapping
        Channel to process to `Template`.
    data : mapping
        Channel to what was observed there, as far as it is known.
    entries : tuple of Entry
        What was left out on the way here.
    sources : tuple of str
        Files that they are from.

    Raises
    ------
    InputError
        If histograms of a channel have different bins.
    """

    channels: Mapping[str, Mapping[str, Template]]
    data: Mapping[str, Histogram] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        first: dict[str, Histogram] = {}
        for cell, found in self._cells():
            before = first.setdefault(cell[0], found)
            if not same_binning(before, found):
                raise InputError(
                    f"{place(*cell)} has {_binning(found)}, others of the channel "
                    f"{_binning(before)}: give all histograms of a channel the same bins"
                )

    @property
    def processes(self) -> tuple[str, ...]:
        """Names of all processes."""
        return tuple(dict.fromkeys(name for there in self.channels.values() for name in there))

    @property
    def systematics(self) -> tuple[str, ...]:
        """Names of all systematics."""
        return tuple(
            dict.fromkeys(
                name
                for there in self.channels.values()
                for template in there.values()
                for name in template.variations
            )
        )

    @property
    def inputs(self) -> dict[str, str]:
        """Digest of each histogram by its name, such as ``channel/process/systematic up``."""
        named = {"/".join(filter(None, cell)): _digest(found) for cell, found in self._cells()}
        return dict(sorted(named.items()))

    @property
    def digest(self) -> str:
        """Digest of all histograms and their names, whatever their order."""
        text = json.dumps(sorted([*cell, _digest(found)] for cell, found in self._cells()))
        return blake2b(text.encode(), digest_size=32).hexdigest()

    def _cells(self) -> Iterator[tuple[Cell, Histogram]]:
        for channel, there in self.channels.items():
            for process, template in there.items():
                yield (channel, process, ""), template.nominal
                for name, variation in template.variations.items():
                    yield (channel, process, f"{name} up"), variation.up
                    if variation.down is not None:
                        yield (channel, process, f"{name} down"), variation.down
        for channel, found in self.data.items():
            yield (channel, "(data)", ""), found

    def __repr__(self) -> str:
        return (
            f"<Templates: {len(self.channels)} channels, {len(self.processes)} processes, "
            f"{len(self.systematics)} systematics, {len(self.data)} channels with data>"
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in (*self.processes, "data"))
        rows = "".join(
            f"<tr><td>{escape(channel)}</td>{''.join(self._yields(channel))}</tr>"
            for channel in self.channels
        )
        return (
            f"<p>{escape(repr(self)[1:-1])}</p><table><thead><tr><th>yields</th>{head}</tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )

    def _yields(self, channel: str) -> Iterator[str]:
        there = self.channels[channel]
        for process in self.processes:
            yield (
                f"<td>{there[process].nominal.total:.6g}</td>" if process in there else "<td></td>"
            )
        yield f"<td>{self.data[channel].total:.6g}</td>" if channel in self.data else "<td></td>"


def _digest(found: Histogram) -> str:
    """Digest of the numbers of a histogram, of 16 hexadecimal digits."""
    state = blake2b(digest_size=8)
    for numbers in (found.values, found.variances, found.edges):
        state.update(b"-" if numbers is None else f"{len(numbers)}:".encode())
        state.update(b"" if numbers is None else np.ascontiguousarray(numbers, "<f8").tobytes())
    return state.hexdigest()


def collect(
    histograms: Any,
    layout: Layout | Mapping[str, Any] | None = None,
    *,
    sources: Sequence[str] = (),
    entries: Sequence[Entry] = (),
) -> Templates:
    """Collect templates from what a processor returns.

    Parameters
    ----------
    histograms : histogram or nested dict
        A histogram with axes for process, systematic and channel; or dictionaries of such, whose
        keys are what no axis is.
    layout : Layout or dict, optional
        What the axes, the nominal and the data are called.
    sources : sequence of str
        Files that the histograms are from.
    entries : sequence of Entry
        What was left out before.

    Returns
    -------
    Templates
        The templates of all channels.

    Raises
    ------
    InputError
        If something is no histogram, a name is missing, a variation goes down only, or histograms
        of a channel have different bins.

    Examples
    --------
    >>> from hepdask_ml.data.templates.histograms import made
    >>> up, nominal, data = (made([n, 2 * n], [n, n], None, "") for n in (1.1, 1.0, 2.0))
    >>> collect({"sr": {"z": {"nominal": nominal, "jesUp": up}, "data": {"nominal": data}}})
    <Templates: 1 channels, 1 processes, 1 systematics, 1 channels with data>
    """
    named = layout_of(layout)
    noted = list(entries)
    kept = _scaled(_filled(*cells(histograms, named), named, noted), named)
    _demand_nominal(kept, named)
    kept = _grouped(kept, named, noted)
    return _assembled(kept, named, noted, tuple(sources))


def layout_of(layout: Layout | Mapping[str, Any] | None) -> Layout:
    """Give the layout that is written as a mapping, or not at all."""
    if isinstance(layout, Layout):
        return layout
    given = {} if layout is None else layout
    if not isinstance(given, Mapping):
        raise InputError(f"layout is of the type {type(given).__name__}: give a mapping")
    return record_of(Layout, given, "layout.")


def known(name: str, names: Sequence[str], what: str, where: str) -> None:
    """Refuse a name that is not there, with the nearest that is.

    Parameters
    ----------
    name : str
        The name.
    names : sequence of str
        What there is.
    what : str
        What it names.
    where : str
        Where it was asked for.

    Raises
    ------
    InputError
        If it is none of them.
    """
    if name not in names:
        distinct = list(dict.fromkeys(names))
        few = ", ".join(distinct[:20]) or "none"
        advice = nearest(name, distinct) or [f"there are {few}"]
        raise InputError(f'{where}: there is no {what} "{name}": {advice[0]}')


def _filled(
    given: Mapping[Cell, Histogram], unfilled: set[Cell], layout: Layout, entries: list[Entry]
) -> dict[Cell, Histogram]:
    """Leave out cells that nothing was ever filled into."""
    kept = {cell: found for cell, found in given.items() if cell not in unfilled}
    there = {cell[:2] for cell in kept}
    absent: dict[Cell, list[str]] = {}
    for cell in (each for each in given if each in unfilled):
        channel, process, systematic = cell
        if (channel, process) not in there:
            if systematic == layout.nominal:
                detail = "nothing was filled into it"
                entries.append(Entry("left out", channel, process, "", detail))
        elif systematic == layout.nominal:
            # Its variations were filled, so that it is empty, and not absent.
            kept[cell] = given[cell]
        elif process != layout.data:
            base, _ = split(systematic, layout)
            absent.setdefault((channel, process, base), []).append(systematic)
    for cell, names in absent.items():
        entries.append(Entry("absent", *cell, f"nothing was filled into {', '.join(names)}"))
    return kept


def _demand_nominal(given: Mapping[Cell, Histogram], layout: Layout) -> None:
    for channel, process, _ in given:
        if (channel, process, layout.nominal) in given:
            continue
        names = [there for c, p, there in given if (c, p) == (channel, process)]
        raise InputError(
            f'{place(channel, process)} has no systematic "{layout.nominal}" but '
            f"{', '.join(names[:10])}: fill it, or say in the layout what the nominal is called"
        )


def _scaled(given: Mapping[Cell, Histogram], layout: Layout) -> dict[Cell, Histogram]:
    factors = {}
    processes = [process for _, process, _ in given]
    for process, factor in layout.scales.items():
        known(process, processes, "process", "layout.scales")
        try:
            factors[process] = float(factor)
        except (TypeError, ValueError):
            factors[process] = np.nan
        if not np.isfinite(factors[process]):
            raise InputError(f"layout.scales.{process} is {factor!r}: it must be a finite number")
    return {
        cell: scaled(found, factors[cell[1]]) if cell[1] in factors else found
        for cell, found in given.items()
    }


def _grouped(
    given: Mapping[Cell, Histogram], layout: Layout, entries: list[Entry]
) -> dict[Cell, Histogram]:
    """Add the members of groups; one without a systematic stays as it is in the sum."""
    owner = _owners([process for _, process, _ in given], layout)
    members: dict[tuple[str, str], dict[str, None]] = {}
    wanted: dict[Cell, None] = {}
    for channel, process, systematic in given:
        group = owner.get(process, process)
        members.setdefault((channel, group), {})[process] = None
        wanted[channel, group, systematic] = None
    summed = {}
    for channel, group, systematic in wanted:
        parts: list[Histogram] = []
        unmoved: list[str] = []
        for process in members[channel, group]:
            found = given.get((channel, process, systematic))
            if found is None:
                unmoved.append(process)
                found = given[channel, process, layout.nominal]
            parts.append(found)
        if unmoved:
            detail = f"stays nominal for {', '.join(unmoved)} of the group"
            entries.append(Entry("absent", channel, group, systematic, detail))
        where = place(channel, group, systematic)
        summed[channel, group, systematic] = added(parts, where) if len(parts) > 1 else parts[0]
    return summed


def _owners(processes: Sequence[str], layout: Layout) -> dict[str, str]:
    owner: dict[str, str] = {}
    for group, listed in layout.groups.items():
        if isinstance(listed, str) or not isinstance(listed, Sequence):
            raise InputError(f"layout.groups.{group} is {listed!r}: it must be a list of processes")
        for process in map(str, listed):
            known(process, processes, "process", f"layout.groups.{group}")
            if process in owner:
                raise InputError(
                    f'process "{process}" is in the groups {owner[process]} and {group}: it can '
                    "be in one"
                )
            owner[process] = group
    return owner


def _binning(found: Histogram) -> str:
    edges = ", ".join(f"{edge:g}" for edge in found.edges[:4])
    return f"{found.n_bins} bins ({edges}{', ...' if len(found.edges) > 4 else ''})"


def _assembled(
    given: Mapping[Cell, Histogram], layout: Layout, entries: list[Entry], sources: tuple[str, ...]
) -> Templates:
    tree: dict[str, dict[str, dict[str, Histogram]]] = {}
    for (channel, process, systematic), found in given.items():
        tree.setdefault(channel, {}).setdefault(process, {})[systematic] = found
    channels: dict[str, dict[str, Template]] = {}
    data: dict[str, Histogram] = {}
    for channel, there in tree.items():
        for process, by_systematic in there.items():
            nominal = by_systematic[layout.nominal]
            if nominal.outside:
                detail = f"a sum of weights of {nominal.outside:.6g}"
                entries.append(Entry("outside", channel, process, "", detail))
            if process == layout.data:
                data[channel] = nominal
                if len(by_systematic) > 1:
                    entries.append(Entry("left out", channel, process, "", "systematics of data"))
                continue
            template = Template(nominal, _variations(by_systematic, channel, process, layout))
            channels.setdefault(channel, {})[process] = template
    if not channels:
        raise InputError(
            f'the histograms hold no process but "{layout.data}": at least one must be expected'
        )
    for channel in [each for each in data if each not in channels]:
        del data[channel]
        entries.append(
            Entry("left out", channel, "", "", "there are data, but nothing is expected")
        )
    return Templates(channels, data, tuple(entries), sources)


def _variations(
    by_systematic: Mapping[str, Histogram], channel: str, process: str, layout: Layout
) -> dict[str, Variation]:
    sides: dict[str, dict[str, Histogram]] = {}
    for name, found in by_systematic.items():
        if name != layout.nominal:
            base, side = split(name, layout)
            if side in sides.setdefault(base, {}):
                raise InputError(
                    f'{place(channel, process)} has the systematic "{base}" up twice: rename one'
                )
            sides[base][side] = found
    for base, there in sides.items():
        if "up" not in there:
            raise InputError(
                f"{place(channel, process, base)} goes down but not up: fill "
                f'"{base}{layout.up}", or name the one side "{base}"'
            )
    return {base: Variation(there["up"], there.get("down")) for base, there in sides.items()}
