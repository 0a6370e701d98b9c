// Reductions over a warp and a block.
#pragma once

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMaxWarps = 16;  // of blocks that reduce together
constexpr long long kNone = 0x7fffffffffffffffLL;

// The sum over the warp, halves onto halves: the one order of actprune_gpu/backends/cpu/lanes.py.
// Every lane gets the same bits, as x + y = y + x.
template <typename T>
__device__ __forceinline__ T butterfly(T value) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

template <typename T>
__device__ __forceinline__ T warp_min(T value) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, distance);
    value = other < value ? other : value;
  }
  return value;
}

template <typename T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// The minimum and the sum over the block, for every thread; slots [kMaxWarps] are shared.
__device__ __forceinline__ long long block_min(long long* slots, long long value) {
  const int lane = threadIdx.x % kLanes;
  value = warp_min(value);
  if (lane == 0) slots[threadIdx.x / kLanes] = value;
  __syncthreads();
  value = warp_min(lane < blockDim.x / kLanes ? slots[lane] : kNone);
  __syncthreads();
  return value;
}

__device__ __forceinline__ long long block_sum(long long* slots, long long value) {
  const int lane = threadIdx.x % kLanes;
  value = butterfly(value);
  if (lane == 0) slots[threadIdx.x / kLanes] = value;
  __syncthreads();
  value = butterfly(lane < blockDim.x / kLanes ? slots[lane] : 0LL);
  __syncthreads();
  return value;
}
