// CUDA C++ for g++, as far as the kernels of csrc/ need it: this header comes before a kernel's
// source, and EMU_EXPORT(kernel) for each kernel behind it.
#pragma once
#include <math.h>  // unlike <cmath>, with float overloads of sqrt and others in the global namespace
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <type_traits>
#include <utility>

#include "runtime.hpp"

#define __global__
#define __device__
#define __forceinline__ inline
#define __constant__ static
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// Static in a function, legal behind `extern`, and apart from all else in memory: the emulator
// keeps a copy for each block.
#define __shared__ thread_local

#define threadIdx (emu::here->thread)
#define blockIdx (emu::here->block)
#define blockDim (emu::block_shape)
#define gridDim (emu::grid_shape)
constexpr int warpSize = emu::kLanes;

#define EMU_VECTORS(T, N)                                                         \
  struct alignas(2 * sizeof(T)) N##2 { T x, y; };                                 \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) N##4 { T x, y, z, w; }; \
  inline N##2 make_##N##2(T x, T y) { return {x, y}; }                            \
  inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTORS(float, float)
EMU_VECTORS(double, double)
EMU_VECTORS(int, int)
EMU_VECTORS(unsigned, uint)
EMU_VECTORS(long long, longlong)
EMU_VECTORS(unsigned long long, ulonglong)

namespace emu {

#ifdef __SANITIZE_THREAD__
const bool racing = true;
#else
const bool racing = false;
#endif

// The first bytes of a value as another type, zeros behind them.
template <typename To, typename From>
To bits_as(From value) {
  To result = 0;
  memcpy(&result, &value, sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From));
  return result;
}

// The value that lane `source` gave; the lane's own one where there is no such source.
template <typename T>
T shuffle(const Site* site, unsigned mask, T value, int source, bool exists) {
  static_assert(std::is_arithmetic_v<T>);
  const uint64_t* given = exchange(mask, bits_as<uint64_t>(value), "__shfl_sync", site);
  if (!exists) return value;
  // What a lane outside of the mask gives is undefined.
  return bits_as<T>(mask >> (source % kLanes) & 1 ? given[source % kLanes] : ~0ull);
}

template <typename T>
T shuffle_from(const Site* site, unsigned mask, T value, int source, int width = kLanes) {
  const int first = here->lane & ~(width - 1);
  return shuffle(site, mask, value, first + (source & (width - 1)), true);
}

template <typename T>
T shuffle_down(const Site* site, unsigned mask, T value, unsigned distance, int width = kLanes) {
  const unsigned lane = here->lane;
  return shuffle(site, mask, value, lane + distance, lane % width + distance < (unsigned)width);
}

template <typename T>
T shuffle_up(const Site* site, unsigned mask, T value, unsigned distance, int width = kLanes) {
  const unsigned lane = here->lane;
  return shuffle(site, mask, value, lane - distance, lane % width >= distance);
}

template <typename T>
T shuffle_xor(const Site* site, unsigned mask, T value, int bits, int width = kLanes) {
  const int lane = here->lane, source = lane ^ bits;
  return shuffle(site, mask, value, source, source / width <= lane / width);
}

inline unsigned ballot(const Site* site, unsigned mask, bool predicate) {
  const uint64_t* given = exchange(mask, predicate, "a vote", site);
  unsigned result = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (mask >> lane & 1 && given[lane]) result |= 1u << lane;
  }
  return result;
}

inline bool any(const Site* site, unsigned mask, bool predicate) {
  return ballot(site, mask, predicate) != 0;
}

inline bool all(const Site* site, unsigned mask, bool predicate) {
  return ballot(site, mask, predicate) == mask;
}

template <typename T, typename Combine>
T reduce(const Site* site, unsigned mask, T value, Combine combine) {
  static_assert(std::is_integral_v<T> && sizeof(T) == 4, "CUDA has these for 32 bits only");
  const uint64_t* given = exchange(mask, bits_as<uint64_t>(value), "__reduce_sync", site);
  T result = value;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (mask >> lane & 1 && lane != (int)here->lane) {
      result = combine(result, bits_as<T>(given[lane]));
    }
  }
  return result;
}

template <typename T>
T reduce_add(const Site* site, unsigned mask, T value) {
  return reduce(site, mask, value, [](T a, T b) { return (T)((unsigned)a + (unsigned)b); });
}

template <typename T>
T reduce_min(const Site* site, unsigned mask, T value) {
  return reduce(site, mask, value, [](T a, T b) { return b < a ? b : a; });
}

template <typename T>
T reduce_max(const Site* site, unsigned mask, T value) {
  return reduce(site, mask, value, [](T a, T b) { return a < b ? b : a; });
}

// Not instrumented: the race detector hears of atomic operations here only. Not inlined, so that
// the return address is in the kernel.
template <typename T, typename Update>
__attribute__((noinline, no_sanitize("thread"))) T update(T* address, Update updated) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  before_atomic(address, sizeof(T), __builtin_return_address(0));
  const T old = *address, changed = updated(old);
  *address = changed;
  after_atomic(memcmp(&old, &changed, sizeof(T)) != 0);
  return old;
}

