// What cudaemu.hpp, which is compiled together with kernels, asks of the rest of the emulator,
// which is compiled once and without sanitizers.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

#pragma GCC visibility push(hidden)  // every module has an emulator of its own
namespace emu {

constexpr int kLanes = 32;

// Where a kernel calls the emulator. Calls are told apart by address: two may be on one line.
struct Site {
  const char* file;
  int line;
};

struct Place {
  uint3 thread, block;
  unsigned lane;
};

extern const Place* here;  // the running thread, null outside of launches
extern dim3 grid_shape, block_shape;
extern const bool racing;  // whether the kernels were compiled for the race detector

// Waits for all threads of the block; returns the sum of their votes.
int sync_block(const Site* site, int vote);

// Waits for the lanes of mask; returns the bits that each of them gave, by lane.
const uint64_t* exchange(unsigned mask, uint64_t bits, const char* what, const Site* site);
void sync_warp(const Site* site, unsigned mask = ~0u);

// Every atomic operation is between these two. The caller is an address in the kernel's code.
void before_atomic(void* address, size_t n_bytes, void* caller);
void after_atomic(bool changed);

void fence();
void spin();  // lets all others go first
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace emu
#pragma GCC visibility pop
