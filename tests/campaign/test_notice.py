"""SIGTERM waits for the work of its process, for a while; each story is a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

PRELUDE = """
import os, signal, sys, threading, time
from hepdask_ml.campaign import notice
from hepdask_ml.campaign.notice import NOTICE

def say(word):
    os.write(1, word.encode() + b"\\n")

def term():
    os.kill(os.getpid(), signal.SIGTERM)

def give_up(problem):
    sys.__excepthook__(*problem[:3])
    os._exit(99)

threading.excepthook = give_up

def last_sleep():
    for _ in range(300):
        time.sleep(0.1)
"""

Story = Callable[[str], tuple[int, list[str]]]


@pytest.fixture
def story() -> Story:
    def tell(script: str) -> tuple[int, list[str]]:
        finished = subprocess.run(
            [sys.executable, "-c", PRELUDE + script],
            capture_output=True,
            text=True,
            timeout=60.0,
            check=False,
        )
        assert finished.stderr == ""
        return finished.returncode, finished.stdout.split()

    return tell


def test_a_process_that_holds_nothing_dies_at_once(story: Story) -> None:
    script = """
NOTICE.listen()
assert not NOTICE.given
term()
last_sleep()
"""
    assert story(script) == (-signal.SIGTERM, [])


def test_one_that_holds_work_finishes_it_and_dies_of_the_signal(story: Story) -> None:
    script = """
NOTICE.listen()
def work():
    with NOTICE.holding("w"):
        working.set()
        while not NOTICE.given:
            time.sleep(0.001)
        time.sleep(0.2)
        say("committed")
working = threading.Event()
threading.Thread(target=work, daemon=True).start()
working.wait()
term()
last_sleep()
"""
    assert story(script) == (-signal.SIGTERM, ["committed"])


def test_it_waits_for_every_holder(story: Story) -> None:
    script = """
NOTICE.listen()
ready = threading.Barrier(4)
def work(i):
    with NOTICE.holding(f"worker {i}"):
        ready.wait()
        while not NOTICE.given:
            time.sleep(0.001)
        time.sleep(0.1 * i)
        say(f"committed-{i}")
for i in range(3):
    threading.Thread(target=work, args=(i,), daemon=True).start()
ready.wait()
term()
last_sleep()
"""
    code, said = story(script)
    assert code == -signal.SIGTERM
    assert sorted(said) == ["committed-0", "committed-1", "committed-2"]


def test_a_second_signal_does_not_hurry_it(story: Story) -> None:
    script = """
NOTICE.listen()
with NOTICE.holding("w"):
    term()
    term()
    time.sleep(0.2)
    term()
    time.sleep(0.2)
    say("committed")
last_sleep()
"""
    assert story(script) == (-signal.SIGTERM, ["committed"])


def test_its_patience_ends(story: Story) -> None:
    script = """
notice.GRACE_S = 0.2
NOTICE.listen()
with NOTICE.holding("w"):
    say("working")
    term()
    last_sleep()
    say("committed")
"""
    assert story(script) == (-signal.SIGTERM, ["working"])


def test_the_handler_that_was_there_before_is_called_in_the_end(story: Story) -> None:
    script = """
def earlier(number, frame):
    assert threading.current_thread() is threading.main_thread()
    say("earlier")
    sys.exit(7)
signal.signal(signal.SIGTERM, earlier)
NOTICE.listen()
with NOTICE.holding("w"):
    term()
    time.sleep(0.2)
    say("committed")
last_sleep()
"""
    assert story(script) == (7, ["committed", "earlier"])


def test_a_signal_that_was_ignored_before_stays_so(story: Story) -> None:
    script = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
NOTICE.listen()
term()
while not NOTICE.given:
    time.sleep(0.01)
time.sleep(0.5)
say("alive")
"""
    assert story(script) == (0, ["alive"])


def test_work_that_begins_after_the_signal_is_waited_for_too(story: Story) -> None:
    script = """
NOTICE.listen()
with NOTICE.holding("w"):
    term()
    with NOTICE.holding("w"):
        time.sleep(0.1)
    time.sleep(0.1)
    say("committed")
last_sleep()
"""
    assert story(script) == (-signal.SIGTERM, ["committed"])


def test_an_error_in_the_work_lets_go_of_it(story: Story) -> None:
    script = """
NOTICE.listen()
try:
    with NOTICE.holding("w"):
        raise KeyError
except KeyError:
    term()
last_sleep()
"""
    assert story(script) == (-signal.SIGTERM, [])


def test_it_listens_once_and_in_the_main_thread_only(story: Story) -> None:
    script = """
other = threading.Thread(target=NOTICE.listen)
other.start()
other.join()
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
NOTICE.listen()
heard = signal.getsignal(signal.SIGTERM)
NOTICE.listen()
assert signal.getsignal(signal.SIGTERM) == heard
term()
last_sleep()
"""
    assert story(script) == (-signal.SIGTERM, [])


def test_it_knows_whose_work_is_held(story: Story) -> None:
    script = """
with NOTICE.holding("east"), NOTICE.holding("east"), NOTICE.holding("west"):
    assert NOTICE.held("east") and NOTICE.held("west") and not NOTICE.held("north")
with NOTICE.holding("east"):
    assert NOTICE.held("east") and not NOTICE.held("west")
assert not NOTICE.held("east")
"""
    assert story(script) == (0, [])
