// What the host kernels share: an exponential that compilers vectorize, and one source for several
// instruction sets.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

// The function is compiled for each of these and the best one chosen when the program starts: by what the
// processor can do. A model's name (arch=haswell) would leave out every other maker's.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#if __GNUC__ >= 12
#define TEMPER_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TEMPER_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define TEMPER_CLONES
#endif
#define TEMPER_INLINE inline __attribute__((always_inline))

namespace temper::host {

// e^x to about 2 units in the last place; 0 below -87, e^88 above 88, NaN for NaN.
// Source: the range reduction and polynomial of Cephes' expf (Moshier 1992).
TEMPER_INLINE float fast_exp(float x) {
  const float bounded = x > 88.0F ? 88.0F : x;
  // Adding and taking away 1.5 * 2^23 rounds to the nearest whole number.
  const float shifted = bounded * 1.44269504F + 12582912.0F;
  const float n = shifted - 12582912.0F;
  const float r = (bounded - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  const float e = p * r * r + r + 1.0F;
  const auto exponent = (std::bit_cast<std::int32_t>(shifted) + 127) << 23;
  const float power = e * std::bit_cast<float>(exponent);
  return x < -87.0F ? 0.0F : power;
}

TEMPER_INLINE float sigmoid(float x) {
  return 1.0F / (1.0F + fast_exp(-x));
}

// Sums term(0) ... term(count - 1) in 16 lanes: a fixed order that the compiler can vectorize.
template <class Term>
TEMPER_INLINE float lane_sum(std::size_t count, const Term& term) {
  float lanes[16] = {};
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (std::size_t j = 0; j < 16; ++j) {
      lanes[j] += term(i + j);
    }
  }
  for (; i < count; ++i) {
    lanes[i % 16] += term(i);
  }
  float total = 0.0F;
  for (const float lane : lanes) {
    total += lane;
  }
  return total;
}

// The largest of x[0] ... x[count - 1], count > 0; NaN may or may not be passed over.
TEMPER_INLINE float lane_max(const float* x, std::size_t count) {
  float lanes[16];
  for (float& lane : lanes) {
    lane = x[0];
  }
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (std::size_t j = 0; j < 16; ++j) {
      lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
    }
  }
  for (; i < count; ++i) {
    lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
  }
  float largest = lanes[0];
  for (const float lane : lanes) {
    largest = lane > largest ? lane : largest;
  }
  return largest;
}

} // namespace temper::host
