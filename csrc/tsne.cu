// Exact t-SNE: the whole optimisation in one launch, and its Kullback-Leibler divergence.
#include "grid.cuh"
#include "math.cuh"
#include "warp.cuh"

extern __shared__ __align__(16) unsigned char smem_raw[];

constexpr int kExploration = 250;  // iterations with early exaggeration and the lower momentum
constexpr int kCheckEvery = 50;
constexpr double kMinGradientNorm = 1e-7;

// Sums over all other points for the rows of this block, a warp for a row: of q, then of attraction
// and repulsion by axis, to sums [5, N].
__device__ void gradient_rows(const float* __restrict__ p, const float2* y, float* sums, int n) {
  const int lane = threadIdx.x % kLanes;
  const int n_warps = blockDim.x / kLanes;
  for (int i = blockIdx.x * n_warps + threadIdx.x / kLanes; i < n; i += gridDim.x * n_warps) {
    const float* row = p + (long long)i * n;
    const float2 yi = y[i];
    float z = 0.0f, attraction_x = 0.0f, attraction_y = 0.0f, repulsion_x = 0.0f,
          repulsion_y = 0.0f;
#pragma unroll 4
    for (int j = lane; j < n; j += kLanes) {
      const float2 yj = y[j];
      const float dx = yi.x - yj.x, dy = yi.y - yj.y;
      const float q = 1.0f / fmaf(dy, dy, fmaf(dx, dx, 1.0f));
      const float pq = row[j] * q, qq = q * q;
      z += q;
      attraction_x = fmaf(pq, dx, attraction_x);
      attraction_y = fmaf(pq, dy, attraction_y);
      repulsion_x = fmaf(qq, dx, repulsion_x);
      repulsion_y = fmaf(qq, dy, repulsion_y);
    }
    z = butterfly(z) - 1.0f;  // without the point itself
    attraction_x = butterfly(attraction_x);
    attraction_y = butterfly(attraction_y);
    repulsion_x = butterfly(repulsion_x);
    repulsion_y = butterfly(repulsion_y);
    if (lane == 0) {
      sums[i] = z;
      sums[n + i] = attraction_x;
      sums[2 * n + i] = attraction_y;
      sums[3 * n + i] = repulsion_x;
      sums[4 * n + i] = repulsion_y;
    }
  }
}

__device__ __forceinline__ float gradient_of(const float* sums, int n, int axis, int i,
                                             float exaggeration, float inverse) {
  return 4.0f * (exaggeration * sums[(1 + axis) * n + i] - sums[(3 + axis) * n + i] * inverse);
}

