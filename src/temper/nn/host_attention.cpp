// Attention of one document and key head at a time: its keys and values are packed into scratch that stays in
// the second cache; queries go by in blocks, so that what is read of it into the first one serves several rows.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "temper/base/parallel.h"
#include "temper/nn/host_kernels.h"
#include "temper/nn/host_simd.h"

namespace temper::host {
namespace {

constexpr std::size_t kRows = 4;   // query rows at a time, whose sums stay in registers
constexpr std::size_t kLanes = 16; // columns a tile; scratch rows are padded to a multiple
constexpr std::size_t kBlock = 16; // query rows a block
constexpr std::size_t kChunk = 64; // rows of values that are used for a whole block before the next
static_assert(kBlock % kRows == 0 && kLanes % kBlock == 0 && kChunk % kRows == 0);

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
  std::size_t D;         // head_dim
  std::size_t q_stride;  // from a token's queries to the next one's
  std::size_t kv_stride; // and of keys and values
  std::size_t group;     // query heads of the key head
};

// rows [length, width] with stride `from` -> packed [S, P], zero-padded.
void pack(const float* source, std::size_t from, std::size_t length, std::size_t width, std::size_t P,
          std::size_t S, float* packed) {
  for (std::size_t t = 0; t < length; ++t) {
    std::memcpy(packed + t * P, source + t * from, width * sizeof(float));
    std::fill(packed + t * P + width, packed + (t + 1) * P, 0.0F);
  }
  std::fill(packed + length * P, packed + S * P, 0.0F);
}

// packed [S, P] -> tiles [S / kLanes, P, kLanes]: the columns of a tile beside each other.
void make_tiles(const float* packed, std::size_t P, std::size_t S, float* tiles) {
  for (std::size_t t = 0; t < S; ++t) {
    float* tile = tiles + t / kLanes * kLanes * P + t % kLanes;
    for (std::size_t d = 0; d < P; ++d) {
      tile[d * kLanes] = packed[t * P + d];
    }
  }
}

// kLanes floats that the compiler keeps in registers, as many as the machine's vectors need.
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));
static_assert(kRows == 4, "the products below are written for four rows");

TEMPER_INLINE void store(float* to, const Lanes& lanes) {
  *reinterpret_cast<Lanes*>(to) = lanes;
}

// Keys that queries see: [first, last) of the document; each row narrows it further.
struct Range {
  std::size_t first;
  std::size_t last;
};

Range row_range(std::size_t row, std::size_t window) {
  return {window > 0 && row + 1 > window ? row + 1 - window : 0, row + 1};
}

// Of a block's rows: [row, row + kRows) see [first, row + kRows); `num` of them are of the document.
struct BlockShape {
  std::size_t row;
  std::size_t num;
  std::size_t first; // a multiple of kLanes
  std::size_t P;
  std::size_t S;

  std::size_t rows() const { // padded
    return (num + kRows - 1) / kRows * kRows;
  }
  std::size_t last(std::size_t r) const { // of the kRows rows from `r` on
    return row + r + kRows;
  }
};

// sum[r] += sum_i a[r][i] b[i] for kRows rows, b[i] kLanes wide.
TEMPER_INLINE void add_products(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride,
                                std::size_t count, Lanes (&sum)[kRows]) {
  Lanes sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3];
  for (std::size_t i = 0; i < count; ++i) {
    const Lanes row = *reinterpret_cast<const Lanes*>(b + i * b_stride);
    sum0 += a[i] * row;
    sum1 += a[a_stride + i] * row;
    sum2 += a[2 * a_stride + i] * row;
    sum3 += a[3 * a_stride + i] * row;
  }
  sum[0] = sum0, sum[1] = sum1, sum[2] = sum2, sum[3] = sum3;
}

