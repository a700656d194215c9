"""A driver in a process of its own, so that it can be killed.

``python -m stories.campaigner FOLDER [--scheduler-file FILE | --workers N | --threads N]``
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from contextlib import ExitStack
from pathlib import Path

from distributed import Client
from stories.processes import local_cluster
from stories.work import Book, Rounds

from hepdask_ml.errors import HepdaskError

ERROR = 3
"""Exit code for an error of ours, whose sentence is the only line of the output."""

INTERRUPTED = 130


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scheduler-file")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--units", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--faults", type=json.loads, required=True)
    parser.add_argument("--step-s", type=float, required=True)
    parser.add_argument("--target-s", type=float, required=True)
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--file-limit", type=int)
    asked = parser.parse_args()
    book = Book(asked.folder, Rounds(asked.units, asked.steps, asked.rounds, faults=asked.faults))
    if asked.ledger is not None:
        book.path = asked.ledger
    if asked.file_limit is not None:
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked.file_limit, most))
    try:
        with ExitStack() as stack:
            client = _client(asked, stack)
            campaign = book.campaign(step_s=asked.step_s, target_s=asked.target_s)
            print("done", campaign.run(client, threads=asked.threads), flush=True)
    except HepdaskError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return ERROR
    except KeyboardInterrupt:
        print("KeyboardInterrupt", flush=True)
        return INTERRUPTED
    return 0


def _client(asked: argparse.Namespace, stack: ExitStack) -> Client | None:
    client: Client | None = None
    if asked.scheduler_file is not None:
        client = stack.enter_context(
            Client(scheduler_file=asked.scheduler_file, timeout=60)  # type: ignore[no-untyped-call]
        )
    elif asked.workers:
        cluster = stack.enter_context(local_cluster(asked.workers))
        client = stack.enter_context(Client(cluster))  # type: ignore[no-untyped-call]
    return client


if __name__ == "__main__":
    sys.exit(main())
