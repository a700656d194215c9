// A toy from the throw to its two minima, for one team.  The same steps as fit.fit_pair, which takes
// them for a whole chunk of toys at once; tests hold the two together.
//
// Included by device.cu and room.cpp behind algorithm.h, inside namespace ENGINE.

// As in fit.py, which says what they mean.
constexpr int MAX_ROUNDS = 4;
constexpr double DISTINCT = 1e-4;
constexpr double RUNNER_UP = 1.0;
constexpr double SAME_MINIMUM = 1e-7;

// A fit by itself.
struct Single {
    Job job;
    bool left;
    int status;
    double nll;
    DEV bool take(int, Job& taken) {
        taken = job;
        const bool had = left;
        left = false;
        return had;
    }
    DEV void done(int, const State&, int how, double at) { status = how, nll = at; }
};

// A minimum that a fit has found; `pars` are the team's.
struct Minimum {
    double* pars;
    double nll;
    int status;
};

// What a team needs beside the state of one fit.
struct PairRoom {
    Basins basins;
    double *data, *starts;              // (n_data) the toy, and (n_starts - 1, n_pars) where to fit next
    double *fixed, *best, *candidate, *lowest;  // (n_pars) each
    double *tried_pars, *tried_nll;     // minima of the fixed fits, first to last
};

static DEV PairRoom make_pair_room(const Model& m, const Pairs& pairs, Arena& memory, Index n_threads) {
    const Index K = m.n_pars, beside = pairs.n_starts - 1;
    const Index most = 1 + MAX_ROUNDS * beside + pairs.n_shifts;
    PairRoom room;
    room.data = memory.take(m.n_data);
    room.fixed = memory.take(K), room.best = memory.take(K);
    room.candidate = memory.take(K), room.lowest = memory.take(K);
    room.basins = make_basins(m, memory, beside, n_threads);
    room.starts = memory.take(beside * K);
    room.tried_pars = memory.take(most * K), room.tried_nll = memory.take(most);
    return room;
}

// Fits one toy with the POI held at `poi` (nan: free), from `start`; the point goes to `into`.
static OUTLINED DEV Minimum fit_once(const Team& team, const Model& m, const Options& options, Arrays a,
                                     const double* data, const double* start, double poi, double* into) {
    Single single{{data, start, poi}, true, NOT_FINITE, INFINITY};
    minimise(team, m, options, a, single);
    FOR(k, m.n_pars) into[k] = a.x[k];
    team.sync();
    return {into, single.nll, single.status};
}

static DEV void copy(const Team& team, const double* from, Index n, double* to) {
    FOR(k, n) to[k] = from[k];
    team.sync();
}

// Puts a lower minimum in the place of another; `best` keeps its own array.
static DEV bool take_lower(const Team& team, const Model& m, const Minimum& found, Minimum& best) {
    if (!isfinite(found.nll) || found.nll > best.nll - SAME_MINIMUM) return false;
    best.nll = found.nll, best.status = found.status;
    copy(team, found.pars, m.n_pars, best.pars);
    return true;
}

static DEV void keep(const Team& team, const Model& m, const PairRoom& room, int& n_tried, const Minimum& found) {
    copy(team, found.pars, m.n_pars, room.tried_pars + n_tried * m.n_pars);
    if (team.rank() == 0) room.tried_nll[n_tried] = found.nll;
    ++n_tried;
    team.sync();
}

// Whether minimum i of the fixed fits is worth a start of the free one: not the best itself, not much
// higher, and the first of its height.
static DEV bool runner_up(const PairRoom& room, double best, int i) {
    const double gap = room.tried_nll[i] - best;
    if (!(gap > DISTINCT && gap < RUNNER_UP)) return false;
    for (int j = 0; j < i; ++j) {
        const double other = room.tried_nll[j] - best;
        const bool near = other > DISTINCT && other < RUNNER_UP;
        if (near && rint(room.tried_nll[j] / DISTINCT) == rint(room.tried_nll[i] / DISTINCT)) return false;
    }
    return true;
}

