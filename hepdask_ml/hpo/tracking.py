"""Followers: others that are told how a search goes, such as MLflow.

A *follower* reads the ledger and nothing else, and tells a *tracker* what it finds there.  What a
tracker was told lies in the tracker itself, so that following again, from another process or after
a crash in the midst, adds nothing twice.

While a search runs, each follower has a thread of its own, which is given a copy of the ledger: a
tracker that is slow, down, or never answers holds neither the driver nor the other followers up.
Who cannot be reached is tried again, less and less often, and catches up when it is back.  After
the campaign `follow` does the same for the file of a ledger.

Those of this package are behind doors, `with_mlflow`, `with_tensorboard` and `with_csv`; those of
others are entry points of the group ``hepdask_ml.followers``: callables that take what stands after
the colon, such as a file, and give a follower.
"""

from __future__ import annotations

import sys
import threading
from importlib.metadata import entry_points
from math import inf
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from hepdask_ml.campaign.ledger import MEMORY, read_ledger
from hepdask_ml.config import nearest
from hepdask_ml.errors import HepdaskError, InputError, late, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from hepdask_ml.campaign.ledger import Ledger, Progress
    from hepdask_ml.hpo.trials import Row

GROUP = "hepdask_ml.followers"

EVERY_S = 2.0
"""Time between two looks at the ledger."""

LAST_S = 30.0
"""Time that the end of a campaign may wait for its followers."""

_HURRIED_S = 5.0
"""The same where a campaign was stopped, or failed."""

_SHORTEST_S, _LONGEST_S = 2.0, 300.0
"""Time after which a tracker that is down is tried again, the first time and at the latest."""

_OURS = {"mlflow": "with_mlflow", "tensorboard": "with_tensorboard", "csv": "with_csv"}
"""Names, and the module that makes a follower of this name."""


@runtime_checkable
class Follower(Protocol):
    """Tells a tracker what a ledger holds.

    It is used from one thread at a time, and not always from the same one.  If it has an attribute
    ``name``, this is what people are told of it.
    """

    def follow(self, ledger: Ledger) -> None:
        """Tell what the tracker does not know yet.

        Parameters
        ----------
        ledger : Ledger
            Of a search, finished or not.  It is only read, and not kept.

        Raises
        ------
        Exception
            Any, if the tracker could not be told: the whole is tried again later.
        """


def followers(follow: str | Follower | Iterable[str | Follower] = ()) -> tuple[Follower, ...]:
    """Give followers by their names.

    Parameters
    ----------
    follow : str, Follower, or iterable of them
        ``"mlflow"`` for the tracking server that MLflow's environment variables name, or
        ``"mlflow:URI"``, ``"mlflow:URI#EXPERIMENT"``; ``"tensorboard:FOLDER"``; ``"csv:FILE"``; or
        objects that are followers already.

    Returns
    -------
    tuple of Follower
        Each once.

    Raises
    ------
    InputError
        If there is none of this name, or its library is not installed.

    Examples
    --------
    >>> [follower.name for follower in followers("csv:trials.csv")]
    ['csv:trials.csv']
    """
    given = [follow] if isinstance(follow, (str, Follower)) else list(follow)
    return tuple(_made(each) if isinstance(each, str) else _checked(each) for each in _once(given))


def follow(path: str | Path, wanted: str | Follower | Iterable[str | Follower]) -> None:
    """Tell trackers what the file of a ledger holds, in the midst of a campaign or after it.

    Parameters
    ----------
    path : str or Path
        The file.
    wanted : str, Follower, or iterable of them
        As in `followers`.

    Raises
    ------
    InputError
        If it is no ledger of a search, or there is no such follower.
    HepdaskError
        If a tracker could not be told; those before it were.
    """
    found = followers(wanted)
    with read_ledger(path) as ledger:
        if ledger.identity.kind != "search":
            raise InputError(
                f"{path} is a ledger of the kind {ledger.identity.kind}: give that of a search"
            )
        for each in found:
            try:
                each.follow(ledger)
            except Exception as error:
                raise HepdaskError(
                    f"{_name(each)} was not told all of {path} ({words(error)}): try again later, "
                    "nothing is told twice"
                ) from error


def title(ledger: Ledger) -> str:
    """Give what people call a search: the name of its file."""
    return "search" if ledger.path == MEMORY else Path(ledger.path).name


def numbers(row: Row) -> dict[str, float]:
    """Give what trackers are told of an epoch.

    Parameters
    ----------
    row : Row
        The epoch.

    Returns
    -------
    dict of str to float
        Its metrics, the seconds that it took, and the training samples per second if they were
        counted.

    Examples
    --------
    >>> from hepdask_ml.hpo.trials import Row
    >>> numbers(Row(0, {"loss": 0.5}, seconds=2.0, samples=1000))
    {'loss': 0.5, 'time/epoch_s': 2.0, 'time/samples_per_s': 500.0}
    """
    found = {**row.metrics, "time/epoch_s": row.seconds}
    if row.samples is not None and row.seconds > 0.0:
        found["time/samples_per_s"] = row.samples / row.seconds
    return found


