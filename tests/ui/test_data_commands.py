"""The commands ``scan`` and ``workspace``: what they print, keep and refuse."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from dask.local import get_sync

from hepdask_ml.data.findings import Scan
from hepdask_ml.data.scan import scan
from hepdask_ml.errors import SiteError, late
from hepdask_ml.ui.cli import main
from hepdask_ml.ui.data import TELLERS, ScanProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPEC = {
    "selection": "met > 20",
    "features": {
        "event": ["met"],
        "jets": {"branches": ["Jet_pt"], "percentile": 95, "scale": "standard"},
    },
}
CABINETRY: dict[str, Any] = {
    "General": {
        "Measurement": "control",
        "POI": "z_norm",
        "HistogramFolder": "histograms/",
        "InputPath": "inputs.root:{RegionPath}/{SamplePath}{VariationPath}",
    },
    "Regions": [{"Name": "cr", "RegionPath": "cr"}],
    "Samples": [
        {"Name": "Data", "SamplePath": "data", "Data": True},
        {"Name": "Z", "SamplePath": "z"},
    ],
    "NormFactors": [{"Name": "z_norm", "Samples": "Z", "Nominal": 1, "Bounds": [0, 5]}],
    "Systematics": [
        {
            "Name": "jes",
            "Type": "NormPlusShape",
            "Up": {"VariationPath": "_jesUp"},
            "Down": {"Symmetrize": True},
        }
    ],
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_one_sentence(result: Result, *words: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert not result.stdout
    for word in words:
        assert word in line


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def events(folder: Path) -> Path:
    """A folder with features and two files of events."""
    uproot, ak = pytest.importorskip("uproot"), pytest.importorskip("awkward")
    for seed, name in enumerate(("one", "two")):
        rng = np.random.default_rng(seed)
        n_jets = rng.poisson(2.5, 200)
        with uproot.recreate(folder / f"{name}.root") as file:
            file.mktree("Events", {"met": "f4", "Jet_pt": "var * float32"})
            pt = rng.exponential(40.0, n_jets.sum()).astype("f4")
            met = rng.exponential(30.0, 200).astype("f4")
            file["Events"].extend({"met": met, "Jet_pt": ak.unflatten(pt, n_jets)})
    (folder / "features.yaml").write_text(yaml.safe_dump(SPEC))
    return folder


@pytest.fixture
def histograms(folder: Path) -> Path:
    """A folder with a configuration of cabinetry and the histograms that it has put there."""
    (folder / "histograms").mkdir()
    numbers: dict[str, list[float]] = {
        "Data": [3, 0, 5],
        "Z": [2.5, 0.0, 4.0],
        "Z_jes_Up": [2.75, 0.0, 4.5],
    }
    for name, yields in numbers.items():
        stdev = 0.5 * np.sqrt(yields)
        np.savez(
            folder / "histograms" / f"cr_{name}.npz", yields=yields, stdev=stdev, bins=[0, 1, 2, 3]
        )
    (folder / "config.yml").write_text(yaml.safe_dump(CABINETRY))
    return folder


# --- scan ----------------------------------------------------------------------------------------


def test_scan_prints_its_table(events: Path) -> None:
    result = run("scan", "features.yaml", "one.root", "two.root:Events", "--threads", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{scan(['one.root', 'two.root'], SPEC)}\n"
    assert not result.stderr
    assert not (events / "scan.json").exists()


def test_scan_is_kept_and_taken_up(events: Path) -> None:
    command = ("scan", "features.yaml", "*.root", "-o", "scan.json")
    first = run(*command)
    assert first.stderr == "wrote scan.json\n"
    assert Scan.load("scan.json") == scan("*.root", SPEC)
    written = (events / "scan.json").stat()
    second = run(*command)
    assert (second.exit_code, second.stdout) == (0, first.stdout)
    assert second.stderr == "scan.json is of these files and features: nothing is read\n"
    assert run(*command, "--quiet").stderr == ""
    assert (events / "scan.json").stat() == written
    (events / "features.yaml").write_text(yaml.safe_dump({**SPEC, "selection": "met > 30"}))
    third = run(*command)
    assert third.stderr.splitlines() == [
        "warning: scan.json is of other features: it is replaced by a new scan",
        "wrote scan.json",
    ]


@pytest.mark.usefixtures("events")
def test_scan_as_a_document() -> None:
    result = run("scan", "features.yaml", "one.root", "--json")
    document = json.loads(result.stdout, parse_constant=pytest.fail)
    found = scan("one.root", SPEC)
    assert document["schema"] == "hepdask-ml/scan/1"
    assert (document["n_events"], document["n_selected"]) == (200, found.n_selected)
    assert document["slots"]["jets"]["95"] == found.slots("jets", 95)
    met = document["fields"]["event"]["met"]
    assert met["mean"] == found.fields["event"]["met"].mean
    assert met["quantiles"]["0.5"] == found.fields["event"]["met"].quantile(0.5)
    assert document["datasets"][""]["n_selected"] == found.n_selected


def test_scan_of_nothing_as_a_document(events: Path) -> None:
    (events / "features.yaml").write_text(yaml.safe_dump({**SPEC, "selection": "met > 1e6"}))
    result = run("scan", "features.yaml", "one.root", "--json")
    document = json.loads(result.stdout, parse_constant=pytest.fail)
    assert document["slots"] == {"jets": {}}
    assert document["fields"]["event"]["met"]["low"] is None
    assert document["notes"] == ["No event of 200 passes the selection."]


def test_unreadable_files_are_named_or_passed_over(events: Path) -> None:
    (events / "bad.root").write_bytes(b"no file of ROOT")
    files = ("scan", "features.yaml", "one.root", "bad.root")
    assert_one_sentence(run(*files), "bad.root cannot be read", "or give --skip-unreadable")
    result = run(*files, "--skip-unreadable")
    assert result.exit_code == 0, result.output
    assert "Scan of 1 file: 200 events" in result.stdout
    assert "\nPassed over: events 0 to the end of " in result.stdout
    assert result.stderr.startswith("warning: passed over: events 0 to the end of ")


@pytest.mark.usefixtures("events")
def test_a_scan_that_cannot_be_kept_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = run("scan", "features.yaml", "one.root", "-o", "scan.json")
    assert result.exit_code == 1
    assert result.stdout.startswith("Scan of 1 file")
    [line] = result.stderr.splitlines()
    assert line.startswith("Error: scan.json cannot be written (No space left on device)")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.yaml", "one.root"], ["missing.yaml cannot be read"]),
        (["features.yaml", "three.root"], ["there is no file three.root"]),
        (["features.yaml", "one.root", "--tree", "Runs"], ["Runs"]),
        (["features.yaml", "/store/a.root", "--redirector", "host"], ['redirector "host"']),
        (["features.yaml", "one.root", "-O", "workers=2"], ["name one with --site"]),
        (["features.yaml", "one.root", "--site", "a", "--scheduler", "b"], ["two places"]),
        (["features.yaml", "one.root", "--site", "nowhere"], ["nowhere"]),
    ],
)
@pytest.mark.usefixtures("events")
def test_scan_refuses_in_a_sentence(arguments: list[str], words: list[str]) -> None:
    assert_one_sentence(run("scan", *arguments), *words)


def test_usage_is_shown_without_files() -> None:
    result = run("scan", "features.yaml")
    assert result.exit_code == 2
    assert "Missing argument 'FILES...'" in result.stderr


class Pending:
    """A future of the made-up cluster."""

    def __init__(self, key: str, work: Callable[[], Any]) -> None:
        self.key = key
        self.result = work
        self.released = False

    def add_done_callback(self, tell: Callable[[Pending], None]) -> None:
        tell(self)

    def release(self) -> None:
        self.released = True


class Cluster:
    """A client that computes what it is asked for in this process, when the result is wanted."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.opened = 0
        self.futures: list[Pending] = []

    def get(self, graph: dict[str, Any], keys: list[str], *, sync: bool) -> list[Pending]:
        assert not sync
        self.futures = [Pending(key, partial(self.compute, graph, key)) for key in keys]
        return self.futures

    def compute(self, graph: dict[str, Any], key: str) -> Any:
        if self.fault is not None:
            raise self.fault
        return get_sync(graph, key)

    @contextmanager
    def open(self) -> Iterator[Cluster]:
        self.opened += 1
        yield self


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Cluster], Any]:
    """Make a cluster the place that --scheduler names."""
    logger = logging.getLogger("distributed")
    monkeypatch.setattr(logger, "level", logger.level)

    def there(cluster: Cluster) -> Any:
        site = SimpleNamespace(site=lambda _: cluster, settled=late("facility.site").settled)
        monkeypatch.setattr(
            "hepdask_ml.ui.data.late", lambda name: site if name == "facility.site" else late(name)
        )
        command = ("scan", "features.yaml", "*.root", "--scheduler", "tcp://a:1")
        return lambda *more: run(*command, *more)

    return there


