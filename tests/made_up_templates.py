"""Histograms of the tests' own making, and the yields that pyhf makes of a workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyhf
from hypothesis import strategies as st

from hepdask_ml.data.templates.histograms import Histogram, made

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Tree = dict[str, dict[str, dict[str, Any]]]


def histogram(
    values: Sequence[float] | Floats,
    variances: Sequence[float] | Floats | str | None = "a tenth",
    edges: Sequence[float] | None = None,
) -> Histogram:
    """One with variances of a tenth of the values, if not told otherwise."""
    spreads = [abs(value) / 10 for value in values] if isinstance(variances, str) else variances
    return made(list(values), spreads, edges, "made up")


class Axis:
    """The least that the common interface asks of an axis."""

    class Traits:
        circular = False

        def __init__(self, *, discrete: bool) -> None:
            self.discrete = discrete

    def __init__(self, bins: Sequence[Any], name: str = "") -> None:
        self.bins = list(bins)
        self.name = name
        self.traits = self.Traits(discrete=not isinstance(self.bins[0], tuple))

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, index: int) -> Any:
        return self.bins[index]


class Plottable:
    """The least that the common interface asks of a histogram: nothing outside, no keywords."""

    def __init__(self, values: Any, variances: Any, *axes: Axis, kind: str = "COUNT") -> None:
        self.axes = axes
        self.kind = kind
        self._values = np.asarray(values, float)
        self._variances = variances if variances is None else np.asarray(variances, float)

    def values(self) -> Any:
        return self._values

    def variances(self) -> Any:
        return self._variances


def search() -> Tree:
    """Two channels with a signal, two backgrounds, data and three systematics."""
    return {
        "sr": {
            "signal": {
                "nominal": histogram([1.0, 4.0, 2.0]),
                "jesUp": histogram([1.2, 4.1, 1.9]),
                "jesDown": histogram([0.9, 3.8, 2.2]),
            },
            "ttbar": {
                "nominal": histogram([20.0, 14.0, 9.0]),
                "jesUp": histogram([21.0, 15.0, 9.5]),
                "jesDown": histogram([18.0, 13.5, 9.0]),
                "isrUp": histogram([20.5, 14.2, 8.0]),
                "isrDown": histogram([19.5, 13.9, 9.6]),
            },
            "wjets": {"nominal": histogram([5.0, 3.0, 1.0])},
            "data": {"nominal": histogram([25.0, 19.0, 10.0])},
        },
        "cr": {
            "ttbar": {
                "nominal": histogram([100.0]),
                "jesUp": histogram([107.0]),
                "jesDown": histogram([96.0]),
            },
            "wjets": {"nominal": histogram([40.0]), "herwigUp": histogram([44.0])},
            "data": {"nominal": histogram([135.0])},
        },
    }


def rates(workspace: Mapping[str, Any], **pars: float) -> dict[tuple[str, str], list[float]]:
    """Yields of pyhf's model by channel and sample, with some parameters set."""
    model = pyhf.Workspace(workspace).model()
    values = np.array(model.config.suggested_init(), float)
    for name, value in pars.items():
        values[model.config.par_slice(name)] = value
    expected = model.main_model.expected_data(values, return_by_sample=True)
    return {
        (channel["name"], sample["name"]): expected[
            model.config.samples.index(sample["name"]), model.config.channel_slices[channel["name"]]
        ].tolist()
        for channel in workspace["channels"]
        for sample in channel["samples"]
    }


positive = st.floats(0.5, 50.0)


@st.composite
def trees(draw: Callable[..., Any]) -> Tree:
    """One or two channels, one to five bins, processes with some of two systematics."""
    tree: Tree = {}
    for channel in ("sr", "cr")[: draw(st.integers(1, 2))]:
        n = draw(st.integers(1, 5))
        numbers = st.lists(positive, min_size=n, max_size=n)
        histograms = st.builds(histogram, numbers, numbers)
        there: dict[str, dict[str, Any]] = {"signal": {"nominal": draw(histograms)}}
        for process in draw(st.lists(st.sampled_from(["a", "b"]), min_size=1, unique=True)):
            there[process] = {"nominal": draw(histograms)}
            for systematic in draw(st.lists(st.sampled_from(["jes", "isr"]), unique=True)):
                for side in ("Up", "Down"):
                    there[process][systematic + side] = draw(histograms)
        there["data"] = {"nominal": draw(histograms)}
        tree[channel] = there
    return tree
