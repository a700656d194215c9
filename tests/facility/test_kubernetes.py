"""Kubernetes, as far as it can be tried without one: see tests/kubernetes for a real one."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from hepdask_ml.config import record_of
from hepdask_ml.errors import InputError, SiteError
from hepdask_ml.facility.kubernetes import KubernetesSite
from hepdask_ml.facility.kubernetes_resource import KubernetesOptions, cluster_resource

if TYPE_CHECKING:
    from collections.abc import Iterator

operator = pytest.importorskip("dask_kubernetes.operator", reason="needs dask-kubernetes")
jsonschema = pytest.importorskip("jsonschema")

DEFINITIONS = Path(operator.__file__).parent / "deployment/helm/dask-kubernetes-operator/crds"

FULL: dict[str, Any] = {
    "cpu": "500m",
    "gpus": 1,
    "service_account": "physics",
    "image_pull_secrets": "registry",
    "node_selector": {"gpu": "a100", "spot": True},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "environment": {"LEVEL": 3},
    "worker_options": ["--preload", "mine"],
    "grace": "1 min",
    "pod": {
        "priorityClassName": "low",
        "volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [{"volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
    },
}


def options(**given: Any) -> KubernetesOptions:
    where = "the site kubernetes: options."
    return record_of(KubernetesOptions, {"image": "mine:1", **given}, where)


def resource(workers: int = 2, threads: int = 1, **given: Any) -> dict[str, Any]:
    return cluster_resource("test", workers, threads, options(**given))


def parts(made: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pods of scheduler and worker."""
    return made["spec"]["scheduler"]["spec"], made["spec"]["worker"]["spec"]


def variables(pod: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in pod["containers"][0]["env"]}


