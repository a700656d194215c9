"""A toy limit in a process of its own, whose toys take as long as is asked.

So its campaign lasts for several walltimes on any machine, and its limit is that of a quick one.
``python -m batch.slow_limit LEDGER SITE --options JSON --toys N --toy-s SECONDS``
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import dataclass, replace
from time import sleep
from typing import TYPE_CHECKING

import made_up

from hepdask_ml import HepdaskError, open_site, toy_limit
from hepdask_ml.campaign.unit import Done
from hepdask_ml.limits.runner import GRAIN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hepdask_ml import Campaign, Limit
    from hepdask_ml.campaign.unit import Block, Runner

SCAN = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Slow:
    """Works like another runner, and sleeps."""

    runner: Runner
    toy_s: float

    def run(self, block: Block, enough: Callable[[], bool]) -> Done:
        at, pieces = block.start, []
        while at < block.stop and not enough():
            piece = replace(block, start=at, stop=min(at + GRAIN, block.stop))
            done = self.runner.run(piece, lambda: False)
            pieces.append(done.result)
            sleep(self.toy_s * (done.reached - at))
            at = done.reached
        return Done(at, b"".join(pieces))


def campaign(ledger: str | Path | None, toys: int) -> Campaign[Limit]:
    """Prepare the campaign, not slow yet."""
    return toy_limit(made_up.MADE_UP["one bin"], scan=SCAN, toys=toys, ledger=ledger, seed=7)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("ledger")
    parser.add_argument("site")
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--toys", type=int, required=True)
    parser.add_argument("--toy-s", type=float, required=True)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
    logging.getLogger("hepdask_ml").setLevel(logging.INFO)
    slow = campaign(asked.ledger, asked.toys)
    slow.runner = Slow(slow.runner, asked.toy_s)
    try:
        with open_site(asked.site, **asked.options) as client:
            print(json.dumps(slow.run(client).to_json()), flush=True)
    except HepdaskError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
