"""States of PyTorch objects as bytes: the one door to torch, which need not be installed.

They are written by ``torch.save``, so that a part of a checkpoint can be taken out and loaded by
hand, and read by ``torch.load(weights_only=True)`` alone, which makes tensors and plain values and
runs nothing.  What could not be read so is refused when it is written.
"""

from __future__ import annotations

import pickle
import re
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import HepdaskError, InputError, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

FIRST = b"PK"
"""What the bytes begin with."""

_MEGABYTE = 1e6


def loaded() -> Any:
    """Give torch where this process has imported it, or else None."""
    return sys.modules.get("torch")


def library() -> Any:
    """Import torch.

    Returns
    -------
    module
        The library.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        return import_module("torch")
    except ModuleNotFoundError:
        raise InputError(
            "PyTorch is needed here, and is not installed: install hepdask-ml[train]"
        ) from None


def packed(state: Any) -> bytes:
    """Write a state that holds tensors.

    Parameters
    ----------
    state : Any
        Tensors and plain values, in dicts, lists and tuples.

    Returns
    -------
    bytes
        What ``torch.save`` writes.

    Raises
    ------
    InputError
        If it could not be read without running what is in it.
    """
    torch = library()
    buffer = BytesIO()
    try:
        torch.save(state, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True, map_location="meta")
    except (pickle.PickleError, AttributeError, TypeError) as error:
        raise InputError(_culprit(error)) from None
    return buffer.getvalue()


def unpacked(content: bytes) -> Any:
    """Read a state, into the memory of the CPU: ``load_state_dict`` brings it to where it belongs.

    Parameters
    ----------
    content : bytes
        Made by `packed`.

    Returns
    -------
    Any
        The state.

    Raises
    ------
    InputError
        If torch is not installed.
    HepdaskError
        If it is no such state, or holds more than tensors and plain values.
    """
    torch = library()
    try:
        # Steps of optimisers and states of generators lie there in any case.
        return torch.load(BytesIO(content), weights_only=True, map_location="cpu")
    except (pickle.PickleError, RuntimeError, EOFError, ValueError) as error:
        raise HepdaskError(f"it holds {_culprit(error)}: take another one") from None


def _culprit(error: Exception) -> str:
    """Say what torch does not load: its own advice is to trust the file."""
    found = re.search(r"GLOBAL (\S+) was not", str(error))
    return f"a {found[1]}" if found else f"what torch does not load safely ({words(error)[-100:]})"


def holds_tensors(state: Any) -> bool:
    """Say whether a tensor is anywhere in dicts, lists and tuples."""
    torch = loaded()
    if torch is None:
        return False
    if isinstance(state, dict):
        return any(holds_tensors(each) for each in state.values())
    if isinstance(state, list | tuple):
        return any(holds_tensors(each) for each in state)
    return isinstance(state, torch.Tensor)


def random_states() -> dict[str, Any]:
    """Give the states of the global generators, of the CPU and of every GPU that is in use."""
    torch = loaded()
    if torch is None:
        return {}
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states["cuda"] = list(torch.cuda.get_rng_state_all())
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Set the global generators; GPUs that are not there are passed over."""
    torch = library()
    if "torch" in states:
        torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        for index, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, index)


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """Begin torch's random numbers at a seed, also where it is imported meanwhile.

    An objective that imports torch itself would else have other numbers at the first call in a
    process than at all later ones.
    """
    torch = loaded()
    if torch is not None:
        before = random_states()
        seed(torch, number)
        try:
            yield
        finally:
            set_random_states(before)
        return
    waiting = _Seed(number)
    sys.meta_path.insert(0, waiting)
    try:
        yield
    finally:
        if waiting in sys.meta_path:
            sys.meta_path.remove(waiting)


def seed(torch: Any, number: int) -> None:
    """Let torch's generators begin at a seed."""
    # Without a GPU manual_seed leaves a call for it behind, each time, for when there is one.
    everywhere = torch.cuda.is_available()
    (torch.manual_seed if everywhere else torch.default_generator.manual_seed)(number)


class _Seed(MetaPathFinder):
    """Seeds torch when it is imported."""

    def __init__(self, number: int) -> None:
        self._number = number

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the protocol's
        target: ModuleType | None = None,  # noqa: ARG002 - the protocol's
    ) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_seed(module: ModuleType) -> None:
                execute(module)
                seed(module, self._number)

            spec.loader.exec_module = execute_and_seed  # type: ignore[method-assign]
        return spec


def forget_peak() -> None:
    """Let `memory_mb` begin anew."""
    torch = loaded()
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def memory_mb() -> float | None:
    """Give the most memory of the GPU that tensors of this process took at once, in 10^6 bytes.

    Returns
    -------
    float or None
        Since `forget_peak`; None where torch uses no GPU.
    """
    torch = loaded()
    if torch is None or not torch.cuda.is_initialized():
        return None
    return float(torch.cuda.max_memory_allocated()) / _MEGABYTE


def sees_gpu() -> bool:
    """Say whether torch can compute on a GPU; it is imported for it."""
    return find_spec("torch") is not None and bool(library().cuda.is_available())
