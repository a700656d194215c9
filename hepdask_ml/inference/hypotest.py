"""Hypothesis tests at one value of the parameter of interest, from toys.

The procedure is that of the LHC experiments: nuisance parameters are fitted to the observed data
under each hypothesis, toys are thrown from both, main and auxiliary data alike, and the test
statistic of the data is looked up among theirs.  `upper_limit` repeats it along a scan; `discovery`
asks the background-only hypothesis alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, nan
from numbers import Real
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.errors import HepdaskError, InputError, late
from hepdask_ml.inference.asymptotics import (
    UNKNOWN,
    Asymptotic,
    asymptotic_cls,
    asymptotic_discovery,
)
from hepdask_ml.inference.pvalues import BANDS, Measured, cls_value, expected_cls, p_value
from hepdask_ml.inference.statistics import bounded, checked_test_statistic, test_statistic
from hepdask_ml.inference.toys import (
    ToyResults,
    ToySettings,
    choose,
    ensemble,
    evaluate,
    worse_status,
)
from hepdask_ml.likelihood.compile import compile_model
from hepdask_ml.likelihood.fit import (
    DEFAULT_STARTS,
    FitPairs,
    FitStatus,
    available_processors,
    converged,
    fit_pair,
)
from hepdask_ml.likelihood.model import CompiledModel, observed
from hepdask_ml.likelihood.rates import expected_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hepdask_ml.inference.engines import Choice, Engine
    from hepdask_ml.inference.statistics import TestStatistic
    from hepdask_ml.inference.toys import Ensemble, Progress

    Floats = NDArray[np.float64]

DEFAULT_TOYS = 10_000
LIMIT_STATISTICS = ("qtilde", "q", "t")

_FLOORED = "toys are thrown from a negative expected rate, which counts as zero"

_FEW_TOYS = 20.0
"""Background-only toys beyond a band below which its error is no longer to be trusted."""


@dataclass(frozen=True, slots=True, eq=False)
class HypoTest:
    """The test of one value of the parameter of interest.

    Attributes
    ----------
    poi : str
        Name of the parameter of interest.
    mu : float
        Value tested.
    test_statistic : str
        ``"qtilde"``, ``"q"`` or ``"t"``.
    seed : int or tuple of int
        Seed of the toys; several where runs of unlike seeds were merged.
    q_observed, poi_hat : float
        Test statistic of the data, and their best-fit value.
    clsb, clb, cls : Measured
        CLs+b, CLb and CLs.
    expected : tuple of Measured
        CLs expected without a signal, one for each of `BANDS`.
    asymptotic : Asymptotic
        CLs by asymptotic formulae.
    toys_sb, toys_b : ToyResults
        Every toy thrown with and without the signal, those that did not converge too.
    warnings : tuple of str
        What the reader should know.
    engine : str
        What fitted the toys, and why that; not part of the document, whose numbers it does not
        change.
    """

    poi: str
    mu: float
    test_statistic: str
    seed: int | tuple[int, ...]
    q_observed: float
    poi_hat: float
    clsb: Measured
    clb: Measured
    cls: Measured
    expected: tuple[Measured, ...]
    asymptotic: Asymptotic
    toys_sb: ToyResults
    toys_b: ToyResults
    warnings: tuple[str, ...]
    engine: str = ""

    @property
    def n_sb(self) -> int:
        """Toys counted under signal plus background."""
        return int(self.toys_sb.converged.sum())

    @property
    def n_b(self) -> int:
        """Toys counted under background only."""
        return int(self.toys_b.converged.sum())

    @property
    def unconverged(self) -> int:
        """Toys left out because a fit did not converge."""
        return len(self.toys_sb.q) + len(self.toys_b.q) - self.n_sb - self.n_b

    def to_json(self) -> dict[str, Any]:
        """Give the test as a JSON document: numbers or null, never nan.

        Returns
        -------
        dict
            One entry of ``points`` in ``limit.json``.
        """
        return {
            "poi": self.mu,
            "q_observed": number(self.q_observed),
            "observed": {
                "clsb": number(self.clsb.value),
                "clb": number(self.clb.value),
                "cls": number(self.cls.value),
                "cls_error": number(self.cls.error),
            },
            "expected": {
                str(band): {"cls": number(cls.value), "cls_error": number(cls.error)}
                for band, cls in zip(BANDS, self.expected, strict=True)
            },
            "asymptotic": {
                "observed": number(self.asymptotic.observed),
                "expected": [number(cls) for cls in self.asymptotic.expected],
            },
            "toys": {"sb": self.n_sb, "b": self.n_b},
            "unconverged": self.unconverged,
        }

    def plot(self) -> Any:
        """Draw the distributions of the test statistic.

        Returns
        -------
        matplotlib.figure.Figure
            Both hypotheses, the observed value and the asymptotic curves.
        """
        return late("ui.plots").test_statistic(self)

    def _repr_html_(self) -> str:
        return str(late("ui.show").hypotest_html(self))


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What the observed data say about one value of the parameter of interest; see `observe`.

    Attributes
    ----------
    mu : float
        The value.
    q, poi_hat : float
        Test statistic of the data, and their best-fit value.
    pars : (n_pars,) float array
        Conditional fit to the data at ``mu``, from which signal-plus-background toys are thrown.
    asymptotic : Asymptotic
        CLs by asymptotic formulae.
    """

    mu: float
    q: float
    poi_hat: float
    pars: Floats
    asymptotic: Asymptotic


