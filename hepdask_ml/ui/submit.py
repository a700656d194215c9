"""What ``hepdask-ml submit`` does: the driver of a campaign as a job of a batch system."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hepdask_ml.errors import InputError, late

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hepdask_ml.config import Settings, SiteSettings
    from hepdask_ml.facility.driver_job import DriverJob
    from hepdask_ml.facility.systems import BatchOptions

DRIVER = {"memory": "2 GB", "walltime": "24 h"}
"""What a driver asks for whose workers are elsewhere."""


def driver_job(
    config: str, settings: Settings, place: str | None, changes: Sequence[str], **asked: Any
) -> DriverJob:
    """Make the job that runs the driver of a campaign.

    Parameters
    ----------
    config : str
        File of the campaign.
    settings : Settings
        What is in it.
    place : str or None
        Site whose batch system takes the job; that of the campaign if None.
    changes : sequence of str
        ``NAME=VALUE`` for that site.
    **asked
        Options of the job itself, in place of the site's; those that are None are not asked for.

    Returns
    -------
    DriverJob
        Not submitted yet.

    Raises
    ------
    InputError
        If the site has no batch system, or it is not known how large the job is.
    """
    site = late("facility.site")
    overrides = late("ui.sites").overrides(changes)
    own = site.settled(settings.site, **({} if place else overrides))
    taker = site.settled(place, **overrides) if place else own
    asked = {name: value for name, value in asked.items() if value is not None}
    if taker.kind != "allocation" and "nodes" in asked:
        raise InputError("--nodes is for a site of the kind allocation: leave it out")
    if taker.kind != own.kind == "allocation":
        raise InputError(
            f"{config}: the site is an allocation, which is the job itself: leave out --site and "
            "set options.system"
        )
    system = _system(taker, config)
    size: dict[str, Any] = {}
    cores = 1
    if own.kind == "local":
        if own.workers is None:
            raise InputError(
                f"{config}: site.workers is not set: say how many worker processes the job has "
                "room for"
            )
        cores = own.workers * (own.threads or 1)
        size["memory"] = late("config").parse_size(DRIVER["memory"]) * own.workers
    options = _options(taker, size, asked)
    words = ["-m", "hepdask_ml", "run", str(Path(config).absolute()), "--quiet"]
    if not place:
        # What is said of the site here has to hold where it is opened.
        words += [word for text in changes for word in ("-O", text)]
    job: DriverJob = late("facility.driver_job").DriverJob(
        system,
        options,
        cores,
        tuple(words),
        Path.cwd(),
        workers=taker.workers,
        threads=taker.threads or 1,
    )
    return job


def submit(
    config: str,
    place: str | None,
    changes: Sequence[str],
    asked: Mapping[str, Any],
    *,
    chain: int,
    after: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Submit the driver of a campaign, and print what to look at.

    Parameters
    ----------
    config, place, changes, asked
        As for `driver_job`.
    chain : int
        Jobs, each of which waits for the one before.
    after : str or None
        Job for which the first waits.
    dry_run : bool
        Print the scripts instead.
    as_json : bool
        As JSON.
    """
    settings = late("config").read_settings(config)
    job = driver_job(config, settings, place, changes, **asked)
    document: dict[str, Any] = {"schema": "hepdask-ml/submit/1", "system": job.system}
    if dry_run:
        scripts = job.scripts(chain, after)
        if as_json:
            sys.stdout.write(late("ui.show").json_text({**document, "scripts": scripts}))
        else:
            sys.stdout.write("\n".join(scripts))
        return
    jobs = job.submit(chain, after)
    watch = f"hepdask-ml status {shlex.quote(settings.ledger)} --watch"
    if as_json:
        document |= {"jobs": jobs, "logs": str(job.logs), "ledger": settings.ledger}
        sys.stdout.write(late("ui.show").json_text({**document, "status": watch}))
        return
    named = "job" if len(jobs) == 1 else "jobs"
    title = late("facility.systems").SYSTEMS[job.system].title
    sys.stdout.write(
        f"submitted {named} {', '.join(jobs)} to {title}\n"
        f"what is printed goes to {job.logs}\n"
        f"how far it is: {watch}\n"
    )


def _system(taker: SiteSettings, config: str) -> str:
    """Give the batch system of a site."""
    systems = late("facility.systems").SYSTEMS
    if taker.kind in systems:
        return taker.kind
    if taker.kind != "allocation":
        raise InputError(
            f"{config}: the site {taker.kind} has no batch system: name one that takes the driver "
            f"with --site ({', '.join(systems)}, or a site of these)"
        )
    system = taker.options.get("system")
    if system is None:
        raise InputError(
            f"{config}: the allocation does not say which batch system gives it: set "
            f"options.system to one of {', '.join(systems)}"
        )
    return str(system)


def _options(
    taker: SiteSettings, size: Mapping[str, Any], asked: Mapping[str, Any]
) -> BatchOptions:
    """Settle what is asked for the job."""
    if taker.kind == "allocation":
        lower: dict[str, Any] = {**taker.options}
    else:
        # The site's own walltime, memory and resources are those of a worker.
        own = {key: value for key, value in taker.options.items() if key not in _OF_WORKERS}
        lower = {**own, **DRIVER, **size}
    settings = replace(taker, options={**lower, **asked})
    made: BatchOptions = late("facility.site").site(settings).options
    return made


_OF_WORKERS = {"walltime", "memory", "resources", "gpus", "gpu_type", "workers_per_job"}
