// A happens-before race detector. Kernels compiled with -fsanitize=thread call the functions at the
// end of this file at every access; the sanitizer's own library is not used.
//
// What a thread did is ordered before what it does later, what other threads do behind a barrier
// of the block or the warp, and what threads do that saw an atomic operation which it did after a
// fence, once they have done a fence, too.
#include <string.h>

#include <algorithm>

#include "state.hpp"

namespace emu {
namespace {

enum Kind { kFirstWrites = 1, kSecondWrites = 2, kUninitialised = 4 };

struct Race {
  void *first_site, *second_site;
  unsigned first_block, first_thread, second_block, second_thread;
  int kind;
};

struct Fence {
  unsigned thread;
  uint32_t epoch;
  uint32_t lanes[kLanes];
};

constexpr size_t kMaxRaces = 64;

uint32_t launch_number;
std::vector<std::vector<Fence>> fences;  // by block, in order of time
// What atomic operations have made known, by their address; and by block in shared memory, where
// all blocks have the same addresses.
std::map<std::pair<unsigned, uintptr_t>, Clock> releases;
std::vector<Race> races;

uint32_t at(const Clock& clock, size_t block) { return block < clock.size() ? clock[block] : 0; }

void merge(Clock& clock, const Clock& other) {
  if (clock.size() < other.size()) clock.resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) clock[i] = std::max(clock[i], other[i]);
}

// Whether an access is behind a thread of the same block, either now (its Order) or at a Fence.
template <typename Then>
bool is_behind(const Access& access, unsigned thread, const Then& then) {
  return access.thread == thread || access.epoch < then.epoch ||
         (access.thread / kLanes == thread / kLanes &&
          access.lane_clock <= then.lanes[access.thread % kLanes]);
}

// Whether an access of this launch came before what the running thread does. Of a fence that is
// known everything is known that was behind its thread.
bool is_ordered(const Access& access) {
  const Fiber& fiber = *current();
  if (access.block == fiber.owner->number && is_behind(access, fiber.number, fiber.order)) {
    return true;
  }
  const uint32_t known =
      std::max(at(fiber.owner->known, access.block), at(fiber.order.known, access.block));
  for (uint32_t i = access.fences; i < known; ++i) {
    const Fence& fence = fences[access.block][i];
    if (is_behind(access, fence.thread, fence)) return true;
  }
  return false;
}

void report(const Race& race) {
  for (const Race& other : races) {
    if (other.first_site == race.first_site && other.second_site == race.second_site) return;
  }
  if (races.size() < kMaxRaces) races.push_back(race);
}

void check(const Access& before, bool wrote, const Access& now, bool writes) {
  if (before.launch != now.launch || !(before.bytes & now.bytes)) return;
  if ((!wrote && !writes) || (before.atomic && now.atomic) || is_ordered(before)) return;
  const int kind = (wrote ? kFirstWrites : 0) | (writes ? kSecondWrites : 0);
  report({before.caller, now.caller, before.block, before.thread, now.block, now.thread, kind});
}

void access_word(Word& word, const Access& now, bool writes) {
  check(word.write, true, now, writes);
  if (writes) {
    check(word.reads[0], false, now, writes);
    check(word.reads[1], false, now, writes);
    word.write = now;
    return;
  }
  const Access& last = word.reads[0];
  if (last.launch != now.launch || last.block != now.block || last.thread != now.thread) {
    word.reads[1] = last;
  }
  word.reads[0] = now;
}

void access(void* address, size_t n_bytes, bool writes, bool atomic, void* caller) {
  if (!here) return;
  const Fiber& fiber = *current();
  const unsigned block = fiber.owner->number;
  Access now = {launch_number,
                block,
                fiber.number,
                fiber.order.epoch,
                (uint32_t)fences[block].size(),
                fiber.order.lanes[fiber.lane],
                0,
                atomic,
                caller};
  uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  const uintptr_t end = begin + n_bytes;
  while (begin < end) {
    Word* word = shadow_of(begin);
    if (!word) return;
    const uintptr_t next = std::min((begin | 3) + 1, end);
    now.bytes = ((1u << (next - begin)) - 1) << (begin & 3);
    const bool written = word->write.launch == launch_number && word->write.block == block;
    if (!writes && !written && is_shared(begin)) {
      report({caller, caller, block, fiber.number, block, fiber.number, kUninitialised});
    }
    access_word(*word, now, writes);
    begin = next;
  }
}

}  // namespace

