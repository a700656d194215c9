// Chooses the engine compiled for this processor's instruction set, at each call.
#include "engine.h"

#define DECLARE(NAME)                                                \
    namespace NAME {                                                 \
    int minimise(const Model*, const Options*, const Batch*);        \
    int search(const Model*, const Search*);                         \
    }
DECLARE(engine_base)
#ifdef HAS_X86_VARIANTS
DECLARE(engine_avx2)
DECLARE(engine_avx512)
#endif

#ifdef HAS_X86_VARIANTS
#include <cpuid.h>

static bool has(unsigned bits, int bit) { return bits >> bit & 1; }

// Asks the processor itself, and whether the system saves its wide registers (Intel SDM 2A, CPUID).
static int probe() {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, 27)) return 0;
    const bool fma = has(c, 12);
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const bool avx2 = fma && has(b, 5) && has(b, 8) && (low & 0x06) == 0x06;
    const bool avx512 = has(b, 16) && has(b, 17) && has(b, 28) && has(b, 30) && has(b, 31) && (low & 0xe6) == 0xe6;
    return avx2 && avx512 ? 2 : avx2 ? 1 : 0;
}
#endif

extern "C" {

// 0: base, 1: AVX2 with FMA, 2: AVX-512.
int hepdask_instruction_set() {
#ifdef HAS_X86_VARIANTS
    static const int found = probe();
    return found;
#else
    return 0;
#endif
}

// Runs a batch of fits; 0, or 1 if there was no memory for the scratch.
int hepdask_minimise(const Model* model, const Options* options, const Batch* batch) {
#ifdef HAS_X86_VARIANTS
    switch (hepdask_instruction_set()) {
        case 2: return engine_avx512::minimise(model, options, batch);
        case 1: return engine_avx2::minimise(model, options, batch);
    }
#endif
    return engine_base::minimise(model, options, batch);
}

// Finds starting points in other basins; 0, or 1 if there was no memory for the scratch.
int hepdask_search(const Model* model, const Search* record) {
#ifdef HAS_X86_VARIANTS
    switch (hepdask_instruction_set()) {
        case 2: return engine_avx512::search(model, record);
        case 1: return engine_avx2::search(model, record);
    }
#endif
    return engine_base::search(model, record);
}

}  // extern "C"
