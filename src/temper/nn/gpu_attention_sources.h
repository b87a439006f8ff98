// The CUDA source of gpu_attention.cpp's kernels, on tensor cores by mma.sync: as gpu_product_sources.h, where
// a lane's places in a product stand too.
//
// Tokens lie in rows of all heads' features; a token sees those from its document's first to itself, less what
// a window leaves out. A block's warps take STRIP rows each of its own tile, left matrices of their products,
// and go together over the tiles of the other side, the right ones, which the next turn's copies follow into a
// second buffer. Rows of a tile lie D + 8 apart: the eight that a matrix load reads are then on all banks.
// Source: FlashAttention-2, Dao 2023, arXiv:2307.08691, algorithms 1 and 2, the backward pass in two kernels.
#pragma once

namespace temper::gpu {

inline constexpr const char* kAttentionHeader = R"(
constexpr int THREADS = 32 * WARPS;
constexpr int PITCH = D + 8;
constexpr int STRIP = 16 * MT;
constexpr int OWN = WARPS * STRIP; // rows of a block's own tile
constexpr float LOG2_E = 1.4426950408889634f;
constexpr int TILE_BYTES = 2 * OTHER * PITCH;
extern __shared__ uint4 shared_memory[];

__device__ inline unsigned address_of(const void* in_shared) {
  return unsigned(__cvta_generic_to_shared(in_shared));
}
__device__ inline void copy_16(unsigned to, const T* from, bool is_there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(is_there ? 16 : 0) : "memory");
}
__device__ inline void copy_4(unsigned to, const float* from, bool is_there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" :: "r"(to), "l"(from), "r"(is_there ? 4 : 0) : "memory");
}
__device__ inline void end_of_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}
__device__ inline void load_matrices(unsigned (&to)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from));
}
__device__ inline void load_transposed(unsigned (&to)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from));
}
__device__ inline unsigned pair(float low, float high) {
  unsigned both;
  asm("cvt.rn." HALF "x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
__device__ inline float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float tanh_of(float x) {
  return 1.0f - __fdividef(2.0f, power_of_2(2.0f * LOG2_E * x) + 1.0f);
}
__device__ inline int smaller(int a, int b) {
  return a < b ? a : b;
}

// The rows from `begin` on of x, whose rows lie `stride` apart, into a tile; zeros from row n on.
template <int ROWS>
__device__ inline void copy_tile(unsigned tile, const T* x, int stride, int begin, int n) {
  constexpr int UNITS = D / 8;
#pragma unroll
  for (int i = 0; i < (ROWS * UNITS + THREADS - 1) / THREADS; ++i) {
    const int row = THREADS % UNITS == 0 ? threadIdx.x / UNITS + i * (THREADS / UNITS) : (threadIdx.x + i * THREADS) / UNITS;
    const int unit = THREADS % UNITS == 0 ? threadIdx.x % UNITS : (threadIdx.x + i * THREADS) % UNITS;
    if (ROWS * UNITS % THREADS == 0 || row < ROWS) {
      const bool is_there = begin + row < n;
      copy_16(tile + 2 * (row * PITCH + unit * 8), x + size_t(is_there ? begin + row : 0) * stride + unit * 8, is_there);
    }
  }
}

// Where a lane's matrix loads begin in a tile: of left matrices and of right ones as they lie, transposed; and
// of right ones.
__device__ inline unsigned left_place() {
  return 2 * (threadIdx.x % 16 * PITCH + threadIdx.x % 32 / 16 * 8);
}
__device__ inline unsigned right_place() {
  return 2 * ((threadIdx.x % 8 + threadIdx.x % 32 / 16 * 8) * PITCH + threadIdx.x / 8 % 2 * 8);
}

// A warp's rows of its block's tile, kept in registers if HELD.
template <bool HELD>
struct Strip {
  unsigned from;
  unsigned held[HELD ? MT : 1][HELD ? D / 16 : 1][4];
  __device__ inline void start(unsigned tile) {
    from = tile + 2 * (threadIdx.x / 32 * STRIP * PITCH) + left_place();
    if (HELD) {
#pragma unroll
      for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int k = 0; k < D / 16; ++k) load_matrices(held[m][k], from + 2 * (m * 16 * PITCH + k * 16));
      }
    }
  }
  __device__ inline void get(unsigned (&to)[4], int m, int k) const {
    if (HELD) {
#pragma unroll
      for (int i = 0; i < 4; ++i) to[i] = held[m][k][i];
    } else {
      load_matrices(to, from + 2 * (m * 16 * PITCH + k * 16));
    }
  }
};