// Gradient descent with momentum and gains; blockIdx.y is the run, which has its own learning rate.
// p [N, N]; of each run y [N, 2], in place, sums [5, N], state [4, N] (the last update, then the
// gains, by axis), arrivals and n_done. Shared: 2 N floats, or nothing if they do not fit.
extern "C" __global__ void __launch_bounds__(512, 2)
    tsne_optimise(const float* __restrict__ p, float* y, float* sums, float* state,
                  const float* __restrict__ learning_rates, unsigned* arrivals, int* n_done, int n,
                  int n_iter, float early_exaggeration, int in_shared) {
  __shared__ float inverse_z;
  __shared__ double gradient_norm;
  float2* y_shared = reinterpret_cast<float2*>(smem_raw);
  const float2* y_pairs =
      in_shared ? y_shared : reinterpret_cast<const float2*>(y + 2LL * n * blockIdx.y);
  const int run = blockIdx.y;
  y += 2LL * n * run;
  sums += 5LL * n * run;
  state += 4LL * n * run;
  arrivals += run;
  const float rate = learning_rates[run];
  int done = n_iter;
  for (int iteration = 0; iteration < n_iter; ++iteration) {
    const bool exploring = iteration < kExploration;
    // What was learnt of the exaggerated map does not help afterwards.
    const bool fresh = iteration == 0 || iteration == kExploration;
    const bool check = !exploring && (iteration + 1) % kCheckEvery == 0;
    const float exaggeration = exploring ? early_exaggeration : 1.0f;
    const float momentum = exploring ? 0.5f : 0.8f;

    if (in_shared) {
      for (int i = threadIdx.x; i < n; i += blockDim.x) {
        y_shared[i] = make_float2(y[2 * i], y[2 * i + 1]);
      }
      __syncthreads();
    }
    gradient_rows(p, y_pairs, sums, n);
    grid_barrier(arrivals);

    if (threadIdx.x < kLanes) {
      double z = 0.0;
      for (int i = threadIdx.x; i < n; i += kLanes) z += (double)sums[i];
      const float inverse = (float)(1.0 / butterfly(z));
      if (threadIdx.x == 0) inverse_z = inverse;
      if (check) {
        double squares = 0.0;
        for (int axis = 0; axis < 2; ++axis) {
          for (int i = threadIdx.x; i < n; i += kLanes) {
            const double gradient = gradient_of(sums, n, axis, i, exaggeration, inverse);
            squares += gradient * gradient;
          }
        }
        squares = butterfly(squares);
        if (threadIdx.x == 0) gradient_norm = sqrt(squares);
      }
    }
    __syncthreads();
    const float inverse = inverse_z;
    for (int e = blockIdx.x * blockDim.x + threadIdx.x; e < 2 * n; e += gridDim.x * blockDim.x) {
      const int axis = e >= n, i = e - axis * n;
      const float gradient = gradient_of(sums, n, axis, i, exaggeration, inverse);
      float update = fresh ? 0.0f : state[e];
      float gain = fresh ? 1.0f : state[2 * n + e];
      if (update * gradient < 0.0f) {
        gain += 0.2f;
      } else {
        gain *= 0.8f;
        gain = gain > 0.01f ? gain : 0.01f;
      }
      update = momentum * update - rate * gain * gradient;
      state[e] = update;
      state[2 * n + e] = gain;
      y[2 * i + axis] += update;
    }
    if (check && gradient_norm <= kMinGradientNorm) {
      done = iteration + 1;
      break;  // all blocks of the run alike: they have added up the same numbers
    }
    grid_barrier(arrivals);
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) n_done[run] = done;
}

// Every row's sum of p, of q and of p (ln p + ln(1 + d^2)), a warp for a row of run blockIdx.y.
// p [N, N], y [runs, N, 2], rows [runs, 3, N].
extern "C" __global__ void __launch_bounds__(256, 4)
    tsne_divergence_rows(const float* __restrict__ p, const float* __restrict__ y,
                         double* __restrict__ rows, int n) {
  const int lane = threadIdx.x % kLanes;
  const int i = blockIdx.x * (blockDim.x / kLanes) + threadIdx.x / kLanes;
  if (i >= n) return;
  y += 2LL * n * blockIdx.y;
  rows += 3LL * n * blockIdx.y;
  const float* row = p + (long long)i * n;
  const double xi = y[2 * i], yi = y[2 * i + 1];
  double p_sum = 0.0, z = 0.0, kl = 0.0;
  for (int j = lane; j < n; j += kLanes) {
    if (j == i) continue;
    const double dx = xi - (double)y[2 * j], dy = yi - (double)y[2 * j + 1];
    const double d = 1.0 + dx * dx + dy * dy;
    const double pij = row[j];
    z += 1.0 / d;
    if (pij > 0.0) {
      p_sum += pij;
      kl += pij * log_exact(pij * d);
    }
  }
  p_sum = butterfly(p_sum);
  z = butterfly(z);
  kl = butterfly(kl);
  if (lane == 0) {
    rows[i] = p_sum;
    rows[n + i] = z;
    rows[2 * n + i] = kl;
  }
}

// sum p ln(p / (q / Z)) from the sums of the rows, a warp for each run.
extern "C" __global__ void __launch_bounds__(32)
    tsne_divergence(const double* __restrict__ rows, double* __restrict__ kl_divergence, int n) {
  rows += 3LL * n * blockIdx.x;
  double p_sum = 0.0, z = 0.0, kl = 0.0;
  for (int i = threadIdx.x; i < n; i += kLanes) {
    p_sum += rows[i];
    z += rows[n + i];
    kl += rows[2 * n + i];
  }
  p_sum = butterfly(p_sum);
  z = butterfly(z);
  kl = butterfly(kl);
  if (threadIdx.x == 0) kl_divergence[blockIdx.x] = kl + p_sum * log_exact(z);
}
