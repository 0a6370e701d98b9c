// What kernels see: CUDA's built-in variables, barriers, shuffles, atomics and intrinsics.
#pragma once
#include "launch.hpp"

#define EMU_SITE \
  (__LINE__ << 12 | (__COUNTER__ & 4095))  // two barriers on one source line stay distinguishable
#define threadIdx (emu::cur->tid)
#define blockIdx (emu::cur->blk->idx)
#define blockDim (emu::L.block)
#define gridDim (emu::L.grid)
#define __syncthreads() ((void)emu::sync_block(EMU_SITE, 0))
#define __syncthreads_count(p) emu::sync_block(EMU_SITE, (p) != 0)
#define __syncthreads_or(p) (emu::sync_block(EMU_SITE, (p) != 0) != 0)
inline void emu_syncwarp(int l, unsigned m = 0xffffffffu) { emu::coll(m, 0, "__syncwarp", l); }
#define __syncwarp(...) emu_syncwarp(EMU_SITE __VA_OPT__(, ) __VA_ARGS__)
template <class T>
T emu_shfl(int l, unsigned m, T v, int s, int w = 32) {
  int b = emu::cur->lane & ~(w - 1);
  return emu::shfl(m, v, b + (s & (w - 1)), true, l);
}
template <class T>
T emu_down(int l, unsigned m, T v, unsigned d, int w = 32) {
  int i = emu::cur->lane;
  return emu::shfl(m, v, i + d, (i & (w - 1)) + (int)d < w, l);
}
template <class T>
T emu_up(int l, unsigned m, T v, unsigned d, int w = 32) {
  int i = emu::cur->lane;
  return emu::shfl(m, v, i - d, (i & (w - 1)) >= (int)d, l);
}
template <class T>
T emu_xor(int l, unsigned m, T v, int x, int w = 32) {
  int i = emu::cur->lane, s = i ^ x;
  return emu::shfl(m, v, s, (s & ~(w - 1)) <= (i & ~(w - 1)), l);
}
#define __shfl_sync(...) emu_shfl(EMU_SITE, __VA_ARGS__)
#define __shfl_down_sync(...) emu_down(EMU_SITE, __VA_ARGS__)
#define __shfl_up_sync(...) emu_up(EMU_SITE, __VA_ARGS__)
#define __shfl_xor_sync(...) emu_xor(EMU_SITE, __VA_ARGS__)
#define __ballot_sync(m, p) emu::ballot(m, (p) ? 1 : 0, EMU_SITE)
#define __any_sync(m, p) (emu::ballot(m, (p) ? 1 : 0, EMU_SITE) != 0)
#define __all_sync(m, p) (emu::ballot(m, (p) ? 1 : 0, EMU_SITE) == (m))
#define __match_any_sync(m, v) emu::match(m, v, EMU_SITE)
#define __reduce_add_sync(m, v) emu::reduce(m, v, EMU_SITE, [](auto a, auto b) { return a + b; })
#define __reduce_min_sync(m, v) \
  emu::reduce(m, v, EMU_SITE, [](auto a, auto b) { return b < a ? b : a; })
#define __reduce_max_sync(m, v) \
  emu::reduce(m, v, EMU_SITE, [](auto a, auto b) { return a < b ? b : a; })
#define __reduce_or_sync(m, v) emu::reduce(m, v, EMU_SITE, [](auto a, auto b) { return a | b; })
#define EMU_AT(name, expr)                              \
  template <class T>                                    \
  inline T name(T* p, typename emu::id<T>::type v) {    \
    return emu::rmw(p, [v](T o) -> T { return expr; }); \
  }
EMU_AT(atomicAdd, o + v)
EMU_AT(atomicSub, o - v) EMU_AT(atomicExch, v) EMU_AT(atomicMin, v < o ? v : o)
    EMU_AT(atomicMax, o < v ? v : o) EMU_AT(atomicAnd, o& v) EMU_AT(atomicOr, o | v)
        EMU_AT(atomicXor, o ^ v) EMU_AT(atomicInc, o >= v ? 0 : o + 1) template <class T>
        inline T atomicCAS(T* p, typename emu::id<T>::type c, typename emu::id<T>::type v) {
  return emu::rmw(p, [=](T o) -> T { return o == c ? v : o; });
}
inline void __threadfence() { emu::fence(); }
inline void __threadfence_block() { emu::fence(); }
inline void __nanosleep(unsigned) { emu::spin_yield(); }
inline void __trap() { emu::fail("__trap()"); }
template <class T>
inline T __ldg(const T* p) {
  return *p;
}
template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using C = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<C>)
    return std::fmin((C)a, (C)b);
  else
    return (C)b < (C)a ? (C)b : (C)a;
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using C = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<C>)
    return std::fmax((C)a, (C)b);
  else
    return (C)a < (C)b ? (C)b : (C)a;
}
#define EMU_OPQ(x)      \
  ({                    \
    auto r_ = (x);      \
    asm("" : "+x"(r_)); \
    r_;                 \
  })  // keep -ffp-contract from fusing explicitly rounded operations
inline float __fmul_rn(float a, float b) { return EMU_OPQ(a * b); }
inline float __fadd_rn(float a, float b) { return EMU_OPQ(a + b); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dmul_rn(double a, double b) { return EMU_OPQ(a * b); }
inline double __dadd_rn(double a, double b) { return EMU_OPQ(a + b); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline double rsqrt(double x) { return 1. / sqrt(x); }
inline int __float_as_int(float x) { return emu::unbits<int>(emu::bits(x)); }
inline unsigned __float_as_uint(float x) { return emu::unbits<unsigned>(emu::bits(x)); }
inline float __int_as_float(int x) { return emu::unbits<float>(emu::bits(x)); }
inline float __uint_as_float(unsigned x) { return emu::unbits<float>(emu::bits(x)); }
inline long long __double_as_longlong(double x) { return (long long)emu::bits(x); }
inline double __longlong_as_double(long long x) { return emu::unbits<double>((uint64_t)x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
