"""Reports: one page that needs nothing else, says what is missing, and trusts no name."""

from __future__ import annotations

import json
from contextlib import ExitStack
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import made_up_ledger
import pytest

from hepdask_ml.campaign.ledger import read_ledger
from hepdask_ml.errors import CampaignError, InputError
from hepdask_ml.limits.summary import limit
from hepdask_ml.ui import account, report, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hepdask_ml.campaign.ledger import Ledger

    Make = Callable[..., Ledger]

EVIL = "<script>alert('$')</script>\"&amp;"
FILES = ["limit.json", "campaign.json", "limit.png", "limit.pdf", "q.png", "report.html"]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The elements of a page, its text, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(ledger: Ledger) -> Page:
    told = account.account(ledger)
    assert told.limit is not None
    return Page(report.page(told, told.limit, {"limit": b"one", "q": b"two"}))


@pytest.fixture
def planned() -> Iterator[Make]:
    """Make ledgers without toys, and close them in the end."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(made_up_ledger.toy_ledger(**options))


@pytest.fixture
def finished(planned: Make) -> Make:
    """Make ledgers with all their toys."""

    def make(**options: Any) -> Ledger:
        ledger = planned(**options)
        made_up_ledger.work(ledger)
        return ledger

    return make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    with made_up_ledger.toy_ledger(place / "a.ledger") as ledger:
        made_up_ledger.work(ledger)
    with read_ledger(place / "a.ledger") as ledger:
        written = report.write_report(ledger, place / "report")
    assert [path.name for path in written] == FILES
    assert sorted(FILES) == sorted(path.name for path in (place / "report").iterdir())
    return place


def test_limit_json_is_that_of_the_limit(folder: Path) -> None:
    with read_ledger(folder / "a.ledger") as ledger:
        expected = show.json_text(limit(ledger).to_json())
    assert (folder / "report" / "limit.json").read_text(encoding="utf-8") == expected


def test_campaign_json_is_that_of_the_status(folder: Path) -> None:
    text = (folder / "report" / "campaign.json").read_text(encoding="utf-8")
    document = json.loads(text, parse_constant=pytest.fail)
    with read_ledger(folder / "a.ledger") as ledger:
        assert document == show.status_json(ledger)
    assert document["schema"] == "hepdask-ml/campaign/1"
    assert document["state"] == "finished"
    assert document["identity"]["seeds"] == [1]
    assert len(document["units"]) == 2 * len(made_up_ledger.VALUES)
    assert document["points"][0]["sb"] == {"done": 2000, "total": 2000}
    assert document["workers"][0]["steps_per_second"] == 1000.0


def test_page_needs_nothing_but_itself(folder: Path) -> None:
    page = Page((folder / "report" / "report.html").read_text(encoding="utf-8"))
    assert not page.open
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    images = page.all("img")
    assert len(images) == 2
    for image in images:
        assert image["alt"]
        assert str(image["src"]).startswith("data:image/png;base64,iVBOR")
    assert not [attributes for _, attributes in page.elements if "href" in attributes]
    assert "url(" not in (folder / "report" / "report.html").read_text(encoding="utf-8")


def test_equal_ledgers_give_equal_reports(folder: Path, tmp_path: Path) -> None:
    with read_ledger(folder / "a.ledger") as ledger:
        for path in report.write_report(ledger, tmp_path):
            assert path.read_bytes() == (folder / "report" / path.name).read_bytes()


def test_page_tells_the_limit_its_scan_and_where_it_is_from(folder: Path) -> None:
    with read_ledger(folder / "a.ledger") as ledger:
        page, found = page_of(ledger), limit(ledger)
    assert page.elements[0][0] == "html"
    assert "95 % CL upper limit on mu" in page.text
    for number in (found.observed, *found.expected, *(point.cls for point in found.points)):
        assert show.measured_text(number) in page.text
    assert "0123456789abcdef" in page.text
    assert "tcp://node:1" in page.text
    assert "16,000" in page.text
    assert "not finished" not in page.text
    assert "nan" not in page.text.split()
    headers = page.all("th")
    assert headers
    assert all(header.get("scope") in {"row", "col"} for header in headers)


def test_bars_are_in_proportion_to_toys(finished: Make) -> None:
    ledger = finished()
    ledger.add(made_up_ledger.units_at(0.5, toys=8000))
    styles = [attributes["style"] for attributes in page_of(ledger).all("span")]
    assert styles == ["width:100.00%"] * 2 + ["width:25.00%"] * 6
    done = [attributes["style"] for attributes in page_of(ledger).all("i") if "style" in attributes]
    assert done == ["width:25.00%"] * 2 + ["width:100.00%"] * 6


def test_unfinished_campaign_says_what_is_missing(planned: Make) -> None:
    ledger = planned(precision=0.02)
    made_up_ledger.work(ledger, 0.75)
    unit = ledger.records()[6].unit
    ledger.write([made_up_ledger.failed(unit, "ValueError: no")] * 2)
    ledger.write([made_up_ledger.failed(unit, "ValueError: no", final=True)])
    text = page_of(ledger).text
    assert "This campaign is not finished: 12,000 of 16,000 planned toys are done (75 %)." in text
    assert text.index("is not finished") < text.index("The observed 95 % CL")
    assert "toys at mu = 3, background only: 2,000 of 2,000 toys are missing" in text
    assert "2,000 toys are missing; given up (ValueError: no)" in text
    assert "tcp://node:2" in text
    assert text.count("is not finished") == 1


def test_precision_that_was_not_reached_is_told(finished: Make) -> None:
    text = page_of(finished(precision=0.001)).text
    assert "The precision that was asked for, 0.1 %, is not reached" in text
    assert "is not reached" not in page_of(finished(precision=0.5)).text


def test_limits_outside_the_scan_are_told(finished: Make) -> None:
    text = page_of(finished(values=(0.1, 0.2))).text
    assert "The scan does not reach an observed 95 % CL upper limit on mu. Errors are" in text
    text = page_of(finished(values=(1.0, 2.0))).text
    assert "is expected, between" not in text


def test_names_are_escaped(planned: Make) -> None:
    ledger = planned(poi=EVIL)
    ledger.write([made_up_ledger.failed(ledger.records()[0].unit, EVIL)])
    ledger.write([made_up_ledger.block(ledger.records()[0].unit, 0, 700, worker=EVIL)])
    ledger.write([made_up_ledger.block(ledger.records()[1].unit, 0, 700, worker=EVIL)])
    page = page_of(ledger)
    assert not page.open
    assert "script" not in {tag for tag, _ in page.elements}
    assert EVIL in page.text
    assert page.text.count(EVIL) > 5


def test_long_lists_are_cut(planned: Make) -> None:
    ledger = planned(values=[0.1 * i for i in range(1, 61)])
    units = [record.unit for record in ledger.records()]
    ledger.write([made_up_ledger.block(unit, 0, 600, f"worker {unit.key}") for unit in units])
    ledger.write([made_up_ledger.failed(unit, "no") for unit in units])
    text = page_of(ledger).text
    assert "and 70 others: see campaign.json" in text
    assert "70 others 42,000" in text
    assert "70 more are in campaign.json" in text


def test_ledger_without_toys_is_not_reported(planned: Make, tmp_path: Path) -> None:
    for kind in (account.LIMITS, "training"):
        with pytest.raises(CampaignError, match="holds no toys"):
            report.write_report(planned(kind=kind), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_unwritable_folder_is_told(finished: Make, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match="cannot be written"):
        report.write_report(finished(), tmp_path / "taken")
