// The CUDA source of the kernels with low-rank products, on tensor cores by mma.sync: as gpu_sources.h.
//
// A warp's lane is (g, t) = (lane / 4, lane % 4). In mma.m16n8k16 it holds of the left matrix rows g and g + 8
// and places 2t, 2t + 1, 2t + 8, 2t + 9 of the sum, of the right one column g at the same places, of the result
// rows g and g + 8 and columns 2t, 2t + 1. The sum's places and the result's columns may be any permutation of
// those in memory: the ones here let each lane load and store 16 bytes that lie together.
// Source of the layout: NVIDIA's PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".
#pragma once

namespace temper::gpu {

inline constexpr const char* kMmaHeader = R"(
__device__ inline void mma16(float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32." HALF "." HALF ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ inline void mma8(float (&c)[4], unsigned a0, unsigned a1, unsigned b0) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32." HALF "." HALF ".f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(b0));
}
// A pair of halves in one register, zero where it is not there.
__device__ inline unsigned pair_of(const T* low, bool has_low, const T* high, bool has_high) {
  const unsigned a = has_low ? low->bits : 0;
  const unsigned b = has_high ? high->bits : 0;
  return a | b << 16;
}
union Words {
  uint4 all;
  unsigned at[4];
};
__device__ inline Words load_words(const T* from, bool is_there, bool is_aligned = true) {
  Words w;
  w.all = is_there && is_aligned ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
  if (is_there && !is_aligned) {
#pragma unroll
    for (int i = 0; i < 4; ++i) w.at[i] = pair_of(from + 2 * i, true, from + 2 * i + 1, true);
  }
  return w;
}
)";

// A low-rank product over a tile of 16 rows and 32 columns, of which a lane has columns 8t to 8t + 7 of two
// rows: acc[j] holds columns 8t + 2j and 8t + 2j + 1 of row g, then of row g + 8.
inline constexpr const char* kTileHeader = R"(
template <int R>
struct Factor {
  unsigned at[(R + 7) / 8][4];
  __device__ void load(const T* factor, int columns, int begin, int g, int t) {
#pragma unroll
    for (int s = 0; s < (R + 7) / 8; ++s) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int k = 8 * s + 2 * t;
        const int column = begin + 8 * (g / 2) + 2 * j + g % 2;
        const T* from = factor + size_t(k) * columns + column;
        at[s][j] = pair_of(from, k < R && column < columns, from + columns, k + 1 < R && column < columns);
      }
    }
  }
  // EVEN: narrow pairs lie on four bytes.
  template <bool EVEN>
  __device__ void add_product(float (&acc)[4][4], const T* narrow, int stride, size_t top, size_t bottom, int t) const {
#pragma unroll
    for (int s = 0; s < (R + 7) / 8; ++s) {
      const int k = 8 * s + 2 * t;
      const T* a = narrow + top * stride + k;
      const T* b = narrow + bottom * stride + k;
      unsigned a0 = 0;
      unsigned a1 = 0;
      if (EVEN && k < R) {
        a0 = *reinterpret_cast<const unsigned*>(a);
        a1 = *reinterpret_cast<const unsigned*>(b);
      } else if (!EVEN) {
        a0 = pair_of(a, k < R, a + 1, k + 1 < R);
        a1 = pair_of(b, k < R, b + 1, k + 1 < R);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) mma8(acc[j], a0, a1, at[s][j]);
    }
  }
};
__device__ inline void add_eight(float (&acc)[4][4], int half, const Eight& v) {
#pragma unroll
  for (int j = 0; j < 8; ++j) acc[j / 2][half + j % 2] += float(v.at[j]);
}
)";

// Where a warp of the kernels over tiles stands: 32 columns from `begin` on, TILES tiles of rows from `first`
// on. A lane of the last columns that has none left goes along, for mma takes whole warps.
inline constexpr const char* kPlace = R"(
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int across = (columns + 255) / 256;
  const int begin = blockIdx.x % across * 256 + threadIdx.x / 32 * 32;
  if (begin >= columns) return;
  const int at = begin + 8 * t;
  const bool inside = at < columns;
  const size_t first = size_t(blockIdx.x / across) * (16 * TILES);
  const size_t last = rows - 1;
  Eight none;
#pragma unroll
  for (int j = 0; j < 8; ++j) none.at[j] = T(0.0f);
)";

inline constexpr const char* kAddLowRank = R"(
  Factor<R> f;
  f.load(factor, columns, begin, g, t);
  for (int tile = 0; tile < TILES; ++tile) {
    const size_t row = first + 16 * tile + g;
    if (row - g > last) break;
    float acc[4][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const size_t own = row + 8 * half < last ? row + 8 * half : last;
      if (inside) {
        add_eight(acc, 2 * half, load_eight(base + own * columns + at, 0));
        if (BASES > 1) add_eight(acc, 2 * half, load_eight(base2 + own * columns + at, 0));
        if (BASES > 2) add_eight(acc, 2 * half, load_eight(base3 + own * columns + at, 0));
      }
    }
    f.add_product<EVEN != 0>(acc, narrow + FIRST, STRIDE, row < last ? row : last, row + 8 < last ? row + 8 : last, t);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Eight y;
#pragma unroll
      for (int j = 0; j < 8; ++j) y.at[j] = T(acc[j / 2][2 * half + j % 2]);
      if (inside && row + 8 * half <= last) store_eight(out + (row + 8 * half) * columns + at, 0, y);
    }
  }
)";

