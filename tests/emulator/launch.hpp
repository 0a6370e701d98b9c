// Warp collectives, atomics, and kernels by name with the types of their parameters.
#pragma once
#include "schedule.hpp"

namespace emu {
template <class T>
uint64_t bits(T v) {
  static_assert(sizeof(T) <= 8);
  uint64_t b = 0;
  memcpy(&b, &v, sizeof v);
  return b;
}
template <class T>
T unbits(uint64_t b) {
  T v;
  memcpy(&v, &b, sizeof v);
  return v;
}
template <class T>
T shfl(unsigned mask, T v, int src, bool ok, int line) {
  const uint64_t* s = coll(mask, bits(v), "__shfl_sync", line);
  if (!ok) return v;
  if (!(mask >> (src & 31) & 1)) return unbits<T>(~0ull);
  return unbits<T>(s[src & 31]);
}
template <class T, class F>
T reduce(unsigned mask, T v, int line, F f) {
  const uint64_t* s = coll(mask, bits(v), "__reduce_sync", line);
  bool first = true;
  T a{};
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1) {
      T x = unbits<T>(s[i]);
      a = first ? x : f(a, x);
      first = false;
    }
  return a;
}
static inline unsigned ballot(unsigned mask, int p, int line) {
  const uint64_t* s = coll(mask, p != 0, "__ballot_sync", line);
  unsigned r = 0;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1 && s[i]) r |= 1u << i;
  return r;
}
template <class T>
unsigned match(unsigned mask, T v, int line) {
  const uint64_t* s = coll(mask, bits(v), "__match_any_sync", line);
  unsigned r = 0;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1 && s[i] == bits(v)) r |= 1u << i;
  return r;
}
template <class T, class F>
EMU_NI T rmw(T* p, F f) {
  note_atomic(p, sizeof(T), __builtin_return_address(0));
  T o = *p;
  *p = f(o);
  maybe_preempt();
  return o;
}
template <class T>
struct id {
  using type = T;
};
template <class A>
std::string code() {
  using B = std::remove_cv_t<A>;
  if constexpr (std::is_pointer_v<B>)
    return "*" + code<std::remove_pointer_t<B>>();
  else
    return std::string(std::is_floating_point_v<B> ? "f"
                       : std::is_signed_v<B>       ? "i"
                       : std::is_integral_v<B>     ? "u"
                                                   : "V") +
           std::to_string(sizeof(B));
}
template <class... A>
std::string sig(void (*)(A...)) {
  std::string s;
  ((s += code<A>() + ","), ...);
  return s;
}
template <class... A, size_t... I>
void call(void (*k)(A...), void** a, std::index_sequence<I...>) {
  k(*(std::remove_const_t<A>*)a[I]...);
}
template <class... A>
void bind(void (*k)(A...), void** a) {
  L.body = [k, a] { call(k, a, std::index_sequence_for<A...>()); };
}
struct Kern {
  const char* sig;
  void (*bind)(void**);
};
static std::map<std::string, Kern>& table() {
  static std::map<std::string, Kern> t;
  return t;
}
struct Reg {
  Reg(const char* n, Kern k) { table()[n] = k; }
};
}  // namespace emu
#define EMU_EXPORT(k)                            \
  static std::string emu_sig_##k = emu::sig(&k); \
  static emu::Reg emu_reg_##k(#k, {emu_sig_##k.c_str(), [](void** a) { emu::bind(&k, a); }});
