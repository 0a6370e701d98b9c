// The best addition, the best swaps, the cheapest removal, and kicks: the same steps as
// actprune_gpu/backends/cpu/kmedoids/search.py and kicks.py take.
#pragma once
#include "kmedoids_state.cuh"

// Flags the chunks that hold points of a cluster for this warp; returns the cluster's reach.
__device__ long long survey(const Points& points, const State& state, unsigned* member_chunks,
                            int medoid) {
  const int lane = threadIdx.x % kLanes;
  const int n_chunks = points.n_chunks();
  long long reach = 0;
  unsigned word = 0;
  for (int chunk = 0; chunk < n_chunks; ++chunk) {
    const int j = chunk * kLanes + lane;
    const bool member = j < points.n && state.near[j] == medoid;
    if (member) {
      reach = max(reach, (long long)state.near_distance[j] + state.second_distance[j]);
    }
    if (__any_sync(kAllLanes, member)) word |= 1u << chunk % 32;
    if (chunk % 32 == 31 || chunk == n_chunks - 1) {
      if (lane == 0) member_chunks[chunk / 32] = word;
      word = 0;
    }
  }
  __syncwarp();
  return warp_max(reach);
}

// The correction of candidate c, one for each lane, for the cluster of a medoid.
__device__ long long correction_of(const Points& points, const State& state,
                                   const unsigned* member_chunks, int medoid, int c) {
  const int lane = threadIdx.x % kLanes;
  long long correction = 0;
  for (int first = 0; first < points.n_chunks(); first += 32) {
    for (unsigned chunks = member_chunks[first / 32]; chunks; chunks &= chunks - 1) {
      const int base = (first + __ffs((int)chunks) - 1) * kLanes;
      const int j = base + lane;
      unsigned members = __ballot_sync(kAllLanes, j < points.n && state.near[j] == medoid);
      while (members) {
        int point[kUnroll], distance[kUnroll];
        bool used[kUnroll];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          used[u] = members != 0;
          point[u] = base + (used[u] ? __ffs((int)members) - 1 : 0);
          members &= members - 1;
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) distance[u] = points.row(point[u])[c];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
          const int floor = max(distance[u], state.near_distance[point[u]]);
          if (used[u]) correction += min(floor - state.second_distance[point[u]], 0);
        }
      }
    }
  }
  return correction;
}

// Finds the best candidate of every medoid on the agenda. Several warps share one medoid, each
// takes some chunks of candidates, if there are more warps than medoids.
__device__ void evaluate(const Points& points, State& state, Shared& shared) {
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int n_warps = blockDim.x / kLanes, n_dirty = shared.n_dirty;
  const int n_chunks = points.n_chunks();
  const int share = max(1, n_warps / max(n_dirty, 1));
  unsigned* member_chunks = shared.member_chunks[warp];
  for (int item = warp / share; item < n_dirty; item += n_warps / share) {
    const int medoid = state.agenda[item];
    const bool leads = lane == 0 && warp % share == 0;
    if (state.place[medoid] < 0) {
      if (leads) state.dirty[medoid] = 0;
      continue;
    }
    const long long reach = survey(points, state, member_chunks, medoid) + kSlack;
    const int* row = points.row(medoid);
    long long best = kNone;
    for (int first = 0; first < n_chunks; first += kLanes) {
      const int mine = first + lane;
      unsigned hits = __ballot_sync(kAllLanes, mine < n_chunks && mine % share == warp % share &&
                                                   points.reaches(row, reach, mine));
      for (; hits; hits &= hits - 1) {
        const int c = (first + __ffs((int)hits) - 1) * kLanes + lane;
        const int candidate = min(c, points.n - 1);
        const long long correction = correction_of(points, state, member_chunks, medoid, candidate);
        // Where there is no correction the gain may change unseen; the lowest gain covers those.
        if (c < points.n && c != medoid && correction < 0) {
          best = min(best, points.key(state.gain[c] + correction, c));
        }
      }
    }
    best = warp_min(best);
    if (lane == 0 && best != kNone) atomicMin(&state.best[medoid], best);
    if (leads) {
      state.reach[medoid] = (int)min(reach, (long long)kFar);
      state.dirty[medoid] = 0;
    }
    __syncwarp();
  }
}

// The lowest gain of the points that can become medoids, and whose it is, as a key.
__device__ long long lowest_gain(const Points& points, const State& state, Shared& shared) {
  long long lowest = kNone;
  for (int c = threadIdx.x; c < points.n; c += blockDim.x) {
    if (state.place[c] < 0) lowest = min(lowest, points.key(state.gain[c], c));
  }
  return block_min(shared.slots, lowest);
}

