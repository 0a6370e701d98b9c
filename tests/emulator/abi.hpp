// What Python calls.
#pragma once
#include "device.hpp"

#pragma GCC visibility push(default)
extern "C" {
const char* emu_sig(const char* k) {
  auto it = emu::table().find(k);
  return it == emu::table().end() ? nullptr : it->second.sig;
}
void* emu_alloc(size_t n) {
  size_t pg = (n + 4095) & ~4095ull;
  char* p = (char*)mmap(nullptr, pg + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                        -1, 0);
  mprotect(p + 4096, pg, PROT_READ | PROT_WRITE);
  char* u = p + 4096 + pg - n;
  memset(p + 4096, 0xff, pg);
  emu::bufs[u] = {u, n};
  return u;
}
void emu_free(void* u) {
  auto it = emu::bufs.find((char*)u);
  if (it == emu::bufs.end()) return;
  size_t n = it->second.bytes, pg = (n + 4095) & ~4095ull;
  munmap((char*)u + n - pg - 4096, pg + 8192);
  emu::bufs.erase(it);
  for (uintptr_t a = (uintptr_t)u & ~3ull; !emu::shadow.empty() && a < (uintptr_t)u + n; a += 4)
    emu::shadow.erase(a);
}
const char* emu_launch(const char* k, const unsigned* gb, size_t smem, int flags, uint64_t seed,
                       void** args) {  // flags: 1 cooperative, 2 strict, 4 preempt at atomics
  auto& L = emu::L;
  emu::err.clear();
  emu::races.clear();
  L.grid = dim3(gb[0], gb[1], gb[2]);
  L.block = dim3(gb[3], gb[4], gb[5]);
  L.smem = smem;
  L.coop = flags & 1;
  L.strict = flags & 2;
  L.preempt = flags & 4;
  emu::rng = seed * 0x9E3779B97F4A7C15ull;
  emu::table()[k].bind(args);
  emu::run();
  return emu::err.c_str();
}
unsigned long emu_switches() { return emu::n_switch; }
int emu_races(emu::Race* out, int n) {
  int i = 0;
  for (auto& r : emu::races)
    if (i < n) out[i++] = r;
  return i;
}
struct EmuLoc {
  const char* file;
  uint32_t line, col;
};  // UBSan handlers: -fsanitize=bounds,alignment without libubsan
__attribute__((visibility("hidden"))) void __ubsan_handle_out_of_bounds(EmuLoc* l, uintptr_t i) {
  if (emu::cur) emu::fail("array index %ld out of bounds at %s:%u", (long)i, l->file, l->line);
}
__attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(EmuLoc* l, uintptr_t p) {
  if (emu::cur) emu::fail("misaligned (or null) access to %p at %s:%u", (void*)p, l->file, l->line);
}
#ifdef EMU_RACE
#define EMU_TS(n)                                                 \
  EMU_NI void __tsan_read##n(void* p) {                           \
    emu::access(p, n, false, false, __builtin_return_address(0)); \
  }                                                               \
  EMU_NI void __tsan_write##n(void* p) {                          \
    emu::access(p, n, true, false, __builtin_return_address(0));  \
  }                                                               \
  EMU_NI void __tsan_volatile_read##n(void* p) {                  \
    emu::access(p, n, false, true, __builtin_return_address(0));  \
  }                                                               \
  EMU_NI void __tsan_volatile_write##n(void* p) {                 \
    emu::access(p, n, true, true, __builtin_return_address(0));   \
  }
EMU_TS(1)
EMU_TS(2) EMU_TS(4) EMU_TS(8) EMU_TS(16)
#define EMU_TU(n)                                                 \
  EMU_NI void __tsan_unaligned_read##n(void* p) {                 \
    emu::access(p, n, false, false, __builtin_return_address(0)); \
  }                                                               \
  EMU_NI void __tsan_unaligned_write##n(void* p) {                \
    emu::access(p, n, true, false, __builtin_return_address(0));  \
  }
    EMU_TU(2) EMU_TU(4) EMU_TU(8) EMU_TU(16) EMU_NI void __tsan_read_range(void* p, size_t n) {
  emu::access(p, n, false, false, __builtin_return_address(0));
}
EMU_NI void __tsan_write_range(void* p, size_t n) {
  emu::access(p, n, true, false, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#endif
}
#pragma GCC visibility pop
