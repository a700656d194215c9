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

extern "C" {

// 0: base, 1: AVX2 with FMA, 2: AVX-512.
int hepdask_instruction_set() {
#ifdef HAS_X86_VARIANTS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) return 1;
#endif
    return 0;
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
