"""What holds for all tests."""

from __future__ import annotations

import signal
from importlib.util import find_spec

if find_spec("hypothesis") is not None:  # a machine that is lent for its GPU may not have it
    from hypothesis import HealthCheck, settings

    # How long an example takes tells what else the machine does.
    settings.register_profile(
        "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("untimed")


# What tests with torch share is looked through for examples like all modules; those tests
# themselves are skipped, and say so.
collect_ignore = (
    []
    if find_spec("torch") is not None
    else ["benchmarks/reading_alone.py", "made_up_training.py", "stories/trainings.py"]
)


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes that tests start, also where a shell runs in the background.

    Such a shell lets SIGINT be ignored, and whoever ignores it hands that on.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
