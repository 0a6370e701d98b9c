// Where every point stands, and how an added or removed medoid changes that: the integers of
// actprune_gpu/backends/cpu/kmedoids/state.py. A block works on one chain. Points go by their
// position in the spatial order; ties are settled by their number.
#pragma once
#include "warp.cuh"

constexpr int kFar = 0x7fffffff;
// Rounding to fixed point can break the triangle inequality by this many units.
constexpr int kSlack = 2;
constexpr int kMaxPoints = 16384;
constexpr int kNumberBits = 16;
constexpr int kUnroll = 4;  // independent loads in flight

// What is said of the points themselves. A chunk is 32 neighbours, one for each lane.
struct Points {
  const int* distances;  // [n, n]
  const int* number;     // [n] of the point at each position
  const int* position;   // [n] of the point with each number
  const int* pivot;      // [chunks] a point of each chunk
  const int* radius;     // [chunks] from the pivot to the chunk's farthest point
  int n;

  __device__ int n_chunks() const { return (n + kLanes - 1) / kLanes; }
  __device__ const int* row(int point) const { return distances + (long long)point * n; }
  __device__ bool before(int point, int other) const { return number[point] < number[other]; }
  // Orders by value, then by number.
  __device__ long long key(long long value, int point) const {
    return value * (1LL << kNumberBits) + number[point];
  }
  __device__ int point_of(long long key) const {
    return position[key & ((1LL << kNumberBits) - 1)];
  }
  // Whether a chunk can hold points closer to the one with this row than a distance.
  __device__ bool reaches(const int* row, long long distance, int chunk) const {
    return row[pivot[chunk]] < distance + radius[chunk] + kSlack;
  }
};

__device__ __forceinline__ long long value_of(long long key) { return key >> kNumberBits; }

// Points whose distance to their medoid goes from before to after.
struct Moved {
  int* point;
  int* before;
  int* after;
};

struct State {
  long long* distance_sum;  // to all medoids
  long long* gain;          // of each candidate, <= 0
  long long* removal;       // loss added when the medoid goes
  long long* best;          // key of the medoid's best candidate among those with a correction
  int* near;                // the point's medoid
  int* near_distance;
  int* second;  // the next one
  int* second_distance;
  int* size;    // of each cluster
  int* place;   // of each medoid in medoid, -1 for points that can become one
  int* medoid;  // the first k entries, in no order
  int* reach;   // largest near + second distance in the cluster, when best was found
  int* dirty;   // whether best has to be found anew
  // Not part of what is saved: lists of work that are empty then.
  int* agenda;  // the dirty medoids, shared.n_dirty of them
  Moved moved;
  int* orphan;  // points that have lost their second medoid
  // Of the regions of `cross`, by their first point.
  long long* change;
  int* excess;
  int* root;

  static constexpr int kSavedBytes = 4 * 8 + 9 * 4;  // for each point
  static constexpr int kBytes = kSavedBytes + 5 * 4 + 8 + 2 * 4;

  State() = default;
  __device__ State(unsigned char* memory, int n) {
    long long* wide = reinterpret_cast<long long*>(memory);
    distance_sum = wide;
    gain = wide + n;
    removal = wide + 2LL * n;
    best = wide + 3LL * n;
    int* narrow = reinterpret_cast<int*>(wide + 4LL * n);
    near = narrow;
    near_distance = narrow + n;
    second = narrow + 2LL * n;
    second_distance = narrow + 3LL * n;
    size = narrow + 4LL * n;
    place = narrow + 5LL * n;
    medoid = narrow + 6LL * n;
    reach = narrow + 7LL * n;
    dirty = narrow + 8LL * n;
    agenda = narrow + 9LL * n;
    moved = {narrow + 10LL * n, narrow + 11LL * n, narrow + 12LL * n};
    orphan = narrow + 13LL * n;
    change = reinterpret_cast<long long*>(narrow + 14LL * n);
    excess = narrow + 16LL * n;
    root = narrow + 17LL * n;
  }
};

// What the threads of a block share besides.
struct Shared {
  long long slots[kMaxWarps];
  int n_dirty;
  int n_moved;
  int n_orphans;
  int moved_radius;  // no gain changes farther from the medoid that came or went
  unsigned member_chunks[kMaxWarps][kMaxPoints / kLanes / 32];
};

__device__ __forceinline__ void add_to(long long* total, long long value) {
  // Two's complement: unsigned addition does it for negative values, too.
  atomicAdd(reinterpret_cast<unsigned long long*>(total), (unsigned long long)value);
}

