// The CUDA source of gpu_decode.cpp's kernels, as gpu_sources.h: M rows of I numbers. A block's WARPS warps are
// groups of SPLIT; a group multiplies R of a matrix's rows, whose eights its lanes read turn by turn.
#pragma once

namespace temper::gpu {

// What products of few rows share. Weights are read once and by nobody else: past L1, and the first of them
// before the rows to multiply are there.
inline constexpr const char* kFewHeader = R"(
constexpr int GROUPS = WARPS / SPLIT;
constexpr int UNITS = I / 8;
constexpr int STRIDE = 32 * SPLIT;
constexpr int TRIPS = (UNITS + STRIDE - 1) / STRIDE;

struct alignas(16) Words {
  unsigned at[4];
};
__device__ inline Words streamed(const T* from, int unit) {
  Words w;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(w.at[0]), "=r"(w.at[1]), "=r"(w.at[2]), "=r"(w.at[3])
               : "l"(from + size_t(unit) * 8));
  return w;
}
__device__ inline void unpack(const Words& w, float (&to)[8]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    T low, high;
    low.bits = w.at[k];
    high.bits = w.at[k] >> 16;
    to[2 * k] = float(low);
    to[2 * k + 1] = float(high);
  }
}
struct Chunk {
  Words at[DEPTH][R];
};
__device__ inline void read_chunk(const T* const (&rows)[R], int trip, int begin, Chunk& chunk) {
#pragma unroll
  for (int j = 0; j < DEPTH; ++j) {
    const int unit = begin + (trip + j) * STRIDE;
    if (trip + j < TRIPS && (UNITS % STRIDE == 0 || unit < UNITS)) {
#pragma unroll
      for (int r = 0; r < R; ++r) chunk.at[j][r] = streamed(rows[r], unit);
    }
  }
}
__device__ inline void add_chunk(const Chunk& chunk, const T* x, int trip, int begin, float (&sums)[R][M]) {
#pragma unroll
  for (int j = 0; j < DEPTH; ++j) {
    const int unit = begin + (trip + j) * STRIDE;
    if (trip + j < TRIPS && (UNITS % STRIDE == 0 || unit < UNITS)) {
      float w[R][8];
#pragma unroll
      for (int r = 0; r < R; ++r) unpack(chunk.at[j][r], w[r]);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        float v[8];
        unpack(reinterpret_cast<const Words*>(x + m * I)[unit], v);
#pragma unroll
        for (int r = 0; r < R; ++r) {
#pragma unroll
          for (int k = 0; k < 8; ++k) sums[r][m] += w[r][k] * v[k];
        }
      }
    }
  }
}
// The rows of x, normed, in shared memory.
__device__ inline void norm_rows(const T* x, const T* weight, float eps, T* to) {
  __shared__ float parts[WARPS][M];
#pragma unroll 1
  for (int m = 0; m < M; ++m) {
    float squares = 0.0f;
#pragma unroll 1
    for (int i = threadIdx.x; i < UNITS; i += WARPS * 32) {
      const auto words = reinterpret_cast<const Words*>(x + m * I)[i];
      reinterpret_cast<Words*>(to + m * I)[i] = words;
      float v[8];
      unpack(words, v);
#pragma unroll
      for (int k = 0; k < 8; ++k) squares += v[k] * v[k];
    }
    for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(0xffffffff, squares, step);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32][m] = squares;
  }
  __syncthreads();
#pragma unroll 1
  for (int m = 0; m < M; ++m) {
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < WARPS; ++p) sum += parts[p][m];
    const float root = rsqrtf(sum / I + eps);
