"""Plots of searches: Optuna's where it has them, in the style of our own."""

from __future__ import annotations

from collections import defaultdict
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

from hepdask_ml.errors import InputError
from hepdask_ml.hpo import study
from hepdask_ml.ui.plots import one_panel, styled, taken

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hepdask_ml.hpo.summary import SearchResult
    from hepdask_ml.hpo.trials import Objective, Trial

BLUE, RED, QUIET = "#3f7fe0", "#e42536", "0.75"
MOST_IN_CONTOUR = 4
"""Parameters that are drawn against each other: more cannot be read."""

MOST_IN_SLICE = 8
MOST_NAMED = 40
"""Segments whose names fit beside an axis."""

_LONGEST_NAME = 24


def figure(result: SearchResult, kind: str = "history", segment: str | None = None) -> Figure:
    """Draw a search.

    Parameters
    ----------
    result : SearchResult
        The search.
    kind : {"history", "parallel", "contour", "slice", "importances", "pareto", "curves", \
            "segments"}
        What to draw: losses by trial; trials as lines through all parameters; losses over pairs of
        parameters, and against each of them; how much each parameter matters; the Pareto front;
        losses by epoch; the best loss of each segment.  Where there are several objectives, all
        but ``"pareto"`` show the first.
    segment : str, optional
        Which segment; needed where there are several, but for ``"segments"``.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    InputError
        If there is no such plot or nothing to draw, or optuna is not installed.
    """
    if kind not in _KINDS:
        raise InputError(f'"{kind}" is no plot of a search: choose from {", ".join(_KINDS)}')
    if kind == "segments":
        return _segments(result)
    name = study.segment_of(result, segment)
    if not any(trial.state == "complete" and trial.segment == name for trial in result.trials):
        of = f" of segment {name}" if name else ""
        raise InputError(f"no trial{of} is complete: there is nothing to draw yet")
    return _KINDS[kind](result, name)


def kinds(result: SearchResult) -> tuple[str, ...]:
    """Say which plots of a search there can be, but for those with nothing to show.

    Parameters
    ----------
    result : SearchResult
        The search.

    Returns
    -------
    tuple of str
        For `figure`.
    """
    free = max((len(space.free) for space in result.spaces.values() if space), default=2)
    # The most telling first.
    every = {
        "segments": len(result.segments) > 1 and len(result.objectives) == 1,
        "pareto": len(result.objectives) in (2, 3),
        "history": True,
        "curves": any(trial.epochs > 1 for trial in result.trials),
        "importances": free > 1,
        "slice": True,
        "parallel": free > 1,
        "contour": free > 1,
    }
    return tuple(kind for kind, there in every.items() if there)


def _history(result: SearchResult, segment: str) -> Figure:
    made, axes = _drawn(result, segment, study.plots().plot_optimization_history)
    panel, first = axes[0], result.objectives[0]
    mine = [trial for trial in result.trials if trial.segment == segment]
    for dots in panel.collections if any(not trial.feasible for trial in mine) else ():
        if str(dots.get_label()).startswith("_"):
            dots.set_label("constraint violated")
    handles, labels = panel.get_legend_handles_labels()
    texts = ["best so far" if label == "Best Value" else label for label in labels]
    panel.legend(handles, texts, loc=_corner(first), fontsize="small")
    panel.set(xlabel="trial")
    panel.locator_params(axis="x", integer=True)
    return made


def _parallel(result: SearchResult, segment: str) -> Figure:
    made, axes = _drawn(result, segment, study.plots().plot_parallel_coordinate)
    labels = [label.get_text() for label in axes[0].get_xticklabels()]
    labels[0] = _short(result.objectives[0].name)
    axes[0].set_xticks(range(len(labels)), labels, rotation=-20, ha="left")
    axes[0].grid(visible=False)
    made.set_size_inches(max(8.0, 1.6 * len(labels)), 6.0)
    for each in made.axes:
        each.minorticks_off()
        each.tick_params(labelsize="x-small", length=3)
    axes[0].tick_params(axis="x", labelsize="small", length=0)
    return made


