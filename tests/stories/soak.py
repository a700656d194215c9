"""``python -m tests.stories.soak [--kills 300] [--seed S]``: see `stories.kills`."""

import sys
from pathlib import Path
from runpy import run_module

if __name__ == "__main__":
    # As for pytest (pythonpath in pyproject.toml): shared modules are found by plain name.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    run_module("stories.kills", run_name="__main__")
