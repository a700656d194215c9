"""States come out of a checkpoint as they went in, and nothing in it can be made to run.

Tests with torch are skipped where it is not installed; the others show that it is not needed.
"""

from __future__ import annotations

import math
import pickle
import random
import subprocess
import sys
from collections import Counter
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.errors import HepdaskError, InputError
from hepdask_ml.training import plain, state, with_torch


class Weights:
    """A model of somebody's own, without torch."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        if np.shape(found["weights"]) != np.shape(self.weights):
            raise ValueError(f"size mismatch: {np.shape(found['weights'])}")
        self.weights = found["weights"]


def contents(given: dict[str, Any]) -> dict[str, bytes]:
    """What a checkpoint gives back of these."""
    return {
        name: part if isinstance(part, bytes) else part.read_bytes()
        for name, part in state.packed(given).items()
    }


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers()), inner)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_plain_values_come_back_with_their_types(value: Any) -> None:
    # repr: equal values of other types differ, and NaN equals itself.
    assert repr(plain.unpacked(plain.packed(value))) == repr(value)


@pytest.mark.parametrize("kind", ["f4", ">f8", "i8", "u1", "bool", "c16", "U3"])
def test_arrays_come_back_bit_by_bit(kind: str) -> None:
    array = np.arange(12).astype(kind).reshape(3, 4)[:, ::2]
    found = plain.unpacked(plain.packed({"a": array, "one": array[0, 1]}))
    assert found["a"].dtype == array.dtype
    assert found["a"].tolist() == array.tolist()
    assert type(found["one"]) is type(array[0, 1])
    assert found["one"] == array[0, 1]


@pytest.mark.parametrize("value", [object(), {1, 2}, Counter("ab"), np.array([object()]), print])
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"^a [\w.]+$"):
        plain.packed({"x": [value]})


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"array": "AAAA"}', b'{"tuple": 3}', b'{"dict": [1]}', b'{"nobody": 1}', b"\xff"],
)
def test_what_is_no_state_is_refused(content: bytes) -> None:
    with pytest.raises(HepdaskError, match="no state of ours"):
        plain.unpacked(content)


def test_a_pickle_in_an_array_is_not_run() -> None:
    buffer = BytesIO()
    np.save(buffer, np.array([object()]), allow_pickle=True)
    content = plain.packed(b"").replace(b'"bytes": ""', b'"array": "' + _base64(buffer) + b'"')
    with pytest.raises(HepdaskError, match="no state of ours"):
        plain.unpacked(content)


def _base64(buffer: BytesIO) -> bytes:
    whole: bytes = plain.packed(buffer.getvalue())
    return whole.split(b'"')[3]


def test_bytes_and_files_are_kept_as_they_are(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_bytes(b"epoch,loss\n")
    parts = state.packed({"a": b"1", "b": bytearray(b"2"), "c": memoryview(b"3"), "log": log})
    assert (parts["a"], parts["b"], parts["c"], parts["log"]) == (b"1", b"2", b"3", log)
    log.unlink()
    state.restore({"a": b"", "log": log}, {"log": b"epoch,loss\n0,1\n"})
    assert log.read_bytes() == b"epoch,loss\n0,1\n"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(HepdaskError, match=r'"log" of the checkpoint cannot be written to .*none'):
        state.restore({"log": tmp_path / "none" / "log.csv"}, {"log": b""})


@pytest.mark.parametrize(
    "make",
    [
        random.Random,
        np.random.default_rng,
        lambda seed: np.random.Generator(np.random.MT19937(seed)),
        np.random.RandomState,
    ],
)
def test_generators_go_on_where_they_were(make: Any) -> None:
    one, other = make(1), make(2)
    parts = contents({"order": one})
    expected = [one.random() for _ in range(5)]
    state.restore({"order": other}, parts)
    assert [other.random() for _ in range(5)] == expected


def test_the_global_generators_go_on_where_they_were() -> None:
    with state.session(7):
        random.gauss(0.0, 1.0)
        np.random.normal()  # noqa: NPY002 - the global one
        parts = contents({})
        expected = random.gauss(0.0, 1.0), np.random.normal()  # noqa: NPY002
    with state.session(8):
        state.restore({}, parts)
        assert (random.gauss(0.0, 1.0), np.random.normal()) == expected  # noqa: NPY002


def test_a_session_begins_at_its_seed_and_leaves_no_trace() -> None:
    def drawn() -> tuple[float, float]:
        return random.random(), float(np.random.random())  # noqa: NPY002 - the global one

    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    with state.session(2**32 - 1):
        first = drawn()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]  # noqa: NPY002
    with state.session(2**32 - 1):
        assert drawn() == first
    with pytest.raises(ZeroDivisionError), state.session(3):
        1 / 0  # noqa: B018
    assert random.getstate() == before[0]


def test_an_object_with_a_plain_state_needs_no_torch() -> None:
    parts = contents({"model": Weights(np.arange(3.0))})
    other = Weights(np.zeros(3))
    state.restore({"model": other}, parts)
    assert other.weights.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("value", [3, None, {"a": 1}, SimpleNamespace(state_dict=dict)])
def test_what_has_no_state_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r'"counts" is of type \w+, .* give bytes, a Path'):
        state.packed({"counts": value})


def test_a_state_of_anything_else_is_refused_when_it_is_saved() -> None:
    with pytest.raises(InputError, match=r'state of "model" .* as it holds a [\w.]+: let'):
        state.packed({"model": Weights(object())})


def test_our_names_are_taken() -> None:
    with pytest.raises(InputError, match=r'no name begins with "random\."'):
        state.packed({"random.state": b""})


def test_what_the_checkpoint_has_not_is_named() -> None:
    parts = contents({"model": Weights(1)})
    with pytest.raises(InputError, match=r'no "scheduler", it holds model: load what was saved'):
        state.restore({"model": Weights(1), "scheduler": Weights(1)}, parts)


def test_a_state_that_does_not_fit_is_named() -> None:
    parts = contents({"model": Weights(np.zeros(3))})
    with pytest.raises(
        InputError, match=r'"model" does not take its state .*size mismatch: \(3,\)'
    ):
        state.restore({"model": Weights(np.zeros(4))}, parts)


def test_a_damaged_part_is_named() -> None:
    with pytest.raises(HepdaskError, match='"model" of the checkpoint cannot be read'):
        state.restore({"model": Weights(0)}, {"model": b"{"})


def test_torch_is_not_imported_where_nobody_uses_it() -> None:
    code = """
