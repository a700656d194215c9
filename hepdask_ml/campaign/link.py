"""The driver's way to a pool: one in a Dask scheduler, or one in this process."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from math import inf
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from uuid import uuid4

from distributed import Future, fire_and_forget
from distributed.utils import sync

import hepdask_ml
from hepdask_ml.campaign.drain import drain, interrupt, loop
from hepdask_ml.campaign.messages import event_of, exchange, offer_fields
from hepdask_ml.campaign.plugin import DRAIN, NAME, PoolPlugin
from hepdask_ml.campaign.pool import TARGET_S, Committed, Pool
from hepdask_ml.errors import SiteError
from hepdask_ml.facility.node import End

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from distributed import Client
    from tornado.ioloop import IOLoop

    from hepdask_ml.campaign.messages import Exchange
    from hepdask_ml.campaign.pool import Event
    from hepdask_ml.campaign.unit import Runner, Unit

    Offer = tuple[Unit, list[tuple[int, int]]]
    T = TypeVar("T")

CENSUS_S = 1.0
"""Time between two looks at who the workers are."""

ENDING_S = 0.1
"""The same while workers end, which hold their places for nothing."""

CENSUS_SHARE = 0.1
"""Part of the driver's time that it may take."""

FLUSH_S = 10.0
"""Time that workers have for committing what they hold when the driver is interrupted."""

_SAME_VERSION = f"install version {hepdask_ml.__version__} there, as it is here"

_ERRORS = 3
"""Errors of drains, not of blocks, after which a worker gets none any more."""

FAULTY = 3
"""Workers in a row that cannot work, and no block between them, after which none is waited for."""

HOPE_S = 6.0
"""Time after which those who bring workers were seen, if there are any: they look every 5 s."""

_REMEMBERED = 10
"""Faults of workers that have gone."""

_QUOTED = 3
"""Faults in an error."""

_Fault = tuple[str, str]
"""Who cannot be used, and why: a sentence without its beginning."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a pool tells its driver.

    Attributes
    ----------
    events : list of Committed or Failed
        What happened, by rising number.
    drains : dict
        Number of drains of each worker.
    lent : int
        Blocks that are out.
    free : int
        Steps that may be lent.
    faults : tuple of str
        Why some workers get no work.
    """

    events: list[Event]
    drains: dict[str, int]
    lent: int
    free: int
    faults: tuple[str, ...] = ()


class Link(Protocol):
    """The driver's way to a pool; used from one thread."""

    def collect(self, written: int, offers: Sequence[Offer], patience_s: float) -> Collected:
        """Offer units, and give what has happened since the event ``written``."""

    def interrupt(self) -> None:
        """Ask the workers for what they hold; it can be collected afterwards."""

    def close(self) -> None:
        """Send the drains home and forget the pool."""


