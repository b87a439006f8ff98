// A model and an adapter of it as one set of weights.
// Sources: as nn/lora.h; experts as nn/moe.h.
#pragma once

#include "temper/models/spec.h"
#include "temper/nn/lora.h"

namespace temper {

// `params` (mlx-lm's names, unpacked) with everything that `adapter` holds for them: factors and magnitudes
// merged into their layers' weights, computed in fp32, and whole tensors in the place of theirs. Every tensor
// keeps its dtype. Lazy. Throws ModelError naming a tensor that `params` does not have.
Params merge_adapter(const DecoderSpec& spec, Params params, const LoraConfig& lora, const Params& adapter);

} // namespace temper
