"""Work that raises, and workers that cannot be used."""

from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from stories.processes import Place
from stories.work import BAD, Book, Rounds, unit_bytes, wait_for

import hepdask_ml
from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.errors import CampaignError, SiteError

if TYPE_CHECKING:
    from pathlib import Path

FAILS = "round 0 unit 1"
ALWAYS = Rounds(units=3, steps=2000, faults={FAILS: "always"})


def given_up(book: Book, error: CampaignError) -> None:
    """See that one unit was given up after three attempts, and that the others are complete."""
    assert "1 of the units failed, first steps of unit 1 in round 0" in str(error)
    assert "no step of this unit can be done (always)" in str(error)
    assert "\n" not in str(error)
    with read_ledger(book.path) as ledger:
        # Three in one block; while the others are busy one worker tries other blocks of it, too.
        assert len(ledger.failures()) >= 3
        for record in ledger.records():
            if record.unit.key == FAILS:
                assert record.error is not None
                assert record.done == 0
            else:
                assert record.error is None
                result = b"".join(part for _, _, part in ledger.results(record.unit.key))
                assert result == unit_bytes(record.unit)


def test_a_unit_that_always_raises_is_given_up_and_the_others_complete(place: Place) -> None:
    book = Book(place.folder, ALWAYS)
    book.hurry()
    place.scheduler()
    for _ in range(2):
        place.worker()
    with place.client() as client:
        client.wait_for_workers(2)
        with pytest.raises(CampaignError) as failed:
            book.campaign().run(client)
        given_up(book, failed.value)
        assert not book.executed()[FAILS, 0]
        assert book.done() == 4000
        # Running again takes it up again: the cause may be mended.
        with pytest.raises(CampaignError, match="1 of the units failed"):
            book.campaign().run(client)
    assert book.done() == 4000
    assert book.wasted() == 0


def test_without_a_cluster_it_is_given_up_as_well(tmp_path: Path) -> None:
    book = Book(tmp_path, ALWAYS)
    book.hurry()
    with pytest.raises(CampaignError) as failed:
        book.campaign().run(threads=2)
    given_up(book, failed.value)


def test_what_raises_on_one_worker_alone_is_done_by_the_others(place: Place) -> None:
    faults = {f"round 0 unit {i}": "bad worker" for i in range(3)}
    book = Book(place.folder, Rounds(units=3, steps=4000, faults=faults))
    place.scheduler()
    good = place.worker()
    driver = place.driver(book)
    book.wait_until_working(good.pid)
    bad = place.worker(env={BAD: "1"})
    wait_for(lambda: failures(book), "the bad worker to fail")
    book.hurry()
    assert driver.wait() == 0, driver.output
    assert not book.executed(bad.pid).keys() & {(key, 0) for key in faults}
    book.check()


def failures(book: Book) -> int:
    with read_ledger(book.path) as ledger:
        return ledger.progress().failures


OTHER_VERSION = """
    import importlib.metadata as metadata

    ask = metadata.version
    metadata.version = lambda name: "0.0.9" if name == "hepdask-ml" else ask(name)
"""
WITHOUT_PACKAGE = """
    import importlib.metadata as metadata
    import sys

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "hepdask_ml":
                raise ModuleNotFoundError("No module named 'hepdask_ml'", name="hepdask_ml")

    def version(name):
        if name == "hepdask-ml":
            raise metadata.PackageNotFoundError(name)
        return ask(name)

    ask = metadata.version
    metadata.version = version
    sys.meta_path.insert(0, Missing())
"""


def shadow(place: Place, code: str) -> dict[str, str]:
    """Give the environment of a process that sees another installation than ours."""
    folder = place.folder / "shadow"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(dedent(code))
    return {"PYTHONPATH": str(folder)}


ODD = pytest.mark.parametrize(
    ("code", "word"),
    [(OTHER_VERSION, "has hepdask-ml 0.0.9"), (WITHOUT_PACKAGE, "has no hepdask-ml")],
    ids=["another version", "no package"],
)


@ODD
def test_a_worker_with_another_installation_gets_no_work_and_is_named_if_it_is_alone(
    place: Place, code: str, word: str
) -> None:
    book = Book(place.folder, Rounds(units=3, steps=4000))
    place.scheduler()
    odd = place.worker(env=shadow(place, code))
    with place.client() as client:
        client.wait_for_workers(1)
        with pytest.raises(SiteError, match=word) as useless:
            book.campaign().run(client)
        assert "\n" not in str(useless.value)
        assert f"install version {hepdask_ml.__version__} there" in str(useless.value)
        even = place.worker()
        client.wait_for_workers(2)
        book.hurry()
        book.campaign().run(client)
    book.check()
    assert book.processes() == {even.pid}
    assert odd.alive


def test_a_scheduler_without_the_package_is_named_in_a_sentence(place: Place) -> None:
    book = Book(place.folder)
    place.scheduler(env=shadow(place, WITHOUT_PACKAGE))
    driver = place.driver(book)
    assert driver.wait() != 0
    assert driver.said.startswith("SiteError: the scheduler has no hepdask-ml: install version ")
    assert driver.said.count("\n") == 1
