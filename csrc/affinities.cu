// t-SNE's conditional probabilities of a given perplexity, a warp for each point.
#include "math.cuh"
#include "warp.cuh"

constexpr int kMaxSearch = 64;
constexpr double kEntropyTolerance = 1e-7;
// Smaller probabilities are 0: arithmetic on subnormal numbers is slow on the CPU.
constexpr double kMinProbability = 1e-30;

// Newton's method on log(beta) for the entropy, inside the bracket found so far: see
// actprune_gpu/backends/cpu/affinities.py. squared [N, N], out [N, N].
extern "C" __global__ void __launch_bounds__(256, 4)
    conditional_probabilities(const double* __restrict__ squared, float* __restrict__ out, int n,
                              double perplexity) {
  const int lane = threadIdx.x % kLanes;
  const int i = blockIdx.x * (blockDim.x / kLanes) + threadIdx.x / kLanes;
  if (i >= n) return;
  const double infinity = __longlong_as_double(0x7ff0000000000000LL);
  const double* row = squared + (long long)i * n;

  double smallest = infinity;
  for (int j = lane; j < n; j += kLanes) {
    if (j != i) smallest = row[j] < smallest ? row[j] : smallest;
  }
  smallest = warp_min(smallest);
  double sum = 0.0;
  for (int j = lane; j < n; j += kLanes) sum += j != i ? row[j] - smallest : 0.0;
  const double mean = butterfly(sum) / (n - 1);
  const double unit = mean > 0.0 ? 1.0 / mean : 0.0;

  const double target = log_exact(perplexity);
  double beta = 1.0, low = 0.0, high = infinity;
  double used = beta, z = 1.0;
  for (int step = 0; step < kMaxSearch; ++step) {
    double z_sum = 0.0, d_sum = 0.0, v_sum = 0.0;
    for (int j = lane; j < n; j += kLanes) {
      const double d = (j != i ? row[j] - smallest : 0.0) * unit;
      const double w = exp_exact(-beta * d);
      z_sum += w;
      d_sum += w * d;
      v_sum += w * d * d;
    }
    used = beta;
    // The point itself took part with distance 0 and weight 1.
    z = butterfly(z_sum) - 1.0;
    const double expectation = butterfly(d_sum) / z;
    const double variance = butterfly(v_sum) / z - expectation * expectation;
    const double excess = log_exact(z) + beta * expectation - target;
    if (fabs(excess) < kEntropyTolerance) break;
    if (excess > 0.0) {
      low = beta;
    } else {
      high = beta;
    }
    const double slope = beta * beta * variance;
    double change = slope > 1e-12 ? excess / slope : (excess > 0.0 ? 2.0 : -2.0);
    change = change > -2.0 ? change : -2.0;
    change = change < 2.0 ? change : 2.0;
    beta *= exp_exact(change);
    if (!(low < beta && beta < high)) {
      beta = high == infinity ? 2.0 * low : 0.5 * (low + high);
    }
  }
  const double inverse = 1.0 / z;
  float* out_row = out + (long long)i * n;
  for (int j = lane; j < n; j += kLanes) {
    const double d = (j != i ? row[j] - smallest : 0.0) * unit;
    const double p = exp_exact(-used * d) * inverse;
    out_row[j] = j != i && p >= kMinProbability ? (float)p : 0.0f;
  }
}