def _contour(result: SearchResult, segment: str) -> Figure:
    names = _telling(result, segment, MOST_IN_CONTOUR)
    if len(names) < 2:
        raise InputError("a contour needs two parameters that vary: draw a slice")
    made, axes = _drawn(result, segment, study.plots().plot_contour, params=names)
    made.set_size_inches(*((8.0, 6.0) if len(names) == 2 else [2.6 * len(names) + 1.0] * 2))
    for each in axes:
        each.grid(visible=False)
        each.tick_params(labelsize="x-small", length=3)
    return made


def _slice(result: SearchResult, segment: str) -> Figure:
    names = _telling(result, segment, MOST_IN_SLICE)
    made, _ = _drawn(result, segment, study.plots().plot_slice, params=names)
    made.set_size_inches(max(6.0, 2.6 * len(names) + 1.0), 4.5)
    return made


def _importances(result: SearchResult, segment: str) -> Figure:
    shares = study.importances(result, segment)
    with styled():
        made, axes = one_panel()
        names = [_short(name) for name in reversed(shares)]
        bars = axes.barh(names, list(reversed(shares.values())), color=BLUE, height=0.7)
        axes.bar_label(bars, fmt="%.2f", padding=4, fontsize="small")
        most = max(shares.values(), default=1.0)
        axes.set(
            xlabel=f"importance for {_short(result.objectives[0].name)}", xlim=(0, 1.12 * most)
        )
        axes.tick_params(axis="y", which="both", length=0)
        made.set_size_inches(8.0, max(2.5, 0.55 * len(names) + 1.2))
        _title(axes, segment)
        return made


def _pareto(result: SearchResult, segment: str) -> Figure:
    if len(result.objectives) not in (2, 3):
        raise InputError(
            f"a Pareto front of {len(result.objectives)} objectives cannot be drawn: two or three "
            "can"
        )
    names = [_short(each.name) for each in result.objectives]
    drawn = study.plots().plot_pareto_front
    with study.quiet():
        made, axes = taken(lambda: drawn(study.study(result, segment), target_names=names))
    _settle(made, axes, segment)
    made.set_size_inches(8.0, 6.0)
    return made


def _curves(result: SearchResult, segment: str) -> Figure:
    aim = result.objectives[0]
    trials = [trial for trial in result.trials if trial.segment == segment]
    lines = [(trial, _line(trial, aim)) for trial in trials]
    if not any(len(line) > 1 for _, line in lines):
        raise InputError(
            f"no trial has reported {aim.name} in several epochs: there are no curves to draw"
        )
    best = _best(result, segment)
    with styled():
        made, axes = one_panel()
        label = {"complete": "complete", "pruned": "pruned", "failed": "failed"}
        for trial, line in lines:
            if trial is best or not line:
                continue
            look = {"pruned": "--", "failed": ":"}.get(trial.state, "-")
            text = label.pop(trial.state, None)
            axes.plot(*zip(*line, strict=True), look, color=QUIET, lw=1, label=text)
            axes.plot(*line[-1], ".", color="0.5", ms=4)
        if best is not None:
            axes.plot(
                *zip(*_line(best, aim), strict=True),
                color=BLUE, lw=2.5, label=f"best, trial {best.number}",
            )  # fmt: skip
        values = [value for _, line in lines for _, value in line]
        if min(values) > 0.0 and max(values) > 100.0 * min(values):
            axes.set_yscale("log")
        axes.set(xlabel="epoch", ylabel=_short(aim.name))
        axes.legend(fontsize="small", loc=_corner(aim))
        _title(axes, segment)
        return made


