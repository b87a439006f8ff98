// The CUDA source of the kernels that turn attention back: as gpu_attention_sources.h, whose header goes
// before.
#pragma once

namespace temper::gpu {

// A block a tile of queries and a head: their gradients, and delta [H, n], the sums over a row of d out.
inline constexpr const char* kAttentionQueries = R"(
  const int head = blockIdx.x % heads;
  const int begin = late_tile(blockIdx.x / heads, (n + OWN - 1) / OWN, per_row) * OWN;
  const int lane = threadIdx.x % 32;
  const unsigned q_tile = address_of(shared_memory);
  const unsigned d_tile = q_tile + 2 * OWN * PITCH;
  const unsigned k_tile = d_tile + 2 * OWN * PITCH;
  const unsigned v_tile = k_tile + BUFFERS * TILE_BYTES;
  const T* k_from = k + head / (heads / groups) * D;
  const T* v_from = v + head / (heads / groups) * D;
  const int low = first_seen(spans, width, window, begin) / OTHER * OTHER;
  const int steps = (smaller(begin + OWN, n) - 1 - low) / OTHER + 1;
  copy_tile<OWN>(q_tile, q + head * D, heads * D, begin, n);
  copy_tile<OWN>(d_tile, d + head * D, heads * D, begin, n);
  copy_tile<OTHER>(k_tile, k_from, groups * D, low, n);
  copy_tile<OTHER>(v_tile, v_from, groups * D, low, n);
  end_of_copies();

  const int top = begin + threadIdx.x / 32 * STRIP;
  const int bottom = top + STRIP - 1;
  const int top_low = first_seen(spans, width, window, smaller(top, n - 1));
  const int bottom_low = first_seen(spans, width, window, smaller(bottom, n - 1));
  int lows[MT][2];
  float bases[MT][2];
  float deltas[MT][2];
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = top + 16 * m + 8 * r + lane / 4;
      lows[m][r] = first_seen(spans, width, window, smaller(row, n - 1));
      bases[m][r] = row < n ? lse[size_t(head) * n + row] : 0.0f;
      float sum = 0.0f;
      if (row < n) {
        const size_t at = size_t(row) * (heads * D) + head * D;
        for (int u = lane % 4; u < D / 8; u += 4) {
          const auto x = load_eight(out + at, u);
          const auto y = load_eight(d + at, u);
#pragma unroll
          for (int i = 0; i < 8; ++i) sum += float(x.at[i]) * float(y.at[i]);
        }
      }
      sum += __shfl_xor_sync(0xffffffff, sum, 1);
      sum += __shfl_xor_sync(0xffffffff, sum, 2);
      deltas[m][r] = sum;
      if (lane % 4 == 0 && row < n) delta[size_t(head) * n + row] = sum;
    }
  }
  const float unit = CAPPED ? cap * LOG2_E : scale * LOG2_E;
  float acc[MT][D / 8][4];
  set_zero(acc);
  wait_for_copies();
  __syncthreads();
  Strip<HELD> queries;
  Strip<HELD> cotangents;
  queries.start(q_tile);
  cotangents.start(d_tile);
  for (int step = 0; step < steps; ++step) {
    if (step > 0) {
      wait_for_copies();
      __syncthreads();
    }
    const int key = low + step * OTHER;
    const unsigned now = BUFFERS == 2 ? step % 2 * TILE_BYTES : 0;
    if (BUFFERS == 2 && step + 1 < steps) {
      copy_tile<OTHER>(k_tile + TILE_BYTES - now, k_from, groups * D, key + OTHER, n);
      copy_tile<OTHER>(v_tile + TILE_BYTES - now, v_from, groups * D, key + OTHER, n);
      end_of_copies();
    }
    if (key <= bottom && key + OTHER > top_low) {
      float s[MT][OTHER / 8][4];
      float back[MT][OTHER / 8][4];
      multiply_rows(s, queries, k_tile + now);
      multiply_rows(back, cotangents, v_tile + now);
      const bool masked = key + OTHER - 1 > top || key < bottom_low;
#pragma unroll
      for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int c = 0; c < OTHER / 8; ++c) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float x = CAPPED ? tanh_of(s[m][c][i] * (scale / cap)) : s[m][c][i];
            float y = power_of_2(x * unit - bases[m][i / 2]) * (back[m][c][i] - deltas[m][i / 2]);
            if (CAPPED) y *= 1.0f - x * x;
            s[m][c][i] = y;
          }
        }
      }
      if (masked) {
#pragma unroll
        for (int m = 0; m < MT; ++m) {
#pragma unroll
          for (int c = 0; c < OTHER / 8; ++c) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int at = key + 8 * c + 2 * (lane % 4) + i % 2;
              if (at < lows[m][i / 2] || at > top + 16 * m + 8 * (i / 2) + lane / 4) s[m][c][i] = 0.0f;
            }
          }
        }
      }
      add_rows(acc, s, k_tile + now);
    }
    if (BUFFERS == 1 && step + 1 < steps) {
      __syncthreads();
      copy_tile<OTHER>(k_tile, k_from, groups * D, key + OTHER, n);
      copy_tile<OTHER>(v_tile, v_from, groups * D, key + OTHER, n);
      end_of_copies();
    }
  }
  float factors[MT][2];
