// The CUDA source of gpu_kernels.cpp's kernels: bodies, as fast::cuda_kernel takes them, and what they share.
// What each computes stands in gpu_kernels.h; T is the half precision, capital names are template arguments.
#pragma once

namespace temper::gpu {

// Eight elements at once.
inline constexpr const char* kHeader = R"(
template <typename T>
struct alignas(16) Eight {
  T at[8];
};
template <typename T>
__device__ inline Eight<T> load_eight(const T* from, size_t i) {
  return reinterpret_cast<const Eight<T>*>(from)[i];
}
template <typename T>
__device__ inline void store_eight(T* to, size_t i, const Eight<T>& v) {
  reinterpret_cast<Eight<T>*>(to)[i] = v;
}
)";

// acc[k][j] += (narrow factor)[row + k][8 at + j].
inline constexpr const char* kLowRankHeader = R"(
template <int R, int ROWS, bool ALIGNED, typename T>
__device__ inline void add_product(float (&acc)[ROWS][8], const T* narrow, int stride, size_t row, size_t last,
                                   const T* factor, int columns, int at) {
#pragma unroll
  for (int begin = 0; begin < R; begin += 8) {
    // Eight of a row's narrow values in one load where they lie so.
    Eight<T> s[ROWS];
#pragma unroll
    for (int k = 0; k < ROWS; ++k) {
      const T* from = narrow + (row + k < last ? row + k : last) * stride + begin;
      if (ALIGNED) {
        s[k] = load_eight(from, 0);
      } else {
#pragma unroll
        for (int r = 0; r < 8; ++r) s[k].at[r] = begin + r < R ? from[r] : T(0.0f);
      }
    }
#pragma unroll
    for (int r = 0; r < 8; ++r) {
      if (begin + r >= R) break;
      const auto b = load_eight(factor + size_t(begin + r) * columns, at);
      float wide[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) wide[j] = float(b.at[j]);
#pragma unroll
      for (int k = 0; k < ROWS; ++k) {
        const float value = float(s[k].at[r]);
#pragma unroll
        for (int j = 0; j < 8; ++j) acc[k][j] += value * wide[j];
      }
    }
  }
}
template <int ROWS, typename T>
__device__ inline void add_rows(float (&acc)[ROWS][8], const T* base, size_t row, size_t last, int columns, int at) {
#pragma unroll
  for (int k = 0; k < ROWS; ++k) {
    const auto v = load_eight(base + (row + k < last ? row + k : last) * columns, at);
#pragma unroll
    for (int j = 0; j < 8; ++j) acc[k][j] += float(v.at[j]);
  }
}
)";

// Where a thread of the kernels over rows and columns stands: eight columns of ROWS rows.
inline constexpr const char* kPlace = R"(
  const int blocks = (base_shape[1] / 8 + blockDim.x - 1) / blockDim.x;
  const int columns = base_shape[1];
  const int at = blockIdx.x % blocks * blockDim.x + threadIdx.x;
  const size_t row = size_t(blockIdx.x / blocks) * ROWS;
  const size_t last = base_shape[0] - 1;
  if (at >= columns / 8 || row > last) return;
)";

inline constexpr const char* kAddLowRank = R"(
  float acc[ROWS][8] = {};
  add_rows<ROWS>(acc, base, row, last, columns, at);
  if (BASES > 1) add_rows<ROWS>(acc, base2, row, last, columns, at);
  if (BASES > 2) add_rows<ROWS>(acc, base3, row, last, columns, at);
  add_product<R, ROWS, ALIGNED>(acc, narrow + FIRST, narrow_shape[1], row, last, factor, columns, at);
#pragma unroll
  for (int k = 0; k < ROWS; ++k) {
    Eight<T> y;
#pragma unroll
    for (int j = 0; j < 8; ++j) y.at[j] = T(acc[k][j]);
    if (row + k <= last) store_eight(out + (row + k) * columns, at, y);
  }
)";

inline constexpr const char* kAdaptedSwiglu = R"(
  float g[ROWS][8] = {};
  float u[ROWS][8] = {};
  add_rows<ROWS>(g, base, row, last, columns, at);
  add_rows<ROWS>(u, up, row, last, columns, at);
  add_product<GATE_R, ROWS, ALIGNED>(g, narrow + GATE_FIRST, narrow_shape[1], row, last, gate_factor, columns, at);
  add_product<UP_R, ROWS, ALIGNED>(u, narrow + UP_FIRST, narrow_shape[1], row, last, up_factor, columns, at);