def _segments(result: SearchResult) -> Figure:
    bests, aim = result.bests, result.objectives[0]
    if not bests:
        raise InputError("no segment has a best trial: there is nothing to draw yet")
    values: dict[str, list[float]] = defaultdict(list)
    for trial in result.trials:
        if trial.state == "complete" and trial.feasible:
            values[trial.segment].append(trial.values[aim.name])
    with styled():
        made, axes = one_panel()
        named = len(result.segments) <= MOST_NAMED
        for place, name in enumerate(result.segments):
            mine = values[name]
            if mine:
                _dots(axes, [place] * len(mine), mine, named, color=QUIET, ms=3)
                _dots(axes, [place], [bests[name].values[aim.name]], named, color=BLUE, ms=5)
        every = [value for mine in values.values() for value in mine]
        log = min(every) > 0.0 and max(every) > 100.0 * min(every)
        if named:
            made.set_size_inches(8.0, max(3.0, 0.3 * len(result.segments) + 1.5))
            axes.set_yticks(
                range(len(result.segments)), [_short(n) or "-" for n in result.segments]
            )
            axes.tick_params(axis="y", which="both", length=0, labelsize="small")
            axes.set(xlabel=_short(aim.name), ylim=(len(result.segments) - 0.5, -0.5))
            axes.set_xscale("log" if log else "linear")
        else:
            made.set_size_inches(10.0, 5.0)
            axes.set(xlabel="segment", ylabel=_short(aim.name))
            axes.set_yscale("log" if log else "linear")
        missing = len(result.segments) - len(bests)
        lacking = f", {missing} without one" if missing else ""
        title = f"best trial of {len(result.segments):,} segments{lacking} (grey: the others)"
        axes.set_title(title, loc="left", fontsize="small")
        return made


_KINDS: dict[str, Callable[[SearchResult, str], Figure]] = {
    "history": _history,
    "parallel": _parallel,
    "contour": _contour,
    "slice": _slice,
    "importances": _importances,
    "pareto": _pareto,
    "curves": _curves,
    "segments": lambda result, _: _segments(result),
}


def _drawn(
    result: SearchResult, segment: str, draw: Callable[..., Any], **options: Any
) -> tuple[Figure, list[Axes]]:
    """Draw with a function of Optuna."""
    several = len(result.objectives) > 1
    first = (lambda trial: trial.values[0]) if several else None
    with study.quiet():
        made, axes = taken(
            lambda: draw(
                study.study(result, segment),
                target=first,
                target_name=_short(result.objectives[0].name),
                **options,
            )
        )
    made.set_size_inches(8.0, 6.0)
    _settle(made, axes, segment)
    return made, axes


def _settle(made: Figure, axes: list[Axes], segment: str) -> None:
    """Bring what Optuna has drawn to our style: white, its title gone."""
    made.set_facecolor("white")
    made.suptitle("")
    for each in axes:
        each.set_facecolor("white")
        each.set_title("")
        each.grid(color="0.92")
        each.minorticks_off()
        for spine in each.spines.values():
            spine.set_color("0.3")
    if segment:
        made.suptitle(_short(segment), fontsize="small")


def _telling(result: SearchResult, segment: str, most: int) -> list[str]:
    """Name the parameters that matter most, in the order of the space."""
    made = study.study(result, segment)
    names = list(dict.fromkeys(name for trial in made.trials for name in trial.params))
    if len(names) <= most:
        return names
    try:
        ranked = [*study.importances(result, segment), *names]
    except InputError:  # too few trials to tell
        ranked = names
    chosen = list(dict.fromkeys(ranked))[:most]
    return [name for name in names if name in chosen]


def _best(result: SearchResult, segment: str) -> Trial | None:
    return result.bests.get(segment) if len(result.objectives) == 1 else None


def _line(trial: Trial, aim: Objective) -> list[tuple[int, float]]:
    """Give the epochs of a trial with their finite losses."""
    values = [(row.epoch + 1, row.metrics.get(aim.name)) for row in trial.rows]
    return [(epoch, value) for epoch, value in values if value is not None and isfinite(value)]


def _dots(axes: Axes, places: list[int], values: list[float], named: bool, **look: Any) -> None:
    across, up = (values, places) if named else (places, values)
    axes.plot(across, up, "o", mec="none", **look)


def _corner(aim: Objective) -> Literal["lower right", "upper right"]:
    """Give the corner where few trials end."""
    return "lower right" if aim.maximise else "upper right"


def _title(axes: Axes, segment: str) -> None:
    if segment:
        axes.set_title(_short(segment), loc="left", fontsize="small")


def _short(name: str) -> str:
    """Give a name as text that fits, and that matplotlib does not read as a formula."""
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return name.replace("$", r"\$")