@dataclass(frozen=True, slots=True, eq=False)
class Discovery:
    """The test of the background-only hypothesis for an excess.

    Attributes
    ----------
    poi : str
        Name of the parameter of interest.
    seed : int
        Seed of the toys.
    q0, poi_hat : float
        Test statistic of the data, and their best-fit value.
    p_value, significance : Measured
        From toys; the significance in standard deviations, one-sided.  Where no toy reaches the
        data the significance is undefined and ``p_value`` holds the error of a count of one.
    asymptotic_p_value, asymptotic_significance : float
        The same by asymptotic formulae.
    toys : ToyResults
        Background-only toys.
    warnings : tuple of str
        What the reader should know.
    engine : str
        What fitted the toys, and why that.
    """

    poi: str
    seed: int
    q0: float
    poi_hat: float
    p_value: Measured
    significance: Measured
    asymptotic_p_value: float
    asymptotic_significance: float
    toys: ToyResults
    warnings: tuple[str, ...]
    engine: str = ""

    def _repr_html_(self) -> str:
        return str(late("ui.show").discovery_html(self))


@dataclass(frozen=True, slots=True, eq=False)
class Experiment:
    """A model with its observed data, prepared for tests with one test statistic.

    Attributes
    ----------
    model : CompiledModel
        The model, bounded as the test statistic asks, with its observed data.
    kind : str
        Test statistic.
    null : (n_pars,) float array
        Conditional fit to the data at POI 0, from which background-only toys are thrown.
    asimov : (1, n_data) float array
        Expected data there.
    starts : int
        Fits at most in each round of the search for the lowest minimum.
    """

    model: CompiledModel
    kind: TestStatistic
    null: Floats
    asimov: Floats
    starts: int

    def pairs(self, data: Floats, mu: float) -> FitPairs:
        """Fit data sets at ``mu`` and freely."""
        return fit_pair(self.model, data, mu, starts=self.starts, init=self.null)

    def observed(self, mu: float) -> FitPairs:
        """Both fits of the observed data, which have to converge."""
        found = self.pairs(observed(self.model), mu)
        status = worse_status(found)
        if not converged(status).all():
            raise HepdaskError(
                f"the fit of {self.model.poi_name} = {mu:g} to the observed data did not converge "
                f"({FitStatus(int(status[0])).sentence}): check the model there"
            )
        return found

    def asymptotic(self, mu: float) -> Asymptotic:
        """CLs at ``mu`` by asymptotic formulae; nan where a fit does not converge."""
        found = self.pairs(np.vstack([observed(self.model), self.asimov]), mu)
        if not converged(worse_status(found)).all():
            return UNKNOWN
        q, q_asimov = test_statistic(self.kind, found).tolist()
        return asymptotic_cls(self.kind, q, q_asimov)


