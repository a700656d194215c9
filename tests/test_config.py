"""Settings: what is read, what is refused, and in which words."""

from __future__ import annotations

import inspect
import json
import pickle
import re
import string
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hepdask_ml import config, upper_limit
from hepdask_ml.config import (
    LimitSettings,
    ModelSettings,
    SearchCampaignSettings,
    SearchSettings,
    Settings,
    SiteSettings,
    nearest,
    parse_duration,
    parse_scan,
    parse_size,
    read_settings,
    read_site,
    record_of,
)
from hepdask_ml.errors import InputError
from hepdask_ml.facility.site import LocalOptions
from hepdask_ml.hpo.campaign import KEEP, search
from hepdask_ml.hpo.space import FORMS
from hepdask_ml.hpo.strategy import MODES

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "configs/toy-limit.yaml"
SEARCH = ROOT / "configs/search.yaml"
LOCAL = ROOT / "configs/sites/local.yaml"
SECTIONS: dict[str, Any] = {
    "": Settings,
    "model": ModelSettings,
    "limit": LimitSettings,
    "site": SiteSettings,
}
MINIMAL = """\
kind: toy-limit
model: {workspace: workspace.json}
ledger: toys.ledger
"""


def read(text: str) -> Settings:
    """Read settings from a file called toy-limit.yaml."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "toy-limit.yaml")
        path.write_text(text, encoding="utf-8")
        return of_a_limit(path)


def of_a_limit(path: str | Path) -> Settings:
    found = read_settings(path)
    assert isinstance(found, Settings)
    return found


def of_a_search(path: str | Path) -> SearchCampaignSettings:
    found = read_settings(path)
    assert isinstance(found, SearchCampaignSettings)
    return found


def limit(text: str) -> LimitSettings:
    return read(f"{MINIMAL}limit: {text}\n").limit


def refusal(text: str) -> str:
    """Give the sentence with which a file is refused, from its name on."""
    with pytest.raises(InputError) as caught:
        read(text)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence[sentence.index("toy-limit.yaml") :]


def document(**sections: Any) -> dict[str, Any]:
    model = {"workspace": "workspace.json", **sections.pop("model", {})}
    return {"kind": "toy-limit", "model": model, "ledger": "toys.ledger", **sections}


def dotted(kind: Any, before: str = "") -> set[str]:
    """List the settings of a record and of the records in it."""
    found: set[str] = set()
    for name, hint in get_type_hints(kind).items():
        more = dotted(hint, f"{before}{name}.") if is_dataclass(hint) else {f"{before}{name}"}
        found |= more
    return found


def flattened(values: Mapping[str, Any], before: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in values.items():
        nested = isinstance(value, dict) and key not in ("options", "space")
        found |= flattened(value, f"{before}{key}.") if nested else {f"{before}{key}"}
    return found


def uncommented(path: Path) -> str:
    return re.sub(r"^( *)# (\w+: )", r"\1\2", path.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "toy-limit.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    assert read_settings(path) == Settings(
        kind="toy-limit",
        model=ModelSettings(str(tmp_path / "workspace.json")),
        ledger=str(tmp_path / "toys.ledger"),
        limit=LimitSettings(),
        site=SiteSettings(),
        output=None,
    )


def test_defaults_are_those_of_a_limit() -> None:
    asked = inspect.signature(upper_limit).parameters
    for name in ("cl", "test_statistic", "seed", "starts", "engine"):
        assert getattr(LimitSettings(), name) == asked[name].default


@pytest.mark.parametrize("section", ["model", "limit", "site"])
def test_section_with_everything_commented_out_is_left_out(section: str) -> None:
    if section == "model":
        text = MINIMAL.replace("{workspace: workspace.json}", "")
        assert refusal(text) == "toy-limit.yaml: model.workspace is missing: add it"
    else:
        found = getattr(read(f"{MINIMAL}{section}:\n  # threads: 1\n"), section)
        assert found == SECTIONS[section]()


@pytest.mark.parametrize("key", ["patch", "scan", "options"])
def test_list_with_everything_commented_out_is_left_out(key: str) -> None:
    sections = {"patch": "model", "scan": "limit", "options": "site"}
    section = sections[key]
    found = getattr(read(json.dumps(document(**{section: {key: None}}))), section)
    assert not getattr(found, key)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("limit: {precisio: 0.1}", 'limit.precisio is no setting: did you mean "precision"?'),
        ("limit: {Test-Statistic: q}", "limit.Test-Statistic is no setting: did you mean "
         '"test_statistic"?'),
        ("limit: {ca: 0.9}", 'limit.ca is no setting: did you mean "cl"?'),
        ("limits: {}", 'limits is no setting: did you mean "limit"?'),
        ("hyperparameters: {}", "hyperparameters is no setting: choose from kind, model, ledger, "
         "limit, site, output"),
        ("7: 8", "7 is no setting: choose from kind, model, ledger, limit, site, output"),
        ("limit: {7: 8}", "limit holds the key 7: keys must be text"),
        ("limit: {precision: 5%}", 'limit.precision is "5%": it must be a finite number'),
        ("limit: {precision: true}", "limit.precision is true: it must be a finite number"),
        ("limit: {precision: .nan}", "limit.precision is nan: it must be a finite number"),
        ("limit: {precision: .inf}", "limit.precision is inf: it must be a finite number"),
        ("limit: {precision: 5}", "limit.precision is 5: it must lie between 0 and 1"),
        ("limit: {precision: 0}", "limit.precision is 0: it must lie between 0 and 1"),
        ("limit: {cl: 1}", "limit.cl is 1: it must lie between 0 and 1"),
        ("limit: {cl: }", "limit.cl is empty: it must be a finite number"),
        ("limit: {max_toys: 0}", "limit.max_toys is 0: it must be at least one"),
        ("limit: {max_toys: 1e6}", "limit.max_toys is 1000000.0: it must be a whole number"),
        ("limit: {starts: 0}", "limit.starts is 0: it must be at least one"),
        ("limit: {starts: false}", "limit.starts is false: it must be a whole number"),
        ("limit: {seed: 1.5}", "limit.seed is 1.5: it must be a whole number"),
        ("limit: {toys: 0, scan: 0:1:2}", "limit.toys is 0: it must be at least one"),
        ("limit: {toys: 5}", "limit.toys is 5 without a scan: give a scan or drop the toys"),
        ("limit: {test_statistic: qtild}", 'limit.test_statistic is "qtild": choose from '
         'qtilde, q, t: did you mean "qtilde"?'),
        ("limit: {scan: []}", "limit.scan is []: it must not be empty"),
        ("limit: {scan: [1, two]}", 'limit.scan[1] is "two": it must be a finite number'),
        ("limit: {scan: [1, .inf]}", "limit.scan[1] is inf: it must be a finite number"),
        ("limit: {scan: 3}", "limit.scan is 3: it must be a list or the text LO:HI:N or auto"),
        ("limit: {scan: 2:1:3}", 'limit.scan: "2:1:3" does not rise: LO must lie below HI'),
        ("limit: 3", "limit is 3: it must be a mapping"),
        ("limit: [cl]", "limit is ['cl']: it must be a mapping"),
        ("site: 3", "site is 3: it must be a mapping or the name of a kind"),
        ("site: ''", 'site: kind is "": it must not be empty'),
        ("site: {workers: 0}", "site.workers is 0: it must be at least one"),
        ("site: {threads: 0}", "site.threads is 0: it must be at least one"),
        ("site: {options: [1]}", "site.options is [1]: it must be a mapping"),
        ("site: {options: {1: 2}}", "site.options holds the key 1: keys must be text"),
        ("output: ''", 'output is "": it must not be empty'),
        ("output: 7", "output is 7: it must be text, in quotes if it looks like something else"),
    ],
)  # fmt: skip
def test_wrong_setting_is_one_sentence(text: str, sentence: str) -> None:
    assert refusal(f"{MINIMAL}{text}\n") == f"toy-limit.yaml: {sentence}"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("toy-limit", "toy-limt", 'kind is "toy-limt": choose from toy-limit, search: did you mean '
         '"toy-limit"?'),
        ("toy-limit", "ntuple", 'kind is "ntuple": choose from toy-limit, search'),
        ("kind: toy-limit\n", "", "kind is missing: add it"),
        ("ledger: toys.ledger\n", "", "ledger is missing: add it"),
        ("toys.ledger", "''", 'ledger is "": it must not be empty'),
        ("{workspace: workspace.json}", "{}", "model.workspace is missing: add it"),
        ("{workspace: workspace.json}", "w.json", 'model is "w.json": it must be a mapping'),
        ("workspace.json", "2016", "model.workspace is 2016: it must be text, in quotes if it "
         "looks like something else"),
        ("workspace.json", "w.json, patch: 3", "model.patch is 3: it must be a list or one text"),
        ("workspace.json", "w.json, patch: [a, 3]", "model.patch[1] is 3: it must be text, in "
         "quotes if it looks like something else"),
        ("workspace.json", "~nobody-of-this-name/w.json", "model.workspace is "
         '"~nobody-of-this-name/w.json", whose home folder is unknown: write the path in full'),
    ],
)  # fmt: skip
def test_wrong_required_setting_is_one_sentence(old: str, new: str, sentence: str) -> None:
    assert old in MINIMAL
    assert refusal(MINIMAL.replace(old, new)) == f"toy-limit.yaml: {sentence}"


def test_long_value_is_cut_short() -> None:
    assert len(refusal(f"{MINIMAL}limit: {{seed: {'x' * 5000}}}")) < 150
    assert len(refusal(f"{MINIMAL}limit: {{seed: {list(range(5000))}}}")) < 150


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", " is empty: it must hold a mapping of settings"),
        ("# kind: toy-limit\n", " is empty: it must hold a mapping of settings"),
        ("- kind\n", " holds ['kind']: it must hold a mapping of settings"),
        ("kind\n", ' holds "kind": it must hold a mapping of settings'),
        ("kind: toy-limit\nlimit: [1, 2\n",
         " is not YAML (line 3, column 1: expected ',' or ']', but got '<stream end>'): "
         "mend it there"),
        ("kind: a: b\n",
         " is not YAML (line 1, column 8: mapping values are not allowed here): mend it there"),
        ("kind: a\nlimit:\n  cl: 0.9\n  seed: 1\n  cl: 0.9\n",
         ' is not YAML (line 5, column 3: the key "cl" stands there twice): mend it there'),
        ("kind: a\nlimit: \a\n",
         " is not YAML (line 2, column 8: a character that no text holds): mend it there"),
        ("kind: !!int a\n",
         " is not YAML (invalid literal for int() with base 10: 'a'): mend it there"),
        ("kind: a\n---\nkind: b\n",
         " is not YAML (line 2, column 1: but found another document): mend it there"),
        ("[" * 1000, " is nested too deeply: a few levels are enough"),
    ],
)  # fmt: skip
def test_file_without_settings_is_one_sentence(text: str, sentence: str) -> None:
    assert refusal(text) == f"toy-limit.yaml{sentence}"


def test_object_of_python_is_no_setting() -> None:
    assert "line 1, column 7" in refusal("kind: !!python/object/apply:os.getcwd []\n")


@pytest.mark.parametrize("reader", [read_settings, read_site])
def test_file_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, reader: Callable[[Path], object]
) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(InputError) as caught:
        reader(missing)
    reason = "No such file or directory"
    assert str(caught.value) == f"{missing} cannot be read ({reason}): check the name"
    with pytest.raises(InputError, match="cannot be read"):
        reader(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"kind: \xff\n")
    with pytest.raises(InputError, match=r"binary\.yaml is not UTF-8 text: give a YAML file"):
        reader(binary)


def test_merge_keys_may_repeat_a_key() -> None:
    text = f"{MINIMAL}limit: &first {{cl: 0.9, seed: 3}}\n"
    again = f"{text}site: {{options: {{<<: *first, cl: 0.8}}}}\n"
    assert read(again).site.options == {"cl": 0.8, "seed": 3}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1:5:11", "1:5:11"),
        ("10:00:00", "10:00:00"),
        ("2026-11-21", "2026-11-21"),
        ("010", "010"),
        ("0", 0),
        ("-3", -3),
        ("1_000_000", 1_000_000),
        ("0xff", 255),
        ("1e-3", 1e-3),
        ("1e+20", 1e20),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("1.2.3", "1.2.3"),
        ("true", True),
        ("~", None),
    ],
)
def test_plain_values_are_what_they_look_like(written: str, value: object) -> None:
    found = read(f"{MINIMAL}site: {{options: {{it: {written}}}}}\n").site.options["it"]
    assert (found, type(found)) == (value, type(value))


def test_number_without_a_point_is_a_number() -> None:
    found = limit("{precision: 5e-2, scan: [0, 1]}")
    assert (found.precision, found.scan) == (0.05, (0.0, 1.0))
    assert [type(value) for value in found.scan or ()] == [float, float]


@pytest.mark.parametrize(
    ("written", "scan"),
    [
        ("1:5:5", (1.0, 2.0, 3.0, 4.0, 5.0)),
        ("'0.5,1,4'", (0.5, 1.0, 4.0)),
        ("[0.5, 1, 4]", (0.5, 1.0, 4.0)),
        ("auto", None),
        ("", None),
    ],
)
def test_scan_is_a_list_or_text(written: str, scan: tuple[float, ...] | None) -> None:
    assert limit(f"{{scan: {written}}}").scan == scan


@pytest.mark.parametrize(
    ("text", "scan"),
    [
        ("auto", None),
        ("0:2:3", (0.0, 1.0, 2.0)),
        ("1:1:1", (1.0,)),
        ("1:2:1", (1.0,)),
        ("-1:1e0:2", (-1.0, 1.0)),
        ("3", (3.0,)),
        ("0.5,1,2", (0.5, 1.0, 2.0)),
        (" 0.5, 1", (0.5, 1.0)),
    ],
)
def test_scan_is_parsed(text: str, scan: tuple[float, ...] | None) -> None:
    assert parse_scan(text) == scan


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1:2", "neither"),
        ("a:b:c", "neither"),
        ("1:2:3:4", "neither"),
        ("1:2:2.5", "neither"),
        ("nan:2:3", "finite"),
        ("0:inf:3", "finite"),
        ("-1e308:1e308:3", "finite"),
        ("1:2:0", "empty"),
        ("1:2:-3", "empty"),
        ("2:1:3", "rise"),
        ("1:1:3", "rise"),
        ("", "neither"),
        ("Auto", "neither"),
        ("1,", "neither"),
        ("1,two", "neither"),
        ("1,nan", "finite"),
    ],
)
def test_bad_scan_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_scan(text)
    assert str(caught.value).startswith(f'"{text}" ')


@given(low=st.floats(-1e9, 1e9), width=st.floats(1e-3, 1e9), n=st.integers(2, 50))
@settings(deadline=None, max_examples=50)
def test_scan_ends_where_it_was_told_to(low: float, width: float, n: int) -> None:
    high = low + width
    scan = parse_scan(f"{low!r}:{high!r}:{n}")
    assert scan is not None
    assert (len(scan), scan[0], scan[-1]) == (n, low, high)
    assert list(scan) == sorted(scan)


def test_site_is_a_name_or_a_mapping() -> None:
    assert read(f"{MINIMAL}site: slurm\n").site == SiteSettings(kind="slurm")
    site = "{kind: slurm, workers: 3, threads: 4, options: {queue: short, extra: [1, {a: b}]}}"
    assert read(f"{MINIMAL}site: {site}\n").site == SiteSettings(
        "slurm", 3, 4, {"queue": "short", "extra": [1, {"a": "b"}]}
    )


def test_site_has_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "slurm.yaml"
    path.write_text("kind: slurm\nworker: 3\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_site(path)
    assert str(caught.value) == f'{path}: worker is no setting: did you mean "workers"?'
    path.write_text("kind: slurm\nworkers: 3\n", encoding="utf-8")
    assert read_site(str(path)) == SiteSettings("slurm", 3)


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    values = document(
        model={"workspace": "../w.json", "patch": ["a.json", "p.json:N/../M//", "/p.json:N"]},
        output="out",
    )
    (folder / "c.yaml").write_text(json.dumps(values), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = of_a_limit("configs/c.yaml")
    assert found.model.workspace == f"{folder}/../w.json"
    assert found.model.patch == (f"{folder}/a.json", f"{folder}/p.json:N/../M//", "/p.json:N")
    assert (found.ledger, found.output) == (f"{folder}/toys.ledger", f"{folder}/out")


def test_single_patch_needs_no_list() -> None:
    model = read(MINIMAL.replace("workspace.json", "w.json, patch: '/p.json:N'")).model
    assert model.patch == ("/p.json:N",)


@pytest.mark.parametrize(
    "place",
    ["https://host/w.json", "root://host//w.json", "simplecache::s3://b/w.json", "/data/w.json"],
)
def test_url_or_full_path_stays(place: str) -> None:
    assert read(MINIMAL.replace("workspace.json", f"'{place}'")).model.workspace == place


def test_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/her")
    assert read(MINIMAL.replace("toys.ledger", "~/toys.ledger")).ledger == "/home/her/toys.ledger"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LimitSettings(cl=95), "cl is 95: it must lie between 0 and 1"),
        (lambda: LimitSettings(seed=cast("int", "1")), 'seed is "1": it must be a whole number'),
        (lambda: LimitSettings(toys=10), "toys is 10 without a scan: give a scan or drop the toys"),
        (lambda: LimitSettings(precision=10**400), "precision is 1000000000000"),
        (
            lambda: LimitSettings(engine="gpus"),
            'engine is "gpus": choose from auto, cpu, gpu: did you mean "gpu"?',
        ),
        (lambda: SiteSettings(workers=0), "workers is 0: it must be at least one"),
        (lambda: ModelSettings(""), 'workspace is "": it must not be empty'),
        (
            lambda: Settings("limit", ModelSettings("w.json"), "l"),
            'kind is "limit": choose from toy-limit: did you mean "toy-limit"?',
        ),
    ],
)
def test_rules_hold_in_python_too(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).startswith(sentence)


def test_python_may_write_what_yaml_may() -> None:
    made = LimitSettings(scan=cast("Any", np.array([1, 2]).tolist()), seed=cast("int", np.int64(3)))
    assert made == LimitSettings(scan=cast("Any", "1,2"), seed=3)
    assert type(made.seed) is int
    assert ModelSettings("w.json", cast("Any", "p.json")).patch == ("p.json",)
    site = Settings("toy-limit", ModelSettings("w.json"), "l", site=cast("Any", "slurm")).site
    assert site == SiteSettings("slurm")


def test_records_are_frozen_travel_and_have_a_hash() -> None:
    found = read(f"{MINIMAL}site: {{options: {{queue: short}}}}\n")
    with pytest.raises(AttributeError):
        found.limit.seed = 2  # type: ignore[misc]
    assert not hasattr(found, "__dict__")
    copy = pickle.loads(pickle.dumps(found))
    assert (copy, hash(copy)) == (found, hash(found))


def test_options_are_the_records_own() -> None:
    options = {"queue": "short"}
    site = SiteSettings(options=options)
    options["queue"] = "long"
    assert site.options == {"queue": "short"}


@dataclass(frozen=True, slots=True)
class Switch:
    """A record with the one plain type that no setting has yet."""

    on: bool = False

    def __post_init__(self) -> None:
        config.settle(self)


def test_truth_is_no_number() -> None:
    assert Switch(True).on is True
    with pytest.raises(InputError, match="on is 1: it must be true or false"):
        Switch(cast("bool", 1))


misspellable = st.sampled_from(
    [(section, each.name) for section, kind in SECTIONS.items() for each in fields(kind)]
)


@given(where=misspellable, data=st.data())
@settings(deadline=None, max_examples=100)
def test_key_with_one_wrong_letter_is_recognised(where: tuple[str, str], data: Any) -> None:
    section, key = where
    place = data.draw(st.integers(0, len(key)))
    letter = data.draw(st.sampled_from(["", *string.ascii_letters, "_", "-", "1"]))
    wrong = key[:place] + letter + key[place + data.draw(st.integers(0, 1)) :]
    names = {each.name for each in fields(SECTIONS[section])}
    if wrong in names:  # the same letter, or none
        return
    values = document(**{section: {wrong: 1}}) if section else document(**{wrong: 1})
    found = f"{section}.{wrong}" if section else wrong
    sentence = f'toy-limit.yaml: {found} is no setting: did you mean "{key}"?'
    # JSON is YAML.
    assert refusal(json.dumps(values)) == sentence


# What YAML cannot write plainly is left out, and so are the colon and the tilde of paths.
texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=20
)
file_names = texts.map(lambda text: "f" + re.sub("[:/]", "", text))
numbers = st.floats(allow_nan=False, allow_infinity=False)
shares = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)
counts = st.integers(1, 2**70)
free = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
models = st.fixed_dictionaries(
    {"workspace": file_names},
    optional={
        "patch": file_names | st.lists(file_names, max_size=3),
        "measurement": st.none() | texts,
        "poi": st.none() | texts,
    },
)
limits = st.fixed_dictionaries(
    {},
    optional={
        "precision": st.none() | shares,
        "max_toys": st.none() | counts,
        "cl": shares,
        "test_statistic": st.sampled_from(["qtilde", "q", "t"]),
        "seed": st.integers(-(2**70), 2**70),
        "starts": counts,
        "engine": st.sampled_from(["auto", "cpu", "gpu"]),
    },
) | st.fixed_dictionaries({"scan": st.lists(numbers, min_size=1, max_size=5), "toys": counts})
sites = texts | st.fixed_dictionaries(
    {},
    optional={
        "kind": texts,
        "workers": st.none() | counts,
        "threads": counts,
        "options": st.dictionaries(texts, free, max_size=3),
    },
)


def as_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False)


def as_yaml(values: Mapping[str, Any]) -> str:
    # Quoted, since the library's plain text is that of YAML 1.1: 1e5 would come back a number.
    return yaml.safe_dump(values, default_style='"')


@given(
    values=st.fixed_dictionaries(
        {"kind": st.just("toy-limit"), "model": models, "ledger": file_names},
        optional={"limit": limits, "site": sites, "output": file_names},
    ),
    write=st.sampled_from([as_json, as_yaml]),
)
@settings(deadline=None, max_examples=50)
def test_valid_settings_come_back(
    values: dict[str, Any], write: Callable[[Mapping[str, Any]], str]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "toy-limit.yaml")
        path.write_text(write(values), encoding="utf-8")
        found = of_a_limit(path)
    model, limit, site = values["model"], values.get("limit", {}), values.get("site", {})
    patch = model.get("patch", ())
    patch = [patch] if isinstance(patch, str) else patch
    inside = {
        **model,
        "workspace": f"{name}/{model['workspace']}",
        "patch": tuple(f"{name}/{each}" for each in patch),
    }
    assert found == Settings(
        kind="toy-limit",
        model=ModelSettings(**inside),
        ledger=f"{name}/{values['ledger']}",
        limit=LimitSettings(**limit),
        site=SiteSettings(site) if isinstance(site, str) else SiteSettings(**site),
        output=f"{name}/{values['output']}" if "output" in values else None,
    )


def test_example_is_read() -> None:
    found = of_a_limit(EXAMPLE)
    assert (found.kind, found.limit.precision) == ("toy-limit", 0.05)
    assert Path(found.model.workspace).samefile(ROOT / "examples/workspace.json")
    assert found.ledger == str(EXAMPLE.parent / "toy-limit.ledger")
    assert found.output == str(EXAMPLE.parent / "toy-limit")


def test_example_mentions_every_setting() -> None:
    text = uncommented(EXAMPLE)
    assert flattened(yaml.safe_load(text)) == dotted(Settings)
    assert isinstance(read(text), Settings)


def test_example_shows_the_defaults() -> None:
    # What has none shows a value that makes sense.
    shown = read(uncommented(EXAMPLE))
    for found in (shown.limit, shown.site):
        for each in fields(found):
            if each.default is not None and each.name != "options":
                assert getattr(found, each.name) == each.default


SEARCHED = "train: 'o.py:train', space: {x: [1, 2]}"


def written(folder: Path, text: str) -> Path:
    path = folder / "search.yaml"
    path.write_text(f"kind: search\nledger: a.ledger\nsearch: {{{text}}}\n", encoding="utf-8")
    return path


def test_defaults_are_those_of_a_search() -> None:
    asked = inspect.signature(search).parameters
    names = {"trials": "n_trials"}
    found = SearchSettings("o.py:train", {"x": [1, 2]})
    for each in fields(SearchSettings):
        if each.name not in ("train", "space", "form"):
            assert getattr(found, each.name) == asked[names.get(each.name, each.name)].default
    assert (("auto", *FORMS), MODES, KEEP) == (config.FORMS, config.MODES, config.KEPT)


def test_paths_of_a_search_are_relative_to_the_file(tmp_path: Path) -> None:
    more = (
        "segments: [{name: a, files: [f1, 'root://eos//f2']}, {name: b, datasets: [d]}], "
        "follow: ['csv:t.csv', 'tensorboard:runs', mlflow, 'mlflow:http://host'], "
        "checkpoints: kept, warm_start: old.ledger"
    )
    found = of_a_search(written(tmp_path, f"{SEARCHED}, {more}"))
    here, asked = str(tmp_path), found.search
    assert found.ledger == f"{here}/a.ledger"
    assert asked.train == f"{here}/o.py:train"
    assert asked.segments == (
        {"name": "a", "files": (f"{here}/f1", "root://eos//f2")},
        {"name": "b", "datasets": ["d"]},
    )
    assert asked.follow == (
        f"csv:{here}/t.csv", f"tensorboard:{here}/runs", "mlflow", "mlflow:http://host",
    )  # fmt: skip
    assert (asked.checkpoints, asked.warm_start) == (f"{here}/kept", f"{here}/old.ledger")


def test_module_is_no_path_and_files_are(tmp_path: Path) -> None:
    found = of_a_search(written(tmp_path, "train: 'pkg.mod:f', space: s.yaml, segments: g.json"))
    assert found.search.train == "pkg.mod:f"
    assert found.search.space == f"{tmp_path}/s.yaml"
    assert found.search.segments == f"{tmp_path}/g.json"
    spaces = of_a_search(written(tmp_path, "train: 'pkg.mod:f', space: [s.yaml, {x: 1}]"))
    assert spaces.search.space == (f"{tmp_path}/s.yaml", {"x": 1})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("space: s.yaml", "train is missing: add it"),
        ("train: 'o.py', space: s.yaml",
         'train is "o.py": write it as FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION'),
        ("train: 'o.py:f'", "space is missing: add it"),
        ("train: 'o.py:f', space: ",
         "space is empty: it must be the name of a file, or a mapping of parameters, or a list of "
         "these"),
        (f"{SEARCHED}, trails: 4", 'trails is no setting: did you mean "trials"?'),
        (f"{SEARCHED}, trials: 0", "trials is 0: it must be at least one"),
        (f"{SEARCHED}, form: hpogird",
         'form is "hpogird": choose from auto, own, hpogrid, nevergrad, bayesian: did you mean '
         '"hpogrid"?'),
        (f"{SEARCHED}, epochs: 0",
         "epochs is 0: it must be a whole number from one on, or the name of a parameter"),
        (f"{SEARCHED}, epochs: true",
         "epochs is true: it must be a whole number from one on, or the name of a parameter"),
        (f"{SEARCHED}, objectives: []", "objectives is []: it must not be empty"),
        (f"{SEARCHED}, objectives: {{}}", "objectives is {}: it must not be empty"),
        (f"{SEARCHED}, objectives: {{a: maximize}}",
         "objectives is {'a': 'maximize'}: choose from minimise, maximise: did you mean "
         '"maximise"?'),
        (f"{SEARCHED}, objectives: [a, 3]",
         "objectives is ['a', 3]: it must be a name, a list of names, or a mapping of names to "
         "minimise or maximise"),
        (f"{SEARCHED}, segments: []",
         "segments is []: it must be the name of a file, or a list of segments"),
        (f"{SEARCHED}, mode: asynch",
         'mode is "asynch": choose from rounds, async: did you mean "async"?'),
        (f"{SEARCHED}, pruning: mean",
         'pruning is "mean": choose from median, halving: did you mean "median"?'),
        (f"{SEARCHED}, keep: none", 'keep is "none": choose from best, all'),
    ],
)  # fmt: skip
def test_wrong_setting_of_a_search_is_one_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_settings(path)
    assert str(caught.value) == f"{path}: search.{sentence}"


def test_settings_of_a_search_are_frozen_and_have_a_hash(tmp_path: Path) -> None:
    found = of_a_search(written(tmp_path, SEARCHED))
    with pytest.raises(AttributeError):
        found.search.seed = 2  # type: ignore[misc]
    copy = pickle.loads(pickle.dumps(found))
    assert (copy, hash(copy)) == (found, hash(found))


@pytest.mark.parametrize(("kind", "other"), [("search", "limit"), ("toy-limit", "search")])
def test_each_kind_has_settings_of_its_own(tmp_path: Path, kind: str, other: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"kind: {kind}\nledger: a\n{other}: {{}}\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"{other} is no setting: choose from kind"):
        read_settings(path)


def test_example_of_a_search_is_read() -> None:
    found = of_a_search(SEARCH)
    train = ROOT / "examples/search_objective.py"
    assert found.search.train.endswith("/examples/search_objective.py:train")
    assert Path(found.search.train.rpartition(":")[0]).samefile(train)
    assert found.ledger == str(SEARCH.parent / "search.ledger")


def test_example_of_a_search_mentions_every_setting(tmp_path: Path) -> None:
    text = uncommented(SEARCH)
    assert flattened(yaml.safe_load(text)) == dotted(SearchCampaignSettings)
    path = tmp_path / "search.yaml"
    path.write_text(text, encoding="utf-8")
    shown, default = of_a_search(path).search, SearchSettings("o.py:f", "s.yaml")
    for name in ("form", "objectives", "constraints", "mode", "seed", "keep"):
        assert getattr(shown, name) == getattr(default, name)


def test_example_of_a_site_mentions_every_setting(tmp_path: Path) -> None:
    assert read_site(LOCAL) == SiteSettings("local", workers=2)
    path = tmp_path / "local.yaml"
    path.write_text(uncommented(LOCAL), encoding="utf-8")
    assert read_site(path) == SiteSettings("local", workers=2, threads=1, options={"gpus": 1})
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(document) == {setting.name for setting in fields(SiteSettings)}
    assert set(document["options"]) == {setting.name for setting in fields(LocalOptions)}


def test_messages_name_the_file_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("toy-limit.yaml").write_text(f"{MINIMAL}limit: {{precisio: 1}}\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_settings("toy-limit.yaml")
    assert str(caught.value) == (
        'toy-limit.yaml: limit.precisio is no setting: did you mean "precision"?'
    )


# Durations, sizes, names.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("02:00:00", 7200.0),
        ("2:00", 7200.0),
        ("0:00:01", 1.0),
        ("1-12:00:00", 129600.0),
        ("1-00:30", 88200.0),
        ("100:00:00", 360000.0),
        ("90", 90.0),
        ("90 s", 90.0),
        (" 1.5h ", 5400.0),
        ("10 Min", 600.0),
        ("10m", 600.0),
        ("2 d", 172800.0),
    ],
)
def test_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1:60:00", "1:00:60", "-5", "1 week", "1:2:3:4", "h"])
def test_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no duration: write it as HH:MM:SS"):
        parse_duration(text)


@given(seconds=st.integers(0, 10**8))
def test_clock_is_read_as_it_is_written(seconds: int) -> None:
    minutes, rest = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    assert parse_duration(f"{hours}:{minute:02d}:{rest:02d}") == seconds
    days, hour = divmod(hours, 24)
    assert parse_duration(f"{days}-{hour:02d}:{minute:02d}:{rest:02d}") == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4 GB", 4e9),
        ("4gb", 4e9),
        ("4G", 4e9),
        ("512 MiB", 512 * 2**20),
        ("1.5 TiB", 1.5 * 2**40),
        ("2 kB", 2000.0),
        ("100", 100.0),
        ("100 B", 100.0),
    ],
)
def test_size_is_read(text: str, size: float) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "much", "4 GBit", "-4 GB", "4 PB", "1,5 GB"])
def test_text_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no size: write it as 4 GB or 512 MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("word", "names", "found"),
    [
        ("Slurm", ["local", "slurm"], ['did you mean "slurm"?']),
        ("cern-lxbatch", ["cern_lxbatch"], ['did you mean "cern_lxbatch"?']),
        ("xyz", ["local", "slurm"], []),
        ("anything", [], []),
    ],
)
def test_nearest_name(word: str, names: list[str], found: list[str]) -> None:
    assert nearest(word, names) == found


@dataclass(frozen=True)
class Nothing:
    def __post_init__(self) -> None:
        config.settle(self)


def test_record_without_settings_takes_none() -> None:
    assert record_of(Nothing, {}, "options.") == Nothing()
    with pytest.raises(InputError, match=r"options\.gpus is no setting: leave it out"):
        record_of(Nothing, {"gpus": 1}, "options.")
