// Runs the GPU's kernels on a processor.  Each thread of CUDA is a fibre: it runs until it has to wait
// for the others of its block, and all blocks are at work at once.  Under ThreadSanitizer, or where
// there are no fibres, it is a real thread.
//
// The kernels' text, as device.py joins it, is included through KERNELS with EMULATED defined.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#if defined(__GLIBC__) && !defined(__SANITIZE_THREAD__)
#define FIBRES
#include <ucontext.h>
#endif

struct Block;
struct Dimension {
    unsigned x;
};

static thread_local Block* own_block;
static thread_local Dimension threadIdx, blockIdx, blockDim, gridDim;

#ifdef FIBRES

struct Fibre {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(256 << 10);
    std::function<void()> work;
    std::function<void()> enter;  // says which thread of which block this is
    bool done = false;
};
static thread_local Fibre* running;
static thread_local ucontext_t scheduler;

static void pause() { swapcontext(&running->context, &scheduler); }

static void body() {
    running->work();
    running->done = true;
}

#else

static void pause() { std::this_thread::yield(); }

#endif

// The threads of a block wait here for each other.
class Barrier {
  public:
    explicit Barrier(unsigned n_threads) : n_threads(n_threads) {}
    void wait() {
        const unsigned round = rounds.load(std::memory_order_acquire);
        if (waiting.fetch_add(1, std::memory_order_acq_rel) + 1 == n_threads) {
            waiting.store(0, std::memory_order_relaxed);
            rounds.fetch_add(1, std::memory_order_release);
        }
        while (rounds.load(std::memory_order_acquire) == round) pause();
    }

  private:
    const unsigned n_threads;
    std::atomic<unsigned> waiting{0}, rounds{0};
};

struct Block {
    Barrier barrier;
    std::vector<double> values, shared;
    Block(unsigned n_threads, int64_t shared_bytes)
        : barrier(n_threads), values(n_threads), shared((size_t)shared_bytes / sizeof(double), NAN) {}
};

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)

static inline void team_barrier() { own_block->barrier.wait(); }
static inline double* team_values() { return own_block->values.data(); }
static inline double* team_shared() { return own_block->shared.data(); }
static inline uint64_t team_next(uint64_t* counter) {
    pause();  // others have their turn
    return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

using std::isfinite;
using std::isnan;

#include KERNELS

struct Launch {
    unsigned grid, block;
    int64_t shared_bytes;
    const void* argument[4];
};

// Does the work in each thread of each block.
static void in_all_threads(const Launch& shape, const std::function<void()>& work) {
    std::vector<std::unique_ptr<Block>> blocks;
    for (unsigned b = 0; b < shape.grid; ++b) blocks.emplace_back(new Block(shape.block, shape.shared_bytes));
    auto enter = [&](unsigned b, unsigned t) {
        own_block = blocks[b].get();
        threadIdx.x = t, blockIdx.x = b, blockDim.x = shape.block, gridDim.x = shape.grid;
    };
#ifdef FIBRES
    std::vector<Fibre> fibres(shape.grid * shape.block);
    for (size_t i = 0; i < fibres.size(); ++i) {
        Fibre& fibre = fibres[i];
        fibre.work = work;
        fibre.enter = [=] { enter((unsigned)i / shape.block, (unsigned)i % shape.block); };
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.data(), fibre.context.uc_stack.ss_size = fibre.stack.size();
        fibre.context.uc_link = &scheduler;
        makecontext(&fibre.context, body, 0);
    }
    for (bool alive = true; alive;) {
        alive = false;
        for (Fibre& fibre : fibres) {
            if (fibre.done) continue;
            running = &fibre, fibre.enter();
            swapcontext(&scheduler, &fibre.context);
            alive = true;
        }
    }
#else
    std::vector<std::thread> threads;
    for (unsigned b = 0; b < shape.grid; ++b)
        for (unsigned t = 0; t < shape.block; ++t) threads.emplace_back([&, b, t] { enter(b, t), work(); });
    for (std::thread& thread : threads) thread.join();
#endif
}

// 0, or 1 if there is no such kernel.
extern "C" int emulate(const char* name, const Launch* shape) {
    const auto model = (const Model*)shape->argument[0];
    const auto options = (const Options*)shape->argument[1];
    const auto task = shape->argument[2];
    const auto room = (const Room*)shape->argument[3];
    if (!std::strcmp(name, "hepdask_minimise"))
        in_all_threads(*shape, [=] { hepdask_minimise(model, options, (const Batch*)task, room); });
    else if (!std::strcmp(name, "hepdask_search"))
        in_all_threads(*shape, [=] { hepdask_search(model, options, (const Search*)task, room); });
    else if (!std::strcmp(name, "hepdask_pairs"))
        in_all_threads(*shape, [=] { hepdask_pairs(model, options, (const Pairs*)task, room); });
    else
        return 1;
    return 0;
}