// out[r][t] = sum_d a[r][d] b[t][d], b in tiles.
TEMPER_CLONES void scores(const BlockShape& block, const float* __restrict a, const float* __restrict tiles,
                          float* __restrict out) {
  for (std::size_t t = block.first; t < block.last(block.rows() - kRows); t += kLanes) {
    for (std::size_t r = 0; r < block.rows(); r += kRows) {
      if (t >= block.last(r)) {
        continue;
      }
      Lanes sum[kRows] = {};
      add_products(a + r * block.P, block.P, tiles + t * block.P, kLanes, block.P, sum);
      for (std::size_t i = 0; i < kRows; ++i) {
        store(out + (r + i) * block.S + t, sum[i]);
      }
    }
  }
}

// out[r][d] = sum_t p[r][t] rows[t][d].
TEMPER_CLONES void weigh(const BlockShape& block, const float* __restrict p, const float* __restrict rows,
                         float* __restrict out) {
  std::memset(out, 0, kBlock * block.P * sizeof(float));
  for (std::size_t from = block.first; from < block.last(block.rows() - kRows); from += kChunk) {
    for (std::size_t r = 0; r < block.rows(); r += kRows) {
      const std::size_t to = std::min(from + kChunk, block.last(r));
      for (std::size_t d = 0; from < to && d < block.P; d += kLanes) {
        Lanes sum[kRows];
        for (std::size_t i = 0; i < kRows; ++i) {
          sum[i] = *reinterpret_cast<const Lanes*>(out + (r + i) * block.P + d);
        }
        add_products(p + r * block.S + from, block.S, rows + from * block.P + d, block.P, to - from, sum);
        for (std::size_t i = 0; i < kRows; ++i) {
          store(out + (r + i) * block.P + d, sum[i]);
        }
      }
    }
  }
}

