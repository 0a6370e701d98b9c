// k-medoids for every number of clusters: chains that walk along k, a block for each. Several
// problems go into one launch: their arrays lie one behind another, and descriptors say where.
#include "kmedoids_cross.cuh"
#include "kmedoids_search.cuh"
#include "silhouette.cuh"

extern __shared__ __align__(16) unsigned char smem_raw[];

// Where the parts of a problem, and of a chain on it, begin; in elements.
struct Chain {
  long long n;          // points
  long long distances;  // [n, n]
  long long points;     // in number and position
  long long chunks;     // in pivot and radius
  long long start;      // bits of the medoids to start from
  long long k;          // number of them
  long long stop;       // k to stop before
  long long rows;       // results for k = 2, 3, ...
  long long bits;       // bits of their medoids
  long long near;       // each point's medoid
  long long crossed;    // whether there are results to cross with
  long long room;       // bytes in the workspace
};

// Fills distances [n, n] with rint(scale * Euclidean distance) of points [n, 2].
extern "C" __global__ void __launch_bounds__(256)
    kmedoids_distances(const double* __restrict__ points, int* __restrict__ distances, int n,
                       double scale) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= n) return;
  const double xj = points[2 * j], yj = points[2 * j + 1];
  for (int i = blockIdx.y; i < n; i += gridDim.y) {
    const double dx = points[2 * i] - xj, dy = points[2 * i + 1] - yj;
    distances[(long long)i * n + j] = (int)(scale * sqrt(dx * dx + dy * dy) + 0.5);
  }
}

// Chooses for each chunk the point from which its farthest point is nearest, a warp for a chunk.
extern "C" __global__ void __launch_bounds__(128)
    kmedoids_pivots(const int* __restrict__ distances, int* __restrict__ pivot,
                    int* __restrict__ radius, int n) {
  const int lane = threadIdx.x % kLanes;
  const int chunk = blockIdx.x * (blockDim.x / kLanes) + threadIdx.x / kLanes;
  const int first = chunk * kLanes;
  if (first >= n) return;
  const int other = min(first + lane, n - 1);
  int best = kFar, best_point = first;
  for (int point = first; point < min(first + kLanes, n); ++point) {
    const int farthest = warp_max(distances[(long long)point * n + other]);
    if (farthest < best) {
      best = farthest;
      best_point = point;
    }
  }
  if (lane == 0) {
    pivot[chunk] = best_point;
    radius[chunk] = best;
  }
}

__device__ Points points_of(const Chain& chain, const int* distances, const int* number,
                            const int* position, const int* pivot, const int* radius) {
  return {distances + chain.distances, number + chain.points, position + chain.points,
          pivot + chain.chunks,        radius + chain.chunks, (int)chain.n};
}

__device__ void write_bits(const Points& points, const State& state, unsigned* bits) {
  for (int j = threadIdx.x; j < points.n_chunks() * kLanes; j += blockDim.x) {
    const unsigned word = __ballot_sync(kAllLanes, j < points.n && state.place[j] >= 0);
    if (j % kLanes == 0) bits[j / kLanes] = word;
  }
}

// Notes down the clustering if it beats the one noted for k.
__device__ void record(const Points& points, const State& state, Shared& shared, int k,
                       long long* loss, double* mss_mean, double* mss_nearest, unsigned* bits,
                       short* near) {
  const long long ours = loss_of(points, state, shared);
  if (ours >= loss[k - 2]) return;
  const double others = 1.0 / (k - 1);
  Silhouette total = {0, 0, 0};
  for (int j = threadIdx.x; j < points.n; j += blockDim.x) {
    add_silhouette(total, state.near_distance[j], state.second_distance[j],
                   (double)state.distance_sum[j], state.size[state.near[j]], others);
    near[(long long)(k - 2) * points.n + j] = (short)state.near[j];
  }
  total.mean = block_sum(shared.slots, total.mean);
  total.nearest = block_sum(shared.slots, total.nearest);
  total.counted = block_sum(shared.slots, total.counted);
  if (threadIdx.x == 0) {
    loss[k - 2] = ours;
    mss_mean[k - 2] = mean_silhouette(total.mean, total.counted);
    mss_nearest[k - 2] = mean_silhouette(total.nearest, points.n);
  }
  write_bits(points, state, bits + (long long)(k - 2) * points.n_chunks());
  __syncthreads();
}

