"""What the command line does with sites: lists them, shows one, and tries whether it works."""

from __future__ import annotations

import json
import logging
import re
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import InputError, late

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hepdask_ml.config import SiteSettings
    from hepdask_ml.facility.check import Report

IN_DASK = "Dask's configuration"
HIDDEN = "(hidden)"
"""Stands for what looks like a secret."""

_SECRET = re.compile(r"(password|passwd|token|secret|api_?key|access_?key)$", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z_/~][\w./~+-]*")
_SHORT = 60
_TAKEN = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A site in the list.

    Attributes
    ----------
    name, kind : str
        Its name, and the kind it comes down to.
    source : str
        Where it comes from.
    description : str
        One line; empty if there is none.
    """

    name: str
    kind: str
    source: str
    description: str = ""


def overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Read what is set on the command line: ``-O NAME=VALUE``.

    Parameters
    ----------
    texts : sequence of str
        Each ``NAME=VALUE``, the value as in a YAML file.

    Returns
    -------
    dict of str to Any
        Keywords for `hepdask_ml.facility.site.site`.

    Raises
    ------
    InputError
        If one cannot be read, or a name is given twice.

    Examples
    --------
    >>> overrides(["queue=short", "gpus=1", "walltime=01:30:00", "setup=[module load root]"])
    {'queue': 'short', 'gpus': 1, 'walltime': '01:30:00', 'setup': ['module load root']}
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        name = name.strip().removeprefix("options.")
        if not sign or not name:
            raise InputError(f'-O {text}: write it as NAME=VALUE, as in "-O queue=short"')
        if name in values:
            raise InputError(f"-O {name} is given twice: give it once, several values as [A, B]")
        if name == "place":
            raise InputError("-O place is no option of a site: give its name or its file")
        try:
            values[name] = late("config").parse_value(value)
        except InputError as error:
            raise InputError(f"-O {name}: {error}") from None
    return values


def entries() -> list[Entry]:
    """Give all sites that have a name.

    Returns
    -------
    list of Entry
        Kinds first, then the ready ones, then those of Dask's configuration alone.
    """
    site = late("facility.site")
    files, said = site.ready(), site.configured()
    outside = {point.name: point for point in entry_points(group=site.GROUP)}
    found = []
    for kind in site.kinds():
        source, about = "hepdask-ml", _head(files[kind])[0] if kind in files else ""
        if kind in outside:
            dist = outside[kind].dist
            source, about = f"the package {dist.name if dist else 'of its own'}", ""
        found.append(Entry(kind, kind, source, about))
    found += [
        _entry(name, "ready site", path) for name, path in files.items() if name not in site.kinds()
    ]
    changed = {_spelt(name) for name in said}
    found = [
        Entry(each.name, each.kind, f"{each.source}, changed by {IN_DASK}", each.description)
        if _spelt(each.name) in changed
        else each
        for each in found
    ]
    known = {_spelt(entry.name) for entry in found}
    return [*found, *(_entry(name, IN_DASK, None) for name in said if _spelt(name) not in known)]


def list_sites(*, as_json: bool) -> None:
    """Print all sites that have a name.

    Parameters
    ----------
    as_json : bool
        As JSON.
    """
    found = entries()
    if as_json:
        sites = [
            {
                "name": entry.name,
                "kind": entry.kind,
                "source": entry.source,
                "description": entry.description,
            }
            for entry in found
        ]
        _print_json({"schema": "hepdask-ml/sites/1", "sites": sites})
    else:
        late("ui.site_view").print_view(late("ui.site_view").sites_view(found))


def show_site(place: str, texts: Sequence[str], *, dry_run: bool, as_json: bool) -> None:
    """Print the settings of a site, or what it would submit.

    Parameters
    ----------
    place : str
        Its name, or a file.
    texts : sequence of str
        What is set on the command line, as for `overrides`.
    dry_run : bool
        Print what it would submit.
    as_json : bool
        As JSON.

    Raises
    ------
    InputError
        If there is no such site, or a setting of it is wrong.
    """
    site, changes = late("facility.site"), overrides(texts)
    settings: SiteSettings = site.settled(place, **changes)
    made = site.site(place, **changes)  # which refuses a wrong setting
    if dry_run:
        show_script(made, settings, place, as_json=as_json)
    elif as_json:
        _print_json(
            {
                "schema": "hepdask-ml/site/1",
                "site": place,
                "kind": settings.kind,
                "workers": settings.workers,
                "threads": settings.threads,
                "options": _veiled(settings.options),
            }
        )
    else:
        sys.stdout.write(settings_text(place, settings, changes))


def show_script(made: Any, settings: SiteSettings, place: str, *, as_json: bool) -> None:
    """Print what a site would submit.

    Parameters
    ----------
    made : Site
        The site.
    settings : SiteSettings
        Its settings.
    place : str
        Its name, or a file.
    as_json : bool
        As JSON.
    """
    write = getattr(made, "script", None)
    script = None if write is None else write()
    if as_json:
        document = {"site": place, "kind": settings.kind, "script": script}
        _print_json({"schema": "hepdask-ml/site-script/1", **document})
    elif script is None:
        sys.stdout.write(f"a site of the kind {settings.kind} submits nothing\n")
    else:
        sys.stdout.write(script.rstrip("\n") + "\n")


def check_site(
    place: str, texts: Sequence[str], patience_s: float, *, as_json: bool, quiet: bool
) -> Report:
    """Start one worker of a site for real, ask it, and print what was found.

    Parameters
    ----------
    place : str
        Its name, or a file.
    texts : sequence of str
        What is set on the command line, as for `overrides`.
    patience_s : float
        Time in seconds in which the worker has to come.
    as_json : bool
        As JSON.
    quiet : bool
        Show no progress.

    Returns
    -------
    Report
        What was found.

    Raises
    ------
    InputError
        If there is no such site, or a setting of it is wrong.
    """
    view = late("ui.site_view")
    made, settings = one_worker(place, texts)
    # What goes wrong is said in a sentence; Dask would tell it in tracebacks.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with view.Waiting(quiet=quiet) as tell:
        report: Report = late("facility.check").check(
            made, name=place, kind=settings.kind, patience_s=patience_s, tell=tell
        )
    if as_json:
        _print_json(report.to_json())
    else:
        view.print_view(view.report_view(report))
    return report


def one_worker(place: str, texts: Sequence[str]) -> tuple[Any, SiteSettings]:
    """Make a site with one worker.

    Parameters
    ----------
    place : str
        Its name, or a file.
    texts : sequence of str
        What is set on the command line, as for `overrides`.

    Returns
    -------
    site : Site
        The site.
    settings : SiteSettings
        Its settings.

    Raises
    ------
    InputError
        If there is no such site, or a setting of it is wrong.
    """
    site, changes = late("facility.site"), overrides(texts)
    settings: SiteSettings = site.settled(place, **changes)
    # What runs already has the workers that it has.
    one = {} if "connect" in settings.options else {"workers": 1}
    return site.site(place, **{**one, **changes}), settings


def settings_text(place: str, settings: SiteSettings, changes: Mapping[str, Any]) -> str:
    """Write settings as a YAML file, with where they come from.

    Parameters
    ----------
    place : str
        Name of the site, or its file.
    settings : SiteSettings
        Its settings, down to a kind.
    changes : mapping
        What was set on the command line.

    Returns
    -------
    str
        The text; what looks like a secret is hidden.
    """
    layers = _layers(place, changes)

    def source(key: str, *, option: bool = False) -> str:
        for name, layer in layers:
            if key in (layer.get("options") or {} if option else layer):
                return name
        return ""

    plain = [("kind", settings.kind), ("workers", settings.workers), ("threads", settings.threads)]
    lines = [(f"{key}: {value}", source(key)) for key, value in plain if value is not None]
    if settings.options:
        lines.append(("options:", ""))
    for key, value in _veiled(settings.options).items():
        first, *rest = _yaml(value)
        lines.append((f"  {key}: {first}".rstrip(), source(key, option=True)))
        lines += [(f"    {line}", "") for line in rest]
    width = min(max((len(text) for text, name in lines if name), default=0), 60)
    files = late("facility.site").ready()
    head = [line for line in _head(files[place]) if line] if place in files else []
    where = f": see {files[settings.kind]}" if settings.kind in files else ""
    return "".join(
        [
            *(f"# {line}\n" for line in head),
            *(f"{text:{width}s}  # {name}\n" if name else f"{text}\n" for text, name in lines),
            f"# Whatever is not named has its default{where}\n",
        ]
    )


def _layers(place: str, changes: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Give what is said of a site, by whom; the first goes before the others."""
    site = late("facility.site")
    files, kinds = site.ready(), site.kinds()
    said = {_spelt(name): value for name, value in site.configured().items()}
    options = {name: changes[name] for name in changes if name not in ("workers", "threads")}
    layers: list[tuple[str, Mapping[str, Any]]] = [("-O", {**changes, "options": options})]
    name = place
    if "://" in place:
        return layers
    if site.is_file(place):
        settings = late("config").read_site(place)
        layers.append((place, _as_mapping(settings)))
        name = settings.kind
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        spoken = said.get(_spelt(name), {})
        spoken = {"kind": spoken} if isinstance(spoken, str) else spoken
        layers.append((IN_DASK, spoken))
        if name in files and name not in kinds:
            settings = late("config").read_site(files[name])
            layers.append((name, _as_mapping(settings)))
            name = settings.kind
        name = spoken.get("kind", name)
    return layers


