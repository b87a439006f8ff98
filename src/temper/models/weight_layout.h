// From a checkpoint's tensors to our (mlx-lm's) names and layout, and back to the hub's.
// Dims: X experts, O, I a weight's out and in features, C channels, K taps.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "temper/models/spec.h"
#include "temper/nn/params.h"

namespace temper {

// How a family's checkpoints on the hub differ from mlx-lm's layout. What is there already in mlx-lm's layout
// stays as it is, so that its converted folders load too.
struct WeightLayout {
  // Beginnings of names, theirs and ours; the first that fits is put in place.
  std::vector<std::pair<std::string, std::string>> prefixes = {};
  // Whether the hub's checkpoints have both kinds of beginnings: ours are then written as they are.
  bool keep_prefixes = false;
  // Parts of names, all put in place, in this order.
  std::vector<std::pair<std::string, std::string>> renames = {};
  // Tensors whose names hold one of these are not parameters of the language model, and left out.
  std::vector<std::string> left_out = {};
  // "block_sparse_moe.experts." of "block_sparse_moe.experts.3.w1.weight": experts stored one by one. They are
  // stacked as "<stacked_experts>w1.weight" [X, O, I] before the renames.
  std::string expert_part = {};
  std::string stacked_experts = {};
  // What else it takes, after the rest.
  Params (*rearrange)(const DecoderSpec& spec, Params params) = nullptr;
  // Its inverse, to the hub's layout.
  Params (*restore)(const DecoderSpec& spec, Params params) = nullptr;
};

// Lazy. Throws ModelError, with `origin`, if two tensors get one name or an expert's tensor is missing.
Params import_weights(const WeightLayout& layout, const DecoderSpec& spec, const Params& stored,
                      const std::string& origin);

// The inverse: parameters, unpacked, as the family's checkpoints on the hub have them, so that transformers
// loads them; import_weights() gives the same parameters back. Lazy.
Params export_weights(const WeightLayout& layout, const DecoderSpec& spec, Params params);

// The tensors that import_weights() leaves out.
Params left_out_weights(const WeightLayout& layout, const Params& stored);

// Convolution weights [C, 1, K] as torch has them, turned into MLX's [C, K, 1], where the name holds `part`.
Params transpose_convolutions(Params params, const std::string& part);

// The inverse: MLX's [C, K, 1] as torch's [C, 1, K].
Params restore_convolutions(Params params, const std::string& part);

} // namespace temper
