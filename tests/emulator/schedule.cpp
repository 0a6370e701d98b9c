// CUDA threads as fibers of one thread of the operating system: which one runs when, and the
// barriers where they wait. Seed 0 takes everything in order, others draw.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <numeric>

#include "state.hpp"

namespace emu {

const Place* here;
dim3 grid_shape, block_shape;
Launch launch;
std::string error;

namespace {

constexpr size_t kPageBytes = 4096;
// Rounds in which all threads only spin: many, as a kernel may well count some.
constexpr int kMaxIdleRounds = 20000;
constexpr int kMaxIdleAtomics = 1000;

Context scheduler;
std::vector<char*> stacks;  // kept for the next launch
uint64_t random_state;      // 0: in order
bool spun;                  // the running fiber went off in a spin loop
uint64_t n_switches;        // to fibers in this launch

// Below n. xorshift64 (Marsaglia 2003).
size_t draw(size_t n) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state % n;
}

void leave() { switch_context(&current()->context, &scheduler); }

void leave_ready() {
  current()->owner->ready.push_back(current());
  leave();
}

void wait_in(const char* what, const Site* site) {
  current()->waits_in = what;
  current()->site = site;
  leave();
}

void wake(std::vector<Fiber*>& waiting) {
  for (Fiber* fiber : waiting) fiber->owner->ready.push_back(fiber);
  waiting.clear();
}

// Checks what CUDA asks of the calls of a warp's lanes. Emulated lanes meet where a mask is the
// same: overlapping masks, or different calls with one mask, would wait for each other forever.
Group& join(unsigned mask, const char* what, const Site* site) {
  const Fiber& fiber = *current();
  Warp& warp = *fiber.warp;
  if (!(mask >> fiber.lane & 1)) {
    fail("%s at %s:%d: the calling lane %u is not in mask %08x", what, site->file, site->line,
         fiber.lane, mask);
  }
  if (mask & (~warp.present | warp.exited)) {
    fail("%s at %s:%d: mask %08x names lanes that %s", what, site->file, site->line, mask,
         mask & warp.exited ? "have exited" : "do not exist");
  }
  Group& group = warp.groups[mask];
  if (group.arrived && group.site != site) {
    fail("divergence: %s at %s:%d while lanes %08x wait at %s:%d", what, site->file, site->line,
         group.arrived, group.site->file, group.site->line);
  }
  for (const auto& [other_mask, other] : warp.groups) {
    if (other_mask != mask && other.arrived & mask) {
      fail("divergence: %s at %s:%d with mask %08x while lanes %08x wait at %s:%d with mask %08x",
           what, site->file, site->line, mask, other.arrived, other.site->file, other.site->line,
           other_mask);
    }
  }
  group.site = site;
  group.arrived |= 1u << fiber.lane;
  group.waiting.push_back(current());
  return group;
}

// Waits for the lanes of mask. Of all warp operations only __syncwarp orders memory.
const uint64_t* meet(unsigned mask, uint64_t bits, const char* what, const Site* site,
                     bool orders) {
  Group& group = join(mask, what, site);
  uint64_t* slots = group.slots[group.filling];
  slots[current()->lane] = bits;
  if (group.arrived == mask) {
    if (orders) order_lanes(group.waiting);
    group.arrived = 0;
    group.filling ^= 1;
    wake(group.waiting);
  }
  wait_in(what, site);
  return slots;
}

void thread_exits() {
  Fiber& fiber = *current();
  fiber.exited = true;
  fiber.owner->live -= 1;
  fiber.warp->exited |= 1u << fiber.lane;
  if (const Site* site = fiber.owner->site) {
    fail("divergence: a thread exited while others wait in __syncthreads at %s:%d", site->file,
         site->line);
  }
  for (const auto& [mask, group] : fiber.warp->groups) {
    if (group.arrived && mask >> fiber.lane & 1) {
      fail("divergence: lane %u exited while lanes %08x wait for it at %s:%d", fiber.lane,
           group.arrived, group.site->file, group.site->line);
    }
  }
}

void run_fiber() {
  launch.kernel(launch.arguments);
  thread_exits();
  leave();
}

bool reserve_stacks(size_t n) {
  while (stacks.size() < n) {
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    stacks.push_back(static_cast<char*>(memory));
    // So that an overflow is a fault.
    if (mprotect(memory, kPageBytes, PROT_NONE)) return false;
  }
  return true;
}

uint3 unravel(unsigned number, dim3 shape) {
  return {number % shape.x, number / shape.x % shape.y, number / shape.x / shape.y};
}

void start(Block& block, unsigned number, size_t first_stack) {
  const size_t n_threads = (size_t)block_shape.x * block_shape.y * block_shape.z;
  block = Block();
  block.number = number;
  block.index = unravel(number, grid_shape);
  block.live = n_threads;
  block.warps.resize((n_threads + kLanes - 1) / kLanes);
  block.fibers.resize(n_threads);
  for (size_t t = 0; t < n_threads; ++t) {
    Fiber& fiber = block.fibers[t];
    fiber.thread = unravel(t, block_shape);
    fiber.block = block.index;
    fiber.number = t;
    fiber.lane = t % kLanes;
    fiber.owner = &block;
    fiber.warp = &block.warps[t / kLanes];
    fiber.warp->present |= 1u << fiber.lane;
    fiber.order.lanes[fiber.lane] = 1;
    make_context(&fiber.context, stacks[first_stack + t], run_fiber);
    block.ready.push_back(&fiber);
  }
}

// Until all threads of the block wait, have exited or only spin; returns whether any did more.
bool run(Block& block) {
  size_t spins = 0;
  bool progress = false;
  while (!block.ready.empty() && error.empty()) {
    if (random_state) std::swap(block.ready.front(), block.ready[draw(block.ready.size())]);
    Fiber* fiber = block.ready.front();
    block.ready.pop_front();
    spun = false;
    here = fiber;
    switch_context(&scheduler, &fiber->context);
    here = nullptr;
    if (++n_switches > launch.max_switches && error.empty()) {
      error = "the kernel did not end within the switches that it has";
    }
    if (!spun) {
      spins = 0;
      progress = true;
    } else if (++spins > 4 * block.ready.size()) {
      break;
    }
  }
  return progress;
}

void report_deadlock(const std::vector<Block>& blocks) {
  for (const Block& block : blocks) {
    for (const Fiber& fiber : block.fibers) {
      if (fiber.exited) continue;
      char text[256];
      snprintf(text, sizeof text, "deadlock: block %u thread %u waits in %s at %s:%d", block.number,
               fiber.number, fiber.waits_in, fiber.site->file, fiber.site->line);
      error = text;
      return;
    }
  }
}

// Runs blocks that are on the device at the same time. There is one shared memory, so that of the
// others lies aside.
void run(std::vector<Block>& blocks) {
  const bool several = blocks.size() > 1;
  poison_shared();
  for (Block& block : blocks) {
    if (several) save_shared(block);
  }
  for (int idle = 0; error.empty();) {
    size_t live = 0, ready = 0;
    bool progress = false;
    for (Block& block : blocks) {
      if (!block.ready.empty()) {
        if (several) load_shared(block);
        progress |= run(block);
        if (!block.live) check_shared(block);
        if (several) save_shared(block);
      }
      live += block.live;
      ready += block.ready.size();
    }
    if (!live || !error.empty()) return;
    if (!ready) report_deadlock(blocks);
    idle = progress ? 0 : idle + 1;
    if (idle > kMaxIdleRounds) {
      error = launch.cooperative ? "livelock: all threads spin"
                                 : "livelock: a block spins, waiting for others, but the launch is "
                                   "not cooperative";
    }
  }
}

void run_grid() {
  const size_t n_threads = (size_t)block_shape.x * block_shape.y * block_shape.z;
  std::vector<unsigned> order((size_t)grid_shape.x * grid_shape.y * grid_shape.z);
  std::iota(order.begin(), order.end(), 0u);
  if (random_state) {
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw(i)]);
  }
  begin_order(order.size());
  std::vector<Block> resident(launch.cooperative ? order.size() : 1);
  if (!reserve_stacks(resident.size() * n_threads)) {
    error = "the system has no memory, or no maps of it, left for the stacks of the threads";
    return;
  }
  for (size_t first = 0; first < order.size() && error.empty(); first += resident.size()) {
    for (size_t r = 0; r < resident.size(); ++r) {
      start(resident[r], order[first + r], r * n_threads);
    }
    run(resident);
  }
}

}  // namespace

