// A linear layer by name: dense or packed weight, optional bias, optional LoRA factors on top.
#pragma once

#include <optional>
#include <string>

#include "temper/nn/lora.h"
#include "temper/nn/params.h"
#include "temper/quant/packed.h"

namespace temper {

// What a forward pass needs beside its input.
struct ForwardContext {
  ParamView params;
  LoraConfig lora;
  std::optional<mx::array> dropout_key; // uint32 [2]; none outside training
  std::uint32_t dropout_site = 0;       // counts the layers that have drawn a key
};

// The weight "<name>.weight" with its ".scales" (and ".biases"), where it is packed. Throws ModelError naming
// the tensor if they are no packed matrix for `in_features`.
std::optional<PackedWeight> packed_weight(const ParamView& params, const std::string& name, int in_features);

// The weight "<name>.weight" [..., O, I] as a matrix to multiply with, in `dtype`; a packed one unpacked. Lazy.
// Throws ModelError naming the tensor if its last dimension is not `in_features`.
mx::array dense_weight(const ParamView& params, const std::string& name, int in_features, mx::Dtype dtype);

// Rows `tokens` [...] of the embedding "<name>.weight" [V, E], as `dtype` [..., E]; of a packed one these rows
// alone are unpacked. Lazy.
mx::array embed(ForwardContext& context, const std::string& name, const mx::array& tokens, int features,
                mx::Dtype dtype);

// x [..., I] -> [..., O] with "<name>.weight" [O, I], "<name>.bias" [O] and "<name>.lora_a/.lora_b" where
// they exist. Lazy. Throws ModelError naming the tensor if shapes disagree.
mx::array linear(ForwardContext& context, const std::string& name, const mx::array& x);

} // namespace temper
