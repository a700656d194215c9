"""Plots of a scan show each field once, whatever was found in it."""

from __future__ import annotations

from math import nan
from pathlib import Path

import numpy as np
import pytest

from hepdask_ml.data.findings import Findings, Scan
from hepdask_ml.data.summaries import Counts, Summary
from hepdask_ml.errors import InputError
from hepdask_ml.ui import plots, plots_scan

RNG = np.random.default_rng(3)
FOUND = Scan(
    "digest",
    (),
    Findings(
        {
            "jets": {
                "pt": Summary.of(RNG.exponential(30.0, 5000)),
                "charge": Summary.of(RNG.choice([-1.0, 1.0, nan], 5000)),
                "always": Summary.of(np.ones(5)),
                "never": Summary.of([nan]),
                "$m_{jj}$": Summary.of(RNG.normal(91.0, 0.001, 5000)),
            },
            "event": {"met": Summary.of(RNG.exponential(30.0, 5000))},
            "none": {"x": Summary.of([])},
        },
        {"jets": Counts.of(RNG.poisson(3.0, 5000)), "none": Counts.of([])},
    ),
)


@pytest.mark.parametrize(("group", "n_panels"), [("jets", 6), ("event", 1), ("none", 2)])
def test_each_field_has_a_panel(group: str, n_panels: int, tmp_path: Path) -> None:
    figure = FOUND.plot(group)
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == n_panels
    path = tmp_path / "a.png"
    plots.save(figure, path, "png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_slots_are_marked() -> None:
    figure = plots_scan.group(FOUND, "jets")
    labels = figure.axes[5].get_legend_handles_labels()[1]
    assert labels == [f"{each} %: {FOUND.slots('jets', each)}" for each in (90, 95, 99)]
    assert figure.axes[1].get_title(loc="right").endswith("% missing")


def test_unknown_groups() -> None:
    with pytest.raises(InputError, match='no group "jetz": did you mean "jets"'):
        FOUND.plot("jetz")
