// mlx-lm's `lora_parameters`, with what else low-rank methods need.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "temper/base/json.h"
#include "temper/config/field.h"

namespace temper {

// Layers that differ in rank or weight: PEFT's rank_pattern and alpha_pattern.
struct LoraLayerRule {
  std::string match; // a glob of the layer's whole name: * any characters, ? one
  std::optional<int> rank;
  std::optional<double> alpha;
  std::optional<double> scale;
};

struct LoraParameters {
  int rank = 8;
  std::optional<double> alpha;    // scale = alpha / rank; not together with scale
  double scale = 20.0;            // multiplies x A B
  double dropout = 0.0;           // on the input of A
  std::vector<std::string> keys;  // e.g. self_attn.q_proj; empty: every linear of the block
  bool use_rslora = false;        // scale = alpha / sqrt(rank)
  std::optional<double> lr_ratio; // LoRA+: learning rate of B over that of A
  std::string init = "default";   // default, pissa, pissa_niter_N
  Json layers = nullptr;          // lora_layer_rules()

  // The visit list's part.
  void list(FieldList& fields);

  // alpha / rank (rsLoRA: alpha / sqrt(rank)) if alpha is set, else scale.
  double layer_scale() const;
  bool is_pissa() const;
  // Power iterations of `pissa_niter_N`; none: the exact decomposition. Throws ConfigError.
  std::optional<int> pissa_iterations() const;
  // What `layers` says, in its order: the first rule that fits a layer counts. Throws ConfigError.
  std::vector<LoraLayerRule> layer_rules() const;
  // As the layers that `rule` fits have it: rank, alpha and scale replaced.
  LoraParameters with(const LoraLayerRule& rule) const;
};

// Throws ConfigError if the members disagree with each other or with `fine_tune_type`.
void check_lora(const LoraParameters& parameters, const std::string& fine_tune_type);

// The first rule that fits; nullptr if none does.
const LoraLayerRule* rule_of(const std::vector<LoraLayerRule>& rules, const std::string& layer);

} // namespace temper
