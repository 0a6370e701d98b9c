// Kernels that are right, kernels that are wrong in one way each, and kernels that are right unless
// BUG is defined.
extern __shared__ __align__(16) unsigned char smem_raw[];

constexpr unsigned kAllLanes = 0xffffffffu;

// A sum by shuffles, static shared memory and one atomic a block.
extern "C" __global__ void __launch_bounds__(1024) block_sum(const int* x, int* out, int n) {
  __shared__ int part[32];
  int sum = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    sum += __ldg(x + i);
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_down_sync(kAllLanes, sum, distance);
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) part[warp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < blockDim.x / 32; ++w) sum += part[w];
    atomicAdd(out, sum);
  }
}

// Moves every number on by one through shared memory.
extern "C" __global__ void rotate(const int* x, int* y) {
  int* s = reinterpret_cast<int*>(smem_raw);
  s[threadIdx.x] = x[threadIdx.x];
#ifndef BUG
  __syncthreads();
#endif
  y[threadIdx.x] = s[(threadIdx.x + blockDim.x - 1) % blockDim.x];
}

// Adds up x [n, n] along its columns and rows, tile by tile: a tile must have been read before the
// next one is written. T and kTile as in kernels of the library.
template <typename T, int kTile>
__device__ void add_tiles(const T* x, T* y, int n) {
  __shared__ T tile[kTile][kTile + 1];
  T sum = 0;
  for (int first = 0; first < n; first += kTile) {
    tile[threadIdx.y][threadIdx.x] = x[threadIdx.y * n + first + threadIdx.x];
    __syncthreads();
    for (int k = 0; k < kTile; ++k) sum += tile[k][threadIdx.x] + tile[threadIdx.y][k];
#ifndef BUG
    __syncthreads();
#endif
  }
  y[threadIdx.y * kTile + threadIdx.x] = sum;
}

extern "C" __global__ void tiles(const double* x, double* y, int n) {
  add_tiles<double, 8>(x, y, n);
}

// A warp's sum through shared memory.
extern "C" __global__ void warp_sum(const int* x, int* y) {
  __shared__ int s[64];
  s[threadIdx.x] = x[threadIdx.x];
  s[threadIdx.x + 32] = 0;
  __syncthreads();
  for (int distance = 16; distance > 0; distance /= 2) {
    const int other = s[threadIdx.x + distance];
#ifndef BUG
    __syncwarp();
#endif
    s[threadIdx.x] += other;
#ifndef BUG
    __syncwarp();
#endif
  }
  if (threadIdx.x == 0) *y = s[0];
}

// A shuffle makes lanes wait for each other, but orders nothing that they do to memory.
extern "C" __global__ void shuffled_order(int* y) {
  __shared__ int s[32];
  s[threadIdx.x] = 1;
  __shfl_sync(kAllLanes, 0, 0);
#ifndef BUG
  __syncwarp();
#endif
  y[threadIdx.x] = s[31 - threadIdx.x];
}

__device__ void grid_barrier(unsigned* arrivals) {
  __syncthreads();
  if (threadIdx.x == 0) {
#ifndef BUG
    __threadfence();
#endif
    const unsigned all = (atomicAdd(arrivals, 1u) / gridDim.x + 1u) * gridDim.x;
    while (atomicAdd(arrivals, 0u) < all) __nanosleep(20);
#ifndef BUG
    __threadfence();
#endif
  }
  __syncthreads();
}

// Steps of which each needs all blocks to have done the one before; the smallest number of a block
// goes through its shared memory.
extern "C" __global__ void relax(int* a, int* b, unsigned* arrivals, int n, int steps) {
  __shared__ int least;
  for (int step = 0; step < steps; ++step) {
    __syncthreads();
    if (threadIdx.x == 0) least = 0x7fffffff;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
      b[i] = a[i > 0 ? i - 1 : 0] + a[i < n - 1 ? i + 1 : i];
      atomicMin(&least, b[i]);
    }
    grid_barrier(arrivals);
    if (least < 0) b[0] = least;
    int* c = a;
    a = b;
    b = c;
  }
}

// The block that comes last adds up what all have noted.
extern "C" __global__ void last_block(const int* x, int* part, unsigned* ticket, int* out) {
  if (threadIdx.x != 0) return;
  part[blockIdx.x] = x[blockIdx.x];
#ifndef BUG
  __threadfence();
#endif
  if (atomicAdd(ticket, 1u) != gridDim.x - 1) return;
#ifndef BUG
  __threadfence();
#endif
  int sum = 0;
  for (int block = 0; block < gridDim.x; ++block) sum += part[block];
  *out = sum;
}

// One warp of a block waits for the other, in a loop that does not sleep.
extern "C" __global__ void flag(int* y) {
  __shared__ unsigned raised;
  __shared__ int value;
  if (threadIdx.x == 0) raised = 0;
  __syncthreads();
  if (threadIdx.x == 32) {
    value = 7;
#ifndef BUG
    __threadfence();
#endif
    atomicExch(&raised, 1u);
  }
  if (threadIdx.x == 0) {
    while (atomicCAS(&raised, 1u, 1u) == 0) {
    }
#ifndef BUG
    __threadfence();
#endif
    *y = value;
  }
}

extern "C" __global__ void histogram(const int* x, int* counts) {
#ifdef BUG
  counts[x[threadIdx.x]]++;
#else
  atomicAdd(&counts[x[threadIdx.x]], 1);
#endif
}

extern "C" __global__ void blocks_collide(int* y) { y[threadIdx.x] = blockIdx.x; }

