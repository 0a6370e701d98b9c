// CUDA threads as fibers of one OS thread, and the barriers at which they wait for each other.
#pragma once
#include <link.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <cassert>
#include <cmath>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ \
  thread_local  // static at block scope, legal after `extern`; one OS thread => one copy per
                // resident block
#define __constant__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define EMU_NI __attribute__((noinline, no_sanitize("thread")))
struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
#define EMU_V(T, N)                                                               \
  struct alignas(2 * sizeof(T)) N##2 { T x, y; };                                 \
  struct N##3 { T x, y, z; };                                                     \
  struct alignas(sizeof(T) * 4 > 16 ? 16 : sizeof(T) * 4) N##4 { T x, y, z, w; }; \
  inline N##2 make_##N##2(T a, T b) { return {a, b}; }                            \
  inline N##3 make_##N##3(T a, T b, T c) { return {a, b, c}; }                    \
  inline N##4 make_##N##4(T a, T b, T c, T d) { return {a, b, c, d}; }
EMU_V(float, float) EMU_V(double, double) EMU_V(int, int) constexpr int warpSize = 32;
constexpr size_t EMU_SMEM_MAX = 227 * 1024;
thread_local __attribute__((aligned(128))) unsigned char
    smem_raw[EMU_SMEM_MAX];  // convention: every kernel calls its dynamic shared array smem_raw

