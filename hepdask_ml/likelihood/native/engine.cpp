// The batched likelihood engine for processors: bounded fits of many data sets, eight at a time.
//
// Each lane of a SIMD vector holds one fit.  All lanes take the same step of the same algorithm at
// the same time (evaluate, accept or shorten, solve for the next step), each on its own data, start
// and stage; a lane that has finished takes the next fit from the queue at once, so that no lane
// waits for the slowest.
//
// The file is compiled once for each instruction set, inside namespace ENGINE; dispatch.cpp picks.
// It keeps no state between calls, allocates only its scratch, and is safe to call from any thread.

#include "lanes.h"

namespace ENGINE {

#include "algorithm.h"

// The fits of a batch, one after the other; idle lanes repeat the first.
struct Queue {
    const Model& m;
    const Batch& batch;
    int64_t next;
    int64_t held[L];

    bool take(int l, Job& job) {
        const bool more = next < batch.n_fits;
        const int64_t j = held[l] = more ? next++ : 0;
        job = {batch.data + batch.row[j] * m.n_data, batch.start + j * m.n_pars, batch.poi[j]};
        return more;
    }
    void done(int l, const State& a, int status, double nll) const {
        const int64_t j = held[l];
        for (int64_t k = 0; k < m.n_pars; ++k) batch.pars[j * m.n_pars + k] = a.x[k][l];
        for (int64_t g = 0; g < m.n_gammas; ++g) batch.gammas[j * m.n_gammas + g] = a.accepted_gamma[g][l];
        batch.nll[j] = nll;
        batch.status[j] = (int8_t)status;
    }
};

int minimise(const Model* model, const Options* options, const Batch* batch) {
    if (batch->n_fits == 0) return 0;
    try {
        Arena memory;
        const State a = make_state(*model, memory);
        set_bounds(Team{}, *model, a);
        Queue queue{*model, *batch, 0, {}};
        minimise(Team{}, *model, *options, a, queue);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

static void search_rows(const Model& m, const Search& search) {
    if (m.n_curved + m.n_reach == 0) {
        for (int64_t j = 0; j < search.n_rows; ++j) search.found[j] = 0;
        return;
    }
    Arena memory;
    const Team team;
    const State a = make_state(m, memory);
    set_bounds(team, m, a);
    const Basins basins = make_basins(m, memory, search.n_starts, team.size());
    for (int64_t first = 0; first < search.n_rows; first += L) {
        const int filled = (int)(search.n_rows - first < L ? search.n_rows - first : L);
        for (int l = 0; l < L; ++l) {
            const int64_t j = first + (l < filled ? l : 0);
            set_lane(team, m, a, l, search.data + search.row[j] * m.n_data, search.pars + j * m.n_pars, search.poi[j]);
        }
        find_basins(team, m, {search.threshold, search.reach}, a, basins);
        for (int l = 0; l < L; ++l) {
            if (l < filled)
                search.found[first + l] = basins.found[l];
            else
                basins.found[l] = 0;
        }
        follow(team, m, a, basins, [&](int l, int64_t i) {
            return search.starts + ((first + l) * search.n_starts + i) * m.n_pars;
        });
    }
}

int search(const Model* model, const Search* record) {
    try {
        search_rows(*model, *record);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace ENGINE
