"""The scheduler of a site whose workers are on other nodes: where it listens, how they find it."""

from __future__ import annotations

import errno
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dask
from distributed import Client, Scheduler, SpecCluster
from distributed.utils import get_ip, get_ip_interface, sync

from hepdask_ml.errors import InputError, SiteError, words
from hepdask_ml.facility.security import CERTIFICATE, KEY, configured, of_files, temporary
from hepdask_ml.facility.session import SCHEDULER_FILE

if TYPE_CHECKING:
    from collections.abc import Collection

    from distributed import Security
    from tornado.ioloop import IOLoop

    from hepdask_ml.facility.session import Session
    from hepdask_ml.facility.systems import BatchOptions


def connected(address: str, **options: Any) -> Client:
    """Connect to a scheduler.

    Parameters
    ----------
    address : str
        Where it listens.
    **options
        As in `distributed.Client`.

    Returns
    -------
    distributed.Client
        Connected.

    Raises
    ------
    OSError, ValueError
        If that fails.  Dask's default scheduler is then what it was: a client that never came to be
        would leave a default behind that is not there.
    """
    before = dask.config.get("scheduler", None)
    try:
        return Client(address, **options)  # type: ignore[no-untyped-call]
    except BaseException:
        dask.config.set(scheduler=before)
        raise


def certificates(options: BatchOptions, session: Session) -> Security | None:
    """Give the certificates for this process.

    Parameters
    ----------
    options : BatchOptions
        Whether there are any.
    session : Session
        Keeps temporary ones for the workers.

    Returns
    -------
    Security or None
        Those of Dask's configuration, or temporary ones; None without TLS.
    """
    if not options.tls:
        return None
    return configured() or of_files(*session.keep_secrets(temporary()))


def worker_words(options: BatchOptions, folder: Path) -> dict[str, Any]:
    """Say where the workers find the scheduler and their certificates.

    Parameters
    ----------
    options : BatchOptions
        What they share with this machine.
    folder : Path
        Of the session.

    Returns
    -------
    dict
        Keywords for `hepdask_ml.facility.jobs.Jobs.script`.
    """
    named = configured() if options.tls else None
    files = [folder / name for name in (CERTIFICATE, KEY)]
    if options.shared is not None:
        security = named or (of_files(*files) if options.tls else None)
        return {"scheduler_file": folder / SCHEDULER_FILE, "security": security}
    if not options.tls or named:
        return {"security": named}
    # What travels lies in the job's own folder.
    return {"security": of_files(Path(CERTIFICATE), Path(KEY)), "carried": files}


def started(options: BatchOptions, security: Security | None) -> SpecCluster:
    """Start a scheduler without workers in this process.

    It listens on one address that the nodes can reach, and its dashboard on the loopback address.

    Parameters
    ----------
    options : BatchOptions
        Where it listens.
    security : Security or None
        Its certificates.

    Returns
    -------
    distributed.SpecCluster
        A context manager, which closes it.

    Raises
    ------
    SiteError
        If no port is free.
    InputError
        If the interface is not there.
    """
    low, high = port_range(options.scheduler_ports or options.ports)
    protocol = "tls" if security is not None else "tcp"
    host, fault = _host(options), OSError("none is free")
    for port in range(low, high + 1):
        if not _is_free(host, port):
            continue
        try:
            return SpecCluster(  # type: ignore[no-untyped-call]
                workers={},
                scheduler={
                    "cls": Scheduler,
                    "options": {
                        "protocol": f"{protocol}://",
                        "host": host,
                        "port": port,
                        "security": security,
                        "dashboard": True,
                        "dashboard_address": "127.0.0.1:0",
                    },
                },
                security=security,
                silence_logs=logging.CRITICAL,
                name="hepdask-ml",
            )
        except (OSError, RuntimeError) as error:
            fault = OSError(str(error))
    raise SiteError(
        f"the scheduler cannot listen on {host}, ports {low} to {high} ({fault}): name "
        "another options.host, options.interface or options.scheduler_ports"
    )


def port_range(text: str | None) -> tuple[int, int]:
    """Read a range of ports.

    Parameters
    ----------
    text : str or None
        ``"LOW:HIGH"`` or one port.

    Returns
    -------
    tuple of int
        The first and the last; zeros leave the choice to the system.

    Raises
    ------
    InputError
        If it is none.

    Examples
    --------
    >>> port_range("10000:10100")
    (10000, 10100)
    """
    if text is None:
        return 0, 0
    low, colon, high = text.partition(":")
    high = high if colon else low
    if not (low.isdecimal() and high.isdecimal() and 0 < int(low) <= int(high) < 65536):
        raise InputError(f'"{text}" is no range of ports: write options.ports as 10000:10100')
    return int(low), int(high)


def cut_off(cluster: SpecCluster) -> None:
    """Close a scheduler at once, so that nobody waits for workers in vain.

    Parameters
    ----------
    cluster : distributed.SpecCluster
        It is closed by its own context afterwards.
    """
    cluster.shutdown_scheduler = False  # it would look for one that is gone
    cluster.sync(cast("Scheduler", cluster.scheduler).close)  # type: ignore[no-untyped-call]


def close_workers(cluster: SpecCluster, told: Collection[str] = ()) -> set[str]:
    """Let workers end, and their nannies with them, whatever results they hold.

    To retire them would keep one that holds a result for which there is no other place.

    Parameters
    ----------
    cluster : distributed.SpecCluster
        Their scheduler's.
    told : collection of str
        Addresses of those that have been told already.

    Returns
    -------
    set of str
        Addresses of those that are told now.
    """
    scheduler = cast("Scheduler", cluster.scheduler)

    async def close() -> set[str]:
        addresses = set(scheduler.workers).difference(told)
        for address in addresses:
            scheduler.close_worker(address)
        return addresses

    return cast("set[str]", cluster.sync(close))  # type: ignore[no-untyped-call]


def threads_of(client: Client) -> list[int]:
    """Count the threads of each worker.

    Parameters
    ----------
    client : distributed.Client
        Connected, asynchronous or not; not called from its loop.

    Returns
    -------
    list of int
        Their numbers, one for each worker that is there now.

    Raises
    ------
    SiteError
        If the scheduler is not there any more.
    """

    async def count() -> list[int]:
        scheduler: Any = client.scheduler
        return list((await scheduler.ncores()).values())

    try:
        return sync(cast("IOLoop", client.loop), count)
    except OSError as error:
        raise SiteError(f"the connection to the scheduler is lost ({words(error)})") from None


def _is_free(host: str, port: int) -> bool:
    """Whether a port can be had; a scheduler that finds it taken leaves its socket open."""
    try:
        with socket.create_server((host, port)):
            return True
    except OSError as error:
        return error.errno != errno.EADDRINUSE


def _host(options: BatchOptions) -> str:
    if options.host is not None:
        return options.host
    if options.interface is None:
        return str(get_ip())  # type: ignore[no-untyped-call]
    try:
        return str(get_ip_interface(options.interface))  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise InputError(f"options.interface is {options.interface}: {error}") from None
