// The CUDA source of gpu_kernels.cpp's kernels: bodies, and what they share. What each computes stands in
// gpu_kernels.h; T is the half precision, capital names are constants.
#pragma once

namespace temper::gpu {

// Eight elements at once.
inline constexpr const char* kHeader = R"(
struct alignas(16) Eight {
  T at[8];
};
__device__ inline Eight load_eight(const T* from, size_t i) {
  return reinterpret_cast<const Eight*>(from)[i];
}
__device__ inline void store_eight(T* to, size_t i, const Eight& v) {
  reinterpret_cast<Eight*>(to)[i] = v;
}
)";

// A thread makes eight weights four times, a block's width apart.
inline constexpr const char* kDequantize = R"(
  const size_t first = size_t(blockIdx.x) * (4 * blockDim.x) + threadIdx.x;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const size_t i = first + n * blockDim.x;
    if (i >= size_t(eights)) return;
    unsigned long long packed;
    if constexpr (BITS == 8) packed = reinterpret_cast<const unsigned long long*>(words)[i];
    else if constexpr (BITS == 4) packed = words[i];
    else packed = reinterpret_cast<const unsigned short*>(words)[i];
    const float scale = float(scales[i * 8 / GROUP]);
    const float bias = float(biases[i * 8 / GROUP]);
    Eight y;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      y.at[k] = T(fmaf(float(unsigned(packed >> (k * BITS)) & ((1u << BITS) - 1)), scale, bias));
    }
    store_eight(out, i, y);
  }
)";

// The place of a gated product's sigmoid, and its slope there: gelu by its tanh form is x sigmoid(2 u) with
// tanh's argument u.
inline constexpr const char* kGateHeader = R"(
__device__ inline float gate_place(float x) {
  return GELU != 0 ? x * (1.5957691216f + 0.0713548162f * x * x) : x;
}
__device__ inline float gate_slope(float x) {
  return GELU != 0 ? 1.5957691216f + 3.0f * 0.0713548162f * x * x : 1.0f;
}
)";

inline constexpr const char* kGated = R"(
  const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size_t(rows) * columns / 8) return;
  const auto g = load_eight(gate, i);
  const auto u = load_eight(up, i);
  Eight y;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float a = float(g.at[k]);
    y.at[k] = T(a / (1.0f + __expf(-gate_place(a))) * float(u.at[k]));
  }
  store_eight(out, i, y);
)";

inline constexpr const char* kGatedGradient = R"(
  const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size_t(rows) * columns / 8) return;
  const auto g = load_eight(gate, i);
  const auto u = load_eight(up, i);
  const auto d = load_eight(cotangent, i);
  Eight dg, du;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float a = float(g.at[k]);
    const float s = 1.0f / (1.0f + __expf(-gate_place(a)));
    const float c = float(d.at[k]);
    du.at[k] = T(c * a * s);
    dg.at[k] = T(c * float(u.at[k]) * s * (1.0f + a * (1.0f - s) * gate_slope(a)));
  }
  store_eight(d_gate, i, dg);
  store_eight(d_up, i, du);
)";

// A block copies 8,192 of a part's elements.
inline constexpr const char* kJoinHeader = R"(
__device__ inline void copy_part(const T* from, T* to, int count, int block) {
  const int begin = block * 8192;
  const int end = begin + 8192 < count ? begin + 8192 : count;
  if (count % 8 == 0 && reinterpret_cast<size_t>(from) % 16 == 0 && reinterpret_cast<size_t>(to) % 16 == 0) {
    for (int i = begin / 8 + threadIdx.x; i < end / 8; i += blockDim.x) store_eight(to, i, load_eight(from, i));
  } else {
    for (int i = begin + threadIdx.x; i < end; i += blockDim.x) to[i] = from[i];
  }
}
)";

// Root mean square norm: a block a row, whose numbers a thread holds in registers, VECTORS eights of them.
inline constexpr const char* kNormHeader = R"(
__device__ inline float sum_of_block(float value) {
  __shared__ float sums[32];
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffff, value, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x % 32 < blockDim.x / 32 ? sums[threadIdx.x % 32] : 0.0f;
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffff, value, step);
  return value;
}
)";

inline constexpr const char* kNorm = R"(
  const T* from = x + size_t(blockIdx.x) * (8 * UNITS);
  T* to = out + size_t(blockIdx.x) * (8 * UNITS);
  Eight v[VECTORS];
  float squares = 0.0f;
#pragma unroll
  for (int n = 0; n < VECTORS; ++n) {
    const int i = threadIdx.x + n * blockDim.x;
    if (i < UNITS) {
      v[n] = load_eight(from, i);
#pragma unroll
      for (int k = 0; k < 8; ++k) squares += float(v[n].at[k]) * float(v[n].at[k]);
    }
  }
  const float root = rsqrtf(sum_of_block(squares) / (8 * UNITS) + eps);
#pragma unroll
  for (int n = 0; n < VECTORS; ++n) {
    const int i = threadIdx.x + n * blockDim.x;
    if (i < UNITS) {
      const auto w = load_eight(weight, i);
      Eight y;
#pragma unroll
      for (int k = 0; k < 8; ++k) y.at[k] = T(float(v[n].at[k]) * root * float(w.at[k]));
      store_eight(to, i, y);
    }
  }
)";

