r"""Where toys go: a fixed scan, or the values and hypotheses that the limits need.

The adaptive strategy works in rounds.  Each of the six limits (observed, and one for each band)
lies between two points of the scan, its *bracket*.  With the share :math:`s` of the bracket that
lies below the limit, and the steepness :math:`k` of :math:`\ln \mathrm{CL}_s` in
:math:`\ln \mu`, its relative variance is

.. math:: \frac{1}{k^2} \Big[ (1-s)^2 \Big(\frac{c_{sb}}{n_{sb}} + \frac{c_b}{n_b}\Big)_{low} +
          s^2 \Big(\frac{c_{sb}}{n_{sb}} + \frac{c_b}{n_b}\Big)_{high} \Big]

where :math:`c/n` is the relative variance of CLs that is due to n toys.  The fewest toys that reach
a *goal* are in proportion to the square roots of these terms (Neyman's allocation).  A round brings
all limits nearer to the precision that was asked for, by no more than a factor: the next round
knows the terms better.

Points lie on a lattice that is even in :math:`\ln \mu`.  It begins coarse; a bracket is halved
where its limit is known well enough, as long as it is wider than the straight line in it is good
for.  So no bracket is ever so narrow that the steepness drowns in the noise of its ends.

References
----------
J. Neyman, J. R. Stat. Soc. 97 (1934) 558.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, exp, floor, isfinite, log, nan, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from hepdask_ml.campaign.unit import Unit
from hepdask_ml.inference.hypotest import ensembles_at, model_warnings, observe
from hepdask_ml.inference.limit import crossing
from hepdask_ml.inference.pvalues import BANDS, cls_value, expected_cls, p_value
from hepdask_ml.limits.runner import GRAIN
from hepdask_ml.limits.summary import asymptotic_fields, points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hepdask_ml.campaign.unit import History
    from hepdask_ml.inference.asymptotics import Asymptotic
    from hepdask_ml.inference.hypotest import Experiment, Observation
    from hepdask_ml.inference.pvalues import MeasuredCLs
    from hepdask_ml.limits.summary import Point

    Floats = NDArray[np.float64]

FIRST_GOAL = 0.1
"""Relative error of the limits that the first round aims at."""

STEP = 0.6
"""Part of the error that a round leaves at least."""

ROUND = 512
"""Toys of a unit are a multiple of this, so that no round is held for a handful of them."""

FEWEST = 2 * ROUND
"""Toys of each hypothesis at each point at least: some 20 beyond the outer bands."""

MOST_POINTS = 60
"""Points at most, should CLs cross nowhere."""

_COARSE = 0.4
"""Distance of the first points, in ln mu."""

_KNOWN = 0.25
"""Error of a limit, as part of its bracket, below which the bracket may be halved."""

_LEAST_SHARE = 0.2
"""Weight of the farther end of a bracket at least, for the sake of the steepness."""

_TYPICAL_STEEPNESS, _LEAST_STEEPNESS = 3.0, 1.0
"""Fall of ln CLs with ln mu where no formula tells it, and at least."""

_TYPICAL_B = 5.0
"""Relative variance of CLs in a band for one background-only toy, before any is thrown."""

_BAND_CLB = tuple(NormalDist().cdf(band) for band in BANDS)
"""CLb of each band, by its definition."""


@dataclass(frozen=True, slots=True, eq=False)
class FixedScan:
    """As many toys of each hypothesis at each of some given values.

    Attributes
    ----------
    experiment : Experiment
        The prepared model.
    values : tuple of float
        Values of the parameter of interest.
    toys : int
        Toys of each hypothesis at each of them.
    """

    experiment: Experiment
    values: tuple[float, ...]
    toys: int

    def plan(self, history: History) -> list[Unit]:
        """Give all units at once."""
        if history.records():
            return []
        return [
            unit
            for mu in self.values
            for unit in units_at(self.experiment, mu, (self.toys, self.toys))
        ]


@dataclass(frozen=True, slots=True, eq=False)
class AdaptiveScan:
    """Toys where they reduce the errors of the limits most, until these are small enough.

    Attributes
    ----------
    experiment : Experiment
        The prepared model.
    asymptotic : Asymptotic
        The limits by asymptotic formulae, for the first points.
    level : float
        The level that CLs has to cross, 1 - CL.
    precision : float
        Relative Monte-Carlo error of each limit that is enough.
    max_toys : int
        Toys in all, of both hypotheses, that are not exceeded.
    """

    experiment: Experiment
    asymptotic: Asymptotic
    level: float
    precision: float
    max_toys: int

    def plan(self, history: History) -> list[Unit]:
        """Give the next round, once the last one is complete."""
        records = history.records()
        if any(record.open or record.error is not None for record in records):
            return []
        if not records:
            return self._first()
        found = points(history)
        scan = _Scan.of_toys(found, self.level)
        new = self._new_values(scan)
        if new is None:
            return []
        toys = self._allocated(scan, new)
        units = {record.unit.key: record.unit for record in records}
        return self._grown(units, toys)

    def _first(self) -> list[Unit]:
        """Points around the asymptotic limits, with toys as the formulae have it."""
        values = self.first_values()
        scan = _Scan.of_formulae([observe(self.experiment, mu) for mu in values], self.level)
        return self._grown({}, scan.needed(scan.mu, FIRST_GOAL))

    def first_values(self) -> list[float]:
        """Give the points of the first round."""
        model = self.experiment.model
        top = float(model.upper[model.poi_index])
        formulae = (self.asymptotic.observed, *self.asymptotic.expected)
        known = [mu for mu in formulae if isfinite(mu) and mu > 0.0]
        low, high = (min(known), max(known)) if known else (0.01 * top, 0.99 * top)
        first = floor(log(low) / _COARSE)
        lattice = [exp(_COARSE * i) for i in range(first, ceil(log(high) / _COARSE) + 1)]
        return sorted({_rounded(mu, top) for mu in lattice})

    def _new_values(self, scan: _Scan) -> list[float] | None:
        """Points that the next round adds; None if no round is needed."""
        more = self._beyond(scan)
        if not more and not any(error > self.precision for error in scan.errors):
            return None
        for curve in scan.curves:
            more += curve.middle(self._width())
        return sorted(set(more))

    def _beyond(self, scan: _Scan) -> list[float]:
        """Points outside the scan, on a side where a curve has not crossed the level."""
        model = self.experiment.model
        top = float(model.upper[model.poi_index])
        if len(scan.mu) >= MOST_POINTS:
            return []
        more = []
        if any(curve.cls[0] < self.level for curve in scan.curves):
            more.append(_rounded(scan.mu[0] * exp(-_COARSE), top))
        if any(curve.cls[-1] >= self.level for curve in scan.curves) and scan.mu[-1] < top:
            more.append(_rounded(scan.mu[-1] * exp(_COARSE), top))
        return more

    def _goal(self, scan: _Scan) -> float:
        errors = [error for error in scan.errors if isfinite(error)]
        # A little less than what was asked for: the terms are known with errors, too.
        return max(0.95 * self.precision, STEP * max(errors, default=FIRST_GOAL / STEP))

    def _width(self) -> float:
        # Across a bracket of width h a curve of the shape of a normal tail deviates from a straight
        # line by h^2 / 8 of mu at most: that is to be a quarter of the error.
        return sqrt(2.0 * self.precision)

    def _allocated(self, scan: _Scan, new: Sequence[float]) -> dict[float, tuple[int, int]]:
        """Toys that each point should have after the next round."""
        goal = self._goal(scan)
        mu = np.array(sorted({*scan.toys, *new}))
        needed = scan.needed(mu, goal)
        if all(_covers(scan.toys.get(value, (0, 0)), pair) for value, pair in needed.items()):
            # The error is larger than its terms say: more where the worst limit lies.
            worst = max(scan.curves, key=lambda curve: curve.error if isfinite(curve.error) else 0)
            more = min(max((worst.error / goal) ** 2, 1.1), 1.3)
            for place in _neighbours(scan.mu, worst.limit) or ():
                sb, b = scan.toys[float(scan.mu[place])]
                needed[float(scan.mu[place])] = _whole(more * sb), _whole(more * b)
        return needed

    def _grown(self, units: dict[str, Unit], toys: dict[float, tuple[int, int]]) -> list[Unit]:
        """Units with these totals, cut where they would be too many in all."""
        wanted = []
        for mu, counts in sorted(toys.items()):
            known = [units.get(key) for key in _keys(mu)]
            pair = known if all(known) else units_at(self.experiment, mu, counts)
            wanted += [
                replace(unit, total=max(unit.total if all(known) else 0, count))
                for unit, count in zip(pair, counts, strict=True)
                if unit is not None
            ]
        have = {key: unit.total for key, unit in units.items()}
        extra = sum(unit.total - have.get(unit.key, 0) for unit in wanted)
        room = self.max_toys - sum(have.values())
        if extra > room:
            share = max(room, 0) / extra
            wanted = [_cut(unit, have.get(unit.key, 0), share) for unit in wanted]
            # A new point with toys of one hypothesis alone is none.
            short = {unit.spec["mu"] for unit in wanted if not unit.total}
            wanted = [unit for unit in wanted if unit.spec["mu"] not in short]
        return [unit for unit in wanted if unit.total > have.get(unit.key, 0)]


def needed_by_formulae(strategy: AdaptiveScan) -> int:
    """Give the toys that a scan would need if it knew the limits, by asymptotic formulae.

    Parameters
    ----------
    strategy : AdaptiveScan
        The scan.

    Returns
    -------
    int
        Toys of all points and both hypotheses.
    """
    seen = [observe(strategy.experiment, mu) for mu in strategy.first_values()]
    scan = _Scan.of_formulae(seen, strategy.level)
    return sum(map(sum, scan.needed(scan.mu, strategy.precision).values()))


def units_at(experiment: Experiment, mu: float, toys: tuple[int, int]) -> list[Unit]:
    """Give the units of a point.

    Parameters
    ----------
    experiment : Experiment
        The prepared model.
    mu : float
        Value of the parameter of interest.
    toys : (int, int)
        Toys with and without the signal.

    Returns
    -------
    list of Unit
        Signal plus background, with what the data say about ``mu``; then background only.

    Raises
    ------
    InputError
        If ``mu`` lies outside the bounds.
    HepdaskError
        If a fit to the observed data does not converge.
    """
    model = experiment.model
    seen = observe(experiment, mu)
    ensembles = ensembles_at(model, seen, experiment.null)
    about = {
        "q": seen.q,
        "poi_hat": seen.poi_hat,
        "asymptotic": asymptotic_fields(seen.asymptotic),
        "warnings": list(model_warnings(model, experiment.kind, ensembles)),
    }
    return [
        Unit(
            key=ensemble.name,
            total=count,
            spec={
                "mu": seen.mu,
                "hypothesis": hypothesis,
                "pars": ensemble.pars.tolist(),
                **(about if hypothesis == "sb" else {}),
            },
            title=f"toys at {model.poi_name} = {seen.mu:.4g}, {_TITLES[hypothesis]}",
            grain=GRAIN,
        )
        for ensemble, hypothesis, count in zip(ensembles, _TITLES, toys, strict=True)
    ]


_TITLES = {"sb": "signal plus background", "b": "background only"}


def _keys(mu: float) -> tuple[str, str]:
    return f"mu={mu!r}/sb", f"mu={mu!r}/b"


def _cut(unit: Unit, have: int, share: float) -> Unit:
    """Let a unit grow by a share of what it was meant to, rounded down."""
    more = int((unit.total - have) * share) // ROUND * ROUND
    return replace(unit, total=have + more)


def _rounded(mu: float, top: float) -> float:
    """Give a value that people can read, within the bound."""
    return min(float(f"{mu:.4g}"), top)


def _covers(have: tuple[int, int], pair: tuple[int, int]) -> bool:
    return have[0] >= pair[0] and have[1] >= pair[1]


def _whole(toys: float) -> int:
    return max(ceil(toys / ROUND) * ROUND, FEWEST)


@dataclass(frozen=True, slots=True, eq=False)
class _Curve:
    """CLs of one limit along the scan; all arrays are (n_points,), ``mu`` rises.

    Attributes
    ----------
    cls, errors : array
        CLs and its error; nan where undefined.
    clb : array
        CLb of the observation, or of the band.
    variance_b : array
        Relative variance of CLs that is due to one background-only toy.
    steepness : float
        Fall of ln CLs with ln mu about the limit.
    """

    mu: Floats
    cls: Floats
    errors: Floats
    clb: Floats
    variance_b: Floats
    steepness: float
    level: float

    @property
    def limit(self) -> float:
        """Where it crosses the level; nan if it does not."""
        return crossing(self.mu, self.cls, self.errors, self.level).value

    @property
    def error(self) -> float:
        """Relative error of the limit; nan if there is none."""
        found = crossing(self.mu, self.cls, self.errors, self.level)
        return found.error / found.value

    def middle(self, width: float) -> list[float]:
        """Give the middle of the bracket if that is wider than this, and the limit known."""
        ends = _neighbours(self.mu, self.limit)
        if ends is None:
            return []
        low, high = self.mu[ends[0]], self.mu[ends[1]]
        if log(high / low) <= width or not self.error < _KNOWN * log(high / low):
            return []
        return [float(f"{sqrt(low * high):.4g}")]

    def needed(self, mu: Floats, goal: float) -> dict[int, tuple[float, float]]:
        """Toys of both hypotheses at both ends of the bracket that reach a relative error.

        The scan ``mu`` may have more points than there are toys at.
        """
        roots = {
            place: (sqrt(sb), sqrt(b)) for place, (sb, b) in self._terms(mu, _LEAST_SHARE).items()
        }
        total = sum(sum(pair) for pair in roots.values()) / goal**2
        return {place: (sb * total, b * total) for place, (sb, b) in roots.items()}

    def error_of(self, toys: dict[float, tuple[int, int]]) -> float:
        """Relative error that these toys should have; nan if there is no limit."""
        terms = self._terms(self.mu, 0.0)
        if not terms:
            return nan
        counts = {place: toys[float(self.mu[place])] for place in terms}
        return sqrt(
            sum(sb / counts[place][0] + b / counts[place][1] for place, (sb, b) in terms.items())
        )

    def _terms(self, mu: Floats, least_share: float) -> dict[int, tuple[float, float]]:
        """Relative variances of the limit due to one toy of each hypothesis, at both ends."""
        limit = self.limit
        ends = _neighbours(mu, limit)
        if ends is None:
            return {}
        share = log(limit / mu[ends[0]]) / log(mu[ends[1]] / mu[ends[0]])
        share = min(max(share, least_share), 1.0 - least_share)
        clb = float(np.interp(limit, self.mu, self.clb))
        variance_b = float(np.interp(limit, self.mu, self.variance_b))
        terms = {}
        for place, weight in zip(ends, (1.0 - share, share), strict=True):
            clsb = min(self.level * (limit / mu[place]) ** self.steepness * clb, 0.5)
            factor = (weight / self.steepness) ** 2
            terms[place] = factor * (1.0 - clsb) / clsb, factor * variance_b
        return terms


@dataclass(frozen=True, slots=True, eq=False)
class _Scan:
    """The curves of all limits, and the toys of both hypotheses that they are made of."""

    mu: Floats
    toys: dict[float, tuple[int, int]]
    curves: list[_Curve]

    @classmethod
    def of_toys(cls, found: Sequence[Point], level: float) -> _Scan:
        """Take what toys say."""
        mu = np.array([point.seen.mu for point in found])
        n_b = np.array([len(point.toys_b.q) for point in found])
        columns = list(zip(*map(_measured, found), strict=True))
        seen = np.array([p_value(point.toys_b.counted, point.seen.q).value for point in found])
        formulae = _rows([point.seen for point in found]).T
        curves = []
        for column, clb, formula in zip(columns, (seen, *_BAND_CLB), formulae, strict=True):
            value = np.array([cls.value for cls in column])
            error_b = np.array([cls.error_b for cls in column])
            curves.append(
                _Curve(
                    mu,
                    value,
                    np.array([cls.error for cls in column]),
                    np.full(len(mu), clb),
                    np.nan_to_num(
                        n_b * (error_b / np.maximum(value, level / 5.0)) ** 2, nan=_TYPICAL_B
                    ),
                    _steepness(mu, formula, level),
                    level,
                )
            )
        toys = {point.seen.mu: (len(point.toys_sb.q), len(point.toys_b.q)) for point in found}
        return cls(mu, toys, curves)

    @classmethod
    def of_formulae(cls, seen: Sequence[Observation], level: float) -> _Scan:
        """Take what asymptotic formulae say, before there are toys."""
        mu = np.array([one.mu for one in seen])
        ones = np.ones(len(mu))
        curves = [
            _Curve(
                mu,
                row,
                0.0 * ones,
                clb * ones,
                _TYPICAL_B * ones,
                _steepness(mu, row, level),
                level,
            )
            for row, clb in zip(_rows(seen).T, (0.5, *_BAND_CLB), strict=True)
        ]
        return cls(mu, {}, curves)

    @property
    def errors(self) -> list[float]:
        """Relative error of each limit, nan where there is none.

        That which is measured scatters, and a scan that ended when it happens to be small would
        promise too much: it counts for no less than the terms say.
        """
        return [max(curve.error, curve.error_of(self.toys)) for curve in self.curves]

    def needed(self, mu: Floats, goal: float) -> dict[float, tuple[int, int]]:
        """Toys of both hypotheses that each point needs, for all limits to reach a goal."""
        needs = np.full((len(mu), 2), float(FEWEST))
        for curve in self.curves:
            for place, pair in curve.needed(mu, goal).items():
                needs[place] = np.maximum(needs[place], pair)
        return {
            value: (_whole(sb), _whole(b))
            for value, (sb, b) in zip(mu.tolist(), needs.tolist(), strict=True)
        }


def _rows(seen: Sequence[Observation]) -> Floats:
    """(n_points, n_limits) CLs by asymptotic formulae."""
    return np.array([(one.asymptotic.observed, *one.asymptotic.expected) for one in seen])


def _steepness(mu: Floats, formula: Floats, level: float) -> float:
    """Fall of ln CLs with ln mu about the level, by formulae: without noise, and nearly right."""
    ends = _neighbours(mu, crossing(mu, formula, 0.0 * mu, level).value)
    if ends is None:
        return _TYPICAL_STEEPNESS
    fall = log(formula[ends[0]] / formula[ends[1]]) / log(mu[ends[1]] / mu[ends[0]])
    return max(fall, _LEAST_STEEPNESS)


def _neighbours(mu: Floats, limit: float) -> tuple[int, int] | None:
    """Points of the scan below and above a limit, if there is one."""
    if not isfinite(limit):
        return None
    above = min(max(int(np.searchsorted(mu, limit)), 1), len(mu) - 1)
    return above - 1, above


def _measured(point: Point) -> list[MeasuredCLs]:
    """CLs of the observation, then of each band."""
    q_sb, q_b = point.toys_sb.counted, point.toys_b.counted
    seen = point.seen.q
    return [cls_value(p_value(q_sb, seen), p_value(q_b, seen)), *expected_cls(q_sb, q_b)]
