"""An upper limit in Python: compile once, ask, read, plot."""

from __future__ import annotations

from pathlib import Path

import hepdask_ml

model = hepdask_ml.compile_model(Path(__file__).with_name("workspace.json"))
limit = hepdask_ml.upper_limit(model, toys=2_000)

print(f"observed: {limit.observed.value:.2f} +- {limit.observed.error:.2f}")
for band, expected in zip((-2, -1, 0, 1, 2), limit.expected, strict=True):
    print(f"expected {band:+d} sigma: {expected.value:.2f} +- {expected.error:.2f}")
for warning in limit.warnings:
    print("warning:", warning)
limit.plot().savefig("limit.png")
