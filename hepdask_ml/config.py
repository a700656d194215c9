"""Settings of a campaign: one tree of frozen records, read once from YAML.

A record checks itself when it is made, from a file or in Python: each value is brought to the type
of its field and held to the field's rule, which stands beside it as ``metadata``:

``rule``
    Takes the value and gives the reason to refuse it, or None.
``text``
    Makes the value out of text, where text is another way to write it; ``form`` says which text.
``path``
    The text names files or URLs; in a YAML file they are relative to its folder.  Where not every
    text does, or not from its first letter on, it is a function that gives the place where the
    name begins, or None.  ``inside`` is the key of the names where the value is a list of mappings.

Every message begins with the field's name, so that each level only puts its own name in front, up
to the file: ``toy-limit.yaml: limit.cl is 95: it must lie between 0 and 1``.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from difflib import SequenceMatcher, get_close_matches
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Record = TypeVar("Record", bound=DataclassInstance)

KINDS = ("toy-limit", "search")
"""Kinds of campaigns."""

TEST_STATISTICS = ("qtilde", "q", "t")
"""Test statistics that make a limit."""

ENGINES = ("auto", "cpu", "gpu")
"""What may throw and fit the toys."""

DIRECTIONS = ("minimise", "maximise")
"""What a search may do to an objective."""

FORMS = ("auto", "own", "hpogrid", "nevergrad", "bayesian")
"""Forms in which a search space is written."""

MODES = ("rounds", "async")
"""How a search plans its trials."""

PRUNINGS = ("median", "halving")
"""How a search ends trials early."""

KEPT = ("best", "all")
"""Whose checkpoints a search keeps."""

_NEITHER = "neither LO:HI:N, nor values separated by commas, nor auto"
_LONGEST_SHOWN = 60


def parse_scan(text: str) -> tuple[float, ...] | None:
    """Read a scan as it is written in settings and on the command line.

    Parameters
    ----------
    text : str
        ``"LO:HI:N"`` for N values from LO to HI, values separated by commas, or ``"auto"``.

    Returns
    -------
    tuple of float or None
        The values; None leaves them to the limits.

    Raises
    ------
    InputError
        If it is none of these.

    Examples
    --------
    >>> parse_scan("0:2:3")
    (0.0, 1.0, 2.0)
    >>> parse_scan("0.5,1,4")
    (0.5, 1.0, 4.0)
    """
    if text == "auto":
        return None
    return _range(text) if ":" in text else _values(text)


def _range(text: str) -> tuple[float, ...]:
    try:
        first, last, number = text.split(":")
        low, high, n = float(first), float(last), int(number)
    except ValueError:
        raise InputError(f"{_shown(text)} is {_NEITHER}") from None
    # The width, too: it overflows before its ends do.
    if not (isfinite(low) and isfinite(high) and isfinite(high - low)):
        raise InputError(f"{_shown(text)} is {_NEITHER}: its numbers must be finite")
    if n < 1:
        raise InputError(f"{_shown(text)} is empty: N must be at least 1")
    if low > high or (n > 1 and low == high):
        raise InputError(f"{_shown(text)} does not rise: LO must lie below HI")
    step = (high - low) / (n - 1) if n > 1 else 0.0
    return (*(low + i * step for i in range(n - 1)), high if n > 1 else low)


def _values(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{_shown(text)} is {_NEITHER}") from None
    if not all(isfinite(value) for value in values):
        raise InputError(f"{_shown(text)} is {_NEITHER}: its numbers must be finite")
    return values


_UNITS_S = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):([0-5]?\d)(?::([0-5]?\d))?")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def parse_duration(text: str) -> float:
    """Read a duration as batch systems and people write it.

    Parameters
    ----------
    text : str
        ``"HH:MM:SS"``, ``"HH:MM"``, ``"D-HH:MM:SS"``, or a number with ``s``, ``min``, ``h`` or
        ``d``.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    InputError
        If it is none of these.

    Examples
    --------
    >>> parse_duration("02:00:00"), parse_duration("1-12:00:00"), parse_duration("90 min")
    (7200.0, 129600.0, 5400.0)
    """
    if found := _CLOCK.fullmatch(text.strip()):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return 60.0 * (60 * (24 * days + hours) + minutes) + seconds
    found = _AMOUNT.fullmatch(text.strip().lower())
    if found is None or (found[2] or "s") not in _UNITS_S:
        raise InputError(
            f"{_shown(text)} is no duration: write it as HH:MM:SS, or as 90 min or 2 h"
        )
    return float(found[1]) * _UNITS_S[found[2] or "s"]


_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BYTES |= {f"{unit}i": 1024**power for power, unit in enumerate("kmgt", 1)}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(|[kmgt]i?)b?")


def parse_size(text: str) -> float:
    """Read an amount of memory or disk.

    Parameters
    ----------
    text : str
        A number with ``kB``, ``MB``, ``GB``, ``TB``, or their powers of 1024, ``KiB`` to ``TiB``.

    Returns
    -------
    float
        Bytes.

    Raises
    ------
    InputError
        If it is none of these.

    Examples
    --------
    >>> parse_size("4 GB"), parse_size("512 MiB")
    (4000000000.0, 536870912.0)
    """
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None:
        raise InputError(f"{_shown(text)} is no size: write it as 4 GB or 512 MiB")
    return float(found[1]) * _BYTES[found[2]]


def at_least_one(value: float) -> str | None:
    """Refuse what is less than one: a rule for a field."""
    return None if value >= 1 else "it must be at least one"


def _inside(value: float) -> str | None:
    return None if 0.0 < value < 1.0 else "it must lie between 0 and 1"


def filled(value: Sequence[Any]) -> str | None:
    """Refuse what is empty: a rule for a field."""
    return None if value else "it must not be empty"


def one_of(*names: str) -> Callable[[str], str | None]:
    """Make a rule that refuses what is none of these names."""

    def refuse(value: str) -> str | None:
        if value in names:
            return None
        return ": ".join([f"choose from {', '.join(names)}", *nearest(value, names)])

    return refuse


def nearest(word: str, names: Sequence[str]) -> list[str]:
    """Ask whether the name most like a word was meant; nothing where none is like it.

    Parameters
    ----------
    word : str
        What was written.
    names : sequence of str
        What there is.

    Returns
    -------
    list of str
        One question, or none.

    Examples
    --------
    >>> nearest("slrum", ["local", "slurm"])
    ['did you mean "slurm"?']
    """
    # People mix up case and hyphens first; half of the letters right is "cl" with one wrong.
    spelt = {name.casefold().replace("-", "_"): name for name in names}
    given = word.casefold().replace("-", "_")
    alike = get_close_matches(given, spelt, n=len(spelt) or 1, cutoff=0.5)
    nearest = sorted(alike, key=lambda name: _edits(given, name))[:1]
    return [f'did you mean "{spelt[name]}"?' for name in nearest]


def _edits(word: str, name: str) -> int:
    """Count the letters to be changed; by their share alone "ca" is more like "scan" than "cl"."""
    changes = SequenceMatcher(None, word, name).get_opcodes()
    return sum(max(i2 - i1, j2 - j1) for what, i1, i2, j1, j2 in changes if what != "equal")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The model that is tested: ``model:``.

    Attributes
    ----------
    workspace : str
        File or URL of a HistFactory workspace.
    patch : tuple of str
        JSON patches to apply in this order: files, URLs, or ``"FILE:NAME"`` of a patchset.
    measurement : str or None
        Which measurement to take; the first one if None.
    poi : str or None
        Parameter of interest; the measurement's if None.
    """

    workspace: str = field(metadata={"rule": filled, "path": True})
    patch: tuple[str, ...] = field(
        default=(), metadata={"text": lambda text: (text,), "form": "one text", "path": True}
    )
    measurement: str | None = None
    poi: str | None = None

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What is asked of a limit: ``limit:``.

    Attributes
    ----------
    precision : float or None
        Relative Monte-Carlo error asked of each limit, between 0 and 1; chosen if None.
    max_toys : int or None
        Toys at most, all in all; as many as the precision needs if None.
    scan : tuple of float or None
        Values of the parameter of interest, or text for `parse_scan`; chosen if None.
    toys : int or None
        Toys of each hypothesis at each point; with a scan only.
    cl : float
        Confidence level, between 0 and 1.
    test_statistic : {"qtilde", "q", "t"}
        Test statistic.
    seed : int
        Equal seeds give equal toys.
    starts : int
        Fits of a toy at most in each round of the search for its lowest minimum.
    engine : {"auto", "cpu", "gpu"}
        What throws and fits the toys; each worker chooses the faster one if ``"auto"``.
    """

    precision: float | None = field(default=None, metadata={"rule": _inside})
    max_toys: int | None = field(default=None, metadata={"rule": at_least_one})
    scan: tuple[float, ...] | None = field(
        default=None,
        metadata={"rule": filled, "text": parse_scan, "form": "the text LO:HI:N or auto"},
    )
    toys: int | None = field(default=None, metadata={"rule": at_least_one})
    cl: float = field(default=0.95, metadata={"rule": _inside})
    test_statistic: str = field(default="qtilde", metadata={"rule": one_of(*TEST_STATISTICS)})
    seed: int = 1
    starts: int = field(default=8, metadata={"rule": at_least_one})
    engine: str = field(default="auto", metadata={"rule": one_of(*ENGINES)})

    def __post_init__(self) -> None:
        settle(self)
        if self.toys is not None and self.scan is None:
            raise InputError(f"toys is {self.toys} without a scan: give a scan or drop the toys")


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """Where the work is done: ``site:``, as a mapping or as the name of a kind alone.

    Attributes
    ----------
    kind : str
        Kind of the site.
    workers : int or None
        Workers; the kind's default if None.
    threads : int or None
        Threads of each worker; the kind's default if None.
    options : mapping
        What the kind takes beside; it is handed over as it is.
    """

    kind: str = field(default="local", metadata={"rule": filled})
    workers: int | None = field(default=None, metadata={"rule": at_least_one})
    threads: int | None = field(default=None, metadata={"rule": at_least_one})
    # A plain dictionary travels to workers, which a read-only view does not; it has no hash.
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        settle(self)


def in_file(name: str) -> bool:
    """Tell whether a function is to be found in a file, and not in a module.

    Parameters
    ----------
    name : str
        ``"FILE.py:FUNCTION"`` or ``"PACKAGE.MODULE:FUNCTION"``.

    Returns
    -------
    bool
        Whether it is the former.

    Examples
    --------
    >>> in_file("objective.py:train"), in_file("analysis.tuning:train")
    (True, False)
    """
    return name.rpartition(":")[0].endswith(".py")


def _where_file(name: str) -> int | None:
    return 0 if in_file(name) else None


def _where_tracked(name: str) -> int | None:
    kind, colon, _ = name.partition(":")
    return len(kind) + 1 if colon and kind in ("csv", "tensorboard") else None


def _function(value: str) -> str | None:
    place, _, name = value.rpartition(":")
    if place and name.isidentifier():
        return None
    return "write it as FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION"


def _space(value: Any) -> str | None:
    several = value if isinstance(value, list | tuple) else [value]
    if several and all(each and isinstance(each, str | Mapping) for each in several):
        return None
    return "it must be the name of a file, or a mapping of parameters, or a list of these"


def _segments(value: Any) -> str | None:
    if value is None or (value and isinstance(value, str | list | tuple)):
        return None
    return "it must be the name of a file, or a list of segments"


def _objectives(value: Any) -> str | None:
    if isinstance(value, Mapping):
        refusals = map(one_of(*DIRECTIONS), map(str, value.values()))
        return next(filter(None, refusals), filled(list(value)))
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list | tuple) and all(isinstance(name, str) and name for name in names):
        return filled(names)
    return f"it must be a name, a list of names, or a mapping of names to {' or '.join(DIRECTIONS)}"


def _epochs(value: Any) -> str | None:
    if isinstance(value, str) and value:
        return None
    if isinstance(value, int) and value is not True and value >= 1:
        return None
    return "it must be a whole number from one on, or the name of a parameter"


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What is searched: ``search:``.

    Attributes
    ----------
    train : str
        The objective, ``"FILE.py:FUNCTION"`` or ``"PACKAGE.MODULE:FUNCTION"``.
    space : str or mapping or tuple
        The parameters, or a YAML or JSON file of them; with segments there may be one for each.
    form : {"auto", "own", "hpogrid", "nevergrad", "bayesian"}
        Form in which the space is written; recognised if ``"auto"``.
    trials : int or None
        Trials of each segment; chosen if None.
    optimiser : str
        Name of the optimiser.
    objectives : str or tuple of str or mapping
        What is minimised; in a mapping each name has its direction, ``"minimise"`` or
        ``"maximise"``.
    constraints : tuple of str
        Numbers that have to be zero or less.
    epochs : int or str
        Epochs of a trial, or the name of the parameter that says how many.
    pruning : {"median", "halving"} or None
        How trials are ended early; not at all if None.
    mode : {"rounds", "async"}
        Whether trials are proposed together or one by one.
    parallel : int or None
        Trials at once; as many as there are workers if None.
    seed : int
        Equal seeds give equal searches.
    segments : str or tuple or None
        The segments, or a YAML or JSON file of them; none if None.
    checkpoints : str or None
        Folder or URL for checkpoints; beside the ledger if None.
    keep : {"best", "all"}
        Whose checkpoints are kept.
    warm_start : str or None
        Ledger of an older search.
    gang : int or None
        Workers at most that train one model together; each trains its own if None.
    follow : tuple of str
        Trackers that are told how it goes: ``"csv:FILE"``, ``"tensorboard:FOLDER"``, ``"mlflow"``
        or ``"mlflow:URI"``.
    """

    train: str = field(metadata={"rule": _function, "path": _where_file})
    # What may be a text or something else is held to its form here, and settled by the search.
    space: Any = field(hash=False, metadata={"rule": _space, "path": True})
    form: str = field(default="auto", metadata={"rule": one_of(*FORMS)})
    trials: int | None = field(default=None, metadata={"rule": at_least_one})
    optimiser: str = field(default="skopt:gp", metadata={"rule": filled})
    objectives: Any = field(default="loss", hash=False, metadata={"rule": _objectives})
    constraints: tuple[str, ...] = field(
        default=(), metadata={"text": lambda text: (text,), "form": "one name"}
    )
    epochs: Any = field(default=1, metadata={"rule": _epochs})
    pruning: str | None = field(default=None, metadata={"rule": one_of(*PRUNINGS)})
    mode: str = field(default="rounds", metadata={"rule": one_of(*MODES)})
    parallel: int | None = field(default=None, metadata={"rule": at_least_one})
    seed: int = 1
    segments: Any = field(
        default=None, hash=False, metadata={"rule": _segments, "path": True, "inside": "files"}
    )
    checkpoints: str | None = field(default=None, metadata={"rule": filled, "path": True})
    keep: str = field(default="best", metadata={"rule": one_of(*KEPT)})
    warm_start: str | None = field(default=None, metadata={"rule": filled, "path": True})
    gang: int | None = field(default=None, metadata={"rule": at_least_one})
    follow: tuple[str, ...] = field(
        default=(),
        metadata={"text": lambda text: (text,), "form": "one text", "path": _where_tracked},
    )

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True)
class SearchCampaignSettings:
    """Settings of a campaign that searches.

    Attributes
    ----------
    kind : {"search"}
        What kind of campaign it is.
    search : SearchSettings
        What is searched.
    ledger : str
        File that keeps what is done.
    site : SiteSettings
        Where the work is done.
    output : str or None
        Folder for the results.
    """

    kind: str = field(metadata={"rule": one_of("search")})
    search: SearchSettings
    ledger: str = field(metadata={"rule": filled, "path": True})
    site: SiteSettings = field(
        default_factory=SiteSettings, metadata={"text": SiteSettings, "form": "the name of a kind"}
    )
    output: str | None = field(default=None, metadata={"rule": filled, "path": True})

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a campaign that finds a limit.

    Attributes
    ----------
    kind : {"toy-limit"}
        What kind of campaign it is.
    model : ModelSettings
        The model that is tested.
    ledger : str
        File that keeps what is done.
    limit : LimitSettings
        What is asked of the limit.
    site : SiteSettings
        Where the work is done.
    output : str or None
        Folder for the results.
    """

    kind: str = field(metadata={"rule": one_of("toy-limit")})
    model: ModelSettings
    ledger: str = field(metadata={"rule": filled, "path": True})
    limit: LimitSettings = field(default_factory=LimitSettings)
    site: SiteSettings = field(
        default_factory=SiteSettings, metadata={"text": SiteSettings, "form": "the name of a kind"}
    )
    output: str | None = field(default=None, metadata={"rule": filled, "path": True})

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What has to be known of a file before its settings."""

    kind: str = field(metadata={"rule": one_of(*KINDS)})

    def __post_init__(self) -> None:
        settle(self)