inline constexpr const char* kAdaptedSwiglu = R"(
  Factor<GATE_R> of_gate;
  Factor<UP_R> of_up;
  of_gate.load(gate_factor, columns, begin, g, t);
  of_up.load(up_factor, columns, begin, g, t);
  for (int tile = 0; tile < TILES; ++tile) {
    const size_t row = first + 16 * tile + g;
    if (row - g > last) break;
    const size_t top = row < last ? row : last;
    const size_t bottom = row + 8 < last ? row + 8 : last;
    float a[4][4] = {};
    float u[4][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const size_t own = (half == 0 ? top : bottom) * columns + at;
      add_eight(a, 2 * half, inside ? load_eight(gate + own, 0) : none);
      add_eight(u, 2 * half, inside ? load_eight(up + own, 0) : none);
    }
    of_gate.add_product<EVEN != 0>(a, narrow + GATE_FIRST, STRIDE, top, bottom, t);
    of_up.add_product<EVEN != 0>(u, narrow + UP_FIRST, STRIDE, top, bottom, t);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Eight y;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float x = a[j / 2][2 * half + j % 2];
        y.at[j] = T(x / (1.0f + __expf(-x)) * u[j / 2][2 * half + j % 2]);
      }
      if (inside && row + 8 * half <= last) store_eight(out + (row + 8 * half) * columns + at, 0, y);
    }
  }
)";

inline constexpr const char* kAdaptedSwigluGradient = R"(
  Factor<GATE_R> of_gate;
  Factor<UP_R> of_up;
  Factor<D_R> of_d;
  of_gate.load(gate_factor, columns, begin, g, t);
  of_up.load(up_factor, columns, begin, g, t);
  of_d.load(d_factor, columns, begin, g, t);
  for (int tile = 0; tile < TILES; ++tile) {
    const size_t row = first + 16 * tile + g;
    if (row - g > last) break;
    const size_t top = row < last ? row : last;
    const size_t bottom = row + 8 < last ? row + 8 : last;
    float a[4][4] = {};
    float u[4][4] = {};
    float d[4][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const size_t own = (half == 0 ? top : bottom) * columns + at;
      add_eight(a, 2 * half, inside ? load_eight(gate + own, 0) : none);
      add_eight(u, 2 * half, inside ? load_eight(up + own, 0) : none);
      add_eight(d, 2 * half, inside ? load_eight(cotangent + own, 0) : none);
    }
    of_gate.add_product<EVEN != 0>(a, narrow + GATE_FIRST, STRIDE, top, bottom, t);
    of_up.add_product<EVEN != 0>(u, narrow + UP_FIRST, STRIDE, top, bottom, t);
    of_d.add_product<D_EVEN != 0>(d, d_narrow + D_FIRST, D_STRIDE, top, bottom, t);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Eight dg, du, y;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float x = a[j / 2][2 * half + j % 2];
        const float v = u[j / 2][2 * half + j % 2];
        const float c = d[j / 2][2 * half + j % 2];
        const float s = __fdividef(1.0f, 1.0f + __expf(-x));
        du.at[j] = T(c * x * s);
        dg.at[j] = T(c * v * s * (1.0f + x * (1.0f - s)));
        y.at[j] = T(x * s * v);
      }
      if (!inside || row + 8 * half > last) continue;
      const size_t own = (row + 8 * half) * columns + at;
      store_eight(d_gate + own, 0, dg);
      store_eight(d_up + own, 0, du);
      store_eight(out + own, 0, y);
    }
  }
)";

