"""Writes workspace.json: a small search with systematic uncertainties, for the documentation.

Two signal bins hold a handful of events, so that toys are needed; a control region pins the largest
background; normsys, histosys, staterror, shapesys, lumi and free normalisations are all there.
Run it as ``python examples/make_workspace.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("workspace.json")

Modifier = dict[str, Any]


def free(name: str) -> Modifier:
    return {"name": name, "type": "normfactor", "data": None}


def rate(name: str, low: float, high: float) -> Modifier:
    return {"name": name, "type": "normsys", "data": {"lo": low, "hi": high}}


def shape(name: str, low: list[float], high: list[float]) -> Modifier:
    return {"name": name, "type": "histosys", "data": {"lo_data": low, "hi_data": high}}


def per_bin(kind: str, name: str, widths: list[float]) -> Modifier:
    return {"name": name, "type": kind, "data": widths}


LUMI: Modifier = {"name": "lumi", "type": "lumi", "data": None}


def workspace() -> dict[str, Any]:
    """Give the workspace as a dictionary."""
    signal_region = {
        "name": "signal_region",
        "samples": [
            {
                "name": "signal",
                "data": [0.6, 1.4, 2.2, 2.4],
                "modifiers": [
                    free("mu_SIG"),
                    LUMI,
                    rate("jet_scale", 0.93, 1.06),
                    per_bin("staterror", "mc_signal_region", [0.05, 0.08, 0.1, 0.11]),
                ],
            },
            {
                "name": "top",
                "data": [21.0, 9.5, 3.6, 1.1],
                "modifiers": [
                    free("mu_top"),
                    shape("jet_scale", [22.4, 9.9, 3.5, 0.95], [19.9, 9.2, 3.8, 1.3]),
                    rate("top_generator", 1.0, 1.18),
                    per_bin("staterror", "mc_signal_region", [0.9, 0.6, 0.4, 0.2]),
                ],
            },
            {
                "name": "fakes",
                "data": [6.0, 2.4, 0.9, 0.3],
                "modifiers": [per_bin("shapesys", "fake_rate", [2.0, 1.0, 0.5, 0.2])],
            },
            {
                "name": "diboson",
                "data": [3.1, 1.6, 0.8, 0.4],
                "modifiers": [
                    LUMI,
                    rate("diboson_theory", 0.8, 1.25),
                    shape("jet_scale", [3.3, 1.6, 0.75, 0.33], [3.0, 1.6, 0.86, 0.46]),
                    per_bin("staterror", "mc_signal_region", [0.2, 0.15, 0.1, 0.08]),
                ],
            },
        ],
    }
    control_region = {
        "name": "control_region",
        "samples": [
            {
                "name": "top",
                "data": [182.0, 64.0],
                "modifiers": [free("mu_top"), rate("jet_scale", 0.96, 1.03)],
            },
            {
                "name": "diboson",
                "data": [14.0, 6.0],
                "modifiers": [LUMI, rate("diboson_theory", 0.8, 1.25)],
            },
        ],
    }
    lumi = {
        "name": "lumi",
        "auxdata": [1.0],
        "sigmas": [0.02],
        "bounds": [[0.9, 1.1]],
        "inits": [1.0],
    }
    return {
        "channels": [signal_region, control_region],
        "observations": [
            {"name": "signal_region", "data": [33, 12, 6, 1]},
            {"name": "control_region", "data": [205, 66]},
        ],
        "measurements": [{"name": "search", "config": {"poi": "mu_SIG", "parameters": [lumi]}}],
        "version": "1.0.0",
    }


if __name__ == "__main__":
    TARGET.write_text(json.dumps(workspace(), indent=1) + "\n", encoding="utf-8")