_RECORDS: dict[str, type[Settings | SearchCampaignSettings]] = {
    "toy-limit": Settings,
    "search": SearchCampaignSettings,
}
"""The settings of each kind."""


def read_settings(path: str | Path) -> Settings | SearchCampaignSettings:
    """Read the settings of a campaign.

    Parameters
    ----------
    path : str or Path
        The YAML file.

    Returns
    -------
    Settings or SearchCampaignSettings
        The settings of its kind, their paths made absolute.

    Raises
    ------
    InputError
        If the file cannot be read, or something in it is no setting or has a wrong value.

    Examples
    --------
    >>> settings = read_settings("configs/toy-limit.yaml")
    >>> settings.limit.precision
    0.05
    """
    place = Path(path)
    document = _document(place)
    kind = {"kind": document["kind"]} if "kind" in document else {}
    record = _RECORDS[record_of(_Kind, kind, f"{place}: ").kind]
    settings = record_of(record, document, f"{place}: ")
    return _located(settings, place.parent.absolute(), f"{place}: ")


def read_site(path: str | Path) -> SiteSettings:
    """Read a site from a file of its own.

    Parameters
    ----------
    path : str or Path
        The YAML file; it holds what stands below ``site:`` in the settings of a campaign.

    Returns
    -------
    SiteSettings
        The site.

    Raises
    ------
    InputError
        If the file cannot be read, or something in it is no setting or has a wrong value.

    Examples
    --------
    >>> read_site("configs/sites/local.yaml").workers
    2
    """
    return record_of(SiteSettings, _document(Path(path)), f"{path}: ")


