"""Expected rates and likelihoods in plain numpy: the readable reference.

What the engine fits is compared with this module, and this module with pyhf.  It also answers where
one evaluation is enough, as for the expected data of toys.
"""

from __future__ import annotations

from math import lgamma, log, pi
from typing import TYPE_CHECKING

import numpy as np

from hepdask_ml.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hepdask_ml.likelihood.model import CompiledModel

    Floats = NDArray[np.float64]

# Condition (value, slope, curvature at +1 and -1) of the polynomial of code 4, and its inverse.
_POWERS = np.arange(1, 7)
_SIGNS = (-1.0) ** _POWERS
_SLOPES = _POWERS * (_POWERS - 1)
CODE4_CONDITIONS = np.array(
    [np.ones(6), _SIGNS, _POWERS, -_POWERS * _SIGNS, _SLOPES, _SLOPES * _SIGNS]
)


def expected_rates(model: CompiledModel, pars: Floats) -> Floats:
    """Give the expected number of events in each bin.

    Parameters
    ----------
    model : CompiledModel
        The model.
    pars : (n_toys, n_pars) or (n_pars,) float array
        Parameters, in pyhf's order.

    Returns
    -------
    (n_toys, n_main) float array
        Rates; they may be negative where the model extrapolates.

    Raises
    ------
    InputError
        If the number of parameters is not the model's.

    References
    ----------
    K. Cranmer et al., HistFactory, CERN-OPEN-2012-016; pyhf.Model.expected_actualdata.
    """
    pars = _checked_pars(model, pars)
    # Axes are (cell, toy) here, so that one index picks what a modifier touches in every toy.
    by_par = np.ascontiguousarray(pars.T)
    cells = np.repeat(model.nominal[:, None], len(pars), axis=1)
    odd, even = shape_interpolation(by_par, model.shape_code)
    lengths = np.diff(model.shape_start)
    par = np.repeat(model.shape_par, lengths)
    shift = odd[par] * model.shape_linear[:, None] + even[par] * model.shape_curved[:, None]
    np.add.at(cells, _ranges(model.term_start[model.shape_term], lengths), shift)
    np.multiply.at(cells, model.factor_cell, by_par[model.factor_par])

    scale = np.ones((len(model.term_bin), len(pars)))
    np.multiply.at(scale, model.scale_term, by_par[model.scale_par])
    factors = norm_factors(by_par[model.norm_par].T, model.norm_lo, model.norm_hi, model.norm_code)
    np.multiply.at(scale, model.norm_term, factors.T)

    lengths = np.diff(model.term_start)
    rates = np.zeros((model.n_main, len(pars)))
    np.add.at(rates, _ranges(model.term_bin, lengths), cells * np.repeat(scale, lengths, axis=0))
    return np.ascontiguousarray(rates.T)


def expected_data(model: CompiledModel, pars: Floats) -> Floats:
    """Give the expected main and auxiliary data.

    Parameters
    ----------
    model, pars
        As in `expected_rates`.

    Returns
    -------
    (n_toys, n_data) float array
        Rates, then the expected auxiliary data: the parameter itself for a normal constraint, tau
        times the parameter for a Poisson constraint (pyhf.Model.expected_data).

    Raises
    ------
    InputError
        If the number of parameters is not the model's.
    """
    pars = _checked_pars(model, pars)
    expected = np.empty((len(pars), model.n_data))
    expected[:, : model.n_main] = expected_rates(model, pars)
    constrained = model.constraint > 0
    expected[:, model.aux_index[constrained]] = (pars * model.tau)[:, constrained]
    return expected