#pragma unroll 1
    for (int i = threadIdx.x; i < UNITS; i += WARPS * 32) {
      auto own = reinterpret_cast<Eight*>(to + m * I)[i];
      const auto w = load_eight(weight, i);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float factor = PLUS_ONE ? float(T(float(w.at[k]) + 1.0f)) : float(w.at[k]);
        own.at[k] = T(float(own.at[k]) * root * factor);
      }
      reinterpret_cast<Eight*>(to + m * I)[i] = own;
    }
  }
  __syncthreads();
}
// The products of a group's `rows` and x's, of group n and row m in result[n][.][m], when every thread is here.
__device__ inline void multiply(const T* const (&rows)[R], const T* x, const T* norm, float eps,
                                float (&result)[GROUPS][R][M]) {
  __shared__ float parts[WARPS][R][M];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int begin = warp % SPLIT * 32 + lane;
  Chunk chunk;
  read_chunk(rows, 0, begin, chunk);
#if NORMED
  __shared__ alignas(16) T normed[M * I];
  norm_rows(x, norm, eps, normed);
  x = normed;
#endif
  float sums[R][M] = {};
#pragma unroll 1
  for (int trip = 0; trip < TRIPS; trip += DEPTH) {
    add_chunk(chunk, x, trip, begin, sums);
    read_chunk(rows, trip + DEPTH, begin, chunk);
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      for (int step = 16; step > 0; step /= 2) sums[r][m] += __shfl_xor_sync(0xffffffff, sums[r][m], step);
      if (lane == 0) parts[warp][r][m] = sums[r][m];
    }
  }
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x; i < GROUPS * R * M; i += WARPS * 32) {
    const int group = i / (R * M);
    const int at = i % (R * M);
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < SPLIT; ++p) sum += (&parts[group * SPLIT + p][0][0])[at];
    (&result[group][0][0])[at] = sum;
  }
  __syncthreads();
}
)";

// Products with several matrices; the launch writes before it which `weight`, `bias`, `out`, `outputs` and
// `turned` a block is of, and which of theirs. Pairs of features to be turned are a group's two rows.
inline constexpr const char* kFewProducts = R"(
  constexpr int PAIRS = D / 2;
  const auto row_of = [&](int group, int r) {
    if (turned == 0) return (block * GROUPS + group) * R + r;
    const int pair = block * GROUPS + group;
    const int k = pair % PAIRS;
    return pair / PAIRS * D + (k < K ? k + r * K : 2 * k + r);
  };
  const T* rows[R];
  const int own = threadIdx.x / 32 / SPLIT;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int row = row_of(own, r);
    rows[r] = weight + size_t(row < outputs ? row : outputs - 1) * I;
  }
  __shared__ float result[GROUPS][R][M];
  multiply(rows, x, norm, eps, result);
#pragma unroll 1
  for (int i = threadIdx.x; i < GROUPS * M; i += WARPS * 32) {
    const int group = i / M;
    const int m = i % M;
    float v[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int row = row_of(group, r);
      v[r] = result[group][r][m];
      if (bias != nullptr && row < outputs) v[r] += float(bias[row]);
    }
    const int k = (block * GROUPS + group) % PAIRS;
    if (R == 2 && turned != 0 && k < K) {
      const float c = cos_table[m * ANGLES + k];
      const float s = sin_table[m * ANGLES + k];
      const float left = v[0] * c - v[1] * s;
      v[1] = v[1] * c + v[0] * s;
      v[0] = left;
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int row = row_of(group, r);
      const size_t at = size_t(m) * outputs + row;
      if (row < outputs) out[at] = T(ADDED ? float(stream[at]) + scale * v[r] : v[r]);
    }
  }
)";

// activation(gate) up: a group's rows are the gate's first R / 2, and as many of up.
inline constexpr const char* kFewGated = R"(
  constexpr int F = R / 2;
  const T* rows[R];
  const int own = (blockIdx.x * GROUPS + threadIdx.x / 32 / SPLIT) * F;
#pragma unroll
  for (int r = 0; r < F; ++r) {
    const size_t row = own + r < outputs ? own + r : outputs - 1;
    rows[r] = gate + row * I;
    rows[F + r] = up + row * I;
  }
  __shared__ float result[GROUPS][R][M];
  multiply(rows, x, norm, eps, result);
