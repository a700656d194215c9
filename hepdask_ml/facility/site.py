"""Places to run, by name: a site opens into a connected Dask client.

A *kind* of site is a class; its name is known here, or to an entry point of another package in the
group ``hepdask_ml.sites``, which has to pass `hepdask_ml.testing.SiteContract`.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import dask
from distributed import Client, LocalCluster, SpecCluster, Worker
from distributed.diagnostics.plugin import WorkerPlugin

from hepdask_ml.config import (
    SiteSettings,
    at_least_one,
    filled,
    nearest,
    read_site,
    record_of,
    settle,
)
from hepdask_ml.errors import InputError, late
from hepdask_ml.facility.scheduler import connected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from importlib.metadata import EntryPoint

    from _typeshed import DataclassInstance

    Options = TypeVar("Options", bound=DataclassInstance)

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
class LocalOptions:
    """What a local site takes beside.

    Attributes
    ----------
    gpus : int or None
        Graphics processors to use, one worker for each; none if None.
    """

    gpus: int | None = field(default=None, metadata={"rule": at_least_one})

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True)
class LocalSite:
    """Worker processes on this machine, which listen on its loopback address alone.

    Attributes
    ----------
    workers : int or None
        Worker processes; as many as there are processors if None.
    threads : int
        Threads of each.
    options : LocalOptions
        What it takes beside.
    """

    workers: int | None = None
    threads: int = 1
    options: LocalOptions = field(default_factory=LocalOptions)

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Start the workers and connect to them."""
        with self._cluster() as cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
            client.register_plugin(_DeafToInterrupts())
            yield client

    def _cluster(self) -> SpecCluster:
        if self.options.gpus is not None:
            made: SpecCluster = late("facility.cuda").gpu_cluster(
                self.options.gpus, self.workers, self.threads
            )
            return made
        return LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=self.workers,
            threads_per_worker=self.threads,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,  # what goes wrong with a block is in the ledger
        )