namespace emu {
struct Block;
struct Fiber;
struct Group {
  unsigned mask = 0, arrived = 0;
  int par = 0, line = 0;
  uint64_t slot[2][32];
  std::vector<Fiber*> wait;
};
struct Warp {
  unsigned present = 0, exited = 0;
  std::vector<Group> groups;
};
struct Fiber {
  void* sp;
  uint3 tid;
  unsigned lin, lane;
  Block* blk;
  Warp* warp;
  int line;
  const char* where;
  bool done, fence;
  void* last_atomic;
  uint32_t bep, vc[32];
};
struct Block {
  uint3 idx;
  unsigned lin, live;
  std::vector<Fiber*> ready, wait;
  size_t head;
  int bar_line, votes[2], vpar;
  std::vector<Warp> warps;
  std::vector<unsigned char> image;
  std::vector<Fiber> fibers;
};
struct Buf {
  char* base;
  size_t bytes;
};
struct Race {
  void *pc1, *pc2;
  unsigned b1, t1, b2, t2;
  int kind;
  const void* addr;
};  // kind: bit0 first was write, bit1 second is write, 4 = uninitialised shared read
struct {
  dim3 grid, block;
  size_t smem;
  bool coop, strict, preempt;
  std::function<void()> body;
} L;
static Fiber* cur;
static void* host_sp;
static std::string err;
static uint64_t rng;
static bool spun;
static std::vector<char*> stacks;
static std::map<char*, Buf> bufs;
static std::vector<Fiber*> grid_wait;
static unsigned grid_live;
static unsigned long n_switch;
static std::vector<Race> races;
static char *tls_lo, *tls_hi;
constexpr size_t STACK = 128 << 10;
#if defined(__x86_64__) && !defined(EMU_UCONTEXT)
extern "C" void emu_swap(void** save, void* load);
asm(".text\n.type emu_swap,@function\nemu_swap:\n pushq %rbp\n pushq %rbx\n pushq %r12\n pushq "
    "%r13\n pushq %r14\n pushq %r15\n movq %rsp,(%rdi)\n movq %rsi,%rsp\n"
    " popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
static void* make_ctx(char* top, void (*f)()) {
  void** s = (void**)((uintptr_t)top & ~63ull);
  *--s = nullptr;
  *--s = (void*)f;
  for (int i = 0; i < 6; ++i) *--s = nullptr;
  return s;
}
#else  // portable fallback
static EMU_NI void emu_swap(void** save, void* load) {
  ucontext_t me;
  *save = &me;
  swapcontext(&me, (ucontext_t*)load);
}
static void* make_ctx(char* top, void (*f)()) {
  auto* u = new ucontext_t;
  getcontext(u);
  u->uc_stack.ss_sp = top - STACK + 8192;
  u->uc_stack.ss_size = STACK - 8192;
  u->uc_link = nullptr;
  makecontext(u, f, 0);
  return u;
}
#endif
static inline uint64_t rnd() {
  rng ^= rng << 13;
  rng ^= rng >> 7;
  rng ^= rng << 17;
  return rng;
}
static EMU_NI void to_host() {
  ++n_switch;
  emu_swap(&cur->sp, host_sp);
}
[[noreturn]] static EMU_NI void fail(const char* fmt, ...) {
  char b[512];
  va_list a;
  va_start(a, fmt);
  vsnprintf(b, sizeof b, fmt, a);
  va_end(a);
  err = b;
  if (cur) {
    char c[160];
    snprintf(c, sizeof c, " [block (%u,%u,%u) thread (%u,%u,%u)]", cur->blk->idx.x, cur->blk->idx.y,
             cur->blk->idx.z, cur->tid.x, cur->tid.y, cur->tid.z);
    err += c;
  }
  to_host();
  abort();
}
static void push(Block& b, Fiber* f) { b.ready.push_back(f); }
static void wake(std::vector<Fiber*>& w) {
  for (Fiber* f : w) push(*f->blk, f);
  w.clear();
}
static void block_on(const char* what, int line) {
  cur->where = what;
  cur->line = line;
  to_host();
}
static EMU_NI void spin_yield() {
  spun = true;
  push(*cur->blk, cur);
  to_host();
}
static inline void maybe_preempt() {
  if (L.preempt && rng && rnd() % 8 == 0) {
    push(*cur->blk, cur);
    to_host();
  }
}
// ---- barriers
// -------------------------------------------------------------------------------------------------------
static void bar_release(Block& b) {
  b.bar_line = 0;
  b.vpar ^= 1;
  b.votes[b.vpar] = 0;
  for (Fiber* f : b.wait) {
    f->bep++;
    f->fence = false;
  }
  wake(b.wait);
}
static EMU_NI int sync_block(int line, int vote) {
  Block& b = *cur->blk;
  if (b.bar_line && b.bar_line != line)
    fail("barrier divergence: __syncthreads at line %d while others wait at line %d", line >> 12,
         b.bar_line >> 12);
  if (L.strict && b.live != b.fibers.size())
    fail("__syncthreads at line %d after %zu thread(s) of the block exited", line >> 12,
         b.fibers.size() - b.live);
  b.bar_line = line;
  int p = b.vpar;
  b.votes[p] += vote;
  b.wait.push_back(cur);
  if (b.wait.size() == b.live) bar_release(b);
  block_on("__syncthreads", line);
  return b.votes[p];
}
static EMU_NI void sync_grid(int line) {
  if (!L.coop) fail("grid.sync() at line %d in a launch that is not cooperative", line >> 12);
  grid_wait.push_back(cur);
  if (grid_wait.size() == grid_live) {
    for (Fiber* f : grid_wait) f->bep++;
    extern void race_grid_sync();
    race_grid_sync();
    wake(grid_wait);
  }
  block_on("grid.sync", line);
}
static void group_release(Group& g) {
  uint32_t m[32] = {0};
  for (Fiber* f : g.wait)
    for (int i = 0; i < 32; ++i) m[i] = m[i] > f->vc[i] ? m[i] : f->vc[i];
  for (Fiber* f : g.wait) {
    memcpy(f->vc, m, sizeof m);
    f->vc[f->lane]++;
  }
  g.arrived = 0;
  g.par ^= 1;
  wake(g.wait);
}
static EMU_NI const uint64_t* coll(unsigned mask, uint64_t bits, const char* what, int line) {
  Warp& w = *cur->warp;
  Group* g = nullptr;
  if (!(mask >> cur->lane & 1))
    fail("%s at line %d: calling lane %u is not in mask %08x", what, line >> 12, cur->lane, mask);
  if (L.strict && (mask & ~w.present || mask & w.exited))
    fail("%s at line %d: mask %08x names lanes that %s", what, line >> 12, mask,
         mask & w.exited ? "have exited" : "do not exist");
  for (auto& x : w.groups)
    if (x.mask == mask)
      g = &x;
    else if (x.arrived & mask) {
      for (Fiber* f : x.wait)
        if (mask >> f->lane & 1)
          fail("%s at line %d with mask %08x while lane %u waits in %s (line %d) with mask %08x",
               what, line >> 12, mask, f->lane, f->where, f->line >> 12, x.mask);
    }
  if (!g) {
    w.groups.reserve(64);
    if (w.groups.size() == 64) {
      for (auto& x : w.groups)
        if (!x.arrived) {
          g = &x;
          break;
        }
    } else {
      w.groups.emplace_back();
      g = &w.groups.back();
    }
    if (!g) fail("too many live masks in one warp");
    g->mask = mask;
    g->arrived = 0;
  }
  if (g->arrived && g->line != line)
    fail("warp divergence: %s at line %d while lanes %08x wait at line %d", what, line >> 12,
         g->arrived, g->line >> 12);
  g->line = line;
  g->arrived |= 1u << cur->lane;
  int p = g->par;
  g->slot[p][cur->lane] = bits;
  g->wait.push_back(cur);
  if (g->arrived == (mask & w.present & ~w.exited)) group_release(*g);
  block_on(what, line);
  return g->slot[p];
}
}  // namespace emu
