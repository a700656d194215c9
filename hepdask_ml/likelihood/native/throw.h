// The toys' generator, one text for CPUs and GPUs, which throw the same toys to the last bit.
//
// Datum i of toy t is drawn from the random words at the address (key, t, i, attempt), and from
// nothing else: who throws it, in which order and beside which others does not matter.
#pragma once
#include "engine.h"

#ifndef DEV
#ifdef __CUDACC__
#define DEV __device__
#define OUTLINED __noinline__
#else
#define DEV
#define OUTLINED
#endif
#endif

// What toys fluctuate about: counts are Poisson about their rates, the others normal.
struct Throw {
    uint64_t key;
    int64_t n_counts, n_normals;
    const int64_t* count_index;   // (n_counts) positions in a data row
    const double* rate;           // (n_counts) from 0 to 1e15
    const int64_t* normal_index;  // (n_normals)
    const double* mean;           // (n_normals)
    const double* width;          // (n_normals)
};

namespace toys {

// A double whose products are never fused with sums: a fused one rounds once and not twice, and not
// every processor has it.  (Host compilers need -ffp-contract=off besides.)
struct Real {
    double value;
    DEV Real(double v) : value(v) {}
};

#ifdef __CUDA_ARCH__
static inline DEV Real operator+(Real a, Real b) { return __dadd_rn(a.value, b.value); }
static inline DEV Real operator-(Real a, Real b) { return __dsub_rn(a.value, b.value); }
static inline DEV Real operator*(Real a, Real b) { return __dmul_rn(a.value, b.value); }
static inline DEV Real operator/(Real a, Real b) { return __ddiv_rn(a.value, b.value); }
static inline DEV Real root(Real a) { return __dsqrt_rn(a.value); }
static inline DEV Real whole(Real a) { return floor(a.value); }
static inline DEV int64_t bits_of(Real a) { return __double_as_longlong(a.value); }
static inline DEV Real of_bits(int64_t bits) { return __longlong_as_double(bits); }
#else
static inline DEV Real operator+(Real a, Real b) { return a.value + b.value; }
static inline DEV Real operator-(Real a, Real b) { return a.value - b.value; }
static inline DEV Real operator*(Real a, Real b) { return a.value * b.value; }
static inline DEV Real operator/(Real a, Real b) { return a.value / b.value; }
static inline DEV Real root(Real a) { return __builtin_sqrt(a.value); }
static inline DEV Real whole(Real a) { return __builtin_floor(a.value); }
static inline DEV int64_t bits_of(Real a) {
    int64_t bits;
    __builtin_memcpy(&bits, &a.value, sizeof bits);
    return bits;
}
static inline DEV Real of_bits(int64_t bits) {
    double value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
#endif
static inline DEV bool operator<(Real a, Real b) { return a.value < b.value; }
static inline DEV bool operator<=(Real a, Real b) { return a.value <= b.value; }

struct Words {
    uint32_t word[4];  // of 32 bits
};

// Philox4x32-10 (Salmon et al., SC11): four random words for each key and counter.
static inline DEV Words philox(uint64_t key, uint64_t toy, uint32_t datum, uint32_t attempt) {
    uint32_t c0 = (uint32_t)toy, c1 = (uint32_t)(toy >> 32), c2 = datum, c3 = attempt;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t even = 0xD2511F53ull * c0, odd = 0xCD9E8D57ull * c2;
        c0 = (uint32_t)(odd >> 32) ^ c1 ^ k0, c1 = (uint32_t)odd;
        c2 = (uint32_t)(even >> 32) ^ c3 ^ k1, c3 = (uint32_t)even;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// A multiple of 2^-53 in (0, 1].
static inline DEV Real uniform(uint32_t high, uint32_t low) {
    const uint64_t joint = (uint64_t)high << 32 | low;
    return (double)(int64_t)((joint >> 11) + 1) * 0x1p-53;
}

// A uniform number on (0, 1) as its distance from the nearer end, an odd multiple of 2^-54, and which
// end that is: both tails are equally fine.
struct Tail {
    Real distance;
    bool upper;
};

static inline DEV Tail tail(uint32_t high, uint32_t low) {
    const uint64_t joint = (uint64_t)high << 32 | low;
    return {((double)(int64_t)(joint << 1 >> 12) + 0.5) * 0x1p-53, (bool)(joint >> 63)};
}

// A polynomial by Horner's rule, highest power first.
template <int N>
static inline DEV Real polynomial(const double (&series)[N], Real x) {
    Real sum = series[0];
    for (int i = 1; i < N; ++i) sum = sum * x + series[i];
    return sum;
}

// (ln((1 + s) / (1 - s)) - 2 s) / s for |s| < 0.172, from z = s^2.
static inline DEV Real atanh_rest(Real z) {
    const double series[] = {2.0 / 21.0, 2.0 / 19.0, 2.0 / 17.0, 2.0 / 15.0, 2.0 / 13.0,
                             2.0 / 11.0, 2.0 / 9.0,  2.0 / 7.0,  2.0 / 5.0,  2.0 / 3.0};
    return z * polynomial(series, z);
}

// Natural logarithm of a positive normal number: that of its exponent and of a mantissa in
// [sqrt(1/2), sqrt(2)).  The mathematical libraries of unlike systems differ in last bits.
static inline DEV Real ln(Real a) {
    const int64_t bits = bits_of(a), n = (bits - 0x3fe6a09e667f3bcdll) >> 52;
    const Real m = of_bits(bits - n * (1ll << 52)), e = (double)n;
    const Real s = (m - 1.0) / (m + 1.0);
    const Real rest = s * atanh_rest(s * s) + e * 1.90821492927058770002e-10;
    return e * 6.93147180369123816490e-01 + (s + s + rest);
}

// e^-a for 0 <= a < 700: 2^n e^r with |r| <= ln2 / 2, and the Taylor series to r^13.
static inline DEV Real exp_minus(Real a) {
    const double series[] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0,
                             1.0 / 3628800.0,    1.0 / 362880.0,    1.0 / 40320.0,
                             1.0 / 5040.0,       1.0 / 720.0,       1.0 / 120.0,
                             1.0 / 24.0,         1.0 / 6.0,         0.5,
                             1.0,                1.0};
    const Real n = whole(Real(0.5) - a * 1.4426950408889634074);
    const Real r = (Real(0.0) - a - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    return of_bits(bits_of(polynomial(series, r)) + (int64_t)n.value * (1ll << 52));
}

// Standard normal quantile of a tail (M. J. Wichura, algorithm AS 241, PPND16; Appl. Stat. 37 (1988)
// 477): 16 digits.
static inline DEV Real normal_quantile(Tail tail) {
    const Real q = Real(0.5) - tail.distance;
    Real size = 0.0;
    if (q <= 0.425) {
        const double above[] = {2.5090809287301226727e+3, 3.3430575583588128105e+4,
                                6.7265770927008700853e+4, 4.5921953931549871457e+4,
                                1.3731693765509461125e+4, 1.9715909503065514427e+3,
                                1.3314166789178437745e+2, 3.3871328727963666080e+0};
        const double below[] = {5.2264952788528545610e+3, 2.8729085735721942674e+4,
                                3.9307895800092710610e+4, 2.1213794301586595867e+4,
                                5.3941960214247511077e+3, 6.8718700749205790830e+2,
                                4.2313330701600911252e+1, 1.0};
        const Real r = Real(0.180625) - q * q;
        size = q * polynomial(above, r) / polynomial(below, r);
    } else {
        const Real far = root(Real(0.0) - ln(tail.distance));
        if (far <= 5.0) {
            const double above[] = {7.74545014278341407640e-4, 2.27238449892691845833e-2,
                                    2.41780725177450611770e-1, 1.27045825245236838258e+0,
                                    3.64784832476320460504e+0, 5.76949722146069140550e+0,
                                    4.63033784615654529590e+0, 1.42343711074968357734e+0};
            const double below[] = {1.05075007164441684324e-9, 5.47593808499534494600e-4,
                                    1.51986665636164571966e-2, 1.48103976427480074590e-1,
                                    6.89767334985100004550e-1, 1.67638483018380384940e+0,
                                    2.05319162663775882187e+0, 1.0};
            size = polynomial(above, far - 1.6) / polynomial(below, far - 1.6);
        } else {
            const double above[] = {2.01033439929228813265e-7, 2.71155556874348757815e-5,
                                    1.24266094738807843860e-3, 2.65321895265761230930e-2,
                                    2.96560571828504891230e-1, 1.78482653991729133580e+0,
                                    5.46378491116411436990e+0, 6.65790464350110377720e+0};
            const double below[] = {2.04426310338993978564e-15, 1.42151175831644588870e-7,
                                    1.84631831751005468180e-5, 7.86869131145613259100e-4,
                                    1.48753612908506148525e-2, 1.36929880922735805310e-1,
                                    5.99832206555887937690e-1, 1.0};
            size = polynomial(above, far - 5.0) / polynomial(below, far - 5.0);
        }
    }
    return tail.upper ? size : Real(0.0) - size;
}

// ln of the Poisson probability of k, without the cancellation of terms as large as the rate
// (C. Loader, Fast and accurate computation of binomial probabilities, 2000).
static inline DEV Real log_probability(Real k, Real rate) {
    if (k < 16.0) {
        Real factorial = 1.0;
        for (Real i = 2.0; i <= k; i = i + 1.0) factorial = factorial * i;
        return k * ln(rate) - rate - ln(factorial);
    }
    const Real s = (k - rate) / (k + rate);
    // k ln(k / rate) + rate - k, which is small where k is near the rate
    const Real deviance = Real(-0.17) < s && s < 0.17 ? s * (k - rate + k * atanh_rest(s * s))
                                                      : k * ln(k / rate) + rate - k;
    // ln k! by Stirling's series: the first term left out is below 2e-16
    const double series[] = {1.0 / 1188.0, -1.0 / 1680.0, 1.0 / 1260.0, -1.0 / 360.0, 1.0 / 12.0};
    const Real inverse = Real(1.0) / k;
    return Real(0.0) - deviance - Real(0.5) * ln(k * 6.28318530717958647693) -
           inverse * polynomial(series, inverse * inverse);
}

// A Poisson distribution, ready to be drawn from.
struct Poisson {
    Real rate;
    Real none;                // small rates: the probability of zero
    Real a, b, inner, ratio;  // large ones: W. Hoermann's a, b, v_r and 1 / alpha
};

constexpr double LARGE = 10.0;

static inline DEV Poisson poisson(Real rate) {
    if (rate < LARGE) return {rate, exp_minus(rate), 0.0, 0.0, 0.0, 0.0};
    const Real b = Real(0.931) + Real(2.53) * root(rate);
    return {rate,
            0.0,
            Real(0.02483) * b - 0.059,
            b,
            Real(0.9277) - Real(3.6224) / (b - 2.0),
            Real(1.1239) + Real(1.1328) / (b - 3.4)};
}

// Inversion: adds up probabilities from zero on, all of them multiplied by k!, which saves a division.
// Returns -1 where rounding decides, next to one: there P(60) is below 1e-27.
static inline DEV Real count_up(const Poisson& about, Words random) {
    Real left = uniform(random.word[0], random.word[1]), probability = about.none;
    for (double k = 0.0; k < 60.0;) {
        if (left <= probability) return k;
        k += 1.0;
        left = (left - probability) * k;
        probability = probability * about.rate;
    }
    return -1.0;
}

// Transformed rejection with squeeze (W. Hoermann, Insurance: Math. Econ. 12 (1993) 39, PTRS);
// -1 if rejected.
static inline DEV Real transformed(const Poisson& about, Words random) {
    const Tail u = tail(random.word[0], random.word[1]);
    const Real v = uniform(random.word[2], random.word[3]);
    const Real off = u.upper ? Real(0.5) - u.distance : u.distance - 0.5;
    const Real k = whole(((about.a + about.a) / u.distance + about.b) * off + about.rate + 0.43);
    if (Real(0.07) <= u.distance && v <= about.inner) return k;
    if (k < 0.0 || (u.distance < 0.013 && u.distance < v)) return -1.0;
    const Real hat = v * about.ratio / (about.a / (u.distance * u.distance) + about.b);
    return ln(hat) <= log_probability(k, about.rate) ? k : Real(-1.0);
}

static inline DEV double draw_count(const Poisson& about, uint64_t key, uint64_t toy, uint32_t datum) {
    for (uint32_t attempt = 0;; ++attempt) {
        const Words random = philox(key, toy, datum, attempt);
        const Real k = about.rate < LARGE ? count_up(about, random) : transformed(about, random);
        if (Real(0.0) <= k) return k.value;
    }
}

static inline DEV double draw_normal(Real mean, Real width, uint64_t key, uint64_t toy, uint32_t datum) {
    const Words random = philox(key, toy, datum, 0);
    return (mean + width * normal_quantile(tail(random.word[0], random.word[1]))).value;
}

}  // namespace toys

// Position in the data row of datum i, which is a count below n_counts and normal from there on.
static inline DEV int64_t throw_place(const Throw& about, int64_t i) {
    return i < about.n_counts ? about.count_index[i] : about.normal_index[i - about.n_counts];
}

// Datum i, of n_counts + n_normals, of a toy.
static inline OUTLINED DEV double throw_datum(const Throw& about, int64_t toy, int64_t i) {
    if (i < about.n_counts)
        return toys::draw_count(toys::poisson(about.rate[i]), about.key, (uint64_t)toy, (uint32_t)i);
    const int64_t j = i - about.n_counts;
    return toys::draw_normal(about.mean[j], about.width[j], about.key, (uint64_t)toy, (uint32_t)i);
}