// With c = d weight and r = 1 / sqrt(mean(x^2) + eps): passed + r c - x r^3 mean(x c).
inline constexpr const char* kNormGradient = R"(
  const size_t row = size_t(blockIdx.x) * UNITS;
  Eight v[VECTORS];
  float c[VECTORS][8];
  float squares = 0.0f;
  float along = 0.0f;
#pragma unroll
  for (int n = 0; n < VECTORS; ++n) {
    const int i = threadIdx.x + n * blockDim.x;
    if (i < UNITS) {
      v[n] = load_eight(x, row + i);
      const auto w = load_eight(weight, i);
      const auto given = load_eight(d, row + i);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        c[n][k] = float(given.at[k]) * float(w.at[k]);
        squares += float(v[n].at[k]) * float(v[n].at[k]);
        along += float(v[n].at[k]) * c[n][k];
      }
    }
  }
  const float root = rsqrtf(sum_of_block(squares) / (8 * UNITS) + eps);
  __syncthreads();
  const float back = sum_of_block(along) / (8 * UNITS) * root * root * root;
#pragma unroll
  for (int n = 0; n < VECTORS; ++n) {
    const int i = threadIdx.x + n * blockDim.x;
    if (i < UNITS) {
      const auto other = load_eight(passed, row + i);
      Eight y;
#pragma unroll
      for (int k = 0; k < 8; ++k) y.at[k] = T(float(other.at[k]) + root * c[n][k] - float(v[n].at[k]) * back);
      store_eight(out, row + i, y);
    }
  }
)";

// One thread turns eight pairs, or copies eight features that are not turned.
inline constexpr const char* kRope = R"(
  constexpr int turned = K / 8;
  constexpr int units = turned + (D - 2 * K) / 8;
  const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size_t(rows) * H * units) return;
  const int unit = i % units;
  const size_t head = i / units;
  const T* from = x + head * D;
  T* to = out + head * D;
  if (unit >= turned) {
    const int at = 2 * K / 8 + unit - turned;
    store_eight(to, at, load_eight(from, at));
    return;
  }
  const size_t angles = head / H * K + unit * 8;
  const auto a = load_eight(from, unit);
  const auto b = load_eight(from + K, unit);
  Eight left, right;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float c = cos_table[angles + k];
    const float s = BACK != 0 ? -sin_table[angles + k] : sin_table[angles + k];
    left.at[k] = T(float(a.at[k]) * c - float(b.at[k]) * s);
    right.at[k] = T(float(b.at[k]) * c + float(a.at[k]) * s);
  }
  store_eight(to, unit, left);
  store_eight(to + K, unit, right);
)";

// One block a row: the largest logit and the sum of exponentials in one pass, the gradient in a second, which
// finds the row in the cache.
inline constexpr const char* kCrossEntropy = R"(
  const float LOWEST = __int_as_float(0xff800000);
  const size_t row = blockIdx.x;
  const int count = columns;
  const T* from = logits + row * count;
  T* to = gradient + row * count;
  const float weight = weights[row];
  const int target = targets[row];
  if (weight == 0.0f) {
    Eight zero;
#pragma unroll
    for (int k = 0; k < 8; ++k) zero.at[k] = T(0.0f);
    for (int i = threadIdx.x; i < count / 8; i += blockDim.x) store_eight(to, i, zero);
    if (threadIdx.x == 0) losses[row] = 0.0f;
    return;
  }
  float top = LOWEST;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < count / 8; i += blockDim.x) {
    const auto v = load_eight(from, i);
    float here = float(v.at[0]);
#pragma unroll
    for (int k = 1; k < 8; ++k) here = fmaxf(here, float(v.at[k]));
    const float next = fmaxf(top, here);
    sum *= __expf(top - next);
#pragma unroll
    for (int k = 0; k < 8; ++k) sum += __expf(float(v.at[k]) - next);
    top = next;
  }
  __shared__ float tops[32];
  __shared__ float sums[32];
  auto merge = [&](float other_top, float other_sum) {
    const float next = fmaxf(top, other_top);
    if (next > LOWEST) {
      sum = sum * __expf(top - next) + other_sum * __expf(other_top - next);
      top = next;
    }
  };
  for (int step = 16; step > 0; step /= 2) {
    const float other_top = __shfl_xor_sync(0xffffffff, top, step);
    const float other_sum = __shfl_xor_sync(0xffffffff, sum, step);
    merge(other_top, other_sum);
  }
  if (threadIdx.x % 32 == 0) {
    tops[threadIdx.x / 32] = top;
    sums[threadIdx.x / 32] = sum;
  }
  __syncthreads();
  top = threadIdx.x % 32 < blockDim.x / 32 ? tops[threadIdx.x % 32] : LOWEST;
  sum = threadIdx.x % 32 < blockDim.x / 32 ? sums[threadIdx.x % 32] : 0.0f;
  for (int step = 16; step > 0; step /= 2) {
    const float other_top = __shfl_xor_sync(0xffffffff, top, step);
    const float other_sum = __shfl_xor_sync(0xffffffff, sum, step);
    merge(other_top, other_sum);
  }
  const float log_sum = top + logf(sum);
  if (threadIdx.x == 0) losses[row] = weight * (log_sum - float(from[target]));
  for (int i = threadIdx.x; i < count / 8; i += blockDim.x) {
    const auto v = load_eight(from, i);
    Eight d;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const float one = i * 8 + k == target ? 1.0f : 0.0f;
      d.at[k] = T(weight * (__expf(float(v.at[k]) - log_sum) - one));
    }
    store_eight(to, i, d);
  }
)";

} // namespace temper::gpu
