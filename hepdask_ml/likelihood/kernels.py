"""The native engine behind the fits: lowers a model to its arrays and runs batches on it.

*Lowering* chooses which parameters the minimiser sees.  A gamma that scales one bin only and has
a constraint is *profiled*: its best value is known in closed form for any value of the others, so
that it is no parameter of the fit at all.  The other parameters are *kept*.

This module is the one door to the compiled library (``native/``).  Calls release the GIL and keep
no state, so that threads may run batches of one model side by side.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hepdask_ml.errors import HepdaskError
from hepdask_ml.likelihood.rates import code4_coefficients

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hepdask_ml.likelihood.model import CompiledModel

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

TOLERANCE = 1e-8
"""Predicted fall of -ln L below which the projected gradient counts as zero."""

MAX_ITERATIONS = 400
THRESHOLD = 1.0
"""Highest -ln L above the minimum, as predicted for another basin, that is worth a fit."""

REACH = 4.0
"""Rise of -ln L, as predicted, on the way to its lower bound below which a free parameter is tried
there and on its other side: 2.8 standard deviations."""

CURVED = 0.2
"""Share of even to odd response above which a parameter is searched for a second minimum."""

_NO_MEMORY = "there is not enough memory for the engine's scratch arrays: use fewer threads"
INSTRUCTION_SETS = ("base", "avx2", "avx512")


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """A model as the engine reads it.

    Attributes
    ----------
    kept, profiled : (n_kept,), (n_profiled,) int array
        Their positions among the model's parameters.
    record : ctypes structure
        The pointers; ``arrays`` keeps what they point at alive.
    """

    kept: Ints
    profiled: Ints
    record: ctypes.Structure
    arrays: dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Minima:
    """What came out of a batch of fits, one row for each.

    Attributes
    ----------
    pars : (n_fits, n_kept) float array
        Kept parameters at the minimum.
    profiled : (n_fits, n_profiled) float array
        Profiled gammas there.
    nll : (n_fits,) float array
        -ln L without the terms that depend on the data alone.
    status : (n_fits,) int8 array
        `hepdask_ml.likelihood.fit.FitStatus`.
    """

    pars: Floats
    profiled: Floats
    nll: Floats
    status: NDArray[np.int8]

    def copy(self) -> Minima:
        """Give a copy that shares nothing."""
        return Minima(
            self.pars.copy(),
            self.profiled.copy(),
            self.nll.copy(),
            self.status.copy(),
        )


_INT_FIELDS = (
    "n_bins",
    "n_pars",
    "n_gammas",
    "n_terms",
    "n_cells",
    "n_norms",
    "n_data",
    "n_curved",
    "n_reach",
    "poi",
    "norm_code",
    "shape_code",
)
_ARRAY_FIELDS = (
    "term_start", "term_bin", "nominal", "cell_gamma", "cell_term", "bin_start", "bin_cell",
    "scale_start", "scale_par",
    "norm_start", "norm_par", "norm_coef",
    "shape_entry_start", "shape_par", "shape_offset", "shape_norm", "shape_linear", "shape_curved",
    "par_scale_start", "par_scale", "scale_term",
    "par_norm_start", "par_norm", "norm_term",
    "par_shape_start", "par_shape", "shape_term",
    "par_kind", "par_aux", "par_width", "par_lower", "par_upper", "par_has_shape",
    "curved_par", "curved_start", "curved_term", "curved_entry", "curved_is_norm",
    "reach_par",
    "gamma_start", "gamma_kind", "gamma_aux", "gamma_width", "gamma_lower", "gamma_upper",
)  # fmt: skip
_SEARCH_ARRAYS = ("data", "row", "pars", "poi", "starts", "found")
_BATCH_ARRAYS = ("data", "row", "start", "poi", "pars", "gammas", "nll", "status")


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in _INT_FIELDS),
        *((name, ctypes.c_void_p) for name in _ARRAY_FIELDS),
    ]


class Options(ctypes.Structure):
    """How fits end, as the engine reads it: ``Options`` of native/engine.h."""

    _fields_ = [("tolerance", ctypes.c_double), ("max_iterations", ctypes.c_int64)]


class Batch(ctypes.Structure):
    """Fits to be done, as the engine reads them: ``Batch`` of native/engine.h."""

    _fields_ = [("n_fits", ctypes.c_int64), *((name, ctypes.c_void_p) for name in _BATCH_ARRAYS)]


class Search(ctypes.Structure):
    """Minima to search beside, as the engine reads them: ``Search`` of native/engine.h."""

    _fields_ = [
        ("n_rows", ctypes.c_int64),
        ("n_starts", ctypes.c_int64),
        ("threshold", ctypes.c_double),
        ("reach", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in _SEARCH_ARRAYS),
    ]


@cache
def library() -> ctypes.CDLL:
    """Load the compiled engine.

    Raises
    ------
    HepdaskError
        If the package was not built, as in a bare source tree.
    """
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    path = Path(__file__).parent / "native" / f"libengine{suffix}"
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise HepdaskError(
            f"the compiled engine {path.name} cannot be loaded ({error}): install with pip"
        ) from None
    loaded.hepdask_minimise.argtypes = [ctypes.c_void_p] * 3
    loaded.hepdask_search.argtypes = [ctypes.c_void_p] * 2
    return loaded


def instruction_set() -> str:
    """Name the instruction set that the engine uses on this processor."""
    return INSTRUCTION_SETS[library().hepdask_instruction_set()]


def minimise(lowered: Lowered, data: Floats, row: Ints, start: Floats, poi: Floats) -> Minima:
    """Run a batch of bounded fits.

    Parameters
    ----------
    lowered : Lowered
        The model.
    data : (n_rows, n_data) float array
        Data sets.
    row : (n_fits,) int array
        Which data set each fit takes.
    start : (n_fits, n_kept) float array
        Where each fit starts; values outside the bounds are moved to the bound.
    poi : (n_fits,) float array
        Value at which the parameter of interest is held, nan to leave it free.

    Returns
    -------
    Minima
        One row for each fit.
    """
    n_fits = len(row)
    out = Minima(
        pars=np.empty((n_fits, len(lowered.kept))),
        profiled=np.empty((n_fits, len(lowered.profiled))),
        nll=np.empty(n_fits),
        status=np.empty(n_fits, np.int8),
    )
    held: list[NDArray[Any]] = [
        np.ascontiguousarray(data, np.float64),
        np.ascontiguousarray(row, np.int64),
        np.ascontiguousarray(start, np.float64),
        np.ascontiguousarray(poi, np.float64),
    ]
    held += [out.pars, out.profiled, out.nll, out.status]
    batch = Batch(n_fits, *(array.ctypes.data for array in held))
    options = Options(TOLERANCE, MAX_ITERATIONS)
    failed = library().hepdask_minimise(
        ctypes.addressof(lowered.record), ctypes.addressof(options), ctypes.addressof(batch)
    )
    if failed:
        raise HepdaskError(_NO_MEMORY)
    return out


def other_starts(
    lowered: Lowered, data: Floats, row: Ints, pars: Floats, poi: Floats, n_starts: int
) -> tuple[Ints, Floats]:
    """Points in other basins than the given minima, most promising first.

    Parameters
    ----------
    lowered, data, row, poi
        As in `minimise`.
    pars : (n_fits, n_kept) float array
        Minima found.
    n_starts : int
        At most so many points for each.

    Returns
    -------
    index : (n_points,) int array
        Which of the minima each point belongs to.
    start : (n_points, n_kept) float array
        The points.
    """
    n_rows, n_kept = pars.shape
    starts = np.empty((n_rows, n_starts, n_kept))
    found = np.zeros(n_rows, np.int32)
    held: list[NDArray[Any]] = [
        np.ascontiguousarray(data, np.float64),
        np.ascontiguousarray(row, np.int64),
        np.ascontiguousarray(pars, np.float64),
        np.ascontiguousarray(poi, np.float64),
    ]
    record = Search(
        n_rows, n_starts, THRESHOLD, REACH, *(array.ctypes.data for array in [*held, starts, found])
    )
    if library().hepdask_search(ctypes.addressof(lowered.record), ctypes.addressof(record)):
        raise HepdaskError(_NO_MEMORY)
    index, place = np.nonzero(np.arange(n_starts) < found[:, None])
    return index, starts[index, place]


@lru_cache(maxsize=16)
def lower(model: CompiledModel) -> Lowered:
    """Lower a model to the engine's arrays.

    Parameters
    ----------
    model : CompiledModel
        The model; its constant parameters are held at their initial values.

    Returns
    -------
    Lowered
        Independent of the observed data.
    """
    split = _split_shared_factors(model, _profiled(model))
    return _pack(model, split)


@dataclass(slots=True)
class _Term:
    """One sample over consecutive bins, with what scales and shifts it."""

    bin: int
    nominal: Floats
    scales: list[int]
    norms: list[tuple[int, float, float]]
    shapes: list[tuple[int, Floats, Floats]]
    gammas: list[int]


def _profiled(model: CompiledModel) -> NDArray[np.bool_]:
    """Parameters that scale cells of one bin only, alone in each, and have a constraint."""
    cell_bin = _cell_bins(model)
    n_pars = len(model.par_names)
    first = np.full(n_pars, np.iinfo(np.int64).max)
    last = np.full(n_pars, -1)
    bins = cell_bin[model.factor_cell]
    np.minimum.at(first, model.factor_par, bins)
    np.maximum.at(last, model.factor_par, bins)
    local = (first == last) & (model.constraint > 0) & ~model.fixed & (model.lower < model.upper)
    for others in (model.scale_par, model.norm_par, model.shape_par):
        local[others] = False
    if model.poi_index >= 0:
        local[model.poi_index] = False
    # A cell with two gammas is not linear in both: the first stays profiled, the others are kept.
    taken: set[int] = set()
    for cell, par in sorted(
        zip(model.factor_cell.tolist(), model.factor_par.tolist(), strict=True)
    ):
        if not local[par]:
            continue
        if cell in taken:
            local[par] = False
        taken.add(cell)
    return np.asarray(local)


def _cell_bins(model: CompiledModel) -> Ints:
    lengths = np.diff(model.term_start)
    within = np.arange(len(model.nominal)) - np.repeat(model.term_start[:-1], lengths)
    return np.asarray(np.repeat(model.term_bin, lengths) + within, np.int64)


def _split_shared_factors(model: CompiledModel, profiled: NDArray[np.bool_]) -> list[_Term]:
    """Terms in which every kept factor scales the whole term: others are cut into single bins."""
    kept_factors: dict[int, list[int]] = {}
    gammas = np.full(len(model.nominal), -1)
    for cell, par in zip(model.factor_cell.tolist(), model.factor_par.tolist(), strict=True):
        if profiled[par]:
            gammas[cell] = par
        else:
            kept_factors.setdefault(cell, []).append(par)
    scales, norms, shapes = _by_term(model)
    terms: list[_Term] = []
    for t in range(len(model.term_bin)):
        start, stop = int(model.term_start[t]), int(model.term_start[t + 1])
        if not model.nominal[start:stop].any() and not shapes[t]:
            continue
        whole = not any(cell in kept_factors for cell in range(start, stop))
        pieces = [(start, stop)] if whole else [(cell, cell + 1) for cell in range(start, stop)]
        for low, high in pieces:
            inside = slice(low - start, high - start)
            terms.append(
                _Term(
                    bin=int(model.term_bin[t]) + low - start,
                    nominal=model.nominal[low:high],
                    scales=scales[t] + kept_factors.get(low, []),
                    norms=norms[t],
                    shapes=[
                        (par, linear[inside], curved[inside]) for par, linear, curved in shapes[t]
                    ],
                    gammas=gammas[low:high].tolist(),
                )
            )
    return terms


def _by_term(
    model: CompiledModel,
) -> tuple[
    list[list[int]], list[list[tuple[int, float, float]]], list[list[tuple[int, Floats, Floats]]]
]:
    n_terms = len(model.term_bin)
    scales: list[list[int]] = [[] for _ in range(n_terms)]
    norms: list[list[tuple[int, float, float]]] = [[] for _ in range(n_terms)]
    shapes: list[list[tuple[int, Floats, Floats]]] = [[] for _ in range(n_terms)]
    for t, par in zip(model.scale_term.tolist(), model.scale_par.tolist(), strict=True):
        scales[t].append(par)
    for i, t in enumerate(model.norm_term.tolist()):
        norms[t].append((int(model.norm_par[i]), float(model.norm_lo[i]), float(model.norm_hi[i])))
    for i, t in enumerate(model.shape_term.tolist()):
        part = slice(int(model.shape_start[i]), int(model.shape_start[i + 1]))
        shapes[t].append(
            (int(model.shape_par[i]), model.shape_linear[part], model.shape_curved[part])
        )
    return scales, norms, shapes


def _pack(model: CompiledModel, terms: list[_Term]) -> Lowered:
    used = [g for term in terms for g in term.gammas]
    bin_of_gamma = {g: term.bin + i for term in terms for i, g in enumerate(term.gammas) if g >= 0}
    profiled = np.array(sorted(bin_of_gamma, key=lambda g: (bin_of_gamma[g], g)), np.int64)
    kept = np.setdiff1d(np.arange(len(model.par_names)), profiled)
    slot = np.full(len(model.par_names) + 1, -1, np.int64)  # the last entry serves "no gamma"
    slot[profiled] = np.arange(len(profiled))
    place = np.full(len(model.par_names), -1, np.int64)
    place[kept] = np.arange(len(kept))

    fixed = model.fixed[kept]
    norms = [norm for term in terms for norm in term.norms]
    norm_of = _norm_positions(terms)
    shapes = [(t, *shape) for t, term in enumerate(terms) for shape in term.shapes]
    has_shape = np.zeros(len(model.par_names), np.int64)
    has_shape[[par for _, par, _, _ in shapes]] = 1
    curved = _curved(model, terms, place)
    gamma_bins = np.array([bin_of_gamma[g] for g in profiled.tolist()], np.int64)
    arrays = {
        "term_start": _offsets([len(term.nominal) for term in terms]),
        "term_bin": _ints([term.bin for term in terms]),
        "nominal": _joined([term.nominal for term in terms]),
        "cell_gamma": slot[_ints(used)],
        "scale_start": _offsets([len(term.scales) for term in terms]),
        "scale_par": place[_ints([par for term in terms for par in term.scales])],
        "norm_start": _offsets([len(term.norms) for term in terms]),
        "norm_par": place[_ints([par for par, _, _ in norms])],
        "norm_coef": _norm_coefficients(
            np.array([lo for _, lo, _ in norms]),
            np.array([hi for _, _, hi in norms]),
            model.norm_code,
        ),
        "shape_entry_start": _offsets([len(term.shapes) for term in terms]),
        "shape_par": place[_ints([par for _, par, _, _ in shapes])],
        "shape_offset": _offsets([len(linear) for _, _, linear, _ in shapes])[:-1],
        "shape_norm": _ints([norm_of.get((t, par), -1) for t, par, _, _ in shapes]),
        "shape_linear": _joined([linear for _, _, linear, _ in shapes]),
        "shape_curved": _joined([curved for _, _, _, curved in shapes]),
        "par_kind": model.constraint[kept].astype(np.int64),
        "par_aux": model.aux_index[kept].astype(np.int64),
        "par_width": np.where(model.constraint[kept] == 2, model.tau[kept], model.sigma[kept]),
        "par_lower": np.where(fixed, model.init[kept], model.lower[kept]),
        "par_upper": np.where(fixed, model.init[kept], model.upper[kept]),
        "par_has_shape": has_shape[kept],
        **curved,
        "gamma_start": np.searchsorted(gamma_bins, np.arange(model.n_main + 1)).astype(np.int64),
        "gamma_kind": model.constraint[profiled].astype(np.int64),
        "gamma_aux": model.aux_index[profiled].astype(np.int64),
        "gamma_width": np.where(
            model.constraint[profiled] == 2, model.tau[profiled], model.sigma[profiled]
        ),
        "gamma_lower": model.lower[profiled],
        "gamma_upper": model.upper[profiled],
    }
    poi = int(place[model.poi_index]) if model.poi_index >= 0 else -1
    for kind in ("scale", "norm", "shape"):
        arrays |= _by_parameter(kind, arrays, len(kept))
    arrays |= _by_bin(arrays, model.n_main)
    arrays["reach_par"] = _within_reach(arrays, poi)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    sizes = (
        model.n_main, len(kept), len(profiled), len(terms), len(used), len(norms),
        len(model.data), len(curved["curved_par"]), len(arrays["reach_par"]),
        poi,
        model.norm_code, model.shape_code,
    )  # fmt: skip
    record = _Model(*sizes, *(arrays[name].ctypes.data for name in _ARRAY_FIELDS))
    return Lowered(kept, profiled, record, arrays)


def _curved(model: CompiledModel, terms: list[_Term], place: Ints) -> dict[str, Ints]:
    """Gaussian-constrained parameters whose effect is not odd in alpha, with their entries."""
    entries: dict[int, list[tuple[int, int, int]]] = {}
    bent: set[int] = set()
    norm = shape = 0
    for t, term in enumerate(terms):
        for par, low, high in term.norms:
            entries.setdefault(par, []).append((t, norm, 1))
            if abs(high + low - 2) > CURVED * abs(high - low):
                bent.add(par)
            norm += 1
        for par, linear, curved in term.shapes:
            entries.setdefault(par, []).append((t, shape, 0))
            if np.abs(curved).sum() > CURVED * np.abs(linear).sum():
                bent.add(par)
            shape += 1
    chosen = [p for p in sorted(bent) if model.constraint[p] == 1 and not model.fixed[p]]
    rows = [row for par in chosen for row in entries[par]]
    return {
        "curved_par": place[_ints(chosen)],
        "curved_start": _offsets([len(entries[par]) for par in chosen]),
        "curved_term": _ints([t for t, _, _ in rows]),
        "curved_entry": _ints([entry for _, entry, _ in rows]),
        "curved_is_norm": _ints([is_norm for _, _, is_norm in rows]),
    }


def _by_parameter(kind: str, arrays: dict[str, NDArray[Any]], n_pars: int) -> dict[str, Ints]:
    """Entries of one kind in the order of their parameters, and the term of each entry."""
    start = arrays["shape_entry_start" if kind == "shape" else f"{kind}_start"]
    pars = arrays[f"{kind}_par"]
    return {
        f"{kind}_term": np.repeat(np.arange(len(start) - 1), np.diff(start)),
        f"par_{kind}": np.argsort(pars, kind="stable"),
        f"par_{kind}_start": np.concatenate([[0], np.cumsum(np.bincount(pars, minlength=n_pars))]),
    }


def _by_bin(arrays: dict[str, NDArray[Any]], n_bins: int) -> dict[str, Ints]:
    """Cells in the order of their bins, and the term of each cell."""
    lengths = np.diff(arrays["term_start"])
    term = np.repeat(np.arange(len(lengths)), lengths)
    bins = arrays["term_bin"][term] + np.arange(len(term)) - arrays["term_start"][term]
    return {
        "cell_term": term,
        "bin_cell": np.argsort(bins, kind="stable"),
        "bin_start": np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=n_bins))]),
    }


def _within_reach(arrays: dict[str, NDArray[Any]], poi: int) -> Ints:
    """Free parameters whose lower bound is worth a try: see `REACH`."""
    free = (arrays["par_kind"] == 0) & (arrays["par_lower"] < arrays["par_upper"])
    return np.flatnonzero(free & (np.arange(len(free)) != poi))


def _norm_positions(terms: list[_Term]) -> dict[tuple[int, int], int]:
    positions: dict[tuple[int, int], int] = {}
    position = 0
    for t, term in enumerate(terms):
        for par, _, _ in term.norms:
            positions[t, par] = position
            position += 1
    return positions


def _ints(values: list[int]) -> Ints:
    return np.array(values, np.int64)


def _offsets(lengths: list[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _joined(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.empty(0)


def _norm_coefficients(low: Floats, high: Floats, code: int) -> Floats:
    """(n_norms, 8): the six coefficients of code 4 (zero for code 1), then log hi, log lo."""
    polynomial = code4_coefficients(low, high) if code == 4 else np.zeros((len(low), 6))
    return np.column_stack([polynomial, np.log(high), np.log(low)])
