"""Builds the native likelihood engine into the wheel, once for each instruction set.

A C++ compiler of the system is used where there is one (``$CXX``, ``c++``, ``g++``, ``clang++``);
elsewhere the build asks for ``ziglang``, a compiler that installs like any Python package.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("hepdask_ml", "likelihood", "native")
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
X86_VARIANTS = {
    "base": ["-march=x86-64-v2"],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512", "-DTILE=4"],
}
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


def system_compiler() -> list[str]:
    """Give the command of the system's C++ compiler, or an empty list."""
    if chosen := os.environ.get("CXX"):
        return shlex.split(chosen)
    found = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    return [found] if found else []


class EngineBuildHook(BuildHookInterface[Any]):
    """Compiles ``engine.cpp`` for each instruction set and links all into one library."""

    def dependencies(self) -> list[str]:
        """Ask for a packaged compiler only where the system has none."""
        return [] if system_compiler() else ["ziglang"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Build the library next to its sources and mark the wheel as platform-specific."""
        native = Path(self.root) / NATIVE
        library = native / f"libengine{SUFFIX}"
        build_library(native, library)
        build_data["pure_python"] = False
        build_data["tag"] = (
            f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        )
        build_data["artifacts"].append(str(NATIVE / library.name))


def build_library(native: Path, library: Path) -> None:
    """Compile the sources under ``native`` into ``library``."""
    compiler = system_compiler() or [sys.executable, "-m", "ziglang", "c++"]
    is_x86 = platform.machine().lower() in {"x86_64", "amd64"}
    if not is_x86:
        variants: dict[str, list[str]] = {"base": []}
    elif "ziglang" in compiler:
        variants = {
            name: [f.replace("-march=x86-64-", "-mcpu=x86_64_") for f in flags]
            for name, flags in X86_VARIANTS.items()
        }
    else:
        variants = X86_VARIANTS
    units = [
        ("engine.cpp", f"engine_{name}", [*flags, f"-DENGINE=engine_{name}"])
        for name, flags in variants.items()
    ]
    units.append(("dispatch.cpp", "dispatch", ["-DHAS_X86_VARIANTS"] if is_x86 else []))
    units.append(("room.cpp", "room", []))
    # A fused product and sum rounds once and not twice: toys are to be the same on all processors.
    units.append(("throw.cpp", "throw", [*variants["base"], "-ffp-contract=off"]))
    with tempfile.TemporaryDirectory() as scratch:

        def compiled(unit: tuple[str, str, list[str]]) -> str:
            source, name, flags = unit
            made = f"{scratch}/{name}.o"
            run([*compiler, *FLAGS, *flags, "-c", str(native / source), "-o", made])
            return made

        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(compiled, units))
        partial = Path(scratch) / library.name
        run([*compiler, "-shared", *objects, "-o", str(partial)])
        shutil.move(partial, library)


def run(command: list[str]) -> None:
    """Run one compiler command; its own words are the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"compiling the likelihood engine failed: {shlex.join(command)}\n{done.stderr}"
        )
