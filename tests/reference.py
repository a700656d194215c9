"""A fit by minuit of the same likelihood, slow and independent of the engine."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np
from iminuit import Minuit

from hepdask_ml import compile_model
from hepdask_ml.likelihood.fit import available_processors
from hepdask_ml.likelihood.rates import (
    expected_rates,
    norm_factors,
    shape_interpolation,
    twice_nll,
)

if TYPE_CHECKING:
    from hepdask_ml import CompiledModel


def minuit(model: CompiledModel, data: Any, poi: float | None, start: Any) -> tuple[float, Any]:
    """Minimise -2 ln L of one data set; gives the minimum and where it lies."""
    fixed = model.fixed.copy()
    start = np.clip(start, model.lower, model.upper)
    if poi is not None:
        fixed[model.poi_index] = True
        start[model.poi_index] = poi
    free = np.flatnonzero(~fixed)

    def pars(point: Any) -> Any:
        row = start.copy()
        row[free] = point
        return row

    def value(point: Any) -> float:
        with np.errstate(all="ignore"):
            found = float(twice_nll(model, pars(point), data)[0])
        return found if np.isfinite(found) else 1e12

    def gradient(point: Any) -> Any:
        with np.errstate(all="ignore"):
            return np.nan_to_num(slopes(model, pars(point), data)[free])

    if not len(free):
        return value([]), start
    search = Minuit(value, start[free], grad=gradient)
    search.limits = list(zip(model.lower[free], model.upper[free], strict=True))
    search.errors = np.where(model.constraint[free] == 1, model.sigma[free], 0.1)
    search.errordef = Minuit.LEAST_SQUARES
    search.print_level = 0
    search.strategy = 0
    search.tol = 1e-3
    search.migrad(ncall=20_000)
    return float(search.fval), pars(search.values)


def slopes(model: CompiledModel, pars: Any, data: Any) -> Any:
    """(n_pars,) derivatives of -2 ln L at one point, by the product rule on each cell."""
    multiplies = np.concatenate([model.scale_par, model.factor_par])
    pars = pars.copy()
    pars[multiplies] = np.where(pars[multiplies] == 0.0, 1e-12, pars[multiplies])
    one = replace(model, n_main=len(model.nominal), term_bin=model.term_start[:-1])
    content = expected_rates(one, pars)[0]  # of each cell, because each has a bin of its own
    lengths = np.diff(model.term_start)
    term = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(term)) - model.term_start[term]
    rates = expected_rates(model, pars)[0]
    pull = (1.0 - data[: model.n_main] / rates)[model.term_bin[term] + place]
    by_term = np.bincount(term, pull * content, len(lengths))

    found = np.zeros(model.n_pars)
    np.add.at(found, model.scale_par, by_term[model.scale_term] / pars[model.scale_par])
    cell = model.factor_cell
    np.add.at(found, model.factor_par, (pull * content)[cell] / pars[model.factor_par])
    np.add.at(found, model.norm_par, by_term[model.norm_term] * _log_slopes(model, pars))
    scales = _scales(model, pars)
    for s, (t, par) in enumerate(zip(model.shape_term, model.shape_par, strict=True)):
        cells = slice(model.term_start[t], model.term_start[t + 1])
        entry = slice(model.shape_start[s], model.shape_start[s + 1])
        above, below = (shape_interpolation(pars[par] + h, model.shape_code) for h in (STEP, -STEP))
        bend = (above[1] - below[1]) / (2.0 * STEP)
        shift = model.shape_linear[entry] + model.shape_curved[entry] * bend
        found[par] += pull[cells] @ (shift * scales[cells])
    normal, poisson = model.constraint == 1, model.constraint == 2
    aux = data[model.aux_index]
    found += np.where(normal, (pars - aux) / model.sigma**2, 0.0)
    found += np.where(poisson, model.tau - aux / pars, 0.0)
    return 2.0 * found


STEP = 1e-5


def _log_slopes(model: CompiledModel, pars: Any) -> Any:
    above, below = (
        norm_factors(pars[None, model.norm_par] + h, model.norm_lo, model.norm_hi, model.norm_code)
        for h in (STEP, -STEP)
    )
    return np.log(above[0] / below[0]) / (2.0 * STEP)


def _scales(model: CompiledModel, pars: Any) -> Any:
    """(n_cells,) what each cell is multiplied by."""
    flat = replace(
        model,
        n_main=len(model.nominal),
        term_bin=model.term_start[:-1],
        nominal=np.ones_like(model.nominal),
        shape_linear=np.zeros_like(model.shape_linear),
        shape_curved=np.zeros_like(model.shape_curved),
    )
    return expected_rates(flat, pars)[0]


def minuit_pairs(source: Any, data: Any, poi: float, start: Any) -> Any:
    """(n_toys, 2): fixed and free minimum of each data set, by all processors."""
    jobs = [(source, row, poi, start) for row in data]
    # spawn: the engine's threads must not be forked.
    with ProcessPoolExecutor(available_processors(), mp_context=get_context("spawn")) as pool:
        return np.array(list(pool.map(_pair, jobs, chunksize=8)))


def _pair(job: tuple[Any, Any, float, Any]) -> tuple[float, float]:
    source, row, poi, start = job
    model = compile_model(source)
    fixed, place = minuit(model, row, poi, start)
    free, _ = minuit(model, row, None, place)
    return fixed, free
