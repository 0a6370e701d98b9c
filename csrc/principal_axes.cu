// The first two principal components of points given by their squared distances: Lanczos and Jacobi
// as in actprune_gpu/backends/cpu/principal_axes.py, in one cooperative launch.
#include "grid.cuh"
#include "warp.cuh"

extern __shared__ __align__(16) unsigned char smem_raw[];

constexpr int kMaxSteps = 32;
constexpr double kNegligible = 0x1p-56;  // of the largest number on the diagonal

struct Tridiagonal {
  double values[kMaxSteps][kMaxSteps + 1];
  double vectors[kMaxSteps][kMaxSteps + 1];
};

// Rows of B v, where B = -J D J / 2 is the Gram matrix of the centred points; a warp for a row.
__device__ void centred_product(const double* __restrict__ squared, const double* row_mean,
                                double mean, const double* v, double* out, int n) {
  const int lane = threadIdx.x % kLanes;
  const int n_warps = blockDim.x / kLanes;
  for (int i = blockIdx.x * n_warps + threadIdx.x / kLanes; i < n; i += gridDim.x * n_warps) {
    const double* row = squared + (long long)i * n;
    const double shift = row_mean[i] - mean;
    double sum = 0.0;
    for (int j = lane; j < n; j += kLanes) sum += (row_mean[j] + shift - row[j]) * v[j];
    sum = butterfly(sum);
    if (lane == 0) out[i] = 0.5 * sum;
  }
}

// For one warp, as is all that follows; what a lane wrote to w only that lane reads.
__device__ double dot(const double* a, const double* b, int n) {
  double sum = 0.0;
  for (int i = threadIdx.x; i < n; i += kLanes) sum += a[i] * b[i];
  return butterfly(sum);
}

__device__ double mean_of(const double* a, int n) {
  double sum = 0.0;
  for (int i = threadIdx.x; i < n; i += kLanes) sum += a[i];
  return butterfly(sum) / n;
}

// a -= factor b, four numbers read before any is written: what is written may be what is read next,
// so each would wait for the one before.
__device__ void subtract(double* a, const double* b, double factor, int n) {
  constexpr int kAtOnce = 4;
  int i = threadIdx.x;
  for (; i + (kAtOnce - 1) * kLanes < n; i += kAtOnce * kLanes) {
    double left[kAtOnce], right[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      left[u] = a[i + u * kLanes];
      right[u] = b[i + u * kLanes];
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) a[i + u * kLanes] = left[u] - factor * right[u];
  }
  for (; i < n; i += kLanes) a[i] -= factor * b[i];
}

// A fixed start without a pattern (Knuth's multiplicative hash), made orthogonal to 1.
__device__ void start_vector(double* v, int n) {
  for (int i = threadIdx.x; i < n; i += kLanes) {
    v[i] = (double)((i + 1LL) * 2654435761LL % 4294967296LL) / 2147483648.0 - 1.0;
  }
  const double shift = mean_of(v, n);
  for (int i = threadIdx.x; i < n; i += kLanes) v[i] -= shift;
  const double length = sqrt(dot(v, v, n));
  for (int i = threadIdx.x; i < n; i += kLanes) v[i] /= length;
}

// One step of Lanczos after w = B basis[step]; makes basis[step + 1] of w and returns whether there
// is a next one.
__device__ bool lanczos_step(Tridiagonal& t, double* w, double* basis, double& largest, int step,
                             int n_steps, int n) {
  const double diagonal = dot(w, basis + (long long)step * n, n);
  if (threadIdx.x == 0) t.values[step][step] = diagonal;
  largest = fabs(diagonal) > largest ? fabs(diagonal) : largest;
  if (step + 1 == n_steps) return false;
  for (int again = 0; again < 2; ++again) {  // once is not enough in floating point
    for (int other = 0; other <= step; ++other) {
      const double* v = basis + (long long)other * n;
      const double along = dot(w, v, n);
      subtract(w, v, along, n);
    }
  }
  const double beta = sqrt(dot(w, w, n));
  if (beta <= 1e-12 * largest) return false;
  if (threadIdx.x == 0) {
    t.values[step][step + 1] = beta;
    t.values[step + 1][step] = beta;
  }
  double* next = basis + (step + 1LL) * n;
  for (int i = threadIdx.x; i < n; i += kLanes) next[i] = w[i] / beta;
  return true;
}

