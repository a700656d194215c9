"""Workers inside an allocation: launchers are simulated, or processes of this machine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from hepdask_ml.config import SiteSettings
from hepdask_ml.errors import InputError, SiteError
from hepdask_ml.facility.allocation import JOB_IDS, AllocationOptions, AllocationSite, tasks
from hepdask_ml.facility.site import site
from hepdask_ml.testing import SiteContract

if TYPE_CHECKING:
    from distributed import Client

    from hepdask_ml.facility.site import Site

Make = Callable[..., AllocationSite]

LAUNCHER = """\
#!{python}
import subprocess, sys
words = sys.argv[1:]
with open({record!r}, "a") as file:
    print(*words[: words.index("bash")], file=file)
number = next(word.split("=")[-1] for word in words if word.split("=")[-1].isdigit())
ranks = [subprocess.Popen(words[words.index("bash"):]) for _ in range(int(number))]
sys.exit(max(rank.wait() for rank in ranks))
"""


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "PBS_", "LSB_")) or name in {*JOB_IDS, "PE_HOSTFILE"}:
            monkeypatch.delenv(name)


@pytest.fixture
def made(tmp_path: Path) -> Make:
    def make(workers: int | None = 2, **options: Any) -> AllocationSite:
        plain: dict[str, Any] = {
            "shared": str(tmp_path / "shared"),
            "logs": str(tmp_path / "logs"),
            "host": "127.0.0.1",
            "worker_options": ["--host", "127.0.0.1"],
            "memory": "500 MB",
        }
        return AllocationSite(workers, options=AllocationOptions(**{**plain, **options}))

    return make


@pytest.fixture
def launchers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the file in which simulated srun and mpiexec write how they were called."""
    record, folder = tmp_path / "called", tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "mpiexec"):
        path = folder / name
        path.write_text(LAUNCHER.format(python=sys.executable, record=str(record)))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return record


