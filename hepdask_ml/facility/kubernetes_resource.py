"""What is asked of Kubernetes, and the resource that is made of it for the Dask operator.

The operator makes pods of a ``DaskCluster``, and replaces those that die.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import hepdask_ml
from hepdask_ml.config import at_least_one, filled, parse_duration, settle
from hepdask_ml.facility.kubernetes_client import library
from hepdask_ml.facility.security import CERTIFICATE, KEY

PORT = 8786
"""Where the scheduler listens."""

LABELS = {"app.kubernetes.io/managed-by": "hepdask-ml"}
"""Labels of what is made here."""

_ASKED = "hepdask-ml/asked"
_SECRETS = "/etc/hepdask-ml/tls"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGTP]?i?)B?")


def _is_name(text: str) -> str | None:
    fits = _NAME.fullmatch(text)
    return None if fits else "it must be at most 40 small letters, digits and hyphens between them"


def _is_memory(text: str) -> str | None:
    return None if _QUANTITY.fullmatch(text) else "write it as 4 GB or 4Gi"


def _is_cpu(text: str) -> str | None:
    fits = re.fullmatch(r"\d+(?:\.\d+)?|\d+m", text)
    return None if fits else "write it as 2, 0.5 or 500m"


def _not_negative(value: float) -> str | None:
    return None if value >= 0 else "it is negative"


def _time_to_commit(value: float) -> str | None:
    return None if value >= 20 else "workers need 20 seconds to commit what they hold"


@dataclass(frozen=True, slots=True)
class KubernetesOptions:
    """What is asked of Kubernetes: ``options:`` of the site ``kubernetes``.

    Attributes
    ----------
    image : str
        Container image of scheduler and workers, which holds hepdask-ml in this version, and Dask
        and Python as they are here.
    namespace : str or None
        Namespace; that of the context, or of the pod that the driver runs in, if None.
    context : str or None
        Context of the kubeconfig; the current one if None.
    name : str or None
        Name of the cluster; a new one if None.
    memory : str
        Memory of each worker: ``"4 GB"``, or as Kubernetes writes it, ``"4Gi"``.
    cpu : str or None
        Processors of each worker: ``"2"``, ``"500m"``; as many as threads if None.
    gpus : int
        Graphics processors, and workers, of each pod: each worker sees one.
    gpu_resource : str
        Their name in this cluster: ``"nvidia.com/gpu"``, ``"nvidia.com/mig-1g.5gb"``.
    scheduler_memory : str
        Memory of the scheduler.
    environment : mapping of str to str
        Variables for the workers.
    service_account : str or None
        Service account of the pods.
    image_pull_secrets : tuple of str
        Names of the secrets that the image's registry needs.
    node_selector : mapping of str to str
        Labels of the nodes for the workers.
    tolerations : tuple of mapping
        Taints of nodes that the workers bear, as Kubernetes writes them.
    pod : mapping
        More for the specification of the workers' pods, as Kubernetes writes it: ``volumes``,
        ``priorityClassName``; what is below ``containers`` is added to the worker's.
    grace : float
        Seconds that a pod has for its end, at least 20.
    start : float
        Seconds in which the scheduler has to come.
    tls : bool
        Encrypt and authenticate all connections, with temporary certificates.
    idle : float
        Seconds without work for any worker after which the idle ones are given back.
    worker_options : tuple of str
        More words for ``dask worker``.
    state : str or None
        Folder with the names of the clusters that were started, by which those of a killed driver
        are found; None leaves them where they are.
    """

    image: str = field(metadata={"rule": filled})
    namespace: str | None = field(default=None, metadata={"rule": filled})
    context: str | None = field(default=None, metadata={"rule": filled})
    name: str | None = field(default=None, metadata={"rule": _is_name})
    memory: str = field(default="2 GB", metadata={"rule": _is_memory})
    cpu: str | None = field(default=None, metadata={"rule": _is_cpu})
    gpus: int = field(default=0, metadata={"rule": _not_negative})
    gpu_resource: str = field(default="nvidia.com/gpu", metadata={"rule": filled})
    scheduler_memory: str = field(default="2 GB", metadata={"rule": _is_memory})
    environment: Mapping[str, Any] = field(default_factory=dict, hash=False)
    service_account: str | None = field(default=None, metadata={"rule": filled})
    image_pull_secrets: tuple[str, ...] = field(
        default=(), metadata={"text": lambda text: (text,), "form": "one text"}
    )
    node_selector: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tolerations: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    pod: Mapping[str, Any] = field(default_factory=dict, hash=False)
    grace: float = field(
        default=30.0,
        metadata={"rule": _time_to_commit, "text": parse_duration, "form": "a duration"},
    )
    start: float = field(
        default=300.0,
        metadata={"rule": at_least_one, "text": parse_duration, "form": "a duration"},
    )
    tls: bool = True
    idle: float = field(
        default=300.0,
        metadata={"rule": _not_negative, "text": parse_duration, "form": "a duration"},
    )
    worker_options: tuple[str, ...] = field(
        default=(), metadata={"text": lambda text: (text,), "form": "one text"}
    )
    state: str | None = field(
        default="~/.hepdask-ml/kubernetes", metadata={"rule": filled, "path": True}
    )

    def __post_init__(self) -> None:
        settle(self)


def cluster_resource(
    name: str, workers: int, threads: int, options: KubernetesOptions
) -> dict[str, Any]:
    """Make the resource that the operator is given.

    Parameters
    ----------
    name : str
        Name of the cluster.
    workers : int
        Workers altogether.
    threads : int
        Threads of each.
    options : KubernetesOptions
        What is asked.

    Returns
    -------
    dict
        The ``DaskCluster``, which holds no secrets.

    Raises
    ------
    InputError
        If dask-kubernetes is not installed.
    """
    made: dict[str, Any] = library("dask_kubernetes.operator").make_cluster_spec(
        name=name, image=options.image, n_workers=ceil(workers / workers_per_pod(options))
    )
    scheduler, worker = made["spec"]["scheduler"]["spec"], made["spec"]["worker"]["spec"]
    _fill_scheduler(scheduler, name, options)
    _fill_worker(worker, name, threads, options)
    made["spec"]["worker"]["spec"] = _merged(worker, options.pod)
    asked = json.dumps([made, hepdask_ml.__version__], sort_keys=True)
    made["metadata"]["labels"] = dict(LABELS)
    made["metadata"]["annotations"] = {_ASKED: hashlib.sha256(asked.encode()).hexdigest()[:16]}
    return made


def asked(resource: Mapping[str, Any]) -> str:
    """Give what is equal for two resources if the same was asked for in the same version."""
    return str(resource["metadata"].get("annotations", {}).get(_ASKED, ""))


def secret_resource(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Make the secret that the pods of a cluster read their certificates from.

    Parameters
    ----------
    name : str
        Name of the cluster.
    texts : mapping of str to str
        Certificate and key by file name.

    Returns
    -------
    dict
        The ``Secret``.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(name), "labels": dict(LABELS)},
        "stringData": dict(texts),
    }


def secret_name(name: str) -> str:
    """Name the secret of a cluster."""
    return f"{name}-tls"


def workers_per_pod(options: KubernetesOptions) -> int:
    """Count the workers in a pod: one for each graphics processor."""
    return max(1, options.gpus)


def _fill_scheduler(pod: dict[str, Any], name: str, options: KubernetesOptions) -> None:
    container = pod["containers"][0]
    protocol = "tls" if options.tls else "tcp"
    # All of the pod's own addresses, of which one is the loopback that ports are forwarded to.
    container["args"] = ["dask", "scheduler", "--host", "0.0.0.0", "--port", str(PORT)]
    container["args"] += ["--protocol", protocol, "--no-dashboard"]
    memory = _bytes(options.scheduler_memory)
    container["resources"] = {
        "requests": {"cpu": "100m", "memory": memory},
        "limits": {"cpu": "1", "memory": memory},
    }
    container["env"] = _variables({**_PLAIN, **(_CERTIFIED if options.tls else {})})
    pod["terminationGracePeriodSeconds"] = 5
    _fill_pod(pod, name, options)


def _fill_worker(pod: dict[str, Any], name: str, threads: int, options: KubernetesOptions) -> None:
    container = pod["containers"][0]
    here = workers_per_pod(options)
    container["args"] = ["dask", "worker", "--name", "$(DASK_WORKER_NAME)"]
    container["args"] += ["--nthreads", str(threads), "--no-dashboard"]
    if here > 1:
        container["args"] += ["--nworkers", str(here)]
        container["args"] += ["--preload-nanny", "hepdask_ml.facility.cuda"]
    else:
        # Without a nanny, a pod's SIGTERM reaches the process that holds work.
        container["args"].append("--no-nanny")
    container["args"] += ["--resources", "GPU=1"] if options.gpus else []
    container["args"] += options.worker_options
    container.pop("ports", None)
    amount = {
        "cpu": _times(options.cpu or str(threads), here),
        "memory": _times(_bytes(options.memory), here),
    }
    if options.gpus:
        # As text: Kubernetes takes whole numbers, the operator's definition does not.
        amount[options.gpu_resource] = str(options.gpus)
    container["resources"] = {"requests": dict(amount), "limits": dict(amount)}
    protocol = "tls" if options.tls else "tcp"
    container["env"] = _variables(
        {
            **_PLAIN,
            **(_CERTIFIED if options.tls else {}),
            **_ONE_THREAD,
            "DASK_SCHEDULER_ADDRESS": f"{protocol}://{name}-scheduler:{PORT}",
            **options.environment,
        }
    )
    pod["terminationGracePeriodSeconds"] = ceil(options.grace)
    # The first process of a namespace is deaf to SIGTERM while it starts.
    pod["shareProcessNamespace"] = True
    if options.node_selector:
        pod["nodeSelector"] = {key: _text(value) for key, value in options.node_selector.items()}
    if options.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in options.tolerations]
    _fill_pod(pod, name, options)


def _fill_pod(pod: dict[str, Any], name: str, options: KubernetesOptions) -> None:
    """Fill in what scheduler and workers have in common."""
    # Nothing in the pods talks to the API server.
    pod["automountServiceAccountToken"] = False
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    if options.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in options.image_pull_secrets]
    if options.tls:
        pod["containers"][0]["volumeMounts"] = [
            {"name": "tls", "mountPath": _SECRETS, "readOnly": True}
        ]
        pod["volumes"] = [{"name": "tls", "secret": {"secretName": secret_name(name)}}]


_PLAIN = {
    # No dashboard, and nothing else but health, for whoever asks in the cluster's network.
    "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": '["distributed.http.health"]',
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": '["distributed.http.health"]',
}
_CERTIFIED = {
    "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
    "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": f"{_SECRETS}/{CERTIFICATE}",
    **{
        f"DASK_DISTRIBUTED__COMM__TLS__{role}__{what}": f"{_SECRETS}/{file}"
        for role in ("SCHEDULER", "WORKER", "CLIENT")
        for what, file in (("CERT", CERTIFICATE), ("KEY", KEY))
    },
}
_ONE_THREAD = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")
}


def _variables(values: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": name, "value": _text(value)} for name, value in values.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _bytes(text: str) -> str:
    """Write an amount as Kubernetes does."""
    found = _QUANTITY.fullmatch(text)
    return f"{found[1]}{'k' if found[2] == 'K' else found[2]}" if found else text


def _times(quantity: str, n: int) -> str:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(\D*)", quantity)
    return f"{float(found[1]) * n:g}{found[2]}" if found and n > 1 else quantity


def _merged(base: Any, more: Any, key: str = "") -> Any:
    """Add what a user writes to a specification; it wins where both say something."""
    if isinstance(base, dict) and isinstance(more, dict):
        return {
            **base,
            **{
                name: _merged(base[name], value, name) if name in base else value
                for name, value in more.items()
            },
        }
    if isinstance(base, list) and isinstance(more, list | tuple):
        if key == "containers" and more:
            return [_merged(base[0], more[0]), *base[1:], *more[1:]]
        return [*base, *more]
    return more
