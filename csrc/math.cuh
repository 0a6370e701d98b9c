// exp and log in float64 from operations that IEEE 754 rounds correctly, in one order: the bits of
// actprune_gpu/backends/cpu/math.py. Compile without fused multiply-adds.
#pragma once

__device__ __forceinline__ double exp_exact(double x) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  x = x > -708.0 ? x : -708.0;
  const double shifted = x * 1.4426950408889634 + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
  double p = 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const unsigned long long power = (unsigned long long)__double_as_longlong(shifted) << 52;
  return __longlong_as_double((long long)((unsigned long long)__double_as_longlong(p) + power));
}

__device__ __forceinline__ double log_exact(double x) {
  const long long bits = __double_as_longlong(x);
  double n = (double)((bits >> 52) - 1023);
  double m = __longlong_as_double((bits & 0x000FFFFFFFFFFFFFLL) | 0x3FF0000000000000LL);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    n += 1.0;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double t = s * s;
  double p = 1.0 / 21.0;
  p = p * t + 1.0 / 19.0;
  p = p * t + 1.0 / 17.0;
  p = p * t + 1.0 / 15.0;
  p = p * t + 1.0 / 13.0;
  p = p * t + 1.0 / 11.0;
  p = p * t + 1.0 / 9.0;
  p = p * t + 1.0 / 7.0;
  p = p * t + 1.0 / 5.0;
  p = p * t + 1.0 / 3.0;
  p = p * t + 1.0;
  return n * 0.6931471803691238 + (n * 1.9082149292705877e-10 + 2.0 * s * p);
}
