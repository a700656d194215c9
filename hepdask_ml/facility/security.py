"""Certificates for the connections of a cluster.

Those of Dask's configuration (``distributed.comm.tls``) are used where it names some.  Elsewhere a
temporary one is made for each opening of a site: whoever has its key, which is in files that only
the user can read, may connect, and nobody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask
from distributed import Security

from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

CERTIFICATE, KEY = "certificate.pem", "key.pem"
"""File names."""


def configured() -> Security | None:
    """Give the certificates that Dask's configuration names.

    Returns
    -------
    Security or None
        None where it names none.

    Raises
    ------
    InputError
        If they are no files: the jobs would have to be given their texts.
    """
    if dask.config.get("distributed.comm.tls.ca-file", None) is None:
        return None
    named = Security(require_encryption=True)  # type: ignore[no-untyped-call]
    held = named.get_tls_config_for_role("worker")  # type: ignore[no-untyped-call]
    if any("\n" in str(value) for value in held.values()):
        raise InputError(
            "Dask's configuration holds the text of a certificate or of a key: write it into a "
            "file and name that one under distributed.comm.tls"
        )
    return named


def temporary() -> dict[str, str]:
    """Make a certificate and its key.

    Returns
    -------
    dict of str to str
        Their texts by file name.

    Raises
    ------
    InputError
        If the library for it is missing.
    """
    try:
        made = Security.temporary()  # type: ignore[no-untyped-call]
    except ImportError:
        raise InputError(
            "temporary certificates need the package cryptography: install hepdask-ml[batch], or "
            "name certificates in Dask's configuration under distributed.comm.tls"
        ) from None
    role = made.get_tls_config_for_role("worker")
    return {CERTIFICATE: role["cert"], KEY: role["key"]}


def of_files(certificate: Path, key: Path) -> Security:
    """Use a certificate and its key for every role.

    Parameters
    ----------
    certificate, key : Path
        Their files.

    Returns
    -------
    Security
        It holds their paths, not their texts.
    """
    roles = ("client", "scheduler", "worker")
    return Security(  # type: ignore[no-untyped-call]
        require_encryption=True,
        tls_ca_file=str(certificate),
        **{f"tls_{role}_cert": str(certificate) for role in roles},
        **{f"tls_{role}_key": str(key) for role in roles},
    )
