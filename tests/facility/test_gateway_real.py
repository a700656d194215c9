"""The gateway site on a real dask-gateway server, with its local backend, on loopback.

Schedulers and workers are processes that the server starts, behind its own proxy, with its own
certificates.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from base64 import b64encode
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.request import Request, urlopen

import dask
import dask_gateway
import psutil
import pytest
from distributed import SchedulerPlugin
from made_up import two_bins
from stories.processes import Process, pids
from stories.work import wait_for

from hepdask_ml import toy_limit
from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.errors import CampaignError, InputError, SiteError
from hepdask_ml.facility import gateway
from hepdask_ml.facility.gateway import GatewayOptions, GatewaySite
from hepdask_ml.testing import SiteContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client, Scheduler

    from hepdask_ml.facility.site import Site
    from hepdask_ml.inference.limit import Limit

TESTS = Path(__file__).parents[1]
SECRET = "not-a-secret-anywhere-else"
VARIABLE = "TEST_GATEWAY_PASSWORD"
MOST = 3
"""Workers that the server lets a cluster have."""

CONFIG = f"""
import sys
from dask_gateway_server.options import Integer, Options, Select

def settled(options):
    if options.queue == "full":
        raise ValueError("you have all the cores that you may have, stop a cluster first")
    broken = {{"scheduler_cmd": ["false"]}} if options.queue == "broken" else {{}}
    return {{"worker_cores": options.worker_cores, **broken}}

c = get_config()
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.SimpleAuthenticator.password = "{SECRET}"
c.DaskGateway.address = c.Proxy.address = c.Proxy.tcp_address = "127.0.0.1:0"
c.UnsafeLocalBackend.clusters_directory = "CLUSTERS"
c.UnsafeLocalBackend.cluster_status_period = 0.5
c.UnsafeLocalBackend.sigint_timeout = 3
c.Backend.cluster_options = Options(
    Integer("worker_cores", 1, min=1, max=2),
    Select("queue", ["sound", "full", "broken"], default="sound"),
    handler=settled,
)
c.ClusterConfig.scheduler_cmd = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
c.ClusterConfig.worker_cmd = [
    sys.executable, "-m", "distributed.cli.dask_worker", "--host", "127.0.0.1"
]
c.ClusterConfig.worker_memory = "1 G"
c.ClusterConfig.cluster_max_workers = {MOST}
"""


@dataclass(frozen=True)
class Server:
    """A gateway that runs."""

    address: str
    proxy_address: str
    folder: Path

    def options(self, **others: Any) -> GatewayOptions:
        """Give what reaches it, remembering clusters in its folder."""
        return GatewayOptions(**{**self.reached, **others})

    @property
    def reached(self) -> dict[str, Any]:
        return {
            "address": self.address,
            "proxy_address": self.proxy_address,
            "auth": "basic",
            "user": "alice",
            "secret_variable": VARIABLE,
            "state": str(self.folder / "state"),
        }

    def clusters(self) -> list[str]:
        """Name the clusters that run."""
        # By hand: the library's client would leave its loop behind in this process.
        user = b64encode(f"alice:{SECRET}".encode()).decode()
        asked = Request(
            f"{self.address}/api/v1/clusters/", headers={"Authorization": f"Basic {user}"}
        )
        with urlopen(asked, timeout=60) as answer:
            return list(json.load(answer))


@contextmanager
def started(folder: Path) -> Iterator[tuple[Process, Server]]:
    """Start a server on free ports, and end it, its proxy and its clusters."""
    config, log = folder / "config.py", folder / "server.log"
    clusters = folder / "clusters"
    clusters.mkdir()
    config.write_text(CONFIG.replace("CLUSTERS", str(clusters)))
    log.with_suffix(".err").touch()
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "dask_gateway_server", "-f", str(config)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    process = Process("gateway", popen, log)

    def listening() -> dict[str, str]:
        assert process.alive, process.said
        found = re.findall(r"(HTTP|Scheduler) routes listening at \w+://([\d.:]+)", process.said)
        return dict(found) if "Dask-Gateway server started" in process.said else {}

    def answers() -> bool:
        with suppress(OSError), urlopen(f"{made.address}/api/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    try:
        places = wait_for(listening, "the gateway's addresses")
        made = Server(f"http://{places['HTTP']}", places["Scheduler"], folder)
        wait_for(answers, "the proxy to know the gateway")
        yield process, made
    finally:
        process.send(signal.SIGTERM)
        process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(tmp_path_factory.mktemp("gateway")) as (_, server):
        yield server


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The gateway, with the password at hand and no cluster."""
    monkeypatch.setenv(VARIABLE, SECRET)
    monkeypatch.setattr(gateway, "LOOK_S", 0.2)
    assert running.clusters() == []
    return running


