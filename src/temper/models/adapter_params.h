// The parameters that an adapter adds to a model's layers: names and shapes, and their start.
// Dims: R rank, O, I a layer's out and in features, X experts.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "temper/models/tensors.h"
#include "temper/nn/lora.h"

namespace temper {

// By tensor name: "<layer>.lora_a" [I, R] and ".lora_b" [R, O]; of experts [X, R, I] and [X, O, R].
std::map<std::string, mx::Shape> adapter_shapes(const LoraConfig& config,
                                                const std::vector<MatrixLayer>& layers);

// Fresh parameters, fp32: the adapter changes nothing at first. A layer's key depends on `seed` and its name
// only. Evaluated.
Params init_adapter(const LoraConfig& config, const std::vector<MatrixLayer>& layers, std::uint64_t seed);

} // namespace temper