// The room for a chain's state: shared memory if it fits there, else the workspace.
__device__ unsigned char* room_for(const Chain& chain, unsigned char* workspace, int shared_bytes) {
  const long long kicked = is_kicked((int)chain.n) ? State::kSavedBytes : 0;
  return chain.n * (State::kBytes + kicked) <= shared_bytes ? smem_raw : workspace + chain.room;
}

// Walks from the medoids that a chain starts with by steps of 1 or -1 to before its stop, chain
// blockIdx.x.
extern "C" __global__ void __launch_bounds__(512, 1)
    kmedoids_chain(const long long* __restrict__ chains, const int* __restrict__ distances,
                   const int* __restrict__ number, const int* __restrict__ position,
                   const int* __restrict__ pivot, const int* __restrict__ radius,
                   const unsigned* __restrict__ starts, long long* loss, double* mss_mean,
                   double* mss_nearest, unsigned* bits, short* near, unsigned char* workspace,
                   int shared_bytes) {
  __shared__ Shared shared;
  const Chain chain = reinterpret_cast<const Chain*>(chains)[blockIdx.x];
  const Points points = points_of(chain, distances, number, position, pivot, radius);
  unsigned char* memory = room_for(chain, workspace, shared_bytes);
  __shared__ State state;  // as registers, its pointers would leave none with some compilers
  if (threadIdx.x == 0) state = State(memory, points.n);
  __syncthreads();
  int* spare = reinterpret_cast<int*>(memory + (long long)points.n * State::kBytes);
  int k = (int)chain.k;
  const int stop = (int)chain.stop, step = stop > k ? 1 : -1;
  loss += chain.rows;
  mss_mean += chain.rows;
  mss_nearest += chain.rows;
  bits += chain.bits;
  near += chain.near;
  load(points, state, shared, starts + chain.start, k);
  unsigned long long random = k;
  while (k + step != stop) {
    k += step;
    if (step > 0) {
      add_best(points, state, shared, k - 1);
    } else {
      remove_cheapest(points, state, shared, k);
    }
    if (chain.crossed) {
      descend(points, state, shared, k);
      cross(points, state, shared, k, near + (long long)(k - 2) * points.n,
            bits + (long long)(k - 2) * points.n_chunks());
    }
    const int kicks = n_kicks(points.n, k, chain.crossed);
    settle(points, state, shared, reinterpret_cast<int*>(memory), spare, k, kicks, random);
    record(points, state, shared, k, loss, mss_mean, mss_nearest, bits, near);
  }
}

// Grows the medoids that a chain starts with by PAM's BUILD and notes them down, one row of bits
// behind another, wherever their number is one of the chain.stop values of start_ks from chain.rows
// on; the first of these is the number at the start. Chain blockIdx.x.
extern "C" __global__ void __launch_bounds__(512, 1)
    kmedoids_grow(const long long* __restrict__ chains, const int* __restrict__ distances,
                  const int* __restrict__ number, const int* __restrict__ position,
                  const int* __restrict__ pivot, const int* __restrict__ radius, unsigned* starts,
                  const int* __restrict__ start_ks, unsigned char* workspace, int shared_bytes) {
  __shared__ Shared shared;
  const Chain chain = reinterpret_cast<const Chain*>(chains)[blockIdx.x];
  const Points points = points_of(chain, distances, number, position, pivot, radius);
  State state(room_for(chain, workspace, shared_bytes), points.n);
  unsigned* rows = starts + chain.start;
  int k = (int)chain.k;
  load(points, state, shared, rows, k);
  for (int row = 1; row < chain.stop; ++row) {
    for (; k < start_ks[chain.rows + row]; ++k) add_best(points, state, shared, k);
    write_bits(points, state, rows + (long long)row * points.n_chunks());
  }
}

// Puts the medoids' bits from the order of positions into that of numbers. A thread does a word.
extern "C" __global__ void __launch_bounds__(128)
    kmedoids_collect(const unsigned* __restrict__ bits, const int* __restrict__ position,
                     unsigned* __restrict__ bits_out, int n) {
  const int n_words = (n + 31) / 32;
  const int row = blockIdx.y, word = blockIdx.x * blockDim.x + threadIdx.x;
  if (word >= n_words) return;
  const unsigned* from = bits + (long long)row * n_words;
  unsigned value = 0;
  for (int b = 0; b < 32 && word * 32 + b < n; ++b) {
    const int at = position[word * 32 + b];
    value |= (from[at / 32] >> at % 32 & 1u) << b;
  }
  bits_out[(long long)row * n_words + word] = value;
}
