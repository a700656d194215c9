"""The ready sites: each is read, renders, and asks for what its sources say; templates are whole.

Nothing here talks to a facility: what is compared is the text that would be submitted.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from hepdask_ml.config import SiteSettings, read_site, record_of
from hepdask_ml.facility.allocation import AllocationOptions
from hepdask_ml.facility.batch import BatchSite
from hepdask_ml.facility.gateway import GatewayOptions
from hepdask_ml.facility.kubernetes_resource import KubernetesOptions
from hepdask_ml.facility.site import SchedulerOptions, kinds, ready, site
from hepdask_ml.facility.systems import SYSTEMS, BatchOptions

FOLDER = Path(__file__).parents[2] / "configs/sites"
OPTIONS: dict[str, Any] = {
    **dict.fromkeys(SYSTEMS, BatchOptions),
    "allocation": AllocationOptions,
    "gateway": GatewayOptions,
    "kubernetes": KubernetesOptions,
    "scheduler": SchedulerOptions,
}
TEMPLATES = sorted(OPTIONS)
FACILITIES = sorted({path.stem for path in FOLDER.glob("*.yaml")} - {*OPTIONS, "local"})
BATCH = [name for name in FACILITIES if read_site(FOLDER / f"{name}.yaml").kind in SYSTEMS]
ALTERNATIVES = {"gateway": {"secret_file", "connect"}}
"""What cannot be set together with all the rest."""

ASKED: dict[str, tuple[str, ...]] = {
    "cern-lxbatch": (
        "+MaxRuntime = $(allowed_job_duration)",
        "allowed_job_duration = 7200",
        "MY.IsDaskWorker = true",
        'transfer_output_files = ""',
        "MY.SpoolOnEvict = False",
        "--worker-port 10000:10100",
        "--nanny-port 10000:10100",
        "--local-directory /tmp",
    ),
    "fnal-lpc": (
        "use_x509userproxy = true",
        "when_to_transfer_output = ON_EXIT_OR_EVICT",
        "transfer_output_files = \n",
        "--worker-port 10000:10100",
        "--local-directory /srv",
        "/apptainer/current/bin:$PATH",
    ),
    "bnl-sdcc": (
        "GetEnv = True",
        "Log = /tmp/hepdask-ml-$ENV(USER)-$(ClusterId).log",
        "MY.IsDaskWorker = True",
        "--worker-port 40000:41000",
    ),
    "nersc-perlmutter": (
        "#SBATCH --qos=regular",
        "#SBATCH --constraint=cpu",
        "#SBATCH --cpus-per-task=128",
        "#SBATCH -t 02:00:00",
        "--nworkers 8",
        "--nthreads 16",
        "--interface hsn0",
        "--local-directory $SCRATCH",
    ),
    "nersc-perlmutter-gpu": (
        "#SBATCH --qos=regular",
        "#SBATCH --constraint=gpu",
        "#SBATCH --gres=gpu:4",
        "#SBATCH -t 02:00:00",
        "--resources GPU=1",
        "--interface hsn0",
    ),
    "uchicago-af": ('+queue = "short"', "allowed_job_duration = 14340"),
}
"""Of each batch site, what its script says because its sources do."""

NOT_ASKED: dict[str, tuple[str, ...]] = {
    "cern-lxbatch": ("Stream_Output", "Stream_Error"),
    "fnal-lpc": ("SESSION/scheduler.json",),
    "nersc-perlmutter": ("#SBATCH -p", "gpu"),
    "nersc-perlmutter-gpu": ("#SBATCH -p",),
}


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def written(folder: Path, name: str) -> Path:
    """Write a template with all its settings as if its user had set them."""
    path = folder / f"{name}.yaml"
    text = re.sub(r"^( *)# (\w+: )", r"\1\2", text_of(name), flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")
    return path


def has_no_default(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def script_of(name: str, **changes: Any) -> str:
    made = site(name, **changes)
    assert isinstance(made, BatchSite)
    return made.script()


def options_of(settings: SiteSettings) -> Any:
    return record_of(OPTIONS[settings.kind], settings.options, "options.")


def test_every_kind_has_a_template() -> None:
    assert set(kinds()) & set(ready()) == {*TEMPLATES, "local"}


@pytest.mark.parametrize("name", [*FACILITIES, *TEMPLATES])
def test_ready_site_is_read_and_its_options_are_those_of_its_kind(name: str) -> None:
    settings = read_site(ready()[name])
    assert settings.kind in OPTIONS
    options_of(settings)


@pytest.mark.parametrize("name", FACILITIES)
def test_site_of_a_facility_is_found_by_its_name(name: str) -> None:
    made, settings = site(name), read_site(FOLDER / f"{name}.yaml")
    assert getattr(made, "options", options_of(settings)) == options_of(settings)


@pytest.mark.parametrize("name", FACILITIES)
def test_site_of_a_facility_names_its_sources_and_says_what_was_tried(name: str) -> None:
    head = text_of(name).partition("\nkind:")[0].splitlines()
    assert head[-1] == "# Tried: rendered only; not tried on the real site."
    assert any(line.startswith("# Add: ") for line in head)
    listed = re.findall(r"\[(\d)\] (\S+/\S+)", " ".join(line.lstrip("# ") for line in head))
    assert "https://" in " ".join(head)
    assert [number for number, _ in listed] == [str(n + 1) for n in range(len(listed))]
    # Whatever is set stands below a comment that says why, or whose it is.
    body = text_of(name).partition("\nkind:")[2]
    used = set("".join(re.findall(r"\[([\d, ]+)\]", body))) & set("123456789")
    assert used
    assert used <= {number for number, _ in listed}


def test_guide_lists_every_ready_site() -> None:
    guide = (FOLDER.parents[1] / "docs/guides/facilities.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", guide, flags=re.MULTILINE)) == FACILITIES
    assert sorted(re.findall(r"`(\w+)\.yaml`", guide)) == TEMPLATES


@pytest.mark.parametrize("name", sorted(ASKED))
def test_script_asks_for_what_the_sources_say(name: str) -> None:
    script = script_of(name)
    missing = [text for text in ASKED[name] if text not in script]
    assert not missing, script
    assert not [text for text in NOT_ASKED.get(name, ()) if text in script], script


def test_every_batch_site_is_compared_with_its_sources() -> None:
    assert set(ASKED) == set(BATCH)


@pytest.mark.parametrize("name", BATCH)
def test_batch_site_writes_no_secret_into_its_script(name: str) -> None:
    script = script_of(name)
    assert "BEGIN" not in script
    assert "--tls-key" in script


def test_account_is_added_by_name() -> None:
    assert "#SBATCH -A m1234_g\n" in script_of("nersc-perlmutter-gpu", account="m1234_g")
    assert "accounting_group = group_atlas.bnl" in script_of("bnl-sdcc", account="group_atlas.bnl")


def test_walltime_at_cern_is_the_one_that_the_service_goes_by() -> None:
    script = script_of("cern-lxbatch", walltime="8 h", gpus=1)
    assert "allowed_job_duration = 28800\n" in script
    assert "+MaxRuntime = $(allowed_job_duration)\n" in script
    assert "request_gpus = 1\n" in script


def test_image_at_the_lpc_sees_the_folder_of_the_job() -> None:
    script = script_of("fnal-lpc", container="/cvmfs/unpacked.cern.ch/me/mine:latest")
    assert "apptainer exec --bind $PWD:/srv --pwd /srv /cvmfs/unpacked.cern.ch/me/mine" in script


def test_long_queue_at_uchicago_is_the_one_without_a_name() -> None:
    assert "+queue" not in script_of("uchicago-af", walltime="24 h", directives=[])


def test_gateways_of_facilities_are_asked_for_what_their_clients_ask_for() -> None:
    eaf = site("fnal-eaf").script()  # type: ignore[attr-defined]
    assert "http://traefik-dask-gateway.dask-gateway.svc.cluster.local" in eaf
    assert "htcdaskgateway:HTCGateway" in eaf
    purdue = site("purdue-af").script()  # type: ignore[attr-defined]
    assert "the address of Dask's configuration" in purdue
    assert '{"worker_cores": 1, "worker_memory": 4}' in purdue


def test_coffea_casa_is_the_scheduler_of_the_session() -> None:
    assert site("coffea-casa").address == "tls://localhost:8786"  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_mentions_every_setting(tmp_path: Path, name: str) -> None:
    found = yaml.safe_load(written(tmp_path, name).read_text(encoding="utf-8"))
    assert set(found) == {each.name for each in fields(SiteSettings)}
    assert set(found["options"]) == {each.name for each in fields(OPTIONS[name])}


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_shows_the_defaults(tmp_path: Path, name: str) -> None:
    # What has none shows a value that makes sense, so that all of it together is valid, too.
    shown = read_site(written(tmp_path, name)).options
    kind, apart = OPTIONS[name], ALTERNATIVES.get(name, set())
    record_of(kind, {key: shown[key] for key in shown if key not in apart}, "options.")
    needed = {each.name: shown[each.name] for each in fields(kind) if has_no_default(each)}
    plain = kind(**needed)
    empty = [key for key in shown if getattr(plain, key) in (None, (), {})]
    defaults = {key: shown[key] for key in shown if key not in empty}
    assert record_of(kind, defaults, "options.") == plain


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_as_it_is_asks_for_the_defaults(name: str) -> None:
    settings = read_site(FOLDER / f"{name}.yaml")
    assert settings.kind == name
    assert set(settings.options) == {
        each.name for each in fields(OPTIONS[name]) if has_no_default(each)
    }


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_template_of_a_batch_system_renders(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    assert "module load python" in script_of(str(path))
