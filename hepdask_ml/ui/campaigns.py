"""What the command line does with campaigns: runs them somewhere, and looks into their ledgers."""

from __future__ import annotations

import logging
import sys
from json import dumps
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hepdask_ml.errors import CampaignError, InputError, Interrupted, SiteError, late
from hepdask_ml.ui.kinds import words_of

WATCH_S = 2.0
"""Time between two looks into a ledger."""

LEAVE_S = 20.0
"""Time in seconds before the end of the driver's own job at which it stops."""

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hepdask_ml.campaign.campaign import Campaign, Status
    from hepdask_ml.campaign.ledger import Ledger
    from hepdask_ml.config import SiteSettings
    from hepdask_ml.inference.limit import Limit

Result = TypeVar("Result")


def limit(options: Mapping[str, Any]) -> Limit | None:
    """Run the campaign of a limit, or only show its plan.

    Parameters
    ----------
    options : mapping
        Of the command ``limit``.

    Returns
    -------
    Limit or None
        None after a dry run.
    """
    names = (
        "ledger", "precision", "max_toys", "scan", "toys", "cl", "test_statistic", "seed", "starts",
        "engine", "poi", "measurement",
    )  # fmt: skip
    campaign: Campaign[Limit] = late("limits.campaign").toy_limit(
        options["workspace"],
        patch=list(options["patch"]),
        **{name: options[name] for name in names},
    )
    if options["dry_run"]:
        show_plan(campaign, as_json=options["as_json"])
        return None
    return run(campaign, site_asked(options), options["threads"], quiet=options["quiet"])


def configured(
    path: str,
    changes: Sequence[str] = (),
    *,
    engine: str | None = None,
    retry_failed: bool = False,
    quiet: bool,
) -> tuple[Any, str, Path | None]:
    """Run the campaign that a file describes.

    Parameters
    ----------
    path : str
        YAML file.
    changes : sequence of str
        ``NAME=VALUE`` for its site.
    engine : str or None
        In place of the file's; for limits.
    retry_failed : bool
        Try again what was given up.
    quiet : bool
        Show no progress.

    Returns
    -------
    found : Limit or SearchResult
        The result.
    kind : str
        Kind of the campaign.
    output : Path or None
        The folder for it, if one was named; it can be written to.
    """
    settings = late("config").read_settings(path)
    output = None
    if settings.output is not None:
        output = late("ui.files").writable_folder(Path(settings.output))
    place = late("facility.site").settled(settings.site, **late("ui.sites").overrides(changes))
    campaign = words_of(settings.kind).campaign(settings, engine=engine, retry_failed=retry_failed)
    return run(campaign, place, None, quiet=quiet), settings.kind, output


def run(
    campaign: Campaign[Result], place: SiteSettings | None, threads: int | None, *, quiet: bool
) -> Result:
    """Run a campaign with a progress bar.

    Parameters
    ----------
    campaign : Campaign
        The campaign.
    place : SiteSettings or None
        Where; on worker processes of this machine if None, or in this process without a ledger.
    threads : int or None
        Processors of this machine to use; all if None.
    quiet : bool
        Show no progress.

    Returns
    -------
    Result
        The result.

    Raises
    ------
    Interrupted
        If it was interrupted; the message tells what is kept.
    CampaignError
        If the walltime of this process's own job is near, likewise.
    """
    in_memory = campaign.path == late("campaign.ledger").MEMORY
    campaign.check()
    if campaign.finished:
        return campaign.results()
    faults: dict[str, None] = {}
    end = late("facility.node").end()
    # What goes wrong is said in a sentence; Dask would tell it in tracebacks.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        with late("ui.watch").CampaignProgress(quiet=quiet) as progress:

            def watch(ledger: Ledger, status: Status) -> None:
                progress(ledger, status)
                faults.update(dict.fromkeys(status.faults))
                if not in_memory and end.left() < LEAVE_S:
                    raise Interrupted("the walltime is near")

            if place is None and in_memory:
                processors = late("likelihood.fit").available_processors()
                return cast("Result", campaign.run(threads=threads or processors, watch=watch))
            settings = place or late("config").SiteSettings(workers=threads)
            with late("facility.site").site(settings).open() as client:
                return cast("Result", campaign.run(client, watch=watch))
    except SiteError as error:
        # Once is enough; the error names one worker for all that say the same.
        for fault in [fault for fault in faults if fault.split(" ", 2)[2] in str(error)]:
            del faults[fault]
        raise
    except Interrupted:
        # Nobody has pressed Ctrl-C: for the batch system the job has failed.
        raise CampaignError(
            f"the walltime is near: {_kept(campaign)}, the same command again goes on"
        ) from None
    except KeyboardInterrupt:
        if in_memory:
            raise Interrupted("interrupted before the end: there is no result") from None
        raise Interrupted(
            f"interrupted: {_kept(campaign)}, the same command again goes on"
        ) from None
    finally:
        show = late("ui.show")
        show.Console(file=sys.stderr).print(show.warning_view(list(faults)))


