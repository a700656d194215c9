"""Random workspaces that pyhf accepts, for hypothesis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st
from made_up import factor, histosys, normsys, per_bin, workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from made_up import Workspace

rates = st.one_of(st.just(0.0), st.floats(0.5, 60.0), st.floats(-3.0, -0.5))
factors = st.floats(0.5, 1.6)
widths = st.one_of(st.just(0.0), st.floats(0.1, 5.0))


def rounding(counts: Any) -> float:
    """Give four roundings of the terms of -2 ln L that cancel: n ln nu and ln n! of each count."""
    n = np.abs(np.asarray(counts, float))
    return float(16.0 * np.finfo(float).eps * (n * np.log(n + 1.0) + 1.0).sum())


@st.composite
def workspaces(draw: Callable[..., Any]) -> Workspace:
    """One to three channels, one to four bins, all modifier types, shared and repeated names."""
    bins = {f"ch{i}": draw(st.integers(1, 4)) for i in range(draw(st.integers(1, 3)))}
    names = [f"s{i}" for i in range(draw(st.integers(1, 3)))]
    channels: dict[str, list[dict[str, Any]]] = {}
    observed = {}
    used: set[str] = set()
    smallest = min(bins.values())
    for channel, n in bins.items():
        here = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        statistics = draw(st.booleans())
        samples = []
        for i, name in enumerate(here):
            data = draw(st.lists(rates, min_size=n, max_size=n))
            modifiers = draw(_modifiers(f"{channel}_{name}", data, n == smallest))
            if statistics and (i == 0 or draw(st.booleans())):
                errors = draw(st.lists(widths, min_size=n, max_size=n))
                modifiers.append(per_bin("staterror", f"mc_{channel}", errors))
            used |= {modifier["name"] for modifier in modifiers}
            samples.append({"name": name, "data": data, "modifiers": modifiers})
        channels[channel] = samples
        observed[channel] = draw(st.lists(st.integers(0, 80).map(float), min_size=n, max_size=n))
    first = next(iter(channels.values()))[0]
    first["modifiers"].append(factor("mu"))
    poi = draw(st.sampled_from(["mu", "mu", ""]))
    return workspace(channels, observed, parameters=draw(_settings(used)), poi=poi)


@st.composite
def _modifiers(draw: Callable[..., Any], place: str, data: list[float], short: bool) -> Any:
    n = len(data)
    shapes = st.lists(st.floats(0.0, 60.0), min_size=n, max_size=n)
    choices = {
        "normsys": st.builds(normsys, st.sampled_from(["a", "b"]), factors, factors),
        "histosys": st.builds(histosys, st.sampled_from(["a", "b", "c"]), shapes, shapes),
        "normfactor": st.builds(factor, st.sampled_from(["k1", "k2"])),
        "lumi": st.just({"name": "lumi", "type": "lumi", "data": None}),
        "shapesys": st.builds(
            per_bin,
            st.just("shapesys"),
            st.just(f"gamma_{place}"),
            st.lists(widths, min_size=n, max_size=n),
        ),
    }
    if short:
        # pyhf reads a wrong parameter where a shapefactor has fewer components than bins.
        choices["shapefactor"] = st.just({"name": f"f{n}", "type": "shapefactor", "data": None})
    kinds = draw(st.lists(st.sampled_from(sorted(choices)), max_size=4, unique=True))
    return [draw(choices[kind]) for kind in kinds]


@st.composite
def _settings(draw: Callable[..., Any], used: set[str]) -> list[dict[str, Any]]:
    settings: list[dict[str, Any]] = []
    if "lumi" in used:
        settings.append(
            {
                "name": "lumi",
                "auxdata": [1.0],
                "sigmas": [draw(st.floats(0.01, 0.1))],
                "bounds": [[0.5, 1.5]],
                "inits": [1.0],
            }
        )
    if "a" in used and draw(st.booleans()):
        settings.append({"name": "a", "fixed": True, "inits": [draw(st.floats(-1.0, 1.0))]})
    if "k1" in used and draw(st.booleans()):
        settings.append({"name": "k1", "bounds": [[0.0, 5.0]], "inits": [2.0]})
    if "b" in used and draw(st.booleans()):
        settings.append({"name": "b", "auxdata": [0.3], "bounds": [[-4.0, 4.0]]})
    return settings