class Tracking:
    """Followers of a campaign that runs.

    .. code-block:: python

        with Tracking(followers("csv:trials.csv")) as tracking:
            ...  # tracking(ledger), again and again
            tracking(ledger)

    Parameters
    ----------
    followers : sequence of Follower
        Who is to be told.
    every_s : float
        Time between two looks at the ledger, in seconds.
    last_s : float
        Time that leaving the block may wait for those who were not told everything, in seconds.
        The ledger of the last call has to be open until then.
    """

    def __init__(
        self, followers: Sequence[Follower], *, every_s: float = EVERY_S, last_s: float = LAST_S
    ) -> None:
        self._tellers = [_Teller(follower) for follower in followers]
        self._every_s, self._last_s = every_s, last_s
        self._due = -inf
        self._ledger: Ledger | None = None
        self._over = False

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._ledger is not None:
            # A stack of contexts that is closed in the midst of an error does not pass it on.
            calm = kind is None and sys.exc_info()[0] is None
            wait_s = self._last_s if calm else min(self._last_s, _HURRIED_S)
            self._finish(self._ledger, monotonic() + wait_s)
        self._over = True

    def __call__(self, ledger: Ledger) -> None:
        """Have the followers told if there is news and it is time; returns at once.

        Parameters
        ----------
        ledger : Ledger
            Of the campaign.
        """
        self._ledger = ledger
        if not self._tellers or monotonic() < self._due:
            return
        progress = ledger.progress()
        for teller in self._tellers:
            if teller.ready and teller.told != progress:
                teller.begin(ledger, progress)
        self._due = monotonic() + self._every_s

    @property
    def warnings(self) -> tuple[str, ...]:
        """Who is not told what happens, a sentence for each; empty again once they caught up."""
        path = MEMORY if self._ledger is None else self._ledger.path
        return tuple(
            teller.sentence(path, over=self._over)
            for teller in self._tellers
            if teller.fault is not None
        )

    def _finish(self, ledger: Ledger, deadline: float) -> None:
        """Tell everybody the end; who is down is tried once."""
        progress = ledger.progress()
        waiting, begun = list(self._tellers), set()
        while waiting and monotonic() < deadline:
            for teller in [each for each in waiting if not each.busy]:
                if teller.told == progress or teller in begun:
                    waiting.remove(teller)
                    continue
                begun.add(teller)
                teller.begin(ledger, progress)
            sleep(0.01)
        for teller in waiting:
            teller.fault = teller.fault or "no answer so far"


class _Teller:
    """A follower and its thread; all but the thread's own function is called by the driver.

    The thread is a new one each time, and a daemon: one that hangs keeps no process alive.
    """

    def __init__(self, follower: Follower) -> None:
        self.fault: str | None = None
        self.told: Progress | None = None
        self._follower = follower
        self._thread: threading.Thread | None = None
        self._wait_s = _SHORTEST_S
        self._not_before = -inf

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def ready(self) -> bool:
        return not self.busy and monotonic() >= self._not_before

    def begin(self, ledger: Ledger, progress: Progress) -> None:
        """Tell what the ledger holds now; the driver is free to write on."""
        try:
            copy = ledger.copy()
        except HepdaskError as error:
            self._failed(error)
            return
        self._thread = threading.Thread(target=self._tell, args=(copy, progress), daemon=True)
        self._thread.start()

    def sentence(self, path: str, *, over: bool) -> str:
        name = _name(self._follower)
        if not over:
            return f"{name} is not told how the search goes ({self.fault}): it is tried again"
        advice = (
            "run it again to tell the rest"
            if path == MEMORY
            else f"hepdask-ml track {path} --to {name} tells the rest later"
        )
        return f"{name} was not told everything ({self.fault}): {advice}"

    def _tell(self, copy: Ledger, progress: Progress) -> None:
        try:
            with copy:
                self._follower.follow(copy)
        except Exception as error:  # noqa: BLE001 - the door around what others wrote
            self._failed(error)
        else:
            self.fault, self.told, self._wait_s = None, progress, _SHORTEST_S

    def _failed(self, error: Exception) -> None:
        self.fault = words(error)
        self._not_before = monotonic() + self._wait_s
        self._wait_s = min(2.0 * self._wait_s, _LONGEST_S)


def _made(text: str) -> Follower:
    name, _, where = text.partition(":")
    made: Follower
    if name in _OURS:
        made = late(f"hpo.{_OURS[name]}").follower(where)
        return made
    outside = {point.name: point for point in entry_points(group=GROUP)}
    if name in outside:
        return _checked(outside[name].load()(where))
    names = (*_OURS, *outside)
    near = nearest(name, names)
    advice = near[0] if near else f"there are {', '.join(names)}"
    raise InputError(f'"{text}" is nobody who could follow a search: {advice}')


def _checked(each: Any) -> Follower:
    if isinstance(each, Follower):
        return each
    raise InputError(
        f"{each!r} cannot follow a search: give the name of a follower, such as csv:trials.csv, or "
        "an object with a method follow(ledger)"
    )


def _once(given: Iterable[Any]) -> list[Any]:
    kept: list[Any] = []
    for each in given:
        if each not in kept:
            kept.append(each)
    return kept


def _name(follower: Follower) -> str:
    return str(getattr(follower, "name", type(follower).__name__))
