"""The program ``hepdask-ml``: parses, asks one question, prints the answer.

Results go to standard output, progress and warnings to standard error.  It returns 0
when done, 1 when the job failed, 2 when the input is wrong, 130 when interrupted; a traceback is
shown with ``--debug`` only.
"""

from __future__ import annotations

import functools
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

import hepdask_ml
from hepdask_ml.errors import HepdaskError, InputError, Interrupted, late
from hepdask_ml.ui import campaigns
from hepdask_ml.ui.kinds import words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hepdask_ml.likelihood.model import CompiledModel

_DEBUG = "hepdask_ml.debug"

CAMPAIGN_OPTIONS = ("ledger", "precision", "max_toys", "scheduler", "site", "dry_run")
"""Options of which one makes a limit a campaign."""


class _Failure(click.ClickException):
    """One sentence and an exit code."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.code = exit_code

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        return self.code


class _Program(click.Group):
    """Turns errors into sentences."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Interrupted as error:
            raise _Failure(str(error), 130) from None
        except HepdaskError as error:
            if ctx.meta.get(_DEBUG):
                raise
            raise _Failure(str(error), error.exit_code) from None
        except KeyboardInterrupt:
            raise _Failure("interrupted before the end: there is no result", 130) from None
        except MemoryError:
            raise _Failure("the memory is exhausted: ask for fewer toys or threads", 1) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own business: usage errors, --help, a reader that has gone
        except Exception as error:  # the last door before the user
            if ctx.meta.get(_DEBUG):
                raise
            kind = type(error).__name__
            raise _Failure(
                f"an error that should not happen ({kind}: {error}): run again with --debug and "
                "report what it prints",
                1,
            ) from None


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM act like Ctrl-C: batch systems send it some seconds before they kill."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        # Some send it several times, and once is enough.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stoppable(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command that takes long end in order when a batch system ends it."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        with _terminated_as_interrupted():
            command(*args, **kwargs)

    return run


def _keep_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = value


def _parse_scan(_: click.Context, __: click.Parameter, value: str) -> list[float] | None:
    try:
        scan = late("config").parse_scan(value)
    except InputError as error:
        raise click.BadParameter(str(error)) from None
    return None if scan is None else list(scan)


_ENGINES = ("auto", "cpu", "gpu")

_SHARED = [
    click.argument("workspace"),
    click.option(
        "--patch",
        multiple=True,
        metavar="FILE[:NAME]",
        help="JSON patch to apply, or NAME out of a patchset; may be repeated.",
    ),
    click.option("--measurement", metavar="NAME", help="Measurement; the first one by default."),
    click.option(
        "--poi", metavar="NAME", help="Parameter of interest; by default the measurement's."
    ),
    click.option(
        "--toys",
        type=click.IntRange(min=1),
        default=10_000,
        show_default=True,
        metavar="N",
        help="Toys of each hypothesis at each point.",
    ),
    click.option(
        "--seed", type=int, default=1, show_default=True, help="Equal seeds give equal toys."
    ),
    click.option(
        "--test-statistic",
        type=click.Choice(["qtilde", "q", "t"]),
        default="qtilde",
        show_default=True,
        help="Test statistic.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="Threads; all processors by default.",
    ),
    click.option(
        "--engine",
        type=click.Choice(_ENGINES),
        default="auto",
        show_default=True,
        help="What throws and fits the toys: a GPU that has to be there, the CPU, or the one that "
        "a short measurement finds the faster.",
    ),
    click.option(
        "--starts",
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        metavar="N",
        help="Fits of a toy at most in each round of the search for its lowest minimum; those "
        "beyond 8 start at random.",
    ),
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Write numbers, toys and plots into this folder.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables."),
    click.option("--quiet", is_flag=True, help="Show no progress."),
    click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_keep_debug,
        help="Show a traceback if something fails.",
    ),
]


def _shared_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_SHARED):
        command = option(command)
    return command


_CHANGES = click.option(
    "-O",
    "--option",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change the site: workers, threads, or an option, as in -O queue=short; may be repeated.",
)


@click.group(
    cls=_Program,
    context_settings={"max_content_width": 100},
    epilog='Shell completion: eval "$(_HEPDASK_ML_COMPLETE=bash_source hepdask-ml)", likewise '
    "with zsh_source or fish_source.",
)
@click.version_option(hepdask_ml.__version__, prog_name="hepdask-ml")
def main() -> None:
    """Limits from toys for HistFactory models, and searches for the best model to train.

    \b
    Examples:
      hepdask-ml limit examples/workspace.json -o limit
      hepdask-ml run configs/search.yaml
    """  # noqa: D301 - the backspace keeps click from filling the lines


