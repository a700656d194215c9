"""The files of a limit: limit.json, run.json, toys.parquet, plots, and tables for HEPData.

Each file is written beside its place and then moved there, so that a reader never sees half of one.
What depends on the machine or the time goes to run.json alone; the others are equal for equal runs.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import hepdask_ml
from hepdask_ml.errors import InputError, late
from hepdask_ml.inference.pvalues import BANDS
from hepdask_ml.likelihood.fit import FitStatus, available_processors
from hepdask_ml.likelihood.kernels import instruction_set
from hepdask_ml.ui.show import hypotest_json, json_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hepdask_ml.inference.hypotest import HypoTest
    from hepdask_ml.inference.limit import Limit
    from hepdask_ml.inference.pvalues import Measured


def writable_folder(folder: Path) -> Path:
    """Make a folder and see that it can be written to, before hours of toys.

    Parameters
    ----------
    folder : Path
        The folder; made with its parents if missing.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    InputError
        If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def write_limit(limit: Limit, folder: Path, *, seconds: float, hepdata: bool = False) -> list[Path]:
    """Write every file of a limit.

    Parameters
    ----------
    limit : Limit
        The limit.
    folder : Path
        Where to.
    seconds : float
        What it took, for run.json.
    hepdata : bool
        Whether to write tables for HEPData, too.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputError
        If one cannot be written.
    """
    plots = late("ui.plots")
    written = [
        write_text(folder / "limit.json", json_text(limit.to_json())),
        _write_toys(folder / "toys.parquet", list(limit.points)),
        *write_figure(plots.limit(limit), folder, "limit", ("png", "pdf")),
        *write_figure(plots.test_statistic(nearest_point(limit)), folder, "q", ("png",)),
        write_text(folder / "run.json", json_text(_run(seconds, limit.toys, limit.engine))),
    ]
    return written + (_write_hepdata(limit, folder / "hepdata") if hepdata else [])


def write_hypotest(test: HypoTest, folder: Path, *, seconds: float) -> list[Path]:
    """Write every file of a hypothesis test.

    Parameters
    ----------
    test : HypoTest
        The test.
    folder : Path
        Where to.
    seconds : float
        What it took, for run.json.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputError
        If one cannot be written.
    """
    toys = len(test.toys_sb.q) + len(test.toys_b.q)
    return [
        write_text(folder / "hypotest.json", json_text(hypotest_json(test))),
        _write_toys(folder / "toys.parquet", [test]),
        *write_figure(late("ui.plots").test_statistic(test), folder, "q", ("png",)),
        write_text(folder / "run.json", json_text(_run(seconds, toys, test.engine))),
    ]


