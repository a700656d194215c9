// What algorithm.h asks of a platform, for GPUs: one lane, a plain double, and a team of TEAM threads,
// which is a block; with TEAM = 1 each thread of a block fits alone.
//
// EMULATED stands for tests on a processor, with one of its threads for each of a block.  They bring
// threadIdx and its like, team_barrier(), team_values(), team_shared() and team_next().
#pragma once
#include "engine.h"

#define FOR(i, n) for (Index i = team.rank(); i < (n); i += team.size())
#define lane(value, l) (value)

// OUTLINED: what is called from several places, once in the kernel for all of them, without which
// compilers take a minute over it.
#ifdef EMULATED
#define DEV
#define OUTLINED
#else
#define DEV __device__
#define OUTLINED __noinline__
#endif

#ifdef __CUDACC_RTC__
#define INFINITY __longlong_as_double(0x7ff0000000000000ll)
#define NAN __longlong_as_double(0x7ff8000000000000ll)
#endif

#ifndef TILE
#define TILE 2
#endif

namespace ENGINE {

// Threads of a block, and blocks that a multiprocessor should have registers for.
constexpr int BLOCK = TEAM == 1 ? 64 : TEAM;
constexpr int BLOCKS = 512 / BLOCK;

constexpr int L = 1;
typedef int Index;
typedef double V;

// A lane's yes or no, with the operators of a vector's masks.
struct I {
    bool set;
    I() = default;
    DEV I(bool set) : set(set) {}
    DEV explicit operator bool() const { return set; }
    DEV I& operator|=(I other) { return set |= other.set, *this; }
    DEV I& operator&=(I other) { return set &= other.set, *this; }
};
static DEV inline I operator&(I a, I b) { return a.set && b.set; }
static DEV inline I operator~(I a) { return !a.set; }

static DEV inline V splat(double a) { return a; }
static DEV inline I isplat(long long a) { return a != 0; }
static DEV inline V pick(I mask, V yes, V no) { return mask.set ? yes : no; }
static DEV inline V vmin(V a, V b) { return a < b ? a : b; }
static DEV inline V vmax(V a, V b) { return a > b ? a : b; }
static DEV inline V vabs(V a) { return fabs(a); }
static DEV inline V vsqrt(V a) { return sqrt(a); }
static DEV inline V vexp(V a) { return exp(a); }
static DEV inline V vlog(V a) { return log(a); }
static DEV inline bool any(I mask) { return mask.set; }

// The threads that share a fit.  All of them call sync, sum, any and next together.
struct Team {
#ifdef PROFILE
    mutable unsigned long long spent[8] = {}, since = clock64();
    DEV void mark(int phase) const {
        const unsigned long long now = clock64();
        spent[phase] += now - since, since = now;
    }
#else
    DEV void mark(int) const {}
#endif
    DEV int rank() const { return TEAM == 1 ? 0 : (int)threadIdx.x; }
    DEV static constexpr int size() { return TEAM; }
    // Which team this is, of all that were launched.
    DEV int64_t number() const {
        return TEAM == 1 ? (int64_t)blockIdx.x * blockDim.x + threadIdx.x : (int64_t)blockIdx.x;
    }
    // Its place in the block's dynamic shared memory, `length` doubles for each team.
    DEV double* shared(int64_t length) const { return block_shared() + (TEAM == 1 ? threadIdx.x * length : 0); }

#ifdef EMULATED
    void sync() const {
        if (TEAM > 1) team_barrier();
    }
    V sum(V a) const {
        if (TEAM == 1) return a;
        double* values = team_values();
        values[rank()] = a;
        team_barrier();
        V total = 0.0;
        for (int i = 0; i < TEAM; ++i) total += values[i];
        team_barrier();
        return total;
    }
    I any(I a) const { return sum(a.set ? 1.0 : 0.0) > 0.0; }
    int64_t next(uint64_t* queue) const {
        if (TEAM == 1) return (int64_t)team_next(queue);
        double* values = team_values();
        if (rank() == 0) values[0] = (double)team_next(queue);
        team_barrier();
        const int64_t taken = (int64_t)values[0];
        team_barrier();
        return taken;
    }

    template <class T>
    const T& hold(const T& value) const {
        return value;
    }

  private:
    static double* block_shared() { return team_shared(); }
#else
    DEV void sync() const {
        if constexpr (TEAM == 32) __syncwarp();
        if constexpr (TEAM > 32) __syncthreads();
    }
    // The same in all threads to the last bit: they add the same numbers in the same pairs.
    DEV V sum(V a) const {
        if constexpr (TEAM > 1)
            for (int d = 16; d > 0; d /= 2) a += __shfl_xor_sync(0xffffffffu, a, d);
        if constexpr (TEAM > 32) {
            __shared__ double warps[(TEAM + 31) / 32];
            if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = a;
            __syncthreads();
            a = 0.0;
            for (int i = 0; i < TEAM / 32; ++i) a += warps[i];
            __syncthreads();
        }
        return a;
    }
    DEV I any(I a) const {
        if constexpr (TEAM == 32) return __any_sync(0xffffffffu, a.set) != 0;
        if constexpr (TEAM > 32) return __syncthreads_or(a.set) != 0;
        return a;
    }
    // Takes a number from a queue that all teams share.
    DEV int64_t next(uint64_t* queue) const {
        if constexpr (TEAM == 1) {
            return (int64_t)atomicAdd((unsigned long long*)queue, 1ull);
        } else {
            __shared__ int64_t taken;
            sync();
            if (rank() == 0) taken = (int64_t)atomicAdd((unsigned long long*)queue, 1ull);
            sync();
            return taken;
        }
    }
    // Puts what is the same for all threads of a block into its shared memory, once for each type.
    template <class T>
    DEV const T& hold(const T& value) const {
        if constexpr (TEAM == 1) {
            return value;
        } else {
            __shared__ T held;
            if (rank() == 0) held = value;
            sync();
            return held;
        }
    }

  private:
    DEV static double* block_shared() {
        extern __shared__ double dynamic_shared[];
        return dynamic_shared;
    }
#endif
};

// Memory of a team: arrays are taken from the fast part as long as they fit, then from the slow one.
struct Arena {
    double *fast, *slow;
    int64_t left;
    DEV V* take(int64_t n) {
        double*& from = n <= left ? fast : slow;
        if (n <= left) left -= n;
        V* taken = from;
        from += n;
        return taken;
    }
};

}  // namespace ENGINE
