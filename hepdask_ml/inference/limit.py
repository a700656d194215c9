"""Upper limits: where CLs crosses 1 - CL along a scan, with bands and Monte-Carlo errors."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from math import hypot, isfinite, log, nan
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

import hepdask_ml
from hepdask_ml.errors import InputError, late
from hepdask_ml.inference.asymptotics import Asymptotic
from hepdask_ml.inference.hypotest import (
    DEFAULT_TOYS,
    LIMIT_STATISTICS,
    Experiment,
    HypoTest,
    checked_poi,
    choose_engine,
    number,
    prepare,
    test_point,
    unconverged_warning,
)
from hepdask_ml.inference.pvalues import BAND_NAMES, BANDS, UNDEFINED, Measured
from hepdask_ml.inference.statistics import checked_test_statistic
from hepdask_ml.inference.toys import ToySettings
from hepdask_ml.likelihood.fit import DEFAULT_STARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from hepdask_ml.inference.engines import Choice, Engine
    from hepdask_ml.inference.toys import Progress

    Floats = NDArray[np.float64]

SCHEMA = "hepdask-ml/limit/1"
AUTO_POINTS = 11
MAX_EXTENSIONS = 24
STRETCH = 1.4
_ROOT_TOLERANCE = 1e-4
_SMALLEST = 1e-15
_VAGUE = 0.2
"""Monte-Carlo error, as part of a limit, from which the reader is told."""

_APART = 3.0
_ALIKE = 0.02
"""Standard errors, and part of the limit, by which toys and asymptotics may differ untold."""


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """An upper limit with its bands and the scan behind it.

    Attributes
    ----------
    poi : str
        Name of the parameter of interest.
    cl : float
        Confidence level.
    test_statistic : str
        ``"qtilde"``, ``"q"`` or ``"t"``.
    seed : int or tuple of int
        Seed of the toys; several where runs of unlike seeds were merged.
    points : tuple of HypoTest
        The scan, with rising ``mu``.
    observed : Measured
        The limit; nan where the scan does not cross it.
    expected : tuple of Measured
        Limits expected without a signal, one for each of `BANDS`.
    asymptotic : Asymptotic
        The same by asymptotic formulae.
    warnings : tuple of str
        What the reader should know.
    versions : dict
        Versions of this package and of numpy, whose generators made the toys.
    engine : str
        What fitted the toys, and why that; not part of the document, whose numbers it does not
        change.
    """

    poi: str
    cl: float
    test_statistic: str
    seed: int | tuple[int, ...]
    points: tuple[HypoTest, ...]
    observed: Measured
    expected: tuple[Measured, ...]
    asymptotic: Asymptotic
    warnings: tuple[str, ...]
    versions: dict[str, str]
    engine: str = ""

    @property
    def toys_per_point(self) -> int | None:
        """Toys of each hypothesis at each point; None where they are not the same number."""
        counts = {len(toys.q) for point in self.points for toys in (point.toys_sb, point.toys_b)}
        return counts.pop() if len(counts) == 1 else None

    @property
    def toys(self) -> int:
        """Toys of all points and both hypotheses."""
        return sum(len(point.toys_sb.q) + len(point.toys_b.q) for point in self.points)

    def to_json(self) -> dict[str, Any]:
        """Give the limit as a JSON document: numbers or null, never nan.

        Returns
        -------
        dict
            What ``limit.json`` holds; equal for equal input and seed.
        """
        return {
            "schema": SCHEMA,
            "poi": self.poi,
            "cl": self.cl,
            "test_statistic": self.test_statistic,
            "seed": self.seed,
            "toys": {"per_point": self.toys_per_point, "total": self.toys},
            "points": [point.to_json() for point in self.points],
            "limits": {
                "observed": _measured_json(self.observed),
                "expected": {
                    str(band): _measured_json(limit)
                    for band, limit in zip(BANDS, self.expected, strict=True)
                },
                "asymptotic": {
                    "observed": number(self.asymptotic.observed),
                    "expected": [number(limit) for limit in self.asymptotic.expected],
                },
            },
            "warnings": list(self.warnings),
            "versions": self.versions,
        }

    def plot(self) -> Any:
        """Draw CLs along the scan.

        Returns
        -------
        matplotlib.figure.Figure
            Observed and expected CLs with bands, and the limits.
        """
        return late("ui.plots").limit(self)

    def _repr_html_(self) -> str:
        return str(late("ui.show").limit_html(self))


def upper_limit(  # noqa: PLR0913 - options, all keyword-only
    model: Any,
    data: Sequence[float] | Floats | None = None,
    *,
    toys: int = DEFAULT_TOYS,
    scan: Sequence[float] | Floats | str = "auto",
    cl: float = 0.95,
    test_statistic: str = "qtilde",
    seed: int = 1,
    starts: int = DEFAULT_STARTS,
    threads: int | None = None,
    engine: Engine = "auto",
    progress: Progress | None = None,
) -> Limit:
    """Find the largest signal that is not excluded, with toys.

    Parameters
    ----------
    model : CompiledModel, pyhf.Model, dict, str or Path
        The model, or whatever `compile_model` takes.
    data : (n_data,) sequence of float, optional
        Observed main and auxiliary data in pyhf's order; the workspace's if not given.
    toys : int
        Toys of each hypothesis at each point.
    scan : sequence of float or "auto"
        Values of the parameter of interest to test.  ``"auto"`` places them by the asymptotic
        limits and goes on until the toys' CLs crosses 1 - ``cl`` for the observation and each band,
        or a bound of the parameter is met.
    cl : float
        Confidence level, between 0 and 1.
    test_statistic : {"qtilde", "q", "t"}
        Test statistic.
    seed : int
        Equal seeds give equal limits, whatever the number of threads.
    starts : int
        Fits at most in each round of the search for the lowest minimum.
    threads : int, optional
        Threads to use on the CPU; all processors of this process if not given.
    engine : {"auto", "cpu", "gpu"}
        What throws and fits the toys.  ``"auto"`` takes a GPU if there is one and a short
        measurement finds it the faster one; ``"gpu"`` is an error without one.
    progress : Progress, optional
        Is told how far the toys are.

    Returns
    -------
    Limit
        Observed and expected limits with Monte-Carlo errors, and asymptotic ones beside.

    Raises
    ------
    InputError
        If the model, the data or a setting is wrong.
    HepdaskError
        If a fit to the observed data does not converge.
    GpuError
        If a GPU is asked for and cannot be used, or fails.

    Examples
    --------
    >>> limit = upper_limit("examples/workspace.json", toys=500, scan=[0.5, 1.0, 2.0, 4.0])
    >>> limit.observed.value > 0
    True
    """
    level = 1.0 - checked_cl(cl)
    automatic = isinstance(scan, str)
    if automatic and scan != "auto":
        raise InputError(f'the scan is "{scan}": give "auto" or a list of values')
    settings = ToySettings(toys, seed, starts, threads, progress, engine)
    kind = checked_test_statistic(test_statistic, LIMIT_STATISTICS)
    experiment = prepare(model, data, kind, starts)
    values = [] if automatic else checked_scan(experiment, scan)
    asymptotic = asymptotic_limits(experiment, level)
    if automatic:
        values = first_scan(experiment, asymptotic)
    planned = 2 * toys * len(values)
    choice = choose_engine(experiment, values[len(values) // 2], settings, planned)
    if progress is not None:
        progress.plan(planned)
    points = [test_point(experiment, mu, settings, choice) for mu in values]
    if automatic:
        points = _extended(experiment, points, level, settings, choice)
    return summarise(points, asymptotic, cl=float(cl))


def summarise(
    points: Sequence[HypoTest],
    asymptotic: Asymptotic,
    *,
    cl: float,
    warnings: tuple[str, ...] = (),
) -> Limit:
    """Find the limits in a scan.

    Parameters
    ----------
    points : sequence of HypoTest
        At least one, with rising ``mu``, all of one model and test statistic.
    asymptotic : Asymptotic
        The limits by asymptotic formulae.
    cl : float
        Confidence level.
    warnings : tuple of str
        What the reader should know already.

    Returns
    -------
    Limit
        The limits, with warnings about the scan added.
    """
    limits = [crossing(*curve, 1.0 - cl) for curve in curves(points)]
    first = points[0]
    return Limit(
        poi=first.poi,
        cl=cl,
        test_statistic=first.test_statistic,
        seed=first.seed,
        points=tuple(points),
        observed=limits[0],
        expected=tuple(limits[1:]),
        asymptotic=asymptotic,
        warnings=(*warnings, *_warnings(points, limits, asymptotic)),
        versions={"hepdask-ml": hepdask_ml.__version__, "numpy": version("numpy")},
        engine=first.engine,
    )


def crossing(mu: Floats, cls: Floats, errors: Floats, level: float) -> Measured:
    """Find where a curve falls below a level for the last time.

    Between two points the logarithm of CLs is taken for linear; where a count of zero makes that
    impossible CLs itself is.

    Parameters
    ----------
    mu : (n_points,) float array
        Rising values of the parameter of interest.
    cls, errors : (n_points,) float array
        CLs there and its Monte-Carlo error; undefined points are nan and left out.
    level : float
        The level, 1 - CL.

    Returns
    -------
    Measured
        The crossing, with the error of both points carried over; undefined if there is none.

    Examples
    --------
    >>> grid, cls = np.array([1.0, 2.0, 3.0]), np.array([0.4, 0.1, 0.025])
    >>> limit = crossing(grid, cls, 0.1 * cls, 0.05)
    >>> print(f"{limit.value:.2f} +- {limit.error:.2f}")
    2.50 +- 0.05
    """
    defined = np.isfinite(cls)
    mu, cls, errors = mu[defined], cls[defined], errors[defined]
    falls = np.flatnonzero((cls[:-1] >= level) & (cls[1:] < level))
    if not len(falls):
        return UNDEFINED
    above, below = int(falls[-1]), int(falls[-1]) + 1
    high, low = float(cls[above]), float(cls[below])
    width = float(mu[below] - mu[above])
    if low > 0.0:
        steepness = log(high / low)
        share = log(high / level) / steepness
        pulls = ((1.0 - share) * errors[above] / high, share * errors[below] / low)
    else:
        steepness = high - low
        share = (high - level) / steepness
        pulls = ((1.0 - share) * errors[above], share * errors[below])
    return Measured(float(mu[above]) + share * width, hypot(*pulls) * width / steepness)


def curves(points: Sequence[HypoTest]) -> list[tuple[Floats, Floats, Floats]]:
    """Give CLs along a scan.

    Parameters
    ----------
    points : sequence of HypoTest
        The scan.

    Returns
    -------
    list of three (n_points,) float arrays
        Values of the parameter of interest, CLs and its errors: of the observation, then of each
        of `BANDS`.
    """
    mu = np.array([point.mu for point in points])
    rows = [[point.cls, *point.expected] for point in points]
    values = np.array([[cls.value for cls in row] for row in rows])
    errors = np.array([[cls.error for cls in row] for row in rows])
    return [(mu, values[:, i], errors[:, i]) for i in range(values.shape[1])]


def checked_cl(cl: Any) -> float:
    """Check a confidence level.

    Parameters
    ----------
    cl : float
        The confidence level.

    Returns
    -------
    float
        The same.

    Raises
    ------
    InputError
        If it is no number between 0 and 1.
    """
    if not isinstance(cl, Real) or not 0.0 < float(cl) < 1.0:
        raise InputError(f"the confidence level is {cl!r}: it must be a number between 0 and 1")
    return float(cl)


def checked_scan(experiment: Experiment, scan: Any) -> list[float]:
    """Check the values of a scan.

    Parameters
    ----------
    experiment : Experiment
        The prepared model.
    scan : sequence of float
        Values of the parameter of interest.

    Returns
    -------
    list of float
        The same, each once, rising.

    Raises
    ------
    InputError
        If there is none, or one that is no number or outside the bounds.
    """
    return [checked_poi(experiment.model, value) for value in scan_values(scan)]


def scan_values(scan: Any) -> list[float]:
    """Check a scan as far as it goes without the model.

    Parameters
    ----------
    scan : sequence of float
        Values of the parameter of interest.

    Returns
    -------
    list of float
        The same, each once, rising.

    Raises
    ------
    InputError
        If there is none, or one that is no number.
    """
    try:
        values: list[float] = np.unique(np.asarray(scan, np.float64)).tolist()
    except (TypeError, ValueError):
        raise InputError(
            "the scan holds something that is no number: give a list of values"
        ) from None
    if not values:
        raise InputError('the scan is empty: give at least one value, or "auto"')
    return values


def first_scan(experiment: Experiment, asymptotic: Asymptotic) -> list[float]:
    """Give points around the asymptotic limits, over a wide range where there are none.

    Parameters
    ----------
    experiment : Experiment
        The prepared model.
    asymptotic : Asymptotic
        Its asymptotic limits.

    Returns
    -------
    list of float
        `AUTO_POINTS` rising values of the parameter of interest.
    """
    model = experiment.model
    top = float(model.upper[model.poi_index])
    known = [mu for mu in (asymptotic.observed, *asymptotic.expected) if isfinite(mu) and mu > 0.0]
    low, high = (0.7 * min(known), 1.15 * max(known)) if known else (0.01 * top, top)
    return [float(mu) for mu in np.geomspace(min(low, 0.5 * top), min(high, top), AUTO_POINTS)]


def _extended(
    experiment: Experiment,
    points: list[HypoTest],
    level: float,
    settings: ToySettings,
    choice: Choice,
) -> list[HypoTest]:
    """Add points at either end until every curve crosses the level, or a bound is met."""
    top = float(experiment.model.upper[experiment.model.poi_index])
    for _ in range(MAX_EXTENSIONS):
        first = [cls[0] for _, cls, _ in curves(points)]
        last = [cls[-1] for _, cls, _ in curves(points)]
        more = []
        if any(cls < level for cls in first):
            more.append(points[0].mu / STRETCH)
        if any(cls >= level for cls in last) and points[-1].mu < top:
            more.append(min(points[-1].mu * STRETCH, top))
        if not more:
            break
        if settings.progress is not None:
            settings.progress.plan(2 * settings.toys * (len(points) + len(more)))
        points = points + [test_point(experiment, mu, settings, choice) for mu in more]
        points.sort(key=lambda point: point.mu)
    return points


def asymptotic_limits(experiment: Experiment, level: float) -> Asymptotic:
    """Give the limits by asymptotic formulae, each found on its own curve.

    Parameters
    ----------
    experiment : Experiment
        The prepared model.
    level : float
        The level that CLs has to cross, 1 - CL.

    Returns
    -------
    Asymptotic
        The limits; nan where one lies beyond the bound of the parameter.
    """
    model = experiment.model
    top = float(model.upper[model.poi_index])
    seen: dict[float, Asymptotic] = {}

    def curve(band: int | None) -> Callable[[float], float]:
        def cls(mu: float) -> float:
            if mu not in seen:
                seen[mu] = experiment.asymptotic(mu)
            return seen[mu].observed if band is None else seen[mu].expected[band]

        return cls

    found = [_falls_below(curve(band), level, top) for band in (None, *range(len(BANDS)))]
    return Asymptotic(found[0], tuple(found[1:]))


def _falls_below(cls: Callable[[float], float], level: float, top: float) -> float:
    """Root of cls(mu) = level in (0, top], nan if there is none: false position in ln CLs."""
    high = min(1.0, top)
    while high < top and not cls(high) < level:
        high = min(2.0 * high, top)
    if not cls(high) < level:
        return nan
    # CLs rises to 1 towards mu = 0; where the data tell the hypotheses apart no more it is nan.
    low, smallest = 0.5 * high, _SMALLEST * high
    while low > smallest and cls(low) < level:
        low, high = 0.5 * low, low
    if cls(low) < level:
        return nan
    for step in range(60):
        if high - low < _ROOT_TOLERANCE * high:
            break
        share = 0.5
        if step % 3 != 2 and isfinite(cls(low)):
            above, below = log(cls(low) / level), log(max(cls(high), 1e-300) / level)
            share = above / (above - below)
        middle = low + min(max(share, 0.01), 0.99) * (high - low)
        low, high = (low, middle) if cls(middle) < level else (middle, high)
    return 0.5 * (low + high)


def _warnings(
    points: Sequence[HypoTest], limits: Sequence[Measured], asymptotic: Asymptotic
) -> tuple[str, ...]:
    toys = [toys for point in points for toys in (point.toys_sb, point.toys_b)]
    warnings = list(unconverged_warning(toys))
    for point in points:
        of_point = unconverged_warning([point.toys_sb, point.toys_b])
        warnings += [text for text in point.warnings if text not in (*of_point, *warnings)]
    names = ["observed", *BAND_NAMES]
    formulae = (asymptotic.observed, *asymptotic.expected)
    missing = [name for name, limit in zip(names, limits, strict=True) if not isfinite(limit.value)]
    if missing:
        warnings.append(
            f"CLs does not cross the level between {points[0].mu:g} and {points[-1].mu:g} "
            f"({', '.join(missing)}): widen the scan or the bounds of the parameter"
        )
    vague = [
        name
        for name, limit in zip(names, limits, strict=True)
        if limit.error > _VAGUE * limit.value
    ]
    if vague:
        warnings.append(
            f"toys leave an error above {100 * _VAGUE:g} % ({', '.join(vague)}): throw more"
        )
    apart = [
        name
        for name, limit, formula in zip(names, limits, formulae, strict=True)
        if abs(limit.value - formula) > max(_APART * limit.error, _ALIKE * limit.value)
    ]
    if apart:
        warnings.append(
            f"limits from toys and asymptotic ones differ ({', '.join(apart)}): quote the toys"
        )
    return tuple(warnings)


def _measured_json(measured: Measured) -> dict[str, float | None]:
    return {"value": number(measured.value), "error": number(measured.error)}
