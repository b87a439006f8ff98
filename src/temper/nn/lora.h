// Low-rank adapters: a trained update of rank R beside a frozen matrix.
// Sources: LoRA, Hu et al. 2021, arXiv:2106.09685, section 4.1; DoRA, Liu et al. 2024, arXiv:2402.09353, eq. 5
// and section 4.3 (the norm is a constant to the gradient).
// Dims: I in_features, O out_features, R rank, ... any leading dims.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "temper/nn/params.h"

namespace temper {

// What one layer has of its own.
struct LayerRank {
  int rank = 8;
  float scale = 20.0F;
};

struct LoraConfig {
  int rank = 8;
  float scale = 20.0F;                       // alpha / rank; rsLoRA: alpha / sqrt(rank)
  float dropout = 0.0F;                      // probability, on the input of A
  bool dora = false;                         // each layer also has a magnitude
  std::map<std::string, LayerRank> layers{}; // those that differ, by name

  // The same as the layer of that name sees it.
  LoraConfig of(const std::string& layer) const;
};

// One layer's factors: A [I, R] and B [R, O], stored as "<layer>.lora_a" and "<layer>.lora_b"; with DoRA also
// its magnitude "<layer>.m" [O].
struct LoraPair {
  mx::array a;
  mx::array b;
};

// The stored factors as they act on a weight [O, I]: an embedding's [V, E] go from its vocabulary V to its
// features E, so that they are turned round. Lazy.
LoraPair pair_of(const mx::array& a, const mx::array& b, bool embedding);

// Throws ModelError, with both shapes, if the factors are no layer's of these features.
void check_lora_shapes(const LoraPair& pair, int in_features, int out_features);

// Returns y + scale (dropout(x) A) B for x [..., I], y [..., O], in y's dtype; A and B are cast to x's dtype.
// `dropout_key`: uint32 [2], none outside training.
// Lazy; differentiable in x, y, A, B. Throws ModelError, with both shapes, if they disagree.
mx::array apply_lora(const LoraConfig& config, const LoraPair& pair, const mx::array& x, const mx::array& y,
                     const std::optional<mx::array>& dropout_key = std::nullopt);

// A row below this norm counts as zeros: smaller squares leave fp32's normal range.
constexpr float kSmallestNorm = 1e-18F;

// The Euclidean norm of each row of W [..., O, I], fp32 [..., O]: where DoRA's magnitude starts. Lazy.
mx::array row_norms(const mx::array& weight);

// The norm of each row of W + scale (A B)^T, fp32 [O], without forming that matrix:
//   |W_o|^2 + 2 scale (W A)_o . B_:o + scale^2 B_:o . (A^T A) B_:o
// from `norms_O` = row_norms(W) and `wa_RO` = (W A)^T. Never 0, so that a row of zeros stays one. A constant to
// the gradient. Lazy.
mx::array adapted_row_norms(const mx::array& norms_O, const mx::array& wa_RO, const LoraPair& pair,
                            float scale);

// Fresh factors, fp32, for layers of shape [O, I] by name: A uniform in +-1/sqrt(I) as mlx-lm draws it, B zero.
// The key of a layer depends on `seed` and its name only. Evaluated.
Params init_lora(const LoraConfig& config, const std::vector<std::pair<std::string, mx::Shape>>& layers,
                 std::uint64_t seed);

// The merged weight W + scale (A B)^T, for W [O, I], in W's dtype; with DoRA's `magnitude_O` its rows have that
// norm. Lazy.
mx::array merge_lora(const LoraConfig& config, const LoraPair& pair, const mx::array& weight,
                     const std::optional<mx::array>& magnitude_O = std::nullopt);

} // namespace temper