def record_of(kind: type[Record], mapping: Mapping[Any, Any], where: str) -> Record:
    """Make a record of a mapping.

    Parameters
    ----------
    kind : type
        A frozen dataclass that settles itself.
    mapping : mapping
        Values of its fields by name.
    where : str
        Goes in front of whatever is wrong with it.

    Returns
    -------
    Record
        The record.

    Raises
    ------
    InputError
        If a key is no field, a needed one is missing, or a value is wrong.
    """
    settings = {setting.name: setting for setting in fields(kind)}
    for key in mapping:
        if key not in settings:
            near = nearest(str(key), list(settings))
            choice = f"choose from {', '.join(settings)}" if settings else "leave it out"
            advice = near[0] if near else choice
            raise InputError(f"{where}{key} is no setting: {advice}")
    for name, setting in settings.items():
        needed = setting.default is MISSING and setting.default_factory is MISSING
        if needed and name not in mapping:
            raise InputError(f"{where}{name} is missing: add it")
    try:
        return kind(**mapping)
    except InputError as error:
        raise InputError(f"{where}{error}") from None


def settle(record: DataclassInstance) -> None:
    """Bring the values of a new record to the types of its fields, and hold them to their rules.

    Parameters
    ----------
    record : dataclass
        A frozen one; call this in its ``__post_init__``.

    Raises
    ------
    InputError
        If a value is wrong.
    """
    hints = get_type_hints(type(record))
    for setting in fields(record):
        value = _settled(setting, getattr(record, setting.name), hints[setting.name])
        object.__setattr__(record, setting.name, value)


