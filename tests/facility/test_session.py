"""The folder through which jobs find their scheduler: one holder at a time, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hepdask_ml.errors import SiteError
from hepdask_ml.facility import session as session_module
from hepdask_ml.facility.session import SCHEDULER_FILE, Session, held

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLDER = """\
import sys, pathlib
from hepdask_ml.facility.session import held
with held(pathlib.Path(sys.argv[1]), "slurm-1") as session:
    session.keep_jobs({"7": "worker-7"})
    session.announce("tls://10.0.0.1:8786")
    session.keep_secrets({"key.pem": "old"})
    print(session.folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(parent: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Hold a folder in another process."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_address_is_written_as_workers_read_it(tmp_path: Path) -> None:
    with held(tmp_path, "slurm-1") as session:
        session.announce("tls://10.0.0.1:8786")
        written = json.loads((session.folder / SCHEDULER_FILE).read_text())
    assert written["address"] == "tls://10.0.0.1:8786"


def test_everything_is_for_this_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with held(tmp_path / "parent", "slurm-1") as session:
            [file] = session.keep_secrets({"key.pem": "secret"})
            session.announce("tls://10.0.0.1:8786")
            session.keep_jobs({"1": "worker"})
            assert mode(tmp_path / "parent") == 0o700
            assert mode(session.folder) == 0o700
            assert {mode(path) for path in session.folder.iterdir()} == {0o600}
            assert file.read_text() == "secret"
    finally:
        os.umask(before)


def test_secret_takes_the_place_of_a_readable_file(tmp_path: Path) -> None:
    with held(tmp_path, "slurm-1") as session:
        for name in ("key.pem", ".key.pem.new"):
            (session.folder / name).write_text("planted")
            (session.folder / name).chmod(0o666)
        [file] = session.keep_secrets({"key.pem": "secret"})
        assert (mode(file), file.read_text()) == (0o600, "secret")


def fail(session: Session) -> None:
    session.keep_jobs({"1": "worker"})
    raise OSError("nothing that matters")


def test_folder_is_gone_afterwards_even_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing"), held(tmp_path, "slurm-1") as session:
        fail(session)
    assert not list(tmp_path.iterdir())


def test_two_processes_at_once_have_different_folders(tmp_path: Path) -> None:
    with another_process(tmp_path) as (_, first), held(tmp_path, "slurm-1") as session:
        assert first != session.folder
        assert session.jobs == {}


def test_folder_of_a_killed_process_is_taken_over_with_its_jobs(tmp_path: Path) -> None:
    with another_process(tmp_path) as (process, folder):
        process.send_signal(signal.SIGKILL)
        process.wait()
    with held(tmp_path, "slurm-1") as session:
        assert session.folder == folder
        assert session.jobs == {"7": "worker-7"}
        [file] = session.keep_secrets({"key.pem": "new"})
        assert file.read_text() == "new"
    assert not list(tmp_path.iterdir())


def test_process_that_ends_well_leaves_nothing(tmp_path: Path) -> None:
    with another_process(tmp_path) as (process, _):
        process.communicate("")
    assert not list(tmp_path.iterdir())


def test_other_settings_have_other_folders(tmp_path: Path) -> None:
    with held(tmp_path, "slurm-1") as one, held(tmp_path, "slurm-2") as other:
        assert one.folder != other.folder


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null"])
def test_jobs_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    with held(tmp_path, "slurm-1") as session:
        assert session.jobs == {}
        (session.folder / "jobs.json").write_text(text)
        assert session.jobs == {}


def test_parent_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SiteError, match=r"file/sites cannot be shared.*options\.shared"),
        held(tmp_path / "file/sites", "slurm-1"),
    ):
        pass


def test_too_many_drivers_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_DRIVERS", 1)
    with (
        held(tmp_path, "slurm-1"),
        pytest.raises(SiteError, match=r"1 drivers run with .*slurm-1: end some"),
        held(tmp_path, "slurm-1"),
    ):
        pass


def test_holder_and_what_it_wrote_outlive_the_removal_by_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next one locks as soon as the lock is free: in the middle of the removal.
    unlink = Path.unlink
    second: list[AbstractContextManager[Session]] = []

    def slow_unlink(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if path.name == "lock" and not second:
            second.append(held(tmp_path, "slurm-1"))
            session = second[0].__enter__()
            session.announce("tls://10.0.0.2:8786")
            session.keep_jobs({"1": "worker"})
            session.keep_secrets({"key.pem": "secret"})

    with held(tmp_path, "slurm-1") as first:
        first.announce("tls://10.0.0.1:8786")
        first.keep_jobs({})
        first.keep_secrets({"key.pem": "old", "certificate.pem": "old"})
        monkeypatch.setattr(Path, "unlink", slow_unlink)
    monkeypatch.undo()
    folder = tmp_path / "slurm-1"
    assert {path.name for path in folder.iterdir()} == {
        "lock", "scheduler.json", "jobs.json", "key.pem",
    }  # fmt: skip
    with held(tmp_path, "slurm-1") as third:
        assert third.folder != folder
    second[0].__exit__(None, None, None)
    assert not list(tmp_path.iterdir())


def test_many_at_once_never_share_a_folder(tmp_path: Path) -> None:
    holders: dict[Path, int] = {}
    lock, shared = threading.Lock(), []

    def hold(number: int) -> None:
        for _ in range(30):
            with held(tmp_path, "slurm-1") as session:
                with lock:
                    if session.folder in holders:
                        shared.append(session.folder)
                    holders[session.folder] = number
                session.announce(f"tls://{number}")
                written = json.loads((session.folder / SCHEDULER_FILE).read_text())
                assert written == {"address": f"tls://{number}"}
                with lock:
                    del holders[session.folder]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(hold, range(6)))
    assert not shared
    left = [path for folder in tmp_path.iterdir() for path in folder.iterdir()]
    assert not left
