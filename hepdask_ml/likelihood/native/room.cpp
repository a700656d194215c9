// How much scratch a team of a GPU needs: its own text counts, and nothing is computed.
#define EMULATED
#define TEAM 1
#define ENGINE engine_room

#include <cmath>

#include "device.h"

struct Position {
    unsigned x;
};
static const Position threadIdx{0}, blockIdx{0}, blockDim{1};
static inline void team_barrier() {}
static inline double* team_values() { return nullptr; }
static inline double* team_shared() { return nullptr; }
static inline uint64_t team_next(uint64_t*) { return 0; }

#include "team.h"

namespace ENGINE {

using std::exp, std::fabs, std::fmax, std::fmin, std::isfinite, std::log, std::rint, std::sqrt;

#include "algorithm.h"

#include "pairs.h"

}  // namespace ENGINE

// Doubles of scratch for a team of n_threads, enough for each of the kernels; `hot` counts those that
// every evaluation reads and writes.
extern "C" int64_t hepdask_scratch(const Model* model, int64_t n_starts, int64_t n_shifts, int64_t n_threads,
                                   int64_t* hot) {
    using namespace ENGINE;
    static double origin;
    Arena memory{nullptr, &origin, -1};
    Pairs pairs{};
    pairs.n_starts = n_starts + 1, pairs.n_shifts = n_shifts;  // the search alone finds n_starts
    make_state(*model, memory);
    *hot = memory.slow - &origin;
    make_pair_room(*model, pairs, memory, (Index)n_threads);
    return memory.slow - &origin;
}
