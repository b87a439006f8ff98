// Causal attention that never holds all scores: memory grows with T, not T^2, in plain operators, for devices
// and shapes that MLX's fused attention does not train. Each block of queries sees just the keys that it may.
// Source: Rabe and Staats 2021, arXiv:2112.05682 (blocks, recomputed for the gradient); Dao 2023,
// arXiv:2307.08691, section 2.3 (the gradient by D = rowsum(do o)).
// Dims: as in attention.h.
#pragma once

#include <optional>

#include "temper/nn/attention.h"

namespace temper {

// What attention() computes without a cache, of q [B, H, T, D], k and v [B, G, T, D] (already rotated).
// `segments_BT`, int32: keys of another segment are not seen. `block`: queries at a time; 0: as many as keep
// their scores to some 2^25. Scores are rounded to q's dtype, the softmax is fp32. Lazy; differentiable in q,
// k, v and the sinks, not twice.
mx::array blocked_attention(const AttentionSettings& settings, const mx::array& q, const mx::array& k,
                            const mx::array& v, const std::optional<mx::array>& segments_BT = std::nullopt,
                            int block = 0);

} // namespace temper
