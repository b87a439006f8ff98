// The gated delta rule: a linear-time mixer that keeps one matrix a head as its state (Qwen3-Next, Qwen3.5).
//   S_t = e^{g_t} S_{t-1} + beta_t k_t (v_t - e^{g_t} S_{t-1}^T k_t)^T,   o_t = S_t^T q_t / sqrt(D)
// Sources: Yang et al. 2024, arXiv:2412.06464 (the rule); Yang et al. 2024, arXiv:2406.06484 (chunks).
// Dims: B rows, T tokens a row, G key heads, H value heads (a multiple of G; head h reads key head h G / H),
//       D key features, V value features.
#pragma once

#include <optional>

#include "temper/nn/params.h"

namespace temper {

struct GatedDeltaInput {
  mx::array q_BTGD; // q and k are l2-normalized inside, in fp32
  mx::array k_BTGD;
  mx::array v_BTHV;
  mx::array g_BTH;    // fp32: log decay, at most 0
  mx::array beta_BTH; // fp32: how much of the old value is overwritten
  // int32 [B, T] (or [1, T]), restarting at 0 with each document: the state is cleared there. None: a row goes
  // on from `state`.
  std::optional<mx::array> positions_BT{};
  std::optional<mx::array> state_BHDV{}; // none: zeros
  // Keep only these inputs for the backward pass and compute the rest again there: what the chunks make is
  // fp32 and many times the inputs' size. Of no use within a block that is recomputed as a whole.
  bool recompute = true;
};

struct GatedDeltaResult {
  mx::array out_BTHV;   // v's dtype
  mx::array state_BHDV; // fp32, after the last token
};

// In chunks of 64 tokens: matrix products over all chunks at once, and a loop of one product a chunk; T of any
// length. T == 1 takes one plain step. Lazy; differentiable in q, k, v, g, beta and state. Throws ModelError,
// with the shapes, if they disagree.
GatedDeltaResult gated_delta(const GatedDeltaInput& input);

// The same, token by token: the twin of gated_delta() in tests.
GatedDeltaResult gated_delta_sequential(const GatedDeltaInput& input);

// x / sqrt(mean(x^2) + eps) * weight * silu(gate) over the last axis, weight [V]; the gate in fp32, the result
// in x's dtype. As transformers' Qwen3_5RMSNormGated. Lazy; differentiable.
mx::array gated_rms_norm(const mx::array& x, const mx::array& weight, const mx::array& gate, float eps);

} // namespace temper