// Fits from `start`, then from promising basins beside, until none is lower; fills `best` and tells
// whether it left its first basin.  The fixed fits (`at` is null) keep what they try, the free one
// also starts from the runners-up of `at`.
static OUTLINED DEV bool fit_lowest(const Team& team, const Model& m, const Options& options, const Pairs& pairs,
                                    Arrays a, const PairRoom& room, int& n_tried, const double* start, double poi,
                                    const Minimum* at, Minimum& best) {
    const Index K = m.n_pars, beside = pairs.n_starts - 1;
    best = fit_once(team, m, options, a, room.data, start, poi, best.pars);
    if (!at) keep(team, m, room, n_tried, best);
    if (beside < 1) return false;
    bool moved = false;
    for (int round = 0; round < MAX_ROUNDS; ++round) {
        int n_beside = 0;
        if (m.n_curved + m.n_reach > 0) {
            set_lane(team, m, a, 0, room.data, best.pars, poi);
            find_basins(team, m, {pairs.threshold, pairs.reach}, a, room.basins);
            follow(team, m, a, room.basins, [&](int, Index i) { return room.starts + i * K; });
            n_beside = room.basins.found[0];
        }
        const int n_shifts = round == 0 ? (int)pairs.n_shifts : 0;
        const int n_also = round == 0 && at ? n_tried : 0;
        // The lowest of this round: fits start around the best of the one before.
        Minimum lowest{room.lowest, INFINITY, NOT_FINITE};
        auto try_from = [&](const double* point) {
            const Minimum found = fit_once(team, m, options, a, room.data, point, poi, room.candidate);
            if (!at) keep(team, m, room, n_tried, found);
            if (!(found.nll < lowest.nll)) return;
            lowest.nll = found.nll, lowest.status = found.status;
            copy(team, found.pars, K, lowest.pars);
        };
        for (int i = 0; i < n_beside; ++i) try_from(room.starts + i * K);
        for (int i = 0; i < n_shifts; ++i) {
            FOR(k, K) room.candidate[k] = best.pars[k] + pairs.shifts[i * K + k];
            team.sync();
            try_from(room.candidate);
        }
        for (int i = 0; i < n_also; ++i)
            if (runner_up(room, at->nll, i)) try_from(room.tried_pars + i * K);
        if (!take_lower(team, m, lowest, best)) break;
        moved = true;
    }
    return moved;
}

// Both minima of toy `j` of the batch.  Each takes over the basins that the other finds, so that the
// free minimum never lies above the fixed one.
static DEV void fit_toy(const Team& team, const Model& m, const Options& options, const Pairs& pairs, Arrays a,
                        const PairRoom& room, int64_t j) {
    const double free = NAN;
    if (pairs.data)
        FOR(i, m.n_data) room.data[i] = pairs.data[j * m.n_data + i];
    else
        FOR(i, pairs.thrown.n_counts + pairs.thrown.n_normals)
            room.data[throw_place(pairs.thrown, i)] = throw_datum(pairs.thrown, pairs.first + j, i);
    team.sync();
    team.mark(THROWING);
    int n_tried = 0;
    Minimum fixed{room.fixed, INFINITY, NOT_FINITE}, anywhere{room.best, INFINITY, NOT_FINITE};
    fit_lowest(team, m, options, pairs, a, room, n_tried, pairs.start, pairs.poi, nullptr, fixed);
    const bool moved = fit_lowest(team, m, options, pairs, a, room, n_tried, fixed.pars, free, &fixed, anywhere);
    if (moved) {
        Minimum found = fit_once(team, m, options, a, room.data, anywhere.pars, pairs.poi, room.candidate);
        if (take_lower(team, m, found, fixed)) {
            found = fit_once(team, m, options, a, room.data, fixed.pars, free, room.candidate);
            take_lower(team, m, found, anywhere);
        }
    }
    if (team.rank() == 0) {
        pairs.poi_hat[j] = anywhere.pars[m.poi];
        pairs.nll_fixed[j] = fixed.nll, pairs.nll_free[j] = anywhere.nll;
        pairs.status_fixed[j] = (int8_t)fixed.status, pairs.status_free[j] = (int8_t)anywhere.status;
    }
}
