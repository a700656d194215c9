// What algorithm.h asks of a platform, for processors: a *lane* is one entry of a SIMD vector and
// holds one fit, and a fit's team is the one thread that works on all lanes.
#pragma once
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "engine.h"

#define DEV
#define OUTLINED
#define FOR(i, n) for (Index i = 0; i < (n); ++i)

#ifndef TILE
#define TILE 2
#endif

namespace ENGINE {

using std::exp, std::fabs, std::fmax, std::fmin, std::isfinite;

constexpr int L = 8;
typedef double V __attribute__((vector_size(L * 8)));
typedef decltype(V() < V()) I;  // lane masks: all bits set or none
typedef int64_t Index;

static inline V splat(double a) { return V{a, a, a, a, a, a, a, a}; }
static inline I isplat(long long a) { return I{a, a, a, a, a, a, a, a}; }
static inline V pick(I mask, V yes, V no) { return (V)(((I)yes & mask) | ((I)no & ~mask)); }
static inline V vmin(V a, V b) { return pick(a < b, a, b); }
static inline V vmax(V a, V b) { return pick(a > b, a, b); }
static inline V vabs(V a) { return (V)((I)a & isplat(0x7fffffffffffffffLL)); }
static inline bool any(I mask) {
    long long found = 0;
    for (int l = 0; l < L; ++l) found |= mask[l];
    return found != 0;
}
static inline V vsqrt(V a) {
    V root;
    for (int l = 0; l < L; ++l) root[l] = __builtin_sqrt(a[l]);
    return root;
}

// exp by 2^n e^r with |r| <= ln2/2 and the Taylor series to r^13 (truncation below 1e-17).
static inline V vexp(V a) {
    a = vmin(vmax(a, splat(-700.0)), splat(700.0));
    const V magic = splat(6755399441055744.0);
    V n = a * splat(1.4426950408889634074) + magic;
    I power = (I)n << 52;
    n -= magic;
    V r = (a - n * splat(6.93147180369123816490e-01)) - n * splat(1.90821492927058770002e-10);
    V p = splat(1.0 / 6227020800.0);
    const double series[] = {1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0,
                             1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,     1.0 / 120.0,
                             1.0 / 24.0,        1.0 / 6.0,        0.5,             1.0,
                             1.0};
    for (double c : series) p = p * r + splat(c);
    return (V)((I)p + power);
}

// log of positive normal numbers: exponent plus the atanh series of the mantissa in [sqrt1/2, sqrt2).
static inline V vlog(V a) {
    I bits = (I)a;
    I shifted = bits - isplat(0x3fe6a09e667f3bcdLL);
    I n = shifted >> 52;
    V m = (V)(bits - (n << 52));
    V s = (m - splat(1.0)) / (m + splat(1.0));
    V z = s * s;
    V p = splat(2.0 / 21.0);
    const double series[] = {2.0 / 19.0, 2.0 / 17.0, 2.0 / 15.0, 2.0 / 13.0, 2.0 / 11.0,
                             2.0 / 9.0,  2.0 / 7.0,  2.0 / 5.0,  2.0 / 3.0};
    for (double c : series) p = p * z + splat(c);
    V e;
    for (int l = 0; l < L; ++l) e[l] = (double)n[l];
    V tail = s * z * p + e * splat(1.90821492927058770002e-10);
    return e * splat(6.93147180369123816490e-01) + (splat(2.0) * s + tail);
}

// Lane l of a value, to read or to write.
#define lane(value, l) (value)[l]

struct Team {
    void sync() const {}
    V sum(V a) const { return a; }
    I any(I a) const { return a; }
    void mark(int) const {}
    static constexpr Index rank() { return 0; }
    static constexpr Index size() { return 1; }
};

// Memory of a team, all zero at first and freed at the end.
struct Arena {
    std::vector<void*> blocks;
    V* take(Index n) {
        void* block = std::aligned_alloc(sizeof(V), sizeof(V) * (size_t)(n > 0 ? n : 1));
        if (!block) throw std::bad_alloc();
        std::memset(block, 0, sizeof(V) * (size_t)(n > 0 ? n : 1));
        blocks.push_back(block);
        return (V*)block;
    }
    ~Arena() {
        for (void* block : blocks) std::free(block);
    }
};

}  // namespace ENGINE
