// A barrier for all blocks of a cooperative launch that have the same blockIdx.y.
#pragma once

// `arrivals` starts as 0. Block 0 adds what makes everybody's arrivals together come to 2^31, so
// the highest bit is the generation: it changes when the last one comes, however often that was.
__device__ __forceinline__ void grid_barrier(unsigned* arrivals) {
  constexpr unsigned kGeneration = 0x80000000u;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    const unsigned share = blockIdx.x == 0 ? kGeneration - (gridDim.x - 1u) : 1u;
    const unsigned before = atomicAdd(arrivals, share);
    while (((atomicAdd(arrivals, 0u) ^ before) & kGeneration) == 0u) __nanosleep(20);
    __threadfence();
  }
  __syncthreads();
}
