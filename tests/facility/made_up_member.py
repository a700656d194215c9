"""A member of a gang that does what its payload says.  No test is here."""

from __future__ import annotations

import os
import sys
import time

from hepdask_ml.facility.gang import gathered
from hepdask_ml.facility.member import arrive

NAME = "facility.made_up_member"


def main() -> None:
    """Join, or not; then say what is heard."""
    member = arrive()
    if member.payload == b"die":
        os._exit(3)
    if member.payload == b"deaf":
        time.sleep(100.0)
    if member.payload == b"one at most" and member.index:
        member.join(fault="one is enough")
    else:
        member.join(pid=os.getpid(), threads=member.threads)
        while True:
            message = member.messages.get()
            if "leave" in message:
                os._exit(0)
            member.say(heard=message, index=member.index, payload=len(member.payload))


def lead(size: int) -> None:
    """Lead a gang until killed; print its processes."""
    with gathered(NAME, b"", size, lambda: False) as gang:
        print(*(member.said["pid"] for member in gang.members), flush=True)
        time.sleep(100.0)


if __name__ == "__main__":
    lead(int(sys.argv[1]))