def hypotest(  # noqa: PLR0913 - options, all keyword-only
    model: Any,
    data: Sequence[float] | Floats | None = None,
    mu: float = 1.0,
    *,
    toys: int = DEFAULT_TOYS,
    test_statistic: str = "qtilde",
    seed: int = 1,
    starts: int = DEFAULT_STARTS,
    threads: int | None = None,
    engine: Engine = "auto",
    progress: Progress | None = None,
) -> HypoTest:
    """Test whether a signal of strength ``mu`` is excluded, with toys.

    Parameters
    ----------
    model : CompiledModel, pyhf.Model, dict, str or Path
        The model, or whatever `compile_model` takes.
    data : (n_data,) sequence of float, optional
        Observed main and auxiliary data in pyhf's order; the workspace's if not given.
    mu : float
        Value of the parameter of interest.
    toys : int
        Toys of each hypothesis.
    test_statistic : {"qtilde", "q", "t"}
        Test statistic.
    seed : int
        Equal seeds give equal toys, whatever the number of threads.
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
    HypoTest
        CLs observed and expected, with Monte-Carlo errors and asymptotic numbers beside.

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
    >>> test = hypotest("examples/workspace.json", mu=2.0, toys=500)
    >>> 0.0 <= test.cls.value <= 1.0
    True
    """
    settings = ToySettings(toys, seed, starts, threads, progress, engine)
    kind = checked_test_statistic(test_statistic, LIMIT_STATISTICS)
    experiment = prepare(model, data, kind, starts)
    if progress is not None:
        progress.plan(2 * toys)
    return test_point(experiment, mu, settings)


def discovery(
    model: Any,
    data: Sequence[float] | Floats | None = None,
    *,
    toys: int = DEFAULT_TOYS,
    seed: int = 1,
    starts: int = DEFAULT_STARTS,
    threads: int | None = None,
    engine: Engine = "auto",
    progress: Progress | None = None,
) -> Discovery:
    """Test the background-only hypothesis for an excess, with toys of q0.

    Parameters
    ----------
    model, data, toys, seed, starts, threads, engine, progress
        As in `hypotest`.

    Returns
    -------
    Discovery
        p-value and significance.

    Raises
    ------
    InputError
        If the model, the data or a setting is wrong.
    HepdaskError
        If a fit to the observed data does not converge.
    GpuError
        If a GPU is asked for and cannot be used, or fails.

    References
    ----------
    G. Cowan et al., Eur. Phys. J. C 71 (2011) 1554, eqs. 12 and 52.
    """
    settings = ToySettings(toys, seed, starts, threads, progress, engine)
    experiment = prepare(model, data, "q0", starts)
    if progress is not None:
        progress.plan(toys)
    found = experiment.observed(0.0)
    q0 = float(test_statistic("q0", found)[0])
    null = ensemble(experiment.model, "mu=0.0/b", experiment.null)
    choice = choose_engine(experiment, 0.0, settings, toys)
    [results] = evaluate(experiment.model, [null], 0.0, "q0", settings, choice.engine)
    p = p_value(results.counted, q0)
    asymptotic_p, asymptotic_z = asymptotic_discovery(q0)
    warnings = (*model_warnings(experiment.model, "q0", [null]), *unconverged_warning([results]))
    if p.value == 0.0:
        warnings = (*warnings, f"none of {len(results.counted)} toys reaches the data: throw more")
    return Discovery(
        poi=str(experiment.model.poi_name),
        seed=seed,
        q0=q0,
        poi_hat=float(found.poi_hat[0]),
        p_value=p,
        significance=significance(p),
        asymptotic_p_value=asymptotic_p,
        asymptotic_significance=asymptotic_z,
        toys=results,
        warnings=warnings,
        engine=str(choice),
    )


def prepare(
    model: Any, data: Sequence[float] | Floats | None, kind: TestStatistic, starts: int
) -> Experiment:
    """Compile, check and fit what every test of a data set needs.

    Parameters
    ----------
    model, data, starts
        As in `hypotest`.
    kind : {"q0", "q", "qtilde", "t"}
        Test statistic.

    Returns
    -------
    Experiment
        The prepared model.

    Raises
    ------
    InputError
        If something is wrong with them, or the model has no parameter of interest.
    HepdaskError
        If the background-only fit does not converge.
    """
    compiled = bounded(compile_model(model, data=data), kind)
    if compiled.poi_index < 0:
        raise InputError("the model has no parameter of interest: name one with poi=")
    null = compiled.fit(observed(compiled), poi=checked_poi(compiled, 0.0), starts=starts)
    if not null.converged[0]:
        raise HepdaskError(
            "the background-only fit to the data did not converge "
            f"({FitStatus(int(null.status[0])).sentence}): check the model"
        )
    asimov = expected_data(compiled, null.pars)
    asimov[:, : compiled.n_main] = np.maximum(asimov[:, : compiled.n_main], 0.0)
    return Experiment(compiled, kind, null.pars[0], asimov, starts)


