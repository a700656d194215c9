"""The devices that the contract is held to: an emulated one always, a real one if there is one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from gpu.emulator import Device, pretend, system_compiler

from hepdask_ml.likelihood import device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Card:
    """A device to test on.

    ``n_toys`` is how many it fits quickly, and ``leave`` makes its memory scarce: so many bytes
    may still be allocated.
    """

    cupy: Any
    n_toys: int
    leave: Callable[[int], None]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("emulator")


@pytest.fixture
def pretended(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """An emulated device in the place of CuPy, on which teams of four fit."""
    if not system_compiler():
        pytest.skip("there is no C++ compiler")
    cupy, emulated = pretend(compiled)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(device, "_failures", [])
    monkeypatch.setattr(device, "_models", {})
    monkeypatch.setattr(device, "TEAMS", (4,))
    monkeypatch.setattr(device, "ALONE", 0)
    return emulated


@pytest.fixture(
    params=["alone", "team", pytest.param("real", marks=pytest.mark.gpu)],
)
def card(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    """Each kind of device; on the emulated one each thread fits alone, or all fits are shared."""
    if request.param == "real":
        if reason := device.unusable():
            pytest.skip(reason)
        cupy = import_module("cupy")
        pool = cupy.get_default_memory_pool()
        yield Card(cupy, 2000, lambda size: pool.set_limit(pool.used_bytes() + size))
        pool.set_limit(0)
        return
    emulated: Device = request.getfixturevalue("pretended")

    def leave(size: int) -> None:
        emulated.memory = emulated.used + size

    if alone := request.param == "alone":
        monkeypatch.setattr(device, "ALONE", 1000)
    yield Card(sys.modules["cupy"], 400 if alone else 100, leave)
