"""What work is made of, and the two protocols that make a kind of campaign.

A *unit* is a resumable range of steps ``0 .. total - 1`` under fixed parameters: toys of one
hypothesis at one point, epochs of one trial.  A *block* is a contiguous piece of it, lent to one
worker under a *token*.  A *strategy* says which units there are, a *runner* how a block is worked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Unit:
    """A resumable range of work.

    Attributes
    ----------
    key : str
        Its name, unique in a campaign; addresses random streams.
    total : int
        Steps.  A strategy may plan the same unit again with more.
    spec : dict
        The fixed parameters, as JSON can hold them; the runner knows what they mean.
    title : str
        What people read, in the words of their field: ``"toys at mu = 1.2, background only"``.
    grain : int
        Blocks are cut at multiples of it, but begin anywhere: where a worker stopped, or where the
        unit ended before it grew.  A worker with no time for this many steps takes none.
    ordered : bool
        Whether a block needs the one before it, so that only one is lent at a time: all that is
        left of the unit, of which the runner does as much as is reasonable.
    """

    key: str
    total: int
    spec: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    grain: int = 1
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a unit, lent to one worker.

    Attributes
    ----------
    key, spec
        As in `Unit`.
    start, stop : int
        Half-open range of steps.
    token : str
        Names this lease; the range can be committed under it and under no other.
    """

    key: str
    spec: Mapping[str, Any]
    start: int
    stop: int
    token: str


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker did of a block: the steps ``[start, reached)``, and their result.

    A runner that stops early says so by ``reached``; the rest becomes free again.
    """

    reached: int
    result: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """A unit as the ledger has it.

    Attributes
    ----------
    unit : Unit
        The unit.
    seed : int
        Seed of the campaign that it belongs to.
    done : int
        Steps committed.
    error : str or None
        Why it was given up, if it was.
    """

    unit: Unit
    seed: int
    done: int
    error: str | None = None

    @property
    def open(self) -> bool:
        """Whether there is anything left to do."""
        return self.error is None and self.done < self.unit.total


class History(Protocol):
    """All that has been planned and done; what a strategy looks at."""

    def records(self) -> list[Record]:
        """Give every unit, in the order in which they were planned."""

    def results(self, key: str, seed: int | None = None) -> list[tuple[int, int, bytes]]:
        """Give ``(start, stop, result)`` of the blocks of a unit, by rising start.

        The seed matters in a merged ledger alone.
        """


class Strategy(Protocol):
    """Says what is to be done, given what has been done.

    ``plan`` is a pure function of the history: called twice with equal histories it returns equal
    units, in this process or in the next one.  So there is no code to resume a campaign: to start
    again is to resume.  It must not look at what depends on the order of the work: a unit that is
    still open has been done in part, and another part tomorrow.
    """

    def plan(self, history: History) -> Sequence[Unit]:
        """Give units to start, or to enlarge; none where the history holds all that is wanted."""


@runtime_checkable
class Expectant(Protocol):
    """A strategy that may plan more though nothing was done: its inputs come from outside.

    What has come is a fact once it is planned, so that ``plan`` gives it once.
    """

    def expects(self, history: History) -> bool:
        """Say whether more may come; it is asked, and planned, again and again while it does."""


class Runner(Protocol):
    """Says how a block is worked.

    A runner travels to the workers: it can be pickled, and is small.  Several threads of a process
    call the same one at once.  The result depends on the unit's key and spec and on the range
    alone, never on where, when or in which pieces it is worked; results of neighbouring ranges may
    be joined.
    """

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        """Work a block; look at ``enough()`` about every second and stop early where it is true.

        An exception gives the block back, and after three of them the unit is given up.  Who finds
        that this process cannot do the work at all raises a `WorkerFault`: the block is lent to
        another worker as if it had not been tried, and this one gets no more of the campaign.
        What was done until then is kept by giving it first, as a block that stops early, and
        raising at the next call.
        """