#pragma unroll 1
  for (int i = threadIdx.x; i < GROUPS * F * M; i += WARPS * 32) {
    const int f = i % F;
    const int m = i / F % M;
    const int group = i / (F * M);
    const int row = (blockIdx.x * GROUPS + group) * F + f;
    if (row < outputs) {
      float a = result[group][f][m];
      float u = result[group][F + f][m];
      float y;
      if (ACTIVATION == 0) {
        y = a / (1.0f + __expf(-a)) * u;
      } else if (ACTIVATION == 1) {
        y = a * (erff(a * 0.70710678f) + 1.0f) * 0.5f * u;
      } else if (ACTIVATION == 2) {
        y = a * (tanhf(0.79788456f * (a + 0.044715f * a * a * a)) + 1.0f) * 0.5f * u;
      } else {
        a = fminf(a, limit);
        u = fminf(fmaxf(u, -limit), limit);
        y = a / (1.0f + __expf(-1.702f * a)) * (u + 1.0f);
      }
      out[size_t(m) * outputs + row] = T(y);
    }
  }
)";

// Cosines and sines of rows' angles.
inline constexpr const char* kAngles = R"(
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < rows * K) sincosf(float(offsets[i / K]) * (1.0f / periods[i % K]), sines + i, cosines + i);
)";

// Queries' and keys' heads normed and turned: a warp a head.
inline constexpr const char* kHeads = R"(
  constexpr int EACH = (D / 2 + 31) / 32;
  const int head = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (head >= rows * (H + G)) return;
  const bool is_query = head < rows * H;
  const int own = is_query ? head : head - rows * H;
  const int m = own / (is_query ? H : G);
  const T* from = (is_query ? q : k) + size_t(own) * D;
  const T* weight = is_query ? q_weight : k_weight;
  T* to = (is_query ? q_out : k_out) + size_t(own) * D;
  float a[EACH], b[EACH];
  float squares = 0.0f;
  const auto place = [&](int n, int r) {
    const int p = lane + 32 * n;
    return p < K ? p + r * K : 2 * p + r;
  };
#pragma unroll
  for (int n = 0; n < EACH; ++n) {
    if (lane + 32 * n < D / 2) {
      a[n] = float(from[place(n, 0)]);
      b[n] = float(from[place(n, 1)]);
      squares += a[n] * a[n] + b[n] * b[n];
    }
  }
  for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(0xffffffff, squares, step);
  const float root = rsqrtf(squares / D + eps);
  const auto factor = [&](int at) {
    return PLUS_ONE ? float(T(float(weight[at]) + 1.0f)) : float(weight[at]);
  };
#pragma unroll
  for (int n = 0; n < EACH; ++n) {
    const int p = lane + 32 * n;
    if (p < D / 2) {
      float left = a[n] * root * factor(place(n, 0));
      float right = b[n] * root * factor(place(n, 1));
      if (p < K) {
        const float c = cos_table[m * ANGLES + p];
        const float s = sin_table[m * ANGLES + p];
        const float turned = left * c - right * s;
        right = right * c + left * s;
        left = turned;
      }
      to[place(n, 0)] = T(left);
      to[place(n, 1)] = T(right);
    }
  }
)";

// stream + scale norm(y): a block a row.
inline constexpr const char* kNormAdded = R"(
  const T* from = y + size_t(blockIdx.x) * I;
  const size_t row = size_t(blockIdx.x) * (I / 8);
  Eight v[VECTORS];
  float squares = 0.0f;
#pragma unroll
  for (int n = 0; n < VECTORS; ++n) {
    const int i = threadIdx.x + n * blockDim.x;
    if (i < I / 8) {
      v[n] = load_eight(from, i);
#pragma unroll
      for (int k = 0; k < 8; ++k) squares += float(v[n].at[k]) * float(v[n].at[k]);
    }
  }
  const float root = rsqrtf(sum_of_block(squares) / I + eps);
#pragma unroll
  for (int n = 0; n < VECTORS; ++n) {
    const int i = threadIdx.x + n * blockDim.x;
    if (i < I / 8) {
      const auto w = load_eight(weight, i);
      auto sum = load_eight(stream, row + i);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float factor = PLUS_ONE ? float(T(float(w.at[k]) + 1.0f)) : float(w.at[k]);
        sum.at[k] = T(float(sum.at[k]) + scale * float(T(float(v[n].at[k]) * root * factor)));
      }
      store_eight(out, row + i, sum);
    }
  }
)";

} // namespace temper::gpu
