// A happens-before race detector, in builds with EMU_RACE: GCC's thread sanitizer instruments every
// access and calls the hooks here; its own library is not linked.
#pragma once
#include "memory.hpp"

namespace emu {
struct Acc {
  uint32_t launch, blk, tid, bep, bclk, lclk;
  uint8_t mask, atomic;
  void* pc;
};
struct Rec {
  Acc w, r[2];
};
static uint32_t launch_id;
static std::vector<uint32_t> bvc;
static std::unordered_map<void*, std::vector<uint32_t>> sv;
static std::unordered_map<uintptr_t, Rec> shadow;
static uint32_t& BV(unsigned a, unsigned b) {
  static uint32_t dummy;
  size_t n = (size_t)L.grid.x * L.grid.y * L.grid.z;
  if (n > 512) {
    dummy = 0;
    return dummy;
  }
  if (bvc.size() != n * n) {
    bvc.assign(n * n, 0);
    for (size_t i = 0; i < n; ++i) bvc[i * n + i] = 1;
  }
  return bvc[a * n + b];
}
void race_grid_sync() {
  size_t n = (size_t)L.grid.x * L.grid.y * L.grid.z;
  if (n > 512) return;
  for (size_t a = 0; a < n; ++a)
    for (size_t b = 0; b < n; ++b)
      if (a != b) BV(a, b) = BV(b, b);
  for (size_t a = 0; a < n; ++a) BV(a, a)++;
}
static bool ordered(const Acc& a, bool shared) {
  if (a.launch != launch_id || !a.launch) return true;
  Fiber& f = *cur;
  unsigned b = f.blk->lin;
  if (a.blk != b) return shared || BV(b, a.blk) >= a.bclk;
  return a.tid == f.lin || a.bep < f.bep ||
         (a.tid / 32 == f.lin / 32 && f.vc[a.tid % 32] >= a.lclk);
}
static EMU_NI void access(void* p, size_t n, bool wr, bool atomic, void* pc) {
  static bool busy;
  if (!cur || !n || busy) return;  // busy: the containers used here are themselves instrumented
  struct Busy {
    EMU_NI Busy() { busy = true; }
    EMU_NI ~Busy() { busy = false; }
  } guard;
  bool sh = (char*)p >= tls_lo && (char*)p < tls_hi;
  if (!sh) {
    auto it = bufs.upper_bound((char*)p);
    if (it == bufs.begin()) return;
    --it;
    if ((char*)p >= it->second.base + it->second.bytes) return;
  }
  for (uintptr_t a = (uintptr_t)p, e = a + n; a < e; a = (a | 3) + 1) {
    uintptr_t we = (a | 3) + 1 < e ? (a | 3) + 1 : e;
    uint8_t m = uint8_t(((1u << (we - a)) - 1) << (a & 3));
    Rec& r = shadow[a & ~3ull];
    Acc me{launch_id,
           cur->blk->lin,
           cur->lin,
           cur->bep,
           BV(cur->blk->lin, cur->blk->lin),
           cur->vc[cur->lane],
           m,
           atomic,
           pc};
    auto chk = [&](Acc& o, bool ow) {
      if ((o.mask & m) && !(o.atomic && atomic) && (ow || wr) && !ordered(o, sh)) {
        bool dup = false;
        for (auto& x : races) dup |= x.pc1 == o.pc && x.pc2 == pc;
        if (!dup && races.size() < 64)
          races.push_back({o.pc, pc, o.blk, o.tid, me.blk, me.tid, ow | wr << 1, p});
      }
    };
    chk(r.w, true);
    if (wr) {
      chk(r.r[0], false);
      chk(r.r[1], false);
    }
    if (sh && !wr && !(r.w.launch == launch_id && r.w.blk == me.blk)) {
      bool dup = false;
      for (auto& x : races) dup |= x.kind == 4 && x.pc1 == pc;
      if (!dup && races.size() < 64)
        races.push_back({pc, pc, me.blk, me.tid, me.blk, me.tid, 4, p});
    }
    if (wr)
      r.w = me;
    else {
      if (r.r[0].launch != launch_id || r.r[0].blk != me.blk || r.r[0].tid != me.tid)
        r.r[1] = r.r[0];
      r.r[0] = me;
    }
  }
}
static void note_atomic(void* p, size_t n, void* pc) {
#ifdef EMU_RACE
  access(p, n, true, true, pc);
  cur->last_atomic = p;
  unsigned b = cur->blk->lin;
  if (cur->fence) {
    auto& v = sv[p];
    size_t N = (size_t)L.grid.x * L.grid.y * L.grid.z;
    v.resize(N);
    for (size_t i = 0; i < N; ++i)
      if (BV(b, i) > v[i]) v[i] = BV(b, i);
    BV(b, b)++;
  }
#endif
}
static EMU_NI void fence() {
#ifdef EMU_RACE
  cur->fence = true;
  auto it = sv.find(cur->last_atomic);
  if (it != sv.end())
    for (size_t i = 0; i < it->second.size(); ++i)
      if (i != cur->blk->lin && it->second[i] > BV(cur->blk->lin, i))
        BV(cur->blk->lin, i) = it->second[i];
#endif
}
}  // namespace emu
