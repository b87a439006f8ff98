// Next-token cross entropy over supervised positions only, in chunks, with the gradient formed in the
// forward pass, so that the full logits never exist.
// Source: the chunking of Wijmans et al. 2024, arXiv:2411.09009 (cut cross entropy) and Liger,
// arXiv:2410.10989, section 3.2; here with plain matrix products.
// Dims: N tokens of the batch, S supervised positions (padded to a multiple), E hidden, V vocabulary,
//       R rank.
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

// How hidden states h [.., E] become logits: cap(logit_scale * m (h W^T + h A B)), where the parts exist.
// An adapter stays apart from W, so that its gradient never has W's size.
struct Head {
  mx::array weight_VE;
  bool trainable = false;                 // a gradient in W is wanted
  std::optional<mx::array> lora_a_ER{};   // times the adapter's scale
  std::optional<mx::array> lora_b_RV{};   // with lora_a_ER
  float dropout = 0.0F;                   // probability, on the input of lora_a_ER
  std::optional<mx::array> dropout_key{}; // uint32 [2]; none outside training
  std::optional<mx::array> magnitude_V{}; // a factor a row of W (DoRA)
  float logit_scale = 1.0F;
  float softcap = 0.0F; // logits z become softcap tanh(z / softcap); 0: none
};

// [..., E] -> [..., V], in hidden's dtype. `product`: h W^T, where it is at hand without W. Lazy,
// differentiable.
mx::array head_logits(const Head& head, const mx::array& hidden,
                      const std::optional<mx::array>& product = std::nullopt);

// Sum over S of weight * (-log softmax(logits)[target]), a fp32 scalar, for hidden [N, E].
// Log-sum-exp in fp32. Lazy; differentiable in hidden, in the head's adapter, and in W if it is trainable.
// `chunk` bounds the rows of logits alive at once; 0: all at once.
mx::array chunked_cross_entropy(const mx::array& hidden_NE, const Head& head, const LossTargets& targets,
                                int chunk);

// The plain twin: the same value from the full logits, by MLX's own operators.
mx::array plain_cross_entropy(const mx::array& hidden_NE, const Head& head, const LossTargets& targets);

// The value alone, in chunks: evaluation without a gradient.
mx::array cross_entropy_value(const mx::array& hidden_NE, const Head& head, const LossTargets& targets,
                              int chunk);

} // namespace temper
