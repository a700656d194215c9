"""Speaks with the API server of a Kubernetes: the door to kr8s, which need not be installed.

The library is asynchronous here, in a loop of its own.  So every question has a time to be answered
in, notebooks can ask as well, and whatever is raised becomes one sentence.  What is asked for and
what comes are plain mappings, as Kubernetes writes them.
"""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import InputError, SiteError, words

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Mapping

    Thing = Mapping[str, Any]

ANSWER_S = 10.0
"""Time in which the API server has to answer."""

CLOSE_S = 2.0
"""Time in which connections end by themselves."""

GROUP = "kubernetes.dask.org/v1"
"""Group and version of the operator's resources."""

_PATHS = {
    "DaskCluster": (GROUP, "daskclusters"),
    "DaskWorkerGroup": (GROUP, "daskworkergroups"),
    "Deployment": ("apps/v1", "deployments"),
    "Pod": ("v1", "pods"),
    "Secret": ("v1", "secrets"),
}
"""Where each kind of thing is found."""

_NOT_FOUND = 404


def library(name: str) -> Any:
    """Import a module of dask-kubernetes, or of what it needs.

    Parameters
    ----------
    name : str
        The module.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise InputError(
            "the site kubernetes needs dask-kubernetes: install hepdask-ml[kubernetes]"
        ) from None


class Place:
    """A namespace of a Kubernetes, which is spoken to from ordinary code and any thread.

    All methods raise a `SiteError` where the server refuses, or does not answer.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        Runs in another thread.
    context, namespace : str or None
        As for `reached`.

    Attributes
    ----------
    server : str
        Where the server is.
    namespace : str
        The namespace.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: str | None, namespace: str | None
    ) -> None:
        self._loop = loop
        self._api: Any = None
        with _credentials():
            self._api = self._in_time(
                library("kr8s.asyncio").api(context=context, namespace=namespace)
            )
        self.server = str(self._api.auth.server)
        self.namespace = str(self._api.namespace)

    def get(self, kind: str, name: str) -> Thing | None:
        """Give a thing, or None where there is none."""
        status, found = self._ask("GET", kind, name)
        return None if status == _NOT_FOUND else dict(found)

    def listed(self, kind: str, **labels: str) -> list[Thing]:
        """Give what has these labels of the operator."""
        selector = ",".join(
            f"dask.org/{name.replace('_', '-')}={value}" for name, value in labels.items()
        )
        _, answer = self._ask("GET", kind, params={"labelSelector": selector})
        return list(answer.get("items", []))

    def create(self, thing: Thing) -> Thing:
        """Create a thing."""
        status, answer = self._ask("POST", thing["kind"], body=thing)
        if status == _NOT_FOUND:
            raise self._refusal(answer)
        return dict(answer)

    def patch(self, kind: str, name: str, changes: Thing) -> None:
        """Change a thing, if it is still there."""
        self._ask("PATCH", kind, name, body=changes)

    def own(self, owner: Thing, kind: str, name: str) -> None:
        """Let a thing be deleted with its owner."""
        reference = {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
        }
        self.patch(kind, name, {"metadata": {"ownerReferences": [reference]}})

    def delete(self, kind: str, name: str, **how: Any) -> None:
        """Delete a thing, if it is there, and all that it owns.

        Parameters
        ----------
        kind, name : str
            The thing.
        **how
            As Kubernetes has it; without, the thing ends after what it owns.
        """
        self._ask("DELETE", kind, name, body={"propagationPolicy": "Foreground", **how})

    def last_line(self, pod: str) -> str:
        """Give what a container printed last, before it was started again."""
        params = {"previous": "true", "tailLines": "5"}
        _, answer = self._ask("GET", "Pod", f"{pod}/log", params=params)
        lines = [line.strip() for line in str(answer.get("text", "")).splitlines()]
        return next((line for line in reversed(lines) if line), "")

    @contextmanager
    def forwarded(self, pod: str, port: int) -> Iterator[int]:
        """Have a port of this machine's loopback that leads to one of a pod."""

        async def begin() -> tuple[Any, int]:
            pods, forwards = library("kr8s.asyncio.objects"), library("kr8s.asyncio.portforward")
            there = pods.Pod(pod, namespace=self.namespace, api=self._api)
            forward = forwards.PortForward(there, port, local_port="auto")
            return forward, await forward.__aenter__()

        forward, here = self._in_time(begin())
        try:
            yield here
        finally:
            self._in_time(forward.__aexit__(None, None, None))

    def close(self) -> None:
        """End the connections."""

        async def close() -> None:
            # What was forwarded is over, and ends by itself if its pod is still there.
            if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
                _, left = await asyncio.wait(tasks, timeout=CLOSE_S)
                for task in left:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            # The library leaves what it forwards open where a pod dies, and has no way to close
            # its session.
            await self._loop.shutdown_asyncgens()
            if (session := getattr(self._api, "_session", None)) is not None:
                await session.aclose()

        self._in_time(close())

    def check(self) -> None:
        """See that there may be Dask clusters here.

        Raises
        ------
        SiteError
            If the operator is not installed, or the namespace is not open to the user.
        """
        status, _ = self._ask("GET", "DaskCluster", params={"limit": "1"})
        if status == _NOT_FOUND:
            raise SiteError(
                f"the Kubernetes at {self.server} has no Dask operator: ask those who run it to "
                "install it, with helm install dask-operator dask/dask-kubernetes-operator"
            )

    def _ask(
        self,
        method: str,
        kind: str,
        name: str = "",
        *,
        params: Mapping[str, str] | None = None,
        body: Thing | None = None,
    ) -> tuple[int, Any]:
        """Ask; give the status, an error only where nothing is found, and the answer."""
        version, path = _PATHS[kind]
        form = "merge-patch+json" if method == "PATCH" else "json"

        async def ask() -> tuple[int, Any]:
            async with self._api.call_api(
                method,
                version=version,
                namespace=self.namespace,
                url=f"{path}/{name}" if name else path,
                raise_for_status=False,
                params=params,
                content=None if body is None else json.dumps(body),
                headers={"Content-Type": f"application/{form}"},
            ) as response:
                if "json" not in response.headers.get("content-type", ""):
                    return response.status_code, {"text": response.text}
                return response.status_code, response.json()

        kr8s, httpx = library("kr8s"), library("httpx")
        try:
            status, answer = self._in_time(ask())
        except (TimeoutError, kr8s.APITimeoutError, httpx.HTTPError) as error:
            raise _silent(self.server, error) from None
        if status >= 400 and status != _NOT_FOUND:
            raise self._refusal(answer)
        return status, answer

    def _refusal(self, answer: Thing) -> SiteError:
        said = " ".join(str(answer.get("message") or answer.get("text") or "").split())
        return SiteError(f"Kubernetes refuses this in the namespace {self.namespace}: {said}")

    def _in_time(self, question: Awaitable[Any]) -> Any:
        async def answer() -> Any:
            async with asyncio.timeout(ANSWER_S):
                return await question

        future = asyncio.run_coroutine_threadsafe(answer(), self._loop)
        try:
            return future.result()
        finally:
            future.cancel()