extern "C" __global__ void uninitialised(int* y) {
  __shared__ int s[32];
  if (threadIdx.x < 31) s[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}

extern "C" __global__ void beyond_shared(int* y) {
  int* s = reinterpret_cast<int*>(smem_raw);
  s[threadIdx.x + 1] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}

extern "C" __global__ void beyond_array(int* y, int k) {
  __shared__ int s[8][9];
  s[threadIdx.x & 7][k] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x & 7][0];
}

extern "C" __global__ void in_front(int* y) { y[-1] = 1; }

extern "C" __global__ void misaligned(const float* x, float* y) {
  const float4 v = reinterpret_cast<const float4*>(x + 1)[threadIdx.x];
  y[threadIdx.x] = v.x + v.y;
}

extern "C" __global__ void diverged(int* y) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    y[threadIdx.x] = 1;
    __syncthreads();
  }
}

extern "C" __global__ void left_early(int* y) {
  if (y[threadIdx.x] == 0 && threadIdx.x < 16) return;
  __syncthreads();
}

extern "C" __global__ void absent_lanes(int* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(kAllLanes, y[threadIdx.x], 0);
}

extern "C" __global__ void endless(int* y) {
  while (true) {
    y[threadIdx.x] += 1;
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(64) few_threads(int* y) { y[threadIdx.x] = 1; }

template <typename T>
__device__ void shuffle(T* out) {
  const int lane = threadIdx.x;
  const T value = (T)lane * (T)-3;
  out[lane] = __shfl_sync(kAllLanes, value, 5);
  out[32 + lane] = __shfl_sync(kAllLanes, value, lane + 1, 8);
  out[64 + lane] = __shfl_up_sync(kAllLanes, value, 2);
  out[96 + lane] = __shfl_down_sync(kAllLanes, value, 3, 16);
  out[128 + lane] = __shfl_xor_sync(kAllLanes, value, 6);
}

extern "C" __global__ void shuffles(int* i, unsigned* u, long long* l, float* f, double* d) {
  shuffle(i);
  shuffle(u);
  shuffle(l);
  shuffle(f);
  shuffle(d);
}

// Of x [64] for both warps: ballot of odd numbers, any and all positive, sum, least and greatest;
// then for the block: how many are odd, whether any is, whether all are positive.
extern "C" __global__ void votes(const int* x, int* out) {
  const int value = x[threadIdx.x], warp = threadIdx.x / 32;
  int* ours = out + 6 * warp;
  ours[0] = __ballot_sync(kAllLanes, value & 1);
  ours[1] = __any_sync(kAllLanes, value > 0);
  ours[2] = __all_sync(kAllLanes, value > 0);
  ours[3] = __reduce_add_sync(kAllLanes, value);
  ours[4] = __reduce_min_sync(kAllLanes, value);
  ours[5] = __reduce_max_sync(kAllLanes, value);
  out[12] = __syncthreads_count(value & 1);
  out[13] = __syncthreads_or(value & 1);
  out[14] = __syncthreads_and(value > 0);
}

// Votes of the lanes that have a number.
extern "C" __global__ void ragged(const int* x, unsigned* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned mask = __ballot_sync(kAllLanes, i < n);
  if (i >= n) return;
  const unsigned odd = __ballot_sync(mask, x[i] & 1);
  if (threadIdx.x % 32 == 0) out[i / 32] = odd;
}

// Every thread's part in sum, least, greatest, bits, and who wins the last place.
template <typename T>
__device__ void contend(T* out) {
  const T value = threadIdx.x + 1;
  atomicAdd(out, value);
  atomicMin(out + 1, value);
  atomicMax(out + 2, value);
  atomicOr(out + 3, value);
  atomicCAS(out + 4, (T)0, (T)9);
  atomicExch(out + 5, (T)7);
  atomicSub(out + 6, value);
}

extern "C" __global__ void atomics(int* i, unsigned* u, long long* l, unsigned long long* v) {
  contend(i);
  contend(u);
  contend(l);
  contend(v);
}

extern "C" __global__ void intrinsics(int* out, double* real) {
  if (threadIdx.x != 0) return;
  const int values[] = {__popc(0xf0u),        __popcll(~0ull), __ffs(8),    __ffs(0),
                        __ffsll(1ll << 40),   __clz(1),        __clz(0),    __clzll(1),
                        __float_as_int(1.0f), min(3, 2),       max(3u, 2u), (int)max(-1ll, 2ll)};
  for (int i = 0; i < 12; ++i) out[i] = values[i];
  const double numbers[] = {min(1.5, __longlong_as_double(0x7ff8000000000000ll)),
                            sqrt(2.0f),
                            sqrt(2.0),
                            floor(-0.5),
                            fabs(-2.5f),
                            (double)__double_as_longlong(1.0),
                            make_double2(1.0, 2.0).y,
                            make_longlong2(1, 5).y + make_uint4(1, 2, 3, 4).w};
  for (int i = 0; i < 8; ++i) real[i] = numbers[i];
}

// y += x where strides are in elements.
extern "C" __global__ void add_strided(float* y, const float* x, long long y_stride,
                                       long long x_stride, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i * y_stride] += x[i * x_stride];
}

extern "C" __global__ void copy_bits(const unsigned short* half, const unsigned char* byte,
                                     const unsigned* word, const unsigned long long* wide,
                                     const bool* truth, unsigned long long* out) {
  out[0] = half[0];
  out[1] = byte[0];
  out[2] = word[0];
  out[3] = wide[0];
  out[4] = truth[0];
}