@main.command()
@_shared_options
@click.option(
    "--scan",
    default="auto",
    show_default=True,
    callback=_parse_scan,
    metavar="LO:HI:N|auto",
    help="Values of the parameter of interest: N from LO to HI, some with commas between them, or "
    "chosen by the limits.",
)
@click.option(
    "--cl", type=float, default=0.95, show_default=True, help="Confidence level, between 0 and 1."
)
@click.option("--hepdata", is_flag=True, help="With -o: write tables for HEPData, too.")
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Run a campaign that keeps its toys in FILE; the same command again goes on with it.",
)
@click.option(
    "--precision",
    type=float,
    metavar="P",
    help="Run a campaign that throws toys where they are needed, until the relative Monte-Carlo "
    "error of each limit is P; 0.02 by default in a campaign without --scan.",
)
@click.option(
    "--max-toys", type=int, metavar="N", help="Toys in all at most; ten million by default."
)
@click.option(
    "--scheduler", metavar="ADDRESS", help="Run the campaign on the Dask cluster at this address."
)
@click.option(
    "--site",
    metavar="NAME|FILE",
    help="Run the campaign there: a name that `hepdask-ml site list` shows, or a YAML file.",
)
@_CHANGES
@click.option(
    "--dry-run", is_flag=True, help="Show the plan of the campaign and what it will cost; stop."
)
@_stoppable
def limit(
    scan: list[float] | None,
    cl: float,
    hepdata: bool,
    output: Path | None,
    **options: Any,
) -> None:
    """Find the largest signal that WORKSPACE does not exclude, with toys.

    WORKSPACE is a HistFactory JSON file as pyhf writes it, packed with gzip or not, or a URL.
    With a ledger, a precision, or a place to run, the limit becomes a campaign: it can be stopped
    and taken up at any moment, and loses nothing.

    \b
    Examples:
      hepdask-ml limit examples/workspace.json --toys 2000
      hepdask-ml limit BkgOnly.json --patch patchset.json:sbottom_900_550_60 -o limit
      hepdask-ml limit examples/workspace.json --precision 0.05 --ledger my.ledger
    """  # noqa: D301
    if hepdata and output is None:
        raise InputError("--hepdata needs a folder for its tables: give one with -o")
    folder = None if output is None else late("ui.files").writable_folder(output)
    started = perf_counter()
    if any(options[name] for name in CAMPAIGN_OPTIONS):
        context = click.get_current_context()
        if context.get_parameter_source("toys") is click.core.ParameterSource.DEFAULT:
            options["toys"] = None
        found = campaigns.limit({**options, "scan": scan, "cl": cl})
        if found is None:
            return
    else:
        found = _ask("limit", "upper_limit", options, scan=scan or "auto", cl=cl)
    _answer(options, found.to_json(), late("ui.show").limit_view, found)
    if folder is not None:
        seconds = perf_counter() - started
        write = late("ui.files").write_limit
        _list_files(write(found, folder, seconds=seconds, hepdata=hepdata))


@main.command()
@_shared_options
@click.option(
    "--mu", type=float, required=True, help="Value of the parameter of interest to be tested."
)
@_stoppable
def hypotest(mu: float, output: Path | None, **options: Any) -> None:
    """Test whether WORKSPACE excludes one signal strength, with toys.

    \b
    Example:
      hepdask-ml hypotest examples/workspace.json --mu 1
    """  # noqa: D301
    folder = None if output is None else late("ui.files").writable_folder(output)
    started = perf_counter()
    found = _ask("hypotest", "hypotest", options, mu=mu)
    show = late("ui.show")
    _answer(options, show.hypotest_json(found), show.hypotest_view, found)
    if folder is not None:
        seconds = perf_counter() - started
        _list_files(late("ui.files").write_hypotest(found, folder, seconds=seconds))


_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
_QUIET = click.option("--quiet", is_flag=True, help="Show no progress.")
_SHOW_TRACEBACK = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_keep_debug,
    help="Show a traceback if something fails.",
)