// Does the steepest swap until none lowers the loss.
__device__ void descend(const Points& points, State& state, Shared& shared, int k) {
  while (true) {
    evaluate(points, state, shared);
    const long long lowest = lowest_gain(points, state, shared);
    if (threadIdx.x == 0) shared.n_dirty = 0;
    long long swap = kNone;
    for (int t = threadIdx.x; t < k; t += blockDim.x) {
      const int medoid = state.medoid[t];
      const long long change = state.removal[medoid] + value_of(min(state.best[medoid], lowest));
      if (change < 0) swap = min(swap, points.key(change, medoid));
    }
    swap = block_min(shared.slots, swap);
    if (swap == kNone) return;
    const int removed = points.point_of(swap);
    const int added = points.point_of(min(state.best[removed], lowest));
    add(points, state, shared, k, added);
    remove(points, state, shared, k, removed);
  }
}

// Makes the best addition to k medoids: a step of PAM's BUILD.
__device__ void add_best(const Points& points, State& state, Shared& shared, int k) {
  const long long lowest = lowest_gain(points, state, shared);
  add(points, state, shared, k, points.point_of(lowest));
}

// Takes out the one of k + 1 medoids whose points lose least by it.
__device__ void remove_cheapest(const Points& points, State& state, Shared& shared, int k) {
  long long cheapest = kNone;
  for (int t = threadIdx.x; t <= k; t += blockDim.x) {
    const int medoid = state.medoid[t];
    cheapest = min(cheapest, points.key(state.removal[medoid], medoid));
  }
  cheapest = block_min(shared.slots, cheapest);
  remove(points, state, shared, k, points.point_of(cheapest));
}

// Whether any clustering gets kicks, and how many: see backends/plane.py.
__device__ __forceinline__ bool is_kicked(int n_points) { return n_points <= 1024; }

__device__ __forceinline__ int n_kicks(int n_points, int k, bool crossed) {
  if (k >= n_points - 1) return 0;
  if (n_points < 192) return 3;
  return crossed && k < 28 && n_points <= 1024 ? 5 : 0;
}

// An integer below `below`, from SplitMix64.
__device__ int draw(unsigned long long& random, int below) {
  random += 0x9E3779B97F4A7C15ULL;
  unsigned long long z = random;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  z = z ^ (z >> 31);
  return (int)(z % (unsigned long long)below);
}

// The point of a cluster, its medoid left out, that has so many of them before it. Every warp finds
// it by itself.
__device__ int member_of(const Points& points, const State& state, int medoid, int n_before) {
  const int lane = threadIdx.x % kLanes;
  for (int chunk = 0;; ++chunk) {
    const int j = chunk * kLanes + lane;
    unsigned members =
        __ballot_sync(kAllLanes, j < points.n && j != medoid && state.near[j] == medoid);
    if (n_before < __popc(members)) {
      for (; n_before > 0; --n_before) members &= members - 1;
      return chunk * kLanes + __ffs((int)members) - 1;
    }
    n_before -= __popc(members);
  }
}

// Swaps two neighbouring medoids for other points of their clusters. The first is that of a random
// point, as a medoid alone cannot move.
__device__ void kick(const Points& points, State& state, Shared& shared, int k,
                     unsigned long long& random) {
  const int first = state.near[draw(random, points.n)];
  const int second = state.near[first] == first ? state.second[first] : state.near[first];
  for (int turn = 0; turn < 2; ++turn) {
    const int medoid = turn == 0 ? first : second;
    const int size = state.size[medoid];
    if (size <= 1) continue;  // 0 where a duplicate of the medoid is one and has all points
    const int point = member_of(points, state, medoid, draw(random, size - 1));
    if (state.place[point] >= 0) continue;  // a duplicate of the medoid can be one, too
    add(points, state, shared, k, point);
    remove(points, state, shared, k, medoid);
  }
}

__device__ void copy_state(const int* from, int* to, int n) {
  for (int w = threadIdx.x; w < n * (State::kSavedBytes / 4); w += blockDim.x) to[w] = from[w];
  __syncthreads();
}

// Descends, and again after each of so many kicks, going back if that ended higher. What is
// saved in `spare` meanwhile has an empty agenda.
__device__ void settle(const Points& points, State& state, Shared& shared, int* memory, int* spare,
                       int k, int kicks, unsigned long long& random) {
  long long lowest = kNone;
  for (int done = 0;; ++done) {
    descend(points, state, shared, k);
    if (kicks == 0) return;
    const long long loss = loss_of(points, state, shared);
    if (loss > lowest) {
      copy_state(spare, memory, points.n);
    } else if (done < kicks) {
      lowest = loss;
      copy_state(memory, spare, points.n);
    }
    if (done == kicks) return;
    kick(points, state, shared, k, random);
  }
}