int sync_block(const Site* site, int vote) {
  Block& block = *current()->owner;
  if (block.site && block.site != site) {
    fail("barrier divergence: __syncthreads at %s:%d while others wait at %s:%d", site->file,
         site->line, block.site->file, block.site->line);
  }
  if (block.live != block.fibers.size()) {
    fail("barrier divergence: __syncthreads at %s:%d after threads of the block exited", site->file,
         site->line);
  }
  int& votes = block.votes[block.voting];
  votes += vote;
  block.site = site;
  block.waiting.push_back(current());
  if (block.waiting.size() == block.live) {
    order_block(block);
    block.site = nullptr;
    block.voting ^= 1;
    block.votes[block.voting] = 0;
    wake(block.waiting);
  }
  wait_in("__syncthreads", site);
  return votes;
}

const uint64_t* exchange(unsigned mask, uint64_t bits, const char* what, const Site* site) {
  return meet(mask, bits, what, site, false);
}

void sync_warp(const Site* site, unsigned mask) { meet(mask, 0, "__syncwarp", site, true); }

void spin() {
  spun = true;
  leave_ready();
}

void after_atomic(bool changed) {
  int& idle = current()->idle_atomics;
  idle = changed ? 0 : idle + 1;
  const bool preempted = launch.preempt && random_state && draw(8) == 0;
  // Spin loops may sleep or not; waiting is no progress, wherever the thread is interrupted.
  if (idle > kMaxIdleAtomics || (preempted && !changed)) {
    idle = 0;
    spin();
  } else if (preempted) {
    leave_ready();
  }
}

