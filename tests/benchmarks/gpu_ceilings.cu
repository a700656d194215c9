// What a card can do at best: its fused products, its memory, its L2 cache and its shared memory.

// Eight chains of fused products and sums in each thread, `rounds` long.
extern "C" __global__ void fused(double* out, long long rounds) {
    const long long place = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    double chain[8];
    for (int i = 0; i < 8; ++i) chain[i] = (double)(threadIdx.x + i);
    const double factor = 0.999 + 1e-9 * threadIdx.x;
    for (long long r = 0; r < rounds; ++r)
        for (int i = 0; i < 8; ++i) chain[i] = chain[i] * factor + 1e-3;
    double sum = 0.0;
    for (int i = 0; i < 8; ++i) sum += chain[i];
    out[place] = sum;
}

// Copies n numbers.
extern "C" __global__ void copied(const double* from, double* to, long long n) {
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) to[i] = from[i];
}

// Reads four of n numbers in each round and thread, always others, so that only the L2 cache has them all.
extern "C" __global__ void read_again(const double* from, double* out, long long n, long long rounds) {
    const long long place = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long quarter = n / 4, shift = 37LL * blockDim.x % quarter;
    double sum[4] = {0.0, 0.0, 0.0, 0.0};
    long long at = place;
    for (long long r = 0; r < rounds; ++r) {
        for (int j = 0; j < 4; ++j) sum[j] += from[at + j * quarter];
        at += shift;
        if (at >= quarter) at -= quarter;
    }
    out[place] = sum[0] + sum[1] + sum[2] + sum[3];
}

// Reads eight numbers of shared memory in each round, neighbours by neighbours.
extern "C" __global__ void shared_again(double* out, long long rounds) {
    __shared__ double cell[2048];
    for (int i = threadIdx.x; i < 2048; i += blockDim.x) cell[i] = 1e-3 * i;
    __syncthreads();
    double sum[8] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
    for (long long r = 0; r < rounds; ++r)
        for (int j = 0; j < 8; ++j) sum[j] += cell[(threadIdx.x + 32 * (int)r + 256 * j) % 2048];
    double total = 0.0;
    for (int j = 0; j < 8; ++j) total += sum[j];
    out[(long long)blockIdx.x * blockDim.x + threadIdx.x] = total;
}