@contextmanager
def reached(context: str | None, namespace: str | None) -> Iterator[Place]:
    """Reach the API server, and see that it knows Dask clusters.

    Parameters
    ----------
    context : str or None
        Context of the kubeconfig; the current one if None.
    namespace : str or None
        Namespace; that of the context, or of the pod that this process runs in, if None.

    Yields
    ------
    Place
        It has answered.

    Raises
    ------
    InputError
        If there is no kubeconfig, or dask-kubernetes is not installed.
    SiteError
        If no API server answers, it refuses, or has no Dask operator.
    """
    library("kr8s")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="hepdask-ml-kubernetes", daemon=True)
    thread.start()
    try:
        place = Place(loop, context, namespace)
        try:
            place.check()
            yield place
        finally:
            place.close()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def _credentials() -> Iterator[None]:
    """Turn what goes wrong on the way to the server into a sentence."""
    kr8s, httpx = library("kr8s"), library("httpx")
    try:
        yield
    except kr8s.ServerError as error:
        raise SiteError(f"Kubernetes does not let you in ({words(error)}): log in anew") from None
    except (TimeoutError, kr8s.APITimeoutError, httpx.HTTPError) as error:
        raise _silent("the address of the kubeconfig", error) from None
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"the way to Kubernetes cannot be read ({words(error)}): check the kubeconfig "
            "(KUBECONFIG, or ~/.kube/config), and options.context"
        ) from None


def _silent(server: str, error: BaseException) -> SiteError:
    return SiteError(
        f"no Kubernetes answers at {server} ({words(error)}): check the kubeconfig, and that it "
        "can be reached from here"
    )