@pytest.mark.usefixtures("events")
def test_workers_scan_and_every_part_is_counted(
    on: Callable[[Cluster], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ScanProgress] = []

    def kept(**options: Any) -> ScanProgress:
        made.append(ScanProgress(**options))
        return made[-1]

    monkeypatch.setattr("hepdask_ml.ui.data.ScanProgress", kept)
    cluster = Cluster()
    result = on(cluster)()
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{scan('*.root', SPEC)}\n"
    [progress] = made
    assert (progress.done, progress.total) == (2, 2)
    whole, *parts = cluster.futures
    # Only the result is held to the end.
    assert [part.released for part in parts] == [True, True]
    assert not whole.released


@pytest.mark.usefixtures("events")
def test_no_site_is_opened_where_nothing_is_to_be_read(on: Callable[[Cluster], Any]) -> None:
    cluster = Cluster()
    command = on(cluster)
    first = command("-o", "scan.json")
    assert (cluster.opened, first.stderr) == (1, "wrote scan.json\n")
    assert command("-o", "scan.json").stdout == first.stdout
    assert_one_sentence(command("missing.root"), "there is no file missing.root")
    assert cluster.opened == 1


@pytest.mark.usefixtures("events")
def test_faults_of_workers_are_told_in_a_sentence(on: Callable[[Cluster], Any]) -> None:
    assert_one_sentence(
        on(Cluster(RuntimeError("all of them died")))(),
        "the workers cannot scan (RuntimeError: all of them died)", "hepdask-ml site check",
        code=1,
    )  # fmt: skip
    assert_one_sentence(on(Cluster(SiteError("no way there")))(), "no way there", code=1)


@pytest.mark.usefixtures("events")
def test_progress_counts_what_threads_read() -> None:
    before = [logging.getLogger(name).level for name in TELLERS]
    with ScanProgress() as progress, progress.of_threads():
        scan("*.root", SPEC, threads=2)
    assert (progress.done, progress.total) == (2, 2)
    assert [logging.getLogger(name).level for name in TELLERS] == before


# --- workspace -----------------------------------------------------------------------------------


def test_workspace_is_written_and_the_report_printed(histograms: Path) -> None:
    result = run("workspace", "config.yml", "-o", "new/workspace.json")
    assert result.exit_code == 0, result.output
    assert result.stderr == "wrote new/workspace.json\n"
    lines = result.stdout.splitlines()
    assert lines[0].startswith("3 templates, digest ")
    assert any(line.startswith("empty       cr/Z: ") for line in lines)
    assert any(line.startswith("symmetrised cr/Z/jes: ") for line in lines)
    workspace = json.loads((histograms / "new" / "workspace.json").read_text())
    assert workspace["observations"] == [{"name": "cr", "data": [3.0, 0.0, 5.0]}]
    assert workspace["measurements"][0]["config"]["poi"] == "z_norm"


@pytest.mark.usefixtures("histograms")
def test_workspace_is_printed_and_the_report_beside_it() -> None:
    run("workspace", "config.yml", "-o", "workspace.json")
    result = run("workspace", "config.yml")
    assert result.stdout == Path("workspace.json").read_text()
    assert "symmetrised cr/Z/jes: " in result.stderr


@pytest.mark.usefixtures("histograms")
def test_report_as_a_document() -> None:
    result = run("workspace", "config.yml", "-o", "workspace.json", "--json")
    document = json.loads(result.stdout)
    assert list(document) == ["schema", "workspace", "report"]
    assert document["schema"] == "hepdask-ml/workspace/1"
    assert document["workspace"] == "workspace.json"
    assert {"empty", "symmetrised"} <= {entry["what"] for entry in document["report"]["entries"]}
    assert len(document["report"]["inputs"]) == 3


def test_histograms_of_the_input_path(histograms: Path) -> None:
    uproot, hist = pytest.importorskip("uproot"), pytest.importorskip("hist")
    with uproot.recreate(histograms / "inputs.root") as file:
        for name, values in {"data": [4, 6], "z": [3, 7], "z_jesUp": [3.5, 6.5]}.items():
            made = hist.Hist(hist.axis.Regular(2, 0, 1), storage="weight")
            made.view().value = made.view().variance = values
            file[f"cr/{name}"] = made
    result = run("workspace", "config.yml", "--source", "inputs", "--folder", histograms)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["observations"][0]["data"] == [4.0, 6.0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.yml"], ["missing.yml cannot be read"]),
        (["config.yml", "--json"], ["--json", "name a file with -o"]),
        (["config.yml", "--folder", "elsewhere"], ["is missing", "with --source inputs"]),
        (["histograms/cr_Z.npz"], ["cr_Z.npz"]),
    ],
)
@pytest.mark.usefixtures("histograms")
def test_workspace_refuses_in_a_sentence(arguments: list[str], words: list[str]) -> None:
    assert_one_sentence(run("workspace", *arguments), *words)


@pytest.mark.usefixtures("histograms")
def test_names_cannot_command_the_terminal() -> None:
    config = {**CABINETRY, "Regions": [{"Name": "c\x1b[31mr", "RegionPath": "cr"}]}
    Path("config.yml").write_text(yaml.safe_dump(config))
    for found in Path("histograms").iterdir():
        found.rename(found.with_name(found.name.replace("cr", "c\x1b[31mr")))
    result = run("workspace", "config.yml", "-o", "workspace.json")
    assert result.exit_code == 0, result.output
    assert "c [31mr/Z" in result.stdout
    assert "\x1b" not in result.stdout
