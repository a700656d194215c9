"""Looks after the pods of a cluster: waits for the scheduler, and keeps the workers.

What does not start, says why: the reasons of Kubernetes are passed on in its own words.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hepdask_ml.errors import SiteError
from hepdask_ml.facility.demand import wanted
from hepdask_ml.facility.kubernetes_client import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client

    from hepdask_ml.facility.kubernetes_client import Thing

OPERATOR_S = 20.0
"""Time in which the operator has to take notice of a cluster."""

LOOK_S = 5.0
"""Time between two looks at how many workers are wanted."""

_LOG = logging.getLogger(__name__)
_HOPELESS = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}
"""Reasons for which a container waits, and will wait for ever."""


def scheduler_pod(place: Place, cluster: str, start_s: float) -> str:
    """Wait for the scheduler of a cluster.

    Parameters
    ----------
    place : Place
        Where the cluster is.
    cluster : str
        Its name.
    start_s : float
        Time in seconds in which it has to come.

    Returns
    -------
    str
        Name of the pod in which it is ready.

    Raises
    ------
    SiteError
        If it does not come, with the reason.
    """
    begun, reason = monotonic(), "nothing was heard of its pod"
    labels = {"cluster_name": cluster, "component": "scheduler"}
    while (waited_s := monotonic() - begun) < start_s:
        for pod in place.listed("Pod", **labels):
            if _is_ready(pod):
                return str(pod["metadata"]["name"])
            hopeless, trouble = _trouble(place, pod)
            # What a registry has said says more than that it is not asked again for now.
            reason = trouble if trouble and "ErrImagePull" not in reason else reason
            if hopeless:
                raise SiteError(f"the scheduler of the cluster {cluster} does not start: {reason}")
        for deployment in place.listed("Deployment", **labels):
            reason = _refusal(deployment) or reason
        seen = place.get("DaskCluster", cluster)
        if seen is None:
            raise SiteError(f"somebody has deleted the cluster {cluster}: try again")
        if waited_s > OPERATOR_S and not seen.get("status", {}).get("phase"):
            raise SiteError(
                f"no Dask operator takes notice of the cluster {cluster}: ask those who run "
                f"this Kubernetes whether theirs runs, and looks after the namespace "
                f"{place.namespace}"
            )
        sleep(0.25)
    raise SiteError(
        f"the scheduler did not come in {start_s:g} s, as options.start allows: {reason}"
    )


def clear_away(place: Place, cluster: str) -> None:
    """Let pods end at once that are to be deleted and in which nothing runs.

    Parameters
    ----------
    place : Place
        Where the cluster is.
    cluster : str
        Its name.
    """
    # Kubernetes may take a minute for it.
    for pod in place.listed("Pod", cluster_name=cluster):
        containers = pod.get("status", {}).get("containerStatuses", [])
        runs = any("running" in container["state"] for container in containers)
        if "deletionTimestamp" in pod["metadata"] and not runs:
            with suppress(SiteError):  # who may not do it waits
                place.delete("Pod", pod["metadata"]["name"], gracePeriodSeconds=0)


def _is_ready(pod: Thing) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def _trouble(place: Place, pod: Thing) -> tuple[bool, str]:
    """Say whether a pod will never run, and why it does not yet."""
    status = pod.get("status", {})
    for container in status.get("containerStatuses", []):
        waiting = container["state"].get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason == "CrashLoopBackOff":
            message = place.last_line(pod["metadata"]["name"]) or message
        if message:
            return reason in _HOPELESS, f"{reason}: {message}"
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return False, f"{condition.get('reason', '')}: {condition.get('message', '')}"
    return False, ""


def _refusal(deployment: Thing) -> str:
    """Say why no pod is made, such as a quota."""
    for condition in deployment.get("status", {}).get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return str(condition.get("message", ""))
    return ""


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers of a cluster.

    Each pod has a deployment of its own, which replaces it.

    Attributes
    ----------
    place : Place
        Where the cluster is.
    cluster : str
        Its name.
    per_pod : int
        Workers in each pod.
    """

    place: Place
    cluster: str
    per_pod: int

    @contextmanager
    def kept(self, client: Client, most: int, idle_s: float) -> Iterator[None]:
        """Keep as many workers as there is work for, for as long as the block lasts.

        Parameters
        ----------
        client : Client
            Connected to their scheduler.
        most : int
            Workers at most.
        idle_s : float
            Time in seconds after which those without work are given up.
        """
        ended = threading.Event()
        keep = partial(self._keep, client, most, idle_s, ended.wait)
        thread = threading.Thread(target=keep, name="hepdask-ml-workers", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def dismiss(self, client: Client, grace_s: float) -> None:
        """End all workers, while there is a scheduler: without, they wait for it.

        Parameters
        ----------
        client : Client
            Connected to their scheduler.
        grace_s : float
            Time in seconds that they have.
        """
        deadline = monotonic() + grace_s
        with suppress(SiteError, OSError):
            self.place.delete("DaskWorkerGroup", self._name)
            while client.nthreads() and monotonic() < deadline:  # type: ignore[no-untyped-call]
                sleep(0.1)

    @property
    def _name(self) -> str:
        return f"{self.cluster}-default"

    def _scale(self, pods: int, busy: Sequence[str]) -> None:
        """Have this number of pods; those of busy workers are the last to be given up."""
        group = self.place.get("DaskWorkerGroup", self._name)
        if group is None or group["spec"]["worker"]["replicas"] == pods:
            return
        # The operator would choose for itself whom to retire, and not ask whether it has work.
        here = [each["metadata"]["name"] for each in self._listed("Deployment")]
        hosts = {urlsplit(address).hostname for address in busy}
        busy_pods = [pod for pod in self._listed("Pod") if pod["status"].get("podIP") in hosts]
        kept = {_deployment(pod) for pod in busy_pods}
        idle = [name for name in here if name not in kept]
        for name in idle[: max(0, len(here) - pods)]:
            self.place.delete("Deployment", name, propagationPolicy="Background")
        changes = {"spec": {"worker": {"replicas": pods}}}
        self.place.patch("DaskWorkerGroup", self._name, changes)

    def _listed(self, kind: str) -> list[Thing]:
        return self.place.listed(kind, workergroup_name=self._name)

    def _troubles(self) -> set[str]:
        """Say why some pods do not run."""
        found = {_refusal(one) for one in self._listed("Deployment")}
        found |= {_trouble(self.place, pod)[1] for pod in self._listed("Pod")}
        return found - {""}

    def _keep(
        self, client: Client, most: int, idle_s: float, wait: Callable[[float], bool]
    ) -> None:
        told = set[str]()
        while not wait(LOOK_S):
            try:
                demand = client.run_on_scheduler(_demand())  # type: ignore[no-untyped-call]
                pods = ceil(wanted(most, demand, idle_s) / self.per_pod)
                self._scale(pods, demand["busy"] if demand else [])
                troubles = self._troubles()
            except (SiteError, OSError):
                continue  # out of reach for now: the driver notices if it stays so
            for trouble in troubles - told:
                _LOG.warning("workers of the cluster %s do not run: %s", self.cluster, trouble)
            told |= troubles


def _demand() -> Callable[..., Any]:
    """Make a function that asks the pools for what they want, and gives None without any.

    A scheduler complains in its log of a message that it does not know yet.
    """

    def ask(dask_scheduler: Any) -> Any:
        answer = dask_scheduler.handlers.get("hepdask_ml_demand")
        return answer and answer()

    return ask


def _deployment(pod: Thing) -> str:
    """Give the deployment of a pod: its owner's name without the last part."""
    owners = pod["metadata"].get("ownerReferences", [])
    return str(owners[0]["name"]).rsplit("-", 1)[0] if owners else ""
