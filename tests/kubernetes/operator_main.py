"""The Dask operator as it is, on a Kubernetes older than its library supports."""

from __future__ import annotations

from typing import Any

from dask_kubernetes.operator.controller.controller import *  # noqa: F403
from kr8s import _objects
from kr8s.asyncio.objects import Pod

OBJECTS: Any = _objects


async def ready_pods(self: Any) -> list[Any]:
    """Before Kubernetes 1.27, kr8s 0.20 does not know what it gets for a pod."""
    selector = OBJECTS.dict_to_selector(self.spec["selector"])
    pods: list[Any] = [
        pod async for pod in Pod.list(namespace=self.namespace, label_selector=selector)
    ]
    return [pod for pod in pods if await pod.async_ready()]


OBJECTS.Service.async_ready_pods = ready_pods