class TestAllocationSite(SiteContract):
    """With processes of this machine in place of the nodes."""

    folder: ClassVar[Path]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _folder(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.folder = tmp_path_factory.mktemp("allocation")

    def site(self, **options: Any) -> Site:
        plain = {
            "launcher": "local",
            "shared": str(self.folder / "shared"),
            "logs": str(self.folder / "logs"),
            "host": "127.0.0.1",
            "worker_options": ["--host", "127.0.0.1"],
            "memory": "500 MB",
        }
        return site(SiteSettings("allocation", 1, 2, options={**plain, **options}))


def pids(client: Client) -> list[int]:
    """Give the workers' processes; nothing for one that is ending."""
    return list(client.run(os.getpid, on_error="ignore").values())


def status(dask_worker: Any) -> str:
    return str(dask_worker.status.name)


def assert_gone(numbers: list[int]) -> None:
    for number in numbers:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def test_local_processes_work_and_are_gone_afterwards(made: Make, tmp_path: Path) -> None:
    with made(launcher="local").open() as client:
        client.wait_for_workers(2, timeout=120)
        started = pids(client)
        assert client.submit(sum, [1, 2]).result() == 3
        assert client.scheduler_info()["address"].startswith("tls://127.0.0.1:")
    assert client.status == "closed"
    assert_gone(started)
    assert not list((tmp_path / "shared").iterdir())


@pytest.mark.parametrize(
    ("variables", "called"),
    [
        (
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"},
            "--ntasks=2 --cpus-per-task=1 --overlap --kill-on-bad-exit=0 --wait=0 --label",
        ),
        ({"PE_HOSTFILE": "/hosts", "NSLOTS": "2"}, "-n 2 --label"),
    ],
    ids=["srun_sim", "mpiexec_sim"],
)
def test_simulated_launcher_starts_the_tasks_of_the_job(
    launchers: Path,
    made: Make,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    called: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HEPDASK_ML_END", "1893456000")
    with made(None, launcher_options="--label").open() as client:
        client.wait_for_workers(2, timeout=120)
        assert set(client.run(os.getenv, "HEPDASK_ML_END").values()) == {"1893456000"}
        assert set(client.run(os.getenv, "OMP_NUM_THREADS").values()) == {"1"}
        started = pids(client)
    assert_gone(started)
    assert launchers.read_text().splitlines() == [called]


def test_dead_worker_is_started_again(made: Make) -> None:
    with made(launcher="local").open() as client:
        client.wait_for_workers(2, timeout=120)
        # A nanny that does not know yet that its worker runs takes its death for a failed start.
        while set(client.run(status, nanny=True).values()) != {"running"}:
            pass
        first = pids(client)
        os.kill(first[0], signal.SIGKILL)
        while len(seen := set(pids(client)) - {first[0]}) < 2:
            pass
        assert first[1] in seen


def test_launcher_that_ends_is_started_again(launchers: Path, made: Make) -> None:
    site = made(launcher="mpiexec", workers=1)
    with site.open() as client:
        client.wait_for_workers(1, timeout=120)
        [first] = pids(client)
        launcher = os.getsid(first)
        os.killpg(launcher, signal.SIGKILL)
        while (found := pids(client)) in ([], [first]):
            pass
        [second] = found
    assert len(launchers.read_text().splitlines()) == 2
    assert_gone([first, second])


def test_launcher_that_fails_is_given_up_with_its_words(made: Make) -> None:
    site = made(launcher=["bash", "-c", "echo no such interface: ib7 >&2; exit 3"])
    with (
        pytest.raises(SiteError, match=r"ended 3 times .* no such interface: ib7"),
        site.open() as client,
    ):
        client.submit(sum, [1, 2]).result()


def test_launcher_that_is_not_there_is_an_error(made: Make) -> None:
    with (
        pytest.raises(SiteError, match=r"cannot be started by jsrun .*options\.launcher"),
        made(launcher="jsrun").open(),
    ):
        pass


def test_outside_of_a_job_it_says_what_to_name(made: Make) -> None:
    with pytest.raises(InputError, match=r"neither srun .* options\.launcher"), made().open():
        pass


def test_error_of_the_user_passes(made: Make) -> None:
    with pytest.raises(ZeroDivisionError), made(launcher="local").open():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("variables", "threads", "number"),
    [
        ({"SLURM_NTASKS": "3", "SLURM_JOB_CPUS_PER_NODE": "8"}, 1, 3),
        ({"SLURM_JOB_CPUS_PER_NODE": "8(x2),3"}, 2, 9),
        ({"SLURM_JOB_CPUS_PER_NODE": "2"}, 4, 1),
        ({"LSB_DJOB_NUMPROC": "12"}, 4, 3),
        ({"NSLOTS": "5"}, 1, 5),
    ],
)
def test_tasks_of_an_allocation(variables: dict[str, str], threads: int, number: int) -> None:
    assert tasks(threads, variables) == number


def test_tasks_of_pbs(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text("n1\nn1\nn2\n")
    assert tasks(1, {"PBS_NODEFILE": str(nodes)}) == 3
    with pytest.raises(InputError, match="say it as workers"):
        tasks(1, {"PBS_NODEFILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shared": None}, "has no folder that its nodes see"),
        ({"ports": "10:"}, "is no range of ports"),
        ({"launcher": []}, "launcher is .*: it must not be empty"),
        ({"system": "slrum"}, 'did you mean "slurm"'),
        ({"nodes": 0}, "nodes is 0: it must be at least one"),
        ({"workers_per_job": 2}, "an allocation is one job: set workers"),
        ({"lancher": "srun"}, 'did you mean "launcher"'),
    ],
)
def test_wrong_options_get_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        site("allocation", **options)


def test_script_is_the_command(made: Make) -> None:
    script = made(
        4, gpus=1, setup=["module load python"], scratch="$TMPDIR", ports="10000:10100"
    ).script()
    assert script.startswith(
        "srun --ntasks=4 --cpus-per-task=1 --overlap --kill-on-bad-exit=0 --wait=0 "
        "--gpus-per-task=1 bash -c 'export OMP_NUM_THREADS=1 "
    )
    for words in (
        "; module load python; exec ",
        "--scheduler-file SESSION/scheduler.json ",
        "--local-directory $TMPDIR ",
        "--worker-port 10000:10100 --nanny-port 10000:10100 ",
        "--resources GPU=1 ",
        "--tls-key SESSION/key.pem",
    ):
        assert words in script


def test_words_of_another_launcher_are_filled_in(made: Make) -> None:
    script = made(3, launcher=["jsrun", "-n", "{workers}", "-c", "{threads}"]).script()
    assert script.startswith("jsrun -n 3 -c 1 bash -c ")
