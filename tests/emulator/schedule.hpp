// Which fiber runs when: in order for seed 0, at random for others.
#pragma once
#include "races.hpp"

namespace emu {
static void fiber_main() {
  L.body();
  Fiber* f = cur;
  Block& b = *f->blk;
  Warp& w = *f->warp;
  f->done = true;
  b.live--;
  grid_live--;
  w.exited |= 1u << f->lane;
  if (L.strict && !b.wait.empty())
    fail("thread exited while others wait in __syncthreads at line %d", b.bar_line >> 12);
  for (auto& g : w.groups)
    if (g.arrived) {
      if (L.strict && g.mask >> f->lane & 1)
        fail("lane %u exited while lanes %08x wait for it in %s at line %d", f->lane, g.arrived,
             g.wait[0]->where, g.line >> 12);
      if (g.arrived == (g.mask & w.present & ~w.exited)) group_release(g);
    }
  if (b.live && b.wait.size() == b.live) bar_release(b);
  to_host();
  abort();
}
static void init_block(Block& b, unsigned lin, size_t stack0) {
  size_t n = (size_t)L.block.x * L.block.y * L.block.z;
  b.lin = lin;
  b.idx = {lin % L.grid.x, lin / L.grid.x % L.grid.y, lin / L.grid.x / L.grid.y};
  b.live = n;
  b.head = 0;
  b.bar_line = b.votes[0] = b.votes[1] = b.vpar = 0;
  b.ready.clear();
  b.wait.clear();
  b.warps.assign((n + 31) / 32, Warp());
  b.fibers.assign(n, Fiber());
  for (size_t t = 0; t < n; ++t) {
    if (stack0 + t >= stacks.size()) {
      char* p = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      mprotect(p, 4096, PROT_NONE);
      stacks.push_back(p);
    }
    Fiber& f = b.fibers[t];
    f.tid = {unsigned(t % L.block.x), unsigned(t / L.block.x % L.block.y),
             unsigned(t / L.block.x / L.block.y)};
    f.lin = t;
    f.lane = t % 32;
    f.blk = &b;
    f.warp = &b.warps[t / 32];
    f.warp->present |= 1u << f.lane;
    f.vc[f.lane] = 1;
    f.sp = make_ctx(stacks[stack0 + t] + STACK, fiber_main);
    push(b, &f);
  }
}
static EMU_NI bool run_block(
    Block& b) {  // until every fiber waits, exits or only spins; true = progress was made
  size_t spins = 0;
  bool prog = false;
  while (b.head < b.ready.size() && err.empty()) {
    if (rng) std::swap(b.ready[b.head], b.ready[b.head + rnd() % (b.ready.size() - b.head)]);
    cur = b.ready[b.head++];
    if (b.head > 4096 && b.head * 2 > b.ready.size()) {
      b.ready.erase(b.ready.begin(), b.ready.begin() + b.head);
      b.head = 0;
    }
    spun = false;
    emu_swap(&host_sp, cur->sp);
    cur = nullptr;
    if (spun) {
      if (++spins > 4 * (b.ready.size() - b.head)) return prog;
    } else {
      spins = 0;
      prog = true;
    }
  }
  if (b.head == b.ready.size()) {
    b.ready.clear();
    b.head = 0;
  }
  return prog;
}
static EMU_NI void canary(unsigned lin) {
  for (size_t i = L.smem; i < L.smem + 4096 && i < EMU_SMEM_MAX && err.empty(); ++i)
    if (smem_raw[i] != 0xff) {
      char c[160];
      snprintf(c, sizeof c,
               "block %u wrote dynamic shared memory byte %zu, but only %zu bytes were requested",
               lin, i, L.smem);
      err = c;
    }
}
static EMU_NI void run() {
  size_t nb = (size_t)L.grid.x * L.grid.y * L.grid.z,
         nt = (size_t)L.block.x * L.block.y * L.block.z;
  std::vector<unsigned> ord(nb);
  for (size_t i = 0; i < nb; ++i) ord[i] = i;
  if (rng)
    for (size_t i = nb; i > 1; --i) std::swap(ord[i - 1], ord[rnd() % i]);
  find_tls();
  ++launch_id;
  bvc.clear();
  sv.clear();
  grid_wait.clear();
  grid_live = nb * nt;
  n_switch = 0;
  size_t R = L.coop ? nb : 1;
  std::vector<Block> res(R);
  struct sigaction sa{}, old;
  static char alt[65536];
  stack_t ss{}, oss;
  ss.ss_sp = alt;
  ss.ss_size = sizeof alt;
  sigaltstack(&ss, &oss);
  sa.sa_sigaction = segv;
  sa.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  sigaction(SIGSEGV, &sa, &old);
  for (size_t k = 0; k < nb && err.empty(); k += R) {
    for (size_t r = 0; r < R; ++r) init_block(res[r], ord[k + r], r * nt);
    memset(smem_raw, 0xff, L.smem + 4096 < EMU_SMEM_MAX ? L.smem + 4096 : EMU_SMEM_MAX);
    each_range([](char* p, size_t n) { memset(p, 0xff, n); });
    if (R > 1)
      for (auto& b : res) image(b, true);
    for (unsigned long idle = 0, live = 1; live && err.empty();) {
      live = 0;
      bool prog = false;
      for (auto& b : res) {
        if (!b.live) continue;
        if (R > 1 && b.ready.size() == b.head) {
          live += b.live;
          continue;
        }
        if (R > 1) image(b, false);
        prog |= run_block(b);
        if (!b.live || !err.empty()) canary(b.lin);
        if (R > 1) image(b, true);
        live += b.live;
      }
      bool any = false;
      for (auto& b : res) any |= b.head < b.ready.size();
      if (live && err.empty() && !any) {
        for (auto& b : res)
          for (auto& f : b.fibers)
            if (!f.done && err.empty()) {
              char c[200];
              snprintf(c, sizeof c,
                       "deadlock: %lu thread(s) wait, e.g. block %u thread %u in %s at line %d",
                       live, b.lin, f.lin, f.where, f.line >> 12);
              err = c;
            }
      }
      idle = prog ? 0 : idle + 1;
      if (idle > 20000)
        err = L.coop
                  ? "livelock: threads spin and none makes progress"
                  : "livelock: a block spins on another block, but the launch is not cooperative";
    }
  }
  cur = nullptr;
  sigaction(SIGSEGV, &old, nullptr);
  sigaltstack(&oss, nullptr);
}
}  // namespace emu
