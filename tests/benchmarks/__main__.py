"""``python -m tests.benchmarks``: measures the package, see `benchmarks.command`.

``--only gpu`` measures a GPU and runs by itself, on a machine that may lack what the other parts
import: see `benchmarks.gpu`.
"""

import sys
from pathlib import Path
from runpy import run_module

# As for pytest (pythonpath in pyproject.toml): the tests' shared modules are found by plain name.
sys.path.insert(0, str(Path(__file__).parents[1]))
run_module(
    "benchmarks.gpu" if {"gpu", "--only=gpu"} & set(sys.argv) else "benchmarks.command",
    run_name="__main__",
)