@main.command()
@click.argument("config")
@_CHANGES
@click.option(
    "--engine",
    type=click.Choice(_ENGINES),
    help="What throws and fits the toys of a limit, in place of what CONFIG says.",
)
@click.option(
    "--retry-failed", is_flag=True, help="Try the trials of a search again that failed before."
)
@_JSON
@_QUIET
@_SHOW_TRACEBACK
@_stoppable
def run(
    config: str,
    option: tuple[str, ...],
    engine: str | None,
    retry_failed: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the campaign that CONFIG describes, a YAML file; run it again to go on with it.

    \b
    Examples:
      hepdask-ml run configs/toy-limit.yaml
      hepdask-ml run configs/search.yaml
    """  # noqa: D301
    started = perf_counter()
    found, kind, folder = campaigns.configured(
        config, option, engine=engine, retry_failed=retry_failed, quiet=quiet
    )
    words = words_of(kind)
    _answer({"as_json": as_json, "quiet": quiet}, found.to_json(), words.view, found)
    if folder is not None:
        _list_files(words.write(found, folder, seconds=perf_counter() - started))
    if lacking := words.failure(found):
        raise _Failure(lacking, 1)


@main.command()
@click.argument("config")
@click.option(
    "--site",
    "place",
    metavar="NAME|FILE",
    help="Submit to the batch system of this site; by default that of the campaign.",
)
@click.option("--walltime", metavar="TIME", help="Time for the driver; 24 h by default.")
@click.option("--queue", metavar="NAME", help="Queue or partition.")
@click.option("--account", metavar="NAME", help="Account or project that is charged.")
@click.option("--memory", metavar="SIZE", help="Memory for the driver; 2 GB by default.")
@click.option("--nodes", type=click.IntRange(min=1), metavar="N", help="Nodes of an allocation.")
@_CHANGES
@click.option(
    "--chain",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Submit N jobs, each of which waits for the end of the one before and goes on.",
)
@click.option("--after", metavar="JOB", help="Wait for the end of this job.")
@click.option("--dry-run", is_flag=True, help="Show what it would submit, and stop.")
@_JSON
@_SHOW_TRACEBACK
def submit(
    config: str,
    place: str | None,
    option: tuple[str, ...],
    chain: int,
    after: str | None,
    dry_run: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Run the campaign of CONFIG as a batch job, so that this session may end.

    The job runs `hepdask-ml run CONFIG`. Workers are found as CONFIG says: as jobs of their own,
    as processes of the same job, or on all nodes of an allocation.

    \b
    Examples:
      hepdask-ml submit my.yaml --walltime 48h --queue long
      hepdask-ml submit my.yaml --site slurm --walltime 10min --chain 6 --dry-run
    """  # noqa: D301
    late("ui.submit").submit(
        config,
        place,
        option,
        asked,
        chain=chain,
        after=after,
        dry_run=dry_run,
        as_json=as_json,
    )


@main.command()
@click.argument("ledger")
@click.option("--watch", is_flag=True, help="Go on showing it until the campaign is finished.")
@_JSON
@_SHOW_TRACEBACK
def status(ledger: str, watch: bool, as_json: bool) -> None:
    """Show how far the campaign of LEDGER is, while it runs or afterwards.

    \b
    Example:
      hepdask-ml status my.ledger --watch
    """  # noqa: D301
    campaigns.show_status(ledger, watch=watch, as_json=as_json)


@main.command()
@click.argument("ledger")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Write numbers, plots and one page that holds everything into this folder.",
)
@_JSON
@_SHOW_TRACEBACK
def report(ledger: str, output: Path, as_json: bool) -> None:
    """Report what LEDGER holds, finished or not: numbers, plots, and a page in HTML.

    \b
    Example:
      hepdask-ml report my.ledger -o report
    """  # noqa: D301
    folder = late("ui.files").writable_folder(output)
    found, kind, written = campaigns.report(ledger, folder)
    _answer({"as_json": as_json}, found.to_json(), words_of(kind).view, found)
    _list_files(written)


@main.command()
@click.argument("out")
@click.argument("ledgers", nargs=-1, required=True)
@_JSON
@_SHOW_TRACEBACK
def merge(out: str, ledgers: tuple[str, ...], as_json: bool) -> None:
    """Merge LEDGERS of one campaign into OUT, which is made or grows.

    Toys of the same seed are the same toys and count once; ledgers that differ by the seed alone
    hold independent toys, which add up.  Merging twice changes nothing.

    \b
    Example:
      hepdask-ml merge all.ledger monday.ledger tuesday.ledger
    """  # noqa: D301
    campaigns.merge(out, ledgers, as_json=as_json)


