"""Dask gateways: a facility's service starts a cluster, and stops it afterwards.

Scheduler and workers run where the gateway puts them; all that is said between them, and to the
scheduler from here, is encrypted and authenticated by certificates that it makes for each cluster.

The gateway itself replaces workers that die.  What is added here: a clear word within seconds where
it refuses something, workers that are given back when there is no work for them, and a cluster
whose driver was killed is found again, with what its workers did meanwhile.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from warnings import catch_warnings, simplefilter

from distributed import Client

import hepdask_ml
from hepdask_ml.config import filled, nearest, one_of, parse_duration, settle
from hepdask_ml.errors import InputError, SiteError, words
from hepdask_ml.facility.demand import wanted
from hepdask_ml.facility.gateway_client import (
    ANSWER_S,
    check_proxy,
    is_plain,
    spoken_to,
)
from hepdask_ml.facility.scheduler import connected
from hepdask_ml.facility.session import Session, held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence, Set

    from hepdask_ml.facility.gateway_client import Dialogue

LOOK_S = 5.0
"""Time between two looks at how many workers are wanted."""

WORKERS = 2
"""Workers if none are asked for."""

_LOG = logging.getLogger(__name__)
_SITE = "the site gateway: options."


def _web(address: str) -> str | None:
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return "it must begin with http:// or https://"
    return "it must hold no password: see auth" if parts.password else None


def _loadable(name: str) -> str | None:
    return None if all(name.partition(":")) else 'it must be written "module:Class"'


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """What is asked of a Dask gateway: ``options:`` of the site ``gateway``.

    Attributes
    ----------
    address : str or None
        Its address, ``https://host``; that of Dask's configuration, ``gateway.address``, if None.
    proxy_address : str or None
        Where it passes connections to schedulers on, ``host:port`` or the port alone; that of
        Dask's configuration, ``gateway.proxy-address``, if None, else as ``address``.
    auth : {"basic", "jupyterhub", "kerberos"} or None
        How it knows who asks; as Dask's configuration says in ``gateway.auth`` if None.
    user : str or None
        Name for ``basic``; that of the account if None.
    secret_variable, secret_file : str or None
        Environment variable, or file, that holds the password for ``basic`` or the token for
        ``jupyterhub``, which has ``JUPYTERHUB_API_TOKEN`` without.  Never the secret itself.
    cluster : mapping
        Options that the gateway offers for a new cluster, such as ``worker_cores`` or ``image``.
    connect : str or None
        Name of a cluster that runs already: it is used as it is, and never stopped.
    client : str or None
        Another class of client, ``"module:Class"``, for gateways that need one.
    idle : float
        Seconds without work for any worker after which the idle ones are given back.
    state : str or None
        Folder that remembers the clusters that were started, so that those of killed drivers are
        taken up by the same site, or stopped by another; None leaves them as they are.
    """

    address: str | None = field(default=None, metadata={"rule": _web})
    proxy_address: str | None = field(default=None, metadata={"rule": filled})
    auth: str | None = field(
        default=None, metadata={"rule": one_of("basic", "jupyterhub", "kerberos")}
    )
    user: str | None = field(default=None, metadata={"rule": filled})
    secret_variable: str | None = field(default=None, metadata={"rule": filled})
    secret_file: str | None = field(default=None, metadata={"rule": filled, "path": True})
    cluster: Mapping[str, Any] = field(default_factory=dict, hash=False)
    connect: str | None = field(default=None, metadata={"rule": filled})
    client: str | None = field(default=None, metadata={"rule": _loadable})
    idle: float = field(default=300.0, metadata={"text": parse_duration, "form": "a duration"})
    state: str | None = field(
        default="~/.hepdask-ml/gateways", metadata={"rule": filled, "path": True}
    )

    def __post_init__(self) -> None:
        settle(self)
        secret = self.secret_variable or self.secret_file
        if secret and self.auth not in {"basic", "jupyterhub"}:
            raise InputError(
                "a secret is for auth: basic or jupyterhub: add it, or drop the secret"
            )
        if self.secret_variable and self.secret_file:
            raise InputError("secret_variable and secret_file are both given: drop one")
        if self.user and self.auth != "basic":
            raise InputError(f"user is {self.user} without auth: basic: add it, or drop the user")
        if self.connect and self.cluster:
            raise InputError("cluster is for a new one: drop it, or drop connect")


@dataclass(frozen=True, slots=True)
class GatewaySite:
    """A cluster of a Dask gateway.

    Attributes
    ----------
    workers : int or None
        Workers at most; two if None.  The gateway's own adaptive scaling counts Dask tasks, of
        which a campaign has one for each worker that it has already: it would never start any.
    threads : int or None
        None or 1: what a worker has is one of the gateway's options.
    options : GatewayOptions
        What is asked of the gateway.
    """

    workers: int | None = None
    threads: int | None = None
    options: GatewayOptions = field(default_factory=GatewayOptions)

    def __post_init__(self) -> None:
        if self.threads not in {None, 1}:
            raise InputError(
                f"the site gateway: threads is {self.threads}, which the gateway decides: see "
                "options.cluster for what it offers, such as worker_cores"
            )
        if self.workers is not None and self.options.connect:
            raise InputError(
                f"the site gateway: workers is {self.workers}, but a cluster that runs already is "
                "used as it is: drop workers, or drop options.connect"
            )

    def script(self) -> str:
        """Write down what the gateway would be asked.

        Returns
        -------
        str
            The requests, with the secrets' places and not the secrets.

        Examples
        --------
        >>> options = GatewayOptions(address="https://gateway.example", cluster={"worker_cores": 2})
        >>> print(GatewaySite(workers=8, options=options).script())
        # at https://gateway.example, with the authentication that Dask has set
        POST /api/v1/clusters/            {"cluster_options": {"worker_cores": 2}}
        POST /api/v1/clusters/NAME/scale  {"count": 8}
        # at the end
        DELETE /api/v1/clusters/NAME
        """
        options = self.options
        place = options.address or "the address of Dask's configuration (gateway.address)"
        lines = [f"# at {place}, {_identified(options)}"]
        if options.client:
            lines.append(f"# by the client {options.client}, which may do more")
        if options.connect:
            return "\n".join([*lines, f"GET /api/v1/clusters/{options.connect}"])
        cluster = json.dumps({"cluster_options": dict(options.cluster)}, default=str)
        scale = json.dumps({"count": self.workers or WORKERS})
        return "\n".join(
            [
                *lines,
                f"POST /api/v1/clusters/            {cluster}",
                f"POST /api/v1/clusters/NAME/scale  {scale}",
                "# at the end",
                "DELETE /api/v1/clusters/NAME",
            ]
        )

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Start a cluster, or find that of a killed driver, and connect to it.

        Yields
        ------
        Client
            Connected; the workers come when the gateway has room for them.

        Raises
        ------
        InputError
            If the gateway refuses the options, or whoever asks.
        SiteError
            If no gateway answers, or it cannot start the cluster.
        """
        with ExitStack() as stack:
            gateway = stack.enter_context(spoken_to(self.options))
            running = self._running(gateway)
            cluster = self._cluster(gateway, running, stack)
            client = stack.enter_context(_connected(cluster))
            if not self.options.connect:
                self._scale(gateway, cluster, client, stack)
            yield client

    def _running(self, gateway: Dialogue) -> list[str]:
        """Give the clusters that run; see that all that is wanted can be had."""
        reports = gateway.ask(gateway.client.list_clusters, advice="check the address")
        running = [report.name for report in reports]
        check_proxy(gateway)
        name, wishes = self.options.connect, self.options.cluster
        if name and name not in running:
            raise InputError(
                f"{_SITE}connect is {name}, which is no cluster that runs at {gateway.address}: "
                f"{_advice(name, running)}"
            )
        # Another kind of client may take more than its gateway offers.
        if not name and is_plain(gateway.client, "Gateway", "new_cluster"):
            _check_wishes(gateway.ask(gateway.client.cluster_options), wishes)
        return running

    def _cluster(self, gateway: Dialogue, running: Sequence[str], stack: ExitStack) -> Any:
        """Have a cluster that has started, and what ends it afterwards."""
        ask, client = gateway.ask, gateway.client
        name = self.options.connect
        if not name and not is_plain(client, "Gateway", "new_cluster"):
            cluster = ask(partial(client.new_cluster, **self.options.cluster), None)
            stack.callback(ask, cluster.close, None)
            return cluster
        if not name:
            name = self._own(gateway, running, stack)
            stack.callback(_stop, gateway, name)
        cluster = ask(partial(client.connect, name), None)
        stack.callback(ask, partial(cluster.close, shutdown=False))
        return cluster

    def _own(self, gateway: Dialogue, running: Sequence[str], stack: ExitStack) -> str:
        """Name a cluster that this process has to stop: that of a killed driver, or a new one.

        Other clusters of killed drivers are stopped: to their gateway, workers that wait for the
        driver of their campaign are never idle.
        """
        if self.options.state is None:
            return self._new(gateway)
        folder = self._folder()
        # Not every home that machines share keeps locks between them, so each has its own.
        here = f"gateway-{socket.gethostname()}-"
        remembered = stack.enter_context(held(folder, here + self._digest(gateway.address)))
        name = next((one for one in remembered.jobs if one in running), None)
        _stop_orphans(gateway, folder, here, {*running} - {name})
        if name is None:
            name = self._new(gateway)
            remembered.keep_jobs({name: ""})
        else:
            _LOG.warning("the cluster %s of a driver that was killed is taken up", name)
        return name

    def _new(self, gateway: Dialogue) -> str:
        name: str = gateway.ask(partial(gateway.client.submit, **self.options.cluster))
        return name

    def _folder(self) -> Path:
        """Make the folder that remembers clusters."""
        folder = Path(str(self.options.state)).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise InputError(
                f"{_SITE}state is {folder}, which cannot be written ({error.strerror}): name "
                "another folder"
            ) from None
        return folder

    def _digest(self, address: str) -> str:
        """Tell sites apart of which none may take up a cluster of the other."""
        alike = (address, self.options.user, dict(self.options.cluster), hepdask_ml.__version__)
        text = json.dumps(alike, sort_keys=True, default=str)
        return sha256(text.encode()).hexdigest()[:12]

    def _scale(self, gateway: Dialogue, cluster: Any, client: Client, stack: ExitStack) -> None:
        most = self.workers or WORKERS
        _scaled(gateway, cluster, most)
        # Another kind of client may submit jobs whenever it is asked: it is asked once.
        if is_plain(cluster, "GatewayCluster", "scale"):
            keep = partial(_adjusted, gateway, cluster, client, most, self.options.idle)
            stack.enter_context(_kept(keep, most))


