"""Turns what was measured into tables, for the terminal and for the documentation."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.models import CASES
from benchmarks.reading import others
from benchmarks.reading_forms import A, B
from rich import box
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from benchmarks.footprint import Quantity
    from benchmarks.minima import Misses
    from benchmarks.peers import Peer
    from benchmarks.pool_overhead import Measured
    from benchmarks.reading import Growth, Readings, Training
    from benchmarks.search_overhead import Asking, Waited
    from benchmarks.search_quality import Compared
    from benchmarks.simulation import Outcome
    from benchmarks.site_share import Share
    from benchmarks.speed import Speed
    from benchmarks.toys_needed import Need

NOTHING = "-"
PEERS = {
    "minuit": ("pyhf minuit", "pyhf, numpy + minuit, one process"),
    "jax": ("pyhf jax", "pyhf, jax + scipy, one process on each core"),
    "nextstat": ("NextStat", "NextStat, all threads, auxiliary data not redrawn"),
}


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True, slots=True)
class Results:
    """All that one run measured; what was not asked for is empty."""

    machine: dict[str, Any]
    speed: dict[str, Speed] = field(default_factory=dict)
    peers: dict[str, dict[str, Peer]] = field(default_factory=dict)
    minima: dict[str, Misses] = field(default_factory=dict)
    footprint: list[Quantity] = field(default_factory=list)
    toys: dict[str, Need] = field(default_factory=dict)
    pool: list[Measured] = field(default_factory=list)
    simulation: list[Outcome] = field(default_factory=list)
    variants: list[Outcome] = field(default_factory=list)
    sites: list[Share] = field(default_factory=list)
    asking: list[Asking] = field(default_factory=list)
    search: list[Waited] = field(default_factory=list)
    quality: list[Compared] = field(default_factory=list)
    checkpoint: list[Measured] = field(default_factory=list)
    reading: list[Readings] = field(default_factory=list)


def tables(results: Results) -> list[Table]:
    """Tables of everything that was measured."""
    made = []
    if results.speed or results.peers:
        made.append(_speed_table(results))
    if results.minima or results.peers:
        made.append(_minima_table(results))
    if results.footprint:
        made.append(_footprint_table(results.footprint))
    if results.toys:
        made.append(_toys_table(results.toys))
    if results.pool:
        made.append(_costs_table("What the pool costs", results.pool))
    if results.simulation:
        made.append(_simulation_table("Where the time of the workers goes", results.simulation))
        made.append(_simulation_table("What moves it, fewer workers", results.variants))
    if results.sites:
        made.append(_sites_table(results.sites))
    made += _tables_of_searches(results)
    return made + [table for found in results.reading for table in _reading_tables(found)]


def _tables_of_searches(results: Results) -> list[Table]:
    made = _quality_tables(results.quality)
    if results.asking:
        made.append(_asking_table(results.asking))
    if results.search:
        made.append(_search_table(results.search))
    if results.checkpoint:
        made.append(_costs_table("What a checkpoint costs", results.checkpoint))
    return made


def _speed_table(results: Results) -> Table:
    header = [
        "model", "parameters / bins", "one core", "all cores", "one start: one core", "all cores",
        "one core / its share", "unconverged", *(short for short, _ in PEERS.values()),
        "ours / minuit", "ours / jax", "aim", "ours / NextStat", "aim",
    ]  # fmt: skip
    chosen = [case for case in CASES if case.name in {*results.speed, *results.peers}]
    rows = []
    for case in chosen:
        ours, theirs = results.speed.get(case.name), results.peers.get(case.name, {})
        reached = {
            key: peer.toys_per_s if (peer := theirs.get(short)) else None
            for key, (short, _) in PEERS.items()
        }
        rate = ours.all_cores.toys_per_s if ours else None
        rows.append(
            [
                case.name,
                *_own_columns(ours),
                *map(_number, reached.values()),
                _ratio(rate, reached["minuit"]),
                _ratio(rate, reached["jax"]),
                _number(case.aim.jax),
                _ratio(rate, reached["nextstat"]),
                _number(case.aim.nextstat),
            ]
        )
    return Table("Toys per second: thrown and fitted twice", header, rows)


def _own_columns(ours: Speed | None) -> list[str]:
    if ours is None:
        return [NOTHING] * 7
    rates = (ours.one_core, ours.all_cores, ours.one_start_one_core, ours.one_start_all_cores)
    return [
        f"{ours.parameters} / {ours.bins}",
        *(_number(rate.toys_per_s) for rate in rates),
        f"{ours.scaling:.2f}",
        _share(ours.all_cores.unconverged),
    ]


def _minima_table(results: Results) -> Table:
    rows = []
    for name, found in results.minima.items():
        rows.append([f"{name}: default starts", str(found.toys), "fixed", _share(found.fixed), ""])
        rows.append([f"{name}: default starts", str(found.toys), "free", _share(found.free), ""])
        one = (("fixed", found.one_start_fixed), ("free", found.one_start_free))
        rows += [[f"{name}: one start", str(found.toys), kind, _share(x), ""] for kind, x in one]
    for name, theirs in results.peers.items():
        for tool, peer in theirs.items():
            if peer.toys_per_s is None:
                rows.append([f"{name}: {tool}", NOTHING, NOTHING, peer.note, NOTHING])
                continue
            fits = "free" if tool == "NextStat" else "both"
            shares = [_share(peer.higher_than_ours), _share(peer.lower_than_ours)]
            rows.append([f"{name}: {tool}", str(peer.compared), fits, *shares])
    header = ["who", "compared", "fit", "misses the lowest minimum", "lower than ours"]
    return Table("Minima more than 1e-3 in -2 ln L apart", header, rows)


def _footprint_table(quantities: list[Quantity]) -> Table:
    rows = [
        [what.name, f"{_number(what.value)} {what.unit}", _number(what.aim)] for what in quantities
    ]
    return Table("Start-up, memory, summary", ["what", "measured", "aim"], rows)


def _toys_table(needs: dict[str, Need]) -> Table:
    rows = [
        [
            name,
            f"{100.0 * need.precision:g} %",
            str(need.seeds),
            _number(need.adaptive),
            _number(need.chosen),
            _ratio(need.chosen, need.adaptive),
            _number(need.even),
            _ratio(need.even, need.adaptive),
            "5",
        ]
        for name, need in needs.items()
    ]
    header = ["model", "precision", "seeds", "adaptive", "11 chosen points", "ratio",
              "20 even steps", "ratio", "aim"]  # fmt: skip
    return Table("Toys for a precision", header, rows)


def _costs_table(title: str, found: list[Measured]) -> Table:
    rows = [
        [
            what.name,
            f"{_number(what.median)} {what.unit}",
            f"{_number(min(what.values))} to {_number(max(what.values))}",
            what.aim or NOTHING,
        ]
        for what in found
    ]
    return Table(title, ["what", "median", "lowest to highest", "aim"], rows)


def _simulation_table(title: str, outcomes: list[Outcome]) -> Table:
    kinds = list(outcomes[0].shares)
    header = [
        "who", *kinds, "makespan (h)", "messages/s: mean", "most", "tasks over 3 deaths",
        "pool: us per message",
    ]  # fmt: skip
    rows = [
        [
            what.name,
            *(f"{100.0 * what.shares[kind]:.2f} %" for kind in kinds),
            f"{what.makespan_s / 3600.0:.2f}" if what.makespan_s == what.makespan_s else "not done",
            _number(what.per_second),
            _number(what.most_per_second),
            str(what.over_deaths),
            _number(what.exchange_us) if what.exchange_us else NOTHING,
        ]
        for what in outcomes
    ]
    return Table(title, header, rows)


def _ratio(ours: float | None, theirs: float | None) -> str:
    return _number(ours / theirs) if ours and theirs else NOTHING


def _sites_table(shares: list[Share]) -> Table:
    first = shares[0]
    rows = [
        [
            share.name,
            _number(share.done),
            f"{share.took_s:.0f}" if share.done == share.toys else "not done",
            str(len(share.jobs)),
            f"{share.allocated_s:.0f}",
            _share(share.useful),
            _share(share.after_start),
            _ratio(first.after_start, share.after_start) if share is not first else NOTHING,
            *(_share(share.part(part) / share.allocated_s) for part in ("starting", "between")),
            _share(share.part("working") / share.allocated_s - share.useful),
            _share(share.part("ending") / share.allocated_s),
        ]
        for share in shares
    ]
    header = [
        "who", "toys that came", "result after (s)", "jobs", "allocated (s)", "useful",
        "after start-up", "first / this", "starting", "between blocks", "worked in vain", "ending",
    ]  # fmt: skip
    return Table("Where the allocated time of jobs of one minute goes", header, rows)


def _quality_tables(found: list[Compared]) -> list[Table]:
    """Give tables by what is compared with what: with the library, with rounds, with no restart."""
    alone = [each for each in found if each.second.startswith("library") and "ours" in each.first]
    restarted = [each for each in found if each.first.endswith("restarts")]
    waited = [each for each in found if each not in alone and each not in restarted]
    made = (
        ("Regret: ours, and the same library alone", ("ours", "alone"), alone),
        ("Regret: async, and what it is compared with", ("async", "other"), waited),
        ("Regret: restarts at every tenth trial, and none", ("restarts", "none"), restarted),
    )
    return [_quality_table(title, names, chosen) for title, names, chosen in made if chosen]


def _quality_table(title: str, names: tuple[str, str], found: list[Compared]) -> Table:
    header = ["function", "optimiser", "who", "seeds", *names, "ratio", "95 %", "p", "equal"]
    rows = [
        [
            each.problem,
            each.optimiser,
            _who(each),
            str(each.seeds),
            _quartiles(each.regret),
            _quartiles(each.other),
            f"{each.ratio[1]:.2g}",
            f"{each.ratio[0]:.2g} to {each.ratio[2]:.2g}",
            f"{each.p:.2g}",
            str(each.same),
        ]
        for each in found
    ]
    return Table(title, header, rows)


def _who(each: Compared) -> str:
    """Say what the header of the table does not."""
    if each.second.startswith("library") and "ours" in each.first:
        return each.first.removeprefix("ours, ")
    if each.first.endswith("restarts"):
        return each.first.removesuffix(", restarts")
    return f"{each.first}; {each.second}"


def _quartiles(values: tuple[float, float, float]) -> str:
    low, middle, high = values
    return f"{middle:.2g} [{low:.2g}, {high:.2g}]"


def _asking_table(found: list[Asking]) -> Table:
    header = ["optimiser", *(f"{told} told: 1 / 4 asked (ms)" for told in found[0].told)]
    rows = [
        [
            each.optimiser,
            *(
                f"{_number(1e3 * one)} / {_number(1e3 * four)}"
                for one, four in zip(each.one_s, each.four_s, strict=True)
            ),
        ]
        for each in found
    ]
    return Table("What it costs to propose", header, rows)


def _search_table(found: list[Waited]) -> Table:
    header = ["who", "trials", "lengths", "wall (s)", "idle", "driver's CPU per trial (ms)",
              "regret"]  # fmt: skip
    rows = [
        [
            each.name,
            f"{each.load.trials} of {each.load.seconds:g} s",
            "spread" if each.spread else "equal",
            f"{each.wall_s:.1f}",
            f"{100.0 * each.idle:.2f} %",
            f"{1e3 * each.driver_s:.1f}",
            _number(each.regret),
        ]
        for each in found
    ]
    return Table("Searches with four workers", header, rows)


def _reading_tables(found: Readings) -> list[Table]:
    header = [
        "file", "workers", "form", "k events/s", "MB/s", "x (a)", "x (b)",
        "CPU s for 1 M events", "CPU x (a)", "CPU x (b)",
    ]  # fmt: skip
    rows = []
    for rate in found.rates:
        took = median(rate.seconds)
        peers = others(found.rates, rate)
        times = [rate.times(peers.get(form)) for form in (A, B)]
        used = _number(median(rate.processor) / rate.events * 1e6)
        by_processor = [used, *(f"{each[1]:.2f}" if each else NOTHING for each in times)]
        rows.append(
            [
                rate.file,
                rate.workers,
                rate.form,
                _number(rate.events / took / 1e3),
                _number(rate.megabytes / took),
                *(f"{each[0]:.2f}" if each else NOTHING for each in times),
                # Other processes have accounts of their own.
                *([NOTHING] * 3 if "Dask" in rate.workers else by_processor),
            ]
        )
    made = [Table("From a file to batches of torch tensors", header, rows)]
    made += [_growth_table(found.growth)] if found.growth else []
    return made + ([_training_table(found.training)] if found.training else [])


def _growth_table(found: list[Growth]) -> Table:
    n = found[0].events
    header = ["read so far", f"{n:,} events (MB)", "four times as many (MB)", "more (MB)"]
    rows = [
        [each.way, f"{each.short:.0f}", f"{each.long:.0f}", f"{each.long - each.short:.0f}"]
        for each in found
    ]
    return Table("Peak memory of a process", header, rows)


def _training_table(found: list[Training]) -> Table:
    header = [
        "file", "batch", "steps", "k events/s", "waited", "longest (ms)", "first batch after (s)",
    ]  # fmt: skip
    rows = [
        [
            each.file,
            str(each.batch),
            str(each.steps),
            _number(each.events_per_s / 1e3),
            f"{100.0 * each.waited:.2f} %",
            f"{1e3 * each.longest_s:.1f}",
            f"{each.first_s:.1f}",
        ]
        for each in found
    ]
    return Table("A training on one core, read by one thread", header, rows)


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{100.0 * value:.3g} %"


def _number(value: float | None) -> str:
    """Three digits: 12,300 or 1.23."""
    if value is None:
        return NOTHING
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100.0 else f"{value:.3g}"


def rich_table(table: Table) -> RichTable:
    """Give a table for the terminal."""
    made = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(table.header):
        made.add_column(name, justify="right" if i else "left")
    for row in table.rows:
        made.add_row(*row)
    return made


def markdown(results: Results) -> str:
    """Give all tables and the machine as Markdown."""
    text = [f"Measured on {about(results.machine)}.\n"]
    for table in tables(results):
        lines = [table.header, ["---", *["--:"] * (len(table.header) - 1)], *table.rows]
        text.append(f"**{table.title}**\n")
        text.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    return "\n".join(text)


def about(machine: dict[str, Any]) -> str:
    """Name the machine, what ran on it, and how busy it was."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = " to ".join(f"{machine[when][0]:.1f}" for when in ("load_before", "load_after"))
    return (
        f"{machine['cores']} cores of {machine['processor']} ({machine['instructions']}), "
        f"{versions}, commit {machine['commit']}, load {load}"
    )