def nearest_point(limit: Limit) -> HypoTest:
    """Give the point of a scan that lies nearest to the limit.

    Parameters
    ----------
    limit : Limit
        The limit.

    Returns
    -------
    HypoTest
        Nearest to the observed limit, to the expected one if that is unknown, or the middle point.
    """
    for known in (limit.observed.value, limit.expected[BANDS.index(0)].value):
        if np.isfinite(known):
            return min(limit.points, key=lambda point: abs(point.mu - known))
    return limit.points[len(limit.points) // 2]


def run_document(seconds: float, **counts: int) -> dict[str, Any]:
    """Say how a result came about: what depends on the machine and the time.

    Parameters
    ----------
    seconds : float
        What it took.
    **counts
        What was done in that time, by name: the document tells how much of it in a second.

    Returns
    -------
    dict
        What ``run.json`` holds.
    """
    return {
        "schema": "hepdask-ml/run/1",
        "command": sys.argv,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        **{
            f"{name}_per_second": round(count / seconds, 1) if seconds > 0 else None
            for name, count in counts.items()
        },
        "processors": available_processors(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "version": hepdask_ml.__version__,
    }


def _run(seconds: float, toys: int, engine: str) -> dict[str, Any]:
    about = run_document(seconds, toys=toys)
    return {**about, "engine": engine, "instruction_set": instruction_set()}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as a Parquet file.

    Parameters
    ----------
    path : Path
        Its file.
    rows : list of dict
        All with the same keys, at least one.  A column of values of several types becomes text.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = {}
    for name, values in columns.items():
        try:
            arrays[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            texts = [None if value is None else str(value) for value in values]
            arrays[name] = pa.array(texts, pa.string())
    with _moved_into_place(path) as part:
        pq.write_table(pa.table(arrays), part)
    return path


def _write_toys(path: Path, tests: list[HypoTest]) -> Path:
    """Write one row for each toy, one row group for each point of the scan."""
    names = [status.name.lower() for status in FitStatus]
    kinds = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema(
        [
            ("poi", pa.float64()),
            ("hypothesis", kinds),
            ("index", pa.int64()),
            ("q", pa.float64()),
            ("poi_hat", pa.float64()),
            ("status", kinds),
        ]
    )
    with _moved_into_place(path) as part, pq.ParquetWriter(part, schema) as writer:
        for test in tests:
            for code, toys in enumerate((test.toys_sb, test.toys_b)):
                n = len(toys.q)
                columns = [
                    pa.array(np.full(n, test.mu)),
                    pa.DictionaryArray.from_arrays(np.full(n, code, np.int8), ["sb", "b"]),
                    pa.array(np.arange(n)),
                    pa.array(toys.q),
                    pa.array(toys.poi_hat),
                    pa.DictionaryArray.from_arrays(toys.status, names),
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return path


def write_figure(figure: Any, folder: Path, name: str, kinds: tuple[str, ...]) -> list[Path]:
    """Write a figure in some formats.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    folder : Path
        Where to.
    name : str
        Name of the files.
    kinds : tuple of {"png", "pdf"}
        Formats.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputError
        If one cannot be written.
    """
    paths = [folder / f"{name}.{kind}" for kind in kinds]
    for path in paths:
        with _moved_into_place(path) as part:
            late("ui.plots").save(figure, part, path.suffix[1:])
    return paths


def _write_hepdata(limit: Limit, folder: Path) -> list[Path]:
    """Write a submission: the limits, and CLs along the scan."""
    writable_folder(folder)
    tables = {
        "limits": ("Upper limits", _hepdata_limits(limit)),
        "cls": ("CLs along the scan", _hepdata_scan(limit)),
    }
    general = {"comment": f"{100 * limit.cl:g} % CL upper limit on {limit.poi} from toys"}
    entries = [
        {
            "name": title,
            "description": f"{title}, {_toys_text(limit)}",
            "keywords": [{"name": "observables", "values": ["CLS"]}],
            "data_file": f"{name}.yaml",
        }
        for name, (title, _) in tables.items()
    ]
    written = [
        write_text(folder / f"{name}.yaml", yaml.safe_dump(table, sort_keys=False))
        for name, (_, table) in tables.items()
    ]
    submission = yaml.safe_dump_all([general, *entries], sort_keys=False)
    return [*written, write_text(folder / "submission.yaml", submission)]


def _toys_text(limit: Limit) -> str:
    if limit.toys_per_point is None:
        return f"{limit.toys} toys"
    return f"{limit.toys_per_point} toys per hypothesis and point"


def _hepdata_limits(limit: Limit) -> dict[str, Any]:
    labels = ["observed", *(f"expected {band:+d} sigma" if band else "expected" for band in BANDS)]
    return {
        "independent_variables": [
            {"header": {"name": "Limit"}, "values": [{"value": label} for label in labels]}
        ],
        "dependent_variables": [
            {
                "header": {"name": f"Upper limit on {limit.poi}"},
                "values": [_hepdata_value(value) for value in (limit.observed, *limit.expected)],
            }
        ],
    }


def _hepdata_scan(limit: Limit) -> dict[str, Any]:
    columns = {"CLs, observed": [point.cls for point in limit.points]}
    for i, band in enumerate(BANDS):
        name = f"CLs, expected {band:+d} sigma" if band else "CLs, expected"
        columns[name] = [point.expected[i] for point in limit.points]
    return {
        "independent_variables": [
            {
                "header": {"name": limit.poi},
                "values": [{"value": point.mu} for point in limit.points],
            }
        ],
        "dependent_variables": [
            {"header": {"name": name}, "values": [_hepdata_value(value) for value in values]}
            for name, values in columns.items()
        ],
    }


def _hepdata_value(measured: Measured) -> dict[str, Any]:
    if not np.isfinite(measured.value):
        return {"value": "-"}
    if not measured.error > 0.0:  # unknown, or zero, which HEPData takes for a mistake
        return {"value": measured.value}
    error = {"symerror": measured.error, "label": "MC stat"}
    return {"value": measured.value, "errors": [error]}


def write_text(path: Path, text: str) -> Path:
    """Write a text.

    Parameters
    ----------
    path : Path
        Its file.
    text : str
        The text.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    with _moved_into_place(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


@contextmanager
def _moved_into_place(path: Path) -> Iterator[Path]:
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        part.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(f"{path} cannot be written ({reason}): choose another folder with -o")
