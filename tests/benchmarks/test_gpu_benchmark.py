"""The GPU's benchmark on the emulated device: every line of it but those of real CuPy runs here."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from benchmarks import gpu, gpu_machine, gpu_report, gpu_speed
from benchmarks.gpu_ceilings import ceilings
from benchmarks.gpu_work import PHASES, work
from benchmarks.models import DENSE, GPU_CASES, Aim, Case, prepared
from gpu.emulator import RawModule, pretend, system_compiler
from made_up import ROOT, many_systematics, one_bin, one_sided

from hepdask_ml.errors import GpuError
from hepdask_ml.likelihood import device

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.skipif(not system_compiler(), reason="there is no C++ compiler")

CLOCK = """
#include <chrono>
static inline long long clock64() {
    return std::chrono::steady_clock::now().time_since_epoch().count();
}
static inline void atomicAdd(unsigned long long* sum, unsigned long long term) {
    __atomic_fetch_add(sum, term, __ATOMIC_RELAXED);
}
"""
"""What the emulated device lacks for kernels that look at the clock."""

THREADS = """
struct Dimension { unsigned x; };
static Dimension threadIdx, blockIdx, blockDim, gridDim;
#define __global__
#define __shared__ static
static inline void __syncthreads() {}
#include KERNELS
typedef long long Number;
extern "C" void launch(const char* name, unsigned grid, unsigned block, const Number* with) {
    gridDim.x = grid, blockDim.x = block;
    double *first = (double*)with[0], *second = (double*)with[1];
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x) {
            if (name[0] == 'f') fused(first, with[1]);
            if (name[0] == 's') shared_again(first, with[1]);
            if (name[0] == 'r') read_again(first, second, with[2], with[3]);
            if (name[0] == 'c') copied(first, second, with[2]);
        }
}
"""
"""A device for kernels whose threads need not wait for each other."""


class _Ceilings:
    """A module whose kernels run thread by thread, with every access in its place."""

    def __init__(self, folder: Path, code: str) -> None:
        (folder / "ceilings.h").write_text(code)
        (folder / "ceilings.cpp").write_text(THREADS)
        library = folder / "ceilings.so"
        flags = ["-O1", "-fsanitize=bounds", "-fPIC", "-shared"]
        include = f'-DKERNELS="{folder / "ceilings.h"}"'
        source = str(folder / "ceilings.cpp")
        subprocess.run(
            [*system_compiler(), *flags, include, source, "-o", str(library)], check=True
        )
        self.library = ctypes.CDLL(str(library))

    def get_function(self, name: str) -> Any:
        def kernel(grid: tuple[int], block: tuple[int], arguments: Sequence[Any]) -> None:
            numbers = (ctypes.c_int64 * 4)(*map(int, arguments))
            self.library.launch(name.encode(), grid[0], block[0], numbers)

        return kernel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what is compiled is found again."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def cupy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any
    module, emulated = pretend(folder)
    (folder / "clock.h").write_text(CLOCK)
    emulated.flags = ("-include", str(folder / "clock.h"))

    def compiled(code: str, options: Sequence[str], backend: str) -> Any:
        if "hepdask_pairs" in code:
            return RawModule(emulated, code, options, backend)
        return _Ceilings(folder, code)

    module.RawModule = compiled
    module.__version__ = "0"
    module.cuda.runtime.driverGetVersion = module.cuda.runtime.runtimeGetVersion = lambda: 0
    monkeypatch.setattr("gpu.emulator.RawKernel.num_regs", 128, raising=False)
    monkeypatch.setattr("gpu.emulator.RawKernel.local_size_bytes", 0, raising=False)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(device, "_failures", [])
    monkeypatch.setattr(device, "_models", {})
    monkeypatch.setattr(device, "TEAMS", (4,))
    return module


@pytest.fixture
def few(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models, few toys, and teams that an emulated device can hold."""
    cases = (Case("one bin", one_bin, Aim(gpu=1e7)), Case("one sided", one_sided))
    for module in (gpu, gpu_report):
        monkeypatch.setattr(module, "GPU_CASES", cases)
    monkeypatch.setattr(gpu, "TemporaryDirectory", lambda: nullcontext(folder))
    monkeypatch.setattr(gpu_speed, "FIRST_TOYS", {"cpu": 64, "gpu": 64})
    monkeypatch.setattr(gpu_speed, "TEAMS", (1, 4))
    monkeypatch.setattr(gpu_speed, "RESIDENT", (64,))


@pytest.mark.usefixtures("cupy", "few")
def test_it_measures_compares_and_reports(tmp_path: Path) -> None:
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.md"
    asked = ["--quick", "--sweep", "--json", str(numbers), "--markdown", str(page)]
    assert gpu.main(asked) == ""
    found = json.loads(numbers.read_text())
    for name in ("one bin", "one sided"):
        at = found["speed"][name]
        assert at["gpu"]["toys_per_s"] > 0.0
        assert at["agreement"]["compared"] == at["agreement"]["converged"]
        assert sum(at["split"]["phases"].values()) == pytest.approx(1.0)
        assert 0.0 < at["split"]["on_device"] < 1.0
        assert [setting["team"] for setting in found["sweep"][name]] == [1, 4]
        assert all(setting["toys_per_s"] > 0.0 for setting in found["sweep"][name])
    assert found["speed"]["one sided"]["split"]["phases"]["search"] > 0.0
    assert found["speed"]["one bin"]["geometry"]["team"] == 1
    assert "| one sided |" in page.read_text()


@pytest.mark.gpu
@pytest.mark.slow
def test_a_real_device_is_measured() -> None:
    if reason := device.unusable():
        pytest.skip(reason)
    assert gpu.main(["--quick", "--model", "one bin"]) == ""


