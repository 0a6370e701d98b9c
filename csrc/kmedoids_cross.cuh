// Two clusterings put together: the same steps as actprune_gpu/backends/cpu/kmedoids/cross.py
// takes.
#pragma once
#include "kmedoids_state.cuh"

constexpr int kTaken = 1 << 20;  // for the excess of a region that is taken over

// Parts the medoids of both clusterings into regions, which go by their first point.
__device__ void find_regions(const Points& points, State& state, Shared& shared,
                             const short* near) {
  for (int j = threadIdx.x; j < points.n; j += blockDim.x) {
    state.root[j] = j;
    state.excess[j] = 0;
    state.change[j] = 0;
  }
  __syncthreads();
  while (true) {
    long long settled = 1;
    for (int j = threadIdx.x; j < points.n; j += blockDim.x) {
      if (near[j] == state.near[j]) continue;
      int* ours = &state.root[state.near[j]];
      int* theirs = &state.root[near[j]];
      const int a = atomicMin(ours, kFar), b = atomicMin(theirs, kFar);  // reads them
      if (a == b) continue;
      atomicMin(a > b ? ours : theirs, min(a, b));
      settled = 0;
    }
    if (block_min(shared.slots, settled)) return;
  }
}

// The lowest change of a region with this excess, and its first point, as a key.
__device__ long long best_region(const Points& points, const State& state, Shared& shared,
                                 int excess) {
  long long best = kNone;
  for (int r = threadIdx.x; r < points.n; r += blockDim.x) {
    if (state.excess[r] == excess) {
      best = min(best, state.change[r] * (1LL << kNumberBits) + r);
    }
  }
  return block_min(shared.slots, best);
}

// Takes over regions that lower the loss: those with as many medoids in both clusterings, and pairs
// of one that has one more with one that has one fewer. Returns by how much.
__device__ long long choose_regions(const Points& points, State& state, Shared& shared) {
  long long gained = 0;
  for (int r = threadIdx.x; r < points.n; r += blockDim.x) {
    if (state.excess[r] == 0 && state.change[r] < 0) {
      state.excess[r] = kTaken;
      gained += state.change[r];
    }
  }
  gained = block_sum(shared.slots, gained);
  while (true) {
    const long long more = best_region(points, state, shared, 1);
    const long long fewer = best_region(points, state, shared, -1);
    if (more == kNone || fewer == kNone) return gained;
    const long long change = value_of(more) + value_of(fewer);
    if (change >= 0) return gained;
    gained += change;
    if (threadIdx.x == 0) {
      state.excess[more & ((1LL << kNumberBits) - 1)] = kTaken;
      state.excess[fewer & ((1LL << kNumberBits) - 1)] = kTaken;
    }
    __syncthreads();
  }
}

// Takes over what lowers the loss from another clustering by k medoids, given by each point's
// medoid and the medoids' bits.
__device__ void cross(const Points& points, State& state, Shared& shared, int k, const short* near,
                      const unsigned* bits) {
  find_regions(points, state, shared, near);
  long long total = 0;
  for (int j = threadIdx.x; j < points.n; j += blockDim.x) {
    if (near[j] != state.near[j]) {
      const long long change = (long long)points.row(j)[near[j]] - state.near_distance[j];
      add_to(&state.change[state.root[state.near[j]]], change);
      total += change;
    }
    const int theirs = bits[j / kLanes] >> j % kLanes & 1u, ours = state.place[j] >= 0;
    if (theirs != ours) atomicAdd(&state.excess[state.root[j]], theirs - ours);
  }
  total = block_sum(shared.slots, total);
  const long long gained = choose_regions(points, state, shared);
  if (min(gained, total) >= 0) return;
  for (int j = threadIdx.x; j < points.n; j += blockDim.x) {
    const int theirs = bits[j / kLanes] >> j % kLanes & 1u, ours = state.place[j] >= 0;
    const bool taken = total < gained || state.excess[state.root[j]] == kTaken;
    state.root[j] = taken ? theirs - ours : 0;  // no other thread reads it before the barrier
  }
  __syncthreads();
  int last = k;
  const int lane = threadIdx.x % kLanes;
  // Every warp looks through all chunks, and finds the same points in the same order.
  for (int chunk = 0; chunk < points.n_chunks(); ++chunk) {
    const int j = chunk * kLanes + lane;
    unsigned found = __ballot_sync(kAllLanes, j < points.n && state.root[j] > 0);
    for (; found; found &= found - 1) {
      add(points, state, shared, last++, chunk * kLanes + __ffs((int)found) - 1);
    }
  }
  for (int chunk = 0; chunk < points.n_chunks(); ++chunk) {
    const int j = chunk * kLanes + lane;
    unsigned found = __ballot_sync(kAllLanes, j < points.n && state.root[j] < 0);
    for (; found; found &= found - 1) {
      remove(points, state, shared, --last, chunk * kLanes + __ffs((int)found) - 1);
    }
  }
}
