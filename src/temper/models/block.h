// One block of the decoder: a mixer (attention or what stands for it) and a feed-forward layer, each with its
// norms, on a residual stream.
// Dims: B rows, T tokens a row, E hidden_size, X experts.
#pragma once

#include <optional>
#include <vector>

#include "temper/models/spec.h"
#include "temper/nn/attention.h"
#include "temper/nn/linear.h"

namespace temper {

// What every block of a pass reads.
struct PassInput {
  AttentionPlan attention;
  mx::array positions_BT;       // int32, restarting with each document
  std::vector<RopeTable> ropes; // as DecoderSpec::ropes
  std::optional<mx::array> real_BT{};
  bool recomputed = false; // the block as a whole is, so that its parts need not be
};

struct BlockOutput {
  mx::array x_BTE;
  std::optional<mx::array> load_balance; // a layer of experts' (moe.h), a fp32 scalar
};

// The norm "<name>.weight" of x's last axis. Lazy.
mx::array norm(const DecoderSpec& spec, const ForwardContext& context, const std::string& name,
               const mx::array& x);

// Lazy; differentiable. Dropout keys depend on `layer`, so that recomputing the block draws the same masks.
BlockOutput block(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                  const mx::array& x_BTE);

} // namespace temper
