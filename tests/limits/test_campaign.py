"""Toy-limit campaigns: the same limit whoever does the work, in whatever pieces."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import control_region, counting, one_bin, two_bins

from hepdask_ml import CampaignError, InputError, Interrupted, toy_limit, upper_limit
from hepdask_ml.campaign.ledger import merge_ledgers, read_ledger
from hepdask_ml.limits.runner import cut
from hepdask_ml.limits.strategy import ROUND
from hepdask_ml.limits.summary import limit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hepdask_ml.campaign.campaign import Campaign, Status
    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.inference.limit import Limit

SCAN = [0.5, 1.0, 2.0, 4.0]


def document(found: Limit) -> str:
    """Everything that a limit says, to the last bit."""
    return json.dumps(found.to_json())


def errors(found: Limit) -> list[float]:
    return [one.error / one.value for one in (found.observed, *found.expected)]


@pytest.fixture(scope="module")
def coarse() -> str:
    """The undisturbed limit of a coarse adaptive scan."""
    return document(toy_limit(two_bins(), precision=0.15).run())


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2,
        threads_per_worker=2,
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster


def interrupted_after(rounds: int) -> Any:
    """Press Ctrl-C when the ledger has been looked at so many times."""
    left = [rounds]

    def watch(_: Ledger, __: Status) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("threads", [1, 3])
def test_a_fixed_scan_is_the_quick_limit(threads: int) -> None:
    quick = upper_limit(control_region(), scan=SCAN, toys=700, seed=5)
    campaign = toy_limit(control_region(), scan=SCAN, toys=700, seed=5, block_s=0.05)
    assert document(campaign.run(threads=threads)) == document(quick)


@settings(max_examples=4, deadline=None)
@given(threads=st.integers(1, 8), block_s=st.sampled_from([0.001, 0.02, 30.0]))
def test_neither_threads_nor_blocks_matter(coarse: str, threads: int, block_s: float) -> None:
    campaign = toy_limit(two_bins(), precision=0.15, block_s=block_s)
    assert document(campaign.run(threads=threads)) == coarse


def test_a_cluster_gives_the_same(cluster: LocalCluster, coarse: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    with Client(cluster) as client:  # type: ignore[no-untyped-call]
        found = toy_limit(two_bins(), precision=0.15, ledger=path, block_s=0.05).run(client)
    assert document(found) == coarse
    with read_ledger(path) as ledger:
        assert document(limit(ledger)) == coarse


def test_an_asynchronous_client_is_awaited(cluster: LocalCluster, coarse: str) -> None:
    async def run() -> Limit:
        address = cluster.scheduler_address
        async with Client(address, asynchronous=True) as client:  # type: ignore[no-untyped-call]
            campaign: Campaign[Limit] = toy_limit(two_bins(), precision=0.15)
            found: Limit = await campaign.run(client)
            return found

    assert document(asyncio.run(run())) == coarse


def test_it_runs_in_the_background(cluster: LocalCluster, coarse: str) -> None:
    with Client(cluster) as client:  # type: ignore[no-untyped-call]
        running = toy_limit(two_bins(), precision=0.15).start(client)
        assert document(running.result(timeout=120)) == coarse
        assert running.done


def test_a_stopped_one_goes_on(coarse: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    looked = threading.Event()
    running = toy_limit(two_bins(), precision=0.15, ledger=path, block_s=0.001).start(
        watch=lambda _, __: looked.set()
    )
    assert looked.wait(60)
    running.stop()
    with pytest.raises(Interrupted, match="run again to go on"):
        running.result()
    campaign = toy_limit(two_bins(), precision=0.15, ledger=path)
    assert not campaign.finished
    assert document(campaign.run(threads=2)) == coarse
    assert toy_limit(two_bins(), precision=0.15, ledger=path).finished
    assert document(campaign.results()) == coarse


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_an_interrupted_one_goes_on(rounds: int, coarse: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    for block_s in (0.001, 0.01):
        campaign = toy_limit(two_bins(), precision=0.15, ledger=path, block_s=block_s)
        with suppress(KeyboardInterrupt):  # where it is not too quick for that
            campaign.run(watch=interrupted_after(rounds))
    again: Campaign[Limit] = toy_limit(two_bins(), precision=0.15, ledger=path)
    assert document(again.run()) == coarse


@pytest.mark.parametrize("spec", [one_bin(), two_bins(), control_region()])
def test_the_precision_is_reached(spec: Any) -> None:
    found = toy_limit(spec, precision=0.05).run(threads=4)
    assert max(errors(found)) <= 0.05
    assert not any("largest error" in warning for warning in found.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [counting(6.0, 4.0, 5), control_region()])
def test_it_agrees_with_a_fixed_scan(spec: Any) -> None:
    ours = toy_limit(spec, precision=0.03, seed=2).run(threads=4)
    many = upper_limit(spec, toys=100_000, seed=3)
    for one, other in zip(
        (ours.observed, *ours.expected), (many.observed, *many.expected), strict=True
    ):
        # Five joint standard errors, and 2 % for straight lines across the fixed scan's brackets.
        allowed = 5.0 * (one.error**2 + other.error**2) ** 0.5 + 0.02 * other.value
        assert abs(one.value - other.value) < allowed


def test_toys_are_not_exceeded() -> None:
    found = toy_limit(two_bins(), precision=0.001, max_toys=60_000).run(threads=4)
    assert 50_000 < found.toys <= 60_000
    assert "0.1 % was asked for: raise max_toys and run again" in found.warnings[0]


def test_a_tighter_precision_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    loose = toy_limit(two_bins(), precision=0.2, ledger=path).run()
    tight = toy_limit(two_bins(), precision=0.04, ledger=path).run()
    assert loose.toys < tight.toys
    assert max(errors(tight)) <= 0.04
    again = toy_limit(two_bins(), precision=0.2, ledger=path).run()
    assert document(again) == document(tight), "toys are not thrown away"


def test_units_have_round_numbers_of_toys() -> None:
    found = toy_limit(two_bins(), precision=0.15).run()
    counts = {len(toys.q) for point in found.points for toys in (point.toys_sb, point.toys_b)}
    assert all(count % ROUND == 0 for count in counts)


def run_into(path: Path, spec: Any = None, **options: Any) -> Limit:
    found: Limit = toy_limit(spec or two_bins(), ledger=path, **options).run()
    return found


def merged(out: Path, *sources: Path) -> tuple[Limit, int]:
    ledger, new = merge_ledgers(out, sources, cut)
    with ledger:
        return limit(ledger), new


def test_ledgers_of_one_seed_unite(tmp_path: Path) -> None:
    a, b, out = (tmp_path / name for name in ("a", "b", "out"))
    run_into(a, precision=0.3)
    tight = run_into(b, precision=0.15)
    joint, new = merged(out, a, b)
    assert new == joint.toys
    assert joint.toys >= tight.toys
    assert document(merged(tmp_path / "other", b, a)[0]) == document(joint), "in any order"
    assert merged(out, a, b, a)[1] == 0, "twice is once"
    assert document(toy_limit(two_bins(), precision=0.15, ledger=out).run()) == document(joint)


def test_parts_of_one_campaign_unite(tmp_path: Path) -> None:
    """Blocks that were cut elsewhere, and gaps that the other one fills."""
    a, b, out = (tmp_path / name for name in ("a", "b", "out"))
    whole = document(upper_limit(two_bins(), scan=SCAN, toys=3000))
    for path, block_s in ((a, 0.002), (b, 0.0001)):
        campaign = toy_limit(two_bins(), scan=SCAN, toys=3000, ledger=path, block_s=block_s)
        with suppress(KeyboardInterrupt):
            campaign.run(watch=interrupted_after(0))
    merge_ledgers(out, [a, b], cut)[0].close()
    assert document(toy_limit(two_bins(), scan=SCAN, toys=3000, ledger=out).run()) == whole


def test_ledgers_of_unlike_seeds_add_up(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.ledger" for seed in (3, 1)]
    parts = [run_into(path, precision=0.1, seed=int(path.stem)) for path in paths]
    joint, _ = merged(tmp_path / "out", *paths)
    assert joint.seed == (1, 3)
    assert joint.toys == sum(part.toys for part in parts)
    assert joint.observed.error < max(part.observed.error for part in parts)
    assert document(merged(tmp_path / "other", *reversed(paths))[0]) == document(joint)
    assert merged(tmp_path / "out", *paths)[1] == 0
    with pytest.raises(InputError, match="the seeds 1, 3 in one: it can be reported, not run"):
        run_into(tmp_path / "out", precision=0.1)


def test_other_campaigns_are_not_merged(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in ("a", "b", "c"))
    run_into(a, scan=SCAN, toys=512)
    run_into(b, one_bin(), scan=SCAN, toys=512)
    run_into(c, scan=SCAN, toys=512, cl=0.9)
    with pytest.raises(InputError, match="b is a ledger with another model or other data: it"):
        merged(tmp_path / "out", a, b)
    with pytest.raises(InputError, match=r"c is a ledger with cl 0\.9, not 0\.95: it"):
        merged(tmp_path / "out", a, c)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": 0.0}, "the precision is 0.0: it must lie between 0 and 1"),
        ({"precision": 2}, "the precision is 2"),
        ({"max_toys": 100}, "max_toys is 100: a scan needs 20,000 toys to begin with"),
        ({"toys": 100}, "toys = 100 are toys of each point of a scan"),
        ({"scan": SCAN, "precision": 0.1}, "precision is for scans that the campaign chooses"),
        ({"scan": []}, "the scan is empty"),
        ({"scan": [-3.0]}, "mu = -3 cannot be tested"),
        ({"cl": 95}, "the confidence level is 95"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"test_statistic": "q0"}, "q0"),
    ],
)
def test_wrong_settings_get_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        toy_limit(two_bins(), **options)


def test_another_campaign_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    run_into(path, scan=SCAN, toys=512)
    for options, difference in (
        ({"seed": 2}, "seed 1, not 2"),
        ({"cl": 0.9}, "cl 0.95, not 0.9"),
        ({"starts": 2}, "starts 8, not 2"),
    ):
        with pytest.raises(InputError, match=difference):
            run_into(path, scan=SCAN, toys=512, **options)
    with pytest.raises(InputError, match=r"scan .* not adaptive"):
        run_into(path)
    with pytest.raises(InputError, match="another model or other data"):
        run_into(path, one_bin(), scan=SCAN, toys=512)


def test_a_campaign_that_was_not_run_has_no_results(tmp_path: Path) -> None:
    campaign = toy_limit(two_bins(), ledger=tmp_path / "a.ledger")
    assert not campaign.finished
    with pytest.raises(InputError, match="is not there"):
        campaign.results()
    with pytest.raises(CampaignError, match="was not run yet"):
        toy_limit(two_bins()).status()