def show_plan(campaign: Campaign[Limit], *, as_json: bool) -> None:
    """Print what a campaign will do.

    Parameters
    ----------
    campaign : Campaign
        The campaign.
    as_json : bool
        As JSON.
    """
    show = late("ui.show")
    plan = late("limits.forecast").forecast(campaign)
    if as_json:
        sys.stdout.write(show.json_text(show.forecast_json(plan)))
    else:
        show.Console(file=sys.stdout).print(show.forecast_view(plan))


def show_status(path: str, *, watch: bool, as_json: bool) -> None:
    """Print how far a campaign is.

    Parameters
    ----------
    path : str
        File of its ledger.
    watch : bool
        Go on until it is finished.
    as_json : bool
        As JSON; with ``watch`` one document a line.
    """
    show = late("ui.show")
    if watch and not as_json:
        late("ui.watch").follow(path)
        return
    with late("campaign.ledger").read_ledger(path) as ledger:
        while watch:
            sys.stdout.write(dumps(show.status_json(ledger)) + "\n")
            sys.stdout.flush()
            if late("ui.watch").settled(ledger):
                return
            sleep(WATCH_S)
        if as_json:
            sys.stdout.write(show.json_text(show.status_json(ledger)))
        else:
            show.Console(file=sys.stdout).print(show.status_view(ledger))


def report(path: str, folder: Path) -> tuple[Any, str, list[Path]]:
    """Report what a ledger holds.

    Parameters
    ----------
    path : str
        Its file.
    folder : Path
        Where to.

    Returns
    -------
    found : Limit or SearchResult
        The result, as far as it is known.
    kind : str
        Kind of the campaign.
    written : list of Path
        The files.
    """
    with late("campaign.ledger").read_ledger(path) as ledger:
        kind = ledger.identity.kind
        found, written = words_of(kind).report(ledger, folder)
    return found, kind, written


def merge(out: str, sources: Sequence[str], *, as_json: bool) -> None:
    """Merge ledgers, and print what came of it.

    Parameters
    ----------
    out : str
        File of the ledger that takes the others.
    sources : sequence of str
        Files of the others.
    as_json : bool
        As JSON.
    """
    show = late("ui.show")
    with late("campaign.ledger").read_ledger(sources[0]) as first:
        kind = first.identity.kind
    ledger, new = words_of(kind).merged(out, sources)
    with ledger:
        done, seeds = ledger.progress().done, ledger.identity.seeds
    if as_json:
        document = {"schema": "hepdask-ml/merge/1", "ledger": out, "new": new, "toys": done}
        sys.stdout.write(show.json_text({**document, "seeds": list(seeds)}))
        return
    names = show.seed_text(seeds[0] if len(seeds) == 1 else seeds)
    sys.stdout.write(f"{out}: {new:,} new toys, {done:,} in all, {names}\n")


def _kept(campaign: Campaign[Any]) -> str:
    kept = words_of(campaign.identity.kind).kept_text(campaign)
    return f"{kept} are in {campaign.path}"


def site_asked(options: Mapping[str, Any]) -> SiteSettings | None:
    """Give the settings of the place that --site or --scheduler name.

    Parameters
    ----------
    options : mapping
        ``site``, ``scheduler``, ``option`` and ``threads`` of a command.

    Returns
    -------
    SiteSettings or None
        None if neither is given.

    Raises
    ------
    InputError
        If both are, or a change of no site.
    """
    place, address = options["site"], options["scheduler"]
    changes = late("ui.sites").overrides(options["option"])
    if place is not None and address is not None:
        raise InputError("--site and --scheduler name two places: give one of them")
    if place is None and address is None:
        if changes:
            raise InputError("-O changes a site: name one with --site")
        return None
    if place is not None and options["threads"] is not None:
        changes.setdefault("workers", options["threads"])
    if address is not None:
        place = late("config").SiteSettings("scheduler", options={"address": address})
    return cast("SiteSettings", late("facility.site").settled(place, **changes))
