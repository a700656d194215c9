"""The table of batch systems: what their listings say, and how resources are named.

Listings are as the systems print them: Slurm's and Grid Engine's were printed by real ones, the
others are those of their documentation.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepdask_ml.errors import InputError
from hepdask_ml.facility.systems import SYSTEMS, BatchOptions, Listed, State, clock

WAITING, RUNNING, STUCK = State.WAITING, State.RUNNING, State.STUCK

SLURM = """\
30|PENDING|Resources
31|PENDING|JobHeldUser
32|PENDING|(JobHeldAdmin)
33|PENDING|launch failed requeued held
34|PENDING|JobHoldMaxRequeue
35|PENDING|BeginTime
36|CONFIGURING|None
37|RUNNING|None
38|SUSPENDED|None
39|COMPLETING|None
40|TIMEOUT|TimeLimit
41|CANCELLED|None
42|REQUEUE_HOLD|None
43_7|RUNNING|None
44|PENDING|(Nodes required for job are DOWN, DRAINED or reserved)
"""
HTCONDOR = """\
101 0 1 undefined
102 0 2 undefined
102 1 3 undefined
103 0 4 undefined
104 0 5 Error from slot1@node: memory usage exceeded request_memory
105 0 5 Spooling input data files
106 0 6 undefined
107 0 7 undefined
"""
# PBS Professional's guide for users, "qstat -u"; Torque's differs in the width of its columns.
PBS = """\

host1:
                                                            Req'd  Req'd   Elap
Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time
--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----
16.south        user1    workq    aims14        --    1   1    --  0:01  H   --
18.south.exam*  user1    workq    aims14     12345    1   1    2gb 02:00 R 00:15
26.south        user1    workq    airfoil       --    1   4  8192mb 01:00 Q   --
27[].south      user1    workq    scan          --    1   1    --   --   B   --
28.south        user1    workq    done       12346    1   1    --  0:01  E   --
29.south        user1    workq    waits         --    1   1    --  0:01  W   --
30.south        user1    workq    stopped    12347    1   1    --  0:01  S 00:01
"""
LSF = """\
4001|PEND|Job slot limit reached; New job is waiting for scheduling
4002|RUN|-
4003|PSUSP|The job was suspended by the user while pending
4004|USUSP|-
4005|SSUSP|-
4006|DONE|-
4007|EXIT|-
4008|UNKWN|-
4009|PROV|-
"""
GRID_ENGINE = """\
job-ID  prior   name       user         state submit/start at     queue              slots
-----------------------------------------------------------------------------------------------------
      1 0.55500 hepdask-ml root         r     11/21/2026 12:00:01 main.q@localhost       1
      2 0.55500 hepdask-ml root         dr    11/21/2026 12:00:01 main.q@localhost       1
      3 0.55500 hepdask-ml root         Rr    11/21/2026 12:00:02 main.q@localhost       1
      4 0.00000 hepdask-ml root         qw    11/21/2026 12:00:02                        1
      5 0.00000 hepdask-ml root         hqw   11/21/2026 12:00:02                        1
      6 0.55500 hepdask-ml root         Eqw   11/21/2026 12:00:02                        2
      7 0.55500 hepdask-ml root         t     11/21/2026 12:00:02 main.q@localhost       1
      8 0.55500 hepdask-ml root         S     11/21/2026 12:00:02 main.q@localhost       1
