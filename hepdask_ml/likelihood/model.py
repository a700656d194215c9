r"""The compiled model: a HistFactory workspace as frozen arrays.

Words: a *term* is one sample in one channel; its *cells* are its bins, which follow each other.
The expected rate of a bin is the sum over the terms that cover it,

.. math::
   \nu_b = \sum_t F_t \Big(n_{tb} + \sum_h \big[S_h \chi(\alpha_h) + A_h \varphi(\alpha_h)\big]\Big)
           \prod_f \gamma_f

with *scales* (normfactor, lumi) and *norms* (normsys) in F, *shapes* (histosys) in the bracket and
*factors* (shapefactor, shapesys, staterror) that scale single cells.  `compile` makes these
arrays, `rates` evaluates them, `kernels` lowers them for the engine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from hepdask_ml.errors import InputError, late
from hepdask_ml.likelihood.fit import DEFAULT_STARTS, Fits, checked_data, fit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledModel:
    """A workspace, one of its measurements and its data, ready to be fitted.

    Attributes
    ----------
    par_names : tuple of str
        One for each parameter, in pyhf's order (``model.config.par_names``).
    poi_index : int
        Position of the parameter of interest, -1 if there is none.
    init, lower, upper : (n_pars,) float array
        Initial values and bounds.
    fixed : (n_pars,) bool array
        Parameters held at their initial value.
    data : (n_data,) float array
        Observed main data, then auxiliary data, in pyhf's order; nan where none were observed.
    n_main : int
        Number of bins.
    channel_names : tuple of str
        Sorted, as pyhf sorts them.
    channel_start : (n_channels + 1,) int array
        Bins ``channel_start[c]:channel_start[c + 1]`` belong to channel c.
    sample_names : tuple of str
        Sorted; ``term_sample`` points into it.
    term_sample, term_bin : (n_terms,) int array
        Sample and first bin of each term.
    term_start : (n_terms + 1,) int array
        Cells ``term_start[t]:term_start[t + 1]`` belong to term t.
    nominal : (n_cells,) float array
        Nominal rates.
    scale_term, scale_par : (n_scales,) int array
        The parameter multiplies the term (normfactor, lumi).
    norm_term, norm_par : (n_norms,) int array
        The parameter scales the term by an interpolation (normsys).
    norm_lo, norm_hi : (n_norms,) float array
        Its factors at -1 and +1.
    norm_code : int
        Interpolation of normsys, 1 or 4.
    shape_term, shape_par : (n_shapes,) int array
        The parameter shifts the cells of the term (histosys).
    shape_start : (n_shapes + 1,) int array
        Offsets into the two arrays that follow.
    shape_linear, shape_curved : float array
        S = (hi - lo) / 2 and A = (hi + lo) / 2 - nominal of each cell of the term.
    shape_code : int
        Interpolation of histosys, 0, 2 or 4 (for 4p).
    factor_cell, factor_par : (n_factors,) int array
        The parameter multiplies the cell (shapefactor, shapesys, staterror).
    constraint : (n_pars,) int8 array
        0 for none, 1 for a normal and 2 for a Poisson constraint.
    aux_index : (n_pars,) int array
        Position in ``data`` of the parameter's auxiliary datum, -1 if it has none.
    sigma : (n_pars,) float array
        Width of a normal constraint, 1 elsewhere.
    tau : (n_pars,) float array
        The auxiliary datum of a Poisson constraint is expected at tau times the parameter; 1
        elsewhere.
    warnings : tuple of str
        What looks wrong in the workspace though it can be evaluated.
    """

    par_names: tuple[str, ...]
    poi_index: int
    init: Floats
    lower: Floats
    upper: Floats
    fixed: NDArray[np.bool_]
    data: Floats
    n_main: int
    channel_names: tuple[str, ...]
    channel_start: Ints
    sample_names: tuple[str, ...]
    term_sample: Ints
    term_start: Ints
    term_bin: Ints
    nominal: Floats
    scale_term: Ints
    scale_par: Ints
    norm_term: Ints
    norm_par: Ints
    norm_lo: Floats
    norm_hi: Floats
    norm_code: int
    shape_term: Ints
    shape_par: Ints
    shape_start: Ints
    shape_linear: Floats
    shape_curved: Floats
    shape_code: int
    factor_cell: Ints
    factor_par: Ints
    constraint: NDArray[np.int8]
    aux_index: Ints
    sigma: Floats
    tau: Floats
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    @property
    def digest(self) -> str:
        """Names the content: equal models have equal digests."""
        content = hashlib.blake2b(digest_size=16)
        for field in fields(self):
            value = getattr(self, field.name)
            content.update(
                value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
            )
        return content.hexdigest()

    @property
    def n_pars(self) -> int:
        """Number of parameters."""
        return len(self.par_names)

    @property
    def n_data(self) -> int:
        """Length of a data set: bins and auxiliary data."""
        return len(self.data)

    @property
    def n_aux(self) -> int:
        """Number of auxiliary data."""
        return self.n_data - self.n_main

    @property
    def count_index(self) -> Ints:
        """(n_counts,) positions in ``data`` of Poisson data: bins, then auxiliary counts."""
        return np.concatenate([np.arange(self.n_main), self.aux_index[self.constraint == 2]])

    @property
    def poi_name(self) -> str | None:
        """Name of the parameter of interest."""
        return None if self.poi_index < 0 else self.par_names[self.poi_index]

    def with_data(self, data: Floats) -> CompiledModel:
        """Put other observed data in place.

        Parameters
        ----------
        data : (n_data,) float array
            Main then auxiliary data, in pyhf's order.

        Returns
        -------
        CompiledModel
            A copy; the parts that did not change are shared.

        Raises
        ------
        InputError
            If the data have another length, are not finite or hold a negative count.
        """
        values = checked_data(self, data)
        if len(values) != 1:
            raise InputError(f"{len(values)} data sets were given as the observed one: give one")
        return replace(self, data=values[0].copy())

    def fit(
        self,
        data: Floats | None = None,
        *,
        poi: float | None = None,
        starts: int = DEFAULT_STARTS,
        init: Floats | None = None,
        threads: int | None = None,
    ) -> Fits:
        """Fit one or many data sets on the CPU; see `hepdask_ml.likelihood.fit.fit`.

        GPUs fit toys only, which they throw themselves.

        Parameters
        ----------
        data : (n_toys, n_data) or (n_data,) float array, optional
            Data sets; the observed one if not given.
        poi : float, optional
            Value at which the parameter of interest is held; free if not given.
        starts : int
            Fits at most in each round of the search for the lowest minimum.
        init : (n_pars,) float array, optional
            Where the first fit starts.
        threads : int, optional
            Threads to use; all processors of this process if not given.

        Returns
        -------
        Fits
            One row for each data set.

        Raises
        ------
        InputError
            If the data do not match the model, or there is no parameter of interest to hold.
        """
        rows = observed(self) if data is None else data
        return fit(self, rows, poi=poi, starts=starts, init=init, threads=threads)

    def __repr__(self) -> str:
        return (
            f"<CompiledModel: {len(self.channel_names)} channels, {self.n_main} bins, "
            f"{self.n_pars} parameters, POI {self.poi_name}>"
        )

    def _repr_html_(self) -> str:
        return str(late("ui.show").model_html(self))


def observed(model: CompiledModel) -> Floats:
    """(n_data,) observed data.

    Parameters
    ----------
    model : CompiledModel
        The model.

    Returns
    -------
    (n_data,) float array
        Main then auxiliary data.

    Raises
    ------
    InputError
        If the model was made without observed data.
    """
    if np.isnan(model.data).any():
        raise InputError(
            f"the model holds no observed data: give data of {model.n_main} bins and {model.n_aux} "
            "auxiliary data, in pyhf's order"
        )
    return model.data
