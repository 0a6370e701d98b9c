// A barrier for all blocks of a cooperative launch that have the same blockIdx.y.
#pragma once

// `arrivals` starts as 0 and only counts up: a block waits until everybody has come as often as it
// has itself.
__device__ __forceinline__ void grid_barrier(unsigned* arrivals) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    const unsigned before = atomicAdd(arrivals, 1u);
    const unsigned all = (before / gridDim.x + 1u) * gridDim.x;
    while (atomicAdd(arrivals, 0u) < all) __nanosleep(20);
    __threadfence();
  }
  __syncthreads();
}
