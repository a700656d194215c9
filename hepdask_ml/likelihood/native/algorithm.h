// The likelihood's fits: one text for processors and for GPUs.
//
// Two ideas carry it over.  A *lane* of a value V holds one fit: eight on a processor (lanes.h), one
// on a GPU (team.h).  The lanes' *team* is the threads that share the work on them: one thread on a
// processor, up to a whole block on a GPU.  FOR spreads a loop over the team, each of whose threads
// writes what nobody else writes; team.sync() lets them see each other's writes; team.sum() and
// team.any() join what they have.  Threads of a team take the same branches wherever these lie
// around a sync.
//
// Algorithm.  Newton's method with bounds on the parameters that are left after every bin-local
// gamma was profiled out in closed form.  The Hessian is D + J^T W J: D holds the constraints and
// the diagonal second derivatives of the rates, J the Jacobian of the rates and W the weights of
// the bins.  It is solved in the space of the bins (Woodbury) where these are fewer than the
// parameters, otherwise in the space of the parameters.
//
// Included by engine.cpp, device.cu and room.cpp, behind their platform's header and inside namespace ENGINE.

// What a team spends its time on, for benchmarks: mark(phase) ends a stretch of it.
enum Phase { THROWING, RATES, ALGEBRA, SEARCHING, PHASES };

enum Status { CONVERGED = 0, MAX_ITERATIONS = 1, STALLED = 2, RATE_FLOOR = 3, NOT_FINITE = 4 };

// A bin without events does not reward a negative rate by more than this: pyhf's Poisson term would
// fall without end.  Quadratic over a narrow zone below zero, so that Newton sees a curve.
constexpr double FLOOR = 1e-5;

constexpr double HUGE_NLL = 1e300;

// Secant memory.  D + J^T W J leaves out the mixed second derivatives of the rates; the last steps
// and gradient changes put them back (L-BFGS around the Newton matrix; Nocedal and Wright, 7.2).
// Far from the minimum they would mislead: they serve where the predicted fall is below NEAR and shrinks
// by less than SLOW in a step, and in fits of more than LATE evaluations.
constexpr int MEMORY = 4;
constexpr int LATE = 30;
constexpr double NEAR = 0.01;
constexpr double SLOW = 0.2;

// The arrays of a team, those first that are short and read again and again within one evaluation:
// where memory is short, the fast memory goes to these.
struct State {
    // the bins, and the solution for them
    V *n, *W, *weight, *r, *rate, *response, *rhs;
    // the parameters: the point evaluated, what was found there, and the step from it
    V *trial, *dinv, *scaled, *newton, *diag, *grad, *odd, *phi, *dphi, *ddphi;
    V *x, *step, *aux, *lower, *upper;
    // terms, cells and profiled gammas, with what each gamma scales
    V *F, *pull, *base, *weighted;
    V *gamma, *A, *gamma_aux, *accepted_gamma;
    // linear algebra; rows of J and Js are an odd number apart, so that a column does not crowd a few
    // sets of a cache or banks of a GPU's shared memory
    Index ld;
    V *M, *Js, *J;
    // normsys entries
    V *dlog, *curve, *factor, *exponent;
    // secant memory: steps taken and gradient changes (MEMORY, n_pars), newest first, and the last
    // accepted point and the gradient there
    V *s, *y, *last_point, *last_grad;
};

// Nobody changes where the arrays lie while a team works, which compilers cannot see.
typedef const State& __restrict__ Arrays;

static DEV State make_state(const Model& m, Arena& memory) {
    State a;
    const Index B = m.n_bins, K = m.n_pars, G = m.n_gammas, rank = B < K ? B : K;
    a.n = memory.take(B), a.W = memory.take(B), a.weight = memory.take(B);
    a.r = memory.take(B), a.rate = memory.take(B), a.response = memory.take(B), a.rhs = memory.take(B);
    a.trial = memory.take(K), a.dinv = memory.take(K), a.scaled = memory.take(K), a.newton = memory.take(K);
    a.diag = memory.take(K), a.grad = memory.take(K);
    a.odd = memory.take(K), a.phi = memory.take(K), a.dphi = memory.take(K), a.ddphi = memory.take(K);
    a.x = memory.take(K), a.step = memory.take(K), a.aux = memory.take(K);
    a.lower = memory.take(K), a.upper = memory.take(K);
    a.F = memory.take(m.n_terms), a.pull = memory.take(m.n_terms);
    a.base = memory.take(m.n_cells), a.weighted = memory.take(m.n_cells);
    a.gamma = memory.take(G), a.A = memory.take(G), a.gamma_aux = memory.take(G), a.accepted_gamma = memory.take(G);
    a.ld = K | 1;
    a.M = memory.take(rank * rank), a.Js = memory.take(B * a.ld), a.J = memory.take(B * a.ld);
    a.dlog = memory.take(m.n_norms), a.curve = memory.take(m.n_norms);
    a.factor = memory.take(m.n_norms), a.exponent = memory.take(m.n_norms);
    a.s = memory.take(MEMORY * K), a.y = memory.take(MEMORY * K);
    a.last_point = memory.take(K), a.last_grad = memory.take(K);
    return a;
}

// The bounds of all parameters; that of the POI changes with each fit.
static DEV void set_bounds(const Team& team, const Model& m, Arrays a) {
    FOR(k, m.n_pars) a.lower[k] = splat(m.par_lower[k]), a.upper[k] = splat(m.par_upper[k]);
    team.sync();
}

// Puts one data set, a point moved into the bounds and the POI (nan: free) into lane l.
static OUTLINED DEV void set_lane(const Team& team, const Model& m, Arrays a, int l, const double* data,
                                  const double* point, double poi) {
    FOR(b, m.n_bins) lane(a.n[b], l) = data[b];
    FOR(g, m.n_gammas) lane(a.gamma_aux[g], l) = data[m.gamma_aux[g]];
    FOR(k, m.n_pars) {
        if (k == m.poi) {
            lane(a.lower[k], l) = poi == poi ? poi : m.par_lower[k];
            lane(a.upper[k], l) = poi == poi ? poi : m.par_upper[k];
        }
        double x = point[k];
        if (x < lane(a.lower[k], l)) x = lane(a.lower[k], l);
        if (x > lane(a.upper[k], l)) x = lane(a.upper[k], l);
        lane(a.aux[k], l) = m.par_aux[k] < 0 ? 0.0 : data[m.par_aux[k]];
        lane(a.trial[k], l) = x;
    }
    team.sync();
}

