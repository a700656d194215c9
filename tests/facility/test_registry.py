"""Sites by name: what is laid over what, what is refused, and what other packages bring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import pytest
from distributed import Client, LocalCluster

from hepdask_ml.config import SiteSettings
from hepdask_ml.errors import InputError
from hepdask_ml.facility import site as site_module
from hepdask_ml.facility.site import (
    GROUP,
    ClientSite,
    LocalSite,
    SchedulerSite,
    kinds,
    open_site,
    ready,
    settled,
    site,
)

if TYPE_CHECKING:
    from hepdask_ml.facility.site import Site


def configured(sites: Any) -> Any:
    return dask.config.set({"hepdask-ml.sites": sites})


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _nothing_configured() -> Any:
    with configured({}):
        yield


# Names.


def test_kind_alone_is_a_site() -> None:
    assert settled("slurm") == SiteSettings("slurm")
    assert site() == LocalSite()


def test_address_is_a_scheduler() -> None:
    assert site("tls://10.0.0.1:8786") == SchedulerSite("tls://10.0.0.1:8786")


def test_every_ready_site_comes_down_to_a_kind() -> None:
    assert {settled(name).kind for name in ready()} <= set(kinds())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("slrum", '"slrum" is no site: did you mean "slurm"?'),
        ("nersc-perlmuter", 'did you mean "nersc-perlmutter"?'),
        ("my-frm", 'did you mean "my-farm"?'),
        ("xyzzyq", '"xyzzyq" is no site: there are local, scheduler, '),
    ],
)
def test_unknown_name_is_told_with_the_nearest(name: str, words: str) -> None:
    with configured({"my-farm": "slurm"}), pytest.raises(InputError) as caught:
        site(name)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("place", "changes", "words"),
    [
        (
            "slurm",
            {"queu": "x"},
            'the site slurm: options.queu is no setting: did you mean "queue"',
        ),
        ("slurm", {"walltime": "soon"}, "the site slurm: options.walltime"),
        ("local", {"workers": 0}, "workers is 0"),
        ("local", {"queue": "x"}, "the site local: options.queue is no setting: choose from gpus"),
        ("scheduler", {}, "the site scheduler: options.address is missing"),
    ],
)
def test_wrong_setting_is_told(place: str, changes: Mapping[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        site(place, **changes)
    assert words in str(caught.value)


def test_file_is_told_by_its_ending_or_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "mine.yaml", "kind: pbs\nworkers: 3\n")
    written(tmp_path / "slurm", "kind: pbs\n")
    monkeypatch.chdir(tmp_path)
    assert settled("mine.yaml") == settled(Path("mine.yaml")) == SiteSettings("pbs", workers=3)
    assert settled("slurm").kind == "slurm"  # not the file that happens to lie here
    assert settled("./slurm").kind == settled(Path("slurm")).kind == "pbs"
    with pytest.raises(InputError, match=r"none\.yaml cannot be read"):
        site("none.yaml")


# Layers.


def test_later_layers_go_before_earlier_ones_option_by_option(tmp_path: Path) -> None:
    said = {"kind": "slurm", "workers": 2, "threads": 3, "options": {"queue": "a", "account": "b"}}
    file = written(
        tmp_path / "mine.yaml", "kind: farm\nworkers: 5\noptions: {account: c, memory: 1 GB}\n"
    )
    with configured({"farm": said}):
        assert settled("farm") == SiteSettings("slurm", 2, 3, {"queue": "a", "account": "b"})
        found = settled(file, threads=7, memory="2 GB")
    assert found == SiteSettings("slurm", 5, 7, {"queue": "a", "account": "c", "memory": "2 GB"})


def test_configuration_changes_a_ready_site() -> None:
    plain = settled("nersc-perlmutter")
    with configured({"nersc-perlmutter": {"options": {"account": "m1234"}}}):
        changed = settled("nersc-perlmutter")
    assert changed.options == {**plain.options, "account": "m1234"}
    assert changed.kind == plain.kind == "slurm"


def test_configuration_of_a_kind_holds_for_every_site_of_it() -> None:
    with configured({"slurm": {"options": {"account": "m1"}}, "farm": {"kind": "slurm"}}):
        assert settled("farm").options == {"account": "m1"}
        assert settled("nersc-perlmutter").options["account"] == "m1"
        assert "account" not in settled("pbs").options


def test_configuration_may_name_another_site() -> None:
    with configured({"here": "nersc-perlmutter"}):
        assert settled("here") == settled("nersc-perlmutter")


def test_settings_are_a_layer_as_a_file_is() -> None:
    with configured({"farm": {"kind": "slurm", "options": {"queue": "a"}}}):
        found = settled(SiteSettings("farm", options={"account": "b"}), queue="c")
    assert found == SiteSettings("slurm", options={"queue": "c", "account": "b"})


def test_nothing_that_was_given_is_changed() -> None:
    given = SiteSettings("slurm", options={"queue": "a"})
    settled(given, queue="b", account="c")
    assert given.options == {"queue": "a"}


@pytest.mark.parametrize(
    ("sites", "chain"),
    [
        ({"a": "b", "b": "a"}, "a -> b -> a"),
        ({"a": "b", "b": {"kind": "c"}, "c": "a"}, "a -> b -> c -> a"),
        ({"a": "b", "b": "c", "c": "b"}, "a -> b -> c -> b"),
    ],
)
def test_site_that_is_defined_by_itself_is_told(sites: dict[str, Any], chain: str) -> None:
    with configured(sites), pytest.raises(InputError, match=f"defined by itself: {chain}"):
        site("a")


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        ("slurm", "hepdask-ml.sites is 'slurm': it must be a mapping"),
        ({"farm": 3}, "hepdask-ml.sites.farm is 3"),
        ({"farm": {"kind": "slurm", "worker": 3}}, "hepdask-ml.sites.farm.worker is no setting: "),
        ({"farm": {"kind": "slurm", "workers": "3"}}, "hepdask-ml.sites.farm.workers is "),
        ({"farm": {"workers": 3}}, '"farm" is no site'),
    ],
)
def test_wrong_configuration_is_told(sites: Any, words: str) -> None:
    with configured(sites), pytest.raises(InputError) as caught:
        site("farm")
    assert words in str(caught.value)


def test_environment_variables_are_a_layer_of_the_configuration() -> None:
    code = (
        "import json; from hepdask_ml.facility.site import settled; from dataclasses import asdict;"
        "print(json.dumps([asdict(settled(name)) for name in ('my-farm', 'my_farm')]))"
    )
    before = "DASK_HEPDASK_ML__SITES__MY_FARM"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            f"{before}__KIND": "slurm",
            f"{before}__WORKERS": "3",
            f"{before}__OPTIONS__QUEUE": "long",
            f"{before}__OPTIONS__WORKERS_PER_JOB": "2",
            f"{before}__OPTIONS__WALLTIME": "02:00:00",
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    first, second = json.loads(said)
    assert first == second
    assert first == {
        "kind": "slurm",
        "workers": 3,
        "threads": None,
        "options": {"queue": "long", "workers_per_job": 2, "walltime": "02:00:00"},
    }


# Clients.


@pytest.fixture
def client() -> Any:
    with (
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=1,
            processes=False,
            protocol="tcp",
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as made,  # type: ignore[no-untyped-call]
    ):
        yield made


def fail() -> None:
    raise ZeroDivisionError


def test_client_is_used_and_never_closed(client: Client) -> None:
    with open_site(client) as lent:
        assert lent is client
    with pytest.raises(ZeroDivisionError), open_site(client):
        fail()
    assert isinstance(site(client), ClientSite)
    assert client.submit(sum, [1, 2]).result() == 3


def test_client_cannot_be_changed(client: Client) -> None:
    with pytest.raises(InputError, match="workers, queue cannot be changed"):
        site(client, workers=2, queue="x")


def test_address_opens_into_a_client_of_its_own(client: Client) -> None:
    with open_site(str(client.scheduler.address)) as other:  # type: ignore[union-attr]
        assert other is not client
        assert other.submit(sum, [1, 2]).result() == 3
    assert other.status == "closed"
    assert client.status == "running"


# Other packages.


def farm(workers: int | None = None, threads: int = 1, **options: Any) -> Site:
    """Give the batch farm of some institute: all that its package has to hold."""
    return site("slurm", workers=workers, threads=threads, **{"queue": "institute", **options})


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "farm_of_institute", sys.modules[__name__])
    point = EntryPoint("institute", "farm_of_institute:farm", GROUP)
    monkeypatch.setattr(
        "hepdask_ml.facility.site.entry_points", lambda group: [point] * (group == GROUP)
    )


@pytest.mark.usefixtures("_installed")
def test_site_of_another_package_builds_on_a_kind_of_ours() -> None:
    assert site("institute", workers=3, account="x") == site(
        "slurm", workers=3, queue="institute", account="x"
    )
    assert site("institute", queue="short") == site("slurm", queue="short")
    assert kinds()[-1] == "institute"
    with pytest.raises(InputError, match=r"options\.queu is no setting"):
        site("institute", queu="x")


@pytest.mark.usefixtures("_installed")
def test_site_of_another_package_is_configured_as_ours_are() -> None:
    with configured(
        {"institute": {"workers": 4, "options": {"account": "y"}}, "mine": "institute"}
    ):
        assert site("mine") == site("slurm", workers=4, queue="institute", account="y")


def test_a_scheduler_that_is_not_there_leaves_no_default_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(site_module, "CONNECT_S", 0.5)
    before = dask.config.get("scheduler", None)
    with (
        pytest.raises(InputError, match="no Dask scheduler answers"),
        open_site("tcp://127.0.0.1:1"),
    ):
        pass
    assert dask.config.get("scheduler", None) == before
