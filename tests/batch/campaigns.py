"""Drivers of toy limits on batch systems, as processes, and what must be true of their ledgers."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch.slow_limit import campaign
from stories.work import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stories.processes import Place, Process

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Drive:
    """A slow toy limit on a site, which can be driven by one process after another.

    Attributes
    ----------
    place : Place
        Where its processes are started.
    site : str
        Kind of the site.
    toys : int
        Toys of each hypothesis at each point.
    toy_s : float
        What each toy takes, in seconds, at least.
    options : dict
        For the site, beside those that keep it on the loopback address.
    env : mapping of str to str
        What the processes need beyond this one's environment.
    prefix : tuple of str
        Words before a command that is to run where the batch system is.
    """

    place: Place
    site: str
    toys: int
    toy_s: float
    options: dict[str, Any]
    env: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    @property
    def ledger(self) -> Path:
        return self.place.folder / "toys.ledger"

    def start(self) -> Process:
        """Start a driver."""
        folder = self.place.folder
        options = {
            "memory": "300 MB",
            "host": "127.0.0.1",
            "worker_options": ["--host", "127.0.0.1"],
            "environment": {"PYTHONPATH": str(TESTS), "PYTHONWARNINGS": "ignore"},
            "logs": str(folder / "logs"),
            "shared": str(folder / "shared"),
            **self.options,
        }
        words = [
            "-m", "batch.slow_limit", str(self.ledger), self.site,
            "--options", json.dumps(options), "--toys", str(self.toys), "--toy-s", str(self.toy_s),
        ]  # fmt: skip
        if self.prefix:  # in place of the interpreter, so that it gets the signals
            command = [*self.prefix, sys.executable, "-W", "ignore", *words]
            words = ["-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])", *command]
        return self.place.start("driver", *words, env=self.env)

    def wait_for_toys(self, driver: Process, number: int) -> None:
        """Wait until so many toys are in the ledger."""

        def enough() -> bool:
            assert driver.alive, driver.output
            return done(self.ledger) >= number

        wait_for(enough, f"{number} toys", deadline_s=240.0)

    def check(self, driver: Process) -> None:
        """See that the limit is that of one undisturbed process, and that each toy counts once."""
        assert driver.wait() == 0, driver.output
        last = driver.said.splitlines()[-1]
        assert json.loads(last) == undisturbed(self.toys), driver.output
        audit(self.ledger)


@lru_cache
def undisturbed(toys: int) -> dict[str, Any]:
    """Give the limit of one process that nobody disturbs, as JSON."""
    document = campaign(None, toys).run(threads=os.cpu_count() or 1).to_json()
    return dict(json.loads(json.dumps(document)))


def done(ledger: Path) -> int:
    """Count the toys in a ledger that may be written meanwhile."""
    if not ledger.exists():
        return 0
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=30)) as book:
        try:
            return int(book.execute("SELECT total(stop - start) FROM block").fetchone()[0])
        except sqlite3.OperationalError:  # not made yet
            return 0


def audit(ledger: Path) -> None:
    """See that the blocks of each unit lie one after the other, from its first toy to its last."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as book:
        units = book.execute("SELECT id, total, done, error FROM unit").fetchall()
        assert units
        for unit, total, counted, error in units:
            at = 0
            blocks = book.execute(
                "SELECT start, stop, length(result) FROM block WHERE unit = ? ORDER BY start",
                (unit,),
            )
            for start, stop, size in blocks:
                assert start == at, f"unit {unit}: toys {at} to {start} are missing or double"
                assert size == 17 * (stop - start)
                at = stop
            assert (at, counted, error) == (total, total, None)


def workers(ledger: Path) -> int:
    """Count the workers that have done something."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as book:
        return int(book.execute("SELECT count(DISTINCT worker) FROM block").fetchone()[0])