import sys
from hepdask_ml.training import state
with state.session(1):
    parts = state.packed({})
    state.restore({}, parts)
assert (state.device(), state.memory_mb()) == ("cpu", None)
assert "torch" not in sys.modules and "random.torch" not in parts
"""
    environment = {"PATH": "", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_without_torch_its_states_are_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"install hepdask-ml\[train\]"):
        state.restore({"model": Weights(0)}, {"model": b"PK"})


class TestTorch:
    """With tensors."""

    @pytest.fixture
    def torch(self) -> Any:
        return pytest.importorskip("torch")

    def test_model_optimiser_and_schedulers_come_back_exactly(self, torch: Any) -> None:
        def made() -> dict[str, Any]:
            model = torch.nn.Sequential(
                torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)
            )
            optimiser = torch.optim.Adam(model.parameters(), lr=0.1, amsgrad=True)
            schedulers = torch.optim.lr_scheduler
            return {
                "model": model,
                "optimiser": optimiser,
                "steps": schedulers.MultiStepLR(optimiser, [1, 3]),
                "cosine": schedulers.CosineAnnealingWarmRestarts(optimiser, 4),
                "plateau": schedulers.ReduceLROnPlateau(optimiser, patience=0),
                "order": torch.Generator().manual_seed(3),
            }

        def trained(kept: dict[str, Any], steps: int) -> None:
            for _ in range(steps):
                x = torch.randn(16, 4, generator=kept["order"])
                loss = (kept["model"](x) ** 2).mean()
                kept["optimiser"].zero_grad()
                loss.backward()
                kept["optimiser"].step()
                kept["steps"].step()
                kept["cosine"].step()
                kept["plateau"].step(1.0)

        with state.session(1):
            one = made()
            trained(one, 2)
            parts = contents(one)
            trained(one, 3)
        other = made()
        state.restore(other, parts)
        trained(other, 3)
        for name, tensor in one["model"].state_dict().items():
            assert torch.equal(tensor, other["model"].state_dict()[name]), name
        for name in ("steps", "cosine", "plateau"):
            assert one[name].state_dict() == other[name].state_dict()

    def test_tied_weights_stay_tied(self, torch: Any) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        model[1].weight = model[0].weight
        held = torch.load(BytesIO(contents({"model": model})["model"]), weights_only=True)
        assert held["0.weight"].data_ptr() == held["1.weight"].data_ptr()

    def test_the_global_generator_goes_on_and_is_put_back(self, torch: Any) -> None:
        before = torch.get_rng_state()
        with state.session(5):
            first = torch.rand(3)
            parts = contents({})
            expected = torch.rand(3)
        assert torch.equal(torch.get_rng_state(), before)
        with state.session(5):
            assert torch.equal(torch.rand(3), first)
        with state.session(6):
            state.restore({}, parts)
            assert torch.equal(torch.rand(3), expected)

    def test_an_objective_that_imports_torch_itself_has_the_same_numbers_at_each_call(
        self, torch: Any
    ) -> None:
        code = """
