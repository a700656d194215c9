"""A driver of a search in a process of its own, so that it can be killed.

``python -m stories.searcher FOLDER SETTINGS [--scheduler-file FILE | --threads N]``
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path

from distributed import Client
from stories.campaigner import ERROR
from stories.trials import Trials

from hepdask_ml.errors import HepdaskError


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("--scheduler-file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--file-limit", type=int)
    asked = parser.parse_args()
    if asked.file_limit is not None:
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked.file_limit, most))
    campaign = Trials(asked.folder, **asked.settings).campaign()
    try:
        if asked.scheduler_file is None:
            found = campaign.run(threads=asked.threads)
        else:
            with Client(scheduler_file=asked.scheduler_file, timeout=60) as client:  # type: ignore[no-untyped-call]
                found = campaign.run(client)
    except HepdaskError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return ERROR
    print("done", len(found.trials), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
