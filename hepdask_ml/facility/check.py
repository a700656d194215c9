"""Whether a site works: one worker is started for real, and asked.

A `Report` holds *facts*, by topic, and *findings*, what is wrong with them.  With a fault the site
is of no use as it is; the other findings are warnings.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from statistics import median
from time import monotonic
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit
from warnings import catch_warnings, filterwarnings

import hepdask_ml
from hepdask_ml.errors import SiteError
from hepdask_ml.facility.probe import network, seen_by_scheduler, seen_by_worker, sent_by_value
from hepdask_ml.facility.site import SchedulerSite

if TYPE_CHECKING:
    from distributed import Client

    from hepdask_ml.facility.site import Site

SCHEMA = "hepdask-ml/site-check/1"

OURS = "hepdask-ml"
PACKAGES = ("python", OURS, "dask", "distributed", "numpy", "msgpack", "cloudpickle", "tornado")
"""What is compared; equal versions of the last few are what Dask's messages need."""

NETWORK_FILESYSTEMS = (
    "afs", "beegfs", "ceph", "cifs", "fuse.", "gpfs", "lustre", "nfs", "panfs", "smb", "wekafs",
)  # fmt: skip
"""How the names of file systems begin that cross a network."""

SLOW_ROUND_TRIP_S, SLOW_BYTES_PER_S = 0.1, 1e6
LITTLE_SCRATCH_BYTES = 1e9
LARGE_CLOCK_DIFFERENCE_S = 10.0

_LOOK_S = 0.2
_ANSWER_S = 5.0
_CLOCKS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes
    ----------
    topic : str
        Which of the facts it is about.
    sentence : str
        What is wrong, and what to do.
    is_fault : bool
        The site is of no use as it is.
    """

    topic: str
    sentence: str
    is_fault: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a check has found.

    Attributes
    ----------
    site, kind : str
        Its name, or file, and its kind.
    facts : mapping of str to Any
        By topic: ``worker``, ``versions``, ``processors``, ``memory``, ``gpus``, ``walltime``,
        ``scratch``, ``connection``, ``network``, ``clock``; those that could be found out.
    findings : tuple of Finding
        What is wrong, the gravest first.
    """

    site: str
    kind: str
    facts: Mapping[str, Any] = field(hash=False)
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the site can be used."""
        return not any(finding.is_fault for finding in self.findings)

    @property
    def sentence(self) -> str:
        """What is wrong, or that nothing is."""
        if not self.ok:
            return f"the site {self.site} does not work: {self.findings[0].sentence}"
        number = len(self.findings)
        but = f", with {number} warning{'s' if number > 1 else ''}" if number else ""
        return f"the site {self.site} works{but}: campaigns can run there"

    def to_json(self) -> dict[str, Any]:
        """Give it as a document.

        Returns
        -------
        dict
            Sizes are in bytes, times in seconds; what is unknown is None.
        """
        return {
            "schema": SCHEMA,
            "site": self.site,
            "kind": self.kind,
            "ok": self.ok,
            "sentence": self.sentence,
            "faults": [each.sentence for each in self.findings if each.is_fault],
            "warnings": [each.sentence for each in self.findings if not each.is_fault],
            **self.facts,
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of a site, as far as a worker can be held to it.

    Attributes
    ----------
    gpus : int
        Graphics processors, of each worker or of all.
    walltime_s : float or None
        Time after which its job ends; None for places without jobs.
    starts_workers : bool
        Workers come because the site is opened; elsewhere they are there, or not.
    """

    gpus: int = 0
    walltime_s: float | None = None
    starts_workers: bool = True


def asked_of(place: Site) -> Asked:
    """Give what a site was asked for.

    Parameters
    ----------
    place : Site
        The site.

    Returns
    -------
    Asked
        What its options say; the site may be of another package, with none that are known here.
    """
    options = getattr(place, "options", None)
    walltime, gpus = (getattr(options, name, None) for name in ("walltime", "gpus"))
    return Asked(
        gpus=gpus if isinstance(gpus, int) else 0,
        walltime_s=float(walltime) if isinstance(walltime, int | float) else None,
        starts_workers=not isinstance(place, SchedulerSite),
    )