class TestGatewayReal(SiteContract):
    server: ClassVar[Server]

    @pytest.fixture(autouse=True)
    def _server(self, server: Server) -> None:
        type(self).server = server

    def site(self, **options: Any) -> Site:
        if unknown := {"no_such_option"} & options.keys():
            options = {"cluster": dict.fromkeys(unknown, 1)}
        return GatewaySite(1, options=self.server.options(**options))


def document(found: Limit) -> str:
    return json.dumps(found.to_json())


LONG: dict[str, Any] = {"scan": [0.5, 1.0, 2.0, 4.0], "toys": 300_000}
"""Some seconds of work."""


@pytest.fixture(scope="module")
def undisturbed() -> str:
    return document(toy_limit(two_bins(), **LONG).run(threads=2))


def done(ledger: Path) -> int:
    try:
        with read_ledger(ledger) as book:
            return book.progress().done
    except (InputError, CampaignError):  # not made yet, or just being written
        return 0


def kill_worker(client: Client) -> int:
    """Kill a worker and its nanny, which would start it again, as a lost node does."""
    victim = next(iter(pids(client).values()))
    nanny = psutil.Process(victim).parent()
    assert nanny is not None
    assert "dask_worker" in " ".join(nanny.cmdline())
    nanny.kill()
    psutil.Process(victim).kill()
    return victim


def test_gateway_real_replaces_a_killed_worker_and_the_limit_is_the_same(
    server: Server, undisturbed: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "a.ledger"
    with GatewaySite(2, options=server.options()).open() as client:
        client.wait_for_workers(2)
        before = set(pids(client).values())
        campaign = toy_limit(two_bins(), ledger=ledger, block_s=0.05, **LONG).start(client)
        wait_for(lambda: done(ledger) > 0, "toys in the ledger")
        victim = kill_worker(client)
        found = campaign.result(timeout=120)
        wait_for(lambda: len(set(pids(client).values()) - {victim}) == 2, "another worker")
        assert set(pids(client).values()) - before
    assert document(found) == undisturbed
    assert server.clusters() == []


DRIVER = """
import json, sys
from made_up import two_bins
from hepdask_ml import toy_limit
from hepdask_ml.facility.gateway import GatewayOptions, GatewaySite

with GatewaySite(2, options=GatewayOptions(**json.loads(sys.argv[1]))).open() as client:
    toy_limit(two_bins(), ledger=sys.argv[2], block_s=0.05, **json.loads(sys.argv[3])).run(client)
"""


@contextmanager
def driver(server: Server, ledger: Path, toys: int = LONG["toys"]) -> Iterator[Process]:
    """Run a driver in a process of its own, and kill it."""
    log = ledger.with_suffix(".out")
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [
                sys.executable, "-W", "ignore", "-c", DRIVER,
                json.dumps(server.reached), str(ledger), json.dumps({**LONG, "toys": toys}),
            ],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )  # fmt: skip
    process = Process("driver", popen, log)
    log.with_suffix(".err").touch()

    def works() -> bool:
        assert process.alive, process.said
        return done(ledger) > 0

    try:
        wait_for(works, "toys in the ledger")
        yield process
        assert process.alive, process.said
    finally:
        popen.kill()
        popen.wait()


