"""Plots of a scan: how the numbers of each field are spread, and how long lists are."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from hepdask_ml.config import nearest
from hepdask_ml.errors import InputError
from hepdask_ml.ui.plots import BACKGROUND, SIGNAL, one_panel, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hepdask_ml.data.findings import Scan
    from hepdask_ml.data.summaries import Counts, Summary

SHOWN = (0.005, 0.995)
"""Quantiles between which the numbers of a field are drawn."""

PERCENTILES = (90, 95, 99)
"""Percent of events for which the slots that hold all of their items are marked."""

_COLUMNS = 3
_BINS = 60
_MOST_BARS = 30
_PANEL_IN = (4.4, 3.2)


def group(found: Scan, name: str) -> Figure:
    """Draw the fields of a group, and the lengths of its lists.

    Parameters
    ----------
    found : Scan
        The scan.
    name : str
        Of the group.

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each field, and one for the lengths, with the slots for some percentiles.

    Raises
    ------
    InputError
        If the scan has no such group; the most similar one is named.
    """
    if name not in found.fields:
        near = nearest(name, list(found.fields)) or [f"it has {', '.join(found.fields) or 'none'}"]
        raise InputError(f'the scan has no group "{name}": {near[0]}')
    fields = found.fields[name]
    lengths = found.lengths.get(name)
    n_panels = len(fields) + (lengths is not None)
    columns = min(_COLUMNS, n_panels)
    rows = ceil(n_panels / columns)
    with styled():
        figure, _ = one_panel()
        figure.clear()
        figure.set_size_inches(columns * _PANEL_IN[0], rows * _PANEL_IN[1])
        panels = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
        for axes, (field, seen) in zip(panels, fields.items(), strict=False):
            _field(axes, field, seen)
        if lengths is not None:
            _lengths(panels[len(fields)], found, name, lengths)
        for axes in panels[n_panels:]:
            axes.set_axis_off()
        return figure


def _field(axes: Axes, name: str, seen: Summary) -> None:
    axes.set_xlabel(name.replace("$", r"\$"), fontsize="small")
    axes.tick_params(labelsize="x-small")
    if not seen.count:
        axes.annotate("no numbers", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    numbers, times = seen.distinct()
    if len(numbers) <= _MOST_BARS:
        width = 0.8 * float(np.diff(numbers).min(initial=np.inf)) if len(numbers) > 1 else 0.8
        axes.bar(numbers, times, width, color=BACKGROUND)
    else:
        low, high = (seen.quantile(share) for share in SHOWN)
        edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
        axes.stairs(seen.histogram(edges), edges, color=BACKGROUND, fill=True)
    if seen.missing:
        share = 100 * seen.missing / (seen.missing + seen.count + seen.infinite)
        axes.set_title(f"{share:.2g} % missing", loc="right", fontsize="x-small")


def _lengths(axes: Axes, found: Scan, name: str, lengths: Counts) -> None:
    axes.set_xlabel(f"items of {name}".replace("$", r"\$"), fontsize="small")
    axes.tick_params(labelsize="x-small")
    if not lengths.total:
        axes.annotate("no events", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    axes.bar(lengths.numbers, lengths.times, 1.0, color=BACKGROUND)
    for percentile, style in zip(PERCENTILES, (":", "--", "-"), strict=True):
        slots = found.slots(name, percentile)
        label = f"{percentile} %: {slots}"
        axes.axvline(slots + 0.5, color=SIGNAL, ls=style, lw=1.2, label=label)
    axes.legend(fontsize="x-small", title="slots", title_fontsize="x-small")