@pytest.mark.usefixtures("few")
def test_a_disagreement_is_said(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_speed, "TOLERANCE", 0.0)
    asked = ["--quick", "--only", "gpu", "--model", "one bin"]
    assert gpu.main(asked) == "one bin: the engines do not agree."


@pytest.mark.usefixtures("few")
def test_a_device_that_fails_is_said(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> None:
        raise RuntimeError("CUDA_ERROR_NO_BINARY_FOR_GPU")

    monkeypatch.setattr(cupy, "RawModule", refused)
    assert gpu.main(["--quick"]).startswith("the GPU pretended failed while measuring its ceilings")


def test_a_setting_that_fails_leaves_the_others(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise GpuError("no room")

    monkeypatch.setattr(gpu_speed, "_fitted", refused)
    setting = gpu_speed._tried(prepared(Case("one bin", one_bin)), 1, 4, 64)
    assert setting.toys_per_s is None
    assert setting.note == "no room"


def test_the_ceilings_kernels_do_what_they_are_timed_for(cupy: Any) -> None:
    found = ceilings(cupy, 1e-5)
    assert min(found.flops, found.memory, found.l2, found.shared) > 0.0


def test_work_is_counted_on_the_kernels_own_text(folder: Path) -> None:
    one = work(prepared(Case("one bin", one_bin)), 20, folder)
    assert sum(one.by_phase.values()) == pytest.approx(one.operations, rel=0.05)
    assert set(one.by_phase) == set(PHASES)
    assert 4 < one.evaluations < 10
    # Two parameters, one bin, two samples: some hundred operations for each evaluation.
    assert 100.0 < one.operations / one.evaluations < 1000.0
    few, many = (
        work(prepared(Case("", partial(many_systematics, n, 4, 2))), 4, folder) for n in (5, 20)
    )
    assert 2.0 < (many.operations / many.evaluations) / (few.operations / few.evaluations) < 4.0
    assert few.predicted > many.predicted > 0.0


def test_what_is_to_be_expected_needs_no_gpu(
    folder: Path, few: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--quick", "--predict", "--model", "one bin"]) == ""
    assert "Predicted for one H100, not measured" in capsys.readouterr().out


def test_the_large_model_is_what_it_says() -> None:
    model = prepared(DENSE).model
    assert (model.n_pars, model.n_main) == (180, 40)
    assert GPU_CASES[-1] is DENSE


def test_without_a_gpu_it_ends_in_one_sentence() -> None:
    asked = [sys.executable, "-m", "tests.benchmarks", "--only", "gpu"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        pytest.skip("there is a GPU")
    assert done.returncode == 1
    assert done.stderr.strip().startswith("nothing can be measured on a GPU, for ")
    assert done.stderr.count("\n") == 1


# --- where nothing can be downloaded -----------------------------------------------------------


def wheel(folder: Path, name: str) -> None:
    """Make the wheel of a package that has one module."""
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as made:
        made.writestr(f"{name}.py", "")
        made.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        made.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{about}/RECORD", "")


@pytest.mark.skipif(find_spec("pip") is None, reason="pip is not installed")
def test_what_is_missing_comes_from_the_wheels(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("made_up_package", "numpy", "hepdask_ml"):
        wheel(wheels, name)
    assert gpu_machine.missing(("made_up_package", "numpy"), None) == ["made_up_package"]
    site = gpu_machine.added(wheels)
    assert gpu_machine.missing(("made_up_package", "numpy"), site) == []
    assert [path.name for path in site.glob("*.py")] == ["made_up_package.py"]


def test_wheels_that_do_not_suit_are_the_installers_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_machine, "_run", lambda *_: 2)
    wheel(tmp_path, "made_up_package")
    with pytest.raises(SystemExit, match="2"):
        gpu_machine.added(tmp_path)


def machine(monkeypatch: pytest.MonkeyPatch, *options: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["gpu_machine.py", *options])
    return gpu_machine.main()


@pytest.mark.parametrize("failing", [None, "-c", "pytest", "benchmarks.gpu"])
def test_a_machine_compiles_tests_and_measures(
    monkeypatch: pytest.MonkeyPatch, failing: str | None
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], python_path: str, at: Path | None = None) -> int:
        assert python_path.startswith(str(ROOT))
        commands.append(command[1:])
        return int(failing in command)

    monkeypatch.setattr(gpu_machine, "_run", run)
    monkeypatch.setattr(gpu_machine, "NEEDED", ("numpy",))
    monkeypatch.setattr(gpu_machine, "NEEDED_BY_TESTS", ("pytest",))
    assert machine(monkeypatch, "--tests", "--quick") == int(failing is not None)
    assert commands[0] == ["-c", gpu_machine.BUILD]
    if failing != "-c":  # tests that fail are no reason not to measure
        assert commands[1][:4] == ["-m", "pytest", "-m", "gpu"]
        assert commands[2:] == [["-m", "benchmarks.gpu", "--quick"]]


def test_a_machine_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_machine, "NEEDED", ("numpy", "made_up_package"))
    with pytest.raises(SystemExit) as ended:
        machine(monkeypatch)
    assert str(ended.value).startswith("not found: made_up_package; name a folder of wheels by")
    assert "\n" not in str(ended.value)
    monkeypatch.setattr(gpu_machine, "has_compiler", lambda: False)
    with pytest.raises(SystemExit, match="there is no C\\+\\+ compiler"):
        machine(monkeypatch)


def test_a_machine_runs_what_it_is_told() -> None:
    assert gpu_machine.has_compiler()
    asked = [sys.executable, "-c", "import gpu_machine, sys; sys.exit(7)"]
    assert gpu_machine._run(asked, str(ROOT / "tests" / "benchmarks")) == 7