void fail(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  char who[128];
  const auto& [thread, block, lane] = *here;
  snprintf(who, sizeof who, " [block (%u, %u, %u) thread (%u, %u, %u)]", block.x, block.y, block.z,
           thread.x, thread.y, thread.z);
  error = std::string(text) + who;
  leave();
  abort();
}

}  // namespace emu

#pragma GCC visibility push(default)
extern "C" {

// Runs a kernel on grid (shape[0..2]) and block (shape[3..5]); returns the error, or "".
const char* emu_launch(void (*kernel)(void**), void** arguments, const unsigned* shape,
                       size_t shared, bool cooperative, bool preempt, uint64_t seed,
                       uint64_t max_switches) {
  using namespace emu;
  launch = {kernel, arguments, shared, cooperative, preempt, max_switches};
  grid_shape = {shape[0], shape[1], shape[2]};
  block_shape = {shape[3], shape[4], shape[5]};
  random_state = seed * 0x9E3779B97F4A7C15u;  // spread over all bits; 0 stays 0
  n_switches = 0;
  error.clear();
  FaultHandler handler;
  run_grid();
  check_buffers();
  return error.c_str();
}

// From thread to thread in the last launch.
uint64_t emu_switches() { return emu::n_switches; }

// The next launch makes new ones.
void emu_release_stacks() {
  for (char* stack : emu::stacks) munmap(stack, emu::kStackBytes);
  emu::stacks.clear();
}
}
#pragma GCC visibility pop
