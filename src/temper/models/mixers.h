// The first half of a block: attention, or what stands for it.
// Dims: B rows, T tokens a row, E hidden_size.
#pragma once

#include "temper/models/block_part.h"

namespace temper {

// The layer's mixer over its norm of the block's input x [B, T, E]. Lazy; differentiable.
HalfBlock mixer(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                const mx::array& x);

} // namespace temper
