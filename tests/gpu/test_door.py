"""Whether there is a GPU, and what is said if not: no test here needs one, or a compiler."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from gpu.emulator import pretend

from hepdask_ml.errors import GpuError, WorkerFault
from hepdask_ml.likelihood import device, kernels_gpu

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cupy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    module, _ = pretend(tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(device, "_failures", [])
    return module


def fails(message: str, kind: type[Exception] = RuntimeError) -> Any:
    def raised(*_: Any) -> None:
        raise kind(message)

    return raised


def test_a_usable_device_has_a_name(cupy: ModuleType) -> None:
    assert kernels_gpu.unusable() == ""
    assert kernels_gpu.device_name() == "pretended"


def test_without_cupy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_failures", [])
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    assert kernels_gpu.unusable() == "CuPy is not installed: install hepdask-ml[gpu]"
    with pytest.raises(GpuError, match=r"^no GPU can be used here: CuPy is not installed"):
        kernels_gpu.device_name()


def test_a_cupy_that_cannot_be_imported_says_why(
    cupy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "import_module", fails("libcudart is missing", ImportError))
    assert kernels_gpu.unusable() == "CuPy sees no GPU: libcudart is missing"


def test_the_drivers_words_are_given(cupy: Any) -> None:
    cupy.cuda.runtime.getDeviceCount = fails(
        "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
    )
    assert kernels_gpu.unusable() == (
        "CuPy sees no GPU: cudaErrorInsufficientDriver: CUDA driver version is insufficient for "
        "CUDA runtime version"
    )


def test_no_device_is_said(cupy: Any) -> None:
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    assert kernels_gpu.unusable() == "CuPy sees no GPU"


def test_a_missing_compiler_is_said(cupy: Any) -> None:
    cupy.cuda.nvrtc.getVersion = fails('Failure finding "libnvrtc.so.12"')
    assert kernels_gpu.unusable().startswith("CuPy finds no compiler for the GPU (Failure finding")


def test_such_an_error_lets_another_worker_try() -> None:
    assert issubclass(GpuError, WorkerFault)


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_the_real_cupy_answers_in_words() -> None:
    assert "\n" not in kernels_gpu.unusable()


def test_the_kernels_are_one_text() -> None:
    text = device.source()
    assert '#include "' not in text
    assert "#pragma once" not in text
    assert text.count("struct Model {") == text.count("struct Throw {") == 1
    for name in ("hepdask_minimise", "hepdask_search", "hepdask_pairs"):
        assert name in text