def _advice(name: str, names: Sequence[str]) -> str:
    if not names:
        return "there is none"
    near = nearest(name, names)
    return near[0] if near else f"choose from {', '.join(names)}"


def _identified(options: GatewayOptions) -> str:
    if options.auth is None:
        return f"with the authentication that {'the client' if options.client else 'Dask'} has set"
    secret = ""
    if options.secret_variable:
        secret = f", with the secret in the variable {options.secret_variable}"
    if options.secret_file:
        secret = f", with the secret in {options.secret_file}"
    name = f" as {options.user}" if options.user else ""
    return f"by {options.auth}{name}{secret}"


@contextmanager
def _connected(cluster: Any) -> Iterator[Client]:
    try:
        client = connected(cluster.scheduler_address, security=cluster.security, timeout=ANSWER_S)
    except (OSError, ValueError) as error:
        raise SiteError(
            f"the scheduler of the cluster {cluster.name} does not answer at "
            f"{cluster.scheduler_address} ({words(error)}): check options.proxy_address"
        ) from None
    with client:
        yield client


def _check_wishes(offered: Any, wishes: Mapping[str, Any]) -> None:
    for name, value in wishes.items():
        if name not in offered:
            raise InputError(
                f"{_SITE}cluster.{name} is nothing that the gateway offers: "
                f"{_advice(name, list(offered))}"
            )
        try:
            offered[name] = value
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{_SITE}cluster.{name} is not what the gateway takes: {error}"
            ) from None


