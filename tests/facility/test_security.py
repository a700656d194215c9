"""Certificates: who may connect, and that no secret is seen anywhere.  Slurm is simulated here."""

from __future__ import annotations

import logging
import pickle
import ssl
from typing import TYPE_CHECKING

import dask
import psutil
import pytest
from distributed import Client, Security

from hepdask_ml.errors import InputError
from hepdask_ml.facility.batch import BatchSite
from hepdask_ml.facility.security import CERTIFICATE, KEY, configured, of_files, temporary
from hepdask_ml.facility.systems import BatchOptions

if TYPE_CHECKING:
    from pathlib import Path

    from made_up_slurm import SimulatedSlurm


def site(tmp_path: Path, **options: object) -> BatchSite:
    plain = {
        "shared": str(tmp_path / "shared"),
        "logs": str(tmp_path / "logs"),
        "host": "127.0.0.1",
        "worker_options": ["--host", "127.0.0.1"],
        "memory": "500 MB",
    }
    return BatchSite("slurm", workers=1, options=BatchOptions(**{**plain, **options}))  # type: ignore[arg-type]


def files(folder: Path) -> Security:
    texts = temporary()
    for name, text in texts.items():
        (folder / name).write_text(text)
    return of_files(folder / CERTIFICATE, folder / KEY)


def named(certificate: str, key: str) -> dict[str, str]:
    """Give what Dask's configuration says of certificates."""
    tls = "distributed.comm.tls"
    return {
        f"{tls}.ca-file": certificate,
        **{f"{tls}.{role}.cert": certificate for role in ("client", "scheduler", "worker")},
        **{f"{tls}.{role}.key": key for role in ("client", "scheduler", "worker")},
    }


def test_temporary_certificates_differ_each_time() -> None:
    one, other = temporary(), temporary()
    assert set(one) == {CERTIFICATE, KEY}
    assert "PRIVATE KEY" in one[KEY]
    assert "PRIVATE KEY" not in one[CERTIFICATE]
    assert not set(one.values()) & set(other.values())


def test_security_of_files_holds_their_paths_alone(tmp_path: Path) -> None:
    made = files(tmp_path)
    assert made.require_encryption
    for text in (repr(made), str(made.get_tls_config_for_role("worker"))):  # type: ignore[no-untyped-call]
        assert "PRIVATE" not in text
        assert "BEGIN" not in text
    assert b"BEGIN" not in pickle.dumps(made)


def test_nothing_is_configured_by_default() -> None:
    with dask.config.set({"distributed.comm.tls.ca-file": None}):
        assert configured() is None


def test_certificates_of_the_configuration_are_used(tmp_path: Path) -> None:
    files(tmp_path)
    with dask.config.set(named(str(tmp_path / CERTIFICATE), str(tmp_path / KEY))):
        assert configured() is not None
        text = site(tmp_path).script()
    assert f"--tls-key {tmp_path / KEY}" in text
    assert "SESSION/key.pem" not in text


def test_text_of_a_key_in_the_configuration_is_refused() -> None:
    texts = temporary()
    with (
        dask.config.set(named(texts[CERTIFICATE], texts[KEY])),
        pytest.raises(InputError, match="write it into a file") as caught,
    ):
        configured()
    assert "BEGIN" not in str(caught.value)


def test_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def without() -> None:
        raise ImportError("cryptography")

    monkeypatch.setattr(Security, "temporary", without)
    with pytest.raises(InputError, match=r"hepdask-ml\[batch\]"):
        temporary()


def test_slurm_sim_lets_nobody_in_without_the_certificate(
    slurm_sim: SimulatedSlurm, tmp_path: Path
) -> None:
    with site(tmp_path).open() as client:
        client.wait_for_workers(1, timeout=120)
        address = str(client.scheduler.address)  # type: ignore[union-attr]
        assert address.startswith("tls://127.0.0.1:")
        assert all(
            name.startswith("tls://127.0.0.1:") for name in client.scheduler_info()["workers"]
        )
        stranger = tmp_path / "stranger"
        stranger.mkdir()
        for security, place in (
            (files(stranger), address),
            (None, address.replace("tls://", "tcp://")),
        ):
            with pytest.raises((OSError, TimeoutError, ssl.SSLError)):
                Client(place, security=security, timeout=1)  # type: ignore[no-untyped-call]


def test_slurm_sim_shows_no_secret_anywhere(
    slurm_sim: SimulatedSlurm,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.DEBUG), site(tmp_path).open() as client:
        client.wait_for_workers(1, timeout=120)
        [key] = (tmp_path / "shared").glob(f"*/{KEY}")
        secret = key.read_text().splitlines()[1]
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.parent.stat().st_mode & 0o777 == 0o700
        commands = [" ".join(process.cmdline()) for process in slurm_sim.processes()]
        seen = [repr(client), repr(client.cluster), slurm_sim.script("1"), *commands]
    seen += [path.read_text() for path in (tmp_path / "logs").iterdir()]
    seen += [caplog.text, *capfd.readouterr()]
    for text in seen:
        assert secret not in text
        assert "PRIVATE KEY" not in text
    assert not list((tmp_path / "shared").iterdir())


def test_slurm_sim_listens_on_the_given_host_alone(
    slurm_sim: SimulatedSlurm, tmp_path: Path
) -> None:
    def listening() -> set[tuple[str, int, str]]:
        processes = [psutil.Process(), *slurm_sim.processes()]
        return {
            (each.laddr.ip, each.laddr.port, " ".join(process.cmdline()))
            for process in processes
            for each in process.net_connections(kind="inet")
            if each.status == psutil.CONN_LISTEN
        }

    before = listening()
    with site(tmp_path).open() as client:
        client.wait_for_workers(1, timeout=120)
        opened = listening() - before
    assert opened
    assert {address for address, *_ in opened} == {"127.0.0.1"}, opened