// Notes that a medoid's best candidate has to be found anew.
__device__ __forceinline__ void mark(State& state, Shared& shared, int medoid) {
  if (atomicExch(&state.dirty[medoid], 1) == 0) {
    state.best[medoid] = kNone;
    state.agenda[atomicAdd(&shared.n_dirty, 1)] = medoid;
  }
}

__device__ __forceinline__ void note_moved(State& state, Shared& shared, int point, int before,
                                           int after) {
  const int slot = atomicAdd(&shared.n_moved, 1);
  state.moved.point[slot] = point;
  state.moved.before[slot] = before;
  state.moved.after[slot] = after;
  const long long radius = (long long)before + after;
  atomicMax(&shared.moved_radius, (int)(radius < kFar ? radius : kFar));
}

__device__ void start_change(Shared& shared) {
  if (threadIdx.x == 0) {
    shared.n_moved = 0;
    shared.n_orphans = 0;
    shared.moved_radius = 0;
  }
  __syncthreads();
}

// Makes the gains, and the agenda, allow for the points that have moved to or from `centre`.
__device__ void change_gains(const Points& points, State& state, Shared& shared, int n_medoids,
                             int centre) {
  const int* row = points.row(centre);
  const long long radius = (long long)shared.moved_radius + kSlack;
  for (int c = threadIdx.x; c < points.n; c += blockDim.x) {
    if (!points.reaches(row, radius, c / kLanes)) continue;
    long long change = 0;
#pragma unroll 4
    for (int m = 0; m < shared.n_moved; ++m) {
      const int distance = points.row(state.moved.point[m])[c];
      change += min(distance - state.moved.after[m], 0) - min(distance - state.moved.before[m], 0);
    }
    state.gain[c] += change;
  }
  for (int t = threadIdx.x; t < n_medoids; t += blockDim.x) {
    const int medoid = state.medoid[t];
    if (row[medoid] < state.reach[medoid] + radius + kSlack) mark(state, shared, medoid);
  }
}

// Makes `added` the medoid number k, counted from 0.
__device__ void add(const Points& points, State& state, Shared& shared, int k, int added) {
  start_change(shared);
  const int* row = points.row(added);
  for (int j = threadIdx.x; j < points.n; j += blockDim.x) {
    const int distance = row[j];
    const int near = state.near[j], second = state.second[j];
    const int near_distance = state.near_distance[j], second_distance = state.second_distance[j];
    state.distance_sum[j] += distance;
    if (distance < near_distance || (distance == near_distance && points.before(added, near))) {
      add_to(&state.removal[near], near_distance - second_distance);
      add_to(&state.removal[added], near_distance - distance);
      atomicSub(&state.size[near], 1);
      atomicAdd(&state.size[added], 1);
      mark(state, shared, near);
      note_moved(state, shared, j, near_distance, distance);
      state.second[j] = near;
      state.second_distance[j] = near_distance;
      state.near[j] = added;
      state.near_distance[j] = distance;
    } else if (distance < second_distance ||
               (distance == second_distance && points.before(added, second))) {
      add_to(&state.removal[near], distance - second_distance);
      mark(state, shared, near);
      state.second[j] = added;
      state.second_distance[j] = distance;
    }
  }
  if (threadIdx.x == 0) {
    state.medoid[k] = added;
    state.place[added] = k;
    mark(state, shared, added);
  }
  __syncthreads();
  change_gains(points, state, shared, k + 1, added);
  __syncthreads();
}

// Finds the second medoid of a point that has lost it, one warp; k + 1 medoids, one of them going.
__device__ void find_second(const Points& points, State& state, Shared& shared, int k, int point,
                            int removed) {
  const int lane = threadIdx.x % kLanes;
  const int* row = points.row(point);
  const int near = state.near[point];
  long long nearest = kNone;
  for (int t = lane; t <= k; t += kLanes) {
    const int medoid = state.medoid[t];
    if (medoid != removed && medoid != near) {
      const long long key = points.key(row[medoid], medoid);
      nearest = key < nearest ? key : nearest;
    }
  }
  nearest = warp_min(nearest);
  if (lane == 0) {
    add_to(&state.removal[near], value_of(nearest) - state.second_distance[point]);
    mark(state, shared, near);
    state.second[point] = points.point_of(nearest);
    state.second_distance[point] = (int)value_of(nearest);
  }
}

