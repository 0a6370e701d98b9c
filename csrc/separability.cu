// Jeffries-Matusita separability of class pairs, on its exact grid.
#include "math.cuh"

// Pair number of (i, i + 1) where there are n classes.
__device__ __forceinline__ long long first_pair(long long i, long long n) {
  return i * (n - 1) - i * (i - 1) / 2;
}

// The smaller class of a pair: the last i with first_pair(i) <= pair.
__device__ __forceinline__ int smaller_class(long long pair, int n_classes) {
  int low = 0, high = n_classes - 2;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (first_pair(middle, n_classes) <= pair)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

// Pairs first_of_tile .. first_of_tile + width - 1 of every channel, in steps of the grid times
// scale. A thread does one pair of all the channels that its block row gets, so that the search for
// its classes is done once.
template <typename T>
__device__ void fill_pairs(const long long* n_samples, const double* mean, const double* std,
                           T* out, int n_channels, int n_classes, long long first_of_tile,
                           long long width, double scale) {
  const long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width) return;
  const long long pair = first_of_tile + column;
  const int i = smaller_class(pair, n_classes);
  const int j = (int)(pair - first_pair(i, n_classes)) + i + 1;
  for (int channel = blockIdx.y; channel < n_channels; channel += gridDim.y) {
    const long long row = (long long)channel * n_classes;
    double steps = 0.0;
    if (n_samples[row + i] >= 2 && n_samples[row + j] >= 2) {
      const double si = std[row + i], sj = std[row + j];
      const double inverse = 1.0 / (si * si + sj * sj);
      const double delta = mean[row + i] - mean[row + j];
      const double overlap =
          sqrt(2.0 * si * sj * inverse) * exp_exact(delta * delta * inverse * -0.25);
      steps = floor(65536.0 * (1.0 - overlap) + 0.5);
    }
    out[channel * width + column] = (T)(scale * steps);
  }
}

extern "C" __global__ void __launch_bounds__(256)
    jeffries_matusita(const long long* __restrict__ n_samples, const double* __restrict__ mean,
                      const double* __restrict__ std, float* __restrict__ out, int n_channels,
                      int n_classes, long long first_of_tile, long long width, double scale) {
  fill_pairs(n_samples, mean, std, out, n_channels, n_classes, first_of_tile, width, scale);
}

extern "C" __global__ void __launch_bounds__(256)
    jeffries_matusita_steps(const long long* __restrict__ n_samples,
                            const double* __restrict__ mean, const double* __restrict__ std,
                            double* __restrict__ out, int n_channels, int n_classes,
                            long long first_of_tile, long long width, double scale) {
  fill_pairs(n_samples, mean, std, out, n_channels, n_classes, first_of_tile, width, scale);
}