class LocalLink:
    """A pool in this process, drained by its own threads.

    Parameters
    ----------
    runner : Runner
        How a block is worked.
    threads : int
        Number of drains.
    target_s : float
        Time that a block should take, in seconds.
    """

    def __init__(self, runner: Runner, threads: int, target_s: float = TARGET_S) -> None:
        self._pool = Pool(uuid4().hex[:8], target_s=target_s)
        self._changed = threading.Condition()
        self._going = False
        self._threads = [
            threading.Thread(target=self._drain, args=(runner, str(i)), daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def collect(self, written: int, offers: Sequence[Offer], patience_s: float) -> Collected:
        """Offer units, and give what has happened since the event ``written``."""
        with self._changed:
            for unit, done in offers:
                self._pool.offer(unit, done)
            self._changed.notify_all()
            self._pool.collect(written)
            self._changed.wait_for(lambda: self._pool.events or self._all_faulty(), patience_s)
            events = self._pool.collect(written)
            said = sorted(set(self._pool.faults.values()))
            faults = [("a thread of this process", f"cannot work: {each}") for each in said]
            if self._all_faulty() and not (events or self._going):
                raise _none_can(faults)
            pool = self._pool
            return Collected(events, pool.drains, pool.n_lent, pool.free, _sentences(faults))

    def interrupt(self) -> None:
        """Ask the threads for what they hold."""
        self._going = True
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(FLUSH_S)

    def close(self) -> None:
        """Let the threads end."""
        with self._changed:
            self._pool.closed = True
            self._changed.notify_all()

    def _all_faulty(self) -> bool:
        return len(self._pool.faults) == len(self._threads)

    def _drain(self, runner: Runner, name: str) -> None:
        loop(runner, self._ask, name, End(None, "none"), lambda: self._going)

    def _ask(self, message: Exchange) -> dict[str, Any]:
        with self._changed:
            message["leaving"] = self._going  # it may have been told since it asked
            answer = exchange(self._pool, message)
            self._changed.notify_all()
            while not answer:
                self._changed.wait()
                message["leaving"] = self._going
                answer = exchange(self._pool, message)
            return answer


@dataclass(slots=True)
class _Known:
    """What the driver knows of a worker."""

    fault: str = ""  # why it cannot be used
    errors: int = 0
    ends: bool = False  # has no time left, or is of no use
    drains: list[Future[str]] = field(default_factory=list)


class DaskLink:
    """A pool in a Dask scheduler, drained by one pinned Dask task for each thread of its workers.

    Drains outlive the driver: they go on with what was offered, and the next driver of the campaign
    finds them and their results.

    Parameters
    ----------
    client : distributed.Client
        Connected client; an asynchronous one is used from another thread than its loop's.
    campaign : str
        Names the pool.
    runner : Runner
        How a block is worked.
    target_s : float
        Time that a block should take, in seconds.

    Raises
    ------
    SiteError
        If the scheduler has no hepdask-ml, or another version of it.
    """

    def __init__(
        self, client: Client, campaign: str, runner: Runner, target_s: float = TARGET_S
    ) -> None:
        self._client, self._campaign, self._runner = client, campaign, runner
        self._loop = cast("IOLoop", client.loop)
        self._target_s = target_s
        self._workers: dict[str, _Known] = {}
        self._gone: deque[_Fault] = deque(maxlen=_REMEMBERED)  # of workers that are not there now
        self._faulty = 0  # workers found so in a row
        self._hopes_until = monotonic() + HOPE_S
        self._drains: dict[str, int] = {}  # of each worker, at the last census
        self._next_census = self._rested = -inf
        self._do(self._register)

    @property
    def faults(self) -> tuple[str, ...]:
        """Why some workers get no work; of those that have gone as well."""
        return _sentences(self._found)

    @property
    def _found(self) -> list[_Fault]:
        here = {(f"worker {at}", known.fault) for at, known in self._workers.items() if known.fault}
        return sorted(here.union(self._gone))

    def collect(self, written: int, offers: Sequence[Offer], patience_s: float) -> Collected:
        """Offer units, keep drains on every worker, and give what has happened."""
        census = monotonic() >= self._next_census
        first = self._next_census == -inf  # nobody works yet, so there is no news to wait for
        answer = self._ask(
            "hepdask_ml_collect",
            campaign=self._campaign,
            written=written,
            offers=[offer_fields(unit, done) for unit, done in offers],
            census=census,
            patience_s=0.0 if first else patience_s,
            target_s=self._target_s,
        )
        events = [event_of(fields) for fields in answer["events"]]
        if census:
            begun = monotonic()
            self._drains = dict(answer["drains"])
            self._do(self._tend, answer)
            ending = any(known.ends for known in self._workers.values())
            # Among thousands of workers some always come or go, and a census takes its time.
            self._rested = begun + (monotonic() - begun) / CENSUS_SHARE
            self._next_census = max(self._rested, begun + (ENDING_S if ending else CENSUS_S))
        if answer["news"]:
            self._next_census = min(self._next_census, self._rested)
        if any(isinstance(event, Committed) for event in events):
            self._faulty = 0
        # What has been done, or is still being done, is written down first.
        if census and not (events or answer["lent"]) and self._is_useless(answer):
            self.close()  # who runs it again has mended something, and tries them all
            raise _none_can(self._found)
        return Collected(events, self._drains, answer["lent"], answer["free"], self.faults)

    def interrupt(self) -> None:
        """Ask the workers for what they hold."""

        async def ask() -> None:
            await self._client.run(interrupt, self._campaign, on_error="ignore")

        self._next_census = self._rested = inf  # which would send new drains for those that go
        deadline, lent = monotonic() + FLUSH_S, True
        while lent and monotonic() < deadline:
            self._do(ask)  # once more if need be: a drain that has just begun did not hear it
            heard = monotonic() + CENSUS_S
            while lent and monotonic() < heard:
                lent = self.collect(0, (), 0.0).lent > 0
                sleep(0.02)

    def close(self) -> None:
        """Send the drains home and forget the pool."""
        self._ask("hepdask_ml_close", campaign=self._campaign)

    def _ask(self, operation: str, **message: Any) -> Any:
        """Send a message to the plugin and give its answer."""

        async def ask() -> Any:
            return await getattr(self._client.scheduler, operation)(**message)

        return self._do(ask)

    def _do(self, coroutine: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run a coroutine in the client's loop, where the client may be used."""
        try:
            return sync(self._loop, coroutine, *arguments)
        except OSError as error:
            raise SiteError(
                f"the connection to the scheduler is lost ({error}): what "
                "was committed is in the ledger, run again to go on"
            ) from None

    async def _register(self) -> None:
        try:
            await self._client.register_plugin(PoolPlugin(), NAME)
        except ModuleNotFoundError:
            raise SiteError(
                f"the scheduler has no hepdask-ml: install version {hepdask_ml.__version__} there"
            ) from None
        scheduler: Any = self._client.scheduler
        version = await scheduler.hepdask_ml_version()
        if version != hepdask_ml.__version__:
            raise SiteError(
                f"the scheduler has hepdask-ml {version}, this is {hepdask_ml.__version__}: "
                "install the same version on both and start the scheduler again"
            )

    async def _tend(self, answer: Mapping[str, Any]) -> None:
        """Put a drain on each thread that has none; retire workers that have no time left.

        Those that cannot work are retired where others are brought, and left alone elsewhere: they
        may be of use to somebody else.
        """
        threads: dict[str, int] = answer["threads"]
        drains = self._drains
        await self._check([address for address in threads if address not in self._workers])
        for address, reason in answer["left"]:
            if reason == "walltime" and address in threads:
                self._workers[address].ends = True
        for address, said in answer["faults"].items():
            if address in threads:
                self._note_fault(address, said, brought=answer["brought"])
        for address, room in threads.items():
            known = self._workers[address]
            await self._settle(known)
            here = max(drains.get(address, 0), len(known.drains))
            if not known.fault and not known.ends:
                known.drains += [self._submit(address) for _ in range(room - here)]
        # Dask retires no worker that alone has a result: not even that of a drain.
        done = [
            address
            for address in threads
            if (known := self._workers[address]).ends and not (known.drains or drains.get(address))
        ]
        if done:
            await self._client.retire_workers(done, close_workers=True)
        for address in self._workers.keys() - threads:
            known = self._workers.pop(address)
            if known.fault:
                self._gone.append((f"worker {address}", known.fault))

    def _note_fault(self, address: str, said: str, *, brought: bool) -> None:
        """Keep in mind that a worker has found that it cannot work."""
        known = self._workers[address]
        known.ends = known.ends or brought
        if not known.fault:
            known.fault = f"cannot work: {said}"
            self._faulty += 1

    def _submit(self, address: str) -> Future[str]:
        future = self._client.submit(
            drain,
            self._campaign,
            self._runner,
            key=f"{DRAIN}{self._campaign}-{uuid4().hex}",
            workers=[address],
            allow_other_workers=False,
            pure=False,
        )
        # The task outlives this client.
        fire_and_forget(future)  # type: ignore[no-untyped-call]
        return future

    async def _settle(self, known: _Known) -> None:
        """Drop the drains that have ended; mark a worker on which they fail."""
        errors = [future for future in known.drains if future.status == "error"]
        known.drains = [future for future in known.drains if future.status == "pending"]
        known.errors += len(errors)
        if errors and known.errors >= _ERRORS:
            error = await errors[-1].exception()  # type: ignore[no-untyped-call]
            known.fault = f"cannot work: {error}"

    async def _check(self, addresses: list[str]) -> None:
        """See that new workers have the same version as we."""
        if not addresses:
            return

        def version() -> str:
            from importlib.metadata import version  # noqa: PLC0415 - runs on the worker

            return version("hepdask-ml")

        found = await self._client.run(version, workers=addresses, on_error="return")
        for address in addresses:
            known = self._workers[address] = _Known()
            answer = found.get(address)
            if isinstance(answer, ImportError):
                known.fault = f"has no hepdask-ml: {_SAME_VERSION}"
            elif isinstance(answer, str) and answer != hepdask_ml.__version__:
                known.fault = f"has hepdask-ml {answer}: {_SAME_VERSION}"

    def _is_useless(self, answer: Mapping[str, Any]) -> bool:
        """Whether there is neither a worker that can work nor hope for one."""
        threads: Collection[str] = answer["threads"]
        if not all(self._workers[address].fault for address in threads):
            return False
        # The next one has the same installation, but may have a GPU that is sound.
        hope = answer["brought"] or monotonic() < self._hopes_until
        replaced: Collection[str] = answer["faults"] if hope else ()
        return self._faulty >= FAULTY or any(address not in replaced for address in threads)


def _sentences(faults: Sequence[_Fault]) -> tuple[str, ...]:
    return tuple(" ".join(fault) for fault in faults)


def _none_can(faults: Sequence[_Fault]) -> SiteError:
    """Quote some faults, and those of like workers once."""
    alike: dict[str, list[str]] = {}
    for worker, what in faults:
        alike.setdefault(what, []).append(worker)
    said = [
        f"{workers[0]}{f' and {len(workers) - 1} more' if len(workers) > 1 else ''} {what}"
        for what, workers in alike.items()
    ]
    quoted = "; ".join(said[:_QUOTED])
    if len(said) > _QUOTED:
        quoted += f"; and {len(said) - _QUOTED} more"
    return SiteError(
        f"no worker can be used ({quoted}): what was committed is in the ledger, mend the cause "
        "and run again"
    )