def _as_mapping(settings: SiteSettings) -> dict[str, Any]:
    """Give what settings say, without what they leave open."""
    plain = {"workers": settings.workers, "threads": settings.threads}
    said = {name: value for name, value in plain.items() if value is not None}
    return {"kind": settings.kind, **said, "options": settings.options}


def _entry(name: str, source: str, path: Path | None) -> Entry:
    about = _head(path)[0] if path is not None else ""
    try:
        return Entry(name, late("facility.site").settled(name).kind, source, about)
    except InputError as error:
        return Entry(name, "", source, str(error))


def _head(path: Path) -> tuple[str, str]:
    """Give the first words of a ready file, and whether the site was tried."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    paragraph = " ".join(lines[: lines.index("")] if "" in lines else lines)
    about = re.split(r"[.:;](?: |$)", paragraph, maxsplit=1)[0]
    return about, next((line for line in lines if line.startswith("Tried: ")), "")


def _spelt(name: str) -> str:
    """Spell a name as Dask's configuration may: environment variables have no hyphens."""
    return name.replace("_", "-")


def _veiled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Hide what looks like a secret."""
    return {
        key: HIDDEN if _SECRET.search(key) else _veiled(value) if isinstance(value, dict) else value
        for key, value in options.items()
    }


def _yaml(value: Any) -> list[str]:
    """Write a value behind its key, and on lines below it where it is long."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _TAKEN:
        return [value]
    text = json.dumps(value, ensure_ascii=False, default=str)  # JSON is YAML, too
    if len(text) <= _SHORT:
        return [text]
    if isinstance(value, list):
        return ["", *(f"- {json.dumps(each, ensure_ascii=False, default=str)}" for each in value)]
    if isinstance(value, dict):
        pairs = value.items()
        return [
            "",
            *(
                f"{json.dumps(name)}: {json.dumps(each, ensure_ascii=False, default=str)}"
                for name, each in pairs
            ),
        ]
    return [text]


def _print_json(document: dict[str, Any]) -> None:
    sys.stdout.write(late("ui.show").json_text(document))
