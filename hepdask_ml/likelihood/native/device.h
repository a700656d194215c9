// What crosses from Python to a GPU beside the engine's records, mirrored by kernels_gpu.py.
#pragma once
#include "engine.h"
#include "throw.h"

// Toys, thrown or given, of which each is fitted twice.
struct Pairs {
    int64_t n_toys, first;  // the numbers of the toys thrown begin there
    const double* data;     // (n_toys, n_data), or null: thrown
    Throw thrown;
    const double* start;    // (n_pars) where the first fixed fit starts
    double poi;
    int64_t n_starts;       // fits of a toy in one round at most, without the random ones
    int64_t n_shifts;
    const double* shifts;   // (n_shifts, n_pars) steps of random starts from the first minimum
    double threshold, reach;
    double* poi_hat;        // (n_toys), as all that follow
    double* nll_fixed;
    double* nll_free;
    int8_t* status_fixed;
    int8_t* status_free;
};

// Room on a GPU: scratch for each team that is resident, of which some lies in shared memory.
struct Room {
    double* scratch;    // per_team doubles for each
    int64_t per_team;
    int64_t shared;     // doubles of shared memory for each
    uint64_t* queue;    // 0 at first: how many rows were taken
    uint64_t* spent;    // with PROFILE: clock ticks of all teams by phase, added up; else not used
};
