// Memory: poison in what was never written, an image of each resident block's shared memory, and
// guard pages round global buffers.
#pragma once
#include "fibers.hpp"

namespace emu {
template <class F>
static EMU_NI void each_range(F f) {
  char* d = (char*)smem_raw;
  f(tls_lo, (size_t)(d - tls_lo));
  f(d, L.smem);
  f(d + EMU_SMEM_MAX, (size_t)(tls_hi - d - EMU_SMEM_MAX));
}
static EMU_NI void find_tls() {
  volatile unsigned char touch = smem_raw[0];
  (void)touch;
  dl_iterate_phdr(
      [](dl_phdr_info* i, size_t, void*) {
        for (int k = 0; k < i->dlpi_phnum; ++k)
          if (i->dlpi_phdr[k].p_type == PT_TLS && i->dlpi_tls_data) {
            char* a = (char*)i->dlpi_tls_data;
            size_t n = i->dlpi_phdr[k].p_memsz;
            if ((char*)smem_raw >= a && (char*)smem_raw < a + n) {
              tls_lo = a;
              tls_hi = a + n;
            }
          }
        return 0;
      },
      nullptr);
}
static EMU_NI void image(Block& b, bool save) {
  size_t o = 0;
  each_range([&](char* p, size_t n) {
    if (b.image.size() < o + n) b.image.resize(o + n, 0xff);
    save ? memcpy(&b.image[o], p, n) : memcpy(p, &b.image[o], n);
    o += n;
  });
}
static void segv(int, siginfo_t* si, void* uc) {
  if (!cur) {
    signal(SIGSEGV, SIG_DFL);
    return;
  }
  char* a = (char*)si->si_addr;
  auto it = bufs.upper_bound(a);
  char near[128] = "unknown buffer";
  if (it != bufs.begin()) {
    --it;
    snprintf(near, sizeof near, "%ld bytes past the end of the %zu-byte buffer %p",
             (long)(a - it->second.base - (long)it->second.bytes), it->second.bytes,
             (void*)it->second.base);
  }
  void* pc = nullptr;
#if defined(__x86_64__)
  pc = (void*)((ucontext_t*)uc)->uc_mcontext.gregs[REG_RIP];
#endif
  races.push_back({pc, pc, 0, 0, 0, 0, 8, a});
  fail("illegal memory access at %p: %s", a, near);
}
}  // namespace emu
