"""XRootD servers for the tests.

They are Debian's: ``tests/xrootd/xrootd.sh packages`` installs them.  Without them the tests are
skipped, or fail where HEPDASK_ML_REAL=1 says that they have to be there.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from xrootd.servers import Servers, real_servers

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Give what starts real servers, as many as are asked for."""
    absent = [name for name in ("xrootd", "setpriv") if shutil.which(name) is None]
    reason = f"{', '.join(absent)} not found: tests/xrootd/xrootd.sh packages installs it"
    if not absent:
        absent = [name for name in ("uproot", "fsspec_xrootd", "XRootD") if not find_spec(name)]
        reason = f"{', '.join(absent)} not found: install hepdask-ml[data]"
    if absent and os.environ.get("HEPDASK_ML_REAL") == "1":
        pytest.fail(reason)
    if absent:
        pytest.skip(reason)
    with real_servers() as started:
        yield started
