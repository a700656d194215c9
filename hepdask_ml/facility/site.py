"""Places to run, by name: a site opens into a connected Dask client.

A *kind* of site is a class; its name is known here, or to an entry point of another package in the
group ``hepdask_ml.sites``, which has to pass `hepdask_ml.testing.SiteContract`.
"""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from inspect import signature
from typing import TYPE_CHECKING, Protocol

from distributed import Client, LocalCluster, Worker
from distributed.diagnostics.plugin import WorkerPlugin

from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from hepdask_ml.config import SiteSettings

GROUP = "hepdask_ml.sites"
CONNECT_S = 8.0
"""Time in which a scheduler has to answer."""


class Site(Protocol):
    """A place to run.

    Made from ``workers`` (or None), ``threads`` of each, and the options of its kind as keywords; a
    wrong option is an `InputError`.
    """

    def open(self) -> AbstractContextManager[Client]:
        """Open it: a connected client within, and everything that was started gone afterwards."""


@dataclass(frozen=True, slots=True)
class LocalSite:
    """Worker processes on this machine, which listen on its loopback address alone.

    Attributes
    ----------
    workers : int or None
        Worker processes; as many as there are processors if None.
    threads : int
        Threads of each.
    """

    workers: int | None = None
    threads: int = 1

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Start the workers and connect to them."""
        with (
            LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=self.workers,
                threads_per_worker=self.threads,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,  # what goes wrong with a block is in the ledger
            ) as cluster,
            Client(cluster) as client,  # type: ignore[no-untyped-call]
        ):
            client.register_plugin(_DeafToInterrupts())
            yield client


class _DeafToInterrupts(WorkerPlugin):
    """Lets Ctrl-C, which the terminal sends to every process, stop the driver alone.

    The driver then asks the workers for what they hold.
    """

    name = "hepdask-ml-interrupts"

    def setup(self, worker: Worker) -> None:  # noqa: ARG002
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True, slots=True)
class SchedulerSite:
    """A Dask scheduler that runs already.

    Attributes
    ----------
    address : str
        Its address: ``tcp://host:port``, ``tls://host:port``.
    """

    address: str

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Connect to it."""
        try:
            client = Client(self.address, timeout=CONNECT_S)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise InputError(
                f"no Dask scheduler answers at {self.address} ({type(error).__name__}): check the "
                "address, and that it runs"
            ) from None
        with client:
            yield client


def site(settings: SiteSettings) -> Site:
    """Make a site of its settings.

    Parameters
    ----------
    settings : SiteSettings
        Its kind, ``local``, ``scheduler`` or one that another package brings, and what it wants.

    Returns
    -------
    Site
        Not open yet.

    Raises
    ------
    InputError
        If there is no such kind, or an option of it is wrong.
    """
    outside = {point.name: point for point in entry_points(group=GROUP)}
    if settings.kind in outside:
        make = outside[settings.kind].load()
        options = {"workers": settings.workers, "threads": settings.threads, **settings.options}
        try:
            signature(make).bind(**options)
        except TypeError as error:
            raise InputError(f"the site {settings.kind} does not take this: {error}") from None
        made: Site = make(**options)
        return made
    kinds = {"local": _local, "scheduler": _scheduler}
    if settings.kind not in kinds:
        near = get_close_matches(settings.kind, [*kinds, *outside], 1)
        advice = (
            f'did you mean "{near[0]}"?' if near else f"there are {', '.join([*kinds, *outside])}"
        )
        raise InputError(f'"{settings.kind}" is no site: {advice}')
    return kinds[settings.kind](settings)


def _local(settings: SiteSettings) -> Site:
    _check_options(settings, ())
    return LocalSite(settings.workers, settings.threads)


def _scheduler(settings: SiteSettings) -> Site:
    _check_options(settings, ("address",))
    if not isinstance(settings.options.get("address"), str):
        raise InputError("the site scheduler has no address: give options.address")
    return SchedulerSite(settings.options["address"])


def _check_options(settings: SiteSettings, known: Sequence[str]) -> None:
    for name in settings.options:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            advice = f': did you mean "{near[0]}"?' if near else ": leave it out"
            raise InputError(f"the site {settings.kind} has no option {name}{advice}")
