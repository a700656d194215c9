"""Runs one command of a simulated batch system, such as ``qsub``."""

from __future__ import annotations

import sys
from pathlib import Path

from batch.simulated import condor, lsf, pbs
from batch.simulated.jobs import Store
from batch.simulated.scripts import Refused

SYSTEMS = {"condor": condor, "lsf": lsf, "pbs": pbs}


def main(words: list[str]) -> None:
    """Run a command: the kind of its system, the folder, its name and its words."""
    kind, folder, name, *rest = words
    try:
        getattr(SYSTEMS[kind], name)(Store(Path(folder)), rest)
    except Refused as refused:
        sys.stdout.flush()
        print(refused, file=sys.stderr)
        raise SystemExit(refused.code) from None