def strict(schema: Any) -> Any:
    """The operator's definition, which drops what it does not know, as one that refuses it."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(each) for name, each in schema.items()}
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


@pytest.fixture(scope="module")
def schema() -> Any:
    definition = yaml.safe_load((DEFINITIONS / "daskcluster.yaml").read_text(encoding="utf-8"))
    made = strict(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    made["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    return jsonschema.Draft202012Validator(made)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({}, id="plain"),
        pytest.param(FULL, id="everything"),
        pytest.param({"tls": False}, id="without certificates"),
        pytest.param({"gpus": 4, "memory": "2.5 GB", "cpu": "0.5"}, id="several GPUs"),
    ],
)
def test_operators_own_definition_takes_the_resource(given: dict[str, Any], schema: Any) -> None:
    schema.validate(resource(**given))


def test_strict_definition_finds_a_slip(schema: Any) -> None:
    made = resource()
    made["spec"]["worker"]["spec"]["containers"][0]["resorces"] = {}
    with pytest.raises(jsonschema.ValidationError, match="resorces"):
        schema.validate(made)


def test_gpus_are_for_the_workers_alone() -> None:
    scheduler, worker = parts(resource(gpus=1))
    limits = worker["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert "--resources GPU=1" in " ".join(worker["containers"][0]["args"])
    assert "gpu" not in json.dumps(scheduler)


def test_several_gpus_make_one_pod_of_several_workers() -> None:
    made = resource(workers=6, threads=2, gpus=4, memory="1.5 GB", gpu_resource="amd.com/gpu")
    _, worker = parts(made)
    container = worker["containers"][0]
    assert made["spec"]["worker"]["replicas"] == 2
    arguments = " ".join(container["args"])
    assert "--nworkers 4 --preload-nanny hepdask_ml.facility.cuda --resources GPU=1" in arguments
    assert "--no-nanny" not in arguments
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "6G", "amd.com/gpu": "4"}


def test_everything_that_is_asked_reaches_the_worker() -> None:
    scheduler, worker = parts(resource(**FULL))
    container = worker["containers"][0]
    assert container["resources"]["limits"]["memory"] == "2G"
    assert container["args"][-2:] == ["--preload", "mine"]
    assert container["volumeMounts"][-1] == {"name": "data", "mountPath": "/data"}
    assert variables(worker)["LEVEL"] == "3"
    assert variables(worker)["OMP_NUM_THREADS"] == "1"
    assert worker["nodeSelector"] == {"gpu": "a100", "spot": "true"}
    assert worker["tolerations"] == FULL["tolerations"]
    assert worker["terminationGracePeriodSeconds"] == 60
    assert worker["priorityClassName"] == "low"
    for pod in (scheduler, worker):
        assert pod["serviceAccountName"] == "physics"
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["automountServiceAccountToken"] is False
    assert "nodeSelector" not in scheduler


def test_nothing_is_exposed_and_all_is_encrypted() -> None:
    made = resource()
    assert made["spec"]["scheduler"]["service"]["type"] == "ClusterIP"
    for pod in parts(made):
        assert "--no-dashboard" in pod["containers"][0]["args"]
        assert variables(pod)["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "True"
        assert pod["volumes"][0]["secret"]["secretName"] == "test-tls"
    assert variables(parts(made)[1])["DASK_SCHEDULER_ADDRESS"].startswith("tls://")
    plain = json.dumps(resource(tls=False))
    assert "tls" not in plain.lower()


def test_script_is_the_resource_without_secrets() -> None:
    text = KubernetesSite(3, 1, options(name="mine")).script()
    assert yaml.safe_load(text) == cluster_resource("mine", 3, 1, options(name="mine"))
    assert "PRIVATE" not in text


def test_what_a_user_adds_does_not_leak_into_the_next(schema: Any) -> None:
    before = deepcopy(FULL)
    resource(**FULL)
    assert before == FULL


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gpu": 1}, r"options\.gpu is no setting: did you mean \"gpus\"\?"),
        ({"image": ""}, r"options\.image is \"\": it must not be empty"),
        ({"name": "My_Cluster"}, "small letters, digits and hyphens"),
        ({"memory": "much"}, "write it as 4 GB or 4Gi"),
        ({"cpu": "half"}, "write it as 2, 0.5 or 500m"),
        ({"gpus": -1}, "it is negative"),
        ({"grace": 5}, "workers need 20 seconds to commit"),
        ({"idle": "a while"}, "is no duration"),
        ({"tolerations": "all"}, "it must be a list"),
        ({"tls": "yes"}, "it must be true or false"),
    ],
)
def test_wrong_option_is_explained(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        options(**given)


def test_image_is_needed() -> None:
    with pytest.raises(InputError, match=r"options\.image is missing: add it"):
        record_of(KubernetesOptions, {}, "the site kubernetes: options.")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("hepdask_ml.facility.kubernetes_client.import_module", missing)
    with pytest.raises(InputError, match=r"install hepdask-ml\[kubernetes\]"):
        KubernetesSite(1, 1, options()).script()


# API servers that are missing or odd.


@contextmanager
def api_server_sim(status: int, answer: dict[str, Any]) -> Iterator[str]:
    """Answers every question but that for its version in one way."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            version = self.path.startswith("/version")
            body = json.dumps({"gitVersion": "v1.30.0"} if version else answer).encode()
            self.send_response(200 if version else status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def kubeconfig(folder: Path, server: str) -> str:
    path = folder / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "a", "cluster": {"server": server}}],
        "users": [{"name": "a", "user": {"token": "a-token"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": "here"}}],
        "current-context": "a",
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def opening(monkeypatch: pytest.MonkeyPatch, config: str, **given: Any) -> None:
    monkeypatch.setenv("KUBECONFIG", config)
    with KubernetesSite(1, 1, options(state=None, **given)).open():
        pass


def test_missing_kubeconfig_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="check the kubeconfig"):
        opening(monkeypatch, str(tmp_path / "none"))


def test_unknown_context_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"options\.context"):
        opening(monkeypatch, kubeconfig(tmp_path, "http://127.0.0.1:9"), context="other")


def test_server_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SiteError, match="no Kubernetes answers"):
        opening(monkeypatch, kubeconfig(tmp_path, "http://127.0.0.1:9"))


def test_missing_operator_is_named_by_a_simulated_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        api_server_sim(404, {"message": "the server could not find it"}) as server,
        pytest.raises(SiteError, match="has no Dask operator: ask those who run it"),
    ):
        opening(monkeypatch, kubeconfig(tmp_path, server))


def test_refusal_of_a_simulated_server_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        api_server_sim(403, {"message": "daskclusters is forbidden: ask somebody"}) as server,
        pytest.raises(SiteError, match=r"namespace here: daskclusters is forbidden"),
    ):
        opening(monkeypatch, kubeconfig(tmp_path, server))
