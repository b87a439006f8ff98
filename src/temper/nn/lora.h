// LoRA: a trainable low-rank update to a frozen linear layer.
// Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
// Dims: I in_features, O out_features, R rank, ... any leading dims.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "temper/nn/params.h"

namespace temper {

struct LoraConfig {
  int rank = 8;
  float scale = 20.0F;  // alpha / rank
  float dropout = 0.0F; // probability, on the input of A
};

// One layer's factors: A [I, R] and B [R, O], stored as "<layer>.lora_a" and "<layer>.lora_b".
struct LoraPair {
  mx::array a;
  mx::array b;
};

// Returns y + scale (dropout(x) A) B for x [..., I], y [..., O], in y's dtype; A and B are cast to x's dtype.
// `dropout_key`: uint32 [2], none outside training.
// Lazy; differentiable in x, y, A, B. Throws ModelError, with both shapes, if they disagree.
mx::array apply_lora(const LoraConfig& config, const LoraPair& pair, const mx::array& x, const mx::array& y,
                     const std::optional<mx::array>& dropout_key = std::nullopt);

// Fresh factors, fp32, for layers of shape [O, I] by name: A uniform in +-1/sqrt(I) as mlx-lm draws it, B zero.
// The key of a layer depends on `seed` and its name only. Evaluated.
Params init_lora(const LoraConfig& config, const std::vector<std::pair<std::string, mx::Shape>>& layers,
                 std::uint64_t seed);

// The merged weight W + scale (A B)^T, for W [O, I], in W's dtype. Lazy.
mx::array merge_lora(const LoraConfig& config, const LoraPair& pair, const mx::array& weight);

} // namespace temper
