"""The models that are measured, and the aims for them.

A *case* is a workspace with a name; its toys are thrown at mu = 1 from the conditional fit to its
data, which is also where every fit starts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from made_up import (
    PUBLISHED,
    ROOT,
    Workspace,
    dense_systematics,
    many_channels,
    many_systematics,
    one_bin,
    two_bins,
)

from hepdask_ml import compile_model
from hepdask_ml.inference.statistics import bounded
from hepdask_ml.inference.toys import Ensemble, ensemble

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hepdask_ml import CompiledModel

MU = 1.0


@dataclass(frozen=True, slots=True)
class Aim:
    """How many times faster than the peers ours is meant to be, where that was said, and how many
    toys per second it is meant to do on one H100."""

    nextstat: float | None = None
    jax: float | None = None
    gpu: float | None = None


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    workspace: Callable[[], Workspace]
    aim: Aim = Aim()


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A compiled case and the hypothesis that its toys are thrown from."""

    case: Case
    model: CompiledModel
    signal: Ensemble


def _read(path: Path) -> Workspace:
    workspace: Workspace = json.loads(path.read_text())
    return workspace


MADE_UP = (
    Case("one bin", one_bin, Aim(nextstat=2.0, gpu=1e7)),
    Case("two bins", two_bins),
    Case("50 channels x 4 bins", partial(many_channels, 50), Aim(nextstat=30.0)),
    Case("100 bins x 5 samples", partial(many_systematics, 100, 30, 5)),
)
SBOTTOM = tuple(
    Case(name, partial(_read, path), Aim(1000.0, 300.0, 1e6 if name == "sbottom A" else None))
    for name, path in PUBLISHED.items()
    if path.exists()
)
MISSING = tuple(
    f"{name}: {path.name} is not there" for name, path in PUBLISHED.items() if not path.exists()
)
CASES = MADE_UP + SBOTTOM
DENSE = Case("180 parameters, 40 bins", dense_systematics, Aim(gpu=1e5))
GPU_CASES = (MADE_UP[0], MADE_UP[2], *SBOTTOM, DENSE)
EXAMPLE = Case("examples/workspace.json", partial(_read, ROOT / "examples" / "workspace.json"))


def prepared(case: Case) -> Prepared:
    """Compile a case and fit it to its data at `MU`."""
    model = bounded(compile_model(case.workspace()), "qtilde")
    found = model.fit(poi=MU)
    return Prepared(case, model, ensemble(model, f"mu={MU!r}/sb", found.pars[0]))
