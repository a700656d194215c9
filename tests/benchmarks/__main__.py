"""``python -m tests.benchmarks``: measures the package, see `benchmarks.command`."""

import sys
from pathlib import Path
from runpy import run_module

# As for pytest (pythonpath in pyproject.toml): the tests' shared modules are found by plain name.
sys.path.insert(0, str(Path(__file__).parents[1]))
run_module("benchmarks.command", run_name="__main__")