def _settled(setting: Field[Any], given: Any, hint: Any) -> Any:
    rules, value = setting.metadata, given
    if isinstance(given, str) and "text" in rules:
        try:
            value = rules["text"](given)
        except InputError as error:
            raise InputError(f"{setting.name}: {error}") from None
    value = _converted(setting.name, value, hint, rules.get("form"))
    asked = "rule" in rules and (value is not None or hint is Any)
    refusal = rules["rule"](value) if asked else None
    if refusal:
        raise InputError(f"{setting.name} is {_shown(given)}: {refusal}")
    return value


def _converted(key: str, value: Any, hint: Any, form: str | None = None) -> Any:
    """Bring a value to the type that a hint asks for, or refuse it."""
    if hint is Any:
        return value
    optional = isinstance(hint, UnionType)
    if optional and value is None:
        return None
    kind = next(each for each in get_args(hint) if each is not NoneType) if optional else hint
    if is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, kind):
            return value
        return record_of(kind, _mapping(key, value, form), f"{key}.")
    origin = get_origin(kind)
    if origin is Mapping:
        return dict(_mapping(key, value, form))
    if origin is tuple:
        item = get_args(kind)[0]
        items = _items(key, value, form)
        return tuple(_converted(f"{key}[{i}]", each, item) for i, each in enumerate(items))
    return _scalar(key, value, kind)


