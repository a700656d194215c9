// Throws toys on a CPU; compiled without fused products, so that every CPU throws the same.
#include "throw.h"

// Rows that stay in the cache while the data are thrown one after the other.
constexpr int64_t ROWS = 64;

extern "C" {

// Throws n_toys toys from the first on into the rows of data, (n_toys, n_data).
void hepdask_throw(const Throw* about, int64_t first, int64_t n_toys, int64_t n_data, double* data) {
    for (int64_t from = 0; from < n_toys; from += ROWS) {
        const int64_t to = from + ROWS < n_toys ? from + ROWS : n_toys;
        for (int64_t i = 0; i < about->n_counts; ++i) {
            const toys::Poisson poisson = toys::poisson(about->rate[i]);
            double* column = data + about->count_index[i];
            for (int64_t row = from; row < to; ++row)
                column[row * n_data] =
                    toys::draw_count(poisson, about->key, (uint64_t)(first + row), (uint32_t)i);
        }
        for (int64_t i = 0; i < about->n_normals; ++i) {
            double* column = data + about->normal_index[i];
            for (int64_t row = from; row < to; ++row)
                column[row * n_data] = throw_datum(*about, first + row, about->n_counts + i);
        }
    }
}

// The four random words of an address; for tests.
void hepdask_random_words(uint64_t key, uint64_t toy, uint32_t datum, uint32_t attempt, uint32_t* words) {
    const toys::Words random = toys::philox(key, toy, datum, attempt);
    for (int i = 0; i < 4; ++i) words[i] = random.word[i];
}

}  // extern "C"
