// What the kernels' own text computes and touches, counted while the emulated device executes it.
//
// emulator.cpp includes this as its kernels.  Every double of the text is a `Counted`, whose
// operators count themselves and whose copies look where they read and write.  With one thread in a
// team that is the work; with more, it is also how long the team waits for its busiest thread: the
// sum over the stretches between two barriers of what that thread does there (`path`).
#define PROFILE

// Floating-point operations that stand for one: divisions and roots are eight fused products and
// sums on NVIDIA's devices, exp and log the polynomials that its compiler writes for them.
constexpr long long DIVISION = 16, ROOT = 16, EXP = 30, LOG = 40;

// Clock ticks that are guessed for a thread on an H100, its loads being partly ahead of their use: an
// operation (half a fused one), reading or writing shared memory, the same beyond it (L2), a barrier.
constexpr long long OPERATION_TICKS = 4, SHARED_TICKS = 5, FAR_TICKS = 30, BARRIER_TICKS = 40;

struct Tally {
    long long operations, shared, scratch, model;
    void add(const Tally& other) {
        operations += other.operations, shared += other.shared;
        scratch += other.scratch, model += other.model;
    }
};
struct Area {
    uintptr_t from, to;
    bool has(const void* place) const { return from <= (uintptr_t)place && (uintptr_t)place < to; }
};

static Tally total, stretch[1024];
static Area shared_area, scratch_area, model_area;
static long long path, issued, marks;
static unsigned waiting_threads;

static inline void count(long long operations) { stretch[threadIdx.x].operations += operations; }
static inline void touch(const void* place) {
    Tally& own = stretch[threadIdx.x];
    if (scratch_area.has(place))
        ++own.scratch;
    else if (shared_area.has(place))
        ++own.shared;
    else if (model_area.has(place))
        ++own.model;
}

// Ends a stretch of all threads.  `issued` counts what warps issue: a warp is as busy as its busiest lane.
static void end_stretch(unsigned n_threads) {
    long long longest = 0, busiest = 0;
    for (unsigned t = 0; t < n_threads; ++t) {
        Tally& own = stretch[t];
        const long long far = own.scratch + own.model;
        const long long ticks = OPERATION_TICKS * own.operations + SHARED_TICKS * own.shared + FAR_TICKS * far;
        if (ticks > longest) longest = ticks;
        if (t % 32 == 0) issued += busiest, busiest = 0;
        if (own.operations + own.shared + far > busiest) busiest = own.operations + own.shared + far;
        total.add(own);
        own = Tally{};
    }
    path += longest, issued += busiest;
}

static void at_barrier() {
    if (++waiting_threads < blockDim.x) return;
    waiting_threads = 0;
    path += BARRIER_TICKS;
    end_stretch(blockDim.x);
}

// The clock of Team::mark: operations with one thread in a team, ticks of the path with more; marks
// are counted above bit 40.
static long long clock64() {
    if (TEAM == 1) end_stretch(1);
    return (marks++ << 40) + (TEAM == 1 ? total.operations : path);
}

struct Counted {
    double value;
    Counted() = default;
    template <class T, class = std::enable_if_t<std::is_arithmetic<T>::value>>
    constexpr Counted(T value) : value((double)value) {}
    Counted(const Counted& from) : value(from.value) { touch(&from); }
    Counted& operator=(const Counted& from) {
        touch(&from), touch(this);
        value = from.value;
        return *this;
    }
    template <class T, class = std::enable_if_t<std::is_arithmetic<T>::value>>
    explicit operator T() const {
        return (T)value;
    }
};