def check(
    place: Site,
    *,
    name: str,
    kind: str,
    patience_s: float,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Open a site, wait for a worker, and ask it.

    Parameters
    ----------
    place : Site
        The site.
    name, kind : str
        Its name and its kind, for the report.
    patience_s : float
        Time in seconds in which a worker has to come.
    tell : callable
        Is given what is going on, from any thread.

    Returns
    -------
    Report
        What was found; a place that cannot be opened is a fault.

    Raises
    ------
    InputError
        If a setting of the site is wrong.
    """
    asked = asked_of(place)
    facts: dict[str, Any] = {}
    fault = ""
    with _news(tell) as last, catch_warnings():
        filterwarnings("ignore", "Mismatched versions found")  # the report says so, too
        try:
            begun = monotonic()
            tell("opening the site")
            with place.open() as client:
                tell("waiting for a worker")
                worker = _worker(client, patience_s, last, starts=asked.starts_workers)
                facts["worker"] = {**worker, "waited_s": monotonic() - begun}
                tell("asking the worker")
                _ask(client, worker["address"], asked, facts)
                tell("closing the site")
        except SiteError as error:
            fault = str(error)
        except OSError as error:
            fault = f"the connection broke while it was checked ({_words(error)}): try again"
    first = [Finding("worker", fault, is_fault=True)] if fault else []
    return Report(name, kind, facts, (*first, *findings(facts)))


@contextmanager
def _news(tell: Callable[[str], None]) -> Iterator[list[str]]:
    """Tell what the site logs; give what it has said last."""
    last: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            last[:] = [record.getMessage()]
            tell(f"waiting for a worker: {last[0]}")

    logger, listener = logging.getLogger("hepdask_ml.facility"), Listener()
    before = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield last
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _worker(client: Client, patience_s: float, last: list[str], *, starts: bool) -> dict[str, Any]:
    """Wait for a worker; give its address and its name."""
    scheduler = cast("Any", client.scheduler)
    deadline = monotonic() + patience_s
    while client.status == "running":
        try:
            answer = client.sync(scheduler.identity, callback_timeout=_ANSWER_S)  # type: ignore[no-untyped-call]
        except TimeoutError:  # see whether it is still there
            continue
        workers = answer["workers"]
        if workers:
            address = next(iter(workers))
            return {"address": address, "name": str(workers[address]["name"])}
        if not starts:
            raise SiteError(
                f"the scheduler at {scheduler.address} has no workers: start some with "
                f"`dask worker {scheduler.address}`"
            )
        if monotonic() > deadline:
            said = f" ({last[0]})" if last else ""
            raise SiteError(
                f"no worker came within {_span(patience_s)}{said}: wait for longer with --timeout, "
                "or ask for less"
            )
        time.sleep(_LOOK_S)
    raise SiteError("its scheduler has ended before a worker came")


def _ask(client: Client, address: str, asked: Asked, facts: dict[str, Any]) -> None:
    """Ask the worker and the scheduler; add what they say to the facts."""
    found = cast("Any", client.get_versions(packages=["hepdask_ml"]))
    workers = found["workers"]
    if address not in workers:
        raise SiteError(
            f"the worker has come, but the scheduler cannot reach it at {address}: a firewall may "
            "be between them, so name ports that it leaves open, or another interface"
        )
    there = _versions(workers[address])
    odd = [worker for worker, said in workers.items() if _versions(said) != there]
    versions = facts["versions"] = {
        "here": _versions(found["client"]),
        "scheduler": _versions(found["scheduler"]),
        "worker": there,
        "workers": len(workers),
        "different": odd[:10],
    }
    if any(_minor(versions[side]) != _minor(versions["here"]) for side in _SIDES):
        return  # functions travel as bytecode, which another Python cannot read
    with sent_by_value():
        seen = _told(client, address, seen_by_worker)
        ways = _told(client, address, network)
        where = client.run_on_scheduler(seen_by_scheduler)  # type: ignore[no-untyped-call]
    facts["worker"]["host"] = seen.pop("host")
    facts |= seen
    # A kind that shares the GPUs of a node among workers tells each of them its part.
    resource = facts["gpus"].pop("resource")
    facts["gpus"]["asked"] = min(asked.gpus, 1) if resource is None else int(resource)
    facts["walltime"]["asked_s"] = asked.walltime_s
    urls = (address, *where["listens"])
    whence = {reach(url) for url in urls}
    facts["connection"] = {
        "worker": address,
        "scheduler": where["address"],
        "scheduler_host": where["host"],
        "listens": where["listens"],
        "encrypted": all(url.startswith(("tls://", "wss://")) for url in urls),
        "reach": sorted(whence.difference(_CLOSED) or whence),
    }
    facts["network"] = ways
    facts["clock"] = _clock(client, address)


def _told(client: Client, address: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Run a function on the worker."""
    said = client.run(function, workers=[address], on_error="return").get(address)
    if not isinstance(said, dict):
        words = _words(said) if isinstance(said, BaseException) else "it has gone"
        raise SiteError(f"the worker came, but cannot be asked: {words}")
    return said


_SIDES = ("scheduler", "worker")


def _versions(said: Mapping[str, Any]) -> dict[str, str | None]:
    versions = {**said["packages"], OURS: said["packages"].get("hepdask_ml")}
    versions["python"] = ".".join(str(versions["python"]).split(".")[:3])
    return {name: versions.get(name) for name in PACKAGES}


def _minor(versions: Mapping[str, str | None]) -> list[str]:
    return str(versions["python"]).split(".")[:2]


def findings(facts: Mapping[str, Any]) -> list[Finding]:
    """Give what is wrong with facts.

    Parameters
    ----------
    facts : mapping of str to Any
        As in a `Report`.

    Returns
    -------
    list of Finding
        The gravest first.
    """
    found = [
        Finding(topic, sentence, is_fault)
        for topic, judge in _JUDGES.items()
        if topic in facts
        for is_fault, sentence in judge(facts[topic])
    ]
    return sorted(found, key=lambda finding: not finding.is_fault)


Judged = Iterator[tuple[bool, str]]


def _about_versions(versions: Mapping[str, Any]) -> Judged:
    here = versions["here"]
    mine = hepdask_ml.__version__
    for side in _SIDES:
        there = versions[side]
        if there[OURS] != mine:
            has = f"hepdask-ml {there[OURS]}" if there[OURS] else "no hepdask-ml"
            yield True, f"the {side} has {has}: install version {mine} there, as it is here"
        if _minor(there) != _minor(here):
            yield (
                True,
                f"the {side} runs Python {there['python']}, here it is {here['python']}: take the "
                "same environment or container image for both",
            )
        others = [
            name
            for name in PACKAGES
            if name not in {"python", OURS}
            and there[name] != here[name]
            # A scheduler needs none of the numbers.
            and not (side == "scheduler" and name == "numpy")
        ]
        if others:
            yield (
                False,
                f"the {side} has another {', '.join(others)} than is here: take the same "
                "environment or container image for both",
            )
    if versions["different"]:
        yield (
            False,
            f"the {versions['workers']} workers are not alike, as {versions['different'][0]} is "
            "not: a campaign gives no work to those with another hepdask-ml",
        )


def _about_processors(seen: Mapping[str, Any]) -> Judged:
    if seen["threads"] > seen["usable"]:
        yield (
            False,
            f"the worker has {seen['threads']} threads on {seen['usable']} processors: ask for as "
            "many processors, or fewer threads",
        )


def _about_gpus(seen: Mapping[str, Any]) -> Judged:
    asked, got = seen["asked"], len(seen["seen"])
    if got < asked:
        variable = seen["visible"]
        why = "" if variable is None else f" (CUDA_VISIBLE_DEVICES is {variable!r})"
        yield (
            True,
            f"{asked} GPU{'s' if asked > 1 else ''} asked for, but nvidia-smi shows "
            f"{got or 'none'} on the worker{why}: check the queue, and that the container sees "
            "the driver",
        )
    elif asked and not seen["cupy"]:
        yield (
            False,
            "CuPy is not installed where the worker runs, and toys are fitted on its CPU: install "
            "hepdask-ml[gpu] there",
        )


def _about_walltime(seen: Mapping[str, Any]) -> Judged:
    asked, left = seen["asked_s"], seen["left_s"]
    if "fault" in seen:
        yield True, seen["fault"]
    elif asked is not None and left is None:
        yield (
            False,
            "the worker cannot see when its job ends, so that work may be lost there: set "
            "HEPDASK_ML_WALLTIME in options.environment",
        )
    # A worker needs a minute to start.
    elif asked is not None and left < min(0.8 * asked, asked - 120.0):
        yield (
            False,
            f"the job ends in {_span(left)} ({seen['source']}), though {_span(asked)} were asked "
            "for: the queue may allow no more",
        )


def _about_scratch(seen: Mapping[str, Any]) -> Judged:
    folder, free, kind = seen["folder"], seen["free_bytes"], seen["filesystem"] or ""
    advice = "name another folder as options.scratch"
    if seen["fault"]:
        yield True, f"the worker cannot write to {folder} ({seen['fault']}): {advice}"
        return
    if free < LITTLE_SCRATCH_BYTES:
        yield False, f"only {free / 1e6:.0f} MB are free in {folder}: {advice}"
    if kind.startswith(NETWORK_FILESYSTEMS):
        yield False, f"{folder} is on a network ({kind}), which is slow for scratch: {advice}"
    if kind in {"tmpfs", "ramfs"}:
        yield False, f"{folder} is memory ({kind}), and counts as such: {advice}"


def _about_connection(seen: Mapping[str, Any]) -> Judged:
    open_to = [where for where in seen["reach"] if where not in _CLOSED]
    if open_to and not seen["encrypted"]:
        yield (
            False,
            "connections are not encrypted, and whoever reaches the scheduler can run code as you "
            f"(it can be reached from {' and '.join(open_to)}): use certificates, and tls://",
        )


def _about_network(seen: Mapping[str, Any]) -> Judged:
    if seen["round_trip_s"] > SLOW_ROUND_TRIP_S:
        yield (
            False,
            f"a message from worker to scheduler and back takes {seen['round_trip_s']:.2f} s: run "
            "the driver nearer to the workers",
        )
    if seen["bytes_per_s"] < SLOW_BYTES_PER_S:
        yield False, f"the network carries only {seen['bytes_per_s'] / 1e3:.0f} kB/s"


def _about_clock(seen: Mapping[str, Any]) -> Judged:
    if abs(seen["difference_s"]) > LARGE_CLOCK_DIFFERENCE_S + seen["error_s"]:
        yield (
            False,
            f"the clocks of worker and scheduler differ by {seen['difference_s']:.0f} s, and so "
            "will the times in ledgers: tell whoever runs the machines",
        )


_JUDGES: Mapping[str, Callable[[Mapping[str, Any]], Judged]] = {
    "versions": _about_versions,
    "gpus": _about_gpus,
    "scratch": _about_scratch,
    "walltime": _about_walltime,
    "processors": _about_processors,
    "connection": _about_connection,
    "network": _about_network,
    "clock": _about_clock,
}
"""What may be wrong: whether it is a fault, and the sentence; the gravest first."""

_LOOPBACK, _IN_PROCESS = _CLOSED = ("this machine only", "this process only")


def reach(url: str) -> str:
    """Say from where an address can be reached.

    Parameters
    ----------
    url : str
        Address of a scheduler or worker.

    Returns
    -------
    str
        In a few words.

    Examples
    --------
    >>> reach("tls://127.0.0.1:8786"), reach("tcp://10.0.0.1:8786"), reach("tcp://0.0.0.0:8786")
    ('this machine only', 'a private network', 'every network')
    """
    parts = urlsplit(url)
    if parts.scheme == "inproc":
        return _IN_PROCESS
    try:
        address = ip_address(parts.hostname or "0.0.0.0")
    except ValueError:
        return _LOOPBACK if parts.hostname == "localhost" else f"the network of {parts.hostname}"
    if address.is_unspecified:
        return "every network"
    if address.is_loopback:
        return _LOOPBACK
    return "a private network" if address.is_private else "anywhere"


def _clock(client: Client, address: str) -> dict[str, float]:
    """Compare the clocks of worker and scheduler with ours, and so with each other."""
    at_worker = _ahead(lambda: client.run(time.time, workers=[address])[address])
    at_scheduler = _ahead(lambda: client.run_on_scheduler(time.time))  # type: ignore[no-untyped-call]
    return {
        "difference_s": at_worker[0] - at_scheduler[0],
        "error_s": at_worker[1] + at_scheduler[1],
    }


def _ahead(ask: Callable[[], float]) -> tuple[float, float]:
    """By how much a clock is ahead of ours, and how wrong that can be."""
    differences, halves = [], []
    for _ in range(_CLOCKS):
        sent = time.time()
        there = ask()
        halves.append((time.time() - sent) / 2.0)
        differences.append(there - sent - halves[-1])
    return median(differences), median(halves)


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _span(seconds: float) -> str:
    for unit_s, name in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * unit_s:
            return f"{seconds / unit_s:.3g} {name}"
    return f"{seconds:.0f} s"