@main.command()
@click.option(
    "--loadJson",
    "config",
    required=True,
    metavar="FILE",
    help="Configuration of the project, as phpo reads it.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change an option of the configuration, as in --set maxPoints=20; may be repeated.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="PLACE",
    help="Folder, file or URL of the training data, in place of the folder that is called as "
    "trainingDS is; may be repeated.",
)
@click.option(
    "--bare",
    is_flag=True,
    help="Run the commands without the containers that the configuration names.",
)
@click.option(
    "--optimiser",
    metavar="NAME",
    help="Propose points with this one in place of the steering command.",
)
@click.option(
    "--objective",
    "objectives",
    multiple=True,
    default=("loss",),
    show_default=True,
    metavar="NAME",
    help="Name of the loss; may be repeated where payloads write several.",
)
@click.option(
    "--model-id",
    is_flag=True,
    help="Write the parameters of a segment as [model_id, {...}].",
)
@click.option("--retry-failed", is_flag=True, help="Try trials again that failed before.")
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep the trials in FILE, called as outDS is by default; the same command again goes on "
    "with it.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="DIR",
    help="Keep metrics, metadata and what payloads say in this folder.",
)
@click.option(
    "--scheduler", metavar="ADDRESS", help="Run the payloads on the Dask cluster at this address."
)
@click.option(
    "--site",
    metavar="NAME|FILE",
    help="Run the payloads there: a name that `hepdask-ml site list` shows, or a YAML file.",
)
@_CHANGES
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Payloads at once on this machine; nParallelEvaluation by default.",
)
@_JSON
@_QUIET
@_SHOW_TRACEBACK
@_stoppable
def phpo(**options: Any) -> None:
    """Run a project of phpo, the program for hyperparameter optimisation on PanDA, unchanged.

    Its steering command runs here, its evaluation commands on the workers: in containers if the
    configuration names them, and bare otherwise.

    \b
    Examples:
      hepdask-ml phpo --loadJson config.json
      hepdask-ml phpo --loadJson config.json --bare --set maxPoints=50 --site slurm
    """  # noqa: D301
    found = late("ui.phpo").run(options)
    if found is not None:
        words = words_of("search")
        _answer(options, found.to_json(), words.view, found)
        if lacking := words.failure(found):
            raise _Failure(lacking, 1)


@main.command()
@click.argument("ledger")
@click.option(
    "--to",
    "trackers",
    multiple=True,
    required=True,
    metavar="TRACKER",
    help="Who is told: mlflow, mlflow:URI, mlflow:URI#EXPERIMENT, tensorboard:FOLDER or csv:FILE; "
    "may be repeated.",
)
@_SHOW_TRACEBACK
@_stoppable
def track(ledger: str, trackers: tuple[str, ...]) -> None:
    """Tell trackers such as MLflow what the LEDGER of a search holds.

    Nothing is told twice: it goes on where the search, or an earlier call, has stopped.

    \b
    Example:
      hepdask-ml track search.ledger --to csv:trials.csv
    """  # noqa: D301
    late("hpo.tracking").follow(ledger, trackers)
    click.echo(f"told {', '.join(trackers)} all of {ledger}", err=True)