class _DeafToInterrupts(WorkerPlugin):
    """Lets Ctrl-C, which the terminal sends to every process, stop the driver alone.

    The driver then asks the workers for what they hold.
    """

    name = "hepdask-ml-interrupts"

    def setup(self, worker: Worker) -> None:  # noqa: ARG002
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """Where a scheduler is.

    Attributes
    ----------
    address : str
        Its address: ``tcp://host:port``, ``tls://host:port``.
    """

    address: str = field(metadata={"rule": filled})

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True)
class ClientSite:
    """Where a client is connected to already.

    Attributes
    ----------
    client : Client
        It is used, and never closed.
    """

    client: Client

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Lend the client."""
        yield self.client


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
            client = connected(self.address, timeout=CONNECT_S)
        except (OSError, ValueError) as error:
            raise InputError(
                f"no Dask scheduler answers at {self.address} ({type(error).__name__}): check the "
                "address, and that it runs"
            ) from None
        with client:
            yield client


def site(place: str | Path | Client | SiteSettings = "local", **changes: Any) -> Site:
    """Make a site of its name, of a file, of settings, or of a client.

    Parameters
    ----------
    place : str, Path, Client or SiteSettings
        A kind (``"local"``, ``"slurm"``, ...), the name of a ready site, of one in Dask's
        configuration (``hepdask-ml.sites.NAME``) or of another package, a YAML file, settings,
        or a connected client, which stays open.
    **changes
        ``workers``, ``threads``, and options of the kind, in place of those that are set.

    Returns
    -------
    Site
        Not open yet.

    Raises
    ------
    InputError
        If there is no such site, or a setting of it is wrong.

    Examples
    --------
    >>> site("local", workers=2)
    LocalSite(workers=2, threads=1, options=LocalOptions(gpus=None))
    """
    if isinstance(place, Client):
        if changes:
            raise InputError(
                f"{', '.join(changes)} cannot be changed: the client is connected already"
            )
        return ClientSite(place)
    settings = settled(place, **changes)
    if settings.kind in _KINDS:
        return _KINDS[settings.kind](settings)
    return _made_outside(_outside()[settings.kind], settings)


@contextmanager
def open_site(
    place: str | Path | Client | SiteSettings = "local", **changes: Any
) -> Iterator[Client]:
    """Open a place to run, for as long as the block lasts.

    Parameters
    ----------
    place, **changes
        As for `site`.

    Yields
    ------
    Client
        A connected client of Dask; what was started for it is gone afterwards.

    Raises
    ------
    InputError
        If there is no such site, or a setting of it is wrong.
    SiteError
        If it cannot be opened.

    Examples
    --------
    >>> with open_site("local", workers=1) as client:
    ...     client.submit(sum, [1, 2]).result()
    3
    """
    with site(place, **changes).open() as client:
        yield client


def settled(place: str | Path | SiteSettings, **changes: Any) -> SiteSettings:
    """Give the settings of a site, down to a kind.

    The later of these goes before the earlier: the ready site, Dask's configuration, the file or
    the settings, the changes.  Options are replaced one by one.

    Parameters
    ----------
    place, **changes
        As for `site`.

    Returns
    -------
    SiteSettings
        Its kind is one that is known here, or of another package.

    Raises
    ------
    InputError
        If there is no such site, or a setting of it is wrong.

    Examples
    --------
    >>> settled("tcp://10.0.0.1:8786").options
    {'address': 'tcp://10.0.0.1:8786'}
    """
    above = _read(place) if isinstance(place, str | Path) else place
    below = _of_name(above.kind, ())
    return _laid_over(_laid_over(below, above), _changed(above.kind, changes))


def is_file(place: str | Path) -> bool:
    """Tell whether a place is meant as a file, there or not.

    Parameters
    ----------
    place : str or Path
        A path, or a text.

    Returns
    -------
    bool
        A text is if it ends like one or names a folder: a file that happens to be called slurm
        does not hide the kind.

    Examples
    --------
    >>> is_file("my.yaml"), is_file("farm/mine"), is_file("slurm")
    (True, True, False)
    """
    text = str(place)
    return isinstance(place, Path) or Path(text).suffix in {".yaml", ".yml"} or os.sep in text


def ready() -> dict[str, Path]:
    """Give the files of the ready sites by their names.

    Returns
    -------
    dict of str to Path
        In alphabetical order.
    """
    here = Path(__file__).parent
    # In a checkout they are where people look for them; a wheel carries them along.
    folders = (here / "sites", here.parents[1] / "configs" / "sites")
    folder = next((each for each in folders if each.is_dir()), here)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def configured() -> dict[str, Any]:
    """Give what Dask's configuration says of sites, by their names.

    Returns
    -------
    dict of str to mapping or str
        Not checked yet.

    Raises
    ------
    InputError
        If it is no mapping.
    """
    found = dask.config.get("hepdask-ml.sites", {}) or {}
    if not isinstance(found, Mapping):
        raise InputError(f"{_IN_DASK} is {found!r}: it must be a mapping of names to sites")
    return {str(name): value for name, value in found.items()}


def kinds() -> tuple[str, ...]:
    """Give the kinds of sites that are known, those of other packages last."""
    return (*_KINDS, *_outside())


_IN_DASK = "Dask's configuration: hepdask-ml.sites"


def _read(place: str | Path) -> SiteSettings:
    """Read a file, or take a name or an address for what it is."""
    text = str(place)
    if "://" in text:
        return SiteSettings("scheduler", options={"address": text})
    return read_site(place) if is_file(place) else SiteSettings(text)


def _of_name(name: str, seen: tuple[str, ...]) -> SiteSettings:
    """Give what is known under a name, down to a kind."""
    if name in seen:
        raise InputError(f"the site {name} is defined by itself: {' -> '.join((*seen, name))}")
    files, said = ready(), _configuration(name)
    known = kinds()
    below = SiteSettings(name)
    if name not in known and name in files:
        below = read_site(files[name])
    if said is not None and said.kind != name:
        below = SiteSettings(said.kind)
    if below.kind != name:
        below = _laid_over(_of_name(below.kind, (*seen, name)), below)
    elif name not in known:
        names = [*known, *files, *configured()]
        near = nearest(name, names)
        advice = near[0] if near else f"there are {', '.join(dict.fromkeys(names))}"
        raise InputError(f'"{name}" is no site: {advice}')
    return below if said is None else _laid_over(below, said)


def _configuration(name: str) -> SiteSettings | None:
    """Give what Dask's configuration says of a site; its kind is its name if that says none."""
    # Environment variables have no hyphens.
    spelt = {key.replace("_", "-"): value for key, value in configured().items()}
    if name.replace("_", "-") not in spelt:
        return None
    said = spelt[name.replace("_", "-")]
    mapping = {"kind": said} if isinstance(said, str) else said
    where = f"{_IN_DASK}.{name}"
    if not isinstance(mapping, Mapping):
        raise InputError(f"{where} is {said!r}: it must be a mapping, or the name of a site")
    return record_of(SiteSettings, {"kind": name, **mapping}, f"{where}.")