def test_gateway_real_finds_the_cluster_of_a_killed_driver(
    server: Server, undisturbed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = tmp_path / "a.ledger"
    with driver(server, ledger):
        pass
    left = server.clusters()
    assert len(left) == 1
    with GatewaySite(2, options=server.options()).open() as client:
        assert server.clusters() == left
        found = toy_limit(two_bins(), ledger=ledger, block_s=0.05, **LONG).run(client)
    assert document(found) == undisturbed
    assert f"the cluster {left[0]} of a driver that was killed is taken up" in caplog.text
    assert server.clusters() == []
    assert list((server.folder / "state").iterdir()) == []


def test_gateway_real_leaves_clusters_of_others_and_stops_orphans(
    server: Server, tmp_path: Path
) -> None:
    with driver(server, tmp_path / "a.ledger", toys=100 * LONG["toys"]):
        busy = server.clusters()
        for options in (server.options(), server.options(cluster={"worker_cores": 2})):
            with GatewaySite(1, options=options).open():
                assert len(server.clusters()) == 2, "its driver lives"
            assert server.clusters() == busy
    with GatewaySite(1, options=server.options(state=None)).open():
        assert len(server.clusters()) == 2, "nothing is remembered"
    with GatewaySite(options=server.options(connect=busy[0])).open() as client:
        assert client.nthreads()  # type: ignore[no-untyped-call]
    assert server.clusters() == busy, "a cluster that is connected to stays"
    with GatewaySite(1, options=server.options(cluster={"worker_cores": 2})).open() as client:
        client.wait_for_workers(1)
        assert list(client.nthreads().values()) == [2]  # type: ignore[no-untyped-call]
        assert not {*busy} & {*server.clusters()}, "nobody else would stop it"
    assert server.clusters() == []
    assert list((server.folder / "state").iterdir()) == []


def demand() -> SchedulerPlugin:
    """Make a plugin that answers as the pools of campaigns do."""

    # Within a function, so that it travels whole: schedulers do not know this module.
    class Demand(SchedulerPlugin):
        name = "demand"

        async def start(self, scheduler: Scheduler) -> None:
            answer: dict[str, Any] = {"free": 0, "lent": 0, "busy": [], "dry_s": 1e3}
            scheduler.handlers["hepdask_ml_demand"] = lambda: answer
            scheduler.handlers["set_demand"] = lambda **new: answer.update(new)

    return Demand()


def test_gateway_real_gives_idle_workers_back_and_asks_for_them_again(server: Server) -> None:
    with GatewaySite(MOST, options=server.options(idle="10 s")).open() as client:
        client.wait_for_workers(MOST)
        busy = next(iter(pids(client)))
        client.register_plugin(demand())

        def tell(**answer: Any) -> None:
            client.sync(client.scheduler.set_demand, **answer)  # type: ignore[no-untyped-call,union-attr]

        tell(busy=[busy])
        wait_for(lambda: set(pids(client)) == {busy}, "the idle workers to go")
        tell(free=1)
        wait_for(lambda: len(pids(client)) == MOST, "as many workers as before")


def test_gateway_real_says_its_limit_and_goes_on(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with GatewaySite(MOST + 5, options=server.options()).open() as client:
        client.wait_for_workers(MOST)
    assert f"would exceed resource limit of {MOST} workers" in caplog.text


REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"secret_variable": None}, InputError, r"does not let you in \(401 .*check options.auth"),
    ({"cluster": {"worker_core": 1}}, InputError, 'worker_core is .* did you mean "worker_cores"'),
    ({"cluster": {"zzz": 1}}, InputError, "zzz is nothing .* choose from worker_cores, queue"),
    ({"cluster": {"worker_cores": 9}}, InputError, "worker_cores must be <= 2"),
    ({"cluster": {"worker_cores": "a"}}, InputError, "worker_cores must be an integer"),
    ({"cluster": {"queue": "none"}}, InputError, "'none' is not a valid option for queue"),
    ({"cluster": {"queue": "full"}}, InputError, "you have all the cores .* stop a cluster first"),
    ({"cluster": {"queue": "broken"}}, SiteError, r"could not start it \(Cluster .* failed to"),
    ({"connect": "nothing"}, InputError, "connect is nothing, which is no cluster .* there is non"),
    ({"proxy_address": "127.0.0.1:9"}, SiteError, "nothing answers at 127.0.0.1:9 .*proxy_address"),
]


