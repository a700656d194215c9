"""What a toy costs on a GPU, counted: operations, memory that is touched, and how long it may take.

The kernels' own text is compiled for this processor with a counting type in place of ``double``
(``gpu_count.h``), and fits real toys.  Additions, subtractions and products count as one operation,
divisions and roots as 16, exp as 30 and log as 40, which is what NVIDIA's compiler makes of them.

The *prediction* is no measurement.  It takes the longest way through the fits, from barrier to
barrier by the busiest thread, with a guessed number of ticks for each operation, access and barrier
(named in ``gpu_count.h``), for an H100 at 1.7 GHz that holds as many teams as its registers and its
shared memory allow; and how fast its schedulers could issue all that at best.  The slower counts.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.models import MU
from gpu.emulator import Shape, build

from hepdask_ml.inference.toys import throwing
from hepdask_ml.likelihood import device, kernels, kernels_gpu
from hepdask_ml.likelihood.fit import DEFAULT_STARTS, random_shifts
from hepdask_ml.likelihood.throw import ARRAYS
from hepdask_ml.likelihood.throw import Record as ThrowRecord

if TYPE_CHECKING:
    from benchmarks.models import Prepared

PHASES = ("throw", "rates and Jacobian", "linear algebra", "search")
"""``Phase`` of ``native/algorithm.h``."""

NATIVE = Path(device.__file__).parent / "native"
MULTIPROCESSORS, CLOCK_HZ, SCHEDULERS = 132, 1.7e9, 4
SHARED_BYTES, RESERVED_BYTES = 233472, 1024
"""Of an H100 with SXM, which the prediction is for."""

TICKS_OF_ISSUE = 2.0
"""Of a scheduler for each operation or access of a warp: addresses and loops are as much again."""

HOST_S = 2e-8
"""Predicted for each toy's 26 bytes on their way back, and for its test statistic on the host."""

RESULT_BYTES = 26
_MARK, _LANES = 1 << 40, 32


@dataclass(frozen=True, slots=True)
class Work:
    """Per toy, that is for its two fits with the default search for the lowest minimum.

    Attributes
    ----------
    toys, team : int
        How many were fitted, and the threads that shared a fit where ticks were counted.
    evaluations : float
        Of the likelihood with its derivatives.
    operations : float
        In double precision, weighted; ``by_phase`` divides them.
    hot_bytes, model_bytes : float
        Scratch that an evaluation reads and writes, if every number were touched once in each way;
        and the model's arrays, read once for each evaluation.
    touched_bytes : float
        Every access that the text makes to either, of which a compiler and a warp save many.
    resident, ticks, issue_ticks : float
        Toys that one multiprocessor of an H100 holds at once, and predicted clock ticks: of one
        toy's way, and of a multiprocessor that issues it.
    """

    toys: int
    team: int
    evaluations: float
    operations: float
    by_phase: dict[str, float]
    hot_bytes: float
    model_bytes: float
    touched_bytes: float
    resident: int
    ticks: float
    issue_ticks: float

    @property
    def by_way(self) -> float:
        """Predicted toys per second of one H100 if each toy's way is what takes long."""
        return MULTIPROCESSORS * CLOCK_HZ * self.resident / self.ticks

    @property
    def by_issue(self) -> float:
        """The same if its schedulers are always busy."""
        return MULTIPROCESSORS * CLOCK_HZ / self.issue_ticks

    @property
    def predicted(self) -> float:
        """Predicted toys per second: the slower of both, and then what the host takes."""
        return 1.0 / (1.0 / min(self.by_way, self.by_issue) + HOST_S)


