// Attention of one document and key head at a time: its keys and values are packed into scratch that stays
// in the cache, queries go by in blocks of four rows.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "temper/base/parallel.h"
#include "temper/nn/host_kernels.h"
#include "temper/nn/host_simd.h"

namespace temper::host {
namespace {

constexpr std::size_t kRows = 4;   // query rows a block
constexpr std::size_t kLanes = 16; // columns a tile; scratch rows are padded to a multiple

std::size_t padded(std::size_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

// One document and key head. P = padded head_dim, S = padded length.
struct Job {
  std::size_t begin; // first token
  std::size_t length;
  std::size_t kv_head;
  std::size_t P;
  std::size_t S;
};

// rows [length, width] with stride `from` -> packed [length, P], zero-padded.
void pack(const float* source, std::size_t from, std::size_t length, std::size_t width, std::size_t P,
          float* packed) {
  for (std::size_t t = 0; t < length; ++t) {
    std::memcpy(packed + t * P, source + t * from, width * sizeof(float));
    std::fill(packed + t * P + width, packed + (t + 1) * P, 0.0F);
  }
}

// packed [length, P] -> columns [P, S], zero-padded.
void transpose(const float* packed, std::size_t length, std::size_t P, std::size_t S, float* columns) {
  std::fill(columns, columns + P * S, 0.0F);
  for (std::size_t t = 0; t < length; ++t) {
    for (std::size_t d = 0; d < P; ++d) {
      columns[d * S + t] = packed[t * P + d];
    }
  }
}

// kLanes floats that the compiler keeps in registers, as many as the machine's vectors need.
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));
static_assert(kRows == 4, "the tiles below are written for four rows");

TEMPER_INLINE void store(float* to, const Lanes& lanes) {
  *reinterpret_cast<Lanes*>(to) = lanes;
}

// Rows of floats, this many from one to the next.
struct Rows {
  const float* at;
  std::size_t stride;
};

// out[r][j] = sum_i a[r][i] b[i][j] for the rows of a block, i in [from, to), j in [first, last) in tiles of
// kLanes.
TEMPER_CLONES void multiply_rows(Rows a, Rows b, std::size_t from, std::size_t to, std::size_t first,
                                 std::size_t last, float* __restrict out, std::size_t stride) {
  for (std::size_t j = first; j < last; j += kLanes) {
    Lanes tile0{}, tile1{}, tile2{}, tile3{};
    for (std::size_t i = from; i < to; ++i) {
      const Lanes row = *reinterpret_cast<const Lanes*>(b.at + i * b.stride + j);
      tile0 += a.at[i] * row;
      tile1 += a.at[a.stride + i] * row;
      tile2 += a.at[2 * a.stride + i] * row;
      tile3 += a.at[3 * a.stride + i] * row;
    }
    store(out + j, tile0);
    store(out + stride + j, tile1);
    store(out + 2 * stride + j, tile2);
    store(out + 3 * stride + j, tile3);
  }
}

// rows[t][d] += sum_r p[r][t] a[r][d] for t in [first, last).
TEMPER_CLONES void add_outer(const float* __restrict p, const float* __restrict a, std::size_t P, std::size_t S,
                             std::size_t first, std::size_t last, float* __restrict rows) {
  for (std::size_t t = first; t < last; ++t) {
    float* row = rows + t * P;
    for (std::size_t d = 0; d < P; ++d) {
      float sum = row[d];
      for (std::size_t r = 0; r < kRows; ++r) {
        sum += p[r * S + t] * a[r * P + d];
      }
      row[d] = sum;
    }
  }
}

// p = exp(scale s - shift) over [first, last), zero elsewhere within [from, to). Returns the sum.
TEMPER_CLONES float exponentials(float* __restrict s, float scale, float shift, std::size_t first,
                                 std::size_t last, std::size_t from, std::size_t to) {
  for (std::size_t t = from; t < first; ++t) {
    s[t] = 0.0F;
  }
  for (std::size_t t = first; t < last; ++t) {
    s[t] = fast_exp(s[t] * scale - shift);
  }
  for (std::size_t t = last; t < to; ++t) {
    s[t] = 0.0F;
  }
  return lane_sum(last - first, [s, first](std::size_t i) { return s[first + i]; });
}

TEMPER_CLONES float largest(const float* x, std::size_t count) {
  return lane_max(x, count);
}

TEMPER_CLONES float dot(const float* __restrict a, const float* __restrict b, std::size_t count) {
  return lane_sum(count, [a, b](std::size_t i) { return a[i] * b[i]; });
}

// The keys that a block of queries sees: [first, last) of the document; rows narrow it further.
struct Range {
  std::size_t first;
  std::size_t last;
};

Range row_range(std::size_t row, std::size_t window) {
  return {window > 0 && row + 1 > window ? row + 1 - window : 0, row + 1};
}

Range block_range(std::size_t row, std::size_t rows, std::size_t window) {
  return {row_range(row, window).first / kLanes * kLanes, row + rows};
}

// Per-thread scratch, grown as needed and kept.
float* scratch(std::vector<float>& buffer, std::size_t size) {
  if (buffer.size() < size) {
    buffer.resize(size);
  }
  return buffer.data();
}

void forward_job(const AttentionShape& shape, const Job& job, const float* q, const float* k, const float* v,
                 float* out, float* log_sums) {
  thread_local std::vector<float> buffer;
  const auto [begin, length, g, P, S] = job;
  const std::size_t D = shape.head_dim;
  const std::size_t q_stride = shape.heads * D;
  const std::size_t kv_stride = shape.kv_heads * D;
  const std::size_t group = shape.heads / shape.kv_heads;
  float* keys = scratch(buffer, 2 * length * P + P * S + 2 * kRows * P + kRows * S);
  float* vals = keys + length * P;
  float* columns = vals + length * P;
  float* a = columns + P * S;
  float* o = a + kRows * P;
  float* p = o + kRows * P;
  pack(k + begin * kv_stride + g * D, kv_stride, length, D, P, keys);
  pack(v + begin * kv_stride + g * D, kv_stride, length, D, P, vals);
  transpose(keys, length, P, S, columns);
  for (std::size_t h = g * group; h < (g + 1) * group; ++h) {
    for (std::size_t row = 0; row < length; row += kRows) {
      const std::size_t rows = std::min(kRows, length - row);
      const auto range = block_range(row, rows, shape.window);
      std::fill(a, a + kRows * P, 0.0F);
      pack(q + (begin + row) * q_stride + h * D, q_stride, rows, D, P, a);
      multiply_rows({a, P}, {columns, S}, 0, P, range.first, padded(range.last), p, S);
      float inverse[kRows] = {};
      for (std::size_t r = 0; r < rows; ++r) {
        const auto own = row_range(row + r, shape.window);
        float* s = p + r * S;
        const float shift = shape.scale * largest(s + own.first, own.last - own.first);
        const float sum = exponentials(s, shape.scale, shift, own.first, own.last, range.first, range.last);
        inverse[r] = 1.0F / sum;
        log_sums[(begin + row + r) * shape.heads + h] = shift + std::log(sum);
      }
      for (std::size_t r = rows; r < kRows; ++r) {
        std::fill(p + r * S + range.first, p + r * S + range.last, 0.0F);
      }
      multiply_rows({p, S}, {vals, P}, range.first, range.last, 0, P, o, P);
      for (std::size_t r = 0; r < rows; ++r) {
        float* target = out + (begin + row + r) * q_stride + h * D;
        for (std::size_t d = 0; d < D; ++d) {
          target[d] = o[r * P + d] * inverse[r];
        }
      }
    }
  }
}

void gradient_job(const AttentionShape& shape, const Job& job, const float* q, const float* k, const float* v,
                  const float* out, const float* log_sums, const float* d_out, float* d_q, float* d_k,
                  float* d_v) {
  thread_local std::vector<float> buffer;
  const auto [begin, length, g, P, S] = job;
  const std::size_t D = shape.head_dim;
  const std::size_t q_stride = shape.heads * D;
  const std::size_t kv_stride = shape.kv_heads * D;
  const std::size_t group = shape.heads / shape.kv_heads;
  float* keys = scratch(buffer, 4 * length * P + 2 * P * S + 3 * kRows * P + 2 * kRows * S);
  float* vals = keys + length * P;
  float* dk = vals + length * P;
  float* dv = dk + length * P;
  float* key_columns = dv + length * P;
  float* value_columns = key_columns + P * S;
  float* a = value_columns + P * S;
  float* da = a + kRows * P;
  float* dq = da + kRows * P;
  float* p = dq + kRows * P;
  float* dp = p + kRows * S;
  pack(k + begin * kv_stride + g * D, kv_stride, length, D, P, keys);
  pack(v + begin * kv_stride + g * D, kv_stride, length, D, P, vals);
  transpose(keys, length, P, S, key_columns);
  transpose(vals, length, P, S, value_columns);
  std::fill(dk, dk + 2 * length * P, 0.0F);
  for (std::size_t h = g * group; h < (g + 1) * group; ++h) {
    for (std::size_t row = 0; row < length; row += kRows) {
      const std::size_t rows = std::min(kRows, length - row);
      const auto range = block_range(row, rows, shape.window);
      const std::size_t at = (begin + row) * q_stride + h * D;
      std::fill(a, a + 2 * kRows * P, 0.0F);
      pack(q + at, q_stride, rows, D, P, a);
      pack(d_out + at, q_stride, rows, D, P, da);
      multiply_rows({a, P}, {key_columns, S}, 0, P, range.first, padded(range.last), p, S);
      multiply_rows({da, P}, {value_columns, S}, 0, P, range.first, padded(range.last), dp, S);
      for (std::size_t r = 0; r < kRows; ++r) {
        float* s = p + r * S;
        float* ds = dp + r * S;
        if (r >= rows) {
          std::fill(s + range.first, s + range.last, 0.0F);
          std::fill(ds + range.first, ds + range.last, 0.0F);
          continue;
        }
        const auto own = row_range(row + r, shape.window);
        const float log_sum = log_sums[(begin + row + r) * shape.heads + h];
        exponentials(s, shape.scale, log_sum, own.first, own.last, range.first, range.last);
        const float delta = dot(d_out + at + r * q_stride, out + at + r * q_stride, D);
        for (std::size_t t = range.first; t < range.last; ++t) {
          ds[t] = s[t] * (ds[t] - delta) * shape.scale;
        }
      }
      multiply_rows({dp, S}, {keys, P}, range.first, range.last, 0, P, dq, P);
      add_outer(dp, a, P, S, range.first, range.last, dk);
      add_outer(p, da, P, S, range.first, range.last, dv);
      for (std::size_t r = 0; r < rows; ++r) {
        std::memcpy(d_q + at + r * q_stride, dq + r * P, D * sizeof(float));
      }
    }
  }
  for (std::size_t t = 0; t < length; ++t) {
    const std::size_t to = (begin + t) * kv_stride + g * D;
    std::memcpy(d_k + to, dk + t * P, D * sizeof(float));
    std::memcpy(d_v + to, dv + t * P, D * sizeof(float));
  }
}

// Runs body(job) for every document and key head; documents own disjoint tokens, key heads disjoint columns.
template <class Body>
void for_each_job(const AttentionShape& shape, const std::int32_t* documents, const Body& body) {
  parallel_for(shape.documents * shape.kv_heads, 1, [&](std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last; ++i) {
      const std::size_t m = i / shape.kv_heads;
      const auto length = static_cast<std::size_t>(documents[2 * m + 1]);
      if (length > 0) {
        body(Job{static_cast<std::size_t>(documents[2 * m]), length, i % shape.kv_heads, padded(shape.head_dim),
                 padded(length)});
      }
    }
  });
}

} // namespace

void attention(const AttentionShape& shape, const float* q, const float* k, const float* v,
               const std::int32_t* documents, float* out, float* log_sums) {
  std::fill(out, out + shape.tokens * shape.heads * shape.head_dim, 0.0F);
  std::fill(log_sums, log_sums + shape.tokens * shape.heads, 0.0F);
  for_each_job(shape, documents, [&](const Job& job) { forward_job(shape, job, q, k, v, out, log_sums); });
}

void attention_gradient(const AttentionShape& shape, const float* q, const float* k, const float* v,
                        const std::int32_t* documents, const float* out, const float* log_sums,
                        const float* d_out, float* d_q, float* d_k, float* d_v) {
  std::fill(d_q, d_q + shape.tokens * shape.heads * shape.head_dim, 0.0F);
  std::fill(d_k, d_k + shape.tokens * shape.kv_heads * shape.head_dim, 0.0F);
  std::fill(d_v, d_v + shape.tokens * shape.kv_heads * shape.head_dim, 0.0F);
  for_each_job(shape, documents,
               [&](const Job& job) { gradient_job(shape, job, q, k, v, out, log_sums, d_out, d_q, d_k, d_v); });
}

} // namespace temper::host