#pragma unroll
  for (int m = 0; m < MT; ++m) factors[m][0] = factors[m][1] = scale;
  store_strip(acc, factors, q_tile, d_q + head * D, heads * D, begin, n);
)";

// A block a tile of keys, one of their heads and one of `parts` of the heads of queries that read it: gradients
// in the keys if KEYS, in the values if VALUES. Scores are transposed: keys are rows. A part's results follow
// those of the part before it.
inline constexpr const char* kAttentionKeys = R"(
  const int turns = heads / groups / parts;
  const int part = blockIdx.x % parts;
  const int group = blockIdx.x / parts % groups;
  const int begin = early_tile(blockIdx.x / (parts * groups), (n + OWN - 1) / OWN, per_row) * OWN;
  const int lane = threadIdx.x % 32;
  const unsigned k_tile = address_of(shared_memory);
  const unsigned v_tile = k_tile + 2 * OWN * PITCH;
  const unsigned q_tile = v_tile + (KEYS ? 2 * OWN * PITCH : 0);
  const unsigned d_tile = q_tile + BUFFERS * TILE_BYTES;
  const unsigned row_tile = d_tile + BUFFERS * TILE_BYTES;
  const int first_head = group * (heads / groups) + part * turns;
  const int end = last_seeing(spans, n, width, window, smaller(begin + OWN, n) - 1);
  const int low = begin / OTHER * OTHER;
  const int per_head = (end - low) / OTHER + 1;
  const int steps = per_head * turns;
  const auto copy_step = [&](int step, unsigned to) {
    const int head = first_head + step / per_head;
    const int query = low + step % per_head * OTHER;
    copy_tile<OTHER>(q_tile + to * TILE_BYTES, q + head * D, heads * D, query, n);
    copy_tile<OTHER>(d_tile + to * TILE_BYTES, d + head * D, heads * D, query, n);
    for (int i = threadIdx.x; i < 2 * OTHER; i += THREADS) {
      const int row = query + i % OTHER;
      const bool is_there = row < n;
      copy_4(row_tile + 4 * (to * 2 * OTHER + i), (i < OTHER ? lse : delta) + size_t(head) * n + (is_there ? row : 0), is_there);
    }
    end_of_copies();
  };
  copy_tile<OWN>(k_tile, k + group * D, groups * D, begin, n);
  if (KEYS) copy_tile<OWN>(v_tile, v + group * D, groups * D, begin, n);
  copy_step(0, 0);

  const int top = begin + threadIdx.x / 32 * STRIP;
  const int bottom = top + STRIP - 1;
  const int top_end = top < n ? last_seeing(spans, n, width, window, top) : -1;
  const int bottom_end = top < n ? last_seeing(spans, n, width, window, smaller(bottom, n - 1)) : -1;
  int ends[MT][2];
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = top + 16 * m + 8 * r + lane / 4;
      ends[m][r] = row < n ? last_seeing(spans, n, width, window, row) : -1;
    }
  }
  const float unit = CAPPED ? cap * LOG2_E : scale * LOG2_E;
  float in_keys[MT][D / 8][4];
  float in_values[MT][D / 8][4];
  if (KEYS) set_zero(in_keys);
  if (VALUES) set_zero(in_values);
  wait_for_copies();
  __syncthreads();
  Strip<HELD> keys;
  Strip<HELD> values;
  keys.start(k_tile);
  if (KEYS) values.start(v_tile);
  for (int step = 0; step < steps; ++step) {
    if (step > 0) {
      wait_for_copies();
      __syncthreads();
    }
    const int query = low + step % per_head * OTHER;
    const unsigned now = BUFFERS == 2 ? step % 2 : 0;
    if (BUFFERS == 2 && step + 1 < steps) copy_step(step + 1, 1 - now);
    if (query + OTHER > top && query <= bottom_end) {
      const unsigned queries = q_tile + now * TILE_BYTES;
      const unsigned cotangents = d_tile + now * TILE_BYTES;
      const float* rows = reinterpret_cast<const float*>(reinterpret_cast<const char*>(shared_memory) +
                                                         (row_tile - k_tile)) + now * 2 * OTHER + 2 * (lane % 4);
      const bool masked = query < bottom || query + OTHER - 1 > top_end || bottom >= n;
      float s[MT][OTHER / 8][4];
      multiply_rows(s, keys, queries);
      float slopes[CAPPED ? MT : 1][CAPPED ? OTHER / 8 : 1][4];
#pragma unroll
      for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int c = 0; c < OTHER / 8; ++c) {
          const float2 bases = *reinterpret_cast<const float2*>(rows + 8 * c);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float x = CAPPED ? tanh_of(s[m][c][i] * (scale / cap)) : s[m][c][i];
            if (CAPPED) slopes[m][c][i] = 1.0f - x * x;
            s[m][c][i] = power_of_2(x * unit - (i % 2 == 0 ? bases.x : bases.y));
          }
        }
      }
      if (masked) {
#pragma unroll
        for (int m = 0; m < MT; ++m) {
#pragma unroll
          for (int c = 0; c < OTHER / 8; ++c) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int at = query + 8 * c + 2 * (lane % 4) + i % 2;
              if (at > ends[m][i / 2] || at < top + 16 * m + 8 * (i / 2) + lane / 4) s[m][c][i] = 0.0f;
            }
          }
        }
      }
      if (VALUES) add_rows(in_values, s, cotangents);
      if (KEYS) {
        float back[MT][OTHER / 8][4];
        multiply_rows(back, values, cotangents);
#pragma unroll
        for (int m = 0; m < MT; ++m) {
#pragma unroll
          for (int c = 0; c < OTHER / 8; ++c) {
            const float2 deltas = *reinterpret_cast<const float2*>(rows + OTHER + 8 * c);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              s[m][c][i] *= back[m][c][i] - (i % 2 == 0 ? deltas.x : deltas.y);
              if (CAPPED) s[m][c][i] *= slopes[m][c][i];
            }
          }
        }
        add_rows(in_keys, s, queries);
      }
    }
    if (BUFFERS == 1 && step + 1 < steps) {
      __syncthreads();
      copy_step(step + 1, 0);
    }
  }
  float factors[MT][2];
  if (VALUES) {
#pragma unroll
    for (int m = 0; m < MT; ++m) factors[m][0] = factors[m][1] = 1.0f;
    store_strip(in_values, factors, k_tile, d_v + size_t(part) * n * (groups * D) + group * D, groups * D, begin, n);
  }
  if (KEYS) {
#pragma unroll
    for (int m = 0; m < MT; ++m) factors[m][0] = factors[m][1] = scale;
    store_strip(in_keys, factors, k_tile, d_k + size_t(part) * n * (groups * D) + group * D, groups * D, begin, n);
  }
)";

// The sums of PARTS arrays that follow each other, `size` vectors each: a's to x, b's to y.
inline constexpr const char* kAttentionParts = R"(
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    float sums[8] = {};
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      const auto v = load_eight(side == 0 ? a : b, size_t(part) * size + i);
#pragma unroll
      for (int k = 0; k < 8; ++k) sums[k] += float(v.at[k]);
    }
    Eight sum;
#pragma unroll
    for (int k = 0; k < 8; ++k) sum.at[k] = T(sums[k]);
    store_eight(side == 0 ? x : y, i, sum);
  }
)";

} // namespace temper::gpu
