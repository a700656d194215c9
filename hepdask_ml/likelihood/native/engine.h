// What crosses from Python to the engine: three records of plain pointers, mirrored by kernels.py.
// Every array is C-contiguous; int64 indices; float64 values.
#pragma once
#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#else
#include <cstdint>
#endif

extern "C" {

// A compiled model, lowered: n_pars parameters are kept, n_gammas bin-local ones are profiled out.
struct Model {
    int64_t n_bins, n_pars, n_gammas, n_terms, n_cells, n_norms, n_data, n_curved, n_reach;
    int64_t poi;         // index among the kept parameters, or -1
    int64_t norm_code;   // 1 or 4
    int64_t shape_code;  // 0, 2 or 4 ("4p")
    // terms: one sample in one channel, over consecutive bins
    const int64_t* term_start;  // (n_terms + 1) offsets into the cells
    const int64_t* term_bin;    // (n_terms) first bin
    const double* nominal;      // (n_cells)
    const int64_t* cell_gamma;  // (n_cells) profiled gamma of the cell, or -1
    const int64_t* cell_term;   // (n_cells)
    const int64_t* bin_start;   // (n_bins + 1) offsets into the list of cells by bin
    const int64_t* bin_cell;    // (n_cells)
    // factors linear in a parameter, by term
    const int64_t* scale_start;  // (n_terms + 1)
    const int64_t* scale_par;
    // normsys, by term: six polynomial coefficients, log hi, log lo
    const int64_t* norm_start;  // (n_terms + 1)
    const int64_t* norm_par;
    const double* norm_coef;  // (n_norms, 8)
    // histosys, by term
    const int64_t* shape_entry_start;  // (n_terms + 1)
    const int64_t* shape_par;
    const int64_t* shape_offset;  // into the two arrays below
    const int64_t* shape_norm;    // the normsys of the same parameter in the same term, or -1
    const double* shape_linear;
    const double* shape_curved;
    // the three again, by parameter: where a parameter's entries begin, their positions, their terms
    const int64_t* par_scale_start;  // (n_pars + 1)
    const int64_t* par_scale;
    const int64_t* scale_term;
    const int64_t* par_norm_start;  // (n_pars + 1)
    const int64_t* par_norm;
    const int64_t* norm_term;
    const int64_t* par_shape_start;  // (n_pars + 1)
    const int64_t* par_shape;
    const int64_t* shape_term;
    // kept parameters
    const int64_t* par_kind;  // 0 free, 1 normal, 2 poisson
    const int64_t* par_aux;   // position in a data row, or -1
    const double* par_width;  // sigma or tau
    const double* par_lower;
    const double* par_upper;
    const int64_t* par_has_shape;
    // parameters along which a second minimum is looked for, with their terms
    const int64_t* curved_par;    // (n_curved)
    const int64_t* curved_start;  // (n_curved + 1)
    const int64_t* curved_term;
    const int64_t* curved_entry;    // among the normsys or the histosys
    const int64_t* curved_is_norm;  // 0 or 1
    const int64_t* reach_par;       // (n_reach) free parameters that are tried at their bound
    // profiled gammas, sorted by bin
    const int64_t* gamma_start;  // (n_bins + 1)
    const int64_t* gamma_kind;   // 1 normal, 2 poisson
    const int64_t* gamma_aux;
    const double* gamma_width;  // sigma or tau
    const double* gamma_lower;
    const double* gamma_upper;
};

struct Options {
    double tolerance;  // predicted fall of -ln L at which a fit has converged
    int64_t max_iterations;
};

// A batch of fits: which data row, from where, at which POI (nan: free), and what came out.
struct Batch {
    int64_t n_fits;
    const double* data;     // (n_rows, n_data)
    const int64_t* row;     // (n_fits)
    const double* start;    // (n_fits, n_pars)
    const double* poi;      // (n_fits)
    double* pars;           // (n_fits, n_pars)
    double* gammas;         // (n_fits, n_gammas)
    double* nll;            // (n_fits) without the constants of the data
    int8_t* status;         // (n_fits)
};

// Where else to start: from each minimum, up to n_starts points in other basins.
struct Search {
    int64_t n_rows, n_starts;
    double threshold;      // highest predicted -ln L above the minimum that is worth a fit
    double reach;          // highest -ln L of zero for a free parameter that is tried there
    const double* data;    // (., n_data)
    const int64_t* row;    // (n_rows)
    const double* pars;    // (n_rows, n_pars) minima
    const double* poi;     // (n_rows) nan: free
    double* starts;        // (n_rows, n_starts, n_pars)
    int32_t* found;        // (n_rows) how many of them
};

}  // extern "C"