"""

LISTED: list[tuple[str, str, dict[str, Listed]]] = [
    (
        "slurm",
        SLURM,
        {
            "30": Listed(WAITING, "Resources"),
            "31": Listed(STUCK, "JobHeldUser"),
            "32": Listed(STUCK, "JobHeldAdmin"),
            "33": Listed(STUCK, "launch failed requeued held"),
            "34": Listed(STUCK, "JobHoldMaxRequeue"),
            "35": Listed(WAITING, "BeginTime"),
            "36": Listed(WAITING),
            "37": Listed(RUNNING),
            "38": Listed(RUNNING),
            "42": Listed(STUCK),
            "43_7": Listed(RUNNING),
            "44": Listed(WAITING, "Nodes required for job are DOWN, DRAINED or reserved"),
        },
    ),
    (
        "htcondor",
        HTCONDOR,
        {
            "101.0": Listed(WAITING),
            "102.0": Listed(RUNNING),
            "104.0": Listed(STUCK, "Error from slot1@node: memory usage exceeded request_memory"),
            "105.0": Listed(WAITING, "Spooling input data files"),
            "106.0": Listed(RUNNING),
            "107.0": Listed(RUNNING),
        },
    ),
    (
        "pbs",
        PBS,
        {
            "16": Listed(STUCK),
            "18": Listed(RUNNING),
            "26": Listed(WAITING),
            "27[]": Listed(RUNNING),
            "29": Listed(WAITING),
            "30": Listed(STUCK),
        },
    ),
    (
        "lsf",
        LSF,
        {
            "4001": Listed(WAITING, "Job slot limit reached; New job is waiting for scheduling"),
            "4002": Listed(RUNNING),
            "4003": Listed(STUCK, "The job was suspended by the user while pending"),
            "4004": Listed(STUCK),
            "4005": Listed(STUCK),
            "4008": Listed(RUNNING),
            "4009": Listed(WAITING),
        },
    ),
    (
        "sge",
        GRID_ENGINE,
        {
            "1": Listed(RUNNING),
            "3": Listed(RUNNING),
            "4": Listed(WAITING),
            "5": Listed(STUCK, "state hqw"),
            "6": Listed(STUCK, "state Eqw"),
            "7": Listed(RUNNING),
            "8": Listed(STUCK, "state S"),
        },
    ),
]


@pytest.mark.parametrize(("kind", "output", "jobs"), LISTED, ids=[kind for kind, *_ in LISTED])
def test_listing_is_read(kind: str, output: str, jobs: dict[str, Listed]) -> None:
    assert SYSTEMS[kind].listed(output) == jobs


@pytest.mark.parametrize("kind", sorted(SYSTEMS))
@pytest.mark.parametrize("output", ["", "\n\n", "-- no jobs --\n", "|\n||\n"])
def test_listing_without_jobs_is_empty(kind: str, output: str) -> None:
    assert SYSTEMS[kind].listed(output) == {}


@given(text=st.text())
def test_nothing_that_is_printed_breaks_the_reading(text: str) -> None:
    for system in SYSTEMS.values():
        system.listed(text)


@pytest.mark.parametrize("kind", ["slurm", "pbs", "sge"])
def test_only_jobs_of_this_user_are_listed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "maria")
    assert "maria" in SYSTEMS[kind].command()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "00:00:00"), (0.1, "00:00:01"), (59.9, "00:01:00"), (360000.0, "100:00:00")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@given(seconds=st.floats(1.0, 1e8))
def test_walltime_is_never_less_than_was_asked_for(seconds: float) -> None:
    for system in SYSTEMS.values():
        parts = [int(part) for part in system.walltime(seconds).split(":") if part]
        if parts:
            written = sum(60**i * part for i, part in zip((2, 1, 0), parts, strict=False))
            assert seconds <= written < seconds + 61.0


@pytest.mark.parametrize(
    ("kind", "directive"),
    [
        ("slurm", "--gres=gpu:4"),
        ("htcondor", "request_gpus = 4"),
        ("lsf", '-gpu "num=4"'),
        ("sge", "-l gpu=4"),
    ],
)
def test_gpus_of_any_type(kind: str, directive: str) -> None:
    options = BatchOptions(gpus=4)
    assert directive in SYSTEMS[kind].directives(options, 1, 4)


def test_resources_in_the_systems_own_words() -> None:
    options = BatchOptions(resources="nodes=1:ppn=4", gpus=1)
    assert SYSTEMS["pbs"].keywords(options, 4, 1) == {"resource_spec": "nodes=1:ppn=4"}
    assert SYSTEMS["sge"].keywords(options, 4, 1) == {"resource_spec": "nodes=1:ppn=4"}


@pytest.mark.parametrize("kind", sorted(SYSTEMS))
def test_driver_can_wait_for_another_where_the_system_knows_how(kind: str) -> None:
    lines = SYSTEMS[kind].after("77")
    assert all("77" in line for line in lines)
    assert bool(lines) == (kind != "htcondor")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"walltime": "soon"}, 'walltime: "soon" is no duration'),
        ({"walltime": 0}, "walltime is 0: it must be at least one"),
        ({"memory": "much"}, 'memory: "much" is no size'),
        ({"workers_per_job": 0}, "workers_per_job is 0"),
        ({"gpus": -1}, "gpus is -1: it is negative"),
        ({"gpus": "one"}, "gpus is .*: it must be a whole number"),
        ({"logs": ""}, "logs is .*: it must not be empty"),
        ({"environment": ["A"]}, "environment is .*: it must be a mapping"),
        ({"tls": "yes"}, "tls is .*: it must be true or false"),
    ],
)
def test_wrong_option_is_told(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        BatchOptions(**options)  # type: ignore[arg-type]


def test_one_text_is_a_list_of_one() -> None:
    assert BatchOptions(setup="module load x").setup == ("module load x",)  # type: ignore[arg-type]
