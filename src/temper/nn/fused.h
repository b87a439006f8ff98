// Operations that have a faster form than a chain of MLX's own: each picks the host kernel where it serves
// (fp32 on a CPU) and its plain twin elsewhere. Lazy; differentiable.
#pragma once

#include "temper/nn/params.h"

namespace temper {

// gate * sigmoid(gate) * up. Source: Shazeer 2020, arXiv:2002.05202.
mx::array swiglu(const mx::array& gate, const mx::array& up);

// x / sqrt(mean(x^2) + eps) * weight over the last axis, weight [F]. Source: arXiv:1910.07467.
mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps);

// What host_attention() is over. Dims: B rows, T tokens a row, N = B T, M documents, H query heads, G key
// heads, D head_dim, K half of the rotated features.
struct HostAttention {
  mx::array documents_M2; // int32: each document's first token (of N) and length
  mx::array cos_NK;       // of each token's angles
  mx::array sin_NK;
  int heads = 0;
  int kv_heads = 0;
  float scale = 1.0F;
  int window = 0; // 0: no limit
};

// Rotates q [B, T, H D] and k [B, T, G D], attends causally within documents to v [B, T, G D] -> [B, T, H D].
// Host kernels only (use_host_kernels(q)); the twin is apply_rope() and attention() of attention.h.
mx::array host_attention(const HostAttention& spec, const mx::array& q, const mx::array& k, const mx::array& v);

} // namespace temper