def _scalar(key: str, value: Any, kind: type) -> Any:
    accepted, words = _SCALARS[kind]
    # A bool is an int to Python, never to a reader.
    if isinstance(value, accepted) and (kind is bool or not isinstance(value, bool)):
        try:
            scalar = kind(value)
        except OverflowError:
            scalar = float("inf")
        if kind is not float or isfinite(scalar):
            return scalar
    raise _mismatch(key, value, words)


_SCALARS: dict[type, tuple[type, str]] = {
    str: (str, "text, in quotes if it looks like something else"),
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a finite number"),
}
"""What each type takes, and in words."""


def _items(key: str, value: Any, form: str | None) -> Sequence[Any]:
    if value is None:  # a key with everything below it commented out
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _mismatch(key, value, "a list" + (f" or {form}" if form else ""))
    return value


def _mapping(key: str, value: Any, form: str | None) -> Mapping[str, Any]:
    if value is None:  # likewise
        return {}
    if not isinstance(value, Mapping):
        raise _mismatch(key, value, "a mapping" + (f" or {form}" if form else ""))
    for name in value:
        if not isinstance(name, str):
            raise InputError(f"{key} holds the key {_shown(name)}: keys must be text")
    return value


def _mismatch(key: str, value: Any, words: str) -> InputError:
    return InputError(f"{key} is {_shown(value)}: it must be {words}")