// A strip's products with the rows of a tile.
template <bool HELD>
__device__ inline void multiply_rows(float (&acc)[MT][OTHER / 8][4], const Strip<HELD>& strip, unsigned tile) {
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int c = 0; c < OTHER / 8; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[m][c][i] = 0.0f;
    }
  }
  const unsigned from = tile + right_place();
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    unsigned a[MT][4];
#pragma unroll
    for (int m = 0; m < MT; ++m) strip.get(a[m], m, k);
#pragma unroll
    for (int c = 0; c < OTHER / 16; ++c) {
      unsigned b[4];
      load_matrices(b, from + 2 * (c * 16 * PITCH + k * 16));
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        mma16(acc[m][2 * c], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
        mma16(acc[m][2 * c + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
      }
    }
  }
}

// Adds weights, a strip's over the rows of a tile, times these rows.
__device__ inline void add_rows(float (&acc)[MT][D / 8][4], const float (&weights)[MT][OTHER / 8][4], unsigned tile) {
  const unsigned from = tile + left_place();
#pragma unroll
  for (int k = 0; k < OTHER / 16; ++k) {
    unsigned a[MT][4];
#pragma unroll
    for (int m = 0; m < MT; ++m) {
      a[m][0] = pair(weights[m][2 * k][0], weights[m][2 * k][1]);
      a[m][1] = pair(weights[m][2 * k][2], weights[m][2 * k][3]);
      a[m][2] = pair(weights[m][2 * k + 1][0], weights[m][2 * k + 1][1]);
      a[m][3] = pair(weights[m][2 * k + 1][2], weights[m][2 * k + 1][3]);
    }
#pragma unroll
    for (int c = 0; c < D / 16; ++c) {
      unsigned b[4];
      load_transposed(b, from + 2 * (k * 16 * PITCH + c * 16));
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        mma16(acc[m][2 * c], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
        mma16(acc[m][2 * c + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
      }
    }
  }
}

__device__ inline void set_zero(float (&acc)[MT][D / 8][4]) {
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int c = 0; c < D / 8; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[m][c][i] = 0.0f;
    }
  }
}

// Row r of tile m of a strip, times factor[m][r], to the rows from `begin` on of y, by way of the warp's rows of
// a tile that no other warp reads.
__device__ inline void store_strip(const float (&acc)[MT][D / 8][4], const float (&factor)[MT][2], unsigned tile_start,
                                   T* y, int stride, int begin, int n) {
  T* tile = reinterpret_cast<T*>(reinterpret_cast<char*>(shared_memory) + (tile_start - address_of(shared_memory))) +
            threadIdx.x / 32 * STRIP * PITCH;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  __syncwarp();
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int c = 0; c < D / 8; ++c) {
        *reinterpret_cast<unsigned*>(tile + (16 * m + 8 * r + g) * PITCH + 8 * c + 2 * t) =
            pair(acc[m][c][2 * r] * factor[m][r], acc[m][c][2 * r + 1] * factor[m][r]);
      }
    }
  }
  __syncwarp();
  constexpr int UNITS = D / 8;
  const int top = begin + threadIdx.x / 32 * STRIP;
#pragma unroll 4
  for (int i = threadIdx.x % 32; i < STRIP * UNITS; i += 32) {
    const int row = i / UNITS;
    const int unit = i % UNITS;
    if (top + row < n) {
      *reinterpret_cast<uint4*>(y + size_t(top + row) * stride + unit * 8) =
          *reinterpret_cast<const uint4*>(tile + row * PITCH + unit * 8);
    }
  }
}

// The first token that i sees, and the last that sees j. spans: all tokens' documents' firsts, then the ends.
__device__ inline int first_seen(const int* spans, int width, int window, int i) {
  const int first = PACKED ? spans[i] : i / width * width;
  return WINDOWED && i - window >= first ? i - window + 1 : first;
}
__device__ inline int last_seeing(const int* spans, int n, int width, int window, int j) {
  const int last = (PACKED ? spans[n + j] : (j / width + 1) * width) - 1;
  return WINDOWED && j + window - 1 < last ? j + window - 1 : last;
}

// Which tile a block takes at its turn: of all rows of a batch the last ones first, or the first ones. They
// have the most to see, or to be seen by.
__device__ inline int late_tile(int turn, int tiles, int per_row) {
  const int rows = tiles / per_row;
  return turn % rows * per_row + per_row - 1 - turn / rows;
}
__device__ inline int early_tile(int turn, int tiles, int per_row) {
  const int rows = tiles / per_row;
  return turn % rows * per_row + turn / rows;
}
)";

