"""Watching a campaign: in a terminal, in a notebook, or from another process through its ledger.

A *watcher* is what `Campaign.run` and `Campaign.start` take as ``watch=``: a callable that is
shown ledger and status about twice a second.  What a *teller* has to say depends on the kind of
campaign.  Both watchers here let it look now and then only, so that watching takes a tenth of the
driver's time at most.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from html import escape
from importlib import import_module
from math import inf, isfinite, nan
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.errors import InputError
from hepdask_ml.ui.account import limit_so_far, relative_errors, time_left
from hepdask_ml.ui.kinds import words_of
from hepdask_ml.ui.show import (
    duration_text,
    limit_html,
    limits_text,
    percent_text,
    precision_text,
    status_view,
    workers_text,
)
from hepdask_ml.ui.sketch import sketch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

    from rich.console import RenderableType

    from hepdask_ml.campaign.campaign import Status
    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.inference.limit import Limit

SITES = "hepdask_ml.facility"
"""Logger of the sites."""

EVERY_S = 2.0
"""Time between two looks at the limits, at least."""

SHARE = 0.1
"""Part of the time that looking at the limits may take."""

QUIET_S = 30.0
"""Time after the last block after which nobody is taken to plan another round."""


@dataclass(slots=True)
class _Throttle:
    """Lets something happen now and then: by time, and by how long it takes."""

    due: float = -inf

    def ready(self) -> bool:
        return monotonic() >= self.due

    def took(self, seconds: float) -> None:
        self.due = monotonic() + max(EVERY_S, seconds / SHARE)


class _Rounds:
    """Which round a campaign is in: a new one begins where more is planned."""

    def __init__(self) -> None:
        self.number = 0
        self._before = self._total = 0

    def look(self, done: int, total: int) -> tuple[int, int]:
        """Give the steps done and planned of this round."""
        if total > self._total:
            # All that was planned before is done, or the strategy would not have planned.
            self.number, self._before, self._total = self.number + 1, self._total, total
        return max(done - self._before, 0), total - self._before


class Teller(Protocol):
    """Says how a campaign of one kind goes.

    Attributes
    ----------
    noun : str
        What is counted.
    """

    noun: str

    def look(self, ledger: Ledger) -> None:
        """Work out what takes time; the rest is quick, and tells what was seen last."""

    def bar(self, status: Status) -> tuple[str, int, int]:
        """Give words for a bar, and how much is done of how much."""

    def lines(self, ledger: Ledger, status: Status) -> tuple[str, ...]:
        """Say below the bar how it goes."""

    def drawing(self) -> str:
        """Draw how it goes, as HTML; nothing if there is nothing yet."""

    def result(self) -> str:
        """Give the result as HTML; nothing if there is none."""


class ToyTeller:
    """Says how a limit goes: round by round, with the limits so far."""

    noun = "toys"

    def __init__(self) -> None:
        self._rounds = _Rounds()
        self._limit: Limit | None = None

    def look(self, ledger: Ledger) -> None:
        """Work out the limits so far."""
        self._limit = limit_so_far(ledger)

    def bar(self, status: Status) -> tuple[str, int, int]:
        """Give the round, and its toys."""
        done, total = self._rounds.look(status.progress.done, status.progress.total)
        return f"round {self._rounds.number}", done, total

    def lines(self, ledger: Ledger, status: Status) -> tuple[str, ...]:
        """Say how fast it goes, and what the limits are."""
        return _lines(ledger, status, self._limit)

    def drawing(self) -> str:
        """Draw CLs along the scan."""
        return "" if self._limit is None else sketch(self._limit)

    def result(self) -> str:
        """Give the limits."""
        return "" if self._limit is None else self.drawing() + limit_html(self._limit)


class CampaignProgress:
    """How a campaign goes, on standard error of a terminal; silent where nobody looks.

    Use it as a context manager, and give it to `Campaign.run` as ``watch=``.

    Parameters
    ----------
    quiet : bool
        Shows nothing, even in a terminal.

    Examples
    --------
    >>> from hepdask_ml import toy_limit
    >>> campaign = toy_limit("examples/workspace.json", scan=[0.5, 2.0, 4.0], toys=500)
    >>> with CampaignProgress(quiet=True) as progress:
    ...     limit = campaign.run(watch=progress)
    """

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._bar = _Bar(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[noun]}", markup=False),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("round 1", total=1, visible=False, noun="")
        self._notes = _Notes(console)
        self._level = logging.NOTSET  # of the logger, before
        self._throttle = _Throttle()
        self._teller: Teller | None = None

    def __call__(self, ledger: Ledger, status: Status) -> None:
        """Show how it goes.

        Parameters
        ----------
        ledger : Ledger
            Of the campaign.
        status : Status
            Its status.
        """
        if self._bar.disable:
            return
        if self._teller is None:
            self._teller = teller(ledger)
        if self._throttle.ready():
            begun = monotonic()
            self._teller.look(ledger)
            self._throttle.took(monotonic() - begun)
        words, done, total = self._teller.bar(status)
        self._bar.lines = self._teller.lines(ledger, status)
        self._bar.update(
            self._task,
            completed=done,
            total=total,
            description=words,
            visible=total > 0,
            noun=self._teller.noun,
        )

    def __enter__(self) -> CampaignProgress:
        logger = logging.getLogger(SITES)
        self._level = logger.level
        logger.addHandler(self._notes)
        if not self._bar.disable:
            logger.setLevel(logging.INFO)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._bar.disable:
            self._bar.stop()
        logger = logging.getLogger(SITES)
        logger.removeHandler(self._notes)
        logger.setLevel(self._level)


class _Notes(logging.Handler):
    """Prints what a site tells, above the bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        self._console.print(Text(record.getMessage(), style))


