"""Runs the other tools, each in a process of its own, on the toys that ours fits.

Nothing of them is imported here; the scripts ``peer_*.py`` stand alone and print JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.minima import MISSED
from benchmarks.models import MU, prepared

from hepdask_ml.inference.toys import throw
from hepdask_ml.likelihood.fit import available_processors, fit, fit_pair
from hepdask_ml.likelihood.rates import twice_nll

if TYPE_CHECKING:
    from benchmarks.models import Case, Prepared

HERE = Path(__file__).parent
TOYS = 1000
"""Toys that the peers work on; faster ones begin again."""

PATIENCE_S = 240.0
"""Beyond its budget, until a peer is stopped: one toy can take half a minute, and so can jax's
compilation."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A peer: its script, and the modules that it needs."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """What a peer reached; shares are of the fits compared, at another likelihood by > `MISSED`."""

    toys_per_s: float | None
    toys: int = 0
    seconds: float = 0.0
    failed: int = 0
    compared: int = 0
    higher_than_ours: float | None = None
    lower_than_ours: float | None = None
    note: str = ""


TOOLS = (
    Tool("pyhf minuit", ("peer_pyhf.py", "minuit", "1"), ("pyhf", "iminuit")),
    Tool("pyhf jax", ("peer_pyhf.py", "jax", str(available_processors())), ("pyhf", "jax")),
    Tool("NextStat", ("peer_nextstat.py",), ("nextstat",)),
)


def peers(case: Case, budget_s: float) -> dict[str, Peer]:
    """Let every installed peer work on a case for about ``budget_s`` each."""
    at = prepared(case)
    data = throw(at.model, at.signal, seed=1, start=0, stop=TOYS)
    with tempfile.TemporaryDirectory() as folder:
        workspace, toys = Path(folder, "workspace.json"), Path(folder, "toys.npz")
        workspace.write_text(json.dumps(case.workspace()))
        np.savez(toys, data=data)
        return {tool.name: _peer(tool, at, data, [workspace, toys], budget_s) for tool in TOOLS}


def _peer(tool: Tool, at: Prepared, data: Any, files: list[Path], budget_s: float) -> Peer:
    absent = [module for module in tool.needs if find_spec(module) is None]
    if absent:
        return Peer(None, note=f"{', '.join(absent)} not installed")
    script, *options = tool.command
    command = [str(HERE / script), *map(str, files), str(MU), str(budget_s), *options]
    answer = _answer([sys.executable, *command], budget_s + PATIENCE_S)
    if isinstance(answer, str):
        return Peer(None, note=answer)
    higher, lower = _compared(at, data, answer)
    return Peer(
        toys_per_s=answer["toys_per_s"],
        toys=answer["toys"],
        seconds=answer["seconds"],
        failed=answer["failed"],
        compared=len(higher),
        higher_than_ours=float(higher.mean()) if len(higher) else None,
        lower_than_ours=float(lower.mean()) if len(lower) else None,
        note=answer["note"],
    )


def _answer(command: list[str], timeout_s: float) -> dict[str, Any] | str:
    """Give a script's JSON, or a sentence that says why there is none."""
    # One thread for each process of a peer that runs one on each core; NextStat ignores them.
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    with subprocess.Popen(
        command,
        env={**os.environ, **one, "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"no answer in {timeout_s:.0f} s"
    if process.returncode:
        return (err.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
    answer: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return answer


def _compared(at: Prepared, data: Any, answer: dict[str, Any]) -> tuple[Any, Any]:
    """(n,) bool arrays: the peer's minima above ours, and below."""
    if "pars" in answer:
        # Main data of the peer's own toys, auxiliary data as observed, and the free fits of them.
        toys = np.tile(at.model.data, (len(answer["main"]), 1))
        toys[:, : at.model.n_main] = answer["main"]
        place = [answer["names"].index(name) for name in at.model.par_names]
        theirs = twice_nll(at.model, np.array(answer["pars"])[:, place], toys)
        ours = fit(at.model, toys).twice_nll
    else:
        pairs = fit_pair(at.model, data[answer["index"]], MU, init=at.signal.pars, threads=None)
        ours = np.concatenate([pairs.twice_nll_fixed, pairs.twice_nll_free])
        theirs = np.array(answer["fixed"] + answer["free"])
    return theirs > ours + MISSED, theirs < ours - MISSED
