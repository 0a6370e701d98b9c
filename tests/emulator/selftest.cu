// Kernels that are right, and kernels that are wrong in one way each.
extern __shared__ __align__(16) unsigned char smem_raw[];

// A sum by shuffles, static shared memory and one atomic a block.
extern "C" __global__ void block_sum(const int* x, int* out, int n) {
  __shared__ int part[32];
  int sum = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    sum += x[i];
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_down_sync(0xffffffffu, sum, distance);
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
#ifndef NO_BARRIER
  __syncthreads();
#endif
  y[threadIdx.x] = s[threadIdx.x == 0 ? blockDim.x - 1 : threadIdx.x - 1];
}

// A warp's sum through shared memory.
extern "C" __global__ void warp_sum(const int* x, int* y) {
  __shared__ int s[64];
  s[threadIdx.x] = x[threadIdx.x];
  s[threadIdx.x + 32] = 0;
  __syncthreads();
  for (int distance = 16; distance > 0; distance /= 2) {
    const int other = s[threadIdx.x + distance];
#ifndef NO_BARRIER
    __syncwarp();
#endif
    s[threadIdx.x] += other;
#ifndef NO_BARRIER
    __syncwarp();
#endif
  }
  if (threadIdx.x == 0) *y = s[0];
}

// Steps of which each needs all blocks to have done the one before.
extern "C" __global__ void relax(int* a, int* b, unsigned* arrivals, int n, int steps) {
  for (int step = 0; step < steps; ++step) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
      b[i] = a[i > 0 ? i - 1 : 0] + a[i < n - 1 ? i + 1 : i];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
#ifndef NO_FENCE
      __threadfence();
#endif
      const unsigned all = (atomicAdd(arrivals, 1u) / gridDim.x + 1u) * gridDim.x;
      while (atomicAdd(arrivals, 0u) < all) __nanosleep(20);
#ifndef NO_FENCE
      __threadfence();
#endif
    }
    __syncthreads();
    int* c = a;
    a = b;
    b = c;
  }
}

extern "C" __global__ void ballots(const int* x, unsigned* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned mask = __ballot_sync(0xffffffffu, i < n);
  if (i >= n) return;
  const unsigned odd = __ballot_sync(mask, x[i] & 1);
  if (threadIdx.x % 32 == 0) out[i / 32] = odd;
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

extern "C" __global__ void uninitialised(int* y) {
  __shared__ int s[32];
  if (threadIdx.x < 31) s[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}

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

extern "C" __global__ void absent_lanes(int* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffffffffu, y[threadIdx.x], 0);
}

extern "C" __global__ void blocks_collide(int* y) { y[threadIdx.x] = blockIdx.x; }

extern "C" __global__ void histogram(const int* x, int* counts) { counts[x[threadIdx.x]]++; }