def _shown(value: Any) -> str:
    """Show a value as its writer would know it, cut short."""
    if value is None:
        return "empty"
    if isinstance(value, str):
        short = value if len(value) <= _LONGEST_SHOWN else value[: _LONGEST_SHOWN - 3] + "..."
        return json.dumps(short, ensure_ascii=False)
    return json.dumps(value) if isinstance(value, bool) else reprlib.repr(value)


def _located(record: Record, folder: Path, where: str) -> Record:
    """Give the record with its relative paths put into a folder."""
    changes: dict[str, Any] = {}
    for setting in fields(record):
        name, value = setting.name, getattr(record, setting.name)
        if is_dataclass(value) and not isinstance(value, type):
            changes[name] = _located(value, folder, f"{where}{name}.")
        elif "path" in setting.metadata:
            changes[name] = _located_value(value, folder, f"{where}{name}", setting.metadata)
    return replace(record, **changes)


def _located_value(value: Any, folder: Path, where: str, rules: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        start = 0 if rules["path"] is True else rules["path"](value)
        return value if start is None else value[:start] + _place(value[start:], folder, where)
    if isinstance(value, tuple | list):
        return tuple(
            _located_value(each, folder, f"{where}[{i}]", rules) for i, each in enumerate(value)
        )
    key = rules.get("inside")
    if isinstance(value, Mapping) and key in value:
        return {**value, key: _located_value(value[key], folder, f"{where}.{key}", rules)}
    return value


def _place(value: str, folder: Path, where: str) -> str:
    if "://" in value:
        return value
    # What follows the file in FILE:NAME is no path, and stays as it is letter by letter.
    file, colon, name = value.partition(":")
    try:
        return f"{folder / Path(file).expanduser()}{colon}{name}"
    except RuntimeError:
        raise InputError(
            f"{where} is {_shown(value)}, whose home folder is unknown: write the path in full"
        ) from None


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of version 1.2, without dates, and with each key once.

    In version 1.1 the scan 1:5:11 and the walltime 10:00:00 are numbers to the base of 60, and
    1e-3 is text.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Before merge keys are resolved, which may well repeat a key.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                problem = f'the key "{key.value}" stands there twice'
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


_TAG = "tag:yaml.org,2002:"
_NUMBERS = {
    "int": r"[-+]?(?:0|[1-9][0-9_]*)\Z|0x[0-9a-fA-F]+\Z",
    "float": r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z|[-+]?[0-9]+[eE][-+]?[0-9]+\Z"
    r"|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z",
}
_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0].removeprefix(_TAG) not in {*_NUMBERS, "timestamp"}]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), list("-+.0123456789"))


