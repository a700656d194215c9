"""Histograms in ROOT files, which need uproot.

The names of the histograms say what they are of.  A pattern, such as
``"{channel}/{process}_{systematic}"``, takes them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from string import Formatter
from typing import TYPE_CHECKING, Any

from hepdask_ml.config import nearest
from hepdask_ml.data.templates.cells import LEVELS, Layout, place
from hepdask_ml.data.templates.collect import Templates, collect, layout_of
from hepdask_ml.data.templates.histograms import read
from hepdask_ml.data.templates.report import Entry
from hepdask_ml.data.with_uproot import opened, readable
from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from hepdask_ml.data.templates.histograms import Histogram

_SHOWN = 8


def read_root(
    files: str | Sequence[str] | Mapping[str, str | Sequence[str]],
    patterns: str | Sequence[str],
    layout: Layout | Mapping[str, Any] | None = None,
    *,
    processes: Sequence[str] = (),
) -> Templates:
    """Collect templates from one-dimensional histograms in ROOT files.

    Parameters
    ----------
    files : str, sequence of str, or mapping
        Files, or URLs that uproot opens; a mapping gives the files of each process, for patterns
        without one.
    patterns : str or sequence of str
        How the names are made, folders included: ``{channel}``, ``{process}`` and ``{systematic}``
        each stand for text without a slash, as short as can be.  The first pattern that fits a
        name counts; a name that has no systematic is nominal.
    layout : Layout or dict, optional
        What the nominal and the data are called, and how the names of variations end.
    processes : sequence of str
        Names of the processes, where a pattern alone cannot tell where they end, as in
        ``"{process}_{systematic}"`` with a process ``single_top``.

    Returns
    -------
    Templates
        Of all histograms that a pattern fits; the others are in the report.

    Raises
    ------
    InputError
        If a file cannot be read, no pattern fits, or what `collect` raises.
    """
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    named = layout_of(layout)
    expressions = [_expression(each, processes, isinstance(files, Mapping)) for each in listed]
    tree: dict[str, dict[str, dict[str, Histogram]]] = {}
    entries: list[Entry] = []
    sources: list[str] = []
    for process, file in _files(files):
        sources.append(file)
        strangers = []
        with opened(file) as root, readable(file):
            for name in _names(root):
                of = _match(name, expressions)
                if of is None:
                    strangers.append(name)
                    continue
                found = read(root[name], f"{file}:{name}", flow=named.flow)
                _put(tree, {"process": process, **of}, named, found, f'{file}: "{name}"')
        if strangers:
            shown = ", ".join(strangers[:_SHOWN]) + (", ..." if len(strangers) > _SHOWN else "")
            detail = f"{len(strangers)} histograms of {file} that no pattern fits: {shown}"
            entries.append(Entry("left out", detail=detail))
    if not tree:
        raise InputError(
            f"no histogram of {', '.join(sources) or 'no file'} has a name like "
            f"{' or '.join(listed)}: there are "
            f"{'; '.join(entry.detail for entry in entries) or 'none at all'}"
        )
    return collect(tree, named, sources=sources, entries=entries)


class RootFiles:
    """ROOT files that stay open while many histograms are read from them; use it in a ``with``."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._open: dict[str, Any] = {}

    def __enter__(self) -> RootFiles:
        return self

    def __exit__(self, *failure: object) -> None:
        self._open.clear()
        self._stack.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Files that are open."""
        return tuple(self._open)

    def histogram(self, file: str, name: str, where: str, *, flow: str = "drop") -> Histogram:
        """Read one histogram.

        Parameters
        ----------
        file : str
            File or URL.
        name : str
            Its name in the file, folders included.
        where : str
            What it is, for messages.
        flow : {"drop", "fold"}
            What to do with underflow and overflow.

        Returns
        -------
        Histogram
            Its numbers.

        Raises
        ------
        InputError
            If it is not there, or no histogram of one variable.
        """
        if file not in self._open:
            self._open[file] = self._stack.enter_context(opened(file))
        root = self._open[file]
        with readable(file):
            try:
                found = root[name]
            except KeyError:
                names = _names(root)
                near = nearest(name, names) or [f"there are {', '.join(names[:_SHOWN]) or 'none'}"]
                raise InputError(f'{where}: {file} has no histogram "{name}": {near[0]}') from None
            return read(found, where, flow=flow)


def _files(files: Any) -> Iterator[tuple[str, str]]:
    if isinstance(files, Mapping):
        for process, listed in files.items():
            for _, file in _files(listed):
                yield process, file
        return
    for file in [files] if isinstance(files, str) or not isinstance(files, Sequence) else files:
        yield "", str(file)


def _names(root: Any) -> list[str]:
    """Names of the histograms with one axis."""
    kinds = root.classnames(recursive=True, cycle=False)
    return [name for name, kind in kinds.items() if kind.startswith("TH1")]


def _match(name: str, expressions: Sequence[re.Pattern[str]]) -> dict[str, str] | None:
    matches = (expression.fullmatch(name) for expression in expressions)
    found = next((match for match in matches if match), None)
    return found.groupdict() if found else None


def _put(
    tree: dict[str, dict[str, dict[str, Histogram]]],
    of: Mapping[str, str],
    layout: Layout,
    found: Histogram,
    where: str,
) -> None:
    channel, process = of.get("channel", "channel"), of["process"]
    systematic = of.get("systematic", layout.nominal)
    there = tree.setdefault(channel, {}).setdefault(process, {})
    if systematic in there:
        raise InputError(
            f"{where} is a second histogram of {place(channel, process, systematic)}: change the "
            "pattern, or leave one out"
        )
    there[systematic] = found


def _expression(pattern: str, processes: Sequence[str], by_file: bool) -> re.Pattern[str]:
    expression = ""
    seen = []
    for text, name, _, _ in Formatter().parse(pattern):
        expression += re.escape(text)
        if name is None:
            continue
        if name not in LEVELS or name in seen:
            raise InputError(
                f'pattern "{pattern}" has {{{name}}}: it may have '
                f"{', '.join('{' + level + '}' for level in LEVELS)}, each once"
            )
        seen.append(name)
        words_of = "|".join(re.escape(each) for each in sorted(processes, key=len, reverse=True))
        inside = words_of if name == "process" and processes else "[^/]+?"
        expression += f"(?P<{name}>{inside})"
    if ("process" in seen) == by_file:
        advice = "leave it out, or give a list of files" if by_file else "put it in"
        lack = "has {process}, which the files say" if by_file else "has no {process}"
        raise InputError(f'pattern "{pattern}" {lack}: {advice}')
    return re.compile(expression)
