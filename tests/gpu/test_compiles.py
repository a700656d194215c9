"""The kernels compile for real GPUs, by the compiler that CuPy uses and by nvcc, without a GPU."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from gpu.nvrtc import compiled, nvrtc

from hepdask_ml.likelihood import device

if TYPE_CHECKING:
    from pathlib import Path

KERNELS = ("hepdask_minimise", "hepdask_search", "hepdask_pairs")
every_kind = pytest.mark.parametrize(("team", "architecture"), [(1, "sm_80"), (64, "sm_90")])


def _options(team: int, architecture: str) -> list[str]:
    return [*device.COMPILER_OPTIONS, f"-DTEAM={team}", f"-arch={architecture}"]


@pytest.mark.slow
@pytest.mark.skipif(nvrtc() is None, reason="NVRTC is not installed (nvidia-cuda-nvrtc)")
@every_kind
def test_nvrtc_compiles_them_without_a_warning(team: int, architecture: str) -> None:
    binary, log = compiled(nvrtc(), device.source(), _options(team, architecture))
    assert log == ""
    for name in KERNELS:
        assert name.encode() in binary


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the path")
@every_kind
def test_nvcc_compiles_them_without_a_warning(tmp_path: Path, team: int, architecture: str) -> None:
    text, binary = tmp_path / "kernels.cu", tmp_path / "kernels.cubin"
    text.write_text(device.source())
    command = ["nvcc", *_options(team, architecture), "-cubin", str(text), "-o", str(binary)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    for name in KERNELS:
        assert name.encode() in binary.read_bytes()
