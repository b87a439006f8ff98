// A linear layer by name: dense weight, optional bias, optional LoRA factors on top.
#pragma once

#include <optional>
#include <string>

#include "temper/nn/lora.h"
#include "temper/nn/params.h"

namespace temper {

// What a forward pass needs beside its input.
struct ForwardContext {
  ParamView params;
  LoraConfig lora;
  std::optional<mx::array> dropout_key; // uint32 [2]; none outside training
  std::uint32_t dropout_site = 0;       // counts the layers that have drawn a key
};

// The weight "<name>.weight" [..., O, I] as a matrix to multiply with, in `dtype`. Lazy. Throws ModelError
// naming the tensor if its last dimension is not `in_features`.
mx::array dense_weight(const ParamView& params, const std::string& name, int in_features, mx::Dtype dtype);

// Rows `tokens` [...] of the embedding "<name>.weight" [V, E], as `dtype` [..., E]. Lazy.
mx::array embed(ForwardContext& context, const std::string& name, const mx::array& tokens, mx::Dtype dtype);

// x [..., I] -> [..., O] with "<name>.weight" [O, I], "<name>.bias" [O] and "<name>.lora_a/.lora_b" where
// they exist. Lazy. Throws ModelError naming the tensor if shapes disagree.
mx::array linear(ForwardContext& context, const std::string& name, const mx::array& x);

} // namespace temper
