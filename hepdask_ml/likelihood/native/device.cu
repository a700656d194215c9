// The engine's kernels for GPUs, compiled when they are first used, with TEAM threads for each fit.
//
// As many teams as the device holds at once are launched; each takes row after row from a queue, so
// that none waits for the slowest fit.
#define ENGINE engine_gpu
#include "device.h"
#include "team.h"

#define KERNEL extern "C" __global__ void __launch_bounds__(ENGINE::BLOCK, ENGINE::BLOCKS)

namespace ENGINE {

#include "algorithm.h"

#include "pairs.h"

// A team's memory, all zero.
static DEV Arena open_room(const Team& team, const Room& room) {
    Arena memory{team.shared(room.shared), room.scratch + team.number() * room.per_team, room.shared};
    for (int64_t i = team.rank(); i < room.shared; i += team.size()) memory.fast[i] = 0.0;
    for (int64_t i = team.rank(); i < room.per_team; i += team.size()) memory.slow[i] = 0.0;
    team.sync();
    return memory;
}

}  // namespace ENGINE

KERNEL hepdask_minimise(const Model* model, const Options* options, const Batch* batch, const Room* room) {
    using namespace ENGINE;
    const Team team;
    const Model& m = team.hold(*model);
    Arena memory = open_room(team, *room);
    const State own = make_state(m, memory);
    const State& a = team.hold(own);
    set_bounds(team, m, a);
    for (int64_t j = team.next(room->queue); j < batch->n_fits; j = team.next(room->queue)) {
        const double *data = batch->data + batch->row[j] * m.n_data, *start = batch->start + j * m.n_pars;
        const Minimum found = fit_once(team, m, *options, a, data, start, batch->poi[j], batch->pars + j * m.n_pars);
        FOR(g, m.n_gammas) batch->gammas[j * m.n_gammas + g] = a.accepted_gamma[g];
        if (team.rank() == 0) batch->nll[j] = found.nll, batch->status[j] = (int8_t)found.status;
    }
}

KERNEL hepdask_search(const Model* model, const Options*, const Search* search, const Room* room) {
    using namespace ENGINE;
    const Team team;
    const Model& m = team.hold(*model);
    Arena memory = open_room(team, *room);
    const State own = make_state(m, memory);
    const State& a = team.hold(own);
    set_bounds(team, m, a);
    const Basins own_basins = make_basins(m, memory, search->n_starts, TEAM);
    const Basins& basins = team.hold(own_basins);
    for (int64_t j = team.next(room->queue); j < search->n_rows; j = team.next(room->queue)) {
        set_lane(team, m, a, 0, search->data + search->row[j] * m.n_data, search->pars + j * m.n_pars, search->poi[j]);
        find_basins(team, m, {search->threshold, search->reach}, a, basins);
        if (team.rank() == 0) search->found[j] = basins.found[0];
        follow(team, m, a, basins, [&](int, Index i) {
            return search->starts + (j * search->n_starts + i) * m.n_pars;
        });
    }
}

KERNEL hepdask_pairs(const Model* model, const Options* options, const Pairs* pairs,
                                         const Room* room) {
    using namespace ENGINE;
    const Team team;
    const Model& m = team.hold(*model);
    Arena memory = open_room(team, *room);
    const State own = make_state(m, memory);
    const State& a = team.hold(own);
    set_bounds(team, m, a);
    const PairRoom own_room = make_pair_room(m, *pairs, memory, TEAM);
    const PairRoom& toy_room = team.hold(own_room);
    for (int64_t j = team.next(room->queue); j < pairs->n_toys; j = team.next(room->queue))
        fit_toy(team, m, *options, *pairs, a, toy_room, j);
#ifdef PROFILE
    if (team.rank() == 0)
        for (int i = 0; i < PHASES; ++i) atomicAdd((unsigned long long*)room->spent + i, team.spent[i]);
#endif
}
