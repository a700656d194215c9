"""Kubernetes: scheduler and workers are pods, which the Dask operator keeps alive.

The operator, which the cluster's admin has installed, makes pods of a *resource*, a
``DaskCluster``, and replaces those that die.  What is added here: graphics processors for the
workers alone, encrypted connections, a clear word within seconds where something is refused or does
not start, workers that are given back when there is no work for them, and a cluster whose driver
was killed is found again.

The driver talks to the API server alone.  Inside of the cluster it reaches the scheduler by its
service, from outside by a port of this machine's loopback that the API server forwards.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import json
import logging
import os
import re
import socket
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from distributed import Client, Security

from hepdask_ml.errors import InputError, SiteError, words
from hepdask_ml.facility.kubernetes_client import ANSWER_S, GROUP, Place, library, reached
from hepdask_ml.facility.kubernetes_pods import Workers, clear_away, scheduler_pod
from hepdask_ml.facility.kubernetes_resource import (
    PORT,
    KubernetesOptions,
    asked,
    cluster_resource,
    secret_name,
    secret_resource,
    workers_per_pod,
)
from hepdask_ml.facility.scheduler import connected
from hepdask_ml.facility.security import CERTIFICATE, KEY, temporary
from hepdask_ml.facility.session import held

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WORKERS = 4
"""Workers of a site that does not say how many it wants."""

SETTLE_S = 30.0
"""Time in which Kubernetes clears away what has ended."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KubernetesSite:
    """A cluster of the Dask operator.

    Attributes
    ----------
    workers : int or None
        Workers at most; four if None.
    threads : int
        Threads of each.
    options : KubernetesOptions
        What is asked of Kubernetes.
    """

    workers: int | None
    threads: int
    options: KubernetesOptions

    def script(self) -> str:
        """Write down what would be created.

        Returns
        -------
        str
            The resource as YAML.
        """
        resource = self._resource(self.options.name or "hepdask-ml")
        kind = library("kr8s.asyncio.objects").new_class("DaskCluster", GROUP)
        return str(kind(resource).to_yaml())

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Create the cluster, or find that of a killed driver, and connect to it.

        Yields
        ------
        Client
            Connected; workers come as soon as there is room for them.

        Raises
        ------
        InputError
            If dask-kubernetes is not installed.
        SiteError
            If no API server answers, it refuses the cluster, or the scheduler does not start.
        """
        with ExitStack() as stack:
            place = stack.enter_context(reached(self.options.context, self.options.namespace))
            name, security = self._cluster(place, stack)
            client = stack.enter_context(_connected(place, name, security, self.options.start))
            group = Workers(place, name, workers_per_pod(self.options))
            stack.callback(group.dismiss, client, self.options.grace)
            stack.enter_context(group.kept(client, self._most, self.options.idle))
            yield client

    @property
    def _most(self) -> int:
        return WORKERS if self.workers is None else self.workers

    def _resource(self, name: str) -> dict[str, Any]:
        return cluster_resource(name, self._most, self.threads, self.options)

    def _cluster(self, place: Place, stack: ExitStack) -> tuple[str, Security | None]:
        """Have a cluster, and what ends it afterwards."""
        name, ours = self._name(place, stack)
        made, found = self._resource(name), place.get("DaskCluster", name)
        if found is not None and not ours:
            self._check(place, found, made)
        if found is not None and asked(found) != asked(made):
            _LOG.warning("the cluster %s of a driver that was killed is deleted", name)
            _delete(place, name, self.options.grace)
            found = None
        stack.callback(_end, place, name, self.options.grace)
        if found is None:
            return name, _created(place, made, tls=self.options.tls)
        _LOG.warning("the cluster %s of a driver that was killed is taken up", name)
        return name, self._security(place, name)

    def _name(self, place: Place, stack: ExitStack) -> tuple[str, bool]:
        """Name a cluster that nobody on this machine uses, and say whether we have started it."""
        options = self.options
        if options.state is None:
            return options.name or f"hepdask-ml-{_user()}-{uuid4().hex[:8]}", False
        # Not every home that machines share keeps locks between them, so each has its own.
        alike = [socket.gethostname(), place.server, place.namespace, options.name]
        digest = hashlib.sha256(json.dumps(alike).encode()).hexdigest()[:8]
        session = stack.enter_context(held(_folder(options.state), f"kubernetes-{digest}"))
        number = session.folder.name.removeprefix(f"kubernetes-{digest}")
        if options.name and number:
            raise _used(options.name)
        name = options.name or f"hepdask-ml-{_user()}-{digest}{number}"
        # The folder stays where a driver is killed.
        ours = options.name is None or name in session.jobs
        session.keep_jobs({name: ""})
        return name, ours

    def _check(self, place: Place, cluster: Mapping[str, Any], made: Mapping[str, Any]) -> None:
        """Refuse a cluster that has other options, or is used from another machine."""
        name = cluster["metadata"]["name"]
        if asked(cluster) != asked(made):
            raise InputError(
                f"the cluster {name} is there already, with other options: delete it with kubectl "
                f"delete daskcluster {name}, or give another options.name"
            )
        security = self._security(place, name)
        with _connected(place, name, security, self.options.start) as client:
            if _others(client):
                raise _used(name)

    def _security(self, place: Place, name: str) -> Security | None:
        """Give the certificates of a cluster that is there."""
        if not self.options.tls:
            return None
        secret = place.get("Secret", secret_name(name))
        if secret is None:
            raise SiteError(
                f"the cluster {name} has lost its certificates: delete it with kubectl delete "
                f"daskcluster {name}"
            )
        return _of_texts(
            {key: base64.b64decode(text).decode() for key, text in secret["data"].items()}
        )


def _user() -> str:
    with suppress(OSError, KeyError):
        return re.sub(r"[^a-z0-9]+", "", getpass.getuser().lower())[:16] or "user"
    return "user"


def _folder(state: str) -> Path:
    folder = Path(state).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(
            f"the site kubernetes: options.state is {folder}, which cannot be written "
            f"({error.strerror}): name another folder"
        ) from None
    return folder


def _used(name: str) -> SiteError:
    return SiteError(f"the cluster {name} is used by another driver: give another options.name")


def _of_texts(texts: Mapping[str, str]) -> Security:
    """Use a certificate and its key, which are written nowhere here."""
    certificate, key = texts[CERTIFICATE], texts[KEY]
    return Security(  # type: ignore[no-untyped-call]
        require_encryption=True,
        tls_ca_file=certificate,
        tls_client_cert=certificate,
        tls_client_key=key,
    )


def _created(place: Place, resource: Mapping[str, Any], *, tls: bool) -> Security | None:
    """Create a cluster, and its certificates before it."""
    if not tls:
        place.create(resource)
        return None
    name, texts = resource["metadata"]["name"], temporary()
    place.delete("Secret", secret_name(name))  # of a driver that was killed just here
    place.create(secret_resource(name, texts))
    place.own(place.create(resource), "Secret", secret_name(name))
    return _of_texts(texts)


def _delete(place: Place, name: str, grace_s: float) -> None:
    """Delete a cluster, and wait for its end."""
    deadline = monotonic() + grace_s + SETTLE_S
    place.delete("DaskCluster", name)
    while place.get("DaskCluster", name) is not None:
        if monotonic() > deadline:
            raise SiteError("its pods do not end")
        sleep(0.25)
        clear_away(place, name)
    place.delete("Secret", secret_name(name))


def _end(place: Place, name: str, grace_s: float) -> None:
    """Delete a cluster; nothing that was done is lost if that fails."""
    try:
        _delete(place, name, grace_s)
    except SiteError as error:
        _LOG.warning("the cluster %s could not be deleted: %s", name, error)


@contextmanager
def _connected(
    place: Place, name: str, security: Security | None, start_s: float
) -> Iterator[Client]:
    """Connect to the scheduler when it is there, from inside of Kubernetes or from outside."""
    pod = scheduler_pod(place, name, start_s)
    with ExitStack() as stack:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            host = f"{name}-scheduler.{place.namespace}:{PORT}"
        else:
            host = f"127.0.0.1:{stack.enter_context(place.forwarded(pod, PORT))}"
        protocol = "tcp" if security is None else "tls"
        try:
            client = connected(f"{protocol}://{host}", security=security, timeout=ANSWER_S)
        except (OSError, ValueError) as error:
            raise SiteError(
                f"the scheduler of the cluster {name} does not answer at {host} ({words(error)}): "
                f"see kubectl logs {pod}"
            ) from None
        with client:
            yield client


def _others(client: Client) -> int:
    """Count the other clients of a scheduler."""
    mine = client.id

    def others(dask_scheduler: Any) -> int:
        return sum(name not in ("fire-and-forget", mine) for name in dask_scheduler.clients)

    return int(client.run_on_scheduler(others))  # type: ignore[no-untyped-call]
