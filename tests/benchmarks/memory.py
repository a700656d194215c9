"""Peak memory of a toy-based test with a given number of toys, in a process of its own.

``python memory.py WORKSPACE TOYS``
"""

from __future__ import annotations

import json
import resource
import sys
from time import perf_counter

from hepdask_ml import hypotest


def main(workspace: str, toys: str) -> None:
    hypotest(workspace, mu=1.0, toys=1)
    began = perf_counter()
    hypotest(workspace, mu=1.0, toys=int(toys))
    took = perf_counter() - began
    # kilobytes on Linux, bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    sys.stdout.write(json.dumps({"peak_bytes": peak, "seconds": took}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
