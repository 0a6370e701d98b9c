// The simplified silhouette of a point in both definitions, in fixed point: sums are exact in any
// order. See actprune_gpu/backends/cpu/kmedoids/sweep.py.
#pragma once

struct Silhouette {
  long long mean;     // b = mean distance to the other medoids, in units of 2^-40
  long long nearest;  // b = distance to the nearest other medoid, likewise
  long long counted;  // points away from their medoid: those the mean is over
};

__device__ __forceinline__ long long fixed_silhouette(double value) {
  // Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits.
  return __double_as_longlong(value * 1099511627776.0 + 6755399441055744.0) -
         __double_as_longlong(6755399441055744.0);
}

__device__ __forceinline__ void add_silhouette(Silhouette& total, double near, double second,
                                               double distance_sum, int cluster_size,
                                               double others) {
  const double b = (distance_sum - near) * others;
  const double larger = near > b ? near : b;
  total.mean += fixed_silhouette(near > 0.0 ? (b - near) / (larger > 1.0 ? larger : 1.0) : 0.0);
  total.counted += near > 0.0;
  total.nearest +=
      fixed_silhouette(cluster_size > 1 ? (second - near) / (second > 1.0 ? second : 1.0) : 0.0);
}

__device__ __forceinline__ double mean_silhouette(long long total, long long counted) {
  return counted ? (double)total / 1099511627776.0 / (double)counted : 1.0;
}