@main.command()
@click.argument("features", type=click.Path())
@click.argument("files", type=click.Path(), nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Keep the scan in FILE, and take up the one that is there if it is of the same files and "
    "features.",
)
@click.option(
    "--tree", metavar="NAME", help="Tree to read, wherever none is given with a file or FEATURES."
)
@click.option(
    "--redirector",
    "redirectors",
    multiple=True,
    metavar="URL",
    help="Server that knows logical names such as /store/...; may be repeated.",
)
@click.option(
    "--skip-unreadable", is_flag=True, help="Pass over files that no copy of can be read."
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads that read; all processors by default.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Read on the Dask cluster at this address.")
@click.option(
    "--site",
    metavar="NAME|FILE",
    help="Read there: a name that `hepdask-ml site list` shows, or a YAML file.",
)
@_CHANGES
@_JSON
@_QUIET
@_SHOW_TRACEBACK
@_stoppable
def scan(**options: Any) -> None:
    """Look once at all events of FILES, and say what the FEATURES are like.

    FEATURES is a YAML file that says what tensors are made of. FILES are ROOT files, patterns, URLs
    and logical names, with the tree as in file.root:Events or without, or file sets of coffea in
    JSON or YAML. For each field there are mean, width, quantiles and missing numbers, for each list
    the slots that hold all its items in so many percent of the events.

    \b
    Examples:
      hepdask-ml scan configs/features.yaml 'nano/*.root' -o scan.json
      hepdask-ml scan features.yaml fileset.json -o scan.json --site slurm -O workers=50
    """  # noqa: D301
    late("ui.data").scan(options)


@main.command()
@click.argument("config", type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the workspace into FILE; by default it is printed, and the report goes to standard "
    "error.",
)
@click.option(
    "--source",
    type=click.Choice(["folder", "inputs"]),
    default="folder",
    show_default=True,
    help="Take histograms from the HistogramFolder, where cabinetry has put them, or from the ROOT "
    "files of InputPath.",
)
@click.option(
    "--folder",
    type=click.Path(),
    default=".",
    metavar="DIR",
    help="Folder where relative paths in CONFIG begin; the working directory by default.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="With -o: print the report as JSON instead of text."
)
@_SHOW_TRACEBACK
def workspace(config: str, output: str | None, source: str, folder: str, as_json: bool) -> None:
    """Build a workspace of CONFIG, a YAML file of cabinetry, and of the histograms that it names.

    The report says all that was done to them, and which bins are empty or negative. cabinetry
    itself is not needed.

    \b
    Examples:
      hepdask-ml workspace config.yml -o workspace.json
      hepdask-ml workspace config.yml --source inputs -o workspace.json --json
    """  # noqa: D301
    late("ui.data").workspace(config, output, source=source, folder=folder, as_json=as_json)


def _parse_duration(_: click.Context, __: click.Parameter, value: str) -> float:
    try:
        return float(late("config").parse_duration(value))
    except InputError as error:
        raise click.BadParameter(str(error)) from None


@main.group()
def site() -> None:
    """List the places to run, look at one, or try whether it works.

    \b
    Example:
      hepdask-ml site check slurm -O queue=short
    """  # noqa: D301


@site.command("list")
@_JSON
@_SHOW_TRACEBACK
def list_sites(as_json: bool) -> None:
    """List the sites that have a name.

    \b
    Example:
      hepdask-ml site list
    """  # noqa: D301
    late("ui.sites").list_sites(as_json=as_json)


@site.command("show")
@click.argument("place", metavar="NAME|FILE")
@_CHANGES
@click.option("--dry-run", is_flag=True, help="Show what it would submit instead.")
@_JSON
@_SHOW_TRACEBACK
def show_site(place: str, option: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Show the settings of a site, and where each of them comes from.

    \b
    Examples:
      hepdask-ml site show cern-lxbatch
      hepdask-ml site show slurm -O queue=short -O walltime=01:00:00 --dry-run
    """  # noqa: D301
    late("ui.sites").show_site(place, option, dry_run=dry_run, as_json=as_json)


@site.command("check")
@click.argument("place", metavar="NAME|FILE")
@_CHANGES
@click.option(
    "--timeout",
    default="10min",
    show_default=True,
    callback=_parse_duration,
    metavar="TIME",
    help="Wait so long for the worker: 90s, 10min, 2h or HH:MM:SS.",
)
@click.option("--dry-run", is_flag=True, help="Show what it would submit, and stop.")
@_JSON
@_QUIET
@_SHOW_TRACEBACK
@_stoppable
def check_site(
    place: str,
    option: tuple[str, ...],
    timeout: float,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Start one worker of a site for real, and say what it sees and what is wrong.

    It looks at versions on both sides, processors, memory, GPUs, the walltime, scratch, and the
    network between worker and scheduler.  The exit code is 0 if the site works, and 1 if not.

    \b
    Examples:
      hepdask-ml site check local
      hepdask-ml site check slurm -O queue=short -O gpus=1 --timeout 1h
    """  # noqa: D301
    sites = late("ui.sites")
    if dry_run:
        made, settings = sites.one_worker(place, option)
        sites.show_script(made, settings, place, as_json=as_json)
        return
    found = sites.check_site(place, option, timeout, as_json=as_json, quiet=quiet)
    if not found.ok:
        raise _Failure(found.sentence, 1)


def _ask(module: str, question: str, options: dict[str, Any], **more: Any) -> Any:
    """Compile the workspace and ask one question of it, with a progress bar."""
    show = late("ui.show")
    model: CompiledModel = late("likelihood.compile").compile_model(
        options["workspace"],
        poi=options["poi"],
        measurement=options["measurement"],
        patch=list(options["patch"]),
    )
    keys = ("toys", "seed", "test_statistic", "threads", "starts", "engine")
    with show.ToyProgress(quiet=options["quiet"]) as progress:
        ask = getattr(late(f"inference.{module}"), question)
        return ask(model, progress=progress, **{key: options[key] for key in keys}, **more)


def _answer(
    options: dict[str, Any], document: dict[str, Any], view: Callable[[Any], Any], found: Any
) -> None:
    show = late("ui.show")
    if options["as_json"]:
        click.echo(show.json_text(document), nl=False)
    else:
        show.Console(file=sys.stdout).print(view(found))
    console = show.Console(file=sys.stderr)
    engine = getattr(found, "engine", "")
    if engine and not options.get("quiet"):
        console.print(show.engine_view(engine))
    console.print(show.warning_view(found.warnings))


def _list_files(paths: list[Path]) -> None:
    for path in paths:
        click.echo(f"wrote {path}", err=True)
