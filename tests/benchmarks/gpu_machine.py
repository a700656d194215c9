"""Measures, and tests, on a machine with a GPU where nothing can be downloaded.

``python tests/benchmarks/gpu_machine.py [--wheels DIR] [--tests] [OPTION ...]``

The source tree and a C++ compiler have to be there; the engine is compiled in the tree.  Other
options are those of ``python -m tests.benchmarks --only gpu``.  Packages that this Python lacks are
taken from a folder of wheels and go to a folder beside that, so that this Python itself stays as it
is.  Where there is a network, and the same version of Python, such a folder is made by::

    pip wheel -w wheels . cupy-cuda12x nvidia-cuda-nvrtc-cu12 hatchling pytest pytest-timeout

Only what is missing has to be in it.  ``--tests`` runs the tests that need a GPU before.  This file
imports Python's own modules only, since nothing else is sure to be there.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.machinery import PathFinder
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = ("numpy", "cupy", "fsspec", "hatchling", "jsonpatch", "pytest", "rich")
"""Modules that the benchmark imports, or that compile the engine."""

NEEDED_BY_TESTS = ("dask", "distributed", "psutil", "pytest_timeout", "yaml")
TESTS = ("tests/gpu", "tests/benchmarks/test_gpu_benchmark.py")
MAKE_WHEELS = (
    "pip wheel -w wheels . cupy-cuda12x nvidia-cuda-nvrtc-cu12 hatchling pytest pytest-timeout"
)
BUILD = "import hatch_build as b; b.build_library(b.NATIVE, b.NATIVE / f'libengine{b.SUFFIX}')"


def added(wheels: Path) -> Path:
    """Unpack the wheels of packages that this Python lacks into a folder, and give it."""
    site = wheels.resolve().with_name(f"{wheels.resolve().name}-installed")
    names = [found.metadata["Name"] for found in distributions()]
    there = {_plain(name) for name in names if name}
    if PathFinder.find_spec("cupy"):  # whatever its CUDA: there must be one of them only
        there |= {_plain(path.name.split("-")[0]) for path in wheels.glob("cupy*.whl")}
    there.add("hepdask-ml")  # it is the source tree that is measured
    lacking = [
        path
        for path in sorted(wheels.glob("*.whl"))
        if _plain(path.name.split("-")[0]) not in there
    ]
    if lacking:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        options = ["--disable-pip-version-check", "--upgrade", "--target", str(site)]
        if code := _run([*pip, *options, *(str(path) for path in lacking)]):
            sys.exit(code)
    return site


def _plain(name: str) -> str:
    """Give the name of a package as indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def missing(modules: tuple[str, ...], site: Path | None) -> list[str]:
    """Name the modules that neither this Python nor the added ones have."""
    path = [*([str(site)] if site else []), *sys.path]
    return [name for name in modules if PathFinder.find_spec(name, path) is None]


def has_compiler() -> bool:
    """Whether there is one of the compilers that the build looks for."""
    asked = shlex.split(os.environ.get("CXX", ""))[:1]
    return any(shutil.which(name) for name in asked or ("c++", "g++", "clang++"))


def _run(command: list[str], python_path: str = "", *, at: Path | None = None) -> int:
    environment = os.environ | {"PYTHONPATH": python_path} if python_path else None
    return subprocess.run(command, cwd=at, env=environment, check=False).returncode


def main() -> int:
    """Run the command; gives its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheels", type=Path, help="folder of wheels to take packages from")
    parser.add_argument("--tests", action="store_true", help="run the tests that need a GPU before")
    chosen, options = parser.parse_known_args()
    if not has_compiler():
        sys.exit("there is no C++ compiler, which makes the engine: install g++ or set CXX")
    site = added(chosen.wheels) if chosen.wheels else None
    if lacking := missing(NEEDED + (NEEDED_BY_TESTS if chosen.tests else ()), site):
        sys.exit(
            f"not found: {', '.join(lacking)}; name a folder of wheels by --wheels, which "
            f"`{MAKE_WHEELS}` makes in this source tree where there is a network"
        )
    folders = [str(ROOT), str(ROOT / "tests"), *([str(site)] if site else [])]
    python_path = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
    if code := _run([sys.executable, "-c", BUILD], python_path, at=ROOT):
        return code
    failed = 0
    if chosen.tests:
        # What CuPy warns of on this machine is no fault of the package.
        marked = ["-m", "gpu", "-W", "default", "-p", "no:cacheprovider", *TESTS]
        failed = _run([sys.executable, "-m", "pytest", *marked], python_path, at=ROOT)
    return _run([sys.executable, "-m", "benchmarks.gpu", *options], python_path) or failed


if __name__ == "__main__":
    sys.exit(main())