static inline Counted operator+(Counted a, Counted b) { return count(1), Counted(a.value + b.value); }
static inline Counted operator-(Counted a, Counted b) { return count(1), Counted(a.value - b.value); }
static inline Counted operator*(Counted a, Counted b) { return count(1), Counted(a.value * b.value); }
static inline Counted operator/(Counted a, Counted b) { return count(DIVISION), Counted(a.value / b.value); }
static inline Counted operator-(Counted a) { return -a.value; }
static inline Counted& operator+=(Counted& a, Counted b) { return a = a + b; }
static inline Counted& operator-=(Counted& a, Counted b) { return a = a - b; }
static inline Counted& operator*=(Counted& a, Counted b) { return a = a * b; }
static inline bool operator<(Counted a, Counted b) { return a.value < b.value; }
static inline bool operator>(Counted a, Counted b) { return a.value > b.value; }
static inline bool operator<=(Counted a, Counted b) { return a.value <= b.value; }
static inline bool operator>=(Counted a, Counted b) { return a.value >= b.value; }
static inline bool operator==(Counted a, Counted b) { return a.value == b.value; }
static inline bool operator!=(Counted a, Counted b) { return a.value != b.value; }
static inline Counted sqrt(Counted a) { return count(ROOT), Counted(std::sqrt(a.value)); }
static inline Counted exp(Counted a) { return count(EXP), Counted(std::exp(a.value)); }
static inline Counted log(Counted a) { return count(LOG), Counted(std::log(a.value)); }
static inline Counted fabs(Counted a) { return std::fabs(a.value); }
static inline Counted rint(Counted a) { return std::rint(a.value); }
static inline Counted fmin(Counted a, Counted b) { return std::fmin(a.value, b.value); }
static inline Counted fmax(Counted a, Counted b) { return std::fmax(a.value, b.value); }
static inline bool isfinite(Counted a) { return std::isfinite(a.value); }

// The toys' generator names its roundings on a device, and these count them.
static inline double __dadd_rn(double a, double b) { return count(1), a + b; }
static inline double __dsub_rn(double a, double b) { return count(1), a - b; }
static inline double __dmul_rn(double a, double b) { return count(1), a * b; }
static inline double __ddiv_rn(double a, double b) { return count(DIVISION), a / b; }
static inline double __dsqrt_rn(double a) { return count(ROOT), std::sqrt(a); }
static inline long long __double_as_longlong(double a) {
    long long bits;
    std::memcpy(&bits, &a, sizeof bits);
    return bits;
}
static inline double __longlong_as_double(long long bits) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

static Counted* counted_shared() {
    const std::vector<double>& memory = own_block->shared;
    shared_area = {(uintptr_t)memory.data(), (uintptr_t)(memory.data() + memory.size())};
    return (Counted*)memory.data();
}
static inline void atomicAdd(unsigned long long* sum, unsigned long long term) { *sum += term; }

#define team_barrier() (at_barrier(), team_barrier())
#define team_values() ((Counted*)team_values())
#define team_shared() counted_shared()

#define double Counted
#include "engine.h"
#undef double
#define __CUDA_ARCH__ 900
#include "throw.h"
#undef __CUDA_ARCH__
#define double Counted
#include "device.cu"
#undef double

#undef team_barrier
#undef team_values
#undef team_shared

// Says where the model's arrays and the scratch lie, and forgets what was counted.
extern "C" void count_from_here(const char* model, int64_t model_bytes, const char* scratch, int64_t scratch_bytes) {
    model_area = {(uintptr_t)model, (uintptr_t)model + (uintptr_t)model_bytes};
    scratch_area = {(uintptr_t)scratch, (uintptr_t)scratch + (uintptr_t)scratch_bytes};
    total = Tally{};
    for (Tally& own : stretch) own = Tally{};
    path = issued = marks = 0;
}

// Operations, numbers read and written in shared memory, scratch and model, ticks of the path, and
// operations and accesses that warps issued.
extern "C" void counted(int64_t* out) {
    end_stretch(TEAM == 1 ? 1 : TEAM);
    const int64_t found[] = {total.operations, total.shared, total.scratch, total.model, path, issued};
    for (int i = 0; i < 6; ++i) out[i] = found[i];
}
