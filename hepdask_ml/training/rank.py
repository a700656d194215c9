"""The process of one rank: ``main()`` is what a gang starts on each of its workers."""

from __future__ import annotations

import json
import socket
import threading
from base64 import b64encode
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]

from hepdask_ml.errors import WorkerFault, words
from hepdask_ml.facility.member import arrive
from hepdask_ml.training import state, with_torch
from hepdask_ml.training.checkpoint import Checkpoint
from hepdask_ml.training.ranks import ALONE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hepdask_ml.campaign.unit import Block
    from hepdask_ml.facility.member import Arrived
    from hepdask_ml.training.ranks import Ranks
    from hepdask_ml.training.runner import TrialRunner

PATIENCE_S = 600.0
"""Time for which ranks wait for one another; the death of one is noticed by their leader."""


def main() -> None:
    """Join a gang, work a block with the others, and end when the leader says so."""
    member = arrive()
    stop = threading.Event()
    try:
        runner, block, device = _prepared(member)
    except Exception as error:  # noqa: BLE001 - whatever it is, the leader is to know
        member.join(fault=f"a rank cannot start: {words(error)}")
    else:
        member.join(device=device)
        member.say(**_worked(member, runner, block, device, stop))
    threading.Event().wait()  # the others may still need this process


def _prepared(member: Arrived) -> tuple[TrialRunner, Block, str]:
    """Load what takes its time, or may not be there, before the others wait for it."""
    torch = with_torch.library()
    # It takes a second, which is not to be that of the first epoch: optimisers import it.
    import_module("torch._dynamo")
    torch.set_num_threads(member.threads)
    runner, block = cloudpickle.loads(member.payload)
    device = state.device()
    if device == "cuda":
        torch.cuda.set_device(member.index % torch.cuda.device_count())
    return runner, block, device


def _worked(
    member: Arrived, runner: TrialRunner, block: Block, device: str, stop: threading.Event
) -> dict[str, Any]:
    """Work a block; give what the leader is to know."""
    try:
        ranks = _met(member, device)
        threading.Thread(target=_hear, args=(member, stop), daemon=True).start()
        done = runner.run(block, stop.is_set, ranks)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the door around what others wrote
        return {"error": words(error)[:2000], "fault": isinstance(error, WorkerFault)}
    return {"reached": done.reached, "result": b64encode(done.result).decode()}


def _hear(member: Arrived, stop: threading.Event) -> None:
    while True:
        if "stop" in member.messages.get():
            stop.set()


def _met(member: Arrived, device: str) -> Ranks:
    """Wait for a place, and meet the other ranks."""
    place = member.messages.get()
    rank, world = int(place["rank"]), int(place["world"])
    if world == 1:
        return ALONE
    torch = with_torch.library()
    distributed, patience = torch.distributed, timedelta(seconds=PATIENCE_S)
    if rank == 0:
        # torch alone would listen to all networks.
        family = socket.AF_INET6 if ":" in member.host else socket.AF_INET
        listener = socket.create_server((member.host, 0), family=family, backlog=world)
        port = listener.getsockname()[1]
        store = distributed.TCPStore(
            member.host,
            port,
            world,
            is_master=True,
            timeout=patience,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        member.say(store=[member.host, port])
    else:
        message = member.messages.get()
        while "store" not in message:  # told to stop so early, it does one epoch
            message = member.messages.get()
        host, port = message["store"]
        store = distributed.TCPStore(
            host, port, world, is_master=False, timeout=patience, wait_for_workers=False
        )
    distributed.init_process_group(
        _backend(torch, device, member.beside),
        store=store,
        rank=rank,
        world_size=world,
        timeout=patience,
    )
    return Together(torch, rank, world)


def _backend(torch: Any, device: str, beside: int) -> str:
    """Name what carries the gradients: NCCL wants a GPU for each rank."""
    if device == "cuda" and beside <= torch.cuda.device_count():
        return "cpu:gloo,cuda:nccl"
    return "gloo"


class Together:
    """Ranks that are joined by ``torch.distributed``.

    Parameters
    ----------
    torch : module
        The library.
    rank, world : int
        Which of how many this is.
    """

    def __init__(self, torch: Any, rank: int, world: int) -> None:
        self._torch = torch
        self.rank = rank
        self.world = world

    def wrap(self, model: Any) -> Any:
        """Give the model with shared gradients."""
        parallel: Any = self._torch.nn.parallel.DistributedDataParallel

        class Wrapped(parallel):  # type: ignore[misc]
            """Has the state of its model, so that checkpoints fit worlds of any size."""

            def state_dict(self, *arguments: Any, **named: Any) -> Any:
                return self.module.state_dict(*arguments, **named)

            def load_state_dict(self, *arguments: Any, **named: Any) -> Any:
                return self.module.load_state_dict(*arguments, **named)

        return Wrapped(model)

    def checkpoint(self, load: Callable[[], Checkpoint | None]) -> Checkpoint | None:
        """Load in the first rank, and send it to the others: theirs may not see the same disk."""
        found = load() if self.rank == 0 else None
        content = self._from_first(b"" if found is None else _packed(found))
        return found if self.rank == 0 or not content else _unpacked(content)

    def agree(self, metrics: Mapping[str, float], stop: bool) -> tuple[dict[str, float], bool]:
        """Give means over the ranks, and whether any wants to stop."""
        names = sorted(metrics)
        values = [metrics[name] / self.world for name in names] + [float(stop)]
        sums = self._torch.tensor(values, dtype=self._torch.float64)
        self._torch.distributed.all_reduce(sums)
        *means, wanted = sums.tolist()
        return dict(zip(names, means, strict=True)), wanted > 0

    def _from_first(self, content: bytes) -> bytes:
        torch = self._torch
        size = torch.tensor([len(content)])
        torch.distributed.broadcast(size, 0)
        if not int(size):
            return b""
        carried = torch.empty(int(size), dtype=torch.uint8)
        if self.rank == 0:
            carried = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        torch.distributed.broadcast(carried, 0)
        return bytes(carried.numpy())


def _packed(checkpoint: Checkpoint) -> bytes:
    """Write a checkpoint for the other ranks: a line that says what follows, and the parts."""
    head = {
        "epoch": checkpoint.epoch,
        "reference": checkpoint.reference,
        "faults": checkpoint.faults,
        "sizes": {name: len(part) for name, part in checkpoint.parts.items()},
    }
    return b"".join((json.dumps(head).encode(), b"\n", *checkpoint.parts.values()))


def _unpacked(content: bytes) -> Checkpoint:
    line, _, rest = content.partition(b"\n")
    head = json.loads(line)
    parts, at = {}, 0
    for name, size in head["sizes"].items():
        parts[name] = rest[at : at + size]
        at += size
    return Checkpoint(head["epoch"], parts, head["reference"], tuple(head["faults"]))