// scale x f^T for 16 TILES rows of x [rows, K], f [R, K]: eight warps share out the sum and add their parts up.
inline constexpr const char* kNarrowHeader = R"(
template <int R, int K>
__device__ inline void narrow_product(const T* x, const T* f, T* out, int stride, int rows, int block, float scale,
                                      float (*parts)[32]) {
  constexpr int N = (R + 7) / 8;
  constexpr int COUNT = TILES * N * 4;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int first = block * (16 * TILES);
  // A factor may lie anywhere in an array of all parameters.
  const bool is_aligned = reinterpret_cast<size_t>(f) % 16 == 0;
  const T* from[2 * TILES];
#pragma unroll
  for (int i = 0; i < 2 * TILES; ++i) {
    const int row = first + 8 * i + g;
    from[i] = x + size_t(row < rows ? row : rows - 1) * K + 8 * t;
  }
  float acc[TILES][N][4] = {};
  for (int begin = 64 * warp; begin < K; begin += 64 * 8) {
    Words w[2][2 * TILES];
    Words v[2][N];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int k = begin + 32 * h;
      const bool inside = k + 8 * t < K;
#pragma unroll
      for (int i = 0; i < 2 * TILES; ++i) w[h][i] = load_words(from[i] + k, inside);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        v[h][n] = load_words(f + size_t(8 * n + g) * K + k + 8 * t, inside && 8 * n + g < R, is_aligned);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int s = 0; s < 4; s += 2) {
#pragma unroll
        for (int m = 0; m < TILES; ++m) {
#pragma unroll
          for (int n = 0; n < N; ++n) {
            mma16(acc[m][n], w[h][2 * m].at[s], w[h][2 * m + 1].at[s], w[h][2 * m].at[s + 1], w[h][2 * m + 1].at[s + 1],
                  v[h][n].at[s], v[h][n].at[s + 1]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int half = 4; half > 0; half /= 2) {
    if (warp >= half && warp < 2 * half) {
#pragma unroll
      for (int i = 0; i < COUNT; ++i) parts[(warp - half) * COUNT + i][lane] = acc[i / (4 * N)][i / 4 % N][i % 4];
    }
    __syncthreads();
    if (warp < half) {
#pragma unroll
      for (int i = 0; i < COUNT; ++i) acc[i / (4 * N)][i / 4 % N][i % 4] += parts[warp * COUNT + i][lane];
    }
    __syncthreads();
  }
  if (warp > 0) return;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    const int row = first + 16 * (i / (4 * N)) + g + i % 4 / 2 * 8;
    const int column = 8 * (i / 4 % N) + 2 * t + i % 2;
    if (row < rows && column < R) out[size_t(row) * stride + column] = T(scale * acc[i / (4 * N)][i / 4 % N][i % 4]);
  }
}
)";

// narrow^T wide for 8 V columns of wide [rows, C] and R of narrow [rows, stride]: sixteen warps share out the
// rows and add their parts up. put(r, column, value) for each.
inline constexpr const char* kColumnHeader = R"(
template <int R, int C, int V, class Put>
__device__ inline void column_product(const T* wide, const T* narrow, int stride, int rows, int block, float (*parts)[32],
                                      const Put& put) {
  constexpr int M = (R + 15) / 16;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int column = block * (8 * V) + V * g;
  const bool inside = column < C;
  float acc[M][V][4] = {};
#pragma unroll 2
  for (int begin = 16 * warp; begin < rows; begin += 16 * 16) {
    unsigned w[4][V / 2];
    unsigned short n[4][2 * M];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = begin + 4 * t + i;
      const bool is_there = row < rows;
      const T* from = wide + size_t(row) * C + column;
      if (V == 8) {
        const uint4 v = inside && is_there ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
        w[i][0] = v.x;
        w[i][1] = v.y;
        w[i][V / 2 - 2] = v.z;
        w[i][V / 2 - 1] = v.w;
      } else {
        const uint2 v = inside && is_there ? *reinterpret_cast<const uint2*>(from) : make_uint2(0, 0);
        w[i][0] = v.x;
        w[i][1] = v.y;
      }
#pragma unroll
      for (int m = 0; m < 2 * M; ++m) {
        n[i][m] = is_there && 8 * m + g < R ? narrow[size_t(row) * stride + 8 * m + g].bits : 0;
      }
    }
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const unsigned pick = j % 2 == 0 ? 0x5410 : 0x7632;
      const unsigned b0 = __byte_perm(w[0][j / 2], w[1][j / 2], pick);
      const unsigned b1 = __byte_perm(w[2][j / 2], w[3][j / 2], pick);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        mma16(acc[m][j], n[0][2 * m] | unsigned(n[1][2 * m]) << 16, n[0][2 * m + 1] | unsigned(n[1][2 * m + 1]) << 16,
              n[2][2 * m] | unsigned(n[3][2 * m]) << 16, n[2][2 * m + 1] | unsigned(n[3][2 * m + 1]) << 16, b0, b1);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int half = 8; half > 0; half /= 2) {
      if (warp >= half && warp < 2 * half) {
#pragma unroll
        for (int i = 0; i < V * 4; ++i) parts[(warp - half) * (4 * V) + i][lane] = acc[m][i / 4][i % 4];
      }
      __syncthreads();
      if (warp < half) {
#pragma unroll
        for (int i = 0; i < V * 4; ++i) acc[m][i / 4][i % 4] += parts[warp * (4 * V) + i][lane];
      }
      __syncthreads();
    }
    if (warp > 0) continue;
    // Tile j's column n stands for column V n + j.
#pragma unroll
    for (int i = 0; i < V * 4; ++i) {
      const int r = 16 * m + g + i % 4 / 2 * 8;
      const int c = block * (8 * V) + V * (2 * t + i % 2) + i / 4;
      if (r < R && c < C) put(r, c, T(acc[m][i / 4][i % 4]));
    }
  }
}
)";

} // namespace temper::gpu