// Makes the symmetric t.values diagonal, its eigenvalues, by rotations that turn t.vectors; lane k
// does the k-th number of a row or column.
__device__ void jacobi(Tridiagonal& t, int m) {
  const int k = threadIdx.x;
  double largest = 0.0;
  for (int i = 0; i < m; ++i) {
    largest = fabs(t.values[i][i]) > largest ? fabs(t.values[i][i]) : largest;
  }
  for (int round = 0; round < 30; ++round) {
    bool done = true;
    for (int i = 0; i < m - 1; ++i) {
      for (int j = i + 1; j < m; ++j) {
        const double aij = t.values[i][j];
        if (fabs(aij) <= kNegligible * largest) continue;
        done = false;
        const double theta = (t.values[j][j] - t.values[i][i]) / (2.0 * aij);
        double tangent = 1.0 / (fabs(theta) + sqrt(theta * theta + 1.0));
        tangent = theta >= 0.0 ? tangent : -tangent;
        const double c = 1.0 / sqrt(tangent * tangent + 1.0);
        const double s = tangent * c;
        __syncwarp();
        if (k < m) {
          const double aki = t.values[k][i], akj = t.values[k][j];
          t.values[k][i] = c * aki - s * akj;
          t.values[k][j] = s * aki + c * akj;
        }
        __syncwarp();
        if (k < m) {
          const double aik = t.values[i][k], ajk = t.values[j][k];
          t.values[i][k] = c * aik - s * ajk;
          t.values[j][k] = s * aik + c * ajk;
          const double vki = t.vectors[k][i], vkj = t.vectors[k][j];
          t.vectors[k][i] = c * vki - s * vkj;
          t.vectors[k][j] = s * vki + c * vkj;
        }
        __syncwarp();
      }
    }
    if (done) return;
  }
}

// The eigenvalue that is the largest one but for `excluded`, the first of equal ones.
__device__ int largest_but(const Tridiagonal& t, int m, int excluded) {
  int best = -1;
  for (int i = 0; i < m; ++i) {
    if (i != excluded && (best < 0 || t.values[i][i] > t.values[best][best])) best = i;
  }
  return best;
}

// Coordinates along one eigenvector to out [N, 2], scaled so that the first axis has unit
// population standard deviation, the largest one made positive.
__device__ void write_axis(const Tridiagonal& t, const double* basis, double* out, int axis,
                           int which, double largest, int m, int n) {
  const bool varies = which >= 0 && t.values[which][which] > 1e-12 * largest;
  const double scale = varies ? sqrt(n * t.values[which][which] / largest) : 0.0;
  double peak = -1.0, sign = 0.0;
  int peak_at = n;
  for (int i = threadIdx.x; i < n; i += kLanes) {
    double coordinate = 0.0;
    for (int b = 0; b < m && varies; ++b) {
      coordinate += t.vectors[b][which] * basis[(long long)b * n + i];
    }
    coordinate *= scale;
    out[2 * i + axis] = coordinate;
    if (fabs(coordinate) > peak) {
      peak = fabs(coordinate);
      peak_at = i;
      sign = coordinate > 0.0 ? 1.0 : (coordinate < 0.0 ? -1.0 : 0.0);
    }
  }
  const double highest = warp_max(peak);
  const int first = warp_min(peak == highest ? peak_at : n);
  const unsigned owner = __ballot_sync(kAllLanes, peak == highest && peak_at == first);
  sign = __shfl_sync(kAllLanes, sign, __ffs((int)owner) - 1);
  for (int i = threadIdx.x; i < n; i += kLanes) {
    out[2 * i + axis] = varies ? sign * out[2 * i + axis] : 0.0;
  }
}

// squared [N, N], out [N, 2]; room to work in: row_mean [N], w [N], basis [n_steps, N], and as
// zeros arrivals and n_done [1], the steps done once there are no more.
extern "C" __global__ void __launch_bounds__(256, 4)
    principal_axes(const double* __restrict__ squared, double* row_mean, double* w, double* basis,
                   double* out, unsigned* arrivals, int* n_done, int n, int n_steps) {
  Tridiagonal& t = *reinterpret_cast<Tridiagonal*>(smem_raw);
  __shared__ double shared_mean;
  const int lane = threadIdx.x % kLanes;
  const int n_warps = blockDim.x / kLanes;
  const bool leads = blockIdx.x == 0 && threadIdx.x < kLanes;
  for (int i = blockIdx.x * n_warps + threadIdx.x / kLanes; i < n; i += gridDim.x * n_warps) {
    double sum = 0.0;
    for (int j = lane; j < n; j += kLanes) sum += squared[(long long)i * n + j];
    sum = butterfly(sum);
    if (lane == 0) row_mean[i] = sum / n;
  }
  if (leads) {
    for (int i = 0; i < kMaxSteps; ++i) {
      t.values[i][lane] = 0.0;
      t.vectors[i][lane] = i == lane ? 1.0 : 0.0;
    }
    start_vector(basis, n);
  }
  grid_barrier(arrivals);
  if (threadIdx.x < kLanes) {
    const double mean = mean_of(row_mean, n);
    if (threadIdx.x == 0) shared_mean = mean;
  }
  __syncthreads();
  double largest = 0.0;
  for (int step = 0; step < n_steps; ++step) {
    centred_product(squared, row_mean, shared_mean, basis + (long long)step * n, w, n);
    grid_barrier(arrivals);
    if (leads && !lanczos_step(t, w, basis, largest, step, n_steps, n) && lane == 0) {
      *n_done = step + 1;
    }
    grid_barrier(arrivals);
    if (*n_done > 0) break;
  }
  if (!leads) return;
  const int m = *n_done;
  jacobi(t, m);
  const int first = largest_but(t, m, -1), second = largest_but(t, m, first);
  largest = t.values[first][first] > 0.0 ? t.values[first][first] : 0.0;
  write_axis(t, basis, out, 0, first, largest, m, n);
  write_axis(t, basis, out, 1, second, largest, m, n);
}
