// Rotary position embeddings and the ways of stretching them to longer texts.
// Sources: Su et al. 2021, arXiv:2104.09864 (rope); Chen et al. 2023, arXiv:2306.15595 (linear);
// dynamic NTK and yarn: Peng et al. 2023, arXiv:2309.00071; longrope: Ding et al. 2024, arXiv:2402.13753;
// llama3: the Llama 3.1 model card's scaling, as transformers' modeling_rope_utils.py computes it. Dims: B
// rows, T positions, H heads, D head_dim, K = rotated dims / 2.
#pragma once

#include <optional>
#include <vector>

#include "temper/nn/params.h"

namespace temper {

enum class RopeType { plain, linear, dynamic, llama3, yarn, longrope };

struct RopeSpec {
  RopeType type = RopeType::plain;
  int dims = 0; // rotated features of a head, from the first
  float base = 10000.0F;
  float factor = 1.0F;                // linear, dynamic, llama3, yarn
  int max_positions = 0;              // dynamic: beyond it the base grows
  int original_max_positions = 0;     // llama3, yarn, longrope
  float low_freq_factor = 1.0F;       // llama3
  float high_freq_factor = 4.0F;      // llama3
  float beta_fast = 32.0F;            // yarn
  float beta_slow = 1.0F;             // yarn
  bool truncate = true;               // yarn: whole-number correction range
  float magnitude = 1.0F;             // multiplies cos and sin (yarn's and longrope's attention factor)
  std::vector<float> short_factors{}; // longrope: [dims / 2] divisors of the frequencies
  std::vector<float> long_factors{};  // longrope: those of texts beyond original_max_positions
};

// Whether a text's length changes its tokens' angles (dynamic, longrope).
bool depends_on_length(const RopeSpec& spec);

// What of `length` the angles depend on: texts of equal stages have equal frequencies.
int rope_stage(const RopeSpec& spec, int length);

// Radians a position, [K]. `length`: the text's tokens, where depends_on_length().
std::vector<float> rope_frequencies(const RopeSpec& spec, int length);

// cos and sin of every token's angles, fp32 [B, 1, T, K], with the magnitude.
struct RopeTable {
  mx::array cos_B1TK;
  mx::array sin_B1TK;
  // Where rows' tokens stand one after the other from these positions, int32 [B], and MLX's kernel serves: what
  // it takes in place of the table.
  std::optional<mx::array> offsets_B{};
  std::optional<mx::array> periods_K{}; // fp32: positions a radian
};

// `positions` int32 [B, T]; `lengths` int32 [B, T], each token's document length, read where
// depends_on_length() (none: the largest position + 1 of all). Lazy.
RopeTable make_rope_table(const RopeSpec& spec, const mx::array& positions_BT,
                          const std::optional<mx::array>& lengths_BT);

// Lets a GPU turn tokens that stand one after the other from `offsets` (int32 [B]) on by MLX's kernel, if it
// can the way of `spec`. Elsewhere the table is as fast.
void use_rope_kernel(const RopeSpec& spec, const mx::array& offsets_B, RopeTable& table);

// Angles of zero: for layers without rope, where a kernel wants a table all the same. [1, 1, T, K].
RopeTable identity_rope_table(int num_tokens, int half);

// Rotates x [B, H, T, D] pairwise (feature k with k + K), in x's dtype. Lazy, differentiable in x.
mx::array apply_rope(const RopeTable& table, const mx::array& x_BHTD);

// Whether rope_rows() turns x [B, T, H D] with the table.
bool rope_rows_serves(const RopeTable& table, const mx::array& x_BTC, int num_heads);

// apply_rope() of all heads' features side by side, x [B, T, H D], by a GPU kernel. Lazy, differentiable in x.
mx::array rope_rows(const RopeTable& table, const mx::array& x_BTC, int num_heads);

} // namespace temper