// A block a tile of queries and a head. lse [H, n]: the logarithms to base 2 of the sums of exponentials.
inline constexpr const char* kAttentionForward = R"(
  const int head = blockIdx.x % heads;
  const int begin = late_tile(blockIdx.x / heads, (n + OWN - 1) / OWN, per_row) * OWN;
  const int lane = threadIdx.x % 32;
  const unsigned q_tile = address_of(shared_memory);
  const unsigned k_tile = q_tile + 2 * OWN * PITCH;
  const unsigned v_tile = k_tile + 2 * TILE_BYTES;
  const T* k_from = k + head / (heads / groups) * D;
  const T* v_from = v + head / (heads / groups) * D;
  const int low = first_seen(spans, width, window, begin) / OTHER * OTHER;
  const int steps = (smaller(begin + OWN, n) - 1 - low) / OTHER + 1;
  copy_tile<OWN>(q_tile, q + head * D, heads * D, begin, n);
  copy_tile<OTHER>(k_tile, k_from, groups * D, low, n);
  copy_tile<OTHER>(v_tile, v_from, groups * D, low, n);
  end_of_copies();

  const int top = begin + threadIdx.x / 32 * STRIP;
  const int bottom = top + STRIP - 1;
  const int top_low = first_seen(spans, width, window, smaller(top, n - 1));
  const int bottom_low = first_seen(spans, width, window, smaller(bottom, n - 1));
  int lows[MT][2];
  float tops[MT][2];
  float sums[MT][2];
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      lows[m][r] = first_seen(spans, width, window, smaller(top + 16 * m + 8 * r + lane / 4, n - 1));
      tops[m][r] = __int_as_float(0xff800000);
      sums[m][r] = 0.0f;
    }
  }
  const float unit = CAPPED ? cap * LOG2_E : scale * LOG2_E;
  float acc[MT][D / 8][4];
  set_zero(acc);
  wait_for_copies();
  __syncthreads();
  Strip<HELD> queries;
  queries.start(q_tile);
  for (int step = 0; step < steps; ++step) {
    if (step > 0) {
      wait_for_copies();
      __syncthreads();
    }
    const int key = low + step * OTHER;
    const unsigned now = step % 2 * TILE_BYTES;
    if (step + 1 < steps) {
      copy_tile<OTHER>(k_tile + TILE_BYTES - now, k_from, groups * D, key + OTHER, n);
      copy_tile<OTHER>(v_tile + TILE_BYTES - now, v_from, groups * D, key + OTHER, n);
      end_of_copies();
    }
    if (key > bottom || key + OTHER <= top_low) continue;
    float s[MT][OTHER / 8][4];
    multiply_rows(s, queries, k_tile + now);
    if (CAPPED) {
#pragma unroll
      for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int c = 0; c < OTHER / 8; ++c) {
#pragma unroll
          for (int i = 0; i < 4; ++i) s[m][c][i] = tanh_of(s[m][c][i] * (scale / cap));
        }
      }
    }
    if (key + OTHER - 1 > top || key < bottom_low) {
#pragma unroll
      for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int c = 0; c < OTHER / 8; ++c) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int at = key + 8 * c + 2 * (lane % 4) + i % 2;
            if (at < lows[m][i / 2] || at > top + 16 * m + 8 * (i / 2) + lane / 4) s[m][c][i] = __int_as_float(0xff800000);
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float highest = tops[m][r];
#pragma unroll
        for (int c = 0; c < OTHER / 8; ++c) highest = fmaxf(highest, fmaxf(s[m][c][2 * r], s[m][c][2 * r + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, 2));
        const float base = highest == __int_as_float(0xff800000) ? 0.0f : highest * unit;
        const float less = power_of_2(tops[m][r] * unit - base);
        tops[m][r] = highest;
        float sum = sums[m][r] * less;
#pragma unroll
        for (int c = 0; c < OTHER / 8; ++c) {
          s[m][c][2 * r] = power_of_2(s[m][c][2 * r] * unit - base);
          s[m][c][2 * r + 1] = power_of_2(s[m][c][2 * r + 1] * unit - base);
          sum += s[m][c][2 * r] + s[m][c][2 * r + 1];
        }
        sums[m][r] = sum;
#pragma unroll
        for (int c = 0; c < D / 8; ++c) {
          acc[m][c][2 * r] *= less;
          acc[m][c][2 * r + 1] *= less;
        }
      }
    }
    add_rows(acc, s, v_tile + now);
  }
  float factors[MT][2];
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = sums[m][r];
      sum += __shfl_xor_sync(0xffffffff, sum, 1);
      sum += __shfl_xor_sync(0xffffffff, sum, 2);
      factors[m][r] = 1.0f / sum;
      const int row = top + 16 * m + 8 * r + lane / 4;
      if (lane % 4 == 0 && row < n) lse[size_t(head) * n + row] = tops[m][r] * unit + __log2f(sum);
    }
  }
  store_strip(acc, factors, q_tile, out + head * D, heads * D, begin, n);
)";

} // namespace temper::gpu