def choose_engine(experiment: Experiment, mu: float, settings: ToySettings, toys: int) -> Choice:
    """Choose what throws and fits the toys of an experiment.

    Parameters
    ----------
    experiment : Experiment
        The prepared model.
    mu : float
        A value that is tested.
    settings : ToySettings
        What is asked for.
    toys : int
        Toys in all.

    Returns
    -------
    Choice
        The engine, and why that.

    Raises
    ------
    GpuError
        If a GPU is asked for and cannot be used.
    """
    model = experiment.model
    return choose(
        model,
        ensemble(model, "trial", experiment.null),
        mu,
        experiment.kind,
        settings,
        threads=settings.threads or available_processors(),
        toys=toys,
    )


def test_point(
    experiment: Experiment,
    mu: float,
    settings: ToySettings,
    choice: Choice | None = None,  # noqa: PT028 - no test of pytest's, see below
) -> HypoTest:
    """Test one value of the parameter of interest.

    Parameters
    ----------
    experiment : Experiment
        The prepared model.
    mu : float
        Value to be tested.
    settings : ToySettings
        How many toys, from which seed, and how.
    choice : Choice, optional
        The engine; chosen by the settings if not given.

    Returns
    -------
    HypoTest
        The test.

    Raises
    ------
    InputError
        If ``mu`` is not finite or lies outside the bounds.
    HepdaskError
        If a fit to the observed data does not converge.
    """
    model, kind = experiment.model, experiment.kind
    seen = observe(experiment, mu)
    ensembles = ensembles_at(model, seen, experiment.null)
    choice = choice or choose_engine(experiment, seen.mu, settings, 2 * settings.toys)
    toys_sb, toys_b = evaluate(model, ensembles, seen.mu, kind, settings, choice.engine)
    return compare(
        seen,
        toys_sb,
        toys_b,
        poi=str(model.poi_name),
        kind=kind,
        seed=settings.seed,
        warnings=model_warnings(model, kind, ensembles),
        engine=str(choice),
    )


test_point.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's


def observe(experiment: Experiment, mu: float) -> Observation:
    """Give what the observed data say about one value of the parameter of interest.

    Parameters
    ----------
    experiment : Experiment
        The prepared model.
    mu : float
        The value.

    Returns
    -------
    Observation
        All that the toys of this value are thrown from and compared with.

    Raises
    ------
    InputError
        If ``mu`` is not finite or lies outside the bounds.
    HepdaskError
        If a fit to the observed data does not converge.
    """
    model = experiment.model
    mu = checked_poi(model, mu)
    found = experiment.observed(mu)
    signal = model.fit(observed(model), poi=mu, starts=experiment.starts, init=experiment.null)
    return Observation(
        mu=mu,
        q=float(test_statistic(experiment.kind, found)[0]),
        poi_hat=float(found.poi_hat[0]),
        pars=signal.pars[0],
        asymptotic=experiment.asymptotic(mu),
    )


def ensembles_at(model: CompiledModel, seen: Observation, null: Floats) -> list[Ensemble]:
    """Give both hypotheses of a point.

    Parameters
    ----------
    model : CompiledModel
        The model.
    seen : Observation
        The point.
    null : (n_pars,) float array
        Conditional fit to the data at POI 0.

    Returns
    -------
    list of Ensemble
        Signal plus background, then background only.

    Raises
    ------
    InputError
        If an expected rate is not finite or too large to be drawn.
    """
    return [
        ensemble(model, f"mu={seen.mu!r}/sb", seen.pars),
        ensemble(model, f"mu={seen.mu!r}/b", null),
    ]


def compare(
    seen: Observation,
    toys_sb: ToyResults,
    toys_b: ToyResults,
    *,
    poi: str,
    kind: str,
    seed: int | tuple[int, ...],
    warnings: tuple[str, ...] = (),
    engine: str = "",
) -> HypoTest:
    """Compare the observed data with toys of both hypotheses.

    Parameters
    ----------
    seen : Observation
        What the observed data say.
    toys_sb, toys_b : ToyResults
        Toys with and without the signal.
    poi : str
        Name of the parameter of interest.
    kind : {"qtilde", "q", "t"}
        Test statistic.
    seed : int or tuple of int
        Seed of the toys.
    warnings : tuple of str
        What the reader should know already.
    engine : str
        What fitted the toys.

    Returns
    -------
    HypoTest
        The test, with warnings about its toys added.
    """
    clsb, clb = p_value(toys_sb.counted, seen.q), p_value(toys_b.counted, seen.q)
    return HypoTest(
        poi=poi,
        mu=seen.mu,
        test_statistic=kind,
        seed=seed,
        q_observed=seen.q,
        poi_hat=seen.poi_hat,
        clsb=clsb,
        clb=clb,
        cls=cls_value(clsb, clb).total,
        expected=tuple(cls.total for cls in expected_cls(toys_sb.counted, toys_b.counted)),
        asymptotic=seen.asymptotic,
        toys_sb=toys_sb,
        toys_b=toys_b,
        warnings=(
            *warnings,
            *unconverged_warning([toys_sb, toys_b]),
            *_tail_warnings(clb, len(toys_b.counted)),
        ),
        engine=engine,
    )