@pytest.mark.parametrize(("wrong", "kind", "sentence"), REFUSALS)
def test_gateway_real_refuses_in_a_sentence(
    server: Server, wrong: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    site = GatewaySite(options=server.options(**wrong))
    with pytest.raises(kind, match=sentence) as told, site.open():
        pass
    assert "\n" not in str(told.value)
    assert SECRET not in str(told.value)
    assert server.clusters() == []


def test_gateway_real_takes_the_password_of_a_file(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    options = server.options(secret_variable=None, secret_file=str(file))
    with GatewaySite(1, options=options).open() as client:
        assert client.status == "running"
    assert SECRET not in GatewaySite(1, options=options).script()


def test_gateway_real_takes_address_and_password_of_dask(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes = {
        "gateway.address": server.address,
        "gateway.proxy-address": server.proxy_address,
        "gateway.auth.type": "basic",
        "gateway.auth.kwargs": {"username": "alice", "password": f"{{{VARIABLE}}}"},
        "gateway.cluster.options": {"worker_cores": 2},
    }
    with (
        dask.config.set(wishes),
        GatewaySite(1, options=GatewayOptions(state=str(tmp_path))).open() as client,
    ):
        client.wait_for_workers(1)
        assert list(client.nthreads().values()) == [2]  # type: ignore[no-untyped-call]


class OwnCluster(dask_gateway.GatewayCluster):  # type: ignore[misc]
    """Asks in its own way for workers, as those do that submit jobs for them."""

    scaled: ClassVar[list[int]] = []
    works = True

    def scale(self, n: int, **_: Any) -> Any:
        self.scaled.append(n)
        return super().scale(n) if self.works else False


class OwnGateway(dask_gateway.Gateway):  # type: ignore[misc]
    """Makes clusters of another class, and knows by itself who asks."""

    def __init__(self, **others: Any) -> None:
        super().__init__(auth=dask_gateway.BasicAuth("bob", SECRET), **others)

    def new_cluster(self, *, site_image: str, **options: Any) -> OwnCluster:
        assert site_image == "hep:1"
        return OwnCluster(
            address=self.address,
            proxy_address=self.proxy_address,
            auth=self.auth,
            asynchronous=self.asynchronous,
            loop=self.loop,
            **options,
        )


def own(server: Server) -> GatewayOptions:
    return GatewayOptions(
        address=server.address,
        proxy_address=server.proxy_address,
        client=f"{__name__}:OwnGateway",
        cluster={"worker_cores": 2, "site_image": "hep:1"},  # of which the gateway knows one
        state=None,
    )


def test_gateway_real_by_another_client_is_asked_for_workers_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setattr(OwnCluster, "scaled", [])
    with GatewaySite(1, options=own(server)).open() as client:
        client.wait_for_workers(1)
        client.register_plugin(demand())
        assert list(client.nthreads().values()) == [2]  # type: ignore[no-untyped-call]
    assert OwnCluster.scaled == [1]
    monkeypatch.setattr(OwnCluster, "works", False)
    with (
        pytest.raises(SiteError, match="could not ask for 1 workers"),
        GatewaySite(1, options=own(server)).open(),
    ):
        pass


def test_gateway_real_that_goes_away_is_noticed_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    with (
        caplog.at_level(logging.WARNING, logger=gateway.__name__),
        started(tmp_path) as (process, server),
        GatewaySite(1, options=server.options()).open() as client,
    ):
        client.wait_for_workers(1)
        process.send(signal.SIGTERM)
        process.wait()
    assert re.search(r"cluster \S+ could not be stopped: no Dask gateway answers", caplog.text)