def twice_nll(model: CompiledModel, pars: Floats, data: Floats) -> Floats:
    """-2 ln L, constants included (-2 pyhf.Model.logpdf).

    Parameters
    ----------
    model : CompiledModel
        The model.
    pars : (n_toys, n_pars) or (n_pars,) float array
        Parameters.
    data : (n_toys, n_data) or (n_data,) float array
        Data sets.

    Returns
    -------
    (n_toys,) float array
        -2 ln L; nan where a bin with events has a negative rate.

    Raises
    ------
    InputError
        If the number of parameters is not the model's.
    """
    data = np.atleast_2d(np.asarray(data, np.float64))
    expected = expected_data(model, pars)
    normal = model.constraint == 1
    aux = model.aux_index[normal]
    sigma = model.sigma[normal]
    counts = model.count_index
    n, rate = np.broadcast_arrays(data[:, counts], expected[:, counts])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_rate = np.log(rate)
    weighted = np.zeros(n.shape)
    np.multiply(n, log_rate, out=weighted, where=n != 0)
    factorial = np.vectorize(lgamma, otypes=[float])(n + 1.0)
    pull = (data[:, aux] - expected[:, aux]) / sigma
    poisson = (rate - weighted + factorial).sum(axis=1)
    gauss = (pull**2 + np.log(sigma**2) + log(2.0 * pi)).sum(axis=1)
    return np.asarray(2.0 * poisson + gauss)


def shape_interpolation(alpha: Floats, code: int) -> tuple[Floats, Floats]:
    """Give the two functions of alpha that histosys' shift is made of: S odd + A even.

    Parameters
    ----------
    alpha : float array
        Parameters.
    code : int
        0 (piecewise linear), 2 (quadratic inside |alpha| <= 1) or 4 (4p: a polynomial of sixth
        order inside).

    Returns
    -------
    odd, even : float array
        Of the shape of ``alpha`` (pyhf.interpolators code0, code2 and code4p).  Code 2 jumps at
        |alpha| = 1 as pyhf's does; HistFactory's definition is continuous there.
    """
    size, square = np.abs(alpha), alpha**2
    if code == 0:
        return alpha, size
    if code == 2:
        odd = np.where(alpha > 1, alpha - 1.0, alpha)
        return odd, np.where(size <= 1, square, 2.0 * np.where(alpha > 1, alpha - 1.0, size))
    inside = square * (3.0 * square**2 - 10.0 * square + 15.0) / 8.0
    return alpha, np.where(size < 1, inside, size)


def norm_factors(alpha: Floats, low: Floats, high: Floats, code: int) -> Floats:
    """Factors of normsys.

    Parameters
    ----------
    alpha : (n_toys, n_norms) float array
        Parameters.
    low, high : (n_norms,) float array
        Factors at -1 and +1.
    code : int
        1 (exponential) or 4 (exponential outside |alpha| < 1, a polynomial of sixth order inside).

    Returns
    -------
    (n_toys, n_norms) float array
        Factors (pyhf.interpolators code1 and code4).
    """
    size = np.abs(alpha)
    outside = np.where(alpha >= 0, high, low) ** size
    if code == 1:
        return outside
    coefficients = code4_coefficients(low, high)
    inside = np.zeros_like(alpha)
    for power in reversed(range(6)):
        inside = alpha * (coefficients[:, power] + inside)
    return np.where(size < 1, 1.0 + inside, outside)


def code4_coefficients(low: Floats, high: Floats) -> Floats:
    """(n_norms, 6) coefficients of alpha^1 to alpha^6 of code 4.

    The polynomial takes over value, slope and curvature of the exponentials at |alpha| = 1.

    Parameters
    ----------
    low, high : (n_norms,) float array
        Factors at -1 and +1, positive.

    Returns
    -------
    (n_norms, 6) float array
        The coefficients (pyhf.interpolators.code4).
    """
    log_low, log_high = np.log(low), np.log(high)
    values = [
        high - 1,
        low - 1,
        high * log_high,
        -low * log_low,
        high * log_high**2,
        low * log_low**2,
    ]
    return np.linalg.solve(CODE4_CONDITIONS, np.array(values)).T


def _ranges(starts: NDArray[np.intp], lengths: NDArray[np.intp]) -> NDArray[np.intp]:
    """Concatenate the ranges that begin at ``starts``."""
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.asarray(np.repeat(starts, lengths) + within, np.intp)


def _checked_pars(model: CompiledModel, pars: Floats) -> Floats:
    pars = np.atleast_2d(np.asarray(pars, np.float64))
    if pars.ndim != 2 or pars.shape[1] != model.n_pars:
        raise InputError(
            f"parameters of shape {pars.shape} do not match: give {model.n_pars} in each row"
        )
    return pars
