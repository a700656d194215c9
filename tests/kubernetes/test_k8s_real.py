"""A real Kubernetes, of one node, with the real Dask operator: see run.sh."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Client, get_worker
from made_up import control_region

from hepdask_ml import InputError, toy_limit
from hepdask_ml.config import record_of
from hepdask_ml.errors import SiteError
from hepdask_ml.facility import kubernetes_pods
from hepdask_ml.facility.kubernetes import KubernetesSite
from hepdask_ml.facility.kubernetes_resource import KubernetesOptions
from hepdask_ml.testing import SiteContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hepdask_ml.campaign.campaign import Status
    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.inference.limit import Limit

STATE = os.environ.get("HEPDASK_ML_K8S")
"""The folder of the cluster that runs, set by run.sh."""

pytestmark = [
    pytest.mark.k8s,
    pytest.mark.skipif(STATE is None, reason="needs the cluster of tests/kubernetes/run.sh"),
    # The newest that can be built of Debian's sources is older than what kr8s was tried with.
    pytest.mark.filterwarnings("ignore:Kubernetes version v1.20:UserWarning"),
    # The Python of the image is Debian's, and it has only what hepdask-ml needs.
    pytest.mark.filterwarnings("ignore:Mismatched versions found"),
]

IMAGE = "localhost/hepdask-ml:test"
CAMPAIGN: dict[str, Any] = {"scan": [0.5, 1.0, 2.0, 4.0], "toys": 400_000, "seed": 5}
"""Some ten seconds of work for two quarters of a processor."""


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_pods, "LOOK_S", 0.5)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """What a test leaves behind does not meet the next."""
    yield
    kubectl("delete", "daskclusters", "--all")
    wait_for(lambda: not everything(), "what was left behind to be gone")


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def site(workers: int = 1, threads: int = 1, **options: Any) -> KubernetesSite:
    given = {
        "image": IMAGE,
        "memory": "500 MB",
        "scheduler_memory": "500 MB",
        "cpu": "250m",
        "state": None,
        **options,
    }
    made = record_of(KubernetesOptions, given, "the site kubernetes: options.")
    return KubernetesSite(workers, threads, made)


@contextmanager
def opened(workers: int = 1, **options: Any) -> Iterator[Any]:
    with site(workers, **options).open() as client:
        yield client


def kubectl(*words: str) -> str:
    done = subprocess.run(["kubectl", *words], capture_output=True, text=True, check=True)
    return done.stdout


def found(kind: str, labels: str = "", namespace: str = "default") -> list[dict[str, Any]]:
    words = ["get", kind, "--namespace", namespace, "--output", "json", "--selector", labels]
    items: list[dict[str, Any]] = json.loads(kubectl(*words))["items"]
    return items


def names(kind: str, labels: str = "") -> set[str]:
    return {each["metadata"]["name"] for each in found(kind, labels)}


def pods(component: str) -> list[dict[str, Any]]:
    return found("pods", f"dask.org/component={component}")


def everything() -> set[str]:
    kinds = ("daskclusters", "daskworkergroups", "deployments", "replicasets", "pods", "secrets")
    made = {name for kind in kinds for name in names(kind)}
    made |= names("services", "dask.org/component")
    return {name for name in made if not name.startswith("default-token")}


def wait_for(what: Callable[[], Any], words: str, patience_s: float = 60.0) -> Any:
    end = monotonic() + patience_s
    while not (seen := what()):
        assert monotonic() < end, f"waited too long for {words}"
        sleep(0.2)
    return seen


def document(limit: Limit) -> str:
    return json.dumps(limit.to_json())


class TestKubernetesSite(SiteContract):
    local = False

    def site(self, **options: Any) -> KubernetesSite:
        return site(1, 2, **options)


# What is made.


def test_k8s_real_operator_makes_what_was_asked_for() -> None:
    asked = {
        "gpus": 1,
        "service_account": "default",
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "node_selector": {"kubernetes.io/hostname": "node"},
        "environment": {"WHERE": "k8s"},
        "grace": 25,
        "pod": {"volumes": [{"name": "more", "emptyDir": {}}]},
    }
    with opened(workers=2, **asked) as client:
        client.wait_for_workers(2, timeout=60)
        (scheduler,), workers = pods("scheduler"), pods("worker")
        (service,) = found("services", "dask.org/component=scheduler")

        def variables() -> list[str]:
            return [os.environ["OMP_NUM_THREADS"], os.environ["WHERE"], str(os.getpid())]

        seen = client.submit(variables, resources={"GPU": 1}).result()
        assert client.scheduler.address.startswith("tls://")
    assert seen[:2] == ["1", "k8s"]
    assert len(workers) == 2
    for worker in workers:
        spec = worker["spec"]
        assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert spec["nodeSelector"] == {"kubernetes.io/hostname": "node"}
        assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
        assert spec["terminationGracePeriodSeconds"] == 25
        assert spec["serviceAccountName"] == "default"
        assert {"tls", "more"} <= {volume["name"] for volume in spec["volumes"]}
    assert "nvidia.com/gpu" not in json.dumps(scheduler["spec"]["containers"])
    assert service["spec"]["type"] == "ClusterIP"
    assert not everything()


def test_k8s_real_nobody_connects_without_the_certificate() -> None:
    with opened():
        (scheduler,) = pods("scheduler")
        address = f"{scheduler['status']['podIP']}:8786"
        with pytest.raises(OSError, match=r"Timed out|closed"):
            Client(f"tcp://{address}", timeout=2)  # type: ignore[no-untyped-call]
        page = subprocess.run(
            ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", address[:-4] + "8787/status"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert page.stdout == "404"


def test_k8s_real_driver_in_the_cluster_needs_no_forwarding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with opened(tls=False, name="inside") as client:
        assert client.scheduler.address == "tcp://inside-scheduler.default:8786"
        assert client.submit(abs, -1).result(60) == 1


# What happens to pods.


def test_k8s_real_deleted_pod_is_replaced() -> None:
    with opened(workers=1) as client:
        client.wait_for_workers(1, timeout=60)
        (before,) = names("pods", "dask.org/component=worker")
        (address,) = client.nthreads()
        kubectl("delete", "pod", before, "--force", "--grace-period=0")
        wait_for(lambda: {*client.nthreads()} - {address}, "another worker")
        assert before not in names("pods", "dask.org/component=worker")


@pytest.mark.parametrize("how", ["preempted", "killed"])
def test_k8s_real_limit_is_that_of_one_undisturbed_process(how: str, tmp_path: Path) -> None:
    begun = Event()

    def watch(ledger: Ledger, status: Status) -> None:
        if any(record.done for record in ledger.records()):
            begun.set()

    with opened(workers=2) as client:
        client.wait_for_workers(2, timeout=60)
        campaign = toy_limit(
            control_region(), **CAMPAIGN, block_s=1.0, ledger=tmp_path / "a.ledger"
        )
        running = campaign.start(client, watch=watch)
        assert begun.wait(60)
        victim = min(names("pods", "dask.org/component=worker"))
        force = ["--force", "--grace-period=0"] if how == "killed" else ["--wait=false"]
        kubectl("delete", "pod", victim, *force)
        assert not running.done
        limit = running.result(300)
    assert document(limit) == document(toy_limit(control_region(), **CAMPAIGN).run(threads=2))


def test_k8s_real_dead_scheduler_ends_the_campaign_and_not_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    begun = Event()

    def watch(ledger: Ledger, status: Status) -> None:
        if any(record.done for record in ledger.records()):
            begun.set()

    with opened() as client:
        campaign = toy_limit(control_region(), **CAMPAIGN, block_s=1.0, ledger=path)
        running = campaign.start(client, watch=watch)
        assert begun.wait(60)
        (scheduler,) = names("pods", "dask.org/component=scheduler")
        kubectl("delete", "pod", scheduler, "--force", "--grace-period=0")
        with pytest.raises(SiteError, match="run again to go on"):
            running.result(120)
    assert not everything()
    limit = toy_limit(control_region(), **CAMPAIGN, ledger=path).run()
    assert document(limit) == document(toy_limit(control_region(), **CAMPAIGN).run())


def test_k8s_real_idle_workers_are_given_back_and_come_again() -> None:
    with opened(workers=2, idle=1) as client:
        client.wait_for_workers(2, timeout=60)

        def hold(seconds: float) -> str:
            sleep(seconds)
            return str(get_worker().address)

        toy_limit(control_region(), scan=[1.0], toys=500).run(client)
        busy = min(client.nthreads())
        held = client.submit(hold, 10, workers=[busy], pure=False)
        wait_for(lambda: {*client.nthreads()} == {busy}, "the idle worker to go")
        assert len(names("deployments", "dask.org/component=worker")) == 1
        assert held.result(60) == busy
        running = toy_limit(control_region(), **CAMPAIGN, block_s=1.0).start(client)
        wait_for(lambda: len(client.nthreads()) == 2, "it to come again")
        running.stop()


# What goes wrong.


def test_k8s_real_image_that_does_not_exist() -> None:
    with (
        pytest.raises(SiteError, match=r"does not start: (ImagePullBackOff|ErrImagePull).*none"),
        opened(image="localhost/none:1"),
    ):
        pass


def test_k8s_real_image_without_dask(tmp_path: Path) -> None:
    with (
        pytest.raises(SiteError, match="does not start"),
        opened(image="localhost/pause:1"),
    ):
        pass


def test_k8s_real_namespace_that_does_not_exist() -> None:
    with (
        pytest.raises(SiteError, match='namespaces "nowhere" not found'),
        opened(namespace="nowhere"),
    ):
        pass


def test_k8s_real_wrong_pod_is_refused_in_the_servers_words() -> None:
    with (
        pytest.raises(SiteError, match=r"spec\.worker\.spec\.priority"),
        opened(pod={"priority": "high"}),
    ):
        pass


def test_k8s_real_quota_is_named() -> None:
    kubectl("create", "namespace", "poor")
    try:
        kubectl("create", "quota", "few", "--hard=pods=0", "--namespace", "poor")
        with (
            pytest.raises(SiteError, match="exceeded quota: few"),
            opened(namespace="poor", start=5),
        ):
            pass
    finally:
        kubectl("delete", "namespace", "poor", "--wait=false")


def test_k8s_real_too_large_scheduler_says_why_it_waits() -> None:
    with (
        pytest.raises(SiteError, match=r"did not come in 3 s.*Insufficient memory"),
        opened(scheduler_memory="4000 GB", start=3),
    ):
        pass


def test_k8s_real_workers_that_find_no_room_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), opened(workers=3, gpus=1):
        wait_for(lambda: "Insufficient nvidia.com/gpu" in caplog.text, "the reason")


def test_k8s_real_guest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{STATE}/node/kubeconfig-guest")
    with (
        pytest.raises(SiteError, match=r'"guest" cannot list resource "daskclusters"'),
        opened(),
    ):
        pass


def test_k8s_real_operator_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_pods, "OPERATOR_S", 2.0)
    operator = int(Path(f"{STATE}/operator.pid").read_text(encoding="utf-8"))
    os.kill(operator, signal.SIGSTOP)
    try:
        with pytest.raises(SiteError, match="no Dask operator takes notice"), opened():
            pass
    finally:
        os.kill(operator, signal.SIGCONT)


# Drivers that are killed, and others.

DRIVER = """
import logging, sys, warnings
warnings.simplefilter("ignore")
from hepdask_ml.facility.kubernetes import KubernetesSite
from hepdask_ml.facility.kubernetes_resource import KubernetesOptions
import json
options = KubernetesOptions(**json.loads(sys.argv[1]))
with KubernetesSite(1, 1, options).open() as client:
    client.wait_for_workers(1)
    print("open", flush=True)
    sys.stdin.read()
