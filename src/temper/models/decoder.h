// The one decoder: token ids to hidden states to logits, as a pure function of parameters and batch.
// Dims: B rows, T tokens a row, N selected tokens, E hidden_size, V vocab_size, O, I a weight's out, in.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "temper/models/spec.h"
#include "temper/nn/attention.h"
#include "temper/nn/linear.h"

namespace temper {

struct DecoderInput {
  mx::array tokens_BT;                     // int32
  std::optional<mx::array> positions_BT{}; // int32; none: 0 .. T-1 after the cache's offset
  std::optional<mx::array> lengths_BT{};   // int32, each token's document length (rope.h); none: the row's end
  AttentionPlan attention{};
  bool checkpoint = false; // recompute each block in the backward pass instead of keeping its activations
};

// Every tensor that the spec asks for, with its shape, by mlx-lm's name.
std::vector<std::pair<std::string, mx::Shape>> expected_tensors(const DecoderSpec& spec);

// The linear layers of the last `num_layers` blocks (-1: all): full names without ".weight", with shapes
// [O, I], in the blocks' order. `keys` (e.g. "self_attn.q_proj") selects; empty: every linear of the block.
// Throws ConfigError naming a key that matches none, with the choices.
std::vector<std::pair<std::string, mx::Shape>> adaptable_layers(const DecoderSpec& spec, int num_layers,
                                                                const std::vector<std::string>& keys);

// Hidden states after the final norm, [B, T, E], in the embedding's dtype. Lazy.
mx::array decoder_hidden(const DecoderSpec& spec, ForwardContext& context, const DecoderInput& input);

// The head's weight [V, E]: the embedding when tied.
const mx::array& head_weight(const DecoderSpec& spec, const ParamView& params);

// hidden [..., E] -> logits [..., V], in hidden's dtype. Lazy.
mx::array decoder_logits(const DecoderSpec& spec, const ParamView& params, const mx::array& hidden);

} // namespace temper
