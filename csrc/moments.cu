// Class moments of the features at labelled cells, sample after sample (Welford 1962).

__device__ __forceinline__ double widened(double value) { return value; }
__device__ __forceinline__ double widened(float value) { return value; }

struct Half {
  unsigned short bits;
};
struct BFloat16 {
  unsigned short bits;
};

__device__ __forceinline__ double widened(BFloat16 value) {
  return __uint_as_float((unsigned)value.bits << 16);
}

__device__ __forceinline__ double widened(Half value) {
  const unsigned sign = (value.bits & 0x8000u) << 16;
  const unsigned exponent = (value.bits >> 10) & 31u, fraction = value.bits & 1023u;
  if (exponent == 0) {  // zero and subnormal numbers, in units of 2^-24
    const float magnitude = (float)fraction * 5.9604644775390625e-8f;
    return sign ? -magnitude : magnitude;
  }
  const unsigned widened_exponent = exponent == 31 ? 255u : exponent + 112u;
  return __uint_as_float(sign | widened_exponent << 23 | fraction << 13);
}

// A thread does one channel and the class blockIdx.y, in the order of the samples. Strides are in
// elements; cells [N, 3] are rows (batch, y, x); count, mean and m2 [L, C] are updated in place.
template <typename T>
__device__ void update(const T* __restrict__ features, long long batch_stride,
                       long long channel_stride, long long y_stride, long long x_stride,
                       const long long* __restrict__ cells, const long long* __restrict__ labels,
                       int n_samples, int n_channels, long long* count, double* mean, double* m2) {
  const int channel = blockIdx.x * blockDim.x + threadIdx.x;
  const int label = blockIdx.y;
  if (channel >= n_channels) return;
  const long long entry = (long long)label * n_channels + channel;
  long long n = count[entry];
  double average = mean[entry], squares = m2[entry];
  for (int sample = 0; sample < n_samples; ++sample) {
    if (labels[sample] != label) continue;
    const long long* cell = cells + 3LL * sample;
    const double value = widened(features[cell[0] * batch_stride + channel * channel_stride +
                                          cell[1] * y_stride + cell[2] * x_stride]);
    if (value - value != 0.0) continue;  // NaN or infinite
    n += 1;
    const double delta = value - average;
    average += delta / (double)n;
    squares += delta * (value - average);
  }
  count[entry] = n;
  mean[entry] = average;
  m2[entry] = squares;
}

extern "C" __global__ void __launch_bounds__(128)
    gather_class_moments_float16(const unsigned short* features, long long batch_stride,
                                 long long channel_stride, long long y_stride, long long x_stride,
                                 const long long* cells, const long long* labels, int n_samples,
                                 int n_channels, long long* count, double* mean, double* m2) {
  update(reinterpret_cast<const Half*>(features), batch_stride, channel_stride, y_stride, x_stride,
         cells, labels, n_samples, n_channels, count, mean, m2);
}

extern "C" __global__ void __launch_bounds__(128)
    gather_class_moments_bfloat16(const unsigned short* features, long long batch_stride,
                                  long long channel_stride, long long y_stride, long long x_stride,
                                  const long long* cells, const long long* labels, int n_samples,
                                  int n_channels, long long* count, double* mean, double* m2) {
  update(reinterpret_cast<const BFloat16*>(features), batch_stride, channel_stride, y_stride,
         x_stride, cells, labels, n_samples, n_channels, count, mean, m2);
}

extern "C" __global__ void __launch_bounds__(128)
    gather_class_moments_float32(const float* features, long long batch_stride,
                                 long long channel_stride, long long y_stride, long long x_stride,
                                 const long long* cells, const long long* labels, int n_samples,
                                 int n_channels, long long* count, double* mean, double* m2) {
  update(features, batch_stride, channel_stride, y_stride, x_stride, cells, labels, n_samples,
         n_channels, count, mean, m2);
}

extern "C" __global__ void __launch_bounds__(128)
    gather_class_moments_float64(const double* features, long long batch_stride,
                                 long long channel_stride, long long y_stride, long long x_stride,
                                 const long long* cells, const long long* labels, int n_samples,
                                 int n_channels, long long* count, double* mean, double* m2) {
  update(features, batch_stride, channel_stride, y_stride, x_stride, cells, labels, n_samples,
         n_channels, count, mean, m2);
}
