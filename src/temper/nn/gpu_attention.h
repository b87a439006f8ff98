// Causal attention over packed documents on a CUDA device, forward and backward, by kernels of our own: tokens
// stay where they lie, all heads side by side, and a token's work is its document's before it. The same numbers
// each time, in any batch. Half precisions; scores, sums and softmax in fp32.
// Source: FlashAttention-2, Dao 2023, arXiv:2307.08691; grouped queries: Ainslie et al. 2023, arXiv:2305.13245.
// Dims: B rows, T tokens a row, N = B T, H query heads, G key heads, D head_dim.
#pragma once

#include <optional>

#include "temper/nn/params.h"

namespace temper::gpu {

struct AttentionOptions {
  int num_heads;
  int num_kv_heads;
  float scale = 1.0F;
  int window = 0;       // > 0: a query sees its own and the window - 1 keys before it
  float softcap = 0.0F; // > 0: scores s become softcap tanh(s / softcap)
};

// Whether there are kernels for heads of this width on the device that MLX computes on.
bool attention_serves(mx::Dtype dtype, int head_dim);

// softmax(cap(q k^T scale) + mask) v -> [B, T, H D], for q [B, T, H D], k and v [B, T, G D]. spans int32 [2,
// N]: for each token of N the first one of its document, then the one after its document's last; without them a
// row is a document. Keeps q, k, v, the result and a number a token and head for the backward pass. Lazy;
// differentiable in q, k and v.
mx::array attention(const AttentionOptions& options, const mx::array& q, const mx::array& k, const mx::array& v,
                    const std::optional<mx::array>& spans = std::nullopt);

} // namespace temper::gpu