def _stop(gateway: Dialogue, name: str) -> None:
    """Stop a cluster; nothing that was done is lost if that fails."""
    try:
        gateway.ask(partial(gateway.client.stop_cluster, name))
    except (InputError, SiteError) as error:
        _LOG.warning("the cluster %s could not be stopped: %s", name, error)


def _stop_orphans(gateway: Dialogue, folder: Path, prefix: str, running: Set[str]) -> None:
    """Stop the clusters that run, are remembered here, and have no driver any more."""
    for path in sorted(folder.glob(f"{prefix}*")):
        if running & Session(path).jobs.keys():
            # Where its driver lives, this holds another folder, which is empty.
            with held(folder, path.name) as left:
                for name in running & left.jobs.keys():
                    _LOG.warning("the cluster %s of a driver that was killed is stopped", name)
                    _stop(gateway, name)


def _scaled(gateway: Dialogue, cluster: Any, workers: int) -> None:
    """Ask for a number of workers; a gateway that gives fewer is told of, and goes on."""
    with catch_warnings(record=True) as told:
        simplefilter("always")
        answer = gateway.ask(partial(cluster.scale, workers), None)
    for one in told:
        _LOG.warning("the gateway says: %s", one.message)
    if answer is False:
        raise SiteError(f"the client could not ask for {workers} workers: see what it has printed")


@contextmanager
def _kept(adjust: Callable[[int], int], asked: int) -> Iterator[None]:
    """Adjust the number of workers now and then."""
    ended = threading.Event()

    def keep() -> None:
        number, last = asked, ""
        while not ended.wait(LOOK_S):
            try:
                number = adjust(number)
            except (InputError, SiteError) as error:
                if str(error) != last:
                    _LOG.warning("the workers are left as they are: %s", error)
                last = str(error)

    thread = threading.Thread(target=keep, name="hepdask-ml-workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _adjusted(
    gateway: Dialogue, cluster: Any, client: Client, most: int, idle_s: float, asked: int
) -> int:
    """Ask for other workers if need be; give the number that is asked for now."""
    scheduler: Any = client.scheduler
    try:
        demand = client.sync(scheduler.hepdask_ml_demand, callback_timeout=ANSWER_S)  # type: ignore[no-untyped-call]
        now = wanted(most, demand, idle_s)
        if now < asked:
            # The gateway closes no worker on which there is a long task, such as a drain.
            here = client.nthreads()  # type: ignore[no-untyped-call]
            free = [address for address in here if address not in demand["busy"]]
            client.retire_workers(free[: max(0, len(here) - now)], close_workers=True)
    except OSError as error:
        report = gateway.ask(partial(gateway.client.get_cluster, cluster.name))
        raise SiteError(
            f"the scheduler of the cluster {cluster.name} is out of reach ({words(error)}), which "
            f"for the gateway is {report.status.name.lower()}"
        ) from None
    if now != asked:
        _scaled(gateway, cluster, now)
    return now