def model_warnings(
    model: CompiledModel, kind: str, ensembles: Sequence[Ensemble]
) -> tuple[str, ...]:
    """Tell what the reader of a test should know before any toy is thrown.

    Parameters
    ----------
    model : CompiledModel
        The model.
    kind : str
        Test statistic.
    ensembles : sequence of Ensemble
        What toys are thrown from.

    Returns
    -------
    tuple of str
        Sentences.
    """
    floored = any(ensemble.floored for ensemble in ensembles)
    return (*model.warnings, *_statistic_warnings(model, kind), *((_FLOORED,) if floored else ()))


def checked_poi(model: CompiledModel, mu: Any) -> float:
    """Check a value of the parameter of interest against its bounds.

    Parameters
    ----------
    model : CompiledModel
        A model with a parameter of interest.
    mu : float
        The value.

    Returns
    -------
    float
        The same.

    Raises
    ------
    InputError
        If it is no number, not finite, or lies outside.
    """
    low, high = model.lower[model.poi_index], model.upper[model.poi_index]
    if not isinstance(mu, Real):
        raise InputError(f"{model.poi_name} = {mu!r} cannot be tested: give a number")
    if not isfinite(mu) or not low <= mu <= high:
        raise InputError(
            f"{model.poi_name} = {mu:g} cannot be tested: the bounds of the parameter are {low:g} "
            f"and {high:g}, change them in the measurement"
        )
    return float(mu)


def significance(p: Measured) -> Measured:
    """Turn a one-sided p-value into standard deviations.

    Parameters
    ----------
    p : Measured
        The p-value.

    Returns
    -------
    Measured
        The significance and its error; undefined for a p-value of 0 or 1.
    """
    if not 0.0 < p.value < 1.0:
        return Measured(nan, nan)
    normal = NormalDist()
    z = -normal.inv_cdf(p.value)
    return Measured(z, p.error / normal.pdf(z))


def number(value: float) -> float | None:
    """Give a number as JSON can hold it: null in place of nan and infinity.

    Parameters
    ----------
    value : float
        The number.

    Returns
    -------
    float or None
        The same, or None.
    """
    return value if isfinite(value) else None


def _statistic_warnings(model: CompiledModel, kind: str) -> tuple[str, ...]:
    if kind == "q" and model.lower[model.poi_index] >= 0.0:
        return (
            f"{model.poi_name} is bounded at {model.lower[model.poi_index]:g}, where q is q-tilde: "
            "lower the bound in the measurement, or use qtilde",
        )
    return ()


def unconverged_warning(results: Sequence[ToyResults]) -> tuple[str, ...]:
    """Tell how many toys are left out, and why.

    Parameters
    ----------
    results : sequence of ToyResults
        The toys.

    Returns
    -------
    tuple of str
        One sentence, or none.
    """
    lost = np.concatenate([result.status[~result.converged] for result in results])
    if not len(lost):
        return ()
    kinds, counts = np.unique(lost, return_counts=True)
    reason = FitStatus(int(kinds[np.argmax(counts)])).sentence
    thrown = sum(len(result.q) for result in results)
    return (f"{len(lost)} of {thrown} toys did not converge and are left out: mostly, {reason}",)


def _tail_warnings(clb: Measured, n_b: int) -> tuple[str, ...]:
    warnings = []
    if n_b * NormalDist().cdf(-2.0) < _FEW_TOYS:
        needed = round(_FEW_TOYS / NormalDist().cdf(-2.0) / 100.0 + 0.5) * 100
        warnings.append(f"{n_b} toys are too few for the -2 sigma band: throw {needed} or more")
    if clb.value == 0.0:
        warnings.append("no background-only toy reaches the data somewhere: CLs is undefined there")
    return tuple(warnings)