def work(at: Prepared, toys: int, folder: Path) -> Work:
    """Count on so many toys; what is compiled goes to ``folder``."""
    lowered = kernels.lower(at.model)
    alone = _counted(at, toys, 1, 0, folder)
    team = device.team_size(lowered)
    resident = device.RESIDENT_THREADS // team
    blocks = device.RESIDENT_THREADS // (device.BLOCK_ALONE if team == 1 else team)
    _, hot = device._scratch(lowered, team, *rounds(lowered))
    near = min(hot, (SHARED_BYTES // blocks - RESERVED_BYTES) * blocks // (8 * resident))
    # A team's way is the same in each toy but for its length: fewer of them do.
    together = _counted(at, max(1, toys // 10), team, near, folder)
    lanes = _LANES if team == 1 else 1  # lanes of a warp that fit alone issue together
    return Work(
        toys=toys,
        team=team,
        evaluations=alone.marks,
        operations=alone.operations,
        by_phase=alone.by_phase,
        hot_bytes=alone.marks * 16.0 * hot,
        model_bytes=alone.marks * sum(array.nbytes for array in lowered.arrays.values()),
        touched_bytes=8.0 * alone.touched,
        resident=resident,
        ticks=together.path,
        issue_ticks=together.issued * TICKS_OF_ISSUE / SCHEDULERS / lanes,
    )


def rounds(lowered: kernels.Lowered) -> tuple[int, int]:
    """Fits of one round of the search by default, without the random ones, and those."""
    random = len(random_shifts(lowered, DEFAULT_STARTS))
    return DEFAULT_STARTS - random, random


@dataclass(frozen=True, slots=True)
class _Count:
    """Per toy."""

    operations: float
    touched: float
    path: float
    issued: float
    marks: float
    by_phase: dict[str, float]


def _counted(at: Prepared, toys: int, team: int, shared: int, folder: Path) -> _Count:
    text = Path(__file__).with_name("gpu_count.h").read_text(encoding="utf-8")
    library = ctypes.CDLL(str(build(folder, text, (f"-DTEAM={team}", f"-I{NATIVE}"))))
    lowered = kernels.lower(at.model)
    per_team, _ = device._scratch(lowered, team, *rounds(lowered))
    scratch = np.zeros(per_team)
    spent, queue = np.zeros(len(PHASES), np.uint64), np.zeros(1, np.uint64)
    model, arrays = _together(lowered)
    task, held = _task(at, toys)
    options = kernels.Options(kernels.TOLERANCE, kernels.MAX_ITERATIONS)
    room = device._Room(scratch.ctypes.data, per_team, shared, queue.ctypes.data, spent.ctypes.data)
    records = [ctypes.addressof(record) for record in (model, options, task, room)]
    shape = Shape(1, team, 8 * shared, (ctypes.c_uint64 * 4)(*records))
    areas = [ctypes.c_void_p(arrays.ctypes.data), ctypes.c_int64(arrays.nbytes)]
    areas += [ctypes.c_void_p(scratch.ctypes.data), ctypes.c_int64(scratch.nbytes)]
    library.count_from_here(*areas)
    assert not library.emulate(b"hepdask_pairs", ctypes.byref(shape))
    found = (ctypes.c_int64 * 6)()
    library.counted(found)
    del held
    operations, near, far, model_reads, path, issued = (count / toys for count in found)
    phases = [int(ticks) % _MARK / toys for ticks in spent]
    return _Count(
        operations=operations,
        touched=near + far + model_reads,
        path=path,
        issued=issued,
        marks=int(spent[PHASES.index("rates and Jacobian")]) // _MARK / toys,
        by_phase=dict(zip(PHASES, phases, strict=True)),
    )


def _together(lowered: kernels.Lowered) -> tuple[ctypes.Structure, Any]:
    """Give the model's record with its arrays side by side, so that reading them shows."""
    raw = [array.reshape(-1).view(np.uint8) for array in lowered.arrays.values()]
    joined = np.concatenate(raw)
    record = type(lowered.record).from_buffer_copy(lowered.record)
    at = joined.ctypes.data
    for name, part in zip(lowered.arrays, raw, strict=True):
        setattr(record, name, at)
        at += len(part)
    return record, joined


def _task(at: Prepared, toys: int) -> tuple[ctypes.Structure, list[Any]]:
    """Give the task that `kernels_gpu.fit_pairs` gives a device, and what it points to."""
    lowered = kernels.lower(at.model)
    about = throwing(at.model, at.signal, 1)
    steps = np.ascontiguousarray(random_shifts(lowered, DEFAULT_STARTS))
    start = np.ascontiguousarray(at.signal.pars[lowered.kept])
    results, codes = np.empty((3, toys)), np.empty((2, toys), np.int8)
    n_starts, n_shifts = rounds(lowered)
    tables = [getattr(about, name) for name in ARRAYS]
    lengths = (len(about.rate), len(about.mean))
    task = kernels_gpu._Pairs(
        n_toys=toys,
        thrown=ThrowRecord(about.key, *lengths, *(table.ctypes.data for table in tables)),
        start=start.ctypes.data,
        poi=MU,
        n_starts=n_starts,
        n_shifts=n_shifts,
        shifts=steps.ctypes.data,
        threshold=kernels.THRESHOLD,
        reach=kernels.REACH,
        poi_hat=results[0].ctypes.data,
        nll_fixed=results[1].ctypes.data,
        nll_free=results[2].ctypes.data,
        status_fixed=codes[0].ctypes.data,
        status_free=codes[1].ctypes.data,
    )
    return task, [about, steps, start, results, codes, tables]