import sys
from hepdask_ml.training import state
assert "torch" not in sys.modules
for _ in range(2):
    with state.session(9):
        import torch
        print(torch.rand(2).tolist())
assert not any("with_torch" in type(each).__module__ for each in sys.meta_path)
"""
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        first, second = done.stdout.decode().splitlines()
        assert first == second
        with state.session(9):
            assert first == str(torch.rand(2).tolist())

    def test_what_could_not_be_read_safely_is_refused_when_it_is_saved(self, torch: Any) -> None:
        model = Weights([torch.zeros(2), np.float64(1.0)])
        with pytest.raises(
            InputError, match=r'state of "model" .*as it holds a numpy\S*scalar: let'
        ):
            state.packed({"model": model})

    def test_a_pickle_is_not_run(self, torch: Any, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (tmp_path / "sprung",)

        buffer = BytesIO()
        torch.save({"weights": torch.zeros(1), "trap": Trap()}, buffer)
        for content in (buffer.getvalue(), pickle.dumps(Trap()), b"PK\x03\x04 cut"):
            with pytest.raises(HepdaskError, match='"model" of the checkpoint cannot be read'):
                state.restore({"model": Weights(0)}, {"model": content})
        assert not (tmp_path / "sprung").exists()

    def test_a_model_of_another_shape_does_not_take_the_state(self, torch: Any) -> None:
        parts = contents({"model": torch.nn.Linear(2, 3)})
        with pytest.raises(InputError, match=r'"model" does not take its state .*size mismatch'):
            state.restore({"model": torch.nn.Linear(2, 4)}, parts)

    def test_half_precision_and_infinite_numbers_are_kept(self, torch: Any) -> None:
        weights = torch.tensor([1.0, math.inf, math.nan], dtype=torch.bfloat16)
        other = Weights(torch.zeros(3))
        state.restore({"model": other}, contents({"model": Weights(weights)}))
        assert other.weights.dtype == torch.bfloat16
        assert torch.equal(other.weights.isnan(), weights.isnan())

    def test_without_a_gpu_there_is_no_gpu_memory(self, torch: Any) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        assert with_torch.sees_gpu() is False
        assert state.device() == "cpu"
        assert state.memory_mb() is None

    @pytest.mark.gpu
    def test_a_gpu_goes_on_where_it_was(self, torch: Any) -> None:
        if not torch.cuda.is_available():
            pytest.skip("there is no GPU")
        model = torch.nn.Linear(3, 3).cuda()
        optimiser = torch.optim.Adam(model.parameters())
        model(torch.ones(1, 3, device="cuda")).sum().backward()
        optimiser.step()
        with state.session(1):
            parts = contents({"model": model, "optimiser": optimiser})
            expected = torch.rand(3, device="cuda")
            assert state.memory_mb() > 0.0  # type: ignore[operator]
        other = torch.nn.Linear(3, 3).cuda()
        again = torch.optim.Adam(other.parameters())
        with state.session(2):
            state.restore({"model": other, "optimiser": again}, parts)
            assert torch.equal(torch.rand(3, device="cuda"), expected)
        assert other.weight.device.type == "cuda"
        assert torch.equal(other.weight, model.weight)
        assert again.state[other.weight]["exp_avg"].device.type == "cuda"
        assert state.device() == "cuda"