#pragma unroll
  for (int k = 0; k < ROWS; ++k) {
    Eight<T> y;
#pragma unroll
    for (int j = 0; j < 8; ++j) y.at[j] = T(g[k][j] / (1.0f + __expf(-g[k][j])) * u[k][j]);
    if (row + k <= last) store_eight(out + (row + k) * columns, at, y);
  }
)";

inline constexpr const char* kAdaptedSwigluGradient = R"(
  float g[ROWS][8] = {};
  float u[ROWS][8] = {};
  float d[ROWS][8] = {};
  add_rows<ROWS>(g, base, row, last, columns, at);
  add_rows<ROWS>(u, up, row, last, columns, at);
  add_rows<ROWS>(d, cotangent, row, last, columns, at);
  add_product<GATE_R, ROWS, ALIGNED>(g, narrow + GATE_FIRST, narrow_shape[1], row, last, gate_factor, columns, at);
  add_product<UP_R, ROWS, ALIGNED>(u, narrow + UP_FIRST, narrow_shape[1], row, last, up_factor, columns, at);
  add_product<D_R, ROWS, D_ALIGNED>(d, d_narrow, d_narrow_shape[1], row, last, d_factor, columns, at);
#pragma unroll
  for (int k = 0; k < ROWS; ++k) {
    Eight<T> dg, du, y;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float a = g[k][j];
      const float s = 1.0f / (1.0f + __expf(-a));
      du.at[j] = T(d[k][j] * a * s);
      dg.at[j] = T(d[k][j] * u[k][j] * s * (1.0f + a * (1.0f - s)));
      y.at[j] = T(a * s * u[k][j]);
    }
    if (row + k > last) continue;
    store_eight(d_gate + (row + k) * columns, at, dg);
    store_eight(d_up + (row + k) * columns, at, du);
    store_eight(out + (row + k) * columns, at, y);
  }
)";

inline constexpr const char* kSwiglu = R"(
  const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size_t(gate_shape[0]) * gate_shape[1] / 8) return;
  const auto g = load_eight(gate, i);
  const auto u = load_eight(up, i);
  Eight<T> y;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float a = float(g.at[k]);
    y.at[k] = T(a / (1.0f + __expf(-a)) * float(u.at[k]));
  }
  store_eight(out, i, y);
)";

inline constexpr const char* kSwigluGradient = R"(
  const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size_t(gate_shape[0]) * gate_shape[1] / 8) return;
  const auto g = load_eight(gate, i);
  const auto u = load_eight(up, i);
  const auto d = load_eight(cotangent, i);
  Eight<T> dg, du;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float a = float(g.at[k]);
    const float s = 1.0f / (1.0f + __expf(-a));
    const float c = float(d.at[k]);
    du.at[k] = T(c * a * s);
    dg.at[k] = T(c * float(u.at[k]) * s * (1.0f + a * (1.0f - s)));
  }
  store_eight(d_gate, i, dg);
  store_eight(d_up, i, du);
)";

// One thread turns eight pairs, or copies eight features that are not turned.
inline constexpr const char* kRope = R"(
  constexpr int turned = K / 8;
  constexpr int units = turned + (D - 2 * K) / 8;
  const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size_t(x_shape[0]) * H * units) return;
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
  Eight<T> left, right;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float c = cos_table[angles + k];
    const float s = BACK ? -sin_table[angles + k] : sin_table[angles + k];
    left.at[k] = T(float(a.at[k]) * c - float(b.at[k]) * s);
    right.at[k] = T(float(b.at[k]) * c + float(a.at[k]) * s);
  }
  store_eight(to, unit, left);
  store_eight(to + K, unit, right);
)";

// One block a row: the largest logit and the sum of exponentials in one pass, the gradient in a second, which
// finds the row in the cache.
inline constexpr const char* kCrossEntropy = R"(
  const size_t row = blockIdx.x;
  const int count = logits_shape[1];
  const T* from = logits + row * count;
  T* to = gradient + row * count;
  const float weight = weights[row];
  const int target = targets[row];
  if (weight == 0.0f) {
    Eight<T> zero;
#pragma unroll
    for (int k = 0; k < 8; ++k) zero.at[k] = T(0.0f);
    for (int i = threadIdx.x; i < count / 8; i += blockDim.x) store_eight(to, i, zero);
    if (threadIdx.x == 0) losses[row] = 0.0f;
    return;
  }
  float top = -INFINITY;
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
    if (next > -INFINITY) {
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
  top = threadIdx.x % 32 < blockDim.x / 32 ? tops[threadIdx.x % 32] : -INFINITY;
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
    Eight<T> d;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const float one = i * 8 + k == target ? 1.0f : 0.0f;
      d.at[k] = T(weight * (__expf(float(v.at[k]) - log_sum) - one));
    }
    store_eight(to, i, d);
  }
)";

} // namespace temper::gpu
