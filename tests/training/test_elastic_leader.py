"""What the leader of a gang makes of what its ranks say; no process is started, no torch needed."""

from __future__ import annotations

from base64 import b64encode
from contextlib import contextmanager
from time import time
from typing import TYPE_CHECKING, Any

import pytest
from training.made_up_ranks import block, gang

from hepdask_ml.campaign.unit import Done
from hepdask_ml.errors import HepdaskError, WorkerFault
from hepdask_ml.facility.gang import BUSY
from hepdask_ml.training import elastic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STOP = {"stop": True}
DONE = {"reached": 4, "result": b64encode(b"result").decode()}
EMPTY = {"reached": 4, "result": ""}
ERROR = {"error": "ValueError: made up", "fault": False}


class MadeUpMember:
    def __init__(self, host: str, device: str = "cpu") -> None:
        self.host = host
        self.said = {"device": device}


class MadeUpGang:
    """Members say what they are told to say: one message at each look; the rest is silence."""

    host = "tcp://one"

    def __init__(
        self,
        *says: tuple[int, dict[str, Any] | None] | None,
        hosts: tuple[str, ...] = ("tcp://one", "tcp://two", "tcp://three"),
        refusals: tuple[str, ...] = (),
        ends: float = float("inf"),
    ) -> None:
        self.members = [MadeUpMember(host) for host in hosts]
        self.refusals, self.ends = refusals, ends
        self.told: list[tuple[int, dict[str, Any]]] = []
        self._says = list(says)

    def send(self, member: MadeUpMember, message: dict[str, Any]) -> None:
        self.told.append((self.members.index(member), message))

    def receive(self, patience_s: float) -> list[tuple[MadeUpMember, dict[str, Any] | None]]:
        said = self._says.pop(0) if self._says else None
        return [] if said is None else [(self.members[said[0]], said[1])]


def never() -> bool:
    return False


class After:
    """Says that it is enough after some looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __call__(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.fixture
def form(monkeypatch: pytest.MonkeyPatch) -> list[MadeUpGang]:
    """Let gangs be those of a list, one after the other."""
    gangs: list[MadeUpGang] = []

    @contextmanager
    def gathered(*_: Any) -> Iterator[MadeUpGang]:
        yield gangs.pop(0)

    monkeypatch.setattr(elastic, "gathered", gathered)
    monkeypatch.setattr(elastic, "SEAT_S", 0.0)
    return gangs


def test_the_first_rank_counts(form: list[MadeUpGang], tmp_path: Path) -> None:
    made_up = MadeUpGang((0, {"store": ["h", 1]}), (2, EMPTY), (2, None), (1, EMPTY), (0, DONE))
    form.append(made_up)
    assert gang(tmp_path, 3).run(block(), never) == Done(4, b"result")
    places = [(rank, {"rank": rank, "world": 3}) for rank in range(3)]
    assert made_up.told == [*places, (1, {"store": ["h", 1]}), (2, {"store": ["h", 1]})]


@pytest.mark.parametrize(
    ("made_up", "enough"),
    [
        (MadeUpGang((2, {"leaving": True}), (1, {"leaving": True}), (0, DONE)), never),
        (MadeUpGang(None, (0, DONE), ends=time() + 20.0), never),
        (MadeUpGang(None, None, None, (0, DONE)), After(3)),
    ],
)
def test_all_are_told_to_stop_once(
    form: list[MadeUpGang], made_up: MadeUpGang, enough: Any, tmp_path: Path
) -> None:
    form.append(made_up)
    assert gang(tmp_path, 3).run(block(), enough).reached == 4
    assert made_up.told[3:] == [(rank, STOP) for rank in range(3)]


def test_without_a_rank_another_gang_is_formed(form: list[MadeUpGang], tmp_path: Path) -> None:
    # The others fail for want of it, which is no error of the objective.
    form.append(MadeUpGang((0, ERROR), (1, None)))
    form.append(MadeUpGang((0, DONE), hosts=("tcp://one",)))
    assert gang(tmp_path, 3).run(block(), never) == Done(4, b"result")
    assert not form


def test_an_error_is_raised_when_nobody_has_died(form: list[MadeUpGang], tmp_path: Path) -> None:
    later = {"error": "RuntimeError: connection closed", "fault": False}
    form.append(MadeUpGang((2, ERROR), (0, later)))
    with pytest.raises(HepdaskError, match="rank 2: ValueError: made up"):
        gang(tmp_path, 3).run(block(), never)


@pytest.mark.parametrize(("rank", "kind"), [(0, WorkerFault), (1, HepdaskError)])
def test_a_fault_is_that_of_the_worker_alone(
    form: list[MadeUpGang], rank: int, kind: type[Exception], tmp_path: Path
) -> None:
    form.append(MadeUpGang((rank, {"error": "no GPU", "fault": True})))
    with pytest.raises(HepdaskError, match="no GPU") as raised:
        gang(tmp_path, 3).run(block(), never)
    assert type(raised.value) is kind


def test_a_free_worker_is_waited_for(form: list[MadeUpGang], tmp_path: Path) -> None:
    form += [MadeUpGang(hosts=(), refusals=(BUSY, "worker two has gone")) for _ in range(2)]
    form.append(MadeUpGang((0, DONE), hosts=("tcp://two",)))
    assert gang(tmp_path, 2).run(block(), never).reached == 4
    form += [MadeUpGang(hosts=(), refusals=(BUSY,)) for _ in range(9)]
    assert gang(tmp_path, 2).run(block(), After(4)) == Done(0, b"")


def test_who_can_hold_no_rank_is_at_fault(form: list[MadeUpGang], tmp_path: Path) -> None:
    form.append(MadeUpGang(hosts=(), refusals=("no torch", "no torch, either")))
    with pytest.raises(WorkerFault, match="no torch; no torch, either"):
        gang(tmp_path, 2).run(block(), never)


def test_those_on_gpus_train_if_there_are_any(form: list[MadeUpGang], tmp_path: Path) -> None:
    made_up = MadeUpGang((0, {"leaving": True}), (1, DONE))
    made_up.members[1].said["device"] = "cuda"
    form.append(made_up)
    assert gang(tmp_path, 3).run(block(), never).reached == 4
    assert made_up.told == [(1, {"rank": 0, "world": 1})]