def read_yaml(path: Path) -> Any:
    """Read a file of YAML.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Any
        What it holds: plain values, lists and mappings; None if it is empty.

    Raises
    ------
    InputError
        If it cannot be read, is not YAML, or has a key twice.
    """
    text = _text(path)
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise InputError(f"{path} is nested too deeply: a few levels are enough") from None
    # The last three are what the library raises for a value that is not of its !!tag.
    except (yaml.YAMLError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not YAML ({_fault(error, text)}): mend it there") from None


def _document(path: Path) -> Mapping[Any, Any]:
    document = read_yaml(path)
    if document is None:
        raise InputError(f"{path} is empty: it must hold a mapping of settings")
    if not isinstance(document, dict):
        raise InputError(f"{path} holds {_shown(document)}: it must hold a mapping of settings")
    return document


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: give a YAML file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path} cannot be read ({reason}): check the name") from None


def _fault(error: Exception, text: str) -> str:
    """Place and reason of a syntax error."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        line, column = error.problem_mark.line, error.problem_mark.column
        reason = error.problem or error.context
    elif isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position].split("\n")
        line, column = len(before) - 1, len(before[-1])
        reason = "a character that no text holds"
    else:
        return " ".join(str(error).split()) or type(error).__name__
    return f"line {line + 1}, column {column + 1}: {reason}"


def parse_value(text: str) -> Any:
    """Read a value as it would stand behind its key in a YAML file.

    Parameters
    ----------
    text : str
        The value; empty for none.

    Returns
    -------
    Any
        Text, a number, true or false, None, a list or a mapping.

    Raises
    ------
    InputError
        If it is not YAML.

    Examples
    --------
    >>> parse_value("4"), parse_value("01:00:00"), parse_value("[a, b]"), parse_value("")
    (4, '01:00:00', ['a', 'b'], None)
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise InputError(f"{_shown(text)} is nested too deeply: a few levels are enough") from None
    except (yaml.YAMLError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{_shown(text)} is not YAML ({_fault(error, text)}): put it in quotes"
        ) from None