void begin_order(size_t n_blocks) {
  launch_number += 1;
  fences.assign(n_blocks, {});
  releases.clear();
  races.clear();
}

void order_block(Block& block) {
  if (!racing) return;
  for (Fiber* fiber : block.waiting) {
    fiber->order.epoch += 1;
    merge(block.known, fiber->order.known);
    fiber->order.known.clear();
  }
}

void order_lanes(const std::vector<Fiber*>& fibers) {
  if (!racing) return;
  uint32_t lanes[kLanes] = {};
  Clock known;
  for (const Fiber* fiber : fibers) {
    for (int i = 0; i < kLanes; ++i) lanes[i] = std::max(lanes[i], fiber->order.lanes[i]);
    merge(known, fiber->order.known);
  }
  for (Fiber* fiber : fibers) {
    memcpy(fiber->order.lanes, lanes, sizeof lanes);
    fiber->order.lanes[fiber->lane] += 1;
    fiber->order.known = known;
  }
}

void before_atomic(void* address, size_t n_bytes, void* caller) {
  if (!racing) return;
  access(address, n_bytes, true, true, caller);
  Order& order = current()->order;
  const auto number = reinterpret_cast<uintptr_t>(address);
  Clock& release = releases[{is_shared(number) ? current()->owner->number : 0, number}];
  merge(order.seen, release);
  merge(release, order.released);
}

void fence() {
  if (!racing) return;
  Fiber& fiber = *current();
  Order& order = fiber.order;
  const unsigned block = fiber.owner->number;
  fences[block].push_back({fiber.number, order.epoch, {}});
  memcpy(fences[block].back().lanes, order.lanes, sizeof order.lanes);
  merge(order.known, order.seen);
  order.released = order.known;
  merge(order.released, fiber.owner->known);
  merge(order.released, Clock(block + 1));
  order.released[block] = fences[block].size();
}

}  // namespace emu

extern "C" {

// Hands out what the last launch did wrong; returns how much.
__attribute__((visibility("default"))) int emu_races(const emu::Race** found) {
  *found = emu::races.data();
  return emu::races.size();
}

#define EMU_ACCESS(name, n_bytes, writes)                                      \
  void __tsan_##name(void* address) {                                          \
    emu::access(address, n_bytes, writes, false, __builtin_return_address(0)); \
  }
#define EMU_ACCESSES(n_bytes)               \
  EMU_ACCESS(read##n_bytes, n_bytes, false) \
  EMU_ACCESS(write##n_bytes, n_bytes, true)
#define EMU_UNALIGNED(n_bytes)                        \
  EMU_ACCESS(unaligned_read##n_bytes, n_bytes, false) \
  EMU_ACCESS(unaligned_write##n_bytes, n_bytes, true)
EMU_ACCESSES(1)
EMU_ACCESSES(2)
EMU_ACCESSES(4)
EMU_ACCESSES(8)
EMU_ACCESSES(16)
EMU_UNALIGNED(2)
EMU_UNALIGNED(4)
EMU_UNALIGNED(8)
EMU_UNALIGNED(16)

void __tsan_read_range(void* address, size_t n_bytes) {
  emu::access(address, n_bytes, false, false, __builtin_return_address(0));
}

void __tsan_write_range(void* address, size_t n_bytes) {
  emu::access(address, n_bytes, true, false, __builtin_return_address(0));
}

void __tsan_init() {}
}
