"""What the command line does with projects of phpo."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

from hepdask_ml.errors import InputError, late

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hepdask_ml.hpo.phpo import Project
    from hepdask_ml.hpo.summary import SearchResult


def run(options: Mapping[str, Any]) -> SearchResult | None:
    """Run a project of phpo.

    Parameters
    ----------
    options : mapping
        Of the command ``phpo``.

    Returns
    -------
    SearchResult or None
        None if the project wants to be looked at alone.
    """
    reader = late("hpo.phpo")
    project: Project = reader.read_project(
        options["config"],
        changes=changes_of(options["changes"]),
        data=options["data"],
        bare=options["bare"],
        optimiser=options["optimiser"],
        objectives=options["objectives"],
        model_id=options["model_id"],
        ledger=options["ledger"],
        output=options["output"],
        retry_failed=options["retry_failed"],
    )
    show = late("ui.show")
    show.Console(file=sys.stderr).print(show.warning_view(list(project.warnings)))
    campaigns = late("ui.campaigns")
    place = campaigns.site_asked(options)
    if place is None and project.payload.container is not None:
        reader.program_of(project.payload.container)  # before a trial is spent
    if not project.submit:
        sys.stderr.write("noSubmit is set: nothing was run\n")
        return None
    threads = options["threads"] or project.workers
    return cast(
        "SearchResult", campaigns.run(project.search, place, threads, quiet=options["quiet"])
    )


def changes_of(written: Sequence[str]) -> dict[str, str]:
    """Read changes of a project's options.

    Parameters
    ----------
    written : sequence of str
        ``NAME=VALUE``, as ``--set`` takes it.

    Returns
    -------
    dict
        The values, as text.

    Raises
    ------
    InputError
        If one has no name.
    """
    found: dict[str, str] = {}
    for each in written:
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise InputError(f"--set {each} has no name or no value: write it as NAME=VALUE")
        found[name] = value
    return found
