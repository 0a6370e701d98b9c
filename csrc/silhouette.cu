// The mean simplified silhouette of given medoids, in both definitions.
#include "silhouette.cuh"
#include "warp.cuh"

// Each point's nearest medoid and its distances; a thread for a point. points [n, 2], medoids [k]
// ascending; out near, second [n] and distance_sum [n] in units of 1 / scale, cluster [n]; size [k]
// starts as zeros.
extern "C" __global__ void __launch_bounds__(256)
    nearest_medoids(const double* __restrict__ points, const long long* __restrict__ medoids,
                    int* __restrict__ near, int* __restrict__ second,
                    long long* __restrict__ distance_sum, int* __restrict__ cluster, int* size,
                    int n, int k, double scale) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= n) return;
  const double x = points[2 * j], y = points[2 * j + 1];
  int nearest = 0x7fffffff, next = 0x7fffffff, own = 0;
  long long sum = 0;
  for (int t = 0; t < k; ++t) {
    const double dx = x - points[2 * medoids[t]], dy = y - points[2 * medoids[t] + 1];
    const int distance = (int)(scale * sqrt(dx * dx + dy * dy) + 0.5);
    sum += distance;
    if (distance < nearest) {
      next = nearest;
      nearest = distance;
      own = t;
    } else if (distance < next) {
      next = distance;
    }
  }
  near[j] = nearest;
  second[j] = next;
  distance_sum[j] = sum;
  cluster[j] = own;
  atomicAdd(&size[own], 1);
}

// The two means from what nearest_medoids wrote; one block. out [2]: mean, nearest.
extern "C" __global__ void __launch_bounds__(512)
    simplified_silhouette(const int* __restrict__ near, const int* __restrict__ second,
                          const long long* __restrict__ distance_sum,
                          const int* __restrict__ cluster, const int* __restrict__ size,
                          double* __restrict__ out, int n, int k) {
  __shared__ long long slots[kMaxWarps];
  const double others = 1.0 / (k - 1);
  Silhouette total = {0, 0, 0};
  for (int j = threadIdx.x; j < n; j += blockDim.x) {
    add_silhouette(total, near[j], second[j], (double)distance_sum[j], size[cluster[j]], others);
  }
  total.mean = block_sum(slots, total.mean);
  total.nearest = block_sum(slots, total.nearest);
  total.counted = block_sum(slots, total.counted);
  if (threadIdx.x == 0) {
    out[0] = mean_silhouette(total.mean, total.counted);
    out[1] = mean_silhouette(total.nearest, n);
  }
}
