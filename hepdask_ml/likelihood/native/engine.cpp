// The batched likelihood engine: bounded fits of many data sets, eight at a time.
//
// Idea.  A *lane* is one entry of a SIMD vector, and each lane holds one fit.  All lanes take the
// same step of the same algorithm at the same time (evaluate, accept or shorten, solve for the next
// step), each on its own data, start and stage; a lane that has finished takes the next fit from
// the queue at once, so that no lane waits for the slowest.
//
// Algorithm.  Newton's method with bounds on the parameters that are left after every bin-local
// gamma was profiled out in closed form.  The Hessian is D + J^T W J: D holds the constraints and
// the diagonal second derivatives of the rates, J the Jacobian of the rates and W the weights of
// the bins.  It is solved in the space of the bins (Woodbury) where these are fewer than the
// parameters, otherwise in the space of the parameters.
//
// The file is compiled once for each instruction set, inside namespace ENGINE; dispatch.cpp picks.
// It keeps no state between calls, allocates only its scratch, and is safe to call from any thread.

#include "engine.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

namespace ENGINE {

constexpr int L = 8;
typedef double V __attribute__((vector_size(L * 8)));
typedef decltype(V() < V()) I;  // lane masks: all bits set or none
typedef int64_t i64;

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

// A bin without events does not reward a negative rate by more than this: pyhf's Poisson term would
// fall without end.  Quadratic over a narrow zone below zero, so that Newton sees a curve.
constexpr double FLOOR = 1e-5;

constexpr double HUGE_NLL = 1e300;

struct Scratch {
    std::vector<void*> blocks;
    V* take(i64 n) {
        void* block = std::aligned_alloc(sizeof(V), sizeof(V) * (size_t)(n > 0 ? n : 1));
        if (!block) throw std::bad_alloc();
        std::memset(block, 0, sizeof(V) * (size_t)(n > 0 ? n : 1));
        blocks.push_back(block);
        return (V*)block;
    }
    ~Scratch() {
        for (void* block : blocks) std::free(block);
    }
};

struct Lanes {
    // the data of each lane
    V *n, *aux, *gamma_aux;
    // the point evaluated and what was found there
    V *trial, *J, *W, *r, *rate, *diag, *grad, *gamma;
    V nll;
    I floored;
    // per term and per entry
    V *F, *base, *weighted, *dlog, *curve, *odd, *phi, *dphi, *ddphi, *response;
    // the accepted point and the step from it
    V *x, *step, *accepted_gamma;
    V accepted_nll, slope, length;
    // linear algebra
    V *dinv, *Js, *M, *rhs, *scaled, *newton;
};

static Lanes make_lanes(const Model& m, Scratch& s) {
    Lanes a{};
    const i64 B = m.n_bins, K = m.n_pars, G = m.n_gammas;
    a.n = s.take(B), a.aux = s.take(K), a.gamma_aux = s.take(G);
    a.trial = s.take(K), a.J = s.take(B * K), a.W = s.take(B), a.r = s.take(B), a.rate = s.take(B);
    a.diag = s.take(K), a.grad = s.take(K), a.gamma = s.take(G);
    a.F = s.take(m.n_terms), a.base = s.take(m.n_cells), a.weighted = s.take(m.n_cells);
    a.dlog = s.take(m.n_norms), a.curve = s.take(m.n_norms);
    a.odd = s.take(K), a.phi = s.take(K), a.dphi = s.take(K), a.ddphi = s.take(K);
    a.response = s.take(B);
    a.x = s.take(K), a.step = s.take(K), a.accepted_gamma = s.take(G);
    a.dinv = s.take(K), a.Js = s.take(B * K), a.scaled = s.take(K), a.newton = s.take(K);
    const i64 rank = B < K ? B : K;
    a.M = s.take(rank * rank), a.rhs = s.take(rank);
    return a;
}

// The odd part and phi of histosys, with phi's two derivatives, for each parameter that has one
// (HistFactory codes 0, 2 and 4p).  Code 2 jumps at |alpha| = 1, because pyhf.interpolators.code2 does.
static void interpolate_shapes(const Model& m, Lanes& a) {
    const V one = splat(1.0), zero = splat(0.0);
    for (i64 k = 0; k < m.n_pars; ++k) {
        if (!m.par_has_shape[k]) continue;
        V x = a.trial[k], ax = vabs(x), sign = pick(x < zero, -one, one);
        I inside = ax < one;
        a.odd[k] = x;
        if (m.shape_code == 0) {
            a.phi[k] = ax, a.dphi[k] = sign, a.ddphi[k] = zero;
        } else if (m.shape_code == 2) {
            I above = x > one;
            a.odd[k] = pick(above, x - one, x);
            a.phi[k] = pick(ax <= one, x * x, splat(2.0) * pick(above, x - one, ax));
            a.dphi[k] = pick(ax <= one, splat(2.0) * x, splat(2.0) * sign);
            a.ddphi[k] = pick(ax <= one, splat(2.0), zero);
        } else {
            V z = x * x;
            a.phi[k] = pick(inside, splat(0.125) * z * ((splat(3.0) * z - splat(10.0)) * z + splat(15.0)), ax);
            a.dphi[k] = pick(inside, splat(0.25) * x * ((splat(9.0) * z - splat(20.0)) * z + splat(15.0)), sign);
            a.ddphi[k] = pick(inside, splat(0.25) * ((splat(45.0) * z - splat(60.0)) * z + splat(15.0)), zero);
        }
    }
}

// F of one term: normfactors times normsys (code 1 and 4), with f'/f and f''/f of each normsys.
static inline V term_factor(const Model& m, Lanes& a, i64 t) {
    const V one = splat(1.0), zero = splat(0.0);
    V F = one, exponent = zero;
    I outside_seen = isplat(0);
    for (i64 e = m.norm_start[t]; e < m.norm_start[t + 1]; ++e) {
        const double* c = m.norm_coef + 8 * e;
        V x = a.trial[m.norm_par[e]];
        V slope = pick(x < zero, splat(-c[7]), splat(c[6]));
        I outside = m.norm_code == 4 ? (vabs(x) >= one) : isplat(-1);
        V dlog = slope, curve = slope * slope;
        if (m.norm_code == 4) {
            V p = splat(c[5]), dp, ddp;
            dp = splat(6.0 * c[5]), ddp = splat(30.0 * c[5]);
            p = p * x + splat(c[4]), dp = dp * x + splat(5.0 * c[4]), ddp = ddp * x + splat(20.0 * c[4]);
            p = p * x + splat(c[3]), dp = dp * x + splat(4.0 * c[3]), ddp = ddp * x + splat(12.0 * c[3]);
            p = p * x + splat(c[2]), dp = dp * x + splat(3.0 * c[2]), ddp = ddp * x + splat(6.0 * c[2]);
            p = p * x + splat(c[1]), dp = dp * x + splat(2.0 * c[1]), ddp = ddp * x + splat(2.0 * c[1]);
            p = p * x + splat(c[0]), dp = dp * x + splat(c[0]);
            p = p * x + one;
            V inverse = one / p;
            dlog = pick(outside, slope, dp * inverse);
            curve = pick(outside, curve, ddp * inverse);
            F *= pick(outside, one, p);
        }
        exponent += pick(outside, slope * x, zero);
        outside_seen |= outside;
        a.dlog[e] = dlog;
        a.curve[e] = curve;
    }
    if (any(outside_seen)) F *= vexp(exponent);
    for (i64 e = m.scale_start[t]; e < m.scale_start[t + 1]; ++e) F *= a.trial[m.scale_par[e]];
    return F;
}

// The term without one of its normfactors: the derivative with respect to that one.
static inline V factor_without(const Model& m, Lanes& a, i64 t, i64 left_out) {
    V x = a.trial[m.scale_par[left_out]];
    const I null = x == splat(0.0);
    const V divided = a.F[t] / pick(null, splat(1.0), x);
    if (!any(null)) return divided;
    V F = splat(1.0), exponent = splat(0.0);
    for (i64 e = m.norm_start[t]; e < m.norm_start[t + 1]; ++e) {
        const double* c = m.norm_coef + 8 * e;
        V y = a.trial[m.norm_par[e]];
        I outside = m.norm_code == 4 ? (vabs(y) >= splat(1.0)) : isplat(-1);
        V p = splat(c[5]);
        for (int i = 4; i >= 0; --i) p = p * y + splat(c[i]);
        F *= pick(outside, splat(1.0), p * y + splat(1.0));
        exponent += pick(outside, y * pick(y < splat(0.0), splat(-c[7]), splat(c[6])), splat(0.0));
    }
    F *= vexp(exponent);
    for (i64 e = m.scale_start[t]; e < m.scale_start[t + 1]; ++e)
        if (e != left_out) F *= a.trial[m.scale_par[e]];
    return pick(null, F, divided);  // no lane's digits depend on its neighbours
}

// A gamma at its best value for a given r = 1 - n/rate, and -A dgamma/dr >= 0.
static inline V best_gamma(const Model& m, const Lanes& a, i64 g, V A, V r, V* stiffness) {
    V value;
    if (m.gamma_kind[g] == 1) {
        const double variance = m.gamma_width[g] * m.gamma_width[g];
        value = a.gamma_aux[g] - splat(variance) * A * r;
        *stiffness = A * A * splat(variance);
    } else {
        V down = vmax(splat(m.gamma_width[g]) + A * r, splat(1e-12 * m.gamma_width[g]));
        value = a.gamma_aux[g] / down;
        *stiffness = A * A * value / down;
    }
    V low = splat(m.gamma_lower[g]), high = splat(m.gamma_upper[g]);
    *stiffness = pick((value > low) & (value < high), *stiffness, splat(0.0));
    return vmin(vmax(value, low), high);
}

// 1 - n/rate with the floor, its derivative n/rate^2, and the Poisson term rate - n log rate.
static inline void poisson(V n, V rate, V* r, V* w, V* term, I* bad, I* low) {
    const V zero = splat(0.0), one = splat(1.0), floor = splat(FLOOR);
    I empty = n <= zero, positive = rate > zero;
    V safe = pick(positive, vmax(rate, splat(1e-290)), one);
    V inverse = one / safe;
    I in_zone = empty & (rate < zero);
    I below = empty & (rate < splat(-2.0) * floor);
    V r0 = one - n * inverse;
    *r = pick(in_zone, pick(below, zero, one + rate * splat(0.5 / FLOOR)), r0);
    *w = pick(in_zone, pick(below, zero, splat(0.5 / FLOOR)), n * inverse * inverse);
    *term = pick(empty, pick(in_zone, pick(below, -floor, rate + rate * rate * splat(0.25 / FLOOR)), rate),
                 rate - n * vlog(safe));
    *bad |= (~empty) & (~positive);
    *low |= empty & (rate < zero);
}

// Profiles the gammas of one bin: rate = B + sum_j gamma_j A_j, each gamma at its best.
static void profile_bin(const Model& m, Lanes& a, i64 b, V B, const V* A) {
    const V zero = splat(0.0), half = splat(0.5), four = splat(4.0);
    const i64 g0 = m.gamma_start[b], g1 = m.gamma_start[b + 1];
    V n = a.n[b], rate, stiffness, sum = zero;
    if (g1 == g0) {
        a.rate[b] = B;
        a.response[b] = zero;
        return;
    }
    if (g1 == g0 + 1) {
        V a0 = A[0], aux = a.gamma_aux[g0];
        V low = splat(m.gamma_lower[g0]), high = splat(m.gamma_upper[g0]), value;
        if (m.gamma_kind[g0] == 1) {
            V pull = a0 * a0 * splat(m.gamma_width[g0] * m.gamma_width[g0]);
            V bend = pull - (B + aux * a0);
            V root = vsqrt(bend * bend + four * pull * n);
            rate = pick(bend > zero, splat(2.0) * pull * n / pick(bend > zero, bend + root, splat(1.0)),
                        half * (root - bend));
            V r = pick(n > zero, splat(1.0) - n / vmax(rate, splat(1e-290)), splat(1.0));
            value = aux - splat(m.gamma_width[g0] * m.gamma_width[g0]) * a0 * r;
            // An empty bin whose best gamma would make the rate negative is left at rate zero.
            I dry = (n <= zero) & (bend > zero) & (a0 != zero);
            value = pick(dry, pick(B <= zero, vmin(aux, value), -B / pick(a0 == zero, splat(1.0), a0)), value);
            I free = (value > low) & (value < high);
            sum = pick(free & ~dry, pull, zero);
        } else {
            const double tau = m.gamma_width[g0];
            V quad = a0 * (a0 + splat(tau));
            V lin = a0 * (B - n) + splat(tau) * B - aux * a0;
            V con = -aux * B;
            V disc = vsqrt(vmax(lin * lin - four * quad * con, zero));
            I usual = quad > zero;
            V up = half * (disc - lin) / pick(usual, quad, splat(1.0));
            V down = splat(-2.0) * con / pick(lin + disc > zero, lin + disc, splat(1.0));
            value = pick(lin > zero, down, up);
            value = pick(usual, value, aux / splat(tau));
            I free = (value > low) & (value < high) & (aux > zero);
            sum = pick(free, a0 * a0 * value * value / pick(aux > zero, aux, splat(1.0)), zero);
        }
        value = vmin(vmax(value, low), high);
        a.gamma[g0] = value;
        a.rate[b] = B + value * a0;
        a.response[b] = sum;
        return;
    }
    // Several gammas: rate - B - sum_j A_j gamma_j(1 - n/rate) rises with the rate; bracketed Newton.
    V top = B, nominal = B;
    for (i64 g = g0; g < g1; ++g) {
        V s;
        nominal += A[g - g0] * best_gamma(m, a, g, A[g - g0], zero, &s);
        top += vabs(A[g - g0]) * splat(m.gamma_upper[g]);
    }
    rate = vmax(nominal, splat(1e-10));
    V left = splat(0.0), right = vmax(vmax(nominal, n), vmax(top, splat(1e-9))) + splat(1.0);
    I moving = isplat(-1);  // a lane that has arrived rests while its neighbours go on
    for (int i = 0; i < 60; ++i) {
        V inverse = splat(1.0) / rate;
        V r = splat(1.0) - n * inverse, w = n * inverse * inverse;
        V gap = rate - B, slope = splat(1.0);
        for (i64 g = g0; g < g1; ++g) {
            gap -= A[g - g0] * best_gamma(m, a, g, A[g - g0], r, &stiffness);
            slope += w * stiffness;
        }
        left = pick(gap < zero, rate, left);
        right = pick(gap < zero, right, rate);
        V next = rate - gap / slope;
        next = pick((next > left) & (next < right), next, half * (left + right));
        const I far = vabs(next - rate) > splat(1e-14) * rate;
        rate = pick(moving, next, rate);
        moving &= far;
        if (!any(moving)) break;
    }
    V r = pick(n > zero, splat(1.0) - n / rate, splat(1.0));
    V total = B;
    for (i64 g = g0; g < g1; ++g) {
        a.gamma[g] = best_gamma(m, a, g, A[g - g0], r, &stiffness);
        total += a.gamma[g] * A[g - g0];
        sum += stiffness;
    }
    a.rate[b] = total;
    a.response[b] = sum;
}

// NLL, gradient, Jacobian and weights at `trial`, with every local gamma at its best.
static void evaluate(const Model& m, Lanes& a, V* A) {
    const V zero = splat(0.0);
    const i64 K = m.n_pars, B = m.n_bins;
    interpolate_shapes(m, a);
    for (i64 b = 0; b < B; ++b) a.rate[b] = zero;
    for (i64 g = 0; g < m.n_gammas; ++g) A[g] = zero;

    for (i64 t = 0; t < m.n_terms; ++t) {
        V F = a.F[t] = term_factor(m, a, t);
        const i64 c0 = m.term_start[t], nb = m.term_start[t + 1] - c0;
        V* base = a.base + c0;
        for (i64 i = 0; i < nb; ++i) base[i] = splat(m.nominal[c0 + i]);
        for (i64 e = m.shape_entry_start[t]; e < m.shape_entry_start[t + 1]; ++e) {
            const i64 k = m.shape_par[e], o = m.shape_offset[e];
            V x = a.odd[k], phi = a.phi[k];
            for (i64 i = 0; i < nb; ++i)
                base[i] += splat(m.shape_linear[o + i]) * x + splat(m.shape_curved[o + i]) * phi;
        }
        for (i64 i = 0; i < nb; ++i) {
            const i64 g = m.cell_gamma[c0 + i];
            V content = F * base[i];
            if (g >= 0)
                A[g] += content;
            else
                a.rate[m.term_bin[t] + i] += content;
        }
    }

    V nll = zero;
    I bad = isplat(0), low = isplat(0);
    for (i64 b = 0; b < B; ++b) {
        profile_bin(m, a, b, a.rate[b], A + m.gamma_start[b]);
        V w, term;
        poisson(a.n[b], a.rate[b], &a.r[b], &w, &term, &bad, &low);
        a.W[b] = w / (splat(1.0) + w * a.response[b]);
        nll += term;
    }
    for (i64 g = 0; g < m.n_gammas; ++g) {
        V value = a.gamma[g], aux = a.gamma_aux[g];
        if (m.gamma_kind[g] == 1) {
            V pull = (value - aux) * splat(1.0 / m.gamma_width[g]);
            nll += splat(0.5) * pull * pull;
        } else {
            V mean = value * splat(m.gamma_width[g]);
            nll += mean - pick(aux > zero, aux * vlog(vmax(mean, splat(1e-290))), zero);
        }
    }

    for (i64 i = 0; i < B * K; ++i) a.J[i] = zero;
    for (i64 k = 0; k < K; ++k) {
        V x = a.trial[k];
        V grad = zero, curve = zero;
        if (m.par_kind[k] == 1) {
            const double precision = 1.0 / (m.par_width[k] * m.par_width[k]);
            V away = x - a.aux[k];
            nll += splat(0.5 * precision) * away * away;
            grad = splat(precision) * away, curve = splat(precision);
        } else if (m.par_kind[k] == 2) {
            V safe = vmax(x, splat(1e-290)), aux = a.aux[k];
            V mean = safe * splat(m.par_width[k]);
            nll += mean - pick(aux > zero, aux * vlog(mean), zero);
            grad = splat(m.par_width[k]) - aux / safe, curve = aux / (safe * safe);
        }
        a.grad[k] = grad;
        a.diag[k] = curve;
    }

    for (i64 t = 0; t < m.n_terms; ++t) {
        const i64 c0 = m.term_start[t], nb = m.term_start[t + 1] - c0, b0 = m.term_bin[t];
        V F = a.F[t], pull = zero;
        V* base = a.base + c0;
        V* weighted = a.weighted + c0;  // F gamma of each cell
        for (i64 i = 0; i < nb; ++i) {
            const i64 g = m.cell_gamma[c0 + i];
            weighted[i] = g >= 0 ? F * a.gamma[g] : F;
            pull += a.r[b0 + i] * weighted[i] * base[i];
        }
        for (i64 e = m.norm_start[t]; e < m.norm_start[t + 1]; ++e) {
            const i64 k = m.norm_par[e];
            V dlog = a.dlog[e];
            for (i64 i = 0; i < nb; ++i) a.J[(b0 + i) * K + k] += dlog * weighted[i] * base[i];
            a.diag[k] += a.curve[e] * pull;
        }
        for (i64 e = m.scale_start[t]; e < m.scale_start[t + 1]; ++e) {
            const i64 k = m.scale_par[e];
            V others = factor_without(m, a, t, e);
            for (i64 i = 0; i < nb; ++i) {
                const i64 g = m.cell_gamma[c0 + i];
                V gamma = g >= 0 ? a.gamma[g] : splat(1.0);
                a.J[(b0 + i) * K + k] += others * gamma * base[i];
            }
        }
        for (i64 e = m.shape_entry_start[t]; e < m.shape_entry_start[t + 1]; ++e) {
            const i64 k = m.shape_par[e], o = m.shape_offset[e];
            V dphi = a.dphi[k], bend = zero, tilt = zero;
            for (i64 i = 0; i < nb; ++i) {
                V curved = splat(m.shape_curved[o + i]) * weighted[i];
                V d = splat(m.shape_linear[o + i]) * weighted[i] + dphi * curved;
                a.J[(b0 + i) * K + k] += d;
                bend += a.r[b0 + i] * curved;
                tilt += a.r[b0 + i] * d;
            }
            a.diag[k] += bend * a.ddphi[k];
            if (m.shape_norm[e] >= 0) a.diag[k] += splat(2.0) * a.dlog[m.shape_norm[e]] * tilt;
        }
    }
    for (i64 b = 0; b < B; ++b) {
        V r = a.r[b];
        const V* row = a.J + b * K;
        for (i64 k = 0; k < K; ++k) a.grad[k] += r * row[k];
    }
    a.floored = low;
    I finite = vabs(nll) < splat(HUGE_NLL);  // false for nan, too
    a.nll = pick(bad | ~finite, splat(INFINITY), nll);
}

#ifndef TILE
#define TILE 2
#endif

// C = C + R R^T for the lower triangle; element (row, i) of R lies at R[row * sr + i * si].
template <int P, int Q>
static inline void tile_product(const V* R, i64 sr, i64 si, i64 inner, i64 p, i64 q, V* C, i64 n) {
    V sum[P][Q];
    for (int u = 0; u < P; ++u)
        for (int v = 0; v < Q; ++v) sum[u][v] = splat(0.0);
    for (i64 i = 0; i < inner; ++i) {
        const V* at = R + i * si;
        V right[Q];
        for (int v = 0; v < Q; ++v) right[v] = at[(q + v) * sr];
        for (int u = 0; u < P; ++u) {
            V left = at[(p + u) * sr];
            for (int v = 0; v < Q; ++v) sum[u][v] += left * right[v];
        }
    }
    for (int u = 0; u < P; ++u)
        for (int v = 0; v < Q; ++v) C[(p + u) * n + q + v] += sum[u][v];
}

static void add_gram(const V* R, i64 sr, i64 si, i64 n, i64 inner, V* C) {
    const i64 even = n - n % TILE;
    for (i64 p = 0; p < even; p += TILE)
        for (i64 q = 0; q <= p; q += TILE) tile_product<TILE, TILE>(R, sr, si, inner, p, q, C, n);
    for (i64 p = even; p < n; ++p)
        for (i64 q = 0; q <= p; ++q) tile_product<1, 1>(R, sr, si, inner, p, q, C, n);
}

// Cholesky in place, inverse pivots on the diagonal; a pivot that is not positive is replaced, which
// damps its direction.
static void factorise(V* C, i64 n) {
    for (i64 i = 0; i < n; ++i) {
        V* row = C + i * n;
        for (i64 j = 0; j < i; ++j) {
            const V* other = C + j * n;
            V sum = row[j];
            for (i64 k = 0; k < j; ++k) sum -= row[k] * other[k];
            row[j] = sum * other[j];
        }
        V pivot = row[i], scale = row[i];
        for (i64 k = 0; k < i; ++k) pivot -= row[k] * row[k];
        pivot = pick(pivot > splat(1e-14) * scale, pivot, vmax(scale, splat(1e-300)));
        row[i] = splat(1.0) / vsqrt(pivot);
    }
}

// y = L^-1 y and y = L^-T y for the factor that factorise left.
static void forward(const V* C, i64 n, V* y) {
    for (i64 i = 0; i < n; ++i) {
        V sum = y[i];
        for (i64 k = 0; k < i; ++k) sum -= C[i * n + k] * y[k];
        y[i] = sum * C[i * n + i];
    }
}
static void backward(const V* C, i64 n, V* y) {
    for (i64 i = n - 1; i >= 0; --i) {
        V value = y[i] * C[i * n + i];
        y[i] = value;
        for (i64 k = 0; k < i; ++k) y[k] -= C[i * n + k] * value;
    }
}
// What J_s = W^1/2 J D^-1/2 needs, and the Cholesky factor of 1 + J_s J_s^T or 1 + J_s^T J_s,
// whichever is smaller.  A parameter with dinv = 0 takes no part.
static void factorise_hessian(const Model& m, Lanes& a) {
    const i64 K = m.n_pars, B = m.n_bins, rank = B < K ? B : K;
    for (i64 k = 0; k < K; ++k) a.scaled[k] = vsqrt(a.dinv[k]);
    for (i64 b = 0; b < B; ++b) {
        V weight = vsqrt(a.W[b]);
        for (i64 k = 0; k < K; ++k) a.Js[b * K + k] = a.J[b * K + k] * (weight * a.scaled[k]);
    }
    for (i64 i = 0; i < rank; ++i)
        for (i64 j = 0; j <= i; ++j) a.M[i * rank + j] = splat(i == j ? 1.0 : 0.0);
    if (B < K)
        add_gram(a.Js, K, 1, B, K, a.M);
    else
        add_gram(a.Js, 1, K, K, B, a.M);
    factorise(a.M, rank);
}

// q = (D + J^T W J)^-1 q on the free parameters.
static void apply_inverse(const Model& m, Lanes& a, V* q) {
    const i64 K = m.n_pars, B = m.n_bins;
    for (i64 k = 0; k < K; ++k) q[k] *= a.scaled[k];
    if (B < K) {
        for (i64 b = 0; b < B; ++b) {
            V sum = splat(0.0);
            for (i64 k = 0; k < K; ++k) sum += a.Js[b * K + k] * q[k];
            a.rhs[b] = sum;
        }
        forward(a.M, B, a.rhs), backward(a.M, B, a.rhs);
        for (i64 b = 0; b < B; ++b) {
            V y = a.rhs[b];
            for (i64 k = 0; k < K; ++k) q[k] -= a.Js[b * K + k] * y;
        }
    } else {
        forward(a.M, K, q), backward(a.M, K, q);
    }
    for (i64 k = 0; k < K; ++k) q[k] *= a.scaled[k];
}

// Secant memory.  D + J^T W J leaves out the mixed second derivatives of the rates; the last steps
// and gradient changes put them back (L-BFGS around the Newton matrix; Nocedal and Wright, 7.2).
// Far from the minimum they would mislead: they serve where the predicted fall is below NEAR and shrinks
// by less than SLOW in a step, and in fits of more than LATE evaluations.
constexpr int MEMORY = 4;
constexpr int LATE = 30;
constexpr double NEAR = 0.01;
constexpr double SLOW = 0.2;

struct Memory {
    V *s, *y;  // (MEMORY, n_pars) steps taken and gradient changes, each lane's newest first
    V *point, *grad;  // (n_pars) the last accepted point and the gradient there
    V used[MEMORY], late;
};

static void newton_step(const Model& m, Lanes& a, const Memory& memory) {
    const i64 K = m.n_pars;
    const V zero = splat(0.0);
    V along[MEMORY], rho[MEMORY];
    const int pairs = any(memory.late > zero) ? MEMORY : 0;
    for (i64 k = 0; k < K; ++k) a.newton[k] = pick(a.dinv[k] > zero, a.grad[k], zero);
    for (int i = 0; i < pairs; ++i) {
        const V *s = memory.s + i * K, *y = memory.y + i * K;
        V sy = zero, ss = zero, sq = zero;
        for (i64 k = 0; k < K; ++k) {
            V sk = pick(a.dinv[k] > zero, s[k], zero);
            sy += sk * y[k], sq += sk * a.newton[k];
            ss += sk * sk * y[k] * y[k];
        }
        I good = (memory.used[i] > zero) & (memory.late > zero) & (sy > splat(1e-8) * vsqrt(ss));
        rho[i] = pick(good, splat(1.0) / pick(good, sy, splat(1.0)), zero);
        along[i] = rho[i] * sq;
        for (i64 k = 0; k < K; ++k) a.newton[k] -= along[i] * pick(a.dinv[k] > zero, y[k], zero);
    }
    apply_inverse(m, a, a.newton);
    for (int i = pairs - 1; i >= 0; --i) {
        const V *s = memory.s + i * K, *y = memory.y + i * K;
        V yr = zero;
        for (i64 k = 0; k < K; ++k) yr += y[k] * a.newton[k];
        V change = along[i] - rho[i] * yr;
        for (i64 k = 0; k < K; ++k) a.newton[k] += change * pick(a.dinv[k] > zero, s[k], zero);
    }
    for (i64 k = 0; k < K; ++k) a.newton[k] = -a.newton[k];
}

struct Bounds {
    V* lower;
    V* upper;
};

// The inverse of D, zero for the parameters held by their bounds.
static void invert_diagonal(const Model& m, Lanes& a, const Bounds& bounds) {
    const V zero = splat(0.0), one = splat(1.0);
    const i64 K = m.n_pars, B = m.n_bins;
    for (i64 k = 0; k < K; ++k) {
        V x = a.trial[k], g = a.grad[k];
        I held = ((x <= bounds.lower[k]) & (g >= zero)) | ((x >= bounds.upper[k]) & (g <= zero));
        V D = a.diag[k];
        if (m.par_kind[k] == 0) {
            // No constraint: a ridge far below the curvature keeps the bin-space form solvable.
            V h = zero;
            for (i64 b = 0; b < B; ++b) h += a.W[b] * a.J[b * K + k] * a.J[b * K + k];
            V reach = vabs(g) / vmax(one, splat(0.1) * vabs(x));
            D = vmax(vmax(D, zero) + splat(1e-7) * h, splat(1e-4) * reach) + splat(1e-30);
        } else {
            V own = m.par_kind[k] == 1 ? splat(1.0 / (m.par_width[k] * m.par_width[k]))
                                       : vmax(a.aux[k], one) / vmax(x * x, splat(1e-20));
            D = vmax(D, splat(0.2) * own);
        }
        a.dinv[k] = pick(held, zero, one / D);
    }
}

static void find_step(const Model& m, Lanes& a, const Bounds& bounds, const Memory& memory) {
    const V zero = splat(0.0);
    const i64 K = m.n_pars;
    invert_diagonal(m, a, bounds);
    factorise_hessian(m, a);
    newton_step(m, a, memory);
    // A parameter on its bound whose Newton step leaves it is held, and the others solved again.
    I again = isplat(0);
    for (i64 k = 0; k < K; ++k) {
        V x = a.trial[k], s = a.newton[k];
        I leaving = ((x <= bounds.lower[k]) & (s < zero)) | ((x >= bounds.upper[k]) & (s > zero));
        a.dinv[k] = pick(leaving, zero, a.dinv[k]);
        again |= leaving;
    }
    if (any(again)) {
        factorise_hessian(m, a);
        newton_step(m, a, memory);
    }
}

// Puts one data set, a point moved into the bounds and the POI (nan: free) into lane l.
static void set_lane(const Model& m, Lanes& a, Bounds& bounds, int l, const double* data, const double* point,
                     double poi) {
    for (i64 b = 0; b < m.n_bins; ++b) a.n[b][l] = data[b];
    for (i64 g = 0; g < m.n_gammas; ++g) a.gamma_aux[g][l] = data[m.gamma_aux[g]];
    if (m.poi >= 0) {
        bounds.lower[m.poi][l] = std::isnan(poi) ? m.par_lower[m.poi] : poi;
        bounds.upper[m.poi][l] = std::isnan(poi) ? m.par_upper[m.poi] : poi;
    }
    for (i64 k = 0; k < m.n_pars; ++k) {
        a.aux[k][l] = m.par_aux[k] < 0 ? 0.0 : data[m.par_aux[k]];
        double x = point[k];
        if (x < bounds.lower[k][l]) x = bounds.lower[k][l];
        if (x > bounds.upper[k][l]) x = bounds.upper[k][l];
        a.trial[k][l] = x;
    }
}

static Bounds make_bounds(const Model& m, Scratch& s) {
    Bounds bounds{s.take(m.n_pars), s.take(m.n_pars)};
    for (i64 k = 0; k < m.n_pars; ++k)
        bounds.lower[k] = splat(m.par_lower[k]), bounds.upper[k] = splat(m.par_upper[k]);
    return bounds;
}

// Keeps the step just accepted and the change of the gradient, and the gradient for the next one.
static void remember(const Model& m, const Lanes& a, Memory& memory, I accepted, const bool* fresh) {
    const V one = splat(1.0);
    const i64 K = m.n_pars;
    I again = accepted;
    for (int l = 0; l < L; ++l)
        if (fresh[l]) again[l] = 0;
    for (int i = MEMORY - 1; i > 0; --i) {
        V *s = memory.s + i * K, *y = memory.y + i * K;
        for (i64 k = 0; k < K; ++k) s[k] = pick(again, s[k - K], s[k]), y[k] = pick(again, y[k - K], y[k]);
        memory.used[i] = pick(again, memory.used[i - 1], memory.used[i]);
    }
    memory.used[0] = pick(again, one, memory.used[0]);
    for (i64 k = 0; k < K; ++k) {
        memory.s[k] = pick(again, a.x[k] - memory.point[k], memory.s[k]);
        memory.y[k] = pick(again, a.grad[k] - memory.grad[k], memory.y[k]);
        memory.point[k] = pick(accepted, a.x[k], memory.point[k]);
        memory.grad[k] = pick(accepted, a.grad[k], memory.grad[k]);
    }
    for (int l = 0; l < L; ++l)
        if (fresh[l])
            for (V& used : memory.used) used[l] = 0.0;
}

enum Status { CONVERGED = 0, MAX_ITERATIONS = 1, STALLED = 2, RATE_FLOOR = 3, NOT_FINITE = 4 };

static int run(const Model& m, const Options& options, const Batch& batch) {
    if (batch.n_fits == 0) return 0;  // idle lanes repeat the first fit
    Scratch scratch;
    Lanes a = make_lanes(m, scratch);
    const i64 K = m.n_pars, G = m.n_gammas;
    V* A = scratch.take(G);
    Bounds bounds = make_bounds(m, scratch);
    Memory memory{scratch.take(MEMORY * K), scratch.take(MEMORY * K), scratch.take(K), scratch.take(K), {}, {}};
    i64 job[L], iterations[L], shortened[L], next = 0, working = 0;
    double before[L];
    bool fresh[L];
    auto load = [&](int l) {
        job[l] = next < batch.n_fits ? next++ : -1;
        iterations[l] = shortened[l] = 0;
        fresh[l] = true;
        a.accepted_nll[l] = a.slope[l] = before[l] = INFINITY;
        const i64 j = job[l] < 0 ? 0 : job[l];
        set_lane(m, a, bounds, l, batch.data + batch.row[j] * m.n_data, batch.start + j * K, batch.poi[j]);
        for (i64 k = 0; k < K; ++k) a.x[k][l] = a.trial[k][l];
        for (i64 g = 0; g < G; ++g)
            a.accepted_gamma[g][l] = std::fmin(std::fmax(1.0, m.gamma_lower[g]), m.gamma_upper[g]);
        if (job[l] >= 0) ++working;
    };
    auto finish = [&](int l, int status) {
        const i64 j = job[l];
        for (i64 k = 0; k < K; ++k) batch.pars[j * K + k] = a.x[k][l];
        for (i64 g = 0; g < G; ++g) batch.gammas[j * G + g] = a.accepted_gamma[g][l];
        batch.nll[j] = a.accepted_nll[l];
        batch.status[j] = (int8_t)status;
        --working;
        load(l);
    };
    for (int l = 0; l < L; ++l) load(l);

    while (working > 0) {
        evaluate(m, a, A);
        I accepted = isplat(0);
        for (int l = 0; l < L; ++l) {
            const double fall = a.accepted_nll[l] - a.nll[l];
            const double noise = 1e-13 * std::fabs(a.nll[l]);
            const bool lower = fresh[l] || fall >= 1e-4 * a.length[l] * a.slope[l] - noise;
            accepted[l] = std::isfinite(a.nll[l]) && lower ? -1 : 0;
        }
        for (i64 k = 0; k < K; ++k) a.x[k] = pick(accepted, a.trial[k], a.x[k]);
        for (i64 g = 0; g < G; ++g) a.accepted_gamma[g] = pick(accepted, a.gamma[g], a.accepted_gamma[g]);

        V slope = splat(0.0);
        if (any(accepted)) {
            for (int l = 0; l < L; ++l) {
                const bool slow = 0.5 * a.slope[l] < NEAR && a.slope[l] > SLOW * before[l];
                memory.late[l] = iterations[l] >= LATE || slow ? 1.0 : 0.0;
            }
            remember(m, a, memory, accepted, fresh);
            find_step(m, a, bounds, memory);
            for (i64 k = 0; k < K; ++k) {
                slope -= a.grad[k] * a.newton[k];
                a.step[k] = pick(accepted, a.newton[k], a.step[k]);
            }
        }
        for (int l = 0; l < L; ++l) {
            if (job[l] < 0) continue;
            ++iterations[l];
            if (accepted[l]) {
                fresh[l] = false;
                shortened[l] = 0;
                a.accepted_nll[l] = a.nll[l];
                before[l] = a.slope[l];
                a.slope[l] = slope[l];
                a.length[l] = 1.0;
                if (0.5 * slope[l] < options.tolerance) {
                    finish(l, a.floored[l] ? RATE_FLOOR : CONVERGED);
                    continue;
                }
            } else if (fresh[l]) {
                finish(l, NOT_FINITE);
                continue;
            } else {
                // Quadratic interpolation between the accepted point and the rejected trial.
                const double rise = a.nll[l] - a.accepted_nll[l], s = a.slope[l] * a.length[l];
                double shrink = std::isfinite(rise) ? 0.5 * s / (rise + s) : 0.25;
                if (!(shrink > 0.1)) shrink = 0.1;
                if (shrink > 0.5) shrink = 0.5;
                a.length[l] *= shrink;
                if (++shortened[l] > 30) {
                    finish(l, STALLED);
                    continue;
                }
            }
            if (iterations[l] >= options.max_iterations) {
                finish(l, MAX_ITERATIONS);
                continue;
            }
        }
        I moving;
        for (int l = 0; l < L; ++l) moving[l] = (job[l] >= 0 && !fresh[l]) ? -1 : 0;
        for (i64 k = 0; k < K; ++k) {
            V to = vmin(vmax(a.x[k] + a.length * a.step[k], bounds.lower[k]), bounds.upper[k]);
            a.trial[k] = pick(moving, to, a.trial[k]);
        }
    }
    return 0;
}

// Other minima.  Many systematic uncertainties are one-sided, so the likelihood along one alpha often
// has a second minimum, and the fit finds only the one whose basin it starts in.  Along alpha_k the
// rates move by S dalpha + A dphi; with all other parameters answering linearly, -ln L along alpha_k
// is a quadratic form in (dalpha, dphi) plus the constraint, known from one factorisation.  A walk
// both ways tells where it falls again behind a barrier: there the next fit should start.  A free
// parameter that is so badly known that zero lies within reach is tried there, and on its other side.
//
// Rates moved by u, in units of sqrt(1/W), cost u^T C u / 2 after the others' answer, where C is the
// inverse of 1 + J_s J_s^T and J_s = W^1/2 J D^-1/2; leaving one column out is Sherman and Morrison's.

constexpr int WALK = 24;
constexpr double STRIDE = 0.25;

// Rates moved, and what they become under half of C: see `cost`.
struct Move {
    V *rates, *half;
};

struct Candidate {
    i64 par;
    Move linear, curved;  // for one unit of alpha and of phi
    V energy = splat(INFINITY);  // predicted -ln L above the minimum
    V value = splat(0.0);        // the parameter there
    Candidate(i64 par, Move linear, Move curved) : par(par), linear(linear), curved(curved) {}
};

static V inner(const V* x, const V* y, i64 n) {
    V sum = splat(0.0);
    for (i64 i = 0; i < n; ++i) sum += x[i] * y[i];
    return sum;
}

static void halve(const Model& m, const Lanes& a, const Move& move) {
    const i64 K = m.n_pars, B = m.n_bins;
    if (B < K) {
        for (i64 b = 0; b < B; ++b) move.half[b] = move.rates[b];
        forward(a.M, B, move.half);
        return;
    }
    for (i64 k = 0; k < K; ++k) move.half[k] = splat(0.0);
    for (i64 b = 0; b < B; ++b)
        for (i64 k = 0; k < K; ++k) move.half[k] += a.Js[b * K + k] * move.rates[b];
    forward(a.M, K, move.half);
}

// u^T C v from two halved moves.
static V cost(const Model& m, const Move& u, const Move& v) {
    if (m.n_bins < m.n_pars) return inner(u.half, v.half, m.n_bins);
    return inner(u.rates, v.rates, m.n_bins) - inner(u.half, v.half, m.n_pars);
}

// J_s^T C u, the others' answer to a halved move; destroys the half.
static void answer(const Model& m, const Lanes& a, const Move& move, V* out) {
    const i64 K = m.n_pars, B = m.n_bins;
    if (B < K) {
        backward(a.M, B, move.half);
        for (i64 k = 0; k < K; ++k) out[k] = splat(0.0);
        for (i64 b = 0; b < B; ++b)
            for (i64 k = 0; k < K; ++k) out[k] += a.Js[b * K + k] * move.half[b];
        return;
    }
    for (i64 k = 0; k < K; ++k) out[k] = move.half[k];
    backward(a.M, K, out);
}

static V phi_of(const Model& m, V x) {
    V ax = vabs(x), z = x * x;
    I inside = ax < splat(1.0);
    if (m.shape_code == 0) return ax;
    if (m.shape_code == 2) return pick(inside, z, splat(2.0) * ax - splat(1.0));
    return pick(inside, splat(0.125) * z * ((splat(3.0) * z - splat(10.0)) * z + splat(15.0)), ax);
}

// Rates moved by the c-th curved alpha (linear) and by phi of it (curved), summed over its entries.
static void responses(const Model& m, const Lanes& a, i64 c, V* linear, V* curved) {
    const V zero = splat(0.0);
    for (i64 b = 0; b < m.n_bins; ++b) linear[b] = curved[b] = zero;
    for (i64 i = m.curved_start[c]; i < m.curved_start[c + 1]; ++i) {
        const i64 t = m.curved_term[i], e = m.curved_entry[i];
        const i64 c0 = m.term_start[t], nb = m.term_start[t + 1] - c0, b0 = m.term_bin[t];
        if (m.curved_is_norm[i]) {
            const V x = a.trial[m.norm_par[e]];
            const double up = std::exp(m.norm_coef[8 * e + 6]), down = std::exp(m.norm_coef[8 * e + 7]);
            const double s = 0.5 * (up - down), q = 0.5 * (up + down) - 1.0;
            V now = vmax(splat(1.0) + splat(s) * x + splat(q) * phi_of(m, x), splat(0.1));
            for (i64 j = 0; j < nb; ++j) {
                V content = a.weighted[c0 + j] * a.base[c0 + j] / now;
                linear[b0 + j] += splat(s) * content;
                curved[b0 + j] += splat(q) * content;
            }
        } else {
            const i64 o = m.shape_offset[e];
            for (i64 j = 0; j < nb; ++j) {
                linear[b0 + j] += splat(m.shape_linear[o + j]) * a.weighted[c0 + j];
                curved[b0 + j] += splat(m.shape_curved[o + j]) * a.weighted[c0 + j];
            }
        }
    }
}

// 1 - s^T C s for column s of J_s: what is left of the variance of parameter k, in units of 1/D.
static V variance_left(const Model& m, const Lanes& a, i64 k, const Move& column) {
    const i64 K = m.n_pars, B = m.n_bins;
    if (B < K) {
        for (i64 b = 0; b < B; ++b) column.rates[b] = a.Js[b * K + k];
        halve(m, a, column);
        return vmax(splat(1.0) - cost(m, column, column), splat(1e-12));
    }
    for (i64 b = 0; b < B; ++b) column.rates[b] = a.Js[b * K + k];
    for (i64 j = 0; j < K; ++j) column.half[j] = splat(j == k ? 1.0 : 0.0);
    forward(a.M, K, column.half);
    const V left = vmax(inner(column.half, column.half, K), splat(1e-12));
    halve(m, a, column);
    return left;
}

// Walks along an alpha both ways and keeps the lowest point behind a barrier.
static void walk(const Model& m, const Lanes& a, const Bounds& bounds, const Move& column, V left, Candidate& c) {
    const V half = splat(0.5), zero = splat(0.0);
    const i64 k = c.par, B = m.n_bins;
    const double precision = 1.0 / (m.par_width[k] * m.par_width[k]);
    V drive_s = zero, drive_a = zero;
    for (i64 b = 0; b < B; ++b) {
        drive_s += a.r[b] * c.linear.rates[b], drive_a += a.r[b] * c.curved.rates[b];
        const V weight = vsqrt(a.W[b]);
        c.linear.rates[b] *= weight, c.curved.rates[b] *= weight;
    }
    halve(m, a, c.linear), halve(m, a, c.curved);
    const V ls = cost(m, c.linear, column), cs = cost(m, c.curved, column);
    const V ss = cost(m, c.linear, c.linear) + ls * ls / left, sa = cost(m, c.linear, c.curved) + ls * cs / left,
            aa = cost(m, c.curved, c.curved) + cs * cs / left;
    const V x = a.trial[k], aux = a.aux[k], phi = phi_of(m, x);
    c.energy = splat(INFINITY), c.value = x;
    for (double way : {-1.0, 1.0}) {
        V barrier = zero;
        for (int i = 1; i <= WALK; ++i) {
            V d = splat(way * STRIDE * i), y = x + d;
            V dphi = phi_of(m, y) - phi;
            V e = splat(precision) * d * (x - aux + half * d) + drive_s * d + drive_a * dphi +
                  half * (ss * d * d + aa * dphi * dphi) + sa * d * dphi;
            barrier = vmax(barrier, e);
            I better = (barrier - e > splat(1e-3)) & (e < c.energy) & (y >= bounds.lower[k]) & (y <= bounds.upper[k]);
            c.energy = pick(better, e, c.energy);
            c.value = pick(better, y, c.value);
        }
    }
}

// A free parameter with zero within reach: its lower bound, and as far on the other side.
static void reach(const Model& m, const Lanes& a, const Bounds& bounds, const Move& column, V left,
                  const Search& search, Candidate& down, Candidate& up) {
    const V zero = splat(0.0), infinite = splat(INFINITY);
    const i64 k = down.par;
    for (i64 b = 0; b < m.n_bins; ++b) {
        down.linear.rates[b] = a.J[b * m.n_pars + k] * vsqrt(a.W[b]);
        down.curved.rates[b] = zero;
    }
    halve(m, a, down.linear), halve(m, a, down.curved);
    const I held = a.dinv[k] == zero;
    const V cross = cost(m, down.linear, column);
    const V stiffness = vmax(cost(m, down.linear, down.linear) + cross * cross / left, splat(1e-12));
    const V slope = pick(held, vabs(a.grad[k]), zero);
    const V to_bound = a.trial[k] - bounds.lower[k];
    const V step = (vsqrt(slope * slope + splat(search.reach) * stiffness) - slope) / stiffness;
    const V energy = splat(0.5) * stiffness * to_bound * to_bound;
    const I near = (energy < splat(search.reach)) & (bounds.lower[k] < bounds.upper[k]);
    down.value = bounds.lower[k];
    down.energy = pick(near & (to_bound > zero), energy * splat(search.threshold / search.reach), infinite);
    up.value = vmin(a.trial[k] + step, bounds.upper[k]);
    up.energy = pick(near & (up.value > a.trial[k]), splat(0.5 * search.threshold), infinite);
}

// Sorts the promising candidates of one lane by energy into `order`; gives how many, at most `most`.
static i64 choose(const std::vector<Candidate>& candidates, int l, double threshold, i64 most, i64* order) {
    i64 found = 0;
    for (i64 c = 0; c < (i64)candidates.size(); ++c) {
        const double e = candidates[c].energy[l];
        if (!(e < threshold)) continue;
        i64 place = found < most ? found : most;
        while (place > 0 && candidates[order[place - 1]].energy[l] > e) {
            if (place < most) order[place] = order[place - 1];
            --place;
        }
        if (place < most) order[place] = c;
        if (found < most) ++found;
    }
    return found;
}

static int run_search(const Model& m, const Search& search) {
    Scratch scratch;
    Lanes a = make_lanes(m, scratch);
    const i64 K = m.n_pars, B = m.n_bins, S = search.n_starts, rank = B < K ? B : K;
    V* A = scratch.take(m.n_gammas);
    V* replied = scratch.take(K);
    Bounds bounds = make_bounds(m, scratch);
    auto make_move = [&] { return Move{scratch.take(B), scratch.take(rank)}; };
    Move column = make_move(), moved = make_move();
    std::vector<Candidate> candidates;
    for (i64 c = 0; c < m.n_curved; ++c) candidates.emplace_back(m.curved_par[c], make_move(), make_move());
    for (i64 k = 0; k < K; ++k) {
        if (m.par_kind[k] != 0 || k == m.poi || !(m.par_lower[k] < m.par_upper[k])) continue;
        const Move linear = make_move(), curved = make_move();
        candidates.emplace_back(k, linear, curved), candidates.emplace_back(k, linear, curved);
    }
    if (candidates.empty()) {
        for (i64 j = 0; j < search.n_rows; ++j) search.found[j] = 0;
        return 0;
    }
    std::vector<i64> order((size_t)(S * L));
    i64 found[L];

    for (i64 first = 0; first < search.n_rows; first += L) {
        const int filled = (int)(search.n_rows - first < L ? search.n_rows - first : L);
        for (int l = 0; l < L; ++l) {
            const i64 j = first + (l < filled ? l : 0);
            set_lane(m, a, bounds, l, search.data + search.row[j] * m.n_data, search.pars + j * K, search.poi[j]);
        }
        evaluate(m, a, A);
        invert_diagonal(m, a, bounds);
        factorise_hessian(m, a);
        for (i64 c = 0; c < (i64)candidates.size(); ++c) {
            Candidate& candidate = candidates[c];
            const V left = variance_left(m, a, candidate.par, column);
            if (c < m.n_curved) {
                responses(m, a, c, candidate.linear.rates, candidate.curved.rates);
                walk(m, a, bounds, column, left, candidate);
            } else {
                reach(m, a, bounds, column, left, search, candidate, candidates[c + 1]);
                ++c;
            }
        }
        for (int l = 0; l < filled; ++l) {
            found[l] = choose(candidates, l, search.threshold, S, &order[l * S]);
            search.found[first + l] = (int32_t)found[l];
        }
        for (i64 i = 0; i < S; ++i) {
            // Each lane follows its own i-th candidate; one that has none repeats any.
            const Candidate* chosen[L];
            bool some = false;
            V d, dphi, from, to, left;
            for (int l = 0; l < L; ++l) {
                const bool has = l < filled && i < found[l];
                some |= has;
                chosen[l] = has ? &candidates[order[l * S + i]] : nullptr;
            }
            if (!some) break;
            for (int l = 0; l < L; ++l) {
                from[l] = chosen[l] ? a.trial[chosen[l]->par][l] : 0.0;
                to[l] = chosen[l] ? chosen[l]->value[l] : 0.0;
            }
            d = to - from, dphi = phi_of(m, to) - phi_of(m, from);
            for (int l = 0; l < L; ++l)
                for (i64 b = 0; b < B; ++b) {
                    column.rates[b][l] = chosen[l] ? a.Js[b * K + chosen[l]->par][l] : 0.0;
                    moved.rates[b][l] =
                        chosen[l] ? chosen[l]->linear.rates[b][l] * d[l] + chosen[l]->curved.rates[b][l] * dphi[l] : 0.0;
                }
            halve(m, a, column), halve(m, a, moved);
            left = vmax(splat(1.0) - cost(m, column, column), splat(1e-12));
            const V share = cost(m, column, moved) / left;
            for (i64 b = 0; b < B; ++b) moved.rates[b] += share * column.rates[b];
            for (i64 j = 0; j < rank; ++j) moved.half[j] += share * column.half[j];
            answer(m, a, moved, replied);
            for (int l = 0; l < filled; ++l) {
                if (!chosen[l]) continue;
                double* out = search.starts + ((first + l) * S + i) * K;
                for (i64 k = 0; k < K; ++k)
                    out[k] = k == chosen[l]->par ? to[l] : a.trial[k][l] - a.scaled[k][l] * replied[k][l];
            }
        }
    }
    return 0;
}

int search(const Model* model, const Search* record) {
    try {
        return run_search(*model, *record);
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

int minimise(const Model* model, const Options* options, const Batch* batch) {
    try {
        return run(*model, *options, *batch);
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace ENGINE