"""


@contextmanager
def driver(**options: Any) -> Iterator[subprocess.Popen[str]]:
    """Another process with an open site."""
    asked = site(**options).options
    given = json.dumps({**{name: getattr(asked, name) for name in asked.__slots__}})
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, given], stdin=-1, stdout=-1, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


def uid() -> str:
    (cluster,) = found("daskclusters")
    return str(cluster["metadata"]["uid"])


@pytest.mark.parametrize("name", [None, "mine"])
def test_k8s_real_cluster_of_a_killed_driver_is_taken_up(name: str | None, state: str) -> None:
    with driver(name=name, state=state):
        before = uid()
    with opened(name=name, state=state) as client:
        assert uid() == before
        assert client.submit(abs, -1).result(60) == 1
    assert not everything()


def test_k8s_real_cluster_of_a_killed_driver_with_other_options_is_deleted(state: str) -> None:
    with driver(state=state):
        before = uid()
    with opened(state=state, cpu="300m"):
        assert uid() != before


def test_k8s_real_cluster_of_another_driver_is_left_alone(state: str) -> None:
    with driver(name="mine", state=state):
        before = uid()
        for elsewhere in (state, None):
            with (
                pytest.raises(SiteError, match="mine is used by another driver"),
                opened(name="mine", state=elsewhere),
            ):
                pass
        with (
            pytest.raises(InputError, match="with other options: delete it"),
            opened(name="mine", cpu="300m"),
        ):
            pass
        assert uid() == before
        with opened(state=state) as client:
            assert client.submit(abs, -1).result(60) == 1
        assert uid() == before