// The odd part and phi of histosys, with phi's two derivatives, for a parameter that has one
// (HistFactory codes 0, 2 and 4p).  Code 2 jumps at |alpha| = 1, because pyhf.interpolators.code2 does.
static DEV void interpolate_shape(const Model& m, Arrays a, Index k) {
    const V one = splat(1.0), zero = splat(0.0);
    V x = a.trial[k], ax = vabs(x), sign = pick(x < zero, -one, one);
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
        I inside = ax < one;
        V z = x * x;
        a.phi[k] = pick(inside, splat(0.125) * z * ((splat(3.0) * z - splat(10.0)) * z + splat(15.0)), ax);
        a.dphi[k] = pick(inside, splat(0.25) * x * ((splat(9.0) * z - splat(20.0)) * z + splat(15.0)), sign);
        a.ddphi[k] = pick(inside, splat(0.25) * ((splat(45.0) * z - splat(60.0)) * z + splat(15.0)), zero);
    }
}

// One normsys (code 1 or 4): its factor f, split into a polynomial and an exponent, f'/f and f''/f.
static DEV inline void interpolate_norm(const Model& m, Arrays a, Index e) {
    const V one = splat(1.0), zero = splat(0.0);
    const double* c = m.norm_coef + 8 * e;
    V x = a.trial[m.norm_par[e]];
    V slope = pick(x < zero, splat(-c[7]), splat(c[6]));
    V dlog = slope, curve = slope * slope, factor = one, exponent = slope * x;
    if (m.norm_code == 4) {
        I outside = vabs(x) >= one;
        V p = splat(c[5]), dp = splat(6.0 * c[5]), ddp = splat(30.0 * c[5]);
        p = p * x + splat(c[4]), dp = dp * x + splat(5.0 * c[4]), ddp = ddp * x + splat(20.0 * c[4]);
        p = p * x + splat(c[3]), dp = dp * x + splat(4.0 * c[3]), ddp = ddp * x + splat(12.0 * c[3]);
        p = p * x + splat(c[2]), dp = dp * x + splat(3.0 * c[2]), ddp = ddp * x + splat(6.0 * c[2]);
        p = p * x + splat(c[1]), dp = dp * x + splat(2.0 * c[1]), ddp = ddp * x + splat(2.0 * c[1]);
        p = p * x + splat(c[0]), dp = dp * x + splat(c[0]);
        p = p * x + one;
        V inverse = one / p;
        dlog = pick(outside, slope, dp * inverse);
        curve = pick(outside, curve, ddp * inverse);
        factor = pick(outside, one, p);
        exponent = pick(outside, exponent, zero);
    }
    a.dlog[e] = dlog, a.curve[e] = curve, a.factor[e] = factor, a.exponent[e] = exponent;
}

// Normsys factors of one term, multiplied.
static DEV inline V norms_of(const Model& m, Arrays a, Index t) {
    V F = splat(1.0), exponent = splat(0.0);
    for (Index e = m.norm_start[t]; e < m.norm_start[t + 1]; ++e) F *= a.factor[e], exponent += a.exponent[e];
    if (any(exponent != splat(0.0))) F *= vexp(exponent);
    return F;
}

// F of one term: normfactors times normsys.
static DEV inline V term_factor(const Model& m, Arrays a, Index t) {
    V F = norms_of(m, a, t);
    for (Index e = m.scale_start[t]; e < m.scale_start[t + 1]; ++e) F *= a.trial[m.scale_par[e]];
    return F;
}

// The term without one of its normfactors: the derivative with respect to that one.
static DEV inline V factor_without(const Model& m, Arrays a, Index t, Index left_out) {
    V x = a.trial[m.scale_par[left_out]];
    const I null = x == splat(0.0);
    const V divided = a.F[t] / pick(null, splat(1.0), x);
    if (!any(null)) return divided;
    V F = norms_of(m, a, t);
    for (Index e = m.scale_start[t]; e < m.scale_start[t + 1]; ++e)
        if (e != left_out) F *= a.trial[m.scale_par[e]];
    return pick(null, F, divided);  // no lane's digits depend on its neighbours
}

// Nominal rates and histosys shifts of N neighbouring cells of a term.
constexpr Index STRIP = 4;
template <int N>
static DEV inline void shift_cells(const Model& m, Arrays a, Index t, Index c) {
    V base[N];
    for (int u = 0; u < N; ++u) base[u] = splat(m.nominal[c + u]);
    for (Index e = m.shape_entry_start[t]; e < m.shape_entry_start[t + 1]; ++e) {
        const Index k = m.shape_par[e], o = m.shape_offset[e] + c - m.term_start[t];
        V x = a.odd[k], phi = a.phi[k];
        for (int u = 0; u < N; ++u) base[u] += splat(m.shape_linear[o + u]) * x + splat(m.shape_curved[o + u]) * phi;
    }
    for (int u = 0; u < N; ++u) a.base[c + u] = base[u];
}

