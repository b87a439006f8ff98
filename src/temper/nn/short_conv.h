// Causal depthwise convolution over time with few taps: LFM2's short convolution, and the one before the gated
// delta rule in Qwen3.5.
// Sources: Amini et al. 2025, arXiv:2511.23404 (LFM2); Yang et al. 2024, arXiv:2412.06464.
// Dims: B rows, T tokens a row, C channels, K taps.
#pragma once

#include <optional>

#include "temper/nn/params.h"

namespace temper {

struct ShortConvResult {
  mx::array y_BTC;
  mx::array state; // [B, K - 1, C]: the columns that the next call needs
};

// y_t = bias + sum_k weight[K - 1 - k] x_{t - k}, k = 0 ... K - 1, in x's dtype. `weight` [C, K, 1], as mlx-lm
// and MLX's conv1d have it; `bias` [C].
// `positions` int32 [B, T] (or [1, T]), restarting at 0 with each document: tap k counts only where the
// position is at least k, so documents of a row never meet and padding at position 0 is cut off from what
// follows it. Without positions a row is one document. `state`: the K - 1 columns before x; none: zeros. Lazy;
// differentiable in x, weight, bias and state. Throws ModelError, with the shapes, if they disagree.
ShortConvResult short_conv(const mx::array& x_BTC, const mx::array& weight,
                           const std::optional<mx::array>& bias = std::nullopt,
                           const std::optional<mx::array>& positions_BT = std::nullopt,
                           const std::optional<mx::array>& state = std::nullopt);

} // namespace temper