class _Bar(Progress):
    """A bar with lines of text below it."""

    lines: tuple[str, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for line in self.lines:
            yield Text(line, no_wrap=True, overflow="ellipsis")


class NotebookView:
    """How a campaign goes, in the output of one cell of a notebook; shown where it is made.

    Give it to `Campaign.start` or `Campaign.run` as ``watch=``.

    Parameters
    ----------
    show : callable, optional
        IPython's ``display``, or what behaves so.

    Raises
    ------
    InputError
        If IPython is not there.
    """

    def __init__(self, show: Callable[..., Any] | None = None) -> None:
        show = _ipython().display if show is None else show
        self._throttle = _Throttle()
        self._teller: Teller | None = None
        # Made in the cell itself: what a background thread shows first may land in a later one.
        self._handle = show(_Fragment("<p>The campaign begins …</p>"), display_id=True)

    def __call__(self, ledger: Ledger, status: Status) -> None:
        """Show how it goes.

        Parameters
        ----------
        ledger : Ledger
            Of the campaign.
        status : Status
            Its status; one without workers is taken for the last one.
        """
        if self._teller is None:
            self._teller = teller(ledger)
        if status.workers is None or self._throttle.ready():
            begun = monotonic()
            self._teller.look(ledger)
            self._throttle.took(monotonic() - begun)
        self._handle.update(_Fragment(self._page(self._teller, ledger, status)))

    def _page(self, teller: Teller, ledger: Ledger, status: Status) -> str:
        words, done, total = teller.bar(status)
        if status.workers is None:
            return f"<div>{teller.result()}</div>"
        lines = "".join(f"<div>{escape(line)}</div>" for line in teller.lines(ledger, status))
        share = done / total if total else 0.0
        return (
            f'<div><div><b>{escape(words)}</b> <progress max="1" '
            f'value="{share:.4f}" style="width:16em">{percent_text(share)}</progress> '
            f"{done:,} of {total:,} {teller.noun}</div>{lines}{teller.drawing()}</div>"
        )


def teller(ledger: Ledger) -> Teller:
    """Give who can say how a campaign goes.

    Parameters
    ----------
    ledger : Ledger
        Of any kind.

    Returns
    -------
    Teller
        That of its kind.
    """
    made: Teller = words_of(ledger.identity.kind).Teller()
    return made


def notebook_watch() -> Callable[[Ledger, Status], None] | None:
    """Give a watcher if this is a notebook.

    Returns
    -------
    NotebookView or None
        The view, shown in the cell that is running; None elsewhere.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return None if getattr(shell, "kernel", None) is None else NotebookView()


def follow(path: str | Path, *, console: Console | None = None) -> None:
    """Show the status of a ledger again and again, until its campaign is finished.

    Parameters
    ----------
    path : str or Path
        The ledger; another process writes it.
    console : rich.console.Console, optional
        Where to; standard output if not given.

    Raises
    ------
    InputError
        If there is no ledger, or it is damaged.
    """
    throttle = _Throttle()
    seen: tuple[float, int] | None = None
    with (
        read_ledger(path) as ledger,
        Live(console=console or Console(), auto_refresh=False) as live,
    ):
        while True:
            begun = monotonic()
            told = ledger.progress()
            rate = nan if seen is None else (told.done - seen[1]) / (begun - seen[0])
            live.update(status_view(ledger, rate=rate), refresh=True)
            if settled(ledger):
                return
            seen = begun, told.done
            throttle.took(monotonic() - begun)
            sleep(max(throttle.due - monotonic(), 0.0))


def settled(ledger: Ledger) -> bool:
    """Tell whether a campaign is at its end, and not between two rounds.

    Parameters
    ----------
    ledger : Ledger
        Its ledger.

    Returns
    -------
    bool
        True if nothing more is to be expected.
    """
    state, last = words_of(ledger.identity.kind).state(ledger), ledger.progress().last
    if state == "waiting" and last is not None:
        return time() - last > QUIET_S
    return bool(state == "finished")


def _lines(ledger: Ledger, status: Status, found: Limit | None) -> tuple[str, ...]:
    """Say below the bar how fast it goes, and what the limits are."""
    precision = ledger.facts.get("precision")
    left = time_left(
        status.progress,
        status.rate,
        [] if found is None else relative_errors(found),
        precision=precision,
        most=ledger.facts.get("max_toys") or inf,
    )
    speed = [workers_text(len(status.workers or ()))]
    if isfinite(status.rate):
        speed.append(f"{status.rate:,.0f} toys/s")
    if isfinite(left) and status.workers:
        speed.append(f"about {duration_text(left)} left")
    if found is None:
        return (", ".join(speed),)
    return ", ".join(speed), limits_text(found), precision_text(found, precision)


class _Fragment:
    """HTML, as a notebook takes it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def _repr_html_(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "<campaign: shown in a notebook>"


def _ipython() -> Any:
    """Load IPython, which need not be there."""
    try:
        return import_module("IPython.display")
    except ImportError:
        raise InputError(
            "this is for notebooks, and IPython is not installed: pip install ipython"
        ) from None