// A gamma at its best value for a given r = 1 - n/rate, and -A dgamma/dr >= 0.
static DEV inline V best_gamma(const Model& m, Arrays a, Index g, V A, V r, V* stiffness) {
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
static DEV inline void poisson(V n, V rate, V* r, V* w, V* term, I* bad, I* low) {
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
static DEV inline void profile_bin(const Model& m, Arrays a, Index b, V B, const V* A) {
    const V zero = splat(0.0), half = splat(0.5), four = splat(4.0);
    const Index g0 = m.gamma_start[b], g1 = m.gamma_start[b + 1];
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
    for (Index g = g0; g < g1; ++g) {
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
        for (Index g = g0; g < g1; ++g) {
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
    for (Index g = g0; g < g1; ++g) {
        a.gamma[g] = best_gamma(m, a, g, A[g - g0], r, &stiffness);
        total += a.gamma[g] * A[g - g0];
        sum += stiffness;
    }
    a.rate[b] = total;
    a.response[b] = sum;
}

// Rates, -ln L and weights of one bin, with its local gammas at their best; gives its part of -ln L.
static DEV inline V evaluate_bin(const Model& m, Arrays a, Index b, I* low) {
    const V zero = splat(0.0);
    const Index g0 = m.gamma_start[b], g1 = m.gamma_start[b + 1];
    V rate = zero;
    for (Index g = g0; g < g1; ++g) a.A[g] = zero;
    for (Index i = m.bin_start[b]; i < m.bin_start[b + 1]; ++i) {
        const Index c = m.bin_cell[i], g = m.cell_gamma[c];
        V content = a.F[m.cell_term[c]] * a.base[c];
        if (g >= 0)
            a.A[g] += content;
        else
            rate += content;
    }
    profile_bin(m, a, b, rate, a.A + g0);
    V w, nll;
    I bad = isplat(0);
    poisson(a.n[b], a.rate[b], &a.r[b], &w, &nll, &bad, low);
    a.W[b] = w / (splat(1.0) + w * a.response[b]);
    return pick(bad, splat(INFINITY), nll);
}

// The constraint of one profiled gamma: its part of -ln L.
static DEV inline V constrain_gamma(const Model& m, Arrays a, Index g) {
    V value = a.gamma[g], aux = a.gamma_aux[g];
    if (m.gamma_kind[g] == 1) {
        V pull = (value - aux) * splat(1.0 / m.gamma_width[g]);
        return splat(0.5) * pull * pull;
    }
    V mean = value * splat(m.gamma_width[g]);
    return mean - pick(aux > splat(0.0), aux * vlog(vmax(mean, splat(1e-290))), splat(0.0));
}

// The constraint of one parameter, with its derivatives; gives its part of -ln L.
static DEV inline V constrain(const Model& m, Arrays a, Index k) {
    const V zero = splat(0.0);
    V x = a.trial[k], nll = zero, grad = zero, curve = zero;
    if (m.par_kind[k] == 1) {
        const double precision = 1.0 / (m.par_width[k] * m.par_width[k]);
        V away = x - a.aux[k];
        nll = splat(0.5 * precision) * away * away;
        grad = splat(precision) * away, curve = splat(precision);
    } else if (m.par_kind[k] == 2) {
        V safe = vmax(x, splat(1e-290)), aux = a.aux[k];
        V mean = safe * splat(m.par_width[k]);
        nll = mean - pick(aux > zero, aux * vlog(mean), zero);
        grad = splat(m.par_width[k]) - aux / safe, curve = aux / (safe * safe);
    }
    a.grad[k] = grad, a.diag[k] = curve;
    return nll;
}

// A column of the Jacobian: what one parameter does to the rates; and its second derivative.
static DEV inline void differentiate(const Model& m, Arrays a, Index k) {
    V diag = a.diag[k];
    for (Index i = m.par_norm_start[k]; i < m.par_norm_start[k + 1]; ++i) {
        const Index e = m.par_norm[i], t = m.norm_term[e], c0 = m.term_start[t], nb = m.term_start[t + 1] - c0;
        V* column = a.J + m.term_bin[t] * a.ld + k;
        V dlog = a.dlog[e];
        for (Index j = 0; j < nb; ++j) column[j * a.ld] += dlog * a.weighted[c0 + j] * a.base[c0 + j];
        diag += a.curve[e] * a.pull[t];
    }
    for (Index i = m.par_scale_start[k]; i < m.par_scale_start[k + 1]; ++i) {
        const Index e = m.par_scale[i], t = m.scale_term[e], c0 = m.term_start[t], nb = m.term_start[t + 1] - c0;
        V* column = a.J + m.term_bin[t] * a.ld + k;
        V others = factor_without(m, a, t, e);
        for (Index j = 0; j < nb; ++j) {
            const Index g = m.cell_gamma[c0 + j];
            V gamma = g >= 0 ? a.gamma[g] : splat(1.0);
            column[j * a.ld] += others * gamma * a.base[c0 + j];
        }
    }
    for (Index i = m.par_shape_start[k]; i < m.par_shape_start[k + 1]; ++i) {
        const Index e = m.par_shape[i], t = m.shape_term[e], c0 = m.term_start[t], nb = m.term_start[t + 1] - c0;
        const Index o = m.shape_offset[e], b0 = m.term_bin[t];
        V* column = a.J + b0 * a.ld + k;
        V dphi = a.dphi[k], bend = splat(0.0), tilt = splat(0.0);
        for (Index j = 0; j < nb; ++j) {
            V curved = splat(m.shape_curved[o + j]) * a.weighted[c0 + j];
            V d = splat(m.shape_linear[o + j]) * a.weighted[c0 + j] + dphi * curved;
            column[j * a.ld] += d;
            bend += a.r[b0 + j] * curved;
            tilt += a.r[b0 + j] * d;
        }
        diag += bend * a.ddphi[k];
        if (m.shape_norm[e] >= 0) diag += splat(2.0) * a.dlog[m.shape_norm[e]] * tilt;
    }
    a.diag[k] = diag;
}

struct Evaluated {
    V nll;      // infinite where it is not a number, too
    I floored;  // whether an empty bin's rate was below zero
};

// NLL, gradient, Jacobian and weights at `trial`, with every local gamma at its best.
static OUTLINED DEV Evaluated evaluate(const Team& team, const Model& m, Arrays a) {
    const Index K = m.n_pars, B = m.n_bins;
    FOR(k, K) if (m.par_has_shape[k]) interpolate_shape(m, a, k);
    FOR(e, m.n_norms) interpolate_norm(m, a, e);
    team.sync();
    FOR(t, m.n_terms) a.F[t] = term_factor(m, a, t);
    if constexpr (Team::size() > 1) {
        FOR(c, m.n_cells) shift_cells<1>(m, a, m.cell_term[c], c);
    } else {
        FOR(t, m.n_terms) {
            const Index stop = m.term_start[t + 1];
            Index c = m.term_start[t];
            for (; c + STRIP <= stop; c += STRIP) shift_cells<STRIP>(m, a, t, c);
            for (; c < stop; ++c) shift_cells<1>(m, a, t, c);
        }
    }
    team.sync();
    V nll = splat(0.0);
    I low = isplat(0);
    FOR(b, B) nll += evaluate_bin(m, a, b, &low);
    FOR(k, K) nll += constrain(m, a, k);
    team.sync();
    FOR(g, m.n_gammas) nll += constrain_gamma(m, a, g);
    FOR(t, m.n_terms) {
        const Index c0 = m.term_start[t], nb = m.term_start[t + 1] - c0, b0 = m.term_bin[t];
        V F = a.F[t], pull = splat(0.0);
        for (Index j = 0; j < nb; ++j) {
            const Index g = m.cell_gamma[c0 + j];
            V weighted = g >= 0 ? F * a.gamma[g] : F;
            a.weighted[c0 + j] = weighted;
            pull += a.r[b0 + j] * weighted * a.base[c0 + j];
        }
        a.pull[t] = pull;
    }
    for (Index b = 0; b < B; ++b) FOR(k, K) a.J[b * a.ld + k] = splat(0.0);
    team.sync();
    FOR(k, K) differentiate(m, a, k);
    for (Index b = 0; b < B; ++b) {
        V r = a.r[b];
        FOR(k, K) a.grad[k] += r * a.J[b * a.ld + k];
    }
    nll = team.sum(nll);
    I finite = vabs(nll) < splat(HUGE_NLL);  // false for nan, too
    const Evaluated found{pick(finite, nll, splat(INFINITY)), team.any(low)};
    team.mark(RATES);
    return found;
}

// C = 1 + R R^T, lower triangle; element (row, i) of R lies at R[row * sr + i * si].
template <int P, int Q>
static DEV inline void tile_product(const V* R, Index sr, Index si, Index inner, Index p, Index q, V* C, Index n) {
    V sum[P][Q];
    for (int u = 0; u < P; ++u)
        for (int v = 0; v < Q; ++v) sum[u][v] = splat(p + u == q + v ? 1.0 : 0.0);
    for (Index i = 0; i < inner; ++i) {
        const V* at = R + i * si;
        V right[Q];
        for (int v = 0; v < Q; ++v) right[v] = at[(q + v) * sr];
        for (int u = 0; u < P; ++u) {
            V left = at[(p + u) * sr];
            for (int v = 0; v < Q; ++v) sum[u][v] += left * right[v];
        }
    }
    for (int u = 0; u < P; ++u)
        for (int v = 0; v < Q; ++v) C[(p + u) * n + q + v] = sum[u][v];
}

template <int SIDE>
static DEV void tiled_gram(const Team& team, const V* R, Index sr, Index si, Index n, Index inner, V* C) {
    const Index even = n - n % SIDE;
    Index tile = 0;
    for (Index p = 0; p < even; p += SIDE)
        for (Index q = 0; q <= p; q += SIDE)
            if (tile++ % team.size() == team.rank()) tile_product<SIDE, SIDE>(R, sr, si, inner, p, q, C, n);
    for (Index p = even; p < n; ++p)
        for (Index q = 0; q <= p; ++q)
            if (tile++ % team.size() == team.rank()) tile_product<1, 1>(R, sr, si, inner, p, q, C, n);
    team.sync();
}

static DEV void gram(const Team& team, const V* R, Index sr, Index si, Index n, Index inner, V* C) {
    const bool few = n * n < 2 * TILE * TILE * team.size();  // tiles for each thread
    if (few)
        tiled_gram<1>(team, R, sr, si, n, inner, C);
    else
        tiled_gram<TILE>(team, R, sr, si, n, inner, C);
}

// Cholesky in place, inverse pivots on the diagonal; a pivot that is not positive is replaced, which
// damps its direction.
static DEV void factorise(const Team& team, V* C, Index n) {
    for (Index j = 0; j < n; ++j) {
        const V* row = C + j * n;
        for (Index i = j + team.rank(); i < n; i += team.size()) {
            V* other = C + i * n;
            V sum = other[j];
            for (Index k = 0; k < j; ++k) sum -= other[k] * row[k];
            if (i == j) {
                V scale = other[j];
                V pivot = pick(sum > splat(1e-14) * scale, sum, vmax(scale, splat(1e-300)));
                sum = splat(1.0) / vsqrt(pivot);
            }
            other[j] = sum;
        }
        team.sync();
        for (Index i = j + 1 + team.rank(); i < n; i += team.size()) C[i * n + j] *= row[j];
        team.sync();
    }
}

// y = L^-1 y and y = L^-T y for the factor that factorise left, by one thread.
static OUTLINED DEV void forward(const V* C, Index n, V* y) {
    for (Index i = 0; i < n; ++i) {
        V sum = y[i];
        for (Index k = 0; k < i; ++k) sum -= C[i * n + k] * y[k];
        y[i] = sum * C[i * n + i];
    }
}
static OUTLINED DEV void backward(const V* C, Index n, V* y) {
    for (Index i = n - 1; i >= 0; --i) {
        V value = y[i] * C[i * n + i];
        y[i] = value;
        for (Index k = 0; k < i; ++k) y[k] -= C[i * n + k] * value;
    }
}

// Both, by the team: what an unknown does to the others is spread over it.
static DEV void solve(const Team& team, const V* C, Index n, V* y) {
    if constexpr (Team::size() == 1) {
        forward(C, n, y), backward(C, n, y);
    } else {
        for (Index i = 0; i < n; ++i) {
            V value = y[i] * C[i * n + i];
            for (Index k = i + 1 + team.rank(); k < n; k += team.size()) y[k] -= C[k * n + i] * value;
            team.sync();
        }
        FOR(i, n) y[i] *= C[i * n + i];
        team.sync();
        for (Index i = n - 1; i >= 0; --i) {
            V value = y[i] * C[i * n + i];
            for (Index k = team.rank(); k < i; k += team.size()) y[k] -= C[i * n + k] * value;
            team.sync();
        }
        FOR(i, n) y[i] *= C[i * n + i];
        team.sync();
    }
}

// What J_s = W^1/2 J D^-1/2 needs, and the Cholesky factor of 1 + J_s J_s^T or 1 + J_s^T J_s,
// whichever is smaller.  A parameter with dinv = 0 takes no part.
static DEV void factorise_hessian(const Team& team, const Model& m, Arrays a) {
    const Index K = m.n_pars, B = m.n_bins;
    FOR(k, K) a.scaled[k] = vsqrt(a.dinv[k]);
    for (Index b = 0; b < B; ++b) {
        V weight = a.weight[b];
        FOR(k, K) a.Js[b * a.ld + k] = a.J[b * a.ld + k] * (weight * a.scaled[k]);
    }
    team.sync();
    if (B < K)
        gram(team, a.Js, a.ld, 1, B, K, a.M);
    else
        gram(team, a.Js, 1, a.ld, K, B, a.M);
    factorise(team, a.M, B < K ? B : K);
}

// q = (D + J^T W J)^-1 q on the free parameters.
static DEV void apply_inverse(const Team& team, const Model& m, Arrays a, V* q) {
    const Index K = m.n_pars, B = m.n_bins;
    FOR(k, K) q[k] *= a.scaled[k];
    team.sync();
    if (B < K) {
        FOR(b, B) {
            V sum = splat(0.0);
            for (Index k = 0; k < K; ++k) sum += a.Js[b * a.ld + k] * q[k];
            a.rhs[b] = sum;
        }
        team.sync();
        solve(team, a.M, B, a.rhs);
        for (Index b = 0; b < B; ++b) {
            V y = a.rhs[b];
            FOR(k, K) q[k] -= a.Js[b * a.ld + k] * y;
        }
    } else {
        solve(team, a.M, K, q);
    }
    FOR(k, K) q[k] *= a.scaled[k];
}

// Which pairs of the secant memory are filled, and whether it serves yet.
struct Secants {
    V used[MEMORY], late;
};

static DEV void newton_step(const Team& team, const Model& m, Arrays a, const Secants& memory) {
    const Index K = m.n_pars;
    const V zero = splat(0.0);
    V along[MEMORY], rho[MEMORY];
    const int pairs = any(memory.late > zero) ? MEMORY : 0;
    FOR(k, K) a.newton[k] = pick(a.dinv[k] > zero, a.grad[k], zero);
    for (int i = 0; i < pairs; ++i) {
        const V *s = a.s + i * K, *y = a.y + i * K;
        V sy = zero, ss = zero, sq = zero;
        FOR(k, K) {
            V sk = pick(a.dinv[k] > zero, s[k], zero);
            sy += sk * y[k], sq += sk * a.newton[k];
            ss += sk * sk * y[k] * y[k];
        }
        sy = team.sum(sy), sq = team.sum(sq), ss = team.sum(ss);
        I good = (memory.used[i] > zero) & (memory.late > zero) & (sy > splat(1e-8) * vsqrt(ss));
        rho[i] = pick(good, splat(1.0) / pick(good, sy, splat(1.0)), zero);
        along[i] = rho[i] * sq;
        FOR(k, K) a.newton[k] -= along[i] * pick(a.dinv[k] > zero, y[k], zero);
    }
    apply_inverse(team, m, a, a.newton);
    for (int i = pairs - 1; i >= 0; --i) {
        const V *s = a.s + i * K, *y = a.y + i * K;
        V yr = zero;
        FOR(k, K) yr += y[k] * a.newton[k];
        V change = along[i] - rho[i] * team.sum(yr);
        FOR(k, K) a.newton[k] += change * pick(a.dinv[k] > zero, s[k], zero);
    }
    FOR(k, K) a.newton[k] = -a.newton[k];
}

// The inverse of D, zero for the parameters held by their bounds; and W^1/2.
static DEV void invert_diagonal(const Team& team, const Model& m, Arrays a) {
    const V zero = splat(0.0), one = splat(1.0);
    const Index K = m.n_pars, B = m.n_bins;
    FOR(b, B) a.weight[b] = vsqrt(a.W[b]);
    FOR(k, K) {
        V x = a.trial[k], g = a.grad[k];
        I held = ((x <= a.lower[k]) & (g >= zero)) | ((x >= a.upper[k]) & (g <= zero));
        V D = a.diag[k];
        if (m.par_kind[k] == 0) {
            // No constraint: a ridge far below the curvature keeps the bin-space form solvable.
            V h = zero;
            for (Index b = 0; b < B; ++b) h += a.W[b] * a.J[b * a.ld + k] * a.J[b * a.ld + k];
            V reach = vabs(g) / vmax(one, splat(0.1) * vabs(x));
            D = vmax(vmax(D, zero) + splat(1e-7) * h, splat(1e-4) * reach) + splat(1e-30);
        } else {
            V own = m.par_kind[k] == 1 ? splat(1.0 / (m.par_width[k] * m.par_width[k]))
                                       : vmax(a.aux[k], one) / vmax(x * x, splat(1e-20));
            D = vmax(D, splat(0.2) * own);
        }
        a.dinv[k] = pick(held, zero, one / D);
    }
    team.sync();
}

static OUTLINED DEV void find_step(const Team& team, const Model& m, Arrays a, const Secants& memory) {
    const V zero = splat(0.0);
    invert_diagonal(team, m, a);
    factorise_hessian(team, m, a);
    newton_step(team, m, a, memory);
    // A parameter on its bound whose Newton step leaves it is held, and the others solved again.
    I again = isplat(0);
    FOR(k, m.n_pars) {
        V x = a.trial[k], s = a.newton[k];
        I leaving = ((x <= a.lower[k]) & (s < zero)) | ((x >= a.upper[k]) & (s > zero));
        a.dinv[k] = pick(leaving, zero, a.dinv[k]);
        again |= leaving;
    }
    if (any(team.any(again))) {
        factorise_hessian(team, m, a);
        newton_step(team, m, a, memory);
    }
    team.mark(ALGEBRA);
}

// Keeps the step just accepted and the change of the gradient, and the gradient for the next one.
static DEV void remember(const Team& team, const Model& m, Arrays a, Secants& memory, I accepted, const bool* fresh) {
    const V one = splat(1.0);
    const Index K = m.n_pars;
    I again = accepted;
    for (int l = 0; l < L; ++l)
        if (fresh[l]) lane(again, l) = 0;
    for (int i = MEMORY - 1; i > 0; --i) {
        V *s = a.s + i * K, *y = a.y + i * K;
        FOR(k, K) s[k] = pick(again, s[k - K], s[k]), y[k] = pick(again, y[k - K], y[k]);
        memory.used[i] = pick(again, memory.used[i - 1], memory.used[i]);
    }
    memory.used[0] = pick(again, one, memory.used[0]);
    FOR(k, K) {
        a.s[k] = pick(again, a.x[k] - a.last_point[k], a.s[k]);
        a.y[k] = pick(again, a.grad[k] - a.last_grad[k], a.y[k]);
        a.last_point[k] = pick(accepted, a.x[k], a.last_point[k]);
        a.last_grad[k] = pick(accepted, a.grad[k], a.last_grad[k]);
    }
    for (int l = 0; l < L; ++l)
        if (fresh[l])
            for (V& used : memory.used) lane(used, l) = 0.0;
}

// One fit to be done: its data, where it starts, and where the POI is held (nan: nowhere).
struct Job {
    const double *data, *start;
    double poi;
};

// Works off jobs, a lane taking the next one as soon as it has finished its own.  `jobs` has
// bool take(int l, Job&), false where there is no more (a job to repeat is given all the same), and
// done(int l, const State&, int status, double nll), which finds the point in `x` and `accepted_gamma`.
template <class Jobs>
static DEV void minimise(const Team& team, const Model& m, const Options& options, Arrays a, Jobs& jobs) {
    const Index K = m.n_pars, G = m.n_gammas;
    int iterations[L], shortened[L], working = 0;
    double before[L];
    bool busy[L], fresh[L];
    V accepted_nll, slope, length = splat(0.0);  // of the accepted point, and of the step from it
    Secants memory{};
    auto load = [&](int l) {
        Job job;
        busy[l] = jobs.take(l, job);
        if (!busy[l] && L == 1) return;
        iterations[l] = shortened[l] = 0;
        fresh[l] = true;
        lane(accepted_nll, l) = lane(slope, l) = before[l] = INFINITY;
        set_lane(team, m, a, l, job.data, job.start, job.poi);
        FOR(k, K) lane(a.x[k], l) = lane(a.trial[k], l);
        FOR(g, G) lane(a.accepted_gamma[g], l) = fmin(fmax(1.0, m.gamma_lower[g]), m.gamma_upper[g]);
        working += busy[l];
    };
    auto finish = [&](int l, int status) {
        team.sync();
        jobs.done(l, a, status, lane(accepted_nll, l));
        --working;
        load(l);
    };
    for (int l = 0; l < L; ++l) load(l);

    while (working > 0) {
        const Evaluated found = evaluate(team, m, a);
        I accepted = isplat(0);
        for (int l = 0; l < L; ++l) {
            const double fallen = lane(accepted_nll, l) - lane(found.nll, l);
            const double noise = 1e-13 * fabs(lane(found.nll, l));
            const bool lower = fresh[l] || fallen >= 1e-4 * lane(length, l) * lane(slope, l) - noise;
            if (isfinite(lane(found.nll, l)) && lower) lane(accepted, l) = -1;
        }
        FOR(k, K) a.x[k] = pick(accepted, a.trial[k], a.x[k]);
        FOR(g, G) a.accepted_gamma[g] = pick(accepted, a.gamma[g], a.accepted_gamma[g]);

        V fall = splat(0.0);  // along the new step, for a length of one
        if (any(accepted)) {
            for (int l = 0; l < L; ++l) {
                const bool slow = 0.5 * lane(slope, l) < NEAR && lane(slope, l) > SLOW * before[l];
                lane(memory.late, l) = iterations[l] >= LATE || slow ? 1.0 : 0.0;
            }
            remember(team, m, a, memory, accepted, fresh);
            find_step(team, m, a, memory);
            FOR(k, K) {
                fall -= a.grad[k] * a.newton[k];
                a.step[k] = pick(accepted, a.newton[k], a.step[k]);
            }
            fall = team.sum(fall);
        }
        for (int l = 0; l < L; ++l) {
            if (!busy[l]) continue;
            ++iterations[l];
            if (lane(accepted, l)) {
                fresh[l] = false;
                shortened[l] = 0;
                lane(accepted_nll, l) = lane(found.nll, l);
                before[l] = lane(slope, l);
                lane(slope, l) = lane(fall, l);
                lane(length, l) = 1.0;
                if (0.5 * lane(fall, l) < options.tolerance) {
                    finish(l, lane(found.floored, l) ? RATE_FLOOR : CONVERGED);
                    continue;
                }
            } else if (fresh[l]) {
                finish(l, NOT_FINITE);
                continue;
            } else {
                // Quadratic interpolation between the accepted point and the rejected trial.
                const double rise = lane(found.nll, l) - lane(accepted_nll, l);
                const double s = lane(slope, l) * lane(length, l);
                double shrink = isfinite(rise) ? 0.5 * s / (rise + s) : 0.25;
                if (!(shrink > 0.1)) shrink = 0.1;
                if (shrink > 0.5) shrink = 0.5;
                lane(length, l) *= shrink;
                if (++shortened[l] > 30) {
                    finish(l, STALLED);
                    continue;
                }
            }
            if (iterations[l] >= options.max_iterations) finish(l, MAX_ITERATIONS);
        }
        I moving = isplat(0);
        for (int l = 0; l < L; ++l)
            if (busy[l] && !fresh[l]) lane(moving, l) = -1;
        FOR(k, K) {
            V to = vmin(vmax(a.x[k] + length * a.step[k], a.lower[k]), a.upper[k]);
            a.trial[k] = pick(moving, to, a.trial[k]);
        }
        team.sync();
    }
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
//
// Here the team spreads over the candidates: all about one of them is one thread's.

constexpr int WALK = 24;
constexpr double STRIDE = 0.25;

// Rates moved, and what they become under half of C: see `cost`.
struct Move {
    V *rates, *half;
};

struct Moves {
    V* pool;
    Index bins, rank;
    DEV Move operator[](Index i) const { return {pool + i * (bins + rank), pool + i * (bins + rank) + bins}; }
};

// How far a search goes: see Search in engine.h.
struct Limits {
    double threshold, reach;
};

// What a search knows: candidate i < n_curved lies on the i-th curved alpha; two for each free
// parameter follow, below and above.  Moves are those of the alpha or of the pair.
struct Basins {
    Index n_starts;
    Moves linear, curved;  // for one unit of the parameter and of phi
    V *energy, *value;     // predicted -ln L above the minimum, and the parameter there
    int *order, *found;    // (L, n_starts) the candidates chosen, and (L) how many
    Moves columns;         // a thread's own
    Moves moved;           // of each start
    V* replied;            // (n_starts, n_pars)
};

static DEV Basins make_basins(const Model& m, Arena& memory, Index n_starts, Index n_threads) {
    const Index B = m.n_bins, K = m.n_pars, rank = B < K ? B : K;
    const Index places = m.n_curved + m.n_reach, candidates = m.n_curved + 2 * m.n_reach;
    auto moves = [&](Index n) { return Moves{memory.take(n * (B + rank)), B, rank}; };
    Basins s;
    s.n_starts = n_starts;
    s.energy = memory.take(candidates), s.value = memory.take(candidates);
    s.order = (int*)memory.take(n_starts), s.found = (int*)memory.take(1);
    s.columns = moves(n_threads);
    s.linear = moves(places), s.curved = moves(places);
    s.moved = moves(n_starts), s.replied = memory.take(n_starts * K);
    return s;
}

static DEV V inner(const V* x, const V* y, Index n) {
    V sum = splat(0.0);
    for (Index i = 0; i < n; ++i) sum += x[i] * y[i];
    return sum;
}

static OUTLINED DEV void halve(const Model& m, Arrays a, const Move& move) {
    const Index K = m.n_pars, B = m.n_bins;
    if (B < K) {
        for (Index b = 0; b < B; ++b) move.half[b] = move.rates[b];
        forward(a.M, B, move.half);
        return;
    }
    for (Index k = 0; k < K; ++k) move.half[k] = splat(0.0);
    for (Index b = 0; b < B; ++b)
        for (Index k = 0; k < K; ++k) move.half[k] += a.Js[b * a.ld + k] * move.rates[b];
    forward(a.M, K, move.half);
}

// u^T C v from two halved moves.
static OUTLINED DEV V cost(const Model& m, const Move& u, const Move& v) {
    if (m.n_bins < m.n_pars) return inner(u.half, v.half, m.n_bins);
    return inner(u.rates, v.rates, m.n_bins) - inner(u.half, v.half, m.n_pars);
}

// J_s^T C u, the others' answer to a halved move; destroys the half.
static DEV void answer(const Model& m, Arrays a, const Move& move, V* out) {
    const Index K = m.n_pars, B = m.n_bins;
    if (B < K) {
        backward(a.M, B, move.half);
        for (Index k = 0; k < K; ++k) out[k] = splat(0.0);
        for (Index b = 0; b < B; ++b)
            for (Index k = 0; k < K; ++k) out[k] += a.Js[b * a.ld + k] * move.half[b];
        return;
    }
    for (Index k = 0; k < K; ++k) out[k] = move.half[k];
    backward(a.M, K, out);
}

static DEV V phi_of(const Model& m, V x) {
    V ax = vabs(x), z = x * x;
    I inside = ax < splat(1.0);
    if (m.shape_code == 0) return ax;
    if (m.shape_code == 2) return pick(inside, z, splat(2.0) * ax - splat(1.0));
    return pick(inside, splat(0.125) * z * ((splat(3.0) * z - splat(10.0)) * z + splat(15.0)), ax);
}

// Rates moved by the c-th curved alpha (linear) and by phi of it (curved), summed over its entries.
static DEV void responses(const Model& m, Arrays a, Index c, V* linear, V* curved) {
    const V zero = splat(0.0);
    for (Index b = 0; b < m.n_bins; ++b) linear[b] = curved[b] = zero;
    for (Index i = m.curved_start[c]; i < m.curved_start[c + 1]; ++i) {
        const Index t = m.curved_term[i], e = m.curved_entry[i];
        const Index c0 = m.term_start[t], nb = m.term_start[t + 1] - c0, b0 = m.term_bin[t];
        if (m.curved_is_norm[i]) {
            const V x = a.trial[m.norm_par[e]];
            const double up = exp(m.norm_coef[8 * e + 6]), down = exp(m.norm_coef[8 * e + 7]);
            const double s = 0.5 * (up - down), q = 0.5 * (up + down) - 1.0;
            V now = vmax(splat(1.0) + splat(s) * x + splat(q) * phi_of(m, x), splat(0.1));
            for (Index j = 0; j < nb; ++j) {
                V content = a.weighted[c0 + j] * a.base[c0 + j] / now;
                linear[b0 + j] += splat(s) * content;
                curved[b0 + j] += splat(q) * content;
            }
        } else {
            const Index o = m.shape_offset[e];
            for (Index j = 0; j < nb; ++j) {
                linear[b0 + j] += splat(m.shape_linear[o + j]) * a.weighted[c0 + j];
                curved[b0 + j] += splat(m.shape_curved[o + j]) * a.weighted[c0 + j];
            }
        }
    }
}

// 1 - s^T C s for column s of J_s: what is left of the variance of parameter k, in units of 1/D.
static DEV V variance_left(const Model& m, Arrays a, Index k, const Move& column) {
    const Index K = m.n_pars, B = m.n_bins;
    for (Index b = 0; b < B; ++b) column.rates[b] = a.Js[b * a.ld + k];
    if (B < K) {
        halve(m, a, column);
        return vmax(splat(1.0) - cost(m, column, column), splat(1e-12));
    }
    for (Index j = 0; j < K; ++j) column.half[j] = splat(j == k ? 1.0 : 0.0);
    forward(a.M, K, column.half);
    const V left = vmax(inner(column.half, column.half, K), splat(1e-12));
    halve(m, a, column);
    return left;
}

// Walks along a curved alpha both ways and keeps the lowest point behind a barrier.
static OUTLINED DEV void walk(const Model& m, Arrays a, const Basins& s, Index c, const Move& column) {
    const V half = splat(0.5), zero = splat(0.0);
    const Index k = m.curved_par[c], B = m.n_bins;
    const Move linear = s.linear[c], curved = s.curved[c];
    const double precision = 1.0 / (m.par_width[k] * m.par_width[k]);
    const V left = variance_left(m, a, k, column);
    responses(m, a, c, linear.rates, curved.rates);
    V drive_s = zero, drive_a = zero;
    for (Index b = 0; b < B; ++b) {
        drive_s += a.r[b] * linear.rates[b], drive_a += a.r[b] * curved.rates[b];
        linear.rates[b] *= a.weight[b], curved.rates[b] *= a.weight[b];
    }
    halve(m, a, linear), halve(m, a, curved);
    const V ls = cost(m, linear, column), cs = cost(m, curved, column);
    const V ss = cost(m, linear, linear) + ls * ls / left, sa = cost(m, linear, curved) + ls * cs / left,
            aa = cost(m, curved, curved) + cs * cs / left;
    const V x = a.trial[k], aux = a.aux[k], phi = phi_of(m, x);
    V energy = splat(INFINITY), value = x;
#pragma unroll 1
    for (int way = -1; way <= 1; way += 2) {
        V barrier = zero;
#pragma unroll 1
        for (int i = 1; i <= WALK; ++i) {
            V d = splat(way * STRIDE * i), y = x + d;
            V dphi = phi_of(m, y) - phi;
            V e = splat(precision) * d * (x - aux + half * d) + drive_s * d + drive_a * dphi +
                  half * (ss * d * d + aa * dphi * dphi) + sa * d * dphi;
            barrier = vmax(barrier, e);
            I better = (barrier - e > splat(1e-3)) & (e < energy) & (y >= a.lower[k]) & (y <= a.upper[k]);
            energy = pick(better, e, energy);
            value = pick(better, y, value);
        }
    }
    s.energy[c] = energy, s.value[c] = value;
}

// The c-th free parameter with zero within reach: its lower bound, and as far on the other side.
static OUTLINED DEV void reach(const Model& m, Arrays a, const Basins& s, const Limits& limits, Index c,
                               const Move& column) {
    const V zero = splat(0.0), infinite = splat(INFINITY);
    const Index k = m.reach_par[c], place = m.n_curved + c, down = m.n_curved + 2 * c, up = down + 1;
    const Move linear = s.linear[place], curved = s.curved[place];
    const V left = variance_left(m, a, k, column);
    for (Index b = 0; b < m.n_bins; ++b) {
        linear.rates[b] = a.J[b * a.ld + k] * a.weight[b];
        curved.rates[b] = zero;
    }
    halve(m, a, linear);
    const I held = a.dinv[k] == zero;
    const V cross = cost(m, linear, column);
    const V stiffness = vmax(cost(m, linear, linear) + cross * cross / left, splat(1e-12));
    const V slope = pick(held, vabs(a.grad[k]), zero);
    const V to_bound = a.trial[k] - a.lower[k];
    const V step = (vsqrt(slope * slope + splat(limits.reach) * stiffness) - slope) / stiffness;
    const V energy = splat(0.5) * stiffness * to_bound * to_bound;
    const I near = (energy < splat(limits.reach)) & (a.lower[k] < a.upper[k]);
    const V value = vmin(a.trial[k] + step, a.upper[k]);
    s.value[down] = a.lower[k], s.value[up] = value;
    s.energy[down] = pick(near & (to_bound > zero), energy * splat(limits.threshold / limits.reach), infinite);
    s.energy[up] = pick(near & (value > a.trial[k]), splat(0.5 * limits.threshold), infinite);
}

// Sorts the promising candidates of one lane by energy; gives how many, at most n_starts.
static DEV int choose(const Model& m, const Basins& s, int l, double threshold) {
    const int most = (int)s.n_starts;
    int* order = s.order + l * most;
    int found = 0;
    for (Index c = 0; c < m.n_curved + 2 * m.n_reach; ++c) {
        const double e = lane(s.energy[c], l);
        if (!(e < threshold)) continue;
        int place = found < most ? found : most;
        while (place > 0 && lane(s.energy[order[place - 1]], l) > e) {
            if (place < most) order[place] = order[place - 1];
            --place;
        }
        if (place < most) order[place] = (int)c;
        if (found < most) ++found;
    }
    return found;
}

// Looks from the points in the lanes for other basins: fills `order` and `found`.
static OUTLINED DEV void find_basins(const Team& team, const Model& m, const Limits& limits, Arrays a,
                                     const Basins& s) {
    evaluate(team, m, a);
    invert_diagonal(team, m, a);
    factorise_hessian(team, m, a);
    const Move column = s.columns[team.rank()];
    FOR(c, m.n_curved + m.n_reach) {
        if (c < m.n_curved)
            walk(m, a, s, c, column);
        else
            reach(m, a, s, limits, c - m.n_curved, column);
    }
    team.sync();
    if (team.rank() == 0)
        for (int l = 0; l < L; ++l) s.found[l] = choose(m, s, l, limits.threshold);
    team.sync();
}

// The points to start from.  Each lane follows its own i-th candidate, with all others answering;
// `out(l, i)` says where it goes.
template <class Out>
static OUTLINED DEV void follow(const Team& team, const Model& m, Arrays a, const Basins& s, Out out) {
    const Index K = m.n_pars, B = m.n_bins, rank = B < K ? B : K;
    const Move column = s.columns[team.rank()];
    FOR(i, s.n_starts) {
        const Move moved = s.moved[i];
        V* replied = s.replied + i * K;
        Index par[L], place[L];
        bool some = false;
        V from = splat(0.0), to = splat(0.0);
        for (int l = 0; l < L; ++l) {
            par[l] = -1;
            if (i >= s.found[l]) continue;
            const Index c = s.order[l * s.n_starts + i], past = c - m.n_curved;
            place[l] = past < 0 ? c : m.n_curved + past / 2;
            par[l] = past < 0 ? m.curved_par[c] : m.reach_par[past / 2];
            lane(from, l) = lane(a.trial[par[l]], l), lane(to, l) = lane(s.value[c], l);
            some = true;
        }
        if (!some) continue;
        V d = to - from, dphi = phi_of(m, to) - phi_of(m, from);
        for (int l = 0; l < L; ++l)
            for (Index b = 0; b < B; ++b) {
                const bool has = par[l] >= 0;
                lane(column.rates[b], l) = has ? lane(a.Js[b * a.ld + par[l]], l) : 0.0;
                lane(moved.rates[b], l) = has ? lane(s.linear[place[l]].rates[b], l) * lane(d, l) +
                                                    lane(s.curved[place[l]].rates[b], l) * lane(dphi, l)
                                              : 0.0;
            }
        halve(m, a, column), halve(m, a, moved);
        const V left = vmax(splat(1.0) - cost(m, column, column), splat(1e-12));
        const V share = cost(m, column, moved) / left;
        for (Index b = 0; b < B; ++b) moved.rates[b] += share * column.rates[b];
        for (Index j = 0; j < rank; ++j) moved.half[j] += share * column.half[j];
        answer(m, a, moved, replied);
        for (int l = 0; l < L; ++l) {
            if (par[l] < 0) continue;
            double* point = out(l, i);
            for (Index k = 0; k < K; ++k)
                point[k] = k == par[l] ? lane(to, l) : lane(a.trial[k], l) - lane(a.scaled[k], l) * lane(replied[k], l);
        }
    }
    team.sync();
    team.mark(SEARCHING);
}
