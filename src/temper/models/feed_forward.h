// The second half of a block: a gated feed-forward layer, or a mixture of experts of such.
// Dims: B rows, T tokens a row, E hidden_size.
#pragma once

#include <optional>

#include "temper/models/block_part.h"

namespace temper {

// A feed-forward layer without experts over its norm of h [B, T, E]. Lazy; differentiable.
HalfBlock dense_ffn(const DecoderSpec& spec, ForwardContext& context, int layer, const mx::array& h);

struct MixtureOutput {
  HalfBlock half;
  mx::array load_balance; // moe.h's, a fp32 scalar
};

// A mixture of experts over its norm of h [B, T, E]. Lazy; differentiable.
MixtureOutput expert_ffn(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                         const mx::array& h);

} // namespace temper
