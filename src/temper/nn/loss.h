// Next-token cross entropy over supervised positions only, in chunks, with the gradient formed in the
// forward pass, so that the full logits never exist.
// Source: the chunking of Wijmans et al. 2024, arXiv:2411.09009 (cut cross entropy) and Liger,
// arXiv:2410.10989, section 3.2; here with plain matrix products.
// Dims: N tokens of the batch, S supervised positions (padded to a multiple), E hidden, V vocabulary.
#pragma once

#include <optional>

#include "temper/nn/params.h"

namespace temper {

// The positions that count, as the host gathers them.
struct LossTargets {
  mx::array positions_S; // int32 into N
  mx::array targets_S;   // int32 token ids; 0 where the weight is 0
  mx::array weights_S;   // fp32: 1 / the global count of supervised tokens, 0 for padding
};

// Sum over S of weight * (-log softmax(hidden W^T)[target]), a fp32 scalar.
// hidden [N, E]; head [V, E]; log-sum-exp in fp32. Lazy; differentiable in hidden, and in head if
// `head_trainable`. `chunk` bounds the rows of logits alive at once; 0: all at once.
mx::array chunked_cross_entropy(const mx::array& hidden_NE, const mx::array& head_VE,
                                const LossTargets& targets, bool head_trainable, int chunk);

// The plain twin: the same value from the full logits, by MLX's own operators.
mx::array plain_cross_entropy(const mx::array& hidden_NE, const mx::array& head_VE, const LossTargets& targets);

// The value alone, in chunks: evaluation without a gradient.
mx::array cross_entropy_value(const mx::array& hidden_NE, const mx::array& head_VE, const LossTargets& targets,
                              int chunk);

} // namespace temper
