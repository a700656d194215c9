"""Tables of what was measured on a GPU."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_work import PHASES, RESULT_BYTES
from benchmarks.models import GPU_CASES
from benchmarks.report import NOTHING, Table, _number, _ratio, _share

if TYPE_CHECKING:
    from benchmarks.gpu_ceilings import Ceilings
    from benchmarks.gpu_speed import Setting, Speed
    from benchmarks.gpu_work import Work

LARGE_MODEL, LARGE_RATIO = 50, 5.0
"""Above so many parameters a GPU is meant to be so many times faster than 16 cores."""

L2_BYTES = 50 << 20
"""Of an H100."""


@dataclass(frozen=True, slots=True)
class Results:
    """All that one run measured, and what it could not."""

    machine: dict[str, Any]
    ceilings: Ceilings
    speed: dict[str, Speed] = field(default_factory=dict)
    work: dict[str, Work] = field(default_factory=dict)
    sweep: dict[str, list[Setting]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


def tables(results: Results) -> list[Table]:
    """Tables of everything that was measured."""
    made = [
        _rates(results),
        _agreement(results),
        _split(results),
        *counted_tables(results.work),
        _floors(results),
        _ceilings(results),
        _geometry(results),
    ]
    return made + ([_sweep(results)] if results.sweep else [])


def _rates(results: Results) -> Table:
    aims = {case.name: case.aim.gpu for case in GPU_CASES}
    rows = [
        [
            name,
            f"{at.parameters} / {at.bins}",
            _number(at.gpu.toys_per_s),
            _number(aims.get(name)),
            _number(results.work[name].predicted),
            _number(at.cores.toys_per_s),
            _number(at.one_core.toys_per_s),
            _ratio(at.gpu.toys_per_s, at.cores.toys_per_s),
            _number(LARGE_RATIO if at.parameters > LARGE_MODEL else None),
            _ratio(at.gpu.toys_per_s, at.one_core.toys_per_s),
            f"{at.start_s:.1f}",
        ]
        for name, at in results.speed.items()
    ]
    cores = f"{results.machine['cores']} cores"
    header = [
        "model", "parameters / bins", "GPU", "aim", "predicted, H100", cores, "one core",
        f"GPU / {cores}", "aim", "GPU / one core", "first call (s)",
    ]  # fmt: skip
    return Table("Toys per second: thrown and fitted twice", header, rows)


def _agreement(results: Results) -> Table:
    rows = [
        [
            name,
            f"{at.agreement.compared:,}",
            f"{at.agreement.converged:,}",
            str(at.agreement.statuses_differ),
            f"{at.agreement.largest_dq:.1e}",
            "yes" if at.agreement.holds else "NO",
        ]
        for name, at in results.speed.items()
    ]
    header = ["model", "toys compared", "converged", "statuses differ", "largest |dq|", "agree"]
    return Table("The same toys on both engines", header, rows)


def _split(results: Results) -> Table:
    rows = [
        [
            name,
            _number(at.split.toys_per_s),
            *(_share(at.split.on_device * at.split.phases[phase]) for phase in PHASES),
            _share(1.0 - at.split.on_device),
            f"{at.split.profiled:.2f}",
        ]
        for name, at in results.speed.items()
    ]
    header = [
        "model", "toys/s on the device", *PHASES, "transfers, host",
        "time with the clock",
    ]  # fmt: skip
    return Table("Where the GPU's time goes", header, rows)


def counted_tables(counted: dict[str, Work]) -> list[Table]:
    """Tables of what needs no GPU: what a toy costs, and what that lets expect."""
    costs = [
        [
            name,
            f"{work.evaluations:.1f}",
            _number(work.operations),
            *(_share(work.by_phase[phase] / work.operations) for phase in PHASES),
            _number(work.hot_bytes / 1e3),
            _number(work.touched_bytes / 1e3),
            _number(work.model_bytes / 1e3),
        ]
        for name, work in counted.items()
    ]
    cost_header = [
        "model", "evaluations", "operations", *PHASES, "scratch once (kB)", "all accesses (kB)",
        "model (kB)",
    ]  # fmt: skip
    expected = [
        [
            name,
            str(work.team),
            str(work.resident),
            _number(work.ticks / 1e3),
            _number(work.by_way),
            _number(work.by_issue),
            _number(work.predicted),
        ]
        for name, work in counted.items()
    ]
    expected_header = [
        "model", "threads of a team", "teams of a multiprocessor", "way of a toy (1000 ticks)",
        "toys/s by that", "by the schedulers", "predicted toys/s",
    ]  # fmt: skip
    return [
        Table("What one toy costs, counted", cost_header, costs),
        Table("Predicted for one H100, not measured", expected_header, expected),
    ]


def _floors(results: Results) -> Table:
    best, rows = results.ceilings, []
    for name, at in results.speed.items():
        work, shape, rate = results.work[name], at.geometry, at.split.toys_per_s
        near = shape.shared_bytes / shape.hot_bytes
        beyond = (1.0 - near) * work.hot_bytes
        spills = shape.resident_teams * (shape.scratch_bytes - shape.shared_bytes) > L2_BYTES
        rows.append(
            [
                name,
                f"{rate * work.operations / 1e12:.3g}",
                _share(rate * work.operations / best.flops),
                _share(rate * near * work.hot_bytes / best.shared),
                _share(rate * work.touched_bytes / best.shared),
                _share(rate * (work.model_bytes + beyond) / best.l2),
                _share(rate * (RESULT_BYTES + (beyond if spills else 0.0)) / best.memory),
            ]
        )
    header = [
        "model", "TFLOP/s", "of the ceiling", "shared memory, at least", "at most",
        "L2, at least", "memory, at least",
    ]  # fmt: skip
    return Table("Reached, as shares of the ceilings", header, rows)


def _ceilings(results: Results) -> Table:
    best = results.ceilings
    rows = [
        ["double precision, fused", f"{best.flops / 1e12:.3g} TFLOP/s"],
        *(
            [what, f"{rate / 1e12:.3g} TB/s"]
            for what, rate in (
                ("shared memory, read", best.shared),
                ("L2 cache, read", best.l2),
                ("memory, copied", best.memory),
            )
        ),
    ]
    return Table("Ceilings of this card", ["what", "measured"], rows)


def _geometry(results: Results) -> Table:
    rows = [
        [name, str(at.kept), *(f"{number:,}" for number in asdict(at.geometry).values())]
        for name, at in results.speed.items()
    ]
    header = [
        "model", "kept parameters", "threads of a team", "resident teams", "scratch (B)",
        "of it shared", "of it hot", "registers", "local memory (B)",
    ]  # fmt: skip
    return Table("How the device is divided", header, rows)


def _sweep(results: Results) -> Table:
    rows = []
    for name, settings in results.sweep.items():
        best = max((setting.toys_per_s or 0.0 for setting in settings), default=0.0)
        usual = results.speed[name]
        rows.append([name, "as ruled", NOTHING, _number(usual.split.toys_per_s), ""])
        for setting in settings:
            mark = "best" if setting.toys_per_s and setting.toys_per_s == best else setting.note
            each = [str(setting.team), str(setting.resident), _number(setting.toys_per_s), mark]
            rows.append([name, *each])
    header = ["model", "threads of a team", "threads that share", "toys/s on the device", ""]
    return Table("Other ways to divide the device", header, rows)


def about(machine: dict[str, Any]) -> str:
    """Name the machine and what ran on it."""
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def markdown(results: Results) -> str:
    """Give all tables and the machine as Markdown."""
    text = [f"Measured on: {about(results.machine)}.\n"]
    for table in tables(results):
        lines = [table.header, ["---", *["--:"] * (len(table.header) - 1)], *table.rows]
        text.append(f"**{table.title}**\n")
        text.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    return "\n".join([*text, *results.failed])
