// What the parts of the emulator share: the threads of a launch, and what is known of memory.
#pragma once
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "runtime.hpp"

#if defined(__x86_64__)
using Context = void*;  // of a fiber: its stack pointer, all else lies on the stack
#else
#include <ucontext.h>
using Context = ucontext_t;
#endif

#pragma GCC visibility push(hidden)
namespace emu {

struct Block;
struct Fiber;

// By block, how many of its fences are known to have happened. What is behind the end is 0.
using Clock = std::vector<uint32_t>;

// What a thread did, or does, to memory and what it was ordered by.
struct Access {
  uint32_t launch = 0, block, thread;
  uint32_t epoch;   // barriers of the block that the thread had passed
  uint32_t fences;  // of the block until then
  uint32_t lane_clock;
  uint8_t bytes;  // of the word, as bits
  bool atomic;
  void* caller;
};

// The last accesses to four bytes; the reads are by different threads.
struct Word {
  Access write, reads[2];
};

using Shadow = std::vector<Word>;

// A thread's place in the order of things, for the race detector.
struct Order {
  uint32_t epoch = 0;
  uint32_t lanes[kLanes] = {};  // by lane of the warp, what is known of its clock
  Clock known;                  // fences of other blocks, beyond what the thread's block knows
  Clock seen;                   // what atomic operations have read, known from the next fence on
  Clock released;               // what was known at the last fence
};

// Lanes that wait for each other.
struct Group {
  unsigned arrived = 0;
  const Site* site = nullptr;
  std::vector<Fiber*> waiting;
  uint64_t slots[2][kLanes];  // by lane; lanes that have not gone on yet read the other ones
  int filling = 0;
};

struct Warp {
  unsigned present = 0, exited = 0;
  std::map<unsigned, Group> groups;  // by mask
};

struct Fiber : Place {
  Context context;
  unsigned number = 0;  // in its block
  Block* owner = nullptr;
  Warp* warp = nullptr;
  const char* waits_in = nullptr;
  const Site* site = nullptr;
  bool exited = false;
  int idle_atomics = 0;  // in a row
  Order order;
};

struct Block {
  uint3 index;
  unsigned number, live;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::deque<Fiber*> ready;
  std::vector<Fiber*> waiting;  // in __syncthreads
  const Site* site = nullptr;   // of that, null if nobody waits
  int votes[2] = {};            // threads that have not gone on yet read the other one
  int voting = 0;
  std::vector<unsigned char> shared;  // the block's shared memory while other blocks run
  Shadow shadow;                      // of shared memory
  Clock known;                        // fences of other blocks that all of its threads know of
};

struct Launch {
  void (*kernel)(void**);
  void** arguments;
  size_t shared;  // bytes
  bool cooperative, preempt;
  uint64_t max_switches;
};

extern Launch launch;
extern std::string error;  // the first one; ends the launch

inline Fiber* current() { return static_cast<Fiber*>(const_cast<Place*>(here)); }

// context.cpp
constexpr size_t kStackBytes = 128 << 10;
void make_context(Context* context, char* stack, void (*entry)());
void switch_context(Context* from, const Context* to);

// memory.cpp
void poison_shared();
void save_shared(Block& block);
void load_shared(const Block& block);
void check_shared(const Block& block);  // for writes behind the dynamic part
void check_buffers();                   // for writes in front of them
bool is_shared(uintptr_t address);
Word* shadow_of(uintptr_t address);  // null if a kernel's threads do not share the memory

struct FaultHandler {
  FaultHandler();
  ~FaultHandler();
};

// races.cpp
void begin_order(size_t n_blocks);
void order_block(Block& block);
void order_lanes(const std::vector<Fiber*>& fibers);

}  // namespace emu
#pragma GCC visibility pop
