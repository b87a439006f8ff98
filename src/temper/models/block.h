// One block of the decoder: a mixer (attention or what stands for it) and a feed-forward layer, each with its
// norms, on a residual stream.
// Dims: B rows, T tokens a row, E hidden_size, X experts.
#pragma once

#include <optional>

#include "temper/models/block_part.h"

namespace temper {

struct BlockOutput {
  mx::array x_BTE;
  std::optional<mx::array> load_balance; // a layer of experts' (moe.h), a fp32 scalar
};

// Lazy; differentiable. Dropout keys depend on `layer`, so that recomputing the block draws the same masks.
BlockOutput block(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                  const mx::array& x_BTE);

} // namespace temper
