// The tensors of a model, from its spec: names (mlx-lm's), shapes, and which layers can be adapted.
// Dims: O, I a weight's out and in features, X experts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "temper/models/spec.h"
#include "temper/nn/params.h"

namespace temper {

enum class LayerKind { linear, experts, router, embedding, head };

// A layer that multiplies by a matrix: "<name>.weight" [O, I] ([X, O, I] for experts), perhaps "<name>.bias".
struct MatrixLayer {
  std::string name;
  LayerKind kind = LayerKind::linear;
  int out_features = 0;
  int in_features = 0;
  int num_experts = 0; // 0: not stacked
  bool bias = false;

  mx::Shape weight_shape() const;
};

// Every such layer: embedding, the blocks' in order, the head if it has weights of its own.
std::vector<MatrixLayer> matrix_layers(const DecoderSpec& spec);

// Every tensor that the spec asks for, with its shape, unquantized.
std::vector<std::pair<std::string, mx::Shape>> expected_tensors(const DecoderSpec& spec);

// Elements over all of them: what a model's size is called.
std::int64_t num_parameters(const DecoderSpec& spec);

// "model.layers.3." and the block that a tensor belongs to; none: it lies outside of the blocks.
std::string block_prefix(const DecoderSpec& spec, int layer);
std::optional<int> block_of(const DecoderSpec& spec, const std::string& tensor);

// A layer's name within its block ("self_attn.q_proj"); the whole name for the embedding and the head
// ("model.embed_tokens", "lm_head"): what lora_parameters.keys holds, as in mlx-lm.
std::string layer_key(const DecoderSpec& spec, const std::string& layer);

// The first of the last `num_layers` blocks, which the setting of that name trains; all if it is negative.
int first_trained_block(const DecoderSpec& spec, int num_layers);

// The layers of the last `num_layers` blocks (-1: all) that adapters go on, in the blocks' order. `keys` (e.g.
// "self_attn.q_proj", "embed_tokens", "lm_head"; outside of the blocks the last part will do) selects; empty:
// every linear and expert layer of the blocks, no router. Throws ConfigError naming a key that matches none,
// with the choices; `setting` is where the keys were given.
std::vector<MatrixLayer> adaptable_layers(const DecoderSpec& spec, int num_layers,
                                          const std::vector<std::string>& keys,
                                          const std::string& setting = "lora_parameters.keys");

} // namespace temper