// rows[t][d] += sum_r p[r][t] a[r][d].
TEMPER_CLONES void add_outer(const BlockShape& block, const float* __restrict p, const float* __restrict a,
                             float* __restrict rows) {
  for (std::size_t t = block.first; t < block.last(block.rows() - kRows); t += kRows) {
    // The first rows that see these keys.
    const std::size_t first = t < block.row ? 0 : t - block.row;
    for (std::size_t d = 0; d < block.P; d += kLanes) {
      float* target = rows + t * block.P + d;
      Lanes sum0 = *reinterpret_cast<const Lanes*>(target);
      Lanes sum1 = *reinterpret_cast<const Lanes*>(target + block.P);
      Lanes sum2 = *reinterpret_cast<const Lanes*>(target + 2 * block.P);
      Lanes sum3 = *reinterpret_cast<const Lanes*>(target + 3 * block.P);
      for (std::size_t r = first; r < block.rows(); ++r) {
        const Lanes row = *reinterpret_cast<const Lanes*>(a + r * block.P + d);
        const float* weights = p + r * block.S + t;
        sum0 += weights[0] * row;
        sum1 += weights[1] * row;
        sum2 += weights[2] * row;
        sum3 += weights[3] * row;
      }
      store(target, sum0);
      store(target + block.P, sum1);
      store(target + 2 * block.P, sum2);
      store(target + 3 * block.P, sum3);
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

// ds = p (dp - delta) scale, in place of dp.
TEMPER_CLONES void score_gradients(const float* __restrict p, float delta, float scale, std::size_t first,
                                   std::size_t last, float* __restrict dp) {
  for (std::size_t t = first; t < last; ++t) {
    dp[t] = p[t] * (dp[t] - delta) * scale;
  }
}

BlockShape block_at(const Job& job, std::size_t row, std::size_t window) {
  return {row, std::min(kBlock, job.length - row), row_range(row, window).first / kLanes * kLanes, job.P,
          job.S};
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
  const auto [begin, length, g, P, S, D, q_stride, kv_stride, group] = job;
  float* vals = scratch(buffer, 2 * P * S + 2 * kBlock * P + kBlock * S);
  float* tiles = vals + P * S;
  float* a = tiles + P * S;
  float* o = a + kBlock * P;
  float* p = o + kBlock * P;
  pack(k + begin * kv_stride + g * D, kv_stride, length, D, P, S, vals);
  make_tiles(vals, P, S, tiles);
  pack(v + begin * kv_stride + g * D, kv_stride, length, D, P, S, vals);
  for (std::size_t h = g * group; h < (g + 1) * group; ++h) {
    for (std::size_t row = 0; row < length; row += kBlock) {
      const auto block = block_at(job, row, shape.window);
      pack(q + (begin + row) * q_stride + h * D, q_stride, block.num, D, P, kBlock, a);
      scores(block, a, tiles, p);
      float inverse[kBlock] = {};
      for (std::size_t r = 0; r < block.rows(); ++r) {
        float* s = p + r * S;
        const std::size_t last = block.last(r / kRows * kRows);
        if (r >= block.num) {
          std::fill(s + block.first, s + last, 0.0F);
          continue;
        }
        const auto own = row_range(row + r, shape.window);
        const float shift = shape.scale * largest(s + own.first, own.last - own.first);
        const float sum = exponentials(s, shape.scale, shift, own.first, own.last, block.first, last);
        inverse[r] = 1.0F / sum;
        log_sums[(begin + row + r) * shape.heads + h] = shift + std::log(sum);
      }
      weigh(block, p, vals, o);
      for (std::size_t r = 0; r < block.num; ++r) {
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
  const auto [begin, length, g, P, S, D, q_stride, kv_stride, group] = job;
  float* keys = scratch(buffer, 5 * P * S + 3 * kBlock * P + 2 * kBlock * S);
  float* key_tiles = keys + P * S;
  float* value_tiles = key_tiles + P * S;
  float* dk = value_tiles + P * S;
  float* dv = dk + P * S;
  float* a = dv + P * S;
  float* da = a + kBlock * P;
  float* dq = da + kBlock * P;
  float* p = dq + kBlock * P;
  float* dp = p + kBlock * S;
  pack(v + begin * kv_stride + g * D, kv_stride, length, D, P, S, keys);
  make_tiles(keys, P, S, value_tiles);
  pack(k + begin * kv_stride + g * D, kv_stride, length, D, P, S, keys);
  make_tiles(keys, P, S, key_tiles);
  std::fill(dk, dk + 2 * P * S, 0.0F);
  for (std::size_t h = g * group; h < (g + 1) * group; ++h) {
    for (std::size_t row = 0; row < length; row += kBlock) {
      const auto block = block_at(job, row, shape.window);
      const std::size_t at = (begin + row) * q_stride + h * D;
      pack(q + at, q_stride, block.num, D, P, kBlock, a);
      pack(d_out + at, q_stride, block.num, D, P, kBlock, da);
      scores(block, a, key_tiles, p);
      scores(block, da, value_tiles, dp);
      for (std::size_t r = 0; r < block.rows(); ++r) {
        float* s = p + r * S;
        float* ds = dp + r * S;
        const std::size_t last = block.last(r / kRows * kRows);
        if (r >= block.num) {
          std::fill(s + block.first, s + last, 0.0F);
          std::fill(ds + block.first, ds + last, 0.0F);
          continue;
        }
        const auto own = row_range(row + r, shape.window);
        const float log_sum = log_sums[(begin + row + r) * shape.heads + h];
        exponentials(s, shape.scale, log_sum, own.first, own.last, block.first, last);
        const float delta = dot(d_out + at + r * q_stride, out + at + r * q_stride, D);
        score_gradients(s, delta, shape.scale, block.first, last, ds);
      }
      weigh(block, dp, keys, dq);
      add_outer(block, dp, a, dk);
      add_outer(block, p, da, dv);
      for (std::size_t r = 0; r < block.num; ++r) {
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
                 padded(length), shape.head_dim, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim,
                 shape.heads / shape.kv_heads});
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
