"""Places to run: those of the package keep the contract, and bad ones are caught."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import SkipTest

import pytest
from distributed import Client, LocalCluster
from made_up_slurm import simulated_slurm

from hepdask_ml.config import SiteSettings
from hepdask_ml.errors import InputError
from hepdask_ml.facility.site import GROUP, site
from hepdask_ml.testing import SiteContract

if TYPE_CHECKING:
    from hepdask_ml.facility.site import Site


class TestLocalSite(SiteContract):
    def site(self, **options: Any) -> Site:
        return site(SiteSettings("local", workers=1, threads=2, options=options))


@pytest.fixture(scope="class")
def scheduler(request: pytest.FixtureRequest) -> Iterator[None]:
    """A cluster that somebody else keeps."""
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address=None,
    ) as cluster:
        request.cls.address = cluster.scheduler_address
        yield


@pytest.mark.usefixtures("scheduler")
class TestSchedulerSite(SiteContract):
    address: ClassVar[str]

    def site(self, **options: Any) -> Site:
        return site(SiteSettings("scheduler", options={"address": self.address, **options}))


class TestBatchSite(SiteContract):
    """Over a simulated Slurm, whose jobs are processes of this machine."""

    folder: ClassVar[Path]

    @pytest.fixture(autouse=True)
    def _simulated(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        type(self).folder = tmp_path
        with simulated_slurm(tmp_path, monkeypatch):
            yield

    def site(self, **options: Any) -> Site:
        plain = {
            "shared": str(self.folder / "shared"),
            "logs": str(self.folder / "logs"),
            "host": "127.0.0.1",
            "worker_options": ["--host", "127.0.0.1"],
            "memory": "500 MB",
        }
        return site("slurm", workers=1, threads=2, **{**plain, **options})


class TestInProcess(SiteContract):
    """Another package's, which is known by its name."""

    @pytest.fixture(autouse=True)
    def _installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        point = EntryPoint("in-process", f"{__name__}:InProcess", GROUP)
        monkeypatch.setattr(
            "hepdask_ml.facility.site.entry_points", lambda group: [point] * (group == GROUP)
        )

    def site(self, **options: Any) -> Site:
        return site(SiteSettings("in-process", threads=2, options=options))

    def test_misspelt_name_is_corrected(self) -> None:
        with pytest.raises(InputError, match='"in-proces" is no site: did you mean "in-process"'):
            site(SiteSettings("in-proces"))


class InProcess:
    """A scheduler and a worker in this process, with some ways of doing it wrong."""

    def __init__(
        self,
        workers: int | None = None,
        threads: int = 1,
        host: str = "127.0.0.1",
        **options: Any,
    ) -> None:
        self.workers = 1 if workers is None else workers
        self.threads, self.host = threads, host
        if options:
            raise InputError(f"in-process has no option {', '.join(options)}: leave it out")

    @contextmanager
    def open(self) -> Iterator[Client]:
        with self.cluster() as cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
            yield client

    def cluster(self) -> LocalCluster:
        return LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=self.workers,
            threads_per_worker=self.threads,
            processes=False,
            protocol="tcp",
            host=self.host,
            dashboard_address=None,
        )


# Bad sites.


LEFT: list[subprocess.Popen[bytes]] = []


def start_something() -> subprocess.Popen[bytes]:
    LEFT.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
    return LEFT[-1]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    while LEFT:
        process = LEFT.pop()
        process.kill()
        process.wait()


class LeavesAProcess(InProcess):
    @contextmanager
    def open(self) -> Iterator[Client]:
        start_something()
        with super().open() as client:
            yield client


class LeavesAProcessAfterErrors(InProcess):
    @contextmanager
    def open(self) -> Iterator[Client]:
        process = start_something()
        with super().open() as client:
            yield client
        process.kill()
        process.wait()


class StartsAtOnce(InProcess):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        start_something()


class OpensOnce(InProcess):
    client: Client | None = None

    @contextmanager
    def open(self) -> Iterator[Client]:
        if self.client is not None:
            yield self.client
            return
        with super().open() as self.client:
            yield self.client


class HidesWhatHappens(InProcess):
    @contextmanager
    def open(self) -> Iterator[Client]:
        with super().open() as client, suppress(Exception):
            yield client


class NoClient(InProcess):
    @contextmanager
    def open(self) -> Iterator[Any]:
        yield None


class TakesAnyOption(InProcess):
    def __init__(self, **_: Any) -> None:
        super().__init__()


class TakesItsOptions(InProcess):
    def __init__(self) -> None:
        super().__init__()


class SaysTooLittle(InProcess):
    def __init__(self, **options: Any) -> None:
        if options:
            raise InputError("no")


BAD_SITES: list[tuple[Callable[..., Site], str, str]] = [
    (LeavesAProcess, "test_leaves_nothing_behind", "there still is process .*sleep"),
    (LeavesAProcessAfterErrors, "test_leaves_nothing_behind", "there still is"),
    (StartsAtOnce, "test_starts_nothing_before_it_is_opened", "making it started process"),
    (OpensOnce, "test_leaves_nothing_behind", "connected distributed.Client"),
    (HidesWhatHappens, "test_leaves_nothing_behind", "it hid one"),
    (NoClient, "test_opens_into_a_connected_client", "connected distributed.Client, not None"),
    (partial(InProcess, workers=0), "test_opens_into_a_connected_client", "there was none"),
    (partial(InProcess, host="0.0.0.0"), "test_listens_on_loopback_alone", r"on 0\.0\.0\.0:"),
    (TakesAnyOption, "test_wrong_option_is_an_input_error", "it opens"),
    (TakesItsOptions, "test_wrong_option_is_an_input_error", "it raises TypeError"),
    (SaysTooLittle, "test_wrong_option_is_an_input_error", "it says no"),
]


@pytest.mark.parametrize(("make", "method", "words"), BAD_SITES)
def test_bad_site_is_caught(make: Callable[..., Site], method: str, words: str) -> None:
    class Contract(SiteContract):
        start_s = close_s = 0.2

        def site(self, **options: Any) -> Site:
            return make(**options)

    with pytest.raises(AssertionError, match=words):
        getattr(Contract(), method)()


def test_contract_says_what_to_override() -> None:
    with pytest.raises(NotImplementedError, match="override"):
        SiteContract().test_opens_into_a_connected_client()


def test_place_that_is_not_local_may_listen_everywhere() -> None:
    class Contract(SiteContract):
        local = False

    with pytest.raises(SkipTest):
        Contract().test_listens_on_loopback_alone()