// A parameter's type as NumPy writes it, "f8,", with a star in front for pointers to it; "V" is a
// struct. Returns the number of characters.
template <typename T>
int write_type(char* to) {
  using Value = std::remove_cv_t<std::remove_pointer_t<T>>;
  const char kind = std::is_floating_point_v<Value> ? 'f'
                    : !std::is_integral_v<Value>    ? 'V'
                    : std::is_signed_v<Value>       ? 'i'
                                                    : 'u';
  return sprintf(to, "%s%c%zu,", std::is_pointer_v<T> ? "*" : "", kind, sizeof(Value));
}

template <typename... T>
const char* parameters(void (*)(T...)) {
  static char text[16 * sizeof...(T) + 1];
  char* end = text;
  ((end += write_type<T>(end)), ...);
  return text;
}

template <typename... T, size_t... I>
void call(void (*kernel)(T...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_const_t<T>*>(arguments[I])...);
}

template <typename... T>
void call(void (*kernel)(T...), void** arguments) {
  call(kernel, arguments, std::index_sequence_for<T...>());
}

}  // namespace emu

#define EMU_PUBLIC extern "C" __attribute__((visibility("default")))
#define EMU_EXPORT(kernel)                                                               \
  EMU_PUBLIC void emu_call_##kernel(void** arguments) { emu::call(&kernel, arguments); } \
  EMU_PUBLIC const char* emu_parameters_##kernel() { return emu::parameters(&kernel); }

#define EMU_SITE                                         \
  ([]() -> const emu::Site* {                            \
    static constexpr emu::Site site{__FILE__, __LINE__}; \
    return &site;                                        \
  }())

#define __syncthreads() ((void)emu::sync_block(EMU_SITE, 0))
#define __syncthreads_count(predicate) emu::sync_block(EMU_SITE, (predicate) ? 1 : 0)
#define __syncthreads_or(predicate) (emu::sync_block(EMU_SITE, (predicate) ? 1 : 0) > 0)
#define __syncthreads_and(predicate) (emu::sync_block(EMU_SITE, (predicate) ? 0 : 1) == 0)
#define __syncwarp(...) emu::sync_warp(EMU_SITE __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_sync(...) emu::shuffle_from(EMU_SITE, __VA_ARGS__)
#define __shfl_down_sync(...) emu::shuffle_down(EMU_SITE, __VA_ARGS__)
#define __shfl_up_sync(...) emu::shuffle_up(EMU_SITE, __VA_ARGS__)
#define __shfl_xor_sync(...) emu::shuffle_xor(EMU_SITE, __VA_ARGS__)
#define __ballot_sync(...) emu::ballot(EMU_SITE, __VA_ARGS__)
#define __any_sync(...) emu::any(EMU_SITE, __VA_ARGS__)
#define __all_sync(...) emu::all(EMU_SITE, __VA_ARGS__)
#define __reduce_add_sync(...) emu::reduce_add(EMU_SITE, __VA_ARGS__)
#define __reduce_min_sync(...) emu::reduce_min(EMU_SITE, __VA_ARGS__)
#define __reduce_max_sync(...) emu::reduce_max(EMU_SITE, __VA_ARGS__)

inline void __threadfence() { emu::fence(); }
inline void __nanosleep(unsigned) { emu::spin(); }
inline void __trap() { emu::fail("__trap()"); }

// remove_cv_t keeps T from being deduced from the value: it converts, as in CUDA.
#define EMU_ATOMIC(name, new_value)                                                     \
  template <typename T>                                                                 \
  __attribute__((always_inline)) inline T name(T* address, std::remove_cv_t<T> value) { \
    return emu::update(address, [value](T old) -> T { return new_value; });             \
  }
EMU_ATOMIC(atomicAdd, old + value)
EMU_ATOMIC(atomicSub, old - value)
EMU_ATOMIC(atomicExch, ((void)old, value))
EMU_ATOMIC(atomicMin, value < old ? value : old)
EMU_ATOMIC(atomicMax, old < value ? value : old)
EMU_ATOMIC(atomicAnd, T(old& value))
EMU_ATOMIC(atomicOr, old | value)
EMU_ATOMIC(atomicXor, old ^ value)

template <typename T>
__attribute__((always_inline)) inline T atomicCAS(T* address, std::remove_cv_t<T> expected,
                                                  std::remove_cv_t<T> value) {
  return emu::update(address, [=](T old) -> T { return old == expected ? value : old; });
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}

// Of floating-point numbers the one that is not NaN, as in CUDA.
template <typename A, typename B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return fmin((T)a, (T)b);
  return (T)b < (T)a ? (T)b : (T)a;
}

template <typename A, typename B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return fmax((T)a, (T)b);
  return (T)a < (T)b ? (T)b : (T)a;
}

inline int __float_as_int(float x) { return emu::bits_as<int>(x); }
inline unsigned __float_as_uint(float x) { return emu::bits_as<unsigned>(x); }
inline float __int_as_float(int x) { return emu::bits_as<float>(x); }
inline float __uint_as_float(unsigned x) { return emu::bits_as<float>(x); }
inline long long __double_as_longlong(double x) { return emu::bits_as<long long>(x); }
inline double __longlong_as_double(long long x) { return emu::bits_as<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
