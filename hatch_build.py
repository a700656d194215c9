"""Builds the native code: the likelihood engine, once for each instruction set, and a small kernel.

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
SCATTER = Path("hepdask_ml", "data", "native")
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
    """Compiles both libraries; the engine has all instruction sets in one."""

    def dependencies(self) -> list[str]:
        """Ask for a packaged compiler only where the system has none."""
        return [] if system_compiler() else ["ziglang"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Build the libraries next to their sources and mark the wheel as platform-specific."""
        root = Path(self.root)
        built = {
            NATIVE / f"libengine{SUFFIX}": build_library,
            SCATTER / f"libscatter{SUFFIX}": build_scatter,
        }
        for library, build in built.items():
            build(root / library.parent, root / library)
        build_data["pure_python"] = False
        build_data["tag"] = (
            f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        )
        build_data["artifacts"].extend(str(library) for library in built)


def build_library(native: Path, library: Path) -> None:
    """Compile the sources of the engine under ``native`` into ``library``."""
    variants = instruction_sets()
    units = [
        ("engine.cpp", f"engine_{name}", [*flags, f"-DENGINE=engine_{name}"])
        for name, flags in variants.items()
    ]
    units.append(("dispatch.cpp", "dispatch", ["-DHAS_X86_VARIANTS"] if len(variants) > 1 else []))
    units.append(("room.cpp", "room", []))
    # A fused product and sum rounds once and not twice: toys are to be the same on all processors.
    units.append(("throw.cpp", "throw", [*variants["base"], "-ffp-contract=off"]))
    link(native, units, library)


def build_scatter(native: Path, library: Path) -> None:
    """Compile the kernel under ``native`` into ``library``, for all processors of the platform."""
    # Wider registers gain nothing: it waits for memory.
    link(native, [("scatter.cpp", "scatter", instruction_sets()["base"])], library)


def compiler() -> list[str]:
    """Give the command of the compiler that is used."""
    return system_compiler() or [sys.executable, "-m", "ziglang", "c++"]


def instruction_sets() -> dict[str, list[str]]:
    """Give the flags of each instruction set; "base" is what all processors have."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return {"base": []}
    if "ziglang" in compiler():
        return {
            name: [f.replace("-march=x86-64-", "-mcpu=x86_64_") for f in flags]
            for name, flags in X86_VARIANTS.items()
        }
    return X86_VARIANTS


def link(native: Path, units: list[tuple[str, str, list[str]]], library: Path) -> None:
    """Compile the units, each a source with a name and flags of its own, into one library."""
    command = compiler()
    with tempfile.TemporaryDirectory() as scratch:

        def compiled(unit: tuple[str, str, list[str]]) -> str:
            source, name, flags = unit
            made = f"{scratch}/{name}.o"
            run([*command, *FLAGS, *flags, "-c", str(native / source), "-o", made])
            return made

        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(compiled, units))
        partial = Path(scratch) / library.name
        run([*command, "-shared", *objects, "-o", str(partial)])
        shutil.move(partial, library)


def run(command: list[str]) -> None:
    """Run one compiler command; its own words are the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"compiling the native code failed: {shlex.join(command)}\n{done.stderr}")