// Takes `removed` out of the k + 1 medoids, leaving k >= 2.
__device__ void remove(const Points& points, State& state, Shared& shared, int k, int removed) {
  start_change(shared);
  const int* row = points.row(removed);
  for (int j = threadIdx.x; j < points.n; j += blockDim.x) {
    state.distance_sum[j] -= row[j];
    if (state.near[j] == removed) {
      const int second = state.second[j];
      note_moved(state, shared, j, state.near_distance[j], state.second_distance[j]);
      state.near[j] = second;
      state.near_distance[j] = state.second_distance[j];
      atomicAdd(&state.size[second], 1);
      state.orphan[atomicAdd(&shared.n_orphans, 1)] = j;
    } else if (state.second[j] == removed) {
      state.orphan[atomicAdd(&shared.n_orphans, 1)] = j;
    }
  }
  __syncthreads();
  for (int o = threadIdx.x / kLanes; o < shared.n_orphans; o += blockDim.x / kLanes) {
    find_second(points, state, shared, k, state.orphan[o], removed);
  }
  change_gains(points, state, shared, k + 1, removed);
  __syncthreads();
  if (threadIdx.x == 0) {
    const int place = state.place[removed], last = state.medoid[k];
    state.medoid[place] = last;
    state.place[last] = place;
    state.place[removed] = -1;
    state.removal[removed] = 0;
    state.size[removed] = 0;
  }
  __syncthreads();
}

// Lists the k medoids flagged in bits [n / 32], by position, and all other points behind them; one
// warp.
__device__ void list_medoids(const Points& points, State& state, const unsigned* bits, int k) {
  const int lane = threadIdx.x % kLanes;
  int listed = 0;
  for (int chunk = 0; chunk < points.n_chunks(); ++chunk) {
    const unsigned word = bits[chunk];
    const int point = chunk * kLanes + lane;
    const bool is_medoid = word >> lane & 1u;
    const int place = listed + __popc(word & ((1u << lane) - 1u));
    if (point < points.n) {
      state.medoid[is_medoid ? place : k + point - place] = point;
      state.place[point] = is_medoid ? place : -1;
    }
    listed += __popc(word);
  }
}

// Sets up the state with the k medoids flagged in bits.
__device__ void load(const Points& points, State& state, Shared& shared, const unsigned* bits,
                     int k) {
  __syncthreads();
  if (threadIdx.x < kLanes) list_medoids(points, state, bits, k);
  for (int j = threadIdx.x; j < points.n; j += blockDim.x) {
    state.removal[j] = 0;
    state.best[j] = kNone;
    state.size[j] = 0;
    state.reach[j] = 0;
    state.dirty[j] = 0;
  }
  if (threadIdx.x == 0) shared.n_dirty = 0;
  __syncthreads();
  for (int j = threadIdx.x; j < points.n; j += blockDim.x) {
    long long sum = 0, nearest = kNone, second = kNone;
#pragma unroll 4
    for (int t = 0; t < k; ++t) {
      const int medoid = state.medoid[t];
      const int distance = points.row(medoid)[j];
      const long long key = points.key(distance, medoid);
      sum += distance;
      second = min(second, max(nearest, key));
      nearest = min(nearest, key);
    }
    const int near = points.point_of(nearest);
    state.distance_sum[j] = sum;
    state.near[j] = near;
    state.near_distance[j] = (int)value_of(nearest);
    state.second[j] = k > 1 ? points.point_of(second) : -1;
    state.second_distance[j] = k > 1 ? (int)value_of(second) : kFar;
    add_to(&state.removal[near], state.second_distance[j] - state.near_distance[j]);
    atomicAdd(&state.size[near], 1);
  }
  __syncthreads();
  for (int c = threadIdx.x; c < points.n; c += blockDim.x) {
    long long gain = 0;
#pragma unroll 8
    for (int j = 0; j < points.n; ++j) {
      gain += min(points.row(j)[c] - state.near_distance[j], 0);
    }
    state.gain[c] = gain;
  }
  for (int t = threadIdx.x; t < k; t += blockDim.x) mark(state, shared, state.medoid[t]);
  __syncthreads();
}

__device__ long long loss_of(const Points& points, const State& state, Shared& shared) {
  long long loss = 0;
  for (int j = threadIdx.x; j < points.n; j += blockDim.x) loss += state.near_distance[j];
  return block_sum(shared.slots, loss);
}