def _laid_over(below: SiteSettings, above: SiteSettings) -> SiteSettings:
    return SiteSettings(
        below.kind,
        below.workers if above.workers is None else above.workers,
        below.threads if above.threads is None else above.threads,
        {**below.options, **above.options},
    )


def _changed(kind: str, changes: Mapping[str, Any]) -> SiteSettings:
    plain = {name: changes[name] for name in ("workers", "threads") if name in changes}
    options = {name: value for name, value in changes.items() if name not in plain}
    return SiteSettings(kind, **plain, options=options)


def _outside() -> dict[str, EntryPoint]:
    """Give the kinds of other packages."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _made_outside(point: EntryPoint, settings: SiteSettings) -> Site:
    make = point.load()
    options = {"workers": settings.workers, "threads": settings.threads or 1, **settings.options}
    try:
        signature(make).bind(**options)
    except TypeError as error:
        raise InputError(f"the site {settings.kind} does not take this: {error}") from None
    made: Site = make(**options)
    return made


def _local(settings: SiteSettings) -> Site:
    return LocalSite(settings.workers, settings.threads or 1, _options(LocalOptions, settings))


def _scheduler(settings: SiteSettings) -> Site:
    options = _options(SchedulerOptions, settings)
    return SchedulerSite(options.address)


def _batch(settings: SiteSettings) -> Site:
    options = _options(late("facility.systems").BatchOptions, settings)
    made: Site = late("facility.batch").BatchSite(
        settings.kind, settings.workers, settings.threads or 1, options
    )
    return made


def _allocation(settings: SiteSettings) -> Site:
    allocation = late("facility.allocation")
    options = _options(allocation.AllocationOptions, settings)
    made: Site = allocation.AllocationSite(settings.workers, settings.threads or 1, options)
    return made


def _kubernetes(settings: SiteSettings) -> Site:
    kubernetes = late("facility.kubernetes")
    options = _options(kubernetes.KubernetesOptions, settings)
    made: Site = kubernetes.KubernetesSite(settings.workers, settings.threads or 1, options)
    return made


def _gateway(settings: SiteSettings) -> Site:
    gateway = late("facility.gateway")
    options = _options(gateway.GatewayOptions, settings)
    made: Site = gateway.GatewaySite(settings.workers, settings.threads, options)
    return made


_KINDS: Mapping[str, Callable[[SiteSettings], Site]] = {
    "local": _local,
    "scheduler": _scheduler,
    "slurm": _batch,
    "htcondor": _batch,
    "pbs": _batch,
    "lsf": _batch,
    "sge": _batch,
    "allocation": _allocation,
    "kubernetes": _kubernetes,
    "gateway": _gateway,
}


def _options(kind: type[Options], settings: SiteSettings) -> Options:
    """Make the options of a kind."""
    try:
        return record_of(kind, settings.options, "")
    except InputError as error:
        raise InputError(f"the site {settings.kind}: options.{error}") from None
